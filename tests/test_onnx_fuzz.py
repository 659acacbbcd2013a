"""Random ONNX nodes and exports: onnxruntime's numbers and the plain layers' bits, on both sides of every threshold."""

import dataclasses

import fuzz
import numpy as np
import pytest
from onnx_cases import BLOCKS, PEER, Case, activations, peer, tensors

import fastrnn

pytestmark = [pytest.mark.onnxruntime, pytest.mark.fuzz]

STEPS = (0, 1, 2, 3, 7, 16, 33)
ROWS = (0, 1, 2, 3, 5, 8, 63, 64, 65)  # up to 64 rows, a stream runs the node
SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33)  # both sides of every vector width


def pick(rng, values):
    return values[int(rng.integers(len(values)))]


def draw(seed):
    """Return a node with any attributes, optional tensors, sizes and dtype; also with layout 1."""
    rng = np.random.default_rng(seed)
    op, T, B, I, H = pick(rng, tuple(BLOCKS)), pick(rng, STEPS), pick(rng, ROWS), pick(rng, SIZES), pick(rng, SIZES)
    if rng.random() < 0.05:  # long enough for several chunks of steps, the last of them short
        T, B, I, H = pick(rng, ((513, 8, 8, 8), (4099, 8, 3, 3), (257, 4, 8, 64), (129, 64, 16, 16), (1025, 1, 4, 32)))
    direction = pick(rng, ("forward", "forward", "reverse", "bidirectional"))
    D = 2 if direction == "bidirectional" else 1
    attributes = {"direction": direction, "hidden_size": H}
    if rng.random() < 0.4:
        attributes |= activations(op, 1, rng)
        for name in [n for n in attributes if n.startswith("activation")]:
            # the same in both directions, so that there is one plain layer
            attributes[name] = list(attributes[name]) * D
    if rng.random() < 0.3:
        attributes["clip"] = float(rng.uniform(0.2, 1.5))
    if op == "GRU":
        attributes["linear_before_reset"] = int(rng.integers(2))
    if op == "LSTM" and rng.random() < 0.3:
        attributes["input_forget"] = 1
    if rng.random() < 0.15:
        attributes["layout"] = 1
    optional = ["B", "sequence_lens", "initial_h"] + (["initial_c", "P"] if op == "LSTM" else [])
    given = ["X", "W", "R"] + [t for t in optional if rng.random() < 0.5]
    made = tensors(op, max(T, 1), max(B, 1), I, H, D, rng, given, 0.8 / np.sqrt(H))  # larger ones are chaotic
    made["X"] = (rng.standard_normal((T, B, I)) * 0.6).astype("float32")
    for name in ("initial_h", "initial_c"):
        if name in made:
            made[name] = made[name][:, :B]
    if "sequence_lens" in made:
        made["sequence_lens"] = rng.integers(0 if rng.random() < 0.3 else min(T, 1), T + 1, B).astype("int32")
    if rng.random() < 0.25:
        made = {n: a if a.dtype.kind == "i" else a.astype("float64") for n, a in made.items()}
    if attributes.get("layout"):
        made |= {n: np.ascontiguousarray(made[n].swapaxes(0, 1)) for n in ("X", "initial_h", "initial_c") if n in made}
    every = ("Y", "Y_h", "Y_c")[: 3 if op == "LSTM" else 2]
    outputs = tuple(o for o in every if rng.random() < 0.7) or every
    weights = ("W", "R", "B", "P") if rng.random() < 0.75 else ()
    return Case(op, made, attributes, outputs, weights, 14 if "layout" in attributes else pick(rng, (7, 14, 22)))


def plain(case):
    """Return (layer, x, state) of the equivalent plain layer, built independently."""
    t, at, op = case.tensors, case.attributes, case.op
    H, I = t["R"].shape[2], t["W"].shape[2]
    D, gates = len(t["W"]), {"RNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 2, 3, 1]}[op]
    order, peeps = ([0, 3, 1], [0, 1]) if at.get("input_forget") else (gates, [0, 2, 1])
    defaults = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}[op]
    names, alphas, betas = (
        at.get("activations", defaults)[: len(defaults)],
        *(list(at.get(f"activation_{n}", [])) for n in ("alpha", "beta")),
    )
    ours = {
        "HardSigmoid": ("hard_sigmoid", 2),
        "LeakyRelu": ("leaky_relu", 1),
        "ThresholdedRelu": ("thresholded_relu", 1),
        "ScaledTanh": ("scaled_tanh", 2),
    }
    functions = []
    for name in names:
        known, numbers = ours.get(name, (name.lower(), {"Elu": 1, "Affine": 2}.get(name, 0)))
        values = [float(np.float32(part.pop(0))) for part in (alphas, betas)[:numbers]]
        functions.append((known, *values) if values else known)
    options = {
        "clip": float(np.float32(at["clip"])) if "clip" in at else None,
        "bias": "B" in t,
        "dtype": t["W"].dtype.name,
    }
    options |= {"bidirectional": D == 2, "reverse": at["direction"] == "reverse"}
    if op == "RNN":
        options["nonlinearity"] = functions[0]
    else:
        options |= {"recurrent_activation": functions[0], "activation": functions[1]}
    if op == "GRU":
        options["reset_after"] = bool(at["linear_before_reset"])
    if op == "LSTM":
        options |= {"output_activation": functions[2], "coupled": bool(at.get("input_forget")), "peephole": "P" in t}
    layer = getattr(fastrnn, op)(I, H, **options)

    def parts(a, which):
        return np.concatenate([a[k * H : (k + 1) * H] for k in which])

    params, half = {}, BLOCKS[op] * H
    for d, end in zip(range(D), ("_l0", "_l0_reverse")):
        params |= {"weight_ih" + end: parts(t["W"][d], order), "weight_hh" + end: parts(t["R"][d], order)}
        if "B" in t:
            params |= {"bias_ih" + end: parts(t["B"][d, :half], order), "bias_hh" + end: parts(t["B"][d, half:], order)}
        if "P" in t:
            params["weight_peephole" + end] = parts(t["P"][d], peeps)
    layer.load_state_dict(params)
    x = t["X"].swapaxes(0, 1) if at.get("layout") else t["X"]
    zeros = np.zeros((D, x.shape[1], H), x.dtype)
    states = [
        t[n].swapaxes(0, 1) if n in t and at.get("layout") else t.get(n, zeros) for n in ("initial_h", "initial_c")
    ]
    return layer, np.ascontiguousarray(x), tuple(states) if op == "LSTM" else states[0]


def wanted(case):
    """Return {output: array} of the plain layer."""
    layer, x, state = plain(case)
    y, final = layer(x, state, lengths=case.tensors.get("sequence_lens"))
    T, B, D, H = *x.shape[:2], layer.num_directions, layer.hidden_size
    Y = y.reshape(T, B, D, H)
    finals = [
        s.swapaxes(0, 1) if case.attributes.get("layout") else s for s in (final if layer.cell.has_c else (final,))
    ]
    return dict(
        zip(
            ("Y", "Y_h", "Y_c"),
            (Y.transpose(1, 0, 2, 3) if case.attributes.get("layout") else Y.transpose(0, 2, 1, 3), *finals),
        )
    )


def by_onnxruntime(case):
    """Return whether onnxruntime supports and equally defines this node. It crashes if there are no rows."""
    t = case.tensors
    empty = (
        0 in t["X"].shape[:2] or not t.get("sequence_lens", np.ones(1)).all()
    )  # it returns zeros for an empty sequence, not the initial state
    return not empty and t["X"].dtype == np.float32 and "layout" not in case.attributes


def test_random_nodes_have_the_bits_of_the_plain_layer_on_any_number_of_threads():
    for seed in fuzz.seeds("onnx: nodes", 250):
        with fuzz.named(seed):
            compare_node(seed)


def compare_node(seed):
    import fastrnn.onnx as backend

    case = draw(seed)
    model, want = case.model(), wanted(case)
    rep = backend.prepare(model)
    for threads in (1, 2, 3):
        with fastrnn.threads(threads):
            for again in range(2):
                for name, got in zip(case.outputs, rep.run(case.feeds), strict=True):
                    what = f"{name}, {threads} threads, run {again} of {case}"
                    np.testing.assert_array_equal(got, want[name], err_msg=what)
                    assert got.dtype == want[name].dtype and got.flags.c_contiguous and got.flags.writeable, what
    if by_onnxruntime(case):
        exact = wanted(
            dataclasses.replace(
                case, tensors={n: a if a.dtype.kind == "i" else a.astype("float64") for n, a in case.tensors.items()}
            )
        )
        for name, theirs in zip(case.outputs, peer(model, case.feeds), strict=True):
            agree(want[name], theirs, exact[name], f"{name} of {case}")


def agree(ours, theirs, exact, what):
    """Compare float32 results; if the network amplifies rounding, both may differ equally from float64."""
    if not np.allclose(ours, theirs, rtol=PEER["rtol"], atol=3e-5):
        mine, other = (float(np.abs(a - exact).max()) for a in (ours, theirs))
        assert mine <= 20 * other + 3e-5 and other <= 20 * mine + 3e-5, f"{what}: {mine:g} and {other:g} from float64"


def network(seed):
    """Return a random layer or stack that can be exported, and random sequences for it."""
    rng = np.random.default_rng(seed)
    features, layers, batch_first = pick(rng, SIZES), [], bool(rng.integers(2))
    dtype = pick(rng, ("float32", "float32", "float64"))
    for k in range(int(rng.integers(1, 3))):
        kind = pick(rng, (fastrnn.RNN, fastrnn.GRU, fastrnn.LSTM))
        options = {
            "bidirectional": bool(rng.integers(2)),
            "bias": rng.random() < 0.8,
            "learn_initial_state": rng.random() < 0.2,
        }
        if not options["bidirectional"]:
            options["reverse"] = rng.random() < 0.2
        if kind is fastrnn.GRU:
            options["reset_after"] = bool(rng.integers(2))
        if kind is fastrnn.LSTM:
            options |= {"peephole": rng.random() < 0.3, "coupled": rng.random() < 0.3}
        layers.append(
            kind(
                features,
                pick(rng, SIZES),
                int(rng.integers(1, 3)),
                batch_first=batch_first,
                dtype=dtype,
                seed=seed + k,
                **options,
            )
        )
        features = layers[-1].output_size
    net = layers[0] if len(layers) == 1 else fastrnn.Stacked(layers)
    T, B = pick(rng, STEPS), pick(rng, ROWS)
    x = rng.standard_normal((B, T, net.input_size) if batch_first else (T, B, net.input_size)).astype(dtype)
    return net, x, rng.integers(0, T + 1, B).astype("int32") if rng.random() < 0.5 else None


def test_random_networks_are_exported_and_loaded_as_they_are():
    for seed in fuzz.seeds("onnx: networks", 60):
        with fuzz.named(seed):
            compare_export(seed)


def compare_export(seed):
    import fastrnn.onnx as backend

    net, x, lengths = network(seed)
    model = backend.export(net, lengths=lengths is not None, state=False)
    want = net(x, lengths=lengths)[0]
    feeds = {"x": x} | ({} if lengths is None else {"sequence_lens": lengths})
    rep, loaded = backend.prepare(model), backend.load(model)
    for threads in (1, 2, 3):
        with fastrnn.threads(threads):
            np.testing.assert_array_equal(rep.run(feeds)[0], want, err_msg=f"export, {threads} threads")
            np.testing.assert_array_equal(loaded(x, lengths=lengths)[0], want, err_msg=f"load, {threads} threads")

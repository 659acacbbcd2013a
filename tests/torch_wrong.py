"""Calls that must be refused: a valid call with one fault, for modules and for the operators behind them."""

import torch
from torch.nn.utils import rnn as sequences

_SETTINGS = ["kind", "hidden_size", "num_layers", "bidirectional", "proj_size", "dropout", "key"]
FORWARD = ["x", "batch_sizes", "state", "params", *_SETTINGS, "train"]
BACKWARD = ["x", "batch_sizes", "state", "params", "tape", "dy", "dstate", *_SETTINGS, "need_x"]


def other(dtype):
    return torch.float64 if dtype == torch.float32 else torch.float32


def resized(t, dim, change):
    """Return a tensor of another size along one axis, filled with ones."""
    shape = list(t.shape)
    shape[dim] = change(shape[dim])
    return torch.ones(shape, dtype=t.dtype)


def tensors(name, t):
    """Yield (fault, tensor): each axis longer, shorter, of size one; one axis more and less; other dtypes."""
    for dim in range(t.dim()):
        yield f"{name}: axis {dim} longer", resized(t, dim, lambda n: n + 1)
        yield f"{name}: axis {dim} much longer", resized(t, dim, lambda n: 3000 + n)
        if t.shape[dim] > 1:
            yield f"{name}: axis {dim} shorter", resized(t, dim, lambda n: n - 1)
            yield f"{name}: axis {dim} of 1", resized(t, dim, lambda n: 1)
        yield f"{name}: axis {dim} of 0", resized(t, dim, lambda n: 0)
    yield f"{name}: an axis more", t[None]
    yield f"{name}: an axis less", t[0]
    yield f"{name}: no axis", t.sum()
    for dtype in (other(t.dtype), torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64):
        yield f"{name}: {dtype}", t.to(dtype)
    yield f"{name}: on meta", t.to("meta")
    yield f"{name}: sparse", t.to_sparse()


def right_x(case, what):
    """Return whether this change of x alone gives another valid call: other steps or, without states, other rows."""
    steps, rows = (1, 0) if case.options["batch_first"] and case.how != "unbatched" else (0, 1)
    if case.packed:
        return "axis" in what  # its lengths no longer fit, as torch's own functions report
    free = [f"axis {steps} longer", f"axis {steps} much longer", f"axis {steps} shorter", f"axis {steps} of 1"]
    if case.how == "unbatched":
        return what.split(": ")[1] in free or (not case.with_state and "an axis more" in what)
    if not case.with_state:
        free += [f"axis {rows} {how}" for how in ("longer", "much longer", "shorter", "of 1", "of 0")] + [
            "an axis less"
        ]
    return what.split(": ")[1] in free


def for_modules(case, inputs):
    """Yield (fault, inputs) for the module, in the form of `Case.inputs`."""
    x, state, lengths = inputs
    for what, t in tensors("x", x):
        if not right_x(case, what):
            yield what, (t, state, lengths)
    for k, s in enumerate(state or ()):
        for what, t in tensors(f"state[{k}]", s):
            yield what, (x, [*state[:k], t, *state[k + 1 :]], lengths)
    if state is not None and case.kind == "LSTM":
        yield "one state", (x, state[:1], lengths)
        yield "three states", (x, [*state, state[0]], lengths)


def packed_sequences(x, state):
    """Yield (fault, PackedSequence) of (T, B, I): batch sizes that are not those of its rows."""
    T, B = x.shape[:2]
    rows = x.flatten(0, 1)
    for what, sizes in {
        "sum too small": [B] * (T - 1),
        "sum too large": [B] * (T + 1),
        "rising": [B, B + 1, *[B] * (T - 3), B - 1],
        "negative at the end": [*[B] * T, 1, -1],
        "none": [],
    }.items():
        yield f"batch_sizes {what}", sequences.PackedSequence(rows, torch.tensor(sizes, dtype=torch.int64))
    right = torch.tensor([B] * T)
    yield "batch_sizes of two axes", sequences.PackedSequence(rows, right[None])
    yield "batch_sizes float", sequences.PackedSequence(rows, right.float())


def operator_call(case, module, x, state, sizes=None):
    """Return {name: argument} of a valid call of the operator."""
    kind = module.nonlinearity if case.kind == "RNN" else case.kind
    params = [p.detach() for p in module._flat_weights]
    values = [
        x,
        sizes,
        state,
        params,
        kind,
        module.hidden_size,
        module.num_layers,
        module.bidirectional,
        module.proj_size,
        0.0,
        None,
        True,
    ]
    return dict(zip(FORWARD, values, strict=True))


def backward_call(given, results):
    """Return {name: argument} of a valid call of the operator's gradient, from a call and its results."""
    y, h_n, c_n, tape = results
    states = [h_n, c_n][: len(given["state"])]
    given = given | {
        "tape": tape,
        "dy": torch.ones_like(y),
        "dstate": [torch.ones_like(s) for s in states],
        "need_x": True,
    }
    return {name: given[name] for name in BACKWARD}


def settings(given):
    """Yield (fault, arguments) for the sizes and options of either operator."""
    H, L, P = given["hidden_size"], given["num_layers"], given["proj_size"]
    wrong = {
        "hidden_size": [H + 1, H - 1, 0, -1, 2**40],
        "num_layers": [L + 1, L - 1, 0, -1, 2**40],
        "bidirectional": [not given["bidirectional"]],
        "proj_size": [P + 1, -1, H, 2**40] + [P - 1] * (P > 0),
        "kind": [
            k
            for k in ("GRU", "LSTM", "tanh", "Gru", "")
            if k != given["kind"] and not (k == "tanh" and given["kind"] == "relu")
        ],
        "dropout": [-0.1, 1.5, float("nan")],
    }
    for name, values in wrong.items():
        for value in values:
            yield f"{name}={value}", given | {name: value}
    for what, key in {
        "of two numbers": torch.tensor([1, 2]),
        "float": torch.tensor([1.0]),
        "empty": torch.empty(0, dtype=torch.int64),
    }.items():
        yield f"key {what}", given | {"dropout": 0.5, "key": key}
    yield "dropout without a key", given | {"dropout": 0.5}


def lists(given, name):
    """Yield (fault, arguments) for one tensor of a list, and for its length."""
    values = given[name]
    for k, t in enumerate(values):
        for what, spoilt in tensors(f"{name}[{k}]", t):
            yield what, given | {name: [*values[:k], spoilt, *values[k + 1 :]]}
    yield f"{name} one more", given | {name: [*values, values[-1]]}
    yield f"{name} one less", given | {name: values[:-1]}
    yield f"{name} empty", given | {name: []}


def batch_sizes(given):
    """Yield (fault, arguments) for a call with the rows of a PackedSequence."""
    rows, sizes = len(given["x"]), given["batch_sizes"].tolist()
    for what, changed in {
        "sum too small": sizes[:-1], "sum too large": [*sizes, 1], "rising": [*sizes[:-1], sizes[0] + 1],
        "negative": [*sizes, 1, -1], "empty": [], "one step": [rows], "huge": [2**62, 2**62],
    }.items():  # fmt: skip
        if changed != sizes:
            yield f"batch_sizes {what}", given | {"batch_sizes": torch.tensor(changed, dtype=torch.int64)}
    for what, t in {"int32": given["batch_sizes"].int(), "float": given["batch_sizes"].float(),
        "of two axes": given["batch_sizes"][None],
                    "on meta": given["batch_sizes"].to("meta")}.items():  # fmt: skip
        yield f"batch_sizes {what}", given | {"batch_sizes": t}


def for_operator(given):
    """Yield (fault, arguments) for the operator."""
    for what, t in tensors("x", given["x"]):
        if "tape" not in given and given["batch_sizes"] is None and "axis 0" in what and "of 0" not in what:
            continue  # other numbers of steps are valid
        yield what, given | {"x": t}
    for name in ("state", "params"):
        yield from lists(given, name)
    yield from settings(given)
    if given["batch_sizes"] is not None:
        yield from batch_sizes(given)


def for_backward(given):
    """Yield (fault, arguments) for the operator's gradient."""
    yield from for_operator(given)
    for name in ("tape", "dy"):
        for what, t in tensors(name, given[name]):
            if what != "tape: axis 0 of 0":  # it is computed in backward
                yield what, given | {name: t}
    yield from lists(given, "dstate")

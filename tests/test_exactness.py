"""All methods of the layers on random sizes, options and threads.

Each row alone on one thread gives the same bits, and the float64 reference the same numbers. Sizes are drawn on both
sides of every threshold in the code (thresholds.py); unwritten memory is NaN (conftest.py).
"""

import contextlib
import re
from pathlib import Path

import numpy as np
import pytest
import thresholds
from fuzz import seeds
from nets import (
    CELLS,
    DTYPES,
    MAKERS,
    as_state,
    as_tuple,
    make,
    random_case,
    same_bits,
    same_gradients,
    same_state,
    state_sizes,
)
from numpy.testing import assert_allclose
from reference import CELLS as REFERENCE
from thresholds import ENGINE, PYTHON, around, lanes

import fastrnn
from fastrnn import AttentionDecoder, Embedding, Linear, _engine
from fastrnn.losses import softmax_cross_entropy, softmax_linear, softmax_linear_nll
from fastrnn.search import search

pytestmark = pytest.mark.fuzz


def test_every_threshold_of_the_core_is_listed():
    listed = {
        *thresholds.STEPS,
        *thresholds.ROWS,
        *thresholds.WORK,
        *thresholds.STEP_WORK,
        *thresholds.BYTES,
        *thresholds.OTHER,
    }
    assert listed == set(ENGINE)
    sources = Path(__file__).parent.parent / "src"
    for path in sources.glob("*.pxd"):
        for block in re.findall(r"^cdef enum:\n((?:    .*\n)+)", path.read_text(), re.M):
            named = set(re.findall(r"^    ([A-Z_]+) *=", block, re.M))
            assert named <= set(ENGINE), f"{path.name}: {named - set(ENGINE)} are not in _engine.thresholds()"


# --- random cases ---------------------------------------------------------------------------------------------------


def draw_sizes(rng, cell, dtype):
    """Return (T, B, I, H, layers) on one side or the other of some threshold."""
    G, item = REFERENCE[cell][1], np.dtype(dtype).itemsize
    T, B, I, H, layers = (int(n) for n in rng.integers([0, 0, 0, 1, 1], [10, 7, 10, 10, 4]))
    kind = rng.choice(
        ["small", "lanes", "steps", "rows", "work", "bytes", "chunk", "wave", "gradient", "slice", "short"]
    )
    if kind == "lanes":
        H, I, B, layers = lanes(rng, dtype), lanes(rng, dtype, 0), int(rng.integers(1, 15)), int(rng.integers(1, 3))
    elif kind == "steps":
        T = around(rng, ENGINE[rng.choice(thresholds.STEPS)] * rng.choice([1, 2, 4, 8]))
    elif kind == "rows":
        B, I, H = (
            around(rng, ENGINE[rng.choice(thresholds.ROWS)] * rng.choice([1, 1, 2])),
            int(rng.integers(1, 40)),
            lanes(rng, dtype),
        )
    elif kind == "bytes":
        H = around(rng, (ENGINE[rng.choice(thresholds.BYTES)] / (G * item)) ** 0.5)
        T, B, layers = int(rng.integers(1, 6)), int(rng.integers(1, 6)), 1
    elif kind == "chunk":
        H = lanes(rng, dtype)
        B, T, layers = (
            around(rng, ENGINE["CHUNK_BYTES"] / (G * H * item * rng.choice([1, 2, 5, 48]))),
            int(rng.integers(1, 9)),
            1,
        )
        B = min(B, 300)
    elif kind == "short":
        B = around(rng, PYTHON["SHORT_SEQUENCES"]) if rng.random() < 0.5 else int(rng.integers(1, 8))
        T = around(rng, PYTHON["SHORT_ROWS"] / B)
    elif kind == "gradient":
        B = int(rng.choice([1, 5, 8, 64]))
        T = around(rng, PYTHON["CHUNK_ROWS"] * rng.choice([1, 2]) / B)
    if kind in ("rows", "work"):
        worth = ENGINE[rng.choice(thresholds.WORK[:2])] / rng.choice([1, ENGINE["AWAKE_DISCOUNT"]])
        if kind == "work":
            B, H = max(1, B), lanes(rng, dtype)
        T = min(around(rng, worth / (2 * G * H * (H + I) * B)), 20000, 40000 // B)
    elif kind == "wave":
        B, layers = (
            int(rng.integers(1, 9)),
            int(rng.integers(30, 40)) if rng.random() < 0.2 else int(rng.integers(2, 6)),
        )
        T = around(rng, 4 * ENGINE["WAVE_STEPS"])
        step = ENGINE["WAVE_FLOPS"] if rng.random() < 0.4 and layers < 6 else ENGINE["SPLIT_FLOPS"] / T / layers
        H = around(rng, (step / (4 * G * B)) ** 0.5)
    elif kind == "slice" and rng.random() < 0.1:
        B, I, layers = int(rng.integers(1, 9)), int(rng.integers(1, 9)), 1
        H = lanes(rng, dtype)
        T = min(around(rng, ENGINE["SLICE_FLOPS"] / (2 * G * H * (H + I) * B)), 10000)
    return T, B, I, H, layers


def draw_case(rng, seed, *, forward_only=False):
    cell, dtype = rng.choice(CELLS), rng.choice(DTYPES)
    T, B, I, H, layers = draw_sizes(rng, cell, dtype)
    bidirectional = bool(rng.random() < 0.3) and not forward_only
    given = {} if forward_only else dict(lengths=rng.random() < 0.4, resets=rng.random() < 0.25)
    return random_case(
        cell, T, B, I, H, dtype=dtype, seed=seed, state=rng.random() < 0.6, context=3 if rng.random() < 0.2 else 0,
        num_layers=layers, bidirectional=bidirectional, bias=rng.random() < 0.9, **given,
    )  # fmt: skip


@contextlib.contextmanager
def divided(rng):
    """Use 1 to 4 threads, sometimes with a division of work that the cost model would not choose."""
    _engine.force_split(rng.choice(["rows", "units"]) if rng.random() < 0.3 else None)
    try:
        with fastrnn.threads(int(rng.integers(1, 5))):
            yield
    finally:
        _engine.force_split(None)


def row_of(case, b):
    """Return the arguments of a call for row b alone, cut at the row's length, and that length."""
    n = int(case.given["lengths"][b]) if "lengths" in case.given else len(case.x)
    given = {}
    if "resets" in case.given:
        given["resets"] = case.given["resets"][:n, b : b + 1]
    if "context" in case.given:
        given["context"] = case.given["context"][b : b + 1]
    state = None if case.state is None else as_state(tuple(s[:, b : b + 1] for s in case.state))
    return n, (case.x[:n, b : b + 1], state), given


def some_rows(rng, B, most=6):
    return range(B) if B <= most else sorted({0, B - 1, *rng.choice(B, most - 2, replace=False).tolist()})


def check_row(name, y, state, b, n, want_y, want_state):
    same_bits(np.ascontiguousarray(y[:n, b]), want_y[:, 0], f"{name}: y of row {b}")
    assert not y[n:, b].any(), f"{name}: y past the length of row {b}"
    for k, (got, want) in enumerate(zip(as_tuple(state), as_tuple(want_state), strict=True)):
        same_bits(np.ascontiguousarray(got[:, b]), want[:, 0], f"{name}: state {k} of row {b}")


def check_reference(case, y, state):
    """Compare with the float64 reference, if that does not take long."""
    T, B, _ = case.x.shape
    if not 0 < T * B * case.options.get("num_layers", 1) <= 300:
        return
    want_y, want_state = case.reference()
    close = dict(rtol=1e-9, atol=1e-11) if case.dtype == "float64" else dict(rtol=2e-4, atol=2e-5)
    assert_allclose(y, want_y, **close, err_msg="y against the reference")
    for got, want in zip(as_tuple(state), want_state, strict=True):
        assert_allclose(got, want, **close, err_msg="state against the reference")


# --- layers --------------------------------------------------------------------------------------------------------


def check_layer(seed):
    rng = np.random.default_rng([1, seed])
    case = draw_case(rng, seed)
    net, B = case.net(), case.x.shape[1]
    with divided(rng):
        y, state = net(case.x, case.layer_state(), **case.given)
    with divided(rng):
        outputs, backward = net.vjp(case.x, case.layer_state(), **case.given)
    with divided(rng):
        g = backward(case.dy, case.layer_dstate())
    same_bits(outputs[0], y, f"{case}: y of vjp")
    same_state(outputs[1], state, f"{case}: state of vjp")
    check_reference(case, y, state)
    with fastrnn.threads(1):
        (_, _), again = net.vjp(case.x, case.layer_state(), **case.given)
        same_gradients(g, again(case.dy, case.layer_dstate()), f"{case}: gradients on one thread")
        rows = some_rows(rng, B)
        total = np.zeros(len(g.flat))
        for b in rows:
            n, (x, s), given = row_of(case, b)
            want, alone = net.vjp(x, s, **given)
            check_row(f"{case}", y, state, b, n, *want)
            one = alone(case.dy[:n, b : b + 1], as_state(tuple(d[:, b : b + 1] for d in case.dstate)))
            check_row(f"{case}: gradient of", g.x, g.state, b, n, one.x, one.state)
            total += one.flat
    if len(rows) == B:  # sums over rows: in another order, so equal only to rounding
        close = 1e-10 if case.dtype == "float64" else 2e-4
        assert_allclose(
            g.flat,
            total,
            rtol=close,
            atol=close * max(1.0, np.abs(total).max(initial=0)),
            err_msg=f"{case}: parameters",
        )


def check_embedding_and_layout(seed):
    """Use ids as x, batch_first, a single unbatched sequence, or mask instead of lengths."""
    rng = np.random.default_rng([2, seed])
    case = draw_case(rng, seed)
    T, B, I = case.x.shape
    if I == 0 or not T * B:
        return
    table = Embedding(int(rng.choice([2, T * B - 1, T * B, T * B + 1, 500])) or 1, I, dtype=case.dtype, seed=seed)
    ids = rng.integers(0, table.num_embeddings, (T, B))
    net, other = case.net(), case.net(batch_first=True)
    x = table(ids)
    with divided(rng):
        y, state = net(ids, case.layer_state(), embedding=table, **case.given)
    with divided(rng):
        (trained, _), backward = net.vjp(ids, case.layer_state(), embedding=table, **case.given)
        ids[...] = rng.integers(2**40)  # a caller that reads the next batch into the same buffer
        g = backward(case.dy, case.layer_dstate())
    with fastrnn.threads(1):
        (want, want_state), backward = net.vjp(x, case.layer_state(), **case.given)
        want_g = backward(case.dy, case.layer_dstate())
    same_bits(y, want, f"{case}: ids")
    same_bits(trained, want, f"{case}: ids of vjp")
    same_state(state, want_state)
    same_bits(g.params["weight_hh_l0"], want_g.params["weight_hh_l0"], f"{case}: ids")
    close = 1e-9 if case.dtype == "float64" else 1e-3
    assert_allclose(
        g.params["weight_ih_l0"],
        want_g.params["weight_ih_l0"],
        rtol=close,
        atol=close * (1 + T * B) ** 0.5,
        err_msg=f"{case}",
    )
    turned = {name: a.T if name == "resets" else a for name, a in case.given.items()}
    with divided(rng):
        y, state = other(x.transpose(1, 0, 2), case.layer_state(), **turned)
    same_bits(np.ascontiguousarray(y.transpose(1, 0, 2)), want, f"{case}: batch_first")
    if "lengths" in case.given:
        mask = np.arange(T)[:, None] < case.given["lengths"]
        rest = {name: a for name, a in case.given.items() if name != "lengths"}
        with divided(rng):
            y, state = net(x, case.layer_state(), mask=mask, **rest)
        same_bits(np.where(mask[..., None], y, 0), np.where(mask[..., None], want, 0), f"{case}: mask")
        same_state(state, want_state, f"{case}: mask")


def check_streams(seed):
    rng = np.random.default_rng([3, seed])
    case = draw_case(rng, seed, forward_only=True)
    T, B, I = case.x.shape
    if B == 0:
        return
    net = case.net()
    with fastrnn.threads(1):
        y, state = net(case.x, case.layer_state(), **case.given)
    with divided(rng):
        again, state_again = net(case.x, case.layer_state(), **case.given)  # by a stream, if the call is short
    same_bits(again, y, f"{case}: called again")
    same_state(state_again, state, f"{case}: called again")
    stream = net.stream(B, **case.given)
    if case.state is not None:
        stream.state = case.layer_state()
    got, t = np.full(y.shape, np.nan, case.dtype), 0
    while t < T:
        with divided(rng):
            for _ in range(int(rng.integers(1, 4))):
                if t < T and rng.random() < 0.3:
                    stream.step(case.x[t], out=got[t])
                    t += 1
                else:
                    n = min(
                        T - t, int(rng.choice([T, 0, 1, rng.integers(0, T + 1), around(rng, ENGINE["CHUNK_STEPS"])]))
                    )
                    stream.run(case.x[t : t + n], out=got[t : t + n])
                    t += n
    same_bits(got, y, f"{case}: stream")
    same_state(stream.state, state, f"{case}: stream")


def check_stacked(seed):
    rng = np.random.default_rng([4, seed])
    dtype = rng.choice(DTYPES)
    T, B, size, _, _ = draw_sizes(rng, "gru", dtype)
    T, layers, width = min(T, 200), [], size
    for k in range(int(rng.integers(1, 4))):
        sizes = width, int(rng.integers(2, 20)), int(rng.integers(1, 3))
        layers.append(make(rng.choice(CELLS), *sizes, dtype=dtype, seed=k, bidirectional=bool(rng.random() < 0.2)))
        width = layers[-1].output_size
    net = fastrnn.Stacked(layers)
    x = rng.standard_normal((T, B, size)).astype(dtype)
    with divided(rng):
        y, state = net(x)
    with divided(rng):
        (trained, _), backward = net.vjp(x)
        g = backward(np.ones_like(y))
    same_bits(trained, y, f"{net}: vjp")
    with fastrnn.threads(1):
        want = x
        for layer, member in zip(net.layers, state):
            want, final = layer(want)
            same_state(member, final, f"{net}")
        same_bits(y, want, f"{net} of x {x.shape}")
        same_gradients_of(net.vjp(x)[1](np.ones_like(y)), g, f"{net}")
    if B and not any(layer.bidirectional for layer in net.layers):
        with divided(rng):
            same_bits(net.stream(B).run(x), y, f"{net}: stream")


def same_gradients_of(got, want, what):
    same_bits(got.flat, want.flat, what)
    same_bits(got.x, want.x, what)


# --- decoders ------------------------------------------------------------------------------------------------------

DECODER_CELLS = [cell for cell in CELLS if "proj_size" not in MAKERS[cell][1]]


def draw_decoder(rng, seed):
    """Return (decoder, T, B, further arguments of a call) on either side of a threshold."""
    cell, dtype = rng.choice(DECODER_CELLS), rng.choice(DTYPES)
    attention = str(rng.choice(["additive", "dot", "general"]))
    H, I = lanes(rng, dtype), int(rng.integers(1, 9))
    layers = int(rng.integers(30, 40)) if rng.random() < 0.1 else int(rng.integers(1, 4))
    M = H if attention == "dot" else int(rng.integers(1, 20))
    rnn = make(cell, I, H, layers, dtype=dtype, seed=seed)
    decoder = AttentionDecoder(rnn, M, attention=attention, input_feeding=bool(rng.random() < 0.7), seed=seed)
    S, B = int(rng.integers(1, 12)), int(rng.choice([1, 2, 4, 5, 8, 9, 33]))
    T = (
        int(min(60, around(rng, ENGINE["SPLIT_FLOPS"] / (8 * H * H * layers * B))))
        if rng.random() < 0.5
        else int(rng.integers(0, 6))
    )
    given = dict(memory=rng.standard_normal((S, B, M)).astype(dtype))
    if rng.random() < 0.6:
        given["memory_lengths"] = rng.integers(0, S + 1, B)
    if rng.random() < 0.5:
        given["state"] = as_state(
            tuple(rng.standard_normal((layers, B, n)).astype(dtype) for n in state_sizes(cell, H))
        )
    return decoder, T, B, given


def decoder_row(given, b):
    one = {"memory": given["memory"][:, b : b + 1]}
    if "memory_lengths" in given:
        one["memory_lengths"] = given["memory_lengths"][b : b + 1]
    if "state" in given:
        one["state"] = as_state(tuple(s[:, b : b + 1] for s in as_tuple(given["state"])))
    return one


def check_attention(seed):
    rng = np.random.default_rng([5, seed])
    decoder, T, B, given = draw_decoder(rng, seed)
    x = rng.standard_normal((T, B, decoder.input_size)).astype(decoder.dtype)
    lengths = rng.integers(0, T + 1, B) if rng.random() < 0.5 else None
    dy = rng.standard_normal((T, B, decoder.output_size)).astype(decoder.dtype)
    what = f"{decoder} of x {x.shape}, memory {given['memory'].shape}"
    with divided(rng):
        y, state, alpha = decoder(x, lengths=lengths, return_attention=True, **given)
    with divided(rng):
        (trained, _), backward = decoder.vjp(x, lengths=lengths, **given)
    with divided(rng):
        g = backward(dy)
    same_bits(trained, y, what)
    with fastrnn.threads(1):
        same_gradients_of(decoder.vjp(x, lengths=lengths, **given)[1](dy), g, what)
        for b in some_rows(rng, B, 4):
            n = T if lengths is None else int(lengths[b])
            (want, want_state), alone = decoder.vjp(x[:n, b : b + 1], **decoder_row(given, b))
            check_row(what, y, state, b, n, want, want_state)
            one = alone(dy[:n, b : b + 1])
            check_row(f"{what}: gradient of", g.x, g.state, b, n, one.x, one.state)
            same_bits(
                np.ascontiguousarray(g.memory[:, b]), one.memory[:, 0], f"{what}: gradient of the memory of row {b}"
            )
            assert_allclose(
                alpha[:n, b].sum(axis=1), float(given.get("memory_lengths", np.ones(B))[b] > 0), atol=1e-5, err_msg=what
            )


def check_search(seed):
    rng = np.random.default_rng([6, seed])
    decoder, _, B, given = draw_decoder(rng, seed)
    beam = int(rng.choice([1, 1, 2, 5, ENGINE["MAX_HYPOTHESES"] - 1, ENGINE["MAX_HYPOTHESES"]]))
    V = int(rng.choice([2, 3, 11, 2 * beam - 1, 2 * beam, 2 * beam + 1, 200]))
    V = max(V, 2)
    if rng.random() < 0.4:
        decoder, given = decoder.rnn, {name: a for name, a in given.items() if name == "state"}
    if rng.random() < 0.2:
        B = min(around(rng, PYTHON["GROUP_ROWS"] / beam), 20)
        memory = {name: np.repeat(a[:, :1], B, 1) for name, a in given.items() if name == "memory"}
        given = memory
    embedding = Embedding(V, decoder.input_size, dtype=decoder.dtype, seed=1)
    linear = Linear(decoder.output_size, V, dtype=decoder.dtype, seed=2)
    limits = rng.integers(1, 12, B)
    options = dict(start=0, end=1, beam=beam, n_best=beam, length_penalty=float(rng.choice([0, 0.7])))
    if beam == 1 and rng.random() < 0.5:
        options |= dict(temperature=0.8, key=int(rng.integers(2**40)))
    with divided(rng):
        found = search(decoder, embedding, linear, rows=B, max_length=limits, **options, **given)
    if "temperature" in options:  # draws are keyed by the row: only the number of threads may vary
        with fastrnn.threads(1):
            same_hypotheses(
                found,
                search(decoder, embedding, linear, rows=B, max_length=limits, **options, **given),
                f"{decoder}, {options}",
            )
        return
    for b in some_rows(rng, B, 4):
        one = (
            decoder_row(given, b)
            if "memory" in given
            else {n: as_state(tuple(s[:, b : b + 1] for s in as_tuple(a))) for n, a in given.items()}
        )
        with fastrnn.threads(1):
            want = search(decoder, embedding, linear, rows=1, max_length=limits[b], **options, **one)
        same_hypotheses([found[b]], want, f"{decoder}, {options}, row {b}")
        check_scores(decoder, embedding, linear, found[b], one, options, f"{decoder}, {options}, row {b}")


def check_scores(decoder, embedding, linear, found, given, options, what):
    """The scores of a row's output are those of one call over the same symbols."""
    memory = (given["memory"],) if "memory" in given else ()
    given = {name: a for name, a in given.items() if name != "memory"}
    for h in found[:3]:
        y = decoder(np.array([options["start"], *h.ids])[:, None], *memory, embedding=embedding, **given)[0][:, 0]
        logits = linear(y).astype("float64")
        likely = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        symbols = [*h.ids, options["end"]][: len(h.ids) + h.ended]
        total = (
            sum(likely[t, symbol] for t, symbol in enumerate(symbols))
            / ((5 + len(symbols)) / 6) ** options["length_penalty"]
        )
        assert_allclose(h.score, total, rtol=1e-9 if decoder.dtype == "float64" else 1e-4, atol=1e-5, err_msg=what)


def same_hypotheses(got, want, what):
    for row, other in zip(got, want, strict=True):
        assert [(h.ids.tolist(), h.score, h.ended) for h in row] == [
            (h.ids.tolist(), h.score, h.ended) for h in other
        ], what


# --- products ------------------------------------------------------------------------------------------------------


def check_products(seed):
    rng = np.random.default_rng([7, seed])
    dtype = rng.choice(DTYPES)
    K, V = int(rng.choice([1, 7, 8, 64, 65])), int(rng.choice([1, 2, 17, 64, 257]))
    target = rng.choice(["small", "work", "logits"])
    M = int(rng.integers(0, 20))
    if target == "work":
        M = min(around(rng, ENGINE["SPLIT_FLOPS"] / (2 * K * V)), 20000)
    elif target == "logits":
        M = min(around(rng, max(64, PYTHON["LOGITS_BYTES"] / (V * np.dtype(dtype).itemsize))), 20000)
    linear = Linear(K, V, dtype=dtype, seed=seed)
    x, targets = rng.standard_normal((M, K)).astype(dtype), rng.integers(-1, V, M)
    what = f"{linear} of {M} rows"
    out = np.full((M, V), np.nan, dtype)
    with divided(rng):
        y, backward = linear.vjp(x, out=out)
        g = backward(y)
    with divided(rng):
        nll = softmax_cross_entropy(y, targets, reduction="none")
        into = np.zeros_like(linear.storage.flat)
        loss, dx = softmax_linear(linear, x, targets, into=into)
        same_bits(softmax_linear_nll(linear, x, targets), nll, what)
    with fastrnn.threads(1):
        want, backward = linear.vjp(x)
        same_bits(y, want, what)
        same_gradients_of(g, backward(y), what)
        again = np.zeros_like(into)
        want_loss, want_dx = softmax_linear(linear, x, targets, into=again)
        same_bits(into, again, what)
        same_bits(dx, want_dx, what)
        assert loss == want_loss, what
        for m in some_rows(rng, M):
            same_bits(y[m], linear(x[m]), what)
            same_bits(nll[m : m + 1], softmax_cross_entropy(y[m : m + 1], targets[m : m + 1], reduction="none"), what)


CHECKS = {
    check_layer: 160, check_embedding_and_layout: 80, check_streams: 160, check_stacked: 50, check_attention: 60,
    check_search: 50, check_products: 60,
}  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_rows_alone_on_one_thread_give_the_same_bits(check):
    for seed in seeds(check.__name__, CHECKS[check]):
        try:
            check(seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from None

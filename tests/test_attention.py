"""AttentionDecoder: numbers and gradients against NumPy float64, bit-for-bit laws, errors."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import reference
from nets import DTYPES, MAKERS, as_state, as_tuple, make, same_bits
from numpy.testing import assert_allclose

import fastrnn
from fastrnn import AttentionDecoder, Embedding, Storage

ATTENTIONS = ["additive", "dot", "general"]
SIZES = dict(T=4, B=5, I=3, H=7, S=6, M=7, A=5, F=6, C=2)  # M = H, required by dot


def decoder_of(cell="gru", attention="additive", feeds=True, layers=1, dtype="float64", **options):
    n = SIZES
    rnn = make(cell, n["I"], n["H"], layers, dtype=dtype, context_size=n["C"], seed=1, **options)
    return AttentionDecoder(
        rnn,
        n["M"],
        attention=attention,
        size=n["A"] if attention == "additive" else None,
        output_size=n["F"],
        input_feeding=feeds,
        seed=2,
    )


def arguments(layers=1, states=1, dtype="float64", ragged=True):
    """Return x, memory, state, context, and the lengths."""
    n, rng = SIZES, np.random.default_rng(3)
    x, memory = rng.standard_normal((n["T"], n["B"], n["I"])), rng.standard_normal((n["S"], n["B"], n["M"]))
    state = tuple(0.5 * rng.standard_normal((layers, n["B"], n["H"])) for _ in range(states))
    values = dict(
        x=x,
        memory=memory,
        context=rng.standard_normal((n["B"], n["C"])),
        **{f"state{k}": s for k, s in enumerate(state)},
    )
    lengths = dict(lengths=np.array([2, 4, 0, 3, 4]), memory_lengths=np.array([6, 1, 3, 0, 4])) if ragged else {}
    return {name: a.astype(dtype) for name, a in values.items()}, lengths


def decode64(cell, params, values, lengths, *, layers, attention, feeds):
    """Return y (T, B, F), alpha (T, B, S) and the final states, computed one row and one step at a time."""
    step, gates, states = reference.CELLS[cell]
    p = {name: np.asarray(a, np.float64) for name, a in params.items()}
    x, memory = values["x"], values["memory"]
    T, B = x.shape[:2]
    F = len(p["bias_out"])
    y, alpha = np.zeros((T, B, F)), np.zeros((T, B, len(memory)))
    state_n = [np.array(values[f"state{k}"]) for k in range(states)]
    for b in range(B):
        feed = np.zeros(F)
        m = memory[: lengths.get("memory_lengths", [len(memory)] * B)[b], b]
        for t in range(lengths.get("lengths", [T] * B)[b]):
            below = x[t, b]
            for layer in range(layers):
                q = reference.direction_params(
                    {n[4:]: a for n, a in p.items() if n.startswith("rnn.")}, f"_l{layer}", gates
                )
                side = q["w_ih"] @ below + q["b_ih"]
                if layer == 0:
                    side = side + q["w_ch"] @ values["context"][b] + (p["weight_feed"] @ feed if feeds else 0)
                new = step(q, side, *(s[layer, b] for s in state_n))
                for s, value in zip(state_n, new):
                    s[layer, b] = value
                below = new[0]
            if attention == "additive":
                score = np.tanh(p["weight_query"] @ below + m @ p["weight_key"].T) @ p["weight_score"]
            else:
                score = (m if attention == "dot" else m @ p["weight_key"].T) @ below
            if len(m):
                weights = np.exp(score - score.max())
                alpha[t, b, : len(m)] = weights / weights.sum()
            c = alpha[t, b, : len(m)] @ m
            feed = y[t, b] = np.tanh(p["weight_out"] @ np.concatenate([c, below]) + p["bias_out"])
    return y, alpha, tuple(state_n)


CASES = [
    (cell, "additive", True, 1) for cell, (_, options) in MAKERS.items() if "proj_size" not in options
]  # which are refused
CASES += [("gru", attention, feeds, layers) for attention in ATTENTIONS for feeds in (True, False) for layers in (1, 2)]
CASES += [("lstm", attention, True, 3) for attention in ATTENTIONS]


def called(decoder, values, lengths, states, method="__call__", **more):
    state = as_state(tuple(values[f"state{k}"] for k in range(states)))
    return getattr(decoder, method)(values["x"], values["memory"], state, context=values["context"], **lengths, **more)


@pytest.mark.parametrize("ragged", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell, attention, feeds, layers", CASES)
def test_outputs_weights_and_states_agree_with_float64(isa, cell, attention, feeds, layers, dtype, ragged):
    states = reference.CELLS[cell][2]
    decoder = decoder_of(cell, attention, feeds, layers, dtype)
    values, lengths = arguments(layers, states, dtype, ragged)
    y, state_n, alpha = called(decoder, values, lengths, states, return_attention=True)
    wide = {name: a.astype("float64") for name, a in values.items()}
    want_y, want_alpha, want_state = decode64(
        cell, decoder.params, wide, lengths, layers=layers, attention=attention, feeds=feeds
    )
    bound = dict(rtol=1e-5, atol=2e-6) if dtype == "float32" else dict(rtol=1e-12, atol=1e-13)
    assert_allclose(y, want_y, **bound)
    assert_allclose(alpha, want_alpha, **bound)
    for got, want in zip(as_tuple(state_n), want_state, strict=True):
        assert_allclose(got, want, **bound)
    (same_y, same_state), _ = called(decoder, values, lengths, states, "vjp")
    same_bits(same_y, y)
    for one, other in zip(as_tuple(same_state), as_tuple(state_n)):
        same_bits(one, other)


@pytest.mark.parametrize("ragged", [True, False])
@pytest.mark.parametrize("cell, attention, feeds, layers", CASES)
def test_every_gradient_matches_central_differences(isa, cell, attention, feeds, layers, ragged):
    states = reference.CELLS[cell][2]
    decoder = decoder_of(cell, attention, feeds, layers)
    values, lengths = arguments(layers, states, ragged=ragged)
    rng = np.random.default_rng(4)
    (y, state_n), backward = called(decoder, values, lengths, states, "vjp")
    dy, dstate = rng.standard_normal(y.shape), tuple(rng.standard_normal(s.shape) for s in as_tuple(state_n))
    g = backward(dy, as_state(dstate))
    again = backward(dy, as_state(dstate))
    same_bits(again.flat, g.flat, "a second call")
    params = {name: np.array(a) for name, a in decoder.params.items()}

    def loss(params, values):
        y, _, state = decode64(cell, params, values, lengths, layers=layers, attention=attention, feeds=feeds)
        return (y * dy).sum() + sum((s * d).sum() for s, d in zip(state, dstate))

    gradients = dict(
        x=g.x,
        memory=g.memory,
        context=g.context,
        **{f"state{k}": s for k, s in enumerate(as_tuple(g.state))},
        **g.params,
    )
    assert gradients.keys() == values.keys() | params.keys()
    for name, gradient in gradients.items():
        source = values if name in values else params
        direction = rng.standard_normal(source[name].shape)
        found = []
        for step in (1e-6, -1e-6):
            moved = {**source, name: source[name] + step * direction}
            found.append(loss(params, moved) if source is values else loss(moved, values))
        assert_allclose((gradient * direction).sum(), (found[0] - found[1]) / 2e-6, rtol=1e-6, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_ids_with_an_embedding_are_its_rows(cell):
    storage = Storage("float64")
    embedding = Embedding(9, 3, dtype="float64", storage=storage, seed=0)
    rnn = make(cell, 3, 7, 2, dtype="float64", storage=storage, seed=1)
    decoder = AttentionDecoder(rnn, 7, seed=2)
    ids, rng = np.random.default_rng(0).integers(0, 9, (4, 5)), np.random.default_rng(1)
    memory, lengths = rng.standard_normal((6, 5, 7)), [4, 2, 0, 3, 1]
    x, embedded_backward = embedding.vjp(ids)
    (y, _), backward = decoder.vjp(x, memory, lengths=lengths)
    (from_ids, _), ids_backward = decoder.vjp(ids, memory, lengths=lengths, embedding=embedding)
    assert_allclose(from_ids, y, rtol=1e-12)
    dy, into = rng.standard_normal(y.shape), np.zeros_like(storage.flat)
    g = ids_backward(dy, into=into)
    want = backward(dy)
    assert_allclose(g.embedding, embedded_backward(want.x).params["weight"], rtol=1e-9, atol=1e-12)
    assert_allclose(into[decoder._range], want.flat, rtol=1e-9, atol=1e-12)
    same_bits(embedding.slots["weight"].view(into), g.embedding)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_between_layers_is_the_layers_own(dtype):
    """Without input feeding the states are those of the rnn alone, and so are its masks."""
    decoder = decoder_of("lstm", "dot", False, 3, dtype, dropout=0.5)
    values, lengths = arguments(3, 2, dtype)
    state = values["state0"], values["state1"]
    (_, want), rnn_backward = decoder.rnn.vjp(
        values["x"], state, context=values["context"], lengths=lengths["lengths"], rng=5
    )
    (_, found), backward = called(decoder, values, lengths, 2, "vjp", rng=5)
    for one, other in zip(found, want):
        same_bits(one, other)
    dstate = tuple(np.ones_like(s) for s in want)
    g, want_g = backward(dstate_n=dstate), rnn_backward(dstate_n=dstate)
    for name, gradient in want_g.params.items():
        assert_allclose(
            g.params[f"rnn.{name}"], gradient, rtol=1e-4 if dtype == "float32" else 1e-11, atol=1e-6, err_msg=name
        )
    assert any(abs(a).max() > 0 for a in want_g.params.values())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_row_has_the_same_bits_alone_and_padded(isa, attention, dtype):
    decoder = decoder_of("lstm", attention, True, 2, dtype)
    values, lengths = arguments(2, 2, dtype)
    y, (h, c), alpha = called(decoder, values, lengths, 2, return_attention=True)
    for b in range(5):
        T, S = lengths["lengths"][b], lengths["memory_lengths"][b]
        state = values["state0"][:, b : b + 1], values["state1"][:, b : b + 1]
        one, (h1, c1), alpha1 = decoder(
            values["x"][:T, b : b + 1],
            values["memory"][:S, b : b + 1],
            state,
            context=values["context"][b : b + 1],
            return_attention=True,
        )
        same_bits(one[:, 0], y[:T, b])
        same_bits(alpha1[:, 0], alpha[:T, b, :S])
        same_bits(h1[:, 0], h[:, b])
        same_bits(c1[:, 0], c[:, b])


@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_and_gradients_do_not_depend_on_the_number_of_threads(dtype):
    rng = np.random.default_rng(0)
    rnn = fastrnn.GRU(40, 64, 2, dtype=dtype, seed=0)
    decoder = AttentionDecoder(rnn, 64, seed=1)
    x, memory = rng.standard_normal((9, 33, 40)).astype(dtype), rng.standard_normal((8, 33, 64)).astype(dtype)
    lengths, memory_lengths, found = rng.integers(0, 10, 33), rng.integers(0, 9, 33), []
    for threads in (1, 2, 3):
        with fastrnn.threads(threads):
            (y, h), backward = decoder.vjp(x, memory, lengths=lengths, memory_lengths=memory_lengths)
            g = backward(np.ones_like(y), np.ones_like(h))
            found.append((y, h, g.x, g.memory, g.state, g.flat))
    for other in found[1:]:
        for one, two in zip(found[0], other):
            same_bits(one, two)


def test_nothing_is_left_of_steps_and_memory_past_the_lengths():
    decoder = decoder_of("gru")
    values, lengths = arguments(1, 1)
    y, h = called(decoder, values, lengths, 1)
    for b in range(5):
        values["x"][lengths["lengths"][b] :, b] = np.nan
        values["memory"][lengths["memory_lengths"][b] :, b] = np.nan
    again, again_h = called(decoder, values, lengths, 1)
    same_bits(again, y)
    same_bits(again_h, h)


def test_a_backward_may_be_called_from_several_threads_at_a_time():
    rng = np.random.default_rng(0)
    decoder = AttentionDecoder(fastrnn.GRU(64, 192, seed=0), 192, seed=1)  # large enough for several slices of steps
    x, memory = rng.standard_normal((24, 64, 64)).astype("float32"), rng.standard_normal((9, 64, 192)).astype("float32")
    with fastrnn.threads(1):
        (y, _), backward = decoder.vjp(x, memory)
        want = [backward(k * np.ones_like(y)).flat for k in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for got, one in zip(pool.map(lambda k: backward((k % 4) * np.ones_like(y)).flat, range(12)), want * 3):
            same_bits(got, one)


def test_what_is_returned_belongs_to_the_caller():
    decoder = decoder_of("gru")
    values, _ = arguments(1, 1, ragged=False)
    (y, h), backward = called(decoder, values, {}, 1, "vjp")
    dy = np.ones_like(y)
    want = backward(dy).flat
    y[...] = h[...] = np.nan
    same_bits(backward(dy).flat, want)
    assert (dy == 1).all()


def test_no_steps_and_no_rows():
    decoder = decoder_of("lstm")
    for T, B, S in ((0, 2, 3), (2, 0, 3), (2, 2, 0)):
        x, memory, context = np.ones((T, B, 3)), np.ones((S, B, 7)), np.ones((B, 2))
        (y, (h, _)), backward = decoder.vjp(x, memory, context=context)
        assert y.shape == (T, B, 6) and h.shape == (1, B, 7)
        assert backward(np.ones_like(y)).memory.shape == memory.shape


def test_copies_pickles_and_other_dtypes_are_independent():
    decoder = decoder_of("gru", layers=2)
    values, lengths = arguments(2, 1)
    y, _ = called(decoder, values, lengths, 1)
    for other in (decoder.copy(), copy.deepcopy(decoder), pickle.loads(pickle.dumps(decoder))):
        same_bits(called(other, values, lengths, 1)[0], y)
        with other.updating() as flat:
            flat += 1
        assert not np.array_equal(called(other, values, lengths, 1)[0], y)
    same_bits(called(decoder, values, lengths, 1)[0], y)
    single = decoder.astype("float32")
    assert_allclose(called(single, {k: v.astype("float32") for k, v in values.items()}, lengths, 1)[0], y, atol=1e-5)
    assert (
        decoder.num_parameters
        == decoder.flat.size
        == decoder.storage.size
        == sum(a.size for a in decoder.params.values())
    )


def test_a_released_or_stale_backward_raises():
    decoder = decoder_of("gru")
    values, lengths = arguments(1, 1)
    (y, _), backward = called(decoder, values, lengths, 1, "vjp")
    with decoder.updating() as flat:
        flat += 1
    with pytest.raises(RuntimeError, match="parameters"):
        backward(y)
    backward.release()
    with pytest.raises(RuntimeError, match="released"):
        backward(y)


@pytest.mark.parametrize("change, error, message", [
    (dict(attention="cosine"), ValueError, "cosine"),
    (dict(memory_size=5, attention="dot"), ValueError,
     "memory_size is 5, but dot attention requires memory_size = hidden_size = 7"),
    (dict(attention="general", size=3), ValueError, "size is 3, but general attention requires size = hidden_size = 7"),
    (dict(memory_size=0), ValueError, "memory_size is 0"),
    (dict(rnn="gru"), TypeError, "rnn is str"),
    (dict(rnn=fastrnn.GRU(3, 7, bidirectional=True)), ValueError, "bidirectional=True"),
    (dict(rnn=fastrnn.GRU(3, 7, batch_first=True)), ValueError, "batch_first=True"),
    (dict(rnn=fastrnn.GRU(3, 7, learn_initial_state=True)), ValueError, "learn_initial_state=True"),
])  # fmt: skip
def test_what_cannot_be_made_is_refused(change, error, message):
    with pytest.raises(error, match=message):
        AttentionDecoder(**{"rnn": fastrnn.GRU(3, 7), "memory_size": 7, **change})


def test_layers_made_in_between_are_noticed():
    storage = Storage()
    rnn = fastrnn.GRU(3, 7, storage=storage)
    Embedding(3, 3, storage=storage)
    with pytest.raises(ValueError, match="right after its rnn"):
        AttentionDecoder(rnn, 7)


@pytest.mark.parametrize("change, error, message", [
    (dict(memory=np.ones((6, 5, 8))), ValueError,
     r"memory has shape \(6, 5, 8\), but this decoder was made with memory_size=7"),
    (dict(memory=np.ones((6, 4, 7))), ValueError, "x has 5 rows"),
    (dict(memory=np.ones((6, 5, 7), "float32")), TypeError, "memory is float32"),
    (dict(memory_lengths=[7, 1, 1, 1, 1]), ValueError, "memory_lengths has 7, but memory has 6 steps"),
    (dict(memory_lengths=[-1, 1, 1, 1, 1]), ValueError, "memory_lengths has -1"),
    (dict(memory_lengths=[1, 1]), ValueError, r"shape \(2,\), but x has B=5 rows"),
    (dict(memory_lengths=[1.5] * 5), TypeError, "memory_lengths"),
    (dict(x=np.ones((4, 3))), ValueError, "needs a batch axis"),
    (dict(x=np.ones((4, 5, 4))), ValueError, "4 features"),
    (dict(lengths=[5, 1, 1, 1, 1]), ValueError, "5"),
])  # fmt: skip
def test_arrays_that_do_not_fit_are_refused(change, error, message):
    decoder = decoder_of("gru")
    values, _ = arguments(1, 1)
    given = {"x": values["x"], "memory": values["memory"], "context": values["context"], **change}
    with pytest.raises(error, match=message):
        decoder(**given)


def test_a_gradient_that_does_not_fit_is_refused():
    decoder = decoder_of("gru")
    values, lengths = arguments(1, 1)
    (y, _), backward = called(decoder, values, lengths, 1, "vjp")
    with pytest.raises(
        ValueError, match=r"dy has shape \(4, 5, 3\), but the forward pass it belongs to gave \(4, 5, 6\)"
    ):
        backward(y[..., :3])
    with pytest.raises(TypeError, match="dy is float32"):
        backward(y.astype("float32"))

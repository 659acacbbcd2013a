"""A batch of one row: its steps are computed in one call if the layer is small, with the bits of a larger batch."""

import numpy as np
import pytest
from nets import DTYPES, MAKERS
from numpy.testing import assert_array_equal

from fastrnn import _engine

VECTORS = (1, 2, 3, 4, 5, 8, 9, 12, 13)  # of units: with a kernel for several steps, and without
LAYOUTS = {"": {}, "reverse": {"reverse": True}, "deep": {"num_layers": 2, "bidirectional": True}}


def sizes(dtype):
    """Sizes with each number of vectors: the last one full, or with a single unit."""
    lanes = _engine.vector_lanes(dtype == "float64")
    return [size for n in VECTORS for size in (n * lanes, (n - 1) * lanes + 1)]


def results(net, x, dy, lengths):
    """The output, the final state, dx, and the gradient of the initial state."""
    given = None if lengths is None else lengths[: x.shape[1]]
    y, state = net(x, lengths=given)
    (again, again_state), backward = net.vjp(x, lengths=given)
    g = backward(dy)
    arrays = [y, *as_tuple(state), again, *as_tuple(again_state), g.x]
    return arrays, as_tuple(g.state)


def as_tuple(state):
    return state if isinstance(state, tuple) else (state,)


@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu", "rnn_sigmoid", "gru", "gru_before", "lstm", "lstm_options"])
def test_one_row_has_the_bits_of_a_row_among_others(cell, dtype, layout, ragged, isa):
    make, options = MAKERS[cell]
    rng = np.random.default_rng(0)
    for H in sizes(dtype):
        for T in (1, 2, 67):  # 67: more than one chunk of steps
            net = make(3, H, dtype=dtype, seed=H, **options, **LAYOUTS[layout])
            x = rng.standard_normal((T, 3, 3)).astype(dtype)
            dy = rng.standard_normal((T, 3, net.output_size)).astype(dtype)
            lengths = np.array([max(1, T - 5), T, 1]) if ragged else None
            some, some_state = results(net, x, dy, lengths)
            one, one_state = results(net, x[:, :1].copy(), dy[:, :1].copy(), lengths)
            for a, b in zip((*one, *one_state), (*some, *some_state)):
                assert_array_equal(a, b[:, :1], err_msg=f"H={H}, T={T}")


@pytest.mark.parametrize("cell", ["rnn_tanh", "gru", "lstm"])
def test_a_stream_of_one_row_has_the_same_bits_for_any_chunks(cell, isa):
    make, options = MAKERS[cell]
    rng = np.random.default_rng(1)
    for H in sizes("float32"):
        net = make(3, H, seed=H, **options)
        x = rng.standard_normal((70, 1, 3)).astype("float32")
        at_once, by_step, by_chunk = net.stream(), net.stream(), net.stream()
        y = at_once.run(x)
        assert_array_equal(y, [by_step.step(x_t) for x_t in x])
        assert_array_equal(y, np.concatenate([by_chunk.run(x[:3]), by_chunk.run(x[3:68]), by_chunk.run(x[68:])]))
        for a, b, c in zip(*(as_tuple(stream.state) for stream in (at_once, by_step, by_chunk))):
            assert_array_equal(a, b)
            assert_array_equal(a, c)

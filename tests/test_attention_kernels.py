"""The kernels of attention and of choosing a symbol on every ISA, against NumPy float64 and central differences."""

import numpy as np
import pytest
from nets import DTYPES, same_bits
from numpy.testing import assert_allclose
from test_kernels import EPS, SIZES, guarded

from fastrnn import _engine

FIRST, COUNT = np.array([0, 4, 4, 20, 33]), np.array([4, 16, 0, 13, 0])  # of 33 keys: overlapping, empty, all the rest


@pytest.fixture(params=DTYPES)
def dtype(request):
    return request.param


def attend64(query, keys, values, v, softmax):
    """Return alpha (R, 17) and context (R, M), computed by NumPy."""
    alpha, context = np.zeros((len(query), 17), "float64"), np.zeros((len(query), values.shape[1]), "float64")
    for r, (first, count) in enumerate(zip(FIRST, COUNT)):
        k, m = keys[first : first + count].astype("float64"), values[first : first + count].astype("float64")
        score = (
            k @ query[r].astype("float64")
            if v is None
            else np.tanh(query[r].astype("float64") + k) @ v.astype("float64")
        )
        if softmax and count:
            score = np.exp(score - score.max())
            score /= score.sum()
        alpha[r, :count] = score
        context[r] = score @ m
    return alpha, context


def some(rng, A, M, dtype):
    return [rng.standard_normal(shape).astype(dtype) for shape in ((5, A), (33, A), (33, M), A)]


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("additive", [True, False])
@pytest.mark.parametrize("A", SIZES)
def test_attention_agrees_with_float64_and_writes_nothing_else(isa, dtype, A, additive, softmax):
    M = 130 - A
    arrays = [*some(np.random.default_rng(A), A, M, dtype), np.full((5, 17), 9, dtype), np.full((5, M), 9, dtype)]
    boxes, (query, keys, values, v, alpha, context) = guarded(*arrays)
    v = v if additive else None
    _engine.attend(query, keys, values, FIRST, COUNT, alpha, context, v=v, softmax=softmax)
    want_alpha, want_context = attend64(query, keys, values, v, softmax)
    size = 40 * EPS[dtype] * A
    assert_allclose(alpha, want_alpha, rtol=size, atol=size)
    assert_allclose(context, want_context, rtol=20 * size, atol=20 * size)
    assert all(box.intact() for box in boxes)


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("additive", [True, False])
@pytest.mark.parametrize("A, M", [(1, 1), (7, 33), (33, 7), (64, 16)])
def test_every_gradient_of_attention_matches_central_differences(isa, A, M, additive, softmax):
    rng = np.random.default_rng(A)
    values = some(rng, A, M, "float64")
    dcontext = rng.standard_normal((5, M))

    def loss(given):
        return (attend64(*given[:3], given[3] if additive else None, softmax)[1] * dcontext).sum()

    query, keys, memory, v = values
    v = v if additive else None
    alpha, context = np.empty((5, 17)), np.empty((5, M))
    _engine.attend(query, keys, memory, FIRST, COUNT, alpha, context, v=v, softmax=softmax)
    boxes, (dquery, dkeys, dvalues, dv) = guarded(
        np.full((5, A), 9.0), np.ones((33, A)), np.ones((33, M)), np.ones((5, A))
    )
    _engine.attend_backward(
        query, keys, memory, FIRST, COUNT, alpha, dcontext,
        v=v, softmax=softmax, dquery=dquery, dkeys=dkeys, dvalues=dvalues, dv_rows=dv,
    )  # fmt: skip
    assert all(box.intact() for box in boxes)
    gradients = [dquery, dkeys - 1, dvalues - 1, (dv - 1).sum(0)]
    for k in range(4 if additive else 3):
        for _ in range(2):
            direction = rng.standard_normal(values[k].shape)
            up, down = ([a + step * direction if i == k else a for i, a in enumerate(values)] for step in (1e-6, -1e-6))
            assert_allclose((gradients[k] * direction).sum(), (loss(up) - loss(down)) / 2e-6, rtol=1e-6, atol=1e-8)


def test_a_row_of_attention_has_the_same_bits_alone(isa, dtype):
    query, keys, values, v = some(np.random.default_rng(0), 37, 70, dtype)
    alpha, context = np.empty((5, 17), dtype), np.empty((5, 70), dtype)
    for score in (v, None):
        _engine.attend(query, keys, values, FIRST, COUNT, alpha, context, v=score)
        for r in range(5):
            one_alpha, one = np.empty((1, 16), dtype), np.empty((1, 70), dtype)
            mine = slice(FIRST[r], FIRST[r] + COUNT[r])
            attended = query[r : r + 1], keys[mine].copy(), values[mine].copy(), np.array([0]), COUNT[r : r + 1]
            _engine.attend(*attended, one_alpha, one, v=score)
            same_bits(one[0], context[r])
            same_bits(one_alpha[0, : COUNT[r]], alpha[r, : COUNT[r]])


@pytest.mark.parametrize("V", SIZES)
def test_log_sum_exp_agrees_with_float64(isa, dtype, V):
    x = np.random.default_rng(V).standard_normal((3, V)).astype(dtype) * 20
    out = np.empty(3)
    _engine.log_sum_exp(x, out)
    assert_allclose(out, np.log(np.exp(x.astype("float64")).sum(1)), rtol=10 * EPS[dtype], atol=10 * EPS[dtype])


def test_the_greatest_come_in_order_and_a_nan_is_none_of_them(isa, dtype):
    x = np.random.default_rng(0).integers(0, 9, 50).astype(dtype)
    ids = np.empty(12, "int64")
    _engine.greatest(x, ids)
    assert ids.tolist() == np.argsort(-x, kind="stable")[:12].tolist()
    _engine.greatest(np.array([np.nan, 1, np.nan, 2], dtype), ids[:4])
    assert ids[:4].tolist() == [3, 1, -1, -1]


def test_symbols_are_drawn_with_the_probabilities_of_the_softmax(isa, dtype):
    x = np.random.default_rng(0).standard_normal(50).astype(dtype)
    p = np.exp(x.astype("float64") / 0.7)
    drawn = [_engine.draw(x.copy(), 0.7, (i + 0.5) / 20000) for i in range(20000)]
    assert drawn == sorted(drawn)
    assert_allclose(np.bincount(drawn, minlength=50) / 20000, p / p.sum(), atol=1e-4)

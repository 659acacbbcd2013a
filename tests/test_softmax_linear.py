"""softmax_linear: the numbers of Linear and softmax cross-entropy, computed in chunks that limit the memory."""

import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastrnn
from fastrnn import losses
from fastrnn.losses import softmax_cross_entropy, softmax_linear, softmax_linear_nll


def data(N=200, F=7, V=11, dtype="float64"):
    rng = np.random.default_rng(0)
    linear = fastrnn.Linear(F, V, dtype=dtype, seed=1)
    return linear, rng.standard_normal((N, F)).astype(dtype), rng.integers(-1, V, N), rng.random(N)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("N", [0, 1, 64, 65, 200])
def test_it_is_the_linear_layer_and_the_loss_one_after_the_other(N, label_smoothing, weighted, monkeypatch):
    monkeypatch.setattr(losses.linear, "_LOGITS_BYTES", 1)  # chunks of 64
    linear, x, targets, weights = data(N)
    options = dict(weights=weights if weighted else None, label_smoothing=label_smoothing)
    logits, linear_backward = linear.vjp(x)
    want, loss_backward = softmax_cross_entropy.vjp(logits, targets, **options)
    start = np.arange(linear.storage.size, dtype=float)
    into, wanted = start.copy(), start.copy()
    wanted_dx = linear_backward(loss_backward(), into=wanted).x
    loss, dx = softmax_linear(linear, x, targets, into=into, **options)
    assert_allclose(loss, want, rtol=1e-12)
    assert_allclose(dx, wanted_dx, rtol=1e-12, atol=1e-14)
    assert_allclose(into, wanted, rtol=1e-12, atol=1e-14)
    assert_array_equal(softmax_linear_nll(linear, x, targets), softmax_cross_entropy(logits, targets, reduction="none"))


def test_memory_does_not_grow_with_the_number_of_steps():
    """5,000 steps of 10,000 words would be 200 MB of logits."""
    linear, x, targets, _ = data(5000, 4, 10_000, "float32")
    into = np.zeros_like(linear.storage.flat)
    linear(x[:1])  # packs the weight
    tracemalloc.start()
    softmax_linear(linear, x, targets, into=into)
    softmax_linear_nll(linear, x, targets)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6


def test_what_does_not_fit_is_named():
    linear, x, targets, weights = data(5)
    into = np.zeros_like(linear.storage.flat)
    with pytest.raises(ValueError, match="x has 3 features, but this Linear was made with in_features=7"):
        softmax_linear(linear, x[:, :3].copy(), targets, into=into)
    with pytest.raises(ValueError, match="targets go up to 11, but the logits have 11 classes"):
        softmax_linear(linear, x, np.full(5, 11), into=into)
    with pytest.raises(ValueError, match=r"targets have shape \(4,\)"):
        softmax_linear_nll(linear, x, targets[:4])
    with pytest.raises(ValueError, match=r"x must be \(N, in_features\), got shape \(1, 5, 7\)"):
        softmax_linear_nll(linear, x[None], targets)
    assert not into.any()

"""Benchmarks of the kernels for pytest-benchmark, to find regressions: fastrnn alone, on one thread.

pytest bench/test_kernels.py --benchmark-autosave;  later: pytest bench/test_kernels.py --benchmark-compare
"""

import numpy as np
import pytest

import fastrnn
from fastrnn.losses import softmax_cross_entropy

LAYERS = {"lstm": fastrnn.LSTM, "gru": fastrnn.GRU, "rnn": fastrnn.RNN}
SHAPES = [(100, 1, 64), (50, 1, 256), (50, 32, 128)]  # T, B, I = H: weights in L1 or L2, beyond it, and a batch
shapes = pytest.mark.parametrize(("T", "B", "H"), SHAPES, ids=lambda v: str(v))


@pytest.fixture(autouse=True)
def one_thread():
    kept = fastrnn.get_num_threads()
    fastrnn.set_num_threads(1)
    yield
    fastrnn.set_num_threads(kept)


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape, dtype="float32")


@shapes
@pytest.mark.parametrize("cell", LAYERS)
def test_forward(benchmark, cell, T, B, H):
    layer, x = LAYERS[cell](H, H, seed=0), normal(T, B, H)
    y, _ = benchmark(layer, x)
    assert np.isfinite(y).all()


@shapes
@pytest.mark.parametrize("cell", LAYERS)
def test_training(benchmark, cell, T, B, H):
    layer, x = LAYERS[cell](H, H, seed=0), normal(T, B, H)

    def step():
        (y, _), backward = layer.vjp(x)
        return backward(y)

    assert np.isfinite(benchmark(step).flat).all()


@pytest.mark.parametrize("cell", LAYERS)
def test_stream(benchmark, cell):
    stream, x = LAYERS[cell](64, 64, seed=0).stream(), normal(1, 64)
    assert np.isfinite(benchmark(stream.step, x)).all()


@pytest.mark.parametrize("rows", [1, 32, 1600])
def test_product(benchmark, rows):
    linear, x = fastrnn.Linear(128, 512, seed=0), normal(rows, 128)
    assert np.isfinite(benchmark(linear, x)).all()


def test_softmax(benchmark):
    logits, targets = normal(2500, 65), np.random.default_rng(1).integers(0, 65, 2500)

    def both():
        _, backward = softmax_cross_entropy.vjp(logits, targets)
        return backward()

    assert np.isfinite(benchmark(both)).all()

"""MemoryNetwork: whole-model gradients, the equations in float64 NumPy, ties, encodings, what is forgotten, laws, data of every wrong kind."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from whole_model import assert_gradient

import fastrnn
from fastrnn.layers import random_key
from fastrnn.models import MemoryNetwork
from fastrnn.models.memory_network import _Questions

SMALL = dict(size=5, hops=2)
QUICK = dict(epochs=3, batch_size=8, verbose=False)
ROOMS, NAMES = ["attic", "cellar", "hall", "garden"], ["ann", "bob", "cid"]


def data(N=60, seed=0, longest=6):
    """Where somebody is: the last sentence about him or her counts."""
    rng = np.random.default_rng(seed)
    X, y = [], []
    for _ in range(N):
        who, where = rng.choice(NAMES, rng.integers(1, longest + 1)), rng.choice(ROOMS, longest)
        asked = rng.choice(who)
        X.append(([[name, "went", "to", "the", room] for name, room in zip(who.tolist(), where.tolist())], ["where", "is", str(asked)]))
        y.append(str(where[np.flatnonzero(who == asked)[-1]]))
    return X, y


def made(X, y, **options):
    return MemoryNetwork(**{**SMALL, "seed": 1, "dtype": "float64", **options}).fit(X, y, epochs=0, verbose=False)


def batch_of(model, X, y, softmax=True):
    [batch] = _Questions(model, X, y, len(X), None)
    return batch._replace(softmax=softmax)


def widened(model):
    """Parameters of size 1: softmax and position count."""
    with model.storage.updating() as flat:
        flat *= 8
    return model


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("options", [{}, {"position_encoding": False}, {"temporal_encoding": False}, {"noise": 0}, {"hops": 1}, {"memory": 3}], ids=str)
@pytest.mark.parametrize("tying", ["adjacent", "layerwise"])
def test_gradients_through_the_whole_model(tying, options, softmax):
    X, y = data(7)
    model = widened(made(X, y, tying=tying, **options))
    assert_gradient(model, batch_of(model, [(tuple(map(tuple, s)), tuple(q)) for s, q in X], y, softmax))

"""fastrnn under Keras: `SimpleRNN`, `GRU`, `LSTM` and `RNN` for Keras models; and weights and settings from Keras' files and models, and back.

`load`, `set_weights` and `to_keras` of files need h5py only; the layers need Keras and a backend of it.
"""

import importlib

from fastrnn.keras._load import load

__all__ = ["GRU", "LSTM", "RNN", "SimpleRNN", "load", "set_weights", "to_keras"]


def __getattr__(name):
    """What needs Keras itself is imported when first asked for: a file is read without it."""
    if name in ("GRU", "LSTM", "RNN", "SimpleRNN"):
        return getattr(importlib.import_module("fastrnn.keras._layers"), name)
    if name in ("set_weights", "to_keras"):
        return getattr(importlib.import_module("fastrnn.keras._back"), name)
    raise AttributeError(f"module 'fastrnn.keras' has no attribute {name!r}")

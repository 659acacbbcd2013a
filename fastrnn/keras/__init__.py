"""fastrnn under Keras: `SimpleRNN`, `GRU`, `LSTM` and `RNN` for Keras models.
"""

import importlib

__all__ = ["GRU", "LSTM", "RNN", "SimpleRNN"]


def __getattr__(name):
    """What needs Keras itself is imported when first asked for: a file is read without it."""
    if name in ("GRU", "LSTM", "RNN", "SimpleRNN"):
        return getattr(importlib.import_module("fastrnn.keras._layers"), name)
    raise AttributeError(f"module 'fastrnn.keras' has no attribute {name!r}")

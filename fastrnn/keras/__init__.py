"""Keras layers computed by fastrnn, and conversion of Keras' models and weights to fastrnn and back.

`SimpleRNN`, `GRU`, `LSTM` and `RNN` are layers for Keras models. `load` converts a model or a file; a file needs only
h5py. `to_keras` and `set_weights` convert fastrnn layers to Keras, and like the layers they need Keras.
"""

import importlib

from fastrnn.keras._load import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastrnn.keras._back import set_weights, to_keras
    from fastrnn.keras._layers import GRU, LSTM, RNN, SimpleRNN

__all__ = ["GRU", "LSTM", "RNN", "SimpleRNN", "load", "set_weights", "to_keras"]


if not TYPE_CHECKING:  # a type checker knows the names from the imports above, and reports others

    def __getattr__(name):
        """Import what needs Keras on first use, so that a file can be read without Keras."""
        if name in ("GRU", "LSTM", "RNN", "SimpleRNN"):
            return getattr(importlib.import_module("fastrnn.keras._layers"), name)
        if name in ("set_weights", "to_keras"):
            return getattr(importlib.import_module("fastrnn.keras._back"), name)
        raise AttributeError(f"module 'fastrnn.keras' has no attribute {name!r}")

"""fastrnn: recurrent neural networks on the CPU, fast, on NumPy alone."""

import importlib

from fastrnn.config import show_config
from fastrnn.layers import Dropout, Embedding, Linear
from fastrnn.parameters import Gradients, Storage
from fastrnn.rnn import GRU, LSTM, RNN
from fastrnn.threads import get_num_threads, set_num_threads, threads

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Dropout",
    "Embedding",
    "Gradients",
    "Linear",
    "Storage",
    "get_num_threads",
    "set_num_threads",
    "show_config",
    "threads",
]

_MODULES = ("losses", "models", "optim", "parameters", "training")


def __getattr__(name):
    """Modules are imported when first asked for: `fastrnn.models` without an import line of its own."""
    if name in _MODULES:
        return importlib.import_module(f"fastrnn.{name}")
    raise AttributeError(f"module 'fastrnn' has no attribute {name!r}")

"""fastrnn: recurrent neural networks on the CPU, fast, on NumPy alone."""

import importlib
import importlib.util
from pathlib import Path

if importlib.util.find_spec("fastrnn._engine") is None:
    raise ImportError(
        f"the compiled part of fastrnn is not in {Path(__file__).parent}: these are the sources. "
        "Start Python in another folder to use an installed fastrnn, or build it here with `pip install -e .`"
    )

from fastrnn.attention import AttentionDecoder
from fastrnn.config import show_config
from fastrnn.layers import Dropout, Embedding, Linear
from fastrnn.network import Network
from fastrnn.parameters import Gradients, Storage
from fastrnn.rnn import GRU, LSTM, RNN
from fastrnn.stacked import Stacked
from fastrnn.threads import get_num_threads, set_num_threads, threads

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AttentionDecoder",
    "Dropout",
    "Embedding",
    "Gradients",
    "Linear",
    "Network",
    "Stacked",
    "Storage",
    "get_num_threads",
    "set_num_threads",
    "show_config",
    "threads",
]

_MODULES = (
    "attention", "batches", "callbacks", "data", "distributed", "keras", "losses", "models", "onnx", "optim", "parameters", "plotting", "search",
    "settings", "sklearn", "stacked", "threadpoolctl", "torch", "training",
)  # fmt: skip


def __getattr__(name):
    """Modules are imported when first asked for: `fastrnn.models` without an import line of its own."""
    if name in _MODULES:
        return importlib.import_module(f"fastrnn.{name}")
    raise AttributeError(f"module 'fastrnn' has no attribute {name!r}")

"""fastrnn: fast recurrent neural networks on the CPU, based on NumPy alone."""

import importlib

TYPE_CHECKING = False  # True for type checkers; this avoids the import of typing
if TYPE_CHECKING:
    from fastrnn import batches as batches
    from fastrnn import callbacks as callbacks
    from fastrnn import convert as convert
    from fastrnn import data as data
    from fastrnn import distributed as distributed
    from fastrnn import layers as layers
    from fastrnn import losses as losses
    from fastrnn import models as models
    from fastrnn import optim as optim
    from fastrnn import parameters as parameters
    from fastrnn import plans as plans
    from fastrnn import plotting as plotting
    from fastrnn import search as search
    from fastrnn import settings as settings
    from fastrnn import training as training
    from fastrnn._core.config import show_config
    from fastrnn._core.threads import get_num_threads, set_num_threads, threads
    from fastrnn.layers.attention import AttentionDecoder
    from fastrnn.layers.feedforward import Dropout, Embedding, Linear
    from fastrnn.layers.network import Network
    from fastrnn.layers.rnn import GRU, LSTM, RNN
    from fastrnn.layers.stacked import Stacked
    from fastrnn.parameters import Gradients, Storage
    from fastrnn.plans import planned

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
    "planned",
    "set_num_threads",
    "show_config",
    "threads",
]

# The module of each public name, imported on first use. So the command starts before NumPy is imported, and an error
# of that import, or Ctrl-C during it, is a one-line message.
_MODULE_OF = {
    "GRU": "layers.rnn",
    "LSTM": "layers.rnn",
    "RNN": "layers.rnn",
    "AttentionDecoder": "layers.attention",
    "Dropout": "layers.feedforward",
    "Embedding": "layers.feedforward",
    "Gradients": "parameters",
    "Linear": "layers.feedforward",
    "Network": "layers.network",
    "Stacked": "layers.stacked",
    "Storage": "parameters",
    "get_num_threads": "_core.threads",
    "planned": "plans",
    "set_num_threads": "_core.threads",
    "show_config": "_core.config",
    "threads": "_core.threads",
}

_MODULES = (
    *("batches", "callbacks", "convert", "data", "distributed", "keras", "layers", "losses", "models", "onnx", "optim"),
    *("parameters", "plans", "plotting", "search", "settings", "sklearn", "threadpoolctl", "torch", "training"),
)


if not TYPE_CHECKING:  # a type checker knows the names from the imports above, and reports others

    def __getattr__(name):
        if name in _MODULE_OF:
            value = globals()[name] = getattr(importlib.import_module(f"fastrnn.{_MODULE_OF[name]}"), name)
            return value
        if name == "_engine":
            return _import_engine()
        if name in _MODULES:
            return importlib.import_module(f"fastrnn.{name}")
        raise AttributeError(f"module 'fastrnn' has no attribute {name!r}")


def __dir__():
    """Public names. An adapter is among them if the package it needs is installed: `help` imports all of them."""
    from importlib.util import find_spec

    adapters = {"keras", "onnx", "sklearn", "threadpoolctl", "torch"}
    return sorted({"__version__", *__all__, *(m for m in _MODULES if m not in adapters or find_spec(m))})


def _import_engine():
    from importlib.machinery import PathFinder
    from pathlib import Path

    if PathFinder.find_spec("core", [str(Path(__file__).with_name("_engine"))]) is None:
        raise ImportError(
            f"the compiled part of fastrnn is not in {Path(__file__).parent}: these are the sources. "
            "Start Python in another folder to use an installed fastrnn, or build it here with `pip install -e .`"
        )
    engine = importlib.import_module("fastrnn._engine")
    try:
        importlib.import_module("fastrnn._core.threads")  # it tells the engine how many threads a call may use
    except AttributeError as error:  # which `from fastrnn import _engine` would take for a missing attribute
        raise ImportError(f"fastrnn._core.threads cannot be imported: {error}") from error
    return engine

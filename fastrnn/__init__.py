"""fastrnn: recurrent neural networks on the CPU, fast, on NumPy alone."""

import importlib

TYPE_CHECKING = False  # type checkers take it for True; the module typing would have to be imported for it
if TYPE_CHECKING:
    from fastrnn._threads import get_num_threads, set_num_threads, threads
    from fastrnn.attention import AttentionDecoder
    from fastrnn.config import show_config
    from fastrnn.layers import Dropout, Embedding, Linear
    from fastrnn.network import Network
    from fastrnn.parameters import Gradients, Storage
    from fastrnn.rnn import GRU, LSTM, RNN
    from fastrnn.stacked import Stacked

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

# Where each public name is defined. It is imported when first asked for, so that the command can start before
# NumPy is imported: an error of the import, or Ctrl-C during it, is then one line.
_MODULE_OF = {
    "GRU": "rnn",
    "LSTM": "rnn",
    "RNN": "rnn",
    "AttentionDecoder": "attention",
    "Dropout": "layers",
    "Embedding": "layers",
    "Gradients": "parameters",
    "Linear": "layers",
    "Network": "network",
    "Stacked": "stacked",
    "Storage": "parameters",
    "get_num_threads": "_threads",
    "set_num_threads": "_threads",
    "show_config": "config",
    "threads": "_threads",
}

_MODULES = (
    "attention", "batches", "callbacks", "data", "distributed", "keras", "losses", "models", "onnx", "optim", "parameters", "plotting", "search",
    "settings", "sklearn", "stacked", "threadpoolctl", "torch", "training",
)  # fmt: skip


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
    return sorted({*globals(), *__all__, *_MODULES})


def _import_engine():
    from importlib.machinery import PathFinder
    from pathlib import Path

    if PathFinder.find_spec("core", [str(Path(__file__).with_name("_engine"))]) is None:
        raise ImportError(
            f"the compiled part of fastrnn is not in {Path(__file__).parent}: these are the sources. "
            "Start Python in another folder to use an installed fastrnn, or build it here with `pip install -e .`"
        )
    engine = importlib.import_module("fastrnn._engine")
    importlib.import_module("fastrnn._threads")  # it tells the engine how many threads a call may use
    return engine

"""Layers: recurrent, feedforward, attention, and networks of them. Each has ``__call__`` and ``vjp``.

They are imported on first use, so that `fastrnn.LSTM` does not wait for all of them.
"""

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastrnn.layers.attention import AttentionDecoder
    from fastrnn.layers.feedforward import Dropout, Embedding, Linear
    from fastrnn.layers.network import Network
    from fastrnn.layers.rnn import GRU, LSTM, RNN
    from fastrnn.layers.stacked import Stacked

__all__ = ["GRU", "LSTM", "RNN", "AttentionDecoder", "Dropout", "Embedding", "Linear", "Network", "Stacked"]


if not TYPE_CHECKING:  # a type checker knows the names from the imports above, and reports others

    def __getattr__(name):
        if name in __all__:
            return getattr(importlib.import_module("fastrnn"), name)
        raise AttributeError(f"module 'fastrnn.layers' has no attribute {name!r}")

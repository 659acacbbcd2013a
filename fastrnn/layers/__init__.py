"""Layers: each with ``__call__`` and ``vjp``."""

from fastrnn.layers.attention import AttentionDecoder
from fastrnn.layers.feedforward import Dropout, Embedding, Linear
from fastrnn.layers.network import Network
from fastrnn.layers.rnn import GRU, LSTM, RNN
from fastrnn.layers.stacked import Stacked

__all__ = ["GRU", "LSTM", "RNN", "AttentionDecoder", "Dropout", "Embedding", "Linear", "Network", "Stacked"]

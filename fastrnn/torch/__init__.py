"""fastrnn in place of torch.nn's recurrent layers and cells: torch modules with torch's parameters, on fastrnn's engine.

`replace(model)` swaps every layer of a model in place, `restore(model)` swaps back.
"""

from fastrnn.torch._modules import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell, replace, restore

__all__ = ["GRU", "GRUCell", "LSTM", "LSTMCell", "RNN", "RNNCell", "replace", "restore"]

"""Drop-in replacements for the recurrent layers and cells of torch.nn, computed by fastrnn.

The modules have torch's arguments, parameters and state_dict. `replace(model)` swaps every recurrent layer of a model,
`restore(model)` swaps back.
"""

from fastrnn.torch._modules import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from fastrnn.torch._swap import replace, restore

__all__ = ["GRU", "GRUCell", "LSTM", "LSTMCell", "RNN", "RNNCell", "replace", "restore"]

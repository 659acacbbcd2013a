"""RNN, GRU and LSTM with torch's parameters: what stands in their own constructors."""

from __future__ import annotations

from fastrnn._check import cells as check_cells
from fastrnn._core.cells import gru_cell, lstm_cell, rnn_cell
from fastrnn.layers.recurrent import Recurrent


class RNN(Recurrent):
    """Vanilla (Elman 1990) recurrent network: ``h = f(W_ih x + b_ih + W_hh h_prev + b_hh)``.

    Parameters
    ----------
    input_size : int, features of x; 0 for an autonomous system h_t = f(h_{t-1})
    hidden_size : int
    num_layers : int
    nonlinearity : f, an activation: "tanh", "relu", "sigmoid", or one of those under Notes
    clip : number > 0, the pre-activations are cut to -clip .. clip, and no gradient passes where they are; None: they are not
    bias : bool
    batch_first : bool, x and y are (B, T, …); states never are
    dropout : 0 <= p < 1, between layers, active in `vjp` only
    bidirectional : bool
    reverse : bool, run from a row's last step to its first (with parameters named as a forward layer's); not with bidirectional
    variational : bool, one dropout mask for all steps of a sequence (Gal & Ghahramani 2016)
    context_size : int, features of a vector that enters every step
    learn_initial_state : bool, the initial state is a parameter ``h_0`` (num_layers * D, H), for LSTM also ``c_0``, instead of zeros. It
        starts at zero and serves every row for which no state is given. There are no `resets` then. (torch has no such parameter: load
        torch's state_dict with strict=False.)
    dtype : "float32" or "float64"
    seed : int, optional, for first values and dropout
    storage : Storage, optional, the buffer that several layers share

    Notes
    -----
    Activations, ONNX's set and three of Keras; a name, or (name, alpha), or (name, alpha, beta); the usual alpha and beta in brackets:
    tanh, sigmoid, relu, linear, affine (1, 0: ``alpha*a + beta``), leaky_relu (0.01), thresholded_relu (1: a above alpha, else 0),
    scaled_tanh (1, 1: ``alpha*tanh(beta*a)``), hard_sigmoid (1/6, 1/2: ``clip(alpha*a + beta, 0, 1)``, torch's and Keras 3's; ONNX and
    Keras 2 have 0.2 and 1/2), elu (1), softsign, softplus, selu, silu, exponential.

    Examples
    --------
    >>> import fastrnn
    >>> fastrnn.RNN(3, 4, nonlinearity="relu")
    RNN(3, 4, nonlinearity='relu')
    >>> fastrnn.RNN(3, 4, nonlinearity=("leaky_relu", 0.2), clip=5.0)
    RNN(3, 4, nonlinearity=('leaky_relu', 0.2), clip=5.0)
    """

    kind = "RNN"
    _usual = {"nonlinearity": "tanh", "clip": None}

    def __init__(self, input_size, hidden_size, num_layers=1, *, nonlinearity="tanh", clip=None, **options):
        self.nonlinearity, self.clip = check_cells.plain(nonlinearity), check_cells.plain(clip)
        super().__init__(
            rnn_cell(self.nonlinearity, check_cells.clip(clip)), input_size, hidden_size, num_layers, **options
        )


class GRU(Recurrent):
    """Gated recurrent unit (Cho et al. 2014); gates r, z, n; ``h = (1 - z) * n + z * h_prev``.

    Parameters
    ----------
    reset_after : bool
        True: ``n = tanh(W_in x + b_in + r * (W_hn h + b_hn))``, as PyTorch and cuDNN.
        False: ``n = tanh(W_in x + b_in + W_hn (r * h) + b_hn)``, as in the paper's first version.
    activation, recurrent_activation : of n, and of r and z; see the notes of `RNN`
    clip : as in `RNN`
    The others as in `RNN`.

    Examples
    --------
    >>> import fastrnn
    >>> fastrnn.GRU(3, 4, 2, bidirectional=True)
    GRU(3, 4, num_layers=2, bidirectional=True)
    """

    kind = "GRU"
    _usual = {"reset_after": True, "activation": "tanh", "recurrent_activation": "sigmoid", "clip": None}

    def __init__(
        self, input_size, hidden_size, num_layers=1, *,
        reset_after=True, activation="tanh", recurrent_activation="sigmoid", clip=None, **options,
    ):  # fmt: skip
        self.reset_after = bool(reset_after)
        self.activation, self.recurrent_activation, self.clip = map(
            check_cells.plain, (activation, recurrent_activation, clip)
        )
        cell = gru_cell(self.reset_after, activation, recurrent_activation, check_cells.clip(clip))
        super().__init__(cell, input_size, hidden_size, num_layers, **options)


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000); gates i, f, g, o.

    Its state is the pair ``(h, c)``.

    Parameters
    ----------
    proj_size : P, 0 <= P < hidden_size: ``h = W_hr (o * tanh(c))`` has P features (LSTMP, Sak et al. 2014; torch's proj_size), with
        ``weight_hr_l0`` (P, H); 0: it is not projected
    peephole : bool, i and f see c_prev, o sees c (Gers & Schmidhuber 2000), with ``weight_peephole_l0`` (3*H,), order i, f, o
    coupled : bool, no forget gate: ``f = 1 - i`` (Greff et al. 2017). Three gates i, g, o; ``weight_peephole_l0`` is (2*H,), order i, o
    activation, recurrent_activation, output_activation : of g; of i, f and o; of c on its way to h (by default that of g); see the
        notes of `RNN`
    clip : as in `RNN`; c is not clipped
    The others as in `RNN`, without nonlinearity.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> fastrnn.LSTM(3, 4, dtype="float64")
    LSTM(3, 4, dtype='float64')
    >>> y, (h, c) = fastrnn.LSTM(3, 4, proj_size=2, peephole=True)(np.zeros((5, 1, 3), "float32"))
    >>> y.shape, h.shape, c.shape
    ((5, 1, 2), (1, 1, 2), (1, 1, 4))
    """

    kind = "LSTM"
    _usual = {
        "proj_size": 0, "peephole": False, "coupled": False,
        "activation": "tanh", "recurrent_activation": "sigmoid", "output_activation": None, "clip": None,
    }  # fmt: skip

    def __init__(
        self, input_size, hidden_size, num_layers=1, *, proj_size=0, peephole=False, coupled=False,
        activation="tanh", recurrent_activation="sigmoid", output_activation=None, clip=None, **options,
    ):  # fmt: skip
        self.proj_size = check_cells.projection(proj_size, hidden_size)
        self.peephole, self.coupled, self.clip = bool(peephole), bool(coupled), check_cells.plain(clip)
        functions = tuple(map(check_cells.plain, (activation, recurrent_activation, output_activation)))
        self.activation, self.recurrent_activation, self.output_activation = functions
        cell = lstm_cell(*functions, check_cells.clip(clip), self.peephole, self.coupled, self.proj_size)
        super().__init__(cell, input_size, hidden_size, num_layers, **options)

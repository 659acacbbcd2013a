"""RNN, GRU and LSTM: their constructors. What they share is in recurrent.py."""

from __future__ import annotations

from fastrnn._check import cells as check_cells
from fastrnn._core.cells import gru_cell, lstm_cell, rnn_cell
from fastrnn._types import Activation, Array, DTypeLike, Seed
from fastrnn.layers.recurrent import Recurrent
from fastrnn.parameters import Storage


class RNN(Recurrent[Array]):
    """Vanilla recurrent network (Elman 1990): ``h = f(W_ih x + b_ih + W_hh h_prev + b_hh)``.

    Parameters
    ----------
    input_size : int
        Number of input features. 0 for an autonomous system h_t = f(h_{t-1}).
    hidden_size : int
        Number of hidden units H.
    num_layers : int, default 1
        Number of layers L.
    nonlinearity : str or tuple, default "tanh"
        Activation f: "tanh", "relu", "sigmoid", or another one listed under Notes.
    clip : float, optional
        Clip the pre-activations to [-clip, clip]. No gradient passes where they are clipped.
    bias : bool, default True
        Use bias_ih and bias_hh.
    batch_first : bool, default False
        x and y are (B, T, features) instead of (T, B, features). States are not affected.
    dropout : float, default 0.0
        Dropout probability p between layers, 0 <= p < 1. Active in `vjp` only.
    bidirectional : bool, default False
        Run a second, reverse direction and concatenate the outputs.
    reverse : bool, default False
        Run each sequence from its last step to its first. The parameters keep the names of a forward layer.
        Incompatible with `bidirectional`.
    variational : bool, default False
        Use one dropout mask for all steps of a sequence (Gal & Ghahramani 2016).
    context_size : int, default 0
        Number of features of a context vector that enters the first layer at every step.
    learn_initial_state : bool, default False
        Make the initial state a parameter: ``h_0`` (num_layers * D, H), and ``c_0`` for LSTM. It starts at zero and is
        used where no state is given. Incompatible with `resets`. PyTorch has no such parameter: load its state_dict
        with ``strict=False``.
    dtype : {"float32", "float64"}, default "float32"
        Data type of the parameters and of the computation.
    seed : int or numpy.random.Generator, optional
        Source of the initial parameters and the dropout masks.
    storage : Storage, optional
        Buffer that several layers share. By default the layer has one of its own.

    Notes
    -----
    An activation is a name, (name, alpha) or (name, alpha, beta). The set is that of ONNX and three more of Keras; the
    defaults of alpha and beta are in brackets: tanh, sigmoid, relu, linear, affine (1, 0: ``alpha*a + beta``),
    leaky_relu (0.01), thresholded_relu (1: a above alpha, else 0), scaled_tanh (1, 1: ``alpha*tanh(beta*a)``),
    hard_sigmoid (1/6, 1/2: ``clip(alpha*a + beta, 0, 1)``, as in PyTorch and Keras 3; ONNX and Keras 2 use 0.2 and
    1/2), elu (1), softsign, softplus, selu, silu, exponential.

    Examples
    --------
    >>> import fastrnn
    >>> fastrnn.RNN(3, 4, nonlinearity="relu")
    RNN(3, 4, nonlinearity='relu')
    >>> fastrnn.RNN(3, 4, nonlinearity=("leaky_relu", 0.2), clip=5.0)
    RNN(3, 4, nonlinearity=('leaky_relu', 0.2), clip=5.0)
    """

    kind = "RNN"
    _defaults = {"nonlinearity": "tanh", "clip": None}

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, *, nonlinearity: Activation = "tanh",
        clip: float | None = None, bias: bool = True, batch_first: bool = False, dropout: float = 0.0,
        bidirectional: bool = False, reverse: bool = False, variational: bool = False, context_size: int = 0,
        learn_initial_state: bool = False, dtype: DTypeLike = "float32", seed: Seed = None,
        storage: Storage | None = None,
    ):  # fmt: skip
        self.nonlinearity, self.clip = check_cells.plain(nonlinearity), check_cells.plain(clip)
        cell = rnn_cell(self.nonlinearity, check_cells.clip(clip))
        super().__init__(
            cell, input_size, hidden_size, num_layers, bias=bias, batch_first=batch_first, dropout=dropout,
            bidirectional=bidirectional, reverse=reverse, variational=variational, context_size=context_size,
            learn_initial_state=learn_initial_state, dtype=dtype, seed=seed, storage=storage,
        )  # fmt: skip


class GRU(Recurrent[Array]):
    """Gated recurrent unit (Cho et al. 2014), with gates r, z, n and ``h = (1 - z) * n + z * h_prev``.

    Parameters
    ----------
    input_size : int
        Number of input features. 0 for an autonomous system h_t = f(h_{t-1}).
    hidden_size : int
        Number of hidden units H.
    num_layers : int, default 1
        Number of layers L.
    reset_after : bool, default True
        Apply the reset gate after the matrix product, ``n = tanh(W_in x + b_in + r * (W_hn h + b_hn))``, as PyTorch and
        cuDNN do. Otherwise apply it before, ``n = tanh(W_in x + b_in + W_hn (r * h) + b_hn)``, as in the first version
        of the paper.
    activation : str or tuple, default "tanh"
        Activation of n. See the notes of `RNN`.
    recurrent_activation : str or tuple, default "sigmoid"
        Activation of r and z.
    clip : float, optional
        Clip the pre-activations to [-clip, clip]. No gradient passes where they are clipped.
    bias : bool, default True
        Use bias_ih and bias_hh.
    batch_first : bool, default False
        x and y are (B, T, features) instead of (T, B, features). States are not affected.
    dropout : float, default 0.0
        Dropout probability p between layers, 0 <= p < 1. Active in `vjp` only.
    bidirectional : bool, default False
        Run a second, reverse direction and concatenate the outputs.
    reverse : bool, default False
        Run each sequence from its last step to its first. The parameters keep the names of a forward layer.
        Incompatible with `bidirectional`.
    variational : bool, default False
        Use one dropout mask for all steps of a sequence (Gal & Ghahramani 2016).
    context_size : int, default 0
        Number of features of a context vector that enters the first layer at every step.
    learn_initial_state : bool, default False
        Make the initial state a parameter: ``h_0`` (num_layers * D, H), and ``c_0`` for LSTM. It starts at zero and is
        used where no state is given. Incompatible with `resets`. PyTorch has no such parameter: load its state_dict
        with ``strict=False``.
    dtype : {"float32", "float64"}, default "float32"
        Data type of the parameters and of the computation.
    seed : int or numpy.random.Generator, optional
        Source of the initial parameters and the dropout masks.
    storage : Storage, optional
        Buffer that several layers share. By default the layer has one of its own.

    Examples
    --------
    >>> import fastrnn
    >>> fastrnn.GRU(3, 4, 2, bidirectional=True)
    GRU(3, 4, num_layers=2, bidirectional=True)
    """

    kind = "GRU"
    _defaults = {"reset_after": True, "activation": "tanh", "recurrent_activation": "sigmoid", "clip": None}

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, *, reset_after: bool = True,
        activation: Activation = "tanh", recurrent_activation: Activation = "sigmoid", clip: float | None = None,
        bias: bool = True, batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False,
        reverse: bool = False, variational: bool = False, context_size: int = 0, learn_initial_state: bool = False,
        dtype: DTypeLike = "float32", seed: Seed = None, storage: Storage | None = None,
    ):  # fmt: skip
        self.reset_after = bool(reset_after)
        self.activation, self.recurrent_activation, self.clip = map(
            check_cells.plain, (activation, recurrent_activation, clip)
        )
        cell = gru_cell(self.reset_after, activation, recurrent_activation, check_cells.clip(clip))
        super().__init__(
            cell, input_size, hidden_size, num_layers, bias=bias, batch_first=batch_first, dropout=dropout,
            bidirectional=bidirectional, reverse=reverse, variational=variational, context_size=context_size,
            learn_initial_state=learn_initial_state, dtype=dtype, seed=seed, storage=storage,
        )  # fmt: skip


class LSTM(Recurrent[tuple[Array, Array]]):
    """Long short-term memory (Hochreiter & Schmidhuber 1997), with a forget gate (Gers et al. 2000).

    The gates are i, f, g, o. The state is the pair ``(h, c)``.

    Parameters
    ----------
    input_size : int
        Number of input features. 0 for an autonomous system h_t = f(h_{t-1}).
    hidden_size : int
        Number of hidden units H.
    num_layers : int, default 1
        Number of layers L.
    proj_size : int, default 0
        Project h to P = proj_size features, 0 < P < hidden_size: ``h = W_hr (o * tanh(c))`` (LSTMP, Sak et al. 2014),
        with the parameter ``weight_hr_l0`` (P, H). 0 means no projection.
    peephole : bool, default False
        Let i and f see c_prev, and o see c (Gers & Schmidhuber 2000), with the parameter ``weight_peephole_l0`` (3*H,)
        in the order i, f, o.
    coupled : bool, default False
        Replace the forget gate by ``f = 1 - i`` (Greff et al. 2017). The gates are i, g, o; ``weight_peephole_l0`` is
        (2*H,), i and o.
    activation : str or tuple, default "tanh"
        Activation of g. See the notes of `RNN`.
    recurrent_activation : str or tuple, default "sigmoid"
        Activation of i, f and o.
    output_activation : str or tuple, optional
        Activation of c in ``h = o * f(c)``. By default that of g.
    clip : float, optional
        Clip the pre-activations to [-clip, clip]. No gradient passes where they are clipped. c is not clipped.
    bias : bool, default True
        Use bias_ih and bias_hh.
    batch_first : bool, default False
        x and y are (B, T, features) instead of (T, B, features). States are not affected.
    dropout : float, default 0.0
        Dropout probability p between layers, 0 <= p < 1. Active in `vjp` only.
    bidirectional : bool, default False
        Run a second, reverse direction and concatenate the outputs.
    reverse : bool, default False
        Run each sequence from its last step to its first. The parameters keep the names of a forward layer.
        Incompatible with `bidirectional`.
    variational : bool, default False
        Use one dropout mask for all steps of a sequence (Gal & Ghahramani 2016).
    context_size : int, default 0
        Number of features of a context vector that enters the first layer at every step.
    learn_initial_state : bool, default False
        Make the initial state a parameter: ``h_0`` (num_layers * D, H), and ``c_0`` for LSTM. It starts at zero and is
        used where no state is given. Incompatible with `resets`. PyTorch has no such parameter: load its state_dict
        with ``strict=False``.
    dtype : {"float32", "float64"}, default "float32"
        Data type of the parameters and of the computation.
    seed : int or numpy.random.Generator, optional
        Source of the initial parameters and the dropout masks.
    storage : Storage, optional
        Buffer that several layers share. By default the layer has one of its own.

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
    _defaults = {
        "proj_size": 0, "peephole": False, "coupled": False,
        "activation": "tanh", "recurrent_activation": "sigmoid", "output_activation": None, "clip": None,
    }  # fmt: skip

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, *, proj_size: int = 0, peephole: bool = False,
        coupled: bool = False, activation: Activation = "tanh", recurrent_activation: Activation = "sigmoid",
        output_activation: Activation | None = None, clip: float | None = None,
        bias: bool = True, batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False,
        reverse: bool = False, variational: bool = False, context_size: int = 0, learn_initial_state: bool = False,
        dtype: DTypeLike = "float32", seed: Seed = None, storage: Storage | None = None,
    ):  # fmt: skip
        self.proj_size = check_cells.projection(proj_size, hidden_size)
        self.peephole, self.coupled, self.clip = bool(peephole), bool(coupled), check_cells.plain(clip)
        functions = tuple(map(check_cells.plain, (activation, recurrent_activation, output_activation)))
        self.activation, self.recurrent_activation, self.output_activation = functions
        cell = lstm_cell(*functions, check_cells.clip(clip), self.peephole, self.coupled, self.proj_size)
        super().__init__(
            cell, input_size, hidden_size, num_layers, bias=bias, batch_first=batch_first, dropout=dropout,
            bidirectional=bidirectional, reverse=reverse, variational=variational, context_size=context_size,
            learn_initial_state=learn_initial_state, dtype=dtype, seed=seed, storage=storage,
        )  # fmt: skip

"""The modules. Layers are plain nn.Modules, not subclasses of torch's, because torch.compile refuses those."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from fastrnn.torch import _checks
from fastrnn.torch._operator import compute
from fastrnn.torch._packed import forget

Tensors = torch.Tensor | tuple[torch.Tensor, torch.Tensor]  # h, or (h, c) of an LSTM

TORCH_LISTS = ("_flat_weights", "_flat_weight_refs")  # lists of the parameters that torch's layers also keep


class _Module:
    """What layers and cells share; it comes before torch's class among the bases."""

    def __prepare_scriptable__(self):
        kind = type(self).__name__
        raise NotImplementedError(
            f"fastrnn.torch.{kind} can't be scripted: use torch.jit.trace or torch.export, "
            f"or script torch.nn.{kind} after fastrnn.torch.restore(model)"
        )

    def _apply(self, *args, **kwargs):
        # torch may swap the tensors, and cannot while there are references to them
        forget(self.parameters(recurse=False))
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args, **kwargs):
        forget(self.parameters(recurse=False))
        return super()._load_from_state_dict(*args, **kwargs)


class _Layer(_Module, nn.Module):
    """What RNN, GRU and LSTM share."""

    def __init__(self, made):
        """Take over the attributes of `made`, torch's layer: torch checks the arguments and draws the parameters."""
        super().__init__()
        self.__dict__.update({name: value for name, value in made.__dict__.items() if name not in TORCH_LISTS})

    def reset_parameters(self) -> None:
        """Draw new parameters, as torch does."""
        nn.RNNBase.reset_parameters(self)

    def extra_repr(self) -> str:
        """Return the arguments that repr shows.

        Returns
        -------
        str
            As torch's layer of the same kind has it.
        """
        return nn.RNNBase.extra_repr(self)

    @property
    def all_weights(self) -> list[list[nn.Parameter]]:
        """The parameters, one list for each layer and direction."""
        return nn.RNNBase.all_weights.fget(self)

    @property
    def _flat_weights(self):
        return [getattr(self, name) for name in self._flat_weights_names]

    def flatten_parameters(self) -> None:
        """Do nothing: parameters are packed when they are used."""

    def forward(
        self, input: torch.Tensor | PackedSequence, hx: Tensors | None = None
    ) -> tuple[torch.Tensor | PackedSequence, Tensors]:
        """Run the network over a batch of sequences.

        Parameters
        ----------
        input : Tensor or PackedSequence
            A tensor has shape (T, B, input_size), (B, T, input_size) if `batch_first`, or (T, input_size) for one
            sequence.
        hx : Tensor, or pair of them for an LSTM, optional
            The initial states, each (num_layers * D, B, features), or without B for one sequence. D is 2 if
            `bidirectional`, else 1. Zeros by default.

        Returns
        -------
        output : Tensor or PackedSequence
            The hidden states of the last layer after every step, laid out like the input.
        hx_n : Tensor, or pair of them for an LSTM
            The states after the last step, shaped like `hx`.
        """
        packed = isinstance(input, PackedSequence)
        data, sizes, order, back = input if packed else (input, None, None, None)
        if data.dim() not in ((2,) if packed else (2, 3)):
            axes = "2D in a PackedSequence" if packed else "2D or 3D"
            raise ValueError(f"{type(self).__name__}: Expected input to be {axes}, got {data.dim()}D instead")
        params = self._flat_weights
        _checks.module_input(self, data, params[0])
        unbatched = not packed and data.dim() == 2
        if unbatched:
            data = data.unsqueeze(1)
        elif self.batch_first and not packed:
            data = data.transpose(0, 1)
        if data.shape[0] == 0 and not packed:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        state = self._state(data, input, hx, unbatched)
        dropout = self.dropout if self.training and self.num_layers > 1 else 0.0
        key = torch.randint(2**62, (1,), dtype=torch.int64, device="cpu") if dropout else None
        kind = self.nonlinearity if self.mode.startswith("RNN") else self.mode
        net = kind, self.hidden_size, self.num_layers, self.bidirectional, self.proj_size
        y, *state_n = compute(data, sizes, state, params, (*net, dropout, key))
        if back is not None:
            state_n = [s.index_select(1, back) for s in state_n]
        if packed:
            y = PackedSequence(y, sizes, order, back)
        else:
            y = y.squeeze(1) if unbatched else y.transpose(0, 1) if self.batch_first else y
        state_n = tuple(s.squeeze(1) for s in state_n) if unbatched else tuple(state_n)
        return y, state_n if self.mode == "LSTM" else state_n[0]

    def _state(self, data, input, hx, unbatched):
        """The initial state, (L*D, B, …) each, in the order of the packed rows."""
        lstm, packed, traced = self.mode == "LSTM", isinstance(input, PackedSequence), torch.jit.is_tracing()
        # of a PackedSequence, B is a value in batch_sizes; as an int it would become a constant of a trace
        B = data.shape[1] if not packed else input.batch_sizes[0] if traced else int(input.batch_sizes[0])
        sizes = self.hidden_size, self.num_layers, self.bidirectional, self.proj_size
        shapes = _checks.state_shapes(self.mode, *sizes, B)
        if hx is None:
            return [data.new_zeros(shape) for shape in shapes]
        state = list(hx) if lstm else [hx]
        if not (packed and traced):
            _checks.states(state, [(rows, width) for rows, _, width in shapes] if unbatched else shapes, data)
        if unbatched:
            return [s.unsqueeze(1) for s in state]
        if not packed or input.sorted_indices is None:
            return state
        if traced:  # like index_select, but it fails if there are more states than rows
            return [s.new_zeros(shape).index_copy(1, input.unsorted_indices, s) for s, shape in zip(state, shapes)]
        return [s.index_select(1, input.sorted_indices) for s in state]


class RNN(_Layer):
    """Replacement for torch.nn.RNN on fastrnn's engine: same arguments, parameters, first values and state_dict.

    Parameters
    ----------
    input_size : int
        Number of input features.
    hidden_size : int
        Number of hidden units.
    num_layers : int, default 1
        Number of stacked layers.
    nonlinearity : {"tanh", "relu"}, default "tanh"
        The activation.
    bias : bool, default True
        Whether the layers have biases.
    batch_first : bool, default False
        Whether input and output tensors are (B, T, features) instead of (T, B, features).
    dropout : float in [0, 1], default 0
        Dropout probability after each layer but the last, in training mode.
    bidirectional : bool, default False
        Whether each layer has a second direction, from the last step to the first.
    device : torch.device, optional
        Device of the parameters. They have to be on the CPU when the module is called.
    dtype : torch.dtype, optional
        Data type of the parameters: float32 or float64.

    Examples
    --------
    >>> import torch, fastrnn.torch
    >>> rnn = fastrnn.torch.RNN(3, 4)
    >>> y, h_n = rnn(torch.ones(5, 2, 3))
    >>> y.shape, h_n.shape
    (torch.Size([5, 2, 4]), torch.Size([1, 2, 4]))
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False,
        device: torch.device | str | None = None, dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        made = nn.RNN(
            input_size, hidden_size, num_layers, nonlinearity, bias, batch_first, dropout, bidirectional,
            device=device, dtype=dtype,
        )  # fmt: skip
        super().__init__(made)


class GRU(_Layer):
    """Replacement for torch.nn.GRU on fastrnn's engine: same arguments, parameters, first values and state_dict.

    Parameters
    ----------
    input_size : int
        Number of input features.
    hidden_size : int
        Number of hidden units.
    num_layers : int, default 1
        Number of stacked layers.
    bias : bool, default True
        Whether the layers have biases.
    batch_first : bool, default False
        Whether input and output tensors are (B, T, features) instead of (T, B, features).
    dropout : float in [0, 1], default 0
        Dropout probability after each layer but the last, in training mode.
    bidirectional : bool, default False
        Whether each layer has a second direction, from the last step to the first.
    device : torch.device, optional
        Device of the parameters. They have to be on the CPU when the module is called.
    dtype : torch.dtype, optional
        Data type of the parameters: float32 or float64.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        made = nn.GRU(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            device=device, dtype=dtype,
        )  # fmt: skip
        super().__init__(made)


class LSTM(_Layer):
    """Replacement for torch.nn.LSTM on fastrnn's engine: same arguments, parameters, first values and state_dict.

    Parameters
    ----------
    input_size : int
        Number of input features.
    hidden_size : int
        Number of hidden units.
    num_layers : int, default 1
        Number of stacked layers.
    bias : bool, default True
        Whether the layers have biases.
    batch_first : bool, default False
        Whether input and output tensors are (B, T, features) instead of (T, B, features).
    dropout : float in [0, 1], default 0
        Dropout probability after each layer but the last, in training mode.
    bidirectional : bool, default False
        Whether each layer has a second direction, from the last step to the first.
    proj_size : int, default 0
        Number of features that h is projected to; 0 means no projection.
    device : torch.device, optional
        Device of the parameters. They have to be on the CPU when the module is called.
    dtype : torch.dtype, optional
        Data type of the parameters: float32 or float64.

    Examples
    --------
    >>> import torch, fastrnn.torch
    >>> lstm = fastrnn.torch.LSTM(3, 4, proj_size=2)
    >>> y, (h_n, c_n) = lstm(torch.ones(5, 2, 3))
    >>> y.sum().backward()
    >>> y.shape, c_n.shape, lstm.weight_hr_l0.grad.shape
    (torch.Size([5, 2, 2]), torch.Size([1, 2, 4]), torch.Size([2, 4]))
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0,
        device: torch.device | str | None = None, dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        made = nn.LSTM(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size,
            device=device, dtype=dtype,
        )  # fmt: skip
        super().__init__(made)


class Cell(_Module):
    """What the cells share: forward, which comes before that of torch's class."""

    def forward(self, input: torch.Tensor, hx: Tensors | None = None) -> Tensors:
        """Compute one step.

        Parameters
        ----------
        input : Tensor, shape (B, input_size) or (input_size,)
            The input of the step.
        hx : Tensor, or pair of them for an LSTMCell, each (B, hidden_size) or (hidden_size,), optional
            The state before the step. Zeros by default.

        Returns
        -------
        Tensor, or pair of them for an LSTMCell
            The state after the step, shaped like `hx`.
        """
        if input.dim() not in (1, 2):
            raise ValueError(f"{type(self).__name__}: Expected input to be 1D or 2D, got {input.dim()}D instead")
        _checks.module_input(self, input, self.weight_ih)
        lstm, unbatched = isinstance(self, LSTMCell), input.dim() == 1
        data = input[None, None] if unbatched else input[None]
        shape = (*input.shape[:-1], self.hidden_size)
        if hx is None:
            state = [data.new_zeros((1, data.shape[1], self.hidden_size)) for _ in range(1 + lstm)]
        else:
            state = list(hx) if lstm else [hx]
            _checks.states(state, [shape] * (1 + lstm), input)
            state = [s[None, None] if unbatched else s[None] for s in state]
        params = [self.weight_ih, self.weight_hh, *([self.bias_ih, self.bias_hh] if self.bias else [])]
        kind = self.nonlinearity if isinstance(self, RNNCell) else "LSTM" if lstm else "GRU"
        _, *state_n = compute(data, None, state, params, (kind, self.hidden_size, 1, False, 0, 0.0, None))
        state_n = tuple(s[0, 0] if unbatched else s[0] for s in state_n)
        return state_n if lstm else state_n[0]


class RNNCell(Cell, nn.RNNCell):
    """Replacement for torch.nn.RNNCell on fastrnn's engine.

    Parameters
    ----------
    input_size : int
        Number of input features.
    hidden_size : int
        Number of hidden units.
    bias : bool, default True
        Whether the cell has biases.
    nonlinearity : {"tanh", "relu"}, default "tanh"
        The activation.
    device : torch.device, optional
        Device of the parameters. They have to be on the CPU when the module is called.
    dtype : torch.dtype, optional
        Data type of the parameters: float32 or float64.
    """


class GRUCell(Cell, nn.GRUCell):
    """Replacement for torch.nn.GRUCell on fastrnn's engine.

    Parameters
    ----------
    input_size : int
        Number of input features.
    hidden_size : int
        Number of hidden units.
    bias : bool, default True
        Whether the cell has biases.
    device : torch.device, optional
        Device of the parameters. They have to be on the CPU when the module is called.
    dtype : torch.dtype, optional
        Data type of the parameters: float32 or float64.

    Examples
    --------
    >>> import torch, fastrnn.torch
    >>> fastrnn.torch.GRUCell(3, 4)(torch.ones(2, 3)).shape
    torch.Size([2, 4])
    """


class LSTMCell(Cell, nn.LSTMCell):
    """Replacement for torch.nn.LSTMCell on fastrnn's engine.

    Parameters
    ----------
    input_size : int
        Number of input features.
    hidden_size : int
        Number of hidden units.
    bias : bool, default True
        Whether the cell has biases.
    device : torch.device, optional
        Device of the parameters. They have to be on the CPU when the module is called.
    dtype : torch.dtype, optional
        Data type of the parameters: float32 or float64.
    """

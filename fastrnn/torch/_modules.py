"""The modules. Layers are plain nn.Modules, not torch's RNN classes, because torch.compile refuses every subclass of those."""

from __future__ import annotations

import inspect

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from fastrnn.torch import _checks
from fastrnn.torch._operator import compute
from fastrnn.torch._packed import forget


class _Module:
    """What layers and cells share, in front of torch's class."""

    def __prepare_scriptable__(self):
        kind = type(self).__name__
        raise NotImplementedError(
            f"fastrnn.torch.{kind} can't be scripted: use torch.jit.trace or torch.export, "
            f"or script torch.nn.{kind} after fastrnn.torch.restore(model)"
        )

    def _apply(self, *args, **kwargs):
        forget(self.parameters(recurse=False))  # torch may swap the tensors, which it can't where one is referred to
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args, **kwargs):
        forget(self.parameters(recurse=False))
        return super()._load_from_state_dict(*args, **kwargs)


class _Layer(_Module, nn.Module):
    """What RNN, GRU and LSTM share. `_torch` is the class they take the place of."""

    reset_parameters, extra_repr, all_weights = (
        nn.RNNBase.reset_parameters,
        nn.RNNBase.extra_repr,
        nn.RNNBase.all_weights,
    )

    def __init__(self, *args, **kwargs):
        super().__init__()
        made = self._torch(*args, **kwargs)  # torch's checks, parameters and draws
        self.__dict__.update({name: value for name, value in made.__dict__.items() if name not in _OF_TORCH})

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.__signature__ = inspect.signature(cls._torch)

    @property
    def _flat_weights(self):
        return [getattr(self, name) for name in self._flat_weights_names]

    def flatten_parameters(self):
        """Nothing to do: parameters are packed when they are used."""

    def forward(self, input, hx=None):
        """As torch's: (y, state_n) from a tensor or a PackedSequence, and an optional initial state."""
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
        # B is a number in batch_sizes: an int would be a constant of a trace
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
        if traced:  # as below, but it fails where there are more states than rows
            return [s.new_zeros(shape).index_copy(1, input.unsorted_indices, s) for s, shape in zip(state, shapes)]
        return [s.index_select(1, input.sorted_indices) for s in state]


class RNN(_Layer):
    """torch.nn.RNN on fastrnn's engine: same arguments, parameters, first values and state_dict.

    Examples
    --------
    >>> import torch, fastrnn.torch
    >>> rnn = fastrnn.torch.RNN(3, 4)
    >>> y, h_n = rnn(torch.ones(5, 2, 3))
    >>> y.shape, h_n.shape
    (torch.Size([5, 2, 4]), torch.Size([1, 2, 4]))
    """

    _torch = nn.RNN


class GRU(_Layer):
    """torch.nn.GRU on fastrnn's engine: same arguments, parameters, first values and state_dict."""

    _torch = nn.GRU


class LSTM(_Layer):
    """torch.nn.LSTM on fastrnn's engine: same arguments, parameters, first values and state_dict, proj_size too.

    Examples
    --------
    >>> import torch, fastrnn.torch
    >>> lstm = fastrnn.torch.LSTM(3, 4, proj_size=2)
    >>> y, (h_n, c_n) = lstm(torch.ones(5, 2, 3))
    >>> y.sum().backward()
    >>> y.shape, c_n.shape, lstm.weight_hr_l0.grad.shape
    (torch.Size([5, 2, 2]), torch.Size([1, 2, 4]), torch.Size([2, 4]))
    """

    _torch = nn.LSTM


class _Cell(_Module):
    """What the cells share, in front of torch's class: another forward."""

    def forward(self, input, hx=None):
        """As torch's: the next state, h or (h, c), from (B, I) or (I,)."""
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


class RNNCell(_Cell, nn.RNNCell):
    """torch.nn.RNNCell on fastrnn's engine."""


class GRUCell(_Cell, nn.GRUCell):
    """torch.nn.GRUCell on fastrnn's engine.

    >>> import torch, fastrnn.torch
    >>> fastrnn.torch.GRUCell(3, 4)(torch.ones(2, 3)).shape
    torch.Size([2, 4])
    """


class LSTMCell(_Cell, nn.LSTMCell):
    """torch.nn.LSTMCell on fastrnn's engine."""


_OURS = {nn.RNN: RNN, nn.GRU: GRU, nn.LSTM: LSTM, nn.RNNCell: RNNCell, nn.GRUCell: GRUCell, nn.LSTMCell: LSTMCell}
_OF_TORCH = ("_flat_weights", "_flat_weight_refs")  # lists of the parameters that torch's layers keep beside them


def replace(model):
    """Make every recurrent layer and cell of torch.nn in a model compute with fastrnn. Parameters, hooks and optimisers stay as they are.

    Returns
    -------
    The names of the layers that were swapped; ``""`` is the model itself.

    Raises
    ------
    ValueError  there are layers it can't take; they are named with the reason, and nothing was swapped.

    Examples
    --------
    >>> import torch, fastrnn.torch
    >>> model = torch.nn.ModuleDict({"rnn": torch.nn.GRU(3, 4), "head": torch.nn.Linear(4, 2)})
    >>> fastrnn.torch.replace(model), fastrnn.torch.restore(model)
    (['rnn'], ['rnn'])
    """
    refused = [
        f"{name or 'the model'}: {reason}" for name, module in model.named_modules() if (reason := _reason(module))
    ]
    if refused:
        raise ValueError("fastrnn.torch.replace can't take " + "; ".join(refused) + "; nothing was swapped")
    return _swap(model, _OURS)


def _reason(module):
    """Why this recurrent layer can't be swapped, or None."""
    if not isinstance(module, (nn.RNNBase, nn.RNNCellBase)) or isinstance(module, _Cell):
        return None
    if type(module) not in _OURS:
        return f"{type(module).__name__} is a class of its own, made from torch's (a parametrization makes one too)"
    for p in module.parameters():
        if p.dtype not in _checks.DTYPES or p.device.type != "cpu":
            return f"its parameters are {p.dtype} on {p.device}, but must be float32 or float64 on cpu"
    return None


def restore(model):
    """Undo `replace`.

    Returns
    -------
    The names of the layers that are torch's again; ``""`` is the model itself.

    Raises
    ------
    ValueError  there are layers whose class was made from fastrnn.torch's, by a parametrization for one; they are named,
        and nothing was restored.
    """
    made = [
        f"{name or 'the model'}: {type(module).__name__} is a class of its own, made from {ours.__name__}"
        for name, module in model.named_modules()
        for ours in _OURS.values()
        if isinstance(module, ours) and type(module) is not ours
    ]
    if made:
        raise ValueError(
            "fastrnn.torch.restore can't take " + "; ".join(made) + "; nothing was restored. "
            "If it is parametrized, call torch.nn.utils.parametrize.remove_parametrizations first"
        )
    return _swap(model, {ours: theirs for theirs, ours in _OURS.items()})


def _swap(model, classes):
    found = [(name, module) for name, module in model.named_modules() if type(module) in classes]
    for _, module in found:
        for name in _OF_TORCH:
            module.__dict__.pop(name, None)
        module.__class__ = classes[type(module)]
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()
    return [name for name, _ in found]

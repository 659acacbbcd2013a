"""fastrnn in place of torch.nn's recurrent layers: `RNN`, `GRU` and `LSTM` are torch modules with torch's parameters, on fastrnn's engine.

Autograd goes through one custom operator, whose tape is a tensor: torch owns its memory, and a graph may be kept, freed or run twice.

Not there yet: the cells (`RNNCell` …), torch.compile (Dynamo refuses every subclass of torch's RNN classes), and weights that stay packed
between calls: a call of one small step takes longer than torch's, long ones are faster.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from fastrnn import _stack, cells
from fastrnn._bptt import backward as bptt
from fastrnn._memory import Tape

__all__ = ["GRU", "LSTM", "RNN", "replace", "restore"]

_DTYPES = {torch.float32: np.dtype("float32"), torch.float64: np.dtype("float64")}


class _Owned:
    """A pool of one array that a tensor owns."""

    def __init__(self, tensor):
        self._array = tensor.numpy()

    def take(self, layout):
        return self._array, {}

    def give(self, array, layout, views):
        pass


@lru_cache(maxsize=256)
def _net(kind, input_size, hidden_size, num_layers, bidirectional, proj_size, dtype):
    """The sizes of a module, one object for equal modules: layouts are looked up by it."""
    if kind == "LSTM":
        cell = cells.lstm_cell("tanh", "sigmoid", None, np.inf, False, False, proj_size)
    else:
        cell = cells.GRU_CELL if kind == "GRU" else cells.RNN_CELLS[kind]
    return _stack.Net(cell, input_size, hidden_size, num_layers, 2 if bidirectional else 1, 0, dtype)


def _names(net, bias):
    """The parameters' names in the order of torch's `_flat_weights`."""
    kinds = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if bias else []), *(["weight_hr"] if net.cell.proj_size else [])]
    return [kind + suffix for _, _, suffix in net.parts for kind in kinds]


def _call(x, batch_sizes, params, kind, hidden_size, num_layers, bidirectional, proj_size, dropout, key):
    """What forward and backward have in common: (net, packed weights, batch, rows of x, dropout)."""
    net = _net(kind, x.shape[-1], hidden_size, num_layers, bidirectional, proj_size, _DTYPES[x.dtype])
    bias = len(params) > (3 if proj_size else 2) * len(net.parts)
    packed = cells.Packed(net.cell, hidden_size, net.dtype, {name: p.detach().numpy() for name, p in zip(_names(net, bias), params, strict=True)})
    if batch_sizes is None:
        batch = _stack.even_batch(*x.shape[:2])
    else:
        sizes = batch_sizes.numpy()
        batch = _stack.Batch(len(sizes), int(sizes[0]), (sizes[:, None] > np.arange(sizes[0])).sum(axis=0))
    rows = np.ascontiguousarray(x.detach().numpy()).reshape(batch.total, x.shape[-1])
    return net, packed, batch, rows, _stack.Dropout(dropout, key, False) if dropout and num_layers > 1 else None


@torch.library.custom_op("fastrnn::recurrent", mutates_args=())
def _recurrent(
    x: torch.Tensor, batch_sizes: torch.Tensor | None, state: list[torch.Tensor], params: list[torch.Tensor], kind: str,
    hidden_size: int, num_layers: int, bidirectional: bool, proj_size: int, dropout: float, key: int, train: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """y, h_n, c_n (empty without one), and the tape (empty unless `train`)."""
    net, packed, batch, rows, masks = _call(x, batch_sizes, params, kind, hidden_size, num_layers, bidirectional, proj_size, dropout, key)
    tape, kept = None, x.new_empty(0)
    if train:
        kept = x.new_empty(_stack.tape_layout(net, batch, packed, masks).size)
        tape = _stack.make_tape(net, batch, packed, masks, _Owned(kept))
    y, state_n = _stack.forward(net, packed, batch, rows, tuple(s.detach().numpy() for s in state), None, tape, masks)
    h_n, *c_n = map(torch.from_numpy, state_n)
    return torch.from_numpy(y.reshape(*x.shape[:-1], y.shape[-1])), h_n, c_n[0] if c_n else x.new_empty(0), kept


@_recurrent.register_fake
def _(x, batch_sizes, state, params, kind, hidden_size, num_layers, bidirectional, proj_size, dropout, key, train):
    features = (2 if bidirectional else 1) * (proj_size or hidden_size)
    size = torch.library.get_ctx().new_dynamic_size() if train else 0
    states = [torch.empty_like(s, memory_format=torch.contiguous_format) for s in state]
    return x.new_empty((*x.shape[:-1], features)), states[0], states[1] if kind == "LSTM" else x.new_empty(0), x.new_empty(size)


def _keep(ctx, inputs, output):
    x, batch_sizes, state, params, *ctx.settings, _ = inputs
    ctx.states, ctx.packed = len(state), batch_sizes is not None
    ctx.save_for_backward(x, *state, *params, output[3], *([batch_sizes] if ctx.packed else []))


@torch.library.custom_op("fastrnn::recurrent_backward", mutates_args=())
def _recurrent_backward(
    x: torch.Tensor, batch_sizes: torch.Tensor | None, state: list[torch.Tensor], params: list[torch.Tensor], tape: torch.Tensor,
    dy: torch.Tensor, dstate: list[torch.Tensor], kind: str, hidden_size: int, num_layers: int, bidirectional: bool, proj_size: int,
    dropout: float, key: int,
) -> list[torch.Tensor]:  # fmt: skip
    """Gradients of x, of the state, of the parameters."""
    net, packed, batch, rows, masks = _call(x, batch_sizes, params, kind, hidden_size, num_layers, bidirectional, proj_size, dropout, key)
    kept = Tape(_Owned(tape), _stack.tape_layout(net, batch, packed, masks))
    grads = {name: np.zeros(p.shape, net.dtype) for name, p in packed.params.items()}
    dy = np.ascontiguousarray(dy.numpy()).reshape(batch.total, dy.shape[-1])
    dx, dstate_0, _ = bptt(net, packed, batch, rows, None, kept, masks, dy, tuple(d.numpy() for d in dstate), grads, need_x=True)
    return [torch.from_numpy(dx.reshape(x.shape)), *map(torch.from_numpy, dstate_0), *map(torch.from_numpy, grads.values())]


@_recurrent_backward.register_fake
def _(x, batch_sizes, state, params, tape, dy, dstate, *settings):
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, *state, *params)]


def _refuse_twice(ctx, *grads):
    raise NotImplementedError("fastrnn.torch has no double backward: use torch.nn's layer where a gradient of a gradient is needed")


_recurrent_backward.register_autograd(_refuse_twice)


def _gradients(ctx, dy, dh, dc, _):
    n = 1 + ctx.states
    x, *saved = ctx.saved_tensors
    batch_sizes = saved.pop() if ctx.packed else None
    state, params, tape = saved[: n - 1], saved[n - 1 : -1], saved[-1]
    g = torch.ops.fastrnn.recurrent_backward(x, batch_sizes, state, params, tape, dy, [dh, dc][: n - 1], *ctx.settings)
    return g[0], None, g[1:n], g[n:], *[None] * (len(ctx.settings) + 1)


_recurrent.register_autograd(_gradients, setup_context=_keep)


class _Module:
    """What the three share, in front of torch's class: its constructor, parameters, checks and repr, and another forward."""

    def forward(self, input, hx=None):
        packed = isinstance(input, PackedSequence)
        data, sizes, order, back = input if packed else (input, None, None, None)
        self._refuse(data)
        unbatched = not packed and data.dim() == 2
        if not packed and data.dim() not in (2, 3):
            raise ValueError(f"{type(self).__name__}: input must be 2-D or 3-D, got {data.dim()}-D")
        if unbatched:
            data = data.unsqueeze(1)
        elif self.batch_first and not packed:
            data = data.transpose(0, 1)
        lstm = self.mode == "LSTM"
        state = [] if hx is None else list(hx) if lstm else [hx]
        state = [s.unsqueeze(1) for s in state] if unbatched else state
        B = int(sizes[0]) if packed else data.shape[1]
        if hx is None:
            rows = self.num_layers * (2 if self.bidirectional else 1)
            widths = [self.proj_size or self.hidden_size, self.hidden_size][: 1 + lstm]
            state = [data.new_zeros(rows, B, width) for width in widths]
        elif order is not None:
            state = [s.index_select(1, order) for s in state]
        self.check_forward_args(data if packed else data.transpose(0, 1) if self.batch_first else data, tuple(state) if lstm else state[0], sizes)
        dropout = self.dropout if self.training and self.num_layers > 1 else 0.0
        key = int(torch.randint(2**62, (), dtype=torch.int64)) if dropout else 0
        train = torch.is_grad_enabled() and any(t.requires_grad for t in (data, *state, *self._flat_weights))
        kind = self.nonlinearity if self.mode.startswith("RNN") else self.mode
        y, h_n, c_n, _ = _recurrent(
            data, sizes, state, list(self._flat_weights), kind, self.hidden_size, self.num_layers, self.bidirectional, self.proj_size, dropout, key, train,
        )  # fmt: skip
        state_n = [h_n, c_n] if lstm else [h_n]
        if back is not None:
            state_n = [s.index_select(1, back) for s in state_n]
        if packed:
            y = PackedSequence(y, sizes, order, back)
        else:
            y = y.squeeze(1) if unbatched else y.transpose(0, 1) if self.batch_first else y
        state_n = tuple(s.squeeze(1) for s in state_n) if unbatched else tuple(state_n)
        return y, state_n if lstm else state_n[0]

    def _refuse(self, data):
        name = f"fastrnn.torch.{type(self).__name__}"
        if data.device.type != "cpu":
            raise NotImplementedError(f"{name} computes on the CPU, but its input is on {data.device}: move it, or use torch.nn.{type(self).__name__}")
        if torch.is_autocast_enabled("cpu"):
            raise NotImplementedError(f"{name} computes in float32 or float64, not under autocast: leave it out with torch.autocast('cpu', enabled=False)")
        weight = self._flat_weights[0]
        if data.dtype not in _DTYPES or data.dtype != weight.dtype:
            raise TypeError(f"input is {data.dtype}, but this {name} has parameters of {weight.dtype}; both must be float32, or both float64")


class RNN(_Module, nn.RNN):
    """torch.nn.RNN on fastrnn's engine: same arguments, parameters, first values and state_dict.

    Examples
    --------
    >>> import torch, fastrnn.torch
    >>> rnn = fastrnn.torch.RNN(3, 4)
    >>> y, h_n = rnn(torch.ones(5, 2, 3))
    >>> y.shape, h_n.shape
    (torch.Size([5, 2, 4]), torch.Size([1, 2, 4]))
    """


class GRU(_Module, nn.GRU):
    """torch.nn.GRU on fastrnn's engine: same arguments, parameters, first values and state_dict."""


class LSTM(_Module, nn.LSTM):
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


_OURS = {nn.RNN: RNN, nn.GRU: GRU, nn.LSTM: LSTM}


def replace(model):
    """Make every torch.nn.RNN, GRU and LSTM in a model compute with fastrnn. Parameters, hooks and optimisers stay as they are.

    Returns
    -------
    The names of the layers that were swapped; ``""`` is the model itself.

    Examples
    --------
    >>> import torch, fastrnn.torch
    >>> model = torch.nn.ModuleDict({"rnn": torch.nn.GRU(3, 4), "head": torch.nn.Linear(4, 2)})
    >>> fastrnn.torch.replace(model), fastrnn.torch.restore(model)
    (['rnn'], ['rnn'])
    """
    return _swap(model, _OURS)


def restore(model):
    """Undo `replace`. Returns the names of the layers that are torch's again."""
    return _swap(model, {ours: theirs for theirs, ours in _OURS.items()})


def _swap(model, classes):
    found = [(name, module) for name, module in model.named_modules() if type(module) in classes]
    for _, module in found:
        module.__class__ = classes[type(module)]
    return [name for name, _ in found]

"""The custom operator behind the modules: forward, its fake kernel and its gradient, and the packed weights that calls share.

The tape is a tensor that the operator returns: torch owns its memory, and a graph may be kept, freed or run twice.
"""

from __future__ import annotations

import math
import weakref
from functools import lru_cache

import numpy as np
import torch
from torch.autograd import forward_ad

from fastrnn import _engine, _stack, cells
from fastrnn._bptt import backward as bptt
from fastrnn._memory import Tape
from fastrnn._recurrent import Recurrent

DTYPES = {torch.float32: np.dtype("float32"), torch.float64: np.dtype("float64")}
_FEW, _STREAMS = 256, 4  # rows of an inference call up to which a stream is used, and streams that are kept for one module
_WHOLE, _LOOKED_AT = 4096, 128  # parameters up to so many numbers are compared whole in every call, of larger ones about so many numbers


class _Owned:
    """A pool of one array that a tensor owns."""

    def __init__(self, tensor):
        self._array = _array(tensor)

    def take(self, layout):
        return self._array, {}

    def give(self, array, layout, views):
        pass


def _nothing(x):
    return torch.empty(0, dtype=x.dtype)


def _array(tensor):
    return (tensor.detach() if tensor.requires_grad else tensor).numpy()


@lru_cache(maxsize=256)
def _cell(kind, proj_size):
    if kind == "LSTM":
        return cells.lstm_cell("tanh", "sigmoid", None, np.inf, False, False, proj_size)
    return cells.GRU_CELL if kind == "GRU" else cells.RNN_CELLS[kind]


@lru_cache(maxsize=256)
def _net(kind, input_size, hidden_size, num_layers, bidirectional, proj_size, dtype):
    """The sizes of a module, one object for equal modules: layouts are looked up by it."""
    return _stack.Net(_cell(kind, proj_size), input_size, hidden_size, num_layers, 2 if bidirectional else 1, 0, dtype)


@lru_cache(maxsize=256)
def _names(net, bias):
    """The parameters' names in torch's order."""
    kinds = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if bias else []), *(["weight_hr"] if net.cell.proj_size else [])]
    return [kind + suffix for _, _, suffix in net.parts for kind in kinds]


def _tape_size(kind, hidden_size, num_layers, bidirectional, proj_size, dtype, rows, B, padded):
    """Numbers that suffice for a tape of so many rows, whatever its layout shares. Linear in rows and B, which may be symbols."""
    cell, D = _cell(kind, proj_size), 2 if bidirectional else 1
    Hp, Pp = (cells.padded(size, DTYPES[dtype]) for size in (hidden_size, proj_size or hidden_size))
    each = Pp + (cell.has_c + (0 if padded and cell.output_is_tape else cell.blocks)) * Hp
    total = num_layers * D * (rows * each + B * Pp) + (num_layers - 1) * rows * D * (proj_size or hidden_size)
    return total + 64 // DTYPES[dtype].itemsize * (num_layers * D * 3 + num_layers)


def _clear_gaps(array, layout):
    """Zeros where no part of the layout lies: the same call gives the same tape, which torch.library.opcheck asks for."""
    end = 0
    for part, _ in layout.parts.values():
        array[end : part.start] = 0
        end = part.stop
    array[end:] = 0


class _Kept:
    """Packed weights, and what tells whether the parameters are still those they were made of.

    `data_ptr` and `_version` tell of everything but writes through `.data` or a NumPy view; of those the numbers looked at tell.
    """

    def __init__(self, net, bias, params, marks):
        self.net, self.marks = net, marks
        arrays = [_array(p) for p in params]  # they hold the memory, so that no other tensor gets its address
        self.packed = cells.Packed(net.cell, net.hidden_size, net.dtype, dict(zip(_names(net, bias), arrays, strict=True)))
        self._spots = [a.reshape(-1)[:: 1 if a.size <= _WHOLE else a.size // _LOOKED_AT | 1] for a in arrays]
        self._seen = [s.tobytes() for s in self._spots]
        self._streams = []  # that no thread is using

    def stands(self, net, marks):
        return self.net is net and self.marks == marks and all(s.tobytes() == seen for s, seen in zip(self._spots, self._seen))

    def run_few(self, x, state):
        """y and the state behind it, of few steps in one direction: by a stream, which costs less to call and gives the same bits."""
        try:
            stream = self._streams.pop()
        except IndexError:
            stream = None
        if stream is None or stream.batch_size != x.shape[1]:
            stream = _engine.Stream(_Stepped(self.net, self.packed), x.shape[1], None)
        for own, given in zip((stream.h, stream.c), state):
            own[:, :, : given.shape[2]] = given
        y = stream.run(x)
        state_n = [own[:, :, : given.shape[2]].copy() for own, given in zip((stream.h, stream.c), state)]
        if len(self._streams) < _STREAMS:
            self._streams.append(stream)
        return y, state_n


class _Stepped:
    """What an engine's stream asks of a layer."""

    kind = "network"
    _stream_layers = Recurrent._stream_layers

    def __init__(self, net, packed):
        self.cell, self.dtype, self.num_layers, self.input_size = net.cell, net.dtype, net.num_layers, net.input_size
        self.output_size, self.hidden_size, self._made = net.output_size, net.hidden_size, packed

    def _packed(self):
        return self._made

    def _stream_initial(self):
        return None


_kept = {}  # id of a weight_hh: (weak reference to it, _Kept)


def _kept_for(net, params, bias):
    """What is kept for these parameters: that of the last call, if nothing has changed."""
    if any(p.is_inference() or not p.is_contiguous() for p in params):  # no version counter, or no flat view
        return _Kept(net, bias, [p.contiguous() for p in params], None)
    marks = [_engine.isa(), *((p.data_ptr(), p._version) for p in params)]
    owner = params[1]
    key = id(owner)
    reference, kept = _kept.get(key, (None, None))
    if kept is None or reference() is not owner or not kept.stands(net, marks):
        kept = _Kept(net, bias, params, marks)
        _kept[key] = weakref.ref(owner, lambda dead: _forget(key, dead)), kept
    return kept


def _forget(key, dead):
    if _kept.get(key, (None,))[0] is dead:
        del _kept[key]


def _look_up(x, params, kind, hidden_size, num_layers, bidirectional, proj_size):
    """(net, what is kept for its parameters)."""
    net = _net(kind, x.shape[-1], hidden_size, num_layers, bidirectional, proj_size, DTYPES[x.dtype])
    return net, _kept_for(net, params, len(params) > (3 if proj_size else 2) * num_layers * net.num_directions)


def _call(x, batch_sizes, params, kind, hidden_size, num_layers, bidirectional, proj_size, dropout, key):
    """What forward and backward have in common: (net, packed weights, batch, rows of x, dropout)."""
    net, kept = _look_up(x, params, kind, hidden_size, num_layers, bidirectional, proj_size)
    if batch_sizes is None:
        batch = _stack.even_batch(*x.shape[:2])
    else:
        sizes = batch_sizes.numpy()
        batch = _stack.Batch(len(sizes), int(sizes[0]), (sizes[:, None] > np.arange(sizes[0])).sum(axis=0))
    rows = np.ascontiguousarray(_array(x)).reshape(batch.total, x.shape[-1])
    return net, kept.packed, batch, rows, _stack.Dropout(dropout, int(key), False) if key is not None else None


def run(
    x: torch.Tensor, batch_sizes: torch.Tensor | None, state: list[torch.Tensor], params: list[torch.Tensor], kind: str,
    hidden_size: int, num_layers: int, bidirectional: bool, proj_size: int, dropout: float, key: torch.Tensor | None, train: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """y, h_n, c_n (empty without one), and the tape (empty unless `train`).

    x : (T, B, I), or the rows of a PackedSequence with its batch_sizes; any strides
    key : the key of the dropout masks, one number; None: no dropout
    """
    if not (train or bidirectional) and batch_sizes is None and key is None and 0 < x.shape[0] * x.shape[1] <= _FEW:
        _, found = _look_up(x, params, kind, hidden_size, num_layers, bidirectional, proj_size)
        y, state_n = found.run_few(np.ascontiguousarray(_array(x)), tuple(map(_array, state)))
        h_n, *c_n = map(torch.from_numpy, state_n)
        return torch.from_numpy(y), h_n, c_n[0] if c_n else _nothing(x), _nothing(x)
    net, packed, batch, rows, masks = _call(x, batch_sizes, params, kind, hidden_size, num_layers, bidirectional, proj_size, dropout, key)
    tape, kept = None, _nothing(x)
    if train:
        kept = x.new_empty(_tape_size(kind, hidden_size, num_layers, bidirectional, proj_size, x.dtype, batch.total, batch.B, batch_sizes is None))
        tape = _stack.make_tape(net, batch, packed, masks, _Owned(kept))
        _clear_gaps(kept.numpy(), _stack.tape_layout(net, batch, packed, masks))
    y, state_n = _stack.forward(net, packed, batch, rows, tuple(map(_array, state)), None, tape, masks)
    h_n, *c_n = map(torch.from_numpy, state_n)
    return torch.from_numpy(y.reshape(*x.shape[:-1], y.shape[-1])), h_n, c_n[0] if c_n else _nothing(x), kept


recurrent = torch.library.custom_op("fastrnn::recurrent", run, mutates_args=())


@recurrent.register_fake
def _(x, batch_sizes, state, params, kind, hidden_size, num_layers, bidirectional, proj_size, dropout, key, train):
    features, rows = (2 if bidirectional else 1) * (proj_size or hidden_size), math.prod(x.shape[:-1])
    settings = kind, hidden_size, num_layers, bidirectional, proj_size, x.dtype
    states = [torch.empty_like(s, memory_format=torch.contiguous_format) for s in state]
    tape = x.new_empty(_tape_size(*settings, rows, state[0].shape[1], batch_sizes is None) if train else 0)
    return x.new_empty((*x.shape[:-1], features)), states[0], states[1] if kind == "LSTM" else x.new_empty(0), tape


def _keep(ctx, inputs, output):
    x, batch_sizes, state, params, *ctx.settings, key, _ = inputs
    ctx.states, ctx.packed, ctx.masked = len(state), batch_sizes is not None, key is not None
    ctx.save_for_backward(x, *state, *params, output[3], *([batch_sizes] if ctx.packed else []), *([key] if ctx.masked else []))


def run_backward(
    x: torch.Tensor, batch_sizes: torch.Tensor | None, state: list[torch.Tensor], params: list[torch.Tensor], tape: torch.Tensor,
    dy: torch.Tensor, dstate: list[torch.Tensor], kind: str, hidden_size: int, num_layers: int, bidirectional: bool, proj_size: int,
    dropout: float, key: torch.Tensor | None, need_x: bool,
) -> list[torch.Tensor]:  # fmt: skip
    """Gradients of x (empty if it is not needed), of the state, of the parameters."""
    net, packed, batch, rows, masks = _call(x, batch_sizes, params, kind, hidden_size, num_layers, bidirectional, proj_size, dropout, key)
    kept = Tape(_Owned(tape), _stack.tape_layout(net, batch, packed, masks))
    grads = {name: np.zeros(p.shape, net.dtype) for name, p in packed.params.items()}
    dy = np.ascontiguousarray(_array(dy)).reshape(batch.total, dy.shape[-1])
    dstate = tuple(map(_array, dstate))
    dx, dstate_0, _ = bptt(net, packed, batch, rows, None, kept, masks, dy, dstate, grads, need_x=need_x)
    dx = torch.from_numpy(dx.reshape(x.shape)) if need_x else x.new_empty(0)
    return [dx, *map(torch.from_numpy, dstate_0), *map(torch.from_numpy, grads.values())]


_recurrent_backward = torch.library.custom_op("fastrnn::recurrent_backward", run_backward, mutates_args=())


@_recurrent_backward.register_fake
def _(x, batch_sizes, state, params, tape, dy, dstate, *settings):
    made = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, *state, *params)]
    return made if settings[-1] else [x.new_empty(0), *made[1:]]


def _refuse_twice(ctx, *grads):
    raise NotImplementedError("fastrnn.torch has no double backward: use torch.nn's layer where a gradient of a gradient is needed")


_recurrent_backward.register_autograd(_refuse_twice)


def _gradients(ctx, dy, dh, dc, _):
    n = 1 + ctx.states
    x, *saved = ctx.saved_tensors
    key = saved.pop() if ctx.masked else None
    batch_sizes = saved.pop() if ctx.packed else None
    state, params, tape, need_x = saved[: n - 1], saved[n - 1 : -1], saved[-1], ctx.needs_input_grad[0]
    g = torch.ops.fastrnn.recurrent_backward(x, batch_sizes, state, params, tape, dy, [dh, dc][: n - 1], *ctx.settings, key, need_x)
    return g[0] if need_x else None, None, g[1:n], g[n:], *[None] * (len(ctx.settings) + 2)


recurrent.register_autograd(_gradients, setup_context=_keep)


class _Eager(torch.autograd.Function):
    """The operator without torch's dispatcher, which would take several times as long as a small step."""

    @staticmethod
    def forward(ctx, batch_sizes, states, settings, x, *rest):
        ctx.batch_sizes, ctx.states, ctx.settings = batch_sizes, states, settings
        y, h_n, c_n, tape = run(x, batch_sizes, rest[:states], rest[states:], *settings, True)
        ctx.save_for_backward(x, *rest, tape)
        return (y, h_n, c_n)[: 1 + states]

    @staticmethod
    def backward(ctx, dy, *dstate):
        x, *rest, tape = ctx.saved_tensors
        n, need_x = ctx.states, ctx.needs_input_grad[3]
        call = torch.ops.fastrnn.recurrent_backward if torch.is_grad_enabled() else run_backward  # the first refuses a second backward
        dx, *others = call(x, ctx.batch_sizes, rest[:n], rest[n:], tape, dy, list(dstate), *ctx.settings, need_x)
        return None, None, None, dx if need_x else None, *others


def compute(x, batch_sizes, state, params, *settings):
    """(y, h_n) or (y, h_n, c_n): through the operator where a compiler, tracer, mode or transform must see it."""
    train = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *state, *params))
    if not torch.compiler.is_compiling() and (forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None):
        raise NotImplementedError(
            "fastrnn.torch has no forward-mode derivatives and no torch.func transforms (vmap, grad, jvp …): use torch.nn's layer there"
        )
    if torch.compiler.is_compiling() or not _nobody_looks((x, *state, *params)):
        return recurrent(x, batch_sizes, state, params, *settings, train)[: 1 + len(state)]
    if train:
        return _Eager.apply(batch_sizes, len(state), settings, x, *state, *params)
    return run(x, batch_sizes, state, params, *settings, False)[: 1 + len(state)]


def _nobody_looks(tensors):
    """No mode or tracer is at work, and all are usual tensors."""
    return (
        torch._C._len_torch_dispatch_stack() == 0
        and not torch.jit.is_tracing()
        and all(type(t) in (torch.Tensor, torch.nn.Parameter) for t in tensors)
    )

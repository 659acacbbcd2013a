"""The custom operator behind the modules: forward, its fake kernel and its gradient.

The operator returns the tape as a tensor, so torch owns its memory and a graph may be kept, freed or run twice.
"""

from __future__ import annotations

import math
from functools import lru_cache, wraps

import numpy as np
import torch
from torch.autograd import forward_ad

from fastrnn import _engine
from fastrnn._core import cells, packing
from fastrnn._core import stack as _stack
from fastrnn._core.batch import Batch, even_batch
from fastrnn._core.bptt import backward as bptt
from fastrnn._core.memory import Tape
from fastrnn.torch import _checks
from fastrnn.torch._checks import DTYPES
from fastrnn.torch._packed import array, packed_for

_BATCHED = torch._C._parse_dispatch_key("Batched")


class _OwnedByTensor:
    """In place of a Pool: one array, whose memory a tensor owns."""

    def __init__(self, tensor):
        self._array = array(tensor)

    def take(self, layout):
        return self._array, {}

    def give(self, array, layout, views):
        pass


def _empty(x):
    return torch.empty(0, dtype=x.dtype)


@lru_cache(maxsize=256)
def _cell(kind, proj_size):
    if kind == "LSTM":
        return cells.lstm_cell("tanh", "sigmoid", None, np.inf, False, False, proj_size)
    return cells.GRU_CELL if kind == "GRU" else cells.RNN_CELLS[kind]


@lru_cache(maxsize=256)
def _net(kind, input_size, hidden_size, num_layers, bidirectional, proj_size, dtype):
    """The sizes of a module; equal modules get the same object, since layouts are looked up by it."""
    return _stack.Net(_cell(kind, proj_size), input_size, hidden_size, num_layers, 2 if bidirectional else 1, 0, dtype)


def _tape_size(kind, hidden_size, num_layers, bidirectional, proj_size, dtype, rows, B, padded):
    """An upper bound of the size of a tape, whatever its layout shares.

    It is linear in rows and B, which may be symbols.
    """
    cell, D = _cell(kind, proj_size), 2 if bidirectional else 1
    Hp, Pp = (packing.padded(size, DTYPES[dtype]) for size in (hidden_size, proj_size or hidden_size))
    each = Pp + (cell.has_c + (0 if padded and cell.output_is_tape else cell.blocks)) * Hp
    total = num_layers * D * (rows * each + B * Pp) + (num_layers - 1) * rows * D * (proj_size or hidden_size)
    return total + 64 // DTYPES[dtype].itemsize * (num_layers * D * 3 + num_layers)


@lru_cache(maxsize=256)
def _cached_tape_size(isa, *sizes):
    """`_tape_size` for ints; the padding in it depends on the instruction set."""
    return _tape_size(*sizes)


def _clear_gaps(array, layout):
    """Write zeros between the parts of the layout: torch.library.opcheck requires that equal calls give equal tapes."""
    end = 0
    for part, _ in layout.parts.values():
        array[end : part.start] = 0
        end = part.stop
    array[end:] = 0


def _look_up(x, params, kind, hidden_size, num_layers, bidirectional, proj_size):
    """The Net of a call and its PackedParameters."""
    net = _net(kind, x.shape[-1], hidden_size, num_layers, bidirectional, proj_size, DTYPES[x.dtype])
    return net, packed_for(net, params, _checks.has_bias(len(params), num_layers, net.num_directions, proj_size))


def _prepare(net, packed, x, batch_sizes, dropout, key):
    """The Call of forward and backward."""
    if batch_sizes is None:
        batch = even_batch(*x.shape[:2])
    else:
        _checks.packed_rows(batch_sizes, x.shape[0])
        rows = batch_sizes.numpy()
        batch = Batch(len(rows), int(rows[0]), (rows[:, None] > np.arange(rows[0])).sum(axis=0))
    rows = np.ascontiguousarray(array(x)).reshape(batch.total, x.shape[-1])
    masks = None if key is None else (_DropAll if dropout == 1 else _stack.Dropout)(dropout, int(key), False)
    return _stack.Call(net, packed, batch, rows, None, masks)


class _DropAll(_stack.Dropout):
    """Dropout with p = 1, which torch allows: a mask would multiply by 1 / (1 - p), infinity."""

    def apply(self, y, batch, layer):
        y[...] = 0


def run(
    x: torch.Tensor, batch_sizes: torch.Tensor | None, state: list[torch.Tensor], params: list[torch.Tensor], kind: str,
    hidden_size: int, num_layers: int, bidirectional: bool, proj_size: int, dropout: float, key: torch.Tensor | None,
    train: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Compute y, h_n, c_n (empty for a kind without c), and the tape (empty unless `train`).

    x : (T, B, I), or the rows of a PackedSequence with its batch_sizes; any strides
    key : one number, the key of the dropout masks; None: no dropout
    """
    settings = kind, hidden_size, num_layers, bidirectional, proj_size
    net, cached = _look_up(x, params, *settings)
    if not (train or bidirectional) and batch_sizes is None and key is None:
        stream = cached.short_calls.take(x.shape[0], x.shape[1])
        if stream is not None:
            y, state_n = cached.short_calls.run(stream, array(x), tuple(map(array, state)))
            h_n, *c_n = map(torch.from_numpy, state_n)
            return torch.from_numpy(y), h_n, c_n[0] if c_n else _empty(x), _empty(x)
    call = _prepare(net, cached.packed, x, batch_sizes, dropout, key)
    tape, storage = None, _empty(x)
    if train:
        rows = x.dtype, call.batch.total, call.batch.B, batch_sizes is None
        storage = x.new_empty(_cached_tape_size(_engine.isa(), *settings, *rows))
        tape = call.make_tape(_OwnedByTensor(storage))
        _clear_gaps(storage.numpy(), call.tape_layout())
    y, state_n = _stack.forward(call, tuple(map(array, state)), tape)
    h_n, *c_n = map(torch.from_numpy, state_n)
    return torch.from_numpy(y.reshape(*x.shape[:-1], y.shape[-1])), h_n, c_n[0] if c_n else _empty(x), storage


def _refuse_onnx():
    if torch.onnx.is_in_onnx_export():
        raise NotImplementedError(
            "torch.onnx.export knows torch's layers only: call fastrnn.torch.restore(model), export it, "
            "and call fastrnn.torch.replace(model) again"
        )


@wraps(run)
def _run(*arguments):
    _checks.operator(*arguments[:-1])
    x, batch_sizes, state, _, *settings = arguments
    _checks.operator_rows(x, batch_sizes, state, *settings[:5])
    return run(*arguments)


recurrent = torch.library.custom_op("fastrnn::recurrent", _run, mutates_args=())


@recurrent.register_fake
def _(x, batch_sizes, state, params, *settings):
    _refuse_onnx()
    *given, train = settings
    _checks.operator(x, batch_sizes, state, params, *given)
    kind, hidden_size, num_layers, bidirectional, proj_size, *_ = given
    features, rows = (2 if bidirectional else 1) * (proj_size or hidden_size), math.prod(x.shape[:-1])
    settings = kind, hidden_size, num_layers, bidirectional, proj_size, x.dtype
    states = [torch.empty_like(s, memory_format=torch.contiguous_format) for s in state]
    tape = x.new_empty(_tape_size(*settings, rows, state[0].shape[1], batch_sizes is None) if train else 0)
    return x.new_empty((*x.shape[:-1], features)), states[0], states[1] if kind == "LSTM" else x.new_empty(0), tape


def _keep(ctx, inputs, output):
    x, batch_sizes, state, params, *ctx.settings, key, _ = inputs
    ctx.states, ctx.packed, ctx.masked = len(state), batch_sizes is not None, key is not None
    ctx.save_for_backward(
        x, *state, *params, output[3], *([batch_sizes] if ctx.packed else []), *([key] if ctx.masked else [])
    )


def run_backward(
    x: torch.Tensor, batch_sizes: torch.Tensor | None, state: list[torch.Tensor], params: list[torch.Tensor],
    tape: torch.Tensor, dy: torch.Tensor, dstate: list[torch.Tensor], kind: str, hidden_size: int, num_layers: int,
    bidirectional: bool, proj_size: int, dropout: float, key: torch.Tensor | None, need_x: bool,
) -> list[torch.Tensor]:  # fmt: skip
    """Compute the gradients of x (empty unless `need_x`), of the state and of the parameters.

    tape : as `run` returned it; if it is empty, as in a program that was traced without gradients, forward runs again
    """
    settings = kind, hidden_size, num_layers, bidirectional, proj_size
    _checks.gradients(dy, dstate, x, (2 if bidirectional else 1) * (proj_size or hidden_size), state)
    if tape.shape == (0,):
        tape = run(x, batch_sizes, state, params, *settings, dropout, key, True)[3]
    net, cached = _look_up(x, params, *settings)
    call = _prepare(net, cached.packed, x, batch_sizes, dropout, key)
    rows = x.dtype, call.batch.total, call.batch.B, batch_sizes is None
    _checks.tape(tape, _cached_tape_size(_engine.isa(), *settings, *rows))
    kept = Tape(_OwnedByTensor(tape.contiguous()), call.tape_layout())
    grads = {name: np.zeros(p.shape, net.dtype) for name, p in cached.packed.params.items()}
    dy = np.ascontiguousarray(array(dy)).reshape(call.batch.total, dy.shape[-1])
    dx, dstate_0, _ = bptt(call, kept, dy, tuple(map(array, dstate)), grads, need_x=need_x)
    dx = torch.from_numpy(dx.reshape(x.shape)) if need_x else x.new_empty(0)
    return [dx, *map(torch.from_numpy, dstate_0), *map(torch.from_numpy, grads.values())]


@wraps(run_backward)
def _run_backward(x, batch_sizes, state, params, tape, dy, dstate, *settings):
    _checks.operator(x, batch_sizes, state, params, *settings[:-1])
    _checks.operator_rows(x, batch_sizes, state, *settings[:5])
    _checks.operator_gradients(x, tape, dy, dstate)
    return run_backward(x, batch_sizes, state, params, tape, dy, dstate, *settings)


_recurrent_backward = torch.library.custom_op("fastrnn::recurrent_backward", _run_backward, mutates_args=())


@_recurrent_backward.register_fake
def _(x, batch_sizes, state, params, tape, dy, dstate, *settings):
    _, hidden_size, _, bidirectional, proj_size = settings[:5]
    _checks.operator(x, batch_sizes, state, params, *settings[:-1])
    _checks.gradients(dy, dstate, x, (2 if bidirectional else 1) * (proj_size or hidden_size), state)
    _checks.operator_gradients(x, tape, dy, dstate)
    made = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, *state, *params)]
    return made if settings[-1] else [x.new_empty(0), *made[1:]]


def _refuse_twice(ctx, *grads):
    raise NotImplementedError(
        "fastrnn.torch has no double backward: use torch.nn's layer where a gradient of a gradient is needed"
    )


_recurrent_backward.register_autograd(_refuse_twice)


def _select(argument, dim, i):
    """Element i along `dim` of every tensor in a nested argument; what has dim None is not batched."""
    if isinstance(argument, (list, tuple)):
        return argument if dim is None else [_select(a, d, i) for a, d in zip(argument, dim, strict=True)]
    return argument if dim is None else argument.select(dim, i)


def _backward_one_by_one(info, in_dims, *arguments):
    """A batch of gradients, as jacobian(vectorize=True) and is_grads_batched=True request: one after the other."""
    rows = [[_select(a, dim, i) for a, dim in zip(arguments, in_dims, strict=True)] for i in range(info.batch_size)]
    each = [run_backward(*row) for row in rows]
    return [torch.stack(found) for found in zip(*each, strict=True)], [0] * len(each[0])


def _call_each(call, before, dy, dstate, after):
    """Compute the gradients, one by one if dy or dstate is batched, as with grad(is_grads_batched=True)."""
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    many = [level > 0 and torch._C._dispatch_keys(t).has(_BATCHED) for t in (dy, *dstate)]
    if not any(many):
        return call(*before, dy, dstate, *after)
    rows = [torch._remove_batch_dim(t, level, 1, 0) if is_many else t for t, is_many in zip((dy, *dstate), many)]
    size = next(len(t) for t, is_many in zip(rows, many) if is_many)
    each = []
    for i in range(size):
        one, *others = (t[i] if is_many else t for t, is_many in zip(rows, many))
        each.append(call(*before, one, others, *after))
    return [torch._add_batch_dim(torch.stack(found), 0, level) for found in zip(*each, strict=True)]


def _refuse_transforms(*arguments):
    raise NotImplementedError(
        "fastrnn.torch has no forward-mode derivatives and no torch.func transforms (vmap, grad, jvp …): "
        "use torch.nn's layer there"
    )


if hasattr(torch.library, "register_vmap"):  # torch 2.5 and later
    torch.library.register_vmap("fastrnn::recurrent", _refuse_transforms)
    torch.library.register_vmap("fastrnn::recurrent_backward", _backward_one_by_one)


def _gradients(ctx, dy, dh, dc, _):
    n = 1 + ctx.states
    x, *saved = ctx.saved_tensors
    key = saved.pop() if ctx.masked else None
    batch_sizes = saved.pop() if ctx.packed else None
    state, params, tape, need_x = saved[: n - 1], saved[n - 1 : -1], saved[-1], ctx.needs_input_grad[0]
    before, after = (x, batch_sizes, state, params, tape), (*ctx.settings, key, need_x)
    g = _call_each(torch.ops.fastrnn.recurrent_backward, before, dy, [dh, dc][: n - 1], after)
    return g[0] if need_x else None, None, g[1:n], g[n:], *[None] * (len(ctx.settings) + 2)


recurrent.register_autograd(_gradients, setup_context=_keep)


class _Eager(torch.autograd.Function):
    """The operator without torch's dispatcher, which takes several times as long as a small step."""

    @staticmethod
    def forward(ctx, batch_sizes, states, settings, x, *rest):
        ctx.states, ctx.settings = states, settings
        y, h_n, c_n, tape = run(x, batch_sizes, rest[:states], rest[states:], *settings, True)
        ctx.save_for_backward(x, *rest, tape, batch_sizes)
        return (y, h_n, c_n)[: 1 + states]

    @staticmethod
    def backward(ctx, dy, *dstate):
        x, *rest, tape, batch_sizes = ctx.saved_tensors
        n, need_x = ctx.states, ctx.needs_input_grad[3]
        # with gradients enabled this is the first half of a double backward, which only the operator refuses
        transformed = torch._C._functorch.peek_interpreter_stack() is not None
        eager = not (transformed or torch.is_grad_enabled()) and _eager_path_allowed((dy, *dstate))
        call = run_backward if eager else torch.ops.fastrnn.recurrent_backward
        dx, *others = _call_each(
            call, (x, batch_sizes, rest[:n], rest[n:], tape), dy, list(dstate), (*ctx.settings, need_x)
        )
        return None, None, None, dx if need_x else None, *others


def compute(x, batch_sizes, state, params, settings):
    """Compute (y, h_n) or (y, h_n, c_n), by the operator where a compiler, a tracer or a mode has to see it."""
    compiled = torch.compiler.is_compiling()
    train = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *state, *params))
    if not compiled and (forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None):
        _refuse_transforms()
    if compiled or not _eager_path_allowed((x, *state, *params)):
        if not compiled and torch.jit.is_tracing():
            train = False  # a trace may be called with and without gradients, so its backward makes the tape
            _refuse_onnx()
        return recurrent(x, batch_sizes, state, params, *settings, train)[: 1 + len(state)]
    if train:
        return _Eager.apply(batch_sizes, len(state), settings, x, *state, *params)
    return run(x, batch_sizes, state, params, *settings, False)[: 1 + len(state)]


def _eager_path_allowed(tensors):
    """Whether no mode or tracer is active and all tensors are plain ones, so that torch's dispatcher is not needed."""
    return (
        torch._C._len_torch_dispatch_stack() == 0
        and not torch.jit.is_tracing()
        and all(type(t) in (torch.Tensor, torch.nn.Parameter) for t in tensors)
    )

"""The states after every step, from the results of a forward pass."""

from __future__ import annotations

import numpy as np

from fastrnn import _engine
from fastrnn._core.batch import even_batch
from fastrnn._core.memory import Scratch
from fastrnn._core.stack import (
    Call,
    Tokens,
    forward_scratch_layout,
    prepare_layer,
    scratch_arrays,
    scratch_pool,
)


def states(call, outputs, tape, state_n):
    """(h,) or (h, c), (L*D, T, B, P) and (L*D, T, B, H) in the caller's order; zeros past the end of a sequence.

    outputs : output of each layer, (total, D*P) before dropout
    tape : of the forward pass; only a cell with a cell state needs it
    state_n : returned by `forward`
    """
    net, batch = call.net, call.batch
    D, H, P = net.num_directions, net.hidden_size, net.output_size
    shape = (len(net.parts), batch.T, batch.B)
    h = np.empty((*shape, P), net.dtype)
    for layer, y in enumerate(outputs):
        h[layer * D : (layer + 1) * D] = batch.spread(y).reshape(*shape[1:], D, P).transpose(2, 0, 1, 3)
    if not net.cell.has_c:
        return (h,)
    c = np.zeros((*shape, H), net.dtype)
    cut = _cut_steps(batch)
    for part, (layer, d, _) in enumerate(net.parts):
        before = batch.spread(tape[f"c_prev{layer}{d}"])[..., :H]
        _after(before, state_n[1][part], batch.row_lengths, net.runs_back(d), out=c[part])
        if cut is not None:
            rows, t, b = cut[net.runs_back(d)]
            c[part][t, b] = _recompute(call, tape, layer, d, rows)
    return h, c


def _after(before, final, lengths, reverse, *, out):
    """States after each step (T, B, H): those before the row's next step, and after its last step the final state."""
    rows = np.flatnonzero(lengths)
    if reverse:
        out[1:] = before[:-1]
        out[:1, rows] = final[rows]
        short = np.flatnonzero(lengths < len(out))
        out[lengths[short], short] = 0
    else:
        out[:-1] = before[1:]
        out[lengths[rows] - 1, rows] = final[rows]


def _cut_steps(batch):
    """(packed rows, t, b), for each direction, of the steps followed by a reset; None without resets."""
    if batch.resets is None:
        return None
    where = slice(None) if batch.where is None else batch.where
    packed_row, resets = np.zeros(batch.T * batch.B, np.intp), np.zeros(batch.T * batch.B, bool)
    packed_row[where], resets[where] = np.arange(batch.total), batch.resets
    t, b = np.nonzero(resets.reshape(batch.T, batch.B)[1:])
    return [(packed_row[(t + d) * batch.B + b], t + d, b) for d in (0, 1)]


def _recompute(call, tape, layer, d, rows):
    """c (n, H) after the steps of n packed rows, each recomputed from the states before it."""
    net, packed, batch, n = call.net, call.packed, call.batch, len(rows)
    _, h_prev, c_prev, _ = call.tape_arrays(tape, layer, d)
    h, c = h_prev[rows], c_prev[rows]
    below = call.x if layer == 0 else call.tape_output(tape, layer - 1)
    below = Tokens(below.ids[rows], below.table, below.rows) if isinstance(below, Tokens) else below[rows]
    context = call.context
    if context is not None:
        context = context[rows - batch.offset[np.searchsorted(batch.offset, rows, side="right") - 1]]
    scratch = Scratch(scratch_pool, forward_scratch_layout(net, n, n, packed.Hp, packed.Pp, 1))
    y = np.empty((n, net.num_directions * net.output_size), net.dtype)
    one = Call(net, packed, even_batch(1, n), below, context)
    arrays = scratch_arrays(scratch, 0, True)
    _engine.forward_layers([prepare_layer(one, layer, d, below, arrays, (h, c), y)])
    scratch.release()
    return c[:, : net.hidden_size]

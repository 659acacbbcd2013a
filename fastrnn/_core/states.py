"""The states after every step, from what a forward pass has left."""

from __future__ import annotations

import numpy as np

from fastrnn import _engine
from fastrnn._core.memory import Scratch
from fastrnn._core.stack import Tokens, even_batch, on_tape, output_on_tape, ready_sweep, scratch_layout, scratch_pool


def states(net, packed, batch, x, context, outputs, tape, state_n):
    """(h,) or (h, c), (L*D, T, B, P) and (L*D, T, B, H) in the caller's order; zeros past a row's length.

    x, context, tape : those of `forward`; only a cell with a c needs the tape
    outputs : what each layer gave, (total, D*P) before dropout
    state_n : what `forward` returned
    """
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
            c[part][t, b] = _step_again(net, packed, batch, x, context, tape, layer, d, rows)
    return h, c


def _after(before, final, lengths, reverse, *, out):
    """States after each step (T, B, H), from those before each: the ones before the row's next step, and at its last step the final one."""
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
    """For each direction (packed rows, t, b) of the steps after which a reset cut the state, or None without resets."""
    if batch.resets is None:
        return None
    where = slice(None) if batch.where is None else batch.where
    packed_row, resets = np.zeros(batch.T * batch.B, np.intp), np.zeros(batch.T * batch.B, bool)
    packed_row[where], resets[where] = np.arange(batch.total), batch.resets
    t, b = np.nonzero(resets.reshape(batch.T, batch.B)[1:])
    return [(packed_row[(t + d) * batch.B + b], t + d, b) for d in (0, 1)]


def _step_again(net, packed, batch, x, context, tape, layer, d, rows):
    """c (n, H) after the steps of n packed rows, each computed once more from the states before it."""
    n = len(rows)
    _, h_prev, c_prev = on_tape(tape, batch, net, layer, d)
    h, c = h_prev[rows], c_prev[rows]
    below = x if layer == 0 else output_on_tape(tape, batch, layer - 1)
    below = Tokens(below.ids[rows], below.table, below.rows) if isinstance(below, Tokens) else below[rows]
    if context is not None:
        context = context[rows - batch.offset[np.searchsorted(batch.offset, rows, side="right") - 1]]
    scratch = Scratch(scratch_pool, scratch_layout(net, n, n, packed.Hp, packed.Pp, 1))
    memory = scratch["gates0"], scratch["h0"], scratch["c0"]
    y = np.empty((n, net.num_directions * net.output_size), net.dtype)
    _engine.forward_layers(
        [ready_sweep(net, packed, even_batch(1, n), layer, d, below, context, memory, h, c, y, False, 1)]
    )
    scratch.release()
    return c[:, : net.hidden_size]

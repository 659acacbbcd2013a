"""The functional core, backward: BPTT through a stack from its tape. The mirror of _stack.py."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fastrnn import _engine
from fastrnn._memory import Layout, Scratch
from fastrnn._stack import Tokens, on_tape, output_on_tape, scratch_pool, state_out, state_rows
from fastrnn.cells import runs

_CHUNK_ROWS = 512  # dgates of at most about this many rows exist at a time: they stay in L2, and a step's scratch is small
_CHUNK_BYTES = 512 * 1024


def backward(net, packed, batch, x, context, tape, dropout, dy, dstate, grads, *, need_x, d_embedding=None):
    """Gradients of everything from the tape.

    dy : (total, D*H) packed rows, or None
    dstate : tuple of (L*D, B, H), or None
    grads : {name: array} to add the parameters' gradients to
    d_embedding : (V, E) to add the embedding's gradient to, if x are Tokens
    Returns (dx (total, I) or None, dstate_0 tuple, dcontext (B, C) sorted, or None).
    """
    cell, B, Hp = net.cell, batch.B, packed.Hp
    dh = state_rows(net, batch, Hp, dstate and dstate[0])
    dc = state_rows(net, batch, Hp, dstate and dstate[1]) if cell.has_c else None
    d_context = None if context is None else np.zeros_like(context)
    chunks = _chunks(batch.T, B, cell.blocks * Hp * net.dtype.itemsize)
    most = max((int(batch.offset[high] - batch.offset[low]) for low, high in chunks), default=0)
    scratch = Scratch(scratch_pool, _scratch_layout(net, most, B, Hp))
    for layer in range(net.num_layers - 1, -1, -1):
        below = x if layer == 0 else output_on_tape(tape, batch, layer - 1)
        dx = None
        if layer > 0 or (need_x and isinstance(x, np.ndarray)):
            dx = np.empty((batch.total, below.shape[1]), net.dtype)
        for d in range(net.num_directions):
            part = layer * net.num_directions + d
            sweep = _Sweep(net, packed, batch, tape, layer, d, below, context if layer == 0 else None, grads)
            for low, high in chunks if d else reversed(chunks):
                sweep.run(low, high, scratch, dy, dh[part], dc[part] if cell.has_c else None)
                sweep.collect(low, high, scratch["dgates"], dx)
            sweep.finish(d_embedding, d_context)
        if dropout is not None and layer > 0:
            dropout.apply(dx, batch, layer - 1)
        dy = dx
    scratch.release()
    return dy, tuple(state_out(net, batch, s) for s in (dh, dc) if s is not None), d_context


@lru_cache(maxsize=256)
def _scratch_layout(net, rows, B, Hp):
    return Layout(net.dtype, [("dgates", (rows, net.cell.blocks * Hp)), ("dphase", (B, Hp))])


@lru_cache(maxsize=256)
def _chunks(T, B, row_bytes):
    """Ranges of steps that are treated together. They depend on shapes only, and so do the bits of the gradients."""
    rows = min(_CHUNK_ROWS, max(128, _CHUNK_BYTES // max(1, row_bytes)))
    count = -(-T // max(1, rows // max(1, B)))
    return tuple((T * i // count, T * (i + 1) // count) for i in range(count))


class _Sweep:
    """BPTT of one layer in one direction, chunk after chunk: dgates of the chunk's steps, then the products they enter.

    What is summed over all rows before it meets a weight (biases, tokens, context) waits in `sums` until the last chunk is done.
    """

    def __init__(self, net, packed, batch, tape, layer, d, x, context, grads):
        self.net, self.packed, self.batch, self.grads = net, packed, batch, grads
        self.suffix = f"_l{layer}" + ("_reverse" if d else "")
        self.d, self.x, self.context = d, x, context
        self.gates, self.h_prev, self.c_prev = on_tape(tape, batch, net.cell, layer, d)
        width = len(net.cell.x_gates) * packed.Hp
        self.bias_sums = np.zeros((net.cell.blocks, packed.Hp), net.dtype)
        self.token_sums = np.zeros((len(x.table), width), net.dtype) if isinstance(x, Tokens) else None
        self.context_sums = np.zeros((batch.B, width), net.dtype) if context is not None else None

    def run(self, low, high, scratch, dy, dh, dc):
        """dgates of steps low..high, and dh, dc before them (after them, in reverse)."""
        net, batch, H = self.net, self.batch, self.net.hidden_size
        first, last = (batch.T - high, batch.T - low) if self.d else (low, high)
        _engine.sweep_backward(
            net.cell.code, self.d == 1, H, self.packed.Hp, net.cell.blocks,
            batch.offset, batch.lengths, batch.B, batch.resets, *self.packed.backward(self.suffix),
            dy, self.d * H, net.num_directions * H, self.gates, self.h_prev, self.c_prev,
            scratch["dgates"], dh, dc, scratch["dphase"] if net.cell.rh is not None else None, first, last,
        )  # fmt: skip

    def collect(self, low, high, dgates, dx):
        """The chunk's part of every gradient; the products run over all its valid rows."""
        net, H, Hp = self.net, self.net.hidden_size, self.packed.Hp
        rows = slice(self.batch.offset[low], self.batch.offset[high])
        dgates = dgates[: rows.stop - rows.start]
        _engine.column_sum(dgates, self.bias_sums.reshape(-1))
        dw = self.grads["weight_hh" + self.suffix]
        for block, gate, count in runs(net.cell.h_gates, Hp == H and net.cell.rh is None):
            start = net.cell.rh * Hp if net.cell.rh is not None and gate == 2 else None
            state = self.h_prev[rows, :H] if start is None else self.gates[rows, start : start + H]
            _engine.gemm(True, False, dgates[:, block * Hp : block * Hp + count * H], state, dw[gate * H : (gate + count) * H])
        width = len(net.cell.x_gates) * Hp
        if self.token_sums is not None:
            _engine.scatter_add(dgates[:, :width], self.x.ids[rows], self.token_sums)
        elif self.x is not None and self.x.shape[1]:
            self._products(dgates[:, :width], "weight_ih", self.x[rows], None if dx is None else dx[rows], self.d > 0)
        if self.context_sums is not None:
            counts = np.diff(self.batch.offset[low : high + 1])
            _engine.scatter_add(dgates[:, :width], np.concatenate([np.arange(n) for n in counts]), self.context_sums)

    def finish(self, d_embedding, d_context):
        """Gradients of what was summed up first."""
        cell, H = self.net.cell, self.net.hidden_size
        if "bias_ih" + self.suffix in self.grads:
            db_ih, db_hh = (self.grads[name + self.suffix].reshape(cell.gates, H) for name in ("bias_ih", "bias_hh"))
            for block, gate in cell.x_gates:
                db_ih[gate] += self.bias_sums[block, :H]
            for block, gate in cell.h_gates:
                db_hh[gate] += self.bias_sums[block, :H]
        if self.token_sums is not None:
            tokens = self.x
            whole = d_embedding is None or tokens.rows is None
            d_table = d_embedding if whole else np.empty(tokens.table.shape, self.net.dtype)
            self._products(self.token_sums, "weight_ih", tokens.table, d_table, whole)
            if not whole:
                _engine.scatter_add(d_table, tokens.rows, d_embedding)
        if self.context_sums is not None:
            self._products(self.context_sums, "weight_ch", self.context, d_context, True)

    def _products(self, dgates, name, x, dx, accumulate):
        """dW += dgates_x.T @ x, run by run of gates that lie together, and dx (+)= dgates_x @ W."""
        H, Hp = self.net.hidden_size, self.packed.Hp
        dw = self.grads[name + self.suffix]
        for block, gate, count in runs(self.net.cell.x_gates, Hp == H):
            _engine.gemm(True, False, dgates[:, block * Hp : block * Hp + count * H], x, dw[gate * H : (gate + count) * H])
        if dx is not None:
            _engine.product(dgates, self.packed.input_backward(self.suffix, name), None, dx, accumulate)

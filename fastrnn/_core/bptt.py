"""The functional core, backward: BPTT through a stack from its tape. The mirror of _stack.py."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fastrnn import _engine
from fastrnn._core.memory import Layout, Scratch
from fastrnn._core.stack import Tokens, on_tape, output_on_tape, scratch_pool, state_rows, states_out

_CHUNK_ROWS = 512  # dgates of so many rows exist at a time: few enough for the cache, many enough that gradients are rarely passed over


def backward(net, packed, batch, x, context, tape, dropout, dy, dstate, grads, *, need_x, d_embedding=None):
    """Gradients of everything from the tape.

    dy : (total, D*P) packed rows, or None; P: features of h
    dstate : tuple of (L*D, B, P) and (L*D, B, H), or None
    grads : {name: array} to add the parameters' gradients to
    d_embedding : (V, E) to add the embedding's gradient to, if x are Tokens
    Returns (dx (total, I) or None, dstate_0 tuple, dcontext (B, C) sorted, or None).
    """
    cell, B, Hp = net.cell, batch.B, packed.Hp
    dh, dc = state_rows(net, packed, batch, dstate)
    d_context = None if context is None else np.zeros_like(context)
    D, chunks = net.num_directions, _chunks(batch.T, B)
    scratch = Scratch(scratch_pool, scratch_layout(net, _most_rows(batch, chunks), B, Hp))
    for layer in range(net.num_layers - 1, -1, -1):
        below = x if layer == 0 else output_on_tape(tape, batch, layer - 1)
        dx = [None] * D
        if layer > 0 or (need_x and isinstance(x, np.ndarray)):
            dx = [np.empty((batch.total, below.shape[1]), net.dtype) for _ in range(D)]
        sweeps, bptt = [], []
        for d in range(D):
            part = layer * D + d
            sweeps.append(Sweep(net, packed, batch, tape, layer, d, below, context if layer == 0 else None, grads))
            if batch.total:
                bptt.append(sweeps[d].prepare(scratch, dy, dh[part], dc[part] if cell.has_c else None, dx[d]))
        if batch.total:
            _engine.backward_sides(*bptt, chunks) if D == 2 else _engine.backward_layer(*bptt, chunks)
        for sweep in sweeps:
            sweep.finish(d_embedding, d_context)
        dy = dx[0] if D == 1 or dx[0] is None else np.add(*dx, out=dx[0])
        if dropout is not None and layer > 0:
            dropout.apply(dy, batch, layer - 1)
    scratch.release()
    return dy, states_out(net, batch, dh, dc), d_context


@lru_cache(maxsize=256)
def scratch_layout(net, rows, B, Hp):
    width = net.cell.blocks * Hp
    return Layout(
        net.dtype,
        [part for d in range(net.num_directions) for part in ((f"dgates{d}", (rows, width)), (f"dphase{d}", (B, Hp)))],
    )


@lru_cache(maxsize=256)
def _chunks(T, B):
    """Into how many chunks the steps are divided. It depends on shapes only, and so do the bits of the gradients."""
    return -(-T // max(1, _CHUNK_ROWS // max(1, B)))


def _most_rows(batch, chunks):
    """Rows of the largest chunk; chunk i is steps T*i//chunks .. T*(i+1)//chunks."""
    if batch.lengths is None:
        return -(-batch.T // max(1, chunks)) * batch.B
    bounds = batch.offset[np.arange(chunks + 1) * batch.T // max(1, chunks)]
    return int(np.diff(bounds).max(initial=0))


class Sweep:
    """BPTT of one layer in one direction.

    What is summed over all rows before it meets a weight (biases, tokens, context) waits in `…_sums` until the last step is done.
    """

    def __init__(self, net, packed, batch, tape, layer, d, x, context, grads):
        self.net, self.packed, self.batch, self.grads = net, packed, batch, grads
        self.suffix = f"_l{layer}" + ("_reverse" if d else "")
        self.d, self.x, self.context = d, x, context
        self.tape = on_tape(tape, batch, net, layer, d)
        width = len(net.cell.x_gates) * packed.Hp
        self.bias_sums = np.zeros((net.cell.blocks, packed.Hp), net.dtype)
        self.token_sums = np.zeros((len(x.table), width), net.dtype) if isinstance(x, Tokens) else None
        self.context_sums = np.zeros((batch.B, width), net.dtype) if context is not None else None

    def prepare(self, scratch, dy, dh, dc, dx):
        """The engine's part: dh, dc become those of the initial state; dW_hh, dW_ih and dx are products over all valid rows."""
        net, batch, packed, H, Hp, P = (
            self.net,
            self.batch,
            self.packed,
            self.net.hidden_size,
            self.packed.Hp,
            self.packed.P,
        )
        cell, (gates, h_prev, c_prev) = net.cell, self.tape
        bptt = _engine.Bptt(
            cell.code, net.runs_back(self.d), H, Hp, cell.blocks, len(cell.x_gates),
            batch.offset, batch.lengths, batch.B, batch.resets, *packed.backward(self.suffix),
            dy, self.d * P, net.num_directions * P, gates, h_prev, c_prev,
            scratch[f"dgates{self.d}"], dh, dc, scratch[f"dphase{self.d}"], self.bias_sums.reshape(-1),
        )  # fmt: skip
        if cell.functions is not None:
            bptt.set_options(packed.options(self.suffix))
        dw = self.grads["weight_hh" + self.suffix]
        for block, gate, count in packed.dw_hh_runs:
            driven = cell.rh is not None and gate == 2
            state = gates[:, cell.rh * Hp : cell.rh * Hp + H] if driven else h_prev[:, :P]
            bptt.add_gemm(block * Hp, state, dw[gate * H : (gate + count) * H])
        if cell.proj_size:
            last = (cell.blocks - 1) * Hp
            bptt.add_gemm(last, gates[:, last : last + H], self.grads["weight_hr" + self.suffix])
        if self.token_sums is not None:
            bptt.add_sums(self.x.ids, self.token_sums)
        elif self.x is not None and self.x.shape[1]:
            dw = self.grads["weight_ih" + self.suffix]
            for block, gate, count in packed.dw_ih_runs:
                bptt.add_gemm(block * Hp, self.x, dw[gate * H : (gate + count) * H])
            if dx is not None:
                bptt.set_dx(packed.input_backward(self.suffix), dx)
        if self.context_sums is not None:
            row = np.concatenate([np.arange(n) for n in np.diff(batch.offset)]) if batch.T else np.empty(0, np.int64)
            bptt.add_sums(row, self.context_sums)
        return bptt

    def finish(self, d_embedding, d_context):
        """Gradients of what was summed up first."""
        cell, H = self.net.cell, self.net.hidden_size
        if "bias_ih" + self.suffix in self.grads:
            db_ih, db_hh = (self.grads[name + self.suffix].reshape(cell.gates, H) for name in ("bias_ih", "bias_hh"))
            for gates, db in ((self.packed.x_runs, db_ih), (self.packed.h_runs, db_hh)):
                for block, gate, count in gates:
                    db[gate : gate + count] += self.bias_sums[block : block + count, :H]
        if cell.peephole:
            d_peephole = self.grads["weight_peephole" + self.suffix].reshape(-1, H)
            d_peephole += self.bias_sums[cell.gates : cell.gates + len(d_peephole), :H]
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
        for block, gate, count in self.packed.dw_ih_runs:
            _engine.gemm(
                True, False, dgates[:, block * Hp : block * Hp + count * H], x, dw[gate * H : (gate + count) * H]
            )
        if dx is not None:
            _engine.product(dgates, self.packed.input_backward(self.suffix, name), None, dx, accumulate)

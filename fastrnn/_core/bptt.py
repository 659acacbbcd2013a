"""The functional core, backward: BPTT through a stack from its tape. The counterpart of stack.py."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fastrnn import _engine
from fastrnn._core.memory import Layout, Scratch
from fastrnn._core.stack import Tokens, scratch_pool

_CHUNK_ROWS = 512  # rows of dgates at a time: few enough for the cache, many enough for few passes over the gradients


def backward(call, tape, dy, dstate, grads, *, need_x, d_embedding=None):
    """Compute the gradients of everything from the tape of a `Call`.

    dy : (total, D*P) packed rows, or None; P: features of h
    dstate : tuple of (L*D, B, P) and (L*D, B, H), or None
    grads : {name: array} to which the parameters' gradients are added
    d_embedding : (V, E) to which the embedding's gradient is added, if call.x are Tokens
    Returns (dx (total, I) or None, dstate_0 tuple, dcontext (B, C) sorted, or None).
    """
    net, batch, D = call.net, call.batch, call.net.num_directions
    dh, dc = call.state_rows(dstate)
    d_context = None if call.context is None else _engine.zeros(call.context.shape, net.dtype)
    chunks = _chunks(batch.T, batch.B)
    layout = backward_scratch_layout(net, _most_rows(batch, chunks), batch.B, call.packed.Hp)
    scratch = Scratch(scratch_pool, layout)
    for layer in range(net.num_layers - 1, -1, -1):
        below = call.x if layer == 0 else call.tape_output(tape, layer - 1)
        dx = [None] * D
        if layer > 0 or (need_x and isinstance(below, np.ndarray)):
            dx = [_engine.empty((batch.total, below.shape[1]), net.dtype) for _ in range(D)]
        sides = [LayerBackward(call, layer, d, below, call.tape_arrays(tape, layer, d), grads) for d in range(D)]
        if batch.total:
            ready = []
            for d, side in enumerate(sides):
                part = layer * D + d
                ready.append(side.prepare(scratch, dy, (dh[part], None if dc is None else dc[part]), dx[d]))
            _engine.backward_sides(*ready, chunks) if D == 2 else _engine.backward_layer(*ready, chunks)
        for side in sides:
            side.finish(d_embedding, d_context)
        dy = dx[0]
        if D == 2 and dy is not None:
            _engine.add_rows(dx[1], dy)
        if call.dropout is not None and layer > 0:
            call.dropout.apply(dy, batch, layer - 1)
    scratch.release()
    return dy, call.states_out(dh, dc), d_context


@lru_cache(maxsize=256)
def backward_scratch_layout(net, rows, B, Hp):
    """For each direction: dgates of one chunk of `rows` rows, and the gradient between the phases of a step."""
    width, parts = net.cell.blocks * Hp, []
    for d in range(net.num_directions):
        parts += [(f"dgates{d}", (rows, width)), (f"dphase{d}", (B, Hp))]
    return Layout(net.dtype, parts)


@lru_cache(maxsize=256)
def _chunks(T, B):
    """Number of chunks of steps. It depends on shapes only, because the bits of the gradients depend on it."""
    return -(-T // max(1, _CHUNK_ROWS // max(1, B)))


def _most_rows(batch, chunks):
    """Rows of the largest chunk; chunk i is steps T*i//chunks .. T*(i+1)//chunks."""
    if batch.lengths is None or _engine.recording() is not None:
        return -(-batch.T // max(1, chunks)) * batch.B
    bounds = batch.offset[np.arange(chunks + 1) * batch.T // max(1, chunks)]
    return int(np.diff(bounds).max(initial=0))


class LayerBackward:
    """BPTT of one layer in one direction.

    The gradients of biases, tokens and context are first summed over the rows that share a bias, an id or a sequence,
    in `…_sums`; `finish` multiplies the sums with weights and inputs.

    below : input of the layer
    arrays : StepArrays on the tape
    """

    def __init__(self, call, layer, d, below, arrays, grads):
        self.net, self.packed, self.batch, self.grads = call.net, call.packed, call.batch, grads
        self.suffix = f"_l{layer}" + ("_reverse" if d else "")
        self.d, self.x, self.arrays = d, below, arrays
        self.context = call.context if layer == 0 else None
        net, width = self.net, len(self.net.cell.x_gates) * self.packed.Hp
        self.bias_sums = _engine.zeros((net.cell.blocks, self.packed.Hp), net.dtype)
        self.token_sums = _engine.zeros((len(below.table), width), net.dtype) if isinstance(below, Tokens) else None
        self.context_sums = _engine.zeros((self.batch.B, width), net.dtype) if self.context is not None else None

    def prepare(self, scratch, dy, dstates, dx):
        """Prepare the engine's part.

        dstates : (dh, dc) of the final state, which become those of the initial state
        dx : (total, I) for the gradient of the input, or None
        """
        net, batch, packed, cell = self.net, self.batch, self.packed, self.net.cell
        H, Hp, (gates, h_prev, *_) = net.hidden_size, packed.Hp, self.arrays
        bptt = _engine.Bptt(
            packed.layer_backward(self.suffix), batch.steps(net.runs_back(self.d)), self.arrays, dy, self.d * packed.P,
            dstates, (scratch[f"dgates{self.d}"], scratch[f"dphase{self.d}"]), self.bias_sums.reshape(-1),
        )  # fmt: skip
        dw = self.grads["weight_hh" + self.suffix]
        for block, gate, count in packed.dw_hh_runs:
            reset = cell.rh is not None and gate == cell.gates - 1
            state = gates[:, cell.rh * Hp : cell.rh * Hp + H] if reset else h_prev[:, : packed.P]
            bptt.add_gemm(block * Hp, state, dw[gate * H : (gate + count) * H])
        if cell.proj_size:
            last = (cell.blocks - 1) * Hp
            bptt.add_gemm(last, gates[:, last : last + H], self.grads["weight_hr" + self.suffix])
        if self.token_sums is not None:
            bptt.add_sums(self.x.ids, self.token_sums)
        elif self.x is not None and self.x.shape[1]:
            self.add_input(bptt, self.x, "weight_ih" + self.suffix)
            if dx is not None:
                bptt.set_dx(packed.input_backward(self.suffix), dx)
        if self.context_sums is not None:
            row = _engine.empty(batch.total, np.int64)
            _engine.step_rows(batch.offset, row)
            bptt.add_sums(row, self.context_sums)
        return bptt

    def add_input(self, bptt, x, name):
        """Let the engine add dgates_x.T @ x to the gradient of an input's weights."""
        H, dw = self.net.hidden_size, self.grads[name]
        for block, gate, count in self.packed.dw_ih_runs:
            bptt.add_gemm(block * self.packed.Hp, x, dw[gate * H : (gate + count) * H])

    def finish(self, d_embedding, d_context):
        """Add the gradients that come from the sums."""
        cell, H = self.net.cell, self.net.hidden_size
        if "bias_ih" + self.suffix in self.grads:
            for gates, name in ((self.packed.x_runs, "bias_ih"), (self.packed.h_runs, "bias_hh")):
                db = self.grads[name + self.suffix].reshape(cell.gates, H)
                for block, gate, count in gates:
                    _engine.add_rows(self.bias_sums[block : block + count, :H], db[gate : gate + count])
        if cell.peephole:
            d_peephole = self.grads["weight_peephole" + self.suffix].reshape(-1, H)
            _engine.add_rows(self.bias_sums[cell.gates : cell.gates + len(d_peephole), :H], d_peephole)
        if self.token_sums is not None:
            self._add_products(self.token_sums, "weight_ih", self.x.table, self.x.ends)
            if d_embedding is not None:
                self._add_to_embedding(d_embedding)
        if self.context_sums is not None:
            self._add_products(self.context_sums, "weight_ch", self.context)
            self._set_dx(self.context_sums, "weight_ch", d_context, True)

    def _add_to_embedding(self, d_embedding):
        """Add the gradient of the embedding: to all its rows, or to those that occur; in a plan, as the counts say."""
        tokens = self.x
        whole, some = (None, None) if tokens.ends is None else (tokens.ends[:1], tokens.ends[:2])
        if tokens.rows is None or (whole is not None and len(tokens.table) == len(d_embedding)):
            self._set_dx(self.token_sums, "weight_ih", d_embedding, True, whole)
        if tokens.rows is not None:
            d_table = _engine.empty(tokens.table.shape, self.net.dtype)
            self._set_dx(self.token_sums, "weight_ih", d_table, False, some)
            _engine.scatter_add(d_table, tokens.rows, d_embedding, some)

    def _add_products(self, dgates, name, x, ends=None):
        """dW += dgates_x.T @ x, for each run of adjacent gates."""
        H, Hp = self.net.hidden_size, self.packed.Hp
        dw = self.grads[name + self.suffix]
        for block, gate, count in self.packed.dw_ih_runs:
            run = dgates[:, block * Hp : block * Hp + count * H]
            _engine.gemm(True, False, run, x, dw[gate * H : (gate + count) * H], ends)

    def _set_dx(self, dgates, name, dx, accumulate, ends=None):
        """dx (+)= dgates_x @ W."""
        _engine.product(dgates, self.packed.input_backward(self.suffix, name), None, dx, accumulate, ends)

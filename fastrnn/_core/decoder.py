"""The functional core of a decoder with attention: forward with a tape, and backward from it. Arguments were checked already."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fastrnn import _engine
from fastrnn._core import bptt as _bptt
from fastrnn._core import stack
from fastrnn._core.cells import Packed
from fastrnn._core.memory import Layout, Scratch, Tape


class PackedDecoder(Packed):
    """The packed copies of a decoder's weights: (forward, back) of each, made when first asked for."""

    def both(self, name):
        return self._once(("both", name), lambda: self._both(self.params[name]))

    @staticmethod
    def _both(w):
        return _engine.pack(w), _engine.pack(np.ascontiguousarray(w.T))


class Memory:
    """What a decoder attends to, packed: the steps of a row lie together.

    values : (N, M); places : (N,) the caller's t*B + b of each; first, count : (B,) row b's are first[b] .. first[b]+count[b]; longest : the greatest count
    """

    def __init__(self, memory, lengths):
        S, B, M = memory.shape
        self._shape = memory.shape
        self.count = np.full(B, S, np.int64) if lengths is None else lengths.astype(np.int64)
        self.first = np.concatenate([[0], np.cumsum(self.count)[:-1]]).astype(np.int64) if B else np.empty(0, np.int64)
        self.longest = int(self.count.max(initial=0))
        valid = np.arange(S) < self.count[:, None]
        b, t = np.nonzero(valid)
        self.places = t * B + b
        b, t = np.nonzero(~valid)
        self._padding = t * B + b
        self.values = np.empty((len(self.places), M), memory.dtype)
        _engine.gather(np.ascontiguousarray(memory).reshape(S * B, M), self.places, self.values)

    def spread(self, rows):
        """(S, B, M): packed rows at the caller's places; zeros elsewhere."""
        out = np.empty(self._shape, rows.dtype)
        _engine.spread(rows, self.places, self._padding, out.reshape(-1, self._shape[2]))
        return out


@dataclass(frozen=True, eq=False)
class Sizes:
    """The decoder beside its cells. One object for a layer: layouts are looked up by it.

    attention : "additive", "dot" or "general"; A : numbers of a key; M : of a step of the memory; F : of an output; feeds : a_{t-1} enters
    """

    attention: str
    A: int
    M: int
    F: int
    feeds: bool


def keys_of(sizes, packed, memory):
    """(N, A) what the states are compared with."""
    if sizes.attention == "dot":
        return memory.values
    keys = np.empty((len(memory.values), sizes.A), memory.values.dtype)
    _engine.product(memory.values, packed.both("weight_key")[0], None, keys)
    return keys


_NO_MASKS = np.zeros(1, np.uint64)


def over_layers(sizes, packed, layers, first, count, values, keys, arrays, p=0.0, masks=_NO_MASKS, row_id=_NO_MASKS):
    """The engine's decoder: its layers, of which the top one writes into ``arrays["joined"]``, and what stands over them.

    arrays : {name: array} as in `_layout`
    """
    if sizes.feeds:
        layers[0].set_feed(packed.input("", "weight_feed"), arrays["feed"])
    additive = sizes.attention == "additive"
    return _engine.Decoder(
        layers, first, count, keys, values, packed.params["weight_score"] if additive else None,
        packed.both("weight_query")[0] if additive else None, packed.both("weight_out")[0], packed.params["bias_out"],
        arrays["query"] if additive else None, arrays["alpha"], arrays["joined"], arrays["a"], arrays["feed"] if sizes.feeds else None,
        p, masks, row_id,
    )  # fmt: skip


@lru_cache(maxsize=128)
def _layout(sizes, net, rows, S):
    parts = [("joined", (rows, sizes.M + net.hidden_size)), ("a", (rows, sizes.F)), ("alpha", (rows, S))]
    if sizes.attention == "additive":
        parts.append(("query", (rows, sizes.A)))
    if sizes.feeds:
        parts.append(("feed", (rows, sizes.F)))
    return Layout(net.dtype, parts)


class Decoding:
    """One forward pass: what its backward needs, and what a caller may ask for.

    net, packed, batch, x, context : as for _stack.forward; sizes : Sizes; memory : Memory; tapes : Pool
    state : tuple of (L, B, H) in the caller's order, or None
    """

    def __init__(self, net, sizes, packed, batch, x, state, context, memory, dropout, tapes):
        self.net, self.sizes, self.packed, self.batch, self.x, self.context = net, sizes, packed, batch, x, context
        self.memory, self.dropout = memory, dropout
        self.tape = stack.make_tape(net, batch, packed, dropout, tapes)
        self.over = Tape(tapes, _layout(sizes, net, batch.total, memory.longest))
        self.keys = keys_of(sizes, packed, memory)
        if sizes.feeds:
            self.over["feed"][: batch.B] = 0
        self._row_id = np.empty(0, np.uint64) if dropout is None else dropout.row_id(batch)
        h_n, c_n = stack.state_rows(net, packed, batch, state)
        self._engine = self._ready(h_n, c_n)
        self._engine.forward()
        self.state_n = stack.states_out(net, batch, h_n, c_n)

    def _ready(self, h, c):
        """The engine's decoder over this pass's tape. h, c : (L, B, Hp)"""
        net, sizes, packed, batch, over = self.net, self.sizes, self.packed, self.batch, self.over
        layers, below = [], self.x
        for layer in range(net.num_layers):
            top = layer == net.num_layers - 1
            y = over["joined"] if top else stack.output_on_tape(self.tape, batch, layer)
            layers.append(stack.ready_sweep(
                net, packed, batch, layer, 0, below, self.context, stack.on_tape(self.tape, batch, net, layer, 0),
                h[layer], c[layer] if c is not None else None, y, True, 1, column=sizes.M if top else 0,
            ))  # fmt: skip
            below = y
        key = self.dropout
        masks = np.array([0 if key is None else key.layer_key(layer) for layer in range(net.num_layers)], np.uint64)
        first, count = batch.sorted(self.memory.first), batch.sorted(self.memory.count)
        return over_layers(
            sizes,
            packed,
            layers,
            first,
            count,
            self.memory.values,
            self.keys,
            over,
            0.0 if key is None else key.p,
            masks,
            self._row_id,
        )

    def backward(self, dy, dstate, grads, *, need_x, d_embedding=None):
        """Gradients from the tape, which it does not change.

        dy : (total, F) packed rows, or None; dstate : tuple of (L, B, H), or None
        grads : {name: array} to add the parameters' gradients to
        Returns (dx or None, dstate_0 tuple, dcontext or None, dmemory (N, M)).
        """
        net, sizes, packed, batch, over = self.net, self.sizes, self.packed, self.batch, self.over
        B, H, Hp, total = batch.B, net.hidden_size, packed.Hp, batch.total
        dh, dc = stack.state_rows(net, packed, batch, dstate)
        da = np.zeros((total, sizes.F), net.dtype) if dy is None else np.array(dy)
        dquery, dmemory = np.empty((total, sizes.A), net.dtype), np.zeros_like(self.memory.values)
        dkeys = dmemory if sizes.attention == "dot" else np.zeros_like(self.keys)
        additive = sizes.attention == "additive"
        dv = np.zeros((B, sizes.A), net.dtype) if additive else None
        d_context = None if self.context is None else np.zeros_like(self.context)
        dx = np.empty(self.x.shape, net.dtype) if need_x and isinstance(self.x, np.ndarray) else None
        scratches, sweeps, bptt, w_below = [], [], [], []
        for layer in range(net.num_layers):
            below = self.x if layer == 0 else stack.output_on_tape(self.tape, batch, layer - 1)
            scratches.append(Scratch(stack.scratch_pool, _bptt.scratch_layout(net, total, B, Hp)))
            sweep = _bptt.Sweep(
                net, packed, batch, self.tape, layer, 0, below, self.context if layer == 0 else None, grads
            )
            bptt.append(
                sweep.prepare(
                    scratches[-1], None, dh[layer], dc[layer] if dc is not None else None, dx if layer == 0 else None
                )
            )
            sweeps.append(sweep)
            w_below.append(
                packed.input_backward(f"_l{layer}")
                if layer
                else packed.input_backward("", "weight_feed")
                if sizes.feeds
                else None
            )
        if sizes.feeds:
            dw = grads["weight_feed"]
            for block, gate, count in packed.dw_ih_runs:
                bptt[0].add_gemm(block * Hp, over["feed"], dw[gate * H : (gate + count) * H])
        self._engine.backward(
            bptt, w_below, da, packed.both("weight_out")[1], packed.both("weight_query")[1] if additive else None,
            dquery, dkeys, dmemory, dv, np.empty((B, sizes.M + H), net.dtype), np.empty((B, H), net.dtype),
            np.empty((B, self.memory.longest), net.dtype),
        )  # fmt: skip
        for sweep in sweeps:
            sweep.finish(d_embedding, d_context)
        for scratch in scratches:
            scratch.release()
        _engine.gemm(True, False, da, over["joined"], grads["weight_out"])
        _engine.column_sum(da, grads["bias_out"])
        if additive:
            _engine.gemm(True, False, dquery, over["joined"][:, sizes.M :], grads["weight_query"])
            _engine.column_sum(dv, grads["weight_score"])
        if sizes.attention != "dot":
            _engine.gemm(True, False, dkeys, self.memory.values, grads["weight_key"])
            _engine.product(dkeys, packed.both("weight_key")[1], None, dmemory, True)
        return dx, stack.states_out(net, batch, dh, dc), d_context, dmemory

    def release(self):
        """Give the tape's memory back."""
        self.tape.release()
        self.over.release()

"""The functional core of a decoder with attention: the forward pass with a tape, and the backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fastrnn import _engine
from fastrnn._core import bptt, stack
from fastrnn._core.memory import Layout, Scratch, Tape
from fastrnn._core.packing import Packed


class PackedDecoder(Packed):
    """Packed copies of a decoder's weights, each made when first needed."""

    def both(self, name):
        """One matrix, packed for the forward pass and for the backward pass."""
        return self._once(("both", name), lambda: self._both(self.params[name]))

    @staticmethod
    def _both(w):
        return _engine.pack(w), _engine.pack(np.ascontiguousarray(w.T))


class Memory:
    """The memory that a decoder attends to, without padding: the steps of a row are adjacent.

    values : (N, M)
    places : (N,) the caller's t*B + b of each
    first, count : (B,) the memory of row b is first[b] .. first[b]+count[b]
    longest : the largest count
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
        """(S, B, M): packed rows in the caller's order; zeros elsewhere."""
        out = np.empty(self._shape, rows.dtype)
        _engine.spread(rows, self.places, self._padding, out.reshape(-1, self._shape[2]))
        return out


class MemoryRows(NamedTuple):
    """The memory of the rows of a batch, as in `Memory`, and its keys."""

    first: np.ndarray
    count: np.ndarray
    values: np.ndarray
    keys: np.ndarray


@dataclass(frozen=True, eq=False)
class Sizes:
    """The sizes of a decoder, except those of its cells. Compared by identity: one object for each layer.

    attention : "additive", "dot" or "general"
    A : features of a key; M : of the memory; F : of the output
    feeds : whether the output is an input of the next step
    """

    attention: str
    A: int
    M: int
    F: int
    feeds: bool


def keys_of(sizes, packed, memory):
    """(N, A) the keys of a Memory."""
    if sizes.attention == "dot":
        return memory.values
    keys = np.empty((len(memory.values), sizes.A), memory.values.dtype)
    _engine.product(memory.values, packed.both("weight_key")[0], None, keys)
    return keys


def prepare_decoder(sizes, packed, layers, rows, arrays, **dropout):
    """Prepare the engine's decoder.

    layers : Forward of each; the top one writes into ``arrays["joined"]``
    rows : MemoryRows
    arrays : {name: array} as in `_layout`
    dropout : p, masks and row_id, as the engine's Decoder takes them
    """
    if sizes.feeds:
        layers[0].set_feed(packed.input("", "weight_feed"), arrays["feed"])
    score = {}
    if sizes.attention == "additive":
        score = dict(v=packed.params["weight_score"], w_query=packed.both("weight_query")[0], query=arrays["query"])
    return _engine.Decoder(
        layers, first=rows.first, count=rows.count, keys=rows.keys, values=rows.values,
        w_out=packed.both("weight_out")[0], bias=packed.params["bias_out"], alpha=arrays["alpha"],
        joined=arrays["joined"], a=arrays["a"], feed=arrays["feed"] if sizes.feeds else None, **score, **dropout,
    )  # fmt: skip


@lru_cache(maxsize=128)
def _layout(sizes, net, rows, S):
    """The tape of the attention: [c; s], outputs, attention weights, queries, and the outputs as inputs."""
    parts = [("joined", (rows, sizes.M + net.hidden_size)), ("a", (rows, sizes.F)), ("alpha", (rows, S))]
    if sizes.attention == "additive":
        parts.append(("query", (rows, sizes.A)))
    if sizes.feeds:
        parts.append(("feed", (rows, sizes.F)))
    return Layout(net.dtype, parts)


class DecoderPass:
    """One forward pass, with everything that its backward pass needs.

    call : Call of the recurrent layers
    memory : Memory
    state : tuple of (L, B, H) in the caller's order, or None
    tapes : Pool
    """

    def __init__(self, sizes, call, memory, state, tapes):
        self.call, self.sizes, self.memory = call, sizes, memory
        self.net, self.batch = call.net, call.batch
        self.tape = call.make_tape(tapes)
        self.over = Tape(tapes, _layout(sizes, call.net, call.batch.total, memory.longest))
        self.keys = keys_of(sizes, call.packed, memory)
        if sizes.feeds:
            self.over["feed"][: call.batch.B] = 0
        h_n, c_n = call.state_rows(state)
        self._engine = self._prepare(h_n, c_n)
        self._engine.forward()
        self.state_n = call.states_out(h_n, c_n)

    def _prepare(self, h, c):
        """Prepare the engine's decoder over this pass's tape. h, c : (L, B, Hp)"""
        call, net, batch, over = self.call, self.net, self.batch, self.over
        layers, below = [], call.x
        for layer in range(net.num_layers):
            top = layer == net.num_layers - 1
            y = over["joined"] if top else call.tape_output(self.tape, layer)
            arrays, states = call.tape_arrays(self.tape, layer, 0), (h[layer], None if c is None else c[layer])
            column = self.sizes.M if top else 0
            layers.append(stack.prepare_layer(call, layer, 0, below, arrays, states, y, column=column))
            below = y
        dropout = {}
        if call.dropout is not None:
            masks = np.array([call.dropout.layer_key(layer) for layer in range(net.num_layers)], np.uint64)
            dropout = dict(p=call.dropout.p, masks=masks, row_id=call.dropout.row_id(batch))
        first, count = batch.sorted(self.memory.first), batch.sorted(self.memory.count)
        rows = MemoryRows(first, count, self.memory.values, self.keys)
        return prepare_decoder(self.sizes, call.packed, layers, rows, over, **dropout)

    def backward(self, dy, dstate, grads, *, need_x, d_embedding=None):
        """Compute the gradients from the tape, which does not change.

        dy : (total, F) packed rows, or None
        dstate : tuple of (L, B, H), or None
        grads : {name: array} to which the parameters' gradients are added
        Returns (dx or None, dstate_0 tuple, dcontext or None, dmemory (N, M)).
        """
        call, sizes, over, memory = self.call, self.sizes, self.over, self.memory
        dtype = self.net.dtype
        dh, dc = call.state_rows(dstate)
        da = np.zeros(over["a"].shape, dtype) if dy is None else np.array(dy)
        d_context = None if call.context is None else np.zeros_like(call.context)
        dx = np.empty(call.x.shape, dtype) if need_x and isinstance(call.x, np.ndarray) else None
        layers, scratches, ready = self._prepare_backward(dh, dc, dx, grads)
        dquery, dmemory = np.empty((self.batch.total, sizes.A), dtype), np.zeros_like(memory.values)
        dkeys = dmemory if sizes.attention == "dot" else np.zeros_like(self.keys)
        dv = np.zeros((self.batch.B, sizes.A), dtype) if sizes.attention == "additive" else None
        self._run_backward(ready, da, dquery=dquery, dkeys=dkeys, dvalues=dmemory, dv=dv)
        for layer in layers:
            layer.finish(d_embedding, d_context)
        for scratch in scratches:
            scratch.release()
        _engine.gemm(True, False, da, over["joined"], grads["weight_out"])
        _engine.column_sum(da, grads["bias_out"])
        if dv is not None:
            _engine.gemm(True, False, dquery, over["joined"][:, sizes.M :], grads["weight_query"])
            _engine.column_sum(dv, grads["weight_score"])
        if sizes.attention != "dot":
            _engine.gemm(True, False, dkeys, memory.values, grads["weight_key"])
            _engine.product(dkeys, call.packed.both("weight_key")[1], None, dmemory, True)
        return dx, call.states_out(dh, dc), d_context, dmemory

    def _prepare_backward(self, dh, dc, dx, grads):
        """(LayerBackward, Scratch, the engine's Bptt) of each layer, as three lists."""
        call, net = self.call, self.net
        layers, scratches, ready = [], [], []
        for layer in range(net.num_layers):
            below = call.x if layer == 0 else call.tape_output(self.tape, layer - 1)
            layout = bptt.backward_scratch_layout(net, self.batch.total, self.batch.B, call.packed.Hp)
            scratches.append(Scratch(stack.scratch_pool, layout))
            arrays = call.tape_arrays(self.tape, layer, 0)
            layers.append(bptt.LayerBackward(call, layer, 0, below, arrays, grads))
            dstates = dh[layer], None if dc is None else dc[layer]
            ready.append(layers[-1].prepare(scratches[-1], None, dstates, dx if layer == 0 else None))
        if self.sizes.feeds:
            layers[0].add_input(ready[0], self.over["feed"], "weight_feed")
        return layers, scratches, ready

    def _run_backward(self, ready, da, **gradients):
        """Run the engine's backward pass. gradients : dquery, dkeys, dvalues, dv"""
        net, sizes, packed, B, dtype = self.net, self.sizes, self.call.packed, self.batch.B, self.net.dtype
        w_below = [packed.input_backward("", "weight_feed") if sizes.feeds else None]
        w_below += [packed.input_backward(f"_l{layer}") for layer in range(1, net.num_layers)]
        self._engine.backward(
            ready, w_below=w_below, da=da, w_out=packed.both("weight_out")[1],
            w_query=packed.both("weight_query")[1] if sizes.attention == "additive" else None, **gradients,
            djoined=np.empty((B, sizes.M + net.hidden_size), dtype), dbelow=np.empty((B, net.hidden_size), dtype),
            dscore=np.empty((B, self.memory.longest), dtype),
        )  # fmt: skip

    def release(self):
        """Return the tape's memory."""
        self.tape.release()
        self.over.release()

"""The functional core, forward: a stack of layers and directions over a batch, with or without a tape.

Functions of arrays whose arguments have been checked. The backward pass is in bptt.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from fastrnn import _engine
from fastrnn._check.arrays import contiguous, copied_ids
from fastrnn._core.batch import Batch
from fastrnn._core.cells import Cell
from fastrnn._core.keys import DerivedKey
from fastrnn._core.memory import Layout, Pool, Scratch, StepArrays, Tape
from fastrnn._core.packing import Packed


@dataclass(frozen=True, eq=False)
class Net:
    """The sizes of a stack. Compared by identity, so each layer has one object, which is the key of cached layouts."""

    cell: Cell
    input_size: int
    hidden_size: int
    num_layers: int
    num_directions: int
    context_size: int
    dtype: np.dtype
    reverse: bool = False

    @cached_property
    def output_size(self):
        """Features of h, in one direction."""
        return self.cell.state_sizes(self.hidden_size)[0]

    def runs_back(self, d):
        """Whether direction d computes the last step first."""
        return self.reverse or d == 1

    @cached_property
    def parts(self):
        """(layer, direction, suffix of its parameters), in torch's order."""
        return [
            (layer, d, f"_l{layer}" + ("_reverse" if d else ""))
            for layer in range(self.num_layers)
            for d in range(self.num_directions)
        ]


@dataclass
class Tokens:
    """Ids instead of x: the product with each row of the embedding is computed once, then gathered."""

    ids: np.ndarray  # (total,) rows of table
    table: np.ndarray  # (V, E) the rows of the embedding that occur
    rows: np.ndarray | None  # (V,) ids of these rows in the embedding; None: all rows
    parts: np.ndarray | None = None  # (V, G*Hp) `input_parts` of the table, if already computed
    ends: np.ndarray | None = None  # in a plan, (3,): `counts` of _engine.distinct, the last one of which is V

    @classmethod
    def of(cls, ids, weight, ends):
        """From packed ids, which are copied because the backward pass needs them and the caller may change the array.

        If that saves work, only the rows that occur are kept. ends : its last element is the number of ids, in a plan.
        """
        if weight.shape[0] <= ids.size and ends is None:
            return cls(copied_ids(ids), contiguous(weight), None)
        rows, inverse = _engine.empty(ids.size, np.int64), _engine.empty(ids.size, np.int64)
        counts = _engine.empty(3, np.intp)
        _engine.distinct(contiguous(ids, np.int64), len(weight), rows, inverse, counts, ends)
        if _engine.recording() is None:
            rows, ends = rows[: counts[2]], None
        else:  # another number in each run
            rows, ends = rows[: len(weight)], counts
        table = _engine.empty((len(rows), weight.shape[1]), weight.dtype)
        _engine.gather(contiguous(weight), rows, table, ends)
        return cls(inverse, table, rows, ends=ends)


@dataclass
class Dropout:
    """Dropout between the layers of one call."""

    p: float
    key: int
    variational: bool

    def row_id(self, batch):
        """(total,) keys of the masks of the packed rows."""
        return batch.row_ids(self.variational)

    def layer_key(self, layer):
        """Key of the masks of one layer's output."""
        step = layer * 0x9E3779B97F4A7C15
        if isinstance(self.key, DerivedKey):
            return self.key.then(lambda key: (key + step) % 2**64)
        return (self.key + step) % 2**64

    def apply(self, y, batch, layer):
        """Apply the masks to the output of a layer, or to its gradient, in place."""
        _engine.dropout(y, self.row_id(batch), self.layer_key(layer), self.p)


scratch_pool = Pool()


class Call(NamedTuple):
    """One call of a stack: what its forward and backward passes have in common.

    x : (total, I) packed rows, Tokens, or None if input_size is 0
    context : (B, C) sorted, or None
    dropout : Dropout between the layers, or None
    """

    net: Net
    packed: Packed
    batch: Batch
    x: np.ndarray | Tokens | None
    context: np.ndarray | None = None
    dropout: Dropout | None = None

    def tape_layout(self):
        """The `Layout` of this call's tape."""
        net, batch = self.net, self.batch
        plain = self.dropout is None
        return _tape_layout(net, batch.total, batch.B, self.packed.Hp, self.packed.Pp, batch.is_even, plain)

    def make_tape(self, pool):
        """Memory for everything that the backward pass needs."""
        return Tape(pool, self.tape_layout())

    def tape_arrays(self, tape, layer, d):
        """`StepArrays` of one layer and direction on the tape."""
        return tape.cached((layer, d), lambda: self._tape_arrays(tape, layer, d))

    def _tape_arrays(self, tape, layer, d):
        net, batch = self.net, self.batch
        h_prev = tape[f"h_prev{layer}{d}"]
        before, after = h_prev[: batch.total], h_prev[len(h_prev) - batch.total :]
        if f"gates{layer}{d}" in tape:
            gates, h_prev = tape[f"gates{layer}{d}"], before
        else:
            gates, h_prev = (before, after) if net.runs_back(d) else (after, before)
        return StepArrays(gates, h_prev, tape[f"c_prev{layer}{d}"] if net.cell.has_c else None, True)

    def tape_output(self, tape, layer):
        """Output of a layer below the top one, on the tape."""
        return tape[f"y{layer}"] if f"y{layer}" in tape else tape[f"h_prev{layer}0"][self.batch.B :]

    def state_rows(self, state):
        """h (L*D, B, Pp) and c (L*D, B, Hp) or None, sorted and padded.

        state : tuple in the caller's order; None: zeros
        """
        net, batch, made = self.net, self.batch, []
        for k, width in enumerate((self.packed.Pp, self.packed.Hp)[: len(net.cell.states)]):
            rows = _engine.zeros((net.num_layers * net.num_directions, batch.B, width), net.dtype)
            if state is not None:
                given = state[k]
                if given.strides[2] != given.itemsize and given.shape[2] > 1:
                    given = contiguous(given)
                for layer in range(len(rows)):
                    _engine.copy_rows(batch.sorted(given[layer]), rows[layer, :, : given.shape[2]])
            made.append(rows)
        return made[0], made[1] if net.cell.has_c else None

    def states_out(self, h, c):
        """The state in the caller's order, from padded rows of h, and of c if there is one."""
        sizes = ((h, self.net.output_size), (c, self.net.hidden_size))
        return tuple(self.batch.unsorted(_first_columns(rows, size)) for rows, size in sizes if rows is not None)


def _first_columns(rows, size):
    """The first columns of rows (n, B, W), contiguous."""
    n, B, W = rows.shape
    if size == W:
        return rows
    out = _engine.empty((n, B, size), rows.dtype)
    _engine.copy_rows(rows.reshape(n * B, W)[:, :size], out.reshape(n * B, size))
    return out


@lru_cache(maxsize=256)
def _tape_layout(net, rows, B, Hp, Pp, even, plain):
    """Parts of a tape.

    If no row ends or is reset in between (`even`), the output of a step is the next step's h_prev, and so are the
    activations of the vanilla RNN; they are then stored once.
    """
    cell = net.cell
    shared_gates = even and cell.output_is_tape
    shared_y = even and plain and net.num_directions == 1 and Pp == net.output_size and not net.reverse
    parts = []
    for layer, d, _ in net.parts:
        below = layer < net.num_layers - 1
        parts.append((f"h_prev{layer}{d}", (rows + (B if shared_gates or (shared_y and below) else 0), Pp)))
        if not shared_gates:
            parts.append((f"gates{layer}{d}", (rows, cell.blocks * Hp)))
        if cell.has_c:
            parts.append((f"c_prev{layer}{d}", (rows, Hp)))
        if below and d == 0 and not shared_y:
            parts.append((f"y{layer}", (rows, net.num_directions * net.output_size)))
    return Layout(net.dtype, parts)


@lru_cache(maxsize=256)
def forward_scratch_layout(net, rows, B, Hp, Pp, sweeps):
    """For each of the sweeps that run at the same time: the gates of one chunk, and two states that alternate."""
    parts = []
    for place in range(sweeps):
        parts += [(f"gates{place}", (rows, net.cell.blocks * Hp)), (f"h{place}", (2 * B, Pp))]
        if net.cell.has_c:
            parts.append((f"c{place}", (2 * B, Hp)))
    return Layout(net.dtype, parts)


def scratch_arrays(scratch, place, has_c):
    """`StepArrays` of one sweep in a scratch of `forward_scratch_layout`."""
    return StepArrays(scratch[f"gates{place}"], scratch[f"h{place}"], scratch[f"c{place}"] if has_c else None, False)


def context_bias(packed, suffix, context):
    """(B, X*Hp) the bias blocks plus the product of the context with W_ch; None without a context."""
    if context is None:
        return None
    bias = packed.bias(suffix)
    width = len(packed.cell.x_gates) * packed.Hp
    rows = _engine.empty((len(context), len(bias)), bias.dtype)
    _engine.copy_rows(np.broadcast_to(bias, rows.shape), rows)
    product = _engine.empty((len(context), width), bias.dtype)
    _engine.product(context, packed.input(suffix, "weight_ch"), None, product)
    _engine.add_rows(product, rows[:, :width])
    return rows


def prepare_layer(call, layer, d, below, arrays, states, y, *, chunk=1, column=0):
    """Prepare the forward pass of one layer and direction.

    below : its input, like `x` of `Call`
    arrays : StepArrays on the tape, or of `chunk` steps
    states : (h, c), (B, Pp) and (B, Hp) or None: sorted initial states, which become the final ones
    y : (total, W); this direction writes P columns, the forward direction from `column` on
    """
    suffix = f"_l{layer}" + ("_reverse" if d else "")
    packed, tokens = call.packed, isinstance(below, Tokens)
    x = None if tokens or below is None or not below.shape[1] else below
    steps = call.batch.steps(call.net.runs_back(d))
    ready = _engine.Forward(packed.layer(suffix), steps, x, arrays, states, y, column + d * packed.P, chunk)
    if tokens:
        ready.set_tokens(
            below.ids, input_parts(packed, below.table, suffix, below.ends) if below.parts is None else below.parts
        )
    if layer == 0 and call.context is not None:
        ready.set_bias(context_bias(packed, suffix, call.context))
    return ready


def wave_pays(net, T, B):
    """Whether the layers are best run on a thread each, a few steps apart."""
    step_flops = 4.0 * B * net.cell.blocks * net.hidden_size**2
    return net.num_directions == 1 and _engine.waves_pay(net.num_layers, B, T, step_flops)


def forward(call, state, tape=None, outputs=None):
    """Run the stack.

    state : tuple of (L*D, B, P) and (L*D, B, H) in the caller's order, or None; P: features of h
    outputs : list to which the output of each layer is appended, (total, D*P) before dropout, or None
    Returns y (total, D*P) and the tuple of final states.
    """
    net, batch, dropout = call.net, call.batch, call.dropout
    cell, D, B, Hp, top = net.cell, net.num_directions, batch.B, call.packed.Hp, net.num_layers - 1
    h_n, c_n = call.state_rows(state)
    chunk = _engine.chunk_steps(B, cell.blocks * Hp * net.dtype.itemsize)
    wave = top > 0 and dropout is None and wave_pays(net, batch.T, B)
    scratch = None
    if tape is None:
        sweeps = net.num_layers if wave else D
        scratch = Scratch(scratch_pool, forward_scratch_layout(net, chunk * B, B, Hp, call.packed.Pp, sweeps))
    y, ready = call.x, []
    for layer in range(net.num_layers):
        below, kept = y, tape is not None and layer < top
        y = call.tape_output(tape, layer) if kept else _engine.empty((batch.total, D * net.output_size), net.dtype)
        for d in range(D):
            if tape is None:
                arrays = scratch_arrays(scratch, len(ready), cell.has_c)
            else:
                arrays = call.tape_arrays(tape, layer, d)
            states = h_n[layer * D + d], c_n[layer * D + d] if cell.has_c else None
            ready.append(prepare_layer(call, layer, d, below, arrays, states, y, chunk=chunk))
        if not wave:
            _engine.forward_sides(*ready) if D == 2 else _engine.forward_layers(ready)
            ready = []
        if outputs is not None:
            outputs.append(y if dropout is None or layer == top else y.copy())
        if dropout is not None and layer < top:
            dropout.apply(y, batch, layer)
    if wave:
        _engine.forward_wave(ready)
    if scratch is not None:
        scratch.release()
    return y, call.states_out(h_n, c_n)


def input_parts(packed, table, suffix, ends=None):
    """(V, G*Hp): the rows of an embedding times W_ih."""
    parts = _engine.empty((len(table), len(packed.cell.x_gates) * packed.Hp), table.dtype)
    _engine.product(table, packed.input(suffix), None, parts, ends=ends)
    return parts

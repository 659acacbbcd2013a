"""The functional core, forward: a stack of layers and directions over a batch, with or without a tape. Backward is in _bptt.py.

Plain functions of arrays that were checked already. _recurrent.py wraps them into layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fastrnn import _engine
from fastrnn._core.cells import Cell
from fastrnn._core.memory import Layout, Pool, Scratch, Tape


@dataclass(frozen=True, eq=False)
class Net:
    """The sizes of a stack. One object for a layer, and compared as such: layouts are looked up by it in every call."""

    cell: Cell
    input_size: int
    hidden_size: int
    num_layers: int
    num_directions: int
    context_size: int
    dtype: np.dtype
    reverse: bool = False

    @property
    def output_size(self):
        """Features of h, in one direction."""
        return self.cell.state_sizes(self.hidden_size)[0]

    def runs_back(self, d):
        """Whether direction d goes from the last step to the first."""
        return self.reverse or d == 1

    @property
    def parts(self):
        """(layer, direction, suffix of its parameters), in torch's order."""
        return [
            (layer, d, f"_l{layer}" + ("_reverse" if d else ""))
            for layer in range(self.num_layers)
            for d in range(self.num_directions)
        ]


@lru_cache(maxsize=64)
def even_batch(T, B):
    """The Batch of rows of equal length, without resets."""
    return Batch(T, B)


class Batch:
    """How a batch lies in memory: step t owns rows offset[t]:offset[t+1] of every step array.

    T, B : steps and rows of the caller's arrays
    total : valid steps of all rows
    order : (B,) the caller's row of each sorted row, or None if nothing was sorted
    lengths : (B,) longest first, or None if all are T
    where : (total,) the caller's t*B + b of each packed row, or None if they are the same
    """

    def __init__(self, T, B, lengths=None, resets=None):
        self.T, self.B = T, B
        self.order = self.lengths = self.where = None
        if lengths is None or (lengths == T).all():
            self.total = T * B
            self.offset = np.arange(T + 1, dtype=np.intp) * B
        else:
            self.order = np.argsort(-lengths, kind="stable").astype(np.int64, copy=False)
            self.lengths = lengths[self.order]
            self.total = int(lengths.sum())
            self.offset, self.where = np.empty(T + 1, np.intp), np.empty(self.total, np.int64)
            self._padding = np.empty(T * B - self.total, np.int64)
            _engine.ragged_places(self.order, self.lengths, self.offset, self.where, self._padding)
        self._take(resets)

    def _take(self, resets):
        self.resets = None
        if resets is not None and resets.any():
            self.resets = self.packed(np.array(resets, order="C").reshape(self.T * self.B))

    def packed(self, rows):
        """The valid ones of the caller's (T*B, …) rows, in packed order; no copy if all are valid."""
        if self.where is None:
            return rows
        if rows.ndim == 1:
            return rows[self.where]
        out = np.empty((self.total, rows.shape[1]), rows.dtype)
        _engine.gather(rows, self.where, out)
        return out

    def spread(self, rows):
        """Packed rows (total, n) back at the caller's places, (T, B, n); zeros elsewhere."""
        if self.where is not None:
            out = np.empty((self.T * self.B, rows.shape[1]), rows.dtype)
            _engine.spread(rows, self.where, self._padding, out)
            rows = out
        return rows.reshape(self.T, self.B, rows.shape[1])

    def outputs(self, y, net):
        """The rows of y (total, D*P) at the caller's places, (T, B, D*P); zeros elsewhere."""
        return self.spread(y)

    def packed_dy(self, rows, net):
        """The gradient of `outputs`: (total, D*P) from the caller's (T*B, D*P)."""
        return self.packed(rows)

    def sorted(self, rows):
        return rows if self.order is None else rows[self.order]

    def unsorted(self, rows):
        """(B, …) sorted rows, or (n, B, …) with the rows on axis 1, in the caller's order."""
        if self.order is None:
            return rows
        out = np.empty_like(rows)
        out[:, self.order] = rows
        return out

    @property
    def is_even(self):
        """Whether all rows have all steps, and none is reset."""
        return self.where is None and self.resets is None

    @property
    def row_lengths(self):
        """(B,) in the caller's order."""
        lengths = np.full(self.B, self.T)
        if self.lengths is not None:
            lengths[self.order] = self.lengths
        return lengths

    @property
    def row_id(self):
        """(total,) batch row << 32 | t, what dropout masks are keyed by."""
        flat = np.arange(self.total) if self.where is None else self.where
        t, b = np.divmod(flat, max(1, self.B))
        return (b.astype(np.uint64) << np.uint64(32)) | t.astype(np.uint64)


class MaskedBatch(Batch):
    """Rows of which some steps are left out, wherever they are: to the engine, rows of the steps that are left, one after the other.

    What y is at a step that was left out is what this direction gave last.
    """

    def __init__(self, mask, lengths=None, resets=None):
        T, B = mask.shape
        within = np.ones((T, B), bool) if lengths is None else np.arange(T)[:, None] < lengths
        mask = mask & within
        super().__init__(T, B, mask.sum(axis=0))  # of the shortened rows; now to where their steps are
        if self.where is not None:
            t, b = np.divmod(self.where, B)
            self.where = np.argsort(~mask, axis=0, kind="stable")[t, b] * B + b
            self._padding = np.flatnonzero(~mask)
        self._take(resets)
        self._within = within
        self._repeats = {}

    def _repeated(self, reverse):
        """(places, rows): the caller's t*B + b at which there is an output, and which packed row it is, in one direction."""
        if reverse not in self._repeats:
            way = slice(None, None, -1 if reverse else 1)
            row = np.full(self.T * self.B, -1, np.int64)
            row[slice(None) if self.where is None else self.where] = np.arange(self.total)
            row = row.reshape(self.T, self.B)[way]
            last = np.maximum.accumulate(np.where(row < 0, -1, np.arange(self.T)[:, None]), axis=0)
            row = np.where(last < 0, -1, np.take_along_axis(row, np.maximum(last, 0), axis=0))[way].reshape(-1)
            places = np.flatnonzero((row >= 0) & self._within.reshape(-1))
            self._repeats[reverse] = places, row[places]
        return self._repeats[reverse]

    def outputs(self, y, net):
        out, P = np.zeros((self.T * self.B, y.shape[1]), y.dtype), net.output_size
        for d in range(net.num_directions):
            places, rows = self._repeated(net.runs_back(d))
            out[places, d * P : (d + 1) * P] = y[rows, d * P : (d + 1) * P]
        return out.reshape(self.T, self.B, -1)

    def packed_dy(self, rows, net):
        dy, P = np.zeros((self.total, rows.shape[1]), rows.dtype), net.output_size
        for d in range(net.num_directions):
            places, ids = self._repeated(net.runs_back(d))
            _engine.scatter_add(rows[places, d * P : (d + 1) * P], ids, dy[:, d * P : (d + 1) * P])
        return dy


@dataclass
class Tokens:
    """Ids in place of x: their rows of an embedding are multiplied once per id, then gathered."""

    ids: np.ndarray  # (total,) rows of table
    table: np.ndarray  # (V, E) the embedding's rows that occur
    rows: np.ndarray | None  # (V,) ids of these rows in the embedding, None: all of it
    parts: np.ndarray | None = None  # (V, x_blocks*Hp) input parts of the table's rows, if they are known already

    @classmethod
    def of(cls, ids, weight):
        """From packed ids, which are copied: backward adds to rows by them, and a caller may use the array again before that.

        Only the rows that occur are kept where that saves work.
        """
        if weight.shape[0] <= ids.size:
            return cls(np.array(ids, np.int64, order="C"), np.ascontiguousarray(weight), None)
        rows, inverse = np.unique(ids, return_inverse=True)
        return cls(inverse.reshape(-1).astype(np.int64), np.ascontiguousarray(weight[rows]), rows)


@dataclass
class Dropout:
    """Masks between the layers of one call."""

    p: float
    key: int
    variational: bool

    def row_id(self, batch):
        """(total,) what the masks are keyed by."""
        return batch.row_id & ~np.uint64(0xFFFFFFFF) if self.variational else batch.row_id

    def layer_key(self, layer):
        return (self.key + layer * 0x9E3779B97F4A7C15) % 2**64

    def apply(self, y, batch, layer):
        _engine.dropout(y, self.row_id(batch), self.layer_key(layer), self.p)


scratch_pool = Pool()


def state_rows(net, packed, batch, state):
    """h (L*D, B, Pp) and c (L*D, B, Hp) or None, sorted and padded; zeros if there is no state."""
    made = []
    for k, width in enumerate((packed.Pp, packed.Hp)[: len(net.cell.states)]):
        rows = np.zeros((net.num_layers * net.num_directions, batch.B, width), net.dtype)
        if state is not None:
            rows[:, :, : state[k].shape[2]] = state[k] if batch.order is None else state[k][:, batch.order]
        made.append(rows)
    return made[0], made[1] if net.cell.has_c else None


def states_out(net, batch, h, c):
    """The padded rows of h, and of c if there is one, as the caller has them."""
    sizes = ((h, net.output_size), (c, net.hidden_size))
    return tuple(batch.unsorted(np.ascontiguousarray(rows[:, :, :size])) for rows, size in sizes if rows is not None)


def make_tape(net, batch, packed, dropout, pool):
    """Memory for everything that backward needs."""
    return Tape(pool, tape_layout(net, batch, packed, dropout))


def tape_layout(net, batch, packed, dropout):
    """Where that lies in one array."""
    return _tape_layout(net, batch.total, batch.B, packed.Hp, packed.Pp, batch.is_even, dropout is None)


@lru_cache(maxsize=256)
def _tape_layout(net, rows, B, Hp, Pp, even, plain):
    """Nothing is there twice where rows neither end nor are cut in between: there the output of a step is the next step's h_prev,
    and so are the vanilla RNN's activations."""
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
def scratch_layout(net, rows, B, Hp, Pp, sweeps):
    """Gates of one chunk, and two states that take turns, for each of the sweeps that run at the same time."""
    parts = []
    for place in range(sweeps):
        parts += [(f"gates{place}", (rows, net.cell.blocks * Hp)), (f"h{place}", (2 * B, Pp))]
        if net.cell.has_c:
            parts.append((f"c{place}", (2 * B, Hp)))
    return Layout(net.dtype, parts)


def output_on_tape(tape, batch, layer):
    """What a layer below the top one gave to the next."""
    return tape[f"y{layer}"] if f"y{layer}" in tape else tape[f"h_prev{layer}0"][batch.B :]


def on_tape(tape, batch, net, layer, d):
    """(gates, h_prev, c_prev) of one layer and direction."""
    h_prev = tape[f"h_prev{layer}{d}"]
    before, after = h_prev[: batch.total], h_prev[len(h_prev) - batch.total :]
    if f"gates{layer}{d}" in tape:
        gates, h_prev = tape[f"gates{layer}{d}"], before
    else:
        gates, h_prev = (before, after) if net.runs_back(d) else (after, before)
    return gates, h_prev, tape[f"c_prev{layer}{d}"] if net.cell.has_c else None


def bias_rows(packed, suffix, context):
    """The bias blocks, one row for all or, with a context, one for each sequence; and the stride between rows."""
    bias = packed.bias(suffix)
    if context is None:
        return bias, 0
    width = len(packed.cell.x_gates) * packed.Hp
    rows = np.empty((len(context), len(bias)), bias.dtype)
    rows[:] = bias
    product = np.empty((len(context), width), bias.dtype)
    _engine.product(context, packed.input(suffix, "weight_ch"), None, product)
    rows[:, :width] += product
    return rows, len(bias)


def ready_sweep(net, packed, batch, layer, d, below, context, memory, h, c, y, keep, chunk, column=0):
    """One layer and direction, ready to run.

    below : its input, as x of `forward`
    memory : (gates, h_prev, c_prev) on the tape, or scratch
    h, c : (B, Pp) and (B, Hp) sorted states, which become the final ones
    y : (total, W), of which this direction writes its own columns; the forward direction from `column` on
    """
    cell, H = net.cell, net.hidden_size
    suffix = f"_l{layer}" + ("_reverse" if d else "")
    rows, ids, table = _input_of(packed, below, suffix)
    bias, bias_stride = bias_rows(packed, suffix, context if layer == 0 else None)
    w, w2 = packed.recurrent(suffix)
    ready = _engine.Forward(
        cell.code, net.runs_back(d), H, packed.Hp, 0 if rows is None else rows.shape[1], cell.blocks, len(cell.x_gates),
        batch.offset, batch.lengths, batch.B, batch.resets,
        rows, ids, table, None if rows is None else packed.input(suffix), w, w2, bias, bias_stride,
        *memory, h, c, y, column + d * packed.P, y.shape[1], keep, chunk,
    )  # fmt: skip
    if cell.functions is not None:
        ready.set_options(packed.options(suffix))
    return ready


def wave_pays(net, T, B):
    """Whether the layers are best run on a thread each, a few steps apart."""
    step_flops = 4.0 * B * net.cell.blocks * net.hidden_size**2
    return net.num_directions == 1 and _engine.waves_pay(net.num_layers, B, T, step_flops)


def forward(net, packed, batch, x, state, context=None, tape=None, dropout=None, outputs=None):
    """Run the stack.

    x : (total, I) packed rows, Tokens, or None if input_size is 0
    state : tuple of (L*D, B, P) and (L*D, B, H) in the caller's order, or None; P: features of h
    context : (B, C) sorted, or None
    outputs : list that receives what each layer gave, (total, D*P) before dropout, or None
    Returns y (total, D*P) and the tuple of final states.
    """
    cell, Hp = net.cell, packed.Hp
    D, total, B = net.num_directions, batch.total, batch.B
    h_n, c_n = state_rows(net, packed, batch, state)
    chunk = _engine.chunk_steps(B, cell.blocks * Hp * net.dtype.itemsize)
    wave = dropout is None and wave_pays(net, batch.T, B)
    scratch = None
    if tape is None:
        scratch = Scratch(scratch_pool, scratch_layout(net, chunk * B, B, Hp, packed.Pp, net.num_layers if wave else D))
    y, sweeps = x, []
    for layer in range(net.num_layers):
        top = layer == net.num_layers - 1
        below, y = (
            y,
            np.empty((total, D * packed.P), net.dtype) if top or tape is None else output_on_tape(tape, batch, layer),
        )
        for d in range(D):
            part = layer * D + d
            if tape is None:
                place = len(sweeps)
                memory = scratch[f"gates{place}"], scratch[f"h{place}"], scratch[f"c{place}"] if cell.has_c else None
            else:
                memory = on_tape(tape, batch, net, layer, d)
            states = h_n[part], c_n[part] if cell.has_c else None
            sweeps.append(
                ready_sweep(net, packed, batch, layer, d, below, context, memory, *states, y, tape is not None, chunk)
            )
        if not wave:
            _engine.forward_sides(*sweeps) if D == 2 else _engine.forward_layers(sweeps)
            sweeps = []
        if outputs is not None:
            outputs.append(y if dropout is None or top else y.copy())
        if dropout is not None and not top:
            dropout.apply(y, batch, layer)
    if wave:
        _engine.forward_wave(sweeps)
    if scratch is not None:
        scratch.release()
    return y, states_out(net, batch, h_n, c_n)


def _input_of(packed, x, suffix):
    """(rows, ids, table) for the engine: one of rows and ids, or neither without an input."""
    if x is None or isinstance(x, np.ndarray):
        return (x if x is not None and x.shape[1] else None), None, None
    return None, x.ids, input_parts(packed, x.table, suffix) if x.parts is None else x.parts


def input_parts(packed, table, suffix):
    """(V, x_blocks*Hp): rows of an embedding times W_ih."""
    parts = np.empty((len(table), len(packed.cell.x_gates) * packed.Hp), table.dtype)
    _engine.product(table, packed.input(suffix), None, parts)
    return parts

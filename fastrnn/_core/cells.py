"""What differs between cells: gates, states, the order of blocks on the tape, and how weights are packed for the kernels.

A *gate* is a block of H rows in torch's weights. A *block* is a block of Hp columns in the engine's arrays (Hp: H in whole vectors).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from fastrnn import _check, _engine


@dataclass(frozen=True)
class Cell:
    """One kind of recurrent unit.

    name : as in repr and messages
    code : its number in src/kernels.h
    gates : G, in torch's order
    blocks : X, blocks of a row on the tape and of dgates
    x_gates : (block, gate) of each block that has an input part: from block 0 on
    h_gates : (block, gate): the block of dgates that belongs to the gate of W_hh
    w_gates : gates of the first phase's weights, interleaved by units; empty if they are a plain panel of units
    back : (first block, gates) of dgates whose product with W_hh is dh; a second pair for a second phase
    rh : the block that drives the n gate in place of h_prev, or None
    functions : (kind, alpha, beta) of the activations of gates, candidate and output, as src/kernels.h has them; None: the cell's usual ones
    clip : the pre-activations are cut to -clip .. clip
    peephole : gates see c
    proj_size : features of h; 0: as many as units
    """

    name: str
    code: int
    gates: int
    blocks: int
    x_gates: tuple
    h_gates: tuple
    w_gates: tuple
    back: tuple
    rh: int | None = None
    has_c: bool = False
    functions: tuple | None = None
    clip: float = math.inf
    peephole: bool = False
    proj_size: int = 0

    @property
    def states(self):
        """Names of the initial states."""
        return ("h_0", "c_0") if self.has_c else ("h_0",)

    def state_sizes(self, hidden_size):
        """Features of h, and of c if there is one."""
        return (self.proj_size or hidden_size, hidden_size)[: len(self.states)]

    @property
    def output_is_tape(self):
        """Whether all that the tape keeps of a step is the step's h."""
        return self.blocks == 1 and self.functions is None


RNN_CELLS = {
    name: Cell(f"RNN({name})", code, 1, 1, ((0, 0),), ((0, 0),), (), ((0, (0,)),))
    for code, name in enumerate(["tanh", "relu", "sigmoid"])
}
GRU_CELL = Cell("GRU", 3, 3, 4, ((0, 2), (1, 0), (2, 1)), ((1, 0), (2, 1), (3, 2)), (0, 1, 2), ((1, (0, 1, 2)),))
GRU_BEFORE_CELL = Cell(
    "GRU(reset_after=False)",
    4,
    3,
    4,
    ((0, 2), (1, 0), (2, 1)),
    ((1, 0), (2, 1), (0, 2)),
    (0, 1),
    ((1, (0, 1)), (0, (2,))),
    rh=3,
)
_FOUR = tuple((i, i) for i in range(4))
LSTM_CELL = Cell("LSTM", 5, 4, 4, _FOUR, _FOUR, (0, 1, 2, 3), ((0, (0, 1, 2, 3)),), has_c=True)

_FUNCTIONS = {  # name: (its number in src/kernels.h, alpha, beta), ONNX's definitions; alpha and beta are None where it has none
    "tanh": (0, None, None), "sigmoid": (1, None, None), "relu": (2, None, None), "affine": (3, 1.0, 0.0), "leaky_relu": (4, 0.01, None),
    "thresholded_relu": (5, 1.0, None), "scaled_tanh": (6, 1.0, 1.0), "hard_sigmoid": (7, 1 / 6, 0.5), "elu": (8, 1.0, None), "softsign": (9, None, None),
    "softplus": (10, None, None), "selu": (11, None, None), "silu": (12, None, None), "exponential": (13, None, None), "linear": (3, None, None),
}  # fmt: skip


def function(name, value):
    """(kind, alpha, beta) of an activation: a name, or a tuple of a name and its alpha or alpha and beta."""
    given = (value,) if isinstance(value, str) else value
    if not isinstance(given, (tuple, list)) or not given or not isinstance(given[0], str):
        raise TypeError(f"{name} is {value!r}, but it must be a name, (name, alpha) or (name, alpha, beta)")
    _check.choice(name, given[0], tuple(_FUNCTIONS))
    kind, *defaults = _FUNCTIONS[given[0]]
    takes = [d for d in defaults if d is not None]
    if len(given) - 1 > len(takes):
        raise ValueError(f"{name} has {len(given) - 1} numbers, but {given[0]} takes {len(takes)}")
    takes[: len(given) - 1] = [_check.number(f"{label} of {name}", v) for label, v in zip(("alpha", "beta"), given[1:])]
    alpha, beta = [*takes, *((1.0, 0.0)[len(takes) :])]
    return kind, alpha, beta


_TANH, _SIGMOID = function("", "tanh"), function("", "sigmoid")


def rnn_cell(nonlinearity, clip):
    """The vanilla cell with these options."""
    plain = RNN_CELLS.get(nonlinearity) if isinstance(nonlinearity, str) else None
    f = function("nonlinearity", nonlinearity)
    if plain is not None and clip == math.inf:
        return plain
    return replace(RNN_CELLS["tanh"], name="RNN", code=6, functions=(f, f, f), clip=clip)


def gru_cell(reset_after, activation, recurrent_activation, clip):
    """The GRU with these options."""
    plain = GRU_CELL if reset_after else GRU_BEFORE_CELL
    gate, candidate = function("recurrent_activation", recurrent_activation), function("activation", activation)
    if (gate, candidate, clip) == (_SIGMOID, _TANH, math.inf):
        return plain
    return replace(plain, code=7 if reset_after else 8, functions=(gate, candidate, candidate), clip=clip)


def lstm_cell(activation, recurrent_activation, output_activation, clip, peephole, coupled, proj_size):
    """The LSTM with these options."""
    gate, candidate = function("recurrent_activation", recurrent_activation), function("activation", activation)
    output = candidate if output_activation is None else function("output_activation", output_activation)
    if (gate, candidate, output, clip, peephole, coupled, proj_size) == (
        _SIGMOID,
        _TANH,
        _TANH,
        math.inf,
        False,
        False,
        0,
    ):
        return LSTM_CELL
    gates = _FOUR[: 3 if coupled else 4]
    units = tuple(range(len(gates)))
    blocks = len(gates) + (len(gates) - 1) * peephole + (proj_size > 0)  # see src/kernels_options.h
    return Cell(
        "LSTM", 10 if coupled else 9, len(gates), blocks, gates, gates, units, ((0, units),), has_c=True,
        functions=(gate, candidate, output), clip=clip, peephole=peephole, proj_size=proj_size,
    )  # fmt: skip


def padded(hidden_size, dtype):
    """Hp: the hidden size in whole vectors of the instruction set in use."""
    lanes = _engine.vector_lanes(dtype.itemsize == 8)
    return -(-hidden_size // lanes) * lanes


def _gate_columns(gates, H, Hp):
    """Source row of each column of blocks (gate, unit), -1 for padding."""
    units = np.concatenate([np.arange(H), np.full(Hp - H, -1)])
    return np.concatenate([np.where(units < 0, -1, units + gate * H) for gate in gates]).astype(np.int64)


@lru_cache(maxsize=256)
def _index(kind, gates, H, Hp, lanes):
    """Where packed columns (or the k of backward products) come from. Cached: it depends on sizes only."""
    columns = _gate_columns(gates, H, Hp)
    if kind == "interleaved":  # (unit block, gate, lane) in place of (gate, unit block, lane)
        columns = columns.reshape(len(gates), Hp // lanes, lanes).transpose(1, 0, 2)
    columns = np.ascontiguousarray(columns.ravel())
    columns.flags.writeable = False
    return columns


def _packed(w, columns, rows, stride_n, stride_k, panel):
    out = _engine.aligned_empty(len(columns) * len(rows), w.dtype)
    if out.size:
        _engine.pack_columns(np.ascontiguousarray(w), columns, rows, stride_n, stride_k, panel, out)
    return out


class Packed:
    """Packed copies of the parameters of a stack, made when first asked for and kept while the parameters stand.

    Parameters
    ----------
    cell : Cell
    sizes : (H, dtype)
    params : {torch name: array}
    """

    PANEL = 4

    def __init__(self, cell, H, dtype, params):
        self.cell, self.H, self.dtype, self.params = cell, H, dtype, params
        self.P = cell.state_sizes(H)[0]
        self.Hp, self.Pp = padded(H, dtype), padded(self.P, dtype)
        self.lanes = _engine.vector_lanes(dtype.itemsize == 8)
        # gates whose blocks lie together on both sides: in the bias, in dW_ih, in dW_hh
        self.x_runs, self.h_runs = runs(cell.x_gates, True), runs(cell.h_gates, True)
        self.dw_ih_runs, self.dw_hh_runs = (
            runs(cell.x_gates, self.Hp == H),
            runs(cell.h_gates, self.Hp == H and cell.rh is None),
        )
        self._made = {}

    def _once(self, key, make):
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = make()
        return made

    def input(self, suffix, name="weight_ih"):
        """W_ih (or W_ch) for y = x @ W.T into the blocks that have an input part."""
        return self._once((name, suffix), lambda: self._input(self.params[name + suffix]))

    def _input(self, w):
        columns = _index("blocks", tuple(gate for _, gate in self.cell.x_gates), self.H, self.Hp, self.lanes)
        return _packed(w, columns, np.arange(w.shape[1]), w.shape[1], 1, self.PANEL)

    def input_backward(self, suffix, name="weight_ih"):
        """W_ih (or W_ch) for dx = dgates_x @ W."""
        return self._once(("back", name, suffix), lambda: self._input_backward(self.params[name + suffix]))

    def _input_backward(self, w):
        features = np.full(-(-w.shape[1] // self.lanes) * self.lanes, -1, np.int64)
        features[: w.shape[1]] = np.arange(w.shape[1])
        rows = _index("blocks", tuple(gate for _, gate in self.cell.x_gates), self.H, self.Hp, self.lanes)
        return _packed(w, features, rows, 1, w.shape[1], self.PANEL)

    def recurrent(self, suffix):
        """(w, w2) for the forward step."""
        return self._once(("w", suffix), lambda: self._recurrent(self.params["weight_hh" + suffix], suffix))

    def _recurrent(self, w, suffix):
        H, P, k = self.H, self.P, np.arange(self.P)
        if not self.cell.w_gates:
            return _packed(w, _index("blocks", (0,), H, self.Hp, self.lanes), k, H, 1, self.PANEL), None
        gates = self.cell.w_gates
        first = _packed(w, _index("interleaved", gates, H, self.Hp, self.lanes), k, P, 1, len(gates))
        second = None
        if self.cell.rh is not None:
            second = _packed(w, _index("blocks", (2,), H, self.Hp, self.lanes), k, H, 1, self.PANEL)
        elif self.cell.proj_size:
            second = _packed(
                self.params["weight_hr" + suffix],
                _index("blocks", (0,), P, self.Pp, self.lanes),
                np.arange(H),
                H,
                1,
                self.PANEL,
            )
        return first, second

    def backward(self, suffix):
        """(w, w2) for dh = dgates @ W_hh, and with a projection for dm = dh @ W_hr."""
        return self._once(("back", suffix), lambda: self._backward(self.params["weight_hh" + suffix], suffix))

    def _backward(self, w, suffix):
        features = _index("blocks", (0,), self.P, self.Pp, self.lanes)
        made = [
            _packed(w, features, _index("blocks", gates, self.H, self.Hp, self.lanes), 1, self.P, self.PANEL)
            for _, gates in self.cell.back
        ]
        if self.cell.proj_size:
            units = _index("blocks", (0,), self.H, self.Hp, self.lanes)
            made.append(_packed(self.params["weight_hr" + suffix], units, np.arange(self.P), 1, self.H, self.PANEL))
        return made[0], made[1] if len(made) > 1 else None

    def options(self, suffix):
        """What the engine needs to know of a cell with options; None for the others."""
        return (
            self._once(("options", suffix), lambda: self._options(suffix)) if self.cell.functions is not None else None
        )

    def _options(self, suffix):
        cell, peephole = self.cell, None
        if cell.peephole:
            peephole = np.zeros((cell.gates - 1, self.Hp), self.dtype)
            peephole[:, : self.H] = self.params["weight_peephole" + suffix].reshape(-1, self.H)
        return _engine.Options(cell.functions, cell.clip, cell.blocks, self.P, self.Pp, cell.proj_size > 0, peephole)

    def bias(self, suffix):
        """(X*Hp,) what each block's chain starts from, beside the input part."""
        return self._once(("bias", suffix), lambda: self._bias(suffix))

    def _bias(self, suffix):
        cell, H = self.cell, self.H
        blocks = np.zeros((cell.blocks, self.Hp), self.dtype)
        if "bias_ih" + suffix in self.params:
            b_ih = self.params["bias_ih" + suffix].reshape(cell.gates, H)
            b_hh = self.params["bias_hh" + suffix].reshape(cell.gates, H)
            for block, gate in cell.x_gates:
                blocks[block, :H] = b_ih[gate]
            for block, gate in cell.h_gates:
                blocks[block, :H] += b_hh[gate]
        return blocks.reshape(-1)


@lru_cache
def runs(pairs, together):
    """Merge (block, gate) pairs that follow each other on both sides into (block, gate, count); each by itself unless `together`.

    >>> runs(((1, 0), (2, 1), (3, 2)), True), runs(((0, 2), (1, 0)), True)
    (((1, 0, 3),), ((0, 2, 1), (1, 0, 1)))
    """
    merged = []
    for block, gate in pairs:
        last = merged[-1] if merged else None
        if last and together and block == last[0] + last[2] and gate == last[1] + last[2]:
            merged[-1] = (last[0], last[1], last[2] + 1)
        else:
            merged.append((block, gate, 1))
    return tuple(merged)

"""The cells: their gates, states, blocks on the tape, and options.

A *gate* is H rows of the weights in PyTorch's layout. A *block* is Hp columns of the engine's arrays, where Hp is H
rounded up to whole vectors. The table of cells is src/cells.c.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

from fastrnn import _check, _engine


@dataclass(frozen=True)
class Cell:
    """One kind of recurrent unit.

    name : as in repr and messages
    code : its number in the engine
    gates : G, in PyTorch's order
    blocks : X, blocks of a row on the tape and of dgates
    x_gates : (block, gate) of each block with an input part, from block 0 on
    h_gates : (block, gate): the block of dgates that belongs to the gate's rows of W_hh
    interleaved : number of gates whose packed recurrent weights are interleaved by unit; 0: they are a panel of units
    back : gates whose blocks of dgates give dh in one product with W_hh; a second tuple for a second phase
    rh : the block that enters the n gate in place of h_prev, or None
    functions : (kind, alpha, beta) of the activations of gates, candidate and output; None: the usual ones
    clip : the pre-activations are clipped to -clip .. clip
    peephole : whether the gates have peephole connections to c
    proj_size : features of h; 0: as many as units
    """

    name: str
    code: int
    gates: int
    blocks: int
    x_gates: tuple
    h_gates: tuple
    interleaved: int
    back: tuple
    rh: int | None
    has_c: bool
    functions: tuple | None = None
    clip: float = math.inf
    peephole: bool = False
    proj_size: int = 0

    @classmethod
    def of(cls, key, name):
        """Make the cell `key` of the engine's table."""
        row = _engine.CELLS[key]
        gates = range(row["gates"])
        x_gates = tuple(sorted((block, gate) for gate, block in zip(gates, row["x_block"])))
        h_gates = tuple((block, gate) for gate, block in zip(gates, row["h_block"]))
        back = (tuple(gates),)
        if row["rh_block"] is not None:  # the last gate's product comes in a second phase
            back = tuple(gates[:-1]), (gates[-1],)
        return cls(
            name, row["code"], row["gates"], row["blocks"], x_gates, h_gates,
            interleaved=row["interleaved"], back=back, rh=row["rh_block"], has_c=row["has_c"],
        )  # fmt: skip

    @cached_property
    def states(self):
        """Names of the initial states."""
        return ("h_0", "c_0") if self.has_c else ("h_0",)

    def state_sizes(self, hidden_size):
        """Features of h, and of c if there is one."""
        return (self.proj_size or hidden_size, hidden_size)[: len(self.states)]

    @cached_property
    def output_is_tape(self):
        """Whether the tape keeps nothing of a step but its h."""
        return self.blocks == 1 and self.functions is None


RNN_CELLS = {name: Cell.of(f"rnn_{name}", f"RNN({name})") for name in ("tanh", "relu", "sigmoid")}
GRU_CELL = Cell.of("gru", "GRU")
GRU_BEFORE_CELL = Cell.of("gru_before", "GRU(reset_after=False)")
LSTM_CELL = Cell.of("lstm", "LSTM")

_DEFAULTS = {  # alpha and beta of each activation; None: it has no such parameter. ONNX's definitions
    "tanh": (None, None), "sigmoid": (None, None), "relu": (None, None), "affine": (1.0, 0.0),
    "leaky_relu": (0.01, None), "thresholded_relu": (1.0, None), "scaled_tanh": (1.0, 1.0),
    "hard_sigmoid": (1 / 6, 0.5), "elu": (1.0, None), "softsign": (None, None), "softplus": (None, None),
    "selu": (None, None), "silu": (None, None), "exponential": (None, None), "linear": (None, None),
}  # fmt: skip


def function(name, value):
    """(kind, alpha, beta) of an activation, given as a name or a tuple of a name, alpha and beta.

    name : of the argument, for messages
    """
    given = (value,) if isinstance(value, str) else value
    if not isinstance(given, (tuple, list)) or not given or not isinstance(given[0], str):
        raise TypeError(f"{name} is {value!r}, but it must be a name, (name, alpha) or (name, alpha, beta)")
    _check.choice(name, given[0], tuple(_DEFAULTS))
    kind = _engine.ACTIVATIONS["affine" if given[0] == "linear" else given[0]]
    takes = [d for d in _DEFAULTS[given[0]] if d is not None]
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
    return replace(Cell.of("rnn_options", "RNN"), functions=(f, f, f), clip=clip)


def gru_cell(reset_after, activation, recurrent_activation, clip):
    """The GRU with these options."""
    plain = GRU_CELL if reset_after else GRU_BEFORE_CELL
    gate, candidate = function("recurrent_activation", recurrent_activation), function("activation", activation)
    if (gate, candidate, clip) == (_SIGMOID, _TANH, math.inf):
        return plain
    cell = Cell.of("gru_options" if reset_after else "gru_before_options", plain.name)
    return replace(cell, functions=(gate, candidate, candidate), clip=clip)


def lstm_cell(activation, recurrent_activation, output_activation, clip, peephole, coupled, proj_size):
    """The LSTM with these options."""
    gate, candidate = function("recurrent_activation", recurrent_activation), function("activation", activation)
    output = candidate if output_activation is None else function("output_activation", output_activation)
    functions = gate, candidate, output
    if (functions, clip) == ((_SIGMOID, _TANH, _TANH), math.inf) and not (peephole or coupled or proj_size):
        return LSTM_CELL
    cell = Cell.of("lstm_coupled" if coupled else "lstm_options", "LSTM")
    blocks = cell.blocks + (cell.gates - 1) * peephole + (proj_size > 0)  # see src/kernels_options.h
    return replace(cell, blocks=blocks, functions=functions, clip=clip, peephole=peephole, proj_size=proj_size)

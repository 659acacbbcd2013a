"""``check_finite=True``: find the first value that is not finite. Gradients are in finite_backward.py.

If all values are finite, it costs one pass over the arguments, the parameters and the results. Otherwise the forward
pass is run again with a tape, which is searched layer by layer, in the order of computation.
"""

from __future__ import annotations

import contextlib
import math
import threading

import numpy as np

from fastrnn import _engine
from fastrnn._core.batch import MaskedBatch
from fastrnn._core.stack import Tokens, forward


class _Here(threading.local):
    wanted = False


_here = _Here()


@contextlib.contextmanager
def checking():
    """Make calls of all layers from this thread, inside the block, behave as with ``check_finite=True``."""
    before = wanted()
    _here.wanted = True
    try:
        yield
    finally:
        _here.wanted = before


def wanted() -> bool:
    """Whether this thread is inside a `checking` block."""
    return _here.wanted


@contextlib.contextmanager
def of_member(k):
    """Add the member of a Stacked to the message of a FloatingPointError."""
    try:
        yield
    except FloatingPointError as error:
        raise FloatingPointError(f"member {k}: {error}") from None


def is_finite(array) -> bool:
    """Whether a float array has neither NaN nor infinity. One pass, without a copy if the array is contiguous.

    >>> is_finite(np.array([1e300, -1e300])), is_finite(np.array([1.0, np.nan]))
    (True, False)
    """
    if (
        array.size
        and array.flags.c_contiguous
        and array.flags.aligned
        and math.isfinite(_engine.sum_of_squares(array.reshape(-1)))
    ):
        return True
    return bool(np.isfinite(array).all())  # the sum of squares of large float64 numbers may overflow


def first_of(count) -> str:
    """The number of values that are not finite, as part of a message."""
    return "the only value that is not finite" if count == 1 else f"the first of {count} values that are not finite"


def refuse(name, array, axes=None):
    """Raise FloatingPointError if an array is not finite.

    name : of the array, at the start of the message
    axes : function that describes an index; by default the index in brackets
    """
    if is_finite(array):
        return
    bad = ~np.isfinite(array)
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    where = f"[{', '.join(map(str, index))}]" if axes is None else f" at {axes(index)}"
    raise FloatingPointError(f"{name}{where} is {array[index]} ({first_of(int(bad.sum()))})")


def packed_places(batch):
    """(total,) the caller's t*B + b of each packed row."""
    return np.arange(batch.total) if batch.where is None else batch.where


def layer_name(layer, part):
    """Name of the layer and direction of row `part` of a state (num_layers * D, …)."""
    number, d = divmod(part, layer.num_directions)
    return f"layer {number}{' (reverse)' if d else ''}"


class CheckedCall:
    """A call of a recurrent layer whose values are checked.

    call : Call; state : in the caller's order, or None
    """

    def __init__(self, layer, call, state, unbatched):
        self.layer, self.call, self.state, self.unbatched = layer, call, state, unbatched
        self.net, self.packed, self.batch = call.net, call.packed, call.batch
        self.rows, self.context, self.dropout = call.x, call.context, call.dropout

    def step(self, place):
        """Description of the step with index t*B + b."""
        t, b = divmod(int(place), self.batch.B)
        return f"step {t}" if self.unbatched else f"step {t}, row {b}"

    def _row(self, b):
        return "" if self.unbatched else f"row {b}, "

    # --- arguments ---

    def check_arguments(self, state_given, params=None):
        """Check the parameters, x or the embedding, the initial state and the context: only values that are used."""
        for name, array in (self.layer.params if params is None else params).items():
            refuse(f"the parameter {name}", array)
        if isinstance(self.rows, Tokens):
            self._check_embedding()
        else:
            self.check_rows("x", self.rows, packed_places(self.batch))
        if state_given and self.state is not None:
            self.check_state("state", self.state)
        if self.context is not None:
            context = self.batch.unsorted(self.context[None])[0]
            refuse("context", context, lambda index: f"{self._row(index[0])}feature {index[1]}")

    def check_rows(self, name, rows, places):
        """Check rows (n, features) of the steps `places`."""
        if is_finite(rows):
            return
        bad = ~np.isfinite(rows)
        wrong = np.flatnonzero(bad.any(1))
        row = wrong[np.argmin(places[wrong])]
        feature = int(np.flatnonzero(bad[row])[0])
        raise FloatingPointError(
            f"{name} at {self.step(places[row])}, feature {feature} is {rows[row, feature]} "
            f"({first_of(int(bad.sum()))})"
        )

    def _check_embedding(self):
        tokens = self.rows
        if is_finite(tokens.table):
            return
        used = np.unique(tokens.ids)
        ids = used if tokens.rows is None else tokens.rows[used]
        refuse("the embedding", tokens.table[used], lambda index: f"the row of id {ids[index[0]]}, feature {index[1]}")

    def check_state(self, name, arrays):
        """Check a state or its gradient: (L*D, B, P), and for the LSTM (L*D, B, H)."""
        letters = [label[0] for label in self.layer.cell.states]
        for letter, array in zip(letters, arrays):
            refuse(
                f"{letter} of {name}", array,
                lambda index: f"{layer_name(self.layer, index[0])}, {self._row(index[1])}unit {index[2]}",
            )  # fmt: skip

    # --- results ---

    def check_results(self, outputs, state_n, tape=None):
        """Check the output of each layer, (total, D*P), and the final states.

        If a value is not finite, the tape is searched for the first one; without a tape the call is computed again.
        """
        if all(map(is_finite, (*outputs, *state_n))):
            return
        if tape is None:
            outputs = []
            tape = self.call.make_tape(self.layer._tapes)
            _, state_n = forward(self.call, self.state, tape, outputs)
        raise FloatingPointError(self._place(outputs, state_n, tape))

    def _place(self, outputs, state_n, tape):
        D, P = self.net.num_directions, self.net.output_size
        for layer in range(self.net.num_layers):
            below = self.rows if layer == 0 else self.call.tape_output(tape, layer - 1)
            if layer > 0 and not is_finite(below):
                self.check_rows(f"the input of layer {layer}, after dropout,", below, packed_places(self.batch))
            for d in range(D):
                h = outputs[layer][:, d * P : (d + 1) * P]
                c = self._c_after(tape, state_n, layer, d) if self.net.cell.has_c else None
                bad = ~np.isfinite(h)
                wrong, count = bad.any(1), int(bad.sum())
                if c is not None:
                    bad = ~np.isfinite(c)
                    wrong, count = wrong | bad.any(1), count + int(bad.sum())
                if count:
                    return self._named(layer, d, below, h, c, np.flatnonzero(wrong), count, tape)
        return f"a state of this {self.layer.kind} is not finite"  # a state that a reset sets to zero immediately

    def _c_after(self, tape, state_n, layer, d):
        """(total, H) cell states after each step: those before the row's next step, or the final one."""
        batch, offset = self.batch, self.batch.offset
        before = tape[f"c_prev{layer}{d}"][:, : self.net.hidden_size]
        final = batch.sorted(state_n[1][layer * self.net.num_directions + d])
        after = np.zeros_like(before)
        sizes = np.append(np.diff(offset), 0)  # index -1: beyond either end there is no step
        for k in range(batch.T):
            following = k - 1 if self.net.runs_back(d) else k + 1
            goes_on = min(sizes[k], sizes[following])
            if goes_on:
                after[offset[k] : offset[k] + goes_on] = before[offset[following] : offset[following] + goes_on]
            after[offset[k] + goes_on : offset[k + 1]] = final[goes_on : sizes[k]]
        return after

    def _named(self, layer, d, below, h, c, wrong, count, tape):
        """The message about the first of the wrong packed rows of one layer and direction."""
        t, b = np.divmod(packed_places(self.batch)[wrong], self.batch.B)
        first = np.lexsort((b, -t if self.net.runs_back(d) else t))[0]
        row = wrong[first]
        what, unit, value, why = Step(self, layer, d, below, row, tape).first_wrong(
            h[row], None if c is None else c[row]
        )
        name = f"{self.layer.kind} {layer_name(self.layer, layer * self.net.num_directions + d)}"
        place = self.step(packed_places(self.batch)[row])
        count = f"{first_of(count)} in the states of this layer"
        return f"{name}, {what}, {place}, unit {unit}: {value} ({count}); its inputs are finite: {why}"


def _sigmoid(a):
    return np.where(a < 0, np.exp(np.minimum(a, 0)), 1) / (1 + np.exp(-np.abs(a)))


_ACTIVATIONS = {  # as the kernels compute them
    "tanh": lambda a, alpha, beta: np.tanh(a),
    "sigmoid": lambda a, alpha, beta: _sigmoid(a),
    "relu": lambda a, alpha, beta: np.where(a <= 0, 0, a),
    "affine": lambda a, alpha, beta: alpha * a + beta,
    "leaky_relu": lambda a, alpha, beta: np.where(a < 0, alpha * a, a),
    "thresholded_relu": lambda a, alpha, beta: np.where(a <= alpha, 0, a),
    "scaled_tanh": lambda a, alpha, beta: alpha * np.tanh(beta * a),
    "hard_sigmoid": lambda a, alpha, beta: np.clip(alpha * a + beta, 0, 1),
    "elu": lambda a, alpha, beta: np.where(a < 0, alpha * np.expm1(np.minimum(a, 0)), a),
    "softsign": lambda a, alpha, beta: a / (1 + np.abs(a)),
    "softplus": lambda a, alpha, beta: np.logaddexp(0, a),
    "selu": lambda a, alpha, beta: (
        1.0507009873554805 * np.where(a < 0, 1.6732632423543772 * np.expm1(np.minimum(a, 0)), a)
    ),
    "silu": lambda a, alpha, beta: a * _sigmoid(a),
    "exponential": lambda a, alpha, beta: np.exp(
        np.minimum(a, 88 if a.dtype == np.float32 else 709)
    ),  # as v_exp, which clamps there
}
_FUNCTIONS = {_engine.ACTIVATIONS[name]: function for name, function in _ACTIVATIONS.items()}
_GATES = {1: ("h",), 3: ("r", "z", "n"), 4: ("i", "f", "g", "o")}


def gate_names(cell):
    """Names of the gates, in PyTorch's order."""
    return ("i", "g", "o") if cell.has_c and cell.gates == 3 else _GATES[cell.gates]


class Step:
    """One row at one step of one layer and direction, from the tape.

    exact : whether the pre-activations depend only on `below`, h_prev and the context
    """

    def __init__(self, run, layer, d, below, row, tape, exact=True):
        self._exact = exact
        net, batch, Hp, H = run.net, run.batch, run.packed.Hp, run.net.hidden_size
        self.net, self.cell, self.params = net, net.cell, run.layer.params
        self.suffix = f"_l{layer}" + ("_reverse" if d else "")
        gates, h_prev, c_prev, _ = run.call.tape_arrays(tape, layer, d)
        self.h_prev = h_prev[row, : net.output_size]
        self.c_prev = c_prev[row, :H] if self.cell.has_c else None
        self.x = below.table[below.ids[row]] if isinstance(below, Tokens) else below[row]
        self.context = None
        if run.context is not None and layer == 0:
            self.context = run.context[row - batch.offset[np.searchsorted(batch.offset, row, side="right") - 1]]
        # activations, or pre-activations of a cell with options, by gate
        self.kept = {gate: gates[row, block * Hp : block * Hp + H] for block, gate in self.cell.x_gates}

    def first_wrong(self, h, c):
        """(what, unit, value, why) of the first value that is not finite among gates, c and h."""
        names = gate_names(self.cell)
        with np.errstate(all="ignore"):
            for gate, name in enumerate(names):
                if c is not None and name == "o" and not np.isfinite(c).all():
                    break  # c is computed before o, which may depend on it
                value = self._gate(gate, name)
                wrong = np.flatnonzero(~np.isfinite(value))
                if len(wrong):
                    unit = int(wrong[0])
                    what = "its unit" if self.cell.gates == 1 else f"gate {name}"
                    return what, unit, value[unit], self._why(gate, unit)
        if c is not None and not np.isfinite(c).all():
            unit = int(np.flatnonzero(~np.isfinite(c))[0])
            return "cell state c", unit, c[unit], f"gates and state multiplied and added overflow {self.net.dtype}"
        unit = int(np.flatnonzero(~np.isfinite(h))[0])
        how = "the projection overflows" if self.cell.proj_size else "gates and state multiplied and added overflow"
        return "state h", unit, h[unit], f"{how} {self.net.dtype}"

    def _gate(self, gate, name):
        """Values of a gate, (H,)."""
        if self.cell.functions is None:
            return self.kept[gate]
        kind, alpha, beta = self.cell.functions[1 if name in ("g", "n", "h") else 0]
        a = np.clip(self.kept[gate], -self.cell.clip, self.cell.clip)
        return _FUNCTIONS[kind](a, self.net.dtype.type(alpha), self.net.dtype.type(beta))

    def _why(self, gate, unit):
        """Description of the pre-activation of a gate's unit."""
        if self.cell.functions is not None and np.isfinite(self.kept[gate][unit]):
            return f"the activation of {self.kept[gate][unit]:.4g} is not"
        exact = self._pre_activation(gate, unit)
        value = f": in float64 it is {exact:.4g}" if self.net.dtype == np.float32 and math.isfinite(exact) else ""
        return f"its pre-activation overflows {self.net.dtype}{value}"

    def _pre_activation(self, gate, unit):
        """Recompute a pre-activation in float64; NaN if it depends on more than the step's inputs."""
        p, row = self.params, gate * self.net.hidden_size + unit
        if not self._exact or self.cell.peephole or (self.cell.name.startswith("GRU") and gate == 2):
            return math.nan
        with np.errstate(all="ignore"):
            total = p["weight_hh" + self.suffix][row].astype(float) @ self.h_prev.astype(float)
            total += p["weight_ih" + self.suffix][row].astype(float) @ self.x.astype(float)
            if self.context is not None:
                total += p["weight_ch" + self.suffix][row].astype(float) @ self.context.astype(float)
            for name in ("bias_ih", "bias_hh"):
                total += float(p[name + self.suffix][row]) if name + self.suffix in p else 0.0
        return float(total)


def used_rows_of_dy(batch, net):
    """The caller's t*B + b where dy is used: not in padding, nor at masked steps before a direction's first step."""
    if not isinstance(batch, MaskedBatch):
        return packed_places(batch)
    return np.unique(np.concatenate([batch._repeated(net.runs_back(d))[0] for d in range(net.num_directions)]))

"""Find the first gradient that is not finite, by BPTT one step at a time. See finite.py."""

from __future__ import annotations

import numpy as np

from fastrnn import _engine
from fastrnn._core.batch import even_batch
from fastrnn._core.bptt import LayerBackward, backward_scratch_layout
from fastrnn._core.finite import first_of, gate_names, is_finite, layer_name, packed_places, refuse, used_rows_of_dy
from fastrnn._core.memory import Scratch, StepArrays
from fastrnn._core.stack import Call, Tokens, scratch_pool


def check_arguments(run, dy, given, dstate):
    """Check the arguments of a backward pass.

    run : CheckedCall
    dy : (total, D*P) packed rows, or None; given : the same in the caller's order, (T*B, D*P)
    dstate : tuple of (L*D, B, P) and (L*D, B, H), or None
    """
    if dy is not None and not is_finite(dy):
        places = used_rows_of_dy(run.batch, run.net)
        run.check_rows("dy", given[places], places)
        run.check_rows("the sum of dy over the steps that repeat an output", dy, packed_places(run.batch))
    if dstate is not None:
        run.check_state("dstate_n", dstate)


def check_results(run, tape, dy, dstate, found, grads):
    """Check the results of a backward pass.

    found : {name: array or None} of x, context and so on; grads : {name: array} of the parameters
    """
    arrays = [array for array in found.values() if array is not None]
    if all(map(is_finite, (*arrays, *grads.values()))):
        return
    _search(run, tape, dy, dstate, found["x"] is not None)
    for name, array in grads.items():
        refuse(
            f"the gradient of the parameter {name}",
            array,
            lambda index: f"[{', '.join(map(str, index))}]; those of the gates are finite, their sum",
        )
    for name, array in found.items():
        if array is not None:
            refuse(f"the gradient of {name}", array)


def _search(run, tape, dy, dstate, need_x):
    """Raise FloatingPointError at the first step, in the order of BPTT, whose gradients are not finite."""
    net, batch, D = run.net, run.batch, run.net.num_directions
    dh, dc = run.call.state_rows(dstate)
    unused = {name: np.zeros(array.shape, array.dtype) for name, array in run.layer.params.items()}
    for layer in range(net.num_layers - 1, -1, -1):
        below = run.rows if layer == 0 else run.call.tape_output(tape, layer - 1)
        wants_dx = isinstance(below, np.ndarray) and (layer > 0 or need_x)
        dx = [np.zeros(below.shape, net.dtype) if wants_dx else None for _ in range(D)]
        for d in range(D):
            part = layer * D + d
            one = _Direction(run, layer, d, below, run.call.tape_arrays(tape, layer, d), unused)
            one.search(dy, (dh[part], None if dc is None else dc[part]), dx[d])
        if wants_dx:
            dy = dx[0] if D == 1 else dx[0] + dx[1]
            if run.dropout is not None and layer > 0:
                run.dropout.apply(dy, batch, layer - 1)
            run.check_rows(f"the gradient of the input of {run.layer.kind} layer {layer}", dy, packed_places(batch))


class _Direction:
    """BPTT of one layer and direction, one step at a time.

    below, arrays : as for `LayerBackward`
    unused : {name: array} for the gradients of the parameters
    """

    def __init__(self, run, layer, d, below, arrays, unused):
        self.run, self.layer, self.d, self.below, self.arrays, self.unused = run, layer, d, below, arrays, unused

    def search(self, dy, states, dx):
        """Check the gradients of each step.

        states : gradients of the final states
        dx : array for the gradient of the input, or None
        """
        batch, back = self.run.batch, self.run.net.runs_back(self.d)
        for k in range(batch.T) if back else range(batch.T - 1, -1, -1):
            rows = slice(batch.offset[k], batch.offset[k + 1])
            if rows.start == rows.stop:
                continue
            own = [None if state is None else state[: rows.stop - rows.start] for state in states]
            self._step(rows, None if dy is None else dy[rows], own, None if dx is None else dx[rows])
            _cut(batch, k, back, own)

    def _step(self, rows, dy, states, dx):
        run, net, below, n = self.run, self.run.net, self.below, rows.stop - rows.start
        x = Tokens(below.ids[rows], below.table, below.rows) if isinstance(below, Tokens) else below[rows]
        one = Call(net, run.packed, even_batch(1, n), x, None if run.context is None else run.context[:n])
        gates, h_prev, c_prev, _ = self.arrays
        arrays = StepArrays(gates[rows], h_prev[rows], None if c_prev is None else c_prev[rows], True)
        scratch = Scratch(scratch_pool, backward_scratch_layout(net, n, n, run.packed.Hp))
        ready = LayerBackward(one, self.layer, self.d, x, arrays, self.unused).prepare(scratch, dy, states, dx)
        _engine.backward_layer(ready, 1)
        try:
            _check_step(run, self.layer, self.d, rows, scratch[f"dgates{self.d}"][:n], states, dx)
        finally:
            scratch.release()


def _check_step(run, layer, d, rows, dgates, states, d_below):
    """Raise FloatingPointError if a gradient of one step is not finite: of its gates, a state before it, its input."""
    net, H, Hp = run.net, run.net.hidden_size, run.packed.Hp
    kinds = [
        (
            f"gate {gate_names(net.cell)[gate]}" if net.cell.gates > 1 else "its unit",
            dgates[:, block * Hp : block * Hp + H],
        )
        for block, gate in sorted(net.cell.x_gates, key=lambda pair: pair[1])
    ]
    for letter, width, state in zip("hc", (net.output_size, H), states):
        if state is not None:
            kinds.append((f"the state {letter} before it", state[:, :width]))
    if d_below is not None:
        kinds.append(("its input", d_below))
    bad = [~np.isfinite(values) for _, values in kinds]
    wrong = np.flatnonzero(np.any([b.any(1) for b in bad], axis=0))
    if not len(wrong):
        return
    places = packed_places(run.batch)[rows]
    row = wrong[np.argmin(places[wrong] % run.batch.B)]
    what, unit, value = next(
        (kind, int(np.flatnonzero(b[row])[0]), values) for (kind, values), b in zip(kinds, bad) if b[row].any()
    )
    name = f"{run.layer.kind} {layer_name(run.layer, layer * net.num_directions + d)}"
    axis = "feature" if what == "its input" else "unit"
    raise FloatingPointError(
        f"the gradient of {name}, {what}, {run.step(places[row])}, {axis} {unit}: {value[row, unit]} "
        f"({first_of(int(sum(b.sum() for b in bad)))} in this step); "
        "dy, dstate_n and the gradients of later steps are finite"
    )


def _cut(batch, k, back, states):
    """Zero the gradients of rows with a reset before step k; of a reverse direction, before the following step."""
    if batch.resets is None:
        return
    where = k + 1 if back else k
    if where < batch.T:
        cut = np.flatnonzero(batch.resets[batch.offset[where] : batch.offset[where + 1]])
        for state in states:
            if state is not None:
                state[cut[cut < len(state)]] = 0

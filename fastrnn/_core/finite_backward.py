"""Where the first gradient that is not finite is: BPTT step by step, when something is wrong. See _finite.py."""

from __future__ import annotations

import numpy as np

from fastrnn import _engine
from fastrnn._core.bptt import Sweep, scratch_layout
from fastrnn._core.finite import first_of, gate_names, is_finite, layer_name, packed_places, refuse, used_rows_of_dy
from fastrnn._core.memory import Scratch
from fastrnn._core.stack import Tokens, even_batch, on_tape, output_on_tape, scratch_pool, state_rows


def check_arguments(run, dy, given, dstate):
    """The gradients that enter.

    run : _finite.Pass
    dy : (total, D*P) packed rows, or None; given : the same as the caller gave it, (T*B, D*P)
    dstate : tuple of (L*D, B, P) and (L*D, B, H), or None
    """
    if dy is not None and not is_finite(dy):
        places = used_rows_of_dy(run.batch, run.net)
        run.check_rows("dy", given[places], places)
        run.check_rows("the sum of dy over the steps that repeat an output", dy, packed_places(run.batch))
    if dstate is not None:
        run.check_state("dstate_n", dstate)


def check_results(run, tape, dy, dstate, found, grads):
    """The gradients that come out.

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
    net, batch, packed = run.net, run.batch, run.packed
    D = net.num_directions
    dh, dc = state_rows(net, packed, batch, dstate)
    unused = {name: np.zeros(array.shape, array.dtype) for name, array in run.layer.params.items()}
    for layer in range(net.num_layers - 1, -1, -1):
        below = run.rows if layer == 0 else output_on_tape(tape, batch, layer - 1)
        wants_dx = isinstance(below, np.ndarray) and (layer > 0 or need_x)
        dx = [np.zeros(below.shape, net.dtype) if wants_dx else None for _ in range(D)]
        for d in range(D):
            part = layer * D + d
            states = dh[part], None if dc is None else dc[part]
            _search_direction(run, tape, layer, d, below, dy, states, dx[d], unused)
        if wants_dx:
            dy = dx[0] if D == 1 else dx[0] + dx[1]
            if run.dropout is not None and layer > 0:
                run.dropout.apply(dy, batch, layer - 1)
            run.check_rows(f"the gradient of the input of {run.layer.kind} layer {layer}", dy, packed_places(batch))


def _search_direction(run, tape, layer, d, below, dy, states, dx, unused):
    """The steps of one layer and direction, each computed once more by itself."""
    net, batch, back = run.net, run.batch, run.net.runs_back(d)
    gates, h_prev, c_prev = on_tape(tape, batch, net, layer, d)
    for k in range(batch.T) if back else range(batch.T - 1, -1, -1):
        rows = slice(batch.offset[k], batch.offset[k + 1])
        n = rows.stop - rows.start
        if not n:
            continue
        one = even_batch(1, n)
        x = Tokens(below.ids[rows], below.table, below.rows) if isinstance(below, Tokens) else below[rows]
        context = run.context[:n] if run.context is not None and layer == 0 else None
        sweep = Sweep(net, run.packed, one, tape, layer, d, x, context, unused)
        sweep.tape = gates[rows], h_prev[rows], None if c_prev is None else c_prev[rows]
        scratch = Scratch(scratch_pool, scratch_layout(net, n, n, run.packed.Hp))
        own = [None if state is None else state[:n] for state in states]
        d_below = None if dx is None else dx[rows]
        _engine.backward_layer(sweep.prepare(scratch, None if dy is None else dy[rows], *own, d_below), 1)
        try:
            _check_step(run, layer, d, rows, scratch[f"dgates{d}"][:n], own, d_below)
        finally:
            scratch.release()
        _cut(batch, k, back, own)


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
    """No gradient crosses a reset: onward in time that of the step itself, backward that of the following step."""
    if batch.resets is None:
        return
    where = k + 1 if back else k
    if where < batch.T:
        cut = np.flatnonzero(batch.resets[batch.offset[where] : batch.offset[where + 1]])
        for state in states:
            if state is not None:
                state[cut[cut < len(state)]] = 0

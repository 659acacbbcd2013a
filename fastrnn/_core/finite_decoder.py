"""Where the first value of a decoder with attention is that is not finite; see _finite.py."""

from __future__ import annotations

import numpy as np

from fastrnn._core.finite import Pass, Step, first_of, is_finite, packed_places, refuse
from fastrnn._core.stack import output_on_tape


def arguments(decoder, batch, rows, state, context, memory, dropout):
    """The check of a pass, whose arguments are found to be finite.

    memory : _decoder.Memory; the others as for _finite.Pass
    """
    run = Pass(decoder.rnn, batch, rows, state, context, False, dropout)
    run.check_arguments(state is not None, decoder.params)
    run.check_rows("memory", memory.values, memory.places)
    return run


def results(run, decoding):
    """The states, attention weights, weighted sums and outputs of a Decoding, in this order at each step."""
    over, batch, net = decoding.over, decoding.batch, decoding.net
    if all(map(is_finite, (over["joined"], over["alpha"], over["a"], *decoding.state_n))):
        return
    M, top = decoding.sizes.M, net.num_layers - 1
    h = [output_on_tape(decoding.tape, batch, layer) for layer in range(top)] + [over["joined"][:, M:]]
    c = [
        run._c_after(decoding.tape, decoding.state_n, layer, 0) if net.cell.has_c else None
        for layer in range(net.num_layers)
    ]
    stages = [
        ("attention weights", "memory step", over["alpha"]),
        ("weighted sum of the memory", "feature", over["joined"][:, :M]),
    ]
    stages.append(("output", "feature", over["a"]))
    bad = [
        ~np.isfinite(values)
        for values in (*h, *(state for state in c if state is not None), *(values for *_, values in stages))
    ]
    wrong, count = (
        np.flatnonzero(np.any([one.any(1) for one in bad], axis=0)),
        first_of(int(sum(one.sum() for one in bad))),
    )
    row = wrong[np.argmin(packed_places(batch)[wrong])]
    place = run.step(packed_places(batch)[row])
    below = decoding.x
    for layer in range(net.num_layers):
        if not np.isfinite(h[layer][row]).all() or (c[layer] is not None and not np.isfinite(c[layer][row]).all()):
            step = Step(run, layer, 0, below, row, decoding.tape, exact=layer > 0 or not decoding.sizes.feeds)
            what, unit, value, why = step.first_wrong(h[layer][row], None if c[layer] is None else c[layer][row])
            raise FloatingPointError(
                f"AttentionDecoder, {run.layer.kind} layer {layer}, {what}, {place}, unit {unit}: {value} ({count}); "
                f"its inputs are finite: {why}"
            )
        below = h[layer]
    for what, axis, values in stages:
        if not np.isfinite(values[row]).all():
            index = int(np.flatnonzero(~np.isfinite(values[row]))[0])
            raise FloatingPointError(
                f"AttentionDecoder, {what}, {place}, {axis} {index}: {values[row, index]} ({count}); "
                "the states are finite"
            )


def backward_arguments(run, dy, dstate):
    """The gradients that enter: dy (total, F) packed rows, or None; and those of the final states."""
    if dy is not None:
        run.check_rows("dy", dy, packed_places(run.batch))
    if dstate is not None:
        run.check_state("dstate_n", dstate)


def gradients(run, dx, memory, d_memory, others, grads):
    """The gradients that come out. others : {name: array or None}; grads : {name: array} of the parameters."""
    if dx is not None:
        run.check_rows("the gradient of x", dx, packed_places(run.batch))
    run.check_rows("the gradient of memory", d_memory, memory.places)
    for name, array in others.items():
        if array is not None:
            refuse(f"the gradient of {name}", array)
    for name, array in grads.items():
        refuse(f"the gradient of the parameter {name}", array)

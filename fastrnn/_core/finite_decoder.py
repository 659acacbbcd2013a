"""Find the first value of a decoder with attention that is not finite. See finite.py."""

from __future__ import annotations

import numpy as np

from fastrnn._core.finite import CheckedCall, Step, first_of, is_finite, packed_places, refuse


def arguments(decoder, call, state, memory):
    """Check the arguments of a call; return its CheckedCall. memory : decoder.Memory"""
    run = CheckedCall(decoder.rnn, call, state, False)
    run.check_arguments(state is not None, decoder.params)
    run.check_rows("memory", memory.values, memory.places)
    return run


def results(run, decoding):
    """Check states, attention weights, weighted sums and outputs of a DecoderPass, in this order at each step."""
    over, batch, net = decoding.over, run.batch, run.net
    if all(map(is_finite, (over["joined"], over["alpha"], over["a"], *decoding.state_n))):
        return
    M, top = decoding.sizes.M, net.num_layers - 1
    h = [run.call.tape_output(decoding.tape, layer) for layer in range(top)] + [over["joined"][:, M:]]
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
    below = run.rows
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
    """Check the arguments of a backward pass: dy (total, F) packed rows, or None; the gradient of the final state."""
    if dy is not None:
        run.check_rows("dy", dy, packed_places(run.batch))
    if dstate is not None:
        run.check_state("dstate_n", dstate)


def gradients(run, dx, memory, d_memory, others, grads):
    """Check the results of a backward pass. others : {name: array or None}; grads : {name: array} of the parameters."""
    if dx is not None:
        run.check_rows("the gradient of x", dx, packed_places(run.batch))
    run.check_rows("the gradient of memory", d_memory, memory.places)
    for name, array in others.items():
        if array is not None:
            refuse(f"the gradient of {name}", array)
    for name, array in grads.items():
        refuse(f"the gradient of the parameter {name}", array)

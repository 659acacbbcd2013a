"""The argument checks of Stacked; the others are in _check.py."""

from __future__ import annotations

from collections.abc import Sequence

from fastrnn._check import described, size, state


def members(layers):
    """The layers of a Stacked, from the input on, as a tuple."""
    layers = tuple(layers)
    for k, layer in enumerate(layers):
        if not hasattr(layer, "cell"):
            raise TypeError(f"member {k} is {type(layer).__name__}, but it must be an RNN, GRU or LSTM")
        below = layers[max(0, k - 1)]
        if layer.dtype != below.dtype:
            raise TypeError(
                f"member {k} computes in {layer.dtype}, but the one below it in {below.dtype}: make all with one dtype="
            )
        if k and layer.input_size != below.output_size:
            raise ValueError(
                f"member {k} has input_size={layer.input_size}, but the one below it gives {below.output_size} features"
            )
        if layer.batch_first != below.batch_first:
            raise ValueError(
                f"member {k} has batch_first={layer.batch_first}, but the one below it {below.batch_first}: they must agree"
            )
        if k and layer.context_size:
            raise ValueError(
                f"member {k} was made with context_size={layer.context_size}, but a context enters at member 0 only"
            )
    if not layers or len({id(layer) for layer in layers}) < len(layers):
        raise ValueError(f"a Stacked needs one member or more, each another layer, got {len(layers)}")
    return layers


def side_by_side(layers, storage):
    """The storage in which the members of a Stacked lie one right after the other."""
    end = layers[0].slots["weight_ih_l0"].offset
    for k, layer in enumerate(layers):
        if layer.storage is not storage:
            raise ValueError(
                f"member {k} is in another storage than member 0, and not all are alone in theirs: make all with one storage="
            )
        if layer.slots["weight_ih_l0"].offset != end:
            raise ValueError(
                f"member {k} does not follow the one below it in their storage: make the members one right after the other"
            )
        end += layer.num_parameters
    return storage


def layer_sizes(hidden_size, num_layers):
    """The hidden size of all layers, or a list with that of each."""
    if not isinstance(hidden_size, Sequence) or isinstance(hidden_size, str):
        return size("hidden_size", hidden_size)
    if not len(hidden_size):
        raise ValueError("hidden_size has no layers: give at least one size")
    if num_layers not in (1, len(hidden_size)):
        raise ValueError(
            f"num_layers is {num_layers}, but hidden_size names {len(hidden_size)} layers: leave num_layers out"
        )
    return [size("hidden_size", one) for one in hidden_size]


def residual(layers, value):
    """Whether each member's input is added to its output, from a bool for all: never for the first."""
    for k, layer in enumerate(layers[1:] if value else (), 1):
        if layer.input_size != layer.output_size:
            raise ValueError(
                f"residual=True needs members whose output is as wide as their input, but member {k} is {layer!r}"
            )
    return bool(value)


def member_states(stack, name, value, B, unbatched):
    """The states of a Stacked's members, or None for each."""
    count = len(stack.layers)
    if value is None:
        return (None,) * count
    if not isinstance(value, (tuple, list)) or len(value) != count:
        raise ValueError(f"{name} of a Stacked is a tuple of its {count} members' states, got {described(value)}")
    for layer, member_state in zip(stack.layers, value):
        state(layer, name, member_state, B, unbatched)
    return tuple(value)

"""Checks of the arguments of Stacked."""

from __future__ import annotations

from collections.abc import Sequence

from fastrnn._check import described, size, state


def members(layers):
    """Check the members of a Stacked; returns them as a tuple."""
    layers = tuple(layers)
    for k, layer in enumerate(layers):
        if not hasattr(layer, "cell"):
            raise TypeError(f"member {k} is {type(layer).__name__}, but it must be an RNN, GRU or LSTM")
        below = layers[max(0, k - 1)]
        if layer.dtype != below.dtype:
            raise TypeError(
                f"member {k} computes in {layer.dtype}, but member {k - 1} in {below.dtype}: use the same dtype for all"
            )
        if k and layer.input_size != below.output_size:
            raise ValueError(
                f"member {k} has input_size={layer.input_size}, but member {k - 1} gives {below.output_size} features"
            )
        if layer.batch_first != below.batch_first:
            raise ValueError(
                f"member {k} has batch_first={layer.batch_first}, but member {k - 1} has {below.batch_first}: "
                "use the same for all"
            )
        if k and layer.context_size:
            raise ValueError(
                f"member {k} was made with context_size={layer.context_size}, but only member 0 can take a context"
            )
    if not layers or len({id(layer) for layer in layers}) < len(layers):
        raise ValueError(f"a Stacked needs at least one member, all different objects, got {len(layers)} members")
    return layers


def side_by_side(layers, storage):
    """Check that the members of a Stacked are one contiguous range of the storage; returns the storage."""
    end = layers[0].slots["weight_ih_l0"].offset
    for k, layer in enumerate(layers):
        if layer.storage is not storage:
            raise ValueError(
                f"member {k} has another storage than member 0, and one of them is shared with other layers: "
                "construct all members with the same storage="
            )
        if layer.slots["weight_ih_l0"].offset != end:
            raise ValueError(
                f"member {k} does not directly follow member {k - 1} in the storage: "
                "construct the members one after the other, with no other layer in between"
            )
        end += layer.num_parameters
    return storage


def layer_sizes(hidden_size, num_layers):
    """Check the hidden size of all layers, an int, or of each layer, a list."""
    if not isinstance(hidden_size, Sequence) or isinstance(hidden_size, str):
        return size("hidden_size", hidden_size)
    if not len(hidden_size):
        raise ValueError("hidden_size is empty: pass at least one size")
    if num_layers not in (1, len(hidden_size)):
        raise ValueError(
            f"num_layers is {num_layers}, but hidden_size has {len(hidden_size)} sizes: leave num_layers out"
        )
    return [size("hidden_size", one) for one in hidden_size]


def residual(layers, value):
    """Check that input and output of each member but the first have the same size, if `value`; returns it as bool."""
    for k, layer in enumerate(layers[1:] if value else (), 1):
        if layer.input_size != layer.output_size:
            raise ValueError(
                f"residual=True requires input and output of the same size, but member {k} maps {layer.input_size} to "
                f"{layer.output_size} features: {layer!r}"
            )
    return bool(value)


def member_states(stack, name, value, B, unbatched):
    """Check the state of a Stacked; returns a tuple with a state or None for each member."""
    count = len(stack.layers)
    if value is None:
        return (None,) * count
    if not isinstance(value, (tuple, list)) or len(value) != count:
        raise ValueError(f"{name} of a Stacked is a tuple of its {count} members' states, got {described(value)}")
    for layer, member_state in zip(stack.layers, value):
        state(layer, name, member_state, B, unbatched)
    return tuple(value)

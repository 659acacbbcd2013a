"""A model that is one recurrent node, run without anything in between: at one step the rest would take longer than the step."""

from __future__ import annotations

import numpy as np
from onnx import helper

from fastrnn.onnx._recurrence import STREAMED


def of(evaluator, types):
    """The short way for this graph; None if it has another form.

    types : {name: TypeProto} of the graph's inputs
    """
    node = evaluator.single()
    if node is None or node.recurrence is None or node.recurrence.fixed is None:
        return None
    settings, (layer, *others) = node.recurrence.settings, node.recurrence.fixed
    names = [*node.input, *[""] * (8 - len(node.input))]
    given = [name for name in (names[0], names[5], names[6]) if name]
    if others or settings.batch_first or names[4] or list(evaluator.input_names_) != given:
        return None
    whole = [helper.tensor_dtype_to_np_dtype(types[name].tensor_type.elem_type) == layer.dtype for name in given]
    return (
        Direct(node.recurrence, layer, names, types, list(node.output), evaluator.output_names_) if all(whole) else None
    )


class Direct:
    """One node with fixed weights, on sequences without lengths. What it can't take is for the general way.

    One direction forwards on few sequences is a stream's work, which costs less to call than the layer's; the outputs are the same.
    """

    def __init__(self, recurrence, layer, names, types, outputs, wanted):
        self.recurrence, self.layer, self.dtype = recurrence, layer, layer.dtype
        self.x, *states = names[0], *((names[5], names[6]) if layer.cell.has_c else (names[5],))
        self.states = [name for name in states if name]
        self.names = [self.x, *self.states]
        self.whole = len(self.states) in (0, len(states))  # all states are given, or none
        self.fixed = {
            name: [(k, d.dim_value) for k, d in enumerate(types[name].tensor_type.shape.dim) if d.HasField("dim_value")]
            for name in self.names
        }
        self.wanted = [outputs.index(name) for name in wanted]

    def __call__(self, inputs):
        """The wanted outputs; None if the general way is to take these inputs, or to say what is wrong with them."""
        if not isinstance(inputs, dict):
            inputs = (
                dict(zip(self.names, inputs))
                if isinstance(inputs, (list, tuple)) and len(inputs) == len(self.names)
                else {}
            )
        X = inputs.get(self.x)
        if not self.whole or len(inputs) != len(self.names) or not self._fits(self.x, X, 3):
            return None
        layer, (T, B, I) = self.layer, X.shape
        if not T or not B or I != layer.input_size:
            return None
        state = [inputs.get(name) for name in self.states]
        if not all(
            self._fits(name, s, 3) and s.shape == (layer.num_directions, B, layer.hidden_size)
            for name, s in zip(self.states, state)
        ):
            return None
        if B <= STREAMED and not (layer.bidirectional or layer.reverse):
            return self._streamed(X, state)
        y, final = layer(X, None if not state else tuple(state) if layer.cell.has_c else state[0])
        found = [y, *(final if layer.cell.has_c else (final,))]
        if 0 in self.wanted:
            found[0] = np.ascontiguousarray(
                y.reshape(T, B, layer.num_directions, layer.hidden_size).transpose(0, 2, 1, 3)
            )
        return [found[which] for which in self.wanted]

    def _streamed(self, X, state):
        stream, H = self.recurrence.take_stream(self.layer, X.shape[1]), self.layer.hidden_size
        if state:
            for to, value in zip((stream.h, stream.c), state):
                to[:, :, :H] = value
        else:
            stream.reset()
        y = stream.run(X)
        outputs = {0: lambda: y[:, None], 1: lambda: y[-1:].copy(), 2: lambda: np.array(stream.c[:, :, :H])}
        found = [outputs[which]() for which in self.wanted]
        self.recurrence.give_stream(self.layer, stream)
        return found

    def _fits(self, name, value, axes):
        """Whether it is an array of the dtype and of the sizes that the graph declares."""
        if type(value) is not np.ndarray or value.dtype != self.dtype or value.ndim != axes:
            return False
        shape = value.shape
        return all(shape[k] == size for k, size in self.fixed[name])

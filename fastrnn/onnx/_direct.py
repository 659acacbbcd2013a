"""A model that is one recurrent node, run without onnx's evaluator, which would take longer than a step of the node."""

from __future__ import annotations

import numpy as np
from onnx import helper


def of(evaluator, types):
    """The direct way for this graph; None if the graph has another form.

    Parameters
    ----------
    evaluator : Evaluator
        Of the graph.
    types : dict
        {name: TypeProto} of the graph's inputs.
    """
    node = evaluator.single()
    if node is None or node.recurrence is None or node.recurrence.fixed is None:
        return None
    settings, ((layer, *others), (short_calls, *_)) = node.recurrence.settings, node.recurrence.fixed
    names = [*node.input, *[""] * (8 - len(node.input))]
    given = [name for name in (names[0], names[5], names[6]) if name]
    if others or settings.batch_first or names[4] or list(evaluator.input_names_) != given:
        return None
    if any(helper.tensor_dtype_to_np_dtype(types[name].tensor_type.elem_type) != layer.dtype for name in given):
        return None
    return Direct(layer, short_calls, names, types, list(node.output), evaluator.output_names_)


class Direct:
    """One node with fixed weights, on sequences without lengths. The evaluator takes inputs that do not fit."""

    def __init__(self, layer, short_calls, names, types, outputs, wanted):
        self.layer, self.short_calls, self.dtype = layer, short_calls, layer.dtype
        self.x, *states = names[0], *((names[5], names[6]) if layer.cell.has_c else (names[5],))
        self.states = [name for name in states if name]
        self.names = [self.x, *self.states]
        self.is_complete = len(self.states) in (0, len(states))  # all states are given, or none
        self.declared_sizes = {
            name: [(k, d.dim_value) for k, d in enumerate(types[name].tensor_type.shape.dim) if d.HasField("dim_value")]
            for name in self.names
        }
        self.wanted = [outputs.index(name) for name in wanted]

    def __call__(self, inputs):
        """The wanted outputs; None if the evaluator has to take these inputs, or to say what is wrong with them."""
        if not isinstance(inputs, dict):
            if not isinstance(inputs, (list, tuple)) or len(inputs) != len(self.names):
                return None
            inputs = dict(zip(self.names, inputs))
        X = inputs.get(self.x)
        if not self.is_complete or len(inputs) != len(self.names) or not self._fits(self.x, X):
            return None
        layer, (T, B, I) = self.layer, X.shape
        if not T or not B or I != layer.input_size:
            return None
        state, shape = [inputs.get(name) for name in self.states], (layer.num_directions, B, layer.hidden_size)
        if not all(self._fits(name, s) and s.shape == shape for name, s in zip(self.states, state)):
            return None
        stream = self.short_calls.take(T, B)
        if stream is not None:
            return self._by_stream(stream, X, state)
        y, final = layer(X, None if not state else tuple(state) if layer.cell.has_c else state[0])
        found = [y, *(final if layer.cell.has_c else (final,))]
        if 0 in self.wanted:
            by_direction = y.reshape(T, B, layer.num_directions, layer.hidden_size)
            found[0] = np.ascontiguousarray(by_direction.transpose(0, 2, 1, 3))
        return [found[which] for which in self.wanted]

    def _by_stream(self, stream, X, state):
        """The wanted outputs of a short call; those that are not wanted are not copied."""
        H = self.layer.hidden_size
        if state:
            for to, value in zip((stream.h, stream.c), state):
                to[:, :, :H] = value
        else:
            stream.reset()
        y = stream.run(X)
        outputs = {0: lambda: y[:, None], 1: lambda: y[-1:].copy(), 2: lambda: np.array(stream.c[:, :, :H])}
        found = [outputs[which]() for which in self.wanted]
        self.short_calls.give(stream)
        return found

    def _fits(self, name, value):
        """Whether a value is an array of three axes, of the dtype and the sizes that the graph declares."""
        if type(value) is not np.ndarray or value.dtype != self.dtype or value.ndim != 3:
            return False
        shape = value.shape
        return all(shape[k] == size for k, size in self.declared_sizes[name])

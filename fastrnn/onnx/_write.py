"""Convert fastrnn layers to ONNX nodes, one for each layer of a network. The opposite direction is in _nodes.py.

Dimensions are those of _nodes.py, and P, the features of h: fewer than H if the layer has a projection.
"""

from __future__ import annotations

import numpy as np
from onnx import helper, numpy_helper

from fastrnn._core import cells
from fastrnn.onnx import _nodes

_NAMES = {ours: (name, len(numbers)) for name, (ours, *numbers) in _nodes.ACTIVATIONS.items()}


class Graph:
    """An ONNX graph under construction. Values are referred to by their names."""

    def __init__(self, dtype, opset):
        self.dtype, self.opset = np.dtype(dtype), opset
        self.nodes, self.initializers, self.inputs, self.outputs = [], [], [], []

    def node(self, op, inputs, outputs=1, **attributes):
        """Add a node; returns the name of its output, or the names if there are several."""
        name = f"{op}_{len(self.nodes)}"
        names = [f"{name}_{k}" for k in range(outputs)] if isinstance(outputs, int) else outputs
        self.nodes.append(helper.make_node(op, list(inputs), names, name=name, **attributes))
        return names[0] if len(names) == 1 else names

    def constant(self, name, array):
        """Add an initializer; floats become the graph's dtype."""
        array = np.asarray(array)
        name = f"{name}_{len(self.initializers)}"
        array = array.astype(self.dtype) if array.dtype.kind == "f" else array
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def input(self, name, shape, dtype=None):
        self.inputs.append(self._info(name, shape, dtype))
        return name

    def output(self, name, value, shape):
        """Make a value an output with this name."""
        self.nodes.append(helper.make_node("Identity", [value], [name], name=f"output_{name}"))
        self.outputs.append(self._info(name, shape, None))

    def _info(self, name, shape, dtype):
        return helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype or self.dtype)), shape
        )

    def transposed(self, value):
        """Swap the first two axes of a value: (B, T, …) from (T, B, …), or back."""
        return self.node("Transpose", [value], perm=[1, 0, 2])

    def model(self, name):
        graph = helper.make_graph(self.nodes, name, self.inputs, self.outputs, self.initializers)
        return helper.make_model(
            graph, producer_name="fastrnn", opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8
        )


def refusal(layer):
    """What ONNX has no counterpart for in this layer, or None."""
    if layer.context_size:
        return f"context_size={layer.context_size}: its context enters every step"
    for value in _activations(layer):
        if _onnx_activation(value) is None:
            return f"activation {value!r}, only {', '.join(_nodes.ACTIVATIONS)}"
    return None


def recurrent(graph, layer, x, lengths, state):
    """Add a layer with all of its num_layers; returns the names of y, and of h_n and c_n.

    x : (T, B, I)
    lengths : (B,), or "" if all sequences have all steps
    state : names of h_0, and of c_0 for an LSTM, (L*D, B, P) and (L*D, B, H); or None
    """
    L, D = layer.num_layers, layer.num_directions
    initial = [_parts(graph, s, L, D) for s in state] if state else []
    found = []
    for k in range(L):
        y, *states = _one(graph, layer, k, x, lengths, [parts[k] for parts in initial])
        found.append(states)
        if D == 1:
            x = graph.node("Squeeze", [y, graph.constant("axis", np.array([1]))])
        else:
            turned = graph.node("Transpose", [y], perm=[0, 2, 1, 3])
            x = graph.node("Reshape", [turned, graph.constant("shape", np.array([0, 0, D * layer.state_sizes[0]]))])
    return x, [graph.node("Concat", parts, axis=0) if L > 1 else parts[0] for parts in zip(*found)]


def _parts(graph, state, L, D):
    """The (D, B, …) parts of a state for each of the L layers."""
    if L == 1:
        return [state]
    return graph.node("Split", [state, graph.constant("split", np.full(L, D))], L, axis=0)


def _one(graph, layer, k, x, lengths, state):
    """Add layer k: its y (T, D, B, P), and its final states."""
    W, R, B, P, out = (None if a is None else graph.constant(name, a) for name, a in zip("WRBPp", tensors(layer, k)))
    if out is not None and state:  # the node has no projection: its state is the H units that h_0 is a projection of
        state = [graph.node("MatMul", [state[0], graph.constant("unprojected", _unprojected(layer, k))]), state[1]]
    inputs = [x, W, R, B or "", lengths, *(state or [""] * len(layer.cell.states)), P or ""]
    while not inputs[-1]:
        inputs.pop()
    y, *states = graph.node(layer.kind, inputs, 1 + len(layer.cell.states), **attributes(layer))
    if out is not None:
        y, states[0] = (graph.node("MatMul", [value, out]) for value in (y, states[0]))
    return y, *states


def _unprojected(layer, k):
    """(D, P, H): for each direction, the matrix that maps h to units whose projection is h again."""
    made = []
    for suffix in _suffixes(layer, k):
        w = layer.params["weight_hr" + suffix].astype(np.float64)
        if np.linalg.matrix_rank(w) < len(w):
            raise ValueError(
                f"weight_hr{suffix} has dependent rows, so no units of the node have h_0 as their projection: "
                "export with state=False"
            )
        made.append(np.linalg.pinv(w).T)
    return np.stack(made)


def _suffixes(layer, k):
    return [f"_l{k}", f"_l{k}_reverse"][: layer.num_directions]


def tensors(layer, k):
    """W, R, B and P in ONNX's layout and the projection (D, H, P); None for those that layer k does not have."""
    kind, H, params = _nodes.KINDS[layer.kind], layer.hidden_size, layer.params
    coupled = getattr(layer, "coupled", False)
    gates = _nodes.COUPLED_GATES if coupled else kind.gates
    peepholes = _nodes.COUPLED_PEEPHOLES if coupled else _nodes.PEEPHOLES
    suffixes = _suffixes(layer, k)

    def theirs(array, order, blocks):
        out = np.zeros((blocks, H, *array.shape[1:]), array.dtype)
        out[list(order)] = array.reshape(-1, H, *array.shape[1:])
        return out.reshape(-1, *array.shape[1:])

    def stacked(name, order, blocks):
        return np.stack([theirs(params[name + s], order, blocks) for s in suffixes])

    W, R = (stacked(name, gates, kind.blocks) for name in ("weight_ih", "weight_hh"))
    B = P = out = None
    if layer.bias:
        B = np.concatenate([stacked(name, gates, kind.blocks) for name in ("bias_ih", "bias_hh")], axis=1)
    if layer.cell.peephole:
        P = stacked("weight_peephole", peepholes, 3)
    if layer.cell.proj_size:
        projection = np.stack([params["weight_hr" + s] for s in suffixes])
        R, out = R @ projection, projection.transpose(0, 2, 1)
    return W, R, B, P, out


def attributes(layer):
    """The attributes of a layer's nodes.

    Activations that take numbers always get them, because onnxruntime does not use ONNX's defaults.
    """
    made = {"hidden_size": layer.hidden_size}
    made["direction"] = "bidirectional" if layer.bidirectional else "reverse" if layer.reverse else "forward"
    if layer.clip is not None:
        made["clip"] = float(layer.clip)
    if getattr(layer, "coupled", False):
        made["input_forget"] = 1
    if layer.kind == "GRU":
        made["linear_before_reset"] = int(layer.reset_after)
    activations = [_onnx_activation(value) for value in _activations(layer)] * layer.num_directions
    if tuple(name for name, *_ in activations) != _nodes.KINDS[layer.kind].activations * layer.num_directions:
        made["activations"] = [name for name, *_ in activations]
        for which, at in (("activation_alpha", 1), ("activation_beta", 2)):
            numbers = [f[at] for f in activations if len(f) > at]
            made |= {which: numbers} if numbers else {}
    return made


def _activations(layer):
    """The activations of a layer, in ONNX's order."""
    if layer.kind == "RNN":
        return [layer.nonlinearity]
    return [layer.recurrent_activation, layer.activation] + (
        [layer.output_activation or layer.activation] if layer.kind == "LSTM" else []
    )


def _onnx_activation(value):
    """(name, alpha, beta), with as many numbers as ONNX's activation takes; None if ONNX has no such activation."""
    name = value if isinstance(value, str) else value[0]
    if name == "linear":
        return "Affine", 1.0, 0.0
    if name not in _NAMES:
        return None
    theirs, count = _NAMES[name]
    return (theirs, *cells.function("activation", value)[1:][:count])

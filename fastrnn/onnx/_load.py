"""Load an ONNX model that is a chain of recurrent nodes as one fastrnn network.

The operators between the nodes (Squeeze, Transpose, Reshape, slices of a state) differ between exporters, so they are
not matched as patterns. Instead, the model is run on random sequences, and the input of each node must equal the output
of the node before it.
"""

from __future__ import annotations

import math
import os

import numpy as np
import onnx

from fastrnn._files import foreign
from fastrnn.layers.recurrent import Recurrent
from fastrnn.layers.stacked import Stacked
from fastrnn.onnx import _model, _nodes, _verify
from fastrnn.onnx._evaluator import tried

T, B = 6, 3
MOST_TRIED = 64 << 20  # bytes of all values in a trial run, in addition to 16 times the size of the model
BETWEEN = {  # operators that move numbers without changing them
    "Cast", "Concat", "Constant", "ConstantOfShape", "Dropout", "Expand", "Flatten", "Gather", "Identity", "Reshape",
    "Shape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip


def load(source: str | os.PathLike | bytes | onnx.ModelProto, *, verify: bool = True) -> Recurrent | Stacked:
    """Load an ONNX model that is one recurrent stack, such as torch's export of nn.RNN, nn.GRU or nn.LSTM.

    Parameters
    ----------
    source : path, bytes or onnx.ModelProto
        The path of a file, the content of a file, or a model.
    verify : bool, default True
        Whether to compare the outputs on random sequences with those of the model before the network is returned. The
        model is run by `prepare` and by onnxruntime, if that is installed and supports the model.

    Returns
    -------
    RNN, GRU, LSTM or Stacked
        A Stacked if the layers differ. It is `batch_first` if the model is. If the model takes an initial state, so
        does a call of the network. A constant initial state becomes `learn_initial_state`.

    Raises
    ------
    NotImplementedError
        If the model contains anything else. The message names it. `prepare` runs such models.
    ValueError
        If the file is damaged, a tensor is missing, unused or of a wrong shape, or verification failed.

    Examples
    --------
    >>> import fastrnn, fastrnn.onnx
    >>> model = fastrnn.onnx.export(fastrnn.LSTM(3, 4, 2, bidirectional=True))
    >>> fastrnn.onnx.load(model)
    LSTM(3, 4, num_layers=2, bidirectional=True)
    """
    return load_compared(source, verify)[0]


def load_compared(source, verify=True):
    """`load`; returns the network and a text that says what it was compared with."""
    with foreign.reading(_model.label(source)):
        return _compared(_model.checked(_model.read(source)), verify)


def _compared(model, verify):
    chain = _Chain(model)
    most = MOST_TRIED + 16 * model.ByteSize()
    feeds = chain.probe(most)
    seen = tried(model, feeds, most)
    chain.seen = seen
    specs = chain.specs(model, seen)
    chain.check_links(seen)
    net = _network(specs, chain.batch_first)
    if not verify:
        return net, "nothing was compared"
    _compare(chain, net, feeds, seen, "this model's own nodes")
    theirs = _verify.by_onnxruntime(model, feeds)
    if theirs is None:
        return net, (
            "outputs on random input agree with those of fastrnn.onnx.prepare, which reads the nodes' tensors in the "
            "same way; they were NOT compared with onnxruntime, which is not installed or does not run this model"
        )
    _compare(chain, net, feeds, dict(zip((o.name for o in model.graph.output), theirs)), "onnxruntime")
    return net, "outputs on random input agree with onnxruntime's"


def _hidden(nodes, functions):
    """The first recurrent node in a subgraph or a function of the model, and where it is, as a text; "" without one."""
    bodies = [(_nodes.where(node), graph.node) for node in nodes for a in node.attribute for graph in (a.g, *a.graphs)]
    bodies += [(f"the function {f.name!r}", f.node) for f in functions]
    for outer, inside in bodies:
        for node in inside:
            if node.domain == "" and node.op_type in _nodes.KINDS:
                return f"{_nodes.where(node)} lies inside {outer}"
        deeper = _hidden(inside, ())
        if deeper:
            return f"{deeper} inside {outer}"
    return ""


class _Chain:
    """The recurrent nodes of a graph, and where their inputs come from."""

    def __init__(self, model):
        self.graph = graph = model.graph
        self.nodes = [node for node in graph.node if node.domain == "" and node.op_type in _nodes.KINDS]
        hidden = _hidden(graph.node, model.functions)
        if hidden:
            raise NotImplementedError(
                f"{hidden}, but load takes chains of nodes of the main graph: prepare(model) runs it"
            )
        if not self.nodes:
            raise NotImplementedError(
                "the model has no RNN, GRU or LSTM node, so there is no network to load: prepare(model) runs it"
            )
        others = sorted(
            {n.op_type for n in graph.node if n not in self.nodes and (n.domain or n.op_type not in BETWEEN)}
        )
        if others:
            raise NotImplementedError(
                f"the model is more than a recurrent stack: it has {', '.join(others)}; prepare(model) runs it"
            )
        self.constants = {t.name for t in graph.initializer}
        self.inputs = {i.name: i for i in graph.input if i.name not in self.constants}
        self.producer = {name: node for node in graph.node for name in node.output if name}
        used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
        left = [name for name in (*self.constants, *self.inputs) if name not in used]
        if left:
            raise ValueError(f"the model has tensors that nothing uses: {', '.join(map(repr, sorted(left)))}")
        self.x, self.batch_first = self._source()

    def _source(self):
        """The name of the graph's input that the first node reads, and whether it is (B, T, I)."""
        first = self.nodes[0]
        name, swapped = first.input[0], bool(_nodes.attributes_of(first).get("layout"))
        while name not in self.inputs:
            node = self.producer.get(name)
            if node is None or node.op_type not in ("Transpose", "Identity"):
                origin = node.op_type if node else name
                raise NotImplementedError(
                    f"{_nodes.where(first)}: X is not an input of the model, but comes from {origin}"
                )
            if node.op_type == "Transpose":
                perm = _nodes.attributes_of(node).get("perm")
                if perm != [1, 0, 2]:
                    raise NotImplementedError(f"{_nodes.where(first)}: X is transposed by {perm}, not by [1, 0, 2]")
                swapped = not swapped
            name = node.input[0]
        return name, swapped

    def sources(self, name):
        """The inputs of the graph that this value is computed from, except through their shapes."""
        found, todo, done = set(), [name], set()
        while todo:
            name = todo.pop()
            if name in done:
                continue
            done.add(name)
            if name in self.inputs:
                found.add(name)
            node = self.producer.get(name)
            if node is not None and node.op_type != "Shape":
                todo += [n for n in node.input if n]
        return found

    def probe(self, most):
        """{input: array} of random numbers, with the declared sizes if there are any.

        most : bytes that one array may take
        """
        rng = np.random.default_rng(0)
        others = {name: i.type.tensor_type.shape.dim for name, i in self.inputs.items() if name != self.x}
        states = [dims for dims in others.values() if len(dims) == 3]
        fixed = [dims[1].dim_value for dims in states if dims[1].HasField("dim_value")]
        batch = fixed[0] if fixed and not self.batch_first else B
        default = ((batch, T) if self.batch_first else (T, batch)) + (self._features(),)
        shapeless = [name for name, i in self.inputs.items() if not i.type.tensor_type.HasField("shape")]
        if shapeless:
            raise NotImplementedError(
                f"input {shapeless[0]!r} has no shape, so load does not know which input to try: prepare(model) runs it"
            )
        dims = self.inputs[self.x].type.tensor_type.shape.dim
        shape = [d.dim_value if d.HasField("dim_value") else size for d, size in zip(dims, default)]
        if len(dims) != 3 or min(shape) < 1:
            raise ValueError(
                f"input {self.x!r} has shape {shape}, but a recurrent node takes three axes, none of size 0"
            )
        batch, steps = shape[:2] if self.batch_first else shape[1::-1]
        feeds = {self.x: self._random(self.x, shape, rng, most)}
        for name, dims in others.items():
            a = self._random(name, [d.dim_value if d.HasField("dim_value") else batch for d in dims], rng, most)
            if a.dtype.kind == "i":  # lengths, of which the first is that of x
                a = (steps - np.arange(a.size) % steps).reshape(a.shape).astype(a.dtype)
            feeds[name] = a
        return feeds

    def _random(self, name, shape, rng, most):
        if min(shape, default=1) < 0 or 8 * math.prod(shape) > most:
            raise ValueError(
                f"input {name!r} has shape {tuple(shape)}, which is too large for a trial run: declare no fixed "
                "numbers of steps and rows in the model; prepare(model) runs it"
            )
        dtype = onnx.helper.tensor_dtype_to_np_dtype(self.inputs[name].type.tensor_type.elem_type)
        return (rng.standard_normal(shape) / 2).astype(dtype)

    def _features(self):
        shapes = {t.name: t.dims for t in self.graph.initializer}
        W = shapes.get(self.nodes[0].input[1], ())
        return W[2] if len(W) == 3 else 1

    def value(self, seen, node, k):
        """The value of a node's k-th input, or None."""
        return seen[node.input[k]] if k < len(node.input) and node.input[k] else None

    def specs(self, model, seen):
        """The LayerSpec of each node's layer, with the initial state if it is part of the model."""
        made, opset = [], {o.domain: o.version for o in model.opset_import}[""]
        for node in self.nodes:
            _nodes.check_attributes(node, opset)
            for label, k in (("W", 1), ("R", 2), ("B", 3), ("P", 7)):
                if k < len(node.input) and self.sources(node.input[k]):
                    raise NotImplementedError(
                        f"{_nodes.where(node)}: {label} depends on the model's inputs, so it is not a parameter"
                    )
            settings = _nodes.read(node, _nodes.attributes_of(node))
            spec, *other = _nodes.specs(settings, *(self.value(seen, node, k) for k in (1, 2, 3, 7)))
            if other:
                raise NotImplementedError(
                    f"{settings.where} has other activations in its second direction, which no layer supports; "
                    "prepare(model) runs it"
                )
            broken = next((name for name, a in spec.params.items() if not np.isfinite(a).all()), None)
            if broken is not None:
                raise ValueError(f"{settings.where}: its tensors have values that are NaN or infinite (in {broken})")
            self._add_state(spec, node, settings, seen)
            made.append(spec)
        return made

    def _add_state(self, spec, node, settings, seen):
        states = self.states(settings, node, seen)
        given = [name for k in (5, 6) if k < len(node.input) and node.input[k] for name in self.sources(node.input[k])]
        if self.x in given:
            raise NotImplementedError(
                f"{settings.where}: the initial state depends on {self.x!r}, which no network supports; "
                "prepare(model) runs it"
            )
        spec.options["learn_initial_state"] = bool(not given and any(s.any() for s in states))
        if spec.options["learn_initial_state"]:
            if any((s != s[:, :1]).any() for s in states):
                raise NotImplementedError(
                    f"{settings.where}: the initial state is constant, but differs between the sequences of the batch"
                )
            spec.params |= {name: s[:, 0] for name, s in zip(("h_0", "c_0"), states)}

    def states(self, settings, node, seen):
        """The initial states of a node, each (D, B, H)."""
        X, R = self.value(seen, node, 0), self.value(seen, node, 2)
        shape = (R.shape[0], X.shape[0 if settings.batch_first else 1], R.shape[2])
        found = []
        for k in (5, 6)[: 2 if node.op_type == "LSTM" else 1]:
            s = self.value(seen, node, k)
            found.append(np.zeros(shape, X.dtype) if s is None else s.transpose(1, 0, 2) if settings.batch_first else s)
        return found

    def check_links(self, seen):
        """Raise if the input of a node is not the output of the one before it, or the lengths are not the same."""
        below = seen[self.x].swapaxes(0, 1) if self.batch_first else seen[self.x]
        lengths = self.value(seen, self.nodes[0], 4)
        T = len(below)
        if lengths is not None and not self.sources(self.nodes[0].input[4]) and (lengths != T).any():
            where = _nodes.where(self.nodes[0])
            raise NotImplementedError(
                f"{where}: its sequence_lens are part of the model, and not all of them are {T}, the number of steps; "
                "prepare(model) runs it"
            )
        for node in self.nodes:
            layout = bool(_nodes.attributes_of(node).get("layout"))
            X, own = self.value(seen, node, 0), self.value(seen, node, 4)
            X = X.swapaxes(0, 1) if layout else X
            if not np.array_equal(X, below):
                raise NotImplementedError(
                    f"{_nodes.where(node)}: its X, of shape {X.shape}, is not the output of the node before it, "
                    f"of shape {below.shape}"
                )
            if (own is None) != (lengths is None) or (own is not None and not np.array_equal(own, lengths)):
                raise NotImplementedError(f"{_nodes.where(node)}: its sequence_lens are not those of the first node")
            Y = seen.get(node.output[0]) if node.output[0] else None
            if Y is not None:
                Y = Y.transpose((1, 0, 2, 3) if layout else (0, 2, 1, 3))
                below = Y.reshape(*Y.shape[:2], -1)


def _network(specs, batch_first):
    """One layer if all specs are alike, else a Stacked."""
    groups = []
    for spec in specs:
        last = groups[-1] if groups else None
        if last and (spec.cls, spec.hidden_size, spec.options) == (last[0].cls, last[0].hidden_size, last[0].options):
            last.append(spec)
        else:
            groups.append([spec])
    layers = [_merged(group, batch_first) for group in groups]
    return layers[0] if len(layers) == 1 else Stacked(layers)


def _merged(group, batch_first):
    first = group[0]
    layer = first.cls(first.input_size, first.hidden_size, len(group), batch_first=batch_first, **first.options)
    params = {name.replace("_l0", f"_l{k}"): a for k, spec in enumerate(group) for name, a in spec.params.items()}
    for name in layer.cell.states if layer.learn_initial_state else ():
        params[name] = np.concatenate([spec.params[name] for spec in group])
    layer.load_state_dict(params)
    return layer


def _compare(chain, net, feeds, seen, runtime):
    """Raise a ValueError if an output of the model is none of the outputs and states of the network.

    seen : {output: array} of the model, as `runtime` computed them
    """
    lengths = chain.value(chain.seen, chain.nodes[0], 4)
    nodes, state = iter(chain.nodes), []
    for layer in getattr(net, "layers", [net]):
        of_nodes = [
            chain.states(_nodes.read(node, _nodes.attributes_of(node)), node, chain.seen)
            for _, node in zip(range(layer.num_layers), nodes)
        ]
        joined = tuple(map(np.concatenate, zip(*of_nodes)))
        state.append(joined if layer.cell.has_c else joined[0])
    results = list(
        _results(net, *net(feeds[chain.x], tuple(state) if isinstance(net, Stacked) else state[0], lengths=lengths))
    )
    for output in chain.graph.output:
        got = seen[output.name]
        distances = [_verify.distance(got.reshape(a.shape), a) for a in results if a.size == got.size]
        if not any(worst <= limit for worst, limit in distances):
            nearest = f"the nearest differs by up to {min(distances)[0]:.3g}" if distances else "none has its size"
            raise ValueError(
                f"verification failed: output {output.name!r} of the model by {runtime}, of shape {got.shape}, is "
                f"none of the network's outputs and states: {nearest}; verify=False skips this comparison"
            )


def _results(net, y, final):
    """The arrays that a model's output may be: y, and the states of all layers, of one layer or of all members.

    Each of them also with batch and time swapped.
    """
    members = list(getattr(net, "layers", [net]))
    finals = [
        f if layer.cell.has_c else (f,) for layer, f in zip(members, final if isinstance(net, Stacked) else [final])
    ]
    directions = y.reshape(*y.shape[:2], members[-1].num_directions, -1)
    found = [y, directions] + [s for of_one in finals for s in of_one]
    found += [part for layer, of_one in zip(members, finals) for s in of_one for part in np.split(s, layer.num_layers)]
    found += [np.concatenate(s) for s in zip(*finals) if len({a.shape[2] for a in s}) == 1]
    for a in found:
        yield a
        yield a.swapaxes(0, 1)
    yield directions.transpose(0, 2, 1, 3)
    yield directions.transpose(1, 2, 0, 3)

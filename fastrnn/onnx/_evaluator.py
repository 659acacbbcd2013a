"""onnx's reference evaluator with fastrnn's recurrent nodes, also in functions and in bodies of Loop, If and Scan."""

from __future__ import annotations

import numpy as np
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from fastrnn.onnx import _guard, _nodes
from fastrnn.onnx._recurrence import Recurrence


class _Node(OpRun):
    """A recurrent node, as ReferenceEvaluator runs it."""

    def __init__(self, onnx_node, run_params, schema=None):
        super().__init__(onnx_node, run_params, schema)
        _nodes.check_attributes(onnx_node, run_params["opsets"][""])
        self._values = _nodes.attributes_of(onnx_node)
        self.recurrence = None if self.has_linked_attribute else Recurrence(_nodes.read(onnx_node, self._values))

    def run(self, *args, linked_attributes=None, context=None, bindings=None):
        """The outputs of the node, None for those that have no name."""
        recurrence = self.recurrence
        if recurrence is None:  # some attributes are those of the function that contains this node
            given = linked_attributes or {}
            references = {a.name: a.ref_attr_name for a in self.onnx_node.attribute if a.ref_attr_name}
            missing = next((name for name, of in references.items() if of not in given), None)
            if missing is not None:
                raise ValueError(
                    f"{_nodes.where(self.onnx_node)}: its attribute {missing} refers to the attribute "
                    f"{references[missing]!r} of a function, which is not given"
                )
            links = {name: given[of] for name, of in references.items()}
            recurrence = Recurrence(_nodes.read(self.onnx_node, self._values | links))
        return [y if name else None for name, y in zip(self.output, recurrence(*args))]

    def _run(self, *args, **attributes):
        return tuple(self.run(*args))


class RNN(_Node):
    """ONNX's RNN."""


class GRU(_Node):
    """ONNX's GRU."""


class LSTM(_Node):
    """ONNX's LSTM."""


class Evaluator(ReferenceEvaluator):
    """ReferenceEvaluator with fastrnn's recurrent nodes and read-only initializers."""

    budget = None  # limits the bytes of all values in a trial run

    def __init__(self, proto, **options):
        super().__init__(proto, **{**options, "new_ops": [RNN, GRU, LSTM]})

    def _init(self):
        super()._init()
        for node in self.rt_nodes_:
            _guard.guard(node, self.budget, own=isinstance(node, _Node) and self.budget is None)
        for array in self.rt_inits_.values():
            if isinstance(array, np.ndarray):
                array.flags.writeable = False
        for node in self.rt_nodes_:
            if isinstance(node, _Node) and node.recurrence is not None:
                self._build(node)

    def single(self):
        """The node, if the graph is one recurrent node, else None."""
        node = self.rt_nodes_[0] if len(self.rt_nodes_) == 1 else None
        return node if isinstance(node, _Node) and set(self.output_names_) <= set(node.output) else None

    def results(self, feeds):
        """The outputs of the graph; for a single recurrent node without the evaluator's bookkeeping."""
        node = self.single()
        if node is None:
            return self.run(None, feeds)
        values = {"": None, **self.rt_inits_, **feeds}
        found = dict(zip(node.output, node.run(*(values[name] for name in node.input))))
        return [found[name] for name in self.output_names_]

    def _build(self, node):
        """Make the layers of a node now if its weights are initializers that no input of the graph overrides."""
        found = dict(zip(("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"), node.input))
        names = [found.get(label) or None for label in ("W", "R", "B", "P")]
        if all(n is None or (n in self.rt_inits_ and n not in self.input_names_) for n in names):
            node.recurrence.fixed = node.recurrence.layers(*(None if n is None else self.rt_inits_[n] for n in names))


def tried(model, feeds, most):
    """{name: value} of all values of a graph, computed from `feeds`; an error if they take more than `most` bytes."""
    made = type("Tried", (Evaluator,), {"budget": _guard.Budget(most)})(model)
    return made.run(None, feeds, intermediate=True)

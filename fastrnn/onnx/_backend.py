"""ONNX's backend interface: prepare a model or a node, and run it."""

from __future__ import annotations

import numpy as np
import onnx
from onnx.backend.base import Backend as Base
from onnx.backend.base import BackendRep as BaseRep
from onnx.backend.base import namedtupledict

from fastrnn._files import foreign
from fastrnn.onnx import _direct, _model
from fastrnn.onnx._evaluator import Evaluator


class BackendRep(BaseRep):
    """A model that is ready to run; made by `prepare`."""

    def __init__(self, model):
        self._evaluator = Evaluator(model)
        graph = model.graph
        given = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
        self._types = {i.name: i.type for i in graph.input}
        self.input_names = [i.name for i in graph.input if i.name not in given]
        self.output_names = [o.name for o in graph.output]
        self._results = namedtupledict("Outputs", self.output_names)
        self._direct = _direct.of(self._evaluator, self._types)

    def run(self, inputs, **kwargs):
        """Run the model.

        Parameters
        ----------
        inputs : a list of arrays, in the order of the graph's inputs that are no initializers; or {name: array}; or one array

        Returns
        -------
        A named tuple of the graph's outputs.

        Raises
        ------
        TypeError, ValueError  an input is missing, unknown, of another dtype or shape, or does not fit an operator of the
            model; the message names it.
        NotImplementedError    an operator can't do what the model asks of it; the message names the node.

        Notes
        -----
        A model computes as much and as long as its operators say: one that loops without end does not end here either.
        """
        if kwargs:
            raise TypeError(f"run takes the inputs only, but got {', '.join(kwargs)}")
        found = None if self._direct is None else self._direct(inputs)
        return self._results(*(self._evaluated(self._feeds(inputs)) if found is None else found))

    def _evaluated(self, feeds):
        try:
            return self._evaluator.results(feeds)
        except NotImplementedError:
            raise
        except (KeyError, RuntimeError) as error:  # a value that no node gives
            raise ValueError(
                f"the model can't be run: {type(error).__name__}: {' '.join(str(error).split())[:500]}"
            ) from error

    def _feeds(self, inputs):
        names = self.input_names
        if isinstance(inputs, dict):
            missing = [n for n in names if n not in inputs]
            unknown = [n for n in inputs if n not in self._types]
            if missing or unknown:
                raise ValueError(
                    f"the inputs do not fit this model: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}; it takes {names}"
                )
            feeds = inputs
        else:
            inputs = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
            if len(inputs) != len(names):
                raise ValueError(f"got {len(inputs)} inputs, but this model takes {len(names)}: {names}")
            feeds = dict(zip(names, inputs))
        return {name: _model.check_value(name, value, self._types[name]) for name, value in feeds.items()}


class Backend(Base):
    """fastrnn as an ONNX backend: its recurrence for RNN, GRU and LSTM, onnx's reference for the other operators."""

    @classmethod
    def supports_device(cls, device):
        """Whether it can compute there: "CPU"."""
        return device.split(":")[0] == "CPU"

    @classmethod
    def is_compatible(cls, model, device="CPU", **kwargs):
        """Whether `prepare` takes this model."""
        try:
            cls.prepare(model, device, **kwargs)
        except (NotImplementedError, TypeError, ValueError):
            return False
        return True

    @classmethod
    def prepare(cls, model, device="CPU", **kwargs):
        """Check a model and make it ready to run.

        Parameters
        ----------
        model : ModelProto, its bytes, or a file's path
        device : "CPU"

        Returns
        -------
        BackendRep

        Raises
        ------
        NotImplementedError  the model has an operator, activation or element type, or the device is one, that fastrnn does not have.
        ValueError           the file is no ONNX model, or breaks ONNX's rules; the message names the node.
        """
        cls._refuse(device, kwargs)
        with foreign.reading(_model.label(model)):
            return BackendRep(_model.checked(_model.read(model)))

    @classmethod
    def run_model(cls, model, inputs, device="CPU", **kwargs):
        """Prepare a model and run it once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(cls, node, inputs, device="CPU", outputs_info=None, opset_version=None, **kwargs):
        """Run one node.

        Parameters
        ----------
        node : NodeProto
        inputs : one array for each of the node's inputs that has a name
        outputs_info : not needed
        opset_version : int, by default the newest that onnx knows
        """
        cls._refuse(device, kwargs)
        names = [n for n in node.input if n]
        inputs = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        if len(inputs) != len(names):
            raise ValueError(f"got {len(inputs)} inputs, but this node takes {len(names)}: {names}")
        with foreign.reading("this node"):
            model = _model.of_node(
                node, dict(zip(names, map(np.asarray, inputs))), opset_version or onnx.defs.onnx_opset_version()
            )
            made = BackendRep(_model.checked(_model.read(model)))
        return made.run(inputs)

    @classmethod
    def _refuse(cls, device, kwargs):
        if not cls.supports_device(device):
            raise NotImplementedError(f"device is {device!r}, but fastrnn computes on the CPU: give 'CPU'")
        if kwargs:
            raise TypeError(f"fastrnn's backend has no options, but got {', '.join(kwargs)}")


prepare = Backend.prepare
run_model = Backend.run_model
run_node = Backend.run_node
supports_device = Backend.supports_device

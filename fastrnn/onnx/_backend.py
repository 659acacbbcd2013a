"""ONNX's backend interface: prepare a model or a node, and run it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend as Base
from onnx.backend.base import BackendRep as BaseRep
from onnx.backend.base import namedtupledict

from fastrnn._files import foreign
from fastrnn.onnx import _direct, _model
from fastrnn.onnx._evaluator import Evaluator

Model = onnx.ModelProto | bytes | str | os.PathLike
Inputs = Sequence[Any] | Mapping[str, Any] | np.ndarray


class BackendRep(BaseRep):
    """A model that is ready to run. `prepare` makes it.

    Parameters
    ----------
    model : onnx.ModelProto
        A model that `prepare` has checked.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._evaluator = Evaluator(model)
        graph = model.graph
        given = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
        self._types = {i.name: i.type for i in graph.input}
        self.input_names = [i.name for i in graph.input if i.name not in given]
        self.output_names = [o.name for o in graph.output]
        self._results = namedtupledict("Outputs", self.output_names)
        self._direct = _direct.of(self._evaluator, self._types)

    def run(self, inputs: Inputs, **kwargs: Any) -> tuple[Any, ...]:
        """Run the model.

        Parameters
        ----------
        inputs : sequence of arrays, dict of arrays by name, or array
            A sequence has the order of the graph's inputs that are not initializers. An array is the only input.
        **kwargs : dict
            No options exist: any is a TypeError.

        Returns
        -------
        namedtuple
            The outputs of the graph.

        Raises
        ------
        TypeError
            If an input has another dtype than the model declares.
        ValueError
            If an input is missing, unknown, or has another shape than the model declares, or does not fit an operator.
            The message names it.
        NotImplementedError
            If an operator cannot do what the model asks for. The message names the node.

        Notes
        -----
        There is no limit on time or memory: a model with an endless loop does not return.
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
        except (KeyError, RuntimeError) as error:  # a value that no node computes
            text = " ".join(str(error).split())[:500]
            raise ValueError(f"the model can't be run: {type(error).__name__}: {text}") from error

    def _feeds(self, inputs):
        names = self.input_names
        if isinstance(inputs, dict):
            missing = [n for n in names if n not in inputs]
            unknown = [n for n in inputs if n not in self._types]
            if missing or unknown:
                raise ValueError(
                    f"the inputs do not fit this model: missing {missing or 'nothing'}, "
                    f"unknown {unknown or 'nothing'}; it takes {names}"
                )
            feeds = inputs
        else:
            inputs = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
            if len(inputs) != len(names):
                raise ValueError(f"got {len(inputs)} inputs, but this model takes {len(names)}: {names}")
            feeds = dict(zip(names, inputs))
        return {name: _model.check_value(name, value, self._types[name]) for name, value in feeds.items()}


class Backend(Base):
    """The ONNX backend: fastrnn computes RNN, GRU and LSTM nodes, onnx's reference evaluator the other operators."""

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Say whether the backend can compute on a device.

        Parameters
        ----------
        device : str
            Such as "CPU" or "CUDA:1".

        Returns
        -------
        bool
            True for "CPU" only.
        """
        return device.split(":")[0] == "CPU"

    @classmethod
    def is_compatible(cls, model: Model, device: str = "CPU", **kwargs: Any) -> bool:
        """Say whether `prepare` accepts a model.

        Parameters
        ----------
        model : onnx.ModelProto, bytes or path
            The model, its serialised form, or the path of its file.
        device : str, default "CPU"
            Only "CPU" is supported.
        **kwargs : dict
            No options exist: any is a TypeError, and the answer is False.

        Returns
        -------
        bool
            False if `prepare` would raise NotImplementedError, TypeError or ValueError.
        """
        try:
            cls.prepare(model, device, **kwargs)
        except (NotImplementedError, TypeError, ValueError):
            return False
        return True

    @classmethod
    def prepare(cls, model: Model, device: str = "CPU", **kwargs: Any) -> BackendRep:
        """Check a model and make it ready to run.

        Parameters
        ----------
        model : onnx.ModelProto, bytes or path
            The model, its serialised form, or the path of its file.
        device : str, default "CPU"
            Only "CPU" is supported.
        **kwargs : dict
            No options exist: any is a TypeError.

        Returns
        -------
        BackendRep
            The model; its `run` computes the outputs.

        Raises
        ------
        NotImplementedError
            If the model has an operator, activation or element type that is not supported, or for another device.
        ValueError
            If the file is not an ONNX model, or breaks ONNX's rules. The message names the node.
        """
        cls._refuse(device, kwargs)
        with foreign.reading(_model.label(model)):
            return BackendRep(_model.checked(_model.read(model)))

    @classmethod
    def run_model(cls, model: Model, inputs: Inputs, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """Prepare a model and run it once.

        Parameters
        ----------
        model : onnx.ModelProto, bytes or path
            As in `prepare`.
        inputs : sequence of arrays, dict of arrays by name, or array
            As in `BackendRep.run`.
        device : str, default "CPU"
            Only "CPU" is supported.
        **kwargs : dict
            No options exist: any is a TypeError.

        Returns
        -------
        namedtuple
            The outputs of the graph.
        """
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls, node: onnx.NodeProto, inputs: Sequence[np.ndarray] | np.ndarray, device: str = "CPU",
        outputs_info: Any = None, opset_version: int | None = None, **kwargs: Any,
    ) -> tuple[Any, ...]:  # fmt: skip
        """Run one node.

        Parameters
        ----------
        node : onnx.NodeProto
            The node.
        inputs : sequence of arrays, or array
            One array for each input of the node that has a name.
        device : str, default "CPU"
            Only "CPU" is supported.
        outputs_info : object, optional
            Ignored: it is part of ONNX's interface.
        opset_version : int, optional
            By default the newest that the installed onnx knows.
        **kwargs : dict
            No options exist: any is a TypeError.

        Returns
        -------
        namedtuple
            The outputs of the node that have names.
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

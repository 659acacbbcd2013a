"""Read ONNX models from files without trusting them, and check that they are valid and supported."""

from __future__ import annotations

import os

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from fastrnn._files import foreign
from fastrnn.onnx import _nodes, _tensors

_STANDARD_DOMAINS = ("", "ai.onnx.ml", "ai.onnx.preview.training")  # those that onnx's reference evaluator supports
_COMPUTED_TYPES = (TensorProto.FLOAT, TensorProto.DOUBLE)


def label(model):
    """What messages call a model that is given as an object, as bytes or as a file."""
    if isinstance(model, (str, os.PathLike)):
        return os.fspath(model)
    if isinstance(model, (onnx.ModelProto, bytes)):
        return "these bytes" if isinstance(model, bytes) else "this model"
    raise TypeError(f"model is {type(model).__name__}, but it must be an onnx.ModelProto, its bytes, or a file's path")


def read(model):
    """Read a model, given as a ModelProto, as bytes or as a path, with its external data."""
    source, base, proto = label(model), None, model
    if isinstance(model, (str, os.PathLike)):
        foreign.check_regular(model)
        base = os.path.dirname(os.path.abspath(model))
        with open(model, "rb") as file:
            model = file.read()
    if isinstance(model, bytes):
        proto = _parsed(source, model)
    if not proto.HasField("graph"):
        raise ValueError(f"{source} is not an ONNX model: it has no graph")
    _tensors.check(source, proto, proto.ByteSize(), base)
    return proto


def _parsed(source, data):
    try:
        return onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise ValueError(f"{source} is not an ONNX model, or is damaged: {error}") from error


def checked(model):
    """The model, if it is valid and all of its operators are supported."""
    opsets = {o.domain: o.version for o in model.opset_import}
    newest = onnx.defs.onnx_opset_version()
    wrong = next((d for d, version in opsets.items() if not 0 < version < 1 << 31), None)
    if wrong is not None:
        raise ValueError(f"the model is of opset {opsets[wrong]} of {wrong or 'ai.onnx'!r}, which does not exist")
    if opsets.get("", newest) > newest:
        raise NotImplementedError(
            f"the model is of opset {opsets['']}, but this onnx knows those up to {newest}: install a newer onnx"
        )
    functions = {(f.domain, f.name) for f in model.functions}
    _check_nodes(model.graph.node, _types(model.graph), opsets, functions)
    for f in model.functions:
        _check_nodes(f.node, {}, {o.domain: o.version for o in f.opset_import}, functions)
    try:
        onnx.checker.check_model(_completed(model))
    except onnx.checker.ValidationError as error:
        raise ValueError(f"this is not a valid ONNX model: {error}") from error
    return model


def _completed(model):
    """The model, or a copy with what onnx's checker requires and other runtimes do not.

    These are the shapes of inputs, the types and shapes of outputs and, before IR version 4, that every initializer is
    also an input.
    """
    inputs = {i.name for i in model.graph.input}
    early = 0 < model.ir_version < 4 and any(t.name not in inputs for t in model.graph.initializer)
    if not early and all(map(_has_shape, (*model.graph.input, *model.graph.output))):
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    if early:
        made.ir_version = 4
    for value in made.graph.input:
        if value.type.HasField("tensor_type") and not _has_shape(value):
            value.type.tensor_type.shape.SetInParent()
    for value in made.graph.output:
        if not _has_shape(value):
            kind = value.type.tensor_type.elem_type or TensorProto.FLOAT
            value.CopyFrom(helper.make_tensor_value_info(value.name, kind, ()))  # the shape is never used
    return made


def _has_shape(value):
    """Whether an input or output has a type, and also a shape if it is a tensor."""
    kind = value.type.WhichOneof("value")
    return kind is not None and (kind != "tensor_type" or value.type.tensor_type.HasField("shape"))


def _types(graph):
    """{name: element type} of the values whose types are declared."""
    declared = {i.name: i.type.tensor_type.elem_type for i in (*graph.value_info, *graph.input)}
    return declared | {t.name: t.data_type for t in graph.initializer}


def _check_nodes(nodes, types, opsets, functions):
    """Raise for operators that do not exist and for recurrent nodes that are invalid; the error names them."""
    unknown = set()
    for node in nodes:
        version = opsets.get(node.domain)
        if (node.domain, node.op_type) not in functions:
            known = version is not None and node.domain in _STANDARD_DOMAINS
            if not known or not onnx.defs.has(node.op_type, version, node.domain):
                unknown.add(f"{node.domain}.{node.op_type}".lstrip("."))
                continue
            if node.domain == "" and node.op_type in _nodes.KINDS:
                _check_recurrent(node, version, types)
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                _check_nodes(graph.node, types | _types(graph), opsets, functions)
    if unknown:
        missing = ", ".join(sorted(unknown))
        raise NotImplementedError(
            f"the model has operators that neither ONNX {opsets.get('', '')} nor the model's own functions have: "
            f"{missing}"
        )


def _check_recurrent(node, version, types):
    _nodes.check_attributes(node, version)
    if not any(a.ref_attr_name for a in node.attribute):
        _nodes.read(node, _nodes.attributes_of(node))
    for label, name in zip(("X", "W", "R", "B"), node.input):
        kind = types.get(name, TensorProto.FLOAT)
        if kind not in _COMPUTED_TYPES:
            what = TensorProto.DataType.Name(kind) if kind in TensorProto.DataType.values() else kind
            raise NotImplementedError(
                f"{_nodes.where(node)}: {label} is {what}, but fastrnn computes in FLOAT and DOUBLE: convert the "
                "model's tensors"
            )


def check_value(name, value, declared):
    """The input as an array, if it has the type and shape that the model declares."""
    if declared.WhichOneof("value") != "tensor_type":
        return value
    value, wanted = np.asarray(value), declared.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(wanted.elem_type)
    if value.dtype != dtype and wanted.elem_type != TensorProto.STRING:
        raise TypeError(
            f"input {name!r} is {value.dtype}, but the model takes {dtype}: convert with .astype({str(dtype)!r})"
        )
    if wanted.HasField("shape"):
        dims = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in wanted.shape.dim]
        fits = len(dims) == value.ndim and all(d == n for d, n in zip(dims, value.shape) if isinstance(d, int))
        if not fits:
            raise ValueError(
                f"input {name!r} has shape {value.shape}, but the model takes ({', '.join(map(str, dims))})"
            )
    return value


def of_node(node, arrays, opset):
    """A model that consists of one node with these inputs."""
    kinds = {name: helper.np_dtype_to_tensor_dtype(a.dtype) for name, a in arrays.items()}
    inputs = [helper.make_tensor_value_info(n, kinds[n], a.shape) for n, a in arrays.items()]
    kind = next(iter(kinds.values()), TensorProto.FLOAT)  # the types and shapes of the outputs are never used
    outputs = [helper.make_tensor_value_info(n, kind, ()) for n in node.output if n]
    graph = helper.make_graph([node], "node", inputs, outputs)
    imports = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(node.domain, 1)] if node.domain else [])
    return helper.make_model(graph, opset_imports=imports, ir_version=8)

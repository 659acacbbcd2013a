"""Check the tensors in all parts of an ONNX model against the data that is there, and read external data."""

from __future__ import annotations

import math
import os

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, helper

from fastrnn._files import foreign

DEEPEST = 50  # graphs inside graphs
MOST_FUNCTIONS = 1000  # onnx's evaluator passes to each function all functions before it
MOST_AXES = 64

# Without raw_data: the field that holds the values of an element type, and how many of its entries each value takes
_FIELDS = {
    "FLOAT": ("float_data", 1), "COMPLEX64": ("float_data", 2), "DOUBLE": ("double_data", 1),
    "COMPLEX128": ("double_data", 2), "INT64": ("int64_data", 1), "UINT64": ("uint64_data", 1),
    "UINT32": ("uint64_data", 1), "STRING": ("string_data", 1),
    **dict.fromkeys(("INT32", "INT16", "INT8", "UINT16", "UINT8", "BOOL", "FLOAT16", "BFLOAT16"), ("int32_data", 1)),
}  # fmt: skip
_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2, "FLOAT6E2M3": 6, "FLOAT6E3M2": 6}


def check(source, proto, size, base):
    """Raise if the tensors of a model claim more data than there is, and read its external data.

    Parameters
    ----------
    source : str
        What messages call the model.
    proto : onnx.ModelProto
        The model.
    size : int
        Bytes of the model.
    base : str or None
        The folder of the model's file.
    """
    if len(proto.functions) > MOST_FUNCTIONS:
        raise ValueError(f"{source} has {len(proto.functions)} functions; at most {MOST_FUNCTIONS} are read")
    needed, files = 0, {}
    for tensor in tensors(source, proto):
        needed += _needed(source, tensor)
        if external_data_helper.uses_external_data(tensor):
            files |= _file_of(source, tensor, base)
            foreign.check_total(source, needed, size + sum(files.values()))
            _load_external(source, tensor, base)
        _check_size(source, tensor)
    foreign.check_total(source, needed, size + sum(files.values()))


def tensors(source, proto):
    """All tensors of a model: in its graph, in subgraphs and in its functions."""
    todo = [(proto.graph, 0)] + [(f, 0) for f in proto.functions]
    while todo:
        part, depth = todo.pop()
        if depth > DEEPEST:
            raise ValueError(f"{source}: its graphs are nested more than {DEEPEST} deep")
        if isinstance(part, onnx.GraphProto):
            if len(part.sparse_initializer):
                name = part.sparse_initializer[0].values.name
                raise NotImplementedError(f"{source}: tensor {name!r} is sparse, which is not supported: make it dense")
            yield from part.initializer
        for node in part.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                for sparse in (
                    *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
                    *attribute.sparse_tensors,
                ):
                    yield from (sparse.values, sparse.indices)
                inside = [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
                todo += [(graph, depth + 1) for graph in inside]


def _kind(source, tensor):
    """The name of a tensor's element type."""
    try:
        name = TensorProto.DataType.Name(tensor.data_type)
        np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{source}: tensor {tensor.name!r} is of the unknown element type {tensor.data_type}"
        ) from error
    return name


def _count(source, tensor):
    """The number of elements of a tensor, according to its shape."""
    if len(tensor.dims) > MOST_AXES:
        raise ValueError(f"{source}: tensor {tensor.name!r} has {len(tensor.dims)} axes; at most {MOST_AXES} are read")
    if any(n < 0 for n in tensor.dims):
        raise ValueError(f"{source}: tensor {tensor.name!r} has a negative size: {tuple(tensor.dims)}")
    return math.prod(tensor.dims)


def _needed(source, tensor):
    """Bytes that a tensor takes as an array."""
    kind, count = _kind(source, tensor), _count(source, tensor)
    if kind == "STRING":  # in NumPy, each of them takes as much as the longest
        return 4 * max(map(len, tensor.string_data), default=0) * len(tensor.string_data)
    return count * np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize


def _check_size(source, tensor):
    """Raise if the shape of a tensor does not match the amount of its data."""
    kind, count = _kind(source, tensor), _count(source, tensor)
    if tensor.HasField("raw_data"):
        if kind == "STRING":
            raise ValueError(f"{source}: tensor {tensor.name!r} has strings in raw_data, which ONNX does not allow")
        item = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
        there, unit = len(tensor.raw_data), "bytes"
        needed = -(-count * _BITS[kind] // 8) if kind in _BITS else count * item
    elif kind in _FIELDS:
        field, each = _FIELDS[kind]
        there, needed, unit = len(getattr(tensor, field)), count * each, "numbers"
    else:
        there, needed, unit = len(tensor.int32_data), -(-count * _BITS.get(kind, 8) // 8), "numbers"
    if there != needed:
        raise ValueError(
            f"{source}: tensor {tensor.name!r} has shape {tuple(tensor.dims)}, which is {needed} {unit}, but there are "
            f"{there}"
        )


def _info(source, tensor):
    try:
        return external_data_helper.ExternalDataInfo(tensor)
    except ValueError as error:
        raise ValueError(f"{source}: the data of tensor {tensor.name!r} can't be read: {error}") from error


def _file_of(source, tensor, base):
    """{path of the file with a tensor's data: its size}; raises if the tensor's part of it does not match the shape."""
    if base is None:
        raise ValueError(
            f"{source}: the data of tensor {tensor.name!r} are in another file: give the path of the model's file "
            "instead"
        )
    info = _info(source, tensor)
    path = os.path.join(base, info.location)
    if not os.path.isfile(path):  # onnx reports what is wrong, except that it would wait for a pipe
        if os.path.exists(path):
            raise ValueError(
                f"{source}: the data of tensor {tensor.name!r} can't be read: {info.location!r} is not a regular file"
            )
        return {}
    size, offset = os.path.getsize(path), info.offset or 0
    there, needed = size - offset if info.length is None else info.length, _needed(source, tensor)
    if offset + there > size:
        raise ValueError(
            f"{source}: tensor {tensor.name!r} takes the bytes {offset} to {offset + there} of {info.location!r}, "
            f"which has {size}"
        )
    if there > needed:
        raise ValueError(
            f"{source}: tensor {tensor.name!r} has shape {tuple(tensor.dims)}, which is {needed} bytes, but it takes "
            f"{there} bytes of {info.location!r}"
        )
    return {os.path.realpath(path): size}


def _load_external(source, tensor, base):
    """Read a tensor's data from the file that it names. onnx requires it in the model's folder and follows no links."""
    try:
        external_data_helper.load_external_data_for_tensor(tensor, base)
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ValueError(f"{source}: the data of tensor {tensor.name!r} can't be read: {error}") from error

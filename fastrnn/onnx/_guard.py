"""Guards around the operators of onnx's evaluator: errors name the node, and a trial run may not take much memory."""

from __future__ import annotations

import itertools
import math

import numpy as np
import onnx

from fastrnn.onnx import _nodes

_TEXT_BYTES = 256  # bytes that Cast takes, at its peak, for each number that it turns into text


class Budget:
    """The bytes that the values of a model may take in a trial run."""

    def __init__(self, most):
        self.most, self.left = most, most

    def take(self, what, needed):
        if needed > self.left:
            raise ValueError(
                f"{what} makes {needed} bytes, and the model may make {self.most} in all in a trial run: "
                "prepare(model) runs it without this limit"
            )

    def taken(self, what, outputs):
        made = sum(a.nbytes for a in outputs if isinstance(a, np.ndarray))
        self.take(what, made)
        self.left -= made


def guard(node, budget, own=False):
    """Make the errors of an operator name its node, and check its size against the budget before and after it runs.

    own : whether it is one of fastrnn's operators, whose errors name the node already
    """
    run, proto = node.run, node.onnx_node
    node.run = lambda *inputs, **options: _run(run, proto, budget, own, inputs, options)


def _run(run, proto, budget, own, inputs, options):
    if budget is not None:
        budget.take(_nodes.where(proto), _output_bytes(proto, inputs))
    try:
        outputs = run(*inputs, **options)
    except MemoryError as error:
        raise MemoryError(_message(proto, error)) from None
    except NotImplementedError as error:
        raise NotImplementedError(_message(proto, error)) from error
    except RecursionError:
        raise ValueError(f"{_nodes.where(proto)}: functions or graphs are nested too deeply") from None
    except (TypeError, ValueError) as error:
        if own and str(error).startswith(_nodes.where(proto)):
            raise
        raise ValueError(_message(proto, error)) from error
    except Exception as error:  # NumPy and onnx's operators raise nearly every class of error
        raise ValueError(_message(proto, error)) from error
    if budget is not None:
        budget.taken(_nodes.where(proto), outputs)
    return outputs


def _message(proto, error):
    where, text = _nodes.where(proto), " ".join(str(error).split())
    if text.startswith(("node ", "the ")) and isinstance(
        error, (ValueError, TypeError, NotImplementedError, MemoryError)
    ):
        return text  # it names a node inside this one already
    return f"{where}: {type(error).__name__}: {text}"[:2000]


def _output_bytes(proto, inputs):
    """Bytes of the output of an operator whose output may be far larger than its inputs; 0 for the other operators."""
    arrays = [a for a in inputs if isinstance(a, np.ndarray)]
    if proto.op_type in _nodes.KINDS and not proto.domain and len(inputs) > 2:
        X, R = inputs[0], inputs[2]
        return 2 * X.itemsize * math.prod((*X.shape[:2], R.shape[0], R.shape[-1])) if X.ndim == R.ndim == 3 else 0
    if proto.op_type == "Concat":
        widest = max((a.itemsize for a in arrays), default=0)  # all texts become as wide as the widest
        return sum(a.size for a in arrays) * widest
    if proto.op_type == "ConstantOfShape" and arrays:
        texts = [len(text) for a in proto.attribute for text in a.t.string_data]
        return max(8, 4 * max(texts, default=0)) * _numel(arrays[0])
    if proto.op_type == "Cast" and arrays:
        return arrays[0].size * _cast_itemsize(proto)
    if proto.op_type == "Dropout" and arrays:  # 24 bytes for each number: a float64, the mask and the product
        return arrays[0].size * 24 if len(arrays) > 2 and arrays[2].any() else arrays[0].size
    if proto.op_type == "Expand" and len(arrays) == 2:
        sizes = itertools.zip_longest(reversed(arrays[1].ravel().tolist()[:64]), reversed(arrays[0].shape), fillvalue=1)
        return arrays[0].itemsize * math.prod(max(abs(int(n)), m) for n, m in sizes)
    if proto.op_type == "Gather" and len(arrays) == 2:
        data, indices = arrays
        axis = next((a.i for a in proto.attribute if a.name == "axis"), 0)
        rows = data.shape[axis] if -data.ndim <= axis < data.ndim else 1
        return indices.size * (data.nbytes // max(1, rows))
    return 0


def _cast_itemsize(proto):
    """Bytes that Cast takes for a number."""
    to = next((a.i for a in proto.attribute if a.name == "to" and not a.ref_attr_name), onnx.TensorProto.STRING)
    if to in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING) or to not in onnx.TensorProto.DataType.values():
        return _TEXT_BYTES
    return max(8, onnx.helper.tensor_dtype_to_np_dtype(to).itemsize)


def _numel(shape):
    """The number of elements of a shape that is given as an array."""
    sizes = shape.ravel().tolist()
    return math.prod(abs(int(n)) for n in sizes) if len(sizes) <= 64 else 0

"""Run ONNX models on fastrnn, load them as networks, and export networks as ONNX models.

`prepare`, `run_model` and `run_node` are ONNX's backend interface. RNN, GRU and LSTM nodes, with all their attributes,
are computed by fastrnn. All other operators run in onnx's reference evaluator.
"""

from fastrnn.onnx._backend import Backend, BackendRep, prepare, run_model, run_node, supports_device
from fastrnn.onnx._export import export
from fastrnn.onnx._load import load

__all__ = ["Backend", "BackendRep", "export", "load", "prepare", "run_model", "run_node", "supports_device"]

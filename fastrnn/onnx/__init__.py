"""ONNX models on fastrnn: `prepare` and `run_model` are ONNX's backend interface, complete for RNN, GRU and LSTM.

The recurrence is fastrnn's; the operators around it run in onnx's reference evaluator.
"""

from fastrnn.onnx._backend import Backend, BackendRep, prepare, run_model, run_node, supports_device
from fastrnn.onnx._export import export
from fastrnn.onnx._load import load

__all__ = ["Backend", "BackendRep", "export", "load", "prepare", "run_model", "run_node", "supports_device"]

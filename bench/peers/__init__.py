"""The peers by name: the module of each class and its pip packages. A peer is imported only in its worker process.

A peer is a class with

    __init__(threads)    imports its library, sets its threads, flushes denormals
    version              of the library
    runs(case, problem)  {label: {variant: make}}, where make() returns a Run. The fastest variant of each label is
                         timed. An empty label is the peer itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable

import numpy as np

PEERS = {  # name: (module, class, pip packages, kinds of cases)
    "fastrnn": ("fastrnn_peer", "Fastrnn", "fastrnn", ("forward", "train", "step", "ragged", "characters")),
    "torch": ("torch_peer", "Torch", "torch==2.13.0", ("forward", "train", "step", "ragged", "characters")),
    "onnxruntime": ("onnx_peers", "OnnxRuntime", "onnxruntime==1.32.0 onnx", ("forward", "step")),
    "openvino": ("onnx_peers", "OpenVino", "openvino==2026.4.1 onnx", ("forward", "step")),
    "jax": ("jax_peer", "Jax", "jax==0.10.2", ("forward", "train", "step")),
    "numpy": ("numpy_peer", "Numpy", "numpy", ("forward", "train", "step")),
}

FLAGS = {"jax": {"JAX_PLATFORMS": "cpu"}}  # environment that must be set before the import


@dataclasses.dataclass
class Run:
    """`call` does the work once; `outputs` returns Problem.outputs; `context` is entered around the calls."""

    call: Callable
    outputs: Callable
    context: Callable = contextlib.nullcontext


def stream(problem, step):
    """Return the Run of a streaming step: step(x (1,I)) -> y (1,H), with the state carried inside.

    The first steps are compared; then one step is repeated.
    """
    steps = [np.ascontiguousarray(x) for x in problem.x]
    return Run(lambda: step(steps[0]), lambda: problem.outputs(np.stack([np.array(step(x)) for x in steps])))

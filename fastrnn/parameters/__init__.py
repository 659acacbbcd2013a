"""Parameters of layers: one flat buffer, PyTorch's names for its parts, and a version that each update bumps."""

from fastrnn.parameters.initialisation import glorot_uniform, initial_values, initialise, orthogonal, torch_uniform
from fastrnn.parameters.layer import Layer
from fastrnn.parameters.storage import Gradients, Slot, Storage

__all__ = [
    "Gradients",
    "Layer",
    "Slot",
    "Storage",
    "glorot_uniform",
    "initial_values",
    "initialise",
    "orthogonal",
    "torch_uniform",
]

"""Optimisers, gradient clipping, and learning-rate schedules."""

from fastrnn.optim.clipping import clip_by_global_norm, clip_by_value
from fastrnn.optim.optimizers import OPTIMIZERS, SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from fastrnn.optim.schedules import (
    Constant,
    Cosine,
    ExponentialDecay,
    LinearWarmup,
    ReduceOnPlateau,
    Schedule,
    StepDecay,
)

__all__ = [
    "OPTIMIZERS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Constant",
    "Cosine",
    "ExponentialDecay",
    "LinearWarmup",
    "Optimizer",
    "RMSprop",
    "ReduceOnPlateau",
    "Schedule",
    "StepDecay",
    "clip_by_global_norm",
    "clip_by_value",
]

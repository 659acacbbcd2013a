"""Hand-written NumPy: one matrix product for all inputs, then a loop of products and elementwise functions."""

from __future__ import annotations

import numpy as np

from ..handwritten import Layer
from . import Run, stream


class Numpy:
    version = np.__version__

    def __init__(self, threads):
        pass  # its BLAS reads OMP_NUM_THREADS

    def runs(self, case, problem):
        return {"": {"": lambda: getattr(self, case.kind)(case, problem)}}

    def forward(self, case, problem):
        layer, x = Layer(case.cell, problem.params), problem.x
        return Run(lambda: layer.forward(x), lambda: problem.outputs(layer.forward(x)))

    def train(self, case, problem):
        layer, x, dy = Layer(case.cell, problem.params), problem.x, problem.dy

        def call():
            return layer.forward(x, keep=True), *layer.backward(dy)

        return Run(call, lambda: problem.outputs(*call()))

    def step(self, case, problem):
        layer = Layer(case.cell, problem.params)
        state = layer.initial(1)

        def step(x):
            nonlocal state
            state, _ = layer.step(layer.input_side(x), state)
            return state[0]

        return stream(problem, step)

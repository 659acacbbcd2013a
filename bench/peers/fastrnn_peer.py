"""fastrnn, through its public API."""

from __future__ import annotations

import numpy as np

import fastrnn

from ..character_model import CELLS, FastrnnModel, losses
from . import Run, stream


class Fastrnn:
    def __init__(self, threads):
        fastrnn.set_num_threads(threads)
        self.version = fastrnn.__version__

    def runs(self, case, problem):
        if case.kind == "ragged":
            return {
                "": {"lengths=": lambda: self.train(case, problem, problem.lengths)},
                "padded": {"padded": lambda: self.train(case, problem)},
            }
        return {"": {"": lambda: getattr(self, case.kind)(case, problem)}}

    def layer(self, case, problem):
        layer = getattr(fastrnn, CELLS[case.cell])(case.I, case.H)
        layer.load_state_dict(problem.params)
        return layer

    def forward(self, case, problem):
        layer, x = self.layer(case, problem), problem.x

        def call():
            return layer(x)[0]

        return Run(call, lambda: problem.outputs(call()))

    def train(self, case, problem, lengths=None):
        layer, x, dy = self.layer(case, problem), problem.x, problem.dy

        def call():
            (y, _), backward = layer.vjp(x, lengths=lengths)
            return y, backward(dy)

        def outputs():
            y, gradients = call()
            return problem.outputs(y, gradients.x, gradients.params)

        return Run(call, outputs)

    def step(self, case, problem):
        s = self.layer(case, problem).stream()
        y = np.empty((1, case.H), "float32")
        return stream(problem, lambda x: s.step(x, y))

    def characters(self, case, problem):
        model = FastrnnModel(case.cell)
        return Run(lambda: model.update(), lambda: {"loss": losses(model)})

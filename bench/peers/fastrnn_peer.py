"""fastrnn, through its public API."""

from __future__ import annotations

import numpy as np

import fastrnn

from ..character_model import CELLS, FastrnnModel, losses
from . import Run, stream

CALLS = 8  # after so many, a plan is used alone


def recorded(planned, *arguments):
    """Call a planned function until it uses its plan, if it has one; returns its result."""
    for _ in range(CALLS):
        result = planned(*arguments)
    return result


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
        if case.kind in ("forward", "train"):
            return {
                "": {
                    "layer": lambda: getattr(self, case.kind)(case, problem),
                    "planned": lambda: getattr(self, f"planned_{case.kind}")(case, problem),
                }
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

    def planned_forward(self, case, problem):
        layer, x = self.layer(case, problem), problem.x
        planned = fastrnn.planned(lambda x: layer(x)[0])
        return Run(lambda: planned(x), lambda: problem.outputs(recorded(planned, x)))

    def planned_train(self, case, problem):
        layer, x, dy = self.layer(case, problem), problem.x, problem.dy

        @fastrnn.planned
        def planned(x, dy):
            (y, _), backward = layer.vjp(x)
            g = backward(dy)
            return y, g.x, g.flat

        def outputs():
            y, dx, flat = recorded(planned, x, dy)
            views = {name: flat[part].reshape(shape) for name, part, shape in layer._places}
            return problem.outputs(y, dx, views)

        return Run(lambda: planned(x, dy), outputs)

    def step(self, case, problem):
        s = self.layer(case, problem).stream()
        y = np.empty((1, case.H), "float32")
        return stream(problem, lambda x: s.step(x, y))

    def characters(self, case, problem):
        model = FastrnnModel(case.cell)
        return Run(lambda: model.update(), lambda: {"loss": losses(model)})

"""Seeded weights, inputs and gradients of a case, and its reference outputs, computed by NumPy in float64."""

from __future__ import annotations

import numpy as np

from . import handwritten

STEPS_CHECKED = 8  # of a stream, before its steps are timed
TOLERANCE = 1e-3  # largest error of a correct output, relative to the largest number of the array


class Problem:
    """The data of one case in float32: x (T,B,I), dy (T,B,H), zero beyond a row's length, `params` by torch's names.

    A stream has STEPS_CHECKED steps instead of T.
    """

    def __init__(self, case):
        rng = np.random.default_rng(case.seed)
        T = STEPS_CHECKED if case.kind == "step" else case.T
        bound = case.H**-0.5
        shapes = {"weight_ih_l0": (case.G * case.H, case.I), "weight_hh_l0": (case.G * case.H, case.H)}
        shapes |= {"bias_ih_l0": (case.G * case.H,), "bias_hh_l0": (case.G * case.H,)}
        self.params = {name: rng.uniform(-bound, bound, shape).astype("float32") for name, shape in shapes.items()}
        self.x = rng.standard_normal((T, case.B, case.I), dtype="float32")
        self.dy = rng.standard_normal((T, case.B, case.H), dtype="float32")
        self.lengths = case.lengths
        self.mask = np.arange(T)[:, None, None] < self.lengths[:, None] if case.kind == "ragged" else None  # (T,B,1)
        if self.mask is not None:
            self.dy *= self.mask

    def outputs(self, y, dx=None, params=None):
        """Return the outputs to compare: {"y": …, "x": dx, parameter name: its gradient}; y at valid steps only."""
        y = np.asarray(y).reshape(self.dy.shape)
        shown = {"y": y if self.mask is None else y * self.mask}
        if dx is not None:
            shown |= {
                "x": np.asarray(dx).reshape(self.x.shape),
                **{name: np.asarray(params[name]) for name in self.params},
            }
        return shown


def truth(case):
    """Compute the outputs of a case in float64."""
    if case.kind == "characters":
        from .character_model import FastrnnModel, losses

        return {"loss": losses(FastrnnModel(case.cell, "float64"))}
    problem = Problem(case)
    params = {name: a.astype("float64") for name, a in problem.params.items()}
    layer = handwritten.Layer(case.cell, params)
    y = layer.forward(problem.x.astype("float64"), keep=case.trains)
    if not case.trains:
        return problem.outputs(y)
    return problem.outputs(y, *layer.backward(problem.dy.astype("float64")))


def error(got, want):
    """Return the largest error of all arrays, each relative to the largest number of the expected array.

    The result is inf if names or shapes differ, or for NaN.
    """
    if set(got) != set(want) or any(got[name].shape != want[name].shape for name in want):
        return float("inf")
    errors = [np.abs(got[name] - a).max() / max(np.abs(a).max(), 1e-30) for name, a in want.items()]
    return float("inf") if np.isnan(errors).any() else float(max(errors))

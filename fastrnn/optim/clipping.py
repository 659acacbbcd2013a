"""Gradient clipping."""

from __future__ import annotations

import math

import numpy as np

from fastrnn import _check, _engine
from fastrnn._types import Array


def clip_by_value(grad: Array, limit: float) -> None:
    """Clip each element of a gradient to [-limit, limit], in place. NaN remains NaN.

    Parameters
    ----------
    grad : ndarray
        Gradient, float32 or float64, C-contiguous.
    limit : float
        Largest absolute value, > 0.

    Examples
    --------
    >>> g = np.array([0.5, -3, 7])
    >>> clip_by_value(g, 1)
    >>> g
    array([ 0.5, -1. ,  1. ])
    """
    _engine.clip_value(_check.gradient(grad, write=True), _check.number("limit", limit, above=0))


def clip_by_global_norm(grad: Array, max_norm: float) -> tuple[float, float]:
    """Compute the Euclidean norm of a gradient, and the factor that reduces it to at most max_norm.

    The gradient is not changed. Pass the factor to the optimiser, ``optimizer.step(grad, scale=scale)``.

    Parameters
    ----------
    grad : ndarray
        Gradient, float32 or float64, C-contiguous.
    max_norm : float
        Largest norm, > 0.

    Returns
    -------
    norm : float
        Norm of the gradient.
    scale : float
        Factor, as in PyTorch: ``min(1, max_norm / (norm + 1e-6))``. It is NaN if the gradient has NaN, and 0 if it has
        an infinite value. For a finite gradient it is above 0, however large the gradient is.

    Examples
    --------
    >>> clip_by_global_norm(np.array([3.0, 4.0]), 10.0)
    (5.0, 1.0)
    """
    return norm_and_scale(_check.gradient(grad), _check.number("max_norm", max_norm, above=0))


def norm_and_scale(grad: Array, max_norm: float) -> tuple[float, float]:
    """As `clip_by_global_norm`, of a 1-D gradient and without checks."""
    norm = math.sqrt(_engine.sum_of_squares(grad))
    scale = max_norm / (norm + 1e-6)
    if norm == math.inf:
        largest = float(np.abs(grad).max())
        if math.isfinite(largest):  # only the squares, in float64, overflowed
            relative = math.sqrt(_engine.sum_of_squares(grad / largest))
            norm, scale = largest * relative, max_norm / largest / relative or math.ulp(0.0)
    elif scale == 0:  # underflow: max_norm is very small, or the norm very large
        scale = math.ulp(0.0)
    return norm, 1.0 if scale > 1 else scale

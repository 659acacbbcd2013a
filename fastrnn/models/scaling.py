"""Shifts and scales features, as learnt from the training data; a model saves it with its parameters."""

from __future__ import annotations

import numpy as np


class Scaler:
    """To mean 0 and standard deviation 1 of each feature; a feature that never changes is only shifted.

    Parameters
    ----------
    mean, deviation : (n,) float64

    Examples
    --------
    >>> scaler = Scaler.of([np.array([[1.0, 5], [3, 5]]), np.array([[5.0, 5]])])
    >>> scaler.mean, scaler.deviation.round(3)
    (array([3., 5.]), array([1.633, 1.   ]))
    >>> scaler.undo(scaler(np.array([[1.0, 5]])))
    array([[1., 5.]])
    """

    def __init__(self, mean, deviation):
        self.mean, self.deviation = mean, deviation

    @classmethod
    def of(cls, X):
        """From a list of arrays (T_i, n), read one at a time."""
        steps = sum(len(x) for x in X)
        mean = sum(np.sum(x, 0, np.float64) for x in X) / steps
        deviation = np.sqrt(sum(((x - mean) ** 2).sum(0) for x in X) / steps)
        return cls(mean, np.where(deviation > 0, deviation, 1.0))

    def __call__(self, x):
        """Scaled, of x's dtype."""
        dtype = x.dtype
        return (x - self.mean.astype(dtype)) * (1 / self.deviation).astype(dtype)

    def undo(self, x):
        """As it was before."""
        dtype = x.dtype
        return x * self.deviation.astype(dtype) + self.mean.astype(dtype)


class Unscaled:
    """Leaves everything as it is."""

    def __call__(self, x):
        return x

    undo = __call__


def to_arrays(name, scaler) -> dict:
    """What of a scaler is saved."""
    return {f"{name}.mean": scaler.mean, f"{name}.deviation": scaler.deviation} if isinstance(scaler, Scaler) else {}


def from_arrays(name, arrays):
    """The scaler that was saved."""
    return Scaler(arrays[f"{name}.mean"], arrays[f"{name}.deviation"]) if f"{name}.mean" in arrays else Unscaled()

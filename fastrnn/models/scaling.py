"""Shift and scale features, as learnt from the training data, in float64; a model saves both with its parameters."""

from __future__ import annotations

import numpy as np

_ROUNDING = 4 * np.finfo(np.float64).eps  # a deviation below this part of the mean is rounding


class Scaler:
    """Scale each feature to mean 0 and standard deviation 1; a feature that never changes is only shifted.

    Parameters
    ----------
    mean, deviation : (n,) float64; a deviation of 0 does not scale, and `undo` then gives the mean

    Examples
    --------
    >>> scaler = Scaler.of([np.array([[1.0, 5], [3, 5]]), np.array([[5.0, 5]])])
    >>> scaler.mean, scaler.deviation.round(3)
    (array([3., 5.]), array([1.633, 1.   ]))
    >>> scaler.undo(scaler(np.array([[1.0, 5]])))
    array([[1., 5.]])
    """

    def __init__(self, mean, deviation):
        self.mean, self.deviation = np.asarray(mean, np.float64), np.asarray(deviation, np.float64)
        self._divisor = np.where(self.deviation > 0, self.deviation, 1.0)

    @classmethod
    def of(cls, X, constant: float = 1.0, name: str = "feature") -> Scaler:
        """Learn from a list of arrays (T_i, n), read one at a time.

        Parameters
        ----------
        constant : the deviation of what never changes
        name : what a column is, for the message

        Raises
        ------
        ValueError  the numbers are too large to take a mean and a deviation of.
        """
        steps = sum(len(x) for x in X)
        low = np.min([x.min(0) for x in X], axis=0).astype(np.float64)
        high = np.max([x.max(0) for x in X], axis=0).astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = sum(np.sum(x, 0, np.float64) for x in X) / steps
            mean = np.clip(mean + sum((x - mean).sum(0) for x in X) / steps, low, high)
            spread = np.maximum(high - mean, mean - low)
            wrong = np.flatnonzero(~np.isfinite(mean) | ~np.isfinite(spread))
        if len(wrong):
            k = wrong[0]
            raise ValueError(
                f"{name} {k} goes from {low[k]:g} to {high[k]:g}, too far for a mean in float64: give it in another unit"
            )
        unit = np.where(spread > 0, spread, 1.0)
        deviation = unit * np.sqrt(
            sum((((x - mean) / unit) ** 2).sum(0) for x in X) / steps
        )  # no square overflows or vanishes
        return cls(mean, np.where(deviation > _ROUNDING * np.abs(mean), deviation, constant))

    def __call__(self, x) -> np.ndarray:
        """Shifted and scaled, float64."""
        return (x - self.mean) / self._divisor

    def undo(self, x) -> np.ndarray:
        """As it was before, float64."""
        return x * self.deviation + self.mean


class Unscaled:
    """Leaves everything as it is."""

    def __call__(self, x):
        return x

    def undo(self, x):
        """The same, float64."""
        return np.asarray(x, np.float64)


def cast(x, dtype, name) -> np.ndarray:
    """An array in the dtype of the engine, without a copy if it has it.

    Parameters
    ----------
    name : what it is; or a function of a place in it, a tuple, that gives that

    Raises
    ------
    ValueError  a number is too large for it.
    """
    if x.dtype == dtype:
        return x
    with np.errstate(over="ignore"):
        found = x.astype(dtype)
    if not np.isfinite(found).all():
        place = tuple(np.argwhere(~np.isfinite(found))[0].tolist())
        raise ValueError(f"{name(place) if callable(name) else name} {_too_large(x[place], dtype)}")
    return found


def check_range(name: str, X, scaler, dtype) -> None:
    """Raise a ValueError if a scaled number of the arrays (T_i, n) is too large for the dtype of the engine."""
    limit = np.finfo(dtype).max
    for n, x in enumerate(X):
        with np.errstate(over="ignore", invalid="ignore"):
            ends = np.abs(scaler(np.stack([x.min(0), x.max(0)])))
        if not (ends <= limit).all():
            raise ValueError(f"{name} {n} {_too_large(ends.max(), dtype)}")


def _too_large(value, dtype):
    return (
        f"has {value:g} where it enters the network, which computes in {dtype}, up to {np.finfo(dtype).max:.2g}: give it in another unit, "
        "or make the model with dtype='float64'"
    )


def to_arrays(name, scaler) -> dict:
    """What of a scaler is saved."""
    return {f"{name}.mean": scaler.mean, f"{name}.deviation": scaler.deviation} if isinstance(scaler, Scaler) else {}


def from_arrays(name: str, arrays, size: int, scales: bool = True):
    """The scaler that was saved.

    Parameters
    ----------
    size : features that it is for
    scales : whether there is one

    Raises
    ------
    ValueError  one of its arrays is missing, or is not what a scaler has; the message names it.
    """
    if not scales:
        return Unscaled()
    parts = [numbers_in(arrays, f"{name}.{part}", (size,)) for part in ("mean", "deviation")]
    if (parts[1] < 0).any():
        raise ValueError(f"the array {name}.deviation has {parts[1].min():g}, but a deviation is at least 0")
    return Scaler(*parts)


def numbers_in(arrays, name: str, shape: tuple) -> np.ndarray:
    """An array that was saved, float64; its first axis may be longer than that of `shape` if it has two.

    Raises
    ------
    ValueError  it is missing, of another shape, or has something else than finite real numbers; the message names it.
    """
    if name not in arrays:
        raise ValueError(f"the array {name} is missing")
    array = arrays[name]
    longer = array.ndim == len(shape) == 2 and array.shape[0] > shape[0]
    if array.dtype.kind != "f" or (array.shape[1:] if longer else array.shape) != (shape[1:] if longer else shape):
        least = "at least " if len(shape) == 2 else ""
        raise ValueError(
            f"the array {name} is {array.dtype} of shape {array.shape}, but it must be of real numbers and of shape {least}{shape}"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"the array {name} has {array[~np.isfinite(array)][0]}, but its numbers must be finite")
    return array.astype(np.float64)

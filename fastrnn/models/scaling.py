"""Standardization of features in float64. A model saves the shift and the scale with its parameters."""

from __future__ import annotations

import numpy as np

_ROUNDING = 4 * np.finfo(np.float64).eps  # a deviation below this fraction of the mean is a rounding error


class Scaler:
    """Shift and scale each feature to mean 0 and standard deviation 1; a constant feature is only shifted.

    Parameters
    ----------
    mean : (n,) array_like
        Means of the features.
    deviation : (n,) array_like
        Standard deviations, >= 0. A feature with a deviation of 0 is not scaled, and `undo` returns its mean.

    Attributes
    ----------
    divisor : (n,) ndarray
        What features are divided by: the deviation, or 1 where it is 0.

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
        self.divisor = np.where(self.deviation > 0, self.deviation, 1.0)

    @classmethod
    def of(cls, X, constant: float = 1.0, name: str = "feature") -> Scaler:
        """Learn a scale from data.

        Parameters
        ----------
        X : list of arrays (T, n)
            The data. The arrays are read one at a time.
        constant : float, default=1.0
            Standard deviation of constant features.
        name : str, default="feature"
            What a column is, for the message.

        Returns
        -------
        Scaler
            The scale.

        Raises
        ------
        ValueError
            If the range of a column is too large for float64.
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
                f"{name} {k} goes from {low[k]:g} to {high[k]:g}, too far for a mean in float64: give it in another "
                "unit"
            )
        unit = np.where(spread > 0, spread, 1.0)  # so that no square overflows or underflows
        deviation = unit * np.sqrt(sum((((x - mean) / unit) ** 2).sum(0) for x in X) / steps)
        return cls(mean, np.where(deviation > _ROUNDING * np.abs(mean), deviation, constant))

    def __call__(self, x) -> np.ndarray:
        """Shift and scale, in float64."""
        return (x - self.mean) / self.divisor

    def undo(self, x) -> np.ndarray:
        """Invert the shift and the scale, in float64."""
        return x * self.deviation + self.mean


class Unscaled:
    """The identity, with the interface of Scaler."""

    def __call__(self, x):
        """Return x."""
        return x

    def undo(self, x) -> np.ndarray:
        """Return x as float64."""
        return np.asarray(x, np.float64)


def cast(x, dtype, name) -> np.ndarray:
    """Convert an array to the dtype of the network, without a copy if it has it already.

    Parameters
    ----------
    x : ndarray
        The array.
    dtype : dtype
        The dtype of the network.
    name : str or callable
        The name of the array for the message, or a function that returns it for the index of a value, a tuple.

    Returns
    -------
    ndarray
        The array in that dtype.

    Raises
    ------
    ValueError
        If a value is too large for the dtype.
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
    """Raise a ValueError if a scaled value of the arrays X, (T, n) each, is too large for the dtype of the network."""
    limit = np.finfo(dtype).max
    for n, x in enumerate(X):
        with np.errstate(over="ignore", invalid="ignore"):
            ends = np.abs(scaler(np.stack([x.min(0), x.max(0)])))
        if not (ends <= limit).all():
            raise ValueError(f"{name} {n} {_too_large(ends.max(), dtype)}")


def _too_large(value, dtype):
    return (
        f"has {value:g} where it enters the network, which computes in {dtype}, up to {np.finfo(dtype).max:.2g}: give "
        "it in another unit, or make the model with dtype='float64'"
    )


def to_arrays(name: str, scaler: Scaler | Unscaled) -> dict[str, np.ndarray]:
    """The arrays of a scaler, for saving, under names that begin with `name`."""
    return {f"{name}.mean": scaler.mean, f"{name}.deviation": scaler.deviation} if isinstance(scaler, Scaler) else {}


def from_arrays(name: str, arrays, size: int, scales: bool = True) -> Scaler | Unscaled:
    """The scaler of a saved model.

    Parameters
    ----------
    name : str
        The beginning of the names of its arrays.
    arrays : dict of str to ndarray
        All arrays of the model.
    size : int
        Number of features.
    scales : bool, default=True
        Whether the model has a scaler.

    Returns
    -------
    Scaler or Unscaled
        The scaler.

    Raises
    ------
    ValueError
        If one of its arrays is missing or invalid. The message names it.
    """
    if not scales:
        return Unscaled()
    parts = [numbers_in(arrays, f"{name}.{part}", (size,)) for part in ("mean", "deviation")]
    if (parts[1] < 0).any():
        raise ValueError(f"the array {name}.deviation has {parts[1].min():g}, but a deviation is at least 0")
    return Scaler(*parts)


def numbers_in(arrays, name: str, shape: tuple) -> np.ndarray:
    """An array of a saved model, as float64.

    If `shape` has two axes, the first axis of the array may be longer.

    Raises
    ------
    ValueError
        If it is missing, has another shape, or has values other than finite real numbers. The message names it.
    """
    if name not in arrays:
        raise ValueError(f"the array {name} is missing")
    array = arrays[name]
    longer = array.ndim == len(shape) == 2 and array.shape[0] > shape[0]
    if array.dtype.kind != "f" or (array.shape[1:] if longer else array.shape) != (shape[1:] if longer else shape):
        least = "at least " if len(shape) == 2 else ""
        raise ValueError(
            f"the array {name} is {array.dtype} of shape {array.shape}, but it must be of real numbers and of shape "
            f"{least}{shape}"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"the array {name} has {array[~np.isfinite(array)][0]}, but its numbers must be finite")
    return array.astype(np.float64)

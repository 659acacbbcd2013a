"""Time series as a Forecaster reads them: checked, transformed by logarithms and differences, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastrnn._check import data as check_data
from fastrnn.data._dates import check_times


def as_list(series) -> tuple[Sequence, bool]:
    """The series as a list, and whether they came as a list."""
    many = isinstance(series, (list, tuple)) and len(series) > 0 and np.ndim(series[0]) > 0
    return (series if many else [series]), many


def column_names(series, exog) -> tuple[list[str] | None, list[str] | None]:
    """The names of the columns of series and of other variables, None where they are not data frames."""
    first = None if exog is None else as_list(exog)[0][0]
    return check_data.columns(as_list(series)[0][0]), check_data.columns(first)


def checked_series(series, exog, K=None, E=None, names=(None, None), *, positive: bool = False):
    """Check series and other variables.

    Parameters
    ----------
    series, exog
        As in ``Forecaster.fit``.
    K, E : int, optional
        The number of variables and of other variables; by default those of the first series.
    names : pair
        The names of the columns, from `column_names`.
    positive : bool, default=False
        Whether values must be above 0.

    Returns
    -------
    given : list of arrays (T, K)
        The series, float64.
    exogs : list of arrays (T, E), or None
        The other variables, float64.
    flat : bool
        Whether the first series was (T,).
    many : bool
        Whether the series came as a list.
    """
    series, many = as_list(series)
    for one, other in zip(series, [None] * len(series) if exog is None else exog if many else [exog]):
        check_times(one, other)
    given = [check_data.real_numbers("series", check_data.by_name("series", one, names[0])) for one in series]
    flat = given[0].ndim == 1
    given = [one[:, None] if one.ndim == 1 else one for one in given]
    K = given[0].shape[-1] if K is None else K
    for one in given:
        if one.ndim != 2 or one.shape[1] != K or not K:
            raise ValueError(f"a series has shape {one.shape}, but (T,) or (T, {K}) is needed")
        if positive and (one <= 0).any():
            raise ValueError(f"log=True needs values above 0, but a series has {one.min():g}")
    if exog is None:
        return given, None, flat, many
    exogs = [
        check_data.real_numbers("exog", check_data.by_name("exog", one, names[1])) for one in (exog if many else [exog])
    ]
    E = exogs[0].shape[-1] if E is None else E
    if len(exogs) != len(given) or any(e.shape != (len(g), E) for e, g in zip(exogs, given)):
        raise ValueError(
            f"exog has shapes {[e.shape for e in exogs]}, but the series have {[len(g) for g in given]} steps and E={E}"
        )
    return given, exogs, flat, many


class Differences:
    """Logarithms, then differences to earlier steps, and their inverse.

    Parameters
    ----------
    lags : list of int
        Differences to the value so many steps before, one after the other.
    log : bool
        Take logarithms first.

    Examples
    --------
    >>> differences = Differences([1], log=False)
    >>> differences.apply(np.array([[1.0], [3.0], [6.0]])).ravel()
    array([2., 3.])
    >>> differences.undo(np.array([[4.0], [5.0]]), np.array([[6.0]])).ravel()
    array([10., 15.])
    """

    def __init__(self, lags: list[int], log: bool):
        self.lags, self.log = lags, log

    @property
    def lost(self) -> int:
        """Number of steps at the start that have no difference."""
        return sum(self.lags)

    def apply(self, series: np.ndarray) -> np.ndarray:
        """Transform a series (T, K) into (T - lost, K) differences."""
        series = np.log(series) if self.log else series
        for lag in self.lags:
            series = series[lag:] - series[:-lag]
        return series

    def undo(self, changes: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Turn differences (horizon, …, K) back into values; `before`, (steps, K), are the values before them."""
        stages = [np.log(before) if self.log else before]
        for lag in self.lags:
            stages.append(stages[-1][lag:] - stages[-1][:-lag])
        for lag, stage in reversed(list(zip(self.lags, stages))):
            past = np.broadcast_to(
                stage.reshape(len(stage), *[1] * (changes.ndim - 2), stage.shape[1]), (len(stage), *changes.shape[1:])
            )
            values = np.concatenate([past, changes])
            for t in range(len(past), len(values)):
                values[t] += values[t - lag]
            changes = values[len(past) :]
        return np.exp(changes) if self.log else changes


def naive_error(series: list[np.ndarray], season: int | None) -> float:
    """Mean absolute error of the seasonal naive forecast within the series (Hyndman & Koehler 2006).

    It is 0 if it is no larger than rounding errors.
    """
    lag = season or 1
    error = float(np.concatenate([np.abs(one[lag:] - one[:-lag]).ravel() for one in series]).mean())
    return error if error > 4 * np.finfo(np.float64).eps * max(np.abs(one).max() for one in series) else 0.0

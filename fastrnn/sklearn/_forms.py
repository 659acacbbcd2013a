"""The forms in which sequences may be given, and the conversion of the less usual ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fastrnn._check import data as check_data


def as_list(X: ArrayLike) -> ArrayLike:
    """Convert nested frames and object arrays to lists of sequences, and torch tensors to arrays.

    Other forms are returned as they are.

    Raises
    ------
    ValueError
        If `X` is ambiguous or ragged; the message says what to give instead.
    """
    if check_data.is_frame(X):
        several = getattr(getattr(X, "index", None), "nlevels", 1) > 1
        cells = X.to_numpy() if X.shape[0] and X.shape[1] else None
        nested = several or (cells is not None and cells.dtype == object and np.ndim(cells[0, 0]) == 1)
        return check_data.nested(X) if nested else X
    if hasattr(X, "detach"):
        return check_data.numeric("X", X)
    if isinstance(X, np.ndarray) and X.dtype == object and X.size and np.ndim(X.flat[0]):
        X = list(X) if X.ndim == 1 else check_data.stacked_cells(X)
    if not isinstance(X, (list, tuple)) or not X:
        return X
    axes = [_axes(x) for x in X]
    if set(axes) == {1}:
        lengths = {len(x) for x in X}
        if len(lengths) > 1 or any(hasattr(x, "dtype") for x in X):
            raise ValueError(
                "X is a list of 1-D arrays, which may be sequences of one feature or single steps of several features: "
                "for sequences give [np.reshape(x, (-1, 1)) for x in X], for single steps np.stack(X)"
            )
    elif len(set(axes)) > 1:
        k = next(k for k, a in enumerate(axes) if a != axes[0])
        raise ValueError(f"X[{k}] has {axes[k]} axes, but X[0] has {axes[0]}: each sequence must be (T, features)")
    if axes[0] > 1:
        X = [check_data.numeric(f"sequence {k}", x) if isinstance(x, (list, tuple)) else x for k, x in enumerate(X)]
    return X


def _axes(x: ArrayLike) -> int:
    """Count the axes of an array, or of nested lists, whose parts may have different lengths."""
    if not isinstance(x, (list, tuple)):
        return np.ndim(x)
    return 1 + (_axes(x[0]) if x else 0)

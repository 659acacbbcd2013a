"""What the readers of series with labels share: the kinds of labels, and padding at the end of a series."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np

from fastrnn.data._files import PathLike, counted, not_empty, numbers_of_line, say

Classes = tuple[list[np.ndarray], list[str]]
Numbers = tuple[list[np.ndarray], np.ndarray]
Unlabelled = tuple[list[np.ndarray], None]
Labelled = tuple[list[np.ndarray], list[str] | np.ndarray | None]
Kind = Literal["class", "number"] | None


def check_labels(labels: str | None) -> None:
    """Check the argument `labels` of the readers."""
    if labels not in ("class", "number", None):
        raise ValueError(f"labels={labels!r}, but it must be 'class', 'number' or None")


def labelled(X: list[np.ndarray], y: list, labels: str | None, path: PathLike) -> Labelled:
    """Return the series and their labels, as the argument `labels` asks for them."""
    not_empty(X, y, path, "series")
    return X, None if labels is None else np.array(y) if labels == "number" else y


def without_padding(
    channels: Sequence[Sequence[str]], path: PathLike, number: int, padding: Collection[str]
) -> np.ndarray:
    """Make an array (T, channels) without the steps at the end at which all channels are padding."""
    steps = list(zip(*channels))
    kept = max(
        (t for t, step in enumerate(steps, 1) if any(value.strip().lower() not in padding for value in step)), default=0
    )
    if not kept:
        raise ValueError(f"{path}, line {number}: the series has no values")
    return np.array([numbers_of_line(step, path, number) for step in steps[:kept]])


def report_padding(path: PathLike, padded: int) -> None:
    """Report how many steps of padding were left out."""
    if padded:
        say(f"{path}: {counted(padded, 'missing step')} at the ends of shorter series left out")

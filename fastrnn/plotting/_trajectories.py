"""Trajectories of hidden states, in the plane of their first two principal components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from fastrnn import _check
from fastrnn.plotting._figure import PathLike, check_path, new_figure, plain_axes, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure


def project(states: ArrayLike, lengths: ArrayLike | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Project states onto their first two principal components; one or two units are returned as they are.

    Parameters
    ----------
    states : array_like of shape (T, H) or (T, B, H)
        Finite real numbers.
    lengths : array_like of shape (B,), optional
        Lengths of the sequences, ints from 0 to T. The components do not depend on steps past a length.

    Returns
    -------
    points : ndarray of shape (T, B, 2), or (T, B, 1) if H is 1
        The coordinates.
    shares : ndarray of shape (2,) or None
        Fraction of the variance along each component; None for one or two units.

    Examples
    --------
    >>> import numpy as np
    >>> t = np.linspace(0, 6, 50)
    >>> points, shares = project(np.stack([np.sin(t), np.cos(t), np.sin(t) + np.cos(t)], 1))
    >>> points.shape, round(float(shares.sum()), 6)
    ((50, 1, 2), 1.0)
    """
    states = np.asarray(states)
    if states.dtype.kind not in "fiu":
        raise TypeError(f"states are {states.dtype}, but they must be real numbers")
    if states.ndim not in (2, 3) or not states.size:
        raise ValueError(f"states must be a non-empty array (T, H) or (T, B, H), got shape {states.shape}")
    if states.ndim == 2:
        states = states[:, None]
    T, B, H = states.shape
    lengths = _check.lengths(lengths, T, B, False)
    valid = np.ones((T, B), bool) if lengths is None else np.arange(T)[:, None] < lengths
    states = states.astype(np.float64)
    rows = states[valid]
    if not len(rows):
        raise ValueError(f"there is no step to draw: all {B} lengths are 0")
    if not np.isfinite(rows).all():
        t, b, unit = np.argwhere(~np.isfinite(states) & valid[..., None])[0]
        raise ValueError(
            f"states have {states[t, b, unit]} at step {t} of sequence {b}, unit {unit}: they must be finite"
        )
    if H <= 2:
        return states, None
    centred = rows - rows.mean(0)
    _, s, axes = np.linalg.svd(centred, full_matrices=len(rows) < 2)
    shares = np.zeros(2)
    shares[: len(s)] = s[:2] ** 2 / max((s**2).sum(), np.finfo(np.float64).tiny)
    return np.where(valid[..., None], states - rows.mean(0), 0.0) @ axes[:2].T, shares


def trajectories(
    states: ArrayLike,
    path: PathLike | None = None,
    *,
    labels: Sequence[str] | None = None,
    lengths: ArrayLike | None = None,
) -> Figure:
    """Draw the paths of hidden states: a line for each sequence, coloured by time, from a circle to a square.

    The axes are the first two principal components of all steps. Two units are drawn as they are, and one unit is drawn
    over time.

    Parameters
    ----------
    states : array_like of shape (T, H) or (T, B, H)
        States, for example the output y of an RNN.
    path : str or path-like, optional
        File to write: .svg, .png or .pdf.
    labels : sequence of str, optional
        B texts, written at the ends of the lines.
    lengths : array_like of shape (B,), optional
        Lengths of the sequences, ints from 0 to T; by default T.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    ValueError
        If `states` have another shape or are not finite, or the numbers of labels and of sequences differ.
    TypeError
        If `states` are not real numbers.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> y, _ = fastrnn.GRU(0, 8, seed=0)(np.zeros((30, 3, 0), "float32"), np.eye(3, 8, dtype="float32")[None])
    >>> figure = fastrnn.plotting.trajectories(y, labels=["a", "b", "c"])
    >>> figure.axes[0].get_xlabel()[:21]
    'principal component 1'
    """
    path = check_path(path)
    points, shares = project(states, lengths)
    T, B, dimensions = points.shape
    if labels is not None and len(labels) != B:
        raise ValueError(f"there are {len(labels)} labels, but {B} sequences")
    ends = np.full(B, T) if lengths is None else np.asarray(lengths).reshape(B)
    names = [f"unit {k}" for k in range(dimensions)]
    if shares is not None:
        names = [f"principal component {k + 1} ({share:.0%})" for k, share in enumerate(shares)]
    if dimensions == 1:
        points = np.concatenate([np.broadcast_to(np.arange(T)[:, None, None], (T, B, 1)), points], 2)
        names = ["step t", *names]
    figure = new_figure(6.4, 4.8, layout="constrained")
    axes = plain_axes(figure.add_subplot(), *names)
    colours = _draw_lines(axes, points, ends)
    if labels is not None:
        for b in np.flatnonzero(ends):
            axes.annotate(str(labels[b]), points[ends[b] - 1, b], xytext=(6, 4), textcoords="offset points", size=9)
    if dimensions == 2:
        figure.colorbar(colours, ax=axes, label="step t")
    return save_figure(figure, path)


def _draw_lines(axes: Axes, points: np.ndarray, ends: np.ndarray) -> ScalarMappable:
    """Draw a line for each sequence, coloured by time, and return the scale of the colours."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection
    from matplotlib.colors import Normalize

    colours = ScalarMappable(Normalize(0, max(1, len(points) - 1)), "viridis")
    for b, end in enumerate(ends):
        line = points[:end, b]
        if not len(line):
            continue
        pieces, times = np.stack([line[:-1], line[1:]], 1), np.arange(end - 1) + 0.5
        axes.add_collection(LineCollection(pieces, colors=colours.to_rgba(times), lw=1.6, alpha=0.9))
        for marker, t in (("o", 0), ("s", end - 1)):
            axes.plot(*line[t], marker, ms=6, mfc=colours.to_rgba(t), mec="black", mew=0.7, zorder=3)
    axes.margins(0.08)
    axes.autoscale_view()
    return colours

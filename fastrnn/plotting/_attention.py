"""Maps of attention: the weights that a decoder gives to the symbols of the source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from fastrnn.models.symbols import END
from fastrnn.plotting._figure import PathLike, check_path, label, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def attention(weights: ArrayLike, source: Sequence[str], target: Sequence[str], path: PathLike | None = None) -> Figure:
    """Draw a map of attention: a column for each source symbol, a row for each target symbol.

    The darker a cell, the larger the weight.

    Parameters
    ----------
    weights : array_like of shape (T, S)
        Weights from 0 to 1: one of the arrays that ``EncoderDecoder.attention_maps`` returns.
    source : str or sequence of str
        The S symbols of the source; the symbols of a str are its characters.
    target : str or sequence of str
        The T symbols of the target. If there are T - 1, ``</s>`` is added.
    path : str or path-like, optional
        File to write: .svg, .png or .pdf.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    ValueError
        If the shape of `weights` does not fit the symbols, or a weight is not from 0 to 1.
    TypeError
        If `weights` are not real numbers.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> figure = fastrnn.plotting.attention(np.eye(3), ["das", "haus", "."], ["the", "house"])
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['the', 'house', '</s>']
    """
    path, weights = check_path(path), np.asarray(weights)
    source, target = list(source), list(target)
    if weights.dtype.kind not in "fiu":
        raise TypeError(f"weights are {weights.dtype}, but they must be real numbers")
    if len(weights) == len(target) + 1:
        target.append(END)
    if weights.shape != (len(target), len(source)) or not weights.size:
        symbols = f"{len(target)} symbols of the target and {len(source)} of the source"
        raise ValueError(f"weights have shape {weights.shape}, but there are {symbols}")
    if not ((weights >= 0) & (weights <= 1)).all():
        raise ValueError(f"weights must be from 0 to 1, got {weights[~((weights >= 0) & (weights <= 1))][0]}")
    figure = new_figure(1.6 + 0.34 * len(source), 1.4 + 0.34 * len(target), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(weights, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(
        range(len(source)), [label(symbol) for symbol in source], rotation=90 if max(map(len, source)) > 1 else 0
    )
    axes.set_yticks(range(len(target)), [label(symbol) for symbol in target])
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.set_xlabel("source")
    axes.set_ylabel("target")
    return save_figure(figure, path)

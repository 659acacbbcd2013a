"""Where a decoder looked: the weights of attention as a picture."""

from __future__ import annotations

import numpy as np

from fastrnn.models.symbols import END
from fastrnn.plotting._figure import checked_path, label, new_figure, saved


def attention(weights, source, target, path=None):
    """Draw a map of attention: a column for each symbol of the source, a row for each of the target; the darker, the more weight.

    Parameters
    ----------
    weights : (T, S) numbers from 0 to 1, one of those that ``EncoderDecoder.attention_maps`` gives
    source : the S symbols, a list of str, or a str of S characters
    target : the T symbols; or T - 1, then ``</s>`` is behind them
    path : file to write, .svg, .png or .pdf, optional

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError, TypeError  weights have another shape than the symbols, or are not numbers from 0 to 1.
    ImportError            matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> figure = fastrnn.plotting.attention(np.eye(3), ["das", "haus", "."], ["the", "house"])
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['the', 'house', '</s>']
    """
    path, weights = checked_path(path), np.asarray(weights)
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
    return saved(figure, path)

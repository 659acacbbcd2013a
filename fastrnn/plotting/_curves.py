"""Curves: norms of gradients over time lags, and the figures of training runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import ArrayLike

from fastrnn.plotting._figure import COLOURS, PathLike, check_path, label, new_figure, plain_axes, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Entries = Sequence[Mapping[str, object]]  # a list of dicts


class Trained(Protocol):
    """A model with the history of its training."""

    @property
    def history(self) -> Entries: ...


def plot_gradient_norms(norms: Mapping[str, ArrayLike], path: PathLike | None = None) -> Figure:
    """Draw the results of `gradient_norms` for several networks, on a logarithmic axis.

    Parameters
    ----------
    norms : dict of str to array_like of shape (T,)
        For the name of each network its norms, lag 0 first.
    path : str or path-like, optional
        File to write: .svg, .png or .pdf.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Examples
    --------
    >>> import fastrnn
    >>> nets = {"RNN": fastrnn.RNN(2, 8, seed=0), "LSTM": fastrnn.LSTM(2, 8, seed=0)}
    >>> norms = {name: fastrnn.plotting.gradient_norms(net, T=20) for name, net in nets.items()}
    >>> fastrnn.plotting.plot_gradient_norms(norms).axes[0].get_yscale()
    'log'
    """
    path = check_path(path)
    if not isinstance(norms, Mapping) or not norms:
        raise TypeError(
            f"norms are {type(norms).__name__}, but they must be a dict {{name: array}} with at least one name"
        )
    norms = {str(name): np.asarray(values, np.float64) for name, values in norms.items()}
    for name, values in norms.items():
        if values.ndim != 1 or not (values >= 0).all():
            raise ValueError(
                f"the norms of {name!r} have shape {values.shape}, but they must be (T,) numbers >= 0: see "
                "gradient_norms"
            )
    figure = new_figure(7.2, 4.2, layout="constrained")
    axes = plain_axes(figure.add_subplot(), "steps k back from the loss", "norm of the gradient at step T - k")
    for (name, values), colour in zip(norms.items(), COLOURS * len(norms)):
        axes.semilogy(np.where(values > 0, values, np.nan), color=colour, label=label(name), lw=1.8)
    axes.axhline(1, color="#999999", lw=0.8, ls=":")
    axes.grid(axis="y", color="#e5e5e5", lw=0.6)
    axes.legend(frameon=False)
    return save_figure(figure, path)


def history(models: Trained | Entries | Mapping[str, Trained | Entries], path: PathLike | None = None) -> Figure:
    """Draw the curves of one or several training runs: losses on the left axis, other metrics on the right axis.

    Parameters
    ----------
    models : model, list of dict, or dict of str to one of these
        A model with a `history`, or such a history; a dict has several of them, by name.
    path : str or path-like, optional
        File to write: .svg, .png or .pdf.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    ValueError
        If a history is empty: the model has not been fitted.
    TypeError
        If there is neither a model with a history nor a history.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import fastrnn
    >>> entries = [{"epoch": k, "train_loss": 2 / k, "validation_loss": 2.1 / k} for k in (1.0, 2.0)]
    >>> [line.get_label() for line in fastrnn.plotting.history(entries).axes[0].lines]
    ['training loss', 'validation loss']
    """
    path = check_path(path)
    if isinstance(models, Mapping):
        runs = {f"{name}: ": _entries(name, run) for name, run in models.items()}
    else:
        runs = {"": _entries("the model", models)}
    names = list(dict.fromkeys(key for entries in runs.values() for entry in entries for key in entry))
    losses = [name for name in ("train_loss", "validation_loss") if name in names]
    others = [name for name in names if name.startswith("validation_") and name not in losses]
    figure = new_figure(7.2, 4.2, layout="constrained")
    left = plain_axes(figure.add_subplot(), "epoch", "loss")
    right = left.twinx() if others else None
    if right is not None:
        right.spines["top"].set_visible(False)
        right.set_ylabel(label(", ".join(map(_words, others))))
    lines = []
    for k, (run, entries) in enumerate(runs.items()):
        colour = k if len(runs) > 1 else None
        lines += _draw_curves(left, entries, losses, run, ["-", "--", "-.", ":"], colour, len(lines))
        lines += _draw_curves(right, entries, others, run, [":", "-.", "--", "-"], colour, len(lines))
    figure.legend(handles=lines, frameon=False, loc="outside upper center", ncols=min(4, len(lines)))
    return save_figure(figure, path)


def _draw_curves(
    axes: Axes | None, entries: Entries, keys: list[str], run: str, styles: list[str], colour: int | None, drawn: int
) -> list[Line2D]:
    """Draw a curve for each key, in one colour for a run; with one run only (`colour` None), each in its own."""
    lines = []
    for style, key in zip(styles, keys):
        points = [(entry["epoch"], entry[key]) for entry in entries if entry.get(key) is not None]
        if points:
            lines += axes.plot(
                *zip(*points), style, marker="." if len(points) < 40 else "", lw=1.6, label=label(run + _words(key)),
                color=COLOURS[(drawn + len(lines) if colour is None else colour) % len(COLOURS)],
            )  # fmt: skip
    return lines


def _entries(name: str, run: Trained | Entries) -> Entries:
    """The history of a model, or the history itself."""
    entries = getattr(run, "history", run)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "epoch" in entry for entry in entries):
        raise TypeError(
            f"{name} is {type(run).__name__}, but it must be a model with a history, or a list of dicts with the key "
            "'epoch'"
        )
    if not entries:
        raise ValueError(f"the history of {name} is empty: call fit(…) first")
    return entries


def _words(key: str) -> str:
    return key.replace("train_", "training ").replace("_", " ")

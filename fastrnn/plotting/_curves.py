"""Trajectories of the state, gradient norms over time lags, curves of a training."""

from __future__ import annotations

import numpy as np

from fastrnn import _check
from fastrnn.layers.recurrent import Recurrent
from fastrnn.plotting._figure import COLOURS, checked_path, label, new_figure, plain_axes, saved


def plane(states, lengths=None):
    """The two principal components of some states; with one or two units those units themselves.

    Parameters
    ----------
    states : (T, H) or (T, B, H) real numbers
    lengths : (B,) ints in 0..T, optional; steps past a row's length are left out of the components

    Returns
    -------
    points : (T, B, 2), or (T, B, 1) if H is 1
    shares : (2,) part of the variance that lies along each component; None for units

    Examples
    --------
    >>> import numpy as np
    >>> t = np.linspace(0, 6, 50)
    >>> points, shares = plane(np.stack([np.sin(t), np.cos(t), np.sin(t) + np.cos(t)], 1))
    >>> points.shape, round(float(shares.sum()), 6)
    ((50, 1, 2), 1.0)
    """
    states = np.asarray(states)
    if states.dtype.kind not in "fiu":
        raise TypeError(f"states are {states.dtype}, but they must be real numbers")
    if states.ndim not in (2, 3) or not states.size:
        raise ValueError(f"states must be (T, H) or (T, B, H), none of them 0, got shape {states.shape}")
    if states.ndim == 2:
        states = states[:, None]
    T, B, H = states.shape
    lengths = _check.lengths(lengths, T, B, False)
    valid = np.ones((T, B), bool) if lengths is None else np.arange(T)[:, None] < lengths
    states = states.astype(np.float64)
    rows = states[valid]
    if not len(rows):
        raise ValueError(f"no step is left: all {B} lengths are 0")
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


def trajectories(states, path=None, *, labels=None, lengths=None):
    """Draw how hidden states move: each sequence is a line coloured by time, from a circle to a square.

    The plane is that of the first two principal components of all steps. Two units are the plane themselves; one is drawn over time.

    Parameters
    ----------
    states : (T, H) or (T, B, H), for example the y of an RNN
    path : file to write, .svg, .png or .pdf, optional
    labels : B strings, written at the ends of the lines, optional
    lengths : (B,) ints in 0..T, optional

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError, TypeError  states are not of such a shape or not finite, there are not as many labels as sequences.
    ImportError            matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> y, _ = fastrnn.GRU(0, 8, seed=0)(np.zeros((30, 3, 0), "float32"), np.eye(3, 8, dtype="float32")[None])
    >>> figure = fastrnn.plotting.trajectories(y, labels=["a", "b", "c"])
    >>> figure.axes[0].get_xlabel()[:21]
    'principal component 1'
    """
    path = checked_path(path)
    points, shares = plane(states, lengths)
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
    return saved(figure, path)


def _draw_lines(axes, points, ends):
    """One line per sequence, its pieces coloured by time. Returns the colours' scale."""
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


def gradient_norms(rnn, T: int = 100, *, wrt: str = "state", batch_size: int = 16, x=None, seed: int = 0) -> np.ndarray:
    """How much of a loss at the last step reaches the steps before: the gradient's norm over the time lag.

    The loss is the last output in a random direction of length 1. Where the norm falls towards 0 the gradient vanishes, where it grows
    it explodes (Hochreiter 1991; Bengio, Simard & Frasconi 1994). Computed in float64 on a copy, without dropout. Needs no matplotlib.

    Parameters
    ----------
    rnn : RNN, GRU or LSTM
    T : steps
    wrt : "state": with respect to the state (h, and c of an LSTM; all layers) after step T-1-k, or "x": the input of step T-1-k
    batch_size : sequences that the mean is taken over
    x : (T, B, input_size), optional: inputs in place of standard normal ones
    seed : of inputs, context and directions

    Returns
    -------
    (T,) float64: the mean norm at lag k = 0, 1, …, T-1

    Raises
    ------
    ValueError  the network is bidirectional, so its last output is not at the end of anything; or it has no input and wrt="x".

    Examples
    --------
    >>> import fastrnn
    >>> rnn = fastrnn.RNN(2, 8, seed=0)
    >>> norms = fastrnn.plotting.gradient_norms(rnn, T=50)
    >>> norms.shape, round(float(norms[0]), 6), bool(norms[49] < 1e-6)
    ((50,), 1.0, True)
    """
    if not isinstance(rnn, Recurrent):
        raise TypeError(f"rnn is {type(rnn).__name__}, but it must be an RNN, GRU or LSTM of fastrnn")
    T, batch_size, seed = _check.size("T", T), _check.size("batch_size", batch_size), _check.size("seed", seed, least=0)
    _check.choice("wrt", wrt, ("state", "x"))
    if rnn.bidirectional:
        raise ValueError(
            f"this {rnn.kind} is bidirectional, so its last output is no end of what came before: give one direction"
        )
    if wrt == "x" and not rnn.input_size:
        raise ValueError(f"this {rnn.kind} has input_size=0, so there is no gradient of x: give wrt='state'")
    rng, net = np.random.default_rng(seed), rnn.astype("float64")
    net.batch_first, net.dropout = False, 0.0
    if x is None:
        x = rng.standard_normal((T, batch_size, net.input_size))
    else:
        x = np.asarray(x, np.float64)
        if x.ndim != 3 or x.shape[0] != T or not x.shape[1] or x.shape[2] != net.input_size:
            raise ValueError(
                f"x has shape {x.shape}, but it must be (T, B, input_size) with T={T}, B >= 1 and input_size={net.input_size}"
            )
    B = x.shape[1]
    context = rng.standard_normal((B, net.context_size)) if net.context_size else None
    direction = rng.standard_normal((B, net.hidden_size))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return np.array([float(norms.mean()) for norms in _norms(net, x, context, direction, wrt)])


def _norms(net, x, context, direction, wrt):
    """The (B,) norms at each lag: one step forward after the other, then as many back."""
    state, backwards = None, []
    for x_t in x:
        (_, state), backward = net.vjp(x_t[None], state, context=context)
        backwards.append(backward)
    dy, dstate = direction[None], None
    for backward in reversed(backwards):
        g = backward(dy, dstate)
        if wrt == "x":
            yield np.linalg.norm(g.x[0], axis=1)
        else:
            yield _state_norms(net, direction, dstate)
        dy, dstate = None, g.state


def _state_norms(net, direction, dstate):
    """(B,) norms of the gradient of a state, which for the last step is that of its output."""
    if dstate is None:
        return np.linalg.norm(direction, axis=1)
    return np.sqrt(sum((d**2).sum((0, 2)) for d in (dstate if net.cell.has_c else (dstate,))))


def plot_gradient_norms(norms: dict, path=None):
    """Draw what `gradient_norms` found for several networks, on a logarithmic axis.

    Parameters
    ----------
    norms : {name: (T,) norms, lag 0 first}
    path : file to write, .svg, .png or .pdf, optional

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> import fastrnn
    >>> nets = {"RNN": fastrnn.RNN(2, 8, seed=0), "LSTM": fastrnn.LSTM(2, 8, seed=0)}
    >>> norms = {name: fastrnn.plotting.gradient_norms(net, T=20) for name, net in nets.items()}
    >>> fastrnn.plotting.plot_gradient_norms(norms).axes[0].get_yscale()
    'log'
    """
    path = checked_path(path)
    if not isinstance(norms, dict) or not norms:
        raise TypeError(
            f"norms are {type(norms).__name__}, but they must be a dict {{name: array}} with at least one name"
        )
    norms = {str(name): np.asarray(values, np.float64) for name, values in norms.items()}
    for name, values in norms.items():
        if values.ndim != 1 or not (values >= 0).all():
            raise ValueError(
                f"the norms of {name!r} have shape {values.shape}, but they must be (T,) numbers >= 0: see gradient_norms"
            )
    figure = new_figure(7.2, 4.2, layout="constrained")
    axes = plain_axes(figure.add_subplot(), "steps k back from the loss", "norm of the gradient at step T - k")
    for (name, values), colour in zip(norms.items(), COLOURS * len(norms)):
        axes.semilogy(np.where(values > 0, values, np.nan), color=colour, label=label(name), lw=1.8)
    axes.axhline(1, color="#999999", lw=0.8, ls=":")
    axes.grid(axis="y", color="#e5e5e5", lw=0.6)
    axes.legend(frameon=False)
    return saved(figure, path)


def history(models, path=None):
    """Draw the curves of a training, or of several: losses to the left, other figures (accuracy, …) to the right.

    Parameters
    ----------
    models : a model with a `history`, such a history (list of dicts), or {name: one of these}
    path : file to write, .svg, .png or .pdf, optional

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError  a history is empty: the model has not been fitted.

    Examples
    --------
    >>> import fastrnn
    >>> looks = [{"epoch": 1.0, "train_loss": 2.0, "validation_loss": 2.1}, {"epoch": 2.0, "train_loss": 1.5, "validation_loss": 1.7}]
    >>> [line.get_label() for line in fastrnn.plotting.history(looks).axes[0].lines]
    ['training loss', 'validation loss']
    """
    path = checked_path(path)
    if isinstance(models, dict):
        runs = {f"{name}: ": _looks(name, run) for name, run in models.items()}
    else:
        runs = {"": _looks("the model", models)}
    names = list(dict.fromkeys(key for looks in runs.values() for look in looks for key in look))
    losses = [name for name in ("train_loss", "validation_loss") if name in names]
    others = [name for name in names if name.startswith("validation_") and name not in losses]
    figure = new_figure(7.2, 4.2, layout="constrained")
    axes = plain_axes(figure.add_subplot(), "epoch", "loss")
    right = axes.twinx() if others else None
    if right is not None:
        right.spines["top"].set_visible(False)
        right.set_ylabel(label(", ".join(map(_words, others))))
    lines = []
    for k, (run, looks) in enumerate(runs.items()):
        for place, keys in ((axes, losses), (right, others)):
            for style, key in zip(["-", "--", "-.", ":"] if place is axes else [":", "-.", "--", "-"], keys):
                points = [(look["epoch"], look[key]) for look in looks if look.get(key) is not None]
                if points:
                    colour = COLOURS[(k if len(runs) > 1 else len(lines)) % len(COLOURS)]
                    marker = "." if len(points) < 40 else ""
                    lines += place.plot(
                        *zip(*points), style, marker=marker, color=colour, lw=1.6, label=label(run + _words(key))
                    )
    figure.legend(handles=lines, frameon=False, loc="outside upper center", ncols=min(4, len(lines)))
    return saved(figure, path)


def _looks(name, run):
    """The list of dicts of a model or of itself."""
    looks = getattr(run, "history", run)
    if not isinstance(looks, list) or not all(isinstance(look, dict) and "epoch" in look for look in looks):
        raise TypeError(
            f"{name} is {type(run).__name__}, but it must be a model with a history, or a list of dicts with the key 'epoch'"
        )
    if not looks:
        raise ValueError(f"the history of {name} is empty: call fit(…) first")
    return looks


def _words(key):
    return key.replace("train_", "training ").replace("_", " ")

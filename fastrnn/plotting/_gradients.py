"""Norms of the gradient over time lags, computed without matplotlib."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from fastrnn import _check
from fastrnn.layers.recurrent import Recurrent


def gradient_norms(
    rnn: Recurrent,
    T: int = 100,
    *,
    wrt: Literal["state", "x"] = "state",
    batch_size: int = 16,
    x: ArrayLike | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Compute how much of the gradient of a loss at the last step reaches the steps before.

    The loss is the last output projected on a random direction of length 1. Where the norm of its gradient falls
    towards 0, the gradient vanishes; where it grows, the gradient explodes. Computed in float64 on a copy of the
    network, without dropout. Needs no matplotlib.

    Parameters
    ----------
    rnn : RNN, GRU or LSTM
        A network of one direction.
    T : int, default 100
        Number of steps.
    wrt : {"state", "x"}, default "state"
        What the gradient is taken with respect to: the state of all layers (h, and c of an LSTM) after step T-1-k, or
        the input of that step.
    batch_size : int, default 16
        Number of sequences over which the norms are averaged.
    x : array_like of shape (T, B, input_size), optional
        Inputs; by default `batch_size` sequences of standard normal ones.
    seed : int, default 0
        Seed of the inputs, the context and the directions.

    Returns
    -------
    ndarray of shape (T,), float64
        The mean norm at each lag k = 0, 1, …, T-1.

    Raises
    ------
    TypeError
        If `rnn` is not an RNN, GRU or LSTM of fastrnn.
    ValueError
        If the network is bidirectional, since the reverse direction has seen one step only at the last one, or if it
        has no input and ``wrt="x"``.

    References
    ----------
    Hochreiter, Untersuchungen zu dynamischen neuronalen Netzen, 1991. Bengio, Simard and Frasconi, Learning long-term
    dependencies with gradient descent is difficult, 1994.

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
            f"this {rnn.kind} is bidirectional, and at the last step its reverse direction has seen that step only: "
            "give a network of one direction"
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
                f"x has shape {x.shape}, but it must be (T, B, input_size) with T={T}, B >= 1 and "
                f"input_size={net.input_size}"
            )
    B = x.shape[1]
    context = rng.standard_normal((B, net.context_size)) if net.context_size else None
    direction = rng.standard_normal((B, net.hidden_size))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return np.array([float(norms.mean()) for norms in _norms(net, x, context, direction, wrt)])


def _norms(
    net: Recurrent, x: np.ndarray, context: np.ndarray | None, direction: np.ndarray, wrt: str
) -> Iterator[np.ndarray]:
    """Iterate over the (B,) norms at each lag: all steps forward one by one, then back."""
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


def _state_norms(
    net: Recurrent, direction: np.ndarray, dstate: np.ndarray | tuple[np.ndarray, np.ndarray] | None
) -> np.ndarray:
    """Compute the (B,) norms of the gradient of a state; for the last step it is the gradient of the output."""
    if dstate is None:
        return np.linalg.norm(direction, axis=1)
    return np.sqrt(sum((d**2).sum((0, 2)) for d in (dstate if net.cell.has_c else (dstate,))))

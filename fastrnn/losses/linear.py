"""A Linear layer and its softmax cross-entropy, computed together."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastrnn import _check, _engine
from fastrnn._core.recording import RecordedFloat
from fastrnn._types import Array, ArrayLike, IntsLike
from fastrnn.losses.softmax import logit_above_mean, shares_of, smooth

if TYPE_CHECKING:
    from fastrnn.layers.feedforward import Linear

_LOGITS_BYTES = 4 << 20  # memory for the logits of one chunk of rows


def softmax_linear(
    linear: Linear, x: ArrayLike, targets: IntsLike, *, weights: ArrayLike | None = None, label_smoothing: float = 0.0,
    into: Array,
) -> tuple[float, Array]:  # fmt: skip
    """Compute the softmax cross-entropy of a Linear layer's outputs, and the gradients, without storing all logits.

    The results are those of ``linear.vjp`` and ``softmax_cross_entropy.vjp``. Logits are computed for as many rows at a
    time as fit into 4 MB, at least 64, and overwritten by their gradient.

    Parameters
    ----------
    linear : Linear
        Layer with V outputs.
    x : ndarray, shape (N, in_features)
        Input of the layer.
    targets : array_like of int, shape (N,)
        Class of each row, below V. A row with a negative target is ignored.
    weights : array_like, shape (N,), optional
        Weight of each row in the mean, >= 0.
    label_smoothing : float, default 0.0
        Fraction of the target's probability that is spread evenly over all V classes, 0 to 1.
    into : ndarray, 1-D
        Array laid out as the flat buffer of the layer's storage, to add the gradients of weight and bias to.

    Returns
    -------
    loss : float
        Mean over the rows that are not ignored.
    dx : ndarray, shape (N, in_features)
        Gradient of x.

    Raises
    ------
    TypeError
        A dtype does not fit.
    ValueError
        A shape or a target does not fit.

    Examples
    --------
    >>> import fastrnn
    >>> linear = fastrnn.Linear(3, 4, seed=0)
    >>> x, targets = np.ones((5, 3), "float32"), np.array([0, 1, 2, 3, -1])
    >>> loss, dx = softmax_linear(linear, x, targets, into=np.zeros_like(linear.storage.flat))
    >>> bool(abs(loss - softmax_linear_nll(linear, x, targets).sum() / 4) < 1e-6)
    True
    >>> dx.shape, bool((dx[4] == 0).all())
    ((5, 3), True)
    """
    return loss_of_rows(linear, x, targets, weights=weights, label_smoothing=label_smoothing, into=into)


def loss_of_rows(linear, x, targets, *, weights=None, label_smoothing, into, ends=None):
    """As `softmax_linear`. ends : in a plan, its last element is the number of rows; other targets are negative."""
    eps = _check.number("label_smoothing", label_smoothing, least=0, most=1)
    x, targets = _checked_rows(linear, x, targets)
    grads, _ = linear._gradients(into)
    shares, divisor = _engine.empty(len(targets), linear.dtype), np.ones(1)
    if weights is None:
        # As in SoftmaxCrossEntropy.vjp: dividing by the rounded weight gives the exact mean
        divisor = _engine.empty(1, np.float64)
        _engine.mean_weights(targets, shares, divisor)
    else:
        _engine.call(shares_of, weights, targets, shares)
    dx, nll = _engine.empty(x.shape, x.dtype), _engine.empty(len(x), np.float64)
    for rows, logits, count in _chunks(linear, x, ends):
        above = _engine.empty(len(logits), np.float64) if eps else None
        if eps:  # before dlogits overwrites the logits
            _engine.call(_of_first, count, logit_above_mean, logits, targets[rows], above)
        _engine.softmax_nll(logits, targets[rows], shares[rows], nll[rows], logits, count)
        if eps:
            smoothed = functools.partial(smooth, eps=eps)
            _engine.call(_of_first, count, smoothed, nll[rows], logits, targets[rows], shares[rows], above)
        _engine.gemm(True, False, logits, x[rows], grads["weight"], count)
        if "bias" in grads:
            _engine.column_sum(logits, grads["bias"], count)
        _engine.product(logits, linear._packed_weight()[1], None, dx[rows], False, count)
    loss = _engine.empty(1, np.float64)
    _engine.mean_loss(nll, divisor, loss, ends)
    return RecordedFloat.of(loss), dx


def _of_first(count, function, *arrays):
    """Call a function of the first rows of some arrays; count : None for all, or the last element is their number."""
    n = None if count is None else int(count[-1])
    function(*(a[:n] for a in arrays))


def softmax_linear_nll(linear: Linear, x: ArrayLike, targets: IntsLike) -> NDArray[np.float64]:
    """Compute the negative log-likelihood of each row of a Linear layer's outputs, without storing all logits.

    Parameters
    ----------
    linear : Linear
        Layer with V outputs.
    x : ndarray, shape (N, in_features)
        Input of the layer.
    targets : array_like of int, shape (N,)
        Class of each row, below V. A row with a negative target is ignored.

    Returns
    -------
    ndarray, shape (N,)
        NLL of each row in nats, 0 where the row is ignored.
    """
    if _engine.recording() is not None:
        raise _engine.NotRecordable("softmax_linear_nll")
    x, targets = _checked_rows(linear, x, targets)
    found = np.empty(len(targets))
    for rows, logits, _ in _chunks(linear, x):
        _engine.softmax_nll(logits, targets[rows], None, found[rows], None)
    return found


def _checked_rows(linear, x, targets):
    x = _check.features(linear, x)
    if x.ndim != 2:
        raise ValueError(f"x must be (N, in_features), got shape {x.shape}")
    return x, _check.targets(targets, x.shape[:1], linear.out_features)


def _most_rows(linear):
    """Rows of a chunk. They depend on V and the dtype only."""
    return max(64, _LOGITS_BYTES // (linear.out_features * linear.dtype.itemsize))


def _chunks(linear, x, ends=None):
    """Iterate over (slice of rows, logits, `ends` of these rows), in the same memory in turn."""
    most, counts = _most_rows(linear), None
    memory = _engine.empty((min(most, len(x)), linear.out_features), linear.dtype)
    if ends is not None:
        counts = _engine.empty(-(-len(x) // most), np.intp)
        _engine.chunk_counts(ends, most, counts)
    for k, first in enumerate(range(0, len(x), most)):
        rows = slice(first, min(first + most, len(x)))
        logits, count = memory[: rows.stop - first], None if counts is None else counts[k : k + 1]
        _engine.product(x[rows], linear._packed_weight()[0], linear.params.get("bias"), logits, False, count)
        yield rows, logits, count

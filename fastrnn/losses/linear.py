"""A Linear layer and its softmax cross-entropy, computed together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastrnn import _check, _engine
from fastrnn._types import Array, ArrayLike, IntsLike
from fastrnn.losses.softmax import add_smoothing, logit_above_mean, step_weights

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
    if _engine.recording() is not None:
        raise _engine.NotRecordable("softmax_linear")
    eps = _check.number("label_smoothing", label_smoothing, least=0, most=1)
    x, targets = _checked_rows(linear, x, targets)
    grads, _ = linear._gradients(into)
    valid = targets >= 0
    if weights is None:
        # As in SoftmaxCrossEntropy.vjp: dividing by the rounded weight gives the exact mean
        count = int(np.count_nonzero(valid))
        weights = np.full(len(targets), 1 / max(1, count), linear.dtype)
        divisor = float(weights[0]) * count if count else 1.0
    else:
        weights, total = step_weights(weights, targets)
        weights, divisor = (weights / (total or 1.0)).astype(linear.dtype), 1.0
    dx, loss = np.empty_like(x), 0.0
    for rows, logits, nll in _chunks(linear, x):
        above = logit_above_mean(logits, targets[rows]) if eps else None  # before dlogits overwrites the logits
        _engine.softmax_nll(logits, targets[rows], weights[rows], nll, logits)
        if eps:
            nll += eps * weights[rows] * above
            add_smoothing(logits, targets[rows], eps * weights[rows])
        loss += float(nll.sum())
        _engine.gemm(True, False, logits, x[rows], grads["weight"])
        if "bias" in grads:
            _engine.column_sum(logits, grads["bias"])
        _engine.product(logits, linear._packed_weight()[1], None, dx[rows])
    return loss / divisor, dx


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
    for rows, logits, nll in _chunks(linear, x):
        _engine.softmax_nll(logits, targets[rows], None, nll, None)
        found[rows] = nll
    return found


def _checked_rows(linear, x, targets):
    x = _check.features(linear, x)
    if x.ndim != 2:
        raise ValueError(f"x must be (N, in_features), got shape {x.shape}")
    return x, _check.targets(targets, x.shape[:1], linear.out_features)


def _chunks(linear, x):
    """Iterate over (slice of rows, logits, memory for the NLL). The size depends on V and the dtype only."""
    V = linear.out_features
    most = max(64, _LOGITS_BYTES // (V * linear.dtype.itemsize))
    memory = np.empty((min(most, len(x)), V), linear.dtype)
    nll = np.empty(len(memory))
    for first in range(0, len(x), most):
        rows = slice(first, min(first + most, len(x)))
        count = rows.stop - first
        yield rows, linear(x[rows], out=memory[:count]), nll[:count]

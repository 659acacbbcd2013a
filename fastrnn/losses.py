"""Losses: each called for its value, or with `vjp` for its value and the gradient."""

from __future__ import annotations

import numpy as np

from fastrnn import _check, _engine


class SoftmaxCrossEntropy:
    """Negative log-likelihood of the right class at each step, in nats; the mean over the valid steps.

    A step is not valid if its target is negative or if it lies beyond its row's length. Without a valid step the loss is 0.
    With ``label_smoothing=eps`` it is the cross-entropy to ``(1-eps) * onehot(target) + eps/V`` (Szegedy et al. 2016), as torch's.
    Use the instance ``fastrnn.losses.softmax_cross_entropy``.

    Examples
    --------
    >>> logits = np.zeros((3, 2, 4), "float32")
    >>> targets = np.array([[0, 1], [2, -1], [3, 3]])
    >>> round(softmax_cross_entropy(logits, targets), 6)
    1.386294
    >>> loss, backward = softmax_cross_entropy.vjp(logits, targets, lengths=[3, 2])
    >>> backward()[0, 0]
    array([-0.1875,  0.0625,  0.0625,  0.0625], dtype=float32)
    """

    def __call__(
        self, logits, targets, *, lengths=None, weights=None, label_smoothing: float = 0.0, reduction: str = "mean"
    ):
        """The loss, or the NLL of each step.

        Parameters
        ----------
        logits : (T, B, V), or (rows, V), float32 or float64
        targets : ints of shape (T, B), or (rows,), below V; a negative one is ignored
        lengths : (B,) ints in 0..T, optional: the steps t >= lengths[b] of row b are ignored
        weights : numbers >= 0 of the shape of targets, optional: the mean is weighted by them
        label_smoothing : 0..1, the part of a target's probability that is spread evenly over all V classes
        reduction : "mean" gives a float; "none" gives float64 of the shape of targets, 0 where ignored

        Raises
        ------
        TypeError, ValueError  a shape, dtype, length or target does not fit; the message names both sizes.
        """
        _check.choice("reduction", reduction, ("mean", "none"))
        eps = _check.number("label_smoothing", label_smoothing, least=0, most=1)
        logits, targets, count = self._prepare(logits, targets, lengths)
        nll, rows = np.empty(targets.size), logits.reshape(targets.size, logits.shape[-1])
        _engine.softmax_nll(rows, targets.ravel(), None, nll, None)
        if eps:
            nll += eps * _above_the_mean(rows, targets.ravel())
        if weights is not None:
            weights, total = _weights(weights, targets)
            nll *= weights
            count = total
        if reduction == "none":
            return nll.reshape(targets.shape)
        return float(nll.sum()) / count if count else 0.0

    def vjp(self, logits, targets, *, lengths=None, weights=None, label_smoothing: float = 0.0, out=None):
        """The loss and its backward: ``loss, backward = softmax_cross_entropy.vjp(logits, targets)``.

        ``backward(dloss=1.0)`` gives dlogits, of the shape of logits. `out`, an array like logits (or logits itself, which is then
        overwritten), receives dlogits already now; the backward then returns `out`. The others as in a call.
        """
        eps = _check.number("label_smoothing", label_smoothing, least=0, most=1)
        logits, targets, count = self._prepare(logits, targets, lengths)
        dlogits = np.empty_like(logits) if out is None else _check.writable_like("out", out, logits.shape, logits.dtype)
        logits = _check.apart(logits, dlogits, same=True)
        nll = np.empty(targets.size)
        if weights is None:
            # nll will hold weight * NLL; dividing by the weight as it was rounded, and by the count, leaves the exact mean
            weights = np.full(targets.size, 1 / max(1, count), logits.dtype)
            divisor = float(weights[0]) * count if count else 1.0
        else:
            weights, total = _weights(weights, targets)
            weights, divisor = (weights / (total or 1.0)).astype(logits.dtype), 1.0
        targets, V = targets.ravel(), logits.shape[-1]
        rows, drows = logits.reshape(len(targets), V), dlogits.reshape(len(targets), V)
        above = _above_the_mean(rows, targets) if eps else None  # of the logits, before dlogits takes their place
        _engine.softmax_nll(rows, targets, weights, nll, drows)
        if eps:
            nll += eps * weights * above
            _smooth(drows, targets, eps * weights)
        loss = float(nll.sum()) / divisor

        def backward(dloss: float = 1.0) -> np.ndarray:
            if out is not None and dloss == 1.0:
                return out
            return dlogits * dlogits.dtype.type(dloss)

        return loss, backward

    @staticmethod
    def _prepare(logits, targets, lengths):
        """Checked arguments, ignored targets made -1, and the number of valid steps."""
        logits = _check.real_rows("logits", logits)
        targets = _check.targets(targets, logits.shape[:-1], logits.shape[-1])
        mask = _check.valid_steps(lengths, targets.shape, "logits")
        if mask is not None:
            targets = np.where(mask, targets, -1)
        return logits, targets, int(np.count_nonzero(targets >= 0))


def _above_the_mean(rows, targets):
    """(steps,) float64: the target's logit less the mean of all V, which is how far the mean of -log p lies above the NLL; 0 if ignored."""
    steps = np.arange(len(targets))
    return np.where(targets >= 0, rows[steps, targets] - rows.mean(1, dtype=np.float64), 0.0)


def _smooth(dlogits, targets, mass):
    """dlogits (steps, V) += mass * (onehot - 1/V), in place, for the steps that are not ignored."""
    mass = np.where(targets >= 0, mass, 0).astype(dlogits.dtype)
    dlogits -= (mass / dlogits.shape[1])[:, None]
    dlogits[np.arange(len(targets)), targets] += mass


def _weights(weights, targets):
    """(steps,) float64, and the sum of those of the valid steps."""
    weights = _check.weights(weights, targets.shape).ravel()
    return weights, float(weights[targets.ravel() >= 0].sum())


_LOGITS_BYTES = 4 << 20  # of the logits that softmax_linear holds at a time


def softmax_linear(linear, x, targets, *, weights=None, label_smoothing: float = 0.0, into):
    """A Linear layer and its softmax cross-entropy as one, with the gradient; the logits of all steps never exist together.

    The value and the gradients are those of ``linear.vjp`` and ``softmax_cross_entropy.vjp``. Logits are made for as many steps as fit
    into 4 MB, at least 64, turned into their gradient in place, and used up.

    Parameters
    ----------
    linear : fastrnn.Linear with V outputs
    x : (N, in_features)
    targets : (N,) ints below V; a negative one is ignored
    weights : (N,) numbers >= 0, optional: the mean is weighted by them
    label_smoothing : as in SoftmaxCrossEntropy
    into : 1-D array laid out like the layer's storage; the gradients of weight and bias are added to it

    Returns
    -------
    loss : float, the mean over the steps that are not ignored
    dx : (N, in_features)

    Raises
    ------
    TypeError, ValueError  a shape, dtype or target does not fit; the message names both sizes.

    Examples
    --------
    >>> import fastrnn
    >>> linear = fastrnn.Linear(3, 4, seed=0)
    >>> into = np.zeros_like(linear.storage.flat)
    >>> loss, dx = softmax_linear(linear, np.ones((5, 3), "float32"), np.array([0, 1, 2, 3, -1]), into=into)
    >>> round(loss, 4) == round(float(softmax_linear_nll(linear, np.ones((5, 3), "float32"), np.array([0, 1, 2, 3, -1])).sum() / 4), 4)
    True
    >>> dx.shape, bool((dx[4] == 0).all())
    ((5, 3), True)
    """
    eps = _check.number("label_smoothing", label_smoothing, least=0, most=1)
    x, targets = _steps_of(linear, x, targets)
    grads, _ = linear._gradients(into)
    valid = targets >= 0
    if weights is None:
        # as in SoftmaxCrossEntropy.vjp: dividing by the weight as it was rounded leaves the exact mean
        count = int(np.count_nonzero(valid))
        weights = np.full(len(targets), 1 / max(1, count), linear.dtype)
        divisor = float(weights[0]) * count if count else 1.0
    else:
        weights, total = _weights(weights, targets)
        weights, divisor = (weights / (total or 1.0)).astype(linear.dtype), 1.0
    dx, loss = np.empty_like(x), 0.0
    for rows, logits, nll in _chunks(linear, x):
        above = _above_the_mean(logits, targets[rows]) if eps else None  # before dlogits takes the place of the logits
        _engine.softmax_nll(logits, targets[rows], weights[rows], nll, logits)
        if eps:
            nll += eps * weights[rows] * above
            _smooth(logits, targets[rows], eps * weights[rows])
        loss += float(nll.sum())
        _engine.gemm(True, False, logits, x[rows], grads["weight"])
        if "bias" in grads:
            _engine.column_sum(logits, grads["bias"])
        _engine.product(logits, linear._packed_weight()[1], None, dx[rows])
    return loss / divisor, dx


def softmax_linear_nll(linear, x, targets) -> np.ndarray:
    """(N,) float64: the NLL of each step, 0 where the target is negative; arguments, chunks and errors as for `softmax_linear`."""
    x, targets = _steps_of(linear, x, targets)
    found = np.empty(len(targets))
    for rows, logits, nll in _chunks(linear, x):
        _engine.softmax_nll(logits, targets[rows], None, nll, None)
        found[rows] = nll
    return found


def _steps_of(linear, x, targets):
    x = _check.features(linear, x)
    if x.ndim != 2:
        raise ValueError(f"x must be (N, in_features), got shape {x.shape}")
    return x, _check.targets(targets, x.shape[:1], linear.out_features)


def _chunks(linear, x):
    """(slice of rows, their logits, room for their NLL), a few rows at a time; how many depends on V and the dtype only."""
    V = linear.out_features
    most = max(64, _LOGITS_BYTES // (V * linear.dtype.itemsize))
    memory = np.empty((min(most, len(x)), V), linear.dtype)
    nll = np.empty(len(memory))
    for first in range(0, len(x), most):
        rows = slice(first, min(first + most, len(x)))
        count = rows.stop - first
        yield rows, linear(x[rows], out=memory[:count]), nll[:count]


class _OfRows:
    """Losses over numbers: a subclass has ``_of(y, targets) -> per number, its derivative``, and `_sums` the numbers of a step or not."""

    _sums = False

    def __call__(self, y, targets, *, lengths=None, weights=None) -> float:
        """The loss.

        Parameters
        ----------
        y : (T, B, n), or (rows, n), float32 or float64
        targets : of y's shape and dtype
        lengths : (B,) ints in 0..T, optional: the steps t >= lengths[b] of row b are ignored
        weights : numbers >= 0 of the shape of y without its last axis, optional: the mean is weighted by them

        Raises
        ------
        TypeError, ValueError  a shape, dtype or length does not fit; the message names both sizes.
        """
        return self.vjp(y, targets, lengths=lengths, weights=weights)[0]

    def vjp(self, y, targets, *, lengths=None, weights=None):
        """The loss and its backward: ``loss, backward = loss_function.vjp(y, targets)``; ``backward(dloss=1.0)`` gives dy."""
        y = _check.real_rows(self._name, y)
        targets = self._targets(y, targets)
        mask = _check.valid_steps(lengths, y.shape[:-1], self._name)
        value, derivative = self._of(y, targets)
        if mask is not None:
            value[~mask] = derivative[~mask] = 0
        total = float(y[..., 0].size if mask is None else np.count_nonzero(mask)) if y.shape[-1] else 0.0
        if weights is not None:
            weights = _check.weights(weights, y.shape[:-1])
            total = float(weights.sum() if mask is None else weights[mask].sum())
            weights = weights.astype(y.dtype)[..., None]
            value, derivative = value * weights, derivative * weights
        share = 1 / (total * (1 if self._sums else y.shape[-1])) if total else 0.0
        loss = float(value.sum(dtype=np.float64)) * share

        def backward(dloss: float = 1.0) -> np.ndarray:
            return derivative * derivative.dtype.type(dloss * share)

        return loss, backward

    _name = "y"

    def _targets(self, y, targets):
        return _check.like("targets", targets, "y", y)


class MeanSquaredError(_OfRows):
    """Squared difference, the mean over the numbers of the valid steps (those below their row's length).

    Use the instance ``fastrnn.losses.mean_squared_error``. What stands in y and targets beyond a length does not matter, be it NaN.

    Examples
    --------
    >>> y, targets = np.zeros((3, 2, 1)), np.arange(6.0).reshape(3, 2, 1)
    >>> round(mean_squared_error(y, targets), 6)
    9.166667
    >>> loss, backward = mean_squared_error.vjp(y, targets, lengths=[1, 3])
    >>> loss, backward().ravel()
    (8.75, array([ 0. , -0.5,  0. , -1.5,  0. , -2.5]))
    """

    @staticmethod
    def _of(y, targets):
        difference = y - targets
        return difference * difference, 2 * difference


class BinaryCrossEntropy(_OfRows):
    """Negative log-likelihood of labels that are each there or not, in nats: the sum over the labels of a step, the mean over the steps.

    Use the instance ``fastrnn.losses.binary_cross_entropy``. `y` are logits, `targets` probabilities, mostly 0 or 1. It is n times torch's
    BCEWithLogitsLoss, which takes the mean over the n labels too. What stands beyond a length does not matter, be it NaN.

    Examples
    --------
    >>> round(binary_cross_entropy(np.zeros((4, 3)), np.eye(4, 3)), 4)  # 3 ln 2
    2.0794
    >>> loss, backward = binary_cross_entropy.vjp(np.array([[1.0, -800.0]]), np.array([[1.0, 0.0]]))
    >>> round(loss, 4), backward().round(4)
    (0.3133, array([[-0.2689,  0.    ]]))
    """

    _sums, _name = True, "logits"

    @staticmethod
    def _of(z, targets):
        e = np.exp(-np.abs(z))
        p = np.where(z >= 0, 1, e) / (1 + e)
        return np.maximum(z, 0) - z * targets + np.log1p(e), p - targets


class QuantileLoss(_OfRows):
    """Pinball loss (Koenker & Bassett 1978): least where y is the quantile of the targets; the mean over quantiles and valid steps.

    Parameters
    ----------
    quantiles : Q numbers in 0..1; y has a multiple of Q numbers at each step: K targets by Q quantiles, targets have the K

    Examples
    --------
    >>> loss = QuantileLoss((0.1, 0.9))
    >>> loss(np.zeros((1, 2)), np.array([[10.0]]))  # (0.1 * 10 + 0.9 * 10) / 2
    5.0
    """

    def __init__(self, quantiles):
        self.quantiles = np.array([_check.number("a quantile", q, above=0, below=1) for q in quantiles])

    def _targets(self, y, targets):
        targets = np.asarray(targets)
        Q = len(self.quantiles)
        if targets.ndim != y.ndim or (*targets.shape[:-1], targets.shape[-1] * Q) != y.shape:
            raise ValueError(
                f"targets have shape {targets.shape}, but y has {y.shape}, which must be {Q} quantiles of each"
            )
        return np.repeat(targets, Q, axis=-1)

    def _of(self, y, targets):
        q = np.tile(self.quantiles, y.shape[-1] // len(self.quantiles)).astype(y.dtype)
        over = targets < y
        slope = np.where(over, 1 - q, -q).astype(y.dtype)
        return slope * (y - targets), slope


softmax_cross_entropy = SoftmaxCrossEntropy()
mean_squared_error = MeanSquaredError()
binary_cross_entropy = BinaryCrossEntropy()

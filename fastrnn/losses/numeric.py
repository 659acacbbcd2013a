"""Losses over numbers: squared error, binary cross-entropy, quantiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fastrnn import _check, _engine
from fastrnn._core.recording import RecordedFloat
from fastrnn._types import Array, ArrayLike, IntsLike


class _NumericLoss:
    """Base class of losses over numbers.

    A subclass has ``_of(y, targets)``, which returns the loss of each number and its derivative. With `_sums` the
    losses of the numbers of a step are added up, otherwise averaged.
    """

    _sums = False

    def __call__(
        self, y: ArrayLike, targets: ArrayLike, *, lengths: IntsLike | None = None, weights: ArrayLike | None = None
    ) -> float:
        """Compute the loss.

        Parameters
        ----------
        y : ndarray, shape (T, B, n) or (rows, n)
            Predictions, float32 or float64.
        targets : ndarray, shape of y
            Targets, of the dtype of y. For `QuantileLoss` with 1/Q of its features.
        lengths : array_like of int, shape (B,), optional
            Number of valid steps of each sequence, 0 to T. Values after it, even NaN, do not count.
        weights : array_like, shape of y without its last axis, optional
            Weight of each step in the mean, >= 0.

        Returns
        -------
        float
            Mean over the valid steps.

        Raises
        ------
        TypeError
            A dtype does not fit.
        ValueError
            A shape or a length does not fit.
        """
        return self.vjp(y, targets, lengths=lengths, weights=weights)[0]

    def vjp(
        self, y: ArrayLike, targets: ArrayLike, *, lengths: IntsLike | None = None, weights: ArrayLike | None = None
    ) -> tuple[float, Callable[..., Array]]:
        """Compute the loss, and return the function that computes the gradient.

        Parameters
        ----------
        y : ndarray, shape (T, B, n) or (rows, n)
            Predictions, float32 or float64.
        targets : ndarray, shape of y
            Targets, of the dtype of y. For `QuantileLoss` with 1/Q of its features.
        lengths : array_like of int, shape (B,), optional
            Number of valid steps of each sequence, 0 to T. Values after it, even NaN, do not count.
        weights : array_like, shape of y without its last axis, optional
            Weight of each step in the mean, >= 0.

        Returns
        -------
        loss : float
            Mean over the valid steps.
        backward : callable
            Function of ``(dloss=1.0)`` that returns the gradient of y.
        """
        y = _check.real_rows(self._name, y)
        targets = self._targets(y, targets)
        mask = _check.valid_steps(lengths, y.shape[:-1], self._name)
        derivative, outcome = _engine.empty(y.shape, y.dtype), _engine.empty(2, np.float64)
        self._run(y, targets, mask, weights, derivative, outcome)

        def backward(dloss: float = 1.0) -> np.ndarray:
            dy = _engine.empty(y.shape, y.dtype)
            _engine.scale(derivative, dloss, outcome, dy)
            return dy

        return RecordedFloat.of(outcome), backward

    def _run(self, y, targets, mask, weights, derivative, outcome):
        _engine.call(self._compute, y, targets, mask, weights, derivative, outcome)

    def _compute(self, y, targets, mask, weights, derivative, outcome):
        """Set the derivative of each loss, and outcome to the mean loss and the share of a number in it."""
        value, derivative[...] = self._of(y, self._repeated(targets))
        if mask is not None:
            value[~mask] = derivative[~mask] = 0
        total = float(y[..., 0].size if mask is None else np.count_nonzero(mask)) if y.shape[-1] else 0.0
        if weights is not None:
            weights = _check.weights(weights, y.shape[:-1])
            total = float(weights.sum() if mask is None else weights[mask].sum())
            weights = weights.astype(y.dtype)[..., None]
            value, derivative[...] = value * weights, derivative * weights
        share = 1 / (total * (1 if self._sums else y.shape[-1])) if total else 0.0
        outcome[:] = float(value.sum(dtype=np.float64)) * share, share

    _name = "y"

    def _targets(self, y, targets):
        return _check.like("targets", targets, "y", y)

    def _repeated(self, targets):
        return targets


class MeanSquaredError(_NumericLoss):
    """Mean squared error: mean of the squared differences over all numbers of the valid steps.

    Use the instance ``fastrnn.losses.mean_squared_error``.

    Examples
    --------
    >>> from fastrnn.losses import mean_squared_error
    >>> y, targets = np.zeros((3, 2, 1)), np.arange(6.0).reshape(3, 2, 1)
    >>> round(mean_squared_error(y, targets), 6)
    9.166667
    >>> loss, backward = mean_squared_error.vjp(y, targets, lengths=[1, 3])
    >>> loss, backward().ravel()
    (8.75, array([ 0. , -0.5,  0. , -1.5,  0. , -2.5]))
    """

    def _run(self, y, targets, mask, weights, derivative, outcome):
        shape, n = y.shape[:-1], y.shape[-1]
        y, targets, derivative = (a.reshape(a.size // n if n else 0, n) for a in (y, targets, derivative))
        if weights is not None:
            given, weights = weights, _engine.empty(shape, np.float64)
            _engine.call(np.copyto, weights, _check.weights(given, shape))
        _engine.squared_error(y, targets, mask, weights, derivative, outcome)


class BinaryCrossEntropy(_NumericLoss):
    """Binary cross-entropy: negative log-likelihood of independent labels in nats, summed over the labels of a step.

    The loss is the mean over the valid steps. `y` are logits, `targets` are probabilities, usually 0 or 1. It is n
    times PyTorch's BCEWithLogitsLoss, which also averages over the n labels. Use the instance
    ``fastrnn.losses.binary_cross_entropy``.

    Examples
    --------
    >>> from fastrnn.losses import binary_cross_entropy
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


class QuantileLoss(_NumericLoss):
    """Quantile (pinball) loss (Koenker & Bassett 1978), averaged over quantiles and valid steps.

    It is smallest where y is the quantile of the targets.

    Parameters
    ----------
    quantiles : sequence of float
        Q quantiles, each between 0 and 1. For targets with K features, y has K * Q, the Q quantiles of each feature
        side by side.

    Examples
    --------
    >>> loss = QuantileLoss((0.1, 0.9))
    >>> loss(np.zeros((1, 2)), np.array([[10.0]]))  # (0.1 * 10 + 0.9 * 10) / 2
    5.0
    """

    def __init__(self, quantiles: Sequence[float]):
        self.quantiles = np.array([_check.number("a quantile", q, above=0, below=1) for q in quantiles])

    def _targets(self, y, targets):
        targets = np.asarray(targets)
        Q = len(self.quantiles)
        if targets.ndim != y.ndim or (*targets.shape[:-1], targets.shape[-1] * Q) != y.shape:
            raise ValueError(
                f"y has shape {y.shape}, but targets of shape {targets.shape} need {Q} quantiles of each feature"
            )
        return targets

    def _repeated(self, targets):
        return np.repeat(targets, len(self.quantiles), axis=-1)

    def _of(self, y, targets):
        q = np.tile(self.quantiles, y.shape[-1] // len(self.quantiles)).astype(y.dtype)
        over = targets < y
        slope = np.where(over, 1 - q, -q).astype(y.dtype)
        return slope * (y - targets), slope

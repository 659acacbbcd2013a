"""Softmax cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from fastrnn import _check, _engine
from fastrnn._core.recording import RecordedFloat
from fastrnn._types import Array, ArrayLike, IntsLike


class SoftmaxCrossEntropy:
    """Softmax cross-entropy: mean negative log-likelihood of the targets over the valid steps, in nats.

    A step is ignored if its target is negative or if it comes after the length of its row. Without a valid step the
    loss is 0. With ``label_smoothing=eps`` it is the cross-entropy to ``(1-eps) * onehot(target) + eps/V`` (Szegedy et
    al. 2016), as in PyTorch. Use the instance ``fastrnn.losses.softmax_cross_entropy``.

    Examples
    --------
    >>> from fastrnn.losses import softmax_cross_entropy
    >>> logits = np.zeros((3, 2, 4), "float32")
    >>> targets = np.array([[0, 1], [2, -1], [3, 3]])
    >>> round(softmax_cross_entropy(logits, targets), 6)
    1.386294
    >>> loss, backward = softmax_cross_entropy.vjp(logits, targets, lengths=[3, 2])
    >>> backward()[0, 0]
    array([-0.1875,  0.0625,  0.0625,  0.0625], dtype=float32)
    """

    @overload
    def __call__(
        self, logits: ArrayLike, targets: IntsLike, *, lengths: IntsLike | None = None,
        weights: ArrayLike | None = None, label_smoothing: float = 0.0, reduction: Literal["mean"] = "mean",
    ) -> float: ...  # fmt: skip

    @overload
    def __call__(
        self, logits: ArrayLike, targets: IntsLike, *, lengths: IntsLike | None = None,
        weights: ArrayLike | None = None, label_smoothing: float = 0.0, reduction: Literal["none"],
    ) -> NDArray[np.float64]: ...  # fmt: skip

    @overload
    def __call__(
        self, logits: ArrayLike, targets: IntsLike, *, lengths: IntsLike | None = None,
        weights: ArrayLike | None = None, label_smoothing: float = 0.0, reduction: Literal["mean", "none"],
    ) -> float | NDArray[np.float64]: ...  # fmt: skip

    def __call__(
        self, logits: ArrayLike, targets: IntsLike, *, lengths: IntsLike | None = None,
        weights: ArrayLike | None = None, label_smoothing: float = 0.0, reduction: Literal["mean", "none"] = "mean",
    ) -> float | NDArray[np.float64]:  # fmt: skip
        """Compute the loss.

        Parameters
        ----------
        logits : ndarray, shape (T, B, V) or (rows, V)
            Unnormalised log-probabilities, float32 or float64.
        targets : array_like of int, shape of logits without its last axis
            Class of each step, below V. A step with a negative target is ignored.
        lengths : array_like of int, shape (B,), optional
            Number of valid steps of each sequence, 0 to T.
        weights : array_like, shape of targets, optional
            Weight of each step in the mean, >= 0.
        label_smoothing : float, default 0.0
            Fraction of the target's probability that is spread evenly over all V classes, 0 to 1.
        reduction : {"mean", "none"}, default "mean"
            "mean" returns the mean over the valid steps, "none" the loss of each step.

        Returns
        -------
        float or ndarray
            The loss; with ``reduction="none"`` float64 of the shape of targets, 0 where ignored.

        Raises
        ------
        TypeError
            A dtype does not fit.
        ValueError
            A shape, a length or a target does not fit.
        """
        _check.choice("reduction", reduction, ("mean", "none"))
        eps = _check.number("label_smoothing", label_smoothing, least=0, most=1)
        if _engine.recording() is not None:
            raise _engine.NotRecordable("softmax_cross_entropy without its gradient")
        logits, targets = self._prepare(logits, targets, lengths)
        count = int(np.count_nonzero(targets >= 0))
        nll, rows = np.empty(targets.size), logits.reshape(targets.size, logits.shape[-1])
        _engine.softmax_nll(rows, targets.ravel(), None, nll, None)
        if eps:
            nll += eps * logit_above_mean(rows, targets.ravel())
        if weights is not None:
            weights, total = step_weights(weights, targets)
            nll *= weights
            count = total
        if reduction == "none":
            return nll.reshape(targets.shape)
        return float(nll.sum()) / count if count else 0.0

    def vjp(
        self, logits: ArrayLike, targets: IntsLike, *, lengths: IntsLike | None = None,
        weights: ArrayLike | None = None, label_smoothing: float = 0.0, out: Array | None = None,
    ) -> tuple[float, Callable[..., Array]]:  # fmt: skip
        """Compute the loss, and return the function that computes the gradient.

        Parameters
        ----------
        logits : ndarray, shape (T, B, V) or (rows, V)
            Unnormalised log-probabilities, float32 or float64.
        targets : array_like of int, shape of logits without its last axis
            Class of each step, below V. A step with a negative target is ignored.
        lengths : array_like of int, shape (B,), optional
            Number of valid steps of each sequence, 0 to T.
        weights : array_like, shape of targets, optional
            Weight of each step in the mean, >= 0.
        label_smoothing : float, default 0.0
            Fraction of the target's probability that is spread evenly over all V classes, 0 to 1.
        out : ndarray, shape of logits, optional
            Array to write the gradient to. It may be logits itself, which is then overwritten at once.

        Returns
        -------
        loss : float
            Mean over the valid steps.
        backward : callable
            Function of ``(dloss=1.0)`` that returns the gradient of logits: `out` if it was given and dloss is 1.
        """
        eps = _check.number("label_smoothing", label_smoothing, least=0, most=1)
        logits, targets = self._prepare(logits, targets, lengths)
        shape, dtype = logits.shape, logits.dtype
        dlogits = _engine.empty(shape, dtype) if out is None else _check.writable_like("out", out, shape, dtype)
        logits = _check.apart(logits, dlogits, same=True)
        nll = _engine.empty(targets.size, np.float64)
        if weights is None:
            # nll becomes weight * NLL. Dividing its sum by the rounded weight and by the count gives the exact mean
            weights, divisor = _engine.empty(targets.size, logits.dtype), _engine.empty(1, np.float64)
            _engine.mean_weights(targets.ravel(), weights, divisor)
        else:
            shares, divisor = _engine.empty(targets.size, logits.dtype), np.ones(1)
            _engine.call(shares_of, weights, targets, shares)
            weights = shares
        targets, V = targets.ravel(), logits.shape[-1]
        rows, drows = logits.reshape(len(targets), V), dlogits.reshape(len(targets), V)
        above = _engine.empty(len(targets), np.float64) if eps else None
        if eps:  # before dlogits may overwrite the logits
            _engine.call(logit_above_mean, rows, targets, above)
        _engine.softmax_nll(rows, targets, weights, nll, drows)
        if eps:
            _engine.call(smooth, nll, drows, targets, weights, above, eps)
        mean = _engine.empty(1, np.float64)
        _engine.mean_loss(nll, divisor, mean)
        loss = RecordedFloat.of(mean)

        def backward(dloss: float = 1.0) -> np.ndarray:
            if out is not None and dloss == 1.0:
                return out
            scaled = _engine.empty(dlogits.shape, dlogits.dtype)
            _engine.scale(dlogits, dloss, None, scaled)
            return scaled

        return loss, backward

    @staticmethod
    def _prepare(logits, targets, lengths):
        """Check the arguments; returns logits, and targets with -1 for ignored steps."""
        logits = _check.real_rows("logits", logits)
        targets = _check.targets(targets, logits.shape[:-1], logits.shape[-1])
        mask = _check.valid_steps(lengths, targets.shape, "logits")
        if mask is not None:
            given, targets = targets, _engine.empty(targets.shape, np.int64)
            _engine.call(valid_targets, given, mask, targets)
        return logits, targets


def logit_above_mean(rows, targets, out=None):
    """Target's logit minus the mean of all V, (steps,) float64, 0 if ignored: mean of -log p minus the NLL."""
    steps, out = np.arange(len(targets)), np.empty(len(targets)) if out is None else out
    out[:] = np.where(targets >= 0, rows[steps, targets] - rows.mean(1, dtype=np.float64), 0.0)
    return out


def smooth(nll, dlogits, targets, weights, above, eps):
    """Add what label smoothing changes to the weighted losses and to their gradient."""
    nll += eps * weights * above
    add_smoothing(dlogits, targets, eps * weights)


def add_smoothing(dlogits, targets, mass):
    """Add mass * (onehot - 1/V) to dlogits (steps, V) in place, for the steps that are not ignored."""
    mass = np.where(targets >= 0, mass, 0).astype(dlogits.dtype)
    dlogits -= (mass / dlogits.shape[1])[:, None]
    dlogits[np.arange(len(targets)), targets] += mass


def valid_targets(targets, mask, out):
    """Set out to the targets, and to -1 where the mask is False."""
    out[...] = np.where(mask, targets, -1)


def shares_of(weights, targets, out):
    """Set out to the weights, divided by the sum of those of the valid steps."""
    weights, total = step_weights(weights, targets)
    out[...] = weights / (total or 1.0)


def step_weights(weights, targets):
    """Check weights; returns them as (steps,) float64, and the sum of those of the valid steps."""
    weights = _check.weights(weights, targets.shape).ravel()
    return weights, float(weights[targets.ravel() >= 0].sum())

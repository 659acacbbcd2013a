"""Checks that stop a training, or skip an update: loss, gradient, learning rate, parameters and running means."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from fastrnn import optim
from fastrnn._core.finite import checking, is_finite
from fastrnn.optim.clipping import norm_and_scale
from fastrnn.training.groups import arrays_of, frozen_to_zero

if TYPE_CHECKING:
    from fastrnn.training.checkpoint import Position

_ROOTS = {np.dtype(kind): math.sqrt(np.finfo(kind).max) for kind in ("float32", "float64")}  # whose squares are finite
_FEW = 32  # with fewer targets a loss may be small by chance; at most so many updates are considered


class DivergedError(Exception):
    """Training cannot continue."""


class NotFiniteError(DivergedError):
    """The loss or the gradient of an update is not finite. The update can be skipped."""


def is_first(at: Position) -> bool:
    """Whether the next update is the first, or the batches so far were too small to estimate the loss."""
    return at.first_loss is None or (at.first_weight < _FEW and at.update < _FEW)


def check_loss(at: Position, factor: float | None, loss: float, weight: float) -> None:
    """Check the loss of an update.

    The loss of a few sequences may be small by chance. Where batches are small, the first loss is therefore the
    greatest of several updates.

    Parameters
    ----------
    at : Position
        The position of the run. Its first loss is set here.
    factor : float or None
        The loss may be at most `factor` times the first one.
    loss : float
        The loss.
    weight : float
        The number of targets of the update.

    Raises
    ------
    NotFiniteError
        The loss is NaN or infinite.
    DivergedError
        The loss is too high.
    """
    if not math.isfinite(loss):
        raise NotFiniteError(f"the loss is {loss:.4g} at update {at.update + 1}")
    if is_first(at):
        at.first_loss, at.first_weight = max(loss, at.first_loss or 0.0), at.first_weight + weight
    if factor is not None and at.first_loss and loss > factor * at.first_loss:
        over = f"over {factor:g} times its first value {at.first_loss:.4g}"
        raise DivergedError(f"the loss is {loss:.4g} at update {at.update + 1}, {over}")


def ready_gradient(
    gradient: np.ndarray, optimizer, model, clip_norm: float | None, clip_value: float | None, update: int
) -> float:
    """Set the gradient of frozen parameters to zero and clip the gradient by value, in place.

    Returns
    -------
    float
        The factor for the optimizer, which clips the gradient by norm.

    Raises
    ------
    NotFiniteError
        The gradient is not finite, or so large that the optimizer cannot square it.
    """
    frozen_to_zero(gradient, optimizer)
    norm, scale = norm_and_scale(gradient, clip_norm or 1.0)
    if not math.isfinite(norm) and not is_finite(gradient):  # before clip_value, which makes infinity finite
        bad = ~np.isfinite(gradient)
        name = next((name for name, slot in model.slots.items() if bad[slot.slice].any()), "")
        raise NotFiniteError(
            f"{int(bad.sum())} of {bad.size} values of the gradient are not finite at update {update}, "
            f"the first in {name}"
        )
    if clip_value is not None:
        optim.clip_by_value(gradient, clip_value)
        norm, scale = norm_and_scale(gradient, clip_norm or 1.0)
    used = norm if clip_norm is None else min(norm, clip_norm)
    if getattr(optimizer, "squares", False) and used > _ROOTS[gradient.dtype]:
        raise NotFiniteError(
            f"the norm of the gradient is {used:.4g} at update {update}: {gradient.dtype} cannot hold its square, "
            "which the optimizer needs; set clip_norm"
        )
    return 1.0 if clip_norm is None else scale


def learning_rate(lr: float, factor: float, update: int) -> float:
    """Multiply the learning rate by the factor of the schedule.

    Raises
    ------
    DivergedError
        The product is not finite, or negative.
    """
    found = lr * factor
    if not math.isfinite(found) or found < 0:
        raise DivergedError(
            f"the learning rate is {found:.4g} at update {update}, lr={lr:g} times {factor:.4g} of the schedule"
        )
    return found


def check_parameters(flat: np.ndarray, optimizer, update: int) -> None:
    """Raise DivergedError if an update made a parameter NaN or infinite."""
    if not is_finite(flat):
        bad = int((~np.isfinite(flat)).sum())
        raise DivergedError(
            f"update {update} made {bad} of {flat.size} parameters infinite or NaN, "
            f"with a learning rate of {optimizer.lr:.4g}"
        )


def check_means(optimizer, update: int) -> None:
    """Raise DivergedError if a running mean of the optimizer overflowed: its parameter would never change again."""
    for name, array in arrays_of(optimizer).items():
        if not is_finite(array):
            raise DivergedError(f"the running mean {name} of the optimizer is not finite after update {update}")


def loss_and_gradient(plans, checked: bool, batch, state, *, into: np.ndarray, rng: int) -> tuple:
    """Compute the loss and the gradient of a batch, with checks in the model's layers if `checked`.

    If a check fails, the loss is NaN, so that all processes see it in the sum of the losses.
    """
    if not checked:
        return plans(batch, state, into=into, rng=rng)
    try:
        with checking():
            return plans.function(batch, state, into=into, rng=rng)
    except FloatingPointError:
        return math.nan, state


def place_of(model, computed: list[tuple]) -> str:
    """Compute an update again to find the first value in a recurrent layer that is not finite, for a message.

    Parameters
    ----------
    model : Model
        The model.
    computed : list of (batch, state, key)
        The batches of the update.

    Returns
    -------
    str
        The place in parentheses, or nothing.
    """
    try:
        with checking():
            for batch, state, key in computed:
                model.loss_and_gradient(batch, state, into=np.zeros_like(model.storage.flat), rng=key)
    except FloatingPointError as error:
        return f" ({error})"
    return ""

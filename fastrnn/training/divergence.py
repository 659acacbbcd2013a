"""When a training has left all bounds: its loss, gradient, learning rate, parameters or running means."""

from __future__ import annotations

import math

import numpy as np

from fastrnn import optim
from fastrnn._core.finite import checking, is_finite
from fastrnn.training.groups import frozen_to_zero

_FEW = 32  # targets, and updates, before which a loss is taken for one of chance


class DivergedError(Exception):
    """Training cannot go on."""


class NotFiniteError(DivergedError):
    """The loss or the gradient of one update is not finite: that update can be skipped."""


def is_first(at) -> bool:
    """Whether the next update is the first one, or the batches so far were too small to tell how large the loss is.

    at : training.Position
    """
    return at.first_loss is None or (at.first_weight < _FEW and at.update < _FEW)


def check_loss(at, factor, loss, weight) -> None:
    """Raise NotFiniteError if the loss is NaN or infinite, DivergedError if it is above `factor` times the first one.

    The loss of a few sequences may be small by chance, so that the first one is the greatest of several updates where
    batches are small.
    """
    if not math.isfinite(loss):
        raise NotFiniteError(f"the loss is {loss:.4g} at update {at.update + 1}")
    if is_first(at):
        at.first_loss, at.first_weight = max(loss, at.first_loss or 0.0), at.first_weight + weight
    if factor is not None and at.first_loss and loss > factor * at.first_loss:
        over = f"over {factor:g} times its first value {at.first_loss:.4g}"
        raise DivergedError(f"the loss is {loss:.4g} at update {at.update + 1}, {over}")


def ready_gradient(gradient, optimizer, model, clip_norm, clip_value, update) -> float:
    """Clip a gradient in place, frozen parameters left out, and return the factor that the optimiser multiplies it by.

    model : whose gradient it is; update : the number of this one

    Raises
    ------
    NotFiniteError  it is not finite, or so large that the optimiser cannot square it.
    """
    frozen_to_zero(gradient, optimizer)
    norm, scale = optim.clip_by_global_norm(gradient, clip_norm or 1.0)
    if not math.isfinite(norm) and not is_finite(gradient):  # before clip_value, which makes a number of infinity
        bad = ~np.isfinite(gradient)
        name = next((name for name, slot in model.slots.items() if bad[slot.slice].any()), "")
        raise NotFiniteError(
            f"{int(bad.sum())} of {bad.size} values of the gradient are not finite at update {update}, "
            f"the first in {name}"
        )
    if clip_value is not None:
        optim.clip_by_value(gradient, clip_value)
        norm, scale = optim.clip_by_global_norm(gradient, clip_norm or 1.0)
    used = norm if clip_norm is None else min(norm, clip_norm)
    if getattr(optimizer, "squares", False) and used > math.sqrt(np.finfo(gradient.dtype).max):
        raise NotFiniteError(
            f"the norm of the gradient is {used:.4g} at update {update}: {gradient.dtype} cannot hold its square, "
            "which the optimiser needs; set clip_norm"
        )
    return 1.0 if clip_norm is None else scale


def learning_rate(lr, factor, update) -> float:
    """The product of the learning rate and what the schedule gives.

    Raises
    ------
    DivergedError  it is not finite, or negative.
    """
    found = lr * factor
    if not math.isfinite(found) or found < 0:
        raise DivergedError(
            f"the learning rate is {found:.4g} at update {update}, lr={lr:g} times {factor:.4g} of the schedule"
        )
    return found


def check_parameters(flat, optimizer, update) -> None:
    """Raise DivergedError if an update has made a parameter NaN or infinite."""
    if not is_finite(flat):
        bad = int((~np.isfinite(flat)).sum())
        raise DivergedError(
            f"update {update} made {bad} of {flat.size} parameters infinite or NaN, "
            f"with a learning rate of {optimizer.lr:.4g}"
        )


def check_means(optimizer, update) -> None:
    """Raise DivergedError if a running mean of the optimiser has overflowed: its parameter would never change again."""
    for name, value in getattr(optimizer, "state_dict", dict)().items():
        if isinstance(value, np.ndarray) and not is_finite(value):
            raise DivergedError(f"the running mean {name} of the optimiser is not finite after update {update}")


def loss_and_gradient(model, checked, batch, state, *, into, rng):
    """As the model's. What a check of its layers finds makes the loss NaN: all processes see that in the sum.

    checked : whether its layers check what they take and give
    """
    if not checked:
        return model.loss_and_gradient(batch, state, into=into, rng=rng)
    try:
        with checking():
            return model.loss_and_gradient(batch, state, into=into, rng=rng)
    except FloatingPointError:
        return math.nan, state


def place_of(model, taken) -> str:
    """Where the first value that is not finite is, if it is in a recurrent layer: the update is computed again.

    taken : [(batch, state, key)] of the update
    """
    try:
        with checking():
            for batch, state, key in taken:
                model.loss_and_gradient(batch, state, into=np.zeros_like(model.storage.flat), rng=key)
    except FloatingPointError as error:
        return f" ({error})"
    return ""

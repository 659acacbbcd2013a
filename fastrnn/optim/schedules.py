"""Learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fastrnn import _check


class Schedule:
    """Base class of learning-rate schedules: a factor on the learning rate as a function of time.

    Time is counted in epochs and may be fractional: updates divided by updates per epoch. The factor of this class is
    1.
    """

    def __call__(self, epoch: float) -> float:
        """Compute the factor on the learning rate.

        Parameters
        ----------
        epoch : float
            Time in epochs, which may be fractional.

        Returns
        -------
        float
            The factor.
        """
        return 1.0

    def observe(self, loss: float) -> None:
        """Take note of a validation loss. Only `ReduceOnPlateau` uses it.

        Parameters
        ----------
        loss : float
            Validation loss.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to continue the training.

        Returns
        -------
        dict
            The state, which is empty for most schedules.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state.

        Parameters
        ----------
        state : dict
            Result of `state_dict`.
        """

    def __repr__(self):
        options = ", ".join(f"{name}={value}" for name, value in self.__dict__.items() if not name.startswith("_"))
        return f"{type(self).__name__}({options})"


class Constant(Schedule):
    """Constant learning rate."""


class StepDecay(Schedule):
    """Multiply the learning rate by a factor at regular intervals.

    char-rnn uses factor 0.97 after 10 epochs.

    Parameters
    ----------
    factor : float
        Factor, 0 < factor <= 1.
    every : int, default 1
        Number of epochs between two decays.
    after : int, default 1
        Epoch at whose end the first decay takes place.

    Examples
    --------
    >>> schedule = StepDecay(0.5, after=2)
    >>> [schedule(epoch) for epoch in (0, 1.9, 2, 3, 4)]
    [1.0, 1.0, 0.5, 0.25, 0.125]
    """

    def __init__(self, factor: float, every: int = 1, after: int = 1):
        self.factor = _check.number("factor", factor, above=0, most=1)
        self.every = _check.size("every", every)
        self.after = _check.size("after", after)

    def __call__(self, epoch: float) -> float:
        """Compute the factor on the learning rate.

        Parameters
        ----------
        epoch : float
            Time in epochs, which may be fractional.

        Returns
        -------
        float
            The factor.
        """
        return self.factor ** (1 + (math.floor(epoch) - self.after) // self.every) if epoch >= self.after else 1.0


class ExponentialDecay(Schedule):
    """Multiply the learning rate by ``factor ** epoch``, continuously.

    Parameters
    ----------
    factor : float
        Factor per epoch, 0 < factor <= 1.
    """

    def __init__(self, factor: float):
        self.factor = _check.number("factor", factor, above=0, most=1)

    def __call__(self, epoch: float) -> float:
        """Compute the factor on the learning rate.

        Parameters
        ----------
        epoch : float
            Time in epochs, which may be fractional.

        Returns
        -------
        float
            The factor.
        """
        return self.factor**epoch


class Cosine(Schedule):
    """Half a cosine wave from 1 to a minimum (Loshchilov & Hutter 2017, without restarts).

    Parameters
    ----------
    epochs : float
        Epoch at which the minimum is reached. After it the factor is constant.
    minimum : float, default 0.0
        Smallest factor, 0 to 1.

    Examples
    --------
    >>> schedule = Cosine(10, minimum=0.1)
    >>> [round(schedule(epoch), 3) for epoch in (0, 5, 10, 11)]
    [1.0, 0.55, 0.1, 0.1]
    """

    def __init__(self, epochs: float, minimum: float = 0.0):
        self.epochs = _check.number("epochs", epochs, above=0)
        self.minimum = _check.number("minimum", minimum, least=0, most=1)

    def __call__(self, epoch: float) -> float:
        """Compute the factor on the learning rate.

        Parameters
        ----------
        epoch : float
            Time in epochs, which may be fractional.

        Returns
        -------
        float
            The factor.
        """
        return self.minimum + (1 - self.minimum) * (1 + math.cos(math.pi * min(1.0, epoch / self.epochs))) / 2


class LinearWarmup(Schedule):
    """Linear increase from almost 0 to 1, times another schedule.

    Parameters
    ----------
    epochs : float
        Length of the increase in epochs.
    then : Schedule, optional
        Schedule to multiply by. By default constant.
    """

    def __init__(self, epochs: float, then: Schedule | None = None):
        self.epochs = _check.number("epochs", epochs, above=0)
        self.then = Constant() if then is None else then

    def __call__(self, epoch: float) -> float:
        """Compute the factor on the learning rate.

        Parameters
        ----------
        epoch : float
            Time in epochs, which may be fractional.

        Returns
        -------
        float
            The factor.
        """
        return min(1.0, max(1e-3, epoch / self.epochs)) * self.then(epoch)

    def observe(self, loss: float) -> None:
        """Take note of a validation loss.

        Parameters
        ----------
        loss : float
            Validation loss.
        """
        self.then.observe(loss)

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to continue the training.

        Returns
        -------
        dict
            The state.
        """
        return self.then.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state.

        Parameters
        ----------
        state : dict
            Result of `state_dict`.
        """
        self.then.load_state_dict(state)


class ReduceOnPlateau(Schedule):
    """Multiply the learning rate by a factor when the validation loss stops decreasing.

    Parameters
    ----------
    factor : float, default 0.1
        Factor, 0 < factor < 1.
    patience : int, default 10
        Number of evaluations without improvement that are tolerated.
    threshold : float, default 1e-4
        Relative decrease that counts as an improvement.

    Examples
    --------
    >>> schedule = ReduceOnPlateau(factor=0.5, patience=1)
    >>> for loss in (2.0, 1.5, 1.6, 1.6):
    ...     schedule.observe(loss)
    >>> schedule(4.0)
    0.5
    """

    def __init__(self, factor: float = 0.1, patience: int = 10, threshold: float = 1e-4):
        self.factor = _check.number("factor", factor, above=0, below=1)
        self.patience = _check.size("patience", patience, least=0)
        self.threshold = _check.number("threshold", threshold, least=0, below=1)
        self._factor, self._best, self._evaluations_since_best = 1.0, None, 0

    def __call__(self, epoch: float) -> float:
        """Compute the factor on the learning rate.

        Parameters
        ----------
        epoch : float
            Time in epochs, which may be fractional.

        Returns
        -------
        float
            The factor.
        """
        return self._factor

    def observe(self, loss: float) -> None:
        """Take note of a validation loss.

        Parameters
        ----------
        loss : float
            Validation loss.
        """
        if self._best is None or loss < self._best * (1 - self.threshold):
            self._best, self._evaluations_since_best = loss, 0
            return
        self._evaluations_since_best += 1
        if self._evaluations_since_best > self.patience:
            self._factor *= self.factor
            self._evaluations_since_best = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to continue the training.

        Returns
        -------
        dict
            The state.
        """
        return {"current": self._factor, "best": self._best, "bad": self._evaluations_since_best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state.

        Parameters
        ----------
        state : dict
            Result of `state_dict`.
        """
        self._factor, self._best, self._evaluations_since_best = state["current"], state["best"], state["bad"]

"""The settings of a training, which every model's `fit` takes."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypedDict

from fastrnn import _check, optim
from fastrnn._files import storage
from fastrnn.distributed import OneProcess, Ranks

# What other libraries call an argument of `fit` or of a model's constructor.
_ELSEWHERE = {
    "learning_rate": "lr",
    "n_epochs": "epochs",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "max_iter": "epochs",
    "clipnorm": "clip_norm",
    "max_norm": "clip_norm",
    "clipvalue": "clip_value",
    "early_stopping": "patience",
    "validation_data": "validation",
    "validation_split": "validation",
    "validation_fraction": "validation",
    "lr_scheduler": "schedule",
    "random_state": "seed of the model",
}


class TrainingOptions(TypedDict, total=False):
    """The fields of `Settings` that the `fit` of every model takes by keyword, for type checkers and editors."""

    optimizer: str | Callable
    lr: float
    schedule: optim.Schedule | None
    weight_decay: float | None
    groups: Mapping
    freeze: Sequence[str]
    clip_norm: float | None
    clip_value: float | None
    accumulate: int
    loss_limit: float | None
    nonfinite: Literal["stop", "skip"]
    check_finite: bool
    monitor: str
    patience: int | None
    evaluate_every: int
    checkpoint: str | os.PathLike | None
    checkpoint_every: float
    resume: bool
    callbacks: Sequence[Callable]
    distributed: object


def check_names(given: Mapping, others: Sequence[str] = ()) -> None:
    """Check the names of the arguments that `fit` takes as training options.

    Parameters
    ----------
    given : mapping
        The options, by name.
    others : sequence of str, optional
        Names of the other arguments of this `fit`, which may be what was meant.

    Raises
    ------
    TypeError
        If a name is unknown. The message has a similar one.
    """
    for name in given:
        if name not in TrainingOptions.__annotations__:
            similar = difflib.get_close_matches(name, [*TrainingOptions.__annotations__, *others], n=1)
            meant = _ELSEWHERE.get(name) or "".join(similar)
            raise TypeError(f"fit() has no argument {name!r}" + (f": did you mean {meant}?" if meant else ""))


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to train: the settings of every model's `fit`, which are checked at construction.

    Parameters
    ----------
    epochs : int
        Number of passes over the data.
    optimizer : str or callable
        A name in ``optim.OPTIMIZERS``, or a callable ``(storage, lr=...) -> Optimizer``.
    lr : float
        Learning rate.
    schedule : optim.Schedule, optional
        Multiplies the learning rate. By default it is constant.
    weight_decay : float, optional
        Weight decay. By default that of the optimizer.
    groups : mapping, optional
        ``{pattern: options of the optimizer}`` for some of the parameters, such as ``{"*bias*": {"weight_decay": 0}}``;
        for the patterns see ``fastrnn.training.groups.Grouped``.
    freeze : sequence of str, optional
        Patterns of parameters that are not trained.
    clip_norm : float, optional
        Maximum global norm of the gradient. By default there is none.
    clip_value : float, optional
        Maximum absolute value of each element of the gradient. By default there is none.
    accumulate : int, default 1
        Number of batches per update. Their gradients are averaged as if the batches were one.
    loss_limit : float or None, default 3.0
        Training stops when the loss of an update is above `loss_limit` times the first loss. Where batches are small,
        the first loss is the greatest of the first updates: as many as have 32 targets together, but at most 32.
        None: training stops only when the loss is not finite.
    nonfinite : {"stop", "skip"}, default "stop"
        What happens when the loss or the gradient of an update is NaN or infinite. "stop" ends the training with the
        best parameters so far. "skip" skips the update, resets the states carried through a text, and counts the
        update (`skipped` in the history); after as many skipped updates in a row as an epoch has, training stops.
    check_finite : bool, default False
        Whether every input and output of the recurrent layers is checked in every update; a NaN or infinity is treated
        as `nonfinite` says. The checks cost a few passes over memory. Otherwise the loss, the gradient and the
        parameters are checked, and an update that fails is computed again to find the layer, gate, step and row.
    monitor : str, default "loss"
        The figure of the evaluations that selects the best parameters: "loss", or another one, of which more is
        better.
    patience : int, optional
        Training stops after this many evaluations in a row without a better one. By default it does not.
    evaluate_every : int, default 1000
        The model is evaluated at the end of each epoch and, in long epochs, after every `evaluate_every` updates.
    checkpoint : path, optional
        Directory for checkpoints. They are written at every evaluation, and `checkpoint_every` seconds after the last
        one. While a training writes there, a second one is refused.
    checkpoint_every : float, default 30.0
        Seconds between checkpoints; 0: after every update.
    resume : bool, default False
        Whether to continue from the checkpoint in the directory. If the directory is empty, training starts from the
        beginning.
    callbacks : sequence of callables, optional
        Called with each entry of the history, see `fastrnn.callbacks`. Training stops if one returns True.
    distributed : bool or mpi4py communicator, default False
        Whether this is one of several processes that train together, see `fastrnn.distributed`.
    progress : bool, default True
        Whether progress is shown on stderr.

    Raises
    ------
    ValueError
        A setting is out of its range, or a training cannot begin in the directory of the checkpoints.
    TypeError
        A setting has the wrong type.
    """

    epochs: int
    optimizer: str | Callable
    lr: float
    schedule: optim.Schedule | None = None
    weight_decay: float | None = None
    groups: Mapping = dataclasses.field(default_factory=dict)
    freeze: Sequence[str] = ()
    clip_norm: float | None = None
    clip_value: float | None = None
    accumulate: int = 1
    loss_limit: float | None = 3.0
    nonfinite: Literal["stop", "skip"] = "stop"
    check_finite: bool = False
    monitor: str = "loss"
    patience: int | None = None
    evaluate_every: int = 1000
    checkpoint: str | os.PathLike | None = None
    checkpoint_every: float = 30.0
    resume: bool = False
    callbacks: Sequence[Callable] = ()
    distributed: object = False
    progress: bool = True

    def __post_init__(self):
        _check.size("epochs", self.epochs, least=0)
        for name in ("lr", "checkpoint_every"):
            _check.number(name, getattr(self, name), least=0)
        for name in ("evaluate_every", "accumulate"):
            _check.size(name, getattr(self, name))
        for name in ("clip_norm", "clip_value", "loss_limit"):
            if getattr(self, name) is not None:
                _check.number(name, getattr(self, name), above=0)
        if self.weight_decay is not None:
            _check.number("weight_decay", self.weight_decay, least=0)
        _check.choice("nonfinite", self.nonfinite, ("stop", "skip"))
        if isinstance(self.freeze, str):
            raise TypeError(f"freeze is {self.freeze!r}, but it must be a list of patterns: [{self.freeze!r}]")
        for callback in self.callbacks:
            if not callable(callback):
                raise TypeError(f"callbacks has {callback!r}, but each must be callable with an entry of the history")
        if self.patience is not None:
            _check.size("patience", self.patience)
        if not callable(self.optimizer):
            _check.choice("optimizer", self.optimizer, tuple(optim.OPTIMIZERS))
        if self.schedule is not None and not isinstance(self.schedule, optim.Schedule):
            raise TypeError(f"schedule is {self.schedule!r}, but it must be a fastrnn.optim.Schedule")
        if self.resume and self.checkpoint is None:
            raise ValueError("resume=True needs the directory of the checkpoint, but checkpoint is None")
        if self.checkpoint is not None and not self.follows:
            storage.check_no_training(self.checkpoint)
        self.check_directory()

    def check_directory(self) -> None:
        """Check that a training can begin, or be resumed, in the directory of the checkpoints.

        Raises
        ------
        ValueError
            The directory is not empty and `resume` is False, or it holds no checkpoint to resume from.
        """
        if self.checkpoint is None or self.follows:
            return
        if storage.holds_anything(self.checkpoint):
            if not self.resume:
                raise ValueError(
                    f"{self.checkpoint} is not empty: give resume=True to continue the training there, "
                    "or another directory"
                )
            if not storage.exists(self.checkpoint, kind="checkpoint"):
                raise ValueError(f"{self.checkpoint} holds no checkpoint to resume from")

    @functools.cached_property
    def ranks(self) -> Ranks | OneProcess:
        """The processes that train together."""
        if self.distributed is False:
            return OneProcess()
        ranks = Ranks(None if self.distributed is True else self.distributed)
        return ranks if ranks.size > 1 else OneProcess()

    @property
    def follows(self) -> bool:
        """Whether another process evaluates, shows progress and writes files."""
        return self.ranks.rank > 0

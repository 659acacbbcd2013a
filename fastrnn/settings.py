"""How to train: what every model's `fit` takes. Checked when made, before any work."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence

from fastrnn import _check, optim
from fastrnn._files import storage
from fastrnn.distributed import OneProcess, Ranks


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to train. Checked when made.

    epochs : times through the data
    optimizer : a name in ``optim.OPTIMIZERS``, or a callable ``(storage, lr=...) -> Optimizer``
    lr : learning rate; `schedule` multiplies it, see ``optim.Schedule``; None is constant
    weight_decay : of the optimiser; None is its own default
    groups : {pattern: options of the optimiser} for some parameters, see ``groups.Grouped``: {"*bias*": {"weight_decay": 0}}
    freeze : patterns of parameters that stay as they are
    clip_norm, clip_value : limit of the gradient's global norm, of each of its elements; None is no limit
    accumulate : batches of an update; their gradients are averaged as if they had been one batch
    loss_limit : stop when the loss of an update is above this many times the first one, or is not finite; None: only if it is not
        finite. Where batches are small, the first one is the greatest of as many updates as have 32 targets, at most of 32
    nonfinite : what happens when the loss or the gradient of an update is NaN or infinite: "stop" ends the training, with the best
        parameters so far; "skip" leaves that update out and begins the streams of a text anew, counts it (`skipped` in the history), and
        stops after as many in a row as an epoch has
    check_finite : look at every value that the recurrent layers take and give, in every update, and treat one that is NaN or infinite as
        `nonfinite` says; costs some passes over memory. Without it loss, gradient and parameters are looked at, and the update that
        was wrong is computed again to name the layer, gate, step and row
    monitor : what is compared to find the best model: "loss", or another figure of the validation, of which more is better
    patience : stop after this many looks at the validation part without a better one; None never does
    evaluate_every : look at the validation loss at each epoch's end, and in long epochs after every this many updates
    checkpoint : directory for checkpoints, or None; written at every look, and after `checkpoint_every` seconds (0: every update).
        While one training writes there, a second one is refused
    resume : continue from the checkpoint there; if the directory is empty, from the start
    callbacks : callables that take each entry of the history, see ``fastrnn.callbacks``; training stops if one returns True
    distributed : True, or a communicator of mpi4py: this is one of several processes that train together, see ``fastrnn.distributed``
    progress : show what happens on stderr
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
    nonfinite: str = "stop"
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
        """Raise a ValueError if a training cannot begin, or be resumed, from what the directory of the checkpoints holds."""
        if self.checkpoint is None or self.follows:
            return
        if storage.holds_anything(self.checkpoint):
            if not self.resume:
                raise ValueError(
                    f"{self.checkpoint} is not empty: give resume to continue the training there, or another directory"
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
        """Whether another process evaluates, shows progress and writes."""
        return self.ranks.rank > 0

"""The training loop: batches or truncated BPTT, early stopping, checkpoints, and a resume that continues to the same bits."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable

import numpy as np

from fastrnn import _check, _engine, optim, storage
from fastrnn._progress import Progress
from fastrnn.layers import random_key


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to train. Checked when made.

    epochs : times through the data
    optimizer : a name in ``optim.OPTIMIZERS``, or a callable ``(storage, lr=...) -> Optimizer``
    lr : learning rate; `schedule` multiplies it, see ``optim.Schedule``; None is constant
    clip_norm, clip_value : limit of the gradient's global norm, of each of its elements; None is no limit
    patience : stop after this many looks at the validation loss without a better one; None never does
    evaluate_every : look at the validation loss at each epoch's end, and in long epochs after every this many updates
    checkpoint : directory for checkpoints, or None; written at every look, and after `checkpoint_every` seconds (0: every update)
    resume : continue from the checkpoint there; if the directory is empty, from the start
    progress : show what happens on stderr
    """

    epochs: int
    optimizer: str | Callable
    lr: float
    schedule: optim.Schedule | None = None
    clip_norm: float | None = None
    clip_value: float | None = None
    patience: int | None = None
    evaluate_every: int = 1000
    checkpoint: str | os.PathLike | None = None
    checkpoint_every: float = 30.0
    resume: bool = False
    progress: bool = True

    def __post_init__(self):
        _check.size("epochs", self.epochs, least=0)
        _check.number("lr", self.lr, least=0)
        _check.number("checkpoint_every", self.checkpoint_every, least=0)
        _check.size("evaluate_every", self.evaluate_every)
        for name in ("clip_norm", "clip_value"):
            if getattr(self, name) is not None:
                _check.number(name, getattr(self, name), above=0)
        if self.patience is not None:
            _check.size("patience", self.patience)
        if not callable(self.optimizer):
            _check.choice("optimizer", self.optimizer, tuple(optim.OPTIMIZERS))
        if self.schedule is not None and not isinstance(self.schedule, optim.Schedule):
            raise TypeError(f"schedule is {self.schedule!r}, but it must be a fastrnn.optim.Schedule")
        if self.resume and self.checkpoint is None:
            raise ValueError("resume=True needs the directory of the checkpoint, but checkpoint is None")
        if self.checkpoint is not None and storage.holds_anything(self.checkpoint):
            if not self.resume:
                raise ValueError(f"{self.checkpoint} is not empty: give resume to continue the training there, or another directory")
            if not storage.exists(self.checkpoint, kind="checkpoint"):
                raise ValueError(f"{self.checkpoint} holds no checkpoint to resume from")


@dataclasses.dataclass
class Position:
    """Where a training run stands; with the arrays of a checkpoint, all that its future depends on."""

    seed: int
    epoch: int = 0
    index: int = 0  # of the next batch in the epoch
    update: int = 0
    evaluated: int = -1  # the update after which the validation loss was looked at last
    first_loss: float | None = None
    loss_sum: float = 0.0  # of the updates since then
    loss_count: int = 0
    best_loss: float | None = None
    best_update: int = 0
    looks_since_best: int = 0
    history: list = dataclasses.field(default_factory=list)


class Training:
    """One run of the loop over a model.

    Parameters
    ----------
    model : has `storage`, ``loss_and_gradient(batch, state, into=flat, rng=key) -> (loss, state)``, which adds the gradient to
        `into`, and ``evaluate(batches) -> {"loss": mean, name of another figure: value}``; neither may change the parameters
    batches : as in fastrnn.batches; the state is carried from one to the next and starts anew each epoch
    settings : Settings
    seed : the dropout keys come from it
    validation : batches to look at for early stopping and the best model, or None: then the last model is kept, and a diverging run
        goes back to where the training loss was least
    identity : {name: what JSON can hold} that a checkpoint must agree with to be resumed: the model's configuration, the data
    on_best : called after each better validation loss
    unit : what a step is, for the progress bar
    """

    def __init__(self, model, batches, settings: Settings, *, seed, validation=None, identity=None, on_best=None, unit="steps"):
        if settings.patience is not None and validation is None:
            raise ValueError(f"patience={settings.patience} needs a validation part, but there is none")
        self.model, self.batches, self.settings, self.validation = model, batches, settings, validation
        self.on_best, self.unit = on_best, unit
        make = optim.OPTIMIZERS.get(settings.optimizer, settings.optimizer)
        self.optimizer = make(model.storage, lr=settings.lr)
        self.schedule = optim.Constant() if settings.schedule is None else copy.deepcopy(settings.schedule)
        self.identity = {
            **(identity or {}),
            "optimizer": repr(self.optimizer),
            "schedule": repr(self.schedule),
            **{name: getattr(settings, name) for name in ("clip_norm", "clip_value", "evaluate_every")},
        }
        self.at = Position(seed)
        self.state = None  # carried from batch to batch
        self.best = np.array(model.storage.flat)
        self.gradient = np.zeros_like(model.storage.flat)
        self.outcome = None  # "finished", "stopped early", "interrupted" or "diverged"
        self.message = None  # what there is to say about it
        self.seconds = 0.0  # spent in updates, by this process
        self.steps = 0  # done in that time

    def start(self) -> None:
        """Read the checkpoint, or write the first one: what is wrong with either is noticed before any work."""
        if self.settings.resume and storage.exists(self.settings.checkpoint, kind="checkpoint"):
            self._restore()
        elif self.settings.checkpoint is not None:
            self._save()

    def run(self) -> None:
        """Train, after `start`. Then the model holds the best parameters; `outcome` and `message` say how the run ended."""
        self._saved = time.monotonic()
        self.batches.begin(self.at.epoch)
        total = self.batches.steps * self.settings.epochs
        done = round(self.batches.steps * (self.at.epoch + self.at.index / len(self.batches)))
        with _Interrupts() as self.interrupts, Progress(self.settings.progress, total, done, self.unit) as self.progress:
            try:
                self.outcome = self._loop()
            except KeyboardInterrupt:
                self.outcome = "interrupted"
                self.message = f"training was interrupted after {self.at.update} updates"
            except _DivergedError as error:
                self.outcome = "diverged"
                self.message = f"{error}: training stopped"
            self._finish()

    def _loop(self):
        while True:
            if self._look_is_due():
                self._look()
            if self.at.epoch >= self.settings.epochs:
                return "finished"
            if self.settings.patience is not None and self.at.looks_since_best >= self.settings.patience:
                return "stopped early"
            self._update()
            if time.monotonic() - self._saved >= self.settings.checkpoint_every:
                self._save()

    def _update(self):
        """One batch: gradient, clipping, step."""
        at, settings = self.at, self.settings
        start = time.perf_counter()
        batch = self.batches[at.index]
        self.gradient.fill(0)
        with self.interrupts.allowed():
            loss, state = self.model.loss_and_gradient(batch, self.state, into=self.gradient, rng=random_key(at.seed, at.update))
        if at.first_loss is None:
            at.first_loss = loss
        if not loss <= 3 * at.first_loss:
            raise _DivergedError(f"the loss is {loss:.4g} at update {at.update + 1}, over 3 times its first value {at.first_loss:.4g}")
        scale = 1.0
        if settings.clip_value is not None:
            optim.clip_by_value(self.gradient, settings.clip_value)
        if settings.clip_norm is not None:
            norm, scale = optim.clip_by_global_norm(self.gradient, settings.clip_norm)
            if not math.isfinite(norm):
                raise _DivergedError(f"the norm of the gradient is {norm} at update {at.update + 1}")
        self.optimizer.lr = settings.lr * self.schedule(at.epoch + at.index / len(self.batches))
        self.optimizer.step(self.gradient, scale)
        self.state = state
        at.index += 1
        at.update += 1
        at.loss_sum += loss
        at.loss_count += 1
        steps = self.batches.steps_of(batch)
        self.seconds += time.perf_counter() - start
        self.steps += steps
        self.progress.update(steps, loss)

    def _look_is_due(self):
        at = self.at
        if at.evaluated == at.update:
            return False
        return at.index == len(self.batches) or at.index % self.settings.evaluate_every == 0

    def _look(self):
        """Evaluate, note the best, begin the next epoch if this one is over, write a checkpoint."""
        at = self.at
        figures = {"loss": None}
        if self.validation is not None:
            with self.interrupts.allowed():
                figures = self.model.evaluate(self.validation)
        train_loss = at.loss_sum / at.loss_count if at.loss_count else None
        entry = {
            "epoch": round(at.epoch + at.index / len(self.batches), 4),
            "update": at.update,
            "lr": self.optimizer.lr,
            "train_loss": train_loss,
            **{f"validation_{name}": value for name, value in figures.items()},
        }
        at.history.append(entry)
        self.progress.note(entry)
        at.evaluated, at.loss_sum, at.loss_count = at.update, 0.0, 0
        loss = train_loss if figures["loss"] is None else figures["loss"]
        if loss is not None:
            self._compare(loss)
        if at.index == len(self.batches):
            at.epoch, at.index, self.state = at.epoch + 1, 0, None
            self.batches.begin(at.epoch)
        if at.update and self.settings.checkpoint is not None:
            self._save()

    def _compare(self, loss):
        """Keep the parameters if they are the best so far."""
        at = self.at
        if at.update:
            self.schedule.observe(loss)
        at.looks_since_best += 1
        if at.best_loss is None or loss < at.best_loss:
            at.best_loss, at.best_update, at.looks_since_best = loss, at.update, 0
            self.best[:] = self.model.storage.flat
            if self.on_best is not None and at.update:
                self.on_best()

    def _finish(self):
        """Write the last checkpoint, then give the model its best parameters."""
        at, diverged = self.at, self.outcome == "diverged"
        if self.settings.checkpoint is not None and not diverged:
            self._save()
        never_looked = at.best_update == 0 and at.update > 0
        if diverged or (self.validation is not None and not never_looked):
            with self.model.storage.updating() as flat:
                flat[:] = self.best
        if diverged:
            kept = "those from before the first update" if at.best_update == 0 else f"the best, of update {at.best_update}"
            self.message += f"; the parameters kept are {kept}; a lower lr than {self.settings.lr} may help"

    def _save(self):
        """Write a checkpoint: all that the future of the run depends on."""
        optimizer = self.optimizer.state_dict()
        state = self.state if isinstance(self.state, tuple) else () if self.state is None else (self.state,)
        arrays = {"parameters": self.model.storage.flat, "best": self.best}
        arrays |= {f"state.{i}": array for i, array in enumerate(state)}
        arrays |= {f"optimizer.{name}": value for name, value in optimizer.items() if isinstance(value, np.ndarray)}
        config = {
            "identity": self.identity,
            "position": dataclasses.asdict(self.at),
            "optimizer": {name: value for name, value in optimizer.items() if not isinstance(value, np.ndarray)},
            "schedule": self.schedule.state_dict(),
            "state": "tuple" if isinstance(self.state, tuple) else len(state),
            "computed_by": _computed_by(),
        }
        storage.save(self.settings.checkpoint, arrays, config, kind="checkpoint")
        self._saved = time.monotonic()

    def _restore(self):
        """Continue from the checkpoint."""
        folder = self.settings.checkpoint
        arrays, config = storage.load(folder, kind="checkpoint")
        for name, mine in self.identity.items():
            theirs = config["identity"].get(name)
            if theirs != mine:
                raise ValueError(
                    f"the checkpoint in {folder} was made with {name}={theirs!r}, but now it is {mine!r}: to continue, it must be the same"
                )
        if config["computed_by"] != _computed_by():
            before, now = (", ".join(f"{k} {v}" for k, v in by.items()) for by in (config["computed_by"], _computed_by()))
            warnings.warn(f"the checkpoint was computed by {before}, now it is {now}: the bits may differ", RuntimeWarning, stacklevel=4)
        with self.model.storage.updating() as flat:
            flat[:] = arrays["parameters"]
        self.best[:] = arrays["best"]
        moments = {name.removeprefix("optimizer."): a for name, a in arrays.items() if name.startswith("optimizer.")}
        self.optimizer.load_state_dict(config["optimizer"] | moments)
        self.schedule.load_state_dict(config["schedule"])
        self.at = Position(**config["position"])
        carried = tuple(arrays[f"state.{i}"] for i in range(sum(name.startswith("state.") for name in arrays)))
        self.state = carried if config["state"] == "tuple" else (carried[0] if carried else None)


class _DivergedError(Exception):
    """The loss or the gradient has left all bounds."""


class _Interrupts:
    """Ctrl-C at a time when nothing is half done.

    It interrupts at once while only results are being computed (`allowed`), else at the next such moment. In other threads than the
    main one, or where Ctrl-C was given another meaning, nothing is touched.
    """

    def __enter__(self):
        self._open = self._pending = False
        self._installed = (
            threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if self._installed:
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *exception):
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, signum, frame):
        self._pending = True
        if self._open:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def allowed(self):
        self._open = True
        try:
            if self._pending:
                raise KeyboardInterrupt
            yield
        finally:
            self._open = False


def _computed_by():
    """What the bits of a run depend on besides its settings."""
    return {"isa": _engine.isa(), "blas": _engine.blas_core()}

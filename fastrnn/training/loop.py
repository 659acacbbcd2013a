"""The training loop: batches or truncated BPTT, early stopping, checkpoints, and a resume that continues to the same bits."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import math
import os
import time
import warnings

import numpy as np

from fastrnn import _engine, optim
from fastrnn._check import memory as check_memory
from fastrnn._files import storage
from fastrnn._files.schema import of_file
from fastrnn.layers.feedforward import random_key
from fastrnn.settings import Settings
from fastrnn.training import checkpoint as _checkpoint
from fastrnn.training import divergence
from fastrnn.training.divergence import DivergedError, NotFiniteError
from fastrnn.training.groups import optimizer_of
from fastrnn.training.interrupts import Interrupts
from fastrnn.training.progress import Progress


@dataclasses.dataclass
class Position:
    """Where a training run stands; with the arrays of a checkpoint, all that its future depends on."""

    seed: int
    epoch: int = 0
    index: int = 0  # of the next batch in the epoch
    update: int = 0
    evaluated: int = -1  # the update after which the validation loss was looked at last
    first_loss: float | None = None  # what `loss_limit` multiplies: the greatest of the first updates
    first_weight: float = 0.0  # of these updates
    loss_sum: float = 0.0  # of the updates since then
    loss_count: int = 0
    best_loss: float | None = None
    best_update: int = 0
    looks_since_best: int = 0
    skipped: int = 0  # updates that were not made, as their loss or gradient was not finite
    skipped_in_row: int = 0  # of these, the last ones without another between
    first_skipped: str | None = None  # why the first one was
    history: list = dataclasses.field(default_factory=list)


class Training:
    """One run of the loop over a model.

    Parameters
    ----------
    model : has `storage`; `slots`, {name: Slot} of its parameters; ``loss_and_gradient(batch, state, into=flat, rng=key) -> (loss,
        state)``, which adds the gradient to `into`; and ``evaluate(batches) -> {figure: value}`` with the names in `FIGURES`, the first
        of them "loss". Neither may change the parameters
    batches : as in fastrnn.batches; the state is carried from one to the next and starts anew each epoch
    settings : Settings
    seed : the dropout keys come from it
    validation : batches to look at for early stopping and the best model, or None: then the last model is kept, and a diverging run
        goes back to where the training loss was least
    identity : {name: what JSON can hold} that a checkpoint must agree with to be resumed: the model's configuration, the data
    on_best : called after each better validation loss
    unit : what a step is, for the progress bar
    untrained_counts : whether the parameters before the first update may be the best
    """

    def __init__(
        self, model, batches, settings: Settings, *, seed, validation=None, identity=None, on_best=None, unit="steps",
        untrained_counts=True,
    ):  # fmt: skip
        for name in ("patience", "monitor"):
            if getattr(settings, name) not in (None, "loss") and validation is None:
                raise ValueError(f"{name}={getattr(settings, name)!r} needs a validation part, but there is none")
        if settings.monitor not in model.FIGURES:
            raise ValueError(
                f"monitor is {settings.monitor!r}, but the validation of this model has {', '.join(model.FIGURES)}"
            )
        self.model, self.settings, self.validation = model, settings, validation
        self.ranks = settings.ranks
        self.batches = self.ranks.share(batches)
        self.on_best, self.unit = None if settings.follows else on_best, unit
        self.optimizer = optimizer_of(model, settings)
        self.schedule = optim.Constant() if settings.schedule is None else copy.deepcopy(settings.schedule)
        self.identity = {
            **(identity or {}),
            "optimizer": repr(self.optimizer),
            "schedule": repr(self.schedule),
            **{
                name: getattr(settings, name)
                for name in ("clip_norm", "clip_value", "accumulate", "monitor", "evaluate_every")
            },
        }
        self.at, self._untrained_counts = Position(seed), untrained_counts
        self.state = None  # carried from batch to batch
        copies = 3 + len(
            getattr(self.optimizer, "_moments", ())
        )  # the best, the gradient, what is packed, and running means
        what = f"training {model.storage.size:,} parameters: copies of them"
        check_memory.fits(what, copies * model.storage.flat.nbytes, "make the model smaller")
        self.best = np.array(model.storage.flat)
        self.gradient = np.zeros_like(model.storage.flat)
        self._part = None  # gradient of one of several batches or processes
        self._save_soon = self._asked_to_stop = False
        self._taken = []  # (batch, state, key) of the update under way
        self.outcome = None  # "finished", "stopped early", "interrupted" or "diverged"
        self.message = None  # what there is to say about it
        self.seconds = 0.0  # spent in updates, by this process
        self.steps = 0  # done in that time

    def start(self) -> None:
        """Read the checkpoint, or write the first one, and open the logs: what is wrong with them is noticed before any work."""
        ranks, folder = self.ranks, self.settings.checkpoint
        ranks.share_threads()
        resumes = ranks.agree(
            not self.settings.follows and self.settings.resume and storage.exists(folder, kind="checkpoint")
        )
        if resumes:
            self._restore()
        for callback in self._callbacks:
            if hasattr(callback, "begin"):
                callback.begin(self.at.history)
        if resumes:
            return
        first = ranks.broadcast({"parameters": self.model.storage.flat})["parameters"]
        with self.model.storage.updating() as flat:
            flat[:] = self.best[:] = first
        if folder is not None:
            self._save()

    def run(self) -> None:
        """Train, after `start`. Then the model holds the best parameters; `outcome` and `message` say how the run ended."""
        self._saved = time.monotonic()
        self.batches.begin(self.at.epoch)
        if self.at.index > len(self.batches):
            raise ValueError(
                f"{self._checkpoint_file}: position.index is {self.at.index}, but an epoch has {len(self.batches)} batches"
            )
        total = self.batches.steps * self.settings.epochs
        done = round(self.batches.steps * (self.at.epoch + self.at.index / len(self.batches)))
        shown = self.settings.progress and not self.settings.follows
        with Interrupts() as self.interrupts, Progress(shown, total, done, self.unit) as self.progress:
            try:
                self.outcome = self._loop()
            except KeyboardInterrupt:
                self.outcome = "interrupted"
                self.message = f"training was interrupted after {self.at.update} updates"
            except DivergedError as error:
                self.outcome = "diverged"
                self.message = f"{error}: training stopped"
            self._finish()

    def close(self) -> None:
        """Tell the callbacks that the run has ended, however it did."""
        for callback in self._callbacks:
            if hasattr(callback, "end"):
                callback.end()

    @property
    def _callbacks(self):
        return () if self.settings.follows else self.settings.callbacks

    def _loop(self):
        patience = self.settings.patience
        while True:
            if self._look_is_due():
                self._look()
            if self.at.epoch >= self.settings.epochs:
                return "finished"
            if self._asked_to_stop or (patience is not None and self.at.looks_since_best >= patience):
                return "stopped early"
            self._update()
            if self._save_soon if self.ranks.size > 1 else self._save_is_due():
                self._save()

    def _save_is_due(self):
        return time.monotonic() - self._saved >= self.settings.checkpoint_every

    def _update(self):
        """Gradient of one batch or several, clipping, step."""
        at, settings = self.at, self.settings
        start = time.perf_counter()
        count = min(settings.accumulate, len(self.batches) - at.index)
        loss, weight, steps, state = self._gradient(count)
        try:
            divergence.check_loss(at, settings.loss_limit, loss, weight)
            scale = divergence.ready_gradient(
                self.gradient, self.optimizer, self.model, settings.clip_norm, settings.clip_value, at.update + 1
            )
        except NotFiniteError as error:
            self._skip(error)
            loss = state = None  # the streams begin anew: their states may not be finite either
        else:
            factor = self.schedule(at.epoch + at.index / len(self.batches))
            self.optimizer.lr = divergence.learning_rate(settings.lr, factor, at.update + 1)
            self.optimizer.step(self.gradient, scale)
            divergence.check_parameters(self.model.storage.flat, self.optimizer, at.update + 1)
            at.loss_sum += loss
            at.loss_count += 1
            at.skipped_in_row = 0
        self.state = state
        at.index += count
        at.update += 1
        self.seconds += time.perf_counter() - start
        self.steps += steps
        self.progress.update(steps, loss)

    def _skip(self, error):
        """Count an update that is not made, or raise DivergedError if training is to stop."""
        at, said = self.at, f"{error}{divergence.place_of(self.model, self._taken)}"
        if self.settings.nonfinite == "stop":
            raise DivergedError(said) from None
        at.skipped += 1
        at.skipped_in_row += 1
        at.first_skipped = at.first_skipped or said
        if at.skipped_in_row >= -(-len(self.batches) // self.settings.accumulate):
            raise DivergedError(f"{at.skipped_in_row} updates in a row were skipped, which is a whole epoch: {said}")

    def _gradient(self, count):
        """Mean loss, weight, steps and the state after the next `count` batches, of all processes together; `gradient` holds the mean."""
        at, ranks, state = self.at, self.ranks, self.state
        rank, alone = ranks.rank, count == 1 and ranks.size == 1
        loss_sum = weight = steps = 0
        compute = functools.partial(divergence.loss_and_gradient, self.model, self.settings.check_finite)
        self._taken = []
        self.gradient.fill(0)
        with self._interruptible():
            for k in range(count):
                batch = self.batches[at.index + k]
                if batch is None:
                    continue
                key = random_key(at.seed, at.update, k, rank) if k or rank else random_key(at.seed, at.update)
                self._taken.append((batch, state, key))
                loss, state = compute(batch, state, into=self._room(alone), rng=key)
                steps += self.batches.steps_of(batch)
                if alone:
                    return loss, self.batches.weight_of(batch) if divergence.is_first(at) else 0.0, steps, state
                w = self.batches.weight_of(batch)
                loss_sum, weight = loss_sum + w * loss, weight + w
                self.gradient += np.multiply(self._part, w, out=self._part)
        told = [loss_sum, weight, steps, self.interrupts.pending, rank == 0 and self._save_is_due()]
        loss_sum, weight, steps, interrupted, self._save_soon = ranks.sum(self.gradient, told)
        if interrupted:
            raise KeyboardInterrupt
        self.gradient *= 1 / (weight or 1)
        return loss_sum / (weight or 1), weight, int(steps), state

    def _interruptible(self):
        """Ctrl-C ends what is done in it; of several processes, which must stop at the same update, it only notes that."""
        return self.interrupts.allowed() if self.ranks.size == 1 else contextlib.nullcontext()

    def _room(self, alone):
        """Where the gradient of a batch goes: zeros."""
        if alone:
            return self.gradient
        if self._part is None:
            self._part = np.empty_like(self.gradient)
        self._part.fill(0)
        return self._part

    def _look_is_due(self):
        at, every = self.at, self.settings.evaluate_every * self.settings.accumulate
        if at.evaluated == at.update:
            return False
        return at.index == len(self.batches) or at.index % every == 0

    def _look(self):
        """Evaluate, note the best, begin the next epoch if this one is over, write a checkpoint."""
        at = self.at
        divergence.check_means(self.optimizer, at.update)
        figures = {"loss": None}
        if self.validation is not None:
            with self._interruptible():
                figures = None if self.settings.follows else self.model.evaluate(self.validation)
        figures = self.ranks.agree(figures)
        train_loss = at.loss_sum / at.loss_count if at.loss_count else None
        entry = {
            "epoch": round(at.epoch + at.index / len(self.batches), 4),
            "update": at.update,
            "lr": self.optimizer.lr,
            "train_loss": train_loss,
            **({"skipped": at.skipped} if self.settings.nonfinite == "skip" else {}),
            **{f"validation_{name}": value for name, value in figures.items()},
        }
        at.history.append(entry)
        self.progress.note(entry)
        answers = [callback(entry) for callback in self._callbacks]
        stops = any(isinstance(answer, (bool, np.bool_)) and bool(answer) for answer in answers)
        self._asked_to_stop = self.ranks.agree(stops)
        at.evaluated, at.loss_sum, at.loss_count = at.update, 0.0, 0
        self._compare(train_loss, figures)
        if at.index == len(self.batches):
            at.epoch, at.index, self.state = at.epoch + 1, 0, None
            self.batches.begin(at.epoch)
        if at.update and self.settings.checkpoint is not None:
            self._save()

    def _compare(self, train_loss, figures):
        """Keep the parameters if they are the best so far."""
        at, monitor = self.at, self.settings.monitor
        loss = train_loss if figures["loss"] is None else figures["loss"] if monitor == "loss" else -figures[monitor]
        if loss is None:
            return
        if at.update:
            self.schedule.observe(loss)
        at.looks_since_best += 1
        if not math.isfinite(loss) or not (at.update or self._untrained_counts):
            return
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
        only_first_look = (
            at.update > 0 and at.evaluated <= 0
        )  # interrupted in the first epoch: nothing is known of what was learnt
        if diverged or (self.validation is not None and at.best_loss is not None and not only_first_look):
            with self.model.storage.updating() as flat:
                flat[:] = self.best
        if self.validation is not None and at.update and self.message is None:
            figure = f"validation_{self.settings.monitor}"
            if at.best_loss is None:
                self.message = f"the {figure} was never a number: the parameters kept are the last ones"
            elif at.best_update == 0:
                before = next(entry[figure] for entry in at.history)
                self.message = (
                    f"no look at the validation part found a better {figure} than {before:.4g}, the one before training, so the first "
                    "parameters are kept: give more data or epochs, or change lr"
                )
        if at.skipped and not diverged:
            said = f"{at.skipped} of {at.update} updates were skipped, as loss or gradient were not finite; the first one: {at.first_skipped}"
            self.message = said if self.message is None else f"{self.message}; {said}"
        if diverged:
            kept = (
                "those from before the first update" if at.best_update == 0 else f"the best, of update {at.best_update}"
            )
            self.message += f"; the parameters kept are {kept}; a lower lr than {self.settings.lr} may help"

    def _save(self):
        """Write a checkpoint: all that the future of the run depends on. The states of all processes are in it."""
        self._saved = time.monotonic()
        state = self.ranks.gather_rows(_checkpoint.leaves(self.state))
        if self.settings.follows or self.settings.checkpoint is None:
            return
        optimizer = self.optimizer.state_dict()
        arrays = {"parameters": self.model.storage.flat, "best": self.best}
        arrays |= {f"state.{i}": array for i, array in enumerate(state)}
        arrays |= {f"optimizer.{name}": value for name, value in optimizer.items() if isinstance(value, np.ndarray)}
        config = {
            "identity": self.identity,
            "position": dataclasses.asdict(self.at),
            "optimizer": {name: value for name, value in optimizer.items() if not isinstance(value, np.ndarray)},
            "schedule": self.schedule.state_dict(),
            "state": _checkpoint.structure(self.state),
            "computed_by": _computed_by(),
        }
        storage.save(self.settings.checkpoint, arrays, config, kind="checkpoint")

    def _restore(self):
        """Continue from the checkpoint."""
        folder = self.settings.checkpoint
        arrays, config = ({}, None) if self.settings.follows else storage.load(folder, kind="checkpoint")
        arrays, config = self.ranks.broadcast(arrays), self.ranks.agree(config)
        with of_file(self._checkpoint_file):
            _checkpoint.check_identity(config)
        for name, mine in self.identity.items():
            theirs = config["identity"].get(name)
            if theirs != mine:
                raise ValueError(
                    f"the checkpoint in {folder} was made with {name}={theirs!r:.200}, but now it is {mine!r:.200}: to continue, it must be the same"
                )
        with of_file(self._checkpoint_file):
            self._continue_from(arrays, config)
        if config["computed_by"] != _computed_by():
            before, now = (
                ", ".join(f"{k} {v}" for k, v in by.items()) for by in (config["computed_by"], _computed_by())
            )
            warnings.warn(
                f"the checkpoint was computed by {before}, now it is {now}: the bits may differ",
                RuntimeWarning,
                stacklevel=4,
            )

    @property
    def _checkpoint_file(self):
        return os.path.join(self.settings.checkpoint, storage.CONFIG_FILES["checkpoint"])

    def _continue_from(self, arrays, config):
        """Take over what a checkpoint holds, after a check of all of it."""
        options = dict(
            flat=self.model.storage.flat, optimizer=self.optimizer.state_dict(), schedule=self.schedule.state_dict()
        )
        _checkpoint.check(config, arrays, figures=() if self.validation is None else self.model.FIGURES, **options)
        parts = [self.ranks.rows_of(arrays[f"state.{k}"]) for k in range(_checkpoint.count(config["state"]))]
        self.state = _checkpoint.rebuilt(config["state"], iter(parts))
        if self.state is not None and hasattr(self.model, "check_state"):
            self.model.check_state(self.state, self.batches)
        with self.model.storage.updating() as flat:
            flat[:] = arrays["parameters"]
        self.best[:] = arrays["best"]
        moments = {name.removeprefix("optimizer."): a for name, a in arrays.items() if name.startswith("optimizer.")}
        self.optimizer.load_state_dict(config["optimizer"] | moments)
        self.schedule.load_state_dict(config["schedule"])
        self.at = Position(**config["position"])


def _computed_by():
    """What the bits of a run depend on besides its settings."""
    return {"isa": _engine.isa(), "blas": _engine.blas_core()}

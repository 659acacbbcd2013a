"""The training loop: batches or truncated BPTT, early stopping, checkpoints, and a resume that gives the same bits."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Mapping

import numpy as np

from fastrnn import optim
from fastrnn._check import memory as check_memory
from fastrnn._files import storage
from fastrnn.layers.feedforward import random_key
from fastrnn.settings import Settings
from fastrnn.training import checkpoint, divergence
from fastrnn.training.checkpoint import Position
from fastrnn.training.divergence import DivergedError, NotFiniteError
from fastrnn.training.groups import optimizer_of
from fastrnn.training.interrupts import Interrupts
from fastrnn.training.plans import ModelPlans
from fastrnn.training.progress import Progress


class Training:
    """One run of the training loop.

    Parameters
    ----------
    model : Model
        It has `storage`; `slots`, ``{name: Slot}`` of its parameters; ``loss_and_gradient(batch, state, into=flat,
        rng=key)``, which adds the gradient to `into` and returns ``(loss, state)``; and ``evaluate(batches)``, which
        returns ``{figure: value}`` with the names in `FIGURES`, the first of them "loss". Neither changes the
        parameters.
    batches : Streams, Sequences or Generated
        The batches of an epoch, see `fastrnn.batches`. The state is carried from one to the next, and is reset at the
        beginning of an epoch.
    settings : Settings
        How to train.
    seed : int
        The keys of the dropout masks are derived from it.
    validation : batches, optional
        The data of the evaluations, for early stopping and for the best parameters. Without them the last parameters
        are kept, and a run that diverges goes back to the parameters with the lowest training loss.
    identity : mapping, optional
        What must be equal in a checkpoint to resume from it, as JSON: the configuration of the model, and the data.
    on_best : callable, optional
        Called without arguments after each evaluation that is the best so far.
    unit : str, default "steps"
        What the progress bar counts.
    untrained_counts : bool, default True
        Whether the parameters before the first update may be the best.
    """

    def __init__(
        self,
        model,
        batches,
        settings: Settings,
        *,
        seed: int,
        validation=None,
        identity: Mapping | None = None,
        on_best: Callable[[], object] | None = None,
        unit: str = "steps",
        untrained_counts: bool = True,
    ):
        for name in ("patience", "monitor"):
            if getattr(settings, name) not in (None, "loss") and validation is None:
                raise ValueError(f"{name}={getattr(settings, name)!r} needs validation data, but there are none")
        if settings.monitor not in model.FIGURES:
            figures = ", ".join(model.FIGURES)
            raise ValueError(f"monitor is {settings.monitor!r}, but an evaluation of this model gives {figures}")
        self.model, self.settings, self.validation = model, settings, validation
        self.ranks = settings.ranks
        self.batches = self.ranks.share(batches)
        self.on_best, self.unit = None if settings.follows else on_best, unit
        self.optimizer = optimizer_of(model, settings)
        self.schedule = optim.Constant() if settings.schedule is None else copy.deepcopy(settings.schedule)
        same = ("clip_norm", "clip_value", "accumulate", "monitor", "evaluate_every")
        self.identity = {
            **(identity or {}),
            "optimizer": repr(self.optimizer),
            "schedule": repr(self.schedule),
            **{name: getattr(settings, name) for name in same},
        }
        self.at, self._untrained_counts = Position(seed), untrained_counts
        self.state = None  # carried from batch to batch
        self._plans = ModelPlans(model)
        copies = 3 + len(getattr(self.optimizer, "_moments", ()))  # best, gradient, packed weights, running means
        what = f"training {model.storage.size:,} parameters: copies of them"
        check_memory.fits(what, copies * model.storage.flat.nbytes, "make the model smaller")
        self.best = np.array(model.storage.flat)
        self.gradient = np.zeros_like(model.storage.flat)
        self._batch_gradient = None  # of one batch, where several make up an update
        self._save_requested = self._stop_requested = False
        self._computed = []  # (batch, state, key) of each batch of the present update
        self.outcome = None  # "finished", "stopped early", "interrupted" or "diverged"
        self.message = None  # a remark about the outcome
        self.seconds = 0.0  # spent in updates, by this process
        self.steps = 0  # steps computed in that time

    def start(self) -> None:
        """Read the checkpoint, or write the first one, and open the logs, so that errors come before any work."""
        ranks, folder = self.ranks, self.settings.checkpoint
        ranks.share_threads()
        resumes = ranks.agree(
            not self.settings.follows and self.settings.resume and storage.exists(folder, kind="checkpoint")
        )
        if resumes:
            checkpoint.restore(self)
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
        """Train, after `start`. The model then has the best parameters; `outcome` and `message` tell how it ended."""
        self._saved = time.monotonic()
        self.batches.begin(self.at.epoch)
        if self.at.index > len(self.batches):
            file, index = checkpoint.file_of(self), self.at.index
            raise ValueError(f"{file}: position.index is {index}, but an epoch has {len(self.batches)} batches")
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
        """Tell the callbacks that the run has ended, however it ended."""
        for callback in self._callbacks:
            if hasattr(callback, "end"):
                callback.end()

    @property
    def _callbacks(self):
        return () if self.settings.follows else self.settings.callbacks

    def _loop(self):
        patience = self.settings.patience
        while True:
            if self._evaluation_is_due():
                self._evaluate()
            if self.at.epoch >= self.settings.epochs:
                return "finished"
            if self._stop_requested or (patience is not None and self.at.evaluations_since_best >= patience):
                return "stopped early"
            self._update()
            if self._save_requested if self.ranks.size > 1 else self._save_is_due():
                self._save()

    # --- updates ---

    def _update(self):
        """Compute the gradient of one or several batches, clip it, and update the parameters."""
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
            loss = state = None  # the state is reset, since it may not be finite either
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
        """Count an update that is skipped, or raise DivergedError if training must stop."""
        at, reason = self.at, f"{error}{divergence.place_of(self.model, self._computed)}"
        if self.settings.nonfinite == "stop":
            raise DivergedError(reason) from None
        at.skipped += 1
        at.skipped_in_row += 1
        at.first_skipped = at.first_skipped or reason
        if at.skipped_in_row >= -(-len(self.batches) // self.settings.accumulate):
            raise DivergedError(f"{at.skipped_in_row} updates in a row were skipped, which is a whole epoch: {reason}")

    def _gradient(self, count):
        """Set `gradient` to the mean gradient of the next `count` batches of all processes.

        Returns
        -------
        loss, weight, steps, state
            The mean loss, the weight of the batches, their steps, and the state after them.
        """
        at, ranks, state = self.at, self.ranks, self.state
        rank, alone = ranks.rank, count == 1 and ranks.size == 1
        loss_sum = weight = steps = 0
        checked = self.settings.check_finite
        self._computed = []
        self.gradient.fill(0)
        with self._interruptible():
            for k in range(count):
                batch = self.batches[at.index + k]
                if batch is None:
                    continue
                key = random_key(at.seed, at.update, k, rank) if k or rank else random_key(at.seed, at.update)
                self._computed.append((batch, state, key))
                loss, state = divergence.loss_and_gradient(
                    self._plans, checked, batch, state, into=self._gradient_buffer(alone), rng=key
                )
                steps += self.batches.steps_of(batch)
                if alone:
                    return loss, self.batches.weight_of(batch) if divergence.is_first(at) else 0.0, steps, state
                w = self.batches.weight_of(batch)
                loss_sum, weight = loss_sum + w * loss, weight + w
                self.gradient += np.multiply(self._batch_gradient, w, out=self._batch_gradient)
        sums = [loss_sum, weight, steps, self.interrupts.pending, rank == 0 and self._save_is_due()]
        loss_sum, weight, steps, interrupted, self._save_requested = ranks.sum(self.gradient, sums)
        if interrupted:
            raise KeyboardInterrupt
        self.gradient *= 1 / (weight or 1)
        return loss_sum / (weight or 1), weight, int(steps), state

    def _interruptible(self):
        """Let Ctrl-C interrupt at once in a single process.

        Several processes must stop at the same update: they learn of Ctrl-C from the sums of that update.
        """
        return self.interrupts.allowed() if self.ranks.size == 1 else contextlib.nullcontext()

    def _gradient_buffer(self, alone):
        """Zeros, to which the gradient of a batch is added."""
        if alone:
            return self.gradient
        if self._batch_gradient is None:
            self._batch_gradient = np.empty_like(self.gradient)
        self._batch_gradient.fill(0)
        return self._batch_gradient

    # --- evaluations ---

    def _evaluation_is_due(self):
        at, every = self.at, self.settings.evaluate_every * self.settings.accumulate
        if at.evaluated == at.update:
            return False
        return at.index == len(self.batches) or at.index % every == 0

    def _evaluate(self):
        """Evaluate, keep the best parameters, begin the next epoch if this one is over, and write a checkpoint."""
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
        if answers:
            self._plans.forget_if_changed()
        stops = any(isinstance(answer, (bool, np.bool_)) and bool(answer) for answer in answers)
        self._stop_requested = self.ranks.agree(stops)
        at.evaluated, at.loss_sum, at.loss_count = at.update, 0.0, 0
        self._compare(train_loss, figures)
        if at.index == len(self.batches):
            at.epoch, at.index, self.state = at.epoch + 1, 0, None
            self.batches.begin(at.epoch)
        if at.update and self.settings.checkpoint is not None:
            self._save()

    def _compare(self, train_loss, figures):
        """Keep a copy of the parameters if they are the best so far."""
        at, monitor = self.at, self.settings.monitor
        loss = train_loss if figures["loss"] is None else figures["loss"] if monitor == "loss" else -figures[monitor]
        if loss is None:
            return
        if at.update:
            self.schedule.observe(loss)
        at.evaluations_since_best += 1
        if not math.isfinite(loss) or not (at.update or self._untrained_counts):
            return
        if at.best_loss is None or loss < at.best_loss:
            at.best_loss, at.best_update, at.evaluations_since_best = loss, at.update, 0
            self.best[:] = self.model.storage.flat
            if self.on_best is not None and at.update:
                self.on_best()

    # --- the end ---

    def _finish(self):
        """Write the last checkpoint, give the model its best parameters, and complete the message."""
        at, diverged = self.at, self.outcome == "diverged"
        if self.settings.checkpoint is not None and not diverged:
            self._save()
        # interrupted in the first epoch: the parameters since the first evaluation were never evaluated
        only_first = at.update > 0 and at.evaluated <= 0
        if diverged or (self.validation is not None and at.best_loss is not None and not only_first):
            with self.model.storage.updating() as flat:
                flat[:] = self.best
        if self.validation is not None and at.update and self.message is None:
            self.message = self._remark_about_best()
        if at.skipped and not diverged:
            skipped = (
                f"{at.skipped} of {at.update} updates were skipped because the loss or the gradient was not finite; "
                f"the first one: {at.first_skipped}"
            )
            self.message = skipped if self.message is None else f"{self.message}; {skipped}"
        if diverged:
            first = at.best_update == 0
            kept = "those from before the first update" if first else f"the best, of update {at.best_update}"
            self.message += f"; the parameters kept are {kept}; a lower lr than {self.settings.lr} may help"

    def _remark_about_best(self):
        """The message for a run whose evaluations were never finite or never better than the first, else None."""
        at, figure = self.at, f"validation_{self.settings.monitor}"
        if at.best_loss is None:
            return f"the {figure} was never finite: the last parameters are kept"
        if at.best_update > 0:
            return None
        before = next(entry[figure] for entry in at.history)
        return (
            f"no evaluation found a better {figure} than {before:.4g}, that of the initial parameters, which are kept: "
            "give more data or epochs, or change lr"
        )

    def _save_is_due(self):
        return time.monotonic() - self._saved >= self.settings.checkpoint_every

    def _save(self):
        """Write a checkpoint. All processes take part, as it holds the states of all of them."""
        self._saved = time.monotonic()
        checkpoint.write(self)

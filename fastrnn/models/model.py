"""What all models have in common: layers in one storage, the steps of `fit`, saving and loading."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastrnn import _check
from fastrnn._check.memory import Budget
from fastrnn._files import storage
from fastrnn._files.schema import of_file, shown
from fastrnn.layers import build
from fastrnn.layers.feedforward import random_key
from fastrnn.layers.rnn import GRU, LSTM, RNN
from fastrnn.layers.stacked import Stacked
from fastrnn.models import schemas, unseen
from fastrnn.parameters import Slot, Storage, initialise
from fastrnn.settings import Settings, check_names
from fastrnn.training.loop import Training

if TYPE_CHECKING:
    from typing_extensions import Self

CELLS = {"lstm": LSTM, "gru": GRU, "rnn": RNN}
Recurrent = RNN | GRU | LSTM | Stacked


@dataclasses.dataclass(frozen=True)
class Examples:
    """The checked data of a `fit`."""

    columns: tuple  # such as (X, y, weights), each with one entry for each example
    common: dict = dataclasses.field(default_factory=dict)  # what holds for all examples, such as feature names

    def __len__(self):
        return len(self.columns[0])

    def rows(self, rows) -> Examples:
        """Select some examples."""
        return Examples(tuple(select(column, rows) for column in self.columns), self.common)


class Setup(NamedTuple):
    """What `fit` has prepared when it has read the data. The model is unchanged until `build` is called."""

    build: Callable[[], None]  # makes the layers and stores what was learnt from the data, such as a vocabulary
    batches: Callable[[], tuple]  # gives the training and the held-out batches (or None); called after `build`
    identity: Callable[[Any], dict] | None  # what identifies the data, from the training batches; None: no checkpoints


class Model:
    """Base of the models.

    A subclass sets the class attributes below and defines `_read` and `_prepare` for `fit`, and `_fitted_config` and
    `_rebuild` for `save` and `load`.
    """

    LAYERS: tuple = ()  # names of the layers, which are attributes of a fitted model
    ARGUMENTS: tuple = ()  # names of the constructor's arguments, which are attributes of the same name
    FIGURES: tuple = ("loss",)  # what `evaluate` returns
    UNIT = "steps"  # what `speed` and the progress bar count
    # Defaults of `Settings`. The loss of a batch of few sequences varies a lot, so `loss_limit` is high.
    TRAINING = dict(optimizer="adam", lr=2e-3, clip_norm=5.0, loss_limit=30.0)

    history: list[dict[str, Any]] = []
    outcome: str | None = None
    message: str | None = None
    speed: float | None = None
    storage: Storage | None = None
    reading: dict | None = None  # the command's options for reading the data, saved with the model
    _budget = None  # limits the number of parameters of a model that is being loaded

    def _configuration(self):
        """The constructor's arguments, as JSON values."""
        return {name: getattr(self, name) for name in self.ARGUMENTS} | {"dtype": str(self.dtype), "seed": self.seed}

    def _fitted_arrays(self):
        """{name: array} of what `fit` learnt beside the parameters."""
        return {}

    def __repr__(self):
        options = ", ".join(f"{name}={value!r}" for name, value in self._configuration().items())
        state = "not fitted" if self.storage is None else f"{self.num_parameters} parameters"
        return f"<{type(self).__name__}({options}): {state}>"

    @property
    def num_parameters(self) -> int:
        """Number of trainable parameters."""
        self._check_fitted()
        return self.storage.size

    def _check_fitted(self):
        if self.storage is None:
            name = type(self).__name__
            raise RuntimeError(f"this {name} has not been fitted: call fit(…) or {name}.load(directory)")

    def check_state(self, state, batches) -> None:
        """Check a state that a checkpoint carries from one batch to the next.

        Parameters
        ----------
        state : array or tuple of arrays
            The state, as read from the checkpoint.
        batches : Streams or Sequences
            The training batches.

        Raises
        ------
        ValueError
            If the state does not belong to this model. Most models carry none, so any state is wrong.
        """
        raise ValueError(f"it carries a state from batch to batch, but a {type(self).__name__} has none")

    @property
    def slots(self) -> dict[str, Slot]:
        """Where each parameter lies in `storage`, by the name ``layer.parameter``."""
        return {f"{name}.{key}": slot for name in self.LAYERS for key, slot in getattr(self, name).slots.items()}

    def _fit(self, data: tuple, validation, settings: Settings, /, **options) -> Self:
        """Read the data, make the network, train it and report how training ended: the steps of every `fit`.

        `data` are the arguments of `_read`, `options` those of `_prepare`.
        """
        examples = self._read(*data)
        seed = self._drawn_seed(settings)
        examples, held = self._split(examples, validation, seed)
        setup = self._prepare(examples, held, seed, settings, **options)
        del examples, held  # they may be large, and training needs only the batches
        self._train(setup, settings, seed=seed)
        return self

    def _settings(self, epochs, verbose, given: dict) -> Settings:
        """The arguments of `fit` that say how to train, checked."""
        check_names(given, tuple(inspect.signature(self.fit).parameters))
        return Settings(epochs=epochs, **{**self.TRAINING, "progress": verbose, **given})

    def _read(self, *data, like: Examples | None = None) -> Examples:
        """Check the data. Held-out data must be `like` the training data: of the same width, for example."""
        raise NotImplementedError

    def _drawn_seed(self, settings: Settings) -> int:
        """The model's seed, or a random one, the same in all processes that train together."""
        seed = self.seed if self.seed is not None else int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
        return settings.ranks.agree(seed)

    def _split(self, data: Examples, validation, seed: int) -> tuple[Examples, Examples | None]:
        """The training and the held-out examples: those given, or a fraction of all, drawn with the seed."""
        if isinstance(validation, (tuple, list)):
            return data, self._read(*validation, like=data)
        held, kept = held_out_rows(len(data), validation, random_key(seed, 2))
        return (data.rows(kept), data.rows(held)) if len(held) else (data, None)

    def _prepare(self, data: Examples, held: Examples | None, seed: int, settings: Settings, **options) -> Setup:
        """Learn vocabularies, scales and sizes from the training examples, and prepare the batches."""
        raise NotImplementedError

    @contextlib.contextmanager
    def _all_or_nothing(self):
        """Restore the model, its parameters too, if the body fails."""
        before, storage = self.__dict__.copy(), self.storage
        flat = None if storage is None else storage.flat.copy()
        try:
            yield
        except BaseException:
            self.__dict__ = before
            if storage is not None and not np.array_equal(storage.flat, flat, equal_nan=True):
                with storage.updating() as parameters:
                    parameters[:] = flat
            raise

    def _train(self, setup: Setup, settings: Settings, *, seed: int, prepare=lambda run: None, **options) -> Training:
        """Build the layers, train and report the outcome. If that fails, the model is unchanged.

        `prepare` is called with the Training before it runs; `options` are those of Training.
        """
        on_best = None if settings.checkpoint is None else lambda: self.save(settings.checkpoint)
        with storage.training(None if settings.follows else settings.checkpoint), self._all_or_nothing():
            settings.check_directory()  # again, now that no other training can write there
            setup.build()
            batches, held = setup.batches()
            # The identity takes a pass over all data, so it is computed only for a checkpoint.
            identity = {} if settings.checkpoint is None else self._configuration() | setup.identity(batches)
            options |= dict(seed=seed, validation=held, identity=identity, unit=self.UNIT)
            run = Training(self, batches, settings, on_best=on_best, **options)
            try:
                run.start()
                prepare(run)
                self.history = run.at.history
                run.run()
            finally:
                run.close()
            self.outcome, self.message = run.outcome, run.message
            self.speed = run.steps / run.seconds if run.seconds else None
            if run.settings.checkpoint is not None and not run.settings.follows:
                self.save(run.settings.checkpoint)
        if run.message is not None:
            warnings.warn(run.message, RuntimeWarning, stacklevel=unseen.caller_level())
        return run

    def save(self, directory: str | os.PathLike) -> None:
        """Write the model to a directory as config.json and one safetensors file.

        Parameters
        ----------
        directory : str or PathLike
            Where to write. It is created if it does not exist; a model that was saved there is replaced.

        Raises
        ------
        RuntimeError
            If the model has not been fitted.
        OSError
            If a file cannot be written. A model that was saved there before stays readable.
        """
        self._check_fitted()
        arrays = {f"{name}.{key}": array for name in self.LAYERS for key, array in getattr(self, name).params.items()}
        config = {
            "model": type(self).__name__,
            **self._configuration(),
            **self._fitted_config(),
            "history": self.history,
        }
        if self.reading is not None:
            config["reading"] = self.reading
        storage.save(directory, arrays | self._fitted_arrays(), config)

    def _fitted_config(self) -> dict:
        """What `fit` learnt beside the parameters, as JSON values."""
        raise NotImplementedError

    @classmethod
    def load(cls, directory: str | os.PathLike) -> Self:
        """Read a model that `save` wrote.

        Parameters
        ----------
        directory : str or PathLike
            The directory that the model was saved to.

        Returns
        -------
        Model
            The fitted model, of this class.

        Raises
        ------
        FileNotFoundError
            If the directory holds no model.
        ValueError
            If the files are damaged or in a newer format, or hold another kind of model.
        """
        arrays, config = storage.load(directory)
        if config.get("model") != cls.__name__:
            raise ValueError(f"{directory} holds a {shown(config.get('model'))}, but this is {cls.__name__}.load")
        return cls._of(arrays, config, directory)

    @classmethod
    def _of(cls, arrays, config, directory):
        """The model that was saved in a directory. Arguments that older versions did not save have their defaults.

        Raises
        ------
        ValueError
            If a configuration value or an array does not fit a model of this class. The message names the file and
            the key. No layer with more parameters than the arrays hold is made before that.
        """
        with of_file(os.path.join(directory, storage.CONFIG_FILES["model"])):
            schemas.check(config)
            model = cls(**cls._arguments_in(config))
            model._budget = Budget(arrays)
            model._rebuild(config, arrays)
            del model._budget
            model.storage.budget = None
            shapes = {name: slot.shape for name, slot in model.slots.items()}
            _check_arrays(arrays, shapes, model.dtype, model._fitted_arrays())
        for name in model.LAYERS:
            prefix = f"{name}."
            getattr(model, name).load_state_dict(
                {key[len(prefix) :]: array for key, array in arrays.items() if key.startswith(prefix)}
            )
        model.history, model.reading = config["history"], config.get("reading")
        return model

    @classmethod
    def _arguments_in(cls, config):
        """The constructor's arguments in a configuration."""
        return {name: config[name] for name in (*cls.ARGUMENTS, "dtype", "seed") if name in config}

    def _rebuild(self, config: dict, arrays: dict) -> None:
        """Make the layers from what `_fitted_config` and `_fitted_arrays` saved."""
        raise NotImplementedError


def _check_arrays(arrays, shapes, dtype, others):
    """Raise a ValueError that names an array that is missing or unknown, or of the wrong shape or dtype."""
    wanted = shapes.keys() | others.keys()
    for names, what in (
        (wanted - arrays.keys(), "is missing"),
        (arrays.keys() - wanted, "does not belong to such a model"),
    ):
        if names:
            raise ValueError(
                f"the array {shown(min(names))} {what}: the sizes in the configuration do not fit the arrays saved "
                "beside it"
            )
    for name, shape in shapes.items():
        found = arrays[name]
        if found.shape != shape or found.dtype != dtype:
            raise ValueError(
                f"the array {name} is {found.dtype} of shape {found.shape}, but by the sizes in the configuration it "
                f"must be {dtype} of shape {shape}"
            )


def recurrent(
    cell: str, input_size: int, hidden_size: int | list[int], num_layers: int, *, dropout=0.0, **options
) -> Recurrent:
    """Make the recurrent network of a model: layers of one size or, if `hidden_size` is a list, of a size each.

    Dropout is between the layers, so a single layer has none.
    """
    several = num_layers > 1 or not isinstance(hidden_size, int)
    return build.make(CELLS[cell], input_size, hidden_size, num_layers, dropout=dropout if several else 0.0, **options)


def init_forget_bias(net, seed: int) -> None:
    """Draw an LSTM's parameters with a forget bias of 1 (Jozefowicz et al. 2015). Call it after all layers are made."""
    for k, layer in enumerate(getattr(net, "layers", [net])):
        if layer.num_gates == 4:
            initialise(layer, "torch", forget_bias=1.0, seed=random_key(seed, k) if k else seed)


def select(values, rows):
    """Some entries of a list or an array."""
    return [values[i] for i in rows] if isinstance(values, list) else values[rows]


def held_out_rows(N: int, fraction: float, key: int, name: str = "validation") -> tuple[np.ndarray, np.ndarray]:
    """Split N rows at random into those held out and those kept; with a fraction of 0 all are kept, in order.

    Raises
    ------
    ValueError
        If the fraction is not 0, but one of the two parts would be empty. `name` is the argument in the message.
    """
    held = round(N * _check.probability(name, fraction))
    if fraction and not 0 < held < N:
        if N < 2:
            raise ValueError(f"{name}={fraction} of {N} cannot be held out: give more data, or {name}=0")
        what = "all" if held else "none"
        raise ValueError(
            f"{name}={fraction} of {N} would hold out {what}: give a fraction from {0.6 / N:.2g} to "
            f"{(N - 0.6) / N:.2g}, or 0"
        )
    order = np.random.default_rng(key).permutation(N) if held else np.arange(N)
    return order[:held], order[held:]


def most_likely(scores: np.ndarray, what: str) -> np.ndarray:
    """The index of the largest score in each row of (N, K).

    Raises
    ------
    RuntimeError
        If a row has a NaN. `what` is what a row belongs to, for the message.
    """
    wrong = np.flatnonzero(np.isnan(scores).any(1))
    if len(wrong):
        raise RuntimeError(
            f"the network's outputs for {what} {wrong[0]} are NaN, and {len(wrong)} of {len(scores)} in all: the "
            "parameters have diverged, or the inputs are too large; train again with a lower lr"
        )
    return scores.argmax(1)

"""What all models have in common: layers in one storage, a training run, a place on disk."""

from __future__ import annotations

import contextlib
import os
import warnings

import numpy as np

from fastrnn import _check
from fastrnn._check.memory import Budget
from fastrnn._files import storage
from fastrnn._files.schema import of_file, shown
from fastrnn.layers import stacked
from fastrnn.layers.feedforward import random_key
from fastrnn.layers.rnn import GRU, LSTM, RNN
from fastrnn.models import schemas
from fastrnn.parameters import initialise
from fastrnn.settings import Settings
from fastrnn.training.loop import Training

CELLS = {"lstm": LSTM, "gru": GRU, "rnn": RNN}
DEFAULTS = dict(
    optimizer="adam", lr=2e-3, clip_norm=5.0, loss_limit=30.0
)  # of training; the loss of a few sequences varies much


class Model:
    """Base of the models. A subclass has

    LAYERS : names of its layers, which are attributes once it is fitted
    ARGUMENTS : names of the arguments, and attributes, that make such a model
    FIGURES : what `evaluate` gives
    _fitted_config() : what `fit` found out beside the parameters, for JSON
    _rebuild(config, arrays) : makes the layers for what `_fitted_config` and `_fitted_arrays` gave
    """

    LAYERS = ARGUMENTS = ()
    FIGURES = ("loss",)
    history, outcome, message, speed, storage = [], None, None, None, None
    _budget = None  # of the parameters of a model that is being loaded
    reading = None  # how the command read the data: options of a reader of fastrnn.data, saved with the model

    def _configuration(self):
        """The arguments that make such a model, as JSON has them."""
        return {name: getattr(self, name) for name in self.ARGUMENTS} | {"dtype": str(self.dtype), "seed": self.seed}

    def _fitted_arrays(self):
        """{name: array} of what `fit` found out beside the parameters."""
        return {}

    def __repr__(self):
        options = ", ".join(f"{name}={value!r}" for name, value in self._configuration().items())
        state = "not fitted" if self.storage is None else f"{self.num_parameters} parameters"
        return f"<{type(self).__name__}({options}): {state}>"

    @property
    def num_parameters(self) -> int:
        """Numbers that are learnt."""
        self._check_fitted()
        return self.storage.size

    def _check_fitted(self):
        if self.storage is None:
            name = type(self).__name__
            raise RuntimeError(f"this {name} has not been fitted: call fit(…) or {name}.load(directory)")

    def check_state(self, state, batches) -> None:
        """Raise a ValueError if a state that a checkpoint carries from batch to batch is none of this model."""
        raise ValueError(f"it carries a state from batch to batch, but a {type(self).__name__} has none")

    @property
    def slots(self) -> dict:
        """{layer.parameter: Slot} of all parameters."""
        return {f"{name}.{key}": slot for name in self.LAYERS for key, slot in getattr(self, name).slots.items()}

    def _drawn_seed(self, settings: Settings):
        """The model's seed, or a fresh one, the same for all processes that train together."""
        seed = self.seed if self.seed is not None else int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
        return settings.ranks.agree(seed)

    @contextlib.contextmanager
    def _all_or_nothing(self):
        """If what is done in it fails, the model is as it was before, its parameters too."""
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

    def _train(self, build, batches, settings: Settings, *, identity, prepare=lambda run: None, **options) -> Training:
        """Call `build`, which makes the layers, train to the end, and say how it ended; if that fails, nothing has changed.

        batches : those of training, or a function that makes them and the held-out ones once the layers are there
        identity : a function that says what a checkpoint knows the data by: it reads all of them, so it is called only for a checkpoint
        prepare : called with the Training before it runs
        """
        on_best = None if settings.checkpoint is None else lambda: self.save(settings.checkpoint)
        with storage.training(None if settings.follows else settings.checkpoint), self._all_or_nothing():
            settings.check_directory()  # again: another training may have been there since
            build()
            if callable(batches):
                batches, options["validation"] = batches()
            options["identity"] = {} if settings.checkpoint is None else self._configuration() | identity(batches)
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
            warnings.warn(run.message, RuntimeWarning, stacklevel=3)
        return run

    def save(self, directory: str | os.PathLike) -> None:
        """Write the model to a directory, which may hold an older one: config.json and one safetensors file."""
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

    @classmethod
    def load(cls, directory: str | os.PathLike):
        """Read a model that `save` wrote.

        Raises
        ------
        FileNotFoundError  there is none.
        ValueError         it is damaged, of a newer format, or another kind of model.
        """
        arrays, config = storage.load(directory)
        if config.get("model") != cls.__name__:
            raise ValueError(f"{directory} holds a {shown(config.get('model'))}, but this is {cls.__name__}.load")
        return cls._of(arrays, config, directory)

    @classmethod
    def _of(cls, arrays, config, directory):
        """The model that was saved in a directory. An argument that it did not have yet has its default.

        Raises
        ------
        ValueError  a value of the configuration, or an array, is not what a model of this class has; the message names the file and the
            key. No layer is made then that has more parameters than the arrays.
        """
        with of_file(os.path.join(directory, storage.CONFIG_FILES["model"])):
            schemas.check(config)
            model = cls(**cls._arguments_in(config))
            model._budget = Budget(arrays)
            model._rebuild(config, arrays)
            del model._budget
            model.storage.budget = None
            _check_arrays(
                arrays, {name: slot.shape for name, slot in model.slots.items()}, model.dtype, model._fitted_arrays()
            )
        for name in model.LAYERS:
            prefix = f"{name}."
            getattr(model, name).load_state_dict(
                {key[len(prefix) :]: array for key, array in arrays.items() if key.startswith(prefix)}
            )
        model.history, model.reading = config["history"], config.get("reading")
        return model

    @classmethod
    def _arguments_in(cls, config):
        """The arguments of the constructor, as a configuration has them."""
        return {name: config[name] for name in (*cls.ARGUMENTS, "dtype", "seed") if name in config}


def _check_arrays(arrays, shapes, dtype, others):
    """Raise a ValueError that names an array which is missing, not known, or of another shape or dtype than a parameter has."""
    wanted = shapes.keys() | others.keys()
    for names, what in (
        (wanted - arrays.keys(), "is missing"),
        (arrays.keys() - wanted, "is none that such a model has"),
    ):
        if names:
            raise ValueError(
                f"the array {shown(min(names))} {what}: the sizes in the configuration do not fit the arrays saved beside it"
            )
    for name, shape in shapes.items():
        found = arrays[name]
        if found.shape != shape or found.dtype != dtype:
            raise ValueError(
                f"the array {name} is {found.dtype} of shape {found.shape}, but by the sizes in the configuration it must be {dtype} of "
                f"shape {shape}"
            )


def recurrent(cell: str, input_size: int, hidden_size, num_layers: int, *, dropout: float = 0.0, **options):
    """The network of a model: layers of one size, or of a size each; `dropout` is between them."""
    several = num_layers > 1 or not isinstance(hidden_size, int)
    return stacked.make(
        CELLS[cell], input_size, hidden_size, num_layers, dropout=dropout if several else 0.0, **options
    )


def remember_at_first(net, seed: int) -> None:
    """Draw an LSTM's parameters with a forget bias of 1 (Jozefowicz et al. 2015); call it when all layers of the model are made."""
    for k, layer in enumerate(getattr(net, "layers", [net])):
        if layer.num_gates == 4:
            initialise(layer, "torch", forget_bias=1.0, seed=random_key(seed, k) if k else seed)


def held_out_rows(N, part, key, name="validation"):
    """(rows held out, rows kept) of N: a part drawn with the key, none if it is 0. Otherwise neither may be empty."""
    held = round(N * _check.probability(name, part))
    if part and not 0 < held < N:
        if N < 2:
            raise ValueError(f"{name}={part} of {N} cannot be held out: give more data, or {name}=0")
        what = "all" if held else "none"
        raise ValueError(
            f"{name}={part} of {N} would hold out {what}: give a part from {0.6 / N:.2g} to {(N - 0.6) / N:.2g}, or 0"
        )
    order = np.random.default_rng(key).permutation(N) if held else np.arange(N)
    return order[:held], order[held:]


def most_likely(scores, what: str) -> np.ndarray:
    """The place of the greatest of each row of scores (N, K).

    Raises
    ------
    RuntimeError  a row has a NaN; `what` is what it belongs to.
    """
    wrong = np.flatnonzero(np.isnan(scores).any(1))
    if len(wrong):
        raise RuntimeError(
            f"the network's outputs for {what} {wrong[0]} are NaN, as those of {len(wrong)} of {len(scores)}: its parameters have left all "
            "bounds, or its inputs are too large; train again with a lower lr"
        )
    return scores.argmax(1)

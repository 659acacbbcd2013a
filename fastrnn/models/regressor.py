"""A regressor of whole sequences or of each of their steps: recurrent stack, linear layer, mean squared error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from fastrnn import _check
from fastrnn._check import data as check_data
from fastrnn.losses import mean_squared_error
from fastrnn.models.model import Examples, Setup
from fastrnn.models.pooled import Pooled, each
from fastrnn.models.scaling import cast, check_range, from_arrays, to_arrays

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from fastrnn.settings import TrainingOptions


class SequenceRegressor(Pooled):
    """Predict numbers for sequences of feature vectors (remaining life, a dose), or for each of their steps.

    Parameters
    ----------
    cell : {"lstm", "gru", "rnn"}, default="lstm"
        Kind of recurrent layer; "rnn" has the tanh activation.
    hidden_size : int or sequence of int, default=64
        Units of each recurrent layer and direction, or a list with the units of each layer.
    num_layers : int, default=1
        Number of recurrent layers.
    bidirectional : bool, default=False
        Read the sequences in both directions.
    pooling : {"last", "mean", "max"}, default="last"
        What represents the whole sequence: the final states, or the mean or maximum of the outputs over its steps. Not
        used with `per_step`.
    dropout : float, default=0.0
        Dropout probability after each recurrent layer (training only), 0 <= dropout < 1.
    standardize : bool, default=True
        Shift and scale features and targets to mean 0 and standard deviation 1 over the training data. The scales are
        saved with the model.
    per_step : bool, default=False
        Predict numbers for each step instead of for the whole sequence.
    dtype : {"float32", "float64"}, default="float32"
        What the network computes in.
    seed : int, optional
        Seed of the initial parameters, the order of the batches and dropout. The same seed gives the same training run,
        bit for bit, on any number of threads. By default a random one is drawn.

    Attributes
    ----------
    features_ : list of str or None
        Names of the features if they came as columns of data frames.
    history : list of dict
        An entry for each evaluation: `epoch`, `update`, `lr`, `train_loss` and, with validation data,
        `validation_loss` and `validation_r2`.
    outcome : str or None
        How training ended: "finished", "stopped early", "interrupted" (by Ctrl-C) or "diverged"; None before `fit`.
    message : str or None
        Details of the outcome, if there are any.
    speed : float or None
        Steps per second in the last training, padding not counted.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.standard_normal((rng.integers(3, 9), 2)) for _ in range(300)]
    >>> y = np.array([x[:, 0].sum() for x in X])
    >>> model = SequenceRegressor("gru", 16, seed=0).fit(X[:200], y[:200], epochs=60, lr=0.01, verbose=False)
    >>> model.predict(X[200:]).shape, model.score(X[200:], y[200:]) > 0.9
    ((100,), True)
    """

    ARGUMENTS = (*Pooled.ARGUMENTS, "per_step")
    FIGURES = ("loss", "r2")

    def __init__(
        self,
        cell: Literal["lstm", "gru", "rnn"] = "lstm",
        hidden_size: int | Sequence[int] = 64,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        pooling: Literal["last", "mean", "max"] = "last",
        dropout: float = 0.0,
        standardize: bool = True,
        per_step: bool = False,
        dtype: str = "float32",
        seed: int | None = None,
    ):
        super().__init__(
            cell, hidden_size, num_layers, bidirectional=bidirectional, pooling=pooling, dropout=dropout,
            standardize=standardize, dtype=dtype, seed=seed,
        )  # fmt: skip
        self.per_step = bool(per_step)

    def fit(
        self,
        X,
        y,
        *,
        epochs: int = 50,
        batch_size: int = 32,
        max_steps: int | None = None,
        validation: float | tuple = 0.0,
        sample_weight=None,
        verbose: bool = True,
        **settings: Unpack[TrainingOptions],
    ) -> SequenceRegressor:
        """Train a new network on sequences and their numbers.

        Ctrl-C ends training and keeps the best parameters so far.

        Parameters
        ----------
        X : list of N arrays or data frames (T, features), or (N, T, features) array
            The sequences, of any lengths T >= 1. An array may be padded with NaN at the ends. Columns of data frames
            are matched by name. Features are standardized in float64.
        y : (N,) or (N, K) array_like, or list of N arrays (T,) or (T, K) with `per_step`
            The targets. They are standardized in float64.
        epochs : int, default=50
            Number of passes over the training data.
        batch_size : int, default=32
            Sequences in each update. Sequences of similar length are batched together.
        max_steps : int, optional
            Upper limit of the steps in an update, padding included.
        validation : float or tuple (X, y), default=0.0
            The held-out data, or the fraction of the sequences to hold out, drawn with the seed. The parameters with
            the lowest validation loss are kept, which may be the initial ones; with 0, the last ones. The scalers are
            learnt from the other sequences.
        sample_weight : (N,) array_like of float, optional
            Weights of the sequences in the loss, >= 0.
        verbose : bool, default=True
            Show the progress on stderr.
        **settings
            Other fields of ``fastrnn.settings.Settings``: `optimizer`, `lr`, `schedule`, `patience`, `checkpoint`,
            `resume` and so on. The defaults are optimizer="adam", lr=2e-3, clip_norm=5.0 and loss_limit=30.0.

        Returns
        -------
        SequenceRegressor
            This model, fitted.

        Raises
        ------
        ValueError, TypeError
            If a sequence is empty, has a NaN or another number of features, if y does not fit X, or if an argument is
            out of its range. The model and the checkpoint directory are unchanged then.

        Warns
        -----
        RuntimeWarning
            If training diverged or was interrupted; see `outcome` and `message`.
        """
        settings = self._settings(epochs, verbose, settings)
        return self._fit((X, y, sample_weight), validation, settings, batch_size=batch_size, max_steps=max_steps)

    def _read(self, X, y, sample_weight=None, *, like=None):
        X, features = self._read_sequences(X, like)
        y, flat = self._targets(X, y, None if like is None else like.columns[1][0].shape[-1])
        weights = np.ones(len(X)) if sample_weight is None else _check.weights(sample_weight, (len(X),))
        return Examples((X, y, weights), {"features": features, "flat": flat})

    def _prepare(self, data, held, seed, settings, *, batch_size, max_steps):
        X, y, weights = data.columns
        if settings.monitor == "r2" and held is not None:
            enough_for_r2(held.columns[1])
        scaler = self._scaler_of(X)
        target_scaler = self._scaler_of(y if self.per_step else [y], constant=0.0, name="target")
        if held is not None:
            held = held.columns[0], self._scaled(held.columns[1], target_scaler, "held-out y")
        y = self._scaled(y, target_scaler)
        batches = self._batches(X, y, weights, held, batch_size, max_steps, seed, scaler)

        def identity(data):
            scale = to_arrays("target_scaler", target_scaler).values()
            return {"data": data.digest(*scale), "batch_size": batch_size, "max_steps": max_steps}

        def build():
            self._target_scaler, self._flat = target_scaler, data.common["flat"]
            self._build(X[0].shape[1], y[0].shape[-1], scaler, seed, data.common["features"])

        return Setup(build, lambda: batches, identity)

    @property
    def _pool(self):
        return each if self.per_step else super()._pool

    def _targets(self, X, y, width=None):
        """Checked y as (N, K), or as N arrays (T, K), and whether it came without the axis K."""
        if not self.per_step:
            y = check_data.real_numbers("y", y)
            if y.shape[:1] != (len(X),) or y.ndim > 2:
                raise ValueError(
                    f"y has shape {y.shape}, but there are {len(X)} sequences: give (N,) or (N, K) numbers"
                )
            found, flat = y.reshape(len(X), -1), y.ndim == 1
        else:
            if len(y) != len(X):
                raise ValueError(f"y has {len(y)} sequences, but X has {len(X)}")
            y = [check_data.real_numbers(f"y[{i}]", of_one) for i, of_one in enumerate(y)]
            for i, (x, of_one) in enumerate(zip(X, y)):
                if of_one.shape[:1] != x.shape[:1] or of_one.ndim > 2 or of_one.shape[1:] != y[0].shape[1:]:
                    raise ValueError(
                        f"y[{i}] has shape {of_one.shape}, but X[{i}] has {len(x)} steps and y[0] has shape "
                        f"{y[0].shape}"
                    )
            found, flat = [of_one.reshape(len(of_one), -1) for of_one in y], y[0].ndim == 1
        if width is not None and found[0].shape[-1] != width:
            raise ValueError(f"y has {found[0].shape[-1]} columns, but this model has {width}")
        return found, flat

    def _scaled(self, y, scaler, name="y"):
        """Standardized targets, in the dtype of the network."""
        if self.per_step:
            check_range(name, y, scaler, self.dtype)
            return [scaler(of_one).astype(self.dtype, copy=False) for of_one in y]
        return cast(scaler(y), self.dtype, name)

    def _loss(self, output, batch):
        if not self.per_step:
            return mean_squared_error.vjp(output, batch.targets, weights=batch.weights)
        weights = np.broadcast_to(batch.weights, output.shape[:2])
        return mean_squared_error.vjp(output, batch.targets, lengths=batch.sequences.lengths, weights=weights)

    def evaluate(self, batches) -> dict[str, float]:
        """Compute the loss and R² over some batches.

        Parameters
        ----------
        batches : iterable of Batch
            Sequences with their standardized targets.

        Returns
        -------
        dict
            "loss", the mean squared error of the standardized targets, and "r2", the coefficient of determination,
            averaged over the K targets.
        """
        found, wanted = [], []
        for batch in batches:
            output, valid = self._outputs(batch.sequences), ...
            if self.per_step:
                valid = np.arange(len(output))[:, None] < batch.sequences.lengths
            found.append(output[valid].reshape(-1, output.shape[-1]))
            wanted.append(batch.targets[valid].reshape(-1, output.shape[-1]))
        found, wanted = np.concatenate(found).astype(float), np.concatenate(wanted).astype(float)
        return {"loss": float(((found - wanted) ** 2).mean()), "r2": _r2(found, wanted)}

    def predict(self, X, *, batch_size: int = 256) -> np.ndarray | list[np.ndarray]:
        """Predict the targets.

        Parameters
        ----------
        X : list of N arrays or data frames (T, features), or (N, T, features) array
            The sequences, as in `fit`.
        batch_size : int, default=256
            Sequences computed at a time. The results do not depend on it.

        Returns
        -------
        (N,) or (N, K) ndarray, or list of N arrays (T,) or (T, K) with `per_step`
            Predictions, float64, in the form of the `y` in `fit`.
        """
        self._check_fitted()
        X = self._sequences(X)
        K = self.linear.out_features
        found = [None] * len(X) if self.per_step else np.empty((len(X), K))
        for ragged, output in self._outputs_of(X, batch_size):
            output = self._target_scaler.undo(output)
            if not self.per_step:
                found[ragged.rows] = output
                continue
            for b, row in enumerate(ragged.rows):
                found[row] = output[: ragged.lengths[b], b].reshape(-1 if self._flat else (ragged.lengths[b], K))
        return found[:, 0] if self._flat and not self.per_step else found

    def _finish(self):
        return self._target_scaler.undo

    def score(self, X, y) -> float:
        """Compute R², the coefficient of determination, averaged over the K targets.

        Parameters
        ----------
        X : list of N arrays or data frames (T, features), or (N, T, features) array
            The sequences, as in `fit`.
        y : (N,) or (N, K) array_like, or list of N arrays (T,) or (T, K) with `per_step`
            The true targets, at least two rows. A constant column counts 1 if it is predicted exactly, else 0.

        Returns
        -------
        float
            1 for perfect predictions, 0 for predictions as good as the mean.

        Raises
        ------
        ValueError
            If y has one row only.
        """
        self._check_fitted()
        X = self._sequences(X)
        y, _ = self._targets(X, y, self.linear.out_features)
        found = self.predict(X)
        if self.per_step:
            found, y = np.concatenate([f.reshape(len(f), -1) for f in found]), np.concatenate(y)
        if len(y) < 2:
            raise ValueError("y has 1 row, but R² needs at least 2")
        return _r2(found.reshape(y.shape), y)

    def _fitted_config(self):
        return {**super()._fitted_config(), "outputs": self.linear.out_features, "flat": self._flat}

    def _fitted_arrays(self):
        return {**super()._fitted_arrays(), **to_arrays("target_scaler", self._target_scaler)}

    @staticmethod
    def _outputs_in(config):
        return config["outputs"]

    def _rebuild(self, config, arrays):
        if config["flat"] and config["outputs"] != 1:
            raise ValueError(f"flat is true, but outputs is {config['outputs']}: only a single target can be flat")
        super()._rebuild(config, arrays)
        self._target_scaler = from_arrays("target_scaler", arrays, config["outputs"], self.standardize)
        self._flat = config["flat"]


def _r2(found, wanted):
    """The mean over the columns. A constant column counts 1 if it is predicted exactly, else 0, as in scikit-learn."""
    residual, total = ((found - wanted) ** 2).sum(0), ((wanted - wanted.mean(0)) ** 2).sum(0)
    constant = (wanted == wanted[0]).all(0)
    return float(np.where(constant, residual == 0, 1 - residual / np.where(constant, 1, total)).mean())


def enough_for_r2(y, advice: str = "hold out more, or leave monitor='r2' out") -> None:
    """Raise a ValueError if R² of held-out targets, (N, K) or N arrays (T, K), does not depend on the predictions."""
    rows = np.concatenate(y) if isinstance(y, list) else y
    if len(rows) < 2:
        raise ValueError(f"the held-out part has {len(rows)} row of targets, but R² needs at least 2: {advice}")
    if (rows == rows[0]).all():
        raise ValueError(f"all {len(rows)} held-out targets are {rows[0, 0]:g}, so R² is not informative: {advice}")

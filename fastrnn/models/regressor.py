"""A sequence to numbers, or each of its steps to numbers: recurrent stack, linear layer, mean squared error."""

from __future__ import annotations

import numpy as np

from fastrnn import _check
from fastrnn._check import data as check_data
from fastrnn.losses import mean_squared_error
from fastrnn.models.model import DEFAULTS
from fastrnn.models.pooled import Pooled, each
from fastrnn.models.scaling import cast, check_range, from_arrays, to_arrays
from fastrnn.settings import Settings


class SequenceRegressor(Pooled):
    """Learns numbers that belong to a sequence of feature vectors (remaining life, a dose), or to each of its steps.

    Parameters
    ----------
    per_step : numbers for each step instead of for the whole sequence; `pooling` does not matter then
    standardize : features and targets are shifted and scaled to mean 0 and standard deviation 1 over what `fit` sees; saved with the model
    The others, and the attributes, as in SequenceClassifier; the history also has `validation_r2`.

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

    def __init__(self, *arguments, per_step: bool = False, **options):
        super().__init__(*arguments, **options)
        self.per_step = bool(per_step)

    def fit(self, X, y, *, epochs: int = 50, batch_size: int = 32, max_steps=None, validation=0.0, sample_weight=None,
            verbose: bool = True, **settings):  # fmt: skip
        """Learn from sequences and their numbers, anew. Ctrl-C ends the training; what was best so far is kept.

        Parameters
        ----------
        X : as in ``SequenceClassifier.fit``
        y : (N,) or (N, K) numbers; with per_step N arrays (T,) or (T, K). They are shifted and scaled in float64
        validation : a pair (X, y), or the fraction of the sequences that is held out
        sample_weight : (N,) numbers >= 0, optional
        The others as in ``SequenceClassifier.fit``

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError  a sequence is empty, of another width or has a NaN; y does not fit X; an argument is out of its range.
            Nothing has been changed or written then.

        Warns
        -----
        RuntimeWarning  if the loss rose above `loss_limit` times its first value or was NaN, or at Ctrl-C. See `outcome` and `message`.
        """
        settings = Settings(epochs=epochs, **{**DEFAULTS, "progress": verbose, **settings})
        features = check_data.columns(X)
        X = check_data.sequences(X)
        y, flat = self._targets(X, y)
        seed = self._drawn_seed(settings)
        weights = np.ones(len(X)) if sample_weight is None else _check.weights(sample_weight, (len(X),))
        if isinstance(validation, (tuple, list)):
            held_X = check_data.sequences(validation[0], X[0].shape[1], features)
            held = held_X, self._targets(held_X, validation[1], y[0].shape[-1])[0]
        else:
            X, y, weights, held = self._split(X, y, weights, validation, seed)
        if settings.monitor == "r2" and held is not None:
            enough_for_r2(held[1])
        scaler = self._scaler_of(X)
        target_scaler = self._scaler_of(y if self.per_step else [y], constant=0.0, name="target")
        held = None if held is None else (held[0], self._scaled(held[1], target_scaler, "held-out y"))
        y = self._scaled(y, target_scaler)
        data, held_out = self._batches(X, y, weights, held, batch_size, max_steps, seed, scaler)

        def identity(data):
            scale = to_arrays("target_scaler", target_scaler).values()
            return {"data": data.digest(*scale), "batch_size": batch_size, "max_steps": max_steps}

        def build():
            self._target_scaler, self._flat = target_scaler, flat
            self._build(X[0].shape[1], y[0].shape[-1], scaler, seed, features)

        self._train(build, data, settings, seed=seed, validation=held_out, identity=identity, unit="steps")
        return self

    @property
    def _pool(self):
        return each if self.per_step else super()._pool

    def _targets(self, X, y, width=None):
        """y as (N, K), or N arrays (T_i, K), checked, and whether K was left out."""
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
                        f"y[{i}] has shape {of_one.shape}, but X[{i}] has {len(x)} steps and y[0] has shape {y[0].shape}"
                    )
            found, flat = [of_one.reshape(len(of_one), -1) for of_one in y], y[0].ndim == 1
        if width is not None and found[0].shape[-1] != width:
            raise ValueError(f"y has {found[0].shape[-1]} numbers for each, but this model has {width}")
        return found, flat

    def _scaled(self, y, scaler, name="y"):
        """Targets as the network learns them."""
        if self.per_step:
            check_range(name, y, scaler, self.dtype)
            return [scaler(of_one).astype(self.dtype, copy=False) for of_one in y]
        return cast(scaler(y), self.dtype, name)

    def _loss(self, output, batch):
        if not self.per_step:
            return mean_squared_error.vjp(output, batch.targets, weights=batch.weights)
        weights = np.broadcast_to(batch.weights, output.shape[:2])
        return mean_squared_error.vjp(output, batch.targets, lengths=batch.sequences.lengths, weights=weights)

    def evaluate(self, batches) -> dict:
        """{"loss": mean squared error of the scaled numbers, "r2": coefficient of determination, mean over the K}."""
        found, wanted = [], []
        for batch in batches:
            output, valid = self._outputs(batch.sequences), ...
            if self.per_step:
                valid = np.arange(len(output))[:, None] < batch.sequences.lengths
            found.append(output[valid].reshape(-1, output.shape[-1]))
            wanted.append(batch.targets[valid].reshape(-1, output.shape[-1]))
        found, wanted = np.concatenate(found).astype(float), np.concatenate(wanted).astype(float)
        return {"loss": float(((found - wanted) ** 2).mean()), "r2": _r2(found, wanted)}

    def predict(self, X, *, batch_size: int = 256):
        """(N,) or (N, K) numbers, as y was in `fit`; with per_step a list of N arrays (T,) or (T, K). They are float64."""
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

    def score(self, X, y) -> float:
        """R², the coefficient of determination (1 is perfect, 0 is as good as the mean), the mean over the K numbers.

        A column that never changes counts 1 if it is met exactly, else 0. At least two rows are needed.
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
            raise ValueError(f"flat is true, but outputs is {config['outputs']}: only one number for each can be flat")
        super()._rebuild(config, arrays)
        self._target_scaler, self._flat = (
            from_arrays("target_scaler", arrays, config["outputs"], self.standardize),
            config["flat"],
        )


def _r2(found, wanted):
    """The mean over the columns; a column that never changes counts 1 if it is met exactly, else 0, as in scikit-learn."""
    residual, total = ((found - wanted) ** 2).sum(0), ((wanted - wanted.mean(0)) ** 2).sum(0)
    constant = (wanted == wanted[0]).all(0)
    return float(np.where(constant, residual == 0, 1 - residual / np.where(constant, 1, total)).mean())


def enough_for_r2(y, advice="hold out more, or leave monitor='r2' out") -> None:
    """Raise a ValueError if R² of held-out targets, (N, K) or N arrays (T_i, K), does not depend on the model."""
    rows = np.concatenate(y) if isinstance(y, list) else y
    if len(rows) < 2:
        raise ValueError(f"the held-out part has {len(rows)} row of targets, but R² needs at least 2: {advice}")
    if (rows == rows[0]).all():
        raise ValueError(f"all {len(rows)} held-out targets are {rows[0, 0]:g}, so that R² says nothing: {advice}")

"""What all estimators share: the forms of X, training and its attributes, predictions step by step."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fastrnn import _check
from fastrnn._check import data as check_data
from fastrnn.layers.feedforward import random_key
from fastrnn.models.model import Setup, held_out_rows
from fastrnn.models.scaling import cast
from fastrnn.settings import Settings
from fastrnn.sklearn._forms import as_list

State = np.ndarray | tuple
Prediction = np.generic | np.ndarray

_REAL = [np.float64, np.float32]  # dtypes of X, which is scaled in float64 whatever the dtype of the network
_EVERY_EPOCH = 2**62  # updates between evaluations: so many that they happen only at the ends of epochs


class _Patience:
    """A callback that stops as MLPClassifier does: after n_iter_no_change epochs without an improvement by tol."""

    def __init__(self, tol, rounds, metric):
        self.tol, self.rounds, self.metric = tol, rounds, metric
        self.best, self.bad, self.losses, self.scores = -np.inf, 0, [], []

    def __call__(self, entry):
        if entry["train_loss"] is None:
            return False
        self.losses.append(entry["train_loss"])
        merit = -entry["train_loss"]
        if self.metric is not None:
            merit = entry[f"validation_{self.metric}"]
            self.scores.append(merit)
        self.bad = 0 if merit > self.best + self.tol else self.bad + 1
        self.best = max(self.best, merit)
        return self.bad > self.rounds


class Estimator(BaseEstimator):
    """Base class: a subclass defines the targets, the network that learns them, and the predictions.

    Attributes
    ----------
    PER_STEP : bool
        Whether there is a target for each step, not for each sequence.
    METRIC : str
        The metric of the held-out part by which early stopping compares epochs; larger is better.
    """

    PER_STEP, METRIC = False, "r2"

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (64,),
        *,
        cell: Literal["lstm", "gru", "rnn"] = "lstm",
        bidirectional: bool = False,
        pooling: Literal["last", "mean", "max"] = "last",
        dropout: float = 0.0,
        standardize: bool = True,
        solver: Literal["sgd", "rmsprop", "adagrad", "adam", "adamw"] = "adam",
        alpha: float = 0.0,
        batch_size: int | str = 32,
        learning_rate_init: float = 0.005,
        max_iter: int = 200,
        tol: float = 1e-4,
        n_iter_no_change: int = 10,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        clip_norm: float | None = 5.0,
        warm_start: bool = False,
        dtype: DTypeLike = "float32",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.cell = cell
        self.bidirectional = bidirectional
        self.pooling = pooling
        self.dropout = dropout
        self.standardize = standardize
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.clip_norm = clip_norm
        self.warm_start = warm_start
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose

    def _read(
        self, X: ArrayLike, lengths: ArrayLike | None = None, *, reset: bool = False
    ) -> tuple[list[np.ndarray], str]:
        """Check X, and return N arrays (T_i, F) and the form of X: "rows", "list" or "array"."""
        if isinstance(X, tuple) and len(X) == 2 and np.ndim(X[0]) == 2 and np.ndim(X[1]) == 1:
            X, lengths = X
        X = as_list(X)
        if isinstance(X, (list, tuple)) and X and (check_data.is_frame(X[0]) or np.ndim(X[0]) == 2):
            if lengths is not None:
                raise ValueError("lengths is for X as one array, but X is a list of sequences: leave lengths out")
            return self._read_list(X, reset), "list"
        if isinstance(X, np.ndarray) and X.ndim == 3:
            if lengths is None:
                return self._read_list(list(check_data.without_padding(X)), reset), "array"
            lengths = _lengths(lengths, len(X), X.shape[1])
            return self._read_list([x[:length] for x, length in zip(X, lengths)], reset), "array"
        rows = validate_data(self, X, dtype=_REAL, reset=reset)
        lengths = np.ones(len(rows), int) if lengths is None else _lengths(lengths, None, len(rows))
        if lengths.sum() != len(rows):
            raise ValueError(f"lengths add up to {lengths.sum()}, but X has {len(rows)} rows")
        return np.split(rows, np.cumsum(lengths)[:-1]), "rows"

    def _read_list(self, X, reset):
        if not X:
            raise ValueError("Found array with 0 sample(s): there are no sequences")
        if any(hasattr(x, "columns") for x in X):
            return [validate_data(self, x, dtype=_REAL, reset=reset and k == 0) for k, x in enumerate(X)]
        X = [check_data.numeric(f"sequence {k}", x) for k, x in enumerate(X)]
        for k, x in enumerate(X):
            if x.shape[1] != X[0].shape[1]:
                raise ValueError(f"sequence {k} has {x.shape[1]} features, but sequence 0 has {X[0].shape[1]}")
            if not len(x):
                raise ValueError(f"sequence {k} has no steps: remove it")
            if not np.isfinite(x).all():
                t, feature = np.argwhere(~np.isfinite(x))[0]
                kind = "NaN" if np.isnan(x[t, feature]) else "infinity"
                raise ValueError(f"Input X contains {kind}: sequence {k} at step {t}, feature {feature}")
        rows = validate_data(self, np.concatenate(X), dtype=_REAL, reset=reset)
        return np.split(rows, np.cumsum([len(x) for x in X])[:-1])

    def _per_step(self, y, X, form):
        """Concatenate the targets of all steps."""
        if form == "rows":
            return y
        if len(y) != len(X):
            raise ValueError(f"y has {len(y)} sequences, but X has {len(X)}")
        for k, (x, of_one) in enumerate(zip(X, y)):
            if len(of_one) != len(x) and form == "list":
                raise ValueError(f"y[{k}] has {len(of_one)} steps, but X[{k}] has {len(x)}")
        return np.concatenate([np.asarray(of_one)[: len(x)] for x, of_one in zip(X, y)])

    def _split(self, values, X):
        return np.split(values, np.cumsum([len(x) for x in X])[:-1]) if self.PER_STEP else values

    def _need_y(self, y):
        if y is None:
            raise ValueError(f"This {type(self).__name__} estimator requires y to be passed, but the target y is None.")

    def _net_options(self):
        sizes = np.atleast_1d(self.hidden_layer_sizes).tolist()
        if not sizes:
            raise ValueError(
                "hidden_layer_sizes is (), but at least one layer is needed: give the size of each, such as (64,)"
            )
        options = {
            name: getattr(self, name)
            for name in ("cell", "bidirectional", "pooling", "dropout", "standardize", "dtype")
        }
        return options | {"hidden_size": sizes if len(sizes) > 1 else sizes[0], "num_layers": len(sizes)}

    def _weights_of(self, sample_weight, X):
        rows = np.empty((len(X), 1))
        weights = _check_sample_weight(sample_weight, rows, dtype=np.float64, ensure_non_negative=True)
        if not weights.any():
            raise ValueError("sample_weight is 0 for every sequence, but at least one must have a weight")
        return weights

    def _learn(self, X, targets, weights, outputs, *, anew, epochs, once=False):
        """Train a new network, or continue with the present one.

        A sequence of weight 0 is left out, also from the statistics of the scaler.
        """
        if np.any(weights == 0):
            kept = np.flatnonzero(weights)
            X, weights = [X[k] for k in kept], weights[kept]
            targets = [targets[k] for k in kept] if self.PER_STEP else targets[kept]
        stops = self.early_stopping and not once
        if anew:
            self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            self._fits, self.loss_curve_, self.validation_scores_ = 0, [], []
        X, targets, weights, held = self._hold_out(X, targets, weights, stops)
        net = self._make(targets) if anew else self._net
        weights = self._weighted(net, targets, weights)
        targets, held = self._scaled(net, targets), None if held is None else (held[0], self._scaled(net, held[1]))
        tol, rounds = (np.inf, np.inf) if once else (self.tol, self.n_iter_no_change)
        patience = _Patience(tol, rounds, self.METRIC if stops else None)
        automatic = isinstance(self.batch_size, str) and self.batch_size == "auto"
        size = min(200 if automatic else _check.size("batch_size", self.batch_size), len(X))
        settings = Settings(
            epochs=epochs, optimizer=self.solver, lr=self.learning_rate_init, clip_norm=self.clip_norm, loss_limit=None,
            weight_decay=self.alpha / size if self.alpha else None,
            groups={"*bias*": {"weight_decay": 0.0}} if self.alpha else {},
            monitor=self.METRIC if stops else "loss", evaluate_every=_EVERY_EPOCH,
            callbacks=(patience,), progress=bool(self.verbose),
        )  # fmt: skip
        seed = random_key(self._seed, self._fits) if self._fits else self._seed
        scaler = net._scaler_of(X) if anew else net._scaler
        batches = net._batches(X, targets, weights, held, size, None, seed, scaler)
        build = (lambda: net._build(self.n_features_in_, outputs, scaler, seed)) if anew else (lambda: None)
        moments = self._moments if once and not anew else {}

        def prepare(run):
            if moments.keys() == self._moments_of(run.optimizer).keys():  # they differ if the solver has changed
                run.optimizer.load_state_dict(run.optimizer.state_dict() | moments)

        setup = Setup(build, lambda: batches, identity=None)
        run = net._train(setup, settings, seed=seed, prepare=prepare, untrained_counts=not anew)
        self._net, self._fits, self._moments = net, self._fits + 1, self._moments_of(run.optimizer) if once else {}
        self._set_attributes(patience, epochs, stops, once)
        return self

    @staticmethod
    def _moments_of(optimizer):
        """The optimiser's state that partial_fit passes to its next call: moments and the number of updates."""
        return {
            name: value
            for name, value in optimizer.state_dict().items()
            if isinstance(value, np.ndarray) or name == "updates"
        }

    def _hold_out(self, X, targets, weights, stops):
        """Split off the held-out part: return X, targets, weights, and the held-out (X, targets) or None."""
        if not stops:
            return X, targets, weights, None
        out, kept = held_out_rows(len(X), self.validation_fraction, random_key(self._seed, 2), "validation_fraction")
        some = (lambda rows: [targets[k] for k in rows]) if isinstance(targets, list) else (lambda rows: targets[rows])
        count = sum(map(len, some(out))) if self.PER_STEP else len(out)
        if count < 2:
            raise ValueError(
                f"early_stopping holds out validation_fraction={self.validation_fraction} of {len(X)} sequences, but 1 "
                f"target is too few for a score: hold out at least 2, with validation_fraction={1.6 / len(X):.2g} or "
                "more, or give more sequences"
            )
        if not len(kept):
            raise ValueError(f"early_stopping holds out all of {len(X)} sequences")
        self._check_held_out(some(out), some(kept))
        return [X[k] for k in kept], some(kept), weights[kept], ([X[k] for k in out], some(out))

    def _check_held_out(self, held, kept):
        """Check that the held-out targets allow a score of what is learnt from the others."""

    def _weighted(self, net, targets, weights):
        """Return the weight of each sequence in training."""
        return weights

    @contextlib.contextmanager
    def _all_or_nothing(self):
        """Restore the estimator if the body fails."""
        before = self.__dict__.copy()
        try:
            yield
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def _set_attributes(self, patience, epochs, stops, once):
        """Set the attributes that MLPClassifier has too, and warn if training has not converged."""
        self.loss_curve_ = self.loss_curve_ + patience.losses
        self.n_iter_ = len(self.loss_curve_)
        self.loss_ = self.loss_curve_[-1] if self.loss_curve_ else None
        self.validation_scores_ = [*(self.validation_scores_ or []), *patience.scores] if stops else None
        self.best_loss_ = None if stops else min(self.loss_curve_, default=None)
        self.best_validation_score_ = max(self.validation_scores_) if stops else None
        if self._net.outcome == "finished" and not once and self.n_iter_no_change < epochs:
            warnings.warn(
                f"the maximum of max_iter={self.max_iter} epochs is reached, but training has not converged yet",
                ConvergenceWarning,
                stacklevel=4,
            )

    def _scaled(self, net, targets):
        return targets

    def _continues(self):
        return self.warm_start and hasattr(self, "_net")

    def _outputs(self, X):
        """Compute the outputs of the network: (N, K), or (sum T_i, K) of all steps; float64."""
        found = [None] * len(X)
        for ragged, output in self._net._outputs_of(X, 256):
            for b, row in enumerate(ragged.rows):
                found[row] = output[: ragged.lengths[b], b] if self.PER_STEP else output[b : b + 1]
        return np.concatenate(found).astype(np.float64)

    def predict_step(self, x_t: ArrayLike, state: State | None = None) -> tuple[Prediction, State]:
        """Predict after one more step of a stream.

        The prediction is exactly that of `predict` for the sequence up to and including this step.

        Parameters
        ----------
        x_t : array_like of shape (F,) or (B, F)
            Features of this step, of one stream or of B streams.
        state : array, tuple of arrays, or None
            The state returned for the step before; None at the first step.

        Returns
        -------
        prediction : scalar or ndarray
            The prediction of one stream, or an array of those of B streams.
        state : ndarray or tuple of ndarray
            The state to pass with the next step.

        Raises
        ------
        ValueError
            If the network is bidirectional or pools by mean or max, so that it needs the whole sequence; if `x_t` has
            another number of features, or is not finite.
        """
        if not hasattr(self, "_net"):
            check_is_fitted(self)  # raises NotFittedError; it takes longer than a step
        if self._net.bidirectional or (not self.PER_STEP and self._net.pooling != "last"):
            raise ValueError(
                "predict_step needs bidirectional=False and pooling='last': else the whole sequence is needed"
            )
        rows = np.asarray(x_t, dtype=np.float64)
        single = rows.ndim == 1
        rows = rows[None] if single else rows
        if rows.ndim != 2 or rows.shape[1] != self.n_features_in_:
            raise ValueError(
                f"x_t has shape {np.shape(x_t)}, but {type(self).__name__} is expecting {self.n_features_in_} "
                "features: (F,) or (B, F)"
            )
        if not np.isfinite(rows).all():
            raise ValueError("x_t has NaN or infinity: replace such values")
        y, state = self._net.rnn(cast(self._net._scaler(rows), self._net.dtype, "x_t")[None], state)
        found = self._decoded(self._net.linear(y[0]).astype(np.float64))
        return (found[0] if single else found), state


def _lengths(lengths: ArrayLike, N: int | None, limit: int) -> np.ndarray:
    """Check lengths from 1 to `limit`, of which there are N, or any number if N is None."""
    lengths = np.asarray(lengths)
    if lengths.dtype.kind not in "iu" or lengths.ndim != 1 or (N is not None and len(lengths) != N):
        wanted = "a 1-D array of whole numbers" if N is None else f"{N} whole numbers"
        raise ValueError(f"lengths must be {wanted}, got shape {lengths.shape} of {lengths.dtype}")
    if lengths.size and not (1 <= lengths.min() and lengths.max() <= limit):
        raise ValueError(f"lengths must be in 1..{limit}, got {lengths.min()}..{lengths.max()}")
    return lengths

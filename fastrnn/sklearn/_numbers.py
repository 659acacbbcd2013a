"""Numbers of sequences, and the steps that follow them."""

from __future__ import annotations

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils.validation import check_is_fitted

from fastrnn import _check
from fastrnn.models.regressor import SequenceRegressor, enough_for_r2
from fastrnn.models.scaling import cast
from fastrnn.sklearn._estimator import Estimator


class RNNRegressor(RegressorMixin, Estimator):
    """One or several numbers for each sequence. X as RNNClassifier's; y : (N,) or (N, K). `standardize` scales y too."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _make(self, targets):
        net = SequenceRegressor(per_step=self.PER_STEP, **self._net_options())
        net._target_scaler = net._scaler_of(targets if self.PER_STEP else [targets], name="target")
        return net

    def _scaled(self, net, targets):
        return net._scaled(targets, net._target_scaler)

    def _check_held_out(self, held, kept):
        enough_for_r2(held, "raise validation_fraction, or leave early_stopping out")

    def _numbers(self, y, X):
        self._need_y(y)
        y = y.detach().cpu() if hasattr(y, "detach") else y
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y", estimator=self)
        check_consistent_length(y, X)
        return y.reshape(len(y), -1), y.ndim == 1

    def fit(self, X, y, sample_weight=None, *, lengths=None):
        """Learn. sample_weight (N,), one for each sequence. Anew, unless warm_start."""
        with self._all_or_nothing():
            return self._fit_numbers(X, y, sample_weight, lengths, anew=not self._continues(), epochs=self.max_iter)

    def partial_fit(self, X, y, sample_weight=None, *, lengths=None):
        """One epoch over some more data. The scalers are those of the first call."""
        with self._all_or_nothing():
            return self._fit_numbers(X, y, sample_weight, lengths, anew=not hasattr(self, "_net"), epochs=1, once=True)

    def _fit_numbers(self, X, y, sample_weight, lengths, **options):
        X, _ = self._read(X, lengths, reset=options["anew"])
        y, flat = self._numbers(y, X)
        weights = self._weights_of(sample_weight, X)
        if not options["anew"] and y.shape[1] != self._net.linear.out_features:
            raise ValueError(
                f"y has {y.shape[1]} numbers for each sequence, but this model has {self._net.linear.out_features}"
            )
        self.n_outputs_, self._flat = y.shape[1], flat
        return self._learn(X, y, weights, y.shape[1], **options)

    def predict(self, X, *, lengths=None):
        """(N,) or (N, K), as y was."""
        check_is_fitted(self)
        return self._decoded(self._outputs(self._read(X, lengths)[0]))

    def _decoded(self, outputs):
        found = self._net._target_scaler.undo(outputs)
        return found[:, 0] if self._flat else found

    def score(self, X, y, sample_weight=None, *, lengths=None):
        """R²."""
        return float(r2_score(y, self.predict(X, lengths=lengths), sample_weight=sample_weight))


class RNNForecaster(RNNRegressor):
    """The steps that follow a sequence, each from those before it. X as RNNClassifier's, with two steps at least; y is not used.

    `bidirectional` must be False, since the reverse direction sees the step that is to be forecast; `pooling` does not count.
    """

    PER_STEP = True

    def _fit_numbers(self, X, y, sample_weight, lengths, **options):
        if self.bidirectional:
            raise ValueError(
                "RNNForecaster needs bidirectional=False: the reverse direction would see the step that it is to forecast"
            )
        X, _ = self._read(X, lengths, reset=options["anew"])
        short = [k for k, x in enumerate(X) if len(x) < 2]
        if short:
            raise ValueError(
                f"sequence {short[0]} has 1 step, but a step can only be learnt from one before it: give sequences of at least 2"
            )
        weights = self._weights_of(sample_weight, X)
        self.n_outputs_, self._flat = X[0].shape[1], False
        return self._learn([x[:-1] for x in X], [x[1:] for x in X], weights, X[0].shape[1], **options)

    def fit(self, X, y=None, sample_weight=None, *, lengths=None):
        """Learn each step of the sequences from those before it."""
        return super().fit(X, y, sample_weight, lengths=lengths)

    def partial_fit(self, X, y=None, sample_weight=None, *, lengths=None):
        """One epoch over some more sequences."""
        return super().partial_fit(X, y, sample_weight, lengths=lengths)

    def predict(self, X, horizon=1, *, lengths=None):
        """(N, horizon, F): the steps after the end of each sequence; each is put in again to find the next."""
        check_is_fitted(self)
        horizon = _check.size("horizon", horizon)
        X, _ = self._read(X, lengths)
        found = np.empty((len(X), horizon, self.n_features_in_))
        for ragged, _ in self._net._outputs_of(X, 256):
            y, state = self._net.rnn(ragged.x, lengths=ragged.lengths)
            top = y[ragged.lengths - 1, np.arange(len(ragged.rows))]
            for k in range(horizon):
                found[ragged.rows, k] = self._decoded(self._net.linear(top).astype(np.float64))
                if k + 1 < horizon:
                    x = cast(self._net._scaler(found[ragged.rows, k]), self._net.dtype, f"forecast step {k}")
                    y, state = self._net.rnn(x[None], state)
                    top = y[0]
        return found

    def score(self, X, y=None, sample_weight=None, *, lengths=None):
        """R² of all steps but the first, each forecast from those before it."""
        check_is_fitted(self)
        X, _ = self._read(X, lengths)
        weights = None if sample_weight is None else np.repeat(sample_weight, [len(x) - 1 for x in X])
        found = self._decoded(self._outputs([x[:-1] for x in X]))
        return float(r2_score(np.concatenate([x[1:] for x in X]), found, sample_weight=weights))

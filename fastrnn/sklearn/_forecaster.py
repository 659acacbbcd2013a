"""RNNForecaster: the steps that follow a sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_is_fitted

from fastrnn import _check
from fastrnn.models.scaling import cast
from fastrnn.sklearn._regressor import RNNRegressor

if TYPE_CHECKING:
    from typing_extensions import Self


class RNNForecaster(RNNRegressor):
    """Forecast the steps that follow sequences, each step from those before it, with a recurrent network.

    Sequences X have one of these forms: a list of N arrays (T_i, F); an array (N, T, F), with `lengths` if it is
    padded; an array (sum T_i, F) of all steps with `lengths`, or the pair (array, lengths). Each sequence has at least
    two steps; there are no targets y. Parameters that MLPRegressor has too mean the same here.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default (64,)
        Number of units of each recurrent layer.
    cell : {"lstm", "gru", "rnn"}, default "lstm"
        Kind of the recurrent layers.
    bidirectional : bool, default False
        Must be False: the reverse direction would see the step that is to be forecast.
    pooling : {"last", "mean", "max"}, default "last"
        Ignored, since every step has an output.
    dropout : float, default 0.0
        Dropout probability after each recurrent layer (training only).
    standardize : bool, default True
        Whether to scale features to mean 0 and variance 1, by what the first call of `fit` or `partial_fit` sees.
    solver : {"adam", "adamw", "sgd", "rmsprop", "adagrad"}, default "adam"
        Optimiser.
    alpha : float, default 0.0
        Strength of the L2 penalty, which does not apply to biases.
    batch_size : int or "auto", default 32
        Number of sequences of a batch; "auto" is 200, or all if there are fewer.
    learning_rate_init : float, default 0.005
        Learning rate.
    max_iter : int, default 200
        Largest number of epochs.
    tol : float, default 1e-4
        Smallest change of the loss, or of the score with `early_stopping`, that is an improvement.
    n_iter_no_change : int, default 10
        Training stops after more than this number of epochs without an improvement.
    early_stopping : bool, default False
        Whether to hold out a part of the sequences, stop by its score, and keep the parameters with the best one.
    validation_fraction : float, default 0.1
        Fraction of the sequences that `early_stopping` holds out.
    clip_norm : float or None, default 5.0
        Largest norm of the gradient, to which larger ones are scaled down; None for no limit.
    warm_start : bool, default False
        Whether `fit` continues from the present parameters.
    dtype : {"float32", "float64"}, default "float32"
        Precision of the network.
    random_state : int, RandomState or None, default None
        Seed of initial parameters, dropout, the order of batches and the held-out part.
    verbose : bool, default False
        Whether to show a progress bar.

    Attributes
    ----------
    n_outputs_ : int
        Number of features F, all of which are forecast.
    n_features_in_ : int
        Number of features F of a step.
    n_iter_ : int
        Number of epochs so far.
    loss_, loss_curve_ : float, list of float
        Training loss of the last epoch, and of each epoch.
    best_loss_ : float or None
        Smallest training loss; None with `early_stopping`.
    validation_scores_, best_validation_score_ : list of float, float, or None
        R² of the held-out part after each epoch, and the best one; None without `early_stopping`.

    Examples
    --------
    >>> wave = np.sin(0.3 * np.arange(400))[:, None]
    >>> X = [wave[k : k + 60] for k in range(0, 300, 10)]
    >>> options = dict(cell="gru", learning_rate_init=0.02, max_iter=40, n_iter_no_change=40, random_state=0)
    >>> model = RNNForecaster((24,), **options).fit(X)
    >>> model.predict(X, horizon=5).shape, bool(model.score(X) > 0.9)
    ((30, 5, 1), True)
    """

    PER_STEP = True

    def _fit_numbers(self, X, y, sample_weight, lengths, **options):
        if self.bidirectional:
            raise ValueError(
                "RNNForecaster needs bidirectional=False: the reverse direction would see the step to be forecast"
            )
        X, _ = self._read(X, lengths, reset=options["anew"])
        short = [k for k, x in enumerate(X) if len(x) < 2]
        if short:
            raise ValueError(
                f"sequence {short[0]} has 1 step, but at least 2 are needed: each step is forecast from those before it"
            )
        weights = self._weights_of(sample_weight, X)
        self.n_outputs_, self._flat = X[0].shape[1], False
        return self._learn([x[:-1] for x in X], [x[1:] for x in X], weights, X[0].shape[1], **options)

    def fit(
        self,
        X: ArrayLike,
        y: object = None,
        sample_weight: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
    ) -> Self:
        """Train the network to forecast each step of the sequences from those before it.

        This is a new network, or with `warm_start` the present one.

        Parameters
        ----------
        X : array_like
            Sequences, in one of the forms that the class describes.
        y : object, default None
            Ignored; scikit-learn expects this parameter.
        sample_weight : array_like of shape (N,), optional
            Weight of each sequence; by default 1.
        lengths : array_like of shape (N,), optional
            Lengths of the sequences, if X is one array.

        Returns
        -------
        RNNForecaster
            The estimator itself.
        """
        return super().fit(X, y, sample_weight, lengths=lengths)

    def partial_fit(
        self,
        X: ArrayLike,
        y: object = None,
        sample_weight: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
    ) -> Self:
        """Train for one epoch on more sequences, which are scaled as in the first call.

        Parameters
        ----------
        X : array_like
            Sequences, in one of the forms that the class describes.
        y : object, default None
            Ignored; scikit-learn expects this parameter.
        sample_weight : array_like of shape (N,), optional
            Weight of each sequence; by default 1.
        lengths : array_like of shape (N,), optional
            Lengths of the sequences, if X is one array.

        Returns
        -------
        RNNForecaster
            The estimator itself.
        """
        return super().partial_fit(X, y, sample_weight, lengths=lengths)

    def predict(self, X: ArrayLike, horizon: int = 1, *, lengths: ArrayLike | None = None) -> np.ndarray:
        """Forecast the steps after the end of each sequence; each forecast is the input of the next one.

        Parameters
        ----------
        X : array_like
            Sequences, in one of the forms that the class describes.
        horizon : int, default 1
            Number of steps to forecast.
        lengths : array_like of shape (N,), optional
            Lengths of the sequences, if X is one array.

        Returns
        -------
        ndarray of shape (N, horizon, F)
            The forecasts.
        """
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

    def score(
        self,
        X: ArrayLike,
        y: object = None,
        sample_weight: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
    ) -> float:
        """Compute R² of all steps but the first of each sequence, each forecast from those before it.

        Parameters
        ----------
        X : array_like
            Sequences, in one of the forms that the class describes.
        y : object, default None
            Ignored; scikit-learn expects this parameter.
        sample_weight : array_like of shape (N,), optional
            Weight of each sequence; by default 1.
        lengths : array_like of shape (N,), optional
            Lengths of the sequences, if X is one array.

        Returns
        -------
        float
            R², which is 1 for perfect forecasts.
        """
        check_is_fitted(self)
        X, _ = self._read(X, lengths)
        weights = None if sample_weight is None else np.repeat(sample_weight, [len(x) - 1 for x in X])
        found = self._decoded(self._outputs([x[:-1] for x in X]))
        return float(r2_score(np.concatenate([x[1:] for x in X]), found, sample_weight=weights))

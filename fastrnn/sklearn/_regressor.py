"""RNNRegressor: numbers for each sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils.validation import check_is_fitted

from fastrnn.models.regressor import SequenceRegressor, enough_for_r2
from fastrnn.sklearn._estimator import Estimator

if TYPE_CHECKING:
    from typing_extensions import Self


class RNNRegressor(RegressorMixin, Estimator):
    """Predict one or several numbers for whole sequences with a recurrent network.

    Sequences X have one of these forms: a list of N arrays (T_i, F); an array (N, T, F), with `lengths` if it is
    padded; an array (sum T_i, F) of all steps with `lengths`, or the pair (array, lengths); an array or frame (N, F),
    which is N sequences of one step.
    Parameters that MLPRegressor has too mean the same here.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default (64,)
        Number of units of each recurrent layer.
    cell : {"lstm", "gru", "rnn"}, default "lstm"
        Kind of the recurrent layers.
    bidirectional : bool, default False
        Whether the layers also read the sequences backwards.
    pooling : {"last", "mean", "max"}, default "last"
        The outputs of the top layer that are used: those at the end, or their mean or maximum over the steps.
    dropout : float, default 0.0
        Dropout probability after each recurrent layer (training only).
    standardize : bool, default True
        Whether to scale features and targets to mean 0 and variance 1, by what the first call of `fit` or `partial_fit`
        sees.
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
        Number of targets K of a sequence.
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
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.standard_normal((rng.integers(3, 9), 2)) for _ in range(200)]
    >>> y = [x[:, 0].sum() for x in X]
    >>> options = dict(cell="gru", learning_rate_init=0.01, max_iter=40, n_iter_no_change=40, random_state=0)
    >>> model = RNNRegressor((16,), **options).fit(X[:150], y[:150])
    >>> bool(model.score(X[150:], y[150:]) > 0.9)
    True
    """

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
        enough_for_r2(held, "raise validation_fraction, or set early_stopping=False")

    def _targets(self, y, X):
        """Check the targets, and return them as (N, K), and whether they were given as (N,)."""
        self._need_y(y)
        y = y.detach().cpu() if hasattr(y, "detach") else y
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y", estimator=self)
        check_consistent_length(y, X)
        return y.reshape(len(y), -1), y.ndim == 1

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
    ) -> Self:
        """Train the network: a new one, or with `warm_start` the present one.

        Parameters
        ----------
        X : array_like
            Sequences, in one of the forms that the class describes.
        y : array_like of shape (N,) or (N, K)
            One target or K targets of each sequence.
        sample_weight : array_like of shape (N,), optional
            Weight of each sequence; by default 1.
        lengths : array_like of shape (N,), optional
            Lengths of the sequences, if X is one array.

        Returns
        -------
        RNNRegressor
            The estimator itself.
        """
        with self._all_or_nothing():
            return self._fit_numbers(X, y, sample_weight, lengths, anew=not self._continues(), epochs=self.max_iter)

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
    ) -> Self:
        """Train for one epoch on more data; features and targets are scaled as in the first call.

        Parameters
        ----------
        X : array_like
            Sequences, in one of the forms that the class describes.
        y : array_like of shape (N,) or (N, K)
            One target or K targets of each sequence.
        sample_weight : array_like of shape (N,), optional
            Weight of each sequence; by default 1.
        lengths : array_like of shape (N,), optional
            Lengths of the sequences, if X is one array.

        Returns
        -------
        RNNRegressor
            The estimator itself.
        """
        with self._all_or_nothing():
            return self._fit_numbers(X, y, sample_weight, lengths, anew=not hasattr(self, "_net"), epochs=1, once=True)

    def _fit_numbers(self, X, y, sample_weight, lengths, **options):
        X, _ = self._read(X, lengths, reset=options["anew"])
        y, flat = self._targets(y, X)
        weights = self._weights_of(sample_weight, X)
        if not options["anew"] and y.shape[1] != self._net.linear.out_features:
            raise ValueError(
                f"y has {y.shape[1]} numbers for each sequence, but this model has {self._net.linear.out_features}"
            )
        self.n_outputs_, self._flat = y.shape[1], flat
        return self._learn(X, y, weights, y.shape[1], **options)

    def predict(self, X: ArrayLike, *, lengths: ArrayLike | None = None) -> np.ndarray:
        """Predict the targets.

        Parameters
        ----------
        X : array_like
            Sequences, in one of the forms that the class describes.
        lengths : array_like of shape (N,), optional
            Lengths of the sequences, if X is one array.

        Returns
        -------
        ndarray of shape (N,) or (N, K)
            The predictions, in the shape of the y of `fit`.
        """
        check_is_fitted(self)
        return self._decoded(self._outputs(self._read(X, lengths)[0]))

    def _decoded(self, outputs):
        found = self._net._target_scaler.undo(outputs)
        return found[:, 0] if self._flat else found

    def score(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
    ) -> float:
        """Compute the coefficient of determination R².

        Parameters
        ----------
        X : array_like
            Sequences, in one of the forms that the class describes.
        y : array_like of shape (N,) or (N, K)
            One target or K targets of each sequence.
        sample_weight : array_like of shape (N,), optional
            Weight of each sequence; by default 1.
        lengths : array_like of shape (N,), optional
            Lengths of the sequences, if X is one array.

        Returns
        -------
        float
            R², which is 1 for perfect predictions.
        """
        return float(r2_score(y, self.predict(X, lengths=lengths), sample_weight=sample_weight))

"""RNNTagger: a class for each step of a sequence."""

from __future__ import annotations

import numpy as np

from fastrnn.sklearn._classes import Classes


class RNNTagger(Classes[list[np.ndarray] | np.ndarray]):
    """Classify each step of sequences with a recurrent network.

    Sequences X have one of these forms: a list of N arrays (T_i, F); an array (N, T, F), with `lengths` if it is
    padded; an array (sum T_i, F) of all steps with `lengths`, or the pair (array, lengths); an array or frame (N, F),
    which is N sequences of one step.
    Labels y are a list of N arrays (T_i,), or one array (sum T_i,) if X is an array of all steps. Parameters that
    MLPClassifier has too mean the same here.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default (64,)
        Number of units of each recurrent layer.
    class_weight : dict, "balanced" or None, default None
        Weight of each class; "balanced" gives weights inversely proportional to the frequencies of the classes.
    cell : {"lstm", "gru", "rnn"}, default "lstm"
        Kind of the recurrent layers.
    bidirectional : bool, default False
        Whether the layers also read the sequences backwards.
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
    classes_ : ndarray of shape (K,)
        The labels.
    n_features_in_ : int
        Number of features F of a step.
    n_iter_ : int
        Number of epochs so far.
    loss_, loss_curve_ : float, list of float
        Training loss of the last epoch, and of each epoch.
    best_loss_ : float or None
        Smallest training loss; None with `early_stopping`.
    validation_scores_, best_validation_score_ : list of float, float, or None
        Accuracy of the held-out part after each epoch, and the best one; None without `early_stopping`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.standard_normal((rng.integers(3, 9), 1)) for _ in range(100)]
    >>> y = [np.where(np.cumsum(x) > 0, "+", "-") for x in X]  # the sign of the sum so far
    >>> options = dict(learning_rate_init=0.02, max_iter=30, n_iter_no_change=30, random_state=0)
    >>> model = RNNTagger((16,), **options).fit(X[:80], y[:80])
    >>> bool(model.score(X[80:], y[80:]) > 0.8)
    True
    """

    PER_STEP = True

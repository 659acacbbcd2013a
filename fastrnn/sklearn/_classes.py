"""Classes of sequences and of their steps."""

from __future__ import annotations

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import check_consistent_length, column_or_1d, compute_class_weight, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import check_is_fitted

from fastrnn import _engine
from fastrnn.losses import softmax_cross_entropy
from fastrnn.models import unseen
from fastrnn.models.classifier import SequenceClassifier
from fastrnn.models.model import most_likely
from fastrnn.models.pooled import each
from fastrnn.sklearn._estimator import Estimator


class _ClassNet(SequenceClassifier):
    """The classifier's network; with per_step it has a class for each step."""

    def __init__(self, *, per_step, **options):
        super().__init__(**options)
        self.per_step = per_step
        self.class_weights = None  # (K,), of each step's class

    @property
    def _pool(self):
        return each if self.per_step else super()._pool

    def _loss(self, logits, batch):
        if not self.per_step:
            return super()._loss(logits, batch)
        weights = batch.weights * self.class_weights[batch.targets]
        return softmax_cross_entropy.vjp(logits, batch.targets, lengths=batch.sequences.lengths, weights=weights)

    def evaluate(self, batches):
        if not self.per_step:
            return super().evaluate(batches)
        nll = right = total = 0
        for batch in batches:
            logits, lengths = self._outputs(batch.sequences), batch.sequences.lengths
            valid = np.arange(len(logits))[:, None] < lengths
            nll += float(softmax_cross_entropy(logits, batch.targets, lengths=lengths, reduction="none").sum())
            right += int((logits.argmax(2) == batch.targets)[valid].sum())
            total += int(lengths.sum())
        return {"loss": nll / total, "accuracy": right / total}


class _Classes(ClassifierMixin, Estimator):
    FIGURE = "accuracy"

    def __init__(self, hidden_layer_sizes=(64,), *, class_weight=None, cell="lstm", bidirectional=False, pooling="last", dropout=0.0, standardize=True,
                 solver="adam", alpha=0.0, batch_size=32, learning_rate_init=0.005, max_iter=200, tol=1e-4, n_iter_no_change=10,
                 early_stopping=False, validation_fraction=0.1, clip_norm=5.0, warm_start=False, dtype="float32", random_state=None,
                 verbose=False):  # fmt: skip
        super().__init__(
            hidden_layer_sizes, cell=cell, bidirectional=bidirectional, pooling=pooling, dropout=dropout, standardize=standardize, solver=solver,
            alpha=alpha, batch_size=batch_size, learning_rate_init=learning_rate_init, max_iter=max_iter, tol=tol,
            n_iter_no_change=n_iter_no_change, early_stopping=early_stopping, validation_fraction=validation_fraction, clip_norm=clip_norm,
            warm_start=warm_start, dtype=dtype, random_state=random_state, verbose=verbose,
        )  # fmt: skip
        self.class_weight = class_weight

    def _make(self, targets):
        return _ClassNet(per_step=self.PER_STEP, **self._net_options())

    def _check_held_out(self, held, kept):
        held, kept = (np.concatenate(part) if self.PER_STEP else part for part in (held, kept))
        unseen.encode(
            self.classes_[held].tolist(), dict.fromkeys(self.classes_[kept].tolist(), 0), "labels", unseen.HELD_OUT
        )

    def _weighted(self, net, targets, weights):
        y = self.classes_[np.concatenate(targets) if self.PER_STEP else targets]
        if self.PER_STEP:
            net.class_weights = np.ones(len(self.classes_))
            present = np.isin(self.classes_, y)
            net.class_weights[present] = compute_class_weight(self.class_weight, classes=self.classes_[present], y=y)
        elif self.class_weight is not None:
            weights = weights * compute_sample_weight(self.class_weight, y)
        return weights

    def _labels(self, y, X, form):
        self._need_y(y)
        y = y.detach().cpu().numpy() if hasattr(y, "detach") else y
        y = column_or_1d(self._per_step(y, X, form) if self.PER_STEP else y, warn=True)
        check_consistent_length(y, np.empty(sum(map(len, X)) if self.PER_STEP else len(X)))
        check_classification_targets(y)
        return y

    def fit(self, X, y, sample_weight=None, *, lengths=None):
        """Learn. X, y as the class says; sample_weight (N,), one for each sequence. Anew, unless warm_start."""
        continues = self._continues()
        with self._all_or_nothing():
            X, form = self._read(X, lengths, reset=not continues)
            return self._fit_classes(
                X, self._labels(y, X, form), None, sample_weight, anew=not continues, epochs=self.max_iter
            )

    def partial_fit(self, X, y, classes=None, sample_weight=None, *, lengths=None):
        """One epoch over some more data; the first call gives all `classes`. The scaler is that of the first call."""
        anew = not hasattr(self, "_net")
        if anew and classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        with self._all_or_nothing():
            X, form = self._read(X, lengths, reset=anew)
            return self._fit_classes(
                X, self._labels(y, X, form), classes, sample_weight, anew=anew, epochs=1, once=True
            )

    def _fit_classes(self, X, y, classes, sample_weight, **options):
        weights = self._weights_of(sample_weight, X)
        known = unique_labels(y if classes is None else classes) if options["anew"] else self.classes_
        strange = np.setdiff1d(y, known)
        if len(strange):
            raise ValueError(
                f"y has labels {strange[:5].tolist()}, but the classes are {known.tolist()}: fit with warm_start=False to begin anew"
            )
        self.classes_ = known
        return self._learn(X, self._split(np.searchsorted(known, y), X), weights, len(known), **options)

    def predict_proba(self, X, *, lengths=None):
        """Probabilities of `classes_`, (N, K); for the tagger in the form of X, as `predict`."""
        check_is_fitted(self)
        X, form = self._read(X, lengths)
        found = self._outputs(X)
        _engine.softmax(found, found)
        return self._shaped(found, X, form)

    def predict(self, X, *, lengths=None):
        """The most likely label of each sequence, (N,). The tagger: of each step, a list of (T_i,), or (sum T_i,) if X is one 2-D array."""
        check_is_fitted(self)
        X, form = self._read(X, lengths)
        return self._shaped(self._decoded(self._outputs(X)), X, form)

    def _shaped(self, found, X, form):
        return self._split(found, X) if form != "rows" else found

    def _decoded(self, outputs):
        return self.classes_[most_likely(outputs, "step" if self.PER_STEP else "sequence")]

    def score(self, X, y, sample_weight=None, *, lengths=None):
        """Accuracy: of the sequences; of the tagger, of the steps, each with its sequence's weight."""
        found = self.predict(X, lengths=lengths)
        X, form = self._read(X, lengths)
        if self.PER_STEP:
            found, y = self._per_step(found, X, form), self._per_step(y, X, form)
            sample_weight = None if sample_weight is None else np.repeat(sample_weight, [len(x) for x in X])
        y = np.asarray(y)
        unseen.encode(y.ravel().tolist(), dict.fromkeys(self.classes_.tolist(), 0), "labels", "y")
        return float(accuracy_score(y, found, sample_weight=sample_weight))


class RNNClassifier(_Classes):
    """A class for each sequence. Parameters as MLPClassifier's where they mean the same; hidden_layer_sizes are recurrent layers.

    X : list of N arrays (T_i, F); an array (N, T, F), with `lengths` (N,) if padded; rows of all sequences one after another (sum T_i, F)
    with `lengths`, or the pair (rows, lengths); an array or frame (N, F) is N sequences of one step. y : (N,) labels.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.standard_normal((rng.integers(3, 9), 2)) for _ in range(200)]
    >>> y = ["up" if x.sum() > 0 else "down" for x in X]
    >>> model = RNNClassifier((16,), cell="gru", learning_rate_init=0.01, max_iter=30, n_iter_no_change=30, random_state=0).fit(X[:150], y[:150])
    >>> bool(model.score(X[150:], y[150:]) > 0.9)
    True
    """


class RNNTagger(_Classes):
    """A class for each step. X as RNNClassifier's; y : a list of N arrays (T_i,), or (sum T_i,) if X is rows. `pooling` does not matter."""

    PER_STEP = True

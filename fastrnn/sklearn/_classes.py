"""What the classifier and the tagger share: the network, training with labels, and predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike
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

if TYPE_CHECKING:
    from typing_extensions import Self

Output = TypeVar("Output")  # predictions: one for each sequence, or one for each step


class _ClassNet(SequenceClassifier):
    """The network of the estimators; with per_step it has a class for each step."""

    def __init__(self, *, per_step, **options):
        super().__init__(**options)
        self.per_step = per_step
        self.class_weights = None  # (K,), used if per_step

    @property
    def _pool(self):
        return each if self.per_step else super()._pool

    def _loss(self, logits, batch):
        if not self.per_step:
            return super()._loss(logits, batch)
        weights = batch.weights * self.class_weights[batch.targets]
        return softmax_cross_entropy.vjp(logits, batch.targets, lengths=batch.sequences.lengths, weights=weights)

    def evaluate(self, batches):
        """Compute the loss and the accuracy."""
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


class Classes(ClassifierMixin, Estimator, Generic[Output]):
    """Base class of the estimators whose targets are classes."""

    METRIC = "accuracy"

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (64,),
        *,
        class_weight: Mapping[object, float] | str | None = None,
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
        super().__init__(
            hidden_layer_sizes, cell=cell, bidirectional=bidirectional, pooling=pooling, dropout=dropout,
            standardize=standardize, solver=solver, alpha=alpha, batch_size=batch_size,
            learning_rate_init=learning_rate_init, max_iter=max_iter, tol=tol, n_iter_no_change=n_iter_no_change,
            early_stopping=early_stopping, validation_fraction=validation_fraction, clip_norm=clip_norm,
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
        """Check the labels, and return those of all sequences, or of all steps."""
        self._need_y(y)
        y = y.detach().cpu().numpy() if hasattr(y, "detach") else y
        y = column_or_1d(self._per_step(y, X, form) if self.PER_STEP else y, warn=True)
        check_consistent_length(y, np.empty(sum(map(len, X)) if self.PER_STEP else len(X)))
        check_classification_targets(y)
        return y

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
        y : array_like of shape (N,)
            Labels of the sequences. For a tagger, a list of N arrays (T_i,), or one array (sum T_i,) if X is an array
            of all steps.
        sample_weight : array_like of shape (N,), optional
            Weight of each sequence; by default 1.
        lengths : array_like of shape (N,), optional
            Lengths of the sequences, if X is one array.

        Returns
        -------
        object
            The estimator itself.
        """
        continues = self._continues()
        with self._all_or_nothing():
            X, form = self._read(X, lengths, reset=not continues)
            return self._fit_classes(
                X, self._labels(y, X, form), None, sample_weight, anew=not continues, epochs=self.max_iter
            )

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
    ) -> Self:
        """Train for one epoch on more data; the features are scaled as in the first call.

        Parameters
        ----------
        X : array_like
            Sequences, in one of the forms that the class describes.
        y : array_like of shape (N,)
            Labels, as in `fit`.
        classes : array_like of shape (K,), optional
            All labels; needed in the first call.
        sample_weight : array_like of shape (N,), optional
            Weight of each sequence; by default 1.
        lengths : array_like of shape (N,), optional
            Lengths of the sequences, if X is one array.

        Returns
        -------
        object
            The estimator itself.
        """
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
                f"y has labels {strange[:5].tolist()}, but the classes are {known.tolist()}: fit with warm_start=False "
                "to start again"
            )
        self.classes_ = known
        return self._learn(X, self._split(np.searchsorted(known, y), X), weights, len(known), **options)

    def predict_proba(self, X: ArrayLike, *, lengths: ArrayLike | None = None) -> Output:
        """Predict the probabilities of all classes.

        Parameters
        ----------
        X : array_like
            Sequences, in one of the forms that the class describes.
        lengths : array_like of shape (N,), optional
            Lengths of the sequences, if X is one array.

        Returns
        -------
        ndarray of shape (N, K), or list of ndarray of shape (T_i, K)
            Probabilities in the order of `classes_`, of each sequence. For a tagger, of each step: a list of arrays, or
            one array (sum T_i, K) if X is an array of all steps.
        """
        check_is_fitted(self)
        X, form = self._read(X, lengths)
        found = self._outputs(X)
        _engine.softmax(found, found)
        return self._shaped(found, X, form)

    def predict(self, X: ArrayLike, *, lengths: ArrayLike | None = None) -> Output:
        """Predict the most likely labels.

        Parameters
        ----------
        X : array_like
            Sequences, in one of the forms that the class describes.
        lengths : array_like of shape (N,), optional
            Lengths of the sequences, if X is one array.

        Returns
        -------
        ndarray of shape (N,), or list of ndarray of shape (T_i,)
            The label of each sequence. For a tagger, of each step: a list of arrays, or one array (sum T_i,) if X is an
            array of all steps.
        """
        check_is_fitted(self)
        X, form = self._read(X, lengths)
        return self._shaped(self._decoded(self._outputs(X)), X, form)

    def _shaped(self, found, X, form):
        return self._split(found, X) if form != "rows" else found

    def _decoded(self, outputs):
        return self.classes_[most_likely(outputs, "step" if self.PER_STEP else "sequence")]

    def score(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
    ) -> float:
        """Compute the accuracy: the fraction of sequences, or for a tagger of steps, with the right label.

        Parameters
        ----------
        X : array_like
            Sequences, in one of the forms that the class describes.
        y : array_like of shape (N,)
            Labels, as in `fit`.
        sample_weight : array_like of shape (N,), optional
            Weight of each sequence, and of its steps; by default 1.
        lengths : array_like of shape (N,), optional
            Lengths of the sequences, if X is one array.

        Returns
        -------
        float
            The accuracy, from 0 to 1.
        """
        found = self.predict(X, lengths=lengths)
        X, form = self._read(X, lengths)
        if self.PER_STEP:
            found, y = self._per_step(found, X, form), self._per_step(y, X, form)
            sample_weight = None if sample_weight is None else np.repeat(sample_weight, [len(x) for x in X])
        y = np.asarray(y)
        unseen.encode(y.ravel().tolist(), dict.fromkeys(self.classes_.tolist(), 0), "labels", "y")
        return float(accuracy_score(y, found, sample_weight=sample_weight))

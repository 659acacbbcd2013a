"""A classifier of whole sequences: recurrent stack, pooling over the steps, softmax."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fastrnn import _check, _engine
from fastrnn._check import data as check_data
from fastrnn.losses import softmax_cross_entropy
from fastrnn.models import unseen
from fastrnn.models.model import Examples, Setup, most_likely
from fastrnn.models.pooled import Pooled

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from fastrnn.settings import TrainingOptions


class SequenceClassifier(Pooled):
    """Classify sequences of feature vectors, such as gestures, spoken words or speakers.

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
        What represents the whole sequence: the final states, or the mean or maximum of the outputs over its steps.
    dropout : float, default=0.0
        Dropout probability after each recurrent layer (training only), 0 <= dropout < 1.
    standardize : bool, default=True
        Shift and scale the features to mean 0 and standard deviation 1 over the training data. The scale is saved with
        the model.
    dtype : {"float32", "float64"}, default="float32"
        What the network computes in.
    seed : int, optional
        Seed of the initial parameters, the order of the batches and dropout. The same seed gives the same training run,
        bit for bit, on any number of threads. By default a random one is drawn.

    Attributes
    ----------
    classes_ : (K,) ndarray
        The labels of the training data, sorted.
    features_ : list of str or None
        Names of the features if they came as columns of data frames.
    history : list of dict
        An entry for each evaluation: `epoch`, `update`, `lr`, `train_loss` and, with validation data,
        `validation_loss` and `validation_accuracy`.
    outcome : str or None
        How training ended: "finished", "stopped early", "interrupted" (by Ctrl-C) or "diverged"; None before `fit`.
    message : str or None
        Details of the outcome, if there are any.
    speed : float or None
        Steps per second in the last training, padding not counted.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.standard_normal((rng.integers(3, 9), 2)) for _ in range(200)]
    >>> y = ["up" if x.sum() > 0 else "down" for x in X]
    >>> model = SequenceClassifier("gru", 16, seed=0).fit(X[:150], y[:150], epochs=30, lr=0.01, verbose=False)
    >>> model.predict(X[150:152]).tolist() == y[150:152], model.score(X[150:], y[150:]) > 0.9
    (True, True)
    """

    FIGURES = ("loss", "accuracy")
    classes_: np.ndarray

    def fit(
        self,
        X,
        y=None,
        *,
        epochs: int = 50,
        batch_size: int = 32,
        max_steps: int | None = None,
        validation: float | tuple = 0.0,
        class_weight: Mapping | str | None = None,
        sample_weight=None,
        updates: int | None = None,
        classes: Sequence | None = None,
        verbose: bool = True,
        **settings: Unpack[TrainingOptions],
    ) -> SequenceClassifier:
        """Train a new network on sequences and their labels.

        Ctrl-C ends training and keeps the best parameters so far.

        Parameters
        ----------
        X : list of N arrays or data frames (T, features), or (N, T, features) array, or callable
            The sequences, of any lengths T >= 1. An array may be padded with NaN at the ends. Columns of data frames
            are matched by name. Features are standardized in float64. A callable is a generator; see `updates`.
        y : (N,) array_like of str or int, optional
            The labels. Omit it only if X is a generator.
        epochs : int, default=50
            Number of passes over the training data.
        batch_size : int, default=32
            Sequences in each update. Sequences of similar length are batched together.
        max_steps : int, optional
            Upper limit of the steps in an update, padding included.
        validation : float or tuple (X, y), default=0.0
            The held-out data, or the fraction of the sequences to hold out, drawn with the seed. The parameters with
            the lowest validation loss are kept, which may be the initial ones; with 0, the last ones. The scaler and
            `classes_` are learnt from the other sequences. A label that only the held-out part has counts as wrong,
            and a warning names it.
        class_weight : dict of label to float, or "balanced", optional
            Weights of the classes in the loss; "balanced" gives each class the same total weight.
        sample_weight : (N,) array_like of float, optional
            Weights of the sequences in the loss, >= 0.
        updates : int, optional
            Batches in an epoch if X is a generator: ``X(epoch)`` returns an iterable of pairs (sequences, labels), each
            of which is one batch. Omit `y`, `batch_size`, `max_steps` and the weights then, and give `validation` as a
            pair. The scaler is learnt from the first batch. To resume training with identical results, the generator
            must return the same batches for the same epoch.
        classes : list of str or int, optional
            All labels that a generator may give.
        verbose : bool, default=True
            Show the progress on stderr.
        **settings
            Other fields of ``fastrnn.settings.Settings``: `optimizer`, `lr`, `schedule`, `patience`, `checkpoint`,
            `resume` and so on. The defaults are optimizer="adam", lr=2e-3, clip_norm=5.0 and loss_limit=30.0.

        Returns
        -------
        SequenceClassifier
            This model, fitted.

        Raises
        ------
        ValueError, TypeError
            If a sequence is empty, has a NaN or another number of features, if there is only one class, or if an
            argument is out of its range. The model and the checkpoint directory are unchanged then.

        Warns
        -----
        RuntimeWarning
            If training diverged or was interrupted; see `outcome` and `message`.
        """
        settings = self._settings(epochs, verbose, settings)
        if callable(X):
            return self._fit_generator(X, updates, classes, validation, settings)
        if updates is not None or classes is not None:
            raise ValueError("updates and classes are for a generator, but X is not one")
        sizes = dict(batch_size=batch_size, max_steps=max_steps)
        return self._fit((X, y, sample_weight), validation, settings, class_weight=class_weight, **sizes)

    def _read(self, X, y, sample_weight=None, *, like=None):
        X, features = self._read_sequences(X, like)
        y = check_data.labels(y, len(X))
        weights = np.ones(len(X)) if sample_weight is None else _check.weights(sample_weight, (len(X),))
        return Examples((X, y, weights), {"features": features})

    def _prepare(self, data, held, seed, settings, *, class_weight, batch_size, max_steps):
        X, y, weights = data.columns
        classes, targets = np.unique(y, return_inverse=True)
        targets = targets.reshape(-1)
        if len(classes) < 2:
            where = "the part of y that is not held out" if held is not None else "y"
            raise ValueError(f"{where} has only the class {classes[0].item()!r}, but there must be at least 2")
        with np.errstate(over="ignore"):  # `_batches` raises an error then
            weights = weights * _class_weights(classes, targets, class_weight)
        scaler = self._scaler_of(X)
        if held is not None:
            held = held.columns[0], _targets(held.columns[1], classes, unseen.HELD_OUT)
        batches = self._batches(X, targets, weights, held, batch_size, max_steps, seed, scaler)
        return Setup(
            build=self._builder(classes, X[0].shape[1], scaler, seed, data.common["features"]),
            batches=lambda: batches,
            identity=lambda data: {"data": data.digest(), "batch_size": batch_size, "max_steps": max_steps},
        )

    def _fit_generator(self, make, updates, classes, validation, settings):
        if updates is None or classes is None:
            raise ValueError("X is a generator: give updates (batches of an epoch) and classes (all labels)")
        classes, seed = np.unique(check_data.labels(classes, len(classes))), self._drawn_seed(settings)
        first = next(iter(make(0)))[0]
        features = check_data.columns(first)
        first = check_data.sequences(first)
        width, scaler = first[0].shape[1], self._scaler_of(first)
        data = self._generated(
            make, updates, width, features, scaler, lambda X, y: _targets(y, classes, None, N=len(X))
        )
        held_out = None
        if validation:
            held_X = check_data.sequences(validation[0], width, features)
            held = held_X, _targets(validation[1], classes, unseen.HELD_OUT, N=len(held_X))
            held_out = self._batches(*held, np.ones(len(held_X)), held, 64, None, seed, scaler)[1]
        setup = Setup(
            build=self._builder(classes, width, scaler, seed, features),
            batches=lambda: (data, held_out),
            identity=lambda data: {"data": "generated", "updates": updates, "classes": classes.tolist()},
        )
        self._train(setup, settings, seed=seed)
        return self

    def _builder(self, classes, width, scaler, seed, features):
        def build():
            self.classes_ = classes
            self._build(width, len(classes), scaler, seed, features)

        return build

    def _loss(self, logits, batch):
        return softmax_cross_entropy.vjp(logits, batch.targets, weights=batch.weights)

    def evaluate(self, batches) -> dict[str, float]:
        """Compute the loss and the accuracy over some batches.

        Parameters
        ----------
        batches : iterable of Batch
            Sequences with their targets.

        Returns
        -------
        dict
            "loss", the mean negative log-likelihood, and "accuracy", the fraction of sequences classified correctly. A
            sequence whose label is unknown counts as wrong and is left out of the loss.
        """
        nll = right = known = total = 0
        for batch in batches:
            logits = self._outputs(batch.sequences)
            nll += float(softmax_cross_entropy(logits, batch.targets, reduction="none").sum())
            right += int((logits.argmax(1) == batch.targets).sum())
            known += int((batch.targets >= 0).sum())
            total += len(batch.targets)
        return {"loss": nll / known if known else math.nan, "accuracy": right / total}

    def predict_proba(self, X, *, batch_size: int = 256) -> np.ndarray:
        """Predict the probability of each class.

        Parameters
        ----------
        X : list of N arrays or data frames (T, features), or (N, T, features) array
            The sequences, as in `fit`.
        batch_size : int, default=256
            Sequences computed at a time. The results do not depend on it.

        Returns
        -------
        (N, K) ndarray
            Probabilities, in the order of `classes_`.
        """
        self._check_fitted()
        X = self._sequences(X)
        out = np.empty((len(X), len(self.classes_)), self.dtype)
        for ragged, logits in self._outputs_of(X, batch_size):
            out[ragged.rows] = _probabilities(logits)
        return out

    def _finish(self):
        return _probabilities

    def predict(self, X) -> np.ndarray:
        """Predict the most likely label of each sequence.

        Parameters
        ----------
        X : list of N arrays or data frames (T, features), or (N, T, features) array
            The sequences, as in `fit`.

        Returns
        -------
        (N,) ndarray
            Labels.

        Raises
        ------
        RuntimeError
            If the network's outputs are NaN.
        """
        best = most_likely(self.predict_proba(X), "sequence")
        return self.classes_[best]

    def score(self, X, y) -> float:
        """Compute the accuracy: the fraction of the sequences whose label is predicted.

        Parameters
        ----------
        X : list of N arrays or data frames (T, features), or (N, T, features) array
            The sequences, as in `fit`.
        y : (N,) array_like of str or int
            The true labels. One that the model was not trained on counts as wrong, and a warning names it.

        Returns
        -------
        float
            Accuracy, from 0 to 1.
        """
        self._check_fitted()
        X = self._sequences(X)
        targets = _targets(y, self.classes_, "y", N=len(X))
        return float((most_likely(self.predict_proba(X), "sequence") == targets).mean())

    def _fitted_config(self):
        return {**super()._fitted_config(), "classes": self.classes_.tolist()}

    @staticmethod
    def _outputs_in(config):
        return len(config["classes"])

    def _rebuild(self, config, arrays):
        super()._rebuild(config, arrays)
        self.classes_ = np.array(config["classes"])


def _probabilities(logits):
    """The softmax, in place."""
    rows = logits.reshape(-1, logits.shape[-1])
    _engine.softmax(rows, rows)
    return logits


def _targets(y, classes, where, *, N=None):
    """(N,) the index of each label in `classes`.

    An unknown label is `unseen.UNSEEN`, with a warning that names it; if `where` is None, it is an error.
    """
    y = y if N is None else check_data.labels(y, N)
    number = {label: k for k, label in enumerate(classes.tolist())}
    if where is None:
        strange = [label for label in dict.fromkeys(y.tolist()) if label not in number]
        if strange:
            raise ValueError(f"y has labels that are not among classes: {', '.join(map(repr, strange[:5]))}")
    targets = unseen.encode(y.tolist(), number, "labels", where)
    return np.array(targets, np.int64)


def _class_weights(classes, targets, class_weight):
    """The weights of the sequences by their classes: (N,), or 1."""
    if class_weight is None:
        return 1.0
    if isinstance(class_weight, str):
        _check.choice("class_weight", class_weight, ("balanced",))
        return (len(targets) / len(classes) / np.bincount(targets))[targets]
    missing = [label for label in classes.tolist() if label not in class_weight]
    if missing:
        raise ValueError(f"class_weight has no weight for {', '.join(map(repr, missing[:5]))}")
    return _check.weights([class_weight[label] for label in classes.tolist()], classes.shape)[targets]

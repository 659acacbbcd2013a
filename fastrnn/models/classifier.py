"""A whole sequence to one class: recurrent stack, pooling over its steps, softmax."""

from __future__ import annotations

import math

import numpy as np

from fastrnn import _check, _engine
from fastrnn._check import data as check_data
from fastrnn.losses import softmax_cross_entropy
from fastrnn.models import unseen
from fastrnn.models.model import DEFAULTS, most_likely
from fastrnn.models.pooled import Pooled
from fastrnn.settings import Settings


class SequenceClassifier(Pooled):
    """Learns to which class a sequence of feature vectors belongs: a gesture, a spoken word, a speaker.

    Parameters
    ----------
    cell : "lstm", "gru" or "rnn" (tanh)
    hidden_size : units of each recurrent layer and direction; or a list with those of each layer
    num_layers : recurrent layers
    bidirectional : read in both directions
    pooling : what stands for the whole sequence: "last" (the final states), or the "mean" or "max" of the outputs over its steps
    dropout : probability of a zero behind each recurrent layer, in training
    standardize : features are shifted and scaled to mean 0 and standard deviation 1 over the steps seen in `fit`; saved with the model
    dtype : "float32" or "float64"
    seed : int, optional. The same seed gives the same training run, bit for bit, on any number of threads.

    Attributes
    ----------
    classes_ : (K,) the labels of the training part, sorted
    features_ : names of the features if they came as columns of data frames, else None
    history, outcome, message : as in LanguageModel; the history also has `validation_accuracy`
    speed : steps/s of the last `fit`, padding not counted

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

    def fit(self, X, y=None, *, epochs: int = 50, batch_size: int = 32, max_steps=None, validation=0.0, class_weight=None, sample_weight=None,
            updates=None, classes=None, verbose: bool = True, **settings):  # fmt: skip
        """Learn from sequences and their labels, anew. Ctrl-C ends the training; what was best so far is kept.

        Parameters
        ----------
        X : list of N arrays or data frames (T, features), T >= 1, of any lengths; or an array (N, T, features), which may be padded with
            NaN. Columns of frames go by their names. Features are shifted and scaled in float64
        y : (N,) labels: all strings or all whole numbers
        epochs : times through the data
        batch_size : sequences of an update; those of similar length come together
        max_steps : steps of an update with padding, at most, optional
        validation : a pair (X, y), or the fraction of the sequences, drawn with the seed, that is held out: the parameters that are
            best on it are kept, which may be the first ones. The scaler and `classes_` are those of the others. A label that only the
            held-out part has counts as wrong, and a warning names it. 0: the last parameters are kept
        class_weight : {label: weight}, or "balanced" (each class counts the same), optional
        sample_weight : (N,) numbers >= 0, optional
        updates, classes : where X is a generator: a function of the epoch that gives pairs (sequences, labels), a batch each. `updates`
            of them are an epoch, `classes` are all labels there are; `y`, weights and sizes are left out, `validation` is a pair, and
            the scaler is that of the first batch. To be resumed to the same bits it must give the same for the same epoch
        verbose : show progress on stderr
        The others: those of ``fastrnn.settings.Settings`` (optimizer, lr, schedule, patience, checkpoint, resume, …); as default
            optimizer="adam", lr=2e-3, clip_norm=5., loss_limit=30.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError  a sequence is empty, of another width or has a NaN; there is but one class; an argument is out of its
            range. Nothing has been changed or written then.

        Warns
        -----
        RuntimeWarning  if the loss rose above `loss_limit` times its first value or was NaN, or at Ctrl-C. See `outcome` and `message`.
        """
        settings = Settings(epochs=epochs, **{**DEFAULTS, "progress": verbose, **settings})
        if callable(X):
            return self._fit_generator(X, updates, classes, validation, settings)
        if updates is not None or classes is not None:
            raise ValueError("updates and classes are for a generator, but X is none")
        features = check_data.columns(X)
        X = check_data.sequences(X)
        y, seed = check_data.labels(y, len(X)), self._drawn_seed(settings)
        weights = np.ones(len(X)) if sample_weight is None else _check.weights(sample_weight, (len(X),))
        if isinstance(validation, (tuple, list)):
            held_X = check_data.sequences(validation[0], X[0].shape[1], features)
            held = held_X, check_data.labels(validation[1], len(held_X))
        else:
            X, y, weights, held = self._split(X, y, weights, validation, seed)
        classes, targets = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            where = "the part of y that is not held out" if held is not None else "y"
            raise ValueError(f"{where} has only the class {classes[0].item()!r}, but there must be at least 2")
        with np.errstate(over="ignore"):  # refused by `_batches`
            weights = weights * _class_weights(classes, targets.reshape(-1), class_weight)
        scaler = self._scaler_of(X)
        held = None if held is None else (held[0], _targets(held[1], classes, unseen.HELD_OUT))
        sizes = batch_size, max_steps, seed
        data, held_out = self._batches(X, targets.reshape(-1), weights, held, *sizes, scaler)

        def identity(data):
            return {"data": data.digest(), "batch_size": batch_size, "max_steps": max_steps}

        def build():
            self.classes_ = classes
            self._build(X[0].shape[1], len(classes), scaler, seed, features)

        self._train(build, data, settings, seed=seed, validation=held_out, identity=identity, unit="steps")
        return self

    def _fit_generator(self, make, updates, classes, validation, settings):
        if updates is None or classes is None:
            raise ValueError(
                "X is a generator: give updates (batches of an epoch) and classes (all labels that there are)"
            )
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

        def identity(data):
            return {"data": "generated", "updates": updates, "classes": classes.tolist()}

        def build():
            self.classes_ = classes
            self._build(width, len(classes), scaler, seed, features)

        self._train(build, data, settings, seed=seed, validation=held_out, identity=identity, unit="steps")
        return self

    def _loss(self, logits, batch):
        return softmax_cross_entropy.vjp(logits, batch.targets, weights=batch.weights)

    def evaluate(self, batches) -> dict:
        """{"loss": mean NLL, "accuracy": fraction of the sequences} over some batches; see ``fastrnn.models.unseen``."""
        nll = right = known = total = 0
        for batch in batches:
            logits = self._outputs(batch.sequences)
            nll += float(softmax_cross_entropy(logits, batch.targets, reduction="none").sum())
            right += int((logits.argmax(1) == batch.targets).sum())
            known += int((batch.targets >= 0).sum())
            total += len(batch.targets)
        return {"loss": nll / known if known else math.nan, "accuracy": right / total}

    def predict_proba(self, X, *, batch_size: int = 256) -> np.ndarray:
        """(N, K) probabilities of the classes, in the order of `classes_`. X as in `fit`."""
        self._check_fitted()
        X = self._sequences(X)
        out = np.empty((len(X), len(self.classes_)), self.dtype)
        for ragged, logits in self._outputs_of(X, batch_size):
            _engine.softmax(logits, logits)
            out[ragged.rows] = logits
        return out

    def predict(self, X) -> np.ndarray:
        """(N,) the most likely label of each sequence. X as in `fit`.

        Raises
        ------
        RuntimeError  the network gives NaN, so that no label is the most likely one.
        """
        best = most_likely(self.predict_proba(X), "sequence")
        return self.classes_[best]

    def score(self, X, y) -> float:
        """Accuracy: the fraction of the sequences whose label is predicted. X and y as in `fit`.

        A label that the model was not fitted with counts as wrong, and a warning names it.
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


def _targets(y, classes, where, *, N=None):
    """(N,) the number of the class of each label; where it is not known, `unseen.UNSEEN` and a warning, or without `where` an error."""
    y = y if N is None else check_data.labels(y, N)
    number = {label: k for k, label in enumerate(classes.tolist())}
    if where is None:
        strange = [label for label in dict.fromkeys(y.tolist()) if label not in number]
        if strange:
            raise ValueError(f"y has labels that are not among classes: {', '.join(map(repr, strange[:5]))}")
    targets = unseen.encode(y.tolist(), number, "labels", where)
    return np.array(targets, np.int64)


def _class_weights(classes, targets, class_weight):
    """Weight of each sequence by its class: (N,), or 1."""
    if class_weight is None:
        return 1.0
    if isinstance(class_weight, str):
        _check.choice("class_weight", class_weight, ("balanced",))
        return (len(targets) / len(classes) / np.bincount(targets))[targets]
    missing = [label for label in classes.tolist() if label not in class_weight]
    if missing:
        raise ValueError(f"class_weight has no weight for {', '.join(map(repr, missing[:5]))}")
    return _check.weights([class_weight[label] for label in classes.tolist()], classes.shape)[targets]

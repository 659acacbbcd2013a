"""A whole sequence to one class: recurrent stack, pooling over its steps, softmax."""

from __future__ import annotations

import numpy as np

from fastrnn import _check, _engine
from fastrnn.losses import softmax_cross_entropy
from fastrnn.models.model import DEFAULTS
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
    classes_ : (K,) the labels, sorted
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
        X : list of N arrays (T, features), T >= 1, of any lengths; or an array (N, T, features)
        y : (N,) labels: strings or whole numbers
        epochs : times through the data
        batch_size : sequences of an update; those of similar length come together
        max_steps : steps of an update with padding, at most, optional
        validation : a pair (X, y), or the part of the sequences, drawn with the seed, that is held out: the model that is best on it is
            kept. 0: the last model is kept
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
        X, classes, targets = _data(X, y, None, self.dtype)
        seed = self._drawn_seed(settings)
        weights = _weights(classes, targets, class_weight, sample_weight)
        if isinstance(validation, (tuple, list)):
            held_X, _, held_targets = _data(*validation, X[0].shape[1], self.dtype, classes)
            validation = held_X, held_targets
        scaler = self._scaler_of(X)
        data, held_out = self._batches(X, targets, weights, validation, batch_size, max_steps, seed, scaler)

        def identity():
            return {"data": data.digest(), "batch_size": batch_size, "max_steps": max_steps}

        def build():
            self.classes_ = classes
            self._build(X[0].shape[1], len(classes), scaler, seed)

        self._run(self._start(build, data, settings, seed=seed, validation=held_out, identity=identity, unit="steps"))
        return self

    def _fit_generator(self, make, updates, classes, validation, settings):
        if updates is None or classes is None:
            raise ValueError("X is a generator: give updates (batches of an epoch) and classes (all labels that there are)")
        classes, seed = np.unique(classes), self._drawn_seed(settings)
        first = _check.sequences(next(iter(make(0)))[0], None, self.dtype)
        width, scaler = first[0].shape[1], self._scaler_of(first)
        data = self._generated(make, updates, width, scaler, lambda X, y: _data(X, y, width, self.dtype, classes)[2])
        held_out = None
        if validation:
            held_X, _, held_targets = _data(*validation, width, self.dtype, classes)
            held_out = self._batches(held_X, held_targets, np.ones(len(held_X)), 0.0, 64, None, seed, scaler)[0]

        def identity():
            return {"data": "generated", "updates": updates, "classes": classes.tolist()}

        def build():
            self.classes_ = classes
            self._build(width, len(classes), scaler, seed)

        self._run(self._start(build, data, settings, seed=seed, validation=held_out, identity=identity, unit="steps"))
        return self

    def _loss(self, logits, batch):
        return softmax_cross_entropy.vjp(logits, batch.targets, weights=batch.weights)

    def evaluate(self, batches) -> dict:
        """{"loss": mean NLL, "accuracy": part of the sequences} over some batches."""
        nll = right = total = 0
        for batch in batches:
            logits = self._outputs(batch.sequences)
            nll += float(softmax_cross_entropy(logits, batch.targets, reduction="none").sum())
            right += int((logits.argmax(1) == batch.targets).sum())
            total += len(batch.targets)
        return {"loss": nll / total, "accuracy": right / total}

    def predict_proba(self, X, *, batch_size: int = 256) -> np.ndarray:
        """(N, K) probabilities of the classes, in the order of `classes_`. X as in `fit`."""
        self._check_fitted()
        X = _check.sequences(X, self.rnn.input_size, self.dtype)
        out = np.empty((len(X), len(self.classes_)), self.dtype)
        for ragged, logits in self._outputs_of(X, batch_size):
            _engine.softmax(logits, logits)
            out[ragged.rows] = logits
        return out

    def predict(self, X) -> np.ndarray:
        """(N,) the most likely label of each sequence. X as in `fit`."""
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]

    def score(self, X, y) -> float:
        """Accuracy: the part of the sequences whose label is predicted. X and y as in `fit`."""
        self._check_fitted()
        X, _, targets = _data(X, y, self.rnn.input_size, self.dtype, self.classes_)
        return float((self.predict_proba(X).argmax(1) == targets).mean())

    def _fitted_config(self):
        return {"input_size": self.rnn.input_size, "classes": self.classes_.tolist()}

    @staticmethod
    def _outputs_in(config):
        return len(config["classes"])

    def _rebuild(self, config, arrays):
        super()._rebuild(config, arrays)
        self.classes_ = np.array(config["classes"])


def _data(X, y, width, dtype, classes=None):
    """Checked sequences, the classes, and the number of the class of each sequence."""
    X = _check.sequences(X, width, dtype)
    y = np.asarray(y)
    if y.shape != (len(X),):
        raise ValueError(f"y has shape {y.shape}, but there are {len(X)} sequences: give one label for each")
    if y.dtype.kind not in "iubU":
        raise TypeError(f"y is {y.dtype}, but labels must be strings or whole numbers")
    if classes is None:
        classes, targets = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y has only the class {classes[0].item()!r}, but there must be at least 2")
        return X, classes, targets.reshape(-1)
    targets = np.searchsorted(classes, y).clip(max=len(classes) - 1)
    unknown = np.unique(y[classes[targets] != y])
    if len(unknown):
        raise ValueError(f"y has classes that this model was not fitted with: {', '.join(map(repr, unknown[:5].tolist()))}")
    return X, classes, targets


def _weights(classes, targets, class_weight, sample_weight):
    """(N,) weight of each sequence."""
    weights = np.ones(len(targets)) if sample_weight is None else _check.weights(sample_weight, targets.shape)
    if class_weight is None:
        return weights
    if isinstance(class_weight, str):
        _check.choice("class_weight", class_weight, ("balanced",))
        return weights * (len(targets) / len(classes) / np.bincount(targets))[targets]
    missing = [label for label in classes.tolist() if label not in class_weight]
    if missing:
        raise ValueError(f"class_weight has no weight for {', '.join(map(repr, missing[:5]))}")
    return weights * _check.weights([class_weight[label] for label in classes.tolist()], classes.shape)[targets]

"""A whole sequence to one class: recurrent stack, pooling over its steps, softmax."""

from __future__ import annotations

import hashlib

import numpy as np

from fastrnn import _check, _engine
from fastrnn.batches import Sequences
from fastrnn.layers import Dropout, Linear, random_key
from fastrnn.losses import softmax_cross_entropy
from fastrnn.models.model import CELLS, DEFAULTS, Model, held_out_rows
from fastrnn.parameters import Storage, initialise
from fastrnn.training import Settings


def _last(net, y, state, lengths):
    """The final states of the top layer, side by side; for the reverse direction that is the one at the first step."""
    h, D = state[0] if net.cell.has_c else state, net.num_directions
    B, H = h.shape[1:]

    def backward(dpooled):
        dh = np.zeros_like(h)
        dh[-D:] = dpooled.reshape(B, D, H).transpose(1, 0, 2)
        return {"dstate_n": (dh, np.zeros_like(h)) if net.cell.has_c else dh}

    return np.ascontiguousarray(h[-D:].transpose(1, 0, 2)).reshape(B, D * H), backward


def _mean(net, y, state, lengths):
    """The mean of the outputs over the sequence's own steps."""
    share = (1 / lengths).astype(y.dtype)[:, None]

    def backward(dpooled):
        return {"dy": np.broadcast_to(dpooled * share, y.shape)}

    return y.sum(0) * share, backward


def _max(net, y, state, lengths):
    """The greatest output of each unit over the sequence's own steps."""
    valid = np.where((np.arange(len(y))[:, None] < lengths)[..., None], y, -np.inf)
    where = valid.argmax(0)[None]

    def backward(dpooled):
        dy = np.zeros_like(y)
        np.put_along_axis(dy, where, dpooled[None], 0)
        return {"dy": dy}

    return np.take_along_axis(y, where, 0)[0], backward


POOLINGS = {"last": _last, "mean": _mean, "max": _max}


class SequenceClassifier(Model):
    """Learns to which class a sequence of feature vectors belongs: a gesture, a spoken word, a speaker.

    Parameters
    ----------
    cell : "lstm", "gru" or "rnn" (tanh)
    hidden_size : units of each recurrent layer and direction
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

    LAYERS = ("rnn", "linear")
    FIGURES = ("loss", "accuracy")
    ARGUMENTS = ("cell", "hidden_size", "num_layers", "bidirectional", "pooling", "dropout", "standardize")

    def __init__(
        self,
        cell: str = "lstm",
        hidden_size: int = 64,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        pooling: str = "last",
        dropout: float = 0.0,
        standardize: bool = True,
        dtype="float32",
        seed: int | None = None,
    ):
        self.cell = _check.choice("cell", cell, tuple(CELLS))
        self.hidden_size = _check.size("hidden_size", hidden_size)
        self.num_layers = _check.size("num_layers", num_layers)
        self.bidirectional, self.standardize = bool(bidirectional), bool(standardize)
        self.pooling = _check.choice("pooling", pooling, tuple(POOLINGS))
        self.dropout = _check.probability("dropout", dropout)
        self.dtype = _check.dtype(dtype)
        self.seed = None if seed is None else _check.size("seed", seed, least=0)
        self.history = []

    def fit(self, X, y, *, epochs: int = 50, batch_size: int = 32, max_steps=None, validation=0.0, class_weight=None, sample_weight=None,
            verbose: bool = True, **settings):  # fmt: skip
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
        verbose : show progress on stderr
        The others: optimizer, lr, schedule, clip_norm, clip_value, patience, evaluate_every, checkpoint, checkpoint_every and resume
        of ``fastrnn.training.Settings``; as default optimizer="adam", lr=2e-3, clip_norm=5., loss_limit=30.

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
        X, classes, targets = _data(X, y, None, self.dtype)
        seed = self._drawn_seed(settings)
        weights = _weights(classes, targets, class_weight, sample_weight)
        X, targets, weights, held_out = self._split(X, targets, weights, classes, validation, seed)
        scaler = _scaler(X) if self.standardize else None
        data = _Labelled(_scaled(X, scaler), targets, weights, batch_size, max_steps, random_key(seed, 1))
        if held_out is not None:
            held_out = _Labelled(_scaled(held_out[0], scaler), held_out[1], None, batch_size, max_steps, None)
        identity = self._configuration() | {"data": data.digest(), "batch_size": batch_size, "max_steps": max_steps}

        def build():
            self._build(X[0].shape[1], classes, scaler, seed)

        self._run(self._start(build, data, settings, seed=seed, validation=held_out, identity=identity, unit="steps"))
        return self

    def _split(self, X, targets, weights, classes, validation, seed):
        """(X, targets, weights, None or held-out (X, targets))."""
        if isinstance(validation, (tuple, list)):
            held_X, _, held_targets = _data(*validation, X[0].shape[1], self.dtype, classes)
            return X, targets, weights, (held_X, held_targets)
        out, kept = held_out_rows(len(X), validation, random_key(seed, 2))
        held = ([X[i] for i in out], targets[out]) if len(out) else None
        return [X[i] for i in kept], targets[kept], weights[kept], held

    def _build(self, input_size, classes, scaler, seed):
        """Make the layers, with first values drawn from `seed`, in one storage."""
        self.classes_, self._scaler = classes, scaler
        self.storage = Storage(self.dtype)
        make = dict(dtype=self.dtype, storage=self.storage)
        between = self.dropout if self.num_layers > 1 else 0.0
        self.rnn = CELLS[self.cell](
            input_size, self.hidden_size, self.num_layers,
            dropout=between, bidirectional=self.bidirectional, seed=random_key(seed, 3), **make,
        )  # fmt: skip
        self.linear = Linear(self.rnn.num_directions * self.hidden_size, len(classes), seed=random_key(seed, 4), **make)
        self._dropout = Dropout(self.dropout) if self.dropout else None
        if self.cell == "lstm":
            initialise(self.rnn, "torch", forget_bias=1.0, seed=random_key(seed, 3))

    def loss_and_gradient(self, batch, state=None, *, into, rng: int):
        """Mean NLL of a batch of sequences, and None; the gradient is added to `into`, laid out as ``storage.flat``."""
        ragged, targets, weights = batch
        (y, state), rnn_backward = self.rnn.vjp(ragged.x, lengths=ragged.lengths, rng=rng)
        pooled, pool_backward = POOLINGS[self.pooling](self.rnn, y, state, ragged.lengths)
        if self._dropout is not None:
            pooled, dropout_backward = self._dropout.vjp(pooled, rng=random_key(rng, 1))
        logits, linear_backward = self.linear.vjp(pooled)
        loss, loss_backward = softmax_cross_entropy.vjp(logits, targets, weights=weights)
        dpooled = linear_backward(loss_backward(), into=into).x
        if self._dropout is not None:
            dpooled = dropout_backward(dpooled).x
        rnn_backward(**pool_backward(dpooled), need_x=False, into=into)
        rnn_backward.release()
        return loss, None

    def _logits(self, ragged):
        y, state = self.rnn(ragged.x, lengths=ragged.lengths)
        return self.linear(POOLINGS[self.pooling](self.rnn, y, state, ragged.lengths)[0])

    def evaluate(self, batches) -> dict:
        """{"loss": mean NLL, "accuracy": part of the sequences} over some batches."""
        nll = right = total = 0
        for ragged, targets, _ in batches:
            logits = self._logits(ragged)
            nll += float(softmax_cross_entropy(logits, targets, reduction="none").sum())
            right += int((logits.argmax(1) == targets).sum())
            total += len(targets)
        return {"loss": nll / total, "accuracy": right / total}

    def predict_proba(self, X, *, batch_size: int = 256) -> np.ndarray:
        """(N, K) probabilities of the classes, in the order of `classes_`. X as in `fit`."""
        self._check_fitted()
        X = _scaled(_check.sequences(X, self.rnn.input_size, self.dtype), self._scaler)
        out = np.empty((len(X), len(self.classes_)), self.dtype)
        for ragged in Sequences(X, batch_size):
            logits = self._logits(ragged)
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

    def _fitted_arrays(self):
        return {} if self._scaler is None else {"scaler.mean": self._scaler[0], "scaler.scale": self._scaler[1]}

    def _rebuild(self, config, arrays):
        scaler = (arrays["scaler.mean"], arrays["scaler.scale"]) if "scaler.mean" in arrays else None
        self._build(config["input_size"], np.array(config["classes"]), scaler, 0)


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


def _scaler(X):
    """(mean, scale) of each feature over all steps; a feature that never changes is only shifted."""
    steps = sum(len(x) for x in X)
    mean = sum(x.sum(0, np.float64) for x in X) / steps
    deviation = np.sqrt(sum(((x - mean) ** 2).sum(0) for x in X) / steps)
    return mean, np.where(deviation > 0, 1 / np.where(deviation > 0, deviation, 1), 1.0)


def _scaled(X, scaler):
    return X if scaler is None else [((x - scaler[0]) * scaler[1]).astype(x.dtype) for x in X]


class _Labelled(Sequences):
    """Batches (sequences, classes, weights)."""

    def __init__(self, X, targets, weights, batch_size, max_steps, seed):
        super().__init__(X, batch_size, max_steps=max_steps, seed=seed)
        self._targets, self._weights = targets, weights

    def _batch(self, rows):
        return self._ragged(rows), self._targets[rows], None if self._weights is None else self._weights[rows]

    @staticmethod
    def steps_of(batch):
        return int(batch[0].lengths.sum())

    def weight_of(self, batch):
        return float(batch[2].sum())

    def digest(self):
        """What a checkpoint knows the data by."""
        found = hashlib.sha256(self._targets.tobytes() + self._weights.tobytes())
        for x in self._x:
            found.update(x.tobytes())
        return found.hexdigest()[:12]

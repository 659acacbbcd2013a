"""Which of n events happen at each step, given all steps before: polyphonic music, alarms, baskets."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from fastrnn import _check
from fastrnn._check import data as check_data
from fastrnn._check import memory as check_memory
from fastrnn._check import stacked as check_stacked
from fastrnn.batches import Sequences
from fastrnn.layers.feedforward import Dropout, Linear, random_key
from fastrnn.losses import binary_cross_entropy
from fastrnn.models.model import CELLS, DEFAULTS, Model, held_out_rows, recurrent, remember_at_first
from fastrnn.parameters import Storage
from fastrnn.settings import Settings


class EventModel(Model):
    """Learns the probability of each event (note) at the next step; given the steps before, events are independent of each other.

    The first step is predicted from nothing: the network reads zeros in its place. So every step of a sequence counts, as in
    Boulanger-Lewandowski et al. (2012) and Chung et al. (2014), whose figures are nats per frame.

    Parameters
    ----------
    cell : "lstm", "gru" or "rnn" (tanh)
    hidden_size : units of each recurrent layer; or a list with those of each layer
    num_layers : recurrent layers
    input_dropout : probability that a step's number is zeroed at the input, in training
    dropout : probability of a zero behind each recurrent layer, in training
    dtype : "float32" or "float64"
    seed : int, optional. The same seed gives the same training run, bit for bit, on any number of threads.

    Attributes
    ----------
    history, outcome, message : as in LanguageModel
    speed : steps/s of the last `fit`

    Examples
    --------
    >>> scale = np.eye(8)[[0, 2, 4, 7, 4, 2] * 10]
    >>> model = EventModel("gru", 24, seed=0).fit([scale] * 20, epochs=60, batch_size=4, lr=0.02, verbose=False)
    >>> model.score([scale]) > -0.5
    True
    >>> model.generate(3, prime=scale[:7], seed=0).argmax(1)
    array([2, 4, 7])
    """

    LAYERS = ("rnn", "linear")
    ARGUMENTS = ("cell", "hidden_size", "num_layers", "input_dropout", "dropout")

    def __init__(
        self,
        cell: str = "gru",
        hidden_size: int | Sequence[int] = 128,
        num_layers: int = 1,
        *,
        input_dropout: float = 0.0,
        dropout: float = 0.0,
        dtype="float32",
        seed: int | None = None,
    ):
        self.cell = _check.choice("cell", cell, tuple(CELLS))
        self.num_layers = _check.size("num_layers", num_layers)
        self.hidden_size = check_stacked.layer_sizes(hidden_size, self.num_layers)
        self.input_dropout = _check.probability("input_dropout", input_dropout)
        self.dropout = _check.probability("dropout", dropout)
        self.dtype = _check.dtype(dtype)
        self.seed = _check.seed(seed)
        self.history = []

    def fit(
        self,
        X,
        *,
        epochs: int = 100,
        batch_size: int = 16,
        max_steps=None,
        validation=0.0,
        verbose: bool = True,
        **settings,
    ):
        """Learn from sequences, anew. Ctrl-C ends the training; what was best so far is kept.

        Parameters
        ----------
        X : list of N arrays (T, n) of 0 and 1, T >= 1
        validation : a list of sequences, or the fraction of X, drawn with the seed, that is held out
        The others as in ``SequenceClassifier.fit``

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError  a sequence is empty, of another width, or has something else than 0 and 1; an argument is out of its
            range. Nothing has been changed or written then.

        Warns
        -----
        RuntimeWarning  if the loss rose above `loss_limit` times its first value or was NaN, or at Ctrl-C. See `outcome` and `message`.
        """
        settings = Settings(epochs=epochs, **{**DEFAULTS, "progress": verbose, **settings})
        X = self._checked(X)
        n, seed = X[0].shape[1], self._drawn_seed(settings)
        if isinstance(validation, (tuple, list)):
            held = self._checked(validation, n)
        else:
            out, kept = held_out_rows(len(X), validation, random_key(seed, 2))
            held, X = [X[i] for i in out], [X[i] for i in kept]
        data = Sequences(X, batch_size, max_steps=max_steps, seed=random_key(seed, 1))
        held = Sequences(held, batch_size, max_steps=max_steps) if held else None

        def identity(data):
            digest = hashlib.sha256(b"".join(x.tobytes() for x in X)).hexdigest()[:12]
            return {"data": digest, "batch_size": batch_size, "max_steps": max_steps}

        self._train(
            lambda: self._build(n, seed), data, settings, seed=seed, validation=held, identity=identity, unit="steps"
        )
        return self

    def _checked(self, X, n=None):
        X = check_data.sequences(X, n)
        for i, x in enumerate(X):
            if ((x != 0) & (x != 1)).any():
                raise ValueError(f"sequence {i} has {x[(x != 0) & (x != 1)][0]:g}, but events are 0 or 1")
        return [x.astype(self.dtype, copy=False) for x in X]

    def _build(self, n, seed):
        """Make the layers, with first values drawn from `seed`, in one storage."""
        self.storage = Storage(self.dtype, self._budget)
        make = dict(dtype=self.dtype, storage=self.storage)
        self.rnn = recurrent(
            self.cell, n, self.hidden_size, self.num_layers, dropout=self.dropout, seed=random_key(seed, 3), **make
        )
        self.linear = Linear(self.rnn.output_size, n, seed=random_key(seed, 4), **make)
        self._input_dropout = Dropout(self.input_dropout) if self.input_dropout else None
        self._dropout = Dropout(self.dropout) if self.dropout else None
        remember_at_first(self.rnn, random_key(seed, 3))

    def loss_and_gradient(self, batch, state=None, *, into, rng: int):
        """Mean NLL per step of some sequences, and None; the gradient is added to `into`, laid out as ``storage.flat``."""
        x = _before(batch.x)
        if self._input_dropout is not None:
            x, _ = self._input_dropout.vjp(x, rng=random_key(rng, 2), out=x)
        (y, _), rnn_backward = self.rnn.vjp(x, lengths=batch.lengths, rng=rng)
        if self._dropout is not None:
            y, dropout_backward = self._dropout.vjp(y, rng=random_key(rng, 1), out=y)
        logits, linear_backward = self.linear.vjp(y)
        loss, loss_backward = binary_cross_entropy.vjp(logits, batch.x, lengths=batch.lengths)
        dy = linear_backward(loss_backward(), into=into).x
        if self._dropout is not None:
            dy = dropout_backward(dy, out=dy).x
        rnn_backward(dy, need_x=False, into=into)
        rnn_backward.release()
        return loss, None

    def evaluate(self, batches) -> dict:
        """{"loss": mean NLL per step} of some batches."""
        total = 0.0
        for batch in batches:
            y, _ = self.rnn(_before(batch.x), lengths=batch.lengths)
            total += binary_cross_entropy(self.linear(y), batch.x, lengths=batch.lengths) * batches.steps_of(batch)
        return {"loss": total / batches.steps}

    def score(self, X) -> float:
        """Log-likelihood in nats per step (higher is better, at most 0): its sum over all steps of all sequences by their number."""
        self._check_fitted()
        return -self.evaluate(Sequences(self._checked(X, self.rnn.input_size), 64))["loss"]

    def predict(self, X) -> list:
        """N arrays (T, n): the probability of each event at each step, given the steps before it."""
        self._check_fitted()
        X = self._checked(X, self.rnn.input_size)
        found = [None] * len(X)
        for batch in Sequences(X, 64):
            logits = self.linear(self.rnn(_before(batch.x), lengths=batch.lengths)[0])
            for b, row in enumerate(batch.rows):
                found[row] = _sigmoid(logits[: batch.lengths[b], b])
        return found

    def generate(self, length: int, prime=None, seed: int | None = None) -> np.ndarray:
        """(length, n) steps of 0 and 1 that go on from `prime` (T, n), or from the beginning."""
        self._check_fitted()
        n, rng = self.rnn.input_size, np.random.default_rng(seed)
        before = np.zeros((1, n), self.dtype)
        if prime is not None:
            before = np.concatenate([before, self._checked([prime], n)[0]])
        needed = _check.size("length", length, least=0) * n * self.dtype.itemsize
        check_memory.fits(f"{length:,} steps of {n} events", needed, "ask for fewer steps")
        stream, found = self.rnn.stream(), np.zeros((length, n), self.dtype)
        h = stream.run(before[:, None])[-1]
        for t in range(length):
            p = _sigmoid(self.linear(h)[0])
            if np.isnan(p).any():
                raise RuntimeError(
                    f"the probabilities of step {t} are NaN: the parameters have left all bounds; train again with a lower lr"
                )
            found[t] = rng.random(n) < p
            h = stream.step(found[t : t + 1])
        return found

    def _fitted_config(self):
        return {"events": self.rnn.input_size}

    def _rebuild(self, config, arrays):
        self._build(config["events"], 0)


def _before(x):
    """What each step is predicted from: the step before it, zeros before the first."""
    shifted = np.zeros_like(x)
    shifted[1:] = x[:-1]
    return shifted


def _sigmoid(z):
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1, e) / (1 + e)

"""A model of which of n events happen at each step, given all steps before: polyphonic music, alarms, baskets."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from fastrnn import _check, _engine
from fastrnn._check import data as check_data
from fastrnn._check import memory as check_memory
from fastrnn._check import stacked as check_stacked
from fastrnn._core.recording import recordable
from fastrnn.batches import Ragged, Sequences
from fastrnn.layers.feedforward import Dropout, Linear, random_key
from fastrnn.losses import binary_cross_entropy
from fastrnn.models.model import CELLS, Examples, Model, Recurrent, Setup, init_forget_bias, recurrent
from fastrnn.parameters import Storage

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from fastrnn.settings import TrainingOptions


class EventModel(Model):
    """Predict the probability of each event (a note, an alarm) at the next step.

    Given the steps before, the events are independent of each other. The first step is predicted from zeros, so every
    step of a sequence counts, as in Boulanger-Lewandowski et al. (2012) and Chung et al. (2014), who report nats per
    frame.

    Parameters
    ----------
    cell : {"lstm", "gru", "rnn"}, default="gru"
        Kind of recurrent layer; "rnn" has the tanh activation.
    hidden_size : int or sequence of int, default=128
        Units of each recurrent layer, or a list with the units of each layer.
    num_layers : int, default=1
        Number of recurrent layers.
    input_dropout : float, default=0.0
        Dropout probability at the input (training only), 0 <= input_dropout < 1.
    dropout : float, default=0.0
        Dropout probability after each recurrent layer (training only), 0 <= dropout < 1.
    dtype : {"float32", "float64"}, default="float32"
        What the network computes in.
    seed : int, optional
        Seed of the initial parameters, the order of the batches and dropout. The same seed gives the same training run,
        bit for bit, on any number of threads. By default a random one is drawn.

    Attributes
    ----------
    history : list of dict
        An entry for each evaluation: `epoch`, `update`, `lr`, `train_loss` and, with validation data,
        `validation_loss`.
    outcome : str or None
        How training ended: "finished", "stopped early", "interrupted" (by Ctrl-C) or "diverged"; None before `fit`.
    message : str or None
        Details of the outcome, if there are any.
    speed : float or None
        Steps per second in the last training, padding not counted.

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
    rnn: Recurrent
    linear: Linear
    ARGUMENTS = ("cell", "hidden_size", "num_layers", "input_dropout", "dropout")

    def __init__(
        self,
        cell: Literal["lstm", "gru", "rnn"] = "gru",
        hidden_size: int | Sequence[int] = 128,
        num_layers: int = 1,
        *,
        input_dropout: float = 0.0,
        dropout: float = 0.0,
        dtype: str = "float32",
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
        X: Sequence,
        *,
        epochs: int = 100,
        batch_size: int = 16,
        max_steps: int | None = None,
        validation: float | Sequence = 0.0,
        verbose: bool = True,
        **settings: Unpack[TrainingOptions],
    ) -> EventModel:
        """Train a new network on sequences.

        Ctrl-C ends training and keeps the best parameters so far.

        Parameters
        ----------
        X : list of N arrays (T, n)
            Sequences of 0 and 1, of any lengths T >= 1.
        epochs : int, default=100
            Number of passes over the training data.
        batch_size : int, default=16
            Sequences in each update. Sequences of similar length are batched together.
        max_steps : int, optional
            Upper limit of the steps in an update, padding included.
        validation : float or list of arrays (T, n), default=0.0
            The held-out sequences, or the fraction of X to hold out, drawn with the seed. The parameters with the
            lowest validation loss are kept, which may be the initial ones; with 0, the last ones.
        verbose : bool, default=True
            Show the progress on stderr.
        **settings
            Other fields of ``fastrnn.settings.Settings``: `optimizer`, `lr`, `schedule`, `patience`, `checkpoint`,
            `resume` and so on. The defaults are optimizer="adam", lr=2e-3, clip_norm=5.0 and loss_limit=30.0.

        Returns
        -------
        EventModel
            This model, fitted.

        Raises
        ------
        ValueError, TypeError
            If a sequence is empty, has another number of events or values other than 0 and 1, or if an argument is out
            of its range. The model and the checkpoint directory are unchanged then.

        Warns
        -----
        RuntimeWarning
            If training diverged or was interrupted; see `outcome` and `message`.
        """
        settings = self._settings(epochs, verbose, settings)
        if isinstance(validation, (tuple, list)):
            validation = (validation,)  # the arguments of `_read`
        return self._fit((X,), validation, settings, batch_size=batch_size, max_steps=max_steps)

    def _read(self, X, *, like=None):
        return Examples((self._checked(X, None if like is None else like.columns[0][0].shape[1]),))

    def _prepare(self, data, held, seed, settings, *, batch_size, max_steps):
        [X] = data.columns
        training = Sequences(X, batch_size, max_steps=max_steps, seed=random_key(seed, 1))
        held_out = None if held is None else Sequences(held.columns[0], batch_size, max_steps=max_steps)

        def identity(data):
            digest = hashlib.sha256(b"".join(x.tobytes() for x in X)).hexdigest()[:12]
            return {"data": digest, "batch_size": batch_size, "max_steps": max_steps}

        return Setup(lambda: self._build(X[0].shape[1], seed), lambda: (training, held_out), identity)

    def _checked(self, X, n=None):
        X = check_data.sequences(X, n)
        for i, x in enumerate(X):
            if ((x != 0) & (x != 1)).any():
                raise ValueError(f"sequence {i} has {x[(x != 0) & (x != 1)][0]:g}, but events are 0 or 1")
        return [x.astype(self.dtype, copy=False) for x in X]

    def _build(self, n, seed):
        """Make the layers in one storage, with initial values drawn from `seed`."""
        self.storage = Storage(self.dtype, self._budget)
        make = dict(dtype=self.dtype, storage=self.storage)
        self.rnn = recurrent(
            self.cell, n, self.hidden_size, self.num_layers, dropout=self.dropout, seed=random_key(seed, 3), **make
        )
        self.linear = Linear(self.rnn.output_size, n, seed=random_key(seed, 4), **make)
        self._input_dropout = Dropout(self.input_dropout)
        self._dropout = Dropout(self.dropout)
        init_forget_bias(self.rnn, random_key(seed, 3))

    @recordable
    def loss_and_gradient(self, batch: Ragged, state=None, *, into: np.ndarray, rng: int) -> tuple[float, None]:
        """Compute the loss of a batch and add its gradient to `into`.

        Parameters
        ----------
        batch : Ragged
            Some sequences.
        state : None
            Not used: each sequence starts from zeros.
        into : (P,) ndarray
            Where the gradient is added, laid out like ``storage.flat``.
        rng : int
            Key of the dropout masks.

        Returns
        -------
        loss : float
            Mean negative log-likelihood per step.
        state : None
            No state is carried to the next batch.
        """
        x = _before(batch.x)
        x, _ = self._input_dropout.vjp(x, rng=random_key(rng, 2), out=x)
        (y, _), rnn_backward = self.rnn.vjp(x, lengths=batch.lengths, rng=rng)
        y, dropout_backward = self._dropout.vjp(y, rng=random_key(rng, 1), out=y)
        logits, linear_backward = self.linear.vjp(y)
        loss, loss_backward = binary_cross_entropy.vjp(logits, batch.x, lengths=batch.lengths)
        dy = linear_backward(loss_backward(), into=into).x
        dy = dropout_backward(dy, out=dy).x
        rnn_backward(dy, need_x=False, into=into)
        rnn_backward.release()
        return loss, None

    def evaluate(self, batches: Sequences) -> dict[str, float]:
        """Compute the loss over some batches.

        Parameters
        ----------
        batches : Sequences
            Sequences of 0 and 1, in the dtype of the network.

        Returns
        -------
        dict
            "loss", the mean negative log-likelihood per step.
        """
        total = 0.0
        for batch in batches:
            y, _ = self.rnn(_before(batch.x), lengths=batch.lengths)
            total += binary_cross_entropy(self.linear(y), batch.x, lengths=batch.lengths) * batches.steps_of(batch)
        return {"loss": total / batches.steps}

    def score(self, X: Sequence) -> float:
        """Compute the log-likelihood per step, over all steps of all sequences.

        Parameters
        ----------
        X : list of N arrays (T, n)
            Sequences of 0 and 1.

        Returns
        -------
        float
            Log-likelihood in nats, at most 0; higher is better.
        """
        self._check_fitted()
        return -self.evaluate(Sequences(self._checked(X, self.rnn.input_size), 64))["loss"]

    def predict(self, X: Sequence) -> list[np.ndarray]:
        """Predict the probability of each event at each step, given the steps before it.

        Parameters
        ----------
        X : list of N arrays (T, n)
            Sequences of 0 and 1.

        Returns
        -------
        list of N arrays (T, n)
            Probabilities.
        """
        self._check_fitted()
        X = self._checked(X, self.rnn.input_size)
        found = [None] * len(X)
        for batch in Sequences(X, 64):
            logits = self.linear(self.rnn(_before(batch.x), lengths=batch.lengths)[0])
            for b, row in enumerate(batch.rows):
                found[row] = _sigmoid(logits[: batch.lengths[b], b])
        return found

    def generate(self, length: int, prime=None, seed: int | None = None) -> np.ndarray:
        """Draw a sequence step by step.

        Parameters
        ----------
        length : int
            Number of steps to draw.
        prime : (T, n) array_like, optional
            The steps before; by default the sequence starts from nothing.
        seed : int, optional
            Seed of the draws.

        Returns
        -------
        (length, n) ndarray
            Steps of 0 and 1 that continue `prime`, which is not repeated.

        Raises
        ------
        RuntimeError
            If the probabilities are NaN.
        """
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
                    f"the probabilities of step {t} are NaN: the parameters have diverged; train again with a lower lr"
                )
            found[t] = rng.random(n) < p
            h = stream.step(found[t : t + 1])
        return found

    def _fitted_config(self):
        return {"events": self.rnn.input_size}

    def _rebuild(self, config, arrays):
        self._build(config["events"], 0)


def _before(x):
    """The inputs from which the steps x are predicted: the step before each, and zeros for the first."""
    T, B, n = x.shape
    shifted = _engine.zeros(x.shape, x.dtype)
    _engine.copy_rows(x[:-1].reshape((T - 1) * B, n), shifted[1:].reshape((T - 1) * B, n))
    return shifted


def _sigmoid(z):
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1, e) / (1 + e)

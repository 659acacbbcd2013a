"""The base of classifier and regressor: a recurrent stack over feature vectors, pooling, and a linear layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from fastrnn import _check, _engine
from fastrnn._check import data as check_data
from fastrnn._check import stacked as check_stacked
from fastrnn._core.recording import recordable
from fastrnn.batches import Generated
from fastrnn.layers.feedforward import Dropout, Linear, random_key
from fastrnn.layers.network import Network
from fastrnn.models.labelled import Batch, Labelled, usable_weights
from fastrnn.models.model import CELLS, Examples, Model, Recurrent, init_forget_bias, recurrent
from fastrnn.models.scaling import Scaler, Unscaled, check_range, from_arrays, to_arrays
from fastrnn.models.streaming import FeatureStream
from fastrnn.parameters import Storage

# A pooling takes the network, its outputs y (T, B, D*H), its final state and the lengths (B,). It returns the pooled
# vectors (B, D*H) and a backward, which turns their gradient into arguments of the network's backward.


def last(net, y, state, lengths):
    """The final states of the top layer, side by side; the reverse direction's is the one at the first step."""
    layers = getattr(net, "layers", None)  # of a Stacked, whose state is a tuple of its members'
    top, state = (net, state) if layers is None else (layers[-1], state[-1])
    h, D = state[0] if top.cell.has_c else state, top.num_directions
    B, H = h.shape[1:]

    def backward(dpooled):
        dh = _engine.zeros(h.shape, h.dtype)
        for d in range(D):
            _engine.copy_rows(dpooled[:, d * H : (d + 1) * H], dh[d - D])
        dstate = (dh, _engine.zeros(h.shape, h.dtype)) if top.cell.has_c else dh
        return {"dstate_n": dstate if layers is None else (None,) * (len(layers) - 1) + (dstate,)}

    pooled = _engine.empty((B, D * H), h.dtype)
    for d in range(D):
        _engine.copy_rows(h[d - D], pooled[:, d * H : (d + 1) * H])
    return pooled, backward


def mean(net, y, state, lengths):
    """The mean of the outputs over the sequence's own steps."""
    T, B, n = y.shape
    pooled = _engine.zeros((B, n), y.dtype)
    _engine.column_sum(y.reshape(T, B * n), pooled.reshape(B * n))
    _engine.divide_rows(pooled, lengths, pooled)

    def backward(dpooled):
        dstep, dy = _engine.empty((B, n), y.dtype), _engine.empty((T, B, n), y.dtype)
        _engine.divide_rows(dpooled, lengths, dstep)
        _engine.copy_rows(np.broadcast_to(dstep.reshape(B * n), (T, B * n)), dy.reshape(T, B * n))
        return {"dy": dy}

    return pooled, backward


def greatest(net, y, state, lengths):
    """The maximum of each unit's output over the sequence's own steps."""
    where, pooled = _engine.empty((1, *y.shape[1:]), np.int64), _engine.empty(y.shape[1:], y.dtype)

    def backward(dpooled):
        dy = _engine.zeros(y.shape, y.dtype)
        _engine.call(np.put_along_axis, dy, where, dpooled[None], 0)
        return {"dy": dy}

    _engine.call(_take_greatest, y, lengths, where, pooled)
    return pooled, backward


def _take_greatest(y, lengths, where, pooled):
    valid = np.where((np.arange(len(y))[:, None] < lengths)[..., None], y, -np.inf)
    where[:] = valid.argmax(0)
    pooled[:] = np.take_along_axis(y, where, 0)[0]


def each(net, y, state, lengths):
    """The outputs of every step, not pooled."""
    return y, lambda dy: {"dy": dy}


POOLINGS = {"last": last, "mean": mean, "max": greatest}


class Pooled(Model):
    """Base of SequenceClassifier and SequenceRegressor, which define ``_loss(output, batch) -> loss, backward``, and
    ``_finish()``, which returns a function of the output: what users get."""

    features_: list[str] | None = None
    rnn: Recurrent
    linear: Linear
    LAYERS = ("rnn", "linear")
    ARGUMENTS = ("cell", "hidden_size", "num_layers", "bidirectional", "pooling", "dropout", "standardize")

    def __init__(
        self,
        cell: Literal["lstm", "gru", "rnn"] = "lstm",
        hidden_size: int | Sequence[int] = 64,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        pooling: Literal["last", "mean", "max"] = "last",
        dropout: float = 0.0,
        standardize: bool = True,
        dtype: str = "float32",
        seed: int | None = None,
    ):
        self.cell = _check.choice("cell", cell, tuple(CELLS))
        self.num_layers = _check.size("num_layers", num_layers)
        self.hidden_size = check_stacked.layer_sizes(hidden_size, self.num_layers)
        self.bidirectional, self.standardize = bool(bidirectional), bool(standardize)
        self.pooling = _check.choice("pooling", pooling, tuple(POOLINGS))
        self.dropout = _check.probability("dropout", dropout)
        self.dtype = _check.dtype(dtype)
        self.seed = _check.seed(seed)
        self.history = []

    @property
    def _pool(self):
        return POOLINGS[self.pooling]

    def _scaler_of(self, X, **options):
        return Scaler.of(X, **options) if self.standardize else Unscaled()

    def _sequences(self, X):
        """Checked sequences for a fitted model."""
        return check_data.sequences(X, self.rnn.input_size, self.features_)

    def _build(self, input_size, outputs, scaler, seed, features=None):
        """Make the layers in one storage, with initial values drawn from `seed`."""
        self._scaler, self.features_ = scaler, features
        self.storage = Storage(self.dtype, self._budget)
        make = dict(dtype=self.dtype, storage=self.storage)
        self.rnn = recurrent(
            self.cell, input_size, self.hidden_size, self.num_layers,
            dropout=self.dropout, bidirectional=self.bidirectional, seed=random_key(seed, 3), **make,
        )  # fmt: skip
        self.linear = Linear(self.rnn.output_size, outputs, seed=random_key(seed, 4), **make)
        self._dropout = Dropout(self.dropout)
        init_forget_bias(self.rnn, random_key(seed, 3))

    @recordable
    def loss_and_gradient(self, batch: Batch, state=None, *, into: np.ndarray, rng: int) -> tuple[float, None]:
        """Compute the loss of a batch and add its gradient to `into`.

        Parameters
        ----------
        batch : Batch
            Sequences with their targets and weights.
        state : None
            Not used: each sequence starts from zeros.
        into : (P,) ndarray
            Where the gradient is added, laid out like ``storage.flat``.
        rng : int
            Key of the dropout masks.

        Returns
        -------
        loss : float
            Weighted mean loss of the batch.
        state : None
            No state is carried to the next batch.
        """
        ragged = batch.sequences
        (y, state), rnn_backward = self.rnn.vjp(ragged.x, lengths=ragged.lengths, rng=rng)
        pooled, pool_backward = self._pool(self.rnn, y, state, ragged.lengths)
        pooled, dropout_backward = self._dropout.vjp(pooled, rng=random_key(rng, 1), out=pooled)
        output, linear_backward = self.linear.vjp(pooled)
        loss, loss_backward = self._loss(output, batch)
        dpooled = linear_backward(loss_backward(), into=into).x
        dpooled = dropout_backward(dpooled, out=dpooled).x
        rnn_backward(**pool_backward(dpooled), need_x=False, into=into)
        rnn_backward.release()
        return loss, None

    def _outputs(self, ragged):
        """The linear layer's outputs for some sequences: (B, outputs), or (T, B, outputs) if not pooled."""
        y, state = self.rnn(ragged.x, lengths=ragged.lengths)
        return self.linear(self._pool(self.rnn, y, state, ragged.lengths)[0])

    def stream(self, batch_size: int = 1) -> FeatureStream:
        """Compute outputs step by step, for sequences that arrive piece by piece.

        Parameters
        ----------
        batch_size : int, default=1
            Number of sequences, which are computed in parallel.

        Returns
        -------
        FeatureStream
            The stream, before the first step. ``step(x_t)`` takes (batch_size, features) and returns the outputs for
            the sequences so far; ``run(x)`` takes several steps; ``reset(rows=None)`` begins new sequences.

        Raises
        ------
        ValueError
            If the model is bidirectional, or its `pooling` needs all steps.
        """
        self._check_fitted()
        if self._pool not in (last, each):
            raise ValueError(f"pooling={self.pooling!r} needs all steps of a sequence: a stream needs pooling='last'")
        network = Network({"rnn": self.rnn, "linear": self.linear})
        return FeatureStream(network, batch_size, self._finish(), self._scaler, self.features_)

    def _outputs_of(self, X, batch_size) -> Iterator[tuple]:
        """The sequences and the outputs of each batch of checked sequences."""
        for batch in Labelled(X, None, None, self._scaler, batch_size, None, None, dtype=self.dtype):
            yield batch.sequences, self._outputs(batch.sequences)

    def _read_sequences(self, X, like: Examples | None):
        """Checked sequences and the names of their features; both must fit the training data `like`."""
        if like is None:
            return check_data.sequences(X), check_data.columns(X)
        features = like.common["features"]
        return check_data.sequences(X, like.columns[0][0].shape[1], features), features

    def _batches(self, X, targets, weights, held, batch_size, max_steps, seed, scaler):
        """The training batches and the held-out ones; `held` is a pair (X, targets) or None."""
        weights = usable_weights(weights)
        if not self.standardize:
            check_range("sequence", X, scaler, self.dtype)
        if held is not None:
            check_range("held-out sequence", held[0], scaler, self.dtype)
            held = Labelled(*held, None, scaler, batch_size, max_steps, None, dtype=self.dtype)
        return Labelled(X, targets, weights, scaler, batch_size, max_steps, random_key(seed, 1), dtype=self.dtype), held

    def _generated(self, make, updates, width, features, scaler, targets_of):
        """The batches of a generator of pairs (X, y); `targets_of(X, y)` checks y."""

        def batch_of(given, share):
            X, y = given
            X = check_data.sequences(X, width, features)
            targets, X = targets_of(X, y)[share], X[share]
            return Labelled(X, targets, np.ones(len(X)), scaler, len(X), None, None, dtype=self.dtype)[0] if X else None

        return Generated(make, updates, batch_of, Labelled.steps_of, lambda batch: float(batch.weights.sum()))

    def _fitted_arrays(self):
        return to_arrays("scaler", self._scaler)

    def _fitted_config(self):
        return {"input_size": self.rnn.input_size} | ({} if self.features_ is None else {"features": self.features_})

    def _rebuild(self, config, arrays):
        size, features = config["input_size"], config.get("features")
        names_fit("features", features, size)
        scaler = from_arrays("scaler", arrays, size, self.standardize)
        self._build(size, self._outputs_in(config), scaler, 0, features)


def names_fit(key: str, names: list[str] | None, count: int) -> None:
    """Raise a ValueError unless there are as many names as columns, or none."""
    if names is not None and len(names) != count:
        raise ValueError(f"{key} has {len(names)} names, but there are {count} columns")

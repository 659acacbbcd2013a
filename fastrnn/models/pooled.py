"""A recurrent stack over sequences of feature vectors, pooled to one vector each, and a linear layer: classifier and regressor."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from fastrnn import _check
from fastrnn._check import data as check_data
from fastrnn._check import stacked as check_stacked
from fastrnn.batches import Generated, Sequences
from fastrnn.layers.feedforward import Dropout, Linear, random_key
from fastrnn.models.model import CELLS, Model, held_out_rows, recurrent, remember_at_first
from fastrnn.models.scaling import Scaler, Unscaled, cast, check_range, from_arrays, to_arrays
from fastrnn.parameters import Storage


def last(net, y, state, lengths):
    """The final states of the top layer, side by side; for the reverse direction that is the one at the first step."""
    layers = getattr(net, "layers", None)  # of a Stacked, whose state is a tuple of its members'
    top, state = (net, state) if layers is None else (layers[-1], state[-1])
    h, D = state[0] if top.cell.has_c else state, top.num_directions
    B, H = h.shape[1:]

    def backward(dpooled):
        dh = np.zeros_like(h)
        dh[-D:] = dpooled.reshape(B, D, H).transpose(1, 0, 2)
        dstate = (dh, np.zeros_like(h)) if top.cell.has_c else dh
        return {"dstate_n": dstate if layers is None else (None,) * (len(layers) - 1) + (dstate,)}

    return np.ascontiguousarray(h[-D:].transpose(1, 0, 2)).reshape(B, D * H), backward


def mean(net, y, state, lengths):
    """The mean of the outputs over the sequence's own steps."""
    share = (1 / lengths).astype(y.dtype)[:, None]

    def backward(dpooled):
        return {"dy": np.broadcast_to(dpooled * share, y.shape)}

    return y.sum(0) * share, backward


def greatest(net, y, state, lengths):
    """The greatest output of each unit over the sequence's own steps."""
    valid = np.where((np.arange(len(y))[:, None] < lengths)[..., None], y, -np.inf)
    where = valid.argmax(0)[None]

    def backward(dpooled):
        dy = np.zeros_like(y)
        np.put_along_axis(dy, where, dpooled[None], 0)
        return {"dy": dy}

    return np.take_along_axis(y, where, 0)[0], backward


def each(net, y, state, lengths):
    """Not pooled: the outputs of every step."""
    return y, lambda dy: {"dy": dy}


POOLINGS = {"last": last, "mean": mean, "max": greatest}


class Pooled(Model):
    """Base: a subclass has `_loss(output, batch) -> loss, backward` and gives `_build` the number of outputs."""

    features_ = None  # names of the features, if they were fitted in data frames
    LAYERS = ("rnn", "linear")
    ARGUMENTS = ("cell", "hidden_size", "num_layers", "bidirectional", "pooling", "dropout", "standardize")

    def __init__(
        self,
        cell: str = "lstm",
        hidden_size: int | Sequence[int] = 64,
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
        """Make the layers, with first values drawn from `seed`, in one storage."""
        self._scaler, self.features_ = scaler, features
        self.storage = Storage(self.dtype, self._budget)
        make = dict(dtype=self.dtype, storage=self.storage)
        self.rnn = recurrent(
            self.cell, input_size, self.hidden_size, self.num_layers,
            dropout=self.dropout, bidirectional=self.bidirectional, seed=random_key(seed, 3), **make,
        )  # fmt: skip
        self.linear = Linear(self.rnn.output_size, outputs, seed=random_key(seed, 4), **make)
        self._dropout = Dropout(self.dropout) if self.dropout else None
        remember_at_first(self.rnn, random_key(seed, 3))

    def loss_and_gradient(self, batch, state=None, *, into, rng: int):
        """Mean loss of a batch of sequences, and None; the gradient is added to `into`, laid out as ``storage.flat``."""
        ragged = batch.sequences
        (y, state), rnn_backward = self.rnn.vjp(ragged.x, lengths=ragged.lengths, rng=rng)
        pooled, pool_backward = self._pool(self.rnn, y, state, ragged.lengths)
        if self._dropout is not None:
            pooled, dropout_backward = self._dropout.vjp(pooled, rng=random_key(rng, 1))
        output, linear_backward = self.linear.vjp(pooled)
        loss, loss_backward = self._loss(output, batch)
        dpooled = linear_backward(loss_backward(), into=into).x
        if self._dropout is not None:
            dpooled = dropout_backward(dpooled).x
        rnn_backward(**pool_backward(dpooled), need_x=False, into=into)
        rnn_backward.release()
        return loss, None

    def _outputs(self, ragged):
        """What the linear layer gives for some sequences: (B, outputs), or (T, B, outputs) if not pooled."""
        y, state = self.rnn(ragged.x, lengths=ragged.lengths)
        return self.linear(self._pool(self.rnn, y, state, ragged.lengths)[0])

    def _outputs_of(self, X, batch_size):
        """(rows, outputs) of checked sequences, batch by batch."""
        for batch in Labelled(X, None, None, self._scaler, batch_size, None, None, dtype=self.dtype):
            yield batch.sequences, self._outputs(batch.sequences)

    @staticmethod
    def _split(X, y, weights, validation, seed):
        """X, y and weights of training, and the held-out (X, y) or None, before anything is learnt from them."""
        out, kept = held_out_rows(len(X), validation, random_key(seed, 2))
        if not len(out):
            return X, y, weights, None
        return _some(X, kept), _some(y, kept), weights[kept], (_some(X, out), _some(y, out))

    def _batches(self, X, targets, weights, held, batch_size, max_steps, seed, scaler):
        """Training and held-out batches; `held` is a pair (X, targets) or None."""
        weights = _usable(weights)
        if not self.standardize:
            check_range("sequence", X, scaler, self.dtype)
        if held is not None:
            check_range("held-out sequence", held[0], scaler, self.dtype)
            held = Labelled(*held, None, scaler, batch_size, max_steps, None, dtype=self.dtype)
        return Labelled(X, targets, weights, scaler, batch_size, max_steps, random_key(seed, 1), dtype=self.dtype), held

    def _generated(self, make, updates, width, features, scaler, targets_of):
        """Batches of a generator of pairs (X, y); `targets_of(X, y)` checks y."""

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


def names_fit(key, names, count):
    """As many names as there are columns, or None."""
    if names is not None and len(names) != count:
        raise ValueError(f"{key} has {len(names)} names, but there are {count} columns")


def _usable(weights):
    """Weights (N,), brought by a power of two to numbers that float32 has if they are very large or small: only their ratios count."""
    largest = weights.max()
    if not np.isfinite(largest):
        raise ValueError(
            "sample_weight times class_weight is too large for float64: only their ratios count, so give smaller ones"
        )
    if not largest > 0:
        raise ValueError(
            f"all {len(weights)} sequences have weight 0: nothing can be learnt; give sample_weight or class_weight above 0"
        )
    return weights if 2.0**-60 < largest < 2.0**60 else np.ldexp(weights, -int(np.frexp(largest)[1]))


def _some(targets, rows):
    return [targets[i] for i in rows] if isinstance(targets, list) else targets[rows]


class Batch:
    """sequences : Ragged; targets : (B, …), or (T, B, …) with one for each step; weights : (B,) or None"""

    def __init__(self, sequences, targets, weights):
        self.sequences, self.targets, self.weights = sequences, targets, weights


class Labelled(Sequences):
    """Batches of sequences, scaled as they are put together, with their targets and weights.

    targets : (N, …) array, or N arrays (T_i, …) with one for each step; None if there are none
    weights : (N,), or None
    dtype : of the engine
    """

    def __init__(self, X, targets, weights, scaler, batch_size, max_steps, seed, *, dtype):
        super().__init__(X, batch_size, max_steps=max_steps, seed=seed)
        self._targets, self._weights, self._scaler, self._dtype = targets, weights, scaler, dtype

    def _batch(self, rows):
        ragged = self._ragged(rows)
        with np.errstate(over="ignore"):  # `cast` names what is too large
            ragged.x = cast(self._scaler(ragged.x), self._dtype, lambda place: f"sequence {rows[place[1]]}")
        targets = self._targets
        if isinstance(targets, list):
            targets = np.zeros((len(ragged.x), len(rows), *self._targets[0].shape[1:]), self._targets[0].dtype)
            for b, row in enumerate(rows):
                targets[: ragged.lengths[b], b] = self._targets[row]
        elif targets is not None:
            targets = targets[rows]
        return Batch(ragged, targets, None if self._weights is None else self._weights[rows])

    @staticmethod
    def steps_of(batch):
        return int(batch.sequences.lengths.sum())

    def weight_of(self, batch):
        """The weights of its sequences; where each step has a target, those of its steps."""
        each = batch.sequences.lengths if isinstance(self._targets, list) else 1
        return float((batch.weights * each).sum())

    def digest(self, *others):
        """What a checkpoint knows the data by, and other arrays."""
        found = hashlib.sha256(self._weights.tobytes())
        for array in (*self._x, *self._targets, *others):
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()[:12]

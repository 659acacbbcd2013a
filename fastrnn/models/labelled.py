"""Sequences with targets and weights as batches, scaled."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from fastrnn import _engine
from fastrnn.batches import Ragged, Sequences
from fastrnn.models.scaling import cast

_SCALED_ONCE = 1 << 24  # values; larger training data are scaled batch by batch, to save memory


@dataclasses.dataclass
class Batch:
    """Some sequences with their targets and weights."""

    sequences: Ragged
    targets: np.ndarray | None  # (B, …), or (T, B, …) with one for each step
    weights: np.ndarray | None  # (B,)


class Labelled(Sequences):
    """Batches of sequences with their targets and weights. Those of a training are scaled once, unless they are large.

    Parameters
    ----------
    X : list of N arrays (T, features)
        The sequences, not yet scaled.
    targets : (N, ...) ndarray, or list of N arrays (T, ...), or None
        A target for each sequence, or for each of its steps.
    weights : (N,) ndarray or None
        Weights of the sequences in the loss.
    scaler : Scaler or Unscaled
        Applied to each batch, in float64.
    batch_size, max_steps, seed
        As in Sequences.
    dtype : dtype
        What the network computes in.
    """

    def __init__(self, X, targets, weights, scaler, batch_size, max_steps, seed, *, dtype):
        super().__init__(X, batch_size, max_steps=max_steps, seed=seed)
        self._targets, self._weights, self._scaler, self._dtype = targets, weights, scaler, dtype
        self._scaled = None  # all steps of all sequences, where many epochs read them
        if seed is not None and self.steps * X[0].shape[1] <= _SCALED_ONCE:
            self._first = np.cumsum(self._lengths) - self._lengths
            scaled = [self._cast(x, lambda place, n=n: f"sequence {n}") for n, x in enumerate(X)]
            self._scaled = np.ascontiguousarray(np.concatenate(scaled))  # in this order even of data frames

    def _cast(self, x, name):
        with np.errstate(over="ignore"):  # `cast` names the value that is too large
            return cast(self._scaler(x), self._dtype, name)

    def _padded(self, rows):
        """Scaled sequences as a `Ragged`."""
        if self._scaled is None:
            ragged = self._ragged(rows)
            ragged.x = self._cast(ragged.x, lambda place: f"sequence {rows[place[1]]}")
            return ragged
        return Ragged(rows, *_engine.sequences(self._scaled, self._first, self._lengths, rows))

    def _batch(self, rows):
        ragged = self._padded(rows)
        targets = self._targets
        if isinstance(targets, list):
            targets = np.zeros((len(ragged.x), len(rows), *self._targets[0].shape[1:]), self._targets[0].dtype)
            for b, row in enumerate(rows):
                targets[: ragged.lengths[b], b] = self._targets[row]
        elif targets is not None:
            targets = targets[rows]
        return Batch(ragged, targets, None if self._weights is None else self._weights[rows])

    @staticmethod
    def steps_of(batch: Batch) -> int:
        """Valid steps of a batch."""
        return int(batch.sequences.lengths.sum())

    def weight_of(self, batch: Batch) -> float:
        """The sum of the weights of a batch's sequences, or of their steps if each step has a target."""
        each = batch.sequences.lengths if isinstance(self._targets, list) else 1
        return float((batch.weights * each).sum())

    def digest(self, *others: np.ndarray) -> str:
        """A hash of the data, and of other arrays, by which a checkpoint identifies them."""
        found = hashlib.sha256(self._weights.tobytes())
        for array in (*self._x, *self._targets, *others):
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()[:12]


def usable_weights(weights: np.ndarray) -> np.ndarray:
    """Weights that float32 can hold: very large or small ones are scaled by a power of two. Only ratios matter.

    Raises
    ------
    ValueError
        If a weight is infinite, or all are 0.
    """
    largest = weights.max()
    if not np.isfinite(largest):
        raise ValueError(
            "sample_weight times class_weight is too large for float64: only their ratios count, so give smaller ones"
        )
    if not largest > 0:
        raise ValueError(
            f"all {len(weights)} sequences have weight 0: nothing can be learnt; give sample_weight or class_weight "
            "above 0"
        )
    return weights if 2.0**-60 < largest < 2.0**60 else np.ldexp(weights, -int(np.frexp(largest)[1]))

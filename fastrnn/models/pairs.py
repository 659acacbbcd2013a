"""Pairs as batches: a source, which is a sequence or a vector, and the target sequence to write about it."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np

from fastrnn import _engine
from fastrnn.batches import Ragged, Sequences


@dataclasses.dataclass
class Pair:
    """A batch of pairs, time-major."""

    rows: np.ndarray  # (B,) indices of the pairs
    source: Ragged | np.ndarray  # (B, D) if the sources are vectors
    inputs: np.ndarray  # (T, B) ids that begin with <s>
    targets: np.ndarray  # (T, B) ids that end with </s>; -1 after it and for unknown symbols
    lengths: np.ndarray  # (B,) of the targets, 1..T
    sampling: float = 0.0  # probability that an input is drawn from the model's own prediction

    @property
    def valid(self) -> np.ndarray:
        """Indices of the target symbols in the flattened (T, B)."""
        return np.flatnonzero(self.targets.ravel() >= 0)


class Pairs(Sequences):
    """Batches of pairs with sources, and then targets, of similar length.

    Parameters
    ----------
    sources : list of N int arrays (S,), or (N, D) ndarray
        Ids of at least one symbol each, or vectors.
    targets : list of N int arrays (T,)
        Ids, without ``</s>``.
    vocabulary : Symbols
        The vocabulary of the targets.
    batch_size, max_steps, seed
        As in Sequences.
    sampling : callable
        The probability of scheduled sampling, a function of the epoch.
    """

    def __init__(
        self, sources, targets, vocabulary, batch_size, *, max_steps=None, seed=None, sampling=lambda epoch: 0.0
    ):
        self._sources, self._start, self._sampling = sources, vocabulary.start, sampling
        are_sequences = isinstance(sources, list)
        self._source_lengths = np.array([len(ids) for ids in sources]) if are_sequences else np.zeros(len(sources), int)
        self.targets = [np.append(ids, vocabulary.end) for ids in targets]
        self._joined_sources = _joined(sources) if are_sequences else None
        self._joined_targets = _joined(self.targets)
        super().__init__(self.targets, batch_size, max_steps=max_steps, seed=seed)

    def begin(self, epoch: int) -> None:
        """Draw the batches of an epoch."""
        self._epoch = epoch
        super().begin(epoch)

    def _cut(self, order):
        order = order[np.lexsort((-self._lengths[order], -self._source_lengths[order]))]
        longest, plan = np.maximum(self._lengths, self._source_lengths), []
        while len(order):
            size = min(self._batch_size, len(order))
            if self._max_steps is not None:
                padded = np.maximum.accumulate(longest[order[:size]]) * np.arange(1, size + 1)
                size = max(1, np.count_nonzero(padded <= self._max_steps))
            plan.append(order[:size])
            order = order[size:]
        return plan

    def _batch(self, rows):
        inputs, targets, lengths = _engine.forced(*self._joined_targets, rows, self._start)
        if self._joined_sources is None:
            source = self._sources[rows]
        else:
            source = Ragged(rows, *_engine.padded(*self._joined_sources, rows))
        return Pair(rows, source, inputs, targets, lengths, float(self._sampling(self._epoch)))

    def digest(self, config: dict) -> str:
        """A hash of the ids and of `config`, such as the vocabularies, by which a checkpoint identifies the data."""
        found = hashlib.sha256(json.dumps(config).encode())
        for array in (self._source_lengths, *self._sources, *self.targets):
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()[:12]


def _joined(sequences):
    """Sequences of ids one after the other, int64, and where each of them starts."""
    start = np.cumsum([0, *map(len, sequences)], dtype=np.int64)
    return np.concatenate([np.empty(0, np.int64), *sequences]), start

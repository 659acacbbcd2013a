"""The batches of training: one long sequence as parallel streams, or many sequences, those of similar length together.

The loop asks for `begin(epoch)`, then for each of the ``len(batches)`` batches by its number: what an epoch holds depends on the seed
and the epoch only, so a resumed run goes on with the same batches.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from fastrnn import _check
from fastrnn.layers import random_key

_POOL = 32  # batches among whose sequences those of similar length are put together


class Streams:
    """One long sequence of ids as parallel streams, cut into windows: the batches of truncated BPTT.

    The sequence is cut into `batch_size` pieces of equal length, one for each row. Window i holds the next `seq_len` steps of every
    row, so the state after window i is the state before window i + 1. The last window may be shorter; of the sequence only the last
    ``(len(ids) - 1) % batch_size`` symbols are left out.

    Examples
    --------
    >>> streams = Streams(np.arange(11), batch_size=2, seq_len=3)
    >>> len(streams), streams.steps
    (2, 10)
    >>> x, targets = streams[1]
    >>> x.T.tolist(), targets.T.tolist()
    ([[3, 4], [8, 9]], [[4, 5], [9, 10]])
    """

    def __init__(self, ids, batch_size: int, seq_len: int):
        B = _check.size("batch_size", batch_size)
        self.seq_len = _check.size("seq_len", seq_len)
        L = (len(ids) - 1) // B
        if L < self.seq_len:
            raise ValueError(f"{len(ids)} symbols are too few: batch_size={B} streams of seq_len={seq_len} need at least {B * seq_len + 1}")
        ids = np.asarray(ids)
        self._ids = np.empty((L + 1, B), np.min_scalar_type(int(ids.max())))
        self._ids[:L] = ids[: B * L].reshape(B, L).T
        self._ids[L] = ids[L : B * L + 1 : L]
        self.steps = L * B

    def begin(self, epoch: int) -> None:
        """Every epoch is the same."""

    def __len__(self):
        return -(-(len(self._ids) - 1) // self.seq_len)

    def __getitem__(self, i):
        """x and targets, both (T, B) int64."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        window = self._ids[i * self.seq_len : (i + 1) * self.seq_len + 1].astype(np.int64)
        return window[:-1], window[1:]

    @staticmethod
    def steps_of(batch) -> int:
        """Valid steps of a batch."""
        return batch[1].size


@dataclasses.dataclass
class Ragged:
    """A batch of sequences, time-major and padded with zeros; `rows` says which sequences they are."""

    rows: np.ndarray  # (B,)
    x: np.ndarray  # (T, B, I), or (T, B) ids
    lengths: np.ndarray  # (B,) 1..T


class Sequences:
    """Many sequences as batches in which lengths are similar.

    Parameters
    ----------
    x : N arrays (T_i, I), or (T_i,) of ids, all of one dtype and width, T_i >= 1
    batch_size : sequences of a batch, at most
    max_steps : steps of a batch with its padding, at most; optional. A sequence that alone is longer is a batch by itself.
    seed : int, optional: the order of each epoch is drawn from it; without it the sequences always come by length, longest first

    Examples
    --------
    >>> batches = Sequences([np.ones((t, 2)) for t in (1, 5, 2, 4)], batch_size=2)
    >>> [(b.rows.tolist(), b.lengths.tolist(), b.x.shape) for b in batches]
    [([1, 3], [5, 4], (5, 2, 2)), ([2, 0], [2, 1], (2, 2, 2))]
    """

    def __init__(self, x, batch_size: int, *, max_steps: int | None = None, seed: int | None = None):
        self._x, self._seed = x, seed
        self._batch_size = _check.size("batch_size", batch_size)
        self._max_steps = None if max_steps is None else _check.size("max_steps", max_steps)
        self._lengths = np.array([len(sequence) for sequence in x])
        self.steps = int(self._lengths.sum())
        self.begin(0)

    def begin(self, epoch: int) -> None:
        """Draw the batches of an epoch."""
        N = len(self._x)
        if self._seed is None:
            self._plan = self._cut(np.argsort(-self._lengths, kind="stable"))
            return
        rng = np.random.default_rng(random_key(self._seed, epoch))
        order, pool = rng.permutation(N), _POOL * self._batch_size
        plan = []
        for first in range(0, N, pool):
            some = order[first : first + pool]
            plan += self._cut(some[np.argsort(-self._lengths[some], kind="stable")])
        self._plan = [plan[i] for i in rng.permutation(len(plan))]

    def _cut(self, order):
        """Rows, longest first, as batches."""
        plan, first = [], 0
        while first < len(order):
            size = self._batch_size
            if self._max_steps is not None:
                size = max(1, min(size, self._max_steps // self._lengths[order[first]]))
            plan.append(order[first : first + size])
            first += size
        return plan

    def __len__(self):
        return len(self._plan)

    def __getitem__(self, i) -> Ragged:
        rows = self._plan[i]
        first, lengths = self._x[rows[0]], self._lengths[rows]
        x = np.zeros((lengths.max(), len(rows), *first.shape[1:]), first.dtype)
        for b, row in enumerate(rows):
            x[: lengths[b], b] = self._x[row]
        return Ragged(rows, x, lengths)

    @staticmethod
    def steps_of(batch) -> int:
        """Valid steps of a batch."""
        return int(batch.lengths.sum())

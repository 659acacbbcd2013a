"""Many sequences in batches of similar length, and batches from a generator."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import numpy as np

from fastrnn import _check
from fastrnn.layers.feedforward import random_key

_POOL = 32  # batches whose sequences are sorted by length together


@dataclasses.dataclass
class Ragged:
    """A batch of sequences of different lengths, time-major and padded with zeros.

    Parameters
    ----------
    rows : ndarray of int, shape (B,)
        Indices of the sequences.
    x : ndarray, shape (T, B, I), or (T, B) for ids
        The padded sequences.
    lengths : ndarray of int, shape (B,)
        The length of each sequence, 1 to T.
    """

    rows: np.ndarray
    x: np.ndarray
    lengths: np.ndarray


class Sequences:
    """Many sequences in batches of similar length.

    A subclass may define `_batch` to make something other than a `Ragged` of the rows of a batch.

    Parameters
    ----------
    x : sequence of N arrays, shape (T_i, I), or (T_i,) for ids
        The sequences, with the same I and ``T_i >= 1``.
    batch_size : int
        Maximum number of sequences of a batch.
    max_steps : int, optional
        Maximum number of steps of a batch, including padding. A longer sequence is a batch of its own. By default
        there is no limit.
    seed : int, optional
        Seed of the random order of the batches in each epoch. By default the sequences are ordered by length, the
        longest first.

    Attributes
    ----------
    steps : int
        Number of steps of an epoch, without padding.

    Examples
    --------
    >>> batches = Sequences([np.ones((t, 2)) for t in (1, 5, 2, 4)], batch_size=2)
    >>> [(b.rows.tolist(), b.lengths.tolist(), b.x.shape) for b in batches]
    [([1, 3], [5, 4], (5, 2, 2)), ([2, 0], [2, 1], (2, 2, 2))]
    """

    _share = slice(None)

    def __init__(self, x, batch_size: int, *, max_steps: int | None = None, seed: int | None = None):
        self._x, self._seed = x, seed
        self._batch_size = _check.size("batch_size", batch_size)
        self._max_steps = None if max_steps is None else _check.size("max_steps", max_steps)
        self._lengths = np.array([len(sequence) for sequence in x], np.int64)
        self._descending = -self._lengths if (self._lengths != self._lengths[:1]).any() else None  # None: all equal
        self._common = np.result_type(*{sequence.dtype for sequence in x}) if len(x) else None
        self.steps = int(self._lengths.sum())
        self.begin(0)

    def begin(self, epoch: int) -> None:
        """Draw the batches of an epoch.

        Parameters
        ----------
        epoch : int
            Index of the epoch.
        """
        N = len(self._x)
        if self._seed is None:
            self._cuts = self._cut(self._longest_first(np.arange(N)))
            return
        rng = np.random.default_rng(random_key(self._seed, epoch))
        order, pool = rng.permutation(N), _POOL * self._batch_size
        cuts = []
        for first in range(0, N, pool):
            cuts += self._cut(self._longest_first(order[first : first + pool]))
        self._cuts = [cuts[i] for i in rng.permutation(len(cuts)).tolist()]

    def _longest_first(self, rows):
        return rows if self._descending is None else rows[np.argsort(self._descending[rows], kind="stable")]

    def _cut(self, order):
        """Cut rows, ordered with the longest first, into batches."""
        cuts, first = [], 0
        while first < len(order):
            size = self._batch_size
            if self._max_steps is not None:
                size = max(1, min(size, self._max_steps // self._lengths[order[first]]))
            cuts.append(order[first : first + size])
            first += size
        return cuts

    def share(self, rank: int, ranks: int) -> Sequences:
        """Select every `ranks`-th row for one of several processes, so that all have about the same number of steps.

        Parameters
        ----------
        rank : int
            Index of the process.
        ranks : int
            Number of processes.

        Returns
        -------
        Sequences
            The same batches with these rows only.
        """
        mine = copy.copy(self)
        mine._share = slice(rank, None, ranks)
        return mine

    def __len__(self):
        return len(self._cuts)

    def __getitem__(self, i):
        rows = self._cuts[i][self._share]
        return self._batch(rows) if len(rows) else None

    def _batch(self, rows):
        """Make a batch of some sequences."""
        return self._ragged(rows)

    def _ragged(self, rows) -> Ragged:
        first, lengths = self._x[rows[0]], self._lengths[rows]
        x = np.zeros((lengths.max(), len(rows), *first.shape[1:]), self._common)
        for b, row in enumerate(rows):
            x[: lengths[b], b] = self._x[row]
        return Ragged(rows, x, lengths)

    @staticmethod
    def steps_of(batch) -> int:
        """Count the steps of a batch, without padding.

        Parameters
        ----------
        batch : Ragged
            A batch.

        Returns
        -------
        int
            The number of steps, over all rows.
        """
        return int(batch.lengths.sum())

    def weight_of(self, batch) -> float:
        """Return the weight of a batch's mean loss in a mean over batches.

        Parameters
        ----------
        batch : Ragged
            A batch.

        Returns
        -------
        float
            The number of steps, over all rows.
        """
        return self.steps_of(batch)


class Generated:
    """Batches from a generator, for data that are endless or too large to keep in memory.

    Parameters
    ----------
    make : callable
        ``make(epoch)`` returns an iterator over the first arguments of `batch_of`. It is called at the beginning of
        each epoch. For a resumed training to continue with the same batches, it must return the same ones for the
        same epoch.
    updates : int
        Number of batches of an epoch.
    batch_of : callable
        ``batch_of(given, share)`` makes a batch of the rows `share`, a slice, or returns None if there are none.
    steps_of : callable
        ``steps_of(batch)`` counts the steps of a batch, see `Sequences.steps_of`.
    weight_of : callable
        ``weight_of(batch)`` returns the weight of a batch, see `Sequences.weight_of`.

    Attributes
    ----------
    steps : int
        Number of steps of an epoch, estimated from the first batch.

    Examples
    --------
    >>> counts = Generated(lambda epoch: iter(range(10)), 3, lambda given, share: given, int, float)
    >>> [counts[i] for i in range(3)]
    [0, 1, 2]
    """

    _share = slice(None)

    def __init__(self, make: Callable, updates: int, batch_of: Callable, steps_of: Callable, weight_of: Callable):
        self._make, self._updates, self._batch_of = make, _check.size("updates", updates), batch_of
        self.steps_of, self.weight_of = steps_of, weight_of
        self.begin(0)
        self.steps = self._updates * steps_of(self[0])  # an estimate, from the first batch
        self.begin(0)

    def begin(self, epoch: int) -> None:
        """Call `make` for an epoch.

        Parameters
        ----------
        epoch : int
            Index of the epoch.
        """
        self._epoch, self._iterator, self._next = epoch, iter(self._make(epoch)), 0

    def share(self, rank: int, ranks: int) -> Generated:
        """Select the rows of one of several processes. Each process generates all batches.

        Parameters
        ----------
        rank : int
            Index of the process.
        ranks : int
            Number of processes.

        Returns
        -------
        Generated
            The same batches with every `ranks`-th row only.
        """
        mine = copy.copy(self)
        mine._share = slice(rank, None, ranks)
        mine.begin(self._epoch)
        return mine

    def __len__(self):
        return self._updates

    def __getitem__(self, i):
        if i < self._next:
            self.begin(self._epoch)
        for _ in range(i - self._next):
            next(self._iterator, None)
        try:
            given = next(self._iterator)
        except StopIteration:
            raise ValueError(
                f"the generator ended in epoch {self._epoch} before batch {i + 1}, but updates={self._updates}: "
                "lower updates, or let it give more"
            ) from None
        self._next = i + 1
        return self._batch_of(given, self._share)

"""The batches of training: one long sequence as parallel streams, or many sequences, those of similar length together.

The loop asks for `begin(epoch)`, then for each of the ``len(batches)`` batches by its number: what an epoch holds depends on the seed
and the epoch only, so a resumed run goes on with the same batches. ``share(rank, ranks)`` gives the part of each batch that one of
several processes computes; a batch that has nothing for it is None.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import NamedTuple

import numpy as np

from fastrnn import _check
from fastrnn.layers.feedforward import random_key

_CHUNK = 1 << 20  # ids that are counted at a time
_POOL = 32  # batches among whose sequences those of similar length are put together


class Window(NamedTuple):
    """Steps of every stream. The first `skip` are only run forward; a target of -1 was learnt in the window before."""

    x: np.ndarray  # (T, B)
    targets: np.ndarray  # (T - skip, B)
    skip: int  # steps before those that the gradient goes back through
    carry: int  # the next window begins with the state after this many steps


class Streams:
    """One long sequence of ids as parallel streams, cut into windows: the batches of truncated BPTT.

    The sequence is cut into `batch_size` pieces of equal length, one for each row. Each window has the next `seq_len` steps of every
    row. The last window may be shorter; of the sequence only the last ``(len(ids) - 1) % batch_size`` symbols are left out.

    Parameters
    ----------
    ids : 1-D ints; nothing is copied, so a memory-mapped array is read as training goes
    batch_size : rows
    seq_len : steps between two updates (k1 of Sutskever 2013)
    bptt : steps that the gradient goes back through (k2), by default `seq_len`. If more, a window begins that much earlier, and what
        was learnt before only passes the gradient on; if less, the first steps of a window are run without a gradient and not learnt.

    Examples
    --------
    >>> streams = Streams(np.arange(11), batch_size=2, seq_len=3)
    >>> len(streams), streams.steps
    (2, 10)
    >>> x, targets, *_ = streams[1]
    >>> x.T.tolist(), targets.T.tolist()
    ([[3, 4], [8, 9]], [[4, 5], [9, 10]])
    >>> [w.x[:, 0].tolist() for w in Streams(np.arange(11), 2, seq_len=2, bptt=3)]
    [[0, 1], [1, 2, 3], [3, 4]]
    """

    def __init__(self, ids, batch_size: int, seq_len: int, bptt: int | None = None):
        B = _check.size("batch_size", batch_size)
        self.seq_len = _check.size("seq_len", seq_len)
        self.bptt = self.seq_len if bptt is None else _check.size("bptt", bptt)
        L = (len(ids) - 1) // B
        if L < self.seq_len:
            raise ValueError(
                f"{len(ids)} symbols are too few: batch_size={B} streams of seq_len={seq_len} need at least {B * seq_len + 1}"
            )
        ids = np.asarray(ids)
        self._x, self._targets = ids[: B * L].reshape(B, L), ids[1 : B * L + 1].reshape(B, L)
        self.steps = L * B

    @property
    def rows(self) -> int:
        """Streams side by side."""
        return len(self._x)

    def begin(self, epoch: int) -> None:
        """Every epoch is the same."""

    def split(self, part: float) -> tuple[Streams, Streams]:
        """The first windows of every stream, and the last ones, which are that part of all.

        >>> first, last = Streams(np.arange(21), batch_size=2, seq_len=2).split(0.2)
        >>> [w.x.T.tolist() for w in last]
        [[[8, 9], [18, 19]]]
        """
        kept = int(len(self) * (1 - part)) * self.seq_len
        if not 0 < kept < self._x.shape[1]:
            raise ValueError(
                f"{len(self)} windows cannot be split so that {part} of them are held out, and neither part is empty"
            )
        first, last = copy.copy(self), copy.copy(self)
        for side, columns in ((first, slice(kept)), (last, slice(kept, None))):
            side._x, side._targets = self._x[:, columns], self._targets[:, columns]
            side.steps = side._x.size
        return first, last

    def order(self) -> np.ndarray:
        """The ids of all streams, one stream after another."""
        return np.concatenate([self._x, self._targets[:, -1:]], 1).ravel()

    def counts(self, num_ids: int) -> np.ndarray:
        """How often each id below `num_ids` occurs; negative ones are not counted."""
        found = np.zeros(num_ids, np.int64)
        for part in (self._x, self._targets[:, -1:]):
            for row in part:
                for first in range(0, len(row), _CHUNK):  # bincount converts its argument
                    some = row[first : first + _CHUNK]
                    found += np.bincount(some[some >= 0], minlength=num_ids)
        return found

    def whole_windows(self) -> Streams:
        """The same streams in windows that neither overlap nor skip steps, as for an evaluation."""
        found = copy.copy(self)
        found.bptt = self.seq_len
        return found

    def share(self, rank: int, ranks: int) -> Streams:
        """The rows of one of several processes."""
        rows = row_share(len(self._x), rank, ranks)
        mine = copy.copy(self)
        mine._x, mine._targets = self._x[rows], self._targets[rows]
        return mine

    def __len__(self):
        return -(-self._x.shape[1] // self.seq_len)

    def __getitem__(self, i) -> Window:
        if not 0 <= i < len(self):
            raise IndexError(i)
        k1, k2, L = self.seq_len, self.bptt, self._x.shape[1]
        new, end = i * k1, min((i + 1) * k1, L)
        start = max(0, min(new, (i + 1) * k1 - k2))
        carry = max(0, min(new + k1, (i + 2) * k1 - k2)) - start
        skip = max(0, end - new - k2)
        x = self._x[:, start:end].T.astype(np.int64, order="C")
        targets = self._targets[:, start + skip : end].T.astype(np.int64, order="C")
        targets[: new - start] = -1
        return Window(x, targets, skip, carry)

    @staticmethod
    def weight_of(batch) -> int:
        """How much a batch's mean loss counts in a mean over several: the steps that are learnt."""
        return int(np.count_nonzero(batch.targets >= 0))

    @classmethod
    def steps_of(cls, batch) -> int:
        """New steps of a batch."""
        return batch.skip * batch.x.shape[1] + cls.weight_of(batch)


def row_share(rows: int, rank: int, ranks: int) -> slice:
    """The rows of one of several processes, as equal in number as can be.

    >>> [row_share(5, rank, 2) for rank in range(2)]
    [slice(0, 2, None), slice(2, 5, None)]
    """
    if rows < ranks:
        raise ValueError(
            f"a batch of {rows} rows cannot be split between {ranks} processes: raise batch_size, or start fewer"
        )
    return slice(rows * rank // ranks, rows * (rank + 1) // ranks)


@dataclasses.dataclass
class Ragged:
    """A batch of sequences, time-major and padded with zeros; `rows` says which sequences they are."""

    rows: np.ndarray  # (B,)
    x: np.ndarray  # (T, B, I), or (T, B) ids
    lengths: np.ndarray  # (B,) 1..T


class Sequences:
    """Many sequences as batches in which lengths are similar. A subclass may make something else of the rows than a Ragged.

    Parameters
    ----------
    x : N arrays (T_i, I), or (T_i,) of ids, all of one width, T_i >= 1
    batch_size : sequences of a batch, at most
    max_steps : steps of a batch with its padding, at most; optional. A sequence that alone is longer is a batch by itself.
    seed : int, optional: the order of each epoch is drawn from it; without it the sequences always come by length, longest first

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
        self._lengths = np.array([len(sequence) for sequence in x])
        self._common = np.result_type(*{sequence.dtype for sequence in x}) if len(x) else None
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

    def share(self, rank: int, ranks: int):
        """The rows of one of several processes: every so many, so that all have about as many steps."""
        mine = copy.copy(self)
        mine._share = slice(rank, None, ranks)
        return mine

    def __len__(self):
        return len(self._plan)

    def __getitem__(self, i):
        rows = self._plan[i][self._share]
        return self._batch(rows) if len(rows) else None

    def _batch(self, rows):
        """What is trained on, of some sequences."""
        return self._ragged(rows)

    def _ragged(self, rows) -> Ragged:
        first, lengths = self._x[rows[0]], self._lengths[rows]
        x = np.zeros((lengths.max(), len(rows), *first.shape[1:]), self._common)
        for b, row in enumerate(rows):
            x[: lengths[b], b] = self._x[row]
        return Ragged(rows, x, lengths)

    @staticmethod
    def steps_of(batch) -> int:
        """Valid steps of a batch."""
        return int(batch.lengths.sum())

    def weight_of(self, batch) -> float:
        """How much a batch's mean loss counts in a mean over several."""
        return self.steps_of(batch)


class Generated:
    """Batches that a generator makes while training goes on, for data without an end or too large to keep.

    Parameters
    ----------
    make : ``make(epoch)`` gives an iterator over what `batch_of` takes; it is asked anew at each epoch. For a resumed training to go on
        with the same batches, it must give the same ones for the same epoch.
    updates : batches of an epoch
    batch_of : ``batch_of(given, share)`` makes a batch of the rows `share`, a slice, or None if there are none
    steps_of, weight_of : functions of a batch, as in Sequences

    Examples
    --------
    >>> counts = Generated(lambda epoch: iter(range(10)), 3, lambda given, share: given, int, float)
    >>> [counts[i] for i in range(3)]
    [0, 1, 2]
    """

    _share = slice(None)

    def __init__(self, make, updates: int, batch_of, steps_of, weight_of):
        self._make, self._updates, self._batch_of = make, _check.size("updates", updates), batch_of
        self.steps_of, self.weight_of = steps_of, weight_of
        self.begin(0)
        self.steps = self._updates * steps_of(self[0])  # an estimate, from the first batch
        self.begin(0)

    def begin(self, epoch: int) -> None:
        """Ask for the epoch's batches."""
        self._epoch, self._iterator, self._next = epoch, iter(self._make(epoch)), 0

    def share(self, rank: int, ranks: int) -> Generated:
        """The rows of one of several processes, each of which makes all batches."""
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
                f"the generator ended in epoch {self._epoch} before batch {i + 1}, but updates={self._updates}: lower updates, or let it give more"
            ) from None
        self._next = i + 1
        return self._batch_of(given, self._share)

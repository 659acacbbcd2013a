"""One long sequence as parallel streams, cut into windows for truncated BPTT."""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np

from fastrnn import _check

_CHUNK = 1 << 20  # ids counted at a time


class Window(NamedTuple):
    """Consecutive steps of every stream, for one update.

    Parameters
    ----------
    x : ndarray of int64, shape (T, B)
        The ids of the symbols.
    targets : ndarray of int64, shape (T - skip, B)
        The ids of the next symbols. -1: this step was a target in the previous window.
    skip : int
        The number of steps at the beginning that are run forward only.
    carry : int
        The next window begins with the state after this many steps.
    """

    x: np.ndarray
    targets: np.ndarray
    skip: int
    carry: int


class Streams:
    """One long sequence of ids as parallel streams, cut into windows for truncated BPTT.

    The sequence is cut into `batch_size` pieces of equal length, one for each row. Each window has the next `seq_len`
    steps of every row. The last window may be shorter, and the last ``(len(ids) - 1) % batch_size`` symbols of the
    sequence are not used.

    Parameters
    ----------
    ids : array_like of int, shape (N,)
        The sequence. It is not copied, so a memory-mapped array is read in the course of the training.
    batch_size : int
        Number of rows.
    seq_len : int
        Number of steps between two updates (k1 in Sutskever 2013).
    bptt : int, optional
        Number of steps that the gradient goes back through (k2), by default `seq_len`. If it is greater, each window
        begins earlier by the difference, and the steps that were targets before only pass the gradient on. If it is
        less, the first steps of each window are run without a gradient and are not targets.

    Attributes
    ----------
    steps : int
        Number of steps of an epoch, over all rows.

    Raises
    ------
    ValueError
        The sequence is too short for one window.

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
                f"{len(ids)} symbols are too few: "
                f"batch_size={B} streams of seq_len={seq_len} need at least {B * seq_len + 1}"
            )
        ids = np.asarray(ids)
        self._x, self._targets = ids[: B * L].reshape(B, L), ids[1 : B * L + 1].reshape(B, L)
        self.steps = L * B

    @property
    def rows(self) -> int:
        """The number of streams."""
        return len(self._x)

    def begin(self, epoch: int) -> None:
        """Do nothing, as every epoch is the same.

        Parameters
        ----------
        epoch : int
            Index of the epoch.
        """

    def split(self, part: float) -> tuple[Streams, Streams]:
        """Split off the last windows of every stream.

        Parameters
        ----------
        part : float
            The fraction of the windows to split off.

        Returns
        -------
        first : Streams
            The streams without their last windows.
        last : Streams
            The last windows.

        Raises
        ------
        ValueError
            One of the two would be empty.

        Examples
        --------
        >>> first, last = Streams(np.arange(21), batch_size=2, seq_len=2).split(0.2)
        >>> [w.x.T.tolist() for w in last]
        [[[8, 9], [18, 19]]]
        """
        kept = int(len(self) * (1 - part)) * self.seq_len
        if not 0 < kept < self._x.shape[1]:
            raise ValueError(
                f"{len(self)} windows cannot be split so that {part} of them are held out and neither part is empty"
            )
        first, last = copy.copy(self), copy.copy(self)
        for side, columns in ((first, slice(kept)), (last, slice(kept, None))):
            side._x, side._targets = self._x[:, columns], self._targets[:, columns]
            side.steps = side._x.size
        return first, last

    def order(self) -> np.ndarray:
        """Concatenate the streams.

        Returns
        -------
        ndarray, shape (N,)
            The ids of one stream after another.
        """
        return np.concatenate([self._x, self._targets[:, -1:]], 1).ravel()

    def counts(self, num_ids: int) -> np.ndarray:
        """Count how often each id occurs.

        Parameters
        ----------
        num_ids : int
            The ids are below this number. Negative ones are not counted.

        Returns
        -------
        ndarray of int64, shape (num_ids,)
            The number of occurrences of each id.
        """
        found = np.zeros(num_ids, np.int64)
        for part in (self._x, self._targets[:, -1:]):
            for row in part:
                for first in range(0, len(row), _CHUNK):  # bincount converts its argument
                    some = row[first : first + _CHUNK]
                    found += np.bincount(some[some >= 0], minlength=num_ids)
        return found

    def whole_windows(self) -> Streams:
        """Cut the same streams into windows that neither overlap nor skip steps, as for an evaluation.

        Returns
        -------
        Streams
            The streams with ``bptt = seq_len``.
        """
        found = copy.copy(self)
        found.bptt = self.seq_len
        return found

    def share(self, rank: int, ranks: int) -> Streams:
        """Select the rows of one of several processes.

        Parameters
        ----------
        rank : int
            Index of the process.
        ranks : int
            Number of processes.

        Returns
        -------
        Streams
            The same windows with these rows only.
        """
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
    def weight_of(batch: Window) -> int:
        """Count the targets of a batch, the weight of its mean loss in a mean over batches.

        Parameters
        ----------
        batch : Window
            A batch.

        Returns
        -------
        int
            The number of targets.
        """
        return int(np.count_nonzero(batch.targets >= 0))

    @classmethod
    def steps_of(cls, batch: Window) -> int:
        """Count the steps of a batch that the previous window did not have.

        Parameters
        ----------
        batch : Window
            A batch.

        Returns
        -------
        int
            The number of new steps, over all rows.
        """
        return batch.skip * batch.x.shape[1] + cls.weight_of(batch)


def row_share(rows: int, rank: int, ranks: int) -> slice:
    """Divide rows among processes as evenly as possible.

    Parameters
    ----------
    rows : int
        Number of rows.
    rank : int
        Index of the process.
    ranks : int
        Number of processes.

    Returns
    -------
    slice
        The rows of this process.

    Raises
    ------
    ValueError
        There are fewer rows than processes.

    Examples
    --------
    >>> [row_share(5, rank, 2) for rank in range(2)]
    [slice(0, 2, None), slice(2, 5, None)]
    """
    if rows < ranks:
        raise ValueError(
            f"a batch of {rows} rows cannot be split between {ranks} processes: raise batch_size, or start fewer"
        )
    return slice(rows * rank // ranks, rows * (rank + 1) // ranks)

"""Batches: where the steps of sequences of different lengths are in the arrays of the engine."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fastrnn import _engine
from fastrnn._check.arrays import contiguous


@lru_cache(maxsize=64)
def even_batch(T, B):
    """A Batch of rows of equal length, without resets."""
    return Batch(T, B)


@lru_cache(maxsize=64)
def even_row_ids(T, B, variational):
    """Keys of the rows of dropout masks, (T*B,) uint64: batch row << 32 | t, with t = 0 if `variational`."""
    rows = np.arange(B, dtype=np.uint64) << np.uint64(32)
    steps = np.zeros(T, np.uint64) if variational else np.arange(T, dtype=np.uint64)
    ids = (steps[:, None] | rows).ravel()
    ids.flags.writeable = False
    return ids


class Batch:
    """The layout of a batch: step t owns rows offset[t]:offset[t+1] of every step array.

    T, B : steps and rows of the caller's arrays
    total : valid steps of all rows
    order : (B,) the caller's row of each sorted row, or None if nothing was sorted
    lengths : (B,) longest first, or None if all are T
    where : (total,) the caller's t*B + b of each packed row, or None if they are the same
    """

    def __init__(self, T, B, lengths=None, resets=None):
        self.T, self.B, self._steps = T, B, [None, None]
        self.order = self.lengths = self.where = None
        recorded = _engine.recording() is not None
        self.ends = None  # offset, if the number of valid steps differs from run to run of a plan
        if lengths is None or (not recorded and (lengths == T).all()):
            self.total = T * B
            self.offset = np.arange(T + 1, dtype=np.intp) * B
        else:
            self.order, self.lengths = _engine.empty(B, np.int64), _engine.empty(B, np.int64)
            self.offset = _engine.empty(T + 1, np.intp)
            self.where, self._padding = _engine.empty(T * B, np.int64), _engine.empty(T * B, np.int64)
            _engine.ragged_places(lengths, self.order, self.lengths, self.offset, self.where, self._padding)
            self.total = T * B if recorded else int(self.offset[T])
            if recorded:
                self.ends = self.offset
            else:
                self.where, self._padding = self.where[: self.total], self._padding[: T * B - self.total]
        self._take(resets)

    def steps(self, reverse):
        """The engine's `Steps` of this batch, in one direction."""
        made = self._steps[reverse]
        if made is None:
            made = self._steps[reverse] = _engine.Steps(self.offset, self.B, self.lengths, self.resets, reverse)
        return made

    def _take(self, resets):
        self.resets = None
        if resets is not None and self.ends is not None:
            raise _engine.NotRecordable("resets")
        if resets is not None and resets.any():
            self.resets = self.packed(np.array(resets, order="C").reshape(self.T * self.B))

    def packed(self, rows):
        """The valid rows of the caller's (T*B, …), in packed order; not a copy if all are valid."""
        if self.where is None:
            return rows
        if rows.itemsize < 4:  # bool
            return self._not_recorded(rows[self.where])
        n = rows.shape[1] if rows.ndim == 2 else 1
        out = _engine.empty((self.total, n), rows.dtype)
        _engine.gather(rows.reshape(len(rows), n), self.where, out, self.ends)
        return out.reshape(self.total, *rows.shape[1:])

    def spread(self, rows):
        """Packed rows (total, n) in the caller's order, (T, B, n); zeros at all other steps."""
        if self.where is not None:
            out = _engine.empty((self.T * self.B, rows.shape[1]), rows.dtype)
            _engine.spread(rows, self.where, self._padding, out, self.ends)
            rows = out
        return rows.reshape(self.T, self.B, rows.shape[1])

    def outputs(self, y, net):
        """The rows of y (total, D*P) in the caller's order, (T, B, D*P); zeros at all other steps."""
        return self.spread(y)

    def packed_dy(self, rows, net):
        """The gradient of `outputs`: (total, D*P) from the caller's (T*B, D*P)."""
        return self.packed(rows)

    def sorted(self, rows):
        """(B, …) rows, sorted by length."""
        if self.order is None:
            return rows
        if rows.ndim != 2:
            return self._not_recorded(rows[self.order])
        out = _engine.empty(rows.shape, rows.dtype)
        _engine.gather(contiguous(rows), self.order, out)
        return out

    def unsorted(self, rows):
        """(B, …) sorted rows, or (n, B, …) with the rows on axis 1, in the caller's order."""
        if self.order is None:
            return rows
        out = _engine.empty(rows.shape, rows.dtype)
        if rows.ndim != 3:
            out[:, self.order] = rows
            return self._not_recorded(out)
        for part, sorted_part in zip(out, contiguous(rows)):
            _engine.spread(sorted_part, self.order, self.order[:0], part)
        return out

    def _not_recorded(self, array):
        """An array that NumPy has computed from the lengths, unless a plan would need it again in each run."""
        if self.ends is not None:
            raise _engine.NotRecordable("lengths together with this argument")
        return array

    @property
    def is_even(self):
        """Whether all rows have all steps, and none is reset."""
        return self.where is None and self.resets is None

    @property
    def row_lengths(self):
        """(B,) in the caller's order."""
        lengths = np.full(self.B, self.T)
        if self.lengths is not None:
            lengths[self.order] = self.lengths
        return lengths

    def row_ids(self, variational=False):
        """As `even_row_ids`, of the packed rows, (total,)."""
        if self.where is None:
            return even_row_ids(self.T, self.B, variational)
        out = _engine.empty(self.total, np.uint64)
        _engine.row_ids(self.where, self.B, variational, out)
        return out


class MaskedBatch(Batch):
    """A batch with masked steps. To the engine, each row consists of its remaining steps.

    At a masked step, y repeats the last output of the same direction.
    """

    def __init__(self, mask, lengths=None, resets=None):
        if _engine.recording() is not None:
            raise _engine.NotRecordable("masked steps")
        T, B = mask.shape
        within = np.ones((T, B), bool) if lengths is None else np.arange(T)[:, None] < lengths
        mask = mask & within
        super().__init__(T, B, mask.sum(axis=0))  # of the shortened rows; then `where` is that of their steps
        if self.where is not None:
            t, b = np.divmod(self.where, B)
            self.where = np.argsort(~mask, axis=0, kind="stable")[t, b] * B + b
            self._padding = np.flatnonzero(~mask)
        self._take(resets)
        self._within = within
        self._repeats = {}

    def _repeated(self, reverse):
        """(places, rows): the caller's t*B + b of each output in one direction, and the packed row that it repeats."""
        if reverse not in self._repeats:
            way = slice(None, None, -1 if reverse else 1)
            row = np.full(self.T * self.B, -1, np.int64)
            row[slice(None) if self.where is None else self.where] = np.arange(self.total)
            row = row.reshape(self.T, self.B)[way]
            last = np.maximum.accumulate(np.where(row < 0, -1, np.arange(self.T)[:, None]), axis=0)
            row = np.where(last < 0, -1, np.take_along_axis(row, np.maximum(last, 0), axis=0))[way].reshape(-1)
            places = np.flatnonzero((row >= 0) & self._within.reshape(-1))
            self._repeats[reverse] = places, row[places]
        return self._repeats[reverse]

    def outputs(self, y, net):
        out, P = np.zeros((self.T * self.B, y.shape[1]), y.dtype), net.output_size
        for d in range(net.num_directions):
            places, rows = self._repeated(net.runs_back(d))
            out[places, d * P : (d + 1) * P] = y[rows, d * P : (d + 1) * P]
        return out.reshape(self.T, self.B, -1)

    def packed_dy(self, rows, net):
        dy, P = np.zeros((self.total, rows.shape[1]), rows.dtype), net.output_size
        for d in range(net.num_directions):
            places, ids = self._repeated(net.runs_back(d))
            _engine.scatter_add(rows[places, d * P : (d + 1) * P], ids, dy[:, d * P : (d + 1) * P])
        return dy

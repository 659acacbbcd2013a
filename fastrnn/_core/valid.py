"""The steps of a batch whose targets are not ignored."""

from __future__ import annotations

import numpy as np

from fastrnn import _engine


class ValidSteps:
    """The steps with a target that is not negative, in order.

    targets : (N,) of these steps; longer in a plan, and then -1 at the end
    ends : in a plan, its last element is N, which differs from run to run; otherwise None
    """

    def __init__(self, targets):
        given = targets.reshape(-1)
        self._where, self._others, self.targets = (_engine.empty(given.size, np.int64) for _ in range(3))
        self.ends = _engine.empty(1, np.intp)
        _engine.valid_targets(given, self._where, self._others, self.targets, self.ends)
        if _engine.recording() is None:
            n, self.ends = int(self.ends[0]), None
            self._where, self._others, self.targets = self._where[:n], self._others[: len(given) - n], self.targets[:n]

    def rows_of(self, y):
        """The rows (N, n) of these steps, from y (T, B, n)."""
        rows = _engine.empty((len(self._where), y.shape[2]), y.dtype)
        _engine.gather(y.reshape(-1, y.shape[2]), self._where, rows, self.ends)
        return rows

    def spread(self, rows, shape):
        """The inverse of `rows_of`: zeros at all other steps."""
        y = _engine.empty(shape, rows.dtype)
        _engine.spread(rows, self._where, self._others, y.reshape(-1, shape[2]), self.ends)
        return y

"""Memory with two owners: Tape is kept for backward, Scratch is thrown away after a call. Both come from bounded pools."""

from __future__ import annotations

import math
import threading

from fastrnn._engine import aligned_empty

_KEPT = 4  # arrays a pool keeps for the next call


class Pool:
    """Arrays that were used and may be used again; safe to use from many threads."""

    def __init__(self):
        self._free = []
        self._lock = threading.Lock()

    def take(self, size, dtype):
        """A 1-D array of at least this size (and not much more), aligned, with any contents."""
        with self._lock:
            for i, array in enumerate(self._free):
                if array.dtype == dtype and size <= array.size <= 2 * size + 4096:
                    return self._free.pop(i)
        return aligned_empty(size, dtype)

    def give(self, array):
        """Take an array back; the oldest is let go when there are more than a few."""
        with self._lock:
            self._free.append(array)
            if len(self._free) > _KEPT:
                self._free.pop(0)


class Block:
    """One array from a pool, handed out as named parts in order.

    >>> import numpy as np
    >>> block = Block(Pool(), np.dtype("float32"), [("h", (2, 3)), ("c", (4,))])
    >>> block["h"].shape, block["c"].shape
    ((2, 3), (4,))
    """

    def __init__(self, pool, dtype, parts):
        lanes = 64 // dtype.itemsize
        offsets = {}
        size = 0
        for name, shape in parts:
            offsets[name] = (size, shape)
            size += -(-math.prod(shape) // lanes) * lanes
        self._pool = pool
        self._array = pool.take(size, dtype)
        self._offsets = offsets
        self.nbytes = size * dtype.itemsize

    def __getitem__(self, name):
        offset, shape = self._offsets[name]
        return self._array[offset : offset + math.prod(shape)].reshape(shape)

    def __contains__(self, name):
        return name in self._offsets

    def release(self):
        """Give the memory back to the pool; the parts must not be used any more."""
        array, self._array = self._array, None
        if array is not None:
            self._pool.give(array)


class Tape(Block):
    """What forward keeps so that backward can run; `l` is the layer, `d` the direction, rows the valid steps of all sequences.

    gates{l}{d} : (rows, X*Hp)                 activations; the vanilla RNN's are the next h_prev where no row ends or is cut
    h_prev{l}{d}, c_prev{l}{d} : (rows, Hp)    states before each step
    y{l} : (rows, D*H)                         output of the layers below the top one, after dropout, unless it is the next h_prev
    """


class Scratch(Block):
    """What nobody needs after the call."""

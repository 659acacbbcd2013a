"""Memory with two owners: Tape is kept for backward, Scratch is thrown away after a call. Both come from bounded pools."""

from __future__ import annotations

import math
import threading

from fastrnn import _engine

_KEPT = 4  # arrays a pool keeps for the next call


class Pool:
    """Arrays that were used and may be used again, with the views made of them; safe to use from many threads.

    Nobody waits for it: who finds it taken makes an array of his own, or lets his go. So the child of a fork, in which a thread that is
    not there any more may hold it, goes on.
    """

    def __init__(self):
        self._free = []
        self._lock = threading.Lock()

    def take(self, layout):
        """(array, {name: view}): an aligned 1-D array of at least the layout's size (and not much more), with any contents."""
        if self._lock.acquire(blocking=False):
            try:
                for i, (array, made_for, views) in enumerate(self._free):
                    if made_for is layout or (
                        array.dtype == layout.dtype and layout.size <= array.size <= 2 * layout.size + 4096
                    ):
                        del self._free[i]
                        return array, views if made_for is layout else {}
            finally:
                self._lock.release()
        return _engine.aligned_empty(layout.size, layout.dtype), {}

    def give(self, array, layout, views):
        """Take an array back; the oldest is let go when there are more than a few."""
        if self._lock.acquire(blocking=False):
            try:
                self._free.append((array, layout, views))
                if len(self._free) > _KEPT:
                    del self._free[0]
            finally:
                self._lock.release()


class Layout:
    """Where named parts lie in one array: made once for a shape, used by every call with it.

    >>> import numpy as np
    >>> layout = Layout(np.dtype("float32"), [("h", (2, 3)), ("c", (4,))])
    >>> block = Block(Pool(), layout)
    >>> block["h"].shape, block["c"].shape
    ((2, 3), (4,))
    """

    def __init__(self, dtype, parts):
        lanes = 64 // dtype.itemsize
        self.dtype, self.size, self.parts = dtype, 0, {}
        for name, shape in parts:
            self.parts[name] = (slice(self.size, self.size + math.prod(shape)), shape)
            self.size += -(-math.prod(shape) // lanes) * lanes


class Block:
    """One array from a pool, handed out as the named parts of a layout. It goes back when it is released, or when nobody has it any more."""

    def __init__(self, pool, layout):
        self._pool, self._layout = pool, layout
        self._array, self._views = pool.take(layout)

    @property
    def nbytes(self):
        return self._layout.size * self._layout.dtype.itemsize

    def __getitem__(self, name):
        if self._array is None:
            raise RuntimeError("this memory was released")
        view = self._views.get(name)
        if view is None:
            part, shape = self._layout.parts[name]
            view = self._views[name] = self._array[part].reshape(shape)
        return view

    def __contains__(self, name):
        return name in self._layout.parts

    @property
    def released(self):
        return self._array is None

    def release(self):
        """Give the memory back to the pool; the parts must not be used any more."""
        array, self._array = self._array, None
        if array is not None:
            self._pool.give(array, self._layout, self._views)

    def __del__(self):
        if getattr(self, "_array", None) is not None:
            self.release()


class OwnsTape:
    """Base of what `vjp` hands out: copies share the tape, which is in the memory of this process only."""

    def __copy__(self):
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def __reduce__(self):
        raise TypeError("the memory of a forward pass can be neither pickled nor deep-copied: call vjp again")


class Tape(Block):
    """What forward keeps so that backward can run; `l` is the layer, `d` the direction, rows the valid steps of all sequences.

    gates{l}{d} : (rows, X*Hp)                 activations; the vanilla RNN's are the next h_prev where no row ends or is cut
    h_prev{l}{d}, c_prev{l}{d} : (rows, Hp)    states before each step
    y{l} : (rows, D*H)                         output of the layers below the top one, after dropout, unless it is the next h_prev
    """


class Scratch(Block):
    """What nobody needs after the call."""

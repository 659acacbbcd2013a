"""Memory: a Tape is kept for the backward pass, a Scratch only during a call. Both come from bounded pools."""

from __future__ import annotations

import math
import threading
from typing import NamedTuple

import numpy as np

from fastrnn import _engine

_KEPT = 4  # arrays that a pool keeps for later calls


class Pool:
    """Arrays that may be reused, with the views made of them. It is thread-safe.

    No thread waits for the lock: if it is held, `take` allocates an array and `give` drops one. So it also works in the
    child of a fork, where a thread that does not exist any more may hold the lock.
    """

    def __init__(self):
        self._free = []
        self._lock = threading.Lock()

    def take(self, layout):
        """(array, {name: view}): an aligned, uninitialised 1-D array of the layout's size or somewhat more."""
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
        """Take an array back. If there are more than `_KEPT`, the oldest is dropped."""
        if self._lock.acquire(blocking=False):
            try:
                self._free.append((array, layout, views))
                if len(self._free) > _KEPT:
                    del self._free[0]
            finally:
                self._lock.release()


class Layout:
    """The places of named parts in one array, made once for a shape.

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
    """An array from a pool, divided into the named parts of a layout; returned when released or garbage-collected."""

    def __init__(self, pool, layout):
        recording = _engine.recording()
        self._pool = pool if recording is None else recording.once(pool, Pool)
        self._layout = layout
        self._array, self._views = self._pool.take(layout)

    @property
    def nbytes(self):
        """Bytes of the layout."""
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

    def cached(self, key, make):
        """What `make` returns, kept with the views as long as the array has this layout."""
        if self._array is None:
            raise RuntimeError("this memory was released")
        found = self._views.get(key)
        if found is None:
            found = self._views[key] = make()
        return found

    @property
    def released(self):
        """Whether the memory was returned."""
        return self._array is None

    def release(self):
        """Return the memory to the pool. The parts must not be used afterwards."""
        array, self._array = self._array, None
        if array is not None:
            self._pool.give(array, self._layout, self._views)

    def __del__(self):
        if getattr(self, "_array", None) is not None:
            self.release()


class OwnsTape:
    """Base of the backward passes that `vjp` returns. Copies share the tape, which exists in this process only."""

    def __copy__(self):
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def __reduce__(self):
        raise TypeError("the memory of a forward pass can be neither pickled nor deep-copied: call vjp again")


class Tape(Block):
    """What the forward pass keeps for the backward pass: for each layer l and direction d,

    gates{l}{d} : (rows, X*Hp)                 activations, unless they are the h_prev of the next step
    h_prev{l}{d}, c_prev{l}{d} : (rows, Hp)    states before each step
    y{l} : (rows, D*H)                         output of a layer below the top one, after dropout, unless it is h_prev

    where rows are the valid steps of all sequences.
    """


class Scratch(Block):
    """Memory that is needed only during a call."""


class StepArrays(NamedTuple):
    """The arrays in which one layer and direction keeps its steps.

    gates : (rows, X*Hp); h_prev : (rows, Pp); c_prev : (rows, Hp) or None
    on_tape : whether they hold all steps, for the backward pass; else one chunk of gates, and two states that alternate
    """

    gates: np.ndarray
    h_prev: np.ndarray
    c_prev: np.ndarray | None
    on_tape: bool

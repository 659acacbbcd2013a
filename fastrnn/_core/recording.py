"""Recording of plans: the memory of a plan, and results that later runs update."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from fastrnn import _engine

MOST_BYTES = 1 << 25  # of a plan's memory; the time that Python takes is a small part of a larger update
_BLOCK_BYTES = 1 << 18
_LINE = 64  # bytes of a cache line


class Arena:
    """Memory that several plans use in turn: each recording begins with the whole of it.

    Examples
    --------
    >>> arena = Arena()
    >>> a = arena.empty((2, 3), "float32")
    >>> arena.restart()
    >>> np.shares_memory(a, arena.empty((2, 3), "float32"))
    True
    """

    def __init__(self):
        self._blocks: list[np.ndarray] = []
        self.restart()

    def restart(self) -> None:
        """Give out the memory again from its start."""
        self._block = self._used = 0

    def empty(self, shape, dtype) -> np.ndarray:
        """An uninitialised array, aligned to a cache line."""
        dtype = np.dtype(dtype)
        count = math.prod(shape) if isinstance(shape, tuple) else int(shape)
        nbytes = -(-count * dtype.itemsize // _LINE) * _LINE
        while self._block < len(self._blocks) and self._used + nbytes > len(self._blocks[self._block]):
            self._block, self._used = self._block + 1, 0
        if self._block == len(self._blocks):
            size = max(nbytes, _BLOCK_BYTES)
            if self.nbytes + size > MOST_BYTES:
                raise _engine.NotRecordable(f"more than {MOST_BYTES >> 20} MiB of memory")
            block = np.empty(size + _LINE, np.uint8)
            skip = -block.ctypes.data % _LINE
            self._blocks.append(block[skip : skip + len(block) - _LINE])
        start, self._used = self._used, self._used + nbytes
        return self._blocks[self._block][start : start + count * dtype.itemsize].view(dtype).reshape(shape)

    def owns(self, array: np.ndarray) -> bool:
        """Whether an array is in this memory."""
        return any(np.may_share_memory(array, block) for block in self._blocks)

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks."""
        return sum(map(len, self._blocks))


class Recording:
    """One recording. The arrays that layers make meanwhile, and their packed weights, belong to the plan.

    into : the array to which the caller's gradients are added

    Examples
    --------
    >>> import numpy as np
    >>> from fastrnn import _engine
    >>> a, b = np.ones((1, 2), "float32"), np.zeros((1, 2), "float32")
    >>> _, program = Recording().run(_engine.add_rows, a, b)
    >>> a[0] = 10, 20
    >>> program.run(0)
    >>> b
    array([[11., 21.]], dtype=float32)
    """

    def __init__(self, arena: Arena | None = None, into: np.ndarray | None = None):
        self._arena = Arena() if arena is None else arena
        self._arena.restart()
        self._into = into
        self.empty = self._arena.empty
        self._made: dict = {}

    def run(self, function: Callable, *arguments, **options) -> tuple:
        """Call a function; returns its result, and the `Program` that computes it again."""
        return _engine.record(self, function, *arguments, **options)

    def check_gradient(self, into: np.ndarray) -> None:
        """Raise NotRecordable unless gradients may be added to this array: that of the caller, or one of the arena."""
        if into is not self._into and not self._arena.owns(into):
            raise _engine.NotRecordable("gradients are added to an array that is not the argument `into`")

    def once(self, owner: object, make: Callable):
        """What `make` returns, called once in this recording for each owner."""
        if id(owner) not in self._made:
            self._made[id(owner)] = owner, make()
        return self._made[id(owner)][1]


Method = TypeVar("Method", bound=Callable)


def recordable(method: Method) -> Method:
    """Mark a `loss_and_gradient` that a plan may record: all its work on arrays is done by operations of the engine."""
    method.recordable = True  # type: ignore[attr-defined]
    return method


class RecordedFloat(float):
    """A result of a recorded computation, which later runs write to ``cell[0]``."""

    cell: object

    @classmethod
    def of(cls, cell) -> float:
        """The present value of a cell; while nothing is recorded, as a float."""
        if _engine.recording() is None:
            return float(cell[0])
        made = cls(cell[0])
        made.cell = cell
        return made

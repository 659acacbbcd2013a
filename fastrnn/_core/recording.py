"""Recording of plans: the memory of a plan, and results that later runs update."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from fastrnn import _engine
from fastrnn._check.arrays import KEPT_ARRAY

MOST_BYTES = 1 << 25  # of a plan's memory; the time that Python takes is a small part of a larger update
_FIRST_BYTES = 1 << 18  # of the first of two blocks; most plans need no more
_LINE = 64  # bytes of a cache line


class Arena:
    """Memory that several plans use in turn: each recording begins with the whole of it.

    Attributes
    ----------
    nbytes : int
        Bytes that the largest plan so far uses.

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
        self._used = self.nbytes = 0

    def restart(self) -> None:
        """Give out the memory again from its start."""
        self._used = 0

    def empty(self, shape, dtype) -> np.ndarray:
        """An uninitialised array, aligned to a cache line."""
        dtype = np.dtype(dtype)
        count = math.prod(shape) if isinstance(shape, tuple) else int(shape)
        start, size = self._used, -(-count * dtype.itemsize // _LINE) * _LINE
        if start < _FIRST_BYTES < start + size:
            start = _FIRST_BYTES
        if start + size > MOST_BYTES:
            raise _engine.NotRecordable(f"more than {MOST_BYTES >> 20} MiB of memory")
        self._used = start + size
        self.nbytes = max(self.nbytes, self._used)
        place = start if start < _FIRST_BYTES else start - _FIRST_BYTES
        made = self._block(start >= _FIRST_BYTES)[place : place + count * dtype.itemsize].view(dtype).reshape(shape)
        return made.view(RecordedArray)

    def _block(self, index):
        """The first block, or the second one, which is as large as a plan may be: a larger plan needs no third one."""
        while len(self._blocks) <= index:
            size = MOST_BYTES - _FIRST_BYTES if self._blocks else _FIRST_BYTES
            block = np.empty(size + _LINE, np.uint8)  # the operating system provides only what is used of it
            skip = -block.ctypes.data % _LINE
            self._blocks.append(block[skip : skip + size])
        return self._blocks[index]

    def owns(self, array: np.ndarray) -> bool:
        """Whether an array is in this memory."""
        return any(np.may_share_memory(array, block) for block in self._blocks)


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
        self.into = None if into is None else into.view(RecordedArray)
        self.empty = self._arena.empty
        self._made: dict = {}

    def run(self, function: Callable, *arguments, **options) -> tuple:
        """Call a function; returns its result, and the `Program` that computes it again."""
        return _engine.record(self, function, *arguments, **options)

    def check_gradient(self, into: np.ndarray) -> None:
        """Raise NotRecordable unless gradients may be added to this array: that of the caller, or one of the arena."""
        if into is not self.into and not self._arena.owns(into):
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


class RecordedFloat:
    """A result of a recorded computation, which later runs write to ``cell[0]``. Its present value cannot be used."""

    def __init__(self, cell):
        self.cell = cell.view(np.ndarray)

    @classmethod
    def of(cls, cell) -> Any:
        """The present value of a cell; while nothing is recorded, as a float."""
        return float(cell[0]) if _engine.recording() is None else cls(cell)


def _refuse_number(self, *others):
    raise _engine.NotRecordable("the function computes with a loss, or compares it: do so with what it returns")


for _name in (
    *("abs", "add", "bool", "divmod", "eq", "float", "floordiv", "format", "ge", "gt", "int", "le", "lt", "mod", "mul"),
    *("ne", "neg", "pos", "pow", "radd", "rmul", "round", "rsub", "rtruediv", "sub", "truediv", "array", "hash"),
):
    setattr(RecordedFloat, f"__{_name}__", _refuse_number)


class RecordedArray(np.ndarray):
    """An argument of a recorded function, or an array that its layers made: views, but no values, may be taken of it.

    What NumPy computes from it would be a constant of the plan. Only the checks of arguments may read it.
    """

    belongs_to_plan = True

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        _check_caller(f"numpy.{ufunc.__name__}")
        inputs = [_plain(x) for x in inputs]
        if out is not None:
            options["out"] = tuple(_plain(x) for x in out)
        return getattr(ufunc, method)(*inputs, **options)

    def __array_function__(self, function, types, arguments, options):
        if function.__name__ not in _WITHOUT_VALUES:
            _check_caller(f"numpy.{function.__name__}")
        if function.__name__.endswith("_like"):
            return function(*map(_plain, arguments), **options)
        return super().__array_function__(function, types, arguments, options)

    def __getitem__(self, key):
        found = super().__getitem__(key)
        if not isinstance(found, np.ndarray):
            _check_caller("indexing")
        return self._view(found, "indexing")

    def __setitem__(self, key, value):
        _check_caller("assignment to elements")
        super().__setitem__(key, value)

    def reshape(self, *shape, **options):
        return self._view(super().reshape(*shape, **options), "a reshape that copies")

    def ravel(self, *order, **options):
        return self._view(super().ravel(*order, **options), "a ravel that copies")

    def _view(self, found, what):
        if found.size and not np.may_share_memory(found, self):
            _check_caller(what)
        return found


_WITHOUT_VALUES = {  # functions of NumPy that need only the shape, or return a view
    *("zeros_like", "ones_like", "empty_like", "full_like", "shape", "ndim", "size", "may_share_memory"),
    *("shares_memory", "reshape", "transpose", "moveaxis", "swapaxes", "expand_dims", "squeeze", "broadcast_to"),
}


def _method(name):
    def called(self, *arguments, **options):
        _check_caller(f"the method {name}")
        return getattr(np.ndarray, name)(self, *arguments, **options)

    return called


for _name in (
    *("argmax", "argmin", "argpartition", "argsort", "astype", "choose", "compress", "copy", "dot", "fill", "flatten"),
    *("item", "nonzero", "partition", "put", "repeat", "round", "searchsorted", "sort", "take", "tobytes", "tolist"),
    *("trace", "__bool__", "__complex__", "__contains__", "__float__", "__index__", "__int__"),
):
    setattr(RecordedArray, _name, _method(_name))


def _plain(value):
    return value.view(np.ndarray) if isinstance(value, RecordedArray) else value


def _check_caller(what):
    """Raise NotRecordable unless an array is read by the checks of arguments."""
    if _engine.recording() is None:
        raise RuntimeError(KEPT_ARRAY)
    frame = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__", "").startswith((__name__, "numpy.")):
        frame = frame.f_back
    if frame is None or not frame.f_globals.get("__name__", "").startswith("fastrnn._check"):
        raise _engine.NotRecordable(
            f"NumPy computes with an array between the layers ({what}): do so before or after the function"
        )

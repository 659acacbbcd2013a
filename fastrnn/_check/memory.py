"""Checks that what a call needs fits into memory, with plain integers, before anything is allocated."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Mapping

_UNCHECKED = 64 << 20  # bytes; smaller requests are not checked
_ARRAY_OBJECT_BYTES = 1000  # memory of the Python objects of a parameter array: name, Slot and view


def available() -> tuple[int, str]:
    """Return the number of bytes that this process can still allocate, and what limits it, as words of a message.

    It is the smallest of the free memory of the machine, of the cgroup, and of the address space (``ulimit -v``), or
    `sys.maxsize` if none is known.
    """
    limits = [(sys.maxsize, "the address space has")]
    for read, what in (
        (_of_machine, "this machine has"),
        (_of_cgroup, "the memory limit of this container leaves"),
        (_of_process, "ulimit -v leaves"),
    ):
        with contextlib.suppress(OSError, ValueError, LookupError, ImportError, AttributeError):
            limits.append((max(0, read()), what))
    return min(limits)


def _of_machine():
    if sys.platform == "win32":
        return _of_windows()
    with contextlib.suppress(OSError), open("/proc/meminfo") as file:
        fields = dict(line.split(":", 1) for line in file)
        return sum(int(fields[name].split()[0]) << 10 for name in ("MemAvailable", "SwapFree"))
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _of_windows():
    import ctypes

    class Status(ctypes.Structure):  # MEMORYSTATUSEX
        _fields_ = [
            ("length", ctypes.c_uint32),
            ("load", ctypes.c_uint32),
            *((f"n{k}", ctypes.c_uint64) for k in range(7)),
        ]

    status = Status(length=ctypes.sizeof(Status))
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        raise OSError("GlobalMemoryStatusEx failed")
    return status.n2  # free page file: the limit on what can be committed


def _of_cgroup():
    """Return the free memory of the cgroup, version 2 or 1.

    In a container its files are mounted at the root, elsewhere they are under the path of the cgroup.
    """
    with open("/proc/self/cgroup") as file:
        groups = dict(line.rstrip("\n").split(":", 2)[1:] for line in file)
    for controller, root, names in (
        ("", "/sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")),
        ("memory", "/sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")),
    ):
        for folder in (root + groups.get(controller, ""), root):
            with contextlib.suppress(OSError, ValueError):
                return _number_in(folder, names[0]) - _number_in(folder, names[1]) + _statistic(folder, names[2])
    raise OSError("no memory controller")


def _number_in(folder, name):
    with open(os.path.join(folder, name)) as file:
        return int(file.read())


def _statistic(folder, name):
    with open(os.path.join(folder, "memory.stat")) as file:
        return int(dict(line.split() for line in file).get(name, 0))


def _of_process():
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        raise LookupError("no limit")
    with open("/proc/self/statm") as file:
        return limit - int(file.read().split()[0]) * resource.getpagesize()


def size_of(numbers: int) -> str:
    """Format a number of bytes.

    >>> size_of(1_500_000_000), size_of(20 << 30), size_of(4 * 10**30)
    ('1.5 GB', '21.5 GB', '4e+12 EB')
    """
    for unit, digits in (("kB", 3), ("MB", 6), ("GB", 9), ("TB", 12), ("PB", 15)):
        if numbers < 10 ** (digits + 3):
            return f"{numbers / 10**digits:.3g} {unit}"
    return f"{numbers / 10**18:.3g} EB"


def fits(what: str, needed: int, advice: str) -> None:
    """Raise a MemoryError if there is not enough memory.

    Parameters
    ----------
    what : str
        What needs the memory: the beginning of the message, a plural.
    needed : int
        Number of bytes.
    advice : str
        What to do, the end of the message.
    """
    if needed < _UNCHECKED:
        return
    there, limit = available()
    if needed > there:
        raise MemoryError(f"{what} need {size_of(needed)} of memory, but {limit} {size_of(there)}: {advice}")


class Budget:
    """Limit on the parameters of the layers that are constructed for the arrays of a file.

    It bounds the memory that a file can take by the file's own size, whatever sizes its configuration has. Up to twice
    as many parameters, and a few more, are allowed: the later comparison of each array says better which size is wrong.

    Parameters
    ----------
    arrays : dict of str to ndarray
        Arrays of the file.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> budget = Budget({"weight": np.zeros((2, 3))})
    >>> fastrnn.Linear(3, 2, bias=False, storage=fastrnn.Storage("float32", budget))
    Linear(3, 2, bias=False, dtype='float32')
    """

    def __init__(self, arrays: Mapping):
        self._numbers, self._arrays = sum(array.size for array in arrays.values()), len(arrays)
        self._left = [2 * self._numbers + 100_000, 2 * self._arrays + 100]

    def take(self, what: str, numbers: int, arrays: int) -> None:
        """Count the parameters of a layer; raise a ValueError if the file does not hold as many."""
        self._left[0] -= numbers
        self._left[1] -= arrays
        if min(self._left) < 0:
            raise ValueError(
                f"the sizes do not match the saved arrays: {what} has {numbers:,} parameters in {arrays:,} arrays, "
                f"but the file holds {self._numbers:,} numbers in {self._arrays:,} arrays"
            )


def parameters(what: str, numbers: int, arrays: int, dtype, storage) -> None:
    """Refuse a layer with more parameters than its file holds, or than fit into memory, before any is drawn.

    Parameters
    ----------
    what : str
        The layer, as its repr shows it.
    numbers, arrays : int
        Number of elements and of arrays among its parameters, not counting tied ones.
    dtype : numpy.dtype
        Data type of the parameters.
    storage : Storage or None
        Storage that they will be added to.

    Raises
    ------
    ValueError
        The file that the layer is constructed for holds fewer parameters.
    MemoryError
        The parameters do not fit into memory.
    """
    if getattr(storage, "budget", None) is not None:
        storage.budget.take(what, numbers, arrays)
    needed = numbers * (8 + dtype.itemsize) + arrays * _ARRAY_OBJECT_BYTES  # initial values are drawn in float64
    fits(f"the {numbers:,} parameters of {what}", needed, "use smaller sizes")


def shaped(what: str, shapes: Mapping, dtype, storage) -> None:
    """Apply `parameters` to a layer whose arrays have these shapes, {name: shape}."""
    parameters(what, sum(map(math.prod, shapes.values())), len(shapes), dtype, storage)

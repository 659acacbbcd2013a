"""The number of threads of a call: set for a block, for the process, or by the environment."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Iterator

from fastrnn import _engine
from fastrnn._check import values as check_values

MAX_THREADS = _engine.thresholds()["MAX_PARTS"]  # of a call


def _from_environment():
    """FASTRNN_NUM_THREADS, OMP_NUM_THREADS, or the number of cores this process may use; at most `MAX_THREADS`.

    OMP_NUM_THREADS may be a list, as in OpenMP, whose first number is used. It is meant for other libraries too, so a
    number above `MAX_THREADS` is not a reason for a warning.
    """
    for name in ("FASTRNN_NUM_THREADS", "OMP_NUM_THREADS"):
        values = [value.strip() for value in os.environ.get(name, "").split(",")]
        if any(values):
            number = re.fullmatch("0*([1-9][0-9]*)", values[0])
            if number is None or (
                len(values) > 1
                and (name == "FASTRNN_NUM_THREADS" or not all(re.fullmatch("[0-9]+", v) for v in values))
            ):
                raise ValueError(f"{name}={os.environ[name]}, but it must be a whole number of at least 1")
            wanted = int(number[1][:18])  # more digits do not matter
            return min(wanted, MAX_THREADS) if name == "OMP_NUM_THREADS" else _at_most(wanted, name, 2)
    return min(_available_cores(), _quota_cores(), MAX_THREADS)


def _at_most(n, name, stacklevel):
    """n, or `MAX_THREADS` with a warning if it is more."""
    if isinstance(n, int) and n >= 2**63:  # more than a size can be, and perhaps too long to print
        shown, n = f"2**{n.bit_length() - 1} or more", MAX_THREADS + 1
    else:
        shown = n = check_values.size("n", n)
    if n > MAX_THREADS:
        warnings.warn(
            f"{name} is {shown}, but a call uses at most {MAX_THREADS} threads: using {MAX_THREADS}",
            RuntimeWarning,
            stacklevel=stacklevel + 1,
        )
    return min(n, MAX_THREADS)


def _available_cores():
    """Number of cores in the affinity mask of this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quota_cores():
    """Number of whole cores in the CPU quota of the cgroup (version 2, then 1)."""
    try:
        with open("/sys/fs/cgroup/cpu.max") as f:
            quota, period = f.read().split()
    except (OSError, ValueError):
        try:
            with open("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") as f, open("/sys/fs/cgroup/cpu/cpu.cfs_period_us") as g:
                quota, period = f.read().strip(), g.read().strip()
        except OSError:
            return os.cpu_count() or 1
    if quota in ("max", "-1") or not quota.isdecimal():
        return os.cpu_count() or 1
    return max(1, int(quota) // int(period))


def set_num_threads(n: int) -> None:
    """Set the number of threads that a call in this process may use.

    Parameters
    ----------
    n : int
        Largest number of threads. More than 64 are 64, with a RuntimeWarning.

    Examples
    --------
    >>> import fastrnn
    >>> before = fastrnn.get_num_threads()
    >>> fastrnn.set_num_threads(1)
    >>> fastrnn.get_num_threads()
    1
    >>> fastrnn.set_num_threads(before)
    """
    _engine.set_default_threads(_at_most(n, "the number of threads", 2))


def get_num_threads() -> int:
    """Return the number of threads that a call from this thread may use.

    Returns
    -------
    int
        Largest number of threads.
    """
    return _engine.current_threads()


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """Set the number of threads that calls from this thread may use, for a ``with`` block.

    Parameters
    ----------
    n : int
        Largest number of threads. More than 64 are 64, with a RuntimeWarning.

    Yields
    ------
    None
        The block runs with the new number.

    Examples
    --------
    >>> import fastrnn
    >>> with fastrnn.threads(1):
    ...     fastrnn.get_num_threads()
    1
    """
    before = _engine.set_local_threads(_at_most(n, "the number of threads", 3))
    try:
        yield
    finally:
        _engine.set_local_threads(before)


_engine.set_default_threads(_from_environment())

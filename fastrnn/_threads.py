"""How many threads a call may use: `threads(n)` here and now, `set_num_threads` for the process, else the environment."""

from __future__ import annotations

import contextlib
import os

from fastrnn import _check, _engine


def _from_environment():
    """FASTRNN_NUM_THREADS, OMP_NUM_THREADS, or the cores this process may use."""
    for name in ("FASTRNN_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(name, "").split(",")[0].strip()
        if value:
            if not value.isdecimal() or int(value) < 1:
                raise ValueError(f"{name}={os.environ[name]}, but it must be a whole number of at least 1")
            return int(value)
    return min(_available_cores(), _quota_cores())


def _available_cores():
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quota_cores():
    """Whole cores of the cgroup's quota (version 2, then 1)."""
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


def set_num_threads(n):
    """Let every call of this process use up to n threads.

    >>> import fastrnn
    >>> before = fastrnn.get_num_threads()
    >>> fastrnn.set_num_threads(1)
    >>> fastrnn.get_num_threads()
    1
    >>> fastrnn.set_num_threads(before)
    """
    _engine.set_default_threads(_check.size("n", n))


def get_num_threads():
    """Threads that a call from this thread may use."""
    return _engine.current_threads()


@contextlib.contextmanager
def threads(n):
    """Let calls from this thread, inside the block, use up to n threads.

    >>> import fastrnn
    >>> with fastrnn.threads(1):
    ...     fastrnn.get_num_threads()
    1
    """
    before = _engine.set_local_threads(_check.size("n", n))
    try:
        yield
    finally:
        _engine.set_local_threads(before)


_engine.set_default_threads(_from_environment())

"""Random cases: their number, their seeds, and how many have run."""

import contextlib
import os

import numpy as np

_TIMES = int(os.environ.get("FASTRNN_FUZZ", 1))
_FIRST = int(os.environ.get("FASTRNN_FUZZ_SEED", 0))

counts = {}  # number of cases that each test has drawn


def seeds(test: str, count: int):
    """Return seeds of the random cases of a test: `count`, or FASTRNN_FUZZ times as many, from FASTRNN_FUZZ_SEED on.

    A failing case prints its seed; ``FASTRNN_FUZZ_SEED=<seed>`` starts with it.
    """
    for seed in range(_FIRST, _FIRST + count * _TIMES):
        counts[test] = counts.get(test, 0) + 1
        yield seed


def poison(array: np.ndarray) -> np.ndarray:
    """Fill unwritten memory with values that no result may contain: NaN, or integers far outside every range."""
    if array.dtype.kind == "f":
        array.view(np.ndarray).fill(np.nan)
    elif array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        array.view(np.ndarray).fill(0x5A5A5A5A5A5A5A5A)
    return array


@contextlib.contextmanager
def named(seed):
    """Prepend the seed to the message of a failure inside."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error

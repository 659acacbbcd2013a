"""Random cases: how many, which, and how many there were."""

import contextlib
import os

import numpy as np

_TIMES = int(os.environ.get("FASTRNN_FUZZ", 1))
_FIRST = int(os.environ.get("FASTRNN_FUZZ_SEED", 0))

counts = {}  # cases drawn by each test


def seeds(test: str, count: int):
    """Seeds of the random cases of a test: `count` of them, or FASTRNN_FUZZ times as many, from FASTRNN_FUZZ_SEED on.

    A failing case names its seed; ``FASTRNN_FUZZ_SEED=<seed>`` starts with it.
    """
    for seed in range(_FIRST, _FIRST + count * _TIMES):
        counts[test] = counts.get(test, 0) + 1
        yield seed


def poison(array: np.ndarray) -> np.ndarray:
    """Fill memory that was not written yet with what no result may contain: NaN, or integers far outside every range."""
    if array.dtype.kind == "f":
        array.fill(np.nan)
    elif array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        array.fill(0x5A5A5A5A5A5A5A5A)
    return array


@contextlib.contextmanager
def named(seed):
    """Put the seed in front of the message of what fails inside."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error

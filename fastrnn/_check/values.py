"""Checks of single values: sizes, numbers, names, seeds, dtypes."""

from __future__ import annotations

import math
import numbers
import sys

import numpy as np


def size(name, value, least=1, most=sys.maxsize):
    """Check a whole number from `least` to `most`; returns it as int."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} is {value!r}, but it must be a whole number")
    if value < least:
        raise ValueError(f"{name} is {value}, but it must be at least {least}")
    if most is not None and value > most:
        raise ValueError(f"{name} is {value}, but it must be at most {most}")
    return int(value)


def seed(value):
    """Check a seed: None, or a whole number >= 0 of any size."""
    return None if value is None else size("seed", value, least=0, most=None)


def probability(name, value):
    """Check a number p with 0 <= p < 1; returns it as float."""
    if not isinstance(value, numbers.Real) or not 0 <= value < 1:
        raise ValueError(f"{name} is {value!r}, but it must be a number from 0 up to, but not including, 1")
    return float(value)


def choice(name, value, choices):
    """Check that a value is one of `choices`; returns it."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, but it must be one of {', '.join(map(repr, choices))}")
    return value


def dtype(value):
    """Check a dtype; returns it as numpy.dtype."""
    try:
        found = np.dtype(value if value is not None else object)
    except TypeError:
        found = np.dtype(object)
    if found.name not in ("float32", "float64") or not found.isnative:
        raise TypeError(f"dtype is {value!r}, but it must be 'float32' or 'float64'")
    return found


def number(name, value, *, least=None, above=None, most=None, below=None):
    """Check a finite real number in a range; returns it as float."""
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, numbers.Real)):
        raise TypeError(f"{name} is {value!r}, but it must be a number")
    if least is not None and not value >= least:
        wrong = f">= {least}"
    elif above is not None and not value > above:
        wrong = f"> {above}"
    elif most is not None and not value <= most:
        wrong = f"<= {most}"
    elif below is not None and not value < below:
        wrong = f"< {below}"
    elif not _is_finite(value):
        wrong = "finite"
    else:
        return float(value)
    raise ValueError(f"{name} is {value}, but it must be {wrong}")


def _is_finite(value):
    try:
        return math.isfinite(value)
    except OverflowError:  # an int that no float can hold
        return False


def rng_key(key):
    """Check a key of random numbers: an int from 0 to 2**64-1."""
    if type(key) is not int and (isinstance(key, bool) or not isinstance(key, numbers.Integral)):
        raise TypeError(f"rng is {key!r}, but it must be an int")
    if not 0 <= key < 1 << 64:
        raise ValueError(f"rng is {key}, but it must be from 0 to 2**64-1")
    return key if isinstance(key, int) else int(key)


def described(value):
    """Describe a value for a message: its length, shape or type."""
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} of {len(value)}"
    return f"array of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__

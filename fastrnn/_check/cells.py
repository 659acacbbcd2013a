"""The argument checks of what cells can do beside the usual; the others are in _check.py."""

from __future__ import annotations

import math
import numbers

import numpy as np

from fastrnn._check import number, size


def plain(value):
    """An option as it is kept, and as it comes back from JSON: its numbers and texts are Python's own, its lists are tuples.

    >>> plain(("leaky_relu", np.float64(0.5)))
    ('leaky_relu', 0.5)
    """
    if isinstance(value, (list, tuple)):
        return tuple(map(plain, value))
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    for kind, made in ((str, str), (numbers.Integral, int), (numbers.Real, float)):
        if isinstance(value, kind):
            return made(value)
    return value


def states_of(mask, return_states):
    """States at every step can't be had where some are left out."""
    if mask is not None and return_states:
        raise ValueError(
            "return_states gives the state that each step computed, but with a mask some steps compute none: leave one of them out"
        )


def one_way(reverse, bidirectional):
    """Whether the only direction is the one back in time."""
    if reverse and bidirectional:
        raise ValueError(
            "reverse=True and bidirectional=True: a bidirectional network has the reverse direction already, leave one out"
        )
    return bool(reverse)


def clip(value):
    """The bound of pre-activations; infinity for None."""
    return math.inf if value is None else number("clip", value, above=0)


def projection(value, hidden_size):
    """Features of a projected h; 0: it is not projected."""
    value = size("proj_size", value, least=0)
    if value and value >= size("hidden_size", hidden_size):
        raise ValueError(
            f"proj_size is {value}, but it must be smaller than hidden_size={hidden_size}; 0 means no projection"
        )
    return value

"""Checks of the options of cells."""

from __future__ import annotations

import math
import numbers

import numpy as np

from fastrnn._check import number, size


def plain(value):
    """Convert an option to what JSON returns for it: Python numbers and strings, and tuples instead of lists.

    >>> plain(("leaky_relu", np.float64(0.5)))
    ('leaky_relu', 0.5)
    """
    if isinstance(value, (list, tuple)):
        return tuple(map(plain, value))
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    for kind, convert in ((str, str), (numbers.Integral, int), (numbers.Real, float)):
        if isinstance(value, kind):
            return convert(value)
    return value


def states_of(mask, return_states):
    """Check that `return_states` is not combined with `mask`."""
    if mask is not None and return_states:
        raise ValueError(
            "return_states cannot be combined with mask, as masked steps compute no state: leave one of them out"
        )


def one_way(reverse, bidirectional):
    """Check that `reverse` is not combined with `bidirectional`; returns it as bool."""
    if reverse and bidirectional:
        raise ValueError(
            "reverse=True cannot be combined with bidirectional=True, which has a reverse direction already: "
            "leave one of them out"
        )
    return bool(reverse)


def clip(value):
    """Check the bound of pre-activations; returns infinity for None."""
    return math.inf if value is None else number("clip", value, above=0)


def projection(value, hidden_size):
    """Check the number of features of a projected h; 0 means no projection."""
    value = size("proj_size", value, least=0)
    if value and value >= size("hidden_size", hidden_size):
        raise ValueError(
            f"proj_size is {value}, but it must be smaller than hidden_size={hidden_size}; 0 means no projection"
        )
    return value

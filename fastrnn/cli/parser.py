"""The argument parser of the ``fastrnn`` command and the types of its options."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

from fastrnn.cli.console import one_line


class Parser(argparse.ArgumentParser):
    """A parser that reports a wrong argument in one line, and that knows --debug, which `fastrnn.cli.main` handles."""

    def __init__(self, **options):
        super().__init__(**options)
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def error(self, message):
        """Print one line and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {one_line(message)} (see {self.prog} --help)\n")

    @property
    def option_names(self) -> set[str]:
        """All option strings of this parser, such as ``--data``; argparse has no public way to list them."""
        return {*self._option_string_actions}


def _number(kind: type, description: str, holds: Callable) -> Callable:
    """Make an argparse type: a finite number of this kind for which `holds`."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not math.isfinite(value) or not holds(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {description}")
        return value

    return parse


count = _number(int, "a whole number of at least 1", lambda v: v >= 1)
vocabulary_size = _number(int, "a whole number of at least 2", lambda v: v >= 2)
natural = _number(int, "a whole number of at least 0", lambda v: v >= 0)
positive = _number(float, "a number above 0", lambda v: v > 0)
not_negative = _number(float, "a number of at least 0", lambda v: v >= 0)
fraction = _number(float, "a number in 0 <= p < 1", lambda v: 0 <= v < 1)
probability = _number(float, "a number in 0 < p <= 1", lambda v: 0 < v <= 1)


def threads(text: str) -> int:
    """Convert a number of threads, in ASCII digits.

    Only the first 19 digits are converted: that is more than a C int holds, and Python refuses very long numbers.
    """
    digits = text.strip()
    if not (digits.isascii() and digits.isdecimal() and digits.strip("0")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(digits.lstrip("0")[:19])


def path(text: str) -> str:
    """Refuse an empty path, which would be the current directory."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty: give a path, or . for the current directory")
    return text


def decay(text: str) -> str | float:
    """Convert the value of --lr-decay: cosine, none or a factor."""
    if text in ("cosine", "none"):
        return text
    try:
        return probability(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not 'cosine', 'none' or a factor in 0 < f <= 1") from None


def norm_limit(text: str) -> float | None:
    """Convert the value of --clip: a norm, or None for 0."""
    return not_negative(text) or None


def values(arguments: argparse.Namespace, part: str) -> dict:
    """Collect the options whose destination begins with a part.

    Parameters
    ----------
    arguments : argparse.Namespace
        The parsed arguments.
    part : {"model", "fit", "reading"}
        The part of the destinations before the dot.

    Returns
    -------
    values : dict
        ``{name: value}``, where `name` is the part of the destination after the dot.
    """
    prefix = f"{part}."
    return {name.removeprefix(prefix): value for name, value in vars(arguments).items() if name.startswith(prefix)}

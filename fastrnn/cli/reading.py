"""Options for reading files, and the notes about what was left out of a file."""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Iterable, Iterator

from fastrnn.cli.console import one_line, say
from fastrnn.cli.parser import count, values

_NOT_KEPT = ("encoding", "allow_gaps")  # they belong to one file, not to every file that a model is used on

# The options of the readers of `fastrnn.data`: of any text file, of words with tags, of tables.
TEXT = ("encoding",)
WORDS = (*TEXT, "layout", "column")
TABLE = (*TEXT, "target", "exog", "date", "decimal", "separator", "allow_gaps")


def add_options(group, names: Iterable[str], *, defaults: bool = True) -> None:
    """Add options for reading a file, with destinations that begin with "reading.", to an argument group.

    The help names the defaults of the readers if `defaults` is true; otherwise those are the values used in training.
    """
    for name in names:
        options = dict(_OPTIONS[name], dest=f"reading.{name}")
        if defaults and name in _DEFAULTS:
            options["help"] += f" (default: {_DEFAULTS[name]})"
        group.add_argument(f"--{name.replace('_', '-')}", **options)


def _separator(text):
    return "\t" if text in ("tab", "\\t") else text


_OPTIONS = dict(
    encoding=dict(metavar="NAME", help="encoding of the file, such as utf-16, latin-1 or cp1252"),
    layout=dict(choices=("conllu", "conll2003"), help="layout of the columns"),
    column=dict(
        type=count,
        metavar="N",
        help="number of the column of the tags, counted from 1",
    ),
    target=dict(
        action="append",
        metavar="NAME",
        help="column to forecast; may be given several times",
    ),
    exog=dict(
        action="append",
        metavar="NAME",
        help="column whose future values are known; may be given several times. To predict, append rows with these "
        "values and without targets",
    ),
    date=dict(metavar="NAME", help="column of evenly spaced dates"),
    decimal=dict(choices=(".", ","), metavar="SIGN", help="decimal sign, . or ,"),
    separator=dict(type=_separator, metavar="SIGN", help="sign between the columns, or tab"),
    allow_gaps=dict(
        action="store_true", default=None, help="accept dates that are not evenly spaced (needed for each such file)"
    ),
)


_DEFAULTS = dict(
    encoding="utf-8",
    layout="conllu",
    column="4, UPOS; with --layout conll2003 the last",
    target="all columns of numbers",
    date="detected from the content",
    decimal=".",
    separator=",",
)


def given(arguments: argparse.Namespace) -> dict:
    """Collect the options for reading a file that were given, as ``{name: value}``."""
    return {name: value for name, value in values(arguments, "reading").items() if value is not None}


def refuse_others(options: dict, own: Iterable[str], kind: str) -> None:
    """Refuse options that the reader of a model's files does not have.

    Parameters
    ----------
    options : dict
        The options, as `given` returns them.
    own : iterable of str
        The options that the reader has.
    kind : str
        The kind of model, for the message.

    Raises
    ------
    ValueError
        An option is not one of `own`.
    """
    for name in options:
        if name not in own:
            raise ValueError(f"--{name.replace('_', '-')} is not an option for a {kind}")


def kept(options: dict) -> dict | None:
    """Select the options that are saved with a model, so that other files are read in the same way."""
    return {name: value for name, value in options.items() if name not in _NOT_KEPT} or None


@contextlib.contextmanager
def notes() -> Iterator[None]:
    """Collect the notes of the readers; show them at `show_notes` and at the end, unless an error ends the command."""
    logger, handler = logging.getLogger("fastrnn"), _Notes()
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
        show_notes()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def show_notes() -> None:
    """Print the notes since the last call, one line each."""
    for handler in logging.getLogger("fastrnn").handlers:
        if isinstance(handler, _Notes):
            handler.show()


def drop_notes() -> None:
    """Ignore all later notes."""
    logging.getLogger("fastrnn").setLevel(logging.WARNING)


class _Notes(logging.Handler):
    """A handler that keeps messages until they are shown, each once."""

    def __init__(self):
        super().__init__()
        self._messages, self._shown = {}, 0

    def emit(self, record):
        self._messages[record.getMessage()] = None

    def show(self):
        for message in list(self._messages)[self._shown :]:
            say(f"fastrnn: note: {one_line(message)}")
        self._shown = len(self._messages)

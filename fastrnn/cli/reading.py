"""Options of the command that say how a file is read, and the lines that say what was left out of it."""

from __future__ import annotations

import contextlib
import logging

from fastrnn.cli.console import one_line, say

_NOT_KEPT = ("encoding", "allow_gaps")  # of one file, not of all that a model is used on
OPTIONS = ("encoding", "layout", "column", "target", "exog", "date", "decimal", "separator", "allow_gaps")


def add_options(parser, count) -> None:
    """Add the options to a command; `count` is the argparse type of numbers of at least 1."""
    add = parser.add_argument_group("reading of files").add_argument
    add("--encoding", metavar="NAME", help="of the text: utf-8 (default), utf-16, latin-1, cp1252, … (Python's names)")
    add("--layout", choices=("conllu", "conll2003"), help="columns of words and tags; for tag (conllu)")
    add(
        "--column",
        type=count,
        metavar="N",
        help="column of the tag, from 1; for tag (4, UPOS; the last with --layout conll2003)",
    )
    add(
        "--target",
        action="append",
        metavar="NAME",
        help="column to forecast, may be repeated; for forecast (all columns of numbers)",
    )
    add(
        "--exog",
        action="append",
        metavar="NAME",
        help="column whose future is known, in rows without targets at the end; for forecast",
    )
    add(
        "--date",
        metavar="NAME",
        help="column of the dates, which must rise by even steps; for forecast (found by its content)",
    )
    add("--decimal", choices=(".", ","), help="decimal sign of the numbers; for forecast (.)")
    add("--separator", type=_separator, metavar="SIGN", help="between the columns: a sign, or tab; for forecast (,)")
    add(
        "--allow-gaps",
        action="store_true",
        default=None,
        help="take rows as evenly spaced though their dates are not; for forecast",
    )


def _separator(text):
    return "\t" if text in ("tab", "\\t") else text


def given(arguments, own, of: str) -> dict:
    """The options that were given, {name: value}.

    Parameters
    ----------
    own : names of those that may be given
    of : what has them, for the message

    Raises
    ------
    ValueError  another one was given.
    """
    found = {name: getattr(arguments, name) for name in OPTIONS if getattr(arguments, name) is not None}
    for name in found:
        if name not in own:
            raise ValueError(f"--{name.replace('_', '-')} is not an option {of}")
    return found


def kept(options: dict) -> dict | None:
    """What a model keeps of the options it was trained with, so that other files are read the same way."""
    return {name: value for name, value in options.items() if name not in _NOT_KEPT} or None


@contextlib.contextmanager
def notes():
    """Say what readers leave out, a line each: at `show_notes` and at the end, unless an error ends the command."""
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
    """Print the notes since the last call."""
    for handler in logging.getLogger("fastrnn").handlers:
        if isinstance(handler, _Notes):
            handler.show()


def drop_notes() -> None:
    """Show no notes from here on."""
    logging.getLogger("fastrnn").setLevel(logging.WARNING)


class _Notes(logging.Handler):
    """Keeps messages until they are shown, each once."""

    def __init__(self):
        super().__init__()
        self._messages, self._shown = {}, 0

    def emit(self, record):
        self._messages[record.getMessage()] = None

    def show(self):
        for message in list(self._messages)[self._shown :]:
            say(f"fastrnn: note: {one_line(message)}")
        self._shown = len(self._messages)

"""The ``fastrnn`` command: train a model, use it, measure it, show what it and this build are, benchmark it."""

from __future__ import annotations

import contextlib
import os
import sys

# Modules are imported in the functions, where an error of an import, or Ctrl-C during it, becomes one line.


def command() -> int:
    """Run the command as a process of its own, and return the exit status of `main`."""
    try:
        from fastrnn.cli import console
        from fastrnn.training.interrupts import OF_COMMAND

        OF_COMMAND.install()
        console.reopen_closed()
        status = main()
        OF_COMMAND.ignore()
        console.drop_unwritten()
    except KeyboardInterrupt:  # before `main` could answer it
        with contextlib.suppress(OSError):
            os.write(2, b"fastrnn: interrupted\n")
        return 130
    return status


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Returns
    -------
    The exit status: 0; 1 for bad input, 2 for bad usage, each with one line on stderr; 130 after Ctrl-C.
    """
    from fastrnn.cli import console

    argv = list(sys.argv[1:] if argv is None else argv)
    with console.redirected():
        try:
            status = _run(argv)
            sys.stdout.flush()
            return status
        except BaseException as error:  # of whatever kind: none reaches the user as a traceback
            return console.status_of(error, debug="--debug" in argv)


def _run(argv):
    from fastrnn.cli import arguments as _arguments
    from fastrnn.cli import console, reading
    from fastrnn.training.interrupts import OF_COMMAND

    arguments = _arguments.parse(argv)
    with console.warnings_as_lines(), reading.notes():
        from fastrnn.cli import commands

        OF_COMMAND.importing = False
        return getattr(commands, arguments.command)(arguments)

"""The ``fastrnn`` command: train, use, evaluate and convert models, and measure the speed of this build."""

from __future__ import annotations

import contextlib
import os
import sys

# Modules are imported inside functions, where an error or Ctrl-C during an import is reported in one line.


def command() -> int:
    """Run the command as the only task of this process, and return the exit status of `main`."""
    try:
        from fastrnn.cli import console
        from fastrnn.training.interrupts import OF_COMMAND

        OF_COMMAND.install()
        console.reopen_closed()
        status = main()
        OF_COMMAND.ignore()
        console.drop_unwritten()
    except KeyboardInterrupt:  # outside of `main`
        with contextlib.suppress(OSError):
            os.write(2, b"fastrnn: interrupted\n")
        return 130
    return status


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : list of str, optional
        The arguments, by default those of this process.

    Returns
    -------
    int
        The exit status: 0; 1 for wrong input and 2 for wrong usage, each with one line on stderr; 130 after Ctrl-C.
    """
    from fastrnn.cli import console

    argv = list(sys.argv[1:] if argv is None else argv)
    with console.redirected():
        try:
            status = _run(argv)
            sys.stdout.flush()
            return status
        except BaseException as error:  # of any kind, so that no user sees a traceback
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

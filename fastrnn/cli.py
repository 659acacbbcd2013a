"""The ``fastrnn`` command: train a model, use it, measure it, show what it and this build are, benchmark it."""

from __future__ import annotations

import os
import sys

from fastrnn import _arguments, _commands
from fastrnn._console import fail


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Returns
    -------
    The exit status: 0; 1 for bad input, 2 for bad usage, each with one line on stderr; 130 after Ctrl-C.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["train"] and argv[1:] and argv[1][:1] != "-":  # train qa is train --task qa
        argv.insert(1, "--task")
    try:
        arguments, rest = _arguments.parser().parse_known_args(argv)
        if arguments.command == "bench":
            arguments.rest = rest
        elif rest:
            _arguments.parser().error(f"unrecognized arguments: {' '.join(rest)}")
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a character shows a question mark
        status = getattr(_commands, arguments.command)(arguments)
        sys.stdout.flush()
        return status
    except SystemExit as exit:  # --help, or a wrong option
        return exit.code
    except KeyboardInterrupt:
        return fail("interrupted", 130)
    except BrokenPipeError:  # the reader of a pipe has had enough: | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:
        return fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else error, 1)
    except (ValueError, RuntimeError, ImportError) as error:
        return fail(error, 1)

"""Standard output and standard error of the command, also where they cannot be written."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
import warnings

from fastrnn.training.interrupts import OF_COMMAND
from fastrnn.training.progress import is_terminal

_LONGEST = 1000  # maximum number of characters of a message
_ESCAPED = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class OutputError(Exception):
    """Standard output cannot be written; `reader_left`: because the reader of a pipe closed it, as ``head`` does."""

    def __init__(self, error: OSError | None):
        self.reader_left = isinstance(error, BrokenPipeError)
        super().__init__(f"standard output: {os.strerror(errno.EBADF) if error is None else error.strerror or error}")


class Output:
    """A stream as standard output, which raises OutputError if it cannot be written.

    On a terminal, control characters other than line breaks and tabs are escaped: those in a model's text could
    control the terminal.
    """

    escapes = True

    def __init__(self, stream):
        self._stream, self._failed = stream, stream is None or getattr(stream, "closed", False)
        self._escapes = self.escapes and is_terminal(stream)

    def write(self, text):
        if self._failed:
            raise OutputError(None)
        self._do("write", text.translate(_ESCAPED) if self._escapes else text)

    def flush(self):
        if not self._failed:
            self._do("flush")

    def _do(self, name, *arguments):
        try:
            getattr(self._stream, name)(*arguments)
        except OSError as error:
            self._failed = True
            raise OutputError(error) from None

    def isatty(self):
        return is_terminal(self._stream)

    def __getattr__(self, name):
        return getattr(self._stream, name)


class Messages(Output):
    """A stream as standard error. What cannot be written is dropped."""

    escapes = False  # progress bars move the cursor; messages are escaped by one_line

    def write(self, text):
        with contextlib.suppress(OutputError):
            super().write(text)

    def flush(self):
        with contextlib.suppress(OutputError):
            super().flush()


def say(message) -> None:
    """Write a line to standard error, if that is possible."""
    if sys.stderr is not None:  # print(file=None) would write to standard output
        with contextlib.suppress(OSError, ValueError):
            print(message, file=sys.stderr, flush=True)


def fail(message, status: int) -> int:
    """Report in one line why the command ends, and return its exit status."""
    say(f"{'fastrnn:' if status == 130 else 'fastrnn: error:'} {one_line(message)}")
    return status


def one_line(message) -> str:
    """Remove line breaks from a message, escape control characters, and shorten it if it is very long."""
    text = " ".join(str(message).split())
    text = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text[: _LONGEST + 1]
    )
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


_EXTRAS = {
    "matplotlib": "plot",
    "sklearn": "sklearn",
    "torch": "torch",
    "onnx": "onnx",
    "keras": "keras",
    "h5py": "keras",
    "mpi4py": "mpi",
}  # module: extra
_EXPECTED = (ValueError, TypeError, RuntimeError, ImportError, OSError, OutputError)


@contextlib.contextmanager
def optional_output():
    """Context for output that the command can do without: a failure is a warning, or nothing if the reader has left."""
    try:
        yield
        sys.stdout.flush()
    except OutputError as error:
        if not error.reader_left:
            say(f"fastrnn: warning: {error}")


@contextlib.contextmanager
def redirected():
    """Context in which standard output and standard error are those of the command."""
    with contextlib.redirect_stdout(Output(sys.stdout)), contextlib.redirect_stderr(Messages(sys.stderr)):
        if hasattr(sys.stdout, "reconfigure"):
            # "backslashreplace" keeps characters apart that the encoding cannot represent
            sys.stdout.reconfigure(errors="backslashreplace")
        yield


@contextlib.contextmanager
def warnings_as_lines():
    """Context in which each warning is one line on standard error, once; warnings for programmers are not shown."""
    said = set()

    def show(message, *_, **__):
        line = f"fastrnn: warning: {one_line(message)}"
        if line not in said:
            said.add(line)
            say(line)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        warnings.showwarning = show
        yield


def status_of(error: BaseException, debug: bool) -> int:
    """Report in one line what ended the command, and return its exit status.

    Parameters
    ----------
    error : BaseException
        The exception that ended the command.
    debug : bool
        Whether the traceback is printed before that line.

    Returns
    -------
    int
        The exit status.
    """
    if debug and not isinstance(error, SystemExit):
        say("".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip())
    if isinstance(error, SystemExit):  # --help, or a wrong argument
        return error.code if isinstance(error.code, int) else 0 if error.code is None else fail(error.code, 1)
    if isinstance(error, KeyboardInterrupt) or OF_COMMAND.seen:  # an import may replace the exception
        status = fail("interrupted", 130)
        OF_COMMAND.leave(status)
        return status
    if isinstance(error, OutputError) and error.reader_left:  # as head does
        return 0
    return fail(_description(error), 1)


def _description(error):
    text = str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"not enough memory{f': {text}' if text else ''}"
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        return f"{text}: pip install 'fastrnn[{_EXTRAS[error.name]}]'"
    if text and isinstance(error, _EXPECTED) and not isinstance(error, RecursionError):
        return text
    return f"{type(error).__name__}{f': {text}' if text else ''} (unexpected; --debug shows where)"


def reopen_closed() -> None:
    """Open the null device for each closed standard stream, so that no other file gets its descriptor."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def drop_unwritten() -> None:
    """Discard buffered output that cannot be written, which Python would report when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

"""Ctrl-C: interrupts a training only where it leaves nothing half done, and the command from its start on."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from contextlib import AbstractContextManager

_SAME_PRESS = 0.3  # seconds; a second signal within them is the same press, passed on by a parent process


class Interrupts:
    """Context in which Ctrl-C interrupts at once inside `allowed`, and elsewhere when `allowed` is next entered.

    It changes nothing outside the main thread, or if SIGINT has another handler already.

    Attributes
    ----------
    pending : bool
        Whether Ctrl-C was pressed.
    """

    def __enter__(self):
        self._open = self.pending = False
        self._before = signal.getsignal(signal.SIGINT)
        self._installed = threading.current_thread() is threading.main_thread() and self._before in (
            signal.default_int_handler,
            OF_COMMAND,
        )
        if self._installed:
            self.pending = self._before is OF_COMMAND and OF_COMMAND.seen  # an import discarded the exception
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *exception):
        if self._installed:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, signum, frame):
        if self._before is OF_COMMAND:
            OF_COMMAND.wait()
        self.pending = True
        if self._open:
            self._open = False  # here, since this exception may come before any statement of `_Allowed`
            raise KeyboardInterrupt

    def allowed(self) -> AbstractContextManager[None]:
        """Let Ctrl-C raise KeyboardInterrupt at any time in this context."""
        return _Allowed(self)


class _Allowed:
    def __init__(self, interrupts):
        self._interrupts = interrupts

    def __enter__(self):
        self._interrupts._open = True
        if self._interrupts.pending:
            self._interrupts._open = False
            raise KeyboardInterrupt

    def __exit__(self, *exception):
        self._interrupts._open = False


class _OfCommand:
    """Handler of Ctrl-C in a process of the command.

    It raises KeyboardInterrupt. While modules are imported, and when Ctrl-C is pressed again, it ends the process.

    Attributes
    ----------
    seen : bool
        Whether Ctrl-C was pressed.
    importing : bool
        Whether modules are being imported: nothing needs to be saved yet, and an import could discard an exception or
        replace it.
    """

    def __init__(self):
        self.importing, self.seen = True, False
        self._first = 0.0

    def install(self) -> None:
        """Install the handler, unless SIGINT is ignored, as in a process that a shell started in the background."""
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self)
            sys.unraisablehook = _show_unraisable

    def ignore(self) -> None:
        """Ignore Ctrl-C from now on, since everything is done."""
        if signal.getsignal(signal.SIGINT) is self:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def __call__(self, signum, frame):
        self._note()
        raise KeyboardInterrupt

    def wait(self) -> None:
        """Remember Ctrl-C, and say that training ends as soon as the model is saved."""
        first = not self.seen
        self._note()
        if first:
            self._write("fastrnn: stopping; the model is being saved (Ctrl-C again: stop at once, without that)")

    def leave(self, status) -> None:
        """End the process of the command at once: freeing a large text would take too long."""
        if signal.getsignal(signal.SIGINT) is self and "mpi4py" not in sys.modules:  # MPI must be finalized
            with contextlib.suppress(Exception):
                sys.stdout.flush()
            os._exit(status)

    def _note(self):
        now = time.monotonic()
        if self.importing or (self.seen and now - self._first > _SAME_PRESS):
            self._write("fastrnn: interrupted")
            os._exit(130)
        if not self.seen:
            self.seen, self._first = True, now

    @staticmethod
    def _write(line):
        with contextlib.suppress(OSError):
            # not through sys.stderr, which may be in the middle of a write
            os.write(2, f"{os.linesep if os.isatty(2) else ''}{line}{os.linesep}".encode())


def _show_unraisable(unraisable):
    """Show an exception, except Ctrl-C in a finalizer: a training remembers it, elsewhere a second press ends all."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)


OF_COMMAND = _OfCommand()

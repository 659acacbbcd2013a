"""Ctrl-C: at a time when nothing is half done, and from the first moment of the command on."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time

_SAME_PRESS = 0.3  # seconds in which a second signal is the same press: one of the terminal, one passed on by a parent


class Interrupts:
    """While it is entered, Ctrl-C interrupts where only results are computed (`allowed`), else at the next such moment.

    In other threads than the main one, or where Ctrl-C was given another meaning, nothing is touched.
    """

    def __enter__(self):
        self._open = self.pending = False
        self._before = signal.getsignal(signal.SIGINT)
        self._installed = threading.current_thread() is threading.main_thread() and self._before in (
            signal.default_int_handler,
            OF_COMMAND,
        )
        if self._installed:
            self.pending = self._before is OF_COMMAND and OF_COMMAND.seen  # an import has swallowed it
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
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def allowed(self):
        self._open = True
        try:
            if self.pending:
                raise KeyboardInterrupt
            yield
        finally:
            self._open = False


class _OfCommand:
    """Ctrl-C in a process of the command: KeyboardInterrupt; while modules are imported, and the second time, the end.

    seen : whether there was one
    importing : nothing is to be saved yet. An exception might be lost in an import, or become another one
    """

    def __init__(self):
        self.importing, self.seen = True, False
        self._first = 0.0

    def install(self) -> None:
        """Answer from now on, unless Ctrl-C is ignored, as in a process that a shell started in the background."""
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self)
            sys.unraisablehook = _show_unraisable

    def ignore(self) -> None:
        """All is done: Ctrl-C changes nothing any more."""
        if signal.getsignal(signal.SIGINT) is self:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def __call__(self, signum, frame):
        self._note()
        raise KeyboardInterrupt

    def wait(self) -> None:
        """Note Ctrl-C, and say that training ends as soon as the model is saved."""
        first = not self.seen
        self._note()
        if first:
            self._write("fastrnn: stopping; the model is being saved (Ctrl-C again: stop at once, without that)")

    def leave(self, status) -> None:
        """End the process now, if it is one of the command: to free a large text takes longer than the answer may."""
        if signal.getsignal(signal.SIGINT) is self and "mpi4py" not in sys.modules:  # MPI has to be told
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
            os.write(
                2, f"{os.linesep if os.isatty(2) else ''}{line}{os.linesep}".encode()
            )  # sys.stderr may be writing just now


def _show_unraisable(unraisable):
    """Show it, but not Ctrl-C in a finaliser: a training has noted that, and elsewhere the second press ends the command."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)


OF_COMMAND = _OfCommand()

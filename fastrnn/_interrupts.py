"""Ctrl-C at a time when nothing is half done."""

from __future__ import annotations

import contextlib
import signal
import threading


class Interrupts:
    """While it is entered, Ctrl-C interrupts at once where only results are being computed (`allowed`), else at the next such moment.

    In other threads than the main one, or where Ctrl-C was given another meaning, nothing is touched.
    """

    def __enter__(self):
        self._open = self.pending = False
        self._installed = (
            threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if self._installed:
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *exception):
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, signum, frame):
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

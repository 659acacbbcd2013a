"""Make threadpoolctl's limits hold for fastrnn too. Importing this module is enough."""

from __future__ import annotations

import os

from fastrnn import __version__, _engine
from fastrnn._core.threads import MAX_THREADS, get_num_threads, set_num_threads
from fastrnn._engine import core

try:
    import threadpoolctl
except ImportError as error:
    raise ImportError(
        "fastrnn.threadpoolctl needs the package threadpoolctl, 3.3 or newer: pip install 'threadpoolctl>=3.3'"
    ) from error


class Controller(threadpoolctl.LibController):
    """The controller through which threadpoolctl reads and sets fastrnn's number of threads.

    Its `user_api` and `internal_api` are "fastrnn". The number is that of `fastrnn.set_num_threads`, which holds for
    the process. A thread inside ``with fastrnn.threads(n)`` keeps its own n.

    Parameters
    ----------
    filepath : str, optional
        File of the shared library that threadpoolctl has found.
    prefix : str, optional
        The prefix in `filename_prefixes` that the file's name starts with.
    parent : ThreadpoolController, optional
        The controller that makes this one.

    Examples
    --------
    >>> import fastrnn, fastrnn.threadpoolctl
    >>> from threadpoolctl import threadpool_limits
    >>> before = fastrnn.get_num_threads()
    >>> with threadpool_limits(limits=1, user_api="fastrnn"):  # or threadpool_limits(1), for every library it knows
    ...     fastrnn.get_num_threads()
    1
    >>> fastrnn.get_num_threads() == before
    True
    """

    user_api = "fastrnn"
    internal_api = "fastrnn"
    filename_prefixes = ("core.",)
    check_symbols = ("PyInit_core",)

    def set_additional_attributes(self) -> None:
        """Refuse an extension `core` of another package."""
        if os.path.realpath(self.filepath) != os.path.realpath(core.__file__):
            self.dynlib = None  # without a library, threadpoolctl finds none of check_symbols

    def get_num_threads(self) -> int:
        """Return the number of threads that a call may use.

        Returns
        -------
        int
            The number for the process, whatever ``with fastrnn.threads(n)`` says in this thread.
        """
        own = _engine.set_local_threads(None)
        try:
            return get_num_threads()
        finally:
            _engine.set_local_threads(own)

    def set_num_threads(self, num_threads: int) -> None:
        """Set the number of threads that a call may use, for the process.

        Parameters
        ----------
        num_threads : int
            At least 1. More than 64 count as 64, without the warning that `fastrnn.set_num_threads` gives.
        """
        set_num_threads(min(num_threads, MAX_THREADS))

    def get_version(self) -> str:
        """Return the version of fastrnn.

        Returns
        -------
        str
            ``fastrnn.__version__``.
        """
        return __version__


threadpoolctl.register(Controller)

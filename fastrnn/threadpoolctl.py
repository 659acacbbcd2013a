"""threadpoolctl's limits hold for fastrnn too, once this module is imported."""

from __future__ import annotations

import os

import fastrnn
from fastrnn import _engine
from fastrnn._core.threads import MAX_THREADS
from fastrnn._engine import core

try:
    import threadpoolctl
except ImportError as error:
    raise ImportError(
        "fastrnn.threadpoolctl needs the package threadpoolctl, 3.3 or newer: pip install 'threadpoolctl>=3.3'"
    ) from error


class Controller(threadpoolctl.LibController):
    """How threadpoolctl sees fastrnn: `user_api` and `internal_api` are "fastrnn".

    The number it reads, sets and restores is that of `fastrnn.set_num_threads`, which holds for the process; a thread inside
    `with fastrnn.threads(n)` keeps its own n.

    >>> from threadpoolctl import threadpool_limits
    >>> import fastrnn.threadpoolctl
    >>> before = fastrnn.get_num_threads()
    >>> with threadpool_limits(limits=1, user_api="fastrnn"):       # or threadpool_limits(1): every library it knows
    ...     fastrnn.get_num_threads()
    1
    >>> fastrnn.get_num_threads() == before
    True
    """

    user_api = "fastrnn"
    internal_api = "fastrnn"
    filename_prefixes = ("core.",)
    check_symbols = ("PyInit_core",)

    def set_additional_attributes(self):
        """Turn away a `core` of another package: where there is no library, threadpoolctl finds none of check_symbols."""
        if os.path.realpath(self.filepath) != os.path.realpath(core.__file__):
            self.dynlib = None

    def get_num_threads(self):
        own = _engine.set_local_threads(None)
        try:
            return fastrnn.get_num_threads()
        finally:
            _engine.set_local_threads(own)

    def set_num_threads(self, num_threads):
        fastrnn.set_num_threads(min(num_threads, MAX_THREADS))  # a limit above it needs no warning

    def get_version(self):
        return fastrnn.__version__


threadpoolctl.register(Controller)

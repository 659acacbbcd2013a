"""What the streams of several layers have in common: a call advances all of their layers, or they say so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from fastrnn._types import ArrayLike


class ChainStream:
    """Base of StackedStream and NetworkStream.

    streams : of the recurrent layers, from the input on
    """

    def __init__(self, streams: list[Any]):
        self._streams = streams
        self._in_use = threading.Lock()
        self._advanced = self._apart = False  # whether a layer has taken this call's steps; the states do not fit
        self.batch_size = streams[0].batch_size

    def _guarded(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function that lets all layers take the same steps. It sets `_advanced` once the first one has."""
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError(
                "this stream is used by another call at the same time: give each thread its own stream, or use a lock"
            )
        try:
            if self._apart:
                raise RuntimeError(
                    "an earlier call was interrupted, so the layers are at different steps: call reset(), or set the "
                    "state"
                )
            self._advanced = False
            return call(*arguments)
        except BaseException as error:
            self._apart = self._apart or self._advanced or isinstance(error, KeyboardInterrupt)
            raise
        finally:
            self._in_use.release()

    def reset(self, rows: ArrayLike | None = None) -> None:
        """Restore the initial state.

        Parameters
        ----------
        rows : array_like, optional
            Indices or bool mask of the rows. By default all.
        """
        for stream in self._streams:
            stream.reset(rows)
        self._apart = self._apart and rows is not None

    def refresh(self) -> None:
        """Use the current parameters of the recurrent layers from now on. The state does not change."""
        for stream in self._streams:
            stream.refresh()

"""Which dropout masks a call draws: calls are numbered, and the number goes into the key of the masks."""

from __future__ import annotations

import contextlib
import os
import threading

from fastrnn import _check
from fastrnn._core.stack import Dropout

_lock = threading.Lock()


def _renew_lock():
    """The lock may be held by a thread that does not exist in the child of a fork."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


@contextlib.contextmanager
def next_call(layer):
    """The number of the next call of a layer, from 1 on; it counts in ``layer._calls``.

    A call that fails gives its number back, so that the next one draws the masks that the failed one would have drawn.
    """
    with _lock:
        layer._calls += 1
        number = layer._calls
    try:
        yield number
    except BaseException:
        with _lock:
            if layer._calls == number:  # else another thread has drawn since
                layer._calls -= 1
        raise


@contextlib.contextmanager
def mask_key(network, rng):
    """The key of a network's dropout masks in one call: `rng`, or that of its next call."""
    if rng is not None:
        yield _check.rng_key(rng)
        return
    with next_call(network) as number:
        yield (network._key + number * 0xD1342543DE82EF95) % 2**64


@contextlib.contextmanager
def masks(network, rng):
    """What draws the masks between the layers in one call, or None without dropout."""
    if not network.dropout or network.num_layers == 1:
        yield None
        return
    with mask_key(network, rng) as key:
        yield Dropout(network.dropout, key, network.variational)

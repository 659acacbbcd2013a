"""The keys of dropout masks: calls are numbered, and the number is part of the key."""

from __future__ import annotations

import contextlib
import os
import threading

from fastrnn import _check, _engine
from fastrnn._core.stack import Dropout

_lock = threading.Lock()


def _renew_lock():
    """In the child of a fork, replace the lock: a thread that does not exist here may hold it."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


@contextlib.contextmanager
def next_call(layer):
    """Yield the number of the next call of a layer, starting with 1; ``layer._calls`` is the counter.

    A call that fails returns its number, so that the next call uses the masks of the failed one.
    """
    if _engine.recording() is not None:
        raise _engine.NotRecordable("dropout without the argument rng, a new key in each call")
    with _lock:
        layer._calls += 1
        number = layer._calls
    try:
        yield number
    except BaseException:
        with _lock:
            if layer._calls == number:  # otherwise another thread has taken a number since
                layer._calls -= 1
        raise


@contextlib.contextmanager
def mask_key(network, rng):
    """Yield the key of a network's dropout masks in one call: `rng`, or that of its next call."""
    if rng is not None:
        yield _check.rng_key(rng)
        return
    with next_call(network) as number:
        yield (network._key + number * 0xD1342543DE82EF95) % 2**64


@contextlib.contextmanager
def masks(network, rng):
    """Yield the `Dropout` between the layers in one call, or None without dropout."""
    if not network.dropout or network.num_layers == 1:
        yield None
        return
    with mask_key(network, rng) as key:
        yield Dropout(network.dropout, key, network.variational)

"""Labels, tags and symbols that a model was not trained on: one rule for all models.

A model knows what occurs in its training part. In held-out data and in data given to `score`, whatever it does not know
counts as a wrong answer, or as ``<unk>`` if the model has that symbol, and one warning names it. An unknown target has
no loss: the loss is the mean over the others, or NaN if there are none.
"""

from __future__ import annotations

import collections
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence

UNSEEN = -1  # id of what a model does not know; losses ignore negative targets
HELD_OUT = "the held-out part"  # name of held-out data in the warning


def encode(labels: Sequence[str | int], id_of: Mapping[str | int, int], what: str, where: str) -> list[int]:
    """The ids of some labels, `UNSEEN` for unknown ones, which one warning names. See `warn` for the arguments."""
    ids = [id_of.get(label, UNSEEN) for label in labels]
    warn((label for label, i in zip(labels, ids) if i == UNSEEN), len(ids), what, where)
    return ids


def warn(
    unseen: Iterable[str | int] | Mapping[str, int],
    total: int,
    what: str,
    where: str,
    effect: str = "they count as wrong answers",
) -> None:
    """Give one UserWarning that names unknown labels or symbols, if there are any.

    Parameters
    ----------
    unseen : iterable, or dict of label to count
        The unknown labels or symbols, each as often as it occurs.
    total : int
        Number of labels or symbols in the data.
    what : str
        What they are, in the plural: "labels".
    where : str
        Which data they are in.
    effect : str
        What follows from it.
    """
    count = collections.Counter(unseen)
    if count:
        names = ", ".join(map(repr, sorted(count, key=lambda name: (-count[name], str(name)))[:5]))
        more = f" and {len(count) - 5} others" if len(count) > 5 else ""
        known = "are not in the training part" if where == HELD_OUT else "this model was not trained on"
        warnings.warn(
            f"{where} has {what} that {known}: {names}{more}; {count.total()} of {total} {what}: {effect}",
            UserWarning,
            stacklevel=caller_level(),
        )


def caller_level() -> int:
    """The `stacklevel` with which a warning points to the caller of this package."""
    frame, level = sys._getframe(1), 1
    while frame is not None and frame.f_globals.get("__name__", "").startswith("fastrnn."):
        frame, level = frame.f_back, level + 1
    return level

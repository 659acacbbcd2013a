"""Labels, tags and symbols that a model was not trained on: one rule for `fit`, `score` and `evaluate` of all models.

What a model knows is what its training part has. In other data, held out or given to `score`, whatever it does not know counts as a wrong
answer, or as ``<unk>`` where the model has that symbol, and one warning names it. A loss has no value for what has no output: it is the mean
over the others, NaN if there are none.
"""

from __future__ import annotations

import collections
import warnings

UNSEEN = -1  # id of what a model does not know; losses ignore negative targets
HELD_OUT = "the held-out part"  # what data are called in the warning


def encode(labels, id_of: dict, what: str, where: str) -> list[int]:
    """The ids of some labels, `UNSEEN` for those that are not known, which one warning names."""
    ids = [id_of.get(label, UNSEEN) for label in labels]
    warn((label for label, i in zip(labels, ids) if i == UNSEEN), len(ids), what, where)
    return ids


def warn(unseen, total: int, what: str, where: str, effect: str = "they count as wrong answers") -> None:
    """One UserWarning that names what is not known, if there is anything.

    Parameters
    ----------
    unseen : each label or symbol that is not known, as often as it occurs; or {it: how often}
    total : labels or symbols of the data
    what : what they are, in the plural
    where : which data these are
    effect : what they count as
    """
    count = collections.Counter(unseen)
    if count:
        names = ", ".join(map(repr, sorted(count, key=lambda name: (-count[name], str(name)))[:5]))
        more = f" and {len(count) - 5} others" if len(count) > 5 else ""
        known = "the training part has not" if where == HELD_OUT else "this model was not trained on"
        warnings.warn(
            f"{where} has {what} that {known}: {names}{more}; {count.total()} of {total} {what}: {effect}",
            UserWarning,
            stacklevel=_depth(),
        )


def _depth():
    """The stack level of the first caller outside of this package."""
    import sys

    frame, depth = sys._getframe(1), 1
    while frame is not None and frame.f_globals.get("__name__", "").startswith("fastrnn."):
        frame, depth = frame.f_back, depth + 1
    return depth - 1

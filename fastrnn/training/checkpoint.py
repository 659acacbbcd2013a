"""What a checkpoint holds, and its check against the training that continues from it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fastrnn._files.schema import ANYTHING, FIGURE, OBJECT, TEXT, ListOf, OrNull, Record, Rule, number, shown, whole

_STATE = Rule(
    "null, 'array' or a list of such",
    lambda value: value in (None, "array") or (type(value) is list and all(map(_STATE.holds, value))),
)


def history(figures=()) -> ListOf:
    """The history of a training, whose entries have at least these figures of the held-out part.

    Callbacks may add keys of their own, which may hold anything.
    """
    entry = {"epoch": number(0), "update": whole(), "lr": FIGURE, "train_loss": OrNull(FIGURE)}
    entry |= {f"validation_{name}": OrNull(FIGURE) for name in ("loss", *figures)}
    return ListOf(
        Record(entry, {f"validation_{name}": OrNull(FIGURE) for name in ("accuracy", "r2")}, others=((".*", ANYTHING),))
    )


def _position(figures):
    return Record(
        {
            "seed": whole(0, 10**100 - 1),
            "epoch": whole(),
            "index": whole(),
            "update": whole(),
            "evaluated": whole(-1),
            "loss_sum": FIGURE,
            "loss_count": whole(),
            "best_loss": OrNull(FIGURE),
            "best_update": whole(),
            "looks_since_best": whole(),
            "history": history(figures),
        },
        {
            "first_loss": OrNull(FIGURE),
            "first_weight": number(0),
            "skipped": whole(),
            "skipped_in_row": whole(),
            "first_skipped": OrNull(TEXT),
        },
    )


def check_identity(config) -> None:
    """Raise a ValueError if a checkpoint does not say which training it is of."""
    OBJECT.check(config.get("identity"), "identity")


def check(config: dict, arrays: Mapping, *, flat, optimizer: dict, schedule: dict, figures=()) -> None:
    """Raise a ValueError that names the first key, or array, of a checkpoint that does not fit the training.

    Parameters
    ----------
    config, arrays : the checkpoint
    flat : the parameters of the model
    optimizer, schedule : their ``state_dict()`` as they are now
    figures : what each entry of the history has of the held-out part
    """
    rules = {"position": _position(figures), "optimizer": OBJECT, "schedule": OBJECT, "state": _STATE}
    Record(rules | {"identity": OBJECT, "computed_by": Record({}, others=((".*", TEXT),))}).check(config)
    position = config["position"]
    if not position["history"] and (position["evaluated"] >= 0 or position["best_loss"] is not None):
        raise ValueError("position.history has no entry, but position says that the held-out part was looked at")
    for entry in position["history"] if figures else ():
        for name in figures:
            FIGURE.check(entry[f"validation_{name}"], f"position.history: validation_{name}")
    moments = {f"optimizer.{name}": value for name, value in optimizer.items() if isinstance(value, np.ndarray)}
    numbers = {name: value for name, value in optimizer.items() if not isinstance(value, np.ndarray)}
    _alike(config["optimizer"], numbers, "optimizer")
    _alike(config["schedule"], schedule, "schedule")
    carried = [f"state.{k}" for k in range(count(config["state"]))]
    wanted = {"parameters": flat, "best": flat, **moments}
    names = {*wanted, *carried}
    for some, what in ((names - arrays.keys(), "is missing"), (arrays.keys() - names, "is none of this training")):
        if some:
            raise ValueError(f"the array {shown(min(some))} {what}")
    for name, mine in wanted.items():
        theirs = arrays[name]
        if theirs.shape != mine.shape or theirs.dtype != mine.dtype:
            raise ValueError(
                f"the array {name} is {theirs.dtype} of shape {theirs.shape}, but this model has {mine.dtype} of shape "
                f"{mine.shape}"
            )
    for name in ("parameters", "best"):
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"the array {name} has NaN or infinite values, which no training saves")


def _alike(theirs, mine, key):
    """A value that was saved is of the kind that it has now, whatever the optimiser or schedule."""
    if isinstance(mine, Mapping):
        Record(dict.fromkeys(mine, ANYTHING)).check(theirs, key)
        for name in mine:
            _alike(theirs[name], mine[name], f"{key}.{name}")
    elif isinstance(mine, (tuple, list)):
        ListOf(ANYTHING, least=len(mine), most=len(mine)).check(theirs, key)
        for k, (one, other) in enumerate(zip(theirs, mine)):
            _alike(one, other, f"{key}[{k}]")
    elif isinstance(mine, (bool, str)):
        Rule(repr(mine), lambda value: type(value) is type(mine) and value == mine).check(theirs, key)
    elif isinstance(mine, int):
        whole(0 if mine >= 0 else None, 1 << 53).check(theirs, key)  # the engine counts in 64 bits
    elif isinstance(mine, float) or mine is None:
        (OrNull(FIGURE) if mine is None else FIGURE).check(theirs, key)


# --- a state that is carried from batch to batch: None, an array, or a tuple of such ---


def structure(state):
    """How a state is put together, for JSON: None, "array", or a list of such."""
    return None if state is None else "array" if isinstance(state, np.ndarray) else [structure(part) for part in state]


def leaves(state) -> list:
    """The arrays of a state, in order."""
    return (
        []
        if state is None
        else [state]
        if isinstance(state, np.ndarray)
        else [leaf for part in state for leaf in leaves(part)]
    )


def count(how) -> int:
    """How many arrays a state has, from its `structure`."""
    return 0 if how is None else 1 if how == "array" else sum(map(count, how))


def rebuilt(how, parts):
    """The state, from its `structure` and an iterator over its arrays."""
    return None if how is None else next(parts) if how == "array" else tuple(rebuilt(part, parts) for part in how)

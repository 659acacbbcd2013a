"""Checkpoints: what they hold, how they are written, and how a training is resumed from one."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from fastrnn import _engine
from fastrnn._files import storage
from fastrnn._files.schema import (
    ANYTHING,
    FIGURE,
    OBJECT,
    TEXT,
    ListOf,
    OrNull,
    Record,
    Rule,
    number,
    of_file,
    shown,
    whole,
)

if TYPE_CHECKING:
    from fastrnn.training.loop import Training


@dataclasses.dataclass
class Position:
    """The position of a run. Its future depends on this and the arrays of a checkpoint, and on nothing else."""

    seed: int
    epoch: int = 0
    index: int = 0  # of the next batch in the epoch
    update: int = 0
    evaluated: int = -1  # the update after which the last evaluation took place
    first_loss: float | None = None  # what `loss_limit` multiplies: the greatest loss of the first updates
    first_weight: float = 0.0  # weight of these updates
    loss_sum: float = 0.0  # of the updates since the last evaluation
    loss_count: int = 0
    best_loss: float | None = None
    best_update: int = 0
    evaluations_since_best: int = 0
    skipped: int = 0  # updates that were skipped because their loss or gradient was not finite
    skipped_in_row: int = 0  # the skipped updates since the last one that was made
    first_skipped: str | None = None  # why the first one was skipped
    history: list = dataclasses.field(default_factory=list)


# --- writing and reading ---


def write(run: Training) -> None:
    """Write the checkpoint of a run. All processes take part; only the first one writes."""
    state = run.ranks.gather_rows(leaves(run.state))
    if run.settings.follows or run.settings.checkpoint is None:
        return
    optimizer = run.optimizer.state_dict()
    arrays = {"parameters": run.model.storage.flat, "best": run.best}
    arrays |= {f"state.{i}": array for i, array in enumerate(state)}
    arrays |= {f"optimizer.{name}": value for name, value in optimizer.items() if isinstance(value, np.ndarray)}
    config = {
        "identity": run.identity,
        "position": dataclasses.asdict(run.at),
        "optimizer": {name: value for name, value in optimizer.items() if not isinstance(value, np.ndarray)},
        "schedule": run.schedule.state_dict(),
        "state": structure(run.state),
        "computed_by": _computed_by(),
    }
    storage.save(run.settings.checkpoint, arrays, config, kind="checkpoint")


def restore(run: Training) -> None:
    """Set a run to the position of its checkpoint.

    Raises
    ------
    ValueError
        The checkpoint is damaged, or belongs to another training.

    Warns
    -----
    RuntimeWarning
        The checkpoint was computed with other instructions or another BLAS.
    """
    folder = run.settings.checkpoint
    arrays, config = ({}, None) if run.settings.follows else storage.load(folder, kind="checkpoint")
    arrays, config = run.ranks.broadcast(arrays), run.ranks.agree(config)
    with of_file(file_of(run)):
        OBJECT.check(config.get("identity"), "identity")
    for name, mine in run.identity.items():
        theirs = config["identity"].get(name)
        if theirs != mine:
            raise ValueError(
                f"the checkpoint in {folder} was made with {name}={theirs!r:.200}, but now it is {mine!r:.200}: "
                "to continue, it must be the same"
            )
    if "position" in config:
        config["position"] = _with_current_names(config["position"])
    with of_file(file_of(run)):
        _continue_from(run, arrays, config)
    if config["computed_by"] != _computed_by():
        before, now = (", ".join(f"{k} {v}" for k, v in by.items()) for by in (config["computed_by"], _computed_by()))
        warnings.warn(
            f"the checkpoint was computed by {before}, now it is {now}: the bits may differ",
            RuntimeWarning,
            stacklevel=4,
        )


def file_of(run: Training) -> str:
    """The path of the configuration of a run's checkpoint, for messages."""
    return os.path.join(run.settings.checkpoint, storage.CONFIG_FILES["checkpoint"])


def _with_current_names(position):
    """A position in which a key of older versions has its present name."""
    if type(position) is dict and "looks_since_best" in position and "evaluations_since_best" not in position:
        position = dict(position)
        position["evaluations_since_best"] = position.pop("looks_since_best")
    return position


def _continue_from(run, arrays, config):
    """Check all of a checkpoint, then apply it."""
    check(
        config,
        arrays,
        flat=run.model.storage.flat,
        optimizer=run.optimizer.state_dict(),
        schedule=run.schedule.state_dict(),
        figures=() if run.validation is None else run.model.FIGURES,
    )
    parts = [run.ranks.rows_of(arrays[f"state.{k}"]) for k in range(count(config["state"]))]
    run.state = rebuilt(config["state"], iter(parts))
    if run.state is not None and hasattr(run.model, "check_state"):
        run.model.check_state(run.state, run.batches)
    with run.model.storage.updating() as flat:
        flat[:] = arrays["parameters"]
    run.best[:] = arrays["best"]
    moments = {name.removeprefix("optimizer."): a for name, a in arrays.items() if name.startswith("optimizer.")}
    run.optimizer.load_state_dict(config["optimizer"] | moments)
    run.schedule.load_state_dict(config["schedule"])
    run.at = Position(**config["position"])


def _computed_by():
    """What the bits of a run depend on besides its settings."""
    return {"isa": _engine.isa(), "blas": _engine.blas_core()}


# --- what a checkpoint may hold ---

_STATE = Rule(
    "null, 'array' or a list of these",
    lambda value: value in (None, "array") or (type(value) is list and all(map(_STATE.holds, value))),
)


def history(figures: tuple[str, ...] = ()) -> ListOf:
    """Make the rule of a history whose entries have at least these figures of the evaluations.

    Callbacks may add keys of their own, with any values.
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
            "evaluations_since_best": whole(),
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


def check(
    config: dict, arrays: Mapping, *, flat: np.ndarray, optimizer: dict, schedule: dict, figures: tuple[str, ...] = ()
) -> None:
    """Check that a checkpoint fits the training.

    Parameters
    ----------
    config : dict
        The configuration of the checkpoint.
    arrays : mapping
        The arrays of the checkpoint.
    flat : ndarray
        The parameters of the model.
    optimizer : dict
        The present ``state_dict()`` of the optimizer.
    schedule : dict
        The present ``state_dict()`` of the schedule.
    figures : tuple of str
        The figures of the evaluations that each entry of the history must have.

    Raises
    ------
    ValueError
        A key or an array does not fit; the message names the first one.
    """
    rules = {"position": _position(figures), "optimizer": OBJECT, "schedule": OBJECT, "state": _STATE}
    Record(rules | {"identity": OBJECT, "computed_by": Record({}, others=((".*", TEXT),))}).check(config)
    position = config["position"]
    if not position["history"] and (position["evaluated"] >= 0 or position["best_loss"] is not None):
        raise ValueError("position.history is empty, but position says that there was an evaluation")
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
    for some, what in (
        (names - arrays.keys(), "is missing"),
        (arrays.keys() - names, "does not belong to this training"),
    ):
        if some:
            raise ValueError(f"the array {shown(min(some))} {what}")
    for name, mine in wanted.items():
        theirs = arrays[name]
        if theirs.shape != mine.shape or theirs.dtype != mine.dtype:
            raise ValueError(
                f"the array {name} is {theirs.dtype} of shape {theirs.shape}, "
                f"but this model has {mine.dtype} of shape {mine.shape}"
            )
    for name in ("parameters", "best"):
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"the array {name} has NaN or infinite values")


def _alike(theirs, mine, key):
    """Check that a saved value has the type and the structure of the present one."""
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


# --- a state that is carried from batch to batch: None, an array, or a tuple of states ---


def structure(state) -> None | str | list:
    """The structure of a state, for JSON: None, "array", or a list of structures."""
    return None if state is None else "array" if isinstance(state, np.ndarray) else [structure(part) for part in state]


def leaves(state) -> list[np.ndarray]:
    """The arrays of a state, in order."""
    if state is None:
        return []
    return [state] if isinstance(state, np.ndarray) else [leaf for part in state for leaf in leaves(part)]


def count(how: None | str | list) -> int:
    """The number of arrays of a state with this structure."""
    return 0 if how is None else 1 if how == "array" else sum(map(count, how))


def rebuilt(how: None | str | list, parts: Iterator[np.ndarray]):
    """A state with this structure, from an iterator over its arrays."""
    return None if how is None else next(parts) if how == "array" else tuple(rebuilt(part, parts) for part in how)

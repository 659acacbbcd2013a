"""The speed goals of the project, and whether results reach them.

A ratio is the peer's time / fastrnn's time. A cell is lost if the whole 95 % interval of its ratio is below the figure
for a single cell. A goal is met if the geometric mean reaches its figure and no cell is lost.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from .grid import CELLS


@dataclasses.dataclass(frozen=True)
class Goal:
    """One goal.

    chosen : whether a result r belongs to the goal
    geomean : the figure for the geometric mean, or None
    worst : the figure for a single result, a function of r and the bytes of L2
    against : a peer's name; "best": the best peer of each case; "own": fastrnn itself on one thread
    """

    name: str
    geomean: float | None
    worst: Callable
    chosen: Callable
    threads: int = 1
    against: str = "best"


def weights(r):
    """Return the bytes of the weights of a layer in float32."""
    return 4 * CELLS[r["cell"]] * r["H"] * (r["I"] + r["H"])


def at_least(figure, beyond_l2=None):
    """Return `figure` for each case, or `beyond_l2` if the weights exceed L2."""
    return lambda r, l2: beyond_l2 if beyond_l2 is not None and weights(r) > l2 else figure


def kind(name, *cells, B=None):
    return lambda r: r["kind"] == name and r["cell"] in (cells or CELLS) and B in (None, r["B"])


def single(least, most):
    """Select inference and training with B = 1 and least <= H <= most."""
    return lambda r: r["kind"] in ("forward", "train") and r["B"] == 1 and least <= r["H"] <= most


GOALS = [
    Goal("inference", 1.35, at_least(0.95), kind("forward")),
    Goal("inference, B = 1", 1.7, at_least(1.2, 1.1), kind("forward", B=1)),
    Goal("training", 1.8, at_least(0.97), kind("train")),
    Goal("training, GRU and RNN", 2.0, at_least(1.2), kind("train", "gru", "rnn")),
    Goal("ragged training, against torch packed", 3.0, at_least(1.5), kind("ragged"), against="torch packed"),
    Goal("streaming step, against onnxruntime", 6.0, at_least(2.0, 1.4), kind("step"), against="onnxruntime"),
    Goal("character model LSTM, against torch", 1.7, at_least(1.7), kind("characters", "lstm"), against="torch"),
    Goal("character model GRU, against torch", 4.0, at_least(4.0), kind("characters", "gru"), against="torch"),
    Goal("character model RNN, against torch", 4.0, at_least(4.0), kind("characters", "rnn"), against="torch"),
    Goal("two threads, training", 1.8, at_least(0.97), kind("train"), 2),
    Goal(
        "two threads against one of ours, B >= 16",
        1.8,
        at_least(1.0),
        lambda r: r["kind"] in ("forward", "train") and r["B"] >= 16,
        2,
        "own",
    ),
    Goal("two threads against one of ours, B = 1, H 64 to 192", 1.4, at_least(1.0), single(64, 192), 2, "own"),
    Goal("two threads against one of ours, B = 1, H >= 256", 2.0, at_least(1.0), single(256, 10**9), 2, "own"),
    Goal("two threads against one of ours, all", None, at_least(1.0), lambda r: True, 2, "own"),
]


def geomean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def notch(times):
    """Return half the width of the 95 % interval of a median, relative to it (McGill, Tukey & Larsen 1978)."""
    return 1.57 * (times["q3"] - times["q1"]) / math.sqrt(times["blocks"]) / times["median"]


def ratio(r, against, one_thread):
    """Return {"median", "low", "high"} of a result against the peer of a goal, or None.

    fastrnn on one thread was measured in a separate run, so its interval comes from the quartiles of both.
    """
    if against == "own":
        own = one_thread.get(r["id"])
        if not own:
            return None
        one, several = own["times"]["fastrnn"], r["times"]["fastrnn"]
        median, width = one["median"] / several["median"], math.hypot(notch(one), notch(several))
        return {"median": median, "low": median * (1 - width), "high": median * (1 + width)}
    return r["ratios"].get(r["best_peer"] if against == "best" else against)


def judge(goal, content, one_thread):
    """Return the goal's row: geomean, the worst cell, and the lost ones; None if `content` (of one JSON) has no case.

    one_thread : {id: result} of the run on one thread
    """
    l2 = content["machine"]["caches"]["L2"]
    cells = [(r, ratio(r, goal.against, one_thread)) for r in content["results"] if goal.chosen(r)]
    cells = [(r, found) for r, found in cells if found]
    if not cells or content["threads"] != goal.threads:
        return None
    mean = geomean([found["median"] for _, found in cells])
    lost = [(r["id"], found) for r, found in cells if found["high"] < goal.worst(r, l2)]
    worst, found = min(cells, key=lambda cell: cell[1]["median"] / goal.worst(cell[0], l2))
    return {
        "name": goal.name,
        "geomean": mean,
        "goal": goal.geomean,
        "cells": len(cells),
        "worst": {"id": worst["id"], **found, "goal": goal.worst(worst, l2)},
        "lost": lost,
        "met": not lost and (goal.geomean is None or mean >= goal.geomean),
    }


def judgements(contents):
    """Return the rows of all goals for which the JSONs, by threads, have cases."""
    one_thread = {r["id"]: r for r in contents[1]["results"]} if 1 in contents else {}
    rows = [judge(goal, content, one_thread) for content in contents.values() for goal in GOALS]
    return [row for row in rows if row]

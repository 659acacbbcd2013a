"""One case: every peer is prepared and compared with the reference, then all are timed in turns.

Turns make disturbances of the machine affect all peers alike.
"""

from __future__ import annotations

import itertools
import statistics
import time
from pathlib import Path
from time import perf_counter

import numpy as np

from . import data, limits
from .peers import PEERS
from .workers import WorkerError

ROUNDS, FEWEST = 15, 5  # blocks of each peer: the intended number, if the time allows it, and the minimum
# Seconds of the rounds of a case: at least the first; after the second, stop as soon as the fewest rounds are done.
SECONDS, LONGEST = 2.5, 6.0
SLOW = 6.0  # a peer this many times slower than the best is dropped after the fewest rounds
# Seconds between turns. A worker whose threads may spin is stopped in between (workers.py); see `idle_cpu` in the JSON.
REST = 0.002
MOVED = 0.03  # a case is noisy if the clock moved, or others took of the CPUs, by more than this fraction
FIXED_PEER = {"ragged": "torch packed", "characters": "torch"}  # the peer of the ratio; otherwise the fastest


class WrongAnswer(RuntimeError):
    """fastrnn's own output is wrong."""


def chosen(*quiet):
    """Return the indices of the rounds to count, given for each peer whether each of its blocks was quiet.

    These are the rounds in which all were quiet, if there are enough, otherwise all rounds that all peers had.
    """
    rounds = list(zip(*quiet))
    good = [i for i, flags in enumerate(rounds) if all(flags)]
    return good if len(good) >= FEWEST else list(range(len(rounds)))


def spread(times, quiet):
    times = [times[i] for i in chosen(quiet)]
    q1, median, q3 = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    return {"median": median, "q1": q1, "q3": q3, "min": min(times), "blocks": len(times)}


def ratio(theirs, ours, seed=0):
    """Return the median over rounds of their time / our time, with its bootstrap 95 % interval.

    The result is {"median", "low", "high"}.
    """
    ratios = np.array(theirs) / ours
    drawn = np.random.default_rng(seed).integers(0, len(ratios), (1000, len(ratios)))
    low, high = np.percentile(np.median(ratios[drawn], axis=1), [2.5, 97.5])
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}


def paired(times, quiet, name):
    """Return the ratio of a peer's time to ours, over the rounds that both had."""
    rounds = chosen(quiet[name], quiet["fastrnn"])
    return ratio([times[name][i] for i in rounds], [times["fastrnn"][i] for i in rounds])


def steal():
    """Return (ticks taken by other guests, all ticks) of all CPUs so far; zeros if the system does not provide them."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0, 0
    ticks = [int(word) for word in stat.read_text().split("\n", 1)[0].split()[1:9]]
    return ticks[7], sum(ticks)


def set_up(case, workers):
    """Let all workers prepare the case: ({name: (worker, label)} of those to time, {name: facts} of all)."""
    want = data.truth(case)
    entries, facts = {}, {}
    for worker in workers:
        if case.kind not in PEERS[worker.name][3]:
            continue
        try:
            prepared = worker.ask("setup", case)
        except WorkerError as failure:
            facts[worker.name] = {"failed": str(failure).strip().splitlines()[-1]}
            if worker.name == "fastrnn":
                raise
            if not failure.alive:
                worker.restart()
            continue
        for label, shown in prepared.items():
            name = f"{worker.name} {label}".strip()
            error = data.error(shown["outputs"], want)
            facts[name] = {"variant": shown["variant"], "error": error, "trials": shown["trials"]}
            if error <= data.TOLERANCE:
                worker.ask("warm", label)
                entries[name] = (worker, label)
            elif worker.name == "fastrnn":
                raise WrongAnswer(f"{case.id}: {name} differs from the reference by {error:.2g} of the largest number")
            else:
                facts[name]["failed"] = f"wrong by {error:.2g} of the largest number"
    return entries, facts


def turns(entries, cold=False):
    """Time all entries in turns.

    Returns {name: seconds per call in each round}, {name: whether each block was quiet}, and the fraction of time for
    which fastrnn was kept from running. In each round every entry has one block; the order is rotated by one between
    rounds.
    """
    times, quiet, kept = {name: [] for name in entries}, {name: [] for name in entries}, []
    active, start, rounds = list(entries), perf_counter(), 0
    while True:
        for name in active[rounds % len(active) :] + active[: rounds % len(active)]:
            worker, label = entries[name]
            seconds, idle, undisturbed = worker.ask("block", label, cold)
            times[name].append(seconds)
            quiet[name].append(undisturbed)
            if name == "fastrnn":  # its calling thread always works; other libraries let theirs sleep
                kept.append(idle)
            time.sleep(REST)
        rounds += 1
        elapsed = perf_counter() - start
        if rounds >= FEWEST and (elapsed >= LONGEST or (rounds >= ROUNDS and elapsed >= SECONDS)):
            return times, quiet, statistics.fmean(kept)
        if rounds == FEWEST:
            best = min(statistics.median(t) for t in times.values())
            active = [name for name in active if name == "fastrnn" or statistics.median(times[name][:2]) <= SLOW * best]


def watched_turns(entries, fastrnn, cold=False):
    """Run `turns` and report how quiet the machine was.

    It was noisy if the clock moved, or if other guests or other programs took too much of the CPUs.
    """
    stolen, ticks = steal()
    before = fastrnn.ask("proxy")
    times, quiet, kept = turns(entries, cold)
    after = fastrnn.ask("proxy")
    stolen_after, ticks_after = steal()
    moved = abs(after / before - 1)
    taken = (stolen_after - stolen) / max(1, ticks_after - ticks)
    noisy = max(moved, taken, kept) > MOVED
    disturbed = 1 - statistics.fmean(itertools.chain(*quiet.values()))
    watched = {"proxy_seconds": [before, after], "steal": taken, "preempted": kept}
    return times, quiet, {**watched, "disturbed": disturbed, "noisy": noisy}


def measure(case, workers, measured_limits, threads, cold=False):
    """Measure one case and return its entry of the JSON."""
    fastrnn = next(worker for worker in workers if worker.name == "fastrnn")
    start = perf_counter()
    entries, facts = set_up(case, workers)
    times, quiet, watched = watched_turns(entries, fastrnn, cold)
    if watched["noisy"]:
        times, quiet, watched = watched_turns(entries, fastrnn, cold)
    took = perf_counter() - start
    seconds, what = limits.bound(case, measured_limits, threads)
    result = {"id": case.id, "kind": case.kind, "cell": case.cell, "T": case.T, "B": case.B, "I": case.I, "H": case.H}
    result |= {"flops": case.flops, "valid": case.valid, "limit_seconds": seconds, "limit_bound": what}
    result["times"] = {name: {**spread(times[name], quiet[name]), **facts[name]} for name in times}
    result["failed"] = {name: fact["failed"] for name, fact in facts.items() if "failed" in fact}
    result["ratios"] = {name: paired(times, quiet, name) for name in times if name != "fastrnn"}
    peers = [name for name in times if not name.startswith("fastrnn")]
    best = FIXED_PEER.get(case.kind) or min(peers, key=lambda name: result["times"][name]["median"], default=None)
    best = best if best in peers else None
    against = result["ratios"].get(best, dict.fromkeys(("median", "low", "high")))
    result |= {
        "best_peer": best,
        "ratio": against["median"],
        "ratio_low": against["low"],
        "ratio_high": against["high"],
    }
    return {**result, **watched, "seconds": took}

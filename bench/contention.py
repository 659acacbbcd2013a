"""Compare two threads with one while other work runs: ``python -m bench.contention [--scenario NAME]``.

Users share their cores with browsers, other processes and the thread pools of other libraries. The same calls are made
on one thread and on two, in turns, in four scenarios: nothing else runs ("quiet"), one process computes on one core
("one busy"), four processes compute ("four busy"), and torch's thread pool in the same process has just worked
("torch"). A ratio above 1 means that two threads are faster; the goal is that no ratio is much below 1. torch.nn is
measured in the same way for comparison, and so is one thread against itself ("control"), which shows how much chance
alone moves the ratios.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from time import perf_counter

import numpy as np

import fastrnn

BATCHES = {1: (64, 40, 192), 7: (50, 40, 96), 20: (50, 40, 48), 200: (40, 40, 64)}  # B: T, I, H
CELLS, MODES = ("LSTM", "RNN"), ("forward", "training")
SCENARIOS = {"quiet": 0, "one busy": 1, "four busy": 4, "torch": 0}
BUSY = "import numpy as np\na = np.ones(1 << 16)\nwhile True: a = a * 1.0000001"


def cases():
    """Return the 16 cases: (cell, mode, T, B, I, H)."""
    return [(cell, mode, T, B, I, H) for (B, (T, I, H)), cell, mode in itertools.product(BATCHES.items(), CELLS, MODES)]


def ours(cell, mode, T, B, I, H):
    """Return fastrnn's call to measure, a function of the number of threads."""
    net = getattr(fastrnn, cell)(I, H, seed=0)
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((T, B, I)).astype("float32"), rng.standard_normal((T, B, H)).astype("float32")

    def call(threads):
        with fastrnn.threads(threads):
            if mode == "forward":
                return net(x)[0]
            (y, _), backward = net.vjp(x)
            backward(dy, need_x=True)
            return y

    return call


def control(*case):
    """Return fastrnn's call on one thread, whatever the number of threads."""
    call = ours(*case)
    return lambda threads: call(1)


def theirs(cell, mode, T, B, I, H):
    """Return torch.nn's call to measure."""
    import torch

    net = getattr(torch.nn, cell)(I, H)
    x, dy = torch.randn(T, B, I, requires_grad=mode == "training"), torch.randn(T, B, H)

    def call(threads):
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if mode == "forward":
            with torch.no_grad():
                return net(x)[0]
        y = net(x)[0]
        y.backward(dy)
        return y

    return call


def seconds(call, threads, before, least=0.1):
    """Return the times of at least 3 calls that take at least `least` seconds together."""
    taken = []
    call(threads)
    while sum(taken) < least or len(taken) < 3:
        before()
        start = perf_counter()
        call(threads)
        taken.append(perf_counter() - start)
    return taken


def compared(call, before, rounds):
    """Return one thread's time / two threads' time, median and mean of all calls, measured in turns."""
    taken = {1: [], 2: []}
    for k in range(rounds):
        for threads in ((1, 2), (2, 1))[k % 2]:
            taken[threads] += seconds(call, threads, before)
    return {
        name: figure(taken[1]) / figure(taken[2])
        for name, figure in (("median", statistics.median), ("mean", statistics.fmean))
    }


def torch_pool():
    """Return a function that keeps torch's threads busy for a moment."""
    import torch

    a = torch.randn(400, 400)
    torch.set_num_threads(2)
    return lambda: a @ a


def measure(scenario, peers, rounds):
    """Measure all cases in one scenario: [{"scenario", "case", "peer", "median", "mean"}]."""
    found = []
    busy = [subprocess.Popen([sys.executable, "-I", "-c", BUSY]) for _ in range(SCENARIOS[scenario])]
    if len(busy) == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(busy[0].pid, {min(os.sched_getaffinity(0))})
    try:
        time.sleep(0.5)
        before = torch_pool() if scenario == "torch" else lambda: None
        for case in cases():
            for name, make in peers.items():
                call = make(*case)
                if name == "fastrnn":
                    assert call(1).tobytes() == call(2).tobytes(), case
                found.append({"scenario": scenario, "case": case, "peer": name, **compared(call, before, rounds)})
    finally:
        for process in busy:
            process.kill()
            process.wait()
    return found


def geomean(values):
    return math.exp(statistics.fmean(map(math.log, values)))


def table(found):
    """Return a line for each case, then the geometric means and the worst ratios."""
    lines = []
    for entry in found:
        cell, mode, T, B, I, H = entry["case"]
        figures = f"median {entry['median']:5.2f}  mean {entry['mean']:5.2f}"
        lines.append(f"{entry['scenario']:10} {entry['peer']:8} {cell:5} {mode:9} T{T} B{B} I{I} H{H}: {figures}")
    for scenario, peer in sorted({(entry["scenario"], entry["peer"]) for entry in found}):
        mine = [entry for entry in found if (entry["scenario"], entry["peer"]) == (scenario, peer)]
        for figure in ("median", "mean"):
            ratios = [entry[figure] for entry in mine]
            lines.append(
                f"{scenario:10} {peer:8} {figure:7} of calls: geomean {geomean(ratios):.2f}, worst {min(ratios):.2f}"
            )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scenario", choices=SCENARIOS, action="append", help="all of them if not given")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--without-torch", action="store_true")
    parser.add_argument("--out", type=Path, help="a JSON file with the figures")
    options = parser.parse_args()
    own = {"fastrnn": ours, "control": control}
    peers = own if options.without_torch else own | {"torch.nn": theirs}
    found = []
    for scenario in options.scenario or SCENARIOS:
        found += measure(scenario, peers if scenario != "torch" else own, options.rounds)
    print(table(found))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

"""Two threads against one while other work is on the machine: ``python -m bench.contention [--scenario NAME]``.

Users share their cores with browsers, other processes and the thread pools of other libraries. Here the same calls are made on one thread
and on two, in turns, while nothing else runs ("quiet"), while one process computes on one core ("one busy"), while four do ("four busy"), and
while the pool of torch, which is in the same process, has just worked ("torch"). A ratio above 1 says that two threads are faster; what
this project wants is that none is much below 1. torch.nn is measured beside it in the same way.
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
    """The 16 cases: (cell, mode, T, B, I, H)."""
    return [(cell, mode, T, B, I, H) for (B, (T, I, H)), cell, mode in itertools.product(BATCHES.items(), CELLS, MODES)]


def ours(cell, mode, T, B, I, H):
    """The call that is measured, of fastrnn: it takes the number of threads."""
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


def torchs(cell, mode, T, B, I, H):
    """The same of torch.nn."""
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
    """Times of calls that take so long together."""
    taken = []
    call(threads)
    while sum(taken) < least or len(taken) < 3:
        before()
        start = perf_counter()
        call(threads)
        taken.append(perf_counter() - start)
    return taken


def compared(call, before, rounds):
    """One thread's time over two threads', median and mean of all calls, measured in turns."""
    taken = {1: [], 2: []}
    for k in range(rounds):
        for threads in ((1, 2), (2, 1))[k % 2]:
            taken[threads] += seconds(call, threads, before)
    return {
        name: figure(taken[1]) / figure(taken[2])
        for name, figure in (("median", statistics.median), ("mean", statistics.fmean))
    }


def torch_pool():
    """A function that lets torch's threads work for a moment."""
    import torch

    a = torch.randn(400, 400)
    torch.set_num_threads(2)
    return lambda: a @ a


def measure(scenario, peers, rounds):
    """[{"case", "peer", "median", "mean"}] of all cases in one scenario."""
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
    """Lines of the cases, then the geometric mean and the worst."""
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
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--without-torch", action="store_true")
    parser.add_argument("--out", type=Path, help="a JSON file with the figures")
    options = parser.parse_args()
    peers = {"fastrnn": ours} if options.without_torch else {"fastrnn": ours, "torch.nn": torchs}
    found = []
    for scenario in options.scenario or SCENARIOS:
        found += measure(scenario, peers if scenario != "torch" else {"fastrnn": ours}, options.rounds)
    print(table(found))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

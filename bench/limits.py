"""The limits of the core (peak rate of multiply-adds, read bandwidths), and the time of a case at these limits.

Compute: all multiply-adds at the peak. Weights: the recurrent weights are read once in each step, and once more in each
backward step, from the smallest level of cache that holds them. Chain: each output of a step is a sum in a fixed order,
so one multiply-add waits for the other, and the step for the one before. The recurrence takes the longest of the three.
The work that does not depend on the previous step (input side, gradients of weights and x) is added at the peak.
Elementwise functions are counted as free, so no program reaches the limit. A program that divides the sums could do
better than the chain. n threads have n times the peak, and 1/n of the weights each.
"""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter

from fastrnn import _engine

CHAINS = 12  # vectors in fma_loop and read_loop
ROOM = {"L1": 0.8, "L2": 0.9, "L3": 1.0}  # the fraction of a cache that weights can occupy
FALLBACK = {"L1": 32 << 10, "L2": 1 << 20, "L3": 16 << 20}


def caches():
    """Return the sizes in bytes of the data caches of CPU 0: {"L1", "L2", "L3"}."""
    sizes = dict(FALLBACK)
    for folder in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            if (folder / "type").read_text().strip() != "Instruction":
                kilobytes = int((folder / "size").read_text().strip().rstrip("K"))
                sizes["L" + (folder / "level").read_text().strip()] = kilobytes << 10
        except (OSError, ValueError):  # a virtual machine may hide it
            continue
    return {level: sizes[level] for level in FALLBACK}


def fma_seconds(n, repeats, one_chain=False):
    """Return the shortest of `repeats` times of the loop."""
    times = []
    for _ in range(repeats):
        start = perf_counter()
        _engine.fma_loop(n, one_chain)
        times.append(perf_counter() - start)
    return min(times)


def frequency_proxy():
    """Return the seconds of a fixed amount of work, about 2 ms, which depend only on the clock frequency."""
    return fma_seconds(400_000, 5)


def read_gbps(size, seconds=0.05):
    """Return the best rate in GB/s of reading a buffer of about `size` bytes repeatedly."""
    group = CHAINS * _engine.vector_lanes(False)
    a = _engine.aligned_empty(max(1, size // 4 // group) * group, "float32")
    a.fill(1)
    times = max(1, (4 << 20) // a.nbytes)
    best, end = float("inf"), perf_counter() + seconds
    while perf_counter() < end or best == float("inf"):
        start = perf_counter()
        _engine.read_loop(a, times)
        best = min(best, perf_counter() - start)
    return a.nbytes * times / best / 1e9


def measure():
    """Measure one core in float32.

    Returns {"fma_gflops", "chain_seconds": of one multiply-add that the next one waits for, "read_gbps": {"L1", "L2",
    "L3", "DRAM"}, "caches": bytes, "isa", "cpus"}.
    """
    fma_seconds(1_000_000, 20)  # warm up
    n = 1_000_000
    peak = 2 * CHAINS * _engine.vector_lanes(False) * n / fma_seconds(n, 10) / 1e9
    chain = fma_seconds(n, 10, one_chain=True) / n
    size = caches()
    between = min(size["L3"] // 2, max(4 * size["L2"], 8 << 20))
    dram = min(max(3 * size["L3"], 64 << 20), 256 << 20)
    buffers = {"L1": size["L1"] // 2, "L2": size["L2"] // 2, "L3": between, "DRAM": dram}
    gbps = {level: read_gbps(b, 0.4 if level == "DRAM" else 0.1) for level, b in buffers.items()}
    found = {"fma_gflops": peak, "chain_seconds": chain, "read_gbps": gbps, "caches": size}
    return found | {"isa": _engine.isa(), "cpus": os.cpu_count()}


def level(size, sizes):
    """Return the smallest level of cache that holds `size` bytes of weights."""
    return next((name for name, room in ROOM.items() if size <= room * sizes[name]), "DRAM")


def bound(case, limits, threads):
    """Return (seconds, bound) of the case at the limits.

    The bound is "compute", "chain", "L1", "L2", "L3" or "DRAM".
    """
    peak = limits["fma_gflops"] * 1e9 * threads
    recurrent, other = case.products
    passes, alone = (2, recurrent) if case.trains else (1, 0)  # alone: the gradient of the weights, no recurrence
    terms = case.H * (1 + case.G if case.trains else 1) + (case.I if case.kind == "step" else 0)
    chain = case.T * case.layers * terms * limits.get("chain_seconds", 0.0)  # older results do not have it
    if case.kind == "step":
        recurrent, other = recurrent + other, 0
    weights = case.G * case.H * (case.H + (case.I if case.kind == "step" else 0)) * 4 / threads
    where = level(weights, limits["caches"])
    reading = case.T * case.layers * passes * weights / (limits["read_gbps"][where] * 1e9)
    computing = 2 * case.valid * recurrent * passes / peak
    rest = 2 * case.valid * (other * (3 if case.trains else 1) + alone) / peak
    longest = max(reading, computing, chain)
    return longest + rest, {computing: "compute", reading: where, chain: "chain"}[longest]

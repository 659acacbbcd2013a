"""What every benchmark result must say about where it was measured, and how two rivals are timed in turns."""

import contextlib
import datetime
import gc
import io
import json
import os
import platform
import statistics
import subprocess
from pathlib import Path
from time import perf_counter

import numpy as np

import fastrnn

RESULTS = Path(os.environ.get("FASTRNN_BENCH_RESULTS", "build/bench"))


def cpu_model():
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit():
    """The commit of the sources beside this file, with `+changes` if they differ from it; None outside a clone."""
    root = Path(__file__).parent
    with contextlib.suppress(OSError, subprocess.CalledProcessError):

        def git(*words):
            return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    return None


def record():
    """CPU, versions, the configuration of fastrnn (ISA, BLAS, threads, compiler), commit and environment."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        fastrnn.show_config()
    versions = {"python": platform.python_version(), "numpy": np.__version__, "fastrnn": fastrnn.__version__}
    with contextlib.suppress(ImportError):
        import torch

        versions["torch"] = torch.__version__
    prefixes = ("OPENBLAS_", "OMP_", "MKL_", "KMP_", "FASTRNN_")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(),
        "versions": versions,
        "load": os.getloadavg() if hasattr(os, "getloadavg") else None,  # above the process's own 1 something else ran too
        "config": shown.getvalue().splitlines(),
        "commit": commit(),
        "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith(prefixes)},
    }


def write(name, results, **more):
    """Results with the record of the machine, as build/bench/NAME.json; returns the path."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": record(), **more, "results": results}, indent=1) + "\n")
    return path


def in_turns(runs, seconds, block=0.02):
    """Seconds per call of each run: {name: {"median", "min", "q1", "q3", "blocks"}}.

    The runs take turns, a block of calls each, so that what else happens on the machine hits all alike. A block is as many calls as
    take about `block` seconds, and its time is the mean of its calls.
    """
    calls = {}
    for name, run in runs.items():
        for _ in range(3):
            run()  # packing, caches, pools
        start = perf_counter()
        run()
        calls[name] = max(1, round(block / (perf_counter() - start)))
    times = {name: [] for name in runs}
    gc.collect()
    gc.disable()  # a collection in one rival's block would be charged to it; neither makes cycles
    try:
        end = perf_counter() + seconds * len(runs)
        while perf_counter() < end or min(map(len, times.values())) < 5:
            for name, run in runs.items():
                start = perf_counter()
                for _ in range(calls[name]):
                    run()
                times[name].append((perf_counter() - start) / calls[name])
    finally:
        gc.enable()
    return {name: spread(t) for name, t in times.items()}


def spread(times):
    q1, median, q3 = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    return {"median": median, "min": min(times), "q1": q1, "q3": q3, "blocks": len(times)}


def markdown(head, rows):
    """A table for README or a commit message."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)

"""Collects what the benchmarks measured; at the end writes build/bench/step.json and prints the table."""

import os
import sys
from pathlib import Path

import pytest

# `bench` is found from the root of the sources, which comes last: an installed fastrnn goes before the one beside it.
sys.path.append(str(Path(__file__).parent.parent))

from bench import machine

RESULTS = []


def pytest_addoption(parser):
    parser.addoption("--seconds", type=float, default=1.0, help="how long each rival is measured in each case")


@pytest.fixture(scope="session", autouse=True)
def one_cpu():
    """The process stays on one CPU: both rivals run on one thread."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    yield
    os.sched_setaffinity(0, allowed)


@pytest.fixture
def results():
    return RESULTS


def table(results):
    rows = []
    for r in results:
        ours, theirs = r["fastrnn"], r["torch"]
        spread = "{:.0f}-{:.0f} / {:.0f}-{:.0f}".format(*(1e6 * t[q] for t in (ours, theirs) for q in ("q1", "q3")))
        ratio = theirs["median"] / ours["median"]
        rows.append(
            [r["cell"], r["mode"], r["T"], r["B"], r["H"], f"{1e6 * ours['median']:.0f}", f"{1e6 * theirs['median']:.0f}", spread, f"{ratio:.2f}"]
        )
    return machine.markdown(["cell", "mode", "T", "B", "I=H", "fastrnn µs", "torch µs", "quartiles µs", "torch / fastrnn"], rows)


def pytest_terminal_summary(terminalreporter):
    if RESULTS:
        path = machine.write("step", RESULTS, unit="seconds per call", threads=1, dtype="float32")
        terminalreporter.write_line(f"\n{table(RESULTS)}\n\nwritten to {path}")

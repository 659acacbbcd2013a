"""Fixtures, and the header of a test report: which instruction sets and which BLAS were tested."""

import gc
import importlib.util
import os

import fuzz
import hypothesis
import numpy as np
import pytest

import fastrnn
from fastrnn import _engine, cli
from fastrnn._core import memory

os.environ.setdefault("KERAS_BACKEND", "torch")  # before anything imports Keras
os.environ.setdefault(
    "OMP_WAIT_POLICY", "passive"
)  # torch's idle threads must not spin: other test processes need the cores

# What tests need beyond the runtime dependencies, by marker name. The run reports what was not tested without them.
NEEDS = {
    "torch": "parity with torch",
    "onnxruntime": "the ONNX backend and export",
    "keras": "the Keras layers and files",
    "sklearn": "the scikit-learn estimators",
    "skorch": "training with skorch",
    "pandas": "data frames as input of the estimators",
    "joblib": "use in joblib's workers",
    "threadpoolctl": "the limits that it sets",
    "matplotlib": "drawing",
    "tensorboardX": "the TensorBoard log",
    "soundfile": "WAV files other than 16-bit PCM",
    "mpi4py": "training on several processes",
}
MISSING = {
    name: f"{name} is not installed: {what} is NOT tested"
    for name, what in NEEDS.items()
    if importlib.util.find_spec(name) is None
}


def _poisoned(make):
    return lambda *args, **kwargs: fuzz.poison(make(*args, **kwargs))


# Unwritten memory is NaN, new or reused, so that a result that was never written is noticed.
np.empty, np.empty_like = _poisoned(np.empty), _poisoned(np.empty_like)
_take = memory.Pool.take


def _take_poisoned(pool, layout):
    array, views = _take(pool, layout)
    return fuzz.poison(array), views


memory.Pool.take = _take_poisoned

hypothesis.settings.register_profile(
    "fastrnn",
    deadline=None,  # a first example builds and packs a network
    derandomize=True,  # the same examples in every run, for everyone
    max_examples=12,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("fastrnn")


def pytest_report_header(config):
    lines = [f"fastrnn: instruction sets tested: {', '.join(_engine.available_isas())}; in use: {_engine.isa()}"]
    return lines + [f"fastrnn: {why}" for why in MISSING.values()]


def pytest_collection_modifyitems(config, items):
    for item in items:
        for name, why in MISSING.items():
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=why))


def pytest_collection_finish():
    """Exclude objects left by the imports, mostly torch's and Keras', from every gc.collect() in a test."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # one of several pytest-xdist processes
        session.config.workeroutput["random cases"] = fuzz.counts


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Add up the counts of the pytest-xdist processes."""
    for test, count in getattr(node, "workeroutput", {}).get("random cases", {}).items():
        fuzz.counts[test] = fuzz.counts.get(test, 0) + count


def pytest_terminal_summary(terminalreporter):
    if fuzz.counts:
        terminalreporter.write_line(f"random cases: {sum(fuzz.counts.values())}")
    skipped = {
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple)
    }
    for why in [
        *MISSING.values(),
        *sorted(why for why in skipped if "NOT tested" in why and why not in MISSING.values()),
    ]:
        terminalreporter.write_line(f"WARNING: {why}", yellow=True)


@pytest.fixture(params=_engine.available_isas())
def isa(request):
    """Set each instruction set of this CPU in turn, and restore the engine's own choice afterwards."""
    kept = _engine.isa()
    _engine.set_isa(request.param)
    yield request.param
    _engine.set_isa(kept)


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run the command in an empty directory: (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        status = cli.main([str(a) for a in arguments])
        return status, *capsys.readouterr()

    return call


@pytest.fixture(autouse=True)
def thread_count_is_restored():
    """Restore the number of threads, so that a failing test does not change it for later tests."""
    kept = fastrnn.get_num_threads()
    yield
    fastrnn.set_num_threads(kept)

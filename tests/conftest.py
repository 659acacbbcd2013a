"""Fixtures, and what the head of a test report must say: which instruction sets and which BLAS were tested."""

import importlib.util

import hypothesis
import pytest

import fastrnn
from fastrnn import _engine

HAS_TORCH = importlib.util.find_spec("torch") is not None
NO_TORCH = "torch is not installed: parity with torch is NOT tested"

hypothesis.settings.register_profile(
    "fastrnn",
    deadline=None,  # a first example builds and packs a network
    derandomize=True,  # the same examples on every run: a failure is a failure for everyone
    max_examples=12,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("fastrnn")


def pytest_report_header(config):
    lines = [f"fastrnn: instruction sets tested: {', '.join(_engine.available_isas())}; in use: {_engine.isa()}"]
    if not HAS_TORCH:
        lines.append(f"fastrnn: {NO_TORCH}")
    return lines


def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.get_closest_marker("torch") and not HAS_TORCH:
            item.add_marker(pytest.mark.skip(reason=NO_TORCH))


def pytest_terminal_summary(terminalreporter):
    if not HAS_TORCH:
        terminalreporter.write_line(f"WARNING: {NO_TORCH}", yellow=True)


@pytest.fixture(params=_engine.available_isas())
def isa(request):
    """Every instruction set this CPU has, in turn; the engine's own choice is restored afterwards."""
    kept = _engine.isa()
    _engine.set_isa(request.param)
    yield request.param
    _engine.set_isa(kept)


@pytest.fixture(autouse=True)
def thread_count_is_restored():
    """A test that fails half way must not change the number of threads of the tests after it."""
    kept = fastrnn.get_num_threads()
    yield
    fastrnn.set_num_threads(kept)

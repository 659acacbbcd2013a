"""Run Python code in its own process, for what must not happen in the process of the tests."""

import os
import subprocess
import sys
from pathlib import Path

import fastrnn

TESTS = Path(__file__).parent
ROOT = TESTS.parent
TIMEOUT = 1200 if "LD_PRELOAD" in os.environ else 120  # seconds; sanitizers are slow
PACKAGE = Path(fastrnn.__file__).parent  # the package under test: installed, or built in place


def environment(**more):
    """Return this environment without anything that configures fastrnn or another thread pool."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FASTRNN_", "OMP_", "OPENBLAS_", "MKL_"))}
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PACKAGE.parent), str(TESTS), kept.get("PYTHONPATH")]))
    return {**kept, **more}


def python(code, *arguments, timeout=TIMEOUT, options=(), **variables):
    """Run code, wait, and return the finished process: .returncode, .stdout, .stderr."""
    return subprocess.run(
        [sys.executable, *options, "-c", code, *map(str, arguments)],
        cwd=TESTS,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def output(code, *arguments, **options):
    """Run code that must succeed, and return what it printed."""
    done = python(code, *arguments, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout

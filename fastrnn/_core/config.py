"""The configuration of this build and of the machine."""

from __future__ import annotations

import platform
import sys

from fastrnn import _engine
from fastrnn._core.threads import MAX_THREADS


def config() -> dict[str, object]:
    """Return the configuration: version, instruction sets, BLAS, threads, versions of Python and NumPy, environment.

    Returns
    -------
    dict
        The configuration by name. ``threads_paused`` tells for how many ``seconds`` calls will still use one thread
        only, because other programs use the other cores, and how many ``failures`` of this kind there have been.

    Examples
    --------
    >>> sorted(config())[:3]
    ['blas', 'compiler', 'cpu']
    """
    import os

    import numpy

    import fastrnn

    prefixes = ("FASTRNN_", "OPENBLAS_", "OMP_", "MKL_", "GOTO_")
    return {
        "version": fastrnn.__version__,
        "isa": _engine.isa(),
        "isas": _engine.available_isas(),
        "blas": _engine.blas_core() or "built-in product",
        "threads": _engine.current_threads(),
        "threads_paused": dict(zip(("seconds", "failures"), _engine.threads_paused())),
        "cpu": _cpu_model(),
        "compiler": _engine.compiler(),
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(prefixes)},
    }


def _cpu_model():
    if sys.platform == "linux":
        with open("/proc/cpuinfo") as f:
            for line in f:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _threads_now(seconds, failures):
    """Whether calls are divided among threads at present, and if not, why."""
    if not failures:
        return "calls are divided among them; no call has waited for a busy core"
    times = f"{failures} call{'s' * (failures > 1)} waited for a core on which other work was running"
    if not seconds:
        return f"calls are divided among them; {times}"
    return f"calls use one thread for the next {1000 * seconds:.0f} ms: {times}"


def show_config() -> None:
    """Print the configuration: version, instruction sets, BLAS, threads, compiler, environment.

    Examples
    --------
    >>> show_config()  # doctest: +ELLIPSIS
    fastrnn ...
    """
    c = config()
    environment = ", ".join(f"{k}={v}" for k, v in c["environment"].items()) or "nothing set that matters"
    print(f"fastrnn      {c['version']}")
    print(f"ISA          {c['isa']}  (this CPU can run: {', '.join(c['isas'])})")
    print(f"BLAS         {c['blas']}")
    print(f"threads      {c['threads']}{' (the most that a call uses)' if c['threads'] == MAX_THREADS else ''}")
    if c["threads"] > 1:
        print(f"             {_threads_now(**c['threads_paused'])}")
    print(f"CPU          {c['cpu']}")
    print(f"compiler     {c['compiler']}")
    print(f"Python       {c['python']}, NumPy {c['numpy']}, {c['platform']}")
    print(f"environment  {environment}")

"""Read a file in another process first: on some files HDF5's library loops without end, takes all memory or crashes.

This file is also the program that the other process runs. It runs in Python's isolated mode, so that no module is
imported from the current folder, which is often the folder of the file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

_ERRORS = {
    "ValueError": ValueError,
    "NotImplementedError": NotImplementedError,
    "OSError": OSError,
    "MemoryError": MemoryError,
    "ImportError": ImportError,
}
_MEMORY = 2 << 30  # bytes of address space, in addition to a multiple of the file's size
_SECONDS = 30


def run(path, config, seconds=_SECONDS):
    """Raise the error of reading the file, or a ValueError if the process did not finish. Takes about half a second."""
    size = os.path.getsize(path)
    job = {"package": str(Path(__file__).parents[1]), "path": path, "config": config, "memory": _MEMORY + 8 * size}
    try:
        done = subprocess.run(
            command(__file__),
            input=json.dumps(job | {"places": places()}),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds + size / 1e7,
            env={**os.environ, "FASTRNN_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"{path} is broken: HDF5's library did not finish in {seconds} s and was stopped") from None
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ValueError(f"{path} is broken: reading it ended a trial process with status {done.returncode}: {last[0]}")
    error, text = json.loads(lines[-1])
    if error is not None:
        raise _ERRORS.get(error, ValueError)(text)


def command(program):
    """The command that runs a Python program without importing modules from the current folder."""
    return [sys.executable, "-I", *(["-X", "utf8"] if sys.flags.utf8_mode else []), program]


def places():
    """The folders that this process imports from, for an isolated one, which ignores PYTHONPATH and user packages.

    The current folder is the last of them, so that modules in it do not replace others.
    """
    here = os.path.realpath(os.curdir)
    found = [os.path.abspath(entry) for entry in sys.path if isinstance(entry, str)]
    return sorted(dict.fromkeys(found), key=lambda entry: os.path.realpath(entry) == here)


def _import_from(package, places):
    """Import from the parent's folders, after Python's own, and fastrnn from the parent's package in any case."""
    import importlib.util

    own = [entry for entry in sys.path if "site-packages" not in entry and "dist-packages" not in entry]
    sys.path[:] = own + [entry for entry in places if entry not in own]
    start = os.path.join(package, "__init__.py")
    spec = importlib.util.spec_from_file_location("fastrnn", start, submodule_search_locations=[package])
    sys.modules["fastrnn"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["fastrnn"])


def _child():
    """The program of the other process: read the file, and print [None, ""] or an error's [class, text]."""
    job = json.loads(sys.stdin.buffer.read())
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (job["memory"], job["memory"]))
    except (ImportError, ValueError, OSError):
        pass  # Windows, macOS: only the time limit and the checks of sizes remain
    _import_from(job["package"], job["places"])
    from fastrnn.keras import _load

    try:
        _load.read(job["path"], job["config"], verify=False)
        result = [None, ""]
    except tuple(_ERRORS.values()) as error:
        result = [next(name for name, cls in _ERRORS.items() if isinstance(error, cls)), str(error)]
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    _child()

"""Read a file in a process of its own first: HDF5's library has files on which it never ends, takes all memory or crashes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

_ERRORS = {"ValueError": ValueError, "NotImplementedError": NotImplementedError, "OSError": OSError}
_CODE = "import sys; sys.path.insert(0, sys.argv[1]); from fastrnn.keras import _trial; _trial.child(sys.argv[2], int(sys.argv[3]))"
_MEMORY = 2 << 30  # bytes of address space, beside what the file's own size asks for
_SECONDS = 30


def run(path, config, seconds=_SECONDS):
    """Raise what reading the file raises, or a ValueError if the process did not come to its end. Takes about half a second."""
    size = os.path.getsize(path)
    command = [sys.executable, "-c", _CODE, str(Path(__file__).parents[2]), path, str(_MEMORY + 8 * size)]
    quiet = {**os.environ, "FASTRNN_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, input=json.dumps(config), capture_output=True, text=True, timeout=seconds + size / 1e7, env=quiet)
    except subprocess.TimeoutExpired:
        raise ValueError(f"{path} is broken: HDF5's library did not come to an end in {seconds} s, and was stopped") from None
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ValueError(f"{path} is broken: reading it ended a trial process with status {done.returncode}: {last[0]}")
    error, text = json.loads(lines[-1])
    if error is not None:
        raise _ERRORS.get(error, ValueError)(text)


def child(path, memory):
    """The other side: read, and print [None, ""] or an error's [class, text]."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    except (ImportError, ValueError, OSError):
        pass  # Windows, macOS: the limit of time and the checks of sizes remain
    from fastrnn.keras import _load

    try:
        _load.read(path, json.load(sys.stdin), verify=False)
        result = [None, ""]
    except (ValueError, NotImplementedError, OSError, MemoryError) as error:
        result = [type(error).__name__, str(error)]
    print(json.dumps(result), flush=True)

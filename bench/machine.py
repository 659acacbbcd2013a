"""The machine that a result was measured on; writing of JSON and tables."""

import contextlib
import datetime
import io
import json
import os
import platform
import subprocess
from pathlib import Path

import numpy as np

import fastrnn

POOLS = ("OPENBLAS_", "OMP_", "GOMP_", "MKL_", "KMP_", "XLA_")  # environment variables of thread pools and BLAS


def cpu_model():
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit():
    """Return the commit of the sources of this file, with `+changes` if they differ from it; None outside a clone."""
    root = Path(__file__).parent
    if not (root.parent / ".git").exists():  # installed: git would search the parent folders, which are not ours
        return None
    with contextlib.suppress(OSError, subprocess.CalledProcessError):

        def git(*words):
            return subprocess.run(
                ["git", "-c", "core.fsmonitor=false", *words], cwd=root, capture_output=True, text=True, check=True
            ).stdout.strip()

        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    return None


def record():
    """Return CPU, versions, the configuration of fastrnn (ISA, BLAS, threads, compiler), commit and environment."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        fastrnn.show_config()
    versions = {"python": platform.python_version(), "numpy": np.__version__, "fastrnn": fastrnn.__version__}
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(),
        "versions": versions,
        # A load above 1, which is this process's own, means that other programs were running.
        "load": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "config": shown.getvalue().splitlines(),
        "commit": commit(),
        "environment": {
            name: value for name, value in sorted(os.environ.items()) if name.startswith((*POOLS, "FASTRNN_"))
        },
    }


def write(path, content):
    """Write `content` as JSON. A concurrent reader sees the complete old or new file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(new, path)


def markdown(head, rows):
    """Return a table for README or a commit message. Characters that would end a cell or start HTML are escaped."""
    head, rows = ([[_plain(cell) for cell in line] for line in lines] for lines in ([head], rows))
    return "\n".join("| " + " | ".join(line) + " |" for line in [*head, ["---"] * len(head[0]), *rows])


def _plain(cell):
    text = " ".join("".join(c if c.isprintable() else " " for c in str(cell)).split())
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")

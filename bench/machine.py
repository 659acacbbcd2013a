"""What every benchmark result must say about where it was measured; JSON and tables."""

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

POOLS = ("OPENBLAS_", "OMP_", "GOMP_", "MKL_", "KMP_", "XLA_")  # variables that hold thread pools and BLAS back


def cpu_model():
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit():
    """The commit of the sources beside this file, with `+changes` if they differ from it; None outside a clone."""
    root = Path(__file__).parent
    if not (root.parent / ".git").exists():  # installed: git would ask the folders above, which may be anybody's
        return None
    with contextlib.suppress(OSError, subprocess.CalledProcessError):

        def git(*words):
            return subprocess.run(
                ["git", "-c", "core.fsmonitor=false", *words], cwd=root, capture_output=True, text=True, check=True
            ).stdout.strip()

        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    return None


def record():
    """CPU, versions, the configuration of fastrnn (ISA, BLAS, threads, compiler), commit and environment."""
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
        "load": os.getloadavg()
        if hasattr(os, "getloadavg")
        else None,  # above the process's own 1 something else ran too
        "config": shown.getvalue().splitlines(),
        "commit": commit(),
        "environment": {
            name: value for name, value in sorted(os.environ.items()) if name.startswith((*POOLS, "FASTRNN_"))
        },
    }


def write(path, content):
    """`content` as JSON; whoever reads the file meanwhile sees the old one or the new one, whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(new, path)


def markdown(head, rows):
    """A table for README or a commit message. In a cell, what would end it or be HTML is escaped."""
    head, rows = ([[_plain(cell) for cell in line] for line in lines] for lines in ([head], rows))
    return "\n".join("| " + " | ".join(line) + " |" for line in [*head, ["---"] * len(head[0]), *rows])


def _plain(cell):
    text = " ".join("".join(c if c.isprintable() else " " for c in str(cell)).split())
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")

"""The parent's side: starts the process of a peer, sends it commands, and ends it."""

from __future__ import annotations

import json
import os
import pickle
import select
import signal
import subprocess
import sys
from pathlib import Path

from .machine import POOLS
from .peers import FLAGS, PEERS

PATIENCE = 300  # seconds a worker may take for one answer


class WorkerError(RuntimeError):
    """The worker returned a traceback, died, or did not answer in time. If `alive`, it can be used again."""

    def __init__(self, message, alive):
        super().__init__(message)
        self.alive = alive


class Missing(ImportError):
    """The peer is not installed."""


def cpus(threads):
    """Return the CPUs that all workers are pinned to: the last allowed ones, one of each core first.

    None if processes cannot be pinned on this system.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    allowed, cores = sorted(os.sched_getaffinity(0), reverse=True), {}
    for cpu in allowed:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.setdefault(siblings.read_text() if siblings.exists() else cpu, cpu)
    return sorted([*cores.values(), *(cpu for cpu in allowed if cpu not in cores.values())][:threads])


def environment(threads, flags):
    """Return this environment without settings of thread pools, but with `threads` for those that read it at import."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(POOLS)}
    one = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"} if threads == 1 else {}
    several = {"OMP_PROC_BIND": "close", "OMP_PLACES": "cores"} if threads > 1 else {}
    return {**kept, "OMP_NUM_THREADS": str(threads), **one, **several, **flags}


class Worker:
    """The process of the peer `name`, on `threads` threads; its stderr and everything it prints go to `log`.

    With several threads the process is stopped (SIGSTOP) between requests. Thread pools of onnxruntime and OpenBLAS
    spin for more than 30 ms after a call, torch's for a shorter time, and would take a CPU from the next peer. On one
    thread no pool spins.
    """

    def __init__(self, name, threads, log):
        self.name, self.threads, self.log = name, threads, log
        self.start()

    def start(self):
        code = (
            "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
            f"from {__package__}.worker import main; main(*json.loads(sys.argv[2]))"
        )
        # The same packages as in this process, whatever the current folder.
        path = json.dumps([os.path.abspath(entry) for entry in sys.path])
        arguments = json.dumps([self.name, self.threads, cpus(self.threads)])
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-c", code, path, arguments],  # -I: do not import json from the current folder
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(self.threads, FLAGS.get(self.name, {})),
            )
        try:
            self.version = self.answer()
        except BaseException:
            self.close()
            raise

    def ask(self, command, *arguments):
        self.signal("SIGCONT")
        try:
            pickle.dump((command, *arguments), self.process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            self.process.stdin.flush()
        except OSError:
            raise WorkerError(f"{self.name} died; see {self.log}", alive=False) from None
        try:
            return self.answer()
        finally:
            self.signal("SIGSTOP")

    def signal(self, name):
        """Stop or continue the process, if signals exist and thread pools could spin."""
        if self.threads > 1 and hasattr(signal, name) and self.process.poll() is None:
            self.process.send_signal(getattr(signal, name))

    def answer(self):
        if not select.select([self.process.stdout], [], [], PATIENCE)[0]:
            self.process.kill()
            raise WorkerError(f"{self.name} did not answer within {PATIENCE} s", alive=False)
        try:
            kind, value = pickle.load(self.process.stdout)
        except (EOFError, pickle.UnpicklingError):
            raise WorkerError(
                f"{self.name} died with status {self.process.wait()}; see {self.log}", alive=False
            ) from None
        if kind == "missing":
            raise Missing(f"{value}; pip install {PEERS[self.name][2]}")
        if kind == "error":
            raise WorkerError(value, alive=True)
        return value

    def cpu_seconds(self):
        """Return the CPU time of all threads of the process so far, or None if the system does not provide it."""
        times = [Path(task, "schedstat") for task in Path(f"/proc/{self.process.pid}/task").glob("*")]
        try:
            return sum(int(path.read_text().split()[0]) for path in times) / 1e9 if times else None
        except OSError:
            return None

    def restart(self):
        self.close()
        self.start()

    def close(self):
        self.signal("SIGCONT")
        self.process.stdin.close()
        try:
            self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

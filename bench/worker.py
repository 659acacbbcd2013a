"""The process of one peer: prepares cases, returns their outputs, and times blocks of calls on request.

workers.py starts it as  main(name, threads, cpus). Requests are pickles on stdin, (command, *arguments). Answers are
pickles on the original stdout: ("ok", value), ("missing", why) or ("error", traceback). It ends when stdin does.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import itertools
import json
import os
import pickle
import signal
import sys
import traceback
from time import perf_counter, thread_time

import numpy as np

from .data import Problem
from .peers import PEERS
from .quiet import Watch

BLOCK, WARM, TRIAL = 0.02, 0.3, 0.1  # seconds of a block of calls, of warming up, of trying a variant
COLD_CALLS, COLD_BYTES = 10, 1 << 24  # calls of a cold block; bytes that are read before each of them: more than L2
TRIES, PATIENCE = 3, 0.02  # how often a block is timed until it is undisturbed; seconds to wait before each
PR_SET_PDEATHSIG = 1


class Worker:
    """The commands, one method each."""

    def __init__(self, name, threads):
        module, kind, _, _ = PEERS[name]
        self.peer = getattr(importlib.import_module(f".peers.{module}", __package__), kind)(threads)
        self.chosen = {}  # label: [Run, calls in a block]
        self.watch = Watch()
        self.other_data = np.ones(COLD_BYTES, np.uint8)  # unread zeros could be one page, which stays in the cache

    def version(self):
        return self.peer.version

    def setup(self, case):
        """Create all variants and keep the fastest of each label.

        Returns {label: {"variant", "outputs", "trials": seconds or error by variant}}.
        """
        self.chosen = {}
        gc.collect()
        shown = {}
        problem = None if case.kind == "characters" else Problem(case)
        for label, variants in self.peer.runs(case, problem).items():
            made, outputs, trials = {}, {}, {}
            for variant, make in variants.items():
                try:
                    made[variant] = make()
                    with made[variant].context():
                        outputs[variant] = made[variant].outputs()
                    trials[variant] = self.seconds(made[variant], TRIAL) if len(variants) > 1 else 0
                except Exception as error:
                    if len(variants) == 1:
                        raise
                    trials[variant] = f"{type(error).__name__}: {error}"[:500]
            worked = [variant for variant, t in trials.items() if not isinstance(t, str)]
            if not worked:
                raise RuntimeError(f"no variant works: {trials}")
            best = min(worked, key=trials.get)
            self.chosen[label] = [made[best], 1]
            shown[label] = {"variant": best, "outputs": outputs[best], "trials": trials if len(variants) > 1 else {}}
        return shown

    @staticmethod
    def seconds(run, least, calls=2):
        """Return the shortest time of a call, among at least `calls` calls that take at least `least` seconds."""
        shortest, done = float("inf"), 0
        with run.context():
            now = first = perf_counter()
            while done < calls or now - first < least:
                start = perf_counter()
                run.call()
                now = perf_counter()
                shortest, done = min(shortest, now - start), done + 1
        return shortest

    def warm(self, label):
        """Warm up packing, caches and pools, and choose the number of calls in a block."""
        run = self.chosen[label][0]
        self.chosen[label][1] = max(1, round(BLOCK / self.seconds(run, WARM)))
        gc.collect()

    def block(self, label, cold=False):
        """Time a block of calls: (mean seconds of a call, fraction of time this thread did not run, CPUs were quiet).

        Garbage collection is off: it would be charged to whichever peer triggers it.
        """
        run, calls = self.chosen[label]
        gc.disable()
        try:
            with run.context():
                for _ in range(TRIES):
                    self.watch.wait(PATIENCE)
                    took, ran = self.cold(run.call, calls) if cold else self.repeated(run.call, calls)
                    quiet = self.watch.everywhere()
                    if quiet:
                        break
                return took / (min(calls, COLD_CALLS) if cold else calls), 1 - ran / took, quiet
        finally:
            gc.enable()

    @staticmethod
    def repeated(call, calls):
        """Return the seconds of calls one after another, and how long this thread ran."""
        if calls > 1:
            call()  # refill the caches after the other peers
        ran, start = thread_time(), perf_counter()
        for _ in itertools.repeat(None, calls):
            call()
        return perf_counter() - start, thread_time() - ran

    def cold(self, call, calls):
        """Return the seconds of a few calls, and how long this thread ran. Other work before each fills the caches."""
        took = ran = 0.0
        for _ in range(min(calls, COLD_CALLS)):
            json.loads(json.dumps({str(i): float(i) for i in range(100)}))
            self.other_data.sum()
            before, start = thread_time(), perf_counter()
            call()
            took, ran = took + perf_counter() - start, ran + thread_time() - before
        return took, ran

    def proxy(self):
        from . import limits

        return limits.frequency_proxy()

    def limits(self):
        from . import limits

        return limits.measure()

    def record(self):
        from . import machine

        return machine.record()


def main(name, threads, cpus):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and closes stdin
    if sys.platform == "linux":
        # A stopped process would not notice the end of stdin.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    answers, questions = os.fdopen(os.dup(1), "wb"), sys.stdin.buffer
    os.dup2(2, 1)  # anything that a library prints goes to the log

    def answer(*message):
        pickle.dump(message, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()

    if cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)  # before the import, when thread pools count the available CPUs
    try:
        worker = Worker(name, threads)
    except ImportError as error:
        answer("missing", str(error))
        return
    except Exception:
        answer("error", traceback.format_exc())
        return
    answer("ok", worker.version())
    while True:
        try:
            command, *arguments = pickle.load(questions)
        except EOFError:
            return
        try:
            answer("ok", getattr(worker, command)(*arguments))
        except Exception:
            answer("error", traceback.format_exc())

"""The process of one peer: sets cases up, says what they compute, times blocks of calls when it is asked to.

Started by workers.py as  main(name, threads, cpus); asked by pickles on stdin, (command, *arguments), and answers by pickles on what was
stdout: ("ok", value), ("missing", why) or ("error", traceback). It ends when stdin does.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import itertools
import os
import pickle
import signal
import sys
import traceback
from time import perf_counter, thread_time

from .data import Problem
from .peers import PEERS
from .quiet import Watch

BLOCK, WARM, TRIAL = 0.02, 0.3, 0.1  # seconds of a block of calls, of warming up, of trying a variant
TRIES, PATIENCE = 3, 0.02  # times a block is timed until nobody disturbed it; seconds to wait for that each time
PR_SET_PDEATHSIG = 1


class Worker:
    """One method for each command."""

    def __init__(self, name, threads):
        module, kind, _, _ = PEERS[name]
        self.peer = getattr(importlib.import_module(f".peers.{module}", __package__), kind)(threads)
        self.chosen = {}  # label: [Run, calls in a block]
        self.watch = Watch()

    def version(self):
        return self.peer.version

    def setup(self, case):
        """Make all variants, keep the fastest of each label: {label: {"variant", "outputs", "trials": seconds or error by variant}}."""
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
        """The shortest time of a call, among at least `calls` that take `least` seconds together."""
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
        """Packing, caches, pools; and how many calls a block has. Three calls at least, with that of the comparison."""
        run = self.chosen[label][0]
        self.chosen[label][1] = max(1, round(BLOCK / self.seconds(run, WARM)))
        gc.collect()

    def block(self, label):
        """(mean seconds of a call, part of the time in which this thread did not run, whether the CPUs were quiet), over a block of calls.

        No collection: it would be charged to whoever happens to cause it.
        """
        run, calls = self.chosen[label]
        call = run.call
        gc.disable()
        try:
            with run.context():
                for _ in range(TRIES):
                    self.watch.wait(PATIENCE)
                    if calls > 1:
                        call()  # brings back what the others took out of the caches
                    ran, start = thread_time(), perf_counter()
                    for _ in itertools.repeat(None, calls):
                        call()
                    took = perf_counter() - start
                    ran = thread_time() - ran
                    quiet = self.watch.everywhere()
                    if quiet:
                        break
                return took / calls, 1 - ran / took, quiet
        finally:
            gc.enable()

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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and closes stdin
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(
            PR_SET_PDEATHSIG, signal.SIGKILL
        )  # a stopped process would not see that stdin has ended
    answers, questions = os.fdopen(os.dup(1), "wb"), sys.stdin.buffer
    os.dup2(2, 1)  # what a library prints goes to the log

    def answer(*message):
        pickle.dump(message, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()

    if cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)  # before the import: thread pools count what they may use
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

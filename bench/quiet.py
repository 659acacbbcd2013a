"""Whether this process runs at full speed on its CPUs.

A virtual CPU is one half of a core whose other half may work for somebody else: plain code then takes 1.5 to 1.9 times as long, for 1 to
100 ms, and the system tells nothing of it (no steal, no switches, and multiply-adds at the peak hardly notice). A short plain loop does tell.
"""

from __future__ import annotations

import itertools
import os
import threading
from time import perf_counter, thread_time

LOOPS, CALIBRATION = 10_000, 0.1  # about 0.1 ms; seconds
DISTURBED = 1.25  # times the shortest loop


def loop():
    """Seconds of the loop while this thread ran: who waits for a turn on the CPU is not slower."""
    start = thread_time()
    for _ in itertools.repeat(None, LOOPS):
        pass
    return thread_time() - start


class Watch:
    """Knows the shortest time of the loop in this process."""

    def __init__(self):
        end, self.shortest = perf_counter() + CALIBRATION, loop()
        while perf_counter() < end:
            self.shortest = min(self.shortest, loop())

    def here(self):
        """Whether the CPU this thread runs on is quiet."""
        took = min(loop() for _ in range(3))
        self.shortest = min(self.shortest, took)
        return took <= DISTURBED * self.shortest

    def everywhere(self):
        """Whether all CPUs this thread may use are. Another thread goes there: this one, moved, might come back to the CPU of its helpers."""
        cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
        if len(cpus) < 2:
            return self.here()
        found = []

        def visit():
            for cpu in cpus:
                os.sched_setaffinity(0, {cpu})
                found.append(self.here())

        visitor = threading.Thread(target=visit)
        visitor.start()
        visitor.join()
        return len(found) == len(cpus) and all(found)

    def wait(self, seconds):
        """Until all are quiet, but no longer; working all the while: a CPU that rests may come back beside somebody else."""
        end = perf_counter() + seconds
        while not self.everywhere() and perf_counter() < end:
            pass

"""Detect whether this process runs at full speed on its CPUs.

A virtual CPU may be one half of a core whose other half works for another guest. Ordinary code then takes 1.5 to 1.9
times as long, for 1 to 100 ms. The system does not report it (no steal, no switches), and a loop of multiply-adds at
the peak hardly slows down. The time of a short plain loop shows it.
"""

from __future__ import annotations

import itertools
import os
import threading
from time import perf_counter, thread_time

LOOPS, CALIBRATION = 10_000, 0.1  # about 0.1 ms; seconds
DISTURBED = 1.25  # a loop that takes this many times the shortest one is disturbed


def loop():
    """Return the CPU seconds of the loop in this thread, without the time it waits for a CPU."""
    start = thread_time()
    for _ in itertools.repeat(None, LOOPS):
        pass
    return thread_time() - start


class Watch:
    """Compares the time of the loop with the shortest one in this process."""

    def __init__(self):
        end, self.shortest = perf_counter() + CALIBRATION, loop()
        while perf_counter() < end:
            self.shortest = min(self.shortest, loop())

    def here(self):
        """Return whether the CPU that this thread runs on is quiet."""
        took = min(loop() for _ in range(3))
        self.shortest = min(self.shortest, took)
        return took <= DISTURBED * self.shortest

    def everywhere(self):
        """Return whether all CPUs that this thread may use are quiet.

        Another thread visits them: if this one moved, it might return to the CPU of one of its helpers.
        """
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
        """Wait in a busy loop until all are quiet, at most `seconds`. An idle CPU might move beside another guest."""
        end = perf_counter() + seconds
        while not self.everywhere() and perf_counter() < end:
            pass

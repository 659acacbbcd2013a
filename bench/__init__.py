"""The official benchmark of fastrnn and its peers, each at its best settings.

Outputs are compared before anything is timed; then all peers are timed in turns.

    fastrnn bench --help        from the sources: python -m bench --help

grid.py       the cases
data.py       their seeded weights and inputs, and the float64 reference
peers/        one class for each library, each in its own worker process (worker.py in the process, workers.py here)
measure.py    the turns, the spread, the ratios
limits.py     the peak performance of the core, measured at the start of a run
run.py        measures the whole grid and writes one JSON; report.py makes the page and the tables from it

memory.py (peak memory) and test_kernels.py (regressions of the kernels, for pytest-benchmark) are separate programs.
"""

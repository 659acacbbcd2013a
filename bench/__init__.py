"""The official benchmark: fastrnn and its peers, each at its best settings, outputs compared first, timed in turns.

    fastrnn bench --help        from the sources: python -m bench --help

grid.py       the cases
data.py       their seeded weights and inputs, and the truth in float64
peers/        one class for each library, each in a worker process of its own (worker.py there, workers.py here)
measure.py    the turns, the spread, the ratios
limits.py     what the core could do at most, measured on the spot
run.py        the whole grid into one JSON; report.py makes the page and the tables of it

memory.py (peak memory) and test_kernels.py (regressions of the kernels, for pytest-benchmark) stand beside it.
"""

"""Training step and forward pass of one layer against torch: one thread, float32, I = H, T = 50.

    pytest bench/test_step.py --seconds 2

B = 1 is online learning and streaming; B = 32 is where a batch fills the vector units. H = 64 is a small model whose weights fit
into L1/L2, 128 the usual character model, 256 has LSTM weights beyond a 1 MB L2 once input weights and gradients are counted.
"""

import pytest

from bench import machine, rivals

T = 50


@pytest.mark.parametrize("B", [1, 32])
@pytest.mark.parametrize("H", [64, 128, 256])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("mode", ["train", "forward"])
def test_step(benchmark, results, request, mode, cell, H, B):
    rivals.one_thread()
    pair = rivals.Pair(cell, T, B, H)
    pair.check()
    runs = {who: pair.run(who, mode) for who in ("fastrnn", "torch")}
    times = machine.in_turns(runs, seconds=request.config.getoption("--seconds"))
    result = {"cell": cell, "mode": mode, "T": T, "B": B, "H": H, **times, "ratio": times["torch"]["median"] / times["fastrnn"]["median"]}
    results.append(result)
    benchmark.extra_info.update(result)
    benchmark.group = f"{mode} {cell}"
    benchmark.pedantic(runs["fastrnn"], rounds=5, iterations=3, warmup_rounds=1)

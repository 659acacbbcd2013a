"""Compare the peak memory of one training step with the memory of what it must keep.

    python -m bench.memory

Measured: the peak seen by tracemalloc (NumPy reports its arrays to it) from creating the layer to the end of backward,
in a new process. This counts the layer's parameters, its packed copies, tape, scratch, outputs and gradients. It does
not count x and dy, which the caller created before, nor memory of the C library and BLAS. The JSON also has the growth
of the resident set over 20 more steps.

Listed: tape (per step, row and unit: LSTM i f g o c h, GRU r z n hn h, RNN h) + dgates (G per unit, GRU 4) + parameters
+ packed copies (as large as the weights, forward and backward) + gradients of the parameters, x and the state. The goal
is at most 1.2 times that.
"""

import multiprocessing
import resource
import tracemalloc

import numpy as np

import fastrnn

from . import machine

T, B = 50, 32
CELLS = {  # layer, tape and dgates in arrays of (T, B, H), gates, states
    "lstm": (fastrnn.LSTM, 6, 4, 4, 2),
    "gru": (fastrnn.GRU, 5, 4, 3, 1),
    "rnn": (fastrnn.RNN, 1, 1, 1, 1),
}


def listed(cell, H):
    """Return the bytes that a training step must keep: I = H, one layer, float32."""
    _, tape, dgates, G, states = CELLS[cell]
    steps = T * B * H
    weights = G * H * 2 * H
    parameters = weights + 2 * G * H
    floats = {
        "tape": tape * steps,
        "dgates": dgates * steps,
        "parameters": parameters,
        # W_ih and W_hh forward, W_hh once more for dh; dx is a BLAS product with the unpacked W_ih
        "packed": weights + G * H * H,
        "gradients": parameters + steps + states * B * H,
    }
    return {name: 4 * count for name, count in floats.items()}


def step(net, x, dy):
    _, backward = net.vjp(x)
    backward(dy)


def measure(cell, H):
    """Return three numbers of bytes.

    These are the peak of creating the layer and the first step, the peak of three more steps, and the growth of the
    resident set in 20 more.
    """
    fastrnn.set_num_threads(1)
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((T, B, H), dtype="float32") for _ in range(2))
    # Imports and BLAS first, with a layer too small to leave memory that could be reused.
    step(CELLS[cell][0](1, 1), x[:1, :1, :1], dy[:1, :1, :1])
    tracemalloc.start()
    net = CELLS[cell][0](H, H, seed=0)
    step(net, x, dy)
    first = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    for _ in range(3):
        step(net, x, dy)
    later = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(20):
        step(net, x, dy)
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return first, later, growth * 1024


def main():
    rows, results = [], []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as fresh:
        for cell in CELLS:
            for H in (64, 128, 256):
                parts = listed(cell, H)
                total = sum(parts.values())
                first, later, growth = fresh.apply(measure, (cell, H))
                ratio = max(first, later) / total
                sizes = {"cell": cell, "T": T, "B": B, "H": H}
                results.append(
                    {
                        **sizes,
                        "listed": parts,
                        "first_step": first,
                        "later_step": later,
                        "y": 4 * T * B * H,
                        "rss_growth": growth,
                        "ratio": ratio,
                    }
                )
                with_y = max(first, later) / (total + 4 * T * B * H)  # y belongs to the caller and is not listed
                rows.append(
                    [cell, H, *(f"{n / 2**20:.2f}" for n in (total, first, later)), f"{ratio:.2f}", f"{with_y:.2f}"]
                )
    print(
        machine.markdown(
            ["cell", "H", "listed MiB", "first step MiB", "later steps MiB", "ratio", "with y listed"], rows
        )
    )
    machine.write(
        "build/bench/memory.json",
        {"machine": machine.record(), "unit": "bytes", "dtype": "float32", "results": results},
    )
    print("\nwritten to build/bench/memory.json")


if __name__ == "__main__":
    main()

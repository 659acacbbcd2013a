"""Compare fastrnn.onnx's backend with onnxruntime, on models of one recurrent node with fixed weights.

Outputs are compared before anything is timed; then the two take turns.

    python -m bench.onnx_nodes --threads 1       all cases, two minutes
    python -m bench.onnx_nodes --short           small cases, as a check
"""

from __future__ import annotations

import argparse
import statistics
from time import perf_counter

import numpy as np

import fastrnn

from .machine import cpu_model

SIZES = [(1, 1, 64, 64), (1, 1, 256, 256), (50, 1, 128, 128), (50, 8, 64, 128), (50, 32, 64, 128), (100, 32, 64, 256)]
SHORT = [(1, 1, 8, 8), (5, 3, 8, 16)]
NODES = {  # name: (layer class, arguments) that the node is created from
    "RNN": (fastrnn.RNN, {}),
    "GRU": (fastrnn.GRU, {}),
    "GRU, reset before": (fastrnn.GRU, {"reset_after": False}),
    "LSTM": (fastrnn.LSTM, {}),
    "LSTM, both directions": (fastrnn.LSTM, {"bidirectional": True}),
    "LSTM, peepholes": (fastrnn.LSTM, {"peephole": True}),
    "LSTM, coupled, clip": (fastrnn.LSTM, {"coupled": True, "clip": 3.0}),
    "LSTM, hard_sigmoid": (fastrnn.LSTM, {"recurrent_activation": ("hard_sigmoid", 0.2, 0.5)}),
}


def node(layer):
    """Return the model of one node with this layer's weights and output Y."""
    from onnx import TensorProto, helper, numpy_helper

    from fastrnn.onnx import _write

    values = {name: a for name, a in zip("WRBP", _write.tensors(layer, 0)) if a is not None}
    inputs = ["X", "W", "R", "B", *(["", "", "", "P"] if "P" in values else [])]
    graph = helper.make_graph(
        [helper.make_node(layer.kind, inputs, ["Y"], **_write.attributes(layer))], "node",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["T", "B", layer.input_size])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["T", "D", "B", "H"])],
        [numpy_helper.from_array(a, name) for name, a in values.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def measure(layer, T, B, threads, seconds):
    """Return (median seconds of onnxruntime, of fastrnn.onnx, median of the ratios of all rounds)."""
    import onnxruntime

    import fastrnn.onnx

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    model, feeds = (
        node(layer),
        {"X": np.random.default_rng(0).standard_normal((T, B, layer.input_size)).astype("float32")},
    )
    session, ours = (
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]),
        fastrnn.onnx.prepare(model),
    )
    runs = lambda: session.run(None, feeds), lambda: ours.run(feeds)
    np.testing.assert_allclose(runs[1]()[0], runs[0]()[0], rtol=1e-4, atol=1e-5)
    start = perf_counter()
    runs[0]()
    repeats = max(1, int(1e-3 / (perf_counter() - start)))
    times, end = ([], []), perf_counter() + seconds
    while perf_counter() < end or len(times[0]) < 5:
        for run, of_one in zip(runs, times):
            start = perf_counter()
            for _ in range(repeats):
                run()
            of_one.append((perf_counter() - start) / repeats)
    return *map(statistics.median, times), statistics.median(a / b for a, b in zip(*times))


def main(arguments=None):
    import onnxruntime

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each case")
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args(arguments)
    print(f"{cpu_model()}; onnxruntime {onnxruntime.__version__}; {options.threads} threads")
    print(
        "| node | T, B, I, H | onnxruntime µs | fastrnn.onnx µs | onnxruntime / fastrnn.onnx |\n|---|---|---|---|---|"
    )
    with fastrnn.threads(options.threads):
        for name, (kind, settings) in NODES.items():
            for T, B, I, H in SHORT if options.short else SIZES:
                theirs, ours, ratio = measure(
                    kind(I, H, seed=0, **settings), T, B, options.threads, 0.0 if options.short else options.seconds
                )
                print(
                    f"| {name} | {T}, {B}, {I}, {H} | {theirs * 1e6:.1f} | {ours * 1e6:.1f} | {ratio:.2f} |", flush=True
                )


if __name__ == "__main__":
    main()

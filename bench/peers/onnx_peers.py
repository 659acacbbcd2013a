"""onnxruntime and OpenVINO on the same ONNX model: static shapes, constant weights, preallocated outputs."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from . import Run, stream

NODES = {
    "lstm": ("LSTM", [0, 3, 1, 2]),
    "gru": ("GRU", [1, 0, 2]),
    "rnn": ("RNN", [0]),
}  # ONNX has the gates as i o f c, and z r h


def model(case, problem):
    """Return the bytes of the model and the names of its states.

    Input x (T,B,I), and for a stream the state h (, c). Output y (T,1,B,H), or for a stream h_n (, c_n).
    """
    node, order = NODES[case.cell]
    H, G = case.H, case.G

    def gates(name):
        a = problem.params[name]
        return a.reshape(G, H, *a.shape[1:])[order].reshape(1, *a.shape)

    biases = np.concatenate([gates("bias_ih_l0"), gates("bias_hh_l0")], axis=1)
    weights = {"W": gates("weight_ih_l0"), "R": gates("weight_hh_l0"), "B": biases}
    states = ["h", "c"][: 2 if case.cell == "lstm" else 1] if case.kind == "step" else []
    inputs, outputs = ["x", "W", "R", "B", "", *states], ["", *(f"{s}_n" for s in states)] if states else ["y"]

    def value(name, *shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    attributes = {"linear_before_reset": 1} if case.cell == "gru" else {}
    graph = helper.make_graph(
        [helper.make_node(node, inputs if states else inputs[:4], outputs, hidden_size=H, **attributes)],
        "rnn",
        [value("x", case.T, case.B, case.I), *(value(s, 1, case.B, H) for s in states)],
        [value(f"{s}_n", 1, case.B, H) for s in states] or [value("y", case.T, 1, case.B, H)],
        [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return made.SerializeToString(), states


class OnnxRuntime:
    def __init__(self, threads):
        import onnxruntime

        self.ort, self.threads, self.version = onnxruntime, threads, onnxruntime.__version__

    def runs(self, case, problem):
        return {"": {"IOBinding": lambda: getattr(self, case.kind)(case, problem)}}

    def session(self, case, problem):
        options = self.ort.SessionOptions()
        options.graph_optimization_level = self.ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.execution_mode = self.ort.ExecutionMode.ORT_SEQUENTIAL
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        made, states = model(case, problem)
        return self.ort.InferenceSession(made, options, providers=["CPUExecutionProvider"]), states

    def bind(self, session, arrays):
        """Return an IOBinding of {name: OrtValue}; names distinguish inputs from outputs."""
        binding = session.io_binding()
        inputs = {i.name for i in session.get_inputs()}
        for name, value in arrays.items():
            (binding.bind_ortvalue_input if name in inputs else binding.bind_ortvalue_output)(name, value)
        return binding

    def forward(self, case, problem):
        session, _ = self.session(case, problem)
        y = self.ort.OrtValue.ortvalue_from_numpy(np.empty((case.T, 1, case.B, case.H), "float32"))
        binding = self.bind(session, {"x": self.ort.OrtValue.ortvalue_from_numpy(problem.x), "y": y})

        def call():
            session.run_with_iobinding(binding)

        def outputs():
            call()
            return problem.outputs(y.numpy())

        return Run(call, outputs)

    def step(self, case, problem):
        """Use two bindings in turn: one reads the state that the other wrote. x has one buffer that is overwritten."""
        session, states = self.session(case, problem)
        make = self.ort.OrtValue.ortvalue_from_numpy
        x_t = np.zeros((1, 1, case.I), "float32")
        pair = [{s: np.zeros((1, 1, case.H), "float32") for s in states} for _ in range(2)]
        turns = []
        for before, after in (pair, pair[::-1]):
            arrays = {"x": x_t, **before, **{f"{s}_n": a for s, a in after.items()}}
            turns.append((self.bind(session, {name: make(a) for name, a in arrays.items()}), after["h"][0]))
        first, second = turns

        def step(x):
            nonlocal first, second
            x_t[0] = x
            binding, h = first
            session.run_with_iobinding(binding)
            first, second = second, first
            return h

        return stream(problem, step)


class OpenVino:
    def __init__(self, threads):
        import openvino

        self.ov, self.threads, self.version = openvino, threads, openvino.__version__

    def runs(self, case, problem):
        return {"": {"latency": lambda: getattr(self, case.kind)(case, problem)}}

    def compiled(self, case, problem):
        core = self.ov.Core()
        made, states = model(case, problem)
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "CPU_DENORMALS_OPTIMIZATION": True,
        }
        return core.compile_model(core.read_model(made), "CPU", options), states

    def request(self, compiled, arrays):
        """Return an infer request that reads these NumPy arrays by name.

        Outputs stay in the request's memory: an LSTM corrupts memory that is passed for them.
        """
        request = compiled.create_infer_request()
        for name, a in arrays.items():
            request.set_tensor(name, self.ov.Tensor(a, shared_memory=True))
        return request

    def forward(self, case, problem):
        compiled, _ = self.compiled(case, problem)
        request = self.request(compiled, {"x": problem.x})

        def call():
            request.start_async()  # infer() would create a dictionary of the outputs
            request.wait()

        def outputs():
            call()
            return problem.outputs(request.get_tensor("y").data.copy())

        return Run(call, outputs)

    def step(self, case, problem):
        compiled, states = self.compiled(case, problem)
        x_t = np.zeros((1, 1, case.I), "float32")
        state = {s: np.zeros((1, 1, case.H), "float32") for s in states}
        request = self.request(compiled, {"x": x_t, **state})
        request.infer()
        news = [(a, request.get_tensor(f"{s}_n").data) for s, a in state.items()]

        def step(x):
            x_t[0] = x
            request.start_async()
            request.wait()
            for a, new in news:
                a[...] = new
            return state["h"][0]

        return stream(problem, step)

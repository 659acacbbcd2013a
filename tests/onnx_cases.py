"""Random ONNX models of one recurrent node, and onnxruntime's results for them."""

from dataclasses import dataclass, field

import numpy as np

PEER = {"rtol": 1e-5, "atol": 1e-5}
BLOCKS = {"RNN": 1, "GRU": 3, "LSTM": 4}
TENSORS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
NUMBERS = {  # activations used in the cases: how many parameters they take
    "Tanh": 0, "Sigmoid": 0, "Relu": 0, "Softsign": 0, "Softplus": 0, "LeakyRelu": 1, "ThresholdedRelu": 1, "Elu": 1,
    "Affine": 2, "ScaledTanh": 2, "HardSigmoid": 2,
}  # fmt: skip


@dataclass
class Case:
    """One node: its operator, its attributes, and the tensors by name; those in `weights` are initializers."""

    op: str
    tensors: dict
    attributes: dict = field(default_factory=dict)
    outputs: tuple = ("Y", "Y_h", "Y_c")
    weights: tuple = ("W", "R", "B", "P")
    opset: int = 14

    def __str__(self):
        return f"{self.op} {self.attributes} { ({n: a.shape for n, a in self.tensors.items()}) }"

    def model(self):
        from onnx import TensorProto, helper, numpy_helper

        def info(name, array):
            return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)

        order = [t if t in self.tensors else "" for t in TENSORS[: 8 if self.op == "LSTM" else 6]]
        every = ("Y", "Y_h", "Y_c")[: 3 if self.op == "LSTM" else 2]
        node = helper.make_node(
            self.op, order, [o if o in self.outputs else "" for o in every], name="the_node", **self.attributes
        )
        kind = helper.np_dtype_to_tensor_dtype(self.tensors["X"].dtype)
        graph = helper.make_graph(
            [node], "case", [info(n, a) for n, a in self.tensors.items() if n not in self.weights],
            [helper.make_tensor_value_info(o, kind, [None] * (4 if o == "Y" else 3)) for o in self.outputs],
            [
                numpy_helper.from_array(np.ascontiguousarray(self.tensors[n]), n)
                for n in self.weights if n in self.tensors
            ],
        )  # fmt: skip
        assert kind in (TensorProto.FLOAT, TensorProto.DOUBLE)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)

    @property
    def feeds(self):
        return {n: a for n, a in self.tensors.items() if n not in self.weights}


def tensors(op, T, B, I, H, D, rng, given, scale=0.6):
    """Return random tensors of a node, all of them or those named."""
    G = BLOCKS[op]
    shapes = {"X": (T, B, I), "W": (D, G * H, I), "R": (D, G * H, H), "B": (D, 2 * G * H), "initial_h": (D, B, H)}
    if op == "LSTM":
        shapes |= {"initial_c": (D, B, H), "P": (D, 3 * H)}
    made = {n: (rng.standard_normal(shape) * scale).astype("float32") for n, shape in shapes.items() if n in given}
    if "sequence_lens" in given:
        made["sequence_lens"] = rng.integers(1, T + 1, B).astype("int32")
        made["sequence_lens"][rng.integers(B)] = T
    return made


def activations(op, D, rng):
    """Return the attributes: a list of activations and their parameters, in the order of those that take one."""
    some = (["Sigmoid", "HardSigmoid"], list(NUMBERS), list(NUMBERS))
    names = [
        str(rng.choice(some[k if op != "RNN" else 2]))
        for _ in range(D)
        for k in range({"RNN": 1, "GRU": 2, "LSTM": 3}[op])
    ]
    alphas = [float(rng.uniform(0.1, 0.9)) for n in names if NUMBERS[n] >= 1]
    betas = [float(rng.uniform(0.1, 0.9)) for n in names if NUMBERS[n] == 2]
    return (
        {"activations": names}
        | ({"activation_alpha": alphas} if alphas else {})
        | ({"activation_beta": betas} if betas else {})
    )


def random_case(seed):
    """Return a configuration that onnxruntime supports: float32, layout 0."""
    rng = np.random.default_rng(seed)
    op = ("RNN", "GRU", "LSTM")[seed % 3]
    T, B, I, H = (int(rng.integers(1, most)) for most in (8, 6, 12, 20))
    direction = str(rng.choice(["forward", "reverse", "bidirectional"]))
    D = 2 if direction == "bidirectional" else 1
    optional = ["B", "sequence_lens", "initial_h"] + (["initial_c", "P"] if op == "LSTM" else [])
    given = ["X", "W", "R"] + [t for t in optional if rng.random() < 0.5]
    attributes = {"direction": direction, "hidden_size": H}
    if rng.random() < 0.5:
        attributes |= activations(op, D, rng)
    if rng.random() < 0.4:
        attributes["clip"] = float(rng.uniform(0.2, 1.5))
    if op == "GRU":
        attributes["linear_before_reset"] = int(rng.integers(2))
    if op == "LSTM" and rng.random() < 0.4:
        attributes["input_forget"] = 1
    every = ("Y", "Y_h", "Y_c")[: 3 if op == "LSTM" else 2]
    outputs = tuple(o for o in every if rng.random() < 0.7) or every
    weights = ("W", "R", "B", "P") if rng.random() < 0.7 else ()
    opset = int(rng.choice([7, 14, 22]))
    return Case(op, tensors(op, T, B, I, H, D, rng, given), attributes, outputs, weights, opset)


def peer(model, feeds):
    """Return onnxruntime's results, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)

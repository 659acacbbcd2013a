"""ONNX models as fastrnn networks: our own exports, torch's, and errors."""

import io
import warnings

import numpy as np
import pytest
from test_onnx_export import NETWORKS

import fastrnn
from fastrnn import GRU, LSTM, RNN

pytestmark = pytest.mark.onnxruntime

PLAIN = [name for name in NETWORKS if name not in ("lstm, projected", "stack")]


@pytest.mark.parametrize("name", PLAIN)
def test_what_was_exported_is_loaded_and_gives_the_same_numbers(name):
    import fastrnn.onnx

    net = NETWORKS[name]()
    loaded = fastrnn.onnx.load(fastrnn.onnx.export(net))
    assert (type(loaded), loaded.num_parameters, loaded.batch_first) == (type(net), net.num_parameters, net.batch_first)
    x = np.random.default_rng(0).standard_normal((5, 4, 3)).astype("float32")
    np.testing.assert_allclose(loaded(x)[0], net(x)[0], rtol=1e-6, atol=1e-6)


@pytest.mark.torch
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_what_torch_exports_is_loaded_and_runs(kind, num_layers, bidirectional):
    import torch

    import fastrnn.onnx

    torch.manual_seed(0)
    module, x, file = (
        getattr(torch.nn, kind)(3, 4, num_layers, bidirectional=bidirectional),
        torch.randn(5, 2, 3),
        io.BytesIO(),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is deprecated
        torch.onnx.export(module, (x,), file, dynamo=False)
    with torch.no_grad():
        want = module(x)[0].numpy()
    net = fastrnn.onnx.load(file.getvalue())
    assert (net.kind, net.num_layers, net.bidirectional) == (kind, num_layers, bidirectional)
    np.testing.assert_allclose(net(x.numpy())[0], want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(fastrnn.onnx.run_model(file.getvalue(), x.numpy())[0], want, rtol=1e-5, atol=1e-5)


def test_a_tensor_that_nothing_uses_is_named():
    from onnx import numpy_helper

    import fastrnn.onnx

    model = fastrnn.onnx.export(GRU(3, 4))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, "float32"), "left_over"))
    with pytest.raises(ValueError, match="tensors that nothing uses: 'left_over'"):
        fastrnn.onnx.load(model)


def test_a_tensor_that_is_missing_is_named():
    import fastrnn.onnx

    model = fastrnn.onnx.export(GRU(3, 4))
    del model.graph.initializer[0]
    with pytest.raises(ValueError, match="W_0"):
        fastrnn.onnx.load(model)


@pytest.mark.parametrize("net, words", [
    (lambda: LSTM(3, 6, proj_size=2), "more than a recurrent stack: it has MatMul"),
    (lambda: fastrnn.Stacked([GRU(3, 4), RNN(4, 4)], residual=True), "more than a recurrent stack: it has Add"),
])  # fmt: skip
def test_what_is_more_than_a_stack_is_refused_by_name(net, words):
    import fastrnn.onnx

    with pytest.raises(NotImplementedError, match=words):
        fastrnn.onnx.load(fastrnn.onnx.export(net()))


def inside(outer):
    """Return a model with a GRU in the branches of an If, or in a function."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from onnx_cases import Case, tensors

    case = Case(
        "GRU", tensors("GRU", 5, 3, 4, 6, 1, np.random.default_rng(0), ("X", "W", "R")), {"hidden_size": 6}, ("Y",)
    )
    model, node = case.model(), onnx.NodeProto()
    node.CopyFrom(model.graph.node[0])
    del model.graph.node[:]
    if outer == "If":
        branch = helper.make_graph([node], "branch", [], [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)])
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
        branch.node[0].output[0] = branch.output[0].name = "Y_inside"
        model.graph.node.append(
            helper.make_node("If", ["yes"], ["Y"], name="choice", then_branch=branch, else_branch=branch)
        )
    else:
        imports = [helper.make_opsetid("", 14)]
        model.functions.append(helper.make_function("my", "Twice", ["X", "W", "R"], ["Y"], [node], imports))
        model.opset_import.append(helper.make_opsetid("my", 1))
        model.graph.node.append(helper.make_node("Twice", ["X", "W", "R"], ["Y"], domain="my"))
    return model, case.feeds


@pytest.mark.parametrize("outer, words", [
    ("If",
     r"node 'the_node' \(GRU\) lies inside node 'choice' \(If\), "
     r"but load takes chains of nodes of the main graph: prepare\(model\) runs it"),
    ("function", r"node 'the_node' \(GRU\) lies inside the function 'Twice', but load"),
])  # fmt: skip
def test_a_node_inside_another_one_is_named_and_runs(outer, words):
    import fastrnn.onnx

    model, feeds = inside(outer)
    with pytest.raises(NotImplementedError, match=words):
        fastrnn.onnx.load(model)
    assert fastrnn.onnx.run_model(model, feeds)[0].shape == (5, 1, 3, 6)


def test_what_is_loaded_is_compared_with_onnxruntime(monkeypatch):
    """The model's own nodes read gates in the same way as the network, so both may be wrong in the same way."""
    import fastrnn.onnx
    from fastrnn.onnx import _nodes

    model = fastrnn.onnx.export(GRU(3, 4, seed=0))
    monkeypatch.setitem(_nodes.KINDS, "GRU", _nodes.Kind(GRU, 3, (0, 1, 2), ("Sigmoid", "Tanh")))
    with pytest.raises(
        ValueError,
        match="output 'y' of the model by onnxruntime, of shape .* "
        "is none of the network's outputs and states: .* differs",
    ):
        fastrnn.onnx.load(model)


def test_an_input_without_shape_is_refused_by_load_and_runs():
    import fastrnn.onnx

    model = fastrnn.onnx.export(GRU(3, 4, seed=0), state=False, lengths=False)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(NotImplementedError, match="input 'x' has no shape"):
        fastrnn.onnx.load(model)
    assert fastrnn.onnx.run_model(model, [np.zeros((5, 2, 3), "float32")])[0].shape == (5, 2, 4)


@pytest.mark.parametrize(
    "lengths, words",
    [([6, 6, 6], None), ([6, 4, 2], r"sequence_lens are part of the model, and not all of them are 6")],
)
def test_lengths_that_are_part_of_the_model_are_refused_unless_they_are_whole(lengths, words):
    """A network has no lengths of its own: called without them, it continued beyond them."""
    from onnx_cases import Case, tensors

    import fastrnn.onnx

    case = Case(
        "GRU",
        tensors("GRU", 6, 3, 4, 6, 1, np.random.default_rng(0), ("X", "W", "R")),
        {"hidden_size": 6},
        ("Y",),
        ("W", "R", "sequence_lens"),
    )
    case.tensors["sequence_lens"] = np.array(lengths, "int32")
    model = case.model()
    if words is None:
        np.testing.assert_allclose(
            fastrnn.onnx.load(model)(case.tensors["X"])[0],
            fastrnn.onnx.run_model(model, case.feeds)[0][:, 0],
            rtol=1e-6,
        )
        return
    with pytest.raises(NotImplementedError, match=words):
        fastrnn.onnx.load(model)

"""ONNX nodes on fastrnn: ONNX's own tests, onnxruntime on random configurations, laws, and errors."""

import re
import unittest
import warnings

import numpy as np
import pytest
from onnx_cases import PEER, Case, peer, random_case, tensors

pytestmark = pytest.mark.onnxruntime

NODE_TESTS = r"^test_(lstm|gru|rnn|simple_rnn).*_cpu$"


def test_the_node_tests_of_onnx_pass():
    import onnx.backend.test

    import fastrnn.onnx as backend

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # creating the test cases of other operators overflows
        runner = onnx.backend.test.BackendTest(backend.Backend, __name__)
    cases = runner.test_cases["OnnxBackendNodeModelTest"]
    names = [name for name in dir(cases) if re.match(NODE_TESTS, name)]
    assert len(names) == 18
    result = unittest.TestResult()
    unittest.TestSuite(map(cases, names)).run(result)
    assert result.testsRun == 18 and not result.skipped
    assert result.wasSuccessful(), (result.failures + result.errors)[0][1]


@pytest.mark.parametrize("seed", range(240))
def test_a_random_node_agrees_with_onnxruntime(seed):
    import fastrnn.onnx as backend

    case = random_case(seed)
    model = case.model()
    for name, got, want in zip(
        case.outputs, backend.run_model(model, case.feeds), peer(model, case.feeds), strict=True
    ):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, **PEER, err_msg=f"{name} of {case}")


def run(case, **options):
    import fastrnn.onnx as backend

    return backend.run_model(case.model(), case.feeds, **options)


def one(op="LSTM", T=5, B=3, I=4, H=6, given=("X", "W", "R", "B"), seed=0, dtype="float32", **attributes):
    """Return a small case with these tensors and attributes."""
    D = 2 if attributes.get("direction") == "bidirectional" else 1
    made = tensors(op, T, B, I, H, D, np.random.default_rng(seed), given)
    made = {n: a if a.dtype.kind == "i" else a.astype(dtype) for n, a in made.items()}
    return Case(op, made, attributes, ("Y", "Y_h", "Y_c") if op == "LSTM" else ("Y", "Y_h"))


EVERY = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_layout_1_is_layout_0_with_batch_and_time_swapped(op, direction, dtype):
    time_major = one(op, given=EVERY, direction=direction, dtype=dtype)
    batch_major = one(op, given=EVERY, direction=direction, dtype=dtype, layout=1)
    for name in ("X", "initial_h", "initial_c"):
        if name in time_major.tensors:
            batch_major.tensors[name] = np.ascontiguousarray(time_major.tensors[name].swapaxes(0, 1))
    Y, *states = run(time_major)
    Y_1, *states_1 = run(batch_major)
    np.testing.assert_array_equal(Y_1, Y.transpose(2, 0, 1, 3))
    for got, want in zip(states_1, states, strict=True):
        np.testing.assert_array_equal(got, want.swapaxes(0, 1))
    assert Y.dtype == dtype


def test_a_sequence_of_length_0_keeps_its_initial_state():
    """onnxruntime returns zeros there; splitting a sequence requires that the state is kept."""
    case = one(given=EVERY)
    case.tensors["sequence_lens"] = np.array([5, 0, 2], "int32")
    Y, Y_h, Y_c = run(case)
    assert not Y[:, :, 1].any()
    np.testing.assert_array_equal(Y_h[:, 1], case.tensors["initial_h"][:, 1])
    np.testing.assert_array_equal(Y_c[:, 1], case.tensors["initial_c"][:, 1])


@pytest.mark.parametrize(
    "op, numbers",
    [("Relu", ()), ("LeakyRelu", (0.01,)), ("Elu", (1.0,)), ("ThresholdedRelu", (1.0,)), ("HardSigmoid", (0.2, 0.5))],
)
def test_an_activation_without_numbers_has_those_of_the_onnx_operator(op, numbers):
    explicit = dict(zip(("activation_alpha", "activation_beta"), ([v] for v in numbers)))
    default, given = one("RNN", activations=[op]), one("RNN", activations=[op], **explicit)
    for got, want in zip(run(default), run(given), strict=True):
        np.testing.assert_array_equal(got, want)


def test_the_numbers_belong_in_order_to_the_activations_that_take_one():
    """f takes no parameter, g two, h an alpha: alpha has two values, beta one."""
    case = one(
        hidden_size=6,
        activations=["Sigmoid", "HardSigmoid", "LeakyRelu"],
        activation_alpha=[0.3, 0.1],
        activation_beta=[0.4],
    )
    for got, want in zip(run(case), peer(case.model(), case.feeds), strict=True):
        np.testing.assert_allclose(got, want, **PEER)


def test_weights_given_at_run_time_may_change_in_place_from_run_to_run():
    import fastrnn.onnx as backend

    case = one()
    case.weights = ()
    rep, feeds = backend.prepare(case.model()), case.feeds
    first = rep.run(feeds).Y.copy()
    feeds["W"] *= -1
    np.testing.assert_array_equal(rep.run(feeds).Y, run(case).Y)
    feeds["W"] *= -1
    np.testing.assert_array_equal(rep.run(feeds).Y, first)


def test_an_initializer_that_is_an_input_too_can_be_replaced():
    from onnx import TensorProto, helper

    import fastrnn.onnx as backend

    case = one()
    model, W = case.model(), case.tensors["W"]
    model.graph.input.append(helper.make_tensor_value_info("W", TensorProto.FLOAT, W.shape))
    rep = backend.prepare(model)
    default = rep.run(case.feeds).Y
    case.tensors["W"] = -W
    np.testing.assert_array_equal(rep.run({**case.feeds, "W": -W}).Y, run(case).Y)
    np.testing.assert_array_equal(rep.run(case.feeds).Y, default)


def test_run_node_runs_one_node_at_any_opset():
    import fastrnn.onnx as backend

    case = one(given=EVERY)
    node = case.model().graph.node[0]
    for opset in (7, 14, 22, None):
        got = backend.run_node(node, [case.tensors[n] for n in node.input], opset_version=opset)
        for a, b in zip(got, run(case), strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_device_is_the_cpu():
    import fastrnn.onnx as backend

    assert backend.supports_device("CPU") and not backend.supports_device("CUDA")
    with pytest.raises(NotImplementedError, match="device is 'CUDA:1', but fastrnn computes on the CPU"):
        run(one(), device="CUDA:1")


# --- nodes inside functions and subgraphs ----------------------------------------------------------------------------


def test_a_node_in_a_function_is_ours_and_its_attributes_may_be_the_functions():
    from onnx import AttributeProto, helper

    import fastrnn.onnx as backend

    case = one("RNN", activations=["LeakyRelu"], activation_alpha=[0.3])
    inner = helper.make_node("RNN", ["X", "W", "R", "B"], ["Y", "Y_h"], activations=["LeakyRelu"])
    inner.attribute.append(AttributeProto(name="activation_alpha", type=AttributeProto.FLOATS, ref_attr_name="slope"))
    imports = [helper.make_opsetid("", 14), helper.make_opsetid("my", 1)]
    function = helper.make_function("my", "Leaky", ["X", "W", "R", "B"], ["Y", "Y_h"], [inner], imports[:1], ["slope"])
    model = case.model()
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("Leaky", ["X", "W", "R", "B"], ["Y", "Y_h"], domain="my", slope=[0.3]))
    model.functions.append(function)
    model.opset_import.append(imports[1])
    for got, want in zip(backend.run_model(model, case.feeds), run(case), strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_node_in_a_loop_is_ours():
    """Three rounds of a GRU with clip, state carried by the loop, equal one pass over three times the sequence."""
    from onnx import TensorProto, helper, numpy_helper

    import fastrnn.onnx as backend

    case = one("GRU", T=2, clip=0.3)
    t, H, B = case.tensors, 6, 3
    state = helper.make_tensor_value_info("h", TensorProto.FLOAT, (1, B, H))
    out = [
        helper.make_tensor_value_info(n, k, s)
        for n, k, s in (("go_on", TensorProto.BOOL, ()), ("h_n", TensorProto.FLOAT, (1, B, H)))
    ]
    body = helper.make_graph(
        [helper.make_node("GRU", ["X", "W", "R", "B", "", "h"], ["", "h_n"], clip=0.3),
         helper.make_node("Identity", ["more"], ["go_on"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, ()),
         helper.make_tensor_value_info("more", TensorProto.BOOL, ()), state], out,
    )  # fmt: skip
    model = case.model()
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.append(helper.make_node("Loop", ["rounds", "yes", "zero"], ["last"], body=body))
    model.graph.output.append(helper.make_tensor_value_info("last", TensorProto.FLOAT, (1, B, H)))
    fixed = {"rounds": np.array(3), "yes": np.array(True), "zero": np.zeros((1, B, H), "float32")}
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in fixed.items())
    (last,) = backend.run_model(model, case.feeds)
    t["X"] = np.concatenate([t["X"]] * 3)
    np.testing.assert_array_equal(last, run(case).Y_h)


# --- errors ----------------------------------------------------------------------------------------------------------

REFUSED = [  # changes of a case, the error, words of its message
    (
        dict(slope=1.0),
        ValueError,
        r"node 'the_node' \(LSTM\) has an attribute 'slope', but at opset 14 there are only activation_alpha",
    ),
    (
        dict(direction="sideways"),
        ValueError,
        "direction is 'sideways', but it must be one of forward, reverse, bidirectional",
    ),
    (
        dict(activations=["Sigmoid", "Tanh", "Swish"]),
        NotImplementedError,
        "activation 'Swish', but ONNX has only Relu, Tanh",
    ),
    (
        dict(activations=["Sigmoid", "Tanh"]),
        ValueError,
        "2 activations, but LSTM needs 3 for each of its 1 directions: 3",
    ),
    (
        dict(activation_alpha=[0.1]),
        ValueError,
        "activation_alpha has 1 numbers, but of Sigmoid, Tanh, Tanh only 0 take one",
    ),
    (dict(clip=-1.0), ValueError, "clip is -1.0, but it must be above 0"),
    (dict(layout=2), ValueError, "layout is 2, but it must be 0 or 1"),
    (dict(input_forget=3), ValueError, "input_forget is 3, but it must be 0 or 1"),
    (dict(hidden_size=7), ValueError, r"hidden_size is 7, but R has shape \(1, 24, 6\): 6 units"),
    (dict(clip="a lot"), ValueError, "attribute clip is of type STRING, but it must be FLOAT"),
    (dict(direction="reverse", linear_before_reset=1), ValueError, "'linear_before_reset'"),
]


@pytest.mark.parametrize("attributes, error, words", REFUSED)
def test_an_attribute_that_is_unknown_or_impossible_is_refused(attributes, error, words):
    import fastrnn.onnx as backend

    with pytest.raises(error, match=words):
        backend.prepare(one(**attributes).model())


def test_an_attribute_of_a_later_opset_is_refused():
    import fastrnn.onnx as backend

    case = one(layout=1)
    case.opset = 7
    with pytest.raises(ValueError, match="has an attribute 'layout', but at opset 7 there are only"):
        backend.prepare(case.model())
    case.opset = 6
    with pytest.raises(NotImplementedError, match="is of opset 6, but fastrnn reads 7 and later"):
        backend.prepare(case.model())
    case.opset = 999
    with pytest.raises(NotImplementedError, match="the model is of opset 999, but this onnx knows those up to"):
        backend.prepare(case.model())


@pytest.mark.parametrize("inside", [False, True])
def test_an_unknown_operator_is_refused_by_name_anywhere(inside):
    from onnx import TensorProto, helper

    import fastrnn.onnx as backend

    case = one()
    model = case.model()
    node = helper.make_node("Frobnicate", ["Y"], ["z"], domain="com.microsoft")
    if inside:
        z = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
        branch = helper.make_graph([node], "branch", [], [z])
        node = helper.make_node("If", ["yes"], ["last"], then_branch=branch, else_branch=branch)
    model.graph.node.append(node)
    with pytest.raises(
        NotImplementedError,
        match=r"operators that neither ONNX 14 nor the model's own functions have: com\.microsoft\.Frobnicate",
    ):
        backend.prepare(model)


@pytest.mark.parametrize("name, shape, words", [
    ("W", (1, 24, 0, 1), r"W has shape \(1, 24, 0, 1\) and R \(1, 24, 6\), but they must be"),
    ("W", (1, 23, 4), r"W has shape \(1, 23, 4\), but 1 direction\(s\), 6 units and 4 features need \(1, 24, 4\)"),
    ("R", (2, 24, 6), r"R has shape \(2, 24, 6\), but .* need \(1, 24, 6\)"),
    ("B", (1, 24), r"B has shape \(1, 24\), but .* need \(1, 48\)"),
    ("P", (1, 24), r"P has shape \(1, 24\), but .* need \(1, 18\)"),
])  # fmt: skip
def test_a_weight_of_another_shape_is_refused_when_the_model_is_prepared(name, shape, words):
    import fastrnn.onnx as backend

    case = one()
    case.tensors[name] = np.zeros(shape, "float32")
    with pytest.raises(ValueError, match=words):
        backend.prepare(case.model())


@pytest.mark.parametrize("name, array, error, words", [
    ("X", np.zeros((5, 3, 9), "float32"), ValueError, r"X has shape \(5, 3, 9\): 9 features, but W is for 4"),
    ("X", np.zeros((5, 3, 4)), TypeError, "X is float64, but W is float32"),
    ("initial_h", np.zeros((1, 2, 6), "float32"), ValueError,
     r"initial_h has shape \(1, 2, 6\), but X, W and the direction need \(1, 3, 6\)"),
    ("initial_c", np.zeros((1, 3, 6)), TypeError, "initial_c is float64, but W is float32"),
    ("sequence_lens", np.array([5, 5, 6], "int32"), ValueError, "sequence_lens: lengths must be from 0 to T=5, got 6"),
    ("sequence_lens", np.array([5, 5], "int32"), ValueError,
     r"sequence_lens: lengths have shape \(2,\), but x has B=3"),
])  # fmt: skip
def test_an_input_that_does_not_fit_is_refused(name, array, error, words):
    case = one(given=EVERY)
    case.tensors[name] = array
    with pytest.raises(error, match=words):
        run(case)


def test_element_types_other_than_float_and_double_are_refused():
    import fastrnn.onnx as backend

    case = one()
    case.tensors = {n: a.astype("float16") for n, a in case.tensors.items()}
    model = one().model()
    del model.graph.initializer[:]
    from onnx import numpy_helper

    model.graph.initializer.extend(numpy_helper.from_array(case.tensors[n], n) for n in ("W", "R", "B"))
    with pytest.raises(NotImplementedError, match="W is FLOAT16, but fastrnn computes in FLOAT and DOUBLE"):
        backend.prepare(model)


@pytest.mark.parametrize("inputs, error, words", [
    ({}, ValueError, r"missing \['X'\], unknown nothing; it takes \['X'\]"),
    ({"X": 0, "Z": 0}, ValueError, r"missing nothing, unknown \['Z'\]"),
    ([], ValueError, "got 0 inputs, but this model takes 1"),
    ([np.zeros((5, 3, 4))], TypeError,
     r"input 'X' is float64, but the model takes float32: convert with .astype\('float32'\)"),
    ([np.zeros((5, 4), "float32")], ValueError, r"input 'X' has shape \(5, 4\), but the model takes \(5, 3, 4\)"),
])  # fmt: skip
def test_inputs_that_do_not_fit_the_model_are_refused(inputs, error, words):
    import fastrnn.onnx as backend

    with pytest.raises(error, match=words):
        backend.prepare(one().model()).run(inputs)


def test_threads_that_share_a_model_do_not_share_its_state():
    from concurrent.futures import ThreadPoolExecutor

    import fastrnn.onnx as backend

    case = one(given=("X", "W", "R", "B", "initial_h", "initial_c"), T=40)
    rep, feeds = backend.prepare(case.model()), case.feeds
    states = [{**feeds, "initial_h": feeds["initial_h"] * k} for k in range(8)]
    want = [rep.run(f).Y for f in states]
    with ThreadPoolExecutor(8) as pool:
        for got, k in zip(pool.map(lambda k: rep.run(states[k % 8]).Y, range(200)), range(200)):
            np.testing.assert_array_equal(got, want[k % 8])


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("outputs", [("Y",), ("Y", "Y_h", "Y_c"), ("Y_h",)])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("state", [False, True])
def test_a_model_of_one_node_goes_the_short_way_to_the_same_bits(op, outputs, state, direction, monkeypatch):
    import fastrnn.onnx as backend

    names = ("X", "W", "R", "B", *(("initial_h", *(("initial_c",) if op == "LSTM" else ())) if state else ()))
    outputs = outputs if op == "LSTM" else [o for o in outputs if o != "Y_c"]
    values = tensors(op, 5, 3, 4, 6, 1 + (direction == "bidirectional"), np.random.default_rng(0), names)
    case = Case(op, values, {"hidden_size": 6, "direction": direction}, outputs)
    rep, feeds = backend.prepare(case.model()), case.feeds
    found = [rep.run(feeds), rep.run(list(feeds.values())), rep.run(feeds)]
    monkeypatch.setattr(rep._evaluator, "results", None)
    assert all(np.array_equal(a, b) for a, b in zip(rep.run(feeds), found[0], strict=True)), "without the general way"
    monkeypatch.undo()
    rep._direct = None
    for got in found:
        for a, b in zip(got, rep.run(feeds), strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.flags.writeable and a.flags.c_contiguous and a.shape == b.shape


def test_what_the_short_way_does_not_take_goes_the_general_way():
    import fastrnn.onnx as backend

    rng, shape = np.random.default_rng(0), ("X", "W", "R", "B")
    two = {"direction": "bidirectional", "activations": ["Sigmoid", "Tanh", "Tanh", "Sigmoid", "Relu", "Tanh"]}
    unlike = Case("LSTM", tensors("LSTM", 5, 3, 4, 6, 2, rng, shape), {"hidden_size": 6, **two}, ("Y",))
    lengths = Case("LSTM", tensors("LSTM", 5, 3, 4, 6, 1, rng, (*shape, "sequence_lens")), {"hidden_size": 6}, ("Y",))
    outside = Case("LSTM", tensors("LSTM", 5, 3, 4, 6, 1, rng, shape), {"hidden_size": 6}, ("Y",), weights=("W", "R"))
    assert [backend.prepare(case.model())._direct for case in (unlike, lengths, outside)] == [None] * 3
    half = Case("LSTM", tensors("LSTM", 5, 3, 4, 6, 1, rng, (*shape, "initial_c")), {"hidden_size": 6}, ("Y",))
    for case in (unlike, lengths, outside, half):
        np.testing.assert_allclose(
            backend.run_model(case.model(), case.feeds).Y, peer(case.model(), case.feeds)[0], **PEER
        )

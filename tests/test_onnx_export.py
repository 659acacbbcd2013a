"""fastrnn networks and models as ONNX models: the same numbers here and in onnxruntime."""

import numpy as np
import pytest
from onnx_cases import PEER, peer

import fastrnn
from fastrnn import GRU, LSTM, RNN, Stacked, models

pytestmark = pytest.mark.onnxruntime

NETWORKS = {
    "lstm": lambda: LSTM(3, 4),
    "lstm, two ways": lambda: LSTM(3, 4, 2, bidirectional=True),
    "lstm, projected": lambda: LSTM(3, 6, 2, proj_size=2, bidirectional=True),
    "lstm, peephole": lambda: LSTM(3, 6, peephole=True, clip=0.7),
    "lstm, coupled": lambda: LSTM(
        3, 6, 2, peephole=True, coupled=True, activation="softsign", recurrent_activation="hard_sigmoid"
    ),
    "lstm, h of its own": lambda: LSTM(3, 6, output_activation=("scaled_tanh", 0.9, 0.7), activation="linear"),
    "lstm, learnt state": lambda: taught(LSTM(3, 4, 2, learn_initial_state=True)),
    "gru": lambda: GRU(3, 5, 2, reverse=True),
    "gru, reset before": lambda: GRU(3, 5, reset_after=False, bidirectional=True, batch_first=True),
    "gru, options": lambda: GRU(3, 5, activation=("elu", 0.8), recurrent_activation=("affine", 0.3, 0.4), clip=0.9),
    "gru, no bias": lambda: GRU(3, 5, bias=False),
    "rnn": lambda: RNN(3, 4, nonlinearity=("thresholded_relu", 0.2), batch_first=True),
    "rnn, leaky": lambda: RNN(3, 4, 3, nonlinearity="leaky_relu", bidirectional=True),
    "stack": lambda: Stacked([GRU(3, 6), LSTM(6, 6), RNN(6, 6, 2)], residual=True),
    "stack, two ways": lambda: Stacked(
        [LSTM(3, 4, bidirectional=True), LSTM(8, 2, bidirectional=True, batch_first=False)]
    ),
}


def taught(layer):
    rng = np.random.default_rng(0)
    for name in layer.cell.states:
        with layer.updating() as flat:
            slot = layer.slots[name]
            flat[slot.slice] = rng.standard_normal(slot.size) / 2
    return layer


@pytest.mark.parametrize("opset", [14, 22])
@pytest.mark.parametrize(
    "options", [{}, {"lengths": False}, {"state": False}, {"lengths": False, "state": False}], ids=str
)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gives_the_same_numbers_here_and_in_onnxruntime(name, options, opset):
    import fastrnn.onnx
    from fastrnn.onnx import _verify

    net = NETWORKS[name]()
    model = fastrnn.onnx.export(net, opset=opset, **options)
    feeds, wanted = _verify.probe(net, {i.name for i in model.graph.input}, {o.name for o in model.graph.output})
    for output, got in zip(model.graph.output, peer(model, feeds), strict=True):
        np.testing.assert_allclose(got, wanted[output.name], **PEER, err_msg=output.name)
    members = getattr(net, "layers", [net])
    recurrent = [node for node in model.graph.node if node.op_type in ("RNN", "GRU", "LSTM")]
    assert len(recurrent) == sum(layer.num_layers for layer in members), "one node per layer"
    assert ("sequence_lens" in feeds) == options.get("lengths", True)


def test_t_and_b_are_symbolic():
    import fastrnn.onnx

    net = fastrnn.LSTM(3, 4, seed=0)
    model = fastrnn.onnx.export(net, lengths=False, state=False)
    rng = np.random.default_rng(0)
    for T, B in ((1, 1), (9, 4), (2, 17)):
        x = rng.standard_normal((T, B, 3)).astype("float32")
        np.testing.assert_allclose(peer(model, {"x": x})[0], net(x)[0], **PEER)


def test_float64_is_exported_though_onnxruntime_does_not_run_it():
    import fastrnn.onnx

    net = fastrnn.GRU(3, 4, 2, dtype="float64", seed=0)
    rep = fastrnn.onnx.prepare(fastrnn.onnx.export(net, lengths=False, state=False))
    x = np.random.default_rng(0).standard_normal((5, 2, 3))
    np.testing.assert_allclose(rep.run(x).y, net(x)[0], rtol=1e-12, atol=1e-14)


def test_the_file_is_the_model(tmp_path):
    import onnx

    import fastrnn.onnx

    model = fastrnn.onnx.export(fastrnn.GRU(3, 4), tmp_path / "gru.onnx")
    assert onnx.load(tmp_path / "gru.onnx") == model


def test_numbers_of_activations_are_always_written():
    import onnx

    import fastrnn.onnx

    model = fastrnn.onnx.export(
        fastrnn.GRU(3, 4, activation="leaky_relu", recurrent_activation="hard_sigmoid", bidirectional=True)
    )
    (node,) = (n for n in model.graph.node if n.op_type == "GRU")
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert values["activations"] == [b"HardSigmoid", b"LeakyRelu"] * 2
    np.testing.assert_allclose(values["activation_alpha"], [1 / 6, 0.01] * 2, rtol=1e-6)
    np.testing.assert_allclose(values["activation_beta"], [0.5] * 2)


# --- models ----------------------------------------------------------------------------------------------------------

X = [np.random.default_rng(n).standard_normal((4 + n % 5, 3)) for n in range(24)]
FIT = dict(epochs=1, verbose=False)


@pytest.mark.parametrize("options", [{}, {"lengths": False}], ids=str)
@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
@pytest.mark.parametrize("opset", [14, 22])
def test_a_classifier_gives_its_probabilities_from_raw_features(pooling, options, opset):
    import fastrnn.onnx

    model = models.SequenceClassifier("lstm", 5, 2, bidirectional=True, pooling=pooling, seed=0).fit(
        X, np.arange(24) % 3, **FIT
    )
    exported = fastrnn.onnx.export(model, opset=opset, **options)
    x = np.stack([one[:4] for one in X[:6]], axis=1).astype("float32")
    feeds = {"x": x} | ({} if options else {"sequence_lens": np.full(6, 4, "int32")})
    for got in (peer(exported, feeds)[0], fastrnn.onnx.run_model(exported, feeds).probabilities):
        np.testing.assert_allclose(got, model.predict_proba([one[:4] for one in X[:6]]), **PEER)


@pytest.mark.parametrize("per_step", [False, True])
def test_a_regressor_gives_its_numbers_in_their_own_units(per_step):
    import fastrnn.onnx

    y = [10 + 5 * one[:, :2] for one in X] if per_step else np.array([10 + one.sum(0)[:2] for one in X])
    model = models.SequenceRegressor("gru", [5, 4], 2, per_step=per_step, seed=0).fit(X, y, **FIT)
    got = peer(fastrnn.onnx.export(model, lengths=False), {"x": X[0][:, None].astype("float32")})[0]
    np.testing.assert_allclose(got[:, 0] if per_step else got[0], model.predict(X[:1])[0], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
def test_a_language_model_continues_from_a_state(tied):
    import fastrnn.onnx

    text = "the quick brown fox jumps over the lazy dog. " * 20
    model = models.LanguageModel("lstm", 8, 2, tied=tied, seed=0).fit(text, batch_size=4, seq_len=10, **FIT)
    rep = fastrnn.onnx.prepare(fastrnn.onnx.export(model, lengths=False))
    ids = model.vocabulary.encode("the lazy dog").astype("int64")[:, None]
    state = {name: np.zeros((2, 1, 8), "float32") for name in ("h_0", "c_0")}
    whole = rep.run({"ids": ids, **state})
    first = rep.run({"ids": ids[:5], **state})
    rest = rep.run({"ids": ids[5:], "h_0": first.h_n, "c_0": first.c_n})
    np.testing.assert_array_equal(np.concatenate([first.logits, rest.logits]), whole.logits)
    y, _ = model.rnn(ids, embedding=model.embedding)
    np.testing.assert_allclose(whole.logits, model.linear(y), **PEER)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net, error, words", [
    (lambda: LSTM(3, 4, context_size=2), NotImplementedError,
     "ONNX has no context_size=2: its context enters every step"),
    (lambda: GRU(3, 4, activation="silu"), NotImplementedError, "ONNX has no activation 'silu', only Relu, Tanh"),
    (lambda: Stacked([GRU(3, 4), RNN(4, 4, nonlinearity="selu")]), NotImplementedError,
     "ONNX has no activation 'selu'"),
    (lambda: fastrnn.Linear(3, 4), NotImplementedError,
     "Linear can't be exported: only Recurrent, Stacked, LanguageModel, SequenceClassifier"),
    (lambda: models.Forecaster(4, 2), NotImplementedError, "Forecaster can't be exported"),
    (lambda: models.LanguageModel(), RuntimeError, "this LanguageModel has not been fitted"),
])  # fmt: skip
def test_what_onnx_can_not_say_is_refused_by_name(net, error, words):
    import fastrnn.onnx

    with pytest.raises(error, match=words):
        fastrnn.onnx.export(net())


@pytest.mark.parametrize("opset", [13, 999])
def test_an_opset_that_is_too_old_or_unknown_is_refused(opset):
    import fastrnn.onnx

    with pytest.raises(ValueError, match=f"opset is {opset}, but it must be from 14 to"):
        fastrnn.onnx.export(GRU(3, 4), opset=opset)


def test_a_projection_that_loses_rank_can_not_take_a_state():
    import fastrnn.onnx

    net = LSTM(3, 6, proj_size=2)
    with net.updating() as flat:
        slot = net.slots["weight_hr_l0"]
        slot.view(flat)[1] = slot.view(flat)[0]
    with pytest.raises(ValueError, match="weight_hr_l0 has dependent rows, .* export with state=False"):
        fastrnn.onnx.export(net)
    fastrnn.onnx.export(net, state=False)


def test_a_wrong_export_is_not_written(tmp_path, monkeypatch):
    import fastrnn.onnx
    from fastrnn.onnx import _write

    right = _write.tensors
    monkeypatch.setattr(_write, "tensors", lambda layer, k: (-right(layer, k)[0], *right(layer, k)[1:]))
    with pytest.raises(
        ValueError, match="verification failed: the exported model's output 'y' in fastrnn.onnx differs by up to"
    ):
        fastrnn.onnx.export(GRU(3, 4), tmp_path / "gru.onnx")
    assert not (tmp_path / "gru.onnx").exists()
    fastrnn.onnx.export(GRU(3, 4), tmp_path / "gru.onnx", verify=False)

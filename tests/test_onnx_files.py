"""Malicious or damaged files: a clear error, little memory, and no reads outside the model's folder."""

import contextlib

import numpy as np
import pytest
from onnx_cases import PEER, Case, peer, tensors

pytestmark = pytest.mark.onnxruntime
CLEAR = (ValueError, TypeError, NotImplementedError)


def written():
    import fastrnn.onnx

    return fastrnn.onnx.export(fastrnn.LSTM(3, 4), verify=False)


def test_truncated_files_are_refused(tmp_path):
    import fastrnn.onnx

    data = written().SerializeToString()
    for size in range(0, len(data) - 1, 7):
        (tmp_path / "short.onnx").write_bytes(data[:size])
        with pytest.raises(CLEAR):
            fastrnn.onnx.load(tmp_path / "short.onnx")


@pytest.mark.filterwarnings("ignore")
def test_files_with_flipped_bits_give_a_clear_error_or_load():
    import fastrnn.onnx

    data, rng = written().SerializeToString(), np.random.default_rng(0)
    for _ in range(400):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        with contextlib.suppress(*CLEAR):  # any other error fails the test
            fastrnn.onnx.load(bytes(damaged))


def test_a_tensor_that_claims_terabytes_is_refused():
    import fastrnn.onnx

    model = written()
    model.graph.initializer[0].dims[:] = [1, 1 << 20, 1 << 20]
    with pytest.raises(
        ValueError,
        match=r"tensor 'W_0' has shape \(1, 1048576, 1048576\), which is 4398046511104 bytes, but there are 192",
    ):
        fastrnn.onnx.prepare(model)


@pytest.mark.parametrize("location", ["/etc/passwd", "../secret.bin", "link.bin"])
def test_external_data_outside_the_folder_is_not_read(location, tmp_path):
    import onnx

    import fastrnn.onnx

    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(192))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    model = written()
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, location, 0, 192)
    tensor.ClearField("raw_data")
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="the data of tensor 'W_0' can't be read"):
        fastrnn.onnx.prepare(folder / "m.onnx")


def test_external_data_beside_the_model_is_read(tmp_path):
    import onnx

    import fastrnn.onnx

    onnx.save(written(), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert fastrnn.onnx.load(tmp_path / "m.onnx").num_parameters == fastrnn.LSTM(3, 4).num_parameters


def loose(change):
    """Return a case, and its model after a change that onnx's checker rejects and onnxruntime accepts."""
    case = Case(
        "LSTM",
        tensors("LSTM", 5, 3, 4, 6, 1, np.random.default_rng(0), ("X", "W", "R", "B")),
        {"hidden_size": 6},
        ("Y", "Y_h"),
    )
    model = case.model()
    change(model)
    return case, model


LOOSE = {
    "initializers that are not inputs, before IR version 4": lambda m: setattr(m, "ir_version", 3),
    "an output without shape": lambda m: m.graph.output[0].type.tensor_type.ClearField("shape"),
    "outputs without type": lambda m: [output.ClearField("type") for output in m.graph.output],
    "an input without shape": lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"),
}


@pytest.mark.parametrize("what", LOOSE)
def test_what_onnxruntime_runs_is_run(what):
    import fastrnn.onnx as backend

    case, model = loose(LOOSE[what])
    before = model.SerializeToString()
    for got, want in zip(backend.prepare(model).run(case.feeds), peer(model, case.feeds), strict=True):
        np.testing.assert_allclose(got, want, **PEER)
    assert model.SerializeToString() == before


@pytest.mark.parametrize("what", [w for w in LOOSE if not w.startswith("an input")])
def test_what_onnxruntime_runs_is_loaded(what):
    import fastrnn.onnx

    case, model = loose(LOOSE[what])
    got = fastrnn.onnx.load(model)(case.tensors["X"])[0]
    np.testing.assert_allclose(got, peer(model, case.feeds)[0][:, 0], **PEER)


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("T, B", [(0, 3), (5, 0), (0, 0)])
def test_no_steps_and_no_rows_give_empty_outputs_and_the_state_as_it_was(op, T, B):
    import fastrnn.onnx as backend

    made = tensors(op, 1, 3, 4, 6, 2, np.random.default_rng(0), ("X", "W", "R", "initial_h", "initial_c"))
    made["X"] = np.zeros((T, B, 4), "float32")
    made |= {n: made[n][:, :B] for n in ("initial_h", "initial_c") if n in made}
    case = Case(op, made, {"direction": "bidirectional"}, ("Y", "Y_h", "Y_c") if op == "LSTM" else ("Y", "Y_h"))
    Y, *states = backend.run_model(case.model(), case.feeds)
    assert Y.shape == (T, 2, B, 6)
    for state, name in zip(states, ("initial_h", "initial_c")):
        np.testing.assert_array_equal(state, made[name])

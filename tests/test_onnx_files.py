"""Files that mean harm, or were damaged: a clear error, no memory to speak of, nothing outside the model's folder is read."""

import contextlib

import numpy as np
import pytest

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
    with pytest.raises(ValueError, match=r"tensor 'W_0' has shape \(1, 1048576, 1048576\), which is 4398046511104 bytes, but there are 192"):
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
    with pytest.raises(ValueError, match="the numbers of tensor 'W_0' can't be read"):
        fastrnn.onnx.prepare(folder / "m.onnx")


def test_external_data_beside_the_model_is_read(tmp_path):
    import onnx

    import fastrnn.onnx

    onnx.save(written(), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert fastrnn.onnx.load(tmp_path / "m.onnx").num_parameters == fastrnn.LSTM(3, 4).num_parameters

"""Malicious or damaged files of other libraries are refused in a sentence that names them, with little memory."""

import io
import json
import re
import struct
import zipfile

import foreign_files as files
import fuzz
import mutators
import numpy as np
import pytest
from hostile_files import SUFFIX, Server, complaint
from small_files import MB, SMALL, constant, node, onnx_with, put_first

pytestmark = [pytest.mark.torch, pytest.mark.onnxruntime, pytest.mark.keras]
ALL = pytest.mark.parametrize("kind", list(SUFFIX))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("hostile")) as server:
        yield server


@ALL
def test_the_files_that_are_damaged_here_are_read_as_they_are(server, kind):
    found = server.read(getattr(files, f"{kind}_bytes")(), kind)
    assert found["end"] == "read", found


@pytest.mark.fuzz
@ALL
def test_a_damaged_file_is_read_or_refused_in_one_sentence_that_names_it(server, kind):
    model = files.onnx_model() if kind == "onnx" else None
    for seed in fuzz.seeds(f"hostile files: {kind}", 8):
        with fuzz.named(seed):
            data, run = mutators.mutant(kind, np.random.default_rng(seed), model), bool(seed % 2)
            wrong = complaint(server.read(data, kind, run=run), len(data), run)
            assert not wrong, wrong


# --- small files that ask for much memory ------------------------------------------


@pytest.mark.parametrize("what", SMALL)
def test_a_small_file_that_asks_for_much_is_refused_in_little_memory(server, what):
    kind, make, words = SMALL[what]
    data = make()
    found = server.read(data, kind)
    assert not complaint(found, len(data)), complaint(found, len(data))
    assert found["end"] == "refused", found

    assert re.search(words, found["text"]), found["text"]


# --- memory of reading -------------------------------------------------------------


def large(kind):
    """Write a valid file of about 16 MB."""
    H = 900
    if kind in ("torch", "safetensors"):
        arrays = {"rnn.weight_ih_l0": files.numbers((4 * H, 256)), "rnn.weight_hh_l0": files.numbers((4 * H, H)) / 10}
        if kind == "torch":
            return files.torch_file(*files.torch_parts(arrays))
        header, data = {}, b""
        for name, a in arrays.items():
            header[name] = {"dtype": "F32", "shape": list(a.shape), "data_offsets": [len(data), len(data) + a.nbytes]}
            data += a.tobytes()
        return files.safetensors_file(header, data)
    if kind == "onnx":
        import fastrnn.onnx

        return fastrnn.onnx.export(fastrnn.LSTM(256, H, seed=0), verify=False).SerializeToString()
    config = files.keras_config()
    layers = config["config"]["layers"]
    config["config"]["layers"] = [layers[0], layers[3], layers[4]]
    layers[0]["config"]["batch_shape"] = [None, None, 256]
    layers[3]["config"]["units"] = H
    shapes = {"lstm": [(256, 4 * H), (H, 4 * H), (4 * H,)], "dense": [(H, 2), (2,)]}
    return _large_keras(kind, config, shapes)


def _large_keras(kind, config, shapes):
    import h5py

    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for layer, of_layer in shapes.items():
            for k, shape in enumerate(of_layer):
                name = ("kernel", "recurrent_kernel", "bias")[k] if layer == "lstm" else ("kernel", "bias")[k]
                cell = "cell/" if layer == "lstm" else ""
                place = f"layers/{layer}/{cell}vars/{k}" if kind == "keras" else f"model_weights/{layer}/{name}"
                file[place] = files.numbers(shape) / 10
            if kind == "h5":
                names = [
                    n.encode() for n in ("kernel", "recurrent_kernel", "bias") if n in file[f"model_weights/{layer}"]
                ]
                file[f"model_weights/{layer}"].attrs["weight_names"] = names
        if kind == "h5":
            file.attrs["keras_version"] = "3.15.1"
            file.attrs["model_config"] = json.dumps(config)
            file["model_weights"].attrs["layer_names"] = [n.encode() for n in shapes]
    return out.getvalue() if kind == "h5" else files.keras_zip(config, out.getvalue())


@ALL
def test_reading_takes_a_small_multiple_of_the_files_size(server, kind):
    data = large(kind)
    found = server.read(data, kind, limit=4 << 30)
    assert found["end"] == "read", found
    assert found["grown"] < 12 * len(data) + 64 * MB, (
        f"{found['grown'] / len(data):.1f} times the file's {len(data)} bytes"
    )


def test_an_object_of_graphs_inside_graphs_is_refused():
    import fastrnn.onnx

    model = files.onnx_model()
    graph = model.graph
    for _ in range(200):
        graph = graph.node.add(op_type="If", input=["c"], output=["y"]).attribute.add(name="then_branch", type=5).g
    for read in (fastrnn.onnx.prepare, fastrnn.onnx.load):
        with pytest.raises(ValueError, match="nested more than 50 deep"):
            read(model)


def test_an_archive_of_arrays_that_becomes_far_larger_is_refused(tmp_path):
    from fastrnn import data

    np.savez_compressed(tmp_path / "bomb.npz", vectors=np.zeros((10_000, 1000), "float32"), texts=np.full(10_000, "x"))
    with pytest.raises(ValueError, match=r"bomb.npz.*bytes unpack to \d+, more than 100 times as many"):
        data.read_captions(tmp_path / "bomb.npz")


class PanicException(BaseException):
    """An exception as raised by extensions written in Rust."""


ODD_ERRORS = (
    TypeError("a"), KeyError("a"), IndexError("a"), AttributeError("a"), OverflowError("a"), RecursionError("a"),
    EOFError("a"), RuntimeError("a\nb"), AssertionError(), ZeroDivisionError("a"), StopIteration(),
    zipfile.BadZipFile("a"), struct.error("a"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "a"),
    json.JSONDecodeError("a", "b", 0), PanicException("a"), Exception("a" * 9000), ValueError("a\nb"),
)  # fmt: skip


@pytest.mark.parametrize("error", ODD_ERRORS, ids=lambda error: type(error).__name__)
def test_any_exception_becomes_one_sentence_that_names_the_file(error):
    from fastrnn._files import foreign

    with pytest.raises(ValueError) as caught, foreign.reading("m.pt"):
        raise error
    text = str(caught.value)
    assert type(caught.value) is ValueError and text.startswith("m.pt") and "\n" not in text and len(text) < 2100


@pytest.mark.parametrize(
    "error", [MemoryError(), NotImplementedError("a"), OSError("a")], ids=lambda error: type(error).__name__
)
def test_errors_that_say_what_happened_keep_their_class(error):
    from fastrnn._files import foreign

    with pytest.raises(type(error), match=r"m\.pt"), foreign.reading("m.pt"):
        raise error
    for passed in (KeyboardInterrupt, SystemExit):
        with pytest.raises(passed), foreign.reading("m.pt"):
            raise passed


def test_an_operator_that_fails_is_named():
    import fastrnn.onnx

    def change(model):
        constant(model, "two", np.ones((2, 2), "float32"))
        constant(model, "three", np.ones((3, 3), "float32"))
        put_first(model, node("MatMul", ["two", "three"], ["unused"], name="product"))

    made = fastrnn.onnx.prepare(onnx_with(change))
    feeds = {
        name: np.zeros([d.dim_value or 3 for d in made._types[name].tensor_type.shape.dim], "float32")
        for name in made.input_names
    }
    feeds["sequence_lens"] = np.full(3, 3, "int32")
    with pytest.raises(ValueError, match=r"^node 'product' \(MatMul\): TypeError: "):
        made.run(feeds)


def reference_without_function(model):
    """An attribute that refers to one of a function, outside any function."""
    model.graph.node[0].attribute[0].ref_attr_name = "x"


def node_without_weights(model):
    next(n for n in model.graph.node if n.op_type == "GRU").input[1] = ""


@pytest.mark.parametrize("change", [reference_without_function, node_without_weights])
def test_a_recurrent_node_that_lacks_something_is_named(change):
    import fastrnn.onnx

    model = files.onnx_model()
    change(model)
    with pytest.raises(ValueError, match="GRU_0"):
        made = fastrnn.onnx.prepare(model)
        feeds = {
            name: np.zeros([d.dim_value or 3 for d in made._types[name].tensor_type.shape.dim], "float32")
            for name in made.input_names
        }
        made.run(feeds | {"sequence_lens": np.full(3, 3, "int32")})


@pytest.mark.parametrize("text", ['{"a": ["\\ud800"]}', '{"a\\udfff": 1}', '["\\udc00x"]'])
def test_json_with_half_of_a_surrogate_pair_is_refused(tmp_path, text):
    """Such a name can be read, but not written."""
    from fastrnn._files import foreign

    with pytest.raises(ValueError, match="^a.json: .*contains half of a surrogate pair"):
        foreign.parse_json("a.json", text, 1000)
    assert foreign.parse_json("a.json", '["\\ud83d\\ude00"]', 1000) == ["\U0001f600"]


def test_a_very_long_name_is_cut_in_messages_but_the_files_is_not():
    from fastrnn._files import foreign

    name, path = "x" * 5000, "/".join(["folder"] * 50)
    text = foreign.named(path, ValueError(f"{path}: {name}.weight is missing"))
    assert text == f"{path}: {'x' * 80}…{('x' * 40 + '.weight')[-40:]} is missing"
    assert foreign.named(path, ValueError(f"{name!r} is missing")).startswith(f"{path}: 'xxx") and len(text) < 600


def test_a_separator_that_no_table_can_have_is_refused_when_a_model_is_loaded():
    from fastrnn.models.schemas import READING

    assert READING.holds({"separator": "\t"}) and not READING.holds({"separator": "ab" * 5000})

"""fastrnn convert: torch and safetensors files in and out, their errors, hostile files."""

import io
import json
import pickle
import resource
import zipfile

import numpy as np
import pytest

import fastrnn
from fastrnn import Network, cli
from fastrnn._files import storage
from fastrnn.convert import files as convert
from fastrnn.convert import state_dict, tensor_files
from fastrnn.models import LanguageModel

TEXT = "".join(f"{n} squared is {n * n}.\n" for n in range(200))


def layers():
    return {
        "emb": fastrnn.Embedding(9, 5, seed=0),
        "rnn": fastrnn.LSTM(5, 6, 2, bidirectional=True, seed=1),
        "out": fastrnn.Linear(12, 9, seed=2),
    }


def same(net, other, x):
    np.testing.assert_array_equal(net(x)[0], other(x)[0])


IDS = np.random.default_rng(0).integers(0, 9, (7, 3))


# --- a state_dict as a Network -------------------------------------------------


@pytest.mark.parametrize("make", [
    lambda: {"a": fastrnn.GRU(4, 5, 2, bidirectional=True, seed=1)},
    lambda: {"a": fastrnn.LSTM(4, 6, 2, proj_size=2, bias=False, seed=1), "b": fastrnn.Linear(2, 3, seed=2)},
    lambda: {"a": fastrnn.RNN(4, 6, nonlinearity="tanh", seed=1), "b": fastrnn.GRU(6, 2, seed=2),
        "c": fastrnn.Linear(2, 3, False, seed=2)},
    lambda: {"a": fastrnn.Linear(4, 3, seed=0), "b": fastrnn.GRU(3, 2, dtype="float32", seed=1)},
    layers,
])  # fmt: skip
def test_a_state_dict_of_a_chain_is_that_chain(make):
    net = Network(make())
    again = state_dict.to_network(net.state_dict(), between="none")
    assert repr(again) == repr(net)
    x = (
        IDS
        if isinstance(next(iter(net.layers.values())), fastrnn.Embedding)
        else np.random.default_rng(0).standard_normal((7, 3, 4)).astype("float32")
    )
    same(again, net, x)


def arrays(**change):
    """Return the arrays of a GRU and a Linear; change: {name with __ for the dot: array, or None to omit it}."""
    net = Network({"rnn": fastrnn.GRU(3, 4, seed=0), "fc": fastrnn.Linear(4, 2, seed=0)})
    found = {name: np.array(a) for name, a in net.state_dict().items()}
    for name, a in change.items():
        name = name.replace("__", ".")
        found.pop(name, None) if a is None else found.update({name: a})
    return found


F = np.float32
ERRORS = [
    (dict, "the state_dict is empty"),
    (lambda: arrays(rnn__weight_hh_l0=None), "rnn.weight_hh_l0 is missing"),
    (lambda: arrays(rnn__bias_hh_l0=None), "rnn.bias_hh_l0 is missing"),
    (lambda: arrays(rnn__weight_hh_l0=np.ones((4, 12), F)),
     r"rnn.weight_hh_l0 has shape \(4, 12\), .* is it transposed"),
    (lambda: arrays(rnn__weight_ih_l0=np.ones((3, 12), F)),
     r"rnn.weight_ih_l0 has shape \(3, 12\), but the layer's other parameters require \(12, 12\)"),
    (lambda: arrays(rnn__weight_hh_l0=np.ones((8, 4), F)), r"rnn.weight_hh_l0 has shape \(8, 4\)"),
    (lambda: arrays(rnn__weight_ih_l1=np.ones((12, 4), F)), "rnn.weight_hh_l1 is missing"),
    (lambda: arrays(rnn__weight_ih_l2=np.ones((12, 4), F)), "rnn.weight_ih_l1 is missing|rnn.weight_ih_l2 is too many"),
    (lambda: arrays(rnn__gain=np.ones(4, F)), r"rnn.gain \(4,\) is next to the parameters of a recurrent layer"),
    (lambda: arrays(norm__weight=np.ones(4, F), norm__bias=np.ones(4, F)),
     r"norm.weight \(4,\) does not belong to an Embedding"),
    (lambda: arrays(conv__weight=np.ones((4, 3, 5), F)), r"conv.weight \(4, 3, 5\) does not belong to"),
    (lambda: arrays(fc__weight=np.ones((4, 2), F)),
     r"fc.bias has shape \(2,\), but with a weight of \(4, 2\) it must have \(4,\)"),
    (lambda: arrays(fc__weight=np.ones((2, 5), F)), "layer 'fc' takes 5 features, but the layer before it gives 4"),
    (lambda: arrays(fc__bias=np.ones(2, np.float16)), "fc.bias is float16"),
    (lambda: arrays(fc__bias=np.ones(2)), "some tensors are float32 and some float64"),
    (lambda: arrays(steps=np.ones((), np.int64)), "steps is int64"),
    (lambda: arrays(rnn__weight_hh_l0=np.ones((0, 0), F)), "must have 2 axes"),
]  # fmt: skip


@pytest.mark.parametrize("make, words", ERRORS, ids=[words[:40] for _, words in ERRORS])
def test_a_tensor_that_does_not_fit_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        state_dict.to_network(make())


@pytest.mark.parametrize("layer, words", [
    (fastrnn.LSTM(3, 4, peephole=True), "torch.nn.LSTM has no peephole=True"),
    (fastrnn.GRU(3, 4, reset_after=False, reverse=True), "torch.nn.GRU has no reverse=True, reset_after=False"),
    (fastrnn.RNN(3, 4, nonlinearity="elu"), "torch.nn.RNN has no nonlinearity='elu'"),
    (fastrnn.Stacked([fastrnn.GRU(4, 4), fastrnn.GRU(4, 4)], residual=True), "has residual=True"),
])  # fmt: skip
def test_what_torch_has_not_is_not_written(layer, words):
    with pytest.raises(ValueError, match=words):
        state_dict.from_layers({"rnn": layer})


# --- files ---------------------------------------------------------------------


def test_safetensors_in_and_out_without_torch(tmp_path, run):
    net = Network(layers())
    net.save(tmp_path / "net")
    status, out, err = run("convert", tmp_path / "net", tmp_path / "net.safetensors")
    assert (status, err) == (0, "") and "read them again" in out
    status, out, err = run("convert", tmp_path / "net.safetensors", tmp_path / "again")
    assert (status, err) == (0, "") and "Embedding(9, 5" in out and "identical settings and parameters" in out
    same(Network.load(tmp_path / "again"), net, IDS)
    status, out, err = run("info", tmp_path / "again")
    assert status == 0 and "rnn: LSTM(5, 6, num_layers=2, bidirectional=True)" in out
    status, _, err = run("convert", tmp_path / "net.safetensors", tmp_path / "again")
    assert status == 1 and "again already exists" in err


def test_a_vocabulary_makes_a_language_model_that_writes_the_same(tmp_path, run):
    model = LanguageModel("gru", 16, 2, embedding_size=8, seed=1).fit(
        TEXT, epochs=3, batch_size=5, seq_len=17, lr=0.01, verbose=False
    )
    model.save(tmp_path / "model")
    symbols = model.vocabulary.symbols
    for name, given in (("list", list(symbols)), ("object", {s: k for k, s in enumerate(symbols)})):
        (tmp_path / f"{name}.json").write_text(json.dumps(given))
        if name == "list":
            assert run("convert", tmp_path / "model", tmp_path / "m.safetensors")[0] == 0
        status, out, err = run(
            "convert", tmp_path / "m.safetensors", tmp_path / name, "--vocabulary", tmp_path / f"{name}.json"
        )
        assert (status, err) == (0, "") and f"a language model of {len(symbols)} characters" in out
        again = LanguageModel.load(tmp_path / name)
        assert again.generate("12", length=60, temperature=0.7, seed=3) == model.generate(
            "12", length=60, temperature=0.7, seed=3
        )
    (tmp_path / "short.json").write_text(json.dumps(list(symbols[1:])))
    status, _, err = run(
        "convert", tmp_path / "m.safetensors", tmp_path / "new", "--vocabulary", tmp_path / "short.json"
    )
    assert (
        status == 1
        and f"the vocabulary has {len(symbols) - 1} characters, but the embedding has {len(symbols)} rows" in err
        and not (tmp_path / "new").exists()
    )


@pytest.mark.parametrize("text, words", [
    ("[1, 2]", "list of different characters"),
    ('["a", "a"]', "list of different"), ('{"a": 1}', "must be 0..0"), ("{", "is not JSON"), ('["ab"]', "characters"),
])  # fmt: skip
def test_a_wrong_vocabulary_is_refused(tmp_path, text, words):
    path = tmp_path / "v.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        convert.read_vocabulary(path)


@pytest.mark.torch
def test_a_torch_file_in_and_out(tmp_path, run):
    import torch

    torch.manual_seed(0)
    module = torch.nn.ModuleDict(
        {"embedding": torch.nn.Embedding(9, 5), "rnn": torch.nn.GRU(5, 6, 2), "linear": torch.nn.Linear(6, 9)}
    )
    torch.save({"model": module.state_dict(), "step": 3}, tmp_path / "all.pt")
    status, _, err = run("convert", tmp_path / "all.pt", tmp_path / "net")
    assert status == 1 and "holds a dict of 'model', 'step'" in err and "--key" in err
    status, out, err = run("convert", tmp_path / "all.pt", tmp_path / "net", "--key", "model")
    assert (status, err) == (0, "") and "each layer alone agrees with torch's" in out
    ids = torch.from_numpy(IDS)
    with torch.no_grad():
        wanted = module["linear"](module["rnn"](module["embedding"](ids))[0])
    np.testing.assert_allclose(Network.load(tmp_path / "net")(IDS)[0], wanted, atol=1e-6)
    status, out, err = run("convert", tmp_path / "net", tmp_path / "back.pt")
    assert (status, err) == (0, "")
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert list(back) == list(module.state_dict()) and all(
        torch.equal(back[name], p) for name, p in module.state_dict().items()
    )
    module.load_state_dict(back)


@pytest.mark.torch
def test_cells_vanilla_layers_and_float64_are_read(tmp_path, run):
    import torch

    torch.save(torch.nn.LSTMCell(3, 4).double().state_dict(), tmp_path / "cell.pt")
    status, out, err = run("convert", tmp_path / "cell.pt", tmp_path / "cell")
    assert (status, err) == (0, "") and "'layer': LSTM(3, 4, dtype='float64')" in out
    for nonlinearity in ("tanh", "relu"):
        torch.save(torch.nn.RNN(3, 4, nonlinearity=nonlinearity).state_dict(), tmp_path / "rnn.pt")
        status, out, err = run("convert", tmp_path / "rnn.pt", tmp_path / nonlinearity, "--nonlinearity", nonlinearity)
        assert (status, err) == (0, "") and f"nonlinearity '{nonlinearity}' is assumed" in out


@pytest.mark.torch
def test_outputs_that_are_not_torchs_are_an_error(tmp_path, monkeypatch):
    net = Network(layers())
    tensors = {name: np.array(a) for name, a in net.state_dict().items()}
    tensors["out.bias"] = tensors["out.bias"] + F(0.01)
    with pytest.raises(ValueError, match=r"outputs of 'out' differ from torch's by up to 0.01"):
        convert.compare_with_torch(net, tensors)


# --- hostile files -------------------------------------------------------------


class Evil:
    def __reduce__(self):
        return (open, ("evil-was-here", "w"))


def torch_zip(payload):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", payload)
        archive.writestr("a/version", "3\n")
    return file.getvalue()


def bomb():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\0" * (1 << 26))
    return file.getvalue()


def claims(shape):
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * int(np.prod(shape, dtype=float))]}}
    ).encode()
    return len(header).to_bytes(8, "little") + header + b"\0" * 16


HOSTILE = {
    "a pickle under another name": (lambda: pickle.dumps(Evil()), "plain pickle"),
    "a safetensors file that claims 4 TB": (
        lambda: claims([1 << 20, 1 << 20]),
        "damaged: its tensors take 4398046511104 bytes",
    ),
    "a safetensors header of 2^60 bytes": (
        lambda: (1 << 60).to_bytes(8, "little") + b"{}",
        "damaged: its header claims 1152921504606846976 bytes",
    ),
    "a safetensors header that is no JSON": (
        lambda: (4).to_bytes(8, "little") + b"{]{]",
        "damaged: its header has ']{\\]' where",
    ),
    "an empty file": (lambda: b"", "is not a torch, safetensors, ONNX or Keras file"),
    "text": (lambda: b"hello, world, hello", "is not a torch, safetensors, ONNX or Keras file"),
    "a zip bomb": (bomb, "but its members have"),
    "a zip cut short": (lambda: torch_zip(b"x")[:30], "cut short or damaged"),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
@pytest.mark.torch
def test_a_hostile_file_is_a_clear_error_in_little_memory(tmp_path, monkeypatch, name):
    import torch  # noqa: F401  its own memory is not the file's

    monkeypatch.chdir(tmp_path)
    make, words = HOSTILE[name]
    (tmp_path / "file.pt").write_bytes(make())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=words):
        convert.convert(tmp_path / "file.pt", tmp_path / "out")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.pt"]


@pytest.mark.torch
def test_code_in_a_torch_file_is_not_run(tmp_path, monkeypatch, capsys):
    import torch

    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pt").write_bytes(torch_zip(pickle.dumps(Evil(), protocol=2)))
    assert cli.main(["convert", "evil.pt", "out"]) == 1
    torch.save(torch.nn.GRU(2, 3), tmp_path / "module.pt")  # a whole module is code too
    assert cli.main(["convert", "module.pt", "out"]) == 1
    assert capsys.readouterr().err.count("holds more than tensors: save module.state_dict() alone") == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.pt", "module.pt"]


@pytest.mark.torch
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files_cut_short_or_with_a_flipped_bit_are_read_right_or_refused(tmp_path, suffix):
    """A flipped bit of a weight cannot be noticed (there is no checksum); anything else must be a ValueError."""
    net = Network({"rnn": fastrnn.GRU(3, 4, seed=0)})
    tensor_files.write(state_dict.from_layers(net.layers), tmp_path / f"whole{suffix}", suffix)
    whole, rng, refused = (tmp_path / f"whole{suffix}").read_bytes(), np.random.default_rng(0), 0
    for trial in range(120):
        data = bytearray(whole)
        if trial % 3:
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        else:
            del data[rng.integers(len(data)) :]
        path = tmp_path / f"broken{suffix}"
        path.write_bytes(data)
        try:
            kind = convert.sniff(path)
            assert kind in ("torch", "safetensors")
            found = tensor_files.read_torch(path) if kind == "torch" else tensor_files.read_safetensors(path)
            state_dict.to_network(found)
        except ValueError:
            refused += 1
    assert refused >= 40


def test_a_destination_with_another_suffix_is_refused_and_a_model_that_is_no_chain(tmp_path, run):
    Network(layers()).save(tmp_path / "net")
    status, _, err = run("convert", tmp_path / "net", tmp_path / "net.bin")
    assert status == 1 and "the suffix determines the format" in err and not (tmp_path / "net.bin").exists()
    storage.save(tmp_path / "other", {}, {"model": "Strange"})
    status, _, err = run("convert", tmp_path / "other", tmp_path / "x.safetensors")
    assert status == 1 and "holds a Strange" in err


@pytest.mark.onnxruntime
def test_onnx_in_and_out(tmp_path, run):
    net = Network({"rnn": fastrnn.LSTM(4, 5, 2, bidirectional=True, seed=0)})
    model = LanguageModel("gru", 12, seed=0).fit(TEXT, epochs=1, batch_size=5, seq_len=17, verbose=False)
    model.save(tmp_path / "model")
    status, out, err = run("convert", tmp_path / "model", tmp_path / "model.onnx")
    assert (status, err) == (0, "") and "agree" in out and (tmp_path / "model.onnx").stat().st_size > 1000
    from fastrnn.onnx import export

    export(net.layers["rnn"], tmp_path / "rnn.onnx")
    status, out, err = run("convert", tmp_path / "rnn.onnx", tmp_path / "net")
    assert (status, err) == (0, "") and "LSTM(4, 5, num_layers=2, bidirectional=True)" in out
    assert "outputs on random input agree with onnxruntime's" in out
    same(Network.load(tmp_path / "net"), net, np.random.default_rng(0).standard_normal((7, 3, 4)).astype("float32"))
    status, _, err = run("convert", tmp_path / "model.onnx", tmp_path / "new")
    assert status == 1 and "more than a recurrent stack" in err and not (tmp_path / "new").exists()
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "rnn.onnx").read_bytes()[:300])
    status, _, err = run("convert", tmp_path / "cut.onnx", tmp_path / "new")
    assert status == 1 and err.startswith("fastrnn: error: ")
    assert run("convert", tmp_path / "net", tmp_path / "out.onnx")[0] == 0
    Network(layers()).save(tmp_path / "chain")
    status, _, err = run("convert", tmp_path / "chain", tmp_path / "chain.onnx")
    assert status == 1 and "Network can't be exported" in err and not (tmp_path / "chain.onnx").exists()


# --- a concurrent save by another process -------------------------------------


@pytest.mark.parametrize("name", ["new", "new.safetensors"])
@pytest.mark.parametrize(
    "error", [ValueError("refused"), KeyboardInterrupt(), None], ids=["refused", "interrupted", "done"]
)
def test_convert_keeps_what_another_process_saved_meanwhile(tmp_path, monkeypatch, run, name, error):
    net, destination = Network(layers()), tmp_path / name
    net.save(tmp_path / "old")
    read = convert._read

    def interrupted(source, options):
        found = read(source, options)
        net.save(destination) if name == "new" else destination.write_bytes(b"of another process")
        if error is not None:
            raise error
        return found

    monkeypatch.setattr(convert, "_read", interrupted)
    status, _, err = run("convert", tmp_path / "old", destination)
    assert status == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert error is not None or f"{destination} already exists" in err
    if name == "new":
        same(Network.load(destination), net, IDS)
    else:
        assert destination.read_bytes() == b"of another process"


def test_convert_does_not_replace_a_file_that_appears_while_it_writes(tmp_path, monkeypatch, run):
    Network(layers()).save(tmp_path / "old")
    write = tensor_files.write

    def slow(*arguments):
        (tmp_path / "new.safetensors").write_bytes(b"of another process")
        return write(*arguments)

    monkeypatch.setattr(tensor_files, "write", slow)
    status, _, err = run("convert", tmp_path / "old", tmp_path / "new.safetensors")
    assert status == 1 and "new.safetensors: File exists" in err
    assert (tmp_path / "new.safetensors").read_bytes() == b"of another process"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.safetensors", "old"]

"""Files of torch.save are read without torch, with the same content as by torch.load."""

import argparse
import sys

import foreign_files as files
import fuzz
import numpy as np
import pytest

from fastrnn.convert import tensor_files
from fastrnn.convert import torch_file as _torch_file

pytestmark = pytest.mark.torch


def same(path, key=None):
    """What is read is what torch.load returns: names, order, dtypes, shapes, bits."""
    import torch

    found, want = tensor_files.read_torch(path, key), torch.load(path, weights_only=True, map_location="cpu")
    want = want if key is None else want[key]
    assert list(found) == list(want)
    for name, t in want.items():
        array = t.detach().numpy()
        assert (
            found[name].dtype == array.dtype and found[name].shape == array.shape and found[name].flags.c_contiguous
        ), name
        assert found[name].tobytes() == array.tobytes(), name


def drawn(rng):
    """Return a tensor of any dtype of NumPy, shape and strides, maybe part of a larger one, a Parameter or shared."""
    import torch

    kinds = (torch.float32,) * 3 + (
        torch.float64,
        torch.float16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
        torch.complex64,
    )
    dtype = kinds[int(rng.integers(len(kinds)))]
    shape = [int(n) for n in rng.integers(0 if rng.random() < 0.1 else 1, 5, int(rng.integers(0, 4)))]
    t = torch.from_numpy(np.array(rng.standard_normal(shape) * 5)).to(dtype)
    if t.ndim > 1 and rng.random() < 0.3:
        t = t.transpose(0, -1)
    if t.ndim and t.shape[0] > 2 and rng.random() < 0.3:
        t = t[1::2]
    if t.is_floating_point() and rng.random() < 0.3:
        t = torch.nn.Parameter(t, requires_grad=bool(rng.integers(2)))
    return t


@pytest.mark.fuzz
def test_random_tensors_are_what_torch_load_gives(tmp_path):
    import torch

    for seed in fuzz.seeds("torch files", 40):
        with fuzz.named(seed):
            rng = np.random.default_rng(seed)
            tensors = {f"layer{k}.weight": drawn(rng) for k in range(int(rng.integers(0, 6)))}
            if tensors and rng.random() < 0.3:
                tensors["tied"] = next(iter(tensors.values()))
            torch.save(tensors, tmp_path / "m.pt")
            same(tmp_path / "m.pt")
            torch.save(
                {
                    "epoch": 3,
                    "state": tensors,
                    "loss": [0.5, None, (True, "x")],
                    "optimizer": {0: {"step": torch.tensor(3.0)}},
                },
                tmp_path / "more.pt",
            )
            same(tmp_path / "more.pt", "state")


def test_state_dicts_and_checkpoints_are_read(tmp_path):
    import torch

    net = torch.nn.Sequential(
        torch.nn.LSTM(3, 4, 2, bidirectional=True), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3)
    )
    optimizer = torch.optim.Adam(net.parameters())
    torch.save(net.state_dict(), tmp_path / "state.pt")
    same(tmp_path / "state.pt")
    more = {"dtype": torch.float32, "size": torch.Size([1, 2]), "set": {1}}
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()} | more, tmp_path / "all.pt")
    same(tmp_path / "all.pt", "net")
    torch.save(dict(net.named_parameters()), tmp_path / "parameters.pt")
    same(tmp_path / "parameters.pt")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_from_2_on_is_read(tmp_path, protocol):
    import torch

    tensors = torch.nn.LSTM(3, 4, 2).state_dict()
    torch.save(tensors, tmp_path / "m.pt", pickle_protocol=protocol)
    found = tensor_files.read_torch(tmp_path / "m.pt")
    assert list(found) == list(tensors) and all((found[name] == t.numpy()).all() for name, t in tensors.items())
    others = {0: torch.ones(2), "set": {1, 2}, "bytes": b"x" * 300, "array": bytearray(b"x"), "long": "é" * 300}
    torch.save({"state": tensors, **others}, tmp_path / "m.pt", pickle_protocol=protocol)
    assert list(tensor_files.read_torch(tmp_path / "m.pt", "state")) == list(tensors)
    torch.save({"w": torch.ones(2), "a": argparse.Namespace()}, tmp_path / "m.pt", pickle_protocol=protocol)
    with pytest.raises(ValueError, match="it imports argparse.Namespace"):
        tensor_files.read_torch(tmp_path / "m.pt")


def test_a_name_that_is_no_unicode_text_is_refused(tmp_path):
    import torch

    torch.save({"a\ud800.weight": torch.ones(2, 2)}, tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"m.pt: 'a\\ud800.weight' contains half of a surrogate pair"):
        tensor_files.read_torch(tmp_path / "m.pt")


def test_a_file_of_a_machine_of_the_other_byte_order_is_read(tmp_path):
    arrays = files.state_dict()
    found, members = files.torch_parts()
    swapped = {name: np.frombuffer(data, "<f4").astype(">f4").tobytes() for name, data in members.items()}
    (tmp_path / "big.pt").write_bytes(files.torch_file(found, swapped, order=b"big"))
    for name, array in _torch_file.read(tmp_path / "big.pt").items():
        np.testing.assert_array_equal(array, arrays[name])
        assert array.dtype == np.float32


def test_torch_is_not_imported_to_read_its_files(tmp_path, monkeypatch):
    (tmp_path / "m.pt").write_bytes(files.torch_bytes())
    monkeypatch.setitem(sys.modules, "torch", None)
    found = tensor_files.read_torch(tmp_path / "m.pt")
    assert list(found) == list(files.STATE_DICT)


def others():
    """Return {name: (object, words)} of objects that torch.save accepts but that are not dicts of plain tensors."""
    import torch

    quantized = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    return {
        "bfloat16": ({"w": torch.ones(2, dtype=torch.bfloat16)}, "w is of a BFloat16Storage"),
        "sparse": ({"w": torch.eye(3).to_sparse()}, "w is a tensor made by torch._utils._rebuild_sparse_tensor"),
        "quantized": ({"w": quantized}, "w is a tensor made by torch._utils._rebuild_qtensor"),
        "meta": (
            {"w": torch.ones(2, device="meta")},
            "w is a tensor made by torch._utils._rebuild_meta_tensor_no_storage",
        ),
        "expanded": (
            {"w": torch.ones(1).expand(100)},
            r"w has shape \(100,\) and strides \(0,\) over 1 elements, so it repeats them",
        ),
        "a module": (torch.nn.GRU(2, 3), "save module.state_dict.. alone .it imports torch.nn.modules.rnn.GRU"),
        "an object": ({"w": torch.ones(2), "args": argparse.Namespace(a=1)}, "it imports argparse.Namespace"),
        "a list": ([torch.ones(2)], "holds a list, but a state_dict is a dict of tensors"),
        "a tensor": (torch.ones(2), "holds a single tensor, but a state_dict is a dict of tensors"),
        "a number": (
            {"w": torch.ones(2), "epoch": 3},
            "holds a dict of 'w', 'epoch', but a state_dict is a dict of tensors",
        ),
    }


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_what_is_no_dict_of_plain_tensors_is_refused_by_name(tmp_path):
    import torch

    for name, (value, words) in others().items():
        torch.save(value, tmp_path / "m.pt")
        with pytest.raises(ValueError, match=words) as caught:
            tensor_files.read_torch(tmp_path / "m.pt")
        assert str(tmp_path / "m.pt") in str(caught.value), name

"""Files: what is saved is loaded again, completely or not at all, and damage is named."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import processes
import pytest
from numpy.testing import assert_array_equal

from fastrnn._files import storage

ARRAYS = {
    "a": np.random.default_rng(0).standard_normal((3, 5)).astype("float32"),
    "b": np.arange(4, dtype="int64"),
    "empty": np.empty((0, 2)),
    "nan": np.array([np.nan, -0.0, np.inf]),
}
CONFIG = {
    "model": "Test",
    "symbols": "aé\n\U0001f600",
    "lr": 0.1 + 0.2,
    "none": None,
    "list": [1, 2.5],
    "loss": math.nan,
}


@pytest.fixture
def folder(tmp_path):
    storage.save(tmp_path / "m", ARRAYS, CONFIG)
    return tmp_path / "m"


def assert_same(got, want):
    assert sorted(got) == sorted(want)
    for name, array in want.items():
        assert got[name].dtype == array.dtype, name
        assert got[name].shape == array.shape, name
        assert got[name].tobytes() == array.tobytes(), name


def test_everything_is_loaded_with_the_same_bits(folder):
    arrays, config = storage.load(folder)
    assert_same(arrays, ARRAYS)
    assert json.dumps(config) == json.dumps(CONFIG)
    weights, header = sorted(folder.iterdir(), reverse=True)
    assert re.fullmatch("model-[0-9a-f]{12}.safetensors", weights.name)
    assert json.loads(header.read_text())["format_version"] == 1
    assert json.loads(header.read_text())["weights"] == weights.name


def test_the_same_model_is_the_same_file(folder, tmp_path):
    storage.save(tmp_path / "again", ARRAYS, CONFIG)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        path.name for path in (tmp_path / "again").iterdir()
    )


def test_other_programs_can_read_the_arrays(folder):
    from safetensors.numpy import load_file

    assert_array_equal(load_file(next(folder.glob("*.safetensors")))["a"], ARRAYS["a"])


def test_old_files_are_removed_and_strange_ones_are_not(folder):
    (folder / "notes.txt").write_text("mine")
    (folder / "model-000000000000.safetensors.tmp").write_bytes(b"half")
    storage.save(folder, {"a": ARRAYS["a"] + 1}, CONFIG, kind="checkpoint")
    storage.save(folder, {"a": ARRAYS["a"] + 2}, CONFIG)
    kinds = sorted(re.sub("-[0-9a-f]{12}", "-…", path.name) for path in folder.iterdir())
    assert kinds == ["checkpoint-….safetensors", "checkpoint.json", "config.json", "model-….safetensors", "notes.txt"]
    assert_array_equal(storage.load(folder)[0]["a"], ARRAYS["a"] + 2)
    assert_array_equal(storage.load(folder, kind="checkpoint")[0]["a"], ARRAYS["a"] + 1)


@pytest.mark.parametrize("step", range(6))
def test_a_save_that_breaks_off_leaves_the_old_model(folder, monkeypatch, step):
    """Let the first `step` writing calls succeed; the fifth replaces config.json."""
    calls = []

    def limited(real):
        def call(*arguments, **options):
            calls.append(real)
            if len(calls) > step:
                raise OSError("no space left on device")
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", limited(os.replace))
        patch.setattr(os, "fsync", limited(os.fsync))
        with pytest.raises(OSError, match="no space left"):
            storage.save(folder, {"a": ARRAYS["a"] + 1}, {"new": 1})
    arrays, config = storage.load(folder)
    new = config == {"new": 1}
    assert new == (step == 5)
    assert_same(arrays, {"a": ARRAYS["a"] + 1} if new else ARRAYS)
    storage.save(folder, {"a": ARRAYS["a"] + 1}, {"new": 1})
    assert len(list(folder.iterdir())) == 2


def test_a_process_that_is_killed_while_it_saves_leaves_a_whole_model(tmp_path):
    code = """
import sys, numpy as np
from fastrnn._files import storage
print("go", flush=True)
for i in range(10**6):
    storage.save(sys.argv[1], {"i": np.full(20000, i)}, {"i": i})
"""
    for delay in (0.05, 0.11, 0.17):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "m")],
            env=processes.environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            process.stdout.readline()
            while not (tmp_path / "m" / "config.json").exists():
                time.sleep(0.001)
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        arrays, config = storage.load(tmp_path / "m")
        assert (arrays["i"] == config["i"]).all()


def test_any_flipped_bit_is_noticed(folder):
    """Flip all bits of config.json, and one bit in each byte of the arrays; flipping white space may be harmless."""
    config = folder / "config.json"
    raw = config.read_bytes()
    for k in range(len(raw)):
        for bit in range(8):
            config.write_bytes(raw[:k] + bytes([raw[k] ^ 1 << bit]) + raw[k + 1 :])
            try:
                arrays, got = storage.load(folder)
            except (ValueError, FileNotFoundError) as error:
                assert str(config) in str(error) or str(folder) in str(error)
            else:
                assert_same(arrays, ARRAYS)
                assert json.dumps(got) == json.dumps(CONFIG)
    config.write_bytes(raw)
    weights = next(folder.glob("*.safetensors"))
    data = weights.read_bytes()
    for k in range(len(data)):
        weights.write_bytes(data[:k] + bytes([data[k] ^ 1 << k % 8]) + data[k + 1 :])
        with pytest.raises(
            ValueError, match=rf"{weights.name} is damaged: its sha256 is [0-9a-f]{{12}}…, but it was saved with"
        ):
            storage.load(folder)


def edit(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        storage.load(tmp_path / "nowhere")
    assert one_line(error) == f"no model in {tmp_path / 'nowhere'}: there is no such directory"
    with pytest.raises(FileNotFoundError) as error:
        storage.load(tmp_path)
    assert one_line(error) == f"no model in {tmp_path}: config.json is missing"
    with pytest.raises(FileNotFoundError) as error:
        storage.load(folder / "config.json")
    assert one_line(error) == f"no model in {folder / 'config.json'}: there is no such directory"
    storage.save(tmp_path / "c", ARRAYS, CONFIG, kind="checkpoint")
    with pytest.raises(FileNotFoundError) as error:
        storage.load(tmp_path / "c")
    assert one_line(error).endswith("it holds only a checkpoint: continue its training with resume")
    weights = next(folder.glob("*.safetensors"))
    weights.unlink()
    with pytest.raises(FileNotFoundError) as error:
        storage.load(folder)
    assert one_line(error) == f"{weights} is missing, though config.json names it: copy the whole directory"


def test_truncated_and_strange_files_are_named(folder):
    weights, config = next(folder.glob("*.safetensors")), folder / "config.json"
    data, raw = weights.read_bytes(), config.read_bytes()
    for kept in (0, 5, 100, len(data) - 1):
        weights.write_bytes(data[:kept])
        with pytest.raises(ValueError, match="is damaged: its sha256 is") as error:
            storage.load(folder)
        assert f"({kept} bytes now)" in one_line(error)
    weights.write_bytes(data)
    for content in (raw[:-10], b"", b"[]", b"{}", b"\xff\xfe", b'{"format_version": "1"}'):
        config.write_bytes(content)
        with pytest.raises(ValueError, match="config.json is damaged") as error:
            storage.load(folder)
        one_line(error)


def test_a_configuration_that_is_nested_too_deeply_is_damaged(folder):
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="config.json is damaged: it has lists or objects nested 100000 deep"):
        storage.load(folder)


def test_the_message_says_that_a_format_is_newer(folder):
    edit(folder, format_version=2)
    with pytest.raises(ValueError) as error:
        storage.load(folder)
    assert (
        one_line(error)
        == f"{folder / 'config.json'} has format version 2, but this fastrnn reads up to 1: it needs a newer fastrnn"
    )


def test_config_json_cannot_point_elsewhere_or_be_edited(folder, tmp_path):
    weights = next(folder.glob("*.safetensors"))
    (tmp_path / weights.name).write_bytes(weights.read_bytes())
    edit(folder, weights=f"../{weights.name}")
    with pytest.raises(ValueError, match="config.json is damaged: the file name"):
        storage.load(folder)
    edit(folder, weights=weights.name, config=CONFIG | {"lr": 0.4})
    with pytest.raises(ValueError, match="its configuration is not the one saved with model-"):
        storage.load(folder)


def test_a_reader_follows_a_writer(folder, monkeypatch):
    """The writer replaces the model after the reader has read config.json; the reader reads the new model."""
    read, saved = storage._read_config, []

    def read_and_lose_the_race(directory, kind):
        raw = read(directory, kind)
        if not saved:
            saved.append(storage.save(folder, {"a": np.ones(2)}, {"new": 1}))
        return raw

    monkeypatch.setattr(storage, "_read_config", read_and_lose_the_race)
    assert storage.load(folder)[1] == {"new": 1}


def test_holds_anything(tmp_path):
    assert not storage.holds_anything(tmp_path / "nowhere")
    assert not storage.holds_anything(tmp_path)
    (tmp_path / "model-0123456789ab.safetensors.tmp").touch()
    (tmp_path / "checkpoint-0123456789ab.safetensors").touch()
    assert not storage.holds_anything(tmp_path)
    (tmp_path / "thesis.tex").touch()
    assert storage.holds_anything(tmp_path)

"""Training logs: one writer at a time, and files that are removed, copied, or are devices."""

import copy
import os
import pickle

import pytest

from fastrnn._files import disk
from fastrnn.callbacks import CSVLog, JSONLog
from fastrnn.models import SequenceClassifier

needs_locks = pytest.mark.skipif(disk.fcntl is None, reason="this system has no flock")
X, Y = [[[1.0], [2.0]], [[2.0], [1.0]]] * 6, ["up", "down"] * 6
FIT = dict(epochs=2, verbose=False)


@needs_locks
@pytest.mark.parametrize("log", [CSVLog, JSONLog])
def test_a_second_training_at_one_log_is_refused(log, tmp_path):
    path = tmp_path / "log"
    held = log(path)
    held.begin([{"epoch": 0, "loss": 1.0}])
    before = path.read_text()
    model = SequenceClassifier(hidden_size=3, seed=0)
    message = f"^another training or callback is writing {path}: use another file$"
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y, callbacks=[log(path)], checkpoint=tmp_path / "m", **FIT)
    assert path.read_text() == before and not (tmp_path / "m").exists() and model.storage is None
    held.end()
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y, callbacks=[log(path), log(path)], **FIT)
    model.fit(X, Y, callbacks=[log(path)], **FIT)
    first = path.read_text()
    model.fit(X, Y, callbacks=[log(path)], **FIT)  # the lock ends with the training run
    assert path.read_text() == first


@needs_locks
def test_the_command_refuses_a_log_that_another_process_writes(tmp_path, run):
    (tmp_path / "d.ts").write_text("@data\n" + "1,2,3:up\n3,2,1:down\n" * 20)
    held = CSVLog("log.csv")
    held.begin([])
    status, _, err = run(
        "train", "classify", "--data", "d.ts", "--out", "m", "--epochs", "1", "--log", "log.csv", "--quiet"
    )
    held.end()
    assert (status, err) == (1, "fastrnn: error: another training or callback is writing log.csv: use another file\n")
    assert not os.path.exists("m")


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
def test_the_command_keeps_the_log_of_another_training(name, tmp_path, run):
    (tmp_path / "d.ts").write_text("@data\n" + "1,2,3:up\n3,2,1:down\n" * 20)
    options = ["train", "classify", "--data", "d.ts", "--epochs", "1", "--log", name, "--quiet"]
    assert run(*options, "--out", "one")[0] == 0
    first = (tmp_path / name).read_text()
    line = f"fastrnn: error: {name} holds the log of another training: choose another --log, or remove the file\n"
    assert run(*options, "--out", "two") == (1, "", line)
    assert not os.path.exists("two") and (tmp_path / name).read_text() == first
    status, _, err = run(*options, "--out", "two", "--resume")  # there is nothing to resume, so it is another training
    assert (status, err) == (1, f"fastrnn: two is empty: training starts from the beginning\n{line}")
    assert not os.path.exists("two") and (tmp_path / name).read_text() == first
    assert run(*options, "--out", "one", "--resume", "--epochs", "2", "--lr-decay", "none")[0] == 1  # another schedule
    assert (tmp_path / name).read_text() == first
    fixed = [*options, "--lr-decay", "none"]
    os.remove(name)
    assert run(*fixed, "--out", "three")[0] == 0
    kept = (tmp_path / name).read_text()
    assert run(*fixed, "--out", "three", "--resume", "--epochs", "2")[0] == 0
    assert (tmp_path / name).read_text().startswith(kept) and (tmp_path / name).read_text() != kept
    (tmp_path / "empty.csv").touch()
    assert run(*options, "--out", "four", "--log", "empty.csv")[0] == 0


def test_a_log_that_was_removed_is_begun_again(tmp_path):
    log = CSVLog(tmp_path / "log.csv")
    log.begin([{"epoch": 1, "loss": 2.0}])
    log.path.unlink()
    log({"epoch": 2, "loss": 1.0})
    assert log.path.read_text() == "epoch,loss\n2,1.0\n"
    log.path.rename(tmp_path / "kept")
    log({"epoch": 3, "loss": 0.5})
    log.end()
    log({"epoch": 4, "loss": 0.25})
    assert log.path.read_text() == "epoch,loss\n3,0.5\n4,0.25\n"
    del log


def test_a_log_that_is_open_can_be_copied(tmp_path):
    log = JSONLog(tmp_path / "log.jsonl")
    log.begin([])
    for again in (copy.deepcopy(log), pickle.loads(pickle.dumps(log))):
        assert again.path == log.path and again._file is None
    log.end()


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="needs POSIX devices")
def test_a_log_may_be_a_device():
    one, two = CSVLog("/dev/null"), CSVLog("/dev/null")
    for log in (one, two):
        log.begin([{"epoch": 1}])
    assert os.path.exists("/dev/null") and not os.path.isfile("/dev/null")

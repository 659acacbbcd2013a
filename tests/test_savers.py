"""Several processes and threads use one directory: always a complete model, and only one training run."""

import contextlib
import json
import os
import subprocess
import sys
import textwrap
import threading
import time

import fuzz
import numpy as np
import processes
import pytest

from fastrnn._files import disk, storage
from fastrnn.callbacks import JSONLog
from fastrnn.models import SequenceClassifier

needs_locks = pytest.mark.skipif(disk.fcntl is None, reason="this system has no flock")
X, Y = [[[1.0], [2.0]], [[2.0], [1.0]]] * 6, ["up", "down"] * 6
FIT = dict(epochs=2, verbose=False)


def start(code, *arguments, **options):
    """Start Python code in a separate process, with pipes to it."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)], env=processes.environment(),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- plain saves ----------------------------------------------------------------------------------------------------

SAVER = """
    import sys
    import numpy as np
    from fastrnn._files import storage
    folder, mine = sys.argv[1], int(sys.argv[2])
    for line in sys.stdin:  # a line is a round: the directory, and when to begin
        directory, size = line.split()
        for kind in ("model", "checkpoint"):
            try:
                storage.save(directory, {"who": np.full(int(size), mine)}, {"who": mine}, kind=kind)
            except BaseException as error:
                print(type(error).__name__, error, kind, flush=True)
                break
        else:
            print("saved", flush=True)
"""


@pytest.fixture
def savers(tmp_path):
    found = [start(SAVER, tmp_path, mine) for mine in (1, 2)]
    yield found
    for process in found:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()
        process.stderr.close()


@pytest.mark.fuzz
def test_two_processes_save_into_one_directory(savers, tmp_path):
    """In each round two processes save at the same time: both succeed, and one of the two models is there, complete."""
    wrong = []
    for seed in fuzz.seeds("two savers", 20):
        rng = np.random.default_rng(seed)
        directory = tmp_path / f"round-{seed % 3}"  # empty, or with the results of the previous rounds
        for process in savers:
            process.stdin.write(f"{directory} {rng.integers(1, 30_000)}\n")
        for process in savers:
            process.stdin.flush()
        said = [process.stdout.readline().strip() for process in savers]
        try:
            assert said == ["saved", "saved"]
            for kind in ("model", "checkpoint"):
                arrays, config = storage.load(directory, kind=kind)
                assert (arrays["who"] == config["who"]).all()
            assert len(names(directory)) == 4
        except (AssertionError, OSError, ValueError) as error:
            wrong.append(f"seed {seed}: {type(error).__name__}: {str(error)[:200]}")
    assert not wrong, f"{len(wrong)} rounds: {wrong[:3]}"


@pytest.mark.fuzz
def test_readers_and_threads_that_save_always_find_a_whole_model(tmp_path):
    """Two threads save, two load: each load gives a model that one of them has saved."""
    directory, count, failures, done = tmp_path / "m", 0, [], threading.Event()
    storage.save(directory, {"i": np.full(3000, -1)}, {"i": -1})

    def saves(first):
        try:
            for i in range(first, first + 25 * fuzz_times()):
                storage.save(directory, {"i": np.full(3000 + i % 7, i)}, {"i": i})
        except BaseException as error:
            failures.append(error)

    def reads():
        nonlocal count
        try:
            while not done.is_set():
                arrays, config = storage.load(directory)
                assert (arrays["i"] == config["i"]).all()
                count += 1
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=saves, args=(first,)) for first in (0, 10**6)]
    readers = [threading.Thread(target=reads) for _ in range(2)]
    for thread in writers + readers:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    assert not failures, failures[0]
    assert count > 0 and len(names(directory)) == 2


def fuzz_times():
    return sum(1 for _ in fuzz.seeds("savers and readers", 1))


@needs_locks
def test_a_save_waits_for_the_one_that_is_going_on(tmp_path, monkeypatch):
    """The second save would remove the arrays of the first, which no configuration names yet."""
    renamed, may_go_on, real = threading.Event(), threading.Event(), os.replace

    def replace(old, new):
        real(old, new)
        if threading.current_thread() is first and str(new).endswith(".safetensors"):
            renamed.set()
            assert may_go_on.wait(60)

    monkeypatch.setattr(os, "replace", replace)
    first = threading.Thread(target=storage.save, args=(tmp_path, {"a": np.ones(1)}, {"who": 1}))
    second = threading.Thread(target=storage.save, args=(tmp_path, {"a": np.ones(2)}, {"who": 2}))
    first.start()
    assert renamed.wait(60)
    second.start()
    second.join(0.2)
    assert second.is_alive()
    may_go_on.set()
    first.join()
    second.join()
    assert storage.load(tmp_path)[1] == {"who": 2} and len(names(tmp_path)) == 2


def test_without_locks_the_arrays_of_another_save_are_kept(tmp_path, monkeypatch):
    """As on Windows: a save removes the arrays that it has replaced, and files older than a day."""
    monkeypatch.setattr(disk, "fcntl", None)
    storage.save(tmp_path, {"a": np.ones(1)}, {"who": 1})
    first = names(tmp_path)
    for name in (
        "model-0123456789ab.safetensors",
        "model.safetensors.0123456789abcdef.tmp",
        "model-ba9876543210.safetensors",
    ):
        (tmp_path / name).touch()
    os.utime(tmp_path / "model-ba9876543210.safetensors", (time.time() - 2 * 86_400,) * 2)
    storage.save(tmp_path, {"a": np.ones(2)}, {"who": 2})
    left = names(tmp_path)
    assert not set(first) & set(left) - {"config.json"}
    assert (
        "model-0123456789ab.safetensors" in left and "model.safetensors.0123456789abcdef.tmp" in left and len(left) == 4
    )
    monkeypatch.undo()
    storage.save(tmp_path, {"a": np.ones(3)}, {"who": 3})
    assert len(names(tmp_path)) == 2


# --- what a save leaves, and what it does not touch ------------------------------------------------------------------


def test_a_save_follows_no_symbolic_link(tmp_path):
    """Somebody with write access to the directory could have made a save overwrite a file elsewhere."""
    other = tmp_path / "other"
    other.write_text("mine")
    folder = tmp_path / "m"
    folder.mkdir()
    for name in ("config.json.tmp", "checkpoint.json.tmp", "config.json", "checkpoint.json"):
        (folder / name).symlink_to(other)
    arrays = {"a": np.ones(3)}
    for kind in ("model", "checkpoint"):
        storage.save(folder, arrays, {"k": 1}, kind=kind)
        digest = json.loads((folder / storage.CONFIG_FILES[kind]).read_text())["weights"]
        for name in (digest, f"{digest}.tmp"):
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(other)
        storage.save(folder, arrays, {"k": 1}, kind=kind)
        assert storage.load(folder, kind=kind)[1] == {"k": 1}
    assert other.read_text() == "mine"
    assert not [path for path in folder.iterdir() if path.is_symlink()]


@needs_locks
@pytest.mark.parametrize("name", ["save.lock", "training.lock"])
def test_a_lock_follows_no_symbolic_link(name, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / name).symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match=f"{tmp_path / 'm'}'$"), storage.training(tmp_path / "m"):
        storage.save(tmp_path / "m", {}, {})
    assert not (tmp_path / "other").exists()


@needs_locks
def test_what_killed_processes_have_left_counts_as_nothing_and_is_removed(tmp_path):
    left = [
        "model-0123456789ab.safetensors", "model.safetensors.0123456789abcdef.tmp", "config.json.0123456789abcdef.tmp",
        "config.json.tmp", "model-0123456789ab.safetensors.tmp", "save.lock", "training.lock",
    ]  # fmt: skip
    for name in left:
        (tmp_path / name).touch()
    assert not storage.holds_anything(tmp_path)
    SequenceClassifier(hidden_size=3, seed=0).fit(X, Y, checkpoint=tmp_path, **FIT)
    assert not set(left) & set(names(tmp_path)) and len(names(tmp_path)) == 4
    for name in (
        "model-0123456789ab.safetensors.bak",
        "config.json.tmp.tmp",
        "x.tmp",
        "model.safetensors",
        "other.lock",
        ".hidden",
    ):
        folder = tmp_path / f"with {name}"
        folder.mkdir()
        (folder / name).touch()
        assert storage.holds_anything(folder)
        storage.save(folder, {}, {})
        assert name in names(folder)


def test_names_are_new_each_time():
    assert len({disk.temporary_name("config.json") for _ in range(1000)}) == 1000
    assert len(os.fsencode(disk.temporary_name("\U0001f600" * 60))) < 255


# --- one training run in one directory ------------------------------------------------------------------------------

TRAINING = """
    import sys, time
    from fastrnn.models import SequenceClassifier
    X, Y = [[[1.0], [2.0]], [[2.0], [1.0]]] * 6, ["up", "down"] * 6
    def announce(entry):
        print("training", flush=True)
        return not sys.stdin.readline()
    model = SequenceClassifier(hidden_size=3, seed=0)
    model.fit(X, Y, epochs=1000, verbose=False, checkpoint=sys.argv[1], callbacks=[announce])
    print("ended", flush=True)
"""


@needs_locks
def test_a_second_training_in_one_directory_is_refused(tmp_path, run):
    (tmp_path / "d.ts").write_text("@data\n" + "1,2,3:up\n3,2,1:down\n" * 20)
    message = f"another training is writing to {tmp_path / 'm'}: wait until it has ended, or choose another directory"
    with start(TRAINING, tmp_path / "m") as first:
        assert first.stdout.readline() == "training\n"
        before = names(tmp_path / "m")
        for resume in (False, True):
            with pytest.raises(ValueError, match=f"^{message}$"):
                SequenceClassifier(hidden_size=3, seed=0).fit(X, Y, checkpoint=tmp_path / "m", resume=resume, **FIT)
            options = ["--resume"] if resume else []
            status, out, err = run("train", "classify", "--data", "d.ts", "--out", tmp_path / "m", *options)
            assert (status, out, err) == (1, "", f"fastrnn: error: {message}\n")
        assert names(tmp_path / "m") == before
        storage.save(tmp_path / "m", {}, {"k": 1})  # a plain save does not take it
        first.stdin.close()
        assert first.stdout.readlines()[-1] == "ended\n"
    assert len(names(tmp_path / "m")) == 4  # no lock file remains
    SequenceClassifier(hidden_size=3, seed=0).fit(X, Y, checkpoint=tmp_path / "m", resume=True, **FIT)


@needs_locks
def test_of_two_trainings_that_begin_together_one_is_refused(tmp_path, monkeypatch):
    """Both find the directory empty, and the other is faster: it is still training, or has ended."""
    real = storage.training

    def meanwhile(happens):
        def called(directory):
            monkeypatch.setattr(storage, "training", real)
            happens(directory)
            return real(directory)

        monkeypatch.setattr(storage, "training", called)

    others = contextlib.ExitStack()
    for name, happens, message in (
        (
            "m",
            lambda folder: others.enter_context(real(folder)),
            "another training is writing to .*m: wait until it has ended",
        ),
        (
            "n",
            lambda folder: storage.save(folder, {}, {}),
            "n is not empty: give resume=True to continue the training there, or another directory",
        ),
    ):
        meanwhile(happens)
        with pytest.raises(ValueError, match=message):
            SequenceClassifier(hidden_size=3, seed=0).fit(X, Y, checkpoint=tmp_path / name, **FIT)
    others.close()
    assert not (tmp_path / "m").exists() and len(names(tmp_path / "n")) == 2


@needs_locks
def test_a_killed_training_run_does_not_keep_its_lock(tmp_path):
    with start(TRAINING, tmp_path / "m") as first:
        assert first.stdout.readline() == "training\n"
        first.kill()
        first.wait()
    assert "training.lock" in names(tmp_path / "m")
    SequenceClassifier(hidden_size=3, seed=0).fit(X, Y, checkpoint=tmp_path / "m", resume=True, **FIT)
    assert len(names(tmp_path / "m")) == 4


@needs_locks
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_that_lives_longer_than_its_parent_holds_no_lock(tmp_path):
    """As a worker process of a data generator does when the training process is killed."""
    code = """
        import os, sys, time
        from fastrnn._files import disk, storage
        from fastrnn.callbacks import JSONLog
        log = JSONLog(sys.argv[1] + "/log.jsonl")
        log.begin([])
        begun, begins = os.pipe()
        with storage.training(sys.argv[1] + "/m"):
            child = os.fork()
            if child == 0:
                os.write(begins, b"x")
                sys.stdout.close()
                time.sleep(60)
            os.read(begun, 1)
            print(child, flush=True)
            os.kill(os.getpid(), 9)
    """
    with start(code, tmp_path) as process:
        child = int(process.stdout.readline())
    try:
        with storage.training(tmp_path / "m"):
            pass
        log = JSONLog(tmp_path / "log.jsonl")
        log.begin([])
        log.end()
        os.kill(child, 0)  # it is still there
    finally:
        os.kill(child, 9)


@needs_locks
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_that_ends_does_not_end_the_lock_of_its_parent(tmp_path):
    code = """
        import os, sys
        from fastrnn._files import storage
        with storage.training(sys.argv[1]):
            if os.fork() == 0:
                sys.exit(0)  # leaves the block
            os.wait()
            print("alone", flush=True)
            sys.stdin.readline()
    """
    with start(code, tmp_path) as process:
        assert process.stdout.readline() == "alone\n"
        with pytest.raises(ValueError, match="another training is writing to"), storage.training(tmp_path):
            pass
        process.communicate("\n")
    with storage.training(tmp_path):
        pass
    assert names(tmp_path) == []


@needs_locks
def test_a_lock_whose_file_was_removed_meanwhile_is_not_taken_for_one(tmp_path):
    """The first holds the lock, the second waits for it, the first removes the file, the third creates it again."""
    got = []
    with disk.lock(tmp_path / "save.lock", wait=True):

        def second():
            with disk.lock(tmp_path / "save.lock", wait=True):
                got.append(os.stat(tmp_path / "save.lock").st_ino)

        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.05)
    thread.join()
    assert len(got) == 1 and names(tmp_path) == []


def test_a_training_that_fails_at_once_leaves_no_directory(tmp_path):
    model = SequenceClassifier(hidden_size=3, seed=0)
    with pytest.raises(ValueError):
        model.fit(X, Y, checkpoint=tmp_path / "a" / "b", groups={"nothing": {"lr": 1}}, **FIT)
    assert names(tmp_path) == [] and model.storage is None

"""A full or broken disk, too little memory: existing files stay intact, and the error names the file."""

import contextlib
import errno
import functools
import os
import re
import sys
import textwrap
from pathlib import Path

import numpy as np
import processes
import pytest
from numpy.testing import assert_array_equal

from fastrnn._files import disk, storage
from fastrnn.callbacks import CSVLog, JSONLog
from fastrnn.convert import tensor_files
from fastrnn.models import LanguageModel, SequenceClassifier

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX system calls")
X, Y = [[[1.0], [2.0]], [[2.0], [1.0]]] * 6, ["up", "down"] * 6
OLD = ({"a": np.arange(5.0), "b": np.ones((2, 3), "float32")}, {"model": "old"})
NEW = ({"a": np.arange(7.0), "b": np.zeros((2, 3), "float32")}, {"model": "new"})
CALLS = ["open", "write", "fsync", "replace", "close", "mkdir"]


class Calls:
    """Record the system calls of a piece of code in order; one of them may fail."""

    def __init__(self, monkeypatch, fails=None, error=errno.ENOSPC, cut=False):
        self.made, self._fails, self._error, self._cut = [], fails, error, cut
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))
        if disk.fcntl is not None:
            monkeypatch.setattr(disk.fcntl, "flock", self._wrapped("flock", disk.fcntl.flock))

    def _wrapped(self, name, real):
        def call(*arguments, **options):
            self.made.append(
                (name, *map(str, arguments[:2])) if name in ("open", "replace", "mkdir") else (name, arguments[0])
            )
            if len(self.made) - 1 != self._fails:
                found = real(*arguments, **options)
                if name == "open":
                    self.made[-1] += (found,)
                return found
            if name == "write" and self._cut:  # a part of it was written
                return real(arguments[0], arguments[1][: len(arguments[1]) // 2])
            if name == "close":
                real(*arguments)
            raise OSError(self._error, os.strerror(self._error))

        return call


def same(found, wanted):
    return found[1] == wanted[1] and all(np.array_equal(found[0][name], array) for name, array in wanted[0].items())


def leftovers(folder):
    """Return temporary files and locks."""
    return [path.name for path in folder.rglob("*") if path.suffix in (".tmp", ".lock")]


@pytest.mark.parametrize("before", [True, False], ids=["replaces", "first"])
@pytest.mark.parametrize("kind", ["model", "checkpoint"])
def test_every_call_of_a_save_in_turn_fails(tmp_path, monkeypatch, kind, before):
    """Check that the directory holds the complete old or new model and no temporary file; the error names a path."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # it takes most of the time
    with monkeypatch.context() as patch:
        calls = Calls(patch)
        storage.save(tmp_path / "x" / "count", *NEW, kind=kind)
        count = len(calls.made)
    failed = 0
    for fails in range(count):
        for error in (errno.ENOSPC, errno.EIO):
            folder = tmp_path / f"{fails}-{error}" / "m"
            if before:
                storage.save(folder, *OLD, kind=kind)
            with monkeypatch.context() as patch:
                calls = Calls(patch, fails, error)
                try:
                    storage.save(folder, *NEW, kind=kind)
                    wrong = None
                except OSError as caught:
                    wrong = caught
            call = calls.made[min(fails, len(calls.made) - 1)]
            assert not leftovers(tmp_path), (call, leftovers(tmp_path))
            if wrong is None:
                assert call[0] in ("close", "flock") or len(calls.made) <= fails, (
                    f"{call} failed, and nobody has said so"
                )
            else:
                failed += 1
                assert str(tmp_path) in str(wrong) and os.strerror(error) in str(wrong), (call, wrong)
            if before or storage.exists(folder, kind=kind):
                found = storage.load(folder, kind=kind)
                assert same(found, NEW) or (wrong is not None and before and same(found, OLD)), call
            else:
                assert wrong is not None and not storage.holds_anything(folder)
            storage.save(folder, *NEW, kind=kind)
            assert same(storage.load(folder, kind=kind), NEW) and len(list(folder.iterdir())) == 2
    assert failed > 30  # of 42 or 58


def test_a_write_that_writes_only_a_part_is_continued(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        calls = Calls(patch)
        storage.save(tmp_path / "m", *NEW)
        writes = [k for k, call in enumerate(calls.made) if call[0] == "write"]
    for k in writes:
        with monkeypatch.context() as patch:
            Calls(patch, k, cut=True)
            storage.save(tmp_path / str(k), *NEW)
        assert same(storage.load(tmp_path / str(k)), NEW)


def unlink(path, missing_ok=False):
    with contextlib.suppress(FileNotFoundError if missing_ok else ()):
        os.unlink(path)


def test_the_order_in_which_a_save_reaches_the_disk(tmp_path, monkeypatch):
    """The bytes of a file, its name, then the directory; arrays before the configuration; removals last."""
    calls = Calls(monkeypatch)
    real, removed = os.unlink, []
    monkeypatch.setattr(
        os, "unlink", lambda path, **options: (removed.append(len(calls.made)), real(path, **options))[1]
    )
    monkeypatch.setattr(Path, "unlink", unlink)  # that of Python 3.10 does not call os.unlink
    folder = tmp_path / "a" / "m"
    storage.save(folder, *OLD)
    files, order = {}, []
    for call in calls.made:
        if call[0] == "open":
            files[call[-1]] = re.sub(r"[0-9a-f]{12,16}", "…", os.path.relpath(call[1], tmp_path))
        elif call[0] in ("fsync", "write"):
            entry = f"{call[0]} {files[call[1]]}"
            order += [entry] if order[-1:] != [entry] else []
        elif call[0] in ("replace", "mkdir"):
            path = os.path.relpath(call[2 if call[0] == "replace" else 1], tmp_path)
            order.append(f"{call[0]} {re.sub('[0-9a-f]{12,16}', '…', path)}")
    assert order == [
        "mkdir a", "fsync .", "mkdir a/m", "fsync a", "write a/m/model.safetensors.….tmp",
        "fsync a/m/model.safetensors.….tmp", "replace a/m/model-….safetensors", "fsync a/m",
        "write a/m/config.json.….tmp", "fsync a/m/config.json.….tmp", "replace a/m/config.json", "fsync a/m",
    ]  # fmt: skip
    start = len(calls.made)
    removed.clear()
    storage.save(folder, *NEW)
    assert len(removed) == 2 and removed[0] > start  # the arrays of the old model, and the lock
    assert [call[0] for call in calls.made[start : removed[0]]].count("fsync") == 4


def test_a_file_system_that_cannot_fsync_directories_is_no_error(tmp_path, monkeypatch):
    real = os.fsync

    def fsync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    storage.save(tmp_path / "m", *NEW)
    assert same(storage.load(tmp_path / "m"), NEW)


@pytest.mark.skipif(disk.fcntl is None, reason="this system has no flock")
def test_a_file_system_without_locks_is_no_error(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(disk.fcntl, "flock", flock)
    SequenceClassifier(hidden_size=3, seed=0).fit(
        X, Y, checkpoint=tmp_path / "m", callbacks=[JSONLog(tmp_path / "log")], epochs=2, verbose=False
    )
    assert not leftovers(tmp_path)
    storage.load(tmp_path / "m")


# --- a full disk, enforced by the kernel ------------------------------------------------------------------------------

LIMITED = """
    import os, resource, sys
    from fastrnn._files import storage
    import numpy as np
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
"""


def limited(code, folder, limit):
    """Run code in which no file can grow beyond `limit` bytes, and return its last line on stderr."""
    done = processes.python(textwrap.dedent(LIMITED) + textwrap.dedent(code), folder, limit)
    return done.stdout, done.stderr.strip().splitlines()[-1:]


def test_a_save_for_which_there_is_no_room(tmp_path):
    """For every file size: the kernel writes a part, then reports that there is no more room."""
    code = """
        sizes = []
        for limit in range(0, 2000, 61):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                storage.save(sys.argv[1], {"a": np.arange(100.0)}, {"k": "x" * 500})
                print("saved", limit)
            except OSError as error:
                print(error)
                assert storage.load(sys.argv[1])[1] == {"model": "old"} and len(os.listdir(sys.argv[1])) == 2
    """
    storage.save(tmp_path / "m", *OLD)
    out, err = limited(code, tmp_path / "m", 10**6)
    lines = out.splitlines()
    assert not err and len(lines) == 33
    assert (
        lines[-1] == "saved 1952" and lines[0] == f"[Errno 27] File too large: '{tmp_path / 'm' / 'model.safetensors'}'"
    )
    assert all(line.startswith(("saved", f"[Errno 27] File too large: '{tmp_path}")) for line in lines)


COMMANDS = {
    "train": ("train classify --data d.ts --out new --epochs 2 --hidden 4", "new/checkpoint"),
    "the log": ("train classify --data d.ts --out new --epochs 9 --hidden 1 --log log.csv", "log.csv"),
    "convert to a directory": ("convert model new", "new/model"),
    "convert to safetensors": ("convert text new.safetensors", "new.safetensors"),
    "convert to torch": ("convert text new.pt", "new.pt"),
    "convert to onnx": ("convert model new.onnx", "new.onnx"),
}
MARKS = {"convert to torch": pytest.mark.torch, "convert to onnx": pytest.mark.onnxruntime}


@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, ())) for name in COMMANDS])
def test_a_full_disk_is_one_line_of_the_command_that_names_the_file(name, run, tmp_path, monkeypatch):
    """Nothing can be written, or the log fails later: unfinished files are removed, the checkpoint is intact."""
    arguments, path = COMMANDS[name]
    (tmp_path / "d.ts").write_text("@data\n" + "1,2,3:up\n3,2,1:down\n" * 20)
    SequenceClassifier(hidden_size=4, seed=0).fit(X, Y, epochs=1, verbose=False).save("model")
    LanguageModel("gru", 4, seed=0).fit("abcab" * 99, epochs=1, batch_size=2, seq_len=9, verbose=False).save("text")
    before, real = set(tmp_path.iterdir()), os.write

    def write(descriptor, data):
        if name != "the log" or bytes(data).startswith(b"7.0,"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        status, _, err = run(*arguments.split())
    assert status == 1
    assert re.fullmatch(
        rf"fastrnn: error: {re.escape(path)}(\.safetensors)?: No space left on device", err.splitlines()[-1]
    ), err
    assert not leftovers(tmp_path)
    made = {path.name for path in set(tmp_path.iterdir()) - before}
    assert made == ({"new", "log.csv"} if name == "the log" else set())
    if name == "the log":
        assert storage.load("new", kind="checkpoint")[1]["position"]["epoch"] == 6
        assert run(*arguments.split(), "--resume")[0] == 0


# --- errors name the path
# ----------------------------------------------------------------------------------------------


def unwritable(folder):
    """Return (path, name of the error) of places where no user can write."""
    (folder / "file").write_text("")
    return [
        (folder / "file", "ENOTDIR"),
        (folder / "file" / "below", "ENOTDIR"),
        (folder / ("x" * 300), "ENAMETOOLONG"),
    ]


def test_a_place_where_nothing_can_be_saved_is_named(tmp_path):
    model = SequenceClassifier(hidden_size=3, seed=0).fit(X, Y, epochs=1, verbose=False)
    before = model.storage.flat.copy()
    for path, name in unwritable(tmp_path):
        with pytest.raises(OSError) as error:
            model.save(path)
        assert error.value.errno == getattr(errno, name) and str(path) in str(error.value), error.value
        with pytest.raises(OSError) as error:
            model.fit(X, Y, epochs=1, verbose=False, checkpoint=path)
        assert error.value.errno == getattr(errno, name) and str(path) in str(error.value), error.value
    assert_array_equal(model.storage.flat, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root can write everywhere")
def test_a_directory_that_may_not_be_written_is_named(tmp_path):
    storage.save(tmp_path / "m", *OLD)
    os.chmod(tmp_path / "m", 0o500)
    try:
        with pytest.raises(PermissionError, match=re.escape(str(tmp_path / "m"))):
            storage.save(tmp_path / "m", *NEW)
        assert same(storage.load(tmp_path / "m"), OLD)
    finally:
        os.chmod(tmp_path / "m", 0o700)


@pytest.mark.parametrize("log", [CSVLog, JSONLog])
def test_a_log_that_cannot_be_written_is_named(log, tmp_path, monkeypatch):
    path = tmp_path / "log"
    for error in (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT):
        for fails, name in ((0, "open"), (1, "flock"), (2, "write")):
            held = log(path)
            with monkeypatch.context() as patch:
                calls = Calls(patch, fails, error)
                if name == "flock":  # without locks, it is written anyway
                    held({"epoch": 1, "loss": 1.0})
                else:
                    with pytest.raises(OSError, match=f"{os.strerror(error)}: '{path}'$"):
                        held({"epoch": 1, "loss": 1.0})
            assert calls.made[fails][0] == name
            held.end()


@pytest.mark.torch
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_every_call_of_a_conversion_in_turn_fails(suffix, tmp_path, monkeypatch):
    tensors = {"b": np.arange(6.0), "a": np.ones((3, 2), "float32")}
    errors = [OSError(errno.ENOSPC, "No space left on device"), MemoryError("no memory"), KeyboardInterrupt()]
    for fails in range(60):
        for error in errors:
            path = tmp_path / f"out{suffix}"
            with monkeypatch.context() as patch:
                calls = Calls(patch, fails)
                patch.setattr(os, "strerror", lambda _, error=error: (_ for _ in ()).throw(error))
                try:
                    tensor_files.write(tensors, path, suffix)
                    done = True
                except type(error) as caught:
                    assert not isinstance(error, OSError) or str(path) in str(caught) or str(path.parent) in str(caught)
                    done = len(calls.made) > 1 and calls.made[-1][0] in ("fsync", "close", "open") and path.exists()
            assert done or not list(tmp_path.iterdir()), calls.made[fails]
            for left in tmp_path.iterdir():
                assert left == path
                left.unlink()
        if fails >= len(calls.made):
            break
    assert fails >= len(calls.made) > 5


def test_a_file_of_the_user_is_written_where_a_link_leads_and_a_device_stays_one(tmp_path):
    (tmp_path / "real").write_text("before")
    (tmp_path / "link").symlink_to("real")
    disk.write_output(tmp_path / "link", lambda file: file.write_all([b"new"]))
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"
    disk.write_output("/dev/null", lambda file: file.write_all([b"new"]))
    assert not os.path.isfile("/dev/null")


# --- memory
# -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's memory limits")
def test_save_and_load_take_no_memory_besides_the_arrays(tmp_path):
    """With too little memory they raise MemoryError, and the process continues."""
    code = """
        import sys
        import numpy as np
        from fastrnn._files import storage
        import resource
        limit = lambda: int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        size = 40 << 20
        arrays = {"a": np.ones(size // 8), "t": np.ones((1000, size // 4000), "float32").T}
        storage.save(sys.argv[1], {"small": np.ones(3)}, {"k": 1})  # all is imported
        now = limit()
        resource.setrlimit(resource.RLIMIT_AS, (now + (40 << 20), resource.RLIM_INFINITY))
        storage.save(sys.argv[1], arrays, {"k": 1})
        print("saved")
        for _ in range(3):
            try:
                storage.load(sys.argv[1])
            except MemoryError as error:
                print(error)
        resource.setrlimit(resource.RLIMIT_AS, (now + 2 * size + (40 << 20), resource.RLIM_INFINITY))
        found, _ = storage.load(sys.argv[1])
        print(all((found[name] == 1).all() for name in arrays))
        resource.setrlimit(resource.RLIMIT_AS, (limit() + (2 << 20), resource.RLIM_INFINITY))
        try:
            storage.save(sys.argv[1], {"t": arrays["t"]}, {"k": 2})
        except MemoryError:
            print("no memory to save")
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(storage.load(sys.argv[1])[1])
    """
    out = processes.output(textwrap.dedent(code), tmp_path / "m", OMP_NUM_THREADS="1").splitlines()
    assert out[0] == "saved"
    assert all(
        re.fullmatch(rf"the arrays of {tmp_path}/m/model-[0-9a-f]+.safetensors take \d+ bytes", line)
        for line in out[1:4]
    )
    assert out[4:] == ["True", "no memory to save", "{'k': 1}"]
    assert not leftovers(tmp_path)


def test_a_save_that_fails_after_the_arrays_leaves_none_of_them(tmp_path, monkeypatch):
    storage.save(tmp_path, *OLD)
    before = sorted(path.name for path in tmp_path.iterdir())
    real = os.replace

    def replace(source, target):
        if str(target).endswith("config.json"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    for _ in range(3):
        with pytest.raises(OSError, match="config.json"):
            storage.save(tmp_path, *NEW)
        with pytest.raises(OSError, match="config.json"):
            storage.save(tmp_path, *OLD)  # its arrays are those named in the configuration
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert same(storage.load(tmp_path), OLD)


@pytest.mark.parametrize(
    "value",
    [10**100, [[]] * 2_000_000, functools.reduce(lambda inner, _: [inner], range(80), 1)],
    ids=["digits", "parts", "depth"],
)
def test_what_could_not_be_read_again_is_not_saved(tmp_path, value):
    with pytest.raises(ValueError, match="could not be read again"):
        storage.save(tmp_path, {}, {"history": value})
    assert not list(tmp_path.iterdir())


def test_a_large_file_with_a_wrong_header_is_not_read_to_its_end(tmp_path):
    storage.save(tmp_path, *OLD)
    weights = next(tmp_path.glob("*.safetensors"))
    os.truncate(weights, 1 << 40)  # it takes no disk space
    with pytest.raises(ValueError, match="damaged: ValueError: its tensors take"):
        storage.load(tmp_path)

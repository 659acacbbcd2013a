"""Ctrl-C in the fastrnn command ends it soon in every phase, quietly, with status 130, and no half-written file."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import fuzz
import numpy as np
import processes
import pytest

from fastrnn._files import storage
from fastrnn.models import LanguageModel, SequenceClassifier

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")

SOON = 5.0  # seconds; half a second on an idle machine
LINE = "the quick brown fox, 17 years old, jumps over the lazy dog's tail.\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a text, a long one, and models."""
    folder = tmp_path_factory.mktemp("interrupts")
    (folder / "text.txt").write_text(LINE * 300)
    (folder / "long.txt").write_text(LINE * 300_000)
    (folder / "words.txt").write_text(LINE * 60_000)
    for level in ("character", "word"):
        model = LanguageModel("gru", 8, level=level, seed=1)
        model.fit(LINE * 300, epochs=1, batch_size=5, seq_len=17, validation=0, verbose=False).save(folder / level)
    (folder / "long.ts").write_text("@data\n" + "1,2,3:up\n3,2,1:down\n" * 100_000)
    X, y = [[[1.0], [2.0]], [[2.0], [1.0]]] * 6, ["up", "down"] * 6
    SequenceClassifier(hidden_size=4, seed=1).fit(X, y, epochs=1, verbose=False).save(folder / "classes")
    (folder / "out").mkdir()
    return folder


@contextlib.contextmanager
def start(folder, arguments, before=""):
    """Start the command in a separate process, like an installed script, after some other code."""
    code = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background
from fastrnn.cli import command
{textwrap.dedent(before)}
print("started", flush=True)
sys.exit(command())
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=folder,
        env=processes.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "started\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def interrupt(process):
    """Send Ctrl-C and return (status, seconds until the end, stdout, stderr)."""
    process.send_signal(signal.SIGINT)
    asked = time.monotonic()
    out, err = process.communicate(timeout=60)
    return process.returncode, time.monotonic() - asked, out, err


def check(status, seconds, err):
    assert "Traceback" not in err and "Exception ignored" not in err, err
    assert status == 130, err
    assert err.splitlines()[-1].startswith("fastrnn: "), err
    assert seconds < SOON, f"{seconds:.2f} s"


def whole(folder):
    """Return whether the contents of a directory can be read, or it is empty."""
    for kind in ("model", "checkpoint"):
        if storage.exists(folder, kind=kind):
            storage.load(folder, kind=kind)
    if folder.exists():
        assert not [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]
    return True


COMMANDS = {
    "a long text": ["train", "--data", "long.txt", "--hidden", 8],
    "words": ["train", "--data", "words.txt", "--level", "word", "--hidden", 8, "--layers", 1],
    "bytes": ["train", "--data", "long.txt", "--level", "byte", "--hidden", 8, "--layers", 1],
    "a training": ["train", "--data", "text.txt", "--hidden", 16, "--epochs", 10_000, "--batch", 5, "--seq-len", 10],
    "series": ["train", "classify", "--data", "long.ts", "--hidden", 4],
    "generate": ["generate", "character", "--length", 10**8],
    "generate words": ["generate", "word", "--length", 10**8, "--prompt", LINE],
    "evaluate": ["evaluate", "character", "--data", "long.txt"],
    "evaluate words": ["evaluate", "word", "--data", "words.txt"],
    "predict": ["predict", "classes", "--data", "long.ts"],
    "bench": ["bench", "--quick", "--peers", "numpy"],
}


@pytest.mark.fuzz
@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_at_a_random_moment(folder, tmp_path, name):
    for seed in fuzz.seeds(f"command: Ctrl-C, {name}", 1):
        directory = tmp_path / f"out-{seed}"
        where = ["--out", directory] if COMMANDS[name][0] in ("train", "bench") else []
        with start(folder, [*COMMANDS[name], *where]) as process:
            time.sleep(random.Random(f"{name} {seed}").uniform(0, 1.5))
            status, seconds, out, err = interrupt(process)
        with fuzz.named(seed):
            if status or not out:  # otherwise it had finished with its result
                check(status, seconds, err)
            assert whole(directory)


@pytest.mark.parametrize(
    "moment",
    ["numpy", "numpy._core", "fastrnn._engine", "fastrnn.models.text", "numpy.random", "tqdm"],
)
def test_ctrl_c_while_modules_are_imported(folder, moment):
    before = f"""
    import os
    class Finder:
        def find_spec(name, *_):
            if name == {moment!r}:
                os.kill(os.getpid(), signal.SIGINT)
    sys.meta_path.insert(0, Finder)
    """
    with start(folder, ["train", "--data", "text.txt", "--out", "out"], before) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "fastrnn: interrupted\n")


def test_ctrl_c_in_a_finaliser_during_an_import_is_not_lost(folder):
    """In such a place, Python only prints an exception and continues."""
    before = """
    import os
    class Dies:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(100):
                pass
    class Finder:
        def find_spec(name, *_):
            if name == "numpy":
                Dies()
    sys.meta_path.insert(0, Finder)
    """
    with start(folder, ["info"], before) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "fastrnn: interrupted\n")


def test_ctrl_c_in_a_finaliser_during_a_training_is_not_lost(folder, tmp_path):
    before = """
    import os
    import fastrnn.models
    kept = fastrnn.models.LanguageModel.loss_and_gradient
    class Dies:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)
    def dying(*arguments, **options):
        Dies()
        return kept(*arguments, **options)
    fastrnn.models.LanguageModel.loss_and_gradient = dying
    """
    with start(folder, [*COMMANDS["a training"], "--out", tmp_path / "m"], before) as process:
        out, err = process.communicate(timeout=60)
    check(process.returncode, 0, err)
    assert "--resume continues" in err.splitlines()[-1]


def test_an_import_that_makes_another_error_of_ctrl_c(folder):
    before = """
    import fastrnn.convert.files
    def convert(*_, **__):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise ImportError("initialization failed") from error
    fastrnn.convert.files.convert = convert
    """
    with start(folder, ["convert", "a", "b"], before) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "fastrnn: interrupted\n")


def test_training_ends_even_if_ctrl_c_was_swallowed_before(folder, tmp_path):
    before = """
    import fastrnn.training.loop
    kept = fastrnn.training.loop.Training.start
    def start(self):
        kept(self)
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            pass
    fastrnn.training.loop.Training.start = start
    """
    with start(folder, [*COMMANDS["a training"], "--out", tmp_path / "m"], before) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted after 0 updates" in err.splitlines()[-1]


PHASES = {
    "reading": ("fastrnn.models.text", "pieces_of", ["train", "--data", "long.txt", "--hidden", 8]),
    "ids": ("fastrnn.models.characters", "code_points", ["train", "--data", "long.txt", "--hidden", 8]),
    "the digest": ("fastrnn.models.characters", "_text", ["train", "--data", "long.txt", "--hidden", 8]),
    "splitting": (
        "fastrnn.models.language_model",
        "split_words",
        ["train", "--data", "words.txt", "--level", "word", "--hidden", 8, "--layers", 1],
    ),
    "counting words": (
        "fastrnn.models.text",
        "Words.of",
        ["train", "--data", "words.txt", "--level", "word", "--hidden", 8, "--layers", 1],
    ),
    "the first checkpoint": ("fastrnn._files.disk", "write_file", ["train", "--data", "text.txt", "--hidden", 8]),
    "loading": ("fastrnn._files.storage", "_read_arrays", ["evaluate", "character", "--data", "long.txt"]),
    "converting": ("fastrnn.convert.state_dict", "from_layers", ["convert", "character", "out/new.safetensors"]),
    "writing": ("fastrnn.convert.tensor_files", "write", ["convert", "character", "out/new.safetensors"]),
}


@pytest.mark.parametrize("name", PHASES)
def test_ctrl_c_in_a_phase(folder, tmp_path, name):
    """Ctrl-C arrives shortly after a function of the phase was called."""
    module, function, arguments = PHASES[name]
    owner, _, attribute = function.rpartition(".")
    before = f"""
    import importlib, os, threading, time
    owner = importlib.import_module({module!r})
    for part in {owner.split(".") if owner else []!r}:
        owner = getattr(owner, part)
    kept = getattr(owner, {attribute!r})
    class Later(threading.Thread):
        def run(self):
            time.sleep(0.02)
            os.write(2, b"asked %f" % time.monotonic() + os.linesep.encode())
            os.kill(os.getpid(), signal.SIGINT)
    once = []
    def called(*arguments, **options):
        if not once:
            once.append(Later())
            once[0].start()
        result = kept(*arguments, **options)
        if {name!r} in ("the first checkpoint", "loading", "converting", "writing", "counting words"):
            once[0].join()
            time.sleep(0.001)
        return result
    setattr(owner, {attribute!r}, called)
    """
    where = ["--out", tmp_path / "m"] if arguments[0] == "train" else []
    with start(folder, [*arguments, *where], before) as process:
        out, err = process.communicate(timeout=60)
        ended = time.monotonic()
    lines = err.splitlines()
    asked = [float(line.split()[1]) for line in lines if line.startswith("asked")]
    assert asked, err
    check(process.returncode, ended - asked[0], "\n".join(line for line in lines if not line.startswith("asked")))
    assert whole(tmp_path / "m")
    assert not (folder / "out" / "new.safetensors").exists()


def test_what_is_half_written_is_removed(tmp_path, monkeypatch):
    def interrupted(number):
        raise KeyboardInterrupt

    storage.save(tmp_path / "m", {"a": np.ones(3)}, {"k": 1})
    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        storage.save(tmp_path / "m", {"a": np.zeros(3)}, {"k": 2})
    arrays, config = storage.load(tmp_path / "m")
    assert (arrays["a"].sum(), config) == (3, {"k": 1})
    assert len(list((tmp_path / "m").iterdir())) == 2


def test_the_second_ctrl_c_ends_a_training_that_is_saving(folder, tmp_path):
    before = """
    import time
    import fastrnn.training.loop
    def slow(self):
        print("saving", flush=True)
        time.sleep(60)
    fastrnn.training.loop.Training._finish = slow
    """
    with start(folder, [*COMMANDS["a training"], "--out", tmp_path / "m"], before) as process:
        assert process.stderr.readline().startswith("epoch")
        process.send_signal(signal.SIGINT)
        while process.stdout.readline() != "saving\n":
            pass
        time.sleep(0.5)  # a different press of the keys
        status, seconds, _, err = interrupt(process)
    check(status, seconds, err)
    assert "fastrnn: stopping; the model is being saved (Ctrl-C again: stop at once, without that)" in err
    assert err.splitlines()[-1] == "fastrnn: interrupted"
    assert whole(tmp_path / "m")


def test_one_press_that_comes_twice_does_not_stop_the_saving(folder, tmp_path):
    """Ctrl-C from a terminal goes to the whole group, and a parent such as `uv run` sends it again."""
    with start(folder, [*COMMANDS["a training"], "--out", tmp_path / "m"]) as process:
        assert process.stderr.readline().startswith("epoch")
        process.send_signal(signal.SIGINT)
        status, seconds, _, err = interrupt(process)
    check(status, seconds, err)
    assert "--resume continues" in err.splitlines()[-1]
    assert LanguageModel.load(tmp_path / "m").outcome is None


def test_ctrl_c_after_the_end_changes_nothing(folder):
    before = """
    import atexit, os, time
    atexit.register(lambda: (os.kill(os.getpid(), signal.SIGINT), time.sleep(0.1)))
    """
    with start(folder, ["info", "character"], before) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")


def test_a_process_that_ignores_ctrl_c_still_ignores_it(folder, tmp_path):
    before = """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    """
    with start(folder, ["generate", "character", "--length", "3000"], before) as process:
        status, _, out, err = interrupt(process)
    assert (status, err) == (0, "")

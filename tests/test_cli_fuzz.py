"""Whatever the fastrnn command is given, it ends with status 0, or with one line that says why and status 1 or 2.

Random options and damaged files of every format. FASTRNN_FUZZ multiplies the number of cases; a failing one names its seed.
"""

import contextlib
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import sys

import fuzz
import numpy as np
import pytest

from fastrnn import cli, state_dict
from fastrnn.models import LanguageModel
from fastrnn.rnn import GRU, LSTM

LONGEST = 60  # seconds that a case may take on a busy machine

# --- files of each format ------------------------------------------------------


def text(rng):
    return "".join(f"{n} squared is {n * n}, né {rng.random():.3f}.\n" for n in range(30)).encode()


def series(rng):
    rows = (":".join(",".join(f"{rng.gauss(0, 1):.3f}" for _ in range(5)) for _ in range(2)) + f":{rng.choice('ab')}" for _ in range(10))
    return ("@problemName fuzz\n@classLabel true a b\n@data\n" + "\n".join(rows) + "\n").encode()


def conllu(rng):
    sentence = "# text\n1\tdogs\tdog\tNOUN\tN\t_\t0\troot\t_\t_\n2\tbark\tbark\tVERB\tV\t_\t1\tx\t_\t_\n\n"
    return (sentence * 6).encode()


def table(rng):
    return ("date,sales,price\n" + "".join(f"2024-{k // 28 + 1:02d}-{k % 28 + 1:02d},{k + rng.random():.2f},{k % 7}\n" for k in range(40))).encode()


def rolls(rng):
    piece = [[60, 64], [], [62], [rng.randrange(21, 109)]]
    return json.dumps({part: [piece, piece] for part in ("train", "valid", "test")}).encode()


def babi(rng):
    return ("1 Mary went home.\n2 John went to the garden.\n3 Where is Mary?\thome\t1\n" * 5).encode()


def pairs(rng):
    return "".join(f"{a} {b}\t{b} {a}\n" for a in "abcd" for b in "abcd").encode()


def captions(rng):
    return ("width,height,text\n" + "".join(f"{k},{rng.random():.2f},a tall box {k % 3}\n" for k in range(12))).encode()


def arrays(rng):
    import io

    file = io.BytesIO()
    np.savez(file, vectors=np.arange(12.0).reshape(6, 2), texts=np.array(["tall", "wide", "tall", "a b", "b", "c"]))
    return file.getvalue()


def vectors(rng):
    return "".join(f"{word} {' '.join(str(rng.random()) for _ in range(4))}\n" for word in ("squared", "is", "né")).encode()


FORMATS = [text, series, conllu, table, rolls, babi, pairs, captions, arrays, vectors]
SUFFIX = {series: ".ts", conllu: ".conllu", table: ".csv", rolls: ".json", captions: ".csv", arrays: ".npz"}
ODD = ["", "nan", "inf", "-inf", "1e300", "1e-300", "-1", "½", "1_000", "9" * 400, "?", '"', "\0", "\t", ",", ":", "\r", "\u2028", "<unk>", "é"]


def damaged(rng, data):
    """The bytes, changed in one to three places."""
    for _ in range(rng.randint(1, 3)):
        data = changed(rng, data)
    return data


def changed(rng, data):
    place = rng.randrange(len(data) + 1)
    lines = data.split(b"\n")
    line = rng.randrange(len(lines))
    odd = rng.choice(ODD).encode()
    return rng.choice(
        [
            lambda: data[:place],
            lambda: data[place:],
            lambda: data[:place] + rng.randbytes(rng.randint(1, 5)) + data[place:],
            lambda: data[:place] + odd + data[place:],
            lambda: data[:place] + rng.randbytes(1) + data[place + 1 :],
            lambda: b"\n".join(lines[:line] + lines[line + 1 :]),
            lambda: b"\n".join([*lines[:line], lines[line], *lines[line:]]),
            lambda: b"\n".join([*lines[:line], odd, *lines[line:]]),
            lambda: re.sub(rb"\d+(\.\d+)?", odd.replace(b"\\", b""), data, count=rng.randint(1, 3)),
            lambda: data.replace(rng.choice([b",", b"\t", b" ", b":", b"\n"]), rng.choice([b"", b" ", b";", b"\t", b"\n\n", b"\r\n", b"\r"])),
            lambda: rng.choice([b"", b" \n" * 3, b"\xef\xbb\xbf", b"\xff\xfe", b"[" * 100_000, b'{"train":' * 50_000, b"\0" * 100, b"null", b"{}"]),
            lambda: data + rng.randbytes(30),
            lambda: data.decode("utf-8", "replace").encode(rng.choice(["utf-16", "utf-32", "cp037"]), "replace"),
            lambda: rng.choice(FORMATS)(rng),
        ]
    )()


def a_file(rng, folder, make):
    """A path: of good data, damaged data, data of another format, or of no such file."""
    path = folder / f"data{rng.randrange(10**9)}{SUFFIX.get(make, '.txt')}"
    kind = rng.random()
    if kind < 0.05:
        return rng.choice([folder / "nowhere", folder, folder / "a\nb", "", "a" * 5000, "/dev/null", path / "below"])
    data = make(rng) if kind < 0.4 else damaged(rng, make(rng)) if kind < 0.9 else rng.choice(FORMATS)(rng)
    path.write_bytes(data)
    if kind > 0.97 and hasattr(os, "geteuid") and os.geteuid() != 0:
        path.chmod(0)
    return path


# --- options -------------------------------------------------------------------

COUNTS = ["1", "2", "3", "5", "1", "2", "3", "0", "-1", "1.5", "abc", "", "nan", "½", " 2", "9" * 21]
SMALL = [value for value in COUNTS if value != "9" * 21]  # where a large number means a long time
NUMBERS = ["0.01", "0.5", "1", "0", "-1", "nan", "inf", "1e300", "1e-300", "1e39", "x", "", "0.999"]
TRAIN = {
    "--cell": ["lstm", "gru", "rnn", "elman"],
    "--hidden": COUNTS,
    "--layers": SMALL,
    "--dropout": NUMBERS,
    "--batch": COUNTS,
    "--optimizer": ["adam", "adamw", "rmsprop", "adagrad", "sgd", "lbfgs"],
    "--lr": NUMBERS,
    "--lr-decay": ["cosine", "none", *NUMBERS],
    "--weight-decay": NUMBERS,
    "--clip": NUMBERS,
    "--accumulate": COUNTS,
    "--validation": NUMBERS,
    "--patience": COUNTS,
    "--seed": COUNTS,
    "--log": ["log.csv", "log.jsonl", "nowhere/log.csv", ".", ""],
    "--level": ["character", "word", "byte", "letter"],
    "--min-count": COUNTS,
    "--max-vocabulary": COUNTS,
    "--embedding": COUNTS,
    "--seq-len": COUNTS,
    "--attention": ["none", "additive", "dot", "general"],
    "--pooling": ["last", "mean", "max"],
    "--window": COUNTS,
    "--horizon": COUNTS,
    "--season": COUNTS,
    "--hops": SMALL,
    "--memory": COUNTS,
    "--tying": ["adjacent", "layerwise"],
    "--linear-start": SMALL,
    "--resume": None,
    "--quiet": None,
    "--tied": None,
    "--bidirectional": None,
    "--logarithm": None,
    "--debugg": None,
}
TASKS = {"text": [text], "classify": [series], "tag": [conllu], "forecast": [table], "music": [rolls], "qa": [babi], "translate": [pairs]}
TASKS |= {"caption": [captions, arrays]}
NEEDED = {
    "text": ["--hidden", "6", "--layers", "1", "--batch", "3", "--seq-len", "5"],
    "forecast": ["--window", "6", "--horizon", "2", "--hidden", "4"],
}
OWN = {
    "text": ["--level", "--min-count", "--max-vocabulary", "--embedding", "--seq-len", "--tied"],
    "classify": ["--bidirectional", "--pooling"],
    "forecast": ["--window", "--horizon", "--season", "--logarithm"],
    "qa": ["--hops", "--memory", "--tying", "--linear-start"],
    "translate": ["--attention", "--bidirectional", "--min-count"],
}
FEW = ["--cell", "--hidden", "--layers", "--dropout", "--batch", "--optimizer", "--lr", "--clip", "--validation", "--patience", "--log"]


def some_options(rng, table, names, most=2):
    chosen = rng.sample(names, rng.randint(0, min(most, len(names))))
    return [word for name in chosen for word in ([name] if table[name] is None else [name, rng.choice(table[name])])]


def train(rng, folder):
    task = rng.choice(list(TASKS))
    words = ["train", task, "--data", a_file(rng, folder, rng.choice(TASKS[task])), *NEEDED.get(task, ["--hidden", "4"]), "--epochs", "1"]
    names = FEW + OWN.get(task, []) if rng.random() < 0.8 else list(TRAIN)
    words += some_options(rng, TRAIN, names)
    if rng.random() < 0.15:
        words += ["--held-out", a_file(rng, folder, rng.choice(TASKS[task]))]
    if task == "text" and rng.random() < 0.2:
        words += ["--level", "word", "--embedding", "4", "--min-count", "1", "--pretrained", a_file(rng, folder, vectors)]
    return [*words, "--out", folder / "out"]


def a_model(rng, folder, source):
    """A directory: of the model there, of a damaged copy, or of none."""
    if rng.random() < 0.5:
        return source
    if rng.random() < 0.1:
        return rng.choice([folder, folder / "nowhere", source / "config.json", ""])
    copy = folder / "model"
    shutil.copytree(source, copy)
    path = rng.choice(sorted(copy.iterdir()))
    if rng.random() < 0.1:
        path.unlink()
    else:
        path.write_bytes(damaged(rng, path.read_bytes()))
    return copy


GENERATE = {
    "--prompt": ["", "1 squared", "\0", "狐", "\ud800", "a" * 1000, "\n"],
    "--temperature": NUMBERS,
    "--top-k": COUNTS,
    "--top-p": NUMBERS,
    "--seed": COUNTS,
    "--length": ["0", "1", "20", "-1", "x"],
}


def use(rng, folder, models):
    command = rng.choice(["generate", "evaluate", "predict", "info"])
    source = rng.choice(models[:1] if command == "generate" and rng.random() < 0.7 else models)
    words = [command, a_model(rng, folder, source)]
    if command == "generate":
        return [*words, "--length", "5", *some_options(rng, GENERATE, list(GENERATE))]
    if command != "info":
        fitting = TASKS.get(source.name, [text])
        words += ["--data", a_file(rng, folder, rng.choice(fitting if rng.random() < 0.8 else FORMATS))]
    return [*words, "--beam", rng.choice(COUNTS)] if command == "predict" and rng.random() < 0.3 else words


def sources(folder):
    """Files that `convert` reads."""
    lstm, gru = LSTM(3, 4, seed=1), GRU(3, 4, bidirectional=True, seed=1)
    from safetensors.numpy import save_file

    save_file(dict(lstm.state_dict()), folder / "lstm.safetensors")
    save_file({f"rnn.{name}": np.array(a) for name, a in gru.state_dict().items()}, folder / "gru.safetensors")
    model = LanguageModel("gru", 4, seed=1).fit("to be or not to be " * 20, epochs=1, batch_size=2, seq_len=5, verbose=False)
    save_file({name: np.array(a) for name, a in state_dict.from_layers({"e": model.embedding, "r": model.rnn, "l": model.linear}).items()},
              folder / "lm.safetensors")  # fmt: skip
    (folder / "vocabulary.json").write_text(json.dumps(list(model.vocabulary.symbols)))
    found = list(folder.glob("*.safetensors"))
    if importlib.util.find_spec("torch"):
        import torch

        torch.save(torch.nn.GRU(3, 4).state_dict(), folder / "gru.pt")
        torch.save({"model": torch.nn.LSTM(3, 4).state_dict(), "epoch": 3}, folder / "training.pt")
        found += folder.glob("*.pt")
    if importlib.util.find_spec("onnx"):
        import fastrnn.onnx

        fastrnn.onnx.export(lstm, folder / "lstm.onnx")
        found.append(folder / "lstm.onnx")
    return found


def convert(rng, folder, files, models):
    source = rng.choice(files)
    if rng.random() < 0.2:
        source = a_model(rng, folder, rng.choice(models))
    elif rng.random() < 0.7:
        copy = folder / source.name
        copy.write_bytes(damaged(rng, source.read_bytes()))
        source = copy
    elif rng.random() < 0.1:
        source = a_file(rng, folder, rng.choice(FORMATS))
    words = ["convert", source, folder / rng.choice(["out", "x.pt", "x.safetensors", "x.onnx", "x.txt", "below/x", "x\0y"])]
    words += ["--nonlinearity", "relu"] if rng.random() < 0.2 else []
    words += ["--key", rng.choice(["model", "epoch", ""])] if rng.random() < 0.2 else []
    vocabulary = files[0].parent / "vocabulary.json"
    if rng.random() < 0.4:
        words += ["--vocabulary", rng.choice([vocabulary, a_file(rng, folder, rolls), folder])]
    return words


# --- the net -------------------------------------------------------------------


@contextlib.contextmanager
def limited(seconds):
    """An error if something takes longer; `main` makes a line of it, so it is noted too."""
    late = []

    def stop(*_):
        late.append(True)
        raise TimeoutError(f"it took longer than {seconds} s")

    if not hasattr(signal, "setitimer"):
        yield late
        return
    kept = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield late
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, kept)


def wrong(status, err, late):
    """What is wrong with how a command ended, or None."""
    lines = err.splitlines()
    if late:
        return "it took too long"
    if status not in (0, 1, 2):
        return f"status {status}"
    if "Traceback" in err or "Exception ignored" in err:
        return "a traceback"
    if status and not (lines and re.match(r"fastrnn( \w+)?: error: \S", lines[-1])):
        return "no error in the last line"
    other = [line for line in (lines[:-1] if status else lines) if not line.startswith(("epoch ", "fastrnn: "))]
    return f"the lines {other[:3]}" if other else None


@pytest.fixture
def check(tmp_path, monkeypatch, capfd):
    """Run a number of cases, each from its seed."""
    monkeypatch.setenv("FASTRNN_NUM_THREADS", "1")

    def run(name, count, arguments_of):
        for seed in fuzz.seeds(f"command: {name}", count):
            folder = tmp_path / str(seed)
            folder.mkdir()
            monkeypatch.chdir(folder)
            arguments = [str(word) for word in arguments_of(random.Random(f"{name} {seed}"), folder)]
            with limited(LONGEST) as late:
                try:
                    status = cli.main(arguments)
                except BaseException as error:
                    if isinstance(error, KeyboardInterrupt):
                        raise
                    raise AssertionError(f"seed {seed}: {arguments}: {error!r} left main") from error
            out, err = capfd.readouterr()
            if os.environ.get("FASTRNN_FUZZ_SHOW"):
                with capfd.disabled():
                    print(status, arguments[:2], err.splitlines()[-1:], file=sys.__stdout__)
            found = wrong(status, err, late)
            assert found is None, f"seed {seed}: {arguments}: {found}: status {status}, stderr: {err[-2000:]!r}"
            for path in folder.rglob("*"):
                path.chmod(0o700)
            shutil.rmtree(folder)

    return run


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The directories of a model of each task."""
    folder = tmp_path_factory.mktemp("models")
    found = []
    for task, (make, *_) in TASKS.items():
        path = folder / f"data{SUFFIX.get(make, '.txt')}"
        path.write_bytes(make(random.Random(0)))
        words = ["train", task, "--data", path, *NEEDED.get(task, ["--hidden", "4"]), "--epochs", "1", "--quiet", "--out", folder / task]
        assert cli.main([str(word) for word in words]) == 0
        found.append(folder / task)
    words = ["train", "--data", folder / "data.txt", "--level", "word", *NEEDED["text"], "--epochs", "1", "--quiet", "--out", folder / "words"]
    (folder / "data.txt").write_bytes(text(random.Random(0)))
    assert cli.main([str(word) for word in words]) == 0
    return [*found, folder / "words"]


@pytest.mark.fuzz
def test_train(check):
    check("train", 100, train)


@pytest.mark.fuzz
def test_generate_evaluate_predict_and_info(check, models):
    check("use", 100, lambda rng, folder: use(rng, folder, models))


@pytest.mark.fuzz
def test_convert(check, models, tmp_path_factory):
    files = sources(tmp_path_factory.mktemp("sources"))
    check("convert", 40, lambda rng, folder: convert(rng, folder, files, models))


@pytest.mark.fuzz
def test_words_that_are_no_command(check):
    words = ["train", "generate", "--data", "--help", "-h", "info", "x", "", "--", "-", "--task", "text", "\ud800", "--version", "bench"]
    words += ["--only", "none,such", "--report-only", "--threads", "x", "--out", "nowhere"]

    def arguments(rng, folder):
        found = rng.choices(words, k=rng.randint(0, 4))
        return [*found, "--data", "none"] if "train" in found else found  # without, it would train on Python's documentation

    check("words", 60, arguments)


# --- errors of every class -----------------------------------------------------

ERRORS = [
    (KeyError("x"), "KeyError: 'x' (unexpected; --debug shows where)"),
    (MemoryError(), "not enough memory"),
    (MemoryError("Unable to allocate 8 GiB"), "not enough memory: Unable to allocate 8 GiB"),
    (RecursionError("deep"), "RecursionError: deep (unexpected; --debug shows where)"),
    (ValueError("a\n b\x1b[1m\0"), "a b\\x1b[1m\\x00"),
    (ValueError(), "ValueError (unexpected; --debug shows where)"),
    (FileNotFoundError(2, "No such file", "a\nb"), "a b: No such file"),
    (OSError("odd"), "odd"),
    (ImportError("keras needs torch"), "keras needs torch"),
    (TypeError("x is y"), "x is y"),
    (ValueError("x" * 5000), "x" * 1000 + " …"),
    (type("PanicException", (BaseException,), {})("panic"), "PanicException: panic (unexpected; --debug shows where)"),
    (SystemExit("words"), "words"),
]


@pytest.mark.parametrize("error, line", ERRORS, ids=[type(error).__name__ for error, _ in ERRORS])
def test_an_error_of_any_class_is_a_line(run, monkeypatch, error, line):
    def fails(arguments):
        raise error

    monkeypatch.setattr("fastrnn._commands.info", fails)
    assert run("info") == (1, "", f"fastrnn: error: {line}\n")
    status, out, err = run("--debug", "info")
    assert (status, out) == (1, "")
    assert err.endswith(f"fastrnn: error: {line}\n")
    assert err.startswith("Traceback") == (not isinstance(error, SystemExit))
    again = run("info", "--debug")[2]
    assert again.startswith("Traceback") == err.startswith("Traceback")
    assert again.endswith(f"fastrnn: error: {line}\n")


def test_an_error_of_an_import_is_a_line(tmp_path):
    """Before the command can be asked for anything: a wrong environment, a package that is missing or broken."""
    import processes

    code = "import sys; from fastrnn.cli import command; sys.argv[1:] = ['info']; sys.exit(command())"
    done = processes.python(code, FASTRNN_ISA="v9")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"fastrnn: error: FASTRNN_ISA=v9, but this CPU can run: .*\n", done.stderr)
    done = processes.python(f"import sys; sys.modules['safetensors'] = None; {code}")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch("fastrnn: error: .*safetensors.*\n", done.stderr)


def test_a_warning_is_a_line_and_said_once(run, monkeypatch):
    import warnings

    def warns(arguments):
        for _ in range(3):
            warnings.warn("one\ntwo", RuntimeWarning, stacklevel=1)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        return 0

    monkeypatch.setattr("fastrnn._commands.info", warns)
    assert run("info") == (0, "", "fastrnn: warning: one two\n")


def test_convert_that_fails_leaves_nothing(run, monkeypatch, models):
    from fastrnn import _commands

    def fails(source, destination, **_):
        destination.mkdir()
        (destination / "half").write_text("x")
        raise KeyboardInterrupt

    monkeypatch.setattr(_commands, "convert_file", fails)
    assert run("convert", models[0], "new")[0] == 130
    assert not os.path.exists("new")

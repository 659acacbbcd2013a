"""The fastrnn command always ends with status 0, or with one line that says why and status 1 or 2.

The tests use random options and damaged files of every format.
"""

import contextlib
import os
import random
import re
import shutil
import signal
import sys

import fuzz
import pytest
from command_files import (
    FORMATS,
    SUFFIX,
    a_file,
    arrays,
    babi,
    captions,
    conllu,
    damaged,
    pairs,
    rolls,
    series,
    sources,
    table,
    targets,
    text,
    vectors,
)

from fastrnn import cli

LONGEST = 60  # seconds for a case on a busy machine

# --- options -------------------------------------------------------------------

COUNTS = ["1", "2", "3", "5", "1", "2", "3", "0", "-1", "1.5", "abc", "", "nan", "½", " 2", "9" * 21]
SMALL = [value for value in COUNTS if value != "9" * 21]  # options for which a large number means a long time
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
    "--encoding": ["utf-8", "latin-1", "utf-16", "ascii", "klingon", "rot13", ""],
    "--layout": ["conllu", "conll2003"],
    "--column": COUNTS,
    "--target": ["sales", "price", "date", "none", ""],
    "--exog": ["sales", "price", "none"],
    "--date": ["date", "sales", "none"],
    "--decimal": [".", ",", ";"],
    "--separator": [",", ";", "tab", "", ",,", "\0", "\n"],
    "--allow-gaps": None,
    "--splitting": ["unicode", "simple"],
    "--resume": None,
    "--quiet": None,
    "--tied": None,
    "--bidirectional": None,
    "--logarithm": None,
    "--debugg": None,
}
TASKS = {
    "text": [text],
    "classify": [series],
    "regress": [targets],
    "tag": [conllu],
    "forecast": [table],
    "music": [rolls],
    "qa": [babi],
    "translate": [pairs],
}
TASKS |= {"caption": [captions, arrays]}
NEEDED = {
    "text": ["--hidden", "6", "--layers", "1", "--batch", "3", "--seq-len", "5"],
    "forecast": ["--window", "6", "--horizon", "2", "--hidden", "4"],
    "qa": ["--hidden", "4", "--validation", "0.4"],  # of few stories
}
OWN = {
    "text": [
        "--level",
        "--min-count",
        "--max-vocabulary",
        "--embedding",
        "--seq-len",
        "--tied",
        "--splitting",
        "--encoding",
    ],
    "classify": ["--bidirectional", "--pooling"],
    "forecast": [
        "--window",
        "--horizon",
        "--season",
        "--logarithm",
        "--target",
        "--exog",
        "--date",
        "--decimal",
        "--separator",
        "--allow-gaps",
    ],
    "tag": ["--layout", "--column", "--min-count"],
    "music": ["--encoding"],
    "qa": ["--hops", "--memory", "--tying", "--linear-start"],
    "translate": ["--attention", "--bidirectional", "--min-count"],
}
FEW = [
    "--cell",
    "--hidden",
    "--layers",
    "--dropout",
    "--batch",
    "--optimizer",
    "--lr",
    "--clip",
    "--validation",
    "--patience",
    "--log",
]


def some_options(rng, table, names, most=2):
    chosen = rng.sample(names, rng.randint(0, min(most, len(names))))
    return [word for name in chosen for word in ([name] if table[name] is None else [name, rng.choice(table[name])])]


def train(rng, folder):
    task = rng.choice(list(TASKS))
    words = [
        "train",
        task,
        "--data",
        a_file(rng, folder, rng.choice(TASKS[task])),
        *NEEDED.get(task, ["--hidden", "4"]),
        "--epochs",
        "1",
    ]
    names = FEW + OWN.get(task, []) if rng.random() < 0.8 else list(TRAIN)
    words += some_options(rng, TRAIN, names)
    if rng.random() < 0.15:
        words += ["--held-out", a_file(rng, folder, rng.choice(TASKS[task]))]
    if task == "text" and rng.random() < 0.2:
        words += [
            "--level",
            "word",
            "--embedding",
            "4",
            "--min-count",
            "1",
            "--pretrained",
            a_file(rng, folder, vectors),
        ]
    return [*words, "--out", folder / "out"]


def a_model(rng, folder, source):
    """Return a directory: of a model, of a damaged copy, or of none."""
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
    words = [
        "convert",
        source,
        folder / rng.choice(["out", "x.pt", "x.safetensors", "x.onnx", "x.txt", "below/x", "x\0y"]),
    ]
    words += ["--nonlinearity", "relu"] if rng.random() < 0.2 else []
    words += ["--key", rng.choice(["model", "epoch", ""])] if rng.random() < 0.2 else []
    vocabulary = files[0].parent / "vocabulary.json"
    if rng.random() < 0.4:
        words += ["--vocabulary", rng.choice([vocabulary, a_file(rng, folder, rolls), folder])]
    return words


# --- running the cases ---------------------------------------------------------


@contextlib.contextmanager
def limited(seconds):
    """Raise an error if something takes too long; `main` prints it as a line, so it is recorded too."""
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
    """Return what is wrong with how a command ended, or None."""
    lines = err.splitlines()
    if late:
        return "it took too long"
    if status not in (0, 1, 2):
        return f"status {status}"
    if "Traceback" in err or "Exception ignored" in err:
        return "a traceback"
    if status and not (lines and re.match(r"fastrnn( \w+){0,2}: error: \S", lines[-1])):
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
    """Return the directories of a model of each task."""
    folder = tmp_path_factory.mktemp("models")
    found = []
    for task, (make, *_) in TASKS.items():
        path = folder / f"data{SUFFIX.get(make, '.txt')}"
        path.write_bytes(make(random.Random(0)))
        words = [
            "train",
            task,
            "--data",
            path,
            *NEEDED.get(task, ["--hidden", "4"]),
            "--epochs",
            "1",
            "--quiet",
            "--out",
            folder / task,
        ]
        assert cli.main([str(word) for word in words]) == 0
        found.append(folder / task)
    words = [
        "train",
        "--data",
        folder / "data.txt",
        "--level",
        "word",
        *NEEDED["text"],
        "--epochs",
        "1",
        "--quiet",
        "--out",
        folder / "words",
    ]
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
    words = [
        "train",
        "generate",
        "--data",
        "--help",
        "-h",
        "info",
        "x",
        "",
        "--",
        "-",
        "--task",
        "text",
        "\ud800",
        "--version",
        "bench",
    ]
    words += ["--only", "none,such", "--report-only", "--threads", "x", "--out", "nowhere"]

    def arguments(rng, folder):
        found = rng.choices(words, k=rng.randint(0, 4))
        if "train" in found:  # it would train on Python's documentation
            return [*found, "--data", "none"]
        return [*found, "--only", "none,such"] if "bench" in found else found  # it would run for half an hour

    check("words", 60, arguments)

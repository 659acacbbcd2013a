"""The command with every kind of model: train, evaluate, predict, info; unsuitable input is one clear line."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import environment

from fastrnn import cli, data
from fastrnn.models import EncoderDecoder, LanguageModel, SequenceRegressor
from fastrnn.models.loading import load

RNG = np.random.default_rng(0)


def write_ts(path, n):
    lines = ["@problemName Ramps", "@data"]
    for _ in range(n):
        slope, T = RNG.choice([-1, 1]), RNG.integers(4, 9)
        values = slope * np.arange(T) + RNG.standard_normal(T) * 0.3
        lines.append(",".join(f"{v:.3f}" for v in values) + ":" + ("up" if slope > 0 else "down"))
    path.write_text("\n".join(lines) + "\n")


def write_numbers(path, n):
    lines = ["@problemName Slopes", "@targetLabel true", "@data"]
    for _ in range(n):
        slope, T = RNG.uniform(-1, 1), RNG.integers(4, 9)
        lines.append(",".join(f"{v:.4f}" for v in slope * np.arange(T)) + f":{slope * (T - 1):.4f}")
    path.write_text("\n".join(lines) + "\n")


def write_conllu(path, n):
    words = {"dogs": "NOUN", "cats": "NOUN", "bark": "VERB", "sleep": "VERB", "loudly": "ADV"}
    with open(path, "w") as file:
        for _ in range(n):
            sentence = RNG.choice(list(words), RNG.integers(1, 5))
            for i, word in enumerate(sentence, 1):
                file.write(f"{i}\t{word}\t{word}\t{words[word]}\n")
            file.write("\n")


def write_csv(path, T):
    t = np.arange(T)
    values = np.exp(2 + 0.01 * t + 0.2 * np.sin(t * np.pi / 6))
    path.write_text(
        "Date,Value\n" + "".join(f"{1990 + i // 12}-{i % 12 + 1:02},{v:.4f}\n" for i, v in enumerate(values))
    )


def write_rolls(path, n):
    piece = [[60 + (t % 4), 48] for t in range(12)]
    path.write_text(json.dumps({"train": [piece] * n, "valid": [piece], "test": [piece]}))


def write_stories(path, n):
    with open(path, "w") as file:
        for _ in range(n):
            name, other, room = RNG.choice(["Ann", "Bob"]), RNG.choice(["Cid", "Dan"]), RNG.choice(["attic", "hall"])
            file.write(f"1 {name} went to the {room}.\n2 {other} went home.\n3 Where is {name}?\t{room}\t1\n")


def write_pairs(path, n):
    words = {"ein": "one", "hund": "dog", "zwei": "two", "katzen": "cats"}
    with open(path, "w") as file:
        for k in range(n):
            sentence = RNG.choice(list(words), k % 3 + 1, replace=False)
            file.write(f"{' '.join(sentence)}\t{' '.join(words[word] for word in reversed(sentence))}\n")


def write_captions(path, n):
    path.write_text(
        "a,b,text\n" + "".join(f"{k % 2},{k % 3},{['tall', 'wide'][k % 2]} {'xyz'[k % 3]}\n" for k in range(n))
    )


FILES = {"qa": (write_stories, 60, "a.txt"), "translate": (write_pairs, 160, "a.tsv")}
FILES |= {"caption": (write_captions, 60, "captions.csv"), "regress": (write_numbers, 60, "b.ts")}
FILES |= {
    "classify": (write_ts, 40, "a.ts"),
    "tag": (write_conllu, 40, "a.conllu"),
    "forecast": (write_csv, 90, "a.csv"),
    "music": (write_rolls, 8, "a.json"),
}
MORE = {"qa": ["--hops", 2, "--memory", 10, "--tying", "layerwise", "--linear-start", 2], "caption": []}
MORE |= {"translate": ["--attention", "general", "--bidirectional", "--min-count", 1, "--dropout", 0]}
MORE |= {"regress": ["--pooling", "last"], "classify": ["--bidirectional", "--pooling", "mean"],
    "tag": ["--min-count", "2"], "music": [],
         "forecast": ["--window", "12", "--horizon", "6", "--season", "12", "--logarithm"]}  # fmt: skip
EVALUATED = {"qa": "accuracy: 1.0000 of the questions", "translate": "NLL: 0.", "caption": "NLL: 0."}
EVALUATED |= {"regress": "R2: 0.9"}
EVALUATED |= {
    "classify": "accuracy: 1.0000 of the series",
    "tag": "accuracy: 1.0000 of the words",
    "forecast": "MASE: 0.",
    "music": "NLL: ",
}
MODEL = {"qa": "MemoryNetwork", "translate": "EncoderDecoder", "caption": "VectorToSequence"}
MODEL |= {
    "regress": "SequenceRegressor",
    "classify": "SequenceClassifier",
    "tag": "SequenceTagger",
    "forecast": "Forecaster",
    "music": "EventModel",
}


def made(task):
    write, size, name = FILES[task]
    write(Path(name), size)
    return name


@pytest.mark.parametrize("task", FILES)
def test_a_task_from_data_to_predictions(task, run):
    file = made(task)
    few = ["--epochs", 60 if task == "music" else 20, "--batch", 4, "--hidden", 16, "--lr", 0.02, "--seed", 3]
    status, out, err = run("train", "--task", task, "--data", file, *few, *MORE[task], "--log", "log.jsonl")
    assert status == 0, err
    assert f"model: ./fastrnn-{task} (" in out and "speed: " in out
    assert ("held-out loss: " in out) == (task != "forecast")
    assert len(Path("log.jsonl").read_text().splitlines()) == (61 if task == "music" else 21)
    status, out, err = run("evaluate", f"fastrnn-{task}", "--data", file)
    assert status == 0 and out.startswith(EVALUATED[task]), out + err
    status, out, err = run("predict", f"fastrnn-{task}", "--data", file)
    assert status == 0, err
    lines = out.splitlines()
    if task == "classify":
        assert lines == data.read_ts(file)[1]
    elif task == "regress":
        np.testing.assert_allclose([float(line) for line in lines], data.read_ts(file, labels="number")[1], atol=0.8)
    elif task == "qa":
        [(story, question), *_], [answer, *_] = data.read_babi(file)
        assert (
            lines[0] == f"{' '.join(question)}? {answer}"
            and lines[1].split() == ["hop", "1", "hop", "2"]
            and lines[4] == ""
        )
        assert all(line.endswith(" ".join(sentence)) for line, sentence in zip(lines[2:4], story))
        assert float(lines[2].split()[1]) > float(lines[3].split()[1])
    elif task == "translate":
        assert lines == [" ".join(target) for target in data.read_pairs(file)[1]]
    elif task == "caption":
        assert lines == data.read_captions(file)[1]
    elif task == "tag":
        sentences, tags = data.read_conllu(file)
        assert lines == [line for s, t in zip(sentences, tags) for line in [*(f"{w}\t{x}" for w, x in zip(s, t)), ""]]
    elif task == "forecast":
        want = np.exp(2 + 0.01 * np.arange(90, 96) + 0.2 * np.sin(np.arange(90, 96) * np.pi / 6))
        np.testing.assert_allclose([float(line) for line in lines[1:]], want, rtol=0.1)
    else:
        assert len(lines) == 64 and "48" in lines[0].split()
    status, out, _ = run("info", f"fastrnn-{task}")
    assert status == 0 and f"model: {MODEL[task]}" in out and "num_parameters: " in out


def test_the_task_may_follow_train(run):
    made("tag")
    for name, task in (("one", ["tag"]), ("two", ["--task", "tag"]), ("three", ["tag", "--task", "tag"])):
        assert run("train", *task, "--data", "a.conllu", "--hidden", 4, "--epochs", 1, "--quiet", "--out", name)[0] == 0
    weights = [next(Path(name).glob("*.safetensors")).name for name in ("one", "two", "three")]
    assert len(set(weights)) == 1  # the name is a hash of the content
    status, out, err = run("train", "no-such-task")
    assert status == 2 and out == "" and "'no-such-task'" in err and len(err.splitlines()) == 1


def test_the_held_out_file_decides_which_model_is_best(run):
    made("classify")
    write_ts(Path("b.ts"), 10)
    status, out, err = run(
        "train", "--task", "classify", "--data", "a.ts", "--held-out", "b.ts", "--epochs", 2, "--quiet"
    )
    assert status == 0 and "held-out accuracy: " in out, err
    history = json.loads(Path("fastrnn-classify/config.json").read_text())["config"]["history"]
    kept = min(history, key=lambda entry: entry["validation_loss"])  # not the epoch with the best accuracy
    assert f"{kept['validation_accuracy']:.4f} after epoch {kept['epoch']:g}, whose parameters are kept" in out


def test_translations_are_searched_for_without_targets(run, monkeypatch):
    made("translate")
    options = [
        "--hidden",
        8,
        "--epochs",
        2,
        "--batch",
        16,
        "--lr",
        0.02,
        "--quiet",
        "--attention",
        "none",
        "--out",
        "m",
    ]
    status, _, err = run("train", "translate", "--data", "a.tsv", "--held-out", "a.tsv", *options)
    assert status == 0, err
    model = load("m")
    assert (model.attention, model.bidirectional, model.dropout, model.min_count) == (None, False, 0.2, 2)
    Path("sources").write_text("zwei katzen zwei\nein hund ein\tzwei\nkatzen katzen hund\n", encoding="utf-8")
    sources = [line.split("\t")[0].split() for line in Path("sources").read_text().splitlines()]
    asked, found = [], EncoderDecoder.predict
    monkeypatch.setattr(
        EncoderDecoder, "predict", lambda self, X, *, beam: asked.append((X, beam)) or found(self, X, beam=beam)
    )
    for beam in ([], ["--beam", 5]):
        status, out, _ = run("predict", "m", "--data", "sources", *beam)
        want = [" ".join(target) for target in model.predict(sources, beam=beam[1] if beam else 1)]
        assert status == 0 and out.splitlines() == want
    assert asked == [(sources, 1)] * 2 + [(sources, 5)] * 2
    status, out, _ = run("evaluate", "m", "--data", "a.tsv")
    nll = -model.score(*data.read_pairs("a.tsv"))
    assert out == f"NLL: {nll:.4f} nats per symbol of the targets, perplexity {np.exp(nll):.4f}\n"
    message = "sources, line 1: it has 0 tabs, but must have 1, between source and target"
    assert run("evaluate", "m", "--data", "sources")[2] == f"fastrnn: error: {message}\n"
    made("classify")
    run("train", "classify", "--data", "a.ts", "--epochs", 1, "--hidden", 4, "--quiet", "--out", "series")
    status, out, err = run("predict", "series", "--data", "a.ts", "--beam", 2)
    assert (status, out, err) == (1, "", "fastrnn: error: --beam is not an option for a SequenceClassifier\n")


def test_sizes_of_layers(run):
    made("classify")
    status, _, err = run(
        "train", "--task", "classify", "--data", "a.ts", "--hidden", 8, 4, "--epochs", 1, "--quiet", "--out", "m"
    )
    assert status == 0, err
    assert "hidden_size: [8, 4]" in run("info", "m")[1]


OTHERS = "classify, regress, tag, qa, translate and caption"
WRONG_USAGE = [
    (["--", "qa", "--data", "x"], "text: error: unrecognized arguments: -- qa --data x --out m"),
    (["classify"], "classify: error: the following arguments are required: --data"),
    (["--task", "classify"], "classify: error: the following arguments are required: --data"),
    (
        ["classify", "--data", "a.ts", "--seq-len", 5],
        "classify: error: --seq-len is not an option of classify, but of text",
    ),
    (
        ["--seq-len=5", "--data", "a.ts", "--task", "classify"],
        "classify: error: --seq-len is not an option of classify",
    ),
    (
        ["music", "--data", "a.json", "--min-count", 5],
        "music: error: --min-count is not an option of music, but of text, tag, translate and caption",
    ),
    (
        ["forecast", "--data", "a.csv", "--window", 5],
        "forecast: error: the following arguments are required: --horizon",
    ),
    (
        ["forecast", "--data", "a.csv", "--window", 5, "--horizon", 5, "--held-out", "b"],
        f"forecast: error: --held-out is not an option of forecast, but of {OTHERS}",
    ),
    (
        ["forecast", "--data", "a.csv", "--window", 5, "--horizon", 5, "--validation", 0.2],
        f"forecast: error: --validation is not an option of forecast, but of text, {OTHERS}",
    ),
    (
        ["music", "--data", "a.json", "--validation", 0.2],
        f"music: error: --validation is not an option of music, but of text, {OTHERS}",
    ),
    (
        ["--bidirectional"],
        "text: error: --bidirectional is not an option of text, but of classify, regress and translate",
    ),
    (["--hops", 2], "text: error: --hops is not an option of text, but of qa"),
    (["--held-out", "b"], f"text: error: --held-out is not an option of text, but of {OTHERS}"),
    (["qa", "--data", "a.txt", "--cell", "gru"], "qa: error: --cell is not an option of qa, but of text, classify"),
    (["qa", "--data", "a.txt", "--hidden", 5, 6], "qa: error: argument --hidden: one size is needed, but 2 are given"),
    (["translate", "--data", "a.tsv", "--hidden", 5, 6], "translate: error: argument --hidden: one size is needed"),
    (
        ["translate", "--data", "a.tsv", "--pooling", "mean"],
        "translate: error: --pooling is not an option of translate, but of classify and regress",
    ),
    (
        ["classify", "--data", "a.ts", "--held-out", "a.ts", "--validation", 0.1],
        "classify: error: argument --validation: not allowed with argument --held-out",
    ),
    (["caption", "--data", "captions.csv", "--bidirectional"], "caption: error: --bidirectional is not an option of"),
    (["tag", "--data", "a.conllu", "--attention", "dot"], "tag: error: --attention is not an option of tag, but of"),
    (["tag", "--data", "a.conllu", "--atention", "dot"], "tag: error: unrecognized arguments: --atention dot (see"),
]


@pytest.mark.parametrize("arguments, message", WRONG_USAGE)
def test_a_wrong_option_is_one_line_that_names_the_task(arguments, message, run):
    status, out, err = run("train", *arguments, "--out", "m")
    assert (status, out) == (2, "")
    assert err.startswith(f"fastrnn train {message}") and len(err.splitlines()) == 1
    task = message.split(":")[0]
    assert err.endswith(f" (see fastrnn train {task} --help)\n")


@pytest.mark.parametrize("tasks", [["qa", "--task", "tag"], ["--task", "qa", "--task", "tag"], ["--task", "qa", "tag"]])
def test_two_tasks_are_wrong_usage(tasks, run):
    status, out, err = run("train", *tasks, "--data", "a.txt")
    assert (status, out) == (2, "")
    assert re.match(r"fastrnn train: error: two tasks are given, (qa and tag|tag and qa): give one of them", err)


@pytest.mark.parametrize("task", ["text", *FILES])
def test_the_help_of_a_task_has_its_own_options(task, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    owners = {
        "--seq-len": "text",
        "--window": "forecast",
        "--hops": "qa",
        "--column": "tag",
        "--attention": "translate",
    }
    for words in ([task, "--help"], ["--help", "--task", task]):
        status, out, err = run("train", *words)
        assert (status, err) == (0, "")
        assert out.startswith(f"usage: fastrnn train {task} ")
        assert f"(default: ./fastrnn-{'lm' if task == 'text' else task})" in out
        shown = {*re.findall(r"(?<![\w-])--[a-z][a-z-]*", out)}
        assert {"--data", "--hidden", "--epochs", "--out"} < shown and ("--cell" in shown) == (task != "qa")
        assert {option for option in owners if option in shown} == {o for o, owner in owners.items() if owner == task}


def test_the_help_of_train_lists_the_tasks(run):
    for words in (["--help"], ["-h"], ["--quiet", "--help"]):
        status, out, err = run("train", *words)
        assert (status, err) == (0, "")
        for task in ("text", *FILES):
            assert re.search(rf"^    {task}  +\w", out, re.MULTILINE)
        assert "--epochs" in out and "--seq-len" not in out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--task", "classify", "--data", "none.ts"], "none.ts: No such file or directory"),
        (["translate", "--data", "a.tsv", "--attention", "dot", "--bidirectional"], "they have 256 and 128 features"),
        (
            ["translate", "--data", "captions.csv"],
            "captions.csv, line 1: it has 0 tabs, but must have 1, between source and target",
        ),
        (["translate", "--data", "a.tsv", "--held-out", "none.tsv"], "none.tsv: No such file or directory"),
        (["qa", "--data", "a.ts"], "a.ts, line 1: it begins with '@problemName', but its number must be 1"),
        (["--task", "classify", "--data", "a.conllu"], "a.conllu, line 1: there is no label"),
        (
            ["--task", "tag", "--data", "a.ts"],
            "a.ts, line 1: '@problemName Ramps' has no tab, but tabs separate the columns of CoNLL-U",
        ),
        (["--task", "music", "--data", "a.csv"], "a.csv is not JSON"),
        (
            ["--task", "forecast", "--data", "a.csv", "--window", 80, "--horizon", 40],
            "series 0 has 90 steps, but 120 are needed",
        ),
        (["--encoding", "latin-1"], "--encoding is the encoding of --data, which is not given"),
    ],
)
def test_what_does_not_fit_is_one_line_before_any_work(arguments, message, run):
    for task in FILES:
        made(task)
    status, out, err = run("train", *arguments, "--out", "m")
    assert status == 1 and out == ""
    assert err.startswith("fastrnn: error: ") and message in err and len(err.splitlines()) == 1
    assert not Path("m").exists()


@pytest.mark.parametrize("command", ["evaluate", "predict", "generate"])
def test_a_model_of_another_kind_is_named(command, run):
    LanguageModel("rnn", 4, seed=0).fit(
        "to be or not to be " * 20, epochs=0, batch_size=2, seq_len=5, verbose=False
    ).save("text")
    made("classify")
    run("train", "--task", "classify", "--data", "a.ts", "--epochs", 1, "--quiet", "--out", "series")
    if command == "generate":
        status, _, err = run("generate", "series")
        assert (status, err) == (
            1,
            "fastrnn: error: series holds a SequenceClassifier, but this needs a LanguageModel\n",
        )
    elif command == "predict":
        status, _, err = run("predict", "text", "--data", "a.ts")
        assert status == 1 and "text holds a LanguageModel: fastrnn generate text writes with it" in err
    else:
        status, out, err = run("evaluate", "text", "--data", "a.ts")  # any file is valid text
        assert status == 0 and out.startswith("NLL: ") and len(err.splitlines()) == 1
        assert err.startswith("fastrnn: warning: the text has symbols that this model was not trained on: ")


def test_a_model_that_no_task_makes_is_shown_but_not_used(run):
    X = [np.ones((3, 2)), np.zeros((4, 2))]
    SequenceRegressor("rnn", 4, per_step=True, seed=0).fit(
        X, [[1.0, 2, 3], [1.0, 2, 3, 4]], epochs=0, verbose=False
    ).save("m")
    assert "model: SequenceRegressor" in run("info", "m")[1]
    status, _, err = run("predict", "m", "--data", "x")
    message = "the command has no task for a SequenceRegressor with per_step=True: use it from Python"
    assert (status, err) == (1, f"fastrnn: error: {message}\n")


def mpi_run(ranks, *arguments, without_mpi4py=False):
    beside = Path(sys.executable).with_name("mpiexec")
    hide = "import sys; sys.modules['mpi4py'] = None\n" if without_mpi4py else ""
    code = f"{hide}import sys; from fastrnn.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [
        str(beside) if beside.exists() else "mpiexec",
        "-n",
        str(ranks),
        sys.executable,
        "-c",
        code,
        *map(str, arguments),
    ]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)


@pytest.mark.mpi4py
def test_mpiexec_trains_one_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("".join(f"{n} squared is {n * n}.\n" for n in range(200)))
    options = ["--data", "text", "--hidden", 8, "--epochs", 2, "--batch", 6, "--seq-len", 20]
    done = mpi_run(2, "train", *options, "--out", "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("held-out NLL") == 1 and done.stderr.count("epoch 2 ") == 1
    assert cli.main([str(a) for a in ("train", *options, "--out", "one", "--quiet")]) == 0
    one, two = (LanguageModel.load(folder) for folder in ("one", "two"))
    np.testing.assert_allclose(one.storage.flat, two.storage.flat, atol=1e-4)
    assert one.history[-1]["update"] == two.history[-1]["update"]


@pytest.mark.mpi4py
def test_an_error_of_one_process_ends_all(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    done = mpi_run(2, "train", "--out", tmp_path / "full", "--quiet")
    assert done.returncode != 0
    assert done.stderr.count("is not empty: add --resume to continue the training there") == 1


@pytest.mark.mpi4py
def test_mpiexec_without_mpi4py_is_an_error_before_training(tmp_path):
    done = mpi_run(2, "train", "--out", tmp_path / "m", without_mpi4py=True)
    assert done.returncode != 0 and not (tmp_path / "m").exists()
    assert "fastrnn: error: mpiexec has started 2 processes, but mpi4py cannot be used" in done.stderr
    assert "pip install 'fastrnn[mpi]'" in done.stderr

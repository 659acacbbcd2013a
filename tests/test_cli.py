"""The fastrnn command: what it prints, where it leaves the model, how it ends."""

import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import processes
import pytest
from numpy.testing import assert_array_equal

import fastrnn
from fastrnn import cli
from fastrnn._files import storage
from fastrnn.cli import commands
from fastrnn.models import LanguageModel
from fastrnn.optim import Cosine, ExponentialDecay

TEXT = "".join(f"{n} squared is {n * n}, and cubed {n**3}.\n" for n in range(140))
SMALL = ["--hidden", "12", "--batch", "5", "--seq-len", "17", "--lr", "0.01", "--epochs", "3"]


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return the directory of a small model."""
    folder = tmp_path_factory.mktemp("model")
    LanguageModel("gru", 16, seed=1).fit(TEXT, epochs=2, batch_size=5, seq_len=17, lr=0.01, verbose=False).save(folder)
    return folder


def same_engine():
    """A separate process computes the same as this one."""
    return {name: value for name, value in os.environ.items() if name.startswith("FASTRNN_")}


def start(*arguments):
    """The command in a separate process. (Children of a background shell ignore Ctrl-C.)"""
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "import runpy; runpy.run_module('fastrnn', run_name='__main__')"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=processes.environment(**same_engine()),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def parameters(folder):
    return np.array(LanguageModel.load(folder).storage.flat)


def test_train_reports_what_it_has_done(run, data, tmp_path):
    status, out, err = run("train", "--data", data, *SMALL, "--seed", 4, "--dropout", 0.1, "--embedding", 9)
    assert status == 0
    before, after = map(
        float, re.match(r"held-out NLL: (\S+) before, (\S+) after, in nats per character\n", out).groups()
    )
    model = LanguageModel.load(tmp_path / "fastrnn-lm")
    losses = [entry["validation_loss"] for entry in model.history]
    assert (before, after) == (round(losses[0], 4), round(min(losses), 4))
    assert after < before - 0.5
    written = re.search(
        r"\nspeed: [\d,]+ characters/s\nit writes:\n(.{300})\nmodel: ./fastrnn-lm \((\S+) parameters\)", out, re.DOTALL
    )
    assert int(written[2].replace(",", "")) == model.num_parameters
    assert set(written[1]) <= set(TEXT)
    assert [line.split("  ")[0] for line in err.splitlines()] == ["epoch 0", "epoch 1", "epoch 2", "epoch 3"]
    assert re.search(
        r"^epoch 1  loss \d\.\d{4}  validation \d\.\d{4}  [\d,]+ characters/s  0:0\d left$", err, re.MULTILINE
    )
    assert (model.cell, model.hidden_size, model.num_layers, model.embedding_size, model.seed) == ("lstm", 12, 2, 9, 4)


def test_train_does_what_fit_does(run, data, tmp_path):
    options = [
        "--cell",
        "gru",
        "--layers",
        2,
        "--embedding",
        7,
        "--dropout",
        0.3,
        "--seed",
        5,
        "--optimizer",
        "rmsprop",
        "--clip",
        0.3,
    ]
    options += ["--lr-decay", 0.8, "--validation", 0.2, "--patience", 2, "--quiet", "--out", "m"]
    assert run("train", "--data", data, *SMALL, *options)[::2] == (0, "")
    want = LanguageModel("gru", 12, 2, embedding_size=7, dropout=0.3, seed=5).fit(
        data,
        epochs=3,
        batch_size=5,
        seq_len=17,
        lr=0.01,
        optimizer="rmsprop",
        clip_norm=0.3,
        schedule=ExponentialDecay(0.8),
        validation=0.2,
        patience=2,
        verbose=False,
    )
    assert_array_equal(parameters(tmp_path / "m"), want.storage.flat)


def test_without_data_it_reads_the_documentation_of_python():
    text = commands._text_of_python()
    assert 300_000 < len(text) < 1_500_000
    assert text.count("the ") > 3000


def test_a_full_directory_is_left_alone(run, data, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    line = "fastrnn: error: thesis is not empty: add --resume to continue the training there, or choose another --out\n"
    assert run("train", "--data", data, "--out", "thesis") == (1, "", line)
    line = "fastrnn: error: thesis holds no checkpoint to resume from\n"
    assert run("train", "--data", data, "--out", "thesis", "--resume") == (1, "", line)
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["thesis.tex"]


def test_resume_makes_a_training_longer_to_the_same_bits(run, data, tmp_path):
    options = ["train", "--data", data, *SMALL, "--quiet", "--lr-decay", 0.9]
    assert run(*options, "--out", "whole")[0] == 0
    assert run(*options, "--out", "part", "--epochs", 1)[0] == 0
    assert (parameters(tmp_path / "part") != parameters(tmp_path / "whole")).any()
    assert run(*options, "--out", "part", "--resume")[0] == 0
    assert_array_equal(parameters(tmp_path / "part"), parameters(tmp_path / "whole"))
    status, out, err = run(*options, "--out", "part", "--resume", "--hidden", 13)
    assert (status, out) == (1, "")
    assert (
        err == "fastrnn: error: the checkpoint in part was made with hidden_size=12, but now it is 13: "
        "to continue, it must be the same\n"
    )


def checkpointed_updates(folder):
    if not storage.exists(folder, kind="checkpoint"):
        return -1
    return storage.load(folder, kind="checkpoint")[1]["position"]["update"]


def test_ctrl_c_saves_and_says_how_to_continue_and_kill_9_only_loses_time(run, data, tmp_path):
    options = ["train", "--data", data, *SMALL, "--hidden", 64, "--epochs", 12]
    assert run(*options, "--quiet", "--out", "whole")[0] == 0
    with start(*options, "--out", tmp_path / "part") as process:
        while checkpointed_updates(tmp_path / "part") < 57:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        asked = time.monotonic()
        out, err = process.communicate(timeout=30)
        assert time.monotonic() - asked < 1.0  # half a second for the training, the rest for the exit of Python
    assert process.returncode == 130
    updates = checkpointed_updates(tmp_path / "part")
    last = err.splitlines()[-1]
    assert (
        last == f"fastrnn: training was interrupted after {updates} updates; "
        f"model and checkpoint are in {tmp_path / 'part'}, --resume continues"
    )
    assert "Traceback" not in err
    assert LanguageModel.load(tmp_path / "part").vocabulary.symbols == "".join(sorted(set(TEXT)))
    with start(*options, "--out", tmp_path / "part", "--resume") as process:
        while checkpointed_updates(tmp_path / "part") < updates + 60 and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert run(*options, "--quiet", "--out", tmp_path / "part", "--resume")[0] == 0
    assert_array_equal(parameters(tmp_path / "part"), parameters(tmp_path / "whole"))


def test_generate_writes_the_prompt_and_what_follows(run, model):
    status, out, err = run(
        "generate",
        model,
        "--prompt",
        "7 squared",
        "--length",
        40,
        "--temperature",
        0.5,
        "--top-k",
        3,
        "--top-p",
        0.9,
        "--seed",
        2,
    )
    want = LanguageModel.load(model).generate("7 squared", 40, temperature=0.5, top_k=3, top_p=0.9, seed=2)
    assert (status, out, err) == (0, f"7 squared{want}\n", "")


def test_each_character_appears_as_soon_as_it_is_written(model, monkeypatch):
    events = []
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=events.append, flush=lambda: events.append(None)))
    assert cli.main(["generate", str(model), "--length", "5", "--seed", "2"]) == 0
    text = LanguageModel.load(model).generate(length=5, temperature=0.8, seed=2)
    assert events[:11] == ["", text[0], None, text[1], None, text[2], None, text[3], None, text[4], None]


def test_generate_into_a_pipe_that_closes(model):
    with start("generate", model, "--length", 10**6) as process:
        assert len(process.stdout.read(2000)) == 2000  # comes before all of it is written
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_evaluate(run, model, data):
    nll = -LanguageModel.load(model).score(TEXT)
    line = f"NLL: {nll:.4f} nats per character ({nll / np.log(2):.4f} bits), perplexity {np.exp(nll):.4f}\n"
    assert run("evaluate", model, "--data", data) == (0, line, "")


def test_info(run, model, capsys):
    def without_load(text):
        """Leave out whether calls are divided among threads: it depends on what else runs at this moment."""
        return [line for line in text.splitlines() if not line.strip().startswith("calls ")]

    fastrnn.show_config()
    shown = capsys.readouterr().out
    status, out, err = run("info")
    assert (status, without_load(out), err) == (0, without_load(shown), "")
    status, out, err = run("info", model)
    again = LanguageModel.load(model)
    best = min(again.history, key=lambda entry: entry["validation_loss"])
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "level: character",
        "cell: gru",
        "hidden_size: 16",
        "num_layers: 1",
        "dropout: 0.0",
        "embedding_size: None",
        "tied: False",
        "dtype: float32",
        "seed: 1",
        f"num_parameters: {again.num_parameters}",
        f"symbols: {len(set(TEXT))}: {''.join(sorted(set(TEXT)))!r}",
        f"held-out NLL: {best['validation_loss']:.4f} nats per character after epoch {best['epoch']:g}",
    ]


@pytest.mark.filterwarnings("ignore:(the held-out part|the text) has words that:UserWarning")
@pytest.mark.parametrize("level", ["word", "byte"])
def test_a_model_of_words_or_bytes(run, data, tmp_path, level):
    (tmp_path / "vectors.txt").write_text("squared " + "1 " * 12 + "\ncubed " + "2 " * 12 + "\n")
    options = {"word": ["--min-count", 1, "--max-vocabulary", 50, "--pretrained", "vectors.txt"], "byte": []}[level]
    status, out, err = run("train", "--data", data, *SMALL, "--level", level, "--tied", *options, "--epochs", 1)
    assert status == 0
    assert re.search(rf"^held-out NLL: \S+ before, \S+ after, in nats per {level}$", out, re.MULTILINE)
    assert re.search(rf"^speed: [\d,]+ {level}s/s$", out, re.MULTILINE)
    assert re.search(rf"^epoch 1 .* [\d,]+ {level}s/s ", err, re.MULTILINE)
    assert out.startswith("pretrained vectors: for 2 of 50 words\n" if level == "word" else "held-out")
    model = LanguageModel.load("fastrnn-lm")
    fitting = dict(pretrained="vectors.txt") if level == "word" else {}
    want = LanguageModel(
        "lstm", 12, 2, level=level, tied=True, seed=0, **({"min_count": 1, "max_vocabulary": 50} if fitting else {})
    )
    want.fit(data, epochs=1, batch_size=5, seq_len=17, lr=0.01, schedule=Cosine(1), verbose=False, **fitting)
    assert_array_equal(model.storage.flat, want.storage.flat)
    assert (
        run("generate", "fastrnn-lm", "--prompt", "7", "--length", 20, "--seed", 1)[1]
        == f"7{model.generate('7', 20, 0.8, seed=1)}\n"
    )
    nll = -model.score(data)
    line = f"NLL: {nll:.4f} nats per {level} ({nll / np.log(2):.4f} bits), perplexity {np.exp(nll):.4f}\n"
    status, out, err = run("evaluate", "fastrnn-lm", "--data", data)
    assert (status, out) == (0, line)
    assert (
        err == ""
        if level == "byte"
        else err.startswith("fastrnn: warning: the text has words") and err.count("\n") == 1
    )
    shown = run("info", "fastrnn-lm")[1]
    assert f"level: {level}\n" in shown
    assert ("splitting: unicode\n" in shown) == (level == "word")
    assert "tied: True\n" in shown
    assert ("\nsymbols: 50 words: '<unk>', " if level == "word" else "\nsymbols: 256 bytes\n") in shown
    assert re.search(rf"held-out NLL: \S+ nats per {level} after epoch [01]\n", shown)


def test_a_file_that_is_no_text_is_evaluated_by_a_model_of_bytes(run, tmp_path):
    (tmp_path / "data").write_bytes(bytes(range(256)) * 9)
    assert run("train", "--data", "data", *SMALL, "--level", "byte", "--epochs", 1, "--quiet")[0] == 0
    assert run("evaluate", "fastrnn-lm", "--data", "data")[0] == 0


def test_threads_are_set_and_change_nothing(run, data, tmp_path):
    for threads in (1, 2):
        assert (
            run(
                "train",
                "--data",
                data,
                *SMALL,
                "--epochs",
                1,
                "--batch",
                24,
                "--threads",
                threads,
                "--quiet",
                "--out",
                threads,
            )[0]
            == 0
        )
        assert fastrnn.get_num_threads() == threads
    assert_array_equal(parameters(tmp_path / "1"), parameters(tmp_path / "2"))


BAD_USAGE = [
    ([], "fastrnn: error: the following arguments are required: COMMAND (see fastrnn --help)"),
    (["trian"], "fastrnn: error: argument COMMAND: invalid choice: 'trian' (choose from"),
    (
        ["train", "--hiden", "3"],
        "fastrnn train text: error: unrecognized arguments: --hiden 3 (see fastrnn train text --help)",
    ),
    (
        ["train", "--hidden", "0"],
        "fastrnn train text: error: argument --hidden: '0' is not a whole number of at "
        "least 1 (see fastrnn train text --help)",
    ),
    (
        ["train", "--hidden", "1.5"],
        "fastrnn train text: error: argument --hidden: '1.5' is not a whole number of at least 1",
    ),
    (["train", "--cell", "elman"], "fastrnn train text: error: argument --cell: invalid choice: 'elman' (choose from"),
    (["train", "--dropout", "1"], "fastrnn train text: error: argument --dropout: '1' is not a number in 0 <= p < 1"),
    (
        ["train", "--level", "letter"],
        "fastrnn train text: error: argument --level: invalid choice: 'letter' (choose from",
    ),
    (
        ["train", "--max-vocabulary", "1"],
        "fastrnn train text: error: argument --max-vocabulary: '1' is not a whole number of at least 2",
    ),
    (["train", "--lr", "nan"], "fastrnn train text: error: argument --lr: 'nan' is not a number above 0"),
    (
        ["train", "--lr-decay", "1.2"],
        "fastrnn train text: error: argument --lr-decay: '1.2' is not 'cosine', 'none' or a factor in 0 < f <= 1",
    ),
    (
        ["train", "--threads", "0"],
        "fastrnn train text: error: argument --threads: '0' is not a whole number of at least 1",
    ),
    (["train", "--seed", "-1"], "fastrnn train text: error: argument --seed: '-1' is not a whole number of at least 0"),
    (["generate"], "fastrnn generate: error: the following arguments are required: DIR"),
    (
        ["generate", "m", "--temperature", "-1"],
        "fastrnn generate: error: argument --temperature: '-1' is not a number of at least 0",
    ),
    (["generate", "m", "--top-p", "0"], "fastrnn generate: error: argument --top-p: '0' is not a number in 0 < p <= 1"),
    (["evaluate", "m"], "fastrnn evaluate: error: the following arguments are required: --data"),
]


@pytest.mark.parametrize("arguments, message", BAD_USAGE, ids=[" ".join(a) for a, _ in BAD_USAGE])
def test_wrong_usage_is_one_line_and_status_2(run, arguments, message):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1


NOT_UTF8 = "the file latin1.txt is not UTF-8: byte 3 is 0xe9, on line 1: give its encoding, such as latin-1 or cp1252"
BAD_INPUT = [
    (["train", "--data", "nowhere.txt"], "nowhere.txt: No such file or directory"),
    (["train", "--data", "."], ".: Is a directory"),
    (["train", "--data", "latin1.txt"], NOT_UTF8),
    (["train", "--data", "empty.txt"], "the file empty.txt is empty"),
    (["train", "--data", "short.txt"], "9 symbols are too few: batch_size=50 streams of seq_len=50 need at least 2501"),
    (["train", "--data", "text.txt", "--out", "empty.txt/m"], "empty.txt/m: Not a directory"),
    (
        ["train", "--data", "text.txt", "--patience", "2", "--validation", "0"],
        "patience=2 needs validation data, but there are none",
    ),
    (["train", "--data", "text.txt", "--min-count", "3"], "min_count=3 is for words, but level is 'character'"),
    (
        ["train", "--data", "text.txt", "--pretrained", "v"],
        "pretrained vectors are for words, but level is 'character'",
    ),
    (
        ["train", "--data", "text.txt", "--level", "word", "--batch", "5", "--pretrained", "nowhere"],
        "nowhere: No such file or directory",
    ),
    (
        ["train", "--data", "text.txt", "--tied", "--embedding", "9"],
        "tied=True needs embedding_size and hidden_size to be the same, but they are 9 and 128",
    ),
    (["generate", "nowhere"], "no model in nowhere: there is no such directory"),
    (["generate", "."], "no model in .: config.json is missing"),
    (["info", "nowhere"], "no model in nowhere: there is no such directory"),
    (["generate", "MODEL", "--prompt", "§"], "the prompt has 1 symbol that this model has not been trained on: '§'"),
    (["evaluate", "MODEL", "--data", "latin1.txt"], NOT_UTF8),
]


@pytest.mark.parametrize("arguments, message", BAD_INPUT, ids=[" ".join(a) for a, _ in BAD_INPUT])
def test_bad_input_is_one_line_and_status_1_and_nothing_is_written(run, model, data, tmp_path, arguments, message):
    (tmp_path / "latin1.txt").write_bytes(b"caf\xe9 au lait")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "short.txt").write_text("fghjklmnop")
    before = sorted(path.name for path in tmp_path.iterdir())
    assert run(*(str(model) if a == "MODEL" else a for a in arguments)) == (1, "", f"fastrnn: error: {message}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_run_that_diverges_says_so_and_keeps_the_best(run, data, tmp_path):
    options = ["--optimizer", "sgd", "--lr", 1e4, "--clip", 0, "--lr-decay", "none", "--quiet"]
    status, out, err = run("train", "--data", data, *SMALL, *options)
    assert status == 1
    assert re.fullmatch(
        r"fastrnn: error: the loss is \S+ at update \d+, over 3 times its first value \S+: training stopped; "
        r"the parameters kept are .*\n",
        err,
    )
    assert re.fullmatch(
        r"training diverged; this is the model that is kept:\n"
        r"held-out NLL: (\S+) before, \1 at best, in nats per character\n"
        r"model: ./fastrnn-lm \(\S+ parameters\)\n",
        out,
    )
    assert np.isfinite(parameters(tmp_path / "fastrnn-lm")).all()


def test_a_checkpoint_of_another_build_gives_a_warning(run, data, tmp_path):
    options = ["train", "--data", data, *SMALL, "--epochs", 1, "--quiet", "--out", "m"]
    assert run(*options)[2] == ""
    arrays, config = storage.load(tmp_path / "m", kind="checkpoint")
    config["computed_by"]["isa"] = "v0"
    storage.save(tmp_path / "m", arrays, config, kind="checkpoint")
    status, _, err = run(*options, "--resume")
    assert status == 0
    assert re.fullmatch(r"fastrnn: warning: the checkpoint was computed by isa v0, .*: the bits may differ\n", err)


def test_ctrl_c_at_any_other_time_is_one_line_too(run, model, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(LanguageModel, "_of", interrupted)
    assert run("generate", model) == (130, "", "fastrnn: interrupted\n")


def test_help_and_the_module(run):
    status, out, _ = run("--help")
    assert status == 0
    assert "train a model" in out
    with start("info") as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines()[:3] == run("info")[1].splitlines()[:3]  # version, instruction set, BLAS

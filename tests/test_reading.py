"""The command's options for reading files, and the lines that report omissions."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from fastrnn import cli, data
from fastrnn.models import LanguageModel
from fastrnn.models.loading import load

QUICK = ["--epochs", 1, "--hidden", 4, "--batch", 4, "--quiet"]


def write_table(path, rows=40, future=0, decimal=".", separator=","):
    """Write a series that follows another variable, over months."""
    price = 2 + np.sin(np.arange(rows + future))
    lines = [separator.join(["month", "n", "sales", "price", "other"])]
    for t, p in enumerate(price):
        sales = f"{3 * p + 0.01 * t:.3f}".replace(".", decimal) if t < rows else ""
        lines.append(
            separator.join([f"{2000 + t // 12}-{t % 12 + 1:02}", str(t), sales, f"{p:.4f}".replace(".", decimal), "x"])
        )
    path.write_text("\n".join(lines) + "\n")
    return price


def test_columns_are_chosen_and_remembered_by_the_model(run):
    write_table(Path("a.csv"), decimal=",", separator=";")
    price = write_table(Path("b.csv"), future=5, decimal=",", separator=";")
    options = ["--target", "sales", "--exog", "price", "--date", "month", "--decimal", ",", "--separator", ";"]
    status, out, err = run(
        "train", "forecast", "--data", "a.csv", "--window", 8, "--horizon", 3, *options, *QUICK, "--out", "m"
    )
    assert (status, err) == (0, "")
    assert load("m").reading == {
        "target": ["sales"],
        "exog": ["price"],
        "date": "month",
        "decimal": ",",
        "separator": ";",
    }
    status, out, err = run("evaluate", "m", "--data", "a.csv")
    assert status == 0 and out.startswith("MASE: "), err
    status, out, err = run("predict", "m", "--data", "b.csv")
    model, table = load("m"), data.read_table("b.csv", target="sales", exog=["price"], decimal=",", separator=";")
    want = model.predict(5, series=table.series, exog=table.exog, future_exog=price[-5:].round(4)[:, None])
    assert status == 0 and out.splitlines()[0] == "sales", err
    np.testing.assert_allclose([float(line) for line in out.splitlines()[1:]], want.ravel(), rtol=1e-6)
    message = "a.csv ends with the series: add rows with price of the steps to forecast, and no targets"
    assert run("predict", "m", "--data", "a.csv") == (1, "", f"fastrnn: error: {message}\n")
    status, _, err = run("predict", "m", "--data", "b.csv", "--decimal", ".")
    assert status == 1 and "with decimal='.'" in err


def test_what_is_left_out_is_one_line(run):
    write_table(Path("a.csv"))
    status, _, err = run("train", "forecast", "--data", "a.csv", "--window", 8, "--horizon", 3, *QUICK, "--out", "m")
    left_out = (
        "a.csv: columns left out: 'n' (counts the rows), 'other' (no numbers); to choose, give target= (--target)"
    )
    assert (status, err) == (0, f"fastrnn: warning: {left_out}\n")
    Path("a.conllu").write_text("1-2\tab\t_\t_\n1\ta\t_\tX\n2\tb\t_\tY\n\n" * 10)
    status, _, err = run("train", "tag", "--data", "a.conllu", *QUICK, "--out", "t")
    assert (status, err) == (0, "fastrnn: note: a.conllu: 10 ranges of words and 0 empty nodes left out\n")
    Path("qa.txt").write_text("1 A went.\n2 B went.\n3 C went.\n4 Who?\ta\t1\n" * 9)
    assert run("train", "qa", "--data", "qa.txt", *QUICK, "--memory", 2, "--out", "q")[0] == 0
    for command in ("evaluate", "predict"):
        status, _, err = run(command, "q", "--data", "qa.txt")
        assert (status, err) == (0, "fastrnn: note: the first 9 sentences of 9 stories left out, beyond memory=2\n")
    Path("p.tsv").write_text("a b\tx\n" * 20 + "c\ty\n")
    status, _, err = run(
        "train", "translate", "--data", "p.tsv", *QUICK, "--min-count", 2, "--validation", 0, "--out", "e"
    )
    assert status == 0 and "fastrnn: note: sources: 1 symbol rarer than min_count=2 read as <unk>, 1 time\n" in err
    Path("new").write_text("a d e\n")
    assert run("predict", "e", "--data", "new")[2] == "fastrnn: note: 2 source symbols of 3 read as <unk>\n"


def test_words_in_columns(run):
    Path("a.txt").write_text("-DOCSTART- -X- O O\n\n" + "EU NNP B-NP B-ORG\nruns VBZ B-VP O\n\n" * 10)
    status, _, err = run("train", "tag", "--data", "a.txt", *QUICK, "--out", "m")
    assert status == 1 and "line 1: '-DOCSTART- -X- O O' has no tab" in err and len(err.splitlines()) == 1
    status, _, err = run(
        "train", "tag", "--data", "a.txt", "--layout", "conll2003", "--column", 2, *QUICK, "--out", "m"
    )
    assert (status, err) == (0, "fastrnn: note: a.txt: 1 line -DOCSTART- left out\n")
    assert load("m").tags_ == ["NNP", "VBZ"]
    Path("new.txt").write_text("EU\nruns\n")
    status, out, _ = run("predict", "m", "--data", "new.txt")
    assert status == 0 and [line.split("\t")[0] for line in out.splitlines()] == ["EU", "runs", ""]
    assert run("evaluate", "m", "--data", "a.txt")[1].startswith("accuracy: ")


def test_numbers_of_series(run):
    Path("a.ts").write_text("@targetLabel true\n@data\n" + "".join(f"1,2,{k}:{k / 2}\n" for k in range(12)))
    status, _, err = run("train", "classify", "--data", "a.ts", *QUICK, "--out", "m")
    assert status == 1 and "'@targetLabel true' says that the labels are numbers" in err
    assert run("train", "regress", "--data", "a.ts", *QUICK, "--out", "m")[0] == 0
    Path("new.ts").write_text("@classLabel false\n@data\n1,2,3\n4,5,6\n")
    status, out, _ = run("predict", "m", "--data", "new.ts")
    want = load("m").predict(data.read_ts("new.ts", labels=None)[0])
    assert status == 0 and [float(line) for line in out.splitlines()] == want.astype(float).tolist()
    status, _, err = run("evaluate", "m", "--data", "new.ts")
    assert status == 1 and "'@classLabel false' says that the series have no labels" in err
    Path("c.tsv").write_text("up\t1\t2\ndown\t2\t1\n" * 9)
    assert run("train", "classify", "--data", "c.tsv", *QUICK, "--out", "c")[0] == 0
    assert set(run("predict", "c", "--data", "c.tsv")[1].split()) <= {"up", "down"}


def test_texts_in_another_encoding(run):
    text = "größer und älter, " * 40
    Path("a.txt").write_text(text, encoding="latin-1")
    options = [*QUICK, "--layers", 1, "--seq-len", 5, "--encoding", "latin-1"]
    assert run("train", "--data", "a.txt", *options, "--out", "m")[0] == 0
    model = LanguageModel.load("m")
    assert "ö" in model.vocabulary.symbols
    assert run("evaluate", "m", "--data", "a.txt", "--encoding", "latin-1")[1].startswith(
        f"NLL: {-model.score(text):.4f} "
    )
    message = "--encoding is for text, but the level is byte: bytes are read as they are"
    assert run("train", "--data", "a.txt", *options, "--level", "byte", "--out", "b") == (
        1,
        "",
        f"fastrnn: error: {message}\n",
    )
    message = "unknown text encoding 'klingon': give a name that Python knows, such as utf-8, utf-16, latin-1 or cp1252"
    assert run("evaluate", "m", "--data", "a.txt", "--encoding", "klingon") == (1, "", f"fastrnn: error: {message}\n")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--data", "x", "--column", 2], "text: error: --column is not an option of text, but of tag"),
        (
            ["classify", "--data", "a.ts", "--layout", "conllu"],
            "classify: error: --layout is not an option of classify",
        ),
        (
            ["tag", "--data", "a.conllu", "--target", "x"],
            "tag: error: --target is not an option of tag, but of forecast",
        ),
    ],
)
def test_a_training_refuses_how_other_files_are_read(arguments, message, run):
    status, out, err = run("train", *arguments, "--out", "m")
    assert (status, out) == (2, "")
    assert err.startswith(f"fastrnn train {message}") and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["evaluate", "MODEL", "--data", "x", "--date", "x"], "--date is not an option for a LanguageModel"),
        (
            ["train", "--data", "fifo"],
            "the file fifo is a pipe, but a regular file is needed: write the data to one first",
        ),
        (["evaluate", "MODEL", "--data", "/dev/zero"], "the file /dev/zero is a device, but a regular file is needed"),
        (
            ["train", "--level", "byte", "--data", "/dev/zero"],
            "the file /dev/zero is a device, but a regular file is needed",
        ),
        (
            ["train", "music", "--data", "JSB.pkl"],
            "JSB.pkl is a Python pickle. Unpickling can run arbitrary code, so fastrnn does not read pickles",
        ),
        (
            ["train", "classify", "--data", "large.ts"],
            "large.ts, line 2: 1e300 is beyond 3.4e38, the largest float32 value: scale the data",
        ),
        (
            ["train", "forecast", "--data", "large.csv", "--window", 2, "--horizon", 1],
            "large.csv, line 2: -1e300 is beyond 3.4e38",
        ),
        (
            ["train", "caption", "--data", "none.npz"],
            "none.npz is not a .npz file of plain arrays: it is not a zip archive, or it is truncated",
        ),
    ],
)
def test_what_is_refused_is_one_line(arguments, message, run):
    LanguageModel("rnn", 4, seed=0).fit("to be or not " * 20, epochs=0, batch_size=2, seq_len=5, verbose=False).save(
        "model"
    )
    os.mkfifo("fifo")
    for name, content in (
        ("JSB.pkl", b"(dp0"),
        ("large.ts", b"1:a\n1e300:b\n"),
        ("large.csv", b"a\n-1e300\n2\n"),
        ("none.npz", b"x"),
    ):
        Path(name).write_bytes(content)
    status, out, err = run(
        *("model" if a == "MODEL" else a for a in arguments), *(["--out", "m"] if arguments[0] == "train" else [])
    )
    assert (status, out) == (1, "")
    assert err.startswith(f"fastrnn: error: {message}") and len(err.splitlines()) == 1
    assert not Path("m").exists()


def test_a_model_saved_without_its_reading_is_read_as_before(run):
    write_table(Path("a.csv"))
    run(
        "train", "forecast", "--data", "a.csv", "--target", "sales", "--window", 8, "--horizon", 3, *QUICK, "--out", "m"
    )
    config = json.loads(Path("m/config.json").read_text())
    assert config["config"]["reading"] == {"target": ["sales"]}
    status, out, _ = run("predict", "m", "--data", "a.csv")
    assert status == 0 and len(out.splitlines()) == 4
    assert cli.main(["predict", "m", "--data", "a.csv", "--target", "sales"]) == 0

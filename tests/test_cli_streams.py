"""The fastrnn command when its output cannot be written: closed, a full device, a pipe whose reader has exited."""

import contextlib
import os
import subprocess
import sys

import processes
import pytest

from fastrnn import cli
from fastrnn._files import storage
from fastrnn.models import LanguageModel, SequenceClassifier
from fastrnn.training.progress import Progress

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs the redirections of a POSIX shell")

TEXT = "".join(f"{n} squared is {n * n}, and cubed {n**3}.\n" for n in range(60))
SMALL = "--hidden 6 --layers 1 --batch 5 --seq-len 17 --epochs 3"
FULL = pytest.param(
    "/dev/full", marks=pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a text, a model of it, series and a classifier of them."""
    folder = tmp_path_factory.mktemp("streams")
    (folder / "text.txt").write_text(TEXT)
    LanguageModel("gru", 6, seed=1).fit(TEXT, epochs=1, batch_size=5, seq_len=17, verbose=False).save(folder / "text")
    (folder / "two.ts").write_text("@data\n" + "1,2,3:up\n3,2,1:down\n" * 6)
    X, y = [[[1.0], [2.0]], [[2.0], [1.0]]] * 6, ["up", "down"] * 6
    SequenceClassifier(hidden_size=4, seed=1).fit(X, y, epochs=1, verbose=False).save(folder / "classes")
    return folder


def run(folder, line):
    """Run the command with these arguments and shell redirections: (status, stdout, stderr)."""
    (folder / "command.py").write_text("import sys\nfrom fastrnn.cli import command\nsys.exit(command())\n")
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; '{sys.executable}' command.py {line}"],
        cwd=folder,
        env=processes.environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("streams", ["2>&1 | head -1", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_training_continues_if_its_progress_cannot_be_shown(folder, tmp_path, streams):
    status, _, err = run(folder, f"train --data text.txt {SMALL} --out {tmp_path}/m {streams}")
    assert status == 0
    assert all(line.startswith(("epoch", "fastrnn: warning: standard output")) for line in err.splitlines())
    model = LanguageModel.load(tmp_path / "m")
    assert [entry["epoch"] for entry in model.history] == [0, 1, 2, 3]
    position = storage.load(tmp_path / "m", kind="checkpoint")[1]["position"]
    assert position["epoch"] == 3


@pytest.mark.parametrize("device", [FULL])
def test_a_report_that_cannot_be_written_is_a_warning(folder, tmp_path, device):
    status, _, err = run(folder, f"train --data text.txt {SMALL} --quiet --out {tmp_path}/m > {device}")
    assert (status, err) == (0, "fastrnn: warning: standard output: No space left on device\n")
    assert run(folder, f"train --data text.txt {SMALL} --out {tmp_path}/n 2> {device}")[0] == 0
    assert (LanguageModel.load(tmp_path / "m").storage.flat == LanguageModel.load(tmp_path / "n").storage.flat).all()


READING = ["info", "generate text --length 2000", "predict classes --data two.ts", "--help"]


@pytest.mark.parametrize("arguments", READING)
def test_output_that_cannot_be_written_is_an_error(folder, arguments):
    status, out, err = run(folder, f"{arguments} >&-")
    assert (status, out, err) == (1, "", "fastrnn: error: standard output: Bad file descriptor\n")
    if os.path.exists("/dev/full"):
        assert run(folder, f"{arguments} > /dev/full") == (
            1,
            "",
            "fastrnn: error: standard output: No space left on device\n",
        )


@pytest.mark.parametrize("arguments", READING)
def test_a_reader_that_leaves_is_no_error(folder, arguments):
    assert run(folder, f"{arguments} 2>&1 | true") == (0, "", "")


def test_an_error_that_cannot_be_printed_sets_the_status(folder):
    assert run(folder, "info nowhere 2>&-") == (1, "", "")
    assert run(folder, "info >&- 2>&-") == (1, "", "")
    assert run(folder, "info nowhere 2>&1 | true")[0] == 1
    assert run(folder, "evaluate text 2>&-") == (2, "", "")


def test_a_model_is_not_written_to_the_number_of_a_closed_stream(folder, tmp_path):
    """With stderr closed, the next file would get its number, 2, where C libraries write their messages."""
    code = (
        "import os; from fastrnn.cli import console; console.reopen_closed(); print(os.open(os.devnull, os.O_RDONLY))"
    )
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -c '{code}' 2>&- <&-"],
        env=processes.environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert int(done.stdout) > 2


def test_convert_finishes_even_if_nobody_reads_its_output(folder, tmp_path):
    for k, streams in enumerate([">&-", "| true"]):
        status, _, err = run(folder, f"convert text {tmp_path}/{k}.safetensors {streams}")
        assert status == 0
        assert (tmp_path / f"{k}.safetensors").exists()
        assert err == ("fastrnn: warning: standard output: Bad file descriptor\n" if streams == ">&-" else "")


class Broken:
    """A terminal whose window is closed after some lines."""

    encoding = "utf-8"

    def __init__(self, lines, error):
        self.lines, self.error = lines, error

    def isatty(self):
        return True

    def write(self, text):
        self.lines -= 1
        if self.lines < 0:
            raise self.error

    flush = lambda self: self.write("")  # noqa: E731


@pytest.mark.parametrize("lines", [0, 1, 5, 30])
@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), BrokenPipeError(32, "Broken pipe"), ValueError("closed file")]
)
def test_a_bar_whose_terminal_is_gone_is_dropped(monkeypatch, lines, error):
    monkeypatch.setattr(sys, "stderr", Broken(lines, error))
    with Progress(True, 1000, 0, "steps") as progress:
        for k in range(40):
            progress.update(1, 1.0)
            progress.note({"epoch": k})
    assert lines > 5 or not progress._shown


@pytest.mark.parametrize("stream", ["none", "closed", "without isatty"])
def test_fit_without_a_stderr(monkeypatch, tmp_path, stream):
    """No streams, as under pythonw or in a service."""
    closed = open(tmp_path / "log", "w")  # noqa: SIM115
    closed.close()
    monkeypatch.setattr(
        sys, "stderr", {"none": None, "closed": closed, "without isatty": contextlib.nullcontext()}[stream]
    )
    if stream == "without isatty":
        sys.stderr.write = sys.stderr.flush = lambda *_: None
    model = LanguageModel("gru", 6, seed=1).fit(TEXT, epochs=1, batch_size=5, seq_len=17)
    assert model.outcome == "finished"


def test_the_command_restores_the_streams(capsys):
    before = sys.stdout, sys.stderr
    assert cli.main(["info", "nowhere"]) == 1
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().err == "fastrnn: error: no model in nowhere: there is no such directory\n"


def test_a_terminal_gets_no_control_characters_of_a_model(folder, tmp_path):
    """Escape sequences in a vocabulary of unknown origin do not reach a terminal; a pipe gets the text unchanged."""
    text = "".join(f"{n}\x1b]0;title\x07\x9b31m\r\tx\n" for n in range(200))
    LanguageModel("gru", 6, seed=1).fit(text, epochs=1, batch_size=5, seq_len=17, verbose=False).save(
        tmp_path / "model"
    )
    code = "import sys; from fastrnn.cli import command; sys.exit(command())"
    line = [
        sys.executable,
        "-c",
        code,
        "generate",
        str(tmp_path / "model"),
        "--prompt",
        "1\x1b]",
        "--length",
        "400",
        "--seed",
        "1",
    ]
    piped = subprocess.run(line, capture_output=True, check=True, env=processes.environment()).stdout.decode()
    ours, theirs = os.openpty()
    with subprocess.Popen(line, stdout=theirs, stderr=subprocess.PIPE, env=processes.environment()) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while piece := os.read(ours, 65536):
                shown += piece
        os.close(ours)
        assert process.wait() == 0, process.stderr.read()
    shown = shown.decode().replace("\r\n", "\n")  # written by the terminal itself
    assert "\x1b" in piped and "\x9b" in piped and "\r" in piped and "\t" in piped
    assert {c for c in shown if ord(c) < 32 or 127 <= ord(c) < 160} == {"\n", "\t"}
    assert shown == "".join(f"\\x{ord(c):02x}" if c in "\x1b\x07\x9b\r" else c for c in piped)

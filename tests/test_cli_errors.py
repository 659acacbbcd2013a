"""Errors and warnings of any kind are one line of the fastrnn command."""

import os
import re
import warnings

import processes
import pytest

import fastrnn
from fastrnn._files import storage

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

    monkeypatch.setattr("fastrnn.cli.commands.info", fails)
    assert run("info") == (1, "", f"fastrnn: error: {line}\n")
    status, out, err = run("--debug", "info")
    assert (status, out) == (1, "")
    assert err.endswith(f"fastrnn: error: {line}\n")
    assert err.startswith("Traceback") == (not isinstance(error, SystemExit))
    again = run("info", "--debug")[2]
    assert again.startswith("Traceback") == err.startswith("Traceback")
    assert again.endswith(f"fastrnn: error: {line}\n")


def test_an_error_of_an_import_is_a_line(tmp_path):
    """Errors before the command can parse its arguments: an invalid environment, a missing or broken package."""
    code = "import sys; from fastrnn.cli import command; sys.argv[1:] = ['info']; sys.exit(command())"
    done = processes.python(code, FASTRNN_ISA="v9")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"fastrnn: error: FASTRNN_ISA=v9, but this CPU can run: .*\n", done.stderr)
    done = processes.python(f"import sys; sys.modules['tqdm'] = None; {code}")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch("fastrnn: error: .*tqdm.*\n", done.stderr)


def test_a_warning_is_one_line_and_printed_once(run, monkeypatch):
    def warns(arguments):
        for _ in range(3):
            warnings.warn("one\ntwo", RuntimeWarning, stacklevel=1)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        return 0

    monkeypatch.setattr("fastrnn.cli.commands.info", warns)
    assert run("info") == (0, "", "fastrnn: warning: one two\n")


def test_convert_that_fails_leaves_nothing(run, monkeypatch, tmp_path):
    def fails(directory, *_):
        os.mkdir(directory)
        raise KeyboardInterrupt

    fastrnn.Network({"rnn": fastrnn.GRU(1, 2, seed=0)}).save(tmp_path / "old")
    monkeypatch.setattr(storage, "save", fails)
    assert run("convert", tmp_path / "old", "new")[0] == 130
    assert not os.path.exists("new")

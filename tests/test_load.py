"""The short form of tests/load.py: many callers and forks get the bits of one thread. `make load` is the long form."""

import os
import re
from collections import Counter

import load
import pytest

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork") or not os.path.exists("/proc/self/statm"), reason="needs fork and /proc"
)


def test_eight_callers_and_forks_give_the_bits_of_one_thread():
    import processes

    code = "import sys, load; sys.exit(load.main(sys.argv[1:]))"
    done = processes.python(code, "--rounds", 2, "--calls", 5, "--forks", 1, "--adapters", "no", timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.match(
        r"80 calls in 2 rounds, all with the same bits: "
        r"decoder \d+, forks 2, layer \d+, stack \d+, stream \d+\nresident memory: ",
        done.stdout,
    )


def test_wrong_bits_of_one_caller_or_child_are_reported(monkeypatch, capfd):
    """Test the test: a job whose second result differs, and one that fails only in a child."""
    import itertools

    def odd(rng, seed):
        numbers = itertools.count()
        return lambda: str(next(numbers) == 3)

    parent = os.getpid()

    def mortal(rng, seed):
        return lambda: str(os.getpid() == parent)

    monkeypatch.setattr(load, "OWN", (odd,))
    assert load.main(["--rounds", "1", "--callers", "2", "--calls", "4", "--forks", "0", "--adapters", "no"]) == 1
    assert "odd (job " in capfd.readouterr().out
    monkeypatch.setattr(load, "OWN", (mortal,))
    assert load.main(["--rounds", "1", "--callers", "2", "--calls", "4", "--forks", "1", "--adapters", "no"]) == 1
    assert "a forked process with jobs" in capfd.readouterr().out


def test_memory_that_grows_is_reported(monkeypatch, capsys):
    sizes = iter(range(100, 200))
    monkeypatch.setattr(load.gc, "collect", lambda: None)
    monkeypatch.setattr(load, "round_of", lambda *arguments: (Counter(calls=1), []))
    monkeypatch.setattr(load, "resident", lambda: 3 * next(sizes))
    assert load.main(["--rounds", "20", "--callers", "1", "--calls", "1", "--forks", "0", "--adapters", "no"]) == 1
    assert "memory grew by 30.0 MB, more than 24" in capsys.readouterr().out

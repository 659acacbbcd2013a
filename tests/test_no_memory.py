"""Every allocation of a call fails in turn, and threads are refused. Needs a C compiler to build failing.c."""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig

import fuzz
import processes
import pytest

from fastrnn import _engine

SOURCE = processes.TESTS / "native" / "failing.c"
COMPILER = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


def missing():
    """Return why this cannot be tested here, or None."""
    if platform.libc_ver()[0] != "glibc":
        return "this needs glibc"
    if "LD_PRELOAD" in os.environ:
        return "LD_PRELOAD is set: a sanitizer may replace malloc"
    if not shutil.which(COMPILER[0]):
        return f"there is no C compiler ({COMPILER[0]})"
    return None


pytestmark = pytest.mark.skipif(missing() is not None, reason=f"failing allocations are NOT tested: {missing()}")


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    """Run failing_calls.py with the library that makes allocations fail, and return its output."""
    library = tmp_path_factory.mktemp("failing") / "failing.so"
    subprocess.run([*COMPILER, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl", "-lpthread"], check=True)

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "failing_calls.py", *map(str, arguments)], cwd=processes.TESTS, capture_output=True,
            text=True, timeout=600, env=processes.environment(LD_PRELOAD=str(library)),
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        return done.stdout

    return run


# All allocations fail, down to the smallest. Where NumPy's fancy indexing is used, only those of arrays do: NumPy 2.4
# crashes if
# it cannot allocate a small buffer of its own, and OpenSSL and Python's locks raise other errors than MemoryError.
ALL = (
    "call,large_call,states,vjp,backward,step_of_stream,run_of_stream,new_stream,refresh,"
    "decoder,decoder_gradients,beam_search,layers"
)
ALL += ",optimiser,load_state_dict,copies"
ARRAYS = {"first_call": 8192, "save": 8192, "load": 8192, "fit": 65536}


def counted(printed):
    """Return the numbers of calls that failed, for each kind of work."""
    return {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in printed.splitlines())}


def test_each_allocation_that_fails_is_a_memory_error_changes_nothing_and_leaks_nothing(failing):
    failed = counted(failing(ALL, 1, 1, 1))
    assert len(failed) == len(ALL.split(","))
    assert all(n > 0 for n in failed.values()), failed


@pytest.mark.parametrize("name", ARRAYS)
def test_each_array_that_there_is_no_memory_for_is_a_memory_error_and_changes_nothing(name, failing):
    assert counted(failing(name, ARRAYS[name], 1, 1))[name] > 0


@pytest.mark.fuzz
def test_several_allocations_in_a_row_fail(failing):
    """Fail a random number of allocations in a row: handling the first failure needs memory too."""
    for seed in fuzz.seeds("several allocations in a row", 1):
        with fuzz.named(seed):
            failing(ALL, 1, 2 + seed % 4, 5 + seed % 3)


def test_blas_is_loaded_or_there_is_a_memory_error_and_the_environment_is_kept(failing):
    assert counted(failing("first_training"))["first training"] > 0 or _engine.blas_core() is None


def test_a_call_runs_on_fewer_threads_with_the_same_bits_if_the_system_refuses_some(failing):
    assert failing("refused_threads").strip() == "threads refused: the same bits"

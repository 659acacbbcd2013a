"""fastrnn.threadpoolctl: limits set by threadpoolctl apply to fastrnn and are restored."""

import shutil
from pathlib import Path

import processes
import pytest

import fastrnn
from fastrnn._engine import core

pytestmark = pytest.mark.threadpoolctl


@pytest.fixture
def tpc():
    """threadpoolctl, with fastrnn registered."""
    import threadpoolctl

    assert fastrnn.threadpoolctl.Controller
    return threadpoolctl


def known(tpc):
    return [info for info in tpc.threadpool_info() if info["user_api"] == "fastrnn"]


def test_threadpoolctl_sees_the_engine_once(tpc):
    fastrnn.set_num_threads(3)
    (info,) = known(tpc)
    assert Path(info["filepath"]).samefile(core.__file__)
    assert (info["internal_api"], info["num_threads"], info["version"]) == ("fastrnn", 3, fastrnn.__version__)


@pytest.mark.parametrize("given", [{"limits": 1}, {"limits": 1, "user_api": "fastrnn"}, {"limits": {"fastrnn": 1}}])
def test_a_limit_holds_in_its_block_and_is_taken_back(tpc, given):
    fastrnn.set_num_threads(3)
    with tpc.threadpool_limits(**given):
        assert fastrnn.get_num_threads() == 1
        with tpc.threadpool_limits(limits=2, user_api="fastrnn"):
            assert fastrnn.get_num_threads() == 2
        assert fastrnn.get_num_threads() == 1
    assert fastrnn.get_num_threads() == 3
    with pytest.raises(ZeroDivisionError), tpc.threadpool_limits(**given):
        1 / 0  # noqa: B018
    assert fastrnn.get_num_threads() == 3


def test_a_limit_for_another_library_leaves_fastrnn_alone(tpc):
    fastrnn.set_num_threads(3)
    with tpc.threadpool_limits(limits=1, user_api="blas"):
        assert fastrnn.get_num_threads() == 3


def test_a_wrapped_function_is_limited(tpc):
    fastrnn.set_num_threads(3)
    assert tpc.ThreadpoolController().wrap(limits=1, user_api="fastrnn")(fastrnn.get_num_threads)() == 1
    assert fastrnn.get_num_threads() == 3


def test_the_number_of_a_thread_goes_before_and_does_not_become_that_of_the_process(tpc):
    fastrnn.set_num_threads(3)
    with fastrnn.threads(2):
        assert known(tpc)[0]["num_threads"] == 3
        with tpc.threadpool_limits(limits=1, user_api="fastrnn"):
            assert fastrnn.get_num_threads() == 2
        assert fastrnn.get_num_threads() == 2
    assert fastrnn.get_num_threads() == 3


def test_the_engine_of_another_package_is_not_taken_for_ours(tpc, tmp_path):
    other = tmp_path / Path(core.__file__).name
    shutil.copy(core.__file__, other)
    code = """
import ctypes, sys
import threadpoolctl
other = ctypes.CDLL(sys.argv[1])          # the same name, the same symbol
import fastrnn.threadpoolctl
controllers = threadpoolctl.ThreadpoolController().select(user_api="fastrnn").lib_controllers
print(*(c.filepath for c in controllers))
"""
    assert Path(processes.output(code, other).strip()).samefile(core.__file__)


def test_under_a_limit_of_one_no_thread_is_started():
    code = """
import os
import numpy as np, fastrnn, fastrnn.threadpoolctl
from threadpoolctl import threadpool_limits
def alive():
    return len(os.listdir("/proc/self/task"))
net, x = fastrnn.LSTM(64, 128), np.ones((50, 32, 64), "float32")
fastrnn.set_num_threads(2)
before = alive()
with threadpool_limits(limits=1, user_api="fastrnn"):
    net(x)
    print(alive() - before)
net(x)
print(alive() - before)
"""
    if not Path("/proc/self/task").is_dir():
        pytest.skip("this system does not list threads in /proc/self/task")
    assert processes.output(code).split() == ["0", "1"]


def test_without_threadpoolctl_the_error_says_what_to_install():
    code = "import sys; sys.modules['threadpoolctl'] = None; import fastrnn; fastrnn.threadpoolctl"
    assert processes.python(code).stderr.splitlines()[-1].endswith("pip install 'threadpoolctl>=3.3'")

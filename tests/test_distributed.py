"""Several processes train like one process on the joined batch."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from processes import environment

import fastrnn

pytestmark = pytest.mark.mpi4py
SCRIPT = Path(__file__).with_name("distributed_training.py")


def mpiexec(ranks, *command, **variables):
    beside = Path(sys.executable).with_name("mpiexec")  # the mpiexec of the wheel
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    assert found, "mpi4py is installed, but mpiexec was not found"
    return subprocess.run(
        [found, "-n", str(ranks), sys.executable, *map(str, command)],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=120,
    )


def trained(ranks, what, tmp_path, **options):
    out = tmp_path / f"{what}{ranks}.npz"
    done = mpiexec(ranks, "-m", "mpi4py", SCRIPT, what, out, json.dumps(options))
    assert done.returncode == 0, done.stderr
    with np.load(out) as file:
        return file["flat"], json.loads(str(file["history"]))


@pytest.mark.parametrize("what, ranks", [("streams", 2), ("streams", 3), ("sequences", 2), ("sequences", 6)])
def test_several_processes_equal_one_on_the_joined_batch(what, ranks, tmp_path):
    from distributed_training import train

    alone = train(what, False)
    flat, history = trained(ranks, what, tmp_path)
    assert history[-1]["update"] >= 50
    assert_allclose(flat, alone.storage.flat, rtol=1e-6, atol=1e-8)
    assert_allclose([e["validation_loss"] for e in history], [e["validation_loss"] for e in alone.history], rtol=1e-6)
    assert_allclose([e["train_loss"] for e in history[1:]], [e["train_loss"] for e in alone.history[1:]], rtol=1e-6)


@pytest.mark.parametrize("then", [1, 2, 3])
def test_a_checkpoint_of_two_processes_is_resumed_by_any_number(then, tmp_path):
    """The checkpoint is written in the middle of an epoch, so it contains the states of both."""
    from distributed_training import train

    folder = tmp_path / "checkpoint"
    trained(2, "streams", tmp_path, evaluate_every=7, checkpoint=str(folder), stop_at=21)
    assert json.loads((folder / "checkpoint.json").read_text())["config"]["position"]["index"] == 21
    options = dict(epochs=5, evaluate_every=7, checkpoint=str(folder), resume=True)
    alone = train("streams", False, evaluate_every=7)
    flat = (
        train("streams", False, **options).storage.flat
        if then == 1
        else trained(then, "streams", tmp_path, **options)[0]
    )
    assert_allclose(flat, alone.storage.flat, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("how", ["nan", "fails"])
def test_all_processes_skip_the_update_that_is_not_finite_in_one(how, tmp_path):
    from distributed_training import train

    options = dict(epochs=2, updates=[40], how=how, nonfinite="skip", check_finite=how == "fails")
    # the script checks that all processes have the same parameters
    flat, history = trained(2, "streams", tmp_path, **options)
    with pytest.warns(RuntimeWarning, match="1 of .* updates were skipped"):
        alone = train("streams", False, **options)
    assert history[-1]["skipped"] == alone.history[-1]["skipped"] == 1
    assert_allclose(flat, alone.storage.flat, rtol=1e-6, atol=1e-8)


def test_all_processes_stop_if_one_is_not_finite(tmp_path):
    flat, history = trained(2, "streams", tmp_path, updates=[5], evaluate_every=2)
    assert history[-1]["update"] == 4 and np.isfinite(flat).all()


def test_processes_share_the_cores_of_their_machine(tmp_path):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    trained(2, "sequences", tmp_path, epochs=1)
    with np.load(tmp_path / "sequences2.npz") as file:
        assert file["threads"] == max(1, min(fastrnn.get_num_threads(), cores // 2))


def test_a_run_of_one_process_is_an_ordinary_run(tmp_path):
    from distributed_training import train

    np.testing.assert_array_equal(trained(1, "streams", tmp_path)[0], train("streams", False).storage.flat)


def test_a_batch_too_small_to_be_split_is_an_error(tmp_path):
    done = mpiexec(2, "-m", "mpi4py", SCRIPT, "streams", tmp_path / "x", json.dumps({"batch_size": 1}))
    assert done.returncode != 0
    assert "a batch of 1 rows cannot be split between 2 processes: raise batch_size, or start fewer" in done.stderr

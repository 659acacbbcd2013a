"""The benchmark: the grid is the official one, a wrong answer is never timed, a run can be resumed, and the report hides no loss."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

if importlib.util.find_spec("fastrnn.bench"):
    from fastrnn.bench import data, grid, handwritten, limits, measure, run
else:  # the sources, built in place
    sys.path.append(str(Path(__file__).parent.parent))
    from bench import data, grid, handwritten, limits, measure, run

from reference import run as reference


def test_the_grid_is_the_official_one():
    cases = grid.official()
    assert len(cases) == len({case.id for case in cases}) == 2 * 3 * 21 + 15 + 9 + 3
    assert {case.kind for case in cases} == set(grid.KINDS)
    assert sum(case.I != case.H for case in cases) == 2 * 3 * 8
    assert grid.official()[0].id == "forward lstm T100 B1 I16 H16"
    assert set(grid.quick()) < set(cases)


def test_flops_are_those_of_the_two_products():
    case = grid.Case("forward", "gru", 50, 32, 40, 64)
    assert case.flops == 2 * 50 * 32 * 3 * 64 * (40 + 64)
    assert grid.Case("train", "gru", 50, 32, 40, 64).flops == 3 * case.flops


def test_only_takes_whole_words():
    chosen = grid.only(grid.official(), ["train", "lstm", "B1", "H64"])
    assert [case.id for case in chosen] == ["train lstm T100 B1 I64 H64"]


@pytest.mark.parametrize("cell", grid.CELLS)
def test_the_truth_agrees_with_the_reference_and_its_gradients_with_numbers(cell):
    problem = data.Problem(grid.Case("train", cell, 4, 3, 5, 2))
    values = {"x": problem.x.astype("float64"), **{name: a.astype("float64") for name, a in problem.params.items()}}
    dy = problem.dy.astype("float64")

    def layer_and_y(values):
        layer = handwritten.Layer(cell, values)
        return layer, layer.forward(values["x"], keep=True)

    layer, y = layer_and_y(values)
    want, _ = reference({"rnn": "rnn_tanh"}.get(cell, cell), problem.params, problem.x)
    np.testing.assert_allclose(y, want, atol=1e-12)
    dx, gradients = layer.backward(dy)
    rng = np.random.default_rng(0)
    for name, gradient in {"x": dx, **gradients}.items():
        direction, eps = rng.standard_normal(gradient.shape), 1e-6
        moved = [(layer_and_y({**values, name: values[name] + sign * eps * direction})[1] * dy).sum() for sign in (1, -1)]
        np.testing.assert_allclose((gradient * direction).sum(), (moved[0] - moved[1]) / (2 * eps), rtol=1e-6, err_msg=name)


def test_an_error_counts_whatever_is_missing_or_nan():
    want = {"y": np.array([1.0, -4.0])}
    assert data.error({"y": np.array([1.0, -3.0])}, want) == 0.25
    assert data.error({}, want) == data.error({"y": np.array([1.0, np.nan])}, want) == data.error({"y": np.ones(3)}, want) == np.inf


def test_the_ratio_is_paired_by_round():
    ours = np.linspace(1, 9, 15)  # a machine that slows down all the while
    found = measure.ratio(2 * ours, ours)
    assert found == pytest.approx({"median": 2, "low": 2, "high": 2})


def test_weights_that_outgrow_a_cache_are_bound_by_the_next():
    measured = {"fma_gflops": 100, "read_gbps": {"L1": 150, "L2": 100, "L3": 50, "DRAM": 10}, "caches": {"L1": 32 << 10, "L2": 1 << 20, "L3": 16 << 20}}
    bounds = [limits.bound(grid.Case("forward", "lstm", 100, 1, H, H), measured, 1)[1] for H in (32, 128, 512, 2048)]
    assert bounds == ["L1", "L2", "L3", "DRAM"]
    seconds, what = limits.bound(grid.Case("train", "lstm", 50, 64, 64, 64), measured, 2)
    assert what == "compute" and seconds == pytest.approx(3 * 2 * 50 * 64 * 4 * 64 * 128 / 200e9)


@pytest.fixture
def in_a_hurry(monkeypatch):
    """Few rounds; the workers warm up for 0.3 s all the same."""
    monkeypatch.setattr(measure, "SECONDS", 0.1)
    monkeypatch.setattr(measure, "LONGEST", 0.3)
    monkeypatch.setattr(measure, "MOVED", np.inf)


def test_a_run_end_to_end_and_its_resumption(tmp_path, in_a_hurry):
    cases = [grid.Case("train", "gru", 6, 2, 3, 5), grid.Case("forward", "lstm", 6, 2, 3, 5)]
    said = []
    path = run.run(cases[:1], ["numpy"], 1, tmp_path, say=said.append)
    [result] = json.loads(path.read_text())["results"]
    assert result["id"] == cases[0].id and result["best_peer"] == "numpy"
    assert result["ratio_low"] <= result["ratio"] <= result["ratio_high"]
    assert all(entry["error"] < 1e-5 for entry in result["times"].values())
    path = run.run(cases, ["numpy"], 1, tmp_path, resume=True, say=said.append)
    results = json.loads(path.read_text())["results"]
    assert results[0] == result and [r["id"] for r in results] == [case.id for case in cases]
    assert "already there" in said[1]


def test_a_peer_that_is_not_installed_is_named_with_what_installs_it(tmp_path, in_a_hurry, monkeypatch):
    (tmp_path / "onnx.py").write_text("raise ImportError('No module named onnx')")
    monkeypatch.syspath_prepend(tmp_path)
    path = run.run([grid.Case("step", "rnn", 1, 1, 4, 4)], ["onnxruntime"], 1, tmp_path)
    content = json.loads(path.read_text())
    assert content["missing"] == {"onnxruntime": "No module named onnx; pip install onnxruntime==1.32.0 onnx"}
    assert content["results"][0]["ratio"] is None


def test_a_word_that_no_case_has_is_an_error():
    with pytest.raises(ValueError, match="no case has all the words of --only lstm,B2"):
        run.main(["--only", "lstm,B2"])
    with pytest.raises(ValueError, match="--peers keras"):
        run.main(["--peers", "keras"])

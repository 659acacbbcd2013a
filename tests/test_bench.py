"""The benchmark: the official grid, no timing of wrong answers, resuming a run, and a report that shows every loss."""

import collections
import contextlib
import html
import importlib.util
import itertools
import json
import os
import re
import runpy
import sys
import types
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest

from fastrnn import _engine

if importlib.util.find_spec("fastrnn.bench"):
    from fastrnn.bench import (
        data,
        goals,
        grid,
        handwritten,
        limits,
        measure,
        min_char_rnn,
        onnx_nodes,
        quiet,
        report,
        run,
        torch_modules,
        worker,
    )
else:  # the sources, built in place
    sys.path.append(str(Path(__file__).parent.parent))
    from bench import (
        data,
        goals,
        grid,
        handwritten,
        limits,
        measure,
        min_char_rnn,
        onnx_nodes,
        quiet,
        report,
        run,
        torch_modules,
        worker,
    )

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
def test_the_benchmarks_reference_agrees_with_the_tests_reference(cell):
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
        moved = [
            (layer_and_y({**values, name: values[name] + sign * eps * direction})[1] * dy).sum() for sign in (1, -1)
        ]
        np.testing.assert_allclose(
            (gradient * direction).sum(), (moved[0] - moved[1]) / (2 * eps), rtol=1e-6, err_msg=name
        )


def test_the_error_is_infinite_if_something_is_missing_or_nan():
    want = {"y": np.array([1.0, -4.0])}
    assert data.error({"y": np.array([1.0, -3.0])}, want) == 0.25
    assert (
        data.error({}, want)
        == data.error({"y": np.array([1.0, np.nan])}, want)
        == data.error({"y": np.ones(3)}, want)
        == np.inf
    )


def test_the_ratio_is_paired_by_round():
    ours = np.linspace(1, 9, 15)  # a machine that becomes slower all the time
    found = measure.ratio(2 * ours, ours)
    assert found == pytest.approx({"median": 2, "low": 2, "high": 2})


def test_disturbed_rounds_do_not_count_if_enough_are_left():
    times = {"fastrnn": [1.0] * 8 + [9.0], "torch": [2.0] * 7 + [9.0]}
    quiet = {"fastrnn": [True] * 8 + [False], "torch": [True] * 7 + [False]}
    assert measure.paired(times, quiet, "torch") == {"median": 2, "low": 2, "high": 2}
    assert measure.spread(times["fastrnn"], quiet["fastrnn"]) == {"median": 1, "q1": 1, "q3": 1, "min": 1, "blocks": 8}
    quiet["torch"] = [True] * 4 + [False] * 4
    assert measure.chosen(quiet["torch"], quiet["fastrnn"]) == list(range(8))
    assert measure.spread(times["torch"], quiet["torch"])["blocks"] == 8


def test_weights_that_outgrow_a_cache_are_bound_by_the_next():
    measured = {
        "fma_gflops": 100,
        "read_gbps": {"L1": 150, "L2": 100, "L3": 50, "DRAM": 10},
        "caches": {"L1": 32 << 10, "L2": 1 << 20, "L3": 16 << 20},
    }
    bounds = [limits.bound(grid.Case("forward", "lstm", 100, 1, H, H), measured, 1)[1] for H in (32, 128, 512, 2048)]
    assert bounds == ["L1", "L2", "L3", "DRAM"]
    seconds, what = limits.bound(grid.Case("train", "lstm", 50, 64, 64, 64), measured, 2)
    assert what == "compute" and seconds == pytest.approx(3 * 2 * 50 * 64 * 4 * 64 * 128 / 200e9)


def test_sums_in_a_fixed_order_bound_small_layers():
    measured = {"fma_gflops": 100, "chain_seconds": 1e-9, "read_gbps": dict.fromkeys(("L1", "L2", "L3", "DRAM"), 900)}
    measured["caches"] = {"L1": 32 << 10, "L2": 1 << 20, "L3": 16 << 20}
    seconds, what = limits.bound(grid.Case("forward", "lstm", 100, 1, 1, 8), measured, 1)
    assert what == "chain" and seconds == pytest.approx(100 * 8e-9 + 2 * 100 * 4 * 8 / 100e9)
    seconds, what = limits.bound(grid.Case("step", "gru", 1, 1, 3, 8), measured, 1)
    assert what == "chain" and seconds == pytest.approx(11e-9)
    seconds, what = limits.bound(grid.Case("train", "gru", 10, 1, 3, 8), measured, 1)
    assert what == "chain" and seconds > 10 * (8 + 3 * 8) * 1e-9
    measured["read_gbps"]["L3"] = 50
    assert limits.bound(grid.Case("forward", "lstm", 100, 1, 1, 512), measured, 1)[1] == "L3"


def test_small_cases():
    cases = grid.small()
    assert len(cases) == 36 == len({case.id for case in cases}) and {case.I for case in cases} == {1}


def test_the_loops_at_the_limit_compute_what_they_say(isa):
    lanes = _engine.vector_lanes(False)
    assert _engine.fma_loop(100) == 2 * 12 * lanes  # each lane converges to the fixed point of x / 2 + 1
    others = sum(range(1, 12))  # the other chains keep their first values
    assert _engine.fma_loop(100, one_chain=True) == (2 + others) * lanes
    assert _engine.read_loop(np.ones(3 * 12 * lanes, "float32"), 2) == 2 * 3 * 12 * lanes


def test_a_slower_loop_is_noticed_on_any_cpu_and_the_affinity_is_kept(monkeypatch):
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    times = itertools.chain([1e-4] * 4, [1.2e-4] * 100, [1.3e-4] * 100)
    monkeypatch.setattr(quiet, "loop", lambda: next(times))
    monkeypatch.setattr(quiet, "CALIBRATION", 0)
    watch = quiet.Watch()
    assert watch.everywhere()
    for _ in range(150):
        next(times)
    assert not watch.everywhere()
    if cpus:
        assert os.sched_getaffinity(0) == cpus


@pytest.fixture
def in_a_hurry(monkeypatch):
    """Run few rounds, though the workers still warm up; do not measure again on a busy machine."""
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


def test_cold_calls(tmp_path, in_a_hurry, capsys):
    arguments = ["--only", "forward,gru,B1,H16", "--peers", "numpy", "--out", str(tmp_path)]
    assert run.main([*arguments, "--cold"]) == 0
    content = json.loads((tmp_path / "bench-1-threads.json").read_text())
    assert content["machine"]["cold"] and len(content["results"]) == 1
    assert "cold calls" in (tmp_path / "index.html").read_text()
    with pytest.raises(ValueError, match="has cold True, but this run has False"):
        run.main([*arguments, "--resume"])


def test_a_cold_block_does_other_work_before_each_call():
    made, calls = worker.Worker("fastrnn", 1), []
    made.chosen["x"] = [types.SimpleNamespace(call=lambda: calls.append(1), context=contextlib.nullcontext), 1000]
    made.watch.wait = made.watch.everywhere = lambda *seconds: True
    assert made.other_data.all()  # the pages of zeros that were never written may be one page
    reads = []
    made.other_data = types.SimpleNamespace(sum=lambda: reads.append(len(calls)))
    made.block("x", cold=True)
    assert reads == list(range(worker.COLD_CALLS)) and len(calls) == worker.COLD_CALLS
    made.block("x")
    assert len(calls) == worker.COLD_CALLS + 1001


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
    for wrong in ("-1", "9999"):
        with pytest.raises(ValueError, match=f"--threads {wrong}: from 1 to"):
            run.main(["--threads", wrong])


def result(case, ours, ratio, peer="torch", **more):
    """Return a made-up result whose best peer takes `ratio` times as long as fastrnn."""
    found = {"median": ratio, "low": 0.98 * ratio, "high": 1.02 * ratio}
    times = {
        name: {"median": t, "q1": t, "q3": t, "blocks": 15, "variant": "", "error": 0.0}
        for name, t in (("fastrnn", ours), (peer, ratio * ours))
    }
    sizes = {name: getattr(case, name) for name in ("id", "kind", "cell", "T", "B", "I", "H", "flops")}
    ratios = {
        "ratios": {peer: found},
        "best_peer": peer,
        "ratio": ratio,
        "ratio_low": found["low"],
        "ratio_high": found["high"],
    }
    return {
        **sizes,
        **ratios,
        "times": times,
        "limit_seconds": ours / 2,
        "limit_bound": "L2",
        "failed": {},
        "noisy": False,
        **more,
    }


@pytest.fixture
def results(tmp_path):
    """A folder with the JSONs of one and two threads: three cases, one lost on one thread, and a missing peer."""
    cases = [
        grid.Case("forward", "lstm", 100, 1, 64, 64),
        grid.Case("train", "gru", 50, 32, 64, 64),
        grid.Case("step", "rnn", 1, 1, 16, 16),
    ]
    machine = {
        "cpu": "<Nice> CPU",
        "cpus": 2,
        "date": "today",
        "commit": "0123456789abcdef",
        "versions": {"fastrnn": "1"},
        "caches": {"L2": 1 << 20},
    }
    measured = {"fma_gflops": 100.0, "read_gbps": {"L1": 200.0}, "isa": "v4", "caches": machine["caches"]}
    missing = {"jax": "No module named 'jax'; pip install jax==0.10.2"}
    for threads, ratios in ((1, (0.8, 2.5, 7.0)), (2, (1.4, 1.9, 7.0))):
        made = [
            result(case, 1e-3 / threads, ratio, "onnxruntime" if case.kind == "step" else "torch")
            for case, ratio in zip(cases, ratios)
        ]
        content = {"machine": machine, "limits": measured, "threads": threads, "missing": missing, "results": made}
        (tmp_path / f"bench-{threads}-threads.json").write_text(json.dumps(content))
    return tmp_path


def test_the_page_shows_a_losing_cell_first_and_names_a_missing_peer(results, monkeypatch):
    monkeypatch.setattr(report, "charts", lambda content: "")
    assert run.main(["--report-only", "--out", str(results)]) == 0
    page = (results / "index.html").read_text()
    assert "1 of 6 compared cells are lost" in page
    assert page.index("<h2>Losing cells") < page.index("forward lstm T100 B1 I64 H64") < page.index("<h2>Goals")
    assert "0.80 [0.78, 0.82]" in page and "&lt;Nice&gt; CPU" in page and "pip install jax==0.10.2" in page
    assert "http" not in page  # nothing is loaded from other sites


HOSTILE = [
    "<td onmouseover=alert(1)>",
    "<script>alert(1)</script>",
    "</style><script>",
    "\"'>&",
    "a\0b\x1b",
    "\u2028",
    "\ud800",
    "<td",
    "|x|",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_any_name_of_a_result_is_shown_as_text(results, hostile, monkeypatch):
    """Names, errors, versions and hints come from files and from other libraries."""
    monkeypatch.setattr(report, "charts", lambda content: "")
    [content, _] = report.load(results).values()
    clean = report.page({1: json.loads(json.dumps(content))})
    for key in ("cpu", "date", "commit"):
        content["machine"][key] = hostile
    content["machine"]["versions"] = {hostile: hostile}
    content["limits"] |= {"isa": hostile, "read_gbps": {hostile: 1.0}}
    content["missing"] = {hostile: hostile}
    for result in content["results"]:
        result |= {"id": hostile, "limit_bound": hostile, "best_peer": hostile, "failed": {"numpy": hostile}}
        result["times"][hostile] = {**result["times"]["fastrnn"], "variant": hostile}
        result["ratios"][hostile] = next(iter(result["ratios"].values()))
    page = report.page({1: content})
    assert page.count("<script") == 0 and page.count("</style>") == 1 and "onmouseover=alert(1)>" not in page
    tags = [collections.Counter(re.findall("<(/?[a-z0-9]+)", text)) for text in (clean, page)]
    assert set(tags[0]) >= set(tags[1]) - {"br", "span"}  # the sentence about missing peers
    assert tags[1]["td"] == tags[1]["/td"] and not re.search(
        "[\0\x1b\u2028\ud800]", page.replace("\u2028", "" if hostile == "\u2028" else "\u2028")
    )
    assert html.unescape(page).count(hostile) >= 10 or not hostile.isprintable()
    lines = report.markdown_tables({1: content}).splitlines()
    assert all(len(re.findall(r"(?<!\\)\|", line)) == len(re.findall(r"(?<!\\)\|", lines[2])) for line in lines[2:5])


def test_the_tables_are_markdown(results):
    lines = report.markdown_tables(report.load(results)).splitlines()
    assert "| Inference | LSTM | 1 | 0.80× | 0.80× (T100 B1 H64, torch) |" in lines
    assert "| T50 B32 H64 |  |  |  |  | 2.50 |  |" in lines
    assert all(line.count("|") == lines[2].count("|") for line in lines[2:7])


def test_goals_are_judged_by_mean_and_by_lost_cells(results):
    rows = {row["name"]: row for row in goals.judgements(report.load(results))}
    assert not rows["inference"]["met"] and [name for name, _ in rows["inference"]["lost"]] == [
        "forward lstm T100 B1 I64 H64"
    ]
    assert rows["training"]["met"] and rows["training"]["geomean"] == pytest.approx(2.5)
    assert rows["streaming step, against onnxruntime"]["met"]
    assert rows["two threads against one of ours, B >= 16"]["geomean"] == pytest.approx(2)
    assert goals.notch({"q1": 0.9, "median": 1.0, "q3": 1.1, "blocks": 4}) == pytest.approx(1.57 * 0.1)
    assert "character model LSTM, against torch" not in rows


@pytest.mark.skipif(not importlib.util.find_spec("matplotlib"), reason="the charts need matplotlib")
@pytest.mark.filterwarnings("default")  # matplotlib's own
def test_the_charts_are_drawings_inside_the_page(results):
    [forward, *_] = report.load(results)[1]["results"]
    page = report.charts({"results": [forward]})
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 2 and "<image" not in page
    ids = [name for drawing in drawings for name in set(re.findall(r'id="([^"]+)"', drawing))]
    assert len(ids) == len(set(ids))
    for drawing in drawings:
        xml.etree.ElementTree.fromstring(drawing)


def test_the_example_min_char_rnn_is_the_original_iteration_for_iteration():
    """Compare the first few updates in float64, with the same initial weights; each magnifies a difference tenfold."""
    example = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "min_char_rnn.py"))
    rng = np.random.default_rng(0)
    V, first = 30, [0.01 * rng.standard_normal(shape) for shape in ((100, 30), (100, 100), (30, 100))]
    ids, state, h = rng.integers(0, V, 6 * 25 + 1), None, None
    mine, original = example["iteration"](V, *first, dtype="float64"), min_char_rnn.numpy_iteration(V, *first)
    for start in range(0, 6 * 25, 25):
        loss, state = mine(ids[start : start + 26], state)
        want, h = original(ids[start : start + 26], h)
        np.testing.assert_allclose(loss, want, rtol=1e-8)
        np.testing.assert_allclose(state[0, 0], h[:, 0], rtol=1e-6, atol=1e-9)


@pytest.mark.torch
@pytest.mark.onnxruntime
def test_the_bench_of_onnx_nodes_runs(capsys):
    onnx_nodes.main(["--short"])
    assert capsys.readouterr().out.count("\n| ") == 1 + len(onnx_nodes.NODES) * len(onnx_nodes.SHORT)


def test_the_bench_of_torch_modules_runs(capsys):
    pytest.importorskip("torch", reason="torch is not installed: bench/torch_modules.py is NOT tested")
    torch_modules.main(["--short"])
    assert capsys.readouterr().out.count("%") == 12

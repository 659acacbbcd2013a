"""The page and the tables of all JSONs in a folder.

The page shows losing cells first, then goals, heat maps, charts, all numbers, the machine and the protocol.
"""

from __future__ import annotations

import html
import json
import math
import re
from pathlib import Path

from . import goals, grid
from .grid import shape
from .machine import markdown
from .peers import PEERS

KINDS = {
    "forward": "Inference",
    "train": "Training",
    "step": "Streaming step",
    "ragged": "Ragged training",
    "characters": "Character model",
}
PROTOCOL = """Every library runs in its own process, pinned to the same CPUs, with as many threads as CPUs, denormals
flushed, and at its best settings. If it has several variants, each is tried briefly and the fastest is timed. Weights,
inputs and output gradients are the same seeded numbers for all. Before anything is timed, outputs and, in training, the
gradients of x and of all weights are compared with a float64 reference. An error above 1e-3 of the largest number
excludes a peer, and stops the run if it is fastrnn's. Then all libraries take turns. Each has a block of calls of at
least 20 ms; the order is rotated by one from round to round; there are 15 rounds or more (5 if calls are long), 2 ms of
rest between turns, and warm caches. A block waits until a short plain loop runs at full speed on every CPU. If the loop
is slower afterwards, the block is timed again, up to twice: the other half of a virtual CPU's core may work for another
guest. Rounds that stayed disturbed count only if fewer than 5 others are left. A peer more than 6 times slower than the
best stops after 5 rounds. A ratio is the median over rounds of the peer's time divided by fastrnn's in the same round,
with the bootstrap 95 % interval of that median. A case is repeated once, and then marked noisy, if the clock moved by
more than 3 % or others took more than 3 % of the CPUs. All computations are in float32; training is the forward pass
and the backward pass to x and all weights. The limit is the peak of this core: all multiply-adds at the measured rate,
and the recurrent weights read once per step (and per backward step) at the measured bandwidth of the cache that holds
them."""

CSS = """
:root { color-scheme: light dark; --text: #202124; --soft: #5f6368; --line: #dadce0 }
:root { --page: #ffffff; --card: #ffffff; --bad: #c5221f; --good: #137333 }
@media (prefers-color-scheme: dark) {
    :root { --text: #e8eaed; --soft: #9aa0a6; --line: #3c4043; --page: #17181a; --bad: #f28b82; --good: #81c995 }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page) }
body { max-width: 1240px; margin: 0 auto; padding: 24px 32px; box-sizing: border-box }
h1 { font-size: 26px; margin: 0 0 4px }
h2 { font-size: 20px; margin: 40px 0 8px }
h3 { font-size: 16px; margin: 24px 0 6px }
p.soft, .soft { color: var(--soft) }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; margin: 8px 0 }
th, td { padding: 3px 9px; text-align: right; border-bottom: 1px solid var(--line) }
th { font-weight: 600; color: var(--soft) }
th:first-child, td:first-child { text-align: left; white-space: nowrap }
table.all { font-size: 11.5px } table.all th, table.all td { padding: 2px 6px } table.all td { white-space: nowrap }
td.heat { text-align: center; color: #202124; min-width: 52px; border: 2px solid var(--page) }
.bad { color: var(--bad); font-weight: 600 } .good { color: var(--good); font-weight: 600 }
.best { font-weight: 700 }
.chart { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 8px; margin: 8px 0 20px }
.chart svg { display: block; width: 100%; height: auto }
.maps { display: flex; flex-wrap: wrap; gap: 8px 40px }
pre { font-size: 12px; white-space: pre-wrap; overflow-wrap: anywhere }
"""


def load(folder):
    """Read all JSONs of the folder: {threads: content}, fewest threads first."""
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in Path(folder).glob("bench-*-threads.json")]
    return {content["threads"]: content for content in sorted(contents, key=lambda content: content["threads"])}


def escape(text):
    """Escape text for HTML; characters not allowed there, controls and lone surrogates, become U+FFFD."""
    return html.escape(re.sub("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", str(text)))


class Html(str):
    """The HTML of a <td>, which is not escaped again."""


def cell_of(text, css="", title=None):
    """Return a <td> with a text, a style or class (as an HTML attribute) and a tooltip."""
    hint = "" if title is None else f' title="{escape(title)}"'
    return Html(f"<td{css and ' ' + css}{hint}>{escape(text)}</td>")


def table(head, rows, kind=""):
    """Return an HTML table; a cell is text or Html."""
    cells = ["".join(cell if isinstance(cell, Html) else f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return (
        f'<table class="{escape(kind)}"><tr>{"".join(f"<th>{escape(h)}</th>" for h in head)}</tr>'
        + "".join(f"<tr>{c}</tr>" for c in cells)
        + "</table>"
    )


def interval(found):
    return f"{found['median']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def microseconds(seconds):
    us = 1e6 * seconds
    return f"{us:,.0f}" if us >= 100 else f"{us:.1f}" if us >= 10 else f"{us:.2f}"


def plural(threads):
    return f"{threads} thread{'s' * (threads > 1)}"


def losing_cells(contents):
    """List the cases in which the best peer is certainly faster, the worst first."""
    rows = []
    for threads, content in contents.items():
        lost = sorted(
            (r for r in content["results"] if r["ratio"] is not None and r["ratio_high"] < 1), key=lambda r: r["ratio"]
        )
        for r in lost:
            ours, theirs = (microseconds(r["times"][name]["median"]) for name in ("fastrnn", r["best_peer"]))
            found = {"median": r["ratio"], "low": r["ratio_low"], "high": r["ratio_high"]}
            rows.append(
                [r["id"], plural(threads), interval(found), r["best_peer"], ours, theirs, "noisy" if r["noisy"] else ""]
            )
    total = sum(r["ratio"] is not None for content in contents.values() for r in content["results"])
    text = (
        f"{len(rows)} of {total} compared cells are lost: "
        "the whole 95 % interval of (best peer's time / fastrnn's time) is below 1."
    )
    head = ["case", "", "best peer / fastrnn", "best peer", "fastrnn µs", "peer µs", ""]
    return f"<h2>Losing cells</h2><p>{text}</p>" + (table(head, rows) if rows else "")


def goal_table(contents):
    rows = []
    for row in goals.judgements(contents):
        worst, goal = row["worst"], row["goal"]
        met = cell_of("met", 'class="good"') if row["met"] else cell_of("not met", 'class="bad"')
        lost = f"{len(row['lost'])} of {row['cells']}"
        means = [f"{row['geomean']:.2f}", "" if goal is None else f"{goal:.2f}"]
        rows.append([row["name"], *means, interval(worst), f"{worst['goal']:.2f}", worst["id"], lost, met])
    head = ["goal", "geomean", "goal", "worst cell relative to its goal", "goal", "case", "cells below", ""]
    note = (
        "A cell is below its goal if its whole interval is. Two threads and one thread are measured in separate runs, "
        "so that interval comes from the quartiles of both."
    )
    return f'<h2>Goals</h2>{table(head, rows)}<p class="soft">{note}</p>'


def heat(ratio):
    """Return a CSS colour on a logarithmic scale: red below 1 (full at 1/2), white at 1, green above (full at 4)."""
    strength = max(-1.0, min(1.0, math.log(ratio) / math.log(4 if ratio > 1 else 2)))
    hue = 140 if strength > 0 else 5
    return f"hsl({hue} {65 if strength > 0 else 85}% {97 - 42 * abs(strength):.0f}%)"


def by_shape(results, kind):
    """Return {shape: {cell: result}} of a kind, in the order of the grid."""
    shapes = {}
    for r in sorted((r for r in results if r["kind"] == kind), key=lambda r: (r["I"] != r["H"], r["B"], r["H"])):
        shapes.setdefault(shape(r), {})[r["cell"]] = r
    return shapes


def heat_maps(content):
    maps = []
    for kind, title in KINDS.items():
        rows = []
        for name, cells in by_shape(content["results"], kind).items():
            row = [name]
            for cell in grid.CELLS:
                r = cells.get(cell)
                if r is None or r["ratio"] is None:
                    row.append("")
                    continue
                hint = (
                    f"{r['best_peer']}, 95 % interval {r['ratio_low']:.2f} to {r['ratio_high']:.2f}"
                    + ", noisy" * r["noisy"]
                )
                row.append(cell_of(f"{r['ratio']:.2f}", f'class="heat" style="background:{heat(r["ratio"])}"', hint))
            rows.append(row)
        if rows:
            against = {"ragged": "torch packed", "characters": "torch"}.get(kind, "the best peer")
            maps.append(
                f"<div><h3>{title}: {against} / fastrnn</h3>{table(['', *map(str.upper, grid.CELLS)], rows)}</div>"
            )
    return f'<div class="maps">{"".join(maps)}</div>'


def charts(content):
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return '<p class="soft">There are no charts because matplotlib is not installed: pip install matplotlib.</p>'
    from .charts import share_of_limit, time_per_step

    parts = []
    for kind, title in KINDS.items():
        drawings = {"time of a step": time_per_step(content["results"], kind) if kind in ("forward", "train") else None}
        drawings["share of the physical limit"] = share_of_limit(content["results"], kind)
        parts += [
            f'<h3>{title}: {what}</h3><div class="chart">{drawn}</div>' for what, drawn in drawings.items() if drawn
        ]
    return "".join(parts)


def all_cells(content):
    """Return the tables of all cells with the time of every peer in µs."""
    names = [name for name in PEERS if name != "fastrnn" and any(name in r["times"] for r in content["results"])]
    parts = []
    for kind, title in KINDS.items():
        chosen = [r for r in content["results"] if r["kind"] == kind]
        extra = sorted({name for r in chosen for name in r["times"]} - {"fastrnn", *names})
        columns = [name for name in [*names, *extra] if any(name in r["times"] or name in r["failed"] for r in chosen)]
        rows = []
        for r in chosen:
            ours = r["times"]["fastrnn"]
            row = [r["id"].removeprefix(f"{kind} "), cell_of(microseconds(ours["median"]), 'class="best"')]
            for name in columns:
                if name in r["times"]:
                    t = r["times"][name]
                    quartiles = f"{microseconds(t['q1'])} to {microseconds(t['q3'])}"
                    hint = f"{t['variant']} quartiles {quartiles}, error {t['error']:.1g}"
                    row.append(
                        cell_of(microseconds(t["median"]), 'class="best"' if name == r["best_peer"] else "", hint)
                    )
                else:
                    row.append(cell_of("failed" if name in r["failed"] else "", title=r["failed"].get(name, "")))
            found = {"median": r["ratio"], "low": r["ratio_low"], "high": r["ratio_high"]}
            lost = 'class="bad"' if r["ratio"] is not None and r["ratio_high"] < 1 else ""
            row.append(cell_of("" if r["ratio"] is None else interval(found), lost))
            rows.append(
                [*row, f"{r['limit_seconds'] / ours['median']:.0%}", r["limit_bound"], "noisy" if r["noisy"] else ""]
            )
        if rows:
            head = ["case", "fastrnn", *columns, "best peer / fastrnn", "of limit", "bound", ""]
            parts.append(f"<h3>{title}, µs</h3>{table(head, rows, 'all')}")
    return "".join(parts)


def summary(content):
    """Describe the machine, the versions and the limits in a paragraph."""
    machine, limits = content["machine"], content["limits"]
    reads = ", ".join(f"{level} {gbps:,.0f}" for level, gbps in limits["read_gbps"].items())
    versions = ", ".join(f"{name} {version.split('-')[0]}" for name, version in machine["versions"].items())
    missing = "".join(
        f'<br><span class="bad">{escape(name)} is missing: {escape(why)}</span>'
        for name, why in content["missing"].items()
    )
    commit = str(machine["commit"])[:12]
    where = f"{machine['cpu']}, {machine['cpus']} CPUs, {limits['isa']}, {machine['date']}, commit {commit}"
    where += ", cold calls" if machine.get("cold") else ""
    core = f"One core: {limits['fma_gflops']:.0f} GFLOP/s float32, reads {escape(reads)} GB/s."
    return f"<p>{escape(where)}.<br>{escape(versions)}.<br>{core}{missing}</p>"


def page(contents):
    first = next(iter(contents.values()))
    parts = [
        "<h1>fastrnn against its peers</h1>",
        summary(first),
        losing_cells(contents),
        goal_table(contents),
        *(f"<h2>Ratios, {plural(threads)}</h2>{heat_maps(content)}" for threads, content in contents.items()),
        *(f"<h2>Charts, {plural(threads)}</h2>{charts(content)}" for threads, content in contents.items()),
        *(f"<h2>All cells, {plural(threads)}</h2>{all_cells(content)}" for threads, content in contents.items()),
        f"<h2>Protocol</h2><p>{escape(PROTOCOL)}</p>",
    ]
    for threads, content in contents.items():
        record = {"limits": content["limits"], "idle_cpu": content.get("idle_cpu"), **content["machine"]}
        parts.append(
            f"<h2>Machine, {plural(threads)}</h2>{summary(content)}<pre>{escape(json.dumps(record, indent=1))}</pre>"
        )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>fastrnn against its peers</title><style>{CSS}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def markdown_tables(contents):
    """Return the tables for README: geomean and worst case by kind and cell, then ratios by shape."""
    parts = []
    for threads, content in contents.items():
        rows = []
        for kind, title in KINDS.items():
            for cell in grid.CELLS:
                chosen = [
                    r for r in content["results"] if r["kind"] == kind and r["cell"] == cell and r["ratio"] is not None
                ]
                if chosen:
                    worst = min(chosen, key=lambda r: r["ratio"])
                    mean = goals.geomean([r["ratio"] for r in chosen])
                    where = f"{worst['ratio']:.2f}× ({shape(worst)}, {worst['best_peer']})"
                    rows.append([title, cell.upper(), len(chosen), f"{mean:.2f}×", where])
        by_cell = markdown(["", "", "cases", "geomean", "worst"], rows)
        parts.append(f"Best peer's time / fastrnn's, {plural(threads)}:\n\n{by_cell}")
        shapes = {kind: by_shape(content["results"], kind) for kind in ("forward", "train")}
        rows = []
        for name in {**shapes["forward"], **shapes["train"]}:
            found = [shapes[kind].get(name, {}).get(cell) for kind in shapes for cell in grid.CELLS]
            rows.append([name, *("" if r is None or r["ratio"] is None else f"{r['ratio']:.2f}" for r in found)])
        head = ["", *(f"{word} {cell.upper()}" for word in ("inference", "training") for cell in grid.CELLS)]
        parts.append(markdown(head, rows))
    parts += [f"{name} is missing: {why}" for content in contents.values() for name, why in content["missing"].items()]
    return "\n\n".join(parts) + "\n"


def write(folder):
    """Write index.html and table.md for the JSONs in the folder, and return the path of the page."""
    contents = load(folder)
    if not contents:
        raise ValueError(
            f"{folder} has no bench-*-threads.json: run the benchmark first, or name its folder with --out"
        )
    path = Path(folder, "index.html")
    path.write_text(page(contents), encoding="utf-8")
    path.with_name("table.md").write_text(markdown_tables(contents), encoding="utf-8")
    return path

"""The charts of the report, as SVG text. Needs matplotlib."""

from __future__ import annotations

import io
import itertools
import re

from .grid import CELLS, shape

COLOURS = {
    "fastrnn": "#c2185b",
    "torch": "#e8710a",
    "onnxruntime": "#1a73e8",
    "openvino": "#7b1fa2",
    "jax": "#188038",
    "numpy": "#8d6e63",
}
numbers = itertools.count(1)


def figure(rows, columns, width, height):
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": "fastrnn",
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.spines.top": False,
    }
    pyplot.rcParams.update(
        {**style, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e6e6e6", "axes.axisbelow": True}
    )
    return pyplot.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained")


def svg(drawn):
    """Return the figure as one <svg> element with ids that no other figure has."""
    from matplotlib import pyplot

    out = io.StringIO()
    drawn.savefig(out, format="svg", metadata={"Date": None})
    pyplot.close(drawn)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    prefix = f"c{next(numbers)}-"
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r'(xlink:href="|href="|url\()#', rf"\1#{prefix}", text)
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'width="100%"', text, count=1)


def time_per_step(results, kind):
    """Plot the time of a step against H, for I = H.

    There are rows for B = 1 and B = 32, a column for each cell, and a line for each peer. Returns None if there are no
    such cases.
    """
    chosen = [r for r in results if r["kind"] == kind and r["I"] == r["H"] and r["B"] in (1, 32)]
    if not chosen:
        return None
    drawn, axes = figure(2, 3, 11.5, 6.6)
    drawn.get_layout_engine().set(h_pad=0.1)
    for row, B in zip(axes, (1, 32)):
        for ax, cell in zip(row, CELLS):
            cases = sorted((r for r in chosen if r["B"] == B and r["cell"] == cell), key=lambda r: r["H"])
            for name, colour in COLOURS.items():
                points = [(r["H"], 1e6 * r["times"][name]["median"] / r["T"]) for r in cases if name in r["times"]]
                if points:
                    ours = name == "fastrnn"
                    ax.plot(
                        *zip(*points),
                        marker="o",
                        ms=4,
                        lw=2.4 if ours else 1.3,
                        color=colour,
                        label=name,
                        zorder=3 if ours else 2,
                    )
            limit = [(r["H"], 1e6 * r["limit_seconds"] / r["T"]) for r in cases]
            if limit:
                ax.plot(*zip(*limit), ls=":", color="#555555", label="limit")
            ax.set(xscale="log", yscale="log", title=f"{cell.upper()}, B = {B}")
            ax.set(xlabel="H = I" if B == 32 else "", ylabel="µs per step" if cell == "lstm" else "")
            ax.set_xticks([r["H"] for r in cases], [str(r["H"]) for r in cases])
            ax.minorticks_off()
    handles = {text: handle for ax in axes.flat for handle, text in zip(*ax.get_legend_handles_labels())}
    drawn.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), frameon=False)
    return svg(drawn)


def share_of_limit(results, kind):
    """Plot the percentage of the limit that each case reaches: a bar for fastrnn, a dot for the best peer.

    There is a column for each cell. Returns None if there are no cases.
    """
    chosen = [r for r in results if r["kind"] == kind]
    if not chosen:
        return None
    most = max(sum(r["cell"] == cell for r in chosen) for cell in CELLS)
    drawn, axes = figure(1, 3, 11.5, 1.1 + 0.23 * most)
    for ax, cell in zip(axes[0], CELLS):
        cases = [r for r in chosen if r["cell"] == cell]
        places = range(len(cases))
        ours = [100 * r["limit_seconds"] / r["times"]["fastrnn"]["median"] for r in cases]
        ax.barh(places, ours, height=0.7, color=COLOURS["fastrnn"], alpha=0.75, label="fastrnn")
        for place, r in zip(places, cases):
            if r["best_peer"] is not None:
                best = 100 * r["limit_seconds"] / r["times"][r["best_peer"]]["median"]
                ax.plot([best], [place], "o", ms=5, color="#222222", label="best peer" if place == 0 else None)
        ax.set_yticks(places, [shape(r) for r in cases], fontsize=8)
        ax.set(title=cell.upper(), xlim=(0, max(100, *ax.get_xlim())), xlabel="% of the limit")
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
    handles, names = axes[0][0].get_legend_handles_labels()
    drawn.legend(handles, names, loc="outside upper center", ncols=2, frameon=False)
    return svg(drawn)

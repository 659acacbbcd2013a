"""The recurrent circuit of a network and its unfolding in time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastrnn import _check
from fastrnn.plotting._figure import PathLike, check_path, new_figure, save_figure
from fastrnn.plotting._layout import DOT, HALF_BOX, RADIUS, SQUARE, Layout, Line, Placed
from fastrnn.plotting._models import graph_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch

INCH = 0.58  # inches of a unit of the picture
DASHES = (0, (3, 2))
COLOURS = {
    "input": "#ececec",
    "hidden": "#cfe3f7",
    "reverse": "#fbe0c8",
    "output": "#d5edd3",
    "loss": "#f6d3d8",
    "plain": "#ffffff",
}


def unfolded(model: object, steps: int = 3, path: PathLike | None = None) -> Figure:
    """Draw the recurrent circuit of a network, and beside it the same circuit unfolded in time.

    The picture shows the layers, directions, embedding, context, output and loss of the network, with their sizes. In
    the circuit, a black square is a delay of one step. U, W and V are the weights of input, recurrence and output, as
    in Goodfellow, Bengio & Courville; a prime marks the reverse direction, and an LSTM also carries its cell state c.
    In the decoder of an EncoderDecoder, P and Q stand for U and W, and F is the weight of input feeding.

    Parameters
    ----------
    model : layer, list of layers, or model
        An RNN, GRU, LSTM or other layer, a list of layers from the input up, or a fitted model.
    steps : int, default 3
        Number of time steps of the unfolded circuit.
    path : str or path-like, optional
        File to write: .svg, .png or .pdf.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    RuntimeError
        If the model has not been fitted.
    TypeError
        If `model` is not a layer, a list of layers or a model.
    ValueError
        If ``steps < 1``, or the sizes of the layers do not match.
    ImportError
        If matplotlib is not installed.

    References
    ----------
    Goodfellow, Bengio and Courville, Deep Learning, 2016, chapter 10.

    Examples
    --------
    >>> import fastrnn
    >>> figure = fastrnn.plotting.unfolded(fastrnn.LSTM(8, 16, 2), steps=3)
    >>> [text.get_text() for text in figure.axes[0].texts if "LSTM" in text.get_text()]
    ['layer 1: LSTM, 16 units', 'layer 2: LSTM, 16 units']
    """
    path, steps = check_path(path), _check.size("steps", steps)
    return save_figure(_draw(Layout(graph_of(model), steps)), path)


def _draw(layout: Layout) -> Figure:
    figure = new_figure(layout.right * INCH, (layout.top - layout.bottom) * INCH)
    from matplotlib.patches import FancyArrowPatch, Rectangle

    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, layout.right), ylim=(layout.bottom, layout.top), aspect="equal")
    axes.set_axis_off()
    for line in layout.lines:
        axes.add_patch(_arrow(line))
    for placed in layout.nodes.values():
        _draw_node(axes, placed)
    for x, y in layout.squares:
        axes.add_patch(Rectangle((x - SQUARE, y - SQUARE), 2 * SQUARE, 2 * SQUARE, color="black", zorder=3))
    for text in layout.texts:
        axes.text(
            text.x, text.y, text.text, size=text.size, ha=text.ha, va=text.va, color=text.colour, math_fontfamily="cm"
        )
    x0, x1, y = layout.unfold
    axes.add_patch(
        FancyArrowPatch(
            (x0, y), (x1, y), arrowstyle="simple", mutation_scale=14, color="#999999", shrinkA=0, shrinkB=0, lw=0
        )
    )
    axes.text((x0 + x1) / 2, y + 0.25, "unfold", size=9, ha="center", va="bottom", color="#666666")
    return figure


def _arrow(line: Line) -> FancyArrowPatch:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    path = Path(line.points, [Path.MOVETO, Path.CURVE3, Path.CURVE3] if line.curved else None)
    style = "-|>,head_length=0.45,head_width=0.2" if line.head else "-"
    look = dict(color="#333333", lw=0.9, linestyle=DASHES if line.dashed else "-", capstyle="butt", zorder=1)
    return FancyArrowPatch(path=path, arrowstyle=style, mutation_scale=10, **look)


def _draw_node(axes: Axes, placed: Placed) -> None:
    from matplotlib.patches import Circle, FancyBboxPatch

    node, x, y = placed.node, placed.x, placed.y
    look = dict(
        facecolor=COLOURS[node.kind], edgecolor="#333333", lw=0.9, linestyle=DASHES if placed.dashed else "-", zorder=2
    )
    if node.shape == "dot":
        axes.add_patch(Circle((x, y), DOT, color="#333333", zorder=2))
    elif node.shape == "circle":
        axes.add_patch(Circle((x, y), RADIUS, **look))
    else:
        w, h = HALF_BOX
        axes.add_patch(FancyBboxPatch((x - w, y - h), 2 * w, 2 * h, boxstyle="round,pad=0,rounding_size=0.1", **look))
    if node.shape != "dot":
        va = "center_baseline" if node.shape == "box" else "center"
        axes.text(x, y, placed.text, size=9, ha="center", va=va, math_fontfamily="cm", zorder=4)

"""The recurrent circuit and its unfolding: where everything stands, then the drawing of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fastrnn import _check
from fastrnn.plotting._figure import checked_path, new_figure, saved
from fastrnn.plotting._models import graph_of

INCH = 0.58  # of a unit
RADIUS = 0.4
HALF_BOX = (0.52, 0.27)
DOT = 0.07
SQUARE = 0.1
LOOP = 0.95  # from a node's middle to its black square
DASHES = (0, (3, 2))
BEFORE, AFTER = "before", "after"  # the steps beyond those that are shown
COLOURS = {
    "input": "#ececec",
    "hidden": "#cfe3f7",
    "reverse": "#fbe0c8",
    "output": "#d5edd3",
    "loss": "#f6d3d8",
    "plain": "#ffffff",
}


@dataclass(frozen=True)
class Placed:
    """A node at its place."""

    node: object
    x: float
    text: str
    dashed: bool = False

    @property
    def y(self):
        return self.node.row

    def border(self, x, y):
        """The point of its outline that lies towards (x, y)."""
        dx, dy = x - self.x, y - self.y
        if self.node.shape == "box":
            scale = min(half / abs(d) for half, d in zip(HALF_BOX, (dx, dy)) if d)
        else:
            scale = (DOT if self.node.shape == "dot" else RADIUS) / math.hypot(dx, dy)
        return self.x + scale * dx, self.y + scale * dy


@dataclass(frozen=True)
class Line:
    """Through some points, or along the quadratic curve of three; with an arrow's head at its end or without."""

    points: tuple
    curved: bool = False
    dashed: bool = False
    head: bool = True


@dataclass(frozen=True)
class Text:
    x: float
    y: float
    text: str
    size: float = 8.5
    ha: str = "left"
    va: str = "center"
    colour: str = "black"


class Layout:
    """Where everything stands, in units of INCH inches.

    nodes : {(name, step): Placed}, step "compact" for the circuit on the left, None for what is there once
    lines, texts : what else is to be drawn; squares : middles (x, y) of the black squares, delays of one step
    unfold : (x0, x1, y) of the arrow from the circuit to its unfolding
    """

    def __init__(self, graph, steps):
        self._graph, self._steps = graph, steps
        self.nodes, self.lines, self.texts, self.squares = {}, [], [], []
        rows = [node.row for node in graph.nodes.values()]
        buses = [edge.bus for edge in graph.edges if edge.bus is not None]
        self.bottom, self.top = min(min(rows) - 0.75, min(buses, default=0.0) - 0.2), max(rows) + 0.75
        stepped = [node for node in graph.nodes.values() if node.span is not None or not node.offset]
        left, right = (max(side * node.offset + _half(node) for node in stepped) for side in (-1, 1))
        taps = any(edge.side and edge.bus is not None for edge in graph.edges)
        self._spacing = left + right + (0.95 if max(left, right) <= HALF_BOX[0] else 0.5) + 0.45 * taps
        x = self._place_compact()
        self.unfold = (x + 0.25, x + 1.25, (self.top + self.bottom) / 2)
        self.right = self._place_steps(x + 1.5)
        for edge in graph.edges:
            self._compact_edge(edge)
            self._edges(edge)

    def _place_compact(self):
        """Notes and one node for each of the graph, span beside span. Returns where the next thing may begin."""
        nodes, x = self._graph.nodes, 0.2
        x += _width([node.note for node in nodes.values() if not node.span])
        for span in range(len(self._graph.whole)):
            x += self._reach(-1, span)
            for name, node in nodes.items():
                if (node.span or 0) == span:
                    self.nodes[name, "compact"] = Placed(node, x + node.offset, _symbol(node))
            x += self._reach(1, span)
        for node in nodes.values():
            for k, line in enumerate(node.note):
                y = (
                    node.row
                    + (len(node.note) - 1) * 0.19
                    - k * 0.38
                    + (0.55 if node.offset < 0 and node.kind == "hidden" else 0)
                )
                left = x if node.span else 0.2
                self.texts.append(
                    Text(left, y, line, size=9 if k == 0 else 7.5, colour="black" if k == 0 else "#555555")
                )
        return x + _width([node.note for node in nodes.values() if node.span])

    def _reach(self, side, span):
        """How far the circuit of a span goes to one side of its middle."""
        nodes = self._graph.nodes
        reach = max(max(side * node.offset, 0) + _half(node) for node in nodes.values() if (node.span or 0) == span)
        for edge in self._graph.edges:
            if edge.side == side and (nodes[edge.target].span or 0) == span:
                away = (
                    LOOP + 0.45 + 0.4 * bool(edge.under and span) if edge.delay else 1.15
                )  # notes follow on the right of a later span
                own = [nodes[name] for name in (edge.source, edge.target) if (nodes[name].span or 0) == span]
                reach = max(reach, away + max(0, *(side * node.offset for node in own)))
        return reach + 0.15

    def _beyond(self, side, span):
        """How far what stands beside the first or last step of a span goes to its left or right."""
        nodes = [
            node for node in self._graph.nodes.values() if span == 0 and node.span is None and side * node.offset > 0
        ]
        return max((side * node.offset + _half(node) for node in nodes), default=0.0) + 0.15

    def _place_steps(self, left):
        """The nodes of every step; beyond the ends, those of a state that comes from there or goes there. Returns the right end."""
        nodes, steps = self._graph.nodes, self._steps
        chains = {edge.source: edge for edge in self._graph.edges if edge.delay and edge.source == edge.target}
        for span, whole in enumerate(self._graph.whole):
            open_ends = not whole and any(nodes[name].span == span for name in chains)
            half = max(0.5 * self._spacing, self._reach(-1, span) - LOOP)
            first = left + max(half, self._beyond(-1, span)) + 0.9 * self._spacing * open_ends
            columns = {t: first + t * self._spacing for t in range(steps)}
            if open_ends:
                columns |= {BEFORE: first - 0.9 * self._spacing, AFTER: first + (steps - 0.1) * self._spacing}
            for name, node in nodes.items():
                for t, x in columns.items():
                    beyond = t in (BEFORE, AFTER)
                    if node.span == span and not (beyond and name not in chains):
                        label = r"\ldots" if beyond else _time(t, steps, whole)
                        text = f"${node.label}^{{({label})}}$" if node.shape == "circle" else node.label
                        self.nodes[name, t] = Placed(node, x + node.offset, text, beyond)
                if node.span is None and span == 0:
                    x = {"first": first, "last": columns[steps - 1], "middle": (first + columns[steps - 1]) / 2}[
                        node.place
                    ]
                    self.nodes[name, None] = Placed(node, x + node.offset, _symbol(node))
            left = max(columns.values()) + max(half, self._beyond(1, span)) + 0.3
        return left - 0.2

    def _compact_edge(self, edge):
        a, b = self.nodes[edge.source, "compact"], self.nodes[edge.target, "compact"]
        if edge.lane is not None:
            x = b.x + edge.side * LOOP
            self._lane(a, b, x, edge)
            self.squares.append((x, a.y - 0.8))
        elif edge.delay:
            self._delay(a, b, edge)
        elif edge.bus is not None:
            self._bus([a], [b], edge)
        else:
            self._straight(a, b, edge)

    def _edges(self, edge):
        """An edge at every step."""
        source, target = self._graph.nodes[edge.source], self._graph.nodes[edge.target]
        if edge.delay:
            order = [BEFORE, *range(self._steps), AFTER]
            last = self._steps - 1 if self._graph.whole[source.span] and self._steps > 1 else None
            for t, after in zip(order, order[1:]):
                ends = (edge.source, t), (edge.target, after)
                if edge.delay < 0:
                    ends = (edge.source, after), (edge.target, t)
                if ends[0] in self.nodes and ends[1] in self.nodes:
                    a, b = (self.nodes[end] for end in ends)
                    dashed = t == BEFORE or after in (AFTER, last)
                    if edge.lane is not None:
                        self._lane(a, b, a.x + edge.lane, edge, dashed)
                    else:
                        self._straight(a, b, edge, dashed)
        elif source.span == target.span and source.span is not None:
            for t in range(self._steps):
                self._straight(self.nodes[edge.source, t], self.nodes[edge.target, t], edge)
        else:
            sources, targets = self._at(edge.source, edge.source_at), self._at(edge.target, edge.target_at)
            if edge.bus is not None:
                self._bus(sources, targets, edge)
                return
            for a in sources:
                for b in targets:
                    self._straight(a, b, edge)

    def _at(self, name, where):
        """A node at the steps that an edge asks for."""
        if self._graph.nodes[name].span is None:
            return [self.nodes[name, None]]
        steps = {"each": range(self._steps), "first": [0], "last": [self._steps - 1]}[where]
        return [self.nodes[name, t] for t in steps]

    def _straight(self, a, b, edge, dashed=False):
        start, end = a.border(b.x, b.y), b.border(a.x, a.y)
        self.lines.append(Line((start, end), dashed=dashed, head=b.node.shape != "dot"))
        dx, dy = end[0] - start[0], end[1] - start[1]
        part = min(0.5, 0.4 / math.hypot(dx, dy)) if abs(dx) < abs(dy) else 0.5
        x, y = start[0] + part * dx, start[1] + part * dy
        if abs(dx) > abs(dy):
            self._label(x, y + 0.08, edge.label, ha="center", va="bottom")
            self._label(x, y - 0.08, edge.under, ha="center", va="top")
        else:
            left = dx < -0.1
            self._label(x - 0.1 if left else x + 0.1, y, edge.label, ha="right" if left else "left")

    def _label(self, x, y, label, **place):
        if label:
            self.texts.append(Text(x, y, f"${label}$", **place))

    def _bus(self, sources, targets, edge):
        """Straight to the height of the bus, along it, and from there to the targets."""
        y, xs = edge.bus, []
        for a in sources:
            if a.y != y:
                self.lines.append(Line((a.border(a.x, y), (a.x, y)), head=False))
            xs.append(a.x)
        for b in targets:
            if b.y == y:
                nearest = min((a.x for a in sources), key=lambda x: abs(x - b.x))
                if nearest != b.x:
                    xs.append(b.border(nearest, y)[0])
                continue
            tap = b.x + 0.72 * edge.side
            turn = y if not edge.side else b.y - math.copysign(0.62, b.y - y)
            corner = [(tap, turn)] if edge.side else []
            self.lines.append(Line(((tap, y), *corner, b.border(tap, turn))))
            left = (edge.side < 0) == (
                b.node.offset == 0
            )  # of the line: away from the step's middle if there is no room
            self._label(
                tap - 0.1 if left else tap + 0.1,
                y + math.copysign(0.75, turn - y),
                edge.label,
                ha="right" if left else "left",
            )
            xs.append(tap)
        if max(xs) > min(xs):
            self.lines.append(Line(((min(xs), y), (max(xs), y)), head=False))

    def _lane(self, a, b, x, edge, dashed=False):
        """Sideways out of a, down, and from above into b."""
        turn, side = b.y + 0.62, math.copysign(1, x - a.x)
        self.lines.append(Line((a.border(x, a.y), (x, a.y), (x, turn), b.border(x, turn)), dashed=dashed))
        self._label(x + side * 0.18, a.y - 0.8, edge.label, ha="left" if side > 0 else "right")

    def _delay(self, a, b, edge):
        """Out of a, through a black square, into b; back into a itself it is a loop."""
        side, high = edge.side or 1, 0.27
        x = max(side * a.x, side * b.x) * side + side * LOOP
        y = (a.y + b.y) / 2
        if a is b:
            out, back = a.border(a.x + side, a.y + 0.8), a.border(a.x + side, a.y - 0.8)
            corner_out, corner_back = (x, y + 2 * high), (x, y - 2 * high)
        else:
            up = math.copysign(1, a.y - b.y)
            out, back = a.border(a.x + side, a.y), b.border(b.x + side, b.y)
            high = SQUARE * up
            corner_out, corner_back = (x, a.y), (x, b.y)
        high = math.copysign(SQUARE, high)
        self.lines.append(Line((out, corner_out, (x, y + high)), curved=True, head=False))
        self.lines.append(Line(((x, y - high), corner_back, back), curved=True))
        self.squares.append((x, y))
        label = ",\\,".join(filter(None, (edge.label, edge.under)))
        self._label(x + side * 0.18, y, label, ha="left" if side > 0 else "right")


def _half(node):
    """How far a node's shape goes to each side."""
    return HALF_BOX[0] if node.shape == "box" else RADIUS


def _width(lines):
    """About how wide the notes are: the first line of each is larger."""
    return (
        max((len(line) * (0.122 if k == 0 else 0.1) for note in lines for k, line in enumerate(note)), default=-0.3)
        + 0.3
    )


def _symbol(node):
    """What is written in a node that belongs to no step."""
    return f"${node.label}$" if node.shape == "circle" else node.label


def _time(t, steps, whole):
    """1, 2, … τ for a whole sequence; t-1, t, t+1 around the middle of a part."""
    if whole:
        return r"\tau" if t == steps - 1 else str(t + 1)
    k = t - (steps - 1) // 2
    return f"t{k:+d}" if k else "t"


def unfolded(model, steps: int = 3, path=None):
    """Draw the recurrent circuit, and beside it what it is when unfolded in time.

    The picture is read off the network: layers, directions, embedding, context, output and loss, with their sizes. In the circuit a
    black square is a delay of one step. U, W and V are the weights of input, recurrence and output, as in Goodfellow, Bengio & Courville,
    Deep Learning (2016), chapter 10; a prime marks the reverse direction; an LSTM also carries its cell state c. What is P and Q in
    the decoder of an EncoderDecoder is U and W in its encoder; F is the weight of input feeding.

    Parameters
    ----------
    model : RNN, GRU or LSTM, a list of layers one over the other, or a fitted model
    steps : how many time steps are unfolded
    path : file to write, .svg, .png or .pdf, optional

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    RuntimeError  the model has not been fitted.
    TypeError     it is no layer or model; ValueError: steps < 1, or layers that do not fit together.
    ImportError   matplotlib is not installed.

    Examples
    --------
    >>> import fastrnn
    >>> figure = fastrnn.plotting.unfolded(fastrnn.LSTM(8, 16, 2), steps=3)
    >>> [text.get_text() for text in figure.axes[0].texts if "LSTM" in text.get_text()]
    ['layer 1: LSTM, 16 units', 'layer 2: LSTM, 16 units']
    """
    path, steps = checked_path(path), _check.size("steps", steps)
    return saved(_drawn(Layout(graph_of(model), steps)), path)


def _drawn(layout):
    """A Figure of a layout."""
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


def _arrow(line):
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    path = Path(line.points, [Path.MOVETO, Path.CURVE3, Path.CURVE3] if line.curved else None)
    style = "-|>,head_length=0.45,head_width=0.2" if line.head else "-"
    look = dict(color="#333333", lw=0.9, linestyle=DASHES if line.dashed else "-", capstyle="butt", zorder=1)
    return FancyArrowPatch(path=path, arrowstyle=style, mutation_scale=10, **look)


def _draw_node(axes, placed):
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

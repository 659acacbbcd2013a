"""Where the parts of the recurrent circuit and of its unfolding are drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fastrnn.plotting._graph import Edge, Graph, Node

# Sizes in units of the picture
RADIUS = 0.4
HALF_BOX = (0.52, 0.27)
DOT = 0.07
SQUARE = 0.1
LOOP = 0.95  # from the centre of a node to its black square
BEFORE, AFTER = "before", "after"  # the steps just outside those that are shown


@dataclass(frozen=True)
class Placed:
    """A node with its position and text."""

    node: Node
    x: float
    text: str
    dashed: bool = False

    @property
    def y(self) -> float:
        """Height of the centre."""
        return self.node.row

    def border(self, x: float, y: float) -> tuple[float, float]:
        """Find the point of the outline in the direction of (x, y)."""
        dx, dy = x - self.x, y - self.y
        if self.node.shape == "box":
            scale = min(half / abs(d) for half, d in zip(HALF_BOX, (dx, dy)) if d)
        else:
            scale = (DOT if self.node.shape == "dot" else RADIUS) / math.hypot(dx, dy)
        return self.x + scale * dx, self.y + scale * dy


@dataclass(frozen=True)
class Line:
    """A line through points, or a quadratic curve of three, with an arrowhead at its end or without."""

    points: tuple[tuple[float, float], ...]
    curved: bool = False
    dashed: bool = False
    head: bool = True


@dataclass(frozen=True)
class Text:
    """A text with its position and look."""

    x: float
    y: float
    text: str
    size: float = 8.5
    ha: str = "left"
    va: str = "center"
    colour: str = "black"


class Layout:
    """The position of everything in the picture.

    Parameters
    ----------
    graph : Graph
        What is drawn.
    steps : int
        Number of steps of the unfolding.

    Attributes
    ----------
    nodes : dict of (str, int or str or None) to Placed
        The nodes by name and step; the step is "compact" in the circuit on the left, None for a node that exists once.
    lines : list of Line
        Lines and arrows.
    texts : list of Text
        Texts outside of nodes.
    squares : list of (float, float)
        Centres of the black squares, which are delays of one step.
    unfold : tuple of float
        The arrow (x0, x1, y) from the circuit to its unfolding.
    bottom, top, right : float
        Edges of the picture; its left edge is 0.
    """

    def __init__(self, graph: Graph, steps: int) -> None:
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
        """Place the notes and the compact circuit, span beside span, and return where the next part may begin."""
        nodes, x = self._graph.nodes, 0.2
        x += _width([node.note for node in nodes.values() if not node.span])
        for span in range(len(self._graph.whole)):
            x += self._reach(-1, span)
            for name, node in nodes.items():
                if (node.span or 0) == span:
                    self.nodes[name, "compact"] = Placed(node, x + node.offset, _symbol(node))
            x += self._reach(1, span)
        for node in nodes.values():
            top = node.row + (len(node.note) - 1) * 0.19
            if node.offset < 0 and node.kind == "hidden":
                top += 0.55
            for k, line in enumerate(node.note):
                look = dict(size=9, colour="black") if k == 0 else dict(size=7.5, colour="#555555")
                self.texts.append(Text(x if node.span else 0.2, top - k * 0.38, line, **look))
        return x + _width([node.note for node in nodes.values() if node.span])

    def _reach(self, side: int, span: int) -> float:
        """Measure how far the circuit of a span extends to one side of its middle."""
        nodes = self._graph.nodes
        reach = max(max(side * node.offset, 0) + _half(node) for node in nodes.values() if (node.span or 0) == span)
        for edge in self._graph.edges:
            if edge.side == side and (nodes[edge.target].span or 0) == span:
                # Notes are to the right of a later span.
                away = LOOP + 0.45 + 0.4 * bool(edge.under and span) if edge.delay else 1.15
                own = [nodes[name] for name in (edge.source, edge.target) if (nodes[name].span or 0) == span]
                reach = max(reach, away + max(0, *(side * node.offset for node in own)))
        return reach + 0.15

    def _beyond(self, side: int, span: int) -> float:
        """Measure how far the nodes beside the first or the last step of a span extend to its left or right."""
        nodes = [
            node for node in self._graph.nodes.values() if span == 0 and node.span is None and side * node.offset > 0
        ]
        return max((side * node.offset + _half(node) for node in nodes), default=0.0) + 0.15

    def _place_steps(self, left: float) -> float:
        """Place the nodes of every step, and return the right edge.

        Outside the steps shown there are copies of the states that the first step takes or the last one passes on.
        """
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
                    last = columns[steps - 1]
                    x = {"first": first, "last": last, "middle": (first + last) / 2}[node.place]
                    self.nodes[name, None] = Placed(node, x + node.offset, _symbol(node))
            left = max(columns.values()) + max(half, self._beyond(1, span)) + 0.3
        return left - 0.2

    def _compact_edge(self, edge: Edge) -> None:
        """Draw an edge of the compact circuit."""
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

    def _edges(self, edge: Edge) -> None:
        """Draw an edge at every step."""
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

    def _at(self, name: str, where: str) -> list[Placed]:
        """Find a node at the steps at which an edge begins or ends."""
        if self._graph.nodes[name].span is None:
            return [self.nodes[name, None]]
        steps = {"each": range(self._steps), "first": [0], "last": [self._steps - 1]}[where]
        return [self.nodes[name, t] for t in steps]

    def _straight(self, a: Placed, b: Placed, edge: Edge, dashed: bool = False) -> None:
        """Draw a straight arrow."""
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

    def _label(self, x: float, y: float, label: str, **place: str) -> None:
        if label:
            self.texts.append(Text(x, y, f"${label}$", **place))

    def _bus(self, sources: list[Placed], targets: list[Placed], edge: Edge) -> None:
        """Draw lines straight to the height of the bus, along it, and from there to the targets."""
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
            left = (edge.side < 0) == (b.node.offset == 0)  # where there is room: outside, unless b is off the middle
            x = tap - 0.1 if left else tap + 0.1
            self._label(x, y + math.copysign(0.75, turn - y), edge.label, ha="right" if left else "left")
            xs.append(tap)
        if max(xs) > min(xs):
            self.lines.append(Line(((min(xs), y), (max(xs), y)), head=False))

    def _lane(self, a: Placed, b: Placed, x: float, edge: Edge, dashed: bool = False) -> None:
        """Draw an arrow that leaves a sideways, goes down at x, and enters b from above."""
        turn, side = b.y + 0.62, math.copysign(1, x - a.x)
        self.lines.append(Line((a.border(x, a.y), (x, a.y), (x, turn), b.border(x, turn)), dashed=dashed))
        self._label(x + side * 0.18, a.y - 0.8, edge.label, ha="left" if side > 0 else "right")

    def _delay(self, a: Placed, b: Placed, edge: Edge) -> None:
        """Draw an arrow from a to b through a black square; if b is a, it is a loop."""
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


def _half(node: Node) -> float:
    """Half of the width of a node."""
    return HALF_BOX[0] if node.shape == "box" else RADIUS


def _width(notes: Iterable[Sequence[str]]) -> float:
    """Estimate the width of the notes; the first line of each is larger."""
    widths = (len(line) * (0.122 if k == 0 else 0.1) for note in notes for k, line in enumerate(note))
    return max(widths, default=-0.3) + 0.3


def _symbol(node: Node) -> str:
    """The text in a node that belongs to no step."""
    return f"${node.label}$" if node.shape == "circle" else node.label


def _time(t: int, steps: int, whole: bool) -> str:
    """The time of a step: 1, 2, … τ in a whole sequence; t-1, t, t+1 around the middle of a part."""
    if whole:
        return r"\tau" if t == steps - 1 else str(t + 1)
    k = t - (steps - 1) // 2
    return f"t{k:+d}" if k else "t"

"""What `unfolded` draws: the vectors of one time step, and the edges between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from fastrnn.layers.feedforward import Embedding, Linear
from fastrnn.layers.recurrent import Recurrent
from fastrnn.layers.stacked import Stacked

RISE = 1.5  # from one vector to the next one above it


@dataclass(frozen=True)
class Node:
    """A vector, or a part of the network that is not shown in detail.

    Parameters
    ----------
    label : str
        Mathtext without dollars; (t) is added at each step.
    kind : {"input", "hidden", "reverse", "output", "loss", "plain"}
        What it is, which chooses its colour.
    shape : {"circle", "box", "dot"}
        A dot is a concatenation of vectors.
    row, offset : float
        Height, and horizontal distance from the middle of its step.
    span : int or None
        The sequence to whose steps it belongs; None if it exists only once.
    place : {"first", "middle", "last"}
        The step above which it is drawn if it exists only once.
    note : tuple of str
        Lines of text beside it.
    """

    label: str
    kind: str
    shape: str = "circle"
    row: float = 0.0
    offset: float = 0.0
    span: int | None = 0
    place: str = "middle"
    note: tuple[str, ...] = ()


@dataclass(frozen=True)
class Edge:
    """A connection from one node to another.

    Parameters
    ----------
    source, target : str
        Names of the nodes.
    label, under : str
        Mathtext above and below it.
    delay : int
        1 leads to the next step, -1 to the one before, 0 to the same one.
    source_at, target_at : {"each", "first", "last"}
        At which steps it begins and ends, if the nodes do not belong to the same span.
    bus : float, optional
        Height of its horizontal part.
    lane : float, optional
        For a delay that leads down: horizontal distance of its vertical part from its source.
    side : {-1, 0, 1}
        The side, left or right, on which a delay is drawn or a bus reaches its target.
    """

    source: str
    target: str
    label: str = ""
    under: str = ""
    delay: int = 0
    source_at: str = "each"
    target_at: str = "each"
    bus: float | None = None
    lane: float | None = None
    side: int = 0


@dataclass
class Graph:
    """The nodes of one step, by name, and the edges between them.

    A model can define how it is drawn, by a method ``_graph(graph)`` that adds its nodes to an empty Graph, from the
    input up.

    Parameters
    ----------
    nodes : dict of str to Node
        The nodes by name.
    edges : list of Edge
        The edges.
    whole : list of bool
        For each span, whether all of the sequence is shown (steps 1 to τ), or a part of it (t-1, t, t+1).
    row : float
        Height of the next node.
    """

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    whole: list[bool] = field(default_factory=lambda: [False])
    row: float = 0.0

    def node(self, name: str, label: str, kind: str, *, rise: float = RISE, **options) -> str:
        """Add a node at the current height, move up by `rise`, and return the name of the node."""
        self.nodes[name] = Node(label, kind, row=self.row, **options)
        self.row += rise
        return name

    def edge(self, source: str, target: str, label: str = "", **options) -> None:
        """Add an edge."""
        self.edges.append(Edge(source, target, label, **options))

    def embedding(self, layer: Embedding, below: str, name: str = "e", label: str = "E", **options) -> str:
        """Add an embedding of the node `below`, and return its name."""
        self.node(name, name, "plain", note=(f"embedding, {layer.num_embeddings} → {layer.embedding_dim}",), **options)
        self.edge(below, name, label)
        return name

    def stack(
        self,
        rnn: Recurrent | Stacked,
        below: Sequence[str] = (),
        *,
        symbols: str = "hg",
        weights: str = "UW",
        span: int = 0,
        side: Literal[-1, 1] = 1,
    ) -> list[str]:
        """Add an RNN, GRU, LSTM or Stacked above the nodes `below`, and return the names of its top nodes.

        Several nodes below are concatenated. The recurrence of a single direction is drawn at this `side`.
        """
        parts = [(net, layer) for net in getattr(rnn, "layers", [rnn]) for layer in range(net.num_layers)]
        top, first = below, None
        for k, (net, layer) in enumerate(parts, 1):
            top = self._layer(net, layer, k if len(parts) > 1 else None, top, symbols, weights, span, side)
            first = first or top
        if rnn.context_size:
            self._context(parts[0][0], first, RISE if below else 1.5 * RISE)
        return top

    def _layer(self, rnn, layer, k, below, symbols, weights, span, side):
        """Add a layer of a network, in all its directions; `k` is its number, None if it is the only one."""
        D, number = rnn.num_directions, "" if k is None else f"_{k}"
        if len(below) > 1:
            below = [self.join(f"{symbols}{k} in", below, span=span)]
        details = [f"${weights[1]}{number}$: {shape_of(rnn.params[f'weight_hh_l{layer}'])}"]
        if below:
            details.insert(0, f"${weights[0]}{number}$: {shape_of(rnn.params[f'weight_ih_l{layer}'])}")
        note = (_kind(rnn, k), ",  ".join(details))
        top = []
        for d, (symbol, prime) in enumerate(zip(symbols[:D], ["", "'"])):
            offset = (d - 0.5) * 0.9 * (D - 1)
            name, rise = symbol + number, RISE if d == D - 1 else RISE - 0.4
            self.node(name, name, ["hidden", "reverse"][d], rise=rise, offset=offset, span=span, note=() if d else note)
            for source in below:
                self.edge(source, name, f"{weights[0]}{number}{prime}")
            carried = "c" + number + prime if rnn.cell.has_c else ""
            self.edge(
                name,
                name,
                f"{weights[1]}{number}{prime}",
                under=carried,
                delay=1 - 2 * d,
                side=-1 if offset < 0 else 1 if offset else side,
            )
            top.append(name)
        return top

    def _context(self, rnn, targets, rise):
        """Add a vector C that enters every step of layer 0; if there is none yet, it is drawn below everything."""
        span = self.nodes[targets[0]].span
        row = min(node.row for node in self.nodes.values() if node.span == span) - rise
        if "C" not in self.nodes:
            note = (f"context, size {rnn.context_size}", f"$R$: {shape_of(rnn.params['weight_ch_l0'])}")
            self.nodes["C"] = Node("C", "input", row=row, span=None, note=note)
        for d, target in enumerate(targets):
            self.edge("C", target, "R" + "'" * d, bus=row + RISE / 2, side=2 * d - 1)

    def join(self, name: str, below: Sequence[str], *, span: int = 0) -> str:
        """Add a concatenation of the nodes `below`, and return its name."""
        self.row -= 0.4
        self.node(name, "", "plain", shape="dot", rise=1.0, span=span)
        for source in below:
            self.edge(source, name)
        return name

    def linear(self, layer: Linear, below: Sequence[str], name: str = "o", label: str = "V", **options) -> str:
        """Add an output o = V h + b above the nodes `below`, and return its name."""
        if len(below) > 1:
            below = [self.join(f"{name} in", below, span=options.get("span", 0))]
        note = (f"linear, {layer.in_features} → {layer.out_features}",)
        self.node(name, name, "output", note=note, **options)
        for source in below:
            self.edge(source, name, label)
        return name

    def loss(self, below: str, targets: str, kind: str = "softmax, cross-entropy", **options) -> None:
        """Add the loss of the output `below`, with targets y."""
        self.node("L", "L", "loss", note=(kind,), **options)
        self.node("y", "y", "input", note=(targets,), **options)
        self.edge(below, "L")
        self.edge("y", "L")


def _kind(rnn: Recurrent, k: int | None) -> str:
    """Describe the kind and the size of a layer: "layer 2: LSTM, 2 × 128 units"."""
    kind = rnn.kind
    if kind == "RNN":
        kind = f"RNN ({rnn.nonlinearity if isinstance(rnn.nonlinearity, str) else rnn.nonlinearity[0]})"
    where = "" if k is None else f"layer {k}: "
    return f"{where}{kind}, {'2 × ' * rnn.bidirectional}{rnn.hidden_size} units"


def shape_of(weight: np.ndarray) -> str:
    """Format a shape: "512 × 128"."""
    return " × ".join(map(str, weight.shape))

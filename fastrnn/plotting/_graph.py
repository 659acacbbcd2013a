"""What `unfolded` draws: the vectors of one time step and what leads from one to another."""

from __future__ import annotations

from dataclasses import dataclass, field

RISE = 1.5  # from one vector to the next above it


@dataclass(frozen=True)
class Node:
    """A vector, or a part of the network that is not shown in detail.

    label : mathtext without the dollars; (t) is added at each step
    kind : "input", "hidden", "reverse", "output", "loss" or "plain": its colour
    shape : "circle", "box" or "dot" (vectors put side by side)
    row, offset : height, and distance from the middle of its step
    span : the sequence whose steps it is part of, or None: it is there once
    place : where it stands if it is there once: over the "first", "middle" or "last" step
    note : what is written beside it, line by line
    """

    label: str
    kind: str
    shape: str = "circle"
    row: float = 0.0
    offset: float = 0.0
    span: int | None = 0
    place: str = "middle"
    note: tuple = ()


@dataclass(frozen=True)
class Edge:
    """From one node to another.

    label, under : mathtext above and below it
    delay : 1 leads to the next step, -1 to the one before
    source_at, target_at : at which steps ("each", "first", "last"), for ends that are not of the same span
    bus : height of the line along which it goes sideways, optional
    lane : of a delay that leads down: how far beside its source it does, optional
    side : -1 or 1: a bus comes to its target from the left or right, and a delay is drawn there
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
    """The nodes of one step, by their names, and the edges between them.

    A model draws itself if it has a method ``_graph(graph)`` that adds its nodes, from the input up, to an empty Graph.

    row : height of the next node
    whole : for each span (sequence), whether all of it is shown (steps 1 to τ) or a part from its middle (t-1, t, t+1)
    """

    nodes: dict = field(default_factory=dict)
    edges: list = field(default_factory=list)
    whole: list = field(default_factory=lambda: [False])
    row: float = 0.0

    def node(self, name, label, kind, *, rise=RISE, **options) -> str:
        """Add a node at the present height, and go up by `rise`. Returns its name."""
        self.nodes[name] = Node(label, kind, row=self.row, **options)
        self.row += rise
        return name

    def edge(self, source, target, label="", **options) -> None:
        self.edges.append(Edge(source, target, label, **options))

    def embedding(self, layer, below, name="e", label="E", **options) -> str:
        self.node(name, name, "plain", note=(f"embedding, {layer.num_embeddings} → {layer.embedding_dim}",), **options)
        self.edge(below, name, label)
        return name

    def stack(self, rnn, below=(), *, symbols="hg", weights="UW", span=0, side=1) -> list:
        """Add an RNN, GRU, LSTM or Stacked over the nodes `below` (several are put side by side). Returns the names of its top nodes.

        The state of a single direction returns at this `side`.
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
        """A vector C, if it is not there yet below everything, that enters every step of layer 0."""
        span = self.nodes[targets[0]].span
        row = min(node.row for node in self.nodes.values() if node.span == span) - rise
        if "C" not in self.nodes:
            note = (f"context, {rnn.context_size} numbers", f"$R$: {shape_of(rnn.params['weight_ch_l0'])}")
            self.nodes["C"] = Node("C", "input", row=row, span=None, note=note)
        for d, target in enumerate(targets):
            self.edge("C", target, "R" + "'" * d, bus=row + RISE / 2, side=2 * d - 1)

    def join(self, name, below, *, span=0) -> str:
        """Vectors put side by side."""
        self.row -= 0.4
        self.node(name, "", "plain", shape="dot", rise=1.0, span=span)
        for source in below:
            self.edge(source, name)
        return name

    def linear(self, layer, below, name="o", label="V", **options) -> str:
        """An output o = V h + b over the nodes `below`."""
        if len(below) > 1:
            below = [self.join(f"{name} in", below, span=options.get("span", 0))]
        note = (f"linear, {layer.in_features} → {layer.out_features}",)
        self.node(name, name, "output", note=note, **options)
        for source in below:
            self.edge(source, name, label)
        return name

    def loss(self, below, targets, kind="softmax, cross-entropy", **options) -> None:
        """The loss of the output below with targets y."""
        self.node("L", "L", "loss", note=(kind,), **options)
        self.node("y", "y", "input", note=(targets,), **options)
        self.edge(below, "L")
        self.edge("y", "L")


def _kind(rnn, k):
    """What kind of layer and how large: "layer 2: LSTM, 2 × 128 units"."""
    kind = rnn.kind
    if kind == "RNN":
        kind = f"RNN ({rnn.nonlinearity if isinstance(rnn.nonlinearity, str) else rnn.nonlinearity[0]})"
    where = "" if k is None else f"layer {k}: "
    return f"{where}{kind}, {'2 × ' * rnn.bidirectional}{rnn.hidden_size} units"


def shape_of(weight) -> str:
    """As it is written: "512 × 128"."""
    return " × ".join(map(str, weight.shape))

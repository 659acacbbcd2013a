"""What `unfolded` draws: the vectors of one time step and what leads from one to another, read off a layer or model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fastrnn.layers import Dropout, Embedding, Linear
from fastrnn.models import EventModel, Forecaster, LanguageModel, MemoryNetwork, SequenceClassifier, SequenceRegressor, SequenceTagger
from fastrnn.rnn import Recurrent
from fastrnn.stacked import Stacked

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

    def stack(self, rnn, below=(), *, symbols="hg", weights="UW", span=0) -> list:
        """Add an RNN, GRU, LSTM or Stacked over the nodes `below` (several are put side by side). Returns the names of its top nodes."""
        parts = [(net, layer) for net in getattr(rnn, "layers", [rnn]) for layer in range(net.num_layers)]
        top, first = below, None
        for k, (net, layer) in enumerate(parts, 1):
            top = self._layer(net, layer, k if len(parts) > 1 else None, top, symbols, weights, span)
            first = first or top
        if rnn.context_size:
            self._context(parts[0][0], first, RISE if below else 1.5 * RISE)
        return top

    def _layer(self, rnn, layer, k, below, symbols, weights, span):
        D, number = rnn.num_directions, "" if k is None else f"_{k}"
        if len(below) > 1:
            below = [self.join(f"{symbols}{k} in", below, span=span)]
        shape = " × ".join(map(str, rnn.params[f"weight_hh_l{layer}"].shape))
        details = [f"${weights[1]}{number}$: {shape}"]
        if below:
            details.insert(0, f"${weights[0]}{number}$: " + " × ".join(map(str, rnn.params[f"weight_ih_l{layer}"].shape)))
        note = (_kind(rnn, k), ",  ".join(details))
        top = []
        for d, (symbol, prime) in enumerate(zip(symbols[:D], ["", "'"])):
            offset = (d - 0.5) * 0.9 * (D - 1)
            name, rise = symbol + number, RISE if d == D - 1 else RISE - 0.4
            self.node(name, name, ["hidden", "reverse"][d], rise=rise, offset=offset, span=span, note=() if d else note)
            for source in below:
                self.edge(source, name, f"{weights[0]}{number}{prime}")
            carried = "c" + number + prime if rnn.cell.has_c else ""
            self.edge(name, name, f"{weights[1]}{number}{prime}", under=carried, delay=1 - 2 * d, side=-1 if offset < 0 else 1)
            top.append(name)
        return top

    def _context(self, rnn, targets, rise):
        """A vector below everything that enters every step of layer 0."""
        row = min(node.row for node in self.nodes.values()) - rise
        shape = " × ".join(map(str, rnn.params["weight_ch_l0"].shape))
        note = (f"context, {rnn.context_size} numbers", f"$R$: {shape}")
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
    kind = f"RNN ({rnn.nonlinearity})" if rnn.kind == "RNN" else rnn.kind
    where = "" if k is None else f"layer {k}: "
    return f"{where}{kind}, {'2 × ' * rnn.bidirectional}{rnn.hidden_size} units"


def _layers(graph, layers):
    """Layers, each over the one before."""
    below = ()
    for layer in layers:
        if isinstance(layer, (Recurrent, Stacked)):
            if not below and layer.input_size:
                below = [graph.node("x", "x", "input", note=(f"input, {layer.input_size} numbers",))]
            below = graph.stack(layer, below)
        elif isinstance(layer, Embedding):
            below = [graph.embedding(layer, graph.node("x", "x", "input", note=(f"one of {layer.num_embeddings} symbols",)))]
        elif isinstance(layer, Linear):
            below = below or [graph.node("x", "x", "input", note=(f"input, {layer.in_features} numbers",))]
            below = [graph.linear(layer, below)]


def _language_model(graph, model):
    x = graph.node("x", "x", "input", note=(f"{model.level}, one of {len(model.vocabulary)}",))
    top = graph.stack(model.rnn, [graph.embedding(model.embedding, x)])
    graph.loss(graph.linear(model.linear, top), f"target: the next {model.level}")


def _event_model(graph, model):
    x = graph.node("x", "x", "input", note=(f"events of the step before, {model.rnn.input_size}",))
    top = graph.stack(model.rnn, [x])
    graph.loss(graph.linear(model.linear, top), "target: the events of this step", "sigmoid, cross-entropy")


def _forecaster(graph, model):
    numbers = f"{model.rnn.input_size} numbers: values, 0 where forecast; others; a flag"
    top = graph.stack(model.rnn, [graph.node("x", "x", "input", note=("a step of the window, or one to forecast", numbers))])
    loss = "squared error" if model.quantiles is None else "pinball loss"
    graph.loss(graph.linear(model.linear, top), "target: the values, after the window", loss)


def _regressor(graph, model):
    if not model.per_step:
        _pooled(graph, model, f"target: {model.linear.out_features} numbers", "squared error")
        return
    top = graph.stack(model.rnn, [graph.node("x", "x", "input", note=(f"input, {model.rnn.input_size} numbers",))])
    graph.loss(graph.linear(model.linear, top), f"target: {model.linear.out_features} numbers", "squared error")


def _classifier(graph, model):
    _pooled(graph, model, f"target: the class, one of {len(model.classes_)}", "softmax, cross-entropy")


def _pooled(graph, model, target, loss):
    graph.whole = [True]
    x = graph.node("x", "x", "input", note=(f"input, {model.rnn.input_size} numbers",))
    top, place = graph.stack(model.rnn, [x]), "middle"
    if model.pooling == "last":
        place = "last"
        if len(top) > 1:
            graph.row -= 0.4
            pooled = graph.node("final states", "", "plain", shape="dot", span=None, place=place, rise=1.0)
            graph.edge(top[0], pooled, source_at="last")
            graph.edge(top[1], pooled, source_at="first", bus=graph.nodes[pooled].row)
            top = [pooled]
    else:
        if len(top) > 1:
            top = [graph.join("both directions", top)]
        pooled = graph.node("pool", model.pooling, "plain", shape="box", span=None, note=(f"{model.pooling} over the steps",))
        graph.edge(top[0], pooled, bus=graph.nodes[pooled].row - 0.85)
        top = [pooled]
    once = dict(span=None, place=place)
    graph.node("o", "o", "output", note=(f"linear, {model.linear.in_features} → {model.linear.out_features}",), **once)
    graph.edge(top[0], "o", "V", source_at="last")
    graph.loss("o", target, loss, **once)


def _tagger(graph, model):
    graph.whole = [True]
    kind, Hc = model.char_rnn.kind, model.char_hidden_size
    x = graph.node("x", "x", "input", note=("word", f"one of {model.words.num_embeddings}, and its characters"))
    note = (f"word vector, {model.word_size} numbers", f"and {kind} over its characters, 2 × {Hc} units")
    graph.node("e", "e", "plain", offset=-0.55, rise=0, note=note)
    graph.node("spelling", f"Bi{kind}", "hidden", shape="box", offset=0.55)
    graph.edge(x, "e", "E")
    graph.edge(x, "spelling")
    top = graph.stack(model.rnn, ["e", "spelling"])
    graph.loss(graph.linear(model.linear, top), f"target: the tag, one of {len(model.tags_)}")


def _memory_network(graph, model):
    """A step is a hop: the state before it is compared with the keys, and the values that it looks at are added."""
    graph.whole = [True]
    numbers = f"keys and values, {model.size} numbers each"
    note = (f"memory: the last {model.memory} sentences", numbers, "$A, C$: their tables at this hop")
    graph.node("m", "m", "input", note=note)
    graph.node("a", "\\alpha", "plain", note=("attention", "softmax of state · keys"))
    graph.nodes["q"] = Node("q", "input", row=graph.row - 0.75, offset=-1.8, span=None, place="first", note=("question, by the table $B$",))
    graph.node("u", "u", "hidden", note=(f"state after a hop, of {model.hops}", "state before + attention · values"))
    graph.edge("m", "a", "A,\\,C")
    graph.edge("a", "u")
    graph.edge("u", "u", "H" if model.tying == "layerwise" else "", delay=1, side=1)
    graph.edge("u", "a", delay=1, side=-1)
    graph.edge("q", "a", target_at="first")
    graph.edge("q", "u", target_at="first")
    once = dict(span=None, place="last")
    graph.node("o", "o", "output", note=(f"linear, {model.size} → {len(model.answers_)}",), **once)
    graph.edge("u", "o", "W", source_at="last")
    graph.loss("o", f"target: the answer, one of {len(model.answers_)}", **once)


_MODELS = {
    EventModel: _event_model,
    Forecaster: _forecaster,
    LanguageModel: _language_model,
    MemoryNetwork: _memory_network,
    SequenceClassifier: _classifier,
    SequenceRegressor: _regressor,
    SequenceTagger: _tagger,
}


def graph_of(model) -> Graph:
    """The Graph of a layer, of several one over the other, or of a fitted model."""
    graph = Graph()
    if hasattr(model, "_check_fitted"):
        model._check_fitted()
    if hasattr(model, "_graph"):
        model._graph(graph)
        return graph
    for kind, draw in _MODELS.items():
        if isinstance(model, kind):
            draw(graph, model)
            return graph
    layers = list(model) if isinstance(model, Sequence) else [model]
    known = (Recurrent, Stacked, Embedding, Linear, Dropout)
    wrong = next((layer for layer in layers if not isinstance(layer, known)), None)
    if wrong is not None:
        raise TypeError(f"model is {type(wrong).__name__}, but what can be drawn is a layer, a list of layers or a model of fastrnn")
    layers = [layer for layer in layers if not isinstance(layer, Dropout)]
    if not layers:
        raise ValueError("there is nothing to draw: give an RNN, GRU, LSTM, Embedding or Linear, or a list of them")
    _check_widths(layers)
    _layers(graph, layers)
    return graph


def _check_widths(layers):
    """Each layer takes what the one before gives."""
    given = None
    for layer in layers:
        if isinstance(layer, (Recurrent, Stacked)):
            taken, gives = layer.input_size, layer.output_size
        elif isinstance(layer, Linear):
            taken, gives = layer.in_features, layer.out_features
        else:
            taken, gives = None, layer.embedding_dim
        if given is not None and taken != given:
            name = type(layer).__name__
            raise ValueError(f"the layer before gives {given} numbers, but this {name} takes {'symbols' if taken is None else taken}")
        given = gives

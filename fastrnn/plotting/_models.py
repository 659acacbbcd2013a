"""The Graph of each kind of layer and model, as `unfolded` draws it."""

from __future__ import annotations

from collections.abc import Sequence

from fastrnn.layers.feedforward import Dropout, Embedding, Linear
from fastrnn.layers.recurrent import Recurrent
from fastrnn.layers.stacked import Stacked
from fastrnn.models import (
    EncoderDecoder,
    EventModel,
    Forecaster,
    LanguageModel,
    MemoryNetwork,
    SequenceClassifier,
    SequenceRegressor,
    SequenceTagger,
    VectorToSequence,
)
from fastrnn.plotting._graph import RISE, Graph, Node, shape_of


def _layers(graph, layers):
    """Add layers, each above the one before."""
    below = ()
    for layer in layers:
        if isinstance(layer, (Recurrent, Stacked)):
            if not below and layer.input_size:
                below = [graph.node("x", "x", "input", note=(f"input, {layer.input_size} features",))]
            below = graph.stack(layer, below)
        elif isinstance(layer, Embedding):
            x = graph.node("x", "x", "input", note=(f"one of {layer.num_embeddings} symbols",))
            below = [graph.embedding(layer, x)]
        elif isinstance(layer, Linear):
            below = below or [graph.node("x", "x", "input", note=(f"input, {layer.in_features} features",))]
            below = [graph.linear(layer, below)]


def _language_model(graph, model):
    x = graph.node("x", "x", "input", note=(f"{model.level}, one of {len(model.vocabulary)}",))
    top = graph.stack(model.rnn, [graph.embedding(model.embedding, x)])
    graph.loss(graph.linear(model.linear, top), f"target: the next {model.level}")


def _event_model(graph, model):
    x = graph.node("x", "x", "input", note=(f"events of the step before, size {model.rnn.input_size}",))
    top = graph.stack(model.rnn, [x])
    graph.loss(graph.linear(model.linear, top), "target: the events of this step", "sigmoid, cross-entropy")


def _forecaster(graph, model):
    features = f"{model.rnn.input_size} features: values (0 when forecasting), others, a flag"
    x = graph.node("x", "x", "input", note=("a step of the window, or one to forecast", features))
    top = graph.stack(model.rnn, [x])
    loss = "squared error" if model.quantiles is None else "pinball loss"
    graph.loss(graph.linear(model.linear, top), "target: the values after the window", loss)


def _regressor(graph, model):
    if not model.per_step:
        _pooled(graph, model, f"target, size {model.linear.out_features}", "squared error")
        return
    top = graph.stack(model.rnn, [graph.node("x", "x", "input", note=(f"input, {model.rnn.input_size} features",))])
    graph.loss(graph.linear(model.linear, top), f"target, size {model.linear.out_features}", "squared error")


def _classifier(graph, model):
    _pooled(graph, model, f"target: the class, one of {len(model.classes_)}", "softmax, cross-entropy")


def _pooled(graph, model, target, loss):
    graph.whole = [True]
    x = graph.node("x", "x", "input", note=(f"input, {model.rnn.input_size} features",))
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
        note = (f"{model.pooling} over the steps",)
        pooled = graph.node("pool", model.pooling, "plain", shape="box", span=None, note=note)
        graph.edge(top[0], pooled, bus=graph.nodes[pooled].row - 0.85)
        top = [pooled]
    once = dict(span=None, place=place)
    graph.node("o", "o", "output", note=(f"linear, {model.linear.in_features} → {model.linear.out_features}",), **once)
    graph.edge(top[0], "o", "V", source_at="last")
    graph.loss("o", target, loss, **once)


def _tagger(graph, model):
    graph.whole = [True]
    kind, Hc = model.char_rnn.kind, model.char_hidden_size
    x = graph.node("x", "x", "input", note=("word", f"one of {model.words.num_embeddings}, with its characters"))
    note = (f"word embedding, size {model.word_size}", f"and {kind} over its characters, 2 × {Hc} units")
    graph.node("e", "e", "plain", offset=-0.55, rise=0, note=note)
    graph.node("spelling", f"Bi{kind}", "hidden", shape="box", offset=0.55)
    graph.edge(x, "e", "E")
    graph.edge(x, "spelling")
    top = graph.stack(model.rnn, ["e", "spelling"])
    graph.loss(graph.linear(model.linear, top), f"target: the tag, one of {len(model.tags_)}")


def _encoder_decoder(graph, model):
    graph.whole = [True, True]
    x = graph.node("x", "x", "input", note=(f"source, one of {len(model.source_vocabulary)} symbols",))
    final = graph.stack(model.encoder, [graph.embedding(model.source_table, x)], side=-1)
    encoder = [name for name, node in graph.nodes.items() if node.kind == "hidden"]
    memory = final[0]
    if model.attention is not None and len(final) > 1:
        memory = graph.join("outputs", final)
    if model.bridge is not None or model.rnn.context_size:
        _source_vector(graph, model, final)
    states = _decoder(graph, model, "s", "PQ", 1)
    if model.bridge is not None:
        _bridge(graph, states, offset=graph.nodes["C"].offset + 1.5, place="last")
    elif model.context in ("initial", "both"):
        for one, other in zip(encoder, states):
            graph.edge(one, other, source_at="last", target_at="first")
    _output(graph, model, states[-1] if model.attention is None else _attention(graph, model, states, memory), 1)


def _source_vector(graph, model, final):
    """Add the vector C of the source, beside its last step."""
    graph.row = graph.nodes[final[0]].row - RISE / 2
    note = (f"final states, size {model.encoder.output_size}", _entry_weights(model))
    offset = 1.7 if len(final) == 1 else 2.3  # beyond the text beside the state of the reverse direction
    graph.node("C", "C", "hidden", span=None, place="last", offset=offset, note=note)
    graph.edge(final[0], "C", source_at="last")
    for name in final[1:]:
        graph.edge(name, "C", source_at="first", bus=graph.nodes[name].row + 0.6)


def _vector_to_sequence(graph, model):
    graph.whole, graph.row = [True], -RISE
    graph.node("C", "C", "input", span=None, note=(f"vector, size {model._width}", _entry_weights(model)))
    states = _decoder(graph, model, "h", "UW", 0)
    if model.bridge is not None:
        _bridge(graph, states, offset=-1.6, place="first", bus=-RISE / 2)
    _output(graph, model, states[-1], 0)


def _entry_weights(model):
    """Describe the weights through which the vector of the source enters the decoder."""
    weights = {"B": model.bridge.params["weight"]} if model.bridge is not None else {}
    if model.rnn.context_size:
        weights["R"] = model.rnn.params["weight_ch_l0"]
    return ",  ".join(f"${name}$: {shape_of(weight)}" for name, weight in weights.items())


def _decoder(graph, model, symbol, weights, span):
    """Add the recurrent network of the decoder, and return the names of the states of its layers."""
    graph.row = 0.0
    z = graph.node("z", "z", "input", span=span, note=("previous symbol: $z^{(t)} = y^{(t-1)}$",))
    before = set(graph.nodes) | {graph.embedding(model.target_table, z, name="d", label="D", span=span)}
    graph.stack(model.rnn, ["d"], symbols=symbol, weights=weights, span=span)
    return [name for name in graph.nodes if name not in before]


def _bridge(graph, states, bus=None, **place):
    """Add the initial states of all layers, tanh of B C + b."""
    above, graph.row = graph.row, graph.nodes[states[0]].row
    graph.node("bridge", "tanh", "plain", shape="box", span=None, **place)
    graph.row = above
    graph.edge("C", "bridge", "B", bus=bus)
    graph.edge("bridge", states[0], target_at="first")
    for state in states[1:]:
        graph.edge("bridge", state, target_at="first", bus=graph.nodes[state].row - 0.62, side=-1)


def _attention(graph, model, states, memory):
    """Add attention, and return the name of its output a.

    The weights over the memory and the weighted sum c are drawn beside the state, and a is drawn above it.
    """
    decoder, top = model.decoder, states[-1]
    bus = max(graph.nodes[memory].row, graph.nodes[top].row) + RISE / 2
    graph.row = bus + RISE / 2
    scores = {"additive": r"$v \cdot \tanh(G s + K h)$", "general": r"$s \cdot K h$", "dot": r"$s \cdot h$"}[
        model.attention
    ]
    beside = dict(span=1, offset=0.8, rise=1.15)
    note = (f"{model.attention} attention", f"softmax of {scores}")
    graph.node("weights", "attend", "plain", shape="box", note=note, **beside)
    graph.node("c", "c", "plain", note=(f"weighted sum of outputs, size {decoder.memory_size}",), **beside)
    shape = shape_of(decoder.params["weight_out"])
    graph.node("a", "a", "hidden", span=1, note=(r"$a = \tanh(A\,[c; s] + b)$", f"$A$: {shape}"))
    graph.edge(memory, "weights", bus=bus)
    graph.edge(top, "weights")
    graph.edge("weights", "c")
    graph.edge("c", "a")
    graph.edge(top, "a")
    if decoder.input_feeding:
        graph.edge("a", states[0], "F", delay=1, lane=1.6, side=-1)
    return "a"


def _output(graph, model, top, span):
    """Add the output of the decoder, and its loss."""
    count = len(model.vocabulary)
    graph.loss(graph.linear(model.linear, [top], span=span), f"target: the symbol, one of {count}", span=span)


def _memory_network(graph, model):
    """Add the hops, one at each step: the values, weighted by how their keys match the state, are added to it."""
    graph.whole = [True]
    size = f"keys and values, size {model.size} each"
    note = (f"memory: the last {model.memory} sentences", size, "$A, C$: their embeddings at this hop")
    graph.node("m", "m", "input", note=note)
    graph.node("a", "\\alpha", "plain", note=("attention", "softmax of state · keys"))
    graph.nodes["q"] = Node(
        "q", "input", row=graph.row - 0.75, offset=-1.8, span=None, place="first", note=("question, embedding $B$",)
    )
    graph.node("u", "u", "hidden", note=(f"state after each of {model.hops} hops", "state before + attention · values"))
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
    EncoderDecoder: _encoder_decoder,
    EventModel: _event_model,
    Forecaster: _forecaster,
    LanguageModel: _language_model,
    MemoryNetwork: _memory_network,
    SequenceClassifier: _classifier,
    SequenceRegressor: _regressor,
    SequenceTagger: _tagger,
    VectorToSequence: _vector_to_sequence,
}


def graph_of(model: object) -> Graph:
    """Build the Graph of a layer, of a list of layers from the input up, or of a fitted model."""
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
        raise TypeError(
            f"model is {type(wrong).__name__}, but it must be a layer, a list of layers or a model of fastrnn"
        )
    layers = [layer for layer in layers if not isinstance(layer, Dropout)]
    if not layers:
        raise ValueError("there is nothing to draw: give an RNN, GRU, LSTM, Embedding or Linear, or a list of them")
    _check_widths(layers)
    _layers(graph, layers)
    return graph


def _check_widths(layers):
    """Check that the input size of each layer is the output size of the one before."""
    size = None
    for layer in layers:
        if isinstance(layer, (Recurrent, Stacked)):
            taken, output = layer.input_size, layer.output_size
        elif isinstance(layer, Linear):
            taken, output = layer.in_features, layer.out_features
        else:
            taken, output = None, layer.embedding_dim
        if size is not None and taken != size:
            name = type(layer).__name__
            raise ValueError(
                f"the layer before has output size {size}, but this {name} takes "
                f"{'symbols' if taken is None else f'input size {taken}'}"
            )
        size = output

"""fastrnn.plotting: diagrams match their networks, laws of trajectories and gradient norms, the viewer's data."""

import base64
import functools
import html.parser
import itertools
import json
import math
import re
import xml.etree.ElementTree

import numpy as np
import processes
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from fastrnn import GRU, LSTM, RNN, Dropout, Embedding, Linear, Stacked
from fastrnn.losses import softmax_cross_entropy
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
from fastrnn.parameters import orthogonal
from fastrnn.plotting import (
    _layout,
    _viewer,
    activations,
    attention,
    gradient_norms,
    history,
    plot_gradient_norms,
    trajectories,
    unfolded,
)
from fastrnn.plotting._models import graph_of
from fastrnn.plotting._trajectories import project

TEXT = "to be or not to be, that is the question\n" * 4
OPTIONS = dict(epochs=0, verbose=False)


def language_model(cell="lstm", hidden_size=6, num_layers=2, text=TEXT):
    return LanguageModel(cell, hidden_size, num_layers, seed=0).fit(
        text, batch_size=2, seq_len=10, validation=0, **OPTIONS
    )


def classifier(**options):
    X = np.random.default_rng(0).standard_normal((6, 4, 3))
    return SequenceClassifier("gru", 5, seed=0, **options).fit(X, list("ababab"), **OPTIONS)


STORIES = [([["ann", "left"]], ["who", "left"])] * 2, ["ann", "bob"]


class OwnVectorToSequence:
    """A model that defines its own graph."""

    def _graph(self, graph):
        graph.whole = [True]
        top = graph.stack(GRU(0, 8, context_size=3))
        output = graph.linear(Linear(8, 5), top)
        graph.edge(output, top[0], "F", delay=1, side=-1)


class OwnEncoderDecoder:
    def _graph(self, graph):
        graph.whole = [True, True]
        top = graph.stack(LSTM(4, 8), [graph.node("x", "x", "input")])
        graph.row = 0.0
        states = graph.stack(LSTM(4, 8), [graph.node("z", "z", "input", span=1)], symbols="sr", span=1)
        attention = graph.node("a", "attend", "plain", shape="box", span=1, note=("attention",))
        graph.edge(states[0], attention)
        graph.edge(top[0], attention, bus=2.3, side=-1)
        graph.edge(top[0], states[0], source_at="last", target_at="first")
        graph.loss(graph.linear(Linear(8, 5), [attention], span=1), "the next word", span=1)


def encoder_decoder(*sizes, **options):
    model = EncoderDecoder(*sizes, source_embedding=4, target_embedding=4, seed=0, **options)
    return model.fit(["abc", "abd"], ["xyz", "xy"], **OPTIONS)


def vector_to_sequence(num_layers=1, **options):
    return VectorToSequence("gru", 8, num_layers, seed=0, **options).fit(np.eye(3), ["ab", "bc", "ca"], **OPTIONS)


MODELS = {
    "rnn": lambda: RNN(8, 16),
    "autonomous": lambda: RNN(0, 16),
    "deep": lambda: LSTM(8, 128, 3),
    "bidirectional": lambda: GRU(8, 16, bidirectional=True),
    "deep bidirectional": lambda: LSTM(8, 128, 3, bidirectional=True),
    "context": lambda: GRU(8, 16, context_size=7),
    "context bidirectional": lambda: GRU(8, 16, 2, bidirectional=True, context_size=7),
    "context autonomous": lambda: LSTM(0, 16, context_size=7),
    "layers": lambda: [Embedding(50, 8), Dropout(0.1), GRU(8, 16, bidirectional=True), Linear(32, 5)],
    "linear": lambda: Linear(4, 5),
    "language model": language_model,
    "last": classifier,
    "last bidirectional": lambda: classifier(bidirectional=True, num_layers=2),
    "mean": lambda: classifier(pooling="mean"),
    "max bidirectional": lambda: classifier(pooling="max", bidirectional=True),
    "tagger": lambda: SequenceTagger("lstm", 8, seed=0).fit([["a", "bc"]], [["A", "B"]], **OPTIONS),
    "stacked": lambda: Stacked([GRU(8, 16, bidirectional=True), LSTM(32, 4, 2)]),
    "events": lambda: EventModel("gru", [5, 4], seed=0).fit([np.ones((4, 3))], **OPTIONS),
    "memory network": lambda: MemoryNetwork(seed=0).fit(*STORIES, **OPTIONS),
    "memory network layerwise": lambda: MemoryNetwork(tying="layerwise", seed=0).fit(*STORIES, **OPTIONS),
    "forecaster": lambda: Forecaster(5, 3, seed=0).fit(np.arange(30.0), **OPTIONS),
    "regressor": lambda: SequenceRegressor("gru", 8, seed=0).fit([np.ones((4, 3))] * 2, [1.0, 2.0], **OPTIONS),
    "regressor of steps": lambda: SequenceRegressor("gru", 8, per_step=True, seed=0).fit(
        [np.eye(4)] * 2, [np.arange(4.0)] * 2, **OPTIONS
    ),
    "own vector to sequence": OwnVectorToSequence,
    "own encoder-decoder": OwnEncoderDecoder,
    "attention": lambda: encoder_decoder("gru", 8),
    "attention deep": lambda: encoder_decoder(
        "lstm", 8, 3, bidirectional=False, decoder_layers=2, attention="general", context="both"
    ),
    "attention of a shallow decoder": lambda: encoder_decoder("gru", 8, 3, decoder_layers=1, context="both"),
    "attention only": lambda: encoder_decoder(
        "rnn", 8, decoder_size=16, attention="dot", context=None, input_feeding=False
    ),
    "states as they are": lambda: encoder_decoder("lstm", 8, 2, bidirectional=False, attention=None),
    "states and every step": lambda: encoder_decoder("gru", 8, 2, bidirectional=False, attention="dot", context="both"),
    "every step": lambda: encoder_decoder("gru", 8, attention=None, context="every"),
    "bridge and every step": lambda: encoder_decoder(
        "gru", 8, decoder_size=6, bidirectional=False, attention=None, context="both"
    ),
    "vector at first": lambda: vector_to_sequence(context="initial"),
    "vector at every step": lambda: vector_to_sequence(context="every"),
    "vector": lambda: vector_to_sequence(3),
}


@functools.lru_cache
def model(name):
    return MODELS[name]()


def layout(name, steps=3):
    return _layout.Layout(graph_of(model(name)), steps)


def between(made, name):
    """Return which (name, step) of `name` are connected to which others by straight lines."""
    found = set()
    for (a, one), (b, other) in itertools.permutations(made.nodes.items(), 2):
        if a[0] == name and any(
            line.points == (one.border(other.x, other.y), other.border(one.x, one.y)) for line in made.lines
        ):
            found.add((a, b))
    return found


# --- unfolded: the layout, without matplotlib ---


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("name", MODELS)
def test_every_arrow_ends_at_a_shape_and_no_two_shapes_meet(name, steps):
    made = layout(name, steps)
    places = list(made.nodes.values())

    def touches(x, y):
        square = any(max(abs(x - sx), abs(y - sy)) <= _layout.SQUARE + 1e-9 for sx, sy in made.squares)
        return square or any(math.dist((x, y), place.border(x + 1e-12, y)) < 1e-6 for place in places)

    def on_a_line(x, y):
        return any(
            min(a[0], b[0]) - 1e-9 <= x <= max(a[0], b[0]) + 1e-9
            and min(a[1], b[1]) - 1e-9 <= y <= max(a[1], b[1]) + 1e-9
            for line in made.lines for a, b in itertools.pairwise(line.points)
        )  # fmt: skip

    for line in made.lines:
        end = line.points[-1]
        assert touches(*end) if line.head else touches(*end) or on_a_line(*end), line
        assert touches(*line.points[0]) or on_a_line(*line.points[0]), line
    for one, other in itertools.combinations(places, 2):
        dx, dy = abs(one.x - other.x), abs(one.y - other.y)
        assert dx > 0.8 or dy > 0.8 or "dot" in (one.node.shape, other.node.shape), (one, other)
    assert all(0.4 < place.x < made.right - 0.4 for place in places)
    assert all(0 < x < made.right and made.bottom < y < made.top for line in made.lines for x, y in line.points)


def test_the_circuit_has_one_black_square_for_each_layer_and_direction():
    for name, squares in {
        "deep": 3,
        "deep bidirectional": 6,
        "linear": 0,
        "tagger": 2,
        "own vector to sequence": 2,
        "attention deep": 6,
    }.items():
        assert len(layout(name).squares) == squares, name


def test_the_state_goes_from_step_to_step_and_in_the_reverse_direction_back():
    made = layout("bidirectional")
    steps = ["before", 0, 1, 2, "after"]
    recurrent = {(a, b) for a, b in between(made, "h") if b[0] == "h"}
    assert recurrent == {(("h", s), ("h", t)) for s, t in itertools.pairwise(steps)}
    reverse = {(a, b) for a, b in between(made, "g") if b[0] == "g"}
    assert reverse == {(("g", t), ("g", s)) for s, t in itertools.pairwise(steps)}
    assert {b for a, b in between(made, "x")} == {(d, t) for d in "hg" for t in ("compact", 0, 1, 2)}


def test_layers_are_drawn_one_above_another_with_their_sizes():
    made = layout("deep", 5)
    texts = [text.text for text in made.texts]
    assert ["layer 3: LSTM, 128 units" in texts, "$U_1$: 512 × 8,  $W_1$: 512 × 128" in texts] == [True, True]
    assert (
        made.nodes["h_3", 4].text == "$h_3^{(t+2)}$"
        and made.nodes["h_3", 4].y > made.nodes["h_2", 4].y > made.nodes["x", 4].y
    )
    assert {b for a, b in between(made, "h_2") if a[1] == 0} == {("h_3", 0), ("h_2", 1)}
    assert not [key for key in layout("autonomous").nodes if key[0] == "x"]


def test_a_language_model_has_an_output_and_a_loss_at_each_step():
    made = layout("language model")
    for t in (0, 1, 2):
        for a, b in [("x", "e"), ("e", "h_1"), ("h_1", "h_2"), ("h_2", "o"), ("o", "L"), ("y", "L")]:
            assert ((a, t), (b, t)) in between(made, a)
    assert "linear, 6 → 15" in [text.text for text in made.texts]


def test_a_classifier_has_one_output_at_the_end_of_the_whole_sequence():
    made = layout("last", 4)
    assert {b for a, b in between(made, "h") if b[0] == "o"} == {("o", None), ("o", "compact")}
    assert {a for a, b in between(made, "h") if b == ("o", None)} == {("h", 3)}
    assert [made.nodes["x", t].text for t in range(4)] == ["$x^{(1)}$", "$x^{(2)}$", "$x^{(3)}$", r"$x^{(\tau)}$"]
    assert ("h", "before") not in made.nodes
    assert made.nodes["o", None].x == made.nodes["h", 3].x


def test_the_final_state_of_the_reverse_direction_is_that_of_the_first_step():
    made = layout("last bidirectional", 4)
    bus = made.nodes["final states", None].y
    rising = [
        line.points[0] for line in made.lines if line.points[1][1] == bus and line.points[0][0] == line.points[1][0]
    ]
    assert rising == [made.nodes["g_2", t].border(made.nodes["g_2", t].x, bus) for t in ("compact", 0)]
    assert {a for a, b in between(made, "h_2") if b == ("final states", None)} == {("h_2", 3)}


def test_each_hop_of_a_memory_network_uses_the_state_of_the_previous_hop():
    made = layout("memory network")
    assert {b for a, b in between(made, "u") if a[1] == 0} == {("u", 1), ("a", 1)}
    assert {b for a, b in between(made, "q")} == {(name, t) for name in "au" for t in ("compact", 0)}
    assert {a for a, b in between(made, "u") if b == ("o", None)} == {("u", 2)}
    for t in range(3):
        assert (("m", t), ("a", t)) in between(made, "m") and (("a", t), ("u", t)) in between(made, "a")
    assert [
        "$H$" in [text.text for text in layout(name).texts] for name in ("memory network", "memory network layerwise")
    ] == [False, True]


def test_pooling_and_context_reach_every_step():
    made = layout("mean", 4)
    bus = made.nodes["pool", None].y - 0.85
    rising = {
        line.points[0][0]
        for line in made.lines
        if len(line.points) == 2 and line.points[1][1] == bus and line.points[0][1] < bus
    }
    assert rising == {made.nodes["h", t].x for t in ("compact", 0, 1, 2, 3)}
    made = layout("context bidirectional", 4)
    taps = [line.points[2] for line in made.lines if len(line.points) == 3 and not line.curved]
    for name in ("h_1", "g_1"):
        for t in ("compact", 0, 1, 2, 3):
            node = made.nodes[name, t]
            assert sum(math.dist(end, (node.x, node.y)) < _layout.RADIUS + 1e-9 for end in taps) == 1
    assert len(taps) == 10


def test_a_decoder_is_given_the_final_states():
    made = layout("attention", 4)
    assert {a for a, b in between(made, "h") if b == ("C", None)} == {("h", 3)}
    first, C = made.nodes["g", 0], made.nodes["C", None]
    height = first.y + 0.6
    assert [line.points[1] for line in made.lines if line.points[0] == first.border(first.x, height)] == [
        (first.x, height)
    ]
    assert [line.points for line in made.lines if line.points[0] == (C.x, height)] == [
        ((C.x, height), C.border(C.x, height))
    ]
    assert between(made, "C") == {(("C", None), ("bridge", None)), (("C", "compact"), ("bridge", "compact"))}
    assert {b for a, b in between(made, "bridge") if a[1] is None} == {("s", 0)}
    made = layout("states as they are", 4)
    assert {(a, b) for k in "12" for a, b in between(made, f"h_{k}") if b[0][0] == "s" and b[1] == 0} == {
        (("h_1", 3), ("s_1", 0)), (("h_2", 3), ("s_2", 0))
    }  # fmt: skip
    assert not [key for key in layout("attention only").nodes if key[0] in ("C", "bridge")]


@pytest.mark.parametrize(
    "name, initial, every",
    [("vector at first", 1, 0), ("vector at every step", 0, 4), ("vector", 1, 4), ("bridge and every step", 1, 4)],
)
def test_a_vector_enters_at_first_or_at_every_step_or_both(name, initial, every):
    made = layout(name, 4)
    assert (("bridge", None) in made.nodes) == bool(initial)
    state = {"vector": "h_1", "bridge and every step": "s"}.get(name, "h")
    bus = (
        -0.75
        if name in ("vector", "vector at first", "vector at every step")
        else min(line.points[0][1] for line in made.lines)
    )
    taps = {
        line.points[-1] for line in made.lines if len(line.points) == 3 and line.points[0][1] == bus and not line.curved
    }
    ends = [
        end
        for end in taps
        for t in range(4)
        if math.dist(end, (made.nodes[state, t].x, made.nodes[state, t].y)) < _layout.RADIUS + 1e-9
    ]
    assert len(ends) == every
    if name == "vector":
        entered = [
            line for line in made.lines if len(line.points) == 3 and line.points[-1][1] > made.nodes["h_1", 0].y + 0.4
        ]
        assert (
            len([line for line in entered if line.head and not line.curved]) == 4
        )  # two upper layers, in the circuit and unfolded


def test_attention_reads_every_output_and_feeds_the_next_step():
    made = layout("attention", 4)
    assert {b for a, b in between(made, "s") if a[1] == 1} == {("s", 2), ("weights", 1), ("a", 1)}
    assert {b for a, b in between(made, "c") if a[1] == 1} == {("a", 1)}
    bus = made.nodes["weights", 0].y - 0.75
    rising = {
        line.points[0][0]
        for line in made.lines
        if len(line.points) == 2 and line.points[1][1] == bus and line.points[0][1] < bus
    }
    assert rising == {made.nodes["outputs", t].x for t in ("compact", 0, 1, 2, 3)}
    entering = {line.points[1][0] for line in made.lines if line.head and line.points[0][1] == bus}
    assert entering == {made.nodes["weights", t].x for t in ("compact", 0, 1, 2, 3)}
    fed = [(line.points[0], line.points[-1]) for line in made.lines if len(line.points) == 4]
    starts = [made.nodes["a", t].border(made.nodes["a", t].x + 1, made.nodes["a", t].y) for t in range(3)]
    assert [start for start, _ in fed[1:]] == starts
    for t, (_, end) in enumerate(fed[1:]):
        assert math.isclose(math.dist(end, (made.nodes["s", t + 1].x, made.nodes["s", t + 1].y)), _layout.RADIUS)
    assert not [line for line in layout("attention only").lines if len(line.points) == 4]


@pytest.mark.parametrize(
    "model, steps, error, message",
    [
        (RNN(2, 3), 0, ValueError, "steps is 0, but it must be at least 1"),
        (LanguageModel(), 3, RuntimeError, "this LanguageModel has not been fitted: call fit"),
        (
            np.zeros(3),
            3,
            TypeError,
            "model is ndarray, but it must be a layer, a list of layers or a model of fastrnn",
        ),
        ([RNN(2, 3), "softmax"], 3, TypeError, "model is str, but"),
        ([Dropout(0.5)], 3, ValueError, "there is nothing to draw"),
        ([RNN(2, 3), GRU(4, 3)], 3, ValueError, "the layer before has output size 3, but this GRU takes input size 4"),
        (
            [RNN(2, 3), Embedding(9, 3)],
            3,
            ValueError,
            "the layer before has output size 3, but this Embedding takes symbols",
        ),
    ],
)
def test_what_cannot_be_drawn_is_named(model, steps, error, message):
    with pytest.raises(error, match=message):
        unfolded(model, steps)


def test_a_picture_that_cannot_be_written_is_named_before_it_is_made(tmp_path):
    for draw in (
        lambda path: unfolded("nothing", path=path),
        lambda path: trajectories("nothing", path),
        lambda path: history(3, path),
    ):
        with pytest.raises(ValueError, match=r"path is 'a.jpg', but a picture's name must end with .svg, .png, .pdf"):
            draw("a.jpg")
        with pytest.raises(
            FileNotFoundError, match="the folder .* of the picture 'a.svg' does not exist: create it first"
        ):
            draw(tmp_path / "no" / "a.svg")


# --- unfolded: the drawing ---


@pytest.mark.matplotlib
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_no_text_is_covered_by_another_or_leaves_the_picture(name, steps):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.patches import Circle

    figure = unfolded(model(name), steps)
    renderer = FigureCanvasAgg(figure).get_renderer()
    [axes] = figure.axes
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in axes.texts if text.get_text()]
    low, high = (np.array([getattr(box, corner) for _, box in boxes]) for corner in ("min", "max"))
    overlap = (np.minimum(high[:, None], high) > np.maximum(low[:, None], low)).all(axis=-1)
    covered = [(boxes[i][0], boxes[j][0]) for i, j in np.argwhere(np.triu(overlap, 1))]
    assert not covered
    for circle in (patch for patch in axes.patches if isinstance(patch, Circle)):
        disc = circle.get_window_extent(renderer)
        inside = ((disc.min <= low) & (high <= disc.max)).all(axis=-1)
        apart = (np.minimum(high, disc.max) <= np.maximum(low, disc.min)).any(axis=-1)
        assert (inside | apart).all(), [text for (text, _), fits in zip(boxes, inside | apart, strict=True) if not fits]
    for text, box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text


@pytest.mark.matplotlib
def test_pictures_are_written_and_need_no_display(tmp_path):
    code = """
import sys, fastrnn
from fastrnn import plotting
for name in ("a.svg", "a.png", "a.pdf"):
    plotting.unfolded(fastrnn.LSTM(3, 4, 2), path=f"{sys.argv[1]}/{name}")
assert "matplotlib.pyplot" not in sys.modules
"""
    processes.output(code, tmp_path)
    assert (tmp_path / "a.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert (tmp_path / "a.png").read_bytes()[1:4] == b"PNG" and (tmp_path / "a.pdf").read_bytes()[:4] == b"%PDF"


def test_without_matplotlib_only_figures_are_missed():
    code = """
import sys
sys.modules["matplotlib"] = None
import fastrnn
from fastrnn import plotting
assert plotting.gradient_norms(fastrnn.GRU(2, 3), T=4).shape == (4,)
model = fastrnn.models.LanguageModel("gru", 4, seed=0)
model.fit("abc" * 30, epochs=0, batch_size=2, seq_len=5, validation=0, verbose=False)
assert plotting.activations(model, "abc").startswith("<!DOCTYPE html>")
for draw in (lambda: plotting.unfolded(fastrnn.GRU(2, 3)), lambda: plotting.trajectories([[1.0, 2.0]]),
             lambda: plotting.plot_gradient_norms({"a": [1.0]}),
             lambda: plotting.history([{"epoch": 1, "train_loss": 2.0}]),
             lambda: plotting.attention([[1.0]], "a", "b")):
    try:
        draw()
    except ImportError as error:
        assert str(error) == "fastrnn.plotting needs matplotlib: pip install 'fastrnn[plot]'"
    else:
        raise AssertionError("no ImportError")
"""
    processes.output(code)


# --- trajectories ---


def test_states_in_a_plane_keep_their_distances():
    rng = np.random.default_rng(0)
    flat = rng.standard_normal((20, 3, 2)) * [3, 1]
    states = flat @ orthogonal(rng, (2, 9)) + 5
    points, shares = project(states)
    assert_allclose(
        np.linalg.norm(points[:, None] - points, axis=-1), np.linalg.norm(flat[:, None] - flat, axis=-1), atol=1e-10
    )
    spread = points.reshape(-1, 2).var(0)
    assert_allclose(shares, spread / spread.sum())
    assert_allclose(shares.sum(), 1)
    assert shares[0] > shares[1]


def test_steps_past_a_length_change_nothing():
    states = np.random.default_rng(0).standard_normal((7, 2, 5))
    points, shares = project(states, lengths=[7, 3])
    states[3:, 1] = np.nan
    again, same = project(states, lengths=[7, 3])
    assert_array_equal(again[:3], points[:3])
    assert_array_equal(same, shares)
    assert project(states[:3])[1][0] != shares[0]


def test_one_or_two_units_and_one_state_are_as_they_are():
    states = np.random.default_rng(0).standard_normal((7, 3, 2))
    assert_array_equal(project(states)[0], states)
    assert_array_equal(project(states[..., :1])[0], states[..., :1])
    assert_array_equal(project(states[:, 0])[0][:, 0], states[:, 0])
    points, shares = project(np.ones((1, 4)))
    assert_array_equal(points, np.zeros((1, 1, 2)))
    assert_array_equal(shares, [0, 0])


@pytest.mark.matplotlib
def test_each_trajectory_is_a_line_from_a_circle_to_a_square(tmp_path):
    states = np.random.default_rng(0).standard_normal((7, 3, 2))
    axes = trajectories(states, tmp_path / "a.png", labels=["one", "two", "none"], lengths=[7, 3, 0]).axes[0]
    lines = [np.array(line.get_segments()) for line in axes.collections]
    assert_array_equal(lines[0][:, 0], states[:-1, 0])
    assert_array_equal(lines[1][:, 1], states[1:3, 1])
    assert [(line.get_marker(), line.get_xydata()[0].tolist()) for line in axes.lines] == [
        ("o", states[0, 0].tolist()), ("s", states[6, 0].tolist()),
        ("o", states[0, 1].tolist()), ("s", states[2, 1].tolist())
    ]  # fmt: skip
    assert [text.get_text() for text in axes.texts] == ["one", "two"]
    axes = trajectories(states[:, :1, :1]).axes[0]
    assert axes.get_xlabel() == "step t" and axes.get_ylabel() == "unit 0"
    assert_array_equal(axes.collections[0].get_segments()[2], [[2, states[2, 0, 0]], [3, states[3, 0, 0]]])


@pytest.mark.parametrize(
    "states, options, error, message",
    [
        (np.zeros(3), {}, ValueError, r"states must be a non-empty array \(T, H\) or \(T, B, H\), got shape \(3,\)"),
        (np.zeros((0, 3)), {}, ValueError, r"got shape \(0, 3\)"),
        (np.full((4, 2), "a"), {}, TypeError, "states are <U1, but they must be real numbers"),
        ([[1.0], [np.inf]], {}, ValueError, "states have inf at step 1 of sequence 0, unit 0: they must be finite"),
        (np.zeros((4, 2, 3)), {"labels": ["a"]}, ValueError, "there are 1 labels, but 2 sequences"),
        (np.zeros((4, 2, 3)), {"lengths": [1, 5]}, ValueError, "lengths must be from 0 to T=4, got 5"),
        (np.zeros((4, 1, 3)), {"lengths": [0]}, ValueError, "there is no step to draw: all 1 lengths are 0"),
    ],
)
def test_states_that_cannot_be_drawn_are_named(states, options, error, message):
    with pytest.raises(error, match=message):
        trajectories(states, **options)


# --- gradient norms ---


@pytest.mark.parametrize("a", [0.9, 1.1])
def test_a_linear_network_scales_the_gradient_by_its_weights_at_each_step(a):
    rnn = RNN(3, 8, dtype="float64", seed=0)
    W = a * orthogonal(np.random.default_rng(0), (8, 8))
    rnn.load_state_dict({name: np.zeros_like(p) for name, p in rnn.params.items()} | {"weight_hh_l0": W})
    assert_allclose(gradient_norms(rnn, T=40), a ** np.arange(40), rtol=1e-10)
    V = orthogonal(np.random.default_rng(1), (8, 3)) * 1e-9
    rnn.load_state_dict({"weight_ih_l0": V}, strict=False)
    assert_allclose(gradient_norms(rnn, T=40), a ** np.arange(40), rtol=1e-6)


@pytest.mark.parametrize("make", [RNN, GRU, LSTM])
def test_norms_are_those_of_the_gradients_of_the_whole_sequence(make):
    rnn = make(3, 5, 2, context_size=2, dropout=0.5, batch_first=True, seed=0)
    net = make(3, 5, 2, context_size=2, dtype="float64", seed=0)
    net.load_state_dict(rnn.state_dict())
    T, B, rng = 6, 4, np.random.default_rng(7)
    x, context, direction = rng.standard_normal((T, B, 3)), rng.standard_normal((B, 2)), rng.standard_normal((B, 5))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    dy = np.zeros((T, B, 5))
    dy[-1] = direction
    (_, _), backward = net.vjp(x, context=context)
    want = np.linalg.norm(backward(dy).x, axis=2).mean(1)[::-1]
    assert_allclose(gradient_norms(rnn, T, wrt="x", batch_size=B, seed=7), want, rtol=1e-10)
    found = gradient_norms(rnn, T, batch_size=B, seed=7)
    for k in range(1, T):
        _, state = net(x[: T - k], context=context)
        (_, _), backward = net.vjp(x[T - k :], state, context=context)
        d = backward(dy[T - k :]).state
        parts = d if make is LSTM else (d,)
        assert_allclose(found[k], np.sqrt(sum((p**2).sum((0, 2)) for p in parts)).mean(), rtol=1e-10)
    assert_allclose(found[0], 1)
    assert not np.allclose(gradient_norms(net, T, x=2 * x, seed=7)[1:], found[1:])


def test_an_autonomous_network_has_gradient_norms_too():
    norms = gradient_norms(LSTM(0, 4, seed=0), T=5)
    assert norms.shape == (5,) and (norms > 0).all()


@pytest.mark.parametrize(
    "net, options, error, message",
    [
        (Linear(2, 3), {}, TypeError, "rnn is Linear, but it must be an RNN, GRU or LSTM"),
        (
            GRU(2, 3, bidirectional=True),
            {},
            ValueError,
            "this GRU is bidirectional, and at the last step its reverse direction has seen",
        ),
        (
            GRU(0, 3),
            {"wrt": "x"},
            ValueError,
            "this GRU has input_size=0, so there is no gradient of x: give wrt='state'",
        ),
        (GRU(2, 3), {"wrt": "h"}, ValueError, "wrt is 'h', but it must be one of 'state', 'x'"),
        (GRU(2, 3), {"T": 0}, ValueError, "T is 0, but it must be at least 1"),
        (
            GRU(2, 3),
            {"x": np.zeros((4, 1, 2)), "T": 5},
            ValueError,
            r"x has shape \(4, 1, 2\), but it must be \(T, B, input_size\) with T=5",
        ),
    ],
)
def test_what_has_no_gradient_norms_is_named(net, options, error, message):
    with pytest.raises(error, match=message):
        gradient_norms(net, **options)


@pytest.mark.matplotlib
def test_gradient_norms_are_drawn_on_a_logarithmic_axis(tmp_path):
    axes = plot_gradient_norms({"RNN": [1, 0.1, 0.0], "LSTM": [1, 0.9, 0.8]}, tmp_path / "a.svg").axes[0]
    assert axes.get_yscale() == "log" and [text.get_text() for text in axes.get_legend().get_texts()] == ["RNN", "LSTM"]
    assert_array_equal(axes.lines[0].get_ydata(), [1, 0.1, np.nan])
    with pytest.raises(TypeError, match="norms are list, but they must be a dict"):
        plot_gradient_norms([1, 2])
    with pytest.raises(ValueError, match=r"the norms of 'a' have shape \(1, 2\)"):
        plot_gradient_norms({"a": [[1, 2]]})


# --- history ---


@pytest.mark.matplotlib
def test_losses_are_to_the_left_and_other_figures_to_the_right(tmp_path):
    X = np.random.default_rng(0).standard_normal((20, 4, 2))
    model = SequenceClassifier("rnn", 4, seed=0).fit(X, list("ab" * 10), epochs=3, validation=0.3, verbose=False)
    assert model.history[0]["train_loss"] is None
    left, right = history(model, tmp_path / "a.svg").axes
    assert [line.get_label() for line in left.lines] == ["training loss", "validation loss"]
    assert [line.get_label() for line in right.lines] == [
        "validation accuracy"
    ] and right.get_ylabel() == "validation accuracy"
    assert_array_equal(
        left.lines[0].get_xydata(), [(entry["epoch"], entry["train_loss"]) for entry in model.history[1:]]
    )
    assert_array_equal(right.lines[0].get_ydata(), [entry["validation_accuracy"] for entry in model.history])
    [only] = history([{"epoch": 1, "update": 9, "lr": 0.1, "train_loss": 2.0, "validation_loss": None}]).axes
    assert [line.get_label() for line in only.lines] == ["training loss"]
    axes = history({"a": model, "b": model.history}).axes[0]
    assert [line.get_label() for line in axes.lines] == [
        "a: training loss",
        "a: validation loss",
        "b: training loss",
        "b: validation loss",
    ]


def test_what_has_no_history_is_named():
    with pytest.raises(ValueError, match=r"the history of the model is empty: call fit\(…\) first"):
        history(LanguageModel())
    with pytest.raises(
        TypeError, match="x is int, but it must be a model with a history, or a list of dicts with the key 'epoch'"
    ):
        history({"x": 3})


# --- activations ---


class Page(html.parser.HTMLParser):
    """Collects the title, the scripts, and every attribute that refers to a file."""

    def __init__(self, text):
        super().__init__()
        self.scripts, self.titles, self.outside, self.tags = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.outside += [value for name, value in attributes if name in ("src", "href", "action", "data")]

    def handle_data(self, text):
        if self.tags and self.tags[-1] == "script" and text.strip():
            self.scripts.append(text)
        if self.tags and self.tags[-1] == "title" and not self.titles:
            self.titles.append(text)


def data_of(page):
    data = json.loads(Page(page).scripts[0])
    for group in data["groups"]:
        group["values"] = (
            np.array([np.frombuffer(base64.b64decode(unit), np.int8) for unit in group["values"]])
            / 127
            * group["scale"]
        )
    return data


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_the_page_holds_the_activation_of_every_unit_after_each_character(cell):
    model = language_model(cell)
    text = TEXT[:50]
    data = data_of(activations(model, text))
    assert "".join(map(chr, data["points"])) == text
    ids, net = model.vocabulary.encode(text), model.rnn
    groups = {group["name"]: group["values"] for group in data["groups"]}
    names = [f"layer {layer}, {kind}" for layer in (1, 2) for kind in (["h", "tanh(c)"] if cell == "lstm" else ["h"])]
    assert list(groups) == [*names, "probability", "surprise (bits)"]
    for t in (0, 1, 49):
        y, state = net(ids[: t + 1, None], embedding=model.embedding)
        h, c = state if cell == "lstm" else (state, None)
        for layer in range(2):
            assert_allclose(groups[f"layer {layer + 1}, h"][:, t], h[layer, 0], atol=0.5 / 127 + 1e-6)
            if c is not None:
                assert_allclose(
                    groups[f"layer {layer + 1}, tanh(c)"][:, t], np.tanh(c[layer, 0]), atol=0.5 / 127 + 1e-6
                )
    y, _ = net(ids[:, None], embedding=model.embedding)
    nll = softmax_cross_entropy(model.linear(y[:-1]), ids[1:, None], reduction="none")[:, 0]
    scale = data["groups"][-1]["scale"]
    assert_allclose(groups["probability"][0], [0, *np.exp(-nll)], atol=0.5 / 127 + 1e-6)
    assert_allclose(groups["surprise (bits)"][0], [0, *nll / np.log(2)], atol=0.5 / 127 * scale + 1e-3)


def test_a_hostile_text_stays_text_and_the_page_asks_for_nothing():
    hostile = "</script><script>alert(1)</script><!-- &amp; \"'\\ \r\n\t\0\u2028\U0001f600\ud83d\ude00\udfff\u202e é"
    model = language_model("gru", 4, 1, text=hostile * 2)
    page = activations(model, hostile, title="</title><script>alert(2)</script> {data} & é")
    read = Page(page)
    assert "".join(map(chr, data_of(page)["points"])) == hostile
    assert read.tags.count("script") == 2 == page.count("<script") and read.outside == [] and "alert(1)" not in page
    assert read.titles == ["</title><script>alert(2)</script> {data} & é"]
    assert page.isascii() and "http" not in page and "import" not in page


@functools.cache
def hostile_model():
    return language_model("gru", 4, 1, text="to be or not " * 20)


@pytest.mark.parametrize(
    "hostile",
    ["<script>", "<td", "</style>", "\"'&", "$x_$", "a\0b", "\x1b", "\u2028", "\ud800", "\n", "_x", r"\$", "$"],
)
def test_labels_of_pictures_are_shown_as_they_are(hostile, tmp_path):
    """Labels are neither formulas nor markup, the file is valid XML, and unprintable characters become dots."""
    path, shown = tmp_path / "x.svg", re.sub("[\0\x1b\u2028\ud800\n]", "·", hostile)
    run = [{"epoch": k, "train_loss": 1.0 + k} for k in range(2)]
    for draw, what in (
        (lambda: attention(np.eye(2), [hostile, "b"], ["c", hostile], path), shown),
        (lambda: history({hostile: run, "b": run}, path), f"{shown} training loss"),
        (lambda: activations(hostile_model(), "to be", path.with_suffix(".html"), title=hostile), None),
    ):
        draw()
        if what is not None:
            xml.etree.ElementTree.fromstring(path.read_bytes())
    page = path.with_suffix(".html").read_text()
    assert Page(page).titles == [shown] and page.count("<script") == 2 and page.count("</style>") == 1


def test_a_model_whose_numbers_are_not_finite_has_no_page():
    model = language_model("lstm", 4, 1, text="to be or not " * 20)
    with model.storage.updating() as flat:
        flat[model.linear.slots["bias"].slice] = np.nan
    with pytest.raises(RuntimeError, match="the model's probability of character 1 is not a number"):
        activations(model, "to be")
    with model.storage.updating() as flat:
        flat[:] = np.nan
    with pytest.raises(RuntimeError, match="the states of the model are not finite after character 0"):
        activations(model, "to be")


def test_the_page_is_written_as_it_is_returned(tmp_path):
    model = language_model("gru", 4, 1)
    page = activations(model, "t", tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == page
    with pytest.raises(FileNotFoundError, match="the folder .* of the page 'a.html' does not exist: create it first"):
        activations(model, "t", tmp_path / "no" / "a.html")


def test_what_cannot_be_viewed_is_named():
    model = language_model("lstm", 500, 2)
    message = (
        "80,000 characters of 2,002 units would make a page of 214 MB, but at most 50 MB are .*: give at most 18,67"
    )
    with pytest.raises(ValueError, match=message):
        activations(model, "to be or" * 10000)
    with pytest.raises(ValueError, match="the text has 1 symbol that this model has not been trained on: 'Z'"):
        activations(model, "to Z")
    with pytest.raises(RuntimeError, match="this LanguageModel has not been fitted"):
        activations(LanguageModel(), "a")
    with pytest.raises(TypeError, match="model is SequenceClassifier, but it must be a LanguageModel"):
        activations(SequenceClassifier(), "a")


def test_the_estimate_of_a_pages_size_is_right(monkeypatch):
    model, text = language_model("lstm", 32, 1), TEXT * 10
    monkeypatch.setattr(_viewer, "MAX_MEGABYTES", 0.1)
    with pytest.raises(
        ValueError, match=r"1,640 characters of 66 units .*, but at most 0.1 MB are allowed: give at most 1,0\d\d "
    ):
        activations(model, text)
    assert 0.9e5 < len(activations(model, text[:1000])) < 1.15e5


# --- attention ---


@pytest.mark.matplotlib
def test_a_map_of_attention_names_every_symbol_and_shows_the_weights(tmp_path):
    weights = np.random.default_rng(0).dirichlet(np.ones(4), 3)
    axes = attention(weights, ["das", "haus", "ist", "rot"], ["it", "burns"], tmp_path / "a.svg").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["das", "haus", "ist", "rot"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["it", "burns", "</s>"]
    assert_array_equal(axes.images[0].get_array(), weights)
    assert [label.get_text() for label in attention(weights, "abcd", "xyz").axes[0].get_yticklabels()] == list("xyz")


@pytest.mark.parametrize(
    "weights, source, target, error, message",
    [
        (
            np.ones((2, 3)),
            "ab",
            "xy",
            ValueError,
            r"weights have shape \(2, 3\), but there are 2 symbols of the target and 2 of the source",
        ),
        (
            np.ones((4, 2)),
            "ab",
            "xy",
            ValueError,
            r"weights have shape \(4, 2\), but there are 2 symbols of the target",
        ),
        (np.full((1, 1), 2.0), "a", "x", ValueError, "weights must be from 0 to 1, got 2.0"),
        (np.full((1, 1), np.nan), "a", "x", ValueError, "weights must be from 0 to 1, got nan"),
        ([["a"]], "a", "x", TypeError, "weights are <U1, but they must be real numbers"),
        (np.ones((1, 0)), "", "", ValueError, r"weights have shape \(1, 0\)"),
    ],
)
def test_what_is_no_map_of_attention_is_named(weights, source, target, error, message):
    with pytest.raises(error, match=message):
        attention(weights, source, target)


def test_plotting_is_there_when_first_asked_for():
    processes.output(
        "import sys, fastrnn\nassert 'fastrnn.plotting' not in sys.modules\nassert fastrnn.plotting.activations"
    )

"""MemoryNetwork: gradients, the paper's equations in NumPy, ties, encodings, old sentences, laws, invalid data."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from whole_model import assert_gradient

import fastrnn
from fastrnn._check import stories as check_stories
from fastrnn.models import MemoryNetwork
from fastrnn.models.stories import Questions

SMALL = dict(size=5, hops=2)
ROOMS, NAMES = ["attic", "cellar", "hall", "garden"], ["ann", "bob", "cid"]


def data(N=60, seed=0, longest=6):
    """Return stories about where somebody is: the last sentence about a person counts."""
    rng = np.random.default_rng(seed)
    X, y = [], []
    for _ in range(N):
        n = rng.integers(1, longest + 1)
        who, where = rng.choice(NAMES, n).tolist(), rng.choice(ROOMS, n).tolist()
        asked = who[rng.integers(n)]
        X.append(([[name, "went", "to", "the", room] for name, room in zip(who, where)], ["where", "is", asked]))
        y.append(where[max(k for k in range(n) if who[k] == asked)])
    return X, y


def made(X, y, **options):
    """Return a model with parameters so large that the softmax and positions matter."""
    model = MemoryNetwork(**{**SMALL, "seed": 1, "dtype": "float64", **options}).fit(X, y, epochs=0, verbose=False)
    with model.storage.updating() as flat:
        flat *= 5
    return model


def batch_of(model, X, y=None, softmax=True):
    [batch] = Questions(model, *check_stories.stories(X, y), len(X), None)
    return batch._replace(softmax=softmax)


OPTIONS = [{}, {"position_encoding": False}, {"temporal_encoding": False}, {"noise": 0}, {"hops": 1}, {"memory": 3}]
both_ties = pytest.mark.parametrize("tying", ["adjacent", "layerwise"])


@pytest.mark.parametrize("softmax", [True, False], ids=["softmax", "linear"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@both_ties
def test_gradients_through_the_whole_model(tying, options, softmax):
    X, y = data(7)
    model = made(X, y, tying=tying, **options)
    assert_gradient(model, batch_of(model, X, y, softmax))


def reference(model, X, softmax=True):
    """Return log-probabilities (N, answers) by equations 1-4 and section 4.1 of Sukhbaatar et al. 2015, in float64."""
    p = {name: array.astype("float64") for name, array in model.tables.params.items()}
    K, d, adjacent = model.hops, model.size, model.tying == "adjacent"
    words = [*model.answers_, *model._words]
    tables = [(k, k + 1) if adjacent else (0, 1) for k in range(K)]

    def read(sentence, table):
        J, total = len(sentence), np.zeros(d)
        for j, word in enumerate(sentence, 1):
            k = np.arange(1, d + 1)
            weight = 2 * ((1 - j / J) - (k / d) * (1 - 2 * j / J)) if model.position_encoding else 1
            total += weight * p[table][words.index(word)] if word in words else 0
        return total

    found = []
    for story, question in X:
        story = story[-model.memory :]
        ages = [model.memory, *range(len(story) - 1, -1, -1)]
        u = read(question, "words_0" if adjacent else "words_2")
        for A, C in tables:
            keys, values = (np.array([read(s, f"words_{table}") for s in [[], *story]]) for table in (A, C))
            if model.temporal_encoding:
                keys, values = keys + p[f"ages_{A}"][ages], values + p[f"ages_{C}"][ages]
            weights = keys @ u
            if softmax:
                weights = np.exp(weights - weights.max()) / np.exp(weights - weights.max()).sum()
            u = weights @ values + (u if adjacent else p["between"] @ u)
        logits = (p[f"words_{K}"][: len(model.answers_)] if adjacent else p["answers"]) @ u
        found.append(logits - logits.max() - np.log(np.exp(logits - logits.max()).sum()))
    return np.array(found)


@pytest.mark.parametrize("dtype, rtol", [("float64", 1e-10), ("float32", 1e-4)])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@both_ties
def test_probabilities_and_losses_are_those_of_the_equations(tying, options, dtype, rtol):
    X, y = data(20)
    model = made(X, y, tying=tying, dtype=dtype, **(options | {"noise": 0}))
    want, right = reference(model, X), [model.answers_.index(answer) for answer in y]
    assert_allclose(model.predict_proba(X), np.exp(want), rtol=rtol, atol=1e-7)
    gradient = np.zeros_like(model.storage.flat)
    loss, _ = model.loss_and_gradient(batch_of(model, X, y), into=gradient, rng=0)
    assert_allclose(loss, -want[np.arange(20), right].mean(), rtol=rtol)
    linear, _ = model.loss_and_gradient(batch_of(model, X, y, softmax=False), into=gradient, rng=0)
    assert_allclose(linear, -reference(model, X, softmax=False)[np.arange(20), right].mean(), rtol=rtol)
    assert abs(linear - loss) > 1e-3


def test_tied_parameters_are_there_once():
    X, y = data()
    V, d, A, memory = 12, 5, 4, 50  # 3 people, 4 rooms, "went to the where is"
    assert made(X, y, hops=3).num_parameters == 4 * (V + memory + 1) * d
    assert made(X, y, hops=3, temporal_encoding=False).num_parameters == 4 * V * d
    layerwise = [made(X, y, hops=hops, tying="layerwise").num_parameters for hops in (1, 5)]
    assert layerwise == 2 * [3 * V * d + 2 * (memory + 1) * d + A * d + d * d]


def test_without_its_encoding_the_order_of_words_or_sentences_does_not_count():
    X, y = data(30)
    turned_words = [([sentence[::-1] for sentence in story], question[::-1]) for story, question in X]
    turned_stories = [(story[::-1], question) for story, question in X]

    def changes(turned, **options):
        model = made(X, y, **options)
        return np.abs(model.predict_proba(turned) - model.predict_proba(X)).max()

    assert changes(turned_words, position_encoding=False) < 1e-12 < 1e-3 < changes(turned_words)
    assert changes(turned_stories, temporal_encoding=False) < 1e-12 < 1e-3 < changes(turned_stories)


def test_of_a_long_story_the_last_sentences_are_remembered():
    X, y = data(40, longest=9)
    model = made(X, y, memory=3)
    assert_array_equal(model.predict_proba(X), model.predict_proba([(story[-3:], question) for story, question in X]))
    for (story, _), weights in zip(X, model.attention(X)):
        assert weights.shape == (2, len(story))
        assert not weights[:, :-3].any() and (weights[:, -3:] > 0).all() and (weights.sum(1) < 1).all()


def test_a_word_never_seen_is_a_vector_of_zeros_in_its_place():
    X, y = data()
    model = made(X, y)
    story = [["ann", "went", "to", "the", "hall"], ["zoe", "ran"]]
    strange, other = ([(story, [*words, "ann"])] for words in (["whither", "is"], ["hm", "is"]))
    assert_array_equal(model.predict_proba(strange), model.predict_proba(other))
    assert_allclose(model.predict_proba(strange), np.exp(reference(model, strange)), rtol=1e-10)
    assert np.abs(model.predict_proba([(story, ["is", "ann"])]) - model.predict_proba(strange)).max() > 1e-3
    with pytest.warns(UserWarning, match="y has answers that this model was not trained on: 'nowhere'; 1 of 2 answers"):
        assert model.score(X[:2], ["nowhere", model.predict(X[1:2])[0]]) == 0.5


def test_empty_memories_shift_the_ages_of_what_is_older():
    X, y = data(200, longest=40)
    model = made(X, y, noise=0.1, memory=30)
    batch = batch_of(model, X, y)
    seen = set()
    for rng in range(5):
        ages = model._shifted(batch, rng)
        assert_array_equal(ages, model._shifted(batch, rng))
        for first, count in zip(batch.first, batch.count):
            mine = ages[first + 1 : first + count]
            shift = mine - batch.ages[first + 1 : first + count]
            assert ages[first] == 30 and mine.max() <= 29 and (np.diff(shift[mine < 29]) <= 0).all()
            assert 0 <= shift.min() and shift.max() <= np.ceil(0.1 * (count - 1))
            seen.update(shift.tolist())
    assert seen == {0, 1, 2, 3}


def test_the_start_is_linear_and_validation_is_not():
    X, y = data()
    model = made(X, y, linear_start=2)
    training, validation = (Questions(model, *check_stories.stories(X, y), 8, seed) for seed in (1, None))
    found = []
    for epoch in range(4):
        for batches in (training, validation):
            batches.begin(epoch)
        found.append((training[0].softmax, validation[0].softmax))
    assert found == [(False, True), (False, True), (True, True), (True, True)]
    start = [
        MemoryNetwork(linear_start=k, seed=1, **SMALL).fit(X, y, epochs=3, verbose=False).storage.flat for k in (0, 2)
    ]
    assert np.abs(start[0] - start[1]).max() > 1e-3


def test_noise_is_for_training_only():
    X, y = data()
    gradient, losses = np.zeros_like(made(X, y).storage.flat), []
    for noise in (0, 0.5):
        model = made(X, y, noise=noise)
        losses.append([model.loss_and_gradient(batch_of(model, X, y), into=gradient, rng=rng)[0] for rng in range(3)])
        losses[-1].append(model.evaluate(Questions(model, *check_stories.stories(X, y), 60, None))["loss"])
    quiet, noisy = np.round(losses, 10).tolist()
    assert len(set(quiet)) == 1 and len(set(noisy)) == 4 and noisy[-1] == quiet[0]


def test_it_learns_that_the_last_sentence_counts_and_attends_to_it():
    X, y = data(500)
    model = MemoryNetwork(hops=2, seed=0).fit(X[:400], y[:400], epochs=20, validation=(X[400:], y[400:]), verbose=False)
    assert model.score(X[400:], y[400:]) > 0.95
    best = min(model.history, key=lambda entry: entry["validation_loss"])
    assert_allclose(best["validation_accuracy"], model.score(X[400:], y[400:]))
    story = [
        ["ann", "went", "to", "the", "hall"],
        ["bob", "went", "to", "the", "attic"],
        ["ann", "went", "to", "the", "garden"],
    ]
    asked = [(story, ["where", "is", "ann"])]
    assert model.predict(asked) == ["garden"]
    assert model.attention(asked)[0].max(0).argmax() == 2


def test_an_answer_depends_on_its_own_story_only():
    X, y = data()
    model = MemoryNetwork(seed=0).fit(X, y, epochs=2, verbose=False)
    together = model.predict_proba(X)
    for b in (0, 31, 59):
        assert_array_equal(model.predict_proba(X[b : b + 1])[0], together[b])


@both_ties
def test_the_same_seed_gives_the_same_bits_on_any_number_of_threads(tying):
    X, y = data()
    flats = []
    for threads in (1, 2):
        with fastrnn.threads(threads):
            flats.append(
                MemoryNetwork(tying=tying, seed=3, **SMALL)
                .fit(X, y, epochs=3, batch_size=8, verbose=False)
                .storage.flat
            )
    assert_array_equal(*flats)


@both_ties
@pytest.mark.filterwarnings("ignore:no evaluation found a better")
def test_save_and_load_and_resume(tying, tmp_path):
    X, y = data()
    options = dict(batch_size=8, validation=0.2, verbose=False)
    make = dict(tying=tying, linear_start=1, seed=5, **SMALL)
    whole = MemoryNetwork(**make).fit(X, y, epochs=5, checkpoint=tmp_path / "whole", **options)
    MemoryNetwork(**make).fit(X, y, epochs=2, checkpoint=tmp_path / "part", **options)
    resumed = MemoryNetwork(**make).fit(X, y, epochs=5, checkpoint=tmp_path / "part", resume=True, **options)
    assert_array_equal(resumed.storage.flat, whole.storage.flat)
    again = MemoryNetwork.load(tmp_path / "whole")
    assert_array_equal(again.predict_proba(X), whole.predict_proba(X))
    assert again.answers_ == whole.answers_ and again.history == whole.history and again.linear_start == 1


def test_a_rare_answer_may_be_held_out():
    X, y = data(20)
    y = [f"answer {k}" if k % 2 else "answer" for k in range(20)]
    with pytest.warns(UserWarning, match="the held-out part has answers that are not in the training part: 'answer "):
        model = MemoryNetwork(seed=0, **SMALL).fit(X, y, epochs=5, validation=0.3, verbose=False)
    assert set(model.answers_) < set(y) and np.isfinite(model.history[-1]["validation_loss"])


GOOD = [([["a", "b"]], ["c"])]


@pytest.mark.parametrize(
    "X, y, options, error, message",
    [
        ([], [], {}, ValueError, "there are no questions"),
        (["a b"], ["x"], {}, TypeError, "question 0 is the str 'a b', but it must be a pair"),
        ([[["a"]]], ["x"], {}, TypeError, "question 0 is a list, but it must be a pair"),
        (
            [("a b", ["c"])],
            ["x"],
            {},
            TypeError,
            "the story of question 0 is the str 'a b', but it must be a list of sentences",
        ),
        ([*GOOD, ([], ["c"])], ["x", "y"], {}, ValueError, "the story of question 1 has no sentences"),
        (
            [(["a b"], ["c"])],
            ["x"],
            {},
            TypeError,
            "sentence 0 of the story of question 0 is the str 'a b', but it must be a list of words",
        ),
        ([([["a"], []], ["c"])], ["x"], {}, ValueError, "sentence 1 of the story of question 0 has no words"),
        ([([["a", 5]], ["c"])], ["x"], {}, ValueError, "word 1 of sentence 0 of the story of question 0 is 5"),
        ([([["a"]], "c d")], ["x"], {}, TypeError, "question 0 is the str 'c d'"),
        (
            [([["a"]], [""])],
            ["x"],
            {},
            ValueError,
            "word 0 of question 0 is '', but it must be a str of at least one character",
        ),
        ([([["a"], 7], ["c"])], ["x"], {}, TypeError, "sentence 1 of the story of question 0 is a int"),
        (GOOD, [], {}, ValueError, "y has 0 answers, but there are 1 questions"),
        (GOOD, [3], {}, TypeError, "the answer to question 0 is 3, but it must be a str"),
        (
            GOOD,
            ["x"],
            {"validation": (GOOD, ["z"])},
            UserWarning,
            "the held-out part has answers that are not in the training part: 'z'",
        ),
        (GOOD, ["x"], {"epochs": 2}, ValueError, "epochs=2 are all trained without the softmax, as linear_start=2"),
    ],
)
def test_bad_data_is_named_before_any_work(X, y, options, error, message):
    model = MemoryNetwork(linear_start=2, seed=0, **SMALL)
    with pytest.raises(error, match=message):
        model.fit(X, y, **{"epochs": 5, "verbose": False, **options})
    assert model.storage is None
    with pytest.raises(RuntimeError, match="has not been fitted"):
        model.predict(GOOD)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"size": 0}, "size is 0, but it must be at least 1"),
        ({"hops": 0}, "hops is 0"),
        ({"memory": 0}, "memory is 0"),
        ({"tying": "both"}, "tying is 'both', but it must be one of 'adjacent', 'layerwise'"),
        ({"noise": 1.5}, "noise is 1.5, but it must be <= 1"),
        ({"linear_start": -1}, "linear_start is -1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MemoryNetwork(**options)

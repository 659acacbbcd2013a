"""VectorToSequence: gradients of all variants, an independent evaluation, laws of search, files, errors."""

import numpy as np
import pair_reference
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from whole_model import assert_gradient

import fastrnn
from fastrnn.models import VectorToSequence

Y = ["xy", "", "zzzyx", "x", "zxxzxx", "yz", "xx", "zy"]
X = np.random.default_rng(0).standard_normal((len(Y), 3)) * [1, 10, 0.1] + 4
CELLS = ["rnn", "gru", "lstm"]
QUICK = dict(epochs=3, batch_size=3, lr=0.01, verbose=False)


def small(cell="gru", **options):
    return VectorToSequence(cell, 6, **{"embedding_size": 4, "seed": 1} | options)


def untrained(*arguments, **options):
    model = small(*arguments, dtype="float64", **options).fit(X, Y, epochs=0, verbose=False)
    with model.storage.updating() as flat:
        flat *= 2
    return model


@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2, "dropout": 0.3}, {"tied": True, "embedding_size": 6}], ids=str
)
@pytest.mark.parametrize("context", ["initial", "every", "both"])
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_of_every_variant(cell, context, options):
    model = untrained(cell, context=context, **options)
    [batch] = model._batches(X[:4], Y[:4])
    assert_gradient(model, batch, directions=2)


@pytest.mark.parametrize("context", ["initial", "every", "both"])
@pytest.mark.parametrize("cell, layers", [("rnn", 1), ("gru", 2), ("lstm", 2)])
def test_the_loss_is_that_of_an_independent_evaluation(cell, layers, context):
    model = untrained(cell, context=context, num_layers=layers)
    vectors = (X - X.mean(0)) / X.std(0)
    want = [pair_reference.log_likelihood(model, x, model.vocabulary.encode(y)) for x, y in zip(vectors, Y)]
    symbols = sum(len(y) + 1 for y in Y)
    assert_allclose(model.log_likelihood(X, Y), want, rtol=1e-10)
    assert_allclose(model.score(X, Y), sum(want) / symbols, rtol=1e-10)
    [batch] = model._batches(X, Y)
    loss, _ = model.loss_and_gradient(batch, into=np.zeros_like(model.storage.flat), rng=0)
    assert_allclose(loss, -sum(want) / symbols, rtol=1e-10)


def test_vectors_are_taken_as_they_are_without_standardize():
    raw = small(standardize=False, dtype="float64").fit(X, Y, epochs=0, verbose=False)
    scaled = small(dtype="float64").fit(X, Y, epochs=0, verbose=False)
    assert_allclose(raw.log_likelihood((X - X.mean(0)) / X.std(0), Y), scaled.log_likelihood(X, Y), rtol=1e-12)
    assert (raw.log_likelihood(X, Y) != scaled.log_likelihood(X, Y)).all()


def test_a_pair_does_not_see_the_others_bit_for_bit():
    model = small("lstm", num_layers=2).fit(X, Y, **QUICK)
    assert_array_equal(model.log_likelihood(X, Y), [model.log_likelihood(x[None], [y])[0] for x, y in zip(X, Y)])


def test_the_same_seed_gives_the_same_bits_on_any_number_of_threads():
    flats = []
    for threads in (1, 2):
        with fastrnn.threads(threads):
            flats.append(small("gru", num_layers=2, dropout=0.2).fit(X, Y, **QUICK).storage.flat)
    assert_array_equal(*flats)


@pytest.mark.filterwarnings("ignore:no evaluation found a better")
def test_save_and_load_and_resume(tmp_path):
    options = QUICK | dict(validation=0.25)
    whole = small("lstm").fit(X, Y, **options | {"epochs": 4}, checkpoint=tmp_path / "whole")
    small("lstm").fit(X, Y, **options | {"epochs": 2}, checkpoint=tmp_path / "part")
    resumed = small("lstm").fit(X, Y, **options | {"epochs": 4}, checkpoint=tmp_path / "part", resume=True)
    assert_array_equal(resumed.storage.flat, whole.storage.flat)
    again = VectorToSequence.load(tmp_path / "whole")
    assert_array_equal(again.log_likelihood(X, Y), whole.log_likelihood(X, Y))
    assert again.history == whole.history and repr(again) == repr(whole)
    with pytest.raises(ValueError, match="was made with data="):
        small("lstm").fit(X + 1, Y, **options, checkpoint=tmp_path / "part", resume=True)


def test_predictions_batched_are_those_one_by_one_bit_for_bit():
    model = small("lstm", num_layers=2).fit(X, Y, epochs=60, batch_size=4, lr=0.02, verbose=False)
    greedy, best = model.predict(X), model.predict(X, beam=3, n_best=2)
    assert greedy == [model.predict(x[None])[0] for x in X] and len(set(greedy)) > 4
    assert best == [model.predict(x[None], beam=3, n_best=2)[0] for x in X]
    assert_allclose(
        [scores[0][1] for scores in best], model.log_likelihood(X, [texts[0][0] for texts in best]), rtol=1e-4
    )
    assert model.sample(X, temperature=1e-3, seed=0) == greedy
    assert model.sample(X, seed=0) == model.sample(X, seed=0) != model.sample(X, seed=1)


def test_it_learns_names_by_heart_and_what_they_have_in_common():
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 2, (200, 2))
    vectors, texts = (
        kinds + 0.1 * rng.standard_normal((200, 2)),
        [["a", ["dark", "light"][k], ["square", "ring"][j]] for k, j in kinds],
    )
    model = VectorToSequence("gru", 16, embedding_size=8, seed=0)
    model.fit(vectors[:150], texts[:150], epochs=10, lr=0.02, validation=(vectors[150:], texts[150:]), verbose=False)
    assert model.predict(vectors[150:]) == texts[150:]
    assert_allclose(
        min(entry["validation_loss"] for entry in model.history), -model.score(vectors[150:], texts[150:]), rtol=1e-6
    )


NAN = np.where(np.eye(2, 3), np.nan, 1.0)
BAD = [
    (np.eye(3), ["x"], {}, ValueError, "X has 3 sources, but y has 1 targets"),
    (np.zeros((0, 3)), [], {}, ValueError, "there are no pairs"),
    (
        np.ones(3),
        ["x"],
        {},
        ValueError,
        r"X must be \(N, D\), a vector of D numbers for each of N sequences, got shape \(3,\)",
    ),
    (np.ones((1, 0)), ["x"], {}, ValueError, r"got shape \(1, 0\)"),
    (np.array([["a"]]), ["x"], {}, TypeError, "X is <U1, but it must hold real numbers"),
    (NAN, ["x", "y"], {}, ValueError, r"X\[0\] has nan at 0: replace such values"),
    (np.eye(2), ["x", 5], {}, TypeError, r"y\[1\] is int"),
    (
        np.eye(2),
        ["x", "xyz"],
        {"max_length": 2},
        ValueError,
        "1 of 2 targets are longer than max_length=2; the first is number 1",
    ),
    (
        np.eye(2),
        ["x", "y"],
        {"validation": (np.eye(1, 3), ["x"])},
        ValueError,
        "X has vectors of 3 numbers, but this model was fitted with 2",
    ),
    (
        np.eye(2),
        ["x", "y"],
        {"validation": (np.eye(1, 2), ["q"])},
        UserWarning,
        "the held-out part has symbols that are not in the training part: 'q'",
    ),
]


@pytest.mark.parametrize("vectors, targets, options, error, message", BAD, ids=range(len(BAD)))
def test_bad_pairs_are_named_before_any_work(vectors, targets, options, error, message):
    model = small()
    with pytest.raises(error, match=message):
        model.fit(vectors, targets, verbose=False, **options)
    assert model.storage is None


def test_a_vector_of_the_wrong_size_is_named():
    model = small().fit(X, Y, epochs=0, verbose=False)
    with pytest.raises(ValueError, match="X has vectors of 2 numbers, but this model was fitted with 3"):
        model.log_likelihood(X[:, :2], Y)
    with pytest.raises(ValueError, match="tied=True requires embedding_size = hidden_size, but they are 64 and 128"):
        VectorToSequence(tied=True)

"""SequenceTagger: gradients of the whole model, unseen words, laws of rows and seeds, invalid data."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastrnn
from fastrnn.models import SequenceTagger
from fastrnn.models.sentences import Sentences

SMALL = dict(hidden_size=8, word_size=5, char_size=4, char_hidden_size=3)
QUICK = dict(epochs=3, batch_size=8, lr=0.01, verbose=False)


def data(N=60, seed=0):
    """Return sentences of numbers and words. The tag is the kind of the first letter; after "not" it is negated."""
    rng = np.random.default_rng(seed)
    vowels, others = ["apple", "eel", "ice", "oak", "urn"], ["bear", "cat", "dog", "not", "x"]
    sentences = [[str(word) for word in rng.choice(vowels + others, rng.integers(1, 8))] for _ in range(N)]
    tags = []
    for sentence in sentences:
        kinds = ["V" if word[0] in "aeiou" else "C" for word in sentence]
        tags.append([("not " if before == "not" else "") + kind for before, kind in zip(["", *sentence], kinds)])
    return sentences, tags


@pytest.mark.parametrize("cell, layers", [("rnn", 1), ("gru", 1), ("lstm", 2)])
def test_gradients_through_the_whole_model(cell, layers):
    X, y = data(5)
    model = SequenceTagger(cell, num_layers=layers, dropout=0.0, word_dropout=0.0, dtype="float64", seed=1, **SMALL)
    model.fit(X, y, epochs=0, verbose=False)
    batches = Sentences(model, X, y, 5, None, None)
    [batch] = batches
    gradient = np.zeros_like(model.storage.flat)
    loss, _ = model.loss_and_gradient(batch, into=gradient, rng=0)

    def loss_at(flat):
        with model.storage.updating() as parameters:
            parameters[:] = flat
        return model.evaluate(batches)["loss"]

    flat, rng = model.storage.flat.copy(), np.random.default_rng(2)
    assert_allclose(loss, loss_at(flat), rtol=1e-12)
    for _ in range(5):
        direction = rng.standard_normal(flat.size)
        numeric = (loss_at(flat + 1e-6 * direction) - loss_at(flat - 1e-6 * direction)) / 2e-6
        assert_allclose(gradient @ direction, numeric, rtol=1e-6, atol=1e-9)


def test_it_learns_the_context_and_the_spelling_of_words_never_seen():
    X, y = data(300)
    model = SequenceTagger("gru", 16, word_size=8, char_size=8, char_hidden_size=8, seed=0)
    model.fit(X[:200], y[:200], epochs=25, lr=0.01, batch_size=16, validation=(X[200:], y[200:]), verbose=False)
    assert model.score(X[200:], y[200:]) > 0.97
    best = min(model.history, key=lambda entry: entry["validation_loss"])
    assert_allclose(best["validation_accuracy"], model.score(X[200:], y[200:]))
    assert model.predict([["ace", "bat", "owl"]]) == [["V", "C", "V"]]
    assert model.predict([["ŷ"]])[0][0] in model.tags_


def test_a_prediction_depends_on_its_own_sentence_only():
    X, y = data()
    model = SequenceTagger("lstm", seed=0, **SMALL).fit(X, y, **QUICK)
    together = model._logits(next(iter(Sentences(model, X, None, 60, None, None))))
    rows = next(iter(Sentences(model, X, None, 60, None, None)))[0].rows
    for b in (0, 31, 59):
        sentence = X[rows[b]]
        alone = model._logits(next(iter(Sentences(model, [sentence], None, 1, None, None))))
        assert_array_equal(alone[:, 0], together[: len(sentence), b])


def test_the_same_seed_gives_the_same_bits_on_any_number_of_threads():
    X, y = data()
    flats = []
    for threads in (1, 2):
        with fastrnn.threads(threads):
            flats.append(SequenceTagger("gru", num_layers=2, seed=3, **SMALL).fit(X, y, **QUICK).storage.flat)
    assert_array_equal(*flats)


def test_save_and_load_and_resume(tmp_path):
    X, y = data()
    options = dict(batch_size=8, lr=0.01, validation=0.2, verbose=False)
    whole = SequenceTagger("lstm", seed=5, **SMALL).fit(X, y, epochs=4, checkpoint=tmp_path / "whole", **options)
    SequenceTagger("lstm", seed=5, **SMALL).fit(X, y, epochs=2, checkpoint=tmp_path / "part", **options)
    resumed = SequenceTagger("lstm", seed=5, **SMALL).fit(
        X, y, epochs=4, checkpoint=tmp_path / "part", resume=True, **options
    )
    assert_array_equal(resumed.storage.flat, whole.storage.flat)
    again = SequenceTagger.load(tmp_path / "whole")
    assert again.predict(X) == whole.predict(X) and again.tags_ == whole.tags_ and again.history == whole.history


def test_rare_words_share_one_vector():
    X, y = data(30)
    model = SequenceTagger("rnn", min_count=10**6, dropout=0.0, seed=0, **SMALL).fit(X, y, **QUICK)
    assert model.words.num_embeddings == 1
    assert SequenceTagger("rnn", seed=0, **SMALL).fit(X, y, **QUICK).words.num_embeddings == 11


@pytest.mark.parametrize(
    "X, y, options, error, message",
    [
        ([], [], {}, ValueError, "there are no sentences"),
        (["a b"], [["N"]], {}, TypeError, "sentence 0 is the str 'a b', but it must be a list of words"),
        ([["a"], []], [["N"], []], {}, ValueError, "sentence 1 has no words: leave it out"),
        (
            [["a", ""]],
            [["N", "N"]],
            {},
            ValueError,
            "word 1 of sentence 0 is '', but it must be a str of at least one character",
        ),
        ([["a", 5]], [["N", "N"]], {}, ValueError, "word 1 of sentence 0 is 5"),
        ([["a"]], [], {}, ValueError, "y has 0 lists of tags, but there are 1 sentences"),
        ([["a", "b"]], [["N"]], {}, ValueError, "sentence 0 has 2 words, but 1 tags"),
        ([["a", "b"]], [["N", 3]], {}, TypeError, "the tags of sentence 0 must be str, got 3"),
        (
            [["a"]],
            [["N"]],
            {"validation": ([["a"]], [["V"]])},
            UserWarning,
            "the held-out part has tags that are not in the training part: 'V'",
        ),
    ],
)
def test_bad_data_is_named_before_any_work(X, y, options, error, message):
    model = SequenceTagger("rnn", seed=0, **SMALL)
    with pytest.raises(error, match=message):
        model.fit(X, y, verbose=False, **options)
    assert model.storage is None
    with pytest.raises(RuntimeError, match="has not been fitted"):
        model.predict([["a"]])

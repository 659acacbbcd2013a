"""Models whose layers have different sizes."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from whole_model import assert_gradient

from fastrnn.batches import Sequences, Streams
from fastrnn.models import EventModel, Forecaster, LanguageModel, SequenceClassifier, SequenceRegressor, SequenceTagger

RNG = np.random.default_rng(0)
X = [RNG.standard_normal((t, 2)) for t in (3, 5, 4, 2)]
TEXT = "to be or not to be, that is the question. " * 6
SENTENCES, TAGS = [["dogs", "bark"], ["she", "sings", "well"]] * 3, [["N", "V"], ["P", "V", "A"]] * 3
EVENTS = [(RNG.random((t, 4)) < 0.4).astype(float) for t in (5, 3)]
QUIET = dict(epochs=0, verbose=False)
MAKE = {
    "language": lambda sizes, n, **o: LanguageModel("lstm", sizes, n, dropout=0.2, **o).fit(
        TEXT, batch_size=3, seq_len=7, **QUIET
    ),
    "classifier": lambda sizes, n, **o: SequenceClassifier("lstm", sizes, n, bidirectional=True, dropout=0.2, **o).fit(
        X, [0, 1, 0, 1], **QUIET
    ),
    "regressor": lambda sizes, n, **o: SequenceRegressor("gru", sizes, n, **o).fit(X, [0.5, 1, 0, 2], **QUIET),
    "tagger": lambda sizes, n, **o: SequenceTagger("lstm", sizes, n, char_hidden_size=3, word_size=4, **o).fit(
        SENTENCES, TAGS, **QUIET
    ),
    "events": lambda sizes, n, **o: EventModel("rnn", sizes, n, **o).fit(EVENTS, **QUIET),
    "forecaster": lambda sizes, n, **o: Forecaster(5, 3, cell="lstm", hidden_size=sizes, num_layers=n, **o).fit(
        np.sin(np.arange(30.0)), **QUIET
    ),
}


def batch_of(name, model):
    if name == "language":
        return Streams(model.vocabulary.encode(TEXT), 3, 4, 6)[2]
    if name == "tagger":
        from fastrnn.models.sentences import Sentences

        return Sentences(model, SENTENCES, TAGS, 9, None, None)[0]
    if name == "events":
        return Sequences(EVENTS, 4)[0]
    if name == "forecaster":
        from fastrnn.models.windows import Windows

        return Windows([np.random.default_rng(1).standard_normal((12, 2))], model, 1, 9, None)[0]
    targets = np.array([0, 1, 0, 1]) if name == "classifier" else np.ones((4, 1))
    return model._batches(X, targets, np.ones(4), None, 9, None, 0, model._scaler)[0][0]


@pytest.mark.parametrize("name", MAKE)
def test_gradients_and_the_way_to_disk(name, tmp_path):
    model = MAKE[name]([5, 3], 1, seed=1, dtype="float64")
    assert [layer.hidden_size for layer in model.rnn.layers] == [5, 3]
    assert_gradient(model, batch_of(name, model))
    model.save(tmp_path)
    again = type(model).load(tmp_path)
    assert again.hidden_size == [5, 3]
    assert_array_equal(again.storage.flat, model.storage.flat)


@pytest.mark.parametrize("name", MAKE)
def test_wrong_sizes_are_named(name):
    with pytest.raises(ValueError, match="num_layers is 3, but hidden_size has 2 sizes: leave num_layers out"):
        MAKE[name]([5, 3], 3)
    with pytest.raises(ValueError, match="hidden_size is 0, but it must be at least 1"):
        MAKE[name]([5, 0], 1)
    with pytest.raises(ValueError, match="hidden_size is empty: pass at least one size"):
        MAKE[name]([], 1)

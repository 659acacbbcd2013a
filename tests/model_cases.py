"""Small data with a known answer for every model, shared by the tests of all models."""

import dataclasses
from collections.abc import Callable

import numpy as np

from fastrnn.layers.feedforward import random_key
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
from fastrnn.models.model import held_out_rows


@dataclasses.dataclass
class Case:
    """A model and its data.

    make : (**options) -> unfitted model
    data : (rng, N) -> arguments of `fit`, each a list of N, or an equivalent
    held_out : a `validation` that holds something out
    rows : whether the data are N rows, of which a fraction can be held out
    """

    make: Callable
    data: Callable
    held_out: object = 0.3
    rows: bool = True


def sequences(rng, N, F=3):
    return [rng.standard_normal((rng.integers(2, 8), F)) for _ in range(N)]


def classes(rng, N):
    X = sequences(rng, N)
    return X, [f"feature {int(np.argmax(x.sum(0)))}" if n > 2 else f"feature {n}" for n, x in enumerate(X)]


def numbers(rng, N):
    X = sequences(rng, N)
    return X, np.array([[x[:, 0].sum(), x[-1, 1]] for x in X])


def steps(rng, N):
    X = sequences(rng, N)
    return X, [np.cumsum(x[:, 0]) for x in X]


def tags(rng, N):
    words = {"dogs": "NOUN", "cats": "NOUN", "bark": "VERB", "sleep": "VERB", "loudly": "ADV"}
    X = [[str(w) for w in rng.choice(list(words), rng.integers(1, 6))] for _ in range(N)]
    X[0] = list(words)
    return X, [[words[w] for w in sentence] for sentence in X]


def series(rng, N):
    t = np.arange(max(40, N))
    return (np.sin(t * np.pi / 4) + 0.1 * rng.standard_normal(len(t)),)


def events(rng, N):
    return ([(rng.random((rng.integers(2, 9), 4)) < 0.4).astype(float) for _ in range(N)],)


def text(rng, N):
    return ("".join(rng.choice(list("abc d"), 40 * max(N, 5))),)


def pairs(rng, N):
    X = ["".join(rng.choice(list("abc"), rng.integers(1, 6))) for _ in range(N)]
    X[0] = "abc"
    return X, [x[::-1].upper() for x in X]


def vectors(rng, N):
    k = rng.integers(0, 3, N)
    k[:3] = range(min(3, N))
    return np.eye(3)[k] + 0.1 * rng.standard_normal((N, 3)), [["one", "two", "six"][i] for i in k]


def stories(rng, N):
    rooms, X, y = ["attic", "hall", "cellar"], [], []
    for n in range(N):
        room = rooms[n] if n < 3 else str(rng.choice(rooms))
        X.append(([["ann", "is", "in", room], ["bob", "is", "out"]], ["where", "is", "ann"]))
        y.append(room)
    return X, y


SMALL_TAGGER = dict(hidden_size=4, word_size=3, char_size=3, char_hidden_size=2)
CASES = {
    "classifier": Case(lambda **o: SequenceClassifier("gru", 4, **o), classes),
    "regressor": Case(lambda **o: SequenceRegressor("gru", 4, **o), numbers),
    "regressor of steps": Case(lambda **o: SequenceRegressor("lstm", 4, per_step=True, **o), steps),
    "tagger": Case(lambda **o: SequenceTagger("gru", **{**SMALL_TAGGER, **o}), tags),
    "forecaster": Case(lambda **o: Forecaster(6, 3, hidden_size=4, **o), series, held_out=6, rows=False),
    "events": Case(lambda **o: EventModel("gru", 4, **o), events),
    "text": Case(lambda **o: LanguageModel("gru", 4, **o), text, held_out=0.2, rows=False),
    "pairs": Case(lambda **o: EncoderDecoder("gru", 4, source_embedding=3, target_embedding=3, **o), pairs),
    "vectors": Case(lambda **o: VectorToSequence("gru", 4, embedding_size=3, **o), vectors),
    "stories": Case(lambda **o: MemoryNetwork(4, 2, **o), stories),
}
ROWS = {name: case for name, case in CASES.items() if case.rows}


def fit_options(name, **options):
    """Return the options of a short, quiet fit."""
    batch = {"text": {"batch_size": 4, "seq_len": 7}}.get(name, {"batch_size": 6})
    return {**batch, "epochs": 3, "lr": 0.02, "verbose": False, **options}


def parts(N, part, seed):
    """Return the rows that a model with this seed holds out, and those it keeps."""
    return held_out_rows(N, part, random_key(seed, 2))


def some(values, rows):
    """Return those rows of a list or an array."""
    return values[rows] if isinstance(values, np.ndarray) else [values[i] for i in rows]


def predictions(name, model, data):
    """Return all predictions of a fitted model, as a list of arrays, one for each row."""
    if name == "classifier":
        return list(model.predict_proba(data[0]))
    if name == "forecaster":
        return [model.predict(4, series=data[0])]
    if name == "text":
        return [np.array(model.score(data[0]))]
    if name in ("pairs", "vectors"):
        return list(model.log_likelihood(*data))
    if name == "stories":
        return list(model.predict_proba(data[0]))
    if name == "tagger":
        return [np.array(row) for row in model.predict(data[0])]
    return list(model.predict(data[0]))

"""Models with data in various forms and scales, and with labels that they have never seen."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from model_cases import CASES, fit_options
from numpy.testing import assert_allclose, assert_array_equal

from fastrnn._files import storage
from fastrnn.batches import Streams
from fastrnn.callbacks import CSVLog, JSONLog
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
from fastrnn.models.scaling import Scaler
from fastrnn.models.sentences import Sentences

FIT = dict(epochs=1, verbose=False)


def sequences(N=20, F=2):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((rng.integers(3, 7), F)) for _ in range(N)], np.array(["a", "b"])[np.arange(N) % 2]


def caught(call):
    """Return the result of a call, and its UserWarnings."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        value = call()
    return value, [str(w.message) for w in found if w.category is UserWarning]


# --- unknown labels and symbols -----------------------------------------------

X, Y = sequences()
WORDS = [["dogs", "bark"], ["cats", "sleep"]] * 4
TAGS = [["NOUN", "VERB"]] * 8
STORIES = [([["ann", "is", "in", room]], ["where"]) for room in ("attic", "hall") * 4]
VECTORS = np.eye(4)[[0, 1, 2, 3] * 2]
UNSEEN = {
    "classifier": (lambda: SequenceClassifier("gru", 4, seed=0), (X, Y), (X[:4], ["a", "new", "b", "new"]), "labels"),
    "classifier of numbers": (
        lambda: SequenceClassifier("gru", 4, seed=0),
        (X, np.arange(20) % 2),
        (X[:4], [0, 77, 1, 77]),
        "labels",
    ),
    "tagger": (
        lambda: SequenceTagger("gru", 4, word_size=3, char_size=3, char_hidden_size=2, seed=0),
        (WORDS, TAGS),
        (WORDS[:2], [["NOUN", "new"], ["new", "VERB"]]),
        "tags",
    ),
    "stories": (
        lambda: MemoryNetwork(4, seed=0),
        (STORIES, ["attic", "hall"] * 4),
        (STORIES[:4], ["attic", "new", "attic", "new"]),
        "answers",
    ),
    "pairs": (
        lambda: EncoderDecoder("gru", 4, seed=0),
        (["ab", "ba"] * 4, ["xy", "yx"] * 4),
        (["ab", "ba"], ["xy", "qxq"]),
        "symbols",
    ),
    "pairs with <unk>": (
        lambda: EncoderDecoder("gru", 4, min_count=2, seed=0),
        (["ab", "ba"] * 4, [*["xy", "yx"] * 3, "xyz", "x"]),
        (["ab", "ba"], ["xy", "qxq"]),
        "symbols",
    ),
    "vectors": (
        lambda: VectorToSequence("gru", 4, seed=0),
        (VECTORS, ["xy", "x", "y", "yx"] * 2),
        (VECTORS[:2], ["xy", "qxq"]),
        "symbols",
    ),
}


@pytest.mark.filterwarnings("ignore:no evaluation found a better")
@pytest.mark.parametrize("name", UNSEEN)
def test_what_only_the_held_out_part_has_counts_as_wrong_with_one_warning(name):
    """The rule is the same in fit, evaluate and score."""
    make, data, held, what = UNSEEN[name]
    strange = "77" if "numbers" in name else "'q'" if what == "symbols" else "'new'"
    model, said = caught(lambda: make().fit(*data, validation=held, **FIT))
    assert len(said) == 1 and said[0].startswith(
        f"the held-out part has {what} that are not in the training part: {strange}; 2 of "
    ), said
    assert ("they count as <unk>" in said[0]) == (name == "pairs with <unk>")
    score, said = caught(lambda: model.score(*held))
    assert len(said) == 1 and said[0].startswith(
        f"y has {what} that this model was not trained on: {strange}; 2 of "
    ), said
    last = model.history[0]
    if what == "symbols":
        assert -np.inf < score < 0 and np.isfinite(last["validation_loss"])
        likelihood, said = caught(lambda: model.log_likelihood(*held))
        assert (
            len(said) == 1 and np.isfinite(likelihood[0]) and np.isfinite(likelihood[1]) == (name == "pairs with <unk>")
        )
        return
    assert score <= 0.5 and last["validation_accuracy"] <= 0.5 and np.isfinite(last["validation_loss"])
    right = caught(lambda: [model.predict([x])[0] for x in held[0]])[0]
    flat = [(mine, theirs) for mine, theirs in zip(np.ravel(right), np.ravel(held[1]))]
    assert score == sum(mine == theirs for mine, theirs in flat) / len(flat)


@pytest.mark.filterwarnings("ignore:no evaluation found a better")
@pytest.mark.filterwarnings("ignore:the validation_loss was never finite")
@pytest.mark.parametrize("name", ["classifier", "tagger", "stories", "pairs", "vectors"])
def test_whether_a_fit_succeeds_does_not_depend_on_the_seed(name):
    """Each label occurs once, so that all held-out ones are unknown."""
    _, (given, targets), _, what = UNSEEN[name]
    N = 8
    new = {"classifier": [f"label {k}" for k in range(N)], "tagger": [[f"t{k}", f"u{k}"] for k in range(N)],
           "stories": [f"room {k}" for k in range(N)]}.get(name, [chr(97 + k) for k in range(N)])  # fmt: skip
    for seed in range(3):
        model = UNSEEN[name][0]()
        model.seed = seed
        _, said = caught(lambda model=model: model.fit(given[:N], new, validation=0.3, **FIT))
        assert len(said) == 1 and said[0].startswith(f"the held-out part has {what}"), said
    if name == "classifier":
        assert len(model.classes_) == 6


@pytest.mark.filterwarnings("ignore:no evaluation found a better")
def test_a_text_with_symbols_of_its_own_at_the_end():
    text = "abcabcab" * 20 + "xyabxy"
    for level in ("character", "word"):
        data = text if level == "character" else " ".join(text)
        model, said = caught(lambda level=level, data=data: LanguageModel("gru", 4, level=level, seed=0).fit(
            data, batch_size=2, seq_len=5, validation=0.1, **FIT))  # fmt: skip
        names, words = ("'x', 'y'", "symbols") if level == "character" else ("' x', ' y'", "words")
        assert len(said) == 1 and said[0].startswith(
            f"the held-out part has {words} that are not in the training part: {names}; 4 of "
        ), said
        if level == "word":
            assert " x" not in model.vocabulary.symbols
    model = LanguageModel("gru", 4, seed=0, dtype="float64").fit(
        "abc" * 40, batch_size=2, seq_len=5, validation=0, **FIT
    )
    score, said = caught(lambda: model.score("aqb"))
    assert said == [
        "the text has symbols that this model was not trained on: 'q'; 1 of 3 symbols: "
        "the model has no probability of them, and the mean is over the others"
    ]
    x = model.embedding.params["weight"][[0, 0]][:, None] * np.array([1.0, 0.0])[:, None, None]
    logits = model.linear(model.rnn(x)[0])[1, 0]
    assert_allclose(score, logits[1] - np.log(np.exp(logits).sum()), rtol=1e-12)


def test_words_of_the_held_out_windows_are_not_in_the_vocabulary():
    half = ["one two three four five"] * 8 + ["one", "six six seven six seven seven six seven six"]
    text = " ".join([*half * 2, "one"])  # two streams of 50 words, the last 10 of each held out
    model, said = caught(lambda: LanguageModel("gru", 4, level="word", seed=0).fit(
        text, batch_size=2, seq_len=5, validation=0.2, held_out="streams", **FIT | {"epochs": 0}))  # fmt: skip
    assert {" six", " seven"}.isdisjoint(model.vocabulary.symbols) and " four" in model.vocabulary.symbols
    assert len(said) == 1 and said[0].startswith(
        "the held-out part has words that are not in the training part: ' six', ' seven'"
    )


@pytest.mark.parametrize("bptt", [3, 5, 12])
def test_a_held_out_loss_does_not_depend_on_where_the_gradient_is_cut(bptt):
    text = "".join(np.random.default_rng(0).choice(list("abcd"), 400))
    options = dict(batch_size=4, seq_len=5, validation=0.2, held_out="streams", **FIT | {"epochs": 0})
    model = LanguageModel("gru", 4, seed=0).fit(text, bptt=bptt, **options)
    ids = model.vocabulary.encode(text)
    _, held = Streams(ids, 4, 5).split(0.2)
    assert model.history[0]["validation_loss"] == model.evaluate(held)["loss"]


@pytest.mark.sklearn
def test_the_estimators_name_what_only_the_held_out_part_has():
    from fastrnn.sklearn import RNNClassifier, RNNTagger

    options = dict(hidden_layer_sizes=(4,), max_iter=2, n_iter_no_change=9, random_state=0)
    y = np.array([f"label {k}" for k in range(20)])
    model, said = caught(lambda: RNNClassifier(early_stopping=True, validation_fraction=0.3, **options).fit(X, y))
    assert len(said) == 1 and said[0].startswith(
        "the held-out part has labels that are not in the training part: 'label "
    ), said
    assert "6 of 6 labels: they count as wrong answers" in said[0] and len(model.classes_) == 20
    tags = [np.where(x[:, 0] > 0, "+", "-") for x in X]
    for model, data in (
        (RNNClassifier(**options).fit(X, Y), (X, ["other", *Y[1:]])),
        (RNNTagger(**options).fit(X, tags), (X[:1], [["other"] * len(X[0])])),
    ):
        score, said = caught(lambda model=model, data=data: model.score(*data))
        assert (
            len(said) == 1
            and said[0].startswith("y has labels that this model was not trained on: 'other'")
            and score < 1
        )


# --- scales -------------------------------------------------------------------


def test_a_constant_feature_is_only_shifted():
    """Holds also if the sum of equal numbers is rounded."""
    for value in (0.1, 1.6e9 + 0.3, -1e-300, 0.0):
        scaler = Scaler.of([np.full((10, 1), value), np.full((3, 1), value)])
        assert_array_equal(scaler(np.full((4, 1), value)), np.zeros((4, 1)))
        assert scaler.deviation == 1 and scaler.mean == value
        assert_array_equal(scaler.undo(np.zeros((1, 1))), [[value]])
        assert Scaler.of([np.full((10, 1), value)], constant=0.0).undo(np.array([[3.0]])) == value


def test_a_scaler_is_exact_for_numbers_of_any_size():
    x = np.arange(8.0)[:, None]
    for shift, scale in ((2.0**40, 1.0), (0.0, 2.0**1000), (0.0, 2.0**-1000), (-3e14, 1.0)):
        assert_allclose(Scaler.of([x * scale + shift])(x * scale + shift), Scaler.of([x])(x), rtol=1e-12)
    assert_array_equal(Scaler.of([x.astype(int)])(x.astype(int)), Scaler.of([x])(x))
    with pytest.raises(
        ValueError,
        match="target 0 goes from -1.7e[+]308 to 1.7e[+]308, too far for a mean in float64: give it in another unit",
    ):
        Scaler.of([np.array([[1.7e308], [1.7e308], [-1.7e308]])], name="target")


def test_sequences_of_different_dtypes_are_batched_without_loss():
    given = [np.array([[1], [2]]), np.array([[0.25], [0.5]]), np.array([[True], [False]])] * 4
    y = np.arange(12) % 2
    wanted = SequenceClassifier("gru", 4, seed=0).fit([x.astype(float) for x in given], y, **FIT)
    assert_array_equal(SequenceClassifier("gru", 4, seed=0).fit(given, y, **FIT).storage.flat, wanted.storage.flat)


TOO_LARGE = [
    (lambda: SequenceClassifier("gru", 4, standardize=False).fit([X[0] * 1e300, *X[1:]], Y, **FIT),
     "sequence 0 has 2.3"),
    (lambda: SequenceClassifier("gru", 4).fit(X, Y, validation=([X[0] * 1e300], Y[:1]), **FIT),
     "held-out sequence 0 has"),
    (lambda: SequenceClassifier("gru", 4, seed=0).fit(X, Y, **FIT).predict([X[1], X[0] * 1e300]), "sequence 1 has"),
    (lambda: SequenceRegressor("gru", 4, standardize=False).fit(X, np.arange(20) * 1e300, **FIT), "y has 1e[+]300"),
    (lambda: SequenceRegressor("gru", 4).fit(X, np.arange(20), validation=(X, np.arange(20) * 1e300), **FIT),
     "held-out y has"),
    (lambda: VectorToSequence("gru", 4, standardize=False).fit(np.eye(2) * 1e300, ["a", "b"], **FIT),
     "vector 0 has 1e[+]300"),
    (lambda: Forecaster(6, 3, seed=0).fit(np.arange(60.0), **FIT).predict(series=np.arange(60) * 1e300), "step 0 has"),
]  # fmt: skip


@pytest.mark.parametrize("call, message", TOO_LARGE, ids=range(len(TOO_LARGE)))
def test_a_number_too_large_for_float32_is_named(call, message):
    with pytest.raises(
        ValueError, match=message + r".* where it enters the network, which computes in float32, up to 3.4e\+38"
    ):
        call()


def test_predictions_come_back_with_all_their_digits(tmp_path):
    seasonal = 1.2e8 + np.tile([0.25, 1.5, -3.0, 7.125], 20)
    model = Forecaster(6, 4, season=4, hidden_size=4, seed=0).fit(seasonal, **FIT)
    assert_array_equal(model.predict(), seasonal[:4])
    model.save(tmp_path)
    assert_array_equal(Forecaster.load(tmp_path).predict(), seasonal[:4])
    y = 1e9 + np.arange(20)
    regressor = SequenceRegressor("gru", 4, seed=0).fit(X, y, **FIT)
    found = regressor.predict(X)
    assert found.dtype == np.float64 and len(np.unique(found)) == 20 and np.abs(found - y).max() < 12


def test_the_command_prints_forecasts_with_all_their_digits(run):
    values = 123456789.125 + np.tile([0.0, 2.5, -1.0, 3.0], 15)
    with open("a.csv", "w") as file:
        file.write(
            "Date,u,v\n"
            + "".join(f"{2000 + k // 12}-{k % 12 + 1:02},{float(v)!r},{float(v) / 4!r}\n" for k, v in enumerate(values))
        )
    few = ["--epochs", 1, "--window", 4, "--horizon", 4, "--season", 4, "--hidden", 4, "--quiet"]
    status, _, err = run("train", "forecast", "--data", "a.csv", *few)
    assert status == 0, err
    status, out, _ = run("predict", "fastrnn-forecast", "--data", "a.csv")
    assert out.splitlines() == ["u,v", *(f"{float(v)!r},{float(v) / 4!r}" for v in values[:4])]
    status, out, _ = run("evaluate", "fastrnn-forecast", "--data", "a.csv")
    assert status == 0 and out.startswith("MAE: 0 over the last 4 steps (MASE is not defined")
    lines = Path("a.csv").read_text().splitlines()
    with open("b.csv", "w") as file:  # the same columns in another order
        file.write("".join(",".join(np.array(line.split(","))[[0, 2, 1]]) + "\n" for line in lines))
    assert run("predict", "fastrnn-forecast", "--data", "b.csv")[1].splitlines() == [
        "u,v",
        *(f"{float(v)!r},{float(v) / 4!r}" for v in values[:4]),
    ]
    with open("c.csv", "w") as file:
        file.write("\n".join(lines).replace("Date,u,v", "Date,u,w"))
    status, _, err = run("predict", "fastrnn-forecast", "--data", "c.csv")
    assert (
        status == 1 and err.splitlines()[-1] == "fastrnn: error: series has the columns u, w, but the model needs u, v"
    )


def test_the_command_says_that_the_untrained_model_was_the_best(run):
    rng = np.random.default_rng(4)
    with open("noise.ts", "w") as file:
        file.write(
            "@data\n"
            + "".join(f"{','.join(map(str, rng.standard_normal(4)))}:{'ab'[rng.integers(2)]}\n" for _ in range(60))
        )
    options = ["--epochs", 20, "--hidden", 32, "--lr", 0.3, "--lr-decay", "none", "--quiet", "--validation", 0.5]
    status, out, err = run("train", "classify", "--data", "noise.ts", *options)
    assert status == 0 and err.startswith("fastrnn: warning: no evaluation found a better validation_loss than 0.")
    before, best = out.splitlines()[0].removeprefix("held-out loss: ").split(", ")[:2]
    assert before.split()[0] == best.split()[0]
    config = json.loads(Path("fastrnn-classify/config.json").read_text())["config"]
    assert f"{min(entry['validation_loss'] for entry in config['history']):.4f}" == before.split()[0]


def test_a_forecaster_of_before_is_read(tmp_path):
    """An old model has the end of one series, in float32, and no names."""
    series = np.sin(np.arange(60)) * 3 + 10
    model = Forecaster(6, 3, difference=True, hidden_size=4, seed=0).fit(series, **FIT)
    arrays = {f"{name}.{key}": array for name in model.LAYERS for key, array in getattr(model, name).params.items()}
    arrays |= {
        "scaler.mean": model._scaler.mean,
        "scaler.deviation": model._scaler.deviation,
        "end": series[:, None].astype(np.float32),
    }
    config = {
        "model": "Forecaster",
        **model._configuration(),
        "K": 1,
        "E": 0,
        "flat": True,
        "naive_error": model.naive_error,
        "history": [],
    }
    storage.save(tmp_path, arrays, config)
    old = Forecaster.load(tmp_path)
    assert_allclose(old.predict(), model.predict(), rtol=1e-6)
    assert_array_equal(old.predict(series=series), model.predict())


# --- forecasts ----------------------------------------------------------------


def test_several_series_are_each_gone_on_from(tmp_path):
    a, b = np.sin(np.arange(60)), np.cos(np.arange(50)) * 2
    model = Forecaster(6, 3, hidden_size=4, season=3, seed=0).fit([a, b], np.split(np.ones((110, 1)), [60]), **FIT)
    future = [np.ones((4, 1)), np.zeros((4, 1))]
    found = model.predict(4, series=[a, b], exog=[np.ones((60, 1)), np.ones((50, 1))], future_exog=future)
    alone = [model.predict(4, series=s, exog=np.ones((len(s), 1)), future_exog=f) for s, f in zip((a, b), future)]
    assert isinstance(found, list) and len(found) == 2
    for mine, wanted in zip(found, alone):
        assert_array_equal(mine, wanted)
    assert_array_equal(model.predict(4, future_exog=future[1]), alone[1])
    next_a, next_b = np.full(4, 2.0), np.full(4, -1.0)
    wanted = np.mean([np.abs(alone[0] - next_a), np.abs(alone[1] - next_b)]) / model.naive_error
    model.save(tmp_path)
    for of in (model, Forecaster.load(tmp_path)):
        assert_allclose(of.mase([next_a, next_b], future_exog=future), wanted)
        assert_allclose(of.score(next_b, future_exog=future[1]), -np.abs(alone[1] - next_b).mean() / model.naive_error)
    with pytest.raises(
        ValueError, match="series is a list of 1, but the model was fitted with 2: give what follows each of them"
    ):
        model.mase([next_a])
    with pytest.raises(ValueError, match="future_exog has 1 arrays, but there are 2 series"):
        model.predict(4, series=[a, b], exog=[np.ones((60, 1)), np.ones((50, 1))], future_exog=future[:1])
    with pytest.raises(ValueError, match="exog belongs to a series, but none is given"):
        model.predict(4, exog=np.ones((60, 1)), future_exog=future[1])


def test_a_constant_series_and_an_unfitted_forecaster():
    model = Forecaster(6, 3, hidden_size=4, seed=0).fit(np.full(40, 0.1), **FIT)
    assert_array_equal(model.predict(), np.full(3, 0.1))
    for ask in (model.mase, model.score):
        with pytest.raises(
            ValueError, match="MASE is not defined: the seasonal naive forecast has no error within the series of fit"
        ):
            ask(np.full(3, 0.1))
        with pytest.raises(RuntimeError, match="this Forecaster has not been fitted"):
            getattr(Forecaster(6, 3), ask.__name__)(np.ones(3))
    with pytest.raises(ValueError, match="horizon is -1, but it must be at least 1"):
        model.predict(-1)


@pytest.mark.pandas
def test_columns_of_frames_go_by_their_names(tmp_path):
    import pandas as pd

    frame = pd.DataFrame({"u": np.sin(np.arange(60)), "v": 100 + np.cos(np.arange(60))})
    exog = pd.DataFrame({"p": np.arange(60.0), "q": np.arange(60.0) % 7})
    model = Forecaster(6, 3, hidden_size=4, seed=0).fit(frame, exog, **FIT)
    wanted = model.predict(series=frame, exog=exog, future_exog=exog[:3])
    model.save(tmp_path)
    for of in (model, Forecaster.load(tmp_path)):
        found = of.predict(series=frame[["v", "u"]], exog=exog[["q", "p"]], future_exog=exog[:3][["q", "p"]])
        assert_array_equal(found, wanted)
        assert of.mase(frame[:3][["v", "u"]], future_exog=exog[:3]) == model.mase(frame[:3], future_exog=exog[:3])
        with pytest.raises(ValueError, match="series has the columns u, w, but the model needs u, v"):
            of.predict(series=frame.rename(columns={"v": "w"}), exog=exog, future_exog=exog[:3])
    frames = [pd.DataFrame(x, columns=["p", "q"]) for x in X]
    classifier = SequenceClassifier("gru", 4, seed=0).fit(frames, Y, **FIT)
    classifier.save(tmp_path / "c")
    for of in (classifier, SequenceClassifier.load(tmp_path / "c")):
        assert_array_equal(of.predict_proba([x[["q", "p"]] for x in frames]), classifier.predict_proba(X))
        with pytest.raises(ValueError, match="sequence 0 has the columns r, q, but the model needs p, q"):
            of.predict([x.rename(columns={"p": "r"}) for x in frames])


# --- outputs that are NaN -----------------------------------------------------

NAN = {name: case for name, case in CASES.items() if name in ("classifier", "tagger", "pairs", "vectors", "stories")}


@pytest.mark.parametrize("name", NAN)
def test_no_symbol_is_the_most_likely_one_of_scores_that_are_nan(name):
    data = NAN[name].data(np.random.default_rng(0), 8)
    model = NAN[name].make(seed=0).fit(*data, **fit_options(name, epochs=0))
    with model.storage.updating() as flat:
        flat[:] = np.nan
    calls = [lambda: model.predict(data[0])]
    if name in ("pairs", "vectors"):
        calls += [
            lambda: model.predict(data[0], beam=3),
            lambda: model.predict(data[0], beam=2, n_best=2),
            lambda: model.sample(data[0], seed=0),
        ]
    for call in calls:
        with pytest.raises(RuntimeError, match="are NaN"):
            call()


def test_nothing_is_drawn_from_scores_that_are_nan():
    model = LanguageModel("gru", 4, seed=0).fit("abc" * 30, batch_size=2, seq_len=5, validation=0, **FIT)
    events = EventModel("gru", 4, seed=0).fit([np.eye(3)] * 4, **FIT)
    for one in (model, events):
        with one.storage.updating() as flat:
            flat[:] = np.nan
    for temperature in (0, 1.0):
        with pytest.raises(RuntimeError, match="the logits of the next symbol are NaN or infinite"):
            model.generate("a", 5, temperature)
    with pytest.raises(RuntimeError, match="the probabilities of step 0 are NaN"):
        events.generate(3, seed=0)


# --- callbacks, held-out parts ------------------------------------------------


def test_a_callback_may_answer_with_a_bool_of_numpy():
    model = SequenceClassifier("gru", 4, seed=0).fit(
        X, Y, epochs=9, verbose=False, callbacks=[lambda entry: np.float64(entry["epoch"]) >= 2]
    )
    assert model.outcome == "stopped early" and model.history[-1]["epoch"] == 2


@pytest.mark.parametrize("log", [CSVLog, JSONLog])
def test_a_log_that_cannot_be_written_is_noticed_before_any_work(log, tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "log"):
        with pytest.raises(OSError, match="(Is a directory|Not a directory)"):
            log(path)
    late = log(tmp_path / "log")
    (tmp_path / "log").mkdir()  # after it was made
    model = SequenceClassifier("gru", 4, seed=0)
    with pytest.raises(OSError, match="Is a directory"):
        model.fit(X, Y, callbacks=[late], checkpoint=tmp_path / "m", **FIT)
    assert model.storage is None and not (tmp_path / "m").exists()


def test_a_tagger_of_one_tag_and_a_held_out_part_of_all():
    model = SequenceTagger("gru", 4, seed=0).fit([["a"], ["b"]], [["N"], ["N"]], **FIT)
    assert model.predict([["c"]]) == [["N"]]
    for N, part, what in ((2, 0.9, "all"), (3, 0.1, "none")):
        for make in (SequenceTagger, MemoryNetwork):
            data = (WORDS[:N], TAGS[:N]) if make is SequenceTagger else (STORIES[:N], ["attic", "hall", "attic"][:N])
            with pytest.raises(
                ValueError,
                match=(
                    f"validation={part} of {N} would hold out {what}: give a fraction from 0.[23]0? to 0.[78]0?, or 0"
                ),
            ):
                make(seed=0).fit(*data, validation=part, **FIT)


def test_r2_needs_rows_that_differ():
    y = np.arange(20.0)
    for held, message in (
        ((X[:1], y[:1]), "has 1 row of targets, but R² needs at least 2"),
        ((X[:3], y[[1, 1, 1]]), "all 3 held-out targets are 1"),
    ):
        with pytest.raises(ValueError, match=message):
            SequenceRegressor("gru", 4).fit(X, y, validation=held, monitor="r2", **FIT)
    model = SequenceRegressor("gru", 4, seed=0).fit(X, y, validation=(X[:1], y[:1]), **FIT)
    with pytest.raises(ValueError, match="y has 1 row, but R² needs at least 2"):
        model.score(X[:1], y[:1])
    assert model.score(X[:3], [0.1, 0.1, 0.1]) == 0  # their mean is rounded


# --- forms --------------------------------------------------------------------


def forms():
    """Return X in equivalent forms."""
    ragged = np.empty(len(X), object)
    ragged[:] = X
    padded = np.full((len(X), 7, 2), np.nan)
    for k, x in enumerate(X):
        padded[k, : len(x)] = x
    cells = np.empty((len(X), 2), object)
    for k, x in enumerate(X):
        cells[k] = [x[:, 0], x[:, 1]]
    return {"object array": ragged, "padded with NaN": padded, "cells": cells, "nested lists": [x.tolist() for x in X]}


@pytest.mark.parametrize("form", ["object array", "padded with NaN", "cells", "nested lists"])
def test_other_forms_of_sequences_give_the_same_bits(form):
    wanted = SequenceClassifier("gru", 4, seed=0).fit(X, Y, **FIT)
    model = SequenceClassifier("gru", 4, seed=0).fit(forms()[form], Y.astype(object), **FIT)
    assert_array_equal(model.storage.flat, wanted.storage.flat)
    assert_array_equal(model.predict_proba(forms()[form]), wanted.predict_proba(X))
    assert model.classes_.tolist() == ["a", "b"]


@pytest.mark.pandas
@pytest.mark.sklearn
@pytest.mark.torch
def test_frames_and_tensors_give_the_same_bits():
    import pandas as pd
    import torch

    from fastrnn.sklearn import RNNClassifier

    nested = pd.DataFrame({"p": [pd.Series(x[:, 0]) for x in X], "q": [pd.Series(x[:, 1]) for x in X]})
    tensors = [torch.tensor(x, requires_grad=True) for x in X]
    labels = pd.DataFrame({"label": Y})["label"]
    for make in (lambda: SequenceClassifier("gru", 4, seed=0), lambda: RNNClassifier((4,), max_iter=1, random_state=0)):
        wanted = fitted(make(), X, Y)
        for given, y in (
            (nested, labels),
            (nested, labels.astype("category")),
            (tensors, Y),
            *((form, labels) for form in forms().values()),
        ):
            assert_array_equal(fitted(make(), given, y).predict_proba(given), wanted.predict_proba(X))
    numbers = fitted(SequenceClassifier("gru", 4, seed=0), X, torch.arange(20) % 2)
    assert numbers.classes_.tolist() == [0, 1]


def fitted(model, X, y):
    """Return the model after one epoch."""
    return model.fit(X, y, **(FIT if isinstance(model, SequenceClassifier) else {}))


@pytest.mark.sklearn
@pytest.mark.pandas
@pytest.mark.parametrize(
    "given, options, match",
    [
        (lambda pd: [x[:, 0] for x in X], {},
         r"X is a list of 1-D arrays, .* for sequences give \[np.reshape\(x, \(-1, 1\)\) for x in X\]"),
        (lambda pd: [x[:, 0].tolist() for x in X], {}, "X is a list of 1-D arrays"),
        (lambda pd: pd.concat([pd.DataFrame(x) for x in X], keys=range(20)), {},
         "whose index has several levels: pass a list of frames"),
        (lambda pd: [X[0], X[1][:, 0], *X[2:]], {}, r"X\[1\] has 1 axes, but X\[0\] has 2"),
        (lambda pd: [[[1.0, 2.0], [3.0]]] * 20, {}, "sequence 0 is ragged"),
        (lambda pd: np.where(np.arange(7)[:, None] == 1, np.nan, np.ones((20, 7, 2))), {},
         "contains NaN: sequence 0 at step 1, feature 0"),
        (lambda pd: X, {"hidden_layer_sizes": ()}, r"hidden_layer_sizes is \(\), but at least one layer is needed"),
        (lambda pd: X, {"batch_size": 0}, "batch_size is 0, but it must be at least 1"),
        (lambda pd: [X[0] * 1e300, *X[1:]], {"standardize": False}, "which computes in float32"),
        (lambda pd: X[:12], {"early_stopping": True},
         r"validation_fraction=0.1 of 12 sequences, but 1 target is too few"),
    ],
)  # fmt: skip
def test_the_estimators_say_what_to_give(given, options, match):
    import pandas as pd

    from fastrnn.sklearn import RNNClassifier

    model = RNNClassifier(**{"hidden_layer_sizes": (4,), "max_iter": 1, **options})
    data = given(pd)
    with pytest.raises(ValueError, match=match):
        model.fit(data, Y[: len(X[:12]) if options.get("early_stopping") else 20])
    assert not hasattr(model, "classes_")


@pytest.mark.sklearn
def test_a_batch_size_of_auto_is_that_of_mlpclassifier():
    from fastrnn.sklearn import RNNClassifier

    auto, all_of_them = (
        RNNClassifier((4,), max_iter=2, n_iter_no_change=5, random_state=0, batch_size=size).fit(X, Y)
        for size in ("auto", 20)
    )
    assert auto.loss_curve_ == all_of_them.loss_curve_


@pytest.mark.sklearn
@pytest.mark.parametrize("name", ["RNNRegressor", "RNNForecaster", "RNNClassifier"])
def test_early_stopping_keeps_the_best_epoch_and_does_not_see_the_held_out_part(name):
    import fastrnn.sklearn
    from fastrnn.layers.feedforward import random_key
    from fastrnn.models.model import held_out_rows

    rng = np.random.default_rng(0)
    y = {"RNNRegressor": rng.standard_normal(20), "RNNClassifier": Y, "RNNForecaster": None}[name]
    options = dict(
        early_stopping=True,
        validation_fraction=0.3,
        max_iter=15,
        n_iter_no_change=20,
        learning_rate_init=0.1,
        random_state=0,
    )
    model = getattr(fastrnn.sklearn, name)((4,), **options).fit(X, y)
    out, _ = held_out_rows(20, 0.3, random_key(model._seed, 2))
    held = [X[k] for k in out]
    assert_allclose(model.score(held, None if y is None else y[out]), model.best_validation_score_, rtol=1e-6)
    changed = [x * 1000 if k in out else x for k, x in enumerate(X)]
    other = y.copy() if name == "RNNRegressor" else y
    if name == "RNNRegressor":
        other[out] *= 1000
    again = getattr(fastrnn.sklearn, name)((4,), **options).fit(changed, other)
    assert again.loss_curve_ == model.loss_curve_


@pytest.mark.sklearn
def test_an_estimator_whose_fit_fails_is_what_it_was():
    from fastrnn.sklearn import RNNClassifier

    model = RNNClassifier((4,), max_iter=2, n_iter_no_change=5, random_state=0).fit(X, Y)
    before, kept = model.predict(X), dict(model.__dict__)
    other = [x[:, [0, 1, 1]] for x in X]
    with pytest.raises(ValueError, match="learning_rate_init|lr"):
        model.set_params(learning_rate_init=-1).fit(other, np.arange(20) % 3)
    assert model.__dict__ == kept | {"learning_rate_init": -1}
    assert_array_equal(model.predict(X), before)


def test_labels_of_a_tagger_are_checked_batch_by_batch():
    """The targets of a batch are those of its sentences, even if some tags are unknown."""
    model = SequenceTagger("gru", 4, seed=0).fit(WORDS, TAGS, **FIT)
    with pytest.warns(UserWarning, match="'new'"):
        batches = Sentences(model, [["dogs"], ["cats", "bark"]], [["VERB"], ["new", "NOUN"]], 2, None, None)
    [batch] = batches
    assert batch[-1].T.tolist() == [[-1, 0], [1, 0]]
    logits = model._logits(batch).astype(float)
    nll = np.log(np.exp(logits).sum(2)) - np.take_along_axis(logits, np.maximum(batch[-1], 0)[..., None], 2)[..., 0]
    found = model.evaluate(batches)
    assert_allclose(found["loss"], (nll[1, 0] + nll[0, 1]) / 2, rtol=1e-6)  # the mean over the two known tags
    assert found["accuracy"] == ((logits.argmax(2) == batch[-1])[[0, 1, 0], [0, 0, 1]]).sum() / 3


@pytest.mark.filterwarnings("ignore:no evaluation found a better")
@pytest.mark.parametrize("name", ["classifier", "stories"])
def test_a_held_out_loss_is_the_mean_over_the_labels_that_are_known(name):
    make, data, (held_X, held_y), _ = UNSEEN[name]
    known = [k for k, label in enumerate(held_y) if label != "new"]
    found = caught(lambda: make().fit(*data, validation=(held_X, held_y), **FIT))[0].history[0]
    wanted = make().fit(*data, validation=([held_X[k] for k in known], [held_y[k] for k in known]), **FIT).history[0]
    assert_allclose(found["validation_loss"], wanted["validation_loss"], rtol=1e-6)
    assert found["validation_accuracy"] == wanted["validation_accuracy"] / 2


def test_arrays_of_any_strides_come_back_from_disk(tmp_path):
    """The columns of a frame are contiguous in memory, and so is the end of its series that a Forecaster saves."""
    arrays = {
        "fortran": np.asfortranarray(np.arange(6.0).reshape(3, 2)),
        "strided": np.arange(12.0).reshape(6, 2)[::2],
        "scalar": np.array(3.0),
    }
    storage.save(tmp_path, arrays, {})
    for name, array in storage.load(tmp_path)[0].items():
        assert array.shape == arrays[name].shape
        assert_array_equal(array, arrays[name])

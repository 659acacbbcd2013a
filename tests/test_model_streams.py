"""Streams of fitted models: the outputs of whole sequences, bit for bit."""

import numpy as np
import pytest

from fastrnn.models import LanguageModel, SequenceClassifier, SequenceRegressor

CELLS = ["rnn", "gru", "lstm"]


def sequences(seed, N=12, T=9):
    """Return features (N, T, 3) far from mean 0 and deviation 1."""
    return np.random.default_rng(seed).standard_normal((N, T, 3)) * [1, 50, 1e-3] + [0, 1000, 5]


@pytest.fixture(params=CELLS)
def cell(request):
    return request.param


def prefixes(x_of_one):
    return [x_of_one[: t + 1] for t in range(len(x_of_one))]


@pytest.mark.parametrize(
    "hidden_size, num_layers, dtype", [(5, 1, "float32"), (33, 2, "float64"), ([6, 4], 2, "float32")]
)
def test_classifier_gives_the_probabilities_of_each_prefix(cell, hidden_size, num_layers, dtype):
    X = sequences(0)
    model = SequenceClassifier(cell, hidden_size, num_layers, dropout=0.3, dtype=dtype, seed=0)
    model.fit(X, np.arange(12) % 3, epochs=2, verbose=False)
    want = [model.predict_proba(prefixes(x)) for x in X[:4]]
    alone, together = model.stream(), model.stream(4)
    got = np.stack([together.step(X[:4, t]) for t in range(9)], 1)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.stack([alone.step(x_t[None])[0] for x_t in X[0]]), want[0])
    together.reset(rows=[2])
    state = together.state
    first = together.step(X[:4, 0])
    np.testing.assert_array_equal(first[2], want[2][0])
    assert (first[0] != want[0][0]).any()
    together.state = state
    np.testing.assert_array_equal(together.step(X[:4, 0]), first)
    together.reset()
    halves = [together.run(X[:4, a:b].swapaxes(0, 1)) for a, b in ((0, 4), (4, 9))]
    np.testing.assert_array_equal(np.concatenate(halves).swapaxes(0, 1), want)


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("per_step", [True, False])
def test_regressor_gives_the_predictions_of_each_prefix(cell, per_step, flat):
    X = sequences(1)
    y = 1e4 + 300 * X[..., :2].cumsum(1)
    y = y if per_step else y[:, -1]
    model = SequenceRegressor(cell, 7, per_step=per_step, seed=0).fit(
        X, y[..., 0] if flat else y, epochs=2, verbose=False
    )
    for x in X[:3]:
        want = model.predict([x])[0] if per_step else model.predict(prefixes(x))
        s = model.stream()
        got = np.stack([s.step(x_t[None])[0] for x_t in x])
        assert got.dtype == np.float64
        np.testing.assert_array_equal(got[:, 0] if flat else got, want)
        s.reset()
        np.testing.assert_array_equal(s.run(x[:, None])[:, 0], got)


@pytest.mark.filterwarnings("ignore:the text has words")  # the first, which has no blank before it
@pytest.mark.parametrize(
    "options", [{}, {"level": "word"}, {"level": "byte"}, {"tied": True}, {"num_layers": 2}], ids=str
)
def test_language_model_gives_the_score_of_a_text(cell, options):
    text = "the quick brown fox jumps over the lazy dog. the dog sleeps, the fox sings. " * 12
    text = text.strip()
    model = LanguageModel(cell, 16, seed=0, **options).fit(
        text, epochs=1, batch_size=4, seq_len=9, validation=0.0, verbose=False
    )
    some = text[:60]
    ids = model.vocabulary.encode(some)
    s = model.stream()
    logp = s.run(some)[:, 0]
    np.testing.assert_allclose(np.exp(logp).sum(1), 1, rtol=1e-5)
    mean = np.mean(logp[np.arange(len(ids) - 1), ids[1:]])
    np.testing.assert_allclose(mean, model.score(some), rtol=1e-5)
    s.reset()
    np.testing.assert_array_equal(np.stack([s.step([i])[0] for i in ids]), logp)
    pair = model.stream(2).run(np.stack([ids, ids[::-1]], 1))
    np.testing.assert_array_equal(pair[:, 0], logp)
    if "level" not in options:
        s.reset()
        np.testing.assert_array_equal(np.stack([s.step(symbol)[0] for symbol in some]), logp)
    if options == {"level": "byte"}:
        s.reset()
        np.testing.assert_array_equal(s.run(some.encode())[:, 0], logp)


def test_refresh_and_loading(tmp_path):
    X = sequences(2)
    model = SequenceClassifier("gru", 8, seed=0).fit(X, np.arange(12) % 2, epochs=1, verbose=False)
    model.save(tmp_path / "model")
    again = SequenceClassifier.load(tmp_path / "model")
    s, before = again.stream(), again.predict_proba(X[:1])
    np.testing.assert_array_equal(s.run(X[0][:, None])[-1], before)
    again.fit(X, np.arange(12) % 2, epochs=1, lr=0.1, verbose=False)  # makes new layers: the stream keeps the old ones
    s.reset()
    np.testing.assert_array_equal(s.run(X[0][:, None])[-1], before)
    with again.rnn.updating() as flat:
        flat *= 0.5
    s = again.stream()
    with again.rnn.updating() as flat:
        flat *= 0.5
    s.refresh()
    np.testing.assert_array_equal(s.run(X[0][:, None])[-1], again.predict_proba(X[:1]))


def test_refusals_leave_the_state_as_it_was():
    X, y = sequences(3), np.arange(12) % 2
    with pytest.raises(RuntimeError, match="fit"):
        SequenceClassifier().stream()
    with pytest.raises(RuntimeError, match="fit"):
        LanguageModel().stream()
    for pooling in ("mean", "max"):
        model = SequenceClassifier("rnn", 4, pooling=pooling, seed=0).fit(X, y, epochs=1, verbose=False)
        with pytest.raises(ValueError, match=f"pooling='{pooling}'"):
            model.stream()
    model = SequenceRegressor("rnn", 4, bidirectional=True, seed=0).fit(X, y, epochs=1, verbose=False)
    with pytest.raises(ValueError, match="bidirectional|reverse"):
        model.stream()
    model = SequenceRegressor("rnn", 4, pooling="mean", per_step=True, seed=0)
    model.fit(X, X[..., 0], epochs=1, verbose=False).stream()  # the pooling is not used
    s = model.stream(2)
    s.step(X[:2, 0])
    state = s.state
    bad = X[:2, 1].copy()
    bad[1, 2] = np.nan
    wrong = [
        (s.step, X[0, 0], "shape"), (s.step, X[:3, 0], "shape"), (s.step, bad, r"x_t\[1, 2\] is nan"),
        (s.run, X[:2, 0], "shape"), (s.run, X[:2, :3], "shape"), (s.step, X[:2, 0] * 1e300, "has"),
    ]  # fmt: skip
    for call, x, message in wrong:
        with pytest.raises(ValueError, match=message):
            call(x)
    with pytest.raises(TypeError, match="real numbers"):
        s.step(np.array([["a"] * 3] * 2))
    np.testing.assert_array_equal(s.state[0], state[0])


def test_refusals_of_texts():
    model = LanguageModel("rnn", 4, seed=0).fit("abcabcabd " * 40, epochs=1, batch_size=4, seq_len=5, verbose=False)
    s = model.stream()
    state = s.step("a") is not None and s.state
    for call, text, message in [
        (s.step, "x", "not been trained on: 'x'"), (s.run, "abx", "not been trained on"), (s.step, "ab", "2 symbols"),
        (s.step, [99], "99"), (s.step, [-1], "-1"), (s.step, [0, 1], "shape"), (s.run, [[0, 1]], "shape"),
    ]:  # fmt: skip
        with pytest.raises((ValueError, IndexError), match=message):
            call(text)
    for symbol in (b"a", ["a", "b"]):
        with pytest.raises(TypeError, match="give a str|must be ids"):
            s.step(symbol)
    one = model.stream()
    same = [one.step(0), one.run([1, 2])[-1]]
    np.testing.assert_array_equal(same[1], model.stream().run([[0], [1], [2]])[-1])
    with pytest.raises(ValueError, match="2: give ids"):
        model.stream(2).step("a")
    np.testing.assert_array_equal(s.state[0], state[0])
    assert s.run("").shape == (0, 1, 5)


@pytest.mark.pandas
def test_columns_of_data_frames_are_matched_by_name():
    import pandas

    X = [pandas.DataFrame(x, columns=["a", "b", "c"]) for x in sequences(4)]
    model = SequenceClassifier("gru", 6, seed=0).fit(X, np.arange(12) % 2, epochs=1, verbose=False)
    s, turned = model.stream(), model.stream()
    for t in range(9):
        row = X[0].iloc[t : t + 1]
        got = s.step(row)
        np.testing.assert_array_equal(turned.step(row[["c", "a", "b"]]), got)
    np.testing.assert_array_equal(got, model.predict_proba(X[:1]))
    with pytest.raises(ValueError, match="has the columns a, b, zzz, but the model needs a, b, c"):
        s.step(row.rename(columns={"c": "zzz"}))
    with pytest.raises(ValueError, match=r"pass x_t\[None\]"):
        s.step(np.zeros(3))


def test_a_stream_remains_what_the_model_was():
    X = sequences(5)
    model = SequenceRegressor("gru", 8, seed=0).fit(X, X.sum((1, 2)), epochs=1, verbose=False)
    s = model.stream()
    before = s.run(X[0][:, None])
    model.fit(100 * X + 5, 1e6 + 1e3 * X.sum((1, 2)), epochs=1, verbose=False)
    s.refresh()
    s.reset()
    np.testing.assert_array_equal(s.run(X[0][:, None]), before)

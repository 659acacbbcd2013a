"""SequenceClassifier and its batches: gradients of the whole model, laws of rows and seeds, invalid data."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastrnn
from fastrnn.batches import Sequences
from fastrnn.losses import softmax_cross_entropy
from fastrnn.models import LanguageModel, SequenceClassifier
from fastrnn.models.labelled import Batch

QUICK = dict(epochs=4, batch_size=8, lr=0.01, verbose=False)


def data(N=60, seed=0, width=3):
    """Return sequences of 1 to 9 steps whose label is the feature with the greatest sum."""
    rng = np.random.default_rng(seed)
    X = [rng.standard_normal((rng.integers(1, 10), width)) for _ in range(N)]
    return X, [f"feature {x.sum(0).argmax()}" for x in X]


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
@pytest.mark.parametrize(
    "cell, layers, bidirectional", [("rnn", 1, False), ("gru", 2, True), ("lstm", 1, True), ("lstm", 2, False)]
)
def test_gradients_through_the_whole_model(cell, layers, bidirectional, pooling):
    X, y = data(6)
    model = SequenceClassifier(cell, 4, layers, bidirectional=bidirectional, pooling=pooling, dtype="float64", seed=1)
    model.fit(X, y, epochs=0, verbose=False)
    [ragged] = Sequences([x * 1.5 for x in X], 6)
    targets, weights = np.unique(y, return_inverse=True)[1][ragged.rows], np.arange(1.0, 7.0)
    gradient = np.zeros_like(model.storage.flat)
    loss, _ = model.loss_and_gradient(Batch(ragged, targets, weights), into=gradient, rng=0)

    def loss_at(flat):
        with model.storage.updating() as parameters:
            parameters[:] = flat
        nll = softmax_cross_entropy(model._outputs(ragged), targets, reduction="none")
        return (nll * weights).sum() / weights.sum()

    flat, rng = model.storage.flat.copy(), np.random.default_rng(2)
    assert_allclose(loss, loss_at(flat), rtol=1e-12)
    for _ in range(4):
        direction = rng.standard_normal(flat.size)
        numeric = (loss_at(flat + 1e-6 * direction) - loss_at(flat - 1e-6 * direction)) / 2e-6
        assert_allclose(gradient @ direction, numeric, rtol=1e-6, atol=1e-9)


def test_it_learns_and_says_how_well():
    X, y = data(700)
    model = SequenceClassifier("gru", 16, seed=0).fit(
        X[:500], y[:500], epochs=25, lr=0.02, validation=(X[500:600], y[500:600]), verbose=False
    )
    assert model.score(X[600:], y[600:]) > 0.9
    best = min(model.history, key=lambda entry: entry["validation_loss"])
    assert_allclose(best["validation_accuracy"], model.score(X[500:600], y[500:600]))
    p = model.predict_proba(X[600:])
    assert_allclose(p.sum(1), 1, rtol=1e-5)
    assert_array_equal(model.predict(X[600:]), model.classes_[p.argmax(1)])


def test_a_prediction_depends_on_its_own_sequence_only():
    X, y = data()
    model = SequenceClassifier("lstm", 8, bidirectional=True, seed=0).fit(X, y, **QUICK)
    p = model.predict_proba(X)
    for i in (0, 17, 59):
        assert_array_equal(model.predict_proba(X[i : i + 1])[0], p[i])


def test_an_array_of_equal_sequences_is_a_list_of_them():
    X, y = np.random.default_rng(0).standard_normal((12, 5, 2)), np.arange(12) % 3
    one = SequenceClassifier("rnn", 4, seed=0).fit(X, y, **QUICK)
    other = SequenceClassifier("rnn", 4, seed=0).fit(list(X), y.tolist(), **QUICK)
    assert_array_equal(one.storage.flat, other.storage.flat)


def test_the_same_seed_gives_the_same_bits_on_any_number_of_threads():
    X, y = data()
    flats = []
    for threads in (1, 2):
        with fastrnn.threads(threads):
            flats.append(
                SequenceClassifier("gru", 40, 2, dropout=0.2, bidirectional=True, seed=3)
                .fit(X, y, **QUICK)
                .storage.flat
            )
    assert_array_equal(*flats)
    assert (
        SequenceClassifier("gru", 40, 2, dropout=0.2, bidirectional=True, seed=4).fit(X, y, **QUICK).storage.flat
        != flats[0]
    ).any()


def test_save_and_load_keep_the_predictions_and_the_scaler(tmp_path):
    X, y = data()
    X = [1000 + 50 * x for x in X]
    model = SequenceClassifier("lstm", 8, pooling="mean", seed=0).fit(X, y, **QUICK)
    model.save(tmp_path / "m")
    again = SequenceClassifier.load(tmp_path / "m")
    assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert again.score(X, y) == model.score(X, y) and again.history == model.history and repr(again) == repr(model)
    with pytest.raises(ValueError, match="holds a 'SequenceClassifier', but this is LanguageModel.load"):
        LanguageModel.load(tmp_path / "m")


def test_standardizing_takes_out_shift_and_scale():
    X, y = data()
    one = SequenceClassifier("gru", 8, dtype="float64", seed=0).fit(X, y, **QUICK)
    other = SequenceClassifier("gru", 8, dtype="float64", seed=0).fit([5 - 3 * x for x in X], y, **QUICK)
    other_sign = SequenceClassifier("gru", 8, dtype="float64", seed=0).fit([5 + 3 * x for x in X], y, **QUICK)
    assert_allclose(one.predict_proba(X), other_sign.predict_proba([5 + 3 * x for x in X]), atol=1e-9)
    assert not np.allclose(one.predict_proba(X), other.predict_proba([5 - 3 * x for x in X]))
    constant = [np.concatenate([x, np.full((len(x), 1), 7.0)], 1) for x in X]
    assert np.isfinite(SequenceClassifier("rnn", 4, seed=0).fit(constant, y, **QUICK).predict_proba(constant)).all()


def test_a_resumed_run_ends_with_the_same_bits(tmp_path):
    X, y = data()
    make = dict(dropout=0.3, seed=5)
    options = dict(batch_size=8, lr=0.01, validation=0.2, verbose=False)
    whole = SequenceClassifier("gru", 8, **make).fit(X, y, epochs=6, checkpoint=tmp_path / "whole", **options)
    SequenceClassifier("gru", 8, **make).fit(X, y, epochs=2, checkpoint=tmp_path / "part", **options)
    resumed = SequenceClassifier("gru", 8, **make).fit(
        X, y, epochs=6, checkpoint=tmp_path / "part", resume=True, **options
    )
    assert_array_equal(resumed.storage.flat, whole.storage.flat)
    assert resumed.history == whole.history
    with pytest.raises(ValueError, match="made with data="):
        SequenceClassifier("gru", 8, **make).fit(
            X[1:], y[1:], epochs=6, checkpoint=tmp_path / "part", resume=True, **options
        )


def test_a_weight_of_two_is_a_sequence_twice():
    X, y = data(20)
    weights = np.ones(20)
    weights[:5] = 2
    options = dict(epochs=3, batch_size=100, lr=0.01, verbose=False)
    one = SequenceClassifier("rnn", 4, dtype="float64", standardize=False, seed=0).fit(
        X, y, sample_weight=weights, **options
    )
    other = SequenceClassifier("rnn", 4, dtype="float64", standardize=False, seed=0).fit(
        X + X[:5], y + y[:5], **options
    )
    assert_allclose(one.storage.flat, other.storage.flat, rtol=1e-9, atol=1e-12)
    share = {label: y.count(label) for label in set(y)}
    by_label = {label: 20 / len(share) / n for label, n in share.items()}
    one = SequenceClassifier("rnn", 4, seed=0).fit(X, y, class_weight=by_label, **options)
    other = SequenceClassifier("rnn", 4, seed=0).fit(X, y, class_weight="balanced", **options)
    assert_array_equal(one.storage.flat, other.storage.flat)


NAN = [np.zeros((4, 2)), np.array([[1.0, 2.0], [3.0, np.nan]])]


@pytest.mark.parametrize(
    "X, y, options, error, message",
    [
        ([], [], {}, ValueError, "there are no sequences"),
        (np.zeros((3, 4)), [0, 1, 0], {}, ValueError,
         r"X must be an array \(N, T, features\) or a list of N arrays \(T, features\), got shape \(3, 4\)"),
        ([np.zeros(4)], [0], {}, ValueError,
         r"sequence 0 has shape \(4,\), but it must be \(T, features\): for one feature pass x\[:, None\]"),
        ([np.zeros((4, 2)), np.zeros((0, 2))], [0, 1], {}, ValueError, "sequence 1 has no steps: leave it out"),
        ([np.zeros((4, 2)), np.zeros((3, 5))], [0, 1], {}, ValueError,
         "sequence 1 has 5 features, but sequence 0 has 2"),
        (NAN, [0, 1], {}, ValueError,
         "sequence 1 has nan at step 1, feature 1: replace such values, or leave the sequence out"),
        ([np.full((4, 2), "a")], [0], {}, TypeError, "sequence 0 is <U1, but it must hold real numbers"),
        ([np.zeros((4, 2))] * 2, [0], {}, ValueError, r"y has shape \(1,\), but there are 2 sequences"),
        ([np.zeros((4, 2))] * 2, [0.5, 1.5], {}, TypeError,
         r"y\[0\] is 0.5, but labels must be all strings or all whole numbers"),
        ([np.zeros((4, 2))] * 2, np.array([0.0, 1.0]), {}, TypeError,
         r"y is float64, but labels must be .*: convert them with y.astype\(int\)"),
        ([np.zeros((4, 2))] * 2, ["up", 1], {}, TypeError,
         r"y\[1\] is 1, and y\[0\] is 'up', but labels must be all strings or all whole"),
        ([np.zeros((4, 2))] * 2, ["a", "a"], {}, ValueError, "y has only the class 'a', but there must be at least 2"),
        ([np.zeros((4, 2))] * 2, [0, 1], {"class_weight": {0: 1.0}}, ValueError, "class_weight has no weight for 1"),
        ([np.zeros((4, 2))] * 2, [0, 1], {"class_weight": "equal"}, ValueError,
         "class_weight is 'equal', but it must be one of 'balanced'"),
        ([np.zeros((4, 2))] * 2, [0, 1], {"sample_weight": [1, -1]}, ValueError,
         "weights must be finite and not negative, got -1.0"),
        ([np.zeros((4, 2))] * 2, [0, 1], {"sample_weight": [1]}, ValueError,
         r"weights have shape \(1,\), but the targets have shape \(2,\)"),
        ([np.zeros((4, 2))] * 2, [0, 1], {"validation": ([np.zeros((4, 3))], [0])}, ValueError,
         "sequence 0 has 3 features, but this model was fitted with 2"),
        ([np.zeros((4, 2))] * 2, [0, 1], {"validation": ([np.zeros((4, 2))], [7])}, UserWarning,
         "the held-out part has labels .*: 7; 1 of 1"),
        ([np.zeros((4, 2))] * 2, [0, 1], {"validation": 1.0}, ValueError,
         "validation is 1.0, but it must be a number from 0"),
        ([np.zeros((4, 2))] * 2, [0, 1], {"batch_size": 0}, ValueError, "batch_size is 0, but it must be at least 1"),
        ([np.zeros((4, 2))] * 2, [0, 1], {"momentum": 1}, TypeError, "momentum"),
    ],
)  # fmt: skip
def test_bad_data_is_named_before_any_work(X, y, options, error, message):
    model = SequenceClassifier("rnn", 4, seed=0)
    with pytest.raises(error, match=message):
        model.fit(X, y, verbose=False, **options)
    assert model.storage is None


def test_a_fitted_model_keeps_what_it_learnt_when_new_data_is_wrong():
    X, y = data()
    model = SequenceClassifier("rnn", 4, seed=0).fit(X, y, **QUICK)
    before = model.storage.flat.copy()
    with pytest.raises(ValueError, match="sequence 0 has 2 features, but this model was fitted with 3"):
        model.predict([np.zeros((4, 2))])
    with pytest.raises(ValueError, match="y has only the class"):
        model.fit(X, ["a"] * len(X), **QUICK)
    assert_array_equal(model.storage.flat, before)
    with pytest.raises(
        RuntimeError, match=r"has not been fitted: call fit\(…\) or SequenceClassifier.load\(directory\)"
    ):
        SequenceClassifier().predict(X)


@pytest.mark.parametrize("max_steps", [None, 30, 1])
def test_every_sequence_comes_once_in_an_epoch_beside_others_of_its_length(max_steps):
    rng = np.random.default_rng(0)
    X = [rng.standard_normal((rng.integers(1, 20), 2)).astype("float32") for _ in range(101)]
    batches = Sequences(X, 8, max_steps=max_steps, seed=1)
    orders = []
    for epoch in range(3):
        batches.begin(epoch)
        found = [batches[i] for i in range(len(batches))]
        assert sorted(np.concatenate([batch.rows for batch in found])) == list(range(101))
        assert sum(map(batches.steps_of, found)) == batches.steps == sum(map(len, X))
        for batch in found:
            T, B = batch.x.shape[:2]
            assert B <= 8 and T == batch.lengths.max() and (max_steps is None or T * B <= max_steps or B == 1)
            for b, row in enumerate(batch.rows):
                assert_array_equal(batch.x[: batch.lengths[b], b], X[row])
                assert not batch.x[batch.lengths[b] :, b].any()
        padded = sum(batch.x[..., 0].size for batch in found)
        assert padded <= 1.15 * batches.steps
        orders.append([batch.rows.tolist() for batch in found])
    assert orders[0] != orders[1]
    batches.begin(0)
    assert [batch.rows.tolist() for batch in batches] == orders[0]


# --- generators ---------------------------------------------------------------


def batches_of(epoch):
    rng = np.random.default_rng(epoch)
    while True:
        X = [rng.standard_normal((rng.integers(2, 7), 2)) for _ in range(16)]
        yield X, [("down", "up")[int(x[:, 0].sum() > 0)] for x in X]


def test_a_generator_is_data_and_resumed_training_continues_with_the_same(tmp_path):
    options = dict(updates=12, classes=["up", "down"], verbose=False, lr=0.02, validation=next(batches_of(99)))
    whole = SequenceClassifier("gru", 8, seed=0).fit(batches_of, epochs=6, **options)
    held_out = next(batches_of(100))
    assert (
        whole.score(*held_out) > 0.8 and whole.classes_.tolist() == ["down", "up"] and whole.history[-1]["update"] == 72
    )
    stop = [lambda entry: entry["update"] == 17]
    SequenceClassifier("gru", 8, seed=0).fit(
        batches_of, epochs=6, evaluate_every=5, callbacks=stop, checkpoint=tmp_path, **options
    )
    resumed = SequenceClassifier("gru", 8, seed=0).fit(
        batches_of, epochs=6, evaluate_every=5, checkpoint=tmp_path, resume=True, **options
    )
    assert resumed.history[-1]["update"] == 72
    again = SequenceClassifier("gru", 8, seed=0).fit(batches_of, epochs=6, evaluate_every=5, **options)
    assert_array_equal(resumed.storage.flat, again.storage.flat)


def test_what_a_generator_lacks_is_named():
    make = dict(updates=3, classes=["up", "down"], epochs=1, verbose=False)
    with pytest.raises(ValueError, match="X is a generator: give updates .* and classes"):
        SequenceClassifier().fit(batches_of, updates=3, verbose=False)
    with pytest.raises(ValueError, match="updates and classes are for a generator, but X is not one"):
        SequenceClassifier().fit(*data(), updates=3, verbose=False)
    with pytest.raises(ValueError, match="the generator ended in epoch 0 before batch 3, but updates=3: lower updates"):
        SequenceClassifier().fit(lambda epoch: [next(batches_of(epoch))] * 2, **make)
    with pytest.raises(ValueError, match="y has labels that are not among classes: 'left'"):
        SequenceClassifier().fit(lambda epoch: iter([([np.ones((2, 2))], ["left"])]), **make)

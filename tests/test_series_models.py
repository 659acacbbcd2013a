"""Models of numbers: SequenceRegressor, Forecaster, EventModel."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from whole_model import assert_gradient

from fastrnn.batches import Sequences
from fastrnn.losses import QuantileLoss, binary_cross_entropy, mean_squared_error
from fastrnn.models import EventModel, Forecaster, SequenceClassifier, SequenceRegressor

QUIET = dict(verbose=False)


def ragged(n=40, seed=0):
    rng = np.random.default_rng(seed)
    X = [rng.standard_normal((rng.integers(2, 9), 3)) * 5 + 20 for _ in range(n)]
    return X, np.array([[x[:, 0].mean() * 100, x[-1, 1]] for x in X]), [np.cumsum(x[:, :2] - 20, 0) for x in X]


def events(n=12, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.random((rng.integers(1, 12), 6)) < 0.3).astype(float) for _ in range(n)]


def series(T=90):
    t = np.arange(T)
    return np.exp(3 + 0.01 * t + 0.3 * np.sin(t * np.pi / 6))


# --- gradients ----------------------------------------------------------------


@pytest.mark.parametrize("cell, layers", [("rnn", 1), ("gru", 2), ("lstm", 2)])
def test_gradients_through_the_whole_regressor(cell, layers):
    X, y, steps = ragged(6)
    for per_step, pooling, targets in ((False, "mean", y), (False, "last", y), (True, "last", steps)):
        model = SequenceRegressor(
            cell,
            4,
            layers,
            bidirectional=True,
            pooling=pooling,
            per_step=per_step,
            dropout=0.3,
            dtype="float64",
            seed=1,
        )
        model.fit(X, targets, epochs=0, **QUIET)
        weights = np.arange(1.0, 7.0)
        scaled = [model._target_scaler(t) for t in targets] if per_step else model._target_scaler(targets)
        [batch] = model._batches(X, scaled, weights, None, 6, None, 0, model._scaler)[0]
        assert_gradient(model, batch)


@pytest.mark.parametrize(
    "options", [{}, {"quantiles": (0.1, 0.5)}, {"season": 12, "log": True, "dropout": 0.3, "num_layers": 2}]
)
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_gradients_through_the_whole_forecaster(cell, options):
    from fastrnn.models.windows import Windows

    model = Forecaster(7, 5, cell=cell, hidden_size=4, dtype="float64", seed=2, **options)
    both = np.stack([series(), series()[::-1]], 1)
    model.fit(both, np.arange(90.0)[:, None] % 7, epochs=0, **QUIET)
    inputs = np.random.default_rng(0).standard_normal((20, 4))
    batch = Windows([inputs], model, 2, 64, None)[0]
    assert (
        batch[0].shape == (12, 9, 4)
        and (batch[0][7:, :, :2] == 0).all()
        and (batch[0][..., 3] == (np.arange(12) >= 7)[:, None])[7:].all()
    )
    assert_gradient(model, batch)


@pytest.mark.parametrize("cell, layers", [("rnn", 1), ("gru", 2), ("lstm", 1)])
def test_gradients_through_the_whole_event_model(cell, layers):
    X = events()
    model = EventModel(cell, 5, layers, input_dropout=0.2, dropout=0.4, dtype="float64", seed=3).fit(
        X, epochs=0, **QUIET
    )
    [batch] = Sequences([x.astype(float) for x in X], 20)
    assert_gradient(model, batch)


# --- what they learn, and how they are saved ------------------------------------


@pytest.mark.parametrize("per_step", [False, True])
def test_a_regressor_learns_and_can_be_loaded(per_step, tmp_path):
    X, y, steps = ragged(200)
    targets = steps if per_step else y
    model = SequenceRegressor("gru", 24, pooling="mean", per_step=per_step, seed=0)
    model.fit(X[:150], targets[:150], epochs=40, lr=0.01, validation=(X[150:175], targets[150:175]), **QUIET)
    r2 = model.score(X[150:175], targets[150:175])
    best = min(model.history, key=lambda entry: entry["validation_loss"])
    assert_allclose(best["validation_r2"], r2, rtol=1e-4)
    assert model.score(X[175:], targets[175:]) > 0.6
    model.save(tmp_path)
    again = SequenceRegressor.load(tmp_path)
    for mine, theirs in zip(model.predict(X), again.predict(X)):
        assert_array_equal(mine, theirs)
    assert model.predict(X)[3].shape == (steps[3].shape if per_step else (2,))
    flat = SequenceRegressor("rnn", 4, per_step=per_step, seed=0).fit(
        X, [s[:, 0] for s in steps] if per_step else y[:, 0], epochs=1, **QUIET
    )
    assert flat.predict(X)[0].shape == (((len(X[0]),)) if per_step else ())


def test_r2_is_that_of_scikit_learn_by_its_formula():
    X, y, _ = ragged()
    model = SequenceRegressor("gru", 4, seed=0).fit(X, y, epochs=2, **QUIET)
    found = model.predict(X)
    want = np.mean(
        [1 - ((found[:, k] - y[:, k]) ** 2).sum() / ((y[:, k] - y[:, k].mean()) ** 2).sum() for k in range(2)]
    )
    assert_allclose(model.score(X, y), want, rtol=1e-5)


def test_sample_weights_of_zero_leave_sequences_out():
    X, y, _ = ragged(20)
    fit = dict(epochs=3, batch_size=64, **QUIET)
    weights = np.r_[np.ones(12), np.zeros(8)]
    scaled = SequenceRegressor("gru", 4, dtype="float64", standardize=False, seed=0)
    whole = scaled.fit(X, y, sample_weight=weights, **fit).storage.flat.copy()
    part = SequenceRegressor("gru", 4, dtype="float64", standardize=False, seed=0).fit(X[:12], y[:12], **fit)
    assert_allclose(whole, part.storage.flat, rtol=1e-9)


@pytest.mark.parametrize(
    "options", [{}, {"season": 12}, {"difference": True}, {"season": 12, "difference": True, "log": True}]
)
@pytest.mark.parametrize("K", [1, 2])
def test_differences_and_logarithms_are_undone(options, K):
    whole = np.stack([series(60), series(60)[::-1]][:K], 1)
    model = Forecaster(8, 30, dtype="float64", **options)
    changed = model._differences.apply(whole)
    lost = len(whole) - len(changed)
    future = changed[30 - lost :]  # of steps 30 to 60
    restored = model._differences.undo(np.stack([future, future], 1), whole[:30])
    assert_allclose(restored[:, 0], whole[30:], rtol=1e-9)
    assert_array_equal(restored[:, 0], restored[:, 1])


def test_a_forecaster_beats_the_seasonal_forecast_and_can_be_loaded(tmp_path):
    whole = series(132)
    model = Forecaster(24, 12, season=12, log=True, quantiles=(0.9, 0.5, 0.1), hidden_size=16, seed=0)
    model.fit(whole[:-24], epochs=30, lr=0.01, validation=24, **QUIET)
    assert model.mase(whole[-24:-12]) < 0.5 and model.score(whole[-24:-12]) == -model.mase(whole[-24:-12])
    low, median, high = model.predict_quantiles(24)
    assert (low <= median).all() and (median <= high).all()
    assert_array_equal(median[:, 0], model.predict(24))
    model.save(tmp_path)
    again = Forecaster.load(tmp_path)
    assert_array_equal(again.predict(30), model.predict(30))
    assert again.quantiles == [0.1, 0.5, 0.9]
    later = model.predict(series=whole[:-12])
    assert_allclose(later, whole[-12:], rtol=0.1)


def test_other_variables_are_used_for_the_future_too():
    rng = np.random.default_rng(0)
    exog = rng.standard_normal((200, 1))
    model = Forecaster(5, 6, cell="rnn", hidden_size=16, seed=1).fit(
        exog[:190, 0] * 3, exog[:190], epochs=60, lr=0.01, **QUIET
    )
    assert_allclose(model.predict(10, future_exog=exog[190:]), exog[190:, 0] * 3, atol=1.0)
    with pytest.raises(ValueError, match=r"future_exog has shape \(6, 2\), but \(6, 1\) is needed"):
        model.predict(future_exog=np.zeros((6, 2)))
    with pytest.raises(ValueError, match="this model was fitted with exog: give future_exog"):
        model.predict()


def test_steps_past_a_length_do_not_count_in_the_loss():
    X, _, steps = ragged(6)
    model = SequenceRegressor("gru", 4, per_step=True, dtype="float64", seed=1).fit(X, steps, epochs=0, **QUIET)
    scaled, scratch = [model._target_scaler(s) for s in steps], np.zeros(model.storage.size)

    def loss(rows):
        [batch] = model._batches(
            [X[i] for i in rows], [scaled[i] for i in rows], np.ones(len(rows)), None, 6, None, 0, model._scaler
        )[0]
        return model.loss_and_gradient(batch, into=scratch, rng=0)[0]

    lengths = np.array([len(x) for x in X])
    assert len(set(lengths)) > 1
    assert_allclose(loss(range(6)), np.average([loss([i]) for i in range(6)], weights=lengths), rtol=1e-12)


def test_quantiles_do_not_cross_even_before_training():
    model = Forecaster(7, 20, quantiles=(0.1, 0.3, 0.5, 0.9), seed=0).fit(series(), epochs=0, **QUIET)
    assert (np.diff(model.predict_quantiles(), axis=0) >= 0).all()


def test_other_variables_stay_beside_their_steps_where_differences_are_learnt():
    rng = np.random.default_rng(0)
    exog, x = rng.standard_normal((300, 1)), np.zeros(300)
    for t in range(4, 300):
        x[t] = x[t - 4] + exog[t, 0]
    model = Forecaster(5, 6, cell="rnn", season=4, hidden_size=16, seed=1).fit(
        x[:290], exog[:290], epochs=60, lr=0.01, **QUIET
    )
    assert_allclose(model.predict(4, future_exog=exog[290:294]), x[290:294], atol=0.5)


def test_events_are_predicted_from_the_steps_before_only():
    X = events(20)
    model = EventModel("lstm", 8, seed=0).fit(X, epochs=3, **QUIET)
    x = X[3].copy()
    before = model.predict([x])[0]
    x[4:] = 1 - x[4:]
    after = model.predict([x])[0]
    assert_array_equal(after[:5], before[:5])
    assert (after[5:] != before[5:]).any()
    p = np.concatenate(model.predict(X))
    seen = np.concatenate(X)
    assert_allclose(model.score(X), (np.log(np.where(seen == 1, p, 1 - p))).sum() / len(seen), rtol=1e-4)


def test_an_event_model_can_be_loaded_and_continues_alike(tmp_path):
    model = EventModel("gru", 8, 2, input_dropout=0.1, seed=0).fit(events(), epochs=2, **QUIET)
    model.save(tmp_path)
    again = EventModel.load(tmp_path)
    assert_array_equal(model.generate(20, seed=1), again.generate(20, seed=1))
    assert model.score(events()) == again.score(events())
    with pytest.raises(ValueError, match="holds a 'EventModel', but this is SequenceClassifier.load"):
        SequenceClassifier.load(tmp_path)


@pytest.mark.parametrize("make", [
    lambda **o: EventModel("gru", 6, dropout=0.2, seed=0).fit(events(), validation=0.2, **o),
    lambda **o: SequenceRegressor("lstm", 5, seed=0).fit(*ragged()[:2], validation=0.2, **o),
    lambda **o: Forecaster(7, 5, hidden_size=4, seed=0).fit(series(), validation=10, **o),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:no evaluation found a better")
def test_a_training_resumed_in_the_middle_has_the_same_bits(make, tmp_path):
    fit = dict(batch_size=4, lr=0.01, evaluate_every=2, **QUIET)
    whole = make(epochs=3, **fit)
    make(epochs=3, checkpoint=tmp_path, callbacks=[lambda entry: entry["update"] == 2], **fit)
    resumed = make(epochs=3, checkpoint=tmp_path, resume=True, **fit)
    assert_array_equal(whole.storage.flat, resumed.storage.flat)
    assert whole.history == resumed.history


def test_memory_mapped_sequences_are_not_read_into_memory(tmp_path):
    data = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", "float32", (30, 50, 4))
    data[:] = np.random.default_rng(0).standard_normal(data.shape)
    y = np.arange(30) % 2
    from fastrnn._check import data as check_data

    assert all(np.shares_memory(x, data) for x in check_data.sequences(data))
    mapped = SequenceClassifier("gru", 4, seed=0).fit(data, y, epochs=2, **QUIET)
    assert_array_equal(
        mapped.storage.flat, SequenceClassifier("gru", 4, seed=0).fit(np.array(data), y, epochs=2, **QUIET).storage.flat
    )


# --- losses -------------------------------------------------------------------

LOSSES = {"mse": mean_squared_error, "bce": binary_cross_entropy, "pinball": QuantileLoss((0.2, 0.5, 0.9))}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_of_losses_with_lengths_and_weights(name):
    loss, rng = LOSSES[name], np.random.default_rng(0)
    y = rng.standard_normal((5, 3, 6))
    targets = rng.random((5, 3, 2)) if name == "pinball" else rng.random((5, 3, 6))
    options = dict(lengths=[5, 0, 3], weights=rng.random((5, 3)))
    value, backward = loss.vjp(y, targets, **options)
    direction = rng.standard_normal(y.shape)
    numeric = (loss(y + 1e-6 * direction, targets, **options) - loss(y - 1e-6 * direction, targets, **options)) / 2e-6
    assert_allclose((backward() * direction).sum(), numeric, rtol=1e-6)
    assert_allclose((backward(2.5) * direction).sum(), 2.5 * numeric, rtol=1e-6)
    y[:, 1] = y[3:, 2] = np.nan
    assert loss.vjp(y, targets, **options)[0] == value
    assert (backward()[3:, 2] == 0).all() and loss(y[:0], targets[:0]) == 0


def test_weights_are_those_of_a_mean():
    y, targets = np.arange(6.0).reshape(3, 2), np.zeros((3, 2))
    assert_allclose(mean_squared_error(y, targets, weights=[1, 0, 2]), (0 + 1 + 2 * (16 + 25)) / (3 * 2))


@pytest.mark.torch
def test_losses_are_those_of_torch():
    import torch

    rng = np.random.default_rng(0)
    z, t = rng.standard_normal((7, 4)) * 30, rng.random((7, 4))
    want = torch.tensor(z, requires_grad=True)
    value = torch.nn.functional.binary_cross_entropy_with_logits(want, torch.tensor(t)) * 4
    value.backward()
    loss, backward = binary_cross_entropy.vjp(z, t)
    assert_allclose(loss, value.item(), rtol=1e-12)
    assert_allclose(backward(), want.grad.numpy(), rtol=1e-12, atol=1e-15)


def test_the_pinball_loss_is_least_at_the_quantile():
    targets = np.random.default_rng(0).standard_normal((1001, 1))
    grid = np.linspace(-3, 3, 601)
    for q in (0.1, 0.5, 0.8):
        best = grid[np.argmin([QuantileLoss([q])(np.full((1001, 1), g), targets) for g in grid])]
        assert_allclose(best, np.quantile(targets, q), atol=0.02)


# --- invalid input -------------------------------------------------------------

X3, Y3, S3 = ragged(3)
BAD = [
    (lambda: SequenceRegressor().fit(X3, [1, 2]), ValueError,
     r"y has shape \(2,\), but there are 3 sequences: give \(N,\) or \(N, K\) numbers"),
    (lambda: SequenceRegressor().fit(X3, [1, 2, np.nan]), ValueError,
     r"y has nan at \(2,\): replace or remove such values"),
    (lambda: SequenceRegressor().fit(X3, list("abc")), TypeError, "y is <U1, but it must hold real numbers"),
    (lambda: SequenceRegressor(per_step=True).fit(X3, [s[:-1] for s in S3]), ValueError,
     r"y\[0\] has shape .*, but X\[0\] has . steps"),
    (lambda: SequenceRegressor(per_step=True).fit(X3, S3[:2]), ValueError, "y has 2 sequences, but X has 3"),
    (lambda: EventModel().fit([np.full((3, 2), 0.5)]), ValueError, "sequence 0 has 0.5, but events are 0 or 1"),
    (lambda: EventModel().fit([np.ones((3, 2)), np.ones((3, 4))]), ValueError,
     "sequence 1 has 4 features, but sequence 0 has 2"),
    (lambda: EventModel().score([np.ones((3, 2))]), RuntimeError, "this EventModel has not been fitted"),
    (lambda: Forecaster(10, 5).fit(np.arange(12)), ValueError,
     "series 0 has 12 steps, but 15 are needed: window=10, horizon=5"),
    (lambda: Forecaster(5, 5).fit(np.arange(30), validation=3), ValueError,
     "validation=3 steps are fewer than horizon=5"),
    (lambda: Forecaster(5, 5, log=True).fit(np.arange(30)), ValueError,
     "log=True needs values above 0, but a series has 0"),
    (lambda: Forecaster(5, 5, quantiles=(0.1, 0.9)), ValueError,
     r"quantiles are \(0.1, 0.9\), but 0.5 must be among them"),
    (lambda: Forecaster(5, 5).fit([np.ones((30, 2)), np.ones((30, 3))]), ValueError,
     r"a series has shape \(30, 3\), but \(T,\) or \(T, 2\) is needed"),
    (lambda: Forecaster(5, 5).fit(np.ones(30), np.ones((29, 1))), ValueError,
     r"exog has shapes \[\(29, 1\)\], but the series have \[30\] steps"),
    (lambda: Forecaster(5, 5).fit(np.ones(30), epochs=1, optimizer="adamx"), ValueError, "optimizer is 'adamx'"),
    (lambda: Forecaster(5, 5).predict(), RuntimeError, "this Forecaster has not been fitted"),
    (lambda: binary_cross_entropy(np.ones((2, 3)), np.ones((2, 4))), ValueError, "targets"),
    (lambda: QuantileLoss((0.5, 1.5)), ValueError, "a quantile is 1.5"),
    (lambda: QuantileLoss((0.5, 0.9))(np.ones((2, 3)), np.ones((2, 1))), ValueError,
     r"y has shape \(2, 3\), but targets of shape \(2, 1\) need 2 quantiles"),
]  # fmt: skip


@pytest.mark.parametrize("call, error, message", BAD, ids=range(len(BAD)))
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()

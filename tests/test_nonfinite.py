"""NaN and infinity never get into a model: such an update stops the training, or is skipped, counted and reported."""

import json
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastrnn
from fastrnn import optim
from fastrnn.models import LanguageModel
from fastrnn.parameters import Storage

TEXT = "".join(f"{n} squared is {n * n}, and cubed {n**3}.\n" for n in range(60))
QUICK = dict(epochs=3, batch_size=4, seq_len=25, lr=0.01, verbose=False, validation=0)


def small(**options):
    return LanguageModel("gru", 6, **{"seed": 1, **options})


def sick(model, updates, value=np.nan, where=3, loss=None):
    """Return a model that has a given value in the gradient, or as the loss, in some updates, counted from 1."""
    real, calls = model.loss_and_gradient, []

    def loss_and_gradient(batch, state, *, into, rng):
        found, state = real(batch, state, into=into, rng=rng)
        if rng not in calls:
            calls.append(rng)
        if calls.index(rng) + 1 in updates:
            into[where] = value
            found = found if loss is None else loss
        return found, state

    model.loss_and_gradient = loss_and_gradient
    return model


def flat(model):
    return np.array(model.storage.flat)


CLIPPING = [
    {},
    {"clip_norm": None},
    {"clip_norm": None, "clip_value": 1.0},
    {"clip_norm": 1.0, "clip_value": 1.0},
    {"accumulate": 2, "clip_norm": None},
]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("options", CLIPPING, ids=str)
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_a_gradient_that_is_not_finite_stops_training_with_any_clipping(options, value, optimizer):
    with pytest.warns(
        RuntimeWarning,
        match="1 of [0-9]+ values of the gradient are not finite at update 3, the first in embedding.weight",
    ):
        model = sick(small(), {5} if "accumulate" in options else {3}, value).fit(
            TEXT, **QUICK, **options, optimizer=optimizer
        )
    assert model.outcome == "diverged" and np.isfinite(flat(model)).all()


@pytest.mark.parametrize("options", CLIPPING[:3], ids=str)
def test_skipped_updates_are_counted_reported_and_change_no_parameter(options):
    with pytest.warns(RuntimeWarning) as caught:
        model = sick(small(), {2, 4, 5}).fit(TEXT, **QUICK, **options, nonfinite="skip")
    total = model.history[-1]["update"]
    assert model.outcome == "finished" and np.isfinite(flat(model)).all()
    assert (
        str(caught[0].message)
        == model.message
        == (
            f"3 of {total} updates were skipped because the loss or the gradient was not finite; the first one: "
            f"1 of {model.num_parameters} values of the gradient are not finite at "
            f"update 2, the first in embedding.weight"
        )
    )
    assert [entry["skipped"] for entry in model.history] == [0, 3, 3, 3]
    assert all(math.isfinite(entry["train_loss"]) for entry in model.history[1:])


def test_a_skipped_update_is_no_update_of_the_optimiser():
    kept = []

    def fit(updates):
        model, kept[:] = sick(small(), updates), []
        make = lambda storage, lr: kept.append(optim.Adam(storage, lr=lr)) or kept[-1]  # noqa: E731
        if updates:
            with pytest.warns(RuntimeWarning, match="1 of 66 updates"):
                model.fit(TEXT, **QUICK, nonfinite="skip", optimizer=make)
        else:
            model.fit(TEXT, **QUICK, nonfinite="skip", optimizer=make)
        return kept[0].updates, model.history[-1]["update"]

    assert fit(set()) == (66, 66) and fit({7}) == (65, 66)


def test_skip_changes_nothing_while_all_is_finite():
    one, other = small().fit(TEXT, **QUICK), small().fit(TEXT, **QUICK, nonfinite="skip", check_finite=True)
    assert_array_equal(flat(one), flat(other))
    assert (
        other.message is None
        and [entry.pop("skipped") for entry in other.history] == [0] * 4
        and one.history == other.history
    )


def test_a_resumed_training_that_skips_has_the_same_bits(tmp_path):
    options = {**QUICK, "nonfinite": "skip"}
    bad = lambda model: sick(model, {2, 25, 26})  # noqa: E731
    with pytest.warns(RuntimeWarning, match="3 of 66 updates were skipped"):
        whole = bad(small()).fit(TEXT, **options)
    with pytest.warns(RuntimeWarning, match="1 of 22 updates were skipped"):
        bad(small()).fit(TEXT, **options | {"epochs": 1}, checkpoint=tmp_path)
    second = sick(small(), {3, 4})
    with pytest.warns(RuntimeWarning, match="3 of 66 updates were skipped") as caught:
        second.fit(TEXT, **options, checkpoint=tmp_path, resume=True)
    assert_array_equal(flat(second), flat(whole))
    assert second.history == whole.history and second.message == whole.message == str(caught[0].message)


def test_a_state_that_is_not_finite_is_not_carried_on():
    model, calls = small(), []
    real = model.loss_and_gradient

    def loss_and_gradient(batch, state, *, into, rng):
        calls.append(rng)
        loss, after = real(batch, state, into=into, rng=rng)
        return (math.nan, np.full_like(after, np.nan)) if calls.index(rng) == 4 else (loss, after)

    model.loss_and_gradient = loss_and_gradient
    with pytest.warns(
        RuntimeWarning, match="1 of 66 updates were skipped .*; the first one: the loss is nan at update 5$"
    ):
        model.fit(TEXT, **QUICK, nonfinite="skip")
    assert model.outcome == "finished"


def test_an_epoch_of_skipped_updates_stops():
    with pytest.warns(
        RuntimeWarning,
        match="22 updates in a row were skipped, which is a whole epoch: .*: training stopped; the parameters kept",
    ):
        model = sick(small(), set(range(3, 99))).fit(TEXT, **QUICK, nonfinite="skip")
    assert model.outcome == "diverged" and np.isfinite(flat(model)).all()


def test_a_loss_that_is_too_high_stops_training_even_if_updates_are_skipped():
    with pytest.warns(RuntimeWarning, match="the loss is 1000 at update 30, over 3 times its first value"):
        sick(small(), {30}, 0.0, loss=1000.0).fit(TEXT, **QUICK, nonfinite="skip", clip_norm=None)


def test_the_place_is_named_without_being_asked_for():
    """The failed update is computed again with checks."""
    model = small()
    real = model.loss_and_gradient

    def overflows(batch, state, *, into, rng):
        with model.storage.updating() as parameters:
            model.rnn.slots["weight_ih_l0"].view(parameters)[1, 2] = np.nan
        return real(batch, state, into=into, rng=rng)

    model.loss_and_gradient = overflows
    with pytest.warns(
        RuntimeWarning,
        match=r"the loss is nan at update 1 \(the parameter weight_ih_l0\[1, 2\] is nan \(the only value",
    ):
        model.fit(TEXT, **QUICK)
    assert np.isfinite(flat(model)).all()


def test_check_finite_sees_what_a_saturating_output_hides():
    """An infinite state in a lower layer that does not reach the loss."""
    model = LanguageModel("rnn", 4, 2, seed=0)
    real = model._build

    def build(*arguments):
        real(*arguments)
        lower = fastrnn.RNN(model.rnn.input_size, 4, nonlinearity="relu", seed=0)
        upper = fastrnn.RNN(4, 4, seed=0)
        model.rnn = fastrnn.Stacked([lower, upper])
        model.storage = model.rnn.storage
        model.embedding = fastrnn.Embedding(model.embedding.num_embeddings, lower.input_size, storage=model.storage)
        model.linear = fastrnn.Linear(4, model.linear.out_features, storage=model.storage, seed=0)
        with model.storage.updating() as parameters:
            model.embedding.slots["weight"].view(parameters)[:] = 1
            for name, value in (("weight_ih_l0", 3e38), ("weight_hh_l0", 0)):
                lower.slots[name].view(parameters)[:] = value
            for name, value in (("weight_ih_l0", 1e-3), ("weight_hh_l0", 0)):
                upper.slots[name].view(parameters)[:] = value

    model._build = build
    with pytest.warns(
        RuntimeWarning,
        match=r"the loss is nan at update 1 \(member 0: RNN layer 0, its unit, step 0, row 0, unit 0: inf",
    ):
        model.fit(TEXT, **QUICK, check_finite=True)


@pytest.mark.parametrize(
    "schedule, message",
    [
        (lambda: float("nan"), "the learning rate is nan at update 3, lr=0.01 times nan of the schedule"),
        (lambda: float("inf"), "the learning rate is inf at update 3"),
        (lambda: -1.0, "the learning rate is -0.01 at update 3, lr=0.01 times -1 of the schedule"),
    ],
)
def test_a_schedule_that_gives_no_learning_rate_stops_the_training(schedule, message):
    class Bad(optim.Schedule):
        def __call__(self, epoch):
            return schedule() if epoch > 0.08 else 1.0

    with pytest.warns(RuntimeWarning, match=message):
        model = small().fit(TEXT, **QUICK, schedule=Bad())
    assert model.outcome == "diverged" and np.isfinite(flat(model)).all()


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop", "adagrad"])
@pytest.mark.parametrize("lr", [1e38, 1e300])
def test_a_step_that_makes_parameters_infinite_stops_at_once(optimizer, lr):
    """Also in the very last update, after which no loss is computed."""
    with pytest.warns(RuntimeWarning, match="training stopped"):
        model = small().fit(
            TEXT[:120],
            **QUICK | {"lr": lr, "epochs": 1, "batch_size": 1, "seq_len": 100},
            optimizer=optimizer,
            weight_decay=1e3,
            loss_limit=None,
        )
    assert model.outcome == "diverged" and np.isfinite(flat(model)).all()


@pytest.mark.parametrize("optimizer, stops", [("sgd", False), ("adam", True), ("rmsprop", True), ("adagrad", True)])
def test_a_gradient_that_cannot_be_squared_is_refused_if_it_must_be(optimizer, stops):
    """Its second moment would be infinite, and the parameter would never change again."""
    model, options = (
        sick(small(), {3}, np.float32(1e25)),
        {**QUICK, "lr": 1e-27, "clip_norm": None, "optimizer": optimizer},
    )
    if not stops:
        assert model.fit(TEXT, **options).outcome == "finished"
        return
    with pytest.warns(
        RuntimeWarning,
        match="the norm of the gradient is 1e[+]25 at update 3: float32 cannot hold its square.*set clip_norm",
    ):
        model.fit(TEXT, **options)
    assert sick(small(), {3}, np.float32(1e25)).fit(TEXT, **options | {"clip_norm": 5.0}).outcome == "finished"


class Overflowing(optim.Adam):
    def _update(self, flat, grad, scale, m, v):
        super()._update(flat, grad, scale, m, v)
        v[2] = np.inf


class OwnState(optim.SGD):
    """Has an array of which only its `state_dict` tells."""

    def state_dict(self):
        return super().state_dict() | {"slow": np.array([0, np.nan])[: 2 if self.updates else 1]}


@pytest.mark.parametrize(
    "optimizer, options, name",
    [
        (Overflowing, {}, "v"),
        (Overflowing, {"groups": {"linear.bias": {"lr": 0.1}}}, "0.v"),
        (OwnState, {}, "slow"),
        (OwnState, {"freeze": ["embedding"]}, "0.slow"),
    ],
)
def test_a_running_mean_that_overflows_is_noticed(optimizer, options, name):
    with pytest.warns(RuntimeWarning, match=f"the running mean {name} of the optimizer is not finite after update 22"):
        small().fit(TEXT, **QUICK, **options, optimizer=lambda storage, lr: optimizer(storage, lr=lr))


def test_frozen_parameters_may_have_any_gradient():
    model = sick(small(), {2}, np.nan).fit(TEXT, **QUICK, freeze=["embedding"])
    assert model.outcome == "finished" and model.message is None


def test_an_infinite_validation_loss_is_never_the_best():
    model = small()
    model.evaluate = lambda batches: {"loss": math.inf}
    with pytest.warns(RuntimeWarning, match="the validation_loss was never finite"):
        model.fit(TEXT, **QUICK | {"validation": 0.1})


# --- clipping -----------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype, size", [("float32", 3e38), ("float64", 1e300), ("float64", 1.7e308), ("float64", 1e160)]
)
def test_the_norm_of_large_finite_gradients_does_not_overflow(dtype, size):
    grad = np.full(64, size, dtype)
    grad[::2] *= -1
    norm, scale = optim.clip_by_global_norm(grad, 5.0)
    assert 0 < scale < 1
    if size < 1e308:
        assert_allclose(norm, 8 * size, rtol=1e-6)
    assert_allclose(np.linalg.norm(np.longdouble(grad) * scale), 5.0, rtol=1e-6)


@pytest.mark.parametrize("dtype, size, n", [("float32", 3e38, 10**6), ("float64", 1.7e308, 1000)])
@pytest.mark.parametrize("make", [optim.SGD, optim.Adam])
def test_a_step_with_a_tiny_factor_is_that_of_the_clipped_gradient(dtype, size, n, make):
    """The factor of 10**6 values of 3e38 is below the smallest normal float32."""

    def step(grad, scale):
        storage = Storage(dtype)
        storage.add(np.ones(n, dtype))
        make(storage, lr=0.1).step(grad, scale)
        return np.array(storage.flat)

    grad = np.full(n, size, dtype)
    _, scale = optim.clip_by_global_norm(grad, 5.0)
    assert 0 < scale < np.finfo(dtype).tiny * 10
    assert_allclose(step(grad, scale), step(np.full(n, 5.0 / math.sqrt(n), dtype), 1.0), rtol=1e-5)


def test_what_is_not_finite_stays_so_and_what_is_finite_has_a_factor():
    assert (
        0 < optim.clip_by_global_norm(np.array([1e300, 1e-300]), 1e-300)[1]
        and 0 < optim.clip_by_global_norm(np.array([1e100]), 1e-300)[1]
    )
    assert optim.clip_by_global_norm(np.array([1, np.inf]), 1.0) == (math.inf, 0.0)
    assert all(math.isnan(value) for value in optim.clip_by_global_norm(np.array([1, np.nan, np.inf]), 1.0))


@pytest.mark.parametrize("make", list(optim.OPTIMIZERS.values()))
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_step_by_the_factor_of_such_a_gradient_changes_nothing(make, value):
    storage = Storage("float32")
    storage.add(np.ones(3, "float32"))
    grad = np.array([1, value, 2], "float32")
    optimizer = make(storage, lr=0.1)
    with pytest.raises(
        FloatingPointError,
        match="^scale is (nan|0.0), so the gradient has NaN or infinite values: skip this update",
    ):
        optimizer.step(grad, optim.clip_by_global_norm(grad, 1.0)[1])
    assert optimizer.updates == 0 and storage.version == 0 and (storage.flat == 1).all()


# --- settings and the command --------------------------------------------------


def test_the_setting_is_one_of_two():
    with pytest.raises(ValueError, match="nonfinite is 'ignore', but it must be one of 'stop', 'skip'"):
        small().fit(TEXT, **QUICK, nonfinite="ignore")


def test_the_command_skips_and_says_how_many(run, tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text(TEXT)
    real, calls = LanguageModel.loss_and_gradient, []

    def loss_and_gradient(self, batch, state=None, *, into, rng):
        calls.append(rng)
        found = real(self, batch, state, into=into, rng=rng)
        if calls.index(rng) == 2:
            into[:] = np.nan
        return found

    monkeypatch.setattr(LanguageModel, "loss_and_gradient", loss_and_gradient)
    small = [
        "--data",
        "text.txt",
        "--hidden",
        4,
        "--layers",
        1,
        "--epochs",
        2,
        "--batch",
        4,
        "--seq-len",
        25,
        "--validation",
        0,
    ]
    status, out, err = run("train", *small, "--nonfinite", "skip", "--check-finite", "--out", "m", "--log", "log.jsonl")
    assert status == 0, err
    assert (
        "fastrnn: warning: 1 of 44 updates were skipped because the loss or the "
        "gradient was not finite; the first one: " in err
    )
    assert "  skipped 1  " in err
    assert [json.loads(line)["skipped"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [0, 1, 1]
    calls.clear()
    status, out, err = run("train", *small, "--quiet", "--out", "n")
    assert (
        status == 1
        and "values of the gradient are not finite at update 3, the first in embedding.weight: training stopped" in err
    )

"""Random cases of `fit` with known outcomes for every model: what is kept, used, and must have no effect."""

import functools
import math
import operator

import numpy as np
import pytest
from fuzz import seeds
from model_cases import CASES, ROWS, fit_options, parts, predictions, some
from numpy.testing import assert_allclose, assert_array_equal

import fastrnn
from fastrnn.models import Forecaster, SequenceClassifier, SequenceRegressor

pytestmark = [
    pytest.mark.fuzz,
    pytest.mark.filterwarnings("ignore:no evaluation found a better:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:the validation_loss was never finite:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:the held-out part has:UserWarning"),
]


def rng_of(test, seed):
    """Return the random generator of a test's case."""
    return np.random.default_rng([sum(map(ord, test)), seed])


class Evaluations:
    """A callback that stores the parameters of every evaluation."""

    def __init__(self, model):
        self.model, self.entries, self.parameters = model, [], []

    def __call__(self, entry):
        self.entries.append(entry)
        self.parameters.append(self.model.storage.flat.copy())

    def best(self, monitor="loss"):
        """Return the index of the first best evaluation."""
        sign = 1 if monitor == "loss" else -1
        figures = [sign * entry[f"validation_{monitor}"] for entry in self.entries]
        return min((k for k in range(len(figures)) if not math.isnan(figures[k])), key=lambda k: figures[k])


# --- what is kept -------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_the_parameters_kept_are_those_of_the_best_evaluation(name):
    """The best parameters are kept, even the initial ones: labels are shuffled, and learning rates are too high."""
    for seed in seeds("models", 8):
        rng, case = rng_of(name, seed), CASES[name]
        model = case.make(seed=seed)
        data = list(case.data(rng, int(rng.integers(15, 30))))
        if len(data) == 2 and rng.random() < 0.7 and name != "tagger" and name != "regressor of steps":
            order = rng.permutation(len(data[1]))
            data[1] = some(data[1], order)
        monitor = str(rng.choice(model.FIGURES))
        evaluations = Evaluations(model)
        options = fit_options(
            name,
            epochs=int(rng.integers(1, 5)),
            lr=float(10 ** rng.uniform(-3, 0.5)),
            callbacks=[evaluations],
            monitor=monitor,
            evaluate_every=int(rng.integers(1, 6)),
            accumulate=int(rng.integers(1, 3)),
            loss_limit=None,
            patience=rng.choice([None, 2]),
            validation=case.held_out,
        )
        model.fit(*data, **options)
        best = evaluations.best(monitor)
        assert_array_equal(
            model.storage.flat,
            evaluations.parameters[best],
            err_msg=f"case {seed}: evaluation {best} of {len(evaluations.entries)} was the best",
        )


@pytest.mark.parametrize("name", CASES)
def test_the_history_is_that_of_the_updates(name):
    """Each entry has the mean of the losses since the previous one, and the result of an evaluation at this time."""
    for seed in seeds("models", 2):
        rng, case = rng_of(name, seed), CASES[name]
        model, losses, entries = case.make(seed=seed), [], []
        real = model.loss_and_gradient

        def recorded(*arguments, real=real, losses=losses, **options):
            loss, state = real(*arguments, **options)
            losses.append(loss)
            return loss, state

        def callback(entry, losses=losses, entries=entries, seed=seed):
            total = functools.reduce(operator.add, losses, 0.0)  # Python 3.12's sum() rounds differently
            assert entry["train_loss"] == (total / len(losses) if losses else None), f"case {seed}"
            entries.append((entry["update"], len(losses)))
            losses.clear()

        model.loss_and_gradient = recorded
        model.fit(
            *case.data(rng, 20), **fit_options(name, callbacks=[callback], evaluate_every=int(rng.integers(1, 5)))
        )
        updates, counts = zip(*entries)
        assert counts == tuple(np.diff((0, *updates)).tolist()) and updates[0] == 0, f"case {seed}"
        assert [entry["update"] for entry in model.history] == list(updates)


@pytest.mark.parametrize("name", CASES)
def test_a_fit_that_fails_leaves_the_model_unchanged(name):
    for seed in seeds("models", 2):
        rng, case = rng_of(name, seed), CASES[name]
        data, other = case.data(rng, 20), case.data(rng, 25)
        model = case.make(seed=seed)
        fails = int(rng.integers(0, 3))

        def callback(entry, fails=fails):
            if entry["epoch"] >= fails:
                raise MemoryError("planted")

        with pytest.raises(MemoryError, match="planted"):
            model.fit(*data, **fit_options(name), callbacks=[callback])
        assert model.storage is None and model.history == [], f"case {seed}"
        model.fit(*data, **fit_options(name))
        before, history = predictions(name, model, data), model.history
        with pytest.raises(MemoryError, match="planted"):
            model.fit(*other, **fit_options(name, lr=0.1), callbacks=[callback])
        for mine, wanted in zip(predictions(name, model, data), before, strict=True):
            assert_array_equal(mine, wanted, err_msg=f"case {seed}")
        assert model.history == history


# --- what is used -------------------------------------------------------------


@pytest.mark.parametrize("name", ROWS)
def test_training_does_not_see_the_part_that_is_held_out(name):
    for seed in seeds("models", 3):
        rng, case = rng_of(name, seed), ROWS[name]
        N, part = int(rng.integers(12, 25)), float(rng.uniform(0.1, 0.6))
        data = list(case.data(rng, N))
        out, _ = parts(N, part, seed)
        changed = [values.copy() if isinstance(values, np.ndarray) else list(values) for values in data]
        donor = case.data(rng, N)
        for values, others in zip(changed, donor):
            for row in out:
                scale = 100.0 if isinstance(others[row], (np.ndarray, np.floating)) and name != "events" else 1
                values[row] = others[row] * scale
        runs = []
        for given in (data, changed):
            model = case.make(seed=seed)
            evaluations = Evaluations(model)
            model.fit(*given, **fit_options(name, callbacks=[evaluations], validation=part, loss_limit=None))
            runs.append(evaluations.parameters)
        for mine, wanted in zip(*runs, strict=True):
            assert_array_equal(mine, wanted, err_msg=f"case {seed}: the held-out rows are {out}")


# --- what must have no effect -------------------------------------------------

SHIFTS = [(1.6e9, 1.0), (-1.2e8, 2.0**-6), (0.0, 2.0**40), (3e5, 2.0**-20), (0.0, 2.0**-700), (0.0, 2.0**600)]


def exact(rng, shape):
    """Return numbers of few binary digits, which a shift and a scale by a power of two do not round in float64."""
    return np.round(rng.standard_normal(shape) * 64) / 64


@pytest.mark.parametrize("cls", [SequenceClassifier, SequenceRegressor])
def test_a_shift_and_a_scale_of_features_change_nothing(cls):
    for seed in seeds("models", 2):
        rng = rng_of(cls.__name__, seed)
        X = [exact(rng, (rng.integers(2, 8), 3)) for _ in range(30)]
        y = (
            np.array([x[:, 0].sum() > 0 for x in X])
            if cls is SequenceClassifier
            else np.array([x[:, 0].sum() for x in X])
        )
        fit = dict(epochs=4, lr=0.02, batch_size=8, verbose=False)

        def outcome(X, y=y, fit=fit, cls=cls, seed=seed):
            model = cls("gru", 5, seed=seed).fit(X, y, **fit)
            return model.predict_proba(X) if cls is SequenceClassifier else model.predict(X)

        wanted = outcome(X)
        for shift, scale in SHIFTS:
            assert_allclose(
                outcome([(x + shift * bool(shift)) * scale if shift else x * scale for x in X]),
                wanted,
                atol=2e-4,
                err_msg=f"case {seed}: shift {shift}, scale {scale}",
            )


@pytest.mark.parametrize("per_step", [False, True])
def test_a_shift_and_a_scale_of_targets_come_back(per_step):
    for seed in seeds("models", 2):
        rng = rng_of("targets", seed)
        X = [exact(rng, (rng.integers(2, 8), 2)) for _ in range(30)]
        y = [np.cumsum(x[:, 0]) for x in X] if per_step else [x[:, 0].sum() for x in X]

        def outcome(y, X=X, seed=seed):
            model = SequenceRegressor("gru", 5, per_step=per_step, seed=seed).fit(
                X, y, epochs=4, lr=0.02, batch_size=8, verbose=False
            )
            found = model.predict(X)
            return np.concatenate(found) if per_step else found

        wanted = outcome(y)
        for shift, scale in SHIFTS:
            found = outcome([(of_one + shift) * scale for of_one in y])
            assert_allclose(
                found / scale - shift, wanted, atol=1e-3, err_msg=f"case {seed}: shift {shift}, scale {scale}"
            )


@pytest.mark.parametrize("options", [{}, {"season": 6}, {"difference": True}, {"season": 6, "difference": True}])
def test_a_forecast_moves_with_its_series(options):
    for seed in seeds("models", 2):
        rng = rng_of("forecast", seed)
        series = np.tile(exact(rng, 6), 12) + exact(rng, 72) / 4

        def outcome(series, options=options, seed=seed):
            return (
                Forecaster(8, 3, hidden_size=4, seed=seed, **options)
                .fit(series, epochs=4, lr=0.02, verbose=False)
                .predict(7)
            )

        wanted = outcome(series)
        for shift, scale in SHIFTS:
            found = outcome((series + shift) * scale)
            assert_allclose(
                found / scale - shift, wanted, atol=1e-3, err_msg=f"case {seed}: shift {shift}, scale {scale}"
            )


def test_a_seasonal_or_constant_series_is_forecast_exactly():
    for seed in seeds("models", 4):
        rng = rng_of("seasonal", seed)
        season, offset = int(rng.integers(1, 9)), float(rng.choice([0.0, 0.1, 1.2e8, -3e-7]))
        values = offset + (np.round(rng.standard_normal(season) * 8) / 8 * (offset or 1.0))
        series = np.tile(values, 30)
        model = Forecaster(4, 3, season=season, hidden_size=4, seed=seed).fit(
            series[: 10 * season + 5], epochs=2, verbose=False
        )
        wanted = series[10 * season + 5 :][:9]
        assert_allclose(model.predict(len(wanted)), wanted, rtol=1e-14, err_msg=f"case {seed}")
        with pytest.raises(ValueError, match="MASE is not defined"):
            model.mase(wanted)


@pytest.mark.parametrize("name", CASES)
def test_threads_and_a_resume_change_no_bit(name, tmp_path):
    for seed in seeds("models", 1):
        rng, case = rng_of(name, seed), CASES[name]
        data = case.data(rng, 24)
        options = fit_options(name, epochs=3, validation=case.held_out, evaluate_every=2)

        def fit(threads=1, case=case, seed=seed, data=data, options=options, **more):
            with fastrnn.threads(threads):
                return case.make(seed=seed).fit(*data, **options, **more)

        whole = fit()
        folder = tmp_path / str(seed)
        stop = int(rng.integers(1, 6))
        fit(2, checkpoint=folder, callbacks=[lambda entry, stop=stop: np.bool_(entry["update"] >= stop)])
        resumed = fit(2, checkpoint=folder, resume=True)
        assert_array_equal(resumed.storage.flat, whole.storage.flat, err_msg=f"case {seed}: stopped at update {stop}")
        assert resumed.history == whole.history


NO_NOISE = {"tagger": dict(dropout=0.0, word_dropout=0.0), "stories": dict(noise=0.0)}


@pytest.mark.parametrize("name", [name for name in CASES if name != "text"])
def test_batches_and_the_order_of_rows_change_one_gradient_by_rounding_only(name):
    """Make one update with all data by plain gradient descent."""
    for seed in seeds("models", 2):
        rng, case = rng_of(name, seed), CASES[name]
        N = 21
        data = case.data(rng, N)
        order = rng.permutation(N)
        one = dict(epochs=1, optimizer="sgd", lr=0.5, clip_norm=None, loss_limit=None, verbose=False)

        def flat(data, batch_size, accumulate, case=case, seed=seed, one=one):
            model = case.make(seed=seed, dtype="float64", **NO_NOISE.get(name, {}))
            model.fit(*data, batch_size=batch_size, accumulate=accumulate, **one)
            assert model.history[-1]["update"] == 1
            return model.storage.flat

        wanted = flat(data, 1000, 1)
        b = int(rng.integers(1, 9))
        assert_allclose(flat(data, b, 1000), wanted, rtol=1e-9, atol=1e-12, err_msg=f"case {seed}: batches of {b}")
        if case.rows:
            assert_allclose(
                flat([some(values, order) for values in data], 1000, 1),
                wanted,
                rtol=1e-9,
                atol=1e-12,
                err_msg=f"case {seed}",
            )


@pytest.mark.parametrize("name", ROWS)
def test_the_prediction_for_a_row_does_not_depend_on_the_others(name):
    for seed in seeds("models", 2):
        rng, case = rng_of(name, seed), ROWS[name]
        data = case.data(rng, 20)
        model = case.make(seed=seed).fit(*data, **fit_options(name))
        whole = predictions(name, model, data)
        rows = rng.permutation(20)[: rng.integers(1, 20)]
        for mine, row in zip(predictions(name, model, [some(values, rows) for values in data]), rows, strict=True):
            assert_array_equal(mine, whole[row], err_msg=f"case {seed}: row {row}")


# --- sizes --------------------------------------------------------------------


@pytest.mark.parametrize("name", ROWS)
def test_few_rows_are_learnt_or_refused_before_any_work(name, tmp_path):
    for seed in seeds("models", 12):
        rng, case = rng_of(name, seed), ROWS[name]
        N, part = int(rng.integers(1, 6)), float(rng.choice([0.0, 0.1, 0.5, 0.9]))
        data, folder = [values[:N] for values in case.data(rng, 5)], tmp_path / str(seed)
        if name == "tagger":
            data = [[row[:1] for row in values] for values in data]
        model = case.make(seed=seed)
        try:
            model.fit(*data, **fit_options(name, validation=part, epochs=1, checkpoint=folder))
        except ValueError as error:
            assert "validation=" in str(error) or "only the class" in str(error), (
                f"case {seed}: N={N}, validation={part}: {error}"
            )
            assert not folder.exists() and model.storage is None, f"case {seed}"
        else:
            assert np.isfinite(model.storage.flat).all()
            out, kept = parts(N, part, seed)
            assert len(kept) and bool(len(out)) == bool(part), f"case {seed}: N={N}, validation={part}"
            assert (model.history[-1]["validation_loss"] is not None) == bool(part), (
                f"case {seed}: N={N}, validation={part}"
            )


def test_a_lucky_first_loss_is_no_divergence():
    """Use batches of one sequence, whose losses differ by far more than `loss_limit`."""
    for seed in seeds("models", 6):
        rng = rng_of("lucky", seed)
        X = [rng.standard_normal((3, 2)) for _ in range(20)]
        y = rng.standard_normal(20)
        model = SequenceRegressor("gru", 3, seed=seed).fit(X, y, epochs=2, batch_size=1, lr=1e-4, verbose=False)
        assert model.outcome == "finished", f"case {seed}: {model.message}"

"""The estimators of fastrnn.sklearn: scikit-learn's own checks, the forms of X, weights, streams, real data."""

import functools
import pickle
import warnings

import numpy as np
import pytest

pytestmark = pytest.mark.sklearn

# As in MLPClassifier: a weight of 2 doubles one gradient, but two copies are two sequences in different batches.
STOCHASTIC = {
    "check_sample_weight_equivalence_on_dense_data": "batches of repeated sequences are not those of weighted ones"
}


def estimator(name, **options):
    import fastrnn.sklearn

    return getattr(fastrnn.sklearn, name)(
        **{"hidden_layer_sizes": (8,), "n_iter_no_change": 500, "max_iter": 4, "random_state": 0, **options}
    )


def ragged(N=30, F=3, seed=0):
    rng = np.random.default_rng(seed)
    X = [rng.standard_normal((rng.integers(2, 7), F)) for _ in range(N)]
    return X, {
        "RNNClassifier": np.array(["down", "up"])[[int(x.sum() > 0) for x in X]],
        "RNNRegressor": np.array([x[:, 0].sum() for x in X]),
        "RNNTagger": [np.where(x[:, 0] > 0, "+", "-") for x in X],
        "RNNForecaster": None,
    }


ALL = ("RNNClassifier", "RNNRegressor", "RNNTagger", "RNNForecaster")


@functools.cache
def digits():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    return train_test_split(images.reshape(-1, 8, 8), labels, random_state=0, stratify=labels)


def assert_same(found, wanted):
    for mine, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("name", ALL[:3])
def test_scikit_learns_own_checks_pass(name):
    from sklearn.utils.estimator_checks import check_estimator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = check_estimator(
            estimator(name, hidden_layer_sizes=(16,), max_iter=25, random_state=None), expected_failed_checks=STOCHASTIC
        )
    status = {entry["check_name"]: entry["status"] for entry in report}
    assert {check for check, found in status.items() if found == "xfail"} == set(STOCHASTIC)
    assert "failed" not in status.values() and len(status) > 40


def test_the_checks_of_parametrize_with_checks_pass_one_by_one():
    from sklearn.utils.estimator_checks import parametrize_with_checks

    mark = parametrize_with_checks(
        [estimator("RNNRegressor", max_iter=60)], expected_failed_checks=lambda of: STOCHASTIC
    )
    cases = [case for case in mark.args[1] if not getattr(case, "marks", ())]
    assert len(cases) > 40
    for case in cases:
        of, check = getattr(case, "values", case)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(of)


@pytest.mark.parametrize("name", ALL)
def test_the_forms_of_X_give_the_same_bits(name):
    X, y = ragged()
    y = y[name]
    lengths = np.array([len(x) for x in X])
    rows, padded = np.concatenate(X), np.zeros((len(X), lengths.max(), 3))
    for k, x in enumerate(X):
        padded[k, : len(x)] = x
    flat = np.concatenate(y) if name == "RNNTagger" else y
    wanted = (
        np.concatenate(estimator(name).fit(X, y).predict(X))[None]
        if name == "RNNTagger"
        else estimator(name).fit(X, y).predict(X)
    )
    for given, target, options in (
        (padded, y, {"lengths": lengths}),
        (rows, flat, {"lengths": lengths}),
        ((rows, lengths), flat, {}),
    ):
        found = estimator(name).fit(given, target, **options).predict(given, **options)
        if name == "RNNTagger":
            found = (found if found[0].shape == () else np.concatenate(found))[None]
        assert_same(found, wanted)


@pytest.mark.parametrize("name", ALL)
def test_the_same_random_state_gives_the_same_bits_and_a_clone_and_a_pickle_too(name):
    from sklearn.base import clone

    X, y = ragged()
    first = estimator(name).fit(X, y[name])
    for other in (clone(first).fit(X, y[name]), pickle.loads(pickle.dumps(first))):
        assert_same(other.predict(X), first.predict(X))
        assert other.loss_curve_ == first.loss_curve_ and other.n_iter_ == 4
    assert estimator(name, random_state=1).fit(X, y[name]).loss_curve_ != first.loss_curve_


@pytest.mark.parametrize("cell", ("lstm", "gru", "rnn"))
@pytest.mark.parametrize("name", ALL)
def test_predict_step_equals_predict_bit_for_bit(name, cell):
    X, y = ragged()
    model, state = estimator(name, cell=cell, hidden_layer_sizes=(8, 5)).fit(X, y[name]), None
    for t in range(len(X[0])):
        found, state = model.predict_step(X[0][t], state)
        wanted = model.predict([X[0][: t + 1]])[0]
        if name == "RNNTagger":
            wanted = wanted[-1]
        np.testing.assert_array_equal(found, wanted[0] if name == "RNNForecaster" else wanted)


def test_predict_step_is_refused_if_the_whole_sequence_is_needed():
    X, y = ragged()
    for options in ({"bidirectional": True}, {"pooling": "mean"}):
        model = estimator("RNNClassifier", **options).fit(X, y["RNNClassifier"])
        with pytest.raises(ValueError, match="bidirectional=False and pooling='last'"):
            model.predict_step(X[0][0])


@pytest.mark.parametrize("name", ALL)
def test_a_weight_of_zero_leaves_a_sequence_out(name):
    X, y = ragged()
    weights = np.ones(len(X))
    weights[20:] = 0
    some = None if y[name] is None else y[name][:20]
    assert_same(
        estimator(name).fit(X, y[name], sample_weight=weights).predict(X), estimator(name).fit(X[:20], some).predict(X)
    )


@pytest.mark.parametrize("name", ALL)
def test_equal_weights_are_no_weights_and_others_matter(name):
    X, y = ragged()
    plain = estimator(name).fit(X, y[name])
    assert estimator(name).fit(X, y[name], sample_weight=np.ones(len(X))).loss_curve_ == plain.loss_curve_
    assert estimator(name).fit(X, y[name], sample_weight=np.arange(1, 31)).loss_curve_ != plain.loss_curve_


@pytest.mark.parametrize("name", ("RNNClassifier", "RNNTagger"))
def test_class_weight_moves_predictions_towards_its_class(name):
    X, y = ragged()
    y = y[name]
    first = {"RNNClassifier": "down", "RNNTagger": "+"}[name]
    other = {"RNNClassifier": "up", "RNNTagger": "-"}[name]

    def count(weight):
        found = estimator(name, class_weight={first: weight, other: 1}).fit(X, y).predict(X)
        return sum(np.sum(np.asarray(labels) == first) for labels in found)

    assert count(0.01) < count(1) < count(100)


def test_a_class_weight_is_the_sample_weight_of_its_sequences():
    X, y = ragged()
    y = y["RNNClassifier"]
    mine = estimator("RNNClassifier", class_weight={"up": 3, "down": 1}).fit(X, y)
    assert mine.loss_curve_ == estimator("RNNClassifier").fit(X, y, sample_weight=np.where(y == "up", 3, 1)).loss_curve_


@pytest.mark.parametrize("name", ALL)
def test_warm_start_continues_and_without_it_fit_starts_again(name):
    X, y = ragged()
    model = estimator(name, warm_start=True).fit(X, y[name])
    first = list(model.loss_curve_)
    model.fit(X, y[name])
    assert model.loss_curve_[:4] == first and model.n_iter_ == 8 and model.loss_curve_[4] < first[0]
    model.set_params(warm_start=False).fit(X, y[name])
    assert model.loss_curve_ == first


@pytest.mark.parametrize("name", ALL)
def test_partial_fit_learns_an_epoch_a_call(name):
    X, y = ragged()
    model = estimator(name, learning_rate_init=0.02)
    options = (
        {"classes": ["+", "-"] if name == "RNNTagger" else ["down", "up"]}
        if name in ("RNNClassifier", "RNNTagger")
        else {}
    )
    for _ in range(20):
        model.partial_fit(X, y[name], **options)
    assert model.n_iter_ == 20 and model.loss_curve_[-1] < model.loss_curve_[0]


@pytest.mark.parametrize("solver", ["adam", "sgd", "rmsprop"])
def test_calls_of_partial_fit_are_the_epochs_of_a_fit_as_the_moments_are_handed_on(solver):
    X, y = ragged()
    options = {
        "solver": solver,
        "batch_size": len(X),
        "learning_rate_init": 0.01,
        "max_iter": 5,
    }  # one update per epoch, so that there is no order of batches
    whole, parts = estimator("RNNRegressor", **options).fit(X, y["RNNRegressor"]), estimator("RNNRegressor", **options)
    for _ in range(5):
        parts.partial_fit(X, y["RNNRegressor"])
    np.testing.assert_allclose(parts.predict(X), whole.predict(X), rtol=1e-4)
    np.testing.assert_allclose(parts.loss_curve_, whole.loss_curve_, rtol=1e-4)
    parts.set_params(solver="adagrad").partial_fit(X, y["RNNRegressor"])  # another solver starts with its own moments


def test_partial_fit_needs_all_classes_first_and_refuses_a_strange_label():
    X, y = ragged()
    model = estimator("RNNClassifier")
    with pytest.raises(ValueError, match="classes must be passed on the first call to partial_fit"):
        model.partial_fit(X, y["RNNClassifier"])
    model.partial_fit(X, y["RNNClassifier"], classes=["down", "up"])
    with pytest.raises(ValueError, match="sideways"):
        model.partial_fit(X[:1], ["sideways"])


def test_early_stopping_keeps_the_best_and_says_the_scores():
    train_X, test_X, train_y, test_y = digits()
    model = estimator(
        "RNNClassifier", hidden_layer_sizes=(32,), early_stopping=True, n_iter_no_change=3, max_iter=60
    ).fit(train_X[:600], train_y[:600])
    assert model.n_iter_ == len(model.validation_scores_) < 60
    assert model.best_validation_score_ == max(model.validation_scores_) > 0.8 and model.best_loss_ is None


def test_training_that_has_not_converged_is_reported():
    from sklearn.exceptions import ConvergenceWarning

    X, y = ragged()
    with pytest.warns(ConvergenceWarning, match="max_iter=4"):
        estimator("RNNClassifier", n_iter_no_change=2, tol=0).fit(X, y["RNNClassifier"])


@pytest.mark.pandas
def test_frames_keep_their_names_and_other_names_are_refused():
    import pandas as pd

    X, y = ragged()
    frames = [pd.DataFrame(x, columns=["a", "b", "c"]) for x in X]
    model = estimator("RNNClassifier").fit(frames, y["RNNClassifier"])
    assert model.feature_names_in_.tolist() == ["a", "b", "c"]
    assert_same(model.predict(frames), estimator("RNNClassifier").fit(X, y["RNNClassifier"]).predict(X))
    with pytest.raises(ValueError, match="feature names"):
        model.predict([frames[0], frames[1].rename(columns={"b": "z"})])


def test_digits_read_row_by_row_in_a_pipeline_and_a_grid_search_of_two_processes():
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    train_X, test_X, train_y, test_y = digits()
    model = make_pipeline(
        FunctionTransformer(), estimator("RNNClassifier", hidden_layer_sizes=(32,), learning_rate_init=0.01, max_iter=8)
    )
    search = GridSearchCV(model, {"rnnclassifier__cell": ["gru", "rnn"]}, cv=2, n_jobs=2).fit(train_X, train_y)
    print(search.best_params_, search.cv_results_["mean_test_score"].round(4), search.score(test_X, test_y))
    assert search.score(test_X, test_y) > 0.93


def test_a_forecaster_continues_a_wave():
    t = np.arange(400)
    waves = [np.sin(0.3 * t[k : k + 60])[:, None] for k in range(0, 300, 10)]
    model = estimator("RNNForecaster", hidden_layer_sizes=(24,), cell="gru", learning_rate_init=0.02, max_iter=60).fit(
        waves
    )
    assert model.score(waves) > 0.99
    np.testing.assert_allclose(model.predict(waves[:1], horizon=5)[0, :, 0], np.sin(0.3 * t[60:65]), atol=0.15)


@pytest.mark.parametrize(
    "given, match",
    [
        (lambda X: [*X[:29], X[29][:, :2]], "sequence 29 has 2 features, but sequence 0 has 3"),
        (lambda X: [*X[:29], X[29][:0]], "sequence 29 has no steps"),
        (lambda X: (np.concatenate(X), [1, 2]), "lengths add up to 3, but X has"),
        (lambda X: (np.concatenate(X), [0, 2]), r"lengths must be in 1\.\."),
        (lambda X: [*X[:29], X[29] * np.nan], "NaN"),
    ],
)
def test_a_wrong_X_is_refused_before_any_work(given, match):
    X, y = ragged()
    with pytest.raises(ValueError, match=match):
        estimator("RNNClassifier").fit(given(X), y["RNNClassifier"])


def test_a_forecaster_refuses_a_sequence_of_one_step():
    with pytest.raises(ValueError, match="sequence 0 has 1 step"):
        estimator("RNNForecaster").fit(np.ones((5, 3)))


@pytest.mark.parametrize("name", ALL)
def test_alpha_makes_weights_smaller_and_leaves_biases_to_the_data(name):
    X, y = ragged()
    free, held = (
        estimator(name, alpha=alpha, solver="sgd", max_iter=1, batch_size=30).fit(X, y[name]) for alpha in (0.0, 3000.0)
    )
    for key, slot in free._net.slots.items():
        mine, theirs = slot.view(held._net.storage.flat), slot.view(free._net.storage.flat)
        if "bias" in key:
            np.testing.assert_array_equal(mine, theirs)
        else:
            assert np.abs(mine).sum() < np.abs(theirs).sum()


def test_each_call_of_partial_fit_draws_other_zeros_of_dropout_and_another_random_state_does_too():
    X, y = ragged()

    def trained(seed_of_the_calls):
        model = estimator("RNNClassifier", dropout=0.5).fit(X, y["RNNClassifier"])
        model._seed = seed_of_the_calls
        return model.partial_fit(X, y["RNNClassifier"]).loss_curve_[-1]

    assert trained(5) == trained(5) != trained(6)


def test_the_solver_is_checked_and_nothing_is_left_of_a_refused_fit():
    X, y = ragged()
    model = estimator("RNNClassifier", solver="lbfgs")
    with pytest.raises(ValueError, match="lbfgs"):
        model.fit(X, y["RNNClassifier"])
    assert not hasattr(model, "_net")


def test_predict_step_takes_several_streams_and_refuses_what_is_wrong():
    from sklearn.exceptions import NotFittedError

    X, y = ragged()
    with pytest.raises(NotFittedError):
        estimator("RNNClassifier").predict_step(X[0][0])
    model = estimator("RNNClassifier").fit(X, y["RNNClassifier"])
    both, _ = model.predict_step(np.stack([X[0][0], X[1][0]]))
    assert both.tolist() == [model.predict_step(X[k][0])[0] for k in range(2)]
    for x_t, match in (
        (np.ones(2), "expecting 3 features"),
        (np.ones((1, 1, 3)), "expecting 3 features"),
        ([1, np.nan, 2], "NaN"),
    ):
        with pytest.raises(ValueError, match=match):
            model.predict_step(x_t)

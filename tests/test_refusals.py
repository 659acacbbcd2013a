"""Input that would silently give wrong numbers or lose data is refused.

This covers forecasts that see the future, masks that would be ignored, meaningless weights, and logs in place of other
files.
"""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastrnn
from fastrnn.callbacks import CSVLog, JSONLog
from fastrnn.models import Forecaster, SequenceClassifier, SequenceRegressor

X = list(np.random.default_rng(0).standard_normal((12, 5, 2)))
Y = ["a", "b"] * 6


@pytest.mark.sklearn
def test_a_forecaster_that_would_see_the_step_it_forecasts_is_refused():
    from fastrnn.sklearn import RNNForecaster

    for verb in ("fit", "partial_fit"):
        with pytest.raises(
            ValueError, match="RNNForecaster needs bidirectional=False: the reverse direction would see"
        ):
            getattr(RNNForecaster((4,), bidirectional=True, max_iter=1), verb)(X)


def test_a_mask_that_would_be_lost_is_refused():
    masked = np.ma.masked_greater(np.arange(60.0), 50)
    rnn = fastrnn.GRU(2, 3)
    for call, message in (
        (
            lambda: Forecaster(12, 6, hidden_size=4).fit(masked, epochs=1, verbose=False),
            "9 of its 60 values are masked",
        ),
        (
            lambda: SequenceClassifier("gru", 4).fit(
                [np.ma.array(x, mask=x > 1) for x in X], Y, epochs=1, verbose=False
            ),
            "sequence 0 is a masked array",
        ),
        (
            lambda: rnn(np.ma.array(np.ones((4, 1, 2), "float32"), mask=True)),
            "x is a masked array, and 8 of its 8 values are masked",
        ),
        (lambda: fastrnn.Embedding(3, 2)(np.ma.array([0, 1], mask=[0, 1])), "ids is a masked array"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    same = rnn(np.ma.array(np.ones((4, 1, 2), "float32")))[0]  # nothing is masked
    assert_array_equal(same, rnn(np.ones((4, 1, 2), "float32"))[0])


@pytest.mark.parametrize("make", [SequenceClassifier, SequenceRegressor])
@pytest.mark.parametrize("size", [2.0**-1000, 2.0**-61, 2.0**-59, 2.0**59, 2.0**61, 2.0**1000])
def test_only_the_ratios_of_weights_count(make, size):
    weights = np.random.default_rng(1).uniform(1, 2, len(X))
    y = Y if make is SequenceClassifier else np.arange(12.0)
    models = [
        make("gru", 4, seed=0).fit(X, y, epochs=2, sample_weight=weights * s, validation=0, verbose=False)
        for s in (1, size)
    ]
    assert_allclose(models[1].storage.flat, models[0].storage.flat, rtol=1e-6, atol=1e-7)


def test_weights_of_which_all_are_zero_are_refused():
    for options in (dict(class_weight={"a": 0, "b": 0}), dict(sample_weight=np.zeros(12))):
        with pytest.raises(ValueError, match="sequences have weight 0: nothing can be learnt"):
            SequenceClassifier("gru", 4).fit(X, Y, epochs=1, verbose=False, **options)
    with pytest.raises(ValueError, match="sample_weight times class_weight is too large"):
        SequenceClassifier("gru", 4).fit(
            X, Y, epochs=1, verbose=False, sample_weight=np.full(12, 1e300), class_weight={"a": 1e300, "b": 1}
        )  # fmt: skip


@pytest.mark.parametrize("log, own", [(CSVLog, "epoch,update\n1,2\n"), (JSONLog, '{"epoch": 1}\n')])
def test_a_log_replaces_nothing_but_a_log(log, own, tmp_path):
    path = tmp_path / "data"
    for text in ("@data\n1,2:a\n", "a,b\n1,2\n", "\xff"):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"is not a {log.__name__}, and writing one would overwrite it"):
            log(path)
        assert path.read_text() == text
    for text in ("", own):
        path.write_text(text)
        log(path).begin([])
        assert path.read_text() == ""


def test_the_command_refuses_a_log_that_would_replace_the_data(run):
    text = "@classLabel true a b\n@data\n1,2:a\n2,3:b\n1,2:a\n2,3:b\n"
    Path("d.ts").write_text(text)
    status, _, err = run(
        "train", "classify", "--data", "d.ts", "--log", "d.ts", "--out", "o", "--epochs", "1", "--validation", "0"
    )
    assert status == 1
    assert "d.ts is not a CSVLog, and writing one would overwrite it" in err
    assert Path("d.ts").read_text() == text


def test_an_empty_name_of_a_directory_is_refused(run):
    status, _, err = run("train", "--out", "")
    assert status == 2
    assert "--out: the path is empty: give a path, or . for the current directory" in err


@pytest.mark.pandas
def test_the_times_of_a_series_rise_by_even_steps():
    import pandas as pd

    values = 10 + 3 * np.sin(np.arange(48) * np.pi / 6)
    months = pd.Series(values, pd.date_range("2020-01-31", periods=48, freq="ME"))
    forecaster = Forecaster(12, 6, hidden_size=4, seed=0)
    want = forecaster.fit(values, epochs=1, verbose=False).predict()
    for series in (
        months,
        months.to_frame("v"),
        months.set_axis(months.index.to_period("M")),
        months.set_axis(months.index.tz_localize("UTC")),
    ):
        found = forecaster.fit(series, epochs=1, verbose=False).predict()
        assert_array_equal(np.ravel(found), want)
    working_days = pd.Series(values, pd.bdate_range("2024-01-01", periods=48))
    forecaster.fit(working_days, epochs=1, verbose=False)
    shuffled = months.sample(frac=1, random_state=0)
    for series, exog, message in (
        (months[::-1], None, "2023-11-30 00:00:00 after 2023-12-31 00:00:00, but times must rise: sort by time"),
        (shuffled, None, "times must rise"),
        (pd.concat([months, months]), None, "times must rise"),
        (months.drop(months.index[20]), None, "but most rows are 1 month apart: fill the gap"),
        (months, months[::-1].to_frame(), "the index of exog differs from that of the series"),
    ):
        with pytest.raises(ValueError, match=message):
            forecaster.fit(series, exog, epochs=1, verbose=False)


def test_conflicting_options_and_a_resume_of_nothing_are_reported(run):
    Path("t.txt").write_text("abc def " * 100)
    small = [
        "--data",
        "t.txt",
        "--hidden",
        "4",
        "--layers",
        "1",
        "--batch",
        "2",
        "--seq-len",
        "5",
        "--epochs",
        "1",
        "--quiet",
    ]
    status, _, err = run("train", *small, "--out", "new", "--resume")
    assert status == 0
    assert "fastrnn: new is empty: training starts from the beginning" in err
    Path("d.ts").write_text("@classLabel true a b\n@data\n" + "1,2:a\n2,3:b\n" * 5)
    status, _, err = run(
        "train", "classify", "--data", "d.ts", "--held-out", "d.ts", "--validation", "0.2", "--out", "o"
    )
    assert status == 2
    assert "argument --validation: not allowed with argument --held-out" in err

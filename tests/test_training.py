"""The training loop: the meaning of its settings, for any model."""

import csv
import dataclasses
import json
import re
import subprocess
import sys
import types

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from processes import environment

from fastrnn import optim
from fastrnn._core.keys import random_key
from fastrnn._files import storage
from fastrnn.batches import Generated, Sequences, Streams
from fastrnn.callbacks import CSVLog, JSONLog, TensorBoard
from fastrnn.models import LanguageModel, SequenceClassifier
from fastrnn.settings import Settings, TrainingOptions

TEXT = "".join(f"{n} squared is {n * n}, and cubed {n**3}.\n" for n in range(60))
QUICK = dict(epochs=2, batch_size=4, seq_len=13, lr=0.01, verbose=False)


def small(**options):
    return LanguageModel("gru", 6, **{"seed": 1, "dtype": "float64", **options})


def sequences(n=24, seed=0):
    rng = np.random.default_rng(seed)
    X = [rng.standard_normal((rng.integers(2, 9), 3)) for _ in range(n)]
    return X, [("up", "down")[int(x.sum() > 0)] for x in X]


# --- several batches as one ---------------------------------------------------


def test_accumulated_batches_equal_one_large_batch():
    X, y = sequences()
    fit = dict(epochs=4, optimizer="sgd", lr=0.5, clip_norm=None, verbose=False, sample_weight=np.arange(1.0, 25.0))
    once = SequenceClassifier("gru", 5, dtype="float64", seed=3).fit(X, y, batch_size=24, **fit)
    parts = SequenceClassifier("gru", 5, dtype="float64", seed=3).fit(X, y, batch_size=5, accumulate=5, **fit)
    assert once.history[-1]["update"] == parts.history[-1]["update"] == 4
    assert_allclose(parts.storage.flat, once.storage.flat, rtol=1e-10, atol=1e-12)
    assert_allclose(
        [e["train_loss"] for e in parts.history[1:]], [e["train_loss"] for e in once.history[1:]], rtol=1e-10
    )


def test_the_last_update_of_an_epoch_has_what_is_left():
    X, y = sequences()
    model = SequenceClassifier("rnn", 4, seed=0).fit(X, y, epochs=2, batch_size=5, accumulate=2, verbose=False)
    assert [entry["update"] for entry in model.history] == [0, 3, 6]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_shares_of_all_processes_are_the_whole_batch(ranks):
    streams = Streams(np.arange(1001), 7, 10)
    shares = [streams.share(rank, ranks) for rank in range(ranks)]
    for i, window in enumerate(streams):
        assert_array_equal(np.concatenate([share[i].x for share in shares], 1), window.x)
        assert_array_equal(np.concatenate([share[i].targets for share in shares], 1), window.targets)
    batches = Sequences([np.full((t, 1), float(t)) for t in range(1, 12)], 3, seed=5)
    shares = [batches.share(rank, ranks) for rank in range(ranks)]
    for epoch in range(2):
        for part in (batches, *shares):
            part.begin(epoch)
        for i, batch in enumerate(batches):
            parts = [share[i] for share in shares if share[i] is not None]
            assert sorted(np.concatenate([part.rows for part in parts])) == sorted(batch.rows)


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("lengths", [[4] * 90, [4] * 89 + [5], [*range(1, 91)], []])
def test_sequences_are_sorted_by_length_and_stay_in_order_otherwise(lengths, seed):
    batches = Sequences([np.zeros((t, 1)) for t in lengths], 2, seed=seed)
    batches.begin(1)
    order = np.arange(90)[: len(lengths)]
    if seed is not None:
        rng = np.random.default_rng(random_key(seed, 1))
        order = rng.permutation(len(lengths))
    pools = [sorted(order[k : k + 64].tolist(), key=lambda row: -lengths[row]) for k in range(0, len(order), 64)]
    pools = pools if seed is not None else [sorted(order.tolist(), key=lambda row: -lengths[row])]
    cuts = [pool[k : k + 2] for pool in pools for k in range(0, len(pool), 2)]
    if seed is not None:
        cuts = [cuts[k] for k in rng.permutation(len(cuts))]
    assert [batch.rows.tolist() for batch in batches] == cuts


def test_a_generator_is_called_again_for_each_epoch():
    counts = Generated(lambda epoch: iter(range(10 * epoch, 10 * epoch + 5)), 4, lambda given, share: given, int, float)
    for epoch in (2, 0, 2):
        counts.begin(epoch)
        assert [counts[i] for i in range(4)] == [10 * epoch + i for i in range(4)]
    assert counts[1] == 21 and counts[3] == 23  # as where a resumed training run continues


# --- groups and freezing ------------------------------------------------------


def test_frozen_parameters_stay_and_do_not_count_in_the_norm():
    start = small().fit(TEXT, **QUICK | {"epochs": 0})
    model = small().fit(TEXT, **QUICK, freeze=["embedding", "rnn.weight_hh*"], clip_norm=1e-3, optimizer="sgd")
    for name, slot in model.slots.items():
        same = np.array_equal(slot.view(model.storage.flat), slot.view(start.storage.flat))
        assert same == (name.startswith(("embedding", "rnn.weight_hh"))), name
    # one update of length lr * clip_norm, completely in the parameters that are not frozen
    one = small().fit(
        TEXT,
        **QUICK | {"epochs": 1, "batch_size": 1, "seq_len": len(TEXT) // 2, "validation": 0.4},
        freeze=["rnn"],
        clip_norm=1e-3,
        optimizer="sgd",
    )
    assert_allclose(
        np.linalg.norm(one.storage.flat - start.storage.flat), 0.01 * 1e-3 * one.history[-1]["update"], rtol=1e-2
    )


def test_groups_have_their_own_settings():
    plain = small().fit(TEXT, **QUICK, optimizer="sgd", clip_norm=None)
    grouped = small().fit(TEXT, **QUICK, optimizer="sgd", clip_norm=None, groups={"*": {"lr": 0.01}})
    assert_array_equal(plain.storage.flat, grouped.storage.flat)
    one = dict(
        epochs=1, batch_size=1, seq_len=1000, validation=0, lr=0.01, verbose=False, optimizer="sgd", clip_norm=None
    )
    text, groups = TEXT[:1001], {"linear": {"lr": 0.03}, "*bias*": {"weight_decay": 0.5}}
    start = small().fit(text, **one | {"epochs": 0})
    plain, grouped = small().fit(text, **one), small().fit(text, **one, groups=groups)
    assert plain.history[-1]["update"] == 1
    step = {name: slot.view(plain.storage.flat - start.storage.flat) for name, slot in plain.slots.items()}
    for name, slot in grouped.slots.items():
        want = step[name] - (0.01 * 0.5 * slot.view(start.storage.flat) if "bias" in name else 0)
        assert_allclose(
            slot.view(grouped.storage.flat - start.storage.flat),
            want * (3 if name.startswith("linear") else 1),
            rtol=1e-6,
            atol=1e-12,
            err_msg=name,
        )


def test_weight_decay_reaches_the_optimiser(tmp_path):
    model = small().fit(TEXT, **QUICK, optimizer="adamw", weight_decay=0.3)
    again = small().fit(TEXT, **QUICK, optimizer=lambda s, lr: optim.AdamW(s, lr=lr, weight_decay=0.3))
    assert_array_equal(model.storage.flat, again.storage.flat)
    assert not np.array_equal(model.storage.flat, small().fit(TEXT, **QUICK, optimizer="adamw").storage.flat)


def test_a_resumed_training_with_groups_accumulation_and_monitor_has_the_same_bits(tmp_path):
    X, y = sequences(40)
    options = dict(
        batch_size=4,
        accumulate=2,
        groups={"*bias*": {"lr": 0.1}},
        freeze=["linear.bias"],
        validation=0.3,
        monitor="accuracy",
        lr=0.01,
        verbose=False,
    )
    whole = SequenceClassifier("lstm", 4, seed=2).fit(X, y, epochs=5, **options)
    SequenceClassifier("lstm", 4, seed=2).fit(X, y, epochs=2, **options, checkpoint=tmp_path)
    resumed = SequenceClassifier("lstm", 4, seed=2).fit(X, y, epochs=5, **options, checkpoint=tmp_path, resume=True)
    assert_array_equal(resumed.storage.flat, whole.storage.flat)
    assert resumed.history == whole.history
    with pytest.raises(ValueError, match="accumulate=2, but now it is 3"):
        SequenceClassifier("lstm", 4, seed=2).fit(
            X, y, epochs=6, **options | {"accumulate": 3}, checkpoint=tmp_path, resume=True
        )


def test_a_checkpoint_with_the_old_name_of_a_key_is_resumed(tmp_path):
    X, y = sequences(40)
    options = dict(batch_size=4, validation=0.3, patience=4, lr=0.3, verbose=False)
    whole = SequenceClassifier("lstm", 4, seed=2).fit(X, y, epochs=60, **options)
    assert whole.outcome == "stopped early"
    part = len(whole.history) - 3  # epochs, of which the last two are not the best
    SequenceClassifier("lstm", 4, seed=2).fit(X, y, epochs=part, **options, checkpoint=tmp_path)
    arrays, config = storage.load(tmp_path, kind="checkpoint")
    config["position"]["looks_since_best"] = config["position"].pop("evaluations_since_best")
    assert config["position"]["looks_since_best"] == 2
    storage.save(tmp_path, arrays, config, kind="checkpoint")
    resumed = SequenceClassifier("lstm", 4, seed=2).fit(X, y, epochs=60, **options, checkpoint=tmp_path, resume=True)
    assert resumed.history == whole.history and resumed.outcome == "stopped early"
    assert_array_equal(resumed.storage.flat, whole.storage.flat)


def test_the_model_kept_is_the_best_by_the_figure_that_is_monitored():
    X, y = sequences(60)
    fit = dict(epochs=15, lr=0.1, batch_size=8, validation=(X[:20], y[:20]), verbose=False)
    model = SequenceClassifier("gru", 5, seed=4).fit(X[20:], y[20:], **fit, monitor="accuracy")
    figures = [entry["validation_accuracy"] for entry in model.history]
    assert model.score(X[:20], y[:20]) == max(figures) > max(figures[0], figures[-1]), figures
    by_loss = SequenceClassifier("gru", 5, seed=4).fit(X[20:], y[20:], **fit)
    assert by_loss.history == model.history


def test_an_evaluation_is_due_after_so_many_updates_not_batches():
    X, y = sequences()
    model = SequenceClassifier("rnn", 4, seed=0).fit(
        X, y, epochs=1, batch_size=2, accumulate=2, evaluate_every=2, verbose=False
    )
    assert [entry["update"] for entry in model.history] == [0, 2, 4, 6]


# --- truncated BPTT -----------------------------------------------------------


@pytest.mark.parametrize("k1, k2", [(3, 3), (3, 5), (2, 7), (5, 2), (4, 4), (1, 6)])
def test_windows_learn_each_step_once_or_skip_it(k1, k2):
    streams = Streams(np.arange(47), 2, k1, k2)
    L, learnt, state_at = 23, [], 0
    for window in streams:
        T = len(window.x)
        assert window.x[0, 0] == state_at and len(window.targets) == T - window.skip <= max(k1, k2)
        valid = window.targets[:, 0] >= 0
        assert_array_equal(window.targets[:, 0][valid], window.x[window.skip :, 0][valid] + 1)
        learnt += window.x[window.skip :, 0][valid].tolist()
        state_at += window.carry
    assert learnt == sorted(set(learnt))
    assert len(learnt) == L if k2 >= k1 else len(learnt) < L
    assert sum(streams.steps_of(window) for window in streams) == streams.steps


# --- callbacks ----------------------------------------------------------------


def test_logs_hold_the_history_also_of_a_resumed_training(tmp_path):
    logs = CSVLog(tmp_path / "log.csv"), JSONLog(tmp_path / "log.jsonl")
    small().fit(TEXT, **QUICK, callbacks=logs, checkpoint=tmp_path / "m")
    model = small().fit(TEXT, **QUICK | {"epochs": 4}, callbacks=logs, checkpoint=tmp_path / "m", resume=True)
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == model.history
    with open(tmp_path / "log.csv") as file:
        table = list(csv.DictReader(file))
    assert [float(row["validation_loss"]) for row in table] == [entry["validation_loss"] for entry in model.history]
    assert table[0]["train_loss"] == "" and len(table) == 5


def test_a_callback_that_returns_true_stops_the_training():
    seen = []
    model = small().fit(
        TEXT, **QUICK | {"epochs": 9}, callbacks=[lambda entry: seen.append(entry), lambda entry: entry["epoch"] == 3]
    )
    assert model.outcome == "stopped early" and seen == model.history and len(seen) == 4


@pytest.mark.tensorboardX
def test_tensorboard_gets_each_figure(tmp_path):
    small().fit(TEXT, **QUICK, callbacks=[TensorBoard(tmp_path)])
    [events] = tmp_path.iterdir()
    assert b"validation_loss" in events.read_bytes() and b"train_loss" in events.read_bytes()


def test_without_tensorboardx_the_error_says_what_to_install(tmp_path):
    code = "import sys; sys.modules['tensorboardX'] = None\nfrom fastrnn.callbacks import TensorBoard\nTensorBoard('x')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert (
        done.stderr.splitlines()[-1]
        == "ImportError: fastrnn.callbacks.TensorBoard needs tensorboardX: pip install tensorboardX"
    )


# --- invalid settings ---------------------------------------------------------


@pytest.mark.parametrize(
    "options, error, message",
    [
        (dict(accumulate=0), ValueError, "accumulate is 0, but it must be at least 1"),
        (dict(weight_decay=-1), ValueError, "weight_decay is -1, but it must be >= 0"),
        (dict(freeze="rnn"), TypeError, r"freeze is 'rnn', but it must be a list of patterns: \['rnn'\]"),
        (
            dict(freeze=["gru"]),
            ValueError,
            "'gru' matches no parameter of this model; it has embedding.weight, rnn.weight_ih_l0",
        ),
        (dict(groups={"*bias*": {"lrr": 1}}), TypeError, "lrr"),
        (dict(monitor="accuracy"), ValueError, "monitor is 'accuracy', but an evaluation of this model gives loss"),
        (
            dict(monitor="accuracy", validation=0),
            ValueError,
            "monitor='accuracy' needs validation data, but there are none",
        ),
        (dict(callbacks=[3]), TypeError, "callbacks has 3, but each must be callable"),
    ],
)
def test_a_wrong_setting_is_named_before_any_work(options, error, message, tmp_path):
    model = small().fit(TEXT, **QUICK | {"epochs": 0})
    before = model.storage.flat.copy()
    with pytest.raises(error, match=message):
        model.fit(TEXT, **QUICK | {"validation": 0.1} | options, checkpoint=tmp_path)
    assert not storage.holds_anything(tmp_path)
    assert_array_equal(model.storage.flat, before)


# --- progress -----------------------------------------------------------------


@pytest.mark.parametrize("widgets", [False, True])
def test_a_notebook_shows_a_bar(widgets, monkeypatch, capsys):
    """In a Jupyter kernel stderr is not a terminal; the bar is a widget if ipywidgets is installed."""
    from fastrnn.training import progress

    ipython = types.ModuleType("IPython")
    ipython.get_ipython = type("ZMQInteractiveShell", (), {})
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: widgets or None)
    if widgets:
        import tqdm

        notebook = types.ModuleType("tqdm.notebook")
        notebook.tqdm = type("Widget", (tqdm.tqdm,), {})
        monkeypatch.setitem(sys.modules, "tqdm.notebook", notebook)
        assert progress._tqdm() is notebook.tqdm
    small().fit(TEXT, **QUICK | {"verbose": True})
    shown = capsys.readouterr().err
    assert "characters/s" in shown and "left" in shown and "epoch 2" in shown and "%|" in shown


def test_each_line_has_every_figure_of_the_validation(capsys):
    X, y = sequences()
    SequenceClassifier("rnn", 4, seed=0).fit(X, y, epochs=1, validation=0.25)
    last = capsys.readouterr().err.splitlines()[-1]
    assert all(word in last for word in ("epoch 1", "loss ", "validation ", "accuracy ", "steps/s", "left")), last


@pytest.mark.parametrize(
    "given, meant",
    [
        ("learning_rate", ": did you mean lr?"),
        ("patient", ": did you mean patience?"),
        ("epoch", ": did you mean epochs?"),
        ("validation_split", ": did you mean validation?"),
        ("random_state", ": did you mean seed of the model?"),
        ("progress", ""),
        ("unknown", ""),
    ],
)
def test_an_unknown_option_of_fit_suggests_a_known_one(given, meant):
    model = SequenceClassifier()
    with pytest.raises(TypeError, match=re.escape(f"fit() has no argument {given!r}{meant}") + "$"):
        model.fit([np.ones((2, 1))] * 2, ["a", "b"], **{given: 1})
    assert model.storage is None


def test_the_options_of_fit_are_the_fields_of_settings():
    fields = {field.name: field.type for field in dataclasses.fields(Settings)}
    options = {name: type.__forward_arg__ for name, type in TrainingOptions.__annotations__.items()}
    assert options == {name: fields[name] for name in fields if name not in ("epochs", "progress")}

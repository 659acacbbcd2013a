"""Models and checkpoints of unknown origin: errors name the file and the key."""

import dataclasses
import json
import math
import subprocess
import sys

import fuzz
import numpy as np
import processes
import pytest

from fastrnn import Network, cli, models
from fastrnn._files import schema, storage
from fastrnn.models import schemas
from fastrnn.models.model import Model
from fastrnn.training import checkpoint as _checkpoint
from fastrnn.training.loop import Position

if sys.platform != "linux":
    pytest.skip("needs Linux's memory limits", allow_module_level=True)


import hostile
from damaged_models import CASES, data_of, edited, error_of, options, read, set_to, use


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return {name: directory} of a model of every kind."""
    return {name: path for name, (path, _) in hostile.made(tmp_path_factory.mktemp("models")).items()}


# --- random damage --------------------------------------------------------------


@pytest.mark.fuzz
@pytest.mark.parametrize(("kind", "count"), [("models", 150), ("checkpoints", 20), ("command", 30)])
def test_a_damaged_directory_works_or_is_refused_by_name(kind, count, tmp_path):
    """Run with limits of memory and time. To repeat a failing case: ``python hostile.py models SEED 1 FOLDER``."""
    seeds = list(fuzz.seeds(f"hostile {kind}", count))
    done = subprocess.run(
        [sys.executable, processes.TESTS / "hostile.py", kind, str(seeds[0]), str(len(seeds)), tmp_path],
        cwd=processes.TESTS,
        env=processes.environment(),
        capture_output=True,
        text=True,
        timeout=120 + len(seeds),
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    cases = [line for line in lines if len(line) > 1]
    assert done.returncode == 0, (
        f"seed {lines[-1][0] if lines else None}: status {done.returncode}: {done.stderr[-2000:]}"
    )
    wrong = [case for case in cases if case[2] == "wrong"]
    assert not wrong, f"{len(wrong)} of {len(cases)}, the first of seed {wrong[0][0]}, {wrong[0][1]}: {wrong[0][3]}"
    assert len(cases) == len(seeds) and {case[2] for case in cases} == {"loaded", "refused"}


# --- one change at a time: the message --------------------------------------------


WRONG = [
    ("text", set_to("hidden_size", "8"), "hidden_size is '8', but it must be a whole number of at least 1"),
    ("text", set_to("hidden_size", [4, 0]), "hidden_size[1] is 0, but it must be a whole number of at least 1"),
    ("text", set_to("dropout", math.nan), "dropout is nan, but it must be a finite number >= 0 and < 1"),
    ("text", set_to("tied", 1), "tied is 1, but it must be true or false"),
    ("text", set_to("symbols", "aab"), "symbols is 'aab', but it must be a text of at least one character, each once"),
    ("text", set_to("history", [{"epoch": 0}]), "history[0].update is missing"),
    ("text", set_to("reading", {"column": "4"}), "reading.column is '4', but it must be a whole number of at least 1"),
    ("text", set_to("hiden_size", 4), "hiden_size is not a known key"),
    ("text", lambda arrays, config: config.pop("cell"), "cell is missing"),
    (
        "text",
        set_to("hidden_size", 5),
        "the array embedding.weight is float32 of shape (5, 4), but by the sizes in the configuration ",
    ),
    ("text", set_to("num_layers", 2), "the array 'rnn.bias_hh_l1' is missing: the sizes in the"),
    ("text", lambda arrays, config: arrays.pop("linear.bias"), "the array 'linear.bias' is missing: the sizes in the"),
    (
        "text",
        lambda arrays, config: arrays.update(extra=np.ones(3)),
        "the array 'extra' does not belong to such a model: ",
    ),
    (
        "text",
        lambda arrays, config: arrays.update({"linear.bias": arrays["linear.bias"].astype("float64")}),
        "the array linear.bias is float64 of shape (5,), but by the sizes in the configuration it",
    ),
    ("words", set_to("symbols", [" a", " b"]), "symbols is [' a', ' b'], but it must be a list of at least two words"),
    ("classifier", set_to("classes", ["a", 1]), "classes is ['a', 1], but it must be a list of at least two labels"),
    ("classifier", lambda arrays, config: arrays.pop("scaler.deviation"), "the array scaler.deviation is missing"),
    (
        "classifier",
        lambda arrays, config: arrays.update({"scaler.mean": np.full(3, np.nan)}),
        "the array scaler.mean has nan, but its numbers must be finite",
    ),
    (
        "forecaster",
        set_to("horizon", 10**12),
        "horizon is 1000000000000, but it must be a whole number of at least 1 and at most 1,048,576",
    ),
    (
        "forecaster",
        set_to("series", 10**12),
        "series is 1,000,000,000,000, but there are 9 arrays, and each series has one",
    ),
    (
        "stories",
        set_to("hops", 10**12),
        "hops is 1000000000000, but it must be a whole number of at least 1 and at most 1,000",
    ),
    (
        "stories",
        lambda arrays, config: config["words"].append("attic"),
        "words has 'attic', which is also among answers",
    ),
    (
        "pairs",
        set_to("longest", 10**12),
        "longest is 1000000000000, but it must be a whole number of at least 0 and at most 1,048,576",
    ),
    (
        "network",
        lambda arrays, config: config["steps"][1][1].update(embedding_dim=None),
        "steps[1][1].embedding_dim is None, but it must be a whole number",
    ),
    (
        "network",
        lambda arrays, config: config["steps"][4].__setitem__(1, ["leaky_relu", 1, 2]),
        "step 'act': leaky_relu takes at most 1 numbers, but 2 are given",
    ),
]


@pytest.mark.parametrize("n", range(len(WRONG)))
def test_the_file_and_the_key_are_named(n, saved, tmp_path):
    name, change, message = WRONG[n]
    folder = edited(saved[name], tmp_path / "m", change)
    cls = (
        Network
        if name == "network"
        else getattr(models, json.loads((saved[name] / "config.json").read_text())["config"]["model"])
    )
    assert error_of(cls.load, folder).startswith(f"{folder / 'config.json'}: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model": "X", "model": "Y"}', "it has the key 'model' twice"),
        ("[" * 65 + "]" * 65, "it has lists or objects nested 66 deep, but at most 64 are read"),
        ('{"seed": ' + "9" * 5000 + "}", "it has a whole number of 5,000 digits, but at most 100 are read"),
        ("[" + "[]," * 500 + "[]]", "it has 503 lists and objects, but at most 500 are read"),
        ("[]", "config is [], but it must be an object"),
    ],
)
def test_json_that_fastrnn_does_not_write_is_refused(text, message, tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "MOST_PARTS", 500)
    header = '{"format_version": 1, "weights": "model-000000000000.safetensors", "sha256": "' + "0" * 64
    (tmp_path / "config.json").write_text(f'{header}", "config": {text}}}')
    assert error_of(storage.load, tmp_path) == f"{tmp_path / 'config.json'} is damaged: {message}"


def test_a_file_that_is_too_large_or_no_file_is_not_read(tmp_path):
    path = tmp_path / "config.json"
    with open(path, "wb") as file:
        file.truncate(schema.MOST_BYTES + 1)
    assert (
        error_of(storage.load, tmp_path)
        == f"{path} is damaged: it has 268,435,457 bytes, but at most 268,435,456 are read"
    )
    path.unlink()
    path.symlink_to("/dev/zero")
    assert error_of(storage.load, tmp_path) == f"{path} is damaged: it is not a regular file"


def test_brackets_in_strings_are_not_nested():
    text = {"a": ["[" * 100, '"[' * 99, "\\", '\\"[[' * 30], "[[[": {"b": '\\"'}}
    assert schema.parse(json.dumps(text).encode()) == text
    assert schema._nesting(json.dumps(text).encode()) == (3, 2)


def test_an_option_of_another_reader_is_refused(saved, tmp_path, capsys):
    folder = edited(saved["classifier"], tmp_path / "m", set_to("reading", {"column": 4}))
    assert cli.main(["predict", str(folder), "--data", str(tmp_path / "x.ts")]) == 1
    message = f"{folder} holds reading.column, which is not an option for a SequenceClassifier"
    assert capsys.readouterr().err == f"fastrnn: error: {message}\n"


# --- what must still work -------------------------------------------------------------


def test_the_schema_has_every_argument_of_every_model():
    for name in models.__all__:
        cls = getattr(models, name)
        required, optional = schemas.SCHEMAS[name]
        assert {*cls.ARGUMENTS} <= {*required, *optional}
        assert issubclass(cls, Model)


def test_the_schema_has_every_field_of_a_position():
    """Every field has a rule; a field added later is optional, so that older checkpoints can be read."""
    rules = _checkpoint._position(())
    assert {*rules._rules} == {field.name for field in dataclasses.fields(Position)}
    assert {*rules._required} == {
        "seed",
        "epoch",
        "index",
        "update",
        "evaluated",
        "loss_sum",
        "loss_count",
        "best_loss",
        "best_update",
        "evaluations_since_best",
        "history",
    }


@pytest.mark.parametrize("name", CASES)
def test_what_is_saved_is_read(name, saved):
    cls = getattr(models, read(saved[name])[1]["model"])
    model = cls.load(saved[name])
    assert (model.storage.flat == CASES[name].make(seed=0).fit(*data_of(name), **options(name)).storage.flat).all()
    assert model._budget is None and model.storage.budget is None


LATER = {  # keys that older versions did not write
    "text": (
        "input_dropout",
        "variational",
        "level",
        "min_count",
        "max_vocabulary",
        "tied",
        "label_smoothing",
        "splitting",
    ),
    "words": ("splitting",),
    "forecaster": ("series", "columns", "exog_columns"),
}


@pytest.mark.parametrize("name", LATER)
def test_a_model_of_an_older_version_is_read(name, saved, tmp_path):
    def change(arrays, config):
        for key in LATER[name]:
            config.pop(key)
        if name == "forecaster":  # the whole series, in the model's dtype
            arrays["end"] = np.concatenate([arrays["end"]] * 3).astype("float32")

    folder = edited(saved[name], tmp_path / "m", change)
    model = getattr(models, read(folder)[1]["model"]).load(folder)
    assert name != "words" or model.splitting == "simple"
    use(name, model, data_of(name))


def test_what_callbacks_and_diverged_losses_leave_in_the_history_is_read(tmp_path):
    model = CASES["events"].make(seed=0)
    model.fit(*data_of("events"), callbacks=[lambda entry: entry.update(mine=[1, {"a": None}])], **options("events"))
    model.history[-1] |= {"train_loss": math.nan, "validation_loss": math.inf}
    model.save(tmp_path)
    assert models.EventModel.load(tmp_path).history[0]["mine"] == [1, {"a": None}]


# --- checkpoints ------------------------------------------------------------------------

WRONG_CHECKPOINTS = [
    (
        lambda arrays, config: config["position"].update(epoch="1"),
        "position.epoch is '1', but it must be a whole number of at least 0",
    ),
    (lambda arrays, config: config["position"].update(index=10**6), "position.index is 1000000, but an epoch has"),
    (lambda arrays, config: config["position"].update(history=[]), "position.history is empty"),
    (lambda arrays, config: config["position"].pop("seed"), "position.seed is missing"),
    (
        lambda arrays, config: config["optimizer"].update(betas=0.9),
        "optimizer.betas is 0.9, but it must be a list of at least 2 and at most 2",
    ),
    (
        lambda arrays, config: config["optimizer"].update(updates=-1),
        "optimizer.updates is -1, but it must be a whole number of at least 0",
    ),
    (lambda arrays, config: config["schedule"].update(best=1), "schedule.best is not a known key"),
    (lambda arrays, config: config.update(state=["array", "array"]), "the array 'state.1' is missing"),
    (
        lambda arrays, config: arrays.update({"state.0": arrays["state.0"][:, :2]}),
        "h_0 of state has shape (1, 2, 4), but this GRU needs",
    ),
    (
        lambda arrays, config: arrays.update({"state.0": arrays["state.0"].astype("float64")}),
        "h_0 is float64, but this GRU computes in float32",
    ),
    (
        lambda arrays, config: arrays.update({"optimizer.m": arrays["best"][:-1]}),
        "the array optimizer.m is float32 of shape",
    ),
    (
        lambda arrays, config: arrays.update(best=arrays["best"][:1]),
        "the array best is float32 of shape (1,), but this model has float32 of shape",
    ),
    (
        lambda arrays, config: config["optimizer"].update(updates=2**63 - 1),
        "optimizer.updates is 9223372036854775807, but it must be a whole number of at least 0 and at most",
    ),
    (lambda arrays, config: arrays["best"].__setitem__(0, np.nan), "the array best has NaN or infinite values"),
    (
        lambda arrays, config: arrays["parameters"].__setitem__(0, np.inf),
        "the array parameters has NaN or infinite values",
    ),
    (lambda arrays, config: config.update(computed_by=None), "computed_by is None, but it must be an object"),
    (lambda arrays, config: config.update(identity=[]), "identity is [], but it must be an object"),
]


@pytest.mark.parametrize("n", range(len(WRONG_CHECKPOINTS)))
def test_a_checkpoint_that_does_not_fit_is_named_and_nothing_changes(n, tmp_path):
    change, message = WRONG_CHECKPOINTS[n]
    given = options("text") | {"evaluate_every": 1, "validation": 0.2}
    CASES["text"].make(seed=0).fit(
        *data_of("text"), checkpoint=tmp_path / "c", callbacks=[lambda entry: entry["update"] >= 1], **given
    )
    folder = edited(tmp_path / "c", tmp_path / "m", change, "checkpoint")
    before = sorted(path.name for path in folder.iterdir())
    model = CASES["text"].make(seed=0)
    with pytest.raises(ValueError) as error:
        model.fit(*data_of("text"), checkpoint=folder, resume=True, **given)
    assert str(error.value).startswith(f"{folder / 'checkpoint.json'}: {message}")
    assert sorted(path.name for path in folder.iterdir()) == before and model.storage is None


# --- what is allowed, and must be fast --------------------------------------------


def test_keys_that_callbacks_put_into_the_history_may_hold_anything(tmp_path):
    def note(entry):
        entry |= {"validation_improved": True, "validation_note": "text", "place": [1, {"a": None}]}

    text = "to be or not to be, " * 20
    options = dict(batch_size=4, seq_len=10, validation=0.2, checkpoint=tmp_path, callbacks=[note], verbose=False)
    model = models.LanguageModel("gru", 4, seed=0).fit(text, epochs=1, **options)
    assert models.LanguageModel.load(tmp_path).history == model.history
    models.LanguageModel("gru", 4, seed=0).fit(text, epochs=2, resume=True, **options)


def test_labels_whose_hashes_are_all_one_take_no_longer():
    """As sets, these would take minutes."""
    assert not schemas.LABELS.holds([k * (2**61 - 1) for k in range(1, 200_001)])
    assert schemas.LABELS.holds([3, 1, 2]) and not schemas.LABELS.holds([3, 1, 3])


def test_one_long_label_among_many_does_not_take_their_number_of_times():
    assert not schemas.LABELS.holds(["x" * 11_000, *map(str, range(6_000))])
    assert schemas.LABELS.holds([f"{k:0200}" for k in range(50_000)])

"""Models and checkpoints of unknown origin: sizes are checked before memory is taken, and what is wrong is named, with file and key."""

import dataclasses
import json
import math
import subprocess
import sys
import tracemalloc

import fuzz
import numpy as np
import processes
import pytest

import fastrnn
from fastrnn import Network, _check_memory, _checkpoint, _schema, cli, models, storage
from fastrnn.models import schemas
from fastrnn.models.model import Model
from fastrnn.training import Position

if sys.platform != "linux":
    pytest.skip("limits of memory are set as on Linux", allow_module_level=True)

import resource

import hostile
from hostile import CASES, read, write


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """{name: directory} of a model of every kind."""
    return {name: path for name, (path, _) in hostile.made(tmp_path_factory.mktemp("models")).items()}


def edited(source, folder, change, kind="model"):
    """A copy of a directory after `change(arrays, config)`, with hashes that are right."""
    arrays, config = read(source, kind)
    change(arrays, config)
    write(folder, arrays, json.dumps(config), kind)
    return folder


def error_of(load, folder):
    with pytest.raises(ValueError) as error:
        load(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- random damage --------------------------------------------------------------


@pytest.mark.fuzz
@pytest.mark.parametrize(("kind", "count"), [("models", 150), ("checkpoints", 20), ("command", 30)])
def test_a_damaged_directory_works_or_is_refused_by_name(kind, count, tmp_path):
    """Under a limit of memory and time. A case that fails names its seed: ``python hostile.py models SEED 1 FOLDER``."""
    seeds = list(fuzz.seeds(f"hostile {kind}", count))
    done = subprocess.run(
        [sys.executable, processes.TESTS / "hostile.py", kind, str(seeds[0]), str(len(seeds)), tmp_path], cwd=processes.TESTS,
        env=processes.environment(), capture_output=True, text=True, timeout=120 + len(seeds),
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    cases = [line for line in lines if len(line) > 1]
    assert done.returncode == 0, f"seed {lines[-1][0] if lines else None}: status {done.returncode}: {done.stderr[-2000:]}"
    wrong = [case for case in cases if case[2] == "wrong"]
    assert not wrong, f"{len(wrong)} of {len(cases)}, the first of seed {wrong[0][0]}, {wrong[0][1]}: {wrong[0][3]}"
    assert len(cases) == len(seeds) and {case[2] for case in cases} == {"loaded", "refused"}


# --- one thing at a time: what the message says -----------------------------------


def set_to(key, value):
    return lambda arrays, config: config.__setitem__(key, value)


WRONG = [
    ("text", set_to("hidden_size", "8"), "hidden_size is '8', but it must be a whole number of at least 1"),
    ("text", set_to("hidden_size", [4, 0]), "hidden_size[1] is 0, but it must be a whole number of at least 1"),
    ("text", set_to("dropout", math.nan), "dropout is nan, but it must be a finite number >= 0 and < 1"),
    ("text", set_to("tied", 1), "tied is 1, but it must be true or false"),
    ("text", set_to("symbols", "aab"), "symbols is 'aab', but it must be a text of at least one character, each once"),
    ("text", set_to("history", [{"epoch": 0}]), "history[0].update is missing"),
    ("text", set_to("reading", {"column": "4"}), "reading.column is '4', but it must be a whole number of at least 1"),
    ("text", set_to("hiden_size", 4), "hiden_size is not a known key: the file is damaged, or was written by a newer fastrnn"),
    ("text", lambda arrays, config: config.pop("cell"), "cell is missing"),
    ("text", set_to("hidden_size", 5),
     "the array embedding.weight is float32 of shape (5, 4), but by the sizes in the configuration it must be float32 of shape (5, 5)"),
    ("text", set_to("num_layers", 2),
     "the array 'rnn.bias_hh_l1' is missing: the sizes in the configuration do not fit the arrays saved beside it"),
    ("text", lambda arrays, config: arrays.pop("linear.bias"),
     "the array 'linear.bias' is missing: the sizes in the configuration do not fit the arrays saved beside it"),
    ("text", lambda arrays, config: arrays.update(extra=np.ones(3)),
     "the array 'extra' is none that such a model has: the sizes in the configuration do not fit the arrays saved beside it"),
    ("text", lambda arrays, config: arrays.update({"linear.bias": arrays["linear.bias"].astype("float64")}),
     "the array linear.bias is float64 of shape (5,), but by the sizes in the configuration it must be float32 of shape (5,)"),
    ("words", set_to("symbols", [" a", " b"]), "symbols is [' a', ' b'], but it must be a list of at least two words that begins with '<unk>', each once"),
    ("classifier", set_to("classes", ["a", 1]), "classes is ['a', 1], but it must be a list of at least two labels, all texts or all whole numbers, each once"),
    ("classifier", lambda arrays, config: arrays.pop("scaler.deviation"), "the array scaler.deviation is missing"),
    ("classifier", lambda arrays, config: arrays.update({"scaler.mean": np.full(3, np.nan)}), "the array scaler.mean has nan, but its numbers must be finite"),
    ("forecaster", set_to("horizon", 10**12), "horizon is 1000000000000, but it must be a whole number of at least 1 and at most 1,048,576"),
    ("forecaster", set_to("series", 10**12), "series is 1,000,000,000,000, but there are 9 arrays, and each series has one"),
    ("stories", set_to("hops", 10**12), "hops is 1000000000000, but it must be a whole number of at least 1 and at most 1,000"),
    ("stories", lambda arrays, config: config["words"].append("attic"), "words has 'attic', which is among answers already"),
    ("pairs", set_to("longest", 10**12), "longest is 1000000000000, but it must be a whole number of at least 0 and at most 1,048,576"),
    ("network", lambda arrays, config: config["steps"][1][1].update(embedding_dim=None), "steps[1][1].embedding_dim is None, but it must be a whole number"),
    ("network", lambda arrays, config: config["steps"][4].__setitem__(1, ["leaky_relu", 1, 2]), "step 'act': leaky_relu takes at most 1 numbers, but it has 2"),
]  # fmt: skip


@pytest.mark.parametrize("n", range(len(WRONG)))
def test_the_file_and_the_key_are_named(n, saved, tmp_path):
    name, change, message = WRONG[n]
    folder = edited(saved[name], tmp_path / "m", change)
    cls = Network if name == "network" else getattr(models, json.loads((saved[name] / "config.json").read_text())["config"]["model"])
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
    monkeypatch.setattr(_schema, "MOST_PARTS", 500)
    header = '{"format_version": 1, "weights": "model-000000000000.safetensors", "sha256": "' + "0" * 64
    (tmp_path / "config.json").write_text(f'{header}", "config": {text}}}')
    assert error_of(storage.load, tmp_path) == f"{tmp_path / 'config.json'} is damaged: {message}"


def test_a_file_that_is_too_large_or_no_file_is_not_read(tmp_path):
    path = tmp_path / "config.json"
    with open(path, "wb") as file:
        file.truncate(_schema.MOST_BYTES + 1)
    assert error_of(storage.load, tmp_path) == f"{path} is damaged: it has 268,435,457 bytes, but at most 268,435,456 are read"
    path.unlink()
    path.symlink_to("/dev/zero")
    assert error_of(storage.load, tmp_path) == f"{path} is damaged: it is no regular file"


def test_brackets_in_strings_are_not_nested():
    text = {"a": ["[" * 100, '"[' * 99, "\\", "\\\"[[" * 30], "[[[": {"b": '\\"'}}
    assert _schema.parse(json.dumps(text).encode()) == text
    assert _schema._nesting(json.dumps(text).encode()) == (3, 2)


# --- sizes -------------------------------------------------------------------------

BOMBS = {
    "text": ("hidden_size", 6000),
    "events": ("num_layers", 10**12),
    "classifier": ("hidden_size", [4] * 1000),
    "tagger": ("word_size", 10**8),
    "pairs": ("attention_size", 10**8),
    "vectors": ("embedding_size", 10**7),
    "stories": ("memory", 10**9),
    "stories, layerwise": ("size", 10**5),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_takes_little_memory(name, saved, tmp_path):
    key, value = BOMBS[name]

    def change(arrays, config):
        config[key] = value
        if config.get("attention_size"):
            config["attention"] = "additive"

    folder = edited(saved[name], tmp_path / "m", change)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = error_of(getattr(models, read(folder)[1]["model"]).load, folder)
    assert message.startswith(f"{folder / 'config.json'}: the sizes do not fit the arrays saved beside it: ")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_a_network_of_large_layers_is_refused_before_any_is_made(saved, tmp_path):
    def change(arrays, config):
        config["steps"] = [[f"l{k}", {"kind": "Linear", "dtype": "float32", "in_features": 10, "out_features": 10}] for k in range(1000)]

    message = error_of(Network.load, edited(saved["network"], tmp_path / "m", change))
    assert "the sizes do not fit the arrays saved beside it: Linear(10, 10) has 110 parameters in 2 arrays" in message


LARGE = [
    lambda: fastrnn.LSTM(3, 10**9),
    lambda: fastrnn.GRU(3, 4, 10**12),
    lambda: fastrnn.RNN(3, 1, 10**9),
    lambda: fastrnn.RNN(2**62, 2**62, 2**62),
    lambda: fastrnn.LSTM(3, 4, context_size=10**12),
    lambda: fastrnn.Embedding(10**7, 10**7),
    lambda: fastrnn.Linear(10**12, 10**3),
    lambda: fastrnn.AttentionDecoder(fastrnn.GRU(3, 4), 10**12),
    lambda: fastrnn.stacked.make(fastrnn.GRU, 3, 4, 10**12, residual=True),
    lambda: models.LanguageModel("gru", 4, 2**31).fit("to be or not " * 40, batch_size=2, seq_len=5, verbose=False),
    lambda: models.MemoryNetwork(memory=2**31 - 1, size=10**6).fit([([["a"]], ["b"])] * 4, ["c"] * 4, verbose=False),
]


@pytest.mark.parametrize("n", range(len(LARGE)))
def test_what_does_not_fit_into_memory_is_refused_at_once_with_both_sizes(n):
    with pytest.raises(MemoryError, match=r"parameters of .+ need [\d.e+]+ [TPE]B of memory, but .+ [\d.]+ [kMGT]B: make (it smaller|fewer)"):
        LARGE[n]()


@pytest.mark.parametrize("size", [10**12, 2**62])
def test_what_a_call_asks_for_is_compared_with_the_memory_that_there_is(size, saved):
    forecaster, events, pairs = (getattr(models, cls).load(saved[name]) for cls, name in (
        ("Forecaster", "forecaster"), ("EventModel", "events"), ("EncoderDecoder", "pairs"),
    ))  # fmt: skip
    calls = [
        lambda: fastrnn.GRU(3, 4).stream(size),
        lambda: forecaster.predict(size),
        lambda: events.generate(size),
        lambda: pairs.predict(["abc"], max_length=size),
    ]
    for call in calls:
        with pytest.raises(MemoryError, match=r" need [\d.e+]+ [TPE]B of memory, but .+ [\d.]+ [kMGT]B: (give|ask)"):
            call()


def test_a_whole_number_beyond_the_address_space_is_refused():
    with pytest.raises(ValueError, match=f"hidden_size is {10**30}, but it must be at most {sys.maxsize}"):
        fastrnn.GRU(3, 10**30)
    assert models.EventModel(seed=10**30).seed == 10**30


def test_many_small_layers_are_made_in_linear_time():
    def calls(L):
        """Lines of Python that are run."""
        count = 0

        def trace(frame, event, argument):
            nonlocal count
            count += 1
            return trace

        sys.settrace(trace)
        try:
            fastrnn.RNN(1, 1, L, seed=0)
        finally:
            sys.settrace(None)
        return count

    assert calls(400) < 4.4 * calls(100)


def test_a_fit_that_would_need_more_memory_than_there_is_changes_nothing(monkeypatch):
    monkeypatch.setattr(_check_memory, "_UNCHECKED", 0)
    monkeypatch.setattr(_check_memory, "_OF_AN_ARRAY", 0)
    monkeypatch.setattr(_check_memory, "available", lambda: (2_500, "this machine has"))
    model, data = CASES["events"].make(seed=0), _data("events")
    with pytest.raises(MemoryError, match=r"training 140 parameters: copies of them need 2.8 kB of memory, but this machine has 2.5 kB"):
        model.fit(*data, verbose=False)
    assert model.storage is None


def test_available_memory_is_that_of_the_tightest_limit():
    code = """
import resource, sys
from fastrnn import _check_memory
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
there, limit = _check_memory.available()
print(there < 2 << 30, limit)
"""
    assert processes.output(code).split(maxsplit=1) == ["True", "ulimit -v leaves\n"]
    assert 0 < _check_memory.available()[0] <= sys.maxsize


def test_loading_takes_a_small_multiple_of_the_file(tmp_path):
    models.EventModel("gru", 300, 2, seed=0).fit(*_data("events"), epochs=0, verbose=False).save(tmp_path / "whole")
    size = sum(path.stat().st_size for path in (tmp_path / "whole").iterdir())

    def peak(folder, wrong):
        tracemalloc.start()
        try:
            models.EventModel.load(folder)
            assert not wrong
        except ValueError:
            assert wrong
        finally:
            found = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return found

    assert peak(tmp_path / "whole", False) < 10 * size
    for k, (key, value) in enumerate([("hidden_size", 350), ("num_layers", 3), ("hidden_size", 10**5), ("hidden_size", [300] * 50)]):
        assert peak(edited(tmp_path / "whole", tmp_path / str(k), set_to(key, value)), True) < 20 * size, key


# --- what must go on ------------------------------------------------------------------


def test_the_schema_has_every_argument_of_every_model():
    for name in models.__all__:
        cls = getattr(models, name)
        required, optional = schemas.SCHEMAS[name]
        assert {*cls.ARGUMENTS} <= {*required, *optional}
        assert issubclass(cls, Model)


def test_the_schema_has_every_field_of_a_position():
    """A field that is added has its rule; it is optional, so that checkpoints without it are read."""
    rules = _checkpoint._position(())
    assert {*rules._rules} == {field.name for field in dataclasses.fields(Position)}
    assert {*rules._required} == {
        "seed", "epoch", "index", "update", "evaluated", "loss_sum", "loss_count", "best_loss", "best_update", "looks_since_best", "history",
    }  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_saved_is_read(name, saved):
    cls = getattr(models, read(saved[name])[1]["model"])
    model = cls.load(saved[name])
    assert (model.storage.flat == CASES[name].make(seed=0).fit(*_data(name), **hostile.options(name)).storage.flat).all()
    assert model._budget is None and model.storage.budget is None


def _data(name):
    return CASES[name].data(np.random.default_rng(list(CASES).index(name)), 12)


LATER = {  # keys that an older version did not write
    "text": ("input_dropout", "variational", "level", "min_count", "max_vocabulary", "tied", "label_smoothing", "splitting"),
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
    hostile.use(name, model, _data(name))


def test_what_callbacks_and_diverged_losses_leave_in_the_history_is_read(tmp_path):
    model = CASES["events"].make(seed=0)
    model.fit(*_data("events"), callbacks=[lambda entry: entry.update(mine=[1, {"a": None}])], **hostile.options("events"))
    model.history[-1] |= {"train_loss": math.nan, "validation_loss": math.inf}
    model.save(tmp_path)
    assert models.EventModel.load(tmp_path).history[0]["mine"] == [1, {"a": None}]


# --- checkpoints ------------------------------------------------------------------------

WRONG_CHECKPOINTS = [
    (lambda arrays, config: config["position"].update(epoch="1"), "position.epoch is '1', but it must be a whole number of at least 0"),
    (lambda arrays, config: config["position"].update(index=10**6), "position.index is 1000000, but an epoch has"),
    (lambda arrays, config: config["position"].update(history=[]), "position.history has no entry"),
    (lambda arrays, config: config["position"].pop("seed"), "position.seed is missing"),
    (lambda arrays, config: config["optimizer"].update(betas=0.9), "optimizer.betas is 0.9, but it must be a list of at least 2 and at most 2"),
    (lambda arrays, config: config["optimizer"].update(updates=-1), "optimizer.updates is -1, but it must be a whole number of at least 0"),
    (lambda arrays, config: config["schedule"].update(best=1), "schedule.best is not a known key"),
    (lambda arrays, config: config.update(state=["array", "array"]), "the array 'state.1' is missing"),
    (lambda arrays, config: arrays.update({"state.0": arrays["state.0"][:, :2]}), "h_0 of state has shape (1, 2, 4), but this GRU needs"),
    (lambda arrays, config: arrays.update({"state.0": arrays["state.0"].astype("float64")}), "h_0 is float64, but this GRU computes in float32"),
    (lambda arrays, config: arrays.update({"optimizer.m": arrays["best"][:-1]}), "the array optimizer.m is float32 of shape"),
    (lambda arrays, config: arrays.update(best=arrays["best"][:1]), "the array best is float32 of shape (1,), but this model has float32 of shape"),
    (lambda arrays, config: config.update(computed_by=None), "computed_by is None, but it must be an object"),
    (lambda arrays, config: config.update(identity=[]), "identity is [], but it must be an object"),
]


@pytest.mark.parametrize("n", range(len(WRONG_CHECKPOINTS)))
def test_a_checkpoint_that_does_not_fit_is_named_and_nothing_changes(n, tmp_path):
    change, message = WRONG_CHECKPOINTS[n]
    given = hostile.options("text") | {"evaluate_every": 1, "validation": 0.2}
    CASES["text"].make(seed=0).fit(*_data("text"), checkpoint=tmp_path / "c", callbacks=[lambda entry: entry["update"] >= 1], **given)
    folder = edited(tmp_path / "c", tmp_path / "m", change, "checkpoint")
    before = sorted(path.name for path in folder.iterdir())
    model = CASES["text"].make(seed=0)
    with pytest.raises(ValueError) as error:
        model.fit(*_data("text"), checkpoint=folder, resume=True, **given)
    assert str(error.value).startswith(f"{folder / 'checkpoint.json'}: {message}")
    assert sorted(path.name for path in folder.iterdir()) == before and model.storage is None


# --- the command --------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--layers", "2147483648"], ["--hidden", "999999999"], ["--embedding", "9" * 21]])
def test_train_refuses_sizes_that_do_not_fit(words, tmp_path, capsys):
    (tmp_path / "text").write_text("to be or not to be, " * 200)
    assert cli.main(["train", "--data", str(tmp_path / "text"), "--quiet", "--out", str(tmp_path / "out"), *words]) == 1
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "not enough memory: the " in said or "but it must be at most" in said
    assert not (tmp_path / "out").exists()

"""Model directories and checkpoints that are damaged but have correct hashes."""

import contextlib
import copy
import hashlib
import json
import math

import model_cases
import numpy as np
import pytest
from safetensors.numpy import load_file
from safetensors.numpy import save as to_bytes

import fastrnn
from fastrnn import Network
from fastrnn._files import storage
from fastrnn.models import (
    EncoderDecoder,
    Forecaster,
    LanguageModel,
    MemoryNetwork,
    SequenceClassifier,
    SequenceRegressor,
    VectorToSequence,
)

# --- models -------------------------------------------------------------------

CASES = dict(model_cases.CASES)
CASES |= {
    "classifier, stacked": model_cases.Case(
        lambda **o: SequenceClassifier("lstm", [3, 4], bidirectional=True, dropout=0.1, **o), model_cases.classes
    ),
    "regressor, unscaled": model_cases.Case(
        lambda **o: SequenceRegressor("rnn", 3, 2, standardize=False, pooling="max", **o), model_cases.numbers
    ),
    "forecaster, all": model_cases.Case(
        lambda **o: Forecaster(5, 3, hidden_size=3, season=4, difference=True, log=True, quantiles=(0.1, 0.5), **o),
        lambda rng, N: (3 + model_cases.series(rng, N)[0],),
        held_out=6,
        rows=False,
    ),
    "words": model_cases.Case(
        lambda **o: LanguageModel("lstm", 3, level="word", splitting="simple", min_count=1, **o),
        lambda rng, N: (" ".join(rng.choice(["to", "be", "or", "not"], 200)),),
        held_out=0.2,
        rows=False,
    ),
    "bytes": model_cases.Case(
        lambda **o: LanguageModel("gru", [2, 3], tied=False, level="byte", **o),
        model_cases.text,
        held_out=0.2,
        rows=False,
    ),
    "pairs, plain": model_cases.Case(
        lambda **o: EncoderDecoder(
            "lstm",
            3,
            2,
            attention=None,
            bidirectional=False,
            context="both",
            source_embedding=2,
            target_embedding=3,
            tied=True,
            **o,
        ),
        model_cases.pairs,
    ),
    "vectors, tied": model_cases.Case(
        lambda **o: VectorToSequence("rnn", 3, embedding_size=3, tied=True, context="initial", **o), model_cases.vectors
    ),
    "stories, layerwise": model_cases.Case(
        lambda **o: MemoryNetwork(3, 2, tying="layerwise", temporal_encoding=False, memory=4, **o), model_cases.stories
    ),
}
CHECKPOINTS = ["text", "classifier", "events", "stories", "pairs", "words", "bytes"]


def networks():
    """Networks with every kind of step."""
    stack = [
        fastrnn.GRU(3, 4, reset_after=False, activation=("elu", 0.5), seed=0),
        fastrnn.LSTM(4, 5, proj_size=2, peephole=True, clip=2.0, seed=1),
    ]
    chain = {
        "mask": ("mask", 0),
        "emb": fastrnn.Embedding(5, 3, seed=0),
        "rnn": fastrnn.LSTM(3, 4, 2, bidirectional=True, seed=1),
        "merge": ("merge", "sum"),
        "act": ("leaky_relu", 0.2),
        "out": fastrnn.Linear(4, 2, seed=2),
        "p": "softmax",
    }
    stacked = {
        "a": fastrnn.Stacked(stack, dropout=0.1),
        "last": "last",
        "out": fastrnn.Linear(2, 2, bias=False, seed=2),
    }
    return {"network": Network(chain), "network, stacked": Network(stacked)}


def kind_of(name):
    return name.split(",")[0].replace("words", "text").replace("bytes", "text")


def options(name):
    """Return a model after a short fit."""
    return model_cases.fit_options(kind_of(name), epochs=1)


def use(name, model, data):
    """Use a loaded model in every way."""
    repr(model)
    if isinstance(model, Network):
        x = np.array([[1, 2], [3, 0]]) if name == "network" else np.ones((2, 2, 3), "float32")
        model(x)
        return
    assert model.num_parameters > 0
    model_cases.predictions(kind_of(name), model, data)
    if hasattr(model, "score") and kind_of(name) != "forecaster":
        model.score(*data)
    if hasattr(model, "generate"):
        model.generate(length=5) if kind_of(name) == "text" else model.generate(5)
    if name == "forecaster":
        model.predict()
    if kind_of(name) in ("pairs", "vectors"):
        model.predict(data[0][:2], beam=2)


# --- files --------------------------------------------------------------------


def write(folder, arrays, text, kind="model"):
    """Write a directory whose configuration is this JSON text, with correct hashes."""
    folder.mkdir(parents=True)
    with contextlib.suppress(ValueError, RecursionError):
        again = json.dumps(json.loads(text))
        data = to_bytes({key: np.array(array, order="C") for key, array in arrays.items()}, metadata={"fastrnn": again})
        digest = hashlib.sha256(data).hexdigest()
        weights = f"{kind}-{digest[:12]}.safetensors"
        (folder / weights).write_bytes(data)
        header = json.dumps({"format_version": 1, "weights": weights, "sha256": digest})
        (folder / storage.CONFIG_FILES[kind]).write_text(f'{header[:-1]}, "config": {text}}}')
        return
    header = '{"format_version": 1, "weights": "model-000000000000.safetensors", "sha256": "' + "0" * 64
    (folder / storage.CONFIG_FILES[kind]).write_text(f'{header}", "config": {text}}}')


def read(folder, kind="model"):
    """Return (arrays, configuration) of a directory."""
    header = json.loads((folder / storage.CONFIG_FILES[kind]).read_text())
    return load_file(folder / header["weights"]), header["config"]


# --- mutations ----------------------------------------------------------------


TWICE = '"\\u0000twice": ['  # in JSON: a key that replaces another one, which is then written twice


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


JUNK = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    3,
    7,
    8.0,
    0.5,
    -0.5,
    1e308,
    5e-324,
    math.nan,
    math.inf,
    -math.inf,
    1000,
    6000,
    10**6,
    2**31,
    2**63,
    10**12,
    10**18,
    10**30,
    -(10**12),
    "",
    "8",
    "x",
    "\ud800",
    "lstm",
    "gru",
    "rnn",
    "word",
    "byte",
    "mean",
    "initial",
    "dot",
    "layerwise",
    "float64",
    [],
    [1],
    [[]],
    [None],
    ["a", "b"],
    [4, 4],
    [10**6, 10**6],
    [1] * 100,
    {},
    {"a": 1},
    nested(20),
    nested(60),
    "y" * 5000,
    [0.5, "0.5"],
]


def paths(value, before=()):
    """Return the places in a JSON value, as tuples of keys."""
    yield before
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from paths(part, (*before, key))


def changed(rng, config):
    """Return a configuration with one change, as JSON text."""
    config = copy.deepcopy(config)
    places = [path for path in paths(config) if path]
    if not places:
        return config
    top = [path for path in places if len(path) == 1]
    path = rng.choice(top if rng.random() < 0.6 else places)
    parent = config
    for key in path[:-1]:
        parent = parent[key]
    key = path[-1]
    old = parent[key]
    what = rng.choice(
        ["junk"] * 8 + ["drop", "add", "twice", "other", "scaled", "scaled", "part", "copy", "order", "retyped"]
    )
    if what == "junk":
        parent[key] = copy.deepcopy(rng.choice(JUNK))
    elif what == "drop":
        del parent[key]
    elif what == "add" and isinstance(parent, dict):
        parent[rng.choice(["extra", "", "bias", "reading", "units", "series", "features", "columns", "E"])] = (
            copy.deepcopy(rng.choice(JUNK))
        )
    elif what == "twice" and isinstance(parent, dict):
        parent["\0twice"] = [key, copy.deepcopy(rng.choice([old, *JUNK]))]
    elif what == "copy":
        other = config
        for step in rng.choice(places):
            other = other[step]
        parent[key] = copy.deepcopy(other)
    elif what == "scaled" and isinstance(old, (int, float)):
        parent[key] = rng.choice([old * 10, old + 1, old - 1, -old, old * 10**9, float(old), old + 0.5, str(old)])
    elif what == "part" and isinstance(old, (list, str)) and len(old):
        parent[key] = rng.choice([old[:-1], old[1:], old + old[:1], old[::-1], old * 50, list(old)])
    elif what == "order" and isinstance(old, list):
        rng.shuffle(parent[key])
    elif what == "retyped":
        parent[key] = rng.choice([[old], {"value": old}, str(old), bool(old)])
    return config


def as_text(config):
    """Return JSON in which " twice": [key, value] is replaced by a duplicate key."""
    text = json.dumps(config)
    at = text.find(TWICE)
    if at < 0:
        return text
    start = at + len(TWICE)
    value, end = json.JSONDecoder().raw_decode(text[start - 1 :])
    return f"{text[:at]}{json.dumps(value[0])}: {json.dumps(value[1])}{text[start - 1 + end :]}"


def changed_arrays(rng, arrays):
    """Return the arrays with one of them changed."""
    arrays = dict(arrays)
    name = rng.choice(sorted(arrays))
    array = arrays[name]
    how = rng.randrange(12)
    if how == 0:
        del arrays[name]
    elif how == 1:
        arrays[rng.choice([name + "x", "extra", "linear.weight", "optimizer.m", "state.7", "end.1", "scaler.mean"])] = (
            arrays.pop(name)
        )
    elif how == 2:
        arrays[rng.choice(["extra", "scaler.mean", "rnn.bias_hh_l0", "end.0", "state.1", ""])] = array
    elif how == 3:
        arrays[name] = array.T if array.ndim > 1 else array[None]
    elif how == 4:
        with np.errstate(all="ignore"):
            arrays[name] = array.astype(rng.choice(["float64", "float32", "float16", "int64", "uint8", "bool"]))
    elif how == 5 and array.ndim:
        arrays[name] = (
            np.concatenate([array, array[:1]]) if len(array) else np.zeros((1, *array.shape[1:]), array.dtype)
        )
    elif how == 6 and array.ndim:
        arrays[name] = array[: rng.randrange(len(array) + 1)]
    elif how == 7:
        arrays[name] = array.ravel()
    elif how == 8:
        arrays[name] = np.zeros(rng.choice([(), (0,), (0, 10**12), (1, 1, 1), (10**5,)]), array.dtype)
    elif how in (9, 10) and array.dtype.kind == "f" and array.size:
        arrays[name] = array.copy()
        arrays[name].flat[rng.randrange(array.size)] = rng.choice([math.nan, math.inf, -math.inf, 1e38, -1.0, 0.0])
    else:
        arrays[name] = np.full(
            array.shape,
            rng.choice([math.nan, math.inf, 0, -1, 1e30]),
            array.dtype if array.dtype.kind == "f" else "float32",
        )
    return arrays


def damage(rng, arrays, config, folder, kind="model"):
    """Write a directory with one to three damages."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if rng.random() < 0.7 and TWICE not in json.dumps(config):
            config = changed(rng, config)
        else:
            arrays = changed_arrays(rng, arrays) if arrays else arrays
    text = as_text(config)
    if rng.random() < 0.02:
        text = rng.choice(
            ["[" * 5000 + "]" * 5000, text[:-3], text + "x", '{"model": 1' + "0" * 5000 + "}", "null", "[]", '"x"']
        )
    write(folder, arrays, text, kind)


# --- for tests of one damage at a time ---


def edited(source, folder, change, kind="model"):
    """Return a copy of a directory after `change(arrays, config)`, with correct hashes."""
    arrays, config = read(source, kind)
    change(arrays, config)
    write(folder, arrays, json.dumps(config), kind)
    return folder


def set_to(key, value):
    """Return a change of one key of the configuration."""
    return lambda arrays, config: config.__setitem__(key, value)


def error_of(load, folder):
    """Return the message of the ValueError raised by loading a directory."""
    with pytest.raises(ValueError) as error:
        load(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def data_of(name):
    """Return the training data of the model of this name."""
    return CASES[name].data(np.random.default_rng(list(CASES).index(name)), 12)

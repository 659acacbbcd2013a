"""Damaged model directories and checkpoints whose hashes are right, and what becomes of them.

Run as a program, it tries many of them under a limit of memory and time, and prints a line of JSON for each case:

    python hostile.py models|checkpoints|command FIRST_SEED COUNT FOLDER
"""

import contextlib
import copy
import hashlib
import io
import json
import math
import random
import resource
import signal
import sys
import traceback
import warnings
from pathlib import Path

import model_cases
import numpy as np
from safetensors.numpy import load_file
from safetensors.numpy import save as to_bytes

import fastrnn
from fastrnn import Network, cli, storage
from fastrnn.models import EncoderDecoder, Forecaster, LanguageModel, MemoryNetwork, SequenceClassifier, SequenceRegressor, VectorToSequence

ROOM = 200 << 20  # bytes of address space beyond what the process has at the beginning: the directories have a few thousand
SECONDS = 20  # of a case, on a busy machine

# --- models -------------------------------------------------------------------

CASES = dict(model_cases.CASES)
CASES |= {
    "classifier, stacked": model_cases.Case(lambda **o: SequenceClassifier("lstm", [3, 4], bidirectional=True, dropout=0.1, **o), model_cases.classes),
    "regressor, unscaled": model_cases.Case(lambda **o: SequenceRegressor("rnn", 3, 2, standardize=False, pooling="max", **o), model_cases.numbers),
    "forecaster, all": model_cases.Case(
        lambda **o: Forecaster(5, 3, hidden_size=3, season=4, difference=True, log=True, quantiles=(0.1, 0.5), **o),
        lambda rng, N: (3 + model_cases.series(rng, N)[0],), held_out=6, rows=False,
    ),
    "words": model_cases.Case(
        lambda **o: LanguageModel("lstm", 3, level="word", splitting="simple", min_count=1, **o),
        lambda rng, N: (" ".join(rng.choice(["to", "be", "or", "not"], 200)),), held_out=0.2, rows=False,
    ),
    "bytes": model_cases.Case(lambda **o: LanguageModel("gru", [2, 3], tied=False, level="byte", **o), model_cases.text, held_out=0.2, rows=False),
    "pairs, plain": model_cases.Case(
        lambda **o: EncoderDecoder("lstm", 3, 2, attention=None, bidirectional=False, context="both", source_embedding=2, target_embedding=3, tied=True, **o),
        model_cases.pairs,
    ),
    "vectors, tied": model_cases.Case(lambda **o: VectorToSequence("rnn", 3, embedding_size=3, tied=True, context="initial", **o), model_cases.vectors),
    "stories, layerwise": model_cases.Case(
        lambda **o: MemoryNetwork(3, 2, tying="layerwise", temporal_encoding=False, memory=4, **o), model_cases.stories
    ),
}  # fmt: skip
CHECKPOINTS = ["text", "classifier", "events", "stories", "pairs", "words", "bytes"]


def networks():
    """Networks with every kind of step."""
    return {
        "network": Network(
            {
                "mask": ("mask", 0), "emb": fastrnn.Embedding(5, 3, seed=0), "rnn": fastrnn.LSTM(3, 4, 2, bidirectional=True, seed=1),
                "merge": ("merge", "sum"), "act": ("leaky_relu", 0.2), "out": fastrnn.Linear(4, 2, seed=2), "p": "softmax",
            }
        ),
        "network, stacked": Network(
            {
                "a": fastrnn.Stacked(
                    [fastrnn.GRU(3, 4, reset_after=False, activation=("elu", 0.5), seed=0), fastrnn.LSTM(4, 5, proj_size=2, peephole=True, clip=2.0, seed=1)],
                    dropout=0.1,
                ),
                "last": "last", "out": fastrnn.Linear(2, 2, bias=False, seed=2),
            }
        ),
    }  # fmt: skip


def kind_of(name):
    return name.split(",")[0].replace("words", "text").replace("bytes", "text")


def options(name):
    """Of a short fit."""
    return model_cases.fit_options(kind_of(name), epochs=1)


def use(name, model, data):
    """All that a loaded model is for."""
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
    """A directory whose configuration is this JSON text, with hashes that are right."""
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
    """(arrays, configuration) of a directory."""
    header = json.loads((folder / storage.CONFIG_FILES[kind]).read_text())
    return load_file(folder / header["weights"]), header["config"]


# --- mutations ----------------------------------------------------------------


TWICE = '"\\u0000twice": ['  # in JSON: a key that stands for another one, which is written a second time


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


JUNK = [
    None, True, False, 0, 1, -1, 2, 3, 7, 8.0, 0.5, -0.5, 1e308, 5e-324, math.nan, math.inf, -math.inf, 1000, 6000, 10**6, 2**31, 2**63, 10**12,
    10**18, 10**30, -(10**12), "", "8", "x", "\ud800", "lstm", "gru", "rnn", "word", "byte", "mean", "initial", "dot", "layerwise", "float64", [], [1],
    [[]], [None], ["a", "b"], [4, 4], [10**6, 10**6], [1] * 100, {}, {"a": 1}, nested(20), nested(60), "y" * 5000, [0.5, "0.5"],
]  # fmt: skip


def paths(value, before=()):
    """The places of a JSON value, as tuples of keys."""
    yield before
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from paths(part, (*before, key))


def changed(rng, config):
    """A configuration with one thing changed, as JSON text."""
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
    what = rng.choice(["junk"] * 8 + ["drop", "add", "twice", "other", "scaled", "scaled", "part", "copy", "order", "retyped"])
    if what == "junk":
        parent[key] = copy.deepcopy(rng.choice(JUNK))
    elif what == "drop":
        del parent[key]
    elif what == "add" and isinstance(parent, dict):
        parent[rng.choice(["extra", "", "bias", "reading", "units", "series", "features", "columns", "E"])] = copy.deepcopy(rng.choice(JUNK))
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
    """JSON in which "\0twice": [key, value] has become a second key."""
    text = json.dumps(config)
    at = text.find(TWICE)
    if at < 0:
        return text
    start = at + len(TWICE)
    value, end = json.JSONDecoder().raw_decode(text[start - 1 :])
    return f"{text[:at]}{json.dumps(value[0])}: {json.dumps(value[1])}{text[start - 1 + end :]}"


def changed_arrays(rng, arrays):
    """The arrays with one of them changed."""
    arrays = dict(arrays)
    name = rng.choice(sorted(arrays))
    array = arrays[name]
    how = rng.randrange(12)
    if how == 0:
        del arrays[name]
    elif how == 1:
        arrays[rng.choice([name + "x", "extra", "linear.weight", "optimizer.m", "state.7", "end.1", "scaler.mean"])] = arrays.pop(name)
    elif how == 2:
        arrays[rng.choice(["extra", "scaler.mean", "rnn.bias_hh_l0", "end.0", "state.1", ""])] = array
    elif how == 3:
        arrays[name] = array.T if array.ndim > 1 else array[None]
    elif how == 4:
        arrays[name] = array.astype(rng.choice(["float64", "float32", "float16", "int64", "uint8", "bool"]))
    elif how == 5 and array.ndim:
        arrays[name] = np.concatenate([array, array[:1]]) if len(array) else np.zeros((1, *array.shape[1:]), array.dtype)
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
        arrays[name] = np.full(array.shape, rng.choice([math.nan, math.inf, 0, -1, 1e30]), array.dtype if array.dtype.kind == "f" else "float32")
    return arrays


def damage(rng, arrays, config, folder, kind="model"):
    """Write a directory that is damaged in one to three ways."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if rng.random() < 0.7 and TWICE not in json.dumps(config):
            config = changed(rng, config)
        else:
            arrays = changed_arrays(rng, arrays) if arrays else arrays
    text = as_text(config)
    if rng.random() < 0.02:
        text = rng.choice(["[" * 5000 + "]" * 5000, text[:-3], text + "x", '{"model": 1' + "0" * 5000 + "}", "null", "[]", '"x"'])
    write(folder, arrays, text, kind)


# --- trials -------------------------------------------------------------------


class Hang(BaseException):
    """A case takes too long."""


def _too_long(*_):
    raise Hang(f"more than {SECONDS} s")


@contextlib.contextmanager
def limited():
    """A limit of time for what is done in it."""
    signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def outcome(load, then, folder):
    """("loaded" | "refused" | "wrong", details): what becomes of a directory."""
    at = "load"
    try:
        with limited(), warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            model = load()
            at = "use"
            then(model)
    except (ValueError, OSError) as error:
        named = str(folder) in str(error) and "\n" not in str(error)
        if at == "load":
            return ("refused", "") if named else ("wrong", f"load: {type(error).__name__} does not name the file: {error}")
        return ("loaded", "")  # the use of a model says what is wrong with its numbers
    except MemoryError as error:
        return ("loaded", "") if at == "use" else ("wrong", f"load: MemoryError: {error}")
    except RuntimeError as error:
        if at == "use" and type(error) is RuntimeError and "NaN" in str(error):
            return ("loaded", "")
        return ("wrong", f"{at}: {traceback.format_exc(limit=-3)}")
    except BaseException:
        return ("wrong", f"{at}: {traceback.format_exc(limit=-3)}")
    return ("loaded", "")


def made(folder):
    """{name: (directory, data)} of models that were trained for a moment, and of networks."""
    found = {}
    for n, (name, case) in enumerate(CASES.items()):
        data = case.data(np.random.default_rng(n), 12)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case.make(seed=0).fit(*data, **options(name)).save(folder / f"model {n}")
        found[name] = folder / f"model {n}", data
    for name, net in networks().items():
        net.save(folder / name)
        found[name] = folder / name, None
    return found


def models(seeds, folder):
    """Trials of model directories: (seed, name, outcome, details)."""
    sources = {name: (*read(path), data, json.loads((path / "config.json").read_text())["config"]["model"]) for name, (path, data) in made(folder).items()}
    names = list(sources)
    limit()
    for seed in seeds:
        rng = random.Random(seed)
        name = names[seed % len(names)]
        arrays, config, data, cls = sources[name]
        place = folder / f"case {seed}"
        damage(rng, arrays, config, place)
        load = (Network if cls == "Network" else getattr(fastrnn.models, cls)).load
        yield seed, name, *outcome(lambda place=place, load=load: load(place), lambda model, name=name, data=data: use(name, model, data), place)


def checkpoints(seeds, folder):
    """Trials of checkpoints that a training is continued from."""
    sources = {}
    for n, name in enumerate(CHECKPOINTS):
        case = CASES[name]
        data, place = case.data(np.random.default_rng(n), 12), folder / f"checkpoint {n}"
        more = dict(validation=case.held_out, evaluate_every=1)
        stop = [lambda entry: entry["update"] >= 1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case.make(seed=0).fit(*data, **options(name) | more, checkpoint=place, callbacks=stop)
        sources[name] = *read(place, "checkpoint"), data, more
    limit()
    for seed in seeds:
        rng = random.Random(seed)
        name = CHECKPOINTS[seed % len(CHECKPOINTS)]
        arrays, config, data, more = sources[name]
        place = folder / f"case {seed}"
        damage(rng, arrays, config, place, "checkpoint")

        def load(name=name, data=data, place=place, more=more):
            return CASES[name].make(seed=0).fit(*data, **options(name) | more, checkpoint=place, resume=True)

        yield seed, name, *outcome(load, lambda model: None, place)


def command(seeds, folder):
    """Trials of the command on damaged directories."""
    text = folder / "text"
    text.write_text(model_cases.text(np.random.default_rng(0), 12)[0])
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        train = ["train", "--data", str(text), "--hidden", "3", "--layers", "1", "--batch", "3", "--seq-len", "5", "--epochs", "1", "--quiet"]
        assert cli.main([*train, "--out", str(folder / "lm")]) == 0
    train[train.index("--epochs") + 1] = "1"
    sources = {path.name: path for path, _ in made(folder).values()} | {"lm": folder / "lm"}
    limit()
    for seed in seeds:
        rng = random.Random(seed)
        verb = rng.choice(["info", "predict", "generate", "evaluate", "train"])
        name = "lm" if verb == "train" else rng.choice(list(sources))
        kind = "checkpoint" if verb == "train" else "model"
        place = folder / f"case {seed}"
        damage(rng, *read(sources[name], kind), place, kind)
        words = {
            "info": ["info", str(place)], "predict": ["predict", str(place), "--data", str(text)],
            "generate": ["generate", str(place), "--length", "5"], "evaluate": ["evaluate", str(place), "--data", str(text)],
            "train": [*train, "--resume", "--out", str(place)],
        }[verb]  # fmt: skip
        errors, status = io.StringIO(), None
        try:
            with limited(), contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
                status = cli.main(words)
        except Hang as error:
            errors.write(str(error))
        lines = [line for line in errors.getvalue().splitlines() if not line.startswith(("fastrnn: warning", "fastrnn: note"))]
        right = (status == 0 and not lines) or (status == 1 and len(lines) == 1 and "unexpected" not in lines[0])
        yield seed, f"{verb} {name}", "wrong" if not right else "refused" if status else "loaded", "" if right else f"status {status}: {lines}"


def limit():
    """Let this process take no more than `ROOM` from here on."""
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, size + ROOM))


if __name__ == "__main__":
    fastrnn.set_num_threads(1)
    trials = {"models": models, "checkpoints": checkpoints, "command": command}[sys.argv[1]]
    first, how_many, where = int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])

    def announced():
        """Each seed is said before its case: a process that dies leaves its number."""
        for seed in range(first, first + how_many):
            print(json.dumps([seed]), flush=True)
            yield seed

    for case in trials(announced(), where):
        print(json.dumps(case), flush=True)

"""What the command `fastrnn` does with each kind of model: which data it reads, how it says what came out."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fastrnn import Network, data, models
from fastrnn._check.data import by_name
from fastrnn._files import storage
from fastrnn._files.schema import shown
from fastrnn.data._files import counted, say
from fastrnn.models import (
    EncoderDecoder,
    EventModel,
    Forecaster,
    LanguageModel,
    MemoryNetwork,
    SequenceClassifier,
    SequenceRegressor,
    SequenceTagger,
    VectorToSequence,
)
from fastrnn.models.text import read_text


@dataclasses.dataclass(frozen=True)
class Task:
    """A kind of model, as the command knows it.

    model : its class
    file : what --data is
    defaults : of the options that have others than for text
    options : {option of the command: argument of the model} beside those that all models have
    read : (path, **reading) -> (what `fit` takes, and `score`); `reading` are the options of the reader that were given
    held_out : (options, **reading) -> `validation` of `fit`
    decides_by : options that say what is held out
    score : (model, path, **reading) -> what `fastrnn evaluate` prints
    predict : (model, path, **reading) -> lines of `fastrnn predict`; if it searches (model, path, beam, **reading)
    searches : whether predictions are searched for
    one_size : whether all layers have the same size
    common : {option that most tasks have: argument of the model}
    reading : options of the reader
    """

    model: type
    file: str
    defaults: dict
    options: dict
    read: Callable
    held_out: Callable
    decides_by: tuple
    score: Callable
    predict: Callable
    searches: bool = False
    one_size: bool = False
    common: dict = dataclasses.field(
        default_factory=lambda: dict(cell="cell", hidden="hidden_size", layers="num_layers", dropout="dropout")
    )
    reading: tuple = ("encoding",)


def load(directory, wanted: type | None = None):
    """The model in a directory, of whatever kind; `wanted` says which one a command needs.

    Raises
    ------
    ValueError  it is another kind.
    """
    arrays, config = storage.load(directory)
    found = config.get("model")
    if found == "Network" and wanted is None:
        return Network._of(arrays, config, directory)
    if found not in models.__all__ or (wanted is not None and found != wanted.__name__):
        needs = f"a {wanted.__name__}" if wanted is not None else f"one of {', '.join(models.__all__)}"
        raise ValueError(
            f"{directory} holds a {found if isinstance(found, str) else shown(found)}, but this needs {needs}"
        )
    return getattr(models, found)._of(arrays, config, directory)


def task_of(model) -> Task:
    """The task of a model, other than text."""
    per_step = getattr(model, "per_step", False)
    for task in TASKS.values():
        if task.model is type(model) and not per_step:
            return task
    raise ValueError(
        f"the command has no task for a {type(model).__name__}{' with per_step=True' * per_step}: use it from Python"
    )


def _accuracy(read, what):
    def score(model, path, **reading):
        X, y = read(path, **reading)
        _say_replaced(model, X)
        return f"accuracy: {model.score(X, y):.4f} of {what}"

    return score


_classes_of = functools.partial(data.read_series, labels="class")
_numbers_of = functools.partial(data.read_series, labels="number")


def _labels(model, path, **reading):
    return map(str, model.predict(data.read_series(path, labels=None, **reading)[0]))


def _numbers(model, path, **reading):
    found = model.predict(data.read_series(path, labels=None, **reading)[0])
    return (",".join(map(repr, numbers.tolist())) for numbers in found.reshape(len(found), -1))


def _r2(model, path, **reading):
    return f"R2: {model.score(*_numbers_of(path, **reading)):.4f} (1 is perfect, 0 as good as the mean)"


def _tags(model, path, **reading):
    reading.pop("column", None)
    sentences = data.read_conllu(path, tags=False, **reading)
    for words, tags in zip(sentences, model.predict(sentences)):
        yield from (f"{word}\t{tag}" for word, tag in zip(words, tags))
        yield ""


class _Named:
    """Columns of numbers with names: enough of a data frame for a Forecaster to take the columns by name."""

    def __init__(self, columns, values):
        self.columns, self._values = columns, values
        self.ndim, self.shape = values.ndim, values.shape

    def __len__(self):
        return len(self._values)

    def __getitem__(self, key):
        if isinstance(key, slice):  # rows
            return _Named(self.columns, self._values[key])
        return _Named(key, self._values[:, [self.columns.index(name) for name in key]])

    def to_numpy(self):
        return self._values

    def __array__(self, dtype=None, copy=None):
        return self._values if dtype is None else self._values.astype(dtype)


def _series(path, **reading):
    table = data.read_table(path, **reading)
    series = _Named(table.names, table.series)
    return (series,) if table.exog is None else (series, _Named(table.exog_names, table.exog))


def _mase(model, path, **reading):
    series, *exog = _series(path, **reading)
    horizon = min(model.horizon, len(series) - 1)
    given = {"exog": exog[0][:-horizon], "future_exog": exog[0][-horizon:]} if exog else {}
    found = model.predict(horizon, series=series[:-horizon], **given)
    wanted = np.asarray(by_name("series", series[-horizon:], model.columns_))
    error = np.abs(found.reshape(horizon, -1) - wanted).mean()
    if not model.naive_error:
        return f"MAE: {error:.4g} over the last {horizon} steps (MASE is not defined: the training data are constant or repeat their season)"
    return (
        f"MASE: {error / model.naive_error:.4f} over the last {horizon} steps (below 1: better than the seasonal naive forecast within the "
        "training data)"
    )


def _forecast(model, path, **reading):
    table = data.read_table(path, **reading)
    horizon, given = None, {}
    if table.exog is not None:
        if table.future_exog is None:
            names = ", ".join(table.exog_names)
            raise ValueError(
                f"{path} ends with the series: add rows with {names} of the steps to forecast, and no targets"
            )
        exog, future = _Named(table.exog_names, table.exog), _Named(table.exog_names, table.future_exog)
        horizon, given = len(future), {"exog": exog, "future_exog": future}
    found = model.predict_quantiles(horizon, series=_Named(table.names, table.series), **given)
    names = [f"{q:g}" for q in model.quantiles or []]
    columns = model.columns_ or table.names
    yield ",".join(f"{column}{':' if names else ''}{q}" for column in columns for q in names or [""])
    for step in found.transpose(1, 2, 0).reshape(found.shape[1], -1):
        yield ",".join(map(repr, step.tolist()))


def _rolls(path, **reading):
    return (data.read_rolls(path, "train", **reading),)


def _nll(model, path, **reading):
    return f"NLL: {-model.score(data.read_rolls(path, 'test', **reading)):.4f} nats per frame of the part 'test'"


def _piece(model, path, **reading):
    prime = data.read_rolls(path, "test", **reading)[0][:8]
    for frame in model.generate(64, prime, seed=0):
        yield " ".join(str(note + data.LOWEST) for note in np.flatnonzero(frame))


def _answers(model, path, **reading):
    X, _ = data.read_babi(path, answers=False, **reading)
    _say_replaced(model, X)
    for (story, question), answer, weights in zip(X, model.predict(X), model.attention(X)):
        yield f"{' '.join(question)}? {answer}"
        yield "  " + "".join(f" hop {k:<2}" for k in range(1, model.hops + 1))
        for sentence, of_hops in zip(story[-model.memory :], weights.T):
            yield "  " + "".join(f"  {weight:.2f}" for weight in of_hops) + f"  {' '.join(sentence)}"
        yield ""


def _say_replaced(model, X):
    """Say which part of X the model does not see: sentences beyond its memory, words that it does not know."""
    if isinstance(model, MemoryNetwork):
        cut = [len(story) - model.memory for story, _ in X if len(story) > model.memory]
        if cut:
            say(
                f"the first {counted(sum(cut), 'sentence')} of {counted(len(cut), 'story')} left out, beyond memory={model.memory}"
            )
        unknown = sum(
            word not in model._word_id for story, question in X for words in (*story, question) for word in words
        )
        if unknown:
            say(f"{counted(unknown, 'word')} that training had not left out")
    if isinstance(model, EncoderDecoder):
        known = set(model.source_vocabulary.symbols)
        unknown = sum(symbol not in known for source in X for symbol in source)
        if unknown:
            say(f"{counted(unknown, 'source symbol')} of {sum(map(len, X)):,} read as <unk>")


def _perplexity(read):
    def score(model, path, **reading):
        X, y = read(path, **reading)
        _say_replaced(model, X)
        nll = -model.score(X, y)
        return f"NLL: {nll:.4f} nats per symbol of the targets, perplexity {math.exp(nll):.4f}"

    return score


def _sources(path, **reading):
    return data.read_pairs(path, targets=False, **reading)


def _vectors(path, **reading):
    return data.read_captions(path, texts=False, **reading)[0]


def _targets(read):
    def predict(model, path, beam, **reading):
        X = read(path, **reading)
        _say_replaced(model, X)
        for target in model.predict(X, beam=beam):
            yield target if isinstance(target, str) else " ".join(target)

    return predict


def _file_or_part(read):
    return lambda options, **reading: (
        read(options.held_out, **reading) if options.held_out is not None else options.validation
    )


TASKS = {
    "classify": Task(
        SequenceClassifier, "series and their classes, a .ts file of the UCR/UEA archive, or .tsv or .arff",
        dict(layers=1, epochs=50, batch=16, lr=5e-3), {"bidirectional": "bidirectional", "pooling": "pooling"},
        _classes_of, _file_or_part(_classes_of), ("validation", "held_out"), _accuracy(_classes_of, "the series"), _labels,
    ),
    "regress": Task(
        SequenceRegressor, "series and a number each, a .ts file with @targetLabel true, or .tsv or .arff",
        dict(layers=1, epochs=50, batch=16, lr=5e-3), {"bidirectional": "bidirectional", "pooling": "pooling"},
        _numbers_of, _file_or_part(_numbers_of), ("validation", "held_out"), _r2, _numbers,
    ),
    "tag": Task(
        SequenceTagger, "words and their tags, CoNLL-U, or CoNLL-2003 with --layout conll2003", dict(layers=1, dropout=0.3, epochs=15, batch=32, lr=3e-3),
        {"min_count": "min_count"}, data.read_conllu, _file_or_part(data.read_conllu), ("validation", "held_out"),
        _accuracy(data.read_conllu, "the words"), _tags, reading=("encoding", "layout", "column"),
    ),
    "forecast": Task(
        Forecaster, "a table of numbers over time, CSV with a header", dict(cell="gru", hidden=32, layers=1, epochs=60, batch=16, lr=5e-3),
        {"window": "window", "horizon": "horizon", "season": "season", "logarithm": "log"}, _series,
        lambda options, **reading: 0, (), _mase, _forecast,
        reading=("encoding", "target", "exog", "date", "decimal", "separator", "allow_gaps"),
    ),
    "music": Task(
        EventModel, 'piano rolls, JSON {"train": …, "valid": …, "test": …}', dict(cell="gru", layers=1, dropout=0.5, epochs=100, batch=8, lr=5e-3),
        {}, _rolls, lambda options, **reading: data.read_rolls(options.data, "valid", **reading), (), _nll, _piece,
    ),
    "qa": Task(
        MemoryNetwork, "stories, questions and answers, a bAbI file", dict(hidden=20, epochs=100, batch=32, lr=0.01),
        {"hops": "hops", "memory": "memory", "tying": "tying", "linear_start": "linear_start"}, data.read_babi,
        _file_or_part(data.read_babi), ("validation", "held_out"), _accuracy(data.read_babi, "the questions"), _answers, one_size=True,
        common=dict(hidden="size"),
    ),
    "translate": Task(
        EncoderDecoder, "lines of a source, a tab and its target; words are separated by blanks",
        dict(cell="gru", layers=1, dropout=0.2, batch=32, bidirectional=False, min_count=2),
        {"attention": "attention", "bidirectional": "bidirectional", "min_count": "min_count"}, data.read_pairs,
        _file_or_part(data.read_pairs), ("validation", "held_out"), _perplexity(data.read_pairs), _targets(_sources),
        searches=True, one_size=True,
    ),
    "caption": Task(
        VectorToSequence, "vectors and their texts, .npz or CSV", dict(cell="gru", layers=1, epochs=50, batch=32),
        {"min_count": "min_count"}, data.read_captions, _file_or_part(data.read_captions), ("validation", "held_out"),
        _perplexity(data.read_captions), _targets(_vectors), searches=True, one_size=True,
    ),
}  # fmt: skip


def text_of(path, level: str, encoding: str | None = None):
    """What a language model takes: the file, or its text if that is not UTF-8."""
    if encoding is None:
        return Path(path)
    if level == "byte":
        raise ValueError("--encoding is for text, but the level is byte: bytes are read as they are")
    return read_text(Path(path), encoding)


def score_text(model: LanguageModel, path, encoding: str | None = None) -> str:
    """What `fastrnn evaluate` prints for a language model."""
    nll = -model.score(text_of(path, model.level, encoding))
    return f"NLL: {nll:.4f} nats per {model.level} ({nll / math.log(2):.4f} bits), perplexity {math.exp(nll):.4f}"


def report(model, out) -> None:
    """Print what training has come to."""
    _report_message(model)
    looks = [entry for entry in model.history if entry.get("validation_loss") is not None]
    if looks:
        kept = min(
            (entry for entry in looks if not math.isnan(entry["validation_loss"])),
            key=lambda entry: entry["validation_loss"],
            default=looks[-1],
        )
        for name in model.FIGURES:
            first, last = looks[0][f"validation_{name}"], kept[f"validation_{name}"]
            print(
                f"held-out {name}: {first:.4f} before, {last:.4f} after epoch {kept['epoch']:g}, whose parameters are kept"
            )
    if model.speed is not None:
        print(f"speed: {model.speed:,.0f} steps/s")
    print(f"model: {out} ({model.num_parameters:,} parameters); on other data: fastrnn predict {out} --data FILE")


def _report_message(model):
    """Say what there is to say about a training that went on to its end."""
    if model.message is not None and model.outcome in ("finished", "stopped early"):
        print("fastrnn: warning:", model.message, file=sys.stderr)


def report_text(model, out) -> None:
    """The same for a language model."""
    _report_message(model)
    losses = [entry["validation_loss"] for entry in model.history if entry["validation_loss"] is not None]
    if model.pretrained_words is not None:
        print(f"pretrained vectors: for {model.pretrained_words:,} of {len(model.vocabulary):,} words")
    if losses:
        print(f"held-out NLL: {losses[0]:.4f} before, {min(losses):.4f} after, in nats per {model.level}")
    if model.speed is not None:
        print(f"speed: {model.speed:,.0f} {model.level}s/s")
    print("it writes:", "".join(model.generate_iter(length=300, temperature=0.7, seed=0)), sep="\n")
    print(f"model: {out} ({model.num_parameters:,} parameters); more text: fastrnn generate {out}")

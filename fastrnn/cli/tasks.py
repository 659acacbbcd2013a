"""What the command does with each kind of model: how it reads data, scores and predicts."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fastrnn import data
from fastrnn._check.data import by_name
from fastrnn.cli import reading
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
    """A task of ``fastrnn train`` other than text: what the command does with its kind of model.

    Attributes
    ----------
    model : type
        Class of the model.
    read : callable
        ``read(path, **options)`` reads what `fit` and `score` take.
    score : callable
        ``score(model, path, **options)`` returns the line that ``fastrnn evaluate`` prints.
    predict : callable
        ``predict(model, path, **options)`` yields the lines that ``fastrnn predict`` prints; if `searches` is true,
        ``predict(model, path, beam, **options)``.
    options : tuple of str
        Names of the options of the reader, see `fastrnn.cli.reading`.
    searches : bool
        Whether predictions are found by beam search.
    validation : callable, optional
        ``validation(arguments, **options)`` returns the `validation` of `fit`. By default that is the file of
        --held-out, or the fraction of --validation.
    """

    model: type
    read: Callable
    score: Callable
    predict: Callable
    options: tuple[str, ...] = reading.TEXT
    searches: bool = False
    validation: Callable | None = None

    def held_out(self, arguments, **options):
        """Return the `validation` of `fit`."""
        if self.validation is not None:
            return self.validation(arguments, **options)
        return arguments.validation if arguments.held_out is None else self.read(arguments.held_out, **options)


def task_of(model) -> Task:
    """Find the task of a model other than a language model.

    Raises
    ------
    ValueError
        The command has no task for this model.
    """
    per_step = getattr(model, "per_step", False)
    for task in TASKS.values():
        if task.model is type(model) and not per_step:
            return task
    raise ValueError(
        f"the command has no task for a {type(model).__name__}{' with per_step=True' * per_step}: use it from Python"
    )


def _accuracy(read, what):
    def score(model, path, **options):
        X, y = read(path, **options)
        _say_replaced(model, X)
        return f"accuracy: {model.score(X, y):.4f} of {what}"

    return score


_classes_of = functools.partial(data.read_series, labels="class")
_numbers_of = functools.partial(data.read_series, labels="number")


def _labels(model, path, **options):
    return map(str, model.predict(data.read_series(path, labels=None, **options)[0]))


def _numbers(model, path, **options):
    found = model.predict(data.read_series(path, labels=None, **options)[0])
    return (",".join(map(repr, numbers.tolist())) for numbers in found.reshape(len(found), -1))


def _r2(model, path, **options):
    return f"R2: {model.score(*_numbers_of(path, **options)):.4f} (1 is perfect, 0 as good as the mean)"


def _tags(model, path, **options):
    options.pop("column", None)
    sentences = data.read_conllu(path, tags=False, **options)
    for words, tags in zip(sentences, model.predict(sentences)):
        yield from (f"{word}\t{tag}" for word, tag in zip(words, tags))
        yield ""


class _Named:
    """Named columns of numbers: as much of a data frame as a Forecaster needs to select columns by name."""

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


def _series(path, **options):
    table = data.read_table(path, **options)
    series = _Named(table.names, table.series)
    return (series,) if table.exog is None else (series, _Named(table.exog_names, table.exog))


def _mase(model, path, **options):
    series, *exog = _series(path, **options)
    horizon = min(model.horizon, len(series) - 1)
    given = {"exog": exog[0][:-horizon], "future_exog": exog[0][-horizon:]} if exog else {}
    found = model.predict(horizon, series=series[:-horizon], **given)
    wanted = np.asarray(by_name("series", series[-horizon:], model.columns_))
    error = np.abs(found.reshape(horizon, -1) - wanted).mean()
    if not model.naive_error:
        why = "MASE is not defined: the training data are constant, or repeat the same season"
        return f"MAE: {error:.4g} over the last {horizon} steps ({why})"
    meaning = "below 1: better than the seasonal naive forecast on the training data"
    return f"MASE: {error / model.naive_error:.4f} over the last {horizon} steps ({meaning})"


def _forecast(model, path, **options):
    table = data.read_table(path, **options)
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


def _rolls(path, **options):
    return (data.read_rolls(path, "train", **options),)


def _nll(model, path, **options):
    return f"NLL: {-model.score(data.read_rolls(path, 'test', **options)):.4f} nats per frame of the part 'test'"


def _piece(model, path, **options):
    prime = data.read_rolls(path, "test", **options)[0][:8]
    for frame in model.generate(64, prime, seed=0):
        yield " ".join(str(note + data.LOWEST) for note in np.flatnonzero(frame))


def _answers(model, path, **options):
    X, _ = data.read_babi(path, answers=False, **options)
    _say_replaced(model, X)
    for (story, question), answer, weights in zip(X, model.predict(X), model.attention(X)):
        yield f"{' '.join(question)}? {answer}"
        yield "  " + "".join(f" hop {k:<2}" for k in range(1, model.hops + 1))
        for sentence, of_hops in zip(story[-model.memory :], weights.T):
            yield "  " + "".join(f"  {weight:.2f}" for weight in of_hops) + f"  {' '.join(sentence)}"
        yield ""


def _say_replaced(model, X):
    """Report the parts of X that the model ignores: sentences beyond its memory, and unknown words."""
    if isinstance(model, MemoryNetwork):
        cut = [len(story) - model.memory for story, _ in X if len(story) > model.memory]
        if cut:
            sentences, stories = counted(sum(cut), "sentence"), counted(len(cut), "story")
            say(f"the first {sentences} of {stories} left out, beyond memory={model.memory}")
        unknown = sum(
            word not in model._word_id for story, question in X for words in (*story, question) for word in words
        )
        if unknown:
            say(f"{counted(unknown, 'word')} left out that are not in the training data")
    if isinstance(model, EncoderDecoder):
        known = set(model.source_vocabulary.symbols)
        unknown = sum(symbol not in known for source in X for symbol in source)
        if unknown:
            say(f"{counted(unknown, 'source symbol')} of {sum(map(len, X)):,} read as <unk>")


def _perplexity(read):
    def score(model, path, **options):
        X, y = read(path, **options)
        _say_replaced(model, X)
        nll = -model.score(X, y)
        return f"NLL: {nll:.4f} nats per symbol of the targets, perplexity {math.exp(nll):.4f}"

    return score


def _sources(path, **options):
    return data.read_pairs(path, targets=False, **options)


def _vectors(path, **options):
    return data.read_captions(path, texts=False, **options)[0]


def _targets(read):
    def predict(model, path, beam, **options):
        X = read(path, **options)
        _say_replaced(model, X)
        for target in model.predict(X, beam=beam):
            yield target if isinstance(target, str) else " ".join(target)

    return predict


TASKS = {
    "classify": Task(SequenceClassifier, _classes_of, _accuracy(_classes_of, "the series"), _labels),
    "regress": Task(SequenceRegressor, _numbers_of, _r2, _numbers),
    "tag": Task(SequenceTagger, data.read_conllu, _accuracy(data.read_conllu, "the words"), _tags, reading.WORDS),
    "forecast": Task(Forecaster, _series, _mase, _forecast, reading.TABLE, validation=lambda arguments, **options: 0),
    "music": Task(
        EventModel,
        _rolls,
        _nll,
        _piece,
        validation=lambda arguments, **options: data.read_rolls(arguments.data, "valid", **options),
    ),
    "qa": Task(MemoryNetwork, data.read_babi, _accuracy(data.read_babi, "the questions"), _answers),
    "translate": Task(EncoderDecoder, data.read_pairs, _perplexity(data.read_pairs), _targets(_sources), searches=True),
    "caption": Task(
        VectorToSequence, data.read_captions, _perplexity(data.read_captions), _targets(_vectors), searches=True
    ),
}


def text_of(path, level: str, encoding: str | None = None):
    """Return what a language model reads: the path, or the text if the encoding is given."""
    if encoding is None:
        return Path(path)
    if level == "byte":
        raise ValueError("--encoding is for text, but the level is byte: bytes are read as they are")
    return read_text(Path(path), encoding)


def score_text(model: LanguageModel, path, encoding: str | None = None) -> str:
    """Return the line that ``fastrnn evaluate`` prints for a language model."""
    nll = -model.score(text_of(path, model.level, encoding))
    return f"NLL: {nll:.4f} nats per {model.level} ({nll / math.log(2):.4f} bits), perplexity {math.exp(nll):.4f}"

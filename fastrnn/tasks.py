"""What the command `fastrnn` does with each kind of model: which data it reads, how it says what came out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fastrnn import Network, data, models, storage
from fastrnn.models import (
    EncoderDecoder,
    EventModel,
    Forecaster,
    LanguageModel,
    MemoryNetwork,
    SequenceClassifier,
    SequenceTagger,
    VectorToSequence,
)


@dataclasses.dataclass(frozen=True)
class Task:
    """A kind of model, as the command knows it.

    model : its class
    file : what --data is
    defaults : of the options that have others than for text
    options : {option of the command: argument of the model} beside those that all models have
    read : path -> (what `fit` takes, and `score`)
    held_out : options -> `validation` of `fit`
    decides_by : options that say what is held out
    score : (model, path) -> what `fastrnn evaluate` prints
    predict : (model, path) -> lines of `fastrnn predict`; if it searches (model, path, beam)
    searches : whether predictions are searched for
    one_size : whether all layers have the same size
    common : {option that most tasks have: argument of the model}
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
    common: dict = dataclasses.field(default_factory=lambda: dict(cell="cell", hidden="hidden_size", layers="num_layers", dropout="dropout"))


def load(directory, wanted: type | None = None):
    """The model in a directory, of whatever kind; `wanted` says which one a command needs.

    Raises
    ------
    ValueError  it is another kind.
    """
    arrays, config = storage.load(directory)
    found = config.get("model")
    if found == "Network" and wanted is None:
        return Network.load(directory)
    if found not in models.__all__ or (wanted is not None and found != wanted.__name__):
        needs = f"a {wanted.__name__}" if wanted is not None else f"one of {', '.join(models.__all__)}"
        raise ValueError(f"{directory} holds a {found}, but this needs {needs}")
    return getattr(models, found)._of(arrays, config)


def task_of(model) -> Task:
    """The task of a model, other than text."""
    for task in TASKS.values():
        if task.model is type(model):
            return task
    raise ValueError(f"the command has no task for a {type(model).__name__}: use it from Python")


def _accuracy(read, what):
    def score(model, path):
        return f"accuracy: {model.score(*read(path)):.4f} of {what}"

    return score


def _classes(model, path):
    return model.predict(data.read_ts(path)[0])


def _tags(model, path):
    sentences, _ = data.read_conllu(path, column=2)
    for words, tags in zip(sentences, model.predict(sentences)):
        yield from (f"{word}\t{tag}" for word, tag in zip(words, tags))
        yield ""


def _series(path):
    return (data.read_csv(path)[1],)


def _mase(model, path):
    [series] = _series(path)
    horizon = min(model.horizon, len(series) - 1)
    found = model.predict(horizon, series=series[:-horizon])
    error = np.abs(found.reshape(horizon, -1) - series[-horizon:]).mean() / model.naive_error
    return f"MASE: {error:.4f} over the last {horizon} steps (below 1: better than the seasonal naive forecast within the training data)"


def _forecast(model, path):
    found = model.predict_quantiles(series=_series(path)[0])
    names = [f"{q:g}" for q in model.quantiles or []]
    K = found.shape[2]
    yield ",".join(f"{k}{':' if names else ''}{q}" for k in range(K) for q in names or [""])
    for step in found.transpose(1, 2, 0).reshape(found.shape[1], -1):
        yield ",".join(f"{value:g}" for value in step)


def _rolls(path):
    return (data.read_rolls(path, "train"),)


def _nll(model, path):
    return f"NLL: {-model.score(data.read_rolls(path, 'test')):.4f} nats per frame of the part 'test'"


def _piece(model, path):
    prime = data.read_rolls(path, "test")[0][:8]
    for frame in model.generate(64, prime, seed=0):
        yield " ".join(str(note + data.LOWEST) for note in np.flatnonzero(frame))


def _answers(model, path):
    X, _ = data.read_babi(path, answers=False)
    for (story, question), answer, weights in zip(X, model.predict(X), model.attention(X)):
        yield f"{' '.join(question)}? {answer}"
        yield "  " + "".join(f" hop {k:<2}" for k in range(1, model.hops + 1))
        for sentence, of_hops in zip(story, weights.T):
            yield "  " + "".join(f"  {weight:.2f}" for weight in of_hops) + f"  {' '.join(sentence)}"
        yield ""


def _perplexity(read):
    def score(model, path):
        nll = -model.score(*read(path))
        return f"NLL: {nll:.4f} nats per symbol of the targets, perplexity {math.exp(nll):.4f}"

    return score


def _sources(path):
    return data.read_pairs(path, targets=False)


def _vectors(path):
    return data.read_captions(path, texts=False)[0]


def _targets(read):
    def predict(model, path, beam):
        for target in model.predict(read(path), beam=beam):
            yield target if isinstance(target, str) else " ".join(target)

    return predict


def _file_or_part(read):
    return lambda options: read(options.held_out) if options.held_out is not None else options.validation


TASKS = {
    "classify": Task(
        SequenceClassifier, "series and their classes, a .ts file of the UCR/UEA archive", dict(layers=1, epochs=50, batch=16, lr=5e-3),
        {"bidirectional": "bidirectional", "pooling": "pooling"}, data.read_ts, _file_or_part(data.read_ts), ("validation", "held_out"),
        _accuracy(data.read_ts, "the series"), _classes,
    ),
    "tag": Task(
        SequenceTagger, "words and their tags, CoNLL-U", dict(layers=1, dropout=0.3, epochs=15, batch=32, lr=3e-3),
        {"min_count": "min_count"}, data.read_conllu, _file_or_part(data.read_conllu), ("validation", "held_out"),
        _accuracy(data.read_conllu, "the words"), _tags,
    ),
    "forecast": Task(
        Forecaster, "a table of numbers over time, CSV with a header", dict(cell="gru", hidden=32, layers=1, epochs=60, batch=16, lr=5e-3),
        {"window": "window", "horizon": "horizon", "season": "season", "logarithm": "log"}, _series,
        lambda options: 0, (), _mase, _forecast,
    ),
    "music": Task(
        EventModel, 'piano rolls, JSON {"train": …, "valid": …, "test": …}', dict(cell="gru", layers=1, dropout=0.5, epochs=100, batch=8, lr=5e-3),
        {}, _rolls, lambda options: data.read_rolls(options.data, "valid"), (), _nll, _piece,
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


def score_text(model: LanguageModel, path) -> str:
    """What `fastrnn evaluate` prints for a language model."""
    nll = -model.score(Path(path))
    return f"NLL: {nll:.4f} nats per {model.level} ({nll / math.log(2):.4f} bits), perplexity {math.exp(nll):.4f}"


def report(model, out) -> None:
    """Print what training has come to."""
    for name in model.FIGURES:
        values = [entry[f"validation_{name}"] for entry in model.history if entry.get(f"validation_{name}") is not None]
        if values:
            print(f"held-out {name}: {values[0]:.4f} before, {(min if name == 'loss' else max)(values):.4f} at best")
    if model.speed is not None:
        print(f"speed: {model.speed:,.0f} steps/s")
    print(f"model: {out} ({model.num_parameters:,} parameters); on other data: fastrnn predict {out} --data FILE")


def report_text(model, out) -> None:
    """The same for a language model."""
    losses = [entry["validation_loss"] for entry in model.history if entry["validation_loss"] is not None]
    if model.pretrained_words is not None:
        print(f"pretrained vectors: for {model.pretrained_words:,} of {len(model.vocabulary):,} words")
    if losses:
        print(f"held-out NLL: {losses[0]:.4f} before, {min(losses):.4f} after, in nats per {model.level}")
    if model.speed is not None:
        print(f"speed: {model.speed:,.0f} {model.level}s/s")
    print("it writes:", "".join(model.generate_iter(length=300, temperature=0.7, seed=0)), sep="\n")
    print(f"model: {out} ({model.num_parameters:,} parameters); more text: fastrnn generate {out}")

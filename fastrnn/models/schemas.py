"""The schema of each model's config.json: its keys and their values.

A key that was added in a later version is optional: a model saved without it has the default. Sizes are compared with
the arrays when the layers are made, see ``fastrnn._check.memory.Budget``.
"""

from __future__ import annotations

from fastrnn._files.schema import (
    ANYTHING,
    CHARACTERS,
    FLAG,
    FRACTION,
    SIZE,
    TEXT,
    TEXTS,
    ListOf,
    OneOrList,
    OrNull,
    Record,
    Rule,
    choice,
    number,
    whole,
)
from fastrnn.models.symbols import END
from fastrnn.training.checkpoint import history

LONGEST = 1 << 20  # limit of the symbols of a target and of the steps of a forecast
MOST_HOPS = 1000
# Limit of an array of labels, in which each label takes as much memory as the longest; more if all are that long.
_LABEL_BYTES = 1 << 24

CELL = choice("lstm", "gru", "rnn")
READING = Record(
    {},
    {
        "encoding": TEXT,
        "layout": choice("conllu", "conll2003"),
        "column": SIZE,
        "target": TEXTS,
        "exog": TEXTS,
        "date": TEXT,
        "decimal": choice(".", ","),
        "separator": Rule("one character", lambda value: type(value) is str and len(value) == 1),
        "allow_gaps": FLAG,
    },
)


_ALWAYS = {
    "model": TEXT,
    "dtype": choice("float32", "float64"),
    "seed": OrNull(whole(0, 10**100 - 1)),
    "history": history(),
}
_LATER = {"reading": OrNull(READING)}


def _are_labels(value):
    if type(value) is not list or len(value) < 2 or len({type(one) for one in value}) > 1:
        return False
    if type(value[0]) not in (str, int, bool):
        return False
    if type(value[0]) is str:
        taken = 4 * len(value) * max(map(len, value))
        return taken <= max(_LABEL_BYTES, 40 * sum(map(len, value))) and len(set(value)) == len(value)
    low, high = min(value), max(value)
    if low < -(2**63) or high >= (2**63 if low < 0 else 2**64):  # larger ints may all have the same hash
        return False
    return len(set(value)) == len(value)


def _are_texts(value, least=0, empty=False):
    """Whether a value is a list of at least `least` distinct texts; `empty`: whether one may be empty."""
    if type(value) is not list or len(value) < least or not all(type(one) is str and (one or empty) for one in value):
        return False
    return len(set(value)) == len(value)


LABELS = Rule("a list of at least two labels, all texts or all whole numbers, each once", _are_labels)
SYMBOLS = Rule("a list of texts that are not empty, each once", _are_texts)
WORDS = Rule(
    "a list of at least two words that begins with '<unk>', each once",
    lambda value: _are_texts(value, 2) and value[0] == "<unk>",
)
TARGETS = Rule(
    f"a list of texts that are not empty, each once, and begins with {END!r}",
    lambda value: _are_texts(value, 1) and value[0] == END,
)
TAGS = Rule("a list of at least one text, each once", lambda value: _are_texts(value, 1, empty=True))
BYTES = Rule("the 256 characters from U+0000 to U+00FF", lambda value: value == "".join(map(chr, range(256))))

_STACK = {"cell": CELL, "hidden_size": OneOrList(SIZE), "num_layers": SIZE, "dropout": FRACTION}
_PLAIN_STACK = _STACK | {"hidden_size": SIZE}
_POOLED = _STACK | {
    "bidirectional": FLAG,
    "pooling": choice("last", "mean", "max"),
    "standardize": FLAG,
    "input_size": whole(),
}
_WRITES = {"min_count": SIZE, "tied": FLAG, "symbols": TARGETS, "longest": whole(0, LONGEST), "joined": FLAG}
_SYMBOLS_OF_LEVEL = {"character": CHARACTERS, "word": WORDS, "byte": BYTES}

SCHEMAS = {  # model: (required keys, optional keys)
    "LanguageModel": (
        _STACK | {"embedding_size": OrNull(SIZE), "symbols": ANYTHING},
        {
            "input_dropout": FRACTION,
            "variational": FLAG,
            "level": choice(*_SYMBOLS_OF_LEVEL),
            "min_count": OrNull(SIZE),
            "max_vocabulary": OrNull(whole(2)),
            "tied": FLAG,
            "label_smoothing": number(0, most=1),
            "splitting": OrNull(choice("unicode", "simple")),
        },
    ),
    "SequenceClassifier": (_POOLED | {"classes": LABELS}, {"features": OrNull(TEXTS)}),
    "SequenceRegressor": (_POOLED | {"per_step": FLAG, "outputs": SIZE, "flat": FLAG}, {"features": OrNull(TEXTS)}),
    "SequenceTagger": (
        _STACK
        | {"word_size": SIZE, "char_size": SIZE, "char_hidden_size": SIZE, "min_count": SIZE}
        | {"word_dropout": FRACTION, "words": SYMBOLS, "characters": CHARACTERS, "tags": TAGS},
        {},
    ),
    "Forecaster": (
        _STACK
        | {"window": SIZE, "horizon": whole(1, LONGEST), "season": OrNull(SIZE), "difference": FLAG, "log": FLAG}
        | {"quantiles": OrNull(ListOf(number(above=0, below=1), least=1))}
        | {"K": SIZE, "E": whole(), "flat": FLAG, "naive_error": number(0)},
        {"series": SIZE, "columns": OrNull(TEXTS), "exog_columns": OrNull(TEXTS)},
    ),
    "EventModel": (_STACK | {"input_dropout": FRACTION, "events": SIZE}, {}),
    "EncoderDecoder": (
        _PLAIN_STACK
        | _WRITES
        | {
            "decoder_cell": OrNull(CELL),
            "decoder_size": OrNull(SIZE),
            "decoder_layers": OrNull(SIZE),
            "bidirectional": FLAG,
            "context": OrNull(choice("initial", "every", "both")),
            "attention": OrNull(choice("additive", "dot", "general")),
            "attention_size": OrNull(SIZE),
            "input_feeding": FLAG,
            "source_embedding": SIZE,
            "target_embedding": SIZE,
            "source_symbols": SYMBOLS,
        },
        {},
    ),
    "VectorToSequence": (
        _PLAIN_STACK
        | _WRITES
        | {"context": choice("both", "initial", "every"), "embedding_size": SIZE, "standardize": FLAG, "width": SIZE},
        {},
    ),
    "MemoryNetwork": (
        {
            "size": SIZE,
            "hops": whole(1, MOST_HOPS),
            "memory": whole(1, 2**31 - 1),
            "tying": choice("adjacent", "layerwise"),
            "position_encoding": FLAG,
            "temporal_encoding": FLAG,
            "noise": number(0, most=1),
            "linear_start": whole(),
            "answers": TAGS,
            "words": SYMBOLS,
        },
        {},
    ),
}


def check(config: dict) -> None:
    """Raise a ValueError that names the first invalid key of a model's configuration.

    Examples
    --------
    >>> check({"model": "EventModel", "hidden_size": 8})
    Traceback (most recent call last):
        ...
    ValueError: dtype is missing
    """
    required, optional = SCHEMAS[config["model"]]
    Record(_ALWAYS | required, _LATER | optional).check(config)
    if config["model"] == "LanguageModel":
        _SYMBOLS_OF_LEVEL[config.get("level", "character")].check(config["symbols"], "symbols")

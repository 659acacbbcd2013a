"""Checks of the arguments of models that generate a sequence from an input."""

from __future__ import annotations

import numbers

import numpy as np

from fastrnn._check import size
from fastrnn._check.data import numeric

_MOST_EPOCHS = 10_000  # for which a function of the epoch is checked before training
RESERVED = ("</s>", "<s>")


def sequences(name, value, *, empty):
    """Check sequences of str symbols; a str is the sequence of its characters. empty : whether they may be empty."""
    if isinstance(value, str):
        raise TypeError(f"{name} is the str {value[:40]!r}, but it must be a list of sequences: pass [{value[:40]!r}]")
    value = list(value)
    for n, sequence in enumerate(value):
        if not isinstance(sequence, (str, list, tuple)):
            raise TypeError(
                f"{name}[{n}] is {type(sequence).__name__}, but it must be a str, or a list or tuple of str"
            )
        if not sequence and not empty:
            raise ValueError(f"{name}[{n}] has no symbols: leave it out")
        for k, symbol in enumerate(sequence):
            if not isinstance(symbol, str) or not symbol:
                raise TypeError(
                    f"symbol {k} of {name}[{n}] is {symbol!r}, but it must be a str of at least one character"
                )
            if symbol in RESERVED:
                raise ValueError(f"symbol {k} of {name}[{n}] is {symbol!r}, which is reserved: use another symbol")
    return value


def same_number(X, y):
    """Check that there are as many targets as sources, and at least one."""
    if len(X) != len(y):
        raise ValueError(f"X has {len(X)} sources, but y has {len(y)} targets: pass one target for each source")
    if not len(X):
        raise ValueError("there are no pairs")


def not_longer(name, value, max_length):
    """Check that no sequence has more than max_length symbols, unless max_length is None."""
    if max_length is None:
        return
    long = [n for n, sequence in enumerate(value) if len(sequence) > size("max_length", max_length)]
    if long:
        longest = max(len(value[n]) for n in long)
        raise ValueError(
            f"{len(long)} of {len(value)} {name} are longer than max_length={max_length}; the first is number "
            f"{long[0]}, and the longest has {longest} symbols: leave them out, or use a larger max_length"
        )


def vectors(value, width):
    """Check vectors (N, D) of finite numbers. width : the D that the model was fitted with, or None."""
    value = numeric("X", value)
    if value.ndim != 2 or not value.shape[1]:
        raise ValueError(f"X must be (N, D), a vector of D numbers for each of N sequences, got shape {value.shape}")
    if width is not None and value.shape[1] != width:
        raise ValueError(f"X has vectors of {value.shape[1]} numbers, but this model was fitted with {width}")
    if not np.isfinite(value).all():
        n, k = np.argwhere(~np.isfinite(value))[0]
        raise ValueError(f"X[{n}] has {value[n, k]} at {k}: replace such values, or leave the vector out")
    return value


def sampling(value, epochs):
    """Check the probability of scheduled sampling, a number or a function of the epoch; returns a function."""
    of_epoch, where = (value, " in epoch {}") if callable(value) else (lambda epoch: value, "")
    for epoch in range(min(max(1, epochs), _MOST_EPOCHS) if callable(value) else 1):
        p = of_epoch(epoch)
        if isinstance(p, bool) or not isinstance(p, numbers.Real) or not 0 <= p <= 1:
            raise ValueError(
                f"scheduled_sampling is {p!r}{where.format(epoch)}, but it must be a number from 0 to 1, or a function "
                "of the epoch that returns one"
            )
    return of_epoch


def tied(value, embedding_name, embedding_size, size_name, output_size):
    """Check that the embedding and the output layer have the same size, if their weights are tied."""
    if value and embedding_size != output_size:
        sizes = f"{embedding_size} and {output_size}"
        raise ValueError(f"tied=True requires {embedding_name} = {size_name}, but they are {sizes}")


def attention(model, decoder_size):
    """Check that the decoder of an EncoderDecoder gets some information on the source, of a size that fits."""
    if model.context is None and model.attention is None:
        raise ValueError(
            "with context=None and attention=None the decoder has no access to the source: use one of them"
        )
    if model.attention_size is not None and model.attention != "additive":
        raise ValueError(
            f"attention_size={model.attention_size} is for additive attention, but attention is {model.attention!r}: "
            "leave it out"
        )
    memory_size = model.hidden_size * (2 if model.bidirectional else 1)
    if model.attention == "dot" and memory_size != decoder_size:
        raise ValueError(
            f"attention='dot' requires encoder outputs and decoder states of the same size, but they have "
            f"{memory_size} and {decoder_size} features: change decoder_size, or use 'general'"
        )

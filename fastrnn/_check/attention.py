"""The argument checks of AttentionDecoder; the others are in _check.py."""

from __future__ import annotations

import numpy as np

from fastrnn._check import array, integers, size


def cells(rnn):
    """The recurrent layer of a decoder."""
    if not hasattr(rnn, "cell"):
        raise TypeError(f"rnn is {type(rnn).__name__}, but it must be an RNN, GRU or LSTM")
    for name, why in (("bidirectional", "a decoder writes from left to right"), ("batch_first", "its memory and output are time-major"),
                      ("reverse", "a decoder writes from left to right"),
                      ("learn_initial_state", "its initial state comes from outside")):  # fmt: skip
        if getattr(rnn, name):
            raise ValueError(f"rnn was made with {name}=True, but {why}: make it without")
    if rnn.cell.proj_size:
        raise ValueError(
            f"rnn was made with proj_size={rnn.cell.proj_size}, but a decoder's scores and outputs look at all its units: make it without"
        )
    return rnn


def memory(decoder, value, B):
    """(S, B, M), time-major."""
    value = array("memory", value, decoder)
    if value.ndim != 3 or value.shape[1:] != (B, decoder.memory_size):
        raise ValueError(
            f"memory has shape {value.shape}, but this decoder was made with memory_size={decoder.memory_size} and x has {B} rows: "
            f"give (S, {B}, {decoder.memory_size})"
        )
    return value


def memory_lengths(value, S, B):
    """(B,) int64 0..S, or None."""
    if value is None:
        return None
    value = np.asarray(value)
    if value.shape != (B,):
        raise ValueError(f"memory_lengths has shape {value.shape}, but there are {B} rows: give one for each")
    value = integers("memory_lengths", value).astype(np.int64)
    if value.size and (value.min() < 0 or value.max() > S):
        raise ValueError(
            f"memory_lengths has {value.min() if value.min() < 0 else value.max()}, but memory has {S} steps"
        )
    return value


def writing(decoder, embedding, linear):
    """The layers before and after a decoder that writes: they fit it and each other."""
    rnn = getattr(decoder, "rnn", decoder)  # of an AttentionDecoder
    if not hasattr(rnn, "cell"):
        raise TypeError(f"decoder is {type(rnn).__name__}, but it must be an RNN, GRU, LSTM or AttentionDecoder")
    for name in ("bidirectional", "reverse"):
        if getattr(rnn, name):
            raise ValueError(
                f"the decoder was made with {name}=True, but it writes from left to right: make it without"
            )
    if rnn.cell.proj_size:
        raise ValueError(
            f"the decoder was made with proj_size={rnn.cell.proj_size}, which cannot write yet: make it without"
        )
    for name, layer, sizes in (
        ("embedding", embedding, ("num_embeddings", "embedding_dim")),
        ("linear", linear, ("in_features", "out_features")),
    ):
        if not all(hasattr(layer, size) for size in sizes):
            raise TypeError(f"{name} is {type(layer).__name__}, but it must be a fastrnn.{name.capitalize()}")
        if layer.dtype != rnn.dtype:
            raise TypeError(f"the {name} is {layer.dtype}, but this {decoder.kind} computes in {rnn.dtype}")
    if embedding.embedding_dim != rnn.input_size:
        raise ValueError(
            f"the embedding has {embedding.embedding_dim} features, but this {decoder.kind} was made with input_size={rnn.input_size}"
        )
    if linear.in_features != decoder.output_size:
        raise ValueError(
            f"linear was made with in_features={linear.in_features}, but this {decoder.kind} gives {decoder.output_size} features"
        )
    if embedding.num_embeddings < linear.out_features:
        raise ValueError(
            f"linear chooses among {linear.out_features} symbols, but the embedding has rows for {embedding.num_embeddings}"
        )


def symbol(name, value, count, of):
    """An id below `count`."""
    if not 0 <= size(name, value, least=-1) < count:
        raise ValueError(f"{name} is {value}, but {of} has {count} symbols: 0 to {count - 1}")
    return int(value)


def dy(decoder, value, shape):
    """(T, B, F), or None."""
    if value is None:
        return None
    value = array("dy", value, decoder)
    if value.shape != shape:
        raise ValueError(f"dy has shape {value.shape}, but the forward pass it belongs to gave {shape}")
    return value

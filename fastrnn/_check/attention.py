"""Checks of the arguments of AttentionDecoder and of generation with a decoder."""

from __future__ import annotations

import numpy as np

from fastrnn._check import array, integers, size


def cells(rnn):
    """Check the recurrent layer of an AttentionDecoder."""
    if not hasattr(rnn, "cell"):
        raise TypeError(f"rnn is {type(rnn).__name__}, but it must be an RNN, GRU or LSTM")
    for name, why in (
        ("bidirectional", "a decoder runs forward in time"),
        ("batch_first", "the memory and the output of a decoder are time-major"),
        ("reverse", "a decoder runs forward in time"),
        ("learn_initial_state", "the initial state of a decoder is given or zero"),
    ):
        if getattr(rnn, name):
            raise ValueError(f"rnn was made with {name}=True, but {why}: use {name}=False")
    if rnn.cell.proj_size:
        raise ValueError(
            f"rnn was made with proj_size={rnn.cell.proj_size}, but attention needs the whole state: use proj_size=0"
        )
    return rnn


def memory(decoder, value, B):
    """Check a memory, (S, B, M)."""
    value = array("memory", value, decoder)
    if value.ndim != 3 or value.shape[1:] != (B, decoder.memory_size):
        raise ValueError(
            f"memory has shape {value.shape}, but this decoder was made with memory_size={decoder.memory_size} and x "
            f"has {B} rows: pass (S, {B}, {decoder.memory_size})"
        )
    return value


def memory_lengths(value, S, B):
    """Check the lengths of a memory; returns None or (B,) int64 from 0 to S."""
    if value is None:
        return None
    value = np.asarray(value)
    if value.shape != (B,):
        raise ValueError(f"memory_lengths has shape {value.shape}, but x has B={B} rows: pass ({B},)")
    value = integers("memory_lengths", value).astype(np.int64)
    if value.size and (value.min() < 0 or value.max() > S):
        raise ValueError(
            f"memory_lengths has {value.min() if value.min() < 0 else value.max()}, but memory has {S} steps: "
            f"lengths must be from 0 to {S}"
        )
    return value


def writing(decoder, embedding, linear):
    """Check that the embedding, a decoder and the output layer fit each other."""
    rnn = getattr(decoder, "rnn", decoder)  # of an AttentionDecoder
    if not hasattr(rnn, "cell"):
        raise TypeError(f"decoder is {type(rnn).__name__}, but it must be an RNN, GRU, LSTM or AttentionDecoder")
    for name in ("bidirectional", "reverse"):
        if getattr(rnn, name):
            raise ValueError(
                f"the decoder was made with {name}=True, but a decoder runs forward in time: use {name}=False"
            )
    if rnn.cell.proj_size:
        raise ValueError(
            f"the decoder was made with proj_size={rnn.cell.proj_size}, but generation with a projection is not "
            "implemented: use proj_size=0"
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
            f"the embedding has {embedding.embedding_dim} features, but this {decoder.kind} was made with "
            f"input_size={rnn.input_size}"
        )
    if linear.in_features != decoder.output_size:
        raise ValueError(
            f"linear was made with in_features={linear.in_features}, but this {decoder.kind} gives "
            f"{decoder.output_size} features"
        )
    if embedding.num_embeddings < linear.out_features:
        raise ValueError(
            f"linear has {linear.out_features} outputs, but the embedding has {embedding.num_embeddings} rows: "
            "it needs a row for each output"
        )


def symbol(name, value, count, of):
    """Check an id below `count`."""
    if not 0 <= size(name, value, least=-1) < count:
        raise ValueError(f"{name} is {value}, but {of} has {count} symbols: 0 to {count - 1}")
    return int(value)


def dy(decoder, value, shape):
    """Check the gradient of a decoder's output, (T, B, F) or None."""
    if value is None:
        return None
    value = array("dy", value, decoder)
    if value.shape != shape:
        raise ValueError(f"dy has shape {value.shape}, but the forward pass it belongs to gave {shape}")
    return value

"""fastrnn layers as Keras layers, and their weights into Keras layers that are there."""

from __future__ import annotations

import keras
import numpy as np

import fastrnn
from fastrnn.keras import _convert

_KINDS = {fastrnn.RNN: "SimpleRNN", fastrnn.GRU: "GRU", fastrnn.LSTM: "LSTM"}
_UNLIKE = {
    "num_layers": 1,
    "clip": None,
    "proj_size": 0,
    "peephole": False,
    "coupled": False,
    "context_size": 0,
    "learn_initial_state": False,
}


def to_keras(layer, **options):
    """A fastrnn layer as one of keras.layers, with its weights.

    Parameters
    ----------
    layer : fastrnn.RNN, GRU or LSTM of one layer (bidirectional: a Bidirectional), Embedding or Linear (a Dense)
    options : more arguments of the Keras layer: return_sequences (True by default), name, …

    Raises
    ------
    NotImplementedError  the layer has what Keras' has not: several layers (convert one by one), peephole, clip, …

    Examples
    --------
    >>> dense = to_keras(fastrnn.Linear(3, 2))
    >>> tuple(dense.kernel.shape)
    (3, 2)
    """
    dtype = str(getattr(layer, "dtype", ""))
    if isinstance(layer, fastrnn.Embedding):
        made, shape = (
            keras.layers.Embedding(layer.num_embeddings, layer.embedding_dim, dtype=dtype, **options),
            (None, None),
        )
    elif isinstance(layer, fastrnn.Linear):
        made, shape = (
            keras.layers.Dense(layer.out_features, use_bias="bias" in layer.params, dtype=dtype, **options),
            (None, layer.in_features),
        )
    elif type(layer) in _KINDS:
        made, shape = _recurrent(layer, options), (None, None, layer.input_size)
    else:
        raise NotImplementedError(
            f"{type(layer).__name__} has no counterpart in Keras here: RNN, GRU, LSTM, Embedding and Linear have"
        )
    made.build(shape)
    set_weights(made, layer)
    return made


def _recurrent(layer, options):
    kind = _KINDS[type(layer)]
    _refuse_unlike(layer)
    if kind == "LSTM" and layer.output_activation not in (None, layer.activation):
        raise NotImplementedError(
            f"Keras' LSTM has one activation for g and c, this one has {layer.activation!r} and {layer.output_activation!r}"
        )
    settings = {"return_sequences": True, "use_bias": layer.bias, "dtype": str(layer.dtype)} | options
    settings["activation"] = _convert.activation_back(layer.nonlinearity if kind == "SimpleRNN" else layer.activation)
    if kind != "SimpleRNN":
        settings["recurrent_activation"] = _convert.activation_back(layer.recurrent_activation)
    if kind == "GRU":
        settings["reset_after"] = layer.reset_after
    if layer.bidirectional:
        return keras.layers.Bidirectional(
            getattr(keras.layers, kind)(layer.hidden_size, **settings), dtype=str(layer.dtype)
        )
    return getattr(keras.layers, kind)(layer.hidden_size, go_backwards=layer.reverse, **settings)


def _refuse_unlike(layer):
    """Name a setting of a recurrent layer that Keras' layers do not have: its parameters would be lost."""
    for name, usual in _UNLIKE.items():
        if getattr(layer, name, usual) != usual:
            raise NotImplementedError(f"Keras' {_KINDS[type(layer)]} has no {name}={getattr(layer, name)!r}")


def set_weights(keras_layer, layer):
    """Give a built Keras layer the weights of a fastrnn layer. Where Keras has one bias it becomes the sum of two.

    Raises
    ------
    ValueError           shapes, or where a GRU applies its reset gate, differ; both are named.
    NotImplementedError  the layer has what Keras' has not: several layers, peephole, clip, …
    """
    params = layer.params
    if isinstance(layer, fastrnn.Embedding):
        arrays = [params["weight"]]
    elif isinstance(layer, fastrnn.Linear):
        arrays = [params["weight"].T] + ([params["bias"]] if "bias" in params else [])
    else:
        _refuse_unlike(layer)
        kind, two = _KINDS[type(layer)], getattr(layer, "reset_after", False)
        theirs = getattr(getattr(keras_layer, "forward_layer", keras_layer), "reset_after", two)
        if theirs != two:
            raise ValueError(f"{keras_layer.name!r} has reset_after={theirs}, but the {type(layer).__name__} {two}")
        arrays = []
        for suffix in ("_l0", "_l0_reverse")[: layer.num_directions]:
            arrays += _convert.from_params(kind, params, two, suffix)
    wanted, given = [tuple(w.shape) for w in keras_layer.weights], [a.shape for a in arrays]
    if wanted != given:
        raise ValueError(
            f"{keras_layer.name!r} has weights of shapes {wanted}, but those of the {type(layer).__name__} are {given}"
        )
    keras_layer.set_weights([np.ascontiguousarray(a) for a in arrays])

"""Convert fastrnn layers to Keras layers, and copy their weights into existing ones."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from fastrnn.keras import _convert
from fastrnn.layers.feedforward import Embedding, Linear
from fastrnn.layers.rnn import GRU, LSTM, RNN

_KINDS = {RNN: "SimpleRNN", GRU: "GRU", LSTM: "LSTM"}
_WITHOUT_COUNTERPART = {  # options that Keras' layers do not have: default value
    "num_layers": 1,
    "clip": None,
    "proj_size": 0,
    "peephole": False,
    "coupled": False,
    "context_size": 0,
    "learn_initial_state": False,
}


Convertible = RNN | GRU | LSTM | Embedding | Linear


def to_keras(layer: Convertible, **options: Any) -> keras.layers.Layer:
    """Convert a fastrnn layer to a Keras layer with the same weights.

    Parameters
    ----------
    layer : RNN, GRU, LSTM, Embedding or Linear
        An RNN becomes a SimpleRNN, a Linear a Dense, and a bidirectional network a Bidirectional. A network must have
        one layer.
    **options : dict
        More arguments of the Keras layer, such as name. For a network, return_sequences is True by default.

    Returns
    -------
    keras.layers.Layer
        A built layer.

    Raises
    ------
    NotImplementedError
        If the layer has something that Keras' layers do not have: several layers (convert one by one), peephole, clip,
        …

    Examples
    --------
    >>> import fastrnn
    >>> dense = to_keras(fastrnn.Linear(3, 2))
    >>> tuple(dense.kernel.shape)
    (3, 2)
    """
    dtype = str(getattr(layer, "dtype", ""))
    if isinstance(layer, Embedding):
        made = keras.layers.Embedding(layer.num_embeddings, layer.embedding_dim, dtype=dtype, **options)
        shape = (None, None)
    elif isinstance(layer, Linear):
        made = keras.layers.Dense(layer.out_features, use_bias="bias" in layer.params, dtype=dtype, **options)
        shape = (None, layer.in_features)
    elif type(layer) in _KINDS:
        made, shape = _recurrent(layer, options), (None, None, layer.input_size)
    else:
        raise NotImplementedError(
            f"{type(layer).__name__} can't be converted to Keras: only RNN, GRU, LSTM, Embedding and Linear can"
        )
    made.build(shape)
    set_weights(made, layer)
    return made


def _recurrent(layer, options):
    kind = _KINDS[type(layer)]
    _refuse_without_counterpart(layer)
    if kind == "LSTM" and layer.output_activation not in (None, layer.activation):
        raise NotImplementedError(
            f"Keras' LSTM has one activation for g and c, this one has {layer.activation!r} and "
            f"{layer.output_activation!r}"
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


def _refuse_without_counterpart(layer):
    """Raise for an option that Keras' layers do not have: its effect would be lost."""
    for name, default in _WITHOUT_COUNTERPART.items():
        if getattr(layer, name, default) != default:
            raise NotImplementedError(f"Keras' {_KINDS[type(layer)]} has no {name}={getattr(layer, name)!r}")


def set_weights(keras_layer: keras.layers.Layer, layer: Convertible) -> None:
    """Copy the weights of a fastrnn layer into a built Keras layer.

    Where Keras has one bias, it gets the sum of fastrnn's two.

    Parameters
    ----------
    keras_layer : keras.layers.Layer
        Of the kind that `to_keras` makes of `layer`, built.
    layer : RNN, GRU, LSTM, Embedding or Linear
        The layer with the weights.

    Raises
    ------
    ValueError
        If shapes differ, or `reset_after` of a GRU. The message names both.
    NotImplementedError
        If the layer has something that Keras' layers do not have: several layers, peephole, clip, …
    """
    params = layer.params
    if isinstance(layer, Embedding):
        arrays = [params["weight"]]
    elif isinstance(layer, Linear):
        arrays = [params["weight"].T] + ([params["bias"]] if "bias" in params else [])
    else:
        _refuse_without_counterpart(layer)
        kind, two = _KINDS[type(layer)], getattr(layer, "reset_after", False)
        theirs = getattr(getattr(keras_layer, "forward_layer", keras_layer), "reset_after", two)
        if theirs != two:
            raise ValueError(f"{keras_layer.name!r} has reset_after={theirs}, but the {type(layer).__name__} has {two}")
        arrays = []
        for suffix in ("_l0", "_l0_reverse")[: layer.num_directions]:
            arrays += _convert.from_params(kind, params, two, suffix)
    wanted, given = [tuple(w.shape) for w in keras_layer.weights], [a.shape for a in arrays]
    if wanted != given:
        raise ValueError(
            f"{keras_layer.name!r} has weights of shapes {wanted}, but those of the {type(layer).__name__} are {given}"
        )
    keras_layer.set_weights([np.ascontiguousarray(a) for a in arrays])

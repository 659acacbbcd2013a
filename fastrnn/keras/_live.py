"""Convert Keras models and layers in memory, and compare their outputs with those of the network."""

from __future__ import annotations

import contextlib
import json
import warnings

import keras
import numpy as np

from fastrnn.keras import _load

_NAMES = {"kernel", "recurrent_kernel", "bias", "embeddings"}


def load(source, verify):
    """Convert a Keras model or layer in memory to a Network."""
    if not isinstance(source, keras.layers.Layer):
        raise TypeError(f"source is {type(source).__name__}: give a path, or a Keras model or layer")
    if not source.built:
        raise ValueError(f"{source.name!r} has no weights yet: build it or call it once")
    model = isinstance(source, keras.Model)
    if model:
        config = json.loads(source.to_json())
    else:
        entry = keras.saving.serialize_keras_object(source)
        config = {"class_name": "Sequential", "config": {"layers": [json.loads(json.dumps(entry))]}}
    parts = _load.parts_of(source.name, config, False)
    layers = {layer.name: layer for layer in (source.layers if model else [source])}
    arrays = []
    for part in parts:
        given = [
            keras.ops.convert_to_numpy(w.value) for w in layers[part.name].weights if w.path.split("/")[-1] in _NAMES
        ]
        if [a.shape for a in given] != [shape for _, shape in part.shapes]:
            needed = [shape for _, shape in part.shapes]
            raise ValueError(
                f"{part.name!r} has weights of shapes {[a.shape for a in given]}, but its config needs {needed}"
            )
        arrays.append(given)
    net = _load.build(source.name, parts, arrays, False, verify)
    if verify:
        _compare_live(source, parts, net)
    return net


def _compare_live(source, parts, net):
    """Compare with the model in memory on random input, also with a mask if the model takes one from its caller."""
    # the same in float64, since Keras on torch computes its products in float32; the float64 reference is exact
    tolerance, probe = 1e-4, _probe(parts)
    _load.compare(source.name, source.name, net(probe)[0], _outputs(source, probe), tolerance)
    takes_mask = isinstance(source, (keras.Model, keras.layers.RNN, keras.layers.Bidirectional))
    if takes_mask and not any(part.kind in ("Embedding", "Masking") for part in parts):  # those make masks of their own
        mask = np.random.default_rng(1).random(probe.shape[:2]) < 0.6
        want = _outputs(source, probe, mask=keras.ops.convert_to_tensor(mask))
        _load.compare(source.name, f"{source.name} with a mask", net(probe, mask=mask)[0], want, tolerance)


def _outputs(source, x, **mask):
    """The outputs of a model in memory, from zero states."""
    with _from_zeros(source), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a Sequential takes no masks, although its layers do
        return keras.ops.convert_to_numpy(source(x, **mask))


@contextlib.contextmanager
def _from_zeros(source):
    """Set the states of stateful layers to zeros inside the block, and restore them after it."""
    layers = [layer for layer in source._flatten_layers() if isinstance(layer, keras.layers.RNN) and layer.stateful]
    states = [state for layer in layers for state in keras.tree.flatten(layer.states)]
    kept = [keras.ops.convert_to_numpy(state.value).copy() for state in states]
    try:
        for layer in layers:
            layer.reset_state()
        yield
    finally:
        for state, value in zip(states, kept):
            state.assign(value)


def _probe(parts):
    """Random ids or numbers for the first layer, with the sizes that the model fixes.

    Some of their steps are masked by the model's own mask.
    """
    rng = np.random.default_rng(0)
    first = next(part for part in parts if part.shapes)
    shape = [fixed or size for fixed, size in zip(first.sizes, (3, 5))]
    if first.kind == "Embedding":
        probe = rng.integers(0, first.shapes[0][1][0], shape)
        probe[:, 1::3] = 0
        return probe
    probe = rng.standard_normal((*shape, first.shapes[0][1][0])).astype(first.dtype)
    if parts[0].kind == "Masking":
        probe[:, 1::3] = parts[0].config.get("mask_value", 0.0)
    return probe

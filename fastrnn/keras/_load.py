"""Load Keras' models, from files or from memory, as fastrnn layers, and compare them with a reference."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrnn._files import foreign
from fastrnn.keras import _convert, _files, _model, _reference, _trial
from fastrnn.layers.feedforward import Embedding, Linear
from fastrnn.layers.network import FUNCTIONS, Network

if TYPE_CHECKING:
    import keras


def load(
    source: str | os.PathLike | keras.layers.Layer, config: str | Mapping[str, Any] | keras.Model | None = None, *,
    verify: bool = True,
) -> Network:  # fmt: skip
    """Convert a Keras model to a Network whose outputs are those of the model's ``predict``.

    Parameters
    ----------
    source : path, keras.Model or keras.layers.Layer
        The path of a ``.keras`` file (Keras 3), of a whole model in ``.h5`` (Keras 2 or 3) or of a ``.weights.h5``
        file; or a model or layer in memory that is built. The format of a file is detected from its content. A file
        needs h5py, but not Keras.
    config : str, dict or keras.Model, optional
        Only for a ``.weights.h5`` file, which has no config: the model's ``to_json()`` as text or parsed, or the model.
    verify : bool, default True
        Whether to compare every recurrent layer with a float64 reference, on random input with masked steps. For a
        model in memory, the outputs of the whole model are compared too, with and without a mask. For a file, the
        other layers and their order are not compared with anything.

    Returns
    -------
    Network
        A network with `batch_first`. Its layers have the names that they have in the model. What Keras' settings do
        around them are steps of it: ``"last"`` for return_sequences=False, ``("mask", value)``, ``("merge", mode)``,
        the activation of a Dense, … Without a given state, a call starts from zeros, also for ``stateful=True``.

    Raises
    ------
    ValueError
        If the file is broken, a tensor is missing, left over or of another shape, or outputs differ. The message names
        it.
    NotImplementedError
        If fastrnn does not have a layer or a setting, or a functional model is not a chain. The message names it.

    Notes
    -----
    No code in the file is run and nothing is unpickled: a Lambda layer is refused by name. Sizes are checked before
    memory is allocated. A file is first read in another process with limits of time and memory, because HDF5's library
    crashes or does not finish on some broken files.
    """
    if not isinstance(source, (str, os.PathLike)):
        from fastrnn.keras import _live  # it imports Keras

        return _live.load(source, verify)
    path = os.fspath(source)
    with foreign.reading(path):
        _files.sniff(path)
        config = None if config is None else _config_of(path, config)
        _trial.run(path, config)
    return read(path, config, verify=verify)


def read(path, config, *, verify):
    """`load` of a file, without the trial in another process."""
    with foreign.reading(path):
        return _read(path, config, verify)


def _read(path, config, verify):
    if _files.sniff(path) == "keras":
        _refuse_config(path, config)
        archive = _files.KerasZip(path)
        try:
            version = archive.json("metadata.json").get("keras_version")
            if _keras_2(path, version):
                raise NotImplementedError(
                    f"{path} was written by Keras {version}, whose .keras files have another layout: save it as .h5, "
                    "or with Keras 3"
                )
            parts = parts_of(path, archive.json("config.json"), False)
            weights = archive.weights(_bytes(parts))
        finally:
            archive.close()
        return _finish(path, parts, False, weights, _arrays_3, verify)
    weights = _files.Weights(path)
    text = weights.attribute("model_config")
    if isinstance(text, list):
        weights.close()
        raise ValueError(f"{path}: its model_config is a list of {len(text)} strings, not a string")
    if text is None:
        if config is None:
            weights.close()
            raise ValueError(
                f"{path} has weights but no config (a .weights.h5): give config=model.to_json(), or --config FILE to "
                "the command"
            )
        return _finish(path, parts_of(path, config, False), False, weights, _arrays_3, verify)
    if config is not None:
        weights.close()
        _refuse_config(path, config)
    keras_2 = _keras_2(path, weights.attribute("keras_version"))
    return _finish(
        path, parts_of(path, _files.parse(path, text, "model_config"), keras_2), keras_2, weights, _arrays_h5, verify
    )


def _refuse_config(path, config):
    if config is not None:
        raise ValueError(f"{path} has a config of its own, so the given config would be ignored: leave it out")


def _keras_2(path, version):
    major = str(version).split(".")[0]
    if not re.fullmatch("[0-9]{1,4}", major):
        raise ValueError(
            f"{path}: keras_version is {repr(version)[:80]}, which does not tell whether its hard_sigmoid has slope "
            "0.2 or 1/6"
        )
    return int(major) < 3


def _config_of(path, config):
    if hasattr(config, "to_json"):
        config = config.to_json()
    return _files.parse(path, config, "config") if isinstance(config, str) else json.loads(json.dumps(config))


def parts_of(path, config, keras_2):
    try:
        return _model.parts(config, keras_2)
    except NotImplementedError as error:
        raise NotImplementedError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from None
    except (TypeError, AttributeError, KeyError, IndexError) as error:
        raise ValueError(f"{path}: the config is not one that Keras writes: {type(error).__name__}: {error}") from None


def _bytes(parts):
    return sum(
        int(np.prod(shape, dtype=object)) * np.dtype(part.dtype).itemsize for part in parts for _, shape in part.shapes
    )


def _finish(path, parts, keras_2, weights, read, verify):
    try:
        if _bytes(parts) > weights.size:
            raise ValueError(
                f"{path}: the config needs {_bytes(parts)} bytes of weights, but the HDF5 part has {weights.size}"
            )
        arrays = read(weights, parts)
    finally:
        weights.close()
    return build(path, parts, arrays, keras_2, verify)


def _arrays_3(weights, parts):
    """Read the arrays from Keras 3's weights: groups are named after classes, with a number from the second on."""
    used, found, expected = {}, [], set()
    for part in parts:
        kind = _model.snake("Bidirectional" if part.bidirectional else part.kind)
        used[kind] = used.get(kind, -1) + 1
        base = f"layers/{kind}" + (f"_{used[kind]}" if used[kind] else "")
        places = []
        for k, (name, _) in enumerate(part.shapes):
            side = name.split("/")[0] + "/" if part.bidirectional else ""
            inner = "cell/" if part.kind in _convert.RECURRENT else ""
            places.append(f"{base}/{side}{inner}vars/{k % (len(part.shapes) // 2) if part.bidirectional else k}")
        found.append([weights.array(place, shape, part.dtype) for place, (_, shape) in zip(places, part.shapes)])
        expected.update(places)
    extra = sorted(
        place for place in weights.places("layers") if place not in expected and "seed_generator" not in place
    )
    if extra:
        raise ValueError(
            f"{weights.path}: {len(extra)} tensors belong to no layer of the config: {', '.join(extra[:5])}"
        )
    return found


def _arrays_h5(weights, parts):
    """Read the arrays from a whole model in HDF5, where each layer lists its weights."""
    found = []
    for part in parts:
        group = f"model_weights/{part.name}"
        names = _listed(weights, "weight_names", group)
        wanted = [name.split("/")[-1] for name, _ in part.shapes]
        given = [name.split("/")[-1].split(":")[0] for name in names]
        if given != wanted:
            raise ValueError(
                f"{weights.path}: layer {part.name!r} lists the tensors {given}, but the config needs {wanted}"
            )
        found.append(
            [weights.array(f"{group}/{name}", shape, part.dtype) for name, (_, shape) in zip(names, part.shapes)]
        )
    known = {part.name for part in parts}
    extra = [
        name
        for name in _listed(weights, "layer_names", "model_weights")
        if name not in known and _listed(weights, "weight_names", f"model_weights/{name}")
    ]
    if extra:
        raise ValueError(f"{weights.path}: layers with weights that are not in the config: {', '.join(extra[:5])}")
    return found


def _listed(weights, name, group):
    """The strings of an attribute that is a list."""
    found = weights.attribute(name, group)
    if isinstance(found, str):
        raise ValueError(f"{weights.path}: attribute {name!r} of {group} is a single string, but it must be a list")
    return found or []


def build(path, parts, arrays, keras_2, verify):
    steps = {}
    for part, given in zip(parts, arrays, strict=True):
        layer = _layer(part, given, keras_2)
        if verify and part.kind in _convert.RECURRENT:
            _verify(path, part, layer, given, keras_2)
        try:
            before, after = _around(part, keras_2)
        except NotImplementedError as error:
            raise NotImplementedError(f"{path}: layer {part.name!r}: {error}") from None
        made = before | ({} if layer is None else {part.name: layer}) | after
        if steps.keys() & made.keys():
            raise ValueError(f"{path}: two of its layers are named {sorted(steps.keys() & made.keys())[0]!r}")
        steps |= made
    try:
        return Network(steps)
    except (TypeError, ValueError) as error:
        raise NotImplementedError(f"{path}: {error}") from None


def _around(part, keras_2):
    """The steps (before, after) a layer that its settings require, with and without a mask."""
    name, config = part.name, part.config
    if part.kind == "Masking":
        value = config.get("mask_value", 0.0)
        return {name: ("mask", value)} | ({f"{name}.zero": "zero"} if value else {}), {}
    if part.kind == "Embedding":
        return ({f"{name}.mask": ("mask", 0)} if config.get("mask_zero") else {}), {}
    if part.kind == "Dense":
        function = config.get("activation")
        function = function if function == "softmax" else _convert.activation(function, keras_2)
        if function == "linear":
            return {}, {}
        if function != "softmax" and (function if isinstance(function, str) else function[0]) not in FUNCTIONS:
            raise NotImplementedError(f"activation {function!r} of a Dense is not supported")
        return {}, {f"{name}.activation": function}
    after, sequences = {}, config.get("return_sequences", False)
    zero = sequences if part.bidirectional else config.get("zero_output_for_mask", False)
    if zero and not sequences:
        raise NotImplementedError("zero_output_for_mask=True with return_sequences=False is not supported")
    if zero:
        after[f"{name}.zero"] = "zero"
    if not sequences:
        after[f"{name}.last"] = "last"
    elif config.get("go_backwards") and not part.bidirectional:
        after[f"{name}.flip"] = "flip"
    if part.bidirectional and part.merge_mode != "concat":
        after[f"{name}.merge"] = ("merge", part.merge_mode)
    return {}, after


def _layer(part, arrays, keras_2):
    if part.kind == "Masking":
        return None
    if part.kind == "Embedding":
        layer = Embedding(*arrays[0].shape, dtype=part.dtype)
        params = {"weight": arrays[0]}
    elif part.kind == "Dense":
        layer = Linear(*arrays[0].shape, bias=len(arrays) > 1, dtype=part.dtype)
        params = {"weight": np.ascontiguousarray(arrays[0].T)} | ({"bias": arrays[1]} if len(arrays) > 1 else {})
    else:
        found = _convert.options(part.kind, part.config, keras_2)
        n = len(arrays) // 2 if part.bidirectional else len(arrays)
        layer = _convert.make(
            part.kind, arrays[0].shape[0], arrays[1].shape[0], found, bidirectional=part.bidirectional, dtype=part.dtype
        )
        params = _convert.to_params(part.kind, arrays[:n])
        params |= _convert.to_params(part.kind, arrays[n:], "_l0_reverse") if part.bidirectional else {}
    layer.load_state_dict(params)
    return layer


def _verify(path, part, layer, arrays, keras_2):
    """Compare a layer with the reference on Keras' own arrays, also with left padding and holes in the mask."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 6, layer.input_size)).astype(part.dtype)
    mask = np.array([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 0, 1], [1, 0, 1, 0, 0, 0]], bool)
    got = layer(x, mask=mask)[0]
    n = len(arrays) // 2 if part.bidirectional else len(arrays)
    want = [_reference.run(part.kind, part.config, arrays[:n], x, mask, keras_2)]
    if part.bidirectional:
        want.append(_reference.run(part.kind, part.config | {"go_backwards": True}, arrays[n:], x, mask, keras_2))
    compare(path, part.name, got, np.concatenate(want, axis=-1))


def compare(path, name, got, want, tolerance=None):
    tolerance = tolerance or (1e-4 if got.dtype == np.float32 else 1e-9)
    worst = np.abs(got - want).max(initial=0.0) / max(1.0, np.abs(want).max(initial=0.0))
    if not worst <= tolerance:
        raise ValueError(
            f"{path}: outputs of {name!r} differ from the source's by {worst:.2g} of their magnitude; at most "
            f"{tolerance:g} is allowed"
        )

"""Keras' models, from files or live, as fastrnn layers, compared with a reference before they are given."""

from __future__ import annotations

import contextlib
import json
import os
import re
import warnings

import numpy as np

import fastrnn
from fastrnn._files import foreign
from fastrnn.keras import _convert, _files, _model, _reference, _trial
from fastrnn.layers.network import FUNCTIONS, Network


def load(source, config=None, *, verify=True):
    """A Keras model as a Network, which gives what the model's ``predict`` gives. Keras is not needed for a file, h5py is.

    Parameters
    ----------
    source : path of a ``.keras`` file (Keras 3), of a whole model in ``.h5`` (Keras 2 or 3) or of a ``.weights.h5``; or a live Keras
        model or layer that is built. What the file is is told by its content.
    config : for a ``.weights.h5``, which has no settings: the model's ``to_json()`` as text or as an object, or a live model
    verify : compare every recurrent layer alone, on random input with masked steps, with a float64 reference; and the
        outputs of a live model, without a mask and with one, with the network's. Of a file, the other layers and their
        order are not compared with anything

    Returns
    -------
    Network : batch first; its layers have the names that they have in the model. What Keras' settings do around them are steps of it:
        ``"last"`` where return_sequences is False, ``("mask", value)``, ``("merge", mode)``, the activation of a Dense, …
        A call starts from zeros where it is given no state, for ``stateful=True`` too.

    Raises
    ------
    ValueError           the file is broken, a tensor is missing, too many or of another shape, or outputs differ; the message names it.
    NotImplementedError  a layer or setting that fastrnn does not have, by name; a functional model that is no chain.

    Notes
    -----
    No code of the file is run and nothing is unpickled: a Lambda layer is refused by name. Sizes are checked before memory is taken.
    A file is read in a process of its own first, with limits of time and memory, as HDF5's library fails badly on some broken ones.
    """
    if not isinstance(source, (str, os.PathLike)):
        return _live(source, verify)
    path = os.fspath(source)
    with foreign.reading(path):
        _files.sniff(path)
        config = None if config is None else _config_of(path, config)
        _trial.run(path, config)
    return read(path, config, verify=verify)


def read(path, config, *, verify):
    """`load` of a file that is not feared."""
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
                    f"{path} was written by Keras {version}, whose .keras files are laid out otherwise: save it as .h5, or by Keras 3"
                )
            parts = _parts(path, archive.json("config.json"), False)
            weights = archive.weights(_bytes(parts))
        finally:
            archive.close()
        return _finish(path, parts, False, weights, _arrays_3, verify)
    weights = _files.Weights(path)
    text = weights.attribute("model_config")
    if isinstance(text, list):
        weights.close()
        raise ValueError(f"{path}: its model_config is a list of {len(text)} texts, not one")
    if text is None:
        if config is None:
            weights.close()
            raise ValueError(
                f"{path} has weights and no settings (a .weights.h5): give config=model.to_json(), or --config FILE to the command"
            )
        return _finish(path, _parts(path, config, False), False, weights, _arrays_3, verify)
    if config is not None:
        weights.close()
        _refuse_config(path, config)
    keras_2 = _keras_2(path, weights.attribute("keras_version"))
    return _finish(
        path, _parts(path, _files.parse(path, text, "model_config"), keras_2), keras_2, weights, _arrays_h5, verify
    )


def _refuse_config(path, config):
    if config is not None:
        raise ValueError(f"{path} has settings of its own, and the config that was given would not count: leave it out")


def _keras_2(path, version):
    major = str(version).split(".")[0]
    if not re.fullmatch("[0-9]{1,4}", major):
        raise ValueError(
            f"{path}: keras_version is {repr(version)[:80]}: whether its hard_sigmoid has slope 0.2 or 1/6 cannot be told"
        )
    return int(major) < 3


def _config_of(path, config):
    if hasattr(config, "to_json"):
        config = config.to_json()
    return _files.parse(path, config, "config") if isinstance(config, str) else json.loads(json.dumps(config))


def _parts(path, config, keras_2):
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
                f"{path}: the settings ask for {_bytes(parts)} bytes of weights, but its HDF5 part has {weights.size}"
            )
        arrays = read(weights, parts)
    finally:
        weights.close()
    return _build(path, parts, arrays, keras_2, verify)


def _arrays_3(weights, parts):
    """From Keras 3's weights: groups named after classes, with a number from the second on."""
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
            f"{weights.path}: {len(extra)} tensors belong to no layer of the settings: {', '.join(extra[:5])}"
        )
    return found


def _arrays_h5(weights, parts):
    """From a whole model in HDF5: each layer lists its weights."""
    found = []
    for part in parts:
        group = f"model_weights/{part.name}"
        names = _listed(weights, "weight_names", group)
        wanted = [name.split("/")[-1] for name, _ in part.shapes]
        given = [name.split("/")[-1].split(":")[0] for name in names]
        if given != wanted:
            raise ValueError(
                f"{weights.path}: layer {part.name!r} lists the tensors {given}, but the settings ask for {wanted}"
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
        raise ValueError(f"{weights.path}: layers with weights that are not in the settings: {', '.join(extra[:5])}")
    return found


def _listed(weights, name, group):
    """The texts of an attribute that is a list."""
    found = weights.attribute(name, group)
    if isinstance(found, str):
        raise ValueError(f"{weights.path}: attribute {name!r} of {group} is one text, but it must be a list of them")
    return found or []


def _build(path, parts, arrays, keras_2, verify):
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
    """The functions (before, after) a layer that make of it what its settings say, with a mask and without one."""
    name, config = part.name, part.config
    if part.kind == "Masking":
        value = config.get("mask_value", 0.0)
        return {name: ("mask", value)} | ({f"{name}.zero": "zero"} if value else {}), {}
    if part.kind == "Embedding":
        return ({f"{name}.mask": ("mask", 0)} if config.get("mask_zero") else {}), {}
    if part.kind == "Dense":
        function = (
            config.get("activation")
            if config.get("activation") == "softmax"
            else _convert.activation(config.get("activation"), keras_2)
        )
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
        layer = fastrnn.Embedding(*arrays[0].shape, dtype=part.dtype)
        params = {"weight": arrays[0]}
    elif part.kind == "Dense":
        layer = fastrnn.Linear(*arrays[0].shape, bias=len(arrays) > 1, dtype=part.dtype)
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
    """Compare a layer with the reference on Keras' own arrays, left padding and holes too."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 6, layer.input_size)).astype(part.dtype)
    mask = np.array([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 0, 1], [1, 0, 1, 0, 0, 0]], bool)
    got = layer(x, mask=mask)[0]
    n = len(arrays) // 2 if part.bidirectional else len(arrays)
    want = [_reference.run(part.kind, part.config, arrays[:n], x, mask, keras_2)]
    if part.bidirectional:
        want.append(_reference.run(part.kind, part.config | {"go_backwards": True}, arrays[n:], x, mask, keras_2))
    _compare(path, part.name, got, np.concatenate(want, axis=-1))


def _compare(path, name, got, want, tolerance=None):
    tolerance = tolerance or (1e-4 if got.dtype == np.float32 else 1e-9)
    worst = np.abs(got - want).max(initial=0.0) / max(1.0, np.abs(want).max(initial=0.0))
    if not worst <= tolerance:
        raise ValueError(
            f"{path}: outputs of {name!r} differ from the source's by {worst:.2g} of their size, at most {tolerance:g} is allowed"
        )


def _live(source, verify):
    """From a Keras model, or one layer of it, that is built."""
    import keras

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
    parts = _parts(source.name, config, False)
    layers = {layer.name: layer for layer in (source.layers if model else [source])}
    arrays = []
    for part in parts:
        given = [
            keras.ops.convert_to_numpy(w.value) for w in layers[part.name].weights if w.path.split("/")[-1] in _NAMES
        ]
        if [a.shape for a in given] != [shape for _, shape in part.shapes]:
            raise ValueError(
                f"{part.name!r} has weights of shapes {[a.shape for a in given]}, but its settings ask for {[s for _, s in part.shapes]}"
            )
        arrays.append(given)
    net = _build(source.name, parts, arrays, False, verify)
    if verify:
        _compare_live(source, parts, net)
    return net


_NAMES = {"kernel", "recurrent_kernel", "bias", "embeddings"}


def _compare_live(source, parts, net):
    """Compare with the live model on random input, with a mask too where the model takes one from its caller."""
    import keras

    # also in float64, as Keras multiplies that in float32 on torch; the reference is exact
    tolerance, probe = 1e-4, _probe(parts)
    _compare(source.name, source.name, net(probe)[0], _outputs(source, probe), tolerance)
    takes_mask = isinstance(source, (keras.Model, keras.layers.RNN, keras.layers.Bidirectional))
    if takes_mask and not any(part.kind in ("Embedding", "Masking") for part in parts):  # those make masks of their own
        mask = np.random.default_rng(1).random(probe.shape[:2]) < 0.6
        want = _outputs(source, probe, mask=keras.ops.convert_to_tensor(mask))
        _compare(source.name, f"{source.name} with a mask", net(probe, mask=mask)[0], want, tolerance)


def _outputs(source, x, **mask):
    """What a live model gives from zero states."""
    import keras

    with _from_zeros(source), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a Sequential takes no masks, which its layers do
        return keras.ops.convert_to_numpy(source(x, **mask))


@contextlib.contextmanager
def _from_zeros(source):
    """The states of stateful layers are zeros inside, and what they were afterwards."""
    import keras

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
    """Ids, or random numbers, that the first layer takes, of the sizes that the model fixes.

    Some of its steps are masked by the model's own mask.
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

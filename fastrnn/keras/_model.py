"""Read Keras' config of a chain of layers: the settings of each layer, and the names and shapes of its arrays."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from fastrnn.keras import _convert, _schema
from fastrnn.keras._schema import MOST

_IDENTITIES = {
    "Dropout",
    "SpatialDropout1D",
    "GaussianNoise",
    "GaussianDropout",
    "AlphaDropout",
    "ActivityRegularization",
}  # without effect on inference
_KNOWN = {"InputLayer", "Embedding", "Masking", "Bidirectional", "Dense", *_IDENTITIES, *_convert.RECURRENT}
_PACKAGES = (None, "", "keras", "keras.layers", "fastrnn", "fastrnn.keras._layers")


@dataclass
class Part:
    """One layer of a Keras model."""

    name: str
    kind: str  # the class in Keras; for a Bidirectional, that of the layer inside
    config: dict
    bidirectional: bool = False
    merge_mode: str | None = "concat"
    features: int | None = None  # number of features of its output
    sizes: tuple = (None, None)  # of batch and time, if the model fixes them
    dtype: str = "float32"
    shapes: list = field(default_factory=list)  # (name, shape) of its arrays, in Keras' order


def _size(name, config, key):
    if key not in config:
        raise ValueError(f"layer {name!r}: {key} is missing")
    return config[key]


def _dtype(name, config):
    value = config.get("dtype") or "float32"
    if isinstance(value, dict):
        inside = value.get("config")
        value = inside.get("name") if isinstance(inside, dict) else None
    if value not in ("float32", "float64"):
        raise NotImplementedError(
            f"layer {name!r}: dtype {_schema.shown(value)} is not supported: float32 and float64 are"
        )
    return value


def _entries(config):
    """(class_name, name, config, build_config) of each layer, in order; raises if the model is not a chain."""
    kind, inside = config.get("class_name"), config.get("config")
    if kind not in ("Sequential", "Functional", "Model"):
        raise NotImplementedError(
            f"a model of class {_schema.shown(kind)} is not supported: only Sequential and Functional models that are "
            "one chain are"
        )
    layers = inside.get("layers") if isinstance(inside, dict) else inside
    if not isinstance(layers, list):
        raise ValueError(f"the config of the {kind} model has no list of layers")
    if len(layers) > _schema.MOST_LAYERS:
        raise ValueError(f"the config has {len(layers)} layers; at most {_schema.MOST_LAYERS} are read")
    before, names = None, []
    for entry in layers:
        name = _schema.check_entry(entry)
        if entry.get("class_name") not in _KNOWN or entry.get("module") not in _PACKAGES:
            where = f" of {entry['module']}" if entry.get("module") not in _PACKAGES else ""
            raise NotImplementedError(
                f"layer {name!r}: {entry.get('class_name')}{where} is not supported: only {', '.join(sorted(_KNOWN))} "
                "are"
            )
        if kind != "Sequential":
            nodes = entry.get("inbound_nodes") or []
            sources = _sources(nodes)
            if len(nodes) > 1 or sources != ([] if before is None else [before]):
                raise NotImplementedError(
                    f"layer {name!r} takes {sources}, {len(nodes)} times, and {before!r} is before it: only a chain "
                    "is supported"
                )
            _check_call(name, nodes)
            before = entry.get("name") or name
            names.append(before)
        _schema.check_config(entry["class_name"], name, entry["config"])
        yield entry["class_name"], name, entry["config"], entry.get("build_config") or {}
    if kind != "Sequential":
        _check_ends(inside, names)


def _check_ends(inside, names):
    """Raise if the input and output of a functional model are not its first and its last layer."""
    for key, what, wanted in (("input_layers", "takes", names[:1]), ("output_layers", "gives", names[-1:])):
        found = _sources(inside.get(key))
        if len(found) != 1:
            number, ends = f"{len(found)} {key.split('_')[0]}s", ", ".join(map(repr, sorted(found)))
            raise NotImplementedError(
                f"the model {what} {number}, {ends}: only a chain of one input and one output is supported"
            )
        if found != wanted:
            raise NotImplementedError(
                f"the model {what} {found[0]!r}, but the end of its chain of layers is {wanted}: only a whole chain is "
                "supported"
            )


def _check_call(name, nodes):
    """Raise if a functional model passes more than the input to a layer: it would be ignored."""
    for key, value in _call_options(nodes):
        if key == "training" and value:
            raise NotImplementedError(
                f"layer {name!r} is called with training=True, so its dropout is active in predict: call it without"
            )
        if key != "training" and value is not None:
            raise NotImplementedError(
                f"layer {name!r} is called with {key}={_schema.shown(value)}: only a chain is supported, in which a "
                "layer takes nothing but its input"
            )


def _call_options(nodes):
    """(name, value) of a layer's arguments other than the first, in the formats of Keras 3 and Keras 2."""
    found = []
    for node in nodes:
        if isinstance(node, dict):
            found += [("an argument", value) for value in (node.get("args") or [])[1:]]
            found += (node.get("kwargs") or {}).items()
        elif isinstance(node, list):
            for source in node:
                if isinstance(source, list) and len(source) > 3 and isinstance(source[3], dict):
                    found += source[3].items()
    return found


def _sources(nodes):
    """Names of the layers that the inputs come from, in the formats of Keras 3 and Keras 2."""
    found, open_nodes = [], [nodes]
    while open_nodes:
        node = open_nodes.pop()
        if isinstance(node, dict):
            if "keras_history" in node:
                found.append(node["keras_history"][0])
            else:
                open_nodes += node.values()
        elif isinstance(node, list):
            if len(node) >= 3 and isinstance(node[0], str) and isinstance(node[1], int):
                found.append(node[0])
            else:
                open_nodes += node
    return found


def _recurrent_shapes(part, units, features, keras_2):
    G = _convert.RECURRENT[part.kind]
    shapes = [("kernel", (features, G * units)), ("recurrent_kernel", (units, G * units))]
    if part.config.get("use_bias", True):
        two = part.kind == "GRU" and _convert.resets_after(part.config, keras_2)
        shapes.append(("bias", (2, G * units) if two else (G * units,)))
    return shapes


def _inside(name, config):
    """(kind, config) of the layer in a Bidirectional, whose two directions must have the same settings."""
    pair = [config.get("layer"), config.get("backward_layer")]
    for entry in pair[: 1 if pair[1] is None else 2]:
        known = (
            isinstance(entry, dict)
            and isinstance(entry.get("config"), dict)
            and isinstance(entry.get("class_name"), str)
        )
        if not known or entry["class_name"] not in _convert.RECURRENT:
            inside = entry.get("class_name") if isinstance(entry, dict) else entry
            raise NotImplementedError(f"layer {name!r}: a Bidirectional of {_schema.shown(inside)} is not supported")
        if entry.get("module") not in _PACKAGES:
            raise NotImplementedError(
                f"layer {name!r}: a Bidirectional of {entry['class_name']} of {entry['module']} is not supported"
            )
    forward, backward = pair
    for entry in pair[: 1 if backward is None else 2]:
        _schema.check_config(entry["class_name"], name, entry["config"])
    if forward["config"].get("go_backwards"):
        raise NotImplementedError(
            f"layer {name!r}: a Bidirectional whose forward layer goes backwards is not supported"
        )
    for key in ("units", "activation", "recurrent_activation", "use_bias", "reset_after"):
        if backward is not None and (
            backward["class_name"] != forward["class_name"] or backward["config"].get(key) != forward["config"].get(key)
        ):
            raise NotImplementedError(
                f"layer {name!r}: a Bidirectional whose two layers differ in their class or {key} is not supported"
            )
    if config.get("merge_mode", "concat") not in ("concat", "sum", "mul", "ave", None):
        raise ValueError(
            f"layer {name!r}: merge_mode {_schema.shown(config['merge_mode'])} is not one of concat, sum, mul, ave, "
            "None"
        )
    return forward["class_name"], forward["config"]


def _recurrent(part, keras_2):
    """Complete the Part of a recurrent layer; on entry, part.features is that of its input."""
    config = part.config
    if config.get("time_major"):
        raise NotImplementedError(f"layer {part.name!r}: time_major=True is not supported")
    if config.get("return_state"):
        raise NotImplementedError(f"layer {part.name!r}: return_state=True in a chain is not supported")
    try:
        _convert.options(part.kind, config, keras_2)
    except NotImplementedError as error:
        raise NotImplementedError(f"layer {part.name!r}: {error}") from None
    units = _size(part.name, config, "units")
    part.shapes = _recurrent_shapes(part, units, part.features, keras_2)
    if part.bidirectional:
        part.shapes = [
            (f"{side}/{name}", shape) for side in ("forward_layer", "backward_layer") for name, shape in part.shapes
        ]
        if part.merge_mode is None:
            raise NotImplementedError(
                f"layer {part.name!r}: merge_mode=None gives two outputs, which a chain cannot take"
            )
    part.features = units * (2 if part.bidirectional and part.merge_mode == "concat" else 1)


def parts(config, keras_2=False):
    """The layers of a chain as `Part` objects; the error for what is not supported names the layer."""
    found, features, sizes, names = [], None, (None, None), set()
    for kind, name, settings, build in _entries(config):
        if name in names:
            raise ValueError(f"there are two layers named {name!r}: names of layers must be unique")
        names.add(name)
        shape = settings.get("batch_shape") or settings.get("batch_input_shape") or build.get("input_shape")
        if features is None and isinstance(shape, list) and len(shape) > 1:
            features, sizes = shape[-1], (*shape, None)[:2]
        if kind == "InputLayer" or kind in _IDENTITIES:
            continue
        part = Part(name, kind, settings, dtype=_dtype(name, settings), sizes=sizes)
        if kind == "Embedding":
            V, E = _size(name, settings, "input_dim"), _size(name, settings, "output_dim")
            part.shapes, features = [("embeddings", (V, E))], E
        elif kind != "Masking":
            if kind == "Bidirectional":
                part.kind, part.config = _inside(name, settings)
                part.bidirectional, part.merge_mode = True, settings.get("merge_mode", "concat")
            if type(features) is not int or not 0 < features < MOST:
                raise ValueError(
                    f"layer {name!r}: its number of input features is {_schema.shown(features)}: the config must "
                    "contain it, by an Input or a built model"
                )
            part.features = features
            if kind == "Dense":
                _dense(part, keras_2)
            else:
                _recurrent(part, keras_2)
            features = part.features
        found.append(part)
    if not any(part.shapes for part in found):
        raise ValueError("the config has no layer with weights")
    return found


def _dense(part, keras_2):
    if part.config.get("activation") not in ("softmax", None):
        try:
            _convert.activation(part.config["activation"], keras_2)
        except NotImplementedError as error:
            raise NotImplementedError(f"layer {part.name!r}: {error}") from None
    units = _size(part.name, part.config, "units")
    part.shapes = [("kernel", (part.features, units))] + (
        [("bias", (units,))] if part.config.get("use_bias", True) else []
    )
    part.features = units


def snake(name):
    """The name of a class as Keras writes it in weights files: lstm for LSTM, simple_rnn for SimpleRNN."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()

"""What a config of Keras may contain: keys, types and ranges."""

from __future__ import annotations

import math

from fastrnn._files.schema import shown

MOST = 1 << 31  # sizes in a config are less than this
LONGEST_NAME = 1000
MOST_LAYERS = 10_000


def _size(value):
    return None if type(value) is int and 0 < value < MOST else f"it must be an int from 1 to {MOST - 1}"


def _flag(value):
    return None if isinstance(value, bool) else "it must be true or false"


def _number(value):
    fits = type(value) in (int, float) and math.isfinite(float(value) if abs(value) < 1 << 1000 else math.inf)
    return None if fits else "it must be a finite number"


def _text(value):
    return None if isinstance(value, str) and 0 < len(value) <= LONGEST_NAME else "it must be a non-empty string"


def _shape(value):
    fits = isinstance(value, list) and all(n is None or (type(n) is int and 0 <= n < MOST) for n in value)
    return None if fits else f"it must be a list of sizes from 0 to {MOST - 1}, or null"


# Settings of every layer
_COMMON = {"name": _text, "batch_shape": _shape, "batch_input_shape": _shape}
_OWN = {
    "Embedding": {"input_dim": _size, "output_dim": _size, "mask_zero": _flag},
    "Masking": {"mask_value": _number},
    "Dense": {"units": _size, "use_bias": _flag},
}
_RECURRENT = {
    "units": _size,
    **dict.fromkeys(
        (
            "use_bias",
            "return_sequences",
            "return_state",
            "go_backwards",
            "time_major",
            "zero_output_for_mask",
            "reset_after",
        ),
        _flag,
    ),
}
_KNOWN = {  # other known settings: checked where they are read, or without effect on inference
    "trainable", "dtype", "activation", "recurrent_activation", "merge_mode", "layer", "backward_layer", "weights",
    "ragged", "sparse", "optional", "seed", "rate", "noise_shape", "stddev", "l1", "l2", "stateful", "unroll",
    "unit_forget_bias", "dropout", "recurrent_dropout", "implementation", "input_length", "input_shape", "input_dtype",
    "shared_object_id", "quantization_config", "supports_masking", "use_cudnn", "units", "input_dim", "output_dim",
    "use_bias", "inner_init", "init", "forget_bias_init", "inner_activation", "consume_less", "W_regularizer",
    "U_regularizer", "b_regularizer", "dropout_W", "dropout_U",
    *(f"{what}_{kind}" for what in ("kernel", "recurrent", "bias", "activity", "embeddings")
      for kind in ("initializer", "regularizer", "constraint")),
}  # fmt: skip
_RENAMED = {
    "inner_activation",
    "init",
    "inner_init",
    "forget_bias_init",
    "consume_less",
    "dropout_W",
    "dropout_U",
}  # Keras 1


def check_config(kind, name, config):
    """Check the types and ranges of a layer's settings, and that all settings with an effect are known.

    Raises
    ------
    ValueError
        If a value has the wrong type or is out of range. The message names the layer and the key.
    NotImplementedError
        If an unknown key is set, to anything but null, false, 0 or an empty value.
    """
    own = _OWN.get(kind, _RECURRENT if kind in ("SimpleRNN", "GRU", "LSTM") else {})
    for key, value in config.items():
        check = own.get(key) or _COMMON.get(key)
        wrong = None if check is None or (value is None and key in _COMMON) else check(value)
        if wrong:
            raise ValueError(f"layer {name!r}: {key} is {shown(value)}, {wrong}")
        if key in _RENAMED and value is not None:
            raise NotImplementedError(
                f"layer {name!r} has the setting {key}, of Keras 1: save the model with Keras 2 or 3"
            )
        if check is None and key not in _KNOWN and value not in (None, False, 0, "", [], {}):
            raise NotImplementedError(
                f"layer {name!r} has the setting {key[:80]!r}, {shown(value)}, which is unknown and would be ignored"
            )


def check_entry(entry):
    """Check the form of an entry in a model's list of layers; returns the name of the layer."""
    if not isinstance(entry, dict) or not isinstance(entry.get("config"), dict):
        raise ValueError("a layer in the config is not an object with a config of its own")
    name = entry["config"].get("name") or entry.get("name")
    for key, value, types in (
        ("name", name, str), ("class_name", entry.get("class_name"), str),
        ("module", entry.get("module", ""), (str, type(None))),
        ("build_config", entry.get("build_config"), (dict, type(None))),
        ("inbound_nodes", entry.get("inbound_nodes"), (list, type(None))),
    ):  # fmt: skip
        if not isinstance(value, types):
            raise ValueError(f"layer {shown(name)}: {key} is {shown(value)}, which Keras does not write")
    if len(name) > LONGEST_NAME:
        raise ValueError(
            f"the layer {name[:80]!r}… has a name of {len(name)} characters; at most {LONGEST_NAME} are read"
        )
    return name

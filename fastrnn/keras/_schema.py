"""What a config of Keras may hold, in one place: keys, types and ranges. Knows no files and no arrays."""

from __future__ import annotations

import math

from fastrnn._files.schema import shown

MOST = 1 << 31  # of a size in a config
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
    return None if isinstance(value, str) and 0 < len(value) <= LONGEST_NAME else "it must be a text that is not empty"


def _shape(value):
    fits = isinstance(value, list) and all(n is None or (type(n) is int and 0 <= n < MOST) for n in value)
    return None if fits else f"it must be a list of sizes from 0 to {MOST - 1}, or null"


# Of every layer
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
_READ = {  # beside those: read where they count, or of no effect on what the layer computes here
    "trainable", "dtype", "activation", "recurrent_activation", "merge_mode", "layer", "backward_layer", "weights", "ragged",
    "sparse", "optional", "seed", "rate", "noise_shape", "stddev", "l1", "l2", "stateful", "unroll", "unit_forget_bias",
    "dropout", "recurrent_dropout", "implementation", "input_length", "input_shape", "input_dtype", "shared_object_id",
    "quantization_config", "supports_masking", "use_cudnn", "units", "input_dim", "output_dim", "use_bias", "inner_init", "init",
    "forget_bias_init", "inner_activation", "consume_less", "W_regularizer", "U_regularizer", "b_regularizer", "dropout_W", "dropout_U",
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
    """Refuse settings of a layer whose type or range is wrong, or that are not known here.

    Raises
    ------
    ValueError           a value is of the wrong type or beyond its range; the message names the layer and the key.
    NotImplementedError  an unknown key is set, to something other than null, false, 0 or empty.
    """
    own = _OWN.get(kind, _RECURRENT if kind in ("SimpleRNN", "GRU", "LSTM") else {})
    for key, value in config.items():
        check = own.get(key) or _COMMON.get(key)
        wrong = None if check is None or (value is None and key in _COMMON) else check(value)
        if wrong:
            raise ValueError(f"layer {name!r}: {key} is {shown(value)}, {wrong}")
        if key in _RENAMED and value is not None:
            raise NotImplementedError(
                f"layer {name!r} has the setting {key}, of Keras 1: save the model by Keras 2 or 3"
            )
        if check is None and key not in _READ and value not in (None, False, 0, "", [], {}):
            raise NotImplementedError(
                f"layer {name!r} has the setting {key[:80]!r}, {shown(value)}, which is not known here, so that it would be left out"
            )


def check_entry(entry):
    """The name of a layer, whose entry in a model's list of layers has the form that Keras writes."""
    if not isinstance(entry, dict) or not isinstance(entry.get("config"), dict):
        raise ValueError("a layer of the config is no object with a config of its own")
    name = entry["config"].get("name") or entry.get("name")
    for key, value, types in (
        ("name", name, str), ("class_name", entry.get("class_name"), str), ("module", entry.get("module", ""), (str, type(None))),
        ("build_config", entry.get("build_config"), (dict, type(None))), ("inbound_nodes", entry.get("inbound_nodes"), (list, type(None))),
    ):  # fmt: skip
        if not isinstance(value, types):
            raise ValueError(f"layer {shown(name)}: {key} is {shown(value)}, which Keras does not write")
    if len(name) > LONGEST_NAME:
        raise ValueError(
            f"the layer {name[:80]!r}… has a name of {len(name)} characters; at most {LONGEST_NAME} are read"
        )
    return name

"""Small files of torch, safetensors, ONNX and Keras, created without these libraries where possible."""

import io
import json
import pickle
import struct
import zipfile

import numpy as np

F = np.float32


def numbers(shape, dtype=F, seed=0):
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) / 2).astype(dtype)


# --- torch -----------------------------------------------------------------------

STATE_DICT = {
    "embedding.weight": (5, 3), "rnn.weight_ih_l0": (16, 3), "rnn.weight_hh_l0": (16, 4), "rnn.bias_ih_l0": (16,),
    "rnn.bias_hh_l0": (16,), "out.weight": (5, 4), "out.bias": (5,),
}  # fmt: skip


def state_dict():
    return {name: numbers(shape) for name, shape in STATE_DICT.items()}


class Named:
    """What a pickle writes as the import of a name, which need not exist."""

    def __init__(self, name):
        self.name = name


class Call:
    """What a pickle writes as a call of a name."""

    def __init__(self, name, *arguments):
        self.name, self.arguments = name, arguments


class Storage:
    """What torch writes as a persistent id."""

    def __init__(self, kind, key, numel, where="cpu"):
        self.id = ("storage", Named(f"torch.{kind}"), key, where, numel)


class Stored:
    """A stored object, once it is written: a list that `Pickle` fills."""


def pickled(value):
    """A pickle of protocol 2, as written by torch, of dicts, lists, tuples, strings, numbers and the classes above."""
    out = io.BytesIO()
    out.write(b"\x80\x02")
    _write(out, value)
    out.write(b".")
    return out.getvalue()


def _write(out, value):
    if isinstance(value, Named):
        module, _, name = value.name.rpartition(".")
        out.write(b"c" + module.encode() + b"\n" + name.encode() + b"\n")
    elif isinstance(value, Call):
        _write(out, Named(value.name))
        _write(out, value.arguments)
        out.write(b"R")
    elif isinstance(value, Storage):
        _write(out, value.id)
        out.write(b"Q")
    elif isinstance(value, (dict, list, tuple)):
        parts = [part for pair in value.items() for part in pair] if isinstance(value, dict) else value
        out.write({dict: b"}(", list: b"](", tuple: b"("}[type(value)])
        for part in parts:
            _write(out, part)
        out.write({dict: b"u", list: b"e", tuple: b"t"}[type(value)])
    elif isinstance(value, bytes):
        out.write(value)  # instructions
    else:
        out.write(
            pickle.dumps(value, 2)[2:-1]
            if not isinstance(value, str)
            else b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        )


def tensor(kind, key, numel, shape, strides=None, offset=0, rebuild="torch._utils._rebuild_tensor_v2"):
    """The pickled form of a tensor."""
    if strides is None:
        strides = tuple(int(np.prod(shape[k + 1 :])) for k in range(len(shape)))
    return Call(
        rebuild, Storage(kind, key, numel), offset, tuple(shape), tuple(strides), False, Call("collections.OrderedDict")
    )


def torch_parts(arrays=None):
    """Return ({name: pickled tensor}, {member: bytes}) of a state_dict."""
    found, members = {}, {}
    for k, (name, a) in enumerate((arrays or state_dict()).items()):
        found[name] = tensor("DoubleStorage" if a.dtype == np.float64 else "FloatStorage", str(k), a.size, a.shape)
        members[f"data/{k}"] = a.tobytes()
    return found, members


def torch_file(found, members, order=b"little", top="archive"):
    """Return the bytes of a file in the format of torch.save."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(f"{top}/data.pkl", found if isinstance(found, bytes) else pickled(found))
        archive.writestr(f"{top}/byteorder", order)
        for name, data in members.items():
            archive.writestr(f"{top}/{name}", data)
        archive.writestr(f"{top}/version", b"3\n")
    return out.getvalue()


def torch_bytes():
    return torch_file(*torch_parts())


# --- safetensors -----------------------------------------------------------------


def safetensors_parts():
    """Return (header as an object, the bytes after it)."""
    header, data = {}, b""
    for name, a in sorted(state_dict().items()):
        header[name] = {"dtype": "F32", "shape": list(a.shape), "data_offsets": [len(data), len(data) + a.nbytes]}
        data += a.tobytes()
    header["__metadata__"] = {"fastrnn.order": json.dumps(list(STATE_DICT))}
    return header, data


def safetensors_file(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def safetensors_bytes():
    return safetensors_file(*safetensors_parts())


# --- Keras -----------------------------------------------------------------------


def keras_config():
    """Return an Embedding, a bidirectional GRU, an LSTM and a Dense in Keras 3's format."""

    def layer(kind, name, **settings):
        config = {"name": name, "trainable": True, "dtype": "float32"} | settings
        return {
            "module": "keras.layers",
            "class_name": kind,
            "config": config,
            "registered_name": None,
            "build_config": {},
        }

    gru = {
        "units": 3,
        "activation": "tanh",
        "recurrent_activation": "sigmoid",
        "use_bias": True,
        "return_sequences": True,
        "reset_after": True,
    }
    lstm = {
        "units": 4,
        "activation": "tanh",
        "recurrent_activation": "sigmoid",
        "use_bias": True,
        "return_sequences": False,
        "seed": None,
    }
    layers = [
        layer("InputLayer", "input", batch_shape=[None, None]),
        layer("Embedding", "embedding", input_dim=5, output_dim=2, mask_zero=True),
        layer(
            "Bidirectional", "both", merge_mode="concat", layer=layer("GRU", "forward_gru", **gru),
            backward_layer=layer("GRU", "backward_gru", **gru, go_backwards=True),
        ),
        layer("LSTM", "lstm", **lstm),
        layer("Dense", "dense", units=2, activation="softmax", use_bias=True),
    ]  # fmt: skip
    return {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "sequential", "layers": layers},
        "registered_name": None,
    }


def _both(inside):
    gru = [(2, 9), (3, 9), (2, 9)]
    return {f"{side}/{inside}{k}": shape for side in ("forward_layer", "backward_layer") for k, shape in enumerate(gru)}


KERAS_3 = {
    "layers/embedding/vars/0": (5, 2),
    **{f"layers/bidirectional/{name}": shape for name, shape in _both("cell/vars/").items()},
    **{f"layers/lstm/cell/vars/{k}": shape for k, shape in enumerate([(6, 16), (4, 16), (16,)])},
    "layers/dense/vars/0": (4, 2), "layers/dense/vars/1": (2,),
}  # fmt: skip


def keras_zip(config, weights, metadata='{"keras_version": "3.15.1"}', compression=zipfile.ZIP_STORED):
    """Return the bytes of a .keras file; config: an object or text."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        archive.writestr("metadata.json", metadata)
        archive.writestr("config.json", config if isinstance(config, (str, bytes)) else json.dumps(config))
        archive.writestr("model.weights.h5", weights)
    return out.getvalue()


def keras_weights(change=lambda file: None):
    import h5py

    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for name, shape in KERAS_3.items():
            file[name] = numbers(shape)
        change(file)
    return out.getvalue()


def keras_bytes():
    return keras_zip(keras_config(), keras_weights())


# Names of the weights in a whole model in HDF5, by layer
_H5 = {
    "embedding": {"embeddings": (5, 2)},
    "both": {
        f"{side}_gru/{name}": shape
        for side in ("forward", "backward")
        for name, shape in (("kernel", (2, 9)), ("recurrent_kernel", (3, 9)), ("bias", (2, 9)))
    },
    "lstm": {"kernel": (6, 16), "recurrent_kernel": (4, 16), "bias": (16,)},
    "dense": {"kernel": (4, 2), "bias": (2,)},
}


def h5_bytes(change=lambda file: None, config=None):
    """Write a whole model in HDF5."""
    import h5py

    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        file.attrs["keras_version"] = "3.15.1"
        file.attrs["model_config"] = json.dumps(keras_config()) if config is None else config
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in _H5]
        for layer, weights in _H5.items():
            inside = group.create_group(layer)
            inside.attrs["weight_names"] = [name.encode() for name in weights]
            for name, shape in weights.items():
                inside[name] = numbers(shape)
        change(file)
    return out.getvalue()


# --- ONNX ------------------------------------------------------------------------


def onnx_model():
    """Return a bidirectional GRU and an LSTM, with lengths and states."""
    import fastrnn.onnx
    from fastrnn import GRU, LSTM, Stacked

    return fastrnn.onnx.export(Stacked([GRU(2, 3, bidirectional=True, seed=0), LSTM(6, 4, seed=0)]), verify=False)


def onnx_bytes():
    return onnx_model().SerializeToString()

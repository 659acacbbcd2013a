"""Structural changes of a file, drawn at random, which random bytes would not produce."""

import copy
import json

import foreign_files as files

HUGE = (1 << 31, (1 << 31) - 1, 1 << 40, (1 << 62) + 1, 10**8, 10**12, -1, 0, 1 << 63)
ODD = (
    None,
    True,
    False,
    0,
    -1,
    1,
    1.5,
    1e300,
    float("nan"),
    float("inf"),
    10**30,
    "",
    "x",
    "../x",
    "\x00",
    "é\ud800",
    [],
    {},
    [[]],
    [None],
    {"a": {}},
    "float16",
    "x" * 5000,
    1 << 62,
)


def pick(rng, values):
    return values[int(rng.integers(len(values)))]


# --- bytes -----------------------------------------------------------------------


def flipped(data, rng):
    """Flip a few bits, truncate the file, or delete, duplicate or move a piece."""
    data, way = bytearray(data), int(rng.integers(5))
    if way == 0:
        del data[int(rng.integers(len(data))) :]
    elif way in (1, 2):
        for _ in range(int(rng.integers(1, 9))):
            data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    else:
        start = int(rng.integers(len(data)))
        piece = data[start : start + int(rng.integers(1, 64))]
        if way == 3:
            del data[start : start + len(piece)]
        at = int(rng.integers(len(data) + 1))
        data[at:at] = piece
    return bytes(data)


# --- torch -----------------------------------------------------------------------

_KINDS = (
    "FloatStorage",
    "DoubleStorage",
    "HalfStorage",
    "BFloat16Storage",
    "LongStorage",
    "QInt8Storage",
    "UntypedStorage",
    "NoSuchStorage",
)
_CALLS = (
    "torch._utils._rebuild_sparse_tensor",
    "torch._utils._rebuild_meta_tensor_no_storage",
    "torch._utils._rebuild_qtensor",
    "torch._utils._rebuild_parameter",
    "collections.OrderedDict",
    "builtins.bytearray",
    "torch.Tensor",
    "os.system",
    "torch._utils._rebuild_tensor",
    "torch._tensor._rebuild_from_type_v2",
)


def torch_mutant(rng):
    found, members = files.torch_parts()
    for _ in range(pick(rng, (1, 1, 1, 2, 3))):
        name = pick(rng, list(found))
        if isinstance(found[name], files.Call) and len(found[name].arguments) > 3:
            found[name] = _torch_tensor(found[name], rng)
        if members and rng.random() < 0.15:
            _torch_member(members, rng)
        if rng.random() < 0.1:
            found[pick(rng, (name + ".x", "", "rnn.weight_ih_l999999999999", "a" * 3000, "rnn.weight_hh_l1", "é"))] = (
                found[name]
            )
    if rng.random() < 0.1:
        data = files.pickled(found)
        return files.torch_file(flipped(data, rng), members)
    return files.torch_file(found, members, order=pick(rng, (*[b"little"] * 8, b"big", b"middle")))


def _torch_tensor(call, rng):
    """Return a tensor with a wrong description."""
    storage, offset, size, stride, *rest = call.arguments
    storage = copy.deepcopy(storage)
    what, name = int(rng.integers(8)), call.name
    if what == 0 and size:
        size = list(size)
        size[int(rng.integers(len(size)))] = pick(rng, HUGE)
        size = tuple(size)
    elif what == 1:
        stride = tuple(pick(rng, (0, 1, 1, 1, 2, -1, 1 << 40)) for _ in stride)
    elif what == 2:
        offset = pick(rng, (*HUGE, 1.5, None, ()))
    elif what == 3 and isinstance(storage, files.Storage):
        storage.id = (*storage.id[:4], pick(rng, HUGE))
    elif what == 4 and isinstance(storage, files.Storage):
        storage.id = (
            pick(rng, ("storage", "x", 3)),
            files.Named("torch." + pick(rng, _KINDS)),
            pick(rng, ("0", "1", "99", "../0", 5)),
            *storage.id[3:],
        )
    elif what == 5:
        name = pick(rng, _CALLS)
    elif what == 6:
        size, stride = (10**5, 10**5), (0, 0)
    else:
        return pick(
            rng,
            (
                files.Call("builtins.bytearray", 10**11),
                files.Call("torch.Tensor", 10**5, 10**5),
                3,
                None,
                {},
                [],
                "x",
                files.Named("torch.float32"),
                b"}}}}}",
                b")" * 50 + b"t",
                b"(((((",
                b"\x85" * 3,
            ),
        )
    return files.Call(name, storage, offset, size, stride, *rest)


def _torch_member(members, rng):
    name = pick(rng, list(members))
    way = int(rng.integers(4))
    if way == 0:
        del members[name]
    elif way == 1:
        members[name] = members[name][: int(rng.integers(len(members[name]) + 1))]
    elif way == 2:
        members[name] += bytes(int(rng.integers(1, 40)))
    else:
        members["data/" + pick(rng, ("x", "", "0/1", "é"))] = b"x"


# --- safetensors -----------------------------------------------------------------


def safetensors_mutant(rng):
    header, data = files.safetensors_parts()
    for _ in range(int(rng.integers(1, 3))):
        name = pick(rng, [n for n in header if n != "__metadata__"])
        entry = header[name]
        way = int(rng.integers(9))
        if way == 0:
            entry["dtype"] = pick(rng, ("F64", "F16", "BF16", "I64", "F8_E4M3", "U8", "BOOL", "X", 3, None, "F4"))
        elif way == 1:
            entry["shape"] = pick(
                rng, ([1 << 40, 1 << 40], [1 << 62, 4], [-1], [], "x", [1.5], None, [0, 1 << 60], [1] * 1000)
            )
        elif way == 2:
            entry["data_offsets"] = pick(
                rng, ([0, 1 << 60], [5, 3], [-1, 4], [0], "x", None, [0, 4], [1 << 63, 1 << 64])
            )
        elif way == 3:
            header["__metadata__"] = pick(
                rng,
                (
                    {"a": 3},
                    {"x": name},
                    {f"t{k}": name for k in range(5000)},
                    [],
                    None,
                    {"fastrnn.order": "[" * 5000},
                    {"fastrnn.order": "[3]"},
                    {"fastrnn.order": '["a", "a"]'},
                ),
            )
        elif way == 4:
            header[pick(rng, ("", "x", "é", "a.b.c", "rnn.weight_ih_l7"))] = entry
        elif way == 5:
            del header[name]
            return files.safetensors_file(header, data)
        elif way == 6:
            entry[pick(rng, ("more", "dtype"))] = pick(rng, ODD[:8])
        elif way == 7:
            data = data[: int(rng.integers(len(data)))]
        else:
            text = pick(
                rng, (b"{" * 5000, b'{"a":' * 3000, b"[]", b"{}", b'{"__metadata__":{}}', b'{"a":1e999}', b"\xff\xfe")
            )
            return files.safetensors_file(text, data)
    return files.safetensors_file(header, data)


# --- Keras -----------------------------------------------------------------------


def json_mutant(value, rng):
    """Return a JSON object with one value changed, deleted or moved."""
    value = copy.deepcopy(value)
    places = list(_places(value))
    where, key = pick(rng, places)
    way = int(rng.integers(5))
    if way == 0:
        del where[key]
    elif way == 1:
        where[key] = copy.deepcopy(pick(rng, places)[0])
    elif way == 2 and isinstance(where, dict):
        where[
            pick(
                rng,
                (
                    "units",
                    "name",
                    "class_name",
                    "go_backwards",
                    "activation",
                    "dtype",
                    "module",
                    "x",
                    "backward_layer",
                    "config",
                ),
            )
        ] = pick(rng, ODD)
    elif way == 3:
        where[key] = pick(rng, HUGE)
    else:
        where[key] = copy.deepcopy(pick(rng, ODD))
    return value


def _places(value):
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from _places(value[key])


def config_mutant(rng):
    """Return a config with values of wrong types and sizes, or invalid JSON."""
    config = files.keras_config()
    for _ in range(int(rng.integers(1, 4))):
        if isinstance(config, dict) and config:
            config = json_mutant(config, rng)
    text = json.dumps(config)
    if rng.random() < 0.15:
        text = pick(
            rng,
            (
                text.replace('"units"', '"units": 3, "units"'),
                text.replace("true", "NaN"),
                text[:-5],
                '{"a":' * 3000 + "1" + "}" * 3000,
                "[]",
                "3",
                text.replace("4", "9" * 5000),
                text.replace("layers", "\\ud800"),
            ),
        )
    return text


def hdf5_change(rng, places):
    """Change an open HDF5 file: a dataset, group or link that Keras does not write."""
    import h5py

    place = pick(rng, places)
    way = int(rng.integers(12))

    def change(file):
        shape = file[place].shape
        if way > 1:
            del file[place]
        if way == 0:
            file.attrs[pick(rng, ("model_config", "keras_version", "x"))] = pick(
                rng, (3, 1.5, b"\xff", "3", "[]", [1, 2], "9" * 50, h5py.Empty("f"))
            )
        elif way == 1:
            group = file[place.split("/")[0]]
            group.attrs["weight_names"] = pick(rng, (3, "x", [b"a"], b"", h5py.Empty("S3"), [1.5]))
        elif way == 2:
            file.create_dataset(place, (1 << 20, 1 << 20), "float32", chunks=(64, 64))
        elif way == 3:
            file.create_dataset(place, shape, "float32", chunks=shape, compression="gzip")
        elif way == 4:
            layout = h5py.VirtualLayout(shape, "float32")
            file.create_virtual_dataset(place, layout, fillvalue=1)
        elif way == 5:
            file.create_dataset(place, shape, "float32", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])
        elif way == 6:
            file[place] = h5py.SoftLink(pick(rng, ("/", "/" + place, "/x")))
        elif way == 7:
            file[place] = h5py.ExternalLink("/etc/passwd", "/")
        elif way == 8:
            file.create_group(place)["self"] = file["/"]
        elif way == 9:
            file.create_dataset(
                place,
                pick(rng, ((), (0,), (1, 1, 1), (1 << 40,), shape[::-1])),
                pick(rng, ("f8", "i4", "S3", "f2", "c8")),
            )
        elif way == 10:
            file.create_dataset(place, (3,), h5py.string_dtype())
        else:
            file.create_dataset(place, shape, "float32")  # never written: only its fill value

    return change


def keras_mutant(rng):
    if rng.random() < 0.6:
        return files.keras_zip(config_mutant(rng), files.keras_weights())
    if rng.random() < 0.2:
        meta = pick(
            rng,
            (
                "{}",
                "[]",
                '{"keras_version": 3}',
                '{"keras_version": "²"}',
                '{"keras_version": "' + "9" * 5000 + '"}',
                "\xff",
                "{" * 9000,
            ),
        )
        return files.keras_zip(files.keras_config(), files.keras_weights(), meta)
    if rng.random() < 0.4:
        return files.keras_zip(files.keras_config(), flipped(files.keras_weights(), rng))
    return files.keras_zip(files.keras_config(), files.keras_weights(hdf5_change(rng, list(files.KERAS_3))))


def h5_mutant(rng):
    if rng.random() < 0.5:
        return files.h5_bytes(config=config_mutant(rng).replace("\\u0000", "x"))
    places = [
        "model_weights/lstm/kernel",
        "model_weights/dense/bias",
        "model_weights/both/forward_gru/bias",
        "model_weights/embedding/embeddings",
    ]
    return files.h5_bytes(hdf5_change(rng, places))


# --- ONNX ------------------------------------------------------------------------


def onnx_mutant(rng, model):
    """Return a ModelProto with some fields of some of its messages changed."""
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    for _ in range(int(rng.integers(1, 4))):
        messages = list(_messages(made))
        _change_field(pick(rng, messages), rng, messages)
    return made


def _messages(message):
    yield message
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for inside in value if hasattr(value, "add") else [value]:
                yield from _messages(inside)


def _change_field(message, rng, messages):
    """Set, clear, duplicate or empty one field of a message."""
    import onnx

    descriptor = pick(rng, list(message.DESCRIPTOR.fields))
    current, repeated = getattr(message, descriptor.name), hasattr(getattr(message, descriptor.name), "extend")
    way = int(rng.integers(4))
    if way == 0:
        message.ClearField(descriptor.name)
    elif descriptor.message_type is not None:
        same = [m for m in messages if m.DESCRIPTOR is descriptor.message_type]
        if repeated and len(current) and way == 1:
            del current[int(rng.integers(len(current)))]
        elif repeated and same:
            current.add().CopyFrom(copy.deepcopy(pick(rng, same)))
        elif same:
            current.CopyFrom(copy.deepcopy(pick(rng, same)))
        else:
            current.add() if repeated else current.SetInParent()
    else:
        value = _scalar(descriptor, rng, onnx)
        if not repeated:
            setattr(message, descriptor.name, value)
        elif way == 1 and len(current):
            current[int(rng.integers(len(current)))] = value
        elif way == 2 and len(current):
            current.extend(list(current) * int(rng.integers(1, 4)))
        else:
            current.append(value)


def _scalar(descriptor, rng, onnx):
    names = (
        "", "x", "Loop", "If", "Scan", "Concat", "ConstantOfShape", "Expand", "Gather", "Identity", "LSTM", "GRU",
        "Constant", "Reshape", "Split", "com.x", "ai.onnx.ml", "é", "a" * 3000, "x\ny", "sequence_lens", "Y_0", "0.h_0",
    )  # fmt: skip
    kinds = {
        "string": lambda: pick(rng, names),
        "bytes": lambda: pick(rng, (b"", b"\xff", b"reverse", b"bidirectional", b"Relu", b"x" * 100)),
        "float": lambda: pick(rng, (0.0, -1.0, float("nan"), float("inf"), 1e30)),
        "double": lambda: pick(rng, (0.0, float("nan"), 1e300)),
        "int64": lambda: pick(rng, (*[h for h in HUGE if h < 1 << 63], 1, 2, 3, 7)),
        "uint64": lambda: pick(rng, (0, 1, (1 << 64) - 1)),
        "int32": lambda: pick(rng, (0, 1, 2, 7, 9, 10, 11, 16, 21, 22, 99, -1, (1 << 31) - 1)),
        "enum": lambda: pick(rng, [v.number for v in descriptor.enum_type.values]),
    }  # fmt: skip
    named = {
        descriptor.TYPE_STRING: "string",
        descriptor.TYPE_BYTES: "bytes",
        descriptor.TYPE_FLOAT: "float",
        descriptor.TYPE_DOUBLE: "double",
        descriptor.TYPE_INT64: "int64",
        descriptor.TYPE_UINT64: "uint64",
        descriptor.TYPE_INT32: "int32",
        descriptor.TYPE_ENUM: "enum",
    }
    return kinds[named[descriptor.type]]()


def mutant(kind, rng, model=None):
    """Return the bytes of a file of this kind with a change of its structure or, in one of four cases, of its bytes.

    model : the ModelProto to change if kind is "onnx"
    """
    if rng.random() < 0.25:
        data = model.SerializeToString() if kind == "onnx" else getattr(files, f"{kind}_bytes")()
        return flipped(data, rng)
    if kind == "onnx":
        return onnx_mutant(rng, model).SerializeToString()
    return {"torch": torch_mutant, "safetensors": safetensors_mutant, "keras": keras_mutant, "h5": h5_mutant}[kind](rng)

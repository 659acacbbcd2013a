"""Small files of other libraries that ask for much memory, time or depth, and the errors they cause."""

import io
import struct
import zipfile

import foreign_files as files
import numpy as np

MB = 1 << 20


def torch_with(**changed):
    """Return a torch file in which some tensors are replaced."""
    found, members = files.torch_parts()
    return files.torch_file(found | {name.replace("__", "."): value for name, value in changed.items()}, members)


def expanded():
    return torch_with(out__weight=files.tensor("FloatStorage", "6", 5, (10**5, 40000), (0, 0)))


def windows():
    """Return a tensor whose rows overlap, so that it has more elements than its storage."""
    return torch_with(out__weight=files.tensor("FloatStorage", "5", 20, (19, 19), (0, 1), 0))


def one_storage_many_names():
    found, members = files.torch_parts({"big.weight": files.numbers((300, 300))})
    return files.torch_file({f"layer{k}.weight": found["big.weight"] for k in range(2000)}, members)


def bytearray_of_100_gb():
    return torch_with(out__bias=files.Call("builtins.bytearray", 10**11))


def torch_tensor_of_40_gb():
    return torch_with(out__bias=files.Call("torch.Tensor", 10**5, 10**5))


def storage_beyond_its_part():
    return torch_with(out__bias=files.tensor("FloatStorage", "6", 10**9, (10**9,)))


def pickle_of_nested_tuples():
    """Return a key that is a tuple of tuples of …, each used twice: computing its hash or its repr would never end."""
    nested = b")" + b"".join(b"q" + bytes([k]) + b"h" + bytes([k]) + b"\x86" for k in range(200))
    return files.torch_file(b"\x80\x02}" + nested + b"K\x01s.", {})


def shape_of_nested_tuples():
    nested = b")" + b"".join(b"q" + bytes([k]) + b"h" + bytes([k]) + b"\x86" for k in range(200))
    return torch_with(
        out__bias=files.Call(
            "torch._utils._rebuild_tensor_v2", files.Storage("FloatStorage", "6", 5), 0, nested, (1,), False, {}
        )
    )


def keys_with_one_hash(code, pack):
    """Return the maximum number of keys of a pickle, whose hashes are the same in every process."""
    parts = b"".join(code + pack(k) + b"N" for k in range(1, 100_001))
    return files.torch_file(b"\x80\x02}(" + parts + b"u.", {})


def whole_keys_with_one_hash():
    return keys_with_one_hash(b"\x8a\x0c", lambda k: (k * (2**61 - 1)).to_bytes(12, "little"))


def pickle_of_empty_lists():
    return files.torch_file(b"\x80\x02" + b"]" * (MB // 2) + b".", {})


def hexed():
    """Return a string that is repeatedly encoded into one of twice its length."""
    call = b"c_codecs\nencode\n"
    text = b"X\x01\x00\x00\x00a"
    for _ in range(40):
        text = call + text + b"X\x03\x00\x00\x00hex\x86R"
    return files.torch_file(b"\x80\x02}X\x01\x00\x00\x00a" + text + b"s.", {})


def compressed_torch():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "archive/data.pkl", files.pickled({"out.weight": files.tensor("FloatStorage", "0", 4 * MB, (2048, 2048))})
        )
        archive.writestr("archive/data/0", bytes(16 * MB))
    return out.getvalue()


def safetensors_with(shape, offsets, metadata=None, data=bytes(64)):
    header = {"a.weight": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}
    return files.safetensors_file(header | ({} if metadata is None else {"__metadata__": metadata}), data)


def tied_many_times():
    return safetensors_with([512, 512], [0, MB], {f"a{k}.weight": "a.weight" for k in range(3000)}, bytes(MB))


def header_of_many_names():
    return files.safetensors_file(b'{"a":' + b"[" * (4 * MB), b"")


def config_with(change, metadata='{"keras_version": "3.15.1"}'):
    config = files.keras_config()
    change(config["config"]["layers"])
    return files.keras_zip(config, files.keras_weights(), metadata)


def units_of_a_million():
    return config_with(lambda layers: layers[3]["config"].update(units=10**6))


def layers_without_number():
    return config_with(lambda layers: layers.extend([layers[1]] * 12_000))


def config_bomb():
    return files.keras_zip(b"[" + b"[]," * (2 * MB) + b"[]]", files.keras_weights(), compression=zipfile.ZIP_DEFLATED)


def weights_bomb():
    """Return a file whose config asks for much memory, provided by a few kB of compressed zeros."""
    config = files.keras_config()
    config["config"]["layers"][3]["config"]["units"] = 1900
    config["config"]["layers"][4]["config"]["units"] = 1900
    return files.keras_zip(config, bytes(60 * MB), compression=zipfile.ZIP_DEFLATED)


def unwritten_dataset():
    def change(file):
        del file["layers/lstm/cell/vars/0"]
        file.create_dataset("layers/lstm/cell/vars/0", (6, 16), "float32", fillvalue=1)

    return files.keras_zip(files.keras_config(), files.keras_weights(change))


def virtual_dataset():
    import h5py

    def change(file):
        del file["layers/lstm/cell/vars/0"]
        file.create_virtual_dataset("layers/lstm/cell/vars/0", h5py.VirtualLayout((6, 16), "float32"), fillvalue=1)

    return files.keras_zip(files.keras_config(), files.keras_weights(change))


def chunks_of_zeros():
    def change(file):
        del file["model_weights/lstm/kernel"]
        file.create_dataset("model_weights/lstm/kernel", (10**5, 10**5), "float32", chunks=(10, 10), compression="gzip")

    return files.h5_bytes(change)


def names_that_are_an_attribute_of_numbers():
    return files.h5_bytes(lambda file: file["model_weights/lstm"].attrs.update({"weight_names": 3.5}))


def group_in_itself():
    def change(file):
        file["layers/lstm/self"] = file["layers"]

    return files.keras_zip(files.keras_config(), files.keras_weights(change))


def onnx_with(change):
    model = files.onnx_model()
    change(model)
    return model.SerializeToString()


def steps_of_100_million():
    return onnx_with(lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 10**8))


def node(op, inputs, outputs, **attributes):
    import onnx

    return onnx.helper.make_node(op, inputs, outputs, **attributes)


def constant(model, name, values):
    import onnx

    model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values), name))


def put_first(model, *nodes):
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *kept])


def constant_of_a_terabyte():
    def change(model):
        constant(model, "size", np.array([1 << 20, 1 << 18]))
        put_first(model, node("ConstantOfShape", ["size"], ["unused"]))

    return onnx_with(change)


def expanded_to_a_terabyte():
    def change(model):
        constant(model, "size", np.array([1 << 20, 1 << 18]))
        constant(model, "one", np.ones(1, "float32"))
        put_first(model, node("Expand", ["one", "size"], ["unused"]))

    return onnx_with(change)


def cast_from_bytes(to):
    """Return 20 million numbers of one byte, less than the limit, which become larger numbers."""

    import onnx

    def change(model):
        constant(model, "size", np.array([20_000_000]))
        constant(model, "one", np.ones(1, "int8"))
        cast = node("Cast", ["many"], ["unused"], to=onnx.TensorProto.DataType.Value(to))
        put_first(model, node("Expand", ["one", "size"], ["many"]), cast)

    return onnx_with(change)


def random_numbers_for_bytes():
    def change(model):
        constant(model, "size", np.array([20_000_000]))
        constant(model, "one", np.ones(1, "float16"))
        constant(model, "half", np.array(0.5, "float32"))
        constant(model, "yes", np.array(True))
        put_first(
            model, node("Expand", ["one", "size"], ["many"]), node("Dropout", ["many", "half", "yes"], ["unused"])
        )

    return onnx_with(change)


def text_tensor(length):
    import onnx

    return onnx.helper.make_tensor("text", onnx.TensorProto.STRING, [1], [b"a" * length])


def long_texts():
    def change(model):
        constant(model, "size", np.array([100_000]))
        put_first(model, node("ConstantOfShape", ["size"], ["unused"], value=text_tensor(1000)))

    return onnx_with(change)


def short_texts_beside_a_long_one():
    def change(model):
        constant(model, "size", np.array([500_000]))
        constant(model, "one", np.array([1]))
        short = node("ConstantOfShape", ["size"], ["short"], value=text_tensor(1))
        long = node("ConstantOfShape", ["one"], ["long"], value=text_tensor(250))
        put_first(model, short, long, node("Concat", ["short", "long"], ["unused"], axis=0))

    return onnx_with(change)


def doubled_forty_times():
    def change(model):
        constant(model, "v0", np.ones(1024, "float32"))
        put_first(model, *(node("Concat", [f"v{k}"] * 2, [f"v{k + 1}"], axis=0) for k in range(40)))

    return onnx_with(change)


def gathered_many_times():
    def change(model):
        constant(model, "v0", np.ones((1, 4096), "float32"))
        constant(model, "places", np.zeros(4096, "int64"))
        put_first(
            model,
            node("Gather", ["v0", "places"], ["v1"]),
            node("Gather", ["v1", "places"], ["v2"]),
            node("Concat", ["v2"] * 999, ["v3"], axis=0),
        )

    return onnx_with(change)


def one_long_string():
    import onnx

    def change(model):
        made = onnx.TensorProto(name="texts", data_type=onnx.TensorProto.STRING, dims=[20_001])
        made.string_data.extend([b"x" * 100_000, *[b""] * 20_000])
        model.graph.initializer.append(made)

    return onnx_with(change)


def graphs_inside_graphs(depth=1000):
    """Return the bytes of a graph whose node has an attribute with a graph whose …"""

    def field(number, data):
        size, varint = len(data), b""
        while size > 127:
            varint, size = varint + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + varint + bytes([size]) + data

    graph = b""
    for _ in range(depth):
        graph = field(1, field(5, field(6, graph)))
    return b"\x08\x08" + field(7, graph)


def functions_without_number():
    import onnx

    def change(model):
        model.opset_import.append(onnx.helper.make_opsetid("f", 1))
        for k in range(5000):
            model.functions.append(
                onnx.helper.make_function(
                    "f", f"f{k}", ["x"], ["y"], [node("Identity", ["x"], ["y"])], [onnx.helper.make_opsetid("", 14)]
                )
            )

    return onnx_with(change)


def sparse_initializer():
    import onnx

    values = onnx.numpy_helper.from_array(np.ones(1, "float32"), "sparse")
    indices = onnx.numpy_helper.from_array(np.zeros(1, "int64"), "places")
    return onnx_with(
        lambda model: model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [1 << 40]))
    )


SMALL = {  # name: (kind, file, words of the error)
    "a tensor of stride 0 of 15 GB": ("torch", expanded, "out.weight .*repeats them"),
    "rows that overlap": ("torch", windows, "out.weight .*repeats them"),
    "one storage with 2,000 names": ("torch", one_storage_many_names, "take .*at most 4 times"),
    "a bytearray of 100 GB": ("torch", bytearray_of_100_gb, "holds a dict of"),
    "a torch.Tensor of 40 GB": ("torch", torch_tensor_of_40_gb, "out.bias is a tensor made by torch.Tensor"),
    "a storage beyond its part of the file": (
        "torch",
        storage_beyond_its_part,
        "out.bias is in a storage of 4000000000 bytes, but data/6 has 20",
    ),
    "a key without end": ("torch", pickle_of_nested_tuples, "a key of type tuple"),
    "a shape without end": ("torch", shape_of_nested_tuples, "of its tensors"),
    "keys whose hashes are the same": ("torch", whole_keys_with_one_hash, "holds a dict of 2305843009213693951, "),
    "a pickle of empty lists": ("torch", pickle_of_empty_lists, "more than 500000 instructions"),
    "a text that doubles": ("torch", hexed, "holds a dict of 'a'"),
    "a part that is compressed": ("torch", compressed_torch, "but its members have"),
    "a tensor of 2^62 numbers": ("safetensors", lambda: safetensors_with([1 << 31, 1 << 31], [0, 64]), "a.weight"),
    "offsets beyond the file": ("safetensors", lambda: safetensors_with([1 << 20, 4], [0, 1 << 24]), "damaged"),
    "a header of 2^40 bytes": ("safetensors", lambda: struct.pack("<Q", 1 << 40) + b"{" + bytes(64), "damaged"),
    "one tensor with 3,000 names": ("safetensors", tied_many_times, "take .*at most 4 times"),
    "a header that opens and never closes": ("safetensors", header_of_many_names, "damaged"),
    "a million units": ("keras", units_of_a_million, "the config needs .* bytes of weights"),
    "layers without number": ("keras", layers_without_number, "12005 layers"),
    "a config of 6 MB that is packed": ("keras", config_bomb, "config.json claims"),
    "weights of 60 MB that are packed": ("keras", weights_bomb, "model.weights.h5 claims"),
    "a dataset that was never written": (
        "keras",
        unwritten_dataset,
        "layers/lstm/cell/vars/0 claims 384 bytes, but there are 0",
    ),
    "a dataset of parts of others": ("keras", virtual_dataset, "compressed, virtual"),
    "a group that contains itself": ("keras", group_in_itself, "deeper|belong to no layer"),
    "a dataset of 40 GB of no chunks": ("h5", chunks_of_zeros, "model_weights/lstm/kernel has shape"),
    "names that are a number": (
        "h5",
        names_that_are_an_attribute_of_numbers,
        "'weight_names' of model_weights/lstm is .*must be text",
    ),
    "an input of 100 million steps": ("onnx", steps_of_100_million, "input .* has shape .*too large for a trial run"),
    "a constant of a terabyte": ("onnx", constant_of_a_terabyte, "ConstantOfShape.* makes"),
    "a number that is expanded": ("onnx", expanded_to_a_terabyte, "Expand.* makes"),
    "bytes that become numbers of 8 bytes": ("onnx", lambda: cast_from_bytes("DOUBLE"), "Cast.* makes"),
    "numbers that become texts": ("onnx", lambda: cast_from_bytes("STRING"), "Cast.* makes"),
    "a mask for 20 million numbers": ("onnx", random_numbers_for_bytes, "Dropout.* makes"),
    "a long text many times": ("onnx", long_texts, "ConstantOfShape.* makes"),
    "a long text beside short ones": ("onnx", short_texts_beside_a_long_one, "Concat.* makes"),
    "a value that doubles": ("onnx", doubled_forty_times, "Concat.* makes"),
    "a value that is gathered": ("onnx", gathered_many_times, "Concat.* makes|Gather.* makes"),
    "one long text among many": ("onnx", one_long_string, "take .*at most 4 times"),
    "graphs inside graphs": ("onnx", graphs_inside_graphs, "is damaged"),
    "functions without number": ("onnx", functions_without_number, "5000 functions"),
    "a sparse tensor": ("onnx", sparse_initializer, "'sparse' is sparse"),
}

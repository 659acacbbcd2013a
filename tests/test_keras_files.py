"""Keras files and live models as Networks, and back: real models, every setting, errors, hostile files."""

import io
import itertools
import json
import pickle
import resource
import zipfile

import numpy as np
import pytest

import fastrnn

pytestmark = [
    pytest.mark.keras,
    # Keras 3.15 creates arrays of torch tensors in a way that NumPy 2 warns about, and warns about its own older
    # format.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning"),
]

B, T, V = 4, 7, 9


def trained(seed=0):
    """A BiLSTM in Keras with a little training: does an id above 5 occur?"""
    import keras

    keras.utils.clear_session()  # reset the counters of names
    keras.utils.set_random_seed(seed)
    L = keras.layers
    model = keras.Sequential([
        L.Input((None,), dtype="int32"),
        L.Embedding(V, 6, mask_zero=True),
        L.Bidirectional(L.LSTM(5, return_sequences=True)),
        L.Dropout(0.2),
        L.Bidirectional(L.GRU(4), merge_mode="sum"),
        L.Dense(3, activation="relu"),
        L.Dense(2, activation="softmax"),
    ])  # fmt: skip
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    x = ids(64, seed)
    model.fit(x, (x > 5).any(1).astype("int32"), epochs=3, batch_size=16, verbose=0)
    return model


def ids(rows=B, seed=1):
    rng = np.random.default_rng(seed)
    x = rng.integers(1, V, (rows, T))
    x[rng.random((rows, T)) < 0.2] = 0  # gaps
    x[0, :3] = 0  # left padding
    return x


def agree(net, model, x, tolerance=1e-5):
    np.testing.assert_allclose(net(x)[0], model.predict(x, verbose=0), rtol=tolerance, atol=tolerance)


def save(model, path):
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        model.save(path)
    return path


# --- whole models ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["m.keras", "m.h5", "m.weights.h5", "live"])
def test_a_trained_bidirectional_lstm_is_converted_with_keras_results(tmp_path, name):
    import fastrnn.keras

    model = trained()
    if name == "live":
        net = fastrnn.keras.load(model)
    else:
        config = model.to_json() if name == "m.weights.h5" else None
        net = fastrnn.keras.load(save(model, tmp_path / name), config)
    agree(net, model, ids())
    assert [type(layer).__name__ for layer in net.layers.values()] == ["Embedding", "LSTM", "GRU", "Linear", "Linear"]
    net.save(tmp_path / "net")
    np.testing.assert_array_equal(fastrnn.Network.load(tmp_path / "net")(ids())[0], net(ids())[0])


def test_convert_reads_keras_files(tmp_path, run):
    model = trained()
    save(model, tmp_path / "m.keras"), save(model, tmp_path / "m.weights.h5")
    (tmp_path / "m.json").write_text(model.to_json())
    for name, more in (("m.keras", []), ("m.weights.h5", ["--config", tmp_path / "m.json"])):
        status, out, err = run("convert", tmp_path / name, tmp_path / f"{name}-net", *more)
        assert (status, err) == (0, "") and "agrees with a float64 reference" in out
        agree(fastrnn.Network.load(tmp_path / f"{name}-net"), model, ids())
    status, _, err = run("convert", tmp_path / "m.weights.h5", tmp_path / "new")
    assert status == 1 and "has weights but no config" in err and "--config" in err


SINGLE = [
    ("SimpleRNN", {}, "tanh"), ("SimpleRNN", {"go_backwards": True, "return_sequences": True}, "relu"),
    ("SimpleRNN", {"use_bias": False}, "linear"),
    ("GRU", {"reset_after": True, "return_sequences": True}, "tanh"),
    ("GRU", {"reset_after": False, "recurrent_activation": "hard_sigmoid"}, "tanh"),
    ("GRU", {"reset_after": False, "use_bias": False, "go_backwards": True}, "softsign"),
    ("LSTM", {"recurrent_activation": "hard_sigmoid", "return_sequences": True, "zero_output_for_mask": True}, "elu"),
    ("LSTM", {"go_backwards": True}, "leaky_relu"), ("LSTM", {"use_bias": False, "return_sequences": True}, "silu"),
]  # fmt: skip


@pytest.mark.parametrize(
    "dtype, kind, options, activation",
    [("float32", *one) for one in SINGLE] + [("float64", *one) for one in SINGLE[::3]],
)
def test_every_setting_of_a_layer_is_converted_after_a_masking(tmp_path, kind, options, activation, dtype):
    import keras

    import fastrnn.keras

    L = keras.layers
    layer = getattr(L, kind)(5, activation=activation, dtype=dtype, **options)
    model = keras.Sequential([L.Input((T, 3), dtype=dtype), L.Masking(-1.0, dtype=dtype), layer])
    rng = np.random.default_rng(0)
    model.set_weights([0.5 * rng.standard_normal(w.shape) for w in model.get_weights()])
    x = rng.standard_normal((B, T, 3)).astype(dtype)
    x[0, :2] = x[1, 3] = x[2, 5:] = -1
    # keras.ops.matmul of Keras 3.15 on torch multiplies float64 in float32
    for source in (model, save(model, tmp_path / "m.keras"), save(model, tmp_path / "m.h5")):
        agree(fastrnn.keras.load(source), model, x, 2e-5)


@pytest.mark.parametrize(
    "kind, merge, sequences",
    list(itertools.product(["SimpleRNN", "GRU", "LSTM"], ["concat", "sum", "mul", "ave"], [False, True])),
)
def test_every_merge_mode_is_converted(kind, merge, sequences):
    import keras

    import fastrnn.keras

    L = keras.layers
    model = keras.Sequential(
        [
            L.Input((T, 3)),
            L.Masking(),
            L.Bidirectional(getattr(L, kind)(5, return_sequences=sequences), merge_mode=merge),
        ]
    )
    x = np.random.default_rng(0).standard_normal((B, T, 3)).astype("float32")
    x[0, :2] = x[1, 3] = x[2, 5:] = 0
    agree(fastrnn.keras.load(model), model, x)


def test_hard_sigmoid_of_keras_2_is_another_function(tmp_path):
    """A file that states Keras 2 has slope 0.2, one of Keras 3 slope 1/6."""
    import h5py
    import keras

    import fastrnn.keras

    L = keras.layers
    model = keras.Sequential([L.Input((T, 3)), L.LSTM(5, recurrent_activation="hard_sigmoid")])
    path = save(model, tmp_path / "m.h5")
    assert fastrnn.keras.load(path).layers[model.layers[0].name].recurrent_activation == "hard_sigmoid"
    with h5py.File(path, "r+") as file:
        file.attrs["keras_version"] = "2.15.0"
    assert fastrnn.keras.load(path).layers[model.layers[0].name].recurrent_activation == ("hard_sigmoid", 0.2, 0.5)


# --- to Keras --------------------------------------------------------------------


@pytest.mark.parametrize("layer", [
    fastrnn.RNN(3, 4, nonlinearity="relu", seed=0), fastrnn.GRU(3, 4, seed=0),
    fastrnn.GRU(3, 4, reset_after=False, bias=False, seed=0), fastrnn.LSTM(3, 4, reverse=True, seed=0),
    fastrnn.LSTM(3, 4, bidirectional=True, activation=("leaky_relu", 0.2), dtype="float64", seed=0),
    fastrnn.Linear(3, 4, seed=0),
], ids=repr)  # fmt: skip
def test_a_layer_becomes_a_keras_layer_and_back(layer):
    import fastrnn.keras

    made = fastrnn.keras.to_keras(layer)
    x = np.random.default_rng(0).standard_normal((B, T, 3)).astype(layer.dtype)
    y = made(x).detach().numpy()
    if isinstance(layer, fastrnn.Linear):
        np.testing.assert_allclose(y, layer(x), rtol=1e-5, atol=1e-6)
    else:
        want = layer(x.transpose(1, 0, 2))[0].transpose(1, 0, 2)
        np.testing.assert_allclose(y[:, ::-1] if layer.reverse else y, want, rtol=1e-5, atol=2e-6)
    again = next(iter(fastrnn.keras.load(made).layers.values()))
    for name, p in again.params.items():
        if "bias" not in name or getattr(layer, "reset_after", False):
            np.testing.assert_array_equal(p, layer.params[name])
        elif name.startswith("bias_ih"):  # Keras has one bias
            np.testing.assert_array_equal(p, layer.params[name] + layer.params[name.replace("_ih", "_hh")])


@pytest.mark.parametrize("layer, words", [
    (fastrnn.LSTM(3, 4, 2), "no num_layers=2"), (fastrnn.LSTM(3, 4, peephole=True), "no peephole=True"),
     (fastrnn.GRU(3, 4, clip=1.0), "no clip=1.0"),
    (fastrnn.RNN(3, 4, nonlinearity="scaled_tanh"), "no name for the activation 'scaled_tanh'"), (fastrnn.Dropout(0.5),
     "Dropout can.t be converted"),
    (fastrnn.LSTM(3, 4, output_activation="relu"), "one activation for g and c"),
])  # fmt: skip
def test_what_keras_has_not_is_refused_by_name(layer, words):
    import fastrnn.keras

    with pytest.raises(NotImplementedError, match=words):
        fastrnn.keras.to_keras(layer)


def test_weights_of_another_shape_are_refused():
    import keras

    import fastrnn.keras

    layer = keras.layers.LSTM(5)
    layer.build((None, None, 3))
    with pytest.raises(ValueError, match=r"has weights of shapes \[\(3, 20\).*but those of the LSTM are \[\(3, 16\)"):
        fastrnn.keras.set_weights(layer, fastrnn.LSTM(3, 4))


# --- errors ----------------------------------------------------------------------


def edited(path, change):
    """Write the .keras file with changes: change(config dict, weights as an h5py.File)."""
    import h5py

    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config, weights = json.loads(parts["config.json"]), io.BytesIO(parts["model.weights.h5"])
    with h5py.File(weights, "r+") as file:
        change(config, file)
    parts |= {"config.json": json.dumps(config).encode(), "model.weights.h5": weights.getvalue()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


def layers_of(config):
    return config["config"]["layers"]


def put(file, place, array):
    del file[place]
    file[place] = array


LSTM_KERNEL = "layers/bidirectional/forward_layer/cell/vars/0"


def unlike(config, key, value):
    for side in ("layer", "backward_layer"):
        layers_of(config)[2]["config"][side]["config"][key] = value


def external(file):
    import h5py

    del file[LSTM_KERNEL]
    file[LSTM_KERNEL] = h5py.ExternalLink("/etc/passwd", "/x")


def huge(file):
    del file[LSTM_KERNEL]
    file.create_dataset(LSTM_KERNEL, (6, 20), "float32", chunks=(6, 20), compression="gzip")


CHANGES = {
    "a tensor is missing": (lambda c, f: f.__delitem__(LSTM_KERNEL), ValueError, f"{LSTM_KERNEL} is missing"),
    "a tensor is transposed": (
        lambda c, f: put(f, LSTM_KERNEL, np.zeros((20, 6), "f")),
        ValueError,
        r"shape \(20, 6\), .* \(6, 20\): it is transposed",
    ),
    "a tensor has another shape": (
        lambda c, f: put(f, LSTM_KERNEL, np.zeros((6, 24), "f")),
        ValueError,
        r"shape \(6, 24\), but .* needs \(6, 20\)",
    ),
    "a tensor is of another dtype": (
        lambda c, f: put(f, LSTM_KERNEL, np.zeros((6, 20), "d")),
        ValueError,
        "is float64, but the config needs float32",
    ),
    "a tensor is too many": (
        lambda c, f: f.__setitem__("layers/dense_7/vars/0", np.zeros(3)),
        ValueError,
        "belong to no layer of the config: .*dense_7",
    ),
    "a tensor is in another file": (lambda c, f: external(f), ValueError, "ExternalLink.*not followed"),
    "a tensor is compressed": (lambda c, f: huge(f), ValueError, "is compressed"),
    "an activation": (
        lambda c, f: unlike(c, "activation", "gelu"),
        NotImplementedError,
        "'bidirectional': the activation 'gelu' is not supported",
    ),
    "a size of 2^40": (lambda c, f: unlike(c, "units", 1 << 40), ValueError, "units is 1099511627776"),
    "a size of 2^20": (
        lambda c, f: unlike(c, "units", 1 << 20),
        ValueError,
        "the config needs .* bytes of weights",
    ),
    "a size that is text": (lambda c, f: unlike(c, "units", "5"), ValueError, "units is '5'"),
    "return_state": (lambda c, f: unlike(c, "return_state", True), NotImplementedError, "return_state=True in a chain"),
    "a Lambda": (
        lambda c, f: layers_of(c)[5].update(class_name="Lambda"),
        NotImplementedError,
        "'dense': Lambda is not supported",
    ),
    "a layer of another module": (
        lambda c, f: layers_of(c)[5].update(module="os"),
        NotImplementedError,
        "Dense of os is not supported",
    ),
    "a ConvLSTM1D": (
        lambda c, f: layers_of(c)[4].update(class_name="ConvLSTM1D"),
        NotImplementedError,
        "ConvLSTM1D is not supported",
    ),
    "a graph": (
        lambda c, f: c.update(class_name="Custom"),
        NotImplementedError,
        "a model of class 'Custom' is not supported",
    ),
    "no layers": (lambda c, f: c["config"].update(layers=3), ValueError, "has no list of layers"),
    "a config that is a list": (
        lambda c, f: c.update(config=[1]),
        ValueError,
        "a layer in the config is not an object",
    ),
    "a merge mode": (lambda c, f: layers_of(c)[2]["config"].update(merge_mode="max"), ValueError, "merge_mode 'max'"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return save(trained(), tmp_path_factory.mktemp("keras") / "whole.keras").read_bytes()


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_what_does_not_fit_is_named(tmp_path, whole, name):
    from fastrnn.keras import _load

    change, error, words = CHANGES[name]
    path = tmp_path / "m.keras"
    path.write_bytes(whole)
    edited(path, change)
    with pytest.raises(error, match=words):
        _load.read(str(path), None, verify=True)


def test_a_model_that_is_no_chain_is_refused_by_name():
    import keras

    import fastrnn.keras

    x = keras.Input((T, 3))
    model = keras.Model(x, keras.layers.Add()([keras.layers.LSTM(4)(x), keras.layers.GRU(4)(x)]))
    with pytest.raises(NotImplementedError, match="only a chain is supported|Add is not supported"):
        fastrnn.keras.load(model)
    with pytest.raises(ValueError, match="no weights yet"):
        fastrnn.keras.load(keras.layers.LSTM(4))
    with pytest.raises(TypeError, match="source is int"):
        fastrnn.keras.load(3)


def test_outputs_that_differ_are_an_error(tmp_path, whole, monkeypatch):
    from fastrnn.keras import _load

    (tmp_path / "m.keras").write_bytes(whole)
    right = _load._convert.to_params
    monkeypatch.setattr(
        _load._convert, "to_params", lambda kind, arrays, suffix="_l0": right("LSTM", arrays, suffix)
    )  # the GRU's gates in the order of the file
    with pytest.raises(ValueError, match="outputs of 'bidirectional_1' differ from the source's"):
        _load.read(str(tmp_path / "m.keras"), None, verify=True)


# --- hostile files -----------------------------------------------------------------


class Evil:
    def __reduce__(self):
        return (open, ("evil-was-here", "w"))


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/").replace("DOT", "."), data)
    return file.getvalue()


REST = {"metadataDOTjson": '{"keras_version": "3.15.1"}', "configDOTjson": "{}", "modelDOTweightsDOTh5": b""}
DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000
HOSTILE = {
    "a pickle": (lambda: pickle.dumps(Evil()), "looks like a pickle"),
    "text": (lambda: b"hello", "is neither a .keras file"),
    "a zip that points out of itself": (lambda: zipped(**REST, DOTDOT__DOTDOT__x=b""), "leads out of the file"),
    "no config": (lambda: zipped(metadataDOTjson="{}"), "0 members are named config.json"),
    "a bomb of a config": (lambda: zipped(**{**REST, "configDOTjson": b" " * (100 << 20)}), "claims 104857600 bytes"),
    "a config without end": (lambda: zipped(**{**REST, "configDOTjson": DEEP}), "nested 100000 deep"),
    "a version that is none": (
        lambda: zipped(**{**REST, "metadataDOTjson": '{"keras_version": "x"}'}),
        "keras_version is 'x'",
    ),
    "an empty zip": (lambda: b"PK\x03\x04", "not a complete zip"),
    "HDF5 of 8 bytes": (lambda: b"\x89HDF\r\n\x1a\n", "broken"),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_a_hostile_file_is_a_clear_error_in_little_memory(tmp_path, monkeypatch, name):
    import fastrnn.keras

    monkeypatch.chdir(tmp_path)
    make, words = HOSTILE[name]
    (tmp_path / "m.keras").write_bytes(make())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((ValueError, NotImplementedError), match=words):
        fastrnn.keras.load(tmp_path / "m.keras")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB
    assert [p.name for p in tmp_path.iterdir()] == ["m.keras"]


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_files_cut_short_or_with_flipped_bits_are_read_or_refused(tmp_path, name):
    """In the trial process of `load`. A flipped bit of a weight in .h5 cannot be noticed: there is no checksum."""
    import keras

    import fastrnn.keras

    L = keras.layers
    model = keras.Sequential([L.Input((T, 3)), L.LSTM(2)])
    whole, rng, refused = save(model, tmp_path / name).read_bytes(), np.random.default_rng(0), 0
    for trial in range(8):
        data = bytearray(whole)
        if trial % 2:
            for _ in range(5):
                data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        else:
            del data[rng.integers(len(data)) :]
        (tmp_path / f"broken-{name}").write_bytes(data)
        try:
            fastrnn.keras.load(tmp_path / f"broken-{name}")
        except (ValueError, NotImplementedError):
            refused += 1
    assert refused >= 4

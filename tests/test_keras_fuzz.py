"""Random Keras models: loaded, they give Keras' results, and the bits of the plain layers on any number of threads."""

import fuzz
import numpy as np
import pytest

import fastrnn

pytestmark = [
    pytest.mark.keras,
    pytest.mark.fuzz,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask attached to it:UserWarning"),
    pytest.mark.filterwarnings("ignore:You are using a softmax over axis:UserWarning"),
]

UNITS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33)  # both sides of every vector width
STEPS = (1, 2, 3, 5, 12)
ROWS = (1, 2, 3, 5, 9)
FUNCTIONS = (
    "tanh",
    "sigmoid",
    "relu",
    "linear",
    "elu",
    "selu",
    "silu",
    "softsign",
    "softplus",
    "leaky_relu",
    "hard_sigmoid",
)
CELLS = {"SimpleRNN": 1, "GRU": 3, "LSTM": 4}


def pick(rng, values):
    return values[int(rng.integers(len(values)))]


def settings(rng, kind, sequences, dtype):
    found = {
        "units": pick(rng, UNITS),
        "use_bias": bool(rng.integers(2)),
        "return_sequences": sequences,
        "dtype": dtype,
    }
    if rng.random() < 0.4:
        found["activation"] = pick(rng, FUNCTIONS)
        if kind != "SimpleRNN":
            found["recurrent_activation"] = pick(rng, ("sigmoid", "hard_sigmoid", "tanh", "softsign"))
    if kind == "GRU":
        found["reset_after"] = bool(rng.integers(2))
    return found


def recurrent(rng, source, sequences, dtype, wrap):
    """Return a random recurrent layer of a module with SimpleRNN, GRU and LSTM; the same for the same state of rng."""
    import keras

    kind = pick(rng, tuple(CELLS))
    found = settings(rng, kind, sequences, dtype)
    backwards, zero, merge = bool(rng.integers(2)), bool(rng.integers(2)), pick(rng, ("concat", "sum", "mul", "ave"))
    if wrap:
        return keras.layers.Bidirectional(getattr(source, kind)(**found), merge_mode=merge, dtype=dtype)
    return getattr(source, kind)(**found, go_backwards=backwards, zero_output_for_mask=zero and sequences)


def model(seed, source=None):
    """Return a random chain; with source=fastrnn.keras its recurrent layers are ours."""
    import keras

    L, rng = keras.layers, np.random.default_rng(seed)
    source, dtype, V = source or L, pick(rng, ("float32", "float32", "float64")), 7
    first, number, features = (
        pick(rng, ("plain", "plain", "embedding", "masking")),
        int(rng.integers(1, 4)),
        pick(rng, UNITS),
    )
    layers = [
        L.Input((None,) if first == "embedding" else (None, features), dtype="int32" if first == "embedding" else dtype)
    ]
    if first == "embedding":
        layers.append(L.Embedding(V, features, mask_zero=bool(rng.integers(2)), dtype=dtype))
    elif first == "masking":
        layers.append(L.Masking(pick(rng, (0.0, -1.0)), dtype=dtype))
    if rng.random() < 0.2 and first != "embedding":
        layers.append(L.Dense(pick(rng, UNITS), activation=pick(rng, FUNCTIONS), dtype=dtype))
    for k in range(number):
        layers.append(recurrent(rng, source, k < number - 1 or rng.random() < 0.6, dtype, rng.random() < 0.4))
        if rng.random() < 0.3:
            layers.append(L.Dropout(0.5, dtype=dtype))
    if rng.random() < 0.6:
        layers.append(L.Dense(pick(rng, UNITS), activation=pick(rng, (*FUNCTIONS, "softmax")), dtype=dtype))
    made = keras.Sequential(layers)
    made.set_weights([rng.standard_normal(w.shape) * 0.8 / np.sqrt(w.shape[0]) for w in made.get_weights()])
    return made, inputs(rng, first, features, dtype, V)


def inputs(rng, first, features, dtype, V):
    """Return x, and a mask for the call or None: if the model creates its own, Keras ignores the caller's."""
    B, T = pick(rng, ROWS), pick(rng, STEPS)
    if first == "embedding":
        return rng.integers(0, V, (B, T)), None
    x, mask = rng.standard_normal((B, T, features)).astype(dtype), rng.random((B, T)) < 0.6
    if first == "masking":
        x[~mask] = pick(rng, (0.0, -1.0))
    return x, None if first == "masking" or rng.random() < 0.3 else mask


def of_keras(made, x, mask):
    import keras

    return keras.ops.convert_to_numpy(made(x) if mask is None else made(x, mask=keras.ops.convert_to_tensor(mask)))


def close(got, want):
    scale = max(1.0, float(np.abs(want).max(initial=0)))
    np.testing.assert_allclose(
        got / scale, want / scale, rtol=0, atol=3e-5
    )  # Keras on torch multiplies float64 in float32


def test_random_models_give_keras_results_on_any_number_of_threads(tmp_path):
    for seed in fuzz.seeds("keras: models loaded", 20):
        with fuzz.named(seed):
            compare_loaded(seed, tmp_path / f"{seed}.keras")


def compare_loaded(seed, path):
    import fastrnn.keras
    from fastrnn.keras import _load

    made, (x, mask) = model(seed)
    if seed % 3:
        net = fastrnn.keras.load(made)
    else:
        made.save(path)
        net = _load.read(str(path), None, verify=True)
    want, found = of_keras(made, x, mask), []
    for threads in (1, 2, 3):
        with fastrnn.threads(threads):
            found.append(net(x, mask=mask))
    close(found[0][0], want)
    one = net(x[:1], mask=None if mask is None else mask[:1])[0]
    np.testing.assert_array_equal(one, found[0][0][:1], err_msg="a row alone")
    for y, state in found[1:]:
        np.testing.assert_array_equal(y, found[0][0], err_msg="threads")
        assert str(state) == str(found[0][1])


def test_random_models_of_our_layers_give_what_keras_layers_give():
    for seed in fuzz.seeds("keras: models of our layers", 20):
        with fuzz.named(seed):
            compare_layers(seed)


def compare_layers(seed):
    import fastrnn.keras

    theirs, (x, mask) = model(seed)
    ours, _ = model(seed, fastrnn.keras)
    ours.set_weights(theirs.get_weights())
    want, found = of_keras(theirs, x, mask), []
    for threads in (1, 2, 3):
        with fastrnn.threads(threads):
            found.append(of_keras(ours, x, mask))
    close(found[0], want)
    for y in found[1:]:
        np.testing.assert_array_equal(y, found[0], err_msg="threads")
    close(fastrnn.keras.load(ours)(x, mask=mask)[0], want)


def plain(kind, options, arrays, features):
    """Rebuild a Keras layer as a fastrnn layer: one direction, without options of mask and order."""
    act = options.get("activation", "tanh")
    act = ("leaky_relu", 0.2) if act == "leaky_relu" else act
    more = {"bias": options["use_bias"], "dtype": options["dtype"], "batch_first": True}
    if kind == "SimpleRNN":
        more["nonlinearity"] = act
    else:
        more |= {"activation": act, "recurrent_activation": options.get("recurrent_activation", "sigmoid")}
    if kind == "GRU":
        more["reset_after"] = options["reset_after"]
    H = options["units"]
    layer = {"SimpleRNN": fastrnn.RNN, "GRU": fastrnn.GRU, "LSTM": fastrnn.LSTM}[kind](features, H, **more)
    order = [1, 0, 2] if kind == "GRU" else range(CELLS[kind])  # z r h becomes r z n

    def gates(a):
        return np.concatenate([a[k * H : (k + 1) * H] for k in order])

    params = {"weight_ih_l0": gates(arrays[0].T), "weight_hh_l0": gates(arrays[1].T)}
    if options["use_bias"]:
        two = arrays[2] if arrays[2].ndim == 2 else (arrays[2], np.zeros_like(arrays[2]))
        params |= {"bias_ih_l0": gates(two[0]), "bias_hh_l0": gates(two[1])}
    layer.load_state_dict(params)
    return layer


def test_random_layers_have_the_bits_of_the_plain_layers():
    for seed in fuzz.seeds("keras: layers", 30):
        with fuzz.named(seed):
            compare_bits(seed)


def compare_bits(seed):
    """Compare a layer of fastrnn.keras and a loaded one, with and without a mask, also with no rows."""
    import keras

    import fastrnn.keras

    rng = np.random.default_rng(seed)
    kind, features, dtype = pick(rng, tuple(CELLS)), pick(rng, UNITS), pick(rng, ("float32", "float64"))
    options, B, T = settings(rng, kind, True, dtype), pick(rng, ROWS), pick(rng, STEPS)
    layer = getattr(fastrnn.keras, kind)(**options)
    layer.build((None, None, features))
    layer.set_weights([rng.standard_normal(w.shape) * 0.5 for w in layer.get_weights()])
    x = rng.standard_normal((B, T, features)).astype(dtype)
    reference, net = plain(kind, options, layer.get_weights(), features), fastrnn.keras.load(layer)
    for mask in (None, rng.random((B, T)) < 0.6):
        want = reference(x, mask=mask)[0]
        for threads in (1, 2, 3):
            with fastrnn.threads(threads):
                np.testing.assert_array_equal(
                    of_keras(layer, x, mask), want, err_msg=f"fastrnn.keras.{kind}, {threads} threads"
                )
                np.testing.assert_array_equal(net(x, mask=mask)[0], want, err_msg=f"load, {threads} threads")
    for shape in ((0, T, features), (B, 0, features)):
        assert net(np.zeros(shape, dtype))[0].shape == (*shape[:2], options["units"])
    assert keras.ops.convert_to_numpy(layer(np.zeros((0, T, features), dtype))).shape == (0, T, options["units"])

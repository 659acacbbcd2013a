"""Live Keras models as Networks: masks passed to the call, layers without bias, several outputs, stateful layers."""

import itertools

import numpy as np
import pytest

pytestmark = [
    pytest.mark.keras,
    # Keras 3.15 creates arrays of torch tensors in a way that NumPy 2 warns about, and warns about its own older
    # format.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning"),
    pytest.mark.filterwarnings("ignore:Layer 'sequential.*was passed an input with a mask attached to it:UserWarning"),
]

MASK = np.array([[1, 1, 0, 1, 1], [0, 0, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], bool)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def sequences(features=3, seed=0):
    return np.random.default_rng(seed).standard_normal((*MASK.shape, features)).astype("float32")


def sequential(*layers, **options):
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((None, 3), **options), *layers])
    rng = np.random.default_rng(1)
    model.set_weights([0.5 * rng.standard_normal(w.shape) for w in model.get_weights()])
    return model


def loaded(model, source, folder):
    """Convert a model to a Network: the live one, or from a file, read without the trial process."""
    import fastrnn.keras
    from fastrnn.keras import _load

    if source == "live":
        return fastrnn.keras.load(model)
    model.save(folder / f"m{source}")
    return _load.read(str(folder / f"m{source}"), None, verify=True)


def outputs(model, x, mask=None):
    import keras

    return keras.ops.convert_to_numpy(model(x) if mask is None else model(x, mask=keras.ops.convert_to_tensor(mask)))


@pytest.mark.parametrize("kind, reset_after, bias", [
    ("SimpleRNN", None, False), ("LSTM", None, False), *itertools.product(["GRU"], [False, True], [False, True]),
])  # fmt: skip
@pytest.mark.parametrize("source", ["live", ".keras", ".h5"])
def test_a_layer_with_and_without_bias_is_loaded(tmp_path, kind, reset_after, bias, source):
    """The reference of a GRU without bias ignored reset_after, so a correct layer was refused."""
    import keras

    more = {} if reset_after is None else {"reset_after": reset_after}
    model = sequential(getattr(keras.layers, kind)(5, use_bias=bias, return_sequences=True, **more))
    x = sequences()
    np.testing.assert_allclose(loaded(model, source, tmp_path)(x)[0], outputs(model, x), **CLOSE)


@pytest.mark.parametrize("kind", ["SimpleRNN", "GRU", "LSTM"])
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_mask_given_to_the_call_zeroes_what_it_zeroes_in_keras(kind, zero, backwards):
    """zero_output_for_mask was obeyed only after a Masking layer or an Embedding with mask_zero."""
    import keras

    import fastrnn.keras

    layer = getattr(keras.layers, kind)(4, return_sequences=True, zero_output_for_mask=zero, go_backwards=backwards)
    model, x = sequential(layer), sequences()
    want = outputs(model, x, MASK)
    for net in (fastrnn.keras.load(model), fastrnn.keras.load(layer)):
        y = net(x, mask=MASK)[0]
        np.testing.assert_allclose(y, want, **CLOSE)
        assert (not y[:, :: -1 if backwards else 1][~MASK].any()) == zero


@pytest.mark.parametrize("merge", ["concat", "sum", "mul", "ave"])
@pytest.mark.parametrize("top", [False, True])
def test_a_mask_given_to_a_bidirectional_is_what_it_is_in_keras(merge, top):
    """Keras zeroes masked steps of every Bidirectional that returns sequences; the next layers get the mask."""
    import keras

    import fastrnn.keras

    L = keras.layers
    layers = [L.Bidirectional(L.LSTM(4, return_sequences=True), merge_mode=merge)] + (
        [L.Bidirectional(L.GRU(3)), L.Dense(2)] if top else []
    )
    model, x = sequential(*layers), sequences()
    np.testing.assert_allclose(fastrnn.keras.load(model)(x, mask=MASK)[0], outputs(model, x, MASK), **CLOSE)


def test_a_masking_makes_its_steps_zeros_for_a_dense_layer_too():
    """Keras' Masking outputs zeros at masked steps, which only a layer without recurrence sees."""
    import keras

    import fastrnn.keras

    model, x = sequential(keras.layers.Masking(-1.0), keras.layers.Dense(2, activation="tanh")), sequences()
    x[~MASK] = -1
    np.testing.assert_allclose(fastrnn.keras.load(model)(x)[0], outputs(model, x), **CLOSE)


def test_zeros_of_masked_steps_without_sequences_are_refused():
    import keras

    import fastrnn.keras

    model = sequential(keras.layers.LSTM(4, zero_output_for_mask=True, name="odd"))
    with pytest.raises(
        NotImplementedError, match="'odd': zero_output_for_mask=True with return_sequences=False is not supported"
    ):
        fastrnn.keras.load(model)


def functional(which):
    import keras

    L = keras.layers
    x = keras.Input((5, 3), name="x")
    h = L.LSTM(4, return_sequences=True, name="low")(x)
    if which == "two outputs":
        return keras.Model(x, [h, L.GRU(2, name="top")(h)])
    if which == "the same output twice":
        return keras.Model(x, [h, h])
    if which == "a dropout that is always active":
        return keras.Model(x, L.GRU(2, name="top")(L.Dropout(0.5, name="drop")(h, training=True)))
    if which == "a recurrent dropout that is always active":
        return keras.Model(x, L.GRU(2, dropout=0.5, name="top")(h, training=True))
    mask = keras.Input((5,), dtype="bool", name="mask")
    return keras.Model([x, mask], L.GRU(2, name="top")(h, mask=mask))


@pytest.mark.parametrize("which, words", [
    ("two outputs", r"the model gives 2 outputs, 'low', 'top'"),
    ("the same output twice", r"the model gives 2 outputs"),
    ("a dropout that is always active", r"layer 'drop' is called with training=True"),
    ("a recurrent dropout that is always active", r"layer 'top' is called with training=True"),
    ("a mask that is an input", r"only a chain is supported|takes 2 inputs"),
])  # fmt: skip
@pytest.mark.parametrize("source", ["live", ".keras", ".h5"])
def test_a_functional_model_that_is_more_than_a_chain_is_refused(tmp_path, which, words, source):
    with pytest.raises(NotImplementedError, match=words):
        loaded(functional(which), source, tmp_path)


def states_of(model):
    import keras

    layers = [
        layer
        for outer in model.layers
        for layer in (getattr(outer, "forward_layer", outer), getattr(outer, "backward_layer", None))
    ]
    return [
        keras.ops.convert_to_numpy(v.value).copy()
        for layer in layers
        if layer
        for v in keras.tree.flatten(layer.states)
    ]


@pytest.mark.parametrize("wrap", [False, True])
def test_loading_a_stateful_model_leaves_its_state_alone(wrap):
    """The comparison with the live model started from its current state and changed it."""
    import keras

    import fastrnn.keras

    L = keras.layers
    layer = L.LSTM(4, stateful=True, return_sequences=True)
    model = sequential(
        L.Bidirectional(layer, merge_mode="sum") if wrap else layer, L.GRU(2, stateful=True), batch_size=2
    )
    x = sequences()[:2]
    first = outputs(model, x)
    before = states_of(model)
    assert len(before) == (5 if wrap else 3) and all(state.any() for state in before)
    net = fastrnn.keras.load(model)
    for state, kept in zip(states_of(model), before, strict=True):
        np.testing.assert_array_equal(state, kept)
    np.testing.assert_allclose(net(x)[0], first, **CLOSE)


def test_loading_a_single_stateful_layer_leaves_its_state_alone():
    import keras

    import fastrnn.keras

    layer, x = keras.layers.GRU(4, stateful=True), sequences()
    first = keras.ops.convert_to_numpy(layer(x))
    before = keras.ops.convert_to_numpy(layer.states[0].value)
    net = fastrnn.keras.load(layer)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer.states[0].value), before)
    np.testing.assert_allclose(net(x)[0], first, **CLOSE)


def test_a_live_model_is_compared_with_masks_too(monkeypatch):
    import keras

    import fastrnn.keras
    from fastrnn.keras import _load

    layer = keras.layers.Bidirectional(keras.layers.LSTM(4, return_sequences=True), name="both")
    right = _load._around
    monkeypatch.setattr(_load, "_around", lambda *args: (right(*args)[0], {}))  # without the zeros
    with pytest.raises(ValueError, match="outputs of .* with a mask. differ from the source's"):
        fastrnn.keras.load(sequential(layer))


def test_convert_reports_of_keras_what_was_compared(tmp_path, run):
    import keras

    model = sequential(keras.layers.GRU(4, use_bias=False), keras.layers.Dense(2))
    model.save(tmp_path / "m.keras")
    status, out, err = run("convert", tmp_path / "m.keras", tmp_path / "net")
    assert (status, err) == (0, "")
    assert (
        "each recurrent layer alone agrees with a float64 reference" in out and "Dense" in out and "not compared" in out
    )
    assert "Dense layers, the outputs of the whole network were not compared with anything" in out
    status, out, err = run("convert", tmp_path / "m.keras", tmp_path / "new", "--order", "gru,dense")
    assert status == 1 and "--order gru,dense does not apply to keras files" in err
    (tmp_path / "m.json").write_text(model.to_json())
    model.save(tmp_path / "m.h5")
    for name in ("m.keras", "m.h5"):
        status, out, err = run("convert", tmp_path / name, tmp_path / "new", "--config", tmp_path / "m.json")
        assert status == 1 and "has a config of its own, so the given config would be ignored" in err


def test_weights_of_a_layer_that_keras_layer_is_not_are_refused():
    """Of two layers of one name the second was lost. In a GRU without bias, no shape shows when r is applied."""
    import keras

    import fastrnn
    import fastrnn.keras

    layer = keras.layers.GRU(4, use_bias=False)
    layer.build((None, None, 3))
    for ours, words in (
        (fastrnn.GRU(3, 4, 2, bias=False), "no num_layers=2"),
        (fastrnn.GRU(3, 4, bias=False, reset_after=False), "has reset_after=True, but the GRU has False"),
        (fastrnn.GRU(3, 4, bias=False, clip=1.0), "no clip=1.0"),
         (fastrnn.GRU(3, 4, bias=False, learn_initial_state=True), "no learn_initial_state=True"),
    ):  # fmt: skip
        with pytest.raises((ValueError, NotImplementedError), match=words):
            fastrnn.keras.set_weights(layer, ours)
    fastrnn.keras.set_weights(layer, fastrnn.GRU(3, 4, bias=False, seed=0))

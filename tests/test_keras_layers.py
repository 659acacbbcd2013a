"""fastrnn's Keras layers compared with Keras' own, on its torch backend."""

import importlib.util
import subprocess
import sys

import numpy as np
import processes
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

# Keras 3.15 creates arrays of torch tensors in a way that NumPy 2 warns about.
pytestmark = [
    pytest.mark.keras,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

KINDS = ["SimpleRNN", "GRU", "LSTM"]
ACTIVATIONS = ["tanh", "sigmoid", "relu", "hard_sigmoid", "softsign", "elu", "linear", "silu", "leaky_relu"]


@st.composite
def configurations(draw):
    """One layer, or a Bidirectional of it, with a call's mask, initial state and training flags."""
    kind = draw(st.sampled_from(KINDS))
    options = {
        name: draw(st.booleans())
        for name in ("return_sequences", "return_state", "go_backwards", "use_bias", "unroll", "zero_output_for_mask")
    }
    options["activation"] = draw(st.sampled_from(ACTIVATIONS))
    if kind != "SimpleRNN":
        options["recurrent_activation"] = draw(st.sampled_from(["sigmoid", "hard_sigmoid"]))
    if kind == "GRU":
        options["reset_after"] = draw(st.booleans())
    merge = draw(st.sampled_from(["one", "one", "concat", "sum", "ave", "mul", None]))
    if merge != "one":
        options["go_backwards"] = False
    mask = draw(st.sampled_from([None, "right", "left", "holes"]))
    options["unroll"] &= mask is None  # Keras 3.15's own unrolled loop fails with a mask
    sizes = [draw(st.integers(1, most)) for most in (6, 4, 5, 9)]
    return (
        kind,
        options,
        merge,
        mask,
        draw(st.booleans()),
        sizes,
        draw(st.sampled_from(["float32", "float64"])),
        draw(st.integers(0, 10**6)),
    )


def make_mask(how, T, B, rng):
    if how is None:
        return None
    lengths = rng.integers(0, T + 1, (B, 1))
    steps = np.arange(T)[None]
    return {"right": steps < lengths, "left": steps >= T - lengths, "holes": rng.random((B, T)) < 0.6}[how]


def flat(result):
    return list(result) if isinstance(result, (list, tuple)) else [result]


def results(layer, x, state, mask):
    """Return the outputs, and the gradients of a weighted sum of them with respect to x, states and weights."""
    import torch

    arguments = [torch.tensor(a, requires_grad=True) for a in (x, *state)]
    initial = {"initial_state": arguments[1:]} if state else {}
    outputs = flat(layer(arguments[0], mask=None if mask is None else torch.tensor(mask), **initial))
    loss = sum((y * torch.cos(torch.arange(y.numel(), dtype=y.dtype)).reshape(y.shape)).sum() for y in outputs)
    gradients = torch.autograd.grad(
        loss, [*arguments, *(w.value for w in layer.trainable_weights)], materialize_grads=True
    )
    return [t.detach().numpy() for t in (*outputs, *gradients)]


@settings(max_examples=220)
@given(configuration=configurations())
def test_outputs_and_gradients_agree_with_keras_in_220_configurations(configuration):
    import keras

    import fastrnn.keras

    kind, options, merge, how, with_state, (T, B, I, H), dtype, seed = configuration
    rng = np.random.default_rng(seed)
    made = []
    for module in (keras.layers, fastrnn.keras):
        layer = getattr(module, kind)(H, dtype=dtype, **options)
        made.append(layer if merge == "one" else keras.layers.Bidirectional(layer, merge_mode=merge, dtype=dtype))
        made[-1].build((B, T, I))
    want, got = made
    weights = [rng.standard_normal(w.shape) * 0.4 for w in want.get_weights()]
    want.set_weights(weights)
    got.set_weights(weights)
    x = rng.standard_normal((B, T, I)).astype(dtype)
    states = (1 if kind != "LSTM" else 2) * (1 if merge == "one" else 2)
    state = [rng.standard_normal((B, H)).astype(dtype) for _ in range(states if with_state else 0)]
    mask = make_mask(how, T, B, rng)
    # keras.ops.matmul of Keras 3.15 on torch multiplies float64 in float32, so Keras is the less accurate side there.
    tolerance = 2e-4 if dtype == "float32" else 2e-5
    wanted, found = results(want, x, state, mask), results(got, x, state, mask)
    assert len(wanted) == len(found)
    for a, b in zip(found, wanted):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance / 5 * max(1.0, np.abs(b).max(initial=0)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_stateful_layer_carries_its_state_and_is_reset(kind):
    import keras

    import fastrnn.keras

    want, got = (getattr(module, kind)(4, stateful=True) for module in (keras.layers, fastrnn.keras))
    x = np.random.default_rng(0).standard_normal((2, 3, 5)).astype("float32")
    want(x), got(x)
    got.set_weights(want.get_weights())
    for layer in (want, got):
        layer.reset_state()
    first = [layer(x).detach().numpy() for layer in (want, got)]
    second = [layer(x).detach().numpy() for layer in (want, got)]
    np.testing.assert_allclose(*first, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(*second, rtol=1e-5, atol=1e-6)
    assert np.abs(first[0] - second[0]).max() > 1e-3
    got.reset_state()
    np.testing.assert_allclose(got(x).detach().numpy(), first[1], rtol=1e-6)


def model_of(layers, lstm):
    return layers.Sequential(
        [layers.layers.Input((None, 3)), layers.layers.Bidirectional(lstm), layers.layers.Dense(1)]
    )


def test_training_follows_keras_and_the_model_is_saved_and_loaded(tmp_path):
    import keras

    import fastrnn.keras

    rng = np.random.default_rng(0)
    x = rng.standard_normal((32, 7, 3)).astype("float32")
    target = x.sum((1, 2), keepdims=True)[:, 0]
    models = [model_of(keras, module.LSTM(6)) for module in (keras.layers, fastrnn.keras)]
    models[1].set_weights(models[0].get_weights())
    losses = []
    for model in models:
        model.compile("adam", "mse", jit_compile=False)
        losses.append(model.fit(x, target, epochs=5, batch_size=8, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert losses[1][-1] < losses[1][0]
    models[1].save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert type(again.layers[0].forward_layer) is fastrnn.keras.LSTM
    np.testing.assert_allclose(again.predict(x, verbose=0), models[1].predict(x, verbose=0), rtol=1e-6)


def test_two_calls_before_one_backward_keep_their_weights():
    """The gradient of a call is that of its own weights, even if a later call has others."""
    import torch

    import fastrnn.keras

    layer = fastrnn.keras.GRU(4)
    x = torch.ones(2, 3, 5, requires_grad=True)
    want = torch.autograd.grad(layer(x).sum(), x)[0]
    y = layer(x)
    with torch.no_grad():
        layer.cell.kernel.value.mul_(2.0)
        layer(x)
        layer.cell.kernel.value.div_(2.0)
    np.testing.assert_array_equal(torch.autograd.grad(y.sum(), x)[0], want)


def test_dropout_of_the_input_is_active_in_training_only():
    import fastrnn.keras

    layer = fastrnn.keras.LSTM(4, dropout=0.5, seed=1)
    x = np.ones((2, 3, 50), "float32")
    quiet = layer(x).detach().numpy()
    np.testing.assert_array_equal(layer(x).detach().numpy(), quiet)
    assert np.abs(layer(x, training=True).detach().numpy() - quiet).max() > 1e-3


@pytest.mark.parametrize(
    "options, message",
    [
        ({"use_cudnn": True}, "use_cudnn=True is not supported"),
        ({"dtype": "mixed_float16"}, "float16"),
        ({"activation": "gelu"}, "'gelu' is not supported"),
        ({"activation": lambda a: a}, "lambda.* is not supported"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(options, message):
    import fastrnn.keras

    with pytest.raises(NotImplementedError, match=message):
        fastrnn.keras.LSTM(4, **options)


ELSEWHERE = """
import keras, numpy as np, fastrnn.keras
x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype("float32")
x[0, :2] = x[1, 3] = 0
models = [keras.Sequential([keras.layers.Input((5, 3)), keras.layers.Masking(), made.LSTM(4, return_sequences=True),
                            keras.layers.Bidirectional(made.GRU(3))]) for made in (keras.layers, fastrnn.keras)]
models[1].set_weights(models[0].get_weights())
for run in (lambda model: model(x), lambda model: model.predict(x, verbose=0)):
    np.testing.assert_allclose(run(models[1]), run(models[0]), rtol=1e-5, atol=1e-6)
if keras.backend.backend() == "jax":
    models[1].compile("sgd", "mse")
    try:
        models[1].fit(x, np.zeros((2, 6)), verbose=0)
    except NotImplementedError as error:
        assert "torch backend only" in str(error)
    else:
        raise AssertionError("trained")
print("agreed on", keras.backend.backend())
"""


@pytest.mark.skipif(
    importlib.util.find_spec("jax") is None,
    reason="jax is not installed, and Keras' numpy backend imports it too: other backends NOT tested",
)
@pytest.mark.parametrize("backend", ["numpy", "jax"])
def test_inference_on_other_backends_and_refusal_of_training(tmp_path, backend):
    environment = processes.environment(KERAS_BACKEND=backend)
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], env=environment, capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"agreed on {backend}"


def test_stacked_cells_agree_with_keras():
    import keras

    import fastrnn.keras

    rng = np.random.default_rng(0)
    x, mask = rng.standard_normal((3, 6, 4)).astype("float32"), rng.random((3, 6)) < 0.6
    for options in (
        {},
        {"return_sequences": True, "return_state": True},
        {"go_backwards": True, "return_sequences": True, "zero_output_for_mask": True},
    ):
        cells = [[keras.layers.LSTMCell(5), keras.layers.GRUCell(3), keras.layers.SimpleRNNCell(4)] for _ in range(2)]
        want, got = keras.layers.RNN(cells[0], **options), fastrnn.keras.RNN(cells[1], **options)
        want.build(x.shape), got.build(x.shape)
        got.set_weights(want.get_weights())
        for steps in (None, mask):
            wanted, found = (keras.tree.flatten(results) for results in (want(x, mask=steps), got(x, mask=steps)))
            assert len(found) == len(wanted) == (5 if options.get("return_state") else 1)
            for a, b in zip(found, wanted):
                np.testing.assert_allclose(a.detach(), b.detach(), rtol=1e-5, atol=1e-6)
        again = fastrnn.keras.RNN.from_config(got.get_config())
        assert [type(cell).__name__ for cell in again.cell.cells] == ["LSTMCell", "GRUCell", "SimpleRNNCell"]


def test_a_custom_backward_layer_of_bidirectional():
    import keras

    import fastrnn.keras

    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype("float32")
    made = [
        keras.layers.Bidirectional(
            m.LSTM(4, return_sequences=True),
            backward_layer=m.GRU(6, go_backwards=True, return_sequences=True, activation="relu"),
        )
        for m in (keras.layers, fastrnn.keras)
    ]
    made[0].build(x.shape), made[1].build(x.shape)
    made[1].set_weights(made[0].get_weights())
    np.testing.assert_allclose(*(layer(x).detach().numpy() for layer in made), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"recurrent_dropout": 0.2}, "recurrent_dropout=0.2"),
        ({"dropout": 0.2, "implementation": 1}, "implementation=1"),
    ],
)
def test_dropout_that_is_not_there_is_refused_in_training_only(options, message):
    import fastrnn.keras

    layer = fastrnn.keras.GRU(4, **options)
    x = np.ones((2, 3, 5), "float32")
    assert tuple(layer(x).shape) == (2, 4)
    with pytest.raises(NotImplementedError, match=message):
        layer(x, training=True)

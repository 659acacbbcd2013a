"""Every error of the layer API: its type and its whole message, which names both sizes and what to do."""

import re
import time

import numpy as np
import processes
import pytest

import fastrnn

T, B, I, H = 5, 2, 3, 4


def f32(*shape):
    return np.zeros(shape, "float32")


def lstm(**options):
    return fastrnn.LSTM(I, H, seed=0, **options)


def gru(**options):
    return fastrnn.GRU(I, H, seed=0, **options)


def emb(n=7, dim=I, **options):
    return fastrnn.Embedding(n, dim, seed=0, **options)


def backward(net, **given):
    return net.vjp(f32(T, B, I), **given)[1]


# Each line: what is wrong, the call, the error, its message.
MAKING = [
    ("input_size", lambda: fastrnn.LSTM(-1, 4), ValueError, "input_size is -1, but it must be at least 0"),
    ("hidden_size", lambda: fastrnn.LSTM(3, 0), ValueError, "hidden_size is 0, but it must be at least 1"),
    ("num_layers", lambda: fastrnn.GRU(3, 4, 0), ValueError, "num_layers is 0, but it must be at least 1"),
    ("num_layers type", lambda: fastrnn.GRU(3, 4, 1.5), TypeError, "num_layers is 1.5, but it must be a whole number"),
    (
        "num_layers bool",
        lambda: fastrnn.GRU(3, 4, True),
        TypeError,
        "num_layers is True, but it must be a whole number",
    ),
    ("context_size", lambda: lstm(context_size=-2), ValueError, "context_size is -2, but it must be at least 0"),
    (
        "dropout",
        lambda: lstm(dropout=1),
        ValueError,
        "dropout is 1, but it must be a number from 0 up to, but not including, 1",
    ),
    (
        "dropout nan",
        lambda: lstm(dropout=np.nan),
        ValueError,
        "dropout is nan, but it must be a number from 0 up to, but not including, 1",
    ),
    (
        "dtype",
        lambda: lstm(dtype="float16"),
        TypeError,
        "dtype is 'float16', but it must be 'float32' or 'float64'",
    ),
    (
        "dtype name",
        lambda: lstm(dtype="floaty"),
        TypeError,
        "dtype is 'floaty', but it must be 'float32' or 'float64'",
    ),
    (
        "nonlinearity",
        lambda: fastrnn.RNN(3, 4, nonlinearity="gelu"),
        ValueError,
        "nonlinearity is 'gelu', but it must be one of 'tanh', 'sigmoid', 'relu', "
        "'affine', 'leaky_relu', 'thresholded_relu', 'scaled_tanh', "
        "'hard_sigmoid', 'elu', 'softsign', 'softplus', 'selu', 'silu', 'exponential', 'linear'",
    ),
]

X = [
    (
        "x features",
        lambda: lstm()(f32(T, B, 7)),
        ValueError,
        "x has 7 features, but this LSTM was made with input_size=3",
    ),
    (
        "x turned",
        lambda: lstm()(f32(I, B, T)),
        ValueError,
        "x has 5 features, but this LSTM was made with input_size=3; x must be (T, B, I), got shape (3, 2, 5)",
    ),
    ("x axes", lambda: lstm()(f32(T)), ValueError, "x must be (T, B, I), or (T, I) for one sequence, got shape (5,)"),
    (
        "x axes, batch first",
        lambda: lstm(batch_first=True)(f32(1, T, B, I)),
        ValueError,
        "x must be (B, T, I), or (T, I) for one sequence, got shape (1, 5, 2, 3)",
    ),
    (
        "x dtype",
        lambda: gru()(np.zeros((T, B, I))),
        TypeError,
        "x is float64, but this GRU computes in float32: convert with x.astype('float32')",
    ),
    (
        "x ints",
        lambda: gru(dtype="float64")(np.zeros((T, B, I), int)),
        TypeError,
        "x is int64, but this GRU computes in float64: convert with x.astype('float64')",
    ),
    (
        "ids dtype",
        lambda: lstm()(f32(T, B), embedding=emb()),
        TypeError,
        "x is float32, but with embedding= it must hold integer ids",
    ),
    (
        "ids range",
        lambda: lstm()(np.array([[0, 7]]), embedding=emb()),
        ValueError,
        "ids go from 0 to 7, but the embedding has rows 0 to 6",
    ),
    (
        "ids negative",
        lambda: lstm()(np.array([[-1, 3]]), embedding=emb()),
        ValueError,
        "ids go from -1 to 3, but the embedding has rows 0 to 6",
    ),
    (
        "ids axes",
        lambda: lstm()(np.zeros((T, B, 1), int), embedding=emb()),
        ValueError,
        "ids must be (T, B), or (T,) for one sequence, got shape (5, 2, 1)",
    ),
    (
        "embedding features",
        lambda: lstm()(np.zeros((T, B), int), embedding=emb(dim=9)),
        ValueError,
        "the embedding has 9 features, but this LSTM was made with input_size=3",
    ),
    (
        "embedding dtype",
        lambda: lstm()(np.zeros((T, B), int), embedding=emb(dtype="float64")),
        TypeError,
        "the embedding is float64, but this LSTM computes in float32",
    ),
]

STATE = [
    (
        "state of a GRU given to an LSTM",
        lambda: lstm()(f32(T, B, I), f32(1, B, H)),
        ValueError,
        "state of an LSTM is a pair (h_0, c_0), got array of shape (1, 2, 4)",
    ),
    (
        "state of an LSTM given to a GRU",
        lambda: gru()(f32(T, B, I), (f32(1, B, H), f32(1, B, H))),
        ValueError,
        "state of a GRU is one array h_0, got tuple of 2",
    ),
    (
        "state of a deeper network",
        lambda: gru()(f32(T, B, I), f32(2, B, H)),
        ValueError,
        "h_0 of state has shape (2, 2, 4), but this GRU needs (num_layers*D, B, H) = (1, 2, 4)",
    ),
    (
        "c_0 of a wider network",
        lambda: lstm()(f32(T, B, I), (f32(1, B, H), f32(1, B, 6))),
        ValueError,
        "c_0 of state has shape (1, 2, 6), but this LSTM needs (num_layers*D, B, H) = (1, 2, 4)",
    ),
    (
        "state of another batch",
        lambda: gru()(f32(T, B, I), f32(1, 9, H)),
        ValueError,
        "h_0 of state has shape (1, 9, 4), but this GRU needs (num_layers*D, B, H) = (1, 2, 4)",
    ),
    (
        "batched state, unbatched x",
        lambda: gru()(f32(T, I), f32(1, 1, H)),
        ValueError,
        "h_0 of state has shape (1, 1, 4), but this GRU needs (num_layers*D, H) = (1, 4)",
    ),
    (
        "state dtype",
        lambda: gru()(f32(T, B, I), np.zeros((1, B, H))),
        TypeError,
        "h_0 is float64, but this GRU computes in float32: convert with h_0.astype('float32')",
    ),
]

LENGTHS_RESETS_CONTEXT = [
    (
        "length above T",
        lambda: lstm()(f32(T, B, I), lengths=[2, 6]),
        ValueError,
        "lengths must be from 0 to T=5, got 6",
    ),
    (
        "negative length",
        lambda: lstm()(f32(T, B, I), lengths=[-1, 3]),
        ValueError,
        "lengths must be from 0 to T=5, got -1",
    ),
    (
        "number of lengths",
        lambda: lstm()(f32(T, B, I), lengths=[1, 2, 3]),
        ValueError,
        "lengths have shape (3,), but x has B=2 sequences: pass (2,)",
    ),
    (
        "lengths dtype",
        lambda: lstm()(f32(T, B, I), lengths=[1.0, 2.0]),
        TypeError,
        "lengths are float64, but they must be whole numbers",
    ),
    (
        "resets shape",
        lambda: lstm()(f32(T, B, I), resets=np.zeros((B, T), bool)),
        ValueError,
        "resets must have x's leading axes (5, 2), got shape (2, 5)",
    ),
    (
        "resets shape, batch first",
        lambda: lstm(batch_first=True)(f32(B, T, I), resets=np.zeros((T, B), bool)),
        ValueError,
        "resets must have x's leading axes (2, 5), got shape (5, 2)",
    ),
    (
        "resets dtype",
        lambda: lstm()(f32(T, B, I), resets=np.zeros((T, B), int)),
        TypeError,
        "resets must be bool, got int64: convert with resets.astype(bool)",
    ),
    (
        "no context",
        lambda: lstm(context_size=6)(f32(T, B, I)),
        ValueError,
        "this LSTM was made with context_size=6, but no context was given: pass context= of shape (B, 6)",
    ),
    (
        "unexpected context",
        lambda: lstm()(f32(T, B, I), context=f32(B, 6)),
        ValueError,
        "a context was given, but this LSTM has context_size=0: leave it out, or "
        "construct the layer with context_size=",
    ),
    (
        "context shape",
        lambda: lstm(context_size=6)(f32(T, B, I), context=f32(3, 6)),
        ValueError,
        "context has shape (3, 6), but it must be (2, 6): B=2, context_size=6",
    ),
    (
        "context dtype",
        lambda: lstm(context_size=6)(f32(T, B, I), context=np.zeros((B, 6))),
        TypeError,
        "context is float64, but this LSTM computes in float32: convert with context.astype('float32')",
    ),
]

BACKWARD = [
    (
        "dy of another batch",
        lambda: backward(gru())(f32(T, 16, H)),
        ValueError,
        "dy has B=16, but the forward pass it belongs to had B=2",
    ),
    (
        "dy of another length",
        lambda: backward(gru())(f32(6, B, H)),
        ValueError,
        "dy has T=6, but the forward pass it belongs to had T=5",
    ),
    (
        "dy of another size",
        lambda: backward(gru())(f32(T, B, 8)),
        ValueError,
        "dy has D*H=8, but the forward pass it belongs to had D*H=4",
    ),
    (
        "dy axes",
        lambda: backward(gru())(f32(T, H)),
        ValueError,
        "dy has shape (5, 4), but the forward pass it belongs to gave y of shape (5, 2, 4)",
    ),
    (
        "dy dtype",
        lambda: backward(gru())(np.zeros((T, B, H))),
        TypeError,
        "dy is float64, but this GRU computes in float32: convert with dy.astype('float32')",
    ),
    (
        "dstate_n shape",
        lambda: backward(gru())(None, f32(1, 3, H)),
        ValueError,
        "h_n of dstate_n has shape (1, 3, 4), but this GRU needs (num_layers*D, B, H) = (1, 2, 4)",
    ),
    (
        "dstate_n of a GRU",
        lambda: backward(lstm())(None, f32(1, B, H)),
        ValueError,
        "dstate_n of an LSTM is a pair (h_n, c_n), got array of shape (1, 2, 4)",
    ),
    (
        "into shape",
        lambda: backward(gru())(into=f32(7)),
        ValueError,
        "into is float32 of shape (7,), but it must be float32 of shape (108,)",
    ),
    (
        "into dtype",
        lambda: backward(gru())(into=np.zeros(108)),
        ValueError,
        "into is float64 of shape (108,), but it must be float32 of shape (108,)",
    ),
]

STREAM = [
    (
        "bidirectional",
        lambda: lstm(bidirectional=True).stream(),
        ValueError,
        "this LSTM has bidirectional=True, so its outputs depend on future inputs: a stream needs bidirectional=False",
    ),
    ("batch_size", lambda: lstm().stream(0), ValueError, "batch_size is 0, but it must be at least 1"),
    (
        "x_t shape",
        lambda: lstm().stream(2).step(f32(1, 3)),
        ValueError,
        "x_t has shape (1, 3), but a step of this stream takes (batch_size, input_size) = (2, 3)",
    ),
    (
        "x_t dtype",
        lambda: lstm().stream().step(np.zeros((1, 3))),
        TypeError,
        "x_t is float64, but this LSTM computes in float32: convert with x_t.astype('float32')",
    ),
    (
        "x shape",
        lambda: lstm().stream(2).run(f32(T, 1, 3)),
        ValueError,
        "x has shape (5, 1, 3), but this stream takes (T, batch_size, input_size) = (T, 2, 3)",
    ),
    (
        "out shape",
        lambda: lstm().stream().step(f32(1, 3), out=f32(4)),
        ValueError,
        "out is float32 of shape (4,), but it must be float32 of shape (1, 4)",
    ),
    (
        "out layout",
        lambda: lstm().stream(2).step(f32(2, 3), out=f32(4, 2).T),
        ValueError,
        "out must be C-contiguous and writable",
    ),
    (
        "state",
        lambda: setattr(gru().stream(2), "state", f32(1, 3, H)),
        ValueError,
        "h_0 of state has shape (1, 3, 4), but this GRU needs (num_layers*D, B, H) = (1, 2, 4)",
    ),
    (
        "no context",
        lambda: lstm(context_size=6).stream(),
        ValueError,
        "this LSTM was made with context_size=6, but no context was given: pass context= of shape (B, 6)",
    ),
]

PARAMETERS = [
    (
        "state_dict of a deeper network",
        lambda: gru().load_state_dict(fastrnn.GRU(I, H, 2, bias=False).state_dict()),
        KeyError,
        "the state_dict does not match this GRU: missing ['bias_ih_l0', 'bias_hh_l0'], "
        "unknown ['weight_ih_l1', 'weight_hh_l1']; strict=False loads the parameters that match",
    ),
    (
        "state_dict of a wider network",
        lambda: gru().load_state_dict(fastrnn.GRU(I, 5).state_dict()),
        ValueError,
        "weight_ih_l0 has shape (15, 3), but this GRU needs (12, 3)",
    ),
    (
        "storage dtype",
        lambda: gru(storage=fastrnn.Storage("float64")),
        TypeError,
        "the layer computes in float32, but its storage holds float64",
    ),
    ("number of threads", lambda: fastrnn.set_num_threads(0), ValueError, "n is 0, but it must be at least 1"),
    ("threads", lambda: fastrnn.threads(1.5).__enter__(), TypeError, "n is 1.5, but it must be a whole number"),
]

ALL = MAKING + X + STATE + LENGTHS_RESETS_CONTEXT + BACKWARD + STREAM + PARAMETERS


@pytest.mark.parametrize("call, error, message", [line[1:] for line in ALL], ids=[line[0] for line in ALL])
def test_the_message(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert caught.value.args[0] == message
    assert caught.type is error


def test_vjp_checks_what_a_call_checks():
    for _, call, error, message in X + STATE + LENGTHS_RESETS_CONTEXT:
        names = call.__code__.co_names
        assert names, "a call of a layer"
        with pytest.MonkeyPatch.context() as patch:
            for layer in (fastrnn.LSTM, fastrnn.GRU):
                patch.setattr(layer, "__call__", layer.vjp)
            with pytest.raises(error, match=f"^{re.escape(message)}$"):
                call()


def test_parameters_can_not_be_written_but_through_updating():
    net = lstm()
    with pytest.raises(ValueError, match="read-only"):
        net.params["weight_ih_l0"][0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        net.flat[:] = 1
    with pytest.raises(TypeError, match="does not support item assignment"):
        net.params["weight_ih_l0"] = f32(16, 3)
    version = net.version
    with net.updating() as flat:
        flat[0] = 5
    assert net.params["weight_ih_l0"][0, 0] == 5 and net.version == version + 1


def test_a_failed_load_changes_nothing():
    net = gru()
    before, version = net.flat.copy(), net.version
    for wrong in ({}, {**net.state_dict(), "weight_hh_l0": f32(4, 12)}, {**net.state_dict(), "extra": f32(1)}):
        with pytest.raises((KeyError, ValueError)):
            net.load_state_dict(wrong)
    assert net.version == version
    np.testing.assert_array_equal(net.flat, before)


def test_a_backward_after_an_update_is_refused():
    net = lstm()
    late = backward(net)
    with net.updating() as flat:
        flat *= 2
    with pytest.raises(RuntimeError, match=r"^the parameters of this LSTM have changed since the forward pass"):
        late(f32(T, B, H))


def test_a_released_backward_raises():
    done = backward(lstm())
    done.release()
    done.release()
    with pytest.raises(RuntimeError, match="^this backward was released: run vjp again$"):
        done()


def test_a_storage_in_use_takes_no_more_layers():
    storage = fastrnn.Storage("float32")
    gru(storage=storage)
    storage.flat  # noqa: B018
    with pytest.raises(
        RuntimeError,
        match="^this storage is already in use: construct all layers that share it before you call one of them$",
    ):
        gru(storage=storage)


def test_unknown_options_are_refused():
    for make in (lambda: lstm(hidden=3), lambda: gru(nonlinearity="tanh"), lambda: fastrnn.RNN(3, 4, reset_after=True)):
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            make()


@pytest.mark.parametrize("value", ["0", "-1", "two"])
def test_a_wrong_number_of_threads_in_the_environment_is_a_clear_error(value):
    done = processes.python("import fastrnn; fastrnn.LSTM", FASTRNN_NUM_THREADS=value)
    assert done.returncode == 1
    assert (
        done.stderr.splitlines()[-1]
        == f"ValueError: FASTRNN_NUM_THREADS={value}, but it must be a whole number of at least 1"
    )


def test_many_layers_take_no_more_than_their_share():
    """20,000 layers of one unit: no quadratic work (after pytorch#83175)."""
    start = time.perf_counter()
    net = fastrnn.RNN(1, 1, 20_000)
    net(f32(1, 1, 1))
    assert time.perf_counter() - start < 15


@pytest.mark.parametrize(
    "into",
    [[0.0], np.zeros(216, "float32")[::2], np.broadcast_to(np.float32(0), 108)],
    ids=["list", "strided", "read-only"],
)
def test_an_into_that_can_not_take_the_gradient_is_refused(into):
    with pytest.raises((TypeError, ValueError), match="^into "):
        backward(gru())(into=into)


def test_an_embedding_must_be_a_layer():
    with pytest.raises(TypeError, match="^embedding is ndarray"):
        gru()(np.zeros((T, B), int), embedding=f32(7, I))


def test_no_lengths_for_no_rows_are_accepted():
    assert gru()(f32(T, 0, I), lengths=[])[0].shape == (T, 0, H)


@pytest.mark.parametrize(
    "rng, error, message",
    [
        (1.5, TypeError, "rng is 1.5, but it must be an int"),
        ("a", TypeError, "rng is 'a', but it must be an int"),
        (-1, ValueError, "rng is -1, but it must be from 0 to 2**64-1"),
        (2**64, ValueError, "rng is 18446744073709551616, but it must be from 0 to 2**64-1"),
    ],
)
def test_a_wrong_key_of_the_dropout_masks_is_refused(rng, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        gru(num_layers=2, dropout=0.5).vjp(f32(T, B, I), rng=rng)


def test_complex_parameters_are_refused():
    with pytest.raises(TypeError, match="weight_ih_l0 is complex"):
        gru().load_state_dict({name: p + 0j for name, p in gru().state_dict().items()})

"""Embedding, Linear, Dropout and the losses: values, gradients, masks, bits and messages."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastrnn
from fastrnn import _engine
from fastrnn.layers.feedforward import random_key
from fastrnn.losses import mean_squared_error, softmax_cross_entropy
from fastrnn.parameters import Storage

DTYPES = ["float32", "float64"]
RTOL = {"float32": 1e-5, "float64": 1e-13}


def normal(*shape, dtype="float64", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def numeric_gradient(loss, array, eps=1e-6):
    """Return central differences of loss() for every element of a float64 array, changed in place and restored."""
    grad = np.empty_like(array)
    for k in np.ndindex(array.shape):
        kept = array[k]
        array[k] = kept + eps
        up = loss()
        array[k] = kept - eps
        grad[k] = (up - loss()) / (2 * eps)
        array[k] = kept
    return grad


# ---- Linear -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("M, I, N", [(1, 1, 1), (3, 5, 2), (7, 18, 33), (50, 64, 65)])
def test_linear_and_its_gradients_agree_with_float64(isa, dtype, M, I, N):
    linear = fastrnn.Linear(I, N, dtype=dtype, seed=1)
    x, dy = normal(M, I, dtype=dtype), normal(M, N, dtype=dtype, seed=2)
    w, b = (linear.params[name].astype("float64") for name in ("weight", "bias"))
    y, backward = linear.vjp(x)
    g = backward(dy)
    scale = np.sqrt(max(M, I, N))
    assert_allclose(y, x.astype("float64") @ w.T + b, rtol=RTOL[dtype], atol=RTOL[dtype] * scale)
    assert_allclose(g.x, dy.astype("float64") @ w, rtol=RTOL[dtype], atol=RTOL[dtype] * scale)
    assert_allclose(g.params["weight"], dy.astype("float64").T @ x, rtol=RTOL[dtype], atol=RTOL[dtype] * scale)
    assert_allclose(g.params["bias"], dy.astype("float64").sum(0), rtol=RTOL[dtype], atol=RTOL[dtype] * scale)
    assert_array_equal(g.flat, np.concatenate([g.params["weight"].ravel(), g.params["bias"]]))
    assert_array_equal(linear(x), y)


def test_a_row_of_linear_has_the_same_bits_in_any_batch_and_on_any_number_of_threads(isa):
    linear = fastrnn.Linear(129, 67, seed=0)
    x = normal(400, 129, dtype="float32")
    fastrnn.set_num_threads(1)
    y = linear(x)
    for rows in (1, 2, 3, 5, 8, 31):
        assert_array_equal(linear(x[:rows]), y[:rows])
    for threads in (2, 3):
        fastrnn.set_num_threads(threads)
        assert_array_equal(linear(x), y)


def test_gradients_of_linear_do_not_depend_on_the_number_of_threads(isa):
    x, dy = normal(700, 129, dtype="float32"), normal(700, 67, dtype="float32", seed=1)

    def gradients(threads):
        fastrnn.set_num_threads(threads)
        g = fastrnn.Linear(129, 67, seed=0).vjp(x)[1](dy)
        return np.concatenate([g.flat, g.x.ravel()])

    assert_array_equal(gradients(2), gradients(1))
    assert_array_equal(gradients(3), gradients(1))


def test_linear_sees_new_weights_and_a_new_instruction_set():
    linear = fastrnn.Linear(20, 3, dtype="float64", seed=0)
    x = normal(4, 20)
    linear(x)
    with linear.updating() as flat:
        flat[:] = 1
    assert_allclose(linear(x), np.repeat(x.sum(1)[:, None], 3, 1) + 1, rtol=1e-13)
    kept = _engine.isa()
    try:
        for isa in _engine.available_isas():
            _engine.set_isa(isa)
            assert_allclose(linear(x), np.repeat(x.sum(1)[:, None], 3, 1) + 1, rtol=1e-13)
    finally:
        _engine.set_isa(kept)


def test_linear_takes_any_leading_axes_strides_and_out():
    linear = fastrnn.Linear(3, 2, seed=0)
    x = normal(5, 4, 3, dtype="float32")
    y = linear(x)
    assert y.shape == (5, 4, 2)
    assert_array_equal(linear(x.transpose(1, 0, 2)), y.transpose(1, 0, 2))
    assert_array_equal(linear(x[2, 1]), y[2, 1])
    out = np.full((5, 4, 2), np.nan, "float32")
    assert linear(x, out=out) is out
    assert_array_equal(out, y)
    assert linear(np.empty((0, 4, 3), "float32")).shape == (0, 4, 2)
    fixed = x.copy()
    fixed.flags.writeable = False
    assert_array_equal(linear(fixed), y)


def test_gradients_are_added_to_a_shared_buffer():
    storage = Storage("float64")
    embedding = fastrnn.Embedding(4, 3, dtype="float64", seed=0, storage=storage)
    linear = fastrnn.Linear(3, 2, bias=False, dtype="float64", seed=1, storage=storage)
    rows, embedding_backward = embedding.vjp(np.array([1, 3]))
    y, linear_backward = linear.vjp(rows)
    into = np.ones_like(storage.flat)
    g = linear_backward(np.ones_like(y), into=into)
    embedding_backward(g.x, into=into)
    assert_allclose(into[12:].reshape(2, 3) - 1, np.tile(rows.sum(0), (2, 1)), rtol=1e-13)
    want = np.zeros((4, 3))
    want[[1, 3]] = linear.params["weight"].sum(0)
    assert_allclose(into[:12].reshape(4, 3) - 1, want, rtol=1e-13)


def test_a_backward_may_be_called_twice_and_not_after_an_update():
    linear = fastrnn.Linear(3, 2, seed=0)
    y, backward = linear.vjp(normal(4, 3, dtype="float32"))
    assert_array_equal(backward(y).flat, backward(y).flat)
    assert backward(y, need_x=False).x is None
    with linear.updating() as flat:
        flat *= 2
    with pytest.raises(
        RuntimeError,
        match=r"the parameters of this Linear have changed since the forward pass .version 0, now 1.: call vjp again",
    ):
        backward(y)


def test_copies_are_independent_and_pickle_works():
    import pickle

    linear = fastrnn.Linear(3, 2, seed=0)
    x = normal(4, 3, dtype="float32")
    y = linear(x)
    double, again = linear.astype("float64"), pickle.loads(pickle.dumps(linear))
    with linear.updating() as flat:
        flat[:] = 0
    assert_array_equal(linear.copy()(x), 0)  # the packed weights of the original are not those of the copy
    assert_allclose(double(x.astype("float64")), y, rtol=1e-5, atol=1e-6)
    assert_array_equal(again(x), y)
    assert repr(double) == "Linear(3, 2, dtype='float64')"


# ---- Embedding ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_embedding_gathers_and_scatters(isa, dtype):
    embedding = fastrnn.Embedding(7, 19, dtype=dtype, seed=3)
    ids = np.array([[6, 0, 3], [3, 3, 1]])
    y, backward = embedding.vjp(ids)
    assert_array_equal(y, embedding.params["weight"][ids])
    assert_array_equal(embedding(ids.astype("uint8")), y)
    dy = normal(2, 3, 19, dtype=dtype)
    want = np.zeros((7, 19), dtype)
    np.add.at(want, ids, dy)
    assert_array_equal(backward(dy).params["weight"], want)
    assert embedding(np.zeros((0, 2), int)).shape == (0, 2, 19)


def test_a_backward_of_embedding_keeps_its_own_ids():
    embedding = fastrnn.Embedding(3, 1, seed=0)
    ids = np.array([0, 1])
    y, backward = embedding.vjp(ids)
    ids[:] = 2
    assert_array_equal(backward(np.ones_like(y)).params["weight"], [[1], [1], [0]])


# ---- one weight for two layers ------------------------------------------------------------------------------------


def test_a_tied_linear_and_an_embedding_add_their_gradients_in_one_slot():
    storage = Storage("float64")
    embedding = fastrnn.Embedding(7, 4, dtype="float64", seed=0, storage=storage)
    linear = fastrnn.Linear(4, 7, weight=embedding.slots["weight"], dtype="float64", seed=1, storage=storage)
    assert storage.size == 7 * 4 + 7
    assert linear.num_parameters == 7
    ids, dlogits = np.array([1, 6, 1]), normal(3, 7)

    def loss():
        return float((linear(embedding(ids)) * dlogits).sum())

    into = np.ones(storage.size)  # it already has a value
    y, embedding_backward = embedding.vjp(ids)
    embedding_backward(linear.vjp(y)[1](dlogits, into=into).x, into=into)
    want = np.empty_like(into)
    for k in range(len(into)):
        values = []
        for change in (1e-6, -2e-6):
            with storage.updating() as flat:
                flat[k] += change
            values.append(loss())
        with storage.updating() as flat:
            flat[k] += 1e-6
        want[k] = (values[0] - values[1]) / 2e-6
    assert_allclose(into - 1, want, rtol=1e-6, atol=1e-8)
    assert_array_equal(linear.params["weight"], embedding.params["weight"])


def test_a_copy_of_a_tied_linear_has_a_separate_weight():
    storage = Storage("float32")
    embedding = fastrnn.Embedding(7, 4, seed=0, storage=storage)
    linear = fastrnn.Linear(4, 7, weight=embedding.slots["weight"], seed=1, storage=storage)
    copy, x = linear.copy(), normal(3, 4, dtype="float32")
    assert_array_equal(copy(x), linear(x))
    with storage.updating() as flat:
        flat[:] = 0
    assert copy.num_parameters == 7 * 4 + 7
    assert np.abs(copy(x)).min() > 0


# ---- Dropout ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [0.0, 0.3, 0.75])
def test_dropout_keeps_the_right_share_and_scales_it(isa, dtype, p):
    x = np.ones((40, 30, 50), dtype)
    y, backward = fastrnn.Dropout(p).vjp(x, rng=11)
    kept = y != 0
    assert_allclose(y[kept], 1 / (1 - p), rtol=1e-6)
    assert abs(kept.mean() - (1 - p)) <= 5 * np.sqrt(p * (1 - p) / x.size)
    assert_array_equal(backward(x).x, y)
    for axis in range(3):  # no row, step or unit is special: within five standard deviations of a mean of 1200 and more
        assert np.ptp(kept.mean(axis=tuple({0, 1, 2} - {axis}))) <= 10 * np.sqrt(p * (1 - p) / 1200)


def test_a_mask_depends_on_key_row_step_and_unit_only():
    x = np.ones((6, 5, 33), "float32")
    dropout = fastrnn.Dropout(0.5)
    y = dropout.vjp(x, rng=1)[0]
    assert_array_equal(dropout.vjp(x, rng=1)[0], y)
    assert_array_equal(dropout.vjp(x[:3, :2], rng=1)[0], y[:3, :2])
    assert (dropout.vjp(x, rng=2)[0] != y).mean() > 0.4
    steady = fastrnn.Dropout(0.5, variational=True).vjp(x, rng=1)[0]
    assert_array_equal(steady, np.broadcast_to(steady[:1], x.shape))
    assert (steady[0, 0] != steady[0, 1]).any()


def test_dropout_without_a_key_draws_a_fresh_mask_at_each_call_from_its_seed():
    x = np.ones((4, 3, 20))
    first, second = (fastrnn.Dropout(0.5, seed=9) for _ in range(2))
    a, b = first.vjp(x)[0], first.vjp(x)[0]
    assert (a != b).any()
    assert_array_equal(second.vjp(x)[0], a)
    assert_array_equal(second.vjp(x)[0], b)
    assert_array_equal(first(x), x)
    assert first(x) is not x


def test_dropout_in_place():
    x = normal(4, 3, 20)
    dropout = fastrnn.Dropout(0.5)
    want, backward = dropout.vjp(x, rng=3)
    here = x.copy()
    assert dropout.vjp(here, rng=3, out=here)[0] is here
    assert_array_equal(here, want)
    dy = x.copy()
    assert backward(dy, out=dy).x is dy
    assert_array_equal(dy, want)


def test_random_keys_differ():
    assert len({random_key(seed, update) for seed in range(50) for update in range(50)}) == 2500
    assert (
        random_key(1) == 0x910A2DEC89025CC1
    )  # the first number of splitmix64 for the seed 1, by Vigna's reference program


# ---- losses -------------------------------------------------------------------------------------------------------


def log_softmax(logits):
    z = logits.astype("float64") - logits.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("V", [1, 2, 15, 16, 17, 65])
def test_cross_entropy_agrees_with_float64(isa, dtype, V):
    logits = 3 * normal(6, 4, V, dtype=dtype)
    targets = np.random.default_rng(1).integers(0, V, (6, 4))
    targets[2, 1] = -1
    lengths = [6, 3, 0, 5]
    valid = (targets >= 0) & (np.arange(6)[:, None] < lengths)
    nll = -np.take_along_axis(log_softmax(logits), np.maximum(targets, 0)[..., None], -1)[..., 0] * valid
    tolerance = {"float32": 3e-6, "float64": 1e-13}[dtype]
    assert_allclose(
        softmax_cross_entropy(logits, targets, lengths=lengths, reduction="none"), nll, rtol=tolerance, atol=tolerance
    )
    loss, backward = softmax_cross_entropy.vjp(logits, targets, lengths=lengths)
    assert type(loss) is float
    assert_allclose(loss, nll.sum() / valid.sum(), rtol=tolerance, atol=tolerance)
    assert_allclose(softmax_cross_entropy(logits, targets, lengths=lengths), loss, rtol=1e-14, atol=1e-16)
    want = (np.exp(log_softmax(logits)) - np.eye(V)[targets]) * valid[..., None] / valid.sum()
    assert_allclose(backward(), want, rtol=tolerance, atol=tolerance)
    assert_allclose(backward(3.0), 3 * want, rtol=tolerance, atol=3 * tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_is_weighted_by_step(isa, dtype):
    logits, targets, lengths = (
        normal(4, 3, 5, dtype=dtype),
        np.array([[0, 1, 4], [2, -1, 3], [0, 0, 0], [4, 4, 4]]),
        [4, 2, 3],
    )
    weights = np.random.default_rng(0).uniform(0, 2, (4, 3))
    valid = weights * ((targets >= 0) & (np.arange(4)[:, None] < lengths))
    nll = softmax_cross_entropy(logits, targets, lengths=lengths, reduction="none")
    want = (nll * valid).sum() / valid.sum()
    tolerance = {"float32": 3e-6, "float64": 1e-13}[dtype]
    options = dict(lengths=lengths, weights=weights)
    assert_allclose(softmax_cross_entropy(logits, targets, **options), want, rtol=1e-12)
    assert_allclose(softmax_cross_entropy(logits, targets, reduction="none", **options), nll * valid, rtol=1e-12)
    loss, backward = softmax_cross_entropy.vjp(logits, targets, **options)
    assert_allclose(loss, want, rtol=tolerance)
    gradient = (np.exp(log_softmax(logits)) - np.eye(5)[targets]) * valid[..., None] / valid.sum()
    assert_allclose(backward(), gradient, rtol=tolerance, atol=tolerance)
    assert softmax_cross_entropy.vjp(logits, targets, weights=np.zeros((4, 3)))[0] == 0
    assert_array_equal(softmax_cross_entropy.vjp(logits, targets, weights=np.zeros((4, 3)))[1](), 0)


def test_gradient_of_cross_entropy_matches_central_differences():
    logits, targets, lengths = normal(4, 3, 5), np.array([[0, 1, 4], [2, -1, 3], [0, 0, 0], [4, 4, 4]]), [4, 2, 3]
    backward = softmax_cross_entropy.vjp(logits, targets, lengths=lengths)[1]
    want = numeric_gradient(lambda: softmax_cross_entropy(logits, targets, lengths=lengths), logits)
    assert_allclose(backward(), want, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_label_smoothing_is_the_cross_entropy_to_a_smoothed_target(isa, dtype, eps, weighted):
    logits, targets, lengths = (
        normal(4, 3, 5, dtype=dtype),
        np.array([[0, 1, 4], [2, -1, 3], [0, 0, 0], [4, 4, 4]]),
        [4, 2, 3],
    )
    weights = np.random.default_rng(0).uniform(0, 2, (4, 3)) if weighted else np.ones((4, 3))
    valid = weights * ((targets >= 0) & (np.arange(4)[:, None] < lengths))
    wanted = (1 - eps) * np.eye(5)[targets] + eps / 5
    nll = -(wanted * log_softmax(logits)).sum(-1) * valid
    tolerance = {"float32": 3e-6, "float64": 1e-13}[dtype]
    options = dict(lengths=lengths, weights=weights if weighted else None, label_smoothing=eps)
    assert_allclose(
        softmax_cross_entropy(logits, targets, reduction="none", **options), nll, rtol=tolerance, atol=tolerance
    )
    assert_allclose(softmax_cross_entropy(logits, targets, **options), nll.sum() / valid.sum(), rtol=tolerance)
    here = logits.copy()
    for loss, backward in (
        softmax_cross_entropy.vjp(logits, targets, **options),
        softmax_cross_entropy.vjp(here, targets, out=here, **options),
    ):
        assert_allclose(loss, nll.sum() / valid.sum(), rtol=tolerance)
        want = (np.exp(log_softmax(logits)) - wanted) * valid[..., None] / valid.sum()
        assert_allclose(backward(), want, rtol=tolerance, atol=tolerance)


def test_gradient_of_smoothed_cross_entropy_matches_central_differences():
    logits, targets = normal(4, 3, 5), np.array([[0, 1, 4], [2, -1, 3], [0, 0, 0], [4, 4, 4]])
    options = dict(lengths=[4, 2, 3], weights=np.random.default_rng(0).uniform(0, 2, (4, 3)), label_smoothing=0.2)
    backward = softmax_cross_entropy.vjp(logits, targets, **options)[1]
    want = numeric_gradient(lambda: softmax_cross_entropy(logits, targets, **options), logits)
    assert_allclose(backward(), want, rtol=1e-7, atol=1e-9)


@pytest.mark.torch
@pytest.mark.parametrize("eps", [0.0, 0.1, 0.5])
def test_label_smoothing_agrees_with_torch(eps):
    import torch

    logits, targets = normal(12, 7), np.array([0, 1, 6, 2, -1, 3, 0, 0, -1, 4, 4, 5])
    x = torch.tensor(logits, requires_grad=True)
    want = torch.nn.CrossEntropyLoss(label_smoothing=eps, ignore_index=-1)(x, torch.from_numpy(targets))
    want.backward()
    loss, backward = softmax_cross_entropy.vjp(logits, targets, label_smoothing=eps)
    assert_allclose(loss, want.item(), rtol=1e-14)
    assert_allclose(backward(), x.grad.numpy(), rtol=1e-13, atol=1e-16)


def test_without_smoothing_the_bits_are_those_of_the_plain_loss():
    logits, targets = normal(5, 2, 9, dtype="float32"), np.arange(10).reshape(5, 2) % 9
    loss, backward = softmax_cross_entropy.vjp(logits, targets)
    same, same_backward = softmax_cross_entropy.vjp(logits, targets, label_smoothing=0.0)
    assert same == loss
    assert_array_equal(same_backward(), backward())


def test_cross_entropy_of_huge_logits_is_finite_and_nan_is_not_swallowed():
    logits = np.array([[1e30, 0.0, -1e30], [0.0, 5e4, 0.0]], "float32")
    assert_array_equal(softmax_cross_entropy(logits, [0, 0], reduction="none"), [0, 5e4])
    assert_array_equal(softmax_cross_entropy.vjp(logits, [0, 1])[1](), 0)
    logits[1, 2] = np.nan
    assert np.isnan(softmax_cross_entropy(logits, [0, 0]))
    assert softmax_cross_entropy(logits, [0, -1]) == 0
    assert_array_equal(softmax_cross_entropy.vjp(logits, [0, -1])[1]()[1], 0)


def test_cross_entropy_may_overwrite_its_logits():
    logits = normal(5, 2, 9, dtype="float32")
    targets = np.arange(10).reshape(5, 2) % 9
    loss, backward = softmax_cross_entropy.vjp(logits, targets)
    here = logits.copy()
    same_loss, same_backward = softmax_cross_entropy.vjp(here, targets, out=here)
    assert same_loss == loss
    assert same_backward() is here
    assert_array_equal(here, backward())
    assert backward() is not backward()


def test_losses_without_a_valid_step_are_zero():
    logits = normal(2, 2, 3)
    loss, backward = softmax_cross_entropy.vjp(logits, np.full((2, 2), -1))
    assert loss == 0
    assert_array_equal(backward(), 0)
    loss, backward = mean_squared_error.vjp(logits, logits + 1, lengths=[0, 0])
    assert loss == 0
    assert_array_equal(backward(), 0)
    assert softmax_cross_entropy(np.empty((0, 2, 3)), np.empty((0, 2), int)) == 0
    for some in (np.full((2, 2), -1), np.empty((0, 2), int)):
        loss, backward = softmax_cross_entropy.vjp(logits[: len(some)], some, label_smoothing=0.1)
        assert loss == 0
        assert_array_equal(backward(), 0)


@pytest.mark.parametrize("lengths", [None, [3, 1, 0]])
def test_mean_squared_error_and_its_gradient(lengths):
    y, targets = normal(3, 3, 2), normal(3, 3, 2, seed=1)
    valid = np.ones((3, 3), bool) if lengths is None else np.arange(3)[:, None] < lengths
    targets[~valid] = np.nan
    loss, backward = mean_squared_error.vjp(y, targets, lengths=lengths)
    assert_allclose(loss, np.mean((y[valid] - targets[valid]) ** 2), rtol=1e-14)
    assert_allclose(
        backward(), numeric_gradient(lambda: mean_squared_error(y, targets, lengths=lengths), y), rtol=1e-7, atol=1e-9
    )
    y[0, 0, 0] = np.nan
    assert np.isnan(mean_squared_error(y, targets, lengths=lengths))


# ---- messages -----------------------------------------------------------------------------------------------------

X = np.zeros((4, 2, 3), "float32")
STORAGE = Storage("float32")
TABLE = fastrnn.Embedding(5, 2, storage=STORAGE)
LINEAR, EMBEDDING, DROPOUT = fastrnn.Linear(3, 5), fastrnn.Embedding(4, 2), fastrnn.Dropout(0.5)
BAD = [
    (lambda: fastrnn.Linear(0, 2), ValueError, "in_features is 0, but it must be at least 1"),
    (lambda: fastrnn.Linear(2, 1.5), TypeError, "out_features is 1.5, but it must be a whole number"),
    (
        lambda: fastrnn.Linear(3, 5, weight=np.zeros((5, 3)), storage=STORAGE),
        TypeError,
        "weight is ndarray, but it must be the Slot of another layer's parameter: emb.slots['weight']",
    ),
    (
        lambda: fastrnn.Linear(3, 5, weight=TABLE.slots["weight"]),
        ValueError,
        "weight is another layer's parameter, but storage is None: pass the storage of that layer",
    ),
    (
        lambda: fastrnn.Linear(3, 5, weight=TABLE.slots["weight"], storage=STORAGE),
        ValueError,
        "weight is a parameter of shape (5, 2), but this layer needs (5, 3)",
    ),
    (lambda: LINEAR(X[..., :2]), ValueError, "x has 2 features, but this Linear was made with in_features=3"),
    (
        lambda: LINEAR(X.astype("float64")),
        TypeError,
        "x is float64, but this Linear computes in float32: convert with x.astype('float32')",
    ),
    (
        lambda: LINEAR(X, out=X),
        ValueError,
        "out is float32 of shape (4, 2, 3), but it must be float32 of shape (4, 2, 5)",
    ),
    (
        lambda: LINEAR(X, out=np.zeros((2, 4, 5), "f").swapaxes(0, 1)),
        ValueError,
        "out must be C-contiguous and writable",
    ),
    (
        lambda: LINEAR.vjp(X)[1](X),
        ValueError,
        "dy has shape (4, 2, 3), but the forward pass it belongs to gave (4, 2, 5)",
    ),
    (lambda: EMBEDDING([0, 4]), ValueError, "ids go from 0 to 4, but this Embedding has rows 0 to 3"),
    (lambda: EMBEDDING([0, -1]), ValueError, "ids go from -1 to 0, but this Embedding has rows 0 to 3"),
    (lambda: EMBEDDING([0.0]), TypeError, "ids are float64, but they must be whole numbers"),
    (lambda: fastrnn.Dropout(1.0), ValueError, "p is 1.0, but it must be a number from 0 up to, but not including, 1"),
    (
        lambda: fastrnn.Dropout(-0.1),
        ValueError,
        "p is -0.1, but it must be a number from 0 up to, but not including, 1",
    ),
    (lambda: DROPOUT.vjp(X, rng=1 << 64), ValueError, "rng is 18446744073709551616, but it must be from 0 to 2**64-1"),
    (lambda: DROPOUT.vjp(X, rng=0.5), TypeError, "rng is 0.5, but it must be an int"),
    (lambda: DROPOUT.vjp(X[0, 0]), ValueError, "x must be (T, B, n) or (rows, n), got shape (3,)"),
    (
        lambda: softmax_cross_entropy(X, np.zeros((4, 3), int)),
        ValueError,
        "targets have shape (4, 3), but the logits have shape (4, 2, 3): targets must have shape (4, 2)",
    ),
    (
        lambda: softmax_cross_entropy(X, np.full((4, 2), 3)),
        ValueError,
        "targets go up to 3, but the logits have 3 classes, 0 to 2",
    ),
    (
        lambda: softmax_cross_entropy(X, np.zeros((4, 2))),
        TypeError,
        "targets are float64, but they must be whole numbers",
    ),
    (
        lambda: softmax_cross_entropy(X, np.zeros((4, 2), int), lengths=[5, 1]),
        ValueError,
        "lengths must be from 0 to T=4, got 5",
    ),
    (
        lambda: softmax_cross_entropy(X, np.zeros((4, 2), int), lengths=[1]),
        ValueError,
        "lengths have shape (1,), but logits has B=2 sequences: pass (2,)",
    ),
    (
        lambda: softmax_cross_entropy(X[0], np.zeros(2, int), lengths=[1]),
        ValueError,
        "lengths require logits with 3 axes (T, B, n), got 2",
    ),
    (
        lambda: softmax_cross_entropy(X, np.zeros((4, 2), int), reduction="sum"),
        ValueError,
        "reduction is 'sum', but it must be one of 'mean', 'none'",
    ),
    (
        lambda: softmax_cross_entropy(X, np.zeros((4, 2), int), label_smoothing=1.5),
        ValueError,
        "label_smoothing is 1.5, but it must be <= 1",
    ),
    (
        lambda: softmax_cross_entropy.vjp(X, np.zeros((4, 2), int), label_smoothing=-1),
        ValueError,
        "label_smoothing is -1, but it must be >= 0",
    ),
    (lambda: softmax_cross_entropy(X.astype(int), X), TypeError, "logits is int64, but it must be float32 or float64"),
    (lambda: mean_squared_error(X, X[:2]), ValueError, "targets has shape (2, 2, 3), but y has (4, 2, 3)"),
    (
        lambda: mean_squared_error(X, X.astype("float64")),
        TypeError,
        "targets is float64, but y is float32: convert with targets.astype('float32')",
    ),
]


@pytest.mark.parametrize("call, error, message", BAD, ids=[message for _, _, message in BAD])
def test_a_wrong_argument_is_named_with_both_numbers(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


def test_a_call_that_is_refused_uses_up_no_dropout_masks():
    """The next call draws the masks that the refused one would have drawn."""
    x = np.ones((5, 2, 4), "float32")
    memory = np.ones((3, 2, 8), "float32")

    def layers():
        yield fastrnn.Dropout(0.5, seed=1), (x,), (x.astype(int),)
        yield fastrnn.LSTM(4, 8, 2, dropout=0.5, seed=1), (x,), (x[..., :3],)
        yield (
            fastrnn.AttentionDecoder(fastrnn.GRU(4, 8, 2, dropout=0.5, seed=1), 8, seed=2),
            (x, memory),
            (x, memory[:, :1]),
        )
        yield fastrnn.Stacked([fastrnn.GRU(4, 8, seed=1), fastrnn.GRU(8, 8, seed=2)], dropout=0.5), (x,), (x[..., :3],)

    for (layer, good, wrong), (other, _, _) in zip(layers(), layers(), strict=True):
        with pytest.raises((TypeError, ValueError)):
            layer.vjp(*wrong)
        y, want = layer.vjp(*good)[0], other.vjp(*good)[0]
        y, want = (a if isinstance(a, np.ndarray) else a[0] for a in (y, want))
        assert_array_equal(y, want, err_msg=type(layer).__name__)

"""Optimisers compared with torch's, clipping, schedules."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastrnn
from fastrnn import optim
from fastrnn.parameters import Storage

SIZES = [1, 15, 16, 17, 1000]
CASES = {
    "sgd": (optim.SGD, dict(lr=0.1)),
    "sgd with weight decay": (optim.SGD, dict(lr=0.1, weight_decay=0.03)),
    "momentum": (optim.SGD, dict(lr=0.1, momentum=0.9, weight_decay=0.01)),
    "nesterov": (optim.SGD, dict(lr=0.1, momentum=0.8, nesterov=True)),
    "rmsprop": (optim.RMSprop, dict(lr=0.01, alpha=0.95)),
    "rmsprop with weight decay": (optim.RMSprop, dict(lr=0.01, eps=1e-3, weight_decay=0.1)),
    "adagrad": (optim.Adagrad, dict(lr=0.1)),
    "adagrad with decay": (optim.Adagrad, dict(lr=0.1, lr_decay=0.2, weight_decay=0.1)),
    "adam": (optim.Adam, dict(lr=0.01)),
    "adam with weight decay": (optim.Adam, dict(lr=0.01, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.1)),
    "adamw": (optim.AdamW, dict(lr=0.01)),
}


def storage_of(values):
    storage = Storage(values.dtype)
    storage.add(values)
    return storage


def gradients(size, dtype, steps=25):
    rng = np.random.default_rng(size)
    return (rng.standard_normal((steps, size)) * np.exp(3 * rng.standard_normal(size))).astype(dtype)


@pytest.mark.torch
@pytest.mark.parametrize("dtype, rtol", [("float32", 2e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("name", CASES)
def test_every_optimiser_makes_the_steps_of_torch(isa, name, dtype, rtol):
    torch = pytest.importorskip("torch")
    maker, options = CASES[name]
    for size in SIZES:
        start = np.random.default_rng(0).standard_normal(size).astype(dtype)
        storage = storage_of(start)
        ours = maker(storage, **options)
        parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
        theirs = getattr(torch.optim, maker.__name__)([parameter], **options)
        for step, g in enumerate(gradients(size, dtype)):
            scale = 0.3 if step % 3 == 0 else 1.0
            kept = g.copy()
            ours.step(g, scale)
            assert_array_equal(g, kept)
            parameter.grad = torch.from_numpy(g) * scale
            theirs.step()
        assert_allclose(storage.flat, parameter.detach().numpy(), rtol=rtol, atol=rtol, err_msg=str(size))


@pytest.mark.torch
@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adagrad", "Adam", "AdamW"])
def test_defaults_are_those_of_torch(name):
    torch = pytest.importorskip("torch")
    ours = getattr(optim, name)(storage_of(np.zeros(3)))
    theirs = getattr(torch.optim, name)([torch.nn.Parameter(torch.zeros(3))]).defaults
    for option in ("lr", *ours._options):
        assert getattr(ours, option) == theirs[option], option


def test_first_steps_by_hand():
    storage = storage_of(np.array([1.0, -1.0]))
    optimizer = optim.Adam(storage, lr=0.1)
    optimizer.step(np.array([0.5, -3.0]))
    assert_allclose(storage.flat, [0.9, -0.9], rtol=1e-7)  # the first step of Adam is lr * sign(g)
    assert storage.version == 1
    storage = storage_of(np.array([1.0, 1.0]))
    optim.SGD(storage, lr=0.5).step(np.array([1.0, 2.0]), scale=0.5)
    assert_array_equal(storage.flat, [0.75, 0.5])


@pytest.mark.parametrize("name", CASES)
def test_a_state_dict_that_went_through_json_continues_to_the_same_bits(name):
    maker, options = CASES[name]
    steps = gradients(33, "float32")
    storage = storage_of(np.ones(33, "float32"))
    optimizer = maker(storage, **options)
    for g in steps[:10]:
        optimizer.step(g)
    optimizer.lr = 0.005
    state = optimizer.state_dict()
    scalars = {key: value for key, value in state.items() if not isinstance(value, np.ndarray)}
    arrays = {key: value.copy() for key, value in state.items() if isinstance(value, np.ndarray)}
    other_storage = storage_of(np.array(storage.flat))
    other = maker(other_storage)
    if maker is optim.SGD and options.get("momentum"):
        other = maker(other_storage, momentum=0.5)
    other.load_state_dict(json.loads(json.dumps(scalars)) | arrays)
    assert repr(other) == repr(optimizer)
    for g in steps[10:]:
        optimizer.step(g)
        other.step(g)
    assert_array_equal(other_storage.flat, storage.flat)
    assert not any((value == 0).all() for value in arrays.values())


def test_an_optimiser_of_a_layer_updates_only_its_part():
    storage = Storage("float32")
    first = fastrnn.Linear(3, 2, seed=0, storage=storage)
    second = fastrnn.Linear(2, 2, seed=1, storage=storage)
    kept = first.state_dict()
    optim.SGD(second, lr=1.0).step(np.array(second.flat))
    assert_array_equal(second.flat, 0)
    assert_array_equal(first.params["weight"], kept["weight"])


def test_clipping():
    g = np.array([3.0, -4.0, 0.0])
    norm, scale = optim.clip_by_global_norm(g, 1.0)
    assert norm == 5
    assert_allclose(scale, 1 / (5 + 1e-6), rtol=1e-15)
    assert optim.clip_by_global_norm(g, 6.0) == (5.0, 1.0)
    assert_array_equal(g, [3, -4, 0])
    g[2] = np.nan
    norm, scale = optim.clip_by_global_norm(g, 1.0)
    assert np.isnan(norm)
    assert np.isnan(scale)
    optim.clip_by_value(g, 3.5)
    assert_array_equal(g, [3, -3.5, np.nan])


def test_clipping_takes_any_shape_and_refuses_what_the_engine_cannot_read():
    g = np.array([[3.0, -4.0], [5.0, -6.0]], "float32")
    assert optim.clip_by_global_norm(g, 100.0)[0] == pytest.approx(86**0.5)
    optim.clip_by_value(g, 2)
    assert_array_equal(g, [[2, -2], [2, -2]])
    for wrong in (np.ones(3, "float16"), np.ones(3, "int64"), np.ones(3, "complex64"), [1.0, 2.0]):
        with pytest.raises(TypeError, match="must be a float32 or float64 array"):
            optim.clip_by_global_norm(wrong, 1.0)
        with pytest.raises(TypeError, match="must be a float32 or float64 array"):
            optim.clip_by_value(wrong, 1.0)
    with pytest.raises(ValueError, match="grad must be C-contiguous and writable"):
        optim.clip_by_value(np.ones((4, 4))[:, 1], 1.0)
    big = np.full(10, 1e30, "float32")  # its square overflows float32
    assert_allclose(optim.clip_by_global_norm(big, 1.0)[0], np.sqrt(10) * np.float32(1e30), rtol=1e-7)


@pytest.mark.torch
def test_schedules_are_those_of_torch():
    torch = pytest.importorskip("torch")
    schedulers = torch.optim.lr_scheduler

    def factors(make, losses=None):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = make(optimizer)
        result = []
        for epoch in range(20):
            result.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step(*(() if losses is None else (losses[epoch],)))
        return result

    for ours, theirs in [
        (optim.StepDecay(0.5, every=3, after=3), lambda o: schedulers.StepLR(o, 3, 0.5)),
        (optim.ExponentialDecay(0.9), lambda o: schedulers.ExponentialLR(o, 0.9)),
        (optim.Cosine(19, minimum=0.1), lambda o: schedulers.CosineAnnealingLR(o, 19, 0.1)),
        (optim.LinearWarmup(4, optim.ExponentialDecay(0.9)), None),
    ]:
        got = [ours(epoch) for epoch in range(20)]
        want = factors(theirs) if theirs else [1e-3] + [min(1, e / 4) * 0.9**e for e in range(1, 20)]
        assert_allclose(got, want, rtol=1e-12, err_msg=repr(ours))

    losses = [3, 2, 1.9999, 2.1, 2.2, 2.3, 1.5, 1.6, 1.6, 1.6, 1.6, 1.6, 1.6, 1.6, 1.6, 1.4, 1.4, 1.4, 1.4, 1.4]
    ours, got = optim.ReduceOnPlateau(0.5, patience=2), []
    for loss in losses:
        got.append(ours(0.0))
        ours.observe(loss)
    assert_allclose(got, factors(lambda o: schedulers.ReduceLROnPlateau(o, factor=0.5, patience=2), losses), rtol=1e-12)
    assert got[-1] < 0.2


def test_a_plateau_continues_from_its_state():
    first, second = optim.ReduceOnPlateau(0.5, patience=1), optim.ReduceOnPlateau(0.5, patience=1)
    for loss in (1.0, 2.0):
        first.observe(loss)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for schedule in (first, second):
        schedule.observe(2.0)
    assert first(9.0) == second(9.0) == 0.5


def test_char_rnn_decays_after_its_tenth_epoch():
    schedule = optim.StepDecay(0.97, after=10)
    assert [schedule(epoch) for epoch in (0, 9.99, 10, 10.99, 11)] == [1.0, 1.0, 0.97, 0.97, 0.97**2]


STORAGE = storage_of(np.zeros(3))
BAD = [
    (lambda: optim.Adam(STORAGE, lr=-1), ValueError, "lr is -1, but it must be >= 0"),
    (lambda: optim.Adam(STORAGE, lr="x"), TypeError, "lr is 'x', but it must be a number"),
    (lambda: optim.Adam(STORAGE, lr=float("nan")), ValueError, "lr is nan, but it must be >= 0"),
    (lambda: optim.Adam(STORAGE, betas=(0.9, 1.0)), ValueError, "betas[1] is 1.0, but it must be < 1"),
    (
        lambda: optim.SGD(STORAGE, nesterov=True),
        ValueError,
        "nesterov=True requires momentum > 0, but momentum is 0",
    ),
    (
        lambda: optim.SGD(STORAGE).step(np.zeros(4)),
        ValueError,
        "grad is float64 of shape (4,), but the parameters of this SGD are float64 of shape (3,), contiguous",
    ),
    (
        lambda: optim.SGD(STORAGE).step(np.zeros(3, "f")),
        ValueError,
        "grad is float32 of shape (3,), but the parameters of this SGD are float64 of shape (3,), contiguous",
    ),
    (lambda: optim.clip_by_value(np.zeros(3), 0), ValueError, "limit is 0, but it must be > 0"),
    (lambda: optim.clip_by_global_norm(np.zeros(3), -1), ValueError, "max_norm is -1, but it must be > 0"),
    (lambda: optim.StepDecay(1.5), ValueError, "factor is 1.5, but it must be <= 1"),
    (lambda: optim.Cosine(0), ValueError, "epochs is 0, but it must be > 0"),
    (
        lambda: optim.Adam(STORAGE).load_state_dict(optim.SGD(STORAGE).state_dict()),
        ValueError,
        "the state belongs to 'SGD', but this optimiser is 'Adam'",
    ),
    (
        lambda: optim.Adam(STORAGE).load_state_dict(optim.Adam(storage_of(np.zeros(4))).state_dict()),
        ValueError,
        "m has shape (4,), but the parameters of this Adam have shape (3,)",
    ),
    (
        lambda: optim.Adam(STORAGE).load_state_dict({"optimizer": "Adam", "lr": 1}),
        KeyError,
        "'the state for this Adam lacks betas, eps, weight_decay, updates, m, v'",
    ),
]


@pytest.mark.parametrize("call, error, message", BAD, ids=[message for _, _, message in BAD])
def test_a_wrong_argument_is_named_with_both_numbers(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
    assert STORAGE.version == 0

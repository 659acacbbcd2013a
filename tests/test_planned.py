"""Planned functions give the results of the function itself, or run it as it is."""

import dataclasses
import threading

import numpy as np
import pytest
from fuzz import seeds
from numpy.testing import assert_array_equal

import fastrnn
from fastrnn import _engine, losses, optim, plans

CALLS = 9  # enough for a plan to be used alone


def bits(value):
    """Nested results as bytes."""
    if isinstance(value, (tuple, dict)) or dataclasses.is_dataclass(value):
        return [bits(part) for part in (value if isinstance(value, tuple) else _engine.parts_of(value))]
    return None if value is None else np.asarray(value).tobytes()


def assert_same(function, arguments, least=1, **options):
    """Call a function and its planned form with each tuple of arguments; returns the planned form."""
    made = fastrnn.planned(function)
    for given in arguments:
        expected = {key: value.copy() if key == "into" else value for key, value in options.items()}
        wanted = function(*_engine.copy_of(given), **expected)
        assert bits(made(*given, **options)) == bits(wanted)
        for name in expected.keys() & {"into"}:
            assert_array_equal(options[name], expected[name])
    assert made.used >= least, made.refused
    return made


def normal(rng, *shape, dtype="float32"):
    return rng.standard_normal(shape).astype(dtype)


class Composed:
    """A recurrent layer, a linear one and the cross-entropy, of random sizes and options."""

    def __init__(self, seed):
        self.rng = rng = np.random.default_rng(seed)
        self.dtype = str(rng.choice(["float32", "float64"]))
        self.T, self.B, self.I, H, self.V = (int(rng.integers(1, n)) for n in (9, 6, 7, 20, 9))
        self.storage = fastrnn.Storage(self.dtype)
        cell, layers = [fastrnn.RNN, fastrnn.GRU, fastrnn.LSTM][rng.integers(3)], int(rng.integers(1, 3))
        options = dict(bidirectional=bool(rng.integers(2)), dropout=float(rng.choice([0, 0.3])))
        shared = dict(dtype=self.dtype, seed=seed, storage=self.storage)
        self.net = cell(self.I, H, layers, **options, **shared)
        self.head = fastrnn.Linear(H * (1 + self.net.bidirectional), self.V, **shared)
        self.ragged, self.need_x = bool(rng.integers(2)), bool(rng.integers(2))

    def gradient(self, x, targets, lengths, *, into, rng):
        (y, state_n), backward = self.net.vjp(x, lengths=lengths, rng=rng)
        logits, head_backward = self.head.vjp(y)
        loss, loss_backward = losses.softmax_cross_entropy.vjp(logits, targets)
        g = backward(head_backward(loss_backward(), into=into).x, need_x=self.need_x, into=into)
        optim.clip_by_value(into, 0.05)
        return loss, {"state": state_n}, g.x

    def arguments(self):
        x = normal(self.rng, self.T, self.B, self.I, dtype=self.dtype)
        targets = self.rng.integers(0, self.V, (self.T, self.B))
        if not self.ragged:
            return x, targets, None
        lengths = self.rng.integers(0, self.T + 1, self.B)
        lengths[self.rng.integers(self.B)] = self.T
        targets[np.arange(self.T)[:, None] >= lengths] = -1
        return x, targets, lengths


@pytest.mark.fuzz
def test_composed_layers():
    for seed in seeds("planned", 30):
        made = Composed(seed)
        planned = fastrnn.planned(made.gradient)
        into, wanted_into = np.zeros_like(made.storage.flat), np.zeros_like(made.storage.flat)
        for k in range(CALLS):
            given = made.arguments()
            wanted = made.gradient(*given, into=wanted_into, rng=k)
            assert bits(planned(*given, into=into, rng=k)) == bits(wanted), f"case {seed}, call {k}"
            assert_array_equal(into, wanted_into, err_msg=f"case {seed}, call {k}")
            with made.storage.updating() as flat:
                flat -= 0.1 * into
        assert planned.used, f"case {seed}: {planned.refused}"


def test_gradients_and_inference_are_recorded():
    rng, net = np.random.default_rng(0), fastrnn.GRU(3, 4, seed=0)

    def gradients(x, dy):
        (y, _), backward = net.vjp(x)
        return y, backward(dy)

    made = assert_same(gradients, [(normal(rng, 5, 2, 3), normal(rng, 5, 2, 4)) for _ in range(CALLS)])
    assert made.memory > 0
    assert isinstance(made(normal(rng, 5, 2, 3), normal(rng, 5, 2, 4))[1], fastrnn.Gradients)
    assert_same(lambda x: net(x), [(normal(rng, 2, 1, 3),) for _ in range(CALLS)])  # without a plan, by a kept stream


def test_results_belong_to_the_caller():
    net = fastrnn.GRU(3, 4, seed=0)
    made = fastrnn.planned(lambda x: net(x)[0])
    rng = np.random.default_rng(0)
    results = [made(normal(rng, 5, 2, 3)) for _ in range(CALLS)]
    copies = [y.copy() for y in results]
    made(normal(rng, 5, 2, 3))
    assert_array_equal(results, copies)


def not_planned(function, arguments, **options):
    """Call a function that cannot be recorded, and one that computes the same; returns why it is not."""
    made = assert_same(function, arguments, least=0, **options)
    assert not made.used
    (reason,) = made.refused
    return reason


def test_what_cannot_be_recorded_runs_as_it_is():
    rng, net = np.random.default_rng(0), fastrnn.GRU(3, 4, seed=0)
    x = [(normal(rng, 5, 2, 3),) for _ in range(CALLS)]
    stream, kept = net.stream(2), np.zeros_like(net.flat)

    def twice(x):
        return net(x)[0] * 2

    def number(x):
        return float(net(x)[0].sum())

    def stepped(x):
        stream.reset()
        return stream.run(x)

    def writes(x):
        y = net(x)[0]
        x[0] = 0
        return y

    def added(x):
        (_, _), backward = net.vjp(x)
        backward(np.ones((5, 2, 4), "float32"), into=kept)

    def compared(x):
        (y, _), backward = net.vjp(x)
        loss, loss_backward = losses.mean_squared_error.vjp(y, np.zeros_like(y))
        return backward(loss_backward()).flat if loss < 0.1 else None

    def read(x):
        y = net(x)[0]
        return y, net(x)[0] if y[0, 0, 0] > 100 else None

    assert "numpy.multiply" in not_planned(twice, x)
    assert "numpy.add" in not_planned(number, x)
    assert "a stream" in not_planned(stepped, x)
    assert "into" in not_planned(added, x)
    assert "assignment" in not_planned(writes, [(normal(rng, 5, 2, 3),) for _ in range(CALLS)])
    assert "compares" in not_planned(compared, x)
    assert "indexing" in not_planned(read, x)
    for method in ("copy", "max", "mean", "argmax", "tolist", "item", "astype"):
        given = [(normal(rng, 1, 1, 3),) for _ in range(CALLS)]

        def called(x, method=method):
            y = net(x)[0]
            return y, None if getattr(y[..., :1], method)(*["float64"] * (method == "astype")) is None else None

        assert "NumPy computes" in not_planned(called, given), method
    objects = np.empty(2, object)
    assert "objects" in not_planned(lambda x, names: net(x)[0], [(*given, objects) for given in x])


def test_a_constant_is_noticed_even_if_the_first_batches_are_equal():
    """As in a benchmark, which repeats one batch: comparisons of results would not notice NumPy between the layers."""
    net, rng = fastrnn.GRU(3, 4, seed=0), np.random.default_rng(0)
    made = fastrnn.planned(lambda x: net(np.maximum(x, 0))[0])
    x = normal(rng, 5, 2, 3)
    for _ in range(20):
        made(x)
    other = normal(rng, 5, 2, 3)
    assert_array_equal(made(other), net(np.maximum(other, 0))[0])
    assert not made.used and "numpy.maximum" in str(made.refused)


@pytest.mark.parametrize("copied", ["x.reshape(10, 3)", "x.ravel()", "np.reshape(x, (10, 3))"])
def test_a_reshape_that_copies_is_noticed(copied):
    net, rng = fastrnn.GRU(3, 4, seed=0), np.random.default_rng(0)

    def function(given):
        x = given.transpose(1, 0, 2)
        return net(eval(copied, {"x": x, "np": np}).reshape(5, 2, 3))[0]

    made, x, other = fastrnn.planned(function), normal(rng, 5, 2, 3), normal(rng, 5, 2, 3)
    for _ in range(20):
        made(x)
    assert_array_equal(made(other), function(other))
    assert not made.used and "that copies" in str(made.refused)


def test_views_and_shapes_of_recorded_arrays():
    net, rng = fastrnn.GRU(3, 4, seed=0), np.random.default_rng(0)

    def last(x):
        (y, h), backward = net.vjp(x.transpose(0, 1, 2)[:, :2])
        assert y.shape == (len(x), 2, 4) and y.ndim == 3
        return y[-1], h[0], backward(np.ones_like(y)).x, y.reshape(-1, 4), y.ravel()[:3], y.reshape((10, 4), order="C")

    assert_same(last, [(normal(rng, 5, 2, 3),) for _ in range(CALLS)])


@dataclasses.dataclass
class WithAnother:
    y: object
    kind: object = dataclasses.field(init=False, default=None)

    def __post_init__(self):
        self.another = 3


@dataclasses.dataclass
class OfList(list):
    y: object


@pytest.mark.parametrize("kind", [WithAnother, OfList])
def test_results_keep_all_attributes(kind):
    net, rng = fastrnn.GRU(3, 4, seed=0), np.random.default_rng(0)
    made = fastrnn.planned(lambda x: kind(net(x)[0]))
    for _ in range(CALLS):
        x = normal(rng, 5, 2, 3)
        found, want = made(x), kind(net(x)[0])
        assert type(found) is kind and vars(found).keys() >= vars(want).keys()
        assert_array_equal(found.y, want.y)
    assert made.used and not made.refused


def test_keywords_methods_and_numbers():
    net, rng = fastrnn.GRU(3, 4, seed=0), np.random.default_rng(0)

    class Model:
        @fastrnn.planned
        def output(self, x, *, part):
            return net(x)[0][part]

    model = Model()
    for k in range(2 * CALLS):
        x = normal(rng, 5, 2, 3)
        assert_array_equal(model.output(x=x, part=k % 2), net(x)[0][k % 2])
    assert model.output.used and not model.output.refused
    many = fastrnn.planned(lambda x, k: net(x)[0])
    for k in range(plans._KEPT + 9):  # a number that never comes again
        many(x, k)
    assert not many.used and "did not come again" in str(many.refused)


def test_what_an_attack_found():
    rng, net, linear = np.random.default_rng(0), fastrnn.LSTM(3, 4, seed=0), fastrnn.Linear(3, 6, seed=0)
    embedding, into = fastrnn.Embedding(5, 3, seed=0), np.zeros_like(linear.flat)

    def reason(function, *arguments, **options):
        return not_planned(function, [arguments] * 3, **options)

    def varied(make):
        return [make(k) for k in range(CALLS)]

    x = normal(rng, 5, 2, 3)
    # ids and lengths of other whole numbers: they were read as if they had 64 bits
    ids = rng.integers(0, 5, (5, 2))
    assert "int64" in reason(lambda ids: net(ids, embedding=embedding)[0], ids.astype(np.uint8))
    assert "int64" in reason(lambda x, n: net(x, lengths=n)[0], x, np.array([2, 3], np.int32))
    # masks and resets that happen to be all True or all False
    assert "masked" in reason(lambda x, m: net(x, mask=m)[0], x, np.ones((5, 2), bool))
    assert "resets" in reason(lambda x, r: net(x, resets=r)[0], x, np.zeros((5, 2), bool))
    # losses that compute with NumPy
    targets = rng.integers(0, 6, 7)
    rows = normal(rng, 7, 3)
    assert "softmax_linear_nll" in reason(lambda x, t: losses.softmax_linear_nll(linear, x, t), rows, targets)
    # arguments that are written to, or that NumPy treats in a special way
    assert "writable" in reason(lambda x, out: linear(x, out=out), x, np.zeros((5, 2, 6), "float32"))
    assert "MaskedArray" in reason(lambda x: net(x)[0], np.ma.masked_array(x))
    assert "shares memory" in reason(lambda a, *, into: None, into[:3], into=into)

    # weights are checked in every run
    def weighted(y, w):
        return losses.mean_squared_error.vjp(y, np.zeros_like(y), weights=w)[0]

    made = assert_same(weighted, varied(lambda k: (normal(rng, 5, 2, 3), rng.random((5, 2)))))
    with pytest.raises(ValueError, match="not negative"):
        made(normal(rng, 5, 2, 3), np.full((5, 2), -1.0))
    with pytest.raises(TypeError, match="one is Generator"):
        fastrnn.planned(lambda x, g: None)(x, rng)


@pytest.mark.parametrize(
    "make", [lambda: fastrnn.LSTM(3, 4, 2, dropout=0.5, seed=0), lambda: fastrnn.Dropout(0.5, seed=0)]
)
def test_layers_that_draw_their_own_random_numbers_draw_them_once(make):
    layer, same, rng = make(), make(), np.random.default_rng(0)
    planned = fastrnn.planned(lambda x: layer.vjp(x)[0])
    for k in range(CALLS):
        x = normal(rng, 5, 2, 3)
        assert bits(planned(x)) == bits(same.vjp(x)[0]), f"call {k}"
    assert not planned.used and "the argument rng" in str(planned.refused)


def test_bytes_of_arrays_of_any_order_and_type_are_compared():
    values = np.arange(6.0).reshape(2, 3)
    forms = [values, np.asfortranarray(values), values[::-1][::-1], values.astype("M8[s]"), values[:, :0], values[0, 0]]
    for one in forms:
        for other in (one.copy(), np.array(one, order="F"), np.array(one, order="C")):
            assert _engine.same_bytes(one, other) and _engine.same_bytes(other, one)
    last = values + (values == 5)
    for other in (last, np.asfortranarray(last), np.where(values == 0, -0.0, values)):
        assert not _engine.same_bytes(values, other) and not _engine.same_bytes(other, values)


def test_arrays_that_are_kept_cannot_be_used():
    net, kept = fastrnn.GRU(3, 4, seed=0), []

    @fastrnn.planned
    def keeps(x):
        kept.append(net(x)[0])
        return kept[-1]

    rng = np.random.default_rng(0)
    for _ in range(CALLS):
        keeps(normal(rng, 5, 2, 3))
    recorded = kept[1]
    with pytest.raises(RuntimeError, match="belongs to a plan"):
        recorded + 1
    with pytest.raises(RuntimeError, match="belongs to a plan"):
        fastrnn.Linear(4, 2)(recorded)


def test_an_interrupted_call_leaves_the_plans_usable():
    net, rng = fastrnn.GRU(3, 4, seed=0), np.random.default_rng(0)
    made = fastrnn.planned(lambda x: net(x)[0])
    made._users["thread"] = threading.get_ident()  # as an exception between two instructions would leave it
    for _ in range(CALLS):
        made(normal(rng, 5, 2, 3))
    assert made.used


def test_a_wrong_argument_is_an_error_of_the_function():
    net, linear, rng = fastrnn.GRU(3, 4, seed=0), fastrnn.Linear(4, 3, seed=0), np.random.default_rng(0)

    def loss(x, targets):
        return losses.softmax_cross_entropy.vjp(linear(net(x)[0]), targets)[0]

    made = assert_same(loss, [(normal(rng, 5, 2, 3), rng.integers(0, 3, (5, 2))) for _ in range(CALLS)])
    with pytest.raises(ValueError, match="targets go up to 7, but the logits have 3 classes"):
        made(normal(rng, 5, 2, 3), np.full((5, 2), 7))


def updated(planned):
    """Parameters, number of updates, and the function, after updates that the function makes."""
    net, rng = fastrnn.GRU(3, 4, seed=0), np.random.default_rng(0)
    optimizer = optim.Adam(net)

    def update(x):
        (y, _), backward = net.vjp(x)
        optimizer.step(backward(y).flat)

    function = fastrnn.planned(update) if planned else update
    for _ in range(CALLS):
        function(normal(rng, 5, 2, 3))
    return net.flat, optimizer.updates, function


def test_a_step_of_an_optimizer_is_not_recorded():
    """Recorded and compared, it would be made twice."""
    wanted, _, _ = updated(planned=False)
    found, updates, function = updated(planned=True)
    assert_array_equal(found, wanted)
    assert updates == CALLS
    assert list(function.refused) == ["cannot be recorded: parameters are changed"]


def test_a_setting_that_changes():
    net = fastrnn.LSTM(3, 4, 2, dropout=0.5, seed=0)
    rng = np.random.default_rng(0)
    made = fastrnn.planned(lambda x, *, rng: net.vjp(x, rng=rng)[0])
    for k in range(CALLS):
        made(normal(rng, 5, 2, 3), rng=k)
    net.dropout, x = 0.0, normal(rng, 5, 2, 3)
    made.forget()
    assert bits(made(x, rng=1)) == bits(net(x))


def test_arguments_of_other_shapes_and_types():
    net = fastrnn.GRU(3, 4, seed=0)
    rng = np.random.default_rng(0)
    arguments = [(normal(rng, T, B, 3),) for _ in range(CALLS) for T in (1, 4) for B in (1, 3)]
    assert_same(lambda x: net(x)[0], arguments, least=4)
    strided = [(normal(rng, 5, 2, 6)[:, :, ::2],) for _ in range(CALLS)]
    assert_same(lambda x: net(x)[0], strided)
    words = [(normal(rng, 5, 2, 3), np.array(["a" * k, "b"])) for k in range(1, CALLS)]
    assert_same(lambda x, words: net(x)[0], words, least=0)
    with pytest.raises(TypeError, match="arguments of a planned function are arrays"):
        fastrnn.planned(lambda x: None)([1])


def test_many_threads():
    net = fastrnn.GRU(3, 4, seed=0)
    made = fastrnn.planned(lambda x: net(x)[0])
    wrong = []

    def calls(seed):
        rng = np.random.default_rng(seed)
        for _ in range(200):
            x = normal(rng, 5, 2, 3)
            if made(x).tobytes() != net(x)[0].tobytes():
                wrong.append(seed)

    threads = [threading.Thread(target=calls, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and made.used


def test_an_error_is_that_of_the_function():
    net = fastrnn.GRU(3, 4, seed=0)
    rng = np.random.default_rng(0)
    made = fastrnn.planned(lambda x, bad: net(x)[0] if not bad else net(x[:, :, :2]))
    for bad in (False, True):
        for _ in range(CALLS):
            if bad:
                with pytest.raises(ValueError, match="3"):
                    made(normal(rng, 5, 2, 3), bad)
            else:
                made(normal(rng, 5, 2, 3), bad)
    assert made.used

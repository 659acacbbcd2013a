"""Network: its results, functions, files and errors."""

import threading

import numpy as np
import pytest

import fastrnn
from fastrnn._files import storage
from fastrnn.layers.network import FUNCTIONS, Network

T, B = 6, 4


def ids(seed=0):
    return np.random.default_rng(seed).integers(1, 9, (T, B))


def test_a_chain_equals_its_layers_one_after_another():
    emb, rnn, linear = (
        fastrnn.Embedding(9, 3, seed=0),
        fastrnn.LSTM(3, 5, 2, bidirectional=True, seed=1),
        fastrnn.Linear(10, 2, seed=2),
    )
    net = Network({"emb": emb, "rnn": rnn, "linear": linear})
    y, state = rnn(emb(ids()), lengths=[6, 3, 1, 4])
    found, (found_state,) = net(ids(), lengths=[6, 3, 1, 4])
    np.testing.assert_array_equal(found, linear(y))
    for mine, wanted in zip(found_state, state, strict=True):
        np.testing.assert_array_equal(mine, wanted)
    again, _ = net(ids(), (state,))
    np.testing.assert_array_equal(again, linear(rnn(emb(ids()), state)[0]))


@pytest.mark.parametrize("batch_first", [False, True])
def test_last_takes_each_directions_last_valid_step(batch_first):
    rnn = fastrnn.GRU(3, 5, bidirectional=True, batch_first=batch_first, seed=1)
    x = np.random.default_rng(0).standard_normal((B, T, 3) if batch_first else (T, B, 3)).astype("float32")
    lengths = np.array([6, 3, 1, 4])
    y = rnn(x, lengths=lengths)[0]
    y = y if batch_first else y.transpose(1, 0, 2)
    wanted = np.stack([np.concatenate([y[b, n - 1, :5], y[b, 0, 5:]]) for b, n in enumerate(lengths)])
    np.testing.assert_array_equal(Network({"rnn": rnn, "l": "last"})(x, lengths=lengths)[0], wanted)
    for how, merged in (
        ("sum", wanted[:, :5] + wanted[:, 5:]),
        ("mul", wanted[:, :5] * wanted[:, 5:]),
        ("ave", (wanted[:, :5] + wanted[:, 5:]) / 2),
    ):
        linear = fastrnn.Linear(5, 2)
        net = Network({"rnn": rnn, "l": "last", "merge": ("merge", how), "linear": linear})
        np.testing.assert_array_equal(net(x, lengths=lengths)[0], linear(merged))


def test_a_masked_step_is_not_seen_and_zero_and_flip_do_what_they_say():
    rnn = fastrnn.LSTM(3, 5, seed=1)
    x = np.random.default_rng(0).standard_normal((T, B, 3)).astype("float32")
    x[[0, 2], 1] = 0
    x[1, 2, 0] = 0  # one feature alone does not mask a step
    mask = (x != 0).any(-1)
    y = rnn(x, mask=mask)[0]
    net = Network({"mask": ("mask", 0.0), "rnn": rnn, "zero": "zero", "flip": "flip"})
    assert not mask.all()
    np.testing.assert_array_equal(net(x)[0], (y * mask[..., None])[::-1])
    emb = fastrnn.Embedding(9, 3, seed=0)
    given = ids()
    given[2:4, 1] = 0
    np.testing.assert_array_equal(
        Network({"mask": ("mask", 0), "emb": emb, "rnn": rnn})(given)[0], rnn(emb(given), mask=given != 0)[0]
    )


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_functions_are_those_of_the_recurrent_layers(name):
    a = np.linspace(-4, 4, 33)[None, :, None]
    found = FUNCTIONS[name](a)
    if name.endswith("softmax"):
        p = np.exp(found) if name == "log_softmax" else found
        return np.testing.assert_allclose(p, 1)  # of one feature
    rnn = fastrnn.RNN(1, 1, nonlinearity=name, dtype="float64")
    rnn.load_state_dict({"weight_ih_l0": [[1]], "weight_hh_l0": [[0]], "bias_ih_l0": [0], "bias_hh_l0": [0]})
    return np.testing.assert_allclose(found, rnn(a)[0], atol=1e-13)


def test_what_was_saved_is_loaded_to_the_bit(tmp_path):
    layers = {
        "in": ("mask", 0.0),
        "a": fastrnn.LSTM(
            3,
            6,
            proj_size=2,
            peephole=True,
            activation=("leaky_relu", 0.2),
            clip=3.0,
            bidirectional=True,
            batch_first=True,
            dtype="float64",
        ),
        "b": fastrnn.Stacked(
            [
                fastrnn.GRU(4, 4, reset_after=False, batch_first=True, dtype="float64"),
                fastrnn.RNN(4, 4, batch_first=True, dtype="float64"),
            ],
            residual=True,
        ),
        "c": ("elu", 0.5),
        "d": fastrnn.Linear(4, 2, bias=False, dtype="float64"),
        "e": "log_softmax",
    }
    net = Network(layers)
    net.save(tmp_path)
    again = Network.load(tmp_path)
    x = np.random.default_rng(0).standard_normal((B, T, 3))
    np.testing.assert_array_equal(again(x)[0], net(x)[0])
    assert repr(again) == repr(net) and again.num_parameters == net.num_parameters and again.batch_first
    assert storage.load(tmp_path)[1]["model"] == "Network"


F32, I64, YES = np.float32, np.int64, np.bool_(True)


@pytest.mark.parametrize("steps", [
    {"m": ("mask", F32(0)),
     "r": fastrnn.GRU(1, 2, clip=F32(3), activation=("leaky_relu", F32(0.1)),
         recurrent_activation=["hard_sigmoid", F32(0.2), I64(1)])},
    {"m": ("mask", I64(0)), "e": fastrnn.Embedding(I64(3), I64(1)),
     "r": fastrnn.RNN(1, 2, nonlinearity=("elu", F32(0.5)), clip=I64(3)), "f": ["elu", F32(2)]},
    {"r": fastrnn.LSTM(
        I64(1), I64(3), I64(1), proj_size=I64(2), peephole=YES, coupled=YES,
        output_activation=(np.str_("elu"), F32(0.5)), bias=YES, dropout=F32(0.1), seed=I64(3), bidirectional=YES,
        variational=YES, learn_initial_state=YES, clip=np.longdouble(2),
    ), "m": ("merge", np.str_("sum"))},
    {"r": fastrnn.Stacked([fastrnn.GRU(1, 2, reverse=YES), fastrnn.GRU(2, 2, reset_after=YES)], dropout=F32(0.2),
        variational=YES, residual=YES)},
])  # fmt: skip
def test_options_that_are_numbers_of_numpy_are_saved(tmp_path, steps):
    net = Network(steps)
    net.save(tmp_path)
    assert repr(Network.load(tmp_path)) == repr(net) and "np." not in repr(net)


def test_an_lstms_residual_stack_with_several_states_goes_on_from_its_state():
    net = Network({"rnn": fastrnn.Stacked([fastrnn.GRU(3, 4), fastrnn.LSTM(4, 5)]), "l": "last"})
    x = np.random.default_rng(0).standard_normal((T, B, 3)).astype("float32")
    whole = net(x)[0]
    _, state = net(x[:2])
    np.testing.assert_array_equal(net(x[2:], state)[0], whole)


@pytest.mark.parametrize(
    "steps, error, words",
    [
        ({}, ValueError, "needs at least one layer"),
        (
            {"a": fastrnn.GRU(3, 4), "b": fastrnn.Linear(5, 2)},
            ValueError,
            "layer 'b' takes 5 features, but the step before it gives 4",
        ),
        ({"a": fastrnn.GRU(3, 4), "b": fastrnn.Embedding(5, 2)}, ValueError, "layer 'b' takes ids"),
        ({"a": fastrnn.GRU(3, 4), "b": "sofmax"}, ValueError, "'b' is 'sofmax'"),
        ({"a": fastrnn.GRU(3, 4), "b": 7}, TypeError, "'b' is 7"),
        (
            {"a": fastrnn.GRU(3, 4), "b": ("merge", "sum")},
            ValueError,
            "needs the outputs of two directions, but there is 1 before it",
        ),
        ({"a": fastrnn.GRU(3, 4, bidirectional=True), "b": ("merge", "max")}, ValueError, "'max'"),
        ({"a": fastrnn.Linear(3, 4), "b": "last"}, ValueError, "is 'last', but the layer before it is not recurrent"),
        ({"a": fastrnn.GRU(3, 4), "b": "mask"}, ValueError, "needs the value to mask"),
        (
            {"a": fastrnn.GRU(3, 4), "b": fastrnn.Linear(4, 4, dtype="float64")},
            TypeError,
            "'b' is float64, but the first layer is float32",
        ),
        ({"a": fastrnn.GRU(3, 4), "b": fastrnn.GRU(4, 4, batch_first=True)}, ValueError, "batch_first"),
        ({"a": fastrnn.GRU(3, 4, context_size=2)}, ValueError, "context_size=2"),
        ({"g": fastrnn.GRU(3, 4), "a": fastrnn.Dropout(0.5)}, TypeError, "'a' is"),
        ({1: fastrnn.GRU(3, 4)}, TypeError, "name 1, but a name must be a str"),
        ({"\ud800": fastrnn.GRU(3, 4)}, ValueError, r"name '\\ud800', which contains half of a surrogate pair"),
    ],
)
def test_a_wrong_chain_is_refused_by_the_name_of_its_step(steps, error, words):
    with pytest.raises(error, match=words.replace("(", r"\(")):
        Network(steps)


def test_wrong_parameters_and_states_are_refused_by_name(tmp_path):
    net = Network({"a": fastrnn.GRU(3, 4), "b": fastrnn.Linear(4, 2)})
    arrays = dict(net.state_dict())
    for change, words in (
        ({"b.weight": np.zeros((4, 2))}, r"b.weight has shape \(4, 2\), but it must have \(2, 4\)"),
        ({"c.weight": np.zeros(1)}, "unknown parameters: c.weight"),
    ):
        with pytest.raises(ValueError, match=words):
            net.load_state_dict(arrays | change)
    del arrays["a.bias_hh_l0"]
    with pytest.raises(ValueError, match="missing parameters: a.bias_hh_l0"):
        net.load_state_dict(arrays)
    with pytest.raises(ValueError, match="2 parts, but this Network has 1"):
        net(np.zeros((1, 1, 3), "float32"), (None, None))
    storage.save(tmp_path, {}, {"model": "LanguageModel"})
    with pytest.raises(ValueError, match="contains a LanguageModel, not a Network"):
        Network.load(tmp_path)


@pytest.mark.parametrize("B", [1, 4])
def test_a_stream_gives_the_outputs_of_the_whole_sequence(B):
    rnn = fastrnn.Stacked([fastrnn.GRU(3, 5, seed=1), fastrnn.LSTM(5, 6, seed=2)])
    top = fastrnn.RNN(6, 4, batch_first=False, seed=3)
    embedding, linear = fastrnn.Embedding(9, 3, seed=0), fastrnn.Linear(4, 9, seed=4)
    net = Network({"emb": embedding, "rnn": rnn, "act": ("leaky_relu", 0.2), "top": top, "out": linear})
    x = np.random.default_rng(0).integers(9, size=(T, B))
    y, state = net(x)
    stream = net.stream(B)
    np.testing.assert_array_equal(np.stack([stream.step(x_t) for x_t in x]), y)
    for mine, wanted in zip((*stream.state[0][1], stream.state[1]), (*state[0][1], state[1]), strict=True):
        np.testing.assert_array_equal(mine, wanted)
    stream.reset()
    np.testing.assert_array_equal(np.concatenate([stream.run(x[:2]), stream.run(x[2:])]), y)
    kept = stream.state
    stream.state = None
    first = stream.run(x[:3])
    np.testing.assert_array_equal(first, y[:3])
    stream.state = kept
    np.testing.assert_array_equal(stream.run(x[:1]), net(x[:1], kept)[0])
    stream.reset([0])
    again = stream.run(x)[:, 0]
    np.testing.assert_array_equal(again, y[:, 0])


def test_a_stream_uses_new_parameters_after_refresh():
    net = Network({"rnn": fastrnn.GRU(3, 5, seed=1), "out": fastrnn.Linear(5, 2, seed=2), "act": "tanh"})
    x = np.random.default_rng(0).standard_normal((T, B, 3)).astype("float32")
    stream = net.stream(B)
    net.load_state_dict({name: array * 2 for name, array in net.state_dict().items()})
    stream.refresh()
    np.testing.assert_array_equal(stream.run(x), net(x)[0])


@pytest.mark.parametrize(
    "steps, words",
    [
        ({"rnn": fastrnn.GRU(3, 5), "l": "last"}, "step 'l' is 'last', which needs the whole sequence"),
        ({"m": ("mask", 0.0), "rnn": fastrnn.GRU(3, 5)}, "step 'm' is .*, which needs the whole sequence"),
        ({"rnn": fastrnn.GRU(3, 5), "f": "flip"}, "step 'f' is 'flip', which needs the whole sequence"),
        ({"rnn": fastrnn.GRU(3, 5, bidirectional=True)}, "bidirectional"),
        ({"linear": fastrnn.Linear(3, 5)}, "a stream needs a recurrent layer"),
    ],
)
def test_what_needs_the_whole_sequence_has_no_stream(steps, words):
    with pytest.raises(ValueError, match=words):
        Network(steps).stream()


def test_wrong_steps_of_a_stream_are_refused():
    net = Network({"emb": fastrnn.Embedding(9, 3), "rnn": fastrnn.GRU(3, 5), "top": fastrnn.GRU(5, 5)})
    stream = net.stream(2)
    stream.step(np.array([1, 2]))
    before = [state.copy() for state in stream.state]
    with pytest.raises(ValueError, match=r"ids have shape \(3,\), but this stream takes \(2,\)"):
        stream.step(np.array([1, 2, 3]))
    with pytest.raises(ValueError, match=r"ids have shape \(2,\), but this stream takes \(T, 2\)"):
        stream.run(np.array([1, 2]))
    with pytest.raises(ValueError, match="state has 1 parts, but the recurrent layers of this Network are rnn, top"):
        stream.state = (None,)
    with pytest.raises(ValueError, match="needs"):
        stream.state = (None, np.zeros((1, 3, 5), "float32"))
    for mine, wanted in zip(stream.state, before, strict=True):
        np.testing.assert_array_equal(mine, wanted)


def several_layers():
    return [
        fastrnn.Network({"a": fastrnn.GRU(3, 5, seed=0), "b": fastrnn.LSTM(5, 4, seed=1)}),
        fastrnn.Stacked([fastrnn.GRU(3, 5, seed=0), fastrnn.LSTM(5, 4, seed=1)]),
    ]


@pytest.mark.parametrize("net", several_layers(), ids=["Network", "Stacked"])
def test_threads_that_share_a_stream_never_leave_the_layers_at_different_steps(net):
    x = np.random.default_rng(0).standard_normal((64, 1, 3)).astype("float32")
    s, done = net.stream(), []

    def use():
        for _ in range(200):
            try:
                s.run(x)
                done.append(1)
            except RuntimeError as error:
                assert "another call at the same time" in str(error)

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    want = net.stream()
    for _ in done:
        want.run(x)
    for got, right in zip(s.state, want.state, strict=True):
        np.testing.assert_array_equal(got, right)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("net", several_layers(), ids=["Network", "Stacked"])
def test_a_stream_that_was_interrupted_between_layers_says_so(net, layer, error):
    x = np.random.default_rng(0).standard_normal((4, 2, 3)).astype("float32")
    s = net.stream(2)
    want = s.run(x)

    class Stopped:
        batch_size = 2

        def __getattr__(self, name):
            raise error

    s.reset()
    kept, s._streams[layer] = s._streams[layer], Stopped()
    by_name = getattr(s, "_by_name", {})
    name = "ab"[layer]
    if by_name:
        by_name[name] = s._streams[layer]
    with pytest.raises(error):
        s.run(x)
    s._streams[layer] = kept
    if by_name:
        by_name[name] = kept
    if layer == 0 and error is MemoryError:  # nothing has happened
        np.testing.assert_array_equal(s.run(x), want)
        return
    for rows in ("run", [0]):
        if rows != "run":
            s.reset(rows)
        with pytest.raises(RuntimeError, match="reset"):
            s.run(x)
    s.reset()
    np.testing.assert_array_equal(s.run(x), want)
    s._apart = True
    s.state = None
    np.testing.assert_array_equal(s.run(x), want)


def test_wrong_input_leaves_a_stream_usable():
    for net in several_layers():
        s = net.stream(2)
        with pytest.raises((TypeError, ValueError)):
            s.run(np.zeros((3, 2, 7), "float32"))
        with pytest.raises((TypeError, ValueError)):
            s.state = 3
        s.run(np.zeros((3, 2, 3), "float32"))


def test_rows_to_reset():
    s = fastrnn.GRU(3, 5, seed=0).stream(3)
    y = s.run(np.ones((4, 3, 3), "float32"))
    state = s.state
    for rows in ([], (), np.array([]), range(0), [False] * 3):
        s.reset(rows)
        np.testing.assert_array_equal(s.state, state)
    for rows, message in (([3], "rows has 3, but this stream has 3"), ([-4], "rows has -4"), ([True], "mask of shape")):
        with pytest.raises(IndexError, match=message):
            s.reset(rows)
    with pytest.raises(TypeError, match="indices or a bool mask"):
        s.reset([0.5])
    s.reset([-1])
    assert (s.state[:, 2] == 0).all() and (s.state[:, :2] == state[:, :2]).all() and y.any()


def test_steps_that_are_no_dict():
    with pytest.raises(TypeError, match=r"the steps of a Network are list, but they must be a dict: Network\(\{"):
        fastrnn.Network([fastrnn.GRU(2, 3)])

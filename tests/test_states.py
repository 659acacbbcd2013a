"""All states of a call, learnt initial states, and autonomous systems."""

import functools
import pickle

import numpy as np
import pytest
import reference
from nets import (
    CELLS,
    as_state,
    as_tuple,
    call,
    features,
    gradients,
    make,
    random_case,
    same_bits,
    same_gradients,
    same_state,
)
from numpy.testing import assert_allclose

import fastrnn
from fastrnn import _engine
from fastrnn._files import storage
from fastrnn.parameters import initialise


@pytest.fixture(params=CELLS)
def cell(request):
    return request.param


OPTIONS = {
    "plain": {},
    "lengths": {"lengths": True},
    "resets": {"resets": True},
    "lengths and resets, context": {"lengths": True, "resets": True, "context": 2},
    "both directions": {"bidirectional": True},
    "everything": {"lengths": True, "resets": True, "context": 2, "bidirectional": True},
}


def all_states(net, case, **more):
    """Return the states of a call, which are also those of vjp."""
    y, state_n, states = net(case.x, case.layer_state(), return_states=True, **case.given)
    (taped_y, taped_state, taped), backward = net.vjp(
        case.x, case.layer_state(), return_states=True, **case.given, **more
    )
    same_bits(taped_y, y, "y")
    same_state(taped_state, state_n)
    same_state(taped, states, "states")
    return y, state_n, as_tuple(states), backward


# --- every state --------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIONS)
def test_states_are_those_of_the_reference_at_every_step(cell, name):
    case = random_case(cell, 6, 5, 3, 9, num_layers=2, **OPTIONS[name])
    _, _, states, _ = all_states(case.net(), case)
    want = [np.zeros_like(s) for s in states]
    reference.run(case.cell, case.params, case.x, case.state, **case.options, **case.given, every=want)
    for k, (got, s) in enumerate(zip(states, want, strict=True)):
        assert_allclose(got, s, rtol=1e-9, atol=1e-12, err_msg=f"state {k}")
        assert (got[s == 0] == 0).all(), "zeros past a row's length"


@pytest.mark.parametrize("name", OPTIONS)
def test_asking_for_states_changes_no_other_result(cell, isa, name):
    case = random_case(cell, 6, 5, 3, 9, dtype="float32", num_layers=2, **OPTIONS[name])
    net = case.net()
    y, state_n, _, backward = all_states(net, case)
    want_y, want_state = call(net, case)
    same_bits(y, want_y, "y")
    same_state(state_n, want_state)
    same_gradients(backward(case.dy, case.layer_dstate()), gradients(net, case))


@pytest.mark.parametrize("name", OPTIONS)
def test_states_agree_with_y_and_state_n_bit_for_bit(cell, isa, name):
    case = random_case(cell, 7, 6, 3, 9, dtype="float32", num_layers=2, **OPTIONS[name])
    y, state_n, states, _ = all_states(case.net(), case)
    D, P = case.net().num_directions, features(cell, 9)
    lengths = case.given.get("lengths", np.full(6, 7))
    for d in range(D):
        same_bits(states[0][-D + d], y[..., d * P : (d + 1) * P], f"h of the top layer, direction {d}")
    for b in np.flatnonzero(lengths):
        for s, final in zip(states, as_tuple(state_n), strict=True):
            same_bits(s[::D, lengths[b] - 1, b], final[::D, b], f"final state of row {b}")
            if D == 2:
                same_bits(s[1::2, 0, b], final[1::2, b], f"final state of row {b}, reverse")


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("name", ["plain", "lengths", "resets", "lengths and resets, context"])
def test_states_are_the_final_ones_of_shorter_sequences_bit_for_bit(cell, isa, name, dropout):
    """The states are those before a reset, and before dropout."""
    case = random_case(cell, 6, 5, 3, 9, dtype="float32", num_layers=3, **OPTIONS[name])
    net = case.net(dropout=dropout)
    (_, _, states), _ = net.vjp(case.x, case.layer_state(), return_states=True, rng=5, **case.given)
    lengths = case.given.get("lengths", np.full(5, 6))
    for t in range(6):
        given = {**case.given, "lengths": np.minimum(lengths, t + 1)}
        (_, want), _ = net.vjp(case.x, case.layer_state(), rng=5, **given)
        rows = lengths > t
        for s, final in zip(as_tuple(states), as_tuple(want), strict=True):
            same_bits(s[:, t, rows], final[:, rows], f"states after step {t}")


@pytest.mark.parametrize("name", ["both directions", "everything"])
def test_states_of_the_reverse_direction_are_the_final_ones_of_later_parts_bit_for_bit(cell, isa, name):
    case = random_case(cell, 6, 5, 3, 9, dtype="float32", **OPTIONS[name])
    net = case.net()
    _, _, states, _ = all_states(net, case)
    lengths = case.given.get("lengths", np.full(5, 6))
    for t in range(6):
        given = {**case.given, "lengths": np.maximum(lengths - t, 0)}
        if "resets" in given:
            given["resets"] = given["resets"][t:]
        _, want = net(case.x[t:], case.layer_state(), **given)
        rows = lengths > t
        for s, final in zip(states, as_tuple(want), strict=True):
            same_bits(s[1, t, rows], final[1, rows], f"states after step {t}, backwards")


def test_states_of_the_first_layer_know_nothing_of_dropout(cell):
    case = random_case(cell, 4, 3, 2, 20, num_layers=2)
    net = case.net(dropout=0.5)
    (y, _, dropped), _ = net.vjp(case.x, case.layer_state(), return_states=True, rng=5)
    _, _, plain = net(case.x, case.layer_state(), return_states=True)
    for got, want in zip(as_tuple(dropped), as_tuple(plain), strict=True):
        same_bits(got[0], want[0], "layer 0")
        assert (got[1] != want[1]).any()
    same_bits(as_tuple(dropped)[0][1], y, "y")


@pytest.mark.parametrize("together", [False, True])
def test_states_do_not_depend_on_threads_bit_for_bit(cell, monkeypatch, together):
    """Layers run one after another, or all at the same time."""
    case = random_case(cell, 70, 4, 40, 66, dtype="float32", num_layers=3, resets=True)
    with fastrnn.threads(1):
        _, _, want, _ = all_states(case.net(), case)
    monkeypatch.setattr(_engine, "waves_pay", lambda *sizes: together)
    with fastrnn.threads(3):
        _, _, got, _ = all_states(case.net(), case)
    same_state(got, want)


def test_states_are_laid_out_as_x_is(cell):
    case = random_case(cell, 4, 3, 2, 5, num_layers=2, resets=True)
    _, _, want, _ = all_states(case.net(), case)
    first = case.net(batch_first=True)
    _, _, states = first(
        case.x.transpose(1, 0, 2), case.layer_state(), resets=case.given["resets"].T, return_states=True
    )
    for got, s in zip(as_tuple(states), want, strict=True):
        assert got.shape == (2, 3, 4, s.shape[3])
        same_bits(got.transpose(0, 2, 1, 3), s, "batch first")
    one = as_state([s[:, 1] for s in case.state])
    _, _, states = case.net()(case.x[:, 1], one, resets=case.given["resets"][:, 1], return_states=True)
    for got, s in zip(as_tuple(states), want, strict=True):
        assert got.shape == (2, 4, s.shape[3])
        same_bits(got, s[:, :, 1], "one sequence")


def test_states_with_ids_in_place_of_x(cell):
    """Few ids and many, since the embedding's rows are multiplied in two ways."""
    for V in (3, 90):
        embedding = fastrnn.Embedding(V, 4, seed=1)
        net = make(cell, 4, 9, dtype="float32", seed=0)
        ids = np.random.default_rng(0).integers(0, V, (6, 5))
        resets = np.random.default_rng(1).random((6, 5)) < 0.4
        _, _, want = net(embedding(ids), resets=resets, return_states=True)
        (_, _, got), _ = net.vjp(ids, resets=resets, embedding=embedding, return_states=True)
        same_state(got, want)


@pytest.mark.parametrize("T, B", [(0, 3), (3, 0), (0, 0)])
def test_states_of_nothing_are_empty(cell, T, B):
    net = make(cell, 2, 5, 2, bidirectional=True)
    _, _, states = net(np.zeros((T, B, 2), "float32"), return_states=True)
    assert [s.shape for s in as_tuple(states)] == [(4, T, B, size) for size in net.state_sizes]
    net(np.zeros((3, 2, 2), "float32"), lengths=[0, 0], resets=np.ones((3, 2), bool), return_states=True)


def test_states_belong_to_the_caller(cell):
    case = random_case(cell, 4, 3, 2, 5)
    net = case.net()
    want, want_g = call(net, case), gradients(net, case)
    (y, _, states), backward = net.vjp(case.x, case.layer_state(), return_states=True)
    for s in as_tuple(states):
        s[...] = np.nan
    same_bits(y, want[0], "y")
    same_gradients(backward(case.dy, case.layer_dstate()), want_g)


# --- a learnt initial state ---------------------------------------------------


def learnt(case, **more):
    """Return a net whose learnt initial state is that of the case's row 0, and the values of the state."""
    names = ("h_0", "c_0")[: len(case.state)]
    initial = {name: s[:, 0].copy() for name, s in zip(names, case.state)}
    options = {**case.options, **more}
    params = {**case.params, **initial}
    net = make(
        case.cell,
        case.I,
        case.H,
        options.pop("num_layers"),
        params,
        dtype=case.dtype,
        learn_initial_state=True,
        **options,
    )
    return net, initial


def spread_over_rows(initial, B):
    return tuple(np.repeat(s[:, None], B, 1) for s in initial.values())


LEARNT = {  # name: (T, B, I, H), options
    "one step": ((1, 1, 2, 3), {}),
    "rows of length 0, both directions, two layers": (
        (3, 3, 1, 2),
        {"lengths": True, "bidirectional": True, "num_layers": 2},
    ),
    "no input": ((4, 2, 0, 4), {}),
    "no input, lengths, both directions, two layers": (
        (3, 3, 0, 2),
        {"lengths": True, "bidirectional": True, "num_layers": 2},
    ),
}


@functools.cache
def numeric(cell, name):
    """Return the reference result of a case; it does not depend on the instruction set, so it is computed once."""
    sizes, options = LEARNT[name]
    case = random_case(cell, *sizes, **options)
    _, initial = learnt(case)

    def loss(v):
        y, state_n = case.reference(params=v, x=v["x"], state=spread_over_rows({n: v[n] for n in initial}, sizes[1]))
        return (y * case.dy).sum() + sum((s * d).sum() for s, d in zip(state_n, case.dstate, strict=True))

    return reference.differences(loss, {"x": case.x, **case.params, **initial})


@pytest.mark.parametrize("name", LEARNT)
def test_every_gradient_with_a_learnt_initial_state_matches_central_differences(cell, isa, name):
    sizes, options = LEARNT[name]
    case = random_case(cell, *sizes, **options)
    net, _ = learnt(case)
    _, backward = net.vjp(case.x, **case.given)
    g = backward(case.dy, case.layer_dstate())
    for parameter, want in numeric(cell, name).items():
        reference.agrees(g.x if parameter == "x" else g.params[parameter], want, parameter, rtol=1e-6, atol=1e-7)
        if parameter != "x":
            same_bits(net.slots[parameter].view(g.flat), g.params[parameter], f"{parameter} in g.flat")


def test_a_learnt_initial_state_is_that_state_given_and_a_given_one_overrides_it(cell, isa):
    case = random_case(cell, 4, 5, 3, 9, dtype="float32", num_layers=2, bidirectional=True, lengths=True)
    net, initial = learnt(case)
    y, state_n = net(case.x, **case.given)
    given = as_state(spread_over_rows(initial, 5))
    want_y, want_state = net(case.x, given, **case.given)
    same_bits(y, want_y, "y")
    same_state(state_n, want_state)
    short = np.flatnonzero(case.given["lengths"] == 0)
    for s, start in zip(as_tuple(state_n), as_tuple(given), strict=True):
        same_bits(s[:, short], start[:, short], "a row of length 0")
    want = gradients(case.net(), case)
    g = gradients(net, case)
    same_bits(g.x, want.x, "g.x with a given state")
    same_state(g.state, want.state)
    into = np.ones(net.storage.size, "float32")
    _, backward = net.vjp(case.x, case.layer_state(), **case.given)
    backward(case.dy, case.layer_dstate(), into=into)
    for name in initial:
        assert (g.params[name] == 0).all() and (net.slots[name].view(into) == 1).all()


def test_the_gradient_of_a_learnt_initial_state_is_added_to_into(cell):
    case = random_case(cell, 4, 5, 3, 9)
    net, initial = learnt(case)
    _, backward = net.vjp(case.x)
    g = backward(case.dy, case.layer_dstate())
    into = np.zeros(net.storage.size)
    for times in (1, 2):
        backward(case.dy, case.layer_dstate(), into=into)
        for name in initial:
            assert_allclose(net.slots[name].view(into), times * g.params[name], rtol=1e-12)
            assert (g.params[name] != 0).all()
    same_bits(g.params["h_0"], as_tuple(g.state)[0].sum(1), "the sum over the rows")


def test_a_learnt_initial_state_starts_at_zero_and_changes_no_other_first_value(cell):
    plain, net = make(cell, 3, 5, 2, seed=4), make(cell, 3, 5, 2, seed=4, learn_initial_state=True)
    names = list(net.cell.states)
    assert list(net.params) == [*plain.params, *names] and net.num_parameters == plain.num_parameters + 2 * sum(
        net.state_sizes
    )
    for name, value in plain.params.items():
        same_bits(net.params[name], value, name)
    x = np.ones((4, 2, 3), "float32")
    same_bits(net(x)[0], plain(x)[0], "y")
    with net.updating() as flat:
        flat += 1
    for scheme in ("glorot", "torch"):
        initialise(net, scheme, seed=0)
        assert net.params["h_0"].shape == (2, features(cell, 5)) and all(
            (net.params[name] == 0).all() for name in names
        )
    net.load_state_dict(plain.state_dict(), strict=False)
    with pytest.raises(KeyError, match="missing .'h_0'"):
        net.load_state_dict(plain.state_dict())


def test_a_learnt_initial_state_is_copied_and_saved(cell, tmp_path):
    case = random_case(cell, 4, 3, 2, 5, dtype="float32", num_layers=2)
    net, _ = learnt(case)
    want = net(case.x)
    assert repr(net).count("learn_initial_state=True") == 1 and "learn" not in repr(case.net())
    storage.save(tmp_path, net.state_dict(), {})
    loaded = learnt(random_case(cell, 4, 3, 2, 5, dtype="float32", num_layers=2, seed=1))[0]
    loaded.load_state_dict(storage.load(tmp_path)[0])
    for other in (net.copy(), pickle.loads(pickle.dumps(net)), loaded):
        y, state_n = other(case.x)
        same_bits(y, want[0], "y")
        same_state(state_n, want[1])
    double = net.astype("float64")
    assert_allclose(double(case.x.astype("float64"))[0], want[0], rtol=1e-4, atol=1e-5)
    assert double.params["h_0"].dtype == np.float64


def test_a_stream_starts_from_the_learnt_initial_state_and_returns_to_it(cell, isa):
    case = random_case(cell, 5, 4, 3, 9, dtype="float32", num_layers=2)
    net, initial = learnt(case)
    y, state_n = net(case.x)
    s = net.stream(batch_size=4)
    same_state(s.state, as_state(spread_over_rows(initial, 4)))
    same_bits(np.stack([s.step(x_t) for x_t in case.x]), y, "y of steps")
    same_state(s.state, state_n)
    s.reset()
    same_bits(s.run(case.x), y, "y after a reset")
    for rows in ([1, 3], np.array([False, True, False, True]), 2):
        s.state = state_n
        s.reset(rows)
        which = np.atleast_1d(np.arange(4)[rows])
        want = [np.array(a) for a in as_tuple(state_n)]
        for a, start in zip(want, spread_over_rows(initial, 4), strict=True):
            a[:, which] = start[:, which]
        same_state(s.state, as_state(want))
    with net.updating() as flat:
        flat *= 0.5
    s.reset()
    same_bits(s.run(case.x), y, "y with the weights as of creation")
    s.refresh()
    s.reset()
    same_bits(s.run(case.x), net(case.x)[0], "y with the new weights")


def test_resets_and_a_learnt_initial_state_exclude_each_other(cell):
    net = make(cell, 3, 5, learn_initial_state=True)
    for verb in (net, net.vjp):
        with pytest.raises(
            ValueError,
            match="resets set the state to zero, but this .* has learn_initial_state=True: pass each episode",
        ):
            verb(np.zeros((4, 2, 3), "float32"), resets=np.zeros((4, 2), bool))


def test_a_learnt_initial_state_for_one_sequence_and_batch_first(cell):
    case = random_case(cell, 4, 3, 2, 5, num_layers=2)
    net, _ = learnt(case)
    want_y, want_state = net(case.x)
    y, state_n = net(case.x[:, 1])
    same_bits(y, want_y[:, 1], "one sequence")
    same_state(state_n, as_state([s[:, 1] for s in as_tuple(want_state)]))
    first, _ = learnt(case, batch_first=True)
    same_bits(first(case.x.transpose(1, 0, 2))[0].transpose(1, 0, 2), want_y, "batch first")


# --- autonomous systems -------------------------------------------------------


@pytest.mark.parametrize("num_layers", [1, 2])
def test_an_autonomous_system_runs_on_over_lengths_never_seen(cell, isa, num_layers):
    """h_t = f(h_{t-1}) from a learnt h_0: call, states, ragged batch and stream agree for any length."""
    case = random_case(cell, 7, 1, 0, 9, dtype="float32", num_layers=num_layers)
    net, _ = learnt(case)
    long = np.empty((100, 3, 0), "float32")
    y, state_n, states = net(long, return_states=True)
    same_bits(as_tuple(states)[0][-1], y, "h")
    same_bits(y[:, 0], y[:, 2], "rows are the same")
    short_y, short_state = net(long[:7])
    same_bits(short_y, y[:7], "the first steps")
    same_state(as_state([s[:, 6] for s in as_tuple(states)]), short_state)
    same_bits(net(long[7:], short_state)[0], y[7:], "from there on")
    ragged, _ = net(long, lengths=[7, 100, 0])
    same_bits(ragged[:, 1], y[:, 1], "a long row of a ragged batch")
    assert (ragged[:7, 0] == y[:7, 0]).all() and not ragged[7:, 0].any() and not ragged[:, 2].any()
    s = net.stream(batch_size=3)
    same_bits(np.concatenate([s.run(long[:40]), s.step(long[40])[None], s.run(long[41:])]), y, "a stream")
    same_state(s.state, state_n)


def test_an_autonomous_system_learns_a_sequence_from_its_initial_state_alone():
    """With fixed weights only h_0 is trained: the outputs approach the targets at every step."""
    target = np.sin(np.arange(12))[:, None, None] * 0.3 * np.ones((1, 1, 8))
    net = make("rnn_tanh", 0, 8, seed=0, dtype="float64", learn_initial_state=True)
    losses = []
    for _ in range(30):
        (y, _), backward = net.vjp(np.empty((12, 1, 0)))
        losses.append(((y - target) ** 2).sum())
        g = backward(2 * (y - target))
        with net.updating() as flat:
            net.slots["h_0"].view(flat)[...] -= 0.05 * g.params["h_0"]
    assert (np.diff(losses) < 0).all()

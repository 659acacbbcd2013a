"""Stacked: layers of different sizes and kinds, compared with plain layers, the reference and streams."""

import pickle
from dataclasses import replace

import nets
import numpy as np
import pytest
import reference
from nets import CELLS, as_state, as_tuple, features, make, random_case, same_bits, same_state
from numpy.testing import assert_allclose

import fastrnn
from fastrnn import GRU, LSTM, RNN, Stacked, Storage
from fastrnn._files import storage
from fastrnn.layers import build


@pytest.fixture(params=CELLS)
def cell(request):
    return request.param


def draw(*shape, seed=0, dtype="float64"):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def like(state, seed=1):
    """Return random numbers in the shape of a stack's state."""
    return tuple(
        as_state([draw(*s.shape, seed=seed + k, dtype=s.dtype) for k, s in enumerate(as_tuple(member))])
        for member in state
    )


def same_gradients(got, want, what="gradients"):
    """The assertion of nets.py, for a state that is the tuple of the members' states."""
    nets.same_gradients(replace(got, state=flat_state(got.state)), replace(want, state=flat_state(want.state)), what)


def flat_state(state):
    return tuple(s for member in state for s in as_tuple(member))


def mixed(
    dtype="float64", *, dropout=0.0, variational=False, residual=True, bidirectional=False, batch_first=False, **first
):
    """Return three members with different cells and sizes, and parameters that are not zero."""
    make = dict(dtype=dtype, bidirectional=bidirectional, batch_first=batch_first)
    H = 8 if bidirectional else 4
    net = Stacked(
        [RNN(3, 4, **make, **first), LSTM(H, 4, learn_initial_state=True, **make),
         GRU(H, H, dtype=dtype, batch_first=batch_first)],
        dropout=dropout, variational=variational, residual=residual,
    )  # fmt: skip
    with net.updating() as flat:
        flat[:] = 0.5 * draw(len(flat), dtype=dtype)
    return net


# --- a stack of equal layers equals a network of several layers ----------------

GIVEN = {
    "plain": {},
    "both directions": {"bidirectional": True},
    "lengths, resets, context": {"lengths": True, "resets": True, "context": 2},
    "everything": {"lengths": True, "resets": True, "context": 2, "bidirectional": True},
}


def two_members(case, **more):
    """Return the two layers of a case's network as members, and its state in their form."""
    options = {k: v for k, v in case.options.items() if k != "num_layers"}
    D = 2 if options["bidirectional"] else 1
    layers = []
    for k in range(2):
        params = {name.replace(f"_l{k}", "_l0"): p for name, p in case.params.items() if f"_l{k}" in name}
        context = case.given["context"].shape[1] if "context" in case.given and k == 0 else 0
        layers.append(
            make(
                case.cell,
                D * features(case.cell, case.H) if k else case.I,
                case.H,
                1,
                params,
                dtype=case.dtype,
                context_size=context,
                **options,
            )
        )
    return Stacked(layers, **more), lambda state: tuple(
        as_state([s[k * D : (k + 1) * D] for s in as_tuple(state)]) for k in range(2)
    )


def joined(states, axis=0):
    """Return the members' states in the form of a network of several layers."""
    return as_state([np.concatenate(pair, axis) for pair in zip(*map(as_tuple, states), strict=True)])


@pytest.mark.parametrize("dropout, variational", [(0.0, False), (0.4, False), (0.4, True)])
@pytest.mark.parametrize("name", GIVEN)
def test_two_equal_members_are_a_network_of_two_layers_bit_for_bit(cell, name, dropout, variational):
    case = random_case(cell, 5, 4, 3, 9, dtype="float32", num_layers=2, **GIVEN[name])
    net = case.net(dropout=dropout, variational=variational)
    stack, apart = two_members(case, dropout=dropout, variational=variational)
    state = case.layer_state()
    want_y, want_state, want_states = net(case.x, state, return_states=True, **case.given)
    y, state_n, states = stack(case.x, apart(state), return_states=True, **case.given)
    same_bits(y, want_y, "y of a call")
    same_state(joined(state_n), want_state)
    same_state(joined(states), want_states, "states")
    (want_y, want_state), want_backward = net.vjp(case.x, state, rng=5, **case.given)
    (y, state_n), backward = stack.vjp(case.x, apart(state), rng=5, **case.given)
    same_bits(y, want_y, "y of vjp")
    same_state(joined(state_n), want_state)
    want = want_backward(case.dy, case.layer_dstate())
    g = backward(case.dy, apart(case.layer_dstate()))
    same_bits(g.x, want.x, "g.x")
    same_state(joined(g.state), want.state, "g.state")
    if "context" in case.given:
        same_bits(g.context, want.context, "g.context")
    assert set(g.params) == set(stack.params)
    for member_name, got in g.params.items():
        k, _, parameter = member_name.partition(".")
        same_bits(got, want.params[parameter.replace("_l0", f"_l{k}")], member_name)
        same_bits(stack.slots[member_name].view(g.flat), got, f"{member_name} in g.flat")


# --- gradients ----------------------------------------------------------------


def reference_mixed(net, v, x, state, **given):
    """Run the stack in the reference: y and the tuple of the members' states."""
    kinds = {RNN: "rnn_tanh", LSTM: "lstm", GRU: "gru"}
    states = []
    for k, layer in enumerate(net.layers):
        params = {name[2:]: p for name, p in v.items() if name.startswith(f"{k}.")}
        initial = None if state[k] is None else as_tuple(state[k])
        if initial is None and layer.learn_initial_state:
            initial = [np.repeat(params[n][:, None], x.shape[1], 1) for n in ("h_0", "c_0")]
        y, final = reference.run(kinds[type(layer)], params, x, initial, bidirectional=layer.bidirectional, **given)
        states.append(final)
        x = y + x if net.residual and k else y
    return x, states


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_every_gradient_of_three_different_members_matches_central_differences(residual, bidirectional):
    net = mixed(residual=residual, bidirectional=bidirectional)
    x, lengths = draw(4, 3, 3), np.array([4, 0, 2])
    (y, state_n), backward = net.vjp(x, lengths=lengths)
    state = (like(state_n)[0], None, like(state_n)[2])  # the member in the middle starts from its learnt state
    (y, state_n), backward = net.vjp(x, state, lengths=lengths)
    dy, dstate = draw(*y.shape, seed=2), like(state_n, seed=3)
    want_y, want_state = reference_mixed(net, net.params, x, state, lengths=lengths)
    assert_allclose(y, want_y, rtol=1e-9, atol=1e-12)
    for got, want in zip(state_n, want_state, strict=True):
        assert_allclose(as_tuple(got), want, rtol=1e-9, atol=1e-12)

    def loss(v):
        y, state_n = reference_mixed(net, v, v["x"], (v["first"], None, v["last"]), lengths=lengths)
        return (y * dy).sum() + sum((s * d).sum() for s, d in zip(flat_state(state_n), flat_state(dstate), strict=True))

    g = backward(dy, dstate)
    got = {"x": g.x, "first": g.state[0], "last": g.state[2], **g.params}
    values = {"x": x, "first": state[0], "last": state[2], **net.params}
    for name, want in reference.differences(loss, values).items():
        reference.agrees(got[name], want, name, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("layout", ["time first", "batch first", "one sequence"])
@pytest.mark.parametrize("variational", [False, True])
def test_gradients_through_dropout_and_residuals_match_central_differences(layout, variational):
    """Compare with the stack's own outputs for one key: they are right (above); layout does not change masks."""
    net = mixed(dropout=0.4, variational=variational, batch_first=layout == "batch first")
    x = draw(5, 2, 3)

    def laid_out(a):
        return a[:, 0] if layout == "one sequence" else a.transpose(1, 0, 2) if layout == "batch first" else a

    (y, _), backward = net.vjp(laid_out(x), rng=7)
    (plain, _), _ = mixed(dropout=0.4, variational=variational).vjp(x, rng=7)
    same_bits(y, laid_out(plain), "y in this layout")
    assert (y != net(laid_out(x))[0]).any()
    dy = draw(*y.shape, seed=2)

    def loss(v):
        return (net.vjp(v["x"], rng=7)[0][0] * dy).sum()

    assert_allclose(backward(dy).x, reference.numeric_gradient(loss, {"x": laid_out(x)})["x"], rtol=1e-6, atol=1e-7)
    flat, got = net.flat.copy(), backward(dy).flat

    def loss_of_flat(v):
        with net.updating() as values:
            values[:] = v["flat"]
        return (net.vjp(laid_out(x), rng=7)[0][0] * dy).sum()

    assert_allclose(got, reference.numeric_gradient(loss_of_flat, {"flat": flat})["flat"], rtol=1e-6, atol=1e-7)


def test_what_is_left_out_counts_as_zero_and_what_is_not_needed_is_not_there():
    net = mixed()
    x = draw(4, 3, 3)
    (y, state_n), backward = net.vjp(x)
    dy, zeros = draw(*y.shape, seed=2), tuple(as_state([np.zeros_like(s) for s in as_tuple(m)]) for m in state_n)
    same_gradients(backward(dy), backward(dy, zeros))
    dstate = like(state_n)
    same_gradients(backward(None, dstate), backward(np.zeros_like(y), dstate))
    same_gradients(backward(dy, (None, dstate[1], None)), backward(dy, (zeros[0], dstate[1], zeros[2])))
    less = backward(dy, need_x=False)
    assert less.x is None
    same_bits(less.flat, backward(dy).flat, "g.flat without g.x")


def test_gradients_are_added_to_into_also_those_of_an_embedding_beside_the_members():
    shared = Storage("float64")
    embedding = fastrnn.Embedding(5, 3, dtype="float64", storage=shared, seed=0)
    net = Stacked([GRU(3, 4, dtype="float64", storage=shared), RNN(4, 2, dtype="float64", storage=shared)])
    ids = np.array([[0, 1], [4, 1], [3, 3]])
    x = embedding(ids)
    want_y, want_state = net(x)
    y, state_n = net(ids, embedding=embedding)
    assert_allclose(y, want_y, rtol=1e-12)
    (_, _), backward = net.vjp(ids, embedding=embedding)
    dy = draw(*y.shape)
    g = backward(dy)
    into = np.ones(shared.size)
    backward(dy, into=into)
    assert shared.size == net.num_parameters + 15
    assert_allclose(into[15:], 1 + g.flat, rtol=1e-12, atol=1e-14)
    (_, _), of_x = net.vjp(x)
    want = np.zeros((5, 3))
    np.add.at(want, ids, of_x(dy).x)
    assert_allclose(g.embedding, want, rtol=1e-9, atol=1e-12)
    assert_allclose(embedding.slots["weight"].view(into), 1 + want, rtol=1e-9)


def test_gradients_do_not_depend_on_threads_and_backward_may_be_called_again():
    net = mixed("float32", dropout=0.4)
    x = draw(30, 40, 3, dtype="float32")

    def run():
        (y, state_n), backward = net.vjp(x, lengths=np.arange(40) % 31, rng=3)
        g = backward(draw(*y.shape, dtype="float32"), like(state_n))
        same_gradients(backward(draw(*y.shape, dtype="float32"), like(state_n)), g, "the second call")
        return y, g

    with fastrnn.threads(1):
        want_y, want = run()
    with fastrnn.threads(3):
        y, g = run()
    same_bits(y, want_y, "y")
    same_gradients(g, want)


def test_a_released_backward_raises():
    (y, _), backward = mixed().vjp(draw(4, 3, 3))
    assert backward.nbytes > 0
    backward.release()
    assert backward.nbytes == 0
    with pytest.raises(RuntimeError, match="this backward was released: run vjp again"):
        backward(y)


# --- streams and layouts ------------------------------------------------------


@pytest.mark.parametrize("residual", [False, True])
def test_a_stream_gives_the_bits_of_one_call(isa, residual):
    net = mixed("float32", residual=residual, dropout=0.5, context_size=2)
    x, context = draw(6, 5, 3, dtype="float32"), draw(5, 2, dtype="float32")
    y, state_n = net(x, context=context)
    s = net.stream(5, context)
    out = np.empty_like(y[0])
    for t in range(6):
        got = s.step(x[t], out=out if t % 2 else None)
        assert (got is out) == (t % 2 == 1)
        same_bits(got, y[t], f"y[{t}] of step")
    for got, want in zip(s.state, state_n, strict=True):
        same_state(got, want)
    s.reset()
    same_bits(np.concatenate([s.run(x[:2]), s.run(x[2:], out=np.empty_like(y[2:]))]), y, "y of run")
    s.state = None
    same_bits(s.run(x), y, "y from the initial state")
    half = net(x[:3], context=context)[1]
    s.state = half
    same_bits(s.run(x[3:]), y[3:], "y from a state that was set")
    s.state = half
    s.reset([1, 4])
    with_none = net(x[3:], context=context)[0]
    same_bits(
        s.run(x[3:]), np.where(np.isin(np.arange(5), [1, 4])[:, None], with_none, y[3:]), "y after a reset of two rows"
    )
    with net.updating() as flat:
        flat *= 0.5
    s.reset()
    same_bits(s.run(x), y, "y with the weights as of creation")
    s.refresh()
    s.reset()
    same_bits(s.run(x), net(x, context=context)[0], "y with the new weights")


def test_a_stream_checks_its_out_before_any_member_advances():
    s = mixed().stream(2)
    before = s.state
    for call in (
        lambda: s.step(draw(2, 3), out=np.empty((2, 5))),
        lambda: s.run(draw(4, 2, 3), out=np.empty((3, 2, 4))),
    ):
        with pytest.raises(ValueError, match="out is float64 of shape .*, but it must be float64 of shape"):
            call()
    for got, want in zip(s.state, before, strict=True):
        same_state(got, want)
    with pytest.raises(ValueError, match="so its outputs depend on future inputs"):
        mixed(bidirectional=True).stream()


def test_x_is_laid_out_as_for_a_single_network():
    net, first = mixed(), mixed(batch_first=True)
    x, lengths = draw(5, 4, 3), np.array([2, 5, 0, 3])
    y, state_n, states = net(x, lengths=lengths, return_states=True)
    got_y, got_state, got_states = first(x.transpose(1, 0, 2), lengths=lengths, return_states=True)
    same_bits(got_y.transpose(1, 0, 2), y, "batch first")
    for k in range(3):
        same_state(got_state[k], state_n[k])
        same_state(as_state([s.transpose(0, 2, 1, 3) for s in as_tuple(got_states[k])]), states[k])
    one_y, one_state = net(x[:, 1])
    same_bits(one_y, y[:, 1], "one sequence")
    for k in range(3):
        same_state(one_state[k], as_state([s[:, 1] for s in as_tuple(state_n[k])]))
    empty, final = net(np.empty((0, 4, 3)))
    assert empty.shape == (0, 4, 4) and final[1][0].shape == (1, 4, 4)


def test_an_autonomous_stack_starts_from_what_it_has_learnt():
    """There is no input; lengths never seen in training, and the gradients of the initial states."""
    net = Stacked(
        [GRU(0, 3, dtype="float64", learn_initial_state=True), LSTM(3, 2, dtype="float64", learn_initial_state=True)]
    )
    with net.updating() as flat:
        flat[:] = 0.5 * draw(len(flat))
    y, _ = net(np.empty((50, 2, 0)))
    same_bits(net(np.empty((6, 2, 0)))[0], y[:6], "the first steps")
    same_bits(net.stream(2).run(np.empty((50, 2, 0))), y, "a stream")
    _, backward = net.vjp(np.empty((6, 2, 0)))
    dy = draw(6, 2, 2, seed=2)
    want = reference.numeric_gradient(
        lambda v: (reference_mixed(net, v, np.empty((6, 2, 0)), (v_state(v), None))[0] * dy).sum(), dict(net.params)
    )
    g = backward(dy)
    for name, numeric in want.items():
        assert_allclose(g.params[name], numeric, rtol=1e-6, atol=1e-7, err_msg=name)
    assert (g.params["0.h_0"] != 0).all() and (g.params["1.c_0"] != 0).all()


def v_state(v):
    """Return the learnt initial state of the GRU at the bottom, for two rows."""
    return np.repeat(v["0.h_0"][:, None], 2, 1)


# --- parameters ---------------------------------------------------------------


def test_members_with_a_storage_each_are_moved_into_one_and_stay_the_same_objects():
    first, second = GRU(3, 4, seed=0), RNN(4, 2, seed=1)
    before, x = (first.state_dict(), second.state_dict()), draw(5, 2, 3, dtype="float32")
    want, _ = second(first(x)[0])
    net = Stacked([first, second])
    assert first.storage is second.storage is net.storage and net.storage.size == net.num_parameters == net.flat.size
    same_bits(net(x)[0], want, "y")
    for k, old in enumerate(before):
        for name, value in old.items():
            same_bits(net.params[f"{k}.{name}"], value, name)
    with net.updating() as flat:
        flat *= 0.5
    same_bits(first.params["weight_hh_l0"], 0.5 * before[0]["weight_hh_l0"], "a member's parameters")
    same_bits(net(x)[0], second(first(x)[0])[0], "y of the members")
    assert (net(x)[0] != want).any()


def test_members_that_were_trained_before_they_were_moved_are_repacked():
    """The new storage counts its versions from 0, and reaches the number that a member had before."""

    def halve(layer):
        with layer.updating() as flat:
            flat *= 0.5
        return layer(x)

    first, x = GRU(3, 4, seed=0), draw(5, 2, 3, dtype="float32")
    halve(first)
    net = Stacked([first, RNN(4, 2, seed=1)])
    halve(net)
    same_bits(net(x)[0], net.copy()(x)[0], "y after one update of each")


def test_members_in_a_shared_storage_stay_there():
    shared = Storage("float64")
    linear = fastrnn.Linear(2, 2, dtype="float64", storage=shared)
    layers = [make(cell, 3, 3, dtype="float64", storage=shared) for cell in ("gru", "lstm")]
    after = fastrnn.Linear(2, 2, dtype="float64", storage=shared)
    net = Stacked(layers)
    assert net.storage is shared and shared.size == 6 + net.num_parameters + 6
    same_bits(net.flat, shared.flat[6:-6], "flat")
    for k, layer in enumerate(layers):
        for name, value in layer.params.items():
            same_bits(net.params[f"{k}.{name}"], value, name)
    before = linear.state_dict(), after.state_dict()
    with net.updating() as flat:
        flat[:] = 0
    assert not any(value.any() for value in net.params.values())
    for layer, old in zip((linear, after), before, strict=True):
        same_bits(layer.params["weight"], old["weight"], "another layer of the storage")


def test_a_stack_is_copied_pickled_saved_and_shown(tmp_path):
    net = mixed("float32", dropout=0.25)
    x = draw(5, 2, 3, dtype="float32")
    y, _ = net(x)
    storage.save(tmp_path, net.state_dict(), {})
    loaded = mixed("float32")
    with loaded.updating() as flat:
        flat[:] = 0
    loaded.load_state_dict(storage.load(tmp_path)[0])
    for other in (net.copy(), pickle.loads(pickle.dumps(net)), loaded):
        same_bits(other(x)[0], y, "y")
        assert other.storage is not net.storage and all(layer.storage is other.storage for layer in other.layers)
    same_bits(net.copy().vjp(x, rng=3)[0][0], net.vjp(x, rng=3)[0][0], "y with dropout")
    assert_allclose(net.astype("float64")(x.astype("float64"))[0], y, rtol=1e-4, atol=1e-5)
    assert (
        repr(net)
        == "Stacked([RNN(3, 4), LSTM(4, 4, learn_initial_state=True), GRU(4, 4)], dropout=0.25, residual=True)"
    )
    assert (net.input_size, net.hidden_size, net.num_directions, net.output_size) == (3, 4, 1, 4)
    wide = Stacked([GRU(3, 5), GRU(5, 6, bidirectional=True, dtype="float32")])
    assert (wide.input_size, wide.hidden_size, wide.num_directions, wide.output_size, wide.context_size) == (
        3,
        6,
        2,
        12,
        0,
    )
    with pytest.raises(KeyError, match="does not match this Stacked: missing .'1.weight_ih_l0'"):
        net.load_state_dict({name: p for name, p in net.state_dict().items() if name != "1.weight_ih_l0"})


def test_make_gives_a_network_or_a_stack():
    assert repr(build.make(LSTM, 3, 5, 2, dropout=0.1)) == "LSTM(3, 5, num_layers=2, dropout=0.1)"
    net = build.make(
        RNN, 3, [5, 4], nonlinearity="relu", bidirectional=True, context_size=2, dtype="float64", dropout=0.1, seed=1
    )
    assert repr(net).startswith(
        "Stacked([RNN(3, 5, bidirectional=True, context_size=2, nonlinearity='relu', dtype='float64'), RNN(10, 4, "
    )
    assert net.dropout == 0.1
    again = build.make(RNN, 3, [5, 4], nonlinearity="relu", bidirectional=True, context_size=2, dtype="float64", seed=1)
    same_bits(net.flat, again.flat, "first values of one seed")
    same = build.make(GRU, 3, 4, 3, residual=True, storage=Storage(), seed=1)
    assert [layer.hidden_size for layer in same.layers] == [4, 4, 4] and same.residual
    assert (same.layers[1].params["weight_hh_l0"] != same.layers[2].params["weight_hh_l0"]).any()
    with pytest.raises(ValueError, match="num_layers is 3, but hidden_size has 2 sizes: leave num_layers out"):
        build.make(GRU, 3, (5, 4), 3)


# --- errors -------------------------------------------------------------------


def test_an_error_comes_before_any_member_has_done_anything():
    """A call that fails at the last member uses no masks, adds no gradient, and advances no stream."""
    net, x, wrong = mixed(dropout=0.4), draw(4, 2, 3), draw(1, 3, 4)
    other = net.copy()
    for given in ({"state": (None, None, wrong)}, {"resets": np.zeros((4, 2), bool)}):
        with pytest.raises(ValueError, match="GRU needs|LSTM has"):
            net.vjp(x, **given)
    (y, state_n), backward = net.vjp(x)
    same_bits(y, other.vjp(x)[0][0], "y with the first masks")
    into = np.zeros(net.storage.size)
    with pytest.raises(ValueError, match="h_n of dstate_n has shape"):
        backward(y, (wrong, None, None), into=into)
    assert not into.any()
    s = net.stream(2)
    before = s.state
    with pytest.raises(ValueError, match="h_0 of state has shape"):
        s.state = (*state_n[:2], wrong)
    for got, want in zip(s.state, before, strict=True):
        same_state(got, want)


def on_gru(layer, **options):
    return Stacked([GRU(3, 4), layer], **options)


def in_two_storages():
    one, other = Storage(), Storage()
    layers = [GRU(3, 4, storage=one), GRU(4, 4, storage=one), GRU(4, 4, storage=other)]
    return Stacked(layers)


def with_one_between():
    shared = Storage()
    below, between, above = GRU(3, 4, storage=shared), fastrnn.Linear(2, 2, storage=shared), GRU(4, 4, storage=shared)
    assert between.storage is shared
    return Stacked([below, above])


def twice():
    layer = GRU(4, 4)
    return Stacked([layer, layer])


@pytest.mark.parametrize(
    "act, error, message",
    [
        (lambda: Stacked([]), ValueError, "a Stacked needs at least one member, all different objects, got 0"),
        (twice, ValueError, "a Stacked needs at least one member, all different objects, got 2"),
        (lambda: on_gru(fastrnn.Linear(4, 2)), TypeError, "member 1 is Linear, but it must be an RNN, GRU or LSTM"),
        (lambda: on_gru(GRU(5, 4)), ValueError, "member 1 has input_size=5, but member 0 gives 4 features"),
        (
            lambda: Stacked([GRU(3, 4, bidirectional=True), GRU(4, 4)]),
            ValueError,
            "input_size=4, but member 0 gives 8 features",
        ),
        (
            lambda: on_gru(GRU(4, 4, dtype="float64")),
            TypeError,
            "member 1 computes in float64, but member 0 in float32",
        ),
        (
            lambda: on_gru(GRU(4, 4, batch_first=True)),
            ValueError,
            "member 1 has batch_first=True, but member 0 has False",
        ),
        (
            lambda: on_gru(GRU(4, 4, context_size=2)),
            ValueError,
            "member 1 was made with context_size=2, but only member 0 can take a context",
        ),
        (
            lambda: on_gru(GRU(4, 5), residual=True),
            ValueError,
            "residual=True requires input and output of the same size, but member 1 maps 4 to 5 features: GRU.4, 5.",
        ),
        (lambda: on_gru(GRU(4, 4), dropout=1.0), ValueError, "dropout is 1.0, but it must be a number from 0"),
        (in_two_storages, ValueError, "member 2 has another storage than member 0"),
        (with_one_between, ValueError, "member 1 does not directly follow member 0 in the storage"),
        (lambda: mixed()(draw(4, 2, 3), (None, None)), ValueError, "a tuple of its 3 members' states, got tuple of 2"),
        (
            lambda: mixed()(draw(4, 2, 3), draw(3, 2, 4)),
            ValueError,
            "tuple of its 3 members' states, got array of shape .3, 2, 4.",
        ),
        (
            lambda: mixed()(draw(4, 2, 3), (None, None, draw(1, 3, 4))),
            ValueError,
            r"h_0 of state has shape .* but this GRU needs",
        ),
        (lambda: mixed()(draw(4, 2, 3), (None, draw(1, 2, 4), None)), ValueError, "state of an LSTM is a pair"),
        (
            lambda: mixed()(draw(4, 2, 3), resets=np.zeros((4, 2), bool)),
            ValueError,
            "this LSTM has learn_initial_state=True",
        ),
        (lambda: mixed()(draw(4, 2, 2)), ValueError, "x has 2 features, but this RNN was made with input_size=3"),
        (
            lambda: mixed().vjp(draw(4, 2, 3))[1](draw(4, 2, 3)),
            ValueError,
            "dy has D.H=3, but the forward pass it belongs to had D.H=4",
        ),
        (
            lambda: mixed().vjp(draw(4, 2, 3))[1](None, (None, None)),
            ValueError,
            "dstate_n of a Stacked is a tuple of its 3",
        ),
        (
            lambda: mixed().vjp(draw(4, 2, 3))[1](None, (None, None, draw(1, 3, 4))),
            ValueError,
            "h_n of dstate_n has shape",
        ),
        (lambda: mixed().vjp(draw(4, 2, 3))[1](into=np.zeros(3)), ValueError, "into is float64 of shape"),
    ],
)
def test_an_error_says_what_was_wrong(act, error, message):
    with pytest.raises(error, match=message):
        act()

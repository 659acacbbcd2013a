"""Every gradient numerically: central differences of the float64 reference against both engines on every ISA."""

import functools

import numpy as np
import pytest
import reference
from nets import CELLS, DTYPES, as_state, as_tuple, random_case, same_bits, same_gradients, same_state

import fastrnn

TOLERANCE = {"float64": {"rtol": 1e-7, "atol": 1e-7}, "float32": {"rtol": 1e-4, "atol": 1e-4}}

CASES = {  # name: (T, B, I, H), options
    "one of everything": ((1, 1, 1, 1), {}),
    "one step": ((1, 3, 2, 5), {}),
    "plain": ((3, 2, 3, 11), {}),
    "one vector": ((3, 2, 1, 8), {}),
    "more than a tile of rows": ((2, 9, 2, 3), {}),
    "no bias": ((3, 2, 2, 3), {"bias": False}),
    "no input": ((4, 2, 0, 5), {}),
    "lengths": ((5, 5, 2, 3), {"lengths": True}),
    "resets": ((6, 3, 2, 3), {"resets": True}),
    "lengths and resets": ((6, 4, 2, 3), {"lengths": True, "resets": True}),
    "context": ((3, 2, 2, 3), {"context": 2}),
    "both directions": ((3, 2, 2, 3), {"bidirectional": True}),
    "both directions, lengths and resets": ((4, 3, 2, 3), {"bidirectional": True, "lengths": True, "resets": True}),
    "two layers": ((4, 2, 3, 2), {"num_layers": 2}),
    "everything": (
        (4, 3, 2, 2),
        {"lengths": True, "resets": True, "context": 2, "bidirectional": True, "num_layers": 2},
    ),
}


def build(cell, name, dtype):
    sizes, options = CASES[name]
    return random_case(cell, *sizes, dtype=dtype, seed=1, **options)


def arguments(case):
    """Return everything that has a gradient, by name."""
    values = {"x": case.x, **{f"state[{k}]": s for k, s in enumerate(case.state)}, **case.params}
    if "context" in case.given:
        values["context"] = case.given["context"]
    return values


def by_name(g, case):
    """Return the engine's gradients under the names of `arguments`."""
    got = {"x": g.x, **{f"state[{k}]": s for k, s in enumerate(as_tuple(g.state))}, **g.params}
    if "context" in case.given:
        got["context"] = g.context
    return got


@functools.cache
def numeric(cell, name):
    """Return the reference result of a case; it does not depend on dtype or instruction set, so it is computed once."""
    case = build(cell, name, "float64")

    def loss(v):
        y, state_n = case.reference(
            params={p: v[p] for p in case.params},
            x=v["x"],
            state=[v[f"state[{k}]"] for k in range(len(case.state))],
            context=v.get("context"),
        )
        return (y * case.dy).sum() + sum((s * d).sum() for s, d in zip(state_n, case.dstate, strict=True))

    return reference.differences(loss, arguments(case))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_gradient_matches_central_differences(cell, dtype, isa, name):
    case = build(cell, name, dtype)
    net = case.net()
    _, backward = net.vjp(case.x, case.layer_state(), **case.given)
    g = backward(case.dy, case.layer_dstate())
    got = by_name(g, case)
    want = numeric(cell, name)
    assert set(got) == set(want)
    for argument, value in arguments(case).items():
        assert got[argument].dtype == dtype and got[argument].shape == value.shape, argument
        reference.agrees(got[argument], want[argument], argument, **TOLERANCE[dtype])
    same_bits(
        np.concatenate([g.params[p].ravel() for p in net.params]), g.flat, "flat is the parameters' gradients in a row"
    )


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T, B, I, H", [(7, 19, 5, 33), (20, 2, 33, 40), (2, 35, 17, 70), (4, 1, 3, 150)])
def test_gradients_of_larger_networks_match_differences_along_random_directions(cell, dtype, isa, T, B, I, H):
    """Compare one number per argument and direction: sum(gradient * v) is the slope of the loss along v."""
    case = random_case(cell, T, B, I, H, dtype=dtype, seed=2, lengths=True, resets=True, context=2)
    _, backward = case.net().vjp(case.x, case.layer_state(), **case.given)
    got = by_name(backward(case.dy, case.layer_dstate()), case)
    for argument, (v, slope, scale) in slopes(cell, T, B, I, H).items():
        error = abs((got[argument].astype("float64") * v).sum() - slope)
        assert error <= TOLERANCE[dtype]["rtol"] * max(1.0, scale), f"{argument}: {error} at a slope of {slope}"


@functools.cache
def slopes(cell, T, B, I, H, eps=1e-7):  # small, so that clips and kinks are seldom within it
    case = random_case(cell, T, B, I, H, seed=2, lengths=True, resets=True, context=2)
    rng = np.random.default_rng(3)
    values = arguments(case)

    def loss(name, v):
        moved = {n: a.astype("float64") for n, a in values.items()}
        moved[name] = moved[name] + v
        y, state_n = case.reference(
            params={p: moved[p] for p in case.params},
            x=moved["x"],
            state=[moved[f"state[{k}]"] for k in range(len(case.state))],
            context=moved["context"],
        )
        return (y * case.dy).sum() + sum((s * d).sum() for s, d in zip(state_n, case.dstate, strict=True))

    result = {}
    for name, a in values.items():
        v = rng.standard_normal(a.shape) / np.sqrt(max(1, a.size))
        slope = (loss(name, eps * v) - loss(name, -eps * v)) / (2 * eps)
        result[name] = (v, slope, np.sqrt((case.dy**2).sum()))
    return result


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", [None, [3, 0, 5]], ids=["full", "ragged"])
def test_the_gradient_of_an_embedding_matches_central_differences(cell, dtype, isa, lengths):
    V, E, T, B, H = 6, 3, 5, 3, 4
    case = random_case(cell, T, B, E, H, dtype=dtype, seed=3)
    ids = np.random.default_rng(4).integers(0, V - 1, (T, B))  # the last symbol never occurs: its gradient is 0
    embedding = fastrnn.Embedding(V, E, dtype=dtype, seed=5)
    table = embedding.params["weight"].copy()
    given = {} if lengths is None else {"lengths": np.array(lengths)}
    case.given.update(given)
    _, backward = case.net().vjp(ids, case.layer_state(), embedding=embedding, **given)
    g = backward(case.dy, case.layer_dstate())

    def loss(v):
        y, state_n = case.reference(x=v["table"][ids])
        return (y * case.dy).sum() + sum((s * d).sum() for s, d in zip(state_n, case.dstate, strict=True))

    want = reference.numeric_gradient(loss, {"table": table})["table"]
    np.testing.assert_allclose(g.embedding, want, **TOLERANCE[dtype])
    assert g.embedding.dtype == dtype and not g.embedding[V - 1].any()
    assert g.x is None
    # the layer's own gradients are those of the embedded input
    case.x = table[ids]
    _, backward = case.net().vjp(case.x, case.layer_state(), **given)
    dense = backward(case.dy, case.layer_dstate())
    for name in case.params:
        np.testing.assert_allclose(
            g.params[name],
            dense.params[name],
            rtol=1e-5 if dtype == "float32" else 1e-12,
            atol=1e-5 if dtype == "float32" else 1e-12,
        )
    same_state(g.state, dense.state, "g.state")


@pytest.fixture(params=CELLS)
def case(request):
    """Return a case with every kind of argument, for the laws below."""
    return random_case(
        request.param, 6, 5, 3, 18, seed=6, lengths=True, resets=True, context=2, num_layers=2, bidirectional=True
    )


def test_what_is_not_given_to_backward_counts_as_zero(isa, case):
    _, backward = case.net().vjp(case.x, case.layer_state(), **case.given)
    zero_dstate = as_state([np.zeros_like(d) for d in case.dstate])
    same_gradients(backward(case.dy), backward(case.dy, zero_dstate), "no dstate_n")
    same_gradients(backward(None, case.layer_dstate()), backward(np.zeros_like(case.dy), case.layer_dstate()), "no dy")
    nothing = backward()
    assert not nothing.flat.any() and not nothing.x.any() and not any(s.any() for s in as_tuple(nothing.state))
    both, only_y, only_state = (
        backward(case.dy, case.layer_dstate()),
        backward(case.dy),
        backward(dstate_n=case.layer_dstate()),
    )
    assert only_y.flat.any() and only_state.flat.any()
    np.testing.assert_allclose(only_y.flat + only_state.flat, both.flat, rtol=1e-12, atol=1e-12)


def test_backward_may_be_called_again_and_gives_the_same(isa, case):
    _, backward = case.net().vjp(case.x, case.layer_state(), **case.given)
    first = backward(case.dy, case.layer_dstate())
    backward(2 * case.dy)
    same_gradients(backward(case.dy, case.layer_dstate()), first)


def test_tapes_live_side_by_side(isa, case):
    """Run two forward passes, then their backwards in either order."""
    net = case.net()
    other = random_case(case.cell, 6, 5, 3, 18, seed=7, lengths=True, num_layers=2, bidirectional=True, context=2)

    def first():
        return net.vjp(case.x, case.layer_state(), **case.given)[1]

    def second():
        return net.vjp(other.x, other.layer_state(), **other.given)[1]

    alone = [first()(case.dy, case.layer_dstate()), second()(other.dy, other.layer_dstate())]
    a, b = first(), second()
    same_gradients(b(other.dy, other.layer_dstate()), alone[1], "second")
    same_gradients(a(case.dy, case.layer_dstate()), alone[0], "first")


def test_need_x_false_leaves_out_x_and_nothing_else(isa, case):
    _, backward = case.net().vjp(case.x, case.layer_state(), **case.given)
    full, lean = backward(case.dy, case.layer_dstate()), backward(case.dy, case.layer_dstate(), need_x=False)
    assert lean.x is None
    full.x = None
    same_gradients(lean, full)


def test_gradients_are_added_to_into(isa, case):
    net = case.net()
    _, backward = net.vjp(case.x, case.layer_state(), **case.given)
    want = backward(case.dy, case.layer_dstate())
    into = np.full(net.flat.shape, 0.25)
    g = backward(case.dy, case.layer_dstate(), into=into)
    np.testing.assert_allclose(into, want.flat + 0.25, rtol=1e-12, atol=1e-12)
    assert np.shares_memory(g.flat, into) and all(np.shares_memory(p, into) for p in g.params.values())
    same_bits(g.x, want.x, "g.x")
    zeros = np.zeros_like(into)
    backward(case.dy, case.layer_dstate(), into=zeros)
    same_bits(zeros, want.flat, "into zeros")


def test_dy_past_the_length_is_ignored(isa, case):
    _, backward = case.net().vjp(case.x, case.layer_state(), **case.given)
    want = backward(case.dy, case.layer_dstate())
    dy = case.dy.copy()
    for b, n in enumerate(case.given["lengths"]):
        dy[n:, b] = np.nan
    got = backward(dy, case.layer_dstate())
    same_gradients(got, want)
    for b, n in enumerate(case.given["lengths"]):
        assert not got.x[n:, b].any(), "x past the length has gradient 0"


def test_a_row_of_length_zero_passes_dstate_through(isa, case):
    row = int(np.flatnonzero(case.given["lengths"] == 0)[0])
    _, backward = case.net().vjp(case.x, case.layer_state(), **case.given)
    g = backward(case.dy, case.layer_dstate())
    for got, given in zip(as_tuple(g.state), case.dstate, strict=True):
        same_bits(got[:, row], given[:, row], "g.state of the empty row")
    assert not g.x[:, row].any() and not g.context[row].any()


@pytest.mark.parametrize("T, B", [(0, 3), (4, 0), (0, 0)])
def test_no_steps_or_no_rows_give_zero_gradients_and_pass_dstate_through(case, T, B):
    empty = random_case(case.cell, T, B, 3, 5, seed=8, num_layers=2, bidirectional=True)
    _, backward = empty.net().vjp(empty.x, empty.layer_state())
    g = backward(empty.dy, empty.layer_dstate())
    same_state(g.state, empty.layer_dstate(), "g.state")
    assert g.x.shape == (T, B, 3) and not g.flat.any() and g.flat.shape == empty.net().flat.shape


def test_no_gradient_crosses_a_reset(isa, case):
    """dy after a reset does not affect x or the state before it."""
    one = random_case(case.cell, 6, 2, 3, 9, seed=9)
    resets = np.zeros((6, 2), bool)
    resets[3] = True
    _, backward = one.net().vjp(one.x, one.layer_state(), resets=resets)
    dy = one.dy.copy()
    dy[:3] = 0
    g = backward(dy, one.layer_dstate())
    assert not g.x[:3].any() and not any(s.any() for s in as_tuple(g.state))
    assert g.x[3:].all()


def test_batch_first_and_unbatched_gradients_have_the_shapes_of_their_arguments(isa, case):
    net = case.net()
    _, backward = net.vjp(case.x, case.layer_state(), **case.given)
    want = backward(case.dy, case.layer_dstate())
    given = dict(case.given, resets=case.given["resets"].T)
    _, backward = case.net(batch_first=True).vjp(case.x.swapaxes(0, 1), case.layer_state(), **given)
    g = backward(case.dy.swapaxes(0, 1), case.layer_dstate())
    same_bits(np.ascontiguousarray(g.x.swapaxes(0, 1)), want.x, "g.x, batch first")
    same_bits(g.flat, want.flat, "g.flat, batch first")

    one = random_case(case.cell, 5, 1, 3, 9, seed=10, num_layers=2)
    _, backward = one.net().vjp(one.x, one.layer_state())
    want = backward(one.dy, one.layer_dstate())
    _, backward = one.net().vjp(one.x[:, 0], as_state([s[:, 0] for s in one.state]))
    g = backward(one.dy[:, 0], as_state([d[:, 0] for d in one.dstate]))
    same_bits(g.x, want.x[:, 0], "g.x, unbatched")
    same_bits(g.flat, want.flat, "g.flat, unbatched")
    same_state(g.state, as_state([s[:, 0] for s in as_tuple(want.state)]), "g.state, unbatched")


@pytest.mark.parametrize("variational", [False, True])
def test_gradients_under_dropout_match_central_differences(isa, case, variational):
    """The mask is part of the function: with the same key, forward and backward use the same one."""
    one = random_case(case.cell, 4, 3, 2, 4, seed=11, num_layers=2, lengths=True)
    options = {"dropout": 0.4, "variational": variational}
    net = one.net(**options)
    (y, state_n), backward = net.vjp(one.x, one.layer_state(), rng=77, **one.given)
    assert np.abs(y - net(one.x, one.layer_state(), **one.given)[0]).max() > 1e-3, "dropout did something"
    got = by_name(backward(one.dy, one.layer_dstate()), one)

    def loss(v):
        net.load_state_dict({name: v[name] for name in one.params})
        state = as_state([v[f"state[{k}]"] for k in range(len(one.state))])
        (y, state_n), _ = net.vjp(v["x"], state, rng=77, **one.given)
        return (y * one.dy).sum() + sum((s * d).sum() for s, d in zip(as_tuple(state_n), one.dstate, strict=True))

    for argument, want in reference.differences(loss, arguments(one)).items():
        reference.agrees(got[argument], want, argument, rtol=1e-7, atol=1e-7)


def test_nan_in_dy_of_a_row_is_not_swallowed_and_stays_in_that_rows_state_and_input(isa, case):
    one = random_case(case.cell, 5, 4, 3, 18, seed=12, num_layers=2)
    _, backward = one.net().vjp(one.x, one.layer_state())
    clean = backward(one.dy, one.layer_dstate())
    dy = one.dy.copy()
    dy[3, 1] = np.nan
    g = backward(dy, one.layer_dstate())
    others = np.array([0, 2, 3])
    assert np.isnan(g.x[:4, 1]).all()
    np.testing.assert_allclose(g.x[:, others], clean.x[:, others], rtol=1e-12, atol=1e-12)
    for got, want in zip(as_tuple(g.state), as_tuple(clean.state), strict=True):
        assert np.isnan(got[:, 1]).all()
        np.testing.assert_allclose(got[:, others], want[:, others], rtol=1e-12, atol=1e-12)
    assert np.isnan(g.params["bias_ih_l0"]).any()


def test_release_returns_the_tape_and_backward_then_raises(case):
    _, backward = case.net().vjp(case.x, case.layer_state(), **case.given)
    backward(case.dy)
    backward.release()
    with pytest.raises(RuntimeError, match="release"):
        backward(case.dy)

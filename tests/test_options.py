"""Options of cells: activations, clip, reverse, mask, and errors. The other test files also run on every such cell."""

import numpy as np
import pytest
import reference
from nets import CELLS, as_state, as_tuple, features, make, random_case, same_bits, same_state
from numpy.testing import assert_allclose

import fastrnn
from fastrnn.parameters import initialise

ACTIVATIONS = [
    *reference.ACTIVATIONS,
    ("affine", 0.7, 0.2),
    ("leaky_relu", 0.2),
    ("thresholded_relu", 0.1),
    ("scaled_tanh", 1.7, 0.6),
    ("hard_sigmoid", 0.2, 0.5),
    ("elu", 0.4),
    ("elu", -0.4),
]


def layers(f, dtype, **options):
    """Return a layer of each kind with this activation wherever it is allowed."""
    return [
        fastrnn.RNN(2, 5, nonlinearity=f, dtype=dtype, seed=1, **options),
        fastrnn.GRU(2, 5, activation=f, recurrent_activation=f, dtype=dtype, seed=2, **options),
        fastrnn.GRU(2, 5, reset_after=False, activation=f, recurrent_activation=f, dtype=dtype, seed=3, **options),
        fastrnn.LSTM(2, 5, activation=f, recurrent_activation=f, dtype=dtype, seed=4, **options),
        fastrnn.LSTM(
            2,
            5,
            activation=f,
            recurrent_activation=f,
            coupled=True,
            peephole=True,
            proj_size=3,
            dtype=dtype,
            seed=5,
            **options,
        ),
    ]


def steps_of(f, clip):
    """Return the same in the reference."""
    return [
        reference.rnn_options(f, clip), reference.gru_options(True, f, f, clip),
        reference.gru_options(False, f, f, clip), reference.lstm_options(False, f, f, f, clip),
        reference.lstm_options(True, f, f, f, clip),
    ]  # fmt: skip


@pytest.mark.parametrize("clip", [None, 0.6])
@pytest.mark.parametrize("f", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_activation_agrees_with_the_reference_in_value_and_gradient(isa, monkeypatch, dtype, f, clip):
    tolerance = {"rtol": 2e-5, "atol": 2e-6} if dtype == "float32" else {"rtol": 1e-10, "atol": 1e-12}
    T = 1 if f == "exponential" else 4  # more steps of e**(e**…) overflow
    x = np.random.default_rng(0).uniform(-2, 2, (T, 3, 2)).astype(dtype)
    for net, step in zip(layers(f, dtype, clip=clip), steps_of(f, np.inf if clip is None else clip), strict=True):
        monkeypatch.setitem(reference.CELLS, "this", (step, net.num_gates, len(net.cell.states)))
        want, want_state = reference.run("this", net.params, x)
        (y, state_n), backward = net.vjp(x)
        assert_allclose(y, want, **tolerance, err_msg=repr(net))
        for got, s in zip(as_tuple(state_n), want_state, strict=True):
            assert_allclose(got, s, **tolerance, err_msg=repr(net))
        same_bits(net(x)[0], y, "with and without a tape")
        g = backward(np.ones_like(y))
        for name, value in [("x", x), *net.params.items()]:
            v = np.random.default_rng(1).standard_normal(value.shape)
            ends = []
            for eps in (1e-6, -1e-6):
                values = {**net.params, "x": x}
                values[name] = value.astype("float64") + eps * v
                ends.append(reference.run("this", values, values["x"])[0].sum())
            got = ((g.x if name == "x" else g.params[name]).astype("float64") * v).sum()
            bound = 2e-3 if dtype == "float32" else 1e-6
            assert abs(got - (ends[0] - ends[1]) / 2e-6) < bound * max(1, abs(got)), f"{name} of {net!r}"


@pytest.mark.parametrize("make_layer, options", [(fastrnn.GRU, {}), (fastrnn.LSTM, {"output_activation": "tanh"})])
def test_units_that_are_only_there_to_fill_a_vector_do_not_grow_into_the_gradients(isa, make_layer, options):
    """Weights for which a state doubles in every step without a bias; the biases of the 5 units halve it."""
    net = make_layer(2, 5, recurrent_activation=("affine", 1.0, 2.0), activation="exponential", seed=0, **options)
    state = {name: 0.01 * p for name, p in net.params.items()}
    for k in range(net.num_gates):
        if k != 2:  # all but the candidate, which is third in both
            state["bias_ih_l0"][5 * k : 5 * k + 5] = -1.5
    net.load_state_dict(state)
    (y, _), backward = net.vjp(np.zeros((300, 2, 2), "float32"))
    assert np.isfinite(y).all() and np.isfinite(backward(np.ones_like(y)).flat).all()


def test_the_usual_options_make_the_usual_cells():
    assert fastrnn.LSTM(3, 4, clip=None, activation="tanh", output_activation="tanh").cell is fastrnn.LSTM(3, 4).cell
    assert fastrnn.GRU(3, 4, recurrent_activation="sigmoid").cell is fastrnn.GRU(3, 4).cell
    assert fastrnn.RNN(3, 4, nonlinearity="relu").cell.functions is None


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_reverse_is_the_forward_network_on_flipped_rows(cell, isa, ragged, num_layers):
    case = random_case(cell, 6, 4, 3, 9, dtype="float32", lengths=ragged, num_layers=num_layers)
    lengths = case.given.get("lengths", np.full(4, 6))

    def flipped(a):
        out = a.copy()
        for b, n in enumerate(lengths):
            out[:n, b] = a[:n, b][::-1]
        return out

    (y, state_n), backward = case.net(reverse=True).vjp(case.x, case.layer_state(), **case.given)
    (want, want_state), want_backward = case.net().vjp(flipped(case.x), case.layer_state(), **case.given)
    same_bits(y, flipped(want), "y")
    same_state(state_n, want_state)
    g, other = backward(case.dy, case.layer_dstate()), want_backward(flipped(case.dy), case.layer_dstate())
    same_bits(g.x, np.where(np.arange(6)[:, None, None] < lengths[:, None], flipped(other.x), 0), "g.x")
    same_state(g.state, other.state)
    assert_allclose(g.flat, other.flat, rtol=1e-4, atol=1e-5)
    same_bits(case.net(reverse=True)(case.x, case.layer_state(), **case.given)[0], y, "without a tape")


@pytest.mark.parametrize("cell", CELLS)
def test_reverse_is_the_reverse_direction_of_a_bidirectional_network(cell, isa):
    """Run with all arguments, and with the states of every step."""
    both = random_case(cell, 6, 5, 3, 9, dtype="float32", bidirectional=True, lengths=True, resets=True, context=2)
    y, state_n, states = both.net()(both.x, both.layer_state(), return_states=True, **both.given)
    params = {name.removesuffix("_reverse"): p for name, p in both.params.items() if name.endswith("_reverse")}
    net = make(cell, 3, 9, 1, params, reverse=True, context_size=2)
    got_y, got_state, got_states = net(both.x, as_state([s[1:] for s in both.state]), return_states=True, **both.given)
    same_bits(got_y, np.ascontiguousarray(y[..., features(cell, 9) :]), "y")
    same_state(got_state, as_state([s[1:] for s in as_tuple(state_n)]))
    same_state(got_states, as_state([s[1:] for s in as_tuple(states)]))


# --- mask -----------------------------------------------------------------------


def repeated(y, mask, reverse):
    """Return y (T, B, n) with the previous output repeated at masked steps, in one direction."""
    out = np.zeros_like(y)
    for b in range(y.shape[1]):
        last = np.zeros(y.shape[2], y.dtype)
        for t in range(len(y))[:: -1 if reverse else 1]:
            last = y[t, b] if mask[t, b] else last
            out[t, b] = last
    return out


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_masked_steps_are_left_out_and_their_outputs_repeated(cell, isa, bidirectional, dtype):
    """Each row equals the row without its masked steps: outputs, states and gradients."""
    case = random_case(cell, 7, 5, 3, 9, dtype=dtype, num_layers=2, bidirectional=bidirectional)
    mask = np.random.default_rng(2).random((7, 5)) < 0.6
    mask[:3, 1] = False  # left padding
    mask[:, 2], mask[:, 3] = False, True
    net, D, P = case.net(), 1 + bidirectional, features(cell, 9)
    (y, state_n), backward = net.vjp(case.x, case.layer_state(), mask=mask)
    g = backward(case.dy, case.layer_dstate())
    same_bits(net(case.x, case.layer_state(), mask=mask)[0], y, "with and without a tape")
    flat = np.zeros_like(g.flat)
    for b in range(5):
        there = np.flatnonzero(mask[:, b])
        row = [s[:, [b]] for s in case.state]
        (part, final), row_backward = net.vjp(case.x[there][:, [b]], as_state(row))
        whole = np.zeros((7, 1, D * P), dtype)
        whole[there] = part
        dy = np.zeros_like(part)
        for d in range(D):
            columns = slice(d * P, (d + 1) * P)
            want = repeated(whole[..., columns], mask[:, [b]], d == 1)
            same_bits(y[:, [b], columns], want, f"y of row {b}, direction {d}")
            for t in range(7):  # the gradient goes to the step that the output came from
                before = there[there >= t][:1] if d else there[there <= t][-1:]
                dy[np.searchsorted(there, before), 0, columns] += case.dy[t, b, columns]
        same_state(as_state([s[:, [b]] for s in as_tuple(state_n)]), final, f"state of row {b}")
        row_g = row_backward(dy, as_state([s[:, [b]] for s in case.dstate]))
        assert_allclose(g.x[there][:, [b]], row_g.x, rtol=1e-4, atol=1e-5)
        assert (g.x[~mask[:, b], b] == 0).all()
        flat += row_g.flat
    assert_allclose(g.flat, flat, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_mask_that_pads_on_the_right_is_lengths_but_for_the_outputs(cell, isa):
    case = random_case(cell, 6, 5, 3, 9, dtype="float32", lengths=True, bidirectional=True)
    valid = np.arange(6)[:, None] < case.given["lengths"]
    y, state_n = case.net()(case.x, case.layer_state(), mask=valid)
    want, want_state = case.net()(case.x, case.layer_state(), **case.given)
    same_bits(np.where(valid[..., None], y, 0), want, "y")
    same_state(state_n, want_state)
    both, both_state = case.net()(case.x, case.layer_state(), mask=np.ones((6, 5), bool), **case.given)
    same_bits(both, want, "all steps, and lengths")
    same_state(both_state, want_state)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_beyond_a_length_there_is_no_output_and_no_gradient_even_with_a_mask(isa, bidirectional):
    """A gap inside a length repeats the output; beyond it there are zeros, and the gradient there is ignored."""
    case = random_case("lstm", 7, 4, 3, 5, dtype="float32", bidirectional=bidirectional)
    lengths = np.array([7, 3, 5, 0])
    mask = np.random.default_rng(1).random((7, 4)) < 0.6
    mask[1, 1], mask[2, 1] = True, False
    within = np.arange(7)[:, None] < lengths
    net, dy = case.net(), np.random.default_rng(3).standard_normal((7, 4, 10 if bidirectional else 5)).astype("float32")
    (y, state_n), backward = net.vjp(case.x, mask=mask, lengths=lengths)
    want, want_state = net(case.x, mask=mask & within)
    same_bits(y, np.where(within[..., None], want, np.float32(0)), "y")
    same_state(state_n, want_state, "state_n")
    assert y[2, 1].any()
    same_bits(backward(dy).flat, backward(np.where(within[..., None], dy, np.float32(9))).flat, "gradient")


def test_resets_at_masked_steps_are_ignored(isa):
    case = random_case("lstm", 5, 2, 3, 9, dtype="float32")
    mask, resets = np.ones((5, 2), bool), np.zeros((5, 2), bool)
    mask[2] = False
    resets[2] = True
    want, _ = case.net()(case.x, mask=mask)
    same_bits(case.net()(case.x, mask=mask, resets=resets)[0], want, "y")
    resets[3] = True
    assert (case.net()(case.x, mask=mask, resets=resets)[0][3:] != want[3:]).any()


def test_a_mask_is_laid_out_as_x_is(isa):
    case = random_case("gru", 5, 3, 3, 9, dtype="float32")
    mask = np.random.default_rng(0).random((5, 3)) < 0.5
    want, _ = case.net()(case.x, mask=mask)
    y, _ = case.net(batch_first=True)(case.x.transpose(1, 0, 2), mask=mask.T)
    same_bits(np.ascontiguousarray(y.transpose(1, 0, 2)), want, "batch_first")
    y, _ = case.net()(case.x[:, 0], mask=mask[:, 0])
    same_bits(y, want[:, 0], "unbatched")


def test_stacked_networks_pass_the_mask_on(isa):
    mask = np.random.default_rng(0).random((6, 4)) < 0.5
    x = np.random.default_rng(1).standard_normal((6, 4, 3)).astype("float32")
    one, two = fastrnn.GRU(3, 5, seed=0), fastrnn.LSTM(5, 5, seed=1)
    want = two(one(x, mask=mask)[0], mask=mask)[0]
    net = fastrnn.Stacked([one, two])
    same_bits(net(x, mask=mask)[0], want, "y")
    same_bits(net.vjp(x, mask=mask)[0][0], want, "y of vjp")


# --- errors ---------------------------------------------------------------------

REFUSED = [
    (
        lambda: fastrnn.LSTM(3, 4, proj_size=4),
        ValueError,
        "proj_size is 4, but it must be smaller than hidden_size=4; 0 means no projection",
    ),
    (lambda: fastrnn.LSTM(3, 4, proj_size=-1), ValueError, "proj_size is -1, but it must be at least 0"),
    (lambda: fastrnn.GRU(3, 4, clip=0), ValueError, "clip is 0, but it must be > 0"),
    (lambda: fastrnn.RNN(3, 4, reverse=True, bidirectional=True), ValueError, "leave one of them out"),
    (lambda: fastrnn.RNN(3, 4, nonlinearity=("tanh", 2.0)), ValueError, "nonlinearity has 1 numbers, but tanh takes 0"),
    (
        lambda: fastrnn.RNN(3, 4, nonlinearity=7),
        TypeError,
        "nonlinearity is 7, but it must be a name, (name, alpha) or (name, alpha, beta)",
    ),
    (
        lambda: fastrnn.GRU(3, 4, activation=("elu", "x")),
        TypeError,
        "alpha of activation is 'x', but it must be a number",
    ),
    (
        lambda: initialise(fastrnn.LSTM(3, 4, coupled=True), forget_bias=1.0),
        ValueError,
        "has no forget gate: leave forget_bias out",
    ),
    (
        lambda: fastrnn.GRU(3, 4, reverse=True).stream(),
        ValueError,
        "this GRU has reverse=True, so its outputs depend on future inputs",
    ),
    (
        lambda: fastrnn.GRU(3, 4)(np.ones((5, 2, 3), "float32"), mask=np.ones((5, 2))),
        TypeError,
        "mask must be bool, got float64",
    ),
    (
        lambda: fastrnn.GRU(3, 4)(np.ones((5, 2, 3), "float32"), mask=np.ones((2, 5), bool)),
        ValueError,
        "leading axes (5, 2), got shape (2, 5)",
    ),
    (
        lambda: fastrnn.GRU(3, 4)(np.ones((5, 2, 3), "float32"), mask=np.ones((5, 2), bool), return_states=True),
        ValueError,
        "return_states cannot be combined with mask",
    ),
    (
        lambda: fastrnn.AttentionDecoder(fastrnn.GRU(3, 4, reverse=True), memory_size=4),
        ValueError,
        "rnn was made with reverse=True",
    ),
    (lambda: fastrnn.AttentionDecoder(fastrnn.LSTM(3, 4, proj_size=2), memory_size=4), ValueError, "proj_size=2"),
]


@pytest.mark.parametrize("call, error, message", REFUSED, ids=[m for _, _, m in REFUSED])
def test_what_does_not_go_is_refused_with_the_reason(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)


@pytest.mark.parametrize("cell", CELLS)
def test_the_repr_makes_the_same_network_again(cell):
    net = make(cell, 3, 8, 2)
    again = eval(repr(net), {"LSTM": fastrnn.LSTM, "GRU": fastrnn.GRU, "RNN": fastrnn.RNN})
    assert again.cell == net.cell and repr(again) == repr(net)

"""Agreement with torch: first of the reference, then of the engine over random configurations."""

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import as_state, as_tuple, make, random_case, random_params, shapes

import fastrnn

torch = pytest.importorskip("torch", reason="torch is not installed: parity with torch is NOT tested")
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")]

CELLS = [
    "rnn_tanh",
    "rnn_relu",
    "gru",
    "lstm",
    "lstm_projected",
]  # torch has neither a sigmoid RNN nor a GRU that resets before the product
MODULES = {
    "rnn_tanh": (torch.nn.RNN, {"nonlinearity": "tanh"}),
    "rnn_relu": (torch.nn.RNN, {"nonlinearity": "relu"}),
    "gru": (torch.nn.GRU, {}),
    "lstm": (torch.nn.LSTM, {}),
    "lstm_projected": (torch.nn.LSTM, {"proj_size": 2}),  # of 5 units, as in nets.py
}
TOLERANCE = {"float64": {"rtol": 1e-9, "atol": 1e-10}, "float32": {"rtol": 2e-4, "atol": 2e-5}}


def torch_module(case, batch_first=False):
    maker, fixed = MODULES[case.cell]
    if case.cell == "lstm_projected":
        fixed = {"proj_size": case.H // 2}  # 0 for one unit: no projection
    module = maker(case.I, case.H, batch_first=batch_first, dtype=getattr(torch, case.dtype), **fixed, **case.options)
    module.load_state_dict({name: torch.from_numpy(p) for name, p in case.params.items()}, strict=True)
    return module


def run_torch(module, x, state, lengths=None):
    """Return y and the tuple of final states; a ragged batch is passed as a PackedSequence, as torch requires."""
    if lengths is None:
        y, state_n = module(x, state)
    else:
        rnn = torch.nn.utils.rnn
        packed = rnn.pack_padded_sequence(
            x, torch.from_numpy(lengths), batch_first=module.batch_first, enforce_sorted=False
        )
        packed_y, state_n = module(packed, state)
        y, _ = rnn.pad_packed_sequence(
            packed_y, batch_first=module.batch_first, total_length=x.shape[1 if module.batch_first else 0]
        )
    return y, as_tuple(state_n)


@st.composite
def configurations(draw, dtypes=("float64", "float32")):
    sizes = {"T": (1, 7), "B": (1, 9), "I": (1, 20), "H": (1, 40)}
    T, B, I, H = (draw(st.integers(*limits), label=name) for name, limits in sizes.items())
    case = random_case(
        draw(st.sampled_from(CELLS), label="cell"),
        T,
        B,
        I,
        H,
        dtype=draw(st.sampled_from(dtypes), label="dtype"),
        seed=draw(st.integers(0, 99), label="seed"),
        state=draw(st.booleans(), label="state"),
        num_layers=draw(st.integers(1, 3), label="num_layers"),
        bidirectional=draw(st.booleans(), label="bidirectional"),
        bias=draw(st.booleans(), label="bias"),
    )
    if draw(st.booleans(), label="ragged"):  # torch refuses length 0
        case.given["lengths"] = np.random.default_rng(T * B).integers(1, T + 1, B)
    return case


@settings(max_examples=40)
@given(case=configurations(dtypes=("float64",)))
def test_the_reference_agrees_with_torch(case):
    x, state = (
        torch.from_numpy(case.x),
        None if case.state is None else as_state([torch.from_numpy(s) for s in case.state]),
    )
    with torch.no_grad():
        want_y, want_state = run_torch(torch_module(case), x, state, case.given.get("lengths"))
    y, state_n = case.reference()
    np.testing.assert_allclose(y, want_y.numpy(), rtol=1e-12, atol=1e-13)
    for got, want in zip(state_n, want_state, strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-12, atol=1e-13)


def test_the_two_grus_of_the_reference_agree_where_the_reset_gate_commutes_with_the_product():
    """With one unit and no recurrent bias of n: W_hn (r h) = r (W_hn h)."""
    case = random_case("gru", 6, 3, 2, 1, seed=1)
    case.params["bias_hh_l0"][2] = 0
    y, _ = case.reference()
    before, _ = reference.run("gru_before", case.params, case.x, case.state)
    np.testing.assert_allclose(y, before, rtol=1e-14, atol=0)


def check_parity(case, batch_first):
    """Compare outputs, states and every gradient of one configuration."""

    def turned(a):
        return np.ascontiguousarray(a.swapaxes(0, 1)) if batch_first else a

    x = torch.tensor(turned(case.x), requires_grad=True)
    state = None if case.state is None else [torch.tensor(s, requires_grad=True) for s in case.state]
    module = torch_module(case, batch_first)
    want_y, want_state = run_torch(module, x, state and as_state(state), case.given.get("lengths"))
    outputs = (want_y, *want_state)
    torch.autograd.backward(outputs, [torch.from_numpy(d) for d in (turned(case.dy), *case.dstate)])

    net = case.net(batch_first=batch_first)
    (y, state_n), backward = net.vjp(turned(case.x), case.layer_state(), **case.given)
    g = backward(turned(case.dy), case.layer_dstate())

    pairs = {"y": (y, want_y), "x": (g.x, x.grad)}
    for k, (a, b) in enumerate(zip(as_tuple(state_n), want_state, strict=True)):
        pairs[f"state_n[{k}]"] = (a, b)
    if state is not None:
        for k, (a, b) in enumerate(zip(as_tuple(g.state), state, strict=True)):
            pairs[f"gradient of state[{k}]"] = (a, b.grad)
    for name, p in module.named_parameters():
        pairs[name] = (g.params[name], p.grad)
    tolerance = TOLERANCE[case.dtype]
    for name, (got, want) in pairs.items():
        want = want.detach().numpy()
        assert got.dtype == want.dtype, name
        scale = max(
            1.0, np.abs(want).max(initial=0)
        )  # a gradient sums over T*B rows: its error grows with the largest one
        np.testing.assert_allclose(
            got, want, rtol=tolerance["rtol"], atol=tolerance["atol"] * scale, err_msg=f"{name} {case.cell}"
        )


@settings(max_examples=25)
@given(case=configurations(), batch_first=st.booleans())
def test_outputs_states_and_gradients_agree_with_torch(isa, case, batch_first):
    check_parity(case, batch_first)


@pytest.mark.long
@settings(max_examples=400)
@given(case=configurations(), batch_first=st.booleans())
def test_outputs_states_and_gradients_agree_with_torch_in_400_configurations(isa, case, batch_first):
    check_parity(case, batch_first)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("T, B, I, H", [(13, 33, 65, 129), (30, 2, 7, 200)])
def test_sizes_of_several_tiles_and_chunks_agree_with_torch(isa, cell, dtype, T, B, I, H):
    check_parity(
        random_case(cell, T, B, I, H, dtype=dtype, num_layers=2, bidirectional=True, seed=3), batch_first=False
    )


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("num_layers, bidirectional, bias", [(1, False, True), (3, True, True), (2, False, False)])
def test_a_state_dict_of_torch_is_loaded_whole_and_given_back(cell, num_layers, bidirectional, bias):
    maker, fixed = MODULES[cell]
    torch.manual_seed(0)
    module = maker(3, 5, num_layers, bidirectional=bidirectional, bias=bias, **fixed)
    net = make(cell, 3, 5, num_layers, module.state_dict(), bidirectional=bidirectional, bias=bias)
    given_back = net.state_dict()
    assert list(given_back) == list(module.state_dict())
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(given_back[name], tensor.numpy(), err_msg=name)
    other = maker(3, 5, num_layers, bidirectional=bidirectional, bias=bias, **fixed)
    other.load_state_dict({name: torch.from_numpy(a) for name, a in given_back.items()}, strict=True)

    x = np.random.default_rng(0).standard_normal((4, 2, 3)).astype("float32")
    with torch.no_grad():
        want = other(torch.from_numpy(x))[0].numpy()
    np.testing.assert_allclose(net(x)[0], want, rtol=1e-5, atol=1e-6)


def test_a_state_dict_of_another_network_is_refused_and_nothing_changes():
    module = torch.nn.LSTM(3, 5, 2)
    net = fastrnn.LSTM(3, 5, 1, seed=0)
    before = net.flat.copy()
    with pytest.raises(KeyError, match="unknown .*weight_ih_l1"):
        net.load_state_dict(module.state_dict())
    with pytest.raises(KeyError, match="missing .*weight_ih_l1"):
        fastrnn.LSTM(3, 5, 2).load_state_dict(torch.nn.LSTM(3, 5).state_dict())
    transposed = {
        name: p.T.contiguous() if name == "weight_ih_l0" else p for name, p in torch.nn.LSTM(3, 5).state_dict().items()
    }
    with pytest.raises(ValueError, match=r"weight_ih_l0 has shape \(3, 20\), but this LSTM needs \(20, 3\)"):
        net.load_state_dict(transposed)
    np.testing.assert_array_equal(net.flat, before)
    net.load_state_dict(module.state_dict(), strict=False)
    np.testing.assert_array_equal(net.params["weight_hh_l0"], module.state_dict()["weight_hh_l0"].numpy())


@pytest.mark.parametrize("cell", CELLS)
def test_unbatched_input_agrees_with_torch(cell):
    case = random_case(cell, 5, 1, 3, 4, num_layers=2, bidirectional=True, seed=2)
    net, module = case.net(), torch_module(case)
    state = [s[:, 0] for s in case.state]
    with torch.no_grad():
        want_y, want_state = module(torch.from_numpy(case.x[:, 0]), as_state([torch.from_numpy(s) for s in state]))
    y, state_n = net(case.x[:, 0], as_state(state))
    np.testing.assert_allclose(y, want_y.numpy(), rtol=1e-12, atol=1e-12)
    for got, want in zip(as_tuple(state_n), as_tuple(want_state), strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_truncated_bptt_with_a_carried_state_agrees_with_torch(cell):
    """Three windows: the state is carried on, the gradient is not; the gradients of the parameters are summed."""
    case = random_case(cell, 12, 3, 4, 6, num_layers=2, seed=4)
    net, module = case.net(), torch_module(case)
    collected = np.zeros_like(net.flat)
    state, torch_state = case.layer_state(), as_state([torch.from_numpy(s) for s in case.state])
    for start in (0, 4, 8):
        window = slice(start, start + 4)
        (_, state), backward = net.vjp(case.x[window], state)
        backward(case.dy[window], into=collected)
        y, torch_state = module(torch.from_numpy(case.x[window]), torch_state)
        y.backward(torch.from_numpy(case.dy[window]))
        torch_state = as_state([s.detach() for s in as_tuple(torch_state)])
    offset = 0
    for name, p in module.named_parameters():
        got = collected[offset : offset + p.numel()].reshape(p.shape)
        np.testing.assert_allclose(got, p.grad.numpy(), rtol=1e-9, atol=1e-10, err_msg=name)
        offset += p.numel()
    assert offset == collected.size


def test_the_first_parameters_come_from_torchs_distribution():
    """U(-1/sqrt(H), 1/sqrt(H)): the bounds are reached and never exceeded, mean and variance agree."""
    net = fastrnn.LSTM(64, 100, seed=5)
    bound = 1 / np.sqrt(100)
    for name, p in net.params.items():
        assert np.abs(p).max() <= bound, name
    weights = net.params["weight_hh_l0"].astype("float64")
    assert np.abs(weights).max() > 0.999 * bound
    assert abs(weights.mean()) < 5 * bound / np.sqrt(3 * weights.size)
    assert abs(weights.var() * 3 / bound**2 - 1) < 0.02
    assert list(net.params) == list(torch.nn.LSTM(64, 100).state_dict())
    assert {n: p.shape for n, p in net.params.items()} == shapes("lstm", 64, 100)


def test_random_params_have_torchs_names_and_shapes():
    for cell in CELLS:
        maker, fixed = MODULES[cell]
        module = maker(3, 5, 2, bidirectional=True, **fixed)
        ours = random_params(np.random.default_rng(0), cell, 3, 5, num_layers=2, bidirectional=True)
        assert {n: p.shape for n, p in ours.items()} == {n: tuple(p.shape) for n, p in module.state_dict().items()}

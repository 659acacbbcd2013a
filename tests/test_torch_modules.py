"""fastrnn.torch compared with torch.nn: differences that a user who changes the import would notice."""

import copy
import io
import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: parity with torch is NOT tested")
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")]

import fastrnn.torch as ours  # noqa: E402
from fastrnn.torch._operator import recurrent  # noqa: E402

KINDS = ["RNN", "GRU", "LSTM"]


def pair(kind, *sizes, **options):
    """Return torch's module and ours, created with the same seed."""
    torch.manual_seed(1)
    theirs = getattr(torch.nn, kind)(*sizes, **options)
    torch.manual_seed(1)
    return theirs, getattr(ours, kind)(*sizes, **options)


def flat(result):
    y, state = result
    y = y.data if isinstance(y, torch.nn.utils.rnn.PackedSequence) else y
    return [y, *(state if isinstance(state, tuple) else (state,))]


@pytest.mark.parametrize("seed", range(240))
def test_outputs_states_and_gradients_are_torchs(seed):
    rng = np.random.default_rng(seed)
    kind, dtype = KINDS[seed % 3], [torch.float32, torch.float64][rng.integers(2)]
    T, B, I, H = (int(rng.integers(1, n)) for n in (8, 7, 12, 24))
    options = dict(
        num_layers=int(rng.integers(1, 4)),
        bidirectional=bool(rng.integers(2)),
        bias=bool(rng.integers(2)),
        batch_first=bool(rng.integers(2)),
    )
    if kind == "LSTM" and H > 2:
        options["proj_size"] = int(rng.integers(2)) * (H // 2)
    if kind == "RNN":
        options["nonlinearity"] = ["tanh", "relu"][rng.integers(2)]
    theirs, mine = pair(kind, I, H, dtype=dtype, **options)
    how = ["padded", "unbatched", "packed", "sorted"][rng.integers(4)]
    x = torch.randn(
        *((T, I) if how == "unbatched" else (B, T, I) if options["batch_first"] else (T, B, I)), dtype=dtype
    )
    D, given = 1 + options["bidirectional"], None
    if rng.integers(2):
        widths = [options.get("proj_size") or H, H][: 2 if kind == "LSTM" else 1]
        shape = (options["num_layers"] * D,) if how == "unbatched" else (options["num_layers"] * D, B)
        given = [torch.randn(*shape, width, dtype=dtype) for width in widths]
    lengths = rng.integers(1, T + 1, B)
    lengths = torch.from_numpy(np.sort(lengths)[::-1].copy() if how == "sorted" else lengths)
    results = []
    for module in (theirs, mine):
        leaves = [t.clone().requires_grad_() for t in (x, *(given or []))]
        fed = leaves[0]
        if how in ("packed", "sorted"):
            fed = torch.nn.utils.rnn.pack_padded_sequence(fed, lengths, options["batch_first"], how == "sorted")
        outputs = flat(module(fed, given and (tuple(leaves[1:]) if kind == "LSTM" else leaves[1])))
        torch.manual_seed(2)
        torch.autograd.backward(outputs, [torch.randn_like(o) for o in outputs])
        results.append([*outputs, *(t.grad for t in leaves), *(p.grad for p in module.parameters())])
    tolerance = {"rtol": 1e-8, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 2e-4, "atol": 2e-4}
    for got, want in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(got, want, **tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_state_dict_and_repr_are_torchs(kind):
    theirs, mine = pair(kind, 3, 5, num_layers=2, bidirectional=True)
    assert list(mine.state_dict()) == list(theirs.state_dict()) and repr(mine) == repr(theirs)
    for got, want in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("kind", KINDS)
def test_the_operator_passes_opcheck_and_gradcheck(kind):
    _, mine = pair(kind, 3, 4, num_layers=2, dtype=torch.float64)
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: flat(mine(x)), x)
    state = [torch.randn(2, 2, 4, dtype=torch.float64, requires_grad=True) for _ in range(2 if kind == "LSTM" else 1)]
    name = "tanh" if kind == "RNN" else kind
    torch.library.opcheck(recurrent, (x, None, state, list(mine._flat_weights), name, 4, 2, False, 0, 0.0, None, True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_may_be_run_twice_and_modules_copied_and_saved(kind):
    _, mine = pair(kind, 3, 4)
    x = torch.randn(4, 2, 3, requires_grad=True)
    y, _ = mine(x)
    y.sum().backward(retain_graph=True)
    first = x.grad.clone()
    y.sum().backward()
    assert torch.equal(x.grad, 2 * first)
    file = io.BytesIO()
    torch.save(mine, file)
    file.seek(0)
    for again in (copy.deepcopy(mine), torch.load(file, weights_only=False)):
        assert torch.equal(again(x)[0], y)


def test_replace_swaps_and_restore_swaps_back_with_the_same_parameters():
    torch.manual_seed(0)
    model = torch.nn.ModuleDict(
        {"a": torch.nn.LSTM(3, 4), "b": torch.nn.ModuleList([torch.nn.GRU(4, 4), torch.nn.Linear(4, 2)])}
    )
    kept, x = list(model.parameters()), torch.randn(5, 2, 3)
    want = model["b"][0](model["a"](x)[0])[0]
    assert ours.replace(model) == ["a", "b.0"] and isinstance(model["a"], ours.LSTM)
    assert all(p is q for p, q in zip(model.parameters(), kept, strict=True))
    torch.testing.assert_close(model["b"][0](model["a"](x)[0])[0], want)
    assert ours.restore(model) == ["a", "b.0"] and type(model["a"]) is torch.nn.LSTM


def test_an_optimiser_gives_the_same_losses_as_with_torchs_layer():
    curves = []
    for module in pair(
        "LSTM", 8, 16, dtype=torch.float64
    ):  # in float32 a few of the 200 losses differ by 2e-4, as rounding errors add up
        torch.manual_seed(0)
        head = torch.nn.Linear(16, 8, dtype=torch.float64)
        optimiser = torch.optim.Adam([*module.parameters(), *head.parameters()], lr=1e-2)
        ids = torch.randint(8, (12, 6), generator=torch.Generator().manual_seed(3))
        x, losses = torch.nn.functional.one_hot(ids, 8).double(), []
        for _ in range(200):
            loss = torch.nn.functional.cross_entropy(head(module(x[:-1])[0]).flatten(0, 1), ids[1:].flatten())
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimiser.step()
            losses.append(loss.item())
        curves.append(losses)
    np.testing.assert_allclose(curves[1], curves[0], rtol=0, atol=1e-8)
    assert curves[0][-1] < 0.5 * curves[0][0]


def test_dropout_follows_torchs_seed_and_stops_in_eval():
    _, mine = pair("GRU", 3, 16, num_layers=2, dropout=0.5)
    x, drawn = torch.randn(4, 2, 3), []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        drawn.append(mine(x)[0])
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    mine.eval()
    assert torch.equal(mine(x)[0], mine(x)[0])


def test_an_in_place_change_between_forward_and_backward_is_torchs_error():
    _, mine = pair("LSTM", 3, 4)
    y, _ = mine(torch.randn(4, 2, 3))
    with torch.no_grad():
        mine.weight_hh_l0.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_what_it_does_not_do_is_refused_by_name():
    _, mine = pair("LSTM", 3, 4)
    with pytest.raises(
        ValueError, match=r"RNN input dtype \(torch.float64\) does not match weight dtype \(torch.float32\)"
    ):
        mine(torch.randn(4, 2, 3, dtype=torch.float64))
    with pytest.raises(NotImplementedError, match="input is on meta"):
        mine(torch.empty(4, 2, 3, device="meta"))
    with torch.autocast("cpu"), pytest.raises(NotImplementedError, match="not under autocast"):
        mine(torch.randn(4, 2, 3))
    x = torch.randn(4, 2, 3, requires_grad=True)
    (g,) = torch.autograd.grad(mine(x)[0].sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="no double backward"):
        g.sum().backward()


@pytest.mark.parametrize("kind, inference", list(itertools.product(KINDS, [False, True])))
def test_without_gradients_the_outputs_are_the_same(kind, inference):
    _, mine = pair(kind, 3, 4, num_layers=2)
    x = torch.randn(4, 2, 3)
    want = mine(x)[0]
    with torch.inference_mode() if inference else torch.no_grad():
        assert torch.equal(mine(x)[0], want)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [1, 2])
def test_few_steps_without_gradients_have_the_bits_of_many_and_of_those_with(kind, layers):
    """Such calls use a cached stream: other batch sizes, another state and changed weights must reach it."""
    module = getattr(ours, kind)(3, 5, layers)
    state = [torch.randn(layers, 2, 5) for _ in range(2)][: 1 + (kind == "LSTM")]
    for B in (2, 4, 2):
        x = torch.randn(3, B, 3)
        hx = None if B == 4 else tuple(state) if kind == "LSTM" else state[0]
        wanted = flat(module(x, hx))
        for _ in range(2):
            with torch.no_grad():
                found = flat(module(x, hx))
                many_hx = None if hx is None else tuple(s.repeat(1, 200, 1) for s in state)
                alone = flat(module(x.repeat(1, 200, 1), many_hx if many_hx is None or kind == "LSTM" else many_hx[0]))
            for got, want, many in zip(found, wanted, alone):
                assert torch.equal(got, want.detach()) and torch.equal(got, many[:, :B])
        with torch.no_grad():
            module.weight_hh_l0[0, 0] += 1

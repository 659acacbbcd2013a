"""Common uses of torch modules, with fastrnn.torch's: compile, parametrize, share, send to workers, swap."""

import copy
import gc
import io

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: fastrnn.torch is NOT tested")
pytestmark = pytest.mark.torch

import fastrnn.torch as ours  # noqa: E402
from fastrnn.torch import _operator, _packed  # noqa: E402

LAYERS, CELLS = ["RNN", "GRU", "LSTM"], ["RNNCell", "GRUCell", "LSTMCell"]


def leaves(result):
    return torch.utils._pytree.tree_leaves(result)


def pair(kind, *sizes, **options):
    made = []
    for where in (torch.nn, ours):
        torch.manual_seed(1)
        made.append(getattr(where, kind)(*sizes, **options))
    return made


def gradients(module, *inputs):
    """Return outputs and the gradients of inputs and parameters."""
    inputs = [t.detach().clone().requires_grad_() for t in inputs]
    hx = inputs[1:] if len(inputs) < 3 else [tuple(inputs[1:])]
    outputs = leaves(module(inputs[0], *hx))
    sum((t * torch.linspace(-1, 1, t.numel(), dtype=t.dtype).reshape(t.shape)).sum() for t in outputs).backward()
    found = [*outputs, *(t.grad for t in inputs), *(p.grad for p in module.parameters())]
    module.zero_grad()
    return found


@pytest.mark.parametrize("seed", range(48))
def test_cells_are_torchs(seed):
    rng = np.random.default_rng(seed)
    kind, dtype = CELLS[seed % 3], [torch.float32, torch.float64][rng.integers(2)]
    B, I, H = (int(n) for n in rng.integers(1, 20, 3))
    options = {"nonlinearity": ["tanh", "relu"][rng.integers(2)]} if kind == "RNNCell" else {}
    theirs, mine = pair(kind, I, H, bias=bool(rng.integers(2)), dtype=dtype, **options)
    lead = () if rng.integers(2) else (B,)
    inputs = [torch.randn(*lead, I, dtype=dtype)]
    if rng.integers(2):
        inputs += [torch.randn(*lead, H, dtype=dtype) for _ in range(2 if kind == "LSTMCell" else 1)]
    for got, want in zip(gradients(mine, *inputs), gradients(theirs, *inputs), strict=True):
        torch.testing.assert_close(
            got, want, **({"rtol": 1e-8, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 2e-4, "atol": 2e-4})
        )
    assert repr(mine) == repr(theirs) and list(mine.state_dict()) == list(theirs.state_dict())


@pytest.mark.filterwarnings("default")  # raised by Dynamo's own imports
@pytest.mark.parametrize("kind", LAYERS + CELLS)
def test_compile_makes_no_graph_break_and_dropout_stays(kind):
    torch._dynamo.reset()
    options = {} if kind in CELLS else {"num_layers": 2, "bidirectional": True}
    module, x = getattr(ours, kind)(3, 4, **options), torch.randn(*([] if kind in CELLS else [5]), 2, 3)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for got, want in zip(gradients(compiled, x), gradients(module, x), strict=True):
        assert torch.equal(got, want)
    if kind in LAYERS:
        module.dropout = 0.5
        assert not torch.equal(compiled(x)[0], compiled(x)[0])


def by_torch(mine, theirs, x):
    """Return the outputs of torch's layer with the current parameters of ours."""
    theirs.load_state_dict(mine.state_dict())
    return theirs(x)[0]


CHANGES = {
    "optimiser": lambda m: torch.optim.SGD(m.parameters(), lr=0.5).step(),
    "load_state_dict": lambda m: m.load_state_dict({n: p + 1 for n, p in m.state_dict().items()}),
    "assign": lambda m: m.load_state_dict({n: p + 1 for n, p in m.state_dict().items()}, assign=True),
    "one number": lambda m: m.weight_hh_l0[3, 5].add_(1),
    "one number of a small one by data": lambda m: m.bias_hh_l0.data[7].add_(1),
    "data anew": lambda m: setattr(m.weight_hh_l0, "data", m.weight_hh_l0.data + 1),
    "data in place": lambda m: m.weight_hh_l0.data.mul_(0.5),
    "data transposed": lambda m: setattr(m.weight_hh_l0, "data", m.weight_hh_l0.data.t()),
    "numpy": lambda m: m.bias_ih_l0.detach().numpy().__imul__(2),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("in_training", [False, True])
def test_packed_weights_follow_what_torch_counts_and_whole_writes_it_does_not(change, in_training):
    theirs, mine = pair("RNN", 100, 100)  # of 10,000 values only some are compared
    x = torch.randn(3, 2, 100)
    for p in mine.parameters():
        p.grad = torch.ones_like(p)
    with torch.set_grad_enabled(in_training):
        before = mine(x)[0].detach()
        with torch.no_grad():
            CHANGES[change](mine)
        got = mine(x)[0]
        torch.testing.assert_close(got, by_torch(mine, theirs, x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(got, before)


def test_one_number_of_a_large_parameter_written_past_torch_is_not_seen_until_torch_counts_a_write():
    """The limit stated in docs/torch.md."""
    theirs, mine = pair("RNN", 100, 100)
    x = torch.randn(3, 2, 100)
    with torch.no_grad():
        before = mine(x)[0]
        mine.weight_hh_l0.data[0, 1] += 1
        assert torch.equal(mine(x)[0], before)
        mine.weight_hh_l0.mul_(1)
        torch.testing.assert_close(mine(x)[0], by_torch(mine, theirs, x), rtol=1e-4, atol=1e-5)


def test_packed_weights_are_made_once_and_freed_with_the_parameters(monkeypatch):
    made, packed = [], _operator.packing.Packed
    monkeypatch.setattr(_operator.packing, "Packed", lambda *args: made.append(1) or packed(*args))
    gc.collect()
    there, module, x = len(_packed._cache), ours.LSTM(3, 4), torch.randn(1, 1, 3)
    with torch.no_grad():
        module(x), module(x)
    module(x)[0].sum().backward()
    assert len(made) == 1 and len(_packed._cache) == there + 1
    module.double()(x.double())
    assert len(made) == 2
    del module
    gc.collect()
    assert len(_packed._cache) == there


@pytest.mark.parametrize(
    "wrap", [torch.nn.utils.parametrizations.weight_norm, torch.nn.utils.parametrizations.orthogonal]
)
def test_parametrizations(wrap):
    theirs, mine = (wrap(module, "weight_hh_l0") for module in pair("RNN", 3, 6))
    theirs.load_state_dict(mine.state_dict())
    x = torch.randn(4, 2, 3)
    for _ in range(2):
        y = mine(x)[0]
        w = {
            name: getattr(mine, name).detach() for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        }
        torch.testing.assert_close(y, torch.func.functional_call(torch.nn.RNN(3, 6), w, (x,))[0])
        y.sum().backward()
        torch.optim.SGD(mine.parameters(), lr=0.1).step()
    assert all(p.grad is not None for p in mine.parameters())


def test_a_part_of_the_parameters_may_be_frozen():
    module, x = ours.LSTM(3, 4), torch.randn(4, 2, 3)
    full = gradients(module, x)
    module.weight_ih_l0.requires_grad_(False)
    module(x)[0].sum().backward()
    assert module.weight_ih_l0.grad is None and module.weight_hh_l0.grad is not None and len(full) == 3 + 1 + 4


@pytest.mark.parametrize("kind", LAYERS)
def test_strided_expanded_and_empty_inputs(kind):
    theirs, mine = pair(kind, 3, 4)
    for x in (
        torch.randn(1, 1, 3).expand(5, 2, 3),
        torch.randn(2, 3, 5).permute(2, 0, 1),
        torch.randn(10, 4, 3)[::2, ::2],
        torch.zeros(3, 0, 3),
    ):
        got, want = (leaves(module(x)) for module in (mine, theirs))
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b)
    for module in (mine, theirs):
        with pytest.raises(RuntimeError, match="Expected sequence length to be larger than 0"):
            module(torch.zeros(0, 2, 3))


def test_activation_checkpoints_give_the_same_gradients():
    module, x = ours.GRU(3, 4, num_layers=2, dropout=0.5), torch.randn(4, 2, 3, requires_grad=True)
    found = []
    for run in (module, lambda x: torch.utils.checkpoint.checkpoint(module, x, use_reentrant=False)):
        torch.manual_seed(0)
        found.append(torch.autograd.grad(run(x)[0].sum(), x)[0])
    assert torch.equal(*found)


class Encoded(torch.utils.data.Dataset):
    """A data set whose items are computed by a module in the worker."""

    def __init__(self, module):
        self.module = module

    def __len__(self):
        return 4

    def __getitem__(self, i):
        with torch.no_grad():
            return self.module(torch.full((300, 20, 64), float(i)))[0][-1]


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_data_loader_workers(method):
    data = Encoded(ours.LSTM(64, 64))
    want = torch.stack([data[i] for i in range(4)])  # after a big call in the parent
    loader = torch.utils.data.DataLoader(data, batch_size=4, num_workers=1, multiprocessing_context=method, timeout=60)
    assert torch.equal(next(iter(loader)), want)


def distributed(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    module = torch.nn.parallel.DistributedDataParallel(ours.LSTM(3, 4))
    x = torch.randn(5, 4, 3)
    (module(x[:, 2 * rank : 2 * rank + 2])[0].sum() * 2).backward()  # DDP computes the mean
    if rank == 0:
        torch.save([x, module.module.state_dict(), [p.grad for p in module.parameters()]], f"{folder}/result")
    torch.distributed.destroy_process_group()


def test_distributed_data_parallel_on_gloo(tmp_path):
    torch.multiprocessing.spawn(distributed, (str(tmp_path),), nprocs=2)
    x, params, grads = torch.load(tmp_path / "result")
    whole = ours.LSTM(3, 4)
    whole.load_state_dict(params)
    whole(x)[0].sum().backward()
    for got, p in zip(grads, whole.parameters(), strict=True):
        torch.testing.assert_close(got, p.grad)


def test_replace_takes_cells_and_names_what_it_cannot_take_before_it_swaps():
    model = torch.nn.ModuleDict({"ok": torch.nn.GRUCell(3, 4), "low": torch.nn.LSTM(3, 4, dtype=torch.float16)})
    with pytest.raises(ValueError, match=r"low: its parameters are torch.float16 on cpu.*nothing was swapped"):
        ours.replace(model)
    assert type(model["ok"]) is torch.nn.GRUCell
    model["low"].float()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    assert ours.replace(model) == ["ok", "low"] and ours.replace(model) == []
    model["low"](torch.randn(4, 2, 3))[0].sum().backward()
    optimiser.step()
    x = torch.randn(4, 2, 3)
    want = model["low"](x)[0]
    assert ours.restore(model) == ["ok", "low"]
    torch.testing.assert_close(model["low"](x)[0], want)
    again = copy.deepcopy(model)
    torch.save(again, io.BytesIO())
    torch.testing.assert_close(again["low"].double()(x.double())[0].float(), want)


def test_the_error_of_a_wrong_state_names_both_shapes():
    with pytest.raises(RuntimeError, match=r"Expected hidden size \(1, 2, 4\), got \[1, 3, 4\]"):
        ours.GRU(3, 4)(torch.randn(5, 2, 3), torch.zeros(1, 3, 4))
    with pytest.raises(RuntimeError, match=r"input.size\(-1\) must be equal to input_size. Expected 3, got 5"):
        ours.LSTMCell(3, 4)(torch.randn(2, 5))


@pytest.mark.parametrize("kind", LAYERS)
def test_eager_calls_and_the_operator_give_the_same_bits(kind, monkeypatch):
    module, x = getattr(ours, kind)(3, 4, num_layers=2, bidirectional=True), torch.randn(5, 2, 3)
    want = gradients(module, x)
    monkeypatch.setattr(_operator, "_eager_path_allowed", lambda tensors: False)
    for got, expected in zip(gradients(module, x), want, strict=True):
        assert torch.equal(got, expected)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # in torch's own jvp
def test_transforms_and_forward_mode_are_refused_by_name():
    module, x = ours.GRU(3, 4), torch.randn(6, 5, 2, 3)
    for transformed in (
        lambda: torch.func.vmap(module)(x),
        lambda: torch.func.jvp(lambda x: module(x)[0], (x[0],), (x[0],)),
        lambda: torch.func.grad(lambda x: module(x)[0].sum())(x[0]),
    ):
        with pytest.raises(NotImplementedError, match=r"no forward-mode derivatives and no torch.func transforms"):
            transformed()

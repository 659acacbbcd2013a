"""torch's tools on fastrnn.torch's layers (trace, export, batch, share): they work, or a message says what to do."""

import io

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: fastrnn.torch is NOT tested")
pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

import fastrnn.torch as ours  # noqa: E402
from fastrnn.torch import _operator  # noqa: E402

LAYERS = ["RNN", "GRU", "LSTM"]


def pair(kind, *sizes, **options):
    made = []
    for where in (torch.nn, ours):
        torch.manual_seed(1)
        made.append(getattr(where, kind)(*sizes, **options))
    return made


class Packed(torch.nn.Module):
    """A layer called with rows of unequal length."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, lengths, *state):
        rows = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        y, state_n = self.layer(rows, *state)
        return torch.nn.utils.rnn.pad_packed_sequence(y)[0], state_n


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("gradients_while_tracing", [False, True])
def test_a_traced_layer_computes_and_trains_in_any_grad_mode(kind, gradients_while_tracing):
    theirs, mine = pair(kind, 3, 4, num_layers=2, bidirectional=True, dtype=torch.float64)
    with torch.set_grad_enabled(gradients_while_tracing):
        traced = torch.jit.trace(mine, torch.randn(5, 2, 3, dtype=torch.float64))
    x = torch.randn(7, 3, 3, dtype=torch.float64)
    found = []
    for module in (theirs, mine, traced):
        leaf = x.clone().requires_grad_()
        y, _ = module(leaf)
        found.append(
            [y, *torch.autograd.grad(y.cos().sum(), [leaf, *(theirs if module is theirs else mine).parameters()])]
        )
    for want, eager, got in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
        assert torch.equal(got, eager)


@pytest.mark.parametrize("with_state", [False, True])
def test_a_layer_traced_with_a_packed_sequence_takes_other_numbers_of_rows(with_state):
    theirs, mine = (Packed(module) for module in pair("GRU", 3, 4))

    def example(T, B):
        return torch.randn(T, B, 3), torch.arange(B) % T + 1, *([torch.randn(1, B, 4)] if with_state else [])

    with torch.no_grad():
        traced = torch.jit.trace(mine, example(5, 2))
        for T, B in ((5, 2), (6, 4), (3, 1), (4, 9)):
            given = example(T, B)
            for got, want in zip(traced(*given), theirs(*given), strict=True):
                torch.testing.assert_close(got, want)


def test_a_trace_is_saved_and_loaded():
    _, mine = pair("LSTM", 3, 4)
    x, file = torch.randn(5, 2, 3), io.BytesIO()
    torch.jit.save(torch.jit.trace(mine, x), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    assert torch.equal(loaded(x)[0], mine(x)[0])
    with torch.no_grad():
        next(loaded.parameters()).mul_(2)
    assert not torch.equal(loaded(x)[0], mine(x)[0])


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("traced", [False, True])
def test_many_gradients_at_once(kind, traced):
    theirs, mine = pair(kind, 3, 4, dtype=torch.float64)
    x = torch.randn(3, 2, 3, dtype=torch.float64)
    called = torch.jit.trace(mine, x) if traced else mine
    jacobian = torch.autograd.functional.jacobian
    torch.testing.assert_close(jacobian(lambda x: called(x)[0], x, vectorize=True), jacobian(lambda x: theirs(x)[0], x))

    y = called(x)[0]
    dy = torch.randn(5, *y.shape, dtype=torch.float64)
    got = torch.autograd.grad(y, list(mine.parameters()), dy, is_grads_batched=True, retain_graph=True)
    mapped = torch.func.vmap(lambda d: torch.autograd.grad(y, list(mine.parameters()), d, retain_graph=True))(dy)
    for k, d in enumerate(dy):
        want = torch.autograd.grad(theirs(x)[0], list(theirs.parameters()), d)
        for a, b, c in zip(got, mapped, want, strict=True):
            torch.testing.assert_close(a[k], c)
            torch.testing.assert_close(b[k], c)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("kind", [*LAYERS, "RNNCell", "GRUCell", "LSTMCell"])
def test_scripting_is_refused_by_name(kind):
    for module in (getattr(ours, kind)(3, 4), torch.nn.Sequential(torch.nn.Linear(3, 3), getattr(ours, kind)(3, 4))):
        with pytest.raises(NotImplementedError, match=rf"fastrnn.torch.{kind} can't be scripted: .*restore"):
            torch.jit.script(module)


@pytest.mark.filterwarnings("default")  # raised by the exporters' own imports
@pytest.mark.parametrize("exporter, needs", [("traced", "onnx"), ("torch.export", "onnxscript")])
def test_export_to_onnx_says_what_to_do(exporter, needs):
    pytest.importorskip(needs, reason=f"{needs} is not installed: the refusal of torch.onnx.export is NOT tested")
    module, x, new = ours.GRU(3, 4), torch.randn(5, 2, 3), exporter == "torch.export"
    error = torch.onnx.OnnxExporterError if new else NotImplementedError
    with pytest.raises(error, match=r"call fastrnn.torch.restore\(model\), export it"):
        torch.onnx.export(module, (x,), io.BytesIO(), dynamo=new, verbose=False)


def test_double_backward_tricks_are_refused_by_name():
    module, x = ours.GRU(3, 4), torch.randn(3, 2, 3)
    for function in (torch.autograd.functional.jvp, torch.autograd.functional.hvp):
        with pytest.raises(NotImplementedError, match="no double backward"):
            function(lambda x: module(x)[0].sum(), x, x)


def test_restore_names_a_layer_that_was_parametrized_since_and_restores_nothing():
    model = torch.nn.ModuleDict({"a": torch.nn.LSTM(3, 4), "b": torch.nn.GRUCell(3, 4)})
    ours.replace(model)
    torch.nn.utils.parametrizations.weight_norm(model["a"], "weight_hh_l0")
    with pytest.raises(
        ValueError, match=r"a: ParametrizedLSTM is a subclass of LSTM.*nothing was restored.*remove_parametrizations"
    ):
        ours.restore(model)
    assert type(model["b"]) is ours.GRUCell
    torch.nn.utils.parametrize.remove_parametrizations(model["a"], "weight_hh_l0")
    assert ours.restore(model) == ["a", "b"] and type(model["a"]) is torch.nn.LSTM


def write_one_number(module):
    with torch.no_grad():
        module.weight_hh_l0[77, 31] += 3


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("with_gradients", [False, True])
def test_one_number_written_by_another_process_to_shared_weights_is_seen(with_gradients):
    theirs, mine = pair("RNN", 100, 100)
    x = torch.randn(3, 2, 100)
    with torch.set_grad_enabled(with_gradients):
        mine(x)  # packed before they are shared
        mine.share_memory()
        before = mine(x)[0].detach()
        other = torch.multiprocessing.get_context("fork").Process(target=write_one_number, args=(mine,))
        other.start()
        other.join(60)
        assert other.exitcode == 0
        theirs.load_state_dict(mine.state_dict())
        after = mine(x)[0]
    torch.testing.assert_close(after, theirs(x)[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(after, before)


def test_shared_weights_stay_packed_until_they_are_written(monkeypatch):
    made, packed = [], _operator.packing.Packed
    monkeypatch.setattr(_operator.packing, "Packed", lambda *args: made.append(1) or packed(*args))
    module, x = ours.RNN(100, 100).share_memory(), torch.randn(3, 2, 100)
    module(x), module(x)
    assert len(made) == 1


def test_dropout_of_everything_is_torchs():
    """There are zeros between the layers, not zero times infinity."""
    theirs, mine = pair("GRU", 3, 4, num_layers=3, dropout=1.0, dtype=torch.float64)
    found = []
    for module in (theirs, mine):
        x = torch.ones(5, 2, 3, dtype=torch.float64, requires_grad=True)
        y, h = module(x)
        (y.cos().sum() + h.sin().sum()).backward()
        found.append([y, h, x.grad, *(p.grad for p in module.parameters())])
    for got, want in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(got, want)


def test_a_negated_view_is_read_as_what_it_shows():
    theirs, mine = pair("GRU", 3, 4)
    x = torch.randn(5, 2, 3, dtype=torch.complex64).conj().imag
    assert x.is_neg()
    torch.testing.assert_close(mine(x)[0], theirs(x)[0])
    y, _ = mine(x.contiguous().requires_grad_())
    y.backward(torch.ones(5, 2, 4, dtype=torch.complex64).conj().imag)


def test_batch_sizes_changed_between_forward_and_backward_are_torchs_error():
    _, mine = pair("GRU", 3, 4)
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.randn(4, 3, 3), torch.tensor([4, 4, 2]))
    y, _ = mine(packed)
    packed.batch_sizes[2] = 3
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.data.sum().backward()


def test_a_weight_of_another_shape_in_the_same_memory_is_refused():
    _, mine = pair("GRU", 6, 4)
    x = torch.randn(3, 2, 6)
    mine(x)
    mine.weight_ih_l0.data = mine.weight_ih_l0.data.view(6, 12)
    with pytest.raises(RuntimeError, match=r"weight_ih_l0 has shape \(6, 12\), but its network needs \(12, 6\)"):
        mine(x)
    mine = ours.GRU(6, 4)
    mine.bias_hh_l0.data = mine.bias_hh_l0.data.double()
    with pytest.raises(RuntimeError, match=r"bias_hh_l0 tensors are not the same dtype"):
        mine(x)


@pytest.mark.parametrize("kind", [*LAYERS, "LSTMCell"])
def test_parameters_may_be_swapped_as_torch_swaps_them(kind):
    """torch cannot swap a tensor that has a weak reference."""
    module, x = getattr(ours, kind)(3, 4), torch.randn(2, 3)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        module(x)
        module.load_state_dict({name: p * 0 for name, p in module.state_dict().items()})
        assert not torch.utils._pytree.tree_leaves(module(x))[0].any()
        module.double()
        module(x.double())
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


@pytest.mark.parametrize("kind, states", [("GRU", 1), ("LSTM", 2), ("GRUCell", 1), ("LSTMCell", 2)])
def test_a_wrong_call_raises_torchs_exceptions_with_torchs_messages(kind, states):
    theirs, mine = pair(kind, 3, 4)
    lead, cell = () if kind.endswith("Cell") else (5,), kind.endswith("Cell")
    x = torch.randn(*lead, 2, 3)

    def state(*shape, **options):
        made = [torch.zeros(*([] if cell else [1]), *shape, **options) for _ in range(states)]
        return made[0] if states == 1 else tuple(made)

    wrong = {
        "features": (torch.randn(*lead, 2, 7), state(2, 4)),
        "B of the state": (x, state(3, 4)),
        "H of the state": (x, state(2, 5)),
        "dtype of the state": (x, state(2, 4, dtype=torch.float64)),
        "dtype": (x.double(), state(2, 4)),
        "axes": (x[None, None], state(2, 4)),
    }
    if not cell:
        wrong["no steps"] = (x[:0], state(2, 4))
    if states == 2:
        wrong["three states"] = (x, (*state(2, 4), torch.zeros(1, 2, 4)))
    for what, given in wrong.items():
        with pytest.raises((RuntimeError, ValueError)) as said:
            theirs(*given)
        with pytest.raises((RuntimeError, ValueError)) as found:
            mine(*given)
        if not cell:  # torch has other messages for the cells
            assert type(found.value) is type(said.value), what
            if "dtype of" not in what and "states" not in what:
                assert str(found.value) == str(said.value), what


def test_a_list_in_place_of_a_state_is_refused():
    with pytest.raises(TypeError, match="a hidden state must be a Tensor, got list"):
        ours.GRU(3, 4)(torch.randn(5, 2, 3), [torch.zeros(1, 2, 4)])
    with pytest.raises(RuntimeError, match="lstm expects two hidden states, got 1"):
        ours.LSTM(3, 4)(torch.randn(5, 2, 3), [torch.zeros(1, 2, 4)])


def test_a_packed_sequence_with_steps_of_no_rows_is_torchs():
    theirs, mine = pair("GRU", 3, 4)
    packed = torch.nn.utils.rnn.PackedSequence(torch.randn(10, 3), torch.tensor([4, 4, 2, 0]))
    for got, want in zip(mine(packed)[0].data, theirs(packed)[0].data, strict=True):
        torch.testing.assert_close(got, want)
    np.testing.assert_allclose(mine(packed)[1].detach(), theirs(packed)[1].detach(), atol=1e-6)

"""Random calls of fastrnn.torch, in every way of calling a module in torch.

The results are torch.nn's and, bit for bit, the plain layer's. Random wrong calls are refused before any work by the
module, the traced module, the exported program and the operator.
"""

import os
import traceback

import pytest
from fuzz import seeds

torch = pytest.importorskip("torch", reason="torch is not installed: fastrnn.torch is NOT tested")
pytestmark = [
    pytest.mark.torch,
    pytest.mark.fuzz,
    pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning"),
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:Converting a tensor to a Python:UserWarning"),
]

import torch_cases as cases  # noqa: E402
import torch_wrong as wrong  # noqa: E402

import fastrnn  # noqa: E402
import fastrnn.torch as ours  # noqa: E402

MODES = {
    "eager": 25,
    "no_grad": 25,
    "inference_mode": 12,
    "traced": 12,
    "traced without gradients": 12,
}  # multiplies the number of cases


@pytest.fixture(autouse=True)
def new_memory_is_nan():
    """Memory that torch allocates for the tape contains NaN until it is written."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


class Flat(torch.nn.Module):
    """A layer as a function of tensors, as required by tracing and exporting: x, the initial states, the lengths."""

    def __init__(self, layer, case):
        super().__init__()
        self.layer, self.case = layer, case

    def forward(self, x, *rest):
        rest = list(rest)
        lengths = rest.pop() if self.case.packed else None
        return tuple(self.case.call(self.layer, x, rest or None, lengths))


def arguments(inputs):
    x, state, lengths = inputs
    return (x, *(state or ()), *(() if lengths is None else (lengths,)))


def prepared(mode, module, case, inputs):
    """Return what is called: the module itself, or a program that torch creates from it."""
    whole = Flat(module, case)
    if mode == "exported":
        given = arguments(inputs)
        auto = [dict.fromkeys(range(t.dim()), torch.export.Dim.AUTO) for t in given]
        return torch.export.export(
            whole, given, dynamic_shapes=(auto[0], *([tuple(auto[1:])] if auto[1:] else []))
        ).module()
    if mode.startswith("traced"):
        with torch.set_grad_enabled(mode == "traced"):
            return torch.jit.trace(whole, arguments(inputs))
    return whole


def results(case, called, parameters, inputs, dy=None):
    """Return the outputs and, if dy is given, the gradients of x, of the states, of the parameters."""
    if dy is None:
        return list(called(*arguments(inputs)))
    x, state, lengths = inputs
    leaves = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in (x, *(state or ()))]
    outputs = called(*arguments((leaves[0], leaves[1:], lengths)))
    return [*outputs, *torch.autograd.grad(outputs, [*leaves, *parameters], dy)]


def check(case, got, plain, want, what):
    for k, (a, b, c) in enumerate(zip(got, plain, want, strict=True)):
        assert a.shape == c.shape and a.dtype == c.dtype, f"{what}: result {k} is {a.dtype} {tuple(a.shape)}"
        assert torch.equal(a.detach(), b), f"{what}: result {k} has not the plain layer's bits"
        scale = max(1.0, float(c.detach().abs().max()) if c.numel() else 0.0)
        torch.testing.assert_close(
            a.detach(),
            c.detach(),
            rtol=0,
            atol=cases.TIGHT[case.dtype] * scale,
            msg=lambda m, k=k: f"{what}: result {k}: {m}",
        )


def compare(seed, mode):
    case = cases.draw(seed)
    if (
        mode == "exported"
    ):  # sizes of 0 and 1 are constants in an exported program, and a PackedSequence works only in eager calls
        case.how, case.B, case.T = "unbatched" if case.how == "unbatched" else "padded", max(case.B, 2), max(case.T, 2)
    rng = case.rng
    fastrnn.set_num_threads(int(rng.integers(1, 3)))
    theirs, mine = case.module(torch.nn), case.module(ours)
    inputs = case.inputs()
    called, changes, history = prepared(mode, mine, case, inputs), dict(cases.IN_PLACE), []
    if mode in ("eager", "no_grad", "inference_mode"):
        changes |= cases.OTHER
    for _ in range(3):
        parameters, with_gradients = (
            list(mine.parameters()),
            mode not in ("no_grad", "inference_mode") and bool(rng.integers(4)),
        )
        what = f"seed {seed}, {mode}, {case}, changes {history}"
        theirs.load_state_dict(mine.state_dict())
        dy = None
        if with_gradients:
            dy = [
                torch.from_numpy(rng.standard_normal(t.shape)).to(t.dtype)
                for t in Flat(theirs, case)(*arguments(inputs))
            ]
        want = results(case, Flat(theirs, case), list(theirs.parameters()), inputs, dy)
        with torch.inference_mode(mode == "inference_mode"), torch.set_grad_enabled(with_gradients):
            got = results(case, called, list(called.parameters()) if mode == "exported" else parameters, inputs, dy)
        check(case, got, case.plain(mine, *inputs, dy), want, what)
        if rng.integers(2):
            least = 2 if mode == "exported" else 1
            inputs = case.inputs(
                int(rng.integers(least, 12)), 1 if case.how == "unbatched" else int(rng.integers(least, 12))
            )
        else:
            inputs = case.inputs()
        if rng.integers(3):
            change = list(changes)[rng.integers(len(changes))]
            changes[change](mine)
            history.append(change)


@pytest.mark.parametrize("mode", MODES)
def test_random_calls_give_torchs_results_and_the_plain_layers_bits(mode):
    for seed in seeds(f"torch, {mode}", MODES[mode]):
        compare(seed, mode)


@pytest.mark.filterwarnings("default")  # raised by torch.export's own imports
def test_random_calls_of_exported_programs():
    for seed in seeds("torch, exported", 4):
        compare(seed, "exported")


def refused(call, what):
    """Check that the call raises, before NumPy or the engine could notice the fault."""
    try:
        found = call()
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError, IndexError) as error:
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        assert "torch" in last.split(os.sep) or last.startswith("<") or last == __file__, (
            f"{what}: {error!r} comes from {last}"
        )
        assert not any(
            word in str(error) for word in ("cannot reshape", "broadcast", "not writable", "Buffer dtype")
        ), f"{what}: {error!r}"
        return
    raise AssertionError(f"{what} was taken, and gave {[tuple(t.shape) for t in found]}")


def wrong_case(seed):
    case = cases.draw(seed, most=20, layers=2)
    case.T, case.B = min(case.T, 6) + 2, 1 if case.how == "unbatched" else min(case.B, 5) + 1
    return case, case.module(ours)


@pytest.mark.parametrize("mode", ["eager", "no_grad", "traced", "traced without gradients"])
def test_random_wrong_calls_of_modules_are_refused(mode):
    for seed in seeds(f"torch, wrong calls, {mode}", 6):
        case, module = wrong_case(seed)
        inputs = case.inputs()
        called = prepared(mode, module, case, inputs)
        for what, changed in wrong.for_modules(case, inputs):
            if mode.startswith("traced") and changed[1] is not None and len(changed[1]) != len(inputs[1]):
                continue  # with another signature
            with torch.set_grad_enabled(mode != "no_grad"):
                refused(lambda: called(*arguments(changed)), f"seed {seed}, {mode}, {case}: {what}")  # noqa: B023


def test_random_wrong_packed_sequences_are_refused():
    for seed in seeds("torch, wrong packed sequences", 10):
        case, module = wrong_case(seed)
        x = torch.zeros(case.T + 2, case.B + 1, case.sizes[0], dtype=case.dtype)
        for what, packed in wrong.packed_sequences(x, None):
            refused(lambda: cases.flat(module(packed)), f"seed {seed}, {case}: {what}")  # noqa: B023


@pytest.mark.filterwarnings("default")  # raised by torch.export's own imports
def test_random_wrong_calls_of_exported_programs_are_refused():
    for seed in seeds("torch, wrong calls, exported", 3):
        case, module = wrong_case(seed)
        case.how = "unbatched" if case.how == "unbatched" else "padded"
        inputs = case.inputs()
        called = prepared("exported", module, case, inputs)
        for what, changed in wrong.for_modules(case, inputs):
            if changed[1] is None or len(changed[1]) == len(inputs[1]):
                refused(lambda: called(*arguments(changed)), f"seed {seed}, {case}: {what}")  # noqa: B023


@pytest.mark.parametrize("packed", [False, True])
def test_random_wrong_calls_of_the_operators_are_refused(packed):
    for seed in seeds("torch, wrong calls of operators", 2):
        case, module = wrong_case(seed)
        case.how, case.options["batch_first"], case.with_state, case.B = "padded", False, True, max(case.B, 2)
        x, state, sizes = *case.inputs()[:2], None
        if packed:
            x, sizes = x.flatten(0, 1)[: case.T * case.B - 1], torch.tensor([case.B] * (case.T - 1) + [case.B - 1])
        given = wrong.operator_call(case, module, x, state, sizes)
        made = torch.ops.fastrnn.recurrent(*given.values())
        for what, changed in wrong.for_operator(given):
            refused(lambda: torch.ops.fastrnn.recurrent(*changed.values()), f"seed {seed}, {case}: {what}")  # noqa: B023
        given = wrong.backward_call(given, made)
        assert len(torch.ops.fastrnn.recurrent_backward(*given.values())) == 1 + len(state) + len(given["params"])
        for what, changed in wrong.for_backward(given):
            refused(lambda: torch.ops.fastrnn.recurrent_backward(*changed.values()), f"seed {seed}, {case}: {what}")  # noqa: B023

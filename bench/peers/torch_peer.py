"""torch: time-major contiguous input, reused module, gradients set to None, no autograd in inference."""

from __future__ import annotations

import warnings

import torch

from ..character_model import CELLS, TorchModel, losses
from . import Run, stream


class OnlyOutput(torch.nn.Module):
    """A layer that returns y without the state, which torch.jit can freeze."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor):
        return self.layer(x)[0]


class Torch:
    def __init__(self, threads):
        torch.set_num_threads(threads)
        torch.set_flush_denormal(True)
        self.version = torch.__version__

    def runs(self, case, problem):
        if case.kind == "forward":
            return {
                "": {
                    "eager": lambda: self.forward(case, problem),
                    "jit, frozen": lambda: self.forward(case, problem, jit=True),
                }
            }
        if case.kind == "step":
            return {
                "": {
                    f"nn.{CELLS[case.cell]}Cell": lambda: self.cell(case, problem),
                    f"nn.{CELLS[case.cell]}": lambda: self.step(case, problem),
                }
            }
        if case.kind == "ragged":
            return {
                "packed": {"packed": lambda: self.train(case, problem, packed=True)},
                "padded": {"padded": lambda: self.train(case, problem)},
            }
        return {"": {"": lambda: getattr(self, case.kind)(case, problem)}}

    def layer(self, case, problem, suffix=""):
        layer = getattr(torch.nn, CELLS[case.cell] + suffix)(case.I, case.H)
        layer.load_state_dict(
            {name.removesuffix("_l0" if suffix else ""): torch.from_numpy(a) for name, a in problem.params.items()}
        )
        return layer

    def forward(self, case, problem, jit=False):
        net, x = OnlyOutput(self.layer(case, problem)).eval(), torch.from_numpy(problem.x)
        if jit:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch.jit is deprecated
                net = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.script(net)))

        def call():
            return net(x)

        return Run(call, lambda: problem.outputs(call()), torch.inference_mode)

    def train(self, case, problem, packed=False):
        layer, dy = self.layer(case, problem), torch.from_numpy(problem.dy)
        x = torch.tensor(problem.x, requires_grad=True)
        lengths = torch.from_numpy(problem.lengths)
        rnn = torch.nn.utils.rnn

        def call():
            layer.zero_grad(set_to_none=True)
            x.grad = None
            if packed:
                y, _ = layer(rnn.pack_padded_sequence(x, lengths, enforce_sorted=False))
                y, _ = rnn.pad_packed_sequence(y, total_length=case.T)
            else:
                y, _ = layer(x)
            y.backward(dy)
            return y.detach()

        def outputs():
            y = call()
            return problem.outputs(y, x.grad, {name: p.grad for name, p in layer.named_parameters()})

        return Run(call, outputs)

    def cell(self, case, problem):
        layer, state = self.layer(case, problem, "Cell").eval(), None

        def step(x):
            nonlocal state
            state = layer(torch.from_numpy(x), state)
            return state[0] if case.cell == "lstm" else state

        run = stream(problem, step)
        run.context = torch.inference_mode
        return run

    def step(self, case, problem):
        layer, state = self.layer(case, problem).eval(), None

        def step(x):
            nonlocal state
            y, state = layer(torch.from_numpy(x), state)
            return y

        run = stream(problem, step)
        run.context = torch.inference_mode
        return run

    def characters(self, case, problem):
        model = TorchModel(case.cell, torch)
        return Run(lambda: model.update(), lambda: {"loss": losses(model)})

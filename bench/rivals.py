"""The same network in fastrnn and in torch, with the same weights and data: one recurrent layer, float32, one thread.

torch at its best: one thread, denormals flushed, module reused, gradients set to None, a fixed dy, time-major contiguous input.
"""

import numpy as np
import torch

import fastrnn

LAYERS = {
    "lstm": (fastrnn.LSTM, torch.nn.LSTM),
    "gru": (fastrnn.GRU, torch.nn.GRU),
    "rnn": (fastrnn.RNN, torch.nn.RNN),
}


def one_thread():
    """Both rivals on one thread, denormals flushed."""
    fastrnn.set_num_threads(1)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


class Pair:
    """One case: T, B, I = H. `run(who, mode)()` computes; `check()` compares the numbers before anything is timed."""

    def __init__(self, cell, T, B, H, seed=0):
        rng = np.random.default_rng(seed)
        self.x = rng.standard_normal((T, B, H), dtype="float32")
        self.dy = rng.standard_normal((T, B, H), dtype="float32")
        ours, theirs = LAYERS[cell]
        self.net = ours(H, H, seed=seed)
        self.module = theirs(H, H)
        self.module.load_state_dict({name: torch.from_numpy(p) for name, p in self.net.state_dict().items()})
        self.torch_x = torch.tensor(self.x, requires_grad=True)
        self.torch_dy = torch.from_numpy(self.dy)

    def run(self, who, mode):
        return getattr(self, f"{who}_{mode}")

    def fastrnn_forward(self):
        return self.net(self.x)[0]

    def torch_forward(self):
        with torch.inference_mode():
            return self.module(self.torch_x)[0]

    def fastrnn_train(self):
        """Forward, and backward to x and all weights."""
        (y, _), backward = self.net.vjp(self.x)
        return y, backward(self.dy)

    def torch_train(self):
        self.module.zero_grad(set_to_none=True)
        self.torch_x.grad = None
        y, _ = self.module(self.torch_x)
        y.backward(self.torch_dy)
        return y

    def check(self):
        """Never time a wrong answer: outputs and all gradients of the two agree."""
        y, g = self.fastrnn_train()
        want = {"y": self.torch_train().detach(), "x": self.torch_x.grad}
        got = {"y": y, "x": g.x, **g.params}
        want |= {name: p.grad for name, p in self.module.named_parameters()}
        np.testing.assert_allclose(self.fastrnn_forward(), self.torch_forward().numpy(), rtol=1e-4, atol=1e-5, err_msg="forward")
        assert set(got) == set(want)
        for name, w in want.items():
            scale = max(1.0, w.abs().max().item())
            np.testing.assert_allclose(got[name], w.numpy(), rtol=1e-4, atol=1e-5 * scale, err_msg=name)

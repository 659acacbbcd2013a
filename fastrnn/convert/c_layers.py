"""The C lines of recurrent layers."""

from __future__ import annotations

import numpy as np


class LayerLines:
    """The lines of one recurrent layer. The order of all operations is that of the kernels."""

    def __init__(self, writer, name, cell, params, H, I, P):
        self.writer, self.name, self.cell, self.params = writer, name, cell, params
        self.H, self.I, self.P, self.G = H, I, P, cell.gates
        self.add, self.call, self.array = writer.add, writer.call, writer.array

    def bias(self, *names):
        """Sum of the biases of these names, (G, H); zeros, if the layer has none."""
        zeros = np.zeros(self.G * self.H, self.writer.dtype)
        return sum((self.params.get(name, zeros) for name in names), zeros).reshape(self.G, self.H)

    def write(self, x, h, c=None):
        kind = "lstm" if c is not None else {1: "rnn", 3: "gru_before" if self.cell.rh is not None else "gru"}[self.G]
        a = self.writer.member((self.G + (kind == "gru")) * self.H, "a")
        N = self.G * self.H
        self.add(f"{self.call('set', N, a, 0)};")
        if self.I:
            self.add(f"{self.call('product', self.I, N, x, self.array(self.params['weight_ih'].T, self.name), a)};")
        getattr(self, f"_{kind}")(a, h, *([] if c is None else [c]))

    def chain(self, gates, a, bias, h):
        """Add the bias and the recurrent part of some gates to their chains."""
        N = len(gates) * self.H
        w = self.params["weight_hh"].reshape(self.G, self.H, self.P)[list(gates)].reshape(N, self.P)
        self.add(
            f"{self.call('add', N, a, self.array(bias, self.name))};",
            f"{self.call('product', self.P, N, h, self.array(w.T, self.name), a)};",
        )

    def units(self, *lines):
        """Write a loop over the units."""
        self.add(f"for (int u = 0; u < {self.H}; u++) {{", *(f"    {line}" for line in lines), "}")

    def let(self, name, which, value):
        return f"const {self.writer.real} {name} = {self.writer.activation(self.cell, which, value)};"

    def gate(self, a, k):
        return f"{a}[u + {k * self.H}]" if k else f"{a}[u]"

    def _rnn(self, a, h):
        self.chain([0], a, self.bias("bias_ih", "bias_hh"), h)
        self.units(f"{h}[u] = {self.writer.activation(self.cell, 1, f'{a}[u]')};")

    def _gru(self, a, h):
        """Blocks r, z, x_n and h_n. The product with h adds to three of them, so x_n is moved behind h_n first."""
        H, b_n = self.H, self.bias("bias_ih")[2]
        self.add(f"memcpy({a} + {3 * H}, {a} + {2 * H}, {H} * sizeof *{a});")
        self.add(f"{self.call('add', H, f'{a} + {3 * H}', self.array(b_n, self.name))};")
        self.add(f"{self.call('set', H, f'{a} + {2 * H}', 0)};")
        bias = np.concatenate([self.bias("bias_ih", "bias_hh")[:2], self.bias("bias_hh")[2:]])
        self.chain([0, 1, 2], a, bias, h)
        r_hn = f"r * {self.gate(a, 2)} + {self.gate(a, 3)}"
        self.units(
            self.let("r", 0, self.gate(a, 0)), self.let("z", 0, self.gate(a, 1)), self.let("n", 1, r_hn),
            f"{h}[u] = z * ({h}[u] - n) + n;",
        )  # fmt: skip

    def _gru_before(self, a, h):
        bias, rh = self.bias("bias_ih", "bias_hh"), self.writer.member(self.H)
        self.chain([0, 1], a, bias[:2], h)
        self.units(self.let("r", 0, self.gate(a, 0)), f"{rh}[u] = r * {h}[u];")
        self.chain([2], f"({a} + {2 * self.H})", bias[2], rh)
        self.units(
            self.let("z", 0, self.gate(a, 1)), self.let("n", 1, self.gate(a, 2)), f"{h}[u] = z * ({h}[u] - n) + n;"
        )

    def _lstm(self, a, h, c):
        """Gates i, f, g, o; without f if coupled."""
        G, real, coupled = self.G, self.writer.real, self.G == 3
        self.chain(range(G), a, self.bias("bias_ih", "bias_hh"), h)
        pre, m = [self.gate(a, k) for k in range(G)], h
        if self.cell.peephole:
            peepholes = self.params["weight_peephole"].reshape(G - 1, self.H)
            w = [f"{self.array(row, self.name)}[u]" for row in peepholes]
            pre = [f"{w[k]} * {c}[u] + {pre[k]}" if k < G - 2 else pre[k] for k in range(G)]
            pre[-1] = f"{w[-1]} * c_next + {pre[-1]}"
        if self.cell.proj_size:
            m = self.writer.member(self.H)
        self.units(
            self.let("i", 0, pre[0]), f"const {real} f = 1 - i;" if coupled else self.let("f", 0, pre[1]),
            self.let("g", 1, pre[G - 2]), f"const {real} c_next = f * {c}[u] + i * g;", self.let("o", 0, pre[-1]),
            f"{c}[u] = c_next;", f"{m}[u] = o * {self.writer.activation(self.cell, 2, 'c_next')};",
        )  # fmt: skip
        if self.cell.proj_size:
            w = self.array(self.params["weight_hr"].T, self.name)
            self.add(f"{self.call('set', self.P, h, 0)};", f"{self.call('product', self.H, self.P, m, w, h)};")

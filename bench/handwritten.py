"""The three cells in hand-written NumPy, forward and backward: a peer in float32, and the reference in float64."""

from __future__ import annotations

import numpy as np


def sigmoid(a):
    """Compute the logistic function in place by tanh, which NumPy vectorises and which does not overflow."""
    a *= 0.5
    np.tanh(a, out=a)
    a += 1
    a *= 0.5
    return a


class Layer:
    """One layer of one direction with zero initial state.

    `params` have torch's names. All arrays have their dtype, float32 or float64.
    """

    def __init__(self, cell, params):
        self.cell = cell
        self.w_ih, self.w_hh = params["weight_ih_l0"], params["weight_hh_l0"]  # (G*H, I), (G*H, H)
        self.b_ih, self.b_hh = params["bias_ih_l0"], params["bias_hh_l0"]  # (G*H,)
        self.w_ih_t, self.w_hh_t = np.ascontiguousarray(self.w_ih.T), np.ascontiguousarray(self.w_hh.T)
        self.H = self.w_hh.shape[1]

    def initial(self, B):
        """Return the initial state: (h,), or (h, c) of an LSTM, each (B,H)."""
        return tuple(np.zeros((B, self.H), self.w_hh.dtype) for _ in range(2 if self.cell == "lstm" else 1))

    def input_side(self, x):
        """Compute the part of the gates that does not depend on the state: x (…, I) -> (…, G*H)."""
        b = self.b_ih if self.cell == "gru" else self.b_ih + self.b_hh
        return x.reshape(-1, x.shape[-1]) @ self.w_ih_t + b

    def step(self, a, state):
        """Compute one step from the input side a (B, G*H), which is overwritten -> new state, values for backward."""
        return getattr(self, f"{self.cell}_step")(a, *state)

    def step_backward(self, kept, state_prev, dh, *dc):
        """Compute the backward pass of one step.

        -> dgates of the input side and of the recurrent side, (B, G*H), and the direct part of the gradient of the
        previous state.
        """
        return getattr(self, f"{self.cell}_step_backward")(kept, *state_prev, dh, *dc)

    def rnn_step(self, a, h):
        a += h @ self.w_hh_t
        h = np.tanh(a, out=a)
        return (h,), (h,)

    def rnn_step_backward(self, kept, h_prev, dh):
        da = dh * (1 - kept[0] ** 2)
        return da, da, ()

    def gru_step(self, a, h):
        H = self.H
        g = h @ self.w_hh_t
        g += self.b_hh
        rz, hn = a[:, : 2 * H], g[:, 2 * H :]
        rz += g[:, : 2 * H]
        sigmoid(rz)
        r, z, n = rz[:, :H], rz[:, H:], a[:, 2 * H :]
        n += r * hn
        np.tanh(n, out=n)
        return (n + z * (h - n),), (r, z, n, hn)

    def gru_step_backward(self, kept, h_prev, dh):
        r, z, n, hn = kept
        H = self.H
        dx_side = np.empty((len(dh), 3 * H), dh.dtype)
        dn = dh * (1 - z) * (1 - n * n)
        dx_side[:, :H] = dn * hn * r * (1 - r)
        dx_side[:, H : 2 * H] = dh * (h_prev - n) * z * (1 - z)
        dx_side[:, 2 * H :] = dn
        dh_side = dx_side.copy()
        dh_side[:, 2 * H :] *= r
        return dx_side, dh_side, (dh * z,)

    def lstm_step(self, a, h, c):
        H = self.H
        a += h @ self.w_hh_t
        g = np.tanh(a[:, 2 * H : 3 * H])
        sigmoid(a)
        i, f, o = a[:, :H], a[:, H : 2 * H], a[:, 3 * H :]
        c = f * c + i * g
        tanh_c = np.tanh(c)
        return (o * tanh_c, c), (i, f, g, o, tanh_c)

    def lstm_step_backward(self, kept, h_prev, c_prev, dh, dc):
        i, f, g, o, tanh_c = kept
        H = self.H
        dc = dc + dh * o * (1 - tanh_c * tanh_c)
        da = np.empty((len(dh), 4 * H), dh.dtype)
        da[:, :H] = dc * g * i * (1 - i)
        da[:, H : 2 * H] = dc * c_prev * f * (1 - f)
        da[:, 2 * H : 3 * H] = dc * i * (1 - g * g)
        da[:, 3 * H :] = dh * tanh_c * o * (1 - o)
        return da, da, (dc * f,)

    def forward(self, x, keep=False):
        """Compute y (T,B,H) from x (T,B,I); `keep` what `backward` needs."""
        T, B, _ = x.shape
        a = self.input_side(x).reshape(T, B, -1)
        state = self.initial(B)
        y = np.empty((T, B, self.H), x.dtype)
        self.x, self.states, self.kept = x, [state], []
        for t in range(T):
            state, kept = self.step(a[t], state)
            y[t] = state[0]
            if keep:
                self.states.append(state)
                self.kept.append(kept)
        return y

    def backward(self, dy):
        """Compute dx (T,B,I) and the gradients of the parameters by name from dy (T,B,H)."""
        T, B, H = dy.shape
        dx_sides = np.empty((T, B, len(self.w_hh)), dy.dtype)
        dh_sides = dx_sides if self.cell != "gru" else np.empty_like(dx_sides)
        dh, dc = np.zeros((B, H), dy.dtype), [np.zeros((B, H), dy.dtype)] if self.cell == "lstm" else []
        for t in reversed(range(T)):
            dx_side, dh_side, direct = self.step_backward(self.kept[t], self.states[t], dh + dy[t], *dc)
            dx_sides[t], dh_sides[t] = dx_side, dh_side
            dh = dh_side @ self.w_hh
            if self.cell == "lstm":
                dc = direct
            elif self.cell == "gru":
                dh += direct[0]
        h_prev = np.stack([state[0] for state in self.states[:-1]]).reshape(T * B, H)
        rows_x, rows_h = dx_sides.reshape(T * B, -1), dh_sides.reshape(T * B, -1)
        params = {"weight_ih_l0": rows_x.T @ self.x.reshape(T * B, -1), "weight_hh_l0": rows_h.T @ h_prev}
        params |= {"bias_ih_l0": rows_x.sum(0), "bias_hh_l0": rows_h.sum(0)}
        return (rows_x @ self.w_ih).reshape(self.x.shape), params

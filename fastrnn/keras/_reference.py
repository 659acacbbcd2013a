"""One recurrent layer as Keras defines it, in NumPy and float64, on Keras' own arrays.

Loaded layers are compared with it.
"""

from __future__ import annotations

import numpy as np

from fastrnn.keras import _convert


def _sigmoid(a):
    return 0.5 + 0.5 * np.tanh(0.5 * a)


def _elu(a):
    return np.where(a > 0, a, np.expm1(np.minimum(a, 0)))


FUNCTIONS = {
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "relu": lambda a: np.maximum(a, 0),
    "linear": lambda a: a,
    "elu": _elu,
    "softsign": lambda a: a / (1 + np.abs(a)),
    "softplus": lambda a: np.logaddexp(a, 0),
    "selu": lambda a: 1.0507009873554805 * np.where(a > 0, a, 1.6732632423543772 * np.expm1(np.minimum(a, 0))),
    "silu": lambda a: a * _sigmoid(a),
    "swish": lambda a: a * _sigmoid(a),
    "exponential": np.exp,
    "leaky_relu": lambda a: np.where(a > 0, a, 0.2 * a),
}


def function(name, keras_2):
    """An activation of Keras by its name."""
    if name == "hard_sigmoid":
        return (lambda a: np.clip(0.2 * a + 0.5, 0, 1)) if keras_2 else (lambda a: np.clip(a / 6 + 0.5, 0, 1))
    return FUNCTIONS[name]


def _step(kind, reset_after, arrays, functions, x, state):
    kernel, recurrent, *rest = arrays
    bias = rest[0] if rest else np.zeros(kernel.shape[1])
    act, gate = functions
    h = state[0]
    if kind == "SimpleRNN":
        return [act(x @ kernel + bias + h @ recurrent)]
    if kind == "LSTM":
        i, f, g, o = np.split(x @ kernel + bias + h @ recurrent, 4, axis=1)
        c = gate(f) * state[1] + gate(i) * act(g)
        return [gate(o) * act(c), c]
    b_x, b_h = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))
    xz, xr, xh = np.split(x @ kernel + b_x, 3, axis=1)
    wz, wr, wh = np.split(recurrent, 3, axis=1)
    bz, br, bh = np.split(b_h, 3)
    z, r = gate(xz + h @ wz + bz), gate(xr + h @ wr + br)
    new = act(xh + r * (h @ wh + bh)) if reset_after else act(xh + (r * h) @ wh)
    return [z * h + (1 - z) * new]


def run(kind, config, arrays, x, mask, keras_2):
    """y (B, T, H) in the steps' own order, of x (B, T, I) and mask (B, T).

    A masked step repeats the last output, at first zeros.
    """
    arrays, x = [np.asarray(a, np.float64) for a in arrays], np.asarray(x, np.float64)
    usual = {"activation": "tanh", "recurrent_activation": "hard_sigmoid" if keras_2 else "sigmoid"}
    functions = [function(config.get(name, value), keras_2) for name, value in usual.items()]
    reset_after = kind == "GRU" and _convert.resets_after(config, keras_2)
    B, T, H = x.shape[0], x.shape[1], arrays[1].shape[0]
    y, last = np.zeros((B, T, H)), np.zeros((B, H))
    state = [np.zeros((B, H)) for _ in range(2 if kind == "LSTM" else 1)]
    for t in range(T)[:: -1 if config.get("go_backwards") else 1]:
        there = mask[:, t, None]
        new = _step(kind, reset_after, arrays, functions, x[:, t], state)
        state = [np.where(there, a, b) for a, b in zip(new, state)]
        y[:, t] = last = np.where(there, new[0], last)
    return y

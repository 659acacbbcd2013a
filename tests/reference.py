"""The truth the engine is tested against: NumPy, float64, forward only, no cleverness.

One row at a time, one step at a time: slow and obvious. `params` are torch's names; arrays of any float dtype.
`tests/test_torch.py` compares this file with torch.
"""

import numpy as np


def sigmoid(a):
    with np.errstate(over="ignore"):  # exp(-a) = inf gives 0, which is right
        return 1 / (1 + np.exp(-a))


def relu(a):
    return np.where(a <= 0, 0.0, a)  # NaN <= 0 is false: NaN stays NaN


def rnn_step(activation, p, x_side, h):
    return (activation(x_side + p["w_hh"] @ h + p["b_hh"]),)


def gru_step(p, x_side, h):
    """cuDNN's and torch's GRU: the reset gate is applied after the product."""
    x_r, x_z, x_n = np.split(x_side, 3)
    h_r, h_z, h_n = np.split(p["w_hh"] @ h + p["b_hh"], 3)
    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
    return ((1 - z) * np.tanh(x_n + r * h_n) + z * h,)


def gru_before_step(p, x_side, h):
    """Cho et al. 2014: the reset gate is applied to h, before the product."""
    x_r, x_z, x_n = np.split(x_side, 3)
    w_r, w_z, w_n = np.split(p["w_hh"], 3)
    b_r, b_z, b_n = np.split(p["b_hh"], 3)
    r, z = sigmoid(x_r + w_r @ h + b_r), sigmoid(x_z + w_z @ h + b_z)
    return ((1 - z) * np.tanh(x_n + w_n @ (r * h) + b_n) + z * h,)


def lstm_step(p, x_side, h, c):
    i, f, g, o = np.split(x_side + p["w_hh"] @ h + p["b_hh"], 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


# name: (step, number of gates, number of states)
CELLS = {
    "rnn_tanh": (lambda p, x_side, h: rnn_step(np.tanh, p, x_side, h), 1, 1),
    "rnn_relu": (lambda p, x_side, h: rnn_step(relu, p, x_side, h), 1, 1),
    "rnn_sigmoid": (lambda p, x_side, h: rnn_step(sigmoid, p, x_side, h), 1, 1),
    "gru": (gru_step, 3, 1),
    "gru_before": (gru_before_step, 3, 1),
    "lstm": (lstm_step, 4, 2),
}


def direction_params(params, suffix, rows):
    """The arrays of one layer and direction in float64; what the network does not have is zero."""
    p = {}
    for short, name in (("w_ih", "weight_ih"), ("w_hh", "weight_hh"), ("w_ch", "weight_ch"), ("b_ih", "bias_ih"), ("b_hh", "bias_hh")):
        if name + suffix in params:
            p[short] = np.asarray(params[name + suffix], np.float64)
        elif short.startswith("b"):
            p[short] = np.zeros(rows)
    return p


def run(cell, params, x, state=None, lengths=None, resets=None, context=None, num_layers=1, bidirectional=False, every=()):
    """A whole network, time-major.

    x (T,B,I), state: tuple of (L*D,B,H), lengths (B,), resets (T,B), context (B,C)
    every: arrays (L*D,T,B,H), one for each state, that receive the states after every step
    Returns y (T,B,D*H) and state_n, a tuple like `state`.
    """
    step, num_gates, num_states = CELLS[cell]
    x = np.asarray(x, np.float64)
    T, B, _ = x.shape
    H = params["weight_hh_l0"].shape[1]
    D = 2 if bidirectional else 1
    lengths = [T] * B if lengths is None else [int(n) for n in lengths]
    resets = np.zeros((T, B), bool) if resets is None else np.asarray(resets)
    if state is None:
        state = [np.zeros((num_layers * D, B, H)) for _ in range(num_states)]
    state_n = [np.array(s, np.float64) for s in state]

    for layer in range(num_layers):
        y = np.zeros((T, B, D * H))
        for direction in range(D):
            p = direction_params(params, f"_l{layer}" + ("_reverse" if direction else ""), num_gates * H)
            k = layer * D + direction
            for b in range(B):
                s = [a[k, b].copy() for a in state_n]
                times = range(lengths[b])
                for t in reversed(times) if direction else times:
                    # a reset at t cuts between t-1 and t, whichever way the time runs
                    cut = t + 1 < lengths[b] and resets[t + 1, b] if direction else resets[t, b]
                    if cut:
                        s = [np.zeros(H) for _ in s]
                    x_side = p["w_ih"] @ x[t, b] + p["b_ih"]
                    if context is not None and layer == 0:
                        x_side = x_side + p["w_ch"] @ np.asarray(context[b], np.float64)
                    s = step(p, x_side, *s)
                    y[t, b, direction * H : (direction + 1) * H] = s[0]
                    for a, value in zip(every, s):
                        a[k, t, b] = value
                for a, value in zip(state_n, s, strict=True):
                    a[k, b] = value
        x = y
    return x, tuple(state_n)


def numeric_gradient(loss, values, eps=1e-6):
    """Central differences of loss(values) for every element of every array in values."""
    values = {name: a.astype(np.float64) for name, a in values.items()}
    grads = {name: np.empty_like(a) for name, a in values.items()}
    for name, a in values.items():
        for k in np.ndindex(a.shape):
            kept = a[k]
            a[k] = kept + eps
            up = loss(values)
            a[k] = kept - eps
            grads[name][k] = (up - loss(values)) / (2 * eps)
            a[k] = kept
    return grads

"""The reference that the engine is tested against: NumPy, float64, forward only, as simple as possible.

One step at a time: slow and obvious. `params` have torch's names; arrays may have any float dtype.
`tests/test_torch.py` compares this file with torch.
"""

import numpy as np


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def split(a, parts):
    """Return equal parts of the first axis; np.split takes ten times as long for a few numbers."""
    return a.reshape(parts, len(a) // parts, *a.shape[1:])


def relu(a):
    return np.where(a <= 0, 0.0, a)  # NaN <= 0 is false: NaN stays NaN


def rnn_step(activation, p, x_side, h):
    return (activation(x_side + p["w_hh"] @ h + p["b_hh"]),)


def gru_step(p, x_side, h):
    """One step of the GRU of cuDNN and torch: the reset gate is applied after the product."""
    x_r, x_z, x_n = split(x_side, 3)
    h_r, h_z, h_n = split(p["w_hh"] @ h + p["b_hh"], 3)
    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
    return ((1 - z) * np.tanh(x_n + r * h_n) + z * h,)


def gru_before_step(p, x_side, h):
    """One step of the GRU of Cho et al. 2014: the reset gate is applied to h, before the product."""
    x_r, x_z, x_n = split(x_side, 3)
    w_r, w_z, w_n = split(p["w_hh"], 3)
    b_r, b_z, b_n = split(p["b_hh"], 3)
    r, z = sigmoid(x_r + w_r @ h + b_r), sigmoid(x_z + w_z @ h + b_z)
    return ((1 - z) * np.tanh(x_n + w_n @ (r * h) + b_n) + z * h,)


def lstm_step(p, x_side, h, c):
    i, f, g, o = split(x_side + p["w_hh"] @ h + p["b_hh"], 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


ACTIVATIONS = {  # ONNX's definitions; the last three are Keras'
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "relu": relu,
    "linear": lambda a: a,
    "affine": lambda a, alpha=1.0, beta=0.0: alpha * a + beta,
    "leaky_relu": lambda a, alpha=0.01: np.where(a < 0, alpha * a, a),
    "thresholded_relu": lambda a, alpha=1.0: np.where(a > alpha, a, 0.0),
    "scaled_tanh": lambda a, alpha=1.0, beta=1.0: alpha * np.tanh(beta * a),
    "hard_sigmoid": lambda a, alpha=1 / 6, beta=0.5: np.clip(alpha * a + beta, 0, 1),
    "elu": lambda a, alpha=1.0: np.where(a < 0, alpha * np.expm1(np.minimum(a, 0)), a),
    "softsign": lambda a: a / (1 + np.abs(a)),
    "softplus": lambda a: np.logaddexp(0, a),
    "selu": lambda a: 1.0507009873554805 * np.where(a < 0, 1.6732632423543772 * np.expm1(np.minimum(a, 0)), a),
    "silu": lambda a: a * sigmoid(a),
    "exponential": np.exp,
}


def clipped(activation, clip):
    """Apply an activation, a name or a tuple with its parameters, to pre-activations clipped to -clip .. clip."""
    name, *numbers = (activation,) if isinstance(activation, str) else activation
    return lambda a: ACTIVATIONS[name](np.minimum(np.maximum(a, -clip), clip), *numbers)


def rnn_options(nonlinearity, clip=np.inf):
    f = clipped(nonlinearity, clip)
    return lambda p, x_side, h: (f(x_side + p["w_hh"] @ h + p["b_hh"]),)


def gru_options(reset_after, recurrent_activation, activation, clip=np.inf):
    gate, candidate = clipped(recurrent_activation, clip), clipped(activation, clip)

    def step(p, x_side, h):
        x_r, x_z, x_n = split(x_side, 3)
        (w_r, w_z, w_n), (b_r, b_z, b_n) = split(p["w_hh"], 3), split(p["b_hh"], 3)
        r, z = gate(x_r + w_r @ h + b_r), gate(x_z + w_z @ h + b_z)
        n = candidate(x_n + r * (w_n @ h + b_n) if reset_after else x_n + w_n @ (r * h) + b_n)
        return ((1 - z) * n + z * h,)

    return step


def lstm_options(
    coupled=False, recurrent_activation="sigmoid", activation="tanh", output_activation="tanh", clip=np.inf
):
    """One step of an LSTM; it has peepholes and a projection if their weights are given."""
    gate, candidate, output = (
        clipped(recurrent_activation, clip),
        clipped(activation, clip),
        clipped(output_activation, np.inf),
    )

    def step(p, x_side, h, c):
        a = split(x_side + p["w_hh"] @ h + p["b_hh"], 3 if coupled else 4)
        peepholes = split(p["peephole"], 2 if coupled else 3) if "peephole" in p else [0.0] * 3
        i = gate(a[0] + peepholes[0] * c)
        f = 1 - i if coupled else gate(a[1] + peepholes[1] * c)
        c = f * c + i * candidate(a[-2])
        m = gate(a[-1] + peepholes[-1] * c) * output(c)
        return p["w_hr"] @ m if "w_hr" in p else m, c

    return step


# name: (step, number of gates, number of states)
CELLS = {
    "rnn_tanh": (lambda p, x_side, h: rnn_step(np.tanh, p, x_side, h), 1, 1),
    "rnn_relu": (lambda p, x_side, h: rnn_step(relu, p, x_side, h), 1, 1),
    "rnn_sigmoid": (lambda p, x_side, h: rnn_step(sigmoid, p, x_side, h), 1, 1),
    "gru": (gru_step, 3, 1),
    "gru_before": (gru_before_step, 3, 1),
    "lstm": (lstm_step, 4, 2),
    "rnn_options": (rnn_options(("leaky_relu", 0.3), 0.9), 1, 1),
    "gru_options": (gru_options(True, ("hard_sigmoid", 0.2, 0.5), "softsign", 0.8), 3, 1),
    "gru_before_options": (gru_options(False, "sigmoid", ("elu", 0.7), 1.1), 3, 1),
    "lstm_options": (lstm_options(False, "hard_sigmoid", ("scaled_tanh", 0.9, 1.2), "softplus", 0.7), 4, 2),
    "lstm_peephole": (lstm_options(), 4, 2),
    "lstm_coupled": (lstm_options(True), 3, 2),
    "lstm_projected": (lstm_options(), 4, 2),
    "lstm_everything": (lstm_options(True, "sigmoid", "silu", "softsign", 1.2), 3, 2),
}


def direction_params(params, suffix, rows):
    """Return the arrays of one layer and direction in float64; what the network does not have is zero."""
    p = {}
    for short, name in (
        ("w_ih", "weight_ih"),
        ("w_hh", "weight_hh"),
        ("w_ch", "weight_ch"),
        ("b_ih", "bias_ih"),
        ("b_hh", "bias_hh"),
        ("w_hr", "weight_hr"),
        ("peephole", "weight_peephole"),
    ):
        if name + suffix in params:
            p[short] = np.asarray(params[name + suffix], np.float64)
        elif short.startswith("b"):
            p[short] = np.zeros(rows)
    return p


@np.errstate(over="ignore")  # of a sigmoid: exp(-a) = inf gives 0, which is right
def run(
    cell, params, x, state=None, lengths=None, resets=None, context=None, num_layers=1, bidirectional=False, every=()
):
    """A whole network, time-major.

    x (T,B,I), state: tuple of (L*D,B,P) and (L*D,B,H), lengths (B,), resets (T,B), context (B,C); P: features of h
    every: arrays (L*D,T,B,P) and (L*D,T,B,H) that receive the states after every step
    Returns y (T,B,D*P) and state_n, a tuple like `state`.
    """
    step, num_gates, num_states = CELLS[cell]
    x = np.asarray(x, np.float64)
    T, B, _ = x.shape
    P = params["weight_hh_l0"].shape[1]
    sizes = (P, params["weight_hh_l0"].shape[0] // num_gates)[:num_states]
    D = 2 if bidirectional else 1
    lengths = np.full(B, T) if lengths is None else np.asarray(lengths)
    resets = np.zeros((T, B), bool) if resets is None else np.asarray(resets, bool)
    if state is None:
        state = [np.zeros((num_layers * D, B, size)) for size in sizes]
    state_n = [np.array(s, np.float64) for s in state]

    for layer in range(num_layers):
        y = np.zeros((T, B, D * P))
        for direction in range(D):
            p = direction_params(
                params, f"_l{layer}" + ("_reverse" if direction else ""), params["weight_hh_l0"].shape[0]
            )
            p = {name: a[:, None] if a.ndim == 1 else a for name, a in p.items()}
            k = layer * D + direction
            s = [a[k].T.copy() for a in state_n]  # here a row of the batch is a column
            for t in reversed(range(T)) if direction else range(T):
                b = np.flatnonzero(lengths > t)
                now = [a[:, b] for a in s]
                # a reset at t cuts between t-1 and t, in either direction of time
                cut = (t + 1 < lengths[b]) & resets[min(t + 1, T - 1), b] if direction else resets[t, b]
                for a in now:
                    a[:, cut] = 0
                x_side = p["w_ih"] @ x[t, b].T + p["b_ih"]
                if context is not None and layer == 0:
                    x_side = x_side + p["w_ch"] @ np.asarray(context, np.float64)[b].T
                now = step(p, x_side, *now)
                y[t, b, direction * P : (direction + 1) * P] = now[0].T
                for a, value in zip(s, now, strict=True):
                    a[:, b] = value
                for a, value in zip(every, now):
                    a[k, t, b] = value.T
            for a, value in zip(state_n, s, strict=True):
                a[k] = value.T
        x = y
    return x, tuple(state_n)


def numeric_gradient(loss, values, eps=1e-6):
    """Return central differences of loss(values) for every element of every array in values."""
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


def differences(loss, values, most=10, eps=1e-6):
    """Compute central differences of loss(values) for up to `most` elements of every array and along one direction.

    The direction changes all elements. Returns {name: (indices of the elements, their derivatives, direction,
    derivative
    along it)}, the argument of `agrees`.
    """
    rng = np.random.default_rng(5)
    values = {name: a.astype(np.float64) for name, a in values.items()}
    found = {}
    for name, a in values.items():
        where = np.sort(rng.permutation(a.size)[:most])
        directions = [*np.eye(a.size)[where], rng.standard_normal(a.size)] if a.size else []
        slopes = []
        for v in directions:
            ends = [loss({**values, name: a + sign * eps * v.reshape(a.shape)}) for sign in (1, -1)]
            slopes.append((ends[0] - ends[1]) / (2 * eps))
        found[name] = (
            where,
            np.array(slopes[:-1]),
            directions[-1] if directions else np.zeros(0),
            slopes[-1] if slopes else 0.0,
        )
    return found


def agrees(gradient, differences, name, rtol, atol):
    """Assert that a gradient agrees with `differences` of its array."""
    where, elements, direction, slope = differences
    flat = gradient.ravel().astype(np.float64)
    np.testing.assert_allclose(flat[where], elements, rtol=rtol, atol=atol, err_msg=name)
    np.testing.assert_allclose(
        flat @ direction,
        slope,
        rtol=rtol,
        atol=atol * max(1.0, np.sqrt(flat.size)) * 4,
        err_msg=f"{name}, all elements",
    )

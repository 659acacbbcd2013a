"""Convert the settings and arrays of one Keras layer to those of a fastrnn layer, and back. Imports no Keras.

Keras' gates are i, f, c, o for the LSTM and z, r, h for the GRU. fastrnn's are i, f, g, o and r, z, n, so only the
GRU's are reordered. Keras' kernels are (I, G*H) and (H, G*H), the transposes of fastrnn's. Its bias is (G*H,), or (2,
G*H) for a GRU that applies the reset gate after the product.
"""

from __future__ import annotations

import numpy as np

from fastrnn.layers.rnn import GRU, LSTM, RNN

RECURRENT = {"SimpleRNN": 1, "GRU": 3, "LSTM": 4}  # number of gates
GRU_ORDER = [1, 0, 2]  # z, r, h <-> r, z, n: its own inverse
PLAIN = {"tanh", "sigmoid", "relu", "linear", "elu", "softsign", "softplus", "selu", "silu", "exponential"}
KERAS_2_HARD_SIGMOID = ("hard_sigmoid", 0.2, 0.5)


def activation(value, keras_2=False):
    """Convert Keras' name of an activation to fastrnn's.

    hard_sigmoid is ``clip(x/6 + 1/2, 0, 1)`` in Keras 3 and in torch, but ``clip(0.2*x + 1/2, 0, 1)`` in Keras 1 and 2
    and in ONNX.

    Raises
    ------
    NotImplementedError
        If the engine has no such activation.

    Examples
    --------
    >>> activation("tanh"), activation(None), activation("hard_sigmoid", keras_2=True)
    ('tanh', 'linear', ('hard_sigmoid', 0.2, 0.5))
    """
    name = "linear" if value is None else value
    if isinstance(name, str):
        if name == "hard_sigmoid":
            return KERAS_2_HARD_SIGMOID if keras_2 else name
        name = "silu" if name == "swish" else name
        if name == "leaky_relu":
            return "leaky_relu", 0.2  # Keras' slope; it is 0.01 in torch and ONNX
        if name in PLAIN:
            return name
    known = ", ".join(sorted(PLAIN | {"hard_sigmoid", "leaky_relu"}))
    raise NotImplementedError(f"the activation {repr(value)[:80]} is not supported: use one of {known}")


def activation_back(value):
    """Convert fastrnn's activation to Keras 3's name of it.

    Examples
    --------
    >>> activation_back("hard_sigmoid"), activation_back(("leaky_relu", 0.2))
    ('hard_sigmoid', 'leaky_relu')
    """
    if value in PLAIN or value == "hard_sigmoid":
        return value
    if value == ("leaky_relu", 0.2):
        return "leaky_relu"
    raise NotImplementedError(f"Keras 3 has no name for the activation {value!r}")


def options(kind, config, keras_2=False):
    """Arguments of the fastrnn layer, other than sizes, for a recurrent layer of Keras with these settings."""
    found = {
        "bias": bool(config.get("use_bias", True)),
        "reverse": bool(config.get("go_backwards", False)),
        "batch_first": True,
    }
    act = activation(config.get("activation", "tanh"), keras_2)
    if kind == "SimpleRNN":
        return found | {"nonlinearity": act}
    default = "hard_sigmoid" if keras_2 else "sigmoid"
    found |= {
        "activation": act,
        "recurrent_activation": activation(config.get("recurrent_activation", default), keras_2),
    }
    if kind == "GRU":
        found["reset_after"] = resets_after(config, keras_2)
    return found


def resets_after(config, keras_2=False):
    """Whether a GRU applies r after the product, which is the default in Keras 3, but not in Keras 1 and 2."""
    return bool(config.get("reset_after", not keras_2))


def make(kind, input_size, units, found, **more):
    """A fastrnn layer with random weights."""
    maker = {"SimpleRNN": RNN, "GRU": GRU, "LSTM": LSTM}[kind]
    return maker(input_size, units, seed=0, **(found | more))


def _reordered(kind, a):
    """The array with the gates on its last axis in the other library's order."""
    if kind != "GRU":
        return a
    shape = a.shape
    return a.reshape(*shape[:-1], 3, shape[-1] // 3)[..., GRU_ORDER, :].reshape(shape)


def to_params(kind, arrays, suffix="_l0"):
    """Convert Keras' arrays of one direction to fastrnn's parameters.

    Examples
    --------
    >>> params = to_params("LSTM", [np.zeros((3, 8)), np.zeros((2, 8)), np.ones(8)])
    >>> params["weight_ih_l0"].shape, bool(params["bias_hh_l0"].any())
    ((8, 3), False)
    """
    turned = [_reordered(kind, a) for a in arrays]
    params = {
        "weight_ih" + suffix: np.ascontiguousarray(turned[0].T),
        "weight_hh" + suffix: np.ascontiguousarray(turned[1].T),
    }
    if len(turned) > 2:
        bias = turned[2]
        b_ih, b_hh = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))
        params |= {"bias_ih" + suffix: np.ascontiguousarray(b_ih), "bias_hh" + suffix: np.ascontiguousarray(b_hh)}
    return params


def from_params(kind, params, two_biases, suffix="_l0", gradients=False):
    """Convert fastrnn's parameters of one direction, or their gradients, to Keras' arrays.

    Where Keras has one bias, it is the sum of fastrnn's two, and its gradient equals that of each of the two.
    """
    arrays = [params["weight_ih" + suffix].T, params["weight_hh" + suffix].T]
    if "bias_ih" + suffix in params:
        b_ih, b_hh = params["bias_ih" + suffix], params["bias_hh" + suffix]
        arrays.append(np.stack([b_ih, b_hh]) if two_biases else b_ih if gradients else b_ih + b_hh)
    return [np.ascontiguousarray(_reordered(kind, a)) for a in arrays]

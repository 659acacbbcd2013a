"""Initial values of the parameters of recurrent layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrnn._types import Array, Seed

if TYPE_CHECKING:
    from fastrnn.layers.recurrent import Recurrent


def torch_uniform(rng: np.random.Generator, shape: tuple[int, ...], hidden_size: int) -> Array:
    """Draw from U(-1/sqrt(H), 1/sqrt(H)), as PyTorch's recurrent layers do.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    shape : tuple of int
        Shape of the array.
    hidden_size : int
        H; with 0 all values are zero.

    Returns
    -------
    ndarray, float64
        The values.
    """
    bound = 1 / math.sqrt(hidden_size) if hidden_size else 0.0
    return rng.uniform(-bound, bound, shape)


def glorot_uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Draw from U(-a, a) with a = sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio 2010).

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    shape : tuple of int
        (fan_out, fan_in).

    Returns
    -------
    ndarray, float64
        The values.
    """
    bound = math.sqrt(6 / max(1, sum(shape)))
    return rng.uniform(-bound, bound, shape)


def orthogonal(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Draw a matrix with orthonormal columns, or rows if there are fewer of them (Saxe et al. 2014).

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    shape : tuple of int
        (rows, columns).

    Returns
    -------
    ndarray, float64
        Matrix from the uniform (Haar) distribution.
    """
    rows, cols = shape
    q, r = np.linalg.qr(rng.standard_normal((max(shape), min(shape))))
    q *= np.sign(np.diag(r))
    return q if rows >= cols else q.T


def initialise(
    layer: Recurrent[Any], scheme: str = "torch", *, forget_bias: float | None = None, seed: Seed = None
) -> None:
    """Draw new values for the parameters of an RNN, GRU or LSTM.

    Parameters
    ----------
    layer : RNN, GRU or LSTM
        Layer to initialise.
    scheme : {"torch", "glorot"}, default "torch"
        "torch" draws every parameter from U(-1/sqrt(H), 1/sqrt(H)). "glorot" is Keras' default: Glorot-uniform input
        weights, orthogonal recurrent weights for each gate separately, zero biases. A learned initial state is set to
        zero by both.
    forget_bias : float, optional
        Bias of the LSTM's forget gate. It is set in bias_ih; the forget gate's part of bias_hh is set to zero.
    seed : int or numpy.random.Generator, optional
        Source of randomness.

    Raises
    ------
    ValueError
        The scheme is unknown, or `forget_bias` is given for a layer without a forget gate.

    Examples
    --------
    >>> import fastrnn
    >>> lstm = fastrnn.LSTM(3, 4)
    >>> initialise(lstm, "glorot", forget_bias=1.0, seed=0)
    >>> lstm.params["bias_ih_l0"][4:8]
    array([1., 1., 1., 1.], dtype=float32)
    """
    if scheme not in ("torch", "glorot"):
        raise ValueError(f"scheme is {scheme!r}, but it must be 'torch' or 'glorot'")
    H = layer.hidden_size
    gates = layer.num_gates
    if forget_bias is not None and gates != 4:
        raise ValueError(f"forget_bias is {forget_bias}, but {layer!r} has no forget gate: leave forget_bias out")
    values = initial_values(
        {name: slot.shape for name, slot in layer.slots.items()}, H, gates, scheme, np.random.default_rng(seed)
    )
    if forget_bias is not None:
        for name in values:
            if name.startswith("bias"):
                values[name][H : 2 * H] = forget_bias if "_ih_" in name else 0.0
    layer.load_state_dict(values)


def initial_values(
    shapes: Mapping[str, tuple[int, ...]], hidden_size: int, num_gates: int, scheme: str, rng: np.random.Generator
) -> dict[str, Array]:
    """Draw initial values for the parameters of a recurrent layer.

    Parameters
    ----------
    shapes : dict of str to tuple
        Shape of each parameter. Values are drawn in this order.
    hidden_size : int
        H of the layer.
    num_gates : int
        Number of gates: 1, 3 or 4.
    scheme : {"torch", "glorot"}
        As for `initialise`.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    dict of str to ndarray
        Initial values, float64.
    """
    values: dict[str, Array] = {}
    for name, shape in shapes.items():
        if name in ("h_0", "c_0"):
            values[name] = np.zeros(shape)
        elif scheme == "torch":
            values[name] = torch_uniform(rng, shape, hidden_size)
        elif len(shape) == 1:  # biases and peepholes
            values[name] = np.zeros(shape)
        elif name.startswith("weight_hr"):
            values[name] = glorot_uniform(rng, shape)
        else:
            draw = orthogonal if "_hh_" in name else glorot_uniform
            gate_shape = (hidden_size, shape[1])
            values[name] = np.concatenate([draw(rng, gate_shape) for _ in range(num_gates)])
    return values

"""Steps of a Network: the functions between layers, and the check that all steps fit each other."""

from __future__ import annotations

import numpy as np

from fastrnn import _check
from fastrnn._files.schema import is_unicode, shown
from fastrnn.layers.feedforward import Embedding, Linear
from fastrnn.layers.recurrent import Recurrent
from fastrnn.layers.stacked import Stacked

RECURRENT = (Recurrent, Stacked)


def _softmax(a):
    e = np.exp(a - a.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _log_softmax(a):
    a = a - a.max(axis=-1, keepdims=True)
    return a - np.log(np.exp(a).sum(axis=-1, keepdims=True))


def _elu(a, alpha=1.0):
    return np.where(a > 0, a, alpha * np.expm1(np.minimum(a, 0)))


# Elementwise functions and softmax. Names and default alpha and beta are those of the activations of recurrent layers.
FUNCTIONS = {
    "tanh": np.tanh,
    "sigmoid": lambda a: 0.5 + 0.5 * np.tanh(0.5 * a),
    "relu": lambda a: np.maximum(a, 0),
    "leaky_relu": lambda a, alpha=0.01: np.where(a > 0, a, alpha * a),
    "hard_sigmoid": lambda a, alpha=1 / 6, beta=0.5: np.clip(alpha * a + beta, 0, 1),
    "elu": _elu,
    "selu": lambda a: 1.0507009873554805 * _elu(a, 1.6732632423543772),
    "softsign": lambda a: a / (1 + np.abs(a)),
    "softplus": lambda a: np.logaddexp(a, 0),
    "silu": lambda a: a * (0.5 + 0.5 * np.tanh(0.5 * a)),
    "exponential": np.exp,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
}
MERGES = {"sum": lambda a, b: a + b, "mul": lambda a, b: a * b, "ave": lambda a, b: (a + b) / 2}
_MOST_NUMBERS = {"leaky_relu": 1, "hard_sigmoid": 2, "elu": 1, "mask": 1}
_SEQUENCE_FUNCTIONS = ("last", "flip", "zero", "mask", "merge")


def _sizes(layer):
    """Number of input features, None for ids, and of output features."""
    if isinstance(layer, Embedding):
        return None, layer.embedding_dim
    if isinstance(layer, Linear):
        return layer.in_features, layer.out_features
    return layer.input_size, layer.output_size


def check_steps(steps, layers):
    """Check that the steps of a Network, {name: step}, fit each other. layers : those steps that are layers."""
    if not layers:
        raise ValueError("a Network needs at least one layer")
    chain = _Chain(next(iter(layers.values())))
    for name, step in steps.items():
        _check_name(name)
        if name in layers:
            chain.add_layer(name, step)
        else:
            chain.add_function(name, step)
    if len({layer.batch_first for layer in layers.values() if isinstance(layer, RECURRENT)}) > 1:
        raise ValueError("the recurrent layers have different batch_first: make all True or all False")


def _check_name(name):
    if not isinstance(name, str):
        raise TypeError(f"a step has the name {name!r}, but a name must be a str")
    if not is_unicode(name):
        raise ValueError(
            f"a step has the name {shown(name)}, which contains half of a surrogate pair: use another name"
        )


class _Chain:
    """What the steps checked so far give to the next one."""

    def __init__(self, first):
        self.first, self.before, self.features = first, None, None
        self.width = 1  # directions side by side in the features
        self.pooled = None  # name of a step "last", after which there is one step of time only

    def add_layer(self, name, layer):
        if not isinstance(layer, (Embedding, Linear, *RECURRENT)):
            raise TypeError(
                f"step {name!r} is {type(layer).__name__}, but it must be an Embedding, RNN, GRU, LSTM, Stacked, "
                "Linear, or the name of a function"
            )
        if layer.dtype != self.first.dtype:
            raise TypeError(
                f"layer {name!r} is {layer.dtype}, but the first layer is {self.first.dtype}: use the same dtype"
            )
        takes, gives = _sizes(layer)
        if layer is not self.first and takes != self.features:
            wanted = "ids" if takes is None else f"{takes} features"
            raise ValueError(f"layer {name!r} takes {wanted}, but the step before it gives {self.features} features")
        if self.pooled is not None and isinstance(layer, RECURRENT):
            raise ValueError(f"layer {name!r} needs a sequence, but {self.pooled!r} before it keeps the last step only")
        if getattr(layer, "context_size", 0):
            raise ValueError(
                f"layer {name!r} has context_size={layer.context_size}, but a Network takes no context: use 0"
            )
        self.features, self.before = gives, layer
        self.width = layer.num_directions if isinstance(layer, RECURRENT) else 1

    def add_function(self, name, step):
        function = _check_function(name, step, self.before, self.width)
        if isinstance(self.first, Embedding) and self.before is None and function != "mask":
            raise ValueError(
                f"step {name!r} is {function!r}, but only 'mask' can come before an Embedding, which takes ids"
            )
        if self.pooled is not None and function in ("last", "mask", "zero", "flip"):
            raise ValueError(
                f"step {name!r} is {function!r}, which needs a sequence, but {self.pooled!r} before it keeps the last "
                "step only"
            )
        if function == "last":
            self.pooled = name
        elif function == "merge":
            self.features, self.width = self.features // 2, 1


def _check_function(name, step, before, width):
    """Check a step that is a function; returns the function's name. width : directions side by side before it."""
    first = step[0] if isinstance(step, (str, tuple, list)) and step else None
    if not isinstance(first, str):
        raise TypeError(
            f"step {name!r} is {step!r}, but it must be a layer, the name of a function, or a tuple (name, *numbers)"
        )
    function, *numbers = (step,) if isinstance(step, str) else step
    if function not in FUNCTIONS and function not in _SEQUENCE_FUNCTIONS:
        raise ValueError(
            f"step {name!r} is {function!r}, but it must be one of {', '.join([*FUNCTIONS, *_SEQUENCE_FUNCTIONS])}"
        )
    if function == "last" and not isinstance(before, RECURRENT):
        raise ValueError(f"step {name!r} is 'last', but the layer before it is not recurrent")
    most = _MOST_NUMBERS.get(function, 0)
    if function == "merge":
        _check.choice(f"step {name!r}", numbers[0] if len(numbers) == 1 else None, tuple(MERGES))
        if width != 2:
            raise ValueError(
                f"step {name!r}: 'merge' needs the outputs of two directions, but there is {width} before it"
            )
    elif function == "mask" and len(numbers) != 1:
        raise ValueError(f"step {name!r}: 'mask' needs the value to mask: ('mask', 0.0)")
    elif len(numbers) > most:
        raise ValueError(f"step {name!r}: {function} takes at most {most} numbers, but {len(numbers)} are given")
    else:
        for value in numbers:
            _check.number(f"step {name!r}: the number of {function}", value)
    return function

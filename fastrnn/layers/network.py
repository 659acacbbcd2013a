"""Network: a chain of named layers, with functions between them; what models of other libraries become here."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from fastrnn import _check
from fastrnn._check import cells as check_cells
from fastrnn._check.memory import Budget
from fastrnn._files import storage
from fastrnn._files.schema import (
    FLAG,
    FRACTION,
    NUMBER,
    SIZE,
    TEXT,
    ListOf,
    OrNull,
    Record,
    Rule,
    choice,
    is_unicode,
    number,
    of_file,
    shown,
    whole,
)
from fastrnn.layers.feedforward import Embedding, Linear
from fastrnn.layers.recurrent import Recurrent
from fastrnn.layers.rnn import GRU, LSTM, RNN
from fastrnn.layers.stacked import Stacked
from fastrnn.parameters import Storage

_KINDS = {cls.__name__: cls for cls in (Embedding, GRU, LSTM, Linear, RNN)}
_RECURRENT = (Recurrent, Stacked)
_OPTIONS = {
    Embedding: ("num_embeddings", "embedding_dim"),
    Linear: ("in_features", "out_features"),
    Recurrent: (
        "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional", "reverse",
        "variational", "learn_initial_state",
    ),
}  # fmt: skip


def _softmax(a):
    e = np.exp(a - a.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _log_softmax(a):
    a = a - a.max(axis=-1, keepdims=True)
    return a - np.log(np.exp(a).sum(axis=-1, keepdims=True))


def _elu(a, alpha=1.0):
    return np.where(a > 0, a, alpha * np.expm1(np.minimum(a, 0)))


# Functions of numbers that may stand between layers, by the names that the recurrent layers know them by; the usual
# alpha and beta.
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
_MERGES = {"sum": lambda a, b: a + b, "mul": lambda a, b: a * b, "ave": lambda a, b: (a + b) / 2}
_NUMBERS = {"leaky_relu": 1, "hard_sigmoid": 2, "elu": 1, "mask": 1}  # that a function takes at most
_SHAPING = ("last", "flip", "zero", "mask", "merge")


class Network:
    """A chain of named layers as one network.

    Parameters
    ----------
    steps : {name: step}, from the input on. A step is a layer: `Embedding` (the first layer only), `RNN`, `GRU`,
    `LSTM`, `Stacked` or
        `Linear`, all of one dtype, the recurrent ones with one batch_first; or a function, by its name or as (name,
        \\*numbers):

        - ``"tanh"``, ``"softmax"``, … : a key of ``fastrnn.layers.network.FUNCTIONS``
        - ``"last"``: of a recurrent layer's outputs the last valid one, of each direction in its own order of time: (B, features)
        - ``("merge", "sum" | "mul" | "ave")``: of the two directions of a bidirectional layer
        - ``("mask", value)``: steps whose id, or whose every feature, is this value are masked in the recurrent layers that follow
        - ``"zero"``: zeros at masked steps;  ``"flip"``: the steps in the opposite order

    Raises
    ------
    ValueError  sizes do not fit, a name is not known; TypeError  a step is neither; the message names the step.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> net = Network({"embedding": fastrnn.Embedding(9, 3), "rnn": fastrnn.LSTM(3, 4), "linear": fastrnn.Linear(4, 9), "out": "softmax"})
    >>> p, ((h, c),) = net(np.array([[1], [2]]))
    >>> p.shape, h.shape, list(net.state_dict())[:2]
    ((2, 1, 9), (1, 1, 4), ['embedding.weight', 'rnn.weight_ih_l0'])
    """

    def __init__(self, steps: Mapping):
        self.steps = {
            name: step if hasattr(step, "params") else check_cells.plain(step) for name, step in dict(steps).items()
        }
        self.layers = {name: step for name, step in self.steps.items() if hasattr(step, "params")}
        _check_steps(self.steps, self.layers)

    def __repr__(self):
        return f"Network({{{', '.join(f'{name!r}: {step!r}' for name, step in self.steps.items())}}})"

    @property
    def dtype(self):
        return next(iter(self.layers.values())).dtype

    @property
    def batch_first(self) -> bool:
        return next((layer.batch_first for layer in self.layers.values() if isinstance(layer, _RECURRENT)), False)

    @property
    def num_parameters(self) -> int:
        return sum(layer.num_parameters for layer in self.layers.values())

    def state_dict(self) -> dict:
        """{layer.parameter: array}, read-only views; torch's names, if the layers have the names they have there."""
        return {f"{name}.{key}": array for name, layer in self.layers.items() for key, array in layer.params.items()}

    def __call__(self, x, state=None, *, lengths=None, mask=None):
        """Run the chain and keep nothing.

        Parameters
        ----------
        x : (T, B, features), or (B, T, features) if batch_first; ids (T, B) or (B, T) where the first layer is an
        Embedding state : a tuple with the initial state of each recurrent layer, or None lengths, mask : as the
        recurrent layers take them

        Returns
        -------
        y : what the last step gives
        state_n : a tuple with the final state of each recurrent layer
        """
        recurrent = [name for name, layer in self.layers.items() if isinstance(layer, _RECURRENT)]
        if state is not None and len(state) != len(recurrent):
            raise ValueError(
                f"state has {len(state)} parts, but this Network has {len(recurrent)} recurrent layers: {recurrent}"
            )
        given, found, top = iter(state or [None] * len(recurrent)), [], None
        for step in self.steps.values():
            if isinstance(step, _RECURRENT):
                x, state_n = step(x, next(given), lengths=lengths, mask=mask)
                found.append(state_n)
                top = step, state_n
            elif isinstance(step, (Embedding, Linear)):
                x = step(np.ascontiguousarray(x))
            else:
                name, *numbers = (step,) if isinstance(step, str) else step
                x, mask = self._apply(name, numbers, x, mask, top)
        return x, tuple(found)

    def _apply(self, name, numbers, x, mask, top):
        """(x, mask) after a function; top: the last recurrent layer and its final state."""
        if name in FUNCTIONS:
            return FUNCTIONS[name](x, *numbers).astype(self.dtype, copy=False), mask
        if name == "last":
            layer, state = top
            layer, state = (layer.layers[-1], state[-1]) if isinstance(layer, Stacked) else top
            h = state[0] if layer.cell.has_c else state
            return np.concatenate(h[-layer.num_directions :], axis=-1), None
        if name == "merge":
            return _MERGES[numbers[0]](*np.split(x, 2, axis=-1)), mask
        if name == "mask":
            kept = np.asarray(x) != numbers[0]
            kept = kept if kept.ndim == 2 else kept.any(axis=-1)
            return x, kept if mask is None else mask & kept
        if name == "zero":
            return x if mask is None else x * mask[..., None], mask
        return np.ascontiguousarray(x[:, ::-1] if self.batch_first else x[::-1]), mask

    def save(self, directory: str | os.PathLike) -> None:
        """Write it to a directory: config.json and one safetensors file."""
        storage.save(
            directory,
            self.state_dict(),
            {"model": "Network", "steps": [[name, _described(step)] for name, step in self.steps.items()]},
        )

    @classmethod
    def load(cls, directory: str | os.PathLike) -> Network:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError  there is none;  ValueError  it is damaged, of a newer format, or another kind of model.
        """
        arrays, config = storage.load(directory)
        found = config.get("model")
        if found != "Network":
            raise ValueError(
                f"{directory} holds a {found if isinstance(found, str) else shown(found)}, but this is Network.load"
            )
        return cls._of(arrays, config, directory)

    @classmethod
    def _of(cls, arrays, config, directory):
        """The network that was saved in a directory; no layer is made that has more parameters than the arrays."""
        with of_file(os.path.join(directory, storage.CONFIG_FILES["model"])):
            _SCHEMA.check(config)
            names, budget = [name for name, _ in config["steps"]], Budget(arrays)
            if len(set(names)) < len(names):
                raise ValueError("steps has a name twice")
            net = cls({name: _made(described, budget) for name, described in config["steps"]})
            for name, array in net.state_dict().items():
                if name in arrays and arrays[name].dtype != array.dtype:
                    raise ValueError(
                        f"the array {name} is {arrays[name].dtype}, but by the configuration it must be {array.dtype}"
                    )
            net.load_state_dict(arrays)
        return net

    def load_state_dict(self, arrays: Mapping) -> None:
        """Take all parameters, by the names of `state_dict`.

        Raises
        ------
        ValueError  one is missing, too many, or of another shape; the message names it, and nothing has changed.
        """
        wanted = self.state_dict()
        for names, what in (
            (wanted.keys() - arrays.keys(), "missing"),
            (arrays.keys() - wanted.keys(), "not of this Network"),
        ):
            if names:
                raise ValueError(f"{what}: {', '.join(sorted(names))}")
        for name, array in wanted.items():
            if np.shape(arrays[name]) != array.shape:
                raise ValueError(f"{name} has shape {np.shape(arrays[name])}, but it must have {array.shape}")
        for name, layer in self.layers.items():
            layer.load_state_dict({key: arrays[f"{name}.{key}"] for key in layer.params})


def _sizes(layer):
    """(features of the input, None for ids; features of the output)."""
    if isinstance(layer, Embedding):
        return None, layer.embedding_dim
    if isinstance(layer, Linear):
        return layer.in_features, layer.out_features
    return layer.input_size, layer.output_size


def _check_steps(steps, layers):
    if not layers:
        raise ValueError("a Network needs one layer or more")
    features, before, width, first, pooled = None, None, 1, next(iter(layers.values())), None
    for name, step in steps.items():
        if not isinstance(name, str):
            raise TypeError(f"a step has the name {name!r}, but it must be a text")
        if not is_unicode(name):
            raise ValueError(
                f"a step has the name {shown(name)}, which has half of a surrogate pair, so it is no Unicode text"
            )
        if name not in layers:
            function = _check_function(name, step, before, width)
            if isinstance(first, Embedding) and before is None and function != "mask":
                raise ValueError(
                    f"step {name!r} is {function!r}, but before an Embedding there are ids: only 'mask' can come before it"
                )
            if pooled is not None and function in ("last", "mask", "zero", "flip"):
                raise ValueError(
                    f"step {name!r} is {function!r}, which is of several steps, but {pooled!r} before it leaves only the last one"
                )
            pooled = name if function == "last" else pooled
            features, width = (features // 2, 1) if function == "merge" else (features, width)
            continue
        if not isinstance(step, (Embedding, Linear, *_RECURRENT)):
            raise TypeError(
                f"step {name!r} is {type(step).__name__}, but it must be Embedding, RNN, GRU, LSTM, Stacked, Linear or a function's name"
            )
        if step.dtype != first.dtype:
            raise TypeError(f"layer {name!r} computes in {step.dtype}, but the first layer in {first.dtype}")
        takes, gives = _sizes(step)
        if step is not first and takes != features:
            raise ValueError(
                f"layer {name!r} takes {'ids' if takes is None else f'{takes} features'}, but what is before it gives {features} features"
            )
        if pooled is not None and isinstance(step, _RECURRENT):
            raise ValueError(f"layer {name!r} is of several steps, but {pooled!r} before it leaves only the last one")
        if getattr(step, "context_size", 0):
            raise ValueError(
                f"layer {name!r} was made with context_size={step.context_size}, but a Network has no context"
            )
        features, before, width = gives, step, 1
        if isinstance(step, _RECURRENT):
            width = step.num_directions
    ways = {layer.batch_first for layer in layers.values() if isinstance(layer, _RECURRENT)}
    if len(ways) > 1:
        raise ValueError("some recurrent layers have batch_first=True and some have not: they must agree")


def _check_function(name, step, before, width):
    """The function's name. width: directions that lie side by side before it."""
    if (
        not isinstance(step, (str, tuple, list))
        or not step
        or not isinstance(step if isinstance(step, str) else step[0], str)
    ):
        raise TypeError(f"step {name!r} is {step!r}, but it must be a layer, a function's name or (name, *numbers)")
    function, *numbers = (step,) if isinstance(step, str) else step
    if function not in FUNCTIONS and function not in _SHAPING:
        raise ValueError(
            f"step {name!r} is {function!r}, which is no function: use one of {', '.join([*FUNCTIONS, *_SHAPING])}"
        )
    if function == "last" and not isinstance(before, _RECURRENT):
        raise ValueError(f"step {name!r}: 'last' is of the outputs of a recurrent layer, but none is before it")
    if function == "merge":
        _check.choice(f"step {name!r}", numbers[0] if len(numbers) == 1 else None, tuple(_MERGES))
        if width != 2:
            raise ValueError(f"step {name!r}: 'merge' is of two directions, but what is before it has {width}")
    elif function == "mask" and len(numbers) != 1:
        raise ValueError(f"step {name!r}: 'mask' needs its value: ('mask', 0.0)")
    elif len(numbers) > _NUMBERS.get(function, 0):
        raise ValueError(
            f"step {name!r}: {function} takes at most {_NUMBERS.get(function, 0)} numbers, but it has {len(numbers)}"
        )
    else:
        for value in numbers:
            _check.number(f"step {name!r}: the number of {function}", value)
    return function


def _described(step):
    """A step as JSON has it."""
    if isinstance(step, Stacked):
        found = {name: getattr(step, name) for name in ("dropout", "variational", "residual")}
        return {"kind": "Stacked", "layers": [_described(layer) for layer in step.layers], **found}
    if not hasattr(step, "params"):
        return [step] if isinstance(step, str) else list(step)
    names = next(options for cls, options in _OPTIONS.items() if isinstance(step, cls))
    found = {name: getattr(step, name) for name in (*names, *getattr(step, "_defaults", ()))}
    if isinstance(step, Linear):
        found["bias"] = "bias" in step.params
    return {"kind": type(step).__name__, "dtype": str(step.dtype), **found}


def _made(described, budget):
    """The step of what `_described` gave; its parameters count in the budget."""
    if isinstance(described, list):
        return described[0] if len(described) == 1 else tuple(described)
    options = dict(described)
    kind = options.pop("kind")
    if kind == "Stacked":
        return Stacked([_made(layer, budget) for layer in options.pop("layers")], **options)
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    return _KINDS[kind](**options, seed=0, storage=Storage(options["dtype"], budget))


class _Step(Rule):
    """A step as `_described` gives it: a list with a function's name and its numbers, or an object of the layer's own kind."""

    def __init__(self, kinds):
        super().__init__('a function [name, …], or a layer {"kind": …}', lambda value: type(value) in (list, dict))
        self._kinds = kinds

    def check(self, value, key):
        super().check(value, key)
        if type(value) is list:
            _FUNCTION.check(value, key)
            return
        choice(*self._kinds).check(value.get("kind"), f"{key}.kind")
        self._kinds[value["kind"]].check(value, key)


class _NamedStep(Rule):
    """[name, step]"""

    def __init__(self, step):
        super().__init__(
            "[name, step]", lambda value: type(value) is list and len(value) == 2 and type(value[0]) is str
        )
        self._step = step

    def check(self, value, key):
        super().check(value, key)
        self._step.check(value[1], f"{key}[1]")


def _layer(sizes, flags=(), **others):
    """The rule of a layer: its sizes, {name: Rule}, must be there, and the others may; without them it has their default."""
    required = {"kind": TEXT, "dtype": choice("float32", "float64"), **sizes}
    return Record(required, {**dict.fromkeys(flags, FLAG), **others})


_FUNCTION = Rule(
    "a list with a function's name, and numbers or the name of a merge",
    lambda value: type(value) is list and value != [] and all(type(one) is str or NUMBER.holds(one) for one in value),
)
_ACTIVATION = Rule(
    "an activation's name, or a list of it and its numbers",
    lambda value: type(value) is str or (
        type(value) is list and 0 < len(value) <= 3 and type(value[0]) is str and all(map(NUMBER.holds, value[1:]))
    ),
)  # fmt: skip
_CLIP = OrNull(number(above=0))
_FLAGS = ("bias", "batch_first", "bidirectional", "reverse", "variational", "learn_initial_state")
_RECURRENT_KINDS = {
    kind: _layer({"input_size": whole(), "hidden_size": SIZE}, _FLAGS, num_layers=SIZE, dropout=FRACTION, clip=_CLIP, **others)
    for kind, others in {
        "RNN": {"nonlinearity": _ACTIVATION},
        "GRU": {"reset_after": FLAG, "activation": _ACTIVATION, "recurrent_activation": _ACTIVATION},
        "LSTM": {
            "proj_size": whole(), "peephole": FLAG, "coupled": FLAG, "activation": _ACTIVATION,
            "recurrent_activation": _ACTIVATION, "output_activation": OrNull(_ACTIVATION),
        },
    }.items()
}  # fmt: skip
_STACKED = Record(
    {"kind": TEXT, "layers": ListOf(_Step(_RECURRENT_KINDS), least=1)},
    {"dropout": FRACTION, "variational": FLAG, "residual": FLAG},
)
_STEP = _Step(
    {
        "Embedding": _layer({"num_embeddings": SIZE, "embedding_dim": SIZE}),
        "Linear": _layer({"in_features": SIZE, "out_features": SIZE}, ("bias",)),
        **_RECURRENT_KINDS, "Stacked": _STACKED,
    }
)  # fmt: skip
_SCHEMA = Record({"model": TEXT, "steps": ListOf(_NamedStep(_STEP), least=1)})

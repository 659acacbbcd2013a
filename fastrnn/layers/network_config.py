"""The configuration of a Network in a file: how steps are written and read, and the rules that it must follow."""

from __future__ import annotations

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
    number,
    whole,
)
from fastrnn.layers.feedforward import Embedding, Linear
from fastrnn.layers.recurrent import Recurrent
from fastrnn.layers.rnn import GRU, LSTM, RNN
from fastrnn.layers.stacked import Stacked
from fastrnn.parameters import Storage

_KINDS = {cls.__name__: cls for cls in (Embedding, GRU, LSTM, Linear, RNN)}
_OPTIONS = {
    Embedding: ("num_embeddings", "embedding_dim"),
    Linear: ("in_features", "out_features"),
    Recurrent: (
        "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional", "reverse",
        "variational", "learn_initial_state",
    ),
}  # fmt: skip


def described(step):
    """Describe a step for JSON."""
    if isinstance(step, Stacked):
        found = {name: getattr(step, name) for name in ("dropout", "variational", "residual")}
        return {"kind": "Stacked", "layers": [described(layer) for layer in step.layers], **found}
    if not hasattr(step, "params"):
        return [step] if isinstance(step, str) else list(step)
    names = next(options for cls, options in _OPTIONS.items() if isinstance(step, cls))
    found = {name: getattr(step, name) for name in (*names, *getattr(step, "_defaults", ()))}
    if isinstance(step, Linear):
        found["bias"] = "bias" in step.params
    return {"kind": type(step).__name__, "dtype": str(step.dtype), **found}


def made(described, budget):
    """Construct the step of a description, with the parameters counted against the budget."""
    if isinstance(described, list):
        return described[0] if len(described) == 1 else tuple(described)
    options = dict(described)
    kind = options.pop("kind")
    if kind == "Stacked":
        return Stacked([made(layer, budget) for layer in options.pop("layers")], **options)
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    return _KINDS[kind](**options, seed=0, storage=Storage(options["dtype"], budget))


class _Step(Rule):
    """Rule of a step: a list [function, *numbers], or an object with the options of one of `kinds`."""

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
    """Rule of a pair [name, step]."""

    def __init__(self, step):
        super().__init__(
            "[name, step]", lambda value: type(value) is list and len(value) == 2 and type(value[0]) is str
        )
        self._step = step

    def check(self, value, key):
        super().check(value, key)
        self._step.check(value[1], f"{key}[1]")


def _layer(sizes, flags=(), **others):
    """Rule of a layer. Its sizes, {name: Rule}, are required; the flags and other options have defaults."""
    required = {"kind": TEXT, "dtype": choice("float32", "float64"), **sizes}
    return Record(required, {**dict.fromkeys(flags, FLAG), **others})


_FUNCTION = Rule(
    "a list of a function's name, and numbers or the name of a merge",
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
    kind: _layer(
        {"input_size": whole(), "hidden_size": SIZE}, _FLAGS, num_layers=SIZE, dropout=FRACTION, clip=_CLIP, **others
    )
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
SCHEMA = Record({"model": TEXT, "steps": ListOf(_NamedStep(_STEP), least=1)})

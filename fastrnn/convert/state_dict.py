"""Conversion of a PyTorch state_dict, {name: array}, to a Network and back."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from fastrnn.convert import layer_order
from fastrnn.convert.layer_order import Kind
from fastrnn.layers.feedforward import Embedding, Linear
from fastrnn.layers.network import FUNCTIONS, Network
from fastrnn.layers.recurrent import Recurrent
from fastrnn.layers.rnn import GRU, LSTM, RNN
from fastrnn.layers.stacked import Stacked

_CELLS = {1: RNN, 3: GRU, 4: LSTM}
_PARAMETER = re.compile(r"(weight_ih|weight_hh|bias_ih|bias_hh|weight_hr)(_l(\d+))?(_reverse)?")
_TORCH_OPTIONS = {
    "reverse": False, "learn_initial_state": False, "context_size": 0, "clip": None, "reset_after": True,
    "peephole": False, "coupled": False, "activation": "tanh", "recurrent_activation": "sigmoid",
}  # fmt: skip


# Tensors of modules and wrappers without an equivalent here: last part of the name, what it is, what to do
_FOREIGN = (
    (
        r"running_mean|running_var|num_batches_tracked",
        "a BatchNorm",
        "fold it into the Linear layer beside it, or convert the layers around it one by one",
    ),
    (
        r"(.*_)?weight_g|weight_.*_g",
        "weight_norm",
        "call torch.nn.utils.remove_weight_norm on the module before you save its state_dict",
    ),
    (
        r"weight_u|.*_u",
        "spectral_norm",
        "call torch.nn.utils.remove_spectral_norm on the module before you save its state_dict",
    ),
    (r".*_mask", "pruning", "call torch.nn.utils.prune.remove on the module before you save its state_dict"),
    (r"in_proj_weight", "a MultiheadAttention", "fastrnn has no such layer"),
)


def to_network(tensors, *, order=None, between=None, nonlinearity="tanh", batch_first=False):
    """Construct the chain of layers of a state_dict.

    It has at most one Embedding, recurrent layers or cells, and Linear layers. What has no parameters (dropout,
    activations, residual connections, the selection of the last step) is not in a state_dict; only `between` is added.

    Parameters
    ----------
    tensors : dict of str to ndarray
        The state_dict, float32 or float64, in PyTorch's order: modules in the order of their definition.
    order : sequence of str, optional
        Names of the layers in the order of use, if it is another one. "name:embedding" and "name:linear" say what a
        weight without bias is, if its sizes allow both.
    between : str or dict, optional
        Function after each Linear that another layer follows, a key of ``fastrnn.layers.network.FUNCTIONS`` or "none",
        or a dict {layer: function}. Required if there is such a Linear, as a state_dict does not contain it.
    nonlinearity : {"tanh", "relu"}, default "tanh"
        Activation of vanilla layers, which a state_dict does not contain.
    batch_first : bool, default False
        Whether the network takes (B, T, features).

    Returns
    -------
    Network
        The chain. Its steps have the names of the modules.

    Raises
    ------
    ValueError
        A tensor is missing, does not belong to such a chain or does not fit, or the order of the layers or the
        functions between them are ambiguous. The message names them and says what to specify.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> tensors = {"rnn." + name: p for name, p in fastrnn.GRU(3, 4).params.items()}
    >>> to_network(tensors | {"out.weight": np.ones((2, 4), "float32")})
    Network({'rnn': GRU(3, 4), 'out': Linear(4, 2, bias=False, dtype='float32')})
    """
    return read(tensors, order=order, between=between, nonlinearity=nonlinearity, batch_first=batch_first)[0]


def read(tensors, *, order=None, between=None, kept=True, nonlinearity="tanh", batch_first=False):
    """Do the work of `to_network`; returns the network, and lines that say what was assumed.

    kept : whether the tensors are in PyTorch's order, not sorted by name
    """
    _refuse_foreign(tensors)
    dtype, groups = _dtype(tensors), modules(tensors)
    kinds = {step: _kinds(step, group) for step, group in groups.items()}
    made = {
        step: _recurrent(step, group, nonlinearity, batch_first, dtype)
        for step, group in groups.items()
        if kinds[step] is None
    }
    kinds |= {step: [Kind("recurrent", layer.input_size, layer.output_size)] for step, (layer, _) in made.items()}
    chosen, why = layer_order.choose(kinds, order, kept and all(map(_in_torchs_order, groups.values())))
    functions = _between(chosen, between)
    steps = {}
    for step, kind in chosen.items():
        if kind.name == "recurrent":
            layer, arrays = made[step]
        else:
            arrays = groups[step]
            more = {"dtype": dtype, "seed": 0}
            layer = (
                Embedding(*arrays["weight"].shape, **more)
                if kind.takes is None
                else Linear(kind.takes, kind.gives, "bias" in arrays, **more)
            )
        layer.load_state_dict(arrays)
        steps[step] = layer
        if step in functions:
            steps[f"{step}.{functions[step]}"] = functions[step]
    return Network(steps), [f"order of the layers: {', '.join(chosen)}; {why}", _said(functions, between)]


def _said(functions, between):
    """Say which functions are between the layers."""
    here = ", ".join(f"{function} after {step!r}" for step, function in functions.items())
    return (
        f"between the layers: {f'{here}, as --between says, and nothing else' if here else 'nothing'}. A state_dict "
        "does not contain activations, residual connections and the selection of the last step: add what your module "
        "does there"
    )


def modules(tensors):
    """Group a state_dict as {module: {parameter: array}}. Tensors without a module's name belong to "layer"."""
    groups = {}
    for name, array in tensors.items():
        prefix, _, last = name.rpartition(".")
        groups.setdefault(prefix, {})[last] = array
    bare = "layer"
    while bare in groups:
        bare += "_"
    return {prefix or bare: group for prefix, group in groups.items()}


def _refuse_foreign(tensors):
    """Refuse tensors of modules and wrappers without an equivalent here, and say what to do."""
    for name in tensors:
        parts = name.split(".")
        for pattern, what, advice in _FOREIGN:
            if re.fullmatch(pattern, parts[-1]):
                raise ValueError(
                    f"{name} belongs to {what}, which is not one of Embedding, RNN, GRU, LSTM and Linear: {advice}"
                )
        if "parametrizations" in parts[:-1]:
            at = parts.index("parametrizations")
            wrapped = ".".join([*parts[:at], parts[at + 1]])
            raise ValueError(
                f"{name} belongs to a parametrization of {wrapped} (weight_norm, spectral_norm, orthogonal): call "
                f"torch.nn.utils.parametrize.remove_parametrizations(module, {parts[at + 1]!r}) before you save the "
                "state_dict"
            )


def _in_torchs_order(group):
    """Whether a module's tensors are in PyTorch's order: weights before biases, and W_ih before W_hh."""
    names = [name.split("_l")[0] for name in group]
    places = [names.index(name) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if name in names]
    places = places or [names.index(name) for name in ("weight", "bias") if name in names]
    return places == sorted(places)


def _dtype(tensors):
    if not tensors:
        raise ValueError("the state_dict is empty")
    found = {array.dtype for array in tensors.values()}
    strange = [(name, array.dtype) for name, array in tensors.items() if array.dtype not in (np.float32, np.float64)]
    if strange:
        raise ValueError(
            f"{strange[0][0]} is {strange[0][1]}, but parameters must be float32 or float64: convert them first "
            "(module.float())"
        )
    if len(found) > 1:
        raise ValueError("some tensors are float32 and some float64: convert the module to one of them first")
    broken = next((name for name, array in tensors.items() if not np.isfinite(array).all()), None)
    if broken:
        raise ValueError(
            f"{broken} has NaN or infinite values: the outputs of such a network are NaN and cannot be compared"
        )
    return found.pop()


def _kinds(step, group):
    """Return what a module can be, one Kind or two, or None if it is recurrent."""
    if any(_PARAMETER.fullmatch(name) for name in group):
        return None
    weight = group.get("weight")
    strange = [name for name in group if name not in ("weight", "bias")]
    if strange or weight is None or weight.ndim != 2 or 0 in weight.shape:
        name = strange[0] if strange else "weight" if weight is not None else "bias"
        advice = (
            f"{step}.weight is missing, maybe because safetensors leaves out tied weights"
            if weight is None and not strange
            else "convert this module by hand"
        )
        advice = (
            "it looks like a LayerNorm or BatchNorm; " + advice if weight is not None and weight.ndim == 1 else advice
        )
        raise ValueError(
            f"{_full(step, name)} {group[name].shape} does not belong to an Embedding, RNN, GRU, LSTM or Linear: "
            f"{advice}"
        )
    if "bias" in group and group["bias"].shape != weight.shape[:1]:
        raise ValueError(
            f"{_full(step, 'bias')} has shape {group['bias'].shape}, but with a weight of {weight.shape} it must "
            f"have {weight.shape[:1]}"
        )
    linear = Kind("linear", weight.shape[1], weight.shape[0])
    return [linear] if "bias" in group else [Kind("embedding", None, weight.shape[1]), linear]


def _between(chosen, between):
    """Return {layer: function after it}; raise a ValueError if one is required and not given."""
    names = list(chosen)
    asked = [name for name in names[:-1] if chosen[name].name == "linear"]
    said = (
        dict(between) if isinstance(between, Mapping) else dict.fromkeys(asked, between) if between is not None else {}
    )
    if isinstance(between, str) and between != "none" and not asked:
        raise ValueError(
            f"--between {between} applies to a Linear before another layer, but there is none: use "
            f"--between NAME={between} to say which layer it comes after"
        )
    for name, function in said.items():
        if name not in chosen:
            raise ValueError(f"--between names {name!r}, but the layers are {', '.join(names)}")
        if function != "none" and function not in FUNCTIONS:
            raise ValueError(f"--between has {function!r}, but it must be none or one of {', '.join(FUNCTIONS)}")
    open_ends = [name for name in asked if name not in said]
    if open_ends:
        name, after = open_ends[0], names[names.index(open_ends[0]) + 1]
        raise ValueError(
            f"a state_dict does not contain the function between {name!r}, a Linear, and {after!r}: specify it with "
            f"--between relu, or another one of {', '.join(FUNCTIONS)}; --between none if there is none; "
            f"--between {','.join(f'{n}=relu' for n in asked)} for each Linear separately"
        )
    return {name: function for name, function in said.items() if function != "none"}


def _full(prefix, name):
    return f"{prefix}.{name}" if prefix else name


def _recurrent(prefix, group, nonlinearity, batch_first, dtype):
    """Construct a recurrent layer, or a cell as a layer; returns it and its arrays."""
    arrays, layers = {}, set()
    for name, array in group.items():
        parts = _PARAMETER.fullmatch(name)
        if parts is None:
            raise ValueError(
                f"{_full(prefix, name)} {array.shape} is next to the parameters of a recurrent layer, "
                "but is not one of them"
            )
        layers.add(int(parts[3] or 0))
        own = name if parts[2] else name + "_l0"
        if own in arrays:
            raise ValueError(
                f"{_full(prefix, name)} and {_full(prefix, own)} cannot both be there: is it a cell or a layer?"
            )
        arrays[own] = array
    for name in ("weight_ih_l0", "weight_hh_l0"):
        if name not in arrays:
            raise ValueError(f"{_full(prefix, name)} is missing")
        if arrays[name].ndim != 2 or 0 in arrays[name].shape:
            raise ValueError(
                f"{_full(prefix, name)} has shape {arrays[name].shape}, but it must have 2 axes, (gates * "
                "hidden_size, features)"
            )
    proj = arrays.get("weight_hr_l0")
    units = arrays["weight_hh_l0"].shape[1] if proj is None else proj.shape[-1]
    gates, rest = divmod(arrays["weight_hh_l0"].shape[0], units)
    if rest or gates not in _CELLS or (proj is not None and gates != 4):
        raise ValueError(
            f"{_full(prefix, 'weight_hh_l0')} has shape {arrays['weight_hh_l0'].shape}, but it must be "
            "(G * hidden_size, hidden_size) with G = 4 for LSTM, 3 for GRU and 1 for RNN: is it transposed?"
        )
    options = {"proj_size": proj.shape[0]} if proj is not None else {"nonlinearity": nonlinearity} if gates == 1 else {}
    layer = _CELLS[gates](
        arrays["weight_ih_l0"].shape[1], units, len(layers), bias="bias_ih_l0" in arrays,
        bidirectional="weight_ih_l0_reverse" in arrays, batch_first=batch_first, dtype=dtype, seed=0, **options,
    )  # fmt: skip
    for name, wanted in layer.params.items():
        if name not in arrays:
            raise ValueError(f"{_full(prefix, name)} is missing")
        if arrays[name].shape != wanted.shape:
            raise ValueError(
                f"{_full(prefix, name)} has shape {arrays[name].shape}, but the layer's other parameters require "
                f"{wanted.shape}"
            )
    strange = sorted(arrays.keys() - layer.params.keys())
    if strange:
        raise ValueError(
            f"{_full(prefix, strange[0])} is unexpected: the layer's other parameters are those of {layer!r}"
        )
    return layer, arrays


def from_layers(layers):
    """Return the state_dict of PyTorch modules with the names of these layers, {name: array}.

    A ValueError says why PyTorch has no such layer.
    """
    found = {}
    for name, layer in layers.items():
        parts = (
            {f"{name}.{k}": member for k, member in enumerate(layer.layers)}
            if isinstance(layer, Stacked)
            else {name: layer}
        )
        if getattr(layer, "residual", False):
            raise ValueError(f"layer {name!r} has residual=True, which torch.nn does not have")
        for part, one in parts.items():
            if isinstance(one, Recurrent):
                _check_torch_has(part, one)
            found |= {f"{part}.{key}": np.array(array) for key, array in one.params.items()}
    return found


def _check_torch_has(name, layer):
    """Check that PyTorch has a layer with these options."""
    unlike = {key: value for key, usual in _TORCH_OPTIONS.items() if (value := getattr(layer, key, usual)) != usual}
    if getattr(layer, "nonlinearity", "tanh") not in ("tanh", "relu"):
        unlike["nonlinearity"] = layer.nonlinearity
    if getattr(layer, "output_activation", None) not in (None, "tanh"):
        unlike["output_activation"] = layer.output_activation
    if unlike:
        raise ValueError(
            f"layer {name!r}: torch.nn.{type(layer).__name__} has no "
            f"{', '.join(f'{key}={value!r}' for key, value in unlike.items())}"
        )

"""torch's state_dict as a Network, and back. Knows names and shapes, neither torch nor files."""

from __future__ import annotations

import re

import numpy as np

from fastrnn._recurrent import Recurrent
from fastrnn.layers import Embedding, Linear
from fastrnn.network import Network
from fastrnn.rnn import GRU, LSTM, RNN
from fastrnn.stacked import Stacked

_CELLS = {1: RNN, 3: GRU, 4: LSTM}
_PARAMETER = re.compile(r"(weight_ih|weight_hh|bias_ih|bias_hh|weight_hr)(_l(\d+))?(_reverse)?")
_PLAIN = {
    "reverse": False, "learn_initial_state": False, "context_size": 0, "clip": None, "reset_after": True, "peephole": False, "coupled": False,
    "activation": "tanh", "recurrent_activation": "sigmoid",
}  # fmt: skip


def to_network(tensors, *, nonlinearity="tanh", batch_first=False):
    """The chain of layers whose state_dict this is: at most one Embedding, recurrent layers or cells, Linear layers.

    Parameters
    ----------
    tensors : {name: array}, float32 or float64; layers in the order in which they are used, which is that of most modules' attributes
    nonlinearity : of vanilla layers, which the state_dict does not say: "tanh", torch's usual one, or "relu"
    batch_first : how the network takes its input

    Returns
    -------
    Network : its steps have the modules' names. What has no parameters (dropout, activations between layers) is not in a state_dict.

    Raises
    ------
    ValueError  a tensor is missing, is no part of such a chain, or does not fit; the message names it.

    Examples
    --------
    >>> tensors = {"rnn." + name: p for name, p in fastrnn.GRU(3, 4).params.items()}
    >>> to_network(tensors | {"out.weight": np.ones((2, 4), "float32")})
    Network({'rnn': GRU(3, 4), 'out': Linear(4, 2, bias=False, dtype='float32')})
    """
    dtype, groups = _dtype(tensors), {}
    for name, array in tensors.items():
        prefix, _, last = name.rpartition(".")
        groups.setdefault(prefix, {})[last] = array
    steps, loaded = {}, {}
    for prefix, group in groups.items():
        step = prefix or "layer"
        steps[step], loaded[step] = _layer(prefix, group, nonlinearity, batch_first, dtype, bool(steps))
    net = Network(steps)
    for step, arrays in loaded.items():
        net.layers[step].load_state_dict(arrays)
    return net


def _dtype(tensors):
    if not tensors:
        raise ValueError("the state_dict is empty")
    found = {array.dtype for array in tensors.values()}
    strange = [(name, array.dtype) for name, array in tensors.items() if array.dtype not in (np.float32, np.float64)]
    if strange:
        raise ValueError(f"{strange[0][0]} is {strange[0][1]}, but parameters must be float32 or float64: convert them first (module.float())")
    if len(found) > 1:
        raise ValueError("some tensors are float32 and some float64: convert the module to one of them first")
    return found.pop()


def _layer(prefix, group, nonlinearity, batch_first, dtype, later):
    """(layer, {parameter: array}) of one module's tensors. later: it is not the first one."""
    if any(_PARAMETER.fullmatch(name) for name in group):
        return _recurrent(prefix, group, nonlinearity, batch_first, dtype)
    weight = group.get("weight")
    strange = [name for name in group if name not in ("weight", "bias")]
    if strange or weight is None or weight.ndim != 2 or 0 in weight.shape:
        name = strange[0] if strange else "weight" if weight is not None else "bias"
        raise ValueError(
            f"{_full(prefix, name)} {group[name].shape} is no part of a chain of Embedding, RNN, GRU, LSTM and Linear: convert such a module by hand"
        )
    if "bias" not in group and not later:
        return Embedding(*weight.shape, dtype=dtype, seed=0), group
    if "bias" in group and group["bias"].shape != weight.shape[:1]:
        raise ValueError(f"{_full(prefix, 'bias')} has shape {group['bias'].shape}, but with a weight of {weight.shape} it must have {weight.shape[:1]}")
    return Linear(weight.shape[1], weight.shape[0], "bias" in group, dtype=dtype, seed=0), group


def _full(prefix, name):
    return f"{prefix}.{name}" if prefix else name


def _recurrent(prefix, group, nonlinearity, batch_first, dtype):
    """A layer, or a cell as a layer of its own."""
    arrays, layers = {}, set()
    for name, array in group.items():
        parts = _PARAMETER.fullmatch(name)
        if parts is None:
            raise ValueError(f"{_full(prefix, name)} {array.shape} stands beside a recurrent layer's parameters, but is none of them")
        layers.add(int(parts[3] or 0))
        arrays[name if parts[2] else name + "_l0"] = array
    for name in ("weight_ih_l0", "weight_hh_l0"):
        if name not in arrays:
            raise ValueError(f"{_full(prefix, name)} is missing")
        if arrays[name].ndim != 2 or 0 in arrays[name].shape:
            raise ValueError(f"{_full(prefix, name)} has shape {arrays[name].shape}, but it must have 2 axes, (gates * hidden_size, features)")
    proj = arrays.get("weight_hr_l0")
    units = arrays["weight_hh_l0"].shape[1] if proj is None else proj.shape[-1]
    gates, rest = divmod(arrays["weight_hh_l0"].shape[0], units)
    if rest or gates not in _CELLS or (proj is not None and gates != 4):
        raise ValueError(
            f"{_full(prefix, 'weight_hh_l0')} has shape {arrays['weight_hh_l0'].shape}, but it must be (4 * hidden_size, hidden_size) of an LSTM, "
            "3 * of a GRU or 1 * of a vanilla layer: is it transposed?"
        )
    options = {"proj_size": proj.shape[0]} if proj is not None else {"nonlinearity": nonlinearity} if gates == 1 else {}
    layer = _CELLS[gates](
        arrays["weight_ih_l0"].shape[1], units, len(layers), bias="bias_ih_l0" in arrays, bidirectional="weight_ih_l0_reverse" in arrays,
        batch_first=batch_first, dtype=dtype, seed=0, **options,
    )  # fmt: skip
    for name, wanted in layer.params.items():
        if name not in arrays:
            raise ValueError(f"{_full(prefix, name)} is missing")
        if arrays[name].shape != wanted.shape:
            raise ValueError(f"{_full(prefix, name)} has shape {arrays[name].shape}, but beside the layer's other parameters it must have {wanted.shape}")
    strange = sorted(arrays.keys() - layer.params.keys())
    if strange:
        raise ValueError(f"{_full(prefix, strange[0])} is too many: the layer's other parameters are those of {layer!r}")
    return layer, arrays


def from_layers(layers):
    """The state_dict of torch modules with these layers' names: {name: array}.

    Raises
    ------
    ValueError  torch has no such layer; the message says why.
    """
    found = {}
    for name, layer in layers.items():
        parts = {f"{name}.{k}": member for k, member in enumerate(layer.layers)} if isinstance(layer, Stacked) else {name: layer}
        if getattr(layer, "residual", False):
            raise ValueError(f"layer {name!r} is residual, which no layer of torch is")
        for part, one in parts.items():
            if isinstance(one, Recurrent):
                _check_plain(part, one)
            found |= {f"{part}.{key}": np.array(array) for key, array in one.params.items()}
    return found


def _check_plain(name, layer):
    """That torch has such a layer."""
    unlike = {key: value for key, usual in _PLAIN.items() if (value := getattr(layer, key, usual)) != usual}
    if getattr(layer, "nonlinearity", "tanh") not in ("tanh", "relu"):
        unlike["nonlinearity"] = layer.nonlinearity
    if getattr(layer, "output_activation", None) not in (None, "tanh"):
        unlike["output_activation"] = layer.output_activation
    if unlike:
        raise ValueError(f"layer {name!r}: torch.nn.{type(layer).__name__} has no {', '.join(f'{key}={value!r}' for key, value in unlike.items())}")

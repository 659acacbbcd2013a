"""Convert an ONNX RNN, GRU or LSTM node to fastrnn layers. The opposite direction is in _write.py.

Dimensions are those of the engine, and D, the number of directions, 1 or 2. ONNX's tensors have D as their first axis:
W (D, G*H, I), R (D, G*H, H), B (D, 2*G*H) with the bias of the input part before that of the recurrent part, P (D,
3*H), Y (T, D, B, H), states (D, B, H).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from fastrnn.layers.rnn import GRU, LSTM, RNN


@dataclass(frozen=True)
class Kind:
    """How an operator corresponds to a layer."""

    layer: type
    blocks: int  # of H rows in W and R
    gates: tuple  # gate k of the layer is block gates[k] of the tensors
    activations: tuple  # the default ones of each direction


KINDS = {
    "RNN": Kind(RNN, 1, (0,), ("Tanh",)),
    "GRU": Kind(GRU, 3, (1, 0, 2), ("Sigmoid", "Tanh")),  # ONNX: z r h
    "LSTM": Kind(LSTM, 4, (0, 2, 3, 1), ("Sigmoid", "Tanh", "Tanh")),  # ONNX: i o f c
}
COUPLED_GATES = (0, 3, 1)  # i g o: there is no f, and its block is ignored
PEEPHOLES, COUPLED_PEEPHOLES = (0, 2, 1), (0, 1)  # ONNX: i o f

DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
OLDEST = 7  # before opset 7 the operators had other attributes

ACTIVATIONS = {  # ONNX's name: fastrnn's name, then ONNX's defaults of alpha and beta where it has them
    "Relu": ("relu",), "Tanh": ("tanh",), "Sigmoid": ("sigmoid",), "Softsign": ("softsign",), "Softplus": ("softplus",),
    "Affine": ("affine", 1.0, 0.0), "LeakyRelu": ("leaky_relu", 0.01), "ThresholdedRelu": ("thresholded_relu", 1.0),
    "Elu": ("elu", 1.0), "ScaledTanh": ("scaled_tanh", 1.0, 1.0), "HardSigmoid": ("hard_sigmoid", 0.2, 0.5),
}  # fmt: skip
_BY_LOWER = {name.lower(): value for name, value in ACTIVATIONS.items()}  # as in onnxruntime, case does not matter


@dataclass(frozen=True)
class Settings:
    """The attributes of a node, checked."""

    where: str  # what messages call the node
    op_type: str
    reverse: tuple  # for each direction, whether it runs backwards in time
    functions: tuple  # for each direction, the activations as layers take them
    clip: float | None
    coupled: bool
    reset_after: bool
    batch_first: bool  # layout=1
    hidden_size: int | None


def where(node):
    """What messages call a node."""
    if node.name:
        return f"node {node.name!r} ({node.op_type})"
    return f"the {node.op_type} node that gives {next(filter(None, node.output), '')!r}"


def attributes_of(node):
    """{name: value} of a node's attributes; strings as str."""

    def text(value):
        if isinstance(value, list):
            return list(map(text, value))
        return value.decode(errors="replace") if isinstance(value, bytes) else value

    return {a.name: text(onnx.helper.get_attribute_value(a)) for a in node.attribute if not a.ref_attr_name}


def check_attributes(node, opset):
    """Raise for attributes, inputs and outputs that the operator does not have at this opset."""
    if opset < OLDEST:
        raise NotImplementedError(
            f"{where(node)} is of opset {opset}, but fastrnn reads {OLDEST} and later: convert the model with "
            "onnx.version_converter.convert_version(model, 14)"
        )
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    for a in node.attribute:
        known = schema.attributes.get(a.name)
        if known is None:
            names = ", ".join(sorted(schema.attributes))
            raise ValueError(f"{where(node)} has an attribute {a.name!r}, but at opset {opset} there are only {names}")
        if int(known.type.value) != a.type:
            given = onnx.AttributeProto.AttributeType.Name(a.type)
            raise ValueError(f"{where(node)}: attribute {a.name} is of type {given}, but it must be {known.type.name}")
    for label, names, most in (
        ("inputs", node.input, len(schema.inputs)),
        ("outputs", node.output, len(schema.outputs)),
    ):
        if len(names) > most:
            raise ValueError(f"{where(node)} has {len(names)} {label}, but {node.op_type} has at most {most}")


def read(node, values):
    """The Settings of a node.

    values : {name: value} of its attributes; those with default values may be missing
    """
    name = where(node)
    direction = values.get("direction") or "forward"
    if direction not in DIRECTIONS:
        raise ValueError(f"{name}: direction is {direction!r}, but it must be one of {', '.join(DIRECTIONS)}")
    clip = values.get("clip")
    if clip is not None and not clip > 0:
        raise ValueError(f"{name}: clip is {clip}, but it must be above 0; for no clipping, leave the attribute out")
    flags = {}
    for flag in ("input_forget", "linear_before_reset", "layout"):
        flags[flag] = values.get(flag) or 0
        if flags[flag] not in (0, 1):
            raise ValueError(f"{name}: {flag} is {flags[flag]}, but it must be 0 or 1")
    reverse = DIRECTIONS[direction]
    return Settings(
        where=name,
        op_type=node.op_type,
        reverse=reverse,
        functions=_functions(name, node.op_type, values, len(reverse)),
        clip=None if clip is None else float(clip),
        coupled=bool(flags["input_forget"]),
        reset_after=bool(flags["linear_before_reset"]),
        batch_first=bool(flags["layout"]),
        hidden_size=values.get("hidden_size"),
    )


def _functions(name, op_type, values, D):
    """For each direction, its activations as layers take them.

    activation_alpha and activation_beta list, in order, the numbers of those activations that take one.
    """
    default = KINDS[op_type].activations
    given = values.get("activations") or default * D
    if op_type == "RNN" and list(given) == ["Tanh", "Tanh"]:  # the schema's default, whatever the direction
        given = given[:D]
    if len(given) != D * len(default):
        raise ValueError(
            f"{name} has {len(given)} activations, but {op_type} needs {len(default)} for each of its {D} directions: "
            f"{D * len(default)}"
        )
    numbers = [list(values.get(f"activation_{which}") or []) for which in ("alpha", "beta")]
    counts, made = [len(n) for n in numbers], []
    for f in given:
        if f.lower() not in _BY_LOWER:
            raise NotImplementedError(f"{name} has the activation {f!r}, but ONNX has only {', '.join(ACTIVATIONS)}")
        ours, *defaults = _BY_LOWER[f.lower()]
        mine = [float(n.pop(0)) if n else default for n, default in zip(numbers, defaults)]
        made.append((ours, *mine) if mine else ours)
    for which, count, left in zip(("alpha", "beta"), counts, numbers):
        if left:
            raise ValueError(
                f"{name}: activation_{which} has {count} numbers, but of {', '.join(given)} only {count - len(left)} "
                "take one"
            )
    return tuple(tuple(made[d * len(default) : (d + 1) * len(default)]) for d in range(D))


@dataclass
class LayerSpec:
    """The arguments and the parameters of a layer."""

    cls: type
    input_size: int
    hidden_size: int
    options: dict
    params: dict  # by torch's names

    def layer(self):
        made = self.cls(self.input_size, self.hidden_size, **self.options)
        made.load_state_dict(self.params)
        return made


def specs(settings, W, R, B=None, P=None):
    """The Plans of the layers that compute a node: one, or two if its directions have different activations.

    Raises
    ------
    TypeError
        If the tensors have different dtypes.
    ValueError
        If the shapes of the tensors do not fit each other. The message names both shapes.
    """
    H = _check_tensors(settings, W, R, B, P)
    if len(set(settings.functions)) == 1:
        return [_spec(settings, slice(None), H, W, R, B, P)]
    return [_spec(settings, slice(d, d + 1), H, W, R, B, P) for d in range(len(settings.reverse))]


def _check_tensors(settings, W, R, B, P):
    """H, if the shapes and dtypes of these tensors fit each other."""
    name, blocks, D = settings.where, KINDS[settings.op_type].blocks, len(settings.reverse)
    if W.dtype not in (np.float32, np.float64):
        raise NotImplementedError(
            f"{name}: W is {W.dtype}, but fastrnn computes in float32 and float64: convert the model's tensors"
        )
    if W.ndim != 3 or R.ndim != 3:
        raise ValueError(
            f"{name}: W has shape {W.shape} and R {R.shape}, but they must be (D, {blocks}*H, I) and (D, {blocks}*H, H)"
        )
    H, I = R.shape[2], W.shape[2]
    if settings.hidden_size is not None and settings.hidden_size != H:
        raise ValueError(f"{name}: hidden_size is {settings.hidden_size}, but R has shape {R.shape}: {H} units")
    if H == 0:
        raise ValueError(f"{name}: R has shape {R.shape}, but there must be at least one unit")
    wanted = {
        "W": (W, (D, blocks * H, I)),
        "R": (R, (D, blocks * H, H)),
        "B": (B, (D, 2 * blocks * H)),
        "P": (P, (D, 3 * H)),
    }
    for label, (tensor, shape) in wanted.items():
        if tensor is None:
            continue
        if tensor.shape != shape:
            raise ValueError(
                f"{name}: {label} has shape {tensor.shape}, but {D} direction(s), {H} units and {I} features need "
                f"{shape}"
            )
        if tensor.dtype != W.dtype:
            raise TypeError(f"{name}: {label} is {tensor.dtype}, but W is {W.dtype}")
    return H


def _spec(settings, which, H, W, R, B, P):
    """The LayerSpec of the layer for one direction, or for both."""
    kind, reverse, functions = KINDS[settings.op_type], settings.reverse[which], settings.functions[which][0]
    options = {
        "clip": settings.clip,
        "bidirectional": len(reverse) == 2,
        "reverse": reverse == (True,),
        "bias": B is not None,
    }
    gates, P = kind.gates, P if P is not None and P[which].any() else None
    if settings.op_type == "RNN":
        options["nonlinearity"] = functions[0]
    else:
        options |= {"recurrent_activation": functions[0], "activation": functions[1]}
    if settings.op_type == "GRU":
        options["reset_after"] = settings.reset_after
    if settings.op_type == "LSTM":
        options |= {
            "output_activation": None if functions[2] == functions[1] else functions[2],
            "coupled": settings.coupled,
            "peephole": P is not None,
        }
        gates = COUPLED_GATES if settings.coupled else gates
    return LayerSpec(
        kind.layer, W.shape[2], H, options | {"dtype": W.dtype.name}, _params(settings, which, gates, H, W, R, B, P)
    )


def _params(settings, which, gates, H, W, R, B, P):
    """The parameters, by torch's names, of the directions `which`."""

    def ours(tensor, order):
        parts = tensor.reshape(-1, H, *tensor.shape[1:])
        return parts[list(order)].reshape(-1, *tensor.shape[1:])

    params, half = {}, W.shape[1]
    for d, suffix in zip(range(len(settings.reverse))[which], ("_l0", "_l0_reverse")):
        params["weight_ih" + suffix], params["weight_hh" + suffix] = ours(W[d], gates), ours(R[d], gates)
        if B is not None:
            params["bias_ih" + suffix], params["bias_hh" + suffix] = ours(B[d][:half], gates), ours(B[d][half:], gates)
        if P is not None:
            params["weight_peephole" + suffix] = ours(P[d], COUPLED_PEEPHOLES if settings.coupled else PEEPHOLES)
    return params

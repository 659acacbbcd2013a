"""Checks of arguments, with torch.nn's messages where torch.nn has them.

The modules check what they are given. A traced or exported program calls the operators without the modules, so the
operators check all of it again.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

DTYPES = {torch.float32: np.dtype("float32"), torch.float64: np.dtype("float64")}
_KINDS = ("tanh", "relu", "GRU", "LSTM")


def module_input(module, data, weight):
    """Check that a module can compute on this input."""
    kind = type(module).__name__.removeprefix("Parametrized")
    if not (data.is_cpu and weight.is_cpu):
        what, device = ("parameters are", weight.device) if data.is_cpu else ("input is", data.device)
        raise NotImplementedError(
            f"fastrnn.torch.{kind} computes on the CPU, but its {what} on {device}: move it, or use torch.nn.{kind}"
        )
    if torch.is_autocast_enabled("cpu"):
        raise NotImplementedError(
            f"fastrnn.torch.{kind} computes in float32 or float64, not under autocast: call it inside "
            "torch.autocast('cpu', enabled=False)"
        )
    dtypes(data, weight)
    features(data, module.input_size)


def dtypes(x, weight):
    """Check that the input has the dtype of the weights, and that the engine computes in it."""
    if x.dtype != weight.dtype:
        raise ValueError(
            f"RNN input dtype ({x.dtype}) does not match weight dtype ({weight.dtype}). "
            f"Convert input: input.to({weight.dtype}), or convert model: model.to({x.dtype})"
        )
    if x.dtype not in DTYPES:
        raise TypeError(
            f"fastrnn.torch computes in torch.float32 and torch.float64, but input and weights are {x.dtype}: "
            "use torch.nn's layer"
        )


def features(x, input_size):
    """Check the size of the last axis of the input."""
    if x.shape[-1] != input_size:
        raise RuntimeError(f"input.size(-1) must be equal to input_size. Expected {input_size}, got {x.shape[-1]}")


def states(state, shapes, x):
    """Check that the initial states, or their gradients, have these shapes and the input's dtype and device."""
    if len(state) != len(shapes):
        raise RuntimeError(
            f"{'lstm expects two hidden states' if len(shapes) == 2 else 'expected one hidden state'}, got {len(state)}"
        )
    dtype, device = x.dtype, x.device
    for k, (s, shape) in enumerate(zip(state, shapes)):
        if not isinstance(s, torch.Tensor):
            raise TypeError(f"a hidden state must be a Tensor, got {type(s).__name__}")
        if tuple(s.shape) != shape:
            if s.dim() != len(shape):
                raise RuntimeError(f"For this input, hx should be {len(shape)}-D but got {s.dim()}-D tensor")
            raise RuntimeError(
                f"Expected hidden{f'[{k}]' if len(shapes) == 2 else ''} size {shape}, got {list(s.shape)}"
            )
        same(f"hidden{f'[{k}]' if len(shapes) == 2 else ''}", s, dtype, device)


def strided(*tensors):
    """Check that the tensors are dense."""
    for t in tensors:
        if t.layout != torch.strided:
            raise RuntimeError(f"fastrnn.torch takes strided tensors only, got {t.layout}: convert with .to_dense()")


def same(name, tensor, dtype, device):
    """Check that a tensor has the input's dtype and device."""
    if tensor.dtype != dtype:
        raise RuntimeError(
            f"Input and {name} tensors are not the same dtype, found input tensor with {dtype} and {name} tensor with "
            f"{tensor.dtype}"
        )
    if tensor.device != device:
        raise RuntimeError(
            f"Input and {name} tensors are not at the same device, found input tensor at {device} and {name} tensor at "
            f"{tensor.device}"
        )


@lru_cache(maxsize=256)
def names_and_shapes(kind, input_size, hidden_size, num_layers, num_directions, proj_size, bias):
    """{name: shape} of the parameters, in torch's order."""
    rows, width = {"GRU": 3, "LSTM": 4}.get(kind, 1) * hidden_size, proj_size or hidden_size
    found = {}
    for layer in range(num_layers):
        for suffix in (f"_l{layer}", f"_l{layer}_reverse")[:num_directions]:
            found["weight_ih" + suffix] = (rows, input_size if layer == 0 else num_directions * width)
            found["weight_hh" + suffix] = (rows, width)
            if bias:
                found["bias_ih" + suffix] = found["bias_hh" + suffix] = (rows,)
            if proj_size:
                found["weight_hr" + suffix] = (proj_size, hidden_size)
    return found


def has_bias(count, num_layers, num_directions, proj_size):
    """Whether a network with `count` parameters has biases."""
    each, parts = 3 if proj_size else 2, num_layers * num_directions
    if count not in (each * parts, (each + 2) * parts):
        raise RuntimeError(
            f"expected {each * parts} parameters, or {(each + 2) * parts} with biases, for num_layers={num_layers} "
            f"in {num_directions} directions, got {count}"
        )
    return count == (each + 2) * parts


def parameters(params, wanted, dtype, device):
    """Check that the parameters have the shapes that the network needs, and one dtype and device."""
    for p, (name, shape) in zip(params, wanted.items(), strict=True):
        if tuple(p.shape) != shape:
            raise RuntimeError(f"{name} has shape {tuple(p.shape)}, but its network needs {shape}")
        same(name, p, dtype, device)


def packed_rows(sizes, rows):
    """Check that batch_sizes are those of a PackedSequence with this number of rows."""
    if sizes.dtype != torch.int64 or sizes.dim() != 1 or not sizes.is_cpu:
        raise RuntimeError(
            f"batch_sizes must be a 1-D int64 tensor on the CPU, got {sizes.dim()}-D {sizes.dtype} on {sizes.device}"
        )
    a = sizes.numpy()
    if not a.size:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    if a[-1] < 0 or a[0] > rows or (a[1:] > a[:-1]).any():
        raise RuntimeError(
            f"batch_sizes must not be negative or increase from step to step, got {a[:10].tolist()} for {rows} rows"
        )
    if a.sum() != rows:
        raise RuntimeError(f"batch_sizes add up to {a.sum()}, but the packed input has {rows} rows")


def operator_rows(x, batch_sizes, state, kind, hidden_size, num_layers, bidirectional, proj_size):
    """Check the values of batch_sizes, which only a call with real tensors has, against the input and the states."""
    if batch_sizes is not None:
        packed_rows(batch_sizes, x.shape[0])
        states(state, state_shapes(kind, hidden_size, num_layers, bidirectional, proj_size, int(batch_sizes[0])), x)


def settings(kind, hidden_size, num_layers, proj_size, dropout, key):
    """Check the sizes and options that an operator was given."""
    if kind not in _KINDS:
        raise ValueError(f"kind is {kind!r}, but it must be one of {', '.join(_KINDS)}")
    if hidden_size < 1 or num_layers < 1:
        raise ValueError(f"hidden_size and num_layers must be greater than zero, got {hidden_size} and {num_layers}")
    if proj_size and kind != "LSTM" or not 0 <= proj_size < hidden_size:
        raise ValueError(
            "proj_size is for the LSTM only and must be less than hidden_size, "
            f"got proj_size={proj_size} for a {kind} with hidden_size={hidden_size}"
        )
    if not 0 <= dropout <= 1:
        raise ValueError(f"dropout should be a number in range [0, 1], got {dropout}")
    if dropout and key is None:
        raise RuntimeError(f"dropout is {dropout}, but there is no key: it must be an int64 tensor of shape (1,)")
    if key is not None and (key.dtype != torch.int64 or key.dim() != 1 or key.shape[0] != 1):
        raise RuntimeError(
            f"the key of dropout must be an int64 tensor of shape (1,), got {key.dtype} {list(key.shape)}"
        )


def operator(x, batch_sizes, state, params, kind, hidden_size, num_layers, bidirectional, proj_size, dropout, key):
    """Check everything that an operator was given except the values of batch_sizes.

    Only shapes, dtypes and devices are read, and sizes may be symbols.
    """
    settings(kind, hidden_size, num_layers, proj_size, dropout, key)
    strided(x, *state, *params)
    axes = 3 if batch_sizes is None else 2
    if x.dim() != axes:
        raise RuntimeError(f"input must have {axes} dimensions, got {x.dim()}")
    num_directions = 2 if bidirectional else 1
    bias = has_bias(len(params), num_layers, num_directions, proj_size)
    if params[0].dim() != 2:
        raise RuntimeError(f"weight_ih_l0 must have 2 dimensions, got {params[0].dim()}")
    dtypes(x, params[0])
    features(x, params[0].shape[1])
    if x.shape[0] == 0 and batch_sizes is None:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    wanted = names_and_shapes.__wrapped__(
        kind, params[0].shape[1], hidden_size, num_layers, num_directions, proj_size, bias
    )
    parameters(params, wanted, x.dtype, x.device)
    if len(state) != (2 if kind == "LSTM" else 1) or any(s.dim() != 3 for s in state):
        raise RuntimeError(
            f"a {kind} needs {2 if kind == 'LSTM' else 1} hidden states of 3 dimensions, got {[s.dim() for s in state]}"
        )
    B = x.shape[1] if batch_sizes is None else state[0].shape[1]  # for packed rows it is a value in batch_sizes
    states(state, state_shapes(kind, hidden_size, num_layers, bidirectional, proj_size, B), x)
    if batch_sizes is not None and batch_sizes.device != x.device:
        raise RuntimeError(f"batch_sizes must be at the input's device {x.device}, got {batch_sizes.device}")


def state_shapes(kind, hidden_size, num_layers, bidirectional, proj_size, B):
    """(L*D, B, P) of h and, for the LSTM, (L*D, B, H) of c."""
    rows = num_layers * (2 if bidirectional else 1)
    return [(rows, B, width) for width in (proj_size or hidden_size, hidden_size)[: 2 if kind == "LSTM" else 1]]


def gradients(dy, dstate, x, features, state):
    """Check that the gradients of the outputs have the shapes of y and of the states."""
    shape = (*x.shape[:-1], features)
    if tuple(dy.shape) != shape:
        raise RuntimeError(f"the gradient of the output has shape {tuple(dy.shape)}, but the output had {shape}")
    same("gradient", dy, x.dtype, x.device)
    states(dstate, [tuple(s.shape) for s in state], x)


def tape(tensor, size):
    """Check that the tape has the size that this call needs, or is empty."""
    if tensor.dim() != 1 or tensor.shape[0] not in (0, size):
        raise RuntimeError(f"the tape has shape {tuple(tensor.shape)}, but this call needs ({size},)")


def operator_gradients(x, tape, dy, dstate):
    """Check the arguments that only the operator of the gradients has."""
    strided(tape, dy, *dstate)
    if tape.dim() != 1:
        raise RuntimeError(f"the tape must have one dimension, got {tape.dim()}")
    same("tape", tape, x.dtype, x.device)

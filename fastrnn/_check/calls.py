"""Checks of the arguments of layers and losses: inputs, states, lengths, contexts, gradients, targets."""

from __future__ import annotations

import numpy as np

from fastrnn import _engine
from fastrnn._check.arrays import array, as_array, contiguous, copied_ids, integers, unmasked, within
from fastrnn._check.values import described


def x(layer, value):
    """Check x of a recurrent layer; returns it time-major, (T, B, I), and whether it had no batch axis."""
    value = array("x", value, layer)
    if value.ndim not in (2, 3):
        axes = "(B, T, I)" if layer.batch_first else "(T, B, I)"
        raise ValueError(f"x must be {axes}, or (T, I) for one sequence, got shape {value.shape}")
    if value.shape[-1] != layer.input_size:
        hint = ""
        if value.ndim == 3 and layer.input_size in value.shape[:2]:
            hint = f"; x must be {'(B, T, I)' if layer.batch_first else '(T, B, I)'}, got shape {value.shape}"
        raise ValueError(
            f"x has {value.shape[-1]} features, but this {layer.kind} was made with input_size={layer.input_size}{hint}"
        )
    unbatched = value.ndim == 2
    if unbatched:
        return value[:, None, :], True
    return (value.transpose(1, 0, 2) if layer.batch_first else value), False


def ids(layer, value, embedding):
    """Check ids for an embedding; returns them time-major, (T, B), and whether they had no batch axis."""
    if "weight" not in getattr(embedding, "params", ()):
        raise TypeError(f"embedding is {type(embedding).__name__}, but it must be a fastrnn.Embedding")
    unmasked("x", value)
    value = as_array(value)
    weight = embedding.params["weight"]
    if value.dtype.kind not in "iu":
        raise TypeError(f"x is {value.dtype}, but with embedding= it must hold integer ids")
    if weight.dtype != layer.dtype:
        raise TypeError(f"the embedding is {weight.dtype}, but this {layer.kind} computes in {layer.dtype}")
    if weight.shape[1] != layer.input_size:
        raise ValueError(
            f"the embedding has {weight.shape[1]} features, but this {layer.kind} was made with "
            f"input_size={layer.input_size}"
        )
    if value.ndim not in (1, 2):
        raise ValueError(
            f"ids must be {'(B, T)' if layer.batch_first else '(T, B)'}, or (T,) for one sequence, "
            f"got shape {value.shape}"
        )
    if value.size and (value.min() < 0 or value.max() >= weight.shape[0]):
        raise ValueError(
            f"ids go from {value.min()} to {value.max()}, but the embedding has rows 0 to {weight.shape[0] - 1}"
        )
    within(value, 0, weight.shape[0] - 1)
    unbatched = value.ndim == 1
    if unbatched:
        return value[:, None], True
    return (value.T if layer.batch_first else value), False


def symbols(layer, ids):
    """Check ids of an Embedding, of any shape; returns them as C-contiguous int64."""
    ids = integers("ids", ids)
    if ids.size and (ids.min() < 0 or ids.max() >= layer.num_embeddings):
        raise ValueError(
            f"ids go from {ids.min()} to {ids.max()}, but this Embedding has rows 0 to {layer.num_embeddings - 1}"
        )
    within(ids, 0, layer.num_embeddings - 1)
    return ids


def features(layer, x):
    """Check x of a Linear; returns (..., in_features), C-contiguous, copied only if necessary."""
    x = array("x", x, layer)
    if x.ndim == 0 or x.shape[-1] != layer.in_features:
        got = f"{x.shape[-1]} features" if x.ndim else "no axis"
        raise ValueError(f"x has {got}, but this {layer.kind} was made with in_features={layer.in_features}")
    return contiguous(x)


def state(layer, name, value, B, unbatched):
    """Check a state; returns None or a tuple of arrays (L*D, B, H): one for GRU and RNN, two for LSTM."""
    if value is None:
        return None
    names = layer.cell.states
    if name != "state":
        names = tuple(n.replace("_0", "_n") for n in names)
    if layer.cell.has_c:
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            raise ValueError(f"{name} of an LSTM is a pair ({names[0]}, {names[1]}), got {described(value)}")
        arrays = tuple(value)
    else:
        if isinstance(value, (tuple, list)):
            raise ValueError(f"{name} of a {layer.kind} is one array {names[0]}, got {described(value)}")
        arrays = (value,)
    rows = layer.num_layers * layer.num_directions
    checked = []
    for n, a, size in zip(names, arrays, layer.state_sizes):
        a = array(n, a, layer)
        want = (rows, size) if unbatched else (rows, B, size)
        if a.shape != want:
            last = "H" if size == layer.hidden_size else "proj_size"
            axes = f"(num_layers*D, {last})" if unbatched else f"(num_layers*D, B, {last})"
            raise ValueError(f"{n} of {name} has shape {a.shape}, but this {layer.kind} needs {axes} = {want}")
        checked.append(a[:, None, :] if unbatched else a)
    return tuple(checked)


def lengths(value, T, B, unbatched):
    """Check lengths; returns None or (B,) int64 from 0 to T."""
    if value is None:
        return None
    value = as_array(value)
    if unbatched and value.ndim == 0:
        value = value[None]
    if value.dtype.kind not in "iu" and value.size:
        raise TypeError(f"lengths are {value.dtype}, but they must be whole numbers")
    if value.shape != (B,):
        raise ValueError(f"lengths have shape {value.shape}, but x has B={B} sequences: pass ({B},)")
    if value.size and (value.min() < 0 or value.max() > T):
        wrong = value[(value < 0) | (value > T)][0]
        raise ValueError(f"lengths must be from 0 to T={T}, got {wrong}")
    within(value, 0, T)
    return copied_ids(value)


def resets(layer, value, T, B, unbatched):
    """Check resets; returns None or (T, B) bool, time-major."""
    if value is None:
        return None
    if layer.learn_initial_state:
        raise ValueError(
            f"resets set the state to zero, but this {layer.kind} has learn_initial_state=True: "
            "pass each episode as a separate sequence"
        )
    return steps(layer, "resets", value, T, B, unbatched)


def steps(layer, name, value, T, B, unbatched):
    """Check one bool for each step; returns None or (T, B), time-major."""
    if value is None:
        return None
    value = as_array(value)
    if value.dtype != np.bool_:
        raise TypeError(f"{name} must be bool, got {value.dtype}: convert with {name}.astype(bool)")
    want = (T,) if unbatched else (B, T) if layer.batch_first else (T, B)
    if value.shape != want:
        raise ValueError(f"{name} must have x's leading axes {want}, got shape {value.shape}")
    return value[:, None] if unbatched else value.T if layer.batch_first else value


def context(layer, value, B, unbatched):
    """Check a context; returns (B, C), or None for a network without context."""
    if value is None:
        if layer.context_size:
            raise ValueError(
                f"this {layer.kind} was made with context_size={layer.context_size}, but no context was given: "
                f"pass context= of shape (B, {layer.context_size})"
            )
        return None
    if not layer.context_size:
        raise ValueError(
            f"a context was given, but this {layer.kind} has context_size=0: leave it out, or construct the layer with "
            "context_size="
        )
    value = array("context", value, layer)
    want = (layer.context_size,) if unbatched else (B, layer.context_size)
    if value.shape != want:
        raise ValueError(
            f"context has shape {value.shape}, but it must be {want}: B={B}, context_size={layer.context_size}"
        )
    return contiguous(value[None] if unbatched else value)


def dy(layer, value, shape):
    """Check the gradient of y, which has the shape of y."""
    if value is None:
        return None
    value = array("dy", value, layer)
    if value.shape != shape:
        axes = ("B", "T", "D*H") if layer.batch_first else ("T", "B", "D*H")
        if value.ndim == len(shape) == 3:
            name, got, had = next((n, g, h) for n, g, h in zip(axes, value.shape, shape) if g != h)
            raise ValueError(f"dy has {name}={got}, but the forward pass it belongs to had {name}={had}")
        raise ValueError(f"dy has shape {value.shape}, but the forward pass it belongs to gave y of shape {shape}")
    return value


def slot(name, value, shape, storage):
    """Check the Slot of another layer's parameter: its shape, and that both layers share a storage."""
    if not hasattr(value, "offset"):
        raise TypeError(
            f"{name} is {type(value).__name__}, but it must be the Slot of another layer's parameter: "
            "emb.slots['weight']"
        )
    if storage is None:
        raise ValueError(f"{name} is another layer's parameter, but storage is None: pass the storage of that layer")
    if value.shape != shape:
        raise ValueError(f"{name} is a parameter of shape {value.shape}, but this layer needs {shape}")
    return value


def same_version(layer, version):
    """Check that the parameters have not changed since the forward pass."""
    if layer.version != version:
        raise RuntimeError(
            f"the parameters of this {layer.kind} have changed since the forward pass (version {version}, now "
            f"{layer.version}): call vjp again"
        )


def same_versions(layer, embedding, versions):
    """Check that neither the parameters of a layer nor those of its embedding have changed since the forward pass."""
    same_version(layer, versions[0])
    if embedding is not None:
        same_version(embedding, versions[1])


def valid_steps(value, steps_shape, name):
    """Check lengths; returns None or (T, B) bool, True at valid steps. steps_shape : shape of one value per step."""
    if value is None:
        return None
    if len(steps_shape) != 2:
        raise ValueError(f"lengths require {name} with 3 axes (T, B, n), got {len(steps_shape) + 1}")
    T, B = steps_shape
    value = integers("lengths", value)
    if value.shape != (B,):
        raise ValueError(f"lengths have shape {value.shape}, but {name} has B={B} sequences: pass ({B},)")
    if B and (value.min() < 0 or value.max() > T):
        raise ValueError(f"lengths must be from 0 to T={T}, got {value[(value < 0) | (value > T)][0]}")
    within(value, 0, T)
    valid = _engine.empty((T, B), bool)
    _engine.call(np.less, np.arange(T)[:, None], value, valid)
    return valid


def targets(value, steps_shape, num_classes):
    """Check one class for each step, below num_classes or negative; returns C-contiguous int64."""
    value = integers("targets", value)
    if value.shape != steps_shape:
        raise ValueError(
            f"targets have shape {value.shape}, but the logits have shape {(*steps_shape, num_classes)}: "
            f"targets must have shape {steps_shape}"
        )
    if value.size and value.max() >= num_classes:
        raise ValueError(
            f"targets go up to {value.max()}, but the logits have {num_classes} classes, 0 to {num_classes - 1}"
        )
    within(value, np.iinfo(np.int64).min, num_classes - 1)
    return value


def weights(value, shape):
    """Check weights, finite and >= 0; returns them as float64."""
    if not isinstance(value, np.ndarray) or value.dtype != np.float64:
        if _engine.recording() is not None:
            raise _engine.NotRecordable("weights that are not a float64 array")
        value = np.asarray(value, np.float64)
    if value.shape != shape:
        raise ValueError(f"weights have shape {value.shape}, but the targets have shape {shape}")
    _engine.check_weights(value.reshape(1, -1) if value.ndim == 1 else value)
    return value

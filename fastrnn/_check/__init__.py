"""Every argument check and every error message. Checks run before any work and say both numbers and what to do."""

from __future__ import annotations

import numbers
import sys

import numpy as np


def size(name, value, least=1, most=sys.maxsize):
    """A whole number of at least `least` and at most `most`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} is {value!r}, but it must be a whole number")
    if value < least:
        raise ValueError(f"{name} is {value}, but it must be at least {least}")
    if most is not None and value > most:
        raise ValueError(f"{name} is {value}, but it must be at most {most}")
    return int(value)


def seed(value):
    """A seed: a whole number of any size from 0 on, or None."""
    return None if value is None else size("seed", value, least=0, most=None)


def probability(name, value):
    """A number p with 0 <= p < 1."""
    if not isinstance(value, numbers.Real) or not 0 <= value < 1:
        raise ValueError(f"{name} is {value!r}, but it must be a number from 0 up to, but not including, 1")
    return float(value)


def choice(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, but it must be one of {', '.join(map(repr, choices))}")
    return value


def dtype(value):
    try:
        found = np.dtype(value if value is not None else object)
    except TypeError:
        found = np.dtype(object)
    if found.name not in ("float32", "float64") or not found.isnative:
        raise TypeError(f"dtype is {value!r}, but fastrnn computes in 'float32' or 'float64'")
    return found


def unmasked(name, value):
    """Refuse a masked array in which anything is masked: its mask would be lost."""
    if type(value) is not np.ndarray and isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(
            f"{name} is a masked array, in which {np.ma.count_masked(value)} of {value.size} values are masked: fill them with "
            f"{name}.filled(…), or leave their steps out"
        )


def array(name, value, of):
    """An array of the network's dtype, copied only if it is not aligned; `of` is the layer that asks."""
    unmasked(name, value)
    value = np.asarray(value)
    if value.dtype != of.dtype:
        raise TypeError(
            f"{name} is {value.dtype}, but this {of.kind} computes in {of.dtype}: convert with {name}.astype('{of.dtype}')"
        )
    return value if value.flags.aligned else value.copy()


def x(layer, value):
    """x of a recurrent layer, time-major (T, B, I), and whether it came unbatched."""
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
    """Integer ids for an embedding, time-major (T, B), and whether they came unbatched."""
    if "weight" not in getattr(embedding, "params", ()):
        raise TypeError(f"embedding is {type(embedding).__name__}, but it must be a fastrnn.Embedding")
    unmasked("x", value)
    value = np.asarray(value)
    weight = embedding.params["weight"]
    if value.dtype.kind not in "iu":
        raise TypeError(f"x is {value.dtype}, but with embedding= it must hold integer ids")
    if weight.dtype != layer.dtype:
        raise TypeError(f"the embedding is {weight.dtype}, but this {layer.kind} computes in {layer.dtype}")
    if weight.shape[1] != layer.input_size:
        raise ValueError(
            f"the embedding has {weight.shape[1]} features, but this {layer.kind} was made with input_size={layer.input_size}"
        )
    if value.ndim not in (1, 2):
        raise ValueError(
            f"ids must be {'(B, T)' if layer.batch_first else '(T, B)'}, or (T,) for one sequence, got shape {value.shape}"
        )
    if value.size and (value.min() < 0 or value.max() >= weight.shape[0]):
        raise ValueError(
            f"ids go from {value.min()} to {value.max()}, but the embedding has rows 0 to {weight.shape[0] - 1}"
        )
    unbatched = value.ndim == 1
    if unbatched:
        return value[:, None], True
    return (value.T if layer.batch_first else value), False


def state(layer, name, value, B, unbatched):
    """A state as a tuple of arrays (L*D, B, H): one for GRU and vanilla RNN, two for LSTM. None stays None."""
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


def described(value):
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} of {len(value)}"
    return f"array of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


def lengths(value, T, B, unbatched):
    """(B,) ints 0..T as int64, or None if all are T."""
    if value is None:
        return None
    value = np.asarray(value)
    if unbatched and value.ndim == 0:
        value = value[None]
    if value.dtype.kind not in "iu" and value.size:
        raise TypeError(f"lengths are {value.dtype}, but they must be whole numbers")
    if value.shape != (B,):
        raise ValueError(f"lengths have shape {value.shape}, but x has B={B} sequences: give ({B},)")
    if value.size and (value.min() < 0 or value.max() > T):
        wrong = value[(value < 0) | (value > T)][0]
        raise ValueError(f"lengths must be from 0 to T={T}, got {wrong}")
    return value.astype(np.int64)


def resets(layer, value, T, B, unbatched):
    """(T, B) bool, time-major, or None."""
    if value is None:
        return None
    if layer.learn_initial_state:
        raise ValueError(
            f"resets make a state zero, but this {layer.kind} has learn_initial_state=True: give each episode its own row"
        )
    return steps(layer, "resets", value, T, B, unbatched)


def steps(layer, name, value, T, B, unbatched):
    """A bool for each step, (T, B) time-major, or None."""
    if value is None:
        return None
    value = np.asarray(value)
    if value.dtype != np.bool_:
        raise TypeError(f"{name} must be bool, got {value.dtype}: convert with {name}.astype(bool)")
    want = (T,) if unbatched else (B, T) if layer.batch_first else (T, B)
    if value.shape != want:
        raise ValueError(f"{name} must have x's leading axes {want}, got shape {value.shape}")
    return value[:, None] if unbatched else value.T if layer.batch_first else value


def context(layer, value, B, unbatched):
    """(B, C), or None for a network without context."""
    if value is None:
        if layer.context_size:
            raise ValueError(
                f"this {layer.kind} was made with context_size={layer.context_size}, but no context was given"
            )
        return None
    if not layer.context_size:
        raise ValueError(f"a context was given, but this {layer.kind} was made without: make it with context_size=")
    value = array("context", value, layer)
    want = (layer.context_size,) if unbatched else (B, layer.context_size)
    if value.shape != want:
        raise ValueError(
            f"context has shape {value.shape}, but it must be {want}: B={B}, context_size={layer.context_size}"
        )
    return np.ascontiguousarray(value[None] if unbatched else value)


def dy(layer, value, shape):
    """The gradient of y, of y's own shape."""
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


def writable_like(name, value, shape, dtype):
    """An output array given by the caller, C-contiguous and writable."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} is {type(value).__name__}, but it must be a {dtype} array of shape {shape}")
    if value.shape != shape or value.dtype != dtype:
        raise ValueError(f"{name} is {value.dtype} of shape {value.shape}, but it must be {dtype} of shape {shape}")
    if not value.flags.c_contiguous or not value.flags.writeable:
        raise ValueError(f"{name} must be C-contiguous and writable")
    return value


def apart(value, out, *, same=False):
    """`value`, or a copy of it if writing to `out` would change it; same: `out` may be the very same memory."""
    if (
        not isinstance(out, np.ndarray)
        or not np.may_share_memory(value, out)
        or (same and value.ctypes.data == out.ctypes.data)
    ):
        return value
    return value.copy()


# --- layers, losses, models ---


def number(name, value, *, least=None, above=None, most=None, below=None):
    """A finite real number in a range, as float."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {value!r}, but it must be a number")
    bounds = [
        (f">= {least}", least is None or value >= least),
        (f"> {above}", above is None or value > above),
        (f"<= {most}", most is None or value <= most),
        (f"< {below}", below is None or value < below),
        ("finite", np.isfinite(value)),
    ]
    wrong = [bound for bound, holds in bounds if not holds]
    if wrong:
        raise ValueError(f"{name} is {value}, but it must be {wrong[0]}")
    return float(value)


def rng_key(key):
    """A key of random numbers: an int in 0..2**64-1."""
    if isinstance(key, bool) or not isinstance(key, numbers.Integral):
        raise TypeError(f"rng is {key!r}, but it must be an int")
    if not 0 <= key < 1 << 64:
        raise ValueError(f"rng is {key}, but it must be from 0 to 2**64-1")
    return int(key)


def integers(name, values):
    """Integers of any shape, as C-contiguous int64."""
    unmasked(name, values)
    values = np.asarray(values)
    if values.dtype.kind not in "iu" and values.size:
        raise TypeError(f"{name} are {values.dtype}, but they must be whole numbers")
    if values.dtype == np.uint64 and values.size and values.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name} go up to {values.max()}, but they must fit into 64-bit signed integers")
    return np.asarray(values, np.int64, order="C")


def symbols(layer, ids):
    """Ids of an Embedding, of any shape, as C-contiguous int64."""
    ids = integers("ids", ids)
    if ids.size and (ids.min() < 0 or ids.max() >= layer.num_embeddings):
        raise ValueError(
            f"ids go from {ids.min()} to {ids.max()}, but this Embedding has rows 0 to {layer.num_embeddings - 1}"
        )
    return ids


def slot(name, value, shape, storage):
    """The Slot of another layer's parameter, of a given shape, in the storage that both layers share."""
    if not hasattr(value, "offset"):
        raise TypeError(
            f"{name} is {type(value).__name__}, but it must be the Slot of another layer's parameter: emb.slots['weight']"
        )
    if storage is None:
        raise ValueError(f"{name} is tied to another layer's parameter: give the Storage that both lie in, storage=")
    if value.shape != shape:
        raise ValueError(f"{name} is tied to a parameter of shape {value.shape}, but this layer needs {shape}")
    return value


def features(layer, x):
    """(..., in_features), C-contiguous (copied only if it was not)."""
    x = array("x", x, layer)
    if x.ndim == 0 or x.shape[-1] != layer.in_features:
        got = f"{x.shape[-1]} features" if x.ndim else "no axis"
        raise ValueError(f"x has {got}, but this {layer.kind} was made with in_features={layer.in_features}")
    return np.ascontiguousarray(x)


def real_rows(name, values):
    """(T, B, n) or (rows, n), float32 or float64, C-contiguous (copied only if it was not)."""
    unmasked(name, values)
    values = np.asarray(values)
    if values.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} is {values.dtype}, but it must be float32 or float64")
    if values.ndim not in (2, 3):
        raise ValueError(f"{name} must be (T, B, n) or (rows, n), got shape {values.shape}")
    return np.ascontiguousarray(values)


def like_output(layer, dy, shape, dtype):
    """dy of the shape and dtype that the forward pass gave, C-contiguous (copied only if it was not)."""
    dy = np.asarray(dy)
    if dy.dtype != dtype:
        raise TypeError(f"dy is {dy.dtype}, but this {layer.kind} gave {dtype}: convert with dy.astype('{dtype}')")
    if dy.shape != shape:
        raise ValueError(f"dy has shape {dy.shape}, but the forward pass it belongs to gave {shape}")
    return np.ascontiguousarray(dy)


def like(name, value, other_name, other):
    """Of the shape and dtype of another array, C-contiguous (copied only if it was not)."""
    value = np.asarray(value)
    if value.dtype != other.dtype:
        raise TypeError(
            f"{name} is {value.dtype}, but {other_name} is {other.dtype}: convert with {name}.astype('{other.dtype}')"
        )
    if value.shape != other.shape:
        raise ValueError(f"{name} has shape {value.shape}, but {other_name} has {other.shape}")
    return np.ascontiguousarray(value)


def same_version(layer, version):
    """The parameters are those of the forward pass."""
    if layer.version != version:
        raise RuntimeError(
            f"the parameters of this {layer.kind} were changed after the forward pass that this backward belongs to: "
            f"version {layer.version}, then {version}"
        )


def same_versions(layer, embedding, versions):
    """The parameters of a layer, and of the embedding before it if there is one, are those of the forward pass."""
    same_version(layer, versions[0])
    if embedding is not None:
        same_version(embedding, versions[1])


def valid_steps(value, steps_shape, name):
    """(T, B) bool: which steps lie below their row's length; None if all do. `steps_shape` is that of one number per step."""
    if value is None:
        return None
    if len(steps_shape) != 2:
        raise ValueError(f"lengths are for {name} of 3 axes (T, B, n), got {len(steps_shape) + 1}")
    T, B = steps_shape
    value = integers("lengths", value)
    if value.shape != (B,):
        raise ValueError(f"lengths have shape {value.shape}, but {name} has B={B} sequences: give ({B},)")
    if B and (value.min() < 0 or value.max() > T):
        raise ValueError(f"lengths must be from 0 to T={T}, got {value[(value < 0) | (value > T)][0]}")
    return np.arange(T)[:, None] < value


def targets(value, steps_shape, num_classes):
    """One class for each step, below num_classes; a negative one is ignored. C-contiguous int64."""
    value = integers("targets", value)
    if value.shape != steps_shape:
        raise ValueError(
            f"targets have shape {value.shape}, but logits has {steps_shape} steps of {num_classes} classes"
        )
    if value.size and value.max() >= num_classes:
        raise ValueError(
            f"targets go up to {value.max()}, but logits has {num_classes} classes: 0 to {num_classes - 1}"
        )
    return value


def weights(value, shape):
    """Numbers >= 0, float64."""
    value = np.asarray(value, np.float64)
    if value.shape != shape:
        raise ValueError(f"weights have shape {value.shape}, but there are targets of shape {shape}")
    if not (value >= 0).all() or not np.isfinite(value).all():
        raise ValueError(
            f"weights must be finite and not negative, got {value[~(value >= 0) | ~np.isfinite(value)][0]}"
        )
    return value


def gradient(grad, write=False):
    """A gradient of any shape, float32 or float64 and contiguous, as a 1-D view."""
    if not isinstance(grad, np.ndarray) or grad.dtype not in (np.float32, np.float64):
        got = grad.dtype if isinstance(grad, np.ndarray) else type(grad).__name__
        raise TypeError(f"grad is {got}, but it must be a float32 or float64 array")
    if not grad.flags.c_contiguous or not grad.flags.aligned or (write and not grad.flags.writeable):
        raise ValueError(
            f"grad must be C-contiguous{' and writable' if write else ''}, got shape {grad.shape} and strides {grad.strides}"
        )
    return grad.reshape(-1)


def flat_gradient(grad, flat, owner):
    """A gradient laid out like the parameters of an optimiser."""
    if (
        not isinstance(grad, np.ndarray)
        or grad.dtype != flat.dtype
        or grad.shape != flat.shape
        or not grad.flags.c_contiguous
    ):
        got = f"{grad.dtype} of shape {grad.shape}" if isinstance(grad, np.ndarray) else type(grad).__name__
        raise ValueError(
            f"grad is {got}, but the parameters of this {owner} are {flat.dtype} of shape {flat.shape}, contiguous"
        )
    return grad

"""Checks of arrays: dtype, shape, layout."""

from __future__ import annotations

import numpy as np

from fastrnn import _engine

KEPT_ARRAY = (
    "this array belongs to a plan, whose later runs write to it: a planned function must not keep arrays that its "
    "layers made, in a list or a cache for instance, but return them"
)


def unmasked(name, value):
    """Refuse a masked array with masked values: np.asarray would lose the mask."""
    if type(value) is not np.ndarray and isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(
            f"{name} is a masked array, and {np.ma.count_masked(value)} of its {value.size} values are masked: "
            f"fill them with {name}.filled(…), or remove their steps"
        )


def as_array(value):
    """As np.asarray; an array that is being recorded stays one, and an array that was recorded cannot be used."""
    if type(value) is np.ndarray:
        return value
    if not getattr(value, "belongs_to_plan", False):
        return np.asarray(value)
    if _engine.recording() is None:
        raise RuntimeError(KEPT_ARRAY)
    return value


def array(name, value, of):
    """Check that the dtype is that of the layer `of`; returns an aligned array, copied only if necessary."""
    unmasked(name, value)
    value = as_array(value)
    if value.dtype != of.dtype:
        raise TypeError(
            f"{name} is {value.dtype}, but this {of.kind} computes in {of.dtype}: "
            f"convert with {name}.astype('{of.dtype}')"
        )
    return value if value.flags.aligned else value.copy()


def integers(name, values):
    """Check integers of any shape; returns them as C-contiguous int64."""
    unmasked(name, values)
    values = as_array(values)
    if values.dtype.kind not in "iu" and values.size:
        raise TypeError(f"{name} are {values.dtype}, but they must be whole numbers")
    if values.dtype == np.uint64 and values.size and values.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name} go up to {values.max()}, but they must fit into 64-bit signed integers")
    return contiguous(values, np.int64) if values.ndim else np.asarray(values, np.int64)


def contiguous(array, dtype=None):
    """The array, C-contiguous and of the dtype: a copy only if necessary, which a plan cannot repeat."""
    if isinstance(array, np.ndarray) and array.ndim and array.flags.c_contiguous and dtype in (None, array.dtype):
        return array
    found = np.ascontiguousarray(array, dtype)
    if found is not array and _engine.recording() is not None:
        raise _engine.NotRecordable("an array that is not contiguous, or of another dtype")
    return found


def within(ids, least, most):
    """Let a plan that is recorded check in each run that ids, which are now, are from `least` to `most`."""
    if _engine.recording() is not None:
        if ids.dtype != np.int64 or not ids.flags.c_contiguous:
            raise _engine.NotRecordable("whole numbers that are not a contiguous int64 array")
        _engine.check_within(ids, least, most)


def copied_ids(ids):
    """A copy of whole numbers, C-contiguous int64."""
    ids = contiguous(ids, np.int64)
    out = _engine.empty(ids.shape, np.int64)
    _engine.copy_ids(ids.reshape(-1), out.reshape(-1))
    return out


def real_rows(name, values):
    """Check (T, B, n) or (rows, n), float32 or float64; returns it C-contiguous, copied only if necessary."""
    unmasked(name, values)
    values = as_array(values)
    if values.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} is {values.dtype}, but it must be float32 or float64")
    if values.ndim not in (2, 3):
        raise ValueError(f"{name} must be (T, B, n) or (rows, n), got shape {values.shape}")
    return contiguous(values)


def like(name, value, other_name, other):
    """Check shape and dtype against another array; returns it C-contiguous, copied only if necessary."""
    value = as_array(value)
    if value.dtype != other.dtype:
        raise TypeError(
            f"{name} is {value.dtype}, but {other_name} is {other.dtype}: convert with {name}.astype('{other.dtype}')"
        )
    if value.shape != other.shape:
        raise ValueError(f"{name} has shape {value.shape}, but {other_name} has {other.shape}")
    return contiguous(value)


def like_output(layer, dy, shape, dtype):
    """Check dy against the output of the forward pass; returns it C-contiguous, copied only if necessary."""
    dy = as_array(dy)
    if dy.dtype != dtype:
        raise TypeError(f"dy is {dy.dtype}, but this {layer.kind} gave {dtype}: convert with dy.astype('{dtype}')")
    if dy.shape != shape:
        raise ValueError(f"dy has shape {dy.shape}, but the forward pass it belongs to gave {shape}")
    return contiguous(dy)


def writable_like(name, value, shape, dtype):
    """Check an array to write results to: shape, dtype, C-contiguous and writable."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} is {type(value).__name__}, but it must be a {dtype} array of shape {shape}")
    if value.shape != shape or value.dtype != dtype:
        raise ValueError(f"{name} is {value.dtype} of shape {value.shape}, but it must be {dtype} of shape {shape}")
    if not value.flags.c_contiguous or not value.flags.writeable:
        raise ValueError(f"{name} must be C-contiguous and writable")
    return value


def apart(value, out, *, same=False):
    """Copy `value` if writing to `out` would change it. same : `out` may be the same memory from the first byte on."""
    if (
        not isinstance(out, np.ndarray)
        or not np.may_share_memory(value, out)
        or (same and value.ctypes.data == out.ctypes.data)
    ):
        return value
    if _engine.recording() is not None:
        raise _engine.NotRecordable("an input that overlaps the output")
    return value.copy()


def gradient(grad, write=False):
    """Check a gradient of any shape, float32 or float64 and C-contiguous; returns a 1-D view."""
    if not isinstance(grad, np.ndarray) or grad.dtype not in (np.float32, np.float64):
        got = grad.dtype if isinstance(grad, np.ndarray) else type(grad).__name__
        raise TypeError(f"grad is {got}, but it must be a float32 or float64 array")
    if not grad.flags.c_contiguous or not grad.flags.aligned or (write and not grad.flags.writeable):
        raise ValueError(
            f"grad must be C-contiguous{' and writable' if write else ''}, got shape {grad.shape} and strides "
            f"{grad.strides}"
        )
    return grad.reshape(-1)


def flat_gradient(grad, flat, owner):
    """Check a gradient with the layout of an optimiser's parameters."""
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

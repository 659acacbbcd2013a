"""Packed weights, shared by calls until the parameters change.

Torch counts most writes to a tensor. The others are detected by comparing values of the parameters.
"""

from __future__ import annotations

import weakref

import numpy as np
import torch

from fastrnn import _engine
from fastrnn._core import packing
from fastrnn._core.short_calls import ShortCalls
from fastrnn.torch import _checks

_MOST_COMPARED = 4096  # a parameter of at most so many elements is compared whole in every call
_SAMPLE = 128  # about so many elements of a larger one are compared
_TORCH_DTYPES = {ours: theirs for theirs, ours in _checks.DTYPES.items()}


def array(tensor: torch.Tensor) -> np.ndarray:
    """The tensor as an array that shares its memory."""
    tensor = tensor.detach() if tensor.requires_grad else tensor
    return (tensor.resolve_neg() if tensor.is_neg() else tensor).numpy()


class _Sample:
    """Elements of a parameter and a copy of them, to detect writes that torch's version counter misses."""

    def __init__(self, tensor, array):
        elements = array.reshape(-1)
        # a write by another process to shared memory is never counted, so shared parameters are compared whole
        if array.size > _MOST_COMPARED and not tensor.is_shared():
            elements = elements[:: array.size // _SAMPLE | 1]
        self._is_small = elements.size <= _MOST_COMPARED
        self._current = elements if self._is_small else elements.view(f"i{array.itemsize}")
        self._seen = elements.tobytes() if self._is_small else self._current.copy()

    def is_unchanged(self):
        if self._is_small:
            return self._current.tobytes() == self._seen
        return np.array_equal(self._current, self._seen)


class PackedParameters:
    """Packed weights, and how to tell whether the parameters are still those that were packed.

    `data_ptr`, `_version` and the shape reveal every change except writes through `.data` or a NumPy view, and writes
    by other processes. The samples are compared for those.
    """

    def __init__(self, net, bias, params, marks):
        self.net, self.marks = net, marks
        kind = net.cell.name.removeprefix("RNN(").removesuffix(")")
        names = _checks.names_and_shapes(
            kind, net.input_size, net.hidden_size, net.num_layers, net.num_directions, net.cell.proj_size, bias
        )
        _checks.parameters(params, names, _TORCH_DTYPES[net.dtype], torch.device("cpu"))
        arrays = [array(p) for p in params]  # they keep the memory alive, so no other tensor gets the same address
        self.packed = packing.Packed(net.cell, net.hidden_size, net.dtype, dict(zip(names, arrays, strict=True)))
        self.short_calls = ShortCalls(net, self.packed)
        self._samples = [] if marks is None else [_Sample(p, a) for p, a in zip(params, arrays)]

    def is_current(self, net, marks):
        return self.net is net and self.marks == marks and all(sample.is_unchanged() for sample in self._samples)


_cache = {}  # id of a weight_hh: (weak reference to it, PackedParameters)


def packed_for(net, params, bias):
    """The packed parameters: those of the last call if nothing has changed."""
    # a tensor of inference mode has no version counter; the others cannot be sampled through a flat view
    if any(p.is_inference() or not p.is_contiguous() or p.is_neg() for p in params):
        return PackedParameters(net, bias, [p.contiguous() for p in params], None)
    marks = [_engine.isa(), *((p.data_ptr(), p._version, p.shape) for p in params)]
    owner = params[1]
    key = id(owner)
    reference, cached = _cache.get(key, (None, None))
    if cached is None or reference() is not owner or not cached.is_current(net, marks):
        cached = PackedParameters(net, bias, params, marks)
        _cache[key] = weakref.ref(owner, lambda dead: _drop(key, dead)), cached
    return cached


def _drop(key, dead):
    if _cache.get(key, (None,))[0] is dead:
        del _cache[key]


def forget(params):
    """Drop what is cached for a network with any of these parameters, and every reference to them."""
    for p in params:
        _cache.pop(id(p), None)

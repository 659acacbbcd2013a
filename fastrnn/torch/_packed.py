"""Packed weights that calls share, for as long as the parameters stand.

Torch counts the writes to a tensor; those that it does not count are found by looking at the numbers.
"""

from __future__ import annotations

import weakref

import numpy as np
import torch

from fastrnn import _engine
from fastrnn._core import packing
from fastrnn.layers.recurrent import Recurrent
from fastrnn.torch import _checks

_STREAMS = 4  # streams that are kept for one module
_WHOLE, _LOOKED_AT = (
    4096,
    128,
)  # parameters up to so many numbers are compared whole in every call, of larger ones about so many numbers
_TORCH = {ours: theirs for theirs, ours in _checks.DTYPES.items()}


def array(tensor):
    """The tensor's numbers, in its own memory."""
    tensor = tensor.detach() if tensor.requires_grad else tensor
    return (tensor.resolve_neg() if tensor.is_neg() else tensor).numpy()


class _Spot:
    """Numbers of a parameter, and what they were: whether it was written to past torch's version counter."""

    def __init__(self, tensor, array):
        numbers = array.reshape(-1)
        if (
            array.size > _WHOLE and not tensor.is_shared()
        ):  # another process's writes to shared memory are not counted at all
            numbers = numbers[:: array.size // _LOOKED_AT | 1]
        self._few = numbers.size <= _WHOLE
        self._now = numbers if self._few else numbers.view(f"i{array.itemsize}")
        self._seen = numbers.tobytes() if self._few else self._now.copy()

    def stands(self):
        return self._now.tobytes() == self._seen if self._few else np.array_equal(self._now, self._seen)


class Kept:
    """Packed weights, and what tells whether the parameters are still those they were made of.

    `data_ptr`, `_version` and the shape tell of everything but writes through `.data` or a NumPy view, and those of other processes; of
    those the numbers looked at tell.
    """

    def __init__(self, net, bias, params, marks):
        self.net, self.marks = net, marks
        kind = net.cell.name.removeprefix("RNN(").removesuffix(")")
        names = _checks.names_and_shapes(
            kind, net.input_size, net.hidden_size, net.num_layers, net.num_directions, net.cell.proj_size, bias
        )
        _checks.parameters(params, names, _TORCH[net.dtype], torch.device("cpu"))
        arrays = [array(p) for p in params]  # they hold the memory, so that no other tensor gets its address
        self.packed = packing.Packed(net.cell, net.hidden_size, net.dtype, dict(zip(names, arrays, strict=True)))
        self._spots = [] if marks is None else [_Spot(p, a) for p, a in zip(params, arrays)]
        self._streams = []  # that no thread is using

    def stands(self, net, marks):
        return self.net is net and self.marks == marks and all(spot.stands() for spot in self._spots)

    def run_few(self, x, state):
        """y and the state behind it, of few steps in one direction: by a stream, which costs less to call and gives the same bits."""
        try:
            stream = self._streams.pop()
        except IndexError:
            stream = None
        if stream is None or stream.batch_size != x.shape[1]:
            stream = _engine.Stream(_Stepped(self.net, self.packed), x.shape[1], None)
        for own, given in zip((stream.h, stream.c), state):
            own[:, :, : given.shape[2]] = given
        y = stream.run(x)
        state_n = [own[:, :, : given.shape[2]].copy() for own, given in zip((stream.h, stream.c), state)]
        if len(self._streams) < _STREAMS:
            self._streams.append(stream)
        return y, state_n


class _Stepped:
    """What an engine's stream asks of a layer."""

    kind = "network"
    _stream_layers = Recurrent._stream_layers

    def __init__(self, net, packed):
        self.cell, self.dtype, self.num_layers, self.input_size = net.cell, net.dtype, net.num_layers, net.input_size
        self.output_size, self.hidden_size, self._made = net.output_size, net.hidden_size, packed

    def _packed(self):
        return self._made

    def _stream_initial(self):
        return None


_kept = {}  # id of a weight_hh: (weak reference to it, Kept)


def kept_for(net, params, bias):
    """What is kept for these parameters: that of the last call, if nothing has changed."""
    if any(
        p.is_inference() or not p.is_contiguous() or p.is_neg() for p in params
    ):  # no version counter, or no flat view
        return Kept(net, bias, [p.contiguous() for p in params], None)
    marks = [_engine.isa(), *((p.data_ptr(), p._version, p.shape) for p in params)]
    owner = params[1]
    key = id(owner)
    reference, kept = _kept.get(key, (None, None))
    if kept is None or reference() is not owner or not kept.stands(net, marks):
        kept = Kept(net, bias, params, marks)
        _kept[key] = weakref.ref(owner, lambda dead: _forget(key, dead)), kept
    return kept


def _forget(key, dead):
    if _kept.get(key, (None,))[0] is dead:
        del _kept[key]


def forget(params):
    """Keep nothing for a network with one of these parameters, and no reference to it."""
    for p in params:
        _kept.pop(id(p), None)

"""The backward pass that `vjp` of a recurrent layer returns."""

from __future__ import annotations

import numpy as np

from fastrnn import _check, _engine
from fastrnn._check.arrays import contiguous
from fastrnn._core import bptt, finite_backward
from fastrnn._core.memory import OwnsTape
from fastrnn.parameters import Gradients


class Backward(OwnsTape):
    """Computes the gradients of one forward pass of a recurrent layer. Returned by ``vjp``.

    It owns the tape of the forward pass until it is released or garbage-collected; copies of it share the tape. Calls
    do not change the tape, so it can be called several times, from any thread.
    """

    def __init__(self, layer, call, tape, *, y_shape, unbatched, embedding, learned, check):
        self._layer, self._call, self._tape = layer, call, tape
        self._y_shape, self._unbatched, self._embedding, self._learned = y_shape, unbatched, embedding, learned
        self._finite = check  # a CheckedCall, or None
        self._version = layer.version, None if embedding is None else embedding.version

    @property
    def nbytes(self):
        """Bytes of the tape."""
        return 0 if self._tape.released else self._tape.nbytes

    def __call__(self, dy=None, dstate_n=None, *, need_x=True, into=None):
        """Compute the gradients of ``(y * dy).sum() + (state_n * dstate_n).sum()``.

        Parameters
        ----------
        dy : array, shape of y, optional
            Gradient with respect to y; values past the end of a sequence are ignored. By default zeros.
        dstate_n : array or tuple of arrays, like state_n, optional
            Gradient with respect to the final state. By default zeros.
        need_x : bool, default True
            Whether to compute the gradient with respect to x.
        into : array, shape of the flat buffer of the layer's storage, optional
            Array to which the gradients of the parameters are added. By default a new array of zeros.

        Returns
        -------
        Gradients
            The gradients `x`, `state`, `context`, `embedding`, `params` and `flat`; None for absent arguments.

        Raises
        ------
        ValueError
            If `dy` or `dstate_n` does not have the shape of the results of the forward pass.
        RuntimeError
            If the tape was released, or if the parameters, including those of the embedding, were changed since the
            forward pass.
        FloatingPointError
            If the forward pass had ``check_finite=True`` and a gradient is NaN or infinite. `into` may have changed.
        """
        layer, call, batch = self._layer, self._call, self._call.batch
        if self._tape.released:
            raise RuntimeError("this backward was released: run vjp again")
        _check.same_version(layer, self._version[0])
        if self._embedding is not None:
            _check.same_version(self._embedding, self._version[1])
        dy = _check.dy(layer, dy, self._y_shape)
        dstate = None if dstate_n is None else _check.state(layer, "dstate_n", dstate_n, batch.B, self._unbatched)
        if dy is not None:
            dy = dy[:, None] if self._unbatched else dy.transpose(1, 0, 2) if layer.batch_first else dy
            given = contiguous(dy).reshape(batch.T * batch.B, dy.shape[-1])
            dy = batch.packed_dy(given, call.net)
        if self._finite:
            finite_backward.check_arguments(self._finite, dy, None if dy is None else given, dstate)
        grads, flat = layer._gradients(into)
        d_embedding = self._embedding_gradient(into) if self._embedding is not None else None
        dx, dstate_0, d_context = bptt.backward(
            call, self._tape, dy, dstate, grads, need_x=need_x, d_embedding=d_embedding
        )
        if self._learned:
            _add_initial_states([grads[name] for name in layer.cell.states], dstate_0)
        if self._finite:
            found = {"x": dx, "context": d_context, "embedding": d_embedding, **dict(zip(("h_0", "c_0"), dstate_0))}
            finite_backward.check_results(self._finite, self._tape, dy, dstate, found, grads)
        if dx is not None:
            dx = layer._shape(batch.spread(dx), self._unbatched)
        if d_context is not None:
            d_context = batch.unsorted(d_context[None])[0]
            d_context = d_context[0] if self._unbatched else d_context
        return Gradients(dx, layer._shape_state(dstate_0, self._unbatched), d_context, d_embedding, grads, flat)

    def _embedding_gradient(self, into):
        """The array for the embedding's gradient: a part of `into` if the embedding shares the layer's storage."""
        if into is not None and self._embedding.storage is self._layer.storage:
            return self._embedding.slots["weight"].view(into)
        return np.zeros(self._embedding.params["weight"].shape, self._layer.dtype)

    def release(self):
        """Return the tape's memory. This backward cannot be called afterwards."""
        self._tape.release()


def _add_initial_states(grads, dstate):
    """Add to the gradients of a learned initial state, (L*D, H) each, the sums of dstate (L*D, B, H) over the rows."""
    for grad, d in zip(grads, dstate):
        sums = _engine.zeros(grad.shape, d.dtype)
        for rows, total in zip(d, sums):
            _engine.column_sum(rows, total)
        _engine.add_rows(sums, grad)

"""What `vjp` of a recurrent layer hands out: the gradients of one forward pass."""

from __future__ import annotations

import numpy as np

from fastrnn import _check
from fastrnn._core import finite_backward
from fastrnn._core.bptt import backward
from fastrnn._core.memory import OwnsTape
from fastrnn.parameters import Gradients


class Backward(OwnsTape):
    """The gradients of one forward pass. It owns the pass's tape until it is released or garbage-collected; copies of it share the tape.

    Calling it does not change the tape: it may be called again, from any thread.
    """

    def __init__(
        self, layer, net, packed, batch, rows, context, tape, dropout, y_shape, unbatched, embedding, learnt, check=None
    ):
        self._layer, self._net, self._packed, self._batch = layer, net, packed, batch
        self._rows, self._context, self._tape, self._dropout = rows, context, tape, dropout
        self._y_shape, self._unbatched, self._embedding, self._learnt = y_shape, unbatched, embedding, learnt
        self._finite = check  # a _finite.Pass, or None
        self._version = layer.version, None if embedding is None else embedding.version

    @property
    def nbytes(self):
        """Bytes of the tape."""
        return 0 if self._tape.released else self._tape.nbytes

    def __call__(self, dy=None, dstate_n=None, *, need_x=True, into=None):
        """Gradients of ``(y * dy).sum() + (state_n * dstate_n).sum()``.

        Parameters
        ----------
        dy : y's shape, optional, zeros if None; ignored past a row's length
        dstate_n : like state_n, optional
        need_x : bool, whether g.x is wanted
        into : 1-D array laid out like the storage's flat buffer, optional; the parameters' gradients are added to it

        Returns
        -------
        Gradients, with .x, .state, .context, .embedding, .params, .flat

        Raises
        ------
        ValueError    dy or dstate_n is not of the shape that the forward pass gave.
        RuntimeError  the tape was released, or the parameters, also those of the embedding, were changed since the forward pass.
        FloatingPointError  a gradient is NaN or infinite, if the forward pass had ``check_finite=True``; `into` may have changed.
        """
        layer, batch = self._layer, self._batch
        if self._tape.released:
            raise RuntimeError("this backward was released: run vjp again")
        _check.same_versions(layer, self._embedding, self._version)
        dy = _check.dy(layer, dy, self._y_shape)
        dstate = _check.state(layer, "dstate_n", dstate_n, batch.B, self._unbatched)
        if dy is not None:
            dy = dy[:, None] if self._unbatched else dy.transpose(1, 0, 2) if layer.batch_first else dy
            given = np.ascontiguousarray(dy).reshape(batch.T * batch.B, dy.shape[-1])
            dy = batch.packed_dy(given, self._net)
        if self._finite:
            finite_backward.check_arguments(self._finite, dy, None if dy is None else given, dstate)
        grads, flat = layer._gradients(into)
        d_embedding = self._embedding_gradient(into) if self._embedding is not None else None
        dx, dstate_0, d_context = backward(
            self._net, self._packed, batch, self._rows, self._context, self._tape, self._dropout, dy, dstate, grads,
            need_x=need_x, d_embedding=d_embedding,
        )  # fmt: skip
        if self._learnt:
            for name, d in zip(layer.cell.states, dstate_0):
                grads[name] += d.sum(axis=1)
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
        """Where the embedding's gradient goes: into its own slot if it shares the layer's storage."""
        if into is not None and self._embedding.storage is self._layer.storage:
            return self._embedding.slots["weight"].view(into)
        return np.zeros(self._embedding.params["weight"].shape, self._layer.dtype)

    def release(self):
        """Give the tape's memory back; this backward can't be called any more."""
        self._tape.release()

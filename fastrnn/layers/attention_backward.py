"""The backward pass of AttentionDecoder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastrnn import _check
from fastrnn._check import attention as check_attention
from fastrnn._core import finite_decoder
from fastrnn._core.memory import OwnsTape
from fastrnn._types import Array, ArrayLike, StateLike
from fastrnn.parameters import Gradients


@dataclass
class DecoderGradients(Gradients):
    """Gradients of an `AttentionDecoder`.

    Parameters
    ----------
    memory : ndarray, shape (S, B, memory_size)
        Gradient of the memory. The other attributes are those of `Gradients`.
    """

    memory: Array | None = None


class DecoderBackward(OwnsTape):
    """Function that computes the gradients of one forward pass of an `AttentionDecoder`.

    It may be called several times, until `release` is called or it is garbage-collected.
    """

    def __init__(self, decoder, decoding, embedding, check):
        self._decoder, self._decoding, self._embedding, self._check = decoder, decoding, embedding, check
        self._version = decoder.version, None if embedding is None else embedding.version

    def __call__(
        self, dy: ArrayLike | None = None, dstate_n: StateLike | None = None, *, need_x: bool = True,
        into: Array | None = None,
    ) -> DecoderGradients:  # fmt: skip
        """Compute the gradients of ``(y * dy).sum() + (state_n * dstate_n).sum()``.

        Parameters
        ----------
        dy : ndarray, shape (T, B, output_size), optional
            Gradient of y. By default zeros.
        dstate_n : ndarray or pair of ndarrays, optional
            Gradient of the final state. By default zeros.
        need_x : bool, default True
            Compute the gradient of x.
        into : ndarray, 1-D, optional
            Array laid out as the storage's flat buffer, to add the gradients of the parameters to.

        Returns
        -------
        DecoderGradients
            The gradients.

        Raises
        ------
        RuntimeError
            The pass was released, or the parameters have changed since.
        """
        decoder, found = self._decoder, self._decoding
        if found.tape.released:
            raise RuntimeError("this backward was released: run vjp again")
        _check.same_versions(decoder, self._embedding, self._version)
        batch = found.batch
        dy = check_attention.dy(decoder, dy, (batch.T, batch.B, decoder.output_size))
        dstate = _check.state(decoder.rnn, "dstate_n", dstate_n, batch.B, False)
        if dy is not None:
            dy = batch.packed(np.ascontiguousarray(dy).reshape(batch.T * batch.B, decoder.output_size))
        if self._check is not None:
            finite_decoder.backward_arguments(self._check, dy, dstate)
        grads, flat = decoder._gradients(into)
        d_embedding = None
        if self._embedding is not None:
            shared = into is not None and self._embedding.storage is decoder.storage
            weight = self._embedding.params["weight"]
            d_embedding = (
                self._embedding.slots["weight"].view(into) if shared else np.zeros(weight.shape, decoder.dtype)
            )
        plain = {name.removeprefix("rnn."): array for name, array in grads.items()}
        dx, dstate_0, d_context, d_memory = found.backward(dy, dstate, plain, need_x=need_x, d_embedding=d_embedding)
        if self._check is not None:
            others = {"context": d_context, "embedding": d_embedding, **dict(zip(("h_0", "c_0"), dstate_0))}
            finite_decoder.gradients(self._check, dx, found.memory, d_memory, others, grads)
        if dx is not None:
            dx = batch.spread(dx)
        if d_context is not None:
            d_context = batch.unsorted(d_context[None])[0]
        state = decoder.rnn._shape_state(dstate_0, False)
        return DecoderGradients(dx, state, d_context, d_embedding, grads, flat, found.memory.spread(d_memory))

    def release(self) -> None:
        """Release the memory of the forward pass. The function cannot be called afterwards."""
        self._decoding.release()

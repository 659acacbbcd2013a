"""The backward pass of Stacked."""

from __future__ import annotations

import numpy as np

from fastrnn._check import stacked as check_stacked
from fastrnn._core import finite
from fastrnn._types import Array, ArrayLike, MemberStatesLike
from fastrnn.parameters import Gradients


class StackedBackward:
    """Function that computes the gradients of one forward pass of a `Stacked`.

    It owns the tapes of the pass until `release` is called or it is garbage-collected.
    """

    def __init__(self, stack, backwards, dropout, y_shape, unbatched):
        self._stack, self._backwards, self._dropout = stack, backwards, dropout
        self._y_shape, self._unbatched = y_shape, unbatched

    @property
    def nbytes(self) -> int:
        """Size of the tapes in bytes."""
        return sum(backward.nbytes for backward in self._backwards)

    def __call__(
        self, dy: ArrayLike | None = None, dstate_n: MemberStatesLike | None = None, *, need_x: bool = True,
        into: Array | None = None,
    ) -> Gradients:  # fmt: skip
        """Compute the gradients of ``(y * dy).sum() + (state_n * dstate_n).sum()``.

        Parameters
        ----------
        dy : ndarray, shape of y, optional
            Gradient of y. By default zeros.
        dstate_n : tuple, optional
            Gradient of the final state of each member, or None in its place.
        need_x : bool, default True
            Compute the gradient of x.
        into : ndarray, 1-D, optional
            Array laid out as the storage's flat buffer, to add the gradients of the parameters to.

        Returns
        -------
        Gradients
            The gradients; state is a tuple with one for each member.

        Raises
        ------
        ValueError
            The shape of dy or dstate_n is not that of the forward pass.
        RuntimeError
            The pass was released, or the parameters have changed since.
        """
        stack, unbatched = self._stack, self._unbatched
        B = 1 if unbatched else self._y_shape[0 if stack.batch_first else 1]
        dstate_n = check_stacked.member_states(stack, "dstate_n", dstate_n, B, unbatched)
        if into is None:
            into = np.zeros(stack.storage.size, stack.dtype)
        grads, flat = stack._gradients(into)
        states = [None] * len(stack.layers)
        for k in reversed(range(len(stack.layers))):
            with finite.of_member(k):
                g = self._backwards[k](dy, dstate_n[k], need_x=need_x or k > 0, into=into)
            if stack.residual and k and dy is not None:
                g.x += dy
            dy, states[k] = g.x, g.state
            if self._dropout is not None and k:
                stack._mask(self._dropout, k - 1, dy, unbatched)
        return Gradients(g.x, tuple(states), g.context, g.embedding, grads, flat)

    def release(self) -> None:
        """Release the memory of the tapes. The function cannot be called afterwards."""
        for backward in self._backwards:
            backward.release()

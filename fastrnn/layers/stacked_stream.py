"""The stream of Stacked."""

from __future__ import annotations

import numpy as np

from fastrnn import _check
from fastrnn._check import stacked as check_stacked
from fastrnn._types import Array, ArrayLike, MemberStates, MemberStatesLike
from fastrnn.layers.chain_stream import ChainStream


class StackedStream(ChainStream):
    """Stream of a `Stacked`: step through sequences that arrive piece by piece.

    It uses the weights as of its creation, until `refresh` is called. Its outputs are those of one call over the whole
    sequence, bit for bit. Construct it with ``stack.stream(batch_size, context)``.

    Examples
    --------
    >>> import fastrnn
    >>> net = fastrnn.Stacked([fastrnn.GRU(3, 8), fastrnn.LSTM(8, 4)])
    >>> s = net.stream()
    >>> x = np.ones((5, 1, 3), "float32")
    >>> bool((np.stack([s.step(x_t) for x_t in x]) == net(x)[0]).all())
    True
    """

    def __init__(self, stack, batch_size, context):
        self._stack = stack
        super().__init__([layer.stream(batch_size, None if k else context) for k, layer in enumerate(stack.layers)])

    def step(self, x_t: ArrayLike, out: Array | None = None) -> Array:
        """Run one step.

        Parameters
        ----------
        x_t : ndarray, shape (batch_size, input_size)
            Input.
        out : ndarray, shape (batch_size, output_size), optional
            Array to write the output to. It may not overlap x_t.

        Returns
        -------
        ndarray, shape (batch_size, output_size)
            Output, or `out`.
        """
        return self._guarded(self._through, "step", x_t, out, ())

    def run(self, x: ArrayLike, out: Array | None = None) -> Array:
        """Run several steps.

        Parameters
        ----------
        x : ndarray, shape (T, batch_size, input_size)
            Input.
        out : ndarray, shape (T, batch_size, output_size), optional
            Array to write the output to. It may not overlap x.

        Returns
        -------
        ndarray, shape (T, batch_size, output_size)
            Output, or `out`.
        """
        return self._guarded(self._through, "run", x, out, np.shape(x)[:1])

    def _through(self, verb, x, out, steps):
        if out is not None:
            _check.writable_like("out", out, (*steps, self.batch_size, self._stack.output_size), self._stack.dtype)
        last = len(self._streams) - 1
        for k, stream in enumerate(self._streams):
            y = getattr(stream, verb)(x, out=out if k == last else None)
            self._advanced = True
            if self._stack.residual and k:
                y += x
            x = y
        return x

    @property
    def state(self) -> MemberStates:
        """Copy of the state, as a call takes it. It can be set; None is the initial state."""
        return tuple(stream.state for stream in self._streams)

    @state.setter
    def state(self, value: MemberStatesLike | None) -> None:
        for stream, new in zip(
            self._streams, check_stacked.member_states(self._stack, "state", value, self.batch_size, False)
        ):
            if new is None:
                stream.reset()
            else:
                stream.state = new
        self._apart = False

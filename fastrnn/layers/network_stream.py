"""The stream of Network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastrnn._types import Array, ArrayLike
from fastrnn.layers.chain_stream import ChainStream
from fastrnn.layers.feedforward import Embedding, Linear
from fastrnn.layers.network_steps import FUNCTIONS, RECURRENT

if TYPE_CHECKING:
    from fastrnn.layers.network import Network


class NetworkStream(ChainStream):
    """Stream of a `Network`: step through sequences that arrive piece by piece.

    The recurrent layers use the weights as of its creation, until `refresh` is called. The outputs of all layers are
    those of one call over the whole sequence, bit for bit; functions between them are computed by NumPy. Construct it
    with ``network.stream(batch_size)``. Only one thread at a time may use a stream.

    Examples
    --------
    >>> import fastrnn
    >>> net = fastrnn.Network({
    ...     "embedding": fastrnn.Embedding(9, 3), "rnn": fastrnn.GRU(3, 8), "linear": fastrnn.Linear(8, 9),
    ... })
    >>> s = net.stream()
    >>> ids = np.array([[4], [0], [7]])
    >>> bool((np.stack([s.step(ids_t) for ids_t in ids]) == net(ids)[0]).all())
    True
    """

    def __init__(self, network: Network, batch_size: int):
        for name, step in network.steps.items():
            if name not in network.layers and (step if isinstance(step, str) else step[0]) not in FUNCTIONS:
                raise ValueError(
                    f"step {name!r} is {step!r}, which needs the whole sequence: a stream computes one step at a time"
                )
        self._network = network
        self._by_name = {
            name: layer.stream(batch_size) for name, layer in network.layers.items() if isinstance(layer, RECURRENT)
        }
        if not self._by_name:
            raise ValueError("a stream needs a recurrent layer, but this Network has none")
        super().__init__(list(self._by_name.values()))

    def step(self, x_t: ArrayLike) -> Array:
        """Run one step.

        Parameters
        ----------
        x_t : ndarray, shape (batch_size, features)
            Input; integer ids of shape (batch_size,), if the first layer is an Embedding.

        Returns
        -------
        ndarray, shape (batch_size, output features)
            Output of the network.
        """
        return self._guarded(self._through, x_t, 1)

    def run(self, x: ArrayLike) -> Array:
        """Run several steps.

        Parameters
        ----------
        x : ndarray, shape (T, batch_size, features)
            Input, also of a network with batch_first; integer ids of shape (T, batch_size), if the first layer is an
            Embedding.

        Returns
        -------
        ndarray, shape (T, batch_size, output features)
            Output of the network.
        """
        return self._guarded(self._through, x, 2)

    def _through(self, x, ndim):
        network = self._network
        if isinstance(next(iter(network.layers.values())), Embedding):
            shape, wanted = np.shape(x), f"({self.batch_size},)" if ndim == 1 else f"(T, {self.batch_size})"
            if len(shape) != ndim or shape[-1] != self.batch_size:
                raise ValueError(f"ids have shape {shape}, but this stream takes {wanted}: one id for each sequence")
        for name, step in network.steps.items():
            if name in self._by_name:
                x = getattr(self._by_name[name], "step" if ndim == 1 else "run")(x)
                self._advanced = True
            elif isinstance(step, (Embedding, Linear)):
                x = step(np.ascontiguousarray(x))
            else:
                function, *numbers = (step,) if isinstance(step, str) else step
                x = FUNCTIONS[function](x, *numbers).astype(network.dtype, copy=False)
        return x

    @property
    def state(self) -> tuple[Any, ...]:
        """Copy of the recurrent layers' states, as a call takes them. It can be set; None is the initial state."""
        return tuple(stream.state for stream in self._streams)

    @state.setter
    def state(self, value: tuple[Any, ...] | None) -> None:
        if value is not None and not isinstance(value, (tuple, list)):
            raise TypeError(f"state is a {type(value).__name__}, but it must be a tuple with the state of each layer")
        states = [None] * len(self._streams) if value is None else list(value)
        if len(states) != len(self._streams):
            raise ValueError(
                f"state has {len(states)} parts, but the recurrent layers of this Network are "
                f"{', '.join(self._by_name)}: pass one state, or None, for each"
            )
        before = self.state
        try:
            for stream, state in zip(self._streams, states):
                stream.state = state
        except BaseException:
            for stream, state in zip(self._streams, before):
                stream.state = state
            raise
        self._apart = False

"""Stacked: recurrent layers of different sizes or kinds, one on top of the other, as one network."""

from __future__ import annotations

import numpy as np

from fastrnn import _check
from fastrnn._check import memory as check_memory
from fastrnn._check import stacked as check_stacked
from fastrnn._core import finite
from fastrnn._core.batch import even_batch
from fastrnn._core.calls import mask_key
from fastrnn._core.stack import Dropout
from fastrnn.layers.feedforward import random_key
from fastrnn.parameters import Gradients, Layer, Storage

_OF_A_LAYER = 10_000  # bytes of a layer's Python objects


class Stacked(Layer):
    """Recurrent layers one on top of the other, each of its own size or kind, used as one network.

    Its state is the tuple of its members' states, and so is the gradient of one. Where a member's state is None (or the whole is), that
    member starts from zeros, or from the initial state that it has learnt.

    Parameters
    ----------
    layers : RNN, GRU and LSTM layers from the input on; the features that one gives are those that the next one takes. All have one
        dtype and one batch_first; only the first may have a context_size.
    dropout : 0 <= p < 1, between members, active in `vjp` only; the masks of ``RNN(…, num_layers, dropout=p)``
    variational : bool, one dropout mask for all steps of a sequence (Gal & Ghahramani 2016)
    residual : bool, add a member's input to its output (He et al. 2016; Wu et al. 2016), for each but the first, which brings the
        features to the stack's width

    Raises
    ------
    ValueError  sizes do not fit; the message names both.
    TypeError   a member is no recurrent layer, or is of another dtype than the others.

    Notes
    -----
    The parameters of a stack lie side by side in one Storage. Members with a storage each are moved into a new one: they stay the same
    objects, and training the stack trains them. Members that share one (``storage=``) stay in it; they must have been made one
    right after the other. An optimiser of a moved member must be made anew.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> net = Stacked([fastrnn.GRU(3, 8), fastrnn.LSTM(8, 4)])
    >>> y, (h, (h_top, c_top)) = net(np.zeros((5, 2, 3), "float32"))
    >>> y.shape, h.shape, c_top.shape
    ((5, 2, 4), (1, 2, 8), (1, 2, 4))
    >>> list(net.params)[:2], net.num_parameters == sum(layer.num_parameters for layer in net.layers)
    (['0.weight_ih_l0', '0.weight_hh_l0'], True)
    """

    kind = "Stacked"

    def __init__(self, layers, *, dropout: float = 0.0, variational: bool = False, residual: bool = False):
        self.layers = check_stacked.members(layers)
        self.residual = check_stacked.residual(self.layers, residual)
        self.dropout = _check.probability("dropout", dropout)
        self.variational = bool(variational)
        storage = _one_storage(self.layers)
        slots = {f"{k}.{name}": slot for k, layer in enumerate(self.layers) for name, slot in layer.slots.items()}
        self._own(storage, storage.dtype, slots)
        places = list(slots.values())
        self._range = slice(places[0].offset, places[-1].offset + places[-1].size)
        self.num_parameters = sum(layer.num_parameters for layer in self.layers)

    @property
    def input_size(self) -> int:
        return self.layers[0].input_size

    @property
    def hidden_size(self) -> int:
        """Units of the last member and one direction."""
        return self.layers[-1].hidden_size

    @property
    def num_directions(self) -> int:
        """Directions of the last member."""
        return self.layers[-1].num_directions

    @property
    def output_size(self) -> int:
        """Features of y: those of all directions of the last member."""
        return self.layers[-1].output_size

    @property
    def context_size(self) -> int:
        return self.layers[0].context_size

    @property
    def batch_first(self) -> bool:
        return self.layers[0].batch_first

    def __repr__(self):
        options = {"dropout": 0.0, "variational": False, "residual": False}
        parts = [f", {name}={getattr(self, name)}" for name, value in options.items() if getattr(self, name) != value]
        return f"Stacked([{', '.join(map(repr, self.layers))}]{''.join(parts)})"

    def astype(self, dtype):
        """An independent stack of independent members with the same parameters, computing in another dtype."""
        layers = [layer.astype(dtype) for layer in self.layers]
        return Stacked(layers, dropout=self.dropout, variational=self.variational, residual=self.residual)

    def _prepare(self, x, state, resets, embedding):
        """Check what the members above the first would find out too late; returns their states, and whether x came unbatched."""
        first = self.layers[0]
        x, unbatched = _check.x(first, x) if embedding is None else _check.ids(first, x, embedding)
        T, B = x.shape[:2]
        for layer in self.layers:
            _check.resets(layer, resets, T, B, unbatched)
        return check_stacked.member_states(self, "state", state, B, unbatched), unbatched

    def _mask(self, dropout, k, rows, unbatched):
        """Drop rows, laid out as x is, in place: what goes from member k to the next, or its gradient."""
        rows = rows[:, None] if unbatched else rows.transpose(1, 0, 2) if self.batch_first else rows
        T, B, n = rows.shape
        dropout.apply(rows.reshape(T * B, n), even_batch(T, B), k)

    def __call__(
        self, x, state=None, *, lengths=None, mask=None, resets=None, context=None, embedding=None, return_states: bool = False,
        check_finite: bool = False,
    ):  # fmt: skip
        """Run the stack over a batch of sequences and keep nothing. All as for a single network; see ``fastrnn.LSTM.__call__``.

        Parameters
        ----------
        state : tuple with the state of each member, or None in its place, optional

        Returns
        -------
        y : (T, B, output_size), or as x is laid out
        state_n : tuple with the final state of each member
        states : only with `return_states`. Tuple with the states of each member at every step
        """
        state, _ = self._prepare(x, state, resets, embedding)
        results, given = [], {"context": context, "embedding": embedding}
        for k, layer in enumerate(self.layers):
            options = dict(
                lengths=lengths, mask=mask, resets=resets, return_states=return_states, check_finite=check_finite
            )
            with finite.of_member(k):
                y, *found = layer(x, state[k], **options, **given)
            results.append(found)
            if self.residual and k:
                y += x
            x, given = y, {}
        if self.residual and (check_finite or finite.wanted()):
            finite.refuse("the sum of the last member's input and output", x)
        return (x, *zip(*results))

    def vjp(
        self, x, state=None, *, lengths=None, mask=None, resets=None, context=None, embedding=None, rng=None, return_states: bool = False,
        check_finite: bool = False,
    ):  # fmt: skip
        """Run the stack as in `__call__`, with dropout, and keep what the gradients need.

        Parameters
        ----------
        rng : int below 2**64, optional
            Key of the dropout masks; without it each call draws the next masks of the first member's seed.
        The others as in `__call__`. Arrays given here must not change before `backward` has been called.

        Returns
        -------
        (y, state_n), backward : with `return_states` ``(y, state_n, states), backward``; `backward` is a `StackedBackward`

        Examples
        --------
        >>> import numpy as np, fastrnn
        >>> net = Stacked([fastrnn.GRU(3, 8), fastrnn.RNN(8, 8)], residual=True)
        >>> (y, state_n), backward = net.vjp(np.ones((5, 2, 3), "float32"))
        >>> g = backward(dy=np.ones_like(y))
        >>> g.x.shape, g.params["1.weight_hh_l0"].shape, g.flat.size == net.num_parameters
        ((5, 2, 3), (8, 8), True)
        """
        state, unbatched = self._prepare(x, state, resets, embedding)
        with mask_key(self.layers[0], rng) as key:
            options = dict(
                lengths=lengths, mask=mask, resets=resets, return_states=return_states, check_finite=check_finite
            )
            given = {"context": context, "embedding": embedding}
            return self._vjp(x, state, key, unbatched, given, options)

    def _vjp(self, x, state, key, unbatched, given, options):
        """given : arguments of the first layer only; options : those of all layers"""
        dropout = Dropout(self.dropout, key, self.variational) if self.dropout else None
        results, backwards = [], []
        for k, layer in enumerate(self.layers):
            with finite.of_member(k):
                (y, *found), backward = layer.vjp(x, state[k], rng=random_key(key, k + 1), **options, **given)
            results.append(found)
            backwards.append(backward)
            if self.residual and k:
                y += x
            if dropout is not None and k < len(self.layers) - 1:
                self._mask(dropout, k, y, unbatched)
            x, given = y, {}
        if self.residual and (options["check_finite"] or finite.wanted()):
            finite.refuse("the sum of the last member's input and output", x)
        return (x, *zip(*results)), StackedBackward(self, backwards, dropout, x.shape, unbatched)

    def stream(self, batch_size: int = 1, context=None):
        """Step through sequences that arrive bit by bit; see ``fastrnn.LSTM.stream``. Returns a `StackedStream`."""
        return StackedStream(self, batch_size, context)


class StackedBackward:
    """The gradients of one forward pass of a Stacked. It owns the tapes until it is released or garbage-collected."""

    def __init__(self, stack, backwards, dropout, y_shape, unbatched):
        self._stack, self._backwards, self._dropout = stack, backwards, dropout
        self._y_shape, self._unbatched = y_shape, unbatched

    @property
    def nbytes(self) -> int:
        """Bytes of the tapes."""
        return sum(backward.nbytes for backward in self._backwards)

    def __call__(self, dy=None, dstate_n=None, *, need_x: bool = True, into=None) -> Gradients:
        """Gradients of ``(y * dy).sum() + (state_n * dstate_n).sum()``; arguments and errors as for a single network.

        dstate_n : tuple with one for each member, or None in its place, optional
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
        """Give the tapes' memory back; this backward can't be called any more."""
        for backward in self._backwards:
            backward.release()


class StackedStream:
    """Step through sequences that arrive bit by bit, with the weights as of its creation (or of `refresh`).

    Made by ``stack.stream(batch_size, context)``. Its outputs are those of one call over the whole sequence, bit for bit.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> net = Stacked([fastrnn.GRU(3, 8), fastrnn.LSTM(8, 4)])
    >>> s = net.stream()
    >>> x = np.ones((5, 1, 3), "float32")
    >>> bool((np.stack([s.step(x_t) for x_t in x]) == net(x)[0]).all())
    True
    """

    def __init__(self, stack, batch_size, context):
        self._stack = stack
        self._streams = [layer.stream(batch_size, None if k else context) for k, layer in enumerate(stack.layers)]
        self.batch_size = self._streams[0].batch_size

    def step(self, x_t, out=None):
        """One step: (batch_size, input_size) -> (batch_size, output_size), `out` if given; it may not overlap x_t."""
        return self._through("step", x_t, out, ())

    def run(self, x, out=None):
        """Several steps: x (T, batch_size, input_size) -> y (T, batch_size, output_size)."""
        return self._through("run", x, out, np.shape(x)[:1])

    def _through(self, verb, x, out, steps):
        if out is not None:
            _check.writable_like("out", out, (*steps, self.batch_size, self._stack.output_size), self._stack.dtype)
        last = len(self._streams) - 1
        for k, stream in enumerate(self._streams):
            y = getattr(stream, verb)(x, out=out if k == last else None)
            if self._stack.residual and k:
                y += x
            x = y
        return x

    def reset(self, rows=None) -> None:
        """Bring the state back to the initial one: of all rows, or of those whose indices or mask are given."""
        for stream in self._streams:
            stream.reset(rows)

    def refresh(self) -> None:
        """Take over the members' parameters as they are now. The state stays."""
        for stream in self._streams:
            stream.refresh()

    @property
    def state(self):
        """A copy of the state, as the stack's call takes it; may be set, where None is the initial one."""
        return tuple(stream.state for stream in self._streams)

    @state.setter
    def state(self, value):
        for stream, new in zip(
            self._streams, check_stacked.member_states(self._stack, "state", value, self.batch_size, False)
        ):
            if new is None:
                stream.reset()
            else:
                stream.state = new


def _one_storage(layers):
    """The storage that the members share, in which they lie side by side; those with one each are moved into a new one."""
    storage = layers[0].storage
    if len(layers) > 1 and all(layer.storage.size == layer.num_parameters for layer in layers):
        storage = Storage(storage.dtype)
        for layer in layers:
            layer._own(storage, layer.dtype, dict(layer.params))
            layer._reset_caches()
    return check_stacked.side_by_side(layers, storage)


def make(
    cell, input_size: int, hidden_size, num_layers: int = 1, *,
    dropout: float = 0.0, variational: bool = False, residual: bool = False, context_size: int = 0, seed=None, **options,
):  # fmt: skip
    """A network of one kind of cell: a single RNN, GRU or LSTM where all layers are alike, else a Stacked.

    Parameters
    ----------
    cell : fastrnn.RNN, fastrnn.GRU or fastrnn.LSTM
    input_size : int
    hidden_size : int, the same for `num_layers` layers; or a sequence of ints, one for each layer
    num_layers : int; left out with a sequence
    residual : bool, as in `Stacked`
    seed : int or numpy Generator, optional
    The others as for the cell, the same for all layers.

    Examples
    --------
    >>> import fastrnn
    >>> make(fastrnn.GRU, 3, 8, 2)
    GRU(3, 8, num_layers=2)
    >>> make(fastrnn.GRU, 3, (8, 4), bidirectional=True)
    Stacked([GRU(3, 8, bidirectional=True), GRU(16, 4, bidirectional=True)])
    """
    sizes = check_stacked.layer_sizes(hidden_size, num_layers)
    if isinstance(sizes, int) and not residual:
        more = dict(dropout=dropout, variational=variational, context_size=context_size, seed=seed)
        return cell(input_size, sizes, num_layers, **more, **options)
    if isinstance(sizes, int):
        check_memory.fits(f"the parameters of {num_layers:,} layers", num_layers * _OF_A_LAYER, "make fewer")
        sizes = [sizes] * num_layers
    rng, layers = np.random.default_rng(seed), []
    for size in sizes:
        layers.append(
            cell(input_size, size, context_size=0 if layers else context_size, seed=int(rng.integers(2**63)), **options)
        )
        input_size = layers[-1].output_size
    return Stacked(layers, dropout=dropout, variational=variational, residual=residual)

"""Stacked: recurrent layers of different sizes or kinds, used as one network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from fastrnn import _check, _engine
from fastrnn._check import stacked as check_stacked
from fastrnn._core import finite
from fastrnn._core.batch import even_batch
from fastrnn._core.calls import mask_key
from fastrnn._core.keys import random_key
from fastrnn._core.stack import Dropout
from fastrnn._types import Array, ArrayLike, DTypeLike, IntsLike, MemberStates, MemberStatesLike
from fastrnn.layers.recurrent import Recurrent
from fastrnn.layers.stacked_backward import StackedBackward
from fastrnn.layers.stacked_stream import StackedStream
from fastrnn.parameters import Layer, Storage

if TYPE_CHECKING:
    from fastrnn.layers.feedforward import Embedding

_Results: TypeAlias = tuple[Array, MemberStates]
_ResultsAndStates: TypeAlias = tuple[Array, MemberStates, MemberStates]


class Stacked(Layer):
    """Recurrent layers of different sizes or kinds, one on top of the other.

    The state is the tuple of the members' states. Where it, or the state of one member, is None, that member starts
    from zeros or from its learned initial state.

    Parameters
    ----------
    layers : sequence of RNN, GRU and LSTM
        Members, from the input on. The input size of each is the output size of the one below. All have the same dtype
        and batch_first; only the first may have a context_size.
    dropout : float, default 0.0
        Dropout probability between members, 0 <= p < 1. Active in `vjp` only. The masks are those of
        ``RNN(…, num_layers, dropout=p)``.
    variational : bool, default False
        Use one dropout mask for all steps of a sequence (Gal & Ghahramani 2016).
    residual : bool, default False
        Add the input of each member but the first to its output (He et al. 2016; Wu et al. 2016).

    Raises
    ------
    ValueError
        A size or an option does not fit; the message names both values.
    TypeError
        A member is not a recurrent layer, or has another dtype than the others.

    Notes
    -----
    The parameters of a stack are one contiguous range of one Storage. Members with a storage of their own are moved to
    a new one: they remain the same objects, and training the stack trains them. An optimiser that was constructed for
    such a member before does not reach it any more. Members that share a storage stay in it; they must have been
    constructed directly one after the other.

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

    def __init__(
        self,
        layers: Sequence[Recurrent[Any]],
        *,
        dropout: float = 0.0,
        variational: bool = False,
        residual: bool = False,
    ):
        self.layers: tuple[Recurrent[Any], ...] = check_stacked.members(layers)
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
        """Number of features of x."""
        return self.layers[0].input_size

    @property
    def hidden_size(self) -> int:
        """Number of hidden units of the last member."""
        return self.layers[-1].hidden_size

    @property
    def num_directions(self) -> int:
        """Number of directions of the last member."""
        return self.layers[-1].num_directions

    @property
    def output_size(self) -> int:
        """Number of features of y: those of all directions of the last member."""
        return self.layers[-1].output_size

    @property
    def context_size(self) -> int:
        """Number of features of the context vector of the first member."""
        return self.layers[0].context_size

    @property
    def batch_first(self) -> bool:
        """Whether x and y are (B, T, features)."""
        return self.layers[0].batch_first

    def __repr__(self):
        options = {"dropout": 0.0, "variational": False, "residual": False}
        parts = [f", {name}={getattr(self, name)}" for name, value in options.items() if getattr(self, name) != value]
        return f"Stacked([{', '.join(map(repr, self.layers))}]{''.join(parts)})"

    def astype(self, dtype: DTypeLike) -> Stacked:
        """Copy the stack and its members with the parameters converted to another dtype.

        Parameters
        ----------
        dtype : {"float32", "float64"}
            Data type of the new stack.

        Returns
        -------
        Stacked
            Independent stack that computes in `dtype`.
        """
        layers = [layer.astype(dtype) for layer in self.layers]
        return Stacked(layers, dropout=self.dropout, variational=self.variational, residual=self.residual)

    def _prepare(self, x, state, resets, embedding):
        """Check what only the upper members would notice; returns the states, and whether x has no batch axis."""
        first = self.layers[0]
        x, unbatched = _check.x(first, x) if embedding is None else _check.ids(first, x, embedding)
        T, B = x.shape[:2]
        for layer in self.layers:
            _check.resets(layer, resets, T, B, unbatched)
        return check_stacked.member_states(self, "state", state, B, unbatched), unbatched

    def _mask(self, dropout, k, rows, unbatched):
        """Apply dropout in place to what member k passes to the next, or to its gradient. Laid out as x is."""
        rows = rows[:, None] if unbatched else rows.transpose(1, 0, 2) if self.batch_first else rows
        T, B, n = rows.shape
        dropout.apply(rows.reshape(T * B, n), even_batch(T, B), k)

    @overload
    def __call__(
        self, x: ArrayLike, state: MemberStatesLike | None = None, *, lengths: IntsLike | None = None,
        mask: ArrayLike | None = None, resets: ArrayLike | None = None, context: ArrayLike | None = None,
        embedding: Embedding | None = None, return_states: Literal[False] = False, check_finite: bool = False,
    ) -> _Results: ...  # fmt: skip

    @overload
    def __call__(
        self, x: ArrayLike, state: MemberStatesLike | None = None, *, lengths: IntsLike | None = None,
        mask: ArrayLike | None = None, resets: ArrayLike | None = None, context: ArrayLike | None = None,
        embedding: Embedding | None = None, return_states: Literal[True], check_finite: bool = False,
    ) -> _ResultsAndStates: ...  # fmt: skip

    @overload
    def __call__(
        self, x: ArrayLike, state: MemberStatesLike | None = None, *, lengths: IntsLike | None = None,
        mask: ArrayLike | None = None, resets: ArrayLike | None = None, context: ArrayLike | None = None,
        embedding: Embedding | None = None, return_states: bool, check_finite: bool = False,
    ) -> _Results | _ResultsAndStates: ...  # fmt: skip

    def __call__(
        self, x: ArrayLike, state: MemberStatesLike | None = None, *, lengths: IntsLike | None = None,
        mask: ArrayLike | None = None, resets: ArrayLike | None = None, context: ArrayLike | None = None,
        embedding: Embedding | None = None,
        return_states: bool = False, check_finite: bool = False,
    ) -> _Results | _ResultsAndStates:  # fmt: skip
        """Run the network over a batch of sequences, without keeping anything for a backward pass.

        The arguments are those of a single network, described in more detail there (`LSTM`).

        Parameters
        ----------
        x : ndarray, shape (T, B, input_size)
            Input, of the network's dtype; (B, T, input_size) if batch_first; (T, input_size) for one sequence. With
            `embedding`: integer ids, (T, B).
        state : tuple, optional
            Initial state of each member, or None in its place.
        lengths : array_like of int, shape (B,), optional
            Number of valid steps of each sequence.
        mask : array_like of bool, shape of x without its last axis, optional
            Steps to compute.
        resets : array_like of bool, shape of x without its last axis, optional
            Where True, the states are set to zero before the step.
        context : ndarray, shape (B, context_size), optional
            Additional input of every step of the first member.
        embedding : Embedding, optional
            Layer that maps ids to input vectors.
        return_states : bool, default False
            Also return the state after every step. Incompatible with `mask`.
        check_finite : bool, default False
            Raise an error if a value is NaN or infinite.

        Returns
        -------
        y : ndarray, shape (T, B, output_size)
            Outputs of the last member, laid out as x.
        state_n : tuple
            Final state of each member.
        states : tuple
            Only with `return_states`: state of each member after every step.
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

    @overload
    def vjp(
        self, x: ArrayLike, state: MemberStatesLike | None = None, *, lengths: IntsLike | None = None,
        mask: ArrayLike | None = None, resets: ArrayLike | None = None, context: ArrayLike | None = None,
        embedding: Embedding | None = None, rng: int | None = None,
        return_states: Literal[False] = False, check_finite: bool = False,
    ) -> tuple[_Results, StackedBackward]: ...  # fmt: skip

    @overload
    def vjp(
        self, x: ArrayLike, state: MemberStatesLike | None = None, *, lengths: IntsLike | None = None,
        mask: ArrayLike | None = None, resets: ArrayLike | None = None, context: ArrayLike | None = None,
        embedding: Embedding | None = None, rng: int | None = None,
        return_states: Literal[True], check_finite: bool = False,
    ) -> tuple[_ResultsAndStates, StackedBackward]: ...  # fmt: skip

    @overload
    def vjp(
        self, x: ArrayLike, state: MemberStatesLike | None = None, *, lengths: IntsLike | None = None,
        mask: ArrayLike | None = None, resets: ArrayLike | None = None, context: ArrayLike | None = None,
        embedding: Embedding | None = None, rng: int | None = None,
        return_states: bool, check_finite: bool = False,
    ) -> tuple[_Results | _ResultsAndStates, StackedBackward]: ...  # fmt: skip

    def vjp(
        self, x: ArrayLike, state: MemberStatesLike | None = None, *, lengths: IntsLike | None = None,
        mask: ArrayLike | None = None, resets: ArrayLike | None = None, context: ArrayLike | None = None,
        embedding: Embedding | None = None, rng: int | None = None,
        return_states: bool = False, check_finite: bool = False,
    ) -> tuple[_Results | _ResultsAndStates, StackedBackward]:  # fmt: skip
        """Run the network as `__call__` does, with dropout, and return the function that computes the gradients.

        Parameters
        ----------
        x : ndarray, shape (T, B, input_size)
            Input, of the network's dtype; (B, T, input_size) if batch_first; (T, input_size) for one sequence. With
            `embedding`: integer ids, (T, B). Do not change it before the backward pass.
        state : tuple, optional
            Initial state of each member, or None in its place.
        lengths : array_like of int, shape (B,), optional
            Number of valid steps of each sequence.
        mask : array_like of bool, shape of x without its last axis, optional
            Steps to compute.
        resets : array_like of bool, shape of x without its last axis, optional
            Where True, the states are set to zero before the step.
        context : ndarray, shape (B, context_size), optional
            Additional input of every step of the first member.
        embedding : Embedding, optional
            Layer that maps ids to input vectors.
        rng : int, optional
            Key of the dropout masks, 0 to 2**64 - 1. By default each call draws new masks from the first member's seed.
        return_states : bool, default False
            Also return the state after every step. Gradients enter through y and state_n only.
        check_finite : bool, default False
            Raise an error if a value is NaN or infinite, in the backward pass too.

        Returns
        -------
        results : tuple
            What `__call__` returns: ``(y, state_n)``, or ``(y, state_n, states)``.
        backward : StackedBackward
            Function of ``(dy=None, dstate_n=None, *, need_x=True, into=None)`` that returns `Gradients`.

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
        if self.residual and _engine.recording() is not None:
            raise _engine.NotRecordable("residual connections")
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

    def stream(self, batch_size: int = 1, context: ArrayLike | None = None) -> StackedStream:
        """Step through sequences that arrive piece by piece, as the `stream` of a single network does.

        Parameters
        ----------
        batch_size : int, default 1
            Number of sequences that are processed together.
        context : ndarray, shape (batch_size, context_size), optional
            Context of each sequence. Required if the first member has a `context_size`.

        Returns
        -------
        StackedStream
            Object with the methods step, run, reset and refresh, and the attribute state.

        Raises
        ------
        ValueError
            A member is bidirectional or reverse.
        """
        return StackedStream(self, batch_size, context)


def _one_storage(layers):
    """Return the storage that the members share. Members with one each are moved to a new one."""
    storage = layers[0].storage
    if len(layers) > 1 and all(layer.storage.size == layer.num_parameters for layer in layers):
        storage = Storage(storage.dtype)
        for layer in layers:
            layer._own(storage, layer.dtype, dict(layer.params))
            layer._reset_caches()
    return check_stacked.side_by_side(layers, storage)

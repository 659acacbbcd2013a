"""Calls of RNN, GRU and LSTM: forward passes with and without a tape, and the shapes of arguments and results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Literal, TypeVar, overload

import numpy as np

from fastrnn import _check, _engine
from fastrnn._check import cells as check_cells
from fastrnn._check.arrays import contiguous
from fastrnn._core import finite
from fastrnn._core.backward import Backward
from fastrnn._core.batch import Batch, MaskedBatch, even_batch
from fastrnn._core.calls import masks
from fastrnn._core.stack import Call, Tokens, forward
from fastrnn._core.states import states
from fastrnn._types import Array, ArrayLike, IntsLike, StateLike
from fastrnn.parameters import Layer

if TYPE_CHECKING:
    from fastrnn.layers.feedforward import Embedding

StateT = TypeVar("StateT")  # an array for RNN and GRU, a pair for LSTM


class RecurrentCalls(Layer, Generic[StateT]):
    """`__call__` and `vjp` of the recurrent layers."""

    @overload
    def __call__(
        self, x: ArrayLike, state: StateLike | None = None, *, lengths: IntsLike | None = None,
        mask: ArrayLike | None = None, resets: ArrayLike | None = None, context: ArrayLike | None = None,
        embedding: Embedding | None = None, return_states: Literal[False] = False, check_finite: bool = False,
    ) -> tuple[Array, StateT]: ...  # fmt: skip

    @overload
    def __call__(
        self, x: ArrayLike, state: StateLike | None = None, *, lengths: IntsLike | None = None,
        mask: ArrayLike | None = None, resets: ArrayLike | None = None, context: ArrayLike | None = None,
        embedding: Embedding | None = None, return_states: Literal[True], check_finite: bool = False,
    ) -> tuple[Array, StateT, StateT]: ...  # fmt: skip

    @overload
    def __call__(
        self, x: ArrayLike, state: StateLike | None = None, *, lengths: IntsLike | None = None,
        mask: ArrayLike | None = None, resets: ArrayLike | None = None, context: ArrayLike | None = None,
        embedding: Embedding | None = None, return_states: bool, check_finite: bool = False,
    ) -> tuple[Array, StateT] | tuple[Array, StateT, StateT]: ...  # fmt: skip

    def __call__(
        self, x: ArrayLike, state: StateLike | None = None, *, lengths: IntsLike | None = None,
        mask: ArrayLike | None = None, resets: ArrayLike | None = None, context: ArrayLike | None = None,
        embedding: Embedding | None = None, return_states: bool = False, check_finite: bool = False,
    ) -> tuple[Array, StateT] | tuple[Array, StateT, StateT]:  # fmt: skip
        """Run the network over a batch of sequences, without keeping anything for a backward pass.

        T is the number of steps, B the number of sequences, D the number of directions: 2 if bidirectional, else 1.

        Parameters
        ----------
        x : ndarray, shape (T, B, input_size)
            Input, of the network's dtype; (B, T, input_size) if batch_first; (T, input_size) for one sequence without a
            batch axis. A C-contiguous time-major array is used without copying. With `embedding`: integer ids, (T, B).
        state : ndarray or pair of ndarrays, optional
            Initial state, (num_layers * D, B, hidden_size): ``h_0`` for RNN and GRU, ``(h_0, c_0)`` for LSTM. The h of
            an LSTM with a projection has proj_size features. The order is PyTorch's: layer 0 forward, layer 0 reverse,
            …. By default zeros, or the learned initial state.
        lengths : array_like of int, shape (B,), optional
            Number of valid steps of each sequence, 0 to T, in any order. Steps after it are not computed: the output
            there is 0, and the final state is that of the last valid step.
        mask : array_like of bool, shape of x without its last axis, optional
            Steps to compute. At a masked step (False) the state does not change, and y repeats the last output of the
            same direction, or 0 before its first step, as in Keras. Can be combined with `lengths`.
        resets : array_like of bool, shape of x without its last axis, optional
            Where True, the state is set to zero before the step. Ignored at masked steps and after the sequence's
            length.
        context : ndarray, shape (B, context_size), optional
            Enters every step of layer 0 as an additional bias ``context @ weight_ch.T``. Required if the network has a
            `context_size`.
        embedding : Embedding, optional
            Layer that maps ids to input vectors.
        return_states : bool, default False
            Also return the state after every step. Incompatible with `mask`.
        check_finite : bool, default False
            Raise an error if a parameter, an argument, an output or a state is NaN or infinite. Values in padding, at
            masked steps and in unused rows of an embedding are not checked. Costs one pass over all these arrays.

        Returns
        -------
        y : ndarray, shape (T, B, output_size)
            Outputs of the last layer, laid out as x; output_size is D * hidden_size, or D * proj_size.
        state_n : ndarray or pair of ndarrays
            Final state, with the shape of `state`. For the reverse direction it is the state after step 0.
        states : ndarray or pair of ndarrays
            Only with `return_states`: h, or (h, c), after each step, (num_layers * D, T, B, hidden_size), or
            (num_layers * D, B, T, hidden_size) if batch_first. Dropout and resets come later; zeros after a sequence's
            length.

        Raises
        ------
        TypeError
            x, state or context does not have the network's dtype.
        ValueError
            A shape or a length does not fit.
        FloatingPointError
            A value is NaN or infinite, with `check_finite`. The message names the layer, gate, step and row of the
            first.

        Notes
        -----
        `check_finite` does not report values that saturate: an infinite pre-activation of a sigmoid, or one that `clip`
        limits, gives a finite gate.

        Results agree with a float64 reference to 1e-5 (tests/test_forward.py).

        Examples
        --------
        >>> import numpy as np, fastrnn
        >>> rnn = fastrnn.LSTM(input_size=3, hidden_size=4)
        >>> y, (h, c) = rnn(np.zeros((5, 2, 3), "float32"))
        >>> y.shape, h.shape
        ((5, 2, 4), (1, 2, 4))
        >>> _, _, (h, c) = rnn(np.zeros((5, 2, 3), "float32"), return_states=True)
        >>> c.shape, bool((h[0] == y).all())
        ((1, 5, 2, 4), True)
        """
        if state is lengths is mask is resets is context is embedding is None and not (return_states or check_finite):
            found = self._computed_as_before(x)
            if found is not None:
                return found
        given = state is not None
        check_cells.states_of(mask, return_states)
        if return_states and _engine.recording() is not None:
            raise _engine.NotRecordable("return_states")
        call, state, unbatched = self._prepare(x, state, lengths, mask, resets, context, embedding)
        batch, rows = call.batch, call.x
        check = self._finite_pass(check_finite, call, state, given, unbatched)
        plain = not (check or return_states or self.bidirectional or self.reverse) and context is None
        if plain and batch.is_even and isinstance(rows, np.ndarray):
            short = self._short_calls(call.packed)
            stream = short.take(batch.T, batch.B)
            if stream is not None:
                y, state_n = short.run(stream, rows.reshape(batch.T, batch.B, rows.shape[1]), state)
                return self._shape(y, unbatched), self._shape_state(state_n, unbatched)
        outputs = [] if return_states or check else None
        tape = call.make_tape(self._tapes) if return_states and self.cell.has_c else None
        y, state_n = forward(call, state, tape, outputs)
        if check:
            check.check_results(outputs, state_n)
        if not return_states:
            return self._shape_y(y, batch, unbatched), self._shape_state(state_n, unbatched)
        found = states(call, outputs, tape, state_n)
        if tape is not None:
            tape.release()
        return (
            self._shape_y(y, batch, unbatched),
            self._shape_state(state_n, unbatched),
            self._shape_states(found, unbatched),
        )

    @overload
    def vjp(
        self, x: ArrayLike, state: StateLike | None = None, *, lengths: IntsLike | None = None,
        mask: ArrayLike | None = None, resets: ArrayLike | None = None, context: ArrayLike | None = None,
        embedding: Embedding | None = None, rng: int | None = None, return_states: Literal[False] = False,
        check_finite: bool = False,
    ) -> tuple[tuple[Array, StateT], Backward]: ...  # fmt: skip

    @overload
    def vjp(
        self, x: ArrayLike, state: StateLike | None = None, *, lengths: IntsLike | None = None,
        mask: ArrayLike | None = None, resets: ArrayLike | None = None, context: ArrayLike | None = None,
        embedding: Embedding | None = None, rng: int | None = None, return_states: Literal[True],
        check_finite: bool = False,
    ) -> tuple[tuple[Array, StateT, StateT], Backward]: ...  # fmt: skip

    @overload
    def vjp(
        self, x: ArrayLike, state: StateLike | None = None, *, lengths: IntsLike | None = None,
        mask: ArrayLike | None = None, resets: ArrayLike | None = None, context: ArrayLike | None = None,
        embedding: Embedding | None = None, rng: int | None = None, return_states: bool, check_finite: bool = False,
    ) -> tuple[tuple[Array, StateT] | tuple[Array, StateT, StateT], Backward]: ...  # fmt: skip

    def vjp(
        self, x: ArrayLike, state: StateLike | None = None, *, lengths: IntsLike | None = None,
        mask: ArrayLike | None = None, resets: ArrayLike | None = None, context: ArrayLike | None = None,
        embedding: Embedding | None = None, rng: int | None = None, return_states: bool = False,
        check_finite: bool = False,
    ) -> tuple[tuple[Array, StateT] | tuple[Array, StateT, StateT], Backward]:  # fmt: skip
        """Run the network as `__call__` does, with dropout, and return the function that computes the gradients.

        Parameters
        ----------
        x : ndarray, shape (T, B, input_size)
            Input, as for `__call__`. It is not copied: do not change it before the backward pass.
        state : ndarray or pair of ndarrays, optional
            Initial state, as for `__call__`.
        lengths : array_like of int, shape (B,), optional
            Number of valid steps of each sequence.
        mask : array_like of bool, shape of x without its last axis, optional
            Steps to compute.
        resets : array_like of bool, shape of x without its last axis, optional
            Where True, the state is set to zero before the step, and no gradient passes.
        context : ndarray, shape (B, context_size), optional
            Additional input of every step of layer 0.
        embedding : Embedding, optional
            Layer that maps ids to input vectors.
        rng : int, optional
            Key of the dropout masks, 0 to 2**64 - 1. By default each call draws new masks from the network's seed.
        return_states : bool, default False
            Also return the state after every step. Gradients enter through y and state_n only.
        check_finite : bool, default False
            Raise an error if a value is NaN or infinite, in the backward pass too: in dy, dstate_n and the gradients.

        Returns
        -------
        results : tuple
            What `__call__` returns: ``(y, state_n)``, or ``(y, state_n, states)``.
        backward : Backward
            Function of ``(dy=None, dstate_n=None, *, need_x=True, into=None)`` that returns `Gradients`.

        Raises
        ------
        TypeError
            x, state or context does not have the network's dtype.
        ValueError
            A shape or a length does not fit.
        FloatingPointError
            A value is NaN or infinite, with `check_finite`.

        Examples
        --------
        >>> import numpy as np, fastrnn
        >>> rnn = fastrnn.GRU(3, 4, seed=0)
        >>> (y, h_n), backward = rnn.vjp(np.ones((5, 2, 3), "float32"))
        >>> g = backward(dy=np.ones_like(y))
        >>> g.x.shape, g.state.shape, g.params["weight_hh_l0"].shape
        ((5, 2, 3), (1, 2, 4), (12, 4))
        """
        check_cells.states_of(mask, return_states)
        inputs = x, state, lengths, mask, resets, context, embedding
        if not self.dropout:
            return self._vjp(inputs, None, return_states, check_finite)
        with masks(self, rng) as dropout:
            return self._vjp(inputs, dropout, return_states, check_finite)

    def _vjp(self, inputs, dropout, return_states, check_finite):
        """`vjp` with the arguments of `_prepare`, and the Dropout of this call or None."""
        given, embedding = inputs[1] is not None, inputs[-1]
        if return_states and _engine.recording() is not None:
            raise _engine.NotRecordable("return_states")
        call, state, unbatched = self._prepare(*inputs)
        call = call._replace(dropout=dropout) if dropout else call
        check = self._finite_pass(check_finite, call, state, given, unbatched)
        tape = call.make_tape(self._tapes)
        outputs = [] if return_states or check else None
        y, state_n = forward(call, state, tape, outputs)
        if check:
            check.check_results(outputs, state_n, tape)
        y = self._shape_y(y, call.batch, unbatched)
        results = y, self._shape_state(state_n, unbatched)
        if return_states:
            results += (self._shape_states(states(call, outputs, tape, state_n), unbatched),)
        learned = self.learn_initial_state and not given
        return results, Backward(
            self, call, tape, y_shape=y.shape, unbatched=unbatched, embedding=embedding, learned=learned, check=check
        )

    def _computed_as_before(self, x):
        """Compute a short call from zeros like an earlier one, of which only x is new; None if it is another one."""
        short = self._short_for
        if short is None or self.batch_first or self.learn_initial_state or self.context_size or finite.wanted():
            return None
        if type(x) is not np.ndarray or x.ndim != 3 or x.dtype != self.dtype or x.shape[2] != self.input_size:
            return None
        key, packed = self._packed_for
        if key != (self.version, _engine.isa()) or packed is not short[0]:  # by another thread, of former weights
            return None
        stream = short[1].take_last(x.shape[0], x.shape[1])
        if stream is None:
            return None
        y, state = short[1].run(stream, x, None)
        return y, state if self.cell.has_c else state[0]

    def _finite_pass(self, asked, call, state, given, unbatched):
        """Check the arguments for NaN and infinity; returns what checks the results, or None if no check is wanted.

        given : whether a state was given, and not learned
        """
        if not (asked or finite.wanted()):
            return None
        check = finite.CheckedCall(self, call, state, unbatched)
        check.check_arguments(given)
        return check

    def _prepare(self, x, state, lengths, mask, resets, context, embedding):
        """Check all arguments; returns (Call, state, whether x is unbatched)."""
        if embedding is None:
            x, unbatched = _check.x(self, x)
        else:
            x, unbatched = _check.ids(self, x, embedding)
        T, B = x.shape[:2]
        if state is not None:
            state = _check.state(self, "state", state, B, unbatched)
        elif self.learn_initial_state:
            state = self._initial_rows(B)
        if lengths is not None:
            lengths = _check.lengths(lengths, T, B, unbatched)
        if mask is not None:
            mask = _check.steps(self, "mask", mask, T, B, unbatched)
        if resets is not None:
            resets = _check.resets(self, resets, T, B, unbatched)
        if context is not None or self.context_size:
            context = _check.context(self, context, B, unbatched)
        if _engine.recording() is not None and not (mask is None and resets is None):
            raise _engine.NotRecordable("masked steps and resets")  # whether there are any is seen from their contents
        if mask is None or mask.all():
            batch = even_batch(T, B) if lengths is None and resets is None else Batch(T, B, lengths, resets)
        else:
            batch = MaskedBatch(mask, lengths, resets)
        if embedding is None:
            rows = batch.packed(contiguous(x).reshape(T * B, x.shape[2]))
        else:
            ids = batch.packed(contiguous(x, np.int64).reshape(T * B))
            rows = Tokens.of(ids, embedding.params["weight"], batch.ends)
        if context is not None:
            given, context = contiguous(batch.sorted(context)), _engine.empty(context.shape, context.dtype)
            _engine.copy_rows(given, context)
        return Call(self._net, self._packed(), batch, rows, context), state, unbatched

    def _state_or_learned(self, state, B):
        """Return the given state of B rows, or the learned initial state, or None for zeros."""
        if state is None and self.learn_initial_state:
            return tuple(np.broadcast_to(s[:, None], (len(s), B, s.shape[1])) for s in self._initial_state())
        return state

    def _initial_rows(self, B):
        return tuple(np.broadcast_to(s[:, None], (len(s), B, s.shape[1])) for s in self._initial_state())

    def _initial_state(self):
        """Return the learned initial state: one array (L*D, H), or two for LSTM."""
        return tuple(self.params[name] for name in self.cell.states)

    def _shape_y(self, y, batch, unbatched):
        return self._shape(batch.outputs(y, self._net), unbatched)

    def _shape(self, y, unbatched):
        return y[:, 0] if unbatched else y.transpose(1, 0, 2) if self.batch_first else y

    def _shape_state(self, state, unbatched):
        state = tuple(s[:, 0] for s in state) if unbatched else state
        return state if self.cell.has_c else state[0]

    def _shape_states(self, found, unbatched):
        found = tuple(s[:, :, 0] if unbatched else s.transpose(0, 2, 1, 3) if self.batch_first else s for s in found)
        return found if self.cell.has_c else found[0]

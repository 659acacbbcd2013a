"""What RNN, GRU and LSTM share: a stack of layers and directions of one kind of cell."""

from __future__ import annotations

import math

import numpy as np

from fastrnn import _check, _engine
from fastrnn._check import cells as check_cells
from fastrnn._check import memory as check_memory
from fastrnn._core import finite
from fastrnn._core.backward import Backward
from fastrnn._core.batch import Batch, MaskedBatch, even_batch
from fastrnn._core.calls import masks
from fastrnn._core.memory import Pool
from fastrnn._core.packing import Packed
from fastrnn._core.stack import Call, Net, Tokens, context_bias, forward
from fastrnn._core.states import states
from fastrnn.parameters import Layer, initial_values


class Recurrent(Layer):
    """What RNN, GRU and LSTM share. Make one of those.

    Calling it runs a batch of sequences and keeps nothing; `vjp` also returns the function that gives the gradients; `stream` steps
    through sequences that arrive bit by bit. The three give the same outputs, bit for bit.
    """

    kind = "network"

    def __init__(
        self, cell, input_size, hidden_size, num_layers=1, *, bias=True, batch_first=False, dropout=0.0,
        bidirectional=False, reverse=False, variational=False, context_size=0, learn_initial_state=False, dtype="float32", seed=None,
        storage=None,
    ):  # fmt: skip
        self.cell = cell
        self.input_size = _check.size("input_size", input_size, least=0)
        self.hidden_size = _check.size("hidden_size", hidden_size)
        self.num_layers = _check.size("num_layers", num_layers)
        self.bias = bool(bias)
        self.batch_first = bool(batch_first)
        self.dropout = _check.probability("dropout", dropout)
        self.bidirectional = bool(bidirectional)
        self.reverse = check_cells.one_way(reverse, bidirectional)
        self.variational = bool(variational)
        self.context_size = _check.size("context_size", context_size, least=0)
        self.learn_initial_state = bool(learn_initial_state)
        self.seed = seed
        self._calls = 0
        dtype = _check.dtype(dtype)
        check_memory.parameters(
            f"{self.kind}({input_size}, {hidden_size}, num_layers={num_layers})", *self._count(), dtype, storage
        )
        rng = np.random.default_rng(seed)
        self._key = int(rng.integers(2**63))
        values = initial_values(self._shapes(), self.hidden_size, cell.gates, "torch", rng)
        self._own(storage, dtype, values)
        self._reset_caches()

    def _shapes_of_layer(self, layer):
        """{name: shape} of the parameters that every layer has."""
        G, H, D, P = self.num_gates, self.hidden_size, self.num_directions, self.state_sizes[0]
        shapes = {}
        for suffix in [f"_l{layer}", f"_l{layer}_reverse"][:D]:
            shapes["weight_ih" + suffix] = (G * H, self.input_size if layer == 0 else D * P)
            shapes["weight_hh" + suffix] = (G * H, P)
            if self.bias:
                shapes["bias_ih" + suffix] = shapes["bias_hh" + suffix] = (G * H,)
            if self.cell.proj_size:
                shapes["weight_hr" + suffix] = (P, H)
            if self.cell.peephole:
                shapes["weight_peephole" + suffix] = ((G - 1) * H,)
        return shapes

    def _shapes(self):
        """{name: shape} of all parameters."""
        layers = map(self._shapes_of_layer, range(self.num_layers))
        return {name: shape for shapes in (*layers, self._other_shapes()) for name, shape in shapes.items()}

    def _other_shapes(self):
        """{name: shape} of the parameters for a context and for the initial state."""
        G, H, D = self.num_gates, self.hidden_size, self.num_directions
        shapes = {}
        if self.context_size:
            for suffix in ["_l0", "_l0_reverse"][:D]:
                shapes["weight_ch" + suffix] = (G * H, self.context_size)
        if self.learn_initial_state:
            shapes |= {name: (self.num_layers * D, size) for name, size in zip(self.cell.states, self.state_sizes)}
        return shapes

    def _count(self):
        """(numbers, arrays) of the parameters, without a loop over layers."""
        first, above = ([math.prod(shape) for shape in self._shapes_of_layer(layer).values()] for layer in (0, 1))
        more, L = [math.prod(shape) for shape in self._other_shapes().values()], self.num_layers - 1
        return sum(first) + L * sum(above) + sum(more), len(first) + L * len(above) + len(more)

    def _reset_caches(self):
        super()._reset_caches()
        self._net = Net(
            self.cell, self.input_size, self.hidden_size, self.num_layers, self.num_directions, self.context_size, self.dtype,
            self.reverse,
        )  # fmt: skip
        self._packed_for = None
        self._tapes = Pool()

    def __getstate__(self):
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name not in ("_packed_for", "_tapes")}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._reset_caches()

    @property
    def num_gates(self):
        return self.cell.gates

    @property
    def num_directions(self):
        return 2 if self.bidirectional else 1

    @property
    def output_size(self):
        """Features of y: those of all directions."""
        return self.num_directions * self.state_sizes[0]

    @property
    def state_sizes(self):
        """Features of h, and of c if there is one."""
        return self.cell.state_sizes(self.hidden_size)

    def __repr__(self):
        parts = [f"{self.input_size}, {self.hidden_size}"]
        defaults = {
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
            "variational": False,
        }
        defaults |= {"reverse": False, "context_size": 0, "learn_initial_state": False}
        parts += [f"{name}={getattr(self, name)}" for name, value in defaults.items() if getattr(self, name) != value]
        parts += self._repr_extra()
        if self.dtype != np.float32:
            parts.append(f"dtype='{self.dtype}'")
        return f"{type(self).__name__}({', '.join(parts)})"

    def _repr_extra(self):
        return [
            f"{name}={getattr(self, name)!r}" for name, usual in self._usual.items() if getattr(self, name) != usual
        ]

    def _packed(self):
        """The packed copies for the parameters as they are now."""
        key = self.version, _engine.isa()
        made = self._packed_for
        if made is None or made[0] != key:
            made = key, Packed(self.cell, self.hidden_size, self.dtype, self.params)
            self._packed_for = made
        return made[1]

    def _prepare(self, x, state, lengths, mask, resets, context, embedding):
        """Check every argument; return (Call, state, whether x is unbatched)."""
        if embedding is None:
            x, unbatched = _check.x(self, x)
        else:
            x, unbatched = _check.ids(self, x, embedding)
        T, B = x.shape[:2]
        state = _check.state(self, "state", state, B, unbatched)
        lengths = _check.lengths(lengths, T, B, unbatched)
        mask = _check.steps(self, "mask", mask, T, B, unbatched)
        resets = _check.resets(self, resets, T, B, unbatched)
        context = _check.context(self, context, B, unbatched)
        state = self._state_or_learnt(state, B)
        if mask is None or mask.all():
            batch = even_batch(T, B) if lengths is None and resets is None else Batch(T, B, lengths, resets)
        else:
            batch = MaskedBatch(mask, lengths, resets)
        if embedding is None:
            rows = batch.packed(np.ascontiguousarray(x).reshape(T * B, x.shape[2]))
        else:
            rows = Tokens.of(batch.packed(np.ascontiguousarray(x, np.int64).reshape(T * B)), embedding.params["weight"])
        if context is not None:
            context = np.array(batch.sorted(context), order="C")
        return Call(self._net, self._packed(), batch, rows, context), state, unbatched

    def _state_or_learnt(self, state, B):
        """The state of B rows that was given, or the learnt initial one, or None for zeros."""
        if state is None and self.learn_initial_state:
            return tuple(np.broadcast_to(s[:, None], (len(s), B, s.shape[1])) for s in self._initial_state())
        return state

    def _initial_state(self):
        """The learnt initial state: one array (L*D, H), or the LSTM's two."""
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

    def __call__(
        self, x, state=None, *, lengths=None, mask=None, resets=None, context=None, embedding=None, return_states=False, check_finite=False,
    ):  # fmt: skip
        """Run the network over a batch of sequences and keep nothing.

        Parameters
        ----------
        x : array, shape (T, B, input_size), or (B, T, input_size) if batch_first, or (T, input_size) for one sequence
            A C-contiguous time-major array of the network's dtype is used without copying.
            With `embedding`: integer ids (T, B), whose rows of the embedding are the input.
        state : ``h_0`` for GRU and vanilla, ``(h_0, c_0)`` for LSTM, each (num_layers * D, B, hidden_size), optional (h of a projected LSTM
            has proj_size features)
            By default zeros, or what `learn_initial_state` has learnt. D is 2 if bidirectional, else 1. Row order is PyTorch's:
            layer 0 forward, layer 0 reverse, …
        lengths : (B,) ints in 0..T, any order, optional
            Steps past a row's length are not computed: output 0, final state as of its last valid step.
        mask : bool, x's leading axes, optional
            Where False, the step is not computed: the state is carried over it, and y there repeats what this direction gave last (zeros
            before its first step). Left padding and holes are fine; beside `lengths` both count. As Keras.
        resets : bool, x's leading axes, optional
            Where True, the row's state becomes zeros before step t. Ignored past a row's length and at masked steps.
        context : (B, context_size), for a network made with context_size
            Enters every step of layer 0 as an extra bias ``context @ weight_ch.T``.
        embedding : fastrnn.Embedding, optional
            Turns ids into input vectors.
        return_states : bool
            Give a third result: the states of every layer and direction at every step.
        check_finite : bool
            Raise FloatingPointError where a value is NaN or infinite: a parameter, what is used of the arguments, an output or a state.
            It names the layer, gate, step and row of the first one. Off by default, as it costs a pass over all of these.

        Returns
        -------
        y : (T, B, output_size), output_size = D * hidden_size, or as x is laid out
        state_n : like `state`, after the last step (for the reverse direction: after t = 0)
        states : only with `return_states`. h (num_layers * D, T, B, hidden_size), for LSTM the pair (h, c); with batch_first B before T.
            At index t it is the state that step t computed, before any dropout and any reset; zeros past a row's length. Not with `mask`.

        Raises
        ------
        TypeError   x, state or context is not of the network's dtype.
        ValueError  a shape or length does not fit this network; the message names both sizes.
        FloatingPointError  with `check_finite`: a value is NaN or infinite.

        Notes
        -----
        `check_finite` does not report what is saturated in between: an infinite pre-activation of a sigmoid, or one that `clip` cuts,
        gives a finite gate. It does not look at padding, masked steps and unused rows of an embedding.

        The GRU applies the reset gate after the product, as cuDNN and PyTorch do, or with ``reset_after=False`` before it
        (Cho et al. 2014). Results agree with a float64 reference to 1e-5 (tests/test_forward.py).

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
        given = state is not None
        check_cells.states_of(mask, return_states)
        call, state, unbatched = self._prepare(x, state, lengths, mask, resets, context, embedding)
        batch = call.batch
        check = self._checked(check_finite, call, state, given, unbatched)
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

    def vjp(
        self, x, state=None, *, lengths=None, mask=None, resets=None, context=None, embedding=None, rng=None, return_states=False,
        check_finite=False,
    ):  # fmt: skip
        """Run the network as in `__call__`, with dropout, and keep what the gradients need.

        Parameters
        ----------
        rng : int below 2**64, optional
            Key of the dropout masks; without it each call draws the next masks of this network's seed.
        check_finite : bool
            As in `__call__`, for the backward too: of dy, dstate_n and all gradients.
        The others as in `__call__`. A floating-point x must not change before `backward` has been called: it is not copied.

        Returns
        -------
        (y, state_n), backward : `backward` is a `Backward`. With `return_states` ``(y, state_n, states), backward``: the states are for
            looking at, gradients enter at y and state_n only.

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
        call, state, unbatched = self._prepare(*inputs)
        call = call._replace(dropout=dropout) if dropout else call
        check = self._checked(check_finite, call, state, given, unbatched)
        tape = call.make_tape(self._tapes)
        outputs = [] if return_states or check else None
        y, state_n = forward(call, state, tape, outputs)
        if check:
            check.check_results(outputs, state_n, tape)
        y = self._shape_y(y, call.batch, unbatched)
        results = y, self._shape_state(state_n, unbatched)
        if return_states:
            results += (self._shape_states(states(call, outputs, tape, state_n), unbatched),)
        learnt = self.learn_initial_state and not given
        return results, Backward(
            self, call, tape, y_shape=y.shape, unbatched=unbatched, embedding=embedding, learnt=learnt, check=check
        )

    def _checked(self, asked, call, state, given, unbatched):
        """The check of a call, after a check of its arguments; None if not requested. given : whether a state was given."""
        if not (asked or finite.wanted()):
            return None
        check = finite.CheckedCall(self, call, state, unbatched)
        check.check_arguments(given)
        return check

    def stream(self, batch_size=1, context=None):
        """Step through sequences that arrive bit by bit: an object with step, run, state, reset, refresh.

        ``s.step(x_t, out=None)`` takes (batch_size, input_size) and gives (batch_size, hidden_size); ``s.run(x)`` takes several steps;
        ``s.state`` can be read and set; ``s.reset(rows=None)`` brings all rows or some back to the initial state; the
        weights are those of its creation, until ``s.refresh()``. A stream belongs to one thread at a time.

        Parameters
        ----------
        batch_size : int, sequences side by side
        context : (batch_size, context_size), for a network made with context_size

        Raises
        ------
        ValueError  the network is bidirectional or reverse: its outputs depend on the future.

        Examples
        --------
        >>> import numpy as np, fastrnn
        >>> rnn = fastrnn.GRU(3, 4)
        >>> s = rnn.stream()
        >>> x = np.ones((5, 1, 3), "float32")
        >>> steps = [s.step(x_t) for x_t in x]
        >>> bool((np.stack(steps) == rnn(x)[0]).all())
        True
        """
        if self.bidirectional or self.reverse:
            way = "bidirectional" if self.bidirectional else "reverse"
            raise ValueError(f"a stream needs outputs that do not depend on the future, but this {self.kind} is {way}")
        batch_size = _check.size("batch_size", batch_size)
        needed = batch_size * self.num_layers * (self.cell.blocks + 2) * self.hidden_size * self.dtype.itemsize
        check_memory.fits(f"the states of a stream of {batch_size:,} sequences", needed, "give a smaller batch_size")
        return _engine.Stream(self, batch_size, _check.context(self, context, batch_size, False))

    def _stream_layers(self, context):
        """(LayerWeights of each layer, bias rows of the first layer with a context or None) for a stream."""
        packed = self._packed()
        weights = [packed.layer(f"_l{layer}") for layer in range(self.num_layers)]
        return weights, context_bias(packed, "_l0", context)

    def _stream_initial(self):
        """What the rows of a stream start from, (L, 1, P) and (L, 1, H), or None for zeros."""
        return [np.array(s)[:, None] for s in self._initial_state()] if self.learn_initial_state else None

    def _stream_out(self, out, shape):
        """Say what is wrong with an array that a stream cannot write to."""
        _check.writable_like("out", out, shape, self.dtype)

    def _stream_state(self, value, batch_size):
        """A state given to a stream, as a tuple of arrays."""
        return _check.state(self, "state", value, batch_size, False)

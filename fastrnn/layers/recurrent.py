"""Base class of RNN, GRU and LSTM: a stack of layers and directions of one kind of cell."""

from __future__ import annotations

import math

import numpy as np

from fastrnn import _check, _engine
from fastrnn._check import cells as check_cells
from fastrnn._check import memory as check_memory
from fastrnn._core.memory import Pool
from fastrnn._core.packing import Packed
from fastrnn._core.short_calls import ShortCalls, stream_layers
from fastrnn._core.stack import Net
from fastrnn._types import ArrayLike, DTypeLike, Seed
from fastrnn.layers.recurrent_calls import RecurrentCalls, StateT
from fastrnn.parameters import Storage, initial_values


class Recurrent(RecurrentCalls[StateT]):
    """Base class of RNN, GRU and LSTM.

    A call runs a batch of sequences and keeps nothing for a backward pass. `vjp` also returns the function that
    computes the gradients. `stream` steps through sequences that arrive piece by piece. The outputs of all three are
    equal bit for bit.
    """

    kind = "network"

    _defaults: dict[str, object]  # the options of the kind of cell, which repr shows where they differ

    def __init__(
        self, cell, input_size: int, hidden_size: int, num_layers: int, *, bias: bool, batch_first: bool,
        dropout: float, bidirectional: bool, reverse: bool, variational: bool, context_size: int,
        learn_initial_state: bool, dtype: DTypeLike, seed: Seed, storage: Storage | None,
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
        """Shapes {name: shape} of the parameters of one layer, without those for a context and the initial state."""
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
        """Shapes {name: shape} of all parameters."""
        layers = map(self._shapes_of_layer, range(self.num_layers))
        return {name: shape for shapes in (*layers, self._other_shapes()) for name, shape in shapes.items()}

    def _other_shapes(self):
        """Shapes {name: shape} of the parameters for a context and for the initial state."""
        G, H, D = self.num_gates, self.hidden_size, self.num_directions
        shapes = {}
        if self.context_size:
            for suffix in ["_l0", "_l0_reverse"][:D]:
                shapes["weight_ch" + suffix] = (G * H, self.context_size)
        if self.learn_initial_state:
            shapes |= {name: (self.num_layers * D, size) for name, size in zip(self.cell.states, self.state_sizes)}
        return shapes

    def _count(self):
        """Number of elements and of arrays of the parameters, without a loop over the layers."""
        first, above = ([math.prod(shape) for shape in self._shapes_of_layer(layer).values()] for layer in (0, 1))
        more, L = [math.prod(shape) for shape in self._other_shapes().values()], self.num_layers - 1
        return sum(first) + L * sum(above) + sum(more), len(first) + L * len(above) + len(more)

    def _reset_caches(self):
        super()._reset_caches()
        self._net = Net(
            self.cell, self.input_size, self.hidden_size, self.num_layers, self.num_directions, self.context_size,
            self.dtype, self.reverse,
        )  # fmt: skip
        self._packed_for = self._short_for = None
        self._tapes = Pool()

    def __getstate__(self):
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name not in ("_packed_for", "_short_for", "_tapes")}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._reset_caches()

    @property
    def num_gates(self) -> int:
        """Number of gates G: 1, 3 or 4."""
        return self.cell.gates

    @property
    def num_directions(self) -> int:
        """Number of directions D: 2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def output_size(self) -> int:
        """Number of features of y, those of all directions together."""
        return self.num_directions * self.state_sizes[0]

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Number of features of h, and of c for LSTM."""
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
            f"{name}={getattr(self, name)!r}"
            for name, default in self._defaults.items()
            if getattr(self, name) != default
        ]

    def _packed(self):
        """Packed copies of the current parameters, kept until the parameters or the instruction set change."""
        recording = _engine.recording()
        if recording is not None:
            return recording.once(self, lambda: Packed(self.cell, self.hidden_size, self.dtype, self.params))
        key = self.version, _engine.isa()
        kept = self._packed_for
        if kept is None or kept[0] != key:
            kept = key, Packed(self.cell, self.hidden_size, self.dtype, self.params)
            self._packed_for, self._short_for = kept, None  # streams of former weights are not kept
        return kept[1]

    def _short_calls(self, packed):
        """What computes short calls with these packed weights."""
        kept = self._short_for
        if kept is None or kept[0] is not packed:
            kept = self._short_for = packed, ShortCalls(self._net, packed)
        return kept[1]

    def stream(self, batch_size: int = 1, context: ArrayLike | None = None) -> _engine.Stream:
        """Step through sequences that arrive piece by piece.

        The stream uses the weights as of its creation, until ``s.refresh()`` is called. It belongs to one thread at a
        time.

        Parameters
        ----------
        batch_size : int, default 1
            Number of sequences that are processed together.
        context : ndarray, shape (batch_size, context_size), optional
            Context of each sequence. Required if the network has a `context_size`.

        Returns
        -------
        Stream
            Object with the methods ``step(x_t, out=None)``, which maps (batch_size, input_size) to (batch_size,
            output_size); ``run(x, out=None)``, for several steps; ``reset(rows=None)``, which restores the initial
            state of all or some rows; ``refresh()``; and the attribute ``state``, which can be set.

        Raises
        ------
        ValueError
            The network is bidirectional or reverse: its outputs depend on future inputs.

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
            option = "bidirectional" if self.bidirectional else "reverse"
            raise ValueError(
                f"this {self.kind} has {option}=True, so its outputs depend on future inputs: "
                f"a stream needs {option}=False"
            )
        batch_size = _check.size("batch_size", batch_size)
        needed = batch_size * self.num_layers * (self.cell.blocks + 2) * self.hidden_size * self.dtype.itemsize
        check_memory.fits(f"the states of a stream of {batch_size:,} sequences", needed, "use a smaller batch_size")
        return _engine.Stream(self, batch_size, _check.context(self, context, batch_size, False))

    def _stream_layers(self, context):
        """What a stream needs: (LayerWeights of each layer, bias rows of the first layer with a context or None)."""
        return stream_layers(self._net, self._packed(), context)

    def _stream_initial(self):
        """Initial state of each row of a stream, (L, 1, P) and (L, 1, H), or None for zeros."""
        return [np.array(s)[:, None] for s in self._initial_state()] if self.learn_initial_state else None

    def _stream_out(self, out, shape):
        """Raise the error for an `out` that a stream cannot write to."""
        _check.writable_like("out", out, shape, self.dtype)

    def _stream_state(self, value, batch_size):
        """Check a state that is assigned to a stream; returns it as a tuple of arrays."""
        return _check.state(self, "state", value, batch_size, False)

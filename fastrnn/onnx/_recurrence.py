"""A recurrent node at work: layers made once for the weights it is given, and ONNX's layout of inputs and outputs around them."""

from __future__ import annotations

import numpy as np

from fastrnn.onnx import _nodes

STREAMED = 64  # sequences up to which a stream is worth its memory
KEPT = 4


class Recurrence:
    """Computes one node. Safe to call from many threads."""

    def __init__(self, settings):
        self.settings = settings
        self._made = None
        self.fixed = None  # the layers, if the weights can't change
        self._streams = []  # (layer, stream) that nobody is using

    def layers(self, *weights):
        """The layers for W, R, B, P: those made before if the weights are still the same."""
        made = self._made
        if made is None or not all(_same(a, kept) for a, kept in zip(weights, made[0])):
            made = [_kept(a) for a in weights], [plan.layer() for plan in _nodes.plans(self.settings, *weights)]
            self._made = made
        return made[1]

    def __call__(self, X, W, R, B=None, sequence_lens=None, initial_h=None, initial_c=None, P=None):
        """Y, Y_h, and Y_c of an LSTM."""
        layers = self.layers(W, R, B, P)
        X = self._x(X, layers[0])
        batch_first, D = self.settings.batch_first, len(self.settings.reverse)
        X = X.transpose(1, 0, 2) if batch_first else X
        T, B = X.shape[:2]
        state = self._state(layers[0], B, initial_h, initial_c)
        results = []
        for d, layer in enumerate(layers):
            part = state if state is None or len(layers) == 1 else tuple(s[d : d + 1] for s in state)
            results.append(self._run(layer, X, part, sequence_lens))
        y, states = results[0]
        if len(results) == 2:
            y = np.concatenate([y for y, _ in results], axis=2)
            states = [np.concatenate(both) for both in zip(*(states for _, states in results))]
        Y = y.reshape(T, B, D, layers[0].hidden_size)
        Y = Y.transpose((1, 0, 2, 3) if batch_first else (0, 2, 1, 3))
        states = [s.transpose(1, 0, 2) for s in states] if batch_first else states
        return tuple(map(np.ascontiguousarray, (Y, *states)))

    def _run(self, layer, X, state, lengths):
        """y (T,B,D*H) and the tuple of states (D,B,H) of one layer."""
        if lengths is None and not (layer.bidirectional or layer.reverse) and 0 < X.shape[1] <= STREAMED:
            return self._stream(layer, X, state)
        try:
            y, state_n = layer(X, state if state is None or layer.cell.has_c else state[0], lengths=lengths)
        except (TypeError, ValueError) as error:  # of the lengths: the rest has been looked at
            raise type(error)(f"{self.settings.where}: sequence_lens: {error}") from error
        return y, state_n if layer.cell.has_c else (state_n,)

    def _stream(self, layer, X, state):
        """The same by a stream, which costs less to call."""
        made = self.take_stream(layer, X.shape[1])
        if state is None:
            made.reset()
        else:
            made.state = state if layer.cell.has_c else state[0]
        y, state_n = made.run(X), made.state
        self.give_stream(layer, made)
        return y, state_n if layer.cell.has_c else (state_n,)

    def take_stream(self, layer, B):
        """A stream of B sequences that nobody else has until it is given back, so the state in it is this thread's."""
        try:
            owner, made = self._streams.pop()
        except IndexError:
            return layer.stream(B)
        return made if owner is layer and made.batch_size == B else layer.stream(B)

    def give_stream(self, layer, stream):
        if len(self._streams) < KEPT:
            self._streams.append((layer, stream))

    def _x(self, X, layer):
        where = self.settings.where
        if not isinstance(X, np.ndarray) or X.ndim != 3:
            raise ValueError(
                f"{where}: X has shape {np.shape(X)}, but it must be {'(B, T, I)' if self.settings.batch_first else '(T, B, I)'}"
            )
        if X.dtype != layer.dtype:
            raise TypeError(f"{where}: X is {X.dtype}, but W is {layer.dtype}")
        if X.shape[2] != layer.input_size:
            raise ValueError(f"{where}: X has shape {X.shape}: {X.shape[2]} features, but W is for {layer.input_size}")
        return X

    def _state(self, layer, B, *initial):
        """The initial states, each (D, B, H), or None."""
        D, H, batch_first = len(self.settings.reverse), layer.hidden_size, self.settings.batch_first
        shape = (B, D, H) if batch_first else (D, B, H)
        initial = initial if layer.cell.has_c else initial[:1]
        for label, value in zip("hc", initial):
            if value is not None and value.shape != shape:
                raise ValueError(
                    f"{self.settings.where}: initial_{label} has shape {value.shape}, but X, W and the direction need {shape}"
                )
            if value is not None and value.dtype != layer.dtype:
                raise TypeError(f"{self.settings.where}: initial_{label} is {value.dtype}, but W is {layer.dtype}")
        if all(value is None for value in initial):
            return None
        initial = [np.zeros(shape, layer.dtype) if value is None else value for value in initial]
        return tuple(value.transpose(1, 0, 2) if batch_first else value for value in initial)


def frozen(a):
    """Whether nobody can change this array: it and what it is a view of are read-only."""
    while isinstance(a, np.ndarray):
        if a.flags.writeable:
            return False
        a = a.base
    return a is None or isinstance(a, bytes)


def _kept(a):
    """What to compare with later: the array itself if it can't change, else a copy."""
    return a if a is None or frozen(a) else (a.copy(),)


def _same(a, kept):
    return (
        a is kept
        if not isinstance(kept, tuple)
        else a is not None and np.array_equal(a, kept[0]) and a.dtype == kept[0].dtype
    )

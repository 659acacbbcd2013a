"""Run one recurrent node: layers made once for its weights, and ONNX's layout of inputs and outputs around them."""

from __future__ import annotations

import numpy as np

from fastrnn.onnx import _nodes


class Recurrence:
    """Computes one node. Safe to use from many threads."""

    def __init__(self, settings):
        self.settings = settings
        self._cached = None  # (weights, layers, their ShortCalls) of the last call
        self.fixed = None  # the layers and their ShortCalls, if the weights cannot change

    def layers(self, *weights):
        """The layers for W, R, B and P, and their ShortCalls: those of the last call if the weights are the same."""
        cached = self._cached
        if cached is None or not all(_is_same(a, kept) for a, kept in zip(weights, cached[0])):
            layers = [spec.layer() for spec in _nodes.specs(self.settings, *weights)]
            cached = [_kept(a) for a in weights], layers, [layer._short_calls(layer._packed()) for layer in layers]
            self._cached = cached
        return cached[1:]

    def __call__(self, X, W, R, B=None, sequence_lens=None, initial_h=None, initial_c=None, P=None):
        """Y, Y_h and, for an LSTM, Y_c."""
        layers, short_calls = self.layers(W, R, B, P)
        X = self._x(X, layers[0])
        batch_first, D = self.settings.batch_first, len(self.settings.reverse)
        X = X.transpose(1, 0, 2) if batch_first else X
        T, B = X.shape[:2]
        state = self._state(layers[0], B, initial_h, initial_c)
        results = []
        for d, layer in enumerate(layers):
            part = state if state is None or len(layers) == 1 else tuple(s[d : d + 1] for s in state)
            results.append(self._run(layer, short_calls[d], X, part, sequence_lens))
        y, states = results[0]
        if len(results) == 2:
            y = np.concatenate([y for y, _ in results], axis=2)
            states = [np.concatenate(both) for both in zip(*(states for _, states in results))]
        Y = y.reshape(T, B, D, layers[0].hidden_size)
        Y = Y.transpose((1, 0, 2, 3) if batch_first else (0, 2, 1, 3))
        states = [s.transpose(1, 0, 2) for s in states] if batch_first else states
        return tuple(map(np.ascontiguousarray, (Y, *states)))

    def _run(self, layer, short_calls, X, state, lengths):
        """y (T, B, D*H) and the tuple of states (D, B, H) of one layer."""
        if lengths is None:
            stream = short_calls.take(*X.shape[:2])
            if stream is not None:
                return short_calls.run(stream, X, state)
        try:
            y, state_n = layer(X, state if state is None or layer.cell.has_c else state[0], lengths=lengths)
        except (TypeError, ValueError) as error:  # of the lengths: the other arguments were checked before
            raise type(error)(f"{self.settings.where}: sequence_lens: {error}") from error
        return y, state_n if layer.cell.has_c else (state_n,)

    def _x(self, X, layer):
        where = self.settings.where
        if not isinstance(X, np.ndarray) or X.ndim != 3:
            needed = "(B, T, I)" if self.settings.batch_first else "(T, B, I)"
            raise ValueError(f"{where}: X has shape {np.shape(X)}, but it must be {needed}")
        if X.dtype != layer.dtype:
            raise TypeError(f"{where}: X is {X.dtype}, but W is {layer.dtype}")
        if X.shape[2] != layer.input_size:
            raise ValueError(f"{where}: X has shape {X.shape}: {X.shape[2]} features, but W is for {layer.input_size}")
        return X

    def _state(self, layer, B, *initial):
        """The initial states, each (D, B, H), or None."""
        D, H, batch_first = len(self.settings.reverse), layer.hidden_size, self.settings.batch_first
        where, shape = self.settings.where, (B, D, H) if batch_first else (D, B, H)
        initial = initial if layer.cell.has_c else initial[:1]
        for label, value in zip("hc", initial):
            if value is not None and value.shape != shape:
                raise ValueError(
                    f"{where}: initial_{label} has shape {value.shape}, but X, W and the direction need {shape}"
                )
            if value is not None and value.dtype != layer.dtype:
                raise TypeError(f"{where}: initial_{label} is {value.dtype}, but W is {layer.dtype}")
        if all(value is None for value in initial):
            return None
        initial = [np.zeros(shape, layer.dtype) if value is None else value for value in initial]
        return tuple(value.transpose(1, 0, 2) if batch_first else value for value in initial)


def _is_frozen(a):
    """Whether the elements of an array cannot change: it and everything it is a view of are read-only."""
    while isinstance(a, np.ndarray):
        if a.flags.writeable:
            return False
        a = a.base
    return a is None or isinstance(a, bytes)


def _kept(a):
    """What to compare the next call's weights with: the array itself if it cannot change, else a copy in a tuple."""
    return a if a is None or _is_frozen(a) else (a.copy(),)


def _is_same(a, kept):
    if not isinstance(kept, tuple):
        return a is kept
    return a is not None and np.array_equal(a, kept[0]) and a.dtype == kept[0].dtype

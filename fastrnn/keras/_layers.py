"""Keras' SimpleRNN, GRU, LSTM and RNN, with the time loop run by fastrnn."""

from __future__ import annotations

import importlib
from typing import Any

import keras
import numpy as np

from fastrnn.keras import _convert

_KINDS = {keras.layers.SimpleRNNCell: "SimpleRNN", keras.layers.GRUCell: "GRU", keras.layers.LSTMCell: "LSTM"}
_BACKEND = keras.backend.backend()


def _cells(layer):
    return list(layer.cell.cells) if isinstance(layer.cell, keras.layers.StackedRNNCells) else [layer.cell]


def _settings(cell, go_backwards):
    """The settings of a cell that `_convert.options` reads; it raises for an activation that is not one of Keras'."""
    found = {"use_bias": cell.use_bias, "go_backwards": go_backwards}
    for name in ("activation", "recurrent_activation"):
        if hasattr(cell, name):
            function = getattr(cell, name)
            known = getattr(keras.activations, getattr(function, "__name__", ""), None) is function
            found[name] = function.__name__ if known else repr(function)
    if hasattr(cell, "reset_after"):
        found["reset_after"] = cell.reset_after
    return found


def _check_layer(layer, use_cudnn=None):
    """Raise for options that cannot be run, when the layer is made."""
    name = type(layer).__name__
    if use_cudnn is True:
        raise NotImplementedError(f"{name}: use_cudnn=True is not supported: fastrnn runs on the CPU")
    for part in (layer, *_cells(layer)):
        if part is not layer and type(part) not in _KINDS:
            raise NotImplementedError(
                f"{name}: a cell of class {type(part).__name__} is not supported: only SimpleRNNCell, GRUCell and "
                "LSTMCell of Keras are"
            )
        if part.compute_dtype not in ("float32", "float64") or part.variable_dtype != part.compute_dtype:
            raise NotImplementedError(
                f"{name}: variables in {part.variable_dtype} and steps in {part.compute_dtype} are not supported: use "
                "dtype='float32' or 'float64'"
            )
        if part.compute_dtype != layer.compute_dtype:
            raise NotImplementedError(
                f"{name}: cells in {part.compute_dtype} of a layer in {layer.compute_dtype} are not supported: give "
                "both the same dtype"
            )
    for cell in _cells(layer):
        _convert.options(_KINDS[type(cell)], _settings(cell, layer.go_backwards))


class _Engine:
    """The fastrnn layers for the cells of a Keras layer, with the weights of the last call."""

    def __init__(self):
        self._made = {}

    def loaded(self, place, kind, settings, arrays):
        """The fastrnn layer of a cell with these weights.

        New weights go into a copy, because the gradients of an earlier call may still be computed with the old ones.
        """
        kept, net = self._made.get(place, (None, None))
        if kept is None or not all(map(_is_same, kept, arrays)):
            if net is None or net.dtype != arrays[0].dtype:
                sizes, options = (arrays[0].shape[0], arrays[1].shape[0]), _convert.options(kind, settings)
                net = _convert.make(kind, *sizes, options, dtype=str(arrays[0].dtype))
            else:
                net = net.copy()
            net.load_state_dict(_convert.to_params(kind, arrays))
            self._made[place] = [a.copy() for a in arrays], net
        return net

    def __deepcopy__(self, memo):
        return _Engine()


def _is_same(a, b):
    return a.dtype == b.dtype and np.array_equal(a, b)


def _numpy(value):
    """A tensor of the backend as an array; not inside compiled functions."""
    if _BACKEND == "torch":
        if value.device.type != "cpu":
            raise NotImplementedError(
                f"fastrnn's layers run on the CPU, but a tensor is on {value.device}: use the device 'cpu'"
            )
        return np.ascontiguousarray(value.detach().numpy())
    return np.ascontiguousarray(value)


def _weights(cell):
    """kernel, recurrent_kernel and bias as tensors of the backend."""
    return [keras.ops.convert_to_tensor(w) for w in (cell.kernel, cell.recurrent_kernel, cell.bias) if w is not None]


def _state(kind, state):
    """Convert Keras' list of states, each (B, H), to fastrnn's state."""
    h = [np.ascontiguousarray(s)[None] for s in state]
    return tuple(h) if kind == "LSTM" else h[0]


def _unstate(state):
    """Convert fastrnn's state to Keras' list of states."""
    return [np.ascontiguousarray(s[0]) for s in (state if isinstance(state, tuple) else (state,))]


def _run_torch(find, kind, two_biases, x, state, weights, mask):
    """Run a cell through torch's autograd."""
    import torch

    class Run(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, *rest):
            net = find([_numpy(w) for w in rest[len(state) :]])
            (y, state_n), ctx.back = net.vjp(
                _numpy(x), _state(kind, [_numpy(s) for s in rest[: len(state)]]), mask=mask
            )
            return (torch.from_numpy(np.ascontiguousarray(y)), *map(torch.from_numpy, _unstate(state_n)))

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, dy, *dstate):
            g = ctx.back(_numpy(dy), _state(kind, [_numpy(d) for d in dstate]))
            grads = _convert.from_params(kind, g.params, two_biases, gradients=True)
            return tuple(torch.from_numpy(np.ascontiguousarray(a)) for a in (g.x, *_unstate(g.state), *grads))

    return Run.apply(x, *state, *weights)


def _run_values(find, kind, state_count, x, *rest):
    """Run a cell on arrays: (y, *state_n).

    rest : the states, the weights, and a mask (B, T) or an empty array
    """
    x, *rest, mask = (np.ascontiguousarray(a) for a in (x, *rest))
    y, state_n = find(rest[state_count:])(x, _state(kind, rest[:state_count]), mask=mask if mask.size else None)
    return (np.ascontiguousarray(y), *_unstate(state_n))


def _run_jax(run, units, x, arguments, state_count):
    """Run a cell on jax arrays, or on tracers by a callback, without gradients."""
    import jax

    if not any(isinstance(a, jax.core.Tracer) for a in (x, *arguments)):
        return run(*map(np.asarray, (x, *arguments)))
    shapes = [(*x.shape[:2], units)] + [(x.shape[0], units)] * state_count

    @jax.custom_vjp
    def call(*arrays):
        return jax.pure_callback(run, tuple(jax.ShapeDtypeStruct(s, x.dtype) for s in shapes), *arrays)

    def refuse(*arrays):
        raise NotImplementedError(
            "fastrnn.keras trains on Keras' torch backend only, and jax is for inference: set KERAS_BACKEND=torch"
        )

    call.defvjp(refuse, refuse)
    return call(x, *arguments)


def _run_cell(layer, place, cell, x, state, mask):
    """Run one cell over all steps: y in the steps' own order, and the final states."""
    kind, settings = _KINDS[type(cell)], _settings(cell, layer.go_backwards)
    weights = _weights(cell)

    def find(arrays):
        return layer._engine.loaded(place, kind, settings, arrays)

    if _BACKEND == "torch":
        import torch

        steps = None if mask is None else _numpy(mask)
        if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *state, *weights)):
            return _run_torch(find, kind, settings.get("reset_after", False), x, state, weights, steps)
        arguments = [*map(_numpy, (x, *state, *weights)), np.zeros((0, 0), bool) if steps is None else steps]
        return tuple(map(torch.from_numpy, _run_values(find, kind, len(state), *arguments)))
    steps = np.zeros((0, 0), bool) if mask is None else mask

    def run(*arrays):
        return _run_values(find, kind, len(state), *arrays)

    if _BACKEND == "jax":
        return tuple(
            map(keras.ops.convert_to_tensor, _run_jax(run, cell.units, x, [*state, *weights, steps], len(state)))
        )
    if _BACKEND == "numpy":
        return run(x, *state, *weights, steps)
    raise NotImplementedError(f"fastrnn.keras runs on Keras' torch, jax and numpy backends, not on {_BACKEND}")


def _run(layer, x, initial_state, mask, training):
    """Run all cells, one after the other: y and the final states."""
    ops, new_states, cells = keras.ops, [], _cells(layer)
    mask = None if mask is None else ops.reshape(ops.cast(mask, "bool"), x.shape[:2])
    stacked = isinstance(layer.cell, keras.layers.StackedRNNCells)
    for place, (cell, state) in enumerate(zip(cells, initial_state if stacked else [initial_state], strict=True)):
        state = list(state) if isinstance(state, (list, tuple)) else [state]
        if training and cell.recurrent_dropout:
            raise NotImplementedError(
                f"{layer.name}: recurrent_dropout={cell.recurrent_dropout} is not supported in training: use 0, or "
                "dropout="
            )
        if training and cell.dropout:
            if getattr(cell, "implementation", 2) == 1:
                raise NotImplementedError(
                    f"{layer.name}: dropout={cell.dropout} with implementation=1, a mask for each gate, is not "
                    "supported: use implementation=2"
                )
            x = x * ops.expand_dims(cell.get_dropout_mask(x[:, 0, :]), 1)
        x, *state_n = _run_cell(layer, place, cell, x, state, mask)
        new_states.append(state_n if len(state_n) > 1 or not stacked else state_n[0])
    if mask is not None and layer.zero_output_for_mask:
        x = x * ops.expand_dims(ops.cast(mask, x.dtype), -1)
    return x, new_states if stacked else new_states[0]


if _BACKEND == "torch":
    # Dynamo leaves the compiled graph for this call.
    _run = importlib.import_module("torch").compiler.disable(_run)


class _Fast:
    """What the layers share: the time loop, in place of Keras' own."""

    def inner_loop(
        self, sequences: Any, initial_state: Any, mask: Any, training: bool = False
    ) -> tuple[Any, Any, list[Any]]:
        """Run the time loop. Keras calls this method; tensors are those of its backend.

        Parameters
        ----------
        sequences : tensor, shape (B, T, features)
            The input.
        initial_state : list of tensors, each (B, units)
            The state before the first step.
        mask : tensor, shape (B, T), or None
            Steps where it is False are skipped: the state stays and the output repeats the last one.
        training : bool, default False
            Whether dropout is active.

        Returns
        -------
        last_output : tensor, shape (B, units)
            The output of the step that was computed last.
        outputs : tensor, shape (B, T, units), or (B, 1, units) without return_sequences
            The outputs in the order in which they were computed.
        states : list of tensors
            The state after the last step.
        """
        ops = keras.ops
        state = list(initial_state) if isinstance(initial_state, (list, tuple)) else [initial_state]
        mask = mask[0] if isinstance(mask, (list, tuple)) else mask
        y, state_n = _run(self, ops.cast(ops.convert_to_tensor(sequences), self.compute_dtype), state, mask, training)
        y = ops.flip(y, axis=1) if self.go_backwards else y
        last = y[:, -1]
        return last, (y if self.return_sequences else ops.expand_dims(last, 1)), state_n


@keras.saving.register_keras_serializable("fastrnn")
class SimpleRNN(_Fast, keras.layers.SimpleRNN):
    """Replacement for keras.layers.SimpleRNN, run by fastrnn: same arguments, weights and config. See also `LSTM`.

    Parameters
    ----------
    units : int
        Number of hidden units.
    **options : dict
        The other arguments of keras.layers.SimpleRNN.

    Examples
    --------
    >>> layer = SimpleRNN(4, return_sequences=True)
    >>> tuple(layer(np.zeros((2, 5, 3), "float32")).shape)
    (2, 5, 4)
    """

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(units, **options)
        self._engine = _Engine()
        _check_layer(self)


class _Gated(_Fast):
    def __init__(self, units: int, *, use_cudnn: bool | str | None = None, **options: Any) -> None:
        # with "auto", Bidirectional would run Keras' own loop
        super().__init__(units, use_cudnn=False, **options)
        self._engine = _Engine()
        _check_layer(self, use_cudnn)


@keras.saving.register_keras_serializable("fastrnn")
class GRU(_Gated, keras.layers.GRU):
    """Replacement for keras.layers.GRU, run by fastrnn: same arguments, weights and config. See also `LSTM`.

    Parameters
    ----------
    units : int
        Number of hidden units.
    use_cudnn : bool or "auto", optional
        Accepted as in Keras and ignored, but True is an error.
    **options : dict
        The other arguments of keras.layers.GRU.

    Examples
    --------
    >>> layer = GRU(4, reset_after=False)
    >>> tuple(layer(np.zeros((2, 5, 3), "float32")).shape)
    (2, 4)
    """


@keras.saving.register_keras_serializable("fastrnn")
class LSTM(_Gated, keras.layers.LSTM):
    """Replacement for keras.layers.LSTM, run by fastrnn: same arguments, weights and config.

    It trains on Keras' torch backend. On jax (also inside jit, by a callback) and numpy it is for inference only.

    Parameters
    ----------
    units : int
        Number of hidden units.
    use_cudnn : bool or "auto", optional
        Accepted as in Keras and ignored, but True is an error.
    **options : dict
        The other arguments of keras.layers.LSTM.

    Raises
    ------
    NotImplementedError
        For use_cudnn=True, mixed precision, an activation that the engine does not have, or recurrent_dropout in
        training.

    Examples
    --------
    >>> layer = LSTM(4, return_state=True)
    >>> y, h, c = layer(np.zeros((2, 5, 3), "float32"))
    >>> tuple(y.shape), tuple(c.shape)
    ((2, 4), (2, 4))
    """


@keras.saving.register_keras_serializable("fastrnn")
class RNN(_Fast, keras.layers.RNN):
    """Replacement for keras.layers.RNN, run by fastrnn: same arguments, weights and config. See also `LSTM`.

    Parameters
    ----------
    cell : keras.layers.Layer or list of them
        A SimpleRNNCell, GRUCell or LSTMCell of Keras, a list of them, or StackedRNNCells.
    **options : dict
        The other arguments of keras.layers.RNN.

    Examples
    --------
    >>> layer = RNN([keras.layers.LSTMCell(4), keras.layers.GRUCell(6)])
    >>> tuple(layer(np.zeros((2, 5, 3), "float32")).shape)
    (2, 6)
    """

    def __init__(self, cell: Any, **options: Any) -> None:
        super().__init__(cell, **options)
        self._engine = _Engine()
        _check_layer(self)

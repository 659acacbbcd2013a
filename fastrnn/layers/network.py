"""Network: a chain of named layers and functions. Models of other libraries are loaded as such."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastrnn._check import cells as check_cells
from fastrnn._check.memory import Budget
from fastrnn._files import storage
from fastrnn._files.schema import of_file, shown
from fastrnn._types import Array, ArrayLike, IntsLike
from fastrnn.layers.feedforward import Embedding, Linear
from fastrnn.layers.network_config import SCHEMA, described, made
from fastrnn.layers.network_steps import FUNCTIONS, MERGES, RECURRENT, check_steps
from fastrnn.layers.network_stream import NetworkStream
from fastrnn.layers.stacked import Stacked
from fastrnn.parameters import Layer


class Network:
    """Chain of named layers and functions, used as one network.

    Parameters
    ----------
    steps : dict
        Steps by name, from the input on. A step is a layer or a function. Layers are `Embedding` (the first layer
        only), `RNN`, `GRU`, `LSTM`, `Stacked` and `Linear`, all of one dtype, the recurrent ones with the same
        batch_first. A function is given by its name or as a tuple (name, \\*numbers):

        - ``"tanh"``, ``"softmax"``, …: a key of ``fastrnn.layers.network.FUNCTIONS``;
        - ``"last"``: the last valid output of a recurrent layer, of each direction in its own order, (B, features);
        - ``("merge", "sum" | "mul" | "ave")``: combines the two directions of a bidirectional layer;
        - ``("mask", value)``: masks steps whose id, or all of whose features, are this value, in the recurrent
          layers after it;
        - ``"zero"``: sets masked steps to zero;
        - ``"flip"``: reverses the order of the steps.

    Raises
    ------
    ValueError
        Sizes do not fit, or a name is unknown. The message names the step.
    TypeError
        A step is neither a layer nor a function.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> net = Network({
    ...     "embedding": fastrnn.Embedding(9, 3),
    ...     "rnn": fastrnn.LSTM(3, 4),
    ...     "linear": fastrnn.Linear(4, 9),
    ...     "out": "softmax",
    ... })
    >>> p, ((h, c),) = net(np.array([[1], [2]]))
    >>> p.shape, h.shape, list(net.state_dict())[:2]
    ((2, 1, 9), (1, 1, 4), ['embedding.weight', 'rnn.weight_ih_l0'])
    """

    def __init__(self, steps: Mapping[str, Any]):
        try:
            steps = dict(steps)
        except (TypeError, ValueError):
            raise TypeError(
                f"the steps of a Network are {type(steps).__name__}, but they must be a dict: "
                'Network({"rnn": rnn, "linear": linear})'
            ) from None
        self.steps: dict[str, Any] = {
            name: step if hasattr(step, "params") else check_cells.plain(step) for name, step in steps.items()
        }
        self.layers: dict[str, Layer | Any] = {
            name: step for name, step in self.steps.items() if hasattr(step, "params")
        }
        check_steps(self.steps, self.layers)

    def __repr__(self):
        return f"Network({{{', '.join(f'{name!r}: {step!r}' for name, step in self.steps.items())}}})"

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of all layers."""
        return next(iter(self.layers.values())).dtype

    @property
    def batch_first(self) -> bool:
        """Whether x and y are (B, T, features)."""
        return next((layer.batch_first for layer in self.layers.values() if isinstance(layer, RECURRENT)), False)

    @property
    def num_parameters(self) -> int:
        """Number of elements of all parameters."""
        return sum(layer.num_parameters for layer in self.layers.values())

    def state_dict(self) -> dict[str, Array]:
        """Return the parameters of all layers.

        Returns
        -------
        dict of str to ndarray
            Read-only views by ``layer.parameter``. These are PyTorch's names, if the layers have the names of the
            modules.
        """
        return {f"{name}.{key}": array for name, layer in self.layers.items() for key, array in layer.params.items()}

    def __call__(
        self, x: ArrayLike, state: Sequence[Any] | None = None, *, lengths: IntsLike | None = None,
        mask: ArrayLike | None = None,
    ) -> tuple[Array, tuple[Any, ...]]:  # fmt: skip
        """Run the chain, without keeping anything for a backward pass.

        Parameters
        ----------
        x : ndarray, shape (T, B, features)
            Input, or (B, T, features) if batch_first; integer ids, (T, B) or (B, T), if the first layer is an
            Embedding.
        state : tuple, optional
            Initial state of each recurrent layer, or None in its place.
        lengths : array_like of int, shape (B,), optional
            Number of valid steps of each sequence.
        mask : array_like of bool, shape of x without its last axis, optional
            Steps that the recurrent layers compute.

        Returns
        -------
        y : ndarray
            Output of the last step.
        state_n : tuple
            Final state of each recurrent layer.

        Raises
        ------
        TypeError
            x does not have the network's dtype.
        ValueError
            A shape, a length or the number of states does not fit.
        """
        recurrent = [name for name, layer in self.layers.items() if isinstance(layer, RECURRENT)]
        if state is not None and len(state) != len(recurrent):
            raise ValueError(
                f"state has {len(state)} parts, but this Network has {len(recurrent)} recurrent layers, "
                f"{', '.join(recurrent)}: pass one state, or None, for each"
            )
        given, found, top = iter(state or [None] * len(recurrent)), [], None
        for step in self.steps.values():
            if isinstance(step, RECURRENT):
                x, state_n = step(x, next(given), lengths=lengths, mask=mask)
                found.append(state_n)
                top = step, state_n
            elif isinstance(step, (Embedding, Linear)):
                x = step(np.ascontiguousarray(x))
            else:
                name, *numbers = (step,) if isinstance(step, str) else step
                x, mask = self._apply(name, numbers, x, mask, top)
        return x, tuple(found)

    def _apply(self, name, numbers, x, mask, top):
        """Return (x, mask) after a function. top : the last recurrent layer and its final state."""
        if name in FUNCTIONS:
            return FUNCTIONS[name](x, *numbers).astype(self.dtype, copy=False), mask
        if name == "last":
            layer, state = top
            layer, state = (layer.layers[-1], state[-1]) if isinstance(layer, Stacked) else top
            h = state[0] if layer.cell.has_c else state
            return np.concatenate(h[-layer.num_directions :], axis=-1), None
        if name == "merge":
            return MERGES[numbers[0]](*np.split(x, 2, axis=-1)), mask
        if name == "mask":
            kept = np.asarray(x) != numbers[0]
            kept = kept if kept.ndim == 2 else kept.any(axis=-1)
            return x, kept if mask is None else mask & kept
        if name == "zero":
            return x if mask is None else x * mask[..., None], mask
        return np.ascontiguousarray(x[:, ::-1] if self.batch_first else x[::-1]), mask

    def stream(self, batch_size: int = 1) -> NetworkStream:
        """Run the network step by step, on sequences that arrive piece by piece.

        Parameters
        ----------
        batch_size : int, default 1
            Number of sequences, which are computed in parallel.

        Returns
        -------
        NetworkStream
            The stream, in the initial state.

        Raises
        ------
        ValueError
            A step needs the whole sequence: a reverse direction, "last", "merge", "mask", "zero" or "flip".
        """
        return NetworkStream(self, batch_size)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Save the network: config.json and one safetensors file.

        Parameters
        ----------
        directory : str or os.PathLike
            Directory to write to. It is created if it does not exist; a model in it is replaced.

        Raises
        ------
        OSError
            The directory cannot be written to. A model in it is unchanged.
        """
        storage.save(
            directory,
            self.state_dict(),
            {"model": "Network", "steps": [[name, described(step)] for name, step in self.steps.items()]},
        )

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Network:
        """Load a network that `save` wrote.

        Parameters
        ----------
        directory : str or os.PathLike
            Directory to read.

        Returns
        -------
        Network
            The network.

        Raises
        ------
        FileNotFoundError
            There is no model in the directory.
        ValueError
            The files are damaged, of a newer format, or of another kind of model.
        """
        arrays, config = storage.load(directory)
        found = config.get("model")
        if found != "Network":
            raise ValueError(
                f"{directory} contains a {found if isinstance(found, str) else shown(found)}, not a Network: "
                "use the load method of that class"
            )
        return cls._of(arrays, config, directory)

    @classmethod
    def _of(cls, arrays, config, directory):
        """Construct the network of a configuration. No layer may have more parameters than the arrays hold."""
        with of_file(os.path.join(directory, storage.CONFIG_FILES["model"])):
            SCHEMA.check(config)
            names, budget = [name for name, _ in config["steps"]], Budget(arrays)
            if len(set(names)) < len(names):
                raise ValueError("two of its steps have the same name")
            net = cls({name: made(description, budget) for name, description in config["steps"]})
            for name, array in net.state_dict().items():
                if name in arrays and arrays[name].dtype != array.dtype:
                    raise ValueError(
                        f"the array {name} is {arrays[name].dtype}, but the configuration says {array.dtype}"
                    )
            net.load_state_dict(arrays)
        return net

    def load_state_dict(self, arrays: Mapping[str, ArrayLike]) -> None:
        """Set the parameters of all layers.

        Parameters
        ----------
        arrays : dict of str to array_like
            New values by the names of `state_dict`, without exception.

        Raises
        ------
        ValueError
            A parameter is missing, unknown or of another shape. No parameter has changed then.
        """
        wanted = self.state_dict()
        for names, what in (
            (wanted.keys() - arrays.keys(), "missing"),
            (arrays.keys() - wanted.keys(), "unknown"),
        ):
            if names:
                raise ValueError(f"{what} parameters: {', '.join(sorted(names))}")
        for name, array in wanted.items():
            if np.shape(arrays[name]) != array.shape:
                raise ValueError(f"{name} has shape {np.shape(arrays[name])}, but it must have {array.shape}")
        for name, layer in self.layers.items():
            layer.load_state_dict({key: arrays[f"{name}.{key}"] for key in layer.params})

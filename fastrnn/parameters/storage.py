"""The flat buffer that holds parameters, the positions in it, and gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrnn import _check, _engine
from fastrnn._types import Array, ArrayLike, DTypeLike, MemberStates, State

if TYPE_CHECKING:
    from fastrnn._check.memory import Budget


@dataclass(frozen=True)
class Slot:
    """Position of one parameter in its storage.

    Parameters
    ----------
    offset : int
        Index of the parameter's first element in the flat buffer.
    shape : tuple of int
        Shape of the parameter.
    """

    offset: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def slice(self) -> slice:
        """Slice of the flat buffer that holds the parameter."""
        return slice(self.offset, self.offset + self.size)

    def view(self, flat: Array) -> Array:
        """View the parameter in a flat array.

        Parameters
        ----------
        flat : ndarray, 1-D
            Array with the layout of the storage: its flat buffer, or a gradient.

        Returns
        -------
        ndarray
            View of `flat`, with the parameter's shape.
        """
        return flat[self.slice].reshape(self.shape)


class Storage:
    """Flat buffer that the layers of a model share.

    Layers add their parameters when they are constructed. The first access to `flat` fixes the layout; after that no
    layer can be added.

    Parameters
    ----------
    dtype : {"float32", "float64"}, default "float32"
        Data type of the parameters.
    budget : Budget, optional
        Limit on the number of parameters, used when a model is loaded from a file.

    Attributes
    ----------
    size : int
        Number of elements.
    version : int
        Number of updates so far. Packed copies of the weights are rebuilt when it changes.

    Examples
    --------
    >>> storage = Storage("float32")
    >>> slot = storage.add(np.ones((2, 3), "float32"))
    >>> storage.flat.shape, slot.view(storage.flat).shape
    ((6,), (2, 3))
    >>> with storage.updating() as flat:
    ...     flat *= 2
    >>> storage.version, float(storage.flat.sum())
    (1, 12.0)
    """

    _view: Array | None = None

    def __init__(self, dtype: DTypeLike = "float32", budget: Budget | None = None):
        self.dtype: np.dtype[Any] = _check.dtype(dtype)
        self.budget = budget
        self.version = 0
        self.size = 0
        self._parts: list[Array] = []
        self._flat: Array | None = None

    def add(self, array: ArrayLike) -> Slot:
        """Append a parameter.

        Parameters
        ----------
        array : array_like
            Initial value of the parameter. It is copied, and converted to the dtype of the storage.

        Returns
        -------
        Slot
            Position of the parameter.

        Raises
        ------
        RuntimeError
            The buffer is already in use.
        """
        if self._flat is not None:
            raise RuntimeError(
                "this storage is already in use: construct all layers that share it before you call one of them"
            )
        array = np.ascontiguousarray(array, self.dtype)
        slot = Slot(self.size, array.shape)
        self._parts.append(array.ravel())
        self.size += array.size
        return slot

    def _buffer(self):
        if self._flat is None:
            self._flat = np.concatenate(self._parts) if self._parts else np.empty(0, self.dtype)
            self._parts = []
        return self._flat

    @property
    def flat(self) -> Array:
        """Read-only view of the whole buffer."""
        if self._view is None:
            self._view = self._buffer()[:]
            self._view.flags.writeable = False
        return self._view[:]  # so that its shape and flags can be changed without an effect on others

    def __getstate__(self):
        return {**self.__dict__, "_view": None}  # a copy of a view would not be a view

    def updating(self) -> AbstractContextManager[Array]:
        """Give write access to the buffer for a ``with`` block, and bump `version` at its end.

        Returns
        -------
        context manager
            Its value is the writable buffer, 1-D.
        """
        return _Updating(self)


class _Updating:
    def __init__(self, storage):
        self._storage = storage

    def __enter__(self):
        if _engine.recording() is not None:
            raise _engine.NotRecordable("parameters are changed")
        return self._storage._buffer()[:]

    def __exit__(self, *exception):
        self._storage.version += 1


@dataclass
class Gradients:
    """Gradients that a backward pass returns.

    There is one attribute for each argument of the forward pass. It is None where the argument was not given or its
    gradient not asked for.

    Parameters
    ----------
    x : ndarray, optional
        Gradient of the input, with the shape of x.
    state : ndarray or tuple, optional
        Gradient of the initial state: an array for RNN and GRU, a pair for LSTM, a tuple of these for Stacked.
    context : ndarray, optional
        Gradient of the context, (B, context_size).
    embedding : ndarray, optional
        Gradient of the embedding's weight, (num_embeddings, embedding_dim).
    params : dict of str to ndarray
        Gradients of the parameters by name, each with the parameter's shape.
    flat : ndarray
        The same values as `params`, 1-D and laid out as the layer's `flat`; None for a layer without parameters.
    """

    x: Array | None = None
    state: State | MemberStates | None = None
    context: Array | None = None
    embedding: Array | None = None
    params: Mapping[str, Array] = field(default_factory=dict)
    # Typed as Array, so that `optimizer.step(g.flat)` type-checks: only Dropout, which has no parameters, leaves it
    # None
    flat: Array = None  # type: ignore[assignment]

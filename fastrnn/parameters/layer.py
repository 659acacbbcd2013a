"""Base class of all layers with parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrnn import _check, _engine
from fastrnn._types import Array, ArrayLike, DTypeLike
from fastrnn.parameters.storage import Slot, Storage

if TYPE_CHECKING:
    from typing_extensions import Self


class Layer:
    """Base class of all layers with parameters.

    Attributes
    ----------
    dtype : numpy.dtype
        Data type of the parameters and of the computation.
    storage : Storage
        Buffer that holds the parameters.
    slots : dict of str to Slot
        Position of each parameter in the storage.
    num_parameters : int
        Number of elements of the layer's own parameters. A tied parameter belongs to the other layer.
    """

    kind = "layer"
    dtype: np.dtype[Any]
    storage: Storage
    slots: dict[str, Slot]
    num_parameters: int

    def _own(self, storage, dtype, arrays):
        """Add `arrays`, {name: initial value}, to the storage. A Slot ties the parameter to another layer's."""
        self.dtype = np.dtype(dtype)
        self.storage = Storage(dtype) if storage is None else storage
        if self.storage.dtype != self.dtype:
            raise TypeError(f"the layer computes in {self.dtype}, but its storage holds {self.storage.dtype}")
        self.slots = {n: a if isinstance(a, Slot) else self.storage.add(a) for n, a in arrays.items()}
        own = [self.slots[n] for n, a in arrays.items() if not isinstance(a, Slot)]
        self.num_parameters = sum(slot.size for slot in own)
        self._range = slice(own[0].offset, own[-1].offset + own[-1].size) if own else slice(0, 0)
        self._places = [(name, slot.slice, slot.shape) for name, slot in self.slots.items()]
        self._viewed = None

    @property
    def params(self) -> Mapping[str, Array]:
        """Read-only views of the parameters by name. Names and shapes are PyTorch's."""
        if self._viewed is None:
            flat = self.storage.flat
            self._viewed = MappingProxyType({name: slot.view(flat) for name, slot in self.slots.items()})
        return self._viewed

    @property
    def flat(self) -> Array:
        """Read-only 1-D view of the layer's own parameters, without tied ones."""
        return self.storage.flat[self._range]

    @property
    def version(self) -> int:
        """Number of updates of the storage so far."""
        return self.storage.version

    @contextlib.contextmanager
    def updating(self) -> Iterator[Array]:
        """Give write access to the parameters for a ``with`` block.

        Yields
        ------
        ndarray, 1-D
            Writable view of the layer's own parameters: ``with rnn.updating() as flat: flat -= 0.1 * g.flat``.
        """
        with self.storage.updating() as flat:
            yield flat[self._range]

    def state_dict(self) -> dict[str, Array]:
        """Copy the parameters.

        Returns
        -------
        dict of str to ndarray
            Copies of the parameters by name. For RNN, GRU, LSTM, Linear and Embedding the names are those of the same
            module in PyTorch.
        """
        return {name: np.array(view) for name, view in self.params.items()}

    def load_state_dict(self, mapping: Mapping[str, ArrayLike], strict: bool = True) -> None:
        """Set the parameters.

        If an error is raised, no parameter has changed.

        Parameters
        ----------
        mapping : dict of str to array_like
            New values by name: arrays, or CPU tensors. They are converted to the layer's dtype.
        strict : bool, default True
            Require that the names are exactly those of the layer. Otherwise missing parameters keep their values and
            unknown names are ignored.

        Raises
        ------
        KeyError
            A parameter is missing or unknown, with `strict`.
        ValueError
            A shape differs.
        TypeError
            A value is not an array of real numbers.
        """
        missing = [name for name in self.slots if name not in mapping]
        unknown = [name for name in mapping if name not in self.slots]
        if strict and (missing or unknown):
            raise KeyError(
                f"the state_dict does not match this {type(self).__name__}: missing {missing or 'nothing'}, "
                f"unknown {unknown or 'nothing'}; strict=False loads the parameters that match"
            )
        new = {name: np.asarray(mapping[name]) for name in self.slots if name in mapping}
        for name, array in new.items():
            if array.dtype.kind not in "fiub":
                raise TypeError(f"{name} is {array.dtype}, but it must be an array of real numbers")
            if array.shape != self.slots[name].shape:
                raise ValueError(
                    f"{name} has shape {array.shape}, but this {type(self).__name__} needs {self.slots[name].shape}"
                )
        flat = self.storage.flat
        # Conversions and copies need memory, so they are made before the first parameter changes
        new = {name: array.astype(self.dtype, copy=np.may_share_memory(array, flat)) for name, array in new.items()}
        with self.storage.updating() as flat:
            for name, array in new.items():
                self.slots[name].view(flat)[...] = array

    def _gradients(self, into):
        """Return writable views {name: array} to add gradients to, and the flat array that they are part of."""
        if into is None:
            into = _engine.zeros(self.storage.size, self.dtype)
        else:
            _check.writable_like("into", into, (self.storage.size,), self.dtype)
            recording = _engine.recording()
            if recording is not None:
                recording.check_gradient(into)
        views = {
            name: into[part] if len(shape) == 1 else into[part].reshape(shape) for name, part, shape in self._places
        }
        return views, into[self._range]

    def copy(self) -> Self:
        """Copy the layer.

        Returns
        -------
        Layer
            Independent layer with the same parameters.
        """
        return self.astype(self.dtype)

    def astype(self, dtype: DTypeLike) -> Self:
        """Copy the layer with its parameters converted to another dtype.

        Parameters
        ----------
        dtype : {"float32", "float64"}
            Data type of the new layer.

        Returns
        -------
        Layer
            Independent layer that computes in `dtype`.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._own(None, dtype, dict(self.params))
        other._reset_caches()
        return other

    def _reset_caches(self):
        """Drop what copies must not share. Layers with caches extend it."""
        self._viewed = None

    def __getstate__(self):
        state = self.__dict__.copy()
        state["_viewed"] = None
        return state

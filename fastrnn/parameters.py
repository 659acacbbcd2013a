"""Parameters: one flat buffer, torch's names for its parts, a version that says when they changed."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from fastrnn import _check


@dataclass(frozen=True)
class Slot:
    """Where one parameter lies in its storage."""

    offset: int
    shape: tuple[int, ...]

    @property
    def size(self):
        return math.prod(self.shape)

    @property
    def slice(self):
        return slice(self.offset, self.offset + self.size)

    def view(self, flat):
        """The parameter inside `flat`, which is laid out like the storage."""
        return flat[self.slice].reshape(self.shape)


class Storage:
    """One flat 1-D buffer that the layers of a model share.

    Layers add their arrays while they are built. The first use of `flat` freezes the layout.

    Parameters
    ----------
    dtype : "float32" or "float64"
    budget : fastrnn._check.memory.Budget, optional: how many parameters the layers may have together, where they come from a file

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

    def __init__(self, dtype="float32", budget=None):
        self.dtype = _check.dtype(dtype)
        self.budget = budget
        self.version = 0
        self.size = 0
        self._parts = []
        self._flat = None

    def add(self, array):
        """Append a parameter with its first value. Returns its Slot."""
        if self._flat is not None:
            raise RuntimeError(
                "this storage is in use already: make every layer that shares it before using one of them"
            )
        array = np.ascontiguousarray(array, self.dtype)
        slot = Slot(self.size, array.shape)
        self._parts.append(array.ravel())
        self.size += array.size
        return slot

    def _buffer(self):
        if self._flat is None:
            self._flat = np.concatenate(self._parts) if self._parts else np.empty(0, self.dtype)
            self._parts = None
        return self._flat

    @property
    def flat(self):
        """Read-only view of the whole buffer."""
        view = self._buffer()[:]
        view.flags.writeable = False
        return view

    @contextlib.contextmanager
    def updating(self):
        """Give the writable buffer; whatever was packed from it is stale afterwards."""
        try:
            yield self._buffer()[:]
        finally:
            self.version += 1


@dataclass
class Gradients:
    """What every backward returns: one attribute for each argument of the forward pass, None where there is nothing.

    params : {name: array}, each of the parameter's shape
    flat : the same numbers, 1-D, laid out as the layer's `flat`
    """

    x: np.ndarray | None = None
    state: object = None
    context: np.ndarray | None = None
    embedding: np.ndarray | None = None
    params: Mapping = field(default_factory=dict)
    flat: np.ndarray | None = None


class Layer:
    """Base of everything that owns parameters.

    num_parameters : how many numbers it owns; tied parameters belong to another layer
    """

    def _own(self, storage, dtype, arrays):
        """Register `arrays` {name: first value}; a Slot in place of an array ties the parameter to another one's."""
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
    def params(self):
        """Read-only views of the parameters, by torch's names."""
        if self._viewed is None:
            flat = self.storage.flat
            self._viewed = MappingProxyType({name: slot.view(flat) for name, slot in self.slots.items()})
        return self._viewed

    @property
    def flat(self):
        """Read-only 1-D view of the parameters that this layer owns (tied ones belong to another layer)."""
        return self.storage.flat[self._range]

    @property
    def version(self):
        return self.storage.version

    @contextlib.contextmanager
    def updating(self):
        """Give `flat` for writing: ``with rnn.updating() as flat: flat -= 0.1 * g.flat``."""
        with self.storage.updating() as flat:
            yield flat[self._range]

    def state_dict(self):
        """Copies of the parameters, by torch's names."""
        return {name: np.array(view) for name, view in self.params.items()}

    def load_state_dict(self, mapping, strict=True):
        """Take parameters from arrays or CPU tensors.

        Raises
        ------
        KeyError    a parameter is missing, or unknown (only if `strict`); nothing is changed then.
        ValueError  a shape differs; nothing is changed then.
        TypeError   a parameter is not of real numbers; nothing is changed then.
        """
        missing = [name for name in self.slots if name not in mapping]
        unknown = [name for name in mapping if name not in self.slots]
        if strict and (missing or unknown):
            raise KeyError(
                f"the state_dict does not fit this {type(self).__name__}: missing {missing or 'nothing'}, "
                f"unknown {unknown or 'nothing'}; strict=False takes what fits"
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
        # what needs memory comes before the first parameter changes: copies of what would be overwritten, and other dtypes
        new = {name: array.astype(self.dtype, copy=np.may_share_memory(array, flat)) for name, array in new.items()}
        with self.storage.updating() as flat:
            for name, array in new.items():
                self.slots[name].view(flat)[...] = array

    def _gradients(self, into):
        """Writable views {name: array} to add gradients to, and the flat array that belongs to the layer."""
        if into is None:
            into = np.zeros(self.storage.size, self.dtype)
        else:
            _check.writable_like("into", into, (self.storage.size,), self.dtype)
        return {name: into[part].reshape(shape) for name, part, shape in self._places}, into[self._range]

    def copy(self):
        """An independent layer with the same parameters."""
        return self.astype(self.dtype)

    def astype(self, dtype):
        """An independent layer with the same parameters, computing in another dtype."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._own(None, dtype, dict(self.params))
        other._reset_caches()
        return other

    def _reset_caches(self):
        """Forget what must not be shared between copies; layers with caches extend it."""
        self._viewed = None

    def __getstate__(self):
        state = self.__dict__.copy()
        state["_viewed"] = None
        return state


def torch_uniform(rng, shape, hidden_size):
    """U(-1/sqrt(H), 1/sqrt(H)), as torch.nn's recurrent layers."""
    bound = 1 / math.sqrt(hidden_size) if hidden_size else 0.0
    return rng.uniform(-bound, bound, shape)


def glorot_uniform(rng, shape):
    """U(-a, a) with a = sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio 2010)."""
    bound = math.sqrt(6 / max(1, sum(shape)))
    return rng.uniform(-bound, bound, shape)


def orthogonal(rng, shape):
    """Orthonormal columns (or rows, if there are fewer of them), drawn uniformly (Saxe et al. 2014)."""
    rows, cols = shape
    q, r = np.linalg.qr(rng.standard_normal((max(shape), min(shape))))
    q *= np.sign(np.diag(r))
    return q if rows >= cols else q.T


def initialise(layer, scheme="torch", *, forget_bias=None, seed=None):
    """Draw the parameters of an RNN, GRU or LSTM anew.

    Parameters
    ----------
    scheme : "torch", every parameter U(-1/sqrt(H), 1/sqrt(H));
        or "glorot", as Keras: Glorot-uniform input weights and orthogonal recurrent weights, each gate by itself, zero biases.
        A learnt initial state starts at zero
    forget_bias : the LSTM's forget gate starts with this bias in all (in bias_ih; bias_hh gets 0), optional
    seed : int or numpy Generator, optional

    Examples
    --------
    >>> import fastrnn
    >>> lstm = fastrnn.LSTM(3, 4)
    >>> initialise(lstm, "glorot", forget_bias=1.0, seed=0)
    >>> lstm.params["bias_ih_l0"][4:8]
    array([1., 1., 1., 1.], dtype=float32)
    """
    if scheme not in ("torch", "glorot"):
        raise ValueError(f"scheme is {scheme!r}, but it must be 'torch' or 'glorot'")
    H = layer.hidden_size
    gates = layer.num_gates
    if forget_bias is not None and gates != 4:
        raise ValueError(f"forget_bias is for an LSTM with a forget gate, but this is {layer!r}")
    values = initial_values(
        {name: slot.shape for name, slot in layer.slots.items()}, H, gates, scheme, np.random.default_rng(seed)
    )
    if forget_bias is not None:
        for name in values:
            if name.startswith("bias"):
                values[name][H : 2 * H] = forget_bias if "_ih_" in name else 0.0
    layer.load_state_dict(values)


def initial_values(shapes, hidden_size, num_gates, scheme, rng):
    """First values {name: array} for parameters of these shapes, in the order of the names."""
    values = {}
    for name, shape in shapes.items():
        if name in ("h_0", "c_0"):
            values[name] = np.zeros(shape)
        elif scheme == "torch":
            values[name] = torch_uniform(rng, shape, hidden_size)
        elif len(shape) == 1:  # biases and peepholes
            values[name] = np.zeros(shape)
        elif name.startswith("weight_hr"):
            values[name] = glorot_uniform(rng, shape)
        else:
            draw = orthogonal if "_hh_" in name else glorot_uniform
            gate_shape = (hidden_size, shape[1])
            values[name] = np.concatenate([draw(rng, gate_shape) for _ in range(num_gates)])
    return values

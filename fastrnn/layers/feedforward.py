"""Embedding, Linear and Dropout: what stands before, after and between recurrent layers."""

from __future__ import annotations

import functools
import math

import numpy as np

from fastrnn import _check, _engine
from fastrnn._check import memory as check_memory
from fastrnn._core.calls import next_call
from fastrnn.parameters import Gradients, Layer

_WORD = (1 << 64) - 1


def random_key(*words: int) -> int:
    """A 64-bit key made of integers: the same words give the same key, any other words an unrelated one.

    The dropout masks of a training run come from ``random_key(seed, update)``, so a resumed run draws the same masks.
    The mixing is splitmix64's (Steele, Lea & Flood 2014).

    Examples
    --------
    >>> random_key(1, 2) == random_key(1, 2), random_key(1, 2) == random_key(2, 1)
    (True, False)
    """
    key = 0
    for word in words:
        key = (key ^ (word & _WORD)) + 0x9E3779B97F4A7C15 & _WORD
        key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
        key = (key ^ (key >> 27)) * 0x94D049BB133111EB & _WORD
        key ^= key >> 31
    return key


class Embedding(Layer):
    """A table with one row for each symbol: ``y = weight[ids]``.

    To feed a recurrent layer, give it the ids and this layer, ``rnn(ids, embedding=emb)``: then rows of ``weight @
    W_ih.T`` are gathered and nothing is multiplied per step.

    Parameters
    ----------
    num_embeddings : number of symbols V; ids are 0..V-1
    embedding_dim : length E of a row
    dtype : "float32" or "float64"
    seed : int or numpy Generator, optional. The rows start as standard normal numbers, as torch's.
    storage : the Storage of the model this layer belongs to, optional

    Examples
    --------
    >>> emb = Embedding(5, 3, seed=0)
    >>> emb.params["weight"].shape, emb(np.array([[4, 0], [1, 1]])).shape
    ((5, 3), (2, 2, 3))
    """

    kind = "Embedding"

    def __init__(self, num_embeddings: int, embedding_dim: int, *, dtype="float32", seed=None, storage=None):
        self.num_embeddings = _check.size("num_embeddings", num_embeddings)
        self.embedding_dim = _check.size("embedding_dim", embedding_dim)
        shape = (self.num_embeddings, self.embedding_dim)
        check_memory.shaped(f"Embedding{shape}", {"weight": shape}, _check.dtype(dtype), storage)
        rng = np.random.default_rng(seed)
        self._own(storage, dtype, {"weight": rng.standard_normal(shape)})

    def __repr__(self):
        return f"Embedding({self.num_embeddings}, {self.embedding_dim}, dtype='{self.dtype}')"

    def __call__(self, ids) -> np.ndarray:
        """Look the rows up.

        Parameters
        ----------
        ids : ints of any shape, each in 0..num_embeddings-1

        Returns
        -------
        y : shape of ids + (embedding_dim,)

        Raises
        ------
        TypeError   ids are not integers.
        ValueError  an id lies outside the table; the message names it and the size of the table.
        """
        return self._gather(_check.symbols(self, ids))

    def _gather(self, ids):
        y = np.empty((ids.size, self.embedding_dim), self.dtype)
        _engine.gather(self.params["weight"], ids.ravel(), y)
        return y.reshape(*ids.shape, self.embedding_dim)

    def vjp(self, ids):
        """As a call, and also the backward: ``y, backward = emb.vjp(ids)``; ``backward(dy, into=None)`` gives Gradients.

        Examples
        --------
        >>> emb = Embedding(3, 2)
        >>> y, backward = emb.vjp(np.array([2, 2, 0]))
        >>> backward(np.ones_like(y)).params["weight"]
        array([[1., 1.],
               [0., 0.],
               [2., 2.]], dtype=float32)
        """
        ids = _check.symbols(self, ids).copy()
        y = self._gather(ids)

        def backward(dy, *, into=None) -> Gradients:
            dy = _check.like_output(self, dy, y_shape, self.dtype)
            grads, flat = self._gradients(into)
            _engine.scatter_add(dy.reshape(-1, self.embedding_dim), ids.ravel(), grads["weight"])
            return Gradients(params=grads, flat=flat)

        y_shape = y.shape
        return y, backward


class Linear(Layer):
    """``y = x @ weight.T + bias`` over the last axis.

    Parameters
    ----------
    in_features, out_features : sizes of a row of x and of y bias : whether to add a bias weight : Slot of a parameter
    (out_features, in_features) in the same storage, optional: it is this layer's weight too ("tied"). It
        belongs to the other layer; in a shared gradient buffer, ``into=``, the gradients of both uses add up.
    dtype : "float32" or "float64"
    seed : int or numpy Generator, optional. Both parameters start as U(-1/sqrt(in_features), 1/sqrt(in_features)), as torch's.
    storage : the Storage of the model this layer belongs to, optional

    Notes
    -----
    A row of y has the same bits whatever the other rows are, however many there are, and on any number of threads.

    Examples
    --------
    >>> linear = Linear(3, 4, seed=0)
    >>> linear(np.zeros((5, 2, 3), "float32")).shape
    (5, 2, 4)
    >>> import fastrnn
    >>> storage = fastrnn.Storage("float32")
    >>> emb = Embedding(9, 3, storage=storage)
    >>> tied = Linear(3, 9, weight=emb.slots["weight"], storage=storage)
    >>> bool((tied.params["weight"] == emb.params["weight"]).all()), tied.num_parameters
    (True, 9)
    """

    kind = "Linear"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        weight=None,
        dtype="float32",
        seed=None,
        storage=None,
    ):
        self.in_features = _check.size("in_features", in_features)
        self.out_features = _check.size("out_features", out_features)
        shape = (self.out_features, self.in_features)
        shapes = ({"weight": shape} if weight is None else {}) | ({"bias": shape[:1]} if bias else {})
        check_memory.shaped(f"Linear{shape[::-1]}", shapes, _check.dtype(dtype), storage)
        rng = np.random.default_rng(seed)
        bound = 1 / math.sqrt(self.in_features)
        arrays = {
            "weight": rng.uniform(-bound, bound, shape)
            if weight is None
            else _check.slot("weight", weight, shape, storage)
        }
        if bias:
            arrays["bias"] = rng.uniform(-bound, bound, self.out_features)
        self._packed = None
        self._own(storage, dtype, arrays)

    def __repr__(self):
        bias = "" if "bias" in self.slots else ", bias=False"
        return f"Linear({self.in_features}, {self.out_features}{bias}, dtype='{self.dtype}')"

    def __call__(self, x, *, out=None) -> np.ndarray:
        """Multiply.

        Parameters
        ----------
        x : (..., in_features) of the layer's dtype. A C-contiguous array is used without copying.
        out : (..., out_features), C-contiguous, optional: receives y and is returned; may overlap x

        Returns
        -------
        y : (..., out_features)

        Raises
        ------
        TypeError   x has another dtype.
        ValueError  x has another number of features; the message names both.
        """
        return self._product(_check.apart(_check.features(self, x), out), out)

    def _product(self, x, out):
        shape = (*x.shape[:-1], self.out_features)
        y = np.empty(shape, self.dtype) if out is None else _check.writable_like("out", out, shape, self.dtype)
        _engine.product(
            x.reshape(-1, self.in_features),
            self._packed_weight()[0],
            self.params.get("bias"),
            y.reshape(-1, self.out_features),
        )
        return y

    def vjp(self, x, *, out=None):
        """As a call, and also the backward: ``y, backward = linear.vjp(x)``.

        ``backward(dy, need_x=True, into=None)`` gives Gradients with `.x` (None if not needed) and `.params`. x must
        not be changed until then: it is not copied. Neither may the parameters (RuntimeError).

        Examples
        --------
        >>> linear = Linear(3, 2, seed=0)
        >>> y, backward = linear.vjp(np.ones((4, 3), "float32"))
        >>> g = backward(np.ones_like(y))
        >>> g.x.shape, g.params["weight"][0], g.params["bias"]
        ((4, 3), array([4., 4., 4.], dtype=float32), array([4., 4.], dtype=float32))
        """
        x = _check.apart(_check.features(self, x), out)
        y = self._product(x, out)
        y_shape, version = y.shape, self.version

        def backward(dy, *, need_x=True, into=None) -> Gradients:
            dy = _check.like_output(self, dy, y_shape, self.dtype)
            _check.same_version(self, version)
            dy_rows = dy.reshape(-1, self.out_features)
            grads, flat = self._gradients(into)
            _engine.gemm(True, False, dy_rows, x.reshape(-1, self.in_features), grads["weight"])
            if "bias" in grads:
                _engine.column_sum(dy_rows, grads["bias"])
            dx = None
            if need_x:
                dx = np.empty(x.shape, self.dtype)
                _engine.product(dy_rows, self._packed_weight()[1], None, dx.reshape(-1, self.in_features))
            return Gradients(x=dx, params=grads, flat=flat)

        return y, backward

    def _packed_weight(self):
        """The weight as the engine's products want it, for y and for dx, made once for each version."""
        key = (self.version, _engine.isa(), self.dtype)
        packed = self._packed
        if packed is None or packed[0] != key:
            weight = self.params["weight"]
            packed = self._packed = (key, (_engine.pack(weight), _engine.pack(np.ascontiguousarray(weight.T))))
        return packed[1]

    def _reset_caches(self):
        super()._reset_caches()
        self._packed = None

    def __getstate__(self):
        return {**super().__getstate__(), "_packed": None}


@functools.lru_cache(maxsize=16)
def _row_ids(T, B, variational):
    """(T*B,) uint64 in time-major order: batch row << 32 | t; with t = 0 everywhere if `variational`."""
    rows = np.arange(B, dtype=np.uint64) << np.uint64(32)
    steps = np.zeros(T, np.uint64) if variational else np.arange(T, dtype=np.uint64)
    ids = (steps[:, None] | rows).ravel()
    ids.flags.writeable = False
    return ids


class Dropout:
    """Zero each element with probability p and multiply the others by 1 / (1 - p); only in `vjp`, that is in training.

    Parameters
    ----------
    p : probability of a zero, 0 <= p < 1
    variational : one mask for all steps of a sequence (Gal & Ghahramani 2016) instead of a fresh one at each step
    seed : int, optional: where the masks come from when a call gives no `rng`

    Notes
    -----
    A mask is a function of (key, batch row, t, unit) and of nothing else: not of the number of threads, not of the
    batch.

    Examples
    --------
    >>> dropout = Dropout(0.5)
    >>> x = np.ones((3, 2, 4), "float32")
    >>> bool((dropout(x) == x).all())
    True
    >>> y, backward = dropout.vjp(x, rng=7)
    >>> sorted(set(y.ravel().tolist())), bool((backward(x).x == y).all())
    ([0.0, 2.0], True)
    """

    kind = "Dropout"

    def __init__(self, p: float = 0.5, *, variational: bool = False, seed: int | None = None):
        self.p = _check.probability("p", p)
        self.variational = bool(variational)
        self._seed = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
        self._calls = 0

    def __repr__(self):
        return f"Dropout({self.p}{', variational=True' if self.variational else ''})"

    def __call__(self, x) -> np.ndarray:
        """A copy of x: nothing is dropped outside training."""
        return np.array(x)

    def vjp(self, x, *, rng: int | None = None, out=None):
        """Drop, and also give the backward: ``y, backward = dropout.vjp(x)``.

        Parameters
        ----------
        x : (T, B, n), or (B, n), float32 or float64
        rng : int in 0..2**64-1, optional: the key of the mask. By default a fresh one at each call, from the layer's seed.
        out : array like x, C-contiguous, optional: receives y; may be x itself

        ``backward(dy, out=None)`` gives Gradients with `.x`; `out` as above, it may be dy.
        """
        if rng is not None:
            return self._vjp(x, _check.random_key(rng), out)
        with next_call(self) as number:
            return self._vjp(x, random_key(self._seed, number), out)

    def _vjp(self, x, key, out):
        x = _check.real_rows("x", x)
        shape, dtype = x.shape, x.dtype

        def masked(source, out):
            y = np.empty(shape, dtype) if out is None else _check.writable_like("out", out, shape, dtype)
            if y is not source:
                y[...] = source
            T, B = shape[:2] if len(shape) == 3 else (1, shape[0])
            if self.p:
                _engine.dropout(y.reshape(-1, shape[-1]), _row_ids(T, B, self.variational), key, self.p)
            return y

        def backward(dy, *, out=None) -> Gradients:
            dy = _check.like_output(self, dy, shape, dtype)
            return Gradients(x=masked(dy, out))

        return masked(x, out), backward

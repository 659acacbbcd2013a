"""Embedding, Linear and Dropout: the layers before, after and between recurrent layers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from fastrnn import _check, _engine
from fastrnn._check import memory as check_memory
from fastrnn._check.arrays import contiguous, copied_ids
from fastrnn._core.batch import even_row_ids
from fastrnn._core.calls import next_call
from fastrnn._core.keys import random_key
from fastrnn._types import Array, ArrayLike, DTypeLike, IntsLike, Seed
from fastrnn.parameters import Gradients, Layer, Slot, Storage


class Embedding(Layer):
    """Table with one row for each symbol: ``y = weight[ids]``.

    A recurrent layer takes the ids and this layer together, ``rnn(ids, embedding=emb)``. It then gathers rows of
    ``weight @ W_ih.T``, so that no product is computed per step.

    Parameters
    ----------
    num_embeddings : int
        Number of symbols V. Ids are 0 to V - 1.
    embedding_dim : int
        Number of features of a row.
    dtype : {"float32", "float64"}, default "float32"
        Data type of the table.
    seed : int or numpy.random.Generator, optional
        Source of the initial values, which are standard normal, as in PyTorch.
    storage : Storage, optional
        Buffer that the layers of a model share.

    Examples
    --------
    >>> emb = Embedding(5, 3, seed=0)
    >>> emb.params["weight"].shape, emb(np.array([[4, 0], [1, 1]])).shape
    ((5, 3), (2, 2, 3))
    """

    kind = "Embedding"

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, dtype: DTypeLike = "float32", seed: Seed = None,
        storage: Storage | None = None,
    ):  # fmt: skip
        self.num_embeddings = _check.size("num_embeddings", num_embeddings)
        self.embedding_dim = _check.size("embedding_dim", embedding_dim)
        shape = (self.num_embeddings, self.embedding_dim)
        check_memory.shaped(f"Embedding{shape}", {"weight": shape}, _check.dtype(dtype), storage)
        rng = np.random.default_rng(seed)
        self._own(storage, dtype, {"weight": rng.standard_normal(shape)})

    def __repr__(self):
        return f"Embedding({self.num_embeddings}, {self.embedding_dim}, dtype='{self.dtype}')"

    def __call__(self, ids: IntsLike) -> Array:
        """Look up rows.

        Parameters
        ----------
        ids : array_like of int
            Ids of any shape, each from 0 to num_embeddings - 1.

        Returns
        -------
        ndarray
            Rows, with the shape of ids and a last axis of embedding_dim features.

        Raises
        ------
        TypeError
            ids are not integers.
        ValueError
            An id is not in the table.
        """
        return self._gather(_check.symbols(self, ids))

    def _gather(self, ids):
        y = _engine.empty((ids.size, self.embedding_dim), self.dtype)
        _engine.gather(self.params["weight"], ids.ravel(), y)
        return y.reshape(*ids.shape, self.embedding_dim)

    def vjp(self, ids: IntsLike) -> tuple[Array, Callable[..., Gradients]]:
        """Look up rows, and return the function that computes the gradients.

        Parameters
        ----------
        ids : array_like of int
            Ids of any shape.

        Returns
        -------
        y : ndarray
            Rows, as `__call__` returns them.
        backward : callable
            Function of ``(dy, *, into=None)`` that returns `Gradients`. With `into`, an array laid out as the storage's
            flat buffer, the gradients are added to it.

        Examples
        --------
        >>> emb = Embedding(3, 2)
        >>> y, backward = emb.vjp(np.array([2, 2, 0]))
        >>> backward(np.ones_like(y)).params["weight"]
        array([[1., 1.],
               [0., 0.],
               [2., 2.]], dtype=float32)
        """
        ids = _check.symbols(self, ids)
        ids = copied_ids(ids)
        y = self._gather(ids)

        def backward(dy, *, into=None) -> Gradients:
            dy = _check.like_output(self, dy, y_shape, self.dtype)
            grads, flat = self._gradients(into)
            _engine.scatter_add(dy.reshape(-1, self.embedding_dim), ids.ravel(), grads["weight"])
            return Gradients(params=grads, flat=flat)

        y_shape = y.shape
        return y, backward


class Linear(Layer):
    """Affine map of the last axis: ``y = x @ weight.T + bias``.

    Parameters
    ----------
    in_features : int
        Number of features of x.
    out_features : int
        Number of features of y.
    bias : bool, default True
        Add a bias.
    weight : Slot, optional
        Parameter of another layer in the same storage, (out_features, in_features), to use as the weight ("tied
        weights"). It remains the other layer's parameter. In a shared gradient buffer, ``into=``, the gradients of both
        uses add up.
    dtype : {"float32", "float64"}, default "float32"
        Data type of the parameters and of the computation.
    seed : int or numpy.random.Generator, optional
        Source of the initial values, drawn from U(-1/sqrt(in_features), 1/sqrt(in_features)), as in PyTorch.
    storage : Storage, optional
        Buffer that the layers of a model share. Required with `weight`.

    Notes
    -----
    A row of y does not depend, bit for bit, on the other rows, on their number, or on the number of threads.

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
        self, in_features: int, out_features: int, bias: bool = True, *, weight: Slot | None = None,
        dtype: DTypeLike = "float32", seed: Seed = None, storage: Storage | None = None,
    ):  # fmt: skip
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

    def __call__(self, x: ArrayLike, *, out: Array | None = None) -> Array:
        """Apply the map.

        Parameters
        ----------
        x : ndarray, shape (..., in_features)
            Input, of the layer's dtype. A C-contiguous array is used without copying.
        out : ndarray, shape (..., out_features), optional
            C-contiguous array to write y to. It may overlap x.

        Returns
        -------
        ndarray, shape (..., out_features)
            y, or `out`.

        Raises
        ------
        TypeError
            x does not have the layer's dtype.
        ValueError
            x does not have in_features features, or `out` does not fit.
        """
        return self._product(_check.apart(_check.features(self, x), out), out)

    def _product(self, x, out):
        shape = (*x.shape[:-1], self.out_features)
        y = _engine.empty(shape, self.dtype) if out is None else _check.writable_like("out", out, shape, self.dtype)
        _engine.product(
            x.reshape(-1, self.in_features),
            self._packed_weight()[0],
            self.params.get("bias"),
            y.reshape(-1, self.out_features),
        )
        return y

    def vjp(self, x: ArrayLike, *, out: Array | None = None) -> tuple[Array, Callable[..., Gradients]]:
        """Apply the map, and return the function that computes the gradients.

        Parameters
        ----------
        x : ndarray, shape (..., in_features)
            Input, of the layer's dtype. It is not copied: do not change it before the backward pass.
        out : ndarray, shape (..., out_features), optional
            C-contiguous array to write y to. It may overlap x, which is then copied.

        Returns
        -------
        y : ndarray, shape (..., out_features)
            Output, or `out`.
        backward : callable
            Function of ``(dy, *, need_x=True, into=None)`` that returns `Gradients`, with x None if ``need_x=False``.
            With `into`, the gradients of the parameters are added to that array. It raises RuntimeError if the
            parameters have changed since.

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
                dx = _engine.empty(x.shape, self.dtype)
                _engine.product(dy_rows, self._packed_weight()[1], None, dx.reshape(-1, self.in_features))
            return Gradients(x=dx, params=grads, flat=flat)

        return y, backward

    def _packed_weight(self):
        """The weight packed for the products that give y and dx, kept until it or the instruction set changes."""
        recording = _engine.recording()
        if recording is not None:
            return recording.once(self, self._pack)
        key = (self.version, _engine.isa(), self.dtype)
        packed = self._packed
        if packed is None or packed[0] != key:
            packed = self._packed = (key, self._pack())
        return packed[1]

    def _pack(self):
        weight = self.params["weight"]
        return _engine.pack(weight), _engine.pack(weight, transposed=True)

    def _reset_caches(self):
        super()._reset_caches()
        self._packed = None

    def __getstate__(self):
        return {**super().__getstate__(), "_packed": None}


class Dropout:
    """Set elements to zero with probability p and multiply the others by 1 / (1 - p), in `vjp` only.

    Parameters
    ----------
    p : float, default 0.5
        Dropout probability, 0 <= p < 1.
    variational : bool, default False
        Use one mask for all steps of a sequence (Gal & Ghahramani 2016) instead of a new one at each step.
    seed : int, optional
        Source of the masks, for calls without `rng`.

    Notes
    -----
    A mask is a function of the key, the batch row, the step and the unit only. It does not depend on the number of
    threads or the batch size.

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

    def __call__(self, x: ArrayLike) -> Array:
        """Return a copy of x: without training nothing is dropped.

        Parameters
        ----------
        x : array_like
            Input of any shape.

        Returns
        -------
        ndarray
            Copy of x.
        """
        return np.array(x)

    def vjp(
        self, x: ArrayLike, *, rng: int | None = None, out: Array | None = None
    ) -> tuple[Array, Callable[..., Gradients]]:
        """Drop elements, and return the function that computes the gradient.

        Parameters
        ----------
        x : ndarray, shape (T, B, n) or (B, n)
            Input, float32 or float64.
        rng : int, optional
            Key of the mask, 0 to 2**64 - 1. By default each call draws a new mask from the layer's seed.
        out : ndarray, shape of x, optional
            C-contiguous array to write y to. It may be x itself.

        Returns
        -------
        y : ndarray, shape of x
            Output, or `out`.
        backward : callable
            Function of ``(dy, *, out=None)`` that returns `Gradients` with x. `out` may be dy itself.
        """
        if rng is not None:
            return self._vjp(x, _check.rng_key(rng), out)
        with next_call(self) as number:
            return self._vjp(x, random_key(self._seed, number), out)

    def _vjp(self, x, key, out):
        x = _check.real_rows("x", x)
        shape, dtype = x.shape, x.dtype

        def masked(source, out):
            y = _engine.empty(shape, dtype) if out is None else _check.writable_like("out", out, shape, dtype)
            if not y.size:
                return y
            if y is not source:
                rows = contiguous(_check.apart(source, y, same=True)).reshape(-1, shape[-1])
                _engine.copy_rows(rows, y.reshape(-1, shape[-1]))
            T, B = shape[:2] if len(shape) == 3 else (1, shape[0])
            if self.p:
                _engine.dropout(y.reshape(-1, shape[-1]), even_row_ids(T, B, self.variational), key, self.p)
            return y

        def backward(dy, *, out=None) -> Gradients:
            dy = _check.like_output(self, dy, shape, dtype)
            return Gradients(x=masked(dy, out))

        return masked(x, out), backward

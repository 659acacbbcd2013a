"""Optimisers of the parameters in a flat buffer. Formulas and defaults are those of torch.optim."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastrnn import _check, _engine
from fastrnn._types import Array
from fastrnn.parameters import Layer, Storage

_TINY = float(np.finfo(np.float32).tiny)  # a smaller scale would be 0 in float32 ...
_SHIFT = 100  # ... so it is multiplied by this power of two, and the gradient divided by it


class Optimizer:
    """Base class of the optimisers.

    Parameters
    ----------
    target : layer or Storage
        What to train: a layer, or the storage that the layers of a model share.
    lr : float
        Learning rate. It can be changed between steps, ``optimizer.lr = 1e-4``.

    Attributes
    ----------
    updates : int
        Number of steps so far.
    squares : bool
        Whether the optimiser computes squares of the gradient, which overflow first.
    """

    _options: tuple[str, ...] = ()
    _moments: tuple[str, ...] = ()
    squares = False

    def __init__(self, target: Layer | Storage, lr: float):
        self.target = target
        self.lr = _check.number("lr", lr, least=0)
        self.updates = 0
        self._arrays: dict[str, Array] | None = None

    def __repr__(self):
        options = "".join(f", {name}={getattr(self, name)}" for name in self._options)
        return f"{type(self).__name__}(lr={self.lr}{options})"

    def step(self, grad: Array, scale: float = 1.0) -> None:
        """Update the parameters.

        The values of `grad` are not checked. Without clipping, test ``np.isfinite(grad).all()`` to detect an overflow.

        Parameters
        ----------
        grad : ndarray, 1-D
            Gradient, with the layout and dtype of ``target.flat``.
        scale : float, default 1.0
            Factor to multiply the gradient by, as returned by `clip_by_global_norm`.

        Raises
        ------
        ValueError
            The dtype or the shape of grad does not fit.
        FloatingPointError
            scale is NaN or 0, which `clip_by_global_norm` returns for a gradient that is not finite. No parameter has
            changed.
        """
        _check.flat_gradient(grad, self.target.flat, type(self).__name__)
        if not 0 < scale < math.inf:
            raise FloatingPointError(
                f"scale is {scale}, so the gradient has NaN or infinite values: skip this update "
                "(no parameter has changed)"
            )
        if 0 < scale < _TINY:
            grad, scale = np.ldexp(grad, -_SHIFT), math.ldexp(scale, _SHIFT)
        arrays = self._state()
        with self.target.updating() as flat:
            self.updates += 1
            try:
                self._update(flat, grad, scale, **arrays)
            except BaseException:  # no parameter has changed: the kernels themselves do not fail
                self.updates -= 1
                raise

    def _state(self):
        """Arrays of the optimiser's state; zeros before the first step."""
        if self._arrays is None:
            self._arrays = {name: np.zeros_like(self.target.flat) for name in self._moments}
        return self._arrays

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to continue the training.

        Returns
        -------
        dict
            Name of the optimiser, lr, options, number of updates, and copies of the arrays of its state.
        """
        scalars = {name: getattr(self, name) for name in ("lr", *self._options, "updates")}
        arrays = {name: array.copy() for name, array in self._state().items()}
        return {"optimizer": type(self).__name__, **scalars, **arrays}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state. If an error is raised, nothing has changed.

        Parameters
        ----------
        state : dict
            Result of `state_dict`.

        Raises
        ------
        KeyError
            An entry is missing.
        ValueError
            The state belongs to another optimiser, or to parameters of another size.
        """
        if state.get("optimizer") != type(self).__name__:
            raise ValueError(
                f"the state belongs to {state.get('optimizer')!r}, but this optimiser is {type(self).__name__!r}"
            )
        names = ("lr", *self._options, "updates")
        missing = [name for name in (*names, *self._moments) if name not in state]
        if missing:
            raise KeyError(f"the state for this {type(self).__name__} lacks {', '.join(missing)}")
        flat = self.target.flat
        arrays = {name: np.array(state[name], flat.dtype) for name in self._moments}
        for name, array in arrays.items():
            if array.shape != flat.shape:
                raise ValueError(
                    f"{name} has shape {array.shape}, but the parameters of this {type(self).__name__} "
                    f"have shape {flat.shape}"
                )
        for name in names:
            setattr(self, name, state[name])
        self._arrays = arrays


class SGD(Optimizer):
    """Stochastic gradient descent with optional momentum: ``v = momentum*v + g; p -= lr*v``.

    Parameters
    ----------
    target : layer or Storage
        What to train: a layer, or the storage that the layers of a model share.
    lr : float, default 1e-3
        Learning rate. It can be changed between steps, ``optimizer.lr = 1e-4``.
    momentum : float, default 0.0
        Factor on the previous update v.
    weight_decay : float, default 0.0
        Multiple of the parameters that is added to the gradient.
    nesterov : bool, default False
        Use Nesterov's variant, ``p -= lr * (g + momentum*v)``. Requires a momentum above 0.

    Examples
    --------
    >>> import fastrnn
    >>> storage = fastrnn.Storage("float32")
    >>> _ = storage.add(np.ones(3, "float32"))
    >>> optimizer = SGD(storage, lr=0.5)
    >>> optimizer.step(np.array([1, 2, 3], "float32"))
    >>> storage.flat
    array([ 0.5,  0. , -0.5], dtype=float32)
    """

    _options = ("momentum", "weight_decay", "nesterov")

    def __init__(
        self, target: Layer | Storage, lr: float = 1e-3, *, momentum: float = 0.0, weight_decay: float = 0.0,
        nesterov: bool = False,
    ):  # fmt: skip
        super().__init__(target, lr)
        self.momentum = _check.number("momentum", momentum, least=0)
        self.weight_decay = _check.number("weight_decay", weight_decay, least=0)
        self.nesterov = bool(nesterov)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=True requires momentum > 0, but momentum is 0")
        self._moments = ("v",) if self.momentum else ()

    def _update(self, flat, grad, scale, v=None):
        _engine.sgd(
            flat, grad, v,
            lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov, scale=scale,
        )  # fmt: skip


class RMSprop(Optimizer):
    """RMSprop: ``s = alpha*s + (1-alpha)*g*g; p -= lr*g / (sqrt(s) + eps)`` (Hinton's lecture 6e).

    Parameters
    ----------
    target : layer or Storage
        What to train: a layer, or the storage that the layers of a model share.
    lr : float, default 1e-2
        Learning rate. It can be changed between steps, ``optimizer.lr = 1e-4``.
    alpha : float, default 0.99
        Decay of the running mean of squared gradients, 0 to 1.
    eps : float, default 1e-8
        Added to the square root, so that the quotient is finite.
    weight_decay : float, default 0.0
        Multiple of the parameters that is added to the gradient.
    """

    _options = ("alpha", "eps", "weight_decay")
    _moments = ("s",)
    squares = True

    def __init__(
        self, target: Layer | Storage, lr: float = 1e-2, *, alpha: float = 0.99, eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):  # fmt: skip
        super().__init__(target, lr)
        self.alpha = _check.number("alpha", alpha, least=0, most=1)
        self.eps = _check.number("eps", eps, least=0)
        self.weight_decay = _check.number("weight_decay", weight_decay, least=0)

    def _update(self, flat, grad, scale, s):
        _engine.rmsprop(
            flat, grad, s, lr=self.lr, alpha=self.alpha, eps=self.eps, weight_decay=self.weight_decay, scale=scale
        )


class Adagrad(Optimizer):
    """Adagrad: ``s += g*g; p -= lr / (1 + (update-1)*lr_decay) * g / (sqrt(s) + eps)`` (Duchi et al. 2011).

    Parameters
    ----------
    target : layer or Storage
        What to train: a layer, or the storage that the layers of a model share.
    lr : float, default 1e-2
        Learning rate. It can be changed between steps, ``optimizer.lr = 1e-4``.
    lr_decay : float, default 0.0
        Decay of the learning rate per update.
    eps : float, default 1e-10
        Added to the square root, so that the quotient is finite.
    weight_decay : float, default 0.0
        Multiple of the parameters that is added to the gradient.
    """

    _options = ("lr_decay", "eps", "weight_decay")
    _moments = ("s",)
    squares = True

    def __init__(
        self, target: Layer | Storage, lr: float = 1e-2, *, lr_decay: float = 0.0, eps: float = 1e-10,
        weight_decay: float = 0.0,
    ):  # fmt: skip
        super().__init__(target, lr)
        self.lr_decay = _check.number("lr_decay", lr_decay, least=0)
        self.eps = _check.number("eps", eps, least=0)
        self.weight_decay = _check.number("weight_decay", weight_decay, least=0)

    def _update(self, flat, grad, scale, s):
        lr = self.lr / (1 + (self.updates - 1) * self.lr_decay)
        _engine.adagrad(flat, grad, s, lr=lr, eps=self.eps, weight_decay=self.weight_decay, scale=scale)


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015).

    Parameters
    ----------
    target : layer or Storage
        What to train: a layer, or the storage that the layers of a model share.
    lr : float, default 1e-3
        Learning rate. It can be changed between steps, ``optimizer.lr = 1e-4``.
    betas : pair of float, default (0.9, 0.999)
        Decay of the running means of gradients and of squared gradients, 0 <= beta < 1.
    eps : float, default 1e-8
        Added to the square root, so that the quotient is finite.
    weight_decay : float, default 0.0
        Multiple of the parameters that is added to the gradient.

    Examples
    --------
    >>> import fastrnn
    >>> linear = fastrnn.Linear(3, 2)
    >>> optimizer = Adam(linear, lr=0.002)
    >>> optimizer
    Adam(lr=0.002, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0)
    >>> y, backward = linear.vjp(np.ones((4, 3), "float32"))
    >>> optimizer.step(backward(np.ones_like(y)).flat)
    >>> optimizer.updates, linear.version
    (1, 1)
    """

    _options = ("betas", "eps", "weight_decay")
    _moments = ("m", "v")
    squares = True
    _decoupled = False

    def __init__(
        self, target: Layer | Storage, lr: float = 1e-3, *, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 0.0,
    ):  # fmt: skip
        super().__init__(target, lr)
        beta1, beta2 = betas
        self.betas = (
            _check.number("betas[0]", beta1, least=0, below=1),
            _check.number("betas[1]", beta2, least=0, below=1),
        )
        self.eps = _check.number("eps", eps, least=0)
        self.weight_decay = _check.number("weight_decay", weight_decay, least=0)

    def _update(self, flat, grad, scale, m, v):
        beta1, beta2 = self.betas
        _engine.adam(
            flat, grad, m, v, lr=self.lr, beta1=beta1, beta2=beta2, eps=self.eps,
            weight_decay=self.weight_decay, decoupled=self._decoupled, step=self.updates, scale=scale,
        )  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state. If an error is raised, nothing has changed.

        Parameters
        ----------
        state : dict
            Result of `state_dict`.
        """
        super().load_state_dict(state)
        self.betas = tuple(self.betas)  # a list in a checkpoint


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019).

    Parameters
    ----------
    target : layer or Storage
        What to train: a layer, or the storage that the layers of a model share.
    lr : float, default 1e-3
        Learning rate. It can be changed between steps, ``optimizer.lr = 1e-4``.
    betas : pair of float, default (0.9, 0.999)
        Decay of the running means of gradients and of squared gradients, 0 <= beta < 1.
    eps : float, default 1e-8
        Added to the square root, so that the quotient is finite.
    weight_decay : float, default 1e-2
        Decay of the parameters per update, times lr. It does not enter the running means.
    """

    _decoupled = True

    def __init__(
        self, target: Layer | Storage, lr: float = 1e-3, *, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 1e-2,
    ):  # fmt: skip
        super().__init__(target, lr, betas=betas, eps=eps, weight_decay=weight_decay)


OPTIMIZERS = {"sgd": SGD, "rmsprop": RMSprop, "adagrad": Adagrad, "adam": Adam, "adamw": AdamW}

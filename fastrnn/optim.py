"""Optimisers on a flat buffer, gradient clipping, and learning-rate schedules. Formulas and defaults are torch.optim's."""

from __future__ import annotations

import math

import numpy as np

from fastrnn import _check, _engine

_TINY = float(np.finfo(np.float32).tiny)  # a smaller factor would be 0 in float32
_SHIFT = 100  # powers of two that such a factor is too small by


class Optimizer:
    """Base of the optimisers.

    Parameters
    ----------
    target : a layer, or the Storage that the layers of a model share
    lr : learning rate; may be set between steps, ``optimizer.lr = 1e-4``
    """

    _options: tuple[str, ...] = ()
    _moments: tuple[str, ...] = ()
    squares = False  # whether it keeps squares of the gradient, which overflow first

    def __init__(self, target, lr):
        self.target = target
        self.lr = _check.number("lr", lr, least=0)
        self.updates = 0
        self._arrays = None

    def __repr__(self):
        options = "".join(f", {name}={getattr(self, name)}" for name in self._options)
        return f"{type(self).__name__}(lr={self.lr}{options})"

    def step(self, grad, scale: float = 1.0) -> None:
        """Update the parameters.

        Parameters
        ----------
        grad : 1-D, laid out and typed as ``target.flat``
        scale : the gradient is multiplied by this on the way, as `clip_by_global_norm` wants it

        Raises
        ------
        ValueError  grad has another dtype or shape; the message names both.
        FloatingPointError  scale is NaN or 0, as of a gradient that is not finite. The parameters are as they were. (`grad` itself is not
            looked at: without clipping, ask ``np.isfinite(grad).all()``.)
        """
        _check.flat_gradient(grad, self.target.flat, type(self).__name__)
        if not 0 < scale < math.inf:
            raise FloatingPointError(
                f"scale is {scale}, which is that of a gradient with NaN or infinity: nothing was changed, leave this update out"
            )
        if 0 < scale < _TINY:
            grad, scale = np.ldexp(grad, -_SHIFT), math.ldexp(scale, _SHIFT)
        arrays = self._state()
        with self.target.updating() as flat:
            self.updates += 1
            try:
                self._update(flat, grad, scale, **arrays)
            except BaseException:  # before anything was changed: the kernels themselves do not fail
                self.updates -= 1
                raise

    def _state(self):
        """The running means, zeros before the first step."""
        if self._arrays is None:
            self._arrays = {name: np.zeros_like(self.target.flat) for name in self._moments}
        return self._arrays

    def state_dict(self) -> dict:
        """What a checkpoint needs: the name, lr, options and number of updates, and copies of the running means."""
        scalars = {name: getattr(self, name) for name in ("lr", *self._options, "updates")}
        arrays = {name: array.copy() for name, array in self._state().items()}
        return {"optimizer": type(self).__name__, **scalars, **arrays}

    def load_state_dict(self, state: dict) -> None:
        """Continue where `state_dict` was taken.

        Raises
        ------
        KeyError, ValueError  the state is another optimiser's, or for parameters of another size; nothing is changed then.
        """
        if state.get("optimizer") != type(self).__name__:
            raise ValueError(
                f"the state is of {state.get('optimizer')!r}, but this optimiser is {type(self).__name__!r}"
            )
        names = ("lr", *self._options, "updates")
        missing = [name for name in (*names, *self._moments) if name not in state]
        if missing:
            raise KeyError(f"the state of this {type(self).__name__} lacks {', '.join(missing)}")
        flat = self.target.flat
        arrays = {name: np.array(state[name], flat.dtype) for name in self._moments}
        for name, array in arrays.items():
            if array.shape != flat.shape:
                raise ValueError(
                    f"{name} has shape {array.shape}, but the parameters of this {type(self).__name__} have {flat.shape}"
                )
        for name in names:
            setattr(self, name, state[name])
        self._arrays = arrays


class SGD(Optimizer):
    """Gradient descent, with momentum and Nesterov's variant: ``v = momentum*v + g; p -= lr*v``.

    Examples
    --------
    >>> import fastrnn
    >>> storage = fastrnn.parameters.Storage("float32")
    >>> _ = storage.add(np.ones(3, "float32"))
    >>> optimizer = SGD(storage, lr=0.5)
    >>> optimizer.step(np.array([1, 2, 3], "float32"))
    >>> storage.flat
    array([ 0.5,  0. , -0.5], dtype=float32)
    """

    _options = ("momentum", "weight_decay", "nesterov")

    def __init__(
        self, target, lr: float = 1e-3, *, momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False
    ):
        super().__init__(target, lr)
        self.momentum = _check.number("momentum", momentum, least=0)
        self.weight_decay = _check.number("weight_decay", weight_decay, least=0)
        self.nesterov = bool(nesterov)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=True needs a momentum above 0, but momentum is 0")
        self._moments = ("v",) if self.momentum else ()

    def _update(self, flat, grad, scale, v=None):
        _engine.sgd(
            flat, grad, v,
            lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov, scale=scale,
        )  # fmt: skip


class RMSprop(Optimizer):
    """``s = alpha*s + (1-alpha)*g*g; p -= lr*g / (sqrt(s) + eps)`` (Hinton's lecture 6e)."""

    _options = ("alpha", "eps", "weight_decay")
    _moments = ("s",)
    squares = True

    def __init__(self, target, lr: float = 1e-2, *, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0):
        super().__init__(target, lr)
        self.alpha = _check.number("alpha", alpha, least=0, most=1)
        self.eps = _check.number("eps", eps, least=0)
        self.weight_decay = _check.number("weight_decay", weight_decay, least=0)

    def _update(self, flat, grad, scale, s):
        _engine.rmsprop(
            flat, grad, s, lr=self.lr, alpha=self.alpha, eps=self.eps, weight_decay=self.weight_decay, scale=scale
        )


class Adagrad(Optimizer):
    """``s += g*g; p -= lr / (1 + (update-1)*lr_decay) * g / (sqrt(s) + eps)`` (Duchi et al. 2011)."""

    _options = ("lr_decay", "eps", "weight_decay")
    _moments = ("s",)
    squares = True

    def __init__(
        self, target, lr: float = 1e-2, *, lr_decay: float = 0.0, eps: float = 1e-10, weight_decay: float = 0.0
    ):
        super().__init__(target, lr)
        self.lr_decay = _check.number("lr_decay", lr_decay, least=0)
        self.eps = _check.number("eps", eps, least=0)
        self.weight_decay = _check.number("weight_decay", weight_decay, least=0)

    def _update(self, flat, grad, scale, s):
        lr = self.lr / (1 + (self.updates - 1) * self.lr_decay)
        _engine.adagrad(flat, grad, s, lr=lr, eps=self.eps, weight_decay=self.weight_decay, scale=scale)


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015); `weight_decay` is added to the gradient.

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

    def __init__(self, target, lr: float = 1e-3, *, betas=(0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0):
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

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.betas = tuple(self.betas)  # a checkpoint gives a list


class AdamW(Adam):
    """Adam whose weight decay acts on the parameters, not through the gradient (Loshchilov & Hutter 2019)."""

    _decoupled = True

    def __init__(self, target, lr: float = 1e-3, *, betas=(0.9, 0.999), eps: float = 1e-8, weight_decay: float = 1e-2):
        super().__init__(target, lr, betas=betas, eps=eps, weight_decay=weight_decay)


OPTIMIZERS = {"sgd": SGD, "rmsprop": RMSprop, "adagrad": Adagrad, "adam": Adam, "adamw": AdamW}


def clip_by_value(grad, limit: float) -> None:
    """Cut each element of a flat gradient to -limit..limit, in place. NaN stays NaN.

    Examples
    --------
    >>> g = np.array([0.5, -3, 7])
    >>> clip_by_value(g, 1)
    >>> g
    array([ 0.5, -1. ,  1. ])
    """
    _engine.clip_value(_check.gradient(grad, write=True), _check.number("limit", limit, above=0))


def clip_by_global_norm(grad, max_norm: float) -> tuple[float, float]:
    """The Euclidean norm of a flat gradient, and the factor that brings it down to at most max_norm.

    The gradient is not touched: hand the factor to the optimiser, ``optimizer.step(grad, scale=scale)``, which applies it on the way.
    The factor is torch's, ``min(1, max_norm / (norm + 1e-6))``; it is NaN if the norm is, and 0 if the gradient is infinite. A finite
    gradient has a factor above 0, however large it is.

    Examples
    --------
    >>> clip_by_global_norm(np.array([3.0, 4.0]), 10.0)
    (5.0, 1.0)
    """
    max_norm = _check.number("max_norm", max_norm, above=0)
    grad = _check.gradient(grad)
    norm = math.sqrt(_engine.sum_of_squares(grad))
    scale = max_norm / (norm + 1e-6)
    if norm == math.inf:
        largest = float(np.abs(grad).max())
        if math.isfinite(largest):  # only the squares of float64 have overflowed
            relative = math.sqrt(_engine.sum_of_squares(grad / largest))
            norm, scale = largest * relative, max_norm / largest / relative or math.ulp(0.0)
    elif scale == 0:  # max_norm is as small as the norm is large
        scale = math.ulp(0.0)
    return norm, 1.0 if scale > 1 else scale


class Schedule:
    """A factor on the learning rate as a function of time: ``schedule(epoch) -> factor``.

    Time is counted in epochs and may be fractional (update / updates per epoch). The base is the constant 1.
    """

    def __call__(self, epoch: float) -> float:
        return 1.0

    def observe(self, loss: float) -> None:
        """Take note of a validation loss. Only `ReduceOnPlateau` does."""

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Continue where `state_dict` was taken."""

    def __repr__(self):
        options = ", ".join(f"{name}={value}" for name, value in self.__dict__.items() if not name.startswith("_"))
        return f"{type(self).__name__}({options})"


class Constant(Schedule):
    """Always the same learning rate."""


class StepDecay(Schedule):
    """Times `factor` at the end of every `every` epochs, from the end of epoch `after` on; char-rnn: factor 0.97, after 10.

    Examples
    --------
    >>> schedule = StepDecay(0.5, after=2)
    >>> [schedule(epoch) for epoch in (0, 1.9, 2, 3, 4)]
    [1.0, 1.0, 0.5, 0.25, 0.125]
    """

    def __init__(self, factor: float, every: int = 1, after: int = 1):
        self.factor = _check.number("factor", factor, above=0, most=1)
        self.every = _check.size("every", every)
        self.after = _check.size("after", after)

    def __call__(self, epoch):
        return self.factor ** (1 + (math.floor(epoch) - self.after) // self.every) if epoch >= self.after else 1.0


class ExponentialDecay(Schedule):
    """``factor ** epoch``, smoothly."""

    def __init__(self, factor: float):
        self.factor = _check.number("factor", factor, above=0, most=1)

    def __call__(self, epoch):
        return self.factor**epoch


class Cosine(Schedule):
    """Half a cosine from 1 at epoch 0 down to `minimum` at epoch `epochs` (Loshchilov & Hutter 2017, without restarts).

    Examples
    --------
    >>> schedule = Cosine(10, minimum=0.1)
    >>> [round(schedule(epoch), 3) for epoch in (0, 5, 10, 11)]
    [1.0, 0.55, 0.1, 0.1]
    """

    def __init__(self, epochs: float, minimum: float = 0.0):
        self.epochs = _check.number("epochs", epochs, above=0)
        self.minimum = _check.number("minimum", minimum, least=0, most=1)

    def __call__(self, epoch):
        return self.minimum + (1 - self.minimum) * (1 + math.cos(math.pi * min(1.0, epoch / self.epochs))) / 2


class LinearWarmup(Schedule):
    """From almost 0 up to 1 in a straight line over `epochs`, times another schedule."""

    def __init__(self, epochs: float, then: Schedule | None = None):
        self.epochs = _check.number("epochs", epochs, above=0)
        self.then = Constant() if then is None else then

    def __call__(self, epoch):
        return min(1.0, max(1e-3, epoch / self.epochs)) * self.then(epoch)

    def observe(self, loss):
        self.then.observe(loss)

    def state_dict(self):
        return self.then.state_dict()

    def load_state_dict(self, state):
        self.then.load_state_dict(state)


class ReduceOnPlateau(Schedule):
    """Times `factor` whenever the validation loss has not fallen by `threshold` (relative) for more than `patience` looks at it.

    Examples
    --------
    >>> schedule = ReduceOnPlateau(factor=0.5, patience=1)
    >>> for loss in (2.0, 1.5, 1.6, 1.6): schedule.observe(loss)
    >>> schedule(4.0)
    0.5
    """

    def __init__(self, factor: float = 0.1, patience: int = 10, threshold: float = 1e-4):
        self.factor = _check.number("factor", factor, above=0, below=1)
        self.patience = _check.size("patience", patience, least=0)
        self.threshold = _check.number("threshold", threshold, least=0, below=1)
        self._current, self._best, self._bad = 1.0, None, 0

    def __call__(self, epoch):
        return self._current

    def observe(self, loss):
        if self._best is None or loss < self._best * (1 - self.threshold):
            self._best, self._bad = loss, 0
            return
        self._bad += 1
        if self._bad > self.patience:
            self._current *= self.factor
            self._bad = 0

    def state_dict(self):
        return {"current": self._current, "best": self._best, "bad": self._bad}

    def load_state_dict(self, state):
        self._current, self._best, self._bad = state["current"], state["best"], state["bad"]

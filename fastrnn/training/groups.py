"""Parameter groups: other optimizer settings for some of a model's parameters, and frozen parameters."""

from __future__ import annotations

import contextlib
import fnmatch

import numpy as np

from fastrnn import optim


class Range:
    """Some consecutive parameters of a storage, with the interface that an optimizer needs."""

    def __init__(self, storage, part: slice):
        self._storage, self._part = storage, part

    @property
    def flat(self):
        return self._storage.flat[self._part]

    @contextlib.contextmanager
    def updating(self):
        with self._storage.updating() as flat:
            yield flat[self._part]


class Grouped:
    """One optimizer for each range of parameters with the same settings, with the interface of a single optimizer.

    Parameters
    ----------
    make : callable
        ``make(target, lr=..., **options)`` returns an Optimizer.
    storage : Storage
        The storage of the model.
    slots : dict
        ``{name: Slot}`` of the parameters of the model.
    groups : mapping, optional
        ``{pattern: options}``. A pattern is the name of a parameter (``linear.bias``) or of a layer (``embedding``),
        or has wildcards (``*bias*``). The options are those of the optimizer, including `lr`. The last pattern that
        matches a name applies.
    freeze : sequence of str
        Patterns of parameters that are not changed.
    lr : float
        Learning rate of all other parameters.
    **options
        Options of the optimizer of all other parameters.

    Raises
    ------
    ValueError
        A pattern matches no parameter; the message lists the parameters.

    Examples
    --------
    >>> import fastrnn
    >>> linear = fastrnn.Linear(2, 3, seed=0)
    >>> optimizer = Grouped(fastrnn.optim.SGD, linear.storage, linear.slots, {"bias": {"lr": 0.5}}, ["weight"], lr=0.1)
    >>> optimizer
    Grouped(6:9 SGD(lr=0.5, momentum=0.0, weight_decay=0.0, nesterov=False))
    >>> optimizer.lr = 0.05  # all learning rates, in the same proportion
    >>> optimizer
    Grouped(6:9 SGD(lr=0.25, momentum=0.0, weight_decay=0.0, nesterov=False))
    """

    def __init__(self, make, storage, slots, groups=None, freeze=(), *, lr: float, **options):
        self._base = self._lr = lr
        settings = {slot.offset: (slot, dict(options)) for slot in slots.values()}
        for pattern, others in (groups or {}).items():
            for slot in _matching(pattern, slots):
                settings[slot.offset][1].update(others)
        for pattern in freeze:
            for slot in _matching(pattern, slots):
                settings[slot.offset] = slot, None
        self.frozen, runs = [], []
        for slot, wanted in (settings[offset] for offset in sorted(settings)):
            if wanted is None:
                self.frozen.append(slot.slice)
            elif runs and runs[-1][1] == wanted and runs[-1][0].stop == slot.offset:
                runs[-1] = slice(runs[-1][0].start, slot.slice.stop), wanted
            else:
                runs.append((slot.slice, wanted))
        self._runs = [(part, make(Range(storage, part), **{"lr": lr, **wanted})) for part, wanted in runs]
        self._lrs = [optimizer.lr for _, optimizer in self._runs]

    def __repr__(self):
        return f"Grouped({', '.join(f'{part.start}:{part.stop} {optimizer!r}' for part, optimizer in self._runs)})"

    @property
    def squares(self) -> bool:
        """Whether any of the optimizers squares the gradient."""
        return any(getattr(optimizer, "squares", False) for _, optimizer in self._runs)

    @property
    def lr(self):
        return self._lr

    @lr.setter
    def lr(self, value):
        self._lr = value
        for own, (_, optimizer) in zip(self._lrs, self._runs):
            optimizer.lr = own * (value / self._base) if self._base else own

    def step(self, grad, scale: float = 1.0) -> None:
        """Update the parameters by the gradient of all of them."""
        for part, optimizer in self._runs:
            optimizer.step(grad[part], scale)

    def state_dict(self) -> dict:
        """Return the state for a checkpoint."""
        states = (optimizer.state_dict() for _, optimizer in self._runs)
        return {"lr": self._lr} | {
            f"{i}.{name}": value for i, state in enumerate(states) for name, value in state.items()
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore a state that `state_dict` returned."""
        self._lr = state["lr"]
        for i, (_, optimizer) in enumerate(self._runs):
            prefix = f"{i}."
            optimizer.load_state_dict(
                {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
            )


def _matching(pattern, slots):
    """The slots whose name, or whose layer's name, matches a pattern."""
    found = [
        slot for name, slot in slots.items() if fnmatch.fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")
    ]
    if not found:
        raise ValueError(f"{pattern!r} matches no parameter of this model; it has {', '.join(slots)}")
    return found


def frozen_to_zero(gradient: np.ndarray, optimizer) -> None:
    """Set the gradient of frozen parameters to zero, so that they do not count in its norm."""
    for part in getattr(optimizer, "frozen", ()):
        gradient[part] = 0


def arrays_of(optimizer) -> dict:
    """The arrays of an optimizer's state, by their names in its `state_dict`. Those of fastrnn are not copied."""
    if isinstance(optimizer, Grouped):
        parts = enumerate(one for _, one in optimizer._runs)
        return {f"{i}.{name}": array for i, one in parts for name, array in arrays_of(one).items()}
    if getattr(type(optimizer), "state_dict", None) is optim.Optimizer.state_dict:
        return optimizer._state()
    state = getattr(optimizer, "state_dict", dict)()
    return {name: value for name, value in state.items() if isinstance(value, np.ndarray)}


def optimizer_of(model, settings):
    """Make the optimizer of a model's parameters from the settings of a training."""
    make = (
        optim.OPTIMIZERS.get(settings.optimizer, settings.optimizer)
        if isinstance(settings.optimizer, str)
        else settings.optimizer
    )
    options = {"lr": settings.lr}
    if settings.weight_decay is not None:
        options["weight_decay"] = settings.weight_decay
    if settings.groups or settings.freeze:
        return Grouped(make, model.storage, model.slots, settings.groups, settings.freeze, **options)
    return make(model.storage, **options)

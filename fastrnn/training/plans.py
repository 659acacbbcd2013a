"""Plans: the loss and the gradient of a batch, recorded once for each shape and then computed without Python."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any

import numpy as np

from fastrnn import _engine
from fastrnn._core.keys import DerivedKey
from fastrnn._core.recording import Arena, RecordedFloat, Recording

_UNSEEN, _SEEN, _REFUSED = "unseen", "seen", "refused"  # shapes without a plan
_OUTCOMES = {"history", "outcome", "message", "speed", "storage"}  # attributes that are not settings
_LEAST_USES = 10  # of the plans that are dropped, on average
_FIRST_CHECKS = 3  # runs of a plan
_KEPT = 64  # plans of a training, for batches of different shapes; they share their memory


class Plans:
    """Computes a model's loss and gradient, by a plan where there is one, with the same bits as the model itself.

    The second batch of a shape is recorded. This and the next three batches are computed in both ways: unless all bits
    are the same, the shape gets no plan. Later ones are compared again from time to time. A `loss_and_gradient` that is
    not marked as `recordable` is called as it is.

    Parameters
    ----------
    model : Model
        Its `loss_and_gradient` is called.

    Attributes
    ----------
    used : int
        Number of batches that were computed by a plan alone.
    refused : Counter of str
        Why shapes have no plan.
    """

    def __init__(self, model):
        self.model = model
        self._plans: OrderedDict[Any, Plan | str] = OrderedDict()  # of each shape
        self._arena, self._settings, self._dropped = Arena(), _settings_of(model), 0
        self.planned = getattr(model.loss_and_gradient, "recordable", False)
        self.used = 0
        self.refused: Counter[str] = Counter()

    @property
    def memory(self) -> int:
        """Bytes of the arrays that the plans use in turn."""
        return self._arena.nbytes

    def forget(self) -> None:
        """Drop the plans if settings of the model or of its layers have changed, which are constants in a plan."""
        settings = _settings_of(self.model)
        if settings != self._settings:
            self._settings = settings
            self._plans.clear()

    def loss_and_gradient(self, batch, state, *, into: np.ndarray, rng: int) -> tuple:
        """As the model's method.

        Raises
        ------
        RuntimeError
            If a plan that has been used gives other bits than the model.
        """
        if not self.planned:
            return self.model.loss_and_gradient(batch, state, into=into, rng=rng)
        arrays, others = [], [id(into), _engine.isa()]  # a plan keeps `into`, so no other array has its id
        _flatten((batch, state), arrays, others)
        key = tuple(others)
        plan, before = self._plans.get(key, _UNSEEN), None
        if isinstance(plan, Plan):
            self._plans.move_to_end(key)
            if not plan.check_is_due:
                self.used += 1
                return plan.run(arrays, rng)
            before = into.copy()
            planned = plan.run(arrays, rng), into.copy()
        elif plan == _SEEN:
            before = into.copy()
            try:
                plan = Plan(self.model, self._arena, batch, state, into, rng)
                self._keep(key, plan)
                planned = plan.result(), into.copy()
            except _engine.NotRecordable as reason:
                self._refuse(key, str(reason))
        elif plan == _UNSEEN:
            self._keep(key, _SEEN)
        if before is not None:
            into[:] = before
        wanted = self.model.loss_and_gradient(batch, state, into=into, rng=rng)
        if isinstance(plan, Plan) and not _same_bits(planned, (wanted, into)):
            self._refuse(key, "other bits than those of the layers")
            if plan.runs > _FIRST_CHECKS:
                raise RuntimeError(
                    f"after {plan.runs} batches a plan gave other bits than the layers of the model: please report this"
                )
        return wanted

    def _refuse(self, key, reason):
        self._keep(key, _REFUSED)
        self.refused[reason] += 1
        if not any(isinstance(plan, Plan) for plan in self._plans.values()):
            self._arena = Arena()

    def _keep(self, key, plan):
        self._plans[key] = plan
        self._plans.move_to_end(key)
        while len(self._plans) > _KEPT:
            self._dropped += isinstance(self._plans.popitem(last=False)[1], Plan)
            if self._dropped > _KEPT and self.used < _LEAST_USES * self._dropped:  # too many shapes: plans do not pay
                self.planned = False
                self._plans.clear()
                self._arena = Arena()


class Plan:
    """The operations of one call of `loss_and_gradient`, on fixed arrays.

    Raises
    ------
    NotRecordable
        If the arguments are not C-contiguous arrays, or if the loss or a random key is computed outside the engine.
    """

    runs = 0

    def __init__(self, model, arena, batch, state, into, rng):
        batch, state = _copy_of((batch, state))
        self._inputs, self._into = [], into
        _flatten((batch, state), self._inputs, [])
        (loss, self._state_after), self._program = Recording(arena).run(
            model.loss_and_gradient, batch, state, into=into, rng=DerivedKey.of(rng)
        )
        if not isinstance(loss, RecordedFloat) or self._program.constant_keys:
            raise _engine.NotRecordable("the loss or a random key is computed outside the engine")
        self._loss = loss.cell

    def run(self, arrays, rng):
        """Compute the loss and the next state of a batch, and add its gradient to the array of the recording."""
        for array, given in zip(self._inputs, arrays):
            np.copyto(array, given)
        self._program.run(rng)
        self.runs += 1
        return self.result()

    @property
    def check_is_due(self):
        """Whether the next run is compared with the model: the first three, and then after 64, 128, 256, … runs."""
        return self.runs < _FIRST_CHECKS or (self.runs >= 64 and self.runs & (self.runs - 1) == 0)

    def result(self):
        """The loss and the next state of the last run."""
        return float(self._loss[0]), _copy_of(self._state_after)


def _settings_of(model):
    """The numbers and names that are attributes of a model, and of its layers."""
    simple = (bool, int, float, str, tuple, type(None))
    found = {}
    for name, value in vars(model).items():
        parts = {"": value} if isinstance(value, simple) else getattr(value, "__dict__", {})
        found |= {(name, part): x for part, x in parts.items() if isinstance(x, simple) and not part.startswith("_")}
    return {key: value for key, value in found.items() if key[0] not in _OUTCOMES}


def _flatten(value, arrays, others):
    """Append the arrays in nested tuples and dataclasses to one list, and all other values and types to another."""
    if isinstance(value, np.ndarray):
        arrays.append(value)
        others.append((value.shape, value.dtype.char))
        return
    parts = _parts(value)
    if parts is None:
        others.append(value)
        return
    others.append((type(value), len(parts)))
    for part in parts:
        _flatten(part, arrays, others)


def _parts(value):
    """The parts of a tuple or dataclass, or None."""
    if isinstance(value, tuple):
        return value
    return vars(value).values() if hasattr(value, "__dataclass_fields__") else None


def _copy_of(value):
    """Nested tuples and dataclasses with copies of their arrays."""
    if isinstance(value, np.ndarray):
        return np.array(value, order="C")
    parts = _parts(value)
    if parts is None:
        return value
    copies = map(_copy_of, parts)
    return tuple(copies) if type(value) is tuple else type(value)(*copies)


def _same_bits(a, b):
    """Whether nested tuples of arrays and numbers are equal bit for bit, or NaN in the same places."""
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(_same_bits, a, b))
    a, b = np.asarray(a), np.asarray(b)
    if a.tobytes() == b.tobytes():
        return True
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and a.dtype.kind == "f"
        and bool(((a.view(f"i{a.itemsize}") == b.view(f"i{b.itemsize}")) | (np.isnan(a) & np.isnan(b))).all())
    )

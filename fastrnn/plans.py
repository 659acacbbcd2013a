"""Plans: functions of arrays, recorded once for each shape and then computed without Python between the layers."""

from __future__ import annotations

import contextlib
import functools
import threading
import types
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from fastrnn import _check, _engine
from fastrnn._core import finite
from fastrnn._core.keys import DerivedKey
from fastrnn._core.recording import Arena, RecordedArray, Recording

__all__ = ["Planned", "planned"]

_UNSEEN, _SEEN, _REFUSED = "unseen", "seen", "refused"  # shapes without a plan
_NO_LAST = None, _UNSEEN, None
_LEAST_USES = 10  # of the plans that are dropped, on average
_FIRST_CHECKS = 3  # runs of a plan
_OTHER_BITS = (
    "a plan gave other bits than the function: its result depends on something that is neither an argument nor a "
    "parameter of a layer, such as a global array, or a setting that was changed without forget()"
)
_KEPT = 128  # plans of a function, for arguments of different shapes; they share their memory


def planned(function: Callable) -> Planned:
    """Make a function of arrays faster: record what its layers compute, and compute it again without Python.

    An update of a small network takes less time in compiled code than in the Python between the layers. A planned
    function is called as usual the first time that its arguments have certain shapes. The second call is recorded. This
    call and the next three are computed in both ways, and so are some later ones: unless the results have the same
    bits, the function is called as usual from then on.

    Parameters
    ----------
    function : callable
        Function of arrays, numbers, strings, None, and tuples, dicts and dataclasses of them. It computes with layers,
        losses and their backward passes, and returns arrays, the loss, None, or tuples, dicts and dataclasses of them,
        such as `Gradients`. NumPy does not compute with its arrays, nor Python with its loss; this belongs before or
        after the function. It may be called twice for the same arguments, so it must have no other effect than on
        `into`.

    Returns
    -------
    Planned
        Function of the same arguments. Two keyword arguments have a meaning: `into` is an array to which gradients are
        added, the same one in all calls, and `rng` is the key of dropout masks, which may be another one in each call.

    Notes
    -----
    There is a plan for each combination of shapes, dtypes, numbers and strings, up to 128; a number that changes in
    every call prevents plans. Functions that are called as usual are counted in `Planned.refused`, with the reason.

    What is neither an argument nor a parameter of a layer is a constant of a plan: a global array, a factor, a setting
    of a layer such as its rate of dropout. Call `Planned.forget` after a change. Otherwise later comparisons notice it
    and raise RuntimeError, but the calls until then have used the old value. Parameters may change at any time. A plan
    needs at most 32 MiB.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> rnn = fastrnn.LSTM(3, 4, seed=0)
    >>> @fastrnn.planned
    ... def loss_and_gradient(x, wanted, *, into):
    ...     (y, _), backward = rnn.vjp(x)
    ...     loss, loss_backward = fastrnn.losses.mean_squared_error.vjp(y, wanted)
    ...     backward(loss_backward(), need_x=False, into=into)
    ...     return loss
    >>> rng, optimizer, gradient = np.random.default_rng(0), fastrnn.optim.Adam(rnn), np.zeros_like(rnn.flat)
    >>> for _ in range(20):
    ...     x = rng.standard_normal((5, 2, 3)).astype("float32")
    ...     gradient[:] = 0
    ...     loss = loss_and_gradient(x, np.zeros((5, 2, 4), "float32"), into=gradient)
    ...     optimizer.step(gradient)
    >>> loss_and_gradient.used, dict(loss_and_gradient.refused)
    (12, {})
    """
    return Planned(function)


class Planned:
    """A function that is computed by plans where possible. Returned by `planned`.

    Parameters
    ----------
    function : callable
        As for `planned`.

    Attributes
    ----------
    used : int
        Number of calls that were computed by a plan alone.
    refused : Counter of str
        Why some shapes have no plan.
    """

    def __init__(self, function: Callable):
        functools.update_wrapper(self, function)
        self.function = function
        self._plans: OrderedDict[Any, Plan | str] = OrderedDict()  # of each shape
        self._last: tuple[Any, Plan | str, object] = _NO_LAST  # the shape that was used last, its plan, and `_plans`
        self._arena, self._dropped = Arena(), 0
        self._users: dict[str, int] = {}  # the thread that uses the plans; not a lock, which Ctrl-C could leave locked
        self.planned = True
        self.used = 0
        self.refused: Counter[str] = Counter()

    @property
    def memory(self) -> int:
        """Bytes of the arrays that the plans use in turn."""
        return self._arena.nbytes

    def forget(self) -> None:
        """Drop all plans, because settings of the layers have changed."""
        self._plans = OrderedDict()  # another object: a thread that is using the former one does not remember its plan

    def __reduce__(self):
        return type(self), (self.function,)

    def __set_name__(self, owner, name):
        self._name = name

    def __get__(self, instance, owner=None):
        """Make a method planned for each instance."""
        if instance is None:
            return self
        return instance.__dict__.setdefault(self._name, Planned(types.MethodType(self.function, instance)))

    def __call__(self, *arguments, into: np.ndarray | None = None, rng: int | None = None, **named):
        """Compute the function.

        Parameters
        ----------
        *arguments : array, number, str, None, or tuple, dict or dataclass of them
            Arguments of the function.
        into : array, optional
            Keyword argument of the function: an array to which gradients are added.
        rng : int, optional
            Keyword argument of the function: the key of random numbers.
        **named
            Other keyword arguments of the function.

        Returns
        -------
        array, float, None, or tuple, dict or dataclass of them
            What the function returns.

        Raises
        ------
        TypeError
            If an argument is not of these types.
        RuntimeError
            If a plan that was used gives other bits than the function: a number or array on which the result depends is
            neither an argument nor a parameter of a layer.
        """
        options: dict[str, Any] = {} if into is None else {"into": into}
        if rng is not None:
            options["rng"] = _check.rng_key(rng)
        unusual = not self.planned or _engine.recording() is not None or finite.wanted()
        if unusual or not (into is None or isinstance(into, np.ndarray)):
            return self.function(*arguments, **named, **options)
        this = threading.get_ident()
        if self._users.setdefault("thread", this) != this:
            return self.function(*arguments, **named, **options)
        try:
            return self._compute(arguments, named, options)
        finally:
            self._users.pop("thread", None)

    def _compute(self, arguments, named, options):
        # a plan keeps `into`, so no other array has its id
        arrays, others = [], [_engine.isa(), "rng" in options, id(options.get("into"))]
        _engine.flatten(arguments, arrays, others)
        if named:
            _engine.flatten(named, arrays, others)
        key = tuple(others)
        plans, (last_key, plan, of) = self._plans, self._last
        if key != last_key or of is not plans:
            plan = plans.get(key, _UNSEEN)
            if isinstance(plan, Plan):
                self._use(key)
                self._last = key, plan, plans
        if isinstance(plan, Plan) and not plan.check_is_due:
            try:
                result = plan.run(arrays, options)
            except Exception:
                self.function(*arguments, **named, **options)  # a wrong argument: the function says so in its own words
                raise
            self.used += 1
            return result
        call = functools.partial(self.function, *arguments, **named, **options)
        if isinstance(plan, Plan):
            return self._compared(key, plan, lambda: plan.run(arrays, options), call, options.get("into"))
        if plan == _SEEN:
            try:
                return self._recorded(key, (arguments, named), options, call)
            except _engine.NotRecordable as reason:
                self._refuse(key, f"cannot be recorded: {reason}")
        elif plan == _UNSEEN:
            self._keep(key, _SEEN)
        return call()

    def _recorded(self, key, arguments, options, call):
        """Record the call, and compare the plan with it."""
        into = options.get("into")
        before = _engine.copy_of(into)
        try:
            plan = Plan(self.function, self._arena, arguments, options)
        except Exception as error:
            if into is not None:
                into[...] = before
            if not isinstance(error, _engine.NotRecordable):  # of the function, or because of what recording returns
                raise _engine.NotRecordable(f"{type(error).__name__}: {error}") from error
            raise
        after = _engine.copy_of(into)
        if into is not None:
            into[...] = before
        self._keep(key, plan)
        return self._compare(key, plan, (plan.result(), after), call, into)

    def _compared(self, key, plan, run, call, into):
        """Compute in both ways."""
        before = _engine.copy_of(into)
        try:
            planned = run(), _engine.copy_of(into)
        except Exception:
            call()
            raise
        if into is not None:
            into[...] = before
        return self._compare(key, plan, planned, call, into)

    def _compare(self, key, plan, planned, call, into):
        wanted = call()
        if not _same_bits(planned, (wanted, into)):
            self._refuse(key, _OTHER_BITS)
            if plan.runs > _FIRST_CHECKS:
                raise RuntimeError(f"after {plan.runs} calls, {_OTHER_BITS}; see fastrnn.planned")
        return wanted

    def _use(self, key):
        with contextlib.suppress(KeyError):  # another thread may have called `forget`
            self._plans.move_to_end(key)

    def _refuse(self, key, reason):
        self._keep(key, _REFUSED)
        self.refused[reason] += 1
        if not any(isinstance(plan, Plan) for plan in self._plans.values()):
            self._arena = Arena()

    def _keep(self, key, plan):
        self._last = _NO_LAST
        self._plans[key] = plan
        self._plans.move_to_end(key)
        while len(self._plans) > _KEPT:
            dropped = self._plans.popitem(last=False)[1]
            if dropped == _SEEN:
                self.refused["shapes, numbers or arrays `into` that did not come again"] += 1
            elif isinstance(dropped, Plan):
                self.refused[f"more than {_KEPT} shapes, numbers or arrays `into`"] += 1
                self._dropped += 1
            if self._dropped > _KEPT and self.used < _LEAST_USES * self._dropped:  # plans do not pay
                self.planned = False
                self._plans.clear()
                self._arena = Arena()


class Plan:
    """The operations of one call of a function, on fixed arrays.

    Raises
    ------
    NotRecordable
        If the result or a random key is computed outside the engine.
    """

    runs = 0

    def __init__(self, function, arena, arguments, options):
        recording = Recording(arena, options.get("into"))
        given: list[np.ndarray] = []
        _engine.flatten(arguments, given, [])
        self._inputs = [_input(array, recording) for array in given]
        positional, named = _with_arrays(arguments, iter(self._inputs))
        if recording.into is not None:
            options = options | {"into": recording.into}
        if "rng" in options:
            options = options | {"rng": DerivedKey.of(options["rng"])}
        result, self._program = recording.run(function, *positional, **named, **options)
        self._result, self._recording = _engine.viewed(result, np.ndarray), recording  # which keeps `into`
        if self._program.constant_keys:
            raise _engine.NotRecordable("dropout masks that are the same in each run: give the argument rng, a new key")
        self.result()

    def run(self, arrays, options):
        """Compute the result for other arguments, and add the gradients to the array of the recording."""
        result = self._program.compute(arrays, self._inputs, options.get("rng", 0), self._result)
        self.runs += 1
        return result

    @property
    def check_is_due(self):
        """Whether the next run is compared with the function: the first three, and later after 4, 8, 16, … runs."""
        return self.runs < _FIRST_CHECKS or self.runs & (self.runs - 1) == 0

    def result(self):
        """The result of the last run, which later runs do not change."""
        return _engine.result_of(self._result)


def _input(array, recording):
    """A copy of an argument in the plan's memory."""
    if type(array) not in (np.ndarray, np.memmap):
        raise _engine.NotRecordable(f"an argument that is a {type(array).__name__}")
    if array.dtype.hasobject:
        raise _engine.NotRecordable("an array of Python objects")
    if recording.into is not None and np.may_share_memory(array, recording.into):
        raise _engine.NotRecordable("an argument that shares memory with `into`")
    copy = recording.empty(array.shape, array.dtype).view(np.ndarray)
    np.copyto(copy, array)
    return copy


def _with_arrays(value, arrays):
    """The arguments with the plan's arrays, which the function cannot write to."""
    if isinstance(value, np.ndarray):
        made = next(arrays).view(RecordedArray)
        made.flags.writeable = False
        return made
    parts = _engine.parts_of(value)
    return value if parts is None else _engine.with_parts(value, [_with_arrays(part, arrays) for part in parts])


def _same_bits(a, b):
    """Whether nested tuples of arrays and numbers are equal bit for bit, or NaN in the same places."""
    parts, others = _engine.parts_of(a), _engine.parts_of(b)
    if parts is not None:
        same = type(a) is type(b) and len(parts) == len(others) and (not isinstance(a, dict) or list(a) == list(b))
        return same and all(map(_same_bits, parts, others))
    if others is not None:
        return False
    if a is None or b is None:
        return a is b
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if _engine.same_bytes(a, b):
        return True
    if a.dtype.kind != "f":
        return False
    a_bits, b_bits = a.view(f"i{a.itemsize}"), b.view(f"i{b.itemsize}")
    return bool(((a_bits == b_bits) | (np.isnan(a) & np.isnan(b))).all())

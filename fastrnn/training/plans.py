"""Plans of a model's loss and gradient during a training run."""

from __future__ import annotations

import operator
from collections.abc import Callable

from fastrnn.plans import Planned

_OUTCOMES = {"history", "outcome", "message", "speed", "storage"}  # attributes that are not settings


class ModelPlans(Planned):
    """A model's `loss_and_gradient`, by plans if it is marked as `recordable`.

    Parameters
    ----------
    model : Model
        Its `loss_and_gradient` is called.
    """

    def __init__(self, model):
        super().__init__(model.loss_and_gradient)
        self.model = model
        self._note()
        self.planned = getattr(model.loss_and_gradient, "recordable", False)

    def forget_if_changed(self) -> None:
        """Drop the plans if settings of the model or of its layers have changed, which are constants in a plan."""
        if not all(map(_Attributes.same, self._noted)):  # which finds in little time that nothing has changed
            before = self._settings
            self._note()
            if self._settings != before:
                self.forget()

    def _note(self):
        self._settings = _settings_of(self.model)
        others = [value for name, value in vars(self.model).items() if name not in _OUTCOMES]
        parts = [_Attributes(value, private=False) for value in others if hasattr(value, "__dict__")]
        self._noted = [_Attributes(self.model), *parts]


class _Attributes:
    """The objects that are the attributes of an object, private ones too if `private`."""

    def __init__(self, owner, private=True):
        self._owner, found = owner, vars(owner)
        names = [name for name in found if private or not name.startswith("_")]
        self._pick: Callable = operator.itemgetter(*names, *names[:1]) if names else lambda found: ()  # a tuple
        self._count, self._values = len(found), self._pick(found)

    def same(self):
        """Whether the attributes are still the same objects, and there is no other one."""
        try:
            found = vars(self._owner)
            return len(found) == self._count and all(map(operator.is_, self._pick(found), self._values))
        except KeyError:  # one was deleted
            return False


def _settings_of(model):
    """The numbers and names that are attributes of a model, and of its layers."""
    simple = (bool, int, float, str, tuple, type(None))
    found = {}
    for name, value in vars(model).items():
        parts = {"": value} if isinstance(value, simple) else getattr(value, "__dict__", {})
        found |= {(name, part): x for part, x in parts.items() if isinstance(x, simple) and not part.startswith("_")}
    return {key: value for key, value in found.items() if key[0] not in _OUTCOMES}

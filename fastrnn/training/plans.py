"""Plans of a model's loss and gradient during a training run."""

from __future__ import annotations

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
        self.model, self._settings = model, _settings_of(model)
        self.planned = getattr(model.loss_and_gradient, "recordable", False)

    def forget_if_changed(self) -> None:
        """Drop the plans if settings of the model or of its layers have changed, which are constants in a plan."""
        settings = _settings_of(self.model)
        if settings != self._settings:
            self._settings = settings
            self.forget()


def _settings_of(model):
    """The numbers and names that are attributes of a model, and of its layers."""
    simple = (bool, int, float, str, tuple, type(None))
    found = {}
    for name, value in vars(model).items():
        parts = {"": value} if isinstance(value, simple) else getattr(value, "__dict__", {})
        found |= {(name, part): x for part, x in parts.items() if isinstance(x, simple) and not part.startswith("_")}
    return {key: value for key, value in found.items() if key[0] not in _OUTCOMES}

"""What an exported C file computes, for each kind of layer and model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from fastrnn._types import Array
from fastrnn.layers.network import Network
from fastrnn.layers.recurrent import Recurrent
from fastrnn.layers.stacked import Stacked
from fastrnn.models.scaling import Scaler

if TYPE_CHECKING:
    from fastrnn.models import LanguageModel, SequenceClassifier, SequenceRegressor

Exportable: TypeAlias = "Network | Recurrent | Stacked | LanguageModel | SequenceClassifier | SequenceRegressor"


class Exported(NamedTuple):
    """What a file computes: a chain, between the scales of inputs and outputs (None: unscaled).

    outputs : function of x (T, inputs), or ids (T,), that returns what the file must give, (T, outputs)
    """

    network: Network
    scaler: Scaler | None
    target_scaler: Scaler | None
    outputs: Callable[[Array], Array]

    @classmethod
    def of(cls, model: Exportable) -> Exported:
        """The chain of a layer or model; a TypeError or ValueError if there is none."""
        from fastrnn.models import LanguageModel, SequenceClassifier, SequenceRegressor

        if isinstance(model, (SequenceClassifier, SequenceRegressor)):
            stream = model.stream()  # raises an error if the model needs the whole sequence
            steps = {"rnn": model.rnn, "linear": model.linear}
            if isinstance(model, SequenceClassifier):
                steps["probabilities"] = "softmax"
            scalers = [getattr(model, name, None) for name in ("_scaler", "_target_scaler")]
            scalers = [scaler if isinstance(scaler, Scaler) else None for scaler in scalers]
            return cls(Network(steps), *scalers, lambda x: stream.run(x[:, None])[:, 0])
        if isinstance(model, LanguageModel):
            model._check_fitted()
            model = Network({name: getattr(model, name) for name in model.LAYERS})
        elif isinstance(model, (Recurrent, Stacked)):
            model = Network({"rnn": model})
        elif not isinstance(model, Network):
            raise TypeError(
                f"model is a {type(model).__name__}, but it must be a Network, RNN, GRU, LSTM, Stacked, LanguageModel, "
                "SequenceClassifier or SequenceRegressor"
            )

        def outputs(x):
            y = model(x[None] if model.batch_first else x[:, None])[0]
            return y.reshape(len(x), -1)

        return cls(model, None, None, outputs)

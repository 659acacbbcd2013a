"""A script that `mypy --strict` accepts: `make lint` runs it, so that the types of the package stay useful.

The calls in `wrong` must be reported: a `type: ignore` that is not needed is an error in strict mode.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

import fastrnn
from fastrnn import optim
from fastrnn.losses import softmax_cross_entropy
from fastrnn.models import Forecaster, LanguageModel, SequenceClassifier

Floats = npt.NDArray[np.float32]


def language_model(text: str) -> tuple[str, float]:
    model = LanguageModel("gru", 64, level="character", seed=0)
    model.fit(text, batch_size=4, seq_len=10, epochs=2, lr=3e-3, schedule=optim.Cosine(2), patience=3, verbose=False)
    return model.generate(length=20, seed=1), model.perplexity(text)


def labels(X: list[Floats], y: list[str]) -> npt.NDArray[np.str_]:
    model = SequenceClassifier("lstm", 16, bidirectional=True, pooling="mean").fit(X, y, epochs=3, validation=0.2)
    return model.predict(X)


def forecast(series: npt.NDArray[np.float64]) -> int:
    with fastrnn.threads(1):
        return len(Forecaster(24, 6, cell="gru").fit(series, epochs=2, verbose=False).predict())


def update(x: Floats, targets: npt.NDArray[np.int64]) -> float:
    storage = fastrnn.Storage()
    rnn = fastrnn.LSTM(8, 16, 2, storage=storage, seed=0)
    linear = fastrnn.Linear(16, 5, storage=storage)
    adam, gradient = optim.Adam(storage, lr=1e-3), np.zeros_like(storage.flat)
    (y, (h_n, c_n)), rnn_backward = rnn.vjp(x)
    scores, linear_backward = linear.vjp(y)
    loss, loss_backward = softmax_cross_entropy.vjp(scores, targets)
    rnn_backward(linear_backward(loss_backward(), into=gradient).x, need_x=False, into=gradient)
    adam.step(gradient)
    return float(loss) + float(h_n.sum() + c_n.sum())


def states(x: Floats) -> tuple[int, ...]:
    gru = fastrnn.GRU(8, 16, seed=0)
    y, h_n, every_h = gru(x, return_states=True)
    stream = gru.stream(batch_size=2)
    return (*every_h.shape, *h_n.shape, *y.shape, *stream.step(x[0]).shape)


def wrong() -> None:
    fastrnn.LSTM("3", 5)  # type: ignore[arg-type]
    fastrnn.LSTM(3, 5, bidirectionl=True)  # type: ignore[call-arg]
    fastrnn.LSTMM(3, 5)  # type: ignore[attr-defined]
    y, h_n, c_n = fastrnn.LSTM(3, 5)(np.zeros((4, 2, 3)))  # type: ignore[misc]
    LanguageModel("lsmt", 64)  # type: ignore[arg-type]
    LanguageModel("lstm", 64).fit("text", learning_rate=0.1)  # type: ignore[call-arg]
    LanguageModel("lstm", 64).fit("text", patience="3")  # type: ignore[arg-type]
    LanguageModel("lstm", 64).fit(3.0)  # type: ignore[arg-type]


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    print(language_model("hello world " * 100))
    print(labels([np.ones((4, 2), "float32"), np.zeros((3, 2), "float32")] * 10, ["a", "b"] * 10))
    print(forecast(np.sin(np.arange(200.0))))
    print(update(rng.random((4, 2, 8), "float32"), rng.integers(5, size=(4, 2))), states(np.ones((4, 2, 8), "float32")))

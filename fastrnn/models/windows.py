"""The windows of time series that a Forecaster is trained on, as batches."""

from __future__ import annotations

import numpy as np

from fastrnn import _engine
from fastrnn.batches import Sequences


def without_values(x: np.ndarray, window: int, K: int) -> np.ndarray:
    """Set the K values of x (T, B, K + E + 1) to 0 and the flag to 1 from step `window` on: the steps to forecast."""
    x[window:, :, :K], x[window:, :, -1] = 0, 1
    return x


class Windows(Sequences):
    """Batches (x, targets) of all windows of some series. `model` has the sizes, `inputs` are (T, K + E + 1) arrays."""

    def __init__(self, inputs, model, K, batch_size, seed):
        self._window, self._K = model.window, K
        T, before = model.window + model.horizon, np.cumsum([0, *map(len, inputs)])
        starts = [first + np.arange(len(one) - T + 1) for first, one in zip(before, inputs)]
        self._starts = np.concatenate(starts)
        self._values = np.ascontiguousarray(np.concatenate(inputs))  # in this order even of data frames
        super().__init__([self._values[first : first + T] for first in self._starts], batch_size, seed=seed)

    def _batch(self, rows):
        x, _ = _engine.sequences(self._values, self._starts, self._lengths, rows)
        targets = x[self._window :, :, : self._K].copy()
        return without_values(x, self._window, self._K), targets

    @staticmethod
    def steps_of(batch) -> int:
        """Steps of a batch, those of the forecasts included."""
        return batch[0].shape[0] * batch[0].shape[1]

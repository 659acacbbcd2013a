"""The windows of time series that a Forecaster is trained on, as batches."""

from __future__ import annotations

from fastrnn.batches import Sequences


def without_values(x, window, K):
    """x (T, B, K + E + 1), the steps from `window` on without their K values and with the flag."""
    x[window:, :, :K], x[window:, :, -1] = 0, 1
    return x


class Windows(Sequences):
    """Batches (x, targets) of all windows of some series."""

    def __init__(self, inputs, model, K, batch_size, seed):
        self._window, self._K = model.window, K
        T = model.window + model.horizon
        views = [one[first : first + T] for one in inputs for first in range(len(one) - T + 1)]
        super().__init__(views, batch_size, seed=seed)

    def _batch(self, rows):
        x = self._ragged(rows).x
        targets = x[self._window :, :, : self._K].copy()
        return without_values(x, self._window, self._K), targets

    @staticmethod
    def steps_of(batch):
        return batch[0].shape[0] * batch[0].shape[1]

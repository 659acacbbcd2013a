"""The network of a Forecaster: its layers and their gradient, and the forecast of one series."""

from __future__ import annotations

import numpy as np

from fastrnn import _engine
from fastrnn._check import data as check_data
from fastrnn._check import memory as check_memory
from fastrnn._check.arrays import contiguous
from fastrnn._core.recording import recordable
from fastrnn.layers.feedforward import Dropout, Linear, random_key
from fastrnn.losses import QuantileLoss, mean_squared_error
from fastrnn.models.model import Model, Recurrent, init_forget_bias, recurrent
from fastrnn.models.pooled import names_fit
from fastrnn.models.scaling import cast, from_arrays, numbers_in, to_arrays
from fastrnn.models.series import Differences
from fastrnn.models.windows import without_values
from fastrnn.parameters import Storage


class ForecastNetwork(Model):
    """Base of Forecaster, without the reading of data."""

    columns_: list[str] | None = None
    exog_columns_: list[str] | None = None
    LAYERS = ("rnn", "linear")
    naive_error: float
    rnn: Recurrent
    linear: Linear

    @property
    def _differences(self):
        return Differences([lag for lag in (self.season, 1 if self.difference else None) if lag], self.log)

    def _inputs(self, changed, scaler, exog, exog_scaler):
        """The network's inputs (T, K + E + 1): scaled values, other variables, and the flag of a forecast step."""
        parts = [scaler(changed), np.zeros((len(changed), 1))]
        if exog is not None:
            parts.insert(1, exog_scaler(exog))
        return cast(np.concatenate(parts, 1), self.dtype, lambda place: f"step {place[0]}")

    def _build(self, K, E, seed):
        """Make the layers in one storage, with initial values drawn from `seed`."""
        self._K, self._E, Q = K, E, len(self.quantiles or [0])
        self.storage = Storage(self.dtype, self._budget)
        make = dict(dtype=self.dtype, storage=self.storage)
        self.rnn = recurrent(
            self.cell, K + E + 1, self.hidden_size, self.num_layers,
            dropout=self.dropout, seed=random_key(seed, 3), **make,
        )  # fmt: skip
        self.linear = Linear(self.rnn.output_size, K * Q, seed=random_key(seed, 4), **make)
        self._dropout = Dropout(self.dropout)
        self._loss = mean_squared_error if self.quantiles is None else QuantileLoss(self.quantiles)
        init_forget_bias(self.rnn, random_key(seed, 3))

    @recordable
    def loss_and_gradient(self, batch: tuple, state=None, *, into: np.ndarray, rng: int) -> tuple[float, None]:
        """Compute the loss of a batch of windows and add its gradient to `into`.

        Parameters
        ----------
        batch : tuple (x, targets)
            Inputs (window + horizon, B, K + E + 1) and scaled targets (horizon, B, K).
        state : None
            Not used: each window starts from zeros.
        into : (P,) ndarray
            Where the gradient is added, laid out like ``storage.flat``.
        rng : int
            Key of the dropout masks.

        Returns
        -------
        loss : float
            Mean loss of the batch.
        state : None
            No state is carried to the next batch.
        """
        x, targets = batch
        (y, _), rnn_backward = self.rnn.vjp(x, rng=rng)
        y_out = contiguous(y[self.window :])
        y_out, dropout_backward = self._dropout.vjp(y_out, rng=random_key(rng, 1), out=y_out)
        output, linear_backward = self.linear.vjp(y_out)
        loss, loss_backward = self._loss.vjp(output, targets)
        dy_out = linear_backward(loss_backward(), into=into).x
        dy, dy_out = _engine.zeros(y.shape, y.dtype), dropout_backward(dy_out, out=dy_out).x
        for given, rows in zip(dy_out, dy[self.window :]):
            _engine.copy_rows(given, rows)
        rnn_backward(dy, need_x=False, into=into)
        rnn_backward.release()
        return loss, None

    def evaluate(self, batches) -> dict[str, float]:
        """Compute the loss over some batches of windows.

        Parameters
        ----------
        batches : iterable of tuple (x, targets)
            Windows, as in `loss_and_gradient`.

        Returns
        -------
        dict
            "loss", the mean loss of the scaled values.
        """
        total = count = 0
        for x, targets in batches:
            output = self.linear(np.ascontiguousarray(self.rnn(x)[0][self.window :]))
            total += self._loss(output, targets) * x.shape[1]
            count += x.shape[1]
        return {"loss": total / count}

    def _forecast(self, horizon, before, exog_before, future_exog):
        """The forecast (Q, horizon, K) of the steps after `before`, (T, K)."""
        changed = self._differences.apply(before)
        if len(changed) < self.window:
            raise ValueError(
                f"the series has {len(before)} steps, but {self.window + len(before) - len(changed)} are needed to "
                "continue it"
            )
        exog = None
        if self._E:
            if future_exog is None or exog_before is None:
                raise ValueError("this model was fitted with exog: give future_exog, and exog with series")
            future_exog = check_data.real_numbers(
                "future_exog", check_data.by_name("future_exog", future_exog, self.exog_columns_)
            )
            if future_exog.shape != (horizon, self._E):
                raise ValueError(f"future_exog has shape {future_exog.shape}, but ({horizon}, {self._E}) is needed")
            exog = np.concatenate([exog_before[-self.window :], future_exog])
        needed = 8 * horizon * (3 * (self._K + self._E + 1) + self.rnn.output_size)
        check_memory.fits(f"a forecast of {horizon:,} steps: its values", needed, "ask for fewer steps")
        no_values = np.broadcast_to(self._scaler.mean, (horizon, self._K))  # 0 when scaled
        x = self._inputs(np.concatenate([changed[-self.window :], no_values]), self._scaler, exog, self._exog_scaler)
        x = without_values(x[:, None], self.window, self._K)
        output = self.linear(np.ascontiguousarray(self.rnn(x)[0][self.window :, 0])).reshape(horizon, self._K, -1)
        changes = np.sort(self._scaler.undo(output.transpose(0, 2, 1)), axis=1)
        return np.ascontiguousarray(self._differences.undo(changes, before).transpose(1, 0, 2))

    def _fitted_config(self):
        found = {
            "K": self._K,
            "E": self._E,
            "flat": self._flat,
            "naive_error": self.naive_error,
            "series": len(self._ends),
        }
        return found | {"columns": self.columns_, "exog_columns": self.exog_columns_}

    def _fitted_arrays(self):
        ends = {"end": self._ends[-1]} | {f"end.{k}": end for k, end in enumerate(self._ends[:-1])}
        if self._E:
            ends |= {"exog_end": self._exog_ends[-1]} | {
                f"exog_end.{k}": end for k, end in enumerate(self._exog_ends[:-1])
            }
        return {
            **to_arrays("scaler", self._scaler),
            **(to_arrays("exog_scaler", self._exog_scaler) if self._E else {}),
            **ends,
        }

    def _rebuild(self, config, arrays):
        K, E, series = config["K"], config["E"], config.get("series", 1)
        self._scaler = from_arrays("scaler", arrays, K)
        self._exog_scaler = from_arrays("exog_scaler", arrays, E) if E else None
        self._flat, self.naive_error = config["flat"], config["naive_error"]
        self.columns_, self.exog_columns_ = config.get("columns"), config.get("exog_columns")
        names_fit("columns", self.columns_, K)
        names_fit("exog_columns", self.exog_columns_, E)
        if self._flat and K != 1:
            raise ValueError(f"flat is true, but K is {K}: only one variable can be flat")
        if series > len(arrays):
            raise ValueError(f"series is {series:,}, but there are {len(arrays)} arrays, and each series has one")
        kept = self.window + self._differences.lost

        def ends(name, width):  # older versions saved only the last series, the whole of it and in its own dtype
            return [
                numbers_in(arrays, key, (kept, width)) for key in (*(f"{name}.{k}" for k in range(series - 1)), name)
            ]

        self._ends, self._exog_ends = ends("end", K), ends("exog_end", E) if E else None
        if self.log and any((end <= 0).any() for end in self._ends):
            raise ValueError("log is true, but the end of a series is not above 0")
        self._build(K, E, 0)

"""Forecasts of time series: the network reads a window, then runs on without values; its outputs are the forecast."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from fastrnn import _check
from fastrnn._check import stacked as check_stacked
from fastrnn.layers.feedforward import random_key
from fastrnn.losses import QuantileLoss
from fastrnn.models.forecast_network import ForecastNetwork
from fastrnn.models.model import CELLS, Examples, Setup
from fastrnn.models.scaling import Scaler, check_range, to_arrays
from fastrnn.models.schemas import LONGEST
from fastrnn.models.series import checked_series, column_names, naive_error
from fastrnn.models.windows import Windows

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from fastrnn.settings import TrainingOptions


class Forecaster(ForecastNetwork):
    """Forecast several steps of one or several variables.

    The network reads `window` steps. For the steps to forecast it runs on with zeros in place of the values and a flag
    that marks these steps, and its output at each of them is the forecast. So it can forecast more steps than it was
    trained on. Other variables that are known for the future too (holidays, prices) are read at all steps. Differences,
    logarithms and scales are computed in float64.

    Parameters
    ----------
    window : int
        Number of steps to read before a forecast.
    horizon : int
        Number of steps to forecast in training, and by default in `predict`.
    cell : {"gru", "lstm", "rnn"}, default="gru"
        Kind of recurrent layer; "rnn" has the tanh activation.
    hidden_size : int or sequence of int, default=32
        Units of each recurrent layer, or a list with the units of each layer.
    num_layers : int, default=1
        Number of recurrent layers.
    season : int, optional
        Steps in a season: learn the differences to the season before.
    difference : bool, default=False
        Learn the differences to the step before (after those of the season).
    log : bool, default=False
        Learn the logarithms. Values must be above 0.
    quantiles : sequence of float, optional
        Quantiles to forecast, such as (0.1, 0.5, 0.9), with the pinball loss instead of the squared error. 0.5 must be
        among them.
    dropout : float, default=0.0
        Dropout probability after each recurrent layer (training only), 0 <= dropout < 1.
    dtype : {"float32", "float64"}, default="float32"
        What the network computes in.
    seed : int, optional
        Seed of the initial parameters, the order of the batches and dropout. The same seed gives the same training run,
        bit for bit, on any number of threads. By default a random one is drawn.

    Attributes
    ----------
    columns_, exog_columns_ : list of str or None
        Names of the variables if the series in `fit` were data frames.
    naive_error : float
        Mean absolute error of the seasonal naive forecast within the series of `fit`; the scale of `mase`.
    history : list of dict
        An entry for each evaluation: `epoch`, `update`, `lr`, `train_loss` and, with validation data,
        `validation_loss`.
    outcome : str or None
        How training ended: "finished", "stopped early", "interrupted" (by Ctrl-C) or "diverged"; None before `fit`.
    message : str or None
        Details of the outcome, if there are any.
    speed : float or None
        Steps per second in the last training.

    Examples
    --------
    >>> series = 10 + 3 * np.sin(np.arange(200) * np.pi / 6)
    >>> model = Forecaster(24, 12, hidden_size=16, seed=0).fit(series[:-12], epochs=60, lr=0.01, verbose=False)
    >>> model.predict().shape, bool(np.abs(model.predict() - series[-12:]).max() < 0.5)
    ((12,), True)
    """

    ARGUMENTS = (
        "window", "horizon", "cell", "hidden_size", "num_layers", "season", "difference", "log", "quantiles", "dropout",
    )  # fmt: skip

    def __init__(
        self,
        window: int,
        horizon: int,
        *,
        cell: Literal["lstm", "gru", "rnn"] = "gru",
        hidden_size: int | Sequence[int] = 32,
        num_layers: int = 1,
        season: int | None = None,
        difference: bool = False,
        log: bool = False,
        quantiles: Sequence[float] | None = None,
        dropout: float = 0.0,
        dtype: str = "float32",
        seed: int | None = None,
    ):
        self.window, self.num_layers = _check.size("window", window), _check.size("num_layers", num_layers)
        self.horizon = _check.size("horizon", horizon, most=LONGEST)
        self.hidden_size = check_stacked.layer_sizes(hidden_size, self.num_layers)
        self.cell = _check.choice("cell", cell, tuple(CELLS))
        self.season = None if season is None else _check.size("season", season)
        self.difference, self.log = bool(difference), bool(log)
        self.quantiles = None if quantiles is None else sorted(QuantileLoss(quantiles).quantiles.tolist())
        if self.quantiles is not None and 0.5 not in self.quantiles:
            raise ValueError(
                f"quantiles are {tuple(self.quantiles)}, but 0.5 must be among them: it is what predict gives"
            )
        self.dropout = _check.probability("dropout", dropout)
        self.dtype = _check.dtype(dtype)
        self.seed = _check.seed(seed)
        self.history = []

    def fit(
        self,
        series,
        exog=None,
        *,
        epochs: int = 100,
        batch_size: int = 32,
        validation: int = 0,
        verbose: bool = True,
        **settings: Unpack[TrainingOptions],
    ) -> Forecaster:
        """Train a new network on one series or several.

        Ctrl-C ends training and keeps the best parameters so far.

        Parameters
        ----------
        series : (T,) or (T, K) array_like or data frame, or list of these
            The series, in order of time, without gaps; several may have different T. Columns of data frames are matched
            by name, here and in all other methods.
        exog : (T, E) array_like or data frame, or list of these, optional
            Other variables, which are known for the future too.
        epochs : int, default=100
            Number of passes over all windows of the series.
        batch_size : int, default=32
            Windows in each update.
        validation : int, default=0
            Number of steps at the end of each series to hold out, at least `horizon`. The parameters with the lowest
            validation loss are kept, which may be the initial ones; with 0, the last ones.
        verbose : bool, default=True
            Show the progress on stderr.
        **settings
            Other fields of ``fastrnn.settings.Settings``: `optimizer`, `lr`, `schedule`, `patience`, `checkpoint`,
            `resume` and so on. The defaults are optimizer="adam", lr=2e-3, clip_norm=5.0 and loss_limit=30.0.

        Returns
        -------
        Forecaster
            This model, fitted.

        Raises
        ------
        ValueError, TypeError
            If a series is too short for one window, has a NaN, or a value without a logarithm where one is needed, or
            if an argument is out of its range. The model and the checkpoint directory are unchanged then.

        Warns
        -----
        RuntimeWarning
            If training diverged or was interrupted; see `outcome` and `message`.
        """
        settings = self._settings(epochs, verbose, settings)
        _check.size("validation", validation, least=0)
        if 0 < validation < self.horizon:
            raise ValueError(
                f"validation={validation} steps are fewer than horizon={self.horizon}: hold out more, or none"
            )
        return self._fit((series, exog), None, settings, batch_size=batch_size, validation=validation)

    def _read(self, series, exog):
        names = column_names(series, exog)
        given, exogs, flat, _ = checked_series(series, exog, names=names, positive=self.log)
        return Examples((given,), {"exogs": exogs, "flat": flat, "names": names})

    def _split(self, data, validation, seed):
        """All of each series: `_prepare` holds out its last steps."""
        return data, None

    def _prepare(self, data, held, seed, settings, *, batch_size, validation):
        [given], exogs = data.columns, data.common["exogs"]
        changed = [self._differences.apply(one) for one in given]
        self._check_lengths(given, changed, validation)
        lost, K, E = self._differences.lost, given[0].shape[1], 0 if exogs is None else exogs[0].shape[1]
        scaler = Scaler.of([one[: len(one) - validation] for one in changed], constant=0.0, name="variable")
        exog_scaler = Scaler.of([one[: len(one) - validation] for one in exogs], name="variable") if E else None
        if validation:
            check_range("series", changed, scaler, self.dtype)
            check_range("exog", exogs or [], exog_scaler, self.dtype)
        inputs = [
            self._inputs(one, scaler, None if exogs is None else exogs[i][lost:], exog_scaler)
            for i, one in enumerate(changed)
        ]
        training = [one[: len(one) - validation] for one in inputs]
        training, held_out = Windows(training, self, K, batch_size, random_key(seed, 1)), None
        if validation:
            held_out = [one[len(one) - validation - self.window :] for one in inputs]
            held_out = Windows(held_out, self, K, batch_size, None)

        def identity(training):
            scale = to_arrays("scaler", scaler).values()
            digest = hashlib.sha256(b"".join(one.tobytes() for one in (*inputs, *scale))).hexdigest()[:12]
            return {"data": digest, "batch_size": batch_size, "validation": validation}

        def build():
            self._scaler, self._exog_scaler, self._flat = scaler, exog_scaler, data.common["flat"]
            self.columns_, self.exog_columns_ = data.common["names"]
            kept = self.window + lost  # steps that a forecast continues from
            self._ends = [one[-kept:] for one in given]
            self._exog_ends = None if exogs is None else [one[-kept:] for one in exogs]
            self.naive_error = naive_error(given, self.season)
            self._build(K, E, seed)

        return Setup(build, lambda: (training, held_out), identity)

    def _check_lengths(self, given, changed, validation):
        """Raise a ValueError unless each series has a window of training."""
        lost, needed = len(given[0]) - len(changed[0]), self.window + self.horizon
        for i, one in enumerate(changed):
            if len(one) - validation < needed:
                raise ValueError(
                    f"series {i} has {len(given[i])} steps, but {needed + lost + validation} are needed: "
                    f"window={self.window}, horizon={self.horizon}, differences {lost}, validation={validation}"
                )

    def predict(
        self, horizon: int | None = None, *, series=None, exog=None, future_exog=None
    ) -> np.ndarray | list[np.ndarray]:
        """Forecast the next steps; where there are quantiles, their median.

        Parameters
        ----------
        horizon : int, optional
            Number of steps; by default as in training.
        series : (T,) or (T, K) array_like or data frame, or list of these, optional
            The series to continue; by default the last series of `fit`.
        exog : (T, E) array_like or data frame, or list of these, optional
            The other variables of `series`.
        future_exog : (horizon, E) array_like or data frame, or list of these, optional
            The other variables of the forecast steps. Required if the model was fitted with `exog`.

        Returns
        -------
        (horizon,) or (horizon, K) ndarray, or list of these
            The forecast, float64; a list if `series` is a list.

        Raises
        ------
        ValueError
            If a series is too short or has another number of variables, or if `exog` or `future_exog` is missing or
            has the wrong shape.
        """
        found, many = self._forecasts(horizon, series, exog, future_exog)
        found = [self._median(one) for one in found]
        return found if many else found[0]

    def predict_quantiles(
        self, horizon: int | None = None, *, series=None, exog=None, future_exog=None
    ) -> np.ndarray | list[np.ndarray]:
        """Forecast the quantiles of the next steps.

        Quantiles do not cross. Where differences are learnt, each quantile follows its own path.

        Parameters
        ----------
        horizon : int, optional
            Number of steps; by default as in training.
        series : (T,) or (T, K) array_like or data frame, or list of these, optional
            The series to continue; by default the last series of `fit`.
        exog : (T, E) array_like or data frame, or list of these, optional
            The other variables of `series`.
        future_exog : (horizon, E) array_like or data frame, or list of these, optional
            The other variables of the forecast steps. Required if the model was fitted with `exog`.

        Returns
        -------
        (Q, horizon, K) ndarray, or list of these
            The forecasts, float64, in the order of `quantiles`; a list if `series` is a list.
        """
        found, many = self._forecasts(horizon, series, exog, future_exog)
        return found if many else found[0]

    def _median(self, quantiles):
        """The median, (horizon,) or (horizon, K), of forecasts (Q, horizon, K)."""
        found = quantiles[self.quantiles.index(0.5) if self.quantiles else 0]
        return found[:, 0] if self._flat else found

    def _forecasts(self, horizon, series, exog, future_exog):
        """A forecast (Q, horizon, K) for each series, and whether the series came as a list."""
        self._check_fitted()
        horizon = self.horizon if horizon is None else _check.size("horizon", horizon)
        before, exog_before, many = self._ends[-1:], self._exog_ends and self._exog_ends[-1:], False
        if series is not None:
            names = self.columns_, self.exog_columns_
            before, exog_before, _, many = checked_series(series, exog, self._K, self._E, names, positive=self.log)
        elif exog is not None:
            raise ValueError("exog belongs to a series, but none is given: give both, or future_exog only")
        futures = future_exog if many and future_exog is not None else [future_exog] * len(before)
        if len(futures) != len(before):
            raise ValueError(
                f"future_exog has {len(futures)} arrays, but there are {len(before)} series: give one for each"
            )
        found = []
        for k, (one, future) in enumerate(zip(before, futures)):
            found.append(self._forecast(horizon, one, None if exog_before is None else exog_before[k], future))
        return found, many

    def mase(self, series, *, future_exog=None) -> float:
        """Compute the mean absolute scaled error of the forecast of the steps after the series of `fit`.

        The scale is the error of the seasonal naive forecast within the series of `fit`: a value below 1 is better than
        that forecast (Hyndman & Koehler 2006).

        Parameters
        ----------
        series : (horizon,) or (horizon, K) array_like or data frame, or list of these
            The true steps after the last series of `fit`, or a list of the steps after each of its series.
        future_exog : (horizon, E) array_like or data frame, or list of these, optional
            The other variables of these steps. Required if the model was fitted with `exog`.

        Returns
        -------
        float
            The error; 0 for a perfect forecast.

        Raises
        ------
        ValueError
            If the naive forecast has no error within the series of `fit`, for example because a series is constant:
            the error is not defined then.
        """
        self._check_fitted()
        wanted, _, _, many = checked_series(series, None, self._K, names=(self.columns_, None), positive=self.log)
        ends = self._ends if many else self._ends[-1:]
        if len(wanted) != len(ends):
            raise ValueError(
                f"series is a list of {len(wanted)}, but the model was fitted with {len(ends)}: give what follows "
                "each of them"
            )
        if not self.naive_error:
            raise ValueError(
                "MASE is not defined: the seasonal naive forecast has no error within the series of fit, as these are "
                "constant or repeat their season; compare predict with the series instead"
            )
        futures = future_exog if many and future_exog is not None else [future_exog] * len(ends)
        errors = []
        for k, one in enumerate(wanted):
            exog = None if self._exog_ends is None else self._exog_ends[k if many else -1]
            found = self._median(self._forecast(len(one), ends[k], exog, futures[k]))
            errors.append(np.abs(found.reshape(one.shape) - one).ravel())
        return float(np.concatenate(errors).mean()) / self.naive_error

    def score(self, series, *, future_exog=None) -> float:
        """Compute minus `mase`.

        Parameters
        ----------
        series : (horizon,) or (horizon, K) array_like or data frame, or list of these
            The true steps after the series of `fit`, as in `mase`.
        future_exog : (horizon, E) array_like or data frame, or list of these, optional
            The other variables of these steps. Required if the model was fitted with `exog`.

        Returns
        -------
        float
            The score, at most 0; higher is better.
        """
        return -self.mase(series, future_exog=future_exog)

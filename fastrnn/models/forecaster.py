"""The next steps of time series: the network reads a window, then goes on without values, and says what they are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from fastrnn import _check
from fastrnn._check import data as check_data
from fastrnn._check import memory as check_memory
from fastrnn._check import stacked as check_stacked
from fastrnn.data._dates import check_times
from fastrnn.layers.feedforward import Dropout, Linear, random_key
from fastrnn.losses import QuantileLoss, mean_squared_error
from fastrnn.models.model import CELLS, DEFAULTS, Model, recurrent, remember_at_first
from fastrnn.models.pooled import names_fit
from fastrnn.models.scaling import Scaler, cast, check_range, from_arrays, numbers_in, to_arrays
from fastrnn.models.schemas import LONGEST
from fastrnn.models.windows import Windows, without_values
from fastrnn.parameters import Storage
from fastrnn.settings import Settings


class Forecaster(Model):
    """Forecasts several steps of one or several variables at once.

    The network reads `window` steps; then it goes on for the steps to forecast, with zeros in place of the values and a flag that says so,
    and its output at each of them is the forecast. So it can forecast more steps than it was trained on. Other variables that are known
    for the future too (holidays, prices) are read at all steps. Differences, logarithms and scales are computed in float64.

    Parameters
    ----------
    window, horizon : steps that are read, and that are forecast, in training
    cell : "lstm", "gru" or "rnn" (tanh)
    hidden_size, num_layers : of the recurrent stack; hidden_size may be a list with the size of each layer
    season : steps of a season, optional: the differences to the season before are learnt
    difference : the differences to the step before are learnt (after those of the season)
    log : the logarithms are learnt; values must be above 0
    quantiles : of the forecast, optional, such as (0.1, 0.5, 0.9): pinball loss instead of squared error
    dropout : probability of a zero behind each recurrent layer, in training
    dtype : "float32" or "float64"
    seed : int, optional. The same seed gives the same training run, bit for bit, on any number of threads.

    Examples
    --------
    >>> series = 10 + 3 * np.sin(np.arange(200) * np.pi / 6)
    >>> model = Forecaster(24, 12, hidden_size=16, seed=0).fit(series[:-12], epochs=60, lr=0.01, verbose=False)
    >>> model.predict().shape, bool(np.abs(model.predict() - series[-12:]).max() < 0.5)
    ((12,), True)
    """

    columns_ = exog_columns_ = None  # names, if the series of `fit` were data frames
    LAYERS = ("rnn", "linear")
    ARGUMENTS = (
        "window",
        "horizon",
        "cell",
        "hidden_size",
        "num_layers",
        "season",
        "difference",
        "log",
        "quantiles",
        "dropout",
    )

    def __init__(
        self,
        window: int,
        horizon: int,
        *,
        cell: str = "gru",
        hidden_size: int | Sequence[int] = 32,
        num_layers: int = 1,
        season: int | None = None,
        difference: bool = False,
        log: bool = False,
        quantiles=None,
        dropout: float = 0.0,
        dtype="float32",
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
        **settings,
    ):
        """Learn from one series or several, anew. Ctrl-C ends the training; what was best so far is kept.

        Parameters
        ----------
        series : (T,) or (T, K), or a list of such with any T; in order of time, without gaps. Columns of data frames go by their names,
            here and in all other methods
        exog : (T, E), or a list of such: other variables, known for the future too; optional
        epochs : times through all windows of the series
        batch_size : windows of an update
        validation : so many last steps of each series are held out, at least `horizon`; the parameters that are best on them are kept,
            which may be the first ones. 0: the last parameters are kept
        verbose : show progress on stderr
        The others as in ``SequenceClassifier.fit``

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError  a series is too short for one window, has a NaN, or a value that has no logarithm; an argument is out of its
            range. Nothing has been changed or written then.

        Warns
        -----
        RuntimeWarning  if the loss rose above `loss_limit` times its first value or was NaN, or at Ctrl-C. See `outcome` and `message`.
        """
        settings = Settings(epochs=epochs, **{**DEFAULTS, "progress": verbose, **settings})
        _check.size("validation", validation, least=0)
        if 0 < validation < self.horizon:
            raise ValueError(
                f"validation={validation} steps are fewer than horizon={self.horizon}: hold out more, or none"
            )
        names = (
            check_data.columns(_several(series)[0][0]),
            check_data.columns(None if exog is None else _several(exog)[0][0]),
        )
        given, exogs, flat = self._given(series, exog, names=names)[:3]
        changed = [self._changed(one) for one in given]
        lost, needed = len(given[0]) - len(changed[0]), self.window + self.horizon
        for i, one in enumerate(changed):
            if len(one) - validation < needed:
                raise ValueError(
                    f"series {i} has {len(given[i])} steps, but {needed + lost + validation} are needed: window={self.window}, "
                    f"horizon={self.horizon}, differences {lost}, validation={validation}"
                )
        scaler = Scaler.of([one[: len(one) - validation] for one in changed], constant=0.0, name="variable")
        E = 0 if exogs is None else exogs[0].shape[1]
        exog_scaler = Scaler.of([one[: len(one) - validation] for one in exogs], name="variable") if E else None
        if validation:
            check_range("series", changed, scaler, self.dtype)
            check_range("exog", exogs or [], exog_scaler, self.dtype)
        inputs = [
            self._inputs(one, scaler, None if exogs is None else exogs[i][lost:], exog_scaler)
            for i, one in enumerate(changed)
        ]
        seed, K = self._drawn_seed(settings), given[0].shape[1]
        data = Windows([one[: len(one) - validation] for one in inputs], self, K, batch_size, random_key(seed, 1))
        held = (
            Windows([one[len(one) - validation - self.window :] for one in inputs], self, K, batch_size, None)
            if validation
            else None
        )

        def identity(data):
            scale = to_arrays("scaler", scaler).values()
            digest = hashlib.sha256(b"".join(one.tobytes() for one in (*inputs, *scale))).hexdigest()[:12]
            return {"data": digest, "batch_size": batch_size, "validation": validation}

        def build():
            self._scaler, self._exog_scaler, self._flat = scaler, exog_scaler, flat
            self.columns_, self.exog_columns_ = names
            kept = self.window + lost  # steps that a forecast goes on from
            self._ends = [one[-kept:] for one in given]
            self._exog_ends = None if exogs is None else [one[-kept:] for one in exogs]
            self.naive_error = self._naive(given)
            self._build(K, E, seed)

        self._train(build, data, settings, seed=seed, validation=held, identity=identity, unit="steps")
        return self

    def _given(self, series, exog, K=None, E=None, names=(None, None)):
        """Lists of checked arrays (T, K) and (T, E) or None, whether a series was (T,), and whether there were several."""
        series, many = _several(series)
        for one, other in zip(series, [None] * len(series) if exog is None else exog if many else [exog]):
            check_times(one, other)
        given = [check_data.real_numbers("series", check_data.by_name("series", one, names[0])) for one in series]
        flat = given[0].ndim == 1
        given = [one[:, None] if one.ndim == 1 else one for one in given]
        K = given[0].shape[-1] if K is None else K
        for one in given:
            if one.ndim != 2 or one.shape[1] != K or not K:
                raise ValueError(f"a series has shape {one.shape}, but (T,) or (T, {K}) is needed")
            if self.log and (one <= 0).any():
                raise ValueError(f"log=True needs values above 0, but a series has {one.min():g}")
        if exog is None:
            return given, None, flat, many
        exogs = [
            check_data.real_numbers("exog", check_data.by_name("exog", one, names[1]))
            for one in (exog if many else [exog])
        ]
        E = exogs[0].shape[-1] if E is None else E
        if len(exogs) != len(given) or any(e.shape != (len(g), E) for e, g in zip(exogs, given)):
            raise ValueError(
                f"exog has shapes {[e.shape for e in exogs]}, but the series have {[len(g) for g in given]} steps and E={E}"
            )
        return given, exogs, flat, many

    def _changed(self, series):
        """(T - lost, K): logarithms and differences, as configured."""
        series = np.log(series) if self.log else series
        for lag in self._lags:
            series = series[lag:] - series[:-lag]
        return series

    @property
    def _lags(self):
        return [lag for lag in (self.season, 1 if self.difference else None) if lag]

    def _restored(self, changes, before):
        """What `_changed` undoes: (horizon, …) values that follow `before`, (steps, K); changes (horizon, …, K)."""
        history = np.log(before) if self.log else before
        stages = [history]
        for lag in self._lags:
            stages.append(stages[-1][lag:] - stages[-1][:-lag])
        for lag, stage in reversed(list(zip(self._lags, stages))):
            past = np.broadcast_to(
                stage.reshape(len(stage), *[1] * (changes.ndim - 2), stage.shape[1]), (len(stage), *changes.shape[1:])
            )
            values = np.concatenate([past, changes])
            for t in range(len(past), len(values)):
                values[t] += values[t - lag]
            changes = values[len(past) :]
        return np.exp(changes) if self.log else changes

    def _inputs(self, changed, scaler, exog, exog_scaler):
        """(T, K + E + 1): scaled values, other variables, and the flag of a forecast step."""
        parts = [scaler(changed), np.zeros((len(changed), 1))]
        if exog is not None:
            parts.insert(1, exog_scaler(exog))
        return cast(np.concatenate(parts, 1), self.dtype, lambda place: f"step {place[0]}")

    def _naive(self, series):
        """Mean absolute error of the seasonal naive forecast within the series (Hyndman & Koehler 2006); 0 if it is rounding."""
        lag = self.season or 1
        error = float(np.concatenate([np.abs(one[lag:] - one[:-lag]).ravel() for one in series]).mean())
        return error if error > 4 * np.finfo(np.float64).eps * max(np.abs(one).max() for one in series) else 0.0

    def _build(self, K, E, seed):
        """Make the layers, with first values drawn from `seed`, in one storage."""
        self._K, self._E, Q = K, E, len(self.quantiles or [0])
        self.storage = Storage(self.dtype, self._budget)
        make = dict(dtype=self.dtype, storage=self.storage)
        self.rnn = recurrent(
            self.cell,
            K + E + 1,
            self.hidden_size,
            self.num_layers,
            dropout=self.dropout,
            seed=random_key(seed, 3),
            **make,
        )
        self.linear = Linear(self.rnn.output_size, K * Q, seed=random_key(seed, 4), **make)
        self._dropout = Dropout(self.dropout) if self.dropout else None
        self._loss = mean_squared_error if self.quantiles is None else QuantileLoss(self.quantiles)
        remember_at_first(self.rnn, random_key(seed, 3))

    def loss_and_gradient(self, batch, state=None, *, into, rng: int):
        """Mean loss of some windows, and None; the gradient is added to `into`, laid out as ``storage.flat``."""
        x, targets = batch
        (y, _), rnn_backward = self.rnn.vjp(x, rng=rng)
        y_out = np.ascontiguousarray(y[self.window :])
        if self._dropout is not None:
            y_out, dropout_backward = self._dropout.vjp(y_out, rng=random_key(rng, 1))
        output, linear_backward = self.linear.vjp(y_out)
        loss, loss_backward = self._loss.vjp(output, targets)
        dy_out = linear_backward(loss_backward(), into=into).x
        if self._dropout is not None:
            dy_out = dropout_backward(dy_out).x
        dy = np.zeros_like(y)
        dy[self.window :] = dy_out
        rnn_backward(dy, need_x=False, into=into)
        rnn_backward.release()
        return loss, None

    def evaluate(self, batches) -> dict:
        """{"loss": mean loss of the scaled values} of some windows."""
        total = count = 0
        for x, targets in batches:
            output = self.linear(np.ascontiguousarray(self.rnn(x)[0][self.window :]))
            total += self._loss(output, targets) * x.shape[1]
            count += x.shape[1]
        return {"loss": total / count}

    def predict(self, horizon: int | None = None, *, series=None, exog=None, future_exog=None):
        """The steps that follow, (horizon,) or (horizon, K), float64; the median where there are quantiles.

        Parameters
        ----------
        horizon : as in training if None
        series, exog : what is gone on from; by default the (last) series of `fit`. Of a list of series a list of forecasts is given
        future_exog : (horizon, E), or a list of such, if the model was fitted with exog
        """
        found, many = self._forecasts(horizon, series, exog, future_exog)
        found = [self._median(one) for one in found]
        return found if many else found[0]

    def predict_quantiles(self, horizon: int | None = None, *, series=None, exog=None, future_exog=None):
        """(Q, horizon, K) in the order of `quantiles`, which do not cross; where differences are learnt, each follows its own path.

        Arguments as of `predict`; of a list of series a list is given.
        """
        found, many = self._forecasts(horizon, series, exog, future_exog)
        return found if many else found[0]

    def _median(self, quantiles):
        """(horizon,) or (horizon, K) of (Q, horizon, K)."""
        found = quantiles[self.quantiles.index(0.5) if self.quantiles else 0]
        return found[:, 0] if self._flat else found

    def _forecasts(self, horizon, series, exog, future_exog):
        """A list of arrays (Q, horizon, K), one for each series, and whether several were asked for."""
        self._check_fitted()
        horizon = self.horizon if horizon is None else _check.size("horizon", horizon)
        before, exog_before, many = self._ends[-1:], self._exog_ends and self._exog_ends[-1:], False
        if series is not None:
            before, exog_before, _, many = self._given(
                series, exog, self._K, self._E, (self.columns_, self.exog_columns_)
            )
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

    def _forecast(self, horizon, before, exog_before, future_exog):
        """(Q, horizon, K) of the steps that follow `before`, (T, K)."""
        changed = self._changed(before)
        if len(changed) < self.window:
            raise ValueError(
                f"the series has {len(before)} steps, but {self.window + len(before) - len(changed)} are needed to go on from"
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
        nothing = np.broadcast_to(self._scaler.mean, (horizon, self._K))  # scaled it is 0
        x = self._inputs(np.concatenate([changed[-self.window :], nothing]), self._scaler, exog, self._exog_scaler)
        x = without_values(x[:, None], self.window, self._K)
        output = self.linear(np.ascontiguousarray(self.rnn(x)[0][self.window :, 0])).reshape(horizon, self._K, -1)
        changes = np.sort(self._scaler.undo(output.transpose(0, 2, 1)), axis=1)
        return np.ascontiguousarray(self._restored(changes, before).transpose(1, 0, 2))

    def mase(self, series, *, future_exog=None) -> float:
        """Mean absolute scaled error of the forecast of the steps `series` that follow those of `fit`.

        The scale is the error of the seasonal naive forecast within the series of `fit`; a figure below 1 is better than that
        (Hyndman & Koehler 2006).

        Parameters
        ----------
        series : the steps that follow the (last) series of `fit`; or a list of those that follow each of them
        future_exog : for these steps, (len(series), E), or a list of such

        Raises
        ------
        ValueError  the naive forecast has no error within the series of `fit`, as where a series is constant: MASE is not defined then.
        """
        self._check_fitted()
        wanted, _, _, many = self._given(series, None, self._K, names=(self.columns_, None))
        ends = self._ends if many else self._ends[-1:]
        if len(wanted) != len(ends):
            raise ValueError(
                f"series is a list of {len(wanted)}, but the model was fitted with {len(ends)}: give what follows each of them"
            )
        if not self.naive_error:
            raise ValueError(
                "MASE is not defined: the seasonal naive forecast has no error within the series of fit, as these are constant or repeat "
                "their season; compare predict with the series instead"
            )
        futures = future_exog if many and future_exog is not None else [future_exog] * len(ends)
        errors = []
        for k, one in enumerate(wanted):
            exog = None if self._exog_ends is None else self._exog_ends[k if many else -1]
            found = self._median(self._forecast(len(one), ends[k], exog, futures[k]))
            errors.append(np.abs(found.reshape(one.shape) - one).ravel())
        return float(np.concatenate(errors).mean()) / self.naive_error

    def score(self, series, *, future_exog=None) -> float:
        """Minus `mase`: higher is better, at most 0."""
        return -self.mase(series, future_exog=future_exog)

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
        kept = self.window + sum(self._lags)

        def ends(name, width):  # of a model saved by an older version only the last one, whole and in its dtype
            return [
                numbers_in(arrays, key, (kept, width)) for key in (*(f"{name}.{k}" for k in range(series - 1)), name)
            ]

        self._ends, self._exog_ends = ends("end", K), ends("exog_end", E) if E else None
        if self.log and any((end <= 0).any() for end in self._ends):
            raise ValueError("log is true, but the end of a series is not above 0")
        self._build(K, E, 0)


def _several(series):
    """The series as a list, and whether they came as one."""
    many = isinstance(series, (list, tuple)) and len(series) > 0 and np.ndim(series[0]) > 0
    return (series if many else [series]), many

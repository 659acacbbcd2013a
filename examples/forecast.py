"""Forecast a time series with a Forecaster.

    python examples/forecast.py                   a seasonal series that is generated
    python examples/forecast.py Airline.csv       the first numeric column of a CSV file
    python examples/forecast.py Uschange.csv --season 4 --target Consumption --quantiles

The last `horizon` steps are the test part. The script prints the mean absolute scaled error (MASE) on it, of the
forecast for each seed and of the seasonal naive forecast. An error of 1 is that of the seasonal naive forecast within
the training part.
"""

import argparse

import numpy as np

from fastrnn.data import read_csv
from fastrnn.models import Forecaster
from fastrnn.optim import Cosine


def seasonal(T=144):
    """Generate a series with a trend, a season that grows with it, and noise."""
    t, rng = np.arange(T), np.random.default_rng(0)
    return 100 * np.exp(0.01 * t + 0.15 * np.sin(t * np.pi / 6) + 0.03 * rng.standard_normal(T))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("file", nargs="?", metavar="FILE.csv")
    add("--target", metavar="COLUMN", help="column to forecast; the others are known for the future too")
    add("--horizon", type=int, default=24)
    add("--window", type=int, default=24)
    add("--season", type=int, default=12)
    add("--quantiles", action="store_true", help="print how many values are within the 80 %% interval too")
    add("--seeds", type=int, default=3)
    add("--epochs", type=int, default=60)
    arguments = parser.parse_args()
    names, table = read_csv(arguments.file) if arguments.file else (["made"], seasonal()[:, None])
    k, h, season = names.index(arguments.target or names[0]), arguments.horizon, arguments.season
    series, exog = table[:, k], np.delete(table, k, 1) if len(names) > 1 else None
    past, future = (None, None) if exog is None else (exog[:-h], exog[-h:])
    train, test = series[:-h], series[-h:]

    options = dict(season=season, log=bool((series > 0).all()), dropout=0.2)
    if arguments.quantiles:
        options["quantiles"] = (0.1, 0.5, 0.9)
    training = dict(epochs=arguments.epochs, batch_size=16, lr=5e-3, schedule=Cosine(arguments.epochs), verbose=False)
    for seed in range(arguments.seeds):
        model = Forecaster(arguments.window, h, seed=seed, **options)
        model.fit(train, past, **training)
        print(f"seed {seed}: MASE {model.mase(test, future_exog=future):.3f}")
        if arguments.quantiles:
            low, _, high = model.predict_quantiles(future_exog=future)[:, :, 0]
            print(f"        {np.mean((low <= test) & (test <= high)):.0%} of the test part within the 80 % interval")
    naive = np.abs(np.resize(train[-season:], h) - test).mean() / np.abs(train[season:] - train[:-season]).mean()
    print(f"seasonal naive: MASE {naive:.3f}")


if __name__ == "__main__":
    main()

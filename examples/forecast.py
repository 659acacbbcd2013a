"""Forecast a time series: Forecaster, with quantiles if wanted.

    python examples/forecast.py                                  a seasonal series, made here
    python examples/forecast.py Airline.csv                      a CSV file with a header; columns that hold no numbers are left out
    python examples/forecast.py Uschange.csv --season 4 --target Consumption --quantiles

The last `horizon` steps are the test part. Prints the mean absolute scaled error (1: as good as the seasonal naive forecast within the
training part) of the forecast, and of the seasonal naive forecast, on the test part.
"""

import argparse

import numpy as np

from fastrnn.data import read_csv
from fastrnn.models import Forecaster
from fastrnn.optim import Cosine


def seasonal(T=144):
    """A trend, a season that grows with it, noise."""
    t, rng = np.arange(T), np.random.default_rng(0)
    return 100 * np.exp(0.01 * t + 0.15 * np.sin(t * np.pi / 6) + 0.03 * rng.standard_normal(T))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("file", nargs="?", metavar="FILE.csv")
    add("--target", metavar="COLUMN", help="forecast this one; the others are known for the future too")
    add("--horizon", type=int, default=24)
    add("--window", type=int, default=24)
    add("--season", type=int, default=12)
    add("--quantiles", action="store_true", help="also print the interval that is to hold 80 %% of the values")
    add("--seeds", type=int, default=3)
    add("--epochs", type=int, default=60)
    arguments = parser.parse_args()
    names, table = read_csv(arguments.file) if arguments.file else (["made"], seasonal()[:, None])
    k, h, season = names.index(arguments.target or names[0]), arguments.horizon, arguments.season
    series, exog = table[:, k], np.delete(table, k, 1) if len(names) > 1 else None
    past, future = (None, None) if exog is None else (exog[:-h], exog[-h:])
    train, test = series[:-h], series[-h:]
    quantiles = (0.1, 0.5, 0.9) if arguments.quantiles else None
    for seed in range(arguments.seeds):
        model = Forecaster(
            arguments.window,
            h,
            season=season,
            log=bool((series > 0).all()),
            quantiles=quantiles,
            dropout=0.2,
            seed=seed,
        )
        model.fit(
            train,
            past,
            epochs=arguments.epochs,
            batch_size=16,
            lr=5e-3,
            schedule=Cosine(arguments.epochs),
            verbose=False,
        )
        print(f"seed {seed}: MASE {model.mase(test, future_exog=future):.3f}")
        if quantiles:
            low, _, high = model.predict_quantiles(future_exog=future)[:, :, 0]
            print(f"        {np.mean((low <= test) & (test <= high)):.0%} of the test part within the 80 % interval")
    naive = np.abs(np.resize(train[-season:], h) - test).mean() / np.abs(train[season:] - train[:-season]).mean()
    print(f"seasonal naive: MASE {naive:.3f}")


if __name__ == "__main__":
    main()

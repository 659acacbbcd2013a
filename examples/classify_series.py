"""Classify time series of different lengths with a SequenceClassifier.

    python examples/classify_series.py                                     waves that are generated
    python examples/classify_series.py GunPoint_TRAIN.ts GunPoint_TEST.ts  files of the UCR/UEA archive

The script prints the accuracy on the test part for each seed. The settings were chosen by cross-validation on the
training parts.
"""

import argparse

import numpy as np

from fastrnn.data import read_ts
from fastrnn.models import SequenceClassifier
from fastrnn.optim import Cosine


def waves(n, rng):
    """Generate noisy sine, square and sawtooth waves of 20 to 60 steps."""
    X, y = [], []
    for _ in range(n):
        kind, T = rng.choice(["sawtooth", "sine", "square"]), rng.integers(20, 61)
        phase = np.arange(T) * rng.uniform(0.15, 0.35) + rng.uniform(0, 6.28)
        wave = {"sine": np.sin(phase), "square": np.sign(np.sin(phase)), "sawtooth": phase / np.pi % 2 - 1}[kind]
        X.append((wave + 0.3 * rng.standard_normal(T))[:, None])
        y.append(kind)
    return X, y


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", metavar="FILE.ts", help="training part and test part")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=150)
    arguments = parser.parse_args()
    if len(arguments.files) not in (0, 2):
        parser.error("give two files, or none")
    rng = np.random.default_rng(0)
    train, test = map(read_ts, arguments.files) if arguments.files else (waves(300, rng), waves(300, rng))
    scores = []
    for seed in range(arguments.seeds):
        model = SequenceClassifier("gru", 64, num_layers=2, bidirectional=True, pooling="mean", dropout=0.2, seed=seed)
        model.fit(
            *train, epochs=arguments.epochs, batch_size=8, lr=5e-3, schedule=Cosine(arguments.epochs), verbose=False
        )
        scores.append(model.score(*test))
        print(f"seed {seed}: accuracy {scores[-1]:.4f} ({model.num_parameters} parameters, {model.speed:,.0f} steps/s)")
    print(f"mean {np.mean(scores):.4f}, lowest {min(scores):.4f}")


if __name__ == "__main__":
    main()

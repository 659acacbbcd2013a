"""Recognise spoken digits with a bidirectional LSTM on log-mel frames.

    python examples/spoken_digits.py                      tones that are generated: each digit is a melody
    python examples/spoken_digits.py fsdd/recordings      the Free Spoken Digit Dataset

The files of the dataset are named {digit}_{speaker}_{index}.wav; those with an index from 0 to 4 are the test part. The
script prints the accuracy on it for three seeds.
"""

import argparse
from pathlib import Path

import numpy as np

from fastrnn.data import log_mel, read_wav
from fastrnn.models import SequenceClassifier

RATE = 8000


def tones(n, rng):
    """Generate melodies of three notes, of different tempo and loudness, with noise."""
    y = rng.integers(0, 10, n)
    hertz = [np.repeat(np.random.default_rng(digit).uniform(200, 2000, 3), rng.integers(600, 1400, 3)) for digit in y]
    sounds = [
        rng.uniform(0.1, 1) * np.sin(2 * np.pi * np.cumsum(h) / RATE) + 0.1 * rng.standard_normal(len(h)) for h in hertz
    ]
    return [log_mel(sound, RATE) for sound in sounds], y


def recordings(folder, test):
    """Read log-mel frames and digits of one part of the dataset."""
    X, y = [], []
    for path in sorted(Path(folder).glob("*.wav")):
        digit, _, index = path.stem.split("_")
        if (int(index) < 5) == test:
            X.append(log_mel(*read_wav(path)))
            y.append(int(digit))
    return X, y


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", help="folder of the recordings")
    parser.add_argument("--epochs", type=int, default=15)
    arguments = parser.parse_args()
    if arguments.folder:
        train, test = (recordings(arguments.folder, part) for part in (False, True))
    else:
        rng = np.random.default_rng(0)
        train, test = tones(400, rng), tones(200, rng)
    for seed in range(3):
        model = SequenceClassifier("lstm", 96, bidirectional=True, pooling="mean", dropout=0.3, seed=seed)
        model.fit(*train, epochs=arguments.epochs, lr=3e-3, verbose=False)
        accuracy = f"accuracy {model.score(*test):.4f} on {len(test[0])} recordings"
        print(f"seed {seed}: {accuracy} ({model.speed:,.0f} frames/s)")


if __name__ == "__main__":
    main()

"""Recognise spoken digits: a bidirectional LSTM on log-mel frames.

python examples/spoken_digits.py                      tones, made here: each digit is a melody
python examples/spoken_digits.py fsdd/recordings      the Free Spoken Digit Dataset: {digit}_{speaker}_{index}.wav, index 0-4 is its test part
"""

import argparse
from pathlib import Path

import numpy as np

from fastrnn.data import log_mel, read_wav
from fastrnn.models import SequenceClassifier

RATE = 8000


def tones(n, rng):
    """Melodies of three notes, of different tempo and loudness, in noise."""
    y = rng.integers(0, 10, n)
    hertz = [np.repeat(np.random.default_rng(digit).uniform(200, 2000, 3), rng.integers(600, 1400, 3)) for digit in y]
    sounds = [
        rng.uniform(0.1, 1) * np.sin(2 * np.pi * np.cumsum(h) / RATE) + 0.1 * rng.standard_normal(len(h)) for h in hertz
    ]
    return [log_mel(sound, RATE) for sound in sounds], y


def recordings(folder, test):
    """Log-mel frames and digits of one part of the data set."""
    X, y = [], []
    for path in sorted(Path(folder).glob("*.wav")):
        digit, _, index = path.stem.split("_")
        if (int(index) < 5) == test:
            X.append(log_mel(*read_wav(path)))
            y.append(int(digit))
    return X, y


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", help="of the recordings")
    parser.add_argument("--epochs", type=int, default=15)
    arguments = parser.parse_args()
    rng, folder = np.random.default_rng(0), arguments.folder
    train, test = (
        (recordings(folder, False), recordings(folder, True)) if folder else (tones(400, rng), tones(200, rng))
    )
    for seed in range(3):
        model = SequenceClassifier("lstm", 96, bidirectional=True, pooling="mean", dropout=0.3, seed=seed)
        model.fit(*train, epochs=arguments.epochs, lr=3e-3, verbose=False)
        print(
            f"seed {seed}: accuracy {model.score(*test):.4f} on {len(test[0])} recordings ({model.speed:,.0f} frames/s)"
        )


if __name__ == "__main__":
    main()

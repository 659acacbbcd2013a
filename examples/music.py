"""Polyphonic music: EventModel predicts which notes sound in the next frame.

    python examples/music.py                              canons, made here
    python examples/music.py jsb-chorales-quarter.json    piano rolls: {"train": …, "valid": …, "test": …}, lists of MIDI pitches

The model that is best on the validation part is kept; the test part is looked at once for each seed. Prints nats per frame.
"""

import argparse

import numpy as np

from fastrnn.data import LOWEST, NOTES, read_rolls
from fastrnn.models import EventModel
from fastrnn.optim import Cosine


def canons(n, rng):
    """A melody that walks up and down a scale, and the same melody two frames later, a fifth below."""
    scale, pieces = np.flatnonzero(np.resize([1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1], NOTES)), []
    for _ in range(n):
        steps = np.cumsum(rng.choice([-1, 1, 2], 40, p=[0.5, 0.3, 0.2])) % 14 + 20
        roll = np.zeros((40, NOTES))
        roll[np.arange(40), scale[steps]] = 1
        roll[np.arange(2, 40), scale[steps[:-2] - 4]] = 1
        pieces.append(roll)
    return pieces


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("file", nargs="?", metavar="FILE.json")
    add("--cell", choices=("gru", "lstm", "rnn"), default="gru")
    add("--hidden", type=int, help="units; without it as many as give about 300,000 parameters")
    add("--seeds", type=int, default=3)
    add("--epochs", type=int, default=150)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    train, valid, test = (
        read_rolls(arguments.file, part) if arguments.file else canons(60, rng) for part in ("train", "valid", "test")
    )
    hidden = arguments.hidden or {"gru": 260, "lstm": 222, "rnn": 390}[arguments.cell]
    for seed in range(arguments.seeds):
        model = EventModel(arguments.cell, hidden, input_dropout=0.2, dropout=0.5, seed=seed)
        model.fit(
            train, validation=valid, epochs=arguments.epochs, batch_size=8, lr=5e-3, schedule=Cosine(arguments.epochs), patience=30,
            optimizer="adamw", weight_decay=0.1, verbose=False,
        )  # fmt: skip
        best = min(entry["validation_loss"] for entry in model.history)
        print(
            f"seed {seed}: test {-model.score(test):.3f}, valid {best:.3f} nats/frame ({model.num_parameters:,} parameters, {model.speed:,.0f} frames/s)"
        )
    prime = test[0][:8]
    print("it goes on:", [(np.flatnonzero(frame) + LOWEST).tolist() for frame in model.generate(8, prime, seed=0)])


if __name__ == "__main__":
    main()

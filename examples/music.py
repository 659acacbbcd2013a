"""Predict which notes of a piece of polyphonic music sound in the next frame, with an EventModel.

    python examples/music.py                              canons that are generated
    python examples/music.py jsb-chorales-quarter.json    piano rolls: {"train": …, "valid": …, "test": …}, MIDI pitches

The parameters with the lowest loss on the validation part are kept, and only these are evaluated on the test part. The
script prints both losses in nats per frame for each seed, and a continuation of the first test piece.
"""

import argparse

import numpy as np

from fastrnn.data import LOWEST, NOTES, read_rolls
from fastrnn.models import EventModel
from fastrnn.optim import Cosine


def canons(n, rng):
    """Generate melodies that walk up and down a scale, each with a copy two frames later, a fifth below."""
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
    add("--hidden", type=int, help="units; by default as many as give about 300,000 parameters")
    add("--seeds", type=int, default=3)
    add("--epochs", type=int, default=150)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    train, valid, test = (
        read_rolls(arguments.file, part) if arguments.file else canons(60, rng) for part in ("train", "valid", "test")
    )
    hidden = arguments.hidden or {"gru": 260, "lstm": 222, "rnn": 390}[arguments.cell]
    training = dict(epochs=arguments.epochs, schedule=Cosine(arguments.epochs), patience=30, batch_size=8, lr=5e-3)
    for seed in range(arguments.seeds):
        model = EventModel(arguments.cell, hidden, input_dropout=0.2, dropout=0.5, seed=seed)
        model.fit(train, validation=valid, optimizer="adamw", weight_decay=0.1, verbose=False, **training)
        best = min(entry["validation_loss"] for entry in model.history)
        size, speed = f"{model.num_parameters:,} parameters", f"{model.speed:,.0f} frames/s"
        print(f"seed {seed}: test {-model.score(test):.3f}, valid {best:.3f} nats/frame ({size}, {speed})")
    frames = model.generate(8, test[0][:8], seed=0)
    print("continuation:", [(np.flatnonzero(frame) + LOWEST).tolist() for frame in frames])


if __name__ == "__main__":
    main()

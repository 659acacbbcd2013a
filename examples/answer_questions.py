"""Answer questions about stories: MemoryNetwork, three hops, with the settings of Sukhbaatar et al. (2015).

    python examples/answer_questions.py [--joint] [FOLDER]   qa1_…_train.txt, qa1_…_test.txt, … of bAbI, else a task of its own

The restart with the least loss on the training part is kept; only with that one the test part is looked at.
"""

import argparse
from pathlib import Path

import numpy as np

from fastrnn.data import read_babi
from fastrnn.models import MemoryNetwork
from fastrnn.optim import Schedule

ALONE = [
    0.1,
    8.2,
    41.8,
    4.4,
    13.7,
    7.9,
    20.3,
    11.7,
    13.6,
    9.7,
    0.7,
    0.0,
    0.3,
    0.9,
    0.0,
    0.4,
    51.0,
    10.5,
    81.4,
    0.0,
]  # published errors, in %
JOINT = [0.0, 13.1, 23.4, 5.9, 12.9, 3.7, 22.9, 9.1, 2.7, 7.2, 0.8, 0.1, 0.1, 4.2, 0.0, 1.2, 43.6, 10.5, 86.7, 0.0]


class Halving(Schedule):
    def __init__(self, start, every):
        self.start, self.every = start, every

    def __call__(self, epoch):
        return 0.5 if epoch < self.start else 0.5 ** (epoch // self.every)


def made_up(rng, N=300):  # three people go from room to room, and one is looked for
    who, where = (
        rng.choice(["ann", "bob", "cid"], (N, 5)).tolist(),
        rng.choice(["attic", "cellar", "hall"], (N, 5)).tolist(),
    )
    X = [
        ([[name, "went", "to", "the", room] for name, room in zip(*pair)], ["where", "is", pair[0][2]])
        for pair in zip(who, where)
    ]
    return X, [rooms[max(k for k in range(5) if names[k] == names[2])] for names, rooms in zip(who, where)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    for option, default in (("--restarts", 10), ("--epochs", None)):
        parser.add_argument(option, type=int, default=default)
    parser.add_argument("--joint", action="store_true")
    arguments = parser.parse_args()
    size, epochs, start, published = (50, 60, 0.5, JOINT) if arguments.joint else (20, 100, 0.2, ALONE)
    epochs, start = arguments.epochs or epochs, int(start * (arguments.epochs or epochs))
    tasks = [[made_up(np.random.default_rng(seed)) for seed in (0, 1)]]
    if arguments.folder is not None:
        tasks = [
            [read_babi(next(arguments.folder.glob(f"qa{k}_*_{part}.txt"))) for part in ("train", "test")]
            for k in range(1, 21)
        ]
    # the paper's rate is 0.01, and its limit 40, for a loss that is summed over the batch of 32
    errors, recipe = (
        [],
        dict(epochs=epochs, optimizer="sgd", lr=0.32, clip_norm=1.25, schedule=Halving(start, epochs / 4)),
    )
    for group in [tasks] if arguments.joint else [[task] for task in tasks]:
        X, y = ([item for train, _ in group for item in train[k]] for k in (0, 1))
        models = (MemoryNetwork(size, hops=3, linear_start=start, seed=seed) for seed in range(arguments.restarts))
        best = min((model.fit(X, y, **recipe) for model in models), key=lambda model: model.history[-1]["train_loss"])
        for k, (_, test) in enumerate(group, len(errors)):
            errors.append(100 * (1 - best.score(*test)))
            print(f"task {k + 1}: test error {errors[-1]:.1f} % (published: {published[k]})", flush=True)
    print(f"mean test error: {np.mean(errors):.2f} %; {best.speed:,.0f} questions/s")


if __name__ == "__main__":
    main()

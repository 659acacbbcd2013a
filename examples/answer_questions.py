"""Answer questions about stories with a MemoryNetwork.

    python examples/answer_questions.py                  stories that are generated
    python examples/answer_questions.py FOLDER           the 20 bAbI tasks (qa1_…_train.txt, …), a model for each
    python examples/answer_questions.py FOLDER --joint   one model for all tasks

The network has three hops and the settings of Sukhbaatar et al. (2015). Of several restarts the one with the lowest
training loss is chosen, and only this one is evaluated on the test part. The script prints the test error of each task,
next to the published one.
"""

import argparse
from pathlib import Path

import numpy as np

from fastrnn.data import read_babi
from fastrnn.models import MemoryNetwork
from fastrnn.optim import Schedule

# Published errors of the tasks, in %
ALONE = [0.1, 8.2, 41.8, 4.4, 13.7, 7.9, 20.3, 11.7, 13.6, 9.7, 0.7, 0.0, 0.3, 0.9, 0.0, 0.4, 51.0, 10.5, 81.4, 0.0]
JOINT = [0.0, 13.1, 23.4, 5.9, 12.9, 3.7, 22.9, 9.1, 2.7, 7.2, 0.8, 0.1, 0.1, 4.2, 0.0, 1.2, 43.6, 10.5, 86.7, 0.0]


class Halving(Schedule):
    """Halve the learning rate every `every` epochs; until epoch `start`, while the network is linear, use a half."""

    def __init__(self, start, every):
        self.start, self.every = start, every

    def __call__(self, epoch):
        return 0.5 if epoch < self.start else 0.5 ** (epoch // self.every)


def generate(rng, N=300):
    """Generate stories in which people go from room to room, and questions where one of them is."""
    people = rng.choice(["ann", "bob", "cid"], (N, 5)).tolist()
    rooms = rng.choice(["attic", "cellar", "hall"], (N, 5)).tolist()
    X, y = [], []
    for names, places in zip(people, rooms):
        wanted = names[2]
        story = [[name, "went", "to", "the", place] for name, place in zip(names, places)]
        X.append((story, ["where", "is", wanted]))
        y.append(places[max(k for k in range(5) if names[k] == wanted)])
    return X, y


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--joint", action="store_true")
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--epochs", type=int)
    arguments = parser.parse_args()
    size, epochs, start, published = (50, 60, 0.5, JOINT) if arguments.joint else (20, 100, 0.2, ALONE)
    epochs = arguments.epochs or epochs
    start = int(start * epochs)  # epochs in which the network is linear
    # The paper's learning rate of 0.01 and clipping norm of 40 are for a loss that is summed over the batch of 32.
    recipe = dict(epochs=epochs, optimizer="sgd", lr=0.32, clip_norm=1.25, schedule=Halving(start, epochs / 4))

    if arguments.folder is None:
        tasks = [[generate(np.random.default_rng(seed)) for seed in (0, 1)]]
    else:
        find = arguments.folder.glob
        tasks = [[read_babi(next(find(f"qa{k}_*_{part}.txt"))) for part in ("train", "test")] for k in range(1, 21)]
    errors = []
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

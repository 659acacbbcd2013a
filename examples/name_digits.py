"""Describe pictures in words: a VectorToSequence turns scikit-learn's digits (8 by 8 pixels) into names or captions.

    python examples/name_digits.py                       names such as "seven", letter by letter
    python examples/name_digits.py --caption             captions such as "a dark narrow seven", word by word
    python examples/name_digits.py captions.npz          your own vectors and texts; see fastrnn.data.read_captions

A picture is dark if it has more ink than half of the training part, and wide if it has ink in more columns. A fifth of
the pictures is held out, and the accuracy on both parts is printed. With --out, running the same command again
continues an interrupted training.
"""

import argparse

import numpy as np
from sklearn.datasets import load_digits

from fastrnn.data import read_captions
from fastrnn.models import VectorToSequence

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def captions(pictures, names, train):
    """Make a caption for each picture, a list of words."""
    ink = pictures.sum((1, 2))
    columns = (pictures.sum(1) > pictures.sum(1).max(1, keepdims=True) / 4).sum(1)
    dark, wide = ink > np.median(ink[train]), columns > np.median(columns[train])
    return [["a", "dark" if d else "light", "wide" if w else "narrow", name] for d, w, name in zip(dark, wide, names)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("pairs", nargs="?", metavar="FILE")
    add("--caption", action="store_true")
    add("--context", default="both", choices=["both", "initial", "every"])
    add("--hidden", type=int, default=128)
    add("--epochs", type=int, default=40)
    add("--seed", type=int, default=0)
    add("--out", help="directory for the model and its checkpoints")
    arguments = parser.parse_args()
    digits = load_digits()
    if arguments.pairs is None:
        X, texts = digits.data, [NAMES[k] for k in digits.target]
    else:
        X, texts = read_captions(arguments.pairs)
        texts = [text.split() for text in texts]
    order = np.random.default_rng(0).permutation(len(X))
    train, unseen = order[len(order) // 5 :], order[: len(order) // 5]
    if arguments.pairs is None and arguments.caption:
        texts = captions(digits.images, texts, train)
    model = VectorToSequence("gru", arguments.hidden, context=arguments.context, seed=arguments.seed)
    options = dict(epochs=arguments.epochs, checkpoint=arguments.out, resume=bool(arguments.out))
    model.fit(X[train], [texts[i] for i in train], **options)
    for name, part in (("train", train), ("unseen", unseen)):
        found = model.predict(X[part])
        right = np.mean([mine == texts[i] for mine, i in zip(found, part)])
        print(f"{name}: accuracy {right:.4f}, whole texts of {len(part):,}")
    print("the first unseen one:", found[0] if isinstance(found[0], str) else " ".join(found[0]))


if __name__ == "__main__":
    main()

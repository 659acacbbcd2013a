"""Karpathy's char-rnn with its default settings: a language model of characters that learns to write like a text.

    python examples/char_rnn.py --epochs 3     trained on the documentation that comes with Python
    python examples/char_rnn.py input.txt      trained on a file (UTF-8), for 50 epochs as in the original
    python examples/char_rnn.py input.txt --recipe adam --cell gru --hidden 384 --dropout 0.3 --seq-len 100 --epochs 20

The default is an LSTM of two layers of 128 units. The script prints the validation loss in nats per character, and a
sample. As in the original, the 5 % of the text that are held out are the ends of the 50 streams that are read in
parallel, not one part at the end of the text.
"""

import argparse
import functools
from pathlib import Path
from pydoc_data.topics import topics

from fastrnn import optim
from fastrnn.models import LanguageModel


def recipe(name, epochs):
    """Return the settings of the optimiser: those of char-rnn, or more recent ones."""
    if name == "adam":
        return dict(optimizer="adam", lr=2e-3, schedule=optim.Cosine(epochs), clip_norm=5)
    rmsprop = functools.partial(optim.RMSprop, alpha=0.95)
    return dict(optimizer=rmsprop, lr=2e-3, schedule=optim.StepDecay(0.97, after=10), clip_norm=None, clip_value=5)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("file", nargs="?", type=Path)
    add("--recipe", choices=("char-rnn", "adam"), default="char-rnn")
    add("--cell", choices=("lstm", "gru", "rnn"), default="lstm")
    add("--hidden", type=int, default=128)
    add("--layers", type=int, default=2)
    add("--dropout", type=float, default=0.0)
    add("--seq-len", type=int, default=50)
    add("--epochs", type=int, default=50)
    add("--seed", type=int, default=0)
    add("--prime", default="", help="text that the sample continues")
    add("--temperature", type=float, default=1.0)
    add("--out", type=Path, help="directory for the model and its checkpoints")
    add("--resume", action="store_true", help="continue the training in the directory --out")
    arguments = parser.parse_args()
    model = LanguageModel(
        arguments.cell, arguments.hidden, arguments.layers, dropout=arguments.dropout, seed=arguments.seed
    )
    model.fit(
        arguments.file or "\n".join(topics.values()),
        epochs=arguments.epochs, batch_size=50, seq_len=arguments.seq_len, validation=0.05, held_out="streams",
        checkpoint=arguments.out, resume=arguments.resume, **recipe(arguments.recipe, arguments.epochs),
    )  # fmt: skip
    best = min(entry["validation_loss"] for entry in model.history)
    size, speed = f"{model.num_parameters:,} parameters", f"{model.speed or 0:,.0f} characters/s"
    print(f"validation: {best:.4f} nats per character ({size}, {speed})")
    print(arguments.prime + model.generate(arguments.prime, 500, arguments.temperature, seed=arguments.seed))


if __name__ == "__main__":
    main()

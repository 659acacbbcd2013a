"""Karpathy's char-rnn with its defaults: two LSTM layers of 128 units that learn to write like a text.

    python examples/char_rnn.py --epochs 3     the documentation that every Python carries
    python examples/char_rnn.py input.txt      a file (UTF-8); 50 epochs, as the original

Prints the validation loss in nats per character, and a sample. As in the original, the 5 % of the text that are held out are the ends
of the 50 streams that are read side by side, not one part at the end of the text.
"""

import argparse
from pathlib import Path
from pydoc_data.topics import topics

from fastrnn import optim
from fastrnn.models import LanguageModel


def ends_last(text, streams=50, kept=0.95):
    """The beginnings of all streams, then their ends."""
    L = len(text) // streams
    pieces, k = [text[i * L : (i + 1) * L] for i in range(streams)], round(kept * L)
    return "".join(piece[:k] for piece in pieces) + "".join(piece[k:] for piece in pieces)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("file", nargs="?", type=Path)
    add("--cell", choices=("lstm", "gru", "rnn"), default="lstm")
    add("--hidden", type=int, default=128)
    add("--layers", type=int, default=2)
    add("--dropout", type=float, default=0.0)
    add("--epochs", type=int, default=50)
    add("--prime", default="", help="the sample goes on from it")
    add("--temperature", type=float, default=1.0)
    add("--out", type=Path, help="directory for the model and its checkpoint; with --resume to go on")
    add("--resume", action="store_true")
    arguments = parser.parse_args()
    model = LanguageModel(arguments.cell, arguments.hidden, arguments.layers, dropout=arguments.dropout, seed=123)
    text = arguments.file.read_text(encoding="utf-8") if arguments.file else "\n".join(topics.values())
    model.fit(
        ends_last(text),
        epochs=arguments.epochs,
        batch_size=50,
        seq_len=50,
        optimizer=lambda storage, lr: optim.RMSprop(storage, lr=lr, alpha=0.95),
        lr=2e-3,
        schedule=optim.StepDecay(0.97, after=10),
        clip_norm=None,
        clip_value=5,
        validation=0.05,
        checkpoint=arguments.out,
        resume=arguments.resume,
    )
    best = min(entry["validation_loss"] for entry in model.history)
    print(f"validation: {best:.4f} nats per character ({model.num_parameters:,} parameters, {model.speed or 0:,.0f} characters/s)")
    print(arguments.prime + model.generate(arguments.prime, 500, arguments.temperature, seed=123))


if __name__ == "__main__":
    main()

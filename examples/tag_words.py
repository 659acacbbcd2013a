"""Tag words with a SequenceTagger, which reads words and their characters in both directions.

    python examples/tag_words.py                                        the tokens of modules of Python, and their kinds
    python examples/tag_words.py train.conllu dev.conllu test.conllu    parts of speech (UPOS) of Universal Dependencies

The parameters with the best accuracy on the dev part are kept, and only these are evaluated on the test part. The
script prints both accuracies for each seed.
"""

import argparse
import io
import keyword
import tokenize
from pathlib import Path

from fastrnn.data import read_conllu
from fastrnn.models import SequenceTagger


def python_lines(module):
    """Return the tokens of each line of a module, and their kinds."""
    lines = {}
    source = Path(module.__file__).read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.string.strip():
            kind = "KEYWORD" if keyword.iskeyword(token.string) else tokenize.tok_name[token.type]
            words, kinds = lines.setdefault(token.start[0], ([], []))
            words.append(token.string)
            kinds.append(kind)
    return tuple(map(list, zip(*lines.values())))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", metavar="FILE.conllu", help="train, dev and test part")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    arguments = parser.parse_args()
    if len(arguments.files) not in (0, 3):
        parser.error("give three files, or none")
    parts = map(read_conllu, arguments.files) if arguments.files else map(python_lines, (argparse, io, tokenize))
    train, dev, test = parts
    for seed in range(arguments.seeds):
        model = SequenceTagger("lstm", 128, seed=seed)
        model.fit(*train, validation=dev, epochs=arguments.epochs, lr=3e-3, batch_size=32, patience=4)
        best = max(entry["validation_accuracy"] for entry in model.history)
        print(f"seed {seed}: accuracy {model.score(*test):.4f} (dev {best:.4f}; {model.speed:,.0f} words/s)")


if __name__ == "__main__":
    main()

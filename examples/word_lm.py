"""A language model of words: an LSTM with dropout, whose embedding and softmax share one weight.

    python examples/word_lm.py                                     the documentation that comes with Python
    python examples/word_lm.py train.txt valid.txt test.txt        files (UTF-8)
    python examples/word_lm.py --pretrained glove.6B.200d.txt      start from word vectors of size --hidden

The script prints the perplexity per word of the test part, and a sample. Punctuation marks and line breaks count as
words; words that occur only once in the training part are read as one unknown word.
"""

import argparse
from pathlib import Path
from pydoc_data.topics import topics

from fastrnn.models import LanguageModel
from fastrnn.optim import Cosine


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("files", nargs="*", type=Path, metavar="FILE", help="train, valid and test part")
    add("--hidden", type=int, default=200)
    add("--layers", type=int, default=2)
    add("--dropout", type=float, default=0.4)
    add("--smoothing", type=float, default=0.0, help="label smoothing")
    add("--max-vocabulary", type=int, default=30_000)
    add("--pretrained", type=Path, help="file of word vectors")
    add("--epochs", type=int, default=15)
    arguments = parser.parse_args()
    if len(arguments.files) not in (0, 3):
        parser.error("give three files, or none")
    if arguments.files:
        train, valid, test = (path.read_text(encoding="utf-8") for path in arguments.files)
    else:
        text = "\n".join(topics.values())
        train, valid, test = text[:-100_000], text[-100_000:-50_000], text[-50_000:]
    options = dict(
        level="word", max_vocabulary=arguments.max_vocabulary, tied=True, label_smoothing=arguments.smoothing, seed=0
    )
    model = LanguageModel("lstm", arguments.hidden, arguments.layers, dropout=arguments.dropout, **options)
    training = dict(epochs=arguments.epochs, schedule=Cosine(arguments.epochs), patience=3, batch_size=20, seq_len=35)
    held_out = len(valid) / len(train + valid)
    model.fit(train + valid, validation=held_out, pretrained=arguments.pretrained, **training)
    print(f"{len(model.vocabulary):,} words, {model.num_parameters:,} parameters, {model.speed:,.0f} words/s")
    print(f"test perplexity {model.perplexity(test):.2f} per word")
    print(model.generate("\n", 100, temperature=0.8, seed=0))


if __name__ == "__main__":
    main()

"""Translate sentences word by word with an EncoderDecoder.

    python examples/translate.py                                   numbers, from digits to words
    python examples/translate.py multi30k_de-en --out run          a folder of Multi30k

The folder has train, val and test_2016_flickr, each as .de and as .en. The script prints the perplexity per word of the
test part, which counts <unk> and </s> too, and sacreBLEU's score of the lower-case words. With --out, running the same
command again continues an interrupted training.
"""

import argparse
import math
from pathlib import Path

from sacrebleu import corpus_bleu

from fastrnn.data import read_parallel
from fastrnn.models import EncoderDecoder

SMALL = ["", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
PARTS = ["test_2016_flickr", "val", "train"]


def numbers(part):
    """Generate numbers whose last two digits are at least 20; one in seven is for test, another one for validation."""
    found = [n for n in range(20, 1000) if n % 100 >= 20 and min(n % 7, 2) == PARTS.index(part)]
    words = [
        [SMALL[n // 100], "hundred"] * (n >= 100) + [TENS[n % 100 // 10 - 2]] + [SMALL[n % 10]] * (n % 10 > 0)
        for n in found
    ]
    return [list(str(n)) for n in found], words


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("folder", nargs="?", type=Path)
    add("--attention", default="additive", choices=["none", "additive", "dot", "general"])
    add("--context", default="initial", choices=["initial", "every", "both"])
    add("--hidden", type=int, default=256, help="units of each direction of the encoder")
    add("--decoder", type=int, default=512, help="units of the decoder")
    add("--embedding", type=int, default=256)
    add("--dropout", type=float, default=0.5)
    add("--smoothing", type=float, default=0.0, help="label smoothing")
    add("--epochs", type=int, default=10)
    add("--seed", type=int, default=0)
    add("--out", help="directory for the model and its checkpoints")
    a = parser.parse_args()
    if a.folder is None:
        test, valid, train = map(numbers, PARTS)
    else:
        test, valid, train = (read_parallel(a.folder / f"{part}.de", a.folder / f"{part}.en") for part in PARTS)

    attention = None if a.attention == "none" else a.attention
    sizes = dict(decoder_size=a.decoder, source_embedding=a.embedding, target_embedding=a.embedding)
    options = dict(attention=attention, context=a.context, min_count=2, dropout=a.dropout, seed=a.seed)
    model = EncoderDecoder("gru", a.hidden, **sizes, **options)
    training = dict(lr=1e-3, batch_size=128 if a.folder else 16, label_smoothing=a.smoothing)
    model.fit(*train, validation=valid, epochs=a.epochs, checkpoint=a.out, resume=bool(a.out), **training)
    languages = f"{model.source_vocabulary} to {model.vocabulary}"
    print(f"{languages}, {model.num_parameters:,} parameters, {model.speed or 0:,.0f} words/s")
    print(f"test perplexity {math.exp(-model.score(*test)):.2f} per word")
    for beam in (1, 5):
        found = list(map(" ".join, model.predict(test[0], beam=beam, length_penalty=1.0, max_length=50)))
        bleu = corpus_bleu(found, [list(map(" ".join, test[1]))], tokenize="none", force=True).score
        print(f"beam {beam}: BLEU {bleu:.2f}; {' '.join(test[0][0])} -> {found[0]}")


if __name__ == "__main__":
    main()

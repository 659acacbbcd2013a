"""Pronounce words: an EncoderDecoder with attention turns the letters of a word into its sounds.

    python examples/pronounce.py                               words of an artificial language
    python examples/pronounce.py cmudict.dict --out run        CMUdict

Words whose MD5 hash (hexadecimal) ends in 0 are the test part, those whose hash ends in 1 the validation part. The
script prints two error rates of the test part: of words, where a word is right if it is any of the listed
pronunciations, and of phones: the edit distance to the nearest one, divided by its length. With --out, running the same
command again continues an interrupted training.
"""

import argparse
import hashlib
import itertools
from pathlib import Path

from rapidfuzz.distance import Levenshtein

from fastrnn.data import read_dictionary
from fastrnn.models import EncoderDecoder
from fastrnn.optim import Cosine


def artificial():
    """Generate {word: [sounds]}: c is K before a and o, and S before e; a double vowel is one long sound."""
    sounds = {"ca": ["K", "A"], "co": ["K", "O"], "ce": ["S", "E"], "aa": ["AH"], "oo": ["UW"]}
    parts = ["ba", "do", "ne", *sounds]
    return {
        "".join(word): [[s for part in word for s in sounds.get(part, part.upper())]]
        for word in itertools.product(parts, repeat=3)
    }


def pairs_of(words):
    return [(word, variant) for word, variants in words.items() for variant in variants]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("dictionary", nargs="?", type=Path)
    add("--hidden", type=int, default=256, help="units of each direction of the encoder")
    add("--layers", type=int, default=2, help="layers of the encoder")
    add("--decoder", type=int, default=384, help="units of the decoder")
    add("--attention", default="additive", choices=["none", "additive", "general"])
    add("--dropout", type=float, default=0.2)
    add("--epochs", type=int, default=20)
    add("--seed", type=int, default=0)
    add("--out", help="directory for the model and its checkpoints")
    a = parser.parse_args()
    parts = {"0": {}, "1": {}}  # by the last digit of the hash
    for word, variants in (read_dictionary(a.dictionary) if a.dictionary else artificial()).items():
        parts.setdefault(hashlib.md5(word.encode()).hexdigest()[-1], {})[word] = variants
    test, valid = parts.pop("0"), pairs_of(parts.pop("1"))
    pairs = [pair for part in parts.values() for pair in pairs_of(part)]

    attention = None if a.attention == "none" else a.attention
    sizes = dict(decoder_size=a.decoder, decoder_layers=1, source_embedding=128, target_embedding=128)
    model = EncoderDecoder("gru", a.hidden, a.layers, attention=attention, dropout=a.dropout, seed=a.seed, **sizes)
    training = dict(epochs=a.epochs, batch_size=128, schedule=Cosine(a.epochs))
    model.fit(*zip(*pairs), validation=tuple(zip(*valid)), checkpoint=a.out, resume=bool(a.out), **training)
    print(f"{len(pairs):,} pairs, {model.num_parameters:,} parameters, {model.speed or 0:,.0f} sounds/s")
    for beam in (1, 5):
        nearest = [
            min((Levenshtein.distance(found, variant), len(variant)) for variant in variants)
            for found, variants in zip(model.predict(list(test), beam=beam), test.values())
        ]
        wrong, (edits, length) = sum(d > 0 for d, _ in nearest), map(sum, zip(*nearest))
        words = f"{wrong / len(test):.2%} of {len(test):,} test words wrong (WER)"
        print(f"beam {beam}: {words}, {edits / length:.2%} of their sounds (PER)")


if __name__ == "__main__":
    main()

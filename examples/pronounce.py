"""Spelling to sounds: an EncoderDecoder with attention, from the letters of a word to how it is pronounced.

    python examples/pronounce.py                               words of a made-up language
    python examples/pronounce.py cmudict.dict --out run        CMUdict; the same command goes on with a run that was stopped

Words whose MD5 (hex) ends in 0 are the test part, in 1 the held-out part. A word is right if it is any of the pronunciations listed; the
phone error rate is the edit distance to the nearest of them, over its length.
"""

import argparse
import hashlib
import itertools
from pathlib import Path

from rapidfuzz.distance import Levenshtein

from fastrnn.data import read_dictionary
from fastrnn.models import EncoderDecoder
from fastrnn.optim import Cosine


def made_up():
    """{word: [sounds]}: c is K before a and o, S before e; a double vowel is one long sound."""
    sounds = {"ca": ["K", "A"], "co": ["K", "O"], "ce": ["S", "E"], "aa": ["AH"], "oo": ["UW"]}
    parts = ["ba", "do", "ne", *sounds]
    return {
        "".join(word): [[s for part in word for s in sounds.get(part, part.upper())]]
        for word in itertools.product(parts, repeat=3)
    }


def main():
    add = (parser := argparse.ArgumentParser(description=__doc__.splitlines()[0])).add_argument
    add("dictionary", nargs="?", type=Path)
    add("--hidden", type=int, default=256, help="units of each direction of the encoder")
    add("--layers", type=int, default=2, help="of the encoder")
    add("--decoder", type=int, default=384, help="units of the decoder")
    add("--attention", default="additive", choices=["none", "additive", "general"])
    add("--dropout", type=float, default=0.2)
    add("--epochs", type=int, default=20)
    add("--seed", type=int, default=0)
    add("--out", help="folder of the model and its checkpoints")
    a = parser.parse_args()
    parts = {"0": {}, "1": {}}
    for word, variants in (read_dictionary(a.dictionary) if a.dictionary else made_up()).items():
        parts.setdefault(hashlib.md5(word.encode()).hexdigest()[-1], {})[word] = variants
    test, held = parts.pop("0"), parts.pop("1")
    pairs = [(word, variant) for part in parts.values() for word, variants in part.items() for variant in variants]
    held = [(word, variant) for word, variants in held.items() for variant in variants]
    sizes = dict(
        decoder_size=a.decoder, decoder_layers=1, source_embedding=128, target_embedding=128, dropout=a.dropout
    )
    model = EncoderDecoder(
        "gru", a.hidden, a.layers, attention=None if a.attention == "none" else a.attention, seed=a.seed, **sizes
    )
    training = dict(epochs=a.epochs, batch_size=128, schedule=Cosine(a.epochs))
    model.fit(*zip(*pairs), validation=tuple(zip(*held)), checkpoint=a.out, resume=bool(a.out), **training)
    print(f"{len(pairs):,} pairs, {model.num_parameters:,} parameters, {model.speed or 0:,.0f} sounds/s")
    for beam in (1, 5):
        found = zip(model.predict(list(test), beam=beam), test.values())
        nearest = [
            min((Levenshtein.distance(mine, variant), len(variant)) for variant in variants) for mine, variants in found
        ]
        wrong, edits, length = sum(d > 0 for d, _ in nearest), *map(sum, zip(*nearest))
        print(
            f"beam {beam}: {wrong / len(test):.2%} of {len(test):,} test words wrong (WER), {edits / length:.2%} of their sounds (PER)"
        )


if __name__ == "__main__":
    main()

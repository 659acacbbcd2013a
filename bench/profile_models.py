"""Profile the training of each model: the percentage of time inside the compiled core (needs Linux's perf).

    python -m bench.profile_models [tagger music]         from the source folder; all models, or only some

Each model trains in its own process on generated data of the size and shape of its real data. Only `fit` is sampled,
after its first seconds. Samples are counted by shared object: the engine and its BLAS, Python, NumPy, the C library,
the kernel.
"""

from __future__ import annotations

import collections
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import fastrnn
from fastrnn import models

RNG = np.random.default_rng(0)


def _text():
    return "".join(RNG.choice(list("abcdefghijklmnopqrstuvwxyz     .,\n"), 1_000_000))


def _ragged(n, T, I):
    return [RNG.standard_normal((RNG.integers(T // 2, T + 1), I)).astype("float32") for _ in range(n)]


def _sentences(n):
    words = ["".join(RNG.choice(list("etaoinshr"), RNG.integers(2, 10))) for _ in range(15_000)]
    sentences = [RNG.choice(words, RNG.integers(5, 30)).tolist() for _ in range(n)]
    return sentences, [[str(len(word)) for word in sentence] for sentence in sentences]


def _zipf():
    return " ".join(f"w{k}" for k in RNG.zipf(1.3, 200_000).clip(max=10_000))


def _pairs(n):
    """Sentences of 8 to 18 words from a vocabulary of 6,000, twice."""
    words = [f"w{k}" for k in range(6000)]
    return [
        [[words[k] for k in RNG.zipf(1.3, RNG.integers(8, 19)).clip(max=6000) - 1] for _ in range(n)] for _ in range(2)
    ]


def _spelt(n):
    """Words of 4 to 12 letters, and 3 to 11 of 39 sounds."""
    return [["".join(RNG.choice(list("etaoinshrdlu"), RNG.integers(4, 13))) for _ in range(n)],
            [[f"S{k}" for k in RNG.integers(0, 39, RNG.integers(3, 12))] for _ in range(n)]]  # fmt: skip


def _stories(n):
    """Stories of 2 to 20 sentences of six words, as in bAbI."""
    words = [f"w{k}" for k in range(30)]
    sentences = [RNG.choice(words, 6).tolist() for _ in range(200)]
    X = [
        ([sentences[k] for k in RNG.integers(0, 200, RNG.integers(2, 21))], RNG.choice(words, 3).tolist())
        for _ in range(n)
    ]
    return X, RNG.choice(words[:6], n).tolist()


def _regression():
    X = _ragged(500, 100, 8)
    return X, [x[:, 0] for x in X]


def _digits():
    names = ("zero", "one", "two", "three", "seven", "eight")
    return RNG.standard_normal((1500, 64)), [names[k % 6] for k in range(1500)]


def _sounds():
    return _ragged(2700, 45, 40), np.arange(2700) % 10


def _vowels():
    return _ragged(270, 20, 12), np.arange(270) % 9


def _rolls():
    return [(RNG.random((60, 88)) < 0.05).astype("float32") for _ in range(229)]


def _series():
    return np.exp(np.sin(np.arange(120) * np.pi / 6)) + 2


FITS = {  # name: a function of the settings that trains
    "characters, LSTM 2 x 128": lambda **s: models.LanguageModel("lstm", 128, 2, seed=0).fit(
        _text(), validation=0, **s),
    "words, LSTM 2 x 200, tied": lambda **s: models.LanguageModel(
        "lstm", 200, 2, level="word", tied=True, dropout=0.4, seed=0).fit(
        _zipf(), batch_size=20, seq_len=35, validation=0, **s),
    "tagger, BiLSTM 128": lambda **s: models.SequenceTagger("lstm", 128, seed=0).fit(*_sentences(6000), **s),
    "sounds, BiLSTM 96, 40 steps of 40": lambda **s: models.SequenceClassifier(
        "lstm", 96, bidirectional=True, pooling="mean", dropout=0.3, seed=0).fit(*_sounds(), **s),
    "vowels, BiGRU 2 x 64, 15 steps of 12": lambda **s: models.SequenceClassifier(
        "gru", 64, 2, bidirectional=True, pooling="mean", dropout=0.2, seed=0).fit(*_vowels(), batch_size=8, **s),
    "regressor of steps, GRU 64": lambda **s: models.SequenceRegressor("gru", 64, per_step=True, seed=0).fit(
        *_regression(), **s),
    "music, GRU 260": lambda **s: models.EventModel("gru", 260, input_dropout=0.2, dropout=0.5, seed=0).fit(
        _rolls(), batch_size=8, **s),
    "forecaster, GRU 32": lambda **s: models.Forecaster(24, 24, season=12, log=True, dropout=0.2, seed=0).fit(
        _series(), batch_size=16, **s),
    "translation, BiGRU 256, GRU 512": lambda **s: models.EncoderDecoder(
        "gru", 256, decoder_size=512, dropout=0.5, seed=0).fit(*_pairs(3000), batch_size=128, **s),
    "pronunciation, 2 x BiGRU 256, GRU 384": lambda **s: models.EncoderDecoder(
        "gru", 256, 2, decoder_size=384, decoder_layers=1, source_embedding=128, target_embedding=128, dropout=0.3,
        seed=0).fit(*_spelt(6000), batch_size=64, **s),
    "digits to names, GRU 128": lambda **s: models.VectorToSequence("gru", 128, seed=0).fit(*_digits(), **s),
    "memory network, 20, 3 hops": lambda **s: models.MemoryNetwork(seed=0).fit(*_stories(1000), **s),
}  # fmt: skip


def train(name, seconds):
    """Train for `seconds`; the callback's `begin` tells the parent that the data is ready."""
    end = []

    def look(entry):
        return time.perf_counter() > end[0]

    class Begin:
        def begin(self, history):
            end.append(time.perf_counter() + seconds)
            print("begun", flush=True)

        __call__ = staticmethod(look)

    FITS[name](epochs=100_000, evaluate_every=20, verbose=False, callbacks=[Begin()])


def shares(name, seconds=8.0):
    """Return {kind of shared object: percentage of the samples} of a training run."""
    command = [sys.executable, "-m", "bench.profile_models", "--train", name, str(seconds + 4)]
    root = Path(__file__).parents[1]  # "-m" imports from the current folder first: use the folder of these sources
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as child,
    ):
        child.stdout.readline()
        time.sleep(1)  # the first batches allocate and pack
        data = f"{folder}/perf.data"
        record = ["perf", "record", "-q", "-F", "500", "-o", data, "-p", str(child.pid), "--", "sleep", str(seconds)]
        subprocess.run(record, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        child.kill()
        report = ["perf", "report", "-i", data, "--sort", "dso", "--stdio"]
        text = subprocess.run(report, check=True, capture_output=True, text=True).stdout
    found = collections.Counter()
    engine = {path.name for path in Path(fastrnn.__file__).parent.glob("_engine/*.so")}
    kinds = {"fastrnn_blas": "engine", "_multiarray": "NumPy", "kernel": "kernel", "python": "Python"}
    for part, dso in re.findall(r"^\s*([\d.]+)%\s+(\S+)", text, re.MULTILINE):
        kind = next((kind for key, kind in kinds.items() if key in dso), "other")
        found["engine" if Path(dso).name in engine else kind] += float(part)
    return found


def main():
    if sys.argv[1:2] == ["--train"]:
        train(sys.argv[2], float(sys.argv[3]))
        return
    os.environ.setdefault("FASTRNN_NUM_THREADS", "1")
    print(f"{'':40}{'engine':>8}{'Python':>8}{'NumPy':>8}{'kernel':>8}{'other':>8}   % of training")
    for name in FITS:
        if not sys.argv[1:] or any(word in name for word in sys.argv[1:]):
            found = shares(name)
            print(
                f"{name:40}"
                + "".join(f"{found[kind]:8.1f}" for kind in ("engine", "Python", "NumPy", "kernel", "other")),
                flush=True,
            )


if __name__ == "__main__":
    main()

"""Draw the pictures of the documentation: docs/pictures/*.svg, about a minute.

    python docs/pictures.py [folder]

Needs matplotlib (pip install 'fastrnn[plot]'). The same versions of fastrnn and matplotlib produce the same files.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np

from fastrnn import GRU, LSTM, RNN, Stacked
from fastrnn.models import (
    EncoderDecoder,
    EventModel,
    Forecaster,
    LanguageModel,
    MemoryNetwork,
    SequenceClassifier,
    SequenceRegressor,
    SequenceTagger,
    VectorToSequence,
)
from fastrnn.parameters import initialise
from fastrnn.plotting import attention, gradient_norms, history, plot_gradient_norms, trajectories, unfolded

TEXT = "she sells sea shells by the sea shore. the shells she sells are sea shells, i'm sure. " * 60


def circuits(folder):
    """Draw layers and models, unfolded in time."""
    X, y = [np.ones((4, 6))] * 2, ["a", "b"]
    classifier = dict(epochs=0, verbose=False)
    pictures = {
        "rnn": RNN(8, 16),
        "lstm_deep": LSTM(8, 128, 3),
        "gru_bidirectional": GRU(8, 64, bidirectional=True),
        "autonomous": RNN(0, 16),
        "context": GRU(8, 64, context_size=10),
        "language_model": LanguageModel("lstm", 128, 2, seed=0).fit(TEXT, epochs=0, verbose=False),
        "classifier_last": SequenceClassifier("gru", 64, seed=0).fit(X, y, **classifier),
        "classifier_mean": SequenceClassifier("gru", 64, bidirectional=True, pooling="mean", seed=0).fit(
            X, y, **classifier
        ),
        "regressor": SequenceRegressor("gru", 64, per_step=True, seed=0).fit(X, [np.ones(4)] * 2, **classifier),
        "forecaster": Forecaster(24, 12, seed=0).fit(np.arange(99.0), **classifier),
        "events": EventModel("gru", 260, seed=0).fit([np.ones((4, 88))], **classifier),
        "sizes": Stacked([GRU(8, 128), LSTM(128, 64)]),
        "tagger": SequenceTagger("lstm", 64, seed=0).fit(
            [["time", "flies"]], [["NOUN", "VERB"]], epochs=0, verbose=False
        ),
    }
    words = ["ab", "abc"]
    encoders = {
        "attention": dict(),
        "encoder_decoder": dict(bidirectional=False, decoder_size=32, attention=None, context="both"),
    }
    for name, options in encoders.items():
        pictures[name] = EncoderDecoder("gru", 64, seed=0, **options).fit(words, words, epochs=0, verbose=False)
    pictures["vector"] = VectorToSequence("gru", 64, seed=0).fit(np.eye(2), words, epochs=0, verbose=False)
    stories = [([["ann", "left"], ["bob", "came"]], ["who", "left"])] * 2
    pictures["memory_network"] = MemoryNetwork(seed=0).fit(stories, ["ann", "bob"], epochs=0, verbose=False)
    for name, model in pictures.items():
        unfolded(model, steps=3, path=folder / f"unfolded_{name}.svg")


def gradients(folder):
    """Plot gradient norms over 100 steps for several networks."""
    nets = {}
    for radius in (0.9, 1.1):
        rnn = RNN(4, 64, nonlinearity="relu", bias=False, seed=0)
        rnn.load_state_dict({"weight_hh_l0": radius * np.eye(64)}, strict=False)
        nets[f"RNN (relu), $W$ = {radius} I"] = rnn
    nets["RNN (tanh)"], nets["GRU"], nets["LSTM"] = RNN(4, 64, seed=0), GRU(4, 64, seed=0), LSTM(4, 64, seed=0)
    nets["LSTM, forget bias 3"] = LSTM(4, 64, seed=0)
    initialise(nets["LSTM, forget bias 3"], forget_bias=3.0, seed=0)
    plot_gradient_norms({name: gradient_norms(net, T=100) for name, net in nets.items()}, folder / "gradient_norms.svg")


def training(folder):
    """Train a classifier of noisy waves; plot its training curves and the trajectories of its state."""
    rng = np.random.default_rng(0)
    t = np.arange(40)
    waves = {"sine": np.sin, "square": lambda p: np.sign(np.sin(p)), "sawtooth": lambda p: p / np.pi % 2 - 1}
    kinds = list(waves) * 80
    X = [(waves[kind](0.3 * t + rng.uniform(0, 6)) + 0.3 * rng.standard_normal(40))[:, None] for kind in kinds]
    model = SequenceClassifier("gru", 32, seed=0)
    model.fit(X, kinds, epochs=25, batch_size=16, lr=4e-3, validation=0.25, verbose=False)
    history(model, folder / "history.svg")
    clean = np.stack([waves[kind](0.3 * t)[:, None] for kind in waves], 1).astype("float32")
    trajectories(model.rnn(clean)[0], folder / "trajectories.svg", labels=list(waves))


def reversing(folder):
    """Train a decoder that reverses words, and plot its attention."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), rng.integers(3, 9))) for _ in range(600)]
    model = EncoderDecoder("gru", 32, source_embedding=16, target_embedding=16, seed=0)
    model.fit(words, [word[::-1].upper() for word in words], epochs=20, batch_size=20, lr=0.01, verbose=False)
    word = "badhedge"
    [written] = model.predict([word])
    attention(model.attention_maps([word], [written])[0], word, list(written), folder / "attention.svg")


def main(folder):
    matplotlib.rcParams["svg.hashsalt"] = "fastrnn"
    folder.mkdir(parents=True, exist_ok=True)
    for make in (circuits, gradients, training, reversing):
        make(folder)
    print(f"{len(list(folder.glob('*.svg')))} pictures in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures")

"""Answers to questions about stories: an end-to-end memory network, which reads a story several times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from fastrnn import _check, _engine
from fastrnn._check import stories as check_stories
from fastrnn._files.schema import shown
from fastrnn.layers.feedforward import random_key
from fastrnn.models import unseen
from fastrnn.models.model import Examples, Model, Setup, most_likely
from fastrnn.models.schemas import MOST_HOPS
from fastrnn.models.stories import Questions
from fastrnn.models.story_network import StoryNetwork

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from fastrnn.settings import TrainingOptions


class MemoryNetwork(StoryNetwork):
    """Answer questions about stories with one word: the end-to-end memory network (Sukhbaatar et al. 2015).

    Each sentence of a story is in the memory twice, as a key and as a value, both weighted sums of the vectors of its
    words. The initial state is the question, read the same way. At each hop the state is compared with all keys, and
    the mean of the values, weighted by a softmax over the comparisons, is added to the state. The answer is a softmax
    over the answers of the training data.

    Parameters
    ----------
    size : int, default=20
        Size of the state and of the word embeddings.
    hops : int, default=3
        How often the memory is read.
    memory : int, default=50
        Number of sentences in the memory. Of a longer story these are the last ones.
    tying : {"adjacent", "layerwise"}, default="adjacent"
        With "adjacent", the values of a hop are the keys of the next one, the first keys also read the question, and
        the last values are also the vectors of the answers. With "layerwise", all hops have the same keys and values,
        and the state is multiplied by a matrix between them.
    position_encoding : bool, default=True
        Weight words by their position in the sentence. Otherwise a sentence is the sum of its words in any order.
    temporal_encoding : bool, default=True
        Add a learnt vector of its age, the number of sentences after it, to each key and value.
    noise : float, default=0.1
        In training, up to this fraction of a story's length is inserted as empty sentences, which shift the ages. Only
        with `temporal_encoding`.
    linear_start : int, default=0
        Number of epochs at the start that are trained without the softmax over the memory.
    dtype : {"float32", "float64"}, default="float32"
        What the network computes in.
    seed : int, optional
        Seed of the initial parameters, the order of the batches and the noise. The same seed gives the same training
        run, bit for bit, on any number of threads. By default a random one is drawn.

    Attributes
    ----------
    answers_ : list of str
        The answers of the training data, sorted.
    history : list of dict
        An entry for each evaluation: `epoch`, `update`, `lr`, `train_loss` and, with validation data,
        `validation_loss` and `validation_accuracy`.
    outcome : str or None
        How training ended: "finished", "stopped early", "interrupted" (by Ctrl-C) or "diverged"; None before `fit`.
    message : str or None
        Details of the outcome, if there are any.
    speed : float or None
        Questions per second in the last training.

    Notes
    -----
    A word that is not in the training data has a vector of zeros, but its position in the sentence counts.

    Examples
    --------
    >>> rooms, rng = ["attic", "cellar", "hall"], np.random.default_rng(0)
    >>> X, y = [], []
    >>> for _ in range(300):
    ...     ann, bob = rng.choice(rooms, 2)
    ...     X.append(([["ann", "is", "in", "the", ann], ["bob", "is", "in", "the", bob]], ["where", "is", "ann"]))
    ...     y.append(ann)
    >>> model = MemoryNetwork(hops=1, seed=0).fit(X[:200], y[:200], epochs=10, verbose=False)
    >>> model.predict(X[200:202]) == y[200:202], model.score(X[200:], y[200:])
    (True, 1.0)
    >>> model.attention(X[:1])[0].shape  # (hops, sentences)
    (1, 2)
    """

    UNIT = "questions"
    TRAINING = Model.TRAINING | {"lr": 0.01}
    ARGUMENTS = ("size", "hops", "memory", "tying", "position_encoding", "temporal_encoding", "noise", "linear_start")

    def __init__(
        self,
        size: int = 20,
        hops: int = 3,
        *,
        memory: int = 50,
        tying: Literal["adjacent", "layerwise"] = "adjacent",
        position_encoding: bool = True,
        temporal_encoding: bool = True,
        noise: float = 0.1,
        linear_start: int = 0,
        dtype: str = "float32",
        seed: int | None = None,
    ):
        self.size = _check.size("size", size)
        self.hops = _check.size("hops", hops, most=MOST_HOPS)
        self.memory = _check.size("memory", memory, most=2**31 - 1)
        self.tying = _check.choice("tying", tying, ("adjacent", "layerwise"))
        self.position_encoding, self.temporal_encoding = bool(position_encoding), bool(temporal_encoding)
        self.noise = _check.number("noise", noise, least=0, most=1)
        self.linear_start = _check.size("linear_start", linear_start, least=0)
        self.dtype = _check.dtype(dtype)
        self.seed = _check.seed(seed)
        self.history = []

    def fit(
        self,
        X: Sequence[tuple],
        y: Sequence[str],
        *,
        epochs: int = 100,
        batch_size: int = 32,
        validation: float | tuple = 0.0,
        verbose: bool = True,
        **settings: Unpack[TrainingOptions],
    ) -> MemoryNetwork:
        """Train a new network on stories, questions and answers.

        Ctrl-C ends training and keeps the best parameters so far.

        Parameters
        ----------
        X : list of N tuples (story, question)
            A story is a list of sentences; a sentence and a question are lists of words (non-empty str).
        y : list of N str
            The answers.
        epochs : int, default=100
            Number of passes over the training data.
        batch_size : int, default=32
            Questions in each update.
        validation : float or tuple (X, y), default=0.0
            The held-out data, or the fraction of the questions to hold out, drawn with the seed. The parameters with
            the lowest validation loss, always with the softmax over the memory, are kept, which may be the initial
            ones; with 0, the last ones. An answer that only the held-out part has counts as wrong, and a warning names
            it.
        verbose : bool, default=True
            Show the progress on stderr.
        **settings
            Other fields of ``fastrnn.settings.Settings``: `optimizer`, `lr`, `schedule`, `patience`, `checkpoint`,
            `resume` and so on. The defaults are optimizer="adam", lr=0.01, clip_norm=5.0 and loss_limit=30.0.

        Returns
        -------
        MemoryNetwork
            This model, fitted.

        Raises
        ------
        ValueError, TypeError
            If a story, sentence or word is empty, if the numbers of questions and answers differ, or if an argument is
            out of its range. The model and the checkpoint directory are unchanged then.

        Warns
        -----
        RuntimeWarning
            If training diverged or was interrupted; see `outcome` and `message`.
        """
        settings = self._settings(epochs, verbose, settings)
        if 0 < epochs <= self.linear_start:
            raise ValueError(
                f"epochs={epochs} are all trained without the softmax, as linear_start={self.linear_start}: raise "
                "epochs"
            )
        return self._fit((X, y), validation, settings, batch_size=batch_size)

    def _read(self, X, y, *, like=None):
        return Examples(check_stories.stories(X, y))

    def _prepare(self, data, held, seed, settings, *, batch_size):
        X, y = data.columns
        answers = sorted(set(y))
        words = {word for story, question in X for sentence in {*story, question} for word in sentence}

        def batches():
            training = Questions(self, X, y, batch_size, random_key(seed, 1))
            return training, None if held is None else Questions(self, *held.columns, batch_size, None)

        return Setup(
            build=lambda: self._build(answers, sorted(words - set(answers)), seed),
            batches=batches,
            identity=lambda data: {"data": data.digest(), "batch_size": batch_size},
        )

    def _computed(self, X) -> Iterator[tuple]:
        """The batch, the logits and the weights of each batch of some questions."""
        self._check_fitted()
        for batch in Questions(self, check_stories.stories(X)[0], None, 256, None):
            logits, _, _, weights = self._forward(batch, batch.ages, True)
            yield batch, logits, weights

    def predict_proba(self, X: Sequence[tuple]) -> np.ndarray:
        """Predict the probability of each answer.

        Parameters
        ----------
        X : list of N tuples (story, question)
            Stories and questions, as in `fit`.

        Returns
        -------
        (N, answers) ndarray
            Probabilities, in the order of `answers_`.
        """
        found = []
        for _, logits, _ in self._computed(X):
            _engine.softmax(logits, logits)
            found.append(logits)
        return np.concatenate(found)

    def predict(self, X: Sequence[tuple]) -> list[str]:
        """Predict the most likely answer to each question.

        Parameters
        ----------
        X : list of N tuples (story, question)
            Stories and questions, as in `fit`.

        Returns
        -------
        list of N str
            Answers.

        Raises
        ------
        RuntimeError
            If the network's outputs are NaN.
        """
        return [self.answers_[k] for k in most_likely(self.predict_proba(X), "question")]

    def attention(self, X: Sequence[tuple]) -> list[np.ndarray]:
        """Compute how much each sentence of the story counts at each hop.

        Parameters
        ----------
        X : list of N tuples (story, question)
            Stories and questions, as in `fit`.

        Returns
        -------
        list of N arrays (hops, sentences)
            Attention weights; 0 for sentences that are no longer in the memory.
        """
        found = []
        for batch, _, weights in self._computed(X):
            for b, count in enumerate(batch.count):
                length = len(X[len(found)][0])
                found.append(np.zeros((self.hops, length), self.dtype))
                found[-1][:, length - count + 1 :] = [alpha[b, 1:count] for alpha in weights]
        return found

    def score(self, X: Sequence[tuple], y: Sequence[str]) -> float:
        """Compute the accuracy: the fraction of the questions that are answered correctly.

        Parameters
        ----------
        X : list of N tuples (story, question)
            Stories and questions, as in `fit`.
        y : list of N str
            The true answers. One that the model was not trained on counts as wrong, and a warning names it.

        Returns
        -------
        float
            Accuracy, from 0 to 1.
        """
        self._check_fitted()
        X, y = check_stories.stories(X, y)
        unseen.encode(y, dict.fromkeys(self.answers_, 0), "answers", "y")
        return sum(mine == theirs for mine, theirs in zip(self.predict(X), y)) / len(y)

    def _fitted_config(self):
        return {"answers": self.answers_, "words": self._words}

    def _rebuild(self, config, arrays):
        both = {*config["answers"]} & {*config["words"]}
        if both:
            raise ValueError(f"words has {shown(min(both))}, which is also among answers")
        self._build(config["answers"], config["words"], 0)

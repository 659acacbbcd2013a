"""Stories and questions as the batches that a memory network is trained on."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from fastrnn import _engine
from fastrnn.batches import Sequences
from fastrnn.layers.feedforward import random_key
from fastrnn.models import unseen

EMPTY = ()  # the sentence that every story begins with: a hop that finds nothing relevant can attend to it


class Store:
    """All sentences as arrays, which do not change.

    Sentence s has the known words word[start[s]:start[s+1]]; element k of a word's vector is weighted by a + b * k/d.
    The position encoding is l = 2 ((1 - j/J) - (k/d) (1 - 2j/J)) for word j = 1..J of the sentence and element
    k = 1..d of the vector.
    """

    constant_of_plans = True

    def __init__(self, sentences, model):
        start, word, place = [0], [], []
        for sentence in sentences:
            J = len(sentence)
            for j, known in enumerate(map(model._word_id.get, sentence), 1):
                if known is not None:
                    word.append(known)
                    place.append(j / J)
            start.append(len(word))
        place = np.array(place)
        a, b = (
            (2 - 2 * place, 4 * place - 2) if model.position_encoding else (np.ones_like(place), np.zeros_like(place))
        )
        # as `_engine.bag` takes them
        self.arrays = np.array(start), np.array(word, np.int64), a.astype(model.dtype), b.astype(model.dtype)


class Batch(NamedTuple):
    """Some questions. The sentences in the memories of all of them lie one story after another.

    Arrays of sentences are longer than needed, so that batches of different sizes have the same shapes.
    """

    store: Store  # all sentences
    first: np.ndarray  # (B,) the memory of row b is first[b] .. first[b]+count[b]; its first sentence is empty
    count: np.ndarray  # (B,)
    sentence: np.ndarray  # (U,) the distinct sentences of the store that occur
    distinct: np.ndarray  # (1,) how many there are
    which: np.ndarray  # (S,) indices into `sentence`
    ages: np.ndarray  # (S,) how many sentences of its story come after it; the empty one has the maximum
    size: np.ndarray  # (1,) sentences in all memories
    most: int  # at least the greatest count
    question: np.ndarray  # (B,) its sentence in the store
    targets: np.ndarray | None  # (B,)
    softmax: bool  # over the memory; False while the start is linear


class Questions(Sequences):
    """Batches of questions in random order, or in the given order without a seed."""

    def __init__(self, model, X, y, batch_size, seed):
        self._linear_start = 0 if seed is None else model.linear_start
        number = {}
        stories = [[number.setdefault(s, len(number)) for s in story[-model.memory :]] for story, _ in X]
        self._question = np.array([number.setdefault(question, len(number)) for _, question in X])
        self._targets = None
        if y is not None:
            ids = unseen.encode(y, {answer: k for k, answer in enumerate(model.answers_)}, "answers", unseen.HELD_OUT)
            self._targets = np.array(ids)
        self._store = Store([*number, EMPTY], model)
        super().__init__([np.array([len(number), *story]) for story in stories], batch_size, seed=seed)
        self._start = np.concatenate([[0], np.cumsum(self._lengths)])
        self._sentences = np.concatenate([np.empty(0, np.int64), *self._x])
        self._memory = model.memory
        self.steps = len(X)

    def begin(self, epoch: int) -> None:
        """Draw the batches of an epoch."""
        self._softmax = epoch >= self._linear_start
        N, B = len(self._x), self._batch_size
        order = np.arange(N)
        if self._seed is not None:
            order = np.random.default_rng(random_key(self._seed, epoch)).permutation(N)
        self._cuts = [order[first : first + B] for first in range(0, N, B)]

    def _batch(self, rows):
        return Batch(
            self._store,
            *_engine.memories(rows, self._start, self._sentences, len(self._store.arrays[0]) - 1, self._memory),
            question=self._question[rows],
            targets=None if self._targets is None else self._targets[rows],
            softmax=self._softmax,
        )

    @staticmethod
    def steps_of(batch: Batch) -> int:
        """Number of questions of a batch."""
        return len(batch.count)

    def digest(self) -> str:
        """A hash of the data, by which a checkpoint identifies them."""
        found = hashlib.sha256()
        for array in (*self._store.arrays, self._question, self._targets, self._lengths, *self._x):
            found.update(array.tobytes())
        return found.hexdigest()[:12]

"""Answers to questions about stories: an end-to-end memory network, which looks at the sentences of a story several times."""

from __future__ import annotations

import math

import numpy as np

from fastrnn import _check, _engine
from fastrnn._check import memory as check_memory
from fastrnn._check import stories as check_stories
from fastrnn._files.schema import shown
from fastrnn.layers.feedforward import random_key
from fastrnn.losses import softmax_cross_entropy
from fastrnn.models import unseen
from fastrnn.models.model import DEFAULTS, Model, held_out_rows, most_likely
from fastrnn.models.schemas import MOST_HOPS
from fastrnn.models.stories import Questions
from fastrnn.parameters import Layer, Storage
from fastrnn.settings import Settings

DEVIATION = 0.1  # standard deviation of the first values of all parameters


class MemoryNetwork(Model):
    """Learns to answer questions about stories with one word: the end-to-end memory network (Sukhbaatar et al. 2015).

    Each sentence of a story lies in the memory twice, as a key and as a value, both weighted sums of vectors of its words. The state
    begins as the question, read the same way. At each of the hops the state is compared with all keys, and the mean of the values,
    weighted by a softmax over the comparisons, is added to it. The answer is a softmax over the answers seen in `fit`.

    Parameters
    ----------
    size : numbers of the state and of a word's vector
    hops : how often the memory is looked at
    memory : the most sentences that are kept; of a longer story these are the last ones
    tying : "adjacent": the values of a hop are the keys of the next, the first keys read the question, the last values are the vectors
        of the answers; or "layerwise": all hops have the same keys and values, and a matrix that the state goes through between them
    position_encoding : words are weighted by where they stand; False: a sentence is the sum of its words in any order
    temporal_encoding : keys and values also have a learnt vector of their age, the sentences between them and the question
    noise : in training up to this part of a story's length is added to it as empty memories, which shift the ages; for temporal_encoding
    linear_start : at first so many epochs are trained without the softmax over the memory
    dtype : "float32" or "float64"
    seed : int, optional. The same seed gives the same training run, bit for bit, on any number of threads.

    Attributes
    ----------
    answers_ : list of the answers, sorted
    history, outcome, message : as in LanguageModel; the history also has `validation_accuracy`
    speed : questions/s of the last `fit`

    Notes
    -----
    A word that was not in the training data has a vector of zeros; its place in the sentence counts.

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

    LAYERS = ("tables",)
    FIGURES = ("loss", "accuracy")
    ARGUMENTS = ("size", "hops", "memory", "tying", "position_encoding", "temporal_encoding", "noise", "linear_start")

    def __init__(
        self,
        size: int = 20,
        hops: int = 3,
        *,
        memory: int = 50,
        tying: str = "adjacent",
        position_encoding: bool = True,
        temporal_encoding: bool = True,
        noise: float = 0.1,
        linear_start: int = 0,
        dtype="float32",
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

    def fit(self, X, y, *, epochs: int = 100, batch_size: int = 32, validation=0.0, verbose: bool = True, **settings):
        """Learn from stories, questions and answers, anew. Ctrl-C ends the training; what was best so far is kept.

        Parameters
        ----------
        X : list of N pairs (story, question): a story is a list of sentences, a sentence or question a list of words (non-empty str)
        y : list of N answers (str)
        epochs : times through the data
        batch_size : questions of an update
        validation : a pair (X, y), or the fraction of the questions, drawn with the seed, that is held out: the parameters that are
            best on it, always with the softmax over the memory, are kept, which may be the first ones. An answer that only the held-out
            part has counts as wrong, and a warning names it. 0: the last parameters are kept
        verbose : show progress on stderr
        The others: as in ``SequenceClassifier.fit``, but by default lr=0.01

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError  a story, sentence or word is empty, numbers of questions and answers differ, an argument is out of its
            range. Nothing has been changed or written then.

        Warns
        -----
        RuntimeWarning  if the loss rose above `loss_limit` times its first value or was NaN, or at Ctrl-C. See `outcome` and `message`.
        """
        settings = Settings(epochs=epochs, **{**DEFAULTS, "lr": 0.01, "progress": verbose, **settings})
        if 0 < epochs <= self.linear_start:
            raise ValueError(
                f"epochs={epochs} are all without the softmax, as linear_start={self.linear_start}: raise epochs"
            )
        X, y = check_stories.stories(X, y)
        seed = self._drawn_seed(settings)
        if isinstance(validation, (tuple, list)):
            held = check_stories.stories(*validation)
        else:
            out, kept = held_out_rows(len(X), validation, random_key(seed, 2))
            held = [X[i] for i in out], [y[i] for i in out]
            X, y = [X[i] for i in kept], [y[i] for i in kept]
        answers = sorted(set(y))
        words = {word for story, question in X for sentence in {*story, question} for word in sentence}

        def batches():
            data = Questions(self, X, y, batch_size, random_key(seed, 1))
            return data, Questions(self, *held, batch_size, None) if held[0] else None

        def identity(data):
            return {"data": data.digest(), "batch_size": batch_size}

        self._train(
            lambda: self._build(answers, sorted(words - set(answers)), seed), batches, settings, seed=seed, identity=identity,
            unit="questions",
        )  # fmt: skip
        return self

    def _build(self, answers, words, seed):
        """Make the tables, with first values drawn from `seed`. The first rows of a table are those of the answers."""
        self.answers_, self._words = answers, words
        self._word_id = {word: i for i, word in enumerate([*answers, *words])}
        self.storage = Storage(self.dtype, self._budget)
        self.tables = _Tables(self, random_key(seed, 3))
        self._ramp = np.arange(1, self.size + 1, dtype=self.dtype) / self.dtype.type(self.size)

    def loss_and_gradient(self, batch, state=None, *, into, rng: int):
        """Mean NLL of the answers of a batch, and None; the gradient is added to `into`, laid out as ``storage.flat``."""
        ages = self._shifted(batch, rng) if self.noise and self.temporal_encoding else batch.ages
        logits, memory, states, weights = self._forward(batch, ages, batch.softmax)
        loss, backward = softmax_cross_entropy.vjp(logits, batch.targets, out=logits)
        self._backward(batch, ages, backward(), memory, states, weights, self.tables.views(into))
        return loss, None

    def _shifted(self, batch, rng):
        """The ages of a batch's sentences, with empty memories put in at random places."""
        draw = np.random.default_rng(rng)
        most = np.ceil(self.noise * (batch.count - 1)).astype(int)
        more = draw.integers(0, most + 1)
        places = draw.integers(
            0, batch.count, (most.max(), len(most))
        )  # of an empty memory: how many sentences are younger
        places[np.arange(len(places))[:, None] >= more] = self.memory
        ages = np.minimum(batch.ages + (places[:, batch.row] <= batch.ages).sum(0), self.memory - 1)
        ages[batch.first] = self.memory
        return ages

    def _forward(self, batch, ages, softmax):
        """Logits (B, answers), memory of each table (S, size), the state before each hop and after the last, weights (B, most) of each hop."""
        params, tables, memory, aged = self.tables.params, self.tables, {}, np.empty((len(ages), self.size), self.dtype)
        for k in tables.of_memory:
            memory[k] = m = np.empty((len(ages), self.size), self.dtype)
            read = np.zeros((len(batch.sentence), self.size), self.dtype)
            _engine.bag(batch.sentence, *batch.store, self._ramp, params[f"words_{k}"], read)
            _engine.gather(read, batch.which, m)
            if self.temporal_encoding:
                _engine.gather(params[f"ages_{k}"], ages, aged)
                m += aged
        B, most = len(batch.count), int(batch.count.max())
        u = np.zeros((B, self.size), self.dtype)
        _engine.bag(batch.question, *batch.store, self._ramp, params[f"words_{tables.of_question}"], u)
        states, weights = [u], []
        between = _engine.pack(params["between"]) if tables.between else None
        for keys, values in tables.hops:
            alpha, context = np.empty((B, most), self.dtype), np.empty((B, self.size), self.dtype)
            attended = u, memory[keys], memory[values], batch.first, batch.count
            _engine.attend(*attended, alpha, context, softmax=softmax)
            if tables.between:
                _engine.product(u, between, None, context, True)
            else:
                context += u
            u = context
            states.append(u)
            weights.append(alpha)
        logits = np.empty((B, len(self.answers_)), self.dtype)
        _engine.product(u, _engine.pack(tables.answers(params)), None, logits)
        return logits, memory, states, weights

    def _backward(self, batch, ages, dlogits, memory, states, weights, grads):
        """Add the gradients of all parameters to `grads`, {name: view}."""
        params, tables = self.tables.params, self.tables
        _engine.gemm(True, False, dlogits, states[-1], tables.answers(grads))
        du = np.zeros_like(states[-1])
        _engine.gemm(False, False, dlogits, tables.answers(params), du)
        dmemory = {k: np.zeros_like(m) for k, m in memory.items()}
        for (keys, values), u, alpha in reversed(list(zip(tables.hops, states, weights))):
            dquery = np.empty_like(u)
            attended = u, memory[keys], memory[values], batch.first, batch.count
            _engine.attend_backward(
                *attended, alpha, du, softmax=batch.softmax,
                dquery=dquery, dkeys=dmemory[keys], dvalues=dmemory[values],
            )  # fmt: skip
            if tables.between:
                _engine.gemm(True, False, du, u, grads["between"])
                _engine.gemm(False, False, du, params["between"], dquery)
            else:
                dquery += du
            du = dquery
        for k, dm in dmemory.items():
            if self.temporal_encoding:
                _engine.scatter_add(dm, ages, grads[f"ages_{k}"])
            dread = np.zeros((len(batch.sentence), self.size), self.dtype)
            _engine.scatter_add(dm, batch.which, dread)
            _engine.bag_backward(batch.sentence, *batch.store, self._ramp, dread, grads[f"words_{k}"])
        _engine.bag_backward(batch.question, *batch.store, self._ramp, du, grads[f"words_{tables.of_question}"])

    def evaluate(self, batches) -> dict:
        """{"loss": mean NLL, "accuracy": fraction of the questions} over some batches, with the softmax over the memory.

        See ``fastrnn.models.unseen`` for answers that the model does not know.
        """
        nll = right = known = 0
        for batch in batches:
            logits = self._forward(batch, batch.ages, True)[0]
            nll += float(softmax_cross_entropy(logits, batch.targets, reduction="none").sum())
            right += int((logits.argmax(1) == batch.targets).sum())
            known += int((batch.targets >= 0).sum())
        return {"loss": nll / known if known else math.nan, "accuracy": right / batches.steps}

    def _found(self, X):
        """(batch, logits, weights) of each batch of some questions."""
        self._check_fitted()
        for batch in Questions(self, check_stories.stories(X)[0], None, 256, None):
            logits, _, _, weights = self._forward(batch, batch.ages, True)
            yield batch, logits, weights

    def predict_proba(self, X) -> np.ndarray:
        """(N, answers) probabilities of the answers, in the order of `answers_`. X as in `fit`."""
        found = []
        for _, logits, _ in self._found(X):
            _engine.softmax(logits, logits)
            found.append(logits)
        return np.concatenate(found)

    def predict(self, X) -> list:
        """N answers: the most likely one to each question. X as in `fit`.

        Raises
        ------
        RuntimeError  the network gives NaN, so that no answer is the most likely one.
        """
        return [self.answers_[k] for k in most_likely(self.predict_proba(X), "question")]

    def attention(self, X) -> list:
        """N arrays (hops, sentences): how much each sentence of the story counted at each hop; 0 for those forgotten. X as in `fit`."""
        found = []
        for batch, _, weights in self._found(X):
            for b, (count, length) in enumerate(zip(batch.count, batch.lengths)):
                found.append(np.zeros((self.hops, length), self.dtype))
                found[-1][:, length - count + 1 :] = [alpha[b, 1:count] for alpha in weights]
        return found

    def score(self, X, y) -> float:
        """Accuracy: the fraction of the questions that are answered right. X and y as in `fit`.

        An answer that the model was not fitted with counts as wrong, and a warning names it.
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
            raise ValueError(f"words has {shown(min(both))}, which is among answers already")
        self._build(config["answers"], config["words"], 0)


class _Tables(Layer):
    """The parameters: tables of word vectors and of ages, the vectors of the answers, and the matrix between hops of layer-wise tying.

    hops : (table of the keys, table of the values) of each hop
    of_memory, of_question : the tables that sentences, and the question, are read with
    between : whether there is a matrix between hops; then the answers have vectors of their own, else the first rows of the last table
    """

    kind = "MemoryNetwork"

    def __init__(self, model, seed):
        rng, V, A, d = np.random.default_rng(seed), len(model._word_id), len(model.answers_), model.size
        adjacent = model.tying == "adjacent"
        self.hops = [(k, k + 1) if adjacent else (0, 1) for k in range(model.hops)]
        self.of_memory = sorted({k for pair in self.hops for k in pair})
        self.of_question = 0 if adjacent else 2
        self.between = not adjacent
        shapes = {f"words_{k}": (V, d) for k in sorted({*self.of_memory, self.of_question})}
        if model.temporal_encoding:
            shapes |= {f"ages_{k}": (model.memory + 1, d) for k in self.of_memory}
        if not adjacent:
            shapes |= {"answers": (A, d), "between": (d, d)}
        what = f"MemoryNetwork(size={d}, hops={model.hops}, memory={model.memory})"
        check_memory.shaped(what, shapes, model.dtype, model.storage)
        self._num_answers = A
        self._own(
            model.storage, model.dtype, {name: DEVIATION * rng.standard_normal(shape) for name, shape in shapes.items()}
        )

    def answers(self, views):
        """(A, d) the vectors of the answers, among views of the parameters or their gradients."""
        return views["answers"] if self.between else views[f"words_{self.hops[-1][1]}"][: self._num_answers]

    def views(self, into):
        """{name: view} of a flat gradient."""
        return self._gradients(into)[0]

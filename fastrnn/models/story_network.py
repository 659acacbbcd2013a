"""The network of a MemoryNetwork: its computation and the gradient."""

from __future__ import annotations

import math

import numpy as np

from fastrnn import _engine
from fastrnn._core.recording import recordable
from fastrnn.layers.feedforward import random_key
from fastrnn.losses import softmax_cross_entropy
from fastrnn.models.memory_tables import Tables
from fastrnn.models.model import Model
from fastrnn.models.stories import Batch, Questions
from fastrnn.parameters import Storage


class StoryNetwork(Model):
    """Base of MemoryNetwork, without the reading of data."""

    LAYERS = ("tables",)
    FIGURES = ("loss", "accuracy")
    answers_: list[str]
    tables: Tables

    def _build(self, answers, words, seed):
        """Make the tables, with initial values drawn from `seed`. The answers have the first rows of each table."""
        self.answers_, self._words = answers, words
        self._word_id = {word: i for i, word in enumerate([*answers, *words])}
        self.storage = Storage(self.dtype, self._budget)
        self.tables = Tables(self, random_key(seed, 3))
        self._ramp = np.arange(1, self.size + 1, dtype=self.dtype) / self.dtype.type(self.size)

    @recordable
    def loss_and_gradient(self, batch: Batch, state=None, *, into: np.ndarray, rng: int) -> tuple[float, None]:
        """Compute the loss of a batch and add its gradient to `into`.

        Parameters
        ----------
        batch : Batch
            Some questions with their stories and answers.
        state : None
            Not used: each question starts from its own words.
        into : (P,) ndarray
            Where the gradient is added, laid out like ``storage.flat``.
        rng : int
            Seed of the noise.

        Returns
        -------
        loss : float
            Mean negative log-likelihood of the answers.
        state : None
            No state is carried to the next batch.
        """
        ages = self._shifted(batch, rng) if self.noise and self.temporal_encoding else batch.ages
        logits, memory, states, weights = self._forward(batch, ages, batch.softmax)
        loss, backward = softmax_cross_entropy.vjp(logits, batch.targets, out=logits)
        self._backward(batch, ages, backward(), memory, states, weights, self.tables.views(into))
        return loss, None

    def _shifted(self, batch, rng):
        """The ages of a batch's sentences, with empty sentences inserted at random places."""
        ages = _engine.empty(batch.ages.shape, np.int64)
        _engine.call_with_key(
            _shift, rng, batch.first, batch.count, batch.ages, int(self.memory), float(self.noise), ages
        )
        return ages

    def _forward(self, batch, ages, softmax):
        """Compute the answers.

        Returns logits (B, answers), the memory (S, size) of each table, the state before each hop and after the last,
        and the weights (B, most) of each hop.
        """
        params, tables, store, memory = self.tables.params, self.tables, batch.store.arrays, {}
        B, S = len(batch.count), len(ages)
        aged = _engine.empty((S, self.size), self.dtype)
        _engine.check_within(ages, 0, self.memory, batch.size)
        _engine.check_within(batch.which, 0, S - 1, batch.size)
        for k in tables.of_memory:
            memory[k] = _engine.empty((S, self.size), self.dtype)
            read = _engine.zeros((S, self.size), self.dtype, batch.distinct)
            _engine.bag(batch.sentence, *store, self._ramp, params[f"words_{k}"], read, batch.distinct)
            _engine.gather(read, batch.which, memory[k], batch.size)
            if self.temporal_encoding:
                _engine.gather(params[f"ages_{k}"], ages, aged, batch.size)
                _engine.add_rows(aged, memory[k], batch.size)
        u = _engine.zeros((B, self.size), self.dtype)
        _engine.bag(batch.question, *store, self._ramp, params[f"words_{tables.of_question}"], u)
        states, weights = [u], []
        between = _engine.pack(params["between"]) if tables.between else None
        for keys, values in tables.hops:
            alpha = _engine.empty((B, batch.most), self.dtype)
            context = _engine.empty((B, self.size), self.dtype)
            attended = u, memory[keys], memory[values], batch.first, batch.count
            _engine.attend(*attended, alpha, context, softmax=softmax)
            if tables.between:
                _engine.product(u, between, None, context, True)
            else:
                _engine.add_rows(u, context)
            u = context
            states.append(u)
            weights.append(alpha)
        logits = _engine.empty((B, len(self.answers_)), self.dtype)
        _engine.product(u, _engine.pack(tables.answers(params)), None, logits)
        return logits, memory, states, weights

    def _backward(self, batch, ages, dlogits, memory, states, weights, grads):
        """Add the gradients of all parameters to `grads`, views by name."""
        params, tables, store = self.tables.params, self.tables, batch.store.arrays
        _engine.gemm(True, False, dlogits, states[-1], tables.answers(grads))
        du = _engine.zeros(states[-1].shape, self.dtype)
        _engine.gemm(False, False, dlogits, tables.answers(params), du)
        dmemory = {k: _engine.zeros(m.shape, self.dtype, batch.size) for k, m in memory.items()}
        for (keys, values), u, alpha in reversed(list(zip(tables.hops, states, weights))):
            dquery = _engine.empty(u.shape, self.dtype)
            attended = u, memory[keys], memory[values], batch.first, batch.count
            _engine.attend_backward(
                *attended, alpha, du, softmax=batch.softmax,
                dquery=dquery, dkeys=dmemory[keys], dvalues=dmemory[values],
            )  # fmt: skip
            if tables.between:
                _engine.gemm(True, False, du, u, grads["between"])
                _engine.gemm(False, False, du, params["between"], dquery)
            else:
                _engine.add_rows(du, dquery)
            du = dquery
        for k, dm in dmemory.items():
            if self.temporal_encoding:
                _engine.scatter_add(dm, ages, grads[f"ages_{k}"], batch.size)
            dread = _engine.zeros(dm.shape, self.dtype, batch.distinct)
            _engine.scatter_add(dm, batch.which, dread, batch.size)
            words = grads[f"words_{k}"]
            _engine.bag_backward(batch.sentence, *store, self._ramp, dread, words, batch.distinct)
        _engine.bag_backward(batch.question, *store, self._ramp, du, grads[f"words_{tables.of_question}"])

    def evaluate(self, batches: Questions) -> dict[str, float]:
        """Compute the loss and the accuracy over some batches, with the softmax over the memory.

        Parameters
        ----------
        batches : Questions
            Questions with their answers.

        Returns
        -------
        dict
            "loss", the mean negative log-likelihood, and "accuracy", the fraction of questions answered correctly. A
            question whose answer is unknown counts as wrong and is left out of the loss.
        """
        nll = right = known = 0
        for batch in batches:
            logits = self._forward(batch, batch.ages, True)[0]
            nll += float(softmax_cross_entropy(logits, batch.targets, reduction="none").sum())
            right += int((logits.argmax(1) == batch.targets).sum())
            known += int((batch.targets >= 0).sum())
        return {"loss": nll / known if known else math.nan, "accuracy": right / batches.steps}


def _shift(key, first, count, given, memory, noise, ages):
    """Set `ages` to the given ones, with empty sentences inserted at random places."""
    draw = np.random.default_rng(key)
    limit = np.ceil(noise * (count - 1)).astype(int)
    number = draw.integers(0, limit + 1)
    places = draw.integers(0, count, (limit.max(), len(limit)))  # the number of sentences after each empty one
    places[np.arange(len(places))[:, None] >= number] = memory
    row = np.repeat(np.arange(len(count)), count)
    given = given[: len(row)]
    ages[: len(row)] = np.minimum(given + (places[:, row] <= given).sum(0), memory - 1)
    ages[first] = memory

"""The network of a LanguageModel: embedding, recurrent stack, softmax, and their gradient."""

from __future__ import annotations

import math

import numpy as np

from fastrnn import _check
from fastrnn._check import stacked as check_stacked
from fastrnn._core.recording import recordable
from fastrnn.batches import Streams, Window
from fastrnn.layers.feedforward import Dropout, Embedding, Linear, random_key
from fastrnn.losses import softmax_cross_entropy
from fastrnn.models.model import Model, Recurrent, init_forget_bias, recurrent
from fastrnn.models.text import Vocabulary
from fastrnn.parameters import Storage


class LanguageNetwork(Model):
    """Base of LanguageModel, without the reading of text and the writing."""

    LAYERS = ("embedding", "rnn", "linear")
    vocabulary: Vocabulary | None = None
    embedding: Embedding
    rnn: Recurrent
    linear: Linear

    @property
    def _top_size(self):
        return self.hidden_size if isinstance(self.hidden_size, int) else self.hidden_size[-1]

    @property
    def _embedding_size(self):
        first = self.hidden_size if isinstance(self.hidden_size, int) else self.hidden_size[0]
        return self.embedding_size or first

    def _build(self, vocabulary, seed):
        """Make the layers in one storage, with initial values drawn from `seed`."""
        V, E, H = len(vocabulary), self._embedding_size, self._top_size
        seeds = [random_key(seed, layer) for layer in range(3)]
        self.vocabulary = vocabulary
        self.storage = Storage(self.dtype, self._budget)
        make = dict(dtype=self.dtype, storage=self.storage)
        self.embedding = Embedding(V, E, seed=seeds[0], **make)
        self.rnn = recurrent(
            self.cell, E, self.hidden_size, self.num_layers,
            dropout=self.dropout, variational=self.variational, seed=seeds[1], **make,
        )  # fmt: skip
        self.linear = Linear(H, V, weight=self.embedding.slots["weight"] if self.tied else None, seed=seeds[2], **make)
        self.output_dropout = Dropout(self.dropout, variational=self.variational)
        self._input_dropout = Dropout(self.input_dropout, variational=self.variational)
        init_forget_bias(self.rnn, seeds[1])
        if self.tied:  # scale the shared weight for the softmax
            with self.storage.updating() as flat:
                self.embedding.slots["weight"].view(flat)[...] /= math.sqrt(E)
        self._logits = {}

    @recordable
    def loss_and_gradient(self, batch: Window, state=None, *, into: np.ndarray, rng: int) -> tuple:
        """Compute the loss of a window and add its gradient to `into`.

        Parameters
        ----------
        batch : Window
            Steps of all streams.
        state : array or tuple of arrays, optional
            State of the recurrent layers after the window before; by default zeros.
        into : (P,) ndarray
            Where the gradient is added, laid out like ``storage.flat``.
        rng : int
            Key of the dropout masks.

        Returns
        -------
        loss : float
            Mean negative log-likelihood of the window.
        state : array or tuple of arrays
            State for the next window.
        """
        ids, targets, skip, carry = batch
        if skip:
            _, state = self.rnn(ids[:skip], state, embedding=self.embedding)
            ids, carry = ids[skip:], carry - skip
        early = carry < len(ids)  # the next window begins before this one ends
        (y, *states), rnn_backward = self._rnn_vjp(ids, state, rng, early)
        state = self._state_after(carry, state, states[1]) if early else states[0]
        y, dropout_backward = self.output_dropout.vjp(y, rng=random_key(rng, 1), out=y)
        logits, linear_backward = self.linear.vjp(y, out=self._logits_of(ids.shape))
        loss, loss_backward = softmax_cross_entropy.vjp(
            logits, targets, label_smoothing=self.label_smoothing, out=logits
        )
        dy = linear_backward(loss_backward(), into=into).x
        dropout_backward(dy, out=dy)
        rnn_backward(dy, into)
        return loss, state

    def check_state(self, state, batches: Streams) -> None:
        """Check a state that a checkpoint carries from one batch to the next.

        Parameters
        ----------
        state : array or tuple of arrays
            The state, as read from the checkpoint.
        batches : Streams
            The training batches.

        Raises
        ------
        ValueError, TypeError
            If it is not a state of the recurrent layers for the rows of the batches.
        """
        check = check_stacked.member_states if hasattr(self.rnn, "layers") else _check.state
        check(self.rnn, "state", state, batches.rows, False)

    def _rnn_vjp(self, ids, state, rng, return_states):
        """The vjp of embedding, input dropout and recurrent layers; its backward takes dy and `into`."""
        options = dict(rng=rng, return_states=return_states)
        if (
            self.input_dropout == 0
        ):  # the faster way: the products of the input weights with the embeddings are gathered
            outcome, rnn_backward = self.rnn.vjp(ids, state, embedding=self.embedding, **options)
        else:
            x, embedding_backward = self.embedding.vjp(ids)
            x, dropout_backward = self._input_dropout.vjp(x, rng=random_key(rng, 2), out=x)
            outcome, rnn_backward = self.rnn.vjp(x, state, **options)

        def backward(dy, into):
            dx = rnn_backward(dy, into=into).x
            rnn_backward.release()
            if self.input_dropout:
                embedding_backward(dropout_backward(dx, out=dx).x, into=into)

        return outcome, backward

    @staticmethod
    def _state_after(steps, before, states):
        """The state after some steps; `states` are those of all steps, `before` is the one before the first."""
        return before if steps == 0 else _at(states, steps - 1)

    def _logits_of(self, shape):
        """An array for the logits of (T, B) steps, reused at each update."""
        if shape not in self._logits:
            self._logits[shape] = np.empty((*shape, len(self.vocabulary)), self.dtype)
        return self._logits[shape]

    def evaluate(self, batches: Streams) -> dict[str, float]:
        """Compute the loss over all steps of some streams, carrying the state from window to window.

        Parameters
        ----------
        batches : Streams
            Ids. A negative id is an unknown symbol: its embedding is zeros, and it is left out of the mean.

        Returns
        -------
        dict
            "loss", the mean negative log-likelihood.
        """
        total, known, state = 0.0, 0, None
        for ids, targets, *_ in batches.whole_windows():
            if ids.min() >= 0:
                y, state = self.rnn(ids, state, embedding=self.embedding)
            else:
                x = np.where((ids >= 0)[..., None], self.embedding.params["weight"][ids], self.dtype.type(0))
                y, state = self.rnn(x, state)
            total += float(softmax_cross_entropy(self.linear(y), targets, reduction="none").sum())
            known += int(np.count_nonzero(targets >= 0))
        return {"loss": total / known}


def _at(states, t):
    """The state at step t, of the states (n, T, B, H) of all steps or a tuple of such."""
    if isinstance(states, np.ndarray):
        return np.ascontiguousarray(states[:, t])
    return tuple(_at(part, t) for part in states)

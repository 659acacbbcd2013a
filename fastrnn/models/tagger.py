"""A tag for each word of a sentence: word vectors, a network over the characters, a bidirectional stack, softmax."""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from fastrnn import _check, _engine
from fastrnn._check import data as check_data
from fastrnn._check import stacked as check_stacked
from fastrnn.layers.feedforward import Dropout, Embedding, Linear, random_key
from fastrnn.losses import softmax_cross_entropy
from fastrnn.models import unseen
from fastrnn.models.model import CELLS, Examples, Model, Recurrent, Setup, init_forget_bias, most_likely, recurrent
from fastrnn.models.sentences import UNKNOWN, SentenceBatch, Sentences
from fastrnn.parameters import Storage

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from fastrnn.settings import TrainingOptions


class SequenceTagger(Model):
    """Tag each word of a sentence: parts of speech, names, chunks.

    A word is represented by its vector from a table and by the final states of a bidirectional network over its
    characters, so that words not seen in training are understood by their spelling (Ling et al. 2015, Plank et al.
    2016). The stack over the words is bidirectional.

    Parameters
    ----------
    cell : {"lstm", "gru", "rnn"}, default="lstm"
        Kind of both recurrent networks; "rnn" has the tanh activation.
    hidden_size : int or sequence of int, default=128
        Units of each layer and direction over the words, or a list with the units of each layer.
    num_layers : int, default=1
        Number of layers over the words.
    word_size : int, default=128
        Size of the word embedding.
    char_size : int, default=64
        Size of the character embedding.
    char_hidden_size : int, default=64
        Units of each direction over the characters.
    min_count : int, default=1
        Words that occur less often in the training data have no vector of their own.
    dropout : float, default=0.3
        Dropout probability in the input and the output of the stack over the words and between its layers (training
        only), 0 <= dropout < 1.
    word_dropout : float, default=0.2
        Probability that a word's own vector is replaced by the vector of unknown words (training only).
    dtype : {"float32", "float64"}, default="float32"
        What the network computes in.
    seed : int, optional
        Seed of the initial parameters, the order of the batches and dropout. The same seed gives the same training run,
        bit for bit, on any number of threads. By default a random one is drawn.

    Attributes
    ----------
    tags_ : list of str
        The tags of the training data, sorted.
    history : list of dict
        An entry for each evaluation: `epoch`, `update`, `lr`, `train_loss` and, with validation data,
        `validation_loss` and `validation_accuracy`.
    outcome : str or None
        How training ended: "finished", "stopped early", "interrupted" (by Ctrl-C) or "diverged"; None before `fit`.
    message : str or None
        Details of the outcome, if there are any.
    speed : float or None
        Words per second in the last training.

    Examples
    --------
    >>> sentences = [["he", "sings"], ["she", "talks"], ["dogs", "bark", "loudly"], ["she", "sings", "softly"]] * 8
    >>> tags = [["PRON", "VERB"], ["PRON", "VERB"], ["NOUN", "VERB", "ADV"], ["PRON", "VERB", "ADV"]] * 8
    >>> model = SequenceTagger("gru", 16, word_size=8, char_size=8, char_hidden_size=8, seed=0)
    >>> model = model.fit(sentences, tags, epochs=30, batch_size=8, lr=0.01, verbose=False)
    >>> model.predict([["he", "talks", "softly"]])
    [['PRON', 'VERB', 'ADV']]
    """

    LAYERS = ("words", "characters", "char_rnn", "rnn", "linear")
    FIGURES = ("loss", "accuracy")
    UNIT = "words"
    tags_: list[str]
    words: Embedding
    characters: Embedding
    char_rnn: Recurrent
    rnn: Recurrent
    linear: Linear
    ARGUMENTS = (
        "cell", "hidden_size", "num_layers", "word_size", "char_size", "char_hidden_size", "min_count", "dropout",
        "word_dropout",
    )  # fmt: skip

    def __init__(
        self,
        cell: Literal["lstm", "gru", "rnn"] = "lstm",
        hidden_size: int | Sequence[int] = 128,
        num_layers: int = 1,
        *,
        word_size: int = 128,
        char_size: int = 64,
        char_hidden_size: int = 64,
        min_count: int = 1,
        dropout: float = 0.3,
        word_dropout: float = 0.2,
        dtype: str = "float32",
        seed: int | None = None,
    ):
        self.cell = _check.choice("cell", cell, tuple(CELLS))
        for name in ("num_layers", "word_size", "char_size", "char_hidden_size", "min_count"):
            setattr(self, name, _check.size(name, locals()[name]))
        self.hidden_size = check_stacked.layer_sizes(hidden_size, self.num_layers)
        self.dropout = _check.probability("dropout", dropout)
        self.word_dropout = _check.probability("word_dropout", word_dropout)
        self.dtype = _check.dtype(dtype)
        self.seed = _check.seed(seed)
        self.history = []

    def fit(
        self,
        X: Sequence[Sequence[str]],
        y: Sequence[Sequence[str]],
        *,
        epochs: int = 20,
        batch_size: int = 32,
        max_steps: int | None = None,
        validation: float | tuple = 0.0,
        verbose: bool = True,
        **settings: Unpack[TrainingOptions],
    ) -> SequenceTagger:
        """Train a new network on sentences and their tags.

        Ctrl-C ends training and keeps the best parameters so far.

        Parameters
        ----------
        X : list of N lists of str
            The sentences, each a list of at least one word. A word has at least one character.
        y : list of N lists of str
            The tags, one for each word.
        epochs : int, default=20
            Number of passes over the training data.
        batch_size : int, default=32
            Sentences in each update. Sentences of similar length are batched together.
        max_steps : int, optional
            Upper limit of the words in an update, padding included.
        validation : float or tuple (X, y), default=0.0
            The held-out data, or the fraction of the sentences to hold out, drawn with the seed. The parameters with
            the lowest validation loss are kept, which may be the initial ones; with 0, the last ones. A tag that only
            the held-out part has counts as wrong, and a warning names it.
        verbose : bool, default=True
            Show the progress on stderr.
        **settings
            Other fields of ``fastrnn.settings.Settings``: `optimizer`, `lr`, `schedule`, `patience`, `checkpoint`,
            `resume` and so on. The defaults are optimizer="adam", lr=2e-3, clip_norm=5.0 and loss_limit=30.0.

        Returns
        -------
        SequenceTagger
            This model, fitted.

        Raises
        ------
        ValueError, TypeError
            If a sentence or a word is empty, if a sentence has more or fewer tags than words, or if an argument is out
            of its range. The model and the checkpoint directory are unchanged then.

        Warns
        -----
        RuntimeWarning
            If training diverged or was interrupted; see `outcome` and `message`.
        """
        settings = self._settings(epochs, verbose, settings)
        return self._fit((X, y), validation, settings, batch_size=batch_size, max_steps=max_steps)

    def _read(self, X, y, *, like=None):
        return Examples(check_data.tagged(X, y))

    def _prepare(self, data, held, seed, settings, *, batch_size, max_steps):
        sentences, tags = data.columns
        count = collections.Counter(word for sentence in sentences for word in sentence)
        vocabulary = sorted(word for word, n in count.items() if n >= self.min_count)
        alphabet = "".join(sorted(set("".join(count))))
        names = sorted({tag for row in tags for tag in row})

        def batches():
            training = Sentences(self, sentences, tags, batch_size, max_steps, random_key(seed, 1))
            held_out = None if held is None else Sentences(self, *held.columns, batch_size, max_steps, None)
            return training, held_out

        return Setup(
            build=lambda: self._build(vocabulary, alphabet, names, seed),
            batches=batches,
            identity=lambda data: {"data": data.digest(), "batch_size": batch_size, "max_steps": max_steps},
        )

    def _build(self, vocabulary, alphabet, tags, seed):
        """Make the layers in one storage, with initial values drawn from `seed`."""
        self._vocabulary, self._alphabet, self.tags_ = vocabulary, alphabet, tags
        self._word_id = {word: i for i, word in enumerate(vocabulary, UNKNOWN + 1)}
        self._char_id = {char: i for i, char in enumerate(alphabet, UNKNOWN + 1)}
        self._tag_id = {tag: i for i, tag in enumerate(tags)}
        self.storage = Storage(self.dtype, self._budget)
        make = dict(dtype=self.dtype, storage=self.storage)
        Hc = self.char_hidden_size
        self.words = Embedding(len(vocabulary) + 1, self.word_size, seed=random_key(seed, 3), **make)
        self.characters = Embedding(len(alphabet) + 1, self.char_size, seed=random_key(seed, 4), **make)
        self.char_rnn = CELLS[self.cell](self.char_size, Hc, bidirectional=True, seed=random_key(seed, 5), **make)
        self.rnn = recurrent(
            self.cell, self.word_size + 2 * Hc, self.hidden_size, self.num_layers,
            dropout=self.dropout, bidirectional=True, seed=random_key(seed, 6), **make,
        )  # fmt: skip
        self.linear = Linear(self.rnn.output_size, len(tags), seed=random_key(seed, 7), **make)
        self._dropout = Dropout(self.dropout)
        with self.storage.updating() as flat:
            for table in (self.words, self.characters):
                table.slots["weight"].view(flat)[...] *= 0.1
        init_forget_bias(self.char_rnn, random_key(seed, 5))
        init_forget_bias(self.rnn, random_key(seed, 6))

    def _spelling(self, forms):
        """The character ids (T, U) and the lengths (U,) of some words."""
        lengths = np.array([len(form) for form in forms])
        ids = np.full((lengths.max(), len(forms)), UNKNOWN)
        for u, form in enumerate(forms):
            ids[: len(form), u] = [self._char_id.get(char, UNKNOWN) for char in form]
        return ids, lengths

    def loss_and_gradient(self, batch: SentenceBatch, state=None, *, into: np.ndarray, rng: int) -> tuple[float, None]:
        """Compute the loss of a batch and add its gradient to `into`.

        Parameters
        ----------
        batch : SentenceBatch
            Tagged sentences.
        state : None
            Not used: each sentence starts from zeros.
        into : (P,) ndarray
            Where the gradient is added, laid out like ``storage.flat``.
        rng : int
            Key of the dropout masks.

        Returns
        -------
        loss : float
            Mean negative log-likelihood of the tags.
        state : None
            No state is carried to the next batch.
        """
        ragged, forms, which, word_ids, targets = batch
        if self.word_dropout:
            kept = np.random.default_rng(random_key(rng, 2)).random(word_ids.shape) >= self.word_dropout
            word_ids = np.where(kept, word_ids, UNKNOWN)
        spelling, spelling_lengths = self._spelling(forms)
        (_, char_state), char_backward = self.char_rnn.vjp(
            spelling, lengths=spelling_lengths, embedding=self.characters
        )
        x = np.concatenate([self.words(word_ids), self._spelt(char_state)[which]], axis=2)
        x, x_dropout = self._dropout.vjp(x, rng=random_key(rng, 3), out=x)
        (y, _), rnn_backward = self.rnn.vjp(x, lengths=ragged.lengths, rng=rng)
        y, y_dropout = self._dropout.vjp(y, rng=random_key(rng, 4), out=y)
        logits, linear_backward = self.linear.vjp(y)
        loss, loss_backward = softmax_cross_entropy.vjp(logits, targets, lengths=ragged.lengths, out=logits)
        dy = linear_backward(loss_backward(), into=into).x
        dy = y_dropout(dy, out=dy).x
        dx = rnn_backward(dy, into=into).x
        rnn_backward.release()
        dx = x_dropout(dx, out=dx).x
        E = self.word_size
        rows = dx.reshape(-1, dx.shape[2])
        _engine.scatter_add(rows[:, :E], word_ids.ravel(), self.words.slots["weight"].view(into))
        dspelt = np.zeros((len(forms), rows.shape[1] - E), self.dtype)
        _engine.scatter_add(rows[:, E:], which.ravel(), dspelt)
        char_backward(dstate_n=self._spelt_backward(dspelt), need_x=False, into=into)
        char_backward.release()
        return loss, None

    def _spelt(self, state):
        """(U, 2*Hc): the final states of both directions over the characters, side by side."""
        h = state[0] if self.cell == "lstm" else state
        return np.ascontiguousarray(h.transpose(1, 0, 2)).reshape(h.shape[1], -1)

    def _spelt_backward(self, dspelt):
        dh = np.ascontiguousarray(dspelt.reshape(len(dspelt), 2, -1).transpose(1, 0, 2))
        return (dh, np.zeros_like(dh)) if self.cell == "lstm" else dh

    def _logits(self, batch):
        ragged, forms, which, word_ids, _ = batch
        spelling, lengths = self._spelling(forms)
        _, char_state = self.char_rnn(spelling, lengths=lengths, embedding=self.characters)
        x = np.concatenate([self.words(word_ids), self._spelt(char_state)[which]], axis=2)
        return self.linear(self.rnn(x, lengths=ragged.lengths)[0])

    def evaluate(self, batches) -> dict[str, float]:
        """Compute the loss and the accuracy over some batches.

        Parameters
        ----------
        batches : Sentences
            Tagged sentences.

        Returns
        -------
        dict
            "loss", the mean negative log-likelihood, and "accuracy", the fraction of words tagged correctly. A word
            whose tag is unknown counts as wrong and is left out of the loss.
        """
        nll = right = known = 0
        for batch in batches:
            ragged, targets, logits = batch[0], batch[-1], self._logits(batch)
            valid = np.arange(len(targets))[:, None] < ragged.lengths
            nll += float(softmax_cross_entropy(logits, targets, lengths=ragged.lengths, reduction="none").sum())
            right += int((logits.argmax(2) == targets)[valid].sum())
            known += int((targets >= 0)[valid].sum())
        return {"loss": nll / known if known else math.nan, "accuracy": right / batches.steps}

    def predict(self, X: Sequence[Sequence[str]]) -> list[list[str]]:
        """Predict the most likely tag of each word.

        Parameters
        ----------
        X : list of N lists of str
            The sentences, as in `fit`.

        Returns
        -------
        list of N lists of str
            The tags of each sentence.

        Raises
        ------
        RuntimeError
            If the network's outputs are NaN.
        """
        self._check_fitted()
        found = [None] * len(X)
        for batch in Sentences(self, check_data.tagged(X, None)[0], None, 64, None, None):
            logits, ragged = self._logits(batch), batch[0]
            for b, row in enumerate(ragged.rows):
                best = most_likely(logits[: ragged.lengths[b], b], f"sentence {row}, word")
                found[row] = [self.tags_[k] for k in best]
        return found

    def score(self, X: Sequence[Sequence[str]], y: Sequence[Sequence[str]]) -> float:
        """Compute the accuracy: the fraction of the words whose tag is predicted.

        Parameters
        ----------
        X : list of N lists of str
            The sentences, as in `fit`.
        y : list of N lists of str
            The true tags. One that the model was not trained on counts as wrong, and a warning names it.

        Returns
        -------
        float
            Accuracy, from 0 to 1.
        """
        self._check_fitted()
        X, y = check_data.tagged(X, y)
        unseen.encode([tag for row in y for tag in row], self._tag_id, "tags", "y")
        pairs = [(mine, theirs) for row, tags in zip(self.predict(X), y) for mine, theirs in zip(row, tags)]
        return sum(mine == theirs for mine, theirs in pairs) / len(pairs)

    def _fitted_config(self):
        return {"words": self._vocabulary, "characters": self._alphabet, "tags": self.tags_}

    def _rebuild(self, config, arrays):
        self._build(config["words"], config["characters"], config["tags"], 0)

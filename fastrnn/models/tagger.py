"""A tag for each word of a sentence: word vectors, a character network that builds more of them, a bidirectional stack, softmax."""

from __future__ import annotations

import collections
import hashlib
import math
from collections.abc import Sequence

import numpy as np

from fastrnn import _check, _engine
from fastrnn._check import data as check_data
from fastrnn._check import stacked as check_stacked
from fastrnn.batches import Sequences
from fastrnn.layers.feedforward import Dropout, Embedding, Linear, random_key
from fastrnn.losses import softmax_cross_entropy
from fastrnn.models import unseen
from fastrnn.models.model import CELLS, DEFAULTS, Model, held_out_rows, most_likely, recurrent, remember_at_first
from fastrnn.parameters import Storage
from fastrnn.settings import Settings

UNKNOWN = 0  # id of a word or character that was not, or not often enough, in the training data


class SequenceTagger(Model):
    """Learns a tag for each word of a sentence: parts of speech, names, chunks.

    A word is its vector from a table and, beside it, the final states of a bidirectional network over its characters, so words never
    seen are understood by their spelling (Ling et al. 2015, Plank et al. 2016). The stack over the words is bidirectional.

    Parameters
    ----------
    cell : "lstm", "gru" or "rnn" (tanh), of both networks
    hidden_size : units of each layer and direction over the words; or a list with those of each layer
    num_layers : layers over the words
    word_size : numbers of a word's vector
    char_size, char_hidden_size : numbers of a character's vector, and units of each direction over the characters
    min_count : words that are rarer than this in the training data have no vector of their own
    dropout : probability of a zero in the input and the output of the stack over the words and between its layers, in training
    word_dropout : probability that a word's own vector is replaced by that of unknown words, in training
    dtype : "float32" or "float64"
    seed : int, optional. The same seed gives the same training run, bit for bit, on any number of threads.

    Attributes
    ----------
    tags_ : list of the tags, sorted
    history, outcome, message : as in LanguageModel; the history also has `validation_accuracy`
    speed : words/s of the last `fit`

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
    ARGUMENTS = (
        "cell",
        "hidden_size",
        "num_layers",
        "word_size",
        "char_size",
        "char_hidden_size",
        "min_count",
        "dropout",
        "word_dropout",
    )

    def __init__(
        self,
        cell: str = "lstm",
        hidden_size: int | Sequence[int] = 128,
        num_layers: int = 1,
        *,
        word_size: int = 128,
        char_size: int = 64,
        char_hidden_size: int = 64,
        min_count: int = 1,
        dropout: float = 0.3,
        word_dropout: float = 0.2,
        dtype="float32",
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
        X,
        y,
        *,
        epochs: int = 20,
        batch_size: int = 32,
        max_steps=None,
        validation=0.0,
        verbose: bool = True,
        **settings,
    ):
        """Learn from sentences and their tags, anew. Ctrl-C ends the training; what was best so far is kept.

        Parameters
        ----------
        X : list of N sentences, each a list of at least one word (non-empty str)
        y : list of N lists of tags (str), one for each word
        epochs : times through the data
        batch_size : sentences of an update; those of similar length come together
        max_steps : words of an update with padding, at most, optional
        validation : a pair (X, y), or the fraction of the sentences, drawn with the seed, that is held out: the parameters that are
            best on it are kept, which may be the first ones. A tag that only the held-out part has counts as wrong, and a warning names
            it. 0: the last parameters are kept
        verbose : show progress on stderr
        The others: as in ``SequenceClassifier.fit``

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError  a sentence or word is empty, numbers of words and tags differ, an argument is out of its range. Nothing has
            been changed or written then.

        Warns
        -----
        RuntimeWarning  if the loss rose above `loss_limit` times its first value or was NaN, or at Ctrl-C. See `outcome` and `message`.
        """
        settings = Settings(epochs=epochs, **{**DEFAULTS, "progress": verbose, **settings})
        sentences, tags = check_data.tagged(X, y)
        seed = self._drawn_seed(settings)
        if isinstance(validation, (tuple, list)):
            held = check_data.tagged(*validation)
        else:
            out, kept = held_out_rows(len(sentences), validation, random_key(seed, 2))
            held = [sentences[i] for i in out], [tags[i] for i in out]
            sentences, tags = [sentences[i] for i in kept], [tags[i] for i in kept]
        count = collections.Counter(word for sentence in sentences for word in sentence)
        vocabulary = sorted(word for word, n in count.items() if n >= self.min_count)
        alphabet = "".join(sorted(set("".join(count))))
        names = sorted({tag for row in tags for tag in row})

        def batches():
            data = _Tagged(self, sentences, tags, batch_size, max_steps, random_key(seed, 1))
            return data, _Tagged(self, *held, batch_size, max_steps, None) if held[0] else None

        def identity(data):
            return {"data": data.digest(), "batch_size": batch_size, "max_steps": max_steps}

        self._train(
            lambda: self._build(vocabulary, alphabet, names, seed), batches, settings, seed=seed, identity=identity, unit="words"
        )  # fmt: skip
        return self

    def _build(self, vocabulary, alphabet, tags, seed):
        """Make the layers, with first values drawn from `seed`, in one storage."""
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
        self._dropout = Dropout(self.dropout) if self.dropout else None
        with self.storage.updating() as flat:
            for table in (self.words, self.characters):
                table.slots["weight"].view(flat)[...] *= 0.1
        remember_at_first(self.char_rnn, random_key(seed, 5))
        remember_at_first(self.rnn, random_key(seed, 6))

    def _spelling(self, forms):
        """Character ids (T, U) and lengths (U,) of some words."""
        lengths = np.array([len(form) for form in forms])
        ids = np.full((lengths.max(), len(forms)), UNKNOWN)
        for u, form in enumerate(forms):
            ids[: len(form), u] = [self._char_id.get(char, UNKNOWN) for char in form]
        return ids, lengths

    def loss_and_gradient(self, batch, state=None, *, into, rng: int):
        """Mean NLL of the words of a batch, and None; the gradient is added to `into`, laid out as ``storage.flat``."""
        ragged, forms, which, word_ids, targets = batch
        if self.word_dropout:
            kept = np.random.default_rng(random_key(rng, 2)).random(word_ids.shape) >= self.word_dropout
            word_ids = np.where(kept, word_ids, UNKNOWN)
        spelling, spelling_lengths = self._spelling(forms)
        (_, char_state), char_backward = self.char_rnn.vjp(
            spelling, lengths=spelling_lengths, embedding=self.characters
        )
        x = np.concatenate([self.words(word_ids), self._spelt(char_state)[which]], axis=2)
        if self._dropout is not None:
            x, x_dropout = self._dropout.vjp(x, rng=random_key(rng, 3), out=x)
        (y, _), rnn_backward = self.rnn.vjp(x, lengths=ragged.lengths, rng=rng)
        if self._dropout is not None:
            y, y_dropout = self._dropout.vjp(y, rng=random_key(rng, 4), out=y)
        logits, linear_backward = self.linear.vjp(y)
        loss, loss_backward = softmax_cross_entropy.vjp(logits, targets, lengths=ragged.lengths, out=logits)
        dy = linear_backward(loss_backward(), into=into).x
        if self._dropout is not None:
            dy = y_dropout(dy, out=dy).x
        dx = rnn_backward(dy, into=into).x
        rnn_backward.release()
        if self._dropout is not None:
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

    def evaluate(self, batches) -> dict:
        """{"loss": mean NLL, "accuracy": fraction of the words} over some batches; see ``fastrnn.models.unseen``."""
        nll = right = known = 0
        for batch in batches:
            ragged, targets, logits = batch[0], batch[-1], self._logits(batch)
            valid = np.arange(len(targets))[:, None] < ragged.lengths
            nll += float(softmax_cross_entropy(logits, targets, lengths=ragged.lengths, reduction="none").sum())
            right += int((logits.argmax(2) == targets)[valid].sum())
            known += int((targets >= 0)[valid].sum())
        return {"loss": nll / known if known else math.nan, "accuracy": right / batches.steps}

    def predict(self, X) -> list:
        """N lists: the most likely tag of each word of each sentence. X as in `fit`.

        Raises
        ------
        RuntimeError  the network gives NaN, so that no tag is the most likely one.
        """
        self._check_fitted()
        found = [None] * len(X)
        for batch in _Tagged(self, check_data.tagged(X, None)[0], None, 64, None, None):
            logits, ragged = self._logits(batch), batch[0]
            for b, row in enumerate(ragged.rows):
                best = most_likely(logits[: ragged.lengths[b], b], f"sentence {row}, word")
                found[row] = [self.tags_[k] for k in best]
        return found

    def score(self, X, y) -> float:
        """Accuracy: the fraction of the words whose tag is predicted. X and y as in `fit`.

        A tag that the model was not fitted with counts as wrong, and a warning names it.
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


class _Tagged(Sequences):
    """Batches (sequences of form ids, forms of the batch, (T, B) which of them, (T, B) word ids, (T, B) targets)."""

    def __init__(self, model, sentences, tags, batch_size, max_steps, seed):
        self._forms = sorted({word for sentence in sentences for word in sentence})
        form_id = {form: i for i, form in enumerate(self._forms)}
        self._word_ids = np.array([model._word_id.get(form, UNKNOWN) for form in self._forms])
        super().__init__(
            [np.array([form_id[w] for w in sentence]) for sentence in sentences],
            batch_size,
            max_steps=max_steps,
            seed=seed,
        )
        self._targets = None
        if tags is not None:
            ids = unseen.encode([tag for row in tags for tag in row], model._tag_id, "tags", unseen.HELD_OUT)
            self._targets = np.split(np.array(ids, np.int64), np.cumsum(self._lengths)[:-1])

    def _batch(self, rows):
        ragged = self._ragged(rows)
        some, which = np.unique(ragged.x, return_inverse=True)
        targets = None
        if self._targets is not None:
            targets = np.zeros(ragged.x.shape, np.int64)
            for b, row in enumerate(rows):
                targets[: ragged.lengths[b], b] = self._targets[row]
        return ragged, [self._forms[k] for k in some], which.reshape(ragged.x.shape), self._word_ids[ragged.x], targets

    @staticmethod
    def steps_of(batch):
        return int(batch[0].lengths.sum())

    def digest(self):
        """What a checkpoint knows the data by."""
        found = hashlib.sha256("\0".join(self._forms).encode("utf-8", "surrogatepass"))
        for row in (*self._x, *self._targets):
            found.update(row.tobytes())
        return found.hexdigest()[:12]

"""A language model of characters, words or bytes: embedding, recurrent stack, softmax."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from fastrnn import _check
from fastrnn._check import stacked as check_stacked
from fastrnn.batches import Streams
from fastrnn.data._splitting import check_rule, first_cut
from fastrnn.layers.feedforward import Dropout, Embedding, Linear, random_key
from fastrnn.losses import softmax_cross_entropy
from fastrnn.models.characters import digest
from fastrnn.models.model import CELLS, DEFAULTS, Model, recurrent, remember_at_first
from fastrnn.models.text import LEVELS, Bytes, Sampler, Vocabulary, Words, split_words
from fastrnn.models.text_parts import text_batches
from fastrnn.models.vectors import read_vectors
from fastrnn.parameters import Storage
from fastrnn.settings import Settings

# Defaults that the repr does not show
_USUAL = {
    "input_dropout": 0.0, "variational": False, "level": "character", "min_count": None, "max_vocabulary": None, "tied": False,
    "label_smoothing": 0.0, "splitting": None,
}  # fmt: skip


class LanguageModel(Model):
    """Learns to write: the probability of the next character (or word, or byte), given all before it.

    At the word level a text is cut by ``fastrnn.models.text.split_words``: a word carries the blank before it, and punctuation marks
    and line breaks are words too. Words rarer than `min_count` in the training part are learnt as the one word ``<unk>``; in a text that
    is scored, and in a prompt, all words the model has no other name for are ``<unk>``. It is never written. At the byte level every
    text is known; it is taken as UTF-8.

    Parameters
    ----------
    cell : "lstm", "gru" or "rnn" (tanh)
    hidden_size : units of each recurrent layer; or a list with those of each layer
    num_layers : recurrent layers
    dropout, input_dropout : probability of a zero behind each recurrent layer, and before the first, in training
    variational : one mask for all steps of a window (Gal & Ghahramani 2016) instead of a fresh one at each step
    embedding_size : numbers for each symbol at the input; as hidden_size if None
    level : "character", "word" or "byte": what a symbol is
    min_count : words that are rarer in the training part become ``<unk>``; 2 if None
    max_vocabulary : at most so many words, the most frequent, ``<unk>`` among them; optional
    tied : the softmax has the embedding's weight (Press & Wolf 2017, Inan et al. 2017); embedding_size and hidden_size must be the same
    label_smoothing : 0..1, part of the target's probability that is spread over all symbols, in training only (`train_loss` has it,
        held-out losses and scores do not)
    splitting : how a text is split into words: "unicode" (also None), at Unicode's word boundaries, which needs the package regex
        (``pip install 'fastrnn[data]'``); "simple", into runs of letters and digits, for texts without combining marks. It is saved with the
        model; a model saved without it is read as "simple", which it was
    dtype : "float32" or "float64"
    seed : int, optional. The same seed gives the same training run, bit for bit, on any number of threads.

    Attributes
    ----------
    history : list of dicts, one for each look at the validation loss (`epoch`, `update`, `lr`, `train_loss`, `validation_loss`)
    outcome : how the last `fit` ended: "finished", "stopped early", "interrupted" (by Ctrl-C) or "diverged"; None before
    message : what there is to say about that, or None
    speed : symbols/s of the last `fit`, forward, backward and update
    pretrained_words : how many words of the vocabulary got their vector from ``fit(pretrained=…)`` last time; None before

    Examples
    --------
    >>> text = "the quick brown fox jumps over the lazy dog. " * 40
    >>> model = LanguageModel("gru", hidden_size=32, seed=0)
    >>> model = model.fit(text, epochs=25, batch_size=8, seq_len=20, lr=0.02, verbose=False)
    >>> model.generate("the quick ", length=9, temperature=0)
    'brown fox'
    >>> model.perplexity(text) < 2
    True
    >>> words = LanguageModel("gru", 32, level="word", tied=True, seed=0)
    >>> words = words.fit(text.strip(), epochs=25, batch_size=8, seq_len=10, lr=0.02, verbose=False)
    >>> words.generate("the quick", length=3, temperature=0)
    ' brown fox jumps'
    """

    LAYERS = ("embedding", "rnn", "linear")
    ARGUMENTS = ("cell", "hidden_size", "num_layers", "dropout", "embedding_size", *_USUAL)
    vocabulary = pretrained_words = None

    def __init__(
        self,
        cell: str = "lstm",
        hidden_size: int | Sequence[int] = 128,
        num_layers: int = 1,
        *,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        variational: bool = False,
        embedding_size: int | None = None,
        level: str = "character",
        min_count: int | None = None,
        max_vocabulary: int | None = None,
        tied: bool = False,
        label_smoothing: float = 0.0,
        splitting: str | None = None,
        dtype="float32",
        seed: int | None = None,
    ):
        self.cell = _check.choice("cell", cell, tuple(CELLS))
        self.num_layers = _check.size("num_layers", num_layers)
        self.hidden_size = check_stacked.layer_sizes(hidden_size, self.num_layers)
        self.dropout = _check.probability("dropout", dropout)
        self.input_dropout = _check.probability("input_dropout", input_dropout)
        self.variational = bool(variational)
        self.embedding_size = None if embedding_size is None else _check.size("embedding_size", embedding_size)
        self.level = _check.choice("level", level, tuple(LEVELS))
        self.min_count = None if min_count is None else _check.size("min_count", min_count)
        self.max_vocabulary = None if max_vocabulary is None else _check.size("max_vocabulary", max_vocabulary, least=2)
        self.splitting = splitting
        for name in ("min_count", "max_vocabulary", "splitting"):
            if level != "word" and getattr(self, name) is not None:
                raise ValueError(f"{name}={getattr(self, name)} is for words, but level is {level!r}")
        if level == "word":
            self.splitting = check_rule(splitting or "unicode")
        self.tied = bool(tied)
        if self.tied and self._embedding_size != self._top_size:
            raise ValueError(
                f"tied=True needs embedding_size and hidden_size to be the same, but they are {self._embedding_size} and {self._top_size}"
            )
        self.label_smoothing = _check.number("label_smoothing", label_smoothing, least=0, most=1)
        self.dtype = _check.dtype(dtype)
        self.seed = _check.seed(seed)
        self.history = []
        self._logits = {}

    @property
    def _top_size(self):
        return self.hidden_size if isinstance(self.hidden_size, int) else self.hidden_size[-1]

    @property
    def _embedding_size(self):
        first = self.hidden_size if isinstance(self.hidden_size, int) else self.hidden_size[0]
        return self.embedding_size or first

    def __repr__(self):
        shown = {
            name: v
            for name, v in self._configuration().items()
            if name not in ("cell", "dtype") and _USUAL.get(name, ...) != v
        }
        options = "".join(f", {name}={value!r}" for name, value in shown.items())
        state = (
            "not fitted"
            if self.vocabulary is None
            else f"{len(self.vocabulary)} symbols, {self.num_parameters} parameters"
        )
        return f"<LanguageModel({self.cell!r}{options}, dtype='{self.dtype}'): {state}>"

    def _build(self, vocabulary, seed):
        """Make the layers, with first values drawn from `seed`, in one storage."""
        V, E, H = len(vocabulary), self._embedding_size, self._top_size
        seeds = [random_key(seed, layer) for layer in range(3)]
        self.vocabulary = vocabulary
        self.storage = Storage(self.dtype, self._budget)
        make = dict(dtype=self.dtype, storage=self.storage)
        self.embedding = Embedding(V, E, seed=seeds[0], **make)
        self.rnn = recurrent(
            self.cell,
            E,
            self.hidden_size,
            self.num_layers,
            dropout=self.dropout,
            variational=self.variational,
            seed=seeds[1],
            **make,
        )
        self.linear = Linear(H, V, weight=self.embedding.slots["weight"] if self.tied else None, seed=seeds[2], **make)
        self.output_dropout = Dropout(self.dropout, variational=self.variational) if self.dropout else None
        self._dropped_input = Dropout(self.input_dropout, variational=self.variational)
        remember_at_first(self.rnn, seeds[1])
        if self.tied:  # as small as a softmax wants it
            with self.storage.updating() as flat:
                self.embedding.slots["weight"].view(flat)[...] /= math.sqrt(E)
        self._logits = {}

    def fit(
        self, text: str | bytes | os.PathLike, *, epochs: int = 20, batch_size: int = 50, seq_len: int = 50, bptt: int | None = None,
        validation: float = 0.1, held_out: str = "end", pretrained: Mapping | str | os.PathLike | None = None, verbose: bool = True,
        **settings,
    ) -> LanguageModel:  # fmt: skip
        """Learn from a text, anew.

        The text is cut into `batch_size` streams that are read side by side, `seq_len` symbols per update; the state is carried on
        from one update to the next, the gradient is not (truncated BPTT). Ctrl-C ends the training; what was best so far is kept.

        Parameters
        ----------
        text : the text (str), or a UTF-8 file (pathlib.Path); at the byte level also bytes, an array of uint8, and any file,
            which is mapped into memory
        epochs : times through the text
        batch_size, seq_len : rows and steps of an update
        bptt : steps that the gradient goes back through, seq_len if None; see ``fastrnn.batches.Streams``
        validation : this fraction of the text is held out; the parameters that are best on it are kept, which may be the first ones. A
            warning names the symbols that only this part has: words count as ``<unk>``, characters as wrong answers. 0: the last
            parameters are kept
        held_out : "end": the end of the text; "streams": the end of every stream, as char-rnn does
        pretrained : word vectors to start from, ``{word: vector}`` or a text file of GloVe or word2vec, of embedding_size numbers; for
            words, see ``fastrnn.models.vectors``. Words without one are drawn as always; all are trained on. See `pretrained_words`
        verbose : show progress on stderr
        The others: those of ``fastrnn.settings.Settings`` (optimizer, lr, schedule, patience, checkpoint, resume, …); as default
            optimizer="adam", lr=2e-3, clip_norm=5., loss_limit=3.

        Returns
        -------
        self

        Raises
        ------
        ValueError  the text is empty, not UTF-8, too short or the name of a file; an argument is out of its range; the checkpoint is
            damaged or of another training. Nothing has been changed or written then.

        Warns
        -----
        RuntimeWarning  if the loss rose above `loss_limit` times its first value or was NaN, or at Ctrl-C. See `outcome` and `message`.
        """
        settings = Settings(epochs=epochs, **{**DEFAULTS, "loss_limit": 3.0, "progress": verbose, **settings})
        required, options = self._parts(text, (batch_size, seq_len, bptt), validation, held_out, pretrained, settings)
        self._train(*required, **options)
        self._logits = {}
        return self

    def _parts(self, text, sizes, validation, held_out, pretrained, settings):
        """How to build the layers, the batches of the text, the settings, and options of `_train`; sizes are those of Streams."""
        _check.probability("validation", validation)
        _check.choice("held_out", held_out, ("end", "streams"))
        if pretrained is not None and self.level != "word":
            raise ValueError(f"pretrained vectors are for words, but level is {self.level!r}")
        text = LEVELS[self.level].read(text)
        if self.splitting == "simple" and first_cut(text) is not None:
            raise ValueError(
                f"the word {first_cut(text)!r} has combining marks, which splitting='simple' cuts off: give 'unicode'"
            )
        symbols = split_words(text, self.splitting) if self.level == "word" else text
        vocabulary, batches, held, warn = text_batches(symbols, self._vocabulary_of, sizes, validation, held_out)
        vectors = read_vectors(pretrained, vocabulary.symbols, self._embedding_size) if pretrained is not None else {}
        seed = self._drawn_seed(settings)
        warn()

        def identity(data):
            return {
                "text": digest(text),
                **dict(zip(("batch_size", "seq_len", "bptt"), sizes)),
                "validation": validation,
                "held_out": held_out,
                "pretrained": hashlib.sha256(b"".join(map(bytes, vectors.values()))).hexdigest()[:12]
                if vectors
                else None,
            }

        def build():
            self._build(vocabulary, seed)
            self.pretrained_words = len(vectors) if vectors else None
            with self.storage.updating() as flat:
                for place, vector in vectors.items():
                    self.embedding.slots["weight"].view(flat)[place] = vector

        return (build, batches, settings), dict(seed=seed, validation=held, identity=identity, unit=f"{self.level}s")

    def _vocabulary_of(self, symbols, training):
        """The vocabulary: of characters all that occur, of words those of the training part."""
        if self.level == "byte":
            return Bytes()
        if self.level == "character":
            return Vocabulary.of(symbols)
        return Words.of(training, self.min_count or 2, self.max_vocabulary, self.splitting)

    def loss_and_gradient(self, batch, state=None, *, into, rng: int):
        """Mean NLL of a window and the state to go on with; the gradient is added to `into`, laid out as ``storage.flat``.

        Parameters
        ----------
        batch : a ``fastrnn.batches.Window``
        state : of the rnn, as the window before left it; zeros if None
        into : 1-D
        rng : key of the dropout masks
        """
        ids, targets, skip, carry = batch
        if skip:
            _, state = self.rnn(ids[:skip], state, embedding=self.embedding)
            ids, carry = ids[skip:], carry - skip
        early = carry < len(ids)  # the next window begins before this one ends
        (y, *states), rnn_backward = self._rnn_vjp(ids, state, rng, early)
        state = self._state_after(carry, state, states[1]) if early else states[0]
        if self.output_dropout is not None:
            y, dropout_backward = self.output_dropout.vjp(y, rng=random_key(rng, 1), out=y)
        logits, linear_backward = self.linear.vjp(y, out=self._logits_of(ids.shape))
        loss, loss_backward = softmax_cross_entropy.vjp(
            logits, targets, label_smoothing=self.label_smoothing, out=logits
        )
        dy = linear_backward(loss_backward(), into=into).x
        if self.output_dropout is not None:
            dropout_backward(dy, out=dy)
        rnn_backward(dy, into)
        return loss, state

    def check_state(self, state, batches) -> None:
        """Raise a ValueError or TypeError if a state that a checkpoint carries is not one of the rnn for the rows of these Streams."""
        check = check_stacked.member_states if hasattr(self.rnn, "layers") else _check.state
        check(self.rnn, "state", state, batches.rows, False)

    def _rnn_vjp(self, ids, state, rng, return_states):
        """The rnn's vjp over the embedded ids, with dropout between them; backward takes dy and `into`."""
        options = dict(rng=rng, return_states=return_states)
        if self.input_dropout == 0:
            outcome, rnn_backward = self.rnn.vjp(ids, state, embedding=self.embedding, **options)
        else:
            x, embedding_backward = self.embedding.vjp(ids)
            x, dropout_backward = self._dropped_input.vjp(x, rng=random_key(rng, 2), out=x)
            outcome, rnn_backward = self.rnn.vjp(x, state, **options)

        def backward(dy, into):
            dx = rnn_backward(dy, into=into).x
            rnn_backward.release()
            if self.input_dropout:
                embedding_backward(dropout_backward(dx, out=dx).x, into=into)

        return outcome, backward

    @staticmethod
    def _state_after(steps, before, states):
        """The state after so many steps, of the `states` of all of them."""
        return before if steps == 0 else _at(states, steps - 1)

    def _logits_of(self, shape):
        """An array for the logits of (T, B) steps, used again at each update."""
        if shape not in self._logits:
            self._logits[shape] = np.empty((*shape, len(self.vocabulary)), self.dtype)
        return self._logits[shape]

    def evaluate(self, batches) -> dict:
        """{"loss": mean NLL over all steps} of some Streams, the state carried from window to window.

        A negative id is a symbol that is not known: it enters as a vector of zeros and does not count in the mean.
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

    def score(self, text: str | bytes | os.PathLike) -> float:
        """Log-likelihood of a text, in nats per symbol (higher is better, at most 0).

        The first symbol is given; each other one is predicted from all before it. A word that the model does not know counts as
        ``<unk>``: its log-likelihood is that of meeting some unknown word. A character that it does not know has none: the mean is over
        the others. A warning names what is not known.

        Raises
        ------
        ValueError  the text has fewer than 2 symbols, or none that this model knows behind the first.
        """
        self._check_fitted()
        text = self.vocabulary.read(text)
        ids = self.vocabulary.encode_other(text, "the text")
        if len(ids) < 2:
            raise ValueError(f"the text has {len(ids)} symbol, but a score needs at least 2")
        if ids[1:].max() < 0:
            raise ValueError(
                "this model knows none of the symbols of the text behind its first: there is nothing to score"
            )
        return -self.evaluate(Streams(ids, 1, min(1000, len(ids) - 1)))["loss"]

    def perplexity(self, text: str | bytes | os.PathLike) -> float:
        """exp of the mean NLL: how many equally likely symbols the model is choosing between."""
        return math.exp(-self.score(text))

    def generate(
        self,
        prompt: str | bytes = "",
        length: int = 300,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> str:
        """Write `length` symbols (characters, words or bytes) that go on from the prompt (which is not repeated).

        Parameters
        ----------
        prompt : what stands before; "" begins after a line break if the model knows it, else after a symbol drawn at random. At the word
            level it should not end in a blank, which belongs to the next word; at the byte level it may be bytes
        length : number of symbols
        temperature : below 1 bolder guesses are rarer; 0 always takes the most likely symbol
        top_k, top_p : draw from the k most likely symbols only; from the fewest that have probability top_p together
        seed : int, optional: the same seed writes the same text

        Raises
        ------
        ValueError  the prompt has characters that this model does not know, or an argument is out of its range.
        """
        return "".join(self.generate_iter(prompt, length, temperature, top_k, top_p, seed))

    def generate_iter(
        self,
        prompt: str | bytes = "",
        length: int = 300,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> Iterator[str]:
        """As `generate`, but each symbol comes as soon as it is written: a character when its last byte is."""
        self._check_fitted()
        length = _check.size("length", length, least=0)
        draw = Sampler(temperature, top_k, top_p, seed)
        if not prompt:
            line_break = self.vocabulary.find("\n")
            ids = np.array(
                [line_break if line_break is not None else draw(self._allowed(np.zeros(len(self.vocabulary))))]
            )
        else:
            ids = self.vocabulary.encode(prompt, "the prompt")
        return self.vocabulary.pieces(self._write(ids, length, draw), before=ids)

    def _write(self, ids, length, draw):
        """The ids that follow, as they are drawn."""
        rows = self.embedding.params["weight"]
        stream = self.rnn.stream()
        h = stream.run(rows[ids][:, None])[-1]
        logits = np.empty((1, len(self.vocabulary)), self.dtype)
        for i in range(length):
            symbol = draw(self._allowed(self.linear(h, out=logits)[0]))
            yield symbol
            if i + 1 < length:
                h = stream.step(rows[symbol : symbol + 1], out=h)

    def _allowed(self, logits):
        """Logits (V,), of which the unknown word's becomes minus infinity."""
        if self.vocabulary.unknown is not None:
            logits[self.vocabulary.unknown] = -np.inf
        return logits

    def _fitted_config(self):
        return {"symbols": self.vocabulary.symbols}

    @classmethod
    def _arguments_in(cls, config):
        older = (
            {"splitting": "simple"} if config.get("level") == "word" else {}
        )  # a model that was saved without it had only this
        return older | super()._arguments_in(config)

    def _rebuild(self, config, arrays):
        symbols = config["symbols"]
        self._build(
            {"byte": Bytes, "character": lambda: Vocabulary(symbols), "word": lambda: Words(symbols, self.splitting)}[
                self.level
            ](),
            0,
        )


def _at(states, t):
    """The state at step t, of the states (n, T, B, H) of all steps, or a tuple of such."""
    return (
        np.ascontiguousarray(states[:, t]) if isinstance(states, np.ndarray) else tuple(_at(part, t) for part in states)
    )

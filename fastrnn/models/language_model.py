"""A language model of characters, words or bytes: training on text, scores and generation."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from fastrnn import _check
from fastrnn._check import stacked as check_stacked
from fastrnn.batches import Streams
from fastrnn.data._splitting import check_rule, first_cut
from fastrnn.models.characters import digest
from fastrnn.models.model import CELLS, Examples, Model, Setup
from fastrnn.models.text import LEVELS, Bytes, Vocabulary, Words, split_words
from fastrnn.models.text_generator import TextGenerator
from fastrnn.models.text_parts import text_batches
from fastrnn.models.vectors import read_vectors

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from fastrnn.settings import TrainingOptions

# Defaults that the repr does not show
_USUAL = {
    "input_dropout": 0.0, "variational": False, "level": "character", "min_count": None, "max_vocabulary": None,
    "tied": False, "label_smoothing": 0.0, "splitting": None,
}  # fmt: skip


class LanguageModel(TextGenerator):
    """Predict the next character, word or byte of a text, given all before it.

    At the word level a text is split by ``fastrnn.models.text.split_words``: a word includes the blank before it, and
    punctuation marks and line breaks are words too. Words that occur less than `min_count` times in the training part
    are learnt as the single word ``<unk>``, and so are unknown words in a prompt or in a text to score. ``<unk>`` is
    never generated. At the byte level a text is its UTF-8 encoding, and no symbol is unknown.

    Parameters
    ----------
    cell : {"lstm", "gru", "rnn"}, default="lstm"
        Kind of recurrent layer; "rnn" has the tanh activation.
    hidden_size : int or sequence of int, default=128
        Units of each recurrent layer, or a list with the units of each layer.
    num_layers : int, default=1
        Number of recurrent layers.
    dropout : float, default=0.0
        Dropout probability after each recurrent layer (training only), 0 <= dropout < 1.
    input_dropout : float, default=0.0
        Dropout probability after the embedding (training only), 0 <= input_dropout < 1.
    variational : bool, default=False
        Use one dropout mask for all steps of a window (Gal & Ghahramani 2016) instead of a new one at each step.
    embedding_size : int, optional
        Size of the embedding; by default the units of the first layer.
    level : {"character", "word", "byte"}, default="character"
        What a symbol is.
    min_count : int, optional
        Words that occur less often in the training part become ``<unk>``; by default 2. Only at the word level.
    max_vocabulary : int, optional
        Upper limit of the number of words, ``<unk>`` included; the most frequent ones are kept. Only at the word level.
    tied : bool, default=False
        Share the weight of the embedding with the softmax (Press & Wolf 2017, Inan et al. 2017). `embedding_size` and
        `hidden_size` must be equal.
    label_smoothing : float, default=0.0
        Fraction of each target's probability that is spread over all symbols, 0 to 1. Training only: `train_loss`
        includes it, held-out losses and scores do not.
    splitting : {"unicode", "simple"}, optional
        How a text is split into words: "unicode" (the default), at Unicode's word boundaries, which needs the package
        regex (``pip install 'fastrnn[data]'``); or "simple", into runs of letters and digits, for texts without
        combining marks. It is saved with the model. Models saved by versions without it are read as "simple".
    dtype : {"float32", "float64"}, default="float32"
        What the network computes in.
    seed : int, optional
        Seed of the initial parameters and of dropout. The same seed gives the same training run, bit for bit, on any
        number of threads. By default a random one is drawn.

    Attributes
    ----------
    history : list of dict
        An entry for each evaluation: `epoch`, `update`, `lr`, `train_loss` and, with a held-out part,
        `validation_loss`.
    outcome : str or None
        How training ended: "finished", "stopped early", "interrupted" (by Ctrl-C) or "diverged"; None before `fit`.
    message : str or None
        Details of the outcome, if there are any.
    speed : float or None
        Symbols per second in the last training: forward pass, backward pass and update.
    pretrained_words : int or None
        Number of words that got their initial vector from ``fit(pretrained=...)``.

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

    ARGUMENTS = ("cell", "hidden_size", "num_layers", "dropout", "embedding_size", *_USUAL)
    TRAINING = Model.TRAINING | {"loss_limit": 3.0}
    pretrained_words: int | None = None

    def __init__(
        self,
        cell: Literal["lstm", "gru", "rnn"] = "lstm",
        hidden_size: int | Sequence[int] = 128,
        num_layers: int = 1,
        *,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        variational: bool = False,
        embedding_size: int | None = None,
        level: Literal["character", "word", "byte"] = "character",
        min_count: int | None = None,
        max_vocabulary: int | None = None,
        tied: bool = False,
        label_smoothing: float = 0.0,
        splitting: str | None = None,
        dtype: str = "float32",
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
        self.UNIT = f"{self.level}s"
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
                "tied=True needs embedding_size and hidden_size to be the same, but they are "
                f"{self._embedding_size} and {self._top_size}"
            )
        self.label_smoothing = _check.number("label_smoothing", label_smoothing, least=0, most=1)
        self.dtype = _check.dtype(dtype)
        self.seed = _check.seed(seed)
        self.history = []
        self._logits = {}

    def __repr__(self):
        arguments = self._configuration()
        shown = {name: value for name, value in arguments.items() if _USUAL.get(name, ...) != value}
        options = "".join(f", {name}={v!r}" for name, v in shown.items() if name not in ("cell", "dtype"))
        state = "not fitted"
        if self.vocabulary is not None:
            state = f"{len(self.vocabulary)} symbols, {self.num_parameters} parameters"
        return f"<LanguageModel({self.cell!r}{options}, dtype='{self.dtype}'): {state}>"

    def fit(
        self,
        text: str | bytes | os.PathLike,
        *,
        epochs: int = 20,
        batch_size: int = 50,
        seq_len: int = 50,
        bptt: int | None = None,
        validation: float = 0.1,
        held_out: Literal["end", "streams"] = "end",
        pretrained: Mapping | str | os.PathLike | None = None,
        verbose: bool = True,
        **settings: Unpack[TrainingOptions],
    ) -> LanguageModel:
        """Train a new network on a text.

        The text is cut into `batch_size` streams that are read in parallel, `seq_len` symbols in each update. The state
        is carried from one update to the next, the gradient is not (truncated BPTT). Ctrl-C ends training and keeps the
        best parameters so far.

        Parameters
        ----------
        text : str or PathLike, at the byte level also bytes or a uint8 array
            The text itself (str), or a UTF-8 file (PathLike). At the byte level it may be any file, which is
            memory-mapped.
        epochs : int, default=20
            Number of passes over the training part.
        batch_size : int, default=50
            Number of streams.
        seq_len : int, default=50
            Steps of each stream in an update.
        bptt : int, optional
            Steps that the gradient goes back; by default `seq_len`. See ``fastrnn.batches.Streams``.
        validation : float, default=0.1
            Fraction of the text to hold out. The parameters with the lowest validation loss are kept, which may be the
            initial ones; with 0, the last ones. A warning names symbols that only this part has: words count as
            ``<unk>``, characters as wrong answers.
        held_out : {"end", "streams"}, default="end"
            Which part to hold out: the end of the text, or the end of every stream, as char-rnn does.
        pretrained : dict of str to array_like, or str or PathLike, optional
            Initial word vectors of size `embedding_size`: a mapping, or the name of a text file of GloVe or word2vec.
            See ``fastrnn.models.vectors``. The other words are initialised at random, and all are trained. Only at the
            word level.
        verbose : bool, default=True
            Show the progress on stderr.
        **settings
            Other fields of ``fastrnn.settings.Settings``: `optimizer`, `lr`, `schedule`, `patience`, `checkpoint`,
            `resume` and so on. The defaults are optimizer="adam", lr=2e-3, clip_norm=5.0 and loss_limit=3.0.

        Returns
        -------
        LanguageModel
            This model, fitted.

        Raises
        ------
        ValueError
            If the text is empty, not UTF-8, too short or the name of a file, if an argument is out of its range, or if
            the checkpoint is damaged or belongs to another training. The model and the checkpoint directory are
            unchanged then.

        Warns
        -----
        RuntimeWarning
            If training diverged or was interrupted; see `outcome` and `message`.
        """
        settings = self._settings(epochs, verbose, settings)
        _check.probability("validation", validation)
        _check.choice("held_out", held_out, ("end", "streams"))
        if pretrained is not None and self.level != "word":
            raise ValueError(f"pretrained vectors are for words, but level is {self.level!r}")
        sizes = dict(batch_size=batch_size, seq_len=seq_len, bptt=bptt)
        parts = dict(validation=validation, held_out=held_out)
        self._fit((text,), None, settings, sizes=sizes, parts=parts, pretrained=pretrained)
        self._logits = {}
        return self

    def _read(self, text):
        text = LEVELS[self.level].read(text)
        if self.splitting == "simple" and first_cut(text) is not None:
            raise ValueError(
                f"the word {first_cut(text)!r} has combining marks, which splitting='simple' cuts off: give 'unicode'"
            )
        symbols = split_words(text, self.splitting) if self.level == "word" else text
        return Examples((symbols,), {"text": text})

    def _split(self, data, validation, seed):
        """The whole text: `_prepare` holds out a part of it."""
        return data, None

    def _prepare(self, data, held, seed, settings, *, sizes: dict, parts: dict, pretrained):
        [symbols], text = data.columns, data.common["text"]
        streams = tuple(sizes.values())
        vocabulary, training, held_out, warn = text_batches(symbols, self._vocabulary_of, streams, **parts)
        vectors = read_vectors(pretrained, vocabulary.symbols, self._embedding_size) if pretrained is not None else {}
        warn()

        def identity(training):
            hashed = hashlib.sha256(b"".join(map(bytes, vectors.values()))).hexdigest()[:12] if vectors else None
            return {"text": digest(text), **sizes, **parts, "pretrained": hashed}

        def build():
            self._build(vocabulary, seed)
            self.pretrained_words = len(vectors) if vectors else None
            with self.storage.updating() as flat:
                for place, vector in vectors.items():
                    self.embedding.slots["weight"].view(flat)[place] = vector

        return Setup(build, lambda: (training, held_out), identity)

    def _vocabulary_of(self, symbols, training):
        """The vocabulary: all characters that occur, or the words of the training part."""
        if self.level == "byte":
            return Bytes()
        if self.level == "character":
            return Vocabulary.of(symbols)
        return Words.of(training, self.min_count or 2, self.max_vocabulary, self.splitting)

    def score(self, text: str | bytes | os.PathLike) -> float:
        """Compute the mean log-likelihood of the symbols of a text.

        The first symbol is given; each other one is predicted from all before it. An unknown word counts as ``<unk>``:
        its log-likelihood is that of meeting any unknown word. An unknown character has no log-likelihood; the mean is
        over the others. A warning names what is unknown.

        Parameters
        ----------
        text : str or PathLike, at the byte level also bytes or a uint8 array
            The text, as in `fit`.

        Returns
        -------
        float
            Nats per symbol, at most 0; higher is better.

        Raises
        ------
        ValueError
            If the text has fewer than 2 symbols, or none that the model knows after the first.
        """
        self._check_fitted()
        text = self.vocabulary.read(text)
        ids = self.vocabulary.encode_other(text, "the text")
        if len(ids) < 2:
            raise ValueError(f"the text has {len(ids)} symbol, but a score needs at least 2")
        if ids[1:].max() < 0:
            raise ValueError(
                "this model knows none of the symbols of the text after the first: there is nothing to score"
            )
        return -self.evaluate(Streams(ids, 1, min(1000, len(ids) - 1)))["loss"]

    def perplexity(self, text: str | bytes | os.PathLike) -> float:
        """Compute the perplexity of a text: the exponential of its mean negative log-likelihood.

        Parameters
        ----------
        text : str or PathLike, at the byte level also bytes or a uint8 array
            The text, as in `fit`.

        Returns
        -------
        float
            Perplexity, at least 1; lower is better. That of a uniform choice among k symbols is k.
        """
        return math.exp(-self.score(text))

    def _fitted_config(self):
        return {"symbols": self.vocabulary.symbols}

    @classmethod
    def _arguments_in(cls, config):
        older = (
            {"splitting": "simple"} if config.get("level") == "word" else {}
        )  # the only rule that older versions had
        return older | super()._arguments_in(config)

    def _rebuild(self, config, arrays):
        if self.level == "byte":
            vocabulary = Bytes()
        elif self.level == "character":
            vocabulary = Vocabulary(config["symbols"])
        else:
            vocabulary = Words(config["symbols"], self.splitting)
        self._build(vocabulary, 0)

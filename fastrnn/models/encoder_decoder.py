"""A sequence to another one: an encoder, and a decoder that is given what the encoder made of the source."""

from __future__ import annotations

import numpy as np

from fastrnn import _check
from fastrnn._check import pairs as check_pairs
from fastrnn.layers.feedforward import Embedding, random_key
from fastrnn.models.decoding import Code, Decoding
from fastrnn.models.model import CELLS, remember_at_first
from fastrnn.models.pooled import last
from fastrnn.models.symbols import Symbols

ATTENTIONS = ("additive", "dot", "general")


class EncoderDecoder(Decoding):
    """Learns to turn one sequence of symbols into another: translation, spelling into sounds (Cho et al. 2014, Sutskever et al. 2014).

    The source is read by an encoder; its vector is the final states of the encoder's top layer, of both directions side by side.

    Parameters
    ----------
    cell : "lstm", "gru" or "rnn" (tanh), of the encoder
    hidden_size, num_layers : units of each layer and direction of the encoder, and its layers
    decoder_cell, decoder_size, decoder_layers : those of the decoder; as the encoder's if None
    bidirectional : whether the encoder reads the source backwards too
    context : where the source's vector enters the decoder: "initial", as its initial state; "every", at every step as an extra bias;
        "both". As initial state it goes through a layer ``tanh(W v + b)`` to the states of all layers of the decoder; if the encoder has
        one direction and the decoder is of the same cell, size and number of layers, it takes the encoder's final states as they are.
        None, only with attention: the decoder starts from zeros
    attention : how each step looks at the encoder's outputs: "additive" (Bahdanau et al. 2015), "dot" or "general" (Luong et al. 2015), or
        None; "dot" needs decoder_size to be the encoder's output size, which is twice hidden_size if bidirectional
    attention_size : units of additive attention, decoder_size if None
    input_feeding : with attention, the decoder's input is also what it gave at the step before (Luong et al. 2015)
    source_embedding, target_embedding : numbers of a symbol's vector
    min_count : symbols that are rarer in the training data become ``<unk>``. Source symbols that the model does not know are always
        ``<unk>``; a target symbol that it does not know is, if training had rare ones; see `fit` and `score`
    tied : the softmax has the target embedding's weight (Press & Wolf 2017); target_embedding and decoder_size must be the same
    dropout : probability of a zero between layers, in the encoder's outputs and vector and in the decoder's output, in training
    dtype : "float32" or "float64"
    seed : int, optional. The same seed gives the same training run, bit for bit, on any number of threads.

    Attributes
    ----------
    vocabulary, source_vocabulary : `Symbols` of the targets and of the sources, once fitted
    history, outcome, message : as in LanguageModel
    speed : target symbols/s of the last `fit`

    Notes
    -----
    `fit`, `predict` and the others take X, N sources, each a list or tuple of at least one symbol (non-empty str), or a str, which is the
    sequence of its characters.

    Examples
    --------
    >>> import itertools
    >>> words = ["".join(word) for word in itertools.product("abc", repeat=3)]
    >>> model = EncoderDecoder("gru", 32, source_embedding=8, target_embedding=8, seed=0)
    >>> model = model.fit(words, [word[::-1].upper() for word in words], epochs=30, batch_size=9, lr=0.01, verbose=False)
    >>> model.predict(["abc", "cab"], beam=3)
    ['CBA', 'BAC']
    >>> model.attention_maps(["abc"], ["CBA"])[0].argmax(1)[:3]
    array([2, 1, 0])
    """

    ARGUMENTS = (
        "cell", "hidden_size", "num_layers", "decoder_cell", "decoder_size", "decoder_layers", "bidirectional", "context",
        "attention", "attention_size", "input_feeding", "source_embedding", "target_embedding", "min_count", "tied", "dropout",
    )  # fmt: skip

    def __init__(
        self,
        cell: str = "gru",
        hidden_size: int = 256,
        num_layers: int = 1,
        *,
        decoder_cell: str | None = None,
        decoder_size: int | None = None,
        decoder_layers: int | None = None,
        bidirectional: bool = True,
        context: str | None = "initial",
        attention: str | None = "additive",
        attention_size: int | None = None,
        input_feeding: bool = True,
        source_embedding: int = 256,
        target_embedding: int = 256,
        min_count: int = 1,
        tied: bool = False,
        dropout: float = 0.0,
        dtype="float32",
        seed: int | None = None,
    ):
        self.cell = _check.choice("cell", cell, tuple(CELLS))
        for name in ("hidden_size", "num_layers", "source_embedding", "target_embedding", "min_count"):
            setattr(self, name, _check.size(name, locals()[name]))
        self.decoder_cell = (
            decoder_cell if decoder_cell is None else _check.choice("decoder_cell", decoder_cell, tuple(CELLS))
        )
        self.decoder_size = decoder_size if decoder_size is None else _check.size("decoder_size", decoder_size)
        self.decoder_layers = (
            decoder_layers if decoder_layers is None else _check.size("decoder_layers", decoder_layers)
        )
        self.bidirectional, self.tied = bool(bidirectional), bool(tied)
        self.context = _check.choice("context", context, ("initial", "every", "both", None))
        self.attention = _check.choice("attention", attention, (*ATTENTIONS, None))
        self.attention_size = (
            attention_size if attention_size is None else _check.size("attention_size", attention_size)
        )
        self.input_feeding = bool(input_feeding) and attention is not None
        check_pairs.attention(self, self._decoder[1])
        self.dropout = _check.probability("dropout", dropout)
        check_pairs.tied(self.tied, "target_embedding", target_embedding, "decoder_size", self._decoder[1])
        self.dtype = _check.dtype(dtype)
        self.seed = _check.seed(seed)
        self.history = []

    @property
    def _decoder(self):
        """Cell, size and number of layers of the decoder, and numbers of a symbol's vector."""
        size, layers = self.decoder_size or self.hidden_size, self.decoder_layers or self.num_layers
        return self.decoder_cell or self.cell, size, layers, self.target_embedding

    @property
    def source_vocabulary(self) -> Symbols:
        self._check_fitted()
        return self._known

    def _checked(self, X, width, max_length):
        X = check_pairs.sequences("X", X, empty=False)
        check_pairs.not_longer("sources", X, max_length)
        return X

    def _known_of(self, X):
        return Symbols.of(X, self.min_count)

    def _sources(self, X, known):
        return [known.encode(sequence) for sequence in X]

    def _build_source(self, known, seed):
        make = dict(dtype=self.dtype, storage=self.storage)
        seeds = [random_key(seed, 3), random_key(seed, 4)]
        self.source_table = Embedding(len(known), self.source_embedding, seed=seeds[0], **make)
        dropout = self.dropout if self.num_layers > 1 else 0.0
        options = dict(bidirectional=self.bidirectional, dropout=dropout, seed=seeds[1], **make)
        self.encoder = CELLS[self.cell](self.source_embedding, self.hidden_size, self.num_layers, **options)
        fits = not self.bidirectional and self._decoder[:3] == (self.cell, self.hidden_size, self.num_layers)
        size = self.encoder.output_size
        return ("source_table", "encoder"), size, size, fits

    def _build(self, known, vocabulary, seed):
        super()._build(known, vocabulary, seed)
        with self.storage.updating() as flat:
            self.source_table.slots["weight"].view(flat)[...] *= 0.1
        remember_at_first(self.encoder, random_key(seed, 4))

    def _coded(self, source):
        y, state = self.encoder(source.x, lengths=source.lengths, embedding=self.source_table)
        return Code(last(self.encoder, y, state, source.lengths)[0], state, y, source.lengths)

    def _coded_vjp(self, source, rng):
        (y, state), encoder_backward = self.encoder.vjp(
            source.x, lengths=source.lengths, embedding=self.source_table, rng=rng
        )
        vector, last_backward = last(self.encoder, y, state, source.lengths)
        dropped = self._dropout is not None
        if dropped:
            vector, vector_dropout = self._dropout.vjp(vector, rng=random_key(rng, 1))
            y, y_dropout = self._dropout.vjp(y, rng=random_key(rng, 2), out=y)

        def backward(dcode, into):
            dvector, dy, dstate = dcode.vector, dcode.memory, dcode.state
            if dropped:
                dvector = None if dvector is None else vector_dropout(dvector).x
                dy = None if dy is None else y_dropout(dy, out=dy).x
            if dvector is not None:
                dstate = _sum(dstate, last_backward(dvector)["dstate_n"])
            encoder_backward(dy, dstate, need_x=False, into=into)
            encoder_backward.release()

        return Code(vector, state, y, source.lengths), backward

    def attention_maps(self, X, y=None) -> list:
        """Where each step of each target looks: N arrays (T_i + 1, S_i), rows that sum to 1; the last row is the step of ``</s>``.

        Parameters
        ----------
        X, y : as in `fit`; without y the targets are those of ``predict(X)``

        Raises
        ------
        RuntimeError  the model has not been fitted.
        ValueError    the model has no attention.
        """
        if self.attention is None:
            raise ValueError("this EncoderDecoder was made with attention=None: it has no attention to show")
        if y is None:
            y = [self.vocabulary.decode(best[0].ids) for best in self._found(X, None)]
        batches = self._batches(X, y)
        found = [None] * len(batches.targets)
        for batch in batches:
            given, _ = self._entries(self._coded(batch.source))
            options = dict(lengths=batch.lengths, embedding=self.target_table, return_attention=True)
            alpha = self.decoder(batch.inputs, **given, **options)[2]
            for b, row in enumerate(batch.rows):
                found[row] = np.array(alpha[: batch.lengths[b], b, : batch.source.lengths[b]])
        return found

    def _fitted_config(self):
        return {**super()._fitted_config(), "source_symbols": self._known.symbols}

    def _known_in(self, config, arrays):
        return Symbols(config["source_symbols"])


def _sum(one, other):
    """Of two states, the first of which may be None."""
    if one is None:
        return other
    return tuple(np.add(a, b) for a, b in zip(one, other)) if isinstance(other, tuple) else one + other

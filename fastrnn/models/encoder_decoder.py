"""A sequence to another one: an encoder reads the source, and a decoder writes the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from fastrnn import _check, _engine
from fastrnn._check import pairs as check_pairs
from fastrnn.layers.feedforward import Embedding, random_key
from fastrnn.layers.rnn import GRU, LSTM, RNN
from fastrnn.models.decoder_network import Code
from fastrnn.models.decoding import Decoding
from fastrnn.models.model import CELLS, init_forget_bias
from fastrnn.models.pooled import last
from fastrnn.models.symbols import Symbols

ATTENTIONS = ("additive", "dot", "general")


class EncoderDecoder(Decoding):
    """Turn one sequence of symbols into another, as in translation (Cho et al. 2014, Sutskever et al. 2014).

    An encoder reads the source. The source's vector is the final states of the encoder's top layer, those of both
    directions side by side.

    Parameters
    ----------
    cell : {"gru", "lstm", "rnn"}, default="gru"
        Kind of recurrent layer of the encoder; "rnn" has the tanh activation.
    hidden_size : int, default=256
        Units of each layer and direction of the encoder.
    num_layers : int, default=1
        Number of layers of the encoder.
    decoder_cell : {"gru", "lstm", "rnn"}, optional
        Kind of recurrent layer of the decoder; by default `cell`.
    decoder_size : int, optional
        Units of each layer of the decoder; by default `hidden_size`.
    decoder_layers : int, optional
        Number of layers of the decoder; by default `num_layers`.
    bidirectional : bool, default=True
        Whether the encoder reads the source in both directions.
    context : {"initial", "every", "both", None}, default="initial"
        Where the source's vector enters the decoder: as its initial state, at every step as an additional bias, or
        both. As initial state it passes through a layer ``tanh(W v + b)`` to the states of all layers of the decoder;
        if the encoder has one direction and the decoder has the same cell, size and number of layers, the encoder's
        final states are used unchanged. With None, which needs attention, the decoder starts from zeros.
    attention : {"additive", "dot", "general", None}, default="additive"
        How each step attends to the encoder's outputs: "additive" (Bahdanau et al. 2015), "dot" or "general" (Luong et
        al. 2015). "dot" needs a `decoder_size` equal to the size of the encoder's outputs, which is twice `hidden_size`
        if it is bidirectional.
    attention_size : int, optional
        Units of additive attention; by default `decoder_size`.
    input_feeding : bool, default=True
        With attention, the decoder also reads its own output of the step before (Luong et al. 2015).
    source_embedding : int, default=256
        Size of the embedding of source symbols.
    target_embedding : int, default=256
        Size of the embedding of target symbols.
    min_count : int, default=1
        Symbols that occur less often in the training data become ``<unk>``. Unknown source symbols are always
        ``<unk>``; unknown target symbols are if training had rare ones, see `fit` and `score`.
    tied : bool, default=False
        Share the weight of the target embedding with the softmax (Press & Wolf 2017). `target_embedding` and
        `decoder_size` must be equal.
    dropout : float, default=0.0
        Dropout probability between layers, in the encoder's outputs and vector, and in the decoder's output (training
        only), 0 <= dropout < 1.
    dtype : {"float32", "float64"}, default="float32"
        What the network computes in.
    seed : int, optional
        Seed of the initial parameters, the order of the batches and dropout. The same seed gives the same training run,
        bit for bit, on any number of threads. By default a random one is drawn.

    Attributes
    ----------
    vocabulary : Symbols
        The target symbols.
    history : list of dict
        An entry for each evaluation: `epoch`, `update`, `lr`, `train_loss` and, with validation data,
        `validation_loss`.
    outcome : str or None
        How training ended: "finished", "stopped early", "interrupted" (by Ctrl-C) or "diverged"; None before `fit`.
    message : str or None
        Details of the outcome, if there are any.
    speed : float or None
        Target symbols per second in the last training.

    Notes
    -----
    The sources X of `fit`, `predict` and the other methods are N sequences, each a list or tuple of at least one symbol
    (non-empty str), or a str, which is the sequence of its characters.

    Examples
    --------
    >>> import itertools
    >>> words = ["".join(word) for word in itertools.product("abc", repeat=3)]
    >>> model = EncoderDecoder("gru", 32, source_embedding=8, target_embedding=8, seed=0)
    >>> targets = [word[::-1].upper() for word in words]
    >>> model = model.fit(words, targets, epochs=30, batch_size=9, lr=0.01, verbose=False)
    >>> model.predict(["abc", "cab"], beam=3)
    ['CBA', 'BAC']
    >>> model.attention_maps(["abc"], ["CBA"])[0].argmax(1)[:3]
    array([2, 1, 0])
    """

    source_table: Embedding
    encoder: RNN | GRU | LSTM
    ARGUMENTS = (
        "cell", "hidden_size", "num_layers", "decoder_cell", "decoder_size", "decoder_layers", "bidirectional",
        "context", "attention", "attention_size", "input_feeding", "source_embedding", "target_embedding", "min_count",
        "tied", "dropout",
    )  # fmt: skip

    def __init__(
        self,
        cell: Literal["lstm", "gru", "rnn"] = "gru",
        hidden_size: int = 256,
        num_layers: int = 1,
        *,
        decoder_cell: Literal["lstm", "gru", "rnn"] | None = None,
        decoder_size: int | None = None,
        decoder_layers: int | None = None,
        bidirectional: bool = True,
        context: Literal["initial", "every", "both"] | None = "initial",
        attention: Literal["additive", "dot", "general"] | None = "additive",
        attention_size: int | None = None,
        input_feeding: bool = True,
        source_embedding: int = 256,
        target_embedding: int = 256,
        min_count: int = 1,
        tied: bool = False,
        dropout: float = 0.0,
        dtype: str = "float32",
        seed: int | None = None,
    ):
        self.cell = _check.choice("cell", cell, tuple(CELLS))
        for name in ("hidden_size", "num_layers", "source_embedding", "target_embedding", "min_count"):
            setattr(self, name, _check.size(name, locals()[name]))
        self.decoder_cell = decoder_cell
        if decoder_cell is not None:
            _check.choice("decoder_cell", decoder_cell, tuple(CELLS))
        self.decoder_size = None if decoder_size is None else _check.size("decoder_size", decoder_size)
        self.decoder_layers = None if decoder_layers is None else _check.size("decoder_layers", decoder_layers)
        self.bidirectional, self.tied = bool(bidirectional), bool(tied)
        self.context = _check.choice("context", context, ("initial", "every", "both", None))
        self.attention = _check.choice("attention", attention, (*ATTENTIONS, None))
        self.attention_size = None if attention_size is None else _check.size("attention_size", attention_size)
        self.input_feeding = bool(input_feeding) and attention is not None
        check_pairs.attention(self, self._decoder[1])
        self.dropout = _check.probability("dropout", dropout)
        check_pairs.tied(self.tied, "target_embedding", target_embedding, "decoder_size", self._decoder[1])
        self.dtype = _check.dtype(dtype)
        self.seed = _check.seed(seed)
        self.history = []

    @property
    def _decoder(self):
        """Cell, size and number of layers of the decoder, and the size of its embedding."""
        size, layers = self.decoder_size or self.hidden_size, self.decoder_layers or self.num_layers
        return self.decoder_cell or self.cell, size, layers, self.target_embedding

    @property
    def source_vocabulary(self) -> Symbols:
        """The source symbols."""
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
        init_forget_bias(self.encoder, random_key(seed, 4))

    def _coded(self, source):
        y, state = self.encoder(source.x, lengths=source.lengths, embedding=self.source_table)
        return Code(last(self.encoder, y, state, source.lengths)[0], state, y, source.lengths)

    def _coded_vjp(self, source, rng):
        (y, state), encoder_backward = self.encoder.vjp(
            source.x, lengths=source.lengths, embedding=self.source_table, rng=rng
        )
        vector, last_backward = last(self.encoder, y, state, source.lengths)
        vector, vector_dropout = self._dropout.vjp(vector, rng=random_key(rng, 1))  # a copy: it may be part of `state`
        y, y_dropout = self._dropout.vjp(y, rng=random_key(rng, 2), out=y)

        def backward(dcode, into):
            dy, dstate = dcode.memory, dcode.state
            if dy is not None:
                dy = y_dropout(dy, out=dy).x
            if dcode.vector is not None:
                dvector = vector_dropout(dcode.vector).x
                dstate = _sum(dstate, last_backward(dvector)["dstate_n"])
            encoder_backward(dy, dstate, need_x=False, into=into)
            encoder_backward.release()

        return Code(vector, state, y, source.lengths), backward

    def attention_maps(self, X: Sequence, y: Sequence | None = None) -> list[np.ndarray]:
        """Compute which source symbols each step of each target attends to.

        Parameters
        ----------
        X : list of N sequences of str
            The sources, as in `fit`.
        y : list of N sequences of str, optional
            The targets; by default those of ``predict(X)``.

        Returns
        -------
        list of N arrays (T + 1, S)
            Attention weights: a row for each target symbol, which sums to 1. The last row is the step of ``</s>``.

        Raises
        ------
        RuntimeError
            If the model has not been fitted.
        ValueError
            If the model has no attention.
        """
        if self.attention is None:
            raise ValueError("this EncoderDecoder was made with attention=None: it has no attention to show")
        if y is None:
            y = [self.vocabulary.decode(best[0].ids) for best in self._search(X, None)]
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
    """The sum of two states, the first of which may be None."""
    if one is None:
        return other
    for a, b in zip(one, other) if isinstance(other, tuple) else [(one, other)]:
        _engine.add_rows(a.reshape(-1, a.shape[2]), b.reshape(-1, b.shape[2]))
    return other

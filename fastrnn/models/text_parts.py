"""The training part and the held-out part of a text, as batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fastrnn.batches import Streams
from fastrnn.data import _files
from fastrnn.models import unseen
from fastrnn.models.text import Bytes, Words


def text_batches(symbols, vocabulary_of: Callable, sizes: tuple, validation: float, held_out: str):
    """Divide a text into its training and its held-out part.

    Parameters
    ----------
    symbols : str, Characters, list of str, or uint8 array
        The text, its words or its bytes.
    vocabulary_of : callable
        ``vocabulary_of(all symbols, symbols of the training part)`` returns the vocabulary.
    sizes : tuple
        (batch_size, seq_len, bptt), as in Streams.
    validation, held_out
        As in ``LanguageModel.fit``.

    Returns
    -------
    vocabulary : Vocabulary
        The symbols.
    batches : Streams
        The training part.
    held : Streams or None
        The held-out part.
    warn : callable
        Warns of symbols that only the held-out part has.
    """
    kept = len(symbols) - (round(len(symbols) * validation) if held_out == "end" else 0)
    training, rest = symbols[:kept], symbols[kept:]
    if isinstance(symbols, list) and validation and held_out == "streams":
        # the vocabulary of words is that of the training part
        parts = Streams(np.arange(len(symbols)), *sizes).split(validation)
        training, rest = ([symbols[i] for i in part.order()] for part in parts)
    vocabulary = vocabulary_of(symbols, training)
    ids = vocabulary.encode(symbols)
    batches, held = Streams(ids[:kept], *sizes), None
    if validation and held_out == "end":
        held = _end_streams(ids[kept:], *sizes[:2])
    elif validation:
        batches, held = batches.split(validation)

    def warn():
        if isinstance(vocabulary, Words) and held is not None:
            seen = set(training)
            strange = (word for word in rest if word not in seen)
            unseen.warn(strange, len(rest), "words", unseen.HELD_OUT, "they count as <unk>")
        elif held is not None and not isinstance(vocabulary, Bytes):
            there, count = batches.counts(len(vocabulary)), held.counts(len(vocabulary))
            strange = {vocabulary.symbols[k]: int(count[k]) for k in np.flatnonzero((there == 0) & (count > 0))}
            unseen.warn(strange, int(count.sum()), "symbols", unseen.HELD_OUT)

    return vocabulary, batches, held, warn


def _end_streams(ids, batch_size, seq_len):
    """Batches of the end of a text: as many streams as in training, fewer if it is short."""
    if len(ids) < 2:
        number = _files.counted(len(ids), "symbol")
        raise ValueError(f"the held-out part has {number}, but it needs at least 2: raise validation, or set it to 0")
    rows = max(1, min(batch_size, (len(ids) - 1) // seq_len))
    return Streams(ids, rows, min(seq_len, len(ids) - 1))

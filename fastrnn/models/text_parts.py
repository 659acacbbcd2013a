"""The training part and the held-out part of a text, as batches."""

from __future__ import annotations

import numpy as np

from fastrnn.batches import Streams
from fastrnn.models import unseen
from fastrnn.models.text import Bytes, Words


def text_batches(symbols, vocabulary_of, sizes, validation: float, held_out: str):
    """The vocabulary of a text, the batches of its training part, those of its held-out part or None, and a function to warn with.

    The function names the symbols that only the held-out part has.

    Parameters
    ----------
    symbols : the text, its words or its bytes
    vocabulary_of : ``vocabulary_of(all symbols, symbols of the training part)``
    sizes : batch_size, seq_len and bptt, as of Streams
    validation, held_out : as of ``LanguageModel.fit``
    """
    kept = len(symbols) - (round(len(symbols) * validation) if held_out == "end" else 0)
    training, rest = symbols[:kept], symbols[kept:]
    if (
        isinstance(symbols, list) and validation and held_out == "streams"
    ):  # words, whose vocabulary is that of the training part
        training, rest = (
            [symbols[i] for i in part.order()] for part in Streams(np.arange(len(symbols)), *sizes).split(validation)
        )
    vocabulary = vocabulary_of(symbols, training)
    ids = vocabulary.encode(symbols)
    batches, held = Streams(ids[:kept], *sizes), None
    if validation:
        batches, held = (
            (batches, _at_the_end(ids[kept:], *sizes[:2])) if held_out == "end" else batches.split(validation)
        )

    def warn():
        if isinstance(vocabulary, Words) and held is not None:
            seen = set(training)
            unseen.warn(
                (word for word in rest if word not in seen), len(rest), "words", unseen.HELD_OUT, "they count as <unk>"
            )
        elif held is not None and not isinstance(vocabulary, Bytes):
            there, count = batches.counts(len(vocabulary)), held.counts(len(vocabulary))
            strange = {vocabulary.symbols[k]: int(count[k]) for k in np.flatnonzero((there == 0) & (count > 0))}
            unseen.warn(strange, int(count.sum()), "symbols", unseen.HELD_OUT)

    return vocabulary, batches, held, warn


def _at_the_end(ids, batch_size, seq_len):
    """Batches of the held-out part: as many streams as in training, fewer if it is short."""
    if len(ids) < 2:
        raise ValueError(
            f"the held-out part has {len(ids)} symbols, but it needs at least 2: raise validation, or set it to 0"
        )
    rows = max(1, min(batch_size, (len(ids) - 1) // seq_len))
    return Streams(ids, rows, min(seq_len, len(ids) - 1))

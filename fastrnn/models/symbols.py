"""Vocabularies of symbols: the words of a sentence, the letters or the sounds of a word."""

from __future__ import annotations

import collections

import numpy as np

from fastrnn.data._files import counted, say
from fastrnn.models import unseen

END, UNKNOWN, START = "</s>", "<unk>", "<s>"


class Symbols:
    """The vocabulary of the sources or of the targets.

    Of sources: ``<unk>``, then the symbols. A symbol that the model does not know is ``<unk>``; if training had none
    below min_count, the vector of ``<unk>`` keeps its initial value. Of targets: ``</s>``, which ends each sequence,
    then ``<unk>`` if training had symbols below min_count, then the symbols. Without ``<unk>``, a symbol that the model
    does not know is `unseen.UNSEEN`.

    Parameters
    ----------
    symbols : list of str
        The symbols in the order of their ids: ``</s>`` and ``<unk>`` first, then by falling frequency.

    Examples
    --------
    >>> vocabulary = Symbols.of(["banana", "bandana"], min_count=2, ends=True)
    >>> vocabulary.symbols
    ['</s>', '<unk>', 'a', 'n', 'b']
    >>> vocabulary.encode("dab"), vocabulary.decode([2, 3, 1])
    (array([1, 2, 4], dtype=int32), ['a', 'n', '<unk>'])
    """

    end = 0  # of targets

    def __init__(self, symbols: list[str]):
        self.symbols = symbols
        self._id_of = {symbol: i for i, symbol in enumerate(symbols)}
        self._unknown = self._id_of.get(UNKNOWN)

    @classmethod
    def of(cls, sequences, min_count: int = 1, ends: bool = False) -> Symbols:
        """The vocabulary of symbols that occur at least `min_count` times; `ends` for targets."""
        count = collections.Counter(symbol for sequence in sequences for symbol in sequence)
        rare = count.pop(UNKNOWN, 0) > 0 or any(n < min_count for n in count.values())
        known = sorted(
            (symbol for symbol, n in count.items() if n >= min_count), key=lambda symbol: (-count[symbol], symbol)
        )
        below = sum(n < min_count for n in count.values())
        if below:
            lost = counted(sum(n for n in count.values() if n < min_count), "time")
            side = "targets" if ends else "sources"
            say(f"{side}: {counted(below, 'symbol')} rarer than min_count={min_count} read as {UNKNOWN}, {lost}")
        return cls([END] * ends + [UNKNOWN] * (rare or not ends) + known)

    def __repr__(self):
        return f"<{len(self):,} symbols>"

    def __len__(self):
        return len(self.symbols)

    @property
    def start(self) -> int:
        """The id of ``<s>``, the input of the first step: one more than all ids that can be predicted."""
        return len(self.symbols)

    def encode(self, sequence) -> np.ndarray:
        """The ids of a sequence, int32, without ``</s>``."""
        other = unseen.UNSEEN if self._unknown is None else self._unknown
        return np.array([self._id_of.get(symbol, other) for symbol in sequence], np.int32)

    def encode_targets(self, sequences, where: str) -> list[np.ndarray]:
        """The ids of each target. One warning names unknown symbols; `where` is its name for the data."""
        strange = [symbol for sequence in sequences for symbol in sequence if symbol not in self._id_of]
        effect = f"they count as {UNKNOWN}"
        if self._unknown is None:
            effect = (
                f"without {UNKNOWN}, which training with min_count > 1 learns from rare symbols, they have no loss and "
                "can only be predicted wrong"
            )
        unseen.warn(strange, sum(map(len, sequences)), "symbols", where, effect)
        return [self.encode(sequence) for sequence in sequences]

    def decode(self, ids) -> list[str]:
        """The symbols of some ids."""
        return [self.symbols[i] for i in ids]

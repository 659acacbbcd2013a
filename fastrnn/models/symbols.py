"""Vocabularies of sequences of symbols: words of a sentence, letters of a word, sounds."""

from __future__ import annotations

import collections

import numpy as np

from fastrnn.data._files import counted, say
from fastrnn.models import unseen

END, UNKNOWN, START = "</s>", "<unk>", "<s>"


class Symbols:
    """The symbols of one side of pairs, by id.

    Of sources: ``<unk>``, then the symbols. A symbol that the model does not know is ``<unk>``, whether training had such symbols or not
    (if it had none, the vector of ``<unk>`` is as it was drawn). Of targets: ``</s>``, which ends each sequence, then ``<unk>`` only if
    training had symbols below min_count, then the symbols; without ``<unk>`` a symbol that the model does not know is `unseen.UNSEEN`.

    symbols : list of str, the most frequent first, behind those of the vocabulary itself
    start : the id that stands before a target, ``<s>``: one more than all ids that can be predicted

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
        """The symbols that occur at least `min_count` times; `ends`: of targets."""
        count = collections.Counter(symbol for sequence in sequences for symbol in sequence)
        rare = count.pop(UNKNOWN, 0) > 0 or any(n < min_count for n in count.values())
        known = sorted(
            (symbol for symbol, n in count.items() if n >= min_count), key=lambda symbol: (-count[symbol], symbol)
        )
        below = sum(n < min_count for n in count.values())
        if below:
            lost = counted(sum(n for n in count.values() if n < min_count), "time")
            say(
                f"{'targets' if ends else 'sources'}: {counted(below, 'symbol')} rarer than min_count={min_count} read as {UNKNOWN}, {lost}"
            )
        return cls([END] * ends + [UNKNOWN] * (rare or not ends) + known)

    def __repr__(self):
        return f"<{len(self):,} symbols>"

    def __len__(self):
        return len(self.symbols)

    @property
    def start(self) -> int:
        return len(self.symbols)

    def encode(self, sequence) -> np.ndarray:
        """Ids, int32, without the end."""
        other = unseen.UNSEEN if self._unknown is None else self._unknown
        return np.array([self._id_of.get(symbol, other) for symbol in sequence], np.int32)

    def encode_targets(self, sequences, where: str) -> list[np.ndarray]:
        """The ids of each target. One warning names the symbols that are not known; `where` is what the targets are."""
        strange = [symbol for sequence in sequences for symbol in sequence if symbol not in self._id_of]
        effect = f"they count as {UNKNOWN}" if self._unknown is not None else (
            f"without {UNKNOWN}, which training with min_count > 1 learns from rare symbols, they have no loss and can only be predicted wrong"
        )  # fmt: skip
        unseen.warn(strange, sum(map(len, sequences)), "symbols", where, effect)
        return [self.encode(sequence) for sequence in sequences]

    def decode(self, ids) -> list[str]:
        """The symbols of some ids."""
        return [self.symbols[i] for i in ids]

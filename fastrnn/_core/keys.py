"""Keys of random numbers, derived from integers."""

from __future__ import annotations

from collections.abc import Callable

from fastrnn import _engine


class DerivedKey(int):
    """A key that a plan derives again, in each run, from the key of the run: ``derive(source)``."""

    source: int
    derive: Callable[[int], int]

    @classmethod
    def of(cls, source: int, derive: Callable[[int], int] = int) -> DerivedKey:
        """The key ``derive(source)``."""
        made = cls(derive(source))
        made.source, made.derive = source, derive
        return made

    def then(self, function: Callable[[int], int]) -> DerivedKey:
        """The key ``function(self)``."""
        derive = self.derive
        return DerivedKey.of(self.source, lambda source: function(derive(source)))


def random_key(*words: int) -> int:
    """Hash integers to a 64-bit key.

    The same integers give the same key; any other integers give an unrelated one. The dropout masks of a training run
    use ``random_key(seed, update)``, so a resumed run draws the same masks. The mixing function is that of splitmix64
    (Steele, Lea & Flood 2014).

    Parameters
    ----------
    *words : int
        Any number of integers. Their lowest 64 bits count.

    Returns
    -------
    int
        Key, 0 to 2**64 - 1.

    Examples
    --------
    >>> random_key(1, 2) == random_key(1, 2), random_key(1, 2) == random_key(2, 1)
    (True, False)
    """
    if isinstance(words[0], DerivedKey):
        rest = words[1:]
        return words[0].then(lambda key: random_key(key, *rest))
    return _engine.hash_key(words)

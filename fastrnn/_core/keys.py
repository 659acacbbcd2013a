"""Keys of random numbers, derived from integers."""

from __future__ import annotations

_UINT64_MAX = (1 << 64) - 1


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
    key = 0
    for word in words:
        key = (key ^ (word & _UINT64_MAX)) + 0x9E3779B97F4A7C15 & _UINT64_MAX
        key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9 & _UINT64_MAX
        key = (key ^ (key >> 27)) * 0x94D049BB133111EB & _UINT64_MAX
        key ^= key >> 31
    return key

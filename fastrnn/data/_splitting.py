"""How a text is split into words: by Unicode's word boundaries, or by the simple rule that needs no further package."""

from __future__ import annotations

import functools
import re
import sys
import unicodedata

RULES = ("unicode", "simple")
UNKNOWN = "<unk>"

_SIMPLE = re.compile(rf" ?{UNKNOWN}| ?\w+(?:['’]\w+)*| ?[^\w\s]| +(?= )|\s")


@functools.cache
def _unicode():
    try:
        import regex
    except ImportError:
        raise ImportError(
            "Unicode's word boundaries need the package regex: pip install 'fastrnn[data]'. Or split the simple way, "
            "into runs of letters "
            "and digits: splitting='simple' (--splitting simple)"
        ) from None
    return regex.compile(rf"(?w) ?{UNKNOWN}| ?\S(?:\B\S)*| +(?= )|\s", regex.V1)  # w: \B is inside a word of UAX 29


def check_rule(rule: str) -> str:
    """A rule that can be used here.

    Raises
    ------
    ValueError   there is no such rule.
    ImportError  it is "unicode", and regex is not installed.
    """
    if rule not in RULES:
        raise ValueError(f"splitting={rule!r}, but it must be one of {', '.join(map(repr, RULES))}")
    if rule == "unicode":
        _unicode()
    return rule


def split_words(text: str, splitting: str = "unicode") -> list[str]:
    r"""Split a text into words, so that ``"".join(words) == text``.

    A word is what lies between two word boundaries, or one other sign; the blank before it belongs to it. What is left
    are line breaks, tabs and the further blanks of a run of blanks.

    Parameters
    ----------
    splitting : "unicode": Unicode's default word boundaries (UAX 29), which keep combining marks with their letters,
        "3.14" and "don't" whole, and take each Chinese character as a word. "simple": a word is a run of letters and
        digits with apostrophes inside; combining marks are cut off

    Raises
    ------
    ImportError  splitting="unicode", and the package regex is not installed.

    Examples
    --------
    >>> split_words("Well, don't!\n  It's 7.50.")
    ['Well', ',', " don't", '!', '\n', ' ', " It's", ' 7.50', '.']
    >>> split_words("It's 7.50.", splitting="simple")
    ["It's", ' 7', '.', '50', '.']
    """
    return (_unicode() if check_rule(splitting) == "unicode" else _SIMPLE).findall(text)


@functools.cache
def _cut():
    marks = "".join(chr(c) for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c))[0] == "M")
    return re.compile(rf"\w+[{marks}\u200c\u200d]\w*")  # the joiners of Persian and Indian scripts


def first_cut(text: str) -> str | None:
    """The first word of a text from which the simple rule would cut a combining mark or a joiner, or None."""
    if text.isascii():
        return None
    found = _cut().search(text)
    return None if found is None else found[0]

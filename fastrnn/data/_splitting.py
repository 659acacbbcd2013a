"""How a text is split into words: at Unicode's word boundaries, or by a simple rule that needs no other package."""

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
            "splitting at Unicode's word boundaries needs the package regex: pip install 'fastrnn[data]'. Or split "
            "into runs of letters and digits: splitting='simple' (--splitting simple)"
        ) from None
    return regex.compile(rf"(?w) ?{UNKNOWN}| ?\S(?:\B\S)*| +(?= )|\s", regex.V1)  # w: \B is inside a word of UAX 29


def check_rule(rule: str) -> str:
    """Check that a splitting rule exists and can be used here.

    Raises
    ------
    ValueError
        If there is no such rule.
    ImportError
        If it is "unicode", and regex is not installed.
    """
    if rule not in RULES:
        raise ValueError(f"splitting={rule!r}, but it must be one of {', '.join(map(repr, RULES))}")
    if rule == "unicode":
        _unicode()
    return rule


def split_words(text: str, splitting: str = "unicode") -> list[str]:
    r"""Split a text into words, so that ``"".join(words) == text``.

    A word is the text between two word boundaries, or a single other character. A space before a word belongs to it.
    Line breaks, tabs and the other spaces of a run are items of their own.

    Parameters
    ----------
    text : str
        Text to split.
    splitting : {"unicode", "simple"}, default "unicode"
        "unicode" splits at Unicode's default word boundaries (UAX 29): combining marks stay with their letters, "3.14"
        and "don't" stay whole, and each Chinese character is a word. "simple" takes runs of letters and digits, with
        apostrophes inside, as words, and separates combining marks from their letters.

    Returns
    -------
    list of str
        The words.

    Raises
    ------
    ImportError
        If ``splitting="unicode"``, and the package regex is not installed.

    Examples
    --------
    >>> split_words("Well, don't!\n  It's 7.50.")
    ['Well', ',', " don't", '!', '\n', ' ', " It's", ' 7.50', '.']
    >>> split_words("It's 7.50.", splitting="simple")
    ["It's", ' 7', '.', '50', '.']
    """
    return (_unicode() if check_rule(splitting) == "unicode" else _SIMPLE).findall(text)


@functools.cache
def _words_with_marks():
    marks = "".join(chr(c) for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c))[0] == "M")
    return re.compile(rf"\w+[{marks}\u200c\u200d]\w*")  # the last two are the joiners of Persian and Indic scripts


def first_cut(text: str) -> str | None:
    """Find the first word that the simple rule would split at a combining mark or a joiner, or None."""
    if text.isascii():
        return None
    found = _words_with_marks().search(text)
    return None if found is None else found[0]

"""JSON files of fastrnn: limits for reading them, and rules for their values.

A rule checks a value and says what is wrong in one sentence: "hidden_size is '8', but it must be a whole number of at
least 1". The rules of each kind of file are declared once: ``fastrnn/models/schemas.py`` for models,
``fastrnn/training/checkpoint.py`` for checkpoints, ``fastrnn/layers/network.py`` for a Network.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping

MOST_BYTES = 1 << 28  # of a JSON file
MOST_PARTS = 1_000_000  # lists and objects in it: each takes about 200 bytes of memory
MOST_DEPTH = 64  # lists and objects inside each other
MOST_DIGITS = 100  # of a whole number


def read_bytes(path) -> bytes:
    """Read a JSON file.

    Raises
    ------
    ValueError
        It is not a regular file, or larger than any that fastrnn writes.
    OSError
        It cannot be read.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a pipe would block, and a device may have no end
        raise ValueError(f"{path} is damaged: it is not a regular file")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size  # of the open file: another process may have replaced the path
        if size > MOST_BYTES:
            raise ValueError(f"{path} is damaged: it has {size:,} bytes, but at most {MOST_BYTES:,} are read")
        return file.read(size)  # read() without a size would not limit the memory


def parse(raw: bytes):
    """Parse a JSON text.

    Raises
    ------
    ValueError
        It is not JSON, has a duplicate key, or is larger or nested more deeply than any that fastrnn writes.

    Examples
    --------
    >>> parse(b'{"a": [1, 2.5]}')
    {'a': [1, 2.5]}
    >>> parse(b'{"a": 1, "a": 2}')
    Traceback (most recent call last):
        ...
    ValueError: it has the key 'a' twice
    """
    if len(raw) > MOST_BYTES:
        raise ValueError(f"it has {len(raw):,} bytes, but at most {MOST_BYTES:,} are read")
    parts, depth = _nesting(raw)
    if depth > MOST_DEPTH:
        raise ValueError(f"it has lists or objects nested {depth} deep, but at most {MOST_DEPTH} are read")
    if parts > MOST_PARTS:
        raise ValueError(f"it has {parts:,} lists and objects, but at most {MOST_PARTS:,} are read")
    return json.loads(raw.decode("utf-8"), object_pairs_hook=_object, parse_int=_integer)


def _nesting(raw):
    """Count the lists and objects of a JSON text outside strings; returns their number and the depth."""
    import numpy as np

    outside = b"".join(raw.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    brackets = np.frombuffer(re.sub(rb"[^\[\]{}]+", b"", outside), np.uint8)
    opens = (brackets == ord("[")) | (brackets == ord("{"))
    depth = np.cumsum(np.where(opens, 1, -1).astype(np.int32), dtype=np.int32)
    return int(np.count_nonzero(opens)), int(depth.max(initial=0))


def _object(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        seen = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"it has the key {shown(twice)} twice")
    return found


def _integer(digits):
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"it has a whole number of {len(digits):,} digits, but at most {MOST_DIGITS} are read")
    return int(digits)


def shown(value) -> str:
    """Format a value for a message.

    >>> shown("8"), shown(list(range(1000)))
    ("'8'", 'a list of 1,000')
    """
    if isinstance(value, (list, tuple)) and len(value) > 4:
        return f"a list of {len(value):,}"
    if isinstance(value, dict) and value:
        return f"an object with {len(value):,} keys"
    if isinstance(value, str) and len(value) > 40:
        return f"{value[:40]!r}…"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can encode a text: it has no half of a surrogate pair.

    >>> is_unicode("é"), is_unicode("\\ud800")
    (True, False)
    """
    return text.isascii() or not any("\ud800" <= sign <= "\udfff" for sign in text)


@contextlib.contextmanager
def of_file(name) -> Iterator[None]:
    """Prefix the messages of errors that are raised inside with the name of the file."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise ValueError(f"{name}: {message}") from None


class Rule:
    """Rule for a value.

    Parameters
    ----------
    wanted : str
        What a value must be, as the end of a message.
    fits : callable
        Whether a value follows the rule.

    Examples
    --------
    >>> Rule("a text", lambda value: isinstance(value, str)).check(8, "level")
    Traceback (most recent call last):
        ...
    ValueError: level is 8, but it must be a text
    """

    def __init__(self, wanted: str, fits: Callable[[object], bool]):
        self.wanted, self._fits = wanted, fits

    def holds(self, value) -> bool:
        """Whether a value follows the rule."""
        try:
            self.check(value, "")
        except ValueError:
            return False
        return True

    def check(self, value, key: str) -> None:
        """Raise a ValueError that names the key if the value does not follow the rule."""
        if not self._fits(value):
            raise ValueError(f"{key} is {shown(value)}, but it must be {self.wanted}")


class OrNull(Rule):
    """Rule for null, or a value that follows another rule."""

    def __init__(self, rule: Rule):
        super().__init__(f"{rule.wanted}, or null", lambda value: True)
        self._rule = rule

    def check(self, value, key):
        if value is not None:
            self._rule.check(value, key)


class ListOf(Rule):
    """Rule for a list whose elements follow one rule."""

    def __init__(self, rule: Rule, least: int = 0, most: int | None = None):
        size = f" of at least {least}" if least else ""
        size += f"{' and' if least else ' of'} at most {most}" if most is not None else ""
        super().__init__(
            f"a list{size}",
            lambda value: type(value) is list and least <= len(value) and (most is None or len(value) <= most),
        )
        self._rule = rule

    def check(self, value, key):
        super().check(value, key)
        for k, element in enumerate(value):
            self._rule.check(element, f"{key}[{k}]")


class OneOrList(Rule):
    """Rule for a value that follows another rule, or a non-empty list of such values."""

    def __init__(self, rule: Rule):
        super().__init__(f"{rule.wanted}, or a list of such", lambda value: True)
        self._rule, self._list = rule, ListOf(rule, least=1)

    def check(self, value, key):
        (self._list if isinstance(value, list) else self._rule).check(value, key)


class Record(Rule):
    """Rule for an object: a rule for each key. No other key is allowed.

    Parameters
    ----------
    required, optional : dict of str to Rule
        Keys that must and may be there.
    others : tuple of pairs, optional
        (regular expression, Rule) for further keys. The first that matches a key applies.
    """

    def __init__(self, required: Mapping, optional: Mapping | None = None, others: tuple = ()):
        super().__init__("an object", lambda value: type(value) is dict)
        self._required, self._rules, self._others = tuple(required), {**required, **(optional or {})}, others

    def check(self, value, key=""):
        super().check(value, key or "it")
        before = f"{key}." if key else ""
        for name in self._required:
            if name not in value:
                raise ValueError(f"{before}{name} is missing")
        for name, part in value.items():
            rule = self._rules.get(name) or next(
                (other for pattern, other in self._others if re.fullmatch(pattern, name, re.S)), None
            )
            if rule is None:
                raise ValueError(
                    f"{before}{name[:60]} is not a known key: the file is damaged, or was written by a newer fastrnn"
                )
            rule.check(part, f"{before}{name}")


def _is_whole(value):
    return isinstance(value, int) and not isinstance(value, bool)


def whole(least: int | None = 0, most: int = 2**63 - 1) -> Rule:
    """Return the rule for a whole number. 8.0 in JSON is not one."""
    if least is None:
        return Rule("a whole number", lambda value: _is_whole(value) and -most <= value <= most)
    limit = "" if most == 2**63 - 1 else f" and at most {most:,}"
    return Rule(f"a whole number of at least {least}{limit}", lambda value: _is_whole(value) and least <= value <= most)


def number(
    least: float = -math.inf, *, below: float = math.inf, above: float = -math.inf, most: float = math.inf
) -> Rule:
    """Return the rule for a finite number in a range."""
    bounds = ((">=", least), (">", above), ("<=", most), ("<", below))
    bounds = [f"{sign} {bound:g}" for sign, bound in bounds if math.isfinite(bound)]

    def fits(value):
        if not _is_whole(value) and not isinstance(value, float):
            return False
        try:
            return math.isfinite(value) and least <= value <= most and above < value < below
        except OverflowError:  # a whole number beyond float64
            return False

    return Rule(f"a finite number{' ' * bool(bounds)}{' and '.join(bounds)}", fits)


def choice(*values) -> Rule:
    """Return the rule for one of some values."""
    return Rule(
        f"one of {', '.join(map(repr, values))}",
        lambda value: any(type(value) is type(one) and value == one for one in values),
    )


OBJECT = Rule("an object", lambda value: type(value) is dict)
FLAG = Rule("true or false", lambda value: isinstance(value, bool))
TEXT = Rule("a text", lambda value: isinstance(value, str))
NUMBER = number()
FIGURE = Rule("a number, which may be NaN or infinite", lambda value: isinstance(value, float) or _is_whole(value))
ANYTHING = Rule("anything", lambda value: True)
SIZE = whole(1)
FRACTION = number(0, below=1)
TEXTS = Rule("a list of texts", lambda value: type(value) is list and all(type(one) is str for one in value))
CHARACTERS = Rule(
    "a text of at least one character, each once",
    lambda value: type(value) is str and value != "" and len(set(value)) == len(value),
)

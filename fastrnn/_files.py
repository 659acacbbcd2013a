"""What the readers of files share."""

from __future__ import annotations

import math
from pathlib import Path


def lines(path):
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}") from None
    return enumerate(text.split("\n"), 1)


def is_number(text):
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def floats(texts, path, number):
    wrong = [text for text in texts if not is_number(text)]
    if wrong:
        raise ValueError(f"{path}, line {number}: {wrong[0]!r} is not a number")
    return [float(text) for text in texts]


def some(a, b, path, what):
    if not len(a):
        raise ValueError(f"{path} has no {what}")
    return a, b

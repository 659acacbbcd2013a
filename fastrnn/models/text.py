"""Text: where it comes from, the symbols it is made of, and drawing the next one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from fastrnn import _check


def read_text(source: str | os.PathLike) -> str:
    """The text itself, or that of a UTF-8 file.

    Parameters
    ----------
    source : a str is the text; a PathLike names a file

    Raises
    ------
    ValueError  the text or the file is empty, the file is not UTF-8, or the str is the name of a file.
    OSError     the file cannot be read.

    Examples
    --------
    >>> read_text("to be")
    'to be'
    """
    if isinstance(source, str):
        if len(source) < 1024 and "\n" not in source and "\0" not in source and source and os.path.exists(source):
            raise ValueError(f"the text is {source!r}, the name of an existing file: to read that, give pathlib.Path({source!r})")
        text, name = source, "the text"
    elif isinstance(source, os.PathLike):
        name = f"the file {os.fspath(source)}"
        try:
            text = Path(source).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{name} is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}") from None
    else:
        raise TypeError(f"the text is {type(source).__name__!r}, but it must be a str (the text itself) or a pathlib.Path (a file)")
    if not text:
        raise ValueError(f"{name} is empty")
    return text


class Vocabulary:
    """The symbols of a model, in the order of their code points; a symbol's id is its place.

    Examples
    --------
    >>> vocabulary = Vocabulary.of("banana")
    >>> vocabulary.symbols, vocabulary.encode("nab"), vocabulary.decode([0, 2])
    ('abn', array([2, 0, 1], dtype=int32), 'an')
    """

    def __init__(self, symbols: str):
        self.symbols = symbols
        points = _code_points(symbols)
        self._id_of_point = np.full(int(points.max()) + 1, -1, np.int32)
        self._id_of_point[points] = np.arange(len(points))

    @classmethod
    def of(cls, text: str) -> Vocabulary:
        """The vocabulary of a text."""
        return cls("".join(sorted(set(text))))

    def __len__(self):
        return len(self.symbols)

    def encode(self, text: str, name: str = "the text") -> np.ndarray:
        """Ids, int32. A ValueError names the symbols that are not in the vocabulary."""
        points = _code_points(text)
        ids = self._id_of_point[np.minimum(points, len(self._id_of_point) - 1)]
        ids[points >= len(self._id_of_point)] = -1
        if ids.size and ids.min() < 0:
            unknown = "".join(sorted(set(text) - set(self.symbols)))
            shown = ", ".join(repr(symbol) for symbol in unknown[:5]) + (", …" if len(unknown) > 5 else "")
            raise ValueError(f"{name} has {len(unknown)} symbols that this model has not been trained on: {shown}")
        return ids

    def decode(self, ids) -> str:
        """The text of some ids."""
        return "".join(self.symbols[i] for i in ids)


def _code_points(text):
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


class Sampler:
    """Draws a symbol from the logits of the next one.

    Parameters
    ----------
    temperature : logits are divided by it; 0 takes the most likely symbol
    top_k : only the k most likely symbols, optional
    top_p : only the fewest most likely symbols that have together at least this probability, optional
    seed : int, optional

    Examples
    --------
    >>> Sampler(temperature=0)(np.array([0.1, 3.0, 0.2]))
    1
    """

    def __init__(self, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None, seed: int | None = None):
        self._temperature = _check.number("temperature", temperature, least=0)
        self._top_k = None if top_k is None else _check.size("top_k", top_k)
        self._top_p = None if top_p is None else _check.number("top_p", top_p, above=0, most=1)
        self._rng = np.random.default_rng(seed)

    def __call__(self, logits) -> int:
        """An id; logits (V,)."""
        if self._temperature == 0:
            return int(logits.argmax())
        z = logits.astype(np.float64)
        p = np.exp((z - z.max()) / self._temperature)
        if self._top_k is not None or self._top_p is not None:
            order = np.argsort(-p, kind="stable")
            kept = len(p) if self._top_k is None else min(self._top_k, len(p))
            if self._top_p is not None:
                cumulative = p[order].cumsum()
                kept = min(kept, int(np.searchsorted(cumulative, self._top_p * cumulative[-1])) + 1)
            p[order[kept:]] = 0
        cumulative = p.cumsum()
        return int(np.searchsorted(cumulative, self._rng.random() * cumulative[-1], side="right"))

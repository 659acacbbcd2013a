"""Text: how it is read, and the vocabularies of characters, words and bytes."""

from __future__ import annotations

import codecs
import collections
import os
from collections.abc import Iterable, Iterator

import numpy as np

from fastrnn.data import _files
from fastrnn.data._splitting import UNKNOWN, split_words
from fastrnn.models import unseen
from fastrnn.models.characters import PIECE, Characters, code_points, pieces_of


def read_text(source: str | os.PathLike, encoding: str = "utf-8") -> str:
    """Read a text. The line ends CR LF and CR of a file become LF, as in Python's text mode.

    Parameters
    ----------
    source : str or PathLike
        The text itself (str), or a regular file (PathLike).
    encoding : str, default="utf-8"
        Encoding of the file.

    Returns
    -------
    str
        The text.

    Raises
    ------
    ValueError
        If the text or the file is empty, if the file is not in its encoding or not a regular file, or if the str is
        the name of an existing file.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> read_text("to be")
    'to be'
    """
    if isinstance(source, str):
        if len(source) < 1024 and "\n" not in source and "\0" not in source and source and os.path.exists(source):
            raise ValueError(
                f"the text is {source!r}, the name of an existing file: to read that, give pathlib.Path({source!r})"
            )
        text, name = source, "the text"
    elif isinstance(source, os.PathLike):
        name = f"the file {os.fspath(source)}"
        try:
            text = "".join(pieces_of(source, encoding))
        except (UnicodeError, LookupError):
            text = _files.read_text(source, encoding, name)  # raises an error that says where
    else:
        raise TypeError(
            f"the text is {type(source).__name__!r}, but it must be a str (the text itself) or a pathlib.Path (a file)"
        )
    if not text:
        raise ValueError(f"{name} is empty")
    return text


def read_characters(source: str | os.PathLike) -> Characters:
    """Read a text as `read_text` does, into one or two bytes for each character.

    Examples
    --------
    >>> read_characters("to be").symbols
    ' beot'
    """
    if not isinstance(source, os.PathLike):
        text = read_text(source)
        return Characters.of(pieces_of(text), len(text))
    try:
        found = Characters.of(pieces_of(source), os.path.getsize(source))
    except UnicodeDecodeError:
        found = ""
    return found if len(found) else read_text(source)  # raises an error that says what is wrong


def read_bytes(source) -> bytes | np.ndarray:
    r"""Read bytes, a uint8 array, a text as UTF-8, or a file, which is memory-mapped.

    Examples
    --------
    >>> read_bytes("né"), read_bytes(b"n\xe9")
    (b'n\xc3\xa9', b'n\xe9')
    """
    name = "the text"
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
    elif isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 1:
            raise TypeError(
                f"the text is an array of {source.dtype} and shape {source.shape}, but bytes are uint8 of one axis"
            )
        data = source
    elif isinstance(source, os.PathLike):
        name = f"the file {os.fspath(source)}"
        _files.check_file(source, name)
        data = np.memmap(source, np.uint8, "r") if os.path.getsize(source) else b""
    else:
        return read_text(source).encode("utf-8", "surrogatepass")
    if not len(data):
        raise ValueError(f"{name} is empty")
    return data


class Vocabulary:
    """The characters that a model knows, in the order of their code points. The id of a character is its index.

    Parameters
    ----------
    symbols : str
        The characters.

    Attributes
    ----------
    unknown : int or None
        Id of the symbol for all unknown ones, which is never generated; None if there is none.

    Examples
    --------
    >>> vocabulary = Vocabulary.of("banana")
    >>> vocabulary.symbols, vocabulary.encode("nab"), vocabulary.decode([0, 2])
    ('abn', array([2, 0, 1], dtype=int32), 'an')
    """

    unknown = None
    read = staticmethod(read_characters)

    def __init__(self, symbols: str):
        self.symbols = symbols
        points = code_points(symbols)
        self._id_of_point = np.full(int(points.max()) + 1, -1, np.int32)
        self._id_of_point[points] = np.arange(len(points))

    @classmethod
    def of(cls, text: str | Characters) -> Vocabulary:
        """The vocabulary of a text."""
        return cls(text.symbols if isinstance(text, Characters) else "".join(sorted(set(text))))

    def __len__(self):
        return len(self.symbols)

    def encode(self, text: str | Characters, name: str = "the text") -> np.ndarray:
        """The ids of a text, int32, or in the smallest dtype for Characters. Unknown symbols are a ValueError."""
        if isinstance(text, Characters):
            return text.in_order_of(self.encode(text.symbols, name))
        points = code_points(text)
        ids = self._id_of_point[np.minimum(points, len(self._id_of_point) - 1)]
        ids[points >= len(self._id_of_point)] = -1
        if ids.size and ids.min() < 0:
            unknown = "".join(sorted(set(text) - set(self.symbols)))
            shown = ", ".join(repr(symbol) for symbol in unknown[:5]) + (", …" if len(unknown) > 5 else "")
            number = _files.counted(len(unknown), "symbol")
            raise ValueError(f"{name} has {number} that this model has not been trained on: {shown}")
        return ids

    def encode_other(self, text: str | Characters, where: str) -> np.ndarray:
        """The ids of a text; those of unknown symbols are `unseen.UNSEEN`, and one warning names them."""
        text = text if isinstance(text, Characters) else Characters.of([text])
        number = {symbol: k for k, symbol in enumerate(self.symbols)}
        numbers = [number.get(symbol, unseen.UNSEEN) for symbol in text.symbols]
        strange = {
            text.symbols[k]: int(np.count_nonzero(text.ids == k))
            for k, found in enumerate(numbers)
            if found == unseen.UNSEEN
        }
        unseen.warn(
            strange,
            len(text),
            "symbols",
            where,
            "the model has no probability of them, and the mean is over the others",
        )
        return text.in_order_of(np.array(numbers, np.int64))

    def decode(self, ids) -> str:
        """The text of some ids."""
        return "".join(self.pieces(ids))

    def pieces(self, ids: Iterable[int], before=()) -> Iterator[str]:
        """The text of some ids, piece by piece; `before` are the ids of the text before them."""
        return (self.symbols[i] for i in ids)

    def find(self, symbol: str) -> int | None:
        """The id of a symbol, or None if it is not in the vocabulary."""
        return self.symbols.index(symbol) if symbol in self.symbols else None


class Words(Vocabulary):
    """A vocabulary of words. Any other word is ``<unk>``, and so is the word ``<unk>`` itself.

    Parameters
    ----------
    symbols : list of str
        The words, ``<unk>`` first.
    splitting : {"unicode", "simple"}, default="unicode"
        How a text is split, see `split_words`.

    Examples
    --------
    >>> vocabulary = Words.of(split_words("to be or not to be"))
    >>> vocabulary.symbols
    ['<unk>', ' be']
    >>> vocabulary.encode("to be, to be")
    array([0, 1, 0, 0, 1], dtype=int32)
    """

    unknown = 0
    read = staticmethod(read_text)

    def __init__(self, symbols: list[str], splitting: str = "unicode"):
        self.symbols, self.splitting = symbols, splitting
        self._id_of = {symbol: i for i, symbol in enumerate(symbols)}

    @classmethod
    def of(
        cls, words: list[str], min_count: int = 2, max_vocabulary: int | None = None, splitting: str = "unicode"
    ) -> Words:
        """The words that occur at least `min_count` times, the most frequent first; at most `max_vocabulary`."""
        count = collections.Counter()
        for first in range(0, len(words), PIECE):
            count.update(words[first : first + PIECE])
        known = [word for word, n in count.items() if n >= min_count and word.lstrip(" ") != UNKNOWN]
        if not known:
            raise ValueError(
                f"the text has no word that occurs min_count={min_count} times: lower min_count, or give more text"
            )
        known.sort(key=lambda word: (-count[word], word))
        return cls([UNKNOWN, *known][:max_vocabulary], splitting)

    def encode(self, text: str | list[str], name: str = "the text") -> np.ndarray:
        """The ids, int32, of a text or of its words."""
        words = split_words(text, self.splitting) if isinstance(text, str) else text
        ids = self._ids(words)
        unknown = np.count_nonzero(ids == self.unknown)
        if unknown:
            _files.say(f"{name}: {_files.counted(unknown, 'word')} of {len(words):,} read as {UNKNOWN}")
        return ids

    def encode_other(self, text: str, where: str) -> np.ndarray:
        """The ids of a text, int32; one warning names unknown words, which are ``<unk>``."""
        words = split_words(text, self.splitting)
        strange = (word for word in words if word not in self._id_of and word.lstrip(" ") != UNKNOWN)
        unseen.warn(strange, len(words), "words", where, f"they count as {UNKNOWN}")
        return self._ids(words)

    def _ids(self, words):
        return np.fromiter((self._id_of.get(word, self.unknown) for word in words), np.int32, len(words))

    def find(self, symbol: str) -> int | None:
        """The id of a word, or None if it is not in the vocabulary."""
        return self._id_of.get(symbol)


class Bytes(Vocabulary):
    r"""The vocabulary of the 256 bytes. A text is encoded as UTF-8.

    Attributes
    ----------
    symbols : str
        For each byte the character with its number.

    Examples
    --------
    >>> Bytes().encode("né")
    array([110, 195, 169], dtype=uint8)
    >>> list(Bytes().pieces([110, 195, 169, 195]))
    ['n', 'é', '�']
    """

    read = staticmethod(read_bytes)

    def __init__(self):
        self.symbols = "".join(map(chr, range(256)))

    def encode(self, text: str | bytes, name: str = "the text") -> np.ndarray:
        """The ids, uint8, of a text or of bytes; an array is not copied."""
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        return np.frombuffer(data, np.uint8)

    def encode_other(self, text: str | bytes, where: str) -> np.ndarray:
        """The ids of a text. No byte is unknown."""
        return self.encode(text)

    def pieces(self, ids: Iterable[int], before=()) -> Iterator[str]:
        """The text of some bytes, each character as soon as its last byte is there; invalid UTF-8 becomes U+FFFD."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        decoder.decode(bytes(bytearray(before)))
        for i in ids:
            piece = decoder.decode(bytes([i]))
            if piece:
                yield piece
        rest = decoder.decode(b"", final=True)
        if rest:
            yield rest


LEVELS = {"character": Vocabulary, "word": Words, "byte": Bytes}

"""A long text in one or two bytes for each character, read piece by piece."""

from __future__ import annotations

import codecs
import hashlib
import io
import os
from collections.abc import Iterable, Iterator

import numpy as np

from fastrnn.data import _files

PIECE = 1 << 20  # characters or bytes processed at a time; Ctrl-C takes effect between two pieces


class Characters:
    """A text as an array of indices into its distinct characters.

    It takes one byte for each character, two if there are more than 256 distinct ones, four if more than 65,536.

    Parameters
    ----------
    symbols : str
        The distinct characters, in the order of their code points.
    ids : (N,) ndarray of int
        Indices into `symbols`.

    Examples
    --------
    >>> text = Characters.of(["ban", "ana"])
    >>> text.symbols, text.ids, len(text), "".join(text[3:].pieces())
    ('abn', array([1, 0, 2, 0, 2, 0], dtype=uint8), 6, 'ana')
    """

    def __init__(self, symbols: str, ids):
        self.symbols, self.ids = symbols, ids

    @classmethod
    def of(cls, pieces: Iterable[str], room: int = 0) -> Characters:
        """Join the pieces of a text. Memory is allocated for `room` characters, and for more if needed."""
        ids, found, count = _Ids(room), [], 0
        number_of = np.full(0x110000, -1, np.int32)  # in order of first occurrence
        for piece in pieces:
            points = code_points(piece)
            numbers = number_of[points]
            if len(numbers) and numbers.min() < 0:
                new = np.unique(points[numbers < 0])
                number_of[new] = np.arange(count, count + len(new))
                found.append(new)
                count += len(new)
                numbers = number_of[points]
            ids.append(numbers, smallest_dtype(count))
        points = np.concatenate(found) if found else np.empty(0, np.uint32)
        order = np.argsort(points)
        place = np.empty(count, ids.array.dtype)
        place[order] = np.arange(count)
        for part in _slices(ids.length):
            ids.array[part] = place[ids.array[part]]
        return cls(_text(points[order]), ids.array[: ids.length])

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, part: slice) -> Characters:
        return Characters(self.symbols, self.ids[part])

    def pieces(self) -> Iterator[str]:
        """The text, piece by piece."""
        points = code_points(self.symbols)
        return (_text(points[self.ids[part]]) for part in _slices(len(self)))

    def in_order_of(self, number_of) -> np.ndarray:
        """The text in other ids, ``number_of[id]`` for each id. Nothing is copied if they are the same."""
        number_of = np.asarray(number_of)
        if np.array_equal(number_of, np.arange(len(self.symbols))):
            return self.ids
        dtype = smallest_dtype(int(number_of.max(initial=0)) + 1) if number_of.min(initial=0) >= 0 else np.int32
        number_of, found = number_of.astype(dtype), np.empty(len(self), dtype)
        for part in _slices(len(self)):
            found[part] = number_of[self.ids[part]]
        return found


def smallest_dtype(count: int):
    """The smallest dtype for ids below `count`.

    >>> [np.dtype(smallest_dtype(n)).name for n in (256, 257, 65536, 65537)]
    ['uint8', 'uint16', 'uint16', 'int32']
    """
    return np.uint8 if count <= 1 << 8 else np.uint16 if count <= 1 << 16 else np.int32


def pieces_of(source: str | os.PathLike, encoding: str = "utf-8") -> Iterator[str]:
    """Read a text, or a file with its line ends as LF, piece by piece. Ctrl-C takes effect between two pieces.

    Raises
    ------
    ValueError
        If the file is not a regular file.
    UnicodeError
        If it is not in that encoding.
    LookupError
        If there is no such encoding.
    OSError
        If it cannot be read.
    """
    if isinstance(source, str):
        yield from (source[part] for part in _slices(len(source)))
        return
    name = f"the file {os.fspath(source)}"
    _files.check_file(source, name)
    if codecs.lookup(encoding).name == "utf-8":
        encoding = "utf-8-sig"
    ends, newlines = 0, io.IncrementalNewlineDecoder(None, translate=True)
    with open(source, encoding=encoding, newline="") as file:
        while piece := file.read(PIECE):
            ends += piece.count("\r")
            yield newlines.decode(piece)
    yield newlines.decode("", final=True)
    if ends:
        _files.say(f"{name}: {_files.counted(ends, 'line end')} CR LF or CR read as LF")


def digest(text: str | bytes | np.ndarray | Characters) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of a text, as UTF-8, or of bytes."""
    found = hashlib.sha256()
    pieces = text.pieces() if isinstance(text, Characters) else (text[part] for part in _slices(len(text)))
    for piece in pieces:
        found.update(piece.encode("utf-8", "surrogatepass") if isinstance(piece, str) else piece)
    return found.hexdigest()[:12]


def code_points(text: str) -> np.ndarray:
    """The code points of a text, uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _text(points):
    return points.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


def _slices(length):
    return (slice(first, min(first + PIECE, length)) for first in range(0, length, PIECE))


class _Ids:
    """An array that grows in length and in item size. From one byte to two it is widened in place."""

    def __init__(self, room):
        self.length, self._dtype = 0, np.dtype(np.uint8)
        self._allocate(room)

    def append(self, numbers, dtype):
        if self.length + len(numbers) > len(self.array):
            self._allocate(2 * (self.length + len(numbers)))
        if self._dtype != dtype:
            self._widen(np.dtype(dtype))
        self.array[self.length : self.length + len(numbers)] = numbers
        self.length += len(numbers)

    def _allocate(self, room):
        """Allocate memory, which the system provides only when it is written to, and copy the ids there."""
        before = self.array[: self.length] if self.length else ()
        self._buffer = np.empty(room * max(2, self._dtype.itemsize), np.uint8)
        self.array = self._buffer.view(self._dtype)[:room]
        self.array[: self.length] = before

    def _widen(self, dtype):
        narrow, room, self._dtype = self.array, len(self.array), dtype
        if dtype.itemsize > 2:
            self._allocate(room)
            return
        self.array = self._buffer.view(dtype)[:room]
        for part in reversed(list(_slices(self.length))):  # from the end, since both begin at the same address
            self.array[part] = narrow[part].copy()

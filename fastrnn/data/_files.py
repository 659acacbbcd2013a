"""What the readers of files share: opening, decoding, lines, rows, numbers. An error names the file and the line."""

from __future__ import annotations

import codecs
import csv
import errno
import io
import logging
import operator
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import SupportsIndex, TypeVar

FLOAT32_MAX = 3.4028234663852886e38
MISSING = {"", "?", "-", ".", "na", "n/a", "nan", "null", "none"}

PathLike = str | os.PathLike[str]
A = TypeVar("A", bound=Sized)
B = TypeVar("B")

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_NUMBER_CHARACTERS = re.compile(r"[0-9eE+\-. \t]*")  # float() also reads "1_0", "nan" and "infinity": these are refused
_NUMBER_LIKE = re.compile(
    r"[+-]?(?:[$€£]?\s?\.?\d[\d.,'_\u2009\u00a0\u202f ]*(?:e[+-]?\d+)?\s?[%$€£]?|inf|infinity)", re.IGNORECASE
)
_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}
_MAGIC = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_PICKLE = re.compile(rb"\x80[\x02-\x05]")


def say(message: str) -> None:
    """Log what a format or an option leaves out, to the logger "fastrnn" at level INFO; the command prints it."""
    logging.getLogger("fastrnn").info(message)


def counted(number: int, name: str) -> str:
    """Format a number with its noun, which becomes a plural where needed.

    Examples
    --------
    >>> counted(1, "line"), counted(2000, "line"), counted(2, "story")
    ('1 line', '2,000 lines', '2 stories')
    """
    several = name[:-1] + "ies" if name.endswith("ry") else name + "s"
    return f"{number:,} {name if number == 1 else several}"


def shortened(text: str, most: int = 80) -> str:
    """Replace the middle of a text of more than `most` characters by "…".

    Examples
    --------
    >>> shortened("abc"), shortened("0123456789", 7)
    ('abc', '0123…89')
    """
    end = (most - 1) // 3
    return text if len(text) <= most else f"{text[: most - 1 - end]}…{text[len(text) - end :]}"


def quoted(value: object, most: int = 80) -> str:
    """Show a value, mostly a text, in a message; a long one is shortened in the middle."""
    return shortened(repr(value), most)


def listed(names: Iterable[str], most: int = 160) -> str:
    """List names for a message, separated by commas; long names and a long list are shortened in the middle."""
    return shortened(", ".join(map(shortened, names)), most)


def check_file(path: PathLike, name: str | None = None) -> None:
    """Check that a path is a regular file before it is opened: a pipe blocks, and a device may never end.

    Raises
    ------
    OSError
        If the file does not exist, or is a directory.
    ValueError
        If it is a pipe, a device or a socket, or its name is that of a pickle.
    """
    kind = stat.S_IFMT(os.stat(path).st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if kind != stat.S_IFREG:
        raise ValueError(
            f"{name or path} is {_KINDS.get(kind, 'a special file')}, but a regular file is needed: write the data to "
            "one first"
        )
    if os.fspath(path).lower().endswith((".pkl", ".pickle")):
        raise pickle_error(path)


def pickle_error(path: PathLike) -> ValueError:
    """Make the error for a pickle, which fastrnn never reads."""
    return ValueError(
        f"{path} is a Python pickle. Unpickling can run arbitrary code, so fastrnn does not read pickles: if you trust "
        "its source, load it with pickle and save the data in the format that is read here (piano rolls: json.dump)"
    )


def read_bytes(path: PathLike, name: str | None = None) -> bytes:
    """Read the bytes of a regular file."""
    check_file(path, name)
    with open(path, "rb") as file:
        return file.read()


def read_text(path: PathLike, encoding: str = "utf-8", name: str | None = None) -> str:
    """Read the text of a file, with its line ends unchanged and without a UTF-8 byte-order mark.

    Parameters
    ----------
    path : str or path-like
        File to read.
    encoding : str, default "utf-8"
        A name that Python knows.
    name : str, optional
        Name of the file in messages; by default the path.

    Returns
    -------
    str
        The decoded text.

    Raises
    ------
    ValueError
        If there is no such encoding, or the file is not in it; the message names the byte and the line.
    """
    try:
        utf8 = codecs.lookup(encoding).name == "utf-8"
        "".encode(encoding)
    except (LookupError, TypeError):
        raise ValueError(
            f"unknown text encoding {quoted(encoding)}: give a name that Python knows, such as utf-8, utf-16, latin-1 "
            "or cp1252"
        ) from None
    data, name = read_bytes(path, name), name or os.fspath(path)
    skipped = len(codecs.BOM_UTF8) if utf8 and data.startswith(codecs.BOM_UTF8) else 0
    try:
        return data[skipped:].decode(encoding) if skipped else data.decode(encoding)
    except UnicodeError as error:
        start = getattr(error, "start", 0) + skipped
        raise ValueError(_decoding_error(path, name, data, start, "UTF-8" if utf8 else encoding)) from None


def _decoding_error(path: PathLike, name: str, data: bytes, start: int, encoding: str) -> str:
    message = f"{name} is not {encoding}"
    if start < len(data):
        message += f": byte {start} is 0x{data[start]:02x}"
    kind = next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None)
    if _PICKLE.match(data) and data.endswith(b"."):
        return str(pickle_error(path))
    if kind is not None:
        return f"{message}; it is a {kind} archive: unpack it first"
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return f"{message}; it starts with a byte-order mark of UTF-16: give the encoding utf-16"
    line = data.count(b"\n", 0, start) + 1
    return f"{message}, on line {line}: give its encoding, such as latin-1 or cp1252"


def numbered_lines(path: PathLike, encoding: str = "utf-8", inner_cr: bool = False) -> Iterator[tuple[int, str]]:
    """Iterate over the lines of a file and their numbers, from 1.

    Lines come without their ends, LF or CR LF. After a final line end comes one more line, which is empty.

    Parameters
    ----------
    path : str or path-like
        File to read.
    encoding : str, default "utf-8"
        Encoding of the file.
    inner_cr : bool, default False
        Whether to accept a carriage return inside a line.

    Raises
    ------
    ValueError
        As `read_text`, and if a line has a carriage return inside.
    """
    for number, line in enumerate(read_text(path, encoding).split("\n"), 1):
        line = line[:-1] if line.endswith("\r") else line
        if not inner_cr and "\r" in line:
            raise _inner_cr_error(path, number)
        yield number, line


def _inner_cr_error(path: PathLike, number: int) -> ValueError:
    return ValueError(f"{path}, line {number}: there is a carriage return inside it: end lines with LF or CR LF")


def text_lines(path: PathLike, encoding: str = "utf-8") -> list[str]:
    """Read the lines of a file as ``wc -l`` counts them; a carriage return inside a line is a space."""
    found = [line for _, line in numbered_lines(path, encoding, inner_cr=True)]
    found = found[:-1] if found[-1] == "" else found
    inside = sum(line.count("\r") for line in found)
    if inside:
        say(f"{path}: {counted(inside, 'carriage return')} inside lines read as spaces, not as line ends")
    return found


def csv_rows(path: PathLike, separator: str = ",", encoding: str = "utf-8") -> list[tuple[int, list[str]]]:
    """Read the rows of a CSV file strictly, each with the number of its first line; an empty line is the row [].

    Raises
    ------
    ValueError
        If a quote is never closed, or text follows a closed quote; the message names the line.
    """
    first, found, text = 1, [], read_text(path, encoding)
    inner = re.search(r"\r(?!\n)", text)
    if inner is not None:
        raise _inner_cr_error(path, text.count("\n", 0, inner.start()) + 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for row in reader:
            found.append((first, row))
            first = reader.line_num + 1
    except csv.Error as error:
        message = "a quote is opened but never closed" if "unexpected end" in str(error) else str(error)
        raise ValueError(f"{path}, line {first}: {message}") from None
    return found


def without_empty_rows(found: list[tuple[int, list[str]]], path: PathLike) -> list[tuple[int, list[str]]]:
    """Remove the empty rows from what `csv_rows` returned; those between rows are counted and reported.

    Raises
    ------
    ValueError
        If the first row begins with # and has another number of fields than the next one.
    """
    while found and not found[-1][1]:
        found.pop()
    empty = [line for line, row in found if not row]
    full = [(line, row) for line, row in found if row]
    if len(full) > 1 and full[0][1][0].startswith("#") and len(full[0][1]) != len(full[1][1]):
        raise ValueError(
            f"{path}, line {full[0][0]}: {quoted(full[0][1][0])} looks like a comment, but tables with comments are "
            "not read: delete the lines before the header, or before the first row"
        )
    if empty:
        say(f"{path}: {counted(len(empty), 'empty line')} left out, the first is line {empty[0]}")
    return full


def is_number(text: str) -> bool:
    """Whether a text is a number that float32 can hold: ASCII digits, a point, an exponent; not "1_0" or "nan"."""
    text = text.strip(" \t")
    return _NUMBER.fullmatch(text) is not None and abs(float(text)) <= FLOAT32_MAX


def numbers_or_none(texts: Sequence[str]) -> list[float] | None:
    """Convert texts to numbers if `is_number` holds for all of them, else return None. Fast."""
    if _NUMBER_CHARACTERS.fullmatch("".join(texts)) is None:
        return None
    try:
        values = list(map(float, texts))
    except ValueError:
        return None
    return values if not values or max(map(abs, values)) <= FLOAT32_MAX else None


def numbers_of_line(texts: Sequence[str], path: PathLike, number: int) -> list[float]:
    """Convert the fields of a line to numbers.

    Raises
    ------
    ValueError
        If one is missing, is not a number, or is too large for float32; the message names the line.
    """
    values = numbers_or_none(texts)
    if values is None:
        wrong = next(text for text in texts if not is_number(text))
        raise ValueError(f"{path}, line {number}: {not_a_number(wrong)}")
    return values


def not_a_number(text: str) -> str:
    """Say why a text is not a number."""
    bare = text.strip()
    if _NUMBER.fullmatch(bare):
        return f"{shortened(bare)} is beyond 3.4e38, the largest float32 value: scale the data"
    if is_missing(bare):
        return f"{quoted(text)} is a missing value, not a number: fill it in, or remove the line"
    return f"{quoted(text)} is not a number"


def is_missing(text: str) -> bool:
    """Whether a text means a missing value: empty, "?", "NA", …"""
    return text.strip().lower() in MISSING


def is_number_like(text: str) -> bool:
    """Whether a text is a missing value, or a number in some form: "$5", "1,234", "5%", "inf"; so it is not a name."""
    return is_missing(text) or _NUMBER_LIKE.fullmatch(text.strip()) is not None


def check_whole(value: SupportsIndex, name: str) -> int:
    """Check that an argument is a whole number.

    Raises
    ------
    TypeError
        If it has another type; the message names the argument.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}={value!r}, but it must be a whole number")
    return operator.index(value)


def not_empty(a: A, b: B, path: PathLike, what: str) -> tuple[A, B]:
    """Return a and b, or raise ValueError if a is empty."""
    if not len(a):
        raise ValueError(f"{path} has no {what}")
    return a, b

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

FLOAT32_MAX = 3.4028234663852886e38
MISSING = {"", "?", "-", ".", "na", "n/a", "nan", "null", "none"}

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_SIGNS = re.compile(r"[0-9eE+\-. \t]*")  # of numbers that float() reads, but not "1_0", "nan", "infinity"
_MEANT = re.compile(
    r"[+-]?(?:[$€£]?\s?\.?\d[\d.,'_\u2009\u00a0\u202f ]*(?:e[+-]?\d+)?\s?[%$€£]?|inf|infinity)", re.IGNORECASE
)
_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}
_MAGIC = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_PICKLE = re.compile(rb"\x80[\x02-\x05]")


def say(message: str) -> None:
    """Report what a format or an option leaves out: the logger "fastrnn" at level INFO. The command prints it."""
    logging.getLogger("fastrnn").info(message)


def counted(number: int, name: str) -> str:
    """A number and its noun.

    Examples
    --------
    >>> counted(1, "line"), counted(2000, "line"), counted(2, "story")
    ('1 line', '2,000 lines', '2 stories')
    """
    several = name[:-1] + "ies" if name.endswith("ry") else name + "s"
    return f"{number:,} {name if number == 1 else several}"


def check_file(path, name: str | None = None) -> None:
    """Refuse what is not a regular file before it is opened: a pipe blocks, and a device may have no end.

    Raises
    ------
    OSError     there is no such file, or it is a directory.
    ValueError  it is a pipe, a device or a socket, or a pickle by its name.
    """
    kind = stat.S_IFMT(os.stat(path).st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if kind != stat.S_IFREG:
        raise ValueError(
            f"{name or path} is {_KINDS.get(kind, 'no file')}, but a regular file is needed: write the data to one "
            "first"
        )
    if os.fspath(path).lower().endswith((".pkl", ".pickle")):
        raise pickle_refused(path)


def pickle_refused(path) -> ValueError:
    """The error for a pickle, which fastrnn never reads."""
    return ValueError(
        f"{path} is a Python pickle. Reading one can run any code, so fastrnn reads none: load it with pickle, if "
        "you trust its "
        "source, and save the data in the format that is read here (piano rolls: json.dump)"
    )


def read_bytes(path, name: str | None = None) -> bytes:
    """The bytes of a regular file."""
    check_file(path, name)
    with open(path, "rb") as file:
        return file.read()


def read_text(path, encoding: str = "utf-8", name: str | None = None) -> str:
    """The text of a file, line ends as they are in it.

    Parameters
    ----------
    encoding : Python's name of it; a byte-order mark of UTF-8 is left out
    name : of the file in messages; the path if None

    Raises
    ------
    ValueError  the file is not in that encoding; the message names the byte and the line.
    """
    try:
        utf8 = codecs.lookup(encoding).name == "utf-8"
        "".encode(encoding)
    except (LookupError, TypeError):
        raise ValueError(
            f"there is no text encoding {encoding!r}: utf-8, utf-16, latin-1, cp1252, … (Python's names)"
        ) from None
    data, name = read_bytes(path, name), name or path
    skipped = len(codecs.BOM_UTF8) if utf8 and data.startswith(codecs.BOM_UTF8) else 0
    try:
        return data[skipped:].decode(encoding) if skipped else data.decode(encoding)
    except UnicodeError as error:
        start = getattr(error, "start", 0) + skipped
        raise ValueError(_undecodable(path, name, data, start, "UTF-8" if utf8 else encoding)) from None


def _undecodable(path, name, data, start, encoding):
    message = (
        f"{name} is not {encoding}: byte {start} is 0x{data[start]:02x}"
        if start < len(data)
        else f"{name} is not {encoding}"
    )
    kind = next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None)
    if _PICKLE.match(data) and data.endswith(b"."):
        return str(pickle_refused(path))
    if kind is not None:
        return f"{message}; it is a {kind} archive: unpack it first"
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return f"{message}; it begins as UTF-16 does: give the encoding utf-16"
    line = data.count(b"\n", 0, start) + 1
    return f"{message}, in line {line}: give its encoding, such as latin-1 or cp1252"


def lines(path, encoding: str = "utf-8", lone_cr: bool = False):
    """(number, line) of the lines of a file, without their ends, LF or CR LF; "" after a last line end.

    Parameters
    ----------
    lone_cr : whether a line may have a carriage return inside; else it is an error

    Raises
    ------
    ValueError  as `read_text`.
    """
    for number, line in enumerate(read_text(path, encoding).split("\n"), 1):
        line = line[:-1] if line.endswith("\r") else line
        if not lone_cr and "\r" in line:
            raise _lone_return(path, number)
        yield number, line


def _lone_return(path, number):
    return ValueError(f"{path}, line {number}: it has a carriage return inside: end lines with LF or CR LF")


def full_lines(path, encoding: str = "utf-8"):
    """The lines of a file as ``wc -l`` counts them; a carriage return inside a line is a blank."""
    found = [line for _, line in lines(path, encoding, lone_cr=True)]
    found = found[:-1] if found[-1] == "" else found
    inside = sum(line.count("\r") for line in found)
    if inside:
        say(f"{path}: {counted(inside, 'carriage return')} inside lines counted as blanks, not as line ends")
    return found


def rows(path, separator: str = ",", encoding: str = "utf-8"):
    """[(number of its first line, fields)] of the rows of a CSV file, read strictly; an empty line is the row [].

    Raises
    ------
    ValueError  a quote is never closed, or text follows a closed quote; the message names the line.
    """
    first, found, text = 1, [], read_text(path, encoding)
    lone = re.search(r"\r(?!\n)", text)
    if lone is not None:
        raise _lone_return(path, text.count("\n", 0, lone.start()) + 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for row in reader:
            found.append((first, row))
            first = reader.line_num + 1
    except csv.Error as error:
        message = "a quote is opened that is never closed" if "unexpected end" in str(error) else str(error)
        raise ValueError(f"{path}, line {first}: {message}") from None
    return found


def is_number(text: str) -> bool:
    """Whether a text is a finite number: ASCII digits, a point, an exponent; not "1_0", "nan" or "inf"."""
    text = text.strip(" \t")
    return _NUMBER.fullmatch(text) is not None and abs(float(text)) <= FLOAT32_MAX


def plain_numbers(texts) -> list[float] | None:
    """The numbers of some texts, if all are numbers as `is_number` has it; else None. Fast."""
    if _SIGNS.fullmatch("".join(texts)) is None:
        return None
    try:
        values = list(map(float, texts))
    except ValueError:
        return None
    return values if not values or max(map(abs, values)) <= FLOAT32_MAX else None


def floats(texts, path, number: int) -> list[float]:
    """The numbers of a line.

    Raises
    ------
    ValueError  one is missing, is no number, or is too large for float32; the message names the line.
    """
    values = plain_numbers(texts)
    if values is None:
        wrong = next(text for text in texts if not is_number(text))
        raise ValueError(f"{path}, line {number}: {not_a_number(wrong)}")
    return values


def not_a_number(text: str) -> str:
    """What is wrong with a text that is no number."""
    bare = text.strip()
    if _NUMBER.fullmatch(bare):
        return f"{bare} is beyond 3.4e38, the largest number of float32: scale the data"
    if is_missing(bare):
        return f"{text[:40]!r} is not a number but a missing value: fill it in, or leave the line out"
    return f"{text[:40]!r} is not a number"


def is_missing(text: str) -> bool:
    """Whether a text stands for a missing value: empty, "?", "NA", …"""
    return text.strip().lower() in MISSING


def may_be_number(text: str) -> bool:
    """Whether a text is no name but a number in another form, or a missing value: "$5", "1,234", "5%", "inf", "NA"."""
    return is_missing(text) or _MEANT.fullmatch(text.strip()) is not None


def whole(value, name: str) -> int:
    """An argument that must be a whole number.

    Raises
    ------
    TypeError  it is of another type; the message names the argument.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}={value!r}, but it must be a whole number")
    return operator.index(value)


def full_rows(found: list, path) -> list:
    """Rows as `rows` gives them without the empty lines; those between rows are counted and reported.

    Raises
    ------
    ValueError  the first row begins with # and has another number of fields than the next one.
    """
    while found and not found[-1][1]:
        found.pop()
    empty = [line for line, row in found if not row]
    full = [(line, row) for line, row in found if row]
    if len(full) > 1 and full[0][1][0].startswith("#") and len(full[0][1]) != len(full[1][1]):
        raise ValueError(
            f"{path}, line {full[0][0]}: {full[0][1][0][:60]!r} looks like a comment, but comments are not read: "
            "delete the lines before the header, or before the first row"
        )
    if empty:
        say(f"{path}: {counted(len(empty), 'empty line')} left out, the first is line {empty[0]}")
    return full


def some(a, b, path, what):
    """a and b, unless there are none."""
    if not len(a):
        raise ValueError(f"{path} has no {what}")
    return a, b

"""Reader of the .ts files of the UCR/UEA archive."""

from __future__ import annotations

import re
from typing import Literal, overload

import numpy as np

from fastrnn.data._files import PathLike, is_missing, is_number, listed, numbered_lines, numbers_of_line, quoted
from fastrnn.data._labels import Classes, Kind, Labelled, Numbers, Unlabelled, check_labels, labelled

_FLAGS = ("timestamps", "missing", "univariate", "equallength", "classlabel", "targetlabel")
_KEYS = (*_FLAGS, "problemname", "dimensions", "dimension", "serieslength", "data")
_Header = dict[str, tuple[str, list[str], str]]  # key in lower case: first word in lower case, other words, whole line


@overload
def read_ts(path: PathLike, *, labels: Literal["class"] = "class", encoding: str = "utf-8") -> Classes: ...
@overload
def read_ts(path: PathLike, *, labels: Literal["number"], encoding: str = "utf-8") -> Numbers: ...
@overload
def read_ts(path: PathLike, *, labels: None, encoding: str = "utf-8") -> Unlabelled: ...
def read_ts(path: PathLike, *, labels: Kind = "class", encoding: str = "utf-8") -> Labelled:
    """Read time series with a label each from a .ts file of the UCR/UEA archive.

    Each line after the header has the channels and then the label, separated by colons; commas separate the values of a
    channel. What the header says (dimensions, lengths, classes) is checked. In a file without a header every line has a
    label. A header that mentions neither classes nor targets is accepted if it is still clear which field is the label.
    Lines that begin with # or % are comments.

    Parameters
    ----------
    path : str or path-like
        File to read.
    labels : {"class", "number"} or None, default "class"
        Whether the labels are classes or numbers to predict; None if there need not be any. A file with ``@classLabel
        false`` needs None, one with ``@targetLabel true`` needs "number".
    encoding : str, default "utf-8"
        Encoding of the file.

    Returns
    -------
    X : list of ndarray of shape (T_i, channels), float64
        The series.
    y : list of str, ndarray of shape (N,) or None
        The labels: str for ``labels="class"``, float64 for ``labels="number"``, None for ``labels=None``.

    Raises
    ------
    ValueError
        If a line has no label, one that the header does not list, or a channel in its place; if a value is missing or
        not a number; if channels differ in length or number; if the series have time stamps. The message names the
        line.

    Examples
    --------
    >>> with open("two.ts", "w") as file:
    ...     _ = file.write("@problemName Two\\n@data\\n1,2,3:4,5,6:up\\n7,8:9,10:down\\n")
    >>> X, y = read_ts("two.ts")
    >>> [x.shape for x in X], y
    ([(3, 2), (2, 2)], ['up', 'down'])
    """
    check_labels(labels)
    header: _Header = {}
    X, y, first = [], [], None
    for number, line in numbered_lines(path, encoding):
        text, where = line.strip(), f"{path}, line {number}"
        if not text or text[0] in "#%":
            continue
        if text[0] == "@":
            _read_key(header, text, where, labels)
            continue
        if header and "data" not in header:
            raise ValueError(f"{where}: there is no @data before the first series")
        parts = text.split(":")
        label = None if _has_labels(header) is False else parts.pop().strip()
        if not parts or label == "":
            raise ValueError(f"{where}: there is no label, which must come last, after a colon (or @classLabel false)")
        if label is not None:
            _check_label(header, parts, label, where)
        first = first or number
        X.append(_channels(parts, path, number, X, first))
        _check_against_header(header, X[-1], label, where)
        y.append(label if labels != "number" else numbers_of_line([label], path, number)[0])
    return labelled(X, y, labels, path)


def _flag(header: _Header, key: str) -> bool | None:
    """True or False as the header says; None if it does not."""
    return header[key][0] == "true" if key in header else None


def _has_labels(header: _Header) -> bool | None:
    """Whether each line has a label, as the header says; None if it does not."""
    flags = [_flag(header, key) for key in ("classlabel", "targetlabel")]
    return True if True in flags else False if False in flags else None


def _check_label(header: _Header, parts: list[str], label: str, where: str) -> None:
    """Check that the last field is a label and not a channel; `parts` are the channels before it."""
    values = label.split(",")
    named = _flag(header, "classlabel") and label in header["classlabel"][1]
    if not named and len(values) > 1 and all(is_number(value) or is_missing(value) for value in values):
        raise ValueError(
            f"{where}: the last field, {quoted(label)}, must be the label, but it is a channel: put a label last, or "
            "add '@classLabel false' to the header if there are none"
        )
    wanted = 1 if _flag(header, "univariate") else header.get("dimensions") or header.get("dimension")
    certain = _has_labels(header) or not header or wanted or not is_number(label) or "," in "".join(parts)
    if not certain:
        raise ValueError(
            f"{where}: it is not clear whether {quoted(label)} is a label or a channel of one step: add '@classLabel "
            "true …', '@targetLabel true' or '@classLabel false' to the header"
        )


def _read_key(header: _Header, text: str, where: str, labels: str | None) -> None:
    """Add a line of the header to what has been read of it."""
    key, _, rest = text[1:].partition(" ")
    key, words = key.lower(), rest.split()
    if key not in _KEYS:
        raise ValueError(f"{where}: {quoted(text)} is not a line of a .ts header (@{', @'.join(_KEYS)})")
    if "data" in header or key in header:
        problem = "comes after @data" if "data" in header else "is in the header twice"
        raise ValueError(f"{where}: {quoted(text)} {problem}")
    header[key] = (words[0].lower() if words else "", words[1:], text)
    if key in _FLAGS and header[key][0] not in ("true", "false"):
        raise ValueError(f"{where}: {quoted(text)} must say true or false")
    if key in ("dimensions", "dimension", "serieslength") and not re.fullmatch("[0-9]{1,18}", header[key][0]):
        raise ValueError(f"{where}: {quoted(text)} must have a whole number")
    if key == "timestamps" and _flag(header, key):
        raise ValueError(
            f"{where}: {quoted(text)}: series with time stamps are not read: write evenly spaced values without them"
        )
    if key == "data":
        _check_kind(_flag(header, "classlabel"), _flag(header, "targetlabel"), header, where, labels)


def _check_kind(classes: bool | None, numbers: bool | None, header: _Header, where: str, labels: str | None) -> None:
    """Check that the header announces the kind of labels that `labels` asks for."""
    if classes and numbers:
        raise ValueError(f"{where}: the header has both '@classLabel true' and '@targetLabel true'")
    if labels == "class" and numbers:
        raise ValueError(
            f"{where}: {quoted(header['targetlabel'][2])} says that the labels are numbers: read them with "
            "labels='number' (fastrnn train regress)"
        )
    if labels == "number" and classes:
        raise ValueError(
            f"{where}: {quoted(header['classlabel'][2])} says that the labels are classes: read them with "
            "labels='class' (fastrnn train classify)"
        )
    denial = next((header[key][2] for key in ("classlabel", "targetlabel") if _flag(header, key) is False), None)
    if labels is not None and denial is not None and not (classes or numbers):
        raise ValueError(
            f"{where}: {quoted(denial)} says that the series have no labels, but training and evaluation need them"
        )


def _channels(parts: list[str], path: PathLike, number: int, before: list[np.ndarray], first: int) -> np.ndarray:
    """Make an array (T, channels) of the texts of the channels."""
    values = [numbers_of_line(part.split(","), path, number) for part in parts]
    if len({len(channel) for channel in values}) > 1:
        lengths = sorted({len(channel) for channel in values})
        raise ValueError(f"{path}, line {number}: its channels have different lengths, {lengths}")
    if before and len(values) != before[0].shape[1]:
        raise ValueError(
            f"{path}, line {number}: it has {len(values)} channels, but line {first} has {before[0].shape[1]}"
        )
    return np.array(values).T


def _check_against_header(header: _Header, x: np.ndarray, label: str | None, where: str) -> None:
    """Check a series and its label against what the header says of dimensions, lengths and classes."""
    wanted = header.get("dimensions") or header.get("dimension")
    if _flag(header, "univariate") and x.shape[1] != 1:
        raise ValueError(
            f"{where}: it has {x.shape[1]} channels, but the header says {quoted(header['univariate'][2])}"
        )
    if wanted and x.shape[1] != int(wanted[0]):
        raise ValueError(f"{where}: it has {x.shape[1]} channels, but the header says {quoted(wanted[2])}")
    if _flag(header, "equallength") and "serieslength" in header and len(x) != int(header["serieslength"][0]):
        raise ValueError(f"{where}: it has {len(x)} steps, but the header says {quoted(header['serieslength'][2])}")
    names = header["classlabel"][1] if _flag(header, "classlabel") else []
    if names and label not in names:
        raise ValueError(f"{where}: its label {quoted(label)} is not one of those in the header: {listed(names)}")

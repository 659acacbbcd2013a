"""Reader of the .arff files of the UCR/UEA archive."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, overload

from fastrnn.data._files import PathLike, is_number, listed, not_a_number, numbered_lines, quoted
from fastrnn.data._labels import (
    Classes,
    Kind,
    Labelled,
    Numbers,
    Unlabelled,
    check_labels,
    labelled,
    report_padding,
    without_padding,
)

_NAME = r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s'"{]+)"""
_ATTRIBUTE = re.compile(rf"@attribute\s+{_NAME}\s*(.*)", re.IGNORECASE)
_FIELD = re.compile(r"""\s*(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|([^,'"]*?))\s*(,|$)""")
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}


@overload
def read_arff(path: PathLike, *, labels: Literal["class"] = "class", encoding: str = "utf-8") -> Classes: ...
@overload
def read_arff(path: PathLike, *, labels: Literal["number"], encoding: str = "utf-8") -> Numbers: ...
@overload
def read_arff(path: PathLike, *, labels: None, encoding: str = "utf-8") -> Unlabelled: ...
def read_arff(path: PathLike, *, labels: Kind = "class", encoding: str = "utf-8") -> Labelled:
    """Read time series with a label each from an .arff file of the UCR/UEA archive.

    There is one numeric attribute for each step, or a relational attribute with one line for each channel; the last
    attribute is the label. Missing steps at the end of a series are left out; a missing value elsewhere is an error.

    Parameters
    ----------
    path : str or path-like
        File to read.
    labels : {"class", "number"} or None, default "class"
        Whether the labels are classes or numbers to predict; None if they are not used.
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
        If a line of the header is not understood, or a line of data does not agree with the header, has a value that is
        missing or not a number, or a label that is not one of the classes; the message names the line.

    Examples
    --------
    >>> with open("one.arff", "w") as file:
    ...     _ = file.write("@attribute a real\\n@attribute b real\\n@attribute y {up,down}\\n@data\\n1,2,up\\n")
    >>> read_arff("one.arff")
    ([array([[1.],
           [2.]])], ['up'])
    """
    check_labels(labels)
    header, X, y, padded, first = None, [], [], 0, None
    head = []
    for number, line in numbered_lines(path, encoding):
        text, where = line.strip(), f"{path}, line {number}"
        if not text or text[0] == "%":
            continue
        if header is None:
            head.append((where, text))
            header = _read_header(head, labels) if text.lower() == "@data" else None
            continue
        channels, label = _channels_and_label(header, text, where)
        if X and len(channels) != X[0].shape[1]:
            raise ValueError(f"{where}: it has {len(channels)} channels, but line {first} has {X[0].shape[1]}")
        first = first or number
        X.append(without_padding(channels, path, number, {"nan", "?"}))
        padded += header.steps - len(X[-1])
        y.append(_label(label, header, labels, where))
    if header is None:
        raise ValueError(f"{path} has no @data")
    report_padding(path, padded)
    return labelled(X, y, labels, path)


@dataclass(frozen=True)
class _Header:
    """What the header says.

    Attributes
    ----------
    fields : int
        Number of fields of a line.
    relational : bool
        Whether the first field is a relational attribute.
    steps : int
        Number of steps of a series.
    classes : set of str or None
        The labels; None if they are numbers.
    """

    fields: int
    relational: bool
    steps: int
    classes: set[str] | None


def _read_header(head: list[tuple[str, str]], labels: str | None) -> _Header:
    """Read the header from its lines, each with the place that messages name."""
    outer, inner = _attributes(head)
    if len(outer) < 2:
        raise ValueError(
            f"{head[-1][0]}: the header has {len(outer)} attributes, but must have those of the series and then the "
            "label"
        )
    *series, (where, name, kind) = outer
    relational = series[0][2].lower() == "relational"
    if relational and len(series) > 1:
        raise ValueError(f"{series[1][0]}: a relational attribute must be followed by the label only")
    for place, attribute, of in inner if relational else series:
        if of.lower() not in ("numeric", "real", "integer"):
            raise ValueError(
                f"{place}: the attribute {quoted(attribute)} is {quoted(of)}, but the steps of a series must be numeric"
            )
    classes = None
    if kind.startswith("{") and kind.endswith("}"):
        classes = set(_fields(kind[1:-1], where))
    elif labels == "class":
        raise ValueError(
            f"{where}: the last attribute {quoted(name)} is {quoted(kind)}, not a set of classes: numbers need "
            "labels='number' (train regress)"
        )
    if labels == "number" and classes is not None:
        raise ValueError(
            f"{where}: the last attribute {quoted(name)} is a set of classes: they need labels='class' (train classify)"
        )
    return _Header(len(outer), relational, len(inner if relational else series), classes)


def _attributes(head: list[tuple[str, str]]) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """Find the attributes, as (place, name, type), and those inside a relational attribute."""
    outer, inner, nested = [], [], False
    for where, text in head:
        found = _ATTRIBUTE.fullmatch(text)
        if found is None:
            if text.lower().startswith("@end") and nested:
                nested = False
            elif not text.lower().startswith(("@relation", "@data")):
                raise ValueError(f"{where}: {quoted(text)} is not a line of an .arff header")
            continue
        name, kind = found[1].strip("'\""), found[2].strip()
        (inner if nested else outer).append((where, name, kind))
        nested = nested or kind.lower() == "relational"
    return outer, inner


def _channels_and_label(header: _Header, text: str, where: str) -> tuple[list[list[str]], str]:
    """Split a line of data into channels, each a list of texts, and the label."""
    fields = _fields(text, where)
    if len(fields) != header.fields:
        raise ValueError(f"{where}: it has {len(fields)} fields, but the header has {header.fields} attributes")
    *values, label = fields
    channels = [channel.split(",") for channel in re.split(r"\n|\\n", values[0])] if header.relational else [values]
    lengths = sorted({len(channel) for channel in channels})
    if lengths != [header.steps]:
        raise ValueError(
            f"{where}: its channels have {', '.join(map(str, lengths))} steps, but the header has {header.steps}"
        )
    return channels, label


def _fields(text: str, where: str) -> list[str]:
    """Split a line into fields, without quotes and the escapes inside them."""
    found, place = [], 0
    if text.startswith("{"):
        raise ValueError(f"{where}: sparse data are not read")
    while True:
        field = _FIELD.match(text, place)
        if field is None:
            raise ValueError(f"{where}: a quote is not closed, or text follows it")
        quoted_text = field[1] if field[1] is not None else field[2]
        found.append(
            field[3]
            if quoted_text is None
            else _ESCAPE.sub(lambda escape: _ESCAPED.get(escape[1], escape[1]), quoted_text)
        )
        place = field.end()
        if field[4] == "":
            return found


def _label(label: str, header: _Header, labels: str | None, where: str) -> str | float:
    if labels is None:
        return label
    if labels == "number":
        if not is_number(label):
            raise ValueError(f"{where}: {not_a_number(label)}")
        return float(label)
    if label not in header.classes:
        raise ValueError(
            f"{where}: its label {quoted(label)} is not one of those in the header: {listed(sorted(header.classes))}"
        )
    return label

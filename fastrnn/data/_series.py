"""Readers of time series with a label each: any format of the UCR/UEA archive, and .tsv."""

from __future__ import annotations

import os
from typing import Literal, overload

from fastrnn.data._arff import read_arff
from fastrnn.data._files import PathLike, numbered_lines, numbers_of_line, quoted
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
from fastrnn.data._ts import read_ts


@overload
def read_series(path: PathLike, *, labels: Literal["class"] = "class", encoding: str = "utf-8") -> Classes: ...
@overload
def read_series(path: PathLike, *, labels: Literal["number"], encoding: str = "utf-8") -> Numbers: ...
@overload
def read_series(path: PathLike, *, labels: None, encoding: str = "utf-8") -> Unlabelled: ...
def read_series(path: PathLike, *, labels: Kind = "class", encoding: str = "utf-8") -> Labelled:
    """Read time series with a label each, in any format of the UCR/UEA archive.

    Parameters
    ----------
    path : str or path-like
        File to read; the format is .tsv or .arff if its name ends so, else .ts.
    labels : {"class", "number"} or None, default "class"
        Whether the labels are classes or numbers to predict; None if there need not be any.
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
        As `read_ts`, `read_tsv` and `read_arff`.

    Examples
    --------
    >>> with open("two.tsv", "w") as file:
    ...     _ = file.write("up\\t1\\t2\\t3\\ndown\\t9\\t8\\tNaN\\n")
    >>> X, y = read_series("two.tsv")
    >>> [x.shape for x in X], y
    ([(3, 1), (2, 1)], ['up', 'down'])
    """
    ending = os.path.splitext(os.fspath(path))[1].lower()
    return {".tsv": read_tsv, ".arff": read_arff}.get(ending, read_ts)(path, labels=labels, encoding=encoding)


@overload
def read_tsv(path: PathLike, *, labels: Literal["class"] = "class", encoding: str = "utf-8") -> Classes: ...
@overload
def read_tsv(path: PathLike, *, labels: Literal["number"], encoding: str = "utf-8") -> Numbers: ...
@overload
def read_tsv(path: PathLike, *, labels: None, encoding: str = "utf-8") -> Unlabelled: ...
def read_tsv(path: PathLike, *, labels: Kind = "class", encoding: str = "utf-8") -> Labelled:
    """Read time series of one channel with a label each from a .tsv file of the UCR archive.

    Each line has the label and the values, separated by tabs. All lines have the same number of fields; a shorter
    series ends with ``NaN``, which is left out.

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
    X : list of ndarray of shape (T_i, 1), float64
        The series.
    y : list of str, ndarray of shape (N,) or None
        The labels: str for ``labels="class"``, float64 for ``labels="number"``, None for ``labels=None``.

    Raises
    ------
    ValueError
        If a line has no label or no values, lines have different numbers of values, or a value is missing inside a
        series or is not a number; the message names the line.

    Examples
    --------
    >>> with open("numbers.tsv", "w") as file:
    ...     _ = file.write("0.5\\t1\\t2\\n1.5\\t3\\t4\\n")
    >>> read_tsv("numbers.tsv", labels="number")[1]
    array([0.5, 1.5])
    """
    check_labels(labels)
    X, y, width, first, padded = [], [], None, None, 0
    for number, line in numbered_lines(path, encoding):
        if not line.strip():
            continue
        label, *values = line.split("\t")
        where = f"{path}, line {number}"
        if not values or not label.strip():
            raise ValueError(f"{where}: {quoted(line)} must be a label, a tab and values separated by tabs")
        width, first = width or len(values), first or number
        if len(values) != width:
            raise ValueError(f"{where}: it has {len(values)} values, but line {first} has {width}")
        X.append(without_padding([values], path, number, {"nan"}))
        padded += width - len(X[-1])
        y.append(label.strip() if labels != "number" else numbers_of_line([label], path, number)[0])
    report_padding(path, padded)
    return labelled(X, y, labels, path)

"""Reader of tables over time: CSV with names of columns, numbers and dates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastrnn.data._dates import check_steps
from fastrnn.data._files import PathLike, quoted
from fastrnn.data._grid import Grid

Names = str | Sequence[str]


@dataclass
class Table:
    """The series and the other variables that `read_table` has read.

    Parameters
    ----------
    names : list of str
        Names of the K columns of `series`.
    series : ndarray of shape (T, K), float64
        The series to forecast.
    exog_names : list of str
        Names of the E columns of `exog`.
    exog : ndarray of shape (T, E), float64, or None
        The other variables; None if there are none.
    future_exog : ndarray of shape (F, E), float64, or None
        The other variables in the rows after the series; None if there are no such rows.
    """

    names: list[str]
    series: np.ndarray
    exog_names: list[str]
    exog: np.ndarray | None
    future_exog: np.ndarray | None


def read_csv(
    path: PathLike,
    *,
    target: Names | None = None,
    date: str | None = None,
    decimal: str = ".",
    separator: str = ",",
    allow_gaps: bool = False,
    encoding: str = "utf-8",
) -> tuple[list[str], np.ndarray]:
    """Read the column names and the numbers of a table over time.

    `read_table`, which also reads other variables, has the details.

    Parameters
    ----------
    path : str or path-like
        CSV file to read.
    target : str or list of str, optional
        Names of the columns to read; by default every column of numbers, except those that count the rows.
    date : str, optional
        Name of the column of dates; by default it is found by its content.
    decimal : {".", ","}, default "."
        Decimal separator.
    separator : str, default ","
        Separator of the fields, one character.
    allow_gaps : bool, default False
        Whether to take the rows as evenly spaced even if the dates are not.
    encoding : str, default "utf-8"
        Encoding of the file.

    Returns
    -------
    names : list of str
        Names of the K columns.
    series : ndarray of shape (T, K), float64
        Their numbers.

    Raises
    ------
    ValueError
        As `read_table`.

    Warns
    -----
    UserWarning
        As `read_table`.

    Examples
    --------
    >>> with open("air.csv", "w") as file:
    ...     _ = file.write("Date,Passengers\\n1949-01,112\\n1949-02,118\\n")
    >>> read_csv("air.csv")
    (['Passengers'], array([[112.], [118.]]))
    """
    table = read_table(
        path, target=target, date=date, decimal=decimal, separator=separator, allow_gaps=allow_gaps, encoding=encoding
    )
    return table.names, table.series


def read_table(
    path: PathLike,
    *,
    target: Names | None = None,
    exog: Names | None = None,
    date: str | None = None,
    decimal: str = ".",
    separator: str = ",",
    allow_gaps: bool = False,
    encoding: str = "utf-8",
) -> Table:
    """Read a table over time from a CSV file: the series to forecast, and other variables.

    A first line of names is a header; without one, the columns are named "1", "2", …. A column of dates is checked:
    they must rise by even steps (of seconds to years; daily ones may leave out weekends). Empty lines are left out and
    counted.

    Parameters
    ----------
    path : str or path-like
        CSV file to read.
    target : str or list of str, optional
        Names of the columns to forecast; by default every column of numbers, except those that count the rows.
    exog : str or list of str, optional
        Names of columns that are known for the future too; needs `target`. The rows at the end in which the targets are
        empty are the future.
    date : str, optional
        Name of the column of dates; by default it is found by its content.
    decimal : {".", ","}, default "."
        Decimal separator. Numbers with thousands separators are refused.
    separator : str, default ","
        Separator of the fields, one character.
    allow_gaps : bool, default False
        Whether to take the rows as evenly spaced even if the dates are not. They must still rise.
    encoding : str, default "utf-8"
        Encoding of the file.

    Returns
    -------
    Table
        The series and the other variables, with their names.

    Raises
    ------
    ValueError
        If rows have different numbers of fields, a cell in a column of numbers is missing or not a number, a quote is
        not closed, or dates fall, repeat or leave gaps. If it is not clear what a column is: it has digits in every
        cell, or a name such as "date", but neither numbers nor dates in a known form. The message names the line and
        says what to do.

    Warns
    -----
    UserWarning
        Without `target`: if columns are left out because they have no numbers or count the rows, or if the first row
        has numbers or dates and is read as data.

    Examples
    --------
    >>> with open("sales.csv", "w") as file:
    ...     _ = file.write("week;sales;price\\n2024-01-01;5,5;1\\n2024-01-08;7;2\\n2024-01-15;;3\\n")
    >>> table = read_table("sales.csv", target=["sales"], exog=["price"], decimal=",", separator=";")
    >>> table.series.tolist(), table.exog.tolist(), table.future_exog.tolist()
    ([[5.5], [7.0]], [[1.0], [2.0]], [[3.0]])
    """
    _check_options(target, exog, decimal, separator)
    grid = Grid(path, decimal, separator, encoding)
    exogs = [grid.column_of(name, "exog") for name in _list(exog)]
    dates = grid.column_of(date, "date") if date is not None else grid.find_dates()
    if dates is None and target is not None:
        grid.report_unchecked_dates()
    if target is None and not grid.has_header:
        grid.warn_no_header()
    if dates is not None:
        check_steps(grid.dates(dates, date is not None), grid.where, grid.names[dates], allow_gaps, path)
    if target is None:
        targets = grid.find_targets(dates)
    else:
        targets = [grid.column_of(name, "target") for name in _list(target)]
    twice = {grid.names[k] for k in targets if k in exogs or k == dates or targets.count(k) > 1}
    if twice:
        raise ValueError(
            f"the column {quoted(twice.pop())} has more than one role: name each column once in target, exog and date"
        )
    T = len(grid.rows)
    while exogs and T and not any(grid.rows[T - 1][k].strip() for k in targets):
        T -= 1
    if not T or not targets:
        raise ValueError(f"{path} has no column of numbers under a header")
    series, others = grid.numbers(targets, T), grid.numbers(exogs, len(grid.rows))
    return Table(
        names=[grid.names[k] for k in targets],
        series=series,
        exog_names=[grid.names[k] for k in exogs],
        exog=others[:T] if exogs else None,
        future_exog=others[T:] if exogs and T < len(others) else None,
    )


def _check_options(target: Names | None, exog: Names | None, decimal: str, separator: str) -> None:
    if decimal not in (".", ","):
        raise ValueError(f"decimal={quoted(decimal)}, but it must be '.' or ','")
    if not isinstance(separator, str) or len(separator) != 1 or separator == decimal or separator in '\r\n"':
        raise ValueError(f"separator={quoted(separator)} must be one character other than decimal={decimal!r}")
    if exog is not None and target is None:
        raise ValueError("exog needs target: name the columns to forecast")
    for given, role in ((target, "target"), (exog, "exog")):
        if not (given is None or isinstance(given, str) or np.iterable(given)):
            raise ValueError(f"{role}={quoted(given)}, but it must be the name of a column, or a list of names")


def _list(given: Names | None) -> list[str]:
    return [] if given is None else [given] if isinstance(given, str) else list(given)

"""Reader of tables over time: CSV with names of columns, numbers and dates."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import warnings

import numpy as np

from fastrnn.data._dates import as_dates, check_steps
from fastrnn.data._files import full_rows, is_missing, is_number, may_be_number, not_a_number, plain_numbers, rows, say

_DATE_NAMES = {
    "date",
    "dates",
    "datetime",
    "time",
    "timestamp",
    "ds",
    "year",
    "month",
    "day",
    "period",
    "quarter",
    "week",
}
_GROUPED = re.compile(
    r"[+-]?[$€£]?\s?\d[\d.,'\u2009\u00a0\u202f ]*\s?[%$€£]?"
)  # thousands, decimal commas, percent, currencies


@dataclasses.dataclass
class Table:
    """What `read_table` found.

    names : of the K columns; series : (T, K) float64
    exog_names : of the E other variables; exog : (T, E) float64, or None; future_exog : (F, E), of the rows after the
        series, or None
    """

    names: list
    series: np.ndarray
    exog_names: list
    exog: np.ndarray | None
    future_exog: np.ndarray | None


def read_csv(
    path: str | os.PathLike, *, target=None, date=None, decimal=".", separator=",", allow_gaps=False, encoding="utf-8"
):
    """The names and the numbers of a table over time; see `read_table`, which also reads other variables.

    Returns
    -------
    names : list of the K columns
    series : (T, K) float64

    Raises, Warns
    -------------
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
    path: str | os.PathLike, *, target=None, exog=None, date=None, decimal: str = ".", separator: str = ",",
    allow_gaps: bool = False, encoding: str = "utf-8",
) -> Table:  # fmt: skip
    """A table over time, CSV: the series to forecast, and other variables.

    A first line of names is a header; without one, the columns are named "1", "2", …. A column of dates is checked:
    they must rise by even steps (seconds to years; weekends may be left out). Without `target` every column of numbers
    is one, but those that count the rows. Empty lines are left out and counted.

    Parameters
    ----------
    target : names of the columns to forecast, optional
    exog : names of columns that are known for the future too; needs `target`. The last rows, where the targets are
        empty, are the future
    date : name of the column of dates; found by its content if None
    decimal : "." or ","; numbers with thousands separators are refused
    separator : of the fields, one character
    allow_gaps : take the rows as evenly spaced though the dates are not; they must rise still
    encoding : of the file

    Raises
    ------
    ValueError  a row has another number of fields, a cell of a column of numbers is missing or none, a quote is not
        closed, dates fall, repeat or leave gaps, a column has digits in every cell or the name of dates but neither
        numbers nor dates in a form that is read, or it is not clear what a column is. The message names the line and
        what to do.

    Warns
    -----
    UserWarning  columns without numbers, or that count the rows, are left out, or the first row has numbers or dates
        and is read as data; not with `target`.

    Examples
    --------
    >>> with open("sales.csv", "w") as file:
    ...     _ = file.write("week;sales;price\\n2024-01-01;5,5;1\\n2024-01-08;7;2\\n2024-01-15;;3\\n")
    >>> table = read_table("sales.csv", target=["sales"], exog=["price"], decimal=",", separator=";")
    >>> table.series.tolist(), table.exog.tolist(), table.future_exog.tolist()
    ([[5.5], [7.0]], [[1.0], [2.0]], [[3.0]])
    """
    if decimal not in (".", ","):
        raise ValueError(f"decimal={decimal!r}, but it must be '.' or ','")
    if not isinstance(separator, str) or len(separator) != 1 or separator == decimal or separator in '\r\n"':
        raise ValueError(f"separator={separator!r} must be one character other than decimal={decimal!r}")
    if exog is not None and target is None:
        raise ValueError("exog needs target: name the columns to forecast")
    _check_names(target, "target")
    _check_names(exog, "exog")
    grid = _Grid(path, decimal, separator, encoding)
    exogs = [grid.place(name, "exog") for name in _names(exog)]
    place = grid.place(date, "date") if date is not None else grid.found_date()
    if place is None and target is not None:
        grid.say_unchecked_dates()
    if target is None and not grid.has_header:
        grid.warn_no_header()
    if place is not None:
        check_steps(grid.dates(place, date is not None), grid.where, grid.names[place], allow_gaps, path)
    targets = (
        [grid.place(name, "target") for name in _names(target)] if target is not None else grid.found_targets(place)
    )
    twice = {grid.names[k] for k in targets if k in exogs or k == place or targets.count(k) > 1}
    if twice:
        raise ValueError(f"the column {twice.pop()!r} has more than one part among target, exog and date")
    T = len(grid.rows)
    while exogs and T and not any(grid.rows[T - 1][k].strip() for k in targets):
        T -= 1
    if not T or not targets:
        raise ValueError(f"{path} has no column of numbers under a header")
    series, others = grid.numbers(targets, T), grid.numbers(exogs, len(grid.rows))
    return Table(
        [grid.names[k] for k in targets], series, [grid.names[k] for k in exogs],
        others[:T] if exogs else None, others[T:] if exogs and T < len(others) else None,
    )  # fmt: skip


def _names(given):
    return [] if given is None else [given] if isinstance(given, str) else list(given)


def _check_names(given, part):
    if not (given is None or isinstance(given, str) or np.iterable(given)):
        raise ValueError(f"{part}={given!r}, but it must be a name of a column, or a list of names")


class _Grid:
    """The cells of a file: names : of the columns; rows : lists of str; lines : the line of each row"""

    def __init__(self, path, decimal, separator, encoding):
        self.path, self.decimal = path, decimal
        found = rows(path, separator, encoding)
        single = next((row for _, row in found if row), [])
        if len(single) == 1 and not single[0].startswith("#"):
            _check_single(found, path, separator)
        found = full_rows(found, path)
        if not found:
            raise ValueError(f"{path} has no column of numbers under a header")
        width = len(found[0][1])
        for line, row in found:
            if len(row) != width:
                raise ValueError(
                    f"{path}, line {line}: it has {len(row)} fields, but the header has "
                    f"{width}{_hint(found, separator)}"
                )
        self.lines, self.rows = [line for line, _ in found], [row for _, row in found]
        self.has_header = self._has_header()
        if self.has_header:
            self.names = [name.strip() for name in self.rows.pop(0)]
            self.lines.pop(0)
        else:
            self.names = [str(k) for k in range(1, width + 1)]
        for name in self.names:
            if name and self.names.count(name) > 1:
                raise ValueError(f"{path}, line {found[0][0]}: two columns are named {name!r}")

    def _has_header(self):
        """Whether the first row is names: its cells differ in kind from those below them."""
        data, names = [], []
        for k, cell in enumerate(self.rows[0]):
            below = [row[k] for row in self.rows[1:]]
            numbers, dates = any(map(self._is_number, below)), self._are_dates(below)
            if self._is_number(cell) or (dates and as_dates([cell])):
                data.append(cell)
            elif cell.strip() and (numbers or dates):
                names.append(cell)
        if data and names:
            raise ValueError(
                f"{self.path}, line {self.lines[0]}: it is neither a header nor a row: {names[0]!r} is a name, but "
                f"{data[0]!r} is data"
            )
        if names and all(map(may_be_number, self.rows[0])):
            raise ValueError(f"{self.path}, line {self.lines[0]}: {self._wrong(names[0])}")
        return not data

    def warn_no_header(self):
        """Say that the first row is data."""
        shown = ", ".join(cell.strip() for cell in self.rows[0] if self._is_number(cell) or as_dates([cell]))[:60]
        warnings.warn(
            f"{self.where(0)}: read as data, not as names of columns, since it has numbers or dates ({shown}): if it "
            "is a header, give names that are no numbers; if not, choose the columns with target= (--target)",
            stacklevel=4,
        )

    def _point(self, cell):
        """A cell with a decimal point; one that has both signs stays no number."""
        cell = cell.strip()
        return cell if self.decimal == "." else cell.replace(".", "'").replace(",", ".")

    def _is_number(self, cell):
        return is_number(self._point(cell))

    def where(self, i):
        return f"{self.path}, line {self.lines[i]}"

    def column(self, k):
        return [row[k] for row in self.rows]

    def place(self, name, part):
        if name not in self.names:
            known = ", ".join(filter(None, self.names))
            why = "" if self.has_header else f", as line {self.lines[0]} was read as data"
            raise ValueError(f"{self.path} has no column {name!r} for {part}; it has {known}{why}")
        return self.names.index(name)

    def found_date(self):
        """The first column, other than of numbers, that has a date in its first rows."""
        return next((k for k in range(len(self.names)) if self._begins_with_a_date(k)), None)

    def _begins_with_a_date(self, k):
        return self._are_dates(self.column(k))

    def _are_dates(self, cells):
        """Whether one of the first three cells that are not empty is a date, other than a number."""
        full = itertools.islice((cell for cell in cells if not is_missing(cell)), 3)
        return any(not self._is_number(cell) and as_dates([cell]) for cell in full)

    def say_unchecked_dates(self):
        """Report the first column that is named like dates, and is neither numbers nor dates in a form that is read."""
        for k, name in enumerate(self.names):
            if name.lower() in _DATE_NAMES and not any(map(self._is_number, self.column(k))):
                cell = self.rows[0][k].strip()[:40] if self.rows else ""
                say(f"{self.where(0)}: {cell!r} is no date that is read: {name!r} was not checked")
                return

    def dates(self, k, numbers):
        """[(text, dates in each possible reading)]; `numbers`: 19490131, 1949.5 or 7 are dates too."""
        cells = self.column(k)
        found = as_dates(cells, numbers)
        if not found:
            first = next((cell for cell in cells if as_dates([cell], numbers)), None)
            if first is None:
                raise ValueError(
                    f"{self.where(0)}: {cells[0][:40]!r} is not a date in a form that is read, such as 2024-01-31 "
                    f"(column {self.names[k]!r})"
                )
            wrong = next((i for i in range(len(cells)) if not as_dates([first, cells[i]], numbers)), 0)
            raise ValueError(
                f"{self.where(wrong)}: {cells[wrong][:40]!r} is not a date like the others in the column "
                f"{self.names[k]!r}"
            )
        return cells, found

    def numbers(self, columns, last):
        """(last, columns) float64 of the first rows."""
        found = np.empty((last, len(columns)))
        for j, k in enumerate(columns):
            cells = self.column(k)[:last]
            values = plain_numbers([self._point(cell) for cell in cells])
            if values is None:
                wrong = next(i for i, cell in enumerate(cells) if not self._is_number(cell))
                raise ValueError(
                    f"{self.where(wrong)}: {self._wrong(cells[wrong])} (column {self.names[k] or k + 1!r})"
                )
            found[:, j] = values
        return found

    def _wrong(self, cell):
        if not is_number(self._point(cell)) and _GROUPED.fullmatch(cell.strip()):
            wrong = f"{cell[:40]!r} is not a number with decimal={self.decimal!r}"
            return f"{wrong}: write it without thousands separators, percent or currency signs"
        return not_a_number(cell)

    def found_targets(self, date):
        """All columns of numbers, but those that count the rows; what is left out is said."""
        targets, left_out = [], []
        for k, name in enumerate(self.names):
            cells = self.column(k)
            if k == date:
                continue
            if self._begins_with_a_date(k):
                left_out.append(f"{name or k + 1!r} (dates)")
                continue
            values = plain_numbers([self._point(cell) for cell in cells])
            if values is None:
                self._check_no_dates(k, date)
                self._check_no_numbers(k)
                left_out.append(f"{name or k + 1!r} (no numbers)")
            elif self._counts(k, np.diff(values)):
                left_out.append(f"{name or k + 1!r} (counts the rows)")
            elif not name or name.lower() in _DATE_NAMES:
                raise ValueError(
                    f"{self.path}: it is not clear what the column {name or k + 1!r} is: choose the columns with "
                    "target= (--target) "
                    "and date= (--date)"
                )
            else:
                targets.append(k)
        if left_out and not targets:
            raise ValueError(
                f"{self.path} has no column of numbers under a header, other than those that were left out: "
                f"{', '.join(left_out)}; to choose, give target= (--target)"
            )
        if left_out:
            warnings.warn(
                f"{self.path}: columns left out: {', '.join(left_out)}; to choose, give target (--target)", stacklevel=4
            )
        return targets

    def _check_no_dates(self, k, date):
        """Whether a column without numbers may be dates in a form that is not read; `date`: the column of dates."""
        cells = self.column(k)
        named = date is None and self.names[k].lower() in _DATE_NAMES and any(not is_missing(cell) for cell in cells)
        digits = all(any(map(str.isdecimal, cell)) for cell in cells)
        other = digits and not any(_GROUPED.fullmatch(cell.strip()) for cell in cells)
        if (named or other) and not any(map(self._is_number, cells)):
            raise ValueError(
                f"{self.where(0)}: {cells[0][:40]!r} is neither a number nor a date in a form that is read (column "
                f"{self.names[k] or k + 1!r}): write dates as 2024-01-31, or choose the columns with target= "
                "(--target) and date= (--date)"
            )

    def _check_no_numbers(self, k):
        """Whether a column has no numbers at all; one that has some, or has them with other signs, is an error."""
        cells = self.column(k)
        wrong = next(
            (i for i, cell in enumerate(cells) if not self._is_number(cell) and _GROUPED.fullmatch(cell.strip())), None
        )
        if wrong is None and any(map(self._is_number, cells)):
            wrong = next(i for i, cell in enumerate(cells) if not self._is_number(cell))
        if wrong is not None:
            raise ValueError(
                f"{self.where(wrong)}: {self._wrong(cells[wrong])} (column {self.names[k] or k + 1!r}); or choose "
                "other columns with "
                "target= (--target)"
            )

    def _counts(self, k, steps):
        """Whether a column rises by the same step, up to rounding; in fewer than 3 rows only if it has no name."""
        if len(steps) < 2:
            return not self.names[k] and (steps == 1).all()
        return steps.min() > 0 and steps.max() - steps.min() <= 0.02 * steps.max()


def _hint(found, separator):
    """What else the separator may be."""
    others = [sign for sign in ";\t,|" if sign != separator and any(sign in cell for cell in found[0][1])]
    return f"; if {others[0]!r} separates them, give separator={others[0]!r} (--separator)" if others else ""


def _check_single(found, path, separator):
    """In a table of one column an empty line is a missing value."""
    hint = _hint(found, separator)
    if hint:
        raise ValueError(f"{path}, line {found[0][0]}: it has 1 field{hint}")
    for line, row in found:
        if not row:
            raise ValueError(f"{path}, line {line}: {not_a_number('')}")

"""The cells of a table, and what its columns are: numbers, dates, or neither."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Sequence

import numpy as np

from fastrnn.data._dates import Readings, as_dates
from fastrnn.data._files import (
    PathLike,
    csv_rows,
    is_missing,
    is_number,
    is_number_like,
    listed,
    not_a_number,
    numbers_or_none,
    quoted,
    say,
    without_empty_rows,
)

_DATE_NAMES = {
    *("date", "dates", "datetime", "time", "timestamp", "ds"),
    *("year", "month", "day", "period", "quarter", "week"),
}
# Thousands separators, decimal commas, percent and currency signs
_FORMATTED_NUMBER = re.compile(r"[+-]?[$€£]?\s?\d[\d.,'\u2009\u00a0\u202f ]*\s?[%$€£]?")


class Grid:
    """The cells of a CSV file.

    Parameters
    ----------
    path : str or path-like
        File to read.
    decimal, separator, encoding : str
        As in `read_table`.

    Attributes
    ----------
    names : list of str
        Names of the columns.
    rows : list of list of str
        Cells of each row, without the header.
    has_header : bool
        Whether the first row of the file is a header.
    """

    def __init__(self, path: PathLike, decimal: str, separator: str, encoding: str) -> None:
        self.path, self.decimal = path, decimal
        found = csv_rows(path, separator, encoding)
        single = next((row for _, row in found if row), [])
        if len(single) == 1 and not single[0].startswith("#"):
            _check_single_column(found, path, separator)
        found = without_empty_rows(found, path)
        if not found:
            raise ValueError(f"{path} has no column of numbers under a header")
        width = len(found[0][1])
        for line, row in found:
            if len(row) != width:
                raise ValueError(
                    f"{path}, line {line}: it has {len(row)} fields, but the header has {width}"
                    f"{_separator_hint(found, separator)}"
                )
        self._lines, self.rows = [line for line, _ in found], [row for _, row in found]
        self.has_header = self._has_header()
        if self.has_header:
            self.names = [name.strip() for name in self.rows.pop(0)]
            self._lines.pop(0)
        else:
            self.names = [str(k) for k in range(1, width + 1)]
        for name in self.names:
            if name and self.names.count(name) > 1:
                raise ValueError(f"{path}, line {found[0][0]}: two columns are named {quoted(name)}")

    def where(self, i: int) -> str:
        """Name the file and the line of a row."""
        return f"{self.path}, line {self._lines[i]}"

    def column_of(self, name: str, role: str) -> int:
        """Find the index of the column with a name; `role` is the argument that names it."""
        if name not in self.names:
            why = "" if self.has_header else f", as line {self._lines[0]} was read as data"
            known = listed(filter(None, self.names))
            raise ValueError(f"{self.path} has no column {quoted(name)} for {role}; it has {known}{why}")
        return self.names.index(name)

    def numbers(self, columns: Sequence[int], count: int) -> np.ndarray:
        """Convert the first `count` cells of some columns to an array (count, columns), float64."""
        found = np.empty((count, len(columns)))
        for j, k in enumerate(columns):
            cells = self._column(k)[:count]
            values = numbers_or_none([self._with_point(cell) for cell in cells])
            if values is None:
                wrong = next(i for i, cell in enumerate(cells) if not self._is_number(cell))
                raise ValueError(f"{self.where(wrong)}: {self._problem(cells[wrong])} (column {self._shown(k)})")
            found[:, j] = values
        return found

    # ---- which columns are dates, and which are numbers ----

    def find_dates(self) -> int | None:
        """Find the first column that has a date in its first rows, other than a number."""
        return next((k for k in range(len(self.names)) if self._are_dates(self._column(k))), None)

    def dates(self, k: int, numbers: bool) -> tuple[list[str], Readings]:
        """Return the cells of a column and its possible readings as dates.

        With `numbers`, numbers such as 19490131, 1949.5 or 7 are dates too.
        """
        cells = self._column(k)
        found = as_dates(cells, numbers)
        if found:
            return cells, found
        first = next((cell for cell in cells if as_dates([cell], numbers)), None)
        if first is None:
            raise ValueError(
                f"{self.where(0)}: {quoted(cells[0])} is not a date in a known form, such as 2024-01-31 (column "
                f"{quoted(self.names[k])})"
            )
        wrong = next((i for i in range(len(cells)) if not as_dates([first, cells[i]], numbers)), 0)
        raise ValueError(
            f"{self.where(wrong)}: {quoted(cells[wrong])} is not a date like the others in the column "
            f"{quoted(self.names[k])}"
        )

    def report_unchecked_dates(self) -> None:
        """Report the first column whose name is that of dates, but whose cells are neither numbers nor known dates."""
        for k, name in enumerate(self.names):
            if name.lower() in _DATE_NAMES and not any(map(self._is_number, self._column(k))):
                cell = self.rows[0][k].strip() if self.rows else ""
                say(f"{self.where(0)}: {quoted(cell)} is not a date in a known form: {quoted(name)} was not checked")
                return

    def warn_no_header(self) -> None:
        """Warn that the first row is read as data."""
        shown = listed((cell.strip() for cell in self.rows[0] if self._is_number(cell) or as_dates([cell])), 60)
        warnings.warn(
            f"{self.where(0)}: read as data, not as names of columns, since it has numbers or dates ({shown}): if it "
            "is a header, use names that are not numbers; if not, choose the columns with target= (--target)",
            stacklevel=4,
        )

    def find_targets(self, dates: int | None) -> list[int]:
        """Find all columns of numbers, except those that count the rows; a warning names the columns left out."""
        targets, left_out = [], []
        for k, name in enumerate(self.names):
            cells = self._column(k)
            if k == dates:
                continue
            if self._are_dates(cells):
                left_out.append(f"{self._shown(k)} (dates)")
                continue
            values = numbers_or_none([self._with_point(cell) for cell in cells])
            if values is None:
                self._check_not_dates(k, dates)
                self._check_not_numbers(k)
                left_out.append(f"{self._shown(k)} (no numbers)")
            elif self._counts_rows(k, np.diff(values)):
                left_out.append(f"{self._shown(k)} (counts the rows)")
            elif not name or name.lower() in _DATE_NAMES:
                raise ValueError(
                    f"{self.path}: it is not clear what the column {self._shown(k)} is: choose the columns with "
                    "target= (--target) and date= (--date)"
                )
            else:
                targets.append(k)
        if left_out and not targets:
            raise ValueError(
                f"{self.path} has no column of numbers under a header, other than those that were left out: "
                f"{listed(left_out, 1000)}; to choose, give target= (--target)"
            )
        if left_out:
            warnings.warn(
                f"{self.path}: columns left out: {listed(left_out, 1000)}; to choose, give target= (--target)",
                stacklevel=4,
            )
        return targets

    def _check_not_dates(self, k: int, dates: int | None) -> None:
        """Refuse a column without numbers that may be dates in an unknown form; `dates` is the column of known ones."""
        cells = self._column(k)
        named = dates is None and self.names[k].lower() in _DATE_NAMES and any(not is_missing(cell) for cell in cells)
        digits = all(any(map(str.isdecimal, cell)) for cell in cells)
        other = digits and not any(_FORMATTED_NUMBER.fullmatch(cell.strip()) for cell in cells)
        if (named or other) and not any(map(self._is_number, cells)):
            raise ValueError(
                f"{self.where(0)}: {quoted(cells[0])} is neither a number nor a date in a known form (column "
                f"{self._shown(k)}): write dates as 2024-01-31, or choose the columns with target= (--target) and "
                "date= (--date)"
            )

    def _check_not_numbers(self, k: int) -> None:
        """Refuse a column of which some cells are numbers, or are numbers in another form."""
        cells = self._column(k)
        strange = (
            i for i, cell in enumerate(cells) if not self._is_number(cell) and _FORMATTED_NUMBER.fullmatch(cell.strip())
        )
        wrong = next(strange, None)
        if wrong is None and any(map(self._is_number, cells)):
            wrong = next(i for i, cell in enumerate(cells) if not self._is_number(cell))
        if wrong is not None:
            raise ValueError(
                f"{self.where(wrong)}: {self._problem(cells[wrong])} (column {self._shown(k)}); or choose other "
                "columns with target= (--target)"
            )

    def _counts_rows(self, k: int, steps: np.ndarray) -> bool:
        """Whether a column rises by the same step, up to rounding; with fewer than 3 rows only if it has no name."""
        if len(steps) < 2:
            return not self.names[k] and bool((steps == 1).all())
        return bool(steps.min() > 0 and steps.max() - steps.min() <= 0.02 * steps.max())

    # ---- cells ----

    def _has_header(self) -> bool:
        """Whether the first row is a header: its cells differ in kind from those below them."""
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
                f"{self.where(0)}: it is neither a header nor data: {quoted(names[0])} is a name, but "
                f"{quoted(data[0])} is data"
            )
        if names and all(map(is_number_like, self.rows[0])):
            raise ValueError(f"{self.where(0)}: {self._problem(names[0])}")
        return not data

    def _column(self, k: int) -> list[str]:
        return [row[k] for row in self.rows]

    def _shown(self, k: int) -> str:
        """Name a column in a message: by its number, from 1, if it has no name."""
        return quoted(self.names[k] or k + 1)

    def _with_point(self, cell: str) -> str:
        """Write a cell with a decimal point; a cell with both separators remains not a number."""
        cell = cell.strip()
        return cell if self.decimal == "." else cell.replace(".", "'").replace(",", ".")

    def _is_number(self, cell: str) -> bool:
        return is_number(self._with_point(cell))

    def _are_dates(self, cells: Sequence[str]) -> bool:
        """Whether one of the first three cells that are not missing is a date, other than a number."""
        full = itertools.islice((cell for cell in cells if not is_missing(cell)), 3)
        return any(not self._is_number(cell) and as_dates([cell]) for cell in full)

    def _problem(self, cell: str) -> str:
        """Say why a cell is not a number."""
        if not is_number(self._with_point(cell)) and _FORMATTED_NUMBER.fullmatch(cell.strip()):
            return (
                f"{quoted(cell)} is not a number with decimal={self.decimal!r}: write it without thousands separators, "
                "percent or currency signs"
            )
        return not_a_number(cell)


def _separator_hint(found: list[tuple[int, list[str]]], separator: str) -> str:
    """Say which other character may be the separator."""
    others = [other for other in ";\t,|" if other != separator and any(other in cell for cell in found[0][1])]
    return f"; if {others[0]!r} separates them, give separator={others[0]!r} (--separator)" if others else ""


def _check_single_column(found: list[tuple[int, list[str]]], path: PathLike, separator: str) -> None:
    """Refuse empty lines, which are missing values in a table of one column, and a wrong separator."""
    hint = _separator_hint(found, separator)
    if hint:
        raise ValueError(f"{path}, line {found[0][0]}: it has 1 field{hint}")
    for line, row in found:
        if not row:
            raise ValueError(f"{path}, line {line}: {not_a_number('')}")

"""Dates of a table: the forms in which they are read, and whether they rise by even steps."""

from __future__ import annotations

import collections
import datetime
import functools
import re
from collections.abc import Callable, Sequence

from fastrnn.data._files import PathLike, counted, is_number, quoted, say

Dates = list[datetime.datetime] | list[float]
Readings = list[Dates]
_Fault = tuple[int, str | None, int]  # first row at fault, usual step or None if dates fall, number of rows at fault

_DAYS = (
    "%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d-%m-%Y", "%m-%d-%Y",
    "%d %b %Y", "%d-%b-%Y", "%b %d, %Y", "%d %B %Y", "%d-%B-%Y", "%d/%b/%Y", "%B %d, %Y", "%B %d %Y", "%b %d %Y",
    *(f"%d{separator}%m{separator}%y" for separator in "./-"),
    *(f"%m{separator}%d{separator}%y" for separator in "./-"),
    *(f"%y{separator}%m{separator}%d" for separator in "./-"),
    "%d %b %y", "%d-%b-%y",
)  # fmt: skip
_TIMES = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", "T%H:%M", "T%H:%M:%S", "T%H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
_FORMATS = (
    *(day + time + zone for day in _DAYS for time in _TIMES for zone in (("", "%z", " %z") if time else ("",))),
    "%Y-%m", "%Y/%m", "%m/%Y", "%b %Y", "%B %Y", "%Y %b", "%b-%Y", "%Y-%b", "%YM%m",
    "%b-%y", "%b %y", "%B-%y", "%B %y", "%B-%Y", "%Y %B", "%Y-%B",
)  # fmt: skip
_DIGITS = {8: "%Y%m%d", 6: "%Y%m", 4: "%Y"}  # by the number of digits of a date that is a number
_WEEK = re.compile(r"(\d{4})-?W(\d\d)(?:-?([1-7]))?", re.ASCII)
_QUARTER = re.compile(r"(\d{4})[ -]?Q([1-4])|Q([1-4])[ -/](\d{4})", re.ASCII)
_ZONE = r"(?<=[\dM])(?: ?[+-]\d\d:?\d\d| ?Z)$"
_UTC = re.compile(r"(\d) ?(?:UTC|GMT)$")


def as_dates(texts: Sequence[str], numbers: bool = False) -> Readings:
    """Find the readings in which all texts are dates, or numbers that count the time.

    Parameters
    ----------
    texts : sequence of str
        The cells of a column.
    numbers : bool, default False
        Whether numbers are dates too, such as 19490131, 1949.5 or 7.

    Returns
    -------
    list of list
        For each possible reading the dates, as datetime, or as float if numbers count the time.

    Examples
    --------
    >>> [[date.month for date in reading] for reading in as_dates(["01/02/2024", "01/03/2024"])]
    [[1, 1], [2, 3]]
    >>> as_dates(["soon"]), len(as_dates(["1970 Q1", "1970 Q2"]))
    ([], 1)
    """
    texts = [text.strip() for text in texts]
    if not texts:
        return []
    if numbers and all(map(is_number, texts)):
        form = _DIGITS.get(len(texts[0])) if all(text.isdecimal() for text in texts) else None
        dates = form and _parsed(texts, form)
        return [dates] if dates else [[float(text) for text in texts]]
    if all(_WEEK.fullmatch(text) for text in texts):
        weeks = _from_groups(
            texts, _WEEK, lambda year, week, day: datetime.datetime.fromisocalendar(year, week, day or 1)
        )
        return [weeks] if weeks else []
    if all(_QUARTER.fullmatch(text) for text in texts):
        quarters = _from_groups(texts, _QUARTER, lambda a, b, c, d: datetime.datetime(a or d, 3 * (b or c) - 2, 1))
        return [quarters] if quarters else []
    if not any(character.isdecimal() for character in texts[0]):
        return []
    return _in_known_forms([_UTC.sub(r"\1 +0000", text) for text in texts])


def _in_known_forms(texts: list[str]) -> Readings:
    """Find the readings in the forms of strptime; years of two digits may be in either century."""
    likely = _forms_by_shape().get(_shape(texts[0], _ZONE, "[A-Za-z]{3}"), ())
    possible = [form for form in likely if _parsed(texts[:1], form)]
    found = [(form, dates) for form in possible if (dates := _parsed(texts, form))]
    year_last = [(form, dates) for form, dates in found if not form.startswith("%y")]
    found = year_last or found  # a year of two digits comes first only if nothing else is possible
    earlier = [_from_1900(dates) for form, dates in found if "%y" in form]
    return [*(dates for _, dates in found), *filter(None, earlier)]


def _shape(text: str, zone: str, month: str) -> tuple[str, bool, bool]:
    """What a date and its form have in common: the separators, whether there is a time zone, and a month's name."""
    bare = re.sub(zone, "", text) if ":" in text or "%M" in text else text
    return re.sub("%?[A-Za-z0-9]", "", bare), bare != text, re.search(month, text) is not None


@functools.cache
def _forms_by_shape() -> dict[tuple[str, bool, bool], list[str]]:
    """Sort the forms by shape: strptime compiles each form when it is first used, so trying all of them is slow."""
    found = {}
    for form in _FORMATS:
        found.setdefault(_shape(form, " ?%z", "%[bB]"), []).append(form)
    return found


def _from_groups(
    texts: Sequence[str], pattern: re.Pattern[str], of: Callable[..., datetime.datetime]
) -> list[datetime.datetime] | None:
    """Make dates of the numbers in the groups of a pattern; None if one is not a date."""
    try:
        return [of(*(int(part) if part else 0 for part in pattern.fullmatch(text).groups())) for text in texts]
    except ValueError:
        return None


def _from_1900(dates: list[datetime.datetime]) -> list[datetime.datetime] | None:
    """Read years of two digits so that the first one is in the 20th century and 00 follows 99; None if impossible.

    strptime takes 69 to 99 as the years from 1969, and 00 to 68 as the years from 2000.
    """
    first = dates[0].year % 100
    try:
        found = [date.replace(year=date.year % 100 + (1900 if date.year % 100 >= first else 2000)) for date in dates]
    except ValueError:  # 29 February 1900
        return None
    far = any(abs(later.year - earlier.year) > 50 for earlier, later in zip(found, found[1:]))
    return None if far else found


def _parsed(texts: Sequence[str], form: str) -> list[datetime.datetime] | None:
    """Parse texts in one form; None if one is not in it."""
    try:
        size = len(texts[0])
        if (
            form.startswith("%Y-%m-%d")
            and "%p" not in form
            and size in (10, 16, 19)
            and all(len(text) == size and text[4] == text[7] == "-" for text in texts)
        ):
            datetime.datetime.strptime(texts[0], form)
            return [datetime.datetime.fromisoformat(text) for text in texts]  # gives the same, much faster
        return [datetime.datetime.strptime(text, form) for text in texts]
    except ValueError:
        return None


def check_steps(
    dates: tuple[Sequence[str], Readings], where: Callable[[int], str], name: str, allow_gaps: bool, path: PathLike
) -> None:
    """Check that dates rise by even steps, in at least one reading.

    Parameters
    ----------
    dates : tuple
        The texts, and the readings that `as_dates` found.
    where : callable
        Gives "file, line n" for the index of a row.
    name : str
        Name of the column.
    allow_gaps : bool
        Whether to count and report uneven steps, not refuse them.
    path : str or path-like
        File that messages name.

    Raises
    ------
    ValueError
        If a date falls or repeats, or steps are uneven; the message names the line and both dates.
    """
    texts, readings = dates
    faults = [_fault(reading) for reading in readings]
    if any(fault is None for fault in faults):
        return
    rising = [fault for fault in faults if fault[1] is not None]
    place, usual, number = rising[0] if rising else faults[0]
    pair = f"{where(place)}: {quoted(texts[place])} follows {quoted(texts[place - 1])} in the column {quoted(name)}"
    if usual is None:
        raise ValueError(
            f"{pair}, but dates must rise: sort the rows by time and give each time one row (for several series: a "
            "column for each)"
        )
    if not allow_gaps:
        raise ValueError(
            f"{pair}, but most rows are {usual} apart: fill the gap, or take the rows as evenly spaced with "
            "allow_gaps=True (--allow-gaps)"
        )
    say(f"{path}: {counted(number, 'uneven step')} in the dates of {quoted(name)}; the rows are taken as evenly spaced")


def check_times(series: object, exog: object = None) -> None:
    """Check that the times of a pandas Series or frame rise by even steps, and that `exog` has the same times.

    Only an index of times is checked.

    Raises
    ------
    ValueError
        If a time falls or repeats, steps are uneven, or the times of `exog` differ; the message names the times.
    """
    times = _times(series)
    if times is None:
        return
    fault = _fault([time.to_pydatetime() for time in times])
    if fault is not None:
        place, usual, _ = fault
        pair = f"the index of the series has {times[place]} after {times[place - 1]}"
        if usual is None:
            raise ValueError(
                f"{pair}, but times must rise: sort by time (series.sort_index()) and give each time one row"
            )
        raise ValueError(
            f"{pair}, but most rows are {usual} apart: fill the gap, or give series.to_numpy() to take the rows as "
            "evenly spaced"
        )
    others = _times(exog)
    if others is not None and not times.equals(others):
        raise ValueError("the index of exog differs from that of the series: give exog.loc[series.index]")


def _times(given):
    """The index of a pandas Series or frame as time stamps; None if it does not hold times."""
    index = getattr(given, "index", None)
    if hasattr(index, "to_timestamp"):
        return index.to_timestamp()
    return index if hasattr(index, "to_pydatetime") else None


def _fault(dates: Dates) -> _Fault | None:
    """Find where dates do not rise by even steps; None if they do."""
    fall = next((i for i in range(1, len(dates)) if not dates[i - 1] < dates[i]), None)
    if fall is not None:
        return fall, None, 1
    steps, shown = _steps(dates)
    if not steps:
        return None
    count = collections.Counter(steps)
    usual = min(step for step, n in count.items() if n == max(count.values()))
    if isinstance(dates[0], float):
        wrong = [i for i, step in enumerate(steps, 1) if abs(step - usual) > 0.02 * usual]
    else:
        wrong = [
            i for i, step in enumerate(steps, 1) if step != usual and not _is_weekend(dates[i - 1], dates[i], usual)
        ]
    return (wrong[0], shown(usual), len(wrong)) if wrong else None


def _steps(dates: Dates) -> tuple[list, Callable[..., str]]:
    """The steps between dates and how to format one.

    Steps are in months if all dates are the same day of their month, or the last one.
    """
    if isinstance(dates[0], float):
        return [later - earlier for earlier, later in zip(dates, dates[1:])], "{:g}".format
    day = datetime.timedelta(days=1)
    same_day = len({(date.day, date.time()) for date in dates}) == 1 or all((date + day).day == 1 for date in dates)
    if same_day and all((a.year, a.month) != (b.year, b.month) for a, b in zip(dates, dates[1:])):
        months = [12 * date.year + date.month for date in dates]
        return [later - earlier for earlier, later in zip(months, months[1:])], lambda step: counted(step, "month")
    return [later - earlier for earlier, later in zip(dates, dates[1:])], str


def _is_weekend(earlier: datetime.datetime, later: datetime.datetime, usual: object) -> bool:
    """Whether a step between daily dates leaves out a Saturday and a Sunday only."""
    day = datetime.timedelta(days=1)
    return usual == day and earlier.weekday() == 4 and later - earlier == 3 * day

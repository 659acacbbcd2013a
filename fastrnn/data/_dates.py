"""Dates of a table: in which forms they are read, and whether their steps are even."""

from __future__ import annotations

import collections
import datetime
import functools
import re

from fastrnn.data._files import counted, is_number, say

_DAYS = (
    "%Y-%m-%d",
    "%Y/%m/%d",
    "%d.%m.%Y",
    "%m/%d/%Y",
    "%d/%m/%Y",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%d %b %Y",
    "%d-%b-%Y",
    "%b %d, %Y",
    "%d %B %Y",
    "%d-%B-%Y",
    "%d/%b/%Y",
    "%B %d, %Y",
    "%B %d %Y",
    "%b %d %Y",
    *(f"%d{sign}%m{sign}%y" for sign in "./-"),
    *(f"%m{sign}%d{sign}%y" for sign in "./-"),
    *(f"%y{sign}%m{sign}%d" for sign in "./-"),
    "%d %b %y",
    "%d-%b-%y",
)
_TIMES = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", "T%H:%M", "T%H:%M:%S", "T%H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
_FORMATS = (
    *(day + time + zone for day in _DAYS for time in _TIMES for zone in (("", "%z", " %z") if time else ("",))),
    "%Y-%m", "%Y/%m", "%m/%Y", "%b %Y", "%B %Y", "%Y %b", "%b-%Y", "%Y-%b", "%YM%m",
    "%b-%y", "%b %y", "%B-%y", "%B %y", "%B-%Y", "%Y %B", "%Y-%B",
)  # fmt: skip
_NUMBERS = {8: "%Y%m%d", 6: "%Y%m", 4: "%Y"}  # digits of a date that is a number
_WEEK = re.compile(r"(\d{4})-?W(\d\d)(?:-?([1-7]))?", re.ASCII)
_QUARTER = re.compile(r"(\d{4})[ -]?Q([1-4])|Q([1-4])[ -/](\d{4})", re.ASCII)


_ZONE = r"(?<=[\dM])(?: ?[+-]\d\d:?\d\d| ?Z)$"
_UTC = re.compile(r"(\d) ?(?:UTC|GMT)$")


def as_dates(texts, numbers: bool = False) -> list:
    """The readings in which all texts are dates: lists of datetime, or of float where numbers count the time.

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
        form = _NUMBERS.get(len(texts[0])) if all(text.isdecimal() for text in texts) else None
        dates = form and _parsed(texts, form)
        return [dates] if dates else [[float(text) for text in texts]]
    if all(_WEEK.fullmatch(text) for text in texts):
        weeks = _made(texts, _WEEK, lambda year, week, day: datetime.datetime.fromisocalendar(year, week, day or 1))
        return [weeks] if weeks else []
    quarters = [_QUARTER.fullmatch(text) for text in texts]
    if all(quarters):
        found = _made(texts, _QUARTER, lambda a, b, c, d: datetime.datetime(a or d, 3 * (b or c) - 2, 1))
        return [found] if found else []
    if not any(character.isdecimal() for character in texts[0]):
        return []
    texts = [_UTC.sub(r"\1 +0000", text) for text in texts]
    likely = _by_shape().get(_shape(texts[0], _ZONE, "[A-Za-z]{3}"), ())
    possible = [form for form in likely if _parsed(texts[:1], form)]
    found = [(form, _parsed(texts, form)) for form in possible]
    found = [(form, dates) for form, dates in found if dates]
    year_last = [(form, dates) for form, dates in found if not form.startswith("%y")]
    found = year_last or found  # a year of two digits comes first only where nothing else can
    earlier = [_from_1900(dates) for form, dates in found if "%y" in form]
    return [*(dates for _, dates in found), *filter(None, earlier)]


def _shape(text, zone, month):
    """What a date and its form have in common: the signs between numbers, whether a zone ends it, a month's name."""
    bare = re.sub(zone, "", text) if ":" in text or "%M" in text else text
    return re.sub("%?[A-Za-z0-9]", "", bare), bare != text, re.search(month, text) is not None


@functools.cache
def _by_shape():
    """{shape: forms}. strptime compiles each form anew, so that trying all of them would be slow."""
    found = {}
    for form in _FORMATS:
        found.setdefault(_shape(form, " ?%z", "%[bB]"), []).append(form)
    return found


def _made(texts, pattern, of):
    """Dates from the numbers in the groups of a pattern, or None where one is no date."""
    try:
        return [of(*(int(part) if part else 0 for part in pattern.fullmatch(text).groups())) for text in texts]
    except ValueError:
        return None


def _from_1900(dates):
    """Another reading of years of two digits: the first year is in the 20th century, and 00 follows 99; or None.

    strptime takes 69 to 99 as years from 1969 on and 00 to 68 as years from 2000 on.
    """
    first = dates[0].year % 100
    try:
        found = [date.replace(year=date.year % 100 + (1900 if date.year % 100 >= first else 2000)) for date in dates]
    except ValueError:  # 29 February 1900
        return None
    far = any(abs(later.year - earlier.year) > 50 for earlier, later in zip(found, found[1:]))
    return None if far else found


def _parsed(texts, form):
    try:
        shape = len(texts[0])
        if (
            form.startswith("%Y-%m-%d")
            and "%p" not in form
            and shape in (10, 16, 19)
            and all(len(text) == shape and text[4] == text[7] == "-" for text in texts)
        ):
            datetime.datetime.strptime(texts[0], form)
            return [datetime.datetime.fromisoformat(text) for text in texts]  # the same, much faster
        return [datetime.datetime.strptime(text, form) for text in texts]
    except ValueError:
        return None


def check_steps(dates, where, name, allow_gaps, path) -> None:
    """Check that dates rise by even steps, in at least one reading.

    Parameters
    ----------
    dates : (texts, readings) as `as_dates` gives them
    where : i -> "file, line n" of a row
    name : of the column
    allow_gaps : uneven steps are counted and reported instead

    Raises
    ------
    ValueError  a date falls or repeats, or steps are uneven; the message names the line and both dates.
    """
    texts, readings = dates
    faults = [_fault(reading) for reading in readings]
    if any(fault is None for fault in faults):
        return
    rising = [fault for fault in faults if fault[1] is not None]
    place, usual, number = rising[0] if rising else faults[0]
    pair = f"{where(place)}: {texts[place]!r} follows {texts[place - 1]!r} in the column {name!r}"
    if usual is None:
        raise ValueError(
            f"{pair}, but dates must rise: sort the rows by time and give each time one row (several series: one "
            "column for each)"
        )
    if not allow_gaps:
        raise ValueError(
            f"{pair}, but most rows are {usual} apart: fill the gap, or take the rows as evenly spaced with "
            "allow_gaps=True (--allow-gaps)"
        )
    say(f"{path}: {counted(number, 'uneven step')} in the dates of {name!r}; the rows are taken as evenly spaced")


def check_times(series, exog=None) -> None:
    """Check that the times of a pandas Series or frame rise by even steps, and that other variables have the same; other indexes do not count.

    Raises
    ------
    ValueError  a time falls or repeats, steps are uneven, or the times of exog are others; the message names the times.
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
            f"{pair}, but most rows are {usual} apart: fill the gap, or give series.to_numpy() to take the rows as evenly spaced"
        )
    others = _times(exog)
    if others is not None and not times.equals(others):
        raise ValueError("the index of exog differs from that of the series: give exog.loc[series.index]")


def _times(given):
    """The index of a pandas Series or frame if it holds times, as time stamps; else None."""
    index = getattr(given, "index", None)
    if hasattr(index, "to_timestamp"):
        return index.to_timestamp()
    return index if hasattr(index, "to_pydatetime") else None


def _fault(dates):
    """None if steps are even; else (first row at fault, usual step or None if dates fall, rows at fault)."""
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


def _steps(dates):
    """The steps between dates and how to show one: in months if all are the same day of their month, or its last."""
    if isinstance(dates[0], float):
        return [later - earlier for earlier, later in zip(dates, dates[1:])], "{:g}".format
    day = datetime.timedelta(days=1)
    same_day = len({(date.day, date.time()) for date in dates}) == 1 or all((date + day).day == 1 for date in dates)
    if same_day and all((a.year, a.month) != (b.year, b.month) for a, b in zip(dates, dates[1:])):
        months = [12 * date.year + date.month for date in dates]
        return [later - earlier for earlier, later in zip(months, months[1:])], lambda step: counted(step, "month")
    return [later - earlier for earlier, later in zip(dates, dates[1:])], str


def _is_weekend(earlier, later, usual):
    """Whether a step of daily dates leaves out Saturday and Sunday only."""
    day = datetime.timedelta(days=1)
    return usual == day and earlier.weekday() == 4 and later - earlier == 3 * day

"""Shared by the readers of other libraries' files: errors that name the file, and JSON from untrusted files."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re

from fastrnn._files import schema

MOST_TIMES = 4  # limit on the bytes of all arrays, as a multiple of the file's (for tied weights)
UNNAMED = ("this model", "these bytes", "this node")  # sources without a file name
_LONGEST = 500  # characters of another library's error that are shown


@contextlib.contextmanager
def reading(source):
    """Turn errors that are raised inside into one-line messages that name the source.

    The errors are ValueError, NotImplementedError, OSError, ImportError and MemoryError. Other libraries raise nearly
    every class for a damaged file, even some that are not derived from Exception; they become one of these.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except OSError as error:
        if error.filename is None and str(source) not in str(error):
            raise OSError(f"{source}: {_text(error)}") from None
        raise
    except MemoryError as error:
        raise MemoryError(named(source, str(error) or "its content does not fit")) from None
    except RecursionError:
        raise ValueError(f"{source} is nested too deeply") from None
    except NotImplementedError as error:
        raise NotImplementedError(named(source, error)) from error.__cause__
    except ImportError:
        raise
    except ValueError as error:
        if type(error) is ValueError:
            raise ValueError(named(source, error)) from error.__cause__
        raise ValueError(f"{source} is damaged: {_text(error)}") from None  # UnicodeDecodeError and the like
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"{source} is damaged: {_text(error)}") from error


def named(source, error):
    """Return the message of an error in one line, with the name of the source."""
    name = str(source) or "''"
    parts = [_cut(part) for part in " ".join(str(error).split()).split(name)]
    text = name.join(parts)[: 4 * _LONGEST + len(name)]
    return text if len(parts) > 1 or name in UNNAMED else f"{name}: {text}"


def _cut(text):
    """Shorten very long names in a message."""
    return re.sub(r"\S{161,}", lambda found: f"{found[0][:80]}…{found[0][-40:]}", text)


def _text(error):
    """Return class and message of another library's error in one line of limited length."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def check_total(source, needed, size):
    """Refuse a file whose arrays take much more memory than its size.

    Parameters
    ----------
    source : object
        Name of the file.
    needed : int
        Size of all arrays in bytes.
    size : int
        Size of the file in bytes.
    """
    if needed > MOST_TIMES * size:
        raise ValueError(
            f"{source} has {size} bytes, but its tensors take {needed}: at most {MOST_TIMES} times the size of the "
            "file is accepted, for weights with several names"
        )


def check_text(text):
    """Refuse a text with half of a surrogate pair, which UTF-8 cannot encode."""
    if not schema.is_unicode(text):
        raise ValueError(f"{schema.shown(text)} contains half of a surrogate pair, so it is not valid Unicode")


def parse_json(source, text, most):
    """Parse JSON without duplicate keys or NaN. most : largest number of characters, or bytes."""
    if len(text) > most:
        raise ValueError(f"{source} has {len(text)} characters, but at most {most} are accepted")
    try:
        found = schema.parse(text if isinstance(text, bytes) else text.encode("utf-8"))
        _check_values(found)
    except json.JSONDecodeError as error:
        raise ValueError(f"{source} is not JSON: {error}") from None
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    return found


def _check_values(value):
    """Refuse values that Python accepts but JSON does not have: NaN, infinities, halves of surrogate pairs."""
    todo = [value]
    while todo:
        value = todo.pop()
        if isinstance(value, (dict, list)):
            todo += [*value.values(), *value] if isinstance(value, dict) else value
        elif isinstance(value, str):
            check_text(value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{value} is not a valid JSON number")


def check_regular(path):
    """Refuse other than regular files before they are opened: a pipe would block, and a device may have no end."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{path} is a directory, a pipe or a device, but a regular file is needed")

"""What the readers of other libraries' files share: errors that name the file, and JSON that is not trusted."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re

from fastrnn._files import schema

MOST_TIMES = 4  # bytes of all arrays that a file may ask for, as a multiple of its own: tied weights have several names
UNNAMED = ("this model", "these bytes", "this node")  # sources that have no name
_LONGEST = 500  # characters of an error of another library


@contextlib.contextmanager
def reading(source):
    """Raise what goes wrong inside as one sentence that names the source.

    The readers raise ValueError, NotImplementedError, OSError, ImportError or MemoryError. What other libraries raise for a
    damaged file (nearly every class, and ones that are no Exception) becomes one of these.
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
        raise MemoryError(named(source, str(error) or "what it asks for")) from None
    except RecursionError:
        raise ValueError(f"{source}: it is nested too deeply") from None
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
    """The message of an error, in one line, that names the source."""
    name = str(source) or "''"
    parts = [_cut(part) for part in " ".join(str(error).split()).split(name)]
    text = name.join(parts)[: 4 * _LONGEST + len(name)]
    return text if len(parts) > 1 or name in UNNAMED else f"{name}: {text}"


def _cut(text):
    """A message without the middle of very long names."""
    return re.sub(r"\S{161,}", lambda found: f"{found[0][:80]}…{found[0][-40:]}", text)


def _text(error):
    """The class and the message of another library's error, in one line that is not too long."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def check_total(source, needed, size):
    """Refuse a file whose arrays take more memory than its own bytes explain.

    Parameters
    ----------
    needed : bytes of all arrays that it asks for
    size : bytes of the file
    """
    if needed > MOST_TIMES * size:
        raise ValueError(
            f"{source} has {size} bytes, but its tensors ask for {needed}: at most {MOST_TIMES} times the file's size "
            "is read, for weights that several names share"
        )


def check_text(text):
    """Refuse a text that cannot be written anywhere, as UTF-8 has no halves of surrogate pairs."""
    if not schema.is_unicode(text):
        raise ValueError(f"{schema.shown(text)} has half of a surrogate pair, so it is no Unicode text")


def parse_json(source, text, most):
    """JSON in which every key is there once and every number is one; `most`: characters, or bytes, that it may have."""
    if len(text) > most:
        raise ValueError(f"{source} has {len(text)} characters; at most {most} are read")
    try:
        found = schema.parse(text if isinstance(text, bytes) else text.encode("utf-8"))
        _check_values(found)
    except json.JSONDecodeError as error:
        raise ValueError(f"{source} is not JSON: {error}") from None
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    return found


def _check_values(value):
    """Refuse what Python reads in JSON, but is none of its numbers, or no text: NaN, infinities, halves of surrogate pairs."""
    todo = [value]
    while todo:
        value = todo.pop()
        if isinstance(value, (dict, list)):
            todo += [*value.values(), *value] if isinstance(value, dict) else value
        elif isinstance(value, str):
            check_text(value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{value} is no number of JSON")


def check_regular(path):
    """Refuse what is no regular file before it is opened: a pipe blocks, and a device may have no end."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{path} is a directory, a pipe or a device, but a regular file is needed")

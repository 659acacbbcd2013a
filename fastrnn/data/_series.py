"""Readers of time series with a label each: the formats of the UCR/UEA archive."""

from __future__ import annotations

import os
import re

import numpy as np

from fastrnn.data._files import counted, floats, is_missing, is_number, lines, not_a_number, say, some

_FLAGS = ("timestamps", "missing", "univariate", "equallength", "classlabel", "targetlabel")
_KEYS = (*_FLAGS, "problemname", "dimensions", "dimension", "serieslength", "data")


def read_series(path: str | os.PathLike, *, labels: str | None = "class", encoding: str = "utf-8"):
    """Time series and a label each, in any format of the UCR/UEA archive: .tsv and .arff by their names, else .ts.

    Parameters
    ----------
    labels : "class": labels are classes (str); "number": they are numbers to predict; None: they are not needed
    encoding : of the file

    Returns
    -------
    X : list of (T_i, channels) float64
    y : list of str; an array (N,) float64 with labels="number"; None with labels=None

    Raises
    ------
    ValueError  as `read_ts`.

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


def read_ts(path: str | os.PathLike, *, labels: str | None = "class", encoding: str = "utf-8"):
    """Time series and a label each: the .ts files of the UCR/UEA archive.

    Each line after the header has the channels and, last, the label, separated by colons; values are separated by
    commas. What the header says (dimensions, lengths, classes) is checked. A file without a header has a label in each
    line; a header that names neither classes nor targets is obeyed where the labels are certain all the same. Lines
    that begin with # or % are comments.

    Parameters
    ----------
    labels, encoding : as in `read_series`; a file with ``@classLabel false`` needs labels=None, one with ``@targetLabel
        true`` "number"

    Returns
    -------
    X : list of (T_i, channels) float64
    y : list of str; an array (N,) float64 with labels="number"; None with labels=None

    Raises
    ------
    ValueError  a line has no label or one that the header does not name, or a channel in its place, a value is missing
        or no number, channels differ in length or number, the series have time stamps; the message names the line.

    Examples
    --------
    >>> with open("two.ts", "w") as file:
    ...     _ = file.write("@problemName Two\\n@data\\n1,2,3:4,5,6:up\\n7,8:9,10:down\\n")
    >>> X, y = read_ts("two.ts")
    >>> [x.shape for x in X], y
    ([(3, 2), (2, 2)], ['up', 'down'])
    """
    _check_labels(labels)
    header, X, y, first = {}, [], [], None
    for number, line in lines(path, encoding):
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
            raise ValueError(f"{where}: there is no label, which must stand last behind a colon (or @classLabel false)")
        if label is not None:
            _check_label(header, parts, label, where)
        first = first or number
        X.append(_channels(parts, path, number, X, first))
        _check_against_header(header, X[-1], label, where)
        y.append(label if labels != "number" else floats([label], path, number)[0])
    return _labelled(X, y, labels, path)


def _check_labels(labels):
    if labels not in ("class", "number", None):
        raise ValueError(f"labels={labels!r}, but it must be 'class', 'number' or None")


def _labelled(X, y, labels, path):
    some(X, y, path, "series")
    return X, None if labels is None else np.array(y) if labels == "number" else y


def _flag(header, key):
    """True or False as the header says; None if it does not."""
    return header[key][0] == "true" if key in header else None


def _has_labels(header):
    """Whether each line has a label, as the header says; None if it does not."""
    said = [_flag(header, key) for key in ("classlabel", "targetlabel")]
    return True if True in said else False if False in said else None


def _check_label(header, parts, label, where):
    """Whether what stands last is a label, not a channel; `parts` are the channels before it."""
    values = label.split(",")
    named = _flag(header, "classlabel") and label in header["classlabel"][1]
    if not named and len(values) > 1 and all(is_number(value) or is_missing(value) for value in values):
        raise ValueError(
            f"{where}: {label[:40]!r} stands where the label must stand, but it is a channel: write a label last, or "
            "'@classLabel false' into the header if there are none"
        )
    wanted = 1 if _flag(header, "univariate") else header.get("dimensions") or header.get("dimension")
    certain = _has_labels(header) or not header or wanted or not is_number(label) or "," in "".join(parts)
    if not certain:
        raise ValueError(
            f"{where}: it is not clear whether {label[:40]!r} is a label or a channel of one step: write '@classLabel "
            "true …', '@targetLabel true' or '@classLabel false' into the header"
        )


def _read_key(header, text, where, labels):
    """Put a line of the header into {key in lower case: (first word in lower case, further words, whole line)}."""
    key, _, rest = text[1:].partition(" ")
    key, words = key.lower(), rest.split()
    if key not in _KEYS:
        raise ValueError(f"{where}: {text[:60]!r} is not a line of a .ts header (@{', @'.join(_KEYS)})")
    if "data" in header or key in header:
        raise ValueError(
            f"{where}: {text[:60]!r} stands {'after @data' if 'data' in header else 'in the header twice'}"
        )
    header[key] = (words[0].lower() if words else "", words[1:], text)
    if key in _FLAGS and header[key][0] not in ("true", "false"):
        raise ValueError(f"{where}: {text[:60]!r} must say true or false")
    if key in ("dimensions", "dimension", "serieslength") and not re.fullmatch("[0-9]{1,18}", header[key][0]):
        raise ValueError(f"{where}: {text[:60]!r} must have a whole number")
    if key == "timestamps" and _flag(header, key):
        raise ValueError(
            f"{where}: {text!r}: series with time stamps are not read: write evenly spaced values without them"
        )
    if key == "data":
        _check_kind(_flag(header, "classlabel"), _flag(header, "targetlabel"), header, where, labels)


def _check_kind(classes, numbers, header, where, labels):
    """Whether the labels that the header announces are those that are asked for."""
    if classes and numbers:
        raise ValueError(f"{where}: the header has both '@classLabel true' and '@targetLabel true'")
    if labels == "class" and numbers:
        raise ValueError(
            f"{where}: {header['targetlabel'][2]!r} says that the labels are numbers: read them with labels='number' "
            "(fastrnn train regress)"
        )
    if labels == "number" and classes:
        raise ValueError(
            f"{where}: {header['classlabel'][2][:60]!r} says that the labels are classes: read them with "
            "labels='class' "
            "(fastrnn train classify)"
        )
    said = next((header[key][2] for key in ("classlabel", "targetlabel") if _flag(header, key) is False), None)
    if labels is not None and said is not None and not (classes or numbers):
        raise ValueError(
            f"{where}: {said!r} says that the series have no labels, but training and evaluation need them"
        )


def _channels(parts, path, number, before, first):
    """(T, channels) of the texts of the channels."""
    values = [floats(part.split(","), path, number) for part in parts]
    if len({len(channel) for channel in values}) > 1:
        lengths = sorted({len(channel) for channel in values})
        raise ValueError(f"{path}, line {number}: its channels have different lengths, {lengths}")
    if before and len(values) != before[0].shape[1]:
        raise ValueError(
            f"{path}, line {number}: it has {len(values)} channels, but line {first} has {before[0].shape[1]}"
        )
    return np.array(values).T


def _check_against_header(header, x, label, where):
    wanted = header.get("dimensions") or header.get("dimension")
    if _flag(header, "univariate") and x.shape[1] != 1:
        raise ValueError(f"{where}: it has {x.shape[1]} channels, but the header says {header['univariate'][2]!r}")
    if wanted and x.shape[1] != int(wanted[0]):
        raise ValueError(f"{where}: it has {x.shape[1]} channels, but the header says {wanted[2]!r}")
    if _flag(header, "equallength") and "serieslength" in header and len(x) != int(header["serieslength"][0]):
        raise ValueError(f"{where}: it has {len(x)} steps, but the header says {header['serieslength'][2]!r}")
    names = header["classlabel"][1] if _flag(header, "classlabel") else []
    if names and label not in names:
        raise ValueError(f"{where}: its label {label[:40]!r} is not one of the header's, {', '.join(names)[:80]}")


def read_tsv(path: str | os.PathLike, *, labels: str | None = "class", encoding: str = "utf-8"):
    """Time series of one channel and a label each: the .tsv files of the UCR archive.

    Each line has the label and the values, separated by tabs. All lines have the same number of fields; a shorter
    series ends with ``NaN``, which is left out.

    Parameters, Returns, Raises
    ---------------------------
    As `read_series`.

    Examples
    --------
    >>> with open("numbers.tsv", "w") as file:
    ...     _ = file.write("0.5\\t1\\t2\\n1.5\\t3\\t4\\n")
    >>> read_tsv("numbers.tsv", labels="number")[1]
    array([0.5, 1.5])
    """
    _check_labels(labels)
    X, y, width, first, padded = [], [], None, None, 0
    for number, line in lines(path, encoding):
        if not line.strip():
            continue
        label, *values = line.split("\t")
        where = f"{path}, line {number}"
        if not values or not label.strip():
            raise ValueError(f"{where}: {line[:40]!r} must be a label, a tab and values separated by tabs")
        width, first = width or len(values), first or number
        if len(values) != width:
            raise ValueError(f"{where}: it has {len(values)} values, but line {first} has {width}")
        X.append(_unpadded([values], path, number, {"nan"}))
        padded += width - len(X[-1])
        y.append(label.strip() if labels != "number" else floats([label], path, number)[0])
    _say_padding(path, padded)
    return _labelled(X, y, labels, path)


def _unpadded(channels, path, number, padding):
    """(T, channels) without the steps at the end at which all channels are padding."""
    steps = list(zip(*channels))
    kept = max(
        (t for t, step in enumerate(steps, 1) if any(value.strip().lower() not in padding for value in step)), default=0
    )
    if not kept:
        raise ValueError(f"{path}, line {number}: the series has no values")
    return np.array([floats(step, path, number) for step in steps[:kept]])


def _say_padding(path, padded):
    if padded:
        say(f"{path}: {counted(padded, 'missing step')} at the ends of shorter series left out")


_NAME = r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s'"{]+)"""
_ATTRIBUTE = re.compile(rf"@attribute\s+{_NAME}\s*(.*)", re.IGNORECASE)
_FIELD = re.compile(r"""\s*(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|([^,'"]*?))\s*(,|$)""")

_ESCAPE = re.compile(r"\\(.)")
_SIGNS = {"n": "\n", "r": "\r", "t": "\t"}


def read_arff(path: str | os.PathLike, *, labels: str | None = "class", encoding: str = "utf-8"):
    """Time series and a label each: the .arff files of the UCR/UEA archive.

    One numeric attribute for each step, or a relational attribute that has one line for each channel; the label is the
    last attribute. Missing steps at the end of a series are left out; a missing value inside is an error.

    Parameters, Returns, Raises
    ---------------------------
    As `read_series`.

    Examples
    --------
    >>> with open("one.arff", "w") as file:
    ...     _ = file.write("@relation r\\n@attribute a numeric\\n@attribute b numeric\\n@attribute y {up,down}\\n@data\\n1,2,up\\n")
    >>> read_arff("one.arff")
    ([array([[1.],
           [2.]])], ['up'])
    """
    _check_labels(labels)
    header, X, y, padded, first = None, [], [], 0, None
    head = []
    for number, line in lines(path, encoding):
        text, where = line.strip(), f"{path}, line {number}"
        if not text or text[0] == "%":
            continue
        if header is None:
            head.append((where, text))
            header = _arff_header(head, labels) if text.lower() == "@data" else None
            continue
        fields = _arff_fields(text, where)
        if len(fields) != header.fields:
            raise ValueError(f"{where}: it has {len(fields)} fields, but the header has {header.fields} attributes")
        *values, label = fields
        channels = [channel.split(",") for channel in re.split(r"\n|\\n", values[0])] if header.relational else [values]
        if len({len(channel) for channel in channels}) > 1 or len(channels[0]) != header.steps:
            found = sorted({len(channel) for channel in channels})
            raise ValueError(
                f"{where}: its channels have {', '.join(map(str, found))} steps, but the header has {header.steps}"
            )
        if X and len(channels) != X[0].shape[1]:
            raise ValueError(f"{where}: it has {len(channels)} channels, but line {first} has {X[0].shape[1]}")
        first = first or number
        X.append(_unpadded(channels, path, number, {"nan", "?"}))
        padded += header.steps - len(X[-1])
        y.append(_arff_label(label, header, labels, where))
    if header is None:
        raise ValueError(f"{path} has no @data")
    _say_padding(path, padded)
    return _labelled(X, y, labels, path)


class _Arff:
    """fields : of a line; relational : whether the first is; steps : of a series; classes : set, or None for numbers"""

    def __init__(self, fields, relational, steps, classes):
        self.fields, self.relational, self.steps, self.classes = fields, relational, steps, classes


def _arff_header(head, labels):
    """The attributes; head: [(where, text)]."""
    outer, inner, nested = [], [], None
    for where, text in head:
        found = _ATTRIBUTE.fullmatch(text)
        if found is None:
            if text.lower().startswith("@end") and nested is not None:
                nested = None
            elif not text.lower().startswith(("@relation", "@data")):
                raise ValueError(f"{where}: {text[:60]!r} is not a line of an .arff header")
            continue
        name, kind = found[1].strip("'\""), found[2].strip()
        (inner if nested is not None else outer).append((where, name, kind))
        nested = name if kind.lower() == "relational" else nested
    if len(outer) < 2:
        raise ValueError(
            f"{head[-1][0]}: the header has {len(outer)} attributes, but must have those of the series and, last, "
            "the label"
        )
    *series, (where, name, kind) = outer
    relational = series[0][2].lower() == "relational"
    if relational and len(series) > 1:
        raise ValueError(f"{series[1][0]}: a relational attribute must be followed by the label only")
    for place, attribute, of in inner if relational else series:
        if of.lower() not in ("numeric", "real", "integer"):
            raise ValueError(
                f"{place}: the attribute {attribute!r} is {of[:40]!r}, but the steps of a series must be numeric"
            )
    classes = None
    if kind.startswith("{") and kind.endswith("}"):
        classes = set(_arff_fields(kind[1:-1], where))
    elif labels == "class":
        raise ValueError(
            f"{where}: the last attribute {name!r} is {kind!r}, not a set of classes: numbers need labels='number' "
            "(train regress)"
        )
    if labels == "number" and classes is not None:
        raise ValueError(
            f"{where}: the last attribute {name!r} is a set of classes: they need labels='class' (train classify)"
        )
    return _Arff(len(outer), relational, len(inner if relational else series), classes)


def _arff_fields(text, where):
    """The fields of a line, without quotes and the escapes in them."""
    found, place = [], 0
    if text.startswith("{"):
        raise ValueError(f"{where}: sparse data are not read")
    while True:
        field = _FIELD.match(text, place)
        if field is None:
            raise ValueError(f"{where}: a quote is not closed, or text follows it")
        quoted = field[1] if field[1] is not None else field[2]
        found.append(field[3] if quoted is None else _ESCAPE.sub(lambda sign: _SIGNS.get(sign[1], sign[1]), quoted))
        place = field.end()
        if field[4] == "":
            return found


def _arff_label(label, header, labels, where):
    if labels is None:
        return label
    if labels == "number":
        if not is_number(label):
            raise ValueError(f"{where}: {not_a_number(label)}")
        return float(label)
    if label not in header.classes:
        raise ValueError(
            f"{where}: its label {label[:40]!r} is not one of the header's, {', '.join(sorted(header.classes))[:80]}"
        )
    return label

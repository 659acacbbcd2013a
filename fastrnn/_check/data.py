"""Checks of the data that models are fitted to: sequences, numbers, labels, sentences."""

from __future__ import annotations

import numbers

import numpy as np

from fastrnn._check import unmasked


def is_frame(value) -> bool:
    """Whether a value is a data frame, with named columns."""
    return hasattr(value, "columns") and hasattr(value, "to_numpy")


def numeric(name: str, value) -> np.ndarray:
    """Convert to an array of real numbers. Objects become float64, torch tensors arrays of their own dtype."""
    if hasattr(value, "detach"):  # a tensor, which may need a gradient
        value = value.detach().cpu()
    unmasked(name, value)
    try:
        found = np.asarray(value)
    except ValueError:  # nested lists of different lengths
        raise ValueError(f"{name} is ragged: its elements have different shapes") from None
    if found.dtype.kind == "O":
        for place, element in np.ndenumerate(found):
            if not isinstance(element, numbers.Real):
                at = f" at {place if len(place) > 1 else place[0]}" if place else ""
                raise TypeError(f"{name} has {_shown(element)}{at}, but it must hold real numbers")
        found = found.astype(np.float64)
    if found.dtype.kind not in "fiub":
        raise TypeError(f"{name} is {found.dtype}, but it must hold real numbers")
    return found


def _shown(element):
    return f"{type(element).__name__} of shape {np.shape(element)}" if np.ndim(element) else repr(element)


def real_numbers(name: str, value) -> np.ndarray:
    """Check finite real numbers; returns them as float64."""
    value = numeric(name, value)
    if not np.isfinite(value).all():
        where = np.argwhere(~np.isfinite(value))[0]
        raise ValueError(f"{name} has {value[tuple(where)]} at {tuple(where.tolist())}: replace or remove such values")
    return value.astype(np.float64, copy=False)


def columns(value) -> list | None:
    """Column names of a data frame, or of the first in a list of them; None for other values."""
    first = value[0] if isinstance(value, (list, tuple)) and len(value) else value
    return [str(name) for name in first.columns] if is_frame(first) else None


def by_name(name: str, frame, names: list | None):
    """Reorder the columns of a data frame. Other values are returned unchanged, and so are all if `names` is None."""
    if names is None or not is_frame(frame):
        return frame
    own = [str(column) for column in frame.columns]
    if own == names:
        return frame
    if sorted(own) != sorted(names) or len(set(own)) < len(own):
        raise ValueError(f"{name} has the columns {', '.join(own)}, but the model needs {', '.join(names)}")
    return frame.iloc[:, [own.index(column) for column in names]] if hasattr(frame, "iloc") else frame[names]


def sequences(value, width: int | None = None, names: list | None = None) -> list:
    """Check N sequences; returns them as a list of arrays (T, features) of their own dtypes.

    Parameters
    ----------
    value : list of arrays or data frames, array (N, T, features), or object array of arrays
        The sequences. An array may be padded with NaN at the ends.
    width : int, optional
        Number of features that the model was fitted with.
    names : list of str, optional
        Names of the features in data frames that the model was fitted with.
    """
    if value is None or isinstance(value, (str, numbers.Number)):
        raise TypeError(f"X is {value!r:.40}, but it must be a list of N arrays (T, features)")
    unmasked("X", value)
    if is_frame(value):
        value = nested(value)
    elif hasattr(value, "detach"):
        value = numeric("X", value)
    if isinstance(value, np.ndarray) and value.dtype != object:
        if value.ndim != 3:
            raise ValueError(
                f"X must be an array (N, T, features) or a list of N arrays (T, features), got shape {value.shape}"
            )
        value = without_padding(value)
    if isinstance(value, np.ndarray) and value.ndim == 2:
        value = stacked_cells(value)
    known = "this model was fitted with"
    names = columns(value) if names is None else names
    checked = []
    for n, sequence in enumerate(value):
        a = numeric(f"sequence {n}", by_name(f"sequence {n}", sequence, names))
        if a.ndim != 2:
            hint = ": for one feature pass x[:, None]" if a.ndim == 1 else ""
            raise ValueError(f"sequence {n} has shape {a.shape}, but it must be (T, features){hint}")
        if not len(a):
            raise ValueError(f"sequence {n} has no steps: leave it out")
        if width is None:
            width, known = a.shape[1], "sequence 0 has"
        if a.shape[1] != width:
            raise ValueError(f"sequence {n} has {a.shape[1]} features, but {known} {width}")
        if not np.isfinite(a).all():
            t, feature = np.argwhere(~np.isfinite(a))[0]
            raise ValueError(
                f"sequence {n} has {a[t, feature]} at step {t}, feature {feature}: replace such values, "
                "or leave the sequence out"
            )
        checked.append(a)  # not copied: it may be a memory-mapped file
    if not checked:
        raise ValueError("there are no sequences")
    return checked


def without_padding(X):
    """Remove the steps at the end of each sequence of (N, T, features) that are NaN in all features."""
    if X.dtype.kind != "f" or not X.size or not np.isnan(X[:, -1]).any():
        return X
    valid = ~np.isnan(X).all(2)
    return [x[: len(row) - int(row[::-1].argmax())] if row.any() else x[:0] for x, row in zip(X, valid)]


def nested(frame):
    """Convert a data frame whose cells hold arrays (T,), one for each sequence and feature, to a list of frames."""
    if getattr(getattr(frame, "index", None), "nlevels", 1) > 1:
        raise ValueError(
            "X is a data frame whose index has several levels: pass a list of frames, "
            "[x for _, x in X.groupby(level=0)]"
        )
    cells = frame.to_numpy()
    if cells.dtype != object or not cells.size or np.ndim(cells[0, 0]) != 1:
        raise ValueError(
            "X is one data frame, but it must be a list of N frames or arrays (T, features): for one sequence pass [X]"
        )
    return [type(frame)(x, columns=frame.columns) for x in stacked_cells(cells)]


def stacked_cells(cells):
    """Convert an object array (N, features) of arrays (T_i,) to a list of arrays (T_i, features)."""
    found = []
    for n, row in enumerate(cells):
        steps = [np.shape(cell) for cell in row]
        if len(set(steps)) > 1 or len(steps[0]) != 1:
            raise ValueError(
                f"the features of sequence {n} have the shapes {', '.join(map(str, steps))}, but all must have the "
                "same shape (T,)"
            )
        found.append(np.stack([numeric(f"sequence {n}, feature {k}", cell) for k, cell in enumerate(row)], 1))
    return found


def labels(y, N: int) -> np.ndarray:
    """Check N labels, strings or whole numbers; returns them as an array (N,)."""
    if y is None or isinstance(y, str):
        raise TypeError(f"y is {y!r:.40}, but it must be a list or array of {N} labels")
    given = y.detach().cpu() if hasattr(y, "detach") else y
    y = np.asarray(given) if hasattr(given, "dtype") else _object_array(given)
    if y.shape != (N,):
        raise ValueError(f"y has shape {y.shape}, but there are {N} sequences: pass one label for each")
    if y.dtype.kind == "O":
        found = y.tolist()
        kinds = (str, numbers.Integral)
        kind = next((kind for kind in kinds if found and isinstance(found[0], kind)), None)
        wrong = next((n for n, label in enumerate(found) if kind is None or not isinstance(label, kind)), None)
        if wrong is not None:
            hint = f", and y[0] is {found[0]!r}" if kind is not None else ""
            raise TypeError(
                f"y[{wrong}] is {found[wrong]!r}{hint}, but labels must be all strings or all whole numbers"
            )
        y = np.array(found) if found else y
    if y.dtype.kind not in "iubU":
        hint = ": convert them with y.astype(int)" if y.dtype.kind == "f" else ""
        raise TypeError(f"y is {y.dtype}, but labels must be strings or whole numbers{hint}")
    return y


def _object_array(values):
    """Convert a list to an object array, so that no element is converted."""
    values = list(values)
    if any(np.ndim(value) for value in values):
        return np.asarray(values)
    found = np.empty(len(values), object)
    found[:] = values
    return found


def tagged(X, y):
    """Check N sentences and, unless y is None, a tag for each word; returns lists of lists."""
    sentences = [list(sentence) for sentence in X]
    for n, (sentence, given) in enumerate(zip(sentences, X)):
        if isinstance(given, str):
            raise TypeError(f"sentence {n} is the str {given[:40]!r}, but it must be a list of words")
        if not sentence:
            raise ValueError(f"sentence {n} has no words: leave it out")
        for k, word in enumerate(sentence):
            if not isinstance(word, str) or not word:
                raise ValueError(
                    f"word {k} of sentence {n} is {word!r}, but it must be a str of at least one character"
                )
    if not sentences:
        raise ValueError("there are no sentences")
    if y is None:
        return sentences, None
    tags = [list(row) for row in y]
    if len(tags) != len(sentences):
        raise ValueError(f"y has {len(tags)} lists of tags, but there are {len(sentences)} sentences")
    for n, (sentence, row) in enumerate(zip(sentences, tags)):
        if len(row) != len(sentence):
            raise ValueError(f"sentence {n} has {len(sentence)} words, but {len(row)} tags")
        if not all(isinstance(tag, str) for tag in row):
            raise TypeError(
                f"the tags of sentence {n} must be str, got {next(tag for tag in row if not isinstance(tag, str))!r}"
            )
    return sentences, tags

"""Pretrained word vectors: a mapping, or a text file of GloVe or word2vec."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from fastrnn.data._files import FLOAT32_MAX, check_file


def read_vectors(source: Mapping | str | os.PathLike, words: list[str], size: int) -> dict[int, np.ndarray]:
    """Read the vectors of those words that have one.

    The blank before a word is ignored. A word without a vector takes that of its lower-case form.

    Parameters
    ----------
    source : dict of str to array_like, or str or PathLike
        The vectors by word, or the name of a UTF-8 text file with a line "word number number ..." for each word. A
        first line of two numbers, as word2vec writes it, is a header.
    words : list of str
        The words of the model.
    size : int
        Size of the vectors.

    Returns
    -------
    dict of int to (size,) ndarray
        Vectors, float64, by the index of the word in `words`.

    Raises
    ------
    ValueError
        If a vector has the wrong size, if a line is damaged (the numbers of other words are counted but not parsed), or
        if no word has a vector.

    Examples
    --------
    >>> read_vectors({"be": [1, 2], "not": [3, 4]}, ["to", " be", " Not"], 2)
    {1: array([1., 2.]), 2: array([3., 4.])}
    """
    wanted = {form for word in words for form in _forms(word)}
    read = _in_file if isinstance(source, (str, os.PathLike)) else _in_mapping
    found = read(source, wanted, size)
    places = {}
    for place, word in enumerate(words):
        form = next((form for form in _forms(word) if form in found), None)
        if form is not None:
            places[place] = found[form]
    if not places:
        raise ValueError(
            f"none of the model's {len(words)} words has a pretrained vector: are they of the same language and "
            "spelling?"
        )
    return places


def _forms(word):
    """The forms under which a word is looked up, the best first."""
    word = word.lstrip(" ")
    return word, word.lower()


def _in_mapping(source, wanted, size):
    found = {}
    for word in wanted:
        if word in source:
            vector = np.asarray(source[word], np.float64)
            if vector.shape != (size,):
                raise ValueError(
                    f"the pretrained vector of {word!r} has shape {vector.shape}, but the model has "
                    f"embedding_size={size}"
                )
            found[word] = vector
            if not (np.abs(vector) <= FLOAT32_MAX).all():
                raise ValueError(
                    f"the pretrained vector of {word!r} has numbers that are not finite, or beyond float32"
                )
    return found


def _in_file(path, wanted, size):
    found, name = {}, os.fspath(path)
    check_file(path)
    with open(path, "rb") as lines:
        for n, line in enumerate(lines, 1):
            if n == 1 and _is_head(line, name, size):
                continue
            word, *numbers = line.rsplit(None, size) or [b""]
            if len(numbers) != size or (b" " in word and _is_number(word.rsplit(None, 1)[-1])):
                fields = len(line.split())
                raise ValueError(
                    f"line {n} of {name} must be a word and {size} numbers, but it has {fields} fields: {line[:40]!r}"
                )
            try:
                word = word.decode("utf-8")
            except UnicodeDecodeError:
                raise ValueError(f"line {n} of {name} is not UTF-8: {line[:40]!r}") from None
            if word in wanted and word not in found:
                if not all(map(_is_number, numbers)):
                    raise ValueError(f"line {n} of {name} must be a word and {size} finite numbers: {line[:40]!r}")
                found[word] = np.array(numbers, np.float64)
    return found


def _is_head(line, name, size):
    """Whether the first line is word2vec's header "words size". The size of the vectors is checked either way."""
    fields = line.split()
    head = len(fields) == 2 and all(field.isdigit() for field in fields)
    given = int(fields[1]) if head else len(fields) - 1
    if given != size:
        raise ValueError(f"the vectors in {name} have {given} numbers, but the model has embedding_size={size}")
    return head


def _is_number(field):
    try:
        return abs(float(field)) <= FLOAT32_MAX
    except ValueError:
        return False

"""Word vectors made elsewhere: a mapping, or a text file of GloVe or word2vec."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from fastrnn.data._files import FLOAT32_MAX, check_file


def read_vectors(source: Mapping | str | os.PathLike, words: list[str], size: int) -> dict[int, np.ndarray]:
    """The vectors of those of the words that have one: {place in words: (size,) float64}.

    The blank before a word does not count; a word without a vector takes that of its lower-case form.

    Parameters
    ----------
    source : {word: vector}, or the name of a UTF-8 text file with a line "word number number …" for each word; a first line with two
        numbers only, as word2vec writes it, is a head
    size : numbers of a vector

    Raises
    ------
    ValueError  a vector has another number of numbers, the message names both; a line is damaged, the message names the line (the
        numbers of words that are not asked for are counted, not read); no word has a vector.

    Examples
    --------
    >>> read_vectors({"be": [1, 2], "not": [3, 4]}, ["to", " be", " Not"], 2)
    {1: array([1., 2.]), 2: array([3., 4.])}
    """
    wanted = {form for word in words for form in _forms(word)}
    found = (
        _in_file(source, wanted, size) if isinstance(source, (str, os.PathLike)) else _in_mapping(source, wanted, size)
    )
    places = {}
    for place, word in enumerate(words):
        form = next((form for form in _forms(word) if form in found), None)
        if form is not None:
            places[place] = found[form]
    if not places:
        raise ValueError(
            f"none of the model's {len(words)} words has a pretrained vector: are they of the same language and spelling?"
        )
    return places


def _forms(word):
    """The names that a word may have elsewhere, the best first."""
    word = word.lstrip(" ")
    return word, word.lower()


def _in_mapping(source, wanted, size):
    found = {}
    for word in wanted:
        if word in source:
            vector = np.asarray(source[word], np.float64)
            if vector.shape != (size,):
                raise ValueError(
                    f"the pretrained vector of {word!r} has shape {vector.shape}, but the model has embedding_size={size}"
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
    """Whether the first line is word2vec's head "words numbers"; the number of numbers is checked either way."""
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

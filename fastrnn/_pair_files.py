"""Readers of pairs: translations, pronunciations, captions. They are in fastrnn.data."""

from __future__ import annotations

import csv
import os
import re
import zipfile

import numpy as np

from fastrnn._files import floats, is_number, lines, some


def read_parallel(source_path: str | os.PathLike, target_path: str | os.PathLike):
    """Sentences and their translations: two text files with as many lines.

    Lines are lower-cased and cut into words (runs of letters and digits) and single other signs. An empty line gives a sentence without
    words.

    Returns
    -------
    sources, targets : lists of lists of str

    Raises
    ------
    ValueError  the files have different numbers of lines, or none; the message names both numbers.

    Examples
    --------
    >>> from pathlib import Path
    >>> for name, text in (("a.de", "Ein Hund.\\nZwei Katzen!\\n"), ("a.en", "A dog.\\nTwo cats!\\n")):
    ...     _ = Path(name).write_text(text)
    >>> sources, targets = read_parallel("a.de", "a.en")
    >>> sources[0], targets[1]
    (['ein', 'hund', '.'], ['two', 'cats', '!'])
    """
    sides = []
    for path in (source_path, target_path):
        texts = [line for _, line in lines(path)]
        texts = texts[:-1] if texts[-1] == "" else texts  # behind the last line break
        sides.append([re.findall(r"\w+|[^\w\s]", text.lower()) for text in texts])
    if len(sides[0]) != len(sides[1]):
        numbers = f"{source_path} has {len(sides[0])} lines, but {target_path} has {len(sides[1])}"
        raise ValueError(f"{numbers}: they must be line by line the same")
    return some(*sides, source_path, "lines")


def read_pairs(path: str | os.PathLike, *, targets: bool = True):
    """Pairs of sequences, one a line: the source's words, a tab, the target's words; words are separated by blanks.

    A target may have no words.

    Parameters
    ----------
    targets : False gives the sources only, and a line may then end before its tab

    Returns
    -------
    sources, targets : lists of lists of str; without `targets` the sources

    Raises
    ------
    ValueError  a line has no tab or several, a source has no words, or there are no lines; the message names the line.

    Examples
    --------
    >>> with open("pairs.tsv", "w") as file:
    ...     _ = file.write("zwei hunde\\ttwo dogs\\nja\\tyes\\n")
    >>> read_pairs("pairs.tsv")
    ([['zwei', 'hunde'], ['ja']], [['two', 'dogs'], ['yes']])
    """
    sources, found = [], []
    texts = [line for _, line in lines(path)]
    for number, line in enumerate(texts[:-1] if texts[-1] == "" else texts, 1):  # behind the last line break is no line
        source, *rest = line.split("\t")
        if len(rest) != 1 and (targets or rest):
            raise ValueError(f"{path}, line {number}: it has {len(rest)} tabs, but must have 1, between source and target")
        if not source.split():
            raise ValueError(f"{path}, line {number}: the source has no words")
        sources.append(source.split())
        found.append(rest[0].split() if rest else [])
    sources, found = some(sources, found, path, "lines")
    return (sources, found) if targets else sources


def read_dictionary(path: str | os.PathLike) -> dict[str, list[list[str]]]:
    """Words and how they are pronounced: a pronouncing dictionary as CMUdict has it.

    A line has a word and its sounds; ``word(2)`` is another pronunciation of the word; digits for stress are left out, and a pronunciation
    that differs in nothing else is left out too. What stands behind ``#``, and lines that begin with ``;;;``, are comments.

    Returns
    -------
    {word: list of pronunciations}, each a list of str, in the order of the file

    Raises
    ------
    ValueError  a line has no sounds, or there are no words; the message names the line.

    Examples
    --------
    >>> with open("some.dict", "w") as file:
    ...     _ = file.write("a AH0\\na(2) EY1\\naachen AA1 K AH0 N # city\\n")
    >>> read_dictionary("some.dict")
    {'a': [['AH'], ['EY']], 'aachen': [['AA', 'K', 'AH', 'N']]}
    """
    found = {}
    for number, line in lines(path):
        fields = [] if line.startswith(";;;") else line.partition("#")[0].split()
        if len(fields) == 1:
            raise ValueError(f"{path}, line {number}: the word {fields[0]!r} has no sounds")
        if fields:
            variants = found.setdefault(re.sub(r"\(\d+\)$", "", fields[0]), [])
            sounds = [re.sub(r"\d", "", sound) for sound in fields[1:]]
            if sounds not in variants:
                variants.append(sounds)
    if not found:
        raise ValueError(f"{path} has no words")
    return found


def read_captions(path: str | os.PathLike, *, texts: bool = True):
    """Vectors and a text for each: an ``.npz`` file with the arrays `vectors` and `texts`, or a CSV with numbers and, last, the text.

    A first line of the CSV without numbers is a header.

    Parameters
    ----------
    texts : whether there must be texts; else the array may be missing, and a CSV whose last fields are all numbers has none

    Returns
    -------
    X : (N, D) float64
    y : list of N str, "" where there are no texts

    Raises
    ------
    ValueError  an array is missing or of another kind, numbers of vectors and texts differ, a field of the CSV is no number or missing.

    Examples
    --------
    >>> with open("captions.csv", "w") as file:
    ...     _ = file.write("width,height,text\\n1,2,tall\\n3,1,very wide\\n")
    >>> read_captions("captions.csv")
    (array([[1., 2.], [3., 1.]]), ['tall', 'very wide'])
    """
    return _captions_of_arrays(path, texts) if os.fspath(path).endswith(".npz") else _captions_of_table(path, texts)


def _captions_of_arrays(path, needed):
    try:
        with np.load(path, allow_pickle=False) as arrays:
            vectors = np.asarray(arrays["vectors"])
            texts = np.asarray(arrays["texts"]) if needed or "texts" in arrays else np.full(vectors.shape[:1], "")
    except KeyError as error:
        raise ValueError(f"{path} must have the arrays 'vectors' and 'texts': {error.args[0]}") from None
    except (ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a .npz file of plain arrays (objects are not read): {error}") from None
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiub":
        raise ValueError(f"{path}: vectors are {vectors.dtype} of shape {vectors.shape}, but they must be numbers of shape (N, D)")
    if texts.dtype.kind != "U" or texts.shape != vectors.shape[:1]:
        found = f"{texts.dtype} of shape {texts.shape}"
        raise ValueError(f"{path}: texts are {found}, but they must be {len(vectors)} str, one for each vector")
    return vectors.astype(float), texts.tolist()


def _captions_of_table(path, needed):
    reader = csv.reader(line for _, line in lines(path))
    rows = [(reader.line_num, row) for row in reader if row]
    if rows and not any(map(is_number, rows[0][1][:-1])):
        del rows[0]
    if not needed and all(is_number(row[-1]) for _, row in rows):
        rows = [(number, [*row, ""]) for number, row in rows]
    for number, row in rows:
        if len(row) < 2 or len(row) != len(rows[0][1]):
            wanted = max(2, len(rows[0][1]))
            raise ValueError(f"{path}, line {number}: it has {len(row)} fields, but must have {wanted}: numbers, and last the text")
    return some(np.array([floats(row[:-1], path, number) for number, row in rows]), [row[-1] for _, row in rows], path, "vectors")

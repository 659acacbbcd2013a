"""Readers of pairs: translations, pronunciations, captions."""

from __future__ import annotations

import io
import os
import re
import warnings
import zipfile

import numpy as np

from fastrnn.data._files import (
    FLOAT32_MAX,
    counted,
    floats,
    full_lines,
    full_rows,
    is_number,
    lines,
    may_be_number,
    read_bytes,
    rows,
    say,
    some,
)  # fmt: skip
from fastrnn.data._splitting import check_rule, first_cut, split_words

MOST_TIMES = 100  # of its own bytes that an archive may have when it is unpacked: vectors of zeros and ones pack well
_TEXT_NAMES = {"text", "texts", "caption", "captions", "description", "sentence", "words", "target", "label", "name"}


def read_parallel(
    source_path: str | os.PathLike,
    target_path: str | os.PathLike,
    *,
    splitting: str = "simple",
    encoding: str = "utf-8",
):
    """Sentences and their translations: two text files with as many lines, as ``wc -l`` counts them.

    Lines are lower-cased and cut into words and single other signs. An empty line gives a sentence without words.

    Parameters
    ----------
    splitting : "simple": words are runs of letters and digits; a text with combining marks, which it would cut off, is
        refused. "unicode": words end at Unicode's word boundaries (UAX 29), as in ``LanguageModel``; needs the package
        regex
    encoding : of both files

    Returns
    -------
    sources, targets : lists of lists of str

    Raises
    ------
    ValueError   the files have different numbers of lines, or none; the message names both numbers. Or
        splitting="simple" would cut a word.
    ImportError  splitting="unicode", and regex is not installed.

    Examples
    --------
    >>> from pathlib import Path
    >>> for name, text in (("a.de", "Ein Hund.\\nZwei Katzen!\\n"), ("a.en", "A dog.\\nTwo cats!\\n")):
    ...     _ = Path(name).write_text(text)
    >>> sources, targets = read_parallel("a.de", "a.en")
    >>> sources[0], targets[1]
    (['ein', 'hund', '.'], ['two', 'cats', '!'])
    """
    check_rule(splitting)
    sides = []
    for path in (source_path, target_path):
        sides.append([])
        for number, line in enumerate(full_lines(path, encoding), 1):
            text = line.lower()  # which may add combining marks: "İ" becomes "i" and U+0307
            if splitting == "simple" and first_cut(text) is not None:
                raise ValueError(
                    f"{path}, line {number}: {first_cut(text)!r} has combining marks, which splitting='simple' cuts "
                    "off: give "
                    "splitting='unicode'"
                )
            words = (
                re.findall(r"\w+|[^\w\s]", text)
                if splitting == "simple"
                else [word.strip() for word in split_words(text)]
            )
            sides[-1].append([word for word in words if word])
    if len(sides[0]) != len(sides[1]):
        numbers = f"{source_path} has {len(sides[0])} lines, but {target_path} has {len(sides[1])}"
        raise ValueError(f"{numbers}: they must be line by line the same")
    return some(*sides, source_path, "lines")


def read_pairs(path: str | os.PathLike, *, targets: bool = True, encoding: str = "utf-8"):
    """Pairs of sequences, one a line: the source's words, a tab, the target's words; words are separated by blanks.

    A target may have no words.

    Parameters
    ----------
    targets : False gives the sources only, and a line may then end before its tab
    encoding : of the file

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
    texts = [line for _, line in lines(path, encoding)]
    for number, line in enumerate(
        texts[:-1] if texts[-1] == "" else texts, 1
    ):  # after the last line end there is no line
        source, *rest = line.split("\t")
        if len(rest) != 1 and (targets or rest):
            raise ValueError(
                f"{path}, line {number}: it has {len(rest)} tabs, but must have 1, between source and target"
            )
        if not source.split():
            raise ValueError(f"{path}, line {number}: the source has no words")
        sources.append(source.split())
        found.append(rest[0].split() if rest else [])
    sources, found = some(sources, found, path, "lines")
    return (sources, found) if targets else sources


def read_dictionary(path: str | os.PathLike, *, encoding: str = "utf-8") -> dict[str, list[list[str]]]:
    """Words and how they are pronounced: a pronouncing dictionary as CMUdict has it.

    A line has a word and its sounds; ``word(2)`` is another pronunciation of the word; digits for stress are left out,
    and a pronunciation that differs in nothing else is left out too. What stands behind ``#``, and lines that begin
    with ``;;;``, are comments.

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
    found, same = {}, 0
    for number, line in lines(path, encoding):
        fields = [] if line.startswith(";;;") else line.partition("#")[0].split()
        if len(fields) == 1:
            raise ValueError(f"{path}, line {number}: the word {fields[0]!r} has no sounds")
        if fields:
            variants = found.setdefault(re.sub(r"\(\d+\)$", "", fields[0]), [])
            sounds = [re.sub(r"\d", "", sound) for sound in fields[1:]]
            same += sounds in variants
            if sounds not in variants:
                variants.append(sounds)
    if not found:
        raise ValueError(f"{path} has no words")
    if same:
        say(f"{path}: {counted(same, 'pronunciation')} left out that differ from others in stress only, or not at all")
    return found


def read_captions(path: str | os.PathLike, *, texts: bool = True, encoding: str = "utf-8"):
    """Vectors and a text for each: ``.npz`` with the arrays `vectors` and `texts`, or CSV with the text last.

    A first line of the CSV without numbers is a header; whether there is one is reported. Empty lines are left out and
    counted.

    Parameters
    ----------
    texts : whether there must be texts; else the array may be missing, and a CSV whose last fields are all numbers has
        none
    encoding : of a CSV

    Returns
    -------
    X : (N, D) float64
    y : list of N str, "" where there are no texts

    Raises
    ------
    ValueError  an array is missing or of another kind, numbers of vectors and texts differ, a field of the CSV is no
        number or missing.

    Warns
    -----
    UserWarning  the first line of the CSV has numbers and is read as data, but its last field is named as a column of
        texts is ("text", "caption", …).

    Examples
    --------
    >>> with open("captions.csv", "w") as file:
    ...     _ = file.write("width,height,text\\n1,2,tall\\n3,1,very wide\\n")
    >>> read_captions("captions.csv")
    (array([[1., 2.], [3., 1.]]), ['tall', 'very wide'])
    """
    if os.fspath(path).lower().endswith(".npz"):
        return _captions_of_arrays(path, texts)
    return _captions_of_table(path, texts, encoding)


def _captions_of_arrays(path, needed):
    content = io.BytesIO(read_bytes(path))
    if not zipfile.is_zipfile(content):
        raise ValueError(
            f"{path} is not a .npz file of plain arrays: it is no zip archive, or it is cut. numpy.savez writes one"
        )
    try:
        _check_unpacked(path, content)
        with np.load(content, allow_pickle=False) as arrays:
            vectors = np.asarray(arrays["vectors"])
            texts = np.asarray(arrays["texts"]) if needed or "texts" in arrays else np.full(vectors.shape[:1], "")
    except KeyError as error:
        raise ValueError(f"{path} must have the arrays 'vectors' and 'texts': {error.args[0]}") from None
    except (
        Exception
    ) as error:  # zipfile, zlib and numpy have many kinds of them for a damaged archive, which is in memory
        raise ValueError(
            f"{path} is not a .npz file of plain arrays (objects are not read): {error or type(error).__name__}"
        ) from None
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiub":
        raise ValueError(
            f"{path}: vectors are {vectors.dtype} of shape {vectors.shape}, but they must be numbers of shape (N, D)"
        )
    if texts.dtype.kind != "U" or texts.shape != vectors.shape[:1]:
        found = f"{texts.dtype} of shape {texts.shape}"
        raise ValueError(f"{path}: texts are {found}, but they must be {len(vectors)} str, one for each vector")
    vectors = vectors.astype(float)
    wrong = np.argwhere(~(np.abs(vectors) <= FLOAT32_MAX))
    if len(wrong):
        row, column = wrong[0].tolist()
        raise ValueError(
            f"{path}: vector {row} has {vectors[row, column]:g} at {column}, which is no number of float32"
        )
    return some(vectors, texts.tolist(), path, "vectors")


def _check_unpacked(path, content):
    """Refuse an archive that becomes far larger than numbers do when it is unpacked."""
    with zipfile.ZipFile(content) as archive:
        size, claimed = len(content.getbuffer()), sum(info.file_size for info in archive.infolist())
    content.seek(0)
    if claimed > MOST_TIMES * size + (1 << 24):
        raise ValueError(
            f"its {size} bytes claim {claimed} when they are unpacked, more than {MOST_TIMES} times as many"
        )


def _captions_of_table(path, needed, encoding):
    table = full_rows(rows(path, encoding=encoding), path)
    if not table:
        raise ValueError(f"{path} has no vectors")
    first, row = table[0]
    bare = not needed and all(is_number(row[-1]) for _, row in table[1:] or table)
    header = _is_header(row, bare)
    bare = bare and (header or len(row) == 1 or is_number(row[-1]))
    wanted = max(1 if bare else 2, len(row))
    for number, row in table:
        if len(row) != wanted:
            like = f", as line {first}" if number != first else ""
            raise ValueError(
                f"{path}, line {number}: it has {len(row)} fields, but must have {wanted}{like}: numbers, and last "
                "the text"
            )
    full = [(number, [*row, ""] if bare else row) for number, row in table[header:]]
    vectors = np.array([floats(row[:-1], path, number) for number, row in full])
    _say_header(path, *table[0], header)
    return some(vectors, [row[-1] for _, row in full], path, "vectors")


def _is_header(row, bare):
    """Whether the first row is names: no field for a number begins as one, and not all may be numbers."""
    cells = row if bare else row[:-1]
    data = any(is_number(cell) or re.match(r"[+-]?\.?\d", cell.strip()) for cell in cells)
    return not data and not (cells and all(map(may_be_number, cells)))


def _say_header(path, number, row, header):
    """Report whether the first row was read as names; warn where it was not, but looks like them."""
    if header:
        say(f"{path}, line {number}: read as names, {', '.join(row)[:60]}")
        return
    message = f"{path}, line {number}: read as a vector and its text, not as names, since it has numbers"
    if row[-1].strip().lower() in _TEXT_NAMES:
        warnings.warn(f"{message}: if it is a header, give names that are no numbers, or delete it", stacklevel=4)
    else:
        say(message)

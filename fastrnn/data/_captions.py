"""Reader of vectors with a text each, from NumPy archives and from CSV files."""

from __future__ import annotations

import io
import os
import re
import warnings
import zipfile

import numpy as np

from fastrnn.data._files import (
    FLOAT32_MAX,
    PathLike,
    csv_rows,
    is_number,
    is_number_like,
    listed,
    not_empty,
    numbers_of_line,
    read_bytes,
    say,
    without_empty_rows,
)

MAX_EXPANSION = 100  # unpacked size of an archive over its own, at most: vectors of zeros and ones compress well
_TEXT_NAMES = {"text", "texts", "caption", "captions", "description", "sentence", "words", "target", "label", "name"}


def read_captions(path: PathLike, *, texts: bool = True, encoding: str = "utf-8") -> tuple[np.ndarray, list[str]]:
    """Read vectors with a text each, from a .npz archive or from a CSV file whose last column is the text.

    The archive has the arrays `vectors` (N, D) and `texts` (N,). In a CSV file, a first line without numbers is a
    header; it is reported whether there is one. Empty lines are left out and counted.

    Parameters
    ----------
    path : str or path-like
        File to read; a name that ends with ".npz" is an archive.
    texts : bool, default True
        Whether there must be texts. If False, the array `texts` may be missing, and a CSV file whose last fields are
        all numbers has no texts.
    encoding : str, default "utf-8"
        Encoding of a CSV file.

    Returns
    -------
    X : ndarray of shape (N, D), float64
        The vectors.
    y : list of str
        The N texts; "" where there are none.

    Raises
    ------
    ValueError
        If an array is missing or has the wrong type or shape, the numbers of vectors and of texts differ, or a field of
        the CSV file is missing or not a number.

    Warns
    -----
    UserWarning
        If the first line of the CSV file has numbers and is read as data, but its last field looks like the name of a
        column of texts ("text", "caption", …).

    Examples
    --------
    >>> with open("captions.csv", "w") as file:
    ...     _ = file.write("width,height,text\\n1,2,tall\\n3,1,very wide\\n")
    >>> read_captions("captions.csv")
    (array([[1., 2.], [3., 1.]]), ['tall', 'very wide'])
    """
    if os.fspath(path).lower().endswith(".npz"):
        return _from_archive(path, texts)
    return _from_csv(path, texts, encoding)


def _from_archive(path: PathLike, needed: bool) -> tuple[np.ndarray, list[str]]:
    content = io.BytesIO(read_bytes(path))
    if not zipfile.is_zipfile(content):
        raise ValueError(
            f"{path} is not a .npz file of plain arrays: it is not a zip archive, or it is truncated. numpy.savez "
            "writes such files"
        )
    try:
        _check_unpacked_size(content)
        with np.load(content, allow_pickle=False) as arrays:
            vectors = np.asarray(arrays["vectors"])
            texts = np.asarray(arrays["texts"]) if needed or "texts" in arrays else np.full(vectors.shape[:1], "")
    except KeyError as error:
        raise ValueError(f"{path} must have the arrays 'vectors' and 'texts': {error.args[0]}") from None
    except Exception as error:  # zipfile, zlib and numpy raise many kinds for a damaged archive
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
            f"{path}: vector {row} has {vectors[row, column]:g} at {column}, which is not finite in float32"
        )
    return not_empty(vectors, texts.tolist(), path, "vectors")


def _check_unpacked_size(content: io.BytesIO) -> None:
    """Refuse an archive that becomes far larger when it is unpacked than arrays of numbers do."""
    with zipfile.ZipFile(content) as archive:
        size, claimed = len(content.getbuffer()), sum(info.file_size for info in archive.infolist())
    content.seek(0)
    if claimed > MAX_EXPANSION * size + (1 << 24):
        raise ValueError(f"its {size} bytes unpack to {claimed}, more than {MAX_EXPANSION} times as many")


def _from_csv(path: PathLike, needed: bool, encoding: str) -> tuple[np.ndarray, list[str]]:
    table = without_empty_rows(csv_rows(path, encoding=encoding), path)
    if not table:
        raise ValueError(f"{path} has no vectors")
    first, row = table[0]
    bare = not needed and all(is_number(row[-1]) for _, row in table[1:] or table)
    header = _is_header(row, bare)
    bare = bare and (header or len(row) == 1 or is_number(row[-1]))
    wanted = max(1 if bare else 2, len(row))
    for number, row in table:
        if len(row) != wanted:
            like = f", like line {first}" if number != first else ""
            raise ValueError(
                f"{path}, line {number}: it has {len(row)} fields, but must have {wanted}{like}: numbers, then the text"
            )
    full = [(number, [*row, ""] if bare else row) for number, row in table[header:]]
    vectors = np.array([numbers_of_line(row[:-1], path, number) for number, row in full])
    _report_header(path, *table[0], header)
    return not_empty(vectors, [row[-1] for _, row in full], path, "vectors")


def _is_header(row: list[str], bare: bool) -> bool:
    """Whether the first row is a header: no field begins like a number, and not all of them may be numbers."""
    cells = row if bare else row[:-1]
    data = any(is_number(cell) or re.match(r"[+-]?\.?\d", cell.strip()) for cell in cells)
    return not data and not (cells and all(map(is_number_like, cells)))


def _report_header(path: PathLike, number: int, row: list[str], header: bool) -> None:
    """Report whether the first row was read as a header; warn if it was not, but looks like one."""
    if header:
        say(f"{path}, line {number}: read as a header: {listed(row)}")
        return
    message = f"{path}, line {number}: read as a vector and its text, not as a header, since it has numbers"
    if row[-1].strip().lower() in _TEXT_NAMES:
        warnings.warn(f"{message}: if it is a header, use names that are not numbers, or delete it", stacklevel=4)
    else:
        say(message)

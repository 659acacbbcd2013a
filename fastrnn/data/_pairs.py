"""Readers of pairs of sequences: translations and pronunciations."""

from __future__ import annotations

import re
from typing import Literal, overload

from fastrnn.data._files import PathLike, counted, not_empty, numbered_lines, quoted, say, text_lines
from fastrnn.data._splitting import check_rule, first_cut, split_words

Sequences = list[list[str]]


def read_parallel(
    source_path: PathLike, target_path: PathLike, *, splitting: str = "simple", encoding: str = "utf-8"
) -> tuple[Sequences, Sequences]:
    """Read sentences and their translations from two text files with the same number of lines.

    Lines are those that ``wc -l`` counts. They are converted to lower case and split into words and single other
    characters. An empty line is a sentence without words.

    Parameters
    ----------
    source_path, target_path : str or path-like
        Files to read.
    splitting : {"simple", "unicode"}, default "simple"
        With "simple", words are runs of letters and digits; a text with combining marks, which this rule would separate
        from their letters, is refused. With "unicode", words end at Unicode's word boundaries (UAX 29), as in
        ``LanguageModel``; this needs the package regex.
    encoding : str, default "utf-8"
        Encoding of both files.

    Returns
    -------
    sources : list of list of str
        The words of each line of the first file.
    targets : list of list of str
        The words of each line of the second file.

    Raises
    ------
    ValueError
        If the files have different numbers of lines, which the message names, or none, or if ``splitting="simple"``
        would split a word at a combining mark.
    ImportError
        If ``splitting="unicode"``, and regex is not installed.

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
    sources, targets = (
        [
            _words_of_line(line.lower(), splitting, f"{path}, line {number}")
            for number, line in enumerate(text_lines(path, encoding), 1)
        ]
        for path in (source_path, target_path)
    )
    if len(sources) != len(targets):
        raise ValueError(
            f"{source_path} has {len(sources)} lines, but {target_path} has {len(targets)}: each line must be the "
            "translation of the same line of the other file"
        )
    return not_empty(sources, targets, source_path, "lines")


def _words_of_line(text: str, splitting: str, where: str) -> list[str]:
    """Split a line that is in lower case, which may have added combining marks: "İ" becomes "i" and U+0307."""
    if splitting == "unicode":
        words = [word.strip() for word in split_words(text)]
        return [word for word in words if word]
    cut = first_cut(text)
    if cut is not None:
        raise ValueError(
            f"{where}: {quoted(cut)} has combining marks, which splitting='simple' would separate from their letters: "
            "give splitting='unicode'"
        )
    return re.findall(r"\w+|[^\w\s]", text)


@overload
def read_pairs(
    path: PathLike, *, targets: Literal[True] = True, encoding: str = "utf-8"
) -> tuple[Sequences, Sequences]: ...
@overload
def read_pairs(path: PathLike, *, targets: Literal[False], encoding: str = "utf-8") -> Sequences: ...
def read_pairs(
    path: PathLike, *, targets: bool = True, encoding: str = "utf-8"
) -> tuple[Sequences, Sequences] | Sequences:
    """Read pairs of sequences, one on each line: the words of the source, a tab, the words of the target.

    Spaces separate words. A target may have no words.

    Parameters
    ----------
    path : str or path-like
        File to read.
    targets : bool, default True
        Whether to read targets. If False, only the sources are read, and a line may end before its tab.
    encoding : str, default "utf-8"
        Encoding of the file.

    Returns
    -------
    sources : list of list of str
        The words of each source.
    targets : list of list of str
        The words of each target. With ``targets=False`` only `sources` is returned, not a pair.

    Raises
    ------
    ValueError
        If a line has no tab or several, a source has no words, or there are no lines; the message names the line.

    Examples
    --------
    >>> with open("pairs.tsv", "w") as file:
    ...     _ = file.write("zwei hunde\\ttwo dogs\\nja\\tyes\\n")
    >>> read_pairs("pairs.tsv")
    ([['zwei', 'hunde'], ['ja']], [['two', 'dogs'], ['yes']])
    """
    sources, found = [], []
    texts = [line for _, line in numbered_lines(path, encoding)]
    texts = texts[:-1] if texts[-1] == "" else texts  # a final line end begins no line
    for number, line in enumerate(texts, 1):
        source, *rest = line.split("\t")
        if len(rest) != 1 and (targets or rest):
            raise ValueError(
                f"{path}, line {number}: it has {len(rest)} tabs, but must have 1, between source and target"
            )
        if not source.split():
            raise ValueError(f"{path}, line {number}: the source has no words")
        sources.append(source.split())
        found.append(rest[0].split() if rest else [])
    sources, found = not_empty(sources, found, path, "lines")
    return (sources, found) if targets else sources


def read_dictionary(path: PathLike, *, encoding: str = "utf-8") -> dict[str, list[list[str]]]:
    """Read words and their pronunciations from a pronouncing dictionary in the format of CMUdict.

    A line has a word and its sounds; ``word(2)`` is another pronunciation of the word. Digits, which mark stress, are
    removed from the sounds, and so are pronunciations that differ in nothing else. Lines that begin with ``;;;`` are
    comments, and so is what follows ``#``.

    Parameters
    ----------
    path : str or path-like
        File to read.
    encoding : str, default "utf-8"
        Encoding of the file.

    Returns
    -------
    dict of str to list
        For each word its pronunciations, each a list of str, in the order of the file.

    Raises
    ------
    ValueError
        If a line has no sounds, or there are no words; the message names the line.

    Examples
    --------
    >>> with open("some.dict", "w") as file:
    ...     _ = file.write("a AH0\\na(2) EY1\\naachen AA1 K AH0 N # city\\n")
    >>> read_dictionary("some.dict")
    {'a': [['AH'], ['EY']], 'aachen': [['AA', 'K', 'AH', 'N']]}
    """
    found, same = {}, 0
    for number, line in numbered_lines(path, encoding):
        fields = [] if line.startswith(";;;") else line.partition("#")[0].split()
        if len(fields) == 1:
            raise ValueError(f"{path}, line {number}: the word {quoted(fields[0])} has no sounds")
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

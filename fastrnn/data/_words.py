"""Readers of words: sentences with tags, and stories with questions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, overload

from fastrnn.data._files import PathLike, check_whole, counted, not_empty, numbered_lines, quoted, say

Sentences = list[list[str]]
_Fields = Iterator[tuple[int, list[str] | None]]


@overload
def read_conllu(
    path: PathLike,
    column: int | None = None,
    *,
    layout: str = "conllu",
    tags: Literal[True] = True,
    encoding: str = "utf-8",
) -> tuple[Sentences, Sentences]: ...
@overload
def read_conllu(
    path: PathLike, column: int | None = None, *, layout: str = "conllu", tags: Literal[False], encoding: str = "utf-8"
) -> Sentences: ...
def read_conllu(
    path: PathLike,
    column: int | None = None,
    *,
    layout: str = "conllu",
    tags: bool = True,
    encoding: str = "utf-8",
) -> tuple[Sentences, Sentences] | Sentences:
    """Read sentences with a tag for each word, in CoNLL-U or in the columns of CoNLL-2003.

    Each word has a line, and an empty line, or one of spaces only, follows each sentence. In CoNLL-U, tabs separate the
    columns; the first column numbers the words of a sentence from 1, the second one is the word. Ranges (``1-2``),
    empty nodes (``1.1``) and comments (``#``) are left out. In CoNLL-2003, spaces or tabs separate the columns; the
    first one is the word. A line with tabs is split at tabs only, so that words may contain spaces. Lines that begin
    with ``-DOCSTART-`` are left out.

    Parameters
    ----------
    path : str or path-like
        File to read.
    column : int, optional
        Column of the tag, from 1. By default, column 4 of CoNLL-U (UPOS; 5 is XPOS), and the last one of CoNLL-2003
        (named entities; 2 is the part of speech).
    layout : {"conllu", "conll2003"}, default "conllu"
        Format of the file.
    tags : bool, default True
        Whether words must have tags. If False, only the sentences are read.
    encoding : str, default "utf-8"
        Encoding of the file.

    Returns
    -------
    sentences : list of list of str
        The words of each sentence.
    tags : list of list of str
        A tag for each word. With ``tags=False`` only `sentences` is returned, not a pair.

    Raises
    ------
    ValueError
        If a line has no tab, an empty word or tag, or a number out of order, lines have different numbers of columns,
        or there are no sentences; the message names the line.
    TypeError
        If `column` is not a whole number.

    Examples
    --------
    >>> with open("one.conllu", "w") as file:
    ...     _ = file.write("# text = dogs bark\\n1\\tdogs\\tdog\\tNOUN\\n2\\tbark\\tbark\\tVERB\\n\\n")
    >>> read_conllu("one.conllu")
    ([['dogs', 'bark']], [['NOUN', 'VERB']])
    >>> with open("one.txt", "w") as file:
    ...     _ = file.write("EU NNP B-NP B-ORG\\nrejects VBZ B-VP O\\n")
    >>> read_conllu("one.txt", layout="conll2003")
    ([['EU', 'rejects']], [['B-ORG', 'O']])
    """
    if layout not in ("conllu", "conll2003"):
        raise ValueError(f"layout={layout!r}, but it must be 'conllu' or 'conll2003'")
    if column is not None and check_whole(column, "column") < 1:
        raise ValueError(f"column={column}, but columns are counted from 1")
    place = column or (4 if layout == "conllu" else None)
    sentences, found = [], []
    for row in _tagged_sentences(path, layout, place, tags, encoding):
        sentences.append([word for word, _ in row])
        found.append([tag for _, tag in row])
    sentences, found = not_empty(sentences, found, path, "sentences")
    if tags and all(tag == "_" for row in found for tag in row):
        raise ValueError(f"{path} has no tags in {f'column {place}' if place else 'its last column'}: all are '_'")
    return (sentences, found) if tags else sentences


def _tagged_sentences(
    path: PathLike, layout: str, place: int | None, tags: bool, encoding: str
) -> Iterator[list[tuple[str, str]]]:
    """Iterate over the sentences, each a list of (word, tag)."""
    width, first, row = None, None, []
    split, of_word = (_conllu_lines, 1) if layout == "conllu" else (_conll2003_lines, 0)
    for number, fields in split(path, encoding):
        if fields is None:
            if row:
                yield row
            row = []
            continue
        where = f"{path}, line {number}"
        width, first = width or len(fields), first or number
        if tags and len(fields) < (place or 2):
            raise ValueError(f"{where}: it has {len(fields)} columns, but the tag is in column {place or 2}")
        if len(fields) != width:
            raise ValueError(f"{where}: it has {len(fields)} columns, but line {first} has {width}")
        word, tag = fields[of_word], fields[(place or width) - 1] if tags else ""
        if not word.strip() or (tags and not tag.strip()):
            raise ValueError(f"{where}: its {'tag' if word.strip() else 'word'} is empty")
        if tags and layout == "conll2003" and re.search(r"\s", tag):
            raise ValueError(f"{where}: its tag {quoted(tag)} has a space, since tabs separate the columns")
        row.append((word, tag))
    if row:
        yield row


def _conllu_lines(path: PathLike, encoding: str) -> _Fields:
    """Iterate over (line number, columns of a word), and (line number, None) where a sentence ends."""
    count, ranges, empty = 0, 0, 0
    width, first = None, None
    for number, line in numbered_lines(path, encoding):
        where = f"{path}, line {number}"
        if not line.strip():
            count = 0
            yield number, None
        if line.startswith("#") and (count or (line[1:2] != " " and "\t" in line)):
            raise ValueError(
                f"{where}: {quoted(line)} is a comment {'inside a sentence' if count else 'with tabs'}, or a word "
                "without its number"
            )
        if not line.strip() or line[0] == "#":
            continue
        fields = line.split("\t")
        if len(fields) < 2:
            raise ValueError(
                f"{where}: {quoted(line)} has no tab, but tabs separate the columns of CoNLL-U; if spaces separate the "
                "columns and the word comes first, give layout='conll2003' (--layout conll2003)"
            )
        width, first = width or len(fields), first or number
        # The columns of a word are checked by _tagged_sentences.
        if len(fields) != width and not re.fullmatch(r"\d+", fields[0]):
            raise ValueError(f"{where}: it has {len(fields)} columns, but line {first} has {width}")
        if re.fullmatch(r"\d+-\d+", fields[0]):
            ranges += 1
        elif re.fullmatch(r"\d+\.\d+", fields[0]):
            empty += 1
        elif fields[0] != str(count + 1):
            raise ValueError(
                f"{where}: it begins with {quoted(fields[0], 20)}, but the number of this word must be {count + 1} (an "
                "empty line ends a sentence)"
            )
        else:
            count += 1
            yield number, fields
    if ranges or empty:
        say(f"{path}: {counted(ranges, 'range')} of words and {counted(empty, 'empty node')} left out")


def _conll2003_lines(path: PathLike, encoding: str) -> _Fields:
    """Iterate over (line number, columns of a word), and (line number, None) where a sentence ends."""
    documents = 0
    with_spaces, inner = None, None  # first line whose columns spaces separate; first field between tabs with a space
    for number, line in numbered_lines(path, encoding):
        if not line.strip():
            yield number, None
            continue
        tabs = "\t" in line.strip()
        fields = [field.strip() for field in line.split("\t")] if tabs else re.split(" +", line.strip())
        if fields[0].partition(" ")[0] == "-DOCSTART-":
            documents += 1
            yield number, None
            continue
        with_spaces = number if with_spaces is None and not tabs and len(fields) > 1 else with_spaces
        inner = inner or next(((number, field) for field in fields if " " in field), None)
        if with_spaces and inner:
            place, field = inner
            wrong = (
                f"line {number}: spaces separate its columns, but {quoted(field)} on line {place}, between tabs, "
                "contains a space"
                if number == with_spaces
                else f"line {number}: {quoted(field)}, between tabs, contains a space, but on line {with_spaces} "
                "spaces separate the columns"
            )
            raise ValueError(f"{path}, {wrong}: use tabs on all lines, or on none")
        yield number, fields
    if documents:
        say(f"{path}: {counted(documents, 'line')} -DOCSTART- left out")


def read_babi(
    path: PathLike, *, answers: bool = True, encoding: str = "utf-8"
) -> tuple[list[tuple[Sentences, list[str]]], list[str]]:
    """Read stories, questions and answers from a file of the bAbI tasks.

    A line is a number and a sentence, or a number, a question, a tab and its answer; the number 1 begins a story. Words
    are converted to lower case and lose their punctuation. An answer of several words, "apple,football", is one symbol.
    What follows a second tab (the numbers of the supporting sentences) is ignored.

    Parameters
    ----------
    path : str or path-like
        File to read.
    answers : bool, default True
        Whether each question must have an answer. If False, a line that ends with a question mark is a question too,
        and its answer is "".
    encoding : str, default "utf-8"
        Encoding of the file.

    Returns
    -------
    X : list of tuple
        A pair (story, question) for each question: the sentences of the story before the question, and the question,
        each a list of words.
    y : list of str
        The answers.

    Raises
    ------
    ValueError
        If a number is missing or out of order, a sentence or an answer is empty, a question comes before any sentence,
        or there are no questions; the message names the line.

    References
    ----------
    Weston et al., Towards AI-complete question answering: a set of prerequisite toy tasks, 2015.

    Examples
    --------
    >>> with open("qa.txt", "w") as file:
    ...     _ = file.write("1 Mary went home.\\n2 Where is Mary?\\thome\\t1\\n")
    >>> read_babi("qa.txt")
    ([([['mary', 'went', 'home']], ['where', 'is', 'mary'])], ['home'])
    """
    X, y, story, last = [], [], [], 0
    for number, line in numbered_lines(path, encoding):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        last, rest = _numbered_sentence(line, last, where)
        if last == 1:
            story = []
        words, answer = _babi_line(rest, where)
        if answer is None:
            story.append(words)
            continue
        if answers and not answer:
            raise ValueError(f"{where}: the question has no answer, which must follow a tab")
        if not story:
            raise ValueError(f"{where}: there is no sentence before the question")
        X.append((list(story), words))
        y.append(answer.lower())
    return not_empty(X, y, path, "questions")


def _numbered_sentence(line: str, last: int, where: str) -> tuple[int, str]:
    """Split a line into its number, which must be 1 or follow the last one, and the rest."""
    count, _, rest = line.strip(" ").partition(" ")
    if not count.isdecimal() or len(count) > 18 or int(count) not in (1, last + 1):
        expected = f"1 or {last + 1}" if last else "1"
        raise ValueError(f"{where}: it begins with {quoted(count, 20)}, but its number must be {expected}")
    return int(count), rest


def _babi_line(rest: str, where: str) -> tuple[list[str], str | None]:
    """Split what follows the number into words and an answer; a question without one has "", a sentence None."""
    sentence, *after = rest.split("\t")
    if len(after) > 2 or re.search(r"[.!?]\d", sentence) or not re.fullmatch(r"[\d ]*", "".join(after[1:])):
        raise ValueError(
            f"{where}: it must be one sentence, or a question, a tab, its answer, a tab and numbers of sentences"
        )
    words = re.findall(r"[^\s.,;:?!]+", sentence.lower())
    if not words:
        raise ValueError(f"{where}: it has no words")
    question = sentence.rstrip().endswith("?")
    if not question and (after or "?" in sentence):
        raise ValueError(f"{where}: a question must end with a question mark, followed by a tab and its answer")
    if not question:
        return words, None
    return words, after[0].strip() if after else ""

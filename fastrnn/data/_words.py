"""Readers of words: sentences with tags, and stories with questions."""

from __future__ import annotations

import os
import re

from fastrnn.data._files import counted, lines, say, some, whole


def read_conllu(
    path: str | os.PathLike,
    column: int | None = None,
    *,
    layout: str = "conllu",
    tags: bool = True,
    encoding: str = "utf-8",
):
    """Words and a tag for each: CoNLL-U, or the columns of CoNLL-2003.

    Each word has a line, and an empty line follows each sentence; a line of blanks is an empty line. CoNLL-U separates
    columns by tabs; the first numbers the words of a sentence from 1, the second is the word. Ranges (``1-2``), empty
    nodes (``1.1``) and comments (``#``) are left out. CoNLL-2003 separates columns by blanks or tabs; the first is the
    word. A line with tabs is split at tabs only, so that words may have blanks. Lines that begin with ``-DOCSTART-``
    are left out.

    Parameters
    ----------
    column : of the tag, counted from 1. As default 4 (UPOS; 5 is XPOS) in CoNLL-U, and the last one in CoNLL-2003
        (entities; 2 is the part of speech)
    layout : "conllu" or "conll2003"
    tags : whether words must have tags; False gives the sentences only
    encoding : of the file

    Returns
    -------
    sentences, tags : lists of lists of str; without `tags` the sentences

    Raises
    ------
    ValueError  a line has no tab, another number of columns than the first one, an empty word or tag, or a number out
        of turn; the message names the line.
    TypeError   `column` is no whole number.

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
    if column is not None and whole(column, "column") < 1:
        raise ValueError(f"column={column}, but columns count from 1")
    place = column or (4 if layout == "conllu" else None)
    sentences, found = [], []
    for row in _sentences(path, layout, place, tags, encoding):
        sentences.append([word for word, _ in row])
        found.append([tag for _, tag in row])
    sentences, found = some(sentences, found, path, "sentences")
    if tags and all(tag == "_" for row in found for tag in row):
        raise ValueError(f"{path} has no tags in {f'column {place}' if place else 'its last column'}: all are '_'")
    return (sentences, found) if tags else sentences


def _sentences(path, layout, place, tags, encoding):
    """Lists of (word, tag), a list for each sentence."""
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
        word, tag = fields[of_word], fields[(place or width) - 1] if tags else None
        if not word.strip() or (tags and not tag.strip()):
            raise ValueError(f"{where}: its {'tag' if word.strip() else 'word'} is empty")
        if tags and layout == "conll2003" and re.search(r"\s", tag):
            raise ValueError(f"{where}: its tag {tag[:40]!r} has a blank, as its columns are separated by tabs")
        row.append((word, tag))
    if row:
        yield row


def _conllu_lines(path, encoding):
    """(line, columns of a word), or (line, None) where a sentence ends."""
    count, ranges, empty = 0, 0, 0
    width, first = None, None
    for number, line in lines(path, encoding):
        where = f"{path}, line {number}"
        if not line.strip():
            count = 0
            yield number, None
        if line.startswith("#") and (count or (line[1:2] != " " and "\t" in line)):
            raise ValueError(
                f"{where}: {line[:60]!r} is a comment {'inside a sentence' if count else 'with tabs'}, or a word "
                "without its number"
            )
        if not line.strip() or line[0] == "#":
            continue
        fields = line.split("\t")
        if len(fields) < 2:
            raise ValueError(
                f"{where}: {line[:60]!r} has no tab, but tabs separate the columns of CoNLL-U; for columns separated "
                "by blanks, word first, "
                "give layout='conll2003' (--layout conll2003)"
            )
        width, first = width or len(fields), first or number
        if len(fields) != width and not re.fullmatch(r"\d+", fields[0]):  # of a word: see _sentences
            raise ValueError(f"{where}: it has {len(fields)} columns, but line {first} has {width}")
        if re.fullmatch(r"\d+-\d+", fields[0]):
            ranges += 1
        elif re.fullmatch(r"\d+\.\d+", fields[0]):
            empty += 1
        elif fields[0] != str(count + 1):
            raise ValueError(
                f"{where}: it begins with {fields[0][:20]!r}, but the number of this word must be {count + 1} (an "
                "empty line ends a sentence)"
            )
        else:
            count += 1
            yield number, fields
    if ranges or empty:
        say(f"{path}: {counted(ranges, 'range')} of words and {counted(empty, 'empty node')} left out")


def _conll2003_lines(path, encoding):
    documents, blank, inside = 0, None, None  # the first line split at blanks; the first field with a blank inside
    for number, line in lines(path, encoding):
        if not line.strip():
            yield number, None
            continue
        tabs = "\t" in line.strip()
        fields = [field.strip() for field in line.split("\t")] if tabs else re.split(" +", line.strip())
        if fields[0].partition(" ")[0] == "-DOCSTART-":
            documents += 1
            yield number, None
            continue
        blank = number if blank is None and not tabs and len(fields) > 1 else blank
        inside = inside or next(((number, field) for field in fields if " " in field), None)
        if blank and inside:
            place, field = inside
            wrong = (
                f"line {number}: it is separated by blanks, but {field!r} in line {place} has a blank between tabs"
                if number == blank
                else f"line {number}: {field!r} has a blank between tabs, but line {blank} is separated by blanks"
            )
            raise ValueError(f"{path}, {wrong}: separate all lines by tabs, or none")
        yield number, fields
    if documents:
        say(f"{path}: {counted(documents, 'line')} -DOCSTART- left out")


def read_babi(path: str | os.PathLike, *, answers: bool = True, encoding: str = "utf-8"):
    """Stories, questions and answers: the files of the bAbI tasks (Weston et al. 2015).

    A line is a number and a sentence, or a number, a question, a tab and its answer; number 1 begins a story. Words are
    made lower case, and go without their punctuation; an answer of several words, "apple,football", is one symbol. What
    follows a second tab (the numbers of the supporting sentences) is not read.

    Parameters
    ----------
    answers : whether each question must have one; else a line with a question mark at its end is a question too, and an
        answer may be ""
    encoding : of the file

    Returns
    -------
    X : list of pairs (story, question): the sentences of the story before the question, and the question, as lists of
        words
    y : list of str

    Raises
    ------
    ValueError  a number is missing or out of turn, a sentence or answer is empty, a question comes before any sentence;
        the message names the line.

    Examples
    --------
    >>> with open("qa.txt", "w") as file:
    ...     _ = file.write("1 Mary went home.\\n2 Where is Mary?\\thome\\t1\\n")
    >>> read_babi("qa.txt")
    ([([['mary', 'went', 'home']], ['where', 'is', 'mary'])], ['home'])
    """
    X, y, story, last = [], [], [], 0
    for number, line in lines(path, encoding):
        if not line.strip():
            continue
        count, _, rest = line.strip(" ").partition(" ")
        if not count.isdecimal() or len(count) > 18 or int(count) not in (1, last + 1):
            expected = f"1 or {last + 1}" if last else "1"
            raise ValueError(f"{path}, line {number}: it begins with {count[:20]!r}, but its number must be {expected}")
        last = int(count)
        if last == 1:
            story = []
        sentence, *answer = rest.split("\t")
        if len(answer) > 2 or re.search(r"[.!?]\d", sentence) or not re.fullmatch(r"[\d ]*", "".join(answer[1:])):
            raise ValueError(
                f"{path}, line {number}: it must be one sentence, or a question, a tab, its answer, a tab and "
                "numbers of sentences"
            )
        words = re.findall(r"[^\s.,;:?!]+", sentence.lower())
        if not words:
            raise ValueError(f"{path}, line {number}: it has no words")
        question = sentence.rstrip().endswith("?")
        if not question and (answer or "?" in sentence):
            raise ValueError(
                f"{path}, line {number}: a question must end in a question mark, and a tab must stand behind it"
            )
        if not question:
            story.append(words)
            continue
        answer = answer[0].strip() if answer else ""
        if answers and not answer:
            raise ValueError(f"{path}, line {number}: the question has no answer, which must stand behind a tab")
        if not story:
            raise ValueError(f"{path}, line {number}: the question has no sentence before it")
        X.append((list(story), words))
        y.append(answer.lower())
    return some(X, y, path, "questions")

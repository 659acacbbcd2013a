"""The readers on files with known content, each damaged in one way.

Either the content is read correctly, or an error names the line. A failing case prints its format, the damage, its seed
and the file.
"""

import json
import re
import warnings

import numpy as np
import pytest
from fuzz import seeds
from reader_files import arff, babi, captions, conll2003, conllu, dictionary, european, pairs, parallel, table, ts, tsv

from fastrnn import data

JUNK = ["x", "?", "", "nan", "inf", "1_0", "1e999", "1e300", "1,5", "1.2.3", "0x1", "12 5", "1O"]


def plain(found):
    """Return what a reader returned, as lists."""
    if isinstance(found, np.ndarray):
        return found.tolist()
    return [plain(part) for part in found] if isinstance(found, (list, tuple)) else found


def of_series(read):
    def series(path):
        X, y = read(path)
        return [[x.T.tolist() for x in X], list(y)]

    return series


def read_parallel(path):
    other = path.with_name("other")
    other.write_text("one\ntwo\nthree\nfour\n")
    return plain(data.read_parallel(path, other))


FORMATS = {
    "ts": (ts, lambda path: of_series(data.read_ts)(path)),
    "tsv": (tsv, lambda path: of_series(data.read_tsv)(path)),
    "arff": (arff, lambda path: of_series(data.read_arff)(path)),
    "conllu": (conllu, lambda path: plain(data.read_conllu(path))),
    "conll2003": (conll2003, lambda path: plain(data.read_conllu(path, layout="conll2003"))),
    "table": (table, lambda path: plain(data.read_csv(path))),
    "european": (european, lambda path: plain(data.read_csv(path, decimal=",", separator=";"))),
    "babi": (babi, lambda path: plain(data.read_babi(path))),
    "pairs": (pairs, lambda path: plain(data.read_pairs(path))),
    "dictionary": (dictionary, lambda path: data.read_dictionary(path)),
    "captions": (captions, lambda path: plain(data.read_captions(path))),
    "parallel": (parallel, read_parallel),
}


# damages: (Written, rng) -> (bytes, lines that an error may name; None: it must be read), or None if not applicable
# ----


def joined(lines):
    return ("\n".join(lines) + "\n").encode()


def changed(written, place, line):
    return joined([*written.lines[:place], line, *written.lines[place + 1 :]])


def a_record(written, rng):
    return int(rng.choice(written.records))


def nothing(written, rng):
    return joined(written.lines), None


def windows_line_ends(written, rng):
    return joined(written.lines).replace(b"\n", b"\r\n"), None


def byte_order_mark(written, rng):
    return b"\xef\xbb\xbf" + joined(written.lines), None


def no_last_line_end(written, rng):
    return joined(written.lines)[:-1], None


def a_byte_that_is_no_text(written, rng):
    place = a_record(written, rng)
    text = joined(written.lines)
    at = len(joined(written.lines[:place])) if place else 0
    return text[:at] + b"\xff" + text[at:], {place + 1}


def a_carriage_return_inside(written, rng):
    place = a_record(written, rng)
    line = written.lines[place]
    if len(line) < 2:
        return None
    at = int(rng.integers(1, len(line)))
    return changed(written, place, line[:at] + "\r" + line[at:]), {place + 1}


def a_separator_lost(written, rng):
    return _separator(written, rng, "")


def a_separator_twice(written, rng):
    return _separator(written, rng, 2 * written.cut if written.cut else "")


def blanks_for_a_separator(written, rng):
    return None if written.cut == " " else _separator(written, rng, "   ")


def _separator(written, rng, new):
    place = a_record(written, rng)
    line = written.lines[place]
    found = [m.start() for m in re.finditer(re.escape(written.cut), line)] if written.cut else []
    if hasattr(written, "questions"):  # what follows the second tab is not read
        found = found[:1]
    if not found or (written.cut == " " and new != ""):
        return None
    at = int(rng.choice(found))
    return changed(written, place, line[:at] + new + line[at + len(written.cut) :]), {place + 1, place + 2}


def the_last_field_lost(written, rng):
    place = a_record(written, rng)
    if not written.cut or written.cut not in written.lines[place]:
        return None
    return changed(written, place, written.lines[place].rpartition(written.cut)[0]), {place + 1, place + 2}


def the_first_field_lost(written, rng):
    place = a_record(written, rng)
    if getattr(written, "open_ended", False) or not written.cut or written.cut not in written.lines[place]:
        return None
    return changed(written, place, written.lines[place].partition(written.cut)[2]), {place + 1, place + 2}


def a_number_that_is_none(written, rng):
    if not hasattr(written, "numbers"):
        return None
    place, (cut, label) = a_record(written, rng), written.numbers
    line = written.lines[place]
    parts = re.split(f"({cut or ','})", line)
    fields = list(range(0, len(parts), 2))
    del fields[label]
    if cut is None:
        fields = [k for k in fields if re.fullmatch(r"[-+\d.e]+", parts[k])]
    if not fields:
        return None
    k, junk = int(rng.choice(fields)), str(rng.choice(JUNK))
    padding = {"\t": ("nan",), None: ("nan", "?")}.get(cut, ())  # at the end it is a shorter series
    if ("," in junk and cut != "\t") or (
        junk in padding and all(parts[j].lower() in padding for j in fields[fields.index(k) + 1 :])
    ):
        return None
    parts[k] = junk
    return changed(written, place, "".join(parts)), {place + 1}


def two_lines_joined(written, rng):
    if len(written.records) < 2 or isinstance(written.content, dict):  # two words in a row may be one
        return None
    place = int(rng.choice(written.records[:-1]))
    if place + 1 not in written.records:
        return None
    lines = [*written.lines[:place], written.lines[place] + written.lines[place + 1], *written.lines[place + 2 :]]
    return joined(lines), {place + 1, place + 2}


def a_line_lost(written, rng):
    place = a_record(written, rng)
    if not (hasattr(written, "ordered") or (hasattr(written, "blanks") and written.cut == "\t")):
        return None
    last = place + 1 == len(written.lines) or place + 1 not in written.records
    if last or (place - 1 not in written.records and hasattr(written, "ordered")):
        return None  # a sentence or a table may end anywhere
    return joined([*written.lines[:place], *written.lines[place + 1 :]]), {place + 1, place + 2}


def a_line_twice(written, rng):
    place = a_record(written, rng)
    if not hasattr(written, "ordered") and not (hasattr(written, "blanks") and written.cut == "\t"):
        return None
    return joined([*written.lines[: place + 1], *written.lines[place:]]), {place + 2}


def two_lines_swapped(written, rng):
    place = a_record(written, rng)
    if place + 1 not in written.records or not (
        hasattr(written, "ordered") or (hasattr(written, "blanks") and written.cut == "\t")
    ):
        return None
    lines = list(written.lines)
    lines[place], lines[place + 1] = lines[place + 1], lines[place]
    return joined(lines), {place + 1, place + 2}


def an_empty_line_of_blanks(written, rng):
    if not getattr(written, "blanks", None):
        return None
    return changed(written, int(rng.choice(written.blanks)), " \t "), None


def an_empty_line_lost(written, rng):
    blanks = [place for place in getattr(written, "blanks", []) if place + 1 < len(written.lines)]
    if not blanks or written.cut != "\t":
        return None
    place = int(rng.choice(blanks))
    return joined([*written.lines[:place], *written.lines[place + 1 :]]), set(range(place, place + 5))


def a_quote_opened(written, rng):
    place = a_record(written, rng)
    if written.cut not in (",", ";") or not hasattr(written, "numbers") or written.numbers[0] is None:
        return None
    return changed(written, place, '"' + written.lines[place]), {place + 1}


def a_tab_of_a_question_lost(written, rng):
    if not hasattr(written, "questions"):
        return None
    place = int(rng.choice(written.questions))
    return changed(written, place, written.lines[place].replace("\t", str(rng.choice(["", " "])), 1)), {place + 1}


def a_label_that_is_none(written, rng):
    if not hasattr(written, "numbers") or "data" not in "".join(written.lines):
        return None
    place = a_record(written, rng)
    cut = ":" if ":" in written.lines[place] else ","
    return changed(written, place, written.lines[place].rpartition(cut)[0] + cut + str(rng.choice(["", "upp", "3"]))), {
        place + 1
    }


DAMAGES = [
    nothing,
    windows_line_ends,
    byte_order_mark,
    no_last_line_end,
    a_byte_that_is_no_text,
    a_carriage_return_inside,
    a_separator_lost,
    a_separator_twice,
    blanks_for_a_separator,
    the_last_field_lost,
    the_first_field_lost,
    a_number_that_is_none,
    two_lines_joined,
    a_line_lost,
    a_line_twice,
    two_lines_swapped,
    an_empty_line_of_blanks,
    an_empty_line_lost,
    a_quote_opened,
    a_tab_of_a_question_lost,
    a_label_that_is_none,
]


@pytest.mark.fuzz
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", FORMATS)
def test_what_is_read_is_the_content_or_an_error_names_the_line(name, damage, tmp_path):
    write, read = FORMATS[name]
    path = tmp_path / "file"
    for case in seeds(f"readers {name} {damage.__name__}", 6):
        rng = np.random.default_rng([case, list(FORMATS).index(name), DAMAGES.index(damage)])
        written = write(rng)
        damaged = damage(written, rng)
        if damaged is None:
            continue
        content, may_name = damaged
        path.write_bytes(content)
        shown = f"\n{name}, {damage.__name__}, seed {case}:\n{content.decode('utf-8', 'replace')}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = read(path)
        except ValueError as error:
            named = {int(number) for number in re.findall(r"line (\d+)", str(error))}
            assert may_name is not None, f"refused: {error}{shown}"
            assert named & may_name or "each line must be the translation" in str(error), (
                f"lines {sorted(may_name)}, but the message is: {error}{shown}"
            )
        else:
            assert (
                found == plain(written.content)
                or may_name is not None
                and is_harmless(damage, name, found, written, content)
            ), f"read {found}, not {plain(written.content)}{shown}"


def is_harmless(damage, name, found, written, content):
    """A damaged file that is another valid file, which is read correctly."""
    text = content.decode()
    if name in ("parallel", "dictionary"):  # words only: those of the lines
        return [word for line in text.split("\n") for word in line.split()] == _words(name, found)
    if name == "babi" and damage is the_last_field_lost:  # the numbers of the supporting sentences
        return found == plain(written.content)
    return False


def _words(name, found):
    if name == "dictionary":
        return [word for key, variants in found.items() for variant in variants for word in [key, *variant]]
    return [word for row in found[0] for word in row]


# ---- arrays --------------------------------------------------------------------------------------


@pytest.mark.fuzz
def test_damaged_arrays_are_refused_or_read_as_they_were(tmp_path):
    X, y = np.arange(40.0).reshape(8, 5), [f"text {k}" for k in range(8)]
    path = tmp_path / "a.npz"
    for save in (np.savez, np.savez_compressed):
        save(path, vectors=X, texts=np.array(y))
        content = path.read_bytes()
        for case in seeds(f"readers {save.__name__}", 150):
            rng = np.random.default_rng(case)
            damaged = bytearray(content[: rng.integers(0, len(content))] if case % 3 == 0 else content)
            if case % 3:
                damaged[rng.integers(0, len(damaged))] ^= 1 << rng.integers(0, 8)
            path.write_bytes(damaged)
            try:
                found, texts = data.read_captions(path)
            except ValueError as error:
                assert str(path) in str(error)
            else:
                assert found.tolist() == X.tolist() and texts == y, f"{save.__name__}, seed {case}"


@pytest.mark.fuzz
def test_damaged_rolls_are_refused_or_read_as_they_were(tmp_path):
    pieces = [[[60, 64], [], [21, 108]], [[62]]]
    content = json.dumps({"train": pieces, "valid": [[[60]]]}, indent=1)
    path = tmp_path / "f"
    for case in seeds("readers rolls", 300):
        rng = np.random.default_rng(case)
        at = int(rng.integers(0, len(content)))
        sign = str(rng.choice(["", "[", "]", ",", '"', "-", ".5", "null", "NaN", "\0", "x"]))
        damaged = content[:at] + sign + content[at + 1 :]
        path.write_text(damaged)
        try:
            found = data.read_rolls(path, "train")
        except ValueError as error:
            assert str(path) in str(error)
        else:
            read = [[[int(k) + 21 for k in np.flatnonzero(frame)] for frame in roll] for roll in found]
            written = [
                [sorted({p for p in frame if p != -1}) for frame in piece] for piece in json.loads(damaged)["train"]
            ]
            assert read == written, f"seed {case}"

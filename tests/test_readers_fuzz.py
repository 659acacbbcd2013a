"""The readers on files made from known content and damaged one way at a time: what is read is the content, or an error names the line.

A case that fails says its format, the damage, its seed and the file.
"""

import re
import warnings

import numpy as np
import pytest
from fuzz import seeds

from fastrnn import data

WORDS = ["dog", "Katze", "naïve", "x1", "it's", "日本", "U.S.", "re\u0301sume\u0301", "-", '"', "#1", "don’t"]
JUNK = ["x", "?", "", "nan", "inf", "1_0", "1e999", "1e300", "1,5", "1.2.3", "0x1", "12 5", "1O"]


class Written:
    """content : what a reader must find; lines : of the file; records : places of the lines that have data; cuts : what separates fields"""

    def __init__(self, content, lines, records, cut, **more):
        self.content, self.lines, self.records, self.cut = content, lines, records, cut
        self.__dict__.update(more)


def number(rng):
    value = rng.choice([rng.normal(), rng.normal() * 1e6, round(rng.normal() * 10), 0.0])
    return repr(float(value)) if rng.random() < 0.7 else f"{value:.3e}"


def ts(rng):
    C, N, T, equal = rng.integers(1, 4), rng.integers(1, 6), rng.integers(2, 5), rng.random() < 0.7
    names = ["up", "down", "1"]
    lines = ["# a comment", "@problemName Made", f"@dimensions {C}", f"@classLabel true {' '.join(names)}"]
    lines += ["@equalLength true", f"@seriesLength {T}", "@data"] if equal else ["@data"]
    X, y, records = [], [], []
    for _ in range(N):
        T, label = T if equal else rng.integers(1, 5), str(rng.choice(names))
        texts = [[number(rng) for _ in range(T)] for _ in range(C)]
        records.append(len(lines))
        lines.append(":".join([*(",".join(row) for row in texts), label]))
        X.append([[float(text) for text in row] for row in texts])
        y.append(label)
    return Written((X, y), lines, records, rng.choice([",", ":"]), numbers=(r"[,:]", -1), open_ended=not equal)


def tsv(rng):
    N, T = rng.integers(3, 6), rng.integers(2, 6)
    X, y, lines = [], [], []
    for _ in range(N):
        texts, label = [number(rng) for _ in range(rng.integers(1, T + 1))], str(rng.choice(["1", "2", "-1"]))
        lines.append("\t".join([label, *texts, *["NaN"] * (T - len(texts))]))
        X.append([[float(text) for text in texts]])
        y.append(label)
    return Written((X, y), lines, list(range(N)), "\t", numbers=("\t", 0))


def arff(rng):
    N, T, C = rng.integers(1, 5), rng.integers(1, 5), rng.integers(1, 3)
    lines = ["% a comment", "@relation made"]
    steps = [f"@attribute t{t} numeric" for t in range(T)]
    lines += steps if C == 1 else ["@attribute made relational", *steps, "@end made"]
    lines += ["@attribute class {up,down,'not up'}", "@data"]
    X, y, records = [], [], []
    for _ in range(N):
        texts, label = [[number(rng) for _ in range(T)] for _ in range(C)], str(rng.choice(["up", "down", "not up"]))
        shown = f"'{label}'" if " " in label else label
        records.append(len(lines))
        series = "'" + r"\n".join(",".join(row) for row in texts) + "'" if C > 1 else ",".join(texts[0])
        lines.append(f"{series},{shown}")
        X.append([[float(text) for text in row] for row in texts])
        y.append(label)
    return Written((X, y), lines, records, ",", numbers=(None, 0))


def conllu(rng):
    sentences, tags, lines, records = [], [], [], []
    for _ in range(rng.integers(3, 6)):
        words = [str(word) for word in rng.choice(WORDS, rng.integers(1, 5))]
        row = [str(tag) for tag in rng.choice(["NOUN", "VERB", "ADV"], len(words))]
        if rng.random() < 0.5:
            lines.append("# text = " + " ".join(words))
        for i, (word, tag) in enumerate(zip(words, row), 1):
            if rng.random() < 0.1:
                lines.append(f"{i}-{i + 1}\tboth\t_\t_\t_")
            records.append(len(lines))
            lines.append(f"{i}\t{word}\t_\t{tag}\t_")
        lines.append("")
        sentences.append(words)
        tags.append(row)
    return Written((sentences, tags), lines, records, "\t", blanks=[i for i, line in enumerate(lines) if not line])


def conll2003(rng):
    sentences, tags, lines, records = [], [], ["-DOCSTART- -X- -X- O", ""], []
    for _ in range(rng.integers(3, 6)):
        words = [str(word) for word in rng.choice(WORDS, rng.integers(1, 5))]
        row = [str(tag) for tag in rng.choice(["O", "B-PER", "I-PER"], len(words))]
        for word, tag in zip(words, row):
            records.append(len(lines))
            lines.append(f"{word} NN B-NP {tag}")
        lines.append("")
        sentences.append(words)
        tags.append(row)
    blanks = [i for i, line in enumerate(lines) if not line and 1 < i < len(lines) - 1]
    return Written((sentences, tags), lines, records, " ", blanks=blanks)


def table(rng):
    K, T = rng.integers(1, 4), rng.integers(4, 9)
    names = [f"value {k}" for k in range(K)]
    texts = [[number(rng) for _ in range(K)] for _ in range(T)]
    dates = [f"{1990 + t // 12}-{t % 12 + 1:02}" for t in range(T)]
    lines = [",".join(["Date", *names]), *(",".join([date, *row]) for date, row in zip(dates, texts))]
    content = (names, [[float(text) for text in row] for row in texts])
    return Written(content, lines, list(range(1, T + 1)), ",", numbers=(",", 0), ordered=True)


def babi(rng):
    X, y, lines, records = [], [], [], []
    for _ in range(rng.integers(1, 4)):
        story = []
        for i in range(1, rng.integers(3, 7)):
            records.append(len(lines))
            if i > 1 and rng.random() < 0.4:
                answer = str(rng.choice(["hall", "attic", "apple,milk"]))
                lines.append(f"{i} Where is Mary? \t{answer}\t1")
                X.append([list(story), ["where", "is", "mary"]])
                y.append(answer)
            else:
                room = str(rng.choice(["hall", "attic"]))
                lines.append(f"{i} Mary went to the {room}.")
                story.append(["mary", "went", "to", "the", room])
    if not y:
        return babi(rng)
    return Written((X, y), lines, records, "\t", questions=[i for i in records if "\t" in lines[i]])


def pairs(rng):
    rows = [([str(w) for w in rng.choice(WORDS, rng.integers(1, 4))], [str(w) for w in rng.choice(WORDS, rng.integers(0, 4))]) for _ in range(5)]
    lines = [f"{' '.join(source)}\t{' '.join(target)}" for source, target in rows]
    return Written(([s for s, _ in rows], [t for _, t in rows]), lines, list(range(5)), "\t")


def dictionary(rng):
    words = [f"word{k}" for k in range(rng.integers(1, 5))]
    sounds = [[str(s) for s in rng.choice(["AH", "K", "T"], rng.integers(1, 4))] for _ in words]
    lines = [f"{word} {' '.join(of)}" for word, of in zip(words, sounds)]
    return Written({word: [of] for word, of in zip(words, sounds)}, lines, list(range(len(lines))), None)


def captions(rng):
    D, N = rng.integers(1, 4), rng.integers(3, 6)
    texts = [[number(rng) for _ in range(D)] for _ in range(N)]
    said = [str(rng.choice(["tall", "wide and dark", "x"])) for _ in range(N)]
    lines = [",".join([*row, text]) for row, text in zip(texts, said)]
    if D > 1:  # else a first line without a number is a header
        return Written(([list(map(float, row)) for row in texts], said), lines, list(range(N)), ",", numbers=(",", -1))
    return captions(rng)


def parallel(rng):
    rows = [[str(word) for word in rng.choice(["ein", "hund", "x1"], rng.integers(k == 3, 4))] for k in range(4)]
    return Written((rows, [["one"], ["two"], ["three"], ["four"]]), [" ".join(row) for row in rows], list(range(4)), None)


def plain(found):
    """What a reader gave, as lists."""
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
    "babi": (babi, lambda path: plain(data.read_babi(path))),
    "pairs": (pairs, lambda path: plain(data.read_pairs(path))),
    "dictionary": (dictionary, lambda path: data.read_dictionary(path)),
    "captions": (captions, lambda path: plain(data.read_captions(path))),
    "parallel": (parallel, read_parallel),
}


# ---- damages: (Written, rng) -> (the bytes, lines that an error may name; None: it must be read), or None where it does not apply ----------


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
    padding = {"\t": ("nan",), None: ("nan", "?")}.get(cut, ())  # at its end it is a shorter series
    if ("," in junk and cut != "\t") or (junk in padding and all(parts[j].lower() in padding for j in fields[fields.index(k) + 1 :])):
        return None
    parts[k] = junk
    return changed(written, place, "".join(parts)), {place + 1}


def two_lines_joined(written, rng):
    if len(written.records) < 2 or isinstance(written.content, dict):  # two words that follow each other may be one
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
        return None  # the end of a sentence, or an end of a table, may be anywhere
    return joined([*written.lines[:place], *written.lines[place + 1 :]]), {place + 1, place + 2}


def a_line_twice(written, rng):
    place = a_record(written, rng)
    if not hasattr(written, "ordered") and not (hasattr(written, "blanks") and written.cut == "\t"):
        return None
    return joined([*written.lines[: place + 1], *written.lines[place:]]), {place + 2}


def two_lines_swapped(written, rng):
    place = a_record(written, rng)
    if place + 1 not in written.records or not (hasattr(written, "ordered") or (hasattr(written, "blanks") and written.cut == "\t")):
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
    if written.cut != "," or not hasattr(written, "numbers") or written.numbers[0] is None:
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
    return changed(written, place, written.lines[place].rpartition(cut)[0] + cut + str(rng.choice(["", "upp", "3"]))), {place + 1}


DAMAGES = [
    nothing, windows_line_ends, byte_order_mark, no_last_line_end, a_byte_that_is_no_text, a_carriage_return_inside, a_separator_lost,
    a_separator_twice, blanks_for_a_separator, the_last_field_lost, the_first_field_lost, a_number_that_is_none, two_lines_joined,
    a_line_lost, a_line_twice, two_lines_swapped, an_empty_line_of_blanks, an_empty_line_lost, a_quote_opened, a_tab_of_a_question_lost,
    a_label_that_is_none,
]  # fmt: skip


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
            assert named & may_name or "they must be line by line the same" in str(error), (
                f"lines {sorted(may_name)}, but the message is: {error}{shown}"
            )
        else:
            assert found == plain(written.content) or may_name is not None and is_harmless(damage, name, found, written, content), (
                f"read {found}, not {plain(written.content)}{shown}"
            )


def is_harmless(damage, name, found, written, content):
    """Where a damaged file is another right file, in which what was read is what it says."""
    text = content.decode()
    if name in ("parallel", "dictionary"):  # words only: they are those of the lines
        return [word for line in text.split("\n") for word in line.split()] == _words(name, found)
    if name == "babi" and damage is the_last_field_lost:  # the numbers of the supporting sentences
        return found == plain(written.content)
    return False


def _words(name, found):
    if name == "dictionary":
        return [word for key, variants in found.items() for variant in variants for word in [key, *variant]]
    return [word for row in found[0] for word in row]

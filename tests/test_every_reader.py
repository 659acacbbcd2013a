"""Properties of every reader: no pipes, no pickles, any encoding; replacements are counted."""

import logging
import os
import pickle

import pytest

from fastrnn import data
from fastrnn.models import LanguageModel
from fastrnn.models.text import read_bytes, read_text
from fastrnn.models.vectors import read_vectors


def rolls(path):
    return data.read_rolls(path, "train")


@pytest.fixture
def said(caplog):
    """Return what was reported to the logger, at the end."""
    caplog.set_level(logging.INFO, logger="fastrnn")
    return lambda: [record.getMessage() for record in caplog.records]


READERS = [
    data.read_ts,
    data.read_tsv,
    data.read_arff,
    data.read_conllu,
    data.read_csv,
    data.read_babi,
    data.read_pairs,
    data.read_dictionary,
    data.read_captions,
    data.read_wav,
    rolls,
    lambda path: data.read_parallel(path, path),
    read_text,
    read_bytes,
    lambda path: read_vectors(path, ["a"], 2),
]


@pytest.mark.parametrize("read", READERS, ids=range(len(READERS)))
def test_what_is_no_regular_file_is_refused(read, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match="fifo is a pipe, but a regular file is needed: write the data to one first"):
        read(tmp_path / "fifo")
    with pytest.raises(ValueError, match="/dev/zero is a device, but a regular file is needed"):
        read(type(tmp_path)("/dev/zero"))
    with pytest.raises(IsADirectoryError):
        read(tmp_path)


@pytest.mark.parametrize("read", READERS, ids=range(len(READERS)))
def test_pickles_are_never_read(read, tmp_path):
    for name in ("JSB.pkl", "JSB.pickle"):
        (tmp_path / name).write_bytes(pickle.dumps({"train": [[[60]]]}, protocol=2 if name.endswith("e") else 0))
        with pytest.raises(
            ValueError,
            match=r"is a Python pickle. Unpickling can run arbitrary code, so fastrnn does not read.*json\.dump",
        ):
            read(tmp_path / name)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_under_another_name_is_seen_too(protocol, tmp_path):
    (tmp_path / "f.json").write_bytes(pickle.dumps({"train": [[[60, 200]]], "x": 300.5}, protocol=protocol))
    with pytest.raises(ValueError, match="is a Python pickle|is not JSON"):
        rolls(tmp_path / "f.json")


ENCODED = [
    (data.read_ts, "1,2:größer\n", lambda found: found[1]),
    (data.read_tsv, "größer\t1\n", lambda found: found[1]),
    (
        data.read_arff,
        "@relation r\n@attribute a real\n@attribute y {größer}\n@data\n1,größer\n",
        lambda found: found[1],
    ),
    (data.read_conllu, "1\tgrößer\t_\tADJ\n", lambda found: found[0][0]),
    (data.read_csv, "größer\n1\n5\n", lambda found: found[0]),
    (data.read_babi, "1 größer\n2 was?\tgrößer\n", lambda found: found[1]),
    (data.read_pairs, "größer\tx\n", lambda found: found[0][0]),
    (data.read_dictionary, "größer A\n", list),
    (data.read_captions, "1,größer\n2,größer\n", lambda found: found[1][:1]),
    (read_text, "größer", lambda found: [found]),
]


@pytest.mark.parametrize("read, text, word", ENCODED, ids=range(len(ENCODED)))
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-8-sig", "UTF-8"])
def test_text_in_any_encoding(read, text, word, encoding, tmp_path):
    path = tmp_path / "f"
    path.write_text(text, encoding=encoding)
    assert word(read(path, encoding=encoding)) == ["größer"]
    if encoding == "utf-16":
        with pytest.raises(
            ValueError,
            match="is not UTF-8: byte 0 is 0xff; it starts with a byte-order mark of UTF-16: give the encoding utf-16",
        ):
            read(path)
    if encoding == "latin-1":
        with pytest.raises(ValueError, match=r"is not UTF-8: byte \d+ is 0xf6, on line \d: give its encoding"):
            read(path)
    for wrong in ("utf-9", "rot13"):
        with pytest.raises(ValueError, match=f"unknown text encoding '{wrong}'"):
            read(path, encoding=wrong)


def test_compressed_files_are_named(tmp_path):
    (tmp_path / "f").write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\xff")
    with pytest.raises(ValueError, match="is not UTF-8: byte 1 is 0x8b; it is a gzip archive: unpack it first"):
        data.read_ts(tmp_path / "f")


def test_line_ends_of_a_text_are_counted(tmp_path, said):
    (tmp_path / "f").write_bytes(b"a\r\nb\rc\n")
    assert read_text(tmp_path / "f") == "a\nb\nc\n"
    assert said() == [f"the file {tmp_path / 'f'}: 2 line ends CR LF or CR read as LF"]


def test_parallel_lines_are_counted_as_wc_does(tmp_path, said):
    (tmp_path / "a").write_bytes(b"one\rdog\r\ntwo\x0b\xc2\x85x\n")
    (tmp_path / "b").write_bytes(b"ein hund\nzwei\n")
    assert data.read_parallel(tmp_path / "a", tmp_path / "b") == (
        [["one", "dog"], ["two", "x"]],
        [["ein", "hund"], ["zwei"]],
    )
    assert said() == [f"{tmp_path / 'a'}: 1 carriage return inside lines read as spaces, not as line ends"]


def test_parallel_words_at_unicode_boundaries(tmp_path):
    (tmp_path / "a").write_text("नमस्ते, दुनिया\nre\u0301sume\u0301 3.14\n")
    found, _ = data.read_parallel(tmp_path / "a", tmp_path / "a", splitting="unicode")
    assert found == [["नमस्ते", ",", "दुनिया"], ["re\u0301sume\u0301", "3.14"]]


def test_unknown_words_are_counted(said):
    text = "a b a b a b c\n" * 12
    model = LanguageModel("rnn", 4, level="word", seed=0).fit(
        text, epochs=0, batch_size=2, seq_len=5, validation=0, verbose=False
    )
    with pytest.warns(UserWarning, match="' x', ' y'"):
        model.score("a b x y\na")


def test_bytes_are_read_as_they_are(tmp_path):
    (tmp_path / "f").write_bytes(b"a\r\n\xff")
    assert bytes(read_bytes(tmp_path / "f")) == b"a\r\n\xff"


@pytest.mark.parametrize("number", ["1e300", "inf", "nan"])
def test_vectors_beyond_float32_are_refused(number, tmp_path):
    (tmp_path / "f").write_text(f"a 1 2\nb 1 {number}\n")
    with pytest.raises(ValueError, match="line 2 of .* must be a word and 2 finite numbers"):
        read_vectors(tmp_path / "f", ["a", "b"], 2)
    with pytest.raises(ValueError, match="the pretrained vector of 'b' has numbers that are not finite, or beyond"):
        read_vectors({"b": [1, float(number)]}, ["a", "b"], 2)


# ---- ambiguous data, and formats that are not read ---------------------------------------------


def ts(header, *lines):
    return "\n".join(["@problemName A", "@timeStamps false", header, "@data", *lines, ""])


def table(**options):
    return lambda path: data.read_table(path, **options)


REFUSED = [
    (
        data.read_ts,
        "@problemName x\n@univariate false\n@data\n1,2:3,4\n5,6:7,8\n",
        "line 4: the last field, '3,4', must be the label, but it is a channel: .*@classLabel false",
    ),
    (
        data.read_ts,
        ts("@classLabel true", "1,2:3,NaN"),
        "line 5: the last field, '3,NaN', must be the label, .* a channel",
    ),
    (data.read_ts, "1,2:3,4\n", "line 1: the last field, '3,4', must be the label"),
    (lambda p: data.read_ts(p, labels=None), ts("", "1,2:3,4"), "line 5: the last field, '3,4', must be the label"),
    (lambda p: data.read_ts(p, labels="number"), ts("", "1:2:3"), "line 5: it is not clear whether '3' is a label"),
    (data.read_ts, ts("", "1:2"), "line 5: it is not clear whether '2' is a label .*@classLabel"),
    (data.read_ts, ts("@dimensions " + "9" * 5000, "1:2"), "line 3: '@dimensions 9+…9+' must have a whole number"),
    (lambda p: data.read_captions(p, texts=False), "NA\n1\n", "line 1: 'NA' is a missing value, not a number"),
    (lambda p: data.read_captions(p, texts=False), "1.5.2\n1\n", "line 1: '1.5.2' is not a number"),
    (data.read_captions, "NA,NA,a\n1,2,b\n", "line 1: 'NA' is a missing value, not a number"),
    (data.read_captions, "inf,-Infinity,a\n1,2,b\n", "line 1: 'inf' is not a number"),
    (data.read_captions, "$5,a\n1,b\n", r"line 1: '\$5' is not a number"),
    (data.read_csv, "inf\n1\n5\n", "line 1: 'inf' is not a number"),
    (data.read_csv, '"1,5"\n1\n5\n', r"line 1: '1,5' is not a number with decimal='\.'"),
    (table(allow_gaps=True), "Date,a\n01.02.24,1\n31.01.24,5\n", "line 3: .* dates must rise"),
    (
        lambda p: data.read_conllu(p, layout="conll2003"),
        "x O\n\nNew York\tB-LOC\n",
        "line 3: 'New York', between tabs, contains a space, but on line 1 spaces separate the columns: use tabs",
    ),
    (
        lambda p: data.read_conllu(p, layout="conll2003"),
        "New York\tB-LOC\nLos Angeles\n",
        "line 2: spaces separate its columns, but 'New York' on line 1, between tabs, contains a space: use tabs",
    ),
    (lambda p: data.read_ts(p, labels=None), "@univariate true\n@data\n1,2\n", "no label, .*@classLabel false"),
    (data.read_captions, ",,a\n1,2,b\n", "line 1: '' is a missing value, not a number"),
    (data.read_captions, "a,text\n1,2,b\n", "line 2: it has 3 fields, but must have 2, like line 1"),
    (data.read_captions, "# made\n1,2,b\n", "line 1: '# made' looks like a comment"),
    (data.read_csv, "NA\n1\n5\n", "line 1: 'NA' is a missing value, not a number"),
    (data.read_csv, "# made by x\na,b\n1,2\n", "line 1: '# made by x' looks like a comment.* delete the lines before"),
    (data.read_csv, "a\n1\n2\n3\n", r"no column of numbers .*'a' \(counts the rows\); to choose, give target= \(--t"),
    (data.read_csv, "Date,a\n2024-01,1\n2024-02,2\n2024-03,3\n", r"left out: 'a' \(counts the rows\)"),
    (table(target=3), "a,b\n1,2\n", "target=3, but it must be the name of a column, or a list of names"),
    (table(separator=None), "a,b\n1,2\n", "separator=None must be one character"),
    (data.read_csv, "Date,a\n1/1/24,5\n1/3/24,6\n1/4/24,8\n1/5/24,9\n", "line 3: '1/3/24' follows '1/1/24'"),
    (data.read_csv, "Date,a\n01.01.24,5\n01.01.24,6\n", "line 3: '01.01.24' follows '01.01.24'"),
    (data.read_csv, "Date,a\n1 January 2024,5\n1 March 2023,6\n", "line 3: .* dates must rise"),
    (data.read_csv, "Date,a\nJan-49,5\nMar-49,6\nApr-49,8\nMay-49,9\n", "line 3: .* most rows are 1 month apart"),
    (data.read_csv, "Date,a\n2024-W01,5\n2024-W03,6\n2024-W04,8\n2024-W05,9\n", "line 3: .* apart"),
    (data.read_csv, "Date,a\n2024-W01,5\n2024-W54,6\n", "line 3: '2024-W54' is not a date like the others"),
    (data.read_csv, "Date,a\n0000 Q1,5\n0000 Q2,6\n", "line 2: '0000 Q1' is neither a number nor a date"),
    (
        data.read_csv,
        "Date,a\n2024-01-01 00:00 +0000,5\n2024-01-01 02:00 +0100,6\n2024-01-01 03:00 +0000,9\n",
        "line 4: .* most rows are 1:00:00 apart",
    ),
    (data.read_csv, "x,a\n,5\n,6\n,8\n2024-01,9\n2024-02,8\n", "line 2: '' is not a date like the others .*'x'"),
    (
        data.read_csv,
        "Date,a\n1st of May,5\n2nd of May,6\n",
        r"line 2: '1st of May' is neither a number nor a date .*'Date'.*2024-01-31.*--target\) and date= \(--date\)",
    ),
    (data.read_csv, "month,a\nJan,5\nFeb,6\n", "line 2: 'Jan' is neither a number nor a date"),
    (data.read_csv, "x,a\n1.2M,5\n1.3M,6\n", "line 2: '1.2M' is neither a number nor a date"),
    (table(date="x"), "x,a\nsoon,5\nlate,6\n", "line 2: 'soon' is not a date in a known form"),
    (rolls, '{"train": [[[%s]]]}' % ("9" * 5000), "file, train 0, frame 0: .* is not a list of pitches"),
    (data.read_babi, "9" * 5000 + " A b.\n", "line 1: it begins with '9+…9+', but its number must be 1"),
    (lambda p: data.read_conllu(p, layout="conll2003"), "a\tB C\n", "line 1: its tag 'B C' has a space"),
    (lambda p: data.read_parallel(p, p), "İstanbul\n", "line 1: .* has combining marks, which splitting='simple'"),
]


@pytest.mark.parametrize("read, text, message", REFUSED, ids=range(len(REFUSED)))
def test_what_is_not_clear_is_refused_with_its_line_and_what_to_do(read, text, message, tmp_path):
    (tmp_path / "file").write_text(text)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "file")


def test_a_label_is_certain_by_the_dimensions_or_the_lengths(tmp_path):
    path = tmp_path / "f"
    for head, line, channels in (
        ("@dimensions 2", "1:2:3", 2),
        ("@univariate true", "1:3", 1),
        ("@classLabel true", "1:2:3", 2),
        ("@problemName x", "1,2:2,2:3", 2),
        ("@classLabel true 3,4 3", "1,2:3", 1),
    ):
        path.write_text(f"{head}\n@data\n{line}\n")
        X, y = data.read_ts(path)
        assert (X[0].shape[1], y) == (channels, ["3"])
    path.write_text("@targetLabel false\n@data\n1,2:3,4\n")
    assert data.read_ts(path, labels=None)[0][0].shape == (2, 2)


def test_vectors_of_one_number_keep_the_first(tmp_path, said):
    (tmp_path / "f").write_text("1\n2\n3\n")
    assert data.read_captions(tmp_path / "f", texts=False)[0].tolist() == [[1], [2], [3]]
    (tmp_path / "f").write_text("width\n2\n3\n")
    assert data.read_captions(tmp_path / "f", texts=False)[0].tolist() == [[2], [3]]
    assert said()[-1].endswith("line 1: read as a header: width")


def test_a_first_row_of_numbers_is_reported_as_data(tmp_path, said):
    path = tmp_path / "f"
    path.write_text("country,1990,1991\nx,1,2\ny,5,7\nz,3,9\n")
    with pytest.warns(UserWarning) as found:
        assert data.read_csv(path)[1].tolist() == [[1990, 1991], [1, 2], [5, 7], [3, 9]]
    first = f"{path}, line 1: read as data, not as names of columns, since it has numbers or dates (1990, 1991): "
    assert any(str(one.message).startswith(first) for one in found)
    assert data.read_csv(path, target="2")[1].shape == (4, 1)
    with pytest.raises(ValueError, match="no column '1990' for target; it has 1, 2, 3, as line 1 was read as data"):
        data.read_csv(path, target="1990")
    path.write_text("2019,2020,text\n1,2,wide\n")
    with pytest.warns(UserWarning, match="line 1: read as a vector and its text, not as a header"):
        assert data.read_captions(path)[1] == ["text", "wide"]
    path.write_text("1,2,wide\n")
    data.read_captions(path)
    assert said()[-1].startswith(f"{path}, line 1: read as a vector and its text, not as a header")


LONG = "x" * 5000


@pytest.mark.parametrize(
    "read, text",
    [
        (table(target=LONG), "a,b\n1,2\n"),
        (table(target="c"), f"a,{LONG}\n1,2\n"),
        (table(separator=LONG), "a,b\n1,2\n"),
        (table(target="c"), f"{','.join(f'a{k}' for k in range(999))}\n{'1,' * 998}1\n"),
        (data.read_csv, f"{LONG},b\n1,2\n2,{LONG}\n"),
        (data.read_csv, f"{LONG},{LONG}\n1,2\n"),
        (data.read_csv, f"{LONG},b\n1,2\n2,{'9' * 5000}\n"),
        (data.read_ts, f"@classLabel true a\n@data\n1,2:{LONG}\n"),
        (data.read_ts, f"@classLabel true {LONG} {LONG}b\n@data\n1,2:c\n"),
        (data.read_ts, f"@{LONG}\n@data\n1,2:c\n"),
        (data.read_arff, f"@attribute a {LONG}\n@attribute y {{1}}\n@data\n"),
        (lambda p: data.read_conllu(p, tags=False), f"1\t{LONG}\n{LONG}\tb\n"),
        (data.read_dictionary, f"{LONG}\n"),
        (lambda p: data.read_rolls(p, LONG), '{"train": [[[60]]]}'),
        (lambda p: data.read_rolls(p, "train"), f'{{"{LONG}": [[[60]]]}}'),
        (lambda p: data.read_conllu(p, encoding=LONG), ""),
    ],
    ids=range(16),
)
def test_long_names_are_shortened_in_the_middle_of_messages(read, text, tmp_path):
    (tmp_path / "file").write_text(text)
    with pytest.raises(ValueError, match=".….") as caught:
        read(tmp_path / "file")
    assert len(str(caught.value).replace(str(tmp_path), "")) < 400


def test_escapes_in_quotes_are_undone(tmp_path):
    head = "@relation r\n@attribute a real\n@attribute y {'don\\'t',\"a \\\\ b\",'50\\%'}\n@data\n"
    (tmp_path / "f").write_text(head + "1,'don\\'t'\n1,\"don't\"\n2,'a \\\\ b'\n3,50%\n")
    assert data.read_arff(tmp_path / "f")[1] == ["don't", "don't", "a \\ b", "50%"]


def test_blanks_inside_words_between_tabs(tmp_path):
    (tmp_path / "f").write_text("New York\tB-LOC\nruns\tO\n")
    assert data.read_conllu(tmp_path / "f", layout="conll2003") == ([["New York", "runs"]], [["B-LOC", "O"]])
    (tmp_path / "f").write_text("10\u00a0000 O\n", encoding="utf-8")
    assert data.read_conllu(tmp_path / "f", layout="conll2003") == ([["10\u00a0000"]], [["O"]])


def test_empty_lines_of_tables_are_counted(tmp_path, said):
    path = tmp_path / "f"
    path.write_text("a,b\n1,2\n\n\n3,5\n\n")
    assert data.read_csv(path)[1].shape == (2, 2)
    path.write_text("1,2,x\n\n3,5,y\n\n")
    assert data.read_captions(path)[1] == ["x", "y"]
    assert f"{path}: 2 empty lines left out, the first is line 3" in said()
    assert f"{path}: 1 empty line left out, the first is line 2" in said()


def test_a_date_column_that_target_leaves_unchecked_is_reported(tmp_path, said):
    (tmp_path / "f").write_text("Date,a\n1st of May,5\n2nd of May,6\n")
    assert data.read_csv(tmp_path / "f", target="a")[1].shape == (2, 1)
    assert said() == [f"{tmp_path / 'f'}, line 2: '1st of May' is not a date in a known form: 'Date' was not checked"]


@pytest.mark.parametrize("number", [2.0, "2", True])
def test_numbers_of_columns_and_channels_are_whole(number, tmp_path):
    (tmp_path / "f").write_text("1\ta\t_\tX\n")
    with pytest.raises(TypeError, match=f"column={number!r}, but it must be a whole number"):
        data.read_conllu(tmp_path / "f", number)
    with pytest.raises(TypeError, match=f"channel={number!r}, but it must be a whole number"):
        data.read_wav(tmp_path / "f", channel=number)


def test_a_range_of_words_has_as_many_columns_as_the_words(tmp_path):
    (tmp_path / "f").write_text("1\ta\t_\tX\n2-3\tb\t_\tX\t_\n2\tb\t_\tX\n3\tc\t_\tX\n")
    with pytest.raises(ValueError, match="line 2: it has 5 columns, but line 1 has 4"):
        data.read_conllu(tmp_path / "f")

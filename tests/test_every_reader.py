"""What holds for every reader: no pipes, no pickles, any encoding; what is replaced is counted."""

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
    """What was reported to the logger, at the end."""
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
            ValueError, match=r"is a Python pickle. Reading one can run any code, so fastrnn reads none.*json\.dump"
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
            ValueError, match="is not UTF-8: byte 0 is 0xff; it begins as UTF-16 does: give the encoding utf-16"
        ):
            read(path)
    if encoding == "latin-1":
        with pytest.raises(ValueError, match=r"is not UTF-8: byte \d+ is 0xf6, in line \d: give its encoding"):
            read(path)
    for wrong in ("utf-9", "rot13"):
        with pytest.raises(ValueError, match=f"there is no text encoding '{wrong}'"):
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
    assert said() == [f"{tmp_path / 'a'}: 1 carriage return inside lines counted as blanks, not as line ends"]


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

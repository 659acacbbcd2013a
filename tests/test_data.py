"""The readers, on realistic and on damaged files."""

import wave

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from fastrnn import data

BAD = [
    (data.read_ts, "@data\n1,2,3\n", "line 2: there is no label, which must come last, after a colon"),
    (data.read_ts, "@data\n1,2:a\n1,?:b\n", r"line 3: '\?' is a missing value, not a number"),
    (data.read_ts, "1,2:3:a\n", r"line 1: its channels have different lengths, \[1, 2\]"),
    (data.read_ts, "1:a\n1:2:b\n", "line 2: it has 2 channels, but line 1 has 1"),
    (data.read_ts, "@data\n", "has no series"),
    (data.read_conllu, "1\tdogs\tdog\n", "line 1: it has 3 columns, but the tag is in column 4"),
    (data.read_conllu, "\n\n", "has no sentences"),
    (
        data.read_csv,
        "Date,Name\n2020,a\n",
        "it is not clear what the column 'Date' is: choose the columns with target=",
    ),
    (data.read_csv, "Name\na\n", "has no column of numbers under a header"),
    (data.read_csv, "", "has no column of numbers under a header"),
    (data.read_csv, "a,b\n1,2\n3,x\n", "line 3: 'x' is not a number"),
    (data.read_csv, "a,b\n\n1,2\n\n3,\n", "line 5: '' is a missing value, not a number"),
    (data.read_csv, "a,b\n1,2\n3,nan\n", "line 3: 'nan' is a missing value, not a number"),
    (data.read_ts, "1,nan:a\n", "line 1: 'nan' is a missing value, not a number"),
    (data.read_csv, "a,b\n1,2\n3\n", "line 3: it has 1 fields, but the header has 2"),
    (lambda path: data.read_rolls(path, "train"), "[1", "is not JSON: line 1"),
    (lambda path: data.read_rolls(path, "train"), '{"test": []}', "has no part 'train'; it has test"),
    (
        lambda path: data.read_rolls(path, "train"),
        '{"train": [[[60], [109]]]}',
        r"train 0, frame 1: \[109\] is not a list of pitches from 21 to 108",
    ),
    (data.read_wav, "RIFF", "is not a WAV file"),
    (data.read_babi, "1 A b.\n\n3 C d.\n", "line 3: it begins with '3', but its number must be 1 or 2"),
    (data.read_babi, "A b.\n", "line 1: it begins with 'A', but its number must be 1$"),
    (data.read_babi, "1 A b.\n2 ?\tyes\t1\n", "line 2: it has no words"),
    (data.read_babi, "1 A b.\n2 C?\t\t1\n", "line 2: the question has no answer, which must follow a tab"),
    (data.read_babi, "1 A b.\n2 C?\t\n", "line 2: the question has no answer, which must follow a tab"),
    (data.read_babi, "1 A b.\n2 C?\n", "line 2: the question has no answer, which must follow a tab"),
    (data.read_babi, "1 A b.\n1 C?\tyes\t1\n", "line 2: there is no sentence before the question"),
    (data.read_babi, "1 A b.\n", "has no questions"),
    (lambda path: data.read_parallel(path, path), "", "has no lines"),
    (data.read_pairs, "a\tb\n\nc\td\n", "line 2: it has 0 tabs, but must have 1"),
    (data.read_pairs, "a\tb\tc\n", "line 1: it has 2 tabs, but must have 1"),
    (data.read_pairs, "a\tb\n \tc\n", "line 2: the source has no words"),
    (data.read_pairs, "", "has no lines"),
    (lambda path: data.read_pairs(path, targets=False), "a\n\n", "line 2: the source has no words"),
    (lambda path: data.read_pairs(path, targets=False), "a\tb\tc\n", "line 1: it has 2 tabs, but must have 1"),
    (data.read_dictionary, "a AH0\n\nb # nothing\n", "line 3: the word 'b' has no sounds"),
    (data.read_dictionary, ";;; a comment\n", "has no words"),
    (
        data.read_captions,
        "1,2,wide\n3,tall\n",
        "line 2: it has 2 fields, but must have 3, like line 1: numbers, then the text",
    ),
    (data.read_captions, "wide\ntall\n", "line 1: it has 1 fields, but must have 2: numbers, then the text"),
    (data.read_captions, "1,2,wide\n3,x,tall\n", "line 2: 'x' is not a number"),
    (data.read_captions, "a,b,text\n", "has no vectors"),
]


@pytest.mark.parametrize("read, text, message", BAD, ids=range(len(BAD)))
def test_what_is_wrong_in_a_file_is_named(read, text, message, tmp_path):
    path = tmp_path / "file"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("read", [data.read_ts, data.read_conllu, data.read_csv, data.read_babi])
def test_a_file_that_is_not_text_is_named(read, tmp_path):
    (tmp_path / "file").write_bytes(b"a\xff")
    with pytest.raises(ValueError, match="is not UTF-8: byte 1 is 0xff"):
        read(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")


def test_ranges_empty_nodes_and_comments_are_no_words(tmp_path):
    lines = ["# c", "1-2\tit's\t_\t_", "1\tit\tit\tPRON", "2\t's\tbe\tAUX", "2.1\tx\tx\tX", "", "", "1\tyes\tyes\tINTJ"]
    (tmp_path / "f").write_text("\n".join(lines))
    assert data.read_conllu(tmp_path / "f") == ([["it", "'s"], ["yes"]], [["PRON", "AUX"], ["INTJ"]])
    assert data.read_conllu(tmp_path / "f", column=3)[1] == [["it", "be"], ["yes"]]


def test_questions_see_the_sentences_of_their_own_story_before_them(tmp_path):
    lines = [
        "1 Mary got the milk.",
        "2 Is it  hers?\tYes\t1",
        "3 John left!",
        "4 Who, then?\tmary,John\t1 3",
        "",
        "1 It rains.",
        "2 Why?\tno",
        "",
    ]
    (tmp_path / "f").write_text("\r\n".join(lines))
    X, y = data.read_babi(tmp_path / "f")
    first, second = ["mary", "got", "the", "milk"], ["john", "left"]
    assert X == [([first], ["is", "it", "hers"]), ([first, second], ["who", "then"]), ([["it", "rains"]], ["why"])]
    assert y == ["yes", "mary,john", "no"]


def test_a_column_that_counts_the_rows_and_dates_are_no_series(tmp_path):
    (tmp_path / "f").write_text(",Quarter,Income,Savings\r\n0,1970 Q1,1.5,-2\r\n1,1970 Q2,2.5,3e1\r\n")
    with pytest.warns(UserWarning, match=r"columns left out: 1 \(counts the rows\); to choose, give target"):
        names, series = data.read_csv(tmp_path / "f")
    assert names == ["Income", "Savings"]
    assert_array_equal(series, [[1.5, -2], [2.5, 30]])


@pytest.mark.parametrize("channels", [1, 2])
def test_a_sound_is_read_as_written(channels, tmp_path):
    samples = (np.sin(np.arange(1000)) * 20000).astype("<i2")
    with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(np.repeat(samples, channels).tobytes())
    if channels == 2:
        with pytest.warns(
            UserWarning, match="has 2 channels, and the first one is read: to choose, give channel=0 to 1"
        ):
            data.read_wav(tmp_path / "a.wav")
    found, rate = data.read_wav(tmp_path / "a.wav", channel=channels - 1)
    assert rate == 8000
    assert_allclose(found, samples / 32768)
    assert data.log_mel(found[:10], rate).shape == (1, 40)


def test_translations_are_words_and_signs_line_by_line(tmp_path):
    (tmp_path / "a").write_text("Ein Hund, ÄLTER.\n\nzwei\r\n", encoding="utf-8")
    (tmp_path / "b").write_text("A dog's\nx\ntwo", encoding="utf-8")
    sources, targets = data.read_parallel(tmp_path / "a", tmp_path / "b")
    assert sources == [["ein", "hund", ",", "älter", "."], [], ["zwei"]]
    assert targets == [["a", "dog", "'", "s"], ["x"], ["two"]]
    (tmp_path / "b").write_text("one")
    with pytest.raises(ValueError, match="a has 3 lines, but .*b has 1: each line must be the translation"):
        data.read_parallel(tmp_path / "a", tmp_path / "b")


def test_pairs_are_words_with_or_without_targets(tmp_path):
    (tmp_path / "a").write_bytes("\ufeffÄlter  als du\tolder than\r\nja\t\r\nein\tone".encode())
    sources, targets = data.read_pairs(tmp_path / "a")
    assert sources == [["Älter", "als", "du"], ["ja"], ["ein"]] and targets == [["older", "than"], [], ["one"]]
    (tmp_path / "b").write_text("zwei hunde\nja\tyes\n")
    assert data.read_pairs(tmp_path / "b", targets=False) == [["zwei", "hunde"], ["ja"]]


def test_pronunciations_that_differ_in_stress_only_are_one(tmp_path):
    (tmp_path / "f").write_text(";;; head\nread R EH1 D\nread(2) R IY1 D # now\nread(3) R IY0 D\n'em AH0 M\n")
    assert data.read_dictionary(tmp_path / "f") == {"read": [["R", "EH", "D"], ["R", "IY", "D"]], "'em": [["AH", "M"]]}


def test_captions_in_arrays_and_tables_are_the_same(tmp_path):
    X, y = np.array([[1.5, 2], [3, -4]]), ["wide, and dark", "tall"]
    np.savez(tmp_path / "a.npz", vectors=X, texts=np.array(y))
    (tmp_path / "a.csv").write_text('1.5,2,"wide, and dark"\n\n3,-4,tall\n')
    for name in ("a.npz", "a.csv"):
        found, texts = data.read_captions(tmp_path / name)
        assert_array_equal(found, X)
        assert texts == y


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"vectors": np.eye(2)}, "must have the arrays 'vectors' and 'texts'.*texts"),
        ({"vectors": np.eye(2), "texts": np.array(["a"])}, r"texts are <U1 of shape \(1,\), but they must be 2 str"),
        (
            {"vectors": np.ones(2), "texts": np.array(["a", "b"])},
            r"vectors are float64 of shape \(2,\), but they must be numbers of shape \(N, D\)",
        ),
        ({"vectors": np.eye(2), "texts": np.array(["a", None], object)}, "objects are not read"),
    ],
)
def test_arrays_that_are_no_captions_are_named(arrays, message, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        data.read_captions(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="is not a .npz file of plain arrays"):
        data.read_captions(tmp_path / "b.npz")


def test_questions_without_answers_and_vectors_without_texts_can_be_read(tmp_path):
    path = tmp_path / "qa.txt"
    path.write_text("1 A b.\n2 C?\n3 D e.\n4 F?\t\n5 G?\tyes\n")
    X, y = data.read_babi(path, answers=False)
    assert y == ["", "", "yes"] and [len(story) for story, _ in X] == [1, 2, 2]
    path = tmp_path / "vectors.csv"
    path.write_text("a,b\n1,2\n3,4\n")
    X, y = data.read_captions(path, texts=False)
    assert X.tolist() == [[1, 2], [3, 4]] and y == ["", ""]
    path.write_text("1,2,wide\n")
    assert data.read_captions(path, texts=False)[1] == ["wide"]
    np.savez(tmp_path / "vectors.npz", vectors=np.ones((2, 3)))
    assert data.read_captions(tmp_path / "vectors.npz", texts=False)[1] == ["", ""]

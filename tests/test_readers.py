"""The readers: variants of formats and options, errors, and reports."""

import logging
import struct
import sys
import wave

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from fastrnn import data

TS = "@problemName A\n@timeStamps false\n{}\n@data\n"


def ts(header, *lines):
    return TS.format(header) + "\n".join(lines) + "\n"


def rolls(path):
    return data.read_rolls(path, "train")


def table(**options):
    return lambda path: data.read_table(path, **options)


REFUSED = [
    (
        data.read_ts,
        ts("@classLabel false", "1,2:3,4"),
        "line 4: '@classLabel false' says that the series have no labels",
    ),
    (
        data.read_ts,
        ts("@targetLabel true", "1,2:3.5"),
        "line 4: '@targetLabel true' says that the labels are numbers.*fastrnn train regress",
    ),
    (
        lambda p: data.read_ts(p, labels="number"),
        ts("@classLabel true a", "1:a"),
        "'@classLabel true a' says that the labels are classes",
    ),
    (lambda p: data.read_ts(p, labels="number"), ts("@targetLabel true", "1:a"), "line 5: 'a' is not a number"),
    (
        data.read_ts,
        "@timeStamps true\n@data\n(0,1),(1,2):a\n",
        "line 1: '@timeStamps true': series with time stamps are not read",
    ),
    (
        data.read_ts,
        ts("@classLabel true a b", "1,?:a"),
        r"line 5: '\?' is a missing value, not a number: fill it in",
    ),
    (
        data.read_ts,
        ts("@classLabel true a b", "1,2:c"),
        "line 5: its label 'c' is not one of those in the header: a, b",
    ),
    (data.read_ts, ts("@classLabel maybe", "1:a"), "line 3: '@classLabel maybe' must say true or false"),
    (data.read_ts, ts("@dimensions two", "1:a"), "line 3: '@dimensions two' must have a whole number"),
    (data.read_ts, ts("@dimensions 2", "1:a"), "line 5: it has 1 channels, but the header says '@dimensions 2'"),
    (
        data.read_ts,
        ts("@univariate true", "1:2:a"),
        "line 5: it has 2 channels, but the header says '@univariate true'",
    ),
    (
        data.read_ts,
        ts("@equalLength true\n@seriesLength 3", "1,2:a"),
        "line 6: it has 2 steps, but the header says '@seriesLength 3'",
    ),
    (data.read_ts, "@problemName A\n1:a\n", "line 2: there is no @data before the first series"),
    (data.read_ts, ts("@frequency yearly", "1:a"), "line 3: '@frequency yearly' is not a line of a .ts header"),
    (data.read_ts, ts("@univariate true", "1:a", "@univariate true"), "line 6: '@univariate true' comes after @data"),
    (data.read_ts, ts("", "1_0:a"), "line 5: '1_0' is not a number"),
    (data.read_ts, ts("", "1e300:a"), "line 5: 1e300 is beyond 3.4e38, the largest float32 value: scale the data"),
    (data.read_tsv, "1\t2\tNaN\t3\n", "line 1: 'NaN' is a missing value, not a number"),
    (data.read_tsv, "1 2 3\n", "line 1: '1 2 3' must be a label, a tab and values separated by tabs"),
    (
        data.read_arff,
        "@relation r\n@attribute a string\n@attribute y {1}\n@data\n",
        "line 2: the attribute 'a' is 'string'",
    ),
    (
        data.read_arff,
        "@relation r\n@attribute a real\n@attribute y real\n@data\n1,2\n",
        "line 3: the last attribute 'y' is 'real'.*train regress",
    ),
    (
        data.read_arff,
        "@relation r\n@attribute a real\n@attribute y {1}\n@data\n'1,1\n",
        "line 5: a quote is not closed",
    ),
    (
        data.read_arff,
        "@relation r\n@attribute a real\n@attribute y {1}\n@data\n1,2\n",
        "line 5: its label '2' is not one of those in the header: 1",
    ),
    (data.read_conllu, "1\tdogs\t_\tNOUN\nbark VERB\n", "line 2: 'bark VERB' has no tab.*--layout conll2003"),
    (data.read_conllu, "EU NNP B-NP B-ORG\n", "line 1: 'EU NNP B-NP B-ORG' has no tab.*layout='conll2003'"),
    (data.read_conllu, "1\ta\t_\tX\n3\tb\t_\tX\n", "line 2: it begins with '3', but the number of this word must be 2"),
    (data.read_conllu, "1\ta\t_\tX\n1\tb\t_\tX\n", r"line 2: .* must be 2 \(an empty line ends a sentence\)"),
    (data.read_conllu, "1\ta\t_\tX\n2\t\t_\tX\n", "line 2: its word is empty"),
    (data.read_conllu, "1\ta\t_\t\n", "line 1: its tag is empty"),
    (lambda p: data.read_conllu(p, 5), "1\ta\t_\tX\t_\n", "has no tags in column 5: all are '_'"),
    (lambda p: data.read_conllu(p, layout="conll2003"), "a B C\nd E\n", "line 2: it has 2 columns, but line 1 has 3"),
    (lambda p: data.read_conllu(p, layout="iob"), "", "layout='iob', but it must be 'conllu' or 'conll2003'"),
    (data.read_csv, "a,b\n,1\n2,3\n", r"line 2: '' is a missing value, not a number.*\(column 'a'\).*target="),
    (data.read_csv, 'a,b\n1,"2\n3,4\n', "line 2: a quote is opened but never closed"),
    (data.read_csv, 'a,b\n1,"2"x\n', "line 2: ',' expected after '\"'"),
    (
        data.read_csv,
        "a;b\n1;2,5\n",
        r"line 1: it has 1 field; if ';' separates them, give separator=';' \(--separator\)",
    ),
    (data.read_csv, "a;b\n1;2\n", "line 1: it has 1 field; if ';' separates them"),
    (
        data.read_csv,
        'a,b\n1,"1,234"\n2,"2,345"\n',
        r"line 2: '1,234' is not a number with decimal='\.': write it without thousands separators",
    ),
    (data.read_csv, 'a,b\n1,"2,5"\n', r"line 2: '2,5' is not a number with decimal='\.'"),
    (table(decimal=",", separator=";"), "a;b\n1;2.5\n", "line 2: '2.5' is not a number with decimal=','"),
    (table(decimal=",", separator=";"), "a;b\n1;1.234,5\n", "line 2: '1.234,5' is not a number with decimal=','"),
    (
        data.read_csv,
        "a,b\n1,5%\n2,6%\n",
        r"line 2: '5%' is not a number with decimal='\.': .* percent or currency signs",
    ),
    (data.read_csv, "a,a\n1,2\n", "line 1: two columns are named 'a'"),
    (
        data.read_csv,
        "name,112\n1949-01,118\n1949-02,119\n",
        "line 1: it is neither a header nor data: 'name' is a name, but '112' is data",
    ),
    (
        data.read_csv,
        "Date,a\n2024-01,5\n2024-03,6\n2024-04,6\n",
        "line 3: '2024-03' follows '2024-01' .* but most rows are 1 month apart",
    ),
    (
        data.read_csv,
        "Date,a\n2024-02,5\n2024-01,6\n",
        "line 3: '2024-01' follows '2024-02' .* but dates must rise: sort the rows",
    ),
    (data.read_csv, "Date,a\n2024-02,5\n2024-02,6\n", "line 3: '2024-02' follows '2024-02' .* give each time one row"),
    (
        data.read_csv,
        "Date,a\n2024-01-01,5\nsoon,6\n",
        "line 3: 'soon' is not a date like the others in the column 'Date'",
    ),
    (data.read_csv, "Date,a\n194901,5\n194902,6\n194904,7\n", "it is not clear what the column 'Date' is"),
    (table(date="Date"), "Date,a\n194901,5\n194902,6\n194904,7\n", "line 4: '194904' follows '194902'"),
    (table(target="x"), "a,b\n1,2\n", "has no column 'x' for target; it has a, b"),
    (table(target="a", exog=["a"]), "a,b\n1,2\n", "the column 'a' has more than one role"),
    (table(exog=["a"]), "a,b\n1,2\n", "exog needs target"),
    (table(separator=""), "a,b\n1,2\n", "separator='' must be one character"),
    (data.read_csv, "a\n1\n\n2\n", "line 3: '' is a missing value, not a number"),
    (data.read_csv, "a,b\r1,2\r3,4\r", "line 1: there is a carriage return inside it: end lines with LF or CR LF"),
    (
        rolls,
        '{"train": [[60, 62]]}',
        r"train 0, frame 0: 60 is not a list of pitches: write one note as \[60\], a rest as \[\]",
    ),
    (rolls, '{"train": [[[60.0]]]}', r"train 0, frame 0: \[60.0\] is not a list of pitches from 21 to 108"),
    (rolls, '{"train": [[[true]]]}', r"frame 0: \[true\] is not a list of pitches"),
    (rolls, '{"train": [[[-2]]]}', r"frame 0: \[-2\] is not a list of pitches"),
    (rolls, '{"train": [60]}', "train 0: a piece must be a list of at least one frame, not 60"),
    (rolls, '{"train": {"a": 1}}', "the part 'train' must be a list of at least one piece"),
    (rolls, '{"train": [[[60]]], "train": [[[61]]]}', "has two parts 'train'"),
    (rolls, "[" * 100000, "is not JSON|nested too deeply"),
    (
        data.read_babi,
        "1 A b.\n2 C? yes 1\n",
        "line 2: a question must end with a question mark, followed by a tab",
    ),
    (data.read_babi, "1 A b.\n2 C?\tyes\t13 D e.\n", "line 2: it must be one sentence, or a question, a tab"),
    (data.read_captions, "1.5.2,2x,wide\n3,4,tall\n", "line 1: '1.5.2' is not a number"),
    (lambda p: data.read_parallel(p, p), "नमस्ते\n", "line 1: .* has combining marks, which splitting='simple'"),
]


@pytest.mark.parametrize("read, text, message", REFUSED, ids=range(len(REFUSED)))
def test_what_is_not_read_is_refused_with_its_line_and_what_to_do(read, text, message, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(text.encode())
    with pytest.raises(ValueError, match=message):
        read(path)


@pytest.fixture
def said(caplog):
    """Return what was reported to the logger, at the end."""
    caplog.set_level(logging.INFO, logger="fastrnn")
    return lambda: [record.getMessage() for record in caplog.records]


# ---- series --------------------------------------------------------------------------------------


def test_series_without_labels_and_with_numbers(tmp_path):
    path = tmp_path / "a.ts"
    path.write_text(ts("% a comment\n@classLabel false", "1,2:3,4", "5:6"))
    X, y = data.read_ts(path, labels=None)
    assert [x.tolist() for x in X] == [[[1, 3], [2, 4]], [[5, 6]]] and y is None
    path.write_text(ts("@targetLabel true", "1,2: 3.5 ", "5:-1e3"))
    X, y = data.read_series(path, labels="number")
    assert_array_equal(y, [3.5, -1000])
    path.write_text(ts("@classLabel true a b", "1,2: a ", "5:b\t"))
    assert data.read_ts(path)[1] == ["a", "b"]


def test_the_other_formats_of_the_archive(tmp_path, said):
    tsv, arff = tmp_path / "a.tsv", tmp_path / "a.arff"
    tsv.write_text("1\t0.5\t1.5\n-1\t2\tNaN\n")
    X, y = data.read_series(tsv)
    assert [x.tolist() for x in X] == [[[0.5], [1.5]], [[2]]] and y == ["1", "-1"]
    assert_array_equal(data.read_series(tsv, labels="number")[1], [1, -1])
    arff.write_text(
        "% made\n@RELATION r\n@attribute v relational\n  @attribute t0 numeric\n  @attribute t1 numeric\n@end v\n"
        "@attribute class {up,'not up'}\n@data\n'1,2\\n3,4',up\n\"5,?\\n6,?\",'not up'\n"
    )
    X, y = data.read_series(arff)
    assert [x.tolist() for x in X] == [[[1, 3], [2, 4]], [[5, 6]]] and y == ["up", "not up"]
    assert said() == [f"{path}: 1 missing step at the ends of shorter series left out" for path in (tsv, tsv, arff)]
    arff.write_text("@relation r\n@attribute t0 real\n@attribute y numeric\n@data\n1,2.5\n")
    assert_array_equal(data.read_arff(arff, labels="number")[1], [2.5])


# ---- words and tags ------------------------------------------------------------------------------


def test_columns_separated_by_blanks(tmp_path, said):
    path = tmp_path / "f"
    path.write_text("-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n  \nPeter\tNNP\tB-NP\tB-PER\n")
    words = [["EU", "rejects"], ["Peter"]]
    assert data.read_conllu(path, layout="conll2003") == (words, [["B-ORG", "O"], ["B-PER"]])
    assert data.read_conllu(path, 2, layout="conll2003") == (words, [["NNP", "VBZ"], ["NNP"]])
    assert data.read_conllu(path, layout="conll2003", tags=False) == words
    assert set(said()) == {f"{path}: 1 line -DOCSTART- left out"}


def test_a_line_of_blanks_ends_a_sentence(tmp_path, said):
    path = tmp_path / "f"
    path.write_text("1\ta\t_\tX\n \t \n1\tb\t_\tY\n2-3\tcd\t_\t_\n2\tc\t_\tX\n3\td\t_\tX\n3.1\te\t_\tX\n")
    assert data.read_conllu(path) == ([["a"], ["b", "c", "d"]], [["X"], ["Y", "X", "X"]])
    assert said() == [f"{path}: 1 range of words and 1 empty node left out"]


# ---- tables --------------------------------------------------------------------------------------


def test_a_file_without_header_keeps_its_first_row(tmp_path):
    (tmp_path / "f").write_text("1949-01,112\n1949-02,118\n1949-03,132\n")
    with pytest.warns(UserWarning, match=r"line 1: read as data, not as names of columns.*\(1949-01, 112\)"):
        names, series = data.read_csv(tmp_path / "f")
    assert names == ["2"] and series[:, 0].tolist() == [112, 118, 132]
    assert data.read_csv(tmp_path / "f", target="2")[1].tolist() == series.tolist()


def test_what_is_left_out_of_a_table_is_reported(tmp_path):
    path = tmp_path / "f"
    path.write_text("row,value,note\n10,5,a\n11,7,b\n12,6,c\n")
    with pytest.warns(
        UserWarning, match=r"columns left out: 'row' \(counts the rows\), 'note' \(no numbers\); to choose, give target"
    ):
        assert data.read_csv(path)[0] == ["value"]
    assert data.read_csv(path, target=["row", "value"])[1].tolist() == [[10, 5], [11, 7], [12, 6]]
    path.write_text("row,value\n10,5\n11,7\n13,6\n")  # which counts nothing
    assert data.read_csv(path)[0] == ["row", "value"]


@pytest.mark.parametrize(
    "dates",
    [
        ["2024-01-31", "2024-02-29", "2024-03-31"],
        ["1970 Q1", "1970 Q2", "1970 Q3"],
        ["Q4 1970", "Q1 1971"],
        ["31.12.2023", "01.01.2024"],
        ["02/28/2024", "02/29/2024", "03/01/2024"],
        ["28/02/2024", "29/02/2024", "01/03/2024"],
        ["2024-01-01 23:30", "2024-01-02 00:00"],
        ["2024-01-04", "2024-01-05", "2024-01-08", "2024-01-09"],
        ["2024-02-29T00:00:00Z", "2024-02-29T01:00:00Z"],
        ["2000-02-29", "2004-02-29"],
        ["2024-02-29 11:30 PM", "2024-03-01 12:30 AM"],
        ["31 January 2024", "29 February 2024", "31 March 2024"],
        ['"January 30, 2024"', '"January 31, 2024"', '"February 1, 2024"'],
        ["1/31/24", "2/29/24", "3/31/24"],
        ["31.1.24", "29.2.24"],
        ["96/12/31", "97/01/01", "97/01/02"],
        ["Nov-68", "Dec-68", "Jan-69"],
        ["Dec-99", "Jan-00", "Feb-00"],
        ["28-Feb-24", "29-Feb-24", "01-Mar-24", "04-Mar-24"],
        ["2020-W52", "2020-W53", "2021-W01"],
        ["2020W531", "2020W532"],
        ["2024-01-01 00:00 +0000", "2024-01-01 02:00 +0100", "2024-01-01 02:00 +0000"],
        ["2024-01-01 00:00:00 UTC", "2024-01-02 00:00:00 UTC"],
    ],
)
def test_dates_in_even_steps_are_found(dates, tmp_path):
    path = tmp_path / "f"
    path.write_text("when,value\n" + "".join(f"{date},{k * k}\n" for k, date in enumerate(dates)))
    assert data.read_csv(path)[0] == ["value"]


def test_gaps_are_allowed_on_request(tmp_path, said):
    path = tmp_path / "f"
    path.write_text("Date,a\n2024-01,5\n2024-02,6\n2024-05,7\n2024-06,8\n2024-08,8\n")
    assert data.read_csv(path, allow_gaps=True)[1].shape == (5, 1)
    assert said() == [f"{path}: 2 uneven steps in the dates of 'Date'; the rows are taken as evenly spaced"]


def test_line_breaks_in_quotes_and_decimal_commas(tmp_path):
    path = tmp_path / "f"
    path.write_text('Date;"the\nvalue";b\n2024-01;"1,5";2\n\n2024-02;-3e2;,5\n')
    names, series = data.read_csv(path, separator=";", decimal=",")
    assert names == ["the\nvalue", "b"]
    assert series.tolist() == [[1.5, 2], [-300, 0.5]]
    path.write_text('Date;"the\nvalue";b\n2024-01;"1,5";x\n')
    with pytest.raises(ValueError, match="line 3: 'x' is not a number"):
        data.read_csv(path, separator=";", decimal=",", target=["b"])


# ---- sounds --------------------------------------------------------------------------------------


def write_wav(path, samples, rate=8000):
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes((samples * 32768).astype("<i2").tobytes())


SOUND = np.round(np.sin(np.arange(300)) * 20000) / 32768


@pytest.mark.soundfile
@pytest.mark.parametrize(
    "kind, subtype", [("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAV", "DOUBLE"), ("WAVEX", "PCM_16"), ("WAVEX", "PCM_24")]
)
def test_other_kinds_of_wav_are_read_by_soundfile(kind, subtype, tmp_path, monkeypatch):
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.stack([SOUND, -SOUND], 1), 8000, format=kind, subtype=subtype)
    for channel, sign in ((0, 1), (1, -1)):
        samples, rate = data.read_wav(tmp_path / "a.wav", channel=channel)
        assert rate == 8000
        assert_allclose(samples, sign * SOUND, atol=1e-9)
    with pytest.raises(ValueError, match="has 2 channels, but channel=2 is counted from 0"):
        data.read_wav(tmp_path / "a.wav", channel=2)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    message = (
        r"is (PCM|float|EXTENSIBLE) with \d+ bits per sample; only PCM with 16 bits .* pip install 'fastrnn\[data\]'"
    )
    with pytest.raises(ImportError, match=message):
        data.read_wav(tmp_path / "a.wav", channel=0)


def test_a_truncated_wav_is_refused(tmp_path):
    write_wav(tmp_path / "a.wav", SOUND)
    content = (tmp_path / "a.wav").read_bytes()
    assert_array_equal(data.read_wav(tmp_path / "a.wav")[0], SOUND)
    for size in [*range(60), *range(60, len(content), 37), len(content) - 1]:
        (tmp_path / "b.wav").write_bytes(content[:size])
        with pytest.raises(ValueError, match="is not a WAV file|is truncated"):
            data.read_wav(tmp_path / "b.wav")
    for place, value in ((22, 3), (32, 0), (32, 3), (34, 8)):  # channels, bytes of a step, bits of a sample
        (tmp_path / "b.wav").write_bytes(content[:place] + struct.pack("<H", value) + content[place + 2 :])
        with pytest.raises(ValueError, match="is not a WAV file"):
            data.read_wav(tmp_path / "b.wav")


def test_rests_of_voices(tmp_path, said):
    (tmp_path / "f").write_text('{"train": [[[60, -1], [-1, -1], []]]}')
    [roll] = rolls(tmp_path / "f")
    assert roll.sum(1).tolist() == [1, 0, 0]
    assert said() == [f"{tmp_path / 'f'}, train: 3 rests written as -1"]

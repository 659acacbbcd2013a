"""Long texts are read piece by piece, in little memory, with the same ids as all at once."""

import hashlib
import os
import sys

import numpy as np
import processes
import pytest
from numpy.testing import assert_array_equal

from fastrnn.models import LanguageModel, characters
from fastrnn.models.characters import Characters, digest, pieces_of
from fastrnn.models.text import Vocabulary, read_text

MB = 1 << 20


@pytest.fixture(params=[1, 2, 7, 1000])
def piece(request, monkeypatch):
    monkeypatch.setattr(characters, "PIECE", request.param)


def texts():
    rng = np.random.default_rng(0)
    alphabets = [
        range(97, 100),
        range(256),
        range(300),
        range(0x400, 0x460),
        range(0x4E00, 0x5200),
        range(0xFFF0, 0x10200),
        range(0xD7F0, 0xD810),
    ]
    for points in alphabets:
        for length in (1, 2, 50, 999):
            yield "".join(map(chr, rng.choice(points, length)))
    yield "a" * 30 + "".join(map(chr, range(256, 600))) + "a" * 30  # wider ids after narrow ones
    yield "a" * 2000 + "".join(map(chr, range(0x10000, 0x20100))) + "".join(map(chr, range(300)))


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize("room", [0, 3, 10**5])
def test_ids_and_digest_are_those_of_the_whole_text(room):
    for text in texts():
        if len(text) > 3000 and characters.PIECE < 100:
            continue
        found = Characters.of(pieces_of(text), room)
        vocabulary = Vocabulary.of(text)
        assert found.symbols == vocabulary.symbols == Vocabulary.of(found).symbols
        assert_array_equal(vocabulary.encode(found), vocabulary.encode(text))
        assert found.ids.itemsize == (1 if len(found.symbols) <= 256 else 2 if len(found.symbols) <= 65536 else 4)
        assert "".join(found.pieces()) == text
        assert "".join(found[3:9].pieces()) == text[3:9]
        assert digest(found) == digest(text) == hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def test_ids_of_another_vocabulary():
    text = Characters.of(["banana"])
    assert_array_equal(Vocabulary("abmn").encode(text), [1, 0, 3, 0, 3, 0])
    assert_array_equal(Vocabulary("abn").encode(text[2:]), [2, 0, 2, 0])
    with pytest.raises(ValueError, match="the text has 1 symbol that this model has not been trained on: 'n'"):
        Vocabulary("ab").encode(text)


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize("content", ["a\r\nb\rc\n", "\ufeffé\r\n\r\r\n", "\r", "x" * 5000 + "\r\n"])
def test_a_file_is_read_as_it_was_in_one_piece(tmp_path, content):
    (tmp_path / "text").write_bytes(content.encode())
    want = (tmp_path / "text").read_text(encoding="utf-8-sig")
    assert read_text(tmp_path / "text") == want
    assert "".join(Vocabulary.read(tmp_path / "text").pieces()) == want


def test_bytes_that_are_no_utf8_are_named(tmp_path):
    (tmp_path / "text").write_bytes(b"abc" * MB + b"\xff")
    for read in (read_text, Vocabulary.read):
        with pytest.raises(ValueError, match=f"is not UTF-8: byte {3 * MB} is 0xff"):
            read(tmp_path / "text")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs")
def test_a_pipe_or_a_device_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", os.path.devnull):
        for read in (read_text, Vocabulary.read):
            with pytest.raises(ValueError, match="is a (pipe|device), but a regular file is needed"):
                read(type(tmp_path)(path))


MEMORY = """
import sys, pathlib
import numpy as np
from fastrnn.models import LanguageModel

class Done(Exception):
    pass

class Stop:
    def begin(self, history):
        raise Done

    def __call__(self, entry):
        pass

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024

model = LanguageModel("gru", 8, level=sys.argv[2])
model.fit("to be " * 100, epochs=1, batch_size=2, seq_len=5, verbose=False)
path = pathlib.Path(sys.argv[1])
start = peak()
try:
    if sys.argv[3] == "fit":
        model.fit(path, checkpoint=path.with_suffix(".checkpoint"), callbacks=[Stop()], verbose=False)
    else:
        model.evaluate = lambda batches: sys.exit(print(peak() - start))
        model.vocabulary = type(model.vocabulary).of(model.vocabulary.read(path))
        model.score(path)
except Done:
    print(peak() - start)
"""

CONTENTS = {
    "ASCII": "the quick brown fox jumps over the lazy dog. ",
    "one emoji": "the quick brown fox jumps over the lazy dog. ",
    "Russian": "съешь же ещё этих мягких французских булок. ",
    "many symbols": "the quick brown fox jumps over the lazy dog. ",
}


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
@pytest.mark.parametrize("content, verb", [*((content, "fit") for content in CONTENTS), ("one emoji", "score")])
def test_memory_is_at_most_three_times_the_file(tmp_path, content, verb):
    """Measure files of two sizes, so that memory that does not grow with the file cancels out."""
    peaks, sizes = [], []
    for megabytes in (4, 16):
        text = CONTENTS[content] * (megabytes * MB // len(CONTENTS[content].encode()))
        text += {"one emoji": "\U0001f98a", "many symbols": "".join(map(chr, range(256, 700)))}.get(content, "")
        path = tmp_path / f"text-{megabytes}"
        path.write_text(text, encoding="utf-8")
        sizes.append(path.stat().st_size / MB)
        peaks.append(float(processes.output(MEMORY, path, "character", verb)))
    assert peaks[1] - peaks[0] < 3 * (sizes[1] - sizes[0]), peaks
    assert peaks[1] < 3 * sizes[1] + 24, peaks  # memory that does not grow with the file: tables, and pieces of 1 MiB


def test_fit_of_a_file_is_fit_of_its_text(tmp_path):
    text = "".join(f"{n}: ünï 狐 {n * n}\n" for n in range(200))
    (tmp_path / "text").write_text(text, encoding="utf-8")
    options = dict(epochs=2, batch_size=4, seq_len=11, verbose=False)
    models = [LanguageModel("gru", 8, seed=3).fit(source, **options) for source in (text, tmp_path / "text")]
    assert_array_equal(models[0].storage.flat, models[1].storage.flat)
    assert models[0].score(text) == models[1].score(tmp_path / "text")

"""Readers of files: .ts, CoNLL-U, CSV, WAV, bAbI stories, piano rolls as JSON, and pairs. What is wrong in a file is named with its line."""

from __future__ import annotations

import csv
import json
import os
import re
import wave

import numpy as np

from fastrnn._files import floats, is_number, lines, some
from fastrnn._pair_files import read_captions, read_dictionary, read_pairs, read_parallel

__all__ = [
    "log_mel",
    "read_babi",
    "read_captions",
    "read_conllu",
    "read_csv",
    "read_dictionary",
    "read_pairs",
    "read_parallel",
    "read_rolls",
    "read_ts",
    "read_wav",
]

LOWEST, NOTES = 21, 88  # of a piano, as MIDI pitches


def read_ts(path: str | os.PathLike):
    """Time series and their classes: the .ts files of the UCR/UEA archive.

    Each line after the header has the channels and, last, the label, separated by colons; values are separated by commas.

    Returns
    -------
    X : list of (T_i, channels) float64
    y : list of str

    Raises
    ------
    ValueError  a line has no label, a value is missing or no number, channels differ in length or number; the message names the line.

    Examples
    --------
    >>> with open("two.ts", "w") as file:
    ...     _ = file.write("@problemName Two\\n@data\\n1,2,3:4,5,6:up\\n7,8:9,10:down\\n")
    >>> X, y = read_ts("two.ts")
    >>> [x.shape for x in X], y
    ([(3, 2), (2, 2)], ['up', 'down'])
    """
    X, y = [], []
    for number, line in lines(path):
        if not line.strip() or line[0] in "#@":
            continue
        *channels, label = line.strip().split(":")
        if not channels:
            raise ValueError(f"{path}, line {number}: there is no label, which must stand last behind a colon")
        values = [floats(channel.split(","), path, number) for channel in channels]
        if len({len(channel) for channel in values}) > 1:
            raise ValueError(f"{path}, line {number}: its channels have different lengths, {sorted({len(v) for v in values})}")
        if X and len(values) != X[0].shape[1]:
            raise ValueError(f"{path}, line {number}: it has {len(values)} channels, but the lines before have {X[0].shape[1]}")
        X.append(np.array(values).T)
        y.append(label)
    return some(X, y, path, "series")


def read_conllu(path: str | os.PathLike, column: int = 4):
    """Words and a tag for each: CoNLL-U, or other tables with a line for each word and an empty line after each sentence.

    Ranges (``1-2``), empty nodes (``1.1``) and comments are left out.

    Parameters
    ----------
    column : of the tag, counted from 1: 4 is UPOS, 5 XPOS; words stand in column 2

    Returns
    -------
    sentences, tags : lists of lists of str

    Raises
    ------
    ValueError  a line has fewer columns; the message names the line.

    Examples
    --------
    >>> with open("one.conllu", "w") as file:
    ...     _ = file.write("# text = dogs bark\\n1\\tdogs\\tdog\\tNOUN\\n2\\tbark\\tbark\\tVERB\\n\\n")
    >>> read_conllu("one.conllu")
    ([['dogs', 'bark']], [['NOUN', 'VERB']])
    """
    sentences, tags, last = [], [], None
    for number, line in lines(path):
        fields = line.rstrip("\r\n").split("\t")
        if fields == [""]:
            last = None
        elif line[0] != "#" and fields[0].isdecimal():
            if len(fields) < max(2, column):
                raise ValueError(f"{path}, line {number}: it has {len(fields)} columns, but the tag is in column {column}")
            if last is None:
                sentences.append([])
                tags.append([])
                last = sentences
            sentences[-1].append(fields[1])
            tags[-1].append(fields[column - 1])
    return some(sentences, tags, path, "sentences")


def read_csv(path: str | os.PathLike):
    """A table of numbers over time, with a header; columns that hold no numbers (dates) or only count the rows are left out.

    Returns
    -------
    names : list of the K columns
    series : (T, K) float64

    Raises
    ------
    ValueError  there is no such column, or a row is shorter or has something else in one; the message names the line.

    Examples
    --------
    >>> with open("air.csv", "w") as file:
    ...     _ = file.write("Date,Passengers\\n1949-01,112\\n1949-02,118\\n")
    >>> read_csv("air.csv")
    (['Passengers'], array([[112.], [118.]]))
    """
    reader = csv.reader(line for _, line in lines(path))
    rows = [(reader.line_num, row) for row in reader if row]  # empty lines are left out
    header, first = (rows[0][1], rows[1][1]) if len(rows) > 1 else ([], [])
    columns = [k for k, name in enumerate(header) if name and k < len(first) and is_number(first[k])]
    if not columns:
        raise ValueError(f"{path} has no column of numbers under a header")
    values = []
    for number, row in rows[1:]:
        if len(row) != len(header):
            raise ValueError(f"{path}, line {number}: it has {len(row)} fields, but the header has {len(header)}")
        values.append(floats([row[k] for k in columns], path, number))
    return [header[k] for k in columns], np.array(values)


def read_babi(path: str | os.PathLike, *, answers: bool = True):
    """Stories, questions and answers: the files of the bAbI tasks (Weston et al. 2015).

    A line is a number and a sentence, or a number, a question, a tab and its answer; number 1 begins a story. Words are made lower case,
    and go without their punctuation; an answer of several words, "apple,football", is one symbol.

    Parameters
    ----------
    answers : whether each question must have one; else a line with a question mark at its end is a question too, and an answer may be ""

    Returns
    -------
    X : list of pairs (story, question): the sentences of the story before the question, and the question, as lists of words
    y : list of str

    Raises
    ------
    ValueError  a number is missing or out of turn, a sentence or answer is empty, a question comes before any sentence; the message
        names the line.

    Examples
    --------
    >>> with open("qa.txt", "w") as file:
    ...     _ = file.write("1 Mary went home.\\n2 Where is Mary?\\thome\\t1\\n")
    >>> read_babi("qa.txt")
    ([([['mary', 'went', 'home']], ['where', 'is', 'mary'])], ['home'])
    """
    X, y, story, last = [], [], [], 0
    for number, line in lines(path):
        if not line.strip():
            continue
        count, _, rest = line.strip(" \r\n").partition(" ")
        if not count.isdecimal() or int(count) not in (1, last + 1):
            expected = f"1 or {last + 1}" if last else "1"
            raise ValueError(f"{path}, line {number}: it begins with {count[:20]!r}, but its number must be {expected}")
        last = int(count)
        if last == 1:
            story = []
        sentence, *answer = rest.split("\t")
        words = re.findall(r"[^\s.,;:?!]+", sentence.lower())
        if not words:
            raise ValueError(f"{path}, line {number}: it has no words")
        if not answer and not sentence.rstrip().endswith("?"):
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


def read_rolls(path: str | os.PathLike, part: str) -> list:
    """Piano rolls: JSON with a list of pieces for each part; a piece is a list of frames, a frame a list of MIDI pitches 21 to 108.

    Returns
    -------
    list of (T_i, 88) float32 arrays, 1 where a note sounds

    Raises
    ------
    ValueError  there is no such part, or a pitch is out of the range.

    Examples
    --------
    >>> with open("rolls.json", "w") as file:
    ...     _ = file.write('{"train": [[[60, 64], [], [62]]]}')
    >>> [roll] = read_rolls("rolls.json", "train")
    >>> roll.shape, roll.sum(1), int(roll[2].argmax()) + 21
    ((3, 88), array([2., 0., 1.], dtype=float32), 62)
    """
    with open(path, encoding="utf-8") as file:
        try:
            parts = json.load(file)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON: line {error.lineno}: {error.msg}") from None
    if not isinstance(parts, dict) or part not in parts:
        raise ValueError(f"{path} has no part {part!r}; it has {', '.join(parts) if isinstance(parts, dict) else 'no parts'}")
    rolls = []
    for number, piece in enumerate(parts[part]):
        roll = np.zeros((len(piece), NOTES), np.float32)
        for t, frame in enumerate(piece):
            if any(not isinstance(pitch, int) or not LOWEST <= pitch < LOWEST + NOTES for pitch in frame):
                raise ValueError(f"{path}, {part} {number}, frame {t}: {frame} is not a list of pitches from {LOWEST} to {LOWEST + NOTES - 1}")
            roll[t, [pitch - LOWEST for pitch in frame]] = 1
        rolls.append(roll)
    return rolls


def log_mel(samples, rate: int, *, bands: int = 40, window: float = 0.032, hop: float = 0.01) -> np.ndarray:
    """Log-mel frames of a sound: the power spectrum of Hann windows in triangles that are equally wide in mel.

    Parameters
    ----------
    samples : 1-D; rate : samples per second
    bands : triangles between 0 Hz and half the rate, mel = 2595 log10(1 + Hz/700) (O'Shaughnessy 1987)
    window, hop : seconds of a frame, and from one to the next

    Returns
    -------
    (T, bands), at least one frame

    Examples
    --------
    >>> frames = log_mel(np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000), rate=8000)
    >>> frames.shape, int(frames.mean(0).argmax())  # 1000 Hz is mel 1000 of 2146
    ((97, 40), 18)
    """
    length, step = round(window * rate), round(hop * rate)
    samples = np.pad(np.asarray(samples, float), (0, max(0, length - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(samples, length)[::step] * np.hanning(length)
    edges = 700 * (10 ** (np.linspace(0, np.log10(1 + rate / 2 / 700), bands + 2)) - 1)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    hertz = np.arange(length // 2 + 1) * rate / length
    triangles = np.clip(np.minimum((hertz - low) / (middle - low), (high - hertz) / (high - middle)), 0, None)
    return np.log(np.abs(np.fft.rfft(frames)) ** 2 @ triangles.T + 1e-6)


def read_wav(path: str | os.PathLike):
    """Samples in -1..1, of the first channel, and the rate of a 16-bit PCM file.

    Raises
    ------
    ValueError  it is no such file.
    """
    try:
        with wave.open(os.fspath(path)) as sound:
            width, channels, rate = sound.getsampwidth(), sound.getnchannels(), sound.getframerate()
            data = sound.readframes(sound.getnframes())
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{path} is not a WAV file: {error}") from None
    if width != 2:
        raise ValueError(f"{path} has {8 * width} bits per sample, but 16 are read")
    return np.frombuffer(data, "<i2")[::channels] / 32768, rate

"""Readers of sounds and music: WAV files, log-mel frames, piano rolls."""

from __future__ import annotations

import json
import os
import struct
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fastrnn.data._files import PathLike, check_whole, counted, listed, quoted, read_bytes, read_text, say, shortened

LOWEST, NOTES = 21, 88  # of a piano, as MIDI pitches
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE  # the format codes of a WAV file


def read_rolls(path: PathLike, part: str, *, encoding: str = "utf-8") -> list[np.ndarray]:
    """Read piano rolls from a JSON file that has a list of pieces for each part.

    A piece is a list of frames, and a frame is a list of MIDI pitches from 21 to 108. A frame in which nothing sounds
    is ``[]``; in a frame of voices, -1 is a voice that rests.

    Parameters
    ----------
    path : str or path-like
        File to read.
    part : str
        Name of the part, such as "train".
    encoding : str, default "utf-8"
        Encoding of the file.

    Returns
    -------
    list of ndarray of shape (T_i, 88), float32
        For each piece an array that is 1 where a note sounds and 0 elsewhere.

    Raises
    ------
    ValueError
        If the part does not exist or exists twice, it has no pieces, a piece has no frames, a frame is not a list, or a
        pitch is out of range.

    Examples
    --------
    >>> with open("rolls.json", "w") as file:
    ...     _ = file.write('{"train": [[[60, 64], [], [62]]]}')
    >>> [roll] = read_rolls("rolls.json", "train")
    >>> roll.shape, roll.sum(1), int(roll[2].argmax()) + 21
    ((3, 88), array([2., 0., 1.], dtype=float32), 62)
    """
    text = read_text(path, encoding)
    try:
        parts = json.loads(text, object_pairs_hook=lambda pairs: _unique(path, pairs), parse_int=_short_integer)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: line {error.lineno}: {error.msg}") from None
    except RecursionError:
        raise ValueError(f"{path} is not a list of pieces for each part: its lists are nested too deeply") from None
    if not isinstance(parts, dict) or part not in parts:
        known = listed(parts) if isinstance(parts, dict) else "no parts"
        raise ValueError(f"{path} has no part {quoted(part)}; it has {known}")
    if not isinstance(parts[part], list) or not parts[part]:
        raise ValueError(f"{path}: the part {quoted(part)} must be a list of at least one piece")
    rests = 0
    for number, piece in enumerate(parts[part]):
        where = f"{path}, {shortened(part)} {number}"
        if not isinstance(piece, list) or not piece:
            raise ValueError(
                f"{where}: a piece must be a list of at least one frame, not {shortened(json.dumps(piece))}"
            )
        for t, frame in enumerate(piece):
            _check_frame(frame, f"{where}, frame {t}")
            rests += frame.count(-1)
    if rests:
        say(f"{path}, {shortened(part)}: {counted(rests, 'rest')} written as -1")
    return [_roll(piece) for piece in parts[part]]


def _unique(path: PathLike, pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Make a dict of pairs, none of which may have the name of another one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for k, (name, _) in enumerate(pairs) if name in dict(pairs[:k]))
        raise ValueError(f"{path} has two parts {quoted(twice)}")
    return found


def _short_integer(digits: str) -> int | str:
    """Convert digits to an integer; more than 20 of them, which cannot be a pitch, remain text."""
    return int(digits) if len(digits) <= 20 else digits


def _check_frame(frame: object, where: str) -> None:
    if not isinstance(frame, list):
        hint = f": write one note as [{frame}], a rest as []" if isinstance(frame, (int, float)) else ""
        raise ValueError(f"{where}: {shortened(json.dumps(frame))} is not a list of pitches{hint}")
    if any(type(pitch) is not int or not (LOWEST <= pitch < LOWEST + NOTES or pitch == -1) for pitch in frame):
        raise ValueError(
            f"{where}: {shortened(json.dumps(frame))} is not a list of pitches from {LOWEST} to {LOWEST + NOTES - 1}"
        )


def _roll(piece: list[list[int]]) -> np.ndarray:
    roll = np.zeros((len(piece), NOTES), np.float32)
    for t, frame in enumerate(piece):
        roll[t, [pitch - LOWEST for pitch in frame if pitch != -1]] = 1
    return roll


def log_mel(samples: ArrayLike, rate: int, *, bands: int = 40, window: float = 0.032, hop: float = 0.01) -> np.ndarray:
    """Compute log-mel frames of a sound.

    A frame is the logarithm of the power spectrum under a Hann window, summed over triangular bands that are equally
    wide in mel.

    Parameters
    ----------
    samples : array_like of shape (N,)
        The sound.
    rate : int
        Samples per second.
    bands : int, default 40
        Number of bands between 0 Hz and half the rate, where mel = 2595 log10(1 + Hz/700).
    window : float, default 0.032
        Length of a frame, in seconds.
    hop : float, default 0.01
        Time from one frame to the next, in seconds.

    Returns
    -------
    ndarray of shape (T, bands), float64
        The frames, of which there is at least one.

    References
    ----------
    The mel scale is that of O'Shaughnessy, Speech Communication: Human and Machine, 1987.

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


def read_wav(path: PathLike, *, channel: int | None = None) -> tuple[np.ndarray, int]:
    """Read the samples of one channel of a WAV file, and their rate.

    Other kinds of samples than 16-bit PCM (24 bits, float, EXTENSIBLE, …) are read by soundfile, which ``pip install
    'fastrnn[data]'`` installs.

    Parameters
    ----------
    path : str or path-like
        File to read.
    channel : int, optional
        Channel to read, from 0; by default the first one.

    Returns
    -------
    samples : ndarray of shape (T,), float64
        The samples, scaled to -1..1.
    rate : int
        Samples per second.

    Raises
    ------
    ValueError
        If the file is not a WAV file, is truncated, or has no samples, no such channel, or samples that are not finite.
    ImportError
        If the kind of samples needs soundfile, and it is not installed.
    TypeError
        If `channel` is not a whole number.

    Warns
    -----
    UserWarning
        If there are several channels and `channel` is None.

    Examples
    --------
    >>> import wave
    >>> with wave.open("tone.wav", "wb") as file:
    ...     file.setparams((1, 2, 8000, 0, "NONE", ""))
    ...     file.writeframes(np.array([0, 16384, -32768], "<i2").tobytes())
    >>> read_wav("tone.wav")
    (array([ 0. ,  0.5, -1. ]), 8000)
    """
    channel = None if channel is None else check_whole(channel, "channel")
    data = read_bytes(path)
    wav = _parse_riff(data, path)
    if channel is not None and not 0 <= channel < wav.channels:
        raise ValueError(f"{path} has {wav.channels} channels, but channel={channel} is counted from 0")
    if channel is None and wav.channels > 1:
        warnings.warn(
            f"{path} has {wav.channels} channels, and the first one is read: to choose, give channel=0 to "
            f"{wav.channels - 1}",
            stacklevel=2,
        )
    if (wav.kind, wav.bits) == (_PCM, 16):
        samples = np.frombuffer(data, "<i2", wav.size // 2, wav.start)
        return samples[channel or 0 :: wav.channels] / 32768, wav.rate
    samples = _by_soundfile(path, wav)
    if wav.kind in (_PCM, _FLOAT, _EXTENSIBLE) and len(samples) != wav.size // wav.block:
        raise ValueError(f"{path}: {len(samples)} samples were read, but its header says {wav.size // wav.block}")
    if not np.isfinite(samples).all():
        raise ValueError(f"{path} has samples that are not finite")
    return np.ascontiguousarray(samples[:, channel or 0]), wav.rate


@dataclass(frozen=True)
class _Wav:
    """The header of a WAV file, and where its samples are.

    Attributes
    ----------
    kind : int
        Format code of the samples.
    channels, rate : int
        Number of channels; samples of each per second.
    block, bits : int
        Bytes of one sample of all channels; bits of a sample.
    start, size : int
        Offset and number of the bytes of the samples.
    """

    kind: int
    channels: int
    rate: int
    block: int
    bits: int
    start: int
    size: int


def _parse_riff(data: bytes, path: PathLike) -> _Wav:
    """Read the header of a WAV file and check it against the size of the samples."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise ValueError(f"{path} is not a WAV file: it does not begin with RIFF … WAVE")
    head, at = None, 12
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        at += 8
        if size > len(data) - at:
            raise ValueError(
                f"{path} is truncated: its chunk {name!r} has {len(data) - at} bytes, but must have {size}"
            )
        if name == b"fmt " and size >= 16:
            head = struct.unpack_from("<HHIIHH", data, at)
        if name == b"data":
            break
        at += size + size % 2
    else:
        raise ValueError(f"{path} is not a WAV file: it has no samples")
    if head is None:
        raise ValueError(f"{path} is not a WAV file: it has no description of the samples")
    kind, channels, rate, _, block, bits = head
    plain = kind in (_PCM, _FLOAT, _EXTENSIBLE)
    if not (channels and rate and block and size) or size % block or (plain and block != channels * ((bits + 7) // 8)):
        raise ValueError(
            f"{path} is not a WAV file: {channels} channels of {bits} bits at {rate} Hz do not fit {size} bytes of "
            f"samples in steps of {block}"
        )
    return _Wav(kind, channels, rate, block, bits, at, size)


def _by_soundfile(path: PathLike, wav: _Wav) -> np.ndarray:
    """Read the samples (T, channels), float64."""
    kind = {_PCM: "PCM", _FLOAT: "float", _EXTENSIBLE: "EXTENSIBLE"}.get(wav.kind, f"of kind {wav.kind}")
    try:
        import soundfile
    except ImportError as error:
        raise ImportError(
            f"{path} is {kind} with {wav.bits} bits per sample; only PCM with 16 bits is read without soundfile: pip "
            f"install 'fastrnn[data]' ({error})"
        ) from None
    try:
        return soundfile.read(os.fspath(path), dtype="float64", always_2d=True)[0]
    except RuntimeError as error:
        raise ValueError(f"{path} ({kind}, {wav.bits} bits) cannot be read: {error}") from None

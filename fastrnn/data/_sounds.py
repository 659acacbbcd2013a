"""Readers of sounds and music: WAV files, log-mel frames, piano rolls."""

from __future__ import annotations

import json
import os
import struct
import warnings

import numpy as np

from fastrnn.data._files import counted, read_bytes, read_text, say, whole

LOWEST, NOTES = 21, 88  # of a piano, as MIDI pitches


def read_rolls(path: str | os.PathLike, part: str, *, encoding: str = "utf-8") -> list:
    """Piano rolls: JSON with a list of pieces for each part.

    A piece is a list of frames, a frame a list of MIDI pitches 21 to 108. A frame in which nothing sounds is ``[]``; in
    a frame of voices, -1 is a voice that rests.

    Returns
    -------
    list of (T_i, 88) float32 arrays, 1 where a note sounds

    Raises
    ------
    ValueError  there is no such part or two, it has no pieces, a piece no frames, a frame is not a list, a pitch is out
        of the range.

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
        parts = json.loads(text, object_pairs_hook=lambda pairs: _once(path, pairs), parse_int=_pitch)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: line {error.lineno}: {error.msg}") from None
    except RecursionError:
        raise ValueError(f"{path} is not a list of pieces for each part: its lists are nested too deeply") from None
    if not isinstance(parts, dict) or part not in parts:
        raise ValueError(
            f"{path} has no part {part!r}; it has {', '.join(parts) if isinstance(parts, dict) else 'no parts'}"
        )
    if not isinstance(parts[part], list) or not parts[part]:
        raise ValueError(f"{path}: the part {part!r} must be a list of at least one piece")
    rests = 0
    for number, piece in enumerate(parts[part]):
        where = f"{path}, {part} {number}"
        if not isinstance(piece, list) or not piece:
            raise ValueError(f"{where}: a piece must be a list of at least one frame, not {json.dumps(piece)[:40]}")
        for t, frame in enumerate(piece):
            _check_frame(frame, f"{where}, frame {t}")
            rests += frame.count(-1)
    if rests:
        say(f"{path}, {part}: {counted(rests, 'rest')} written as -1")
    return [_roll(piece) for piece in parts[part]]


def _once(path, pairs):
    """A dict of pairs; a name that comes twice is an error."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for k, (name, _) in enumerate(pairs) if name in dict(pairs[:k]))
        raise ValueError(f"{path} has two parts {twice!r}")
    return found


def _pitch(digits):
    """The number of some digits; text beyond 20 of them, which is no pitch."""
    return int(digits) if len(digits) <= 20 else digits


def _check_frame(frame, where):
    if not isinstance(frame, list):
        hint = f": write one note as [{frame}], a rest as []" if isinstance(frame, (int, float)) else ""
        raise ValueError(f"{where}: {json.dumps(frame)[:40]} is not a list of pitches{hint}")
    if any(type(pitch) is not int or not (LOWEST <= pitch < LOWEST + NOTES or pitch == -1) for pitch in frame):
        raise ValueError(
            f"{where}: {json.dumps(frame)[:60]} is not a list of pitches from {LOWEST} to {LOWEST + NOTES - 1}"
        )


def _roll(piece):
    roll = np.zeros((len(piece), NOTES), np.float32)
    for t, frame in enumerate(piece):
        roll[t, [pitch - LOWEST for pitch in frame if pitch != -1]] = 1
    return roll


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


def read_wav(path: str | os.PathLike, *, channel: int | None = None):
    """The samples in -1..1 of one channel of a WAV file, and the rate.

    16-bit PCM is read as it is; other kinds (24 bits, float, EXTENSIBLE, …) by soundfile, which ``pip install
    'fastrnn[data]'`` installs.

    Parameters
    ----------
    channel : counted from 0; None reads the first one

    Returns
    -------
    samples : (T,) float64
    rate : samples per second

    Raises
    ------
    ValueError   it is no WAV file, it is cut, has no samples or no such channel, or has samples that are not finite.
    ImportError  the kind of file needs soundfile.
    TypeError    `channel` is no whole number.

    Warns
    -----
    UserWarning  there are several channels and `channel` is None.
    """
    channel = None if channel is None else whole(channel, "channel")
    data = read_bytes(path)
    kind, channels, rate, block, bits, place, size = _riff(data, path)
    if channel is not None and not 0 <= channel < channels:
        raise ValueError(f"{path} has {channels} channels, but channel={channel} counts from 0")
    if channel is None and channels > 1:
        warnings.warn(
            f"{path} has {channels} channels, and the first one is read: to choose, give channel=0 to {channels - 1}",
            stacklevel=2,
        )
    if (kind, bits) == (1, 16):
        return np.frombuffer(data, "<i2", size // 2, place)[channel or 0 :: channels] / 32768, rate
    samples = _by_soundfile(path, kind, bits)
    if kind in (1, 3, 0xFFFE) and len(samples) != size // block:
        raise ValueError(f"{path}: {len(samples)} samples were read, but its header says {size // block}")
    if not np.isfinite(samples).all():
        raise ValueError(f"{path} has samples that are not finite")
    return np.ascontiguousarray(samples[:, channel or 0]), rate


def _riff(data, path):
    """(kind, channels, rate, bytes of a step, bits of a sample, where the samples begin, their bytes)."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise ValueError(f"{path} is not a WAV file: it does not begin with RIFF … WAVE")
    head, at = None, 12
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        at += 8
        if size > len(data) - at:
            raise ValueError(f"{path} is cut: its chunk {name!r} has {len(data) - at} bytes, but must have {size}")
        if name == b"fmt " and size >= 16:
            head = struct.unpack_from("<HHIIHH", data, at)
        if name == b"data":
            break
        at += size + size % 2
    else:
        raise ValueError(f"{path} is not a WAV file: it has no samples")
    if head is None:
        raise ValueError(f"{path} is not a WAV file: nothing says how its samples are stored")
    kind, channels, rate, _, block, bits = head
    plain = kind in (1, 3, 0xFFFE)
    if not (channels and rate and block and size) or size % block or (plain and block != channels * ((bits + 7) // 8)):
        raise ValueError(
            f"{path} is not a WAV file: {channels} channels of {bits} bits at {rate} Hz do not fit {size} bytes of "
            f"samples in steps of {block}"
        )
    return kind, channels, rate, block, bits, at, size


def _by_soundfile(path, kind, bits):
    """(T, channels) float64."""
    named = {1: "PCM", 3: "float", 0xFFFE: "EXTENSIBLE"}.get(kind, f"of kind {kind}")
    try:
        import soundfile
    except ImportError as error:
        raise ImportError(
            f"{path} is {named} with {bits} bits per sample; only PCM with 16 bits is read without soundfile: pip "
            "install 'fastrnn[data]' "
            f"({error})"
        ) from None
    try:
        return soundfile.read(os.fspath(path), dtype="float64", always_2d=True)[0]
    except RuntimeError as error:
        raise ValueError(f"{path} ({named}, {bits} bits) cannot be read: {error}") from None

"""Models and checkpoints on disk: safetensors and JSON, never pickle.

A directory holds two files: ``model-<sha256[:12]>.safetensors`` with the arrays, written first, and ``config.json`` with its name, its
full hash and the format version, replaced last and at once. So a directory holds a whole model at every moment, the old one or the new
one, even if the machine stops in the middle of a save. Old array files are removed afterwards. A checkpoint is the same under the
names ``checkpoint-….safetensors`` and ``checkpoint.json``, so it may live beside a model.

Any number of processes and threads may save into a directory and read from it: the file ``save.lock`` is locked during a save, so that
one save after the other is done and the last one stays. Readers need no lock. ``training.lock`` is locked while a training writes its
checkpoints there; a second one is refused. Both files are removed at the end. On Windows, and on file systems without locks, saves may
overlap; files that may belong to another save are then kept for a day.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
from pathlib import Path

from fastrnn._files import disk, safetensors, schema

FORMAT_VERSION = 1
CONFIG_FILES = {"model": "config.json", "checkpoint": "checkpoint.json"}
_SAVE_LOCK, _TRAINING_LOCK = "save.lock", "training.lock"
_MOST_HASHED = 1 << 28  # bytes of a file whose header is wrong that are read to tell whether it was changed
_OLD = 86_400  # seconds after which an unnamed file belongs to no save that is still going on
_HEADER = schema.Record(
    {"format_version": schema.SIZE, "weights": schema.TEXT, "sha256": schema.TEXT, "config": schema.OBJECT}
)


def save(directory, arrays: dict, config: dict, *, kind: str = "model") -> None:
    """Write arrays and a configuration, replacing what was there in one step.

    The arrays are written and hashed in pieces of 16 MB: no copy of them is made.

    Parameters
    ----------
    directory : str or PathLike; made if it is not there
    arrays : {name: array}
    config : what JSON can hold; floats come back with the same bits
    kind : "model" or "checkpoint"

    Raises
    ------
    OSError     the directory cannot be written; the message names the file. What the directory held is whole, and no temporary file is left.
    ValueError  an array has a dtype that the format does not have, or the configuration is larger or nested more deeply than `load` reads.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> folder = tempfile.mkdtemp()
    >>> save(folder, {"w": np.ones(2)}, {"hidden_size": 2})
    >>> load(folder)
    ({'w': array([1., 1.])}, {'hidden_size': 2})
    """
    directory = Path(directory)
    config_text = json.dumps(config)
    try:
        schema.parse(config_text.encode())
    except ValueError as error:  # callbacks may have put anything into the history
        raise ValueError(
            f"what is to be saved in {directory / CONFIG_FILES[kind]} could not be read again: {error}"
        ) from None
    # the array file repeats the configuration, so that one hash covers both, and a damaged or edited config.json is noticed
    pieces = safetensors.pieces(arrays, {"fastrnn": config_text})
    digest = hashlib.sha256()

    def fill_arrays(file):
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
        return f"{kind}-{digest.hexdigest()[:12]}.safetensors"

    disk.make_folder(directory)
    with disk.lock(directory / _SAVE_LOCK, wait=True) as alone:
        before = None if alone else _named_weights(directory, kind)
        try:
            weights = disk.write_file(directory, f"{kind}.safetensors", fill_arrays)
            header = {"format_version": FORMAT_VERSION, "weights": weights, "sha256": digest.hexdigest()}
            text = json.dumps({**header, "config": config}, indent=1).encode()
            disk.write_file(directory, CONFIG_FILES[kind], lambda file: file.write_all([text]))
        except BaseException:
            weights = f"{kind}-{digest.hexdigest()[:12]}.safetensors"
            if (
                _named_weights(directory, kind) != weights
            ):  # else they are those of the old model too, or the save was done
                with contextlib.suppress(OSError):
                    (directory / weights).unlink(missing_ok=True)
            raise
        with contextlib.suppress(OSError):
            _remove_leftovers(directory, kind, weights, before, alone)


def _named_weights(directory, kind):
    """The array file that the configuration names now, or None."""
    try:
        return schema.parse(schema.read_bytes(directory / CONFIG_FILES[kind]))["weights"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _remove_leftovers(directory, kind, weights, before, alone):
    """Remove what no configuration names: the arrays of the last save, and what a process has left that was killed in a save.

    Where the file system has no locks (not `alone`), a file may belong to a save that is going on, unless it is old or was `before`.
    """
    now = (directory / weights).stat().st_mtime  # by the clock of the file system
    kept = {weights} if alone else {weights, _named_weights(directory, kind)}
    for path in directory.iterdir():
        if path.name not in kept and _is_leftover(path.name, kind):
            with contextlib.suppress(OSError):  # in use on Windows, or another save has removed it
                if alone or path.name == before or now - path.lstat().st_mtime > _OLD:
                    path.unlink()


@contextlib.contextmanager
def training(directory):
    """Keep other trainings out of a directory while the block runs.

    Parameters
    ----------
    directory : of the checkpoints, made if it is not there, and removed if it is empty in the end; None: nothing is done

    Raises
    ------
    ValueError  another training writes to it.
    """
    if directory is None:
        yield
        return
    directory = Path(directory)
    made = disk.make_folder(directory)
    try:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(disk.lock(directory / _TRAINING_LOCK, wait=False))
            except BlockingIOError:
                raise ValueError(
                    f"another training is writing to {directory}: wait until it has ended, or choose another directory"
                ) from None
            yield
    finally:
        with contextlib.suppress(OSError):  # not empty
            for folder in made:
                folder.rmdir()


def check_no_training(directory) -> None:
    """A ValueError if a training is writing to the directory; nothing is made."""
    if (Path(directory) / _TRAINING_LOCK).exists():
        with training(directory):
            pass


def load(directory, *, kind: str = "model") -> tuple[dict, dict]:
    """Read what `save` wrote: ``(arrays, config)``.

    Raises
    ------
    FileNotFoundError  there is none.
    ValueError         it is damaged, or of a newer format; the message says which file and how.
    MemoryError        there is not enough memory for the arrays; no more than they take is asked for.
    """
    directory = Path(directory)
    missing = 0
    while True:
        with disk.naming(directory / CONFIG_FILES[kind]):
            raw = _read_config(directory, kind)
        header = _parse_config(directory / CONFIG_FILES[kind], raw, kind)
        path = directory / header["weights"]
        try:
            with disk.naming(path), open(path, "rb", buffering=0, opener=_open_at_once) as file:
                return _read_arrays(path, file, header)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESTALE):  # ESTALE: of NFS, for a file removed elsewhere
                raise
        missing += 1
        if (
            _read_config(directory, kind) == raw and missing > 1
        ):  # else another process saved just now: read the new one
            raise FileNotFoundError(
                f"{path} is missing, though {CONFIG_FILES[kind]} names it: copy the whole directory"
            )


def _open_at_once(path, flags):
    """Open a file without waiting for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def exists(directory, *, kind: str = "model") -> bool:
    """Whether the directory holds a model (or a checkpoint)."""
    return (Path(directory) / CONFIG_FILES[kind]).is_file()


def holds_anything(directory) -> bool:
    """Whether there is anything in the directory but what an interrupted first save may have left."""
    directory = Path(directory)
    if not directory.exists():
        return False
    locks = (_SAVE_LOCK, _TRAINING_LOCK)
    return any(
        path.name not in locks and not any(_is_leftover(path.name, kind) for kind in CONFIG_FILES)
        for path in directory.iterdir()
    )


def _is_leftover(name, kind):
    """An array file, or a file half written: what is nothing without the configuration that names it."""
    config = re.escape(CONFIG_FILES[kind])
    before = r"(\.tmp)?"  # the temporary names of older versions
    pattern = (
        rf"{kind}-[0-9a-f]{{12}}\.safetensors{before}|{config}\.tmp|({kind}\.safetensors|{config}){disk.TEMPORARY}"
    )
    return re.fullmatch(pattern, name) is not None


def _read_config(directory, kind):
    path = directory / CONFIG_FILES[kind]
    try:
        return schema.read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    if not directory.is_dir():
        raise FileNotFoundError(f"no {kind} in {directory}: there is no such directory")
    hint = ""
    if kind == "model" and exists(directory, kind="checkpoint"):
        hint = "; it holds only a checkpoint: continue its training with resume"
    raise FileNotFoundError(f"no {kind} in {directory}: {path.name} is missing{hint}")


def _parse_config(path, raw, kind):
    try:
        header = schema.parse(raw)
        version = header.get("format_version") if isinstance(header, dict) else None
        newer = schema.SIZE.holds(version) and version > FORMAT_VERSION  # whose other keys may be any
        if not newer:
            _HEADER.check(header)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if newer:
        raise ValueError(
            f"{path} has format version {version}, but this fastrnn reads up to {FORMAT_VERSION}: it needs a newer fastrnn"
        )
    weights, digest = header["weights"], header["sha256"]
    if weights != f"{kind}-{digest[:12]}.safetensors" or not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(
            f"{path} is damaged: it names the file {weights!r} and the hash {digest[:12]!r}…, which do not fit"
        )
    return header


class _Hashed:
    """A file that is hashed while it is read."""

    def __init__(self, file):
        self._file, self._digest, self.size = file, hashlib.sha256(), 0

    def readinto(self, view):
        count = self._file.readinto(view)
        self._digest.update(view[:count])
        self.size += count
        return count

    def hexdigest(self, size):
        """Of the whole file, what was not read yet too, up to its size when it was opened: a file may grow without end."""
        piece = memoryview(bytearray(1 << 16))
        while self.size < size and self.readinto(piece[: size - self.size]):
            pass
        return self._digest.hexdigest()


def _read_arrays(path, file, header):
    """(arrays, configuration) of the file with the arrays, which is compared with config.json."""
    status, wrong = os.fstat(file.fileno()), None
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is damaged: it is no regular file")
    hashed, size = _Hashed(file), status.st_size
    try:
        arrays, metadata = safetensors.read(hashed, size)
        config = metadata["fastrnn"]
    except (ValueError, KeyError) as error:  # first it is to be said whether the file has changed
        wrong = f"{type(error).__name__}: {error}"
    except MemoryError:
        raise MemoryError(f"the arrays of {path} take {size} bytes") from None
    if wrong is not None and size - hashed.size > _MOST_HASHED:
        raise ValueError(f"{path} is damaged: {wrong}")
    digest = hashed.hexdigest(size)
    if digest != header["sha256"]:
        raise ValueError(
            f"{path} is damaged: its sha256 is {digest[:12]}…, but it was saved with {header['sha256'][:12]}… ({hashed.size} bytes now)"
        )
    if wrong is not None:
        raise ValueError(f"{path} was not written by fastrnn: {wrong}")
    if config != json.dumps(header["config"]):
        raise ValueError(f"{path.parent} is damaged: its configuration is not the one that was saved with {path.name}")
    return arrays, header["config"]

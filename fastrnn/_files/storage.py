"""Directories of models and checkpoints: safetensors and JSON, never pickle.

A directory has two files: ``model-<sha256[:12]>.safetensors`` with the arrays is written first; ``config.json`` with
its name, its full hash and the format version is replaced last, atomically. So the directory contains a complete model
at any time, the old or the new one, even if the machine stops in the middle of a save. Old array files are removed
afterwards. A checkpoint has the names ``checkpoint-….safetensors`` and ``checkpoint.json``, so a directory can contain
both.

Any number of processes and threads may save to a directory and load from it. The file ``save.lock`` is locked during a
save, so that saves do not overlap; the last one remains. Loading needs no lock. ``training.lock`` is locked while a
training writes its checkpoints; a second training is refused. Both files are removed at the end. On Windows, and on
file systems without locks, saves can overlap; files that may belong to another save are then kept for a day.
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
_MOST_HASHED = 1 << 28  # bytes of a file with an invalid header that are read to tell whether it was changed
_OLD = 86_400  # seconds after which an unused file cannot belong to a save in progress
_HEADER = schema.Record(
    {"format_version": schema.SIZE, "weights": schema.TEXT, "sha256": schema.TEXT, "config": schema.OBJECT}
)


def save(directory, arrays: dict, config: dict, *, kind: str = "model") -> None:
    """Save arrays and a configuration, and replace earlier ones atomically.

    The arrays are written and hashed in pieces of 16 MB, without a copy.

    Parameters
    ----------
    directory : str or os.PathLike
        Directory to write to. It is created if it does not exist.
    arrays : dict of str to ndarray
        The arrays.
    config : dict
        Configuration that JSON can represent. Floats are restored with the same bits.
    kind : {"model", "checkpoint"}, default "model"
        Determines the names of the files.

    Raises
    ------
    OSError
        The directory cannot be written to. An earlier model is intact, and no temporary file is left.
    ValueError
        The format does not have the dtype of an array, or the configuration exceeds the limits of `load`.

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
    except ValueError as error:  # the history can contain anything, from callbacks
        raise ValueError(f"the content of {directory / CONFIG_FILES[kind]} could not be read again: {error}") from None
    # The array file contains the configuration too, so that one hash covers both and an edited config.json is detected
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
            ):  # otherwise the old model uses them too, or the save was complete
                with contextlib.suppress(OSError):
                    (directory / weights).unlink(missing_ok=True)
            raise
        with contextlib.suppress(OSError):
            _remove_leftovers(directory, kind, weights, before, alone)


def _named_weights(directory, kind):
    """Return the array file that the current configuration names, or None."""
    try:
        return schema.parse(schema.read_bytes(directory / CONFIG_FILES[kind]))["weights"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _remove_leftovers(directory, kind, weights, before, alone):
    """Remove files that no configuration names: the arrays of the last save, and those of processes that were killed.

    Without locks (not `alone`) a file may belong to a save in progress, unless it is old or was the one used `before`.
    """
    now = (directory / weights).stat().st_mtime  # time of the file system
    kept = {weights} if alone else {weights, _named_weights(directory, kind)}
    for path in directory.iterdir():
        if path.name not in kept and _is_leftover(path.name, kind):
            with contextlib.suppress(OSError):  # in use on Windows, or removed by another save
                if alone or path.name == before or now - path.lstat().st_mtime > _OLD:
                    path.unlink()


@contextlib.contextmanager
def training(directory):
    """Refuse other trainings in a directory during a ``with`` block.

    Parameters
    ----------
    directory : str or os.PathLike or None
        Directory of the checkpoints. It is created if it does not exist, and removed if it is empty at the end. With
        None nothing is done.

    Raises
    ------
    ValueError
        Another training writes to it.
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
    """Raise a ValueError if a training is writing to the directory. Nothing is created."""
    if (Path(directory) / _TRAINING_LOCK).exists():
        with training(directory):
            pass


def load(directory, *, kind: str = "model") -> tuple[dict, dict]:
    """Load what `save` wrote; returns ``(arrays, config)``.

    Raises
    ------
    FileNotFoundError
        There is no model in the directory.
    ValueError
        A file is damaged, or of a newer format.
    MemoryError
        There is not enough memory for the arrays.
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
            if error.errno not in (errno.ENOENT, errno.ESTALE):  # ESTALE: removed by another machine on NFS
                raise
        missing += 1
        if (
            _read_config(directory, kind) == raw and missing > 1
        ):  # otherwise another process has just saved: read the new files
            raise FileNotFoundError(
                f"{path} is missing, though {CONFIG_FILES[kind]} names it: copy the whole directory"
            )


def _open_at_once(path, flags):
    """Open a file without blocking if it is a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def exists(directory, *, kind: str = "model") -> bool:
    """Whether the directory contains a model (or a checkpoint)."""
    return (Path(directory) / CONFIG_FILES[kind]).is_file()


def holds_anything(directory) -> bool:
    """Whether the directory contains anything else than leftovers of an interrupted first save."""
    directory = Path(directory)
    if not directory.exists():
        return False
    locks = (_SAVE_LOCK, _TRAINING_LOCK)
    return any(
        path.name not in locks and not any(_is_leftover(path.name, kind) for kind in CONFIG_FILES)
        for path in directory.iterdir()
    )


def _is_leftover(name, kind):
    """Whether a file is an array file or a temporary one, which are useless without a configuration that names them."""
    config = re.escape(CONFIG_FILES[kind])
    before = r"(\.tmp)?"  # temporary names of older versions
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
        newer = schema.SIZE.holds(version) and version > FORMAT_VERSION  # its other keys are unknown
        if not newer:
            _HEADER.check(header)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if newer:
        raise ValueError(
            f"{path} has format version {version}, but this fastrnn reads up to {FORMAT_VERSION}: "
            "it needs a newer fastrnn"
        )
    weights, digest = header["weights"], header["sha256"]
    if weights != f"{kind}-{digest[:12]}.safetensors" or not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(f"{path} is damaged: the file name {weights!r} does not match the hash {digest[:12]!r}…")
    return header


class _Hashed:
    """File that is hashed while it is read."""

    def __init__(self, file):
        self._file, self._digest, self.size = file, hashlib.sha256(), 0

    def readinto(self, view):
        count = self._file.readinto(view)
        self._digest.update(view[:count])
        self.size += count
        return count

    def hexdigest(self, size):
        """Hash the rest of the file too, up to its size when it was opened, as a file could grow without end."""
        piece = memoryview(bytearray(1 << 16))
        while self.size < size and self.readinto(piece[: size - self.size]):
            pass
        return self._digest.hexdigest()


def _read_arrays(path, file, header):
    """Read the file with the arrays, and compare it with config.json; returns (arrays, configuration)."""
    status, wrong = os.fstat(file.fileno()), None
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is damaged: it is not a regular file")
    hashed, size = _Hashed(file), status.st_size
    try:
        arrays, metadata = safetensors.read(hashed, size)
        config = metadata["fastrnn"]
    except (ValueError, KeyError) as error:  # reported below, unless the hash shows that the file was changed
        wrong = f"{type(error).__name__}: {error}"
    except MemoryError:
        raise MemoryError(f"the arrays of {path} take {size} bytes") from None
    if wrong is not None and size - hashed.size > _MOST_HASHED:
        raise ValueError(f"{path} is damaged: {wrong}")
    digest = hashed.hexdigest(size)
    if digest != header["sha256"]:
        raise ValueError(
            f"{path} is damaged: its sha256 is {digest[:12]}…, but it was saved with {header['sha256'][:12]}… "
            f"({hashed.size} bytes now)"
        )
    if wrong is not None:
        raise ValueError(f"{path} was not written by fastrnn: {wrong}")
    if config != json.dumps(header["config"]):
        raise ValueError(f"{path.parent} is damaged: its configuration is not the one saved with {path.name}")
    return arrays, header["config"]

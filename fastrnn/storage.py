"""Models and checkpoints on disk: safetensors and JSON, never pickle.

A directory holds two files: ``model-<sha256[:12]>.safetensors`` with the arrays, written first, and ``config.json`` with its name, its
full hash and the format version, replaced last and at once. So a directory holds a whole model at every moment, the old one or the new
one, even if the machine stops in the middle of a save. Old array files are removed afterwards. A checkpoint is the same under the
names ``checkpoint-….safetensors`` and ``checkpoint.json``, so it may live beside a model.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from pathlib import Path

import numpy as np

FORMAT_VERSION = 1
CONFIG_FILES = {"model": "config.json", "checkpoint": "checkpoint.json"}


def save(directory, arrays: dict, config: dict, *, kind: str = "model") -> None:
    """Write arrays and a configuration, replacing what was there in one step.

    Parameters
    ----------
    directory : str or PathLike; made if it is not there
    arrays : {name: array}
    config : what JSON can hold; floats come back with the same bits
    kind : "model" or "checkpoint"

    Raises
    ------
    OSError  the directory cannot be written; what it held is whole.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> folder = tempfile.mkdtemp()
    >>> save(folder, {"w": np.ones(2)}, {"hidden_size": 2})
    >>> load(folder)
    ({'w': array([1., 1.])}, {'hidden_size': 2})
    """
    from safetensors.numpy import save as to_bytes

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    # the array file repeats the configuration (under one key: safetensors does not keep the order of several),
    # so that one hash covers both, and a damaged or edited config.json is noticed
    # safetensors writes the memory of an array, whatever its strides
    data = to_bytes({name: np.asarray(array, order="C") for name, array in arrays.items()}, metadata={"fastrnn": json.dumps(config)})
    digest = _sha256(data)
    weights = f"{kind}-{digest[:12]}.safetensors"
    _replace(directory / weights, data)
    header = {"format_version": FORMAT_VERSION, "weights": weights, "sha256": digest}
    _replace(directory / CONFIG_FILES[kind], json.dumps({**header, "config": config}, indent=1).encode())
    for old in directory.iterdir():
        if _is_array_file(old.name, kind) and old.name != weights:
            with contextlib.suppress(OSError):  # in use on Windows: the next save removes it
                old.unlink()


def load(directory, *, kind: str = "model") -> tuple[dict, dict]:
    """Read what `save` wrote: ``(arrays, config)``.

    Raises
    ------
    FileNotFoundError  there is none.
    ValueError         it is damaged, or of a newer format; the message says which file and how.
    """
    directory = Path(directory)
    while True:
        raw = _read_config(directory, kind)
        header = _parse_config(directory / CONFIG_FILES[kind], raw, kind)
        path = directory / header["weights"]
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            if _read_config(directory, kind) != raw:
                continue  # another process saved just now: read the new one
            raise FileNotFoundError(f"{path} is missing, though {CONFIG_FILES[kind]} names it: copy the whole directory") from None
        return _parse_arrays(path, data, header)


def exists(directory, *, kind: str = "model") -> bool:
    """Whether the directory holds a model (or a checkpoint)."""
    return (Path(directory) / CONFIG_FILES[kind]).is_file()


def holds_anything(directory) -> bool:
    """Whether there is anything in the directory but what an interrupted first save may have left."""
    directory = Path(directory)
    if not directory.exists():
        return False
    return any(not any(_is_array_file(path.name, kind) for kind in CONFIG_FILES) for path in directory.iterdir())


def _is_array_file(name, kind):
    """An array file, or a file half written: what is nothing without the configuration that names it."""
    config = re.escape(CONFIG_FILES[kind])
    return re.fullmatch(rf"{kind}-[0-9a-f]{{12}}\.safetensors(\.tmp)?|{config}\.tmp", name) is not None


def _pieces(data):
    """Bytes in pieces of at most 16 MB: between two of them Ctrl-C is answered."""
    view = memoryview(data)
    return (view[first : first + (1 << 24)] for first in range(0, len(view), 1 << 24))


def _sha256(data):
    found = hashlib.sha256()
    for piece in _pieces(data):
        found.update(piece)
    return found.hexdigest()


def _replace(path, data):
    """Write a file so that it is there whole or not at all, and stays there if the power fails."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            for piece in _pieces(data):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # a directory cannot be opened on Windows
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _read_config(directory, kind):
    path = directory / CONFIG_FILES[kind]
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        pass
    if not directory.is_dir():
        raise FileNotFoundError(f"no {kind} in {directory}: there is no such directory")
    hint = ""
    if kind == "model" and exists(directory, kind="checkpoint"):
        hint = "; it holds a checkpoint of a training that has not come to a model yet: continue it with resume"
    raise FileNotFoundError(f"no {kind} in {directory}: {path.name} is missing{hint}")


def _parse_config(path, raw, kind):
    try:
        header = json.loads(raw)
        version, weights, digest, _ = (header[key] for key in ("format_version", "weights", "sha256", "config"))
        if not (isinstance(version, int) and version > 0 and isinstance(weights, str) and isinstance(digest, str)):
            raise TypeError("a field holds what it cannot hold")
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}") from None
    if version > FORMAT_VERSION:
        raise ValueError(f"{path} has format version {version}, but this fastrnn reads up to {FORMAT_VERSION}: it needs a newer fastrnn")
    if weights != f"{kind}-{digest[:12]}.safetensors" or not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(f"{path} is damaged: it names the file {weights!r} and the hash {digest[:12]!r}…, which do not fit")
    return header


def _parse_arrays(path, data, header):
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_bytes

    digest = _sha256(data)
    if digest != header["sha256"]:
        raise ValueError(
            f"{path} is damaged: its sha256 is {digest[:12]}…, but it was saved with {header['sha256'][:12]}… ({len(data)} bytes now)"
        )
    try:
        size = int.from_bytes(data[:8], "little")
        config = json.loads(data[8 : 8 + size])["__metadata__"]["fastrnn"]
        arrays = from_bytes(data)
    except (SafetensorError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} was not written by fastrnn: {type(error).__name__}: {error}") from None
    if config != json.dumps(header["config"]):
        raise ValueError(f"{path.parent} is damaged: its configuration is not the one that was saved with {path.name}")
    return arrays, header["config"]

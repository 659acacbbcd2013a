"""Read Keras' files with limits: no pickle, no code, no external link, no array larger than needed.

This module knows zip, JSON and HDF5, but not layers.
"""

from __future__ import annotations

import io
import math
import os
import zipfile

import numpy as np

from fastrnn._files import foreign

MOST_CONFIG = 4 << 20  # bytes of a config; Keras' own are some kB
_HDF5 = b"\x89HDF\r\n\x1a\n"
# The largest weights file: a multiple of the weights (an optimizer such as Adam has two more values each), plus this
_TIMES, _MORE = 8, 16 << 20
_BROKEN = (
    OSError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
    UnicodeError,
)


def sniff(path):
    """Detect the format from the first bytes of a file: "keras" or "h5"."""
    foreign.check_regular(path)
    with open(path, "rb") as file:
        head = file.read(8)
    if head[:4] == b"PK\x03\x04":
        return "keras"
    if head == _HDF5:
        return "h5"
    is_pickle = head[:1] == b"\x80"
    what = "it looks like a pickle, which fastrnn never opens" if is_pickle else f"its first bytes are {head!r}"
    raise ValueError(f"{path} is neither a .keras file (zip) nor HDF5: {what}")


def parse(path, text, what):
    """Parse a JSON object."""
    found = foreign.parse_json(f"{path}: {what}", text, MOST_CONFIG)
    if not isinstance(found, dict):
        raise ValueError(f"{path}: {what} is {type(found).__name__}, not an object")
    return found


class KerasZip:
    """A .keras file: a zip file with the config, and with the weights as an HDF5 file."""

    def __init__(self, path):
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
            raise ValueError(f"{path} is not a complete zip file: {error}") from None
        names = self._zip.namelist()
        for name in names:
            if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or ":" in name:
                raise ValueError(f"{path}: member {name!r} has a path that leads out of the file")
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            if names.count(name) != 1:
                raise ValueError(f"{path}: {names.count(name)} members are named {name}, but there must be 1")

    def _read(self, name, most):
        info = self._zip.getinfo(name)
        if info.file_size > most:
            raise ValueError(f"{self.path}: {name} claims {info.file_size} bytes; at most {most} are read")
        try:
            with self._zip.open(info) as file:
                return file.read(most + 1)
        except (
            zipfile.BadZipFile,
            OSError,
            EOFError,
            RuntimeError,
            ValueError,
            NotImplementedError,
            zipfile.zlib.error,
        ) as error:
            raise ValueError(f"{self.path}: {name} is broken: {error}") from None

    def json(self, name):
        return parse(self.path, self._read(name, MOST_CONFIG), name)

    def weights(self, expected):
        """The HDF5 file inside; `expected` is the number of bytes of the model's own weights."""
        most = _TIMES * min(expected, os.path.getsize(self.path)) + _MORE
        return Weights(self.path, io.BytesIO(self._read("model.weights.h5", most)))

    def close(self):
        self._zip.close()


class Weights:
    """An HDF5 file. Only plain arrays are read, and only if they have the expected shape and dtype."""

    def __init__(self, path, file=None):
        import h5py

        self._h5py, self.path = h5py, path
        self.size = os.path.getsize(path) if file is None else file.getbuffer().nbytes
        try:
            self._file = h5py.File(path if file is None else file, "r")
        except _BROKEN as error:
            raise ValueError(f"{path}: its HDF5 part is broken or truncated: {error}") from None

    def close(self):
        self._file.close()

    def attribute(self, name, group=""):
        """The value of an attribute, a str or a list of str; None if there is no such attribute."""
        where = f"{self.path}: attribute {name!r} of {group or '/'}"
        try:
            attributes = (self._node(group) if group else self._file).attrs
            if name not in attributes:
                return None
            found = attributes.get_id(name)
            if math.prod((0,) if found.shape is None else found.shape) * found.dtype.itemsize > self.size:
                raise ValueError("it claims more bytes than the file has")
            value = attributes[name]
        except _BROKEN as error:
            raise ValueError(f"{where} is broken: {error}") from None
        several = isinstance(value, np.ndarray)
        values = value.ravel() if several else [value]
        texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{where} is {type(value).__name__}, but it must be text")
        return list(map(str, texts)) if several else str(texts[0])

    def _node(self, place):
        """The group or dataset at this path; links out of the file are not followed."""
        node = self._file
        try:
            for part in place.split("/"):
                link = node.get(part, getlink=True)
                if link is None:
                    raise ValueError(f"{self.path}: tensor or group {place} is missing")
                if not isinstance(link, self._h5py.HardLink):
                    raise ValueError(
                        f"{self.path}: {place} is a {type(link).__name__} to another place, which is not followed"
                    )
                node = node[part]
        except (OSError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.path}: {place} is broken: {error}") from None
        return node

    def array(self, place, shape, dtype):
        """The array at this path, which must have this shape and dtype."""
        found = self._node(place)
        try:
            self._check(place, found, shape, dtype)
            value = found[()]
        except ValueError:
            raise
        except _BROKEN as error:
            raise ValueError(f"{self.path}: {place} is broken: {type(error).__name__}: {error}") from None
        if not np.isfinite(value).all():
            raise ValueError(f"{self.path}: {place} has values that are NaN or infinite")
        return value

    def _check(self, place, found, shape, dtype):
        if not isinstance(found, self._h5py.Dataset):
            raise ValueError(f"{self.path}: {place} is a {type(found).__name__}, not an array")
        if found.shape != tuple(shape):
            turned = ": it is transposed" if found.shape == tuple(shape)[::-1] else ""
            raise ValueError(
                f"{self.path}: {place} has shape {found.shape}, but the config needs {tuple(shape)}{turned}"
            )
        if found.dtype != dtype:
            raise ValueError(f"{self.path}: {place} is {found.dtype}, but the config needs {np.dtype(dtype)}")
        properties = found.id.get_create_plist()
        if found.is_virtual or properties.get_external_count() or properties.get_nfilters():
            raise ValueError(
                f"{self.path}: {place} is compressed, virtual or stored in another file; Keras writes plain arrays"
            )
        stored = found.id.get_storage_size()
        if stored != found.nbytes or found.nbytes > self.size:
            raise ValueError(
                f"{self.path}: {place} claims {found.nbytes} bytes, but there are {min(stored, self.size)}"
            )

    def places(self, root):
        """The paths of all arrays below a group."""
        found, open_groups = [], [root]
        while open_groups:
            place = open_groups.pop()
            node = self._node(place)
            if isinstance(node, self._h5py.Dataset):
                found.append(place)
            else:
                try:
                    open_groups += [f"{place}/{name}" for name in node]
                except _BROKEN as error:
                    raise ValueError(f"{self.path}: {place} is broken: {error}") from None
            if place.count("/") > 64 or len(open_groups) + len(found) > 100_000:
                raise ValueError(f"{self.path}: more groups and arrays, or deeper ones, than a model of Keras has")
        return found

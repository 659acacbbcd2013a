"""Files of torch.save, read without torch as {name: array}. Nothing is executed, and no size in them is trusted.

``torch.load(weights_only=True)`` executes no code of a file either, but it allocates the memory that the file asks for,
as for ``bytearray(10**11)``, and returns tensors with stride 0, which become as large as their shape when they are
copied. So the pickle is read as a description only (torch_pickle.py), and each size is compared with the file before an
array is allocated.
"""

from __future__ import annotations

import zipfile

import numpy as np

from fastrnn._files import foreign
from fastrnn.convert.torch_pickle import DTYPES, TensorView, Unread, describe

MOST_PICKLE = 16 << 20  # bytes


def read(path, key=None):
    """Read a state_dict that torch.save wrote.

    Parameters
    ----------
    path : str or os.PathLike
        The file.
    key : str, optional
        Key of the state_dict, if the file holds a dict with more than that.

    Returns
    -------
    dict of str to ndarray
        The tensors.

    Raises
    ------
    ValueError
        The file is damaged, takes much more memory than its size, or holds something else than tensors.
    """
    with foreign.reading(path), zipfile.ZipFile(path) as archive:
        parts = _Parts(path, archive)
        found = _chosen(path, describe(parts.pickle()), key)
        for name, tensor in found.items():
            parts.check(name, tensor)
        foreign.check_total(path, sum(parts.bytes_of(tensor) for tensor in found.values()), parts.size)
        return {name: parts.array(tensor) for name, tensor in found.items()}


def _chosen(path, found, key):
    """Return the dict of tensors in the content of the file."""
    if key is not None:
        if not isinstance(found, dict) or key not in found:
            raise ValueError(f"{path} has no key {key!r}: it holds {_holds(found)}")
        found = found[key]
    tensors = isinstance(found, dict) and all(
        isinstance(name, str) and isinstance(value, (TensorView, Unread)) for name, value in found.items()
    )
    if not tensors or any(
        isinstance(value, Unread) and not value.what.startswith("a tensor") for value in found.values()
    ):
        raise ValueError(
            f"{path} holds {_holds(found)}, but a state_dict is a dict of tensors: specify its entry with --key"
        )
    for name in found:
        foreign.check_text(name)
    odd = next((name for name, value in found.items() if isinstance(value, Unread)), None)
    if odd is not None:
        raise ValueError(f"{path}: {odd} is {found[odd].what}: only plain float32 and float64 tensors are read")
    return found


def _holds(found):
    if isinstance(found, dict):
        return f"a dict of {', '.join(repr(name)[:80] for name in list(found)[:8])}"
    if isinstance(found, TensorView):
        return "a single tensor"
    return found.what if isinstance(found, Unread) else f"a {type(found).__name__}"


class _Parts:
    """The members of the zip file, with their sizes checked."""

    def __init__(self, path, archive):
        self.path, self.archive, self._arrays = path, archive, {}
        archive.fp.seek(0, 2)
        self.size = archive.fp.tell()
        infos = archive.infolist()
        claimed = sum(info.file_size for info in infos)
        if claimed > self.size:
            raise ValueError(
                f"{path} has {self.size} bytes, but its members have {claimed} bytes: torch does not write such files"
            )
        self.members = {info.filename: info for info in infos}
        if len(self.members) < len(infos):
            raise ValueError(f"{path} is damaged: two of its members have the same name")
        pickles = [name for name in self.members if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(
                f"{path} was not written by torch.save: {len(pickles)} of its members are named data.pkl instead of 1"
            )
        self.top = pickles[0][: -len("data.pkl")]
        order = self._read("byteorder").strip() if self.top + "byteorder" in self.members else b"little"
        if order not in (b"little", b"big"):
            raise ValueError(f"{path} is damaged: its byte order is {order[:20]!r}")
        self.order = "<" if order == b"little" else ">"

    def _read(self, name):
        info = self.members.get(self.top + name)
        if info is None:
            raise ValueError(f"{self.path} is damaged: its part {name} is missing")
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{self.path}: its part {name} is compressed, which torch does not write")
        return self.archive.read(info)

    def pickle(self):
        info = self.members[self.top + "data.pkl"]
        if info.file_size > MOST_PICKLE:
            raise ValueError(f"{self.path}: its data.pkl has {info.file_size} bytes; at most {MOST_PICKLE} are read")
        return self._read("data.pkl")

    def bytes_of(self, tensor):
        return tensor.numel * np.dtype(DTYPES[tensor.storage.kind]).itemsize

    def check(self, name, tensor):
        """Refuse a tensor that exceeds its storage, or repeats elements of it."""
        where, storage = f"{self.path}: {name}", tensor.storage
        if DTYPES[storage.kind] is None:
            raise ValueError(f"{where} is of a {storage.kind}: only plain float32 and float64 tensors are read")
        info = self.members.get(f"{self.top}data/{storage.key}")
        if info is None:
            raise ValueError(f"{self.path} is damaged: the data of {name}, data/{storage.key}, is missing")
        needed = storage.numel * np.dtype(DTYPES[storage.kind]).itemsize
        if info.file_size != needed:
            raise ValueError(f"{where} is in a storage of {needed} bytes, but data/{storage.key} has {info.file_size}")
        pairs = list(zip(tensor.size, tensor.stride))
        end = tensor.offset + sum((n - 1) * step for n, step in pairs) + 1
        if tensor.numel and end > storage.numel:
            raise ValueError(
                f"{where} has shape {tensor.size}, which ends at element {end}, but its storage has {storage.numel}"
            )
        if tensor.numel > storage.numel or any(n > 1 and step == 0 for n, step in pairs if tensor.numel):
            raise ValueError(
                f"{where} has shape {tensor.size} and strides {tensor.stride} over {storage.numel} elements, so it "
                "repeats them (expand): save tensor.contiguous()"
            )

    def array(self, tensor):
        storage = tensor.storage
        dtype = np.dtype(DTYPES[storage.kind]).newbyteorder(self.order)
        if (storage.key, dtype) not in self._arrays:
            self._arrays[storage.key, dtype] = np.frombuffer(self._read(f"data/{storage.key}"), dtype)
        whole = self._arrays[storage.key, dtype]
        if not tensor.numel:
            return np.zeros(tensor.size, dtype.newbyteorder("="))
        strides = [step * dtype.itemsize for step in tensor.stride]
        view = np.lib.stride_tricks.as_strided(whole[tensor.offset :], tensor.size, strides, writeable=False)
        return np.ascontiguousarray(view, dtype.newbyteorder("=")).reshape(tensor.size)

"""Files of torch and safetensors, read and written as {name: array}."""

from __future__ import annotations

import json
import os

from fastrnn._files import disk, foreign, safetensors
from fastrnn.convert import torch_file

_ORDER = "fastrnn.order"  # metadata key for the names of the tensors in the order of the state_dict, as JSON


def read_torch(path, key=None):
    """Read a state_dict that torch.save wrote, as {name: array}; see `torch_file.read`."""
    return torch_file.read(path, key)


def read_safetensors(path):
    """Read a .safetensors file as {name: array}, in the order of the state_dict if it is known, else of the file."""
    return read_ordered(path)[0]


def read_ordered(path):
    """Read a .safetensors file.

    The format sorts tensors by name; files of fastrnn store the original order. A tied weight is stored once, and the
    metadata has its other names.

    Parameters
    ----------
    path : str or os.PathLike
        The file.

    Returns
    -------
    arrays : dict of str to ndarray
        The tensors.
    kept : bool
        Whether they are in the order of the state_dict.
    tied : dict of str to str
        For each name that is not in the file, the name of the tensor that it is tied to.

    Raises
    ------
    ValueError
        The file is damaged, or its tensors take much more memory than its size.
    """
    foreign.check_regular(path)
    with foreign.reading(path), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            arrays, texts = safetensors.read(file, size)
        except safetensors.DtypeError as error:
            raise ValueError(
                f"{path} has tensors of {error.dtype}, but parameters must be float32 or float64: convert them first "
                "(module.float())"
            ) from None
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        tied = {name: other for name, other in texts.items() if name not in arrays and other in arrays}
        total = sum(a.nbytes for a in arrays.values()) + sum(arrays[other].nbytes for other in tied.values())
        foreign.check_total(path, total, size)
        kept = _names(texts.get(_ORDER), arrays)
    found = {name: arrays[name] for name in kept or arrays} | {name: arrays[other] for name, other in tied.items()}
    return found, kept is not None, tied


def _names(text, arrays):
    """Return the names of all arrays in the order that the metadata has, or None."""
    if text is None:
        return None
    try:
        kept = json.loads(text)
    except (ValueError, RecursionError):
        return None
    known = isinstance(kept, list) and all(isinstance(name, str) for name in kept)
    return kept if known and sorted(kept) == sorted(arrays) else None


def write(tensors, destination, suffix):
    """Write {name: array} as a .safetensors file, or with torch.save, and read it again.

    If an OSError is raised, nothing was written.
    """
    if suffix == ".safetensors":
        pieces = safetensors.pieces(tensors, {_ORDER: json.dumps(list(tensors))})
        disk.write_output(destination, lambda file: file.write_all(pieces))
        return read_safetensors(destination)
    import torch

    given = {name: torch.from_numpy(a) for name, a in tensors.items()}
    disk.write_output(destination, lambda file: torch.save(given, file))
    return read_torch(destination)

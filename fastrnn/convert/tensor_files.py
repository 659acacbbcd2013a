"""Files of torch and of safetensors as {name: array}, and back. Knows no layers."""

from __future__ import annotations

import json
import os

from fastrnn._files import disk, foreign, safetensors
from fastrnn.convert import torch_file

_ORDER = "fastrnn.order"  # in a .safetensors file's metadata: the tensors' names in the state_dict's order, as JSON


def read_torch(path, key=None):
    """{name: array} of a state_dict that torch.save wrote; see `_torch_file.read`."""
    return torch_file.read(path, key)


def read_safetensors(path):
    """{name: array} of a .safetensors file, in the order in which they lie there, or the state_dict's if fastrnn wrote it."""
    return read_ordered(path)[0]


def read_ordered(path):
    """({name: array}, whether they are in the state_dict's order, {name: the name of the tensor that it is tied to}).

    The format sorts tensors by their names; files of fastrnn name the order. Of tied weights there is one, and the
    metadata names the others.

    Raises
    ------
    ValueError  the file is damaged, or asks for more memory than it has numbers; the message names the file.
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
    """The names of all arrays in the order that the metadata say; None if they say none."""
    if text is None:
        return None
    try:
        kept = json.loads(text)
    except (ValueError, RecursionError):
        return None
    known = isinstance(kept, list) and all(isinstance(name, str) for name in kept)
    return kept if known and sorted(kept) == sorted(arrays) else None


def write(tensors, destination, suffix):
    """Write {name: array} as a .safetensors file, or as torch.save writes it, whole or not at all, and read it again.

    Raises
    ------
    OSError  the file cannot be written; the message names it.
    """
    if suffix == ".safetensors":
        pieces = safetensors.pieces(tensors, {_ORDER: json.dumps(list(tensors))})
        disk.write_output(destination, lambda file: file.write_all(pieces))
        return read_safetensors(destination)
    import torch

    given = {name: torch.from_numpy(a) for name, a in tensors.items()}
    disk.write_output(destination, lambda file: torch.save(given, file))
    return read_torch(destination)

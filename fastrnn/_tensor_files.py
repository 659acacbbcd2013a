"""Files of torch and of safetensors as {name: array}, and back. Knows no layers."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

from fastrnn import _disk, _safetensors

_ORDER = "fastrnn.order"  # in a .safetensors file's metadata: the tensors' names in the state_dict's order, as JSON


def read_torch(path, key=None):
    """{name: array} of a state_dict that torch.save wrote; torch reads it, with weights_only=True, so that no code in it is run.

    Raises
    ------
    ValueError  the file is damaged or holds something else than tensors; the message says what.
    """
    import torch

    size = os.path.getsize(path)
    with zipfile.ZipFile(path) as archive:
        claimed = sum(info.file_size for info in archive.infolist())
    if claimed > size:
        raise ValueError(f"{path} has {size} bytes, but its members claim {claimed}: torch does not write such files")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises nearly every class for a damaged file
        raise ValueError(
            f"{path} is damaged, or holds more than tensors: save module.state_dict() alone ({type(error).__name__})"
        ) from None
    if key is not None:
        if not isinstance(found, dict) or key not in found:
            raise ValueError(f"{path} has no {key!r}: it holds {_holds(found)}")
        found = found[key]
    wrong = not isinstance(found, dict) or [name for name, value in found.items() if not isinstance(name, str) or not isinstance(value, torch.Tensor)]
    if wrong:
        raise ValueError(f"{path} holds {_holds(found)}, but a state_dict is a dict of tensors: --key says which part of it is one")
    odd = [name for name, t in found.items() if t.layout != torch.strided or t.is_quantized or t.dtype in (torch.bfloat16,)]
    if odd:
        raise ValueError(f"{odd[0]} is {found[odd[0]].dtype}, {found[odd[0]].layout}: only plain float32 and float64 tensors are read")
    return {name: t.detach().contiguous().numpy() for name, t in found.items()}


def _holds(found):
    return f"a dict of {', '.join(map(repr, list(found)[:8]))}" if isinstance(found, dict) else f"a {type(found).__name__}"


def read_safetensors(path):
    """{name: array} of a .safetensors file, in the order in which they lie there, or the state_dict's if fastrnn wrote it."""
    return read_ordered(path)[0]


def read_ordered(path):
    """({name: array}, whether they are in the state_dict's order, {name: the name of the tensor that it is tied to}).

    The format sorts tensors by their names; files of fastrnn name the order. Of tied weights there is one, and the
    metadata names the others.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    data = Path(path).read_bytes()
    try:
        arrays = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        texts = header.get("__metadata__", {})
        tied = {name: other for name, other in texts.items() if name not in arrays and other in arrays}
        order = sorted(arrays, key=lambda name: header[name]["data_offsets"][0])
        kept = json.loads(texts.get(_ORDER, "null"))
    except KeyError as error:  # an element type that NumPy does not have
        raise ValueError(
            f"{path} has tensors of {error.args[0]}, but parameters must be float32 or float64: convert them first "
            "(module.float())"
        ) from None
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}") from None
    known = isinstance(kept, list) and all(isinstance(name, str) for name in kept) and sorted(kept) == sorted(order)
    return (
        {name: arrays[name] for name in (kept if known else order)}
        | {name: arrays[other] for name, other in tied.items()},
        known,
        tied,
    )


def write(tensors, destination, suffix):
    """Write {name: array} as a .safetensors file, or as torch.save writes it, whole or not at all, and read it again.

    Raises
    ------
    OSError  the file cannot be written; the message names it.
    """
    if suffix == ".safetensors":
        pieces = _safetensors.pieces(tensors, {_ORDER: json.dumps(list(tensors))})
        _disk.write_output(destination, lambda file: file.write_all(pieces))
        return read_safetensors(destination)
    import torch

    given = {name: torch.from_numpy(a) for name, a in tensors.items()}
    _disk.write_output(destination, lambda file: torch.save(given, file))
    return read_torch(destination)

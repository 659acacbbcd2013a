"""The safetensors format, read and written in pieces: the length of the header (8 bytes), a JSON header, the arrays.

NumPy allocates all memory, so a lack of it is a MemoryError. The files are byte for byte those of the library
safetensors. What the library refuses is refused here too: a header of more than 100 MB, overlapping arrays, gaps
between them, sizes that do not match the shapes. Duplicate names are also refused.

https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
import math
import re

import numpy as np

PIECE = 1 << 24  # bytes written, read and hashed at once; Ctrl-C takes effect between two pieces
LARGEST_HEADER = 100_000_000  # bytes; the limit of the library
_METADATA = "__metadata__"
# In the order in which the library writes them
_DTYPES = {
    "U64": "<u8", "I64": "<i8", "F64": "<f8", "F32": "<f4", "U32": "<u4", "I32": "<i4", "F16": "<f2", "U16": "<u2",
    "I16": "<i2", "I8": "|i1", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
_NOT_IN_NUMPY = re.compile("BF16|C64|F[468](_[A-Z0-9]+)?")
_MOST_AXES = 32  # the limit of NumPy 1


class DtypeError(ValueError):
    """The element type of a tensor does not exist in NumPy. `dtype` is its name in the format."""

    def __init__(self, name: str, dtype: str):
        super().__init__(f"tensor {name!r} is {dtype}, which NumPy does not have")
        self.dtype = dtype


# ---- writing
# ----------------------------------------------------------------------------------------------------------


def pieces(arrays: dict, metadata: dict | None = None):
    """Iterate over the bytes of a file, in pieces of at most `PIECE` bytes.

    Parameters
    ----------
    arrays : dict of str to ndarray
        Arrays, with any strides.
    metadata : dict of str to str, optional
        Metadata of the file.

    Returns
    -------
    iterator of bytes-like objects
        Each is valid until the next one is requested.

    Raises
    ------
    ValueError
        A dtype does not exist in the format, or the header is too large.

    Examples
    --------
    >>> data = b"".join(pieces({"w": np.ones(2, "float32")}))
    >>> len(data), data[8:30]
    (72, b'{"w":{"dtype":"F32","s')
    """
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    codes = {np.dtype(dtype): code for code, dtype in _DTYPES.items()}
    ranks, kinds = list(_DTYPES), {}
    for name, array in arrays.items():
        kinds[name] = codes.get(array.dtype.newbyteorder("<"))
        if name == _METADATA or kinds[name] is None:
            what = (
                "cannot be the name of an array"
                if name == _METADATA
                else f"is {array.dtype}, which the safetensors format does not have"
            )
            raise ValueError(f"{name} {what}")
    order = sorted(arrays, key=lambda name: (ranks.index(kinds[name]), name))
    entries, stop = [] if metadata is None else [f'"{_METADATA}":{_text(metadata)}'], 0
    for name in order:
        start, stop = stop, stop + arrays[name].nbytes
        entry = {"dtype": kinds[name], "shape": list(arrays[name].shape), "data_offsets": [start, stop]}
        entries.append(f"{_text(name)}:{_text(entry)}")
    header = ("{" + ",".join(entries) + "}").encode()
    header += b" " * (-len(header) % 8)
    if len(header) > LARGEST_HEADER:
        raise ValueError(
            f"names and metadata take {len(header)} bytes, but the header of a safetensors file has at most "
            f"{LARGEST_HEADER}"
        )
    return _pieces(header, [arrays[name] for name in order])


def _text(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _pieces(header, arrays):
    yield len(header).to_bytes(8, "little") + header
    for array in arrays:
        wanted = array.dtype.newbyteorder("<")
        if array.flags.c_contiguous and array.dtype == wanted:
            view = array.reshape(-1).view(np.uint8)
            yield from (view[first : first + PIECE] for first in range(0, len(view), PIECE))
        elif array.size:
            flags = ("external_loop", "buffered")
            size = PIECE // array.itemsize
            for part in np.nditer(array, flags, order="C", op_dtypes=[wanted], casting="equiv", buffersize=size):
                yield np.ascontiguousarray(part).view(np.uint8)


# ---- reading
# ----------------------------------------------------------------------------------------------------------


def read(file, size: int) -> tuple[dict, dict]:
    """Read a whole file.

    Parameters
    ----------
    file : binary file
        File at its beginning, with the method `readinto`.
    size : int
        Size of the file in bytes.

    Returns
    -------
    arrays : dict of str to ndarray
        Arrays in the order of the file. They own their memory, at most `size` bytes together.
    metadata : dict of str to str
        Metadata of the file.

    Raises
    ------
    ValueError
        The file is damaged. A DtypeError if an element type does not exist in NumPy.
    MemoryError
        There is not enough memory for the arrays.

    Examples
    --------
    >>> import io
    >>> data = b"".join(pieces({"w": np.ones(2)}, {"made": "today"}))
    >>> read(io.BytesIO(data), len(data))
    ({'w': array([1., 1.])}, {'made': 'today'})
    """
    tensors, metadata = read_header(file, size)
    arrays = {}
    for name, (code, shape, _) in tensors.items():
        try:
            array = np.empty(shape, _DTYPES[code])
        except ValueError as error:
            raise ValueError(f"tensor {name!r} has shape {shape}: {error}") from None
        fill(file, array.reshape(-1).view(np.uint8))
        if code == "BOOL" and array.view(np.uint8).max(initial=0) > 1:
            raise ValueError(f"tensor {name!r} is BOOL, but it has bytes that are neither 0 nor 1")
        arrays[name] = array
    return arrays, metadata


def read_header(file, size: int) -> tuple[dict, dict]:
    """Read and check the header. No array is allocated.

    Parameters
    ----------
    file, size
        As for `read`.

    Returns
    -------
    tensors : dict of str to tuple
        (element type, shape, (start, stop)) of each tensor, in the order of the file.
    metadata : dict of str to str
        Metadata of the file.
    """
    if size < 8:
        raise ValueError(f"it has {size} bytes, fewer than the 8 with the length of the header")
    length = int.from_bytes(_exactly(file, 8), "little")
    if length > LARGEST_HEADER:
        raise ValueError(f"its header claims {length} bytes, but a header has at most {LARGEST_HEADER}")
    if length > size - 8:
        raise ValueError(f"its header claims {length} bytes, but {size - 8} bytes follow")
    text = _exactly(file, length).decode()
    if text[:1] != "{":
        raise ValueError("its header does not begin with {")
    found, end = _object(text, 0, _top_value)
    if text[end:].strip(" \t\r\n"):
        raise ValueError(f"its header has {text[end : end + 20].strip()!r} after its end")
    metadata = found.pop(_METADATA, {})
    tensors = dict(sorted(found.items(), key=lambda item: item[1][2]))
    at = 0
    for name, (_, _, (start, stop)) in tensors.items():
        if start != at:
            raise ValueError(
                f"tensor {name!r} begins at byte {start} of the data, but the tensor before it ends at {at}"
            )
        at = stop
    if at != size - 8 - length:
        raise ValueError(f"its tensors take {at} bytes, but {size - 8 - length} bytes follow the header")
    return tensors, metadata


def fill(file, view) -> None:
    """Fill a 1-D array of bytes from a file. A ValueError if the file ends too early."""
    first = 0
    while first < len(view):
        count = file.readinto(view[first : first + PIECE])
        if not count:
            raise ValueError(f"it ends {len(view) - first} bytes too early")
        first += count


def _exactly(file, count):
    data = np.empty(count, np.uint8)
    fill(file, data)
    return data.tobytes()


# The header is parsed value by value: a JSON parser can take twenty times the size of a header in memory.
_DECODER = json.JSONDecoder()
_OPEN, _COLON, _CLOSE_OR_NEXT = (re.compile(rf"[ \t\r\n]*{what}[ \t\r\n]*") for what in (r"\{", ":", "([,}])"))
_FLAT = re.compile(r"\{[^{}]{0,4000}\}")


def _object(text, at, value_at):
    """Parse the JSON object at a position; returns ({name: value}, end). value_at(text, at, name) parses a value."""
    found, match = {}, _expected(_OPEN, text, at, "{")
    if text[match.end() : match.end() + 1] == "}":
        return found, match.end() + 1
    while True:
        name, at = _string(text, match.end(), None)
        if name in found:
            raise ValueError(f"its header has {name!r} twice")
        found[name], at = value_at(text, _expected(_COLON, text, at, ":").end(), name)
        match = _expected(_CLOSE_OR_NEXT, text, at, ", or }")
        if match[1] == "}":
            return found, match.end()


def _expected(pattern, text, at, what):
    match = pattern.match(text, at)
    if match is None:
        raise ValueError(f"its header has {text[at : at + 20]!r} where {what} must be")
    return match


def _string(text, at, name):
    if text[at : at + 1] != '"':
        raise ValueError(f"its header has {text[at : at + 20]!r} where a text must be")
    found, end = _DECODER.raw_decode(text, at)
    found.encode()  # raises for half of a surrogate pair
    return found, end


def _top_value(text, at, name):
    if name == _METADATA:
        return _object(text, at, _string)
    match = _expected(_FLAT, text, at, f"the description of tensor {name!r}")
    try:
        pairs = json.loads(match[0], object_pairs_hook=list, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"tensor {name!r}: {error}") from None
    return _tensor(name, pairs), match.end()


def _whole(digits):
    if digits[0] == "-":
        raise ValueError(f"{digits} is below 0")
    return int(digits)


def _tensor(name, pairs):
    """Check the description of a tensor; returns (element type, shape, (start, stop))."""
    given = dict(pairs)
    if sorted(key for key, _ in pairs) != ["data_offsets", "dtype", "shape"]:
        raise ValueError(
            f"tensor {name!r} has {[key for key, _ in pairs]}, but it must have dtype, shape and data_offsets"
        )
    code, shape, offsets = given["dtype"], given["shape"], given["data_offsets"]
    if not isinstance(code, str) or (code not in _DTYPES and not _NOT_IN_NUMPY.fullmatch(code)):
        raise ValueError(f"tensor {name!r} has dtype {code!r}, which the format does not have")
    for key, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
            raise ValueError(f"tensor {name!r} has {key} {numbers!r}, but it must be a list of whole numbers")
    if code not in _DTYPES:
        raise DtypeError(name, code)
    if len(offsets) != 2 or len(shape) > _MOST_AXES:
        raise ValueError(
            f"tensor {name!r} has {len(shape)} axes and {len(offsets)} data_offsets, but at most {_MOST_AXES} axes and "
            "exactly 2 data_offsets are accepted"
        )
    count = math.prod(shape) * np.dtype(_DTYPES[code]).itemsize
    if offsets[1] - offsets[0] != count:
        raise ValueError(
            f"tensor {name!r} is {code} of shape {tuple(shape)}, {count} bytes, but its data_offsets are {offsets}"
        )
    return code, tuple(shape), tuple(offsets)

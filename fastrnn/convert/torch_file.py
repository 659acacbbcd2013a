"""The files of torch.save as {name: array}, read without torch: nothing in them is run, and no size in them is believed.

``torch.load(weights_only=True)`` runs no code of a file either, but it takes the memory that the file asks for, as for
``bytearray(10**11)``, and gives tensors of stride 0, which become as large as their shape says. So the pickle inside is read
here as a description only. `pickletools` splits it into its instructions, and these make dicts, lists, numbers and texts, and
`Tensor`s that say where their numbers lie.
"""

from __future__ import annotations

import math
import pickletools
import re
import zipfile
from dataclasses import dataclass

import numpy as np

from fastrnn._files import foreign

MOST_INSTRUCTIONS = 500_000  # of the pickle; a tensor takes about 25
MOST_PICKLE = 16 << 20  # bytes
MOST_AXES = 32  # NumPy's limit before 2.0

_DTYPES = {
    "FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2", "BFloat16Storage": None, "LongStorage": "i8", "IntStorage": "i4",
    "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?", "ComplexFloatStorage": "c8",
    "ComplexDoubleStorage": "c16",
}  # fmt: skip
_REBUILD = "torch._utils._rebuild_"
_PLAIN_REBUILD = {_REBUILD + "tensor", _REBUILD + "tensor_v2"}
_PARAMETER = {_REBUILD + "parameter", _REBUILD + "parameter_with_state"}
_TYPED_REBUILD = "torch._tensor._rebuild_from_type_v2"
# What else torch.load takes with weights_only=True; it is passed over, and not made
_PASSED = {
    "collections.OrderedDict", "collections.Counter", "collections.defaultdict", "torch.nn.parameter.Parameter", "torch.serialization._get_layout",
    "torch.Size", "torch.Tensor", "torch.device", "torch._tensor._rebuild_from_type_v2", "_codecs.encode",
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("bytearray", "set", "complex")),
}  # fmt: skip


_KNOWN = re.compile(r"torch\.(storage\.)?\w*Storage|torch\._utils\._rebuild_\w+|torch\.[a-z]\w*")  # dtypes too


@dataclass(frozen=True)
class Global:
    """A name that the pickle imports."""

    name: str


@dataclass(frozen=True)
class Unread:
    """Something that is no plain tensor; what: how messages call it."""

    what: str


@dataclass(frozen=True)
class Key:
    """A key of a dict that is no text, as messages show it: hashes of numbers can be chosen, those of texts cannot."""

    text: str

    def __repr__(self):
        return self.text


@dataclass(frozen=True)
class Storage:
    """A part of the file with numbers of one kind."""

    kind: str
    key: str
    numel: int


@dataclass(frozen=True)
class Tensor:
    """Where the numbers of a tensor lie."""

    storage: Storage
    offset: int
    size: tuple
    stride: tuple

    @property
    def numel(self):
        return math.prod(self.size)


def read(path, key=None):
    """{name: array} of a state_dict that torch.save wrote.

    Parameters
    ----------
    key : of the state_dict in a file that holds a dict of more

    Raises
    ------
    ValueError  the file is damaged, asks for more memory than it has numbers, or holds something else than tensors; the
        message names the file and the tensor.
    """
    with foreign.reading(path), zipfile.ZipFile(path) as archive:
        parts = _Parts(path, archive)
        found = _chosen(path, _Machine(parts.pickle()).run(), key)
        for name, tensor in found.items():
            parts.check(name, tensor)
        foreign.check_total(path, sum(parts.bytes_of(tensor) for tensor in found.values()), parts.size)
        return {name: parts.array(tensor) for name, tensor in found.items()}


def _chosen(path, found, key):
    """The dict of tensors among what the file holds."""
    if key is not None:
        if not isinstance(found, dict) or key not in found:
            raise ValueError(f"{path} has no {key!r}: it holds {_holds(found)}")
        found = found[key]
    tensors = isinstance(found, dict) and all(
        isinstance(name, str) and isinstance(value, (Tensor, Unread)) for name, value in found.items()
    )
    if not tensors or any(
        isinstance(value, Unread) and not value.what.startswith("a tensor") for value in found.values()
    ):
        raise ValueError(
            f"{path} holds {_holds(found)}, but a state_dict is a dict of tensors: --key says which part of it is one"
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
    return found.what if isinstance(found, Unread) else f"a {type(found).__name__}"


class _Parts:
    """The members of the zip file."""

    def __init__(self, path, archive):
        self.path, self.archive, self._arrays = path, archive, {}
        archive.fp.seek(0, 2)
        self.size = archive.fp.tell()
        infos = archive.infolist()
        claimed = sum(info.file_size for info in infos)
        if claimed > self.size:
            raise ValueError(
                f"{path} has {self.size} bytes, but its members claim {claimed}: torch does not write such files"
            )
        self.members = {info.filename: info for info in infos}
        if len(self.members) < len(infos):
            raise ValueError(f"{path} is damaged: it has two members of one name")
        pickles = [name for name in self.members if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(
                f"{path} is no file of torch.save: {len(pickles)} of its members are named data.pkl, 1 must be"
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
        return tensor.numel * np.dtype(_DTYPES[tensor.storage.kind]).itemsize

    def check(self, name, tensor):
        """Refuse a tensor that does not lie in its part of the file, once."""
        where, storage = f"{self.path}: {name}", tensor.storage
        if _DTYPES[storage.kind] is None:
            raise ValueError(f"{where} is of a {storage.kind}: only plain float32 and float64 tensors are read")
        info = self.members.get(f"{self.top}data/{storage.key}")
        if info is None:
            raise ValueError(f"{self.path} is damaged: the numbers of {name}, data/{storage.key}, are missing")
        needed = storage.numel * np.dtype(_DTYPES[storage.kind]).itemsize
        if info.file_size != needed:
            raise ValueError(f"{where} is in a storage of {needed} bytes, but data/{storage.key} has {info.file_size}")
        pairs = list(zip(tensor.size, tensor.stride))
        end = tensor.offset + sum((n - 1) * step for n, step in pairs) + 1
        if tensor.numel and end > storage.numel:
            raise ValueError(
                f"{where} has shape {tensor.size}, which ends at number {end} of the {storage.numel} in its storage"
            )
        if tensor.numel > storage.numel or any(n > 1 and step == 0 for n, step in pairs if tensor.numel):
            raise ValueError(
                f"{where} has shape {tensor.size} and strides {tensor.stride} over {storage.numel} numbers, so that it repeats them "
                "(expand): save it as tensor.contiguous()"
            )

    def array(self, tensor):
        storage = tensor.storage
        dtype = np.dtype(_DTYPES[storage.kind]).newbyteorder(self.order)
        if (storage.key, dtype) not in self._arrays:
            self._arrays[storage.key, dtype] = np.frombuffer(self._read(f"data/{storage.key}"), dtype)
        whole = self._arrays[storage.key, dtype]
        if not tensor.numel:
            return np.zeros(tensor.size, dtype.newbyteorder("="))
        strides = [step * dtype.itemsize for step in tensor.stride]
        view = np.lib.stride_tricks.as_strided(whole[tensor.offset :], tensor.size, strides, writeable=False)
        return np.ascontiguousarray(view, dtype.newbyteorder("=")).reshape(tensor.size)


class _Machine:
    """The pickle's instructions as descriptions of what they make: those that torch writes, of protocols 2 to 5, and no others."""

    def __init__(self, data):
        self.data, self.stack, self.marks, self.memo = data, [], [], {}

    def run(self):
        for count, (code, value, _) in enumerate(pickletools.genops(self.data)):
            if count > MOST_INSTRUCTIONS:
                raise ValueError(f"its pickle has more than {MOST_INSTRUCTIONS} instructions")
            if code.name == "STOP":
                return self.pop()
            step = _STEPS.get(code.name)
            if step is None:
                raise ValueError(f"its pickle has the instruction {code.name}, which torch does not write")
            step(self, value)
        raise ValueError("its pickle does not end")

    def pop(self):
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("its pickle takes more than it has made")
        return self.stack.pop()

    def top(self):
        self.stack.append(self.pop())
        return self.stack[-1]

    def push(self, value):
        self.stack.append(value)

    def mark(self, _):
        self.marks.append(len(self.stack))

    def since_mark(self):
        if not self.marks:
            raise ValueError("its pickle has no mark")
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    def tuple_of(self, count):
        self.push(tuple([self.pop() for _ in range(count)][::-1]))

    def recall(self, place):
        if place not in self.memo:
            raise ValueError(f"its pickle refers to object {place}, which it has not made")
        self.push(self.memo[place])

    def remember(self, place):
        if place > MOST_INSTRUCTIONS:
            raise ValueError(f"its pickle remembers object {place}, but it may have {MOST_INSTRUCTIONS} instructions")
        self.memo[place] = self.top()

    def add_items(self, values):
        target = self.top()
        if not isinstance(target, Unread):
            raise ValueError(f"its pickle adds elements of a set to a {type(target).__name__}")

    def append(self, values):
        target = self.top()
        if not isinstance(target, list):
            raise ValueError(f"its pickle appends to a {type(target).__name__}")
        target.extend(values)

    def update(self, values):
        target = self.top()
        if isinstance(target, Unread):
            return
        if not isinstance(target, dict) or len(values) % 2:
            raise ValueError(f"its pickle has keys of a {type(target).__name__}")
        for name, value in zip(values[::2], values[1::2]):
            if not isinstance(name, (str, bytes, int, float, type(None))):
                raise ValueError(f"a dict of it has a key that is a {type(name).__name__.lower()}")
            target[name if isinstance(name, str) else Key(repr(name))] = value

    def load_global(self, value):
        self.import_name(value.replace(" ", ".", 1))

    def stack_global(self, _):
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("its pickle imports what is no name")
        self.import_name(f"{module}.{name}")

    def import_name(self, name):
        if name not in _PASSED and not _KNOWN.fullmatch(name):
            raise ValueError(f"it holds more than tensors: save module.state_dict() alone (it imports {name[:200]})")
        self.push(Global(name))

    def load_storage(self, _):
        found = self.pop()
        fits = isinstance(found, tuple) and len(found) == 5 and found[0] == "storage" and isinstance(found[1], Global)
        if not fits or not isinstance(found[2], str) or type(found[4]) is not int or found[4] < 0:
            raise ValueError("a storage of it is described in another way than torch does")
        self.push(Storage(found[1].name.rpartition(".")[2], found[2], found[4]))

    def call(self, _):
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise ValueError("its pickle calls what is no function")
        self.push(_made(function.name, arguments))

    def build(self, _):
        self.pop()  # attributes, such as the versions of modules
        self.top()


def _made(name, arguments):
    """What a function of torch makes of its arguments, as a description."""
    if name == "collections.OrderedDict" and not arguments:
        return {}
    if name in _PLAIN_REBUILD:
        return _tensor(arguments)
    if name in _PARAMETER and arguments and isinstance(arguments[0], (Tensor, Unread)):
        return arguments[0]
    if (
        name == _TYPED_REBUILD
        and len(arguments) == 4
        and isinstance(arguments[0], Global)
        and isinstance(arguments[2], tuple)
    ):
        inner = arguments[0].name
        return _made(inner, arguments[2]) if inner != name else Unread("a tensor of a class of its own")
    if name.startswith((_REBUILD, "torch._utils", "torch.Tensor", "torch._tensor", "torch.nn.parameter")):
        return Unread(f"a tensor made by {name}, no plain one")
    return Unread(f"a {name}")


def _tensor(arguments):
    if len(arguments) < 4 or not isinstance(arguments[0], Storage):
        raise ValueError("a tensor of it is described in another way than torch does")
    storage, offset, size, stride = arguments[:4]
    whole = [
        isinstance(part, tuple) and len(part) <= MOST_AXES and all(type(n) is int and 0 <= n < 1 << 63 for n in part)
        for part in (size, stride, (offset,))
    ]
    if not all(whole) or len(size) != len(stride):
        raise ValueError(
            "the shape, the strides or the offset of a tensor of it are no whole numbers from 0 on that fit together"
        )
    if storage.kind not in _DTYPES or (len(arguments) > 6 and arguments[6]):
        return Unread(f"a tensor of a {storage.kind}, no plain one")
    return Tensor(storage, offset, size, stride)


_STEPS = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda m, v: None),
    "NONE": lambda m, v: m.push(None),
    "NEWTRUE": lambda m, v: m.push(True),
    "NEWFALSE": lambda m, v: m.push(False),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"), _Machine.push),
    **dict.fromkeys(("SHORT_BINSTRING", "BINSTRING", "SHORT_BINUNICODE", "SHORT_BINBYTES", "BINBYTES"), _Machine.push),
    "BYTEARRAY8": lambda m, v: m.push(Unread("a bytearray")),
    "EMPTY_DICT": lambda m, v: m.push({}),
    "EMPTY_LIST": lambda m, v: m.push([]),
    "EMPTY_TUPLE": lambda m, v: m.push(()),
    "EMPTY_SET": lambda m, v: m.push(Unread("a set")),
    "MARK": _Machine.mark,
    "TUPLE": lambda m, v: m.push(tuple(m.since_mark())),
    "TUPLE1": lambda m, v: m.tuple_of(1),
    "TUPLE2": lambda m, v: m.tuple_of(2),
    "TUPLE3": lambda m, v: m.tuple_of(3),
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "MEMOIZE": lambda m, v: m.remember(len(m.memo)),
    "APPEND": lambda m, v: m.append([m.pop()]),
    "APPENDS": lambda m, v: m.append(m.since_mark()),
    "SETITEM": lambda m, v: m.update([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m, v: m.update(m.since_mark()),
    "ADDITEMS": lambda m, v: m.add_items(m.since_mark()),
    "GLOBAL": _Machine.load_global,
    "STACK_GLOBAL": _Machine.stack_global,
    "BINPERSID": _Machine.load_storage,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.build,
}

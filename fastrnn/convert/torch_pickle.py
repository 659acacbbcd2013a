"""The pickle inside a file of torch.save, read as a description: nothing in it is executed.

`pickletools` splits it into instructions. These construct dicts, lists, numbers and strings, and `TensorView`s, which
say where the elements of a tensor are in the file.
"""

from __future__ import annotations

import math
import pickletools
import re
from dataclasses import dataclass

MOST_INSTRUCTIONS = 500_000  # of the pickle; a tensor takes about 25
MOST_AXES = 32  # NumPy's limit before 2.0

# NumPy dtype of each storage; None if NumPy does not have it
DTYPES = {
    "FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2", "BFloat16Storage": None, "LongStorage": "i8",
    "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
    "ComplexFloatStorage": "c8", "ComplexDoubleStorage": "c16",
}  # fmt: skip
_REBUILD = "torch._utils._rebuild_"
_PLAIN_REBUILD = {_REBUILD + "tensor", _REBUILD + "tensor_v2"}
_PARAMETER = {_REBUILD + "parameter", _REBUILD + "parameter_with_state"}
_TYPED_REBUILD = "torch._tensor._rebuild_from_type_v2"
# Other names that torch.load accepts with weights_only=True; they are skipped
_PASSED = {
    "collections.OrderedDict", "collections.Counter", "collections.defaultdict", "torch.nn.parameter.Parameter",
    "torch.serialization._get_layout", "torch.Size", "torch.Tensor", "torch.device",
    "torch._tensor._rebuild_from_type_v2", "_codecs.encode",
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("bytearray", "set", "complex")),
}  # fmt: skip


_KNOWN = re.compile(r"torch\.(storage\.)?\w*Storage|torch\._utils\._rebuild_\w+|torch\.[a-z]\w*")  # includes dtypes


@dataclass(frozen=True)
class Global:
    """A name that the pickle imports."""

    name: str


@dataclass(frozen=True)
class Unread:
    """Something else than a plain tensor.

    what : its name in messages
    """

    what: str


@dataclass(frozen=True)
class Key:
    """A dict key that is not a str, as its repr. Unlike those of str, hashes of numbers can be chosen to collide."""

    text: str

    def __repr__(self):
        return self.text


@dataclass(frozen=True)
class TorchStorage:
    """A part of the file, with elements of one kind."""

    kind: str
    key: str
    numel: int


@dataclass(frozen=True)
class TensorView:
    """Position of a tensor in its storage."""

    storage: TorchStorage
    offset: int
    size: tuple
    stride: tuple

    @property
    def numel(self):
        """Number of elements."""
        return math.prod(self.size)


class _Machine:
    """Interpreter of the pickle instructions that torch writes (protocols 2 to 5). It only constructs descriptions."""

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
            raise ValueError("its pickle takes an object from an empty stack")
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
            raise ValueError(f"its pickle refers to object {place}, which does not exist")
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
                raise ValueError(f"one of its dicts has a key of type {type(name).__name__.lower()}")
            target[name if isinstance(name, str) else Key(repr(name))] = value

    def load_global(self, value):
        self.import_name(value.replace(" ", ".", 1))

    def stack_global(self, _):
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("its pickle imports something that is not a name")
        self.import_name(f"{module}.{name}")

    def import_name(self, name):
        if name not in _PASSED and not _KNOWN.fullmatch(name):
            raise ValueError(f"it holds more than tensors: save module.state_dict() alone (it imports {name[:200]})")
        self.push(Global(name))

    def load_storage(self, _):
        found = self.pop()
        fits = isinstance(found, tuple) and len(found) == 5 and found[0] == "storage" and isinstance(found[1], Global)
        if not fits or not isinstance(found[2], str) or type(found[4]) is not int or found[4] < 0:
            raise ValueError("one of its storages is not described as torch does")
        self.push(TorchStorage(found[1].name.rpartition(".")[2], found[2], found[4]))

    def call(self, _):
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise ValueError("its pickle calls something that is not a function")
        self.push(_made(function.name, arguments))

    def build(self, _):
        self.pop()  # attributes, such as module versions, are ignored
        self.top()


def _made(name, arguments):
    """Describe the result of a function of torch."""
    if name == "collections.OrderedDict" and not arguments:
        return {}
    if name in _PLAIN_REBUILD:
        return _tensor(arguments)
    if name in _PARAMETER and arguments and isinstance(arguments[0], (TensorView, Unread)):
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
        return Unread(f"a tensor made by {name}, not a plain one")
    return Unread(f"a {name}")


def _tensor(arguments):
    if len(arguments) < 4 or not isinstance(arguments[0], TorchStorage):
        raise ValueError("one of its tensors is not described as torch does")
    storage, offset, size, stride = arguments[:4]
    whole = [
        isinstance(part, tuple) and len(part) <= MOST_AXES and all(type(n) is int and 0 <= n < 1 << 63 for n in part)
        for part in (size, stride, (offset,))
    ]
    if not all(whole) or len(size) != len(stride):
        raise ValueError("the shape, strides or offset of one of its tensors are not valid")
    if storage.kind not in DTYPES or (len(arguments) > 6 and arguments[6]):
        return Unread(f"a tensor of a {storage.kind}, not a plain one")
    return TensorView(storage, offset, size, stride)


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


def describe(data):
    """Return a description of what a pickle contains: dicts, lists and plain values, `TensorView` and `Unread`."""
    return _Machine(data).run()

"""Plans: operations on fixed arrays, recorded once and then run again without Python between them.

Each function of the engine makes an operation and performs it. While a thread records, its operations are also kept.
They hold their arrays, so a plan computes the same function again from the present contents of its arrays.
"""
from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memcpy

import copy
import dataclasses
import functools
import os

import numpy as np

cdef dict recorders = {}                          # (its owner, the operations so far) of each thread that records


class NotRecordable(Exception):
    """A computation cannot be recorded as a plan."""


def hash_key(tuple words):
    """Hash integers, of which the lowest 64 bits count, by the mixing function of splitmix64."""
    cdef uint64_t key = 0
    for word in words:
        key = (key ^ <uint64_t>(word & 0xFFFFFFFFFFFFFFFF)) + <uint64_t>0x9E3779B97F4A7C15
        key = (key ^ (key >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
        key = (key ^ (key >> 27)) * <uint64_t>0x94D049BB133111EB
        key ^= key >> 31
    return key


cdef class Op:
    """An operation on fixed arrays. A kind of operation is a subclass."""

    cdef int run(self) except -1:
        raise NotImplementedError


cdef class KeyedOp(Op):
    """An operation with random numbers."""

    cdef int take_key(self, key) except -1:
        """Use a key: an int, or a fastrnn._core.keys.DerivedKey."""
        self.key, self.derive = key, getattr(key, "derive", None)
        return 0


cdef class Call(Op):
    """A call of a Python function."""

    cdef object function
    cdef tuple arguments

    cdef int run(self) except -1:
        self.function(*self.arguments)
        return 0


cdef class KeyedCall(KeyedOp):
    """A call of a Python function with a key of random numbers."""

    cdef object function
    cdef tuple arguments

    cdef int run(self) except -1:
        self.function(self.key, *self.arguments)
        return 0


cdef int perform(Op op) except -1:
    """Run an operation, and keep it if this thread records."""
    op.run()
    if recorders:
        found = recorders.get(PyThread_get_thread_ident())
        if found is not None:
            (<list>(<tuple>found)[1]).append(op)
    return 0


def call(function, *arguments):
    """Call a function whose only effect is on the contents of arrays, as an operation that can be recorded."""
    cdef Call op = Call.__new__(Call)
    op.function, op.arguments = function, unchecked(arguments)
    perform(op)


def call_with_key(function, key, *arguments):
    """As `call`, of ``function(key, *arguments)``, where the key of random numbers is that of the run."""
    cdef KeyedCall op = KeyedCall.__new__(KeyedCall)
    op.take_key(key)
    op.function, op.arguments = function, unchecked(arguments)
    perform(op)


cdef tuple unchecked(tuple arguments):
    """The arguments without the checks of arrays that are recorded."""
    if recorder() is None:
        return arguments
    return tuple([x.view(np.ndarray) if isinstance(x, np.ndarray) else x for x in arguments])


cdef object recorder():
    """The owner of this thread's recording, or None."""
    found = recorders.get(PyThread_get_thread_ident()) if recorders else None
    return None if found is None else (<tuple>found)[0]


cdef int refuse_recording(str what) except -1:
    """Raise NotRecordable if this thread records: what follows is not an operation of a plan."""
    if recorders and PyThread_get_thread_ident() in recorders:
        raise NotRecordable(what)
    return 0


def recording():
    """The owner of this thread's recording, or None."""
    return recorder()


def record(owner, function, *arguments, **options):
    """Call a function, and keep the operations that this thread performs meanwhile.

    Returns what the function returns, and a `Program`. No signal is handled where it would leave the recording open.
    """
    cdef list ops = []
    thread = PyThread_get_thread_ident()
    if thread in recorders:
        raise NotRecordable("this thread is recording already")
    recorders[thread] = owner, ops
    try:
        result = function(*arguments, **options)
    finally:
        recorders.pop(thread, None)
    return result, Program(ops)


if hasattr(os, "register_at_fork"):               # a thread of the child may have the number of one that recorded
    os.register_at_fork(after_in_child=recorders.clear)


def copy_arrays(list given, list arrays):
    """Copy arrays of the same shapes and dtypes. The second ones are C-contiguous."""
    for source, target in zip(given, arrays):
        if not copy_bytes(source, target):
            np.copyto(target, source)


SIMPLE = (type(None), bool, int, float, complex, str, bytes, np.generic, np.dtype, type)


def flatten(value, list arrays, list others):
    """Append the arrays in nested tuples, dicts and dataclasses to one list, all other values and types to another.

    An object whose class says `constant_of_plans` is a value: its arrays do not change, and a plan reads them in place.
    """
    others.append(type(value))
    if value is None:
        return
    if isinstance(value, np.ndarray):
        arrays.append(value)
        others.append(value.shape)
        others.append(value.dtype)
        return
    parts = parts_of(value)
    if parts is None:
        if not isinstance(value, SIMPLE) and not getattr(value, "constant_of_plans", False):
            raise TypeError(
                f"arguments of a planned function are arrays, numbers, strings, None, or tuples, dicts or dataclasses "
                f"of them, but one is {type(value).__name__}"
            )
        others.append(value.hex() if type(value) is float else value)     # 0.0 == -0.0
        return
    others.append(tuple(value) if isinstance(value, dict) else len(parts))
    for part in parts:
        flatten(part, arrays, others)


def parts_of(value):
    """The parts of a tuple, dict or dataclass, or None."""
    if isinstance(value, tuple):
        return value
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, type) or not hasattr(value, "__dataclass_fields__"):
        return None
    return [getattr(value, name, None) for name in field_names(type(value))]


@functools.lru_cache(maxsize=256)
def field_names(kind):
    """The names of the fields of a dataclass."""
    return tuple([field.name for field in dataclasses.fields(kind)])


def with_parts(value, parts):
    """A tuple, dict or dataclass of the same type with other parts."""
    if isinstance(value, dict):
        return type(value)(zip(value, parts))
    if isinstance(value, tuple):
        return tuple(parts) if type(value) is tuple else getattr(value, "_make", type(value))(parts)
    names = field_names(type(value))
    if is_plain(type(value)) and len(value.__dict__) == len(names) and all([name in value.__dict__ for name in names]):
        made = object.__new__(type(value))         # as copy.copy, in less time
        made.__dict__.update(zip(names, parts))
        return made
    made = copy.copy(value)
    for name, part in zip(names, parts):
        object.__setattr__(made, name, part)
    return made


@functools.lru_cache(maxsize=256)
def is_plain(kind):
    """Whether an object of this dataclass consists of its attributes, and copies of it are made as of any object."""
    own = any(hasattr(kind, name) for name in ("__copy__", "__slots__", "__setstate__", "__getnewargs__"))
    names = "__new__", "__reduce__", "__reduce_ex__"
    return not own and all([getattr(kind, name) is getattr(object, name) for name in names])


def copy_of(value):
    """Nested tuples, dicts and dataclasses with copies of their arrays, C-contiguous."""
    if isinstance(value, np.ndarray):
        return np.array(value, order="C")
    parts = parts_of(value)
    return value if parts is None else with_parts(value, [copy_of(part) for part in parts])


def viewed(value, kind):
    """Nested tuples, dicts and dataclasses with views of their arrays, of a subclass of ndarray."""
    if isinstance(value, np.ndarray):
        return value.view(kind)
    parts = parts_of(value)
    return value if parts is None else with_parts(value, [viewed(part, kind) for part in parts])


def result_of(value):
    """Nested tuples, dicts and dataclasses with copies of arrays, and the present values of numbers."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if value is None:
        return None
    if type(value) is tuple:
        return tuple([result_of(part) for part in <tuple>value])
    cell = getattr(value, "cell", None)
    if cell is not None:
        return float(cell[0])
    parts = parts_of(value)
    if parts is None:
        raise NotRecordable(f"the result has a {type(value).__name__} that is computed outside the engine")
    return with_parts(value, [result_of(part) for part in parts])


cdef bint copy_bytes(source, target) except -1:
    """Copy an array that is C-contiguous and of a type that memory can have; returns whether it is."""
    cdef Py_buffer view, other
    try:
        PyObject_GetBuffer(source, &view, PyBUF_C_CONTIGUOUS)
    except (ValueError, BufferError):
        return False
    try:
        PyObject_GetBuffer(target, &other, PyBUF_C_CONTIGUOUS)
        if view.len == other.len:
            memcpy(other.buf, view.buf, view.len)
        PyBuffer_Release(&other)
        return view.len == other.len
    finally:
        PyBuffer_Release(&view)


def source_of(KeyedOp op):
    """The same number for all operations with the same key."""
    return id(op.derive)


def same_bytes(a, b):
    """Whether two arrays of the same shape and dtype have the same bytes."""
    cdef Py_buffer one, other
    cdef bint same
    try:
        PyObject_GetBuffer(a, &one, PyBUF_C_CONTIGUOUS)
    except (ValueError, BufferError):              # of another order, or of a type that memory cannot have
        return a.tobytes() == b.tobytes()
    try:
        PyObject_GetBuffer(b, &other, PyBUF_C_CONTIGUOUS)
    except (ValueError, BufferError):
        PyBuffer_Release(&one)
        return a.tobytes() == b.tobytes()
    same = one.len == other.len and memcmp(one.buf, other.buf, one.len) == 0
    PyBuffer_Release(&one)
    PyBuffer_Release(&other)
    return same


cdef class Program:
    """The operations of a plan, in order.

    Attributes
    ----------
    constant_keys : bool
        Whether an operation would use the same random numbers in each run.
    """

    cdef list ops, keyed
    cdef readonly bint constant_keys

    def __init__(self, list ops):
        cdef KeyedOp keyed
        self.ops = ops
        self.keyed = sorted([op for op in ops if isinstance(op, KeyedOp)], key=source_of)
        self.constant_keys = False
        for keyed in self.keyed:
            self.constant_keys |= keyed.derive is None

    def __len__(self):
        return len(self.ops)

    def compute(self, list given, list inputs, key, result):
        """Copy the arguments to `inputs` and run; returns a copy of `result`."""
        copy_arrays(given, inputs)
        self.run(key)
        return result_of(result)

    def run(self, key):
        """Run all operations, with random numbers of this key. It belongs to one thread at a time."""
        cdef Op op
        cdef KeyedOp keyed
        cdef uint64_t derived = 0
        derive = self                                  # of no operation
        for keyed in self.keyed:                       # forward and backward use the same masks
            if keyed.derive is not derive:
                derive, derived = keyed.derive, keyed.derive(key)
            keyed.key = derived
        for op in self.ops:
            op.run()
        PyErr_CheckSignals()

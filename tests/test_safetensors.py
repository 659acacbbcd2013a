"""The safetensors format: files are byte for byte those of the library, and the same files are refused."""

import io
import json
import resource
import textwrap

import fuzz
import numpy as np
import processes
import pytest
from numpy.testing import assert_array_equal
from safetensors import SafetensorError
from safetensors.numpy import load as library_load
from safetensors.numpy import save as library_save

from fastrnn._files import safetensors as _safetensors

DTYPES = [np.dtype(name) for name in ("u8", "i8", "f8", "f4", "u4", "i4", "f2", "u2", "i2", "i1", "u1", "?")]
NAMES = ["a", "b", "rnn.weight_ih_l0", "é", "\U0001f600", 'quote"\\', "line\nend\x01\x7f", "", "zz"]


def random_arrays(rng):
    arrays = {}
    for name in rng.permutation(NAMES)[: rng.integers(0, len(NAMES))]:
        shape = tuple(rng.integers(0, 4, rng.integers(0, 4)))
        array = rng.integers(0, 2, shape).astype(DTYPES[rng.integers(len(DTYPES))])
        arrays[str(name)] = array
    return arrays


def ours(arrays, metadata=None):
    return b"".join(_safetensors.pieces(arrays, metadata))


def read(data):
    return _safetensors.read(io.BytesIO(data), len(data))


@pytest.mark.fuzz
def test_files_are_those_of_the_library_byte_for_byte():
    for seed in fuzz.seeds("safetensors: written", 200):
        rng = np.random.default_rng(seed)
        arrays, metadata = random_arrays(rng), [None, {}, {"fastrnn": '{"é": "\\n"}'}][rng.integers(3)]
        with fuzz.named(seed):
            data = ours(arrays, metadata)
            if arrays or metadata is None:  # safetensors 0.8 writes the metadata after an empty object
                assert data == library_save(arrays, metadata)
            found, texts = read(data)
            assert texts == (metadata or {}) and found.keys() == arrays.keys()
            for name, array in arrays.items():
                assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
                assert found[name].tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(60.0).reshape(3, 4, 5).transpose(2, 0, 1),
        np.arange(60.0)[::-2],
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.broadcast_to(np.float32(3), (5, 7)),
        np.empty((0, 3)).T,
        np.array(2.5),
    ],
    ids=["transposed", "backwards", "big-endian", "repeated", "empty", "number"],
)
def test_arrays_of_any_layout_are_written(array, monkeypatch):
    for piece in (1 << 24, 16):
        monkeypatch.setattr(_safetensors, "PIECE", piece)
        parts = [bytes(part) for part in _safetensors.pieces({"a": array})]
        assert max(map(len, parts[1:]), default=0) <= piece
        assert_array_equal(library_load(b"".join(parts))["a"], array)


def test_what_the_format_does_not_have_is_refused(monkeypatch):
    for array in (np.zeros(2, complex), np.array(["a"]), np.array([None]), np.zeros(1, "f4,f4")):
        with pytest.raises(ValueError, match="^x is .*, which the safetensors format does not have$"):
            ours({"x": array})
    with pytest.raises(ValueError, match="__metadata__ cannot be the name of an array"):
        ours({"__metadata__": np.zeros(2)})
    monkeypatch.setattr(_safetensors, "LARGEST_HEADER", 1000)
    with pytest.raises(
        ValueError, match=r"names and metadata take \d+ bytes, but the header of a safetensors file has at most 1000"
    ):
        ours({}, {"fastrnn": "x" * 1000})


def file_of(header, data=b"", length=None):
    text = (
        header
        if isinstance(header, bytes)
        else header.encode()
        if isinstance(header, str)
        else json.dumps(header).encode()
    )
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor(shape, start, stop, dtype="F32", **more):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop], **more}


ONE = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
DAMAGED = {
    "no length": (b"\1\0\0", "it has 3 bytes, fewer than the 8 with the length of the header"),
    "a header longer than the file": (file_of("{}", length=100), "its header claims 100 bytes, but 2 bytes follow"),
    "a header of 2**60 bytes": (
        file_of("{}", length=1 << 60),
        f"its header claims {1 << 60} bytes, but a header has at most 100000000",
    ),
    "a list": (file_of("[]"), "its header does not begin with {"),
    "a blank before it": (file_of(" {}"), "its header does not begin with {"),
    "text after it": (file_of("{} x"), "its header has 'x' after its end"),
    "no text at all": (file_of(b"{\xff}"), "'utf-8' codec can't decode byte 0xff"),
    "an open object": (file_of('{"a":' + ONE), "its header has '' where , or } must be"),
    "a number for a name": (file_of("{1:2}"), "its header has '1:2}' where a text must be"),
    "a comma at the end": (file_of('{"a":' + ONE + ",}", bytes(4)), "its header has '}' where a text must be"),
    "a name twice": (file_of(f'{{"a":{ONE},"a":{ONE}}}', bytes(4)), "its header has 'a' twice"),
    "metadata twice": (file_of('{"__metadata__":{},"__metadata__":{}}'), "its header has '__metadata__' twice"),
    "a number in the metadata": (file_of({"__metadata__": {"a": 1}}), "where a text must be"),
    "half a character": (file_of('{"__metadata__":{"a":"\\ud800"}}'), "surrogates not allowed"),
    "a list for a tensor": (file_of({"a": [1]}), "where the description of tensor 'a' must be"),
    "a tensor nested deeply": (
        file_of('{"a":{"shape":' + "[" * 3000 + "]" * 3000 + "}}"),
        "where the description of tensor 'a' must be",
    ),
    # Python 3.13 can read it, and then misses the other keys
    "a shape nested deeply": (file_of('{"a":{"shape":' + "[" * 1900 + "]" * 1900 + "}}"), "tensor 'a'"),
    "no shape": (
        file_of({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, bytes(4)),
        "tensor 'a' has ['dtype', 'data_offsets'], but it must have",
    ),
    "one key more": (
        file_of({"a": tensor([1], 0, 4, x=1)}, bytes(4)),
        "tensor 'a' has ['dtype', 'shape', 'data_offsets', 'x'], but",
    ),
    "a shape twice": (
        file_of('{"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}}', bytes(4)),
        "'shape', 'shape'",
    ),
    "an unknown dtype": (
        file_of({"a": tensor([1], 0, 4, "Q32")}, bytes(4)),
        "tensor 'a' has dtype 'Q32', which the format does not have",
    ),
    "a dtype that is a list": (
        file_of({"a": tensor([1], 0, 4, [])}, bytes(4)),
        "tensor 'a' has dtype [], which the format does not have",
    ),
    "a dtype of others": (
        file_of({"a": tensor([2], 0, 4, "BF16")}, bytes(4)),
        "tensor 'a' is BF16, which NumPy does not have",
    ),
    "true for a size": (
        file_of({"a": tensor([True], 0, 4)}, bytes(4)),
        "tensor 'a' has shape [True], but it must be a list of whole numbers",
    ),
    "a size with a point": (
        file_of({"a": tensor([1.0], 0, 4)}, bytes(4)),
        "tensor 'a' has shape [1.0], but it must be a list of whole numbers",
    ),
    "a size below 0": (file_of({"a": tensor([-1], 0, 4)}, bytes(4)), "tensor 'a': -1 is below 0"),
    "a size of -0": (file_of('{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}'), "tensor 'a': -0 is below 0"),
    "a size of many digits": (
        file_of('{"a":{"dtype":"F32","shape":[' + "9" * 3000 + '],"data_offsets":[0,4]}}', bytes(4)),
        "tensor 'a' is F32 of shape",
    ),
    "one offset": (
        file_of({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4]}}, bytes(4)),
        "1 axes and 1 data_offsets",
    ),
    "a stop before the start": (
        file_of({"a": tensor([1], 4, 0)}, bytes(4)),
        "tensor 'a' is F32 of shape (1,), 4 bytes, but its data_offsets are [4, 0]",
    ),
    "a wrong number of bytes": (
        file_of({"a": tensor([2], 0, 4)}, bytes(4)),
        "tensor 'a' is F32 of shape (2,), 8 bytes, but its data_offsets are [0, 4]",
    ),
    "a gap": (
        file_of({"a": tensor([1], 0, 4), "b": tensor([1], 8, 12)}, bytes(12)),
        "tensor 'b' begins at byte 8 of the data, but",
    ),
    "an overlap": (
        file_of({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, bytes(12)),
        "begins at byte 4 of the data, but the tensor before it ends at 8",
    ),
    "a gap at the beginning": (
        file_of({"a": tensor([1], 4, 8)}, bytes(8)),
        "begins at byte 4 of the data, but the tensor before it ends at 0",
    ),
    "bytes too few": (
        file_of({"a": tensor([1], 0, 4)}, bytes(3)),
        "its tensors take 4 bytes, but 3 bytes follow the header",
    ),
    "bytes too many": (
        file_of({"a": tensor([1], 0, 4)}, bytes(5)),
        "its tensors take 4 bytes, but 5 bytes follow the header",
    ),
    "4 TB": (
        file_of({"a": tensor([1 << 40], 0, 1 << 42)}),
        f"its tensors take {1 << 42} bytes, but 0 bytes follow the header",
    ),
    "40 axes": (
        file_of({"a": tensor([1] * 40, 0, 4)}, bytes(4)),
        "tensor 'a' has 40 axes and 2 data_offsets, but at most 32 axes and exactly 2 data_offsets are accepted",
    ),
    "no numbers, but too many rows": (
        file_of({"a": tensor([0, 1 << 62], 0, 0)}),
        "tensor 'a' has shape (0, 4611686018427387904): ",
    ),
    "a bool of 2": (
        file_of({"a": tensor([1], 0, 1, "BOOL")}, b"\2"),
        "tensor 'a' is BOOL, but it has bytes that are neither 0 nor 1",
    ),
}
# Not refused by the library in one version or another
READ_BY_THE_LIBRARY = {
    "a name twice", "one key more", "a shape twice", "a dtype of others", "40 axes", "no numbers, but too many rows",
    "a bool of 2", "a blank before it",
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_damaged_is_refused(name):
    data, message = DAMAGED[name]
    with pytest.raises(ValueError) as error:
        read(data)
    assert message in str(error.value)
    if name not in READ_BY_THE_LIBRARY:
        with pytest.raises((SafetensorError, UnicodeDecodeError)):
            library_load(data)


def test_a_file_that_ends_early_is_refused():
    data = ours({"a": np.ones(5)})
    for kept in range(len(data)):
        with pytest.raises(ValueError, match=r"bytes|byte \d+|utf-8|where"):
            read(data[:kept])
        with pytest.raises(ValueError, match=r"it ends \d+ bytes too early"):
            _safetensors.read(io.BytesIO(data[:kept]), len(data))  # it was truncated after it was opened


PARTS = [
    "{", "}", "[", "]", ":", ",", '"a"', '"b"', '"dtype"', '"shape"', '"data_offsets"', '"F32"', '"BOOL"', '"F64"', "0",
    "4", "8", "-1", "1e3", "null", "true", '"__metadata__"', " ", "\n", ONE, '"\\u0041"', '"\\ud800"', "NaN", "1.5",
    "18446744073709551616",
]  # fmt: skip


def mutated(rng):
    """Return a nearly valid file: parts of the header exchanged, bytes changed, its length moved."""
    data = ours(random_arrays(rng), [None, {"a": "b"}][rng.integers(2)])
    length = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + length].decode(), data[8 + length :]
    for _ in range(rng.integers(1, 4)):
        at, size = rng.integers(len(header) + 1), rng.integers(0, 9)
        header = header[:at] + PARTS[rng.integers(len(PARTS))] * rng.integers(0, 2) + header[at + size :]
    if rng.random() < 0.3:
        rest = rest[: rng.integers(len(rest) + 1)] + bytes(rng.integers(0, 5))
    return file_of(header, rest, None if rng.random() < 0.9 else int(rng.integers(0, 2 * length)))


@pytest.mark.fuzz
def test_nothing_is_read_that_the_library_refuses():
    """What is read is what the library reads. A ValueError is the only exception."""
    read_by_both = 0
    for seed in fuzz.seeds("safetensors: damaged", 1500):
        data = mutated(np.random.default_rng(seed))
        with fuzz.named(seed):
            try:
                arrays, _ = read(data)
            except ValueError:
                continue
            theirs = library_load(data)
            read_by_both += 1
            assert arrays.keys() == theirs.keys()
            for name, array in theirs.items():
                assert (arrays[name].dtype, arrays[name].shape, arrays[name].tobytes()) == (
                    array.dtype,
                    array.shape,
                    array.tobytes(),
                )
    assert read_by_both > 0


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_AS"), reason="needs memory limits")
def test_a_header_takes_a_small_multiple_of_its_bytes():
    """To a JSON parser, lists of lists are objects of twenty times their size."""
    code = """
        import io, resource
        import numpy as np
        from fastrnn._files import safetensors as _safetensors
        heads = ['{"a":{"shape":' + "[]," * 10_000_000 + "1]}}", '{"a":[' + "[]," * 10_000_000 + "1]}",
                 '{"__metadata__":{"a":{' + '"b":{},' * 5_000_000 + '"c":1}}}', "[" * 30_000_000]
        files = [len(head).to_bytes(8, "little") + head.encode() for head in heads]
        del heads
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for data in files:
            try:
                _safetensors.read(io.BytesIO(data), len(data))
            except ValueError:
                print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10)
    """
    taken = [int(line) for line in processes.output(textwrap.dedent(code)).split()]
    assert len(taken) == 4 and max(taken) < 6 * 30_000_000, taken

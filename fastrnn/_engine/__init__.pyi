"""Types of the compiled functions and classes; shapes are in src/fastrnn/_engine/.

Arrays are C-contiguous and of one dtype, float32 or float64, unless stated otherwise.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypedDict

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[np.floating[Any]]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
Keys = NDArray[np.uint64]
Offsets = NDArray[np.intp]
Function = tuple[int, float, float]  # kind, alpha, beta

class CellTraits(TypedDict):
    """A row of the table of cells, src/cells.c."""

    code: int
    gates: int
    blocks: int
    x_block: tuple[int, ...]
    h_block: tuple[int, ...]
    interleaved: int
    rh_block: int | None
    has_c: bool

ACTIVATIONS: dict[str, int]
CELLS: dict[str, CellTraits]
PANEL: int
max_hypotheses: int

# core

def available_isas() -> list[str]: ...
def set_isa(name: str) -> None: ...
def isa() -> str: ...
def vector_lanes(is_double: bool) -> int: ...
def compiler() -> str: ...
def open_blas(path: str | None = None) -> None: ...
def blas_core() -> str | None: ...
def threads_paused() -> tuple[float, int]: ...
def thresholds() -> dict[str, int]: ...
def set_default_threads(n: int) -> None: ...
def set_local_threads(n: int | None) -> int | None: ...
def current_threads() -> int: ...
def force_leave(barrier: int) -> None: ...
def aligned_empty(size: int, dtype: DTypeLike) -> Array: ...
def pack_columns(src: Array, column: Ints, row: Ints, stride_n: int, stride_k: int, panel: int, dst: Array) -> None: ...
def pack(w: Array, transposed: bool = False) -> Array: ...
def product(
    x: Array, packed: Array, bias: Array | None, y: Array, accumulate: bool = False, ends: Offsets | None = None
) -> None: ...
def gemm(trans_a: bool, trans_b: bool, a: Array, b: Array, c: Array, ends: Offsets | None = None) -> None: ...
def fma_loop(n: int, one_chain: bool = False) -> float: ...
def read_loop(a: NDArray[np.float32], times: int) -> float: ...

# sweep and bptt

class StepArrays(NamedTuple):
    """As fastrnn._core.memory.StepArrays."""

    gates: Array
    h_prev: Array
    c_prev: Array | None
    on_tape: bool

States = tuple[Array, Array | None]  # h and c

class LayerWeights:
    def __init__(
        self,
        cell: int,
        H: int,
        P: int,
        I: int,
        blocks: int,
        *,
        w: Array,
        w2: Array | None = None,
        w_ih: Array | None = None,
        bias: Array | None = None,
        functions: tuple[Function, Function, Function] | None = None,
        clip: float = ...,
        projected: bool = False,
        peephole: Array | None = None,
    ) -> None: ...

class Steps:
    def __init__(
        self, offset: NDArray[np.intp], B: int, lengths: Ints | None, resets: NDArray[np.bool_] | None, reverse: bool
    ) -> None: ...

class Forward:
    def __init__(
        self,
        weights: LayerWeights,
        steps: Steps,
        x: Array | None,
        arrays: StepArrays,
        states: States,
        y: Array,
        column: int,
        chunk: int,
    ) -> None: ...
    def set_tokens(self, ids: Ints, table: Array) -> None: ...
    def set_bias(self, bias: Array) -> None: ...
    def set_feed(self, w_feed: Array, feed: Array) -> None: ...

class Bptt:
    def __init__(
        self,
        weights: LayerWeights,
        steps: Steps,
        tape: StepArrays,
        dy: Array | None,
        column: int,
        dstates: States,
        scratch: tuple[Array, Array],
        bias_sums: Array,
    ) -> None: ...
    def add_gemm(self, column: int, right: Array, c: Array) -> None: ...
    def add_sums(self, ids: Ints, sums: Array) -> None: ...
    def set_dx(self, packed: Array, dx: Array) -> None: ...

def chunk_steps(B: int, row_bytes: int) -> int: ...
def force_split(name: str | None) -> None: ...
def waves_pay(layers: int, B: int, T: int, step_flops: float) -> bool: ...
def forward_sides(one: Forward, other: Forward) -> None: ...
def forward_layers(layers: list[Forward]) -> None: ...
def forward_wave(layers: list[Forward]) -> None: ...
def backward_layer(layer: Bptt, chunks: int) -> None: ...
def backward_sides(one: Bptt, other: Bptt, chunks: int) -> None: ...

# stream

class StreamLayer(Protocol):
    """What a Stream needs of a layer; the methods with an underscore are those of fastrnn.layers.recurrent."""

    kind: str
    dtype: np.dtype[Any]
    num_layers: int
    input_size: int
    hidden_size: int
    output_size: int

class Stream:
    batch_size: int
    h: Array
    c: Array | None
    state: Array | tuple[Array, ...] | None
    def __init__(self, layer: StreamLayer, batch_size: int, context: Array | None) -> None: ...
    def step(self, x_t: Array, out: Array | None = None) -> Array: ...
    def run(self, x: Array, out: Array | None = None) -> Array: ...
    def reset(self, rows: Sequence[int] | NDArray[np.integer[Any] | np.bool_] | int | None = None) -> None: ...
    def refresh(self) -> None: ...

# decoder

class Decoder:
    def __init__(
        self,
        layers: list[Forward],
        *,
        first: Ints,
        count: Ints,
        keys: Array,
        values: Array,
        w_out: Array,
        bias: Array,
        alpha: Array,
        joined: Array,
        a: Array,
        v: Array | None = None,
        w_query: Array | None = None,
        query: Array | None = None,
        feed: Array | None = None,
        p: float = 0,
        masks: Keys | None = None,
        row_id: Keys | None = None,
    ) -> None: ...
    def forward(self) -> None: ...
    def backward(
        self,
        layers: list[Bptt],
        *,
        w_below: list[Array | None],
        da: Array,
        w_out: Array,
        w_query: Array | None,
        dquery: Array,
        dkeys: Array,
        dvalues: Array,
        dv: Array | None,
        djoined: Array,
        dbelow: Array,
        dscore: Array,
    ) -> None: ...

class Writer:
    def __init__(
        self,
        layers: list[Forward],
        attention: Decoder | None,
        *,
        out: Array,
        w: Array,
        bias: Array | None,
        logits: Array,
        swap: Array,
        ids: Ints,
        end: int,
        limits: Ints,
        given: Ints | None,
        temperature: float,
        key: int,
        row_id: Keys,
        score: Doubles,
        symbols: Ints,
        parents: Ints,
        finished: tuple[Ints, Ints, Ints, Ints, Doubles],
    ) -> None: ...
    def run(self) -> None: ...

def attend(
    query: Array,
    keys: Array,
    values: Array,
    first: Ints,
    count: Ints,
    alpha: Array,
    context: Array,
    *,
    v: Array | None = None,
    softmax: bool = True,
) -> None: ...
def attend_backward(
    query: Array,
    keys: Array,
    values: Array,
    first: Ints,
    count: Ints,
    alpha: Array,
    dcontext: Array,
    *,
    v: Array | None = None,
    softmax: bool = True,
    dquery: Array,
    dkeys: Array,
    dvalues: Array,
    dv_rows: Array | None = None,
) -> None: ...
def log_sum_exp(logits: Array, out: Doubles) -> None: ...
def greatest(x: Array, ids: Ints) -> None: ...
def draw(x: Array, temperature: float, u: float) -> int: ...

# plan

class NotRecordable(Exception): ...

class Program:
    constant_keys: bool
    def __len__(self) -> int: ...
    def compute(self, given: list[Array], inputs: list[Array], key: int, result: object) -> Any: ...
    def run(self, key: int) -> None: ...

def hash_key(words: tuple[int, ...]) -> int: ...
def record(
    owner: object, function: Callable[..., Any], *arguments: object, **options: object
) -> tuple[Any, Program]: ...
def copy_arrays(given: list[Any], arrays: list[Any]) -> None: ...
def copy_of(value: Any) -> Any: ...
def flatten(value: Any, arrays: list[Any], others: list[Any]) -> None: ...
def parts_of(value: Any) -> Any: ...
def recording() -> Any: ...
def result_of(value: Any) -> Any: ...
def same_bytes(a: NDArray[Any], b: NDArray[Any]) -> bool: ...
def with_parts(value: Any, parts: list[Any]) -> Any: ...
def viewed(value: Any, kind: type) -> Any: ...
def call(function: Callable[..., object], *arguments: object) -> None: ...
def call_with_key(function: Callable[..., object], key: int, *arguments: object) -> None: ...

# rows

def empty(shape: int | tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]: ...
def zeros(shape: int | tuple[int, ...], dtype: DTypeLike, ends: Offsets | None = None) -> NDArray[Any]: ...
def column_sum(a: Array, out: Array, ends: Offsets | None = None) -> None: ...
def copy_rows(a: NDArray[Any], out: NDArray[Any]) -> None: ...
def add_rows(a: Array, out: Array, ends: Offsets | None = None) -> None: ...
def gather(array: Array, ids: Ints, out: Array, ends: Offsets | None = None) -> None: ...
def scatter_add(a: Array, ids: Ints, out: Array, ends: Offsets | None = None) -> None: ...
def ragged_places(given: Ints, order: Ints, lengths: Ints, offset: Offsets, where: Ints, padding: Ints) -> None: ...
def spread(a: Array, where: Ints, padding: Ints, out: Array, ends: Offsets | None = None) -> None: ...
def step_rows(offset: Offsets, out: Ints) -> None: ...
def row_ids(where: Ints, B: int, variational: bool, out: Keys) -> None: ...
def copy_ids(ids: Ints, out: Ints) -> None: ...
def check_within(ids: Ints, least: int, most: int, ends: Offsets | None = None) -> None: ...
def distinct(ids: Ints, V: int, rows: Ints, inverse: Ints, counts: Offsets, ends: Offsets | None = None) -> None: ...

# targets

def sequences(values: Array, first: Ints, lengths: Ints, rows: Ints) -> tuple[Array, Ints]: ...
def padded(ids: Ints, start: Ints, rows: Ints) -> tuple[Ints, Ints]: ...
def forced(ids: Ints, start: Ints, rows: Ints, first: int) -> tuple[Ints, Ints, Ints]: ...
def valid_targets(targets: Ints, where: Ints, others: Ints, valid: Ints, count: Offsets) -> None: ...
def chunk_counts(ends: Offsets, most: int, counts: Offsets) -> None: ...

# ops

def softmax_nll(
    logits: Array,
    targets: Ints,
    weights: Array | None,
    nll: Doubles,
    dlogits: Array | None,
    ends: Offsets | None = None,
) -> None: ...
def scale(a: Any, factor: float, by: Any, out: Any) -> None: ...
def check_weights(weights: Doubles) -> None: ...
def divide_rows(a: Array, counts: Ints, out: Array) -> None: ...
def softmax(logits: Array, out: Array) -> None: ...
def tanh_backward(y: Array, dy: Array) -> None: ...
def mean_weights(targets: Ints, weights: Array, divisor: Doubles) -> None: ...
def squared_error(
    y: Array,
    targets: Array,
    mask: NDArray[np.bool_] | None,
    weights: Doubles | None,
    derivative: Array,
    outcome: Doubles,
) -> None: ...
def mean_loss(losses: Doubles, divisor: Doubles, mean: Doubles, ends: Offsets | None = None) -> None: ...
def dropout(x: Array, row_id: Keys, key: int, p: float) -> None: ...

# words

def bag(
    sentence: Ints,
    start: Ints,
    word: Ints,
    a: Array,
    b: Array,
    ramp: Array,
    table: Array,
    out: Array,
    ends: Offsets | None = None,
) -> None: ...
def bag_backward(
    sentence: Ints,
    start: Ints,
    word: Ints,
    a: Array,
    b: Array,
    ramp: Array,
    dout: Array,
    dtable: Array,
    ends: Offsets | None = None,
) -> None: ...
def memories(
    rows: Ints, start: Ints, sentences: Ints, distinct: int, oldest: int
) -> tuple[Ints, Ints, Ints, Offsets, Ints, Ints, Offsets, int]: ...

# optim

def sum_of_squares(g: Array) -> float: ...
def clip_value(g: Array, limit: float) -> None: ...
def sgd(
    p: Array,
    g: Array,
    m: Array | None,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
    scale: float,
) -> None: ...
def rmsprop(
    p: Array, g: Array, v: Array, *, lr: float, alpha: float, eps: float, weight_decay: float, scale: float
) -> None: ...
def adagrad(p: Array, g: Array, v: Array, *, lr: float, eps: float, weight_decay: float, scale: float) -> None: ...
def adam(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    step: int,
    scale: float,
) -> None: ...

"""The doors into the compiled core: arrays become pointers here, the GIL is released, and nothing is checked but contiguity.

Shapes are in the comments at the arguments; fastrnn._check has seen to them. An array that may be absent is None.
"""
from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_SIMPLE, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer,
)
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset

from attention cimport Attention, AttentionBackward, decode_backward_part, decode_part
from blas cimport GRID, Gemm, gemm_is_ours, gemm_part, gemm_tiles
from kernels cimport *
from recurrence cimport CHUNK_BYTES, CHUNK_STEPS, Sweep, SweepBackward, sweep, sweep_backward, sweep_backward_part, sweep_part
from search cimport MOST_HYPOTHESES, Search, search_part
from threads cimport (
    AT_HAND_US, AWAKE, MOST_PARTS, OWN_CACHE, SHARED_CACHE, SPLIT_FLOPS, SPLIT_ROWS, STEP_GFLOPS,
    STREAM_ALONE_FLOPS, WAVE_FLOPS, WAVE_STEPS, cut_rows, parts_for, unit_parts,
)

import math
import os
import threading

import numpy as np

cdef double SLICE_FLOPS = 1e9           # about 10 ms of a core; signals are looked at in between

cdef int isa_index = 0
cdef const rnn_kernels *table[2]
cdef int64_t blas_asked = 0             # whether a BLAS was looked for, and bound if there is one
blas_lock = threading.Lock()
cdef int64_t default_threads = 1
local = threading.local()


cdef const rnn_kernels *kernels_for(array):
    """The kernels of an array's dtype: float32 or float64."""
    return table[<int>(array.itemsize == 8)]


cdef char *address(array, bint write=False) except? NULL:
    """Where a C-contiguous array begins; NULL for None. The caller keeps the array alive."""
    cdef Py_buffer view
    if array is None:
        return NULL
    PyObject_GetBuffer(array, &view, PyBUF_WRITABLE if write else PyBUF_SIMPLE)
    cdef char *start = <char *>view.buf
    PyBuffer_Release(&view)
    return start


# ---- configuration of the process ---------------------------------------------------------------------------------

def meeting_seconds():
    """What a meeting of two threads costs on this machine; 1 if there is no second core."""
    return rnn_team_meeting()


def available_isas():
    """Names of the instruction sets this CPU can run, best first."""
    return [rnn_isa_name(i).decode() for i in range(rnn_isa_count())]


def set_isa(str name):
    """Use the kernels of this instruction set from now on. What was packed for another one is packed anew."""
    global isa_index
    names = available_isas()
    if name not in names:
        raise RuntimeError(f"FASTRNN_ISA={name}, but this CPU can run: {', '.join(names)}")
    isa_index = names.index(name)
    table[0] = rnn_kernels_of(isa_index, 0)
    table[1] = rnn_kernels_of(isa_index, 1)


def isa():
    """Name of the instruction set in use."""
    return table[0].isa.decode()


def vector_lanes(bint is_double):
    """Elements of a vector."""
    return table[is_double].lanes


def compiler():
    """The C compiler that made this build."""
    return rnn_compiler().decode()


def open_blas(str path=None):
    """Bind the BLAS for weight and input gradients: $FASTRNN_BLAS (a path, or "builtin"), else the private copy, else none.

    A path, or a second call, is for tests: nothing may compute in the meantime.
    """
    with blas_lock:
        if path is not None or not rnn_seen(&blas_asked):   # else another thread was first
            bind_blas(path)
            rnn_announce(&blas_asked, 1)


def bind_blas(path):
    cdef char message[512]
    rnn_blas_close()
    asked = path or os.environ.get("FASTRNN_BLAS", "")
    if asked == "builtin":
        return
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_lib")
    found = [asked] if asked else [
        os.path.join(folder, name) for name in (os.listdir(folder) if os.path.isdir(folder) else []) if name.startswith("fastrnn_blas")
    ]
    cdef int failed = rnn_blas_open(os.fsencode(found[0]), message, sizeof(message)) if found else 0
    if failed == -2:
        raise MemoryError(f"no memory to load {found[0]}")
    if failed:
        raise RuntimeError(f"FASTRNN_BLAS={found[0]} can't be used: {message.decode(errors='replace')}; FASTRNN_BLAS=builtin does without")


def renew_blas_lock():
    """The lock may be held by a thread that a fork did not take along."""
    global blas_lock
    blas_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=renew_blas_lock)


def blas_core():
    """Name of the BLAS core in use, or None if the built-in product is used."""
    if not rnn_seen(&blas_asked):
        open_blas()
    name = rnn_blas_core()
    return name.decode() if name != NULL else None


def alone():
    """(seconds that calls go alone from now on, how often threads waited for one that was held up): 0.0 where they are divided."""
    return 1e-9 * rnn_split_alone_ns(), rnn_split_failures()


def thresholds():
    """The sizes at which the core takes another path, by name; tests draw sizes on both sides of each."""
    return {
        "AT_HAND_US": AT_HAND_US, "AWAKE": AWAKE, "CHUNK_BYTES": CHUNK_BYTES, "CHUNK_STEPS": CHUNK_STEPS,
        "GEMM_TERMS": table[0].gemm_terms, "GRID": GRID, "MOST_HYPOTHESES": MOST_HYPOTHESES, "MOST_PARTS": MOST_PARTS,
        "OWN_CACHE": OWN_CACHE, "SHARED_CACHE": SHARED_CACHE, "SLICE_FLOPS": SLICE_FLOPS,
        "SPLIT_FLOPS": SPLIT_FLOPS, "SPLIT_ROWS": SPLIT_ROWS, "STEP_GFLOPS": STEP_GFLOPS, "STREAM_ALONE_FLOPS": STREAM_ALONE_FLOPS,
        "WAVE_FLOPS": WAVE_FLOPS, "WAVE_STEPS": WAVE_STEPS,
    }


def set_default_threads(int n):
    """Threads of a call in threads that have no number of their own."""
    rnn_announce(&default_threads, n)


def set_local_threads(n):
    """Threads of a call in this thread; None: the default. Returns what was set before."""
    before = getattr(local, "threads", None)
    local.threads = n
    return before


def current_threads():
    """Threads that a call from this thread may use."""
    return getattr(local, "threads", None) or rnn_seen(&default_threads)


# ---- products -----------------------------------------------------------------------------------------------------

def pack_columns(
    src,                               # weights, read at column[n]*stride_n + row[k]*stride_k       in
    const int64_t[::1] column,         # (vectors*VL,) source index of each column, negative: zeros  in
    const int64_t[::1] row,            # (K,) source index of each k, negative: zeros                in
    Py_ssize_t stride_n, Py_ssize_t stride_k,
    int panel,                         # vectors in a panel
    dst,                               # (vectors*VL*K,)                                             out
):
    """Bring weights into the order in which a tile reads them."""
    cdef char *to = address(dst, True)
    cdef char *source = address(src)
    cdef const rnn_kernels *k = kernels_for(dst)
    cdef Py_ssize_t vectors = column.shape[0] // k.lanes
    if vectors and row.shape[0]:
        with nogil:
            k.pack(vectors, panel, &column[0], row.shape[0], &row[0], source, stride_n, stride_k, to)


def aligned_empty(Py_ssize_t size, dtype):
    """A 1-D array that begins on a cache line."""
    dtype = np.dtype(dtype)
    cdef Py_ssize_t spare = 64 // dtype.itemsize
    raw = np.empty(size + spare, dtype)
    cdef Py_ssize_t skip = (-raw.ctypes.data % 64) // dtype.itemsize
    return raw[skip : skip + size]


def pack(w):
    """Weights (N, K) of y = x @ w.T, packed for `product`."""
    lanes = kernels_for(w).lanes
    N, K = w.shape
    column = np.full(-(-N // lanes) * lanes, -1, np.int64)
    column[:N] = np.arange(N)
    packed = aligned_empty(len(column) * K, w.dtype)
    pack_columns(np.ascontiguousarray(w), column, np.arange(K), K, 1, kernels_for(w).panel, packed)
    return packed


ctypedef struct Product:
    const rnn_kernels *kernels
    rnn_product p
    Py_ssize_t M


cdef void product_part(void *arg, int part, int parts) noexcept nogil:
    cdef Product *job = <Product *>arg
    cdef rnn_product p = job.p
    cdef Py_ssize_t first = job.M * part // parts, count = job.M * (part + 1) // parts - first
    p.first = &first
    p.count = &count
    if count:
        job.kernels.product(&p)


def product(
    x,                                 # (M, K), rows may be apart     in
    packed,                            # (N, K), packed in panels      in
    bias,                              # (N,) or None                  in
    y,                                 # (M, N)                        out
    bint accumulate=False,             # start from y
):
    """y = x @ w.T + bias. Each element is one chain over k: a row's bits depend on nothing else."""
    cdef Product job
    cdef Py_ssize_t M = y.shape[0], N = y.shape[1], K = x.shape[1], item = y.itemsize
    cdef int parts
    if M == 0 or N == 0:
        return
    job.kernels = kernels_for(y)
    job.M = M
    job.p.groups = 1
    job.p.N = N
    job.p.K = K
    job.p.a = address_2d(x, item, False) if K else NULL
    job.p.lda = x.strides[0] // item
    job.p.w = address(packed)
    job.p.bias = address(bias)
    job.p.c = address(y, True)
    job.p.ldc = N
    job.p.accumulate = accumulate
    job.p.flip = False
    job.p.v0 = job.p.v1 = 0
    parts = parts_for(M, 2.0 * M * N * K, current_threads())
    with nogil:
        rnn_team_run(product_part, &job, parts, False)


def gemm(bint trans_a, bint trans_b, a, b, c):
    """c += op(a) @ op(b): 2-D arrays with contiguous rows; the grid of tiles depends on the shape only."""
    cdef Gemm g
    cdef Py_ssize_t item = c.itemsize, K = a.shape[0] if trans_a else a.shape[1]
    g.kernels = kernels_for(c)
    g.trans_a, g.trans_b = trans_a, trans_b
    g.M, g.N = c.shape
    if g.M == 0 or g.N == 0 or K == 0:
        return
    g.lda, g.ldb, g.ldc = a.strides[0] // item, b.strides[0] // item, c.strides[0] // item
    g.c = address_2d(c, item, True)
    multiply(&g, address_2d(a, item, False), address_2d(b, item, False), K, False)


cdef int multiply(Gemm *g, const char *a, const char *b, Py_ssize_t K, bint awake) except -1:
    """g.c += op(a) @ op(b) over K terms, in slices after which signals are looked at. awake: the other threads are at hand."""
    cdef Py_ssize_t tiles = gemm_tiles(g.M), block = gemm_block(g.N), step, k
    cdef int parts = 1
    if not rnn_seen(&blas_asked):
        open_blas()
    g.K = min(block, K)
    if 2.0 * g.M * g.N * K * (AWAKE if awake else 1) >= SPLIT_FLOPS and not rnn_split_alone():
        parts = max(1, min(current_threads(), g.M // 32 if gemm_is_ours(g) else tiles, MOST_PARTS))
    for k in range(0, K, block):
        gemm_terms(g, a, b, k, min(block, K - k))
        step = max(parts, <Py_ssize_t>(SLICE_FLOPS / (512.0 * g.N * g.K)) * parts)
        g.first = 0
        while g.first < tiles:
            g.last = min(tiles, g.first + step)
            with nogil:
                rnn_team_run(gemm_part, g, parts, False)
            g.first = g.last
            PyErr_CheckSignals()
    return 0


cdef void multiply_alone(Gemm *g, const char *a, const char *b, Py_ssize_t K) noexcept nogil:
    """The same on this thread alone."""
    cdef Py_ssize_t block = gemm_block(g.N), k = 0
    g.first, g.last = 0, gemm_tiles(g.M)
    while k < K:
        gemm_terms(g, a, b, k, min(block, K - k))
        gemm_part(g, 0, 1)
        k += block


cdef inline Py_ssize_t gemm_block(Py_ssize_t N) noexcept nogil:
    """Terms of one slice: it depends on the shape only."""
    return max(1024, <Py_ssize_t>(SLICE_FLOPS / (512.0 * N)))


cdef inline void gemm_terms(Gemm *g, const char *a, const char *b, Py_ssize_t k, Py_ssize_t K) noexcept nogil:
    """Go to terms k .. k+K."""
    cdef Py_ssize_t item = 8 if g.kernels.is_double else 4
    g.K = K
    g.a = a + k * item * (g.lda if g.trans_a else 1)
    g.b = b + k * item * (1 if g.trans_b else g.ldb)


cdef char *matrix(array, Py_ssize_t item, bint write, Py_ssize_t *rows, Py_ssize_t *columns, Py_ssize_t *stride) except? NULL:
    """Where a 2-D array with contiguous rows begins, its sizes, and the elements from one row to the next: rows may be apart."""
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_STRIDES | (PyBUF_WRITABLE if write else 0))
    cdef char *start = <char *>view.buf
    cdef bint fits = view.ndim == 2 and view.strides[1] == item and view.strides[0] % item == 0
    if fits:
        stride[0] = view.strides[0] // item
        if rows != NULL:
            rows[0], columns[0] = view.shape[0], view.shape[1]
    PyBuffer_Release(&view)
    if not fits:
        raise ValueError(f"rows must be contiguous, got strides {array.strides} for elements of {item} bytes")
    return start


cdef char *address_2d(array, Py_ssize_t item, bint write) except? NULL:
    """Where a 2-D array with contiguous rows begins. Its rows may be apart."""
    cdef Py_ssize_t stride
    return matrix(array, item, write, NULL, NULL, &stride)


# ---- recurrence ---------------------------------------------------------------------------------------------------

ctypedef struct Split:
    int parts
    bint units
    Py_ssize_t cuts[MOST_PARTS + 1]


cdef int forced_split = -1             # 0: rows, 1: units, for tests and measurements


def force_split(name):
    """Split the calls to come by "rows" or "units" whatever their size, for tests; None: as the cost model says."""
    global forced_split
    forced_split = -1 if name is None else ["rows", "units"].index(name)


cdef int split_sweep(
    Split *split, Py_ssize_t B, const int64_t *lengths, Py_ssize_t total, Py_ssize_t T, Py_ssize_t vectors, double row_flops,
    Py_ssize_t weight_bytes, int meetings, int least, bint awake,
) except -1:
    """How a sweep over total rows is divided: by rows, unless there are few for the size of the weights. awake: the other threads are at hand."""
    cdef int threads = current_threads(), units = 1
    cdef double flops = row_flops * total, worth = flops * AWAKE if awake else flops
    split.parts = parts_for(B, worth, threads)
    split.units = False
    if threads > 1 and (split.parts < threads or weight_bytes > OWN_CACHE) and not rnn_split_alone():
        units = unit_parts(vectors, least, flops / T, worth, meetings, threads)
        if units > split.parts or (units == split.parts and split.parts > 1):
            split.parts, split.units = units, True
    if forced_split >= 0 and threads > 1:
        split.units = forced_split == 1
        split.parts = min(threads, vectors if split.units else B, MOST_PARTS)
    cut_rows(split.cuts, split.parts, B, lengths, total)
    return 0


cdef inline int least_vectors(const Sweep *s) noexcept nogil:
    """Vectors of units that keep a core busy in a forward step: all gates of one, or, where a unit is one chain, a panel.

    A panel too where a tape is kept: a backward pass that is not split would read half of it from the other core's cache.
    """
    return 1 if not s.keep and (s.cell == RNN_LSTM or s.cell == RNN_GRU) else s.kernels.panel


cdef inline int phases(int cell, const rnn_options *options) noexcept nogil:
    """How often parts that split the units meet in a step."""
    return 2 if cell == RNN_GRU_BEFORE or cell == RNN_GRU_BEFORE_OPTIONS or (options != NULL and options.projected) else 1


cdef class Options:
    """What a cell with options does otherwise than its plain kind, for one layer and direction."""
    cdef rnn_options options
    cdef readonly Py_ssize_t P, Pp
    cdef object peephole

    def __init__(
        self, functions,                   # (kind, alpha, beta) of gates, candidate and output: kernels.h
        double clip, Py_ssize_t blocks,
        Py_ssize_t P, Py_ssize_t Pp, bint projected,  # features of h
        peephole,                          # (gates-1, Hp) or None                               in
    ):
        cdef rnn_options *o = &self.options
        (o.gate.kind, o.gate.alpha, o.gate.beta), (o.candidate.kind, o.candidate.alpha, o.candidate.beta), output = functions
        o.output.kind, o.output.alpha, o.output.beta = output
        o.clip, o.blocks, o.projected, o.peephole = clip, blocks, projected, address(peephole)
        self.P, self.Pp, self.peephole = P, Pp, peephole


cdef class Forward:
    """One layer in one direction, made ready. Arguments were checked by fastrnn._check."""
    cdef Sweep s
    cdef Split split
    cdef Py_ssize_t total
    cdef double row_flops
    cdef const int64_t *lengths
    cdef const Py_ssize_t[::1] offset
    cdef tuple held

    def __init__(
        self, int cell, bint reverse, Py_ssize_t H, Py_ssize_t Hp, Py_ssize_t I, Py_ssize_t blocks, Py_ssize_t x_blocks,
        const Py_ssize_t[::1] offset,      # (T+1,) step t owns rows offset[t]:offset[t+1]       in
        lengths,                           # (B,) int64, longest first, or None: all T           in
        Py_ssize_t B,
        resets,                            # (rows,) bool or None                                in
        x,                                 # (rows, I) or None                                   in
        ids, token_parts,                  # (rows,) int64 and (V, x_blocks*Hp), or None         in
        w_ih, w, w2,                       # packed weights                                      in
        bias, Py_ssize_t bias_stride,      # (B or 1, X*Hp)                                      in
        gates,                             # (rows, X*Hp) tape, or scratch for `chunk` steps     out
        h_prev, c_prev,                    # (rows, Hp) tape, or (2, B, Hp) scratch              out
        h_n, c_n,                          # (B, Hp)       in: initial state; out: final state
        y, Py_ssize_t y_column, Py_ssize_t y_stride,    # (rows, y_stride), from this column on   out
        bint keep, Py_ssize_t chunk,
    ):
        cdef Sweep *s = &self.s
        self.held = (lengths, resets, x, ids, token_parts, w_ih, w, w2, bias, gates, h_prev, c_prev, h_n, c_n, y)
        self.offset, self.lengths = offset, <const int64_t *>address(lengths)
        s.kernels = kernels_for(y)
        s.cell, s.reverse, s.T, s.B, s.I, s.H, s.Hp = cell, reverse, offset.shape[0] - 1, B, I, H, Hp
        s.blocks, s.x_blocks, s.item = blocks, x_blocks, y.itemsize
        s.offset = &offset[0]
        s.resets = <const unsigned char *>address(resets)
        s.x = address(x)
        s.ids = <const int64_t *>address(ids)
        s.table = address(token_parts)
        s.w_ih, s.w, s.w2 = address(w_ih), address(w), address(w2)
        s.bias = address(bias)
        s.bias_stride = bias_stride
        s.gates = address(gates, True)
        s.h_prev, s.c_prev = address(h_prev, True), address(c_prev, True)
        s.h_n, s.c_n = address(h_n, True), address(c_n, True)
        s.y = address(y, True) + y_column * s.item
        s.y_stride = y_stride
        s.keep = keep
        s.chunk = chunk
        s.P, s.Pp = H, Hp
        self.total = offset[s.T]
        self.row_flops = 2.0 * blocks * H * (H + (I if s.x != NULL else 0))

    def set_options(self, Options options):
        """A cell with options; where it projects, h_prev, h_n and y have P features."""
        self.s.options, self.s.P, self.s.Pp = &options.options, options.P, options.Pp
        self.held += (options,)

    def set_feed(self, w_feed, feed):
        """A second input of each row, feed (rows, F), w_feed packed (x_blocks*Hp, F)."""
        self.s.w_feed, self.s.feed, self.s.F = address(w_feed), address(feed), feed.shape[1]
        self.held += (w_feed, feed)

    cdef int run(self) except -1:
        """All steps with all threads."""
        cdef Sweep *s = &self.s
        cdef Split *split = &self.split
        cdef double flops = self.row_flops * self.total
        split_sweep(split, s.B, self.lengths, self.total, s.T, s.Hp // s.kernels.lanes, self.row_flops,
                    s.blocks * s.H * s.H * s.item, phases(s.cell, s.options), least_vectors(s), False)
        s.units, s.cuts = split.units, split.cuts
        cdef Py_ssize_t step = slice_steps(s.chunk, s.T, flops / split.parts)
        s.first = 0
        while s.first < s.T:
            s.last = min(s.T, s.first + step)
            with nogil:
                rnn_team_run(sweep_part, s, split.parts, split.units)
            s.first = s.last
            PyErr_CheckSignals()
        return 0


cdef inline Py_ssize_t slice_steps(Py_ssize_t chunk, Py_ssize_t T, double flops) noexcept nogil:
    """Steps of a sweep, in whole chunks, after which signals are looked at."""
    return max(chunk, <Py_ssize_t>(SLICE_FLOPS / max(flops, 1.0) * T) // chunk * chunk)


def forward_sides(Forward one, Forward other):
    """Two directions of a layer: on a thread each, or one after the other with all threads."""
    cdef Sweep *sweeps[3]
    if not sides_pay(one.s.B, 2 * one.row_flops * one.total):
        forward_layers([one, other])
        return
    sweeps[0], sweeps[1], sweeps[2] = &one.s, &other.s, NULL
    run_sweeps(sweeps, 2, False, slice_steps(one.s.chunk, one.s.T, one.row_flops * one.total))


def forward_layers(list layers):
    """Layers from the bottom up, each with all threads."""
    cdef Forward layer
    for layer in layers:
        if layer.total:
            layer.run()


def forward_wave(list layers):
    """Layers from the bottom up at the same time, every parts-th on one thread, a chunk behind the one below it."""
    cdef Forward layer
    room = np.zeros(len(layers) + 1, np.uintp)    # pointers; the last one is NULL
    cdef Sweep **sweeps = <Sweep **>address(room, True)
    cdef int i = 0, parts = min(current_threads(), <int>len(layers), rnn_cpus())
    cdef double flops = 0
    for layer in layers:
        layer.s.chunk = min(layer.s.chunk, WAVE_STEPS)
        layer.s.below, layer.s.done = sweeps[i - 1] if i else NULL, 0
        sweeps[i] = &layer.s
        flops += layer.row_flops * layer.total
        i += 1
    run_sweeps(sweeps, parts, True, slice_steps(WAVE_STEPS, layer.s.T, flops / i))


cdef int run_sweeps(Sweep **sweeps, int parts, bint together, Py_ssize_t step) except -1:
    """Sweeps over the same steps, every parts-th on one thread, `step` steps at a time. The last pointer is NULL."""
    cdef Py_ssize_t T = sweeps[0].T, first = 0, i
    while first < T:
        i = 0
        while sweeps[i] != NULL:
            sweeps[i].first, sweeps[i].last, sweeps[i].units = first, min(T, first + step), False
            i += 1
        with nogil:
            rnn_team_run(sweeps_part, sweeps, parts, together)
        first = sweeps[0].last
        PyErr_CheckSignals()
    return 0


cdef void sweeps_part(void *arg, int part, int parts) noexcept nogil:
    """Every parts-th sweep, all rows and units of it."""
    cdef Sweep **sweeps = <Sweep **>arg
    cdef Py_ssize_t i = 0
    while sweeps[i] != NULL:
        if i % parts == part:
            sweep(sweeps[i], 0, sweeps[i].B, 0, 1)
        i += 1


cdef bint sides_pay(Py_ssize_t B, double flops) except -1:
    """Whether two directions go to a thread each: not if there are more threads and rows for them."""
    cdef int threads = current_threads()
    return threads > 1 and flops >= SPLIT_FLOPS and forced_split < 0 and parts_for(B, flops, threads) <= 2


def waves_pay(Py_ssize_t layers, Py_ssize_t B, Py_ssize_t T, double step_flops):
    """Whether layers that follow each other a few steps apart, on a thread each, beat a split of the rows or units of each layer."""
    return (layers > 1 and current_threads() > 1 and forced_split < 0 and B < 2 * SPLIT_ROWS and T >= 4 * WAVE_STEPS
            and SPLIT_FLOPS / T <= step_flops < WAVE_FLOPS and rnn_cpus() > 1 and not rnn_split_alone() and rnn_team_meeting() < 1e-6)


cdef class Bptt:
    """BPTT of one layer in one direction, chunk after chunk of steps: dgates of the chunk, then the products they enter.

    dgates exist for one chunk at a time, (rows of the chunk, X*Hp). Arguments were checked by fastrnn._check.
    """
    cdef SweepBackward s
    cdef Split split
    cdef Gemm gemms[16]
    cdef const char *left[16]
    cdef const char *right[16]
    cdef Product dx
    cdef const int64_t *ids[2]
    cdef char *sums[2]
    cdef int gemm_count, sum_count
    cdef Py_ssize_t width, ld                     # columns of dgates that have an input part; all columns
    cdef char *dgates
    cdef char *bias_sums
    cdef const int64_t *lengths
    cdef const Py_ssize_t[::1] offset
    cdef Py_ssize_t total, row, rows              # rows of all steps; first row and rows of the chunk
    cdef list held

    def __init__(
        self, int cell, bint reverse, Py_ssize_t H, Py_ssize_t Hp, Py_ssize_t blocks, Py_ssize_t x_blocks,
        const Py_ssize_t[::1] offset,      # (T+1,)                                              in
        lengths, Py_ssize_t B,
        resets,                            # (rows,) bool or None                                in
        w, w2,                             # recurrent weights packed for dgates @ W_hh          in
        dy, Py_ssize_t dy_column, Py_ssize_t dy_stride,  # (rows, dy_stride) or None             in
        gates, h_prev, c_prev,             # tape                                                in
        dgates,                            # (rows of the largest chunk, X*Hp) scratch
        dh, dc,                            # (B, Hp)  in: gradient of the final state; out: of the initial state
        dphase,                            # (B, Hp) scratch or None
        bias_sums,                         # (X*Hp,) += sums over all rows                       out
    ):
        cdef SweepBackward *s = &self.s
        self.held = [lengths, resets, w, w2, dy, gates, h_prev, c_prev, dgates, dh, dc, dphase, bias_sums]
        self.offset = offset
        s.kernels = kernels_for(dgates)
        s.cell, s.reverse, s.T, s.B, s.H, s.Hp, s.blocks = cell, reverse, offset.shape[0] - 1, B, H, Hp, blocks
        s.item = dgates.itemsize
        s.offset = &offset[0]
        s.resets = <const unsigned char *>address(resets)
        s.w, s.w2 = address(w), address(w2)
        s.dy = address(dy)
        if s.dy != NULL:
            s.dy += dy_column * s.item
        s.dy_stride = dy_stride
        s.gates, s.h_prev, s.c_prev = address(gates), address(h_prev), address(c_prev)
        s.dh, s.dc, s.dphase = address(dh, True), address(dc, True), address(dphase, True)
        self.dgates, self.bias_sums = address(dgates, True), address(bias_sums, True)
        self.lengths = <const int64_t *>address(lengths)
        self.ld, self.width = blocks * Hp, x_blocks * Hp
        self.total = offset[s.T]
        self.dx.kernels = s.kernels
        s.P, s.Pp = H, Hp

    def set_options(self, Options options):
        """A cell with options; where it projects, dy, h_prev and dh have P features."""
        self.s.options, self.s.P, self.s.Pp = &options.options, options.P, options.Pp
        self.held.append(options)

    def add_gemm(self, Py_ssize_t column, right, c):
        """c (M, N) += dgates[:, column:column+M].T @ right (rows, N), rows of which may be apart."""
        cdef Gemm *g = &self.gemms[self.gemm_count]
        assert self.gemm_count < 16
        g.kernels, g.trans_a, g.trans_b = self.s.kernels, True, False
        g.lda, g.c = self.ld, matrix(c, self.s.item, True, &g.M, &g.N, &g.ldc)
        self.left[self.gemm_count] = self.dgates + column * self.s.item
        self.right[self.gemm_count] = matrix(right, self.s.item, False, NULL, NULL, &g.ldb)
        self.gemm_count += 1
        self.held += [right, c]

    def add_sums(self, ids, sums):
        """sums (n, x_blocks*Hp)[ids[row]] += the input part of dgates, row by row; ids (rows,) int64."""
        assert self.sum_count < 2
        self.ids[self.sum_count], self.sums[self.sum_count] = <const int64_t *>address(ids), address(sums, True)
        self.sum_count += 1
        self.held += [ids, sums]

    def set_dx(self, packed, dx):
        """dx (rows, I) = the input part of dgates @ W_ih."""
        cdef rnn_product *p = &self.dx.p
        p.groups, p.N, p.K, p.lda, p.ldc = 1, dx.shape[1], self.width, self.ld, dx.shape[1]
        p.a, p.w, p.bias, p.c = self.dgates, address(packed), NULL, address(dx, True)
        p.accumulate, p.flip = False, False
        self.held += [packed, dx]

    cdef double row_flops(self):
        return 2.0 * self.s.blocks * self.s.H * self.s.H

    cdef int run(self, Py_ssize_t count) except -1:
        """All steps with all threads, chunk after chunk in the order that undoes the computation."""
        cdef Split *split = &self.split
        cdef SweepBackward *s = &self.s
        cdef Py_ssize_t i
        split_sweep(split, s.B, self.lengths, self.total, s.T, s.Hp // s.kernels.lanes, self.row_flops(),
                    s.blocks * s.H * s.H * s.item, phases(s.cell, s.options), s.kernels.panel, False)
        s.units, s.cuts = split.units, split.cuts
        for i in range(count):
            self.chunk(i, count)
            self.chunk_dgates()
            self.chunk_products(split.parts > 1)
        return 0

    cdef inline void chunk(self, Py_ssize_t i, Py_ssize_t count) noexcept nogil:
        """Go to chunk i of count, in the order of the backward pass."""
        cdef SweepBackward *s = &self.s
        cdef Py_ssize_t chunk = i if s.reverse else count - 1 - i, low = s.T * chunk // count, high = s.T * (chunk + 1) // count
        s.first, s.last = (s.T - high, s.T - low) if s.reverse else (low, high)
        self.row, self.rows = s.offset[low], s.offset[high] - s.offset[low]
        s.dgates = self.dgates - self.row * self.ld * s.item

    cdef int chunk_dgates(self) except -1:
        """dgates of the chunk, in slices after which signals are looked at."""
        cdef SweepBackward *s = &self.s
        cdef Py_ssize_t first = s.first, last = s.last
        cdef double flops = self.row_flops() * (self.rows + 1)
        cdef Py_ssize_t step = slice_steps(1, last - first, flops / self.split.parts)
        while s.last > first:
            s.first = max(first, s.last - step)
            with nogil:
                rnn_team_run(sweep_backward_part, s, self.split.parts, self.split.units)
            s.last = s.first
            PyErr_CheckSignals()
        return 0

    cdef int chunk_products(self, bint awake) except -1:
        """What the chunk's dgates enter: the sums, then the products over all its rows. awake: the other threads are at hand."""
        cdef Product job
        cdef int i, parts
        if self.rows == 0:
            return 0
        with nogil:
            mode = rnn_flush_denormals()
            self.chunk_sums()
            rnn_restore_denormals(mode)
        for i in range(self.gemm_count):
            multiply(&self.gemms[i], self.left[i], self.right_rows(i), self.rows, awake)
        if self.dx.p.c != NULL:
            job = self.chunk_dx()
            parts = parts_for(self.rows, 2.0 * self.rows * job.p.N * job.p.K * (AWAKE if awake else 1), current_threads())
            with nogil:
                rnn_team_run(product_part, &job, parts, False)
        return 0

    cdef inline void chunk_sums(self) noexcept nogil:
        cdef const rnn_kernels *k = self.s.kernels
        cdef int i
        k.column_sum(self.rows, self.ld, self.dgates, self.ld, self.bias_sums)
        for i in range(self.sum_count):
            k.scatter_add(self.rows, self.width, self.dgates, self.ld, self.ids[i] + self.row, self.sums[i], self.width)

    cdef inline const char *right_rows(self, int i) noexcept nogil:
        return self.right[i] + self.row * self.gemms[i].ldb * self.s.item

    cdef inline Product chunk_dx(self) noexcept nogil:
        cdef Product job = self.dx
        job.M = self.rows
        job.p.c = <char *>job.p.c + self.row * job.p.ldc * self.s.item
        return job

    cdef void chunk_alone(self) noexcept nogil:
        """Everything of the chunk, on this thread."""
        cdef Product job
        cdef int i
        sweep_backward(&self.s, 0, self.s.B, 0, 1)
        if self.rows == 0:
            return
        self.chunk_sums()
        for i in range(self.gemm_count):
            multiply_alone(&self.gemms[i], self.left[i], self.right_rows(i), self.rows)
        if self.dx.p.c != NULL:
            job = self.chunk_dx()
            product_part(&job, 0, 1)


def backward_layer(Bptt layer, Py_ssize_t chunks):
    """BPTT through one layer and direction with all threads; the steps are treated in so many chunks, which decides the gradients' last bits."""
    layer.run(chunks)


ctypedef struct Sides:
    void *one
    void *other
    Py_ssize_t first, last, count      # chunks


def backward_sides(Bptt one, Bptt other, Py_ssize_t chunks):
    """BPTT through both directions of a layer: on a thread each, or one after the other with all threads."""
    cdef Sides sides
    cdef double flops = 6 * one.row_flops() * one.total
    cdef Py_ssize_t step
    if not sides_pay(one.s.B, flops):
        one.run(chunks)
        other.run(chunks)
        return
    if not rnn_seen(&blas_asked):
        open_blas()
    sides.one, sides.other, sides.count, sides.first = <void *>one, <void *>other, chunks, 0
    step = slice_steps(1, chunks, flops / 2)
    while sides.first < chunks:
        sides.last = min(chunks, sides.first + step)
        with nogil:
            rnn_team_run(sides_part, &sides, 2, False)
        sides.first = sides.last
        PyErr_CheckSignals()


cdef void sides_part(void *arg, int part, int parts) noexcept nogil:
    cdef Sides *sides = <Sides *>arg
    cdef Py_ssize_t i
    for i in range(sides.first, sides.last):
        chunk_of(sides.other if part else sides.one, i, sides.count)


cdef void chunk_of(void *bptt, Py_ssize_t i, Py_ssize_t count) noexcept nogil:
    (<Bptt>bptt).chunk(i, count)
    (<Bptt>bptt).chunk_alone()


def chunk_steps(Py_ssize_t B, Py_ssize_t row_bytes):
    """Steps whose input parts are computed at once: they stay in L2, but the product shall have enough rows."""
    cdef Py_ssize_t steps = max(CHUNK_BYTES // max(1, B * row_bytes), (48 + B - 1) // max(1, B), 1)
    return min(steps, CHUNK_STEPS)


# ---- streams ------------------------------------------------------------------------------------------------------

cdef class Stream:
    """Step through sequences that arrive bit by bit, with the weights as of its creation (or of `refresh`).

    Made by ``rnn.stream(batch_size, context)``. Its outputs are those of one call over the whole sequence, bit for bit.
    A stream belongs to one thread at a time: a call while another thread is in one raises RuntimeError.
    """
    cdef object layer, context, dtype
    cdef readonly object h, c                     # (L, B, Pp), (L, B, Hp) states; c is None without cell states
    cdef object initial                           # what `reset` brings back: (L, 1, P) and (L, 1, H), or None for zeros
    cdef object held                              # what the sweeps point into
    cdef readonly Py_ssize_t batch_size
    cdef Py_ssize_t L, I, H, P                    # P: features of h and y
    cdef Py_ssize_t offset[CHUNK_STEPS + 1]
    cdef Sweep *sweeps
    cdef bint is_double
    cdef int taken                                # a call is under way
    cdef double flops                             # of one step
    cdef double ended                             # when the last call did, if it was worth looking at the clock

    def __cinit__(self, layer, Py_ssize_t batch_size, context):
        cdef Py_ssize_t t
        self.layer, self.batch_size = layer, batch_size
        self.context = None if context is None else np.array(context)
        self.dtype = layer.dtype
        self.is_double = layer.dtype.itemsize == 8
        self.L, self.I, self.H, self.P = layer.num_layers, layer.input_size, layer.hidden_size, layer.output_size
        for t in range(CHUNK_STEPS + 1):
            self.offset[t] = t * batch_size
        self.refresh()
        self.reset()

    def __dealloc__(self):
        PyMem_Free(self.sweeps)

    def __reduce__(self):
        raise TypeError(
            f"a stream can be neither pickled nor copied: pickle the {self.layer.kind} and `stream.state`, and make a new stream of them"
        )

    cdef int take(self) except -1:
        if not rnn_take(&self.taken):
            raise RuntimeError("this stream is used by another call at the same time: give each thread a stream of its own, or guard it by a lock")
        return 0

    def refresh(self):
        """Take over the layer's parameters as they are now. The state stays."""
        self.take()
        try:
            self.rebuild()
        finally:
            rnn_give(&self.taken)

    cdef int rebuild(self) except -1:
        """New sweeps over new memory; nothing changes before all of it is there."""
        cdef Py_ssize_t l, B = self.batch_size, Hp, Pp, blocks, steps, L = self.L
        cdef Sweep *sweeps
        cdef Sweep *s
        cdef Options options
        cdef double flops = 0
        cell, Hp, Pp, packed = self.layer._stream_layers(self.context)
        initial = self.layer._stream_initial()
        blocks = cell.blocks
        steps = chunk_steps(B, blocks * Hp * self.dtype.itemsize)

        def zeros(*shape):
            array = aligned_empty(math.prod(shape), self.dtype).reshape(shape)
            array.fill(0)
            return array

        h, c = zeros(L, B, Pp), zeros(L, B, Hp) if cell.has_c else None
        for new, old, width in ((h, self.h, self.P), (c, self.c, self.H)):
            if new is not None and old is not None:
                new[:, :, :width] = old[:, :, :width]
        gates, h_prev, y = zeros(steps * B, blocks * Hp), zeros(2 * B, Pp), zeros(2, CHUNK_STEPS * B, self.P)
        c_prev = zeros(2 * B, Hp) if cell.has_c else None
        held = packed, gates, h_prev, c_prev, y, list(h), list(c) if cell.has_c else None, list(y)
        sweeps = <Sweep *>PyMem_Calloc(L, sizeof(Sweep))
        if sweeps == NULL:
            raise MemoryError()
        try:
            for l in range(L):
                s = sweeps + l
                w_ih, w, w2, bias, bias_stride, options = packed[l]
                s.kernels = table[self.is_double]
                s.cell, s.reverse, s.keep, s.B, s.I, s.H, s.Hp = cell.code, False, False, B, self.P if l else self.I, self.H, Hp
                s.P, s.Pp, s.options = self.P, Pp, NULL if options is None else &options.options
                s.item, s.blocks, s.x_blocks, s.chunk = self.dtype.itemsize, blocks, len(cell.x_gates), steps
                s.offset = self.offset
                s.w_ih, s.w, s.w2 = address(w_ih), address(w), address(w2)
                s.bias, s.bias_stride = address(bias), bias_stride
                s.gates, s.h_prev, s.c_prev = address(gates), address(h_prev), address(c_prev)
                s.h_n, s.c_n = address(held[5][l]), address(held[6][l]) if cell.has_c else NULL
                s.y, s.y_stride = address(held[7][l % 2]), self.P
                flops += 2.0 * B * blocks * self.H * (s.P + s.I)
        except BaseException:
            PyMem_Free(sweeps)
            raise
        PyMem_Free(self.sweeps)
        self.sweeps, self.flops = sweeps, flops
        self.h, self.c, self.initial, self.held = h, c, initial, held
        return 0

    cdef int advance(self, const char *x, char *y, Py_ssize_t T) except -1:
        """T steps of all layers, in chunks."""
        cdef Split split
        cdef Py_ssize_t t = 0, n, l, item = self.sweeps.item, row = self.batch_size * item
        cdef Sweep *s = self.sweeps
        cdef uint64_t mode
        split.parts, split.units = 1, False
        split.cuts[0], split.cuts[1] = 0, self.batch_size
        if self.flops * T * AWAKE >= SPLIT_FLOPS or forced_split >= 0:
            split_sweep(&split, self.batch_size, NULL, self.batch_size * T, T, s.Hp // s.kernels.lanes, self.flops / self.batch_size,
                        s.blocks * s.H * s.H * item, phases(s.cell, s.options), least_vectors(s), rnn_seconds() - self.ended < AT_HAND_US * 1e-6)
        while t < T:
            n = min(T - t, CHUNK_STEPS)
            for l in range(self.L):
                s = self.sweeps + l
                s.T, s.first, s.last, s.units, s.cuts = n, 0, n, split.units, split.cuts
                s.x = (x + t * row * self.I if self.I else NULL) if l == 0 else (s - 1).y
                if l == self.L - 1:
                    s.y = y + t * row * self.P
                if self.flops * n < STREAM_ALONE_FLOPS:      # all rows and units, however the rest of the call is divided
                    mode = rnn_flush_denormals()
                    sweep(s, 0, s.B, 0, 1)
                    rnn_restore_denormals(mode)
                else:
                    with nogil:
                        rnn_team_run(sweep_part, s, split.parts, split.units)
            t += n
            if t < T:
                PyErr_CheckSignals()
        if self.flops * T * AWAKE >= SPLIT_FLOPS:
            self.ended = rnn_seconds()
        return 0

    cdef int advance_arrays(self, x, out, Py_ssize_t T) except -1:
        """`advance` over arrays that were checked; one that overlaps the output is copied first."""
        cdef const char *source = address(x)
        cdef char *to = address(out, True)
        cdef Py_ssize_t row = T * self.batch_size * (8 if self.is_double else 4)
        if source < to + row * self.P and to < source + row * self.I:
            x = np.array(x)
            source = address(x)
        self.take()
        try:
            self.advance(source, to, T)
        finally:
            rnn_give(&self.taken)
        return 0

    def step(self, x_t, out=None):
        """One step.

        Parameters
        ----------
        x_t : (batch_size, input_size), of the layer's dtype
        out : (batch_size, output_size), C-contiguous, optional; may be or overlap x_t

        Returns
        -------
        y_t : (batch_size, output_size), `out` if given

        Raises
        ------
        RuntimeError  another thread is using this stream.
        """
        if not self.fits(x_t, 2, -1):
            x_t = self.rows_of("x_t", x_t, (self.batch_size, self.I))
        if out is None:
            out = np.empty((self.batch_size, self.P), self.dtype)
        elif not self.fits(out, 2, self.P):
            self.layer._stream_out(out, (self.batch_size, self.P))
        self.advance_arrays(x_t, out, 1)
        return out

    def run(self, x, out=None):
        """Several steps: x (T, batch_size, input_size) -> y (T, batch_size, output_size); `out` may overlap x."""
        if not self.fits(x, 3, -1):
            x = self.rows_of("x", x, (None, self.batch_size, self.I))
        cdef Py_ssize_t T = x.shape[0]
        if out is None:
            out = np.empty((T, self.batch_size, self.P), self.dtype)
        elif not self.fits(out, 3, self.P) or out.shape[0] != T:
            self.layer._stream_out(out, (T, self.batch_size, self.P))
        self.advance_arrays(x, out, T)
        return out

    cdef bint fits(self, array, int ndim, Py_ssize_t width) except -1:
        """Whether an array can be used as it is; looks at the buffer only. width -1: input_size."""
        cdef Py_buffer view
        if not PyObject_CheckBuffer(array):
            return False
        try:
            PyObject_GetBuffer(array, &view, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS)
        except (BufferError, ValueError):
            return False
        cdef bint good = (
            view.ndim == ndim and view.shape[ndim - 1] == (self.I if width < 0 else width) and view.shape[ndim - 2] == self.batch_size
            and view.format != NULL and view.format[0] == (c"d" if self.is_double else c"f") and view.format[1] == 0
        )
        PyBuffer_Release(&view)
        return good

    def rows_of(self, name, x, shape):
        """x as a C-contiguous array of this shape, or an error that says what is wrong."""
        x = np.asarray(x)
        if x.dtype != self.dtype:
            raise TypeError(f"{name} is {x.dtype}, but this {self.layer.kind} computes in {self.dtype}: convert with {name}.astype('{self.dtype}')")
        if x.ndim != len(shape) or any(want is not None and want != got for want, got in zip(shape, x.shape)):
            takes = "a step of this stream takes (batch_size" if len(shape) == 2 else "this stream takes (T, batch_size"
            wanted = ", ".join("T" if n is None else str(n) for n in shape)
            raise ValueError(f"{name} has shape {x.shape}, but {takes}, input_size) = ({wanted})")
        return np.ascontiguousarray(x)

    def reset(self, rows=None):
        """Bring the state back to zeros, or to the learnt initial state: of all rows, or of those whose indices or mask are given."""
        where = slice(None) if rows is None else np.atleast_1d(rows)
        self.take()
        try:
            for k, state in enumerate((self.h, self.c)):
                if state is not None:
                    state[:, where] = 0
                    if self.initial is not None:
                        state[:, where, : self.initial[k].shape[2]] = self.initial[k]
        finally:
            rnn_give(&self.taken)

    @property
    def state(self):
        """A copy of the state, as the layer's call takes it; may be set, None as with `reset`."""
        self.take()
        try:
            copies = tuple(np.array(s[:, :, :n]) for s, n in ((self.h, self.P), (self.c, self.H)) if s is not None)
        finally:
            rnn_give(&self.taken)
        return copies if self.c is not None else copies[0]

    @state.setter
    def state(self, value):
        value = self.layer._stream_state(value, self.batch_size)
        if value is None:
            self.reset()
            return
        self.take()
        try:
            for state, new in zip((self.h, self.c), value):
                state[:, :, : new.shape[2]] = new
        finally:
            rnn_give(&self.taken)


# ---- around the recurrence ----------------------------------------------------------------------------------------

def column_sum(a, out):
    """out (N,) += sum over the rows of a (M,N), rows in order."""
    cdef Py_ssize_t item = a.itemsize, M = a.shape[0], N = a.shape[1], lda = a.strides[0] // item
    cdef char *to = address(out, True)
    if M == 0 or N == 0:
        return
    cdef const char *rows = address_2d(a, item, False)
    cdef const rnn_kernels *k = kernels_for(a)
    with nogil:
        mode = rnn_flush_denormals()
        k.column_sum(M, N, rows, lda, to)
        rnn_restore_denormals(mode)


def gather(array, const int64_t[::1] ids, out):
    """out (M,n) = array[ids], rows of 2-D arrays."""
    cdef Py_ssize_t M = ids.shape[0], n = out.shape[1]
    cdef const char *rows = address(array)
    cdef char *to = address(out, True)
    cdef const rnn_kernels *k = kernels_for(out)
    if M and n:
        with nogil:
            k.gather(M, n, rows, n, &ids[0], to, n)


def ragged_places(
    const int64_t[::1] order,          # (B,) the caller's row of each sorted row                  in
    const int64_t[::1] lengths,        # (B,) 0..T, longest first                                  in
    Py_ssize_t[::1] offset,            # (T+1,) first packed row of each step                      out
    int64_t[::1] where,                # (lengths.sum(),) the caller's t*B + b of each packed row  out
    int64_t[::1] padding,              # (T*B - lengths.sum(),) those of no packed row             out
):
    """Where the steps of sorted rows are, in the packed order and in the caller's array."""
    cdef Py_ssize_t T = offset.shape[0] - 1, B = order.shape[0], running = B, n = 0, p = 0, t, b
    with nogil:
        for t in range(T):
            offset[t] = n
            while running > 0 and lengths[running - 1] <= t:
                running -= 1
            for b in range(running):
                where[n] = t * B + order[b]
                n += 1
            for b in range(running, B):
                padding[p] = t * B + order[b]
                p += 1
        offset[T] = n


def spread(a, const int64_t[::1] where, const int64_t[::1] padding, out):
    """out[where] = a, out[padding] = 0, rows of 2-D arrays."""
    cdef Py_ssize_t size = out.shape[1] * out.itemsize, i
    cdef const char *rows = address(a)
    cdef char *to = address(out, True)
    if size == 0:
        return
    with nogil:
        for i in range(where.shape[0]):
            memcpy(to + where[i] * size, rows + i * size, size)
        for i in range(padding.shape[0]):
            memset(to + padding[i] * size, 0, size)


def scatter_add(a, const int64_t[::1] ids, out):
    """out[ids[m]] += a[m], m in order."""
    cdef Py_ssize_t item = a.itemsize, M = ids.shape[0], n = out.shape[1], lda, ldo
    if M == 0 or n == 0:
        return
    lda, ldo = a.strides[0] // item, out.strides[0] // item
    cdef const char *rows = address_2d(a, item, False)
    cdef char *to = address_2d(out, item, True)
    cdef const rnn_kernels *k = kernels_for(a)
    with nogil:
        mode = rnn_flush_denormals()
        k.scatter_add(M, n, rows, lda, &ids[0], to, ldo)
        rnn_restore_denormals(mode)


cdef rnn_bag bag_of(const int64_t[::1] sentence, const int64_t[::1] start, const int64_t[::1] word, a, b, ramp):
    cdef rnn_bag s
    s.M, s.n = sentence.shape[0], len(ramp)
    s.sentence, s.start = &sentence[0] if s.M else NULL, &start[0]
    s.word = &word[0] if word.shape[0] else NULL
    s.a, s.b, s.ramp = address(a), address(b), address(ramp)
    return s


def bag(
    const int64_t[::1] sentence,       # (M,) which sentence each row of out is               in
    const int64_t[::1] start,          # (S+1,) the words of sentence s: start[s] .. start[s+1]   in
    const int64_t[::1] word,           # (W,) their rows in the table                         in
    a, b,                              # (W,) a word counts a + b * ramp                      in
    ramp,                              # (n,)                                                 in
    table,                             # (V, n)                                               in
    out,                               # (M, n)                                               +=
):
    """Sentences as weighted sums of the vectors of their words, each element one chain over the words."""
    cdef rnn_bag s = bag_of(sentence, start, word, a, b, ramp)
    cdef const rnn_kernels *k = kernels_for(out)
    cdef const char *rows = address(table)
    cdef char *to = address(out, True)
    with nogil:
        mode = rnn_flush_denormals()
        k.bag(&s, rows, to)
        rnn_restore_denormals(mode)


def bag_backward(
    const int64_t[::1] sentence, const int64_t[::1] start, const int64_t[::1] word, a, b, ramp,    # as in bag    in
    dout,                              # (M, n)                                               in
    dtable,                            # (V, n)                                               +=
):
    """What comes back through `bag`, sentence after sentence."""
    cdef rnn_bag s = bag_of(sentence, start, word, a, b, ramp)
    cdef const rnn_kernels *k = kernels_for(dout)
    cdef const char *rows = address(dout)
    cdef char *to = address(dtable, True)
    with nogil:
        mode = rnn_flush_denormals()
        k.bag_backward(&s, rows, to)
        rnn_restore_denormals(mode)


ctypedef struct Softmax:
    const rnn_kernels *kernels
    Py_ssize_t M, V, item
    const char *logits
    const int64_t *targets
    const char *weights
    double *nll
    char *dlogits


cdef void softmax_nll_part(void *arg, int part, int parts) noexcept nogil:
    cdef Softmax *s = <Softmax *>arg
    cdef Py_ssize_t m = s.M * part // parts, rows = s.M * (part + 1) // parts - m
    s.kernels.softmax_nll(rows, s.V, s.logits + m * s.V * s.item, s.targets + m,
                          s.weights + m * s.item if s.weights != NULL else NULL, s.nll + m,
                          s.dlogits + m * s.V * s.item if s.dlogits != NULL else NULL)


def softmax_nll(
    logits,                            # (M, V)                                               in
    const int64_t[::1] targets,        # (M,), negative: the row is ignored                   in
    weights,                           # (M,) or None: 1                                      in
    double[::1] nll,                   # (M,) weight * -log softmax[target]                   out
    dlogits,                           # (M, V) or None; may be logits                        out
):
    """Negative log-likelihood per row, and its gradient weight * (softmax - onehot)."""
    cdef Softmax s
    cdef int parts
    s.kernels = kernels_for(logits)
    s.M, s.V, s.item = targets.shape[0], logits.shape[1], logits.itemsize
    s.logits, s.weights, s.dlogits = address(logits), address(weights), address(dlogits, True)
    if s.M and s.V:
        s.targets, s.nll = &targets[0], &nll[0]
        parts = parts_for(s.M, 50.0 * s.M * s.V, current_threads())
        with nogil:
            rnn_team_run(softmax_nll_part, &s, parts, False)


def softmax(logits, out):
    """Rows of probabilities; out may be logits."""
    cdef Py_ssize_t M = logits.shape[0], V = logits.shape[1]
    cdef const char *x = address(logits)
    cdef char *to = address(out, True)
    cdef const rnn_kernels *k = kernels_for(logits)
    if M and V:
        with nogil:
            mode = rnn_flush_denormals()
            k.softmax(M, V, x, to)
            rnn_restore_denormals(mode)


def dropout(x, const uint64_t[::1] row_id, uint64_t key, double p):
    """x (M,n) *= keep / (1-p), decided by a hash of (key, row_id, unit)."""
    cdef Py_ssize_t item = x.itemsize, M = row_id.shape[0], n = x.shape[1], ldx = x.strides[0] // item
    if M == 0 or n == 0:
        return
    cdef char *to = address_2d(x, item, True)
    cdef const rnn_kernels *k = kernels_for(x)
    with nogil:
        k.dropout(M, n, to, ldx, &row_id[0], key, p)


# ---- attention ----------------------------------------------------------------------------------------------------

def attend(
    query,                             # (R, A), rows may be apart                            in
    keys, values,                      # (N, A), (N, M)                                       in
    const int64_t[::1] first, const int64_t[::1] count,  # (R,) row r's memory: first[r] .. first[r]+count[r]   in
    v,                                 # (A,) score v . tanh(query + key), or None: query . key   in
    bint softmax,                      # False: alpha are the scores
    alpha,                             # (R, S), S >= count                                   out
    context,                           # (R, M), rows may be apart                            out
):
    """Each row's weights over its own memory, and the weighted sum of its values."""
    cdef rnn_attend s
    cdef const rnn_kernels *k = kernels_for(alpha)
    if first.shape[0] == 0:
        return
    s = attention_of_arrays(query, keys, values, first, count, v, softmax, alpha, context, True)
    with nogil:
        mode = rnn_flush_denormals()
        k.attend(&s)
        rnn_restore_denormals(mode)


cdef rnn_attend attention_of_arrays(
    query, keys, values, const int64_t[::1] first, const int64_t[::1] count, v, bint softmax, alpha, context, bint write=False,
) except *:
    """The arguments of `attend` as the kernel has them; context may be its gradient. write: alpha and context are written."""
    cdef rnn_attend s
    cdef Py_ssize_t item = alpha.itemsize
    s.query = matrix(query, item, False, &s.rows, &s.A, &s.ldq)
    s.context = matrix(context, item, write, &s.rows, &s.M, &s.ldc)
    s.S, s.first, s.count, s.softmax = alpha.shape[1], &first[0], &count[0], softmax
    s.keys, s.values, s.v, s.alpha = address(keys), address(values), address(v), address(alpha, write)
    return s


def attend_backward(
    query, keys, values, const int64_t[::1] first, const int64_t[::1] count, v, bint softmax,    # as in attend       in
    alpha,                             # (R, S)                                               in
    dcontext,                          # (R, M), rows may be apart                            in
    dquery,                            # (R, A), rows may be apart                            out
    dkeys, dvalues,                    # (N, A), (N, M)                                       +=
    dv_rows,                           # (R, A) each row's part of dv, or None with v         +=
):
    """What comes back through `attend`."""
    cdef rnn_attend_backward s
    cdef const rnn_kernels *k = kernels_for(alpha)
    if first.shape[0] == 0:
        return
    dscore = np.empty_like(alpha)
    s.forward = attention_of_arrays(query, keys, values, first, count, v, softmax, alpha, dcontext)
    s.dcontext = s.forward.context
    s.dquery = matrix(dquery, alpha.itemsize, True, &s.forward.rows, &s.forward.A, &s.ldd)
    s.dscore, s.dkeys, s.dvalues, s.dv = address(dscore, True), address(dkeys, True), address(dvalues, True), address(dv_rows, True)
    with nogil:
        mode = rnn_flush_denormals()
        k.attend_backward(&s)
        rnn_restore_denormals(mode)


cdef class Decoder:
    """A decoder with attention, made ready: the layers and what stands over them. Arguments were checked by fastrnn._check_attention."""
    cdef Attention d
    cdef double row_flops
    cdef Py_ssize_t total
    cdef const int64_t *lengths
    cdef list held

    def __init__(
        self, list layers,                 # Forward of each, the top one writes into `joined`
        const int64_t[::1] first, const int64_t[::1] count,  # (B,) the memory of each row                 in
        keys, values, v, w_query, w_out, bias,               # as in attention.pxd                         in
        query, alpha, joined, a, feed,     # (rows, A) or None, (rows, S), (rows, M+H), (rows, F), the same or None   out
        double p, const uint64_t[::1] masks, const uint64_t[::1] row_id,     # dropout between layers, of a tape
    ):
        cdef Attention *d = &self.d
        cdef Forward layer = layers[0]
        cdef Py_ssize_t l
        room = np.zeros(len(layers), np.uintp)
        self.held = [layers, first, count, keys, values, v, w_query, w_out, bias, query, alpha, joined, a, feed, masks, row_id, room]
        d.layers = <const Sweep **>address(room, True)
        d.kernels, d.item, d.L, d.B, d.H, d.offset = layer.s.kernels, layer.s.item, len(layers), layer.s.B, layer.s.H, layer.s.offset
        d.A, d.M, d.F, d.S = keys.shape[1], values.shape[1], a.shape[1], alpha.shape[1]
        if d.B:
            d.first, d.count = &first[0], &count[0]
        d.keys, d.values, d.v, d.w_query = address(keys), address(values), address(v), address(w_query)
        d.w_out, d.bias = address(w_out), address(bias)
        d.query, d.alpha, d.joined = address(query, True), address(alpha, True), address(joined, True)
        d.a, d.feed = address(a, True), address(feed, True)
        d.p = p
        if p and row_id.shape[0]:
            d.masks, d.row_id = &masks[0], &row_id[0]
        self.lengths, self.total, self.row_flops = layer.lengths, layer.total, 2.0 * (d.F * (d.M + d.H) + d.A * d.H + 8 * d.S * (d.A + d.M))
        for l in range(d.L):
            layer = layers[l]
            d.layers[l] = &layer.s
            self.row_flops += layer.row_flops + 2.0 * layer.s.blocks * layer.s.H * layer.s.F

    cdef int split(self, Attention *d) except -1:
        """Into how many parts the rows are divided."""
        cdef int parts = parts_for(d.B, self.row_flops * self.total, current_threads())
        cut_rows(d.cuts, parts, d.B, self.lengths, self.total)
        return parts

    def forward(self):
        """All steps, in slices after which signals are looked at."""
        cdef Attention *d = &self.d
        cdef Py_ssize_t T = d.layers[0].T, step
        cdef int parts
        if self.total == 0:
            return
        parts = self.split(d)
        step = slice_steps(1, T, self.row_flops * self.total / parts)
        d.t0 = 0
        while d.t0 < T:
            d.t1 = min(T, d.t0 + step)
            with nogil:
                rnn_team_run(decode_part, d, parts, False)
            d.t0 = d.t1
            PyErr_CheckSignals()

    def backward(
        self, list layers,                 # Bptt of each
        list w_below,                      # packed: for dgates @ W_ih of each layer, that of the feed for the first one         in
        da,                                # (rows, F)  in: gradient of a; out: before its tanh
        w_out, w_query,                    # packed for the way back                                      in
        dquery,                            # (rows, A)                                                    out
        dkeys, dvalues,                    # like keys, values; one array if the keys are the values      +=
        dv,                                # (B, A) or None                                               +=
        djoined, dbelow, dscore,           # (B, M+H), (B, H), (B, S) scratch
    ):
        """BPTT through all steps, then the products of each layer's dgates. Nothing of the forward pass changes: several may run at a time."""
        cdef AttentionBackward g
        cdef Attention d = self.d
        cdef Py_ssize_t T = d.layers[0].T, l, step
        cdef Bptt layer
        cdef int parts
        if self.total == 0:
            return
        parts = self.split(&d)
        room = np.zeros(2 * d.L, np.uintp)
        g.layers = <const SweepBackward **>address(room, True)
        g.w_below = <const char **>(g.layers + d.L)
        g.forward, g.x_blocks = &d, d.layers[0].x_blocks
        for l in range(d.L):
            layer = layers[l]
            layer.chunk(0, 1)
            g.layers[l], g.w_below[l] = &layer.s, address(w_below[l])
        g.da, g.w_out, g.w_query, g.dquery = address(da, True), address(w_out), address(w_query), address(dquery, True)
        g.dkeys, g.dvalues, g.dv = address(dkeys, True), address(dvalues, True), address(dv, True)
        g.djoined, g.dbelow, g.dscore = address(djoined, True), address(dbelow, True), address(dscore, True)
        step = slice_steps(1, T, 2 * self.row_flops * self.total / parts)
        d.t1 = T
        while d.t1 > 0:
            d.t0 = max(0, d.t1 - step)
            with nogil:
                rnn_team_run(decode_backward_part, &g, parts, False)
            d.t1 = d.t0
            PyErr_CheckSignals()
        for layer in layers:
            layer.chunk_products(parts > 1)


most_hypotheses = MOST_HYPOTHESES


cdef class Writer:
    """A decoder that writes N sequences, K hypotheses each, made ready. Arguments were checked by fastrnn.search."""
    cdef Search s
    cdef double row_flops
    cdef Py_ssize_t steps
    cdef list held
    cdef object spare

    def __init__(
        self, list layers,                 # Forward of each: one step of N*K rows
        Decoder attention,                 # of N*K rows, or None
        out,                               # (N*K, F) what a step gives                                   in
        w, bias,                           # packed (V, F), (V,) or None                                  in
        logits, swap,                      # (N*K, V), (N*K, Hp) scratch
        int64_t[::1] ids,                  # (N*K,)  in: the first symbols
        int64_t end, const int64_t[::1] limits,                  # (N,)                                   in
        given,                             # (T, N) int64 or None                                         in
        double temperature, uint64_t key, const uint64_t[::1] row_id,                # (N,)               in
        double[::1] score,                 # (N*K,) in: 0 for the first hypothesis of each, else -inf
        int64_t[:, ::1] symbols, int64_t[:, ::1] parents,        # (T, N*K)                               out
        int64_t[::1] count,                # (N,) zeros
        int64_t[:, ::1] last, int64_t[:, ::1] parent, int64_t[:, ::1] ended, double[:, ::1] total,   # (N, K)   out
    ):
        cdef Search *s = &self.s
        cdef Forward layer = layers[0]
        cdef Py_ssize_t l
        room = np.zeros(len(layers), np.uintp)
        self.held = [layers, attention, out, w, bias, logits, swap, ids, limits, given, row_id, score, symbols, parents, count, last, parent,
                     ended, total, room]
        s.layers = <const Sweep **>address(room, True)
        s.kernels, s.item, s.L = layer.s.kernels, layer.s.item, len(layers)
        s.N, s.K, s.F, s.V = last.shape[0], last.shape[1], out.shape[1], logits.shape[1]
        self.row_flops = 2.0 * s.F * s.V
        for l in range(s.L):
            layer = layers[l]
            s.layers[l] = &layer.s
            self.row_flops += layer.row_flops
        s.attention = NULL
        if attention is not None:
            s.attention = &attention.d
            self.row_flops += attention.row_flops
        s.out, s.w, s.bias, s.logits, s.swap = address(out), address(w), address(bias), address(logits, True), address(swap, True)
        s.ids, s.end, s.limits, s.given = &ids[0], end, &limits[0], <const int64_t *>address(given)
        s.temperature, s.key, s.row_id = temperature, key, &row_id[0]
        s.score, s.symbols, s.parents, s.count = &score[0], &symbols[0, 0], &parents[0, 0], &count[0]
        s.last, s.parent, s.ended, s.total = &last[0, 0], &parent[0, 0], &ended[0, 0], &total[0, 0]
        self.steps = symbols.shape[0]
        self.spare = np.empty((MOST_PARTS, s.V), logits.dtype) if temperature > 0 else None
        s.spare = address(self.spare, True)

    def run(self):
        """Until all sequences are done, in slices after which signals are looked at."""
        cdef Search *s = &self.s
        cdef Py_ssize_t step
        cdef double flops = self.row_flops * s.N * s.K
        cdef int parts = min(parts_for(s.N * s.K, flops * self.steps, current_threads()), s.N)
        cut_rows(s.cuts, parts, s.N, NULL, s.N)
        step = slice_steps(1, self.steps, flops * self.steps / parts)
        s.t0 = 0
        while s.t0 < self.steps:
            s.t1 = min(self.steps, s.t0 + step)
            with nogil:
                rnn_team_run(search_part, s, parts, False)
            s.t0 = s.t1
            PyErr_CheckSignals()


def log_sum_exp(logits, double[::1] out):
    """out (M,) = log of the sum of exp of each row of logits (M, V), V >= 1."""
    cdef const char *x = address(logits)
    cdef const rnn_kernels *k = kernels_for(logits)
    cdef Py_ssize_t m, V = logits.shape[1], item = logits.itemsize
    for m in range(out.shape[0]):
        out[m] = k.log_sum_exp(V, x + m * V * item)


def greatest(x, int64_t[::1] ids):
    """ids (K,) of the K <= V greatest of x (V,), the greatest first, of equal ones the first; -1 where there are only NaNs left."""
    cdef const char *a = address(x)
    if ids.shape[0]:
        kernels_for(x).greatest(len(x), a, ids.shape[0], &ids[0])


def draw(x, double temperature, double u):
    """An id drawn with probability softmax(x / temperature), by 0 <= u < 1; x (V,) is overwritten."""
    return kernels_for(x).draw(len(x), address(x, True), temperature, u)


# ---- optimisers: p, g and the moments are flat arrays of one length -----------------------------------------------

def sum_of_squares(g):
    """Sum of squares in float64, in an order that depends on the length only."""
    cdef const char *a = address(g)
    cdef const rnn_kernels *k = kernels_for(g)
    cdef Py_ssize_t n = len(g)
    cdef double total = 0
    with nogil:
        if n:
            total = k.sum_of_squares(n, a)
    return total


def clip_value(g, double limit):
    """g = min(max(g, -limit), limit); NaN stays NaN."""
    cdef char *a = address(g, True)
    cdef const rnn_kernels *k = kernels_for(g)
    cdef Py_ssize_t n = len(g)
    with nogil:
        k.clip_value(n, a, limit)


def sgd(p, g, v, double lr, double momentum, double weight_decay, bint nesterov, double scale):
    """v is None without momentum."""
    cdef char *pp = address(p, True)
    cdef const char *pg = address(g)
    cdef char *pv = address(v, True)
    cdef const rnn_kernels *k = kernels_for(g)
    cdef Py_ssize_t n = len(p)
    with nogil:
        mode = rnn_flush_denormals()
        k.sgd(n, pp, pg, pv, lr, momentum, weight_decay, nesterov, scale)
        rnn_restore_denormals(mode)


def rmsprop(p, g, s, double lr, double alpha, double eps, double weight_decay, double scale):
    cdef char *pp = address(p, True)
    cdef const char *pg = address(g)
    cdef char *ps = address(s, True)
    cdef const rnn_kernels *k = kernels_for(g)
    cdef Py_ssize_t n = len(p)
    with nogil:
        mode = rnn_flush_denormals()
        k.rmsprop(n, pp, pg, ps, lr, alpha, eps, weight_decay, scale)
        rnn_restore_denormals(mode)


def adagrad(p, g, s, double lr, double eps, double weight_decay, double scale):
    cdef char *pp = address(p, True)
    cdef const char *pg = address(g)
    cdef char *ps = address(s, True)
    cdef const rnn_kernels *k = kernels_for(g)
    cdef Py_ssize_t n = len(p)
    with nogil:
        mode = rnn_flush_denormals()
        k.adagrad(n, pp, pg, ps, lr, eps, weight_decay, scale)
        rnn_restore_denormals(mode)


def adam(p, g, m, v, double lr, double beta1, double beta2, double eps, double weight_decay, bint decoupled, int64_t step,
         double scale):
    """step counts from 1; decoupled is AdamW."""
    cdef char *pp = address(p, True)
    cdef const char *pg = address(g)
    cdef char *pm = address(m, True)
    cdef char *pv = address(v, True)
    cdef const rnn_kernels *k = kernels_for(g)
    cdef Py_ssize_t n = len(p)
    with nogil:
        mode = rnn_flush_denormals()
        k.adam(n, pp, pg, pm, pv, lr, beta1, beta2, eps, weight_decay, decoupled, step, scale)
        rnn_restore_denormals(mode)


# ---- limits of the core, for benchmarks: float32 ------------------------------------------------------------------

def fma_loop(Py_ssize_t n):
    """24 n * vector_lanes(False) floating-point operations that wait for nothing."""
    cdef double total
    with nogil:
        total = table[0].fma_loop(n)
    return total


def read_loop(const float[::1] a, Py_ssize_t times):
    """Read a (n,) `times` times over; n a multiple of 12 vectors."""
    cdef double total
    cdef Py_ssize_t n = a.shape[0]
    with nogil:
        total = table[0].read_loop(times, n, &a[0])
    return total


set_isa(os.environ.get("FASTRNN_ISA") or available_isas()[0])

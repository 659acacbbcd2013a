"""What exists once in a process: the kernels in use, the BLAS, the threads; and products of matrices.

The other extensions of this package cimport from here, and reach the thread team through the table `process_table`.
"""
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t

from blas cimport GRID, gemm_is_ours, gemm_part, gemm_tiles
from buffers cimport address, address_2d
from kernels cimport *
from recurrence cimport CHUNK_BYTES, CHUNK_STEPS
from search cimport MAX_HYPOTHESES
from threads cimport (
    AT_HAND_US, AWAKE_DISCOUNT, MAX_PARTS, OWN_CACHE, SLICE_FLOPS, SPLIT_FLOPS, SPLIT_ROWS, STEP_GFLOPS,
    STREAM_ALONE_FLOPS, WAVE_FLOPS, WAVE_STEPS, parts_for,
)

import os
import threading

import numpy as np

cdef int isa_index = 0
cdef const rnn_kernels *table[2]
cdef int64_t blas_asked = 0             # whether a BLAS was looked for, and bound if there is one
blas_lock = threading.Lock()
cdef int64_t default_threads = 1
local = threading.local()


cdef const rnn_kernels *kernels_of(bint is_double) noexcept nogil:
    """The kernels of float64 or float32."""
    return table[is_double]


cdef const rnn_kernels *kernels_for(array) except NULL:
    """The kernels of an array's dtype: float32 or float64."""
    return table[<int>(array.itemsize == 8)]


cdef const rnn_process *process_table() noexcept nogil:
    """The functions whose state exists once in a process."""
    return &rnn_own_process


# ---- configuration of the process ---------------------------------------------------------------------------------

def meeting_seconds():
    """What a meeting of two threads costs on this machine; 1 if there is no second core."""
    return rnn_team_barrier_seconds()


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
    folder = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "_lib")
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
    ask_blas()
    name = rnn_blas_core()
    return name.decode() if name != NULL else None


def alone():
    """(seconds that calls go alone from now on, how often threads waited for one that was held up): 0.0 where they are divided."""
    return 1e-9 * rnn_split_paused_ns(), rnn_split_failures()


def force_leave(int64_t meeting):
    """Let the caller go on alone from this meeting of threads on in each call, for tests; 0: where a thread is held up."""
    rnn_team_force_leave(meeting)


def thresholds():
    """The sizes at which the core takes another path, by name; tests draw sizes on both sides of each."""
    return {
        "AT_HAND_US": AT_HAND_US, "AWAKE_DISCOUNT": AWAKE_DISCOUNT, "CHUNK_BYTES": CHUNK_BYTES, "CHUNK_STEPS": CHUNK_STEPS,
        "GEMM_TERMS": table[0].gemm_terms, "GRID": GRID, "MAX_HYPOTHESES": MAX_HYPOTHESES, "MAX_PARTS": MAX_PARTS,
        "OWN_CACHE": OWN_CACHE, "SLICE_FLOPS": SLICE_FLOPS,
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


cdef int call_threads() except -1:
    """Threads that a call from this thread may use."""
    return getattr(local, "threads", None) or <int>rnn_seen(&default_threads)


def current_threads():
    """Threads that a call from this thread may use."""
    return call_threads()


cdef int ask_blas() except -1:
    """Bind the BLAS if that was not tried yet."""
    if not rnn_seen(&blas_asked):
        open_blas()
    return 0


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
    parts = parts_for(M, 2.0 * M * N * K, call_threads())
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
    ask_blas()
    g.K = min(block, K)
    if 2.0 * g.M * g.N * K * (AWAKE_DISCOUNT if awake else 1) >= SPLIT_FLOPS and not rnn_split_paused():
        parts = max(1, min(call_threads(), g.M // 32 if gemm_is_ours(g) else tiles, MAX_PARTS))
    for k in range(0, K, block):
        gemm_terms(g, a, b, k, min(block, K - k))
        step = max(parts, <Py_ssize_t>(<double>SLICE_FLOPS / (512.0 * g.N * g.K)) * parts)
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
    return max(1024, <Py_ssize_t>(<double>SLICE_FLOPS / (512.0 * N)))


cdef inline void gemm_terms(Gemm *g, const char *a, const char *b, Py_ssize_t k, Py_ssize_t K) noexcept nogil:
    """Go to terms k .. k+K."""
    cdef Py_ssize_t item = 8 if g.kernels.is_double else 4
    g.K = K
    g.a = a + k * item * (g.lda if g.trans_a else 1)
    g.b = b + k * item * (1 if g.trans_b else g.ldb)


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

"""State that exists once in a process: the kernels in use, the BLAS, the threads. Matrix products.

The other extensions of this package cimport from here, and call the thread team through the table `process_table`.
"""
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t

from blas cimport GRID, gemm_is_ours, gemm_part, gemm_rows, gemm_tiles
from buffers cimport address, address_2d
from fastrnn._engine.plan cimport Op, perform, recorder
from kernels cimport *
from recurrence cimport CHUNK_BYTES, CHUNK_STEPS
from search cimport MAX_HYPOTHESES
from threads cimport (
    AWAKE_DISCOUNT, AWAKE_US, MAX_PARTS, OWN_CACHE, SLICE_FLOPS, SPLIT_FLOPS, SPLIT_ROWS, STEP_GFLOPS,
    STREAM_SERIAL_FLOPS, TOGETHER_ROWS, WAVE_FLOPS, WAVE_STEPS, parts_for,
)

import os
import threading

import numpy as np

cdef int isa_index = 0
cdef const rnn_kernels *table[2]
cdef int64_t blas_asked = 0             # whether a BLAS was searched for
blas_lock = threading.Lock()
cdef int64_t default_threads = 1
local = threading.local()
cdef int64_t local_numbers = 0          # whether a thread has ever set its own number


cdef const rnn_kernels *kernels_for(array) except NULL:
    """The kernels of an array's dtype: float32 or float64."""
    return table[<int>(array.itemsize == 8)]


cdef const rnn_process *process_table() noexcept nogil:
    """The functions whose state exists once in a process."""
    return &rnn_own_process


# ---- configuration of the process ---------------------------------------------------------------------------------

def available_isas():
    """Names of the instruction sets that this CPU can run, best first."""
    return [rnn_isa_name(i).decode() for i in range(rnn_isa_count())]


def set_isa(str name):
    """Use the kernels of this instruction set from now on. Weights packed for another one are repacked."""
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
    """Load the BLAS for weight gradients: $FASTRNN_BLAS (a path, or "builtin"), else the private copy, if there is one.

    A path, or a second call, is for tests: no other call may run at the same time.
    """
    with blas_lock:
        if path is not None or not rnn_seen(&blas_asked):   # otherwise another thread has just loaded it
            bind_blas(path)
            rnn_announce(&blas_asked, 1)


def bind_blas(path):
    cdef char message[512]
    rnn_blas_close()
    asked = path or os.environ.get("FASTRNN_BLAS", "")
    if asked == "builtin":
        return
    folder = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "_lib")
    names = os.listdir(folder) if os.path.isdir(folder) else []
    found = [asked] if asked else [os.path.join(folder, name) for name in names if name.startswith("fastrnn_blas")]
    cdef int failed = rnn_blas_open(os.fsencode(found[0]), message, sizeof(message)) if found else 0
    if failed == -2:
        raise MemoryError(f"not enough memory to load {found[0]}")
    if failed:
        raise RuntimeError(
            f"FASTRNN_BLAS={found[0]} cannot be loaded: {message.decode(errors='replace')}; "
            "FASTRNN_BLAS=builtin uses the built-in matrix product instead"
        )


def renew_blas_lock():
    """In the child of a fork, replace the lock: a thread that does not exist here may hold it."""
    global blas_lock
    blas_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=renew_blas_lock)


def blas_core():
    """Name of the BLAS core in use, or None if the built-in product is used."""
    ask_blas()
    name = rnn_blas_core()
    return name.decode() if name != NULL else None


def threads_paused():
    """(seconds for which calls still use one thread, number of failures so far); 0.0 if calls are divided."""
    return 1e-9 * rnn_split_paused_ns(), rnn_split_failures()


def force_leave(int64_t barrier):
    """Make the caller continue alone from this barrier of each call, for tests; 0: only after a delay."""
    rnn_team_force_leave(barrier)


def thresholds():
    """The sizes at which the engine changes its method, by name. Tests choose sizes on both sides of each."""
    return {
        "AWAKE_DISCOUNT": AWAKE_DISCOUNT, "AWAKE_US": AWAKE_US, "CHUNK_BYTES": CHUNK_BYTES, "CHUNK_STEPS": CHUNK_STEPS,
        "GEMM_TERMS": table[0].gemm_terms, "GRID": GRID, "MAX_HYPOTHESES": MAX_HYPOTHESES, "MAX_PARTS": MAX_PARTS,
        "OWN_CACHE": OWN_CACHE, "SLICE_FLOPS": SLICE_FLOPS, "SPLIT_FLOPS": SPLIT_FLOPS, "SPLIT_ROWS": SPLIT_ROWS,
        "STEP_GFLOPS": STEP_GFLOPS, "STREAM_SERIAL_FLOPS": STREAM_SERIAL_FLOPS, "TOGETHER_ROWS": TOGETHER_ROWS,
        "WAVE_FLOPS": WAVE_FLOPS, "WAVE_STEPS": WAVE_STEPS,
    }


def set_default_threads(int n):
    """Set the number of threads of calls from threads without a number of their own."""
    rnn_announce(&default_threads, n)


def set_local_threads(n):
    """Set the number of threads of calls from this thread; None: the default. Return the previous value."""
    before = getattr(local, "threads", None)
    local.threads = n
    rnn_announce(&local_numbers, 1)
    return before


cdef int call_threads() except -1:
    """Number of threads that a call from this thread may use."""
    cdef object own = getattr(local, "threads", None) if rnn_seen(&local_numbers) else None
    return own or <int>rnn_seen(&default_threads)


def current_threads():
    """Number of threads that a call from this thread may use."""
    return call_threads()


cdef int ask_blas() except -1:
    """Load the BLAS if that was not tried yet."""
    if not rnn_seen(&blas_asked):
        open_blas()
    return 0


def aligned_empty(Py_ssize_t size, dtype):
    """An uninitialised 1-D array, aligned to a cache line."""
    owner = recorder()
    if owner is not None:
        return owner.empty(size, dtype)
    dtype = np.dtype(dtype)
    cdef Py_ssize_t spare = 64 // dtype.itemsize
    raw = np.empty(size + spare, dtype)
    cdef Py_ssize_t skip = (-raw.ctypes.data % 64) // dtype.itemsize
    return raw[skip : skip + size]


# ---- the table of cells -------------------------------------------------------------------------------------------

def cell_traits(int code):
    """A row of the table of cells (src/cells.c), as a dict."""
    cdef const rnn_cell_traits *c = &rnn_cells[code]
    return {
        "code": code, "gates": c.gates, "blocks": c.blocks,
        "x_block": tuple([c.x_block[g] for g in range(c.gates)]),
        "h_block": tuple([c.h_block[g] for g in range(c.gates)]),
        "interleaved": c.interleaved, "rh_block": None if c.rh_block < 0 else c.rh_block, "has_c": bool(c.has_c),
    }


CELLS = {rnn_cells[code].name.decode(): cell_traits(code) for code in range(RNN_CELLS)}
ACTIVATIONS = {rnn_function_names[kind].decode(): kind for kind in range(FUNCTIONS)}
PANEL = RNN_PANEL                          # vectors in a panel of packed weights


# ---- products -----------------------------------------------------------------------------------------------------

cdef void product_part(void *arg, int part, int parts) noexcept nogil:
    cdef Product *job = <Product *>arg
    cdef rnn_product p = job.p
    cdef Py_ssize_t first = job.M * part // parts, count = job.M * (part + 1) // parts - first
    p.first = &first
    p.count = &count
    if count:
        job.kernels.product(&p)


cdef class ProductOp(Op):
    cdef Product job
    cdef const Py_ssize_t *count       # the number of rows, if it differs from run to run; else NULL

    cdef int run(self) except -1:
        if self.count != NULL:
            self.job.M = self.count[0]
        cdef double flops = 2.0 * self.job.M * self.job.p.N * self.job.p.K
        cdef int parts = parts_for(self.job.M, flops, call_threads())
        with nogil:
            rnn_team_run(product_part, &self.job, parts, False)
        return 0


def product(
    x,                                 # (M, K), any row stride        in
    packed,                            # (N, K), packed in panels      in
    bias,                              # (N,) or None                  in
    y,                                 # (M, N)                        out
    bint accumulate=False,             # start from y instead of 0
    const Py_ssize_t[::1] ends=None,   # its last element is the number of rows, in a plan         in
):
    """y = x @ w.T + bias. Each element is one chain over k, so the bits of a row do not depend on the other rows."""
    cdef ProductOp op = ProductOp.__new__(ProductOp)
    cdef rnn_product *p = &op.job.p
    cdef Py_ssize_t item = y.itemsize
    op.job.M, p.N, p.K = y.shape[0], y.shape[1], x.shape[1]
    if op.job.M == 0 or p.N == 0:
        return
    op.job.kernels = kernels_for(y)
    p.groups, p.lda, p.ldc, p.accumulate, p.flip, p.v0, p.v1 = 1, x.strides[0] // item, p.N, accumulate, False, 0, 0
    p.a = address_2d(x, item, False) if p.K else NULL
    p.w, p.bias, p.c = address(packed), address(bias), address(y, True)
    op.count = &ends[ends.shape[0] - 1] if ends is not None else NULL
    op.held = x, packed, bias, y, ends
    perform(op)


cdef class GemmOp(Op):
    cdef Gemm g
    cdef const char *a
    cdef const char *b
    cdef Py_ssize_t K
    cdef const Py_ssize_t *count       # the number of terms, if it differs from run to run; else NULL

    cdef int run(self) except -1:
        return multiply(&self.g, self.a, self.b, self.K if self.count == NULL else self.count[0], False)


def gemm(bint trans_a, bint trans_b, a, b, c, const Py_ssize_t[::1] ends=None):
    """c += op(a) @ op(b), of 2-D arrays with contiguous rows. The grid of tiles depends on the shapes only.

    ends: its last element is the number of terms, in a plan.
    """
    cdef GemmOp op = GemmOp.__new__(GemmOp)
    cdef Gemm *g = &op.g
    cdef Py_ssize_t item = c.itemsize
    g.kernels, g.trans_a, g.trans_b = kernels_for(c), trans_a, trans_b
    g.M, g.N = c.shape
    op.K = a.shape[0] if trans_a else a.shape[1]
    if g.M == 0 or g.N == 0 or op.K == 0:
        return
    g.lda, g.ldb, g.ldc = a.strides[0] // item, b.strides[0] // item, c.strides[0] // item
    g.c, op.a, op.b = address_2d(c, item, True), address_2d(a, item, False), address_2d(b, item, False)
    op.count = &ends[ends.shape[0] - 1] if ends is not None else NULL
    op.held = a, b, c, ends
    perform(op)


cdef int multiply(Gemm *g, const char *a, const char *b, Py_ssize_t K, bint awake) except -1:
    """g.c += op(a) @ op(b) over K terms, in slices, with a check for signals after each.

    awake : the other threads are still spinning
    """
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


cdef void multiply_serial(Gemm *g, const char *a, const char *b, Py_ssize_t K) noexcept nogil:
    """As `multiply`, on this thread, without checks for signals."""
    cdef Py_ssize_t block = gemm_block(g.N), k = 0
    g.first, g.last = 0, gemm_tiles(g.M)
    while k < K:
        gemm_terms(g, a, b, k, min(block, K - k))
        gemm_part(g, 0, 1)
        k += block


cdef Py_ssize_t multiply_pieces(const Gemm *g) noexcept nogil:
    """Pieces of g.c that threads may compute at the same time: tiles with BLAS, fewer rows without it."""
    return max(1, g.M // 64) if gemm_is_ours(g) else gemm_tiles(g.M)


cdef void multiply_piece(const Gemm *g, Py_ssize_t piece, Py_ssize_t pieces) noexcept nogil:
    gemm_rows(g, g.M * piece // pieces, g.M * (piece + 1) // pieces)


cdef inline Py_ssize_t gemm_block(Py_ssize_t N) noexcept nogil:
    """Terms of one slice; they depend on the shape only."""
    return max(1024, <Py_ssize_t>(<double>SLICE_FLOPS / (512.0 * N)))


cdef inline void gemm_terms(Gemm *g, const char *a, const char *b, Py_ssize_t k, Py_ssize_t K) noexcept nogil:
    """Select terms k .. k+K."""
    cdef Py_ssize_t item = 8 if g.kernels.is_double else 4
    g.K = K
    g.a = a + k * item * (g.lda if g.trans_a else 1)
    g.b = b + k * item * (1 if g.trans_b else g.ldb)


# ---- limits of a core, for benchmarks, in float32 -----------------------------------------------------------------

def fma_loop(Py_ssize_t n, bint one_chain=False):
    """24 n * vector_lanes(False) independent floating-point operations, or n multiply-adds that wait for each other."""
    cdef double total
    with nogil:
        total = table[0].fma_loop(n, one_chain)
    return total


def read_loop(const float[::1] a, Py_ssize_t times):
    """Read a (n,) `times` times; n must be a multiple of 12 vectors."""
    cdef double total
    cdef Py_ssize_t n = a.shape[0]
    with nogil:
        total = table[0].read_loop(times, n, &a[0])
    return total


set_isa(os.environ.get("FASTRNN_ISA") or available_isas()[0])

"""Products of weight gradients on a grid of tiles that depends on the shape only, not on the number of threads."""
from kernels cimport rnn_blas_core, rnn_blas_gemm, rnn_kernels

cdef enum:
    GRID = 256            # rows of a tile of c; neither its columns nor k are divided

ctypedef struct Gemm:
    const rnn_kernels *kernels
    bint trans_a, trans_b
    Py_ssize_t M, N, K
    const char *a
    Py_ssize_t lda
    const char *b
    Py_ssize_t ldb
    char *c
    Py_ssize_t ldc
    Py_ssize_t first, last            # tiles to compute

cdef inline Py_ssize_t gemm_tiles(Py_ssize_t M) noexcept nogil:
    return (M + GRID - 1) // GRID

cdef inline bint gemm_is_ours(const Gemm *g) noexcept nogil:
    """Whether the built-in product is used: each element is then one chain, and rows may be divided anywhere."""
    return g.K <= g.kernels.gemm_terms or rnn_blas_core() == NULL

cdef inline void gemm_rows(const Gemm *g, Py_ssize_t m, Py_ssize_t end) noexcept nogil:
    """Rows m..end of c (M,N) += op(a) (M,K) @ op(b) (K,N)."""
    cdef Py_ssize_t item = 8 if g.kernels.is_double else 4
    cdef const char *a = g.a + m * item * (1 if g.trans_a else g.lda)
    cdef char *c = g.c + m * item * g.ldc
    if m == end:
        return
    if gemm_is_ours(g):
        g.kernels.gemm(g.trans_a, g.trans_b, end - m, g.N, g.K, a, g.lda, g.b, g.ldb, c, g.ldc)
    else:
        rnn_blas_gemm(g.kernels.is_double, g.trans_a, g.trans_b, end - m, g.N, g.K, a, g.lda, g.b, g.ldb, c, g.ldc)

cdef inline void gemm_part(void *arg, int part, int parts) noexcept nogil:
    """This thread's part: a range of rows with the built-in product, every parts-th tile with BLAS."""
    cdef Gemm *g = <Gemm *>arg
    cdef Py_ssize_t tiles = gemm_tiles(g.M), low = g.M * g.first // tiles, high = g.M * g.last // tiles
    cdef Py_ssize_t tile = g.first + part
    if gemm_is_ours(g):
        gemm_rows(g, low + (high - low) * part // parts, low + (high - low) * (part + 1) // parts)
        return
    while tile < g.last:
        gemm_rows(g, g.M * tile // tiles, g.M * (tile + 1) // tiles)
        tile += parts

"""Products of weight gradients, on a grid of tiles that depends on the shape only: the same bits for any number of threads."""
from kernels cimport rnn_blas_gemm, rnn_kernels, rnn_team_run

cdef enum:
    GRID = 256            # rows of a tile of c; its columns are not split, nor is k

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

cdef inline void gemm_part(void *arg, int part, int parts) noexcept nogil:
    """Every parts-th tile: c (M,N) += op(a) (M,K) @ op(b) (K,N)."""
    cdef Gemm *g = <Gemm *>arg
    cdef Py_ssize_t item = 8 if g.kernels.is_double else 4
    cdef Py_ssize_t tiles = gemm_tiles(g.M), tile, m, rows
    cdef const char *a
    cdef char *c
    tile = g.first + part
    while tile < g.last:
        m = g.M * tile // tiles
        rows = g.M * (tile + 1) // tiles - m
        a = g.a + m * item * (1 if g.trans_a else g.lda)
        c = g.c + m * item * g.ldc
        if g.K <= g.kernels.gemm_terms or not rnn_blas_gemm(
                g.kernels.is_double, g.trans_a, g.trans_b, rows, g.N, g.K, a, g.lda, g.b, g.ldb, c, g.ldc):
            g.kernels.gemm(g.trans_a, g.trans_b, rows, g.N, g.K, a, g.lda, g.b, g.ldb, c, g.ldc)
        tile += parts

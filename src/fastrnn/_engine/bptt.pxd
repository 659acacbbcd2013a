"""One layer in one direction, prepared for the backward pass."""
from libc.stdint cimport int64_t
from blas cimport Gemm
from fastrnn._engine.core cimport Product
from fastrnn._engine.plan cimport Op
from fastrnn._engine.sweep cimport Split
from recurrence_backward cimport SweepBackward

cdef enum:
    MAX_GEMMS = 16
    MAX_DX_PIECES = 16

cdef class Bptt(Op):
    cdef SweepBackward s
    cdef Split split
    cdef Gemm gemms[MAX_GEMMS]
    cdef const char *left[MAX_GEMMS]
    cdef const char *right[MAX_GEMMS]
    cdef Product dx
    cdef const int64_t *ids[2]
    cdef char *sums[2]
    cdef int gemm_count, sum_count
    cdef Py_ssize_t width, ld                     # columns of dgates with an input part; all columns
    cdef char *dgates
    cdef char *bias_sums
    cdef const int64_t *lengths
    cdef Py_ssize_t row, rows                     # first row and number of rows of the chunk
    cdef Py_ssize_t chunks
    cdef void chunk(self, Py_ssize_t i, Py_ssize_t count) noexcept nogil
    cdef double flops_per_row(self)
    cdef int chunk_dgates(self) except -1
    cdef int chunk_products(self, bint awake) except -1
    cdef void products_together(self, bint awake) except *
    cdef void piece(self, int64_t index) noexcept nogil
    cdef int dx_pieces(self) noexcept nogil
    cdef void chunk_sums(self) noexcept nogil
    cdef const char *right_rows(self, int i) noexcept nogil
    cdef Product chunk_dx(self) noexcept nogil
    cdef void chunk_serial(self) noexcept nogil

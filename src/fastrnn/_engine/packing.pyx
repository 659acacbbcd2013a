"""Weights in the order in which the kernels read them."""
from libc.stdint cimport int64_t

from buffers cimport address
from fastrnn._engine.core cimport kernels_for
from fastrnn._engine.plan cimport Op, perform
from kernels cimport RNN_PANEL, rnn_kernels

import functools

import numpy as np

from fastrnn._engine.core import aligned_empty


cdef class Packing(Op):
    cdef const rnn_kernels *kernels
    cdef Py_ssize_t vectors, K, stride_n, stride_k
    cdef int panel
    cdef const int64_t *column
    cdef const int64_t *row
    cdef const char *source
    cdef char *to

    cdef int run(self) except -1:
        with nogil:
            self.kernels.pack(self.vectors, self.panel, self.column, self.K, self.row, self.source, self.stride_n,
                              self.stride_k, self.to)
        return 0


def pack_columns(
    src,                               # weights, read at column[n]*stride_n + row[k]*stride_k       in
    const int64_t[::1] column,         # (vectors*VL,) source index of each column; negative: zeros  in
    const int64_t[::1] row,            # (K,) source index of each k; negative: zeros                in
    Py_ssize_t stride_n, Py_ssize_t stride_k,
    int panel,                         # vectors in a panel
    dst,                               # (vectors*VL*K,)                                             out
):
    """Copy weights in the order in which the kernels read them."""
    cdef Packing op = Packing.__new__(Packing)
    op.kernels = kernels_for(dst)
    op.vectors, op.K = column.shape[0] // op.kernels.lanes, row.shape[0]
    if op.vectors == 0 or op.K == 0:
        return
    op.column, op.row, op.source, op.to = &column[0], &row[0], address(src), address(dst, True)
    op.stride_n, op.stride_k, op.panel = stride_n, stride_k, panel
    op.held = src, column, row, dst
    perform(op)


@functools.lru_cache(maxsize=256)
def pack_index(Py_ssize_t N, Py_ssize_t K, Py_ssize_t lanes):
    """The source index of each packed column, and of each k."""
    column = np.full((N + lanes - 1) // lanes * lanes, -1, np.int64)
    column[:N] = np.arange(N)
    return column, np.arange(K)


def pack(w, bint transposed=False):
    """Weights (N, K) of y = x @ w.T, packed for `product`. transposed: w is (K, N), for y = x @ w."""
    N, K = reversed(w.shape) if transposed else w.shape
    column, row = pack_index(N, K, kernels_for(w).lanes)
    packed = aligned_empty(len(column) * K, w.dtype)
    strides = (1, N) if transposed else (K, 1)
    pack_columns(np.ascontiguousarray(w), column, row, *strides, RNN_PANEL, packed)
    return packed

"""Operations on the rows of arrays, and on ids of rows.

Shapes are in the comments at the arguments.
"""
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy, memset

from buffers cimport address, address_2d
from fastrnn._engine.core cimport kernels_for
from fastrnn._engine.plan cimport Op, perform, recorder
from kernels cimport rnn_flush_denormals, rnn_kernels, rnn_restore_denormals

import numpy as np


cdef class RowsOp(Op):
    """M rows of n elements, from one array to another, by the ids of rows in some of its kinds."""
    cdef const rnn_kernels *kernels
    cdef Py_ssize_t M, n, ld, ldo, item
    cdef const Py_ssize_t *count       # the number of rows, if it differs from run to run; else NULL
    cdef const char *rows
    cdef const int64_t *ids
    cdef char *to


cdef class ColumnSum(RowsOp):
    cdef int run(self) except -1:
        cdef Py_ssize_t M = self.M if self.count == NULL else self.count[0]
        with nogil:
            mode = rnn_flush_denormals()
            self.kernels.column_sum(M, self.n, self.rows, self.ld, self.to)
            rnn_restore_denormals(mode)
        return 0


def column_sum(a, out, const Py_ssize_t[::1] ends=None):
    """out (N,) += sum over the rows of a (M,N), in order. In a plan, the last element of `ends` is their number."""
    cdef ColumnSum op = ColumnSum.__new__(ColumnSum)
    cdef Py_ssize_t item = a.itemsize
    op.M, op.n, op.ld, op.kernels = a.shape[0], a.shape[1], a.strides[0] // item, kernels_for(a)
    op.count = &ends[ends.shape[0] - 1] if ends is not None else NULL
    if op.M and op.n:
        op.rows, op.to, op.held = address_2d(a, item, False), address(out, True), (a, out, ends)
        perform(op)


cdef class Gather(RowsOp):
    cdef int run(self) except -1:
        cdef Py_ssize_t M = self.M if self.count == NULL else self.count[0]
        with nogil:
            self.kernels.gather(M, self.n, self.rows, self.n, self.ids, self.to, self.n)
        return 0


def gather(array, const int64_t[::1] ids, out, const Py_ssize_t[::1] ends=None):
    """out (M,n) = array[ids], rows of 2-D arrays. In a plan, the last element of `ends` is the number of rows."""
    cdef Gather op = Gather.__new__(Gather)
    op.M, op.n, op.kernels = ids.shape[0], out.shape[1], kernels_for(out)
    op.count = &ends[ends.shape[0] - 1] if ends is not None else NULL
    if op.M and op.n:
        op.rows, op.to, op.ids, op.held = address(array), address(out, True), &ids[0], (array, ids, out, ends)
        perform(op)


cdef class CopyRows(RowsOp):
    cdef int run(self) except -1:
        cdef Py_ssize_t m, size = self.n * self.item
        with nogil:
            for m in range(self.M):
                memcpy(self.to + m * self.ldo * self.item, self.rows + m * self.ld * self.item, size)
        return 0


def copy_rows(a, out):
    """out (M,n) = a (M,n), of any row strides."""
    cdef CopyRows op = CopyRows.__new__(CopyRows)
    op.item = a.itemsize
    op.M, op.n, op.ld, op.ldo = a.shape[0], a.shape[1], a.strides[0] // op.item, out.strides[0] // op.item
    if op.M and op.n:
        op.rows, op.to, op.held = address_2d(a, op.item, False), address_2d(out, op.item, True), (a, out)
        perform(op)


cdef class AddRows(RowsOp):
    cdef int run(self) except -1:
        cdef Py_ssize_t m, M = self.M if self.count == NULL else self.count[0]
        with nogil:
            mode = rnn_flush_denormals()
            for m in range(M):
                self.kernels.column_sum(1, self.n, self.rows + m * self.ld * self.item, self.ld,
                                        self.to + m * self.ldo * self.item)
            rnn_restore_denormals(mode)
        return 0


def add_rows(a, out, const Py_ssize_t[::1] ends=None):
    """out (M,n) += a (M,n), of any row strides. In a plan, the last element of `ends` is the number of rows."""
    cdef AddRows op = AddRows.__new__(AddRows)
    op.item, op.kernels = a.itemsize, kernels_for(a)
    op.count = &ends[ends.shape[0] - 1] if ends is not None else NULL
    op.M, op.n, op.ld, op.ldo = a.shape[0], a.shape[1], a.strides[0] // op.item, out.strides[0] // op.item
    if op.M and op.n:
        op.rows, op.to, op.held = address_2d(a, op.item, False), address_2d(out, op.item, True), (a, out, ends)
        perform(op)


def empty(shape, dtype):
    """An uninitialised array; while this thread records, of the recording's memory."""
    owner = recorder()
    return np.empty(shape, dtype) if owner is None else owner.empty(shape, dtype)


cdef class Clear(RowsOp):
    cdef int run(self) except -1:
        with nogil:
            memset(self.to, 0, self.n * (self.M if self.count == NULL else self.count[0]))
        return 0


def zeros(shape, dtype, const Py_ssize_t[::1] ends=None):
    """An array of zeros, which a plan clears each time. The last element of `ends` is the number of rows to clear."""
    cdef Clear op = Clear.__new__(Clear)
    made = empty(shape, dtype)
    op.M, op.to, op.held = 1, address(made, True), (made, ends)
    op.n = made.nbytes
    if ends is not None:
        op.n, op.count = made.strides[0], &ends[ends.shape[0] - 1]
    perform(op)
    return made


cdef class RaggedPlaces(Op):
    cdef Py_ssize_t T, B
    cdef const int64_t *given
    cdef int64_t *order
    cdef int64_t *lengths
    cdef int64_t *where
    cdef int64_t *padding
    cdef Py_ssize_t *offset

    cdef int run(self) except -1:
        cdef Py_ssize_t T = self.T, B = self.B, running = B, n = 0, p = 0, t, b, first
        with nogil:
            for t in range(T + 1):                 # offset: rows of each length, then the first place of each length
                self.offset[t] = 0
            for b in range(B):
                self.offset[T - self.given[b]] += 1
            for t in range(T + 1):
                first = self.offset[t]
                self.offset[t] = n
                n += first
            for b in range(B):
                t = T - self.given[b]
                self.order[self.offset[t]], self.lengths[self.offset[t]] = b, self.given[b]
                self.offset[t] += 1
            n = 0
            for t in range(T):
                self.offset[t] = n
                while running > 0 and self.lengths[running - 1] <= t:
                    running -= 1
                for b in range(running):
                    self.where[n] = t * B + self.order[b]
                    n += 1
                for b in range(running, B):
                    self.padding[p] = t * B + self.order[b]
                    p += 1
            self.offset[T] = n
        return 0


def ragged_places(
    const int64_t[::1] given,          # (B,) length of each of the caller's rows, 0..T            in
    int64_t[::1] order,                # (B,) the caller's row of each sorted row, longest first   out
    int64_t[::1] lengths,              # (B,) length of each sorted row                            out
    Py_ssize_t[::1] offset,            # (T+1,) first packed row of each step                      out
    int64_t[::1] where,                # (T*B,) the caller's t*B + b of each packed row            out
    int64_t[::1] padding,              # (T*B,) t*B + b of all other steps                         out
):
    """Sort rows by length, and compute where their steps are, in packed arrays and in the caller's array."""
    cdef RaggedPlaces op = RaggedPlaces.__new__(RaggedPlaces)
    op.T, op.B = offset.shape[0] - 1, given.shape[0]
    op.offset, op.held = &offset[0], (given, order, lengths, offset, where, padding)
    if op.B:
        op.given, op.order, op.lengths = &given[0], &order[0], &lengths[0]
    if op.T and op.B:
        op.where, op.padding = &where[0], &padding[0]
    perform(op)


cdef class StepRows(Op):
    cdef Py_ssize_t T
    cdef const Py_ssize_t *offset
    cdef int64_t *out

    cdef int run(self) except -1:
        cdef Py_ssize_t t, n
        with nogil:
            for t in range(self.T):
                for n in range(self.offset[t], self.offset[t + 1]):
                    self.out[n] = n - self.offset[t]
        return 0


def step_rows(const Py_ssize_t[::1] offset, int64_t[::1] out):
    """Set out (rows,) to the sorted row of each packed row; offset (T+1,) is the first packed row of each step."""
    cdef StepRows op = StepRows.__new__(StepRows)
    op.T, op.offset, op.held = offset.shape[0] - 1, &offset[0], (offset, out)
    if out.shape[0]:
        op.out = &out[0]
        perform(op)


cdef class RowIds(Op):
    cdef Py_ssize_t n, B
    cdef bint variational
    cdef const int64_t *where
    cdef uint64_t *out

    cdef int run(self) except -1:
        cdef Py_ssize_t i
        for i in range(self.n):
            self.out[i] = <uint64_t>(self.where[i] % self.B) << 32
            if not self.variational:
                self.out[i] |= <uint64_t>(self.where[i] // self.B)
        return 0


def row_ids(const int64_t[::1] where, Py_ssize_t B, bint variational, uint64_t[::1] out):
    """out (n,) = b << 32 | t, for where (n,) = t*B + b: the keys of the rows of dropout masks. variational: t = 0."""
    cdef RowIds op = RowIds.__new__(RowIds)
    op.n, op.B, op.variational, op.held = where.shape[0], B, variational, (where, out)
    if op.n:
        op.where, op.out = &where[0], &out[0]
        perform(op)


cdef class Spread(RowsOp):
    cdef const int64_t *padding
    cdef Py_ssize_t pads

    cdef int run(self) except -1:
        cdef Py_ssize_t i, M = self.M if self.count == NULL else self.count[0]
        cdef Py_ssize_t pads = self.pads if self.count == NULL else self.M - M
        with nogil:
            for i in range(M):
                memcpy(self.to + self.ids[i] * self.n, self.rows + i * self.n, self.n)
            for i in range(pads):
                memset(self.to + self.padding[i] * self.n, 0, self.n)
        return 0


def spread(a, const int64_t[::1] where, const int64_t[::1] padding, out, const Py_ssize_t[::1] ends=None):
    """out[where] = a, out[padding] = 0, rows of 2-D arrays. In a plan, the last element of `ends` is their number."""
    cdef Spread op = Spread.__new__(Spread)
    op.n, op.M, op.pads = out.shape[1] * out.itemsize, where.shape[0], padding.shape[0]
    op.count = &ends[ends.shape[0] - 1] if ends is not None else NULL
    op.ids, op.padding = &where[0] if op.M else NULL, &padding[0] if op.pads else NULL
    op.rows, op.to, op.held = address(a), address(out, True), (a, where, padding, out, ends)
    if op.n:
        perform(op)


cdef class Within(Op):
    cdef Py_ssize_t n
    cdef const Py_ssize_t *count
    cdef const int64_t *ids
    cdef int64_t least, most

    cdef int run(self) except -1:
        cdef Py_ssize_t i
        cdef bint inside = True
        for i in range(self.n if self.count == NULL else self.count[0]):
            inside &= self.least <= self.ids[i] and self.ids[i] <= self.most
        if not inside:
            raise IndexError(f"an id is not from {self.least} to {self.most}")
        return 0


def check_within(ids, int64_t least, int64_t most, const Py_ssize_t[::1] ends=None):
    """Raise an IndexError if one of the ids, C-contiguous int64, is not from `least` to `most`.

    The last element of `ends` is the number of ids that are used.
    """
    cdef Within op = Within.__new__(Within)
    op.n, op.ids, op.least, op.most, op.held = ids.size, <const int64_t *>address(ids), least, most, (ids, ends)
    op.count = &ends[ends.shape[0] - 1] if ends is not None else NULL
    perform(op)


cdef class ScatterAdd(RowsOp):
    cdef int run(self) except -1:
        cdef Py_ssize_t M = self.M if self.count == NULL else self.count[0]
        with nogil:
            mode = rnn_flush_denormals()
            self.kernels.scatter_add(M, self.n, self.rows, self.ld, self.ids, self.to, self.ldo)
            rnn_restore_denormals(mode)
        return 0


def scatter_add(a, const int64_t[::1] ids, out, const Py_ssize_t[::1] ends=None):
    """out[ids[m]] += a[m], m in order. In a plan, the last element of `ends` is the number of rows."""
    cdef ScatterAdd op = ScatterAdd.__new__(ScatterAdd)
    cdef Py_ssize_t item = a.itemsize
    op.M, op.n, op.kernels = ids.shape[0], out.shape[1], kernels_for(a)
    if op.M and op.n:
        op.ld, op.ldo, op.ids = a.strides[0] // item, out.strides[0] // item, &ids[0]
        op.count = &ends[ends.shape[0] - 1] if ends is not None else NULL
        op.rows, op.to, op.held = address_2d(a, item, False), address_2d(out, item, True), (a, ids, out, ends)
        perform(op)


cdef class CopyIds(RowsOp):
    cdef int run(self) except -1:
        memcpy(self.to, self.ids, self.M * sizeof(int64_t))
        return 0


def copy_ids(const int64_t[::1] ids, int64_t[::1] out):
    """out (n,) = ids (n,)."""
    cdef CopyIds op = CopyIds.__new__(CopyIds)
    op.M = ids.shape[0]
    if op.M:
        op.ids, op.to, op.held = &ids[0], <char *>&out[0], (ids, out)
        perform(op)


cdef int by_value(const void *a, const void *b) noexcept nogil:
    cdef int64_t x = (<const int64_t *>a)[0], y = (<const int64_t *>b)[0]
    return (x > y) - (x < y)


cdef class Distinct(Op):
    cdef Py_ssize_t n, V
    cdef const Py_ssize_t *given       # the number of ids, if it differs from run to run; else NULL
    cdef const int64_t *ids
    cdef int64_t *rows
    cdef int64_t *inverse
    cdef Py_ssize_t *counts

    cdef int run(self) except -1:
        cdef Py_ssize_t i, n = self.n if self.given == NULL else self.given[0]
        cdef bint whole = self.V <= n
        with nogil:
            if whole:
                memcpy(self.inverse, self.ids, n * sizeof(int64_t))
                for i in range(self.V):
                    self.rows[i] = i
            self.counts[2] = self.V if whole else self.find(n)
            self.counts[0] = self.V if whole else 0
            self.counts[1] = self.counts[2] - self.counts[0]
        return 0

    cdef Py_ssize_t find(self, Py_ssize_t n) noexcept nogil:
        cdef Py_ssize_t i, low, high, middle, count = 0
        memcpy(self.rows, self.ids, n * sizeof(int64_t))
        qsort(self.rows, n, sizeof(int64_t), by_value)
        for i in range(n):
            if i == 0 or self.rows[i] != self.rows[count - 1]:
                self.rows[count] = self.rows[i]
                count += 1
        for i in range(n):
            low, high = 0, count - 1
            while low < high:
                middle = (low + high) // 2
                if self.rows[middle] < self.ids[i]:
                    low = middle + 1
                else:
                    high = middle
            self.inverse[i] = low
        return count


def distinct(
    const int64_t[::1] ids,            # (n,) rows of a table                                      in
    Py_ssize_t V,                      # rows of the table
    int64_t[::1] rows,                 # (n,) the first counts[2]: the rows that are used          out
    int64_t[::1] inverse,              # (n,) ids = rows[inverse]                                  out
    Py_ssize_t[::1] counts,            # (3,) V or 0: all rows are used; others; the sum of both   out
    const Py_ssize_t[::1] ends=None,   # its last element is the number of ids, in a plan          in
):
    """The distinct ids, in order; but all rows of the table if it has no more of them than there are ids."""
    cdef Distinct op = Distinct.__new__(Distinct)
    op.n, op.V = ids.shape[0], V
    counts[:] = 0
    op.given = &ends[ends.shape[0] - 1] if ends is not None else NULL
    if op.n:
        op.ids, op.rows, op.inverse, op.counts = &ids[0], &rows[0], &inverse[0], &counts[0]
        op.held = ids, rows, inverse, counts, ends
        perform(op)

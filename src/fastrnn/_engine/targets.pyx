"""Operations on the targets of a batch, some of which are ignored, and on their losses.

Shapes are in the comments at the arguments.
"""
from libc.stdint cimport int64_t

from fastrnn._engine.plan cimport Op, perform


cdef class ValidTargets(Op):
    cdef Py_ssize_t M
    cdef const int64_t *targets
    cdef int64_t *where
    cdef int64_t *others
    cdef int64_t *valid
    cdef Py_ssize_t *count

    cdef int run(self) except -1:
        cdef Py_ssize_t m, n = 0
        with nogil:
            for m in range(self.M):
                if self.targets[m] >= 0:
                    self.where[n], self.valid[n] = m, self.targets[m]
                    n += 1
                else:
                    self.others[m - n] = m
            for m in range(n, self.M):
                self.valid[m] = -1
            self.count[0] = n
        return 0


def valid_targets(
    const int64_t[::1] targets,        # (M,); negative: ignored                                in
    int64_t[::1] where,                # (M,) the first count[0]: places of the valid targets   out
    int64_t[::1] others,               # (M,) the first M - count[0]: all other places          out
    int64_t[::1] valid,                # (M,) the valid targets, then -1                        out
    Py_ssize_t[::1] count,             # (1,)                                                   out
):
    """Find the targets that are not ignored, in order."""
    cdef ValidTargets op = ValidTargets.__new__(ValidTargets)
    op.M, op.count, op.held = targets.shape[0], &count[0], (targets, where, others, valid, count)
    if op.M:
        op.targets, op.where, op.others, op.valid = &targets[0], &where[0], &others[0], &valid[0]
    perform(op)


cdef class ChunkCounts(Op):
    cdef Py_ssize_t chunks, most
    cdef const Py_ssize_t *count
    cdef Py_ssize_t *counts

    cdef int run(self) except -1:
        cdef Py_ssize_t i
        for i in range(self.chunks):
            self.counts[i] = max(0, min(self.most, self.count[0] - i * self.most))
        return 0


def chunk_counts(const Py_ssize_t[::1] ends, Py_ssize_t most, Py_ssize_t[::1] counts):
    """Set counts (n,) to the rows of each chunk of at most `most` rows; the last element of `ends` is their number."""
    cdef ChunkCounts op = ChunkCounts.__new__(ChunkCounts)
    op.chunks, op.most, op.count, op.held = counts.shape[0], most, &ends[ends.shape[0] - 1], (ends, counts)
    if op.chunks:
        op.counts = &counts[0]
        perform(op)


cdef double pairwise_sum(const double *a, Py_ssize_t n) noexcept nogil:
    """The sum of n numbers, in the order of np.sum."""
    cdef double r[8]
    cdef double total = 0
    cdef Py_ssize_t i, k, whole, half
    if n < 8:
        for i in range(n):
            total += a[i]
        return total
    if n <= 128:
        whole = n - n % 8
        for k in range(8):
            r[k] = a[k]
        for i in range(8, whole, 8):
            for k in range(8):
                r[k] += a[i + k]
        total = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]))
        for i in range(whole, n):
            total += a[i]
        return total
    half = n // 2 - n // 2 % 8
    return pairwise_sum(a, half) + pairwise_sum(a + half, n - half)


cdef class ChunkedMean(Op):
    cdef Py_ssize_t M, most
    cdef const Py_ssize_t *count       # the number of losses, if it differs from run to run; else NULL
    cdef const double *losses
    cdef const double *divisor
    cdef double *mean

    cdef int run(self) except -1:
        cdef Py_ssize_t first = 0, M = self.M if self.count == NULL else self.count[0]
        cdef double total = 0
        with nogil:
            while first < M:
                total += pairwise_sum(self.losses + first, min(self.most, M - first))
                first += self.most
            self.mean[0] = total / self.divisor[0]
        return 0


def chunked_mean(
    const double[::1] losses,          # (M,)                                                   in
    Py_ssize_t most,                   # losses that are added up at a time, as np.sum does     in
    const double[::1] divisor,         # (1,)                                                   in
    double[::1] mean,                  # (1,)                                                   out
    const Py_ssize_t[::1] ends=None,   # its last element is the number of losses, in a plan    in
):
    """mean = sum of losses / divisor."""
    cdef ChunkedMean op = ChunkedMean.__new__(ChunkedMean)
    op.M, op.most, op.divisor, op.mean = losses.shape[0], most, &divisor[0], &mean[0]
    op.losses = &losses[0] if op.M else NULL
    op.count = &ends[ends.shape[0] - 1] if ends is not None else NULL
    op.held = losses, divisor, mean, ends
    perform(op)

"""Batches of sequences, and operations on targets, some of which are ignored.

Shapes are in the comments at the arguments.
"""
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from buffers cimport address
from fastrnn._engine.plan cimport Op, perform, refuse_recording

import numpy as np


cdef tuple padded_arrays(const int64_t[::1] start, const int64_t[:] rows, Py_ssize_t arrays):
    """Arrays (T, B) for the sequences `rows`, of which the longest has T ids, and their lengths (B,)."""
    cdef Py_ssize_t B = rows.shape[0], T = 0, b
    refuse_recording("a batch that is made")
    found = np.empty(B, np.int64)
    cdef int64_t[::1] lengths = found
    for b in range(B):
        lengths[b] = start[rows[b] + 1] - start[rows[b]]
        T = max(T, lengths[b])
    return (*[np.empty((T, B), np.int64) for _ in range(arrays)], found)


def padded(
    const int64_t[::1] ids,            # (n,) sequences, one after the other                    in
    const int64_t[::1] start,          # (N+1,) sequence r is ids[start[r]:start[r+1]]          in
    const int64_t[:] rows,             # (B,) sequences                                         in
):
    """Some sequences side by side, (T, B), with 0 at their ends, and their lengths (B,)."""
    cdef Py_ssize_t b, t
    made = padded_arrays(start, rows, 1)
    cdef int64_t[:, ::1] out = made[0]
    with nogil:
        for t in range(out.shape[0]):
            for b in range(out.shape[1]):
                out[t, b] = ids[start[rows[b]] + t] if t < start[rows[b] + 1] - start[rows[b]] else 0
    return made


def forced(
    const int64_t[::1] ids, const int64_t[::1] start, const int64_t[:] rows,       # as in `padded`: targets
    int64_t first,
):
    """The inputs of teacher forcing (T, B), the targets (T, B) and their lengths (B,).

    The inputs are `first`, and then the target before, or `first` if that is negative. Ends are padded with targets -1,
    and inputs 0 after the last target.
    """
    cdef Py_ssize_t b, t, at, left
    made = padded_arrays(start, rows, 2)
    cdef int64_t[:, ::1] inputs = made[0], targets = made[1]
    with nogil:
        for t in range(targets.shape[0]):
            for b in range(targets.shape[1]):
                at = start[rows[b]] + t
                left = start[rows[b] + 1] - at
                targets[t, b] = ids[at] if left > 0 else -1
                if t == 0 or (left >= 0 and ids[at - 1] < 0):
                    inputs[t, b] = first
                else:
                    inputs[t, b] = ids[at - 1] if left >= 0 else 0
    return made


def sequences(
    values,                            # (N, n) the steps of all sequences, one after the other     in
    const int64_t[::1] first,          # (S,) the first step of each                                in
    const int64_t[::1] lengths,        # (S,) its number of steps                                   in
    const int64_t[:] rows,             # (B,) some of the sequences                                 in
):
    """A batch of sequences: (T, B, n) padded with zeros, and their lengths (B,)."""
    cdef Py_ssize_t t, b, T = 0, B = rows.shape[0], size = values.shape[1] * values.itemsize
    cdef const char *source = address(values)
    cdef char *to
    refuse_recording("a batch of sequences")
    found = np.empty(B, np.int64)
    cdef int64_t[::1] length = found
    for b in range(B):
        length[b] = lengths[rows[b]]
        T = max(T, length[b])
    batch = np.empty((T, B, values.shape[1]), values.dtype)
    to = address(batch, True)
    with nogil:
        for b in range(B):
            for t in range(T):
                if t < length[b]:
                    memcpy(to + (t * B + b) * size, source + (first[rows[b]] + t) * size, size)
                else:
                    memset(to + (t * B + b) * size, 0, size)
    return batch, found


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

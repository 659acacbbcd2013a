"""Operations on words and sentences: bags of words, and the memories of stories.

Shapes are in the comments at the arguments. The last element of `ends` is the number of rows that are used; the arrays
may be longer, so that batches of different sizes have the same shapes.
"""
from libc.stdint cimport int64_t, uint64_t

from buffers cimport address
from fastrnn._engine.core cimport kernels_for
from fastrnn._engine.plan cimport Op, perform, refuse_recording
from kernels cimport rnn_bag, rnn_flush_denormals, rnn_restore_denormals

import numpy as np


cdef Py_ssize_t capacity(Py_ssize_t n) noexcept nogil:
    """n rounded up to one of few sizes: 16, 32, 64, …"""
    cdef Py_ssize_t size = 16
    while size < n:
        size *= 2
    return size


ctypedef void (*bag_kernel)(const rnn_bag *, const void *, void *) noexcept nogil


cdef class Bag(Op):
    cdef rnn_bag s
    cdef bag_kernel kernel
    cdef Py_ssize_t M, sentences
    cdef const Py_ssize_t *count
    cdef const char *source
    cdef char *to

    cdef int run(self) except -1:
        cdef Py_ssize_t m, M = self.M if self.count == NULL else self.count[0]
        cdef bint inside = 0 <= M <= self.M
        for m in range(M if inside else 0):
            inside &= 0 <= self.s.sentence[m] < self.sentences
        if not inside:
            raise IndexError(f"a sentence is not from 0 to {self.sentences - 1}")
        self.s.M = M
        with nogil:
            mode = rnn_flush_denormals()
            self.kernel(&self.s, self.source, self.to)
            rnn_restore_denormals(mode)
        return 0


cdef int perform_bag(
    bag_kernel kernel, const int64_t[::1] sentence, const int64_t[::1] start, const int64_t[::1] word, weights,
    source, target, const Py_ssize_t[::1] ends,
) except -1:
    """weights : (a, b, ramp)"""
    cdef Bag op = Bag.__new__(Bag)
    a, b, ramp = weights
    op.M, op.sentences, op.kernel = sentence.shape[0], start.shape[0] - 1, kernel
    if op.M == 0:
        return 0
    op.s.sentence, op.s.start, op.s.word = &sentence[0], &start[0], &word[0] if word.shape[0] else NULL
    op.s.n, op.s.a, op.s.b, op.s.ramp = len(ramp), address(a), address(b), address(ramp)
    op.count = &ends[ends.shape[0] - 1] if ends is not None else NULL
    op.source, op.to = address(source), address(target, True)
    op.held = sentence, start, word, weights, source, target, ends
    return perform(op)


def bag(
    const int64_t[::1] sentence,       # (M,) the sentence of each row of out                    in
    const int64_t[::1] start,          # (S+1,) words of sentence s: start[s] .. start[s+1]      in
    const int64_t[::1] word,           # (W,) their rows in the table                            in
    a, b,                              # (W,) the weight of a word is a + b * ramp               in
    ramp,                              # (n,)                                                    in
    table,                             # (V, n)                                                  in
    out,                               # (M, n)                                                  +=
    const Py_ssize_t[::1] ends=None,   # (1,)                                                    in
):
    """Sentences as weighted sums of word embeddings. Each element is one chain over the words."""
    perform_bag(kernels_for(out).bag, sentence, start, word, (a, b, ramp), table, out, ends)


def bag_backward(
    const int64_t[::1] sentence, const int64_t[::1] start, const int64_t[::1] word, a, b, ramp,    # as in `bag`
    dout,                              # (M, n)                                                  in
    dtable,                            # (V, n)                                                  +=
    const Py_ssize_t[::1] ends=None,   # (1,)                                                    in
):
    """The gradient of the table of `bag`, one sentence after the other."""
    perform_bag(kernels_for(dout).bag_backward, sentence, start, word, (a, b, ramp), dout, dtable, ends)


def memories(
    const int64_t[:] rows,             # (B,) stories of a batch                                  in
    const int64_t[::1] start,          # (N+1,) sentences of story n: start[n] .. start[n+1]      in
    const int64_t[::1] sentences,      # (start[N],) the sentences of all stories                 in
    Py_ssize_t distinct,               # number of different sentences of all stories
    int64_t oldest,                    # age of the first sentence of each story, which is empty
):
    """The memories of some stories, one after the other.

    Returns first and count (B,), the place of each story; the distinct sentences in order, and the number of these as
    an array (1,); for each sentence in memory its index among these and its age, and their number as an array (1,); and
    the greatest count. This and the length of the arrays of sentences are rounded up by `capacity`.
    """
    cdef Py_ssize_t B = rows.shape[0], N = start.shape[0] - 1, b, j, n = 0, k, words = (distinct + 63) // 64, most = 0
    cdef int64_t s
    cdef uint64_t bits
    refuse_recording("the making of a batch")
    cdef int64_t[:, ::1] places = np.empty((2, B), np.int64)
    for b in range(B):
        if not 0 <= rows[b] < N:
            raise IndexError(f"a story is not from 0 to {N - 1}")
        places[0, b], places[1, b] = n, start[rows[b] + 1] - start[rows[b]]
        n += places[1, b]
        most = max(most, places[1, b])
    # zeros beyond the number that is used: a plan compares nothing there, but copies it
    cdef int64_t[:, ::1] found = np.zeros((3, capacity(n)), np.int64)
    cdef int64_t[::1] ages = found[2]
    cdef uint64_t[::1] there = np.zeros(words, np.uint64)
    cdef int64_t[::1] rank = np.empty(distinct, np.int64)
    ends = np.array([n, 0])
    n = 0
    for b in range(B):
        for j in range(places[1, b]):
            s = sentences[start[rows[b]] + j]
            there[s >> 6] |= <uint64_t>1 << (s & 63)
            found[1, n], ages[n] = s, places[1, b] - 1 - j if j else oldest
            n += 1
    k = 0
    for b in range(words):
        bits = there[b]
        j = 64 * b
        while bits:
            if bits & 1:
                rank[j], found[0, k] = k, j
                k += 1
            bits >>= 1
            j += 1
    for j in range(n):
        found[1, j] = rank[found[1, j]]
    ends[1] = k
    return (*np.asarray(places), np.asarray(found[0]), ends[1:], np.asarray(found[1]), np.asarray(ages), ends[:1],
            capacity(most))

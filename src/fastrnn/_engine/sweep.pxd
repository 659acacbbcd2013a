"""Layers in one direction, made ready for a forward pass, and the division of work that the backward pass and streams share."""
from libc.stdint cimport int64_t
from kernels cimport RNN_GRU, RNN_GRU_BEFORE, RNN_GRU_BEFORE_OPTIONS, RNN_LSTM, rnn_options
from recurrence cimport CHUNK_BYTES, CHUNK_STEPS, Sweep
from threads cimport MAX_PARTS

ctypedef struct Split:
    int parts
    bint units
    Py_ssize_t cuts[MAX_PARTS + 1]

cdef class Options:
    cdef rnn_options options
    cdef readonly Py_ssize_t P, Pp
    cdef object peephole

cdef class Forward:
    cdef Sweep s
    cdef Split split
    cdef Py_ssize_t total
    cdef double flops_per_row
    cdef const int64_t *lengths
    cdef const Py_ssize_t[::1] offset
    cdef tuple held
    cdef int run(self) except -1

cdef bint split_is_forced() noexcept nogil
cdef bint sides_pay(Py_ssize_t B, double flops) except -1
cdef int split_sweep(
    Split *split, Py_ssize_t B, const int64_t *lengths, Py_ssize_t total, Py_ssize_t T, Py_ssize_t vectors, double flops_per_row,
    Py_ssize_t weight_bytes, int meetings, int least, bint awake,
) except -1

cdef inline int least_vectors(const Sweep *s) noexcept nogil:
    """Vectors of units that keep a core busy in a forward step: all gates of one, or, where a unit is one chain, a panel.

    A panel too where a tape is kept: a backward pass that is not split would read half of it from the other core's cache.
    """
    return 1 if not s.keep and (s.cell == RNN_LSTM or s.cell == RNN_GRU) else s.kernels.panel

cdef inline int phases(int cell, const rnn_options *options) noexcept nogil:
    """How often parts that split the units meet in a step."""
    return 2 if cell == RNN_GRU_BEFORE or cell == RNN_GRU_BEFORE_OPTIONS or (options != NULL and options.projected) else 1

cdef inline Py_ssize_t steps_of_chunk(Py_ssize_t B, Py_ssize_t row_bytes) noexcept nogil:
    cdef Py_ssize_t steps = max(CHUNK_BYTES // max(1, B * row_bytes), (48 + B - 1) // max(1, B), 1)
    return min(steps, CHUNK_STEPS)

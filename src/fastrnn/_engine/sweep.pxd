"""Layers prepared for a forward pass, and the division of work, which the backward pass and streams use too."""
from libc.stdint cimport int64_t
from fastrnn._engine.plan cimport Op
from kernels cimport RNN_PANEL, rnn_cells, rnn_kernels, rnn_options
from recurrence cimport CHUNK_BYTES, CHUNK_STEPS, Sweep
from threads cimport MAX_PARTS

ctypedef struct Split:
    int parts
    bint units
    Py_ssize_t cuts[MAX_PARTS + 1]

cdef class LayerWeights:
    cdef const rnn_kernels *kernels
    cdef rnn_options options
    cdef int cell
    cdef bint has_options
    cdef Py_ssize_t item, H, Hp, P, Pp, I, blocks, x_blocks
    cdef const char *w_ih
    cdef const char *w
    cdef const char *w2
    cdef const char *bias
    cdef tuple held                               # the arrays

cdef class Steps:
    cdef Py_ssize_t T, B
    cdef bint reverse
    cdef const Py_ssize_t[::1] offset
    cdef const int64_t *lengths
    cdef const unsigned char *resets
    cdef tuple held

cdef class Forward(Op):
    cdef Sweep s
    cdef Split split
    cdef double flops_per_row
    cdef const int64_t *lengths

cdef bint split_is_forced() noexcept nogil
cdef bint sides_pay(Py_ssize_t B, double flops) except -1

ctypedef struct Work:                             # of a sweep that may be divided among threads
    Py_ssize_t T, B, total                        # steps, rows, and valid steps of all rows
    const int64_t *lengths
    double flops_per_row                          # of one step
    Py_ssize_t vectors, weight_bytes              # vectors of units; bytes of the recurrent weights
    int barriers                                  # of a step whose units are divided
    int least                                     # least vectors of units of a thread
    bint awake                                    # the other threads are still spinning

cdef int split_sweep(Split *split, const Work *work) except -1

cdef inline int least_vectors(const Sweep *s) noexcept nogil:
    """Least vectors of units of a thread in a forward step.

    With a tape it is a panel, because a backward pass that is not divided would otherwise read half of the tape from
    the other core's cache.
    """
    return RNN_PANEL if s.keep else rnn_cells[s.cell].least_vectors

cdef inline int barriers(int cell, const rnn_options *options) noexcept nogil:
    """Barriers in a step whose units are divided among threads."""
    return rnn_cells[cell].phases + (1 if options != NULL and options.projected else 0)

cdef inline Py_ssize_t steps_of_chunk(Py_ssize_t B, Py_ssize_t row_bytes) noexcept nogil:
    cdef Py_ssize_t steps = max(CHUNK_BYTES // max(1, B * row_bytes), (48 + B - 1) // max(1, B), 1)
    return min(steps, CHUNK_STEPS)

"""How the work of a call is divided among the threads it may use. No bit of a result depends on it.

Rows of the batch go to threads that never wait for each other. Few rows with large weights are split by units instead: each core keeps
its part of the weights in its own caches, and the threads meet in each step.
"""
from libc.stdint cimport int64_t
from kernels cimport rnn_cpus, rnn_split_paused, rnn_team_barrier_seconds

cdef enum:
    MAX_PARTS = 64
    SPLIT_ROWS = 4                    # a thread gets at least this many rows ...
    SPLIT_FLOPS = 4000000             # ... and the call is worth at least this much work
    AWAKE_DISCOUNT = 8                         # ... where threads have to be called; where they are at hand, an eighth of it is enough
    AT_HAND_US = 40                   # after a step of a stream another one is expected for so long, and threads do not park yet (team.c)
    STREAM_ALONE_FLOPS = 20000        # a chunk of a stream that is less work than this runs on the calling thread, with the GIL
    OWN_CACHE = 900000                # bytes of weights that stay in a core's own cache
    SLICE_FLOPS = 1000000000          # about 10 ms of a core; signals are looked at in between
    WAVE_STEPS = 16                   # layers follow each other on different cores this many steps apart ...
    WAVE_FLOPS = 200000               # ... if a step is less work than this: else its units are split
    STEP_GFLOPS = 50                  # of one core in a step of a few rows: enough to know its time within a factor of two; a quarter of it from memory

cdef inline int parts_for(Py_ssize_t rows, double flops, int threads) noexcept nogil:
    """Into how many parts the rows of a call are split: never so small that a thread costs more than it saves."""
    if threads <= 1 or flops < SPLIT_FLOPS or rnn_split_paused():
        return 1
    return <int>max(1, min(min(threads, MAX_PARTS), rows // SPLIT_ROWS))

cdef inline int unit_parts(
    Py_ssize_t vectors, int least, double step_flops, double flops, int meetings, int threads,
) noexcept nogil:
    """Into how many parts of at least `least` vectors the units are split, given the work of a step and how often the parts meet in it;
    1: it does not pay."""
    cdef int parts = <int>min(min(threads, MAX_PARTS), vectors // least)
    if parts < 2 or flops < SPLIT_FLOPS or parts > rnn_cpus():
        return 1
    cdef double step = step_flops / (STEP_GFLOPS * 1e9), largest = <double>((vectors + parts - 1) // parts) / vectors
    return parts if step * (1 - largest) > (parts - 1) * meetings * rnn_team_barrier_seconds() + 0.1 * step else 1

cdef inline void cut_rows(Py_ssize_t *cuts, int parts, Py_ssize_t B, const int64_t *lengths, Py_ssize_t total) noexcept nogil:
    """Rows of each part, so that all have about the same number of valid steps."""
    cdef Py_ssize_t b, done = 0
    cdef int p = 1
    cuts[0] = 0
    for b in range(B):
        done += lengths[b] if lengths != NULL else total // B
        while p < parts and done * parts >= total * p:
            cuts[p] = b + 1
            p += 1
    for p in range(p, parts + 1):
        cuts[p] = B

cdef inline Py_ssize_t slice_steps(Py_ssize_t chunk, Py_ssize_t T, double flops) noexcept nogil:
    """Steps of a sweep, in whole chunks, after which signals are looked at."""
    return max(chunk, <Py_ssize_t>(<double>SLICE_FLOPS / max(flops, 1.0) * T) // chunk * chunk)

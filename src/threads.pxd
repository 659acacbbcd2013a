"""How the work of a call is divided among threads. The bits of a result do not depend on it.

Usually the rows of the batch are divided, and the threads never wait for each other. If there are few rows, or the
weights are large, the units are divided instead: each core keeps its part of the weights in its own caches, and the
threads wait for each other at a barrier in each step.
"""
from libc.stdint cimport int64_t
from kernels cimport rnn_cpus, rnn_split_paused, rnn_team_barrier_seconds

cdef enum:
    MAX_PARTS = 64
    SPLIT_ROWS = 4                    # least rows of a thread
    SPLIT_FLOPS = 4000000             # least work of a call that is divided among threads that are parked
    AWAKE_DISCOUNT = 8                # if the threads are still spinning, an eighth of this work is enough
    AWAKE_US = 40                     # threads spin at least this long after a step of a stream (team.c)
    TOGETHER_ROWS = 1024              # most rows of a chunk whose products are one task; more are slices of terms
    STREAM_SERIAL_FLOPS = 20000        # a chunk of a stream with less work runs on the calling thread, with the GIL
    OWN_CACHE = 900000                # bytes of weights that stay in a core's own cache
    SLICE_FLOPS = 1000000000          # about 10 ms of a core; signals are checked after each slice
    WAVE_STEPS = 16                   # layers on different cores are this many steps apart
    WAVE_FLOPS = 200000               # and a step has less work than this; otherwise its units are divided
    STEP_GFLOPS = 50                  # of a core in a step of a few rows, within a factor of two; a quarter from memory

cdef inline int parts_for(Py_ssize_t rows, double flops, int threads) noexcept nogil:
    """Number of parts into which the rows of a call are divided, none of them too small to pay for its thread."""
    if threads <= 1 or flops < SPLIT_FLOPS or rnn_split_paused():
        return 1
    return <int>max(1, min(min(threads, MAX_PARTS), rows // SPLIT_ROWS))

cdef inline int unit_parts(
    Py_ssize_t vectors, int least, double step_flops, double flops, int barriers, int threads,
) noexcept nogil:
    """Number of parts, of at least `least` vectors, into which the units are divided; 1 if that does not pay.

    step_flops, barriers : work of a step, and barriers in it
    """
    cdef int parts = <int>min(min(threads, MAX_PARTS), vectors // least)
    if parts < 2 or flops < SPLIT_FLOPS or parts > rnn_cpus():
        return 1
    cdef double step = step_flops / (STEP_GFLOPS * 1e9), largest = <double>((vectors + parts - 1) // parts) / vectors
    return parts if step * (1 - largest) > (parts - 1) * barriers * rnn_team_barrier_seconds() + 0.1 * step else 1

cdef inline void cut_rows(
    Py_ssize_t *cuts, int parts, Py_ssize_t B, const int64_t *lengths, Py_ssize_t total,
) noexcept nogil:
    """Divide the rows so that all parts have about the same number of valid steps."""
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
    """Steps of a sweep, in whole chunks, between checks for signals."""
    return max(chunk, <Py_ssize_t>(<double>SLICE_FLOPS / max(flops, 1.0) * T) // chunk * chunk)

"""The time loop, for all cells, dtypes and directions, for ragged batches, with and without a tape.

Rows are sorted by length, longest first. Step t owns rows offset[t] .. offset[t+1] of every step array: one for each
of its B_t running sequences. A thread computes rows [b0, b1) of all steps and does not wait for other threads; or, if
the units are divided, units [u0, u1) of all rows, and waits for the others in each step.
"""
from libc.string cimport memcpy, memmove, memset
from libc.stdint cimport int64_t
from kernels cimport (
    rnn_announce, rnn_await, rnn_kernels, rnn_options, rnn_product, rnn_row_steps, rnn_step, rnn_team_barrier,
    rnn_team_leaves,
)

cdef enum:
    CHUNK_STEPS = 64              # most steps whose input parts are computed at once
    CHUNK_BYTES = 262144          # most bytes of them: they stay in L2

ctypedef struct Sweep

ctypedef struct Sweep:
    const rnn_kernels *kernels
    int cell
    bint reverse
    Py_ssize_t T, B, I, H, Hp
    Py_ssize_t P, Pp              # features of h: H and Hp, or those of a projection
    const rnn_options *options    # or NULL
    Py_ssize_t item               # bytes of an element
    Py_ssize_t blocks             # X: blocks of a row on the tape
    Py_ssize_t x_blocks           # blocks of a row with an input part: the first ones
    const Py_ssize_t *offset      # (T+1,)
    bint units                    # the units are divided among threads, not the rows
    const Py_ssize_t *cuts        # (parts+1,)                rows of each thread
    const unsigned char *resets   # (total,) or NULL
    const char *x                 # (total, I), or NULL
    const int64_t *ids            # (total,) rows of table, or NULL
    const char *table             # (V, x_blocks*Hp) input parts of the ids
    const char *w_ih              # packed (x_blocks*Hp, I)
    const char *feed              # (total, F) a second input, or NULL
    const char *w_feed            # packed (x_blocks*Hp, F)
    Py_ssize_t F
    const char *w
    const char *w2
    const char *bias              # (B or 1, X*Hp)
    Py_ssize_t bias_stride
    char *gates                   # tape (total, X*Hp), or scratch for one chunk
    char *h_prev                  # tape (total, Pp), or two states (2, B, Pp)
    char *c_prev                  # like h_prev, with Hp columns
    char *h_n                     # (B, Pp) in: initial state; out: final state
    char *c_n                     # (B, Hp)
    char *y                       # (total, P), stride y_stride
    Py_ssize_t y_stride
    bint keep                     # gates, h_prev and c_prev are on a tape
    Py_ssize_t chunk              # steps of a chunk
    Py_ssize_t first, last        # steps of this slice, in the order of computation
    Sweep *below                  # the layer below if it runs at the same time, or NULL
    int64_t done                  # steps whose output is ready for the layer above

cdef inline Py_ssize_t running(const Py_ssize_t *offset, Py_ssize_t t, Py_ssize_t b) noexcept nogil:
    """Number of rows below b that run at step t."""
    cdef Py_ssize_t rows = offset[t + 1] - offset[t]
    return b if b < rows else rows

cdef inline Py_ssize_t share(const rnn_kernels *kernels, Py_ssize_t columns, int part, int parts) noexcept nogil:
    """First column of a part, in whole vectors."""
    return columns // kernels.lanes * part // parts * kernels.lanes

cdef inline void input_rows(
    const Sweep *s, Py_ssize_t groups, const Py_ssize_t *first, const Py_ssize_t *count, Py_ssize_t base, int part,
    int parts,
) noexcept nogil:
    """gates = x @ w_ih.T for some groups of rows and this part's columns, or a gather of rows already computed.

    Row r of x is row r - base of gates.
    """
    cdef Py_ssize_t g, r, width = s.x_blocks * s.Hp, ldg = s.blocks * s.Hp
    cdef Py_ssize_t low = share(s.kernels, width, part, parts), high = share(s.kernels, width, part + 1, parts)
    cdef char *gates = s.gates - base * ldg * s.item
    cdef rnn_product p
    if low == high:
        return
    p.groups = groups
    p.first = first
    p.count = count
    p.N = width
    p.bias = NULL
    p.c = gates
    p.ldc = ldg
    p.flip = False
    p.v0 = low // s.kernels.lanes
    p.v1 = high // s.kernels.lanes
    if s.ids != NULL:
        for g in range(groups):
            s.kernels.gather(count[g], high - low, s.table + low * s.item, width, s.ids + first[g],
                             gates + (first[g] * ldg + low) * s.item, ldg)
    elif s.x == NULL:
        for g in range(groups):
            for r in range(first[g], first[g] + count[g]):
                memset(gates + (r * ldg + low) * s.item, 0, (high - low) * s.item)
    else:
        p.K = p.lda = s.I
        p.a = s.x
        p.w = s.w_ih
        p.accumulate = False
        s.kernels.product(&p)
    if s.feed != NULL:
        p.K = p.lda = s.F
        p.a = s.feed
        p.w = s.w_feed
        p.accumulate = True
        s.kernels.product(&p)

cdef inline Py_ssize_t gates_of(const Sweep *s, Py_ssize_t t, Py_ssize_t low) noexcept nogil:
    """First row of the gates of step t, on the tape or in the scratch of the chunk that starts at step `low`.

    In the scratch it does not depend on the lengths of other steps, because threads do not wait for each other.
    """
    return s.offset[t] if s.keep else (t - low) * s.B

cdef inline void input_part(
    const Sweep *s, Py_ssize_t t0, Py_ssize_t t1, Py_ssize_t b0, Py_ssize_t b1, int part, int parts,
) noexcept nogil:
    """The input part of rows [b0, b1) of steps [t0, t1), this part's columns, in as few products as possible."""
    cdef Py_ssize_t first[CHUNK_STEPS]
    cdef Py_ssize_t count[CHUNK_STEPS]
    cdef Py_ssize_t g = 0, t
    cdef bint even = s.keep or s.offset[t1] - s.offset[t0] == (t1 - t0) * s.B
    if even and b0 == 0 and b1 == s.B:
        first[0] = s.offset[t0]
        count[0] = s.offset[t1] - s.offset[t0]
        input_rows(s, 1, first, count, s.offset[t0] - gates_of(s, t0, t0), part, parts)
        return
    for t in range(t0, t1):
        first[g] = s.offset[t] + running(s.offset, t, b0)
        count[g] = s.offset[t] + running(s.offset, t, b1) - first[g]
        if not even:
            input_rows(s, 1, first + g, count + g, s.offset[t] - gates_of(s, t, t0), part, parts)
        g += 1
    if even:
        input_rows(s, g, first, count, s.offset[t0] - gates_of(s, t0, t0), part, parts)

cdef inline Py_ssize_t state_of(const Sweep *s, Py_ssize_t q, Py_ssize_t t) noexcept nogil:
    """First row of the states before step t: on the tape each step has its own rows, without a tape two alternate."""
    return s.offset[t] if s.keep else (q & 1) * s.B

cdef inline void cut_rows_of(
    char *state, Py_ssize_t row, const unsigned char *resets, Py_ssize_t lo, Py_ssize_t hi, Py_ssize_t low,
    Py_ssize_t high,
) noexcept nogil:
    """Set bytes low..high of rows lo..hi of a state (row bytes each) to zero where there is a reset."""
    cdef Py_ssize_t b
    for b in range(lo, hi):
        if resets[b]:
            memset(state + b * row + low, 0, high - low)

cdef inline void cut_states(
    const Sweep *s, Py_ssize_t t, Py_ssize_t lo, Py_ssize_t hi, int part, int parts, char *h, char *c,
) noexcept nogil:
    """Set this part's units of rows lo..hi of a state to zero where there is a reset before step t."""
    cdef const unsigned char *resets = s.resets + s.offset[t]
    cut_rows_of(h, s.Pp * s.item, resets, lo, hi, share(s.kernels, s.Pp, part, parts) * s.item,
                share(s.kernels, s.Pp, part + 1, parts) * s.item)
    if c != NULL:
        cut_rows_of(c, s.Hp * s.item, resets, lo, hi, share(s.kernels, s.Hp, part, parts) * s.item,
                    share(s.kernels, s.Hp, part + 1, parts) * s.item)

cdef inline void copy_rows(
    char *to, const char *rows, Py_ssize_t row, Py_ssize_t lo, Py_ssize_t hi, Py_ssize_t low, Py_ssize_t high,
) noexcept nogil:
    """Copy bytes low..high of rows lo..hi (row bytes each)."""
    cdef Py_ssize_t b
    for b in range(lo, hi):
        memcpy(to + b * row + low, rows + b * row + low, high - low)

cdef inline void start_rows(
    const Sweep *s, Py_ssize_t q, Py_ssize_t b0, Py_ssize_t b1, int part, int parts,
) noexcept nogil:
    """Copy the initial state of rows whose first step of computation is q, this part's units."""
    cdef Py_ssize_t t = s.T - 1 - q if s.reverse else q
    cdef Py_ssize_t lo = running(s.offset, t, b0), hi = running(s.offset, t, b1), new = lo
    cdef Py_ssize_t h_row = s.Pp * s.item, c_row = s.Hp * s.item
    cdef char *h = s.h_prev + state_of(s, q, t) * h_row
    cdef char *c = s.c_prev + state_of(s, q, t) * c_row if s.c_prev != NULL else NULL
    if q > 0:
        if not s.reverse:
            return
        new = max(lo, running(s.offset, t + 1, hi))
    copy_rows(h, s.h_n, h_row, new, hi, share(s.kernels, s.Pp, part, parts) * s.item,
              share(s.kernels, s.Pp, part + 1, parts) * s.item)
    if c != NULL:
        copy_rows(c, s.c_n, c_row, new, hi, share(s.kernels, s.Hp, part, parts) * s.item,
                  share(s.kernels, s.Hp, part + 1, parts) * s.item)
    if s.resets != NULL and not s.reverse:
        cut_states(s, t, new, hi, part, parts, h, c)

cdef inline void sweep_part(void *arg, int part, int parts) noexcept nogil:
    """Steps first..last of one layer in one direction: this thread's rows or units."""
    cdef Sweep *s = <Sweep *>arg
    if s.units:
        sweep(s, 0, s.B, part, parts)
    else:
        sweep(s, s.cuts[part], s.cuts[part + 1], 0, 1)

cdef inline bint sweep_row(
    const Sweep *s, const rnn_step *step, Py_ssize_t q, Py_ssize_t end, Py_ssize_t low,
) noexcept nogil:
    """Steps q..end of a batch of one row, in one call; False if there is no kernel for that.

    Then only the place of the state after these steps has been written to.
    """
    cdef rnn_row_steps r
    cdef Py_ssize_t way = -1 if s.reverse else 1, t = s.T - 1 - q if s.reverse else q, to
    cdef Py_ssize_t h_row = s.Pp * s.item, c_row = s.Hp * s.item
    if s.B != 1 or end - q == 1 or s.offset[s.T] != s.T or s.options != NULL or s.resets != NULL:
        return False
    if s.kernels.row_steps[s.cell] == NULL:
        return False
    r.step = step[0]
    r.step.rows = 1
    r.step.bias = s.bias
    r.step.gates = s.gates + gates_of(s, t, low) * s.blocks * c_row
    r.step.h_prev = s.h_prev + state_of(s, q, t) * h_row
    r.step.y = s.y + t * s.y_stride * s.item
    r.step.flip = False
    r.steps = end - q
    r.gates_stride, r.y_stride = way * s.blocks * s.Hp, way * s.y_stride
    r.h_stride = way * s.Pp if s.keep else 0
    r.c_stride = way * s.Hp if s.keep and s.c_prev != NULL else 0
    r.h_last, r.c_last = s.h_n, s.c_n if s.c_prev != NULL else NULL
    if s.c_prev != NULL:
        r.step.c_prev = s.c_prev + state_of(s, q, t) * c_row
    if end < s.T:                # there is a step after these
        to = state_of(s, end, t + way * r.steps)
        r.h_last = s.h_prev + to * h_row
        if s.c_prev != NULL:
            r.c_last = s.c_prev + to * c_row
    if not s.keep:
        memmove(r.h_last, r.step.h_prev, h_row)
        r.step.h_prev = r.h_last
        if s.c_prev != NULL:
            memmove(r.c_last, r.step.c_prev, c_row)
            r.step.c_prev = r.c_last
    return s.kernels.row_steps[s.cell](&r) != 0

cdef inline void sweep(Sweep *s, Py_ssize_t b0, Py_ssize_t b1, int part, int parts) noexcept nogil:
    """Rows [b0, b1) of steps first..last, this part's units."""
    cdef rnn_step step
    cdef Py_ssize_t row = s.Hp * s.item, h_row = s.Pp * s.item, ldg = s.blocks * row
    cdef Py_ssize_t q, t, lo, hi, after, at, to, chunk_end = s.first, computed = s.first, low = 0, high = 0
    cdef char *h_to
    cdef char *c_to
    if b0 == b1:
        return
    step.H = s.H
    step.Hp = s.Hp
    step.P = s.P
    step.Pp = s.Pp
    step.options = s.options
    step.w = s.w
    step.w2 = s.w2
    step.bias_stride = s.bias_stride
    step.y_stride = s.y_stride
    step.keep = s.keep
    step.u0 = share(s.kernels, s.Hp, part, parts)
    step.u1 = share(s.kernels, s.Hp, part + 1, parts)
    step.p0 = share(s.kernels, s.Pp, part, parts)
    step.p1 = share(s.kernels, s.Pp, part + 1, parts)
    step.part = part
    step.parts = parts
    start_rows(s, s.first, b0, b1, part, parts)
    for q in range(s.first, s.last):
        if q < computed:
            continue
        if q == chunk_end:
            chunk_end = min(q + s.chunk, s.last)
            low = s.T - chunk_end if s.reverse else q
            high = s.T - q if s.reverse else chunk_end
            if s.below != NULL:
                rnn_await(&s.below.done, chunk_end)
            input_part(s, low, high, b0, b1, part, parts)
            if parts > 1:
                rnn_team_barrier(part, parts)
            elif sweep_row(s, &step, q, chunk_end, low):
                computed = chunk_end
                rnn_announce(&s.done, chunk_end)
                continue
        t = s.T - 1 - q if s.reverse else q
        lo = running(s.offset, t, b0)
        hi = running(s.offset, t, b1)
        at = state_of(s, q, t)
        after = (t - 1 if t > 0 else -1) if s.reverse else (t + 1 if t + 1 < s.T else -1)
        to = 0 if after < 0 else state_of(s, q + 1, after)
        h_to = s.h_prev + to * h_row
        c_to = s.c_prev + to * row if s.c_prev != NULL else NULL
        if lo < hi:
            step.rows = hi - lo
            step.go_on = 0 if after < 0 else running(s.offset, after, hi) - lo
            step.bias = s.bias + lo * s.bias_stride * s.item
            step.gates = s.gates + (gates_of(s, t, low) + lo) * ldg
            step.h_prev = s.h_prev + (at + lo) * h_row
            step.h_next = h_to + lo * h_row
            step.h_end = s.h_n + lo * h_row
            if s.c_prev != NULL:
                step.c_prev = s.c_prev + (at + lo) * row
                step.c_next = c_to + lo * row
                step.c_end = s.c_n + lo * row
            step.y = s.y + (s.offset[t] + lo) * s.y_stride * s.item
            step.flip = q & 1
            s.kernels.forward[s.cell](&step)
            if s.resets != NULL and after >= 0:
                cut_states(s, t if s.reverse else after, lo, min(hi, lo + step.go_on), part, parts, h_to, c_to)
        if q + 1 < s.last:
            start_rows(s, q + 1, b0, b1, part, parts)
            if parts > 1:
                rnn_team_barrier(part, parts)
                if rnn_team_leaves(part):
                    if part > 0:
                        return
                    parts = 1
                    step.u1, step.p1, step.parts = s.Hp, s.Pp, 1
        if q + 1 == chunk_end:
            rnn_announce(&s.done, chunk_end)

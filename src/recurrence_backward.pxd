"""The BPTT loop, the counterpart of the time loop in recurrence.pxd: the same batches, division and directions."""
from kernels cimport (
    rnn_kernels, rnn_options, rnn_row_steps_backward, rnn_step_backward, rnn_team_barrier, rnn_team_leaves,
)
from recurrence cimport cut_rows_of, running, share

ctypedef struct SweepBackward:
    const rnn_kernels *kernels
    int cell
    bint reverse
    Py_ssize_t T, B, H, Hp, P, Pp, item, blocks
    const rnn_options *options
    const Py_ssize_t *offset
    bint units
    const Py_ssize_t *cuts
    const unsigned char *resets
    const char *w
    const char *w2
    const char *dy                # (total, P), stride dy_stride, or NULL
    Py_ssize_t dy_stride
    const char *gates
    const char *h_prev
    const char *c_prev
    char *dgates                  # (total, X*Hp) out
    char *dh                      # (B, Pp) in: gradient of the final state; out: of the initial state
    char *dc                      # (B, Hp)
    char *dphase                  # (B, Hp) scratch
    Py_ssize_t first, last

cdef inline void sweep_backward_part(void *arg, int part, int parts) noexcept nogil:
    """BPTT through steps first..last of the order of computation, the last one first: this thread's rows or units.

    Weight and input gradients are then products of dgates with arrays on the tape.
    """
    cdef SweepBackward *s = <SweepBackward *>arg
    if s.units:
        sweep_backward(s, 0, s.B, part, parts)
    else:
        sweep_backward(s, s.cuts[part], s.cuts[part + 1], 0, 1)

cdef inline bint sweep_backward_row(const SweepBackward *s, const rnn_step_backward *step) noexcept nogil:
    """Steps last..first of a batch of one row, in one call; False, and nothing is done, if there is no kernel for that.
    """
    cdef rnn_row_steps_backward r
    cdef Py_ssize_t way = 1 if s.reverse else -1, t = s.T - s.last if s.reverse else s.last - 1, row = s.Hp * s.item
    if s.B != 1 or s.offset[s.T] != s.T or s.options != NULL or s.resets != NULL:
        return False
    if s.kernels.row_steps_backward[s.cell] == NULL:
        return False
    r.step = step[0]
    r.step.rows = 1
    r.step.flip = False
    r.step.dy = s.dy + t * s.dy_stride * s.item if s.dy != NULL else NULL
    r.step.gates = s.gates + t * s.blocks * row
    r.step.dgates = s.dgates + t * s.blocks * row
    r.step.h_prev = s.h_prev + t * row
    r.step.c_prev = s.c_prev + t * row if s.c_prev != NULL else NULL
    r.step.dh, r.step.dc = s.dh, s.dc
    r.steps = s.last - s.first
    r.gates_stride, r.h_stride = way * s.blocks * s.Hp, way * s.Hp
    r.c_stride = r.h_stride if s.c_prev != NULL else 0
    r.dy_stride = way * s.dy_stride if s.dy != NULL else 0
    return s.kernels.row_steps_backward[s.cell](&r) != 0

cdef inline void sweep_backward(SweepBackward *s, Py_ssize_t b0, Py_ssize_t b1, int part, int parts) noexcept nogil:
    """Rows [b0, b1) of steps last..first, this part's units."""
    cdef rnn_step_backward step
    cdef Py_ssize_t row = s.Hp * s.item, h_row = s.Pp * s.item
    cdef Py_ssize_t q, t, lo, hi, at, cut
    step.H = s.H
    step.Hp = s.Hp
    step.P = s.P
    step.Pp = s.Pp
    step.options = s.options
    step.w = s.w
    step.w2 = s.w2
    step.dy_stride = s.dy_stride
    step.u0 = share(s.kernels, s.Hp, part, parts)
    step.u1 = share(s.kernels, s.Hp, part + 1, parts)
    step.p0 = share(s.kernels, s.Pp, part, parts)
    step.p1 = share(s.kernels, s.Pp, part + 1, parts)
    step.part = part
    step.parts = parts
    if parts == 1 and b0 < b1 and sweep_backward_row(s, &step):
        return
    for q in range(s.last - 1, s.first - 1, -1):
        t = s.T - 1 - q if s.reverse else q
        lo = running(s.offset, t, b0)
        hi = running(s.offset, t, b1)
        if lo == hi:
            continue
        at = s.offset[t] + lo
        step.rows = hi - lo
        step.dy = s.dy + at * s.dy_stride * s.item if s.dy != NULL else NULL
        step.gates = s.gates + at * s.blocks * row
        step.h_prev = s.h_prev + at * h_row
        step.c_prev = s.c_prev + at * row if s.c_prev != NULL else NULL
        step.dgates = s.dgates + at * s.blocks * row
        step.dh = s.dh + lo * h_row
        step.dc = s.dc + lo * row if s.dc != NULL else NULL
        step.dphase = s.dphase + lo * row if s.dphase != NULL else NULL
        step.flip = q & 1
        if step.parts > 1 and rnn_team_leaves(part):
            rnn_team_barrier(part, parts)        # afterwards the other parts have finished the previous step
            if part > 0:
                return
            step.u1, step.p1, step.parts = s.Hp, s.Pp, 1
        s.kernels.backward[s.cell](&step)
        if s.resets != NULL:
            cut = t + 1 if s.reverse else t
            hi = 0 if cut == s.T else running(s.offset, cut, hi)
            cut_rows_of(s.dh, h_row, s.resets + s.offset[cut], lo, hi, step.p0 * s.item, step.p1 * s.item)
            if s.dc != NULL:
                cut_rows_of(s.dc, row, s.resets + s.offset[cut], lo, hi, step.u0 * s.item, step.u1 * s.item)

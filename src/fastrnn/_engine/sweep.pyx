"""The forward pass of layers, and how a pass is divided among threads.

Shapes are in the comments at the arguments; fastrnn._check has seen to them. An array that may be absent is None.
"""
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t

from buffers cimport address
from fastrnn._engine.core cimport call_threads, kernels_for, process_table
from kernels cimport *
from recurrence cimport Sweep, sweep, sweep_part
from threads cimport (
    AWAKE_DISCOUNT, MAX_PARTS, OWN_CACHE, SPLIT_FLOPS, SPLIT_ROWS, WAVE_FLOPS, WAVE_STEPS, cut_rows, parts_for, slice_steps, unit_parts,
)

import numpy as np

cdef int forced_split = -1             # 0: rows, 1: units, for tests and measurements


def force_split(name):
    """Split the calls to come by "rows" or "units" whatever their size, for tests; None: as the cost model says."""
    global forced_split
    forced_split = -1 if name is None else ["rows", "units"].index(name)


cdef bint split_is_forced() noexcept nogil:
    return forced_split >= 0


cdef int split_sweep(
    Split *split, Py_ssize_t B, const int64_t *lengths, Py_ssize_t total, Py_ssize_t T, Py_ssize_t vectors, double flops_per_row,
    Py_ssize_t weight_bytes, int meetings, int least, bint awake,
) except -1:
    """How a sweep over total rows is divided: by rows, unless there are few for the size of the weights. awake: the other threads are at hand."""
    cdef int threads = call_threads(), units = 1
    cdef double flops = flops_per_row * total, worth = flops * AWAKE_DISCOUNT if awake else flops
    split.parts = parts_for(B, worth, threads)
    split.units = False
    if threads > 1 and (split.parts < threads or weight_bytes > OWN_CACHE) and not rnn_split_paused():
        units = unit_parts(vectors, least, flops / T, worth, meetings, threads)
        if units > split.parts or (units == split.parts and split.parts > 1):
            split.parts, split.units = units, True
    if forced_split >= 0 and threads > 1:
        split.units = forced_split == 1
        split.parts = min(threads, vectors if split.units else B, MAX_PARTS)
    cut_rows(split.cuts, split.parts, B, lengths, total)
    return 0


cdef class Options:
    """What a cell with options does otherwise than its plain kind, for one layer and direction."""

    def __init__(
        self, functions,                   # (kind, alpha, beta) of gates, candidate and output: kernels.h
        double clip, Py_ssize_t blocks,
        Py_ssize_t P, Py_ssize_t Pp, bint projected,  # features of h
        peephole,                          # (gates-1, Hp) or None                               in
    ):
        cdef rnn_options *o = &self.options
        (o.gate.kind, o.gate.alpha, o.gate.beta), (o.candidate.kind, o.candidate.alpha, o.candidate.beta), output = functions
        o.output.kind, o.output.alpha, o.output.beta = output
        o.clip, o.blocks, o.projected, o.peephole = clip, blocks, projected, address(peephole)
        self.P, self.Pp, self.peephole = P, Pp, peephole


cdef class Forward:
    """One layer in one direction, made ready. Arguments were checked by fastrnn._check."""

    def __init__(
        self, int cell, bint reverse, Py_ssize_t H, Py_ssize_t Hp, Py_ssize_t I, Py_ssize_t blocks, Py_ssize_t x_blocks,
        const Py_ssize_t[::1] offset,      # (T+1,) step t owns rows offset[t]:offset[t+1]       in
        lengths,                           # (B,) int64, longest first, or None: all T           in
        Py_ssize_t B,
        resets,                            # (rows,) bool or None                                in
        x,                                 # (rows, I) or None                                   in
        ids, token_parts,                  # (rows,) int64 and (V, x_blocks*Hp), or None         in
        w_ih, w, w2,                       # packed weights                                      in
        bias, Py_ssize_t bias_stride,      # (B or 1, X*Hp)                                      in
        gates,                             # (rows, X*Hp) tape, or scratch for `chunk` steps     out
        h_prev, c_prev,                    # (rows, Hp) tape, or (2, B, Hp) scratch              out
        h_n, c_n,                          # (B, Hp)       in: initial state; out: final state
        y, Py_ssize_t y_column, Py_ssize_t y_stride,    # (rows, y_stride), from this column on   out
        bint keep, Py_ssize_t chunk,
    ):
        cdef Sweep *s = &self.s
        self.held = (lengths, resets, x, ids, token_parts, w_ih, w, w2, bias, gates, h_prev, c_prev, h_n, c_n, y)
        self.offset, self.lengths = offset, <const int64_t *>address(lengths)
        s.kernels = kernels_for(y)
        s.cell, s.reverse, s.T, s.B, s.I, s.H, s.Hp = cell, reverse, offset.shape[0] - 1, B, I, H, Hp
        s.blocks, s.x_blocks, s.item = blocks, x_blocks, y.itemsize
        s.offset = &offset[0]
        s.resets = <const unsigned char *>address(resets)
        s.x = address(x)
        s.ids = <const int64_t *>address(ids)
        s.table = address(token_parts)
        s.w_ih, s.w, s.w2 = address(w_ih), address(w), address(w2)
        s.bias = address(bias)
        s.bias_stride = bias_stride
        s.gates = address(gates, True)
        s.h_prev, s.c_prev = address(h_prev, True), address(c_prev, True)
        s.h_n, s.c_n = address(h_n, True), address(c_n, True)
        s.y = address(y, True) + y_column * s.item
        s.y_stride = y_stride
        s.keep = keep
        s.chunk = chunk
        s.P, s.Pp = H, Hp
        self.total = offset[s.T]
        self.flops_per_row = 2.0 * blocks * H * (H + (I if s.x != NULL else 0))

    def set_options(self, Options options):
        """A cell with options; where it projects, h_prev, h_n and y have P features."""
        self.s.options, self.s.P, self.s.Pp = &options.options, options.P, options.Pp
        self.held += (options,)

    def set_feed(self, w_feed, feed):
        """A second input of each row, feed (rows, F), w_feed packed (x_blocks*Hp, F)."""
        self.s.w_feed, self.s.feed, self.s.F = address(w_feed), address(feed), feed.shape[1]
        self.held += (w_feed, feed)

    cdef int run(self) except -1:
        """All steps with all threads."""
        cdef Sweep *s = &self.s
        cdef Split *split = &self.split
        cdef double flops = self.flops_per_row * self.total
        split_sweep(split, s.B, self.lengths, self.total, s.T, s.Hp // s.kernels.lanes, self.flops_per_row,
                    s.blocks * s.H * s.H * s.item, phases(s.cell, s.options), least_vectors(s), False)
        s.units, s.cuts = split.units, split.cuts
        cdef Py_ssize_t step = slice_steps(s.chunk, s.T, flops / split.parts)
        s.first = 0
        while s.first < s.T:
            s.last = min(s.T, s.first + step)
            with nogil:
                rnn_team_run(sweep_part, s, split.parts, split.units)
            s.first = s.last
            PyErr_CheckSignals()
        return 0


def forward_sides(Forward one, Forward other):
    """Two directions of a layer: on a thread each, or one after the other with all threads."""
    cdef Sweep *sweeps[3]
    if not sides_pay(one.s.B, 2 * one.flops_per_row * one.total):
        forward_layers([one, other])
        return
    sweeps[0], sweeps[1], sweeps[2] = &one.s, &other.s, NULL
    run_sweeps(sweeps, 2, False, slice_steps(one.s.chunk, one.s.T, one.flops_per_row * one.total))


def forward_layers(list layers):
    """Layers from the bottom up, each with all threads."""
    cdef Forward layer
    for layer in layers:
        if layer.total:
            layer.run()


def forward_wave(list layers):
    """Layers from the bottom up at the same time, every parts-th on one thread, a chunk behind the one below it."""
    cdef Forward layer
    room = np.zeros(len(layers) + 1, np.uintp)    # pointers; the last one is NULL
    cdef Sweep **sweeps = <Sweep **>address(room, True)
    cdef int i = 0, parts = min(call_threads(), <int>len(layers), rnn_cpus())
    cdef double flops = 0
    for layer in layers:
        layer.s.chunk = min(layer.s.chunk, WAVE_STEPS)
        layer.s.below, layer.s.done = sweeps[i - 1] if i else NULL, 0
        sweeps[i] = &layer.s
        flops += layer.flops_per_row * layer.total
        i += 1
    run_sweeps(sweeps, parts, True, slice_steps(WAVE_STEPS, layer.s.T, flops / i))


cdef int run_sweeps(Sweep **sweeps, int parts, bint together, Py_ssize_t step) except -1:
    """Sweeps over the same steps, every parts-th on one thread, `step` steps at a time. The last pointer is NULL."""
    cdef Py_ssize_t T = sweeps[0].T, first = 0, i
    while first < T:
        i = 0
        while sweeps[i] != NULL:
            sweeps[i].first, sweeps[i].last, sweeps[i].units = first, min(T, first + step), False
            i += 1
        with nogil:
            rnn_team_run(sweeps_part, sweeps, parts, together)
        first = sweeps[0].last
        PyErr_CheckSignals()
    return 0


cdef void sweeps_part(void *arg, int part, int parts) noexcept nogil:
    """Every parts-th sweep, all rows and units of it."""
    cdef Sweep **sweeps = <Sweep **>arg
    cdef Py_ssize_t i = 0
    while sweeps[i] != NULL:
        if i % parts == part:
            sweep(sweeps[i], 0, sweeps[i].B, 0, 1)
        i += 1


cdef bint sides_pay(Py_ssize_t B, double flops) except -1:
    """Whether two directions go to a thread each: not if there are more threads and rows for them."""
    cdef int threads = call_threads()
    return threads > 1 and flops >= SPLIT_FLOPS and forced_split < 0 and parts_for(B, flops, threads) <= 2


def waves_pay(Py_ssize_t layers, Py_ssize_t B, Py_ssize_t T, double step_flops):
    """Whether layers that follow each other a few steps apart, on a thread each, beat a split of the rows or units of each layer."""
    return (layers > 1 and call_threads() > 1 and forced_split < 0 and B < 2 * SPLIT_ROWS and T >= 4 * WAVE_STEPS
            and SPLIT_FLOPS / T <= step_flops < WAVE_FLOPS and rnn_cpus() > 1 and not rnn_split_paused() and rnn_team_barrier_seconds() < 1e-6)


def chunk_steps(Py_ssize_t B, Py_ssize_t row_bytes):
    """Steps whose input parts are computed at once: they stay in L2, but the product shall have enough rows."""
    return steps_of_chunk(B, row_bytes)


rnn_link(process_table())

"""The forward pass of layers, and how a pass is divided among threads.

Shapes are in the comments at the arguments, which fastrnn._check has checked. An array that may be absent is None.
"""
from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport INFINITY
from libc.stdint cimport int64_t

from buffers cimport address
from fastrnn._engine.core cimport call_threads, kernels_for, process_table
from fastrnn._engine.plan cimport Op, perform
from kernels cimport *
from recurrence cimport Sweep, sweep, sweep_part
from threads cimport (
    AWAKE_DISCOUNT, MAX_PARTS, OWN_CACHE, SPLIT_FLOPS, SPLIT_ROWS, WAVE_FLOPS, WAVE_STEPS, cut_rows, parts_for,
    slice_steps, unit_parts,
)

import numpy as np

cdef int forced_split = -1             # 0: rows, 1: units, for tests and measurements


def force_split(name):
    """Divide calls by "rows" or "units" whatever their size, for tests; None: according to the cost model."""
    global forced_split
    forced_split = -1 if name is None else ["rows", "units"].index(name)


cdef bint split_is_forced() noexcept nogil:
    return forced_split >= 0


cdef int split_sweep(Split *split, const Work *work) except -1:
    """Divide a sweep by rows, or by units if there are few rows for the size of the weights."""
    cdef int threads = call_threads(), units = 1
    cdef double flops = work.flops_per_row * work.total, worth = flops * AWAKE_DISCOUNT if work.awake else flops
    split.parts = parts_for(work.B, worth, threads)
    split.units = False
    if threads > 1 and (split.parts < threads or work.weight_bytes > OWN_CACHE) and not rnn_split_paused():
        units = unit_parts(work.vectors, work.least, flops / work.T, worth, work.barriers, threads)
        if units > split.parts or (units == split.parts and split.parts > 1):
            split.parts, split.units = units, True
    if forced_split >= 0 and threads > 1:
        split.units = forced_split == 1
        split.parts = min(threads, work.vectors if split.units else work.B, MAX_PARTS)
    cut_rows(split.cuts, split.parts, work.B, work.lengths, work.total)
    return 0


cdef class LayerWeights:
    """Sizes and packed weights of one layer in one direction, built once for each version of the parameters."""

    def __init__(
        self, int cell,                    # code of `CELLS`
        Py_ssize_t H, Py_ssize_t P,        # units; features of h
        Py_ssize_t I,                      # features of the input
        Py_ssize_t blocks, *,
        w,                                 # packed W_hh                                         in
        w2=None,                           # packed W_hn of a second phase, or W_hr, or None     in
        w_ih=None,                         # packed (G*Hp, I), or None                           in
        bias=None,                         # (X*Hp,) or None                                     in
        functions=None,                    # (kind, alpha, beta) of gates, candidate, output; None: no options
        double clip=INFINITY,
        bint projected=False,
        peephole=None,                     # (gates-1, Hp) or None                               in
    ):
        cdef rnn_options *o = &self.options
        cdef Py_ssize_t lanes
        self.kernels = kernels_for(w)
        lanes = self.kernels.lanes
        self.cell, self.item, self.H, self.P, self.I, self.blocks = cell, w.itemsize, H, P, I, blocks
        self.x_blocks = rnn_cells[cell].gates
        self.Hp, self.Pp = (H + lanes - 1) // lanes * lanes, (P + lanes - 1) // lanes * lanes
        self.w, self.w2, self.w_ih, self.bias = address(w), address(w2), address(w_ih), address(bias)
        self.has_options = functions is not None
        if self.has_options:
            gate, candidate, output = functions
            o.gate.kind, o.gate.alpha, o.gate.beta = gate
            o.candidate.kind, o.candidate.alpha, o.candidate.beta = candidate
            o.output.kind, o.output.alpha, o.output.beta = output
            o.clip, o.blocks, o.projected, o.peephole = clip, blocks, projected, address(peephole)
        self.held = (w, w2, w_ih, bias, peephole)


cdef class Steps:
    """Where the rows of a batch are in arrays of all steps, and in which order the steps are computed."""

    def __init__(
        self, const Py_ssize_t[::1] offset,  # (T+1,) step t owns rows offset[t]:offset[t+1]     in
        Py_ssize_t B,
        lengths,                             # (B,) int64, longest first, or None: all T         in
        resets,                              # (rows,) bool or None                              in
        bint reverse,                        # from the last step to the first
    ):
        self.offset, self.B, self.T, self.reverse = offset, B, offset.shape[0] - 1, reverse
        self.lengths = <const int64_t *>address(lengths)
        self.resets = <const unsigned char *>address(resets)
        self.held = (lengths, resets)


cdef class Forward(Op):
    """One layer in one direction, prepared for one forward pass."""

    def __init__(
        self, LayerWeights weights, Steps steps,
        x,                                 # (rows, I), or None                                  in
        arrays,                            # StepArrays: of the tape, or of `chunk` steps        out
        states,                            # (h, c): (B, Pp), (B, Hp) or None  in: initial states; out: final states
        y, Py_ssize_t column,              # (rows, .), of which P columns from this one on      out
        Py_ssize_t chunk,
    ):
        cdef Sweep *s = &self.s
        gates, h_prev, c_prev, keep = arrays
        h, c = states
        s.kernels, s.cell, s.item, s.blocks, s.x_blocks = (
            weights.kernels, weights.cell, weights.item, weights.blocks, weights.x_blocks
        )
        s.H, s.Hp, s.P, s.Pp, s.I = weights.H, weights.Hp, weights.P, weights.Pp, weights.I
        s.options = &weights.options if weights.has_options else NULL
        s.w_ih, s.w, s.w2, s.bias, s.bias_stride = weights.w_ih, weights.w, weights.w2, weights.bias, 0
        s.reverse, s.T, s.B, s.offset, s.resets = (
            steps.reverse, steps.T, steps.B, &steps.offset[0], steps.resets
        )
        s.x = address(x)
        s.gates, s.h_prev, s.c_prev = address(gates, True), address(h_prev, True), address(c_prev, True)
        s.h_n, s.c_n = address(h, True), address(c, True)
        s.y = address(y, True) + column * s.item
        s.y_stride = y.shape[1]
        s.keep, s.chunk = keep, chunk
        self.lengths = steps.lengths
        self.flops_per_row = 2.0 * s.blocks * s.H * (s.H + (s.I if s.x != NULL else 0))
        self.held = (weights, steps, x, gates, h_prev, c_prev, h, c, y)

    def set_tokens(self, ids, table):
        """Use rows of table (V, G*Hp), input parts of embeddings, as input: that of each id of ids (rows,) int64."""
        self.s.ids, self.s.table = <const int64_t *>address(ids), address(table)
        self.held += (ids, table)

    def set_bias(self, bias):
        """Use one row of bias (B, X*Hp) for each row of the batch."""
        self.s.bias, self.s.bias_stride = address(bias), bias.shape[1]
        self.held += (bias,)

    def set_feed(self, w_feed, feed):
        """Add a second input feed (rows, F), with w_feed packed (G*Hp, F)."""
        self.s.w_feed, self.s.feed, self.s.F = address(w_feed), address(feed), feed.shape[1]
        self.held += (w_feed, feed)

    cdef int run(self) except -1:
        """Compute all steps, with all threads."""
        cdef Sweep *s = &self.s
        cdef Split *split = &self.split
        cdef double flops = self.flops_per_row * s.offset[s.T]
        cdef Work work
        if s.offset[s.T] == 0:
            return 0
        work.T, work.B, work.total, work.lengths = s.T, s.B, s.offset[s.T], self.lengths
        work.flops_per_row, work.vectors = self.flops_per_row, s.Hp // s.kernels.lanes
        work.weight_bytes = s.blocks * s.H * s.H * s.item
        work.barriers, work.least, work.awake = barriers(s.cell, s.options), least_vectors(s), False
        split_sweep(split, &work)
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


cdef class Sides(Op):
    cdef Forward one, other

    cdef int run(self) except -1:
        cdef Forward one = self.one, other = self.other
        cdef Sweep *sweeps[3]
        cdef double flops = one.flops_per_row * one.s.offset[one.s.T]
        if sides_pay(one.s.B, 2 * flops):
            sweeps[0], sweeps[1], sweeps[2] = &one.s, &other.s, NULL
            return run_sweeps(sweeps, 2, False, slice_steps(one.s.chunk, one.s.T, flops))
        if flops:
            one.run()
            other.run()
        return 0


def forward_sides(Forward one, Forward other):
    """Compute two directions of a layer, each on a thread of its own, or one after the other with all threads."""
    cdef Sides op = Sides.__new__(Sides)
    op.one, op.other = one, other
    perform(op)


def forward_layers(list layers):
    """Compute layers from the bottom up, each with all threads."""
    cdef Forward layer
    for layer in layers:
        perform(layer)


cdef class Wave(Op):
    cdef list layers
    cdef object room                   # pointers to their sweeps; the last one is NULL

    cdef int run(self) except -1:
        cdef Forward layer
        cdef Sweep **sweeps = <Sweep **>address(self.room, True)
        cdef int i = 0, parts = min(call_threads(), <int>len(self.layers), rnn_cpus())
        cdef double flops = 0
        for layer in self.layers:
            layer.s.chunk = min(layer.s.chunk, WAVE_STEPS)
            layer.s.below, layer.s.done = sweeps[i - 1] if i else NULL, 0
            sweeps[i] = &layer.s
            flops += layer.flops_per_row * layer.s.offset[layer.s.T]
            i += 1
        return run_sweeps(sweeps, parts, True, slice_steps(WAVE_STEPS, layer.s.T, flops / i))


def forward_wave(list layers):
    """Compute layers at the same time, every parts-th on one thread, each a chunk of steps behind the one below it."""
    cdef Wave op = Wave.__new__(Wave)
    op.layers, op.room = layers, np.zeros(len(layers) + 1, np.uintp)
    perform(op)


cdef int run_sweeps(Sweep **sweeps, int parts, bint together, Py_ssize_t step) except -1:
    """Compute sweeps over the same steps, every parts-th on one thread, `step` steps at a time. NULL ends the list."""
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
    """Every parts-th sweep, with all its rows and units."""
    cdef Sweep **sweeps = <Sweep **>arg
    cdef Py_ssize_t i = 0
    while sweeps[i] != NULL:
        if i % parts == part:
            sweep(sweeps[i], 0, sweeps[i].B, 0, 1)
        i += 1


cdef bint sides_pay(Py_ssize_t B, double flops) except -1:
    """Whether each direction gets a thread of its own: not if the rows can be divided among more threads."""
    cdef int threads = call_threads()
    return threads > 1 and flops >= SPLIT_FLOPS and forced_split < 0 and parts_for(B, flops, threads) <= 2


def waves_pay(Py_ssize_t layers, Py_ssize_t B, Py_ssize_t T, double step_flops):
    """Whether `forward_wave` is faster than dividing the rows or units of each layer."""
    return (
        layers > 1 and call_threads() > 1 and forced_split < 0 and B < 2 * SPLIT_ROWS and T >= 4 * WAVE_STEPS
        and SPLIT_FLOPS / T <= step_flops < WAVE_FLOPS and rnn_cpus() > 1
        and not rnn_split_paused() and rnn_team_barrier_seconds() < 1e-6
    )


def chunk_steps(Py_ssize_t B, Py_ssize_t row_bytes):
    """Steps whose input parts are computed at once: few enough for L2, but enough rows for an efficient product."""
    return steps_of_chunk(B, row_bytes)


rnn_link(process_table())

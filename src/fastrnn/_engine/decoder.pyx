"""Decoders: attention, its backward pass, and the generation of sequences.

Shapes are in the comments at the arguments, which fastrnn._check has checked. An array that may be absent is None.
"""
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint64_t

from attention cimport Attention, AttentionBackward, decode_backward_part, decode_part
from buffers cimport address, matrix
from fastrnn._engine.bptt cimport Bptt
from fastrnn._engine.core cimport call_threads, kernels_for, process_table
from fastrnn._engine.plan cimport Op, perform, refuse_recording
from fastrnn._engine.sweep cimport Forward
from kernels cimport *
from recurrence cimport Sweep
from recurrence_backward cimport SweepBackward
from search cimport MAX_HYPOTHESES, Search, search_part
from threads cimport MAX_PARTS, cut_rows, parts_for, slice_steps

import numpy as np

from fastrnn._engine.rows import empty


cdef class Attend(Op):
    cdef rnn_attend s
    cdef const rnn_kernels *kernels
    cdef Py_ssize_t memories

    cdef int run(self) except -1:
        check_memories(&self.s, self.memories)
        with nogil:
            mode = rnn_flush_denormals()
            self.kernels.attend(&self.s)
            rnn_restore_denormals(mode)
        return 0


def attend(
    query,                             # (R, A), any row stride                               in
    keys, values,                      # (N, A), (N, M)                                       in
    const int64_t[::1] first,          # (R,) the memory of row r: first[r] .. first[r]+count[r]   in
    const int64_t[::1] count,          # (R,)                                                 in
    alpha,                             # (R, S), S >= count                                   out
    context,                           # (R, M), any row stride                               out
    *, v=None,                         # (A,): score v . tanh(query + key); None: query . key    in
    bint softmax=True,                 # False: alpha is the scores
):
    """The weights of each row over its own memory, and the weighted sum of the values."""
    cdef Attend op = Attend.__new__(Attend)
    cdef rnn_attend *s = &op.s
    op.kernels, op.memories = kernels_for(alpha), keys.shape[0]
    if first.shape[0] == 0:
        return
    s.first, s.count, s.softmax, s.v = &first[0], &count[0], softmax, address(v)
    set_attention(s, query, keys, values, alpha, context, True)
    op.held = query, keys, values, first, count, alpha, context, v
    perform(op)


cdef int check_memories(const rnn_attend *s, Py_ssize_t N) except -1:
    """Raise an IndexError if a row's memory is not in the arrays of N keys."""
    cdef Py_ssize_t r
    cdef bint inside = True
    for r in range(s.rows):
        inside &= s.first[r] >= 0 and 0 <= s.count[r] <= min(s.S, N - s.first[r])
    if not inside:
        raise IndexError(f"the memory of a row is not in {N} keys, or has more than {s.S}")
    return 0


cdef int set_attention(rnn_attend *s, query, keys, values, alpha, context, bint write) except -1:
    """Set the arrays of attention. context may be its gradient. write: alpha and context are written."""
    cdef Py_ssize_t item = alpha.itemsize
    s.query = matrix(query, item, False, &s.rows, &s.A, &s.ldq)
    s.context = matrix(context, item, write, &s.rows, &s.M, &s.ldc)
    s.S, s.keys, s.values, s.alpha = alpha.shape[1], address(keys), address(values), address(alpha, write)
    return 0


cdef class AttendBackward(Op):
    cdef rnn_attend_backward s
    cdef const rnn_kernels *kernels
    cdef Py_ssize_t memories

    cdef int run(self) except -1:
        check_memories(&self.s.forward, self.memories)
        with nogil:
            mode = rnn_flush_denormals()
            self.kernels.attend_backward(&self.s)
            rnn_restore_denormals(mode)
        return 0


def attend_backward(
    query, keys, values, const int64_t[::1] first, const int64_t[::1] count,    # as in attend       in
    alpha,                             # (R, S)                                               in
    dcontext,                          # (R, M), any row stride                               in
    *, v=None, bint softmax=True,
    dquery,                            # (R, A), any row stride                               out
    dkeys, dvalues,                    # (N, A), (N, M)                                       +=
    dv_rows=None,                      # (R, A) with v: dv of each row                        +=
):
    """The gradients of `attend`."""
    cdef AttendBackward op = AttendBackward.__new__(AttendBackward)
    cdef rnn_attend_backward *s = &op.s
    op.kernels, op.memories = kernels_for(alpha), keys.shape[0]
    if first.shape[0] == 0:
        return
    dscore = empty(alpha.shape, alpha.dtype)
    s.forward.first, s.forward.count, s.forward.softmax, s.forward.v = &first[0], &count[0], softmax, address(v)
    set_attention(&s.forward, query, keys, values, alpha, dcontext, False)
    s.dcontext = s.forward.context
    s.dquery = matrix(dquery, alpha.itemsize, True, &s.forward.rows, &s.forward.A, &s.ldd)
    s.dscore, s.dkeys, s.dvalues = address(dscore, True), address(dkeys, True), address(dvalues, True)
    s.dv = address(dv_rows, True)
    op.held = query, keys, values, first, count, alpha, dcontext, v, dquery, dkeys, dvalues, dv_rows, dscore
    perform(op)


cdef class Decoder:
    """A decoder with attention, prepared for a forward pass: its recurrent layers, the attention, and the output."""
    cdef Attention d
    cdef double flops_per_row
    cdef Py_ssize_t total
    cdef const int64_t *lengths
    cdef list held

    def __init__(
        self, list layers, *,              # Forward of each; the top one writes into `joined`
        const int64_t[::1] first,          # (B,) the memory of each row: first .. first+count            in
        const int64_t[::1] count,          # (B,)                                                         in
        keys, values,                      # (N, A), (N, M)                                               in
        w_out, bias,                       # packed (F, M+H), (F,)                                        in
        alpha, joined, a,                  # (rows, S), (rows, M+H), (rows, F)                            out
        v=None, w_query=None,              # (A,), packed (A, H): of the additive score                   in
        query=None,                        # (rows, A) with w_query                                       out
        feed=None,                         # (rows, F) or None: a of the previous step                    out
        double p=0,                        # of the dropout between layers
        const uint64_t[::1] masks=None, const uint64_t[::1] row_id=None,    # (L,), (rows,) its keys      in
    ):
        cdef Attention *d = &self.d
        cdef Forward layer = layers[0]
        cdef Py_ssize_t l
        room = np.zeros(len(layers), np.uintp)
        self.held = [layers, first, count, keys, values, w_out, bias, alpha, joined, a, v, w_query, query, feed,
                     masks, row_id, room]
        d.layers = <const Sweep **>address(room, True)
        d.kernels, d.item, d.L, d.B, d.H = layer.s.kernels, layer.s.item, len(layers), layer.s.B, layer.s.H
        d.offset = layer.s.offset
        d.A, d.M, d.F, d.S = keys.shape[1], values.shape[1], a.shape[1], alpha.shape[1]
        if d.B:
            d.first, d.count = &first[0], &count[0]
        d.keys, d.values, d.v, d.w_query = address(keys), address(values), address(v), address(w_query)
        d.w_out, d.bias = address(w_out), address(bias)
        d.query, d.alpha, d.joined = address(query, True), address(alpha, True), address(joined, True)
        d.a, d.feed = address(a, True), address(feed, True)
        d.p = p
        if p and row_id.shape[0]:
            d.masks, d.row_id = &masks[0], &row_id[0]
        self.lengths, self.total = layer.lengths, layer.s.offset[layer.s.T]
        self.flops_per_row = 2.0 * (d.F * (d.M + d.H) + d.A * d.H + 8 * d.S * (d.A + d.M))
        for l in range(d.L):
            layer = layers[l]
            d.layers[l] = &layer.s
            self.flops_per_row += layer.flops_per_row + 2.0 * layer.s.blocks * layer.s.H * layer.s.F

    cdef int split(self, Attention *d) except -1:
        """Divide the rows; return the number of parts."""
        cdef int parts = parts_for(d.B, self.flops_per_row * self.total, call_threads())
        cut_rows(d.cuts, parts, d.B, self.lengths, self.total)
        return parts

    def forward(self):
        """Compute all steps, in slices, with a check for signals after each."""
        cdef Attention *d = &self.d
        cdef Py_ssize_t T = d.layers[0].T, step
        cdef int parts
        refuse_recording("a decoder")
        if self.total == 0:
            return
        parts = self.split(d)
        step = slice_steps(1, T, self.flops_per_row * self.total / parts)
        d.t0 = 0
        while d.t0 < T:
            d.t1 = min(T, d.t0 + step)
            with nogil:
                rnn_team_run(decode_part, d, parts, False)
            d.t0 = d.t1
            PyErr_CheckSignals()

    def backward(
        self, list layers, *,              # Bptt of each
        list w_below,                      # W_ih of each layer packed for dgates @ W_ih; first: W of the feed   in
        da,                                # (rows, F)  in: gradient of a; out: before its tanh
        w_out, w_query,                    # packed for the products of the gradients                     in
        dquery,                            # (rows, A)                                                    out
        dkeys, dvalues,                    # like keys, values; one array if the keys are the values      +=
        dv,                                # (B, A) or None                                               +=
        djoined, dbelow, dscore,           # (B, M+H), (B, H), (B, S) scratch
    ):
        """BPTT through all steps, then the products of each layer's dgates.

        It does not change the forward pass, so several may run at the same time.
        """
        cdef AttentionBackward g
        cdef Attention d = self.d
        cdef Py_ssize_t T = d.layers[0].T, l, step
        cdef Bptt layer
        cdef int parts
        refuse_recording("a decoder")
        if self.total == 0:
            return
        parts = self.split(&d)
        room = np.zeros(2 * d.L, np.uintp)
        g.layers = <const SweepBackward **>address(room, True)
        g.w_below = <const char **>(g.layers + d.L)
        g.forward, g.x_blocks = &d, d.layers[0].x_blocks
        for l in range(d.L):
            layer = layers[l]
            layer.chunk(0, 1)
            g.layers[l], g.w_below[l] = &layer.s, address(w_below[l])
        g.da, g.w_out, g.w_query, g.dquery = address(da, True), address(w_out), address(w_query), address(dquery, True)
        g.dkeys, g.dvalues, g.dv = address(dkeys, True), address(dvalues, True), address(dv, True)
        g.djoined, g.dbelow, g.dscore = address(djoined, True), address(dbelow, True), address(dscore, True)
        step = slice_steps(1, T, 2 * self.flops_per_row * self.total / parts)
        d.t1 = T
        while d.t1 > 0:
            d.t0 = max(0, d.t1 - step)
            with nogil:
                rnn_team_run(decode_backward_part, &g, parts, False)
            d.t1 = d.t0
            PyErr_CheckSignals()
        for layer in layers:
            layer.chunk_products(parts > 1)


max_hypotheses = MAX_HYPOTHESES


cdef class Writer:
    """A decoder that generates N sequences with K hypotheses each."""
    cdef Search s
    cdef double flops_per_row
    cdef Py_ssize_t steps
    cdef list held
    cdef object spare

    def __init__(
        self, list layers,                 # Forward of each: one step of N*K rows
        Decoder attention, *,              # of N*K rows, or None
        out,                               # (N*K, F) output of a step                                    in
        w, bias,                           # packed (V, F), (V,) or None                                  in
        logits, swap,                      # (N*K, V), (N*K, Hp) scratch
        int64_t[::1] ids,                  # (N*K,)  in: the first symbols
        int64_t end,                       # the end symbol
        const int64_t[::1] limits,         # (N,) most symbols of each sequence                           in
        given,                             # (T, N) int64 or None                                         in
        double temperature, uint64_t key, const uint64_t[::1] row_id,        # (N,)                       in
        double[::1] score,                 # (N*K,) in: 0 for the first hypothesis of each, else -inf
        int64_t[:, ::1] symbols, int64_t[:, ::1] parents,        # (T, N*K)                               out
        finished,                          # (count (N,), last, parent, ended, total (N, K)): search.pxd  out
    ):
        cdef Search *s = &self.s
        cdef Forward layer = layers[0]
        cdef Py_ssize_t l
        cdef int64_t[::1] count = finished[0]
        cdef int64_t[:, ::1] last = finished[1], parent = finished[2], ended = finished[3]
        cdef double[:, ::1] total = finished[4]
        room = np.zeros(len(layers), np.uintp)
        self.held = [layers, attention, out, w, bias, logits, swap, ids, limits, given, row_id, score, symbols, parents,
                     finished, room]
        s.layers = <const Sweep **>address(room, True)
        s.kernels, s.item, s.L = layer.s.kernels, layer.s.item, len(layers)
        s.N, s.K, s.F, s.V = last.shape[0], last.shape[1], out.shape[1], logits.shape[1]
        self.flops_per_row = 2.0 * s.F * s.V
        for l in range(s.L):
            layer = layers[l]
            s.layers[l] = &layer.s
            self.flops_per_row += layer.flops_per_row
        s.attention = NULL
        if attention is not None:
            s.attention = &attention.d
            self.flops_per_row += attention.flops_per_row
        s.out, s.w, s.bias = address(out), address(w), address(bias)
        s.logits, s.swap = address(logits, True), address(swap, True)
        s.ids, s.end, s.limits, s.given = &ids[0], end, &limits[0], <const int64_t *>address(given)
        s.temperature, s.key, s.row_id = temperature, key, &row_id[0]
        s.score, s.symbols, s.parents, s.count = &score[0], &symbols[0, 0], &parents[0, 0], &count[0]
        s.last, s.parent, s.ended, s.total = &last[0, 0], &parent[0, 0], &ended[0, 0], &total[0, 0]
        self.steps = symbols.shape[0]
        self.spare = np.empty((MAX_PARTS, s.V), logits.dtype) if temperature > 0 else None
        s.spare = address(self.spare, True)

    def run(self):
        """Generate all sequences, in slices of steps, with a check for signals after each."""
        refuse_recording("decoding")
        cdef Search *s = &self.s
        cdef Py_ssize_t step
        cdef double flops = self.flops_per_row * s.N * s.K
        cdef int parts = min(parts_for(s.N * s.K, flops * self.steps, call_threads()), s.N)
        cut_rows(s.cuts, parts, s.N, NULL, s.N)
        step = slice_steps(1, self.steps, flops * self.steps / parts)
        s.t0 = 0
        while s.t0 < self.steps:
            s.t1 = min(self.steps, s.t0 + step)
            with nogil:
                rnn_team_run(search_part, s, parts, False)
            s.t0 = s.t1
            PyErr_CheckSignals()


def log_sum_exp(logits, double[::1] out):
    """out (M,) = log(sum(exp(row))) of each row of logits (M, V), V >= 1."""
    cdef const char *x = address(logits)
    cdef const rnn_kernels *k = kernels_for(logits)
    cdef Py_ssize_t m, V = logits.shape[1], item = logits.itemsize
    refuse_recording("decoding")
    for m in range(out.shape[0]):
        out[m] = k.log_sum_exp(V, x + m * V * item)


def greatest(x, int64_t[::1] ids):
    """Indices (K,) of the K <= V greatest of x (V,), the greatest first, ties in order of index; -1 in place of NaN."""
    cdef const char *a = address(x)
    refuse_recording("decoding")
    if ids.shape[0]:
        kernels_for(x).greatest(len(x), a, ids.shape[0], &ids[0])


def draw(x, double temperature, double u):
    """Draw an index with probabilities softmax(x / temperature), from 0 <= u < 1; x (V,) is overwritten."""
    refuse_recording("decoding")
    return kernels_for(x).draw(len(x), address(x, True), temperature, u)


rnn_link(process_table())

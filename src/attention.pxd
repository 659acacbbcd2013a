"""The time loop of a decoder with attention and input feeding, forward and backward, without Python.

    s_t = cells((x_t, a_{t-1}), s_{t-1})
    alpha_t = softmax(score(s_t, keys))
    c_t = sum of alpha_t * values
    a_t = tanh(W [c_t; s_t] + b)

The layers are sweeps of recurrence.pxd, one step at a time. A thread computes its rows of all steps and does not wait
for other threads.
"""
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy
from kernels cimport rnn_attend, rnn_attend_backward, rnn_kernels, rnn_product
from recurrence cimport Sweep, running, sweep
from recurrence_backward cimport SweepBackward, sweep_backward
from threads cimport MAX_PARTS

ctypedef struct Attention:
    const rnn_kernels *kernels
    Py_ssize_t item, L, B, H, A, M, F, S
    const Py_ssize_t *offset          # (T+1,)
    const int64_t *first              # (B,) keys and values of each row are first .. first+count
    const int64_t *count
    const char *keys                  # (., A)
    const char *values                # (., M)
    const char *v                     # (A,) of the additive score, or NULL
    const char *w_query               # packed (A, H), or NULL: the query is the state
    const char *w_out                 # packed (F, M+H)
    const char *bias                  # (F,)
    char *query                       # (total, A) with w_query
    char *alpha                       # (total, S)
    char *joined                      # (total, M+H) [c_t; s_t]; the top layer writes its output there
    char *a                           # (total, F)
    char *feed                        # (total, F) a of the step before, or NULL
    double p                          # of the dropout between layers
    const uint64_t *masks             # (L,) its keys
    const uint64_t *row_id            # (total,)
    Py_ssize_t cuts[MAX_PARTS + 1]
    Py_ssize_t t0, t1                 # steps of this slice
    const Sweep **layers              # (L,)

ctypedef struct AttentionBackward:
    Attention *forward
    const SweepBackward **layers      # (L,)
    const char **w_below              # (L,) W_ih packed for dgates @ W_ih; of layer 0: W of the feed
    Py_ssize_t x_blocks
    char *da                          # (total, F) in: gradient of a; out: of W [c; s] + b
    const char *w_out                 # packed for da @ W
    const char *w_query               # packed for dquery @ W_query
    char *dquery                      # (total, A) out
    char *dkeys                       # (., A) +=
    char *dvalues                     # (., M) +=
    char *dv                          # (B, A) +=, one row for each row of the batch
    char *djoined                     # (B, M+H) scratch
    char *dbelow                      # (B, H) scratch
    char *dscore                      # (B, S) scratch

cdef inline void rows_product(
    const rnn_kernels *kernels, Py_ssize_t rows, Py_ssize_t N, Py_ssize_t K, const char *a, Py_ssize_t lda,
    const char *w, const char *bias, char *c, Py_ssize_t ldc, bint accumulate,
) noexcept nogil:
    """c (rows, N) = a (rows, K) @ w.T + bias, or += ."""
    cdef rnn_product p
    cdef Py_ssize_t first = 0
    p.groups = 1
    p.first = &first
    p.count = &rows
    p.N = N
    p.K = K
    p.a = a
    p.lda = lda
    p.w = w
    p.bias = bias
    p.c = c
    p.ldc = ldc
    p.accumulate = accumulate
    p.flip = False
    p.v0 = p.v1 = 0
    kernels.product(&p)

cdef inline rnn_attend attention_of(const Attention *d, Py_ssize_t row, Py_ssize_t b, Py_ssize_t rows) noexcept nogil:
    """Arguments of the kernel for rows of one step, whose memory is that of rows b, b+1, ... of the batch."""
    cdef Py_ssize_t width = d.M + d.H
    cdef rnn_attend s
    s.rows = rows
    s.A = d.A
    s.M = d.M
    s.S = d.S
    s.first = d.first + b
    s.count = d.count + b
    s.context = d.joined + row * width * d.item
    s.query = <char *>s.context + d.M * d.item
    s.ldc = s.ldq = width
    if d.w_query != NULL:
        s.query = d.query + row * d.A * d.item
        s.ldq = d.A
    s.keys = d.keys
    s.values = d.values
    s.v = d.v
    s.softmax = True
    s.alpha = d.alpha + row * d.S * d.item
    return s

cdef inline void attend_rows(const Attention *d, Py_ssize_t row, Py_ssize_t b, Py_ssize_t rows) noexcept nogil:
    """Compute a from the states in `joined`, for rows of one step."""
    cdef Py_ssize_t width = d.M + d.H
    cdef char *a = d.a + row * d.F * d.item
    cdef rnn_attend s = attention_of(d, row, b, rows)
    cdef char *joined = <char *>s.context
    if d.w_query != NULL:
        rows_product(d.kernels, rows, d.A, d.H, joined + d.M * d.item, width, d.w_query, NULL, <char *>s.query, d.A,
                     False)
    d.kernels.attend(&s)
    rows_product(d.kernels, rows, d.F, width, joined, width, d.w_out, d.bias, a, d.F, False)
    d.kernels.tanh_rows(rows, d.F, a, d.F)

cdef inline void decode_part(void *arg, int part, int parts) noexcept nogil:
    """Steps t0..t1, this thread's rows."""
    cdef Attention *d = <Attention *>arg
    cdef Py_ssize_t b0 = d.cuts[part], b1 = d.cuts[part + 1], t, l, lo, hi, at, on, width = d.F * d.item
    cdef Sweep layer
    for t in range(d.t0, d.t1):
        lo = running(d.offset, t, b0)
        hi = running(d.offset, t, b1)
        if lo == hi:
            return
        at = d.offset[t] + lo
        for l in range(d.L):
            layer = d.layers[l][0]
            layer.first = t
            layer.last = t + 1
            sweep(&layer, b0, b1, 0, 1)
            if d.p > 0 and l < d.L - 1:
                d.kernels.dropout(hi - lo, d.H, layer.y + at * layer.y_stride * d.item, layer.y_stride, d.row_id + at,
                                  d.masks[l], d.p)
        attend_rows(d, at, lo, hi - lo)
        on = 0 if t + 1 == d.layers[0].T else running(d.offset, t + 1, hi) - lo
        if d.feed != NULL and on > 0:
            memcpy(d.feed + (d.offset[t + 1] + lo) * width, d.a + at * width, on * width)

cdef inline void decode_backward_part(void *arg, int part, int parts) noexcept nogil:
    """Steps t1..t0, this thread's rows."""
    cdef AttentionBackward *g = <AttentionBackward *>arg
    cdef Attention *d = g.forward
    cdef Py_ssize_t b0 = d.cuts[part], b1 = d.cuts[part + 1], t, lo, hi
    for t in range(d.t1 - 1, d.t0 - 1, -1):
        lo = running(d.offset, t, b0)
        hi = running(d.offset, t, b1)
        if lo < hi:
            attend_rows_backward(g, d.offset[t] + lo, lo, hi - lo)
            cells_backward(g, t, b0, b1, lo, hi)

cdef inline void attend_rows_backward(
    const AttentionBackward *g, Py_ssize_t row, Py_ssize_t b, Py_ssize_t rows,
) noexcept nogil:
    """Compute the gradients of c and s in `djoined`, and of the memory, from da, for rows of one step."""
    cdef const Attention *d = g.forward
    cdef Py_ssize_t width = d.M + d.H, i
    cdef char *djoined = g.djoined + b * width * d.item
    cdef char *da = g.da + row * d.F * d.item
    cdef rnn_attend_backward s
    d.kernels.tanh_rows_backward(rows, d.F, d.a + row * d.F * d.item, da)
    rows_product(d.kernels, rows, width, d.F, da, d.F, g.w_out, NULL, djoined, width, False)
    s.forward = attention_of(d, row, b, rows)
    s.dcontext = djoined
    s.dquery = g.dquery + row * d.A * d.item
    s.ldd = d.A
    s.dkeys = g.dkeys
    s.dvalues = g.dvalues
    s.dv = g.dv + b * d.A * d.item if g.dv != NULL else NULL
    s.dscore = g.dscore + b * d.S * d.item
    d.kernels.attend_backward(&s)
    if d.w_query != NULL:
        rows_product(d.kernels, rows, d.H, d.A, <char *>s.dquery, d.A, g.w_query, NULL, djoined + d.M * d.item, width,
                     True)
    else:
        for i in range(rows):
            d.kernels.column_sum(1, d.H, <char *>s.dquery + i * d.A * d.item, d.A,
                                 djoined + (i * width + d.M) * d.item)

cdef inline void cells_backward(
    const AttentionBackward *g, Py_ssize_t t, Py_ssize_t b0, Py_ssize_t b1, Py_ssize_t lo, Py_ssize_t hi,
) noexcept nogil:
    """Compute dgates of all layers at step t from the gradient of s, and add to da of the previous step."""
    cdef const Attention *d = g.forward
    cdef Py_ssize_t l, at = d.offset[t], row = at + lo, rows = hi - lo, width = d.M + d.H
    cdef SweepBackward layer
    cdef char *dgates
    for l in range(d.L - 1, -1, -1):
        layer = g.layers[l][0]
        layer.first = t
        layer.last = t + 1
        layer.dy = g.dbelow - at * d.H * d.item       # so that row b of the batch is row b of dbelow
        layer.dy_stride = d.H
        if l == d.L - 1:
            layer.dy = g.djoined + d.M * d.item - at * width * d.item
            layer.dy_stride = width
        sweep_backward(&layer, b0, b1, 0, 1)
        dgates = layer.dgates + row * layer.blocks * layer.Hp * d.item
        if l > 0:
            rows_product(d.kernels, rows, d.H, g.x_blocks * layer.Hp, dgates, layer.blocks * layer.Hp, g.w_below[l],
                         NULL, g.dbelow + lo * d.H * d.item, d.H, False)
            if d.p > 0:
                d.kernels.dropout(rows, d.H, g.dbelow + lo * d.H * d.item, d.H, d.row_id + row, d.masks[l - 1], d.p)
        elif d.feed != NULL and t > 0:
            rows_product(d.kernels, rows, d.F, g.x_blocks * layer.Hp, dgates, layer.blocks * layer.Hp, g.w_below[0],
                         NULL, g.da + (d.offset[t - 1] + lo) * d.F * d.item, d.F, True)

"""Operations of other layers: softmax, losses, dropout.

Shapes are in the comments at the arguments. An array that may be absent is None.
"""
from libc.stdint cimport int64_t, uint64_t

from buffers cimport address, address_2d
from fastrnn._engine.core cimport call_threads, kernels_for, process_table
from fastrnn._engine.plan cimport KeyedOp, Op, perform
from kernels cimport *
from threads cimport parts_for


ctypedef struct Softmax:
    const rnn_kernels *kernels
    Py_ssize_t M, V, item
    const char *logits
    const int64_t *targets
    const char *weights
    double *nll
    char *dlogits


cdef void softmax_nll_part(void *arg, int part, int parts) noexcept nogil:
    cdef Softmax *s = <Softmax *>arg
    cdef Py_ssize_t m = s.M * part // parts, rows = s.M * (part + 1) // parts - m
    s.kernels.softmax_nll(rows, s.V, s.logits + m * s.V * s.item, s.targets + m,
                          s.weights + m * s.item if s.weights != NULL else NULL, s.nll + m,
                          s.dlogits + m * s.V * s.item if s.dlogits != NULL else NULL)


cdef class SoftmaxNll(Op):
    cdef Softmax s
    cdef const Py_ssize_t *count       # the number of rows, if it differs from run to run; else NULL

    cdef int run(self) except -1:
        if self.count != NULL:
            self.s.M = self.count[0]
        cdef int parts = parts_for(self.s.M, 50.0 * self.s.M * self.s.V, call_threads())
        with nogil:
            rnn_team_run(softmax_nll_part, &self.s, parts, False)
        return 0


def softmax_nll(
    logits,                            # (M, V)                                               in
    const int64_t[::1] targets,        # (M,); negative: the row is ignored                   in
    weights,                           # (M,); None: all 1                                    in
    double[::1] nll,                   # (M,) weight * -log softmax[target]                   out
    dlogits,                           # (M, V) or None; may be logits                        out
    const Py_ssize_t[::1] ends=None,   # its last element is the number of rows, in a plan    in
):
    """Negative log-likelihood per row, and its gradient weight * (softmax - onehot)."""
    cdef SoftmaxNll op = SoftmaxNll.__new__(SoftmaxNll)
    cdef Softmax *s = &op.s
    s.kernels = kernels_for(logits)
    s.M, s.V, s.item = targets.shape[0], logits.shape[1], logits.itemsize
    s.logits, s.weights, s.dlogits = address(logits), address(weights), address(dlogits, True)
    op.count = &ends[ends.shape[0] - 1] if ends is not None else NULL
    op.held = logits, targets, weights, nll, dlogits, ends
    if s.M and s.V:
        s.targets, s.nll = &targets[0], &nll[0]
        perform(op)


cdef class CheckWeights(Op):
    cdef const double[:, :] weights

    cdef int run(self) except -1:
        cdef Py_ssize_t m, i
        cdef double weight
        for m in range(self.weights.shape[0]):
            for i in range(self.weights.shape[1]):
                weight = self.weights[m, i]
                if not (weight >= 0 and weight - weight == 0):
                    raise ValueError(f"weights must be finite and not negative, got {weight}")
        return 0


def check_weights(const double[:, :] weights):
    """Raise a ValueError that names the first weight that is negative, infinite or NaN."""
    cdef CheckWeights op = CheckWeights.__new__(CheckWeights)
    op.weights = weights
    perform(op)


cdef class MeanOp(Op):
    """The weight of each of M targets in their mean, or the mean of M weighted losses."""
    cdef Py_ssize_t M
    cdef const Py_ssize_t *count       # the number of losses, if it differs from run to run; else NULL
    cdef bint is_double
    cdef const int64_t *targets
    cdef char *weights
    cdef const double *losses
    cdef double *divisor
    cdef double *mean


cdef class MeanWeights(MeanOp):
    cdef int run(self) except -1:
        cdef Py_ssize_t m, count = 0
        cdef double weight
        with nogil:
            for m in range(self.M):
                count += self.targets[m] >= 0
            weight = 1.0 / max(1, count)
            if self.is_double:
                for m in range(self.M):
                    (<double *>self.weights)[m] = weight
            else:
                for m in range(self.M):
                    (<float *>self.weights)[m] = <float>weight
                weight = <float>weight
        self.divisor[0] = weight * count if count else 1.0
        return 0


def mean_weights(const int64_t[::1] targets, weights, double[::1] divisor):
    """weights (M,) = 1 / n, for the n targets that are not negative; divisor (1,) = n times the rounded weight."""
    cdef MeanWeights op = MeanWeights.__new__(MeanWeights)
    op.M, op.is_double = targets.shape[0], weights.itemsize == 8
    op.weights, op.divisor = address(weights, True), &divisor[0]
    op.targets = &targets[0] if op.M else NULL
    op.held = targets, weights, divisor
    perform(op)


cdef class MeanLoss(MeanOp):
    cdef int run(self) except -1:
        cdef Py_ssize_t m, M = self.M if self.count == NULL else self.count[0]
        cdef double total = 0
        with nogil:
            for m in range(M):
                total += self.losses[m]
        self.mean[0] = total / self.divisor[0]
        return 0


def mean_loss(
    const double[::1] losses, const double[::1] divisor, double[::1] mean, const Py_ssize_t[::1] ends=None,
):
    """mean (1,) = sum of losses (M,) / divisor (1,). In a plan, the last element of `ends` is the number of losses."""
    cdef MeanLoss op = MeanLoss.__new__(MeanLoss)
    op.count = &ends[ends.shape[0] - 1] if ends is not None else NULL
    op.M, op.divisor, op.mean = losses.shape[0], <double *>&divisor[0], &mean[0]
    op.losses = &losses[0] if op.M else NULL
    op.held = losses, divisor, mean, ends
    perform(op)


ctypedef fused real:
    float
    double


ctypedef struct Squares:
    Py_ssize_t M, n
    bint is_double
    const char *y
    const char *targets
    const unsigned char *mask
    const double *weights
    char *derivative
    double *outcome


cdef class SquaredError(Op):
    cdef Squares s

    cdef int run(self) except -1:
        with nogil:
            if self.s.is_double:
                squared_errors(<const double *>self.s.y, <const double *>self.s.targets, &self.s)
            else:
                squared_errors(<const float *>self.s.y, <const float *>self.s.targets, &self.s)
        return 0


cdef void squared_errors(const real *y, const real *targets, const Squares *op) noexcept nogil:
    """The sum of w*d*d and of w over the valid steps, and the derivatives 2*w*d, for d = y - target."""
    cdef Py_ssize_t m, i
    cdef real d, w = 1
    cdef real *out = <real *>op.derivative
    cdef double total = 0, weight = 0
    for m in range(op.M):
        if op.mask != NULL and not op.mask[m]:
            for i in range(m * op.n, (m + 1) * op.n):
                out[i] = 0
            continue
        if op.weights != NULL:
            w = <real>op.weights[m]
        weight += op.weights[m] if op.weights != NULL else 1.0
        for i in range(m * op.n, (m + 1) * op.n):
            d = y[i] - targets[i]
            total += <real>(<real>(d * d) * w)
            out[i] = <real>(2 * d) * w
    op.outcome[1] = 1 / (weight * op.n) if weight and op.n else 0.0
    op.outcome[0] = total * op.outcome[1]


def squared_error(
    y, targets,                        # (M, n)                                                     in
    mask,                              # (M,) bool: the valid steps, or None: all                   in
    weights,                           # (M,) float64 or None: all 1                                in
    derivative,                        # (M, n) weight * 2 (y - target), 0 at other steps           out
    double[::1] outcome,               # (2,) mean over the valid steps, and 1 / (n * sum of weights)  out
):
    """Mean squared error, and the derivatives, of which the gradient is outcome[1] times."""
    cdef SquaredError op = SquaredError.__new__(SquaredError)
    cdef Squares *s = &op.s
    s.M, s.n, s.is_double = y.shape[0], y.shape[1], y.itemsize == 8
    s.y, s.targets, s.derivative = address(y), address(targets), address(derivative, True)
    s.mask, s.weights, s.outcome = <unsigned char *>address(mask), <double *>address(weights), &outcome[0]
    op.held = y, targets, mask, weights, derivative, outcome
    perform(op)


cdef class Scale(Op):
    cdef Py_ssize_t n
    cdef bint is_double
    cdef const char *a
    cdef char *to
    cdef double factor
    cdef const double *by

    cdef int run(self) except -1:
        cdef double factor = self.factor * self.by[0] if self.by != NULL else self.factor
        with nogil:
            if self.is_double:
                scale_values(self.n, <const double *>self.a, factor, <double *>self.to)
            else:
                scale_values(self.n, <const float *>self.a, factor, <float *>self.to)
        return 0


cdef void scale_values(Py_ssize_t n, const real *a, double factor, real *out) noexcept nogil:
    cdef Py_ssize_t i
    cdef real rounded = <real>factor
    for i in range(n):
        out[i] = a[i] * rounded


def scale(
    a,                                 # C-contiguous                                               in
    double factor,
    double[::1] by,                    # (n,) its last element is a factor too, or None             in
    out,                               # of a's shape and dtype; may be a                           out
):
    """out = a * factor * by[-1], the product of the factors being rounded to the dtype."""
    cdef Scale op = Scale.__new__(Scale)
    op.n, op.is_double, op.a, op.to, op.factor = a.size, a.itemsize == 8, address(a), address(out, True), factor
    op.by = &by[by.shape[0] - 1] if by is not None else NULL
    op.held = a, by, out
    perform(op)


cdef class DivideRows(Op):
    cdef Py_ssize_t M, n
    cdef bint is_double
    cdef const char *a
    cdef const int64_t *counts
    cdef char *to

    cdef int run(self) except -1:
        with nogil:
            if self.is_double:
                divide_values(self.M, self.n, <const double *>self.a, self.counts, <double *>self.to)
            else:
                divide_values(self.M, self.n, <const float *>self.a, self.counts, <float *>self.to)
        return 0


cdef void divide_values(
    Py_ssize_t M, Py_ssize_t n, const real *a, const int64_t *counts, real *out,
) noexcept nogil:
    cdef Py_ssize_t m, i
    cdef real share
    for m in range(M):
        share = <real>(1.0 / <double>counts[m])
        for i in range(m * n, (m + 1) * n):
            out[i] = a[i] * share


def divide_rows(
    a,                                 # (M, n) C-contiguous                                         in
    const int64_t[::1] counts,         # (M,)                                                        in
    out,                               # (M, n); may be a                                            out
):
    """out = a * (1 / counts), the factor of each row being rounded to the dtype."""
    cdef DivideRows op = DivideRows.__new__(DivideRows)
    op.M, op.n, op.is_double, op.a, op.to = a.shape[0], a.shape[1], a.itemsize == 8, address(a), address(out, True)
    op.held = a, counts, out
    if op.M:
        op.counts = &counts[0]
        perform(op)


cdef class TanhBackward(Op):
    cdef Py_ssize_t n
    cdef bint is_double
    cdef const char *y
    cdef char *dy

    cdef int run(self) except -1:
        with nogil:
            if self.is_double:
                multiply_slopes(self.n, <const double *>self.y, <double *>self.dy)
            else:
                multiply_slopes(self.n, <const float *>self.y, <float *>self.dy)
        return 0


cdef void multiply_slopes(Py_ssize_t n, const real *y, real *dy) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        dy[i] = dy[i] * (<real>1 - <real>(y[i] * y[i]))


def tanh_backward(y, dy):
    """dy *= 1 - y * y: the gradient of the argument of y = tanh(.), of arrays of the same shape."""
    cdef TanhBackward op = TanhBackward.__new__(TanhBackward)
    op.n, op.is_double, op.y, op.dy, op.held = y.size, y.itemsize == 8, address(y), address(dy, True), (y, dy)
    perform(op)


cdef class SoftmaxRows(Op):
    cdef const rnn_kernels *kernels
    cdef Py_ssize_t M, V
    cdef const char *logits
    cdef char *to

    cdef int run(self) except -1:
        with nogil:
            mode = rnn_flush_denormals()
            self.kernels.softmax(self.M, self.V, self.logits, self.to)
            rnn_restore_denormals(mode)
        return 0


def softmax(logits, out):
    """Softmax of each row; out may be logits."""
    cdef SoftmaxRows op = SoftmaxRows.__new__(SoftmaxRows)
    op.M, op.V = logits.shape[0], logits.shape[1]
    op.kernels, op.logits, op.to, op.held = kernels_for(logits), address(logits), address(out, True), (logits, out)
    if op.M and op.V:
        perform(op)


cdef class Dropout(KeyedOp):
    cdef const rnn_kernels *kernels
    cdef Py_ssize_t M, n, ld
    cdef const uint64_t *row_id
    cdef char *to
    cdef double p

    cdef int run(self) except -1:
        with nogil:
            self.kernels.dropout(self.M, self.n, self.to, self.ld, self.row_id, self.key, self.p)
        return 0


def dropout(x, const uint64_t[::1] row_id, key, double p):
    """Set elements of x (M,n) to 0 or scale them by 1/(1-p), by a hash of (key, row_id, unit)."""
    cdef Dropout op = Dropout.__new__(Dropout)
    cdef Py_ssize_t item = x.itemsize
    op.M, op.n, op.ld, op.kernels, op.p = row_id.shape[0], x.shape[1], x.strides[0] // item, kernels_for(x), p
    op.take_key(key)
    if op.M and op.n:
        op.to, op.row_id, op.held = address_2d(x, item, True), &row_id[0], (x, row_id)
        perform(op)


rnn_link(process_table())

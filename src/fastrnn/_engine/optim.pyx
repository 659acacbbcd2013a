"""Updates of optimisers. p, g and the moments are flat arrays of one length and dtype.

`scale` is a factor of the gradient; the other settings are those of torch.optim.
"""
from libc.stdint cimport int64_t

from buffers cimport address
from fastrnn._engine.core cimport kernels_for
from fastrnn._engine.plan cimport Op, perform, refuse_recording
from kernels cimport rnn_flush_denormals, rnn_kernels, rnn_restore_denormals, rnn_update


def sum_of_squares(g):
    """Sum of squares in float64, in an order that depends on the length only."""
    cdef const char *a = address(g)
    cdef const rnn_kernels *k = kernels_for(g)
    cdef Py_ssize_t n = len(g)
    cdef double total = 0
    refuse_recording("the norm of a gradient")
    with nogil:
        if n:
            total = k.sum_of_squares(n, a)
    return total


cdef class ClipValue(Op):
    cdef const rnn_kernels *kernels
    cdef Py_ssize_t n
    cdef char *g
    cdef double limit

    cdef int run(self) except -1:
        with nogil:
            self.kernels.clip_value(self.n, self.g, self.limit)
        return 0


def clip_value(g, double limit):
    """g = min(max(g, -limit), limit); NaN stays NaN."""
    cdef ClipValue op = ClipValue.__new__(ClipValue)
    op.kernels, op.n, op.g, op.limit, op.held = kernels_for(g), len(g), address(g, True), limit, g
    perform(op)


cdef int run(void (*kernel)(const rnn_update *) noexcept nogil, rnn_update *u, p, g, m, v) except -1:
    """Run an optimiser on its arrays; m or v is None if it has none."""
    refuse_recording("a step of an optimiser")
    u.n, u.p, u.g, u.m, u.v = len(p), address(p, True), address(g), address(m, True), address(v, True)
    with nogil:
        mode = rnn_flush_denormals()
        kernel(u)
        rnn_restore_denormals(mode)
    return 0


def sgd(p, g, m, *, double lr, double momentum, double weight_decay, bint nesterov, double scale):
    """Stochastic gradient descent; m is None without momentum."""
    cdef rnn_update u
    u.lr, u.momentum, u.decay, u.nesterov, u.scale = lr, momentum, weight_decay, nesterov, scale
    run(kernels_for(g).sgd, &u, p, g, m, None)


def rmsprop(p, g, v, *, double lr, double alpha, double eps, double weight_decay, double scale):
    """RMSprop; v is the running average of squared gradients."""
    cdef rnn_update u
    u.lr, u.beta2, u.eps, u.decay, u.scale = lr, alpha, eps, weight_decay, scale
    run(kernels_for(g).rmsprop, &u, p, g, None, v)


def adagrad(p, g, v, *, double lr, double eps, double weight_decay, double scale):
    """Adagrad; v is the sum of squared gradients."""
    cdef rnn_update u
    u.lr, u.eps, u.decay, u.scale = lr, eps, weight_decay, scale
    run(kernels_for(g).adagrad, &u, p, g, None, v)


def adam(
    p, g, m, v, *, double lr, double beta1, double beta2, double eps, double weight_decay, bint decoupled, int64_t step,
    double scale,
):
    """Adam; with `decoupled` AdamW. step counts from 1."""
    cdef rnn_update u
    u.lr, u.beta1, u.beta2, u.eps, u.decay, u.scale = lr, beta1, beta2, eps, weight_decay, scale
    u.decoupled, u.step = decoupled, step
    run(kernels_for(g).adam, &u, p, g, m, v)

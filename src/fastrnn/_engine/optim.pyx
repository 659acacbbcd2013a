"""Updates of optimisers. p, g and the moments are flat arrays of one length and dtype."""
from libc.stdint cimport int64_t

from buffers cimport address
from fastrnn._engine.core cimport kernels_for
from kernels cimport rnn_flush_denormals, rnn_kernels, rnn_restore_denormals


def sum_of_squares(g):
    """Sum of squares in float64, in an order that depends on the length only."""
    cdef const char *a = address(g)
    cdef const rnn_kernels *k = kernels_for(g)
    cdef Py_ssize_t n = len(g)
    cdef double total = 0
    with nogil:
        if n:
            total = k.sum_of_squares(n, a)
    return total


def clip_value(g, double limit):
    """g = min(max(g, -limit), limit); NaN stays NaN."""
    cdef char *a = address(g, True)
    cdef const rnn_kernels *k = kernels_for(g)
    cdef Py_ssize_t n = len(g)
    with nogil:
        k.clip_value(n, a, limit)


def sgd(p, g, v, double lr, double momentum, double weight_decay, bint nesterov, double scale):
    """v is None without momentum."""
    cdef char *pp = address(p, True)
    cdef const char *pg = address(g)
    cdef char *pv = address(v, True)
    cdef const rnn_kernels *k = kernels_for(g)
    cdef Py_ssize_t n = len(p)
    with nogil:
        mode = rnn_flush_denormals()
        k.sgd(n, pp, pg, pv, lr, momentum, weight_decay, nesterov, scale)
        rnn_restore_denormals(mode)


def rmsprop(p, g, s, double lr, double alpha, double eps, double weight_decay, double scale):
    cdef char *pp = address(p, True)
    cdef const char *pg = address(g)
    cdef char *ps = address(s, True)
    cdef const rnn_kernels *k = kernels_for(g)
    cdef Py_ssize_t n = len(p)
    with nogil:
        mode = rnn_flush_denormals()
        k.rmsprop(n, pp, pg, ps, lr, alpha, eps, weight_decay, scale)
        rnn_restore_denormals(mode)


def adagrad(p, g, s, double lr, double eps, double weight_decay, double scale):
    cdef char *pp = address(p, True)
    cdef const char *pg = address(g)
    cdef char *ps = address(s, True)
    cdef const rnn_kernels *k = kernels_for(g)
    cdef Py_ssize_t n = len(p)
    with nogil:
        mode = rnn_flush_denormals()
        k.adagrad(n, pp, pg, ps, lr, eps, weight_decay, scale)
        rnn_restore_denormals(mode)


def adam(p, g, m, v, double lr, double beta1, double beta2, double eps, double weight_decay, bint decoupled, int64_t step,
         double scale):
    """step counts from 1; decoupled is AdamW."""
    cdef char *pp = address(p, True)
    cdef const char *pg = address(g)
    cdef char *pm = address(m, True)
    cdef char *pv = address(v, True)
    cdef const rnn_kernels *k = kernels_for(g)
    cdef Py_ssize_t n = len(p)
    with nogil:
        mode = rnn_flush_denormals()
        k.adam(n, pp, pg, pm, pv, lr, beta1, beta2, eps, weight_decay, decoupled, step, scale)
        rnn_restore_denormals(mode)

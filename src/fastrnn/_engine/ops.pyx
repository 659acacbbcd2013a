"""Operations of other layers: embeddings, packed rows, softmax, dropout.

Shapes are in the comments at the arguments. An array that may be absent is None.
"""
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset

from buffers cimport address, address_2d
from fastrnn._engine.core cimport call_threads, kernels_for, process_table
from kernels cimport *
from threads cimport parts_for


def column_sum(a, out):
    """out (N,) += sum over the rows of a (M,N), in order."""
    cdef Py_ssize_t item = a.itemsize, M = a.shape[0], N = a.shape[1], lda = a.strides[0] // item
    cdef char *to = address(out, True)
    if M == 0 or N == 0:
        return
    cdef const char *rows = address_2d(a, item, False)
    cdef const rnn_kernels *k = kernels_for(a)
    with nogil:
        mode = rnn_flush_denormals()
        k.column_sum(M, N, rows, lda, to)
        rnn_restore_denormals(mode)


def gather(array, const int64_t[::1] ids, out):
    """out (M,n) = array[ids], rows of 2-D arrays."""
    cdef Py_ssize_t M = ids.shape[0], n = out.shape[1]
    cdef const char *rows = address(array)
    cdef char *to = address(out, True)
    cdef const rnn_kernels *k = kernels_for(out)
    if M and n:
        with nogil:
            k.gather(M, n, rows, n, &ids[0], to, n)


def ragged_places(
    const int64_t[::1] order,          # (B,) the caller's row of each sorted row                  in
    const int64_t[::1] lengths,        # (B,) 0..T, longest first                                  in
    Py_ssize_t[::1] offset,            # (T+1,) first packed row of each step                      out
    int64_t[::1] where,                # (lengths.sum(),) the caller's t*B + b of each packed row  out
    int64_t[::1] padding,              # (T*B - lengths.sum(),) t*B + b of all other steps         out
):
    """Compute where the steps of sorted rows are, in packed arrays and in the caller's array."""
    cdef Py_ssize_t T = offset.shape[0] - 1, B = order.shape[0], running = B, n = 0, p = 0, t, b
    with nogil:
        for t in range(T):
            offset[t] = n
            while running > 0 and lengths[running - 1] <= t:
                running -= 1
            for b in range(running):
                where[n] = t * B + order[b]
                n += 1
            for b in range(running, B):
                padding[p] = t * B + order[b]
                p += 1
        offset[T] = n


def spread(a, const int64_t[::1] where, const int64_t[::1] padding, out):
    """out[where] = a, out[padding] = 0, rows of 2-D arrays."""
    cdef Py_ssize_t size = out.shape[1] * out.itemsize, i
    cdef const char *rows = address(a)
    cdef char *to = address(out, True)
    if size == 0:
        return
    with nogil:
        for i in range(where.shape[0]):
            memcpy(to + where[i] * size, rows + i * size, size)
        for i in range(padding.shape[0]):
            memset(to + padding[i] * size, 0, size)


def scatter_add(a, const int64_t[::1] ids, out):
    """out[ids[m]] += a[m], m in order."""
    cdef Py_ssize_t item = a.itemsize, M = ids.shape[0], n = out.shape[1], lda, ldo
    if M == 0 or n == 0:
        return
    lda, ldo = a.strides[0] // item, out.strides[0] // item
    cdef const char *rows = address_2d(a, item, False)
    cdef char *to = address_2d(out, item, True)
    cdef const rnn_kernels *k = kernels_for(a)
    with nogil:
        mode = rnn_flush_denormals()
        k.scatter_add(M, n, rows, lda, &ids[0], to, ldo)
        rnn_restore_denormals(mode)


ctypedef void (*bag_kernel)(const rnn_bag *, const void *, void *) noexcept nogil


cdef int run_bag(bag_kernel kernel, rnn_bag *s, weights, source, target) except -1:
    """Run a kernel of `bag`. weights : (a, b, ramp)"""
    a, b, ramp = weights
    cdef const char *rows = address(source)
    cdef char *to = address(target, True)
    s.n, s.a, s.b, s.ramp = len(ramp), address(a), address(b), address(ramp)
    with nogil:
        mode = rnn_flush_denormals()
        kernel(s, rows, to)
        rnn_restore_denormals(mode)
    return 0


cdef rnn_bag bag_words(const int64_t[::1] sentence, const int64_t[::1] start, const int64_t[::1] word):
    cdef rnn_bag s
    s.n, s.a, s.b, s.ramp = 0, NULL, NULL, NULL
    s.M, s.start = sentence.shape[0], &start[0]
    s.sentence = &sentence[0] if s.M else NULL
    s.word = &word[0] if word.shape[0] else NULL
    return s


def bag(
    const int64_t[::1] sentence,       # (M,) the sentence of each row of out                    in
    const int64_t[::1] start,          # (S+1,) words of sentence s: start[s] .. start[s+1]      in
    const int64_t[::1] word,           # (W,) their rows in the table                            in
    a, b,                              # (W,) the weight of a word is a + b * ramp               in
    ramp,                              # (n,)                                                    in
    table,                             # (V, n)                                                  in
    out,                               # (M, n)                                                  +=
):
    """Sentences as weighted sums of word embeddings. Each element is one chain over the words."""
    cdef rnn_bag s = bag_words(sentence, start, word)
    run_bag(kernels_for(out).bag, &s, (a, b, ramp), table, out)


def bag_backward(
    const int64_t[::1] sentence, const int64_t[::1] start, const int64_t[::1] word, a, b, ramp,    # as in `bag`
    dout,                              # (M, n)                                                  in
    dtable,                            # (V, n)                                                  +=
):
    """The gradient of the table of `bag`, one sentence after the other."""
    cdef rnn_bag s = bag_words(sentence, start, word)
    run_bag(kernels_for(dout).bag_backward, &s, (a, b, ramp), dout, dtable)


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


def softmax_nll(
    logits,                            # (M, V)                                               in
    const int64_t[::1] targets,        # (M,); negative: the row is ignored                   in
    weights,                           # (M,); None: all 1                                    in
    double[::1] nll,                   # (M,) weight * -log softmax[target]                   out
    dlogits,                           # (M, V) or None; may be logits                        out
):
    """Negative log-likelihood per row, and its gradient weight * (softmax - onehot)."""
    cdef Softmax s
    cdef int parts
    s.kernels = kernels_for(logits)
    s.M, s.V, s.item = targets.shape[0], logits.shape[1], logits.itemsize
    s.logits, s.weights, s.dlogits = address(logits), address(weights), address(dlogits, True)
    if s.M and s.V:
        s.targets, s.nll = &targets[0], &nll[0]
        parts = parts_for(s.M, 50.0 * s.M * s.V, call_threads())
        with nogil:
            rnn_team_run(softmax_nll_part, &s, parts, False)


def softmax(logits, out):
    """Softmax of each row; out may be logits."""
    cdef Py_ssize_t M = logits.shape[0], V = logits.shape[1]
    cdef const char *x = address(logits)
    cdef char *to = address(out, True)
    cdef const rnn_kernels *k = kernels_for(logits)
    if M and V:
        with nogil:
            mode = rnn_flush_denormals()
            k.softmax(M, V, x, to)
            rnn_restore_denormals(mode)


def dropout(x, const uint64_t[::1] row_id, uint64_t key, double p):
    """Set elements of x (M,n) to 0 or scale them by 1/(1-p), by a hash of (key, row_id, unit)."""
    cdef Py_ssize_t item = x.itemsize, M = row_id.shape[0], n = x.shape[1], ldx = x.strides[0] // item
    if M == 0 or n == 0:
        return
    cdef char *to = address_2d(x, item, True)
    cdef const rnn_kernels *k = kernels_for(x)
    with nogil:
        k.dropout(M, n, to, ldx, &row_id[0], key, p)


rnn_link(process_table())

"""The loop that generates sequences: greedy, by sampling, or by beam search, without Python.

Each of N sequences has K adjacent rows: its live hypotheses, the best first. The layers are sweeps of one step whose
states stay in h_n and c_n. A thread generates its own sequences and does not wait for other threads; a sequence does
not depend on the others.

Each step considers the 2K best continuations of a sequence's hypotheses, the best first. An end symbol among the K
best finishes a hypothesis; the first K of the others stay live. A sequence is done when it has K finished hypotheses,
or at its limit, where the live hypotheses count too.
"""
from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy
from attention cimport Attention, attend_rows, rows_product
from kernels cimport rnn_kernels
from recurrence cimport Sweep, sweep
from threads cimport MAX_PARTS

cdef enum:
    MAX_HYPOTHESES = 64

ctypedef struct Search:
    const rnn_kernels *kernels
    Py_ssize_t item, N, K, L, V, F
    const Sweep **layers              # (L,)  T = 1, N*K rows
    const Attention *attention        # of N*K rows; NULL: the output is that of the top layer
    const char *out                   # (N*K, F) output of a step
    const char *w                     # packed (V, F)
    const char *bias                  # (V,) or NULL
    char *logits                      # (N*K, V)
    char *spare                       # (parts, V) scratch
    char *swap                        # (N*K, Hp) scratch
    int64_t *ids                      # (N*K,) input symbols of the next step; in: those of the first step
    int64_t end
    const int64_t *limits             # (N,) most symbols of each sequence, including the end
    const int64_t *given              # (T, N) inputs instead of the chosen symbols where not negative; or NULL
    double temperature                # of sampling, with K = 1; 0: the most likely symbol
    uint64_t key
    const uint64_t *row_id            # (N,) keys of the random numbers
    double *score                     # (N*K,) log-probability so far; minus infinity: no hypothesis
    int64_t *symbols                  # (T, N*K) out: last symbol of each hypothesis
    int64_t *parents                  # (T, N*K) out: the sequence's hypothesis of the previous step that it continues
    int64_t *count                    # (N,) number of finished hypotheses
    int64_t *last                     # (N, K) of each finished hypothesis: its last step,
    int64_t *parent                   # (N, K) the hypothesis that it ends or, if `ended` is 0, the hypothesis itself,
    int64_t *ended                    # (N, K) whether it ends with the end symbol,
    double *total                     # (N, K) and its log-probability
    Py_ssize_t cuts[MAX_PARTS + 1]
    Py_ssize_t t0, t1

cdef inline uint64_t mixed(uint64_t x) noexcept nogil:
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014)."""
    x = (x ^ (x >> 30)) * <uint64_t>0xbf58476d1ce4e5b9
    x = (x ^ (x >> 27)) * <uint64_t>0x94d049bb133111eb
    return x ^ (x >> 31)

cdef inline double uniform(uint64_t key, uint64_t row, uint64_t t) noexcept nogil:
    """A random number in 0 <= u < 1, a function of (key, row, t)."""
    return <double>(mixed(mixed(mixed(key + <uint64_t>0x9e3779b97f4a7c15) ^ row) ^ t) >> 11) / 9007199254740992.0

cdef inline void search_part(void *arg, int part, int parts) noexcept nogil:
    """Steps t0..t1 of this thread's sequences, until all of them are done."""
    cdef Search *s = <Search *>arg
    cdef Py_ssize_t n0 = s.cuts[part], n1 = s.cuts[part + 1], b0 = n0 * s.K, rows = (n1 - n0) * s.K, t, l, n
    cdef Py_ssize_t output = s.F * s.item, logits = s.V * s.item        # bytes of a row
    cdef Sweep layer
    cdef bint goes_on
    if n0 == n1:
        return
    for t in range(s.t0, s.t1):
        goes_on = False
        for n in range(n0, n1):
            goes_on = goes_on or s.count[n] < s.K
        if not goes_on:
            return
        for l in range(s.L):
            layer = s.layers[l][0]
            layer.first = 0
            layer.last = 1
            sweep(&layer, b0, b0 + rows, 0, 1)
        if s.attention != NULL:
            attend_rows(s.attention, b0, b0, rows)
        rows_product(s.kernels, rows, s.V, s.F, s.out + b0 * output, s.F, s.w, s.bias, s.logits + b0 * logits, s.V,
                     False)
        for n in range(n0, n1):
            if s.count[n] < s.K:
                if s.temperature > 0 or s.given != NULL:
                    write_one(s, n, t, s.spare + part * logits)
                else:
                    write_best(s, n, t)

cdef inline void finish(
    Search *s, Py_ssize_t n, Py_ssize_t t, Py_ssize_t hypothesis, double score, bint ended,
) noexcept nogil:
    """Record a finished hypothesis of sequence n."""
    cdef Py_ssize_t at = n * s.K + s.count[n]
    s.last[at] = t
    s.parent[at] = hypothesis
    s.total[at] = score
    s.ended[at] = ended
    s.count[n] += 1

cdef inline void carry_on(Search *s, Py_ssize_t n, Py_ssize_t t) noexcept nogil:
    """Give the K hypotheses of step t the states of their parents, and their symbols to the next step."""
    cdef Py_ssize_t k, l, row = n * s.K, width = s.F * s.item, at = t * s.N * s.K + row
    cdef bint same = True
    for k in range(s.K):
        s.ids[row + k] = s.symbols[at + k]
        same = same and s.parents[at + k] == k
        if s.attention != NULL and s.attention.feed != NULL:
            memcpy(s.attention.feed + (row + k) * width, s.attention.a + (row + s.parents[at + k]) * width, width)
    if same:
        return
    for l in range(s.L):
        copy_states(s, s.layers[l].h_n, s.layers[l].Hp * s.item, row, s.parents + at)
        if s.layers[l].c_n != NULL:
            copy_states(s, s.layers[l].c_n, s.layers[l].Hp * s.item, row, s.parents + at)

cdef inline void copy_states(
    Search *s, char *state, Py_ssize_t width, Py_ssize_t row, const int64_t *parents,
) noexcept nogil:
    """Reorder the K rows of a sequence: row k becomes that of its parent."""
    cdef Py_ssize_t k
    memcpy(s.swap + row * width, state + row * width, s.K * width)
    for k in range(s.K):
        memcpy(state + (row + k) * width, s.swap + (row + parents[k]) * width, width)

cdef inline double logit(const Search *s, Py_ssize_t row, int64_t symbol) noexcept nogil:
    cdef const char *at = s.logits + (row * s.V + symbol) * s.item
    return (<const double *>at)[0] if s.item == 8 else (<const float *>at)[0]

cdef inline void write_one(Search *s, Py_ssize_t n, Py_ssize_t t, char *spare) noexcept nogil:
    """K = 1: choose the next symbol, by sampling or the most likely one. A given symbol replaces it as input."""
    cdef const char *row = s.logits + n * s.V * s.item
    cdef int64_t symbol
    if s.temperature > 0:
        memcpy(spare, row, s.V * s.item)
        symbol = s.kernels.draw(s.V, spare, s.temperature, uniform(s.key, s.row_id[n], t))
    else:
        s.kernels.greatest(s.V, row, 1, &symbol)
        symbol = max(symbol, 0)
    s.score[n] += logit(s, n, symbol) - s.kernels.log_sum_exp(s.V, row)
    s.symbols[t * s.N + n] = symbol
    s.parents[t * s.N + n] = 0
    carry_on(s, n, t)
    if s.given != NULL:
        if t + 1 < s.limits[n] and s.given[(t + 1) * s.N + n] >= 0:
            s.ids[n] = s.given[(t + 1) * s.N + n]
        if t + 1 == s.limits[n]:
            finish(s, n, t, 0, s.score[n], False)
    elif symbol == s.end or t + 1 == s.limits[n]:
        finish(s, n, t, 0, s.score[n], symbol == s.end)

cdef inline void write_best(Search *s, Py_ssize_t n, Py_ssize_t t) noexcept nogil:
    """Select the best continuations of the hypotheses of sequence n."""
    cdef int64_t symbols[2 * MAX_HYPOTHESES]
    cdef int64_t parents[2 * MAX_HYPOTHESES]
    cdef int64_t best[2 * MAX_HYPOTHESES]
    cdef double scores[2 * MAX_HYPOTHESES]
    cdef double base, score
    cdef Py_ssize_t K = s.K, row = n * K, found = 0, live = 0, k, i, place
    cdef Py_ssize_t most = min(2 * K, s.V), at = t * s.N * K + row
    for k in range(K):
        if s.score[row + k] == -INFINITY:
            continue
        s.kernels.greatest(s.V, s.logits + (row + k) * s.V * s.item, most, best)
        base = s.score[row + k] - s.kernels.log_sum_exp(s.V, s.logits + (row + k) * s.V * s.item)
        for i in range(most):
            if best[i] < 0:
                break
            score = base + logit(s, row + k, best[i])
            if found == 2 * K and score <= scores[found - 1]:
                break
            if found < 2 * K:
                found += 1
            place = found - 1
            while place > 0 and score > scores[place - 1]:
                scores[place] = scores[place - 1]
                symbols[place] = symbols[place - 1]
                parents[place] = parents[place - 1]
                place -= 1
            scores[place] = score
            symbols[place] = best[i]
            parents[place] = k
    for i in range(found):
        if symbols[i] == s.end:
            if i < K and s.count[n] < K:
                finish(s, n, t, parents[i], scores[i], True)
        elif live < K:
            s.symbols[at + live] = symbols[i]
            s.parents[at + live] = parents[i]
            s.score[row + live] = scores[i]
            live += 1
    for k in range(live, K):
        s.symbols[at + k] = s.end
        s.parents[at + k] = 0
        s.score[row + k] = -INFINITY
    if t + 1 == s.limits[n] or live == 0:
        for k in range(live):
            if s.count[n] < K:
                finish(s, n, t, k, s.score[row + k], False)
        s.count[n] = K
    if s.count[n] < K:
        carry_on(s, n, t)

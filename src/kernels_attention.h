/* Attention: the score of each key of a row's own memory, the softmax of the scores, and the weighted sum of the
 * values. Equations (A1)-(A9) of docs/backward.md. The bits of a row depend on its own memory only. */

/* a . b over n elements; lanes are added in a fixed order */
INLINE real inner(ptrdiff_t n, const real *a, const real *b)
{
    vec sums = {0};
    for (ptrdiff_t l = 0; l < n; l += VL)
        sums = v_fma(v_load_n(a + l, n - l), v_load_n(b + l, n - l), sums);
    real sum = 0;
    for (int q = 0; q < VL; q++)
        sum += sums[q];
    return sum;
}

/* v . tanh(q + k) */
INLINE real additive_score(ptrdiff_t n, const real *q, const real *k, const real *v)
{
    vec sums = {0};
    for (ptrdiff_t l = 0; l < n; l += VL)
        sums = v_fma(v_load_n(v + l, n - l), v_tanh(v_load_n(q + l, n - l) + v_load_n(k + l, n - l)), sums);
    real sum = 0;
    for (int q_ = 0; q_ < VL; q_++)
        sum += sums[q_];
    return sum;
}

static void softmax_row(ptrdiff_t n, real *x)
{
    const real scale = 1 / exp_row(n, x, row_max(n, x), x);
    for (ptrdiff_t l = 0; l < n; l++)
        x[l] *= scale;
}

/* out = sum over j of weight[j] * rows[j], each element one chain over j */
INLINE void weighted_sum(ptrdiff_t count, ptrdiff_t n, const real *weight, const real *rows, real *out)
{
    ptrdiff_t l = 0;
    for (; l + 4 * VL <= n; l += 4 * VL) {
        vec sum[4] = {{0}};
        for (ptrdiff_t j = 0; j < count; j++) {
            const vec w = v_set(weight[j]);
            for (int q = 0; q < 4; q++)
                sum[q] = v_fma(w, v_load(rows + j * n + l + q * VL), sum[q]);
        }
        for (int q = 0; q < 4; q++)
            v_store(out + l + q * VL, sum[q]);
    }
    for (; l < n; l += VL) {
        vec sum = {0};
        for (ptrdiff_t j = 0; j < count; j++)
            sum = v_fma(v_set(weight[j]), v_load_n(rows + j * n + l, n - l), sum);
        v_store_n(out + l, sum, n - l);
    }
}

static void attend(const rnn_attend *s)
{
    for (ptrdiff_t row = 0; row < s->rows; row++) {
        const ptrdiff_t count = s->count[row];
        const real *q = (const real *)s->query + row * s->ldq, *keys = (const real *)s->keys + s->first[row] * s->A;
        real *alpha = (real *)s->alpha + row * s->S;
        for (ptrdiff_t j = 0; j < count; j++)                                                     /* (A1) (A2) */
            alpha[j] = s->v ? additive_score(s->A, q, keys + j * s->A, s->v) : inner(s->A, q, keys + j * s->A);
        if (s->softmax && count)                                                                  /* (A3) */
            softmax_row(count, alpha);
        memset(alpha + count, 0, (size_t)(s->S - count) * sizeof(real));
        weighted_sum(count, s->M, alpha, (const real *)s->values + s->first[row] * s->M,
                     (real *)s->context + row * s->ldc);                                          /* (A4) */
    }
}

/* dscore from dcontext; dvalues += alpha dcontext */
INLINE void attend_dscore(const rnn_attend_backward *g, ptrdiff_t row, ptrdiff_t count, const real *alpha, real *dscore)
{
    const rnn_attend *s = &g->forward;
    const ptrdiff_t M = s->M;
    const real *dcontext = (const real *)g->dcontext + row * s->ldc;
    const real *values = (const real *)s->values + s->first[row] * M;
    real *dvalues = (real *)g->dvalues + s->first[row] * M;
    for (ptrdiff_t j = 0; j < count; j++) {
        const vec w = v_set(alpha[j]);
        vec sums = {0};
        for (ptrdiff_t l = 0; l < M; l += VL) {
            const vec dc = v_load_n(dcontext + l, M - l);
            sums = v_fma(dc, v_load_n(values + j * M + l, M - l), sums);
            v_store_n(dvalues + j * M + l, v_fma(w, dc, v_load_n(dvalues + j * M + l, M - l)), M - l);
        }
        dscore[j] = 0;
        for (int q = 0; q < VL; q++)
            dscore[j] += sums[q];
    }
    if (!s->softmax)
        return;
    real mean = 0;
    for (ptrdiff_t j = 0; j < count; j++)
        mean += alpha[j] * dscore[j];
    for (ptrdiff_t j = 0; j < count; j++)
        dscore[j] = alpha[j] * (dscore[j] - mean);
}

/* score = q . k */
INLINE void inner_backward(ptrdiff_t count, ptrdiff_t A, const real *dscore, const real *q, const real *keys,
                           real *dq, real *dkeys)
{
    for (ptrdiff_t l = 0; l < A; l += VL) {
        const vec ql = v_load_n(q + l, A - l);
        vec sum = {0};
        for (ptrdiff_t j = 0; j < count; j++) {
            const vec d = v_set(dscore[j]);
            sum = v_fma(d, v_load_n(keys + j * A + l, A - l), sum);
            v_store_n(dkeys + j * A + l, v_fma(d, ql, v_load_n(dkeys + j * A + l, A - l)), A - l);
        }
        v_store_n(dq + l, sum, A - l);
    }
}

/* score = v . tanh(q + k) */
INLINE void additive_backward(ptrdiff_t count, ptrdiff_t A, const real *dscore, const real *q, const real *keys,
                              const real *v, real *dq, real *dkeys, real *dv)
{
    for (ptrdiff_t l = 0; l < A; l += VL) {
        const vec ql = v_load_n(q + l, A - l), vl = v_load_n(v + l, A - l);
        vec sum = {0}, dvl = v_load_n(dv + l, A - l);
        for (ptrdiff_t j = 0; j < count; j++) {
            const vec d = v_set(dscore[j]), t = v_tanh(ql + v_load_n(keys + j * A + l, A - l));
            const vec dpre = d * vl * (1 - t * t);
            dvl = v_fma(d, t, dvl);
            sum += dpre;
            v_store_n(dkeys + j * A + l, v_load_n(dkeys + j * A + l, A - l) + dpre, A - l);
        }
        v_store_n(dq + l, sum, A - l);
        v_store_n(dv + l, dvl, A - l);
    }
}

static void attend_backward(const rnn_attend_backward *g)
{
    const rnn_attend *s = &g->forward;
    for (ptrdiff_t row = 0; row < s->rows; row++) {
        const ptrdiff_t count = s->count[row], A = s->A;
        const real *q = (const real *)s->query + row * s->ldq, *keys = (const real *)s->keys + s->first[row] * A;
        real *dscore = (real *)g->dscore + row * s->S, *dq = (real *)g->dquery + row * g->ldd;
        real *dkeys = (real *)g->dkeys + s->first[row] * A;
        attend_dscore(g, row, count, (const real *)s->alpha + row * s->S, dscore);
        if (s->v)
            additive_backward(count, A, dscore, q, keys, s->v, dq, dkeys, (real *)g->dv + row * A);
        else
            inner_backward(count, A, dscore, q, keys, dq, dkeys);
    }
}

/* x (M,n), stride ldx: x = tanh(x) */
static void tanh_rows(ptrdiff_t M, ptrdiff_t n, void *vx, ptrdiff_t ldx)
{
    for (ptrdiff_t m = 0; m < M; m++) {
        real *x = (real *)vx + m * ldx;
        for (ptrdiff_t l = 0; l < n; l += VL)
            v_store_n(x + l, v_tanh(v_load_n(x + l, n - l)), n - l);
    }
}

/* d (M,n) *= 1 - y^2: the gradient through y = tanh(x) */
static void tanh_rows_backward(ptrdiff_t M, ptrdiff_t n, const void *vy, void *vd)
{
    const real *y = vy;
    real *d = vd;
    for (ptrdiff_t l = 0; l < M * n; l += VL) {
        const vec yl = v_load_n(y + l, M * n - l);
        v_store_n(d + l, v_load_n(d + l, M * n - l) * (1 - yl * yl), M * n - l);
    }
}

/* ---- choosing the next symbol ----------------------------------------------------------------------------------- */

/* log of the sum of exp(x) */
static double log_sum_exp(ptrdiff_t V, const void *x)
{
    const real top = row_max(V, x);
    return (double)top + log((double)exp_sum(V, x, top));
}

/* Indices of the K greatest of x (V,), the greatest first, ties in order of index. NaN is never chosen. K <= V; if
 * there are fewer, the remaining indices are -1. */
static void greatest(ptrdiff_t V, const void *vx, ptrdiff_t K, int64_t *ids)
{
    const real *x = vx;
    ptrdiff_t found = 0;
    for (ptrdiff_t l = 0; l < V; l++) {
        if (found == K ? !(x[l] > x[ids[K - 1]]) : x[l] != x[l])
            continue;
        ptrdiff_t place = found < K ? found++ : K - 1;
        for (; place > 0 && x[l] > x[ids[place - 1]]; place--)
            ids[place] = ids[place - 1];
        ids[place] = l;
    }
    for (; found < K; found++)
        ids[found] = -1;
}

/* Draw an index with probabilities softmax(x / temperature), from 0 <= u < 1; x (V,) is overwritten. */
static int64_t draw(ptrdiff_t V, void *vx, double temperature, double u)
{
    real *x = vx;
    const real top = row_max(V, x), scale = (real)(1 / temperature);
    for (ptrdiff_t l = 0; l < V; l++)
        x[l] = (x[l] - top) * scale;
    exp_row(V, x, 0, x);
    double sum = 0, so_far = 0;
    for (ptrdiff_t l = 0; l < V; l++)
        sum += x[l];
    for (ptrdiff_t l = 0; l < V; l++) {
        so_far += x[l];
        if (so_far > u * sum)
            return l;
    }
    return V - 1;
}

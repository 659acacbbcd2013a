/* Kernels of other layers: gather and scatter for embeddings, reductions, softmax and its loss, dropout. */

/* out (N,) += sum over rows: one chain per column, rows in order, several rows in each pass over `out` */
static void column_sum(ptrdiff_t M, ptrdiff_t N, const void *va, ptrdiff_t lda, void *vout)
{
    enum { ROWS = 8 };
    real *out = vout;
    for (ptrdiff_t m = 0; m < M; m += ROWS) {
        const real *a = (const real *)va + m * lda;
        const int rows = M - m < ROWS ? (int)(M - m) : ROWS;
        ptrdiff_t n = 0;
        for (; n + VL <= N; n += VL) {
            vec sum = v_load(out + n);
            for (int q = 0; q < rows; q++)
                sum += v_load(a + q * lda + n);
            v_store(out + n, sum);
        }
        for (; n < N; n++)
            for (int q = 0; q < rows; q++)
                out[n] += a[q * lda + n];
    }
}

static void gather(ptrdiff_t M, ptrdiff_t n, const void *table, ptrdiff_t ldt, const int64_t *ids, void *out,
                   ptrdiff_t ldo)
{
    for (ptrdiff_t m = 0; m < M; m++)
        memcpy((real *)out + m * ldo, (const real *)table + ids[m] * ldt, (size_t)n * sizeof(real));
}

static void scatter_add(ptrdiff_t M, ptrdiff_t n, const void *a, ptrdiff_t lda, const int64_t *ids, void *out,
                        ptrdiff_t ldo)
{
    for (ptrdiff_t m = 0; m < M; m++) {
        const real *from = (const real *)a + m * lda;
        real *to = (real *)out + ids[m] * ldo;
        ptrdiff_t l = 0;
        for (; l + VL <= n; l += VL)
            v_store(to + l, v_load(to + l) + v_load(from + l));
        for (; l < n; l++)
            to[l] += from[l];
    }
}

static void bag(const rnn_bag *s, const void *table, void *out)
{
    const real *a = s->a, *b = s->b;
    for (ptrdiff_t m = 0; m < s->M; m++) {
        const int64_t first = s->start[s->sentence[m]], end = s->start[s->sentence[m] + 1];
        for (ptrdiff_t l = 0; l < s->n; l += VL) {
            const ptrdiff_t left = s->n - l;
            const vec ramp = v_load_n((const real *)s->ramp + l, left);
            real *to = (real *)out + m * s->n + l;
            vec sum = v_load_n(to, left);
            for (int64_t w = first; w < end; w++)
                sum = v_fma(v_fma(v_set(b[w]), ramp, v_set(a[w])),
                            v_load_n((const real *)table + s->word[w] * s->n + l, left), sum);
            v_store_n(to, sum, left);
        }
    }
}

static void bag_backward(const rnn_bag *s, const void *dout, void *dtable)
{
    const real *a = s->a, *b = s->b;
    for (ptrdiff_t m = 0; m < s->M; m++) {
        const int64_t first = s->start[s->sentence[m]], end = s->start[s->sentence[m] + 1];
        for (ptrdiff_t l = 0; l < s->n; l += VL) {
            const ptrdiff_t left = s->n - l;
            const vec ramp = v_load_n((const real *)s->ramp + l, left);
            const vec d = v_load_n((const real *)dout + m * s->n + l, left);
            for (int64_t w = first; w < end; w++) {
                real *to = (real *)dtable + s->word[w] * s->n + l;
                v_store_n(to, v_fma(v_fma(v_set(b[w]), ramp, v_set(a[w])), d, v_load_n(to, left)), left);
            }
        }
    }
}

/* The greatest element. Lanes are compared in a fixed order. NaN is ignored here; it reappears in exp(x - top). */
static real row_max(ptrdiff_t V, const real *x)
{
    real top = x[0];
    ptrdiff_t l = 0;
    if (V >= VL) {
        vec m = v_load(x);
        for (l = VL; l + VL <= V; l += VL) {
            const vec y = v_load(x + l);
            m = v_select((ivec)(y > m), y, m);
        }
        for (int q = 0; q < VL; q++)
            top = m[q] > top ? m[q] : top;
    }
    for (; l < V; l++)
        top = x[l] > top ? x[l] : top;
    return top;
}

/* out = exp(x - top); returns its sum */
static real exp_row(ptrdiff_t V, const real *x, real top, real *out)
{
    vec sums = {0};
    ptrdiff_t l = 0;
    for (; l + VL <= V; l += VL) {
        const vec e = v_exp(v_load(x + l) - top);
        v_store(out + l, e);
        sums += e;
    }
    real sum = 0;
    for (int q = 0; q < VL; q++)
        sum += sums[q];
    if (l < V) {
        const vec e = v_exp(v_load_n(x + l, V - l) - top);
        v_store_n(out + l, e, V - l);
        for (int q = 0; q < V - l; q++)
            sum += e[q];
    }
    return sum;
}

static void softmax(ptrdiff_t M, ptrdiff_t V, const void *logits, void *out)
{
    for (ptrdiff_t m = 0; m < M; m++) {
        const real *x = (const real *)logits + m * V;
        real *p = (real *)out + m * V;
        const real scale = 1 / exp_row(V, x, row_max(V, x), p);
        for (ptrdiff_t l = 0; l < V; l++)
            p[l] *= scale;
    }
}

/* The sum of exp(x - top) alone, for the loss without its gradient. */
static real exp_sum(ptrdiff_t V, const real *x, real top)
{
    enum { CHUNK = 32 * VL };
    real unused[CHUNK], sum = 0;
    for (ptrdiff_t l = 0; l < V; l += CHUNK)
        sum += exp_row(V - l < CHUNK ? V - l : CHUNK, x + l, top, unused);
    return sum;
}

static void softmax_nll(ptrdiff_t M, ptrdiff_t V, const void *logits, const int64_t *targets, const void *weights,
                        double *nll, void *dlogits)
{
    for (ptrdiff_t m = 0; m < M; m++) {
        const real *x = (const real *)logits + m * V;
        real *d = dlogits ? (real *)dlogits + m * V : NULL;
        if (targets[m] < 0) {
            nll[m] = 0;
            if (d)
                memset(d, 0, (size_t)V * sizeof(real));
            continue;
        }
        const real weight = weights ? ((const real *)weights)[m] : 1;
        const real top = row_max(V, x), hit = x[targets[m]];
        const real sum = exp_sum(V, x, top);
        nll[m] = weight * (log((double)sum) + ((double)top - hit));
        if (!d)
            continue;
        exp_row(V, x, top, d);
        const real scale = weight / sum;
        for (ptrdiff_t l = 0; l < V; l++)
            d[l] *= scale;
        d[targets[m]] -= weight;
    }
}

/* the finaliser of splitmix64 (Steele, Lea & Flood 2014) */
INLINE uint64_t mix64(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* the finaliser of MurmurHash3 (Appleby 2011), on 32 bits so that it vectorises */
INLINE uint32_t mix32(uint32_t x)
{
    x = (x ^ (x >> 16)) * 0x85ebca6bu;
    x = (x ^ (x >> 13)) * 0xc2b2ae35u;
    return x ^ (x >> 16);
}

/* x[m][unit] is either scaled by 1/(1-p) or set to 0. The decision is a hash of (key, row_id[m], unit) only, so it
 * does not depend on threads, sorting, padding or batch size. */
static void dropout(ptrdiff_t M, ptrdiff_t n, void *vx, ptrdiff_t ldx, const uint64_t *row_id, uint64_t key, double p)
{
    const uint32_t threshold = (uint32_t)(p * 4294967296.0);
    const real scale = (real)(1 / (1 - p));
    for (ptrdiff_t m = 0; m < M; m++) {
        real *x = (real *)vx + m * ldx;
        const uint64_t row = mix64(mix64(row_id[m] + 0x9e3779b97f4a7c15u) ^ key);
        const uint32_t low = (uint32_t)row, high = (uint32_t)(row >> 32);
        for (ptrdiff_t unit = 0; unit < n; unit++)
            x[unit] = mix32(mix32((uint32_t)unit * 0x9e3779b9u + low) ^ high) >= threshold ? x[unit] * scale : 0;
    }
}

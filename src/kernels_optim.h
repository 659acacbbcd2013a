/* Optimisers on flat arrays, one pass over memory each. The formulas are PyTorch's. */

/* The sum of squares in float64: eight partial sums, added in a fixed order. */
static double sum_of_squares(ptrdiff_t n, const void *vg)
{
    const real *g = vg;
    double sums[8] = {0}, sum = 0;
    ptrdiff_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int q = 0; q < 8; q++)
            sums[q] += (double)g[i + q] * g[i + q];
    for (int q = 0; q < 8; q++)
        sum += sums[q];
    for (; i < n; i++)
        sum += (double)g[i] * g[i];
    return sum;
}

static void clip_value(ptrdiff_t n, void *vg, double limit)
{
    real *g = vg;
    const real top = (real)limit;
    for (ptrdiff_t i = 0; i < n; i++)
        g[i] = g[i] > top ? top : g[i] < -top ? -top : g[i];
}

/* m = momentum*m + g; p -= lr*m; with nesterov (Sutskever et al. 2013): p -= lr*(g + momentum*m) */
static void sgd(const rnn_update *o)
{
    real *restrict p = o->p, *restrict m = o->m;
    const real *restrict g = o->g;
    const real rate = (real)o->lr, mu = (real)o->momentum, wd = (real)o->decay, s = (real)o->scale;
    const ptrdiff_t n = o->n;
    const int nesterov = o->nesterov;
    if (!m) {
        for (ptrdiff_t i = 0; i < n; i++)
            p[i] -= rate * (g[i] * s + wd * p[i]);
        return;
    }
    for (ptrdiff_t i = 0; i < n; i++) {
        const real d = g[i] * s + wd * p[i];
        m[i] = mu * m[i] + d;
        p[i] -= rate * (nesterov ? d + mu * m[i] : m[i]);
    }
}

/* v = beta2*v + (1-beta2)*g^2; p -= lr*g / (sqrt(v) + eps) (Tieleman & Hinton 2012) */
static void rmsprop(const rnn_update *o)
{
    real *restrict p = o->p, *restrict v = o->v;
    const real *restrict g = o->g;
    const real rate = (real)o->lr, e = (real)o->eps, wd = (real)o->decay, s = (real)o->scale;
    const ptrdiff_t n = o->n;
    const real b = (real)o->beta2, c = (real)(1 - o->beta2);
    for (ptrdiff_t i = 0; i < n; i++) {
        const real d = g[i] * s + wd * p[i];
        v[i] = b * v[i] + c * d * d;
        p[i] -= rate * d / (SQRT(v[i]) + e);
    }
}

/* v += g^2; p -= lr*g / (sqrt(v) + eps) (Duchi et al. 2011) */
static void adagrad(const rnn_update *o)
{
    real *restrict p = o->p, *restrict v = o->v;
    const real *restrict g = o->g;
    const real rate = (real)o->lr, e = (real)o->eps, wd = (real)o->decay, s = (real)o->scale;
    const ptrdiff_t n = o->n;
    for (ptrdiff_t i = 0; i < n; i++) {
        const real d = g[i] * s + wd * p[i];
        v[i] += d * d;
        p[i] -= rate * d / (SQRT(v[i]) + e);
    }
}

/* Adam (Kingma & Ba 2015); decoupled: AdamW (Loshchilov & Hutter 2019) */
static void adam(const rnn_update *o)
{
    real *restrict p = o->p, *restrict m = o->m, *restrict v = o->v;
    const real *restrict g = o->g;
    const real rate = (real)(o->lr / (1 - pow(o->beta1, (double)o->step)));
    const real root = (real)(1 / sqrt(1 - pow(o->beta2, (double)o->step)));
    const real b1 = (real)o->beta1, c1 = (real)(1 - o->beta1), b2 = (real)o->beta2, c2 = (real)(1 - o->beta2);
    const real e = (real)o->eps, s = (real)o->scale;
    const ptrdiff_t n = o->n;
    const real added = o->decoupled ? 0 : (real)o->decay, kept = o->decoupled ? (real)(1 - o->lr * o->decay) : 1;
    for (ptrdiff_t i = 0; i < n; i++) {
        const real d = g[i] * s + added * p[i];
        m[i] = b1 * m[i] + c1 * d;
        v[i] = b2 * v[i] + c2 * d * d;
        p[i] = kept * p[i] - rate * m[i] / (SQRT(v[i]) * root + e);
    }
}

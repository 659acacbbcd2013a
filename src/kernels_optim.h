/* Optimisers on flat arrays, one pass over memory each; torch's formulas. The gradient is multiplied by `scale` as it is read. */

/* sum of squares in float64: eight partial sums, added in a fixed order */
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

/* v = momentum*v + g; p -= lr*v (Sutskever et al. 2013 for nesterov: p -= lr*(g + momentum*v)) */
static void sgd(ptrdiff_t n, void *vp, const void *vg, void *vv, double lr, double momentum, double decay, int nesterov, double scale)
{
    real *restrict p = vp, *restrict v = vv;
    const real *restrict g = vg;
    const real rate = (real)lr, mu = (real)momentum, wd = (real)decay, s = (real)scale;
    if (!v) {
        for (ptrdiff_t i = 0; i < n; i++)
            p[i] -= rate * (g[i] * s + wd * p[i]);
        return;
    }
    for (ptrdiff_t i = 0; i < n; i++) {
        const real d = g[i] * s + wd * p[i];
        v[i] = mu * v[i] + d;
        p[i] -= rate * (nesterov ? d + mu * v[i] : v[i]);
    }
}

/* s = alpha*s + (1-alpha)*g^2; p -= lr*g / (sqrt(s) + eps) (Tieleman & Hinton 2012) */
static void rmsprop(ptrdiff_t n, void *vp, const void *vg, void *vs, double lr, double alpha, double eps, double decay, double scale)
{
    real *restrict p = vp, *restrict square = vs;
    const real *restrict g = vg;
    const real rate = (real)lr, a = (real)alpha, b = (real)(1 - alpha), e = (real)eps, wd = (real)decay, s = (real)scale;
    for (ptrdiff_t i = 0; i < n; i++) {
        const real d = g[i] * s + wd * p[i];
        square[i] = a * square[i] + b * d * d;
        p[i] -= rate * d / (SQRT(square[i]) + e);
    }
}

/* s += g^2; p -= lr*g / (sqrt(s) + eps) (Duchi et al. 2011) */
static void adagrad(ptrdiff_t n, void *vp, const void *vg, void *vs, double lr, double eps, double decay, double scale)
{
    real *restrict p = vp, *restrict square = vs;
    const real *restrict g = vg;
    const real rate = (real)lr, e = (real)eps, wd = (real)decay, s = (real)scale;
    for (ptrdiff_t i = 0; i < n; i++) {
        const real d = g[i] * s + wd * p[i];
        square[i] += d * d;
        p[i] -= rate * d / (SQRT(square[i]) + e);
    }
}

/* Adam (Kingma & Ba 2015); decoupled: AdamW (Loshchilov & Hutter 2019) */
static void adam(ptrdiff_t n, void *vp, const void *vg, void *vm, void *vv, double lr, double beta1, double beta2, double eps,
                 double decay, int decoupled, int64_t step, double scale)
{
    real *restrict p = vp, *restrict m = vm, *restrict v = vv;
    const real *restrict g = vg;
    const real rate = (real)(lr / (1 - pow(beta1, (double)step))), root = (real)(1 / sqrt(1 - pow(beta2, (double)step)));
    const real b1 = (real)beta1, c1 = (real)(1 - beta1), b2 = (real)beta2, c2 = (real)(1 - beta2), e = (real)eps, s = (real)scale;
    const real added = decoupled ? 0 : (real)decay, kept = decoupled ? (real)(1 - lr * decay) : 1;
    for (ptrdiff_t i = 0; i < n; i++) {
        const real d = g[i] * s + added * p[i];
        m[i] = b1 * m[i] + c1 * d;
        v[i] = b2 * v[i] + c2 * d * d;
        p[i] = kept * p[i] - rate * m[i] / (SQRT(v[i]) * root + e);
    }
}

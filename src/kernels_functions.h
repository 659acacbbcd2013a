/* The activations of cells with options, and their derivatives. Definitions as in ONNX: docs/backward.md. */

#define SELU_SCALE ((real)1.0507009873554804934193349852946)
#define SELU_ALPHA ((real)1.6732632423543772848170429916717)

/* exp(x) - 1 for x <= 0 */
INLINE vec v_expm1_below(vec x)
{
    vec scale;
    const vec p = v_expm1_part(v_at_least(x, EXP_MIN), &scale);
    return v_fma(p, scale, scale - 1);
}

/* log(1 + x) for 0 <= x <= 1, lane by lane: only softplus uses it, and its time does not matter */
INLINE vec v_log1p(vec x)
{
    for (int l = 0; l < VL; l++)
        x[l] = sizeof(real) == 4 ? (real)log1pf((float)x[l]) : (real)log1p((double)x[l]);
    return x;
}

/* the first n lanes of x; the others are 0 */
INLINE vec v_first(vec x, ptrdiff_t n)
{
    for (int l = n < VL ? (int)n : VL; l < VL; l++)
        x[l] = 0;
    return x;
}

static __attribute__((noinline)) vec activation(const rnn_function *f, vec a)
{
    const real alpha = (real)f->alpha, beta = (real)f->beta;
    switch (f->kind) {
    case F_TANH: return v_tanh(a);
    case F_SIGMOID: return v_sigmoid(a);
    case F_RELU: return v_at_least(a, 0);
    case F_AFFINE: return v_fma(v_set(alpha), a, v_set(beta));
    case F_LEAKY_RELU: return v_select((ivec)(a < 0), alpha * a, a);
    case F_THRESHOLDED_RELU: return v_select((ivec)(a <= alpha), (vec){0}, a);
    case F_SCALED_TANH: return alpha * v_tanh(beta * a);
    case F_HARD_SIGMOID: return v_at_most(v_at_least(v_fma(v_set(alpha), a, v_set(beta)), 0), 1);
    case F_ELU: return v_select((ivec)(a < 0), alpha * v_expm1_below(v_at_most(a, 0)), a);
    case F_SOFTSIGN: return a / (1 + v_abs(a));
    case F_SOFTPLUS: return v_at_least(a, 0) + v_log1p(v_exp(-v_abs(a)));
    case F_SELU: return SELU_SCALE * v_select((ivec)(a < 0), SELU_ALPHA * v_expm1_below(v_at_most(a, 0)), a);
    case F_SILU: return a * v_sigmoid(a);
    default: return v_exp(a);
    }
}

/* the derivative at a, where y is the function's value */
static __attribute__((noinline)) vec derivative(const rnn_function *f, vec a, vec y)
{
    const vec alpha = v_set((real)f->alpha), zero = {0}, one = v_set(1);
    switch (f->kind) {
    case F_TANH: return 1 - y * y;
    case F_SIGMOID: return y * (1 - y);
    case F_RELU: return v_select((ivec)(a <= 0), zero, one);
    case F_AFFINE: return alpha;
    case F_LEAKY_RELU: return v_select((ivec)(a < 0), alpha, one);
    case F_THRESHOLDED_RELU: return v_select((ivec)(a <= alpha), zero, one);
    case F_SCALED_TANH: {
        const vec t = v_tanh((real)f->beta * a);
        return alpha * (real)f->beta * (1 - t * t);
    }
    case F_HARD_SIGMOID: return v_select((ivec)(y <= 0) | (ivec)(y >= 1), zero, alpha);
    case F_ELU: return v_select((ivec)(a < 0), y + alpha, one);
    case F_SOFTSIGN: return 1 / ((1 + v_abs(a)) * (1 + v_abs(a)));
    case F_SOFTPLUS: return v_sigmoid(a);
    case F_SELU: return v_select((ivec)(a < 0), y + SELU_SCALE * SELU_ALPHA, v_set(SELU_SCALE));
    case F_SILU: {
        const vec s = v_sigmoid(a);
        return v_fma(y, 1 - s, s);
    }
    default: return y;
    }
}

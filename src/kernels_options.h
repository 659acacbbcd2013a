/* Cells with options: any activations, clipped pre-activations; the LSTM's peepholes, coupled gates and projection.
 * The tape holds pre-activations, not activations: a derivative is then right for every function, and where the clip cut.
 * What is carried from step to step unit by unit, the GRU's h and the LSTM's c, is kept at 0 past H: with these functions it could grow
 * there until it is infinite, and 0 * infinity is NaN. Equations (O1)-(O12) of docs/backward.md. */

#define SELU_SCALE ((real)1.0507009873554804934193349852946)
#define SELU_ALPHA ((real)1.6732632423543772848170429916717)

/* exp(x) - 1 for x <= 0 */
INLINE vec v_expm1_below(vec x)
{
    vec scale;
    const vec p = v_expm1_part(v_at_least(x, EXP_MIN), &scale);
    return v_fma(p, scale, scale - 1);
}

/* log(1 + x) for 0 <= x <= 1, lane by lane: no model has its time there */
INLINE vec v_log1p(vec x)
{
    for (int l = 0; l < VL; l++)
        x[l] = sizeof(real) == 4 ? (real)log1pf((float)x[l]) : (real)log1p((double)x[l]);
    return x;
}

/* lanes from n on become 0 */
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

INLINE vec clipped(const rnn_options *o, vec a)
{
    return v_at_most(v_at_least(a, -(real)o->clip), (real)o->clip);
}

/* a gate's value from its pre-activation */
INLINE vec value(const rnn_options *o, const rnn_function *f, vec a)
{
    return activation(f, clipped(o, a));
}

/* its derivative, 0 where the clip cut */
INLINE vec slope(const rnn_options *o, const rnn_function *f, vec a, vec y)
{
    return v_select((ivec)(v_abs(a) > (real)o->clip), (vec){0}, derivative(f, clipped(o, a), y));
}

/* dh of a row's units from u on: what was carried and what came from y */
INLINE vec dh_of(const rnn_step_backward *s, ptrdiff_t row, ptrdiff_t u)
{
    const vec dh = v_load((const real *)s->dh + row * s->Pp + u);
    return s->dy ? dh + v_load_n((const real *)s->dy + row * s->dy_stride + u, s->P - u) : dh;
}

/* ---- vanilla ---------------------------------------------------------------------------------------------------- */

static void rnn_options_cell(const rnn_step *s, ptrdiff_t row, int rows, ptrdiff_t unit, int panels, int cols, const real *part)
{
    const rnn_options *o = s->options;
    for (int p = 0; p < panels; p++, unit += cols * VL)
        for (int m = 0; m < rows; m++)
            for (int j = 0; j < cols; j++, part += VL) {
                const ptrdiff_t u = unit + j * VL;
                const vec a = v_load(part);
                store_state(s, row + m, u, value(o, &o->candidate, a));    /* (O1) */
                if (s->keep)
                    v_store((real *)s->gates + (row + m) * s->Hp + u, a);
            }
}

static void rnn_options_forward(const rnn_step *s)     { rnn_forward(s, rnn_options_cell); }

static void rnn_options_backward(const rnn_step_backward *s)
{
    const rnn_options *o = s->options;
    for (ptrdiff_t row = 0; row < s->rows; row++)
        for (ptrdiff_t u = s->u0; u < s->u1; u += VL) {
            const vec a = v_load((const real *)s->gates + row * s->Hp + u);
            v_store((real *)s->dgates + row * s->Hp + u, dh_of(s, row, u) * slope(o, &o->candidate, a, value(o, &o->candidate, a)));
        }
    step_product(s, 0, s->Hp, 1, s->w, s->dh, 0);
}

/* ---- GRU -------------------------------------------------------------------------------------------------------- */

/* (O4): h = (1-z)*n + z*h_prev from the pre-activations of n and z */
INLINE void gru_options_state(const rnn_step *s, ptrdiff_t row, ptrdiff_t u, vec an, vec az)
{
    const rnn_options *o = s->options;
    const vec n = value(o, &o->candidate, an), z = value(o, &o->gate, az), h_prev = v_load((const real *)s->h_prev + row * s->Hp + u);
    store_state(s, row, u, v_first(v_fma(z, h_prev - n, n), s->H - u));
}

static void gru_options_cell(const rnn_step *s, ptrdiff_t row, int rows, ptrdiff_t unit, int panels, int cols, const real *part)
{
    const rnn_options *o = s->options;
    const ptrdiff_t Hp = s->Hp;
    for (int p = 0; p < panels; p++, unit += VL)
        for (int m = 0; m < rows; m++, part += cols * VL) {
            real *gates = (real *)s->gates + (row + m) * 4 * Hp + unit;
            const vec xn = v_load(gates) + v_load((const real *)s->bias + (row + m) * s->bias_stride + unit);
            const vec ar = v_load(part), az = v_load(part + VL), hn = v_load(part + 2 * VL);
            const vec an = v_fma(value(o, &o->gate, ar), hn, xn);                             /* (O3) */
            gru_options_state(s, row + m, unit, an, az);
            if (s->keep) {
                v_store(gates, an);
                v_store(gates + Hp, ar);
                v_store(gates + 2 * Hp, az);
                v_store(gates + 3 * Hp, hn);
            }
        }
}

static void gru_options_forward(const rnn_step *s)
{
    const chain_args args = {.K = s->H, .a = s->h_prev, .lda = s->Hp, .w = s->w,
                             .x = (const real *)s->gates + s->Hp, .bias = (const real *)s->bias + s->Hp, .x_cols = 2};
    step_blocks(s, 3, args, 4 * s->Hp, gru_options_cell);
}

/* what both kinds share: dn and dz of pre-activations, and h's direct way back */
INLINE vec gru_options_dn(const rnn_step_backward *s, ptrdiff_t row, ptrdiff_t u)
{
    const rnn_options *o = s->options;
    const ptrdiff_t Hp = s->Hp;
    const real *gates = (const real *)s->gates + row * 4 * Hp + u;
    real *dgates = (real *)s->dgates + row * 4 * Hp + u;
    const vec an = v_load(gates), az = v_load(gates + 2 * Hp), h_prev = v_load((const real *)s->h_prev + row * Hp + u);
    const vec n = value(o, &o->candidate, an), z = value(o, &o->gate, az), dh = dh_of(s, row, u);
    const vec dn = dh * (1 - z) * slope(o, &o->candidate, an, n);
    v_store(dgates, dn);
    v_store(dgates + 2 * Hp, dh * (h_prev - n) * slope(o, &o->gate, az, z));
    v_store((real *)s->dh + row * Hp + u, dh * z);
    return dn;
}

static void gru_options_backward(const rnn_step_backward *s)
{
    const rnn_options *o = s->options;
    const ptrdiff_t Hp = s->Hp;
    for (ptrdiff_t row = 0; row < s->rows; row++)
        for (ptrdiff_t u = s->u0; u < s->u1; u += VL) {
            const real *gates = (const real *)s->gates + row * 4 * Hp + u;
            real *dgates = (real *)s->dgates + row * 4 * Hp + u;
            const vec dn = gru_options_dn(s, row, u), ar = v_load(gates + Hp), hn = v_load(gates + 3 * Hp), r = value(o, &o->gate, ar);
            v_store(dgates + Hp, dn * hn * slope(o, &o->gate, ar, r));
            v_store(dgates + 3 * Hp, dn * r);
        }
    step_product(s, 1, 3 * Hp, 4, s->w, s->dh, 1);
}

static void gru_before_options_gates(const rnn_step *s, ptrdiff_t row, int rows, ptrdiff_t unit, int panels, int cols, const real *part)
{
    const rnn_options *o = s->options;
    const ptrdiff_t Hp = s->Hp;
    for (int p = 0; p < panels; p++, unit += VL)
        for (int m = 0; m < rows; m++, part += cols * VL) {
            real *gates = (real *)s->gates + (row + m) * 4 * Hp + unit;
            const vec ar = v_load(part), h_prev = v_load((const real *)s->h_prev + (row + m) * Hp + unit);
            v_store(gates + Hp, ar);
            v_store(gates + 2 * Hp, v_load(part + VL));
            v_store(gates + 3 * Hp, value(o, &o->gate, ar) * h_prev);
        }
}

static void gru_before_options_cell(const rnn_step *s, ptrdiff_t row, int rows, ptrdiff_t unit, int panels, int cols, const real *part)
{
    for (int p = 0; p < panels; p++, unit += cols * VL)
        for (int m = 0; m < rows; m++)
            for (int j = 0; j < cols; j++, part += VL) {
                const ptrdiff_t u = unit + j * VL;
                real *gates = (real *)s->gates + (row + m) * 4 * s->Hp + u;
                const vec an = v_load(part);
                gru_options_state(s, row + m, u, an, v_load(gates + 2 * s->Hp));
                if (s->keep)
                    v_store(gates, an);
            }
}

static void gru_before_options_forward(const rnn_step *s)
{
    gru_before_phases(s, gru_before_options_gates, gru_before_options_cell);
}

static void gru_before_options_backward(const rnn_step_backward *s)
{
    const rnn_options *o = s->options;
    const ptrdiff_t Hp = s->Hp;
    for (ptrdiff_t row = 0; row < s->rows; row++)
        for (ptrdiff_t u = s->u0; u < s->u1; u += VL)
            gru_options_dn(s, row, u);
    step_product(s, 0, Hp, 4, s->w2, s->dphase, 0);
    for (ptrdiff_t row = 0; row < s->rows; row++)
        for (ptrdiff_t u = s->u0; u < s->u1; u += VL) {
            const vec ar = v_load((const real *)s->gates + row * 4 * Hp + Hp + u), r = value(o, &o->gate, ar);
            const vec h_prev = v_load((const real *)s->h_prev + row * Hp + u), drh = v_load((const real *)s->dphase + row * Hp + u);
            real *dh = (real *)s->dh + row * Hp + u;
            v_store((real *)s->dgates + row * 4 * Hp + Hp + u, drh * h_prev * slope(o, &o->gate, ar, r));
            v_store(dh, v_fma(drh, r, v_load(dh)));
        }
    step_product(s, 1, 2 * Hp, 4, s->w, s->dh, 1);
}

/* ---- LSTM: 4 gates i, f, g, o, or 3 with f = 1 - i. Then one block for each peephole, of dgates only, then m = o * f(c) if it is
 *      projected: h = W_hr m has P features ------------------------------------------------------------------------- */

INLINE void lstm_options_cell(int gates, const rnn_step *s, ptrdiff_t row, int rows, ptrdiff_t unit, int panels, const real *part)
{
    const rnn_options *o = s->options;
    const ptrdiff_t Hp = s->Hp, X = o->blocks;
    for (int p = 0; p < panels; p++, unit += VL)
        for (int m = 0; m < rows; m++, part += gates * VL) {
            const ptrdiff_t r = row + m;
            const real *peephole = o->peephole ? (const real *)o->peephole + unit : NULL;
            real *tape = (real *)s->gates + r * X * Hp + unit;
            const vec cp = v_load((const real *)s->c_prev + r * Hp + unit);
            vec a[4];
            for (int k = 0; k < gates; k++)
                a[k] = v_load(part + k * VL);
            for (int k = 0; peephole && k < gates - 2; k++)
                a[k] = v_fma(v_load(peephole + k * Hp), cp, a[k]);                            /* (O5) */
            const vec i = value(o, &o->gate, a[0]), f = gates == 3 ? 1 - i : value(o, &o->gate, a[1]);
            const vec g = value(o, &o->candidate, a[gates - 2]);
            const vec c = v_first(v_fma(f, cp, i * g), s->H - unit);                          /* (O7) */
            if (peephole)
                a[gates - 1] = v_fma(v_load(peephole + (gates - 2) * Hp), c, a[gates - 1]);   /* (O8) */
            const vec out = value(o, &o->gate, a[gates - 1]) * activation(&o->output, c);
            v_store((real *)(r < s->go_on ? s->c_next : s->c_end) + r * Hp + unit, c);
            for (int k = 0; s->keep && k < gates; k++)
                v_store(tape + k * Hp, a[k]);
            if (o->projected)
                v_store(tape + (X - 1) * Hp, out);
            else
                store_state(s, r, unit, out);
        }
}

/* (O10): h = W_hr m, of this part's features; rows that go on and rows that end have their h in different places */
static void project(const rnn_step *s)
{
    const ptrdiff_t X = s->options->blocks, go_on = s->go_on > 0 ? s->go_on : 0, first[2] = {0, go_on}, count[2] = {go_on, s->rows - go_on};
    rnn_product p = {.groups = 1, .N = s->Pp, .K = s->H, .a = (const real *)s->gates + (X - 1) * s->Hp, .lda = X * s->Hp, .w = s->w2,
                     .ldc = s->Pp, .flip = s->flip, .v0 = s->p0 / VL, .v1 = s->p1 / VL};
    if (s->parts > 1)
        rnn_team_meet(s->part, s->parts);
    if (s->p0 == s->p1)
        return;
    for (int k = 0; k < 2; k++) {
        p.first = first + k;
        p.count = count + k;
        p.c = k ? s->h_end : s->h_next;
        if (count[k])
            product(&p);
    }
    for (ptrdiff_t row = 0; row < s->rows; row++)
        for (ptrdiff_t u = s->p0; u < s->p1; u += VL)
            v_store_n((real *)s->y + row * s->y_stride + u, v_load((const real *)(row < s->go_on ? s->h_next : s->h_end) + row * s->Pp + u), s->P - u);
}

INLINE void lstm_options_forward(int gates, const rnn_step *s, cell_fn *cell)
{
    const chain_args args = {.K = s->P, .a = s->h_prev, .lda = s->Pp, .w = s->w, .x = s->gates, .bias = s->bias, .x_cols = gates};
    step_blocks(s, gates, args, s->options->blocks * s->Hp, cell);
    if (s->options->projected)
        project(s);
}

/* dgates of a row's units from u on, and dc carried back; dm is the gradient of m = o * f(c). Behind the gates: what the peepholes' gradients
 * are the column sums of */
INLINE void lstm_options_dgates(int gates, const rnn_step_backward *s, ptrdiff_t row, ptrdiff_t u, vec dm)
{
    const rnn_options *o = s->options;
    const ptrdiff_t Hp = s->Hp;
    const real *tape = (const real *)s->gates + row * o->blocks * Hp + u, *peephole = o->peephole ? (const real *)o->peephole + u : NULL;
    real *d = (real *)s->dgates + row * o->blocks * Hp + u, *dc_carried = (real *)s->dc + row * Hp + u;
    const vec cp = v_load((const real *)s->c_prev + row * Hp + u);
    const vec ai = v_load(tape), ag = v_load(tape + (gates - 2) * Hp), ao = v_load(tape + (gates - 1) * Hp), af = v_load(tape + Hp);
    const vec i = value(o, &o->gate, ai), f = gates == 3 ? 1 - i : value(o, &o->gate, af), g = value(o, &o->candidate, ag);
    const vec out = value(o, &o->gate, ao), c = v_fma(f, cp, i * g), fc = activation(&o->output, c);
    const vec d_o = dm * fc * slope(o, &o->gate, ao, out);
    vec dc = v_load(dc_carried) + dm * out * derivative(&o->output, c, fc);
    if (peephole)
        dc = v_fma(d_o, v_load(peephole + (gates - 2) * Hp), dc);
    const vec di = dc * (gates == 3 ? g - cp : g) * slope(o, &o->gate, ai, i);
    const vec df = gates == 3 ? (vec){0} : dc * cp * slope(o, &o->gate, af, f);
    vec before = dc * f;
    v_store(d, di);
    if (gates == 4)
        v_store(d + Hp, df);
    v_store(d + (gates - 2) * Hp, dc * i * slope(o, &o->candidate, ag, g));
    v_store(d + (gates - 1) * Hp, d_o);
    if (peephole) {
        before = v_fma(di, v_load(peephole), before);
        v_store(d + gates * Hp, di * cp);
        if (gates == 4) {
            before = v_fma(df, v_load(peephole + Hp), before);
            v_store(d + (gates + 1) * Hp, df * cp);
        }
        v_store(d + (2 * gates - 2) * Hp, d_o * c);
    }
    v_store(dc_carried, before);
}

INLINE void lstm_options_backward(int gates, const rnn_step_backward *s)
{
    const ptrdiff_t Hp = s->Hp, X = s->options->blocks;
    real *dh = (real *)s->dgates + (X - 1) * Hp;                      /* of a projected h: its block of dgates, which dW_hr is a product of */
    if (s->options->projected) {
        for (ptrdiff_t row = 0; row < s->rows; row++)
            for (ptrdiff_t u = s->p0; u < s->p1; u += VL)
                v_store(dh + row * X * Hp + u, dh_of(s, row, u));
        step_product_to(s, dh, X * Hp, s->P, s->w2, s->dphase, Hp, s->u0, s->u1, 0);
    }
    for (ptrdiff_t row = 0; row < s->rows; row++)
        for (ptrdiff_t u = s->u0; u < s->u1; u += VL)
            lstm_options_dgates(gates, s, row, u, s->options->projected ? v_load((const real *)s->dphase + row * Hp + u) : dh_of(s, row, u));
    step_product_to(s, s->dgates, X * Hp, gates * Hp, s->w, s->dh, s->Pp, s->p0, s->p1, 0);
}

static void lstm_four_cell(const rnn_step *s, ptrdiff_t row, int rows, ptrdiff_t unit, int panels, int cols, const real *part)
{
    (void)cols;
    lstm_options_cell(4, s, row, rows, unit, panels, part);
}

static void lstm_four_forward(const rnn_step *s)              { lstm_options_forward(4, s, lstm_four_cell); }
static void lstm_four_backward(const rnn_step_backward *s)    { lstm_options_backward(4, s); }

static void lstm_coupled_cell(const rnn_step *s, ptrdiff_t row, int rows, ptrdiff_t unit, int panels, int cols, const real *part)
{
    (void)cols;
    lstm_options_cell(3, s, row, rows, unit, panels, part);
}

static void lstm_coupled_forward(const rnn_step *s)           { lstm_options_forward(3, s, lstm_coupled_cell); }
static void lstm_coupled_backward(const rnn_step_backward *s) { lstm_options_backward(3, s); }

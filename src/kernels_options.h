/* Cells with options: any activations, clipped pre-activations; the LSTM's peepholes, coupled gates and projection.
 * The tape holds pre-activations instead of activations, from which the derivative of every function can be computed,
 * also where values were clipped. The GRU's h and the LSTM's c, which are carried from step to step elementwise, are
 * kept at 0 in the padding past H: with some of these functions they could otherwise grow there to infinity, and 0 *
 * infinity is NaN. Equations (O1)-(O12) of docs/backward.md. */

INLINE vec clipped(const rnn_options *o, vec a)
{
    return v_at_most(v_at_least(a, -(real)o->clip), (real)o->clip);
}

/* a gate's value from its pre-activation */
INLINE vec value(const rnn_options *o, const rnn_function *f, vec a)
{
    return activation(f, clipped(o, a));
}

/* its derivative: 0 where the pre-activation was clipped */
INLINE vec slope(const rnn_options *o, const rnn_function *f, vec a, vec y)
{
    return v_select((ivec)(v_abs(a) > (real)o->clip), (vec){0}, derivative(f, clipped(o, a), y));
}

/* dh of a vector of units of a row: the carried gradient plus that of y */
INLINE vec dh_of(const rnn_step_backward *s, ptrdiff_t row, ptrdiff_t u)
{
    const vec dh = v_load((const real *)s->dh + row * s->Pp + u);
    return s->dy ? dh + v_load_n((const real *)s->dy + row * s->dy_stride + u, s->P - u) : dh;
}

/* ---- vanilla ---------------------------------------------------------------------------------------------------- */

static void rnn_options_cell(const rnn_step *s, ptrdiff_t row, int rows, ptrdiff_t unit, int panels, int cols,
                             const real *part)
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
            const vec d = slope(o, &o->candidate, a, value(o, &o->candidate, a));
            v_store((real *)s->dgates + row * s->Hp + u, dh_of(s, row, u) * d);
        }
    step_product(s, 0, s->Hp, 1, s->w, s->dh, 0);
}

/* ---- GRU -------------------------------------------------------------------------------------------------------- */

/* (O4): h = (1-z)*n + z*h_prev from the pre-activations of n and z */
INLINE void gru_options_state(const rnn_step *s, ptrdiff_t row, ptrdiff_t u, vec an, vec az)
{
    const rnn_options *o = s->options;
    const vec n = value(o, &o->candidate, an), z = value(o, &o->gate, az);
    const vec h_prev = v_load((const real *)s->h_prev + row * s->Hp + u);
    store_state(s, row, u, v_first(v_fma(z, h_prev - n, n), s->H - u));
}

static void gru_options_cell(const rnn_step *s, ptrdiff_t row, int rows, ptrdiff_t unit, int panels, int cols,
                             const real *part)
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

/* Common to both variants: store dn, dz and the direct part of dh; return dn. */
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
            const vec dn = gru_options_dn(s, row, u), ar = v_load(gates + Hp), hn = v_load(gates + 3 * Hp);
            const vec r = value(o, &o->gate, ar);
            v_store(dgates + Hp, dn * hn * slope(o, &o->gate, ar, r));
            v_store(dgates + 3 * Hp, dn * r);
        }
    step_product(s, 1, 3 * Hp, 4, s->w, s->dh, 1);
}

static void gru_before_options_gates(const rnn_step *s, ptrdiff_t row, int rows, ptrdiff_t unit, int panels,
                                     int cols, const real *part)
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

static void gru_before_options_cell(const rnn_step *s, ptrdiff_t row, int rows, ptrdiff_t unit, int panels, int cols,
                                    const real *part)
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
            const vec h_prev = v_load((const real *)s->h_prev + row * Hp + u);
            const vec drh = v_load((const real *)s->dphase + row * Hp + u);
            real *dh = (real *)s->dh + row * Hp + u;
            v_store((real *)s->dgates + row * 4 * Hp + Hp + u, drh * h_prev * slope(o, &o->gate, ar, r));
            v_store(dh, v_fma(drh, r, v_load(dh)));
        }
    step_product(s, 1, 2 * Hp, 4, s->w, s->dh, 1);
}

/* ---- LSTM ------------------------------------------------------------------------------------------------------- */

/* Blocks: 4 gates i, f, g, o, or 3 with f = 1 - i; then one for each peephole, used in dgates only; then, with a
 * projection h = W_hr m to P features, m = o * f(c). */

INLINE void lstm_options_cell(int gates, const rnn_step *s, ptrdiff_t row, int rows, ptrdiff_t unit, int panels,
                              const real *part)
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

/* (O10): h = W_hr m, for this part's features. Rows that continue and rows that end store h in different arrays. */
static void project(const rnn_step *s)
{
    const ptrdiff_t X = s->options->blocks, go_on = s->go_on > 0 ? s->go_on : 0;
    const ptrdiff_t first[2] = {0, go_on}, count[2] = {go_on, s->rows - go_on};
    rnn_product p = {.groups = 1, .N = s->Pp, .K = s->H, .a = (const real *)s->gates + (X - 1) * s->Hp,
                     .lda = X * s->Hp, .w = s->w2, .ldc = s->Pp, .flip = s->flip, .v0 = s->p0 / VL, .v1 = s->p1 / VL};
    if (s->parts > 1)
        rnn_team_barrier(s->part, s->parts);
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
        for (ptrdiff_t u = s->p0; u < s->p1; u += VL) {
            const real *h = (const real *)(row < s->go_on ? s->h_next : s->h_end) + row * s->Pp;
            v_store_n((real *)s->y + row * s->y_stride + u, v_load(h + u), s->P - u);
        }
}

INLINE void lstm_options_forward(int gates, const rnn_step *s, cell_fn *cell)
{
    const chain_args args = {.K = s->P, .a = s->h_prev, .lda = s->Pp, .w = s->w,
                             .x = s->gates, .bias = s->bias, .x_cols = gates};
    step_blocks(s, gates, args, s->options->blocks * s->Hp, cell);
    if (s->options->projected)
        project(s);
}

/* dgates of a vector of units of a row, and dc; dm is the gradient of m = o * f(c). The blocks after the gates are
 * those whose column sums are the gradients of the peepholes. */
INLINE void lstm_options_dgates(int gates, const rnn_step_backward *s, ptrdiff_t row, ptrdiff_t u, vec dm)
{
    const rnn_options *o = s->options;
    const ptrdiff_t Hp = s->Hp;
    const real *tape = (const real *)s->gates + row * o->blocks * Hp + u;
    const real *peephole = o->peephole ? (const real *)o->peephole + u : NULL;
    real *d = (real *)s->dgates + row * o->blocks * Hp + u, *dc_carried = (real *)s->dc + row * Hp + u;
    const vec cp = v_load((const real *)s->c_prev + row * Hp + u);
    const vec ai = v_load(tape), af = v_load(tape + Hp);
    const vec ag = v_load(tape + (gates - 2) * Hp), ao = v_load(tape + (gates - 1) * Hp);
    const vec i = value(o, &o->gate, ai), f = gates == 3 ? 1 - i : value(o, &o->gate, af);
    const vec g = value(o, &o->candidate, ag);
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
    real *dh = (real *)s->dgates + (X - 1) * Hp;         /* of a projected h; dW_hr is computed from this block */
    if (s->options->projected) {
        for (ptrdiff_t row = 0; row < s->rows; row++)
            for (ptrdiff_t u = s->p0; u < s->p1; u += VL)
                v_store(dh + row * X * Hp + u, dh_of(s, row, u));
        step_product_to(s, dh, X * Hp, s->P, s->w2, s->dphase, Hp, s->u0, s->u1, 0);
    }
    for (ptrdiff_t row = 0; row < s->rows; row++)
        for (ptrdiff_t u = s->u0; u < s->u1; u += VL)
            lstm_options_dgates(gates, s, row, u, s->options->projected ? v_load((const real *)s->dphase + row * Hp + u)
                                                                        : dh_of(s, row, u));
    step_product_to(s, s->dgates, X * Hp, gates * Hp, s->w, s->dh, s->Pp, s->p0, s->p1, 0);
}

static void lstm_four_cell(const rnn_step *s, ptrdiff_t row, int rows, ptrdiff_t unit, int panels, int cols,
                           const real *part)
{
    (void)cols;
    lstm_options_cell(4, s, row, rows, unit, panels, part);
}

static void lstm_four_forward(const rnn_step *s)              { lstm_options_forward(4, s, lstm_four_cell); }
static void lstm_four_backward(const rnn_step_backward *s)    { lstm_options_backward(4, s); }

static void lstm_coupled_cell(const rnn_step *s, ptrdiff_t row, int rows, ptrdiff_t unit, int panels, int cols,
                              const real *part)
{
    (void)cols;
    lstm_options_cell(3, s, row, rows, unit, panels, part);
}

static void lstm_coupled_forward(const rnn_step *s)           { lstm_options_forward(3, s, lstm_coupled_cell); }
static void lstm_coupled_backward(const rnn_step_backward *s) { lstm_options_backward(3, s); }

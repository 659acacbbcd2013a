/* LSTM. Blocks i, f, g, o. Equations (L1)-(L9) of docs/backward.md. */

INLINE void lstm_units(const rnn_step *s, ptrdiff_t row, int rows, ptrdiff_t unit, int panels, int cols,
                       const real *part)
{
    const ptrdiff_t Hp = s->Hp;
    for (int p = 0; p < panels; p++, unit += VL)
        for (int m = 0; m < rows; m++, part += cols * VL) {
            const ptrdiff_t r = row + m;
            const vec i = v_sigmoid(v_load(part)), f = v_sigmoid(v_load(part + VL));          /* (L1) (L2) */
            const vec g = v_tanh(v_load(part + 2 * VL)), o = v_sigmoid(v_load(part + 3 * VL)); /* (L3) (L4) */
            const vec c = v_fma(f, v_load((const real *)s->c_prev + r * Hp + unit), i * g);   /* (L5) */
            const vec h = o * v_tanh(c);                                                      /* (L6) */
            v_store((real *)(r < s->go_on ? s->c_next : s->c_end) + r * Hp + unit, c);
            store_state(s, r, unit, h);
            if (s->keep) {
                real *gates = (real *)s->gates + r * 4 * Hp + unit;
                v_store(gates, i);
                v_store(gates + Hp, f);
                v_store(gates + 2 * Hp, g);
                v_store(gates + 3 * Hp, o);
            }
        }
}

INLINE chain_args lstm_chain(const rnn_step *s)
{
    return (chain_args){.K = s->H, .a = s->h_prev, .lda = s->Hp, .w = s->w,
                        .x = s->gates, .bias = s->bias, .x_cols = 4};
}

static void lstm_forward(const rnn_step *s)    { step_blocks(s, 4, lstm_chain(s), 4 * s->Hp, lstm_units); }

INLINE void lstm_dgates(const rnn_step_backward *s)
{
    const ptrdiff_t Hp = s->Hp;
    for (ptrdiff_t row = 0; row < s->rows; row++) {
        const real *gates = (const real *)s->gates + row * 4 * Hp, *c_prev = (const real *)s->c_prev + row * Hp;
        const real *dy = s->dy ? (const real *)s->dy + row * s->dy_stride : NULL;
        real *dgates = (real *)s->dgates + row * 4 * Hp;
        real *dh_carried = (real *)s->dh + row * Hp, *dc_carried = (real *)s->dc + row * Hp;
        for (ptrdiff_t u = s->u0; u < s->u1; u += VL) {
            const vec i = v_load(gates + u), f = v_load(gates + Hp + u);
            const vec g = v_load(gates + 2 * Hp + u), o = v_load(gates + 3 * Hp + u);
            const vec cp = v_load(c_prev + u);
            const vec tc = v_tanh(v_fma(f, cp, i * g));
            vec dh = v_load(dh_carried + u);
            if (dy)
                dh += v_load_n(dy + u, s->H - u);
            const vec dc = v_load(dc_carried + u) + dh * o * (1 - tc * tc);     /* h = o * tanh(c)      */
            v_store(dgates + 3 * Hp + u, dh * tc * o * (1 - o));
            v_store(dgates + u, dc * g * i * (1 - i));                          /* c = f*c_prev + i*g   */
            v_store(dgates + 2 * Hp + u, dc * i * (1 - g * g));
            v_store(dgates + Hp + u, dc * cp * f * (1 - f));
            v_store(dc_carried + u, dc * f);
        }
    }
}

static void lstm_backward(const rnn_step_backward *s)
{
    lstm_dgates(s);
    step_product(s, 0, 4 * s->Hp, 4, s->w, s->dh, 0);    /* a += W_hh h_prev     */
}

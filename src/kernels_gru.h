/* GRU. Reset gate after the product: equations (G1)-(G9), blocks n, r, z, hn. Before it (Cho et al. 2014): (C1)-(C9),
 * blocks n, r, z, rh. n comes first so that the x side (n, r, z) and the h side (r, z, hn) of dgates are each
 * contiguous. */

INLINE void gru_units(const rnn_step *s, ptrdiff_t row, int rows, ptrdiff_t unit, int panels, int cols,
                      const real *part)
{
    const ptrdiff_t Hp = s->Hp;
    for (int p = 0; p < panels; p++, unit += VL)
        for (int m = 0; m < rows; m++, part += cols * VL) {
            real *gates = (real *)s->gates + (row + m) * 4 * Hp + unit;
            const vec xn = v_load(gates) + v_load((const real *)s->bias + (row + m) * s->bias_stride + unit);
            const vec r = v_sigmoid(v_load(part)), z = v_sigmoid(v_load(part + VL)), hn = v_load(part + 2 * VL);
            const vec n = v_tanh(v_fma(r, hn, xn));                                           /* (G4) */
            const vec h_prev = v_load((const real *)s->h_prev + (row + m) * Hp + unit);
            store_state(s, row + m, unit, v_fma(z, h_prev - n, n));                           /* (G5) */
            if (s->keep) {
                v_store(gates, n);
                v_store(gates + Hp, r);
                v_store(gates + 2 * Hp, z);
                v_store(gates + 3 * Hp, hn);
            }
        }
}

/* The chains of r, z and hn; only those of r and z include an input part. */
INLINE chain_args gru_chain(const rnn_step *s)
{
    return (chain_args){.K = s->H, .a = s->h_prev, .lda = s->Hp, .w = s->w,
                        .x = (const real *)s->gates + s->Hp, .bias = (const real *)s->bias + s->Hp, .x_cols = 2};
}

static void gru_forward(const rnn_step *s)    { step_blocks(s, 3, gru_chain(s), 4 * s->Hp, gru_units); }

/* Common to both variants: store dn, dz and the direct part of dh; return dn. */
INLINE vec gru_dn(const rnn_step_backward *s, ptrdiff_t row, ptrdiff_t u)
{
    const ptrdiff_t Hp = s->Hp;
    const real *gates = (const real *)s->gates + row * 4 * Hp + u;
    real *dgates = (real *)s->dgates + row * 4 * Hp + u, *dh_carried = (real *)s->dh + row * Hp + u;
    const vec n = v_load(gates), z = v_load(gates + 2 * Hp), h_prev = v_load((const real *)s->h_prev + row * Hp + u);
    vec dh = v_load(dh_carried);
    if (s->dy)
        dh += v_load_n((const real *)s->dy + row * s->dy_stride + u, s->H - u);
    const vec dn = dh * (1 - z) * (1 - n * n);                                  /* h = (1-z)*n + z*h_prev */
    v_store(dgates, dn);
    v_store(dgates + 2 * Hp, dh * (h_prev - n) * z * (1 - z));
    v_store(dh_carried, dh * z);
    return dn;
}

INLINE void gru_dgates(const rnn_step_backward *s)
{
    const ptrdiff_t Hp = s->Hp;
    for (ptrdiff_t row = 0; row < s->rows; row++)
        for (ptrdiff_t u = s->u0; u < s->u1; u += VL) {
            const real *gates = (const real *)s->gates + row * 4 * Hp + u;
            real *dgates = (real *)s->dgates + row * 4 * Hp + u;
            const vec dn = gru_dn(s, row, u), r = v_load(gates + Hp), hn = v_load(gates + 3 * Hp);
            v_store(dgates + Hp, dn * hn * r * (1 - r));                        /* n = tanh(xn + r*hn)    */
            v_store(dgates + 3 * Hp, dn * r);
        }
}

static void gru_backward(const rnn_step_backward *s)
{
    gru_dgates(s);
    step_product(s, 1, 3 * s->Hp, 4, s->w, s->dh, 1);
}

/* ---- reset gate before the product: n needs r * h_prev of all units, so a step has two phases ------------------- */

static void gru_before_gates(const rnn_step *s, ptrdiff_t row, int rows, ptrdiff_t unit, int panels, int cols,
                             const real *part)
{
    const ptrdiff_t Hp = s->Hp;
    for (int p = 0; p < panels; p++, unit += VL)
        for (int m = 0; m < rows; m++, part += cols * VL) {
            real *gates = (real *)s->gates + (row + m) * 4 * Hp + unit;
            const vec r = v_sigmoid(v_load(part));
            v_store(gates + Hp, r);
            v_store(gates + 2 * Hp, v_sigmoid(v_load(part + VL)));
            v_store(gates + 3 * Hp, r * v_load((const real *)s->h_prev + (row + m) * Hp + unit));   /* (C3) */
        }
}

static void gru_before_cell(const rnn_step *s, ptrdiff_t row, int rows, ptrdiff_t unit, int panels, int cols,
                            const real *part)
{
    const ptrdiff_t Hp = s->Hp;
    for (int p = 0; p < panels; p++, unit += cols * VL)
        for (int m = 0; m < rows; m++)
            for (int j = 0; j < cols; j++, part += VL) {
                const ptrdiff_t u = unit + j * VL;
                real *gates = (real *)s->gates + (row + m) * 4 * Hp + u;
                const vec n = v_tanh(v_load(part)), z = v_load(gates + 2 * Hp);               /* (C4) */
                const vec h_prev = v_load((const real *)s->h_prev + (row + m) * Hp + u);
                store_state(s, row + m, u, v_fma(z, h_prev - n, n));                          /* (C5) */
                if (s->keep)
                    v_store(gates, n);
            }
}

INLINE void gru_before_phases(const rnn_step *s, cell_fn *first, cell_fn *second)
{
    const real *gates = s->gates, *bias = s->bias;
    const chain_args r_and_z = {.K = s->H, .a = s->h_prev, .lda = s->Hp, .w = s->w,
                                .x = gates + s->Hp, .bias = bias + s->Hp, .x_cols = 2};
    const chain_args n = {.K = s->H, .a = gates + 3 * s->Hp, .lda = 4 * s->Hp, .w = s->w2,
                          .x = gates, .bias = bias, .x_cols = PANEL};
    step_blocks(s, 2, r_and_z, 4 * s->Hp, first);
    if (s->parts > 1)
        rnn_team_barrier(s->part, s->parts);
    step_blocks(s, 0, n, 4 * s->Hp, second);
}

static void gru_before_forward(const rnn_step *s)    { gru_before_phases(s, gru_before_gates, gru_before_cell); }

static void gru_before_backward(const rnn_step_backward *s)
{
    const ptrdiff_t Hp = s->Hp;
    for (ptrdiff_t row = 0; row < s->rows; row++)
        for (ptrdiff_t u = s->u0; u < s->u1; u += VL)
            gru_dn(s, row, u);
    step_product(s, 0, Hp, 4, s->w2, s->dphase, 0);      /* n = tanh(xn + W_hn rh) */
    for (ptrdiff_t row = 0; row < s->rows; row++)
        for (ptrdiff_t u = s->u0; u < s->u1; u += VL) {
            const vec r = v_load((const real *)s->gates + row * 4 * Hp + Hp + u);
            const vec h_prev = v_load((const real *)s->h_prev + row * Hp + u);
            const vec drh = v_load((const real *)s->dphase + row * Hp + u);
            real *dh = (real *)s->dh + row * Hp + u;
            v_store((real *)s->dgates + row * 4 * Hp + Hp + u, drh * h_prev * r * (1 - r));   /* rh = r * h_prev */
            v_store(dh, v_fma(drh, r, v_load(dh)));
        }
    step_product(s, 1, 2 * Hp, 4, s->w, s->dh, 1);
}

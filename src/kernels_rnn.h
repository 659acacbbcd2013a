/* Vanilla RNN with tanh, relu or sigmoid. One block: the activation h. Equations (R1)-(R4) of docs/backward.md. */

INLINE vec rnn_activation(int cell, vec a)
{
    switch (cell) {
    case RNN_TANH: return v_tanh(a);
    case RNN_RELU: return v_at_least(a, 0);
    default: return v_sigmoid(a);
    }
}

/* The derivative of the activation, from its value h, times dh. */
INLINE vec rnn_dactivation(int cell, vec h, vec dh)
{
    switch (cell) {
    case RNN_TANH: return dh * (1 - h * h);
    case RNN_RELU: return v_select((ivec)(h <= 0), (vec){0}, dh);
    default: return dh * h * (1 - h);
    }
}

INLINE void rnn_cell(int cell, const rnn_step *s, ptrdiff_t row, int rows, ptrdiff_t unit, int panels, int cols,
                     const real *part)
{
    for (int p = 0; p < panels; p++, unit += cols * VL)
        for (int m = 0; m < rows; m++)
            for (int j = 0; j < cols; j++, part += VL) {
                const vec h = rnn_activation(cell, v_load(part));                             /* (R2) */
                store_state(s, row + m, unit + j * VL, h);
                if (s->keep)
                    v_store((real *)s->gates + (row + m) * s->Hp + unit + j * VL, h);
            }
}

INLINE chain_args rnn_chain(const rnn_step *s)
{
    return (chain_args){.K = s->H, .a = s->h_prev, .lda = s->Hp, .w = s->w,
                        .x = s->gates, .bias = s->bias, .x_cols = PANEL};
}

INLINE void rnn_forward(const rnn_step *s, cell_fn *cell)    { step_blocks(s, 0, rnn_chain(s), s->Hp, cell); }

INLINE void rnn_dgates(int cell, const rnn_step_backward *s)
{
    const ptrdiff_t Hp = s->Hp;
    for (ptrdiff_t row = 0; row < s->rows; row++) {
        const real *h = (const real *)s->gates + row * Hp;
        const real *dy = s->dy ? (const real *)s->dy + row * s->dy_stride : NULL;
        real *dgates = (real *)s->dgates + row * Hp, *dh_carried = (real *)s->dh + row * Hp;
        for (ptrdiff_t u = s->u0; u < s->u1; u += VL) {
            vec dh = v_load(dh_carried + u);
            if (dy)
                dh += v_load_n(dy + u, s->H - u);
            v_store(dgates + u, rnn_dactivation(cell, v_load(h + u), dh));      /* h = f(a)             */
        }
    }
}

INLINE void rnn_backward(int cell, const rnn_step_backward *s)
{
    rnn_dgates(cell, s);
    step_product(s, 0, s->Hp, 1, s->w, s->dh, 0);            /* a += W_hh h_prev     */
}

INLINE void rnn_tanh_cell(const rnn_step *s, ptrdiff_t row, int rows, ptrdiff_t unit, int panels, int cols,
                          const real *part)
{
    rnn_cell(RNN_TANH, s, row, rows, unit, panels, cols, part);
}

static void rnn_tanh_forward(const rnn_step *s)            { rnn_forward(s, rnn_tanh_cell); }
static void rnn_tanh_backward(const rnn_step_backward *s)  { rnn_backward(RNN_TANH, s); }

INLINE void rnn_relu_cell(const rnn_step *s, ptrdiff_t row, int rows, ptrdiff_t unit, int panels, int cols,
                          const real *part)
{
    rnn_cell(RNN_RELU, s, row, rows, unit, panels, cols, part);
}

static void rnn_relu_forward(const rnn_step *s)            { rnn_forward(s, rnn_relu_cell); }
static void rnn_relu_backward(const rnn_step_backward *s)  { rnn_backward(RNN_RELU, s); }

INLINE void rnn_sigmoid_cell(const rnn_step *s, ptrdiff_t row, int rows, ptrdiff_t unit, int panels, int cols,
                             const real *part)
{
    rnn_cell(RNN_SIGMOID, s, row, rows, unit, panels, cols, part);
}

static void rnn_sigmoid_forward(const rnn_step *s)            { rnn_forward(s, rnn_sigmoid_cell); }
static void rnn_sigmoid_backward(const rnn_step_backward *s)  { rnn_backward(RNN_SIGMOID, s); }

/* Several steps of a single row of a small layer, in one call. The chains of all units are computed at the same time,
 * with the accumulators in registers, so that many of them are under way at once: a chain alone waits for its own
 * additions. The bits are those of `forward` and `backward`, because the order of the additions is the same. */

/* The steps r, with all units in `panels` panels of `cols` vectors. `args` is that of the first step. */
INLINE void row_steps(int panels, int cols, const rnn_row_steps *r, chain_args args, cell_fn *cell)
{
    real part[PARTS * VL];
    rnn_step s = r->step;
    s.go_on = 1;
    for (ptrdiff_t i = 1; i <= r->steps; i++) {
        const int last = i == r->steps;
        s.h_next = last ? r->h_last : (real *)s.h_prev + r->h_stride;
        s.c_next = last ? r->c_last : (real *)s.c_prev + r->c_stride;
        args.a = s.h_prev;
        chain_tile(panels, 1, cols, &args, part);
        cell(&s, 0, 1, 0, panels, cols, part);
        s.h_prev = s.h_next;
        s.c_prev = s.c_next;
        s.gates = (real *)s.gates + r->gates_stride;
        s.y = (real *)s.y + r->y_stride;
        args.x += r->gates_stride;
    }
}

static int rnn_row(const rnn_row_steps *r, cell_fn *cell)
{
    const rnn_step *s = &r->step;
    const ptrdiff_t vectors = s->Hp / VL;
    chain_args args = rnn_chain(s);
    args.column = VL;
    args.x_panel = PANEL * VL;
    args.w_step = (vectors < PANEL ? vectors : PANEL) * VL;
    args.w_panel = PANEL * VL * s->H;
    switch (vectors) {
    case 1: row_steps(1, 1, r, args, cell); return 1;
    case 2: row_steps(1, 2, r, args, cell); return 1;
    case 3: row_steps(1, 3, r, args, cell); return 1;
    case 4: row_steps(1, 4, r, args, cell); return 1;
    case 8: row_steps(2, 4, r, args, cell); return 1;
    case 12: row_steps(3, 4, r, args, cell); return 1;
    default: return 0;
    }
}

static int rnn_tanh_row(const rnn_row_steps *r)      { return rnn_row(r, rnn_tanh_cell); }
static int rnn_relu_row(const rnn_row_steps *r)      { return rnn_row(r, rnn_relu_cell); }
static int rnn_sigmoid_row(const rnn_row_steps *r)   { return rnn_row(r, rnn_sigmoid_cell); }

INLINE chain_args gated_chain(const rnn_step *s, chain_args args, int gates)
{
    args.column = s->Hp;
    args.x_panel = VL;
    args.w_step = gates * VL;
    args.w_panel = gates * VL * s->H;
    return args;
}

static int gru_row(const rnn_row_steps *r)
{
    const chain_args args = gated_chain(&r->step, gru_chain(&r->step), 3);
    switch (r->step.Hp / VL) {
    case 1: row_steps(1, 3, r, args, gru_units); return 1;
    case 2: row_steps(2, 3, r, args, gru_units); return 1;
    case 3: row_steps(3, 3, r, args, gru_units); return 1;
    case 4: row_steps(4, 3, r, args, gru_units); return 1;
    default: return 0;
    }
}

static int lstm_row(const rnn_row_steps *r)
{
    const chain_args args = gated_chain(&r->step, lstm_chain(&r->step), 4);
    switch (r->step.Hp / VL) {
    case 1: row_steps(1, 4, r, args, lstm_units); return 1;
    case 2: row_steps(2, 4, r, args, lstm_units); return 1;
    case 3: row_steps(3, 4, r, args, lstm_units); return 1;
    default: return 0;
    }
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

/* The steps r: `dgates` of each, then dh (+)= K of its dgates, from `first` on, times W_hh. */
INLINE void row_back(int panels, int cols, const rnn_row_steps_backward *r, void (*dgates)(const rnn_step_backward *),
                     ptrdiff_t first, ptrdiff_t K, int accumulate)
{
    rnn_step_backward s = r->step;
    const tile_args t = {.K = K, .k_stride = 1, .w_step = cols * VL, .panel_stride = PANEL * VL * K, .tail = VL,
                         .from_c = accumulate};
    for (ptrdiff_t i = 0; i < r->steps; i++) {
        dgates(&s);
        product_tile(panels, 1, cols, &t, (const real *)s.dgates + first, s.w, s.dh);
        s.gates = (const real *)s.gates + r->gates_stride;
        s.dgates = (real *)s.dgates + r->gates_stride;
        s.h_prev = (const real *)s.h_prev + r->h_stride;
        s.c_prev = (const real *)s.c_prev + r->c_stride;
        s.dy = (const real *)s.dy + r->dy_stride;
    }
}

INLINE int row_back_any(const rnn_row_steps_backward *r, void (*dgates)(const rnn_step_backward *), ptrdiff_t first,
                        ptrdiff_t K, int accumulate)
{
    switch (r->step.Hp / VL) {
    case 1: row_back(1, 1, r, dgates, first, K, accumulate); return 1;
    case 2: row_back(1, 2, r, dgates, first, K, accumulate); return 1;
    case 3: row_back(1, 3, r, dgates, first, K, accumulate); return 1;
    case 4: row_back(1, 4, r, dgates, first, K, accumulate); return 1;
    case 8: row_back(2, 4, r, dgates, first, K, accumulate); return 1;
    case 12: row_back(3, 4, r, dgates, first, K, accumulate); return 1;
    default: return 0;
    }
}

INLINE void rnn_tanh_dgates(const rnn_step_backward *s)       { rnn_dgates(RNN_TANH, s); }
INLINE void rnn_relu_dgates(const rnn_step_backward *s)       { rnn_dgates(RNN_RELU, s); }
INLINE void rnn_sigmoid_dgates(const rnn_step_backward *s)    { rnn_dgates(RNN_SIGMOID, s); }

static int rnn_tanh_row_back(const rnn_row_steps_backward *r)
{
    return row_back_any(r, rnn_tanh_dgates, 0, r->step.Hp, 0);
}

static int rnn_relu_row_back(const rnn_row_steps_backward *r)
{
    return row_back_any(r, rnn_relu_dgates, 0, r->step.Hp, 0);
}

static int rnn_sigmoid_row_back(const rnn_row_steps_backward *r)
{
    return row_back_any(r, rnn_sigmoid_dgates, 0, r->step.Hp, 0);
}

static int gru_row_back(const rnn_row_steps_backward *r)
{
    return row_back_any(r, gru_dgates, r->step.Hp, 3 * r->step.Hp, 1);
}

static int lstm_row_back(const rnn_row_steps_backward *r)
{
    return row_back_any(r, lstm_dgates, 0, 4 * r->step.Hp, 0);
}

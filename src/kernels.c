/* All kernels of one instruction set and one dtype: the build compiles this file once for each (ISA, REAL). */
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "vec.h"

/* Vector registers decide how many rows a tile has: accumulators = rows * columns, and room for the operands. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define MANY_REGISTERS 1
enum { ROWS = 6 };
#else
#define MANY_REGISTERS 0
enum { ROWS = 3 };
#endif

/* Where the built-in product beats OpenBLAS: with AVX-512 everywhere (103-110 against 97-100 GFLOP/s on Zen 4), elsewhere for few terms. */
#if defined(__AVX512F__)
#define GEMM_TERMS PTRDIFF_MAX
#else
#define GEMM_TERMS 64
#endif

enum { PANEL = 4, K_BLOCK = 512 };
enum { PAIR_BYTES = 16384 };        /* two panels at a time, if they are not so large that the next step finds nothing of them in L1 */

/* Rows of the next tile, so that the tiles of `left` rows are as equal as can be and none has more than ROWS. */
INLINE int next_rows(ptrdiff_t left)
{
    const ptrdiff_t tiles = (left + ROWS - 1) / ROWS;
    return (int)((left + tiles - 1) / tiles);
}

/* The passes over vectors v0 .. v1 of packed panels: at most one panel at a time, two whole ones if `pair`. */
typedef struct {
    ptrdiff_t v0, v1, aligned, pairs, count;
    int panel;
} passes;

typedef struct {
    ptrdiff_t v;                 /* first vector */
    int panels, cols;            /* 1 or 2 panels, of which this many vectors each */
} pass;

INLINE passes passes_over(ptrdiff_t v0, ptrdiff_t v1, int panel, int pair)
{
    passes s = {.v0 = v0, .v1 = v1, .aligned = (v0 + panel - 1) / panel * panel, .panel = panel};
    if (s.aligned > v1)
        s.aligned = v1;
    s.pairs = pair ? (v1 - s.aligned) / (2 * panel) : 0;
    s.count = (s.aligned > v0) + s.pairs + (v1 - s.aligned - s.pairs * 2 * panel + panel - 1) / panel;
    return s;
}

INLINE pass pass_at(const passes *s, ptrdiff_t i)
{
    if (s->aligned > s->v0 && i-- == 0)
        return (pass){s->v0, 1, (int)(s->aligned - s->v0)};
    if (i < s->pairs)
        return (pass){s->aligned + i * 2 * s->panel, 2, s->panel};
    const ptrdiff_t v = s->aligned + (i + s->pairs) * s->panel;
    return (pass){v, 1, s->v1 - v < s->panel ? (int)(s->v1 - v) : s->panel};
}

/* Where vector v of packed panels begins, and the distance from one k to the next; the last panel is narrower. */
INLINE ptrdiff_t panel_offset(ptrdiff_t v, int panel, ptrdiff_t vectors, ptrdiff_t K, ptrdiff_t *w_step)
{
    const ptrdiff_t first = v / panel * panel;
    *w_step = (vectors - first < panel ? vectors - first : panel) * VL;
    return first * VL * K + (v - first) * VL;
}

/* acc[p][m][j] += sum_k a[m][k] * w[p][k][j], k in order, one chain per element: a row's bits do not depend on `rows` or `panels`.
 * rows, panels and cols are constants at each call, so that acc stays in registers. */
INLINE void tile(vec *acc, int panels, int rows, int cols, ptrdiff_t K,
                 const real *a, ptrdiff_t row_stride, ptrdiff_t k_stride, const real *w, ptrdiff_t w_step, ptrdiff_t panel_stride)
{
    for (ptrdiff_t k = 0; k < K; k++, w += w_step) {
        vec b[ROWS];
#pragma GCC unroll 8
        for (int m = 0; m < rows; m++)
            b[m] = v_set(a[m * row_stride + k * k_stride]);
#pragma GCC unroll 2
        for (int p = 0; p < panels; p++)
#pragma GCC unroll 4
            for (int j = 0; j < cols; j++) {
                const vec wj = v_load(w + p * panel_stride + j * VL);
#pragma GCC unroll 8
                for (int m = 0; m < rows; m++)
                    acc[(p * rows + m) * cols + j] = v_fma(b[m], wj, acc[(p * rows + m) * cols + j]);
            }
    }
}

/* ---- products ------------------------------------------------------------------------------------------------ */

typedef struct {
    ptrdiff_t K, row_stride, k_stride, w_step, panel_stride, ldc, tail;   /* tail: columns in the last vector of the last panel */
    int from_c;                                                   /* accumulate on c, else start from 0 */
    const real *bias;
} tile_args;

INLINE void product_tile(int panels, int rows, int cols, const tile_args *t, const real *a, const real *w, real *c)
{
    vec acc[ROWS * PANEL];
    const int last = panels * cols - 1;
#pragma GCC unroll 8
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 8
        for (int q = 0; q <= last; q++)
            acc[(q / cols * rows + m) * cols + q % cols] = !t->from_c ? (vec){0}
                : q < last ? v_load(c + m * t->ldc + q * VL) : v_load_n(c + m * t->ldc + q * VL, t->tail);
    tile(acc, panels, rows, cols, t->K, a, t->row_stride, t->k_stride, w, t->w_step, t->panel_stride);
#pragma GCC unroll 8
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 8
        for (int q = 0; q <= last; q++) {
            vec x = acc[(q / cols * rows + m) * cols + q % cols];
            real *to = c + m * t->ldc + q * VL;
            if (t->bias)
                x += q < last ? v_load(t->bias + q * VL) : v_load_n(t->bias + q * VL, t->tail);
            if (q < last)
                v_store(to, x);
            else
                v_store_n(to, x, t->tail);
        }
}

INLINE void product_cols(int rows, int cols, const tile_args *t, const real *a, const real *w, real *c)
{
    switch (cols) {
    case 4: product_tile(1, rows, 4, t, a, w, c); break;
    case 3: product_tile(1, rows, 3, t, a, w, c); break;
    case 2: product_tile(1, rows, 2, t, a, w, c); break;
    default: product_tile(1, rows, 1, t, a, w, c);
    }
}

static void product_rows(int rows, int cols, const tile_args *t, const real *a, const real *w, real *c)
{
    switch (rows) {
    case 1: product_cols(1, cols, t, a, w, c); break;
    case 2: product_cols(2, cols, t, a, w, c); break;
    case 3: product_cols(3, cols, t, a, w, c); break;
#if MANY_REGISTERS
    case 4: product_cols(4, cols, t, a, w, c); break;
    case 5: product_cols(5, cols, t, a, w, c); break;
    default: product_cols(6, cols, t, a, w, c);
#endif
    }
}

static void product_panel(const rnn_product *p, ptrdiff_t column, int cols, tile_args *t, const real *w)
{
    const real *a = p->a;
    real *c = (real *)p->c + column;
    for (ptrdiff_t k = 0; k == 0 || k < p->K; k += K_BLOCK) {
        t->K = p->K - k < K_BLOCK ? p->K - k : K_BLOCK;
        t->from_c = p->accumulate || k > 0;
        t->bias = p->bias && k + K_BLOCK >= p->K ? (const real *)p->bias + column : NULL;
        for (ptrdiff_t g = 0; g < p->groups; g++) {
            const ptrdiff_t end = p->first[g] + p->count[g];
            for (ptrdiff_t r = p->first[g]; r < end;) {
                const int rows = next_rows(end - r);
                product_rows(rows, cols, t, a + r * p->lda + k, w + k * t->w_step, c + r * p->ldc);
                r += rows;
            }
        }
    }
}

/* Panel after panel; one row alone takes two panels at a time, which keeps the FMA units busy. */
static void product(const rnn_product *p)
{
    const ptrdiff_t vectors = (p->N + VL - 1) / VL;
    const int one_row = p->groups == 1 && p->count[0] == 1 && p->K <= K_BLOCK;
    const passes over = passes_over(p->v0, p->v1 ? p->v1 : vectors, PANEL, one_row);
    tile_args t = {.row_stride = p->lda, .k_stride = 1, .ldc = p->ldc, .panel_stride = PANEL * VL * p->K};
    for (ptrdiff_t i = 0; i < over.count; i++) {
        const pass now = pass_at(&over, p->flip ? over.count - 1 - i : i);
        const real *w = (const real *)p->w + panel_offset(now.v, PANEL, vectors, p->K, &t.w_step);
        t.tail = p->N - (now.v + now.panels * now.cols - 1) * VL;
        if (now.panels == 2) {
            t.K = p->K;
            t.from_c = p->accumulate;
            t.bias = p->bias ? (const real *)p->bias + now.v * VL : NULL;
            product_tile(2, 1, PANEL, &t, (const real *)p->a + p->first[0] * p->lda, w, (real *)p->c + p->first[0] * p->ldc + now.v * VL);
        } else {
            product_panel(p, now.v * VL, now.cols, &t, w);
        }
    }
}

/* One vector of a packed row: columns that lie side by side are one load, padding is 0. */
INLINE vec pack_vector(const int64_t *column, int together, const real *from, ptrdiff_t stride_n)
{
    if (together)
        return v_load(from + column[0]);
    vec x = {0};
    for (int l = 0; l < VL; l++)
        if (column[l] >= 0)
            x[l] = from[column[l] * stride_n];
    return x;
}

static void pack(ptrdiff_t vectors, int panel, const int64_t *column, ptrdiff_t K, const int64_t *row,
                 const void *src, ptrdiff_t stride_n, ptrdiff_t stride_k, void *dst)
{
    real *to = dst;
    for (ptrdiff_t v = 0; v < vectors; v += panel) {
        const int count = vectors - v < panel ? (int)(vectors - v) : panel;
        const int64_t *n = column + v * VL;
        int together[8];
        for (int j = 0; j < count; j++)
            together[j] = stride_n == 1 && n[j * VL] >= 0 && n[j * VL + VL - 1] == n[j * VL] + VL - 1;
        for (ptrdiff_t k = 0; k < K; k++)
            for (int j = 0; j < count; j++, to += VL)
                v_store(to, row[k] < 0 ? (vec){0} : pack_vector(n + j * VL, together[j], (const real *)src + row[k] * stride_k, stride_n));
    }
}

/* K rows of `width` columns, in panel order, the last vector filled up with zeros */
static void pack_block(ptrdiff_t K, int cols, ptrdiff_t width, const real *b, ptrdiff_t stride_k, ptrdiff_t stride_n, real *to)
{
    for (ptrdiff_t k = 0; k < K; k++, b += stride_k, to += cols * VL)
        if (stride_n == 1)
            for (int j = 0; j < cols; j++)
                v_store(to + j * VL, v_load_n(b + j * VL, width - j * VL));
        else
            for (ptrdiff_t l = 0; l < cols * VL; l++)
                to[l] = l < width ? b[l * stride_n] : 0;
}

/* Ask for a tile of c, as far as there are rows: the tiles of a large one come from far away, and not in the order of a stream. */
INLINE void prefetch_tile(const real *c, ptrdiff_t rows, int cols, ptrdiff_t ldc)
{
    for (ptrdiff_t m = 0; m < rows && m < ROWS; m++)
        for (int j = 0; j < cols * VL; j += 64 / (int)sizeof(real))
            __builtin_prefetch(c + m * ldc + j, 1);
}

/* For each panel of columns and block of k: b's part is copied in panel order, then every row tile of c passes over it. */
static void gemm(int trans_a, int trans_b, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K,
                 const void *va, ptrdiff_t lda, const void *vb, ptrdiff_t ldb, void *vc, ptrdiff_t ldc)
{
    enum { BLOCK = 256, FAR_BYTES = 262144 };
    const real *a = va, *b = vb;
    real *c = vc, packed[BLOCK * PANEL * VL];
    const ptrdiff_t a_m = trans_a ? 1 : lda, a_k = trans_a ? lda : 1;
    const ptrdiff_t b_k = trans_b ? 1 : ldb, b_n = trans_b ? ldb : 1;
    const int far = M * N * (ptrdiff_t)sizeof(real) > FAR_BYTES;
    for (ptrdiff_t n = 0; n < N; n += PANEL * VL)
        for (ptrdiff_t k = 0; k < K; k += BLOCK) {
            const ptrdiff_t width = N - n < PANEL * VL ? N - n : PANEL * VL;
            const int cols = (int)((width + VL - 1) / VL);
            const tile_args t = {.K = K - k < BLOCK ? K - k : BLOCK, .row_stride = a_m, .k_stride = a_k,
                                 .w_step = cols * VL, .ldc = ldc, .tail = width - (cols - 1) * VL, .from_c = 1};
            pack_block(t.K, cols, width, b + k * b_k + n * b_n, b_k, b_n, packed);
            for (ptrdiff_t m = 0; m < M;) {
                const int rows = next_rows(M - m);
                if (far)
                    prefetch_tile(c + (m + rows) * ldc + n, M - m - rows, cols, ldc);
                product_rows(rows, cols, &t, a + m * a_m + k * a_k, packed, c + m * ldc + n);
                m += rows;
            }
        }
}

/* c (rows, N) = a (rows, K) @ w.T (+ c), columns from .. to, for all the rows of a step. It needs the a of all parts, so it is where they meet. */
static void step_product_to(const rnn_step_backward *s, const real *a, ptrdiff_t lda, ptrdiff_t K, const void *w,
                            void *c, ptrdiff_t N, ptrdiff_t from, ptrdiff_t to, int accumulate)
{
    const ptrdiff_t first = 0;
    const rnn_product p = {.groups = 1, .first = &first, .count = &s->rows, .N = N, .K = K, .a = a, .lda = lda, .w = w,
                           .c = c, .ldc = N, .accumulate = accumulate, .flip = s->flip, .v0 = from / VL, .v1 = to / VL};
    if (s->parts > 1)
        rnn_team_meet(s->part, s->parts);
    if (from < to)
        product(&p);
}

/* c = dgates (rows, K) @ w.T (+ c), dgates from this block on, this part's units of c */
static void step_product(const rnn_step_backward *s, ptrdiff_t block, ptrdiff_t K, ptrdiff_t blocks, const void *w, void *c, int accumulate)
{
    step_product_to(s, (const real *)s->dgates + block * s->Hp, blocks * s->Hp, K, w, c, s->Hp, s->u0, s->u1, accumulate);
}

/* ---- the recurrent part of a step ----------------------------------------------------------------------------- */

enum { PARTS = ROWS * PANEL };      /* vectors of results that a tile has at most */

typedef struct {
    ptrdiff_t K;
    const real *a;               /* (rows, K) state, stride lda                                         */
    ptrdiff_t lda;
    const real *w;               /* (K, cols, VL), w_step from one k to the next; a second panel w_panel further */
    ptrdiff_t w_step, w_panel;
    const real *x, *bias;        /* input part (rows, ldx) and bias (rows or 1, ldb) of the first vector */
    ptrdiff_t ldx, ldb, column, x_panel;   /* from one column to the next, from one panel to the next    */
    int x_cols;                  /* columns that have an input part; the others start from the bias      */
} chain_args;

/* out (panels, rows, cols, VL) = x + bias + state @ w: the pre-activations of some rows and blocks of units. They pass through
 * `out`, in L1, so that the constants of the activations do not compete with the accumulators for registers. */
INLINE void chain_tile(int panels, int rows, int cols, const chain_args *s, real *out)
{
    vec acc[PARTS];
#pragma GCC unroll 2
    for (int p = 0; p < panels; p++)
#pragma GCC unroll 8
        for (int m = 0; m < rows; m++)
#pragma GCC unroll 4
            for (int j = 0; j < cols; j++) {
                const ptrdiff_t at = j * s->column + p * s->x_panel;
                const vec b = v_load(s->bias + m * s->ldb + at);
                acc[(p * rows + m) * cols + j] = j < s->x_cols ? v_load(s->x + m * s->ldx + at) + b : b;
            }
    tile(acc, panels, rows, cols, s->K, s->a, s->lda, 1, s->w, s->w_step, s->w_panel);
#pragma GCC unroll 24
    for (int q = 0; q < panels * rows * cols; q++)
        v_store(out + q * VL, acc[q]);
}

INLINE void chain_rows(int rows, int cols, const chain_args *s, real *out)
{
    switch (rows) {
    case 1: chain_tile(1, 1, cols, s, out); break;
    case 2: chain_tile(1, 2, cols, s, out); break;
    case 3: chain_tile(1, 3, cols, s, out); break;
#if MANY_REGISTERS
    case 4: chain_tile(1, 4, cols, s, out); break;
    case 5: chain_tile(1, 5, cols, s, out); break;
    default: chain_tile(1, 6, cols, s, out);
#endif
    }
}

static void chain(int panels, int rows, int cols, const chain_args *s, real *out)
{
    if (panels == 2 && cols == 4)
        chain_tile(2, 1, 4, s, out);
    else if (panels == 2 && cols == 3)
        chain_tile(2, 1, 3, s, out);
    else if (panels == 2)
        chain_tile(2, 1, 2, s, out);
    else if (cols == 4)
        chain_rows(rows, 4, s, out);
    else if (cols == 3)
        chain_rows(rows, 3, s, out);
    else if (cols == 2)
        chain_rows(rows, 2, s, out);
    else
        chain_rows(rows, 1, s, out);
}

/* Blocks of units outside, rows inside: a block's weights stay in L1 while the rows pass. One row alone takes two panels at a time,
 * which keeps the FMA units busy. `cell` finishes (panels, rows, cols) pre-activations. */
typedef void cell_fn(const rnn_step *s, ptrdiff_t row, int rows, ptrdiff_t unit, int panels, int cols, const real *part);

INLINE void step_blocks(const rnn_step *s, int gates, chain_args args, ptrdiff_t tape, cell_fn *cell)
{
    real part[PARTS * VL];
    const real *x = args.x, *a = args.a, *bias = args.bias, *w = args.w;
    const int panel = gates ? 1 : PANEL;                  /* gates: a panel is all gates of one vector of units */
    const int cols_of = gates ? gates : PANEL;
    const int pair = s->rows == 1 && 2 * cols_of * (ptrdiff_t)sizeof(vec) * args.K <= PAIR_BYTES;
    const passes over = passes_over(s->u0 / VL, s->u1 / VL, panel, pair);
    args.ldx = tape;
    args.ldb = s->bias_stride;
    args.column = gates ? s->Hp : VL;
    args.x_panel = panel * VL;
    args.w_panel = panel * VL * (gates ? gates : 1) * args.K;
    for (ptrdiff_t i = 0; i < over.count; i++) {
        const pass now = pass_at(&over, s->flip ? over.count - 1 - i : i);
        const ptrdiff_t unit = now.v * VL;
        const int cols = gates ? gates : now.cols;
        if (gates) {
            args.w = w + unit * gates * args.K;
            args.w_step = gates * VL;
        } else {
            args.w = w + panel_offset(now.v, PANEL, s->Hp / VL, args.K, &args.w_step);
        }
        for (ptrdiff_t row = 0; row < s->rows;) {
            const int rows = next_rows(s->rows - row);
            args.x = x + row * tape + unit;
            args.bias = bias + row * s->bias_stride + unit;
            args.a = a + row * args.lda;
            chain(now.panels, rows, cols, &args, part);
            cell(s, row, rows, unit, now.panels, cols, part);
            row += rows;
        }
    }
}

/* h of one vector of units of one row goes where the next step, or the caller, looks for it */
INLINE void store_state(const rnn_step *s, ptrdiff_t row, ptrdiff_t unit, vec h)
{
    v_store((real *)(row < s->go_on ? s->h_next : s->h_end) + row * s->Hp + unit, h);
    v_store_n((real *)s->y + row * s->y_stride + unit, h, s->H - unit);
}

#include "kernels_rnn.h"
#include "kernels_gru.h"
#include "kernels_lstm.h"
#include "kernels_options.h"
#include "kernels_layers.h"
#include "kernels_attention.h"
#include "kernels_optim.h"
#include "kernels_limits.h"

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

const rnn_kernels PASTE(PASTE(rnn_kernels_, ISA), PASTE(_, REAL)) = {
    .isa = TEXT(ISA),
    .is_double = sizeof(real) == 8,
    .lanes = VL,
    .panel = PANEL,
    .gemm_terms = GEMM_TERMS,
    .forward = {
        [RNN_TANH] = rnn_tanh_forward, [RNN_RELU] = rnn_relu_forward, [RNN_SIGMOID] = rnn_sigmoid_forward,
        [RNN_GRU] = gru_forward, [RNN_GRU_BEFORE] = gru_before_forward, [RNN_LSTM] = lstm_forward,
        [RNN_OPTIONS] = rnn_options_forward, [RNN_GRU_OPTIONS] = gru_options_forward, [RNN_GRU_BEFORE_OPTIONS] = gru_before_options_forward,
        [RNN_LSTM_OPTIONS] = lstm_four_forward, [RNN_LSTM_COUPLED] = lstm_coupled_forward,
    },
    .backward = {
        [RNN_TANH] = rnn_tanh_backward, [RNN_RELU] = rnn_relu_backward, [RNN_SIGMOID] = rnn_sigmoid_backward,
        [RNN_GRU] = gru_backward, [RNN_GRU_BEFORE] = gru_before_backward, [RNN_LSTM] = lstm_backward,
        [RNN_OPTIONS] = rnn_options_backward, [RNN_GRU_OPTIONS] = gru_options_backward,
        [RNN_GRU_BEFORE_OPTIONS] = gru_before_options_backward,
        [RNN_LSTM_OPTIONS] = lstm_four_backward, [RNN_LSTM_COUPLED] = lstm_coupled_backward,
    },
    .product = product,
    .pack = pack,
    .gemm = gemm,
    .column_sum = column_sum,
    .gather = gather,
    .bag = bag,
    .bag_backward = bag_backward,
    .scatter_add = scatter_add,
    .softmax_nll = softmax_nll,
    .softmax = softmax,
    .dropout = dropout,
    .attend = attend,
    .attend_backward = attend_backward,
    .tanh_rows = tanh_rows,
    .tanh_rows_backward = tanh_rows_backward,
    .log_sum_exp = log_sum_exp,
    .greatest = greatest,
    .draw = draw,
    .sum_of_squares = sum_of_squares,
    .clip_value = clip_value,
    .sgd = sgd,
    .rmsprop = rmsprop,
    .adagrad = adagrad,
    .adam = adam,
    .fma_loop = fma_loop,
    .read_loop = read_loop,
};

/* All kernels of one instruction set and one dtype. The build compiles this file once for each (ISA, REAL). */
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "vec.h"

/* Rows of a tile: the number of vector registers must suffice for rows * columns accumulators and the operands. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define MANY_REGISTERS 1
enum { ROWS = 6 };
#else
#define MANY_REGISTERS 0
enum { ROWS = 3 };
#endif

/* Up to so many terms the built-in product is faster than OpenBLAS: with AVX-512 always (103-110 against 97-100
 * GFLOP/s on Zen 4), elsewhere for few terms. */
#if defined(__AVX512F__)
#define GEMM_TERMS PTRDIFF_MAX
#else
#define GEMM_TERMS 64
#endif

enum { PANEL = RNN_PANEL, LINE = 64 / sizeof(real) };       /* LINE: elements of a cache line */
enum { FAR = 524288 / sizeof(real) };                       /* weights that may be read from beyond L2 */
enum { K_BLOCK = 128, FEW_ROWS_BLOCK = 512 };               /* terms of a product at a time: of several tiles, of one */
enum { PAIR_BYTES = 16384 };        /* two panels at a time only if they fit into L1 together, for the next step */

#include "kernels_product.h"

/* ---- the recurrent part of a step ----------------------------------------------------------------------------- */

enum { PARTS = ROWS * PANEL };      /* most vectors of results of a tile */

typedef struct {
    ptrdiff_t K;
    const real *a;               /* (rows, K) state, stride lda                                         */
    ptrdiff_t lda;
    const real *w;               /* (K, cols, VL), w_step from one k to the next; a second panel is w_panel further */
    ptrdiff_t w_step, w_panel;
    const real *x, *bias;        /* input part (rows, ldx) and bias (rows or 1, ldb) of the first vector */
    ptrdiff_t ldx, ldb, column, x_panel;   /* column, x_panel: from one column, or panel, to the next    */
    int x_cols;                  /* columns with an input part; the others start from the bias alone     */
    const real *ahead;           /* to prefetch, see tile_ahead                                          */
} chain_args;

/* out (panels, rows, cols, VL) = x + bias + state @ w: the pre-activations of some rows and blocks of units. They are
 * stored in `out`, in L1, so that the activations' constants do not compete with the accumulators for registers. */
INLINE void chain_tile(int panels, int rows, int cols, const chain_args *s, real *out)
{
    vec acc[PARTS];
#pragma GCC unroll 4
    for (int p = 0; p < panels; p++)
#pragma GCC unroll 8
        for (int m = 0; m < rows; m++)
#pragma GCC unroll 4
            for (int j = 0; j < cols; j++) {
                const ptrdiff_t at = j * s->column + p * s->x_panel;
                const vec b = v_load(s->bias + m * s->ldb + at);
                acc[(p * rows + m) * cols + j] = j < s->x_cols ? v_load(s->x + m * s->ldx + at) + b : b;
            }
    tile(acc, panels, rows, cols, s->K, s->a, s->lda, 1, s->w, s->w_step, s->w_panel, s->ahead);
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

/* The outer loop is over blocks of units, the inner one over rows, so that the weights of a block stay in L1. A single
 * row takes two panels at a time, which keeps the FMA units busy. `cell` computes the states from (panels, rows, cols)
 * pre-activations. */
typedef void cell_fn(const rnn_step *s, ptrdiff_t row, int rows, ptrdiff_t unit, int panels, int cols,
                     const real *part);

INLINE void step_blocks(const rnn_step *s, int gates, chain_args args, ptrdiff_t tape, cell_fn *cell)
{
    real part[PARTS * VL];
    const real *x = args.x, *a = args.a, *bias = args.bias, *w = args.w;
    const int panel = gates ? 1 : PANEL;                  /* with gates, a panel is all gates of one vector of units */
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
        const real *next = args.w + (s->flip ? -args.w_panel : args.w_panel);
        ptrdiff_t tile = 0;
        for (ptrdiff_t row = 0; row < s->rows; tile++) {
            const int rows = next_rows(s->rows - row);
            args.ahead = tile_ahead(tile, next, args.K, args.w_step, s->Hp * cols_of * args.K);
            args.x = x + row * tape + unit;
            args.bias = bias + row * s->bias_stride + unit;
            args.a = a + row * args.lda;
            chain(now.panels, rows, cols, &args, part);
            cell(s, row, rows, unit, now.panels, cols, part);
            row += rows;
        }
    }
}

/* Store h of one vector of units of one row: for the next step or as the final state, and in y. */
INLINE void store_state(const rnn_step *s, ptrdiff_t row, ptrdiff_t unit, vec h)
{
    v_store((real *)(row < s->go_on ? s->h_next : s->h_end) + row * s->Hp + unit, h);
    v_store_n((real *)s->y + row * s->y_stride + unit, h, s->H - unit);
}

#include "kernels_rnn.h"
#include "kernels_gru.h"
#include "kernels_lstm.h"
#include "kernels_row.h"
#include "kernels_functions.h"
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
    .gemm_terms = GEMM_TERMS,
    .forward = {
        [RNN_TANH] = rnn_tanh_forward, [RNN_RELU] = rnn_relu_forward, [RNN_SIGMOID] = rnn_sigmoid_forward,
        [RNN_GRU] = gru_forward, [RNN_GRU_BEFORE] = gru_before_forward, [RNN_LSTM] = lstm_forward,
        [RNN_OPTIONS] = rnn_options_forward, [RNN_GRU_OPTIONS] = gru_options_forward,
        [RNN_GRU_BEFORE_OPTIONS] = gru_before_options_forward,
        [RNN_LSTM_OPTIONS] = lstm_four_forward, [RNN_LSTM_COUPLED] = lstm_coupled_forward,
    },
    .backward = {
        [RNN_TANH] = rnn_tanh_backward, [RNN_RELU] = rnn_relu_backward, [RNN_SIGMOID] = rnn_sigmoid_backward,
        [RNN_GRU] = gru_backward, [RNN_GRU_BEFORE] = gru_before_backward, [RNN_LSTM] = lstm_backward,
        [RNN_OPTIONS] = rnn_options_backward, [RNN_GRU_OPTIONS] = gru_options_backward,
        [RNN_GRU_BEFORE_OPTIONS] = gru_before_options_backward,
        [RNN_LSTM_OPTIONS] = lstm_four_backward, [RNN_LSTM_COUPLED] = lstm_coupled_backward,
    },
    .row_steps = {
        [RNN_TANH] = rnn_tanh_row, [RNN_RELU] = rnn_relu_row, [RNN_SIGMOID] = rnn_sigmoid_row,
        [RNN_GRU] = gru_row, [RNN_LSTM] = lstm_row,
    },
    .row_steps_backward = {
        [RNN_TANH] = rnn_tanh_row_back, [RNN_RELU] = rnn_relu_row_back, [RNN_SIGMOID] = rnn_sigmoid_row_back,
        [RNN_GRU] = gru_row_back, [RNN_LSTM] = lstm_row_back,
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

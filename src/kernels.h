/* The C interface of the kernels: one table of functions for each instruction set and dtype.
 *
 * Arrays are row-major and contiguous unless a stride is given (strides count elements). Arguments do not overlap
 * unless stated. A kernel reads and writes exactly the shapes given; it does not allocate, cannot fail, and needs no
 * alignment. `void *` is float or double, according to the table's `is_double`. Equations: docs/backward.md.
 *
 * Hp is H rounded up to whole vectors. Arrays internal to the engine have Hp columns per block, so that kernels need no
 * code for partial vectors there. The padding is written, but has no effect on results because padded weights are 0. */
#ifndef RNN_KERNELS_H
#define RNN_KERNELS_H

#include <stddef.h>
#include <stdint.h>

enum {
    RNN_TANH, RNN_RELU, RNN_SIGMOID, RNN_GRU, RNN_GRU_BEFORE, RNN_LSTM,
    RNN_OPTIONS, RNN_GRU_OPTIONS, RNN_GRU_BEFORE_OPTIONS, RNN_LSTM_OPTIONS, RNN_LSTM_COUPLED,   /* with rnn_options */
    RNN_CELLS
};

enum { RNN_PANEL = 4 };          /* vectors in a panel of packed weights */

/* How the cells differ: one row for each, in cells.c. A gate is H rows of W_ih and W_hh, in PyTorch's order; a block
 * is Hp columns of the tape and of dgates. */
typedef struct {
    const char *name;
    int gates;                   /* G; blocks 0 .. G-1 have an input part                             */
    int blocks;                  /* X, without the blocks that peepholes and a projection add         */
    int x_block[4];              /* of each gate: the block with its input part                       */
    int h_block[4];              /* of each gate: the block of dgates that belongs to its rows of W_hh */
    int interleaved;             /* gates whose packed W_hh is interleaved by unit; 0: panels of units */
    int rh_block;                /* the block that enters the last gate in place of h_prev, or -1     */
    int has_c;                   /* there is a cell state                                             */
    int phases;                  /* barriers in a step divided by units; a projection adds one        */
    int least_vectors;           /* vectors of units that keep a core busy in a step of inference     */
} rnn_cell_traits;
extern const rnn_cell_traits rnn_cells[RNN_CELLS];

enum {
    F_TANH, F_SIGMOID, F_RELU, F_AFFINE, F_LEAKY_RELU, F_THRESHOLDED_RELU, F_SCALED_TANH, F_HARD_SIGMOID, F_ELU,
    F_SOFTSIGN, F_SOFTPLUS, F_SELU, F_SILU, F_EXPONENTIAL, FUNCTIONS
};
extern const char *const rnn_function_names[FUNCTIONS];

/* An activation. alpha and beta are its parameters, if it has any; definitions as in ONNX. */
typedef struct {
    int kind;
    double alpha, beta;
} rnn_function;

/* The options of a cell. */
typedef struct {
    rnn_function gate;           /* of r and z, or of i, f and o                                   */
    rnn_function candidate;      /* of the vanilla RNN's h, of n, of g                             */
    rnn_function output;         /* applied to the LSTM's c to compute h                           */
    double clip;                 /* pre-activations are clipped to -clip .. clip; may be infinite  */
    const void *peephole;        /* (gates-1, Hp): i, f, o, or i, o; NULL: none                    */
    int projected;               /* h = W_hr m has P features instead of H                         */
    ptrdiff_t blocks;            /* X                                                              */
} rnn_options;

/* One recurrent step of some rows, for the units of this thread. X is the number of blocks on the tape. LSTM blocks:
 * i, f, g, o. GRU blocks: n, r, z, hn = W_hn h + b_hn; if the reset gate is applied before the product, the last one
 * is rh = r * h_prev. With rnn_options the blocks hold pre-activations; an LSTM then has more of them: see
 * kernels_options.h. */
typedef struct {
    ptrdiff_t rows, H, Hp;
    ptrdiff_t P, Pp;             /* features of h and y: H and Hp, or fewer with a projection      */
    const rnn_options *options;  /* NULL for a cell without options                            in  */
    const void *w, *w2;          /* packed recurrent weights; w2: GRU_BEFORE's W_hn, or W_hr   in  */
    const void *bias;            /* (rows or 1, X*Hp)                                          in  */
    ptrdiff_t bias_stride;       /* X*Hp if each row has its own (context), else 0                 */
    void *gates;                 /* (rows, X*Hp) in: input part x @ W_ih.T; out: activations if `keep` */
    const void *h_prev, *c_prev; /* (rows, Pp), (rows, Hp)                                     in  */
    void *h_next, *c_next;       /* (go_on, Pp), (go_on, Hp)                                   out */
    void *h_end, *c_end;         /* final states of rows go_on .. rows, at the row's own index out */
    ptrdiff_t go_on;             /* the first go_on rows have another step after this one; may be negative */
    void *y;                     /* (rows, P), stride y_stride                                 out */
    ptrdiff_t y_stride;
    int keep;                    /* write the activations to the tape                              */
    int flip;                    /* last block of units first: it may still be in cache            */
    ptrdiff_t u0, u1;            /* units to compute, in whole vectors; 0, Hp: all                 */
    ptrdiff_t p0, p1;            /* features of a projected h to compute; 0, Pp: all               */
    int part, parts;             /* this part of the units; the parts wait for each other between phases */
} rnn_step;

/* Several steps of a single row: rows is 1, there are no options, and the units are not divided. */
typedef struct {
    rnn_step step;               /* the first step; h_next, c_next, h_end, c_end and go_on are not used            */
    ptrdiff_t steps;
    ptrdiff_t gates_stride, y_stride;   /* from one step to the next; they may be negative                         */
    ptrdiff_t h_stride, c_stride;       /* the same of the states; 0: h_last and c_last are h_prev and c_prev      */
    void *h_last, *c_last;       /* states after the last step                                             out */
} rnn_row_steps;

/* The backward pass of a step: its dgates, and the gradients dh and dc of the states before it. */
typedef struct {
    ptrdiff_t rows, H, Hp, P, Pp;
    const rnn_options *options;
    const void *w, *w2;          /* packed for dgates @ W_hh; w2: W_hn, or W_hr for dh @ W_hr   in  */
    const void *dy;              /* (rows, P), stride dy_stride, or NULL for zeros             in  */
    ptrdiff_t dy_stride;
    const void *gates;           /* (rows, X*Hp)                                               in  */
    const void *h_prev, *c_prev; /* (rows, Pp), (rows, Hp)                                     in  */
    void *dgates;                /* (rows, X*Hp) of the pre-activations                        out */
    void *dh, *dc;               /* (rows, Pp), (rows, Hp) in: of the states after the step; out: before it */
    void *dphase;                /* (rows, Hp) scratch of a cell with two phases               out */
    int flip;                    /* as in rnn_step                                                 */
    ptrdiff_t u0, u1, p0, p1;
    int part, parts;
} rnn_step_backward;

/* The backward pass of several steps of a single row, the last one first: as rnn_row_steps. */
typedef struct {
    rnn_step_backward step;
    ptrdiff_t steps;
    ptrdiff_t gates_stride;             /* also that of dgates                                                     */
    ptrdiff_t h_stride, c_stride, dy_stride;
} rnn_row_steps_backward;

/* c = a @ w.T for some groups of rows. Each element is one chain of additions over k in order, from 0 or from c. */
typedef struct {
    ptrdiff_t groups;
    const ptrdiff_t *first, *count;   /* (groups,) rows first[g] .. first[g]+count[g] of a and c     in  */
    ptrdiff_t N, K;
    const void *a;               /* (., K)                                                     in  */
    ptrdiff_t lda;
    const void *w;               /* packed (N, K)                                              in  */
    const void *bias;            /* (N,) added after the chain, or NULL                        in  */
    void *c;                     /* (., N)                                                     out */
    ptrdiff_t ldc;
    int accumulate;              /* start from c instead of 0                                      */
    int flip;                    /* last panel first                                               */
    ptrdiff_t v0, v1;            /* vectors of c to compute; 0, 0: all                             */
} rnn_product;

/* Attention of each row over its own memory: alpha = softmax(score(query, keys)), context = sum of alpha * values. */
typedef struct {
    ptrdiff_t rows, A, M, S;
    const int64_t *first, *count; /* (rows,) a row's keys and values are first .. first+count; count <= S   in  */
    const void *query;           /* (rows, A), stride ldq                                      in  */
    ptrdiff_t ldq;
    const void *keys, *values;   /* (., A), (., M)                                             in  */
    const void *v;               /* (A,): the score is v . tanh(query + key); NULL: query . key    in  */
    int softmax;                 /* 0: alpha is the scores                                         */
    void *alpha;                 /* (rows, S), zeros beyond count                              out */
    void *context;               /* (rows, M), stride ldc                                      out */
    ptrdiff_t ldc;
} rnn_attend;

/* The backward pass of attention. Rows that share a memory must not be computed at the same time. */
typedef struct {
    rnn_attend forward;          /* the arguments of the forward pass; alpha                   in  */
    const void *dcontext;        /* (rows, M), stride forward.ldc                              in  */
    void *dquery;                /* (rows, A), stride ldd                                      out */
    ptrdiff_t ldd;
    void *dkeys, *dvalues;       /* (., A), (., M)                                             +=  */
    void *dv;                    /* (rows, A), one row for each row of the batch               +=  */
    void *dscore;                /* (rows, S) scratch                                          out */
} rnn_attend_backward;

/* Sentences as weighted sums of word embeddings: the weight of word w is a[w] + b[w] * ramp, elementwise. */
typedef struct {
    ptrdiff_t M, n;
    const int64_t *sentence;     /* (M,) the sentence of each row of the result                in  */
    const int64_t *start;        /* (S+1,) the words of sentence s are start[s] .. start[s+1]  in  */
    const int64_t *word;         /* (W,) rows of the embedding table                           in  */
    const void *a, *b;           /* (W,)                                                       in  */
    const void *ramp;            /* (n,)                                                       in  */
} rnn_bag;

/* One update of an optimiser. An optimiser reads only the settings that it has; they are those of torch.optim. */
typedef struct {
    ptrdiff_t n;
    void *p;                     /* (n,) parameters                                     in and out */
    const void *g;               /* (n,) gradient                                              in  */
    void *m;                     /* (n,) momentum: SGD's buffer, or NULL; Adam's m      in and out */
    void *v;                     /* (n,) of squares: RMSprop, Adagrad, Adam's v         in and out */
    double lr, decay;            /* decay: torch's weight_decay                                    */
    double scale;                /* the gradient is multiplied by it                               */
    double momentum;
    double beta1, beta2;         /* beta2: also RMSprop's alpha                                    */
    double eps;
    int nesterov;
    int decoupled;               /* AdamW                                                          */
    int64_t step;                /* counts from 1                                                  */
} rnn_update;

typedef struct {
    const char *isa;             /* "v2", "v3", "v4", "aarch64", "plain" */
    int is_double;
    int lanes;                   /* VL, elements of a vector             */
    ptrdiff_t gemm_terms;        /* up to this many terms `gemm` is faster than BLAS (measured: docs/design.md, BLAS) */
    void (*forward[RNN_CELLS])(const rnn_step *);
    void (*backward[RNN_CELLS])(const rnn_step_backward *);

    /* NULL: not for this cell; 0: not for this size, nothing was done */
    int (*row_steps[RNN_CELLS])(const rnn_row_steps *);
    int (*row_steps_backward[RNN_CELLS])(const rnn_row_steps_backward *);
    void (*product)(const rnn_product *);

    /* dst[p][k][j][l] = src[column[(p*panel + j)*VL + l] * stride_n + row[k] * stride_k], 0 where an index is negative.
     * If `vectors` is not divisible by `panel`, the last panel is narrower. */
    void (*pack)(ptrdiff_t vectors, int panel, const int64_t *column, ptrdiff_t K, const int64_t *row,
                 const void *src, ptrdiff_t stride_n, ptrdiff_t stride_k, void *dst);

    /* c (M,N) += op(a) @ op(b), for weight gradients of up to gemm_terms terms, or without BLAS. One chain per
     * element. */
    void (*gemm)(int trans_a, int trans_b, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K,
                 const void *a, ptrdiff_t lda, const void *b, ptrdiff_t ldb, void *c, ptrdiff_t ldc);

    /* out (N,) += sum of the rows of a */
    void (*column_sum)(ptrdiff_t M, ptrdiff_t N, const void *a, ptrdiff_t lda, void *out);
    void (*gather)(ptrdiff_t M, ptrdiff_t n, const void *table, ptrdiff_t ldt, const int64_t *ids,
                   void *out, ptrdiff_t ldo);
    void (*scatter_add)(ptrdiff_t M, ptrdiff_t n, const void *a, ptrdiff_t lda, const int64_t *ids,
                        void *out, ptrdiff_t ldo);
    void (*bag)(const rnn_bag *, const void *table, void *out);              /* out (M,n) += weighted sums  */
    void (*bag_backward)(const rnn_bag *, const void *dout, void *dtable);   /* dtable +=, rows in order    */

    /* weights may be NULL: 1. dlogits may be NULL, and may be logits. Rows with a negative target are ignored. */
    void (*softmax_nll)(ptrdiff_t M, ptrdiff_t V, const void *logits, const int64_t *targets, const void *weights,
                        double *nll, void *dlogits);
    void (*softmax)(ptrdiff_t M, ptrdiff_t V, const void *logits, void *out);
    void (*dropout)(ptrdiff_t M, ptrdiff_t n, void *x, ptrdiff_t ldx, const uint64_t *row_id, uint64_t key, double p);

    void (*attend)(const rnn_attend *);
    void (*attend_backward)(const rnn_attend_backward *);
    void (*tanh_rows)(ptrdiff_t M, ptrdiff_t n, void *x, ptrdiff_t ldx);             /* x = tanh(x)                 */
    void (*tanh_rows_backward)(ptrdiff_t M, ptrdiff_t n, const void *y, void *d);    /* d *= 1 - y*y                */
    double (*log_sum_exp)(ptrdiff_t V, const void *x);
    void (*greatest)(ptrdiff_t V, const void *x, ptrdiff_t K, int64_t *ids);         /* missing ones are -1         */
    int64_t (*draw)(ptrdiff_t V, void *x, double temperature, double u);             /* x is overwritten            */

    double (*sum_of_squares)(ptrdiff_t n, const void *g);
    void (*clip_value)(ptrdiff_t n, void *g, double limit);
    void (*sgd)(const rnn_update *);
    void (*rmsprop)(const rnn_update *);
    void (*adagrad)(const rnn_update *);
    void (*adam)(const rnn_update *);

    /* for benchmarks: 12 n multiply-adds of a vector; `times` reads of a (n,) */
    double (*fma_loop)(ptrdiff_t n, int one_chain);
    double (*read_loop)(ptrdiff_t times, ptrdiff_t n, const void *a);
} rnn_kernels;

/* dispatch.c */
const char *rnn_compiler(void);                           /* the compiler of this build                            */
int rnn_isa_count(void);                                  /* number of tables that this CPU can run, best first    */
const char *rnn_isa_name(int index);
const rnn_kernels *rnn_kernels_of(int index, int is_double);

/* team.c: call part(arg, 0 .. parts-1) on the threads that are available, with denormals flushed to zero, and return
 * when all parts are done. together: the parts wait for each other at barriers, so they must run at the same time. If
 * not all threads start in time, one thread computes everything: part(arg, 0, 1). After each barrier a part asks
 * rnn_team_leaves() whether the caller, part 0, continues alone; if so, the other parts return. */
void rnn_team_run(void (*part)(void *arg, int part, int parts), void *arg, int parts, int together);
void rnn_team_barrier(int part, int parts);               /* return when all parts have reached this barrier       */
int rnn_team_leaves(int part);                            /* whether the caller continues alone from here          */
void rnn_team_force_leave(int64_t barrier);               /* for tests: at this barrier of each task; 0: never     */
void rnn_await(const int64_t *counter, int64_t value);    /* return when the counter has reached the value         */

/* local.c */
int rnn_take(int *taken);                                 /* 1 if it was not taken; rnn_give releases it           */
void rnn_give(int *taken);
void rnn_announce(int64_t *counter, int64_t value);       /* store with release semantics, for rnn_await           */
int64_t rnn_next(int64_t *counter);                       /* its value; then it is one more                        */
int64_t rnn_seen(const int64_t *counter);                 /* load with acquire semantics                           */
int rnn_cpus(void);                                       /* CPUs that this thread may run on                      */
double rnn_seconds(void);                                 /* of a monotonic clock                                  */
int64_t rnn_now(void);                                    /* of the same clock, in ns                              */
uint64_t rnn_flush_denormals(void);                       /* in this thread, from now on; returns the previous mode */
void rnn_restore_denormals(uint64_t mode);

/* split.c */
double rnn_team_barrier_seconds(void);                    /* duration of a barrier of two threads on this machine  */
void rnn_split_failed(void);                              /* record that threads waited for one that did not run   */
int rnn_split_paused(void);                               /* whether calls use one thread because of that          */
int64_t rnn_split_paused_ns(void);                        /* for how long they still will; 0: they do not          */
int64_t rnn_split_failures(void);                         /* failures so far                                       */

/* Functions whose state exists once in a process. The extension `core` contains them; the others call them through this
 * table (linked.c). */
typedef struct {
    void (*team_run)(void (*part)(void *, int, int), void *arg, int parts, int together);
    void (*team_barrier)(int part, int parts);
    int (*team_leaves)(int part);
    double (*team_barrier_seconds)(void);
    int (*split_paused)(void);
    void (*await)(const int64_t *counter, int64_t value);
} rnn_process;
extern const rnn_process rnn_own_process;
void rnn_link(const rnn_process *of_core);

/* blas.c */
int rnn_blas_open(const char *path, char *error, size_t size);   /* 0; -1: failed, with a message; -2: out of memory */
void rnn_blas_close(void);                                /* use the built-in product from now on                  */
const char *rnn_blas_core(void);                          /* name of the BLAS core, or NULL without BLAS           */
int rnn_blas_gemm(int is_double, int trans_a, int trans_b, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const void *a,
                  ptrdiff_t lda, const void *b, ptrdiff_t ldb, void *c, ptrdiff_t ldc);   /* 0 without BLAS        */

#endif

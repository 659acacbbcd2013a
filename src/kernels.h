/* The C contract: one table of functions per instruction set and dtype.
 *
 * Row-major, contiguous unless a stride says otherwise (strides count elements), no overlap between arguments unless said.
 * A kernel reads and writes exactly the shapes given: it does not allocate, does not fail, needs no alignment.
 * `void *` is float or double, as the table's `is_double` says. Equations: docs/backward.md.
 *
 * Hp is H rounded up to whole vectors. Arrays that only the engine sees have Hp columns per block, so no kernel has a tail in them;
 * their padding is written but never leaks: padded weights are 0. */
#ifndef RNN_KERNELS_H
#define RNN_KERNELS_H

#include <stddef.h>
#include <stdint.h>

enum {
    RNN_TANH, RNN_RELU, RNN_SIGMOID, RNN_GRU, RNN_GRU_BEFORE, RNN_LSTM,
    RNN_OPTIONS, RNN_GRU_OPTIONS, RNN_GRU_BEFORE_OPTIONS, RNN_LSTM_OPTIONS, RNN_LSTM_COUPLED,   /* with rnn_options */
    RNN_CELLS
};

enum {
    F_TANH, F_SIGMOID, F_RELU, F_AFFINE, F_LEAKY_RELU, F_THRESHOLDED_RELU, F_SCALED_TANH, F_HARD_SIGMOID, F_ELU, F_SOFTSIGN, F_SOFTPLUS,
    F_SELU, F_SILU, F_EXPONENTIAL
};

/* An activation; alpha and beta where it has them: ONNX's definitions. */
typedef struct {
    int kind;
    double alpha, beta;
} rnn_function;

/* What a cell with options does otherwise. */
typedef struct {
    rnn_function gate;           /* of r and z, or i, f and o                                      */
    rnn_function candidate;      /* of the vanilla RNN's h, of n, of g                             */
    rnn_function output;         /* of the LSTM's c on its way to h                                */
    double clip;                 /* a pre-activation of gate or candidate is cut to -clip .. clip; infinity: it is not */
    const void *peephole;        /* (gates-1, Hp): i, f, o, or i, o; NULL: none                    */
    int projected;               /* h = W_hr m has P features, not H                               */
    ptrdiff_t blocks;            /* X                                                              */
} rnn_options;

/* One recurrent step of some rows, and of the units of this thread. X is the number of tape blocks (`blocks` in cells.py): 1 for the vanilla RNN, 4 for GRU and LSTM.
 * LSTM blocks: i, f, g, o. GRU blocks: n, r, z, hn = W_hn h + b_hn; with the reset gate before the product the last is rh = r * h_prev.
 * With rnn_options the blocks hold pre-activations; an LSTM then has more of them: kernels_options.h. */
typedef struct {
    ptrdiff_t rows, H, Hp;
    ptrdiff_t P, Pp;             /* features of h and y: H and Hp, or fewer of a projection        */
    const rnn_options *options;  /* or NULL for a cell without                                 in  */
    const void *w, *w2;          /* packed recurrent weights; w2: GRU_BEFORE's W_hn, or W_hr   in  */
    const void *bias;            /* (rows or 1, X*Hp)                                          in  */
    ptrdiff_t bias_stride;       /* X*Hp if each row has its own (context), else 0                 */
    void *gates;                 /* (rows, X*Hp) in: input part x @ W_ih.T; out: activations if keep */
    const void *h_prev, *c_prev; /* (rows, Pp), (rows, Hp)                                     in  */
    void *h_next, *c_next;       /* (go_on, Pp), (go_on, Hp)                                   out */
    void *h_end, *c_end;         /* rows from go_on on: final states, at the row's own place   out */
    ptrdiff_t go_on;             /* rows below this one have a step after this one; it may be negative */
    void *y;                     /* (rows, P), stride y_stride                                 out */
    ptrdiff_t y_stride;
    int keep;                    /* write the activations for the tape                             */
    int flip;                    /* last block of units first: what is in cache is used before it is replaced */
    ptrdiff_t u0, u1;            /* units to compute, whole vectors: 0, Hp if one thread has them all */
    ptrdiff_t p0, p1;            /* features of a projected h to compute: 0, Pp                    */
    int part, parts;             /* the others are computed at the same time by parts that meet between phases */
} rnn_step;

/* The same step backwards: dgates of this step, and dh, dc carried on to the step before. */
typedef struct {
    ptrdiff_t rows, H, Hp, P, Pp;
    const rnn_options *options;
    const void *w, *w2;          /* recurrent weights packed for dgates @ W_hh; w2: W_hr for dh @ W_hr   in  */
    const void *dy;              /* (rows, P), stride dy_stride, or NULL for zeros             in  */
    ptrdiff_t dy_stride;
    const void *gates;           /* (rows, X*Hp)                                               in  */
    const void *h_prev, *c_prev; /* (rows, Pp), (rows, Hp)                                     in  */
    void *dgates;                /* (rows, X*Hp) of the pre-activations                        out */
    void *dh, *dc;               /* (rows, Pp), (rows, Hp) in: of the state after the step; out: before it */
    void *dphase;                /* (rows, Hp) scratch of a cell with two phases               out */
    int flip;                    /* as in rnn_step                                                 */
    ptrdiff_t u0, u1, p0, p1;
    int part, parts;
} rnn_step_backward;

/* c = a @ w.T for the rows of some groups; each element is one chain over k in order, from 0 or from c. */
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
    int accumulate;              /* start from c                                                   */
    int flip;                    /* last panel first                                               */
    ptrdiff_t v0, v1;            /* vectors of c to compute; 0, 0: all                             */
} rnn_product;

/* Rows look at the keys of their own memory: alpha = softmax(score(query, keys)), context = sum of alpha * values. */
typedef struct {
    ptrdiff_t rows, A, M, S;
    const int64_t *first, *count;/* (rows,) a row's memory is keys and values first .. first+count; count <= S   in  */
    const void *query;           /* (rows, A), stride ldq                                      in  */
    ptrdiff_t ldq;
    const void *keys, *values;   /* (., A), (., M)                                             in  */
    const void *v;               /* (A,): the score is v . tanh(query + key); NULL: query . key    in  */
    int softmax;                 /* else alpha are the scores                                      */
    void *alpha;                 /* (rows, S), zeros from count on                             out */
    void *context;               /* (rows, M), stride ldc                                      out */
    ptrdiff_t ldc;
} rnn_attend;

/* The same backwards. Rows with a common memory must not be computed at the same time. */
typedef struct {
    rnn_attend forward;          /* as it was; alpha                                           in  */
    const void *dcontext;        /* (rows, M), stride forward.ldc                              in  */
    void *dquery;                /* (rows, A), stride ldd                                      out */
    ptrdiff_t ldd;
    void *dkeys, *dvalues;       /* (., A), (., M)                                             +=  */
    void *dv;                    /* (rows, A), each row's part                                 +=  */
    void *dscore;                /* (rows, S) scratch                                          out */
} rnn_attend_backward;

/* Sentences as weighted sums of the vectors of their words: word w of a sentence counts a[w] + b[w] * ramp, unit by unit. */
typedef struct {
    ptrdiff_t M, n;
    const int64_t *sentence;     /* (M,) which sentence a row of the result is                 in  */
    const int64_t *start;        /* its words are start[s] .. start[s+1] of:                   in  */
    const int64_t *word;         /* the row of the table                                       in  */
    const void *a, *b;           /* the weight of the word                                     in  */
    const void *ramp;            /* (n,)                                                       in  */
} rnn_bag;

typedef struct {
    const char *isa;             /* "v2", "v3", "v4", "aarch64", "plain" */
    int is_double;
    int lanes;                   /* VL, elements of a vector             */
    int panel;                   /* vectors in a panel of a packed product */
    ptrdiff_t gemm_terms;        /* up to this many terms `gemm` is faster than BLAS (measured: docs/design.md, BLAS) */
    void (*forward[RNN_CELLS])(const rnn_step *);
    void (*backward[RNN_CELLS])(const rnn_step_backward *);
    void (*product)(const rnn_product *);

    /* dst[p][k][j][l] = src[column[(p*panel + j)*VL + l] * stride_n + row[k] * stride_k], 0 where an index is negative;
     * vectors not divisible by panel: the last panel is narrower. */
    void (*pack)(ptrdiff_t vectors, int panel, const int64_t *column, ptrdiff_t K, const int64_t *row,
                 const void *src, ptrdiff_t stride_n, ptrdiff_t stride_k, void *dst);

    /* c (M,N) += op(a) @ op(b): the product of weight gradients, for up to gemm_terms terms or where there is no BLAS. One chain per element. */
    void (*gemm)(int trans_a, int trans_b, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K,
                 const void *a, ptrdiff_t lda, const void *b, ptrdiff_t ldb, void *c, ptrdiff_t ldc);

    void (*column_sum)(ptrdiff_t M, ptrdiff_t N, const void *a, ptrdiff_t lda, void *out);     /* out (N,) += sum of rows */
    void (*gather)(ptrdiff_t M, ptrdiff_t n, const void *table, ptrdiff_t ldt, const int64_t *ids, void *out, ptrdiff_t ldo);
    void (*bag)(const rnn_bag *, const void *table, void *out);                                /* out (M,n) += weighted sums */
    void (*bag_backward)(const rnn_bag *, const void *dout, void *dtable);                     /* dtable += , rows in order  */
    void (*scatter_add)(ptrdiff_t M, ptrdiff_t n, const void *a, ptrdiff_t lda, const int64_t *ids, void *out, ptrdiff_t ldo);

    /* weights may be NULL (1), dlogits may be NULL and may be logits; a negative target is an ignored row */
    void (*softmax_nll)(ptrdiff_t M, ptrdiff_t V, const void *logits, const int64_t *targets, const void *weights,
                        double *nll, void *dlogits);
    void (*softmax)(ptrdiff_t M, ptrdiff_t V, const void *logits, void *out);
    void (*dropout)(ptrdiff_t M, ptrdiff_t n, void *x, ptrdiff_t ldx, const uint64_t *row_id, uint64_t key, double p);

    void (*attend)(const rnn_attend *);
    void (*attend_backward)(const rnn_attend_backward *);
    void (*tanh_rows)(ptrdiff_t M, ptrdiff_t n, void *x, ptrdiff_t ldx);                       /* x = tanh(x) */
    void (*tanh_rows_backward)(ptrdiff_t M, ptrdiff_t n, const void *y, void *d);              /* d *= 1 - y*y */
    double (*log_sum_exp)(ptrdiff_t V, const void *x);
    void (*greatest)(ptrdiff_t V, const void *x, ptrdiff_t K, int64_t *ids);                   /* -1: x has fewer numbers */
    int64_t (*draw)(ptrdiff_t V, void *x, double temperature, double u);                       /* x is overwritten */

    double (*sum_of_squares)(ptrdiff_t n, const void *g);
    void (*clip_value)(ptrdiff_t n, void *g, double limit);
    void (*sgd)(ptrdiff_t n, void *p, const void *g, void *v, double lr, double momentum, double decay, int nesterov, double scale);
    void (*rmsprop)(ptrdiff_t n, void *p, const void *g, void *s, double lr, double alpha, double eps, double decay, double scale);
    void (*adagrad)(ptrdiff_t n, void *p, const void *g, void *s, double lr, double eps, double decay, double scale);
    void (*adam)(ptrdiff_t n, void *p, const void *g, void *m, void *v, double lr, double beta1, double beta2, double eps,
                 double decay, int decoupled, int64_t step, double scale);

    /* for benchmarks: 12 n multiply-adds of a vector; a (n,) read `times` times */
    double (*fma_loop)(ptrdiff_t n);
    double (*read_loop)(ptrdiff_t times, ptrdiff_t n, const void *a);
} rnn_kernels;

/* dispatch.c */
const char *rnn_compiler(void);                           /* that made this build */
int rnn_isa_count(void);                                  /* how many tables this CPU can run, best first */
const char *rnn_isa_name(int index);
const rnn_kernels *rnn_kernels_of(int index, int is_double);

/* team.c: calls part(arg, 0 .. parts-1), on the threads that are free, with denormals flushed to zero; returns when all are done.
 * together: the parts wait for each other, so they run at the same time, or else one part alone does it all: part(arg, 0, 1). Where
 * they have met equally often each part asks whether the caller, part 0, goes on alone; if so, the others return. */
void rnn_team_run(void (*part)(void *arg, int part, int parts), void *arg, int parts, int together);
void rnn_team_meet(int part, int parts);                  /* returns when all parts have come here as often as this one */
void rnn_team_force_leave(int64_t meeting);               /* for tests: at this meeting of each task; 0: as it happens */
int rnn_team_leaves(int part);                            /* whether the caller goes on alone from here                 */
void rnn_await(const int64_t *counter, int64_t value);    /* until the counter has come that far                        */

/* local.c */
int rnn_take(int *taken);                                 /* 1 if nobody held it: the caller does until rnn_give        */
void rnn_give(int *taken);
void rnn_announce(int64_t *counter, int64_t value);       /* what was written before it is seen by who awaits it        */
int64_t rnn_seen(const int64_t *counter);                 /* where the counter is now                                   */
int rnn_cpus(void);                                       /* that this thread may run on now                            */
double rnn_seconds(void);                                 /* of a clock that only goes forward                          */
int64_t rnn_now(void);                                    /* the same in ns                                             */
uint64_t rnn_flush_denormals(void);                       /* from now on in this thread; returns the mode before        */
void rnn_restore_denormals(uint64_t mode);

/* split.c */
double rnn_team_meeting(void);                            /* seconds that a meeting of two costs here, measured once    */
void rnn_split_failed(void);                              /* threads waited for one that somebody else's work held up   */
int rnn_split_alone(void);                                /* whether calls go alone now because of that ...             */
int64_t rnn_split_alone_ns(void);                         /* ... and for how long                                       */
int64_t rnn_split_failures(void);                         /* how often it has happened                                  */

/* What exists once in a process. The extension `core` contains it, the others reach it through this table: linked.c. */
typedef struct {
    void (*team_run)(void (*part)(void *, int, int), void *arg, int parts, int together);
    void (*team_meet)(int part, int parts);
    int (*team_leaves)(int part);
    double (*team_meeting)(void);
    int (*split_alone)(void);
    void (*await)(const int64_t *counter, int64_t value);
} rnn_process;
extern const rnn_process rnn_own_process;
void rnn_link(const rnn_process *of_core);

/* blas.c */
int rnn_blas_open(const char *path, char *error, size_t size);     /* 0; -1 with a message; -2: no memory */
void rnn_blas_close(void);                                /* back to the built-in product */
const char *rnn_blas_core(void);                          /* name of the BLAS core, or NULL without BLAS */
int rnn_blas_gemm(int is_double, int trans_a, int trans_b, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K,
                  const void *a, ptrdiff_t lda, const void *b, ptrdiff_t ldb, void *c, ptrdiff_t ldc);   /* 0 if there is no BLAS */

#endif

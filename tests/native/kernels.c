/* Call every kernel of every table with random sizes on both sides of the boundaries of vectors, tiles and blocks, in
 * buffers of exactly the size documented in src/kernels.h. Run it under a sanitizer or memcheck.
 *
 *   kernels [cases] [seed]
 *
 * Values are not compared with a reference (tests/test_kernels.py does). Elements that were not written, or read too
 * early, are NaN and detected. */
#include "cases.h"
#include "row_steps.h"
#include "steps.h"

static ptrdiff_t columns(void) { return size_at(lanes, 1, 10 * lanes); }

/* ---- products ---------------------------------------------------------------------------------------------------- */

static void product(void)
{
    enum { GROUPS = 3 };
    ptrdiff_t first[GROUPS], count[GROUPS], rows = 0;
    const ptrdiff_t groups = 1 + below(GROUPS), N = columns();
    const ptrdiff_t K = below(8) ? below(40) : size_at(below(2) ? 128 : 512, 0, 1024);
    const ptrdiff_t vectors = (N + lanes - 1) / lanes, lda = K + below(3), ldc = N + below(3);
    for (ptrdiff_t g = 0; g < groups; g++) {
        first[g] = rows + below(2);
        count[g] = below(15);
        rows = first[g] + count[g];
    }
    rnn_product p = {.groups = groups, .first = first, .count = count, .N = N, .K = K, .lda = lda, .ldc = ldc,
                     .accumulate = (int)below(2), .flip = (int)below(2)};
    p.a = filled(extent(rows, K, lda));
    p.w = filled(vectors * lanes * K);
    p.bias = below(2) ? filled(N) : NULL;
    p.c = filled(extent(rows, N, ldc));
    if (below(2)) {
        p.v0 = below(vectors);
        p.v1 = p.v0 + 1 + below(vectors - p.v0);
    }
    table->product(&p);
    check("c", p.c, extent(rows, N, ldc));
}

static void pack(void)
{
    const int panel = 1 + (int)below(RNN_PANEL);
    const ptrdiff_t N = columns(), M = 1 + below(20), vectors = below(8), K = below(20), across = below(2);
    int64_t *column = integers(vectors * lanes, -1, N), *row = integers(K, -1, M);
    for (ptrdiff_t v = 0; v < vectors && N >= lanes; v++)          /* some vectors are columns side by side */
        if (below(2))
            for (ptrdiff_t l = 0, from = below(N - lanes + 1); l < lanes; l++)
                column[v * lanes + l] = from + l;
    void *to = unwritten(vectors * lanes * K);
    table->pack(vectors, panel, column, K, row, filled(N * M), across ? M : 1, across ? 1 : N, to);
    check("packed", to, vectors * lanes * K);
}

static void gemm(void)
{
    const int trans_a = (int)below(2), trans_b = (int)below(2);
    const ptrdiff_t M = below(8) ? 1 + below(20) : size_at(60, 1, 200), N = below(4) ? columns() : size_at(8 * lanes, 1, 400);
    const ptrdiff_t K = below(8) ? below(40) : size_at(below(2) ? 96 : 256, 0, 512);
    const ptrdiff_t a_rows = trans_a ? K : M, a_columns = trans_a ? M : K;
    const ptrdiff_t b_rows = trans_b ? N : K, b_columns = trans_b ? K : N;
    const ptrdiff_t lda = a_columns + below(3), ldb = b_columns + below(3), ldc = N + below(3);
    void *c = filled(extent(M, N, ldc));
    const void *a = filled(extent(a_rows, a_columns, lda)), *b = filled(extent(b_rows, b_columns, ldb));
    table->gemm(trans_a, trans_b, M, N, K, a, lda, b, ldb, c, ldc);
    check("c", c, extent(M, N, ldc));
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static void column_sum(void)
{
    const ptrdiff_t M = size_at(8, 0, 16), N = columns(), lda = N + below(3);
    void *out = filled(N);
    table->column_sum(M, N, filled(extent(M, N, lda)), lda, out);
    check("sums", out, N);
}

static void gather(void)
{
    const ptrdiff_t M = below(12), V = 1 + below(9), n = columns(), ldt = n + below(3), ldo = n + below(3);
    void *out = unwritten(extent(M, n, ldo));
    table->gather(M, n, filled(extent(V, n, ldt)), ldt, integers(M, 0, V), out, ldo);
    check_rows("out", out, M, n, ldo);
}

static void scatter_add(void)
{
    const ptrdiff_t M = below(12), V = 1 + below(9), n = columns(), lda = n + below(3), ldo = n + below(3);
    void *out = filled(extent(V, n, ldo));
    table->scatter_add(M, n, filled(extent(M, n, lda)), lda, integers(M, 0, V), out, ldo);
    check("out", out, extent(V, n, ldo));
}

static void bags(void)
{
    const ptrdiff_t M = 1 + below(9), S = 1 + below(5), V = 1 + below(9), n = columns();
    int64_t *start = integers(S + 1, 0, 1);
    for (ptrdiff_t s = 0; s < S; s++)
        start[s + 1] = start[s] + below(4);
    const ptrdiff_t words = start[S];
    const rnn_bag s = {.M = M, .n = n, .sentence = integers(M, 0, S), .start = start, .word = integers(words, 0, V),
                       .a = filled(words), .b = filled(words), .ramp = filled(n)};
    void *out = filled(M * n), *dtable = filled(V * n);
    table->bag(&s, filled(V * n), out);
    table->bag_backward(&s, out, dtable);
    check("out", out, M * n);
    check("dtable", dtable, V * n);
}

static void dropout(void)
{
    const ptrdiff_t M = below(9), n = columns(), ldx = n + below(3);
    void *x = filled(extent(M, n, ldx));
    uint64_t *row = buffer((size_t)M * sizeof *row);
    for (ptrdiff_t m = 0; m < M; m++)
        row[m] = random_bits();
    table->dropout(M, n, x, ldx, row, random_bits(), 0.3);
    check("x", x, extent(M, n, ldx));
}

static void tanh_rows(void)
{
    const ptrdiff_t M = 1 + below(5), n = columns(), ldx = n + below(3);
    void *x = filled(extent(M, n, ldx)), *d = filled(M * n);
    table->tanh_rows(M, n, x, ldx);
    table->tanh_rows_backward(M, n, filled(M * n), d);
    check("x", x, extent(M, n, ldx));
    check("d", d, M * n);
}

/* ---- losses and choices ------------------------------------------------------------------------------------------ */

static void losses(void)
{
    const ptrdiff_t M = below(6), V = below(6) ? columns() : size_at(32 * lanes, 1, 64 * lanes);
    void *logits = filled(M * V), *out = unwritten(M * V);
    double *nll = buffer((size_t)M * sizeof *nll);
    const int64_t *targets = integers(M, -1, V);
    const void *weights = below(2) ? filled(M) : NULL;
    table->softmax(M, V, logits, out);
    check("softmax", out, M * V);
    table->softmax_nll(M, V, logits, targets, weights, nll, NULL);
    table->softmax_nll(M, V, logits, targets, weights, nll, out);
    table->softmax_nll(M, V, logits, targets, weights, nll, logits);
    check("dlogits", out, M * V);
    if (M && memcmp(out, logits, (size_t)(M * V * item)))
        fail("dlogits differ where they take the place of logits");
    for (ptrdiff_t m = 0; m < M; m++)
        if (nll[m] != nll[m])
            fail("nll is NaN");
}

static void choices(void)
{
    const ptrdiff_t V = below(6) ? columns() : size_at(32 * lanes, 1, 64 * lanes), K = 1 + below(V < 9 ? V : 9);
    void *x = filled(V);
    int64_t *ids = buffer((size_t)K * sizeof *ids);
    if (below(3) == 0)
        set_element(x, below(V), (double)NAN);
    table->greatest(V, x, K, ids);
    for (ptrdiff_t i = 0; i < K; i++)
        if (ids[i] < -1 || ids[i] >= V)
            fail("an id out of range");
    x = filled(V);
    const double sum = table->log_sum_exp(V, x);
    const int64_t id = table->draw(V, x, 0.5 + (double)below(3), 0.5 + 0.5 * number() * (1 - 1e-9));
    if (sum != sum || id < 0 || id >= V)
        fail("log_sum_exp or draw");
}

/* ---- attention --------------------------------------------------------------------------------------------------- */

static void attend(void)
{
    const ptrdiff_t rows = 1 + below(4), A = columns(), M = columns(), memory = 1 + below(3 * lanes);
    int64_t *first = integers(rows, 0, memory), *count = integers(rows, 0, 1);
    ptrdiff_t S = below(2);
    for (ptrdiff_t r = 0; r < rows; r++) {
        count[r] = below(memory - first[r] + 1);
        S = count[r] > S ? (ptrdiff_t)count[r] : S;
    }
    rnn_attend s = {.rows = rows, .A = A, .M = M, .S = S, .first = first, .count = count,
                    .ldq = A + below(3), .ldc = M + below(3), .softmax = (int)below(2)};
    s.query = filled(extent(rows, A, s.ldq));
    s.keys = filled(memory * A);
    s.values = filled(memory * M);
    s.v = below(2) ? filled(A) : NULL;
    s.alpha = unwritten(rows * S);
    s.context = unwritten(extent(rows, M, s.ldc));
    table->attend(&s);
    check("alpha", s.alpha, rows * S);
    check_rows("context", s.context, rows, M, s.ldc);

    rnn_attend_backward g = {.forward = s, .ldd = A + below(3)};
    g.dcontext = filled(extent(rows, M, s.ldc));
    g.dquery = unwritten(extent(rows, A, g.ldd));
    g.dkeys = filled(memory * A);
    g.dvalues = filled(memory * M);
    g.dv = s.v ? filled(rows * A) : NULL;
    g.dscore = unwritten(rows * S);
    g.forward.context = NULL;                             /* backward must not need it */
    table->attend_backward(&g);
    check_rows("dquery", g.dquery, rows, A, g.ldd);
    check("dkeys", g.dkeys, memory * A);
    check("dvalues", g.dvalues, memory * M);
    if (g.dv)
        check("dv", g.dv, rows * A);
}

/* ---- optimisers and limits --------------------------------------------------------------------------------------- */

static void optimisers(void)
{
    const ptrdiff_t n = below(4) ? below(80) : 0;
    void *p = filled(n), *g = filled(n), *m = filled(n), *v = filled(n);
    for (ptrdiff_t i = 0; i < n; i++)
        set_element(v, i, fabs(element(v, i)));
    const double sum = table->sum_of_squares(n, g);
    table->clip_value(n, g, 0.5);
    rnn_update u = {.n = n, .p = p, .g = g, .v = v, .lr = 0.1, .decay = 0.01, .scale = 1, .momentum = 0.9, .beta1 = 0.9,
                    .beta2 = 0.99, .eps = 1e-8, .nesterov = (int)below(2), .decoupled = (int)below(2), .step = 1 + below(9)};
    table->sgd(&u);
    u.m = m;
    table->sgd(&u);
    table->rmsprop(&u);
    table->adagrad(&u);
    table->adam(&u);
    check("p", p, n);
    if (sum != sum)
        fail("sum_of_squares");
}

static void limits(void)
{
    const ptrdiff_t n = below(60) * lanes + below(lanes);
    const double a = table->fma_loop(below(5), below(2)), b = table->read_loop(1 + below(2), n, filled(n));
    if (a != a || b != b)
        fail("the sum of a loop is NaN");
}

static void forward_steps(void)  { check_steps(0); }
static void backward_steps(void) { check_steps(1); }
static void row_steps(void)      { check_row_steps(); }

static const struct {
    const char *name;
    void (*run)(void);
} kernels[] = {
    {"forward", forward_steps}, {"backward", backward_steps}, {"row steps", row_steps},
    {"product", product}, {"pack", pack}, {"gemm", gemm},
    {"column_sum", column_sum}, {"gather", gather}, {"scatter_add", scatter_add}, {"bag", bags}, {"dropout", dropout},
    {"tanh_rows", tanh_rows}, {"losses", losses}, {"choices", choices}, {"attend", attend}, {"optimisers", optimisers},
    {"limits", limits},
};

enum { KERNELS = sizeof kernels / sizeof *kernels };

int main(int argc, char **argv)
{
    const long cases = argc > 1 ? atol(argv[1]) : 100, seed = argc > 2 ? atol(argv[2]) : 0;
    long calls = 0;
    name_case_on_death();
    for (int isa = 0; isa < rnn_isa_count(); isa++)
        for (int is_double = 0; is_double < 2; is_double++) {
            table = rnn_kernels_of(isa, is_double);
            item = is_double ? 8 : 4;
            lanes = table->lanes;
            for (long n = seed; n < seed + cases; n++)
                for (int k = 0; k < KERNELS; k++, calls++) {
                    random_state = (uint64_t)(n * KERNELS + k);
                    snprintf(current, sizeof current, "%s of %s, %s, seed %ld", kernels[k].name, rnn_isa_name(isa),
                             is_double ? "float64" : "float32", n);
                    kernels[k].run();
                    free_buffers();
                }
        }
    printf("%ld cases of %d groups of kernels on %d instruction sets: %d failed\n", calls, KERNELS, rnn_isa_count(),
           failures);
    return failures != 0;
}

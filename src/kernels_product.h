/* Products with packed weights: tiles of rows and panels, in the products of whole arrays and in those of one step. */

/* Rows of the next tile: `left` rows are divided into tiles of nearly equal size with at most ROWS rows. */
INLINE int next_rows(ptrdiff_t left)
{
    const ptrdiff_t tiles = (left + ROWS - 1) / ROWS;
    return (int)((left + tiles - 1) / tiles);
}

/* Passes over vectors v0 .. v1 of packed panels: a panel or a part of one at a time, two whole ones if `pair`. */
typedef struct {
    ptrdiff_t v0, v1, aligned, pairs, count;
    int panel;
} passes;

typedef struct {
    ptrdiff_t v;                 /* first vector */
    int panels, cols;            /* 1 or 2 panels of `cols` vectors each */
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

/* Offset of vector v in packed panels, and the distance from one k to the next: the last panel may be narrower. */
INLINE ptrdiff_t panel_offset(ptrdiff_t v, int panel, ptrdiff_t vectors, ptrdiff_t K, ptrdiff_t *w_step)
{
    const ptrdiff_t first = v / panel * panel;
    *w_step = (vectors - first < panel ? vectors - first : panel) * VL;
    return first * VL * K + (v - first) * VL;
}

/* The address from which tile number `tile` of a pass prefetches, a line for each k: its share of the K rows of weights
 * at `next`, w_step apart; NULL if nothing is left. Weights that do not stay in L2 would keep the first tile of each
 * pass waiting. `size`: elements of all weights. */
INLINE const real *tile_ahead(ptrdiff_t tile, const real *next, ptrdiff_t K, ptrdiff_t w_step, ptrdiff_t size)
{
    return size > FAR && tile * LINE < w_step ? next + tile * K * LINE : NULL;
}

/* acc[p][m][j] += sum_k a[m][k] * w[p][k][j], k in order, one chain per element: the bits of a row do not depend on
 * `rows` or `panels`. rows, panels and cols are constants at each call, so that acc stays in registers. */
INLINE void tile(vec *acc, int panels, int rows, int cols, ptrdiff_t K, const real *a, ptrdiff_t row_stride,
                 ptrdiff_t k_stride, const real *w, ptrdiff_t w_step, ptrdiff_t panel_stride, const real *ahead)
{
    for (ptrdiff_t k = 0; k < K; k++, w += w_step) {
        vec b[ROWS];
        if (rows > 2 && ahead)
            __builtin_prefetch(ahead + k * LINE, 0, 2);
#pragma GCC unroll 8
        for (int m = 0; m < rows; m++)
            b[m] = v_set(a[m * row_stride + k * k_stride]);
#pragma GCC unroll 4
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

typedef struct {
    ptrdiff_t K, row_stride, k_stride, w_step, panel_stride, ldc;
    ptrdiff_t tail;              /* columns in the last vector of the last panel */
    int from_c;                  /* start from c instead of 0                    */
    const real *ahead;           /* to prefetch, see tile_ahead                  */
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
    tile(acc, panels, rows, cols, t->K, a, t->row_stride, t->k_stride, w, t->w_step, t->panel_stride,
         t->ahead);
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

/* The columns of one panel. Several tiles of rows take the terms in blocks, whose weights stay in L1 meanwhile. `next` is
 * the panel after it. */
static void product_panel(const rnn_product *p, ptrdiff_t column, int cols, tile_args *t, const real *w,
                          const real *next)
{
    const real *a = p->a;
    real *c = (real *)p->c + column;
    const ptrdiff_t block = p->groups > 1 || p->count[0] > ROWS ? K_BLOCK : FEW_ROWS_BLOCK;
    for (ptrdiff_t k = 0; k == 0 || k < p->K; k += block) {
        const real *after = k + block < p->K ? w + (k + block) * t->w_step : next;
        ptrdiff_t tile = 0;
        t->K = p->K - k < block ? p->K - k : block;
        t->from_c = p->accumulate || k > 0;
        t->bias = p->bias && k + block >= p->K ? (const real *)p->bias + column : NULL;
        for (ptrdiff_t g = 0; g < p->groups; g++) {
            const ptrdiff_t end = p->first[g] + p->count[g];
            for (ptrdiff_t r = p->first[g]; r < end; tile++) {
                const int rows = next_rows(end - r);
                t->ahead = tile_ahead(tile, after, block, t->w_step, p->N * p->K);
                product_rows(rows, cols, t, a + r * p->lda + k, w + k * t->w_step, c + r * p->ldc);
                r += rows;
            }
        }
    }
}

/* One panel after the other. A single row takes two panels at a time, which keeps the FMA units busy. */
static void product(const rnn_product *p)
{
    const ptrdiff_t vectors = (p->N + VL - 1) / VL;
    const int one_row = p->groups == 1 && p->count[0] == 1 && p->K <= FEW_ROWS_BLOCK;
    const passes over = passes_over(p->v0, p->v1 ? p->v1 : vectors, PANEL, one_row);
    const ptrdiff_t panel = PANEL * VL * p->K;
    tile_args t = {.row_stride = p->lda, .k_stride = 1, .ldc = p->ldc, .panel_stride = panel};
    for (ptrdiff_t i = 0; i < over.count; i++) {
        const pass now = pass_at(&over, p->flip ? over.count - 1 - i : i);
        const real *w = (const real *)p->w + panel_offset(now.v, PANEL, vectors, p->K, &t.w_step);
        t.tail = p->N - (now.v + now.panels * now.cols - 1) * VL;
        if (now.panels == 2) {
            t.K = p->K;
            t.from_c = p->accumulate;
            t.bias = p->bias ? (const real *)p->bias + now.v * VL : NULL;
            product_tile(2, 1, PANEL, &t, (const real *)p->a + p->first[0] * p->lda, w,
                         (real *)p->c + p->first[0] * p->ldc + now.v * VL);
        } else {
            product_panel(p, now.v * VL, now.cols, &t, w, p->flip ? w - panel : w + panel);
        }
    }
}

/* VL rows of one packed vector whose source has them side by side: a transposed copy. */
INLINE void pack_transposed(const int64_t *column, const real *from, ptrdiff_t stride_n, real *to, ptrdiff_t step)
{
    vec x[VL];
#pragma GCC unroll 16
    for (int l = 0; l < VL; l++)
        x[l] = column[l] < 0 ? (vec){0} : v_load(from + column[l] * stride_n);
    v_transpose(x);
#pragma GCC unroll 16
    for (int k = 0; k < VL; k++)
        v_store(to + k * step, x[k]);
}

/* The columns of one packed vector: to[k][l] = from[column[l] * stride_n + row[k] * stride_k], or 0 where an index is
 * negative. */
static void pack_vector(const int64_t *column, ptrdiff_t K, const int64_t *row, const real *from, ptrdiff_t stride_n,
                        ptrdiff_t stride_k, real *to, ptrdiff_t step)
{
    const int together = stride_n == 1 && column[0] >= 0 && column[VL - 1] == column[0] + VL - 1;
    for (ptrdiff_t k = 0; k < K;) {
        if (stride_k == 1 && !together && k + VL <= K && row[k] >= 0 && row[k + VL - 1] == row[k] + VL - 1) {
            pack_transposed(column, from + row[k], stride_n, to + k * step, step);
            k += VL;
            continue;
        }
        vec x = {0};
        if (row[k] >= 0 && together)
            x = v_load(from + column[0] + row[k] * stride_k);
        else if (row[k] >= 0)
            for (int l = 0; l < VL; l++)
                if (column[l] >= 0)
                    x[l] = from[column[l] * stride_n + row[k] * stride_k];
        v_store(to + k * step, x);
        k++;
    }
}

static void pack(ptrdiff_t vectors, int panel, const int64_t *column, ptrdiff_t K, const int64_t *row,
                 const void *src, ptrdiff_t stride_n, ptrdiff_t stride_k, void *dst)
{
    enum { BLOCK = 64 };                     /* rows at a time, which stay in the cache */
    real *to = dst;
    for (ptrdiff_t v = 0; v < vectors; v += panel) {
        const int count = vectors - v < panel ? (int)(vectors - v) : panel;
        for (ptrdiff_t k = 0; k < K; k += BLOCK) {
            const ptrdiff_t rows = K - k < BLOCK ? K - k : BLOCK;
            for (int j = 0; j < count; j++)
                pack_vector(column + (v + j) * VL, rows, row + k, src, stride_n, stride_k, to + j * VL, count * VL);
            to += rows * count * VL;
        }
    }
}

/* Copy K rows of `width` columns in panel order; the last vector is padded with zeros. */
static void pack_block(ptrdiff_t K, int cols, ptrdiff_t width, const real *b, ptrdiff_t stride_k, ptrdiff_t stride_n,
                       real *to)
{
    for (ptrdiff_t k = 0; k < K; k++, b += stride_k, to += cols * VL)
        if (stride_n == 1 && width == PANEL * VL)
            memcpy(to, b, PANEL * VL * sizeof(real));
        else if (stride_n == 1)
            for (int j = 0; j < cols; j++)
                v_store(to + j * VL, v_load_n(b + j * VL, width - j * VL));
        else
            for (ptrdiff_t l = 0; l < cols * VL; l++)
                to[l] = l < width ? b[l * stride_n] : 0;
}

/* Prefetch the rows of a tile of c: the tiles of a large c are not in cache, and are not read in sequential order. */
INLINE void prefetch_tile(const real *c, ptrdiff_t rows, int cols, ptrdiff_t ldc)
{
    for (ptrdiff_t m = 0; m < rows && m < ROWS; m++)
        for (int j = 0; j < cols * VL; j += LINE)
            __builtin_prefetch(c + m * ldc + j, 1);
}

/* A part of the product c (M,N) += op(a) (M,K) @ op(b) (K,N), with the distances of its elements. */
typedef struct {
    ptrdiff_t M, N, K;
    const real *a, *b;
    ptrdiff_t a_m, a_k, b_k, b_n;
    real *c;
    ptrdiff_t ldc;
    int far;                     /* c does not fit into the cache */
} gemm_args;

/* For each panel of columns: copy this part of b in panel order, then compute every row tile of c with it. */
INLINE void gemm_panels(const gemm_args *g, const real *tiles, real *panel)
{
    for (ptrdiff_t n = 0; n < g->N; n += PANEL * VL) {
        const ptrdiff_t width = g->N - n < PANEL * VL ? g->N - n : PANEL * VL;
        const int cols = (int)((width + VL - 1) / VL);
        const tile_args t = {.K = g->K, .row_stride = tiles ? 1 : g->a_m, .k_stride = tiles ? ROWS : g->a_k,
                             .w_step = cols * VL, .ldc = g->ldc, .tail = width - (cols - 1) * VL, .from_c = 1};
        pack_block(g->K, cols, width, g->b + n * g->b_n, g->b_k, g->b_n, panel);
        for (ptrdiff_t m = 0; m < g->M;) {
            const int rows = tiles ? (g->M - m < ROWS ? (int)(g->M - m) : ROWS) : next_rows(g->M - m);
            const real *a = tiles ? tiles + m * g->K : g->a + m * g->a_m;
            if (g->far)
                prefetch_tile(g->c + (m + rows) * g->ldc + n, g->M - m - rows, cols, g->ldc);
            product_rows(rows, cols, &t, a, panel, g->c + m * g->ldc + n);
            m += rows;
        }
    }
}

/* Copy a (M,K) in tiles of ROWS rows: the ROWS elements of each k are adjacent. */
static void pack_tiles(const gemm_args *g, real *tiles)
{
    for (ptrdiff_t k = 0; k < g->K; k++) {
        const real *from = g->a + k * g->a_k;
        for (ptrdiff_t m = 0; m < g->M; m += ROWS) {
            real *to = tiles + m * g->K + k * ROWS;
            if (g->a_m == 1 && m + ROWS <= g->M)
                memcpy(to, from + m, ROWS * sizeof(real));
            else
                for (ptrdiff_t r = m; r < m + ROWS && r < g->M; r++)
                    to[r - m] = from[r * g->a_m];
        }
    }
}

/* Many columns read each part of `a` often, so it is copied too: rows of a large `a` compete for the same lines of the
 * cache. Few columns would not repay the copy. */
static void gemm(int trans_a, int trans_b, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K,
                 const void *va, ptrdiff_t lda, const void *vb, ptrdiff_t ldb, void *vc, ptrdiff_t ldc)
{
    enum { COLUMNS = PANEL * VL, BLOCK = 256, SIZE = BLOCK * COLUMNS, FAR_BYTES = 262144 };
    enum { TILED_BLOCK = 96, TILED_ROWS = (SIZE / TILED_BLOCK - COLUMNS) / ROWS * ROWS };
    real panel[SIZE];                        /* 64 KB of the stack: a panel, or a smaller one and the tiles */
    real *tiles = N > 2 * COLUMNS ? panel + TILED_BLOCK * COLUMNS : NULL;
    const ptrdiff_t block = tiles ? TILED_BLOCK : BLOCK, rows = tiles ? TILED_ROWS : M;
    gemm_args g = {.N = N, .a_m = trans_a ? 1 : lda, .a_k = trans_a ? lda : 1, .b_k = trans_b ? 1 : ldb,
                   .b_n = trans_b ? ldb : 1, .ldc = ldc, .far = M * N * (ptrdiff_t)sizeof(real) > FAR_BYTES};
    for (ptrdiff_t k = 0; k < K; k += block)
        for (ptrdiff_t m = 0; m < M; m += rows) {
            g.M = M - m < rows ? M - m : rows;
            g.K = K - k < block ? K - k : block;
            g.a = (const real *)va + m * g.a_m + k * g.a_k;
            g.b = (const real *)vb + k * g.b_k;
            g.c = (real *)vc + m * ldc;
            if (tiles)
                pack_tiles(&g, tiles);
            gemm_panels(&g, tiles, panel);
        }
}

/* c (rows, N) = a (rows, K) @ w.T (+ c), columns from .. to, for all rows of a step. It reads the a of all parts, so
 * they wait for each other first. */
static void step_product_to(const rnn_step_backward *s, const real *a, ptrdiff_t lda, ptrdiff_t K, const void *w,
                            void *c, ptrdiff_t N, ptrdiff_t from, ptrdiff_t to, int accumulate)
{
    const ptrdiff_t first = 0;
    const rnn_product p = {.groups = 1, .first = &first, .count = &s->rows, .N = N, .K = K, .a = a, .lda = lda, .w = w,
                           .c = c, .ldc = N, .accumulate = accumulate, .flip = s->flip, .v0 = from / VL, .v1 = to / VL};
    if (s->parts > 1)
        rnn_team_barrier(s->part, s->parts);
    if (from < to)
        product(&p);
}

/* c = dgates (rows, K) @ w.T (+ c), starting with this block of dgates, for this part's units of c */
static void step_product(const rnn_step_backward *s, ptrdiff_t block, ptrdiff_t K, ptrdiff_t blocks, const void *w,
                         void *c, int accumulate)
{
    step_product_to(s, (const real *)s->dgates + block * s->Hp, blocks * s->Hp, K, w, c, s->Hp, s->u0, s->u1,
                    accumulate);
}

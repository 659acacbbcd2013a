/* Two loops limited only by the multiply-adds, or the reads, of a core. bench/limits.py times them; their results have
 * no meaning. */

enum { CHAINS = 12 };       /* at least latency times FMA units of any CPU, and few enough for 16 registers */

INLINE double sum_of_chains(const vec *acc)
{
    double total = 0;
    for (int j = 0; j < CHAINS; j++)
        for (int l = 0; l < VL; l++)
            total += acc[j][l];
    return total;
}

/* n times CHAINS independent multiply-adds of a vector: 2 * VL * CHAINS * n floating-point operations. With `one_chain`,
 * n multiply-adds of one vector, each of which waits for the one before. */
static double fma_loop(ptrdiff_t n, int one_chain)
{
    vec acc[CHAINS];
    const vec a = v_set((real)0.5), b = v_set(1);
#pragma GCC unroll 16
    for (int j = 0; j < CHAINS; j++)
        acc[j] = v_set((real)j);
    for (ptrdiff_t i = 0; i < n && one_chain; i++)
        acc[0] = v_fma(acc[0], a, b);
    for (ptrdiff_t i = 0; i < n && !one_chain; i++) {
#pragma GCC unroll 16
        for (int j = 0; j < CHAINS; j++)
            acc[j] = v_fma(acc[j], a, b);
    }
    return sum_of_chains(acc);
}

/* Read a (n,) `times` times; elements after the last whole group of CHAINS vectors are not read. */
static double read_loop(ptrdiff_t times, ptrdiff_t n, const void *a)
{
    vec acc[CHAINS] = {{0}};
    for (ptrdiff_t i = 0; i < times; i++) {
        const real *p = a;
        for (ptrdiff_t left = n; left >= CHAINS * VL; left -= CHAINS * VL, p += CHAINS * VL) {
#pragma GCC unroll 16
            for (int j = 0; j < CHAINS; j++)
                acc[j] += v_load(p + j * VL);
        }
    }
    return sum_of_chains(acc);
}

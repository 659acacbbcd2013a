/* Operations on vectors whose width depends on the instruction set. The build defines REAL (float or double);
 * everything else follows from the compiler's own macros. */
#ifndef RNN_VEC_H
#define RNN_VEC_H

#include <stddef.h>
#include <stdint.h>

#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#define INLINE static inline __attribute__((always_inline))

#define IS_float 1
#define IS_double 2
#define IS_FLOAT (PASTE(IS_, REAL) == IS_float)

#if defined(__AVX512F__)
#define VBYTES 64
#elif defined(__AVX__)
#define VBYTES 32
#else
#define VBYTES 16
#endif

typedef REAL real;
#if IS_FLOAT
typedef int32_t integer;
#define VL (VBYTES / 4)
#define FMA __builtin_fmaf
#define SQRT __builtin_sqrtf
#else
typedef int64_t integer;
#define VL (VBYTES / 8)
#define FMA __builtin_fma
#define SQRT __builtin_sqrt
#endif

typedef real vec __attribute__((vector_size(VBYTES), aligned(sizeof(real))));
typedef integer ivec __attribute__((vector_size(VBYTES), aligned(sizeof(real))));

INLINE vec v_set(real x)                   { return x - (vec){0}; }
INLINE vec v_load(const real *p)           { return *(const vec *)p; }
INLINE void v_store(real *p, vec x)        { *(vec *)p = x; }

/* Lanes of two vectors: those of b follow those of a. */
#if defined(__clang__)
#define V_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define V_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ivec){__VA_ARGS__})
#endif
#if VL == 16
#define LOW_LANES 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH_LANES 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif VL == 8
#define LOW_LANES 0, 8, 1, 9, 2, 10, 3, 11
#define HIGH_LANES 4, 12, 5, 13, 6, 14, 7, 15
#elif VL == 4
#define LOW_LANES 0, 4, 1, 5
#define HIGH_LANES 2, 6, 3, 7
#else
#define LOW_LANES 0, 2
#define HIGH_LANES 1, 3
#endif

/* Transpose a square of VL vectors: each round interleaves the first half of them with the second half. */
INLINE void v_transpose(vec *x)
{
#pragma GCC unroll 4
    for (int width = 1; width < VL; width *= 2) {
        vec y[VL];
#pragma GCC unroll 8
        for (int i = 0; i < VL / 2; i++) {
            y[2 * i] = V_SHUFFLE(x[i], x[i + VL / 2], LOW_LANES);
            y[2 * i + 1] = V_SHUFFLE(x[i], x[i + VL / 2], HIGH_LANES);
        }
#pragma GCC unroll 16
        for (int i = 0; i < VL; i++)
            x[i] = y[i];
    }
}

/* The first n lanes only, 0 <= n: the others are loaded as 0, and not stored. */
INLINE vec v_load_n(const real *p, ptrdiff_t n)
{
    if (n >= VL)
        return v_load(p);
    vec x = {0};
    real *to = (real *)&x;
#pragma GCC unroll 4
    for (int l = VL / 2; l > 0; l /= 2)
        if (n & l) {
            __builtin_memcpy(to, p, (size_t)l * sizeof(real));
            p += l;
            to += l;
        }
    return x;
}

INLINE void v_store_n(real *p, vec x, ptrdiff_t n)
{
    if (n >= VL) {
        v_store(p, x);
        return;
    }
    const real *from = (const real *)&x;
#pragma GCC unroll 4
    for (int l = VL / 2; l > 0; l /= 2)
        if (n & l) {
            __builtin_memcpy(p, from, (size_t)l * sizeof(real));
            p += l;
            from += l;
        }
}

/* a*b + c, fused if the ISA can. It is explicit, never left to -ffp-contract, so that all variants of a tile give the
 * same bits. */
#if defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__)
INLINE vec v_fma(vec a, vec b, vec c)
{
    for (int l = 0; l < VL; l++)
        c[l] = FMA(a[l], b[l], c[l]);
    return c;
}

/* (1 + p) * scale, where scale is a power of 2: the same bits in both forms, but without fused multiply-add the product
 * p * scale could underflow. */
INLINE vec v_scaled(vec p, vec scale)      { return v_fma(p, scale, scale); }
#else
INLINE vec v_fma(vec a, vec b, vec c)      { return a * b + c; }
INLINE vec v_scaled(vec p, vec scale)      { return (p + 1) * scale; }
#endif

/* `yes` in lanes whose mask is all ones, else `no` */
INLINE vec v_select(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }

/* Clamps that propagate NaN: a comparison with NaN is false, so x is kept. */
INLINE vec v_at_most(vec x, real limit)    { return v_select((ivec)(x > limit), v_set(limit), x); }
INLINE vec v_at_least(vec x, real limit)   { return v_select((ivec)(x < limit), v_set(limit), x); }

INLINE vec v_abs(vec x)
{
    const ivec sign = (ivec)v_set(-(real)0);
    return (vec)((ivec)x & ~sign);
}

INLINE vec v_copysign(vec x, vec from)
{
    const ivec sign = (ivec)v_set(-(real)0);
    return (vec)(((ivec)x & ~sign) | ((ivec)from & sign));
}

/* x = n ln2 + r, |r| <= ln2/2 (Cody & Waite 1980): returns expm1(r) and stores 2^n in *scale, so that
 * exp(x) = expm1(r) * 2^n + 2^n. For -87 <= x <= 88 in float32, -708 <= x <= 709 in float64; NaN stays NaN.
 * expm1(r) = r + r^2 q(r), q interpolated in Chebyshev nodes: relative error < 6e-10 (degree 5, float32), < 5e-17
 * (degree 9, float64). */
#if IS_FLOAT
#define EXP_MIN -87.0f
#define EXP_MAX 88.0f
#define EXP_MAGIC 12582912.0f      /* 1.5 * 2^23: adding it rounds to an integer, in the low bits */
#define EXP_SHIFT 23
#define EXP_BIAS 127
#define LOG2E 1.44269504088896341f
#define LN2_HIGH 0.693359375f
#define LN2_LOW -2.12194440054690583e-4f
static const real EXPM1[] = {0.50000000134981779f, 0.16666666681659179f, 0.041666464602026542f,
    0.0083333108895820772f, 0.0013933685862617174f, 0.00019891030654370328f};
#else
#define EXP_MIN -708.0
#define EXP_MAX 709.0
#define TANH_MAX 20.0       /* tanh(20) = 1 - 8e-18 */
#define EXP_MAGIC 6755399441055744.0
#define EXP_SHIFT 52
#define EXP_BIAS 1023
#define LOG2E 1.44269504088896340736
#define LN2_HIGH 6.93147180369123816490e-01
#define LN2_LOW 1.90821492927058770002e-10
static const real EXPM1[] = {0.50000000000000010262, 0.16666666666666667456, 0.041666666666623991516,
    0.0083333333333300513464, 0.0013888888917281793308, 0.00019841269863105968748, 0.000024801521190217727651,
    2.7557268378684192873e-6, 2.7620138719733995569e-7, 2.5100424157005066788e-8};
#endif

INLINE vec v_expm1_part(vec x, vec *scale)
{
    const vec shifted = v_fma(x, v_set(LOG2E), v_set(EXP_MAGIC));
    const vec n = shifted - EXP_MAGIC;
    vec r = v_fma(n, v_set(-LN2_HIGH), x);
    r = v_fma(n, v_set(-LN2_LOW), r);
    const int degree = sizeof EXPM1 / sizeof *EXPM1 - 1;
    vec q = v_set(EXPM1[degree]);
#pragma GCC unroll 16
    for (int i = degree - 1; i >= 0; i--)
        q = v_fma(q, r, v_set(EXPM1[i]));
    *scale = (vec)(((ivec)shifted << EXP_SHIFT) + ((integer)EXP_BIAS << EXP_SHIFT));
    return v_fma(r * r, q, r);
}

/* exp(x), clamped so that it neither overflows nor becomes denormal; relative error < 1.3 ulp; NaN stays NaN. */
INLINE vec v_exp(vec x)
{
    vec scale;
    const vec p = v_expm1_part(v_at_most(v_at_least(x, EXP_MIN), EXP_MAX), &scale);
    return v_scaled(p, scale);
}

#if IS_FLOAT

/* tanh by its double-angle formula: if b/a = tanh(x/2), then tanh(x) = 2ab / (a^2 + b^2). Near 1 the rounding errors
 * of a and b cancel; a ratio of polynomials for tanh itself, with as many terms, has an error of 5 ulp and exceeds 1.
 * a = A(x^2), |b| = |x| B(x^2), minimax in the relative error of tanh(x), 6e-9, over |x| <= sqrt(TANH_LIMIT), from
 * tests/fit_activations.py; beyond, tanh(x) is +-1 within 1.9 ulp. The first coefficients are not powers of two, so
 * that a, b and a^2 do not all have their largest rounding errors at the same x, and are above 1, so that b of the
 * smallest normal x is normal: kernels flush denormals to 0. With scale 1/2, for tanh(x/2), a and |b| have the same
 * bits, doubled. */
static const real TANH_A[] = {3.6600000858f, 0.41411244869f, 0.0044307210483f, 4.5638166739e-6f};
static const real TANH_B[] = {1.8300000429f, 0.054556272924f, 2.1062018641e-4f};
#define TANH_LIMIT 69.7225037f

INLINE vec v_tanh_a(vec square, real scale)
{
    const real k = scale * scale;
    vec a = v_fma(square, v_set(TANH_A[3] * k * k * k / scale), v_set(TANH_A[2] * k * k / scale));
    a = v_fma(a, square, v_set(TANH_A[1] * k / scale));
    return v_fma(a, square, v_set(TANH_A[0] / scale));
}

INLINE vec v_tanh_b(vec x, vec square, real scale)
{
    const real k = scale * scale;
    const vec b = v_fma(square, v_set(TANH_B[2] * k * k), v_set(TANH_B[1] * k));
    return v_fma(b, square, v_set(TANH_B[0])) * x;
}

/* tanh(x), exactly odd; NaN stays NaN. Error over all 2^32 inputs: < 3.04 ulp (at 0.030), without fused multiply-add <
 * 3.51 (at 0.060). */
INLINE vec v_tanh(vec x)
{
    const vec square = x * x;
    const vec a = v_tanh_a(square, 1), b = v_tanh_b(x, square, 1);
    const vec y = (a + a) * b / v_fma(a, a, b * b);
    return v_select((ivec)(square > TANH_LIMIT), v_copysign(v_set(1), x), y);
}

/* 1 / (1 + exp(-x)): w = (1 - tanh|x/2|) / 2 = (a-|b|)^2 / 2((a-|b|)^2 + 2a|b|), then w for
 * x < 0, else 1 - w; NaN stays NaN. Absolute error over all 2^32 inputs < 9e-8 (at 1.27), with or without fused
 * multiply-add; below -16.7 it is 0, above 16.7 it is 1. */
INLINE vec v_sigmoid(vec x)
{
    const real half = (real)0.5;
    const vec square = x * x;
    const vec a = v_tanh_a(square, half), b = v_tanh_b(v_abs(x), square, half);
    const vec ab = a * b, rest = a - b, rest2 = rest * rest, sum = rest2 + (ab + ab);
    const ivec far = (ivec)(square > 4 * TANH_LIMIT);
    const vec w = (vec)(~far & (ivec)(rest2 / (sum + sum)));        /* with v_select GCC 12 would divide twice */
    return v_select((ivec)(x < 0), w, 1 - w);
}

#else

/* 1 / (1 + exp(-x)); relative error < 3 ulp for all x down to EXP_MIN, below it the value there; NaN stays NaN. */
INLINE vec v_sigmoid(vec x)
{
    return 1 / (1 + v_exp(-x));
}

/* tanh(x) = e / (e + 2) with e = expm1(2|x|), then the sign; error < 3 ulp; NaN stays NaN. */
INLINE vec v_tanh(vec x)
{
    vec scale;
    const vec ax = v_at_most(v_abs(x), TANH_MAX);
    const vec p = v_expm1_part(ax + ax, &scale);
    const vec e = v_fma(p, scale, scale - 1);
    return v_copysign(e / (e + 2), x);
}

#endif

#endif

/* Shared by the drivers: the table under test, random sizes, and buffers of exactly the requested size, so that a
 * sanitizer or memcheck detects the first element that is read or written beyond one. */
#ifndef NATIVE_CASES_H
#define NATIVE_CASES_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

static const rnn_kernels *table;             /* under test                                   */
static ptrdiff_t item;                       /* bytes of an element                          */
static ptrdiff_t lanes;                      /* elements of a vector                         */
static uint64_t random_state;
static char current[200];                    /* the current case, for the report of a crash   */
static int failures;

/* ---- random numbers: splitmix64 (Steele, Lea & Flood 2014) ------------------------------------------------------- */

static inline uint64_t random_bits(void)
{
    uint64_t x = random_state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* 0 .. n-1 */
static inline ptrdiff_t below(ptrdiff_t n) { return (ptrdiff_t)(random_bits() % (uint64_t)n); }

/* -1 .. 1 */
static inline double number(void) { return (double)(random_bits() >> 11) / 4503599627370496.0 - 1; }

/* A size at a multiple of `step` or next to it, at least `least` and at most about `most`. */
static inline ptrdiff_t size_at(ptrdiff_t step, ptrdiff_t least, ptrdiff_t most)
{
    const ptrdiff_t size = below(most / step + 1) * step + below(3) - 1;
    return size < least ? least : size;
}

/* ---- buffers ----------------------------------------------------------------------------------------------------- */

enum { BUFFERS = 64 };
static void *buffers[BUFFERS];
static int buffer_count;

static inline void *buffer(size_t bytes)
{
    void *p = malloc(bytes);
    if (!p || buffer_count == BUFFERS) {
        fprintf(stderr, "no memory for a buffer of %zu bytes\n", bytes);
        exit(2);
    }
    return buffers[buffer_count++] = p;
}

static inline void free_buffers(void)
{
    while (buffer_count)
        free(buffers[--buffer_count]);
}

static inline double element(const void *a, ptrdiff_t i)
{
    return item == 8 ? ((const double *)a)[i] : (double)((const float *)a)[i];
}

static inline void set_element(void *a, ptrdiff_t i, double x)
{
    if (item == 8)
        ((double *)a)[i] = x;
    else
        ((float *)a)[i] = (float)x;
}

/* (n,) numbers of -scale .. scale */
static inline void *scaled(ptrdiff_t n, double scale)
{
    void *a = buffer((size_t)(n * item));
    for (ptrdiff_t i = 0; i < n; i++)
        set_element(a, i, scale * number());
    return a;
}

static inline void *filled(ptrdiff_t n) { return scaled(n, 1); }

/* (n,) NaN: elements that a kernel does not write stay NaN, and what it reads too early becomes NaN */
static inline void *unwritten(ptrdiff_t n)
{
    void *a = buffer((size_t)(n * item));
    for (ptrdiff_t i = 0; i < n; i++)
        set_element(a, i, (double)NAN);
    return a;
}

/* (n,) of low .. high-1 */
static inline int64_t *integers(ptrdiff_t n, ptrdiff_t low, ptrdiff_t high)
{
    int64_t *a = buffer((size_t)n * sizeof *a);
    for (ptrdiff_t i = 0; i < n; i++)
        a[i] = low + below(high - low);
    return a;
}

/* the number of elements of `rows` rows of n elements, `stride` apart, with nothing after the last one */
static inline ptrdiff_t extent(ptrdiff_t rows, ptrdiff_t n, ptrdiff_t stride)
{
    return rows ? (rows - 1) * stride + n : 0;
}

/* ---- checks ------------------------------------------------------------------------------------------------------ */

static inline void fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", current, what);
    failures++;
}

/* Check that every element of the rows was written, with a number, and none between the rows. */
static inline void check_rows(const char *what, const void *a, ptrdiff_t rows, ptrdiff_t n, ptrdiff_t stride)
{
    for (ptrdiff_t i = 0; i < extent(rows, n, stride); i++)
        if ((i % stride < n) == (element(a, i) != element(a, i))) {
            fail(what);
            return;
        }
}

static inline void check(const char *what, const void *a, ptrdiff_t n) { check_rows(what, a, 1, n, n ? n : 1); }

/* of bits: FNV-1a */
static inline uint64_t hash(uint64_t h, const void *a, ptrdiff_t n)
{
    const unsigned char *bytes = a;
    for (ptrdiff_t i = 0; i < n * item; i++)
        h = (h ^ bytes[i]) * 0x100000001b3u;
    return h;
}

/* ---- the report of a crash --------------------------------------------------------------------------------------- */

extern void __sanitizer_set_death_callback(void (*)(void)) __attribute__((weak));

static void name_case(void) { fprintf(stderr, "in the case: %s\n", current); }

static inline void name_case_on_death(void)
{
    if (__sanitizer_set_death_callback)
        __sanitizer_set_death_callback(name_case);
}

#endif

/* Functions without state, linked into every extension: clocks, counters shared by threads, denormals. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <time.h>

#include "kernels.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

int64_t rnn_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

double rnn_seconds(void) { return (double)rnn_now() * 1e-9; }

void rnn_announce(int64_t *counter, int64_t value) { __atomic_store_n(counter, value, __ATOMIC_RELEASE); }

int64_t rnn_seen(const int64_t *counter) { return __atomic_load_n(counter, __ATOMIC_ACQUIRE); }

int64_t rnn_next(int64_t *counter) { return __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED); }

int rnn_take(int *taken) { return !__atomic_exchange_n(taken, 1, __ATOMIC_ACQUIRE); }

void rnn_give(int *taken) { __atomic_store_n(taken, 0, __ATOMIC_RELEASE); }

/* Denormals are flushed to zero inside a call: decaying states reach them, and they are 18-27x slower. The caller's
 * mode is restored afterwards. */
uint64_t rnn_flush_denormals(void)
{
#if defined(__x86_64__)
    const unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040);               /* FTZ | DAZ */
    return mode;
#elif defined(__aarch64__)
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    __asm__ volatile("msr fpcr, %0" ::"r"(mode | (UINT64_C(1) << 24)));
    return mode;
#else
    return 0;
#endif
}

void rnn_restore_denormals(uint64_t mode)
{
#if defined(__x86_64__)
    _mm_setcsr((unsigned)mode);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" ::"r"(mode));
#else
    (void)mode;
#endif
}

int rnn_cpus(void)
{
#if defined(__linux__)
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
#else
    return 1 << 16;                          /* unknown */
#endif
}

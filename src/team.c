/* The thread team: the only place that knows threads. Workers are made when first needed, spin for a moment after a task and then park.
 * A second caller at the same time, or one after fork, finds the team taken or gone and is served serially or by a new team: same bits. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#include "kernels.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

enum { MOST = 64, SPIN_NS = 50000 };

typedef struct {
    _Alignas(128) _Atomic uint64_t posted;   /* number of the newest task for this worker */
    _Atomic uint64_t done;                   /* number of the last one it finished        */
    _Atomic int parked;
    pthread_mutex_t lock;
    pthread_cond_t wake;
} worker;

static struct {
    _Atomic int taken;
    int started;                             /* workers alive: parts 1 .. started */
    void (*part)(void *, int, int);
    void *arg;
    int parts;
    worker workers[MOST];
} team;

static inline void pause_cpu(void)
{
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Denormals count as zero inside a call (decaying states reach them, and they are 18-27x slower); the caller's mode comes back after it. */
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

static void run_part(void (*part)(void *, int, int), void *arg, int p, int parts)
{
    const uint64_t mode = rnn_flush_denormals();
    part(arg, p, parts);
    rnn_restore_denormals(mode);
}

static uint64_t await_task(worker *w, uint64_t seen)
{
    for (int64_t end = now_ns() + SPIN_NS; now_ns() < end;)
        for (int i = 0; i < 64; i++) {
            const uint64_t posted = atomic_load_explicit(&w->posted, memory_order_acquire);
            if (posted != seen)
                return posted;
            pause_cpu();
        }
    pthread_mutex_lock(&w->lock);
    atomic_store(&w->parked, 1);
    while (atomic_load(&w->posted) == seen)
        pthread_cond_wait(&w->wake, &w->lock);
    atomic_store(&w->parked, 0);
    pthread_mutex_unlock(&w->lock);
    return atomic_load(&w->posted);
}

static void *work(void *arg)
{
    const int p = (int)(intptr_t)arg;
    worker *w = &team.workers[p];
    for (uint64_t seen = 0;;) {
        seen = await_task(w, seen);
        run_part(team.part, team.arg, p, team.parts);
        atomic_store_explicit(&w->done, seen, memory_order_release);
    }
    return NULL;
}

/* In the child of a fork no worker is alive: it starts with an empty team. */
static void forget_team(void)
{
    team.started = 0;
    atomic_store(&team.taken, 0);
}

/* workers 1 .. wanted, as far as the system gives them; returns how many there are */
static int start_workers(int wanted)
{
    static int registered;
    if (!registered) {
        pthread_atfork(NULL, NULL, forget_team);
        registered = 1;
    }
    while (team.started < wanted && team.started + 1 < MOST) {
        worker *w = &team.workers[team.started + 1];
        pthread_attr_t attributes;
        pthread_t thread;
        atomic_store(&w->posted, 0);
        atomic_store(&w->done, 0);
        atomic_store(&w->parked, 0);
        pthread_mutex_init(&w->lock, NULL);
        pthread_cond_init(&w->wake, NULL);
        pthread_attr_init(&attributes);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        const int failed = pthread_create(&thread, &attributes, work, (void *)(intptr_t)(team.started + 1));
        pthread_attr_destroy(&attributes);
        if (failed)
            break;
        team.started++;
    }
    return team.started;
}

static void post(worker *w)
{
    atomic_fetch_add(&w->posted, 1);
    if (atomic_load(&w->parked)) {
        pthread_mutex_lock(&w->lock);
        pthread_cond_signal(&w->wake);
        pthread_mutex_unlock(&w->lock);
    }
}

void rnn_team_run(void (*part)(void *arg, int part, int parts), void *arg, int parts)
{
    int helpers = 0, expected = 0;
    const int mine = parts > 1 && atomic_compare_exchange_strong(&team.taken, &expected, 1);
    if (mine) {
        helpers = start_workers(parts - 1);
        if (helpers > parts - 1)
            helpers = parts - 1;
        team.part = part;
        team.arg = arg;
        team.parts = parts;
        for (int p = 1; p <= helpers; p++)
            post(&team.workers[p]);
    }
    run_part(part, arg, 0, parts);
    for (int p = helpers + 1; p < parts; p++)
        run_part(part, arg, p, parts);
    for (int p = 1; p <= helpers; p++)
        for (unsigned spins = 0; atomic_load_explicit(&team.workers[p].done, memory_order_acquire) !=
                                 atomic_load_explicit(&team.workers[p].posted, memory_order_relaxed);
             spins++) {
            pause_cpu();
            if (spins > 100000) {            /* the other core is taken by somebody: let it have this one too */
                struct timespec moment = {0, 20000};
                nanosleep(&moment, NULL);
            }
        }
    if (mine)
        atomic_store(&team.taken, 0);
}

/* The thread team: the only place that knows threads. Workers are made when first needed, spin for a moment after a task and then park.
 * The parts of a task are independent, or (together) wait for each other at meetings: a counter of each part, on a cache line of its own.
 * A second caller at the same time, or one after fork, finds the team taken or gone and is served serially or by a new team: same bits. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#include "kernels.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

enum { MOST = 64, SPIN_NS = 50000, SPINS = 4000 };     /* so many pauses are about as long */
enum { PAUSE_NS = 100000000 };                         /* after a bad experience parts don't wait for each other so long */
#define DEAR_MEETING 1e-6                              /* seconds; between two free cores it is a tenth of that */

typedef struct {
    _Alignas(128) int64_t posted;            /* number of the newest task for this worker */
    int64_t done;                            /* number of the last one it finished        */
    _Atomic int parked;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    _Alignas(128) int64_t met;               /* meetings this part came to in this task; others read it by rnn_await */
} worker;

static struct {
    _Atomic int taken;
    int started;                             /* workers alive: parts 1 .. started */
    void (*part)(void *, int, int);
    void *arg;
    int parts;
    worker workers[MOST];                    /* the caller is part 0 */
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

void rnn_announce(int64_t *counter, int64_t value) { __atomic_store_n(counter, value, __ATOMIC_RELEASE); }

void rnn_await(const int64_t *counter, int64_t value)
{
    for (unsigned spins = 0; __atomic_load_n(counter, __ATOMIC_ACQUIRE) < value; spins++)
        if (spins < SPINS) {
            pause_cpu();
        } else {                             /* the other core is taken by somebody: let it have this one too */
            struct timespec moment = {0, 20000};
            nanosleep(&moment, NULL);
        }
}

int64_t rnn_seen(const int64_t *counter) { return __atomic_load_n(counter, __ATOMIC_ACQUIRE); }

int rnn_take(int *taken) { return !__atomic_exchange_n(taken, 1, __ATOMIC_ACQUIRE); }

void rnn_give(int *taken) { __atomic_store_n(taken, 0, __ATOMIC_RELEASE); }

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

static int64_t await_task(worker *w, int64_t seen)
{
    for (int64_t end = now_ns() + SPIN_NS; now_ns() < end;)
        for (int i = 0; i < 64; i++) {
            const int64_t posted = __atomic_load_n(&w->posted, __ATOMIC_ACQUIRE);
            if (posted != seen)
                return posted;
            pause_cpu();
        }
    pthread_mutex_lock(&w->lock);
    atomic_store(&w->parked, 1);
    while (__atomic_load_n(&w->posted, __ATOMIC_SEQ_CST) == seen)
        pthread_cond_wait(&w->wake, &w->lock);
    atomic_store(&w->parked, 0);
    pthread_mutex_unlock(&w->lock);
    return __atomic_load_n(&w->posted, __ATOMIC_SEQ_CST);
}

static void *work(void *arg)
{
    const int p = (int)(intptr_t)arg;
    worker *w = &team.workers[p];
    for (int64_t seen = 0;;) {
        seen = await_task(w, seen);
        run_part(team.part, team.arg, p, team.parts);
        rnn_announce(&w->done, seen);
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
    if (team.started >= wanted)
        return team.started;
    static int registered;
    sigset_t all, before;
    if (!registered)
        registered = pthread_atfork(NULL, NULL, forget_team) == 0;
    if (!registered)
        return 0;                            /* a child of a fork would wait for workers that it has not got */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);      /* workers inherit it: signals are for the program's own threads */
    while (team.started < wanted && team.started + 1 < MOST) {
        worker *w = &team.workers[team.started + 1];
        pthread_attr_t attributes;
        pthread_t thread;
        w->posted = w->done = 0;
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
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return team.started;
}

static void post(worker *w)
{
    __atomic_fetch_add(&w->posted, 1, __ATOMIC_SEQ_CST);
    if (atomic_load(&w->parked)) {
        pthread_mutex_lock(&w->lock);
        pthread_cond_signal(&w->wake);
        pthread_mutex_unlock(&w->lock);
    }
}

void rnn_team_meet(int part, int parts)
{
    const int64_t mine = team.workers[part].met + 1;
    rnn_announce(&team.workers[part].met, mine);
    for (int p = 0; p < parts; p++)
        if (p != part)
            rnn_await(&team.workers[p].met, mine);
}

void rnn_team_run(void (*part)(void *arg, int part, int parts), void *arg, int parts, int together)
{
    int helpers = 0, expected = 0;
    const int mine = parts > 1 && atomic_compare_exchange_strong(&team.taken, &expected, 1);
    if (mine) {
        helpers = start_workers(parts - 1);
        if (helpers > parts - 1)
            helpers = parts - 1;
    }
    if (together && helpers < parts - 1)
        helpers = 0, parts = 1;
    if (helpers) {
        team.part = part;
        team.arg = arg;
        team.parts = parts;
        for (int p = 0; p <= helpers; p++)
            team.workers[p].met = 0;
        for (int p = 1; p <= helpers; p++)
            post(&team.workers[p]);
    }
    run_part(part, arg, 0, parts);
    for (int p = helpers + 1; p < parts; p++)
        run_part(part, arg, p, parts);
    for (int p = 1; p <= helpers; p++)
        rnn_await(&team.workers[p].done, team.workers[p].posted);
    if (mine)
        atomic_store(&team.taken, 0);
}

/* ---- what a meeting costs on this machine --------------------------------------------------------------------- */

static void meet_often(void *arg, int part, int parts)
{
    double *least = arg;
    enum { BATCHES = 8, MEETINGS = 100 };
    for (int batch = 0; parts > 1 && batch < BATCHES; batch++) {
        const int64_t start = now_ns();
        for (int i = 0; i < MEETINGS; i++)
            rnn_team_meet(part, parts);
        const double seconds = (double)(now_ns() - start) * 1e-9 / MEETINGS;
        if (part == 0 && seconds < *least)
            *least = seconds;
    }
}

/* A second core that is busy with something else makes meetings dear: then they are measured again a while later. */
double rnn_team_meeting(void)
{
    static _Atomic double measured = 1;
    static _Atomic int64_t next;
    const int64_t now = now_ns();
    if (atomic_load(&measured) < DEAR_MEETING || now < atomic_load(&next))
        return atomic_load(&measured);
    double seconds = 1;                      /* stays if there is no second core, or the team is taken */
    rnn_team_run(meet_often, &seconds, 2, 1);
    atomic_store(&measured, seconds);
    atomic_store(&next, now + PAUSE_NS);
    return seconds;
}

/* ---- parts that waited for each other too long --------------------------------------------------------------- */

static _Atomic double alone_until;           /* seconds of the clock                      */
static _Atomic double next_pause;            /* seconds; 0: the first one                 */
static _Atomic int long_waits;               /* in a row                                  */

double rnn_alone_until(void) { return atomic_load(&alone_until); }

/* Callers at the same time may lose each other's count: a pause comes one call later then, or lasts half as long. */
void rnn_note_wait(int too_long, double now, double first_pause)
{
    if (!too_long) {
        if (atomic_load(&long_waits))
            atomic_store(&long_waits, 0);
        if (atomic_load(&next_pause) > 0)
            atomic_store(&next_pause, 0);
        return;
    }
    if (atomic_fetch_add(&long_waits, 1) == 0)
        return;                              /* once may be a thread that had to be woken */
    const double asked = atomic_load(&next_pause), pause = asked > first_pause ? asked : first_pause;
    atomic_store(&long_waits, 0);
    atomic_store(&next_pause, 2 * pause < 1 ? 2 * pause : 1);
    atomic_store(&alone_until, now + pause);
}

int rnn_cpus(void)
{
#if defined(__linux__)
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
#else
    return MOST;
#endif
}

double rnn_seconds(void) { return (double)now_ns() * 1e-9; }

/* The thread team: all use of threads. Workers are started when first needed, spin briefly after each task, then park.
 *
 * A task consists of parts, which are claimed one at a time: by workers as soon as they run, by the caller when its
 * own part is done. So the caller never waits for a worker that has not started. Parts that run together wait for each
 * other at a barrier in each step. They start only if all workers arrive in time, and the caller continues alone from
 * the next step if a worker stops responding. After repeated delays, calls use one thread for a while (split.c).
 *
 * If the team is in use by another call, a call runs serially; in the child of a fork it starts a new team. The
 * results have the same bits in all cases. */
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

enum { MAX_WORKERS = 64 };
enum { SPIN_NS = 50000, SPINS = 4000 };      /* a wait is short up to this; SPINS pauses take about SPIN_NS */
enum { IDLE_SPIN_NS = 200000 };              /* a worker without a task spins for this long, then parks     */
enum { JOIN_NS = 100000 };                   /* parts that run together start within this time, or one computes all */
enum { FORCED_JOIN_NS = 1000000000 };        /* the same where a test needs the workers */
enum { LATE_NS = 1000000 };                  /* a wait longer than this, and than the work, counts as a failure */

typedef struct {
    _Alignas(128) int64_t posted;            /* number of the newest task for this worker */
    _Atomic int parked;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    _Alignas(128) int64_t reached;           /* barriers that this part has reached in this task; others wait for it */
} worker;

static struct {
    _Atomic int taken;
    int started;                             /* running workers: 1 .. started */
    void (*part)(void *, int, int);
    void *arg;
    int together;
    int64_t start;                           /* ns                                                */
    int64_t task;                            /* number of the task                                */
    _Atomic int cpu;                         /* of the caller, or -1                              */
    _Atomic int declined;                    /* whether a worker woke up on the caller's CPU      */
    _Atomic int64_t leave_at;                /* the caller continues alone from this barrier; 0: it does not */
    _Atomic int64_t waited;                  /* ns, in waits that were not short                  */
    int absent;                              /* consecutive tasks whose workers were not all in time */
    _Alignas(128) _Atomic uint64_t claims;   /* task << 16 | parts << 8 | next part to claim      */
    _Alignas(128) int64_t finished;          /* parts finished by workers, in all tasks           */
    _Alignas(128) _Atomic int64_t go;        /* task << 1 | whether all workers were in time      */
    worker workers[MAX_WORKERS];             /* the caller is part 0                              */
} team;

static inline void pause_cpu(void)
{
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* As rnn_await; returns the duration in ns if the wait was not short, else 0. */
static int64_t await_long(const int64_t *counter, int64_t value)
{
    int64_t since = 0;
    for (unsigned spins = 0; __atomic_load_n(counter, __ATOMIC_ACQUIRE) < value; spins++)
        if (spins < SPINS) {
            pause_cpu();
        } else {                             /* another program may be using the core: yield this one */
            struct timespec moment = {0, 20000};
            if (!since)
                since = rnn_now() - SPIN_NS;
            nanosleep(&moment, NULL);
        }
    if (!since)
        return 0;
    since = rnn_now() - since;
    atomic_fetch_add(&team.waited, since);
    return since;
}

void rnn_await(const int64_t *counter, int64_t value) { await_long(counter, value); }

static void run_part(void (*part)(void *, int, int), void *arg, int p, int parts)
{
    const uint64_t mode = rnn_flush_denormals();
    part(arg, p, parts);
    rnn_restore_denormals(mode);
}

/* ---- workers -------------------------------------------------------------------------------------------------- */

static int current_cpu(void)
{
#if defined(__linux__)
    return sched_getcpu();
#else
    return -1;
#endif
}

static void park(worker *w, int64_t seen)
{
    pthread_mutex_lock(&w->lock);
    atomic_store(&w->parked, 1);
    while (__atomic_load_n(&w->posted, __ATOMIC_SEQ_CST) == seen)
        pthread_cond_wait(&w->wake, &w->lock);
    atomic_store(&w->parked, 0);
    pthread_mutex_unlock(&w->lock);
}

static int64_t await_task(worker *w, int64_t seen)
{
    for (int64_t end = rnn_now() + IDLE_SPIN_NS; rnn_now() < end;)
        for (int i = 0; i < 64; i++) {
            const int64_t posted = __atomic_load_n(&w->posted, __ATOMIC_ACQUIRE);
            if (posted != seen)
                return posted;
            pause_cpu();
        }
    park(w, seen);
    return __atomic_load_n(&w->posted, __ATOMIC_SEQ_CST);
}

/* Claim the next part of the current task, also returning its task number and number of parts; 0: none is left. */
static int claim(int64_t *task, int *parts)
{
    uint64_t c = atomic_load(&team.claims);
    while ((c & 255) < (c >> 8 & 255))
        if (atomic_compare_exchange_weak(&team.claims, &c, c + 1)) {
            *task = (int64_t)(c >> 16);
            *parts = (int)(c >> 8 & 255);
            return (int)(c & 255);
        }
    return 0;
}

/* Parts that run together: whether all workers were in time. The caller is running and about to publish it. */
static int all_in_time(int64_t task)
{
    int64_t go;
    for (unsigned spins = 0; (go = atomic_load(&team.go)) >> 1 != task; spins++)
        if (spins < SPINS)
            pause_cpu();
        else
            sched_yield();
    return (int)(go & 1);
}

static void *work(void *arg)
{
    worker *w = &team.workers[(int)(intptr_t)arg];
    for (int64_t seen = 0;;) {
        int64_t task;
        int parts, p;
        seen = await_task(w, seen);
        const int cpu = current_cpu();
        if (cpu >= 0 && cpu == atomic_load_explicit(&team.cpu, memory_order_relaxed)) {
            atomic_store(&team.declined, 1); /* it would only compete with the caller */
            park(w, seen);
            continue;
        }
        while ((p = claim(&task, &parts)) > 0) {
            if (!team.together || all_in_time(task))
                run_part(team.part, team.arg, p, parts);
            __atomic_fetch_add(&team.finished, 1, __ATOMIC_SEQ_CST);
        }
    }
    return NULL;
}

/* The child of a fork has no workers: it starts with an empty team. */
static void forget_team(void)
{
    team.started = 0;
    atomic_store(&team.taken, 0);
}

/* Start workers 1 .. wanted, as many as the system allows; returns how many are running. */
static int start_workers(int wanted)
{
    if (team.started >= wanted)
        return team.started;
    static int registered;
    sigset_t all, before;
    if (!registered)
        registered = pthread_atfork(NULL, NULL, forget_team) == 0;
    if (!registered)
        return 0;                            /* the child of a fork would wait for workers that do not exist */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);      /* inherited by workers: signals go to other threads */
    while (team.started < wanted && team.started + 1 < MAX_WORKERS) {
        worker *w = &team.workers[team.started + 1];
        pthread_attr_t attributes;
        pthread_t thread;
        w->posted = 0;
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

/* ---- tasks ---------------------------------------------------------------------------------------------------- */

void rnn_team_barrier(int part, int parts)
{
    const int64_t mine = team.workers[part].reached + 1;
    int64_t waited = 0;
    rnn_announce(&team.workers[part].reached, mine);
    for (int p = 0; p < parts; p++)
        if (p != part)
            waited += await_long(&team.workers[p].reached, mine);
    if (!waited || part != 0 || atomic_load(&team.leave_at))
        return;
    const int64_t each = (rnn_now() - team.start - waited) / mine;     /* ns of a step, without the wait      */
    if (waited > LATE_NS + 2 * each)
        atomic_store(&team.leave_at, mine + 1);                        /* all parts see it at the next barrier */
}

int rnn_team_leaves(int part)
{
    const int64_t at = atomic_load(&team.leave_at);
    return at && team.workers[part].reached >= at;
}

static _Atomic int64_t forced_leave;         /* for tests; 0: the caller leaves only after a delay */

void rnn_team_force_leave(int64_t barrier) { atomic_store(&forced_leave, barrier); }

static void post_task(void (*part)(void *, int, int), void *arg, int parts, int together, int helpers)
{
    team.part = part;
    team.arg = arg;
    team.together = together;
    team.start = rnn_now();
    team.task++;
    const int64_t leave = atomic_load(&forced_leave);
    atomic_store_explicit(&team.cpu, leave ? -1 : current_cpu(), memory_order_relaxed);
    atomic_store(&team.declined, 0);
    atomic_store(&team.leave_at, leave);
    atomic_store(&team.waited, 0);
    for (int p = 0; p < parts; p++)
        team.workers[p].reached = 0;
    atomic_store(&team.claims, (uint64_t)team.task << 16 | (uint64_t)parts << 8 | 1);
    for (int p = 1; p <= helpers; p++)
        post(&team.workers[p]);
}

/* Run part 0 with the others, or everything alone if not all workers are in time; returns how many were. */
static int run_together(int parts, int *late)
{
    const uint64_t all = (uint64_t)team.task << 16 | (uint64_t)parts << 8 | (uint64_t)parts;
    const int64_t join = atomic_load(&forced_leave) ? FORCED_JOIN_NS : JOIN_NS;
    while (atomic_load(&team.claims) != all && rnn_now() - team.start < join)
        pause_cpu();
    const uint64_t claimed = atomic_exchange(&team.claims, all);
    *late = claimed != all;
    atomic_store(&team.go, team.task << 1 | !*late);
    run_part(team.part, team.arg, 0, *late ? 1 : parts);
    return (int)(claimed & 255) - 1;
}

/* Run part 0, then the parts not yet claimed; returns how many parts the workers have claimed. */
static int run_claimed(int parts)
{
    int theirs = parts - 1, p;
    int64_t task;
    run_part(team.part, team.arg, 0, parts);
    while ((p = claim(&task, &parts)) > 0) {
        run_part(team.part, team.arg, p, parts);
        theirs--;
    }
    return theirs;
}

static void run_with(int helpers, void (*part)(void *, int, int), void *arg, int parts, int together)
{
    const int64_t finished = __atomic_load_n(&team.finished, __ATOMIC_SEQ_CST);
    int late = 0;
    post_task(part, arg, parts, together, helpers);
    const int theirs = together ? run_together(parts, &late) : run_claimed(parts);
    await_long(&team.finished, finished + theirs);
    const int64_t waited = atomic_load(&team.waited), took = rnn_now() - team.start;
    if (together)
        team.absent = late ? team.absent + 1 : 0;      /* once may be the wake-up of a thread */
    const int left = atomic_load(&team.leave_at) && !atomic_load(&forced_leave);
    if (team.absent > 1 || (waited > LATE_NS && waited > took / 3) || left || atomic_load(&team.declined))
        rnn_split_failed();
}

void rnn_team_run(void (*part)(void *arg, int part, int parts), void *arg, int parts, int together)
{
    int helpers = 0, expected = 0;
    const int divided = parts > 1 && (!rnn_split_paused() || atomic_load(&forced_leave));
    const int mine = divided && atomic_compare_exchange_strong(&team.taken, &expected, 1);
    if (mine)
        helpers = start_workers(parts - 1);
    if (helpers > parts - 1)
        helpers = parts - 1;
    if (together && helpers < parts - 1)
        helpers = 0, parts = 1;
    if (helpers)
        run_with(helpers, part, arg, parts, together);
    else
        for (int p = 0; p < parts; p++)
            run_part(part, arg, p, parts);
    if (mine)
        atomic_store(&team.taken, 0);
}

/* ---- for the other extensions, which do not contain this file ---------------------------------------------------- */

const rnn_process rnn_own_process = {
    rnn_team_run, rnn_team_barrier, rnn_team_leaves, rnn_team_barrier_seconds, rnn_split_paused, rnn_await,
};

/* Whether work is divided among threads at all: the cost of a barrier on this machine, and the back-off while other
 * programs use the other cores. The sizes above which a division pays are in threads.pxd. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels.h"

enum { FAILURE_WINDOW_NS = 50000000 };       /* after two failures within this time calls use one thread, */
enum { BACKOFF_NS = 5000000 };               /* for this long, */
enum { MAX_BACKOFF_NS = 1000000000 };        /* and four times as long, up to this, each time it happens again soon */
enum { PROBE_NS = 20000000 };                /* during the back-off: interval between checks for a free core */
enum { REMEASURE_NS = 100000000 };           /* interval between measurements of a slow barrier */
#define SLOW_BARRIER 1e-6                    /* seconds; a barrier of two free cores takes a tenth of that */

/* ---- back-off ------------------------------------------------------------------------------------------------- */

static _Atomic int64_t paused_until;         /* ns                                                  */
static _Atomic int64_t next_probe;           /* ns                                                  */
static _Atomic int free_probes;              /* consecutive probes that found a free core           */
static _Atomic int64_t failures;             /* so far                                              */
static struct {                              /* written only by the call that has taken the team    */
    int64_t last_failure;                    /* ns                                                  */
    int64_t backoff;                         /* ns, of the next back-off                            */
    int64_t ended;                           /* ns, end of the last back-off                        */
} history = {-FAILURE_WINDOW_NS, BACKOFF_NS, 0};

int64_t rnn_split_failures(void) { return atomic_load_explicit(&failures, memory_order_relaxed); }

/* Whether a core is free, by the number of runnable threads of the machine, including this one, which Linux reports. */
static int is_core_free(void)
{
#if defined(__linux__)
    char text[80];
    const int file = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0;
    const ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    text[length > 0 ? length : 0] = 0;
    const char *slash = strchr(text, '/');                      /* "0.20 0.18 0.12 1/80 11206" */
    while (slash && slash > text && slash[-1] != ' ')
        slash--;
    return slash && atol(slash) > 0 && atol(slash) < sysconf(_SC_NPROCESSORS_ONLN);
#else
    return 0;
#endif
}

/* Whether two consecutive probes found a free core. */
static int probe_cores(int64_t now)
{
    int64_t probe = atomic_load_explicit(&next_probe, memory_order_relaxed);
    if (now < probe || !atomic_compare_exchange_strong(&next_probe, &probe, now + PROBE_NS))
        return 0;
    if (is_core_free())
        return atomic_fetch_add(&free_probes, 1) > 0;
    atomic_store(&free_probes, 0);
    return 0;
}

int64_t rnn_split_paused_ns(void)
{
    int64_t until = atomic_load_explicit(&paused_until, memory_order_relaxed);
    if (!until)
        return 0;
    const int64_t now = rnn_now();
    if (now < until && !probe_cores(now))
        return until - now;
    atomic_compare_exchange_strong(&paused_until, &until, 0);        /* unless there was another failure */
    return 0;
}

int rnn_split_paused(void) { return rnn_split_paused_ns() > 0; }

/* A worker was late: another program uses the other cores. A single failure may be chance. */
void rnn_split_failed(void)
{
    const int64_t now = rnn_now(), since_failure = now - history.last_failure, since_backoff = now - history.ended;
    atomic_fetch_add_explicit(&failures, 1, memory_order_relaxed);
    history.last_failure = now;
    if (since_failure > FAILURE_WINDOW_NS)
        return;
    if (since_backoff > 4 * history.backoff)
        history.backoff = BACKOFF_NS;
    else if (since_backoff < history.backoff)
        history.backoff = 4 * history.backoff < MAX_BACKOFF_NS ? 4 * history.backoff : MAX_BACKOFF_NS;
    history.ended = now + history.backoff;
    history.last_failure = history.ended;    /* so that a single failure soon after it starts the next back-off */
    atomic_store_explicit(&next_probe, now + PROBE_NS, memory_order_relaxed);
    atomic_store_explicit(&free_probes, 0, memory_order_relaxed);
    atomic_store_explicit(&paused_until, history.ended, memory_order_relaxed);
}

/* ---- the cost of a barrier on this machine -------------------------------------------------------------------- */

static void time_barriers(void *arg, int part, int parts)
{
    double *least = arg;
    enum { BATCHES = 8, BARRIERS = 100 };
    for (int batch = 0; parts > 1 && batch < BATCHES; batch++) {
        const int64_t start = rnn_now();
        for (int i = 0; i < BARRIERS; i++) {
            rnn_team_barrier(part, parts);
            if (rnn_team_leaves(part))
                return;
        }
        const double seconds = (double)(rnn_now() - start) * 1e-9 / BARRIERS;
        if (part == 0 && seconds < *least)
            *least = seconds;
    }
}

/* A barrier is slow if the second core is in use by another program; then it is measured again later. */
double rnn_team_barrier_seconds(void)
{
    static _Atomic double measured = 1;
    static _Atomic int64_t next;
    const int64_t now = rnn_now();
    if (atomic_load(&measured) < SLOW_BARRIER || now < atomic_load(&next))
        return atomic_load(&measured);
    double seconds = 1;                      /* unchanged without a second core, or if the team is in use */
    rnn_team_run(time_barriers, &seconds, 2, 1);
    atomic_store(&measured, seconds);
    atomic_store(&next, now + REMEASURE_NS);
    return seconds;
}

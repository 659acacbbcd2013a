/* When work is divided among threads at all: what a meeting of them costs here, and for how long calls go alone where others are found on
 * the other cores. The sizes from which it pays are in threads.pxd. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels.h"

enum { SOON_NS = 50000000 };                           /* two failures within this time, and calls go alone ...                 */
enum { ALONE_NS = 5000000, MOST_ALONE_NS = 1000000000 };        /* ... for so long; four times as long if it happens again soon */
enum { LOOK_NS = 20000000 };                           /* meanwhile: how often to look whether the other cores are free again */
enum { MEASURE_NS = 100000000 };                       /* a dear meeting is measured again after so long                        */
#define DEAR_MEETING 1e-6                              /* seconds; between two free cores it is a tenth of that                 */

/* ---- calls that go alone -------------------------------------------------------------------------------------- */

static _Atomic int64_t alone_until;          /* ns                                        */
static _Atomic int64_t next_look;            /* ns                                        */
static _Atomic int free_looks;               /* in a row that found a core free           */
static _Atomic int64_t failures;             /* so far                                    */
static struct {                              /* of who has taken the team                 */
    int64_t last;                            /* failure                                   */
    int64_t pause;                           /* ns that calls go alone, next time         */
    int64_t ended;                           /* when they stopped going alone             */
} failed = {-SOON_NS, ALONE_NS, 0};

int64_t rnn_split_failures(void) { return atomic_load_explicit(&failures, memory_order_relaxed); }

/* Whether a core is free: Linux tells how many threads of the machine are running or would like to, this one among them. */
static int a_core_is_free(void)
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

/* Whether a core was free at two looks in a row. */
static int cores_are_free(int64_t now)
{
    int64_t look = atomic_load_explicit(&next_look, memory_order_relaxed);
    if (now < look || !atomic_compare_exchange_strong(&next_look, &look, now + LOOK_NS))
        return 0;
    return a_core_is_free() ? atomic_fetch_add(&free_looks, 1) > 0 : (atomic_store(&free_looks, 0), 0);
}

int64_t rnn_split_alone_ns(void)
{
    int64_t until = atomic_load_explicit(&alone_until, memory_order_relaxed);
    if (!until)
        return 0;
    const int64_t now = rnn_now();
    if (now < until && !cores_are_free(now))
        return until - now;
    atomic_compare_exchange_strong(&alone_until, &until, 0);        /* unless it failed again meanwhile */
    return 0;
}

int rnn_split_alone(void) { return rnn_split_alone_ns() > 0; }

/* A worker made the caller wait, or did not come: somebody else's work is on the other cores. Once may be chance. */
void rnn_split_failed(void)
{
    const int64_t now = rnn_now(), since = now - failed.last, peace = now - failed.ended;
    atomic_fetch_add_explicit(&failures, 1, memory_order_relaxed);
    failed.last = now;
    if (since > SOON_NS)
        return;
    if (peace > 4 * failed.pause)
        failed.pause = ALONE_NS;
    else if (peace < failed.pause)
        failed.pause = 4 * failed.pause < MOST_ALONE_NS ? 4 * failed.pause : MOST_ALONE_NS;
    failed.last = failed.ended = now + failed.pause;   /* then once is enough for a while */
    atomic_store_explicit(&next_look, now + LOOK_NS, memory_order_relaxed);
    atomic_store_explicit(&free_looks, 0, memory_order_relaxed);
    atomic_store_explicit(&alone_until, failed.ended, memory_order_relaxed);
}

/* ---- what a meeting costs on this machine --------------------------------------------------------------------- */

static void meet_often(void *arg, int part, int parts)
{
    double *least = arg;
    enum { BATCHES = 8, MEETINGS = 100 };
    for (int batch = 0; parts > 1 && batch < BATCHES; batch++) {
        const int64_t start = rnn_now();
        for (int i = 0; i < MEETINGS; i++) {
            rnn_team_meet(part, parts);
            if (rnn_team_leaves(part))
                return;
        }
        const double seconds = (double)(rnn_now() - start) * 1e-9 / MEETINGS;
        if (part == 0 && seconds < *least)
            *least = seconds;
    }
}

/* A second core that is busy with something else makes meetings dear: then they are measured again a while later. */
double rnn_team_meeting(void)
{
    static _Atomic double measured = 1;
    static _Atomic int64_t next;
    const int64_t now = rnn_now();
    if (atomic_load(&measured) < DEAR_MEETING || now < atomic_load(&next))
        return atomic_load(&measured);
    double seconds = 1;                      /* stays if there is no second core, or the team is taken */
    rnn_team_run(meet_often, &seconds, 2, 1);
    atomic_store(&measured, seconds);
    atomic_store(&next, now + MEASURE_NS);
    return seconds;
}

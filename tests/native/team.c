/* The thread team under concurrent use of all kinds: several callers, parts that synchronise, pipelines, a lock, steps
 * with divided units, the cost model's memory, and forks. Meant for ThreadSanitizer; works under every other tool too.
 *
 *   team [rounds] [fork] */
#include <pthread.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cases.h"
#include "steps.h"

enum { CALLERS = 4, PARTS_MOST = 4, MEETINGS = 20, ITEMS = 257 };

static long rounds = 50;
static _Atomic int wrong;

static void expect(int good, const char *what)
{
    if (!good) {
        fprintf(stderr, "team: %s\n", what);
        wrong = 1;
    }
}

/* ---- parts that do not wait -------------------------------------------------------------------------------------- */

static void add_items(void *arg, int part, int parts)
{
    int64_t *items = arg;
    for (int i = ITEMS * part / parts; i < ITEMS * (part + 1) / parts; i++)
        items[i] += i;
}

static void run_independent(void)
{
    int64_t items[ITEMS] = {0};
    for (int n = 1; n <= 2 * PARTS_MOST; n++)
        rnn_team_run(add_items, items, n % (PARTS_MOST + 1) + 1, 0);
    for (int i = 0; i < ITEMS; i++)
        expect(items[i] == 2 * PARTS_MOST * i, "an item was computed more or less than once");
}

/* ---- parts that synchronise: each reads after a meeting what the others wrote before it -------------------------- */

typedef struct {
    int64_t written[PARTS_MOST][MEETINGS];
    int64_t sums[PARTS_MOST];
} meeting_job;

static void meet(void *arg, int part, int parts)
{
    meeting_job *job = arg;
    job->sums[part] = 0;
    for (int i = 0; i < MEETINGS; i++) {
        job->written[part][i] = i + part;
        if (parts > 1)
            rnn_team_barrier(part, parts);
        for (int p = 0; p < parts; p++)
            job->sums[part] += job->written[p][i] - p;
    }
    job->sums[part] /= parts;
}

static void run_meetings(void)
{
    meeting_job job;
    for (int parts = 1; parts <= PARTS_MOST; parts++) {
        job.sums[0] = -1;
        rnn_team_run(meet, &job, parts, 1);
        expect(job.sums[0] == MEETINGS * (MEETINGS - 1) / 2, "a part did not see what another wrote before a meeting");
    }
}

/* ---- parts that synchronise, one of them delayed: the caller continues alone from a later meeting on ------------- */

typedef struct {
    int64_t items[ITEMS];
    int left;
} leaving_job;

static void rest(long ns)
{
    nanosleep(&(struct timespec){.tv_nsec = ns}, NULL);
}

static void leave(void *arg, int part, int parts)
{
    leaving_job *job = arg;
    for (int i = 0; i < MEETINGS; i++) {
        for (int k = ITEMS * part / parts; k < ITEMS * (part + 1) / parts; k++)
            job->items[k] += i;
        if (parts == 1)
            continue;
        if (i == 3 && part == 1)
            rest(5000000);
        rnn_team_barrier(part, parts);
        if (rnn_team_leaves(part)) {
            if (part > 0)
                return;
            parts = 1;
            job->left = 1;
        }
    }
}

static int run_leaving_once(void)
{
    leaving_job job = {.left = 0};
    rnn_team_run(leave, &job, 2, 1);
    for (int k = 0; k < ITEMS; k++)
        expect(job.items[k] == MEETINGS * (MEETINGS - 1) / 2,
               "a step was skipped or repeated when the caller continued alone");
    return job.left;
}

/* The caller leaves a delayed worker if both ran at that moment; if told to leave, the worker only has to arrive. */
static void run_leaving(void)
{
    int left = 0, forced = 0;
    const int64_t before = rnn_split_failures();
    for (int n = 0; n < 100 && left < 5; n++) {
        left += run_leaving_once();
        rest(10000000);                      /* some calls happen while no work is divided, some later */
    }
    expect(rnn_split_failures() - before >= left, "a worker that was held up was not counted");
    for (int meeting = 1; meeting <= MEETINGS; meeting *= 2) {
        int now = 0;
        rnn_team_force_leave(meeting);
        for (int n = 0; n < 10 && !now; n++)
            now = run_leaving_once();
        expect(now, "the caller did not leave at the barrier it was told to");
        forced += now;
    }
    rnn_team_force_leave(0);
    printf("%d tasks left in the middle because a worker was held up, %d because the caller was told to\n", left, forced);
}

/* ---- a pipeline: the second part follows the first one, as the layers of a wavefront do -------------------------- */

typedef struct {
    int64_t done, values[ITEMS], sum;
} pipeline_job;

static void flow(void *arg, int part, int parts)
{
    pipeline_job *job = arg;
    for (int i = 0; part == 0 && i < ITEMS; i++) {
        job->values[i] = i;
        rnn_announce(&job->done, i + 1);
    }
    for (int i = 0; part == parts - 1 && i < ITEMS; i++) {
        rnn_await(&job->done, i + 1);
        job->sum += job->values[i];
    }
}

static void run_pipeline(void)
{
    pipeline_job job = {.done = 0};
    rnn_team_run(flow, &job, 2, 1);
    expect(job.sum == ITEMS * (ITEMS - 1) / 2, "the second part of a pipeline ran ahead");
}

/* ---- a lock, the cost model, the choice of tables and of BLAS ---------------------------------------------------- */

static int taken;
static int64_t guarded;

static void run_shared(void)
{
    if (rnn_take(&taken)) {
        guarded++;
        rnn_give(&taken);
    }
    const double seconds = rnn_team_barrier_seconds();
    expect(seconds > 0 && seconds <= 1, "the price of a meeting");
    expect(rnn_split_paused_ns() <= 1000000000, "calls go alone for too long");
    expect(rnn_split_failures() >= 0, "failures");
    expect(rnn_blas_core() == NULL, "there is no BLAS here");
    expect(rnn_cpus() > 0, "no CPU");
}

/* ---- callers ----------------------------------------------------------------------------------------------------- */

static void *call(void *arg)
{
    (void)arg;
    for (long i = 0; i < rounds; i++) {
        run_independent();
        run_meetings();
        run_pipeline();
    }
    return NULL;
}

static void *call_shared(void *arg)
{
    (void)arg;
    for (long i = 0; i < rounds; i++)
        run_shared();
    return NULL;
}

/* Kernels with divided units, called from one thread: the random numbers and buffers of a case are not thread-safe. */
static void *call_steps(void *arg)
{
    (void)arg;
    table = rnn_kernels_of(0, 0);
    item = 4;
    lanes = table->lanes;
    for (long i = 0; i < rounds; i++)
        for (int backward = 0; backward < 2; backward++) {
            random_state = (uint64_t)i;
            snprintf(current, sizeof current, "steps, round %ld", i);
            check_steps(backward);
        }
    return NULL;
}

static void *call_forks(void *arg)
{
    (void)arg;
    for (long i = 0; i < rounds / 10 + 1; i++) {
        const pid_t child = fork();
        if (child == 0) {
            alarm(60);
            run_independent();
            run_meetings();
            _exit(wrong);
        }
        int status = -1;
        expect(child > 0 && waitpid(child, &status, 0) == child && status == 0, "the child of a fork");
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[CALLERS + 4];
    int n = 0;
    if (argc > 1)
        rounds = atol(argv[1]);
    if (rnn_isa_count() < 1)
        return 2;
    name_case_on_death();
    run_leaving();
    while (n < CALLERS)
        pthread_create(&threads[n++], NULL, call, NULL);
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[n++], NULL, call_shared, NULL);
    pthread_create(&threads[n++], NULL, call_steps, NULL);
    if (argc > 2)
        pthread_create(&threads[n++], NULL, call_forks, NULL);
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    printf("%ld rounds of %d concurrent callers%s: %s\n", rounds, n, argc > 2 ? ", with forks" : "",
           wrong || failures ? "FAILED" : "correct");
    return wrong || failures;
}

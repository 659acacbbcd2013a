/* The thread team, called from extensions that do not contain it: its state exists once in a process. */
#include "kernels.h"

static const rnn_process *process;

void rnn_link(const rnn_process *of_core) { process = of_core; }

void rnn_team_run(void (*part)(void *, int, int), void *arg, int parts, int together)
{
    process->team_run(part, arg, parts, together);
}

void rnn_team_barrier(int part, int parts) { process->team_barrier(part, parts); }
int rnn_team_leaves(int part) { return process->team_leaves(part); }
double rnn_team_barrier_seconds(void) { return process->team_barrier_seconds(); }
int rnn_split_paused(void) { return process->split_paused(); }
void rnn_await(const int64_t *counter, int64_t value) { process->await(counter, value); }

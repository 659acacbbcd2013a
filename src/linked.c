/* The thread team as the extensions see it that do not contain it: team.c and split.c keep state that exists once in a process. */
#include "kernels.h"

static const rnn_process *process;

void rnn_link(const rnn_process *of_core) { process = of_core; }

void rnn_team_run(void (*part)(void *, int, int), void *arg, int parts, int together) { process->team_run(part, arg, parts, together); }
void rnn_team_meet(int part, int parts) { process->team_meet(part, parts); }
int rnn_team_leaves(int part) { return process->team_leaves(part); }
double rnn_team_meeting(void) { return process->team_meeting(); }
int rnn_split_alone(void) { return process->split_alone(); }
void rnn_await(const int64_t *counter, int64_t value) { process->await(counter, value); }

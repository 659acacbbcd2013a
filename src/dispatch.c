/* Select the tables of kernels that this CPU can run: all detection of CPU features. The build defines which tables
 * exist. */
#include "kernels.h"

#define DECLARE(isa) extern const rnn_kernels rnn_kernels_##isa##_float, rnn_kernels_##isa##_double;
#define TABLE(isa) tables[n][0] = &rnn_kernels_##isa##_float, tables[n++][1] = &rnn_kernels_##isa##_double

#ifdef HAVE_ISA_v4
DECLARE(v4)
#endif
#ifdef HAVE_ISA_v3
DECLARE(v3)
#endif
#ifdef HAVE_ISA_v2
DECLARE(v2)
#endif
#ifdef HAVE_ISA_aarch64
DECLARE(aarch64)
#endif
#ifdef HAVE_ISA_plain
DECLARE(plain)
#endif

const char *rnn_compiler(void)
{
#if defined(__clang__)
    return __VERSION__;
#else
    return "GCC " __VERSION__;
#endif
}

static const rnn_kernels *tables[4][2];

/* Best first. __builtin_cpu_supports asks the CPU and the operating system. Old compilers reject the names of the
 * levels, so single features are tested. */
int rnn_isa_count(void)
{
    int n = 0;
#ifdef HAVE_ISA_v4
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
        TABLE(v4);
#endif
#ifdef HAVE_ISA_v3
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
        TABLE(v3);
#endif
#ifdef HAVE_ISA_v2
    if (__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt"))
        TABLE(v2);
#endif
#ifdef HAVE_ISA_aarch64
    TABLE(aarch64);
#endif
#ifdef HAVE_ISA_plain
    TABLE(plain);
#endif
    return n;
}

const char *rnn_isa_name(int index) { return tables[index][0]->isa; }

const rnn_kernels *rnn_kernels_of(int index, int is_double) { return tables[index][is_double]; }

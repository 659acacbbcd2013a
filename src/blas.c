/* All use of BLAS: a private OpenBLAS, loaded by dlopen when first needed, single-threaded, with its symbols not
 * shared. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

typedef int blas_int;            /* scipy-openblas32 has 32-bit integers; larger products are split by the caller */
typedef void sgemm_fn(const char *, const char *, const blas_int *, const blas_int *, const blas_int *,
                      const float *, const float *, const blas_int *, const float *, const blas_int *,
                      const float *, float *, const blas_int *);
typedef void dgemm_fn(const char *, const char *, const blas_int *, const blas_int *, const blas_int *,
                      const double *, const double *, const blas_int *, const double *, const blas_int *,
                      const double *, double *, const blas_int *);
typedef char *core_fn(void);

static sgemm_fn *sgemm;
static dgemm_fn *dgemm;
static const char *core_name;

static void *symbol(void *library, const char *name)
{
    static const char *const forms[] = {"scipy_%s_", "%s_", "scipy_%s", "%s"};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        char full[64];
        snprintf(full, sizeof full, forms[i], name);
        void *found = dlsym(library, full);
        if (found)
            return found;
    }
    return NULL;
}

#define THREADS "OPENBLAS_NUM_THREADS"

/* Load OpenBLAS without its threads, which it would start while it is loaded: the team divides the work. All memory is
 * allocated before anything changes, so that the variable is always restored. NULL with errno ENOMEM: out of memory. */
static void *load_quietly(const char *path)
{
    static char one[] = THREADS "=1";
    const char *old = getenv(THREADS);
    const size_t length = old ? strlen(old) : 0;
    char *entry = old ? malloc(sizeof THREADS "=" + length) : NULL;      /* owned by the environment afterwards */
    errno = ENOMEM;
    if (old && !entry)
        return NULL;
    if (old)
        memcpy(memcpy(entry, THREADS "=", sizeof THREADS) + sizeof THREADS, old, length + 1);
    if (putenv(one)) {
        free(entry);
        return NULL;
    }
    errno = 0;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const int failed = errno;
    if (!entry)
        unsetenv(THREADS);
    else if (putenv(entry))                  /* the variable exists, so nothing is allocated */
        free(entry);
    errno = failed;
    return library;
}

int rnn_blas_open(const char *path, char *error, size_t size)
{
    void *library = load_quietly(path);
    if (!library && errno == ENOMEM)
        return -2;
    if (!library) {
        snprintf(error, size, "%s", dlerror());
        return -1;
    }
    sgemm_fn *s = (sgemm_fn *)symbol(library, "sgemm");
    dgemm_fn *d = (dgemm_fn *)symbol(library, "dgemm");
    if (!s || !d) {
        snprintf(error, size, "%s has no sgemm and dgemm", path);
        dlclose(library);
        return -1;
    }
    core_fn *core = (core_fn *)symbol(library, "openblas_get_corename");
    core_name = core ? core() : "unknown";
    dgemm = d;
    sgemm = s;
    return 0;
}

void rnn_blas_close(void)
{
    sgemm = NULL;
    dgemm = NULL;
    core_name = NULL;
}

const char *rnn_blas_core(void) { return core_name; }

/* c (M,N) += op(a) (M,K) @ op(b) (K,N), row-major. A row-major matrix is the transpose of a column-major one, and
 * (a @ b).T == b.T @ a.T, so BLAS is given b first and N before M. */
int rnn_blas_gemm(int is_double, int trans_a, int trans_b, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K,
                  const void *a, ptrdiff_t lda, const void *b, ptrdiff_t ldb, void *c, ptrdiff_t ldc)
{
    if (!sgemm)
        return 0;
    const char ta = trans_a ? 'T' : 'N', tb = trans_b ? 'T' : 'N';
    const blas_int m = (blas_int)M, n = (blas_int)N, k = (blas_int)K;
    const blas_int la = (blas_int)lda, lb = (blas_int)ldb, lc = (blas_int)ldc;
    if (is_double) {
        const double one = 1;
        dgemm(&tb, &ta, &n, &m, &k, &one, b, &lb, a, &la, &one, c, &lc);
    } else {
        const float one = 1;
        sgemm(&tb, &ta, &n, &m, &k, &one, b, &lb, a, &la, &one, c, &lc);
    }
    return 1;
}

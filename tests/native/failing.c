/* A library for LD_PRELOAD whose allocations and thread creations fail on request, in the requesting thread; used by
 * tests/test_no_memory.py. glibc only: it calls glibc's internal names of malloc and the others. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

extern void __libc_free(void *);
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t), *__libc_memalign(size_t, size_t);

#define HERE static __thread __attribute__((tls_model("initial-exec")))

HERE int counting;
HERE long seen, first, times;
HERE size_t least;
static _Atomic long refused, refusals, live;

/* From now on, the n-th of this thread's allocations of `size` bytes or more fails, and `count - 1` after it.
 * n = 0 only counts them. */
__attribute__((visibility("default"))) void failing_begin(long n, long count, size_t size)
{
    seen = 0, first = n, times = count, least = size;
    counting = 1;
}

/* Stop failing allocations; returns how many such allocations there were. */
__attribute__((visibility("default"))) long failing_end(void)
{
    counting = 0;
    return seen;
}

/* Refuse the next n threads of the process; returns how many were refused since the last call. */
__attribute__((visibility("default"))) long failing_threads(long n)
{
    const long were = refusals;
    refused = n;
    refusals = 0;
    return were;
}

static int fails(size_t size)
{
    if (!counting || size < least)
        return 0;
    seen++;
    if (first == 0 || seen < first || seen >= first + times)
        return 0;
    errno = ENOMEM;
    return 1;
}

/* The bytes that are allocated and not freed, without mapped memory. */
__attribute__((visibility("default"))) long failing_live(void) { return live; }

static void *counted(void *p)
{
    live += (long)malloc_usable_size(p);
    return p;
}

void free(void *p)
{
    live -= (long)malloc_usable_size(p);
    __libc_free(p);
}

void *malloc(size_t size) { return fails(size) ? NULL : counted(__libc_malloc(size)); }

void *calloc(size_t n, size_t size) { return fails(n * size) ? NULL : counted(__libc_calloc(n, size)); }

void *realloc(void *old, size_t size)
{
    if (fails(size))
        return NULL;
    const long before = (long)malloc_usable_size(old);
    void *to = __libc_realloc(old, size);
    if (!to && size)
        return NULL;
    live -= before;
    return counted(to);
}

void *memalign(size_t alignment, size_t size) { return fails(size) ? NULL : counted(__libc_memalign(alignment, size)); }

void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void **to, size_t alignment, size_t size)
{
    void *found = memalign(alignment, size);
    if (!found)
        return ENOMEM;
    *to = found;
    return 0;
}

void *mmap(void *address, size_t length, int protection, int flags, int file, off_t offset)
{
    if (fails(length))
        return MAP_FAILED;
    return (void *)syscall(SYS_mmap, address, length, protection, flags, file, offset);
}

void *mmap64(void *address, size_t length, int protection, int flags, int file, off_t offset)
{
    return mmap(address, length, protection, flags, file, offset);
}

void *mremap(void *old, size_t old_size, size_t size, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    void *to = flags & MREMAP_FIXED ? va_arg(more, void *) : NULL;
    va_end(more);
    return size > old_size && fails(size) ? MAP_FAILED : (void *)syscall(SYS_mremap, old, old_size, size, flags, to);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument)
{
    static int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (refused > 0) {
        refused--;
        refusals++;
        return EAGAIN;
    }
    if (!create)
        create = (int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))dlsym(RTLD_NEXT,
                                                                                               "pthread_create");
    return create(thread, attributes, start, argument);
}

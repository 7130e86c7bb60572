/* Loaded before the C library: kills its process at the n-th change of a file system,
 * counted from `power_cut_arm(n)`; never with 0. Whatever was to be changed then is not changed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long left;

static atomic_long seen;

void power_cut_arm(long point)
{
    atomic_store(&seen, 0);
    atomic_store(&left, point);
}

long power_cut_seen(void) { return atomic_load(&seen); }

static void point(void)
{
    atomic_fetch_add(&seen, 1);
    if (atomic_load(&left) > 0 && atomic_fetch_sub(&left, 1) == 1)
        kill(getpid(), SIGKILL);
}

#define BEFORE(result, name, parameters, arguments)               \
    result name parameters                                        \
    {                                                             \
        static result(*real) parameters;                          \
        if (!real)                                                \
            real = (result(*) parameters)dlsym(RTLD_NEXT, #name); \
        point();                                                  \
        return real arguments;                                    \
    }

BEFORE(int, fsync, (int fd), (fd))
BEFORE(int, fdatasync, (int fd), (fd))
BEFORE(int, rename, (const char *from, const char *to), (from, to))
BEFORE(int, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to))
BEFORE(int, renameat2, (int a, const char *from, int b, const char *to, unsigned f), (a, from, b, to, f))
BEFORE(int, unlink, (const char *path), (path))
BEFORE(int, unlinkat, (int at, const char *path, int flags), (at, path, flags))
BEFORE(int, rmdir, (const char *path), (path))
BEFORE(int, mkdir, (const char *path, mode_t mode), (path, mode))
BEFORE(int, mkdirat, (int at, const char *path, mode_t mode), (at, path, mode))
BEFORE(int, mount, (const char *s, const char *t, const char *k, unsigned long f, const void *d), (s, t, k, f, d))
BEFORE(int, umount2, (const char *target, int flags), (target, flags))

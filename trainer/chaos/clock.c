/* A wall clock that can be set for one job: preloaded into its processes, it moves what CLOCK_REALTIME tells by the seconds (int64) in the
   file FOLDLINE_CHAOS_CLOCK. CLOCK_MONOTONIC stays, as when a host's clock is set. Waits until a time of the moved clock are moved back
   before the kernel sees them. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define WALL 1000000000 /* seconds: a later deadline is of the wall clock, an earlier one of the monotonic clock */

static const volatile int64_t still = 0;
static const volatile int64_t *offset = &still;

__attribute__((constructor)) static void open_clock(void)
{
    const char *path = getenv("FOLDLINE_CHAOS_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *seen = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    if (seen != MAP_FAILED)
        offset = seen;
    if (file >= 0)
        close(file);
}

static void *libc_function(const char *name, const char *version)
{
    void *found = dlvsym(RTLD_NEXT, name, version); /* the plain name may give an older one with another structure */
    return found ? found : dlsym(RTLD_NEXT, name);
}

static const struct timespec *kernels(const struct timespec *deadline, struct timespec *moved)
{
    if (!deadline || deadline->tv_sec < WALL)
        return deadline;
    *moved = *deadline;
    moved->tv_sec -= *offset;
    return moved;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI))
        now->tv_sec += *offset;
    return failed;
}

time_t time(time_t *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    if (out)
        *out = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until, struct timespec *left)
{
    static int (*real)(clockid_t, int, const struct timespec *, struct timespec *);
    struct timespec moved;
    if (!real)
        real = (int (*)(clockid_t, int, const struct timespec *, struct timespec *))dlsym(RTLD_NEXT, "clock_nanosleep");
    return real(clock, flags, flags & TIMER_ABSTIME ? kernels(until, &moved) : until, left);
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex, const struct timespec *restrict until)
{
    static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    struct timespec moved;
    if (!real)
        real = (int (*)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *))libc_function("pthread_cond_timedwait", "GLIBC_2.3.2");
    return real(condition, mutex, kernels(until, &moved));
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict until)
{
    static int (*real)(pthread_mutex_t *, const struct timespec *);
    struct timespec moved;
    if (!real)
        real = (int (*)(pthread_mutex_t *, const struct timespec *))dlsym(RTLD_NEXT, "pthread_mutex_timedlock");
    return real(mutex, kernels(until, &moved));
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until)
{
    static int (*real)(sem_t *, const struct timespec *);
    struct timespec moved;
    if (!real)
        real = (int (*)(sem_t *, const struct timespec *))libc_function("sem_timedwait", "GLIBC_2.34");
    return real(semaphore, kernels(until, &moved));
}

long syscall(long number, ...) /* locks that talk to the kernel themselves, as abseil's do */
{
    static long (*real)(long, ...);
    struct timespec moved;
    long words[6];
    va_list rest;
    va_start(rest, number);
    for (int i = 0; i < 6; i++)
        words[i] = va_arg(rest, long);
    va_end(rest);
    if (!real)
        real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    if (number == SYS_futex && words[1] & FUTEX_CLOCK_REALTIME)
        words[3] = (long)kernels((const struct timespec *)words[3], &moved);
    return real(number, words[0], words[1], words[2], words[3], words[4], words[5]);
}

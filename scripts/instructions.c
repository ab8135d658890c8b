/* Ringway under valgrind 3.19: lets its other threads run while one waits for completions.
 *
 * valgrind runs one thread at a time, and does not know that io_uring_enter(2) may wait: a shard that sleeps in it would keep all
 * others from running. Here it sleeps for 20 ms at most, and then lets the others go first, in a call of which valgrind knows it.
 *
 * cc -shared -fPIC, and LD_PRELOAD: see scripts/instructions.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/io_uring.h>
#include <linux/time_types.h>
#include <sys/syscall.h>

typedef long system_call(long, long, long, long, long, long, long);

/* Of the C library, with the same arguments. */
long syscall(long number, long ring, long submit, long wanted, long flags, long argument, long size) {
    static system_call *kernel;
    if (!kernel) kernel = (system_call *)dlsym(RTLD_NEXT, "syscall");
    if (number != SYS_io_uring_enter || wanted == 0 || flags & IORING_ENTER_EXT_ARG)
        return kernel(number, ring, submit, wanted, flags, argument, size);

    long submitted = kernel(number, ring, submit, 0, flags & ~IORING_ENTER_GETEVENTS, argument, size);
    if (submitted < 0) return submitted;
    struct __kernel_timespec patience = {.tv_nsec = 20 * 1000 * 1000}, moment = {.tv_nsec = 1000};
    struct io_uring_getevents_arg wait = {.ts = (unsigned long)&patience};
    flags |= IORING_ENTER_EXT_ARG;
    while (kernel(number, ring, 0, wanted, flags, (long)&wait, sizeof wait) < 0) {
        if (errno != ETIME) return submitted > 0 ? submitted : -1;
        kernel(SYS_nanosleep, (long)&moment, 0, 0, 0, 0, 0);
    }
    return submitted;
}

/* What the truth server and the truth client share: clocks, kernel receive stamps, buffers, numbers. Linux only. */
#ifndef SCOOT_TRUTH_H
#define SCOOT_TRUTH_H

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>

#define SECOND_NS INT64_C(1000000000)
#define OFFSET_AGE_NS INT64_C(100000000)

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static inline int64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * SECOND_NS + t.tv_nsec;
}

static inline int64_t now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

/* CLOCK_MONOTONIC minus CLOCK_REALTIME: the kernel stamps in the latter, which is slewed and may step. */
struct offset {
    int64_t delta, measured;
};

static inline void offset_refresh(struct offset *offset)
{
    int64_t now = now_ns();
    if (offset->measured && now - offset->measured < OFFSET_AGE_NS)
        return;
    int64_t narrowest = INT64_MAX;
    for (int i = 0; i < 4; i++) {
        int64_t before = now_ns(), real = clock_ns(CLOCK_REALTIME), after = now_ns();
        if (after - before < narrowest) { /* no interrupt came between, or a short one */
            narrowest = after - before;
            offset->delta = before + (after - before) / 2 - real;
        }
    }
    offset->measured = now;
}

static inline void stamps_on(int fd)
{
    int one = 1;
    if (setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one))
        die("no kernel receive stamps (SO_TIMESTAMPNS): %s", strerror(errno));
}

/* recv(), and when its last segment arrived: CLOCK_MONOTONIC, 0 if the kernel did not say. */
static inline ssize_t recv_stamped(int fd, char *data, size_t size, const struct offset *offset, int64_t *stamp)
{
    union {
        char room[CMSG_SPACE(sizeof(struct timespec)) + 64];
        struct cmsghdr align;
    } control;
    struct iovec part = {.iov_base = data, .iov_len = size};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room};
    ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT);
    *stamp = 0;
    if (got <= 0)
        return got;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_TIMESTAMPNS) {
            struct timespec t;
            memcpy(&t, CMSG_DATA(c), sizeof t);
            *stamp = t.tv_sec * SECOND_NS + t.tv_nsec + offset->delta;
        }
    }
    return got;
}

static inline void *must(void *memory)
{
    if (!memory)
        die("out of memory");
    return memory;
}

struct buffer {
    char *data;
    size_t used, size;
};

/* Room for `more` bytes behind those used. */
static inline void buffer_need(struct buffer *b, size_t more)
{
    if (b->size - b->used >= more)
        return;
    size_t size = b->size ? b->size : 4096;
    while (size - b->used < more)
        size *= 2;
    b->data = must(realloc(b->data, size));
    b->size = size;
}

static inline void buffer_add(struct buffer *b, const char *data, size_t length)
{
    buffer_need(b, length);
    memcpy(b->data + b->used, data, length);
    b->used += length;
}

static inline void buffer_drop(struct buffer *b, size_t length)
{
    b->used -= length;
    if (b->used && length)
        memmove(b->data, b->data + length, b->used);
}

static inline void buffer_free(struct buffer *b)
{
    free(b->data);
    *b = (struct buffer){0};
}

static inline char *put_number(char *p, int64_t value)
{
    char digits[20];
    int n = 0;
    uint64_t left = value < 0 ? -(uint64_t)value : (uint64_t)value;
    if (value < 0)
        *p++ = '-';
    do
        digits[n++] = (char)('0' + left % 10);
    while (left /= 10);
    while (n)
        *p++ = digits[--n];
    return p;
}

/* A growing sample of durations, in blocks: growing it never copies, so it never stalls. */
#define BLOCK 65536
struct block {
    struct block *before;
    float value[BLOCK];
};
struct sample {
    struct block *last;
    size_t count;
};

static inline void sample_add(struct sample *s, int64_t ns)
{
    if (s->count % BLOCK == 0) {
        struct block *block = must(malloc(sizeof *block));
        block->before = s->last;
        s->last = block;
    }
    s->last->value[s->count++ % BLOCK] = (float)ns;
}

static int compare_floats(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Percentiles by nearest rank, in microseconds; -1 of an empty sample. Frees the sample. */
static inline void sample_percentiles(struct sample *s, int n, const double *percents, double *result)
{
    float *all = must(malloc((s->count + 1) * sizeof *all));
    size_t left = s->count;
    while (s->last) {
        struct block *block = s->last;
        size_t here = (left - 1) % BLOCK + 1;
        left -= here;
        memcpy(all + left, block->value, here * sizeof *all);
        s->last = block->before;
        free(block);
    }
    qsort(all, s->count, sizeof *all, compare_floats);
    for (int i = 0; i < n; i++) {
        size_t rank = (size_t)(percents[i] / 100.0 * (double)s->count + 0.999999);
        result[i] = s->count ? (double)all[rank ? rank - 1 : 0] / 1e3 : -1;
    }
    free(all);
    s->count = 0;
}

static inline double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* Real-time priority; false (and a line on stderr) where it is not allowed. */
static inline bool go_fifo(void)
{
    struct sched_param parameter = {.sched_priority = 50};
    if (sched_setscheduler(0, SCHED_FIFO, &parameter) == 0)
        return true;
    fprintf(stderr, "no SCHED_FIFO here (%s): going on without\n", strerror(errno));
    return false;
}

static inline void arm_timer(int timer, int64_t due)
{
    struct itimerspec when = {.it_value = {.tv_sec = due / SECOND_NS, .tv_nsec = due % SECOND_NS}};
    if (timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL))
        die("timerfd_settime: %s", strerror(errno));
}

static inline int64_t whole_option(const char *name, const char *text, int64_t low, int64_t high)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno || end == text || *end || value < low || value > high)
        die("--%s: a whole number from %" PRId64 " to %" PRId64 " is needed, not '%s'", name, low, high, text);
    return value;
}

static inline double real_option(const char *name, const char *text, double low, double high)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= low && value <= high))
        die("--%s: a number from %g to %g is needed, not '%s'", name, low, high, text);
    return value;
}

#endif

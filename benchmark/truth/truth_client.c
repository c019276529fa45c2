/* The ceiling for load generators: as little client as can measure at all. One process, one thread, epoll, timerfd.
 * Linux only. Build: gcc -O2 -Wall -Wextra -Werror -o truth_client truth_client.c
 *
 * Streamed completions of --tokens tokens each: --requests of them at a constant --rate (open loop: whatever the answers
 * do), or with --closed C connections, each asking again as soon as it has its answer. Connections are opened before the
 * clock starts; in an open loop more are opened where they do not suffice.
 *
 * What is received carries the kernel's stamp. Answers are parsed as they come, and no more than to find the events: one
 * with a choice is a token. No fault is understood: an answer that is not 200, or ends otherwise than with [DONE] and the
 * last chunk, or has another number of tokens, is not ok. After --idle-s without an answer going on, the rest is given up.
 *
 * --dump FILE: one JSON line per request, times in ns of CLOCK_MONOTONIC; gaps_ns are those between reads with tokens
 * (merged: how many tokens came with another one in front). One line of summary goes to standard output.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "truth.h"

#define ID_DIGITS 8
#define IN_SIZE 65536
#define EVENTS 64
#define LEAD_NS INT64_C(50000000) /* from the opening of connections to the first request */

struct call {
    int64_t intended, sent, first, last;
    uint32_t tokens, merged, gaps;
    uint16_t status;
    bool ok;
    int64_t *gap;
};

struct connection {
    int fd;
    struct call *call; /* NULL: free */
    bool done; /* [DONE] was read */
    size_t used;
    char in[IN_SIZE];
};

static struct {
    const char *host, *dump, *model, *tag;
    uint16_t port;
    double rate;
    uint32_t requests, tokens, connections, closed, prompt;
    int64_t idle;
    bool fifo, usage;
} options = {.host = "127.0.0.1", .model = "truth", .tag = "truth", .rate = 100, .requests = 1000, .tokens = 100,
             .connections = 64, .prompt = 8, .idle = 30 * SECOND_NS};

static int poller, timer;
static struct offset offset;
static struct call *calls;
static struct connection **idle;
static size_t idle_used, connections_open;
static uint32_t dispatched, ended, opened_late;
static struct buffer request;
static char *id_at;
static union {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
} address;
static socklen_t address_length;

static struct connection *connection_open(void)
{
    int one = 1, fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, &address.any, address_length))
        die("cannot connect to %s port %u: %s", options.host, options.port, strerror(errno));
    fcntl(fd, F_SETFL, O_NONBLOCK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    stamps_on(fd);
    struct connection *c = must(malloc(sizeof *c));
    c->fd = fd;
    c->call = NULL;
    c->used = 0;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event))
        die("epoll_ctl: %s", strerror(errno));
    idle = must(realloc(idle, ++connections_open * sizeof *idle)); /* room for all of them */
    return c;
}

static void connection_close(struct connection *c)
{
    if (c->call)
        ended++;
    for (size_t i = 0; i < idle_used; i++) {
        if (idle[i] == c)
            idle[i--] = idle[--idle_used];
    }
    close(c->fd);
    c->fd = -1; /* the memory stays: events of this batch may still point to it */
}

static void dispatch(struct connection *c, int64_t intended)
{
    struct call *call = &calls[dispatched];
    uint32_t left = dispatched++;
    for (int i = ID_DIGITS; i--; left /= 10)
        id_at[i] = (char)('0' + left % 10);
    call->intended = intended;
    c->call = call;
    c->done = false;
    call->sent = now_ns();
    if (send(c->fd, request.data, request.used, MSG_NOSIGNAL) != (ssize_t)request.used)
        connection_close(c);
}

/* Send what is due. When the next one is; INT64_MAX: none is left, or answers decide. */
static int64_t dispatch_due(int64_t start)
{
    if (options.closed)
        return INT64_MAX;
    while (dispatched < options.requests) {
        int64_t due = start + (int64_t)(1e9 * dispatched / options.rate);
        if (due > now_ns())
            return due;
        if (!idle_used)
            opened_late++;
        dispatch(idle_used ? idle[--idle_used] : connection_open(), due);
    }
    return INT64_MAX;
}

static void token(struct call *call, int64_t stamp)
{
    if (!call->tokens++)
        call->first = stamp;
    else if (stamp == call->last)
        call->merged++;
    else if (call->gaps < options.tokens)
        call->gap[call->gaps++] = stamp - call->last;
    call->last = stamp;
}

/* Look at the events that are complete. False: the answer is broken. */
static bool parse(struct connection *c, int64_t stamp)
{
    struct call *call = c->call;
    char *p = c->in, *end = c->in + c->used, *event_end;
    if (!call->status && c->used >= 12)
        call->status = memcmp(p, "HTTP/1.1 ", 9) ? 1 : (uint16_t)(100 * (p[9] - '0') + 10 * (p[10] - '0') + p[11] - '0');
    if (call->status && call->status != 200)
        return false;
    while ((event_end = memmem(p, (size_t)(end - p), "\n\n", 2))) {
        char *data = memmem(p, (size_t)(event_end - p), "data: ", 6);
        if (data && event_end - data >= 12 && !memcmp(data + 6, "[DONE]", 6))
            c->done = true;
        else if (data && memmem(data, (size_t)(event_end - data), "\"choices\":[{", 12))
            token(call, stamp);
        p = event_end + 2;
    }
    c->used = (size_t)(end - p);
    if (p != c->in)
        memmove(c->in, p, c->used);
    return c->used < IN_SIZE;
}

static void readable(struct connection *c)
{
    int64_t stamp;
    offset_refresh(&offset);
    ssize_t got = recv_stamped(c->fd, c->in + c->used, IN_SIZE - c->used, &offset, &stamp);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0 || !c->call) {
        connection_close(c);
        return;
    }
    c->used += (size_t)got;
    if (!parse(c, stamp ? stamp : now_ns())) {
        connection_close(c);
        return;
    }
    if (!c->done || c->used < 7 || memcmp(c->in + c->used - 7, "\r\n0\r\n\r\n", 7))
        return;
    c->call->ok = c->call->tokens == options.tokens;
    c->call = NULL;
    c->used = 0;
    ended++;
    if (!options.closed)
        idle[idle_used++] = c;
    else if (dispatched < options.requests)
        dispatch(c, now_ns());
}

static void build_request(void)
{
    char head[1024];
    struct buffer body = {0};
    int n = snprintf(head, sizeof head, "{\"model\":\"%s\",\"prompt\":[", options.model);
    buffer_add(&body, head, (size_t)n);
    for (uint32_t i = 0; i < options.prompt; i++)
        buffer_add(&body, ",100" + !i, 4 - !i);
    n = snprintf(head, sizeof head, "],\"max_tokens\":%u,\"temperature\":0.0,\"stream\":true,\"ignore_eos\":true%s}",
        options.tokens,
        options.usage ? ",\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true}" : "");
    buffer_add(&body, head, (size_t)n);
    n = snprintf(head, sizeof head,
        "POST /v1/completions HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
        "X-Request-Id: %s-%0*d\r\n\r\n", options.host, body.used, options.tag, ID_DIGITS, 0);
    buffer_add(&request, head, (size_t)n);
    buffer_add(&request, body.data, body.used);
    id_at = request.data + n - 4 - ID_DIGITS;
    buffer_free(&body);
}

static void run(int64_t start)
{
    int64_t heard = start;
    uint32_t first = options.closed < options.requests ? options.closed : options.requests;
    for (uint32_t i = 0; i < first && options.closed; i++)
        dispatch(idle[--idle_used], now_ns());
    while (ended < options.requests) {
        int64_t next = dispatch_due(start);
        if (next != INT64_MAX)
            arm_timer(timer, next);
        struct epoll_event events[EVENTS];
        int n = epoll_wait(poller, events, EVENTS, 1000);
        if (n < 0 && errno != EINTR)
            die("epoll_wait: %s", strerror(errno));
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (c && c->fd >= 0) {
                readable(c);
                dispatch_due(start);
            }
        }
        int64_t now = now_ns();
        if (n > 0 || (dispatched < options.requests && !options.closed))
            heard = now;
        else if (now - heard > options.idle)
            break;
    }
}

static void dump(void)
{
    FILE *file = fopen(options.dump, "w");
    if (!file)
        die("--dump %s: %s", options.dump, strerror(errno));
    for (uint32_t i = 0; i < dispatched; i++) {
        const struct call *call = &calls[i];
        fprintf(file,
            "{\"i\":%u,\"id\":\"%s-%0*u\",\"intended_ns\":%" PRId64 ",\"sent_ns\":%" PRId64 ",\"first_ns\":%" PRId64
            ",\"last_ns\":%" PRId64 ",\"tokens\":%u,\"merged\":%u,\"status\":%u,\"ok\":%s,\"gaps_ns\":[",
            i, options.tag, ID_DIGITS, i, call->intended, call->sent, call->first, call->last, call->tokens, call->merged,
            call->status, call->ok ? "true" : "false");
        for (uint32_t k = 0; k < call->gaps; k++)
            fprintf(file, k ? ",%" PRId64 : "%" PRId64, call->gap[k]);
        fputs("]}\n", file);
    }
    if (ferror(file) | fclose(file))
        die("--dump %s: cannot be written: %s", options.dump, strerror(errno));
}

static void summary(double cpu)
{
    static const double PERCENTS[] = {50, 99, 100};
    struct sample late = {0};
    double lateness[3];
    uint64_t tokens = 0, merged = 0;
    uint32_t ok = 0;
    int64_t first = INT64_MAX, last = 0;
    for (uint32_t i = 0; i < dispatched; i++) {
        const struct call *call = &calls[i];
        ok += call->ok;
        tokens += call->tokens;
        merged += call->merged;
        if (call->sent < first)
            first = call->sent;
        if (call->last > last)
            last = call->last;
        sample_add(&late, call->sent - call->intended);
    }
    double wall = last > first ? (double)(last - first) / 1e9 : 0;
    sample_percentiles(&late, 3, PERCENTS, lateness);
    printf("{\"requests\":%u,\"ok\":%u,\"tokens\":%" PRIu64 ",\"merged\":%" PRIu64 ",\"wall_s\":%.6f,\"requests_per_s\":%.1f,"
           "\"cpu_s\":%.6f,\"late_us_p50\":%.1f,\"late_us_p99\":%.1f,\"late_us_max\":%.1f,\"opened_late\":%u,\"fifo\":%s}\n",
        dispatched, ok, tokens, merged, wall, wall > 0 ? ok / wall : 0, cpu, lateness[0], lateness[1], lateness[2],
        opened_late, options.fifo ? "true" : "false");
}

static const struct option OPTIONS[] = {
    {"port", required_argument, NULL, 'p'}, {"host", required_argument, NULL, 'h'},
    {"rate", required_argument, NULL, 'r'}, {"requests", required_argument, NULL, 'n'},
    {"tokens", required_argument, NULL, 't'}, {"connections", required_argument, NULL, 'c'},
    {"closed", required_argument, NULL, 'l'}, {"prompt-tokens", required_argument, NULL, 'm'},
    {"model", required_argument, NULL, 'o'}, {"id-prefix", required_argument, NULL, 'g'},
    {"idle-s", required_argument, NULL, 'i'}, {"dump", required_argument, NULL, 'd'},
    {"fifo", no_argument, NULL, 'f'}, {"usage", no_argument, NULL, 'u'},
    {NULL, 0, NULL, 0},
};

static const char *word(const char *name, const char *text)
{
    size_t good = strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-/");
    if (!*text || text[good] || good > 200)
        die("--%s: 1 to 200 letters, digits and ._-/ are needed, not '%s'", name, text);
    return text;
}

int main(int argc, char **argv)
{
    for (int option; (option = getopt_long(argc, argv, "", OPTIONS, NULL)) != -1;) {
        switch (option) {
        case 'p': options.port = (uint16_t)whole_option("port", optarg, 1, 65535); break;
        case 'h': options.host = optarg; break;
        case 'r': options.rate = real_option("rate", optarg, 1e-3, 1e6); break;
        case 'n': options.requests = (uint32_t)whole_option("requests", optarg, 1, 99999999); break;
        case 't': options.tokens = (uint32_t)whole_option("tokens", optarg, 1, 1000000); break;
        case 'c': options.connections = (uint32_t)whole_option("connections", optarg, 0, 1000000); break;
        case 'l': options.closed = (uint32_t)whole_option("closed", optarg, 1, 1000000); break;
        case 'm': options.prompt = (uint32_t)whole_option("prompt-tokens", optarg, 1, 1000000); break;
        case 'o': options.model = word("model", optarg); break;
        case 'g': options.tag = word("id-prefix", optarg); break;
        case 'i': options.idle = (int64_t)(1e9 * real_option("idle-s", optarg, 1e-3, 1e6)); break;
        case 'd': options.dump = optarg; break;
        case 'f': options.fifo = true; break;
        case 'u': options.usage = true; break;
        default: die("usage: truth_client --port N [--host ADDRESS] [--rate R | --closed C] [--requests N] [--tokens N] "
                     "[--connections N] [--prompt-tokens N] [--usage] [--model NAME] [--id-prefix NAME] [--idle-s S] "
                     "[--dump FILE] [--fifo]");
        }
    }
    if (optind < argc)
        die("%s: there is no such argument", argv[optind]);
    if (!options.port)
        die("--port is needed");
    if (inet_pton(AF_INET, options.host, &address.v4.sin_addr) == 1) {
        address.v4.sin_family = AF_INET;
        address.v4.sin_port = htons(options.port);
        address_length = sizeof address.v4;
    } else if (inet_pton(AF_INET6, options.host, &address.v6.sin6_addr) == 1) {
        address.v6.sin6_family = AF_INET6;
        address.v6.sin6_port = htons(options.port);
        address_length = sizeof address.v6;
    } else {
        die("--host: a numeric address is needed, not '%s'", options.host);
    }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = NULL};
    if (poller < 0 || timer < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event))
        die("no epoll or timerfd: %s", strerror(errno));

    build_request();
    calls = must(calloc(options.requests, sizeof *calls));
    size_t room = (size_t)options.requests * options.tokens * sizeof(int64_t);
    int64_t *gaps = must(malloc(room));
    memset(gaps, 1, room); /* pages are there before the clock starts */
    for (uint32_t i = 0; i < options.requests; i++)
        calls[i].gap = gaps + (size_t)i * options.tokens;
    uint32_t connections = options.closed ? options.closed : options.connections;
    for (uint32_t i = 0; i < connections; i++) {
        struct connection *c = connection_open();
        idle[idle_used++] = c;
    }
    if (options.fifo)
        options.fifo = go_fifo();
    double cpu = cpu_seconds();
    int64_t start = now_ns() + LEAD_NS;
    if (options.closed)
        start = now_ns();
    run(start);
    cpu = cpu_seconds() - cpu;
    if (options.dump)
        dump();
    summary(cpu);
    return 0;
}

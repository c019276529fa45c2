/* The ground truth against which load generators are judged: an OpenAI-compatible server that knows when every request
 * arrived (the kernel's receive stamp) and when it sent every token. One process, one thread, epoll and one timerfd.
 * Linux only. Build: gcc -O2 -Wall -Wextra -Werror -o truth_server truth_server.c
 *
 * POST /v1/completions and /v1/chat/completions (streamed if the body says so), GET /health and /v1/models, POST
 * /tokenize. The tokens asked for (max_tokens or max_completion_tokens, 16 by default, at least 1) are always generated.
 * A text of b bytes is (b + 3) / 4 tokens, in /tokenize and in usage alike; a list of ids is as long as it is.
 *
 * Token k (from 0) is due at arrival + ttft + k * gap, and sent with one send(); the last one together with the final
 * usage, [DONE] and the end of the body. The chat role chunk goes out with the first token. If the server itself is more
 * than a gap late, the rest of the stream moves back, so that two tokens never leave together.
 *
 * --mode, what goes wrong ("half way" is after half of the tokens, rounded down but at least one):
 *   plain       nothing
 *   role        a chunk without a token (chat: the role; else empty text) 5 ms after the arrival, or at half of the ttft
 *               if that is sooner; the first token at ttft as ever
 *   empty       a chunk with empty text half way, in the middle of a gap
 *   comments    "data:" without a space, CRLF line ends, comments, event: and id: fields
 *   malformed   a chunk of broken JSON half way, in the middle of a gap; the tokens go on
 *   error200    half way, where the next token was due: an error object, [DONE], and the end of the body
 *   rst         half way, where the next token was due: the connection is reset
 *   close       half way, where the next token was due: the connection is closed (FIN) without the end of the body
 *   http429     every completion is refused at once with status 429 and Retry-After: 1
 *   http500     every completion is refused at once with status 500
 *   nodone      no [DONE]; the body ends properly
 *   coalesce    4 tokens with every send(), at the time of the first of them
 *   split       each event in two segments 2 ms apart; its time is that of the second, which completes it
 *   never       tokens without end
 *   hang        half of the tokens, then silence
 *   slowfirst   everything, the head too, 2 s later
 *   hangnohead  no answer at all
 * Answers that are not streamed know only plain, http429, http500, slowfirst and hangnohead.
 *
 * --freeze-at-s, --freeze-s: the server neither reads nor sends for that long, from so long after the first arrival.
 * Streams go on after it where they were; requests that arrived in it begin at its end.
 *
 * --dump FILE, written at SIGTERM or SIGINT, JSON lines in the order in which requests were read, times in ns of
 * CLOCK_MONOTONIC, then one line of summary (see README.md).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <getopt.h>
#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "request.h"
#include "truth.h"

#define MAX_HEAD 65536
#define MAX_BODY (256u << 20)
#define MAX_CHUNK 2048 /* longer than any one event */
#define MAX_FRONT 512
#define MAX_ID 512
#define FIRES 256 /* sends before sockets are looked at again */
#define EVENTS 64 /* sockets looked at before timers are */
#define COALESCED 4
#define ROLE_NS INT64_C(5000000)
#define SPLIT_NS INT64_C(2000000)
#define SLOW_NS (2 * SECOND_NS)

enum mode {
    PLAIN, ROLE, EMPTY, COMMENTS, MALFORMED, ERROR200, RST, CLOSE, HTTP429, HTTP500, NODONE, COALESCE, SPLIT, NEVER,
    HANG, SLOWFIRST, HANGNOHEAD
};
static const char *const MODES[] = {
    "plain", "role", "empty", "comments", "malformed", "error200", "rst", "close", "http429", "http500", "nodone",
    "coalesce", "split", "never", "hang", "slowfirst", "hangnohead", NULL
};

/* What is known of one request; it lives until the dump. */
struct record {
    char *id;
    int64_t arrival, late_max, *sent;
    uint32_t connection, tokens, room;
    uint16_t status;
    bool streamed, done, closed_early;
};

enum state { READING, ANSWERING, DRAINING };
enum step { STEP_HEAD, STEP_EXTRA, STEP_TOKEN, STEP_HALF, STEP_FAULT, STEP_WHOLE };
enum chunk { TOKEN, LAST_TOKEN, EMPTY_TEXT, ROLE_ONLY, BROKEN };

struct connection {
    int fd;
    uint32_t generation, number;
    enum state state;
    bool waits_to_write, close_after;
    struct buffer in, out;
    int64_t stamp; /* of what was read last */
    size_t head, body; /* lengths of the request being read; head is 0 until it is complete */
    size_t looked;
    /* The answer being given. */
    size_t heap_at; /* from 1; 0: nothing is due */
    int64_t due, first_due; /* of the step; of the first token */
    enum step step;
    struct record *record;
    uint32_t n, wanted, half_way, prompt_tokens;
    bool chat, usage, usage_always, extra_sent;
    int64_t created;
    size_t front_length;
    char front[MAX_FRONT];
    struct buffer rest; /* second half of a split event */
};

static struct {
    int64_t ttft, gap, freeze_at, freeze;
    enum mode mode;
    const char *dump, *model;
    uint32_t max_connections;
    bool fifo, stdin_ends;
} options = {.ttft = 20000000, .gap = 10000000, .freeze_at = -1, .model = "truth", .max_connections = 60000};

static int poller, listener, timer;
static struct offset offset;
static struct connection **connections; /* by descriptor */
static size_t connections_size;
static uint32_t open_connections, opened, refused, streams, most_streams;
static struct { struct connection **item; size_t used, size; } heap;
static struct { struct record **item; size_t used, size; } records;
static struct sample lateness;
static uint64_t tokens_sent, blocked_sends, unstamped;
static int64_t first_arrival, frozen_from, frozen_until;
static volatile sig_atomic_t stopping;

/* --- what is due when ------------------------------------------------------------------------------------------- */

static void heap_put(size_t at, struct connection *c)
{
    heap.item[at] = c;
    c->heap_at = at;
}

static void heap_up(size_t at, struct connection *c)
{
    while (at > 1 && heap.item[at / 2]->due > c->due) {
        heap_put(at, heap.item[at / 2]);
        at /= 2;
    }
    heap_put(at, c);
}

static void heap_down(size_t at, struct connection *c)
{
    for (size_t child; (child = 2 * at) <= heap.used; at = child) {
        if (child < heap.used && heap.item[child + 1]->due < heap.item[child]->due)
            child++;
        if (heap.item[child]->due >= c->due)
            break;
        heap_put(at, heap.item[child]);
    }
    heap_put(at, c);
}

/* Let `step` of the answer be due then, whether or not something is already. */
static void schedule(struct connection *c, enum step step, int64_t due)
{
    c->step = step;
    c->due = due;
    if (c->heap_at) { /* nearly always the top, moving down */
        heap_down(c->heap_at, c);
        heap_up(c->heap_at, c);
        return;
    }
    if (heap.used + 2 > heap.size) {
        heap.size = heap.size ? 2 * heap.size : 1024;
        heap.item = must(realloc(heap.item, heap.size * sizeof *heap.item));
    }
    heap_up(++heap.used, c);
}

static void unschedule(struct connection *c)
{
    size_t at = c->heap_at;
    if (!at)
        return;
    c->heap_at = 0;
    struct connection *last = heap.item[heap.used--];
    if (last == c)
        return;
    heap_down(at, last);
    heap_up(last->heap_at, last);
}

/* --- connections ------------------------------------------------------------------------------------------------ */

static uint64_t event_key(const struct connection *c)
{
    return (uint64_t)c->generation << 32 | (uint32_t)c->fd;
}

static void watch(struct connection *c, bool write)
{
    struct epoll_event event = {.events = EPOLLIN | (write ? EPOLLOUT : 0u), .data.u64 = event_key(c)};
    if (epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event))
        die("epoll_ctl: %s", strerror(errno));
    c->waits_to_write = write;
}

static void connection_open(int fd)
{
    if ((size_t)fd >= connections_size) {
        size_t size = connections_size ? connections_size : 256;
        while (size <= (size_t)fd)
            size *= 2;
        connections = must(realloc(connections, size * sizeof *connections));
        memset(connections + connections_size, 0, (size - connections_size) * sizeof *connections);
        connections_size = size;
    }
    struct connection *c = connections[fd];
    if (!c)
        c = connections[fd] = must(calloc(1, sizeof *c));
    c->fd = fd;
    c->generation++;
    c->number = opened++;
    open_connections++;
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    stamps_on(fd);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = event_key(c)};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event))
        die("epoll_ctl: %s", strerror(errno));
}

static void connection_close(struct connection *c, bool reset)
{
    if (c->record && (!c->record->done || c->out.used) && !reset)
        c->record->closed_early = true;
    if (c->state == ANSWERING)
        streams--;
    unschedule(c);
    if (reset) {
        struct linger now = {.l_onoff = 1, .l_linger = 0};
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    }
    close(c->fd);
    open_connections--;
    if (c->in.size > MAX_HEAD)
        buffer_free(&c->in);
    if (c->out.size > MAX_HEAD)
        buffer_free(&c->out);
    struct connection empty = {
        .fd = -1, .generation = c->generation, .in = c->in, .out = c->out, .rest = c->rest};
    empty.in.used = empty.out.used = empty.rest.used = 0;
    *c = empty;
}

/* Half-close, and wait for the client to do so: close() could reset what it has not yet read. */
static void drain(struct connection *c)
{
    shutdown(c->fd, SHUT_WR);
    c->state = DRAINING;
}

/* Send, or keep what the kernel does not take. False: the client is gone, and so is the connection. */
static bool transmit(struct connection *c, const char *data, size_t length)
{
    if (!c->out.used) {
        ssize_t sent = send(c->fd, data, length, MSG_NOSIGNAL);
        if (sent == (ssize_t)length)
            return true;
        if (sent < 0 && errno != EAGAIN && errno != EINTR) {
            connection_close(c, false);
            return false;
        }
        blocked_sends++;
        data += sent > 0 ? sent : 0;
        length -= sent > 0 ? (size_t)sent : 0;
        watch(c, true);
    }
    buffer_add(&c->out, data, length);
    return true;
}

/* --- what is sent ----------------------------------------------------------------------------------------------- */

#define PUT(p, literal) (memcpy((p), literal, sizeof literal - 1), (p) + sizeof literal - 1)

static char *put(char *p, const char *data, size_t length)
{
    memcpy(p, data, length);
    return p + length;
}

static char *put_chunk(char *p, const char *data, size_t length)
{
    static const char hex[] = "0123456789abcdef";
    int shift = 28;
    while (shift && !(length >> shift))
        shift -= 4;
    for (; shift >= 0; shift -= 4)
        *p++ = hex[length >> shift & 15];
    p = PUT(p, "\r\n");
    p = put(p, data, length);
    return PUT(p, "\r\n");
}

static char *put_usage(char *p, const struct connection *c, uint32_t tokens)
{
    p = PUT(p, "\"usage\":{\"prompt_tokens\":");
    p = put_number(p, c->prompt_tokens);
    p = PUT(p, ",\"total_tokens\":");
    p = put_number(p, (int64_t)c->prompt_tokens + tokens);
    p = PUT(p, ",\"completion_tokens\":");
    p = put_number(p, tokens);
    return PUT(p, "}");
}

static char *put_event_start(char *p, const struct connection *c, uint32_t id)
{
    if (options.mode != COMMENTS)
        return PUT(p, "data: ");
    p = PUT(p, ": keep-alive\r\n\r\nevent: message\r\nid: ");
    p = put_number(p, c->n);
    *p++ = '-';
    p = put_number(p, id);
    return PUT(p, "\r\n:data: no\r\ndata:");
}

static char *put_event_end(char *p)
{
    return options.mode == COMMENTS ? PUT(p, "\r\n\r\n") : PUT(p, "\n\n");
}

/* One event in one chunk of the body. `tokens`: generated with it and before it. */
static char *put_event(char *out, const struct connection *c, enum chunk kind, uint32_t tokens)
{
    char event[MAX_CHUNK], *p = put_event_start(event, c, tokens);
    p = put(p, c->front, c->front_length);
    if (kind == BROKEN) {
        p = PUT(p, "{\"index\":0,\"text\":\" to\n\n");
        return put_chunk(out, event, (size_t)(p - event));
    }
    if (c->chat) {
        p = PUT(p, "{\"index\":0,\"delta\":{");
        if (kind == ROLE_ONLY)
            p = PUT(p, "\"role\":\"assistant\",");
        p = PUT(p, "\"content\":\"");
    } else {
        p = PUT(p, "{\"index\":0,\"text\":\"");
    }
    if (kind == TOKEN || kind == LAST_TOKEN)
        p = PUT(p, " tok");
    p = PUT(p, "\"");
    if (c->chat)
        p = PUT(p, "}");
    p = PUT(p, ",\"logprobs\":null,\"finish_reason\":");
    p = kind == LAST_TOKEN ? PUT(p, "\"length\"") : PUT(p, "null");
    if (!c->chat)
        p = PUT(p, ",\"stop_reason\":null,\"prompt_token_ids\":null,\"token_ids\":null");
    else if (kind == LAST_TOKEN)
        p = PUT(p, ",\"stop_reason\":null,\"token_ids\":null");
    else if (kind != ROLE_ONLY)
        p = PUT(p, ",\"token_ids\":null");
    p = PUT(p, "}]");
    if (c->usage_always) {
        *p++ = ',';
        p = put_usage(p, c, tokens);
    }
    if (kind == ROLE_ONLY)
        p = PUT(p, ",\"prompt_token_ids\":null,\"prompt_text\":null");
    p = PUT(p, "}");
    p = put_event_end(p);
    return put_chunk(out, event, (size_t)(p - event));
}

/* Final usage, [DONE], end of the body. */
static char *put_end(char *out, const struct connection *c, uint32_t tokens)
{
    char event[MAX_CHUNK], *p;
    if (c->usage) {
        p = put_event_start(event, c, c->wanted + 1);
        p = put(p, c->front, c->front_length);
        p = PUT(p, "],");
        p = put_usage(p, c, tokens);
        p = PUT(p, "}");
        p = put_event_end(p);
        out = put_chunk(out, event, (size_t)(p - event));
    }
    if (options.mode != NODONE) {
        p = put_event_start(event, c, c->wanted + 2);
        p = PUT(p, "[DONE]");
        p = put_event_end(p);
        out = put_chunk(out, event, (size_t)(p - event));
    }
    return PUT(out, "0\r\n\r\n");
}

/* A whole answer; `extra`: more header lines. */
static bool answer(struct connection *c, const char *status, const char *extra, const char *body, size_t length)
{
    char head[512];
    int n = snprintf(head, sizeof head,
        "HTTP/1.1 %s\r\nserver: truth\r\n%s%scontent-length: %zu\r\n%s\r\n", status, extra,
        length ? "content-type: application/json\r\n" : "", length, c->close_after ? "connection: close\r\n" : "");
    struct buffer all = {0};
    buffer_add(&all, head, (size_t)n);
    buffer_add(&all, body, length);
    bool there = transmit(c, all.data, all.used);
    buffer_free(&all);
    return there;
}

static bool answer_error(struct connection *c, int code, const char *reason, const char *type, const char *message)
{
    char status[64], body[512];
    snprintf(status, sizeof status, "%d %s", code, reason);
    int n = snprintf(body, sizeof body,
        "{\"error\":{\"message\":\"%s\",\"type\":\"%s\",\"param\":null,\"code\":%d}}", message, type, code);
    return answer(c, status, code == 429 ? "retry-after: 1\r\n" : "", body, (size_t)n);
}

static bool send_head(struct connection *c)
{
    char head[256], *p = head;
    p = PUT(p, "HTTP/1.1 200 OK\r\nserver: truth\r\ncontent-type: text/event-stream; charset=utf-8\r\n");
    if (c->close_after)
        p = PUT(p, "connection: close\r\n");
    p = PUT(p, "transfer-encoding: chunked\r\n\r\n");
    return transmit(c, head, (size_t)(p - head));
}

/* --- records ---------------------------------------------------------------------------------------------------- */

static struct record *record_new(struct connection *c, const char *id, size_t id_length, uint32_t tokens)
{
    if (records.used == records.size) {
        records.size = records.size ? 2 * records.size : 4096;
        records.item = must(realloc(records.item, records.size * sizeof *records.item));
    }
    struct record *r = must(calloc(1, sizeof *r));
    records.item[records.used++] = r;
    r->id = id_length ? must(strndup(id, id_length < MAX_ID ? id_length : MAX_ID)) : NULL;
    r->arrival = c->stamp;
    r->connection = c->number;
    r->room = tokens < 1024 ? tokens : 1024;
    r->sent = must(malloc((r->room + 1) * sizeof *r->sent));
    if (!first_arrival)
        first_arrival = c->stamp;
    return r;
}

static void record_tokens(struct record *r, uint32_t n, int64_t due, int64_t now)
{
    while (r->tokens + n > r->room) {
        r->room = 2 * r->room + COALESCED;
        r->sent = must(realloc(r->sent, r->room * sizeof *r->sent));
    }
    int64_t late = now - due;
    if (late > r->late_max)
        r->late_max = late;
    for (uint32_t i = 0; i < n; i++) {
        r->sent[r->tokens++] = now;
        sample_add(&lateness, late);
    }
    tokens_sent += n;
}

/* --- the course of an answer ------------------------------------------------------------------------------------ */

static void take_requests(struct connection *c);

static void finish(struct connection *c)
{
    c->record->done = true;
    c->state = READING;
    streams--;
    unschedule(c);
    if (!c->close_after)
        take_requests(c);
    else if (!c->out.used)
        drain(c);
}

static bool half_way_ends(void)
{
    return options.mode == ERROR200 || options.mode == RST || options.mode == CLOSE || options.mode == HANG;
}

/* When what follows a send at `now`, which was due at `due`, is due. */
static int64_t later(int64_t due, int64_t now, int64_t step)
{
    return due + step >= now ? due + step : now + step / 2;
}

static void after_tokens(struct connection *c, int64_t due, int64_t now)
{
    uint32_t tokens = c->record->tokens;
    if (half_way_ends() && tokens >= c->half_way) {
        if (options.mode == HANG)
            unschedule(c);
        else
            schedule(c, STEP_FAULT, later(due, now, options.gap));
    } else if (tokens >= c->wanted && options.mode != NEVER) {
        finish(c);
    } else if ((options.mode == EMPTY || options.mode == MALFORMED) && tokens >= c->half_way && !c->extra_sent) {
        schedule(c, STEP_EXTRA, later(due, now, options.gap / 2));
    } else {
        schedule(c, STEP_TOKEN, later(due, now, options.mode == COALESCE ? COALESCED * options.gap : options.gap));
    }
}

static void step_token(struct connection *c)
{
    char out[(COALESCED + 3) * MAX_CHUNK], *p = out;
    struct record *r = c->record;
    uint32_t n = 1, total;
    if (options.mode == COALESCE)
        n = c->wanted - r->tokens < COALESCED ? c->wanted - r->tokens : COALESCED;
    total = r->tokens + n;
    bool end = total >= c->wanted && options.mode != NEVER && !(half_way_ends() && total >= c->half_way);
    if (c->chat && !r->tokens && options.mode != ROLE)
        p = put_event(p, c, ROLE_ONLY, 0);
    for (uint32_t k = r->tokens + 1; k <= total; k++) {
        char *start = p;
        p = put_event(p, c, end && k == total ? LAST_TOKEN : TOKEN, k);
        if (options.mode == SPLIT) { /* n is 1: cut the token's own event in half */
            size_t head = (size_t)(start - out) + (size_t)(p - start) / 2;
            c->rest.used = 0;
            if (end)
                p = put_end(p, c, total);
            buffer_add(&c->rest, out + head, (size_t)(p - out) - head);
            if (transmit(c, out, head))
                schedule(c, STEP_HALF, now_ns() + SPLIT_NS);
            return;
        }
    }
    if (end)
        p = put_end(p, c, total);
    int64_t due = c->due, now = now_ns();
    record_tokens(r, n, due, now);
    if (transmit(c, out, (size_t)(p - out)))
        after_tokens(c, due, now);
}

static void step_half(struct connection *c)
{
    int64_t due = c->due, now = now_ns();
    record_tokens(c->record, 1, due, now);
    if (transmit(c, c->rest.data, c->rest.used))
        after_tokens(c, due - SPLIT_NS, now);
}

/* A chunk that brings no token: before the first one (role), or half way. */
static void step_extra(struct connection *c)
{
    char out[2 * MAX_CHUNK], *p;
    enum chunk kind = options.mode == MALFORMED ? BROKEN : EMPTY_TEXT;
    if (options.mode == ROLE && c->chat)
        kind = ROLE_ONLY;
    int64_t token_due = c->record->tokens ? c->due + options.gap - options.gap / 2 : c->first_due;
    p = put_event(out, c, kind, c->record->tokens);
    c->extra_sent = true;
    if (transmit(c, out, (size_t)(p - out)))
        schedule(c, STEP_TOKEN, token_due);
}

static void step_fault(struct connection *c)
{
    static const char ERROR[] =
        "data: {\"error\":{\"message\":\"the engine is dead\",\"type\":\"InternalServerError\",\"param\":null,\"code\":500}}\n\n";
    char out[MAX_CHUNK], *p = out;
    switch (options.mode) {
    case ERROR200:
        p = put_chunk(p, ERROR, sizeof ERROR - 1);
        c->usage = false;
        p = put_end(p, c, 0);
        if (transmit(c, out, (size_t)(p - out)))
            finish(c);
        return;
    case RST:
        c->record->done = true;
        connection_close(c, true);
        return;
    default:
        c->close_after = true;
        finish(c);
    }
}

static void step_whole(struct connection *c)
{
    struct buffer body = {0};
    char usage[128];
    size_t usage_length = (size_t)(put_usage(usage, c, c->wanted) - usage);
    buffer_add(&body, c->front, c->front_length);
    const char *start = c->chat ? "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"" : "{\"index\":0,\"text\":\"";
    buffer_add(&body, start, strlen(start));
    buffer_need(&body, 4 * (size_t)c->wanted);
    for (uint32_t i = 0; i < c->wanted; i++)
        body.used = (size_t)(PUT(body.data + body.used, " tok") - body.data);
    const char *end = c->chat ? "\"},\"logprobs\":null,\"finish_reason\":\"length\",\"stop_reason\":null}],"
                              : "\",\"logprobs\":null,\"finish_reason\":\"length\",\"stop_reason\":null}],";
    buffer_add(&body, end, strlen(end));
    buffer_add(&body, usage, usage_length);
    buffer_add(&body, "}", 1);
    int64_t due = c->due, now = now_ns();
    record_tokens(c->record, c->wanted, due, now);
    if (answer(c, "200 OK", "", body.data, body.used))
        finish(c);
    buffer_free(&body);
}

static void fire(struct connection *c)
{
    switch (c->step) {
    case STEP_HEAD:
        if (send_head(c))
            schedule(c, STEP_TOKEN, c->first_due);
        return;
    case STEP_EXTRA: step_extra(c); return;
    case STEP_TOKEN: step_token(c); return;
    case STEP_HALF: step_half(c); return;
    case STEP_FAULT: step_fault(c); return;
    case STEP_WHOLE: step_whole(c); return;
    }
}

/* --- requests ----------------------------------------------------------------------------------------------------- */

static void start_completion(struct connection *c, const struct request *request, bool chat)
{
    struct ask ask;
    if (!read_ask(request->body, request->body_length, &ask)) {
        answer_error(c, 400, "Bad Request", "BadRequestError", "the body is no JSON object");
        return;
    }
    int64_t wanted = ask.max_completion_tokens >= 0 ? ask.max_completion_tokens : ask.max_tokens;
    wanted = wanted < 0 ? 16 : wanted < 1 ? 1 : wanted > MAX_TOKENS ? MAX_TOKENS : wanted;
    uint32_t n = (uint32_t)records.used;
    struct record *r = record_new(c, request->id, request->id_length, (uint32_t)wanted);
    r->streamed = ask.stream;
    r->status = 200;
    if (options.mode == HTTP429 || options.mode == HTTP500) {
        bool busy = options.mode == HTTP429;
        r->done = true;
        r->status = busy ? 429 : 500;
        if (busy)
            answer_error(c, 429, "Too Many Requests", "RateLimitError", "too many requests: try again later");
        else
            answer_error(c, 500, "Internal Server Error", "InternalServerError", "the engine is dead");
        return;
    }
    c->record = r;
    c->state = ANSWERING;
    if (++streams > most_streams)
        most_streams = streams;
    c->n = n;
    c->wanted = (uint32_t)wanted;
    c->half_way = wanted > 1 ? (uint32_t)wanted / 2 : 1;
    c->prompt_tokens = ask.prompt_tokens;
    c->chat = chat;
    c->usage = ask.include_usage;
    c->usage_always = ask.include_usage && ask.continuous_usage; /* as vLLM does */
    c->extra_sent = false;
    c->created = clock_ns(CLOCK_REALTIME) / SECOND_NS;
    const char *kind = !chat ? "text_completion" : ask.stream ? "chat.completion.chunk" : "chat.completion";
    c->front_length = (size_t)snprintf(c->front, sizeof c->front,
        "{\"id\":\"%s-%" PRIu32 "\",\"object\":\"%s\",\"created\":%" PRId64 ",\"model\":\"%s\",\"choices\":[",
        chat ? "chatcmpl" : "cmpl", n, kind, c->created, options.model);
    int64_t base = r->arrival < frozen_until ? frozen_until : r->arrival;
    if (options.mode == SLOWFIRST)
        base += SLOW_NS;
    c->first_due = base + options.ttft;
    if (options.mode == HANGNOHEAD)
        return;
    if (!ask.stream) {
        schedule(c, STEP_WHOLE, c->first_due + (wanted - 1) * options.gap);
        return;
    }
    if (options.mode == SLOWFIRST) {
        schedule(c, STEP_HEAD, base);
        return;
    }
    if (!send_head(c))
        return;
    if (options.mode == ROLE)
        schedule(c, STEP_EXTRA, base + (options.ttft / 2 < ROLE_NS ? options.ttft / 2 : ROLE_NS));
    else if ((options.mode == EMPTY || options.mode == MALFORMED) && wanted == 1) /* no half way: before the token */
        schedule(c, STEP_EXTRA, base + options.ttft / 2);
    else
        schedule(c, STEP_TOKEN, c->first_due);
}

static void answer_models(struct connection *c)
{
    char body[1024];
    int n = snprintf(body, sizeof body,
        "{\"object\":\"list\",\"data\":[{\"id\":\"%s\",\"object\":\"model\",\"created\":%" PRId64
        ",\"owned_by\":\"vllm\",\"root\":\"%s\",\"parent\":null,\"max_model_len\":131072}]}",
        options.model, clock_ns(CLOCK_REALTIME) / SECOND_NS, options.model);
    answer(c, "200 OK", "", body, (size_t)n);
}

static void answer_count(struct connection *c, const struct request *request)
{
    struct ask ask;
    if (!read_ask(request->body, request->body_length, &ask)) {
        answer_error(c, 400, "Bad Request", "BadRequestError", "the body is no JSON object");
        return;
    }
    char number[24];
    struct buffer body = {0};
    buffer_add(&body, "{\"count\":", 9);
    buffer_add(&body, number, (size_t)(put_number(number, ask.prompt_tokens) - number));
    buffer_add(&body, ",\"max_model_len\":131072,\"tokens\":[", 34);
    for (uint32_t i = 0; i < ask.prompt_tokens; i++)
        buffer_add(&body, i ? ",7" : "7", i ? 2 : 1);
    buffer_add(&body, "],\"token_strs\":null}", 20);
    answer(c, "200 OK", "", body.data, body.used);
    buffer_free(&body);
}

static void take(struct connection *c, const struct request *request)
{
    static const struct { const char *method, *path; } PLACES[] = {
        {"POST", "/v1/completions"}, {"POST", "/v1/chat/completions"}, {"POST", "/tokenize"},
        {"GET", "/health"}, {"GET", "/v1/models"},
    };
    bool known = false;
    for (size_t i = 0; i < sizeof PLACES / sizeof *PLACES; i++) {
        if (!is(request->path, request->path_length, PLACES[i].path))
            continue;
        known = true;
        if (!is(request->method, request->method_length, PLACES[i].method))
            continue;
        switch (i) {
        case 0: start_completion(c, request, false); return;
        case 1: start_completion(c, request, true); return;
        case 2: answer_count(c, request); return;
        case 3: answer(c, "200 OK", "", "", 0); return;
        default: answer_models(c); return;
        }
    }
    if (known)
        answer_error(c, 405, "Method Not Allowed", "BadRequestError", "Method Not Allowed");
    else
        answer_error(c, 404, "Not Found", "NotFoundError", "Not Found");
}

static void refuse(struct connection *c, int code, const char *reason)
{
    c->close_after = true;
    c->in.used = 0;
    if (answer_error(c, code, reason, "BadRequestError", reason) && !c->out.used)
        drain(c);
}

/* Take the requests that are complete, up to the first one whose answer takes time. */
static void take_requests(struct connection *c)
{
    uint32_t generation = c->generation;
    while (c->fd >= 0 && c->generation == generation && c->state == READING && !c->close_after && c->in.used) {
        struct request request;
        if (!c->head) {
            size_t from = c->looked > 3 ? c->looked - 3 : 0;
            char *end = memmem(c->in.data + from, c->in.used - from, "\r\n\r\n", 4);
            c->looked = c->in.used;
            if (!end) {
                if (c->in.used > MAX_HEAD)
                    refuse(c, 431, "Request Header Fields Too Large");
                return;
            }
            c->head = (size_t)(end - c->in.data) + 4;
            if (!read_head(c->in.data, c->head, &request)) {
                refuse(c, 400, "Bad Request");
                return;
            }
            if (request.chunked || request.body_length > MAX_BODY) {
                refuse(c, request.chunked ? 411 : 413, request.chunked ? "Length Required" : "Content Too Large");
                return;
            }
            c->body = request.body_length;
            if (c->in.used < c->head + c->body) {
                buffer_need(&c->in, c->head + c->body - c->in.used);
                if (request.expects && !transmit(c, "HTTP/1.1 100 Continue\r\n\r\n", 25))
                    return;
            }
        } else if (c->in.used >= c->head + c->body) {
            read_head(c->in.data, c->head, &request); /* again: the data may have moved */
        }
        size_t length = c->head + c->body;
        if (c->in.used < length)
            return;
        request.body = c->in.data + c->head;
        c->close_after = request.close;
        take(c, &request);
        if (c->fd < 0 || c->generation != generation)
            return;
        buffer_drop(&c->in, length);
        c->head = c->looked = 0;
        if (c->state == READING && c->close_after && !c->out.used)
            drain(c);
    }
}

static void readable(struct connection *c)
{
    int64_t stamp;
    offset_refresh(&offset);
    buffer_need(&c->in, 2048);
    ssize_t got = recv_stamped(c->fd, c->in.data + c->in.used, c->in.size - c->in.used, &offset, &stamp);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        connection_close(c, false);
        return;
    }
    if (c->state == DRAINING)
        return;
    if (!stamp) {
        unstamped++;
        stamp = now_ns();
    }
    c->stamp = stamp;
    c->in.used += (size_t)got;
    if (c->in.used > MAX_HEAD + (size_t)MAX_BODY) /* a flood of requests during an answer */
        connection_close(c, false);
    else
        take_requests(c);
}

static void writable(struct connection *c)
{
    ssize_t sent = send(c->fd, c->out.data, c->out.used, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN && errno != EINTR)
            connection_close(c, false);
        return;
    }
    buffer_drop(&c->out, (size_t)sent);
    if (c->out.used)
        return;
    watch(c, false);
    if (c->state == READING && c->close_after)
        drain(c);
}

static void accept_some(void)
{
    for (int i = 0; i < EVENTS; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
                return;
            die("accept: %s", strerror(errno));
        }
        if (open_connections < options.max_connections) {
            connection_open(fd);
        } else {
            refused++;
            close(fd);
        }
    }
}

/* --- the dump --------------------------------------------------------------------------------------------------- */

static void put_json_string(FILE *file, const char *text)
{
    fputc('"', file);
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c < 0x20 || c > 0x7e)
            fprintf(file, "\\u%04x", c); /* header values are Latin-1 */
        else if (c == '"' || c == '\\')
            fprintf(file, "\\%c", c);
        else
            fputc(c, file);
    }
    fputc('"', file);
}

static void dump_record(FILE *file, size_t n, const struct record *r)
{
    fprintf(file, "{\"n\":%zu,\"id\":", n);
    put_json_string(file, r->id ? r->id : "");
    fprintf(file, ",\"connection\":%" PRIu32 ",\"status\":%u,\"streamed\":%s,\"arrival_ns\":%" PRId64 ",\"send_ns\":[",
        r->connection, r->status, r->streamed ? "true" : "false", r->arrival);
    for (uint32_t i = 0; i < r->tokens; i++) {
        char number[24], *p = number;
        if (i)
            *p++ = ',';
        p = put_number(p, r->sent[i]);
        fwrite(number, 1, (size_t)(p - number), file);
    }
    fprintf(file, "],\"tokens\":%" PRIu32 ",\"done\":%s,\"closed_early\":%s,\"late_ns_max\":%" PRId64 "}\n", r->tokens,
        r->done ? "true" : "false", r->closed_early ? "true" : "false", r->late_max);
}

static void dump(double cpu)
{
    FILE *file = fopen(options.dump, "w");
    if (!file)
        die("--dump %s: %s", options.dump, strerror(errno));
    setvbuf(file, NULL, _IOFBF, 1 << 20);
    uint64_t in_freeze = 0;
    for (size_t n = 0; n < records.used; n++) {
        const struct record *r = records.item[n];
        dump_record(file, n, r);
        in_freeze += r->arrival >= frozen_from && r->arrival < frozen_until;
    }
    static const double PERCENTS[] = {50, 99, 100};
    double late[3];
    sample_percentiles(&lateness, 3, PERCENTS, late);
    fprintf(file,
        "{\"summary\":true,\"mode\":\"%s\",\"requests\":%zu,\"tokens\":%" PRIu64 ",\"cpu_s\":%.6f,\"send_late_us_p50\":%.3f,"
        "\"send_late_us_p99\":%.3f,\"send_late_us_max\":%.3f,\"arrivals_in_freeze\":%" PRIu64
        ",\"frozen_from_ns\":%" PRId64 ",\"frozen_until_ns\":%" PRId64 ",\"connections\":%" PRIu32 ",\"refused\":%" PRIu32
        ",\"most_streams\":%" PRIu32 ",\"blocked_sends\":%" PRIu64 ",\"unstamped\":%" PRIu64 ",\"fifo\":%s}\n",
        MODES[options.mode], records.used, tokens_sent, cpu, late[0], late[1], late[2], in_freeze, frozen_from, frozen_until,
        opened, refused, most_streams, blocked_sends, unstamped, options.fifo ? "true" : "false");
    if (ferror(file) | fclose(file))
        die("--dump %s: cannot be written: %s", options.dump, strerror(errno));
}

/* --- the loop --------------------------------------------------------------------------------------------------- */

static void stop(int signal)
{
    (void)signal;
    stopping = 1;
}

/* Do nothing for the time of the freeze, then move everything due by as much. */
static void freeze(const sigset_t *while_waiting)
{
    frozen_from = now_ns();
    int64_t until = frozen_from + options.freeze, left;
    while (!stopping && (left = until - now_ns()) > 0) {
        struct timespec wait = {.tv_sec = left / SECOND_NS, .tv_nsec = left % SECOND_NS};
        ppoll(NULL, 0, &wait, while_waiting);
    }
    frozen_until = now_ns();
    for (size_t i = 1; i <= heap.used; i++) {
        heap.item[i]->due += frozen_until - frozen_from;
        heap.item[i]->first_due += frozen_until - frozen_from;
    }
}

static void serve(const sigset_t *while_waiting)
{
    int64_t armed = 0;
    while (!stopping) {
        int64_t now = now_ns(), next = INT64_MAX;
        if (first_arrival && options.freeze_at >= 0 && !frozen_until) {
            next = first_arrival + options.freeze_at;
            if (next <= now) {
                freeze(while_waiting);
                continue;
            }
        }
        for (int i = 0; i < FIRES && heap.used && heap.item[1]->due <= now; i++) {
            fire(heap.item[1]);
            now = now_ns();
        }
        if (heap.used && heap.item[1]->due < next)
            next = heap.item[1]->due;
        if (next != armed && next != INT64_MAX && next > now) {
            arm_timer(timer, next);
            armed = next;
        }
        struct epoll_event events[EVENTS];
        int n = epoll_pwait(poller, events, EVENTS, next <= now ? 0 : -1, while_waiting);
        if (n < 0 && errno != EINTR)
            die("epoll_pwait: %s", strerror(errno));
        for (int i = 0; i < n; i++) {
            uint64_t key = events[i].data.u64;
            if (key == (uint64_t)listener) {
                accept_some();
            } else if (key == STDIN_FILENO) {
                char rest[256];
                if (read(STDIN_FILENO, rest, sizeof rest) <= 0)
                    stopping = 1;
            } else if (key != (uint64_t)timer) {
                struct connection *c = connections[(uint32_t)key];
                uint32_t generation = (uint32_t)(key >> 32);
                if (events[i].events & EPOLLOUT && c->generation == generation && c->fd >= 0)
                    writable(c);
                if (events[i].events & ~(uint32_t)EPOLLOUT && c->generation == generation && c->fd >= 0)
                    readable(c);
            }
        }
    }
}

static int listen_at(const char *host, uint16_t port)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address = {0};
    socklen_t length;
    if (inet_pton(AF_INET, host, &address.v4.sin_addr) == 1) {
        address.v4.sin_family = AF_INET;
        address.v4.sin_port = htons(port);
        length = sizeof address.v4;
    } else if (inet_pton(AF_INET6, host, &address.v6.sin6_addr) == 1) {
        address.v6.sin6_family = AF_INET6;
        address.v6.sin6_port = htons(port);
        length = sizeof address.v6;
    } else {
        die("--host: a numeric address is needed, not '%s'", host);
    }
    int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0)
        die("socket: %s", strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    stamps_on(fd); /* accepted sockets inherit it, so what arrives before accept() is stamped too */
    if (bind(fd, &address.any, length) || listen(fd, 65535))
        die("cannot listen at %s port %u: %s", host, port, strerror(errno));
    if (getsockname(fd, &address.any, &length))
        die("getsockname: %s", strerror(errno));
    printf("listening %u\n", ntohs(address.any.sa_family == AF_INET ? address.v4.sin_port : address.v6.sin6_port));
    return fd;
}

static void add(int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.u64 = (uint64_t)fd};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event))
        die("epoll_ctl on descriptor %d: %s", fd, strerror(errno));
}

static const struct option OPTIONS[] = {
    {"port", required_argument, NULL, 'p'}, {"host", required_argument, NULL, 'h'},
    {"ttft-us", required_argument, NULL, 't'}, {"gap-us", required_argument, NULL, 'g'},
    {"mode", required_argument, NULL, 'm'}, {"freeze-at-s", required_argument, NULL, 'a'},
    {"freeze-s", required_argument, NULL, 'f'}, {"dump", required_argument, NULL, 'd'},
    {"fifo", no_argument, NULL, 'r'}, {"model", required_argument, NULL, 'n'},
    {"max-connections", required_argument, NULL, 'c'}, {"exit-with-stdin", no_argument, NULL, 'e'},
    {NULL, 0, NULL, 0},
};

int main(int argc, char **argv)
{
    const char *host = "127.0.0.1";
    uint16_t port = 0;
    bool mode_known = true;
    for (int option; (option = getopt_long(argc, argv, "", OPTIONS, NULL)) != -1;) {
        switch (option) {
        case 'p': port = (uint16_t)whole_option("port", optarg, 0, 65535); break;
        case 'h': host = optarg; break;
        case 't': options.ttft = 1000 * whole_option("ttft-us", optarg, 0, INT64_C(3600000000)); break;
        case 'g': options.gap = 1000 * whole_option("gap-us", optarg, 0, INT64_C(3600000000)); break;
        case 'm':
            mode_known = false;
            for (int i = 0; MODES[i]; i++) {
                if (!strcmp(optarg, MODES[i])) {
                    options.mode = (enum mode)i;
                    mode_known = true;
                }
            }
            if (!mode_known)
                die("--mode %s: there is none of that name; the head of truth_server.c lists them", optarg);
            break;
        case 'a': options.freeze_at = (int64_t)(1e9 * real_option("freeze-at-s", optarg, 0, 1e6)); break;
        case 'f': options.freeze = (int64_t)(1e9 * real_option("freeze-s", optarg, 0, 1e6)); break;
        case 'd': options.dump = optarg; break;
        case 'r': options.fifo = true; break;
        case 'n':
            options.model = optarg;
            if (strlen(optarg) > 200 || strpbrk(optarg, "\"\\") || strspn(optarg, " ") == strlen(optarg))
                die("--model: 1 to 200 bytes without quotes and backslashes are needed, not '%s'", optarg);
            break;
        case 'c': options.max_connections = (uint32_t)whole_option("max-connections", optarg, 1, 1000000); break;
        case 'e': options.stdin_ends = true; break;
        default: die("usage: truth_server [--port N] [--host ADDRESS] [--ttft-us N] [--gap-us N] [--mode MODE] "
                     "[--freeze-at-s S --freeze-s S] [--dump FILE] [--fifo] [--model NAME] [--max-connections N] "
                     "[--exit-with-stdin]");
        }
    }
    if (optind < argc)
        die("%s: there is no such argument", argv[optind]);
    if ((options.freeze_at >= 0) != (options.freeze > 0))
        die("--freeze-at-s and --freeze-s belong together");

    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_cur != RLIM_INFINITY && options.max_connections > files.rlim_cur - 16)
        options.max_connections = (uint32_t)files.rlim_cur - 16;

    mallopt(M_MMAP_THRESHOLD, 1 << 26); /* memory is kept, so that no page fault comes twice */
    mallopt(M_TRIM_THRESHOLD, INT_MAX);
    struct sigaction action = {.sa_handler = stop};
    sigset_t blocked, while_waiting;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigaddset(&blocked, SIGINT);
    sigprocmask(SIG_BLOCK, &blocked, &while_waiting);
    sigdelset(&while_waiting, SIGTERM);
    sigdelset(&while_waiting, SIGINT);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    prctl(PR_SET_TIMERSLACK, 1);
    if (options.fifo)
        options.fifo = go_fifo();

    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (poller < 0 || timer < 0)
        die("no epoll or timerfd: %s", strerror(errno));
    listener = listen_at(host, port);
    add(listener, EPOLLIN);
    add(timer, EPOLLIN | EPOLLET); /* never read: arming it again is enough */
    if (options.stdin_ends)
        add(STDIN_FILENO, EPOLLIN);
    fflush(stdout);
    serve(&while_waiting);
    close(listener);
    if (options.dump)
        dump(cpu_seconds());
    return 0;
}

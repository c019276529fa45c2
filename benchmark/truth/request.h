/* What a request says: its head, and the few keys of its JSON body that matter here. Pure. */
#ifndef SCOOT_REQUEST_H
#define SCOOT_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

#define MAX_TOKENS 10000000

struct ask {
    int64_t max_tokens, max_completion_tokens; /* -1: not given */
    uint32_t prompt_tokens;
    bool stream, include_usage, continuous_usage;
};

static const char *skip_space(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'))
        p++;
    return p;
}

/* From behind the opening quote to behind the closing one; NULL: there is none. */
static const char *skip_string(const char *p, const char *end)
{
    for (; p < end; p++) {
        if (*p == '"')
            return p + 1;
        if (*p == '\\')
            p++;
    }
    return NULL;
}

/* Behind the value that starts at `p`; NULL: it does not end. */
static const char *skip_value(const char *p, const char *end)
{
    int depth = 0;
    do {
        if (p >= end)
            return NULL;
        if (*p == '"') {
            p = skip_string(p + 1, end);
            if (!p)
                return NULL;
        } else if (*p == '{' || *p == '[') {
            depth++;
            p++;
        } else if (*p == '}' || *p == ']') {
            if (!depth)
                return NULL;
            depth--;
            p++;
        } else if (depth) {
            p++;
        } else {
            const char *start = p;
            while (p < end && !strchr(",}] \t\r\n", *p))
                p++;
            if (p == start)
                return NULL;
        }
    } while (depth);
    return p;
}

static uint32_t text_tokens(size_t bytes)
{
    return (uint32_t)((bytes + 3) / 4);
}

/* Tokens of a prompt: of a text, or the ids of a list (or of all lists in it). */
static uint32_t prompt_tokens(const char *value, const char *end)
{
    if (*value == '"')
        return text_tokens((size_t)(end - value) - 2);
    const char *first = value;
    while (first < end && (*first == '[' || strchr(" \t\r\n", *first)))
        first++;
    if (first == value || first == end || *first == ']')
        return 0;
    if (*first != '-' && (*first < '0' || *first > '9'))
        return text_tokens((size_t)(end - value));
    uint32_t n = 1;
    for (const char *p = first; p < end; p++)
        n += *p == ',';
    return n;
}

static int64_t whole(const char *p, const char *end)
{
    int64_t value = 0;
    if (p == end || *p < '0' || *p > '9')
        return -1;
    for (; p < end && *p >= '0' && *p <= '9' && value <= MAX_TOKENS; p++)
        value = 10 * value + (*p - '0');
    return value;
}

static bool is(const char *p, size_t length, const char *word)
{
    return strlen(word) == length && memcmp(p, word, length) == 0;
}

/* Read an object of the body: the whole, or the one of stream_options. NULL: it is none. */
static const char *read_object(const char *p, const char *end, bool top, struct ask *ask)
{
    p = skip_space(p, end);
    if (p == end || *p != '{')
        return NULL;
    p = skip_space(p + 1, end);
    if (p < end && *p == '}')
        return p + 1;
    for (;;) {
        if (p == end || *p != '"')
            return NULL;
        const char *key = p + 1;
        p = skip_string(key, end);
        if (!p)
            return NULL;
        size_t length = (size_t)(p - key) - 1;
        p = skip_space(p, end);
        if (p == end || *p != ':')
            return NULL;
        const char *value = skip_space(p + 1, end);
        p = skip_value(value, end);
        if (!p)
            return NULL;
        bool yes = is(value, (size_t)(p - value), "true");
        if (!top) {
            if (is(key, length, "include_usage"))
                ask->include_usage = yes;
            else if (is(key, length, "continuous_usage_stats"))
                ask->continuous_usage = yes;
        } else if (is(key, length, "max_tokens")) {
            ask->max_tokens = whole(value, p);
        } else if (is(key, length, "max_completion_tokens")) {
            ask->max_completion_tokens = whole(value, p);
        } else if (is(key, length, "stream")) {
            ask->stream = yes;
        } else if (is(key, length, "stream_options")) {
            if (*value == '{' && !read_object(value, p, false, ask))
                return NULL;
        } else if (is(key, length, "prompt")) {
            ask->prompt_tokens = prompt_tokens(value, p);
        } else if (is(key, length, "messages")) {
            ask->prompt_tokens = text_tokens((size_t)(p - value));
        }
        p = skip_space(p, end);
        if (p < end && *p == '}')
            return p + 1;
        if (p == end || *p != ',')
            return NULL;
        p = skip_space(p + 1, end);
    }
}

static bool read_ask(const char *body, size_t length, struct ask *ask)
{
    *ask = (struct ask){.max_tokens = -1, .max_completion_tokens = -1};
    const char *end = body + length, *p = read_object(body, end, true, ask);
    return p && skip_space(p, end) == end;
}

struct request {
    const char *method, *path, *id, *body;
    size_t method_length, path_length, id_length, body_length;
    bool close, expects, chunked;
};

static bool starts(const char *line, size_t length, const char *name, const char **value, size_t *value_length)
{
    size_t n = strlen(name);
    if (length <= n || line[n] != ':' || strncasecmp(line, name, n))
        return false;
    const char *p = line + n + 1, *end = line + length;
    while (p < end && (*p == ' ' || *p == '\t'))
        p++;
    while (end > p && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    *value = p;
    *value_length = (size_t)(end - p);
    return true;
}

/* A head that ends with an empty line. False: it is none. */
static bool read_head(const char *p, size_t length, struct request *request)
{
    const char *end = p + length - 2; /* the empty line */
    *request = (struct request){.method = p};
    const char *line_end = memmem(p, length, "\r\n", 2);
    const char *space = memchr(p, ' ', (size_t)(line_end - p));
    if (!space)
        return false;
    request->method_length = (size_t)(space - p);
    request->path = space + 1;
    space = memchr(request->path, ' ', (size_t)(line_end - request->path));
    if (!space || line_end - space != 9 || memcmp(space + 1, "HTTP/1.", 7))
        return false;
    request->close = line_end[-1] == '0';
    const char *query = memchr(request->path, '?', (size_t)(space - request->path));
    request->path_length = (size_t)((query ? query : space) - request->path);
    for (p = line_end + 2; p < end; p = line_end + 2) {
        const char *value;
        size_t n;
        line_end = memmem(p, (size_t)(end - p), "\r\n", 2);
        if (!line_end)
            return false;
        length = (size_t)(line_end - p);
        if (starts(p, length, "content-length", &value, &n)) {
            int64_t size = 0;
            if (!n)
                return false;
            for (size_t i = 0; i < n; i++) {
                if (value[i] < '0' || value[i] > '9' || size > INT64_C(1) << 50)
                    return false;
                size = 10 * size + (value[i] - '0');
            }
            request->body_length = (size_t)size;
        } else if (starts(p, length, "x-request-id", &value, &n)) {
            request->id = value;
            request->id_length = n;
        } else if (starts(p, length, "connection", &value, &n)) {
            if (n == 5 && !strncasecmp(value, "close", 5))
                request->close = true;
            else if (n == 10 && !strncasecmp(value, "keep-alive", 10))
                request->close = false;
        } else if (starts(p, length, "expect", &value, &n)) {
            request->expects = true;
        } else if (starts(p, length, "transfer-encoding", &value, &n)) {
            request->chunked = true;
        }
    }
    return true;
}

#endif

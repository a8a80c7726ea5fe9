/* The plain HTTP traffic: each request and its answer follow from a kind and a number, so that either side can check
 * every byte the other one sent. */
#define _GNU_SOURCE
#include "load_http.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SMALL_BYTES = 50, VARIED_BYTES = 512, DOWNLOAD_BYTES = 256 * 1024, UPLOAD_BYTES = 1024 * 1024, SHIFTS = 4093 };

static const char *const names[KINDS] = {"get", "varied", "download", "chunked", "upload", "events", "round"};

/* Proxies pay for every field they parse and forward. */
const struct field browser_fields[] = {
    {"User-Agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"},
    {"Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"},
    {"Accept-Language", "en-US,en;q=0.9"},
    {"Accept-Encoding", "gzip, deflate, br"},
    {"Cache-Control", "max-age=0"},
    {"Cookie", "session=7f3c9a51d2e84b06; theme=dark; consent=1"},
    {"Referer", "http://127.0.0.1/items"},
    {"Sec-Fetch-Mode", "cors"},
    {NULL, NULL},
};

/* Where the body of a number starts: each is another stretch of the same noise. */
static const uint8_t *noise(uint64_t number) {
    static uint8_t *bytes;
    if (!bytes) {
        uint64_t state = 0x9E3779B97F4A7C15u;
        bytes = allocate(UPLOAD_BYTES + SHIFTS);
        for (size_t i = 0; i < UPLOAD_BYTES + SHIFTS; i++) {
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;
            bytes[i] = (uint8_t)(state >> 32);
        }
    }
    return bytes + number % SHIFTS;
}

static uint64_t scatter(uint64_t number) {
    number = (number + 1) * 0x9E3779B97F4A7C15u;
    return number ^ number >> 29;
}

enum kind kind_named(const char *name) {
    for (int kind = 0; kind < KINDS; kind++) {
        if (!strcmp(names[kind], name)) return (enum kind)kind;
    }
    return KINDS;
}

/* KINDS for a target that no client here sends. */
enum kind kind_of_target(const char *target, uint64_t *number) {
    char name[16] = "", right[TARGET_MAX];
    unsigned long long found = 0;
    if (sscanf(target, "/%15[a-z]/%llu", name, &found) < 1) return KINDS;
    *number = found;
    enum kind kind = kind_named(name);
    size_t length = strcspn(target, " ");
    if (kind == KINDS || make_target(kind, found, right) != length || memcmp(right, target, length)) return KINDS;
    return kind;
}

size_t make_target(enum kind kind, uint64_t number, char out[TARGET_MAX]) {
    unsigned long long shown = number, token = scatter(number);
    if (kind == GET) return (size_t)sprintf(out, "/get/0?page=2&sort=name");
    if (kind == VARIED) return (size_t)sprintf(out, "/varied/%llu?user=%llu&token=%016llx", shown, token % 100003, token);
    return (size_t)sprintf(out, "/%s/%llu", names[kind], shown);
}

size_t make_request_head(enum kind kind, uint64_t number, int port, char out[REQUEST_HEAD_MAX]) {
    char target[TARGET_MAX], *end = out;
    const uint8_t *body;
    make_target(kind, number, target);
    end += sprintf(end, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: keep-alive\r\n",
                   kind == UPLOAD ? "POST" : "GET", target, port);
    for (const struct field *field = browser_fields; field->name; field++) {
        end += sprintf(end, "%s: %s\r\n", field->name, field->value);
    }
    if (kind == UPLOAD) {
        end += sprintf(end, "Content-Type: application/octet-stream\r\nContent-Length: %zu\r\n",
                       request_body(kind, number, &body));
    }
    end += sprintf(end, "\r\n");
    return (size_t)(end - out);
}

size_t request_body(enum kind kind, uint64_t number, const uint8_t **body) {
    *body = noise(number);
    return kind == UPLOAD ? UPLOAD_BYTES : 0;
}

struct shape shape_of(enum kind kind, uint64_t number) {
    struct shape shape = {.content_type = "application/octet-stream", .body_bytes = SMALL_BYTES};
    shape.body = noise(kind == GET ? 0 : number + 1);   /* another stretch than the request's own body */
    if (kind == VARIED) {
        shape.body_bytes = scatter(number) % VARIED_BYTES;
        snprintf(shape.etag, sizeof shape.etag, "\"%016llx\"", (unsigned long long)scatter(~number));
    } else if (kind == DOWNLOAD || kind == CHUNKED) {
        shape.body_bytes = DOWNLOAD_BYTES;
        shape.chunked = kind == CHUNKED;
    } else if (kind == EVENTS) {
        shape.content_type = "text/event-stream";
        shape.chunked = shape.endless = true;
    }
    return shape;
}

/* About 100 bytes of text/event-stream. */
size_t make_event(uint64_t stream, uint64_t number, char out[EVENT_MAX]) {
    return (size_t)snprintf(out, EVENT_MAX,
                            "id: %08llu\nevent: price\ndata: {\"stream\": %06llu, \"token\": \"%016llx\", \"open\": true}\n\n",
                            (unsigned long long)number, (unsigned long long)stream,
                            (unsigned long long)scatter(number * 100003 + stream));
}

/* The plain HTTP side of the server: checks each request, then answers it. One after the other: a proxy that sends a
 * request before the answer to the one before it is complete is cut off.
 *
 * A body is never copied: an answer is sent from where its bytes are. Event streams stay open; a request for a round
 * sends one event to each of them. */
#define _GNU_SOURCE
#include "load_backend.h"
#include "load_http.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

enum { CHUNK_BYTES = 16 * 1024, HEAD_MAX = 512, CHUNKS_MAX = 32, PARTS_MAX = 1 + 3 * CHUNKS_MAX };
static const char chunk_start[] = "4000\r\n", chunk_end[] = "\r\n", last_chunk[] = "\r\n0\r\n\r\n";

struct exchange {
    enum kind kind;
    uint64_t number;
    size_t body_taken, body_bytes;       /* of the request */
    bool answering;
    struct shape shape;
    char head[HEAD_MAX];
    size_t head_bytes, sent;             /* of the answer */
    uint32_t stream;                     /* its place in `streams`, while it is one */
};

static uint32_t *streams, stream_count, stream_room;   /* descriptors of open event streams */

bool in_request_body(const struct connection *c) {
    return c->exchange && c->exchange->body_taken < c->exchange->body_bytes;
}

bool in_answer(const struct connection *c) { return c->exchange && c->exchange->answering; }

static bool is_stream(const struct connection *c) { return c->exchange && c->exchange->shape.endless; }

void forget_exchange(struct connection *c) {
    if (is_stream(c)) {
        uint32_t place = c->exchange->stream, moved = streams[--stream_count];
        streams[place] = moved;
        connection_at((int)moved)->exchange->stream = place;
    }
    free(c->exchange);
    c->exchange = NULL;
}

/* As a real server's: the same for a second. */
static const char *date(void) {
    static char text[40];
    static time_t shown;
    time_t now = time(NULL);
    if (now != shown) {
        strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", gmtime(&now));
        shown = now;
    }
    return text;
}

static void make_head(struct exchange *x) {
    char *end = x->head;
    end += sprintf(end, "HTTP/1.1 200 OK\r\nServer: load\r\nDate: %s\r\nContent-Type: %s\r\n", date(),
                   x->shape.content_type);
    if (x->shape.etag[0]) end += sprintf(end, "ETag: %s\r\n", x->shape.etag);
    if (x->shape.chunked) end += sprintf(end, "Transfer-Encoding: chunked\r\n\r\n");
    else end += sprintf(end, "Content-Length: %zu\r\n\r\n", x->shape.body_bytes);
    x->head_bytes = (size_t)(end - x->head);
}

/* The whole answer, in parts. */
static size_t parts_of(const struct exchange *x, struct iovec parts[PARTS_MAX]) {
    struct iovec *next = parts;
    *next++ = (struct iovec){(void *)x->head, x->head_bytes};
    if (!x->shape.chunked) {
        *next++ = (struct iovec){(void *)x->shape.body, x->shape.body_bytes};
        return (size_t)(next - parts);
    }
    for (size_t at = 0; at < x->shape.body_bytes; at += CHUNK_BYTES) {
        bool last = at + CHUNK_BYTES == x->shape.body_bytes;
        *next++ = (struct iovec){(void *)chunk_start, sizeof chunk_start - 1};
        *next++ = (struct iovec){(void *)(x->shape.body + at), CHUNK_BYTES};
        if (last) *next++ = (struct iovec){(void *)last_chunk, sizeof last_chunk - 1};
        else *next++ = (struct iovec){(void *)chunk_end, sizeof chunk_end - 1};
    }
    return (size_t)(next - parts);
}

/* Sends what the peer takes of the answer. */
bool send_answer(int fd, struct connection *c) {
    struct exchange *x = c->exchange;
    struct iovec all[PARTS_MAX], *parts = all;
    size_t count = parts_of(x, all), skip = x->sent, total = 0;
    for (; count && skip >= parts->iov_len; parts++, count--) skip -= parts->iov_len;
    if (count) parts->iov_base = (char *)parts->iov_base + skip, parts->iov_len -= skip;
    for (size_t i = 0; i < count; i++) total += parts[i].iov_len;
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
    ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN) return false;
        sent = 0;
    }
    x->sent += (size_t)sent;
    x->answering = (size_t)sent < total;
    wait_for_room(fd, c, x->answering);
    return true;
}

static void open_stream(int fd, struct exchange *x) {
    if (stream_count == stream_room) {
        stream_room = stream_room ? stream_room * 2 : 1024;
        streams = realloc(streams, stream_room * sizeof *streams);
        if (!streams) fail("out of memory");
    }
    x->stream = stream_count;
    streams[stream_count++] = (uint32_t)fd;
}

/* An event to each stream, in one chunk each. A stream that has gone shows when its socket is read. */
static void send_round(uint64_t number) {
    for (uint32_t i = 0; i < stream_count; i++) {
        char event[EVENT_MAX], chunk[EVENT_MAX + 16];
        int fd = (int)streams[i];
        struct connection *c = connection_at(fd);
        size_t bytes = make_event(c->exchange->number, number, event);
        int chunk_bytes = sprintf(chunk, "%zx\r\n%s\r\n", bytes, event);
        if (c->waiting) keep(c, (uint8_t *)chunk, (size_t)chunk_bytes);
        else send_some(fd, c, (uint8_t *)chunk, (size_t)chunk_bytes);
    }
}

static bool answer_now(int fd, struct connection *c) {
    struct exchange *x = c->exchange;
    x->shape = shape_of(x->kind, x->number);
    x->sent = 0;
    make_head(x);
    if (x->shape.endless) {
        open_stream(fd, x);
        return send_some(fd, c, (uint8_t *)x->head, x->head_bytes);
    }
    if (x->kind == ROUND) send_round(x->number);
    return send_answer(fd, c);
}

/* A 400 that says what is wrong, for the client to print; then the end. */
static bool refuse(int fd, struct connection *c, const char *what) {
    char text[512];
    int bytes = snprintf(text, sizeof text,
                         "HTTP/1.1 400 Bad Request\r\nX-Refused: %s\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", what);
    c->closing = true;
    return send_some(fd, c, (uint8_t *)text, (size_t)bytes);
}

static const char *wrong_field(const char *head) {
    for (const struct field *field = browser_fields; field->name; field++) {
        const char *value = find_header(head, field->name);
        size_t length = strlen(field->value);
        if (!value || strncmp(value, field->value, length) || value[length] != '\r') return field->name;
    }
    return find_header(head, "Host") ? NULL : "Host";
}

bool answer_request(int fd, struct connection *c, const char *head, const uint8_t *body, size_t body_bytes) {
    if (is_stream(c)) return false;
    if (!c->exchange) c->exchange = allocate(sizeof *c->exchange);
    struct exchange *x = c->exchange;
    const char *target = strchr(head, ' '), *wrong = wrong_field(head);
    const uint8_t *right;
    x->kind = target ? kind_of_target(target + 1, &x->number) : KINDS;
    if (x->kind == KINDS) return refuse(fd, c, "another target than was sent");
    if (wrong) return refuse(fd, c, wrong);
    if (strncmp(head, x->kind == UPLOAD ? "POST " : "GET ", x->kind == UPLOAD ? 5 : 4)) return refuse(fd, c, "the method");
    x->body_bytes = request_body(x->kind, x->number, &right);
    x->body_taken = 0;
    const char *length = find_header(head, "Content-Length");
    if ((length ? strtoull(length, NULL, 10) : 0) != x->body_bytes) return refuse(fd, c, "Content-Length");
    if (x->body_bytes) return take_request_body(fd, c, body, body_bytes);
    return !body_bytes && answer_now(fd, c);
}

bool take_request_body(int fd, struct connection *c, const uint8_t *in, size_t count) {
    struct exchange *x = c->exchange;
    const uint8_t *right;
    request_body(x->kind, x->number, &right);
    if (count > x->body_bytes - x->body_taken) return false;
    if (memcmp(in, right + x->body_taken, count)) return refuse(fd, c, "damaged bytes of the body");
    x->body_taken += count;
    return x->body_taken < x->body_bytes || answer_now(fd, c);
}

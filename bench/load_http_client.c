/* Clients of plain HTTP: kept-alive connections, one request under way on each.
 *
 * The whole answer is compared with what the backend must have sent. A connection that the proxy announces to close is
 * opened again, as browsers do. */
#define _GNU_SOURCE
#include "load_http.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

struct client {
    int fd;                              /* -1: not connected */
    bool waiting;                        /* for the connection, or for room to send the rest of a request */
    enum { CONNECTING, SHAKING, OPEN } state;
    uint64_t number, started_ns;
    char head[REQUEST_HEAD_MAX];
    const uint8_t *body;
    size_t head_bytes, body_bytes, sent;
    struct shape shape;
    struct answer answer;
    size_t taken;                        /* of the answer's body */
};

static struct client *clients;
static int epoll, port;
static enum kind kind;
static uint64_t next_number;
static uint8_t received[RECEIVE_BYTES];
static long outstanding;

static void wait_for_room(struct client *c, bool waiting) {
    if (waiting == c->waiting) return;
    c->waiting = waiting;
    watch(epoll, EPOLL_CTL_MOD, c->fd, waiting ? EPOLLIN | EPOLLOUT : EPOLLIN, (uint32_t)(c - clients));
}

static void send_rest(struct client *c) {
    size_t in_head = c->sent < c->head_bytes ? c->sent : c->head_bytes, in_body = c->sent - in_head;
    struct iovec parts[2] = {{c->head + in_head, c->head_bytes - in_head},
                             {(void *)(c->body + in_body), c->body_bytes - in_body}};
    ssize_t count = wire_send_parts(c->fd, parts, c->body_bytes ? 2 : 1);
    if (count < 0 && errno != EAGAIN) {
        ssize_t bytes = wire_receive(c->fd, received, sizeof received - 1);
        fail("request %llu was cut after %zu bytes: %s; its answer: %.*s", (unsigned long long)c->number, c->sent,
             strerror(errno), bytes > 0 ? (int)bytes : 0, received);
    }
    if (count > 0) c->sent += (size_t)count;
    wait_for_room(c, c->sent < c->head_bytes + c->body_bytes);
}

static void disconnect(struct client *c) {
    wire_close(c->fd);
    c->fd = -1;
}

static void start_request(struct client *c) {
    if (kind != GET || !c->head_bytes) {   /* every GET is the same */
        c->number = next_number++;
        c->head_bytes = make_request_head(kind, c->number, port, c->head);
        c->body_bytes = request_body(kind, c->number, &c->body);
        c->shape = shape_of(kind, c->number);
    }
    c->started_ns = now_ns();
    c->sent = c->taken = 0;
    begin_answer(&c->answer);
    outstanding++;
    if (c->fd >= 0) {
        send_rest(c);
        return;
    }
    c->fd = open_connection(port, (uint64_t)(c - clients));
    c->state = CONNECTING;
    c->waiting = true;
    watch(epoll, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLOUT, (uint32_t)(c - clients));
}

/* Goes on opening the connection; then the request goes out. */
static void open_further(struct client *c) {
    if (c->state == CONNECTING) wire_begin(c->fd);
    c->state = SHAKING;
    uint32_t event = wire_shake(c->fd);
    if (event) {
        wait_for_room(c, event == EPOLLOUT);
        return;
    }
    c->state = OPEN;
    send_rest(c);
}

/* Takes what came; true when the whole answer is there, which is then as it must be. */
static bool take(struct client *c) {
    ssize_t count = wire_receive(c->fd, received, sizeof received);
    if (count < 0 && errno == EAGAIN) return false;
    if (count <= 0) {
        fail("request %llu was cut after %zu bytes of the answer's body: %s", (unsigned long long)c->number, c->taken,
             count ? strerror(errno) : "end of stream");
    }
    const uint8_t *in = received, *piece;
    size_t left = (size_t)count, bytes;
    if (c->answer.state == IN_HEAD && !read_answer_head(&c->answer, &c->shape, &in, &left)) return false;
    while ((bytes = read_answer_body(&c->answer, &in, &left, &piece))) {
        if (bytes > c->shape.body_bytes - c->taken || memcmp(piece, c->shape.body + c->taken, bytes)) {
            fail("request %llu: damaged bytes behind %zu of the answer's body", (unsigned long long)c->number, c->taken);
        }
        c->taken += bytes;
    }
    if (c->answer.state != COMPLETE) return false;
    if (c->taken != c->shape.body_bytes) fail("an answer of %zu bytes, not %zu", c->taken, c->shape.body_bytes);
    if (left) fail("bytes behind an answer that the backend never sent");
    if (c->waiting) fail("request %llu was answered before it was sent", (unsigned long long)c->number);
    histogram_add(now_ns() - c->started_ns);
    outstanding--;
    if (c->answer.close) disconnect(c);
    return true;
}

/* Runs until the time is over and every request is answered; returns how many were. */
static long exchange(const struct options *options, double run_seconds) {
    struct epoll_event events[256];
    uint64_t end = now_ns() + (uint64_t)(run_seconds * 1e9);
    long answers = 0;
    for (int i = 0; i < options->tunnels; i++) {
        struct client *c = &clients[i];
        uint8_t byte;                    /* it may have been closed while it was silent */
        if (c->fd >= 0 && (recv(c->fd, &byte, 1, MSG_PEEK) >= 0 || errno != EAGAIN)) disconnect(c);
        start_request(c);
    }
    while (outstanding) {
        int count = epoll_wait(epoll, events, 256, 5000);
        if (count == 0) fail("no answer for 5 s with %ld requests under way", outstanding);
        for (int i = 0; i < count; i++) {
            struct client *c = &clients[events[i].data.u32];
            if (c->state != OPEN) {
                open_further(c);
                continue;
            }
            if (c->waiting && events[i].events & EPOLLOUT) send_rest(c);
            if (!(events[i].events & ~(uint32_t)EPOLLOUT) || !take(c)) continue;
            answers++;
            if (now_ns() < end) start_request(c);
        }
    }
    return answers;
}

void run_http(const struct options *options, enum kind of_kind) {
    kind = of_kind, port = options->port;
    clients = allocate((size_t)options->tunnels * sizeof *clients);
    for (int i = 0; i < options->tunnels; i++) clients[i].fd = -1;
    epoll = epoll_create1(EPOLL_CLOEXEC);
    exchange(options, options->warmup_seconds);
    for (;;) {
        gate("warm");
        histogram_reset();
        uint64_t started = now_ns();
        long answers = exchange(options, options->seconds);
        print_result(answers, started);
    }
}

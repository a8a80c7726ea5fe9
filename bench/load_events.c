/* Clients of open event streams (text/event-stream): in a round each stream gets one event, and the next round begins
 * when all are there.
 *
 * The backend sends a round when it is asked to by a request that does not go through the proxy. */
#define _GNU_SOURCE
#include "load_http.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>

struct stream {
    int fd;
    struct answer answer;
    size_t taken;                        /* of this round's event */
};

static struct stream *streams;
static int epoll, backend;
static uint64_t round_number;
static uint8_t received[RECEIVE_BYTES];

/* The socket blocks, for 10 s at most. */
static int connect_to(int port, uint64_t number) {
    int fd = open_connection(port, number);
    struct timeval patience = {.tv_sec = 10};
    fcntl(fd, F_SETFL, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    return fd;
}

static void ask(int fd, int port, enum kind kind, uint64_t number) {
    char head[REQUEST_HEAD_MAX];
    size_t bytes = make_request_head(kind, number, port, head);
    if (send(fd, head, bytes, MSG_NOSIGNAL) != (ssize_t)bytes) fail("send a request: %s", strerror(errno));
}

static size_t receive(int fd) {
    ssize_t count = recv(fd, received, sizeof received, 0);
    if (count <= 0) fail("no answer to a request for events: %s", count ? strerror(errno) : "end of stream");
    return (size_t)count;
}

static void open_streams(const struct options *options) {
    streams = allocate((size_t)options->tunnels * sizeof *streams);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < options->tunnels; i++) {
        struct stream *s = &streams[i];
        struct shape shape = shape_of(EVENTS, (uint64_t)i);
        const uint8_t *in;
        size_t left;
        s->fd = connect_to(options->port, (uint64_t)i);
        ask(s->fd, options->port, EVENTS, (uint64_t)i);
        begin_answer(&s->answer);
        do {
            in = received, left = receive(s->fd);
        } while (!read_answer_head(&s->answer, &shape, &in, &left));
        if (left) fail("stream %d received an event that was not sent yet", i);
        fcntl(s->fd, F_SETFL, O_NONBLOCK);
        watch(epoll, EPOLL_CTL_ADD, s->fd, EPOLLIN, (uint32_t)i);
    }
}

/* Takes what came; true when the round's event is there, whole and right. */
static bool take(struct stream *s) {
    ssize_t count = recv(s->fd, received, sizeof received, 0);
    if (count < 0 && errno == EAGAIN) return false;
    if (count <= 0) fail("stream %ld was cut: %s", s - streams, count ? strerror(errno) : "end of stream");
    char event[EVENT_MAX];
    size_t event_bytes = make_event((uint64_t)(s - streams), round_number, event), left = (size_t)count, bytes;
    size_t before = s->taken;
    const uint8_t *in = received, *piece;
    while ((bytes = read_answer_body(&s->answer, &in, &left, &piece))) {
        if (bytes > event_bytes - s->taken || memcmp(piece, event + s->taken, bytes)) {
            fail("stream %ld received another event than was sent", s - streams);
        }
        s->taken += bytes;
    }
    if (s->answer.state == COMPLETE) fail("stream %ld was ended", s - streams);
    return s->taken == event_bytes && before < event_bytes;
}

/* Sends an event to every stream; returns when all are there. The end of a chunk may come behind its event. */
static void run_round(const struct options *options) {
    struct epoll_event events[256];
    uint64_t started = now_ns();
    for (int i = 0; i < options->tunnels; i++) streams[i].taken = 0;
    ask(backend, options->backend_port, ROUND, ++round_number);
    for (int missing = options->tunnels; missing;) {
        int count = epoll_wait(epoll, events, 256, 5000);
        if (count == 0) fail("no event for 5 s while %d streams wait for one", missing);
        for (int i = 0; i < count; i++) {
            if (!take(&streams[events[i].data.u32])) continue;
            histogram_add(now_ns() - started);
            missing--;
        }
    }
    struct answer answer = {.head = NULL};
    struct shape shape = shape_of(ROUND, round_number);
    begin_answer(&answer);
    for (size_t taken = 0; answer.state != COMPLETE;) {
        const uint8_t *in = received, *piece;
        size_t left = receive(backend), bytes;
        if (answer.state == IN_HEAD && !read_answer_head(&answer, &shape, &in, &left)) continue;
        while ((bytes = read_answer_body(&answer, &in, &left, &piece))) {
            if (memcmp(piece, shape.body + taken, bytes)) fail("the backend answers a round with damaged bytes");
            taken += bytes;
        }
    }
}

static long run_rounds(const struct options *options, double seconds) {
    uint64_t end = now_ns() + (uint64_t)(seconds * 1e9);
    long events = 0;
    do {
        run_round(options);
        events += options->tunnels;
    } while (now_ns() < end);
    return events;
}

void run_events(const struct options *options) {
    open_streams(options);
    backend = connect_to(options->backend_port, 0);
    run_rounds(options, options->warmup_seconds);
    for (;;) {
        gate("warm");
        histogram_reset();
        uint64_t started = now_ns();
        long events = run_rounds(options, options->seconds);
        print_result(events, started);
    }
}

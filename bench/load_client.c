/* Clients that keep tunnels: `echo` and `latency` (messages), `idle` and `pinged` (silence).
 *
 * Every message carries its tunnel and number, and the whole answer is compared with what must come back. Pings of the
 * proxy's own are answered on all of them. */
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { STAMP_BYTES = 16, CONTROL_BYTES_MAX = 125, TENTHS = 36000, TENTH_NS = 100000000 };
#define STDIN_INDEX UINT32_MAX
#define LATEST_NS 1000000000u
#define UNTIL_TOLD (-1.0)                 /* instead of seconds: until the next line on stdin */

struct tunnel {
    int fd;
    bool waiting;                        /* for room to send the rest of a message */
    uint64_t number, due_ns;             /* of the message under way; due_ns is 0 while there is none */
    uint64_t late;                       /* messages of an open loop that are due and wait for the one before them */
    uint64_t heard_ns;                   /* when the latest Ping came */
    size_t sent, got;
};

static const uint8_t mask_key[4] = {0x37, 0xfa, 0x21, 0x3d};
static struct tunnel *tunnels;
static int epoll;
static size_t payload_bytes;
static uint8_t *pattern, *masked_pattern;   /* the payload behind the stamp */
static uint8_t received[RECEIVE_BYTES];
static long outstanding, pings;

static void stamp(const struct tunnel *t, uint8_t out[STAMP_BYTES]) {
    uint64_t index = (uint64_t)(t - tunnels);
    memcpy(out, &index, 8);
    memcpy(out + 8, &t->number, 8);
}

static void send_rest(struct tunnel *t) {
    uint8_t head[FRAME_HEADER_MAX + STAMP_BYTES], plain[STAMP_BYTES];
    size_t head_bytes = frame_header(head, OP_BINARY, payload_bytes, mask_key);
    stamp(t, plain);
    unmask(head + head_bytes, plain, STAMP_BYTES, mask_key, 0);
    head_bytes += STAMP_BYTES;
    size_t total = head_bytes + payload_bytes - STAMP_BYTES, in_pattern = t->sent > head_bytes ? t->sent - head_bytes : 0;
    size_t in_head = t->sent < head_bytes ? t->sent : head_bytes;
    struct iovec parts[2] = {{head + in_head, head_bytes - in_head},
                             {masked_pattern + in_pattern, payload_bytes - STAMP_BYTES - in_pattern}};
    ssize_t count = wire_send_parts(t->fd, parts, 2);
    if (count < 0 && errno != EAGAIN) fail("tunnel %ld was cut while sending: %s", t - tunnels, strerror(errno));
    if (count > 0) t->sent += (size_t)count;
    bool rest = t->sent < total;
    if (rest != t->waiting) {
        t->waiting = rest;
        watch(epoll, EPOLL_CTL_MOD, t->fd, rest ? EPOLLIN | EPOLLOUT : EPOLLIN, (uint32_t)(t - tunnels));
    }
}

static void start_message(struct tunnel *t, uint64_t due_ns) {
    t->number++;
    t->due_ns = due_ns;
    t->sent = t->got = 0;
    outstanding++;
    send_rest(t);
}

/* Answers the Pings of a keepalive at the head of what came, each of them whole; returns how many bytes they take. */
static size_t answer_pings(const struct tunnel *t, const uint8_t *in, size_t bytes) {
    const uint8_t *first = in, *end = in + bytes;
    while (end - in >= 2 && in[0] == (0x80 | OP_PING) && in[1] <= CONTROL_BYTES_MAX && end - in >= 2 + in[1]) {
        uint8_t pong[FRAME_HEADER_MAX + CONTROL_BYTES_MAX];
        size_t used = frame_header(pong, OP_PONG, in[1], mask_key);
        unmask(pong + used, in + 2, in[1], mask_key, 0);
        used += in[1];
        ssize_t sent = wire_send(t->fd, pong, used);   /* a tunnel that was cut shows when it is read */
        if (sent < 0 ? errno == EAGAIN : (size_t)sent < used) fail("tunnel %ld takes no Pong", t - tunnels);
        in += 2 + in[1];
        pings++;
    }
    return (size_t)(in - first);
}

/* Takes what came; true when a whole answer is there, which is then as it must be. Pings may come before and behind. */
static bool take(struct tunnel *t) {
    ssize_t count = wire_receive(t->fd, received, sizeof received);
    if (count < 0 && errno == EAGAIN) return false;
    if (count <= 0) fail("tunnel %ld was cut: %s", t - tunnels, count ? strerror(errno) : "end of stream");
    uint8_t head[FRAME_HEADER_MAX + STAMP_BYTES];
    size_t head_bytes = frame_header(head, OP_BINARY, payload_bytes, NULL);
    stamp(t, head + head_bytes);
    head_bytes += STAMP_BYTES;
    size_t total = head_bytes + payload_bytes - STAMP_BYTES, left = (size_t)count;
    const uint8_t *in = received;
    if (!t->due_ns || !t->got) {
        size_t asked = answer_pings(t, in, left);
        in += asked, left -= asked;
        if (!left) return false;
    }
    if (!t->due_ns) fail("tunnel %ld received bytes that nobody sent", t - tunnels);
    if (t->got < head_bytes) {
        size_t here = left < head_bytes - t->got ? left : head_bytes - t->got;
        if (memcmp(in, head + t->got, here)) fail("tunnel %ld received another message than it sent", t - tunnels);
        t->got += here, in += here, left -= here;
    }
    size_t here = left < total - t->got ? left : total - t->got;
    if (here && memcmp(in, pattern + (t->got - head_bytes), here)) fail("tunnel %ld received damaged bytes", t - tunnels);
    t->got += here, in += here, left -= here;
    if (t->got < total) return false;
    histogram_add(now_ns() - t->due_ns);
    t->due_ns = 0;
    outstanding--;
    if (answer_pings(t, in, left) < left) fail("tunnel %ld received bytes that nobody sent", t - tunnels);
    return true;
}

/* Runs until the time is over and every message is answered; returns the round trips. */
static long exchange(const struct options *options, double run_seconds) {
    struct epoll_event events[256];
    uint64_t now = now_ns(), end = now + (uint64_t)(run_seconds * 1e9), due = now;
    uint64_t gap = options->rate > 0 ? (uint64_t)(1e9 / options->rate) : 0;
    long trips = 0;
    int next = 0;
    if (run_seconds == UNTIL_TOLD) {
        end = UINT64_MAX;
        watch(epoll, EPOLL_CTL_ADD, STDIN_FILENO, EPOLLIN, STDIN_INDEX);
    }
    for (int i = 0; !gap && i < options->tunnels; i++) start_message(&tunnels[i], now_ns());
    while (outstanding || (gap && due < end)) {
        struct timespec wait = {.tv_sec = 5};
        for (now = now_ns(); gap && due < end && due <= now; due += gap) {
            struct tunnel *t = &tunnels[next];
            next = (next + 1) % options->tunnels;
            if (!t->due_ns) start_message(t, due);
            else if (due - t->due_ns < LATEST_NS) t->late++;
            else fail("a message on tunnel %ld is a second late: the rate is too high", t - tunnels);
        }
        if (gap && due < end) wait = (struct timespec){.tv_nsec = due > now ? (long)(due - now) : 0};
        int count = epoll_pwait2(epoll, events, 256, &wait, NULL);
        if (count == 0 && wait.tv_sec) fail("no answer for 5 s with %ld messages under way", outstanding);
        for (int i = 0; i < count; i++) {
            if (events[i].data.u32 == STDIN_INDEX) {
                read_line();
                watch(epoll, EPOLL_CTL_DEL, STDIN_FILENO, 0, STDIN_INDEX);
                end = now_ns();
                continue;
            }
            struct tunnel *t = &tunnels[events[i].data.u32];
            uint64_t was_due = t->due_ns;
            if (t->waiting && events[i].events & EPOLLOUT) send_rest(t);
            if (!(events[i].events & ~(uint32_t)EPOLLOUT) || !take(t)) continue;
            trips++;
            if (t->late) {
                t->late--;
                start_message(t, was_due + gap * (uint64_t)options->tunnels);
            } else if (!gap && (now = now_ns()) < end) {
                start_message(t, now);
            }
        }
    }
    return trips;
}

/* Takes what came on a silent tunnel, which may only be Pings; false when it was cut. */
static bool take_pings(struct tunnel *t) {
    ssize_t count = wire_receive(t->fd, received, sizeof received);
    if (count <= 0) return count < 0 && errno == EAGAIN;
    if (answer_pings(t, received, (size_t)count) < (size_t)count) {
        fail("tunnel %ld received something other than a Ping while idle", t - tunnels);
    }
    return true;
}

/* Opening thousands takes longer than a keepalive waits: those that are open answer meanwhile. */
static void answer_meanwhile(void) {
    struct epoll_event events[256];
    int count = epoll_wait(epoll, events, 256, 0);
    for (int i = 0; i < count; i++) {
        if (!take_pings(&tunnels[events[i].data.u32])) fail("tunnel %u was cut while others opened", events[i].data.u32);
    }
}

static void open_tunnels(const struct options *options, size_t message_bytes) {
    payload_bytes = message_bytes;
    pattern = allocate(payload_bytes), masked_pattern = allocate(payload_bytes);
    for (size_t i = 0; i < payload_bytes; i++) pattern[i] = (uint8_t)(i * 131 + (i >> 8));
    unmask(masked_pattern, pattern, payload_bytes - STAMP_BYTES, mask_key, 0);
    tunnels = allocate((size_t)options->tunnels * sizeof *tunnels);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < options->tunnels; i++) {
        tunnels[i].fd = open_tunnel(options->port, (uint64_t)i);
        watch(epoll, EPOLL_CTL_ADD, tunnels[i].fd, EPOLLIN, (uint32_t)i);
        if (i % 64 == 0) answer_meanwhile();
    }
}

void run_messages(const struct options *options) {
    prctl(PR_SET_TIMERSLACK, 1);         /* an open loop sends when it is due, not up to 50 us later */
    open_tunnels(options, options->payload_bytes);
    bool until_told = options->rate > 0 && options->seconds <= 0;
    exchange(options, options->warmup_seconds);
    for (;;) {
        gate("warm");
        histogram_reset();
        uint64_t started = now_ns();
        long trips = exchange(options, until_told ? UNTIL_TOLD : options->seconds);
        print_result(trips, started);
    }
}

/* When the Pings of silent tunnels came: by tenths of a second from the first on, so that any second can be looked at. */
static uint32_t arrivals[TENTHS];
static uint64_t first_ping_ns, longest_silence_ns;

static void heard(struct tunnel *t, uint64_t now, long count) {
    if (!first_ping_ns) first_ping_ns = now;
    uint64_t tenth = (now - first_ping_ns) / TENTH_NS;
    if (tenth < TENTHS) arrivals[tenth] += (uint32_t)count;
    if (now - t->heard_ns > longest_silence_ns) longest_silence_ns = now - t->heard_ns;
    t->heard_ns = now;
}

static void report_idle(const struct options *options, long lost) {
    uint64_t now = now_ns(), over = first_ping_ns ? (now - first_ping_ns) / TENTH_NS : 0;
    for (int i = 0; i < options->tunnels; i++) {
        if (now - tunnels[i].heard_ns > longest_silence_ns) longest_silence_ns = now - tunnels[i].heard_ns;
    }
    printf("{\"count\": %d, \"lost\": %ld, \"pings\": %ld, \"longest_silence_seconds\": %.3f, \"tenths\": [",
           options->tunnels, lost, pings, (double)longest_silence_ns / 1e9);
    for (uint64_t i = 0; i < over && i < TENTHS; i++) printf(i ? ", %u" : "%u", arrivals[i]);
    puts("]}");
}

void run_idle(const struct options *options) {
    struct epoll_event events[256];
    struct options one_each = *options;
    one_each.rate = 0;
    long lost = 0;
    open_tunnels(options, 64);
    exchange(&one_each, 0);              /* tunnels that have carried a message, then fell silent */
    for (int i = 0; i < options->tunnels; i++) tunnels[i].heard_ns = now_ns();
    watch(epoll, EPOLL_CTL_ADD, STDIN_FILENO, EPOLLIN, STDIN_INDEX);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int count = epoll_wait(epoll, events, 256, -1);
        uint64_t now = now_ns();
        for (int i = 0; i < count; i++) {
            if (events[i].data.u32 == STDIN_INDEX) {
                report_idle(options, lost);
                return;
            }
            struct tunnel *t = &tunnels[events[i].data.u32];
            long before = pings;
            bool alive = take_pings(t), told = first_ping_ns;
            if (pings > before) heard(t, now, pings - before);
            if (options->pinged && first_ping_ns && !told) {
                puts("pinging");
                fflush(stdout);
            }
            if (alive) continue;
            wire_close(t->fd);
            lost++;
        }
    }
}

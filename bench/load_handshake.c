/* Opens, upgrades and closes, a fixed number at a time: connect, request, checked 101, FIN, EOF, next. */
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

struct slot {
    enum { CONNECTING, UPGRADING, CLOSING } state;
    int fd;
    uint64_t number, started_ns;
    struct opening opening;
};

static int epoll;
static uint64_t next_number;

static void begin(const struct options *options, struct slot *slot, uint32_t index) {
    slot->state = CONNECTING;
    slot->number = next_number++;
    slot->started_ns = now_ns();
    slot->fd = open_connection(options->port, slot->number);
    watch(epoll, EPOLL_CTL_ADD, slot->fd, EPOLLOUT, index);
}

/* One step; true when the connection is over. */
static bool advance(const struct options *options, struct slot *slot, uint32_t index) {
    char rest[256];
    switch (slot->state) {
    case CONNECTING:
        send_upgrade(slot->fd, &slot->opening, options->port, slot->number);
        watch(epoll, EPOLL_CTL_MOD, slot->fd, EPOLLIN, index);
        slot->state = UPGRADING;
        return false;
    case UPGRADING:
        if (!read_upgrade(slot->fd, &slot->opening)) return false;
        histogram_add(now_ns() - slot->started_ns);
        shutdown(slot->fd, SHUT_WR);
        slot->state = CLOSING;
        return false;
    case CLOSING:
        if (recv(slot->fd, rest, sizeof rest, 0) > 0 || errno == EAGAIN) return false;
        close(slot->fd);
        return true;
    }
    return false;
}

static void run(const struct options *options, struct slot *slots, long wanted) {
    struct epoll_event events[256];
    long begun = 0, finished = 0;
    for (; begun < options->tunnels && begun < wanted; begun++) begin(options, &slots[begun], (uint32_t)begun);
    while (finished < wanted) {
        int count = epoll_wait(epoll, events, 256, 5000);
        if (count == 0) fail("nothing moved for 5 s after %ld handshakes", finished);
        for (int i = 0; i < count; i++) {
            struct slot *slot = &slots[events[i].data.u32];
            errno = 0;
            if (!advance(options, slot, events[i].data.u32)) continue;
            finished++;
            if (begun < wanted) begin(options, slot, events[i].data.u32), begun++;
        }
    }
}

void run_handshakes(const struct options *options) {
    struct slot *slots = allocate((size_t)options->tunnels * sizeof *slots);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    run(options, slots, options->warmup_handshakes);
    for (;;) {
        gate("warm");
        histogram_reset();
        uint64_t started = now_ns();
        run(options, slots, options->handshakes);
        print_result(options->handshakes, started);
    }
}

/* Opens, upgrades and closes, a fixed number at a time: connect, TLS handshake if asked for, request, checked 101, FIN,
 * EOF, next. With as many at a time as there are in all, they begin at once. */
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

struct slot {
    enum { CONNECTING, SHAKING, UPGRADING, CLOSING } state;
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
    uint32_t event;
    switch (slot->state) {
    case CONNECTING:
        wire_begin(slot->fd);
        slot->state = SHAKING;
        /* fall through */
    case SHAKING:
        if ((event = wire_shake(slot->fd))) {
            watch(epoll, EPOLL_CTL_MOD, slot->fd, event, index);
            return false;
        }
        send_upgrade(slot->fd, &slot->opening, options->port, slot->number);
        watch(epoll, EPOLL_CTL_MOD, slot->fd, EPOLLIN, index);
        slot->state = UPGRADING;
        return false;
    case UPGRADING:
        if (!read_upgrade(slot->fd, &slot->opening)) return false;
        histogram_add(now_ns() - slot->started_ns);
        wire_finish(slot->fd);
        slot->state = CLOSING;
        return false;
    case CLOSING:
        if (wire_receive(slot->fd, rest, sizeof rest) > 0 || errno == EAGAIN) return false;
        wire_close(slot->fd);
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
        tls_prepare(options->handshakes);
        gate("warm");
        histogram_reset();
        uint64_t started = now_ns();
        run(options, slots, options->handshakes);
        print_result(options->handshakes, started);
    }
}

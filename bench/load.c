/* The load of the benchmark: the server behind the proxies and the clients in front of them.
 *
 *   load backend
 *   load --tls VERSION CERTIFICATE MODE …                                the clients use TLS 1.2 or 1.3, and trust that one
 *   load echo PORT TUNNELS PAYLOAD_BYTES WARMUP_SECONDS SECONDS          one message in flight on each tunnel
 *   load latency PORT TUNNELS PAYLOAD_BYTES WARMUP_SECONDS SECONDS RATE  RATE messages a second, whatever comes back;
 *                                                                        SECONDS 0: until the next line on stdin
 *   load handshake PORT AT_A_TIME WARMUP_HANDSHAKES HANDSHAKES
 *   load idle PORT TUNNELS                                               silent tunnels
 *   load pinged PORT TUNNELS                                             silent but for a proxy's Pings
 *   load http PORT CONNECTIONS KIND WARMUP_SECONDS SECONDS               one request under way on each connection; KIND
 *                                                                        is get, varied, download, chunked or upload
 *   load events PORT STREAMS BACKEND_PORT WARMUP_SECONDS SECONDS         rounds of an event to each open stream
 *
 * It talks to bench/load.py: a line of JSON on stdout is a result; `warm`, `ready` and `pinging` (the first Ping has come)
 * are words on their own lines.
 * After the warm-up, and after each result, it says `warm` and waits for a line on stdin before it measures (again), so
 * that the processor time of the proxy can be read while nothing is under way, and two proxies can take turns. The end
 * of stdin ends it. A failure goes to stderr, with exit status 1.
 * All sockets are on 127.0.0.0/8. */
#define _GNU_SOURCE
#include "load_http.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void *allocate(size_t bytes) {
    void *memory = calloc(1, bytes);
    if (!memory) fail("out of memory");
    return memory;
}

int loopback_socket(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) fail("socket: %s (see ulimit -n)", strerror(errno));
    return fd;
}

void watch(int epoll, int operation, int fd, uint32_t events, uint32_t index) {
    struct epoll_event event = {.events = events, .data.u32 = index};
    if (epoll_ctl(epoll, operation, fd, &event)) fail("epoll_ctl: %s", strerror(errno));
}

int main(int count, char **arguments) {
    if (count > 4 && !strcmp(arguments[1], "--tls")) {
        tls_use(arguments[2], arguments[3]);
        arguments += 3, count -= 3;
    }
    const char *mode = count > 1 ? arguments[1] : "";
    struct options options = {0};
    if (!strcmp(mode, "backend") && count == 2) {
        run_backend();
        return 0;
    }
    if (count > 3) {
        options.port = atoi(arguments[2]);
        options.tunnels = atoi(arguments[3]);
    }
    if (options.port <= 0 || options.tunnels <= 0) fail("usage: the modes are at the top of load.c");
    if ((!strcmp(mode, "echo") && count == 7) || (!strcmp(mode, "latency") && count == 8)) {
        options.payload_bytes = strtoul(arguments[4], NULL, 10);
        options.warmup_seconds = atof(arguments[5]);
        options.seconds = atof(arguments[6]);
        options.rate = count == 8 ? atof(arguments[7]) : 0;
        if (options.payload_bytes < 16) fail("a payload is at least 16 bytes: it carries a stamp");
        run_messages(&options);
    } else if (!strcmp(mode, "handshake") && count == 6) {
        options.warmup_handshakes = atol(arguments[4]);
        options.handshakes = atol(arguments[5]);
        run_handshakes(&options);
    } else if ((!strcmp(mode, "idle") || !strcmp(mode, "pinged")) && count == 4) {
        options.pinged = !strcmp(mode, "pinged");
        run_idle(&options);
    } else if ((!strcmp(mode, "http") || !strcmp(mode, "events")) && count == 7) {
        enum kind kind = kind_named(arguments[4]);
        options.backend_port = atoi(arguments[4]);
        options.warmup_seconds = atof(arguments[5]);
        options.seconds = atof(arguments[6]);
        if (!strcmp(mode, "events") && tls_in_use()) fail("event streams are not measured over TLS");
        if (!strcmp(mode, "events")) run_events(&options);
        else if (kind < EVENTS) run_http(&options, kind);
        else fail("no kind of request: %s", arguments[4]);
    } else {
        fail("usage: the modes are at the top of load.c");
    }
    return 0;
}

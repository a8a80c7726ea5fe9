/* The server behind every proxy: accepts, reads the head of a request, and sends what it can.
 *
 * One thread. A request with Upgrade goes to the WebSocket echo (load_echo.c), any other is plain HTTP
 * (load_http_server.c); a connection carries any number of those, one after the other. */
#define _GNU_SOURCE
#include "load_backend.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static struct connection **connections;   /* by descriptor */
static int epoll;
static uint8_t received[HEAD_LIMIT + RECEIVE_BYTES];

struct connection *connection_at(int fd) { return connections[fd]; }

static void drop(int fd) {
    forget_exchange(connections[fd]);
    free(connections[fd]->pending);
    free(connections[fd]);
    connections[fd] = NULL;
    close(fd);
}

void keep(struct connection *c, const uint8_t *bytes, size_t count) {
    if (c->pending_bytes + count > c->pending_room) {
        c->pending_room = (c->pending_bytes + count) * 2;
        c->pending = realloc(c->pending, c->pending_room);
        if (!c->pending) fail("out of memory");
    }
    memcpy(c->pending + c->pending_bytes, bytes, count);
    c->pending_bytes += count;
}

/* While it waits to send, nothing is read. */
void wait_for_room(int fd, struct connection *c, bool waiting) {
    if (waiting == c->waiting) return;
    c->waiting = waiting;
    watch(epoll, EPOLL_CTL_MOD, fd, waiting ? EPOLLOUT : EPOLLIN, (uint32_t)fd);
}

/* Sends, keeping the rest. False when the connection is gone. */
bool send_some(int fd, struct connection *c, const uint8_t *bytes, size_t count) {
    ssize_t sent = send(fd, bytes, count, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN) return false;
        sent = 0;
    }
    bool rest = (size_t)sent < count;
    if (bytes == c->pending) {
        c->pending_bytes = count - (size_t)sent;
        if (rest) memmove(c->pending, c->pending + sent, c->pending_bytes);
        else free(c->pending), c->pending = NULL, c->pending_room = 0;
    } else if (rest) {
        keep(c, bytes + sent, count - (size_t)sent);
    }
    wait_for_room(fd, c, rest);
    if (!rest && c->closing) shutdown(fd, SHUT_WR);
    return true;
}

/* Reads a request's head, which may come in pieces, and hands it to the side it is for. */
static bool take_head(int fd, struct connection *c, size_t count) {
    if (c->pending_bytes) {
        keep(c, received, count);
        count = c->pending_bytes;
        memcpy(received, c->pending, count);
    }
    uint8_t *end = memmem(received, count, "\r\n\r\n", 4);
    if (!end) {
        if (!c->pending_bytes) keep(c, received, count);
        return count < HEAD_LIMIT;
    }
    c->pending_bytes = 0;
    uint8_t *body = end + 4;
    size_t body_bytes = (size_t)(received + count - body);
    body[-1] = 0;                        /* what looks up fields must not read on into the body */
    const char *head = (char *)received;
    if (!find_header(head, "Upgrade")) return answer_request(fd, c, head, body, body_bytes);
    return !body_bytes && answer_upgrade(fd, c, head);   /* clients here wait for the 101 */
}

static bool readable(int fd, struct connection *c) {
    ssize_t count = recv(fd, received, RECEIVE_BYTES, 0);
    if (count < 0) return errno == EAGAIN;
    if (count == 0) return false;
    if (c->upgraded) return echo_frames(fd, c, received, (size_t)count);
    if (c->closing) return true;         /* what follows a refused head */
    if (in_request_body(c)) return take_request_body(fd, c, received, (size_t)count);
    return take_head(fd, c, (size_t)count);
}

static bool writable(int fd, struct connection *c) {
    return in_answer(c) ? send_answer(fd, c) : send_some(fd, c, c->pending, c->pending_bytes);
}

static void accept_all(int listener) {
    for (int i = 0; i < 64; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EAGAIN || errno == ECONNABORTED) return;
            fail("accept: %s", strerror(errno));
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        connections[fd] = allocate(sizeof(struct connection));
        watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN, (uint32_t)fd);
    }
}

/* Listens on several addresses of loopback, so that proxies can have as many backends. */
#define ADDRESSES 16

static void listen_on_all(int *port) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    for (uint32_t i = 0; i < ADDRESSES; i++) {
        int listener = loopback_socket();
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK + i);
        if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096)) {
            fail("listen: %s", strerror(errno));
        }
        getsockname(listener, (struct sockaddr *)&address, &size);
        watch(epoll, EPOLL_CTL_ADD, listener, EPOLLIN, (uint32_t)listener);
    }
    *port = ntohs(address.sin_port);
}

void run_backend(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    connections = allocate(limit.rlim_cur * sizeof *connections);
    int port;
    epoll = epoll_create1(EPOLL_CLOEXEC);
    listen_on_all(&port);
    watch(epoll, EPOLL_CTL_ADD, STDIN_FILENO, EPOLLIN, STDIN_FILENO);
    printf("{\"port\": %d}\n", port);
    fflush(stdout);
    struct epoll_event events[256];
    for (;;) {
        int count = epoll_wait(epoll, events, 256, -1);
        if (count < 0 && errno != EINTR) fail("epoll_wait: %s", strerror(errno));
        for (int i = 0; i < count; i++) {
            int fd = (int)events[i].data.u32;
            if (fd == STDIN_FILENO) return;   /* whoever started it closed the pipe, or is gone */
            struct connection *c = connections[fd];
            if (!c) {
                accept_all(fd);
                continue;
            }
            if (!(events[i].events & EPOLLOUT ? writable(fd, c) : readable(fd, c))) drop(fd);
        }
    }
}

/* The WebSocket server behind every proxy: answers the upgrade, then echoes each frame, unmasked.
 *
 * One thread, one recv and one send for a message that came whole. A frame goes back once all of it is there
 * (as a server that handles messages would do), or in pieces of RECEIVE_BYTES when it is larger. It checks that client
 * frames are masked; a proxy that changes framing shows as a closed connection. */
#define _GNU_SOURCE
#include "load.h"

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

struct connection {
    bool upgraded, closing, waiting;     /* waiting: the peer takes no more bytes for now */
    uint8_t header[FRAME_HEADER_MAX], header_bytes;
    uint8_t opcode;
    bool in_payload;
    uint64_t payload_left;
    uint8_t key[4];
    unsigned phase;
    uint8_t *pending;                    /* what could not go out yet; the request head before the upgrade */
    size_t pending_bytes, pending_room;
};

static struct connection **connections;   /* by descriptor */
static int epoll;
static uint8_t received[RECEIVE_BYTES + 1], answer[RECEIVE_BYTES + FRAME_HEADER_MAX];

static void drop(int fd) {
    free(connections[fd]->pending);
    free(connections[fd]);
    connections[fd] = NULL;
    close(fd);
}

static void keep(struct connection *c, const uint8_t *bytes, size_t count) {
    if (c->pending_bytes + count > c->pending_room) {
        c->pending_room = (c->pending_bytes + count) * 2;
        c->pending = realloc(c->pending, c->pending_room);
        if (!c->pending) fail("out of memory");
    }
    memcpy(c->pending + c->pending_bytes, bytes, count);
    c->pending_bytes += count;
}

/* Sends, keeping the rest. False when the connection is gone. */
static bool send_some(int fd, struct connection *c, const uint8_t *bytes, size_t count) {
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
    if (rest != c->waiting) {
        c->waiting = rest;
        watch(epoll, EPOLL_CTL_MOD, fd, rest ? EPOLLOUT : EPOLLIN, (uint32_t)fd);
    }
    if (!rest && c->closing) shutdown(fd, SHUT_WR);
    return true;
}

static bool answer_upgrade(int fd, struct connection *c, size_t count) {
    char *head = (char *)received;
    if (c->pending_bytes || !memmem(received, count, "\r\n\r\n", 4)) {
        keep(c, received, count);
        if (c->pending_bytes >= HEAD_LIMIT) return false;
        if (!memmem(c->pending, c->pending_bytes, "\r\n\r\n", 4)) return true;
        count = c->pending_bytes;
        memcpy(received, c->pending, count);
        c->pending_bytes = 0;
    }
    received[count] = 0;
    if (strstr(head, "\r\n\r\n") + 4 != head + count) return false;   /* clients here wait for the 101 */
    const char *key = find_header(head, "Sec-WebSocket-Key");
    const char *upgrade = find_header(head, "Upgrade"), *version = find_header(head, "Sec-WebSocket-Version");
    if (strncmp(head, "GET ", 4) || !key || !upgrade || strncasecmp(upgrade, "websocket", 9) || !version) return false;
    char accept[ACCEPT_CHARS + 1], text[256];
    accept_value(key, accept);
    int length = snprintf(text, sizeof text,
                          "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                          "Sec-WebSocket-Accept: %s\r\n\r\n", accept);
    c->upgraded = true;
    return send_some(fd, c, (uint8_t *)text, (size_t)length);
}

/* Turns what came into answer frames; returns their size, or -1 for a frame no client may send. */
static ssize_t echo(struct connection *c, const uint8_t *in, size_t count, bool *complete) {
    uint8_t *out = answer;
    const uint8_t *end = in + count;
    while (in < end || (c->in_payload && !c->payload_left)) {
        if (!c->in_payload) {
            size_t missing = header_bytes_needed(c->header, c->header_bytes) - c->header_bytes;
            if (missing) {
                size_t take = missing < (size_t)(end - in) ? missing : (size_t)(end - in);
                memcpy(c->header + c->header_bytes, in, take);
                c->header_bytes += (uint8_t)take;
                in += take;
                if (header_bytes_needed(c->header, c->header_bytes) > c->header_bytes) continue;
            }
            if (!(c->header[1] & 0x80) || c->closing) return -1;
            c->opcode = c->header[0] & 0x0F;
            c->payload_left = header_payload_bytes(c->header);
            memcpy(c->key, c->header + c->header_bytes - 4, 4);
            c->phase = 0;
            c->in_payload = true;
            if (c->opcode != OP_PONG) {
                uint8_t *first = out, opcode = c->opcode == OP_PING ? OP_PONG : c->opcode;
                out += frame_header(out, opcode, c->payload_left, NULL);
                *first = (uint8_t)((c->header[0] & 0xF0) | opcode);   /* FIN and RSV as they came */
            }
            c->header_bytes = 0;
        } else if (c->payload_left) {
            size_t take = c->payload_left < (size_t)(end - in) ? (size_t)c->payload_left : (size_t)(end - in);
            if (c->opcode != OP_PONG) {
                unmask(out, in, take, c->key, c->phase);
                out += take;
            }
            c->phase = (c->phase + (unsigned)take) & 3;
            c->payload_left -= take;
            in += take;
        }
        if (c->in_payload && !c->payload_left) {
            c->in_payload = false;
            *complete = true;
            if (c->opcode == OP_CLOSE) c->closing = true;
        }
    }
    return out - answer;
}

static bool readable(int fd, struct connection *c) {
    ssize_t count = recv(fd, received, RECEIVE_BYTES, 0);
    if (count < 0) return errno == EAGAIN;
    if (count == 0) return false;
    if (!c->upgraded) return answer_upgrade(fd, c, (size_t)count);
    bool complete = false;
    ssize_t bytes = echo(c, received, (size_t)count, &complete);
    if (bytes < 0) return false;
    if (!complete && c->pending_bytes + (size_t)bytes < RECEIVE_BYTES) {
        if (bytes) keep(c, answer, (size_t)bytes);
        return true;
    }
    if (!c->pending_bytes) return bytes == 0 || send_some(fd, c, answer, (size_t)bytes);
    keep(c, answer, (size_t)bytes);
    return send_some(fd, c, c->pending, c->pending_bytes);
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

void run_backend(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    connections = allocate(limit.rlim_cur * sizeof *connections);
    int listener = loopback_socket();
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096)) fail("listen: %s", strerror(errno));
    getsockname(listener, (struct sockaddr *)&address, &size);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    watch(epoll, EPOLL_CTL_ADD, listener, EPOLLIN, (uint32_t)listener);
    watch(epoll, EPOLL_CTL_ADD, STDIN_FILENO, EPOLLIN, STDIN_FILENO);
    printf("{\"port\": %d}\n", ntohs(address.sin_port));
    fflush(stdout);
    struct epoll_event events[256];
    for (;;) {
        int count = epoll_wait(epoll, events, 256, -1);
        if (count < 0 && errno != EINTR) fail("epoll_wait: %s", strerror(errno));
        for (int i = 0; i < count; i++) {
            int fd = (int)events[i].data.u32;
            if (fd == STDIN_FILENO) return;   /* whoever started it closed the pipe, or is gone */
            if (fd == listener) {
                accept_all(listener);
                continue;
            }
            struct connection *c = connections[fd];
            bool alive;
            if (events[i].events & EPOLLOUT) alive = send_some(fd, c, c->pending, c->pending_bytes);
            else alive = readable(fd, c);
            if (!alive) drop(fd);
        }
    }
}

/* What carries a client's bytes: a TCP connection, or TLS on it once `tls_use` was called.
 *
 * The calls are those of a socket that does not block: -1 with EAGAIN while nothing can be sent or received. */
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static struct tls **links;               /* by descriptor; NULL: no connection uses TLS */

/* Call it once the TCP connection stands. */
void wire_begin(int fd) {
    if (!tls_in_use()) return;
    if (!links) {
        struct rlimit limit;
        getrlimit(RLIMIT_NOFILE, &limit);
        links = allocate(limit.rlim_cur * sizeof *links);
    }
    links[fd] = tls_begin(fd);
}

/* Goes on with the handshake. Returns the event of epoll that it waits for, 0 once the wire can be used. */
uint32_t wire_shake(int fd) { return links ? tls_shake(links[fd]) : 0; }

ssize_t wire_send(int fd, const void *bytes, size_t count) {
    struct iovec part = {(void *)bytes, count};
    return wire_send_parts(fd, &part, 1);
}

ssize_t wire_send_parts(int fd, struct iovec *parts, size_t count) {
    if (links) return tls_send(links[fd], parts, count);
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
    return sendmsg(fd, &message, MSG_NOSIGNAL);
}

ssize_t wire_receive(int fd, void *to, size_t room) {
    return links ? tls_receive(links[fd], to, room) : recv(fd, to, room, 0);
}

/* Nothing more will be sent. */
void wire_finish(int fd) {
    if (links) tls_finish(links[fd]);
    shutdown(fd, SHUT_WR);
}

void wire_close(int fd) {
    if (links) {
        if (links[fd]) tls_free(links[fd]);
        links[fd] = NULL;
    }
    close(fd);
}

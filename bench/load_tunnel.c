/* A client's side of one connection, from connect() to a checked 101. */
#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS_PER_SOURCE 10000     /* then the next address: ephemeral ports are about 28,000 for each */
#define SOURCES 200
#define PATIENCE_MS 10000

/* A browser's request: proxies pay for every header they parse and forward. */
static const char upgrade_request[] =
    "GET /ws/room?id=%llu HTTP/1.1\r\n"
    "Host: 127.0.0.1:%d\r\n"
    "Connection: Upgrade\r\n"
    "Pragma: no-cache\r\n"
    "Cache-Control: no-cache\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 "
    "Safari/537.36\r\n"
    "Upgrade: websocket\r\n"
    "Origin: http://127.0.0.1:%d\r\n"
    "Sec-WebSocket-Version: 13\r\n"
    "Accept-Encoding: gzip, deflate, br\r\n"
    "Accept-Language: en-US,en;q=0.9\r\n"
    "Sec-WebSocket-Key: %s\r\n"
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    "%s\r\n";

/* Starts connecting; the socket does not block. */
int open_connection(int port, uint64_t number) {
    int fd = loopback_socket();
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &(int){1}, sizeof(int));
    uint32_t source = INADDR_LOOPBACK + (uint32_t)(number / CONNECTIONS_PER_SOURCE % SOURCES);
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(source)};
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(fd, (struct sockaddr *)&from, sizeof from)) fail("bind a source address: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) {
        fail("connect to the proxy on port %d: %s", port, strerror(errno));
    }
    return fd;
}

void send_upgrade(int fd, struct opening *opening, int port, uint64_t number) {
    char request[4096];
    const char *fields = getenv("LOAD_FIELDS");          /* further lines, each with CRLF */
    make_key(number, opening->key);
    int bytes = snprintf(request, sizeof request, upgrade_request, (unsigned long long)number, port, port, opening->key,
                         fields ? fields : "");
    if (wire_send(fd, request, (size_t)bytes) != bytes) fail("send the upgrade request: %s", strerror(errno));
}

bool read_upgrade(int fd, struct opening *opening) {
    static char room[HEAD_LIMIT + 1];
    memcpy(room, opening->head ? opening->head : "", opening->head_bytes);
    ssize_t count = wire_receive(fd, room + opening->head_bytes, HEAD_LIMIT - opening->head_bytes);
    if (count < 0 && errno == EAGAIN) return false;
    if (count < 0) fail("the proxy cut an upgrade: %s", strerror(errno));
    size_t bytes = opening->head_bytes + (size_t)count;
    room[bytes] = 0;
    if (count == 0) fail("the proxy closed without a 101; it said: %.300s", room);
    char *end = strstr(room, "\r\n\r\n");
    if (!end) {
        if (bytes == HEAD_LIMIT) fail("the answer's head is endless");
        opening->head = realloc(opening->head, bytes);
        if (!opening->head) fail("out of memory");
        memcpy(opening->head, room, bytes);
        opening->head_bytes = bytes;
        return false;
    }
    char right[ACCEPT_CHARS + 1];
    accept_value(opening->key, right);
    const char *accept = find_header(room, "Sec-WebSocket-Accept"), *upgrade = find_header(room, "Upgrade");
    if (strncmp(room, "HTTP/1.1 101 ", 13) || !upgrade || strncasecmp(upgrade, "websocket\r", 10)) {
        fail("not an upgrade: %.300s", room);
    }
    if (!accept || strncmp(accept, right, ACCEPT_CHARS)) fail("wrong Sec-WebSocket-Accept: %.300s", room);
    if (end + 4 != room + bytes) fail("bytes after the 101 that the backend never sent");
    free(opening->head);
    *opening = (struct opening){.head_bytes = 0};
    return true;
}

static void wait_for(int fd, uint32_t events, uint64_t number) {
    struct pollfd one = {.fd = fd, .events = events == EPOLLOUT ? POLLOUT : POLLIN};
    if (poll(&one, 1, PATIENCE_MS) == 0) fail("tunnel %llu does not open: nothing for 10 s", (unsigned long long)number);
}

/* One at a time, for where handshakes are not measured. */
int open_tunnel(int port, uint64_t number) {
    struct opening opening = {.head_bytes = 0};
    int fd = open_connection(port, number);
    wait_for(fd, EPOLLOUT, number);
    wire_begin(fd);
    for (uint32_t event; (event = wire_shake(fd));) wait_for(fd, event, number);
    send_upgrade(fd, &opening, port, number);
    do wait_for(fd, EPOLLIN, number);
    while (!read_upgrade(fd, &opening));
    return fd;
}

void read_line(void) {
    char line[64];
    if (read(STDIN_FILENO, line, sizeof line) <= 0) exit(0);   /* whoever started it is gone */
}

void gate(const char *word) {
    printf("%s\n", word);
    fflush(stdout);
    read_line();
}

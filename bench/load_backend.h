/* Shared by the parts of the server behind the proxies: load_backend.c accepts and reads heads, load_echo.c is the
 * WebSocket side of it, load_http_server.c the plain HTTP side. */
#ifndef LOAD_BACKEND_H
#define LOAD_BACKEND_H

#include "load.h"

struct exchange;

struct connection {
    bool upgraded, closing, waiting;     /* waiting: the peer takes no more bytes for now */
    uint8_t header[FRAME_HEADER_MAX], header_bytes;
    uint8_t opcode;
    bool in_payload;
    uint64_t payload_left;
    uint8_t key[4];
    unsigned phase;
    uint8_t *pending;                    /* what could not go out yet; a request's head while it is not complete */
    size_t pending_bytes, pending_room;
    struct exchange *exchange;           /* of load_http_server.c; NULL before the first plain request */
};

/* load_backend.c. False everywhere: the connection is to be closed. */
void keep(struct connection *c, const uint8_t *bytes, size_t count);
bool send_some(int fd, struct connection *c, const uint8_t *bytes, size_t count);
void wait_for_room(int fd, struct connection *c, bool waiting);
struct connection *connection_at(int fd);

/* load_echo.c */
bool answer_upgrade(int fd, struct connection *c, const char *head);
bool echo_frames(int fd, struct connection *c, const uint8_t *in, size_t count);

/* load_http_server.c: `head` ends with a NUL, `body` is what came behind it */
bool answer_request(int fd, struct connection *c, const char *head, const uint8_t *body, size_t body_bytes);
bool in_request_body(const struct connection *c);
bool take_request_body(int fd, struct connection *c, const uint8_t *in, size_t count);
bool in_answer(const struct connection *c);
bool send_answer(int fd, struct connection *c);
void forget_exchange(struct connection *c);

#endif

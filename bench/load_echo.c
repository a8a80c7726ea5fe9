/* The WebSocket side of the server: answers the upgrade, then echoes each frame, unmasked.
 *
 * One send for a message that came whole. A frame goes back once all of it is there (as a server that handles messages
 * would do), or in pieces of RECEIVE_BYTES when it is larger. It checks that client frames are masked; a proxy that
 * changes framing shows as a closed connection. */
#define _GNU_SOURCE
#include "load_backend.h"

#include <stdio.h>
#include <string.h>

static uint8_t answer[RECEIVE_BYTES + FRAME_HEADER_MAX];

bool answer_upgrade(int fd, struct connection *c, const char *head) {
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

bool echo_frames(int fd, struct connection *c, const uint8_t *in, size_t count) {
    bool complete = false;
    ssize_t bytes = echo(c, in, count, &complete);
    if (bytes < 0) return false;
    if (!complete && c->pending_bytes + (size_t)bytes < RECEIVE_BYTES) {
        if (bytes) keep(c, answer, (size_t)bytes);
        return true;
    }
    if (!c->pending_bytes) return bytes == 0 || send_some(fd, c, answer, (size_t)bytes);
    keep(c, answer, (size_t)bytes);
    return send_some(fd, c, c->pending, c->pending_bytes);
}

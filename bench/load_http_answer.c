/* A client's reading of an answer (RFC 9112 sections 4 to 7), in whatever pieces it comes. What is not as the backend
 * sent it ends the program. */
#define _GNU_SOURCE
#include "load_http.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

void begin_answer(struct answer *answer) {
    free(answer->head);
    *answer = (struct answer){.state = IN_HEAD};
}

static bool is(const char *value, const char *right) {
    size_t length = strlen(right);
    return value && !strncmp(value, right, length) && value[length] == '\r';
}

static void check_head(const char *head, const struct shape *shape) {
    const char *length = find_header(head, "Content-Length"), *coding = find_header(head, "Transfer-Encoding");
    const char *date = find_header(head, "Date");
    if (strncmp(head, "HTTP/1.1 200 ", 13)) fail("not a 200: %.300s", head);
    if (!is(find_header(head, "Content-Type"), shape->content_type)) fail("another Content-Type: %.300s", head);
    if (shape->etag[0] && !is(find_header(head, "ETag"), shape->etag)) fail("another ETag: %.300s", head);
    if (!date || strcspn(date, "\r") != strlen("Sun, 06 Nov 1994 08:49:37 GMT")) fail("no Date: %.300s", head);
    if (!find_header(head, "Server")) fail("no Server: %.300s", head);
    bool right = shape->chunked ? coding && !strncasecmp(coding, "chunked\r", 8) && !length
                                : !coding && length && strtoull(length, NULL, 10) == shape->body_bytes;
    if (!right) fail("another framing: %.300s", head);
}

/* True once the head is there, as it must be. Takes it off the front of `in`. */
bool read_answer_head(struct answer *answer, const struct shape *shape, const uint8_t **in, size_t *left) {
    static char room[HEAD_LIMIT + 1];
    size_t before = answer->head_bytes, taken = *left < HEAD_LIMIT - before ? *left : HEAD_LIMIT - before;
    if (before) memcpy(room, answer->head, before);
    memcpy(room + before, *in, taken);
    char *end = memmem(room, before + taken, "\r\n\r\n", 4);
    if (!end) {
        if (before + taken == HEAD_LIMIT) fail("the answer's head is endless");
        answer->head = realloc(answer->head, before + taken);
        if (!answer->head) fail("out of memory");
        memcpy(answer->head, room, before + taken);
        answer->head_bytes = before + taken;
        *in += taken, *left -= taken;
        return false;
    }
    end[3] = 0;
    size_t used = (size_t)(end + 4 - room) - before;
    *in += used, *left -= used;
    check_head(room, shape);
    const char *connection = find_header(room, "Connection");
    answer->close = connection && !strncasecmp(connection, "close\r", 6);
    answer->left = shape->chunked ? 0 : shape->body_bytes;
    answer->state = shape->chunked ? IN_CHUNK_SIZE : answer->left ? IN_BODY : COMPLETE;
    return true;
}

static void read_framing(struct answer *answer, uint8_t byte) {
    switch (answer->state) {
    case IN_CHUNK_SIZE:
        if (isxdigit(byte) && answer->left < 1u << 28) {
            answer->left = answer->left * 16 + (uint64_t)(byte <= '9' ? byte - '0' : (byte | 32) - 'a' + 10);
            return;
        }
        if (byte != '\r' && byte != ';') fail("no chunk size: byte %u", byte);
        answer->state = IN_CHUNK_EXTENSION;
        return;
    case IN_CHUNK_EXTENSION:
        if (byte == '\n') answer->state = answer->left ? IN_CHUNK : IN_TRAILERS;
        return;
    case AFTER_CHUNK:
        if (byte != '\r' && byte != '\n') fail("a chunk is longer than its size: byte %u", byte);
        if (byte == '\n') answer->state = IN_CHUNK_SIZE;
        return;
    default:
        if (byte != '\r' && byte != '\n') fail("trailers that the backend never sent");
        if (byte == '\n') answer->state = COMPLETE;
    }
}

/* Takes the next piece of the body off the front of `in`; returns its size, 0 when there is no more for now. */
size_t read_answer_body(struct answer *answer, const uint8_t **in, size_t *left, const uint8_t **body) {
    while (*left && answer->state != COMPLETE) {
        if (answer->state != IN_BODY && answer->state != IN_CHUNK) {
            read_framing(answer, *(*in)++);
            --*left;
            continue;
        }
        size_t piece = *left < answer->left ? *left : (size_t)answer->left;
        *body = *in;
        *in += piece, *left -= piece, answer->left -= piece;
        if (!answer->left) answer->state = answer->state == IN_BODY ? COMPLETE : AFTER_CHUNK;
        return piece;
    }
    return 0;
}

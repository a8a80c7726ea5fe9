/* What both sides of plain HTTP agree on: load_http.c says which requests and answers there are, load_http_answer.c
 * takes an answer apart as it comes. */
#ifndef LOAD_HTTP_H
#define LOAD_HTTP_H

#include "load.h"

#define REQUEST_HEAD_MAX 2048
#define TARGET_MAX 128
#define ETAG_MAX 24
#define EVENT_MAX 160

enum kind { GET, VARIED, DOWNLOAD, CHUNKED, UPLOAD, EVENTS, ROUND, KINDS };

/* What the answer to a request must be. A body is `body_bytes` at `body`; `endless` ones are of events instead. */
struct shape {
    const char *content_type;
    char etag[ETAG_MAX];                 /* empty: none */
    const uint8_t *body;
    size_t body_bytes;
    bool chunked, endless;
};

struct field { const char *name, *value; };
extern const struct field browser_fields[];   /* up to a NULL name; besides Host and those about a body */

/* load_http.c */
enum kind kind_named(const char *name);
enum kind kind_of_target(const char *target, uint64_t *number);
size_t make_target(enum kind kind, uint64_t number, char out[TARGET_MAX]);
size_t make_request_head(enum kind kind, uint64_t number, int port, char out[REQUEST_HEAD_MAX]);
size_t request_body(enum kind kind, uint64_t number, const uint8_t **body);
struct shape shape_of(enum kind kind, uint64_t number);
size_t make_event(uint64_t stream, uint64_t number, char out[EVENT_MAX]);

/* load_http_answer.c */
struct answer {
    enum { IN_HEAD, IN_BODY, IN_CHUNK_SIZE, IN_CHUNK_EXTENSION, IN_CHUNK, AFTER_CHUNK, IN_TRAILERS, COMPLETE } state;
    char *head;                          /* a head that came in pieces */
    size_t head_bytes;
    uint64_t left;                       /* of the body, or of the chunk; in trailers: bytes of the line */
    bool close;                          /* the connection ends with this answer */
};
void begin_answer(struct answer *answer);
bool read_answer_head(struct answer *answer, const struct shape *shape, const uint8_t **in, size_t *left);
size_t read_answer_body(struct answer *answer, const uint8_t **in, size_t *left, const uint8_t **body);

/* load_http_client.c, load_events.c */
void run_http(const struct options *options, enum kind kind);
void run_events(const struct options *options);

#endif

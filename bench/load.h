/* Shared by the parts of the load program: see load.c for what it is for. */
#ifndef LOAD_H
#define LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#define RECEIVE_BYTES (256 * 1024)
#define HEAD_LIMIT 16384
#define KEY_CHARS 24
#define ACCEPT_CHARS 28
#define FRAME_HEADER_MAX 14

enum opcode { OP_CONTINUATION = 0, OP_TEXT = 1, OP_BINARY = 2, OP_CLOSE = 8, OP_PING = 9, OP_PONG = 10 };

struct options {
    int port;
    int tunnels;             /* or connections */
    int backend_port;        /* of event streams */
    size_t payload_bytes;
    double warmup_seconds, seconds;   /* seconds of 0 with a rate: until the next line on stdin */
    double rate;             /* messages a second over all tunnels; 0 = closed loop */
    long handshakes, warmup_handshakes;
    bool pinged;             /* say `pinging` when the first Ping has come */
};

/* load.c */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
uint64_t now_ns(void);
void *allocate(size_t bytes);
int loopback_socket(void);
void watch(int epoll, int operation, int fd, uint32_t events, uint32_t index);

/* load_websocket.c */
void accept_value(const char key[KEY_CHARS], char out[ACCEPT_CHARS + 1]);
void make_key(uint64_t number, char out[KEY_CHARS + 1]);
size_t frame_header(uint8_t *out, enum opcode opcode, uint64_t payload_bytes, const uint8_t *mask_key);
size_t header_bytes_needed(const uint8_t *header, size_t have);
uint64_t header_payload_bytes(const uint8_t *header);
void unmask(uint8_t *out, const uint8_t *in, size_t bytes, const uint8_t key[4], unsigned phase);
const char *find_header(const char *head, const char *name);

/* load_backend.c, load_client.c, load_handshake.c; those of plain HTTP are in load_http.h */
void run_backend(void);
void run_messages(const struct options *options);
void run_idle(const struct options *options);
void run_handshakes(const struct options *options);

/* load_wire.c: what carries a client's bytes, plain or TLS */
void wire_begin(int fd);
uint32_t wire_shake(int fd);
ssize_t wire_send(int fd, const void *bytes, size_t count);
ssize_t wire_send_parts(int fd, struct iovec *parts, size_t count);
ssize_t wire_receive(int fd, void *to, size_t room);
void wire_finish(int fd);
void wire_close(int fd);

/* load_tls.c: the TLS of load_wire.c */
struct tls;
void tls_use(const char *version, const char *certificate);   /* for all connections of clients from now on */
bool tls_in_use(void);
void tls_prepare(long count);
struct tls *tls_begin(int fd);
uint32_t tls_shake(struct tls *tls);
ssize_t tls_send(struct tls *tls, const struct iovec *parts, size_t count);
ssize_t tls_receive(struct tls *tls, uint8_t *to, size_t room);
void tls_finish(struct tls *tls);
void tls_free(struct tls *tls);

/* load_tunnel.c: a client's side of one connection, from connect() to a checked 101 */
struct opening {
    char key[KEY_CHARS + 1];
    char *head;              /* an answer that came in pieces */
    size_t head_bytes;
};
int open_connection(int port, uint64_t number);
int open_tunnel(int port, uint64_t number);           /* returns once the 101 is there; the socket does not block */
void send_upgrade(int fd, struct opening *opening, int port, uint64_t number);
bool read_upgrade(int fd, struct opening *opening);   /* true once the right 101 is there */
void read_line(void);                                 /* from stdin, the program's end with it */
void gate(const char *word);                          /* print word, then wait for one line on stdin */

/* load_histogram.c */
void histogram_reset(void);
void histogram_add(uint64_t ns);
double histogram_us(double quantile);
void print_result(long count, uint64_t started_ns);

#endif

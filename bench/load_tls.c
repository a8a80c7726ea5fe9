/* TLS of the clients, by OpenSSL; load_wire.c is who calls it. Where OpenSSL's headers are missing it is left out, and
 * only `--tls` fails.
 *
 * All handshakes are full: no session is ever offered again. One suite, so that every proxy does the same work. A message
 * goes out in as few records as it fits in, and ClientHellos can be made ahead of time, so that many begin at once. */
#define _GNU_SOURCE
#include "load.h"

#ifndef LOAD_TLS

void tls_use(const char *version, const char *certificate) {
    (void)version, (void)certificate;
    fail("built without OpenSSL's headers: apt-get install libssl-dev");
}
bool tls_in_use(void) { return false; }
void tls_prepare(long count) { (void)count; }
struct tls *tls_begin(int fd) { (void)fd; return NULL; }
uint32_t tls_shake(struct tls *tls) { (void)tls; return 0; }
ssize_t tls_send(struct tls *tls, const struct iovec *parts, size_t count) { (void)tls, (void)parts, (void)count; return -1; }
ssize_t tls_receive(struct tls *tls, uint8_t *to, size_t room) { (void)tls, (void)to, (void)room; return -1; }
void tls_finish(struct tls *tls) { (void)tls; }
void tls_free(struct tls *tls) { (void)tls; }

#else

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum { RECORD_BYTES = SSL3_RT_MAX_PLAIN_LENGTH, HELLO_BYTES_MAX = 1024 };

struct tls {
    SSL *ssl;
    uint8_t hello[HELLO_BYTES_MAX];      /* made ahead of time, not sent yet */
    size_t hello_bytes;
};

static SSL_CTX *context;
static struct tls **prepared;
static long prepared_count;

static _Noreturn void fail_tls(const char *what) {
    char reason[256] = "no reason is known";
    unsigned long code = ERR_peek_last_error();
    if (code) ERR_error_string_n(code, reason, sizeof reason);
    fail("TLS: %s: %s", what, reason);
}

void tls_use(const char *version, const char *certificate) {
    int number = !strcmp(version, "1.3") ? TLS1_3_VERSION : !strcmp(version, "1.2") ? TLS1_2_VERSION : 0;
    if (!number) fail("no version of TLS: %s", version);
    signal(SIGPIPE, SIG_IGN);
    context = SSL_CTX_new(TLS_client_method());
    if (!context) fail_tls("no context");
    SSL_CTX_set_min_proto_version(context, number);
    SSL_CTX_set_max_proto_version(context, number);
    if (!SSL_CTX_set_ciphersuites(context, "TLS_AES_256_GCM_SHA384") ||
        !SSL_CTX_set_cipher_list(context, "ECDHE-ECDSA-AES256-GCM-SHA384") ||
        !SSL_CTX_set1_groups_list(context, "X25519:P-256:P-384")) fail_tls("suites and groups");
    static const unsigned char http_1_1[] = "\x08http/1.1";
    SSL_CTX_set_alpn_protos(context, http_1_1, sizeof http_1_1 - 1);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(context, SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    if (!SSL_CTX_load_verify_locations(context, certificate, NULL)) fail_tls(certificate);
}

bool tls_in_use(void) { return context; }

static struct tls *create(void) {
    struct tls *tls = allocate(sizeof *tls);
    tls->ssl = SSL_new(context);
    if (!tls->ssl) fail_tls("out of memory");
    SSL_set_connect_state(tls->ssl);
    return tls;
}

/* Makes the ClientHellos of the next `count` connections. */
void tls_prepare(long count) {
    if (!context || prepared_count >= count) return;
    prepared = realloc(prepared, (size_t)count * sizeof(struct tls *));
    if (!prepared) fail("out of memory");
    while (prepared_count < count) {
        struct tls *tls = create();
        BIO *out = BIO_new(BIO_s_mem()), *in = BIO_new(BIO_s_mem());
        if (!out || !in) fail_tls("out of memory");
        BIO_set_mem_eof_return(in, -1);
        SSL_set_bio(tls->ssl, in, out);
        int result = SSL_do_handshake(tls->ssl), bytes = BIO_read(out, tls->hello, HELLO_BYTES_MAX);
        if (SSL_get_error(tls->ssl, result) != SSL_ERROR_WANT_READ || bytes <= 0 || BIO_pending(out)) fail_tls("no ClientHello");
        tls->hello_bytes = (size_t)bytes;
        prepared[prepared_count++] = tls;
    }
}

struct tls *tls_begin(int fd) {
    struct tls *tls = prepared_count ? prepared[--prepared_count] : create();
    if (!SSL_set_fd(tls->ssl, fd)) fail_tls("out of memory");   /* in place of the BIOs that a hello was made with */
    return tls;
}

uint32_t tls_shake(struct tls *tls) {
    if (tls->hello_bytes) {
        if (send(SSL_get_fd(tls->ssl), tls->hello, tls->hello_bytes, 0) != (ssize_t)tls->hello_bytes) {
            fail("the proxy takes no ClientHello: %s", strerror(errno));
        }
        tls->hello_bytes = 0;
        return EPOLLIN;
    }
    ERR_clear_error();
    errno = 0;
    int result = SSL_do_handshake(tls->ssl);
    if (result == 1) return 0;
    switch (SSL_get_error(tls->ssl, result)) {
    case SSL_ERROR_WANT_READ: return EPOLLIN;
    case SSL_ERROR_WANT_WRITE: return EPOLLOUT;
    case SSL_ERROR_ZERO_RETURN:
    case SSL_ERROR_SYSCALL: fail("the proxy cut a TLS handshake: %s", errno ? strerror(errno) : "end of stream");
    default: fail_tls("handshake");
    }
}

/* -1 and errno as a socket would have it. */
static ssize_t without_bytes(SSL *ssl, int result) {
    switch (SSL_get_error(ssl, result)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE: errno = EAGAIN; return -1;
    case SSL_ERROR_ZERO_RETURN: return 0;
    case SSL_ERROR_SYSCALL:
        if (!errno) errno = ECONNRESET;
        return -1;
    default: fail_tls("a record");
    }
}

/* The next bytes of `parts`, of one record at most, behind the first `skip`. */
static size_t gather(const struct iovec *parts, size_t count, size_t skip, uint8_t out[RECORD_BYTES]) {
    size_t used = 0;
    for (size_t i = 0; i < count && used < RECORD_BYTES; i++) {
        if (skip >= parts[i].iov_len) {
            skip -= parts[i].iov_len;
            continue;
        }
        size_t left = parts[i].iov_len - skip, taken = left < RECORD_BYTES - used ? left : RECORD_BYTES - used;
        memcpy(out + used, (const uint8_t *)parts[i].iov_base + skip, taken);
        used += taken;
        skip = 0;
    }
    return used;
}

/* A record that the socket did not take whole counts as not sent; OpenSSL keeps it, and the same bytes must come again. */
ssize_t tls_send(struct tls *tls, const struct iovec *parts, size_t count) {
    static uint8_t plain[RECORD_BYTES];
    size_t sent = 0, bytes;
    ERR_clear_error();
    errno = 0;
    while ((bytes = gather(parts, count, sent, plain))) {
        int result = SSL_write(tls->ssl, plain, (int)bytes);
        if (result <= 0) return sent ? (ssize_t)sent : without_bytes(tls->ssl, result);
        sent += (size_t)result;
    }
    return (ssize_t)sent;
}

/* Whole records only, so that what is left is in the socket, where epoll sees it. */
ssize_t tls_receive(struct tls *tls, uint8_t *to, size_t room) {
    size_t got = 0;
    ERR_clear_error();
    errno = 0;
    do {
        int result = SSL_read(tls->ssl, to + got, (int)(room - got));
        if (result <= 0) return got ? (ssize_t)got : without_bytes(tls->ssl, result);
        got += (size_t)result;
    } while (room - got >= RECORD_BYTES);
    return (ssize_t)got;
}

void tls_finish(struct tls *tls) {
    ERR_clear_error();
    SSL_shutdown(tls->ssl);              /* close_notify */
}

void tls_free(struct tls *tls) {
    SSL_free(tls->ssl);
    free(tls);
}

#endif

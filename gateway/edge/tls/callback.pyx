# cython: language_level=3
"""The compiled build of ``callback.py``, where each call is described.

OpenSSL calls back within ``do_handshake``, where Python has released the GIL: secrets go to memory of the thread, which
takes them after each step of a handshake. Those that are of no use do not leave OpenSSL.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uintptr_t
from libc.string cimport memset, strchr, strncmp

from gateway.protocol.tls.protection cimport find

from gateway.protocol.tls.keylog import CLIENT_TRAFFIC, MASTER, SERVER_TRAFFIC

cdef extern from *:
    """
    #define MOST_SECRETS 4       /* that a step of a handshake logs, and that are of use: two */
    #define MOST_SECRET_BYTES 48
    struct secret { int label, size; unsigned char bytes[MOST_SECRET_BYTES]; };
    static _Thread_local struct secret secrets[MOST_SECRETS];
    static _Thread_local int secrets_count;
    """
    enum: MOST_SECRETS, MOST_SECRET_BYTES
    struct secret:
        int label
        int size
        unsigned char bytes[MOST_SECRET_BYTES]
    secret secrets[MOST_SECRETS]
    int secrets_count

ctypedef void (*callback_function)(const void *, const char *) noexcept nogil
ctypedef void (*set_function)(void *, callback_function) noexcept nogil
ctypedef callback_function (*get_function)(const void *) noexcept nogil

COMPILED = True
cdef tuple labels = (CLIENT_TRAFFIC, SERVER_TRAFFIC, MASTER)
cdef dict nothing = {}
cdef set_function set_callback = NULL
cdef get_function get_callback = NULL
try:
    set_callback = <set_function>find("SSL_CTX_set_keylog_callback")
    get_callback = <get_function>find("SSL_CTX_get_keylog_callback")
except ImportError:
    set_callback = NULL


cdef inline int _label_of(const char *line) noexcept nogil:
    """Its place in ``labels``; -1 for a secret that is of no use."""
    if strncmp(line, b"CLIENT_TRAFFIC_SECRET_0 ", 24) == 0:
        return 0
    if strncmp(line, b"SERVER_TRAFFIC_SECRET_0 ", 24) == 0:
        return 1
    return 2 if strncmp(line, b"CLIENT_RANDOM ", 14) == 0 else -1


cdef inline int _digit(char character) noexcept nogil:
    if c'0' <= character <= c'9':
        return character - c'0'
    return character - c'a' + 10 if c'a' <= character <= c'f' else -1


cdef void _note(const void *ssl, const char *line) noexcept nogil:
    """What OpenSSL calls. What it cannot keep makes the handshake fail: its keys do not come."""
    global secrets_count
    cdef secret *kept
    cdef int high, low, size = 0
    cdef int label = _label_of(line)
    if label < 0 or secrets_count >= MOST_SECRETS:
        return
    line = strchr(strchr(line, c' ') + 1, c' ')  # behind the label, and behind the client's random
    if line == NULL:
        return
    line += 1
    kept = &secrets[secrets_count]
    while line[0]:
        high = _digit(line[0])
        low = _digit(line[1]) if high >= 0 else -1
        if low < 0 or size >= MOST_SECRET_BYTES:
            return
        kept.bytes[size] = <unsigned char>(high << 4 | low)
        size += 1
        line += 2
    kept.label = label
    kept.size = size
    secrets_count += 1


def attach(pointer: int) -> bool:
    cdef void *context = <void *><uintptr_t>pointer
    if set_callback == NULL:
        return False
    set_callback(context, _note)
    return get_callback(context) == _note


def take():
    global secrets_count
    cdef int i
    if not secrets_count:
        return nothing
    found = {
        labels[secrets[i].label]: PyBytes_FromStringAndSize(<char *>secrets[i].bytes, secrets[i].size)
        for i in range(secrets_count)
    }
    memset(secrets, 0, sizeof(secret) * MOST_SECRETS)
    secrets_count = 0
    return found

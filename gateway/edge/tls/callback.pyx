# cython: language_level=3
"""The compiled build of ``callback.py``, where each call is described.

OpenSSL calls back within ``do_handshake``, where Python has released the GIL: lines go to memory of the thread, which
takes them after each step of a handshake. Secrets that are of no use do not leave OpenSSL.
"""

import _ssl

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uintptr_t
from libc.string cimport memcpy, memset, strlen, strncmp

cdef extern from "<dlfcn.h>" nogil:
    void *dlopen(const char *path, int flags)
    void *dlsym(void *handle, const char *name)
    int RTLD_LAZY, RTLD_NOLOAD

cdef extern from *:
    """
    #define MOST_LINES_BYTES 4096
    static _Thread_local char lines[MOST_LINES_BYTES];  /* a step of a handshake logs two of them, of 185 bytes each */
    static _Thread_local size_t lines_bytes;
    """
    enum: MOST_LINES_BYTES
    char *lines
    size_t lines_bytes

ctypedef void (*callback_function)(const void *, const char *) noexcept nogil
ctypedef void (*set_function)(void *, callback_function) noexcept nogil
ctypedef callback_function (*get_function)(const void *) noexcept nogil

COMPILED = True
cdef set_function set_callback = NULL
cdef get_function get_callback = NULL


cdef int _load() except -1:
    """Find the functions of the libssl that ``_ssl`` has loaded, if it has them."""
    global set_callback, get_callback
    cdef bytes path = getattr(_ssl, "__file__", "").encode()
    cdef void *library = dlopen(<char *>path if path else NULL, RTLD_LAZY | (RTLD_NOLOAD if path else 0))
    if library != NULL:
        set_callback = <set_function>dlsym(library, "SSL_CTX_set_keylog_callback")
        get_callback = <get_function>dlsym(library, "SSL_CTX_get_keylog_callback")
    return 0


_load()


cdef inline bint _is(const char *line, const char *label) noexcept nogil:
    return strncmp(line, label, strlen(label)) == 0


cdef void _note(const void *ssl, const char *line) noexcept nogil:
    """What OpenSSL calls."""
    global lines_bytes
    cdef size_t size
    # WANTED of keylog.py
    if not (
        _is(line, b"CLIENT_TRAFFIC_SECRET_0 ") or _is(line, b"SERVER_TRAFFIC_SECRET_0 ") or _is(line, b"CLIENT_RANDOM ")
    ):
        return
    size = strlen(line)
    if lines_bytes + size + 1 <= MOST_LINES_BYTES:  # without its keys, a handshake fails
        memcpy(lines + lines_bytes, line, size)
        lines[lines_bytes + size] = b"\n"
        lines_bytes += size + 1


def attach(pointer: int) -> bool:
    cdef void *context = <void *><uintptr_t>pointer
    if set_callback == NULL or get_callback == NULL:
        return False
    set_callback(context, _note)
    return get_callback(context) == _note


def take() -> bytes:
    global lines_bytes
    cdef size_t size = lines_bytes
    if not size:
        return b""
    found = PyBytes_FromStringAndSize(lines, size)
    memset(lines, 0, size)
    lines_bytes = 0
    return found

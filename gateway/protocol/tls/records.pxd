# cython: language_level=3
# Types of records.py in the compiled build; see "One source, two builds" in ARCHITECTURE.md.
cimport cython
from libc.stdint cimport int64_t

from gateway.protocol.tls.protection cimport Protection

cdef int64_t ACCEPTED, ALERT, ANSWER_DUE, APPLICATION_DATA, BAD_RECORD_MAC, BROKEN, BURST_BYTES, CHANGE_CIPHER_SPEC, CLIENT_HELLO
cdef int64_t CLOSED, CLOSE_NOTIFY, DECODE_ERROR, DIALLED, EMPTY_RECORDS, FATAL, FATAL_ALERT, HANDSHAKE, HANDSHAKE_HAVE, HANDSHAKE_HEAD
cdef int64_t HANDSHAKE_LEFT, HEADER_BYTES, HELLO_REQUEST, IN, IN_CLOSED, IN_SEQ, KEY_UPDATE, MAX_EMPTY_RECORDS, MAX_KEY_UPDATES
cdef int64_t MAX_MESSAGE_BYTES, MAX_PLAIN_BYTES, MAX_SEALED_TLS12, MAX_SEALED_TLS13, NEW_SESSION_TICKET, NOTHING, NO_RENEGOTIATION, OUT, OUT_CLOSED
cdef int64_t OUT_SEQ, OVERHEAD_BYTES, RECORDS_BY_KEY, RECORD_OVERFLOW, ROLE, SENT_NS, SILENCE_NS, SMALL_BURST_BYTES, SMALL_BYTES, TLS13
cdef int64_t UNEXPECTED_MESSAGE, USER_CANCELED, VERSION, WARNING


cdef class Records:
    cdef unsigned char[::1] wire
    cdef Protection protection
    cdef unsigned char[::1] _message
    cdef int64_t _key_updates
    cdef readonly Py_ssize_t used
    cdef readonly int64_t event
    cdef readonly int64_t alert

    @cython.locals(data="unsigned char[::1]", put=Py_ssize_t, is_tls13=bint, most=int64_t, kind=int64_t, size=int64_t, got=Py_ssize_t, updates=int64_t)
    cpdef Py_ssize_t open(
        self, int64_t[::1] cells, Py_ssize_t at, Py_ssize_t start, Py_ssize_t end, unsigned char[::1] sink, Py_ssize_t sink_at
    ) except -1
    cdef void _break(self, int64_t alert) noexcept
    @cython.locals(level=int64_t, description=int64_t)
    cdef void _take_alert(
        self, int64_t[::1] cells, Py_ssize_t at, const unsigned char[::1] data, Py_ssize_t start, Py_ssize_t size
    ) except *
    @cython.locals(end=Py_ssize_t, have=int64_t, left=int64_t, wanted=int64_t, taken=int64_t)
    cdef void _take_handshake(
        self, int64_t[::1] cells, Py_ssize_t at, const unsigned char[::1] data, Py_ssize_t start, Py_ssize_t size
    ) except *
    cdef bint _may_come(self, int64_t[::1] cells, Py_ssize_t at, int64_t kind, int64_t size) except -1
    @cython.locals(put=Py_ssize_t, stop=Py_ssize_t)
    cpdef Py_ssize_t seal(
        self, int64_t[::1] cells, Py_ssize_t at, const unsigned char[::1] source, Py_ssize_t start, Py_ssize_t end, int64_t now
    ) except -1
    cdef Py_ssize_t _seal(
        self, int64_t[::1] cells, Py_ssize_t at, int64_t kind, const unsigned char[::1] source, Py_ssize_t start, Py_ssize_t end,
        Py_ssize_t put,
    ) except -1
    @cython.locals(i=Py_ssize_t)
    cdef Py_ssize_t _seal_message(self, int64_t[::1] cells, Py_ssize_t at, int64_t kind, bytes message, Py_ssize_t put) except -1
    cpdef Py_ssize_t close(self, int64_t[::1] cells, Py_ssize_t at) except -1
    @cython.locals(level=int64_t)
    cpdef Py_ssize_t refuse(self, int64_t[::1] cells, Py_ssize_t at, int64_t description) except -1
    cpdef Py_ssize_t answer(self, int64_t[::1] cells, Py_ssize_t at) except -1
    cdef Py_ssize_t _update_keys(self, int64_t[::1] cells, Py_ssize_t at, Py_ssize_t put) except -1

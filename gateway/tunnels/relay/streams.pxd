# cython: language_level=3
# Types of streams.py in the compiled build; see "One source, two builds" in ARCHITECTURE.md.
cimport cython
from libc.stdint cimport int64_t

from gateway.protocol.tls.records cimport Records
from gateway.tunnels.relay.kernel cimport Kernel

cdef int64_t ANSWER_DUE, BYTES, CLOSING_NS, DEADLINE_NS, DIRTY, DISCARD, EAGAIN, EINTR, ENDED, EPOLLIN, EPOLLOUT, FD, GATE, HALF, INTEREST
cdef int64_t LAST_NS, MESSAGE_BURST_NS, MESSAGE_NS, METERED, NEVER, NEXT_MESSAGE_NS, OUT_CLOSED, PENDING, READING, REGISTERED, REMAINING, SCANNER, SHUT, SIDE_0, SIDE_CELLS, STALLED_NS, TLS, T_BYTES, WRITE_STALL_NS


cdef class Streams:
    cdef Kernel kernel
    cdef public object owner
    cdef int64_t[::1] cells
    cdef int[::1] owners
    cdef dict pending
    cdef dict halves
    cdef readonly Records records
    cdef list closing_fds
    cdef int64_t tick_ns
    cdef list wakes
    cdef bint called
    cdef readonly int64_t now

    @cython.locals(vanished=bint)
    cdef void _failed(self, int64_t row, int64_t side, int64_t error) except *
    @cython.locals(client=int64_t, backend=int64_t, done=bint)
    cdef bint _settle(self, int64_t row) except -1
    @cython.locals(client=int64_t, backend=int64_t)
    cpdef void served(self, int64_t row) except *
    cdef void _count(self, int64_t here, int64_t totals, Py_ssize_t got) except *
    cdef void _look_at(self, int64_t row, int64_t when) except *
    cpdef void wake_at(self, int64_t when, int64_t row) except *
    @cython.locals(there=int64_t)
    cdef void _send(self, int64_t row, int64_t side, Py_ssize_t end) except *
    cdef void _sent(self, int64_t row, int64_t side, Py_ssize_t sent, Py_ssize_t end, bytearray source) except *
    @cython.locals(dirty=int64_t)
    cpdef void write(self, int64_t row, int64_t side, bytes data) except *
    @cython.locals(there=int64_t, sent=Py_ssize_t, kept=bytearray)
    cdef void _write(self, int64_t row, int64_t side, bytes data) except *
    @cython.locals(there=int64_t, session=int64_t)
    cdef void _seal(self, int64_t row, int64_t side, const unsigned char[::1] data, Py_ssize_t end) except *
    @cython.locals(there=int64_t, sent=Py_ssize_t)
    cdef void _send_message(self, int64_t row, int64_t side, Py_ssize_t end) except *
    @cython.locals(there=int64_t)
    cdef void _keep(self, int64_t row, int64_t side, bytearray data) except *
    @cython.locals(there=int64_t, sent=Py_ssize_t, data=bytearray)
    cdef void _flush(self, int64_t row, int64_t side) except *
    @cython.locals(there=int64_t)
    cdef void _drop_pending(self, int64_t row, int64_t side) except *
    @cython.locals(session=int64_t)
    cdef void _drop_half(self, int64_t row, int64_t side) except *
    @cython.locals(here=int64_t, there=int64_t, events=int64_t, watched=int64_t)
    cdef void _watch(self, int64_t row, int64_t side) except *
    @cython.locals(watched=int64_t)
    cdef void _ask_anew(self, int64_t here) except *
    cdef bint _may_speak(self, int64_t row, int64_t here) noexcept
    cdef int64_t _speaks_at(self, int64_t here) noexcept
    cpdef void hang_up(self, int fd) except *
    cpdef void retire(self, int fd) except *

# cython: language_level=3
# Types of relay.py in the compiled build; see "One source, two builds" in ARCHITECTURE.md.
cimport cython
from libc.stdint cimport int64_t

from gateway.protocol.scanner cimport scan
from gateway.tunnels.relay.deadlines cimport next_deadline
from gateway.tunnels.relay.kernel cimport Kernel
from gateway.tunnels.relay.sealed cimport Sealed

cdef int64_t BACKEND_SIDE, BROKEN, BYTES, CLIENT, COMPILED, CUT, DATA_AT, DEADLINE_NS, DIRTY, EAGAIN, EINTR, ENDED, EPOLLERR, EPOLLHUP
cdef int64_t EPOLLIN, EPOLLOUT, FD, FRAMES, GATE, HELD, INTEREST, KIND, LAST_NS, LIVE, LONGEST, MASKING, MAX_WAIT_MS, MILLISECOND
cdef int64_t NEVER, NOT_READ, NO_OWNER, OPEN, OPENED_NS, PEER, PENDING, PHASE, PONG_DUE, REGISTERED, RELEASED, REST, SCANNER
cdef int64_t SECOND, SHORTEST, SIDE_0, SIDE_CELLS, STATE, STATUS, TLS, TOTALS, TOTAL_CELLS, T_BYTES, WEBSOCKET


cdef class Relay(Sealed):
    cdef public int64_t tick_ns

    @cython.locals(kernel=Kernel, i=int, count=int, fd=int, owner=int, next_owner=int, mask=int, until=int64_t)
    cpdef list poll(self, int timeout_ms)
    @cython.locals(left=int64_t)
    cdef int _wait_ms(self, int64_t until) except? -2
    cdef void _prefetch(self, int64_t row, int64_t side) noexcept
    @cython.locals(here=int64_t)
    cdef void _ready(self, int64_t row, int64_t side, int64_t mask) except *
    @cython.locals(kernel=Kernel, here=int64_t, there=int64_t, totals=int64_t, now=int64_t, rest=int64_t, sent=Py_ssize_t, dirty=int64_t)
    cdef void _relay(self, int64_t row, int64_t side, Py_ssize_t got) except *
    @cython.locals(released=Py_ssize_t)
    cdef void _read_nothing(self, int64_t row, int64_t side, Py_ssize_t got) except *
    @cython.locals(here=int64_t, stopped=int64_t)
    cdef void _pass_gate(self, int64_t row, int64_t side, Py_ssize_t got, int64_t totals) except *
    @cython.locals(here=int64_t, side=int64_t, fd=int)
    cpdef void open(
        self, int64_t row, int client_fd, int backend_fd, bytes client_pending=*, bytes backend_pending=*,
        bytes client_half=*, bytes backend_half=*
    ) except *
    cpdef void feed(self, int64_t row, int64_t side, bytes data) except *
    @cython.locals(here=int64_t, side=int64_t, fd=int, pending=bytes)
    cpdef void adopt(
        self, int64_t row, int client_fd, int backend_fd, bytes client_pending=*, bytes backend_pending=*,
        bytes client_half=*, bytes backend_half=*
    ) except *
    @cython.locals(here=int64_t, side=int64_t)
    cpdef list release(self, int64_t row)
    cpdef void flush(self, int64_t row, int64_t side) except *
    cpdef void resume(self, int64_t row) except *
    @cython.locals(here=int64_t, side=int64_t)
    cpdef void disown(self, int64_t row) except *

# cython: language_level=3
# Types of reading.py in the compiled build; see "One source, two builds" in ARCHITECTURE.md.
cimport cython
from libc.stdint cimport int64_t

from gateway.protocol.headers cimport announced
from gateway.protocol.scanner cimport scan
from gateway.tunnels.relay.kernel cimport Kernel
from gateway.tunnels.relay.metering cimport Metering

cdef int64_t BYTES, COMPILED, CUT, DATA_AT, DIRTY, EAGAIN, EINTR, ENDED, EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, FD
cdef int64_t FRAMES, FRAME_LIMIT, GATE, HELD, INTEREST, LAST_NS, LIMITED, LIVE, LONGEST, MAX_WAIT_MS, MESSAGE_NS, MILLISECOND, NEVER, NOT_READ, NO_OWNER
cdef int64_t ONE_METERED, OPEN, PARTIAL_HEADER, PENDING, PHASE, PONG_DUE, REST, SCANNER, SECOND, SHORTEST, SIDE_0, SIDE_CELLS, STATE, STATUS, TLS
cdef int64_t TOTALS, TOTAL_CELLS, T_BYTES


cdef class Reading(Metering):
    cdef int64_t upkeep_ns

    @cython.locals(kernel=Kernel, i=int, count=int, fd=int, owner=int, next_owner=int, mask=int, until=int64_t)
    cpdef list poll(self, int timeout_ms)
    cpdef void tick_at(self, int64_t when) except *
    @cython.locals(upkeep_ns=int64_t)
    cdef void _tick(self) except *
    @cython.locals(left=int64_t)
    cdef int _wait_ms(self, int64_t until) except? -2
    cdef void _prefetch(self, int64_t row, int64_t side) noexcept
    @cython.locals(here=int64_t)
    cdef void _ready(self, int64_t row, int64_t side, int64_t mask) except *
    @cython.locals(kernel=Kernel, here=int64_t, there=int64_t, totals=int64_t, now=int64_t, rest=int64_t, sent=Py_ssize_t, dirty=int64_t)
    cdef void _relay(self, int64_t row, int64_t side, Py_ssize_t got) except *
    @cython.locals(released=Py_ssize_t, limit=int64_t, size=int64_t)
    cdef void _read_nothing(self, int64_t row, int64_t side, Py_ssize_t got) except *
    @cython.locals(here=int64_t, gate=int64_t, stopped=int64_t)
    cdef void _pass_gate(self, int64_t row, int64_t side, Py_ssize_t got, int64_t totals) except *
    @cython.locals(data="unsigned char[::1]", here=int64_t, rest=int64_t)
    cdef bint _pass_limited_message(self, int64_t row, int64_t side, Py_ssize_t got, int64_t totals) except -1

# cython: language_level=3
# Types of relay.py in the compiled build; see "One source, two builds" in ARCHITECTURE.md.
cimport cython
from libc.stdint cimport int64_t

from gateway.tunnels.relay.deadlines cimport next_deadline
from gateway.tunnels.relay.reading cimport Reading

cdef int64_t BACKEND_SIDE, BROKEN, CLIENT, CUT, DEADLINE_NS, DIRTY, EPOLLIN, EXPIRES_NS, FD, FRAME_LIMIT, GATE, INTEREST, KIND, LAST_NS, LIMITED, LIVE, MASKING, MESSAGE_NS
cdef int64_t NEVER, NO_OWNER, OPENED_NS, PEER, PENDING, PHASE, REGISTERED, RELEASED, SCANNER, SECOND, SIDE_0, SIDE_CELLS, STATE
cdef int64_t STATUS, WEBSOCKET


cdef class Relay(Reading):

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

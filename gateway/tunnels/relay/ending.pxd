# cython: language_level=3
# Types of ending.py in the compiled build; see "One source, two builds" in ARCHITECTURE.md.
cimport cython
from libc.stdint cimport int64_t

from gateway.protocol.scanner cimport scan
from gateway.tunnels.relay.streams cimport Streams

cdef int64_t AT_BOUNDARY, BACKEND_SIDE, BROKEN, CAUSE, CLIENT, CLOSED, CLOSE_CODE_SENT, CLOSE_FRAME, CLOSE_NS, CLOSING
cdef int64_t CLOSING_NS, CUT, DEADLINE_NS, DIRTY, DISCARD, DRAIN, EHOSTUNREACH, ENDED, END_IDLE_NS, END_QUEUED
cdef int64_t END_QUIET_NS, END_SIDE, ENETUNREACH, ETIMEDOUT, EXPIRY_CODE, FD, FIN, FRAME_LIMIT, GATE, GATEWAY, GOING_AWAY, HEADER_LENGTH
cdef int64_t INITIATOR, INTEREST, KIND, LAST_NS, LIVE, MAX_LIFETIME, MESSAGE_NS, NEVER, NO_OWNER, ON_LOSS_CODE, OPEN, OUT_CLOSED, OWN_CLOSE_CODE, PACED_CODE, PACED_NS, PASS
cdef int64_t PENDING, PHASE, PONG_NS, RELAYING, REMAINING, RESET, SCANNER, SERVICE_RESTART, SHUT, SIDE_0, SIDE_CELLS, STATE, STATUS
cdef int64_t STOP, TLS, TOTALS, TOTAL_CELLS, TRUNCATED, T_VIOLATIONS, WEBSOCKET, WORKER_LOST, WRITE_STALL, WROTE_NS


cdef class Ending(Streams):

    @cython.locals(now=int64_t, side=int64_t, here=int64_t)
    cdef void _begin_end(self, int64_t row, int64_t initiator, int64_t cause, int64_t about) except *
    @cython.locals(here=int64_t, there=int64_t)
    cdef int64_t _quiet(self, int64_t row, int64_t side, int64_t now) except? -1
    cdef void _stream_stopped(self, int64_t row, int64_t side) except *
    cdef void _fin(self, int64_t row, int64_t side) except *
    @cython.locals(vanished=bint)
    cdef void _failed(self, int64_t row, int64_t side, int64_t error) except *
    @cython.locals(here=int64_t)
    cdef void _deaf(self, int64_t row, int64_t side) except *
    @cython.locals(stream=int64_t)
    cdef bint _note_loss(self, int64_t row) except -1
    cdef void _pace_loss_close(self, int64_t row) except *
    cdef void _send_loss_close(self, int64_t row) except *
    @cython.locals(client=int64_t, backend=int64_t, done=bint)
    cdef bint _settle(self, int64_t row) except -1
    @cython.locals(sink=int64_t)
    cdef void _pass_fin(self, int64_t row, int64_t side) except *
    cdef bint _is_whole(self, int64_t row, int64_t side) except -1
    cdef bint _is_done(self, int64_t here) except -1
    @cython.locals(here=int64_t, side=int64_t, fd=int)
    cpdef void finish(self, int64_t row) except *
    @cython.locals(session=int64_t)
    cdef void _close_records(self, int64_t row, int64_t side) except *
    cpdef void close_tunnel(self, int64_t row, int64_t code, int64_t cause, int64_t backend_code=*) except *
    cpdef void expire(self, int64_t row) except *
    cpdef void close_in_turn(self, int64_t row) except *
    @cython.locals(here=int64_t)
    cpdef void give_up(self, int64_t row, int64_t side, int64_t code, int64_t cause) except *
    @cython.locals(source=int64_t)
    cdef void _close_streams(self, int64_t row, int64_t side, int64_t code, int64_t other_code) except *
    @cython.locals(here=int64_t)
    cdef bint _has_boundaries(self, int64_t row, int64_t side) noexcept
    @cython.locals(there=int64_t, code=int64_t)
    cdef void _write_close(self, int64_t row, int64_t side) except *
    @cython.locals(here=int64_t, scanner=int64_t, gate=int64_t, start=Py_ssize_t, stopped=int64_t)
    cdef void _pass_on(self, int64_t row, int64_t side, Py_ssize_t got, int64_t totals) except *

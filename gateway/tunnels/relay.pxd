# cython: language_level=3
# Types of relay.py in the compiled build; see "One source, two builds" in ARCHITECTURE.md.
cimport cython
from libc.stdint cimport int64_t

from gateway.protocol.pings cimport own_pong, pong_size
from gateway.protocol.scanner cimport scan
from gateway.tunnels.deadlines cimport asked_at, next_deadline
from gateway.tunnels.kernel cimport Kernel

cdef int64_t EAGAIN, EHOSTUNREACH, EINTR, ENETUNREACH, ETIMEDOUT, EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT
cdef int64_t BROKEN, CLOSED, EXTENDED, HEADER_LENGTH, MASKING, MESSAGE, OPEN, REMAINING, STATUS
cdef int64_t AT_BOUNDARY, BACKEND_SIDE, BYTES, CAUSE, CLIENT, CLOSE_CODE_SENT, CLOSE_FRAME, CLOSE_NS, CLOSING, CLOSING_NS
cdef int64_t CUT, DEADLINE_NS, DIRTY, DISCARD, DRAIN, ENDED, FD, FIN, GATE, GATEWAY, INITIATOR, INTEREST, KIND, LAST_NS
cdef int64_t LIVE, NEVER, OPENED_NS, PASS, PENDING, PHASE, RELAYING, RESET, SCANNER, SHUT, SIDE_0, SIDE_CELLS
cdef int64_t ON_LOSS_CODE, PACED_CODE, PACED_NS
cdef int64_t STALLED_NS, STATE, T_BYTES, T_VIOLATIONS, TOTAL_CELLS, TOTALS, WEBSOCKET, WRITE_STALL_NS
cdef int64_t END_IDLE_NS, END_QUEUED, END_QUIET_NS, END_SIDE, HELD, HELD_HIGH, HELD_LOW, NETWORK
cdef int64_t PASS_ONE, PEER, PING_AFTER_NS, PING_TAG, PINGED_NS, PINGS_ANSWERED, PINGS_SENT, PONG_DUE, PONG_NS, PONG_TIMEOUT_NS
cdef int64_t RTT_NS, SECOND, SILENCE_NS, STOP, T_GAPS, T_GAPS_SUM_NS, T_PINGS, T_PONGS, T_RTT_SUM_NS, T_RTTS
cdef int64_t GOING_AWAY, WRITE_STALL, WROTE_NS
cdef int64_t RELEASED
cdef int64_t REGISTERED, NO_OWNER, NOT_READ, BUSY, TURN


cdef class Relay:
    cdef Kernel kernel
    cdef int64_t[::1] cells
    cdef int[::1] owners
    cdef dict pending
    cdef list closing_fds
    cdef object on_end
    cdef object on_answer
    cdef object on_loss
    cdef readonly int64_t now

    @cython.locals(kernel=Kernel, i=int, count=int, fd=int, owner=int, mask=int, served=int, can_wait=bint)
    cpdef list poll(self, int timeout_ms)
    @cython.locals(here=int64_t)
    cdef void _ready(self, int64_t row, int64_t side, int64_t mask) except *
    cpdef void served(self, int64_t row) except *
    @cython.locals(here=int64_t, there=int64_t, totals=int64_t, now=int64_t, sent=Py_ssize_t)
    cdef void _relay(self, int64_t row, int64_t side, Py_ssize_t got) except *
    @cython.locals(released=Py_ssize_t)
    cdef void _read_nothing(self, int64_t row, int64_t side, Py_ssize_t got) except *
    @cython.locals(there=int64_t)
    cdef void _send(self, int64_t row, int64_t side, Py_ssize_t end) except *
    cdef void _sent(self, int64_t row, int64_t side, Py_ssize_t sent, Py_ssize_t end) except *
    @cython.locals(there=int64_t)
    cdef void _keep(self, int64_t row, int64_t side, bytearray data) except *
    @cython.locals(there=int64_t, sent=Py_ssize_t, data=bytearray)
    cdef void _flush(self, int64_t row, int64_t side) except *
    @cython.locals(there=int64_t)
    cdef void _drop_pending(self, int64_t row, int64_t side) except *
    @cython.locals(here=int64_t, there=int64_t, events=int64_t)
    cdef void _watch(self, int64_t row, int64_t side) except *
    @cython.locals(now=int64_t, side=int64_t, here=int64_t)
    cdef void _begin_end(self, int64_t row, int64_t initiator, int64_t cause, int64_t about) except *
    cdef void _look_at(self, int64_t row, int64_t when) except *
    cdef void _stream_stopped(self, int64_t row, int64_t side) except *
    cdef void _fin(self, int64_t row, int64_t side) except *
    @cython.locals(vanished=bint)
    cdef void _failed(self, int64_t row, int64_t side, int64_t error) except *
    @cython.locals(here=int64_t)
    cdef void _deaf(self, int64_t row, int64_t side) except *
    @cython.locals(stream=int64_t)
    cdef bint _note_loss(self, int64_t row) except -1
    cdef void _tell_in_turn(self, int64_t row) except *
    @cython.locals(client=int64_t, backend=int64_t, done=bint)
    cdef bint _settle(self, int64_t row) except -1
    cdef void _pass_fin(self, int64_t source, int64_t sink) except *
    cdef bint _said_goodbye(self, int64_t here) except -1
    @cython.locals(here=int64_t, side=int64_t, fd=int)
    cpdef void finish(self, int64_t row) except *
    cpdef void close_tunnel(self, int64_t row, int64_t code, int64_t cause) except *
    cpdef void close_in_turn(self, int64_t row) except *
    cdef void _tell_of_loss(self, int64_t row) except *
    @cython.locals(here=int64_t)
    cpdef void give_up(self, int64_t row, int64_t side, int64_t code, int64_t cause) except *
    @cython.locals(side=int64_t, source=int64_t)
    cdef void _close_streams(self, int64_t row, int64_t code) except *
    cdef void _write_close(self, int64_t row, int64_t side) except *
    @cython.locals(here=int64_t, stopped=int64_t)
    cdef void _pass_gate(self, int64_t row, int64_t side, Py_ssize_t got, int64_t totals) except *
    @cython.locals(here=int64_t, scanner=int64_t, gate=int64_t, start=Py_ssize_t, stopped=int64_t)
    cdef void _pass_on(self, int64_t row, int64_t side, Py_ssize_t got, int64_t totals) except *
    cdef void _count(self, int64_t here, int64_t totals, Py_ssize_t got) except *
    @cython.locals(
        here=int64_t, there=int64_t, toward=int64_t, now=int64_t, asked=int64_t, quiet=int64_t, number=int64_t, mask=int64_t
    )
    cpdef bint ping(self, int64_t row, int64_t side) except -1
    @cython.locals(here=int64_t, scanner=int64_t, masked=bint, now=int64_t, pos=Py_ssize_t, number=int64_t, size=Py_ssize_t)
    cdef Py_ssize_t _take_pongs(self, int64_t row, int64_t side, Py_ssize_t got, int64_t totals) except -1
    @cython.locals(here=int64_t, now=int64_t, rtt=int64_t)
    cdef void _answered(self, int64_t row, int64_t side, int64_t number, int64_t totals) except *
    cdef void _hold(self, int64_t here, Py_ssize_t start, Py_ssize_t end) except *
    @cython.locals(size=Py_ssize_t)
    cdef Py_ssize_t _unhold(self, int64_t here, Py_ssize_t got) except -1
    @cython.locals(
        here=int64_t, there=int64_t, now=int64_t, quiet=int64_t, gap=int64_t, totals=int64_t, silence=int64_t
    )
    cdef void _end_silence(self, int64_t row, int64_t side, bint passed) except *
    @cython.locals(here=int64_t, there=int64_t)
    cdef int64_t _quiet(self, int64_t row, int64_t side, int64_t now) except? -1
    @cython.locals(here=int64_t, side=int64_t, fd=int)
    cpdef void open(self, int64_t row, int client_fd, int backend_fd) except *
    @cython.locals(here=int64_t, side=int64_t, fd=int, pending=bytes)
    cpdef void adopt(
        self, int64_t row, int client_fd, int backend_fd, bytes client_pending=*, bytes backend_pending=*
    ) except *
    @cython.locals(here=int64_t, side=int64_t)
    cpdef list release(self, int64_t row)
    cpdef void flush(self, int64_t row, int64_t side) except *
    cpdef void resume(self, int64_t row) except *
    @cython.locals(here=int64_t, side=int64_t)
    cpdef void disown(self, int64_t row) except *
    @cython.locals(dirty=int64_t)
    cpdef void write(self, int64_t row, int64_t side, bytes data) except *
    @cython.locals(there=int64_t, sent=Py_ssize_t, kept=bytearray)
    cdef void _write(self, int64_t row, int64_t side, bytes data) except *
    cpdef void feed(self, int64_t row, int64_t side, bytes data) except *
    cpdef void hang_up(self, int fd) except *
    cpdef void retire(self, int fd) except *

# cython: language_level=3
# Types of pinging.py in the compiled build; see "One source, two builds" in ARCHITECTURE.md.
cimport cython
from libc.stdint cimport int64_t

from gateway.protocol.headers cimport announced
from gateway.protocol.pings cimport own_pong, pong_size
from gateway.protocol.scanner cimport scan
from gateway.tunnels.relay.deadlines cimport asked_at, next_deadline
from gateway.tunnels.relay.limiting cimport Limiting

cdef int64_t BACKEND_SIDE, BROKEN, BROKE_PROTOCOL, CLIENT, CLOSED, CLOSING_NS, DEADLINE_NS, DIRTY, EXTENDED, FRAME_LIMIT, GATE, HEADER_LENGTH, HELD
cdef int64_t HELD_HIGH, HELD_LOW, LAST_NS, LIMITED, LIVE, MESSAGE, MESSAGE_NS, NETWORK, NOT_OURS, OPCODE_BITS, OPEN, PARTIAL, PARTIAL_HEADER, PASS, PASS_ONE, PENDING
cdef int64_t PINGED_NS, PINGS_ANSWERED, PINGS_SENT, PING_AFTER_NS, PING_TAG, PONG_DUE, PONG_NS, PONG_TIMEOUT_NS
cdef int64_t REMAINING, RTT_NS, SCANNER, SECOND, SIDE_0, SIDE_CELLS, SILENCE_NS, STATE, STATUS, STOP, TALKS, TOO_LARGE, TOTALS
cdef int64_t TOTAL_CELLS, T_GAPS, T_GAPS_SUM_NS, T_PINGS, T_PONGS, T_RTTS, T_RTT_SUM_NS, WROTE_NS


cdef class Pinging(Limiting):

    @cython.locals(
        here=int64_t, there=int64_t, toward=int64_t, now=int64_t, asked=int64_t, quiet=int64_t, number=int64_t, mask=int64_t
    )
    cpdef bint ping(self, int64_t row, int64_t side) except -1
    @cython.locals(
        here=int64_t, scanner=int64_t, masked=bint, limit=int64_t, now=int64_t, pos=Py_ssize_t, messages=int64_t,
        number=int64_t, size=int64_t
    )
    cdef Py_ssize_t _sift(self, int64_t row, int64_t side, Py_ssize_t got, int64_t totals) except -1
    @cython.locals(here=int64_t, now=int64_t, rtt=int64_t)
    cdef void _answered(self, int64_t row, int64_t side, int64_t number, int64_t totals) except *
    cdef void _hold(self, int64_t here, Py_ssize_t start, Py_ssize_t end) except *
    @cython.locals(size=Py_ssize_t)
    cdef Py_ssize_t _unhold(self, int64_t here, Py_ssize_t got) except -1
    @cython.locals(
        here=int64_t, there=int64_t, now=int64_t, quiet=int64_t, gap=int64_t, totals=int64_t, silence=int64_t, talks=bint
    )
    cdef void _end_silence(self, int64_t row, int64_t side, bint passed) except *

# cython: language_level=3
# Types of limiting.py in the compiled build; see "One source, two builds" in ARCHITECTURE.md.
cimport cython
from libc.stdint cimport int64_t

from gateway.protocol.scanner cimport scan
from gateway.tunnels.relay.failing cimport Failing

cdef int64_t BROKE_PROTOCOL, CLIENT, CLOSING_NS, CUT, ENDED, EXPIRES_NS, GATEWAY, GOING_AWAY, LATEST_NS, LIMIT, LIVE, MESSAGE_BURST_NS
cdef int64_t MESSAGE_NS, NEXT_MESSAGE_NS, OPEN, PENDING, PHASE, PROTOCOL_ERROR, SCANNER, SECOND, SERVICE_RESTART, SIDE_0
cdef int64_t SIDE_CELLS, STATE, STATUS


cdef class Limiting(Failing):
    cdef int64_t refusal
    cdef int64_t left
    cdef int64_t woken

    @cython.locals(here=int64_t, end=Py_ssize_t)
    cdef void _refuse(self, int64_t row, int64_t side, Py_ssize_t start, int64_t totals) except *
    cdef int64_t _allowed(self, int64_t here) noexcept
    cdef int64_t _paid_until(self, int64_t here) noexcept
    @cython.locals(here=int64_t)
    cdef void _charge(self, int64_t row, int64_t side, int64_t messages) except *
    cdef void _wait_to_speak(self, int64_t row) except *
    @cython.locals(wakes=list, row=int64_t)
    cdef void _wake_rows(self) except *
    cdef void _wake(self, int64_t row) except *
    @cython.locals(client=int64_t)
    cdef bint _is_readable(self, int64_t row) noexcept
    cdef void _read_metered(self, int64_t row, int64_t side) except *

# cython: language_level=3
# Types of sealed.py in the compiled build; see "One source, two builds" in ARCHITECTURE.md.
cimport cython
from libc.stdint cimport int64_t

from gateway.tunnels.relay.kernel cimport Kernel
from gateway.tunnels.relay.pinging cimport Pinging

cdef int64_t ANSWER_DUE, CLIENT, CLOSED, CLOSE_NOTIFY, COMPILED, CUT, DIRTY, ECONNRESET, ENDED, FATAL_ALERT, FD, GOING_AWAY, HALF, HEADER_BYTES
cdef int64_t IN_CLOSED, KIND, LINE_CELLS, LIVE, ON_LOSS_CODE, PENDING, PHASE, PONG_NS, PROTOCOL_ERROR, SCANNER, SIDE_0
cdef int64_t SIDE_CELLS, STATE, STATUS, TLS, TRUNCATED, WEBSOCKET


cdef class Sealed(Pinging):
    cdef void _relay(self, int64_t row, int64_t side, Py_ssize_t got) except *
    cdef void _read_nothing(self, int64_t row, int64_t side, Py_ssize_t got) except *
    @cython.locals(
        kernel=Kernel, here=int64_t, session=int64_t, half=Py_ssize_t, got=Py_ssize_t, end=Py_ssize_t, put=Py_ssize_t,
        event=int64_t, alert=int64_t, left=Py_ssize_t
    )
    cdef void _read_records(self, int64_t row, int64_t side, Py_ssize_t most) except *
    @cython.locals(half=bytearray, size=Py_ssize_t)
    cpdef void complete_record(self, int64_t row, int64_t side) except *
    cpdef void end_records(self, int64_t row, int64_t side) except *
    @cython.locals(here=int64_t, code=int64_t)
    cdef void _end_records(self, int64_t row, int64_t side, int64_t event, int64_t alert) except *
    @cython.locals(here=int64_t)
    cdef void _note_truncation(self, int64_t row, int64_t side) except *
    @cython.locals(session=int64_t)
    cdef void _hold_half(self, int64_t row, int64_t side, bytes data) except *

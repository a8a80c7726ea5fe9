# cython: language_level=3
# Types of attribution.py in the compiled build; see "One source, two builds" in ARCHITECTURE.md.
cimport cython
from libc.stdint cimport int64_t

cdef int64_t BACKEND_SIDE, CAUSE, CLIENT, CLOSE_FRAME, CLOSED, CLOSING_NS, END_IDLE_NS, END_QUEUED, END_QUIET_NS, END_SIDE, FIN
cdef int64_t INITIATOR, LAST_NS, PING_TIMEOUT, PONG_NS, RESET, SCANNER, SECOND, SIDE_0, SIDE_CELLS, SILENCE_NS
cdef int64_t STATUS, WRITE_STALL


cdef class Side:
    cdef readonly bint closed
    cdef readonly int64_t idle_ns, quiet_ns, unanswered_ns, queued_bytes


cdef class Attribution:
    cdef readonly int64_t initiator, cause, cut, silence_ns, last_from
    cdef readonly bint exact
    cdef readonly tuple sides


@cython.locals(client=Side, backend=Side, side=Side, cut=int64_t, silence=int64_t, exact=bint, last=int64_t)
cpdef Attribution attribute(int64_t initiator, int64_t cause, int64_t about, tuple sides)
@cython.locals(here=int64_t, closed=bint, idle=int64_t, quiet=int64_t)
cpdef Side observed(const int64_t[::1] cells, int64_t side, int64_t now)
cpdef Attribution attribute_row(const int64_t[::1] cells, int64_t now)

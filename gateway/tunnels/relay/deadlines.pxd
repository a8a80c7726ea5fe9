# cython: language_level=3
# Types of deadlines.py in the compiled build; see "One source, two builds" in ARCHITECTURE.md.
cimport cython
from libc.stdint cimport int64_t

cdef int64_t BROKEN, DATA_AT, OPEN, PING_AT, STATUS
cdef int64_t CLOSE_NS, CLOSING_NS, DEADLINE_NS, DISCARD, EXPIRES_NS, GATE, IDLE_NS, KIND, LAST_NS, LIFETIME_NS, MESSAGE_BURST_NS, MESSAGE_NS, NEVER, NEXT_MESSAGE_NS, OPAQUE, OPENED_NS
cdef int64_t PACED_NS, PING_AFTER_NS, PINGED_NS, PONG_NS, PONG_TIMEOUT_NS, ROW_CELLS, SCANNER, SIDE_0, SIDE_CELLS, STALLED_NS, STEP_NS, WRITE_STALL_NS


@cython.locals(stalled=int64_t)
cpdef int64_t next_deadline(int64_t[::1] cells, int64_t row) except -1
@cython.locals(since=int64_t, client=int64_t, backend=int64_t, moved=int64_t)
cpdef int64_t closed_by(int64_t[::1] cells, int64_t row) except -1
cdef int64_t _moved_at(int64_t[::1] cells, int64_t source, int64_t sink) except -1
cpdef int64_t paced_until(int64_t[::1] cells, int64_t row) except -1
@cython.locals(since=int64_t)
cpdef int64_t stalled_until(int64_t[::1] cells, int64_t row, int64_t side) except -1
@cython.locals(client=int64_t, backend=int64_t)
cpdef int64_t idle_until(int64_t[::1] cells, int64_t row) except -1
@cython.locals(speaks=int64_t)
cdef int64_t _used_at(int64_t[::1] cells, int64_t here) except -1
cpdef int64_t lives_until(int64_t[::1] cells, int64_t row) except -1
@cython.locals(here=int64_t)
cpdef int64_t heard_at(int64_t[::1] cells, int64_t row, int64_t side) except -1
@cython.locals(here=int64_t, there=int64_t, heard=int64_t, asked=int64_t, due=int64_t)
cpdef int64_t keepalive_due(int64_t[::1] cells, int64_t row, int64_t side) except -1
@cython.locals(heard=int64_t)
cpdef bint awaits_answer(int64_t[::1] cells, int64_t row, int64_t side) except -1
cpdef int64_t asked_at(int64_t[::1] cells, int64_t row, int64_t side) except -1
@cython.locals(row=int64_t)
cpdef list due_rows(int64_t[::1] cells, int64_t first, int64_t rows, int64_t now)
@cython.locals(steps=Py_ssize_t, row=int64_t, ahead=int64_t, step=Py_ssize_t)
cpdef Py_ssize_t demand(
    int64_t[::1] cells, int64_t first, int64_t rows, int64_t now, int64_t[::1] counts, Py_ssize_t used
) except -1

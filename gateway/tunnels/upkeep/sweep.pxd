# cython: language_level=3
# Types of sweep.py in the compiled build; see "One source, two builds" in ARCHITECTURE.md.
cimport cython
from libc.stdint cimport int64_t

from gateway.tunnels.relay.deadlines cimport awaits_answer, closed_by, demand, due_rows, idle_until, keepalive_due
from gateway.tunnels.relay.deadlines cimport lives_until, next_deadline, paced_until, stalled_until
from gateway.tunnels.relay.relay cimport Relay

cdef int64_t BACKEND_SIDE, CLIENT, CLOSING_NS, DEADLINE_NS, DIRTY, EXPIRES_NS, FD, GOING_AWAY, ID, IDLE, LIVE, MAX_LIFETIME
cdef int64_t ON_LOSS_CODE, PING_AFTER_NS, PING_TIMEOUT, PINGED_NS, PONG_TIMEOUT_NS, SECOND, SERVICE_RESTART, SIDE_0
cdef int64_t SIDE_CELLS, STATE, STEP_NS, STEPS, T_TIMEOUTS, TOTAL_CELLS, TOTALS, W_HEARTBEAT_NS, WRITE_STALL, WROTE_NS
cdef int64_t CORRECTIONS, EARLIEST, HABIT, SPREAD_FROM, TALKS


cdef class Sweep:
    cdef object _slice
    cdef Relay _relay
    cdef int64_t[::1] _cells
    cdef list _plan
    cdef Py_ssize_t _next
    cdef int64_t _planned_ns
    cdef double _carried
    cdef int64_t[::1] _counts
    cdef Py_ssize_t _steps

    @cython.locals(until=int64_t, most=int64_t, row=int64_t, rows=list, plan=list, carried=double)
    cpdef bint walk(self, int64_t now) except *
    @cython.locals(row=int64_t, deadline=int64_t, found=bint)
    cdef bint _correct(self, int64_t until) except *
    @cython.locals(total=int64_t, now_due=int64_t, rate=double, step=Py_ssize_t, most=int64_t, until=int64_t, left=int64_t)
    cdef tuple _horizon(self, int64_t now)
    @cython.locals(side=int64_t, due=int64_t)
    cdef void _look_at(self, int64_t row, int64_t now, int64_t until, list plan) except *
    @cython.locals(here=int64_t, interval=int64_t, early=bint)
    cdef void _keep_alive(self, int64_t row, int64_t side, int64_t due, int64_t now, list plan) except *
    @cython.locals(left=Py_ssize_t, at=Py_ssize_t)
    cpdef bint tick(self, int64_t now) except *
    @cython.locals(due=int64_t, row=int64_t, side=int64_t)
    cdef void _send(self, Py_ssize_t end, int64_t now) except *
    @cython.locals(deferred=bint, sent=bint, deadline=int64_t)
    cdef void _ping(self, int64_t row, int64_t side, int64_t due, int64_t now) except *

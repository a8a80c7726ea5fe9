# cython: language_level=3
# Types of failing.py in the compiled build; see "One source, two builds" in ARCHITECTURE.md.
cimport cython
from libc.stdint cimport int64_t

from gateway.tunnels.relay.ending cimport Ending

cdef int64_t CUT, DEADLINE_NS, DIRTY, FD, GATEWAY, ID, INTEREST, LIVE, NEVER, NO_OWNER, PENDING, PHASE, QUIET_NS
cdef int64_t RESERVED, SECOND, SIDE_0, SIDE_CELLS, STATE, T_FAULTS, TOTALS, WORKER_LOST


cdef class Failing(Ending):
    cdef int64_t quiet_until
    cdef int64_t unlogged

    @cython.locals(totals=int64_t)
    cpdef void fail(self, int64_t row, str doing, object error) except *
    cdef void _log_failure(self, int64_t tunnel, str doing, object error) except *
    @cython.locals(here=int64_t, side=int64_t, fd=int64_t)
    cdef void _check_ownership(self, int64_t row) except *
    @cython.locals(here=int64_t, side=int64_t, fd=int64_t)
    cdef void _cut_loose(self, int64_t row) except *

# cython: language_level=3
# Types of splicing.py in the compiled build; see "One source, two builds" in ARCHITECTURE.md.
cimport cython
from libc.stdint cimport int64_t

from gateway.tunnels.table.slice cimport Slice

cdef int64_t BACKEND, CLIENT, EXPIRES_NS, EXPIRY_CODE, HASH_KEY, KIND, MAX_USER_TIMEOUT_MS, NEVER, ON_LOSS_CODE
cdef int64_t OPENED_UNIX_NS, STALL_SLACK_MS, TEXT_CELL


@cython.locals(milliseconds=int64_t)
cpdef void give_up_unacknowledged(object kernel, int64_t stall_ns, int client_fd, int backend_fd) except *


cdef class Prepared:
    cdef object route
    cdef int64_t[::1] cells
    cdef tuple adaptive


cdef class Rows:
    cdef Slice _slice
    cdef object _intervals
    cdef dict _prepared

    @cython.locals(
        cells=int64_t[::1], is_websocket=bint, prepared=Prepared, side=int64_t, client=str, host=str, path=str,
        request_id=str
    )
    cpdef void fill(
        self, int64_t row, object request, bytes subprotocol, int64_t now_ns, int64_t expires_ns=*,
        int64_t expiry_code=*, int64_t hash_key=*
    ) except *
    cdef Prepared _prepare(self, object route, bint is_websocket)

# cython: language_level=3
# Types of slice.py in the compiled build; see "One source, two builds" in ARCHITECTURE.md.
cimport cython
from libc.stdint cimport int64_t

from gateway.tunnels.table.texts cimport packed

cdef int64_t B_CONNECT_NS, B_IDLE, B_LIVE, B_REQUESTS, BACKEND, BACKEND_CELLS, CELL_BYTES, COUNTED, DEADLINE_NS, DIRTY, FREE
cdef int64_t ID, LONG_TEXTS, MAX_BACKENDS, MAX_ROUTES, NEVER, RELEASED, ROUTE, ROUTE_CELLS, ROW_CELLS, SESSION_CELLS, SIDE_0
cdef int64_t SIDE_CELLS, STATE, T_REQUESTS, TEXT_BYTES, TEXT_CELL, TLS, TOTALS, W_HIGH_ROWS, W_LAST_ID


cdef class Slice:
    cdef object __weakref__
    cdef readonly object table
    cdef readonly int64_t slot
    cdef readonly object cells
    cdef int64_t[::1] own
    cdef int64_t[::1] _reserved_row
    cdef int64_t[::1] _empty_row
    cdef readonly int64_t block
    cdef readonly int64_t first
    cdef public object counts
    cdef int64_t _rows_per_worker
    cdef int64_t _backends_at
    cdef int64_t _routes_at
    cdef list _free
    cdef dict _taken

    @cython.locals(cells=int64_t[::1], row=int64_t, used=int64_t, serial=int64_t)
    cpdef object allocate(self, int64_t route, int64_t backend)
    @cython.locals(at=int64_t)
    cdef void _check_sessions(self, int64_t row) except *
    cpdef void forget_taken(self) except *
    cdef bint _is_released(self, int64_t row, int64_t tunnel) except -1
    cpdef void use_backend(self, int64_t row, int64_t backend) except *
    cpdef void release(self, int64_t row) except *
    cdef void _free_row(self, int64_t row) except *
    cpdef void begin_request(self, int64_t route, int64_t backend) except *
    cpdef void move_request(self, int64_t backend, int64_t other) except *
    cpdef void end_request(self, int64_t route, int64_t backend) except *
    cpdef void idle_connections(self, int64_t backend, int64_t delta) except *
    cpdef void note_connect(self, int64_t backend, bint ok, int64_t now) except *
    @cython.locals(texts=bytes, at=int64_t)
    cpdef void write_texts(
        self, int64_t row, bytes client=*, bytes host=*, bytes path=*, bytes subprotocol=*, bytes request_id=*
    ) except *
    @cython.locals(cells=int64_t[::1])
    cdef void _empty(self, int64_t row) except *
    cdef void _occupy(self, int64_t row, int64_t backend) except *
    @cython.locals(backend=int64_t)
    cdef void _vacate(self, int64_t row) except *

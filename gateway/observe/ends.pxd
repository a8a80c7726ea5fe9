# cython: language_level=3
# Types of ends.py in the compiled build; see "One source, two builds" in ARCHITECTURE.md.
cimport cython
from libc.stdint cimport int64_t

from gateway.observe.batch cimport Batch
from gateway.tunnels.upkeep.attribution cimport Attribution, Side, attribute_row

cdef int64_t BACKEND, BACKEND_SIDE, BYTES, CLIENT, CLOSE_CODE, CLOSE_CODE_SENT, CLOSED, FRAMES, ID, KIND, LIMIT, NEITHER
cdef int64_t OPENED_NS, ROUTE, SCANNER, SIDE_0, SIDE_CELLS, STATUS, TRUNCATED, WEBSOCKET


cdef class Ends:
    cdef object _table, _registry, _events
    cdef Batch _batch
    cdef dict _known

    cpdef object remember(self, int64_t row)
    @cython.locals(
        cells="const int64_t[::1]", end=Attribution, batch=Batch, client_code=int64_t, backend_code=int64_t
    )
    cpdef object report(self, object ended, object log)
    @cython.locals(scanner=int64_t)
    cdef int64_t _close_code(self, const int64_t[::1] cells, int64_t side) except? -1
    @cython.locals(of_client=Side, of_backend=Side, last=Side)
    cdef tuple _values(
        self, object ended, const int64_t[::1] cells, object route, Attribution end, object seconds, int64_t client_code,
        int64_t backend_code
    )
